"""Names to code: one table a kind, resolved only when asked for.

A table maps a public name to `Entry("module:attribute", "one line for lists")`. Nothing is imported to list names,
so the command line stays fast. Third parties add to a table through the entry-point group
`minoritybench.<kind>` or name a file outright: `path/to/file.py:attribute`.
"""

from __future__ import annotations

import contextlib
import difflib
import functools
import hashlib
import importlib
import importlib.util
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

from minoritybench.errors import BadInputError, MinorityBenchError

_THIS = "minoritybench"


@dataclass(frozen=True)
class Entry:
    """Where a registered thing lives (`module:attribute`) and what one line says of it."""

    target: str
    summary: str


_DATASETS = {
    "digits": Entry(f"{_THIS}.data.digits:DigitsSource", "1,797 real 8x8 handwritten digits, embedded"),
    "digits16": Entry(f"{_THIS}.data.digits:DoubledDigitsSource", "the same digits at 16x16, embedded"),
    "celeba": Entry(f"{_THIS}.data.celeba:open_celeba", "CelebA aligned faces, centre-cropped to 64 px"),
    "imagenet": Entry(f"{_THIS}.data.catalogue:open_folder_dataset", "ImageNet-1k training split, 1,281,167 images"),
    "cifar10": Entry(f"{_THIS}.data.packed:PackedSource", "CIFAR-10, 32x32, 10 classes"),
    "cifar100": Entry(f"{_THIS}.data.packed:PackedSource", "CIFAR-100, 32x32, 100 classes"),
    "mnist": Entry(f"{_THIS}.data.packed:PackedSource", "MNIST, 28x28 handwritten digits"),
    "fashion-mnist": Entry(f"{_THIS}.data.packed:PackedSource", "Fashion-MNIST, 28x28"),
    "natural-patches": Entry(
        f"{_THIS}.data.patches:PatchSource", "grey 8x8 patches of two photographs, embedded: what digits are not"
    ),
    "coco-captions": Entry(f"{_THIS}.data.catalogue:open_folder_dataset", "MS-COCO 2014 validation images"),
    "hf:*": Entry(f"{_THIS}.data.hub:open_hub", "any image dataset on the hub: hf:OWNER/NAME[:CONFIG], parquet files"),
}

_ENCODERS = {
    "digits-jepa": Entry(f"{_THIS}.encoders.embedded:DigitsEncoder", "digits guide: sphere-KoLeo MLP, d=16"),
    "digits-jepa-b": Entry(f"{_THIS}.encoders.embedded:DigitsEncoder", "held-out seed of the digits guide"),
    "digits-ijepa": Entry(f"{_THIS}.encoders.embedded:DigitsEncoder", "held-out family: I-JEPA ViT with EMA target"),
    "digits-vicreg": Entry(f"{_THIS}.encoders.embedded:DigitsEncoder", "negative control: its score is inverted"),
    "digits16-jepa": Entry(f"{_THIS}.encoders.embedded:DigitsEncoder", "digits-t2i guide: sphere-KoLeo MLP, d=16"),
    "digits16-jepa-b": Entry(f"{_THIS}.encoders.embedded:DigitsEncoder", "held-out seed of the digits-t2i guide"),
    "digits16-ijepa": Entry(
        f"{_THIS}.encoders.embedded:DigitsEncoder", "held-out family of digits-t2i: I-JEPA ViT with EMA target"
    ),
}

for _size in ("vits14", "vitb14", "vitl14", "vitg14"):
    for _suffix, _said in (("", "without registers"), ("-reg", "with registers")):
        _ENCODERS[f"dinov2-{_size}{_suffix}"] = Entry(
            f"{_THIS}.encoders.vision:load_dinov2", f"DINOv2 ViT-{_size[3].upper()}/14 {_said}, CLS token"
        )
