"""What a method needs built before it can sample: classifiers of noised images and what they are trained on.

A method names its parts as needs (`prepared:NAME`), lists in `parts` the hyperparameters that each depends on, says in
`prepare(part, kit)` how it is built (see `Kit`) and finds it, as `Prepared`, in `step.resources`.
"""

from minoritybench.prepare.artefact import Prepared, classifier_gradient
from minoritybench.prepare.job import (
    PartOutcome,
    PrepareRequest,
    open_prepared,
    plan_parts,
    prepare_parts,
)
from minoritybench.prepare.kit import Kit
from minoritybench.prepare.shards import Bench
from minoritybench.prepare.training import RECIPE_FIELDS, TrainingRecipe

__all__ = [
    "RECIPE_FIELDS",
    "Bench",
    "Kit",
    "PartOutcome",
    "PrepareRequest",
    "Prepared",
    "TrainingRecipe",
    "classifier_gradient",
    "open_prepared",
    "plan_parts",
    "prepare_parts",
]
