"""Does `benchmarks.stats` tell the truth? Simulated results whose answer is known: ``python -m benchmarks.stats_check``.

A simulated utterance has a difficulty, which all methods share and which utterances of one speaker, dialogue or recording have
partly in common, so that methods are right on mostly the same utterances. A method has preferences among utterances, dialogues and
recordings, a level in each fold, as its training set is lucky, and a level in each run, as its seed is. Whether a run is right is
then drawn with the probability that these add up to, on the logistic scale. Folds and runs are independent of each other; that
training sets overlap isn't simulated.
"""

import gc
import sys
from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace

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
        dialogues: That hold them; 0 if none is known.
        recordings: That they are of, each of many dialogues; 0 if every utterance has its own.
        folds: Of a cross-validation; a speaker is in one.
        seeds: Runs per method and fold.
        difficulty: Deviation of utterances' difficulty, common to all methods.
        voice: Deviation of speakers' difficulty.
        topic: Deviation of dialogues' difficulty, and of a method's preferences among them.
        sound: The same of recordings.
        taste: Deviation of a method's preferences among utterances.
        luck: Deviation of a seed's level; 0.1 is about 1.2 points of accuracy.
        uneven: Deviation of the logarithm of ``luck`` between methods.
        training: Deviation of a method's level between folds, which have other training sets.
        level: Of all methods; 1.3 is about 70 % accuracy.
    """

    utterances: int = 1000
    speakers: int = 0
    dialogues: int = 0
    recordings: int = 0
    folds: int = 1
    seeds: int = 3
    difficulty: float = 1.5
    voice: float = 0.0
    topic: float = 0.0
    sound: float = 0.0
    taste: float = 0.7
    luck: float = 0.1
    uneven: float = 0.0
    training: float = 0.0
    level: float = 1.3

    def draw(self, levels: tuple[float, ...], random: np.random.Generator) -> Predictions:
        """Results of one method per entry of ``levels``, which are added to ``level``."""
        number = np.arange(self.utterances)
        speaker = number % self.speakers if self.speakers else number
        dialogue = number * self.dialogues // self.utterances
        recording = random.integers(self.recordings, size=self.utterances) if self.recordings else number
        fold = speaker % self.folds
        kinds = ((self.topic, dialogue), (self.sound, recording))

        def common() -> npt.NDArray[np.floating]:
            """What utterances of one dialogue and of one recording share."""
            drawn = [random.normal(0, size, code.max() + 1)[code] for size, code in kinds if size]
            return np.sum(drawn, axis=0) if drawn else np.zeros(self.utterances)

        voices = random.normal(0, self.voice, speaker.max() + 1)
        ease = self.level + random.normal(0, self.difficulty, self.utterances) + voices[speaker] + common()
        label = random.integers(len(CLASSES), size=self.utterances)
        items = pd.DataFrame({"fold": fold, "utterance_id": number, "label": label})
        items["dialogue"] = dialogue if self.dialogues else None
        items["speaker"] = speaker if self.speakers else None
        items["recording"] = recording
        predicted: dict[Hashable, npt.NDArray[np.int32]] = {}
        for method, level in enumerate(levels):
            taste = random.normal(0, self.taste, self.utterances) + common()
            luck = random.normal(0, self.luck * np.exp(random.normal(0, self.uneven)), (self.seeds, self.folds))
            luck += random.normal(0, self.training, self.folds)
            right = random.random((self.seeds, self.utterances)) < expit(ease + level + taste + luck[:, fold])
            wrong = (label + random.integers(1, len(CLASSES), right.shape)) % len(CLASSES)
            predicted[method] = np.where(right, label, wrong).astype(np.int32)
        return Predictions(items, CLASSES, predicted)

    def accuracy(self, level: float = 0.0) -> float:
        """Expected accuracy of a method over all that is drawn: a mean of a logistic-normal, by quadrature; ``uneven`` left out."""
        nodes, weights = np.polynomial.hermite_e.hermegauss(60)
        once = [self.difficulty, self.voice, self.taste, self.luck, self.training]
        spread = np.sqrt(np.square(once).sum() + 2 * (self.topic**2 + self.sound**2))
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


def tied(world: World, methods: int = 2, bootstrap: int = 200) -> Callable[[np.random.Generator], bool]:
    """Of methods that are all the same: the last is tied with the best."""
    return lambda random: bool(compare(world.draw((0.0,) * methods, random), "uar", draws=bootstrap).scores["tied"].iloc[-1])


def found(world: World, points: float, methods: int = 2, bootstrap: int = 200) -> Callable[[np.random.Generator], bool]:
    """The last method is better than all others by so many points: it is the best, and the first is not tied with it."""
    levels = (*(0.0,) * (methods - 1), world.lift(points))

    def event(random: np.random.Generator) -> bool:
        comparison = compare(world.draw(levels, random), "uar", draws=bootstrap)
        return bool(comparison.reference == methods - 1 and not comparison.scores["tied"].iloc[0])

    return event


def covered(world: World, forgotten: bool = False, bootstrap: int = 200) -> Callable[[np.random.Generator], bool]:
    """The interval of a method's UAR holds its expectation, which is the accuracy, since classes are alike.

    Args:
        world: Where results come from.
        forgotten: Results don't say which speaker, dialogue and recording an utterance is of.
        bootstrap: Draws.
    """
    truth = world.accuracy()

    def event(random: np.random.Generator) -> bool:
        drawn = world.draw((0.0,), random)
        if forgotten:
            drawn.items[["speaker", "dialogue", "recording"]] = None
        scores = compare(drawn, "uar", draws=bootstrap).scores
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


def main(draws: int = 500) -> None:
    """Print the table of docs/measurements.md."""
    same, single, five = World(), World(seeds=1, luck=0.0), World(seeds=5)
    wild, mixed = World(seeds=5, luck=0.2), World(uneven=0.7)
    speakers, ten = World(speakers=40, voice=0.5, seeds=5), World(speakers=10, voice=0.5, seeds=5)
    paired = World(dialogues=200, topic=0.5, recordings=86, sound=0.7, seeds=5)
    folds = World(speakers=10, voice=0.5, folds=5)
    trained, trained_five = replace(folds, training=0.2), replace(folds, training=0.2, seeds=5)
    two_folds = replace(trained, folds=2)
    rows = [
        ("two identical methods, 1 seed that has no luck", "tied", tied(single)),
        ("two identical methods, 3 seeds", "tied", tied(same)),
        ("two identical methods, 5 seeds two and a half points apart", "tied", tied(wild)),
        ("two identical methods, 5 seeds, 40 speakers", "tied", tied(speakers)),
        ("two identical methods, 5 seeds, 86 recordings in 200 dialogues", "tied", tied(paired)),
        ("three identical methods, 3 seeds, more luck in some methods than in others", "the last is tied", tied(mixed, 3)),
        ("ten identical methods, 3 seeds", "the last is tied", tied(same, 10)),
        ("ten identical methods, 3 seeds, more luck in some methods than in others", "the last is tied", tied(mixed, 10)),
        ("two identical methods, 5 folds, 3 seeds", "tied", tied(folds)),
        ("two identical methods, 5 folds whose training sets matter, 3 seeds", "tied", tied(trained)),
        ("two identical methods, 5 folds whose training sets matter, 5 seeds", "tied", tied(trained_five)),
        ("two identical methods, 2 folds whose training sets matter, 3 seeds", "tied", tied(two_folds)),
        ("two identical methods, 3 seeds, t test over utterances alone", "tied", utterances_only(same)),
        ("two identical methods, 5 seeds two and a half points apart, the same", "tied", utterances_only(wild)),
        ("5 points planted, 1 seed that has no luck", "found", found(single, 5)),
        ("5 points planted, 3 seeds", "found", found(same, 5)),
        ("5 points planted, 5 seeds", "found", found(five, 5)),
        ("5 points planted in one of ten methods, 3 seeds", "found", found(same, 5, 10)),
        ("5 points planted, 5 seeds, 86 recordings in 200 dialogues", "found", found(paired, 5)),
        ("5 points planted, 5 folds, 3 seeds", "found", found(folds, 5)),
        ("5 points planted, 5 folds whose training sets matter, 3 seeds", "found", found(trained, 5)),
        ("interval, independent utterances, 1 seed that has no luck", "covers", covered(single)),
        ("interval, independent utterances, 5 seeds", "covers", covered(five)),
        ("interval, 40 speakers, 5 seeds", "covers", covered(speakers)),
        ("interval, 10 speakers, 5 seeds", "covers", covered(ten)),
        ("interval, 10 speakers, 5 seeds, speakers forgotten", "covers", covered(ten, forgotten=True)),
        ("interval, 86 recordings in 200 dialogues, 5 seeds", "covers", covered(paired)),
        ("interval, 86 recordings in 200 dialogues, 5 seeds, both forgotten", "covers", covered(paired, forgotten=True)),
        ("interval, 5 folds, 3 seeds", "covers", covered(folds)),
        ("interval, 5 folds whose training sets matter, 3 seeds", "covers", covered(trained)),
    ]
    shares = [f"{100 * share(event, draws):.1f} %" for _, _, event in rows]
    table = {"simulated": [name for name, _, _ in rows], "what": [what for _, what, _ in rows], "share": shares}
    sys.stdout.write(pipe_table(table) + "\n")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 500)
