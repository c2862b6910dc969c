"""Statistics from stored predictions: intervals, paired tests, effect sizes and ranks. Nothing is trained again.

What varies, and how it is counted. The test utterances are a sample: they are drawn again by a bootstrap whose units are speakers,
or dialogues, or utterances (`choose_clusters`), and every row of a table gets the same draws, so that differences between rows
are paired. The seeds are a sample too: a method whose seeds lie far apart isn't known better for having many test utterances.
Both variances are added,

    v = v_items + max(0, v_seeds - v_both),

where ``v_items`` is the bootstrap's variance of the mean over runs, ``v_seeds`` the variance of that mean by the spread of seeds
within a fold, and ``v_both`` what the two have in common (each seed errs on utterances of its own), which the bootstrap gives as
well. Intervals and tests use the t distribution with Satterthwaite's degrees of freedom. To leave the seeds out, as a bootstrap of
the utterances alone or McNemar's test does, calls methods different that differ by the luck of their seeds (Bouthillier et al.,
MLSys 2021, "Accounting for variance in machine learning benchmarks"); ``python -m benchmarks.stats_check`` shows how often.

With one seed there is no spread of seeds, and intervals and tests are about the trained models only; the notes say so.
"""

import math
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import stats

from benchmarks.results import Numbers, ResultError, decisions, from_bits, read_stored, true_labels

if TYPE_CHECKING:
    from datamodules.batch import Task  # loads torch

Floats = npt.NDArray[np.floating]

ALPHA = 0.05
"""Of tests; intervals cover 1 - ALPHA."""
ENOUGH_CLUSTERS = 9.0
"""Effective number of clusters, (sum n)^2 / sum n^2, from which on a bootstrap of them is worth having. IEMOCAP's ten speakers are
worth 9.8; the hundred of MELD's test split, six of whom say most of it, 8.7."""
WIDE = 0.1
"""Width of an interval from which on a tie says little: most rows of a table lie within ten points."""


class StatisticsError(ValueError):
    """Results that can't be compared; the message says why."""


class RunFile(NamedTuple):
    """Where the predictions of one run lie, and of which row, fold and seed they are."""

    row: Hashable
    fold: int
    seed: int
    path: Path


@dataclass(frozen=True)
class Predictions:
    """What the rows of one table predicted on the same test utterances.

    Attributes:
        items: N test utterances over all folds: ``fold``, ``utterance_id``, ``label`` (a number, as of `results.decisions`),
            ``speaker`` and ``dialogue`` (null where unknown).
        classes: Labels, by number.
        predicted: Row -> (S, N) numbers as of `results.decisions`, one line per seed; -1 where the seed has no run of the fold.
        task: ``multiclass`` or ``multilabel``.
    """

    items: pd.DataFrame
    classes: tuple[str, ...]
    predicted: Mapping[Hashable, Numbers]
    task: "Task" = "multiclass"


@dataclass(frozen=True)
class Comparison:
    """The rows of one table, compared.

    Attributes:
        metric: What they are compared on.
        scores: One line per row: ``mean`` over runs, ``low`` and ``high`` of its 95 % interval, ``p`` of the difference to
            ``reference``, adjusted for the other rows (not a number for the reference), and ``tied``: the reference, or not
            distinguishable from it.
        pairs: One line per pair of rows ``a``, ``b``: ``difference`` (a - b) with its 95 % interval ``low``, ``high`` (of this
            pair alone), ``p``, ``p_holm`` (adjusted for all lines) and the effect size `cohens_g`. With a reference that was
            named, only its pairs, as b.
        reference: The best row, or the one that was named.
        notes: The assumptions and what limits them, as lines for a caption.
    """

    metric: str
    scores: pd.DataFrame
    pairs: pd.DataFrame
    reference: Hashable
    notes: tuple[str, ...]


