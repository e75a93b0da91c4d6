"""Text-to-image in a latent space: Stable Diffusion and SDXL in the format of diffusers, run by our own loop."""
