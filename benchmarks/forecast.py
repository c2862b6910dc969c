"""What a suite would do, before it does anything: the table of ``fusion-zoo bench --dry-run``."""

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import results
from benchmarks.runner import Job
from benchmarks.tables import pipe_table


@dataclass
class Forecast:
    """The runs of one method and variant.

    Attributes:
        method: The method.
        variant: Its name in results.
        runs: How many the suite has.
        cached: Finished earlier; they are not run again.
        failed: Failed earlier; they are run again.
        running: Another process is at them now.
        seconds: Training time of each run that is neither cached nor running, as far as it is known.
    """

    method: str
    variant: str
    runs: int = 0
    cached: int = 0
    failed: int = 0
    running: int = 0
    seconds: list[float | None] = field(default_factory=list)


def forecast(jobs: Sequence[Job], out: Path) -> list[Forecast]:
    """What would become of every job, by method and variant in the suite's order.

    The time of a run is the median training time of the finished runs under ``out`` of the same method, options, features,
    training and number of training utterances; None where there is no such run.

    Args:
        jobs: As of `benchmarks.runner.expand`.
        out: Folder of the results.

    Raises:
        ResultError: If a result under ``out`` is damaged.
    """
    past: dict[str, list[float]] = defaultdict(list)
    for _, old, result in results.read_results(out):
        past[_kind(old, result["utterances"]["train"])].append(result["costs"]["train_seconds"])
    rows: dict[tuple[str, str], Forecast] = {}
    for job in jobs:
        run_id, spec = job.spec.run_id, job.spec
        row = rows.setdefault((spec.method, spec.variant), Forecast(spec.method, spec.variant))
        row.runs += 1
        if results.is_finished(out / run_id):
            row.cached += 1
        elif results.is_running(out, run_id):
            row.running += 1
        else:
            row.failed += results.failure_file(out, run_id).exists()
            seconds = past.get(_kind(spec.model_dump(mode="json"), len(job.plan.folds[spec.fold].train)))
            row.seconds.append(median(seconds) if seconds else None)
    return list(rows.values())


def _kind(spec: dict[str, Any], train: int) -> str:
    """What runs of about the same duration share."""
    keys = ("method", "options", "audio", "text", "audio_encoder", "text_encoder", "training", "precision")
    return json.dumps([*(spec.get(key) for key in keys), train], sort_keys=True)


def forecast_table(rows: Sequence[Forecast]) -> str:
    """The forecast as Markdown, with the totals below."""
    counts = {
        "runs": [row.runs for row in rows],
        "cached": [row.cached for row in rows],
        "failed before": [row.failed for row in rows],
        "running elsewhere": [row.running for row in rows],
        "to do": [len(row.seconds) for row in rows],
    }
    table = pipe_table(
        {"method": [row.method for row in rows], "variant": [row.variant for row in rows]}
        | {title: [str(count) for count in column] for title, column in counts.items()}
        | {"training": [_duration(row.seconds) for row in rows]}
    )
    total = _duration([seconds for row in rows for seconds in row.seconds])
    return f"{table}\n\n{sum(counts['runs'])} runs, {sum(counts['to do'])} to do; training, one run after the other: {total}"


def _duration(seconds: Sequence[float | None]) -> str:
    """A sum of times for people; it says how many of them are unknown."""
    known = [s for s in seconds if s is not None]
    unknown = len(seconds) - len(known)
    if not known:
        return "unknown" if unknown else "–"
    total = round(sum(known))
    hours, minutes = divmod(-(-total // 60), 60)
    text = f"{total} s" if total < 100 else f"{hours} h {minutes} min" if hours else f"{minutes} min"
    return f"{text}, {unknown} unknown" if unknown else text