_ENCODERS |= {
    "ijepa-vith14": Entry(f"{_THIS}.encoders.vision:load_ijepa", "I-JEPA ViT-H/14, mean of patch tokens"),
    "metaclip-b16": Entry(f"{_THIS}.encoders.vision:load_metaclip", "MetaCLIP ViT-B/16, projected, not normalised"),
    "clip:*": Entry(f"{_THIS}.encoders.vision:load_clip", "any open_clip model: clip:ARCHITECTURE/PRETRAINED"),
    "timm:*": Entry(f"{_THIS}.encoders.vision:load_timm", "any timm model: timm:MODEL[.TAG]"),
}

_GENERATORS = {
    "digits-ddpm": Entry(f"{_THIS}.diffusion.embedded:load_digits_ddpm", "embedded DDPM, class-conditional or not"),
    "digits-sd": Entry(
        f"{_THIS}.diffusion.latent.loading:load_latent", "embedded Stable Diffusion of captioned digits"
    ),
    "sd15": Entry(f"{_THIS}.diffusion.latent.loading:load_latent", "Stable Diffusion 1.5, 512 px"),
    "sdxl-lightning": Entry(f"{_THIS}.diffusion.latent.loading:load_latent", "SDXL-Lightning, 4 steps, 1024 px"),
    "latent:*": Entry(
        f"{_THIS}.diffusion.latent.loading:load_latent",
        "any Stable Diffusion or SDXL pipeline of diffusers: latent:OWNER/NAME or latent:FOLDER",
    ),
    "adm-imagenet256-cascade": Entry(
        f"{_THIS}.diffusion.adm.cascade:load_cascade",
        "ADM, ImageNet 64 px class-conditional, then upsampled to 256 px",
    ),
    "diffusers:*": Entry(
        f"{_THIS}.diffusion.diffusers_pixel:load_diffusers_pixel",
        "any DDPM pixel model of diffusers: diffusers:OWNER/NAME or diffusers:FOLDER",
    ),
}
for _name, _said in {
    "celeba64": "CelebA 64 px, unconditional",
    "imagenet64": "ImageNet 64 px, class-conditional",
    "imagenet256": "ImageNet 256 px, class-conditional",
    "imagenet256-uncond": "ImageNet 256 px, unconditional",
    "lsun-bedroom": "LSUN bedrooms 256 px, unconditional",
    "lsun-cat": "LSUN cats 256 px, unconditional",
    "lsun-horse": "LSUN horses 256 px, unconditional",
}.items():
    _GENERATORS[f"adm-{_name}"] = Entry(f"{_THIS}.diffusion.adm.model:load_adm", f"ADM, {_said}")

_METHODS = {
    "adm": Entry(f"{_THIS}.baselines.adm:Adm", "plain ancestral DDPM sampling"),
    "ddim": Entry(f"{_THIS}.baselines.ddim:Ddim", "deterministic DDIM sampling"),
    "bns": Entry(f"{_THIS}.baselines.bns:BoostAndSkip", "Boost-and-Skip: boosted initial noise, skipped first steps"),
    "sgms": Entry(f"{_THIS}.baselines.sgms:Sgms", "self-guided: ascends the model's reconstruction discrepancy"),
    "mg": Entry(f"{_THIS}.baselines.mg:Mg", "minority guidance: ascends a classifier's most-minority level"),
    "sehwag": Entry(f"{_THIS}.baselines.sehwag:Sehwag", "low-density guidance: hardness and fidelity, or out of data"),
    "cads": Entry(f"{_THIS}.baselines.cads:Cads", "text-to-image: anneals the prompt's embedding from noise"),
    "minorityprompt": Entry(
        f"{_THIS}.baselines.minorityprompt:MinorityPrompt", "text-to-image: optimises a token behind the prompt"
    ),
    "jepa": Entry(f"{_THIS}.baselines.jepa:Jepa", "JEPA guidance: descends JEPA-SCORE of the denoised estimate"),
}

