"""Training of the tiny Stable Diffusion: first the autoencoder, then U-Net and text encoder together."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minoritybench.embedded.recipes_common import Progress, Schedule, TrainingData, ema_update, optimise, seeded
from minoritybench.embedded.t2i.networks import SCHEDULER, build_text_encoder, build_unet, build_vae

VAE_SCHEDULE = Schedule(steps=700, batch_size=32, lr=3e-3, weight_decay=0.0, warmup=0.05)
KL_WEIGHT = 1e-3
UNET_SCHEDULE = Schedule(steps=1600, batch_size=64, lr=2e-3, weight_decay=0.0, warmup=0.03)
UNET_EMA = 0.998
TEXT_DROPOUT = 0.1
MAX_WEIGHT = 50.0


@dataclass(frozen=True)
class Latents:
    """Posterior of the autoencoder over the training latents, each `(N, 4, 8, 8)`, scaled to standard deviation 1."""

    mean: Tensor
    std: Tensor

    def draw(self, index: Tensor) -> Tensor:
        """One latent for each of the given images."""
        return self.mean[index] + self.std[index] * torch.randn_like(self.mean[index])


def train_vae(
    data: TrainingData, seed: int, schedule: Schedule = VAE_SCHEDULE, progress: Progress | None = None
) -> Any:
    """Squared error in pixels plus a little KL; its `scaling_factor` is set from the training latents.

    Reference: Rombach et al. 2022, section 3.1 and appendix G, without the perceptual and adversarial losses:
    strokes of 16 px need neither.
    """
    with seeded(seed):
        vae = build_vae()

        def loss_of(x: Tensor, _: Tensor) -> Tensor:
            x = x.expand(-1, 3, -1, -1)
            posterior = vae.encode(x).latent_dist
            return F.mse_loss(vae.decode(posterior.sample()).sample, x) + KL_WEIGHT * posterior.kl().mean() / 256

        optimise(vae, data, schedule, loss_of, progress=progress)
    vae.eval().requires_grad_(False)
    vae.register_to_config(scaling_factor=1.0)
    latents = latents_of(vae, data.x)
    variance = float(latents.mean.var() + latents.std.square().mean())
    vae.register_to_config(scaling_factor=round(variance**-0.5, 5))
    return vae


@torch.no_grad()
def latents_of(vae: Any, x: Tensor) -> Latents:
    """The scaled posterior of images `(N, 1, 16, 16)`."""
    factor = vae.config.scaling_factor
    blocks = [x[start : start + 100] for start in range(0, len(x), 100)]
    posteriors = [vae.encode(block.expand(-1, 3, -1, -1)).latent_dist for block in blocks]
    return Latents(
        factor * torch.cat([p.mean for p in posteriors]),
        factor * torch.cat([p.std for p in posteriors]),
    )


class TextToLatent(nn.Module):
    """The two networks that are trained together."""

    def __init__(self) -> None:
        super().__init__()
        self.text_encoder = build_text_encoder()
        self.unet = build_unet()

    def forward(self, noisy: Tensor, timestep: Tensor, ids: Tensor) -> Tensor:
        """Predicted noise `(B, 4, 8, 8)` for token ids `(B, 16)`."""
        context = self.text_encoder(input_ids=ids).last_hidden_state
        noise: Tensor = self.unet(noisy, timestep, encoder_hidden_states=context).sample
        return noise


def train_text_to_latent(
    latents: Latents,
    ids: Tensor,
    empty: Tensor,
    seed: int,
    schedule: Schedule = UNET_SCHEDULE,
    progress: Progress | None = None,
) -> TextToLatent:
    """Noise prediction at uniform time steps on Stable Diffusion's schedule; returns the moving average.

    ids: token ids of the captions `(N, 16)`; empty: those of the empty prompt `(16,)`, put in the place of one caption
    in ten for classifier-free guidance.
    Reference: Ho et al. 2020; Ho and Salimans 2022. Differs: the squared error is weighted by 1 / abar (at most 50),
    which makes it that of the velocity (Salimans and Ho 2022): the first, noisy steps decide on the digit, and there
    plain noise prediction learns x0 last.
    """
    from diffusers import DDIMScheduler

    scheduler: Any = DDIMScheduler(**SCHEDULER)
    abar = scheduler.alphas_cumprod
    with seeded(seed):
        net = TextToLatent()
        average = copy.deepcopy(net)

        def loss_of(_: Tensor, index: Tensor) -> Tensor:
            x = latents.draw(index)
            t = torch.randint(len(abar), (len(x),))
            dropped = torch.rand(len(x), 1) < TEXT_DROPOUT
            noise, level = torch.randn_like(x), abar[t].view(-1, 1, 1, 1)
            predicted = net(level.sqrt() * x + (1 - level).sqrt() * noise, t, torch.where(dropped, empty, ids[index]))
            return ((predicted - noise).square() / level.clamp_min(1 / MAX_WEIGHT)).mean()

        def after_step(step: int) -> None:
            ema_update(average, net, min(UNET_EMA, (1 + step) / (10 + step)))

        numbered = TrainingData(latents.mean, torch.arange(len(ids)))
        optimise(net, numbered, schedule, loss_of, after_step=after_step, progress=progress)
    return average.eval().requires_grad_(False)