def read_predictions(files: Iterable[RunFile], classes: Sequence[str], task: "Task" = "multiclass") -> Predictions:
    """Read the stored predictions of the runs of one table; of each, a decision per utterance is kept.

    Utterances are those of the first run of each fold. One that another run lacks doesn't count for that run, and one that only
    another run has doesn't count at all: in the published track, methods may read slightly different data.

    Raises:
        ResultError: If a run has no predictions, damaged ones, or none for these classes.
    """
    columns = [f"p_{label}" for label in classes]
    folds: dict[int, pd.DataFrame] = {}
    runs: dict[Hashable, dict[int, dict[int, Numbers]]] = {}
    for row, fold, seed, path in files:
        if not path.is_file():
            raise ResultError(
                f"{path} is missing; remove its folder and run the suite again, or go without statistics (--no-stats)"
            )
        frame = read_stored(path)
        if missing := [column for column in columns if column not in frame]:
            raise ResultError(f"{path} has no column {missing[0]}; remove its folder and run the suite again")
        predicted = decisions(frame, classes, task)
        if fold not in folds:
            # Older results don't name speakers and dialogues.
            items = frame.reindex(columns=["utterance_id", "label", "speaker", "dialogue"])
            folds[fold] = items.assign(fold=fold, label=true_labels(frame, classes, task))
        elif not frame["utterance_id"].equals(folds[fold]["utterance_id"]):
            found = pd.Index(frame["utterance_id"]).get_indexer(folds[fold]["utterance_id"])
            predicted = np.where(found < 0, np.int32(-1), predicted[found])
        runs.setdefault(row, {}).setdefault(seed, {})[fold] = predicted
    order = sorted(folds)
    absent = {fold: np.full(len(folds[fold]), -1, np.int32) for fold in order}
    predictions = {
        row: np.stack([np.concatenate([seeds[seed].get(fold, absent[fold]) for fold in order]) for seed in sorted(seeds)])
        for row, seeds in runs.items()
    }
    return Predictions(pd.concat([folds[fold] for fold in order], ignore_index=True), tuple(classes), predictions, task)


def _war(counts: Floats) -> Floats:
    return np.asarray(np.trace(counts, axis1=-2, axis2=-1) / counts.sum((-2, -1)))


def _uar(counts: Floats) -> Floats:
    support, hits = counts.sum(-1), np.diagonal(counts, axis1=-2, axis2=-1)
    recalls = np.divide(hits, support, out=np.zeros_like(hits), where=support > 0)
    return np.asarray(recalls.sum(-1) / (support > 0).sum(-1))


def _f1(counts: Floats) -> tuple[Floats, Floats, Floats]:
    """F1, support, and support plus predictions of every class."""
    support, hits = counts.sum(-1), np.diagonal(counts, axis1=-2, axis2=-1)
    both = support + counts.sum(-2)
    return np.divide(2 * hits, both, out=np.zeros_like(hits), where=both > 0), support, both


def _macro_f1(counts: Floats) -> Floats:
    f1, _, both = _f1(counts)
    return np.asarray(f1.sum(-1) / (both > 0).sum(-1))


def _weighted_f1(counts: Floats) -> Floats:
    f1, support, _ = _f1(counts)
    return np.asarray((f1 * support).sum(-1) / support.sum(-1))


METRICS: dict[str, dict[str, Callable[[Floats], Floats]]] = {
    "multiclass": {"war": _war, "uar": _uar, "macro_f1": _macro_f1, "weighted_f1": _weighted_f1},
    "multilabel": {
        "mean_weighted_accuracy": lambda counts: _uar(counts).mean(-1),
        "mean_weighted_f1": lambda counts: _weighted_f1(counts).mean(-1),
    },
}
"""By task: scores as functions of confusion counts, with the meaning of `benchmarks.runner.scores`: what can be drawn again by
adding counts. Counts are (..., C, C), rows the truth, and of a multi-label task (..., C, 2, 2); they needn't be whole numbers."""


class Clusters(NamedTuple):
    """The units that a bootstrap draws: their ``kind``, each utterance's ``codes`` (N,), and how many they are worth."""

    kind: str
    codes: npt.NDArray[np.intp]
    effective: float
    notes: tuple[str, ...]


