"""Statistics from stored predictions: intervals, paired tests, effect sizes and ranks. Nothing is trained again.

A score is the mean over folds, each the mean over its seeds. What varies, and how it is counted:

- The test utterances are a sample. They are drawn again by a bootstrap whose units are speakers, or dialogues, or utterances
  (`choose_clusters`), and every row of a table gets the same draws, so that differences between rows are paired. Where recordings
  repeat across those units, the variance is v_units + v_recordings - v_common, and not below the first two (Cameron, Gelbach and
  Miller 2011, "Robust inference with multiway clustering").
- The seeds are a sample: a method whose seeds lie far apart isn't known better for having many test utterances. Their variance,
  pooled over the folds of a row, borrows from the other rows (`moderated`).
- From three folds on the training sets are a sample: the variance of a mean over folds is at least the variance between folds over
  their number, as in a t test over folds. That training sets overlap isn't counted.

With the first two

    v = v_items + max(0, v_seeds - v_both),

where ``v_items`` is the bootstrap's variance of the mean, ``v_seeds`` the variance of that mean by the spread of seeds within a
fold, and ``v_both`` what the two have in common (each seed errs on utterances of its own), which the bootstrap gives as well; with
folds the larger of ``v`` and theirs. Intervals and tests use the t distribution with Satterthwaite's degrees of freedom, or F - 1
where the F folds' variance is the larger. To leave the seeds out, as a bootstrap of the utterances alone or McNemar's test does,
calls methods different that differ by the luck of their seeds (Bouthillier et al., MLSys 2021, "Accounting for variance in machine
learning benchmarks"); ``python -m benchmarks.stats_check`` shows how often.

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
from scipy import optimize, special, stats

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
ENOUGH_FOLDS = 3
"""From which on the variance between folds counts. Of two it is known so badly that nothing would ever be found."""
ENOUGH_ROWS = 3
"""With a variance between seeds, from which on rows borrow it from each other."""


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
            ``speaker``, ``dialogue`` and ``recording`` (null where unknown).
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
        scores: One line per row: ``mean`` over folds, ``low`` and ``high`` of its 95 % interval, ``p`` of the difference to
            ``reference``, adjusted for the other rows (not a number for the reference), and ``tied``: the reference, or not
            distinguishable from it; NA for rows that can't be tested against it, for want of the same folds.
        pairs: One line per pair of rows ``a``, ``b``: ``difference`` (a - b) with its 95 % interval ``low``, ``high`` (of this
            pair alone), ``p``, ``p_holm`` (adjusted for all lines) and the effect size `cohens_g`. With a reference that was
            named, only its pairs, as b.
        reference: The best row of those with all folds, or the one that was named.
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
            # Older results don't name speakers, dialogues and recordings.
            items = frame.reindex(columns=["utterance_id", "label", "speaker", "dialogue", "recording"])
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
        effective = _effective(codes)
        if effective >= ENOUGH_CLUSTERS:
            return Clusters(f"{kind}s", codes, effective, tuple(notes))
        notes.append(
            f"{len(names)} test {kind}{'s' * (len(names) > 1)}, worth {effective:.1f} of equal size, are too few to be drawn: "
            f"intervals and tests are about {'these' if len(names) > 1 else 'this'} {kind}{'s' * (len(names) > 1)}, not about "
            "others"
        )
    if items[["speaker", "dialogue"]].isna().any().all():
        notes.append("speakers and dialogues aren't known: utterances count as independent of them, so intervals may be too narrow")
    codes, _ = pd.factorize(items["utterance_id"])
    return Clusters("utterances", codes, float(codes.max() + 1), tuple(notes))


def _crossed(items: pd.DataFrame, unit: Clusters) -> tuple[tuple[Clusters, ...], tuple[str, ...]]:
    """Where recordings repeat across what is drawn: them, and what they have in common with it; and a note.

    Args:
        items: As of `Predictions`.
        unit: What is drawn.
    """
    if items["recording"].isna().all():
        unknown = "recordings aren't known (an older result, or no audio): where they repeat, intervals are too narrow"
        return (), () if unit.kind == "speakers" else (unknown,)
    # An utterance without audio shares its recording with none.
    codes, names = pd.factorize(items["recording"].fillna(items["utterance_id"]))
    common, _ = pd.factorize(codes * (unit.codes.max() + 1) + unit.codes)
    if common.max() + 1 == len(names):  # every recording lies within one unit
        return (), ()
    recordings = Clusters("recordings", codes, _effective(codes), ())
    note = f"{items['utterance_id'].nunique():,} test utterances of {len(names):,} recordings"
    if recordings.effective < ENOUGH_CLUSTERS:
        return (), (f"{note}, too few to be drawn: intervals and tests are about these recordings, not about others",)
    note += f": they are drawn too, and the variance by {unit.kind} and by recordings is added, less what both have in common"
    return (recordings, Clusters("common", common, _effective(common), ())), (note,)


def _effective(codes: npt.NDArray[np.intp]) -> float:
    """How many clusters of equal size these are worth."""
    sizes = np.bincount(codes)
    return float(sizes.sum() ** 2 / (sizes**2).sum())


def _weights(groups: int, draws: int, random: np.random.Generator) -> npt.NDArray[np.float32]:
    """How often each of G clusters is in each draw, (1 + D, G); the first line is the observed sample, every cluster once."""
    weights = np.ones((1 + draws, groups), np.float32)
    for start in range(1, 1 + draws, 100):  # in pieces, since counting takes several times the memory of what is counted
        block = weights[start : start + 100]
        chosen = random.integers(groups, size=block.shape) + np.arange(len(block))[:, None] * groups
        block[:] = np.bincount(chosen.ravel(), minlength=block.size).reshape(block.shape)
    return weights


def compare(
    predictions: Predictions, metric: str = "uar", reference: Hashable | None = None, draws: int = 2000, seed: int = 0
) -> Comparison:
    """Intervals of all rows, and tests between them.

    All rows are tested against the reference and adjusted together (Holm). Where that is the best row by the same data, what ties
    with it is a set that holds the truly best row in about 95 % of cases (Hsu, 1996, "Multiple comparisons", chapter 4: each
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
    crossed, told = _crossed(items, clusters)
    spread = _spread(predictions, metrics[metric], (clusters, *crossed), draws, np.random.default_rng(seed))
    means, numbers = np.nanmean(spread.folds, axis=1), np.arange(len(rows))
    error, freedom = spread.error(numbers)
    reach = stats.t.isf(ALPHA / 2, freedom) * error
    scores = pd.DataFrame({"mean": means, "low": np.maximum(means - reach, 0), "high": np.minimum(means + reach, 1)}, index=rows)
    covered = spread.runs > 0  # (R, F)
    whole = covered.sum(axis=1) == covered.sum(axis=1).max()
    chosen = rows.index(reference) if reference is not None else int(np.where(whole, means, -1).argmax())
    a, b = np.triu_indices(len(rows), 1)
    if reference is not None:
        a = numbers[numbers != chosen]
        b = np.full_like(a, chosen)
    same = (covered[a] == covered[b]).all(axis=1)
    pairs = _pairs(rows, a[same], b[same], means, spread)
    pairs["p_holm"] = multipletests(pairs["p"], ALPHA, "holm")[1] if len(pairs) else pairs["p"]
    right = np.stack([_hit_rate(predictions.predicted[row], predictions) for row in rows])
    pairs["cohens_g"] = cohens_g(right)[a[same], b[same]]
    others = np.where(a == chosen, b, a)[same]
    tested = ((a == chosen) | (b == chosen))[same]
    scores["p"] = np.nan
    if tested.any():
        scores.iloc[others[tested], -1] = multipletests(pairs["p"][tested], ALPHA, "holm")[1]
    scores["tied"] = (scores["p"] >= ALPHA).astype("boolean").mask(scores["p"].isna())
    scores.iloc[chosen, -1] = True
    notes = _notes(spread, clusters, told, draws, int(tested.sum()), chosen, reference is not None)
    wide = (scores["tied"].fillna(False) & (scores["high"] - scores["low"] >= WIDE)).to_numpy(bool)
    if reference is None and np.delete(wide, chosen).any():
        ignorance = f"that of {wide.sum()} of the {scores['tied'].sum()} marked rows spans {100 * WIDE:g} points or more"
        notes += (f"† with a wide interval means unknown, not equal: {ignorance}",)
    return Comparison(metric, scores, pairs, rows[chosen], notes)


def _pairs(
    rows: Sequence[Hashable], a: npt.NDArray[np.intp], b: npt.NDArray[np.intp], means: Floats, spread: "_Spread"
) -> pd.DataFrame:
    """Differences a - b (P,), their intervals, and the p-values of two-sided t tests."""
    difference = means[a] - means[b]
    error, freedom = spread.error(a, b)
    reach = stats.t.isf(ALPHA / 2, freedom) * error
    with np.errstate(divide="ignore", invalid="ignore"):
        p = np.where(difference == 0, 1.0, 2 * stats.t.sf(np.abs(difference) / error, freedom))
    return pd.DataFrame(
        {
            "a": pd.Series([rows[n] for n in a], dtype=object),
            "b": pd.Series([rows[n] for n in b], dtype=object),
            "difference": difference,
            "low": difference - reach,
            "high": difference + reach,
            "p": p,
        }
    )


@dataclass(frozen=True)
class _Spread:
    """Scores of R rows in F folds, and how they vary.

    Attributes:
        folds: Means over a row's seeds (R, F); not a number where it has no run.
        runs: Numbers of seeds (R, F).
        items: Covariances of the rows' means over folds (R, R), by the draws of one clustering; or of two and of what they have in
            common.
        effective: How many clusters the draws are worth.
        seeds: Variance of a seed's score within a fold (R,).
        freedom: Its degrees of freedom (R,); 0 where a row has one seed.
        own: Of ``seeds``, what is in ``items`` already (R,): each seed errs on utterances of its own.
    """

    folds: Floats
    runs: npt.NDArray[np.intp]
    items: Sequence[Floats]
    effective: float
    seeds: Floats
    freedom: Floats
    own: Floats

    def error(self, a: npt.NDArray[np.intp], b: npt.NDArray[np.intp] | None = None) -> tuple[Floats, Floats]:
        """Standard errors (P,) of the scores of rows ``a``, or of their differences to rows ``b``; and degrees of freedom."""
        rows = [a] if b is None else [a, b]
        scores = self.folds[a] if b is None else self.folds[a] - self.folds[b]
        drawn = [v[a, a] if b is None else v[a, a] + v[b, b] - 2 * v[a, b] for v in self.items]
        items = np.maximum(drawn[0] if len(drawn) == 1 else np.max([*drawn[:2], drawn[0] + drawn[1] - drawn[2]], axis=0), 0)
        # Of the mean over F folds, each over its S seeds: the sum of 1 / S, over F^2.
        there = self.runs > 0
        per = np.divide(1, self.runs, out=np.zeros(there.shape), where=there).sum(axis=1) / there.sum(axis=1) ** 2
        extra = sum((self.seeds - self.own)[row] * per[row] for row in rows)
        variance = items + np.maximum(extra, 0)
        parts = np.divide((self.seeds * per) ** 2, self.freedom, out=np.zeros(len(per)), where=self.freedom > 0)
        terms = items**2 / max(self.effective - 1, 1) + np.where(extra > 0, sum(parts[row] for row in rows), 0)
        freedom = np.divide(variance**2, terms, out=np.full(len(variance), np.inf), where=terms > 0)
        # The folds' scores hold all of that, and the luck of their training sets besides.
        count = (~np.isnan(scores)).sum(axis=1)
        between = np.zeros(len(scores))
        enough = count >= ENOUGH_FOLDS
        between[enough] = np.nanvar(scores[enough], axis=1, ddof=1) / count[enough]
        more = between > variance
        return np.sqrt(np.where(more, between, variance)), np.where(more, count - 1, freedom)


class _Sample(NamedTuple):
    """All runs of R rows in F folds, as observed and in D draws of the test utterances.

    Attributes:
        folds: Means over a row's seeds (R, F); not a number where it has no run.
        runs: Numbers of seeds (R, F).
        seeds: Variance of a seed's score within a fold (R,), over folds; 0 where a row has one seed.
        freedom: Its degrees of freedom (R,).
        draws: Means over folds (R, D).
        own: Variance of a seed's score less that of its row's mean, over draws (R,).
    """

    folds: Floats
    runs: npt.NDArray[np.intp]
    seeds: Floats
    freedom: Floats
    draws: Floats
    own: Floats


def _spread(
    predictions: Predictions,
    metric: Callable[[Floats], Floats],
    clusterings: Sequence[Clusters],
    draws: int,
    random: np.random.Generator,
) -> _Spread:
    samples = [_resample(predictions, clusters.codes, metric, draws, random) for clusters in clusterings]
    groups = [int(clusters.codes.max()) + 1 for clusters in clusterings]
    # A bootstrap of G clusters has (G - 1) / G of the variance.
    items = [np.atleast_2d(np.cov(sample.draws)) * size / max(size - 1, 1) for sample, size in zip(samples, groups, strict=True)]
    own = [sample.own for sample in samples]
    seeds, freedom = moderated(samples[0].seeds, samples[0].freedom)
    return _Spread(
        samples[0].folds,
        samples[0].runs,
        items,
        min(clusters.effective for clusters in clusterings[:2]),
        seeds,
        freedom,
        own[0] if len(own) == 1 else np.maximum(own[0] + own[1] - own[2], 0),
    )


def _resample(
    predictions: Predictions,
    clusters: npt.NDArray[np.intp],
    metric: Callable[[Floats], Floats],
    draws: int,
    random: np.random.Generator,
) -> _Sample:
    """Draw all rows' runs again.

    A score is the mean over folds, each the mean over its seeds, so that a fold with more seeds counts no more. Clusters are drawn
    over all folds together, and a fold counts as often as its clusters were drawn.

    Args:
        predictions: Of the runs.
        clusters: (N,).
        metric: Of counts.
        draws: How many.
        random: Chooses them.
    """
    weights, label = _weights(int(clusters.max()) + 1, draws, random), predictions.items["label"].to_numpy()
    order, fold_of = np.unique(predictions.items["fold"], return_inverse=True)
    rows = len(predictions.predicted)
    folds, runs = np.full((rows, len(order)), np.nan), np.zeros((rows, len(order)), np.intp)
    total, count = np.zeros((2, rows, 1 + draws))
    squares, own = np.zeros((2, rows))
    for fold in range(len(order)):
        here = fold_of == fold
        names, codes = np.unique(clusters[here], return_inverse=True)
        drawn = weights if len(names) == weights.shape[1] else weights[:, names]  # (1 + D, clusters of the fold)
        share = drawn.mean(axis=1)
        some = share > 0
        for row, predicted in enumerate(predictions.predicted.values()):
            values = []
            for line in predicted[:, here]:
                there = line >= 0
                if not there.any():
                    continue
                cells, shape = _cells(label[here][there], line[there], predictions)
                every = math.prod(shape)
                cells += every * codes[there, None]
                counts = np.bincount(cells.ravel(), minlength=len(names) * every).reshape(len(names), every).astype(np.float32)
                values.append(metric((drawn @ counts)[some].reshape(-1, *shape)))
            if not values:
                continue
            scores = np.stack(values)
            mean = scores.mean(axis=0)
            total[row, some] += share[some] * mean
            count[row] += share
            folds[row, fold], runs[row, fold] = mean[0], len(values)
            squares[row] += ((scores[:, 0] - mean[0]) ** 2).sum()
            own[row] += (scores - mean)[:, 1:].var(axis=1, ddof=1).sum()
    means = np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0)
    freedom = np.maximum(runs - 1, 0).sum(axis=1).astype(float)
    return _Sample(
        folds,
        runs,
        squares / np.maximum(freedom, 1),
        freedom,
        np.where(np.isnan(means), means[:, :1], means)[:, 1:],  # a draw may hold nothing of a row that lacks folds
        own / np.maximum(freedom, 1),
    )


