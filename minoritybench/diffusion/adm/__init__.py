"""ADM: the pixel-space U-Nets and noisy classifiers of Dhariwal and Nichol, presets, loader, single and cascaded."""

from minoritybench.diffusion.adm.config import AdmConfig, ClassifierConfig
from minoritybench.diffusion.adm.networks import AdmUNet, NoisyClassifier

__all__ = ["AdmConfig", "AdmUNet", "ClassifierConfig", "NoisyClassifier"]
