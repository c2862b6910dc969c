"""Results on disk: one folder per finished run, made atomically, and read back without torch.

::

    runs/<run id>/
        spec.yaml             everything that decides the result
        result.json           scores, costs, environment
        predictions.parquet   every test utterance's probabilities: new metrics need no retraining
        checkpoint.ckpt       weights of the selected epoch
        tensorboard/          learning curves, confusion matrices; or what `benchmarks.tracking` was asked for
    runs/failed/<run id>.json   a run that failed: its spec and the error
"""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from filelock import BaseFileLock, FileLock, Timeout

METRICS = ("war", "uar", "macro_f1", "weighted_f1", "ece")
MULTILABEL_METRICS = ("mean_weighted_accuracy", "mean_weighted_f1", "mean_roc_auc")
"""Of a multi-label task, instead: means over the classes of the following."""
CLASS_METRICS = ("weighted_accuracy", "weighted_f1", "roc_auc")
COSTS = ("parameters", "train_seconds", "train_utterances_per_second", "test_utterances_per_second", "peak_memory_mib")


class ResultError(ValueError):
    """A result that can't be read; the message names the file and the remedy."""


def is_finished(folder: Path) -> bool:
    """Whether a run is complete: folders appear under their name only when they are."""
    return (folder / "result.json").is_file()


def run_lock(out: Path, run_id: str, timeout: float) -> BaseFileLock:
    """The lock under which a run is done; entering it waits ``timeout`` seconds, and without end if that is negative.

    It is the kernel's ``flock``: it ends with its holder, however that ends, and on shared storage it holds between machines
    where the file system passes ``flock`` on, as NFSv4 does.

    Raises:
        filelock.Timeout: On entering, if another process holds it for longer.
    """
    locks = out / ".locks"
    locks.mkdir(parents=True, exist_ok=True)
    # Without flock the library would take a lock that outlives a killed holder.
    return FileLock(locks / run_id, timeout=timeout, fallback_to_soft=False)


def is_running(out: Path, run_id: str) -> bool:
    """Whether some process is at this run now."""
    if not (out / ".locks" / run_id).exists():
        return False
    try:
        with run_lock(out, run_id, 0):
            return False
    except Timeout:
        return True


def partial_folder(out: Path, run_id: str) -> Path:
    """An empty folder for a run to work in; what a killed one left is removed. Call it under the run's lock."""
    folder = out / f".partial-{run_id}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def commit(partial: Path, out: Path, spec: dict[str, Any], result: dict[str, Any], predictions: pd.DataFrame) -> Path:
    """Complete a run's folder and give it its name, in one step that a kill can't halve."""
    (partial / "spec.yaml").write_text(yaml.safe_dump(spec, sort_keys=False, allow_unicode=True), encoding="utf-8")
    predictions.to_parquet(partial / "predictions.parquet", index=False)
    (partial / "result.json").write_text(json.dumps(result, indent=1), encoding="utf-8")
    final = out / partial.name.removeprefix(".partial-")
    shutil.rmtree(final, ignore_errors=True)  # no finished run is there: the caller has looked, under the run's lock
    partial.rename(final)
    failure_file(out, final.name).unlink(missing_ok=True)
    return final


def failure_file(out: Path, run_id: str) -> Path:
    """Where a failed run is recorded."""
    return out / "failed" / f"{run_id}.json"


def record_failure(out: Path, run_id: str, spec: dict[str, Any], error: str, traceback: str) -> None:
    """Keep what went wrong; the next finished run of the same spec removes it."""
    file = failure_file(out, run_id)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({"spec": spec, "error": error, "traceback": traceback}, indent=1), encoding="utf-8")


def read_failures(out: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Run id and spec of every recorded failure under ``out``."""
    for file in sorted((out / "failed").glob("*.json")):
        yield file.stem, _load(file)["spec"]


def read_results(out: Path) -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
    """Run id, spec and result of every finished run under ``out``, in the order of their names.

    Raises:
        ResultError: If a file is damaged.
    """
    for file in sorted(out.glob("*/result.json")):
        if file.parent.name.startswith("."):
            continue  # a run in progress, or what a killed one left
        result = _load(file)
        yield file.parent.name, result["spec"], result


def _load(file: Path) -> dict[str, Any]:
    try:
        loaded: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ResultError(f"{file} is damaged ({error}); remove its folder and run the suite again") from error
    return loaded
