"""Pre-norm vision transformers linearised by hand: exact Jacobians of DINOv2, I-JEPA and the digits ViT, cheaper."""

from minoritybench.scoring.vit.linearised import LinearisedVit
from minoritybench.scoring.vit.weights import VitBlock, VitWeights

__all__ = ["LinearisedVit", "VitBlock", "VitWeights"]
