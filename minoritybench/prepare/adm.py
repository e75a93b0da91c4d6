"""ADM's encoder U-Net as a guide classifier, for states of 32 px and above."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from minoritybench.diffusion.adm import ClassifierConfig, NoisyClassifier
from minoritybench.diffusion.adm.model import load_classifier
from minoritybench.prepare.classifier import GuideClassifier, GuideConfig

_BY_SIZE: dict[int, dict[str, Any]] = {
    32: {"res_blocks": 3, "channel_mult": (1, 2, 4), "attention_sizes": (16, 8)},
    64: {},
    128: {"res_blocks": 2, "channel_mult": (1, 1, 2, 3, 4)},
    256: {"res_blocks": 2, "channel_mult": (1, 1, 2, 2, 4, 4)},
}


class AdmGuide(nn.Module):
    """ADM's noisy classifier of the state's size: width 128, attention at 32, 16 and 8, depth 4 at 64 px and 2 above,
    as published; at 32 px, where none was, an own choice: widths 128, 256 and 512, depth 3, attention at 16 and 8. A
    class label, where one is given, is embedded and added to the time embedding, as in ADM's U-Net."""

    def __init__(self, config: GuideConfig) -> None:
        super().__init__()
        channels, side = config.state_shape[0], config.state_shape[-1]
        self.trunk = _Labelled(
            ClassifierConfig(image_size=side, in_channels=channels, outputs=config.outputs, **_BY_SIZE[side]),
            config.classes,
        )

    def features(self, x_t: Tensor, timestep: Tensor, labels: Tensor | None) -> Tensor:
        """What the head pools, averaged over positions, `(B, 512)`."""
        hidden: Tensor = self.trunk.out[:2](self.trunk.hidden(x_t, timestep, labels))
        return hidden.mean(dim=(2, 3))

    def forward(self, x_t: Tensor, timestep: Tensor, labels: Tensor | None) -> Tensor:
        """Logits `(B, outputs)`."""
        logits: Tensor = self.trunk.out(self.trunk.hidden(x_t, timestep, labels))
        return logits


def published_guide(name: str, device: str) -> tuple[GuideClassifier, str]:
    """A published noisy classifier, frozen, and its file's SHA-256. Errors: absent weights exit 4."""
    network, sha256 = load_classifier(name, device="cpu")
    config = network.config
    shape = (config.in_channels, config.image_size, config.image_size)
    guide = GuideClassifier(GuideConfig("adm-encoder", shape, config.outputs))
    assert isinstance(guide.network, AdmGuide)
    guide.network.trunk.load_state_dict(network.state_dict())
    return guide.to(device).eval().requires_grad_(False), sha256


class _Labelled(NoisyClassifier):
    """With an optional class label beside the timestep."""

    def __init__(self, config: ClassifierConfig, classes: int | None) -> None:
        super().__init__(config)
        self.label_emb = None if classes is None else nn.Embedding(classes, config.embedding)

    def hidden(self, x: Tensor, timesteps: Tensor, labels: Tensor | None) -> Tensor:
        """Activations after the middle block."""
        embedding = self._time(timesteps)
        if self.label_emb is not None:
            embedding = embedding + self.label_emb(labels)
        for stage in self.input_blocks:
            x = self._run(stage, x, embedding)
        return self._run(self.middle_block, x, embedding)
