"""What a board says below its tables: how rows came about, what columns are, what they are measured against."""

from __future__ import annotations

from collections.abc import Sequence

from minoritybench.records import BenchmarkSpec, RunRecord, load_protocol
from minoritybench.references import PROTOCOL_FILE, is_recipe_only, load_reference_set, reference_folder
from minoritybench.report.paired import BASELINE
from minoritybench.report.table import LEVEL
from minoritybench.text_metrics import text_choices


def legend(benchmark: BenchmarkSpec, records: Sequence[RunRecord]) -> list[str]:
    """The notes of a board, in order, as markdown."""
    return [*_legend(benchmark), *_later_legend(benchmark, records), *benchmark.notes]


def _later_legend(benchmark: BenchmarkSpec, records: Sequence[RunRecord]) -> list[str]:
    """Notes on columns and rows that only newer records have."""
    metrics = [metric for record in records if record.benchmark == benchmark.name for metric in record.metrics]
    names = {metric.name for metric in metrics}
    notes = [*_text_legend(benchmark), *(note for name, note in _LATER.items() if name in names)]
    if any(metric.ideal is not None for metric in metrics):
        notes.append(
            "A perfect generator: what real images like the reference set are expected to score at these numbers of"
            " images; for a Frechet distance as if features were Gaussian. Blank where no such figure is known."
        )
    return notes


_LATER = {
    "AvgkNN": "AvgkNN: mean distance to the 5 nearest images of the whole training split; how rare a sample is in the"
    " generator's data, which artefacts raise too.",
    "AuthPct": "AuthPct: percentage of samples that are no nearer to a training image than its nearest other one is.",
    "rarity": "Rarity: mean radius (k=3) of the smallest real ball that holds a sample, samples in none left out.",
}


def _text_legend(benchmark: BenchmarkSpec) -> list[str]:
    """How a text-to-image benchmark samples and how its rows are paired."""
    if benchmark.text is None:
        return []
    models = [f"{choice.name} by `{choice.model}`" for choice in text_choices(benchmark)]
    text = benchmark.text
    fit = f"{', '.join(models)}: how well image and prompt fit to that model; values of others do not compare."
    return [
        f"Image i of every seed is drawn for prompt i of `{text.prompts}`, guidance scale {text.guidance_scale:g},"
        " from the same initial noise in every row.",
        *([fit] if models else []),
        f"Difference to `{BASELINE}`: mean over all pairs of images of the same prompt and noise, ± half-width of the"
        " 95 % interval with prompts, not images, as the independent units (a prompt's seeds and repeats together);"
        " `higher` or `lower` where it excludes 0, with no correction for the number of metrics. A dash: other prompts,"
        " seeds or generator, which make no pairs.",
    ]


def _legend(benchmark: BenchmarkSpec) -> list[str]:
    seeds = ", ".join(str(seed) for seed in benchmark.seeds)
    return [
        f"{benchmark.n} samples a seed, seeds {seeds}, {benchmark.steps} steps; mean ± half-width of the 95 %"
        " t-interval over seeds. Bold: best; underlined: second; by value.",
        f"{LEVEL}: not significantly different from the best of its column: the 95 % interval of the difference holds"
        " 0, taken over pairs of images that began with the same noise for means over images (scores, minority share,"
        " how well images fit their prompts), and over the differences of the seeds for all other metrics, where"
        " three seeds leave much room. Nothing corrects for the number of rows and columns.",
        *_reference_legend(benchmark),
        "Milliseconds a sample are those of the machine that made the record and compare within it only.",
        "Record: its id, and who measured the row. `self`: whoever submitted it and nobody else; `ci` or `maintainer`:"
        " measured again, within its tolerance, by a public job or by a maintainer (`badges.json`).",
    ]


def _reference_legend(benchmark: BenchmarkSpec) -> list[str]:
    """What the metrics are measured against, or will be once the reference set is built."""
    folder = reference_folder(benchmark.reference_set)
    if is_recipe_only(folder):
        plan = load_protocol(folder / PROTOCOL_FILE)
        return [
            f"The reference set `{benchmark.reference_set}` is a recipe so far, and nothing can have been measured"
            f" against it: {plan.protocol} `{plan.command}` builds it."
        ]
    recipe = load_reference_set(benchmark.reference_set).recipe
    real = recipe.statistics
    return [
        f"FD: Frechet distance in the features named. It, precision, recall, density and coverage"
        f" (k={benchmark.manifold_k}, in {benchmark.manifold_features}) are against the reference set"
        f" `{benchmark.reference_set}`: the {recipe.n} images of {benchmark.dataset} ({benchmark.split}) with the"
        f" lowest deflated JEPA-SCORE by `{recipe.encoder['name']}`.",
        "JEPA-SCORE: by the guide of the table, which the jepa rows optimise; held-out: by encoders that did not guide."
        " Deflated: without the singular values that the encoder's head makes zero whatever the image.",
        f"Minority share: samples whose deflated score by `{recipe.encoder['name']}` is at or below that of the last"
        f" member of the reference set, {recipe.threshold:.2f}. For comparison, the real images that were ranked have"
        f" a mean deflated score of {real['mean']:.2f} and, by construction, a share of"
        f" {recipe.n / recipe.dataset['n']:.2f}.",
    ]
