"""Output folders of `sample`, made without sampling."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from minoritybench.report.pictures import png_bytes
from minoritybench.store import sha256_bytes

PROMPTS = ("a <b>bold</b> seven & more", "a thin zero", "a wide two")


def drawn(
    folder: Path, method: str = "ddim", *, shade: int = 0, seeds: tuple[int, ...] = (4, 5), generator: str = "toy",
    prompts: tuple[str, ...] | None = PROMPTS, **params: Any,
) -> Path:  # fmt: skip
    """What `sample` leaves: images of one colour, `shade + 10 seed + index`; without prompts three a seed."""
    rows = []
    for seed in seeds:
        for index, prompt in enumerate(prompts or (None,) * 3):
            data = png_bytes(np.full((8, 8, 3), shade + 10 * seed + index, dtype=np.uint8))
            name = f"seed-{seed}/{index:05d}.png"
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(data)
            rows.append({"file": name, "seed": seed, "index": index, "sha256": sha256_bytes(data), "prompt": prompt})
    plan = {
        "kind": "sample",
        "method": {"name": method, "params": params, "preset": "reference"},
        "generator": {"name": generator, "weights_sha256": "0", "dtype": "float32"},
        "guide": None,
    }
    (folder / "plan.json").write_text(json.dumps(plan))
    (folder / "samples.json").write_text(json.dumps(rows))
    return folder
