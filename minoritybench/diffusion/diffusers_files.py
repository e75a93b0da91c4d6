"""Networks in the format of diffusers: found in a folder or in the hub's cache, loaded with their own weights only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from minoritybench.assets import misfit, read_tensors
from minoritybench.errors import BadInputError
from minoritybench.store import read_json

WEIGHTS = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin")


def cached_snapshot(repo: str) -> Path | None:
    """The newest snapshot of a repository in the hub's cache, which may hold only some of its files; None where there
    is none, or `repo` is not the name of one."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(repo, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError):
        return None


def public_name(name: str, family: str) -> str:
    """`family:FOLDER` by the folder's last part: where it lies is local knowledge. Other names stay as they are."""
    place = Path(name.removeprefix(family))
    return f"{family}{place.resolve().name}" if name.startswith(family) and place.is_dir() else name


def open_network(name: str, kind: str, weights: Path) -> Any:
    """The diffusers network of class `kind` whose config.json lies beside `weights`, in float32, whatever precision the
    file has (`*.fp16.*` among them). What the file lacks, diffusers would fill with random values: exit 2."""
    folder = weights.parent
    found = read_json(folder / "config.json").get("_class_name")
    if found != kind:
        raise BadInputError(f"{name}: its network is a {found}; only {kind} is sampled this way")
    import diffusers

    refuse_broken(name, weights)
    with torch.random.fork_rng(devices=[]):  # it draws random weights first
        network, facts = getattr(diffusers, kind).from_pretrained(
            folder,
            local_files_only=True,
            use_safetensors=weights.suffix == ".safetensors",
            variant="fp16" if ".fp16." in weights.name else None,
            low_cpu_mem_usage=False,
            output_loading_info=True,
        )
    refuse_misfit(name, weights, facts)
    return network.float()


def refuse_broken(name: str, weights: Path) -> None:
    """A cut or damaged safetensors file is one line (exit 2); diffusers would say that it is not there."""
    if weights.suffix != ".safetensors":
        return
    try:
        with safe_open(weights, framework="pt"):
            return
    except (SafetensorError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise BadInputError(f"{weights} cannot be read as weights of {name}: {reason}") from error


def refuse_misfit(name: str, weights: Path, facts: dict[str, Any]) -> None:
    """`facts` as `from_pretrained` reports them: missing, unknown or misshapen keys exit 2."""
    odd = [f"{what.removesuffix('_keys')} {sorted(facts[what], key=str)[0]}" for what in facts if facts[what]]
    if odd:
        raise BadInputError(f"{name}: {weights} does not fit its config.json: {'; '.join(odd)}")


def network_with(name: str, kind: str, config: Path, weights: Path) -> Any:
    """A network built from one place's config.json with the weights of another's file, key by key; in their dtype."""
    import diffusers

    with torch.device("meta"):
        network = getattr(diffusers, kind).from_config(read_json(config))
    tensors = read_tensors(weights, name)
    if fault := misfit(network.state_dict(), tensors):
        raise BadInputError(f"{name}: {weights} does not hold the weights of {config}: it {fault}")
    network.load_state_dict(tensors, assign=True)
    return network
