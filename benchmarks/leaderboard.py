"""The leaderboard: stored results -> one table per condition, as Markdown or CSV.

Rows that stand in one table were made under identical conditions: corpus, protocol, features, training and precision. Anything
else is another table, with its own caption.
"""

import json
import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks.results import (
    CLASS_METRICS,
    COSTS,
    METRICS,
    MULTILABEL_METRICS,
    ResultError,
    cost_columns,
    cost_values,
    read_failures,
    read_results,
)

KEYS = ["method", "variant", "track", "corpus", "protocol"]
_TITLES = {"war": "WAR", "uar": "UAR", "macro_f1": "macro F1", "weighted_f1": "weighted F1", "ece": "ECE"} | {
    "mean_weighted_accuracy": "mean weighted accuracy",
    "mean_weighted_f1": "mean weighted F1",
    "mean_roc_auc": "mean ROC-AUC",
}
_BY_CLASS = {
    "recall_": "Recall by class (%)",
    "weighted_accuracy_class=": "Weighted accuracy, (TPR + TNR) / 2, by class (%)",
    "weighted_f1_class=": "Weighted F1 of the binary task by class (%)",
    "roc_auc_class=": "ROC-AUC by class (%)",
}
"""How the columns of a table by class begin, and what stands above it."""


@dataclass(frozen=True)
class Leaderboard:
    """Aggregated results.

    Attributes:
        table: One row per method and variant within a condition, the best first: `KEYS`, ``runs``, ``<metric>_mean`` and
            ``<metric>_std`` (sample deviation over folds and seeds), costs, ``coverage``, accuracy by slice, recall by class,
            ``audio``, ``text``, ``training``, ``precision`` and ``max_seconds``.
        captions: What is common to all rows of a condition, by its number in the column ``condition``.
        baselines: Of a multi-label condition, the scores of classifiers that look at nothing, in columns of ``table``.
        failed: How many runs are recorded as failed.
    """

    table: pd.DataFrame
    captions: dict[int, list[str]]
    failed: int
    baselines: dict[int, pd.DataFrame] = field(default_factory=dict)

    def to_csv(self) -> str:
        """The table with full precision."""
        return self.table.drop(columns="condition").to_csv(index=False, lineterminator="\n")

    def to_markdown(self) -> str:
        """Tables for reading: scores and costs, then accuracy by slice, then recall by class, with caption and caveats."""
        parts = []
        for condition, rows in self.table.groupby("condition", sort=True):
            caption, *caveats = self.captions[int(str(condition))]
            baselines = self.baselines.get(int(str(condition)), pd.DataFrame())
            parts.append(f"**{caption}**")
            parts.append(pipe_table(_beside(_score_columns(rows), baselines, {_TITLES[m]: f"{m}_mean" for m in _metrics(rows)})))
            slices = [
                c for c in rows.columns if c.startswith("war_") and c not in {"war_mean", "war_std"} and rows[c].notna().any()
            ]
            if slices:
                name = slices[0].removeprefix("war_").split("=")[0]
                parts.append(f"Accuracy (WAR, %) by {name}:")
                parts.append(pipe_table(_names(rows) | {_slice_title(c): [f"{100 * v:.1f}" for v in rows[c]] for c in slices}))
            for start, heading in _BY_CLASS.items():
                shown = {c.removeprefix(start): c for c in rows.columns if c.startswith(start) and rows[c].notna().any()}
                if shown:
                    cells = {label: [_percent(value) for value in rows[column]] for label, column in shown.items()}
                    parts += [f"{heading}:", pipe_table(_beside(_names(rows) | cells, baselines, shown))]
            parts += ["\n".join(f"- {line}" for line in caveats)] if caveats else []
        if self.failed:
            parts.append(f"{self.failed} runs failed; their errors are in the folder `failed`.")
        return "\n\n".join(parts) + "\n"


