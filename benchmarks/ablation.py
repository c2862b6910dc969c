"""A paper's ablation table, run again: its rows in its order, its figures beside ours."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pandas as pd

from benchmarks.leaderboard import INTERVAL, TITLES, interval, percentages, read_leaderboard
from benchmarks.results import MULTILABEL_METRICS
from benchmarks.spec import MethodSpec, Suite, SuiteError
from benchmarks.tables import booktabs, document, pipe_table
from datamodules.features import FeatureError, parse_feature
from datamodules.features.transformer import CheckpointError
from zoo import get_method, list_methods, method_options

_METRICS = ("war", "uar", "macro_f1", "weighted_f1", *MULTILABEL_METRICS)
"""Those of the task are shown."""


def ablation_methods(method: str) -> list[str]:
    """The methods whose rows stand in the ablation table of ``method``.

    Raises:
        SuiteError: If it has no such table.
    """
    rows = get_method(method).ablations
    if not rows:
        having = ", ".join(name for name in list_methods() if get_method(name).ablations)
        raise SuiteError(f"{method} names no ablations; these do: {having}")
    return sorted({row.method for row in rows.values()})


def ablation_suite(method: str, suite: Suite) -> Suite:
    """A suite of the rows of the ablation table of ``method``, under the conditions of ``suite``.

    Options that the suite gives a method hold for all its rows, such as widths that a laptop can train; what a row changes
    comes on top.

    Raises:
        SuiteError: If the method has no such table, or the suite is tuned.
    """
    ablation_methods(method)
    if any(entry.tuned for entry in suite.methods):
        raise SuiteError("hyper-parameters were searched for whole methods, not for the rows of an ablation; take an untuned suite")
    given = {entry.method: entry.options for entry in reversed(suite.methods)}  # the first entry of a method counts
    missing = missing_features(method)
    rows = [
        MethodSpec(method=row.method, options={**given.get(row.method, {}), **row.options}, variant=name, audio=row.audio)
        for name, row in get_method(method).ablations.items()
        if row.audio not in missing
    ]
    return Suite(**{**suite.model_dump(), "methods": [row.model_dump() for row in rows]})


@cache
def missing_features(method: str) -> dict[str, str]:
    """Features of single rows that can't be had here, each with the reason: a checkpoint offline, a package not installed."""
    missing = {}
    for feature in {row.audio for row in get_method(method).ablations.values()} - {""}:
        try:
            parse_feature(feature).identity()
        except (CheckpointError, FeatureError) as error:
            missing[feature] = str(error)
    return missing


@dataclass(frozen=True)
class AblationTable:
    """The finished rows of an ablation, in the paper's order.

    Attributes:
        method: Whose table.
        metric: The headline metric, which the differences are of.
        table: One line per row, by its name: ``runs``, ``<metric>_mean`` and ``<metric>_std``, ``parameters``; of the headline
            metric ``low`` and ``high`` of its 95 % interval, ``delta`` to the full model with ``delta_low``, ``delta_high`` and
            ``p`` (Holm over all rows), not a number for the full model itself; and ``paper_<metric as the paper calls it>`` in
            percent, with ``derived`` where the paper doesn't print it but it follows from what it prints.
        captions: Conditions, assumptions and caveats.
        full: The row that the others are compared with, or None if it isn't finished.
    """

    method: str
    metric: str
    table: pd.DataFrame
    captions: list[str]
    full: str | None

    def to_csv(self) -> str:
        """The table with full precision."""
        return self.table.rename_axis("variant").to_csv(lineterminator="\n")

    def to_markdown(self) -> str:
        """The table for reading."""
        captions = "\n".join(f"- {line}" for line in self.captions)
        return "\n\n".join([f"**Ablation of {self.method}**", pipe_table(self._columns()), captions]) + "\n"

    def to_latex(self) -> str:
        """A document that compiles as it is."""
        means = {TITLES[metric]: self.table[f"{metric}_mean"].round(3) for metric in self._metrics()}
        best = {title: [n for n, mean in enumerate(column) if mean == column.max()] for title, column in means.items()}
        return document([booktabs(self._columns(), f"Ablation of {self.method} (%)", self.captions, best)])

    def _metrics(self) -> list[str]:
        return [metric for metric in _METRICS if f"{metric}_mean" in self.table]

    def _columns(self) -> dict[str, list[str]]:
        table, title = self.table, TITLES[self.metric]
        columns = {"variant": list(table.index), "runs": [str(n) for n in table["runs"]]}
        columns |= {TITLES[metric]: percentages(table, metric) for metric in self._metrics()}
        lines = table.itertuples()
        columns[f"Δ {title}"] = ["–" if pd.isna(delta) else f"{100 * delta:+.1f}" for delta in table["delta"]]
        columns[INTERVAL] = [
            "–" if pd.isna(line.delta_low) else interval(line.delta_low, line.delta_high, "+")  # type: ignore[arg-type]
            for line in lines
        ]
        columns["p (Holm)"] = ["–" if pd.isna(p) else "< 0.001" if p < 0.001 else f"{p:.3f}" for p in table["p"]]
        columns["parameters"] = [f"{count:,.0f}" for count in table["parameters"]]
        for name in [column for column in map(str, table) if column.startswith("paper_")]:
            columns[f"paper's {name.removeprefix('paper_')}"] = [
                "–" if pd.isna(value) else f"{'≈' * derived}{value:.2f}"
                for value, derived in zip(table[name], table["derived"], strict=True)
            ]
        return columns


