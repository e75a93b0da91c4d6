"""State dicts of ADM networks: what loads, what is refused and how it is told."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from toy_adm import SMALL, SMALL_CLASSIFIER, awake, awake_classifier

from minoritybench.assets import CACHE_VARIABLE
from minoritybench.diffusion.adm.model import load_adm, load_classifier
from minoritybench.diffusion.adm.presets import CLASSIFIERS, UNETS, UPSAMPLER, locate
from minoritybench.diffusion.adm.weights import load_network, save_network, skeleton
from minoritybench.errors import BadInputError, MissingAssetError
from minoritybench.store import sha256_file


def _output(network: object) -> Tensor:
    x = torch.linspace(-1, 1, 2 * 3 * 16 * 16).view(2, 3, 16, 16)
    return network(x, torch.tensor([3, 700]))  # type: ignore[operator]


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("stored", [torch.float32, torch.float16])
def test_published_kinds_of_files_load_frozen_in_float32(suffix: str, stored: torch.dtype, tmp_path: Path) -> None:
    network = awake(SMALL)
    state = {key: value.to(stored) for key, value in network.state_dict().items()}
    path = tmp_path / f"weights{suffix}"
    if suffix == ".pt":
        torch.save(state, path)
    else:
        save_file(state, path)
    loaded, digest = load_network(SMALL, path, "toy")
    assert digest == sha256_file(path)
    assert {value.dtype for value in loaded.state_dict().values()} == {torch.float32}
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    if stored == torch.float32:
        torch.testing.assert_close(_output(loaded), _output(network), rtol=0, atol=0)


def test_networks_written_by_one_process_load_in_another(tmp_path: Path) -> None:
    unet, classifier = awake(SMALL), awake_classifier(SMALL_CLASSIFIER)
    digest = save_network(unet, tmp_path / "unet.safetensors")
    save_network(classifier, tmp_path / "classifier.safetensors")
    code = (
        "import sys, torch\n"
        "from pathlib import Path\n"
        "from toy_adm import SMALL, SMALL_CLASSIFIER\n"
        "from minoritybench.diffusion.adm.weights import load_network\n"
        "torch.set_num_threads(1)\n"
        "folder = Path(sys.argv[1])\n"
        "x = torch.linspace(-1, 1, 2 * 3 * 16 * 16).view(2, 3, 16, 16)\n"
        "for name, config in (('unet', SMALL), ('classifier', SMALL_CLASSIFIER)):\n"
        "    network, digest = load_network(config, folder / f'{name}.safetensors', name)\n"
        "    torch.save((network(x, torch.tensor([3, 700])), digest), folder / f'{name}.out')\n"
    )
    subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], check=True, cwd=Path(__file__).parents[1], capture_output=True
    )
    found, told = torch.load(tmp_path / "unet.out")
    assert told == digest == sha256_file(tmp_path / "unet.safetensors")
    torch.testing.assert_close(found, _output(unet), rtol=0, atol=0)
    torch.testing.assert_close(torch.load(tmp_path / "classifier.out")[0], _output(classifier), rtol=0, atol=0)


def test_our_files_tell_what_shapes_do_not(tmp_path: Path) -> None:
    path = tmp_path / "unet.safetensors"
    save_network(awake(SMALL), path)
    load_network(replace(SMALL, dropout=0.3), path, "toy")
    with pytest.raises(BadInputError, match="attention_order 'new' for 'old'"):
        load_network(replace(SMALL, attention_order="old"), path, "toy")
    with pytest.raises(BadInputError, match="head_channels 16 for 32"):
        load_network(replace(SMALL, head_channels=32), path, "toy")


@pytest.mark.parametrize(
    ("saved", "asked", "message"),
    [
        (replace(SMALL, num_classes=4), SMALL, r"has unknown label_emb.weight; the file is class-conditional"),
        (SMALL, replace(SMALL, num_classes=4), r"lacks label_emb.weight; the file is unconditional"),
        (replace(SMALL, num_classes=4), replace(SMALL, num_classes=9), r"label_emb.weight \(4, 128\) for \(9, 128\)"),
        (replace(SMALL, in_channels=6), SMALL, "takes 6 channels"),
        (SMALL, replace(SMALL, out_channels=3), r"out.2.weight \(6, 32, 3, 3\) for \(3, 32, 3, 3\)"),
        (SMALL, SMALL_CLASSIFIER, "one is a U-Net, the other a classifier"),
        (SMALL_CLASSIFIER, replace(SMALL_CLASSIFIER, res_blocks=2), "4 input blocks, not 6: another depth"),
        (SMALL_CLASSIFIER, replace(SMALL_CLASSIFIER, outputs=100), r"c_proj.weight \(5, 64, 1\) for \(100, 64, 1\)"),
    ],
)
def test_another_networks_file_is_refused_with_the_difference(
    saved: object, asked: object, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "weights.pt"
    make: Callable[..., torch.nn.Module] = awake_classifier if saved is SMALL_CLASSIFIER else awake
    torch.save(make(saved).state_dict(), path)
    with pytest.raises(BadInputError, match=message) as error:
        load_network(asked, path, "toy")  # type: ignore[arg-type]
    assert "\n" not in str(error.value)
    assert str(path) in str(error.value)


def test_a_wrong_preset_is_told_which_one_fits(tmp_path: Path) -> None:
    state = {key: torch.zeros(()).expand(value.shape) for key, value in _shapes("adm-imagenet64").items()}
    path = tmp_path / "64x64_diffusion.pt"
    torch.save(state, path)
    with pytest.raises(BadInputError, match=r"label_emb.*; it fits adm-imagenet64$"):
        load_network(UNETS["adm-celeba64"].config, path, "adm-celeba64")


def _shapes(name: str) -> dict[str, Tensor]:
    return skeleton(UNETS[name].config).state_dict()


def test_files_that_are_no_weights_are_one_line(tmp_path: Path) -> None:
    network = awake(SMALL)
    optimiser = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(2))])
    torch.save(optimiser.state_dict(), tmp_path / "opt010000.pt")
    torch.save({"step": 3, "model": network.state_dict()}, tmp_path / "wrapped.pt")
    torch.save(network, tmp_path / "pickled.pt")
    (tmp_path / "cut.pt").write_bytes(b"PK\x03\x04")
    (tmp_path / "cut.safetensors").write_bytes(b"1234")
    for file, message in {
        "opt010000.pt": "state of an optimiser",
        "wrapped.pt": "not a plain state dict",
        "pickled.pt": "cannot be read",
        "cut.pt": "cannot be read",
        "cut.safetensors": "cannot be read",
    }.items():
        with pytest.raises(BadInputError, match=message) as error:
            load_network(SMALL, tmp_path / file, "toy")
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", [*UNETS, *CLASSIFIERS])
def test_absent_checkpoints_say_what_from_where_and_to_where(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path))
    preset = UNETS.get(name) or CLASSIFIERS[name]
    with pytest.raises(MissingAssetError) as error:
        (load_adm if name in UNETS else load_classifier)(name)
    told = str(error.value)
    assert str(tmp_path / "adm" / preset.file.file) in told
    assert preset.file.source in told
    parameters = sum(value.numel() for value in skeleton(preset.config).state_dict().values())
    assert float(re.findall(r"\(([\d.]+) GB\)", told)[0]) == pytest.approx(4e-9 * parameters, abs=0.06)


def test_a_converted_checkpoint_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path))
    converted = tmp_path / "adm" / "64_256_upsampler.safetensors"
    converted.parent.mkdir()
    converted.touch()
    assert locate(UPSAMPLER, UNETS[UPSAMPLER].file) == converted