def read_leaderboard(out: Path | str, only: Mapping[str, str] | None = None) -> Leaderboard:
    """Aggregate finished runs under ``out``: all, or those whose run ids are in ``only``, which says what to call their variant.

    Runs of one method, options, data, fold and seed that differ only in the code: the newest counts, and a caveat says so.

    Raises:
        ResultError: If there is none, or one is damaged.
    """
    out = Path(out)
    flat = (
        _row(spec if only is None else spec | {"variant": only[name]}, result)
        for name, spec, result in read_results(out)
        if only is None or name in only
    )
    # In pieces, because a frame takes a tenth of the memory of the dictionaries that it is made from; and with texts as objects,
    # so that those which runs share are held once.
    chunks = []
    with pd.option_context("future.infer_string", False):
        while not (chunk := pd.DataFrame(islice(flat, 500))).empty:
            chunks.append(chunk)
    if not chunks:
        raise ResultError(f"{out} holds no finished run; 'fusion-zoo bench --out {out}' makes some")
    frame = pd.concat(chunks, ignore_index=True).sort_values("finished", kind="stable")
    identity = ["_condition", "method", "_options", "fold", "seed"]
    superseded = frame[frame.duplicated(identity, keep="last")].groupby("_condition").size()
    frame = frame.drop_duplicates(identity, keep="last").sort_values([*identity], kind="stable")
    numbers = {condition: number for number, condition in enumerate(sorted(frame["_condition"].unique()))}
    captions = {}
    for condition, rows in frame.groupby("_condition"):
        stale = int(superseded.get(condition, 0))
        captions[numbers[str(condition)]] = _captions(rows, stale)
    # The label is only a name: rows are told apart by their options, and the newest label counts.
    newest = frame.sort_values("finished", kind="stable").groupby(["_condition", "method", "_options"])["variant"]
    frame["variant"] = newest.transform("last")
    grouped = frame.groupby(["_condition", *KEYS, "_options"], sort=False, dropna=False)
    metrics = [metric for metric in (*METRICS, *MULTILABEL_METRICS) if frame[metric].notna().any()]
    broken_down = [c for c in frame.columns if c.startswith(("war_", "recall_")) or "_class=" in c]
    measured = [*metrics, *(c for c in (*COSTS, "coverage") if c in frame), *broken_down]
    mean, deviation, runs_per_row = grouped[measured].mean(), grouped[metrics].std(), grouped.size()
    table = pd.DataFrame({"runs": runs_per_row})
    for metric in metrics:
        table[f"{metric}_mean"] = mean[metric]
        table[f"{metric}_std"] = deviation[metric].fillna(0.0).where(mean[metric].notna())
    rest = [c for c in measured if c not in metrics]
    table = (
        table.join(mean[rest])
        .join(grouped[["audio", "text", "training", "precision", "max_seconds", "headline"]].first())
        .reset_index()
    )
    table["condition"] = table.pop("_condition").map(numbers)
    table["_score"] = [row[f"{row['headline']}_mean"] for _, row in table.iterrows()]
    table = table.sort_values(["condition", "_score", "method", "variant"], ascending=[True, False, True, True])
    finished = set(frame[identity].itertuples(index=False, name=None))
    failed = sum(_identity(spec) not in finished for name, spec in read_failures(out) if only is None or name in only)
    baselines = {numbers[str(condition)]: _baselines(rows) for condition, rows in frame.groupby("_condition")}
    return Leaderboard(table.drop(columns=["_score", "_options", "headline"]).reset_index(drop=True), captions, failed, baselines)


