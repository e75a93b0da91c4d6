"""ADM networks small enough for tests, with every layer awake (fresh ones are silent: their last layers are zero)."""

from __future__ import annotations

from minoritybench.diffusion.adm import AdmConfig, AdmUNet, ClassifierConfig, NoisyClassifier
from minoritybench.diffusion.adm.model import AdmModel
from minoritybench.encoders.module import randomise

SMALL = AdmConfig(image_size=16, channels=32, res_blocks=1, channel_mult=(1, 2), attention_sizes=(8,), head_channels=16)
SMALL_CLASSIFIER = ClassifierConfig(
    image_size=16, channels=32, res_blocks=1, channel_mult=(1, 2), attention_sizes=(8,), head_channels=16, outputs=5
)


def awake(config: AdmConfig, seed: int = 0) -> AdmUNet:
    """A frozen U-Net with seeded random weights everywhere."""
    network = AdmUNet(config)
    randomise(network, seed)
    return network.eval().requires_grad_(False)


def awake_classifier(config: ClassifierConfig, seed: int = 0) -> NoisyClassifier:
    """A frozen classifier with seeded random weights everywhere."""
    network = NoisyClassifier(config)
    randomise(network, seed)
    return network.eval().requires_grad_(False)


def model(config: AdmConfig, *, micro_batch: int = 4, schedule: str = "cosine", dtype: str = "float32") -> AdmModel:
    """A backend around an awake network."""
    return AdmModel(
        "toy", awake(config), schedule=schedule, weights_sha256="0" * 64, micro_batch=micro_batch, dtype=dtype
    )
