"""The sampling stage: a benchmark, a method and seeds to PNG files and a manifest."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minoritybench.engine.stage import run_stage
from minoritybench.given_samples import SAMPLES_FILE
from minoritybench.request_options import build_request
from minoritybench.sample_job import SamplePlan, SampleRequest, make_plan
from minoritybench.sample_shard import FACTS, STAGE, sample_shard
from minoritybench.store import Receipts, folder_lock, open_output, write_text


@dataclass(frozen=True)
class SampleOutcome:
    """Finished samples: folder, manifest rows (`file, seed, index, label, sha256`), seconds spent, network passes a
    sample by kind, the states of the code that drew them, one in a run that was never stopped, and the most
    memory a worker held."""

    out: Path
    rows: list[dict[str, Any]]
    seconds: float
    passes: dict[str, int]
    tools: list[dict[str, Any]]
    peak_memory_bytes: int


def sample(method: str, out: Path | str, *, force: bool = False, **options: Any) -> SampleOutcome:
    """Draw samples into `out`: PNGs and samples.json. Options are the fields of `SampleRequest`; `force` replaces
    different work of ours in `out`."""
    plan, facts = make_plan(build_request(SampleRequest, {"method": method}, options), Path(out))
    with folder_lock(Path(out)):
        open_output(Path(out), facts, force=force)
        return draw(plan)


def draw(plan: SamplePlan) -> SampleOutcome:
    """Draw the shards that are not done yet and write the manifest. The caller holds the folder's lock."""
    receipts = Receipts(Path(plan.out), STAGE, plan.token, FACTS)
    request = plan.request
    facts = run_stage(
        sample_shard,
        plan,
        plan.shards,
        receipts,
        label="sampling",
        workers=request.workers,
        engine=request.engine,
        device=request.device,
    )
    rows = [row for fact in facts for row in fact["rows"]]
    write_text(Path(plan.out) / SAMPLES_FILE, json.dumps(rows, indent=1) + "\n")
    tools = {json.dumps(fact["tool"], sort_keys=True): fact["tool"] for fact in facts}
    seconds = sum(fact["seconds"] for fact in facts)
    peak = max(fact["peak_memory_bytes"] for fact in facts)
    return SampleOutcome(Path(plan.out), rows, seconds, facts[0]["passes"], list(tools.values()), peak)
