"""Does `benchmarks.stats` tell the truth? Simulated results whose answer is known: ``python -m benchmarks.stats_check``.

A simulated utterance has a difficulty, which all methods share and which utterances of one speaker have partly in common, so that
methods are right on mostly the same utterances. A method has preferences among utterances, and each of its seeds a level of its
own. Whether a run is right is then drawn with the probability that these add up to, on the logistic scale.
"""

import gc
import sys
from collections.abc import Callable, Hashable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import stats
from scipy.special import expit

from benchmarks.stats import Predictions, compare
from benchmarks.tables import pipe_table

CLASSES = ("anger", "happiness", "neutral", "sadness")


@dataclass(frozen=True)
class World:
    """Where simulated results come from; deviations are on the logistic scale.

    Attributes:
        utterances: Tested, spread over four classes.
        speakers: Who say them; 0 if every utterance stands for itself.
        seeds: Runs per method.
        difficulty: Deviation of utterances' difficulty, common to all methods.
        voice: Deviation of speakers' difficulty.
        taste: Deviation of a method's preferences among utterances.
        luck: Deviation of a seed's level; 0.1 is about 1.2 points of accuracy.
        level: Of all methods; 1.3 is about 70 % accuracy.
    """

    utterances: int = 1000
    speakers: int = 0
    seeds: int = 3
    difficulty: float = 1.5
    voice: float = 0.0
    taste: float = 0.7
    luck: float = 0.1
    level: float = 1.3

    def draw(self, levels: tuple[float, ...], random: np.random.Generator) -> Predictions:
        """Results of one method per entry of ``levels``, which are added to ``level``."""
        number = np.arange(self.utterances)
        speaker = number % self.speakers if self.speakers else number
        voices = random.normal(0, self.voice, speaker.max() + 1)
        ease = self.level + random.normal(0, self.difficulty, self.utterances) + voices[speaker]
        label = random.integers(len(CLASSES), size=self.utterances)
        items = pd.DataFrame({"fold": 0, "utterance_id": number.astype(str), "label": label, "dialogue": None})
        items["speaker"] = speaker.astype(str) if self.speakers else None
        predicted: dict[Hashable, npt.NDArray[np.int32]] = {}
        for method, level in enumerate(levels):
            taste, luck = random.normal(0, self.taste, self.utterances), random.normal(0, self.luck, (self.seeds, 1))
            right = random.random((self.seeds, self.utterances)) < expit(ease + level + taste + luck)
            wrong = (label + random.integers(1, len(CLASSES), right.shape)) % len(CLASSES)
            predicted[method] = np.where(right, label, wrong).astype(np.int32)
        return Predictions(items, CLASSES, predicted)

    def accuracy(self, level: float = 0.0) -> float:
        """Expected accuracy of a method over utterances, speakers and seeds: a mean of a logistic-normal, by quadrature."""
        nodes, weights = np.polynomial.hermite_e.hermegauss(60)
        spread = np.sqrt(self.difficulty**2 + self.voice**2 + self.taste**2 + self.luck**2)
        return float(weights @ expit(self.level + level + spread * nodes) / weights.sum())

    def lift(self, points: float) -> float:
        """What must be added to the level for so many points of accuracy more."""
        found = np.interp(self.accuracy() + points / 100, [self.accuracy(x) for x in _GRID], _GRID)
        return float(found)


_GRID = np.linspace(-1, 3, 401)


def share(event: Callable[[np.random.Generator], bool], draws: int, seed: int = 0) -> float:
    """How often an event happens."""
    random = np.random.default_rng(seed)
    gc.freeze()  # statsmodels collects garbage at every correction, which takes longer than all the rest
    try:
        return float(np.mean([event(random) for _ in range(draws)]))
    finally:
        gc.unfreeze()


def tied(world: World, methods: int = 2, bootstrap: int = 300) -> Callable[[np.random.Generator], bool]:
    """Of methods that are all the same: the last is tied with the best."""
    return lambda random: bool(compare(world.draw((0.0,) * methods, random), "uar", draws=bootstrap).scores["tied"].iloc[-1])


