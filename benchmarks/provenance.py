"""Where a result comes from, whether it can be made again, and how two sets of results differ."""

import json
import os
import platform
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from benchmarks.results import ResultError, decisions, made_by_another_version, read_newest, read_predictions, read_result, task_of

if TYPE_CHECKING:
    from datamodules.batch import Task  # loads torch

TOLERANCE = 1e-6
"""Probabilities that differ by no more than this are the same: a unit or two in the last place of float32."""

_PACKAGES = (
    *("torch", "lightning", "torchaudio", "transformers", "tokenizers", "torchmetrics", "librosa", "soundfile", "av"),
    *("pandas", "numpy", "scipy", "scikit-learn", "opensmile"),
)


def environment(device: Any) -> dict[str, Any]:  # noqa: ANN401
    """What a run on ``device``, a `torch.device`, runs on: code, packages, hardware."""
    import torch

    cuda = device.type == "cuda"
    cpu = _cpu()
    return {
        "fusion_zoo": version("fusion-zoo"),
        "revision": revision(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: version(name) for name in _PACKAGES if find_spec(name.replace("scikit-learn", "sklearn"))},
        "device": torch.cuda.get_device_name(device) if cuda else cpu,
        "cpu": cpu,
        "cores": os.cpu_count(),
        "cuda": torch.version.cuda if cuda else None,
        "cudnn": torch.backends.cudnn.version() if cuda else None,  # type: ignore[no-untyped-call]
        "driver": _driver() if cuda else None,
        "threads": torch.get_num_threads(),
    }


@cache
def _cpu() -> str:
    """The processor's name as the system gives it."""
    file = Path("/proc/cpuinfo")
    found = re.search(r"^model name\s*:\s*(.+)$", file.read_text(), re.MULTILINE) if file.exists() else None
    return found[1].strip() if found else platform.processor() or f"{platform.machine()} CPU"


def _driver() -> str | None:
    """Version of NVIDIA's driver, where the kernel tells."""
    file = Path("/proc/driver/nvidia/version")
    found = re.search(r"Kernel Module.*?\s(\d+\.[\d.]+)\s", file.read_text()) if file.exists() else None
    return found[1] if found else None


