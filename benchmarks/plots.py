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
from matplotlib.ticker import PercentFormatter
from matplotlib.transforms import Bbox

from benchmarks.results import COST_NAMES, COSTS, ResultError
from benchmarks.stats import ALPHA, Ranking
from datamodules.corruptions import Corruption
from datamodules.problems import UnknownNameError

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#E69F00", "#56B4E9")
"""Colours that people with any kind of colour vision tell apart (Okabe and Ito 2008), without the yellow, too pale for lines."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">")
LINES = ("-", "--", ":")
_BLUE, _GREY = COLOURS[0], "#595959"


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
    table: pd.DataFrame, captions: Mapping[int, Sequence[str]], cost: str = "flops_per_utterance", metric: str | None = None
) -> Figure:
    """Score against cost, a panel per condition: what is Pareto-optimal is named in blue and joined, the rest is grey.

    Args:
        table: `benchmarks.leaderboard.Leaderboard.table`.
        captions: `benchmarks.leaderboard.Leaderboard.captions`.
        cost: One of `benchmarks.results.COSTS`; of throughputs more is better, of the others less.
        metric: A score; None for the one that ranks each condition.

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
        _pareto_panel(axes, rows, cost, metric or rows["headline"].iloc[0])
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


def critical_difference_figure(ranking: Ranking) -> Figure:
    """Mean ranks on a line, the best to the left; a bar joins rows that Nemenyi's test can't tell apart (Demšar 2006)."""
    import scikit_posthocs  # slow to import, and no run needs it

    figure = Figure(figsize=(9, 1.2 + 0.2 * len(ranking.ranks)), layout="constrained")
    axes = figure.subplots()
    # The library would draw the critical difference over the axis's numbers, so it stands in the title.
    scikit_posthocs.critical_difference_diagram(
        ranking.ranks,
        ranking.pairs,
        alpha=ALPHA,
        ax=axes,
        text_h_margin=0.1,
        color_palette=dict.fromkeys(ranking.ranks.index, "black"),  # a colour would say nothing
    )
    axes.set_title(f"mean rank; critical difference {ranking.critical_difference:.2f}", fontsize="medium")
    return figure
