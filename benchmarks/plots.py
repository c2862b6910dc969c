"""Figures of results."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from datamodules.corruptions import Corruption

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#E69F00", "#56B4E9")
"""Colours that people with any kind of colour vision tell apart (Okabe and Ito 2008), without the yellow, too pale for lines."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">")
LINES = ("-", "--", ":")


def confusion_figure(counts: npt.NDArray[np.integer], classes: Sequence[str]) -> Figure:
    """A confusion matrix: colour is recall within the true class, the number is the count.

    Args:
        counts: (C, C), rows the truth, columns the prediction.
        classes: Labels in that order.
    """
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    figure = Figure(figsize=(1.5 + 0.7 * len(classes), 1.2 + 0.6 * len(classes)), layout="constrained")
    axes = figure.subplots()
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    for (row, column), count in np.ndenumerate(counts):
        axes.text(column, row, str(count), ha="center", va="center", color="white" if share[row, column] > 0.5 else "black")
    axes.set_xticks(range(len(classes)), classes, rotation=45, ha="right")
    axes.set_yticks(range(len(classes)), classes)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    return figure


def degree_figure(rows: pd.DataFrame, kind: Corruption, metric: str) -> Figure:
    """Score by degree of a corruption, a line per method, mild degrees on the left; bars are the deviation over runs.

    Args:
        rows: ``label``, ``degree``, ``score_mean``, ``score_std``, ``clean_mean`` and ``clean_std``, shares of 1.
        kind: The corruption. Where clean input has no place on the axis it stands apart, joined by a dotted line.
        metric: Name of the score.
    """
    figure = Figure(figsize=(7.5, 4.2), layout="constrained")
    axes = figure.subplots()
    degrees = sorted({*rows["degree"], *([] if kind.clean is None else [kind.clean])})
    apart = degrees[-1] + (degrees[-1] - degrees[0]) / 4 if kind.clean is None else None
    # By name, so that a method looks the same in every figure; listed by score, so that the legend reads like the lines.
    looks = {label: number for number, label in enumerate(sorted(set(rows["label"])))}
    for label in rows.groupby("label")["score_mean"].mean().sort_values(ascending=False).index:
        own, number = rows[rows["label"] == label].sort_values("degree"), looks[label]
        x, y, deviation = (own[column].tolist() for column in ("degree", "score_mean", "score_std"))
        clean, spread = own["clean_mean"].iloc[0], own["clean_std"].iloc[0]
        if kind.clean is not None:
            at = 0 if kind.clean < x[0] else len(x)
            for values, value in ((x, kind.clean), (y, clean), (deviation, spread)):
                values.insert(at, value)
        colour, marker = COLOURS[number % len(COLOURS)], MARKERS[number % len(MARKERS)]
        line = LINES[number // len(COLOURS) % len(LINES)]
        axes.errorbar(x, y, deviation, color=colour, marker=marker, ls=line, ms=6, elinewidth=1, capsize=2, label=label)
        if apart is not None:
            axes.plot([apart, x[-1]], [clean, y[-1]], color=colour, ls=":", lw=1)
            axes.errorbar([apart], [clean], [spread], color=colour, marker=marker, ms=6, mfc="white", elinewidth=1, capsize=2)
    ticks = [*degrees, *([] if apart is None else [apart])]
    names = [
        "clean" if tick in (kind.clean, apart) else f"{tick:g}" if "dB" in kind.axis or "RT60" in kind.axis else f"{tick:.0%}"
        for tick in ticks
    ]
    axes.set_xticks(ticks, names)
    if kind.clean is None or kind.clean > degrees[0]:
        axes.invert_xaxis()
    axes.yaxis.set_major_formatter(PercentFormatter(1, symbol=""))
    axes.set_xlabel(kind.axis)
    axes.set_ylabel(f"{metric} (%)")
    axes.set_title(kind.title)
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right upper", frameon=False)
    return figure