def _row(spec: dict[str, Any], result: dict[str, Any]) -> dict[str, Any]:
    """One run as one flat row."""
    utterances = result["utterances"]
    return {
        **{key: spec[key] for key in KEYS},
        "fold": spec["fold"],
        "seed": spec["seed"],
        "_condition": condition_of(spec),
        "_options": _text(spec["options"]),
        **_metric_values(result["scores"]),
        **cost_values(result),
        "coverage": utterances["usable"] / utterances["named"],
        **{f"war_{name}={value}": war for name, values in result["slices"].items() for value, war in values.items()},
        "_baselines": {name: _metric_values(scores) for name, scores in result.get("baselines", {}).items()},
        "audio": result["features"]["audio"] + _fine_tuned(spec, "audio"),
        "text": result["features"]["text"] + _fine_tuned(spec, "text"),
        "_fine_tuned": "".join(f", {m}{tuned}" for m in ("audio", "text") if (tuned := _fine_tuned(spec, m))),
        "training": _text(spec["training"]),
        "headline": result["headline"],
        "finished": result["finished"],
        "precision": spec["precision"],
        "max_seconds": spec["max_seconds"],
        "_device": result["environment"]["device"],
        "_revision": result["environment"]["revision"],
        "_absent": _text(spec.get("absent", {})),
        "_utterances": _text(utterances),
        "_caveats": _text(result["caveats"]),
    }


def _metric_values(scores: dict[str, Any]) -> dict[str, float]:
    """A result's scores in columns, as a whole and by class; not a number for those of the other task."""
    by_class = scores.get("per_class", {}).items()
    values = {
        **{metric: scores.get(metric) for metric in (*METRICS, *MULTILABEL_METRICS)},
        **{f"recall_{label}": recall for label, recall in scores.get("recall", {}).items()},
        **{f"{metric}_class={label}": of_class[metric] for label, of_class in by_class for metric in CLASS_METRICS},
    }
    return {name: math.nan if value is None else value for name, value in values.items()}


def _baselines(rows: pd.DataFrame) -> pd.DataFrame:
    """One row per baseline, the mean over folds: ``method`` and columns as of `Leaderboard.table`."""
    found = [{"method": name, **values} for of_run in rows.drop_duplicates("fold")["_baselines"] for name, values in of_run.items()]
    if not found:
        return pd.DataFrame()
    means = pd.DataFrame(found).groupby("method", sort=False).mean()
    return means.rename(columns={metric: f"{metric}_mean" for metric in MULTILABEL_METRICS}).reset_index()


def _beside(columns: dict[str, list[str]], baselines: pd.DataFrame, shown: Mapping[str, str]) -> dict[str, list[str]]:
    """A table with a row below for each baseline, which has figures only in ``shown``: title -> column."""
    rows = [
        {title: _percent(row[column]) for title, column in shown.items()} | {"method": row["method"]}
        for _, row in baselines.iterrows()
    ]
    return {title: cells + [row.get(title, "–") for row in rows] for title, cells in columns.items()}


def _percent(value: float) -> str:
    return "–" if pd.isna(value) else f"{100 * value:.1f}"


def _metrics(rows: pd.DataFrame) -> list[str]:
    """The metrics of a condition's task, in the order of reading."""
    order = ("uar", "war", "macro_f1", "weighted_f1", "ece", *MULTILABEL_METRICS)
    return [metric for metric in order if f"{metric}_mean" in rows and rows[f"{metric}_mean"].notna().any()]


def _fine_tuned(spec: dict[str, Any], modality: str) -> str:
    """What to say of a modality's encoder: nothing if it is frozen."""
    encoder = spec.get(f"{modality}_encoder", {"trainable": "none"})  # older results have no such key
    return "" if encoder["trainable"] == "none" else f" (fine-tuned {encoder['trainable']}, lr {encoder['lr']:g})"


def condition_of(spec: dict[str, Any]) -> str:
    """Everything that the rows of one table have in common. The data stand for themselves, since names of manifests repeat."""
    keys = ["track", "corpus", "protocol", "precision", "max_seconds", "classes"]
    if spec["track"] == "controlled":  # in the other track every method has features of its own, and so another digest
        keys += ["data", "audio", "text", "training"]
    encoders = {f"{modality}_encoder": _fine_tuned(spec, modality) for modality in ("audio", "text")}
    absent = {"absent": {m: share for m, share in spec.get("absent", {}).items() if share}}  # older results have no such key
    return _text({key: spec[key] for key in keys} | encoders | absent)


def _text(value: object) -> str:
    """JSON, kept once however many runs share it."""
    return sys.intern(json.dumps(value, sort_keys=True))


