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

import errno
import json
import math
import os
import shutil
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import yaml
from filelock import BaseFileLock, FileLock, Timeout

if TYPE_CHECKING:
    from pydantic import ValidationError

    from datamodules.batch import Task  # loads torch

METRICS = ("war", "uar", "macro_f1", "weighted_f1", "ece")
MULTILABEL_METRICS = ("mean_weighted_accuracy", "mean_weighted_f1", "mean_roc_auc")
"""Of a multi-label task, instead: means over the classes of the following."""
CLASS_METRICS = ("weighted_accuracy", "weighted_f1", "roc_auc")
COSTS = (
    "parameters",
    "trainable_parameters",
    "flops_per_utterance",
    "train_seconds",
    "train_utterances_per_second",
    "test_utterances_per_second",
    "latency_p50_ms",
    "latency_p95_ms",
    "peak_memory_mib",
    "energy_joules",
)


COST_NAMES = {
    "parameters": "parameters",
    "trainable_parameters": "trainable parameters",
    "flops_per_utterance": "FLOPs per utterance",
    "train_seconds": "training time, s",
    "train_utterances_per_second": "utterances per second in training",
    "test_utterances_per_second": "utterances per second at test",
    "latency_p50_ms": "latency of one answer, median, ms",
    "latency_p95_ms": "latency of one answer, 95th percentile, ms",
    "peak_memory_mib": "peak memory in training, MiB",
    "energy_joules": "energy of training, J",
}
"""What an axis says of each of `COSTS`."""


def _thousands(count: float) -> str:
    return f"{count / 1e6:.2f} M" if count >= 1e5 else f"{count / 1e3:.1f} k"


def _milliseconds(ms: float) -> str:
    return f"{ms:.2f}" if ms < 10 else f"{ms:.1f}"


_COST_TITLES: dict[str, tuple[str, Callable[[float], str]]] = {
    "parameters": ("parameters", _thousands),
    "trainable_parameters": ("trainable", _thousands),
    "flops_per_utterance": ("MFLOPs/utt", lambda n: f"{n / 1e6:.3g}" if n < 1e9 else f"{n / 1e6:.0f}"),
    "train_seconds": ("training s", lambda s: f"{s:.1f}"),
    "train_utterances_per_second": ("train utt/s", lambda n: f"{n:.0f}"),
    "test_utterances_per_second": ("test utt/s", lambda n: f"{n:.0f}"),
    "latency_p50_ms": ("latency ms", _milliseconds),
    "latency_p95_ms": ("p95 ms", _milliseconds),
    "peak_memory_mib": ("peak MiB", lambda n: f"{n:.0f}"),
    "energy_joules": ("energy kJ", lambda j: f"{j / 1000:.2f}"),
}


THRESHOLD = 0.5
"""Probability above which a multi-label task's class is predicted."""

Numbers = npt.NDArray[np.int32]


def decisions(predictions: pd.DataFrame, classes: Sequence[str], task: "Task" = "multiclass") -> Numbers:
    """What stored predictions decide for, one number per utterance.

    Args:
        predictions: As in ``predictions.parquet``.
        classes: Labels in the order of the probabilities; at most 31 of a multi-label task.
        task: ``multiclass`` or ``multilabel``.

    Returns:
        The position of the most probable class, (n,); of a multi-label task a bit per class, set above `THRESHOLD`.
    """
    probabilities = predictions[[f"p_{label}" for label in classes]].to_numpy()  # (n, C)
    return _as_bits(probabilities > THRESHOLD) if task == "multilabel" else probabilities.argmax(1).astype(np.int32)


def true_labels(predictions: pd.DataFrame, classes: Sequence[str], task: "Task" = "multiclass") -> Numbers:
    """The column ``label`` in the numbers of `decisions`."""
    if task == "multilabel":  # joined by "+"; a name that is no class says that none applies
        return _as_bits(predictions["label"].str.get_dummies("+").reindex(columns=list(classes), fill_value=0).to_numpy() > 0)
    return pd.Index(classes).get_indexer(pd.Index(predictions["label"])).astype(np.int32)


def _as_bits(positive: npt.NDArray[np.bool_]) -> Numbers:
    """(n, C) -> (n,), class c as bit c."""
    return positive @ (1 << np.arange(positive.shape[1], dtype=np.int32))


def from_bits(numbers: Numbers, count: int) -> npt.NDArray[np.bool_]:
    """Numbers (...) of a multi-label task -> which of its ``count`` classes are set, (..., C)."""
    return (numbers[..., None] >> np.arange(count, dtype=np.int32) & 1).astype(bool)


def task_of(result: Mapping[str, Any]) -> "Task":
    """``multiclass`` or ``multilabel``; older results don't say."""
    task: Task = result.get("task", "multiclass")
    return task


class ResultError(ValueError):
    """A result that can't be read; the message names the file and the remedy."""


