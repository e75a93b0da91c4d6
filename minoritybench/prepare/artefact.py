"""Prepared parts as files: safetensors whose name carries a digest of everything that the content depends on."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from minoritybench.assets import cache_folder
from minoritybench.diffusion.model import DiffusionModel
from minoritybench.diffusion.step import StepContext
from minoritybench.errors import BadInputError
from minoritybench.prepare.classifier import ARCHITECTURES, GuideClassifier, GuideConfig
from minoritybench.store import atomic_path, canonical_json, digest_of

PREPARE_SEED = 0
_FORMAT = 1
"""Raised whenever the same settings would give another artefact."""
_CLASSIFIER = "classifier."
_EXTRA = "extra."
SHIPPED = Path(__file__).parent.parent / "embedded" / "prepared"


@dataclass(frozen=True)
class Identity:
    """What a part is: two parts of one identity, prepared from the same images, are the same."""

    method: str
    part: str
    benchmark: str
    generator: str
    generator_sha256: str
    settings: Mapping[str, Any]
    code: Mapping[str, str] = field(default_factory=dict)
    seed: int = PREPARE_SEED

    def as_dict(self) -> dict[str, Any]:
        """For digests and metadata."""
        return {
            "format": _FORMAT,
            "method": self.method,
            "part": self.part,
            "benchmark": self.benchmark,
            "generator": {"name": self.generator, "weights_sha256": self.generator_sha256},
            "settings": dict(self.settings),
            "code": dict(self.code),
            "seed": self.seed,
        }

    @property
    def digest(self) -> str:
        """SHA-256 of it."""
        return digest_of(self.as_dict())

    @property
    def file_name(self) -> str:
        """`<benchmark>-<method>-<part>-<digest>.safetensors`."""
        words = (re.sub(r"[^\w-]+", "-", word).strip("-") for word in (self.benchmark, self.method, self.part))
        return f"{'-'.join(words)}-{self.digest[:16]}.safetensors"

    def cached(self) -> Path:
        """Where `minoritybench prepare` puts it."""
        method = re.sub(r"[^\w-]+", "-", self.method).strip("-")
        return cache_folder() / "prepared" / self.benchmark / method / self.file_name

    def find(self) -> Path | None:
        """The file: one shipped with the package, else the prepared one; None where there is neither."""
        return next((path for path in (SHIPPED / self.file_name, self.cached()) if path.is_file()), None)


@dataclass(frozen=True)
class Prepared:
    """A part in use: the frozen `classifier`, further `tensors` of the method, and `facts` about both: the images it
    was prepared from and its figures on held-out ones."""

    classifier: GuideClassifier
    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)

    def logits(self, x_t: Tensor, timestep: int, labels: Tensor | None) -> Tensor:
        """The classifier's logits `(B, outputs)` of `x_t` `(B, C, H, W)` at an original timestep (0: clean images);
        `labels` reach only a classifier that is conditioned on classes."""
        logits: Tensor = self.classifier(x_t, _timesteps(x_t, timestep), labels)
        return logits

    def features(self, x_t: Tensor, timestep: int, labels: Tensor | None) -> Tensor:
        """Its penultimate activations `(B, d)`."""
        return self.classifier.features(x_t, _timesteps(x_t, timestep), labels)


def _timesteps(x_t: Tensor, timestep: int) -> Tensor:
    return torch.full((len(x_t),), timestep, dtype=torch.int64, device=x_t.device)


def classifier_gradient(step: StepContext, objective: Callable[[Tensor], Tensor]) -> Tensor:
    """Gradient with respect to x_t `(B, C, H, W)` of an objective `(B,)` that takes x_t through a classifier, one pass
    forward and one back. Nothing passes through the generator."""
    with torch.enable_grad():
        x_t = step.x_t.detach().requires_grad_(True)
        value = objective(x_t)
    step.passes["classifier_forward"] += 1
    step.passes["classifier_backward"] += 1
    (gradient,) = torch.autograd.grad(value.sum(), x_t)
    return gradient


def save_prepared(path: Path, identity: Identity, prepared: Prepared) -> None:
    """Write a part atomically. Its bytes depend on nothing but the content."""
    stored = ARCHITECTURES[prepared.classifier.config.architecture].stored
    tensors = {
        _CLASSIFIER + name: value.to("cpu", stored).contiguous()
        for name, value in prepared.classifier.state_dict().items()
    }
    tensors |= {_EXTRA + name: value.cpu().contiguous() for name, value in prepared.tensors.items()}
    document = {
        "identity": identity.as_dict(),
        "classifier": prepared.classifier.config.as_dict(),
        "facts": dict(prepared.facts),
    }
    with atomic_path(path) as part:
        save_file(tensors, part, metadata={"minoritybench": canonical_json(document)})


def read_document(path: Path) -> dict[str, Any]:
    """The metadata of a part: `identity`, `classifier`, `facts`. A file that is none exits 2."""
    try:
        with safe_open(path, framework="pt") as file:
            document = json.loads((file.metadata() or {})["minoritybench"])
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise BadInputError(f"{path} is not a prepared part ({type(error).__name__}); remove it") from error
    if not isinstance(document, dict) or document.keys() != {"identity", "classifier", "facts"}:
        raise BadInputError(f"{path} is not a prepared part (its metadata is incomplete); remove it")
    return document


def load_prepared(path: Path, identity: Identity, device: str) -> Prepared:
    """Read a part, frozen, in float32. One made for anything else than its name says is refused, exit 2."""
    document = read_document(path)
    if canonical_json(document["identity"]) != canonical_json(identity.as_dict()):
        raise BadInputError(
            f"{path} was made for other settings or other generator weights than its name says; remove it"
        )
    config = dict(document["classifier"])
    classifier = GuideClassifier(GuideConfig(**{**config, "state_shape": tuple(config["state_shape"])}))
    try:
        tensors = {name: tensor.float() for name, tensor in load_file(path).items()}
        weights = {n.removeprefix(_CLASSIFIER): t for n, t in tensors.items() if n.startswith(_CLASSIFIER)}
        classifier.load_state_dict(weights)
    except (SafetensorError, RuntimeError) as error:
        raise BadInputError(f"{path} does not hold its classifier: {str(error).splitlines()[0]}; remove it") from error
    extra = {n.removeprefix(_EXTRA): t.to(device) for n, t in tensors.items() if n.startswith(_EXTRA)}
    return Prepared(classifier.to(device).eval().requires_grad_(False), extra, document["facts"])


def identity_of(
    method: str, part: str, benchmark: str, model: DiffusionModel, settings: Mapping[str, Any], code: Mapping[str, str]
) -> Identity:
    """The identity of a part for one generator."""
    return Identity(method, part, benchmark, model.name, model.weights_sha256, settings, code)
