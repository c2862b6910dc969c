"""Figures of results."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from benchmarks.stats import ALPHA, Ranking


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


def critical_difference_figure(ranking: Ranking) -> Figure:
    """Mean ranks on a line, the best to the left; a bar joins rows that Nemenyi's test can't tell apart (Demšar 2006)."""
    import scikit_posthocs  # slow to import, and no run needs it

    figure = Figure(figsize=(9, 1.2 + 0.2 * len(ranking.ranks)), layout="constrained")
    axes = figure.subplots()
    # The library would draw the critical difference over the axis's numbers, so it stands in the title.
    scikit_posthocs.critical_difference_diagram(ranking.ranks, ranking.pairs, alpha=ALPHA, ax=axes, text_h_margin=0.1)
    axes.set_title(f"mean rank; critical difference {ranking.critical_difference:.2f}", fontsize="medium")
    return figure
