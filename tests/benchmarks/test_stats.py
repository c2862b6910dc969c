"""Statistics against torchmetrics, statsmodels, McNemar's test and known answers."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from scipy.stats import friedmanchisquare
from scipy.stats import t as student
from statsmodels.stats.contingency_tables import mcnemar

from benchmarks.plots import critical_difference_figure
from benchmarks.results import ResultError
from benchmarks.runner import scores
from benchmarks.stats import (
    METRICS,
    Predictions,
    RunFile,
    StatisticsError,
    choose_clusters,
    cohens_g,
    compare,
    rank,
    read_predictions,
)
from benchmarks.stats_check import World, covered, found, hits, share, tied

CLASSES = ("a", "b", "c")


def frame(seed: int, size: int = 60, classes: tuple[str, ...] = CLASSES) -> pd.DataFrame:
    """Random labels and probabilities of one fold."""
    random = np.random.default_rng(seed)
    probabilities = random.dirichlet(np.ones(len(classes)), size)
    label = random.choice(classes[:-1], size)  # the last class isn't tested, but predicted
    facts = pd.DataFrame({"utterance_id": [f"u{n}" for n in range(size)], "label": label, "speaker": None, "dialogue": "d"})
    return facts.join(pd.DataFrame(probabilities.astype(np.float32), columns=[f"p_{c}" for c in classes]))


def world(right: dict[str, np.ndarray], speaker: np.ndarray | None = None, fold: np.ndarray | int = 0) -> Predictions:
    """Two balanced classes; ``right`` (S, N) says what each run of each row gets right."""
    size = next(iter(right.values())).shape[1]
    label = np.arange(size) % 2
    items = pd.DataFrame({"fold": fold, "utterance_id": [str(n) for n in range(size)], "label": label, "dialogue": None})
    items["speaker"] = None if speaker is None else speaker
    return Predictions(items, ("a", "b"), {row: np.where(hit, label, 1 - label).astype(np.int32) for row, hit in right.items()})


def several(seed: int, size: int = 60, speakers: int = 15) -> pd.DataFrame:
    """Random labels and probabilities of one fold of a multi-label task; class c is rare."""
    random = np.random.default_rng(seed)
    truth = random.random((size, 3)) < (0.6, 0.3, 0.05)
    label = ["+".join(name for name, there in zip(CLASSES, row, strict=True) if there) or "none" for row in truth]
    facts = pd.DataFrame({"utterance_id": [f"u{n}" for n in range(size)], "label": label, "dialogue": None})
    facts["speaker"] = [f"s{n % speakers}" for n in range(size)]
    return facts.join(pd.DataFrame(random.random((size, 3)).astype(np.float32), columns=[f"p_{c}" for c in CLASSES]))


@pytest.mark.filterwarnings("ignore:No positive samples")
@pytest.mark.parametrize("metric", sorted(METRICS["multilabel"]))
def test_multilabel_intervals_against_scoring_every_draw(metric: str, tmp_path: Path) -> None:
    """The slow way: the utterances of the drawn speakers are put into a table, as often as drawn, and scored as the runner does."""
    frame, groups, draws = several(0), 15, 60
    for number in range(2):
        several(number).assign(label=frame["label"]).to_parquet(tmp_path / f"{number}.parquet")
    files = [RunFile(name, 0, 0, tmp_path / f"{number}.parquet") for number, name in enumerate("mn")]
    predictions = read_predictions(files, CLASSES, "multilabel")
    found = compare(predictions, metric, draws=draws)
    assert any(f"{groups} test speakers" in note for note in found.notes)
    chosen = np.random.default_rng(0).integers(groups, size=(draws, groups))
    parts = [part for _, part in frame.groupby("speaker", sort=False)]
    slow = [scores(pd.concat([parts[n] for n in line], ignore_index=True), CLASSES, "multilabel")[metric] for line in chosen]
    mean, error = scores(frame, CLASSES, "multilabel")[metric], np.sqrt(np.var(slow, ddof=1) * groups / (groups - 1))
    expected = mean + np.array([-1, 1]) * student.isf(0.025, groups - 1) * error
    assert found.scores.loc["m", "mean"] == pytest.approx(mean, abs=1e-6)
    assert found.scores.loc["m", ["low", "high"]].tolist() == pytest.approx(np.clip(expected, 0, 1), abs=1e-4)
    # Cohen's g is of decisions, one per utterance and class.
    one, other = (
        {(n, c): (row[f"p_{c}"] > 0.5) == (c in row["label"].split("+")) for n, row in table.iterrows() for c in CLASSES}
        for table in (frame, several(1).assign(label=frame["label"]))
    )
    only_one, only_other = (sum(a[key] and not b[key] for key in a) for a, b in ((one, other), (other, one)))
    assert found.pairs["cohens_g"].item() == pytest.approx(only_one / (only_one + only_other) - 0.5)


def test_multilabel_runs_of_several_seeds_are_read_beside_each_other(tmp_path: Path) -> None:
    whole = several(0)
    for seed in range(3):
        several(seed).assign(label=whole["label"]).iloc[:: -1 if seed else 1].to_parquet(tmp_path / f"{seed}.parquet")
    files = [RunFile("m", 0, seed, tmp_path / f"{seed}.parquet") for seed in range(3)]
    found = compare(read_predictions(files, CLASSES, "multilabel"), "mean_weighted_accuracy", draws=20)
    each = [scores(several(seed).assign(label=whole["label"]), CLASSES, "multilabel") for seed in range(3)]
    assert found.scores["mean"].item() == pytest.approx(np.mean([one["mean_weighted_accuracy"] for one in each]), abs=1e-6)


@pytest.mark.parametrize("metric", sorted(METRICS["multiclass"]))
def test_scores_from_counts_are_those_of_the_runner(metric: str) -> None:
    predictions = frame(1)
    whole = scores(predictions, CLASSES)
    counts = np.array([whole["confusion"], np.array(whole["confusion"]) * 3], dtype=np.float32)
    assert METRICS["multiclass"][metric](counts) == pytest.approx([whole[metric]] * 2, abs=1e-6)


def test_reading_puts_runs_beside_each_other_whatever_their_order(tmp_path: Path) -> None:
    whole, other = frame(1), frame(2)
    whole.to_parquet(tmp_path / "whole.parquet")
    other.assign(utterance_id=whole["utterance_id"], label=whole["label"]).iloc[::-1].iloc[5:].to_parquet(tmp_path / "part.parquet")
    frame(3).to_parquet(tmp_path / "next.parquet")
    files = [("m", 0, 0, "whole"), ("m", 1, 0, "next"), ("n", 0, 7, "part")]
    found = read_predictions([RunFile(row, fold, seed, tmp_path / f"{name}.parquet") for row, fold, seed, name in files], CLASSES)
    assert found.items["fold"].value_counts().to_dict() == {0: 60, 1: 60}
    (n,) = found.predicted["n"]
    columns = [f"p_{label}" for label in CLASSES]
    assert n[:55].tolist() == other[columns].to_numpy().argmax(1)[:55].tolist()
    assert (n[55:] == -1).all(), "what the run lacks, and the fold it hasn't run"
    assert compare(found, "war").scores.loc["m", "mean"] == pytest.approx(
        np.mean([scores(whole, CLASSES)["war"], scores(frame(3), CLASSES)["war"]])
    )


def test_a_tie_that_is_ignorance_is_called_so() -> None:
    random = np.random.default_rng(0)
    rights = {row: random.random((3, 40)) < share for row, share in (("a", 0.8), ("b", 0.7), ("c", 0.05))}
    found = compare(world(rights), "war")
    width = found.scores["high"] - found.scores["low"]
    assert found.scores["tied"].tolist() == [True, True, False]
    assert width["b"] > 0.1
    wide = int((width[["a", "b"]] >= 0.1).sum())
    assert f"† with a wide interval means unknown, not equal: that of {wide} of the 2 marked rows spans 10 points or more" in (
        found.notes
    )
    many = compare(world({row: random.random((3, 4000)) < 0.8 for row in "abc"}), "war")
    assert many.scores["tied"].sum() > 1
    assert not any("wide" in note for note in (*many.notes, *compare(world(rights), "war", "a").notes))


def test_reading_names_the_file_and_the_remedy(tmp_path: Path) -> None:
    file = tmp_path / "predictions.parquet"
    frame(1).to_parquet(file)
    for damaged in (b"", b"no parquet", file.read_bytes()[:-100]):
        (tmp_path / "damaged.parquet").write_bytes(damaged)
        with pytest.raises(ResultError, match=r"damaged.parquet can't be read .* remove its folder and run the suite again"):
            read_predictions([RunFile("m", 0, 0, tmp_path / "damaged.parquet")], CLASSES)
    file.unlink()
    with pytest.raises(ResultError, match=r"predictions.parquet is missing; remove its folder"):
        read_predictions([RunFile("m", 0, 0, file)], CLASSES)
    frame(1, classes=("a", "b")).to_parquet(file)
    with pytest.raises(ResultError, match=r"has no column p_c; remove its folder"):
        read_predictions([RunFile("m", 0, 0, file)], CLASSES)


def test_independent_utterances_and_one_seed_agree_with_mcnemar() -> None:
    random = np.random.default_rng(0)
    first = random.random(2000) < 0.7
    second = np.where(random.random(2000) < 0.2, random.random(2000) < 0.8, first)
    comparison = compare(world({"a": first[None], "b": second[None]}), "war")
    table = [[(first & second).sum(), (first & ~second).sum()], [(~first & second).sum(), (~first & ~second).sum()]]
    assert comparison.pairs["p"].item() == pytest.approx(mcnemar(table, exact=True).pvalue, rel=0.3)
    only_first, only_second = table[0][1], table[1][0]
    assert comparison.pairs["cohens_g"].item() == pytest.approx(only_first / (only_first + only_second) - 0.5)
    assert any("as trained" in note for note in comparison.notes)


def test_speakers_give_the_standard_error_of_clustered_least_squares() -> None:
    random = np.random.default_rng(0)
    speaker = np.repeat(np.arange(30), 40)
    right = random.random(1200) < np.clip(0.7 + random.normal(0, 0.15, 30)[speaker], 0, 1)
    comparison = compare(world({"a": right[None]}, speaker.astype(str)), "war", draws=4000)
    fitted = sm.OLS(right.astype(float), np.ones(1200)).fit(cov_type="cluster", cov_kwds={"groups": speaker}, use_t=True)
    assert comparison.scores[["low", "high"]].to_numpy()[0] == pytest.approx(fitted.conf_int()[0], abs=0.004)
    independent = compare(world({"a": right[None]}), "war").scores
    assert (independent["high"] - independent["low"]).item() < 0.6 * np.ptp(fitted.conf_int()[0])


def test_seeds_that_lie_apart_widen_the_interval_and_one_seed_says_so() -> None:
    random = np.random.default_rng(0)
    steady = random.random((3, 1000)) < 0.7
    wild = random.random((3, 1000)) < np.array([[0.5], [0.7], [0.9]])
    one = compare(world({"steady": steady, "wild": wild}), "war").scores
    widths = one["high"] - one["low"]
    assert widths["wild"] > 5 * widths["steady"]
    # Few degrees of freedom: two seeds' variance is three numbers' spread.
    deviation = (wild.mean(1)).std(ddof=1) / np.sqrt(3)
    assert widths["wild"] == pytest.approx(min(2 * 4.3 * deviation, 1), rel=0.2)


def test_draws_are_paired() -> None:
    random = np.random.default_rng(0)
    hard = random.random((1, 1000)) < 0.6
    better = hard | (random.random((1, 1000)) < 0.02)
    comparison = compare(world({"a": better, "b": hard}), "war")
    alone = comparison.scores["high"] - comparison.scores["low"]
    line = comparison.pairs.iloc[0]
    assert line["high"] - line["low"] < 0.4 * alone.min()
    assert line["low"] > 0
    assert comparison.scores["tied"].to_dict() == {"a": True, "b": False}


def test_holm_by_hand_and_a_reference_that_is_not_the_best() -> None:
    random = np.random.default_rng(1)
    rows = {name: random.random((1, 800)) < rate for name, rate in (("full", 0.7), ("x", 0.75), ("y", 0.5), ("z", 0.71))}
    comparison = compare(world(rows), "uar", reference="full")
    assert comparison.reference == "full"
    assert set(comparison.pairs["b"]) == {"full"}
    p = comparison.pairs.set_index("a")["p"].sort_values()
    expected, floor = {}, 0.0
    for rank_, (name, value) in enumerate(p.items()):
        floor = max(floor, min(1.0, value * (len(p) - rank_)))
        expected[name] = floor
    assert comparison.scores["p"].drop("full").to_dict() == pytest.approx(expected)
    assert np.isnan(comparison.scores.loc["full", "p"])
    best = compare(world(rows), "uar")
    assert best.reference == "x"
    assert len(best.pairs) == 6


def test_identical_predictions_are_tied_and_need_no_luck() -> None:
    same = np.random.default_rng(0).random((2, 200)) < 0.7
    comparison = compare(world({"a": same, "b": same}), "uar")
    assert comparison.pairs[["difference", "p"]].to_numpy().tolist() == [[0.0, 1.0]]
    assert comparison.scores["tied"].all()
    perfect = compare(world({"a": np.ones((1, 20), bool)}), "uar").scores
    assert perfect[["low", "high"]].to_numpy().tolist() == [[1.0, 1.0]]


def test_rows_without_the_same_folds_are_not_compared() -> None:
    fold = np.repeat([0, 1], 100)
    whole = np.random.default_rng(0).random((2, 200)) < 0.7
    predictions = world({"whole": whole, "half": ~whole}, fold=fold)
    predictions.predicted["half"][:, fold == 1] = -1
    comparison = compare(predictions, "uar")
    assert comparison.pairs.empty
    assert comparison.scores["tied"].to_dict() == {"whole": True, "half": False}
    assert any("for want of the same folds: 1 row" in note for note in comparison.notes)
    assert comparison.scores["mean"]["half"] == pytest.approx(compare(predictions, "uar").scores["mean"]["half"])


@pytest.mark.parametrize(
    ("speakers", "dialogues", "kind", "note"),
    [
        (12, 30, "speakers", None),
        (2, 30, "dialogues", "2 test speakers, worth 2.0 of equal size, are too few"),
        (2, 3, "utterances", "3 test dialogues"),
        (None, 30, "dialogues", None),
        (None, None, "utterances", "aren't known"),
    ],
)
def test_what_is_drawn(speakers: int | None, dialogues: int | None, kind: str, note: str | None) -> None:
    number = np.arange(120)
    items = pd.DataFrame({"utterance_id": number.astype(str)})
    for column, count in (("speaker", speakers), ("dialogue", dialogues)):
        items[column] = None if count is None else (number % count).astype(str)
    clusters = choose_clusters(items)
    assert clusters.kind == kind
    assert (note is None and not clusters.notes) or note in " ".join(clusters.notes)


def test_an_unknown_metric_names_the_others() -> None:
    with pytest.raises(StatisticsError, match="no statistics for ece, only for war, uar"):
        compare(world({"a": np.ones((1, 4), bool)}), "ece")
    with pytest.raises(StatisticsError, match="no statistics for mean_weighted_f1, only for war, uar"):
        compare(world({"a": np.ones((1, 4), bool)}), "mean_weighted_f1")


def test_cohens_g_counts_only_what_one_gets_right() -> None:
    a, b = np.array([1, 1, 1, 0, 0, 1.0]), np.array([1, 0, 0, 1, 0, 1.0])
    assert cohens_g(a, b) == pytest.approx(2 / 3 - 0.5)
    assert cohens_g(a, a) == 0


def test_ranks_are_friedmans_with_nemenyis_critical_difference() -> None:
    random = np.random.default_rng(0)
    table = pd.DataFrame(random.normal([0, 0, 0, 3], size=(8, 4)), columns=list("abcd"))
    ranking = rank(table, "corpora", "a caveat")
    assert ranking.ranks.index[0] == "d"
    assert ranking.ranks.to_dict() == pytest.approx(table.rank(axis=1, ascending=False).mean().to_dict())
    assert ranking.p == pytest.approx(friedmanchisquare(*table.to_numpy().T).pvalue)
    assert ranking.critical_difference == pytest.approx(2.569 * np.sqrt(4 * 5 / (6 * 8)), abs=0.001)  # Demšar 2006, table 5
    far = ranking.ranks["d"] + ranking.critical_difference < ranking.ranks
    assert ((ranking.pairs.loc["d"] < 0.05) == far.reindex(ranking.pairs.columns)).all()
    assert "8 corpora" in ranking.note
    assert "a caveat" in ranking.note
    drawn = {text.get_text() for text in critical_difference_figure(ranking).axes[0].texts}
    assert any("d" in text for text in drawn)
    with pytest.raises(StatisticsError, match="three rows and two corpora"):
        rank(table.head(1), "corpora")


def test_a_simulated_world_has_the_accuracy_it_says() -> None:
    simulated, random = World(utterances=4000, seeds=3), np.random.default_rng(0)
    for points in (0, 5):
        level = simulated.lift(points) if points else 0.0
        shares = [simulated.draw((level,), random) for _ in range(10)]
        mean = np.mean([hits(drawn.predicted[0], drawn.items["label"].to_numpy()).mean() for drawn in shares])
        assert mean == pytest.approx(simulated.accuracy() + points / 100, abs=0.01)


def test_the_small_version_of_the_check() -> None:
    small = {"bootstrap": 100}
    assert share(tied(World(seeds=5), **small), 60) >= 0.88
    assert share(found(World(seeds=5), 5, **small), 40) >= 0.75
    assert 0.85 <= share(covered(World(speakers=40, voice=0.5, seeds=5), **small), 60) < 1 + 1e-9
    assert share(tied(World(luck=0.3, seeds=5), **small), 60) >= 0.85, "seeds far apart are no difference between methods"
