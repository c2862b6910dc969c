"""Figures of results."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.text import Annotation, Text
from matplotlib.transforms import Bbox

from benchmarks.results import COST_NAMES, COSTS, ResultError
from datamodules.problems import UnknownNameError

# Okabe and Ito's blue, which no common colour blindness confuses with grey; the markers differ too.
_BLUE, _GREY = "#0072B2", "#595959"


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


def pareto_optimal(scores: npt.ArrayLike, costs: npt.ArrayLike) -> npt.NDArray[np.bool_]:
    """Which of n rows no other row beats: at least as good a score for at most the cost, and one of the two better.

    Args:
        scores: (n,), higher is better.
        costs: (n,), lower is better. Where one isn't a number the row neither beats nor is optimal.

    Returns:
        (n,).
    """
    score, cost = np.asarray(scores, float), np.asarray(costs, float)
    no_worse = (score >= score[:, None]) & (cost <= cost[:, None])  # [i, j]: j is no worse than i
    better = (score > score[:, None]) | (cost < cost[:, None])
    optimal: npt.NDArray[np.bool_] = ~(no_worse & better).any(axis=1) & np.isfinite(score) & np.isfinite(cost)
    return optimal


def pareto_figure(
    table: pd.DataFrame, captions: Mapping[int, Sequence[str]], cost: str = "flops_per_utterance", metric: str = "uar"
) -> Figure:
    """Score against cost, a panel per condition: what is Pareto-optimal is named in blue and joined, the rest is grey.

    Args:
        table: `benchmarks.leaderboard.Leaderboard.table`.
        captions: `benchmarks.leaderboard.Leaderboard.captions`.
        cost: One of `benchmarks.results.COSTS`; of throughputs more is better, of the others less.
        metric: One of `benchmarks.results.METRICS`.

    Raises:
        UnknownNameError: If there is no such cost.
        ResultError: If no row has it.
    """
    if cost not in COSTS:
        raise UnknownNameError("cost", cost, COSTS)
    known = table[np.isfinite(table[cost].astype(float)) & (table[cost] > 0)]
    if known.empty:
        raise ResultError(
            f"no result has {cost}: an older version made them, or hardware that doesn't report it; try --cost parameters"
        )
    conditions = list(known.groupby("condition", sort=True))
    figure = Figure(figsize=(8, 5 * len(conditions)), layout="constrained")
    panels = figure.subplots(len(conditions), 1, squeeze=False)[:, 0]
    for axes, (condition, rows) in zip(panels, conditions, strict=True):
        axes.set_title(captions[int(str(condition))][0], fontsize=10)
        _pareto_panel(axes, rows, cost, metric)
    legend = {name: handle for axes in panels for handle, name in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(legend.values(), legend.keys(), loc="outside lower center", ncols=len(legend), frameon=False)
    figure.draw_without_rendering()  # labels are placed where the layout has put the points
    for axes in panels:
        _separate(axes)
    return figure


def _pareto_panel(axes: Axes, rows: pd.DataFrame, cost: str, metric: str) -> None:
    more = cost.endswith("per_second")
    costs, scores, deviations = (rows[name].to_numpy(float) for name in (cost, f"{metric}_mean", f"{metric}_std"))
    scores, deviations = 100 * scores, 100 * deviations
    optimal = pareto_optimal(scores, -costs if more else costs)
    axes.set_xscale("log")
    for chosen, colour, face, marker, name in (
        (~optimal, _GREY, "white", "o", "another is as good and costs no more"),
        (optimal, _BLUE, _BLUE, "D", "Pareto-optimal"),
    ):
        if chosen.any():
            axes.errorbar(
                costs[chosen],
                scores[chosen],
                deviations[chosen],
                fmt=marker,
                color=colour,
                markerfacecolor=face,
                markersize=6,
                elinewidth=0.8,
                capsize=2,
                label=name,
            )
    order = np.argsort(costs[optimal])
    # A step: between two optimal rows, nothing does better than the cheaper of them.
    axes.step(costs[optimal][order], scores[optimal][order], where="pre" if more else "post", color=_BLUE, linewidth=1, alpha=0.5)
    axes.set_xlabel(f"{COST_NAMES[cost]} ({'more' if more else 'less'} is better)")
    axes.set_ylabel(f"{metric.upper() if len(metric) < 4 else metric.replace('_', ' ')} (%), mean ± sample deviation")
    # Wide enough for the labels, and for a single point.
    axes.set_xlim(costs.min() / _room(costs), costs.max() * _room(costs))
    axes.margins(y=0.1)
    axes.grid(visible=True, which="major", linewidth=0.4, alpha=0.5)
    several = rows["method"].duplicated(keep=False)
    names = rows["method"].where(~several, rows["method"] + " (" + rows["variant"] + ")")
    for at, name, best in sorted(zip(zip(costs, scores, strict=True), names, optimal, strict=True), key=lambda entry: not entry[2]):
        line = {"arrowstyle": "-", "color": _GREY, "linewidth": 0.5, "shrinkA": 0, "shrinkB": 4}
        colour, weight = (_BLUE, "bold") if best else (_GREY, "normal")
        offset: dict[str, Any] = {"xytext": (0, 8), "textcoords": "offset points", "arrowprops": line, "in_layout": False}
        axes.annotate(name, at, color=colour, fontweight=weight, fontsize=8, **offset)


def _room(costs: npt.NDArray[np.float64]) -> float:
    """By which factor the axis goes beyond the costs on either side."""
    return float(max((costs.max() / costs.min()) ** 0.15, 2.0))


def _separate(axes: Axes) -> None:
    """Move the labels of points, one after the other, to the nearest place where they hide no point and no other label."""
    labels = [child for child in axes.get_children() if isinstance(child, Annotation)]
    scale = axes.figure.dpi / 72
    points = axes.transData.transform([label.xy for label in labels])
    taken = [Bbox.from_bounds(x - 4 * scale, y - 4 * scale, 8 * scale, 8 * scale) for x, y in points]
    bars = [bar for child in axes.collections if isinstance(child, LineCollection) for bar in child.get_segments()]
    taken += [Bbox(axes.transData.transform(bar)).padded(scale) for bar in bars]
    frame = axes.get_window_extent()
    for label in labels:
        for distance, angle in itertools.product(range(8, 120, 6), np.radians([0, 90, 270, 180, 45, 135, 225, 315])):
            across, up = np.cos(angle), np.sin(angle)
            label.set_position((distance * across, distance * up))
            label.set_horizontalalignment("left" if across > 0.1 else "right" if across < -0.1 else "center")
            label.set_verticalalignment("center" if abs(up) < 0.1 else "bottom" if up > 0 else "top")
            box = Text.get_window_extent(label)
            inside = frame.x0 < box.x0 and box.x1 < frame.x1 and frame.y0 < box.y0 and box.y1 < frame.y1
            if inside and not any(box.overlaps(other) for other in taken):
                break
        taken.append(Text.get_window_extent(label))