def moderated(variances: Floats, freedom: Floats) -> tuple[Floats, Floats]:
    """Variances between seeds that borrow from each other, (R,), and their degrees of freedom (R,).

    Of two or three seeds a variance is hardly known; but those of a table's rows, it is assumed, are draws from one distribution, a
    scaled inverse chi-squared. It is fitted to the logarithms of the variances and counts as so many degrees of freedom more: many
    where rows are alike, few where they aren't (Smyth 2004, "Linear models and empirical Bayes methods for assessing differential
    expression in microarray experiments", section 6.2).

    Fewer than three rows borrow nothing. Rows whose seeds agree exactly aren't random, and neither borrow nor lend.

    Args:
        variances: As estimated (R,).
        freedom: Of them (R,); 0 where there is one seed.
    """
    known = (freedom > 0) & (variances > 0)
    if known.sum() < ENOUGH_ROWS:
        return variances, freedom
    half = freedom[known] / 2
    logs = np.log(variances[known]) - special.digamma(half) + np.log(half)
    excess = float(logs.var(ddof=1) - special.polygamma(1, half).mean())  # trigamma of half the prior's degrees of freedom
    # Of a million and more they are as good as infinite.
    prior = 2 * (optimize.brentq(lambda x: special.polygamma(1, x) - excess, 1e-6, 1e6) if excess > 2e-6 else 1e6)
    typical = np.exp(logs.mean() + special.digamma(prior / 2) - np.log(prior / 2))
    mixed = (prior * typical + freedom * variances) / (prior + freedom)
    return np.where(known, mixed, variances), np.where(known, prior + freedom, freedom)


