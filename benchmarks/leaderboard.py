"""The leaderboard: stored results -> one table per condition, as Markdown, CSV or LaTeX.

Rows that stand in one table were made under identical conditions: corpus, protocol, features, training and precision. Anything
else is another table, with its own caption.
"""

import json
import math
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from benchmarks import published as papers
from benchmarks import stats
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
    task_of,
)
from benchmarks.tables import booktabs, document, pipe_table

KEYS = ["method", "variant", "track", "corpus", "protocol"]
TITLES = {"war": "WAR", "uar": "UAR", "macro_f1": "macro F1", "weighted_f1": "weighted F1", "ece": "ECE"} | {
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
SINGLE = ("audio_only", "text_only")
"""What a fusion has to beat. Which other methods read one modality, only their code says, and that loads torch."""
INTERVAL = "95 % interval"
TIED = "tied"
STATISTICS_UP_TO = 1000
"""Runs. Statistics read every run's predictions, about a millisecond each; a folder of more is listed without, unless asked for."""


class Part(NamedTuple):
    """One table to print.

    Attributes:
        title: What it shows.
        columns: Title -> cells.
        best: Title -> numbers of the rows that have the best score.
    """

    title: str
    columns: dict[str, list[str]]
    best: dict[str, list[int]] = {}  # noqa: RUF012 - never changed


@dataclass(frozen=True)
class Leaderboard:
    """Aggregated results.

    Attributes:
        table: One row per method and variant within a condition, the best first and those that lack folds last: `KEYS`, ``runs``,
            ``folds``, ``<metric>_mean`` (over folds, each the mean over its seeds) and ``<metric>_std`` (sample deviation over
            runs), costs, ``coverage``, accuracy by slice, recall by class, ``audio``, ``text``, ``training``, ``precision``,
            ``max_seconds``, ``as_given`` (its options as JSON, empty where a search chose some or a modality is absent in
            training) and ``headline``, the metric that ranks; with
            statistics its ``headline_low``, ``headline_high``, ``headline_p`` and ``tied``, as `stats.Comparison.scores` has them.
        captions: What is common to all rows of a condition, by its number in the column ``condition``.
        failed: How many runs are recorded as failed.
        baselines: By condition the rows that need no model, ``method`` and the same columns; none for most tasks.
        comparisons: Intervals and tests on the headline metric, by condition; a row's name is its number in ``table.index``.
        ranking: Mean ranks over conditions, or over the folds of one; None where there is nothing to rank over.
        runs: One line per run that counts: its ``condition``, ``row`` (number in ``table.index``), ``run`` (id), ``fold`` and
            ``seed``.
    """

    table: pd.DataFrame
    captions: dict[int, list[str]]
    failed: int
    baselines: dict[int, pd.DataFrame] = field(default_factory=dict)
    comparisons: dict[int, stats.Comparison] = field(default_factory=dict)
    ranking: stats.Ranking | None = None
    runs: pd.DataFrame = field(default_factory=pd.DataFrame)

    def to_csv(self, published: bool = False) -> str:
        """The table with full precision.

        Args:
            published: Add a column ``published_<metric>`` for each that papers report under the same protocol, in percent.
        """
        table = self.table.drop(columns=["condition", "as_given"])
        if published:
            beside = [_published_cells(rows) for _, rows in self.table.groupby("condition", sort=True)]
            for metric in [m for m in METRICS if any(m in cells for cells in beside)]:
                table[f"published_{metric}"] = [
                    cell for cells, rows in self._with_rows(beside) for cell in cells.get(metric, [""] * rows)
                ]
        return table.to_csv(index=False, lineterminator="\n")

    def to_markdown(self, published: bool = False) -> str:
        """Tables for reading: scores and costs, then accuracy by slice, then recall by class, with caption and caveats.

        Args:
            published: Set what papers report beside ours where corpus and protocol are the same and the row's method is theirs, and
                list what isn't comparable.
        """
        parts = []
        for condition, rows in self.table.groupby("condition", sort=True):
            caption, *caveats = self.lines(int(str(condition)))
            scores, costs, *others = self.parts(rows, published)
            parts += [f"**{caption}**", pipe_table(scores.columns | costs.columns)]
            for part in others:
                parts += [f"{part.title}:", pipe_table(part.columns)]
            parts += ["\n".join(f"- {line}" for line in caveats)] if caveats else []
            for part in published_parts(rows) if published else []:
                parts += [f"{part.title}:", pipe_table(part.columns)] if part.columns else [f"{part.title}."]
        if self.ranking is not None:
            parts += [f"**Ranks**: {self.ranking.note}", pipe_table(rank_columns(self.ranking))]
        if self.failed:
            parts.append(f"{self.failed} runs failed; their errors are in the folder `failed`.")
        return "\n\n".join(parts) + "\n"

    def to_latex(self, published: bool = False) -> str:
        """A document that compiles as it is, one table environment per table: the best bold, ties marked, caveats as footnotes.

        Args:
            published: As of `to_markdown`.
        """
        tables = []
        for condition, rows in self.table.groupby("condition", sort=True):
            caption, *caveats = self.lines(int(str(condition)))
            for number, part in enumerate(map(_marked, self.parts(rows, published))):
                # What the rows have in common is said once, under the scores.
                tables.append(booktabs(part.columns, f"{part.title}: {caption}", [] if number else caveats, part.best))
            for part in published_parts(rows) if published else []:
                tables += [booktabs(part.columns, f"{part.title}: {caption}")] if part.columns else []
        if self.ranking is not None:
            tables.append(booktabs(rank_columns(self.ranking), f"Ranks: {self.ranking.note}"))
        return document(tables)

    def parts(self, rows: pd.DataFrame, published: bool = False) -> Iterator[Part]:
        """The tables of one condition: scores, costs, then accuracy by slice and figures by class where there are any.

        Args:
            rows: The condition's rows of ``table``.
            published: As of `to_markdown`.
        """
        return _parts(rows, published, self.baselines.get(int(rows["condition"].iloc[0]), pd.DataFrame()))

    def lines(self, condition: int) -> list[str]:
        """A condition's caption, then its caveats, those of the statistics among them."""
        comparison, rows = self.comparisons.get(condition), self.table[self.table["condition"] == condition]
        lines = list(self.captions[condition])
        if not rows["method"].isin(SINGLE).any():
            lines.append(f"neither {' nor '.join(SINGLE)} is here: what fusing gains can't be seen")
        return lines + (list(comparison.notes) if comparison else [])

    def _with_rows(self, parts: list[dict[str, list[str]]]) -> Iterator[tuple[dict[str, list[str]], int]]:
        return zip(parts, self.table.groupby("condition", sort=True).size(), strict=True)


def read_leaderboard(
    out: Path | str, only: Mapping[str, str] | None = None, statistics: bool | None = None, reference: str | None = None
) -> Leaderboard:
    """Aggregate finished runs under ``out``: all, or those whose run ids are in ``only``, which says what to call their variant.

    Runs of one method, options, data, fold and seed that differ only in the code: the newest counts, and a caveat says so.

    Args:
        out: Folder of the results.
        only: Which runs.
        statistics: Whether to read the stored predictions, for intervals, ties and ranks; None: up to `STATISTICS_UP_TO` runs.
        reference: The variant that the others of its condition are tested against; None for the best row.

    Raises:
        ResultError: If there is none, or one is damaged.
    """
    out = Path(out)
    flat = (
        _row(spec if only is None else spec | {"variant": only[name]}, result) | {"_run": name}
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
    keys = ["_condition", *KEYS, "_options"]
    # Folds count the same, however many seeds each has.
    by_fold = frame.groupby([*keys, "fold"], sort=False, dropna=False)[measured].mean().groupby(keys, sort=False, dropna=False)
    mean, deviation = by_fold.mean(), grouped[metrics].std()
    table = pd.DataFrame({"runs": grouped.size(), "folds": by_fold.size()})
    for metric in metrics:
        table[f"{metric}_mean"] = mean[metric]
        table[f"{metric}_std"] = deviation[metric].fillna(0.0).where(mean[metric].notna())
    rest = [c for c in measured if c not in metrics]
    table = (
        table.join(mean[rest])
        .join(grouped[["audio", "text", "training", "precision", "max_seconds", "as_given", "headline"]].first())
        .reset_index()
    )
    table["condition"] = table["_condition"].map(numbers)
    table["_score"] = [row[f"{row['headline']}_mean"] for _, row in table.iterrows()]
    # A row that lacks folds may have been spared the hard ones.
    order = {"condition": True, "folds": False, "_score": False, "method": True, "variant": True}
    table = table.sort_values(list(order), ascending=list(order.values()), ignore_index=True)
    place = {key: row for row, key in enumerate(table[["_condition", "method", "_options"]].itertuples(index=False, name=None))}
    frame["_row"] = [place[key] for key in frame[["_condition", "method", "_options"]].itertuples(index=False, name=None)]
    frame["condition"] = frame["_condition"].map(numbers)
    runs = frame[["condition", "_row", "_run", "fold", "seed"]].rename(columns={"_row": "row", "_run": "run"})
    finished = set(frame[identity].itertuples(index=False, name=None))
    failed = sum(identity_of(spec) not in finished for name, spec in read_failures(out) if only is None or name in only)
    table = table.drop(columns=["_score", "_condition", "_options"])
    baselines = {numbers[str(condition)]: _baselines(rows) for condition, rows in frame.groupby("_condition")}
    if statistics is None and len(frame) > STATISTICS_UP_TO:
        for caption in captions.values():
            caption.append(f"more than {STATISTICS_UP_TO:,} runs: intervals, ties and ranks only with --stats")
        statistics = False
    if statistics is False:
        return Leaderboard(table, captions, failed, baselines, runs=runs)
    comparisons = _compare(frame, out, captions, reference)
    for column in ("low", "high", "p", "tied"):
        name = column if column == TIED else f"headline_{column}"
        found = (
            pd.concat([comparison.scores[column] for comparison in comparisons.values()]) if comparisons else pd.Series(dtype=float)
        )
        table[name] = found.reindex(table.index)
    return Leaderboard(table, captions, failed, baselines, comparisons, _rank(table, frame), runs)


def _compare(frame: pd.DataFrame, out: Path, captions: dict[int, list[str]], reference: str | None) -> dict[int, stats.Comparison]:
    """The rows of every condition, compared on its headline metric."""
    comparisons = {}
    for condition, runs in frame.groupby("condition"):
        number, metric = int(str(condition)), runs["headline"].iloc[0]
        task = runs["_task"].iloc[0]
        if metric not in stats.METRICS[task]:
            captions[number].append(f"no intervals and ties: there are no statistics for {metric}")
            continue
        files = [
            stats.RunFile(run["_row"], run["fold"], run["seed"], out / run["_run"] / "predictions.parquet")
            for _, run in runs.iterrows()
        ]
        named = runs.loc[runs["variant"] == reference, "_row"]
        predictions = stats.read_predictions(files, json.loads(runs["_classes"].iloc[0]), task)
        comparisons[number] = stats.compare(predictions, metric, None if named.empty else named.iloc[0])
    return comparisons


def _rank(table: pd.DataFrame, frame: pd.DataFrame) -> stats.Ranking | None:
    """Ranks over the corpora that share rows, or over the folds of a single condition; tables of one corpus aren't blocks."""
    names = row_names(table)
    if table["corpus"].nunique() > 1:
        # Of every corpus one table: of all utterances, in one track, and of those the one with the most rows.
        plain = frame.loc[[not absent_notes(json.loads(absent)) for absent in frame["_absent"]], ["condition", "track"]]
        track = "controlled" if "controlled" in set(plain["track"]) else "published"
        found = table[table["condition"].isin(plain.loc[plain["track"] == track, "condition"])]
        found = found[found["folds"] == found.groupby("condition")["folds"].transform("max")]
        sizes = found.groupby(["corpus", "condition"], sort=True).size()
        chosen = sizes.groupby("corpus").idxmax().map(lambda pair: pair[1])
        rows = found[found["condition"].isin(chosen)]
        scores = pd.DataFrame(
            {"block": rows["corpus"], "row": names[rows.index], "score": [r[f"{r['headline']}_mean"] for _, r in rows.iterrows()]}
        ).pivot_table(index="block", columns="row", values="score", sort=False)
        blocks, caveats = "corpora", []
        if others := table["condition"].nunique() - len(chosen):
            caveats = [f"of each corpus one {track} table counts, that with the most rows: {others} more left out"]
    elif table["condition"].nunique() > 1:
        return None
    else:
        runs = frame.assign(row=names[frame["_row"]].to_numpy(), score=[r[r["headline"]] for _, r in frame.iterrows()])
        scores = runs.pivot_table(index="fold", columns="row", values="score", sort=False)
        blocks, caveats = "folds", ["folds share training data, so they aren't independent and p is too small"]
    whole = scores.dropna(axis=1)
    if dropped := [str(name) for name in scores if name not in whole]:
        caveats.append(f"not ranked, for want of results in all {blocks}: {', '.join(dropped)}")
    return stats.rank(whole, blocks, "; ".join(caveats)) if whole.shape[0] > 1 and whole.shape[1] > 2 else None


def corpus_name(corpus: str) -> str:
    """A corpus as results name it, without the dash of one that has no version."""
    return corpus.removesuffix(" -")


def row_names(table: pd.DataFrame) -> pd.Series:
    """A name for every row: the method, and its variant unless that is the default."""
    variant = table["variant"]
    return table["method"] + ("; " + variant).where(variant != "default", "")


def _row(spec: dict[str, Any], result: dict[str, Any]) -> dict[str, Any]:
    """One run as one flat row."""
    utterances = result["utterances"]
    return {
        **{key: spec[key] for key in KEYS},
        "fold": spec["fold"],
        "seed": spec["seed"],
        "_condition": condition_of(spec),
        "_options": row_options(spec),
        **_metric_values(result["scores"]),
        **cost_values(result),
        "coverage": utterances["usable"] / utterances["named"],
        **{f"war_{name}={value}": war for name, values in result["slices"].items() for value, war in values.items()},
        "_baselines": {name: _metric_values(scores) for name, scores in result.get("baselines", {}).items()},
        "audio": result["features"]["audio"] + _fine_tuned(spec, "audio"),
        "text": result["features"]["text"] + _fine_tuned(spec, "text"),
        "_fine_tuned": "".join(f", {m}{tuned}" for m in ("audio", "text") if (tuned := _fine_tuned(spec, m))),
        "training": _text(_shared_training(spec)),
        "headline": result["headline"],
        "finished": result["finished"],
        "precision": spec["precision"],
        "max_seconds": spec["max_seconds"],
        "as_given": _as_given(spec),
        "_classes": _text(spec["classes"]),
        "_task": task_of(result),
        "_device": result["environment"]["device"],
        "_revision": result["environment"]["revision"],
        "_at_a_time": _at_a_time(result["environment"].get("execution", {})),  # older results don't say
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
    """The metrics of a condition's task, in the order of reading: the headline, which ranks, first."""
    found = [metric for metric in TITLES if f"{metric}_mean" in rows and rows[f"{metric}_mean"].notna().any()]
    return sorted(found, key=lambda metric: metric != rows["headline"].iloc[0])


def _fine_tuned(spec: dict[str, Any], modality: str) -> str:
    """What to say of a modality's encoder: nothing if it is frozen."""
    encoder = spec.get(f"{modality}_encoder", {"trainable": "none"})  # older results have no such key
    return "" if encoder["trainable"] == "none" else f" (fine-tuned {encoder['trainable']}, lr {encoder['lr']:g})"


def condition_of(spec: dict[str, Any]) -> str:
    """Everything that the rows of one table have in common. The data stand for themselves, since names of manifests repeat."""
    keys = ["track", "corpus", "protocol", "precision", "max_seconds", "classes"]
    if spec["track"] == "controlled":  # in the other track every method has features of its own, and so another digest
        keys += ["data", "audio", "text"]
    encoders = {f"{modality}_encoder": _fine_tuned(spec, modality) for modality in ("audio", "text")}
    absent = {"absent": {m: share for m, share in spec.get("absent", {}).items() if share}}  # older results have no such key
    budget = {"training": _shared_training(spec)} if spec["track"] == "controlled" else {}
    return _text({key: spec[key] for key in keys} | budget | encoders | absent)


def row_options(spec: dict[str, Any]) -> str:
    """The options that tell rows of a method apart, as JSON; of a tuned run those before the search: folds have their own."""
    return _text((spec.get("search") or spec)["options"])


def _as_given(spec: dict[str, Any]) -> str:
    """The options as JSON; empty where a search chose some, or a modality is absent in training: no paper has that."""
    searched = any(not key.startswith("training.") for key in (spec.get("search") or {"space": {}})["space"])
    return "" if searched or any(spec.get("absent", {}).values()) else _text(spec["options"])


def _shared_training(spec: dict[str, Any]) -> dict[str, Any]:
    """The training as far as the rows of a table share it; of tuned runs the search in place of what it chose."""
    search = spec.get("search")  # older results have no such key
    if not search:
        return dict(spec["training"])
    shared = {key: value for key, value in spec["training"].items() if f"training.{key}" not in search["space"]}
    return shared | {"search": {"trials": search["trials"], "space": search["space"]}}


def _text(value: object) -> str:
    """JSON, kept once however many runs share it."""
    return sys.intern(json.dumps(value, sort_keys=True))


def absent_notes(absent: Mapping[str, float]) -> list[str]:
    """What to say of modalities that were taken from training, by their shares."""
    return [f"{m} absent from {100 * share:g} % of the training utterances" for m, share in absent.items() if share]


def identity_of(spec: dict[str, Any]) -> tuple[Any, ...]:
    """What two runs that differ only in the code share."""
    return condition_of(spec), spec["method"], row_options(spec), spec["fold"], spec["seed"]


def _captions(rows: pd.DataFrame, superseded: int) -> list[str]:
    """The caption, then one line per fact or caveat that a reader of the numbers must know."""
    first = rows.iloc[0]
    counts, training = json.loads(first["_utterances"]), json.loads(first["training"])
    test = rows.groupby("fold")["_utterances"].first().map(lambda counts: json.loads(counts)["test"]).sum()
    budget = (
        f"at most {training['max_epochs']} epochs, patience {training['patience']} on validation {TITLES[first['headline']]}, "
        f"batch {training['batch_size']}, AdamW{f' {lr:g}' if (lr := training.get('lr')) else ''}, "
        f"class weights {training['class_weights']}"
    )
    if search := training.get("search"):
        names = ", ".join(name.removeprefix("training.") for name in search["space"])
        budget += f"; hyper-parameters ({names}): {search['trials']} trials per method and fold, chosen on its validation split"
    facts = [
        f"{corpus_name(first['corpus'])}, protocol {first['protocol']}, {first['track']} track",
        f"audio {first['audio']}, text {first['text']}; {budget}; {first['precision']}"
        if first["track"] == "controlled"
        else f"features and training as each method's paper has them{first['_fine_tuned']}; {first['precision']}",
        f"{rows['fold'].nunique()} fold(s) x {rows['seed'].nunique()} seed(s), {test} test utterances in all; mean ± sample "
        "standard deviation over runs; the test split was used once per run, after selection on validation",
        f"coverage: {counts['usable']} of {counts['named']} utterances ({100 * counts['usable'] / counts['named']:.1f} %)",
        f"device {', '.join(sorted(set(rows['_device'])))}; revision {', '.join(sorted({str(r) for r in rows['_revision']}))}",
    ]
    if (at_a_time := set(rows["_at_a_time"])) != {_ALONE}:
        facts.append(f"costs measured with {' or '.join(sorted(at_a_time))} at a time")
    facts += absent_notes(json.loads(first["_absent"]))
    facts += dict.fromkeys(caveat for caveats in rows["_caveats"].unique() for caveat in json.loads(caveats))
    if superseded:
        facts.append(f"{superseded} older runs of the same method, fold and seed are not counted")
    return facts


_ALONE = "one run"


def _at_a_time(execution: Mapping[str, Any]) -> str:
    """How many runs there were while one's costs were measured, as `benchmarks.spec.Execution.conditions` tells."""
    if execution.get("executor") == "ray":
        return "as many runs as the Ray cluster took"
    if count := execution.get("per_gpu", 0):
        return f"{count} run{'s' * (count > 1)} on each GPU"
    count = execution.get("jobs", 1)
    return f"{count} runs" if count > 1 else _ALONE


def _names(rows: pd.DataFrame) -> dict[str, list[str]]:
    names = {"method": rows["method"].tolist()}
    return names if (rows["variant"] == "default").all() else names | {"variant": rows["variant"].tolist()}


def _parts(rows: pd.DataFrame, published: bool, baselines: pd.DataFrame) -> Iterator[Part]:
    """The tables of one condition: scores, costs, accuracy by slice, figures by class."""
    names = _names(rows)
    scores = _scores(rows, names, published)
    yield scores._replace(columns=_beside(scores.columns, baselines, {TITLES[m]: f"{m}_mean" for m in _metrics(rows)}))
    yield Part("Costs", _beside(names | cost_columns(rows), baselines, {}))
    slices = [c for c in rows.columns if c.startswith("war_") and c not in {"war_mean", "war_std"} and rows[c].notna().any()]
    if slices:
        title = f"Accuracy (WAR, %) by {slices[0].removeprefix('war_').split('=')[0]}"
        yield Part(title, names | {_slice_title(c): [f"{100 * v:.1f}" for v in rows[c]] for c in slices})
    for start, heading in _BY_CLASS.items():
        shown = {c.removeprefix(start): c for c in rows.columns if c.startswith(start) and rows[c].notna().any()}
        if shown:
            cells = {label: [_percent(value) for value in rows[column]] for label, column in shown.items()}
            yield Part(heading, _beside(names | cells, baselines, shown))


def _scores(rows: pd.DataFrame, names: dict[str, list[str]], published: bool) -> Part:
    headline = rows["headline"].iloc[0]
    columns, best = names | {"runs": [str(n) for n in rows["runs"]]}, {}
    for metric in _metrics(rows):
        columns[TITLES[metric]] = percentages(rows, metric)
        means = rows[f"{metric}_mean"].round(3).where(rows["folds"] == rows["folds"].max())
        best[TITLES[metric]] = [n for n, mean in enumerate(means) if mean == (means.min() if metric == "ece" else means.max())]
        if metric == headline and TIED in rows and rows["headline_low"].notna().any():
            columns[INTERVAL] = [interval(low, high) for low, high in zip(rows["headline_low"], rows["headline_high"], strict=True)]
            columns[TIED] = ["?" if pd.isna(tied) else "†" if tied else "" for tied in rows[TIED]]
    if published:
        columns |= {f"published {TITLES[metric]}": cells for metric, cells in _published_cells(rows).items()}
    return Part("Scores (%)", columns, best)


def _marked(part: Part) -> Part:
    """The part with its marks behind the scores, which takes less room than a column."""
    if TIED not in part.columns:
        return part
    titles = list(part.columns)
    headline = titles[titles.index(INTERVAL) - 1]
    marked = [score + mark for score, mark in zip(part.columns[headline], part.columns[TIED], strict=True)]
    return part._replace(columns={t: marked if t == headline else cells for t, cells in part.columns.items() if t != TIED})


def percentages(rows: pd.DataFrame, metric: str) -> list[str]:
    """A metric of every row of a table with its ``_mean`` and ``_std`` in percent, mean ± sample deviation; a dash for NaN."""
    pairs = zip(rows[f"{metric}_mean"], rows[f"{metric}_std"], strict=True)
    return ["–" if pd.isna(mean) else f"{100 * mean:.1f} ± {100 * std:.1f}" for mean, std in pairs]


def interval(low: float, high: float, sign: str = "") -> str:
    """An interval in percent; ``sign`` is ``+`` for differences."""
    return f"{100 * low:{sign}.1f} to {100 * high:{sign}.1f}"


def p_value(p: float) -> str:
    """A p-value for reading, which is never nought."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def _slice_title(column: str) -> str:
    return column.partition("=")[2]


def rank_columns(ranking: stats.Ranking) -> dict[str, list[str]]:
    """Mean ranks as columns of a table, the best first."""
    return {"by": [str(name) for name in ranking.ranks.index], "mean rank": [f"{rank:.2f}" for rank in ranking.ranks]}


def _published_cells(rows: pd.DataFrame) -> dict[str, list[str]]:
    """What papers report for the rows' methods under the same protocol, in percent: metric -> one cell per row.

    A row whose method isn't the paper's, by an option or by what it was trained without, has none. A star marks what was probably
    selected on test.
    """
    figures = papers.comparable(rows["corpus"].iloc[0], rows["protocol"].iloc[0])
    figures = figures[figures["method"].isin(rows["method"]) & figures["metric"].isin(METRICS)]
    if figures.empty:
        return {}
    stars = {papers.TRUST[1]: "*"}
    texts = figures.assign(
        text=[
            f"{papers.written(figure, '.1f')}{stars.get(trust, '')}"
            for (_, figure), trust in zip(figures.iterrows(), figures["trust"], strict=True)
        ]
    )
    found = texts.groupby(["metric", "method"])["text"].agg(", ".join)
    methods = [m if _is_papers(m, given) else "" for m, given in zip(rows["method"], rows["as_given"], strict=True)]
    cells = {metric: [found.get((metric, method), "") for method in methods] for metric in METRICS}
    return {metric: of_rows for metric, of_rows in cells.items() if any(of_rows)}


def _is_papers(method: str, given: str) -> bool:
    """Whether options are a method's defaults, or those with what its paper's features need."""
    from zoo import get_method, list_methods, method_options  # loads torch

    if not given or method not in list_methods():
        return False
    defaults, published = method_options(method), get_method(method).published
    papers_own = [defaults, defaults | dict(published.options)] if published else [defaults]
    return _text(defaults | json.loads(given)) in map(_text, papers_own)


def published_parts(rows: pd.DataFrame) -> Iterator[Part]:
    """Lists of what is published for the corpus: under the same protocol, and under others with why that isn't comparable."""
    corpus, protocol = rows["corpus"].iloc[0], rows["protocol"].iloc[0]
    same, others = papers.comparable(corpus, protocol), papers.incomparable(corpus, protocol)
    if same.empty:
        yield Part(f"Nothing is published under {protocol} for {corpus_name(corpus)}", {})
    else:
        trust = [f"{trust}{' (*)' if trust == papers.TRUST[1] else ''}" for trust in same["trust"]]
        own = ", not those above" if rows["track"].iloc[0] == "controlled" else ""
        derived = "; ≈: not printed, but follows from what is" if same["derived"].any() else ""
        yield Part(
            f"Published under {protocol}, with the papers' own features and training{own}; beside a row above if its options are "
            f"the paper's and nothing was taken from its training data{derived}",
            _figures(same)
            | {
                "trust": trust,
                "note": ["; ".join(filter(None, pair)) for pair in zip(same["selection"], same["note"], strict=True)],
            },
        )
    if not others.empty:
        why = [papers.why_not(figure) for _, figure in others.iterrows()]
        yield Part("Published for this corpus, not comparable", _figures(others) | {"why not comparable": why})


def _figures(figures: pd.DataFrame) -> dict[str, list[str]]:
    sources = [f"{paper}: {source}" for paper, source in zip(figures["paper"], figures["source"], strict=True)]
    return {
        "method": [method.removeprefix("other: ") for method in figures["method"]],
        "metric": [TITLES.get(metric, metric) for metric in figures["metric"]],
        "reported": [papers.written(figure) for _, figure in figures.iterrows()],
        "source": sources,
    }
