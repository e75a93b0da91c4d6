"""The diffusion core: schedules, the one sampling loop and the backends it runs on."""