def _cells(label: Numbers, guess: Numbers, predictions: Predictions) -> tuple[npt.NDArray[np.intp], tuple[int, ...]]:
    """Which cells of the confusion counts each utterance adds one to, (n, 1) or in a multi-label task (n, C), and their shape."""
    size = len(predictions.classes)
    if predictions.task == "multilabel":
        truth, said = from_bits(label, size), from_bits(guess, size)
        return 4 * np.arange(size) + 2 * truth + said, (size, 2, 2)
    return (label.astype(np.intp) * size + guess)[:, None], (size, size)


def _hit_rate(predicted: Numbers, predictions: Predictions) -> Floats:
    """Share of seeds that are right, by utterance (N,), in a multi-label task by utterance and class (N C,)."""
    label, there = predictions.items["label"].to_numpy(), (predicted >= 0)[..., None]  # (N,), (S, N, 1)
    right = (predicted == label)[..., None]
    if predictions.task == "multilabel":
        size = len(predictions.classes)
        right = from_bits(predicted, size) == from_bits(label, size)  # (S, N, C)
    return np.asarray((right & there).sum(axis=0) / np.maximum(there.sum(axis=0), 1)).ravel()


def cohens_g(right: Floats) -> Floats:
    """Cohen's g of pairs of methods on the same utterances: of those that only one gets right, the share of the first, less a half.

    It belongs to paired right-or-wrong outcomes as McNemar's test does (Cohen 1988, chapter 5): utterances that both get right or
    wrong say nothing of the difference. 0.05 is small, 0.15 medium, 0.25 large. Several seeds count as all their pairs. In a
    multi-label task an outcome is the decision on one class of one utterance.

    Args:
        right: Share of the seeds of R methods that are right, by utterance (R, N).

    Returns:
        g by first and second method (R, R).
    """
    only = right @ (1 - right).T
    return np.divide(only, only + only.T, out=np.full_like(only, 0.5), where=only + only.T > 0) - 0.5