@cache
def revision() -> str | None:
    """Commit of the checkout this code runs from, ``-dirty`` with uncommitted changes, at the first call; None for a package."""
    here = Path(__file__).resolve().parent
    try:
        git = ["git", "-C", str(here)]
        # An installed copy may lie inside a checkout of something else.
        tracked = subprocess.run([*git, "ls-files", "--error-unmatch", Path(__file__).name], capture_output=True, check=False)  # noqa: S603
        describe = [*git, "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
        done = subprocess.run(describe, capture_output=True, text=True, check=False)  # noqa: S603
    except FileNotFoundError:
        return None
    return done.stdout.strip() or None if tracked.returncode == 0 else None


class Difference(NamedTuple):
    """How the predictions of two runs differ.

    Attributes:
        largest: Largest difference of a probability; infinite where the utterances, labels or classes aren't the same.
        changed: Utterances whose most probable class is another; of a multi-label task, whose predicted classes are others.
        utterances: In all.
    """

    largest: float
    changed: int
    utterances: int

    def __str__(self) -> str:
        if np.isinf(self.largest):
            return "not of the same utterances, labels and classes"
        return f"largest difference of a probability {self.largest:.2g}, {self.changed} of {self.utterances} predictions changed"


def compare_predictions(one: pd.DataFrame, other: pd.DataFrame, task: "Task" = "multiclass") -> Difference:
    """Compare the ``predictions.parquet`` of two runs of a task, whatever the order of their rows."""
    one, other = (frame.set_index("utterance_id").sort_index() for frame in (one, other))
    columns = [column for column in one.columns if column.startswith("p_")]
    same = one.index.equals(other.index) and columns == [column for column in other.columns if column.startswith("p_")]
    if not same or not one["label"].equals(other["label"]):
        return Difference(float("inf"), len(one), len(one))
    ours, theirs = one[columns].to_numpy(), other[columns].to_numpy()
    classes = [column.removeprefix("p_") for column in columns]
    changed = int((decisions(one, classes, task) != decisions(other, classes, task)).sum())
    return Difference(float(np.abs(ours - theirs).max(initial=0.0)), changed, len(one))


@dataclass(frozen=True)
class Reproduction:
    """A run and its repetition.

    Attributes:
        folders: The original's and the repetition's.
        scores: By metric, ours first; in [0, 1].
        predictions: How they differ.
        changes: What differs in code, environment and spec, ours first, by its dotted name.
        tolerance: Up to which difference probabilities are the same.
    """

    folders: tuple[Path, Path]
    scores: dict[str, tuple[float, float]]
    predictions: Difference
    changes: dict[str, tuple[Any, Any]]
    tolerance: float

    @property
    def identical(self) -> bool:
        """Whether no probability differs by more than the tolerance."""
        return self.predictions.largest <= self.tolerance

    def __str__(self) -> str:
        lines = [f"{self.folders[0]}", f"{self.folders[1]}", ""]
        lines += [f"{'':12} {'original':>9} {'again':>9} {'difference':>11}"]
        lines += [f"{name:12} {100 * a:9.2f} {100 * b:9.2f} {100 * (b - a):+11.2f}" for name, (a, b) in self.scores.items()]
        lines += ["", str(self.predictions)]
        changes = [f"  {name}: {a} -> {b}" for name, (a, b) in self.changes.items()]
        lines += ["what differs in code and environment:", *changes] if changes else ["code and environment are the same"]
        verdict = "identical" if self.identical else "different"
        return "\n".join([*lines, f"{verdict} (tolerance {self.tolerance:g})"])


def reproduce(
    folder: Path | str,
    out: Path | str,
    corpus: str | None = None,
    root: Path | None = None,
    threads: int | None = None,
    tolerance: float = TOLERANCE,
) -> Reproduction:
    """Run a finished run again and compare.

    Args:
        folder: The run's folder.
        out: Folder of results for the repetition; it must not hold this run already.
        corpus: Where a manifest is now, if it has moved.
        root: Where a named corpus is now, if it has moved.
        threads: CPU threads; None for as many as the original had, since their number decides the order of sums.
        tolerance: Up to which difference probabilities are the same.

    Raises:
        ResultError: If the run doesn't say what it was made from, or in words of another version, the data or the features are
            others, ``out`` holds the original or a repetition already, or the run fails.
        BadInputError: If the corpus isn't there.
    """
    from pydantic import ValidationError

    from benchmarks.execute import execute
    from benchmarks.runner import expand
    from benchmarks.spec import Execution, Suite
    from datamodules.workers import set_threads

    folder, out = Path(folder), Path(out)
    result = read_result(folder)
    spec = result["spec"]
    if not result.get("suite"):
        raise ResultError(f"{folder} was made by a version that didn't keep where its data came from; run its suite again")
    if out.resolve() == folder.resolve().parent:
        raise ResultError(f"{out} holds the original; name another folder with --out")
    values = result["suite"] | ({"corpus": corpus} if corpus else {}) | ({"root": root} if root else {})
    try:
        suite = Suite(**values)
    except ValidationError as error:
        raise made_by_another_version(folder, error) from error
    set_threads(result["environment"]["threads"] if threads is None else threads)
    job = next((job for job in expand(suite, spec["precision"]) if job.spec.fold == spec["fold"]), None)
    now = {} if job is None else json.loads(job.spec.model_dump_json())
    decisive = ("method", "options", "seed", "protocol", "classes", "audio", "text", "data")
    others = [key for key in decisive if now.get(key) != spec[key]]
    if job is None or others:
        told = "; ".join(f"{key} was {spec[key]}, is {now.get(key)}" for key in others)
        raise ResultError(
            f"the data of {folder.name} can't be had again: {told}. Name the corpus it was made from with --root or --corpus"
        )
    if (out / job.spec.run_id).exists():
        raise ResultError(f"{out / job.spec.run_id} exists already; remove it, or name another folder with --out")
    (outcome,) = execute([job], out, Execution())
    if outcome.status == "failed":
        raise ResultError(f"the run failed this time: {outcome.error} (traceback in {outcome.folder})")
    again = read_result(outcome.folder)
    return Reproduction(
        folders=(folder, outcome.folder),
        scores={name: (value, again["scores"][name]) for name, value in result["scores"].items() if isinstance(value, float)},
        predictions=compare_predictions(read_predictions(folder), read_predictions(outcome.folder), task_of(again)),
        changes=_changes(spec, again["spec"]) | _changes(result["environment"], again["environment"], "environment."),
        tolerance=tolerance,
    )


def _changes(one: Mapping[str, Any], other: Mapping[str, Any], prefix: str = "") -> dict[str, tuple[Any, Any]]:
    """The values that differ in two nested mappings, by dotted name."""
    found: dict[str, tuple[Any, Any]] = {}
    for key in dict.fromkeys([*one, *other]):
        a, b = one.get(key), other.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            found |= _changes(a, b, f"{prefix}{key}.")
        elif a != b:
            found[f"{prefix}{key}"] = a, b
    return found


class Row(NamedTuple):
    """A row that two folders of results have in common, over the runs that both have.

    Attributes:
        name: Method, variant, corpus and protocol.
        runs: How many folds and seeds.
        metric: The headline metric.
        one: Mean and sample deviation in the first folder, in [0, 1].
        other: The same in the second.
        change: Mean and sample deviation of the runs' differences, second less first.
        predictions: Largest difference, and changed predictions over all runs.
    """

    name: str
    runs: int
    metric: str
    one: tuple[float, float]
    other: tuple[float, float]
    change: tuple[float, float]
    predictions: Difference


@dataclass(frozen=True)
class Comparison:
    """Two folders of results.

    Attributes:
        folders: Which.
        rows: What both have.
        only: Runs that only the one or the other has, by readable names.
        tolerance: Up to which difference probabilities are the same.
    """

    folders: tuple[Path, Path]
    rows: list[Row]
    only: tuple[list[str], list[str]]
    tolerance: float

    @property
    def same(self) -> bool:
        """Whether both hold the same runs and no probability differs by more than the tolerance."""
        return not any(self.only) and all(row.predictions.largest <= self.tolerance for row in self.rows)

    def __str__(self) -> str:
        parts = []
        for row in self.rows:
            (a, da), (b, db), (c, dc) = ((100 * mean, 100 * deviation) for mean, deviation in (row.one, row.other, row.change))
            parts.append(
                f"{row.name}, {row.runs} runs: {row.metric} {a:.1f} ± {da:.1f} -> {b:.1f} ± {db:.1f}, "
                f"difference {c:+.2f} ± {dc:.2f}; {row.predictions}"
            )
        for folder, names in zip(self.folders, self.only, strict=True):
            parts += [f"only in {folder}: {len(names)} runs", *(f"  {name}" for name in names)] if names else []
        verdict = "the same" if self.same else "different"
        return "\n".join([*parts, f"{verdict} (tolerance {self.tolerance:g})"])


def compare(one: Path | str, other: Path | str, tolerance: float = TOLERANCE) -> Comparison:
    """Compare two folders of results run by run; what differs only in code, and in what variant and corpus are called, is one run.

    Raises:
        ResultError: If one holds no finished run, or a file is damaged.
    """
    folders = Path(one), Path(other)
    sides = [_newest(folder) for folder in folders]
    common = sides[0].keys() & sides[1].keys()
    rows = []
    grouped: dict[str, list[str]] = {}
    for key in (key for key in sides[0] if key in common):
        grouped.setdefault(_key(sides[0][key].spec, ("fold", "seed")), []).append(key)
    for keys in grouped.values():
        first = sides[0][keys[0]]
        values = np.array([[side[key].scores[first.headline] for side in sides] for key in keys])  # (runs, 2)
        files = [[read_predictions(side[key].folder) for side in sides] for key in keys]
        differences = [compare_predictions(one, other, first.task) for one, other in files]
        rows.append(
            Row(
                name=_name(first.spec),
                runs=len(keys),
                metric=first.headline,
                one=_mean_and_deviation(values[:, 0]),
                other=_mean_and_deviation(values[:, 1]),
                change=_mean_and_deviation(values[:, 1] - values[:, 0]),
                predictions=Difference(
                    max(d.largest for d in differences), sum(d.changed for d in differences), sum(d.utterances for d in differences)
                ),
            )
        )
    only = [[_name(run.spec, True) for key, run in side.items() if key not in common] for side in sides]
    return Comparison(folders, rows, (only[0], only[1]), tolerance)


class _Run(NamedTuple):
    folder: Path
    spec: dict[str, Any]
    scores: dict[str, Any]
    headline: str
    task: "Task"


def _newest(out: Path) -> dict[str, _Run]:
    """The newest run of every spec, by its `_key`."""
    found = {
        _key(spec): _Run(out / name, spec, result["scores"], result["headline"], task_of(result))
        for name, spec, result in read_newest(out, _key)
    }
    if not found:
        raise ResultError(f"{out} holds no finished run; 'fusion-zoo bench --out {out}' makes some")
    return found


def _key(spec: dict[str, Any], without: tuple[str, ...] = ()) -> str:
    """What tells runs apart: the spec without its code, and without the corpus's name, since the data have a digest.

    What older results lack doesn't count where it says nothing.
    """
    left_out = {"code", "variant", "corpus", *without}
    return json.dumps(
        {key: value for key, value in spec.items() if key not in left_out and not _says_nothing(key, value)}, sort_keys=True
    )


def _says_nothing(key: str, value: Any) -> bool:  # noqa: ANN401
    """Whether a part of a spec is what it was before it could be named."""
    if key.endswith("_encoder"):
        return bool(value["trainable"] == "none")
    return value is None or (key == "absent" and not any(value.values()))


def _name(spec: dict[str, Any], single: bool = False) -> str:
    name = f"{spec['method']} ({spec['variant']}), {spec['corpus']}, {spec['protocol']}, {spec['track']}"
    return f"{name}, fold {spec['fold']}, seed {spec['seed']}" if single else name


def _mean_and_deviation(values: npt.NDArray[np.float64]) -> tuple[float, float]:
    return float(values.mean()), float(values.std(ddof=1)) if len(values) > 1 else 0.0