def absent_notes(absent: Mapping[str, float]) -> list[str]:
    """What to say of modalities that were taken from training, by their shares."""
    return [f"{m} absent from {100 * share:g} % of the training utterances" for m, share in absent.items() if share]


def _identity(spec: dict[str, Any]) -> tuple[Any, ...]:
    """What two runs that differ only in the code share."""
    return condition_of(spec), spec["method"], _text(spec["options"]), spec["fold"], spec["seed"]


def _captions(rows: pd.DataFrame, superseded: int) -> list[str]:
    """The caption, then one line per fact or caveat that a reader of the numbers must know."""
    first = rows.iloc[0]
    counts, training = json.loads(first["_utterances"]), json.loads(first["training"])
    test = rows.groupby("fold")["_utterances"].first().map(lambda counts: json.loads(counts)["test"]).sum()
    budget = (
        f"at most {training['max_epochs']} epochs, patience {training['patience']} on validation {_TITLES[first['headline']]}, "
        f"batch {training['batch_size']}, AdamW {training['lr']:g}, class weights {training['class_weights']}"
    )
    facts = [
        f"{first['corpus']}, protocol {first['protocol']}, {first['track']} track",
        f"audio {first['audio']}, text {first['text']}; {budget}; {first['precision']}"
        if first["track"] == "controlled"
        else f"features and training as each method's paper has them{first['_fine_tuned']}; {first['precision']}",
        f"{rows['fold'].nunique()} fold(s) x {rows['seed'].nunique()} seed(s), {test} test utterances in all; mean ± sample "
        "standard deviation over runs; the test split was used once per run, after selection on validation",
        f"coverage: {counts['usable']} of {counts['named']} utterances ({100 * counts['usable'] / counts['named']:.1f} %)",
        f"device {', '.join(sorted(set(rows['_device'])))}; revision {', '.join(sorted({str(r) for r in rows['_revision']}))}",
    ]
    facts += absent_notes(json.loads(first["_absent"]))
    facts += dict.fromkeys(caveat for caveats in rows["_caveats"].unique() for caveat in json.loads(caveats))
    if superseded:
        facts.append(f"{superseded} older runs of the same method, fold and seed are not counted")
    return facts


def _names(rows: pd.DataFrame) -> dict[str, list[str]]:
    names = {"method": rows["method"].tolist()}
    return names if (rows["variant"] == "default").all() else names | {"variant": rows["variant"].tolist()}


def _score_columns(rows: pd.DataFrame) -> dict[str, list[str]]:
    columns = _names(rows) | {"runs": [str(n) for n in rows["runs"]]}
    for metric in _metrics(rows):
        columns[_TITLES[metric]] = percentages(rows, metric)
    return columns | cost_columns(rows)


def percentages(rows: pd.DataFrame, metric: str) -> list[str]:
    """A metric of every row of a table with its ``_mean`` and ``_std`` in percent, mean ± sample deviation; a dash for NaN."""
    pairs = zip(rows[f"{metric}_mean"], rows[f"{metric}_std"], strict=True)
    return ["–" if pd.isna(mean) else f"{100 * mean:.1f} ± {100 * std:.1f}" for mean, std in pairs]


def _slice_title(column: str) -> str:
    return column.partition("=")[2]


def pipe_table(columns: dict[str, list[str]]) -> str:
    """Columns of equal length as an aligned Markdown table; text to the left, numbers to the right."""
    escaped = {title: [cell.replace("|", "\\|") for cell in cells] for title, cells in columns.items()}
    widths = {title: max(len(title), 3, *map(len, cells)) for title, cells in escaped.items()}
    left = {"method", "variant"}

    def line(cells: list[str]) -> str:
        padded = [c.ljust(w) if t in left else c.rjust(w) for c, (t, w) in zip(cells, widths.items(), strict=True)]
        return f"| {' | '.join(padded)} |"

    rule = [":" + "-" * (w - 1) if t in left else "-" * (w - 1) + ":" for t, w in widths.items()]
    return "\n".join([line(list(escaped)), line(rule), *(line(list(row)) for row in zip(*escaped.values(), strict=True))])
