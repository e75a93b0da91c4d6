"""minoritybench: find, generate and measure the images that are rare in the real world.

The public API, imported on first use so that `import minoritybench` stays light.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_PUBLIC = {
    "load_encoder": "minoritybench.encoders",
    "jepa_score": "minoritybench.scoring",
    "rank_dataset": "minoritybench.rank",
    "load_reference_set": "minoritybench.references",
    "sample": "minoritybench.sampling",
    "evaluate": "minoritybench.evaluation",
    "RunRecord": "minoritybench.records",
}

if TYPE_CHECKING:
    from minoritybench import metrics as metrics
    from minoritybench.encoders import load_encoder as load_encoder
    from minoritybench.evaluation import evaluate as evaluate
    from minoritybench.rank import rank_dataset as rank_dataset
    from minoritybench.records import RunRecord as RunRecord
    from minoritybench.references import load_reference_set as load_reference_set
    from minoritybench.sampling import sample as sample
    from minoritybench.scoring import jepa_score as jepa_score

__all__ = [*_PUBLIC, "metrics"]


def __getattr__(name: str) -> Any:
    if name == "metrics":
        return importlib.import_module("minoritybench.metrics")
    if name in _PUBLIC:
        return getattr(importlib.import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'minoritybench' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