def choose_clusters(items: pd.DataFrame) -> Clusters:
    """Speakers if they are known and enough of them are tested, else dialogues, else utterances.

    A draw of few clusters says little (with two speakers, half of all draws hold only one of them), so where speakers are few the
    next smaller unit is drawn, and the interval is then about these speakers, not about new ones: a note says so.

    Args:
        items: As of `Predictions`.
    """
    notes: list[str] = []
    for kind in ("speaker", "dialogue"):
        if items[kind].isna().any():
            continue
        codes, names = pd.factorize(items[kind])
        sizes = np.bincount(codes)
        effective = float(sizes.sum() ** 2 / (sizes**2).sum())
        if effective >= ENOUGH_CLUSTERS:
            return Clusters(f"{kind}s", codes, effective, tuple(notes))
        notes.append(
            f"{len(names)} test {kind}{'s' * (len(names) > 1)}, worth {effective:.1f} of equal size, are too few to be drawn: "
            f"intervals and tests are about {'these' if len(names) > 1 else 'this'} {kind}{'s' * (len(names) > 1)}, not about "
            "others"
        )
    if items[["speaker", "dialogue"]].isna().any().all():
        notes.append("speakers and dialogues aren't known: utterances count as independent, so intervals may be too narrow")
    codes, _ = pd.factorize(items["utterance_id"])
    return Clusters("utterances", codes, float(codes.max() + 1), tuple(notes))


def _weights(groups: int, draws: int, random: np.random.Generator) -> npt.NDArray[np.float32]:
    """How often each of G clusters is in each draw, (1 + D, G); the first line is the observed sample, every cluster once."""
    chosen = random.integers(groups, size=(draws, groups)) + np.arange(draws)[:, None] * groups
    counts = np.bincount(chosen.ravel(), minlength=draws * groups).reshape(draws, groups)
    return np.vstack([np.ones(groups), counts]).astype(np.float32)


class _Row(NamedTuple):
    """A row's mean over runs as observed, its bootstrap draws (D,), and the variance that seeds add with its degrees of freedom."""

    mean: float
    draws: Floats
    seeds: float
    both: float
    freedom: float