def ablation_table(method: str, out: Path, runs: Mapping[str, str]) -> AblationTable:
    """The finished rows: our scores, what each row gains or loses against the full model, and the paper's figures.

    Args:
        method: Whose table.
        out: Folder of the results.
        runs: Run ids that belong to it, each with the name of its row.

    Raises:
        ResultError: If none of them is finished.
    """
    full = _full_row(method)
    board = read_leaderboard(out, runs, statistics=True, reference=full)
    found = board.table
    captions = list(dict.fromkeys(line for lines in board.captions.values() for line in lines))
    ablations = {name: row for name, row in get_method(method).ablations.items() if name in set(found["variant"])}
    metric, reference = found["headline"].iloc[0], full if full in ablations else None
    found = found.rename(columns={"headline_low": "low", "headline_high": "high", "headline_p": "p"})
    found["delta"] = found[f"{metric}_mean"] - found.loc[found["variant"] == reference, f"{metric}_mean"].max()
    found[["delta_low", "delta_high"]] = float("nan")
    # One comparison, of the rows with the suite's features; those with a feature of their own have others, without the reference.
    conditions = found.loc[found["variant"] == reference, "condition"]
    for comparison in [board.comparisons[number] for number in conditions if number in board.comparisons]:
        captions += comparison.notes
        captions.append(
            f"the reference is {reference}; intervals are of the difference to it, each of its row alone, and p is adjusted for "
            "all: an interval may leave out 0 where p is above 0.05"
        )
        found[["delta_low", "delta_high"]] = comparison.pairs.set_index("a")[["low", "high"]].reindex(found.index)
    found.loc[~found["condition"].isin(conditions), "p"] = float("nan")
    missing = missing_features(method)
    left_out = {name: missing[row.audio] for name, row in get_method(method).ablations.items() if row.audio in missing}
    captions += [f"not run: {name} ({reason})" for name, reason in left_out.items()]
    measured = [name for name in map(str, found) if name.endswith(("_mean", "_std"))]
    statistics = ["low", "high", "delta", "delta_low", "delta_high", "p"]
    table = found.set_index("variant").rename_axis(None).loc[list(ablations), ["runs", *measured, "parameters", *statistics]]
    for title in dict.fromkeys(key for row in ablations.values() for key in row.reported):
        table[f"paper_{title}"] = [row.reported.get(title, float("nan")) for row in ablations.values()]
    if any(row.reported for row in ablations.values()):
        table["derived"] = [row.derived for row in ablations.values()]
        captions.append("the paper's figures are of its own corpus and protocol: compare the order of the rows, not the numbers")
    if any(row.derived for row in ablations.values()):
        captions.append(f"≈: the paper doesn't print it; it follows from what it prints, as the page of {method} says")
    return AblationTable(method, metric, table, captions, reference)


def _full_row(method: str) -> str:
    """The row that is the method as its constructor's defaults have it, or the last one: what the others are compared with."""
    defaults = method_options(method)
    for name, row in get_method(method).ablations.items():
        if row.method == method and not row.audio and defaults | dict(row.options) == defaults:
            return name
    return list(get_method(method).ablations)[-1]
