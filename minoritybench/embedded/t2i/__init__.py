"""The embedded text-to-image benchmark: a tiny Stable Diffusion on captioned 16x16 digits, and what judges it.

`pipeline/` is a diffusers folder, `digits-clip/` a transformers one, `weights/` holds the encoders and the classifier
as safetensors; `CARD.md` says how each was made and what was measured. `python -m minoritybench.embedded.t2i.train`
rebuilds them all.
"""
