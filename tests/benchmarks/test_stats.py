"""Statistics against torchmetrics, statsmodels, McNemar's test and known answers."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from scipy.stats import friedmanchisquare, ttest_rel
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
    moderated,
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
    items["recording"] = None
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
    assert comparison.scores.loc["whole", "tied"]
    assert comparison.scores["tied"].isna().to_dict() == {"whole": False, "half": True}
    assert any(note.endswith("for want of the same folds: 1 row") for note in comparison.notes)


def test_a_row_that_was_spared_the_hard_fold_is_not_the_best() -> None:
    random, fold = np.random.default_rng(0), np.repeat([0, 1], 200)
    share = np.where(fold == 0, 0.9, 0.5)
    predictions = world({name: random.random((3, 400)) < share for name in ("spared", "b", "c")}, fold=fold)
    predictions.predicted["spared"][:, fold == 1] = -1
    comparison = compare(predictions, "uar", draws=200)
    assert comparison.scores["mean"].idxmax() == "spared"
    assert comparison.reference in {"b", "c"}
    assert comparison.scores.loc[["b", "c"], "tied"].all()
    assert comparison.scores.loc["spared", ["p", "tied"]].isna().all()


def test_folds_count_the_same_however_many_seeds_they_have() -> None:
    random, fold = np.random.default_rng(0), np.repeat([0, 1], 200)
    share, both = np.where(fold == 0, 0.85, 0.55), 0
    for _ in range(20):
        predictions = world({name: random.random((5, 400)) < share for name in ("all", "some")}, fold=fold)
        predictions.predicted["some"][1:, fold == 1] = -1
        comparison = compare(predictions, "war", draws=100)
        both += int(comparison.scores["tied"].all())
    assert both >= 17, "a mean over runs is 12.5 points off and tied in none"
    right = predictions.predicted["some"] == predictions.items["label"].to_numpy()
    by_fold = right[:, :200].mean(), right[0, 200:].mean()
    assert comparison.scores.loc["some", "mean"] == pytest.approx(np.mean(by_fold))
    assert "numbers of seeds differ between the folds of 1 row; every fold counts the same" in comparison.notes


def test_a_pair_against_scoring_every_draw() -> None:
    """The slow way: utterances of the drawn speakers are put side by side, and every run of every fold is scored on them."""
    random, groups, draws = np.random.default_rng(3), 20, 250
    speaker = np.repeat(np.arange(groups), 15)
    fold = speaker % 2
    level = np.clip(0.6 + random.normal(0, 0.2, (2, 3, 2))[:, :, fold], 0.1, 0.9)  # (rows, seeds, N)
    right = random.random(level.shape) < level
    comparison = compare(world({"a": right[0], "b": right[1]}, speaker.astype(str), fold), "war", draws=draws)
    # A run's score in a draw is over the utterances of its fold.
    per_speaker = right.reshape(2, 3, groups, 15).mean(axis=3)

    def score(chosen: np.ndarray) -> np.ndarray:  # (rows, seeds, folds)
        return np.stack([per_speaker[:, :, chosen[chosen % 2 == n]].mean(axis=2) for n in range(2)], axis=2)

    drawn = np.random.default_rng(0).integers(groups, size=(draws, groups))
    slow = np.stack([score(line) for line in drawn])  # (D, rows, seeds, folds)
    share = np.stack([(drawn % 2 == n).mean(axis=1) for n in range(2)], axis=1)  # (D, folds)
    means = (slow.mean(axis=2) * share[:, None]).sum(axis=2)
    observed = score(np.arange(groups))
    items = np.var(means[:, 0] - means[:, 1], ddof=1) * groups / (groups - 1)
    seeds = observed.var(axis=1, ddof=1).mean(axis=1) / (3 * 2)  # (rows,), of the mean over two folds of three seeds
    own = (slow - slow.mean(axis=2, keepdims=True)).var(axis=0, ddof=1).sum(axis=(1, 2)) / 4 / (3 * 2)
    variance = items + max(0, (seeds - own).sum())
    assert (seeds - own).sum() > 0
    freedom = variance**2 / (items**2 / (groups - 1) + (seeds**2 / 4).sum())
    difference = observed[0].mean() - observed[1].mean()
    line = comparison.pairs.iloc[0]
    assert line["difference"] == pytest.approx(difference, abs=1e-6)
    reach = student.isf(0.025, freedom) * np.sqrt(variance)
    assert [line["low"], line["high"]] == pytest.approx([difference - reach, difference + reach], abs=1e-5)
    assert line["p"] == pytest.approx(2 * student.sf(abs(difference) / np.sqrt(variance), freedom), abs=1e-4)


def test_where_training_sets_matter_most_it_is_the_t_test_over_folds() -> None:
    random, fold = np.random.default_rng(0), np.repeat(np.arange(4), 200)
    rows = {
        name: random.random((2, 800)) < np.array(share)[fold]
        for name, share in (("a", (0.9, 0.5, 0.8, 0.7)), ("b", (0.5, 0.8, 0.6, 0.6)))
    }
    comparison = compare(world(rows, fold=fold), "war", draws=100)
    means = [right.mean(axis=0).reshape(4, 200).mean(axis=1) for right in rows.values()]
    expected = ttest_rel(*means)
    line = comparison.pairs.iloc[0]
    assert line["p"] == pytest.approx(expected.pvalue, abs=1e-4)
    assert [line["low"], line["high"]] == pytest.approx(list(expected.confidence_interval()), abs=1e-4)
    assert any("training sets differ too" in note for note in comparison.notes)


def test_recordings_that_repeat_give_the_standard_error_of_two_way_clustered_least_squares() -> None:
    random = np.random.default_rng(1)
    dialogue, recording = np.repeat(np.arange(60), 20), random.integers(40, size=1200)
    share = 0.6 + random.normal(0, 0.1, 60)[dialogue] + random.normal(0, 0.15, 40)[recording]
    right = random.random(1200) < np.clip(share, 0, 1)
    predictions = world({"a": right[None]})
    predictions.items["dialogue"] = dialogue.astype(str)
    unaware = compare(predictions, "war", draws=4000)
    predictions.items["recording"] = recording.astype(str)
    aware = compare(predictions, "war", draws=4000)
    groups = {"groups": np.stack([dialogue, recording], axis=1)}
    fitted = sm.OLS(right.astype(float), np.ones(1200)).fit(cov_type="cluster", cov_kwds=groups, use_t=True)
    assert aware.scores[["low", "high"]].to_numpy()[0] == pytest.approx(fitted.conf_int()[0], abs=0.005)
    assert np.ptp(unaware.scores[["low", "high"]]) < 0.75 * np.ptp(fitted.conf_int()[0])
    assert any("1,200 test utterances of 40 recordings" in note for note in aware.notes)
    assert any("recordings aren't known" in note for note in unaware.notes)


@pytest.mark.parametrize(
    ("recordings", "note"),
    [([f"r{n // 2}" for n in range(60)], None), (["x", "y"] * 30, "2 recordings, too few"), ([None] * 60, "aren't known")],
)
def test_recordings_within_what_is_drawn_or_too_few_add_nothing(recordings: list[str | None], note: str | None) -> None:
    predictions = world({"a": np.random.default_rng(0).random((1, 60)) < 0.7})
    predictions.items["dialogue"] = [f"d{n // 4}" for n in range(60)]
    whole = compare(predictions, "war", draws=50)
    predictions.items["recording"] = recordings
    found = compare(predictions, "war", draws=50)
    assert found.scores.equals(whole.scores)
    told = [line for line in found.notes if "recordings" in line]
    assert len(told) == (note is not None)
    assert note is None or note in told[0]


def test_borrowed_variances_are_those_of_the_distribution_they_come_from() -> None:
    """Prior and posterior mean as the model has them, recovered from many rows of two degrees of freedom."""
    random, prior, typical, freedom = np.random.default_rng(0), 6.0, 2.0, np.full(40_000, 2.0)
    truth = prior * typical / random.chisquare(prior, freedom.size)
    estimated = truth * random.chisquare(2, freedom.size) / 2
    mixed, worth = moderated(estimated, freedom)
    assert worth == pytest.approx(np.full(freedom.size, 2 + prior), rel=0.07)
    assert mixed == pytest.approx((prior * typical + 2 * estimated) / (prior + 2), rel=0.05)
    # The best guess by the logarithm is far nearer the truth than each row's own.
    assert np.log(mixed / truth).std() < 0.6 * np.log(estimated / truth).std()


def test_who_borrows() -> None:
    alike, worth = moderated(np.array([1.0, 1.1, 0.9, 0.0, 0.5]), np.array([2.0, 2.0, 4.0, 2.0, 0.0]))
    assert alike[:3] == pytest.approx(np.full(3, alike[0]), rel=1e-4), "closer than chance: one variance"
    assert (worth[:3] > 1e5).all()
    assert alike[3:].tolist() == [0.0, 0.5]
    assert worth[3:].tolist() == [2.0, 0.0]
    apart, worth = moderated(np.array([1e-6, 1.0, 1e6]), np.full(3, 2.0))
    assert np.log10(apart) == pytest.approx([-6, 0, 6], abs=0.5)
    assert (worth < 2.5).all()
    two = np.array([1.0, 2.0]), np.array([2.0, 2.0])
    assert [values.tolist() for values in moderated(*two)] == [values.tolist() for values in two]


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
    found = cohens_g(np.array([[1, 1, 1, 0, 0, 1.0], [1, 0, 0, 1, 0, 1.0]]))
    assert found == pytest.approx(np.array([[0, 2 / 3 - 0.5], [0.5 - 2 / 3, 0]]))


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


def test_ranks_over_few_blocks_say_that_nothing_could_be_found() -> None:
    table = pd.DataFrame(np.arange(30.0).reshape(2, 15))
    ranking = rank(table, "corpora")
    assert ranking.critical_difference > 14
    assert "no difference could be found" in ranking.note
    assert "wants more than 10 corpora" in ranking.note
    enough = rank(pd.DataFrame(np.arange(120.0).reshape(20, 6)), "corpora").note
    assert "could be found" not in enough
    assert "wants" not in enough


@pytest.mark.filterwarnings("error")
def test_rows_that_score_the_same_rank_alike() -> None:
    ranking = rank(pd.DataFrame(np.ones((3, 4))), "corpora")
    assert ranking.p == 1.0
    assert set(ranking.ranks) == {2.5}


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
    folds = World(speakers=10, voice=0.5, folds=5, training=0.4)
    assert share(tied(folds, **small), 60) >= 0.9, "lucky training sets are no difference between methods"
    paired = World(recordings=30, sound=1.0)
    assert share(covered(paired, **small), 60) >= 0.85
    assert share(covered(paired, forgotten=True, **small), 60) < 0.75, "the small check sees what it looks for"