class NothingStoredError(ResultError):
    """There is no result of the kind asked for; the message says what makes some."""


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
    """Complete a run's folder and give it its name, in one step that neither a kill nor a crash of the machine can halve."""
    (partial / "spec.yaml").write_text(yaml.safe_dump(spec, sort_keys=False, allow_unicode=True), encoding="utf-8")
    predictions.to_parquet(partial / "predictions.parquet", index=False)
    (partial / "result.json").write_text(json.dumps(result, indent=1), encoding="utf-8")
    final = out / partial.name.removeprefix(".partial-")
    if is_finished(final):  # the caller has looked, so locks don't hold here; the other's folder may have more in it by now
        shutil.rmtree(partial)
        return final
    shutil.rmtree(final, ignore_errors=True)
    for path in (*partial.rglob("*"), partial):  # else the name may reach the disk before what it names
        _sync(path)
    partial.rename(final)
    _sync(out)
    failure_file(out, final.name).unlink(missing_ok=True)
    return final


def _sync(path: Path) -> None:
    """Wait until a file, or the list of a folder's entries, is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno != errno.EINVAL or not path.is_dir():  # some shared folders can't do that for folders
            raise
    finally:
        os.close(handle)


def failure_file(out: Path, run_id: str) -> Path:
    """Where a failed run is recorded."""
    return out / "failed" / f"{run_id}.json"


def record_failure(out: Path, run_id: str, spec: dict[str, Any], error: str, traceback: str) -> None:
    """Keep what went wrong; the next finished run of the same spec removes it."""
    file = failure_file(out, run_id)
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f".{run_id}.{os.getpid()}")
    partial.write_text(json.dumps({"spec": spec, "error": error, "traceback": traceback}, indent=1), encoding="utf-8")
    _sync(partial)
    partial.replace(file)


def cost_values(result: dict[str, Any]) -> dict[str, float]:
    """The `COSTS` of a result; not a number where it has none: an older result, or a card that doesn't report its energy."""
    costs = result["costs"]
    return {name: math.nan if costs.get(name) is None else costs[name] for name in COSTS}


def shown_costs(rows: pd.DataFrame) -> list[str]:
    """Those of `COSTS` that say something about a table's rows: some row has one; the trainable parameters aren't simply all."""
    all_train = (rows["trainable_parameters"].fillna(rows["parameters"]) == rows["parameters"]).all()
    return [name for name in COSTS if rows[name].notna().any() and not (name == "trainable_parameters" and all_train)]


def cost_columns(rows: pd.DataFrame) -> dict[str, list[str]]:
    """The `shown_costs` of a table's rows for reading, by title; a dash where one is unknown."""
    written = {name: _COST_TITLES[name] for name in shown_costs(rows)}
    return {title: ["–" if math.isnan(value) else write(value) for value in rows[name]] for name, (title, write) in written.items()}


def read_failures(out: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Run id and spec of every recorded failure under ``out``.

    Raises:
        ResultError: If a record is damaged.
    """
    for file in sorted((out / "failed").glob("*.json")):
        yield file.stem, _load(file, "it")["spec"]


def read_results(out: Path) -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
    """Run id, spec and result of every finished run under ``out``, in the order of their names.

    Raises:
        ResultError: If a file is damaged.
    """
    if not out.is_dir():
        return
    with os.scandir(out) as entries:
        # What begins with a dot is a run in progress, or what a killed one left.
        names = sorted(entry.name for entry in entries if not entry.name.startswith(".") and entry.is_dir())
    for name in names:
        try:
            result = _load(out / name / "result.json")
        except FileNotFoundError:  # the folder of failures, or one of somebody else's
            continue
        yield name, result["spec"], result


def read_newest(out: Path, identity: Callable[[dict[str, Any]], Hashable]) -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
    """As `read_results`, but of runs whose specs have one identity the newest alone."""
    newest: dict[Hashable, tuple[str, str]] = {}
    for name, spec, result in read_results(out):
        key, found = identity(spec), (result["finished"], name)
        newest[key] = max(newest.get(key, found), found)
    for _, name in newest.values():
        result = _load(out / name / "result.json")
        yield name, result["spec"], result


def made_by_another_version(folder: Path, error: "ValidationError") -> ResultError:
    """The error for a run whose spec or suite has other keys than this version's."""
    first = error.errors()[0]
    return ResultError(
        f"{folder} was made by another version: this one can't read {'.'.join(map(str, first['loc']))} ({first['msg']}); use that "
        "version, or keep the run in another folder"
    )


def read_result(folder: Path) -> dict[str, Any]:
    """The ``result.json`` of a finished run.

    Raises:
        ResultError: If there is none, or it is damaged.
    """
    if not is_finished(folder):
        raise ResultError(f"{folder} is no folder of a finished run: it has no result.json")
    return _load(folder / "result.json")


def read_predictions(folder: Path) -> pd.DataFrame:
    """The ``predictions.parquet`` of a finished run; errors as of `read_stored`."""
    return read_stored(folder / "predictions.parquet")


def read_stored(file: Path, maker: str = "the suite") -> pd.DataFrame:
    """Predictions in a run's folder: its own, or what another ``maker`` added.

    Raises:
        ResultError: If there are none, or they are damaged.
    """
    from pyarrow import ArrowInvalid

    try:
        return pd.read_parquet(file)
    except (OSError, ArrowInvalid) as error:
        raise ResultError(f"{file} can't be read ({error}); remove its folder and run {maker} again") from error


def _load(file: Path, damaged: str = "its folder") -> dict[str, Any]:
    try:
        loaded: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ResultError(f"{file} is damaged ({error}); remove {damaged} and run the suite again") from error
    return loaded