def _notes(
    spread: _Spread, clusters: Clusters, told: Sequence[str], draws: int, tests: int, chosen: int, named: bool
) -> tuple[str, ...]:
    there = spread.runs > 0
    fewest, groups = int(spread.runs[there].min()), int(clusters.codes.max()) + 1
    seeds = "and the variance between seeds" if fewest > 1 else "without the variance between seeds where there is one"
    notes = [
        f"95 % intervals: {draws:,} bootstrap draws of {groups:,} test {clusters.kind}, the same for all rows, {seeds}; "
        "t distribution",
        *clusters.notes,
        *told,
    ]
    if tests:
        what = "p: difference to the reference" if named else "†: the best, or not distinguishable from it at 5 %"
        notes.append(f"{what}: two-sided t test on the same draws, Holm's correction over {tests} test{'s' * (tests > 1)}")
    if there.sum(axis=1).max() >= ENOUGH_FOLDS:
        notes.append("the variance of a mean over folds is at least that between folds: their training sets differ too")
    if fewest == 1:
        notes.append("the interval and tests of a row with one seed are about the models as trained, not about training them again")
    elif fewest < 5:
        notes.append(f"of {fewest} seeds the variance is hardly known: tests miss differences that five seeds would find")
    if (spread.freedom > 0).sum() >= ENOUGH_ROWS:
        notes.append("rows borrow the variance between seeds from each other, as if drawn from one distribution (Smyth 2004)")
    if uneven := sum(len(set(row[row > 0])) > 1 for row in spread.runs):
        notes.append(f"numbers of seeds differ between the folds of {_rows(uneven)}; every fold counts the same")
    if untested := int((there != there[chosen]).any(axis=1).sum()):
        notes.append(f"?: not tested against the marked row, for want of the same folds: {_rows(untested)}")
    return tuple(notes)


def _rows(count: int) -> str:
    return f"{count} row{'s' * (count > 1)}"


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
    alike = bool((whole.nunique(axis=1) == 1).all())  # Friedman's statistic is then 0 / 0
    p = 1.0 if alike else float(stats.friedmanchisquare(*whole.to_numpy().T).pvalue)
    # Of k rows that rank alike, as a share of the standard error of a mean rank: the studentized range, over sqrt(2).
    critical = float(stats.studentized_range.isf(ALPHA, size, np.inf)) / np.sqrt(2) * np.sqrt(size * (size + 1) / (6 * count))
    pairs = scikit_posthocs.posthoc_nemenyi_friedman(whole.to_numpy())
    pairs.index = pairs.columns = whole.columns
    note = f"mean ranks of {size} rows over {count} {blocks}; Friedman p = {p:.2g}"
    if count <= 10 or size <= 5:
        note += f" (chi-squared, which wants more than 10 {blocks} and 5 rows)"
    note += f"; critical difference (Nemenyi, 5 %) {critical:.2f}"
    if critical >= size - 1:
        note += ": no ranks over so few can differ by that, so no difference could be found"
    return Ranking(ranks, p, critical, pairs, f"{note}; {caveat}" if caveat else note)
