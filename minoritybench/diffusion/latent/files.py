"""Where the files of a latent pipeline lie, and what is said when some do not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from minoritybench.diffusion.diffusers_files import WEIGHTS, cached_snapshot
from minoritybench.errors import BadInputError, MissingAssetError, counted
from minoritybench.store import digest_of, read_json, sha256_file

SD, SDXL = "StableDiffusionPipeline", "StableDiffusionXLPipeline"
_TEXT_WEIGHTS = ("model.safetensors", "pytorch_model.bin")


@dataclass(frozen=True)
class Published:
    """A generator on the hub: the pipeline's repository and class; a file of another one whose weights replace the
    U-Net's, and a repository with another VAE, where there are such. `sizes` of the larger files, by name."""

    base: str
    kind: str
    unet: tuple[str, str] | None = None
    vae: str | None = None
    sizes: Mapping[str, str] = field(default_factory=dict)


_TEXT_SIZES = {"text_encoder/model.safetensors": "0.5 GB", "text_encoder_2/model.safetensors": "2.8 GB"}
PUBLISHED = {
    "sd15": Published(
        "stable-diffusion-v1-5/stable-diffusion-v1-5",
        SD,
        sizes={
            **_TEXT_SIZES,
            "unet/diffusion_pytorch_model.safetensors": "3.4 GB",
            "vae/diffusion_pytorch_model.safetensors": "0.3 GB",
        },
    ),
    "sdxl-lightning": Published(
        "stabilityai/stable-diffusion-xl-base-1.0",
        SDXL,
        unet=("ByteDance/SDXL-Lightning", "sdxl_lightning_4step_unet.safetensors"),
        vae="madebyollin/sdxl-vae-fp16-fix",
        sizes={
            **_TEXT_SIZES,
            "sdxl_lightning_4step_unet.safetensors": "5.1 GB",
            "diffusion_pytorch_model.safetensors": "0.3 GB",
        },
    ),
}


@dataclass(frozen=True)
class PipelineFiles:
    """Files of one pipeline. A network's configuration lies beside its weights, save a U-Net's whose weights are
    replaced. `text` and `tokenizers` have one entry a text encoder."""

    index: Path
    scheduler: Path
    unet_config: Path
    unet: Path
    vae: Path
    text: tuple[Path, ...]
    tokenizers: tuple[Path, ...]

    def digest(self) -> str:
        """Of all weights, configurations and tokenizers: each of them changes the images."""
        parts = {"index": self.index, "scheduler": self.scheduler, "unet/config": self.unet_config, "unet": self.unet}
        parts |= {"vae/config": self.vae.parent / "config.json", "vae": self.vae}
        for number, (weights, tokenizer) in enumerate(zip(self.text, self.tokenizers, strict=True)):
            parts |= {f"text-{number}/config": weights.parent / "config.json", f"text-{number}": weights}
            parts |= {f"tokenizer-{number}/{path.name}": path for path in sorted(tokenizer.iterdir()) if path.is_file()}
        return digest_of({role: sha256_file(path) for role, path in parts.items()})


class _Place:
    """A folder, or a repository as far as the hub's cache has it; notes what is asked of it and is not there."""

    def __init__(self, source: str, sizes: Mapping[str, str]) -> None:
        self.source, self._sizes = source, sizes
        self.is_folder = Path(source).is_dir()
        self.folder = Path(source) if self.is_folder else cached_snapshot(source)
        self.absent: list[str] = []

    def file(self, *names: str) -> Path:
        """The first of the alternatives that is there, else the first."""
        root = self.folder or Path(self.source)
        found = next((root / name for name in names if self.folder and (root / name).is_file()), None)
        if found is None:
            self.absent.append(names[0])
        return found or root / names[0]

    def weights(self, folder: str, names: tuple[str, ...]) -> Path:
        """A network's weights, also as `*.fp16.*`; its config.json, which `from_pretrained` wants, lies beside them."""
        self.file(f"{folder}config.json")
        half = [name.replace(".", ".fp16.", 1) for name in names]
        return self.file(*(f"{folder}{name}" for pair in zip(names, half, strict=True) for name in pair))

    def told(self) -> str:
        """What is absent, how large it is, and how it is fetched."""
        if self.is_folder:
            return f"{', '.join(self.absent)} in {self.source}"
        large = [f"{name} ({self._sizes[name]})" for name in self.absent if name in self._sizes]
        small = [name for name in self.absent if name not in self._sizes]
        listed = ", ".join([*large, counted(len(small), "small file")] if large and small else [*large, *small])
        return f"{listed} of https://huggingface.co/{self.source}: `hf download {self.source} {' '.join(self.absent)}`"


def locate(name: str, published: Published) -> PipelineFiles:
    """The files of a pipeline, from folders or the hub's cache. All that is absent is told in one line (exit 4)."""
    base = _Place(published.base, published.sizes)
    unet = None if published.unet is None else _Place(published.unet[0], published.sizes)
    vae = None if published.vae is None else _Place(published.vae, published.sizes)
    towers = [("text_encoder", "tokenizer"), ("text_encoder_2", "tokenizer_2")][: 2 if published.kind == SDXL else 1]
    index, scheduler = base.file("model_index.json"), base.file("scheduler/scheduler_config.json")
    if unet is None or published.unet is None:
        unet_weights = base.weights("unet/", WEIGHTS)
        unet_config = unet_weights.parent / "config.json"
    else:
        unet_config, unet_weights = base.file("unet/config.json"), unet.file(published.unet[1])
    files = PipelineFiles(
        index,
        scheduler,
        unet_config,
        unet_weights,
        base.weights("vae/", WEIGHTS) if vae is None else vae.weights("", WEIGHTS),
        tuple(base.weights(f"{encoder}/", _TEXT_WEIGHTS) for encoder, _ in towers),
        tuple(_tokenizer(base, tokenizer) for _, tokenizer in towers),
    )
    places = [place for place in (base, unet, vae) if place is not None and place.absent]
    if places:
        raise MissingAssetError(f"{name}: not here: {'; '.join(place.told() for place in places)}")
    return files


def _tokenizer(base: _Place, folder: str) -> Path:
    config = base.file(f"{folder}/tokenizer_config.json")
    if not (config.parent / "tokenizer.json").is_file():
        base.file(f"{folder}/vocab.json")
        base.file(f"{folder}/merges.txt")
    return config.parent


def named(name: str, source: str) -> Published:
    """Any pipeline of a known class, by folder or OWNER/NAME. Errors: no pipeline there exits 4, another kind 2."""
    folder = Path(source) if Path(source).is_dir() else cached_snapshot(source)
    index = None if folder is None else folder / "model_index.json"
    if index is None or not index.is_file():
        raise MissingAssetError(
            f"{name}: no pipeline folder {source!r} here (it has a model_index.json) and none such in the hub's cache;"
            f" name a folder, or an OWNER/NAME fetched with `hf download {source}`"
        )
    kind = read_json(index).get("_class_name")
    if kind not in (SD, SDXL):
        raise BadInputError(f"{name}: its pipeline is a {kind}; known are {SD} and {SDXL}")
    return Published(source, kind)