def found(world: World, points: float, bootstrap: int = 300) -> Callable[[np.random.Generator], bool]:
    """Of two methods, the second better by so many points: the first is not tied with it."""
    levels = (0.0, world.lift(points))

    def event(random: np.random.Generator) -> bool:
        comparison = compare(world.draw(levels, random), "uar", draws=bootstrap)
        return bool(comparison.reference == 1 and not comparison.scores["tied"].iloc[0])

    return event


def covered(world: World, bootstrap: int = 300) -> Callable[[np.random.Generator], bool]:
    """The interval of a method's UAR holds its expectation, which is the accuracy, since classes are alike."""
    truth = world.accuracy()

    def event(random: np.random.Generator) -> bool:
        scores = compare(world.draw((0.0,), random), "uar", draws=bootstrap).scores
        return bool(scores["low"].iloc[0] <= truth <= scores["high"].iloc[0])

    return event


def utterances_only(world: World) -> Callable[[np.random.Generator], bool]:
    """As `tied`, by what is often done instead: a paired t test over utterances of the means over seeds."""

    def event(random: np.random.Generator) -> bool:
        drawn = world.draw((0.0, 0.0), random)
        label = drawn.items["label"].to_numpy()
        first, second = (hits(lines, label) for lines in drawn.predicted.values())
        return bool(stats.ttest_rel(first, second).pvalue >= 0.05)

    return event


def hits(lines: npt.NDArray[np.int32], label: npt.NDArray[np.integer]) -> npt.NDArray[np.floating]:
    """Share of seeds that are right, by utterance (N,)."""
    return np.asarray((lines == label).mean(axis=0))


def unclustered(world: World) -> Callable[[np.random.Generator], bool]:
    """As `covered`, with the speakers forgotten."""
    truth = world.accuracy()

    def event(random: np.random.Generator) -> bool:
        drawn = world.draw((0.0,), random)
        drawn.items["speaker"] = None
        scores = compare(drawn, "uar", draws=300).scores
        return bool(scores["low"].iloc[0] <= truth <= scores["high"].iloc[0])

    return event


def main(draws: int = 500) -> None:
    """Print the table of docs/measurements.md."""
    same, steady, single = World(), World(luck=0.0), World(seeds=1, luck=0.0)
    five, wild = World(seeds=5), World(seeds=5, luck=0.2)
    speakers, ten = World(speakers=40, voice=0.5, seeds=5), World(speakers=10, voice=0.5, seeds=5)
    rows: list[tuple[str, str, float]] = [
        ("two identical methods, 3 seeds", "tied", share(tied(same), draws)),
        ("two identical methods, 3 seeds that don't differ in level", "tied", share(tied(steady), draws)),
        ("two identical methods, 5 seeds, two and a half points apart", "tied", share(tied(wild), draws)),
        ("two identical methods, 5 seeds, 40 speakers", "tied", share(tied(speakers), draws)),
        ("two identical methods, 1 seed that has no luck", "tied", share(tied(single), draws)),
        ("ten identical methods, 3 seeds", "the last is tied", share(tied(same, 10), draws)),
        ("two identical methods, 3 seeds, t test over utterances alone", "tied", share(utterances_only(same), draws)),
        ("two identical methods, 5 seeds two and a half points apart, the same", "tied", share(utterances_only(wild), draws)),
        ("5 points planted, 1 seed that has no luck", "found", share(found(single, 5), draws)),
        ("5 points planted, 3 seeds that don't differ in level", "found", share(found(steady, 5), draws)),
        ("5 points planted, 3 seeds", "found", share(found(same, 5), draws)),
        ("5 points planted, 5 seeds", "found", share(found(five, 5), draws)),
        ("interval, independent utterances, 1 seed that has no luck", "covers", share(covered(single), draws)),
        ("interval, independent utterances, 5 seeds", "covers", share(covered(five), draws)),
        ("interval, 40 speakers, 5 seeds", "covers", share(covered(speakers), draws)),
        ("interval, 10 speakers, 5 seeds", "covers", share(covered(ten), draws)),
        ("interval, 10 speakers, 5 seeds, speakers forgotten", "covers", share(unclustered(ten), draws)),
    ]
    table = {"note": [r[0] for r in rows], "metric": [r[1] for r in rows], "share": [f"{100 * r[2]:.1f} %" for r in rows]}
    sys.stdout.write(pipe_table(table) + "\n")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 500)
