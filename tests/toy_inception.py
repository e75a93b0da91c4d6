"""Inception with random weights, and a file of them where the loader looks for the published one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from minoritybench.features import weights
from minoritybench.features.inception import empty_network


def random_network() -> Any:
    """Weights of a size at which activations neither die nor grow; batch norms with statistics of their own."""
    with torch.device("meta"):
        network = empty_network()
    network.to_empty(device="cpu")
    generator = torch.Generator().manual_seed(0)
    for key, value in network.state_dict().items():
        if not value.is_floating_point():
            value.zero_()
        elif value.ndim > 1:
            value.normal_(0, (2 / value[0].numel()) ** 0.5, generator=generator)
        else:
            value.uniform_(0.5, 1.5, generator=generator)
            if key.endswith(("bias", "running_mean")):
                value.sub_(1)
    return network.eval().requires_grad_(False)


def place_weights(network: Any, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make `cache` the cache folder and put a weight file into it as old as the published one: without the counters
    that batch norms have had since. Its digest is not asked for."""
    known = weights.PUBLISHED["inception-fid"]
    monkeypatch.setenv("MINORITYBENCH_CACHE", str(cache))
    monkeypatch.setitem(weights.PUBLISHED, "inception-fid", replace(known, sha256=None))
    place = cache / "extractors" / "inception-fid" / known.file
    place.parent.mkdir(parents=True)
    torch.save({k: v for k, v in network.state_dict().items() if not k.endswith("num_batches_tracked")}, place)
