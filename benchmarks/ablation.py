"""A paper's ablation table, run again: its rows in its order, its figures beside ours."""

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from benchmarks.leaderboard import percentages, pipe_table, read_leaderboard
from benchmarks.spec import MethodSpec, Suite, SuiteError
from zoo import get_method, list_methods

_METRICS = {"WAR": "war", "UAR": "uar", "macro F1": "macro_f1", "weighted F1": "weighted_f1"}
_MULTILABEL = {"mean weighted accuracy": "mean_weighted_accuracy", "mean weighted F1": "mean_weighted_f1"}


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
        SuiteError: If the method has no such table.
    """
    ablation_methods(method)
    given = {entry.method: entry.options for entry in reversed(suite.methods)}  # the first entry of a method counts
    rows = [
        MethodSpec(method=row.method, options={**given.get(row.method, {}), **row.options}, variant=name)
        for name, row in get_method(method).ablations.items()
    ]
    return Suite(**{**suite.model_dump(), "methods": [row.model_dump() for row in rows]})


def ablation_table(method: str, out: Path, runs: Mapping[str, str]) -> str:
    """The finished rows as Markdown, in the paper's order: our scores, what each row gains or loses, and the paper's figures.

    Args:
        method: Whose table.
        out: Folder of the results.
        runs: Run ids that belong to it, each with the name of its row.

    Raises:
        ResultError: If none of them is finished.
    """
    board = read_leaderboard(out, runs)
    table = board.table.set_index("variant")
    ablations = {name: row for name, row in get_method(method).ablations.items() if name in table.index}
    table = table.loc[list(ablations)]
    metrics = _METRICS if "uar_mean" in table else _MULTILABEL
    gain = "UAR" if "uar_mean" in table else "mean weighted accuracy"
    means = table[f"{metrics[gain]}_mean"]
    full = means.get(_full_row(method), float("nan"))
    columns = {"variant": list(ablations), "runs": [str(n) for n in table["runs"]]}
    for title, metric in metrics.items():
        columns[title] = percentages(table, metric)
    columns[f"Δ {gain}"] = ["–" if pd.isna(full) else f"{100 * (mean - full):+.1f}" for mean in means]
    columns["parameters"] = [f"{count:,.0f}" for count in table["parameters"]]
    for title in dict.fromkeys(key for row in ablations.values() for key in row.reported):
        columns[f"paper's {title}"] = [f"{row.reported[title]:.2f}" if title in row.reported else "–" for row in ablations.values()]
    captions = [line for lines in board.captions.values() for line in lines]
    if any(row.reported for row in ablations.values()):
        captions.append("the paper's figures are of its own corpus and protocol: compare the order of the rows, not the numbers")
    return "\n\n".join([f"**Ablation of {method}**", pipe_table(columns), "\n".join(f"- {line}" for line in captions)]) + "\n"


def _full_row(method: str) -> str:
    """The row that changes nothing, or the last one: what the others are compared with."""
    ablations = get_method(method).ablations
    unchanged = [name for name, row in ablations.items() if row.method == method and not row.options]
    return unchanged[0] if unchanged else list(ablations)[-1]
