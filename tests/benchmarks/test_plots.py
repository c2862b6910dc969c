"""Figures: what they mark, and that their labels can be read."""

import itertools
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.text import Annotation, Text

from benchmarks.plots import pareto_figure, pareto_optimal
from benchmarks.results import ResultError
from datamodules.problems import UnknownNameError


def test_pareto_optimal_is_what_nothing_beats() -> None:
    random = np.random.default_rng(0)
    for _ in range(20):
        scores, costs = random.integers(0, 6, 15), random.integers(0, 6, 15)  # ties included
        for i, optimal in enumerate(pareto_optimal(scores, costs)):
            beaten = any(
                scores[j] >= scores[i] and costs[j] <= costs[i] and (scores[j] > scores[i] or costs[j] < costs[i])
                for j in range(15)
            )
            assert optimal == (not beaten)


def test_an_unknown_cost_neither_beats_nor_is_optimal() -> None:
    assert pareto_optimal([0.9, 0.5], [np.nan, 1.0]).tolist() == [False, True]


@pytest.fixture
def table() -> pd.DataFrame:
    """Fifteen methods, five of them in one place, and a second table."""
    random = np.random.default_rng(0)
    scores = np.where(np.arange(16) < 5, 0.65 + np.arange(16) / 1000, random.uniform(0.4, 0.8, 16))
    flops = np.where(np.arange(16) < 5, 1e6 * (1 + np.arange(16) / 50), 10 ** random.uniform(4, 9, 16))
    return pd.DataFrame(
        {
            "method": [f"method_{number}" for number in range(14)] + ["method_13", "alone"],
            "variant": ["default"] * 14 + ["hidden=64", "default"],
            "condition": [0] * 15 + [1],
            "headline": "uar",
            "uar_mean": scores,
            "uar_std": random.uniform(0, 0.03, 16),
            "flops_per_utterance": flops,
            "test_utterances_per_second": 1e10 / flops,
            "energy_joules": np.nan,
        }
    )


CAPTIONS = {0: ["demo 1"], 1: ["other 1"]}


def test_each_table_is_drawn_by_the_metric_that_ranks_it(table: pd.DataFrame) -> None:
    table["mean_weighted_accuracy_mean"], table["mean_weighted_accuracy_std"] = 0.5, 0.0
    table.loc[table["condition"] == 1, ["headline", "uar_mean"]] = ["mean_weighted_accuracy", np.nan]
    first, second = pareto_figure(table, CAPTIONS).axes
    assert first.get_ylabel().startswith("UAR")
    assert second.get_ylabel().startswith("mean weighted accuracy")
    assert second.get_lines()[0].get_ydata().tolist() == [50.0]


def test_labels_hide_no_point_and_no_other_label(table: pd.DataFrame, tmp_path: Path) -> None:
    figure = pareto_figure(table, CAPTIONS)
    figure.savefig(tmp_path / "figure.png", dpi=figure.dpi)
    for axes in figure.axes:
        labels = [child for child in axes.get_children() if isinstance(child, Annotation)]
        boxes = [Text.get_window_extent(label) for label in labels]
        assert not any(one.overlaps(other) for one, other in itertools.combinations(boxes, 2))
        points = axes.transData.transform([label.xy for label in labels])
        assert not any(box.contains(*point) for box in boxes for point in points)
        frame = axes.get_window_extent()
        assert all(frame.contains(box.x0, box.y0) and frame.contains(box.x1, box.y1) for box in boxes)
    names = {label.get_text() for axes in figure.axes for label in axes.texts}
    assert names >= {"method_0", "method_13 (default)", "method_13 (hidden=64)", "alone"}


@pytest.mark.parametrize("cost", ["flops_per_utterance", "test_utterances_per_second"])
def test_the_optimal_rows_of_each_table_are_marked(table: pd.DataFrame, cost: str) -> None:
    figure = pareto_figure(table, CAPTIONS, cost)
    for condition, axes in enumerate(figure.axes):
        rows = table[table["condition"] == condition]
        best = rows[pareto_optimal(rows["uar_mean"], rows["flops_per_utterance"])]
        bold = {label.get_text().split(" ")[0] for label in axes.texts if label.get_fontweight() == "bold"}
        assert bold == set(best["method"])
        assert axes.get_xscale() == "log"


def test_a_cost_that_nobody_has_is_explained(table: pd.DataFrame) -> None:
    with pytest.raises(ResultError, match="no result has energy_joules"):
        pareto_figure(table, CAPTIONS, "energy_joules")
    with pytest.raises(UnknownNameError, match="did you mean 'parameters'"):
        pareto_figure(table, CAPTIONS, "parameter")