def compare(
    predictions: Predictions, metric: str = "uar", reference: Hashable | None = None, draws: int = 2000, seed: int = 0
) -> Comparison:
    """Intervals of all rows, and tests between them.

    All rows are tested against the reference and adjusted together (Holm). Where that is the best row by the same data, what ties
    with it is a set that holds the truly best row in at least 95 % of cases (Hsu, 1996, "Multiple comparisons", chapter 4: each
    row against the best of the others, two-sided here and so on the safe side); it isn't a claim that all in it are equal.

    Args:
        predictions: Of the rows of one table.
        metric: A key of `METRICS` of the predictions' task.
        reference: The row that the others are compared with, chosen beforehand; None for the best.
        draws: Of the bootstrap.
        seed: Of the bootstrap: the same results give the same table.

    Raises:
        StatisticsError: If the metric is none of these.
    """
    from statsmodels.stats.multitest import multipletests  # slow to import, and a plain leaderboard has no use for it

    metrics = METRICS[predictions.task]
    if metric not in metrics:
        raise StatisticsError(f"there are no statistics for {metric}, only for {', '.join(metrics)}")
    items, rows = predictions.items, list(predictions.predicted)
    clusters = choose_clusters(items)
    groups = int(clusters.codes.max()) + 1
    weights = _weights(groups, draws, np.random.default_rng(seed))
    results = [_resample(predictions.predicted[row], predictions, clusters.codes, weights, metrics[metric]) for row in rows]
    means = np.array([result.mean for result in results])
    # A bootstrap of G clusters has (G - 1) / G of the variance.
    covariance = np.atleast_2d(np.cov(np.stack([result.draws for result in results]))) * groups / max(groups - 1, 1)
    chosen = rows.index(reference) if reference is not None else int(means.argmax())
    error, freedom = np.array([_error(covariance[i, i], clusters.effective, [result]) for i, result in enumerate(results)]).T
    reach = stats.t.isf(ALPHA / 2, freedom) * error
    scores = pd.DataFrame({"mean": means, "low": np.maximum(means - reach, 0), "high": np.minimum(means + reach, 1)}, index=rows)
    folds = [_covered(predictions.predicted[row], items["fold"]) for row in rows]
    numbers = range(len(rows))
    tested = [(a, b) for a in numbers for b in numbers[a + 1 :] if reference is None or chosen in (a, b)]
    tested = [(b, a) if reference is not None and a == chosen else (a, b) for a, b in tested if folds[a] == folds[b]]
    pairs = pd.DataFrame(
        [_pair(a, b, results, covariance, clusters.effective) for a, b in tested], columns=["difference", "low", "high", "p"]
    )
    pairs.insert(0, "a", pd.Series([rows[a] for a, _ in tested], dtype=object))
    pairs.insert(1, "b", pd.Series([rows[b] for _, b in tested], dtype=object))
    pairs["p_holm"] = multipletests(pairs["p"], ALPHA, "holm")[1] if tested else pairs["p"]
    hits = np.stack([_hit_rate(predictions.predicted[row], predictions) for row in rows])
    pairs["cohens_g"] = [cohens_g(hits[a], hits[b]) for a, b in tested]
    of_chosen = [chosen in pair for pair in tested]
    others = [b if a == chosen else a for a, b in tested if chosen in (a, b)]
    against = dict(zip(others, multipletests(pairs.loc[of_chosen, "p"], ALPHA, "holm")[1] if others else [], strict=True))
    scores["p"] = [against.get(number, np.nan) for number in numbers]
    scores["tied"] = [number == chosen or against.get(number, 0.0) >= ALPHA for number in numbers]
    notes = _notes(
        predictions, clusters, groups, draws, len(others), reference, [rows[n] for n in numbers if folds[n] != folds[chosen]]
    )
    wide = (scores["tied"] & (scores["high"] - scores["low"] >= WIDE)).to_numpy()
    if reference is None and np.delete(wide, chosen).any():
        told = f"that of {wide.sum()} of the {scores['tied'].sum()} marked rows spans {100 * WIDE:g} points or more"
        notes += (f"† with a wide interval means unknown, not equal: {told}",)
    return Comparison(metric, scores, pairs, rows[chosen], notes)


def _resample(
    predicted: Numbers,
    predictions: Predictions,
    clusters: npt.NDArray[np.intp],
    weights: npt.NDArray[np.float32],
    metric: Callable[[Floats], Floats],
) -> _Row:
    """Draw a row's runs again.

    The score is the mean over runs, as in the table; a run is one fold and one seed. Clusters are drawn over all folds together,
    and a fold counts as often as its clusters were drawn.

    Args:
        predicted: (S, N).
        predictions: Which these are of.
        clusters: (N,).
        weights: (1 + D, G), how often each cluster counts; the first line is ones.
        metric: Of counts.
    """
    label, fold_of = predictions.items["label"].to_numpy(), predictions.items["fold"].to_numpy()
    total, count = np.zeros(len(weights)), np.zeros(len(weights))
    runs, seeds, both, squares = 0, 0.0, 0.0, 0.0
    for fold in np.unique(fold_of):
        here = fold_of == fold
        names, codes = np.unique(clusters[here], return_inverse=True)
        values = []
        drawn = weights[:, names]  # (1 + D, clusters of the fold)
        share = drawn.mean(axis=1)
        for line in predicted[:, here]:
            there = line >= 0
            if not there.any():
                continue
            cells, shape = _cells(label[here][there], line[there], predictions)
            every = math.prod(shape)
            cells += every * codes[there, None]
            counts = np.bincount(cells.ravel(), minlength=len(names) * every).reshape(len(names), every).astype(np.float32)
            values.append(metric((drawn @ counts)[share > 0].reshape(-1, *shape)))
        for value in values:
            total[share > 0] += share[share > 0] * value
        count += len(values) * share
        runs += len(values)
        if len(values) > 1:
            scores = np.stack(values)
            observed = len(values) * scores[:, 0].var(ddof=1)
            seeds += observed
            squares += observed**2 / (len(values) - 1)
            both += (scores[:, 1:] - scores[:, 1:].mean(axis=0)).var(axis=1, ddof=1).sum() * len(values) / (len(values) - 1)
    means = np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0)
    # A draw may hold nothing of a row that lacks folds.
    return _Row(
        float(means[0]),
        np.where(np.isnan(means[1:]), means[0], means[1:]),
        seeds / runs**2,
        both / runs**2,
        seeds**2 / squares if squares else np.inf,
    )