_METRICS = {
    "FD": Entry(f"{_THIS}.metrics.frechet:frechet_distance", "Frechet distance between feature Gaussians, lower"),
    "cFID": Entry(
        f"{_THIS}.metrics.frechet:frechet_distance", "FD in inception-clean, after clean-fid's resize, lower"
    ),
    "FID": Entry(f"{_THIS}.metrics.frechet:frechet_distance", "FD in inception-fid's pool3, lower"),
    "sFID": Entry(f"{_THIS}.metrics.frechet:frechet_distance", "FD in inception-fid's spatial 6d, lower"),
    "sFID (6e)": Entry(f"{_THIS}.metrics.frechet:frechet_distance", "FD in inception-fid's spatial 6e, lower"),
    "FD-DINOv2": Entry(f"{_THIS}.metrics.frechet:frechet_distance", "FD in dinov2-vitl14, lower"),
    "KID": Entry(f"{_THIS}.metrics.kid:kid", "kernel distance, 100 subsets of 1,000, lower"),
    "inception score": Entry(f"{_THIS}.metrics.inception_score:inception_score", "Inception Score of logits, higher"),
    "precision": Entry(f"{_THIS}.metrics.manifold:precision", "improved precision, k=5, higher"),
    "recall": Entry(f"{_THIS}.metrics.manifold:recall", "improved recall, k=5, higher"),
    "density": Entry(f"{_THIS}.metrics.manifold:density", "density, k=5, higher"),
    "coverage": Entry(f"{_THIS}.metrics.manifold:coverage", "coverage, k=5, higher"),
    "rarity": Entry(f"{_THIS}.metrics.manifold:rarity_score", "rarity score of samples on the manifold, k=3, higher"),
    "rarity valid share": Entry(
        f"{_THIS}.metrics.manifold:rarity_valid_share", "share of samples that have a rarity score, k=3, higher"
    ),
    "AvgkNN": Entry(f"{_THIS}.metrics.neighbours:avgknn", "mean distance to the 5 nearest real images, higher"),
    "LOF": Entry(f"{_THIS}.metrics.neighbours:lof", "local outlier factor among real images, k=20, higher"),
    "Vendi": Entry(f"{_THIS}.metrics.vendi:vendi_score", "effective number of different samples, higher"),
    "LPIPS diversity": Entry(
        f"{_THIS}.metrics.lpips_diversity:lpips_diversity", "mean LPIPS of 1,000 random pairs of samples, higher"
    ),
    "AuthPct": Entry(f"{_THIS}.metrics.memorisation:authenticity", "percentage of samples that copy nothing, higher"),
    "CLIPScore": Entry(f"{_THIS}.metrics.clip_score:clip_score", "100 cos of image and prompt under CLIP, higher"),
    "PickScore": Entry(f"{_THIS}.metrics.pick_score:pick_score", "preference model over CLIP ViT-H, higher"),
    "ImageReward": Entry(f"{_THIS}.metrics.image_reward:image_reward", "preference model over BLIP, higher"),
    "JEPA-SCORE": Entry(f"{_THIS}.metrics.jepa:mean_jepa_score", "mean JEPA-SCORE of the samples, lower"),
    "minority share": Entry(
        f"{_THIS}.metrics.jepa:minority_share", "share of samples below the reference set's score threshold, higher"
    ),
}

_FEATURES = {
    "digits-classifier": Entry(f"{_THIS}.features.digits:ClassifierFeatures", "64-d penultimate layer, digits"),
    "digits16-classifier": Entry(f"{_THIS}.features.digits:ClassifierFeatures", "64-d penultimate layer, 16 px digits"),
    "digits-pca20": Entry(f"{_THIS}.features.digits:PixelPca", "first 20 principal components of digit pixels"),
    "inception-clean": Entry(f"{_THIS}.features.inception:load_inception_clean", "pool3 as clean-fid takes it (cFID)"),
    "inception-fid": Entry(
        f"{_THIS}.features.inception:load_inception_fid", "pytorch-fid's Inception: pool3, 6d and 6e (sFID), logits"
    ),
    "vgg16-fc2": Entry(f"{_THIS}.features.vgg:load_vgg16", "VGG16 fc2 after ReLU: precision, recall and the rest"),
    "clip-b16": Entry(f"{_THIS}.features.vision:load_vision", "OpenAI CLIP ViT-B/16, projected"),
    "clip-l14": Entry(f"{_THIS}.features.vision:load_vision", "OpenAI CLIP ViT-L/14, projected"),
}
for _name in [name for name in _ENCODERS if name.startswith(("dinov2-", "metaclip-", "clip:", "timm:"))]:
    _FEATURES[_name] = Entry(f"{_THIS}.features.vision:load_vision", f"{_ENCODERS[_name].summary}; squashed by bicubic")

