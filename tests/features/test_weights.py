"""Weight files of extractors: absent ones are told in full, foreign ones refused before anything in them is read."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from minoritybench.errors import BadInputError, MissingAssetError
from minoritybench.features import load_extractor, weights


@pytest.fixture(autouse=True)
def _nothing_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("MINORITYBENCH_CACHE", "TORCH_HOME", "HF_HOME"):
        monkeypatch.setenv(variable, str(tmp_path / variable))
    monkeypatch.setattr(weights.tempfile, "gettempdir", lambda: str(tmp_path))


def placed(name: str, data: bytes, tmp_path: Path) -> Path:
    path = tmp_path / "MINORITYBENCH_CACHE" / "extractors" / name / weights.PUBLISHED[name].file
    path.parent.mkdir(parents=True)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("name", sorted(weights.PUBLISHED))
def test_absent_weights_name_file_size_source_and_place(name: str, tmp_path: Path) -> None:
    known = weights.PUBLISHED[name]
    with pytest.raises(MissingAssetError) as raised:
        load_extractor(name)
    assert raised.value.exit_code == 4
    said = str(raised.value)
    place = tmp_path / "MINORITYBENCH_CACHE" / "extractors" / name / known.file
    assert all(part in said for part in (name, known.file, known.size, known.url, str(place)))
    assert len(said.splitlines()) == 1


class _Trap:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("name", sorted(weights.PUBLISHED))
def test_a_pickle_under_a_published_name_is_refused_unread(name: str, tmp_path: Path) -> None:
    trap = tmp_path / "sprung"
    placed(name, pickle.dumps(_Trap(trap)), tmp_path)
    with pytest.raises(BadInputError, match="is not the published file") as raised:
        load_extractor(name)
    assert len(str(raised.value).splitlines()) == 1
    assert not trap.exists()


def test_a_pickle_is_not_executed_even_if_its_digest_is_not_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trap = tmp_path / "sprung"
    path = tmp_path / "file.pth"
    torch.save({"weight": _Trap(trap)}, path)
    with torch.device("meta"):
        module = torch.nn.Linear(2, 2)
    with pytest.raises(BadInputError, match="cannot be read as weights"):
        weights.load_into(module, path, "it")
    assert not trap.exists()


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_truncated_file_is_one_line(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"file{suffix}"
    state = torch.nn.Linear(40, 40).state_dict()
    if suffix == ".pth":
        torch.save(state, path)
    else:
        save_file(state, path)
    path.write_bytes(path.read_bytes()[:-900])
    with torch.device("meta"):
        module = torch.nn.Linear(40, 40)
    with pytest.raises(BadInputError, match="cannot be read as weights") as raised:
        weights.load_into(module, path, "it")
    assert len(str(raised.value).splitlines()) == 1


def test_a_file_of_another_network_is_told_by_its_keys(tmp_path: Path) -> None:
    path = tmp_path / "file.pth"
    torch.save({"weight": torch.zeros(2, 3), "more": torch.zeros(1)}, path)
    with torch.device("meta"):
        module = torch.nn.Linear(2, 2)
    with pytest.raises(BadInputError, match=r"lacks bias; has unknown more; has other shapes at weight \(2, 3\)"):
        weights.load_into(module, path, "it")