def _cells(label: Numbers, guess: Numbers, predictions: Predictions) -> tuple[npt.NDArray[np.intp], tuple[int, ...]]:
    """Which cells of the confusion counts each utterance adds one to, (n, 1) or in a multi-label task (n, C), and their shape."""
    size = len(predictions.classes)
    if predictions.task == "multilabel":
        truth, said = from_bits(label, size), from_bits(guess, size)
        return 4 * np.arange(size) + 2 * truth + said, (size, 2, 2)
    return (label.astype(np.intp) * size + guess)[:, None], (size, size)


def _error(items: float, effective: float, rows: Sequence[_Row]) -> tuple[float, float]:
    """Standard error of a row's score or of a difference of two, and its degrees of freedom."""
    extra = sum(row.seeds for row in rows) - sum(row.both for row in rows)
    variance = items + max(0.0, extra)
    terms = items**2 / max(effective - 1, 1) + (sum(row.seeds**2 / row.freedom for row in rows) if extra > 0 else 0.0)
    return float(np.sqrt(variance)), float(variance**2 / terms) if terms > 0 else np.inf


def _pair(a: int, b: int, results: Sequence[_Row], covariance: Floats, effective: float) -> tuple[float, float, float, float]:
    """Difference a - b, its interval, and the p-value of a two-sided t test."""
    items = float(covariance[a, a] + covariance[b, b] - 2 * covariance[a, b])
    error, freedom = _error(max(items, 0.0), effective, [results[a], results[b]])
    difference = results[a].mean - results[b].mean
    reach = float(stats.t.isf(ALPHA / 2, freedom)) * error
    p = 1.0 if difference == 0 else 0.0 if error == 0 else 2 * float(stats.t.sf(abs(difference) / error, freedom))
    return difference, difference - reach, difference + reach, p


def _covered(predicted: Numbers, folds: pd.Series) -> frozenset[int]:
    return frozenset(folds.to_numpy()[(predicted >= 0).any(axis=0)].tolist())


def _hit_rate(predicted: Numbers, predictions: Predictions) -> Floats:
    """Share of seeds that are right, by utterance (N,), in a multi-label task by utterance and class (N C,)."""
    label, there = predictions.items["label"].to_numpy(), (predicted >= 0)[..., None]  # (N,), (S, N, 1)
    right = (predicted == label)[..., None]
    if predictions.task == "multilabel":
        size = len(predictions.classes)
        right = from_bits(predicted, size) == from_bits(label, size)  # (S, N, C)
    return np.asarray((right & there).sum(axis=0) / np.maximum(there.sum(axis=0), 1)).ravel()


def cohens_g(a: Floats, b: Floats) -> float:
    """Cohen's g of two methods on the same utterances: of those that only one gets right, the share that ``a`` does, less a half.

    It belongs to paired right-or-wrong outcomes as McNemar's test does (Cohen 1988, chapter 5): utterances that both get right or
    wrong say nothing of the difference. 0.05 is small, 0.15 medium, 0.25 large. Several seeds count as all their pairs. In a
    multi-label task an outcome is the decision on one class of one utterance.

    Args:
        a: Share of the seeds of one method that are right, by utterance (N,).
        b: Of the other.
    """
    only_a, only_b = float(a @ (1 - b)), float(b @ (1 - a))
    return only_a / (only_a + only_b) - 0.5 if only_a + only_b else 0.0