_BENCHMARKS = {
    "digits": Entry(f"{_THIS}.benchmarks:digits.toml", "embedded: 8x8 digits, runs offline on two cores"),
    "digits-t2i": Entry(f"{_THIS}.benchmarks:digits-t2i.toml", "embedded: 16x16 digits from captions, offline"),
    "celeba64": Entry(f"{_THIS}.benchmarks:celeba64.toml", "CelebA 64 px, the papers' faces"),
    "imagenet256": Entry(f"{_THIS}.benchmarks:imagenet256.toml", "ImageNet 256 px by cascade"),
    "cifar10": Entry(f"{_THIS}.benchmarks:cifar10.toml", "CIFAR-10 32 px, diffusers' DDPM"),
    "sd15-coco": Entry(f"{_THIS}.benchmarks:sd15-coco.toml", "Stable Diffusion 1.5, 5,000 COCO prompts"),
    "sdxl-lightning-coco": Entry(
        f"{_THIS}.benchmarks:sdxl-lightning-coco.toml", "SDXL-Lightning in four steps, 5,000 COCO prompts"
    ),
}

_REFERENCE_SETS = {
    "digits": Entry(f"{_THIS}.reference_sets:digits", "lowest 25 % JEPA-SCORE (digits-jepa) of the training digits"),
    "digits16": Entry(
        f"{_THIS}.reference_sets:digits16", "lowest 25 % JEPA-SCORE (digits16-jepa) of the 16 px training digits"
    ),
}

for _dataset, _encoder in (
    ("celeba", "dinov2-vits14-reg"),
    ("celeba", "dinov2-vits14"),
    ("imagenet", "dinov2-vits14-reg"),
    ("imagenet", "dinov2-vits14"),
    ("cifar10", "dinov2-vits14-reg"),
):
    _REFERENCE_SETS[f"{_dataset}-{_encoder}"] = Entry(
        f"{_THIS}.reference_sets:{_dataset}-{_encoder}",
        f"recipe only, not measured: lowest 10,000 of {_dataset}'s training split by {_encoder}",
    )

_REFERENCE_SETS["coco-captions-dinov2-vits14-reg"] = Entry(
    f"{_THIS}.reference_sets:coco-captions-dinov2-vits14-reg",
    "recipe only, not measured: lowest 10,000 of MS-COCO's 2014 validation images by dinov2-vits14-reg",
)

_TABLES: dict[str, dict[str, Entry]] = {
    "datasets": _DATASETS,
    "encoders": _ENCODERS,
    "generators": _GENERATORS,
    "methods": _METHODS,
    "metrics": _METRICS,
    "features": _FEATURES,
    "benchmarks": _BENCHMARKS,
    "reference-sets": _REFERENCE_SETS,
}
KINDS = tuple(_TABLES)


def entries(kind: str) -> dict[str, Entry]:
    """All names of a kind: ours, then those that installed packages register under `minoritybench.<kind>`."""
    ours = _TABLES[kind]
    return {**ours, **_installed(kind, tuple(sys.path)), **ours}  # ours first and never replaced


def is_ours(kind: str, name: str) -> bool:
    """Whether a name is this package's own, which every installation knows."""
    return name in _TABLES[kind]


