"""Images in an .npz: rows in order, objects and damage refused."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest

from minoritybench.data.source import SourceSpec, open_source
from minoritybench.errors import BadInputError


def images(count: int = 5, size: int = 6) -> np.ndarray:  # type: ignore[type-arg]
    return np.random.default_rng(0).integers(0, 256, (count, size, size + 1, 3), dtype=np.uint8)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_rows_are_read_in_place_and_in_any_order(save: object, tmp_path: Path) -> None:
    path = tmp_path / "samples.npz"
    save(path, images(), np.arange(5))  # type: ignore[operator]  # ADM's files hold labels in arr_1
    source = open_source(SourceSpec("npz", str(path), None, 4))
    assert list(source.ids) == ["000000", "000001", "000002", "000003"]
    for row in (2, 0, 3, 3, 1):
        assert (source.load(row).pixels == images()[row]).all()
    assert list(tmp_path.iterdir()) == [path]


def test_another_content_has_another_fingerprint(tmp_path: Path) -> None:
    prints = []
    for name, data in (("a", images()), ("b", images()), ("c", 255 - images())):
        np.savez(tmp_path / f"{name}.npz", data)
        prints.append(open_source(SourceSpec("npz", str(tmp_path / f"{name}.npz"))).fingerprint())
    assert prints[0] == prints[1] != prints[2]


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (np.array([{"a": 1}], dtype=object), "never unpickled"),
        (images().astype(np.float32), r"float32 \(5, 6, 7, 3\)"),
        (images()[..., 0], r"uint8 \(5, 6, 7\)"),
        (np.asfortranarray(images()), "Fortran order"),
        (images()[:0], r"\(0, 6, 7, 3\)"),
    ],
)
def test_anything_but_uint8_pictures_is_refused(array: object, said: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "samples.npz", array)
    with pytest.raises(BadInputError, match=said) as raised:
        open_source(SourceSpec("npz", str(tmp_path / "samples.npz")))
    assert len(str(raised.value).splitlines()) == 1


def test_damage_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "samples.npz"
    np.savez(path, images())
    whole = path.read_bytes()
    member = io.BytesIO()
    np.lib.format.write_array_header_1_0(member, {"descr": "|u1", "fortran_order": False, "shape": (9, 6, 7, 3)})
    for data in (b"", b"no zip", whole[:-30], whole[:40]):
        path.write_bytes(data)
        with pytest.raises(BadInputError):
            open_source(SourceSpec("npz", str(path)))
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("arr_0.npy", member.getvalue())
    with pytest.raises(BadInputError, match="cut or padded"):
        open_source(SourceSpec("npz", str(path)))
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("labels.npy", b"")
    with pytest.raises(BadInputError, match=r"holds labels\.npy"):
        open_source(SourceSpec("npz", str(path)))