def _notes(
    predictions: Predictions,
    clusters: Clusters,
    groups: int,
    draws: int,
    tests: int,
    reference: Hashable | None,
    incomplete: Sequence[Hashable],
) -> tuple[str, ...]:
    fewest = min(_seeds_per_fold(predicted) for predicted in predictions.predicted.values())
    seeds = "and the variance between seeds" if fewest > 1 else "without the variance between seeds where there is one"
    notes = [
        f"95 % intervals: {draws:,} bootstrap draws of {groups:,} test {clusters.kind}, the same for all rows, {seeds}; "
        "t distribution",
        *clusters.notes,
    ]
    if tests:
        what = "†: the best, or not distinguishable from it at 5 %" if reference is None else "p: difference to the reference"
        notes.append(f"{what}: two-sided t test on the same draws, Holm's correction over {tests} test{'s' * (tests > 1)}")
    if fewest == 1:
        notes.append("the interval and tests of a row with one seed are about the models as trained, not about training them again")
    elif fewest < 5:
        notes.append(
            f"with {fewest} seeds their variance is hardly known: tests find only large differences; five seeds find far more"
        )
    if incomplete:
        notes.append(
            f"not tested against the marked row, for want of the same folds: {len(incomplete)} row{'s' * (len(incomplete) > 1)}"
        )
    return tuple(notes)


def _seeds_per_fold(predicted: Numbers) -> int:
    """Runs of the fold that has the fewest, among those that have any."""
    runs = (predicted >= 0).sum(axis=0)
    return int(runs[runs > 0].min())


@dataclass(frozen=True)
class Ranking:
    """Mean ranks over blocks: Friedman's test, then Nemenyi's (Demšar, JMLR 7, 2006).

    Attributes:
        ranks: Mean rank by row, the best (lowest) first.
        p: Of Friedman's test that all rows rank alike.
        critical_difference: Rows whose mean ranks differ by less aren't distinguishable at 5 %.
        pairs: Nemenyi's p-values, rows by rows.
        note: What the blocks are and what that assumes, as a line for a caption.
    """

    ranks: pd.Series
    p: float
    critical_difference: float
    pairs: pd.DataFrame
    note: str


def rank(scores: pd.DataFrame, blocks: str, caveat: str = "") -> Ranking:
    """Rank rows over blocks.

    Args:
        scores: One line per block, one column per row of the table; the more the better. Blocks with a gap don't count.
        blocks: What they are, such as ``corpora``.
        caveat: What the reader must know of them.

    Raises:
        StatisticsError: If there are fewer than three rows or two blocks.
    """
    import scikit_posthocs  # slow to import, as above

    whole = scores.dropna()
    count, size = len(whole), whole.shape[1]
    if size < 3 or count < 2:
        raise StatisticsError(f"ranks need three rows and two {blocks} that all have; there are {size} and {count}")
    ranks = whole.rank(axis=1, ascending=False).mean().sort_values(kind="stable")
    statistic = stats.friedmanchisquare(*whole.to_numpy().T)
    # Of k rows that rank alike, as a share of the standard error of a mean rank: the studentized range, over sqrt(2).
    critical = float(stats.studentized_range.isf(ALPHA, size, np.inf)) / np.sqrt(2) * np.sqrt(size * (size + 1) / (6 * count))
    pairs = scikit_posthocs.posthoc_nemenyi_friedman(whole.to_numpy())
    pairs.index = pairs.columns = whole.columns
    note = (
        f"mean ranks of {size} rows over {count} {blocks}; Friedman p = {statistic.pvalue:.2g}; critical difference (Nemenyi, 5 %) "
        f"{critical:.2f}" + (f"; {caveat}" if caveat else "")
    )
    return Ranking(ranks, float(statistic.pvalue), float(critical), pairs, note)