@functools.cache
def _installed(kind: str, _: tuple[str, ...]) -> dict[str, Entry]:
    """What packages on this path register; reading their metadata takes some 15 ms, and boards ask often."""
    return {
        point.name: Entry(point.value, f"from {point.dist.name if point.dist else 'entry point'}")
        for point in reversed(tuple(entry_points(group=f"minoritybench.{kind}")))  # the first of a name counts
    }


def lookup(kind: str, name: str) -> Entry:
    """The entry of `name`, or one line with the nearest known names (exit code 2)."""
    table = entries(kind)
    if name in table:
        return table[name]
    family, colon, rest = name.partition(":")
    if colon and rest and f"{family}:*" in table:
        return table[f"{family}:*"]
    near = difflib.get_close_matches(name, table, n=1, cutoff=0.4)
    hint = f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(sorted(table))}"
    raise BadInputError(f"unknown {kind.removesuffix('s').replace('-', ' ')} {name!r}{hint}")


def method_names(name: str) -> list[str]:
    """The methods that a name chains, `cads+jepa`; itself where it is registered or `path/to/file.py:attribute`. Error:
    a + without a name on both sides."""
    names = [name] if is_user_file(name) or name in entries("methods") else name.split("+")
    if len(names) > 1 and not all(names):
        side = "before the first +" if not names[0] else "after the last +" if not names[-1] else "between two +"
        raise BadInputError(f"method {name!r}: a name is missing {side}")
    return names


def resolve(kind: str, name: str) -> Any:
    """The object a name stands for: a registered entry or `path/to/file.py:attribute`."""
    if name.endswith(".py"):
        raise BadInputError(f"{name!r}: say what to take from the file, as in {name}:name_of_class_or_function")
    if is_user_file(name):
        path, _, attribute = name.rpartition(":")
        return _attribute(_module_from_file(Path(path)), attribute, name)
    module, _, attribute = lookup(kind, name).target.partition(":")
    return _attribute(importlib.import_module(module), attribute, name)


def is_user_file(name: str) -> bool:
    """Whether a name is `path/to/file.py:attribute` rather than a registered one."""
    path, colon, _ = name.rpartition(":")
    return bool(colon) and path.endswith(".py")


def code_digests(*names: str) -> dict[str, str]:
    """SHA-256 of the files behind those of `names` that are `path/to/file.py:attribute`, for plans: work done with an
    older version of the file is then never taken for work of the present one. What the file imports is not followed."""
    files = {name: Path(name.rpartition(":")[0]) for name in names if is_user_file(name)}
    return {name: _digest(path) for name, path in sorted(files.items()) if path.is_file()}


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _module_from_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise BadInputError(f"no such file {str(path)!r}: give path/to/file.py:attribute")
    identity = hashlib.sha256(f"{path.resolve()} {_digest(path)}".encode()).hexdigest()
    name = f"minoritybench_user_{path.stem}_{identity[:12]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise BadInputError(f"{str(path)!r} cannot be imported as Python")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickling look their module up here
    try:
        with user_code(str(path)):
            spec.loader.exec_module(module)
    except MinorityBenchError:
        del sys.modules[name]
        raise
    return module


@contextmanager
def user_code(name: str) -> Iterator[None]:
    """Run code that a user's file (`path/to/file.py[:attribute]`) takes part in: what it raises becomes one line that
    names the file and the line in it, and what it prints goes to stderr, for stdout is data. For registered names
    nothing changes, a fault of ours keeps its traceback."""
    path, is_file, _ = name.partition(".py")
    if not is_file:
        yield
        return
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    except MinorityBenchError:
        raise
    except (Exception, SystemExit) as error:
        frames = traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in frames if frame.filename.endswith(f"{Path(path).name}.py")]
        where = f" at line {lines[-1]}" if lines else ""
        reason = " ".join(str(error).split())
        raise BadInputError(f"{path}.py failed{where}: {type(error).__name__}: {reason}") from error


def _attribute(module: ModuleType, attribute: str, name: str) -> Any:
    if not hasattr(module, attribute):
        raise BadInputError(f"{name!r}: there is no {attribute!r} in that module")
    return getattr(module, attribute)
