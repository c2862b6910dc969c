"""CMU-MOSEI: 65 hours of English monologues from YouTube, cut into sentences, with sentiment and the intensity of six emotions.

The SDK's computational sequences ``CMU_MOSEI_Labels.csd`` and ``CMU_MOSEI_TimestampedWords.csd`` are read as distributed, and so is
the folder of long WAV files of the raw archive (``Raw/Audio/Full/WAV_16000/<video>.wav``). An utterance is one labelled interval
of a video; its id is the SDK's, ``<video>[<number>]``. Without any WAV file the corpus is text only.

Splits are whole videos, listed in ``cmu_mosei_std_folds.py`` of the SDK. The lists aren't part of this project; the file is parsed
and never executed. Speakers aren't named. What is known of the release and can't be mended is in ``table.attrs["notes"]``.
"""

import ast
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import ClassVar, NamedTuple

import h5py
import numpy as np
import numpy.typing as npt
import pandas as pd

from datamodules.audio import AudioError, Clip, inspect_clip
from datamodules.corpora import COLUMNS, Corpus, Reading
from datamodules.named_files import SOUND, compare_counts, find_sounds
from datamodules.problems import BadInputError, Problem

LABELS_FILE, WORDS_FILE, FOLDS_FILE = "CMU_MOSEI_Labels.csd", "CMU_MOSEI_TimestampedWords.csd", "cmu_mosei_std_folds.py"
SDK = "github.com/CMU-MultiComp-Lab/CMU-MultimodalSDK"
FOLDS_SOURCE = f"mmsdk/mmdatasdk/dataset/standard_datasets/CMU_MOSEI/{FOLDS_FILE} of {SDK}"
FOLDS = {"standard_train_fold": "train", "standard_valid_fold": "val", "standard_test_fold": "test"}
RANGES = {"sentiment": (-3, 3), **dict.fromkeys(("happy", "sad", "anger", "surprise", "disgust", "fear"), (0, 3))}
"""Columns of the labels in the SDK's order, each with its least and greatest value: the mean over the raters.

The order is what the file's metadata say under "dimension names", and what the SDK's author answers (its issues 144 and 191)."""

RESTORE = "copy the file again from its source"
PAUSE = "sp"
"""What the forced alignment writes for a short pause."""


class _Part(NamedTuple):
    """A video's part of a computational sequence: ``features`` (n, D), and ``intervals`` (n, 2) in seconds."""

    features: npt.NDArray[np.generic]
    intervals: npt.NDArray[np.float64]


class _Sequence(NamedTuple):
    """A computational sequence: its file, its part of every video in the order of their names, and what it calls its columns."""

    path: Path
    videos: dict[str, _Part]
    columns: list[str]


class Mosei(Corpus):
    """The folder that holds the two ``.csd`` files, the SDK's lists of folds and, if at all, the WAV files, at any depth.

    Attributes:
        counts: Split -> utterances.
    """

    version = "2018"
    licence = "the SDK's terms, for research; the videos belong to their makers"
    citation = (
        "Zadeh, Liang, Poria, Cambria, Morency: Multimodal Language Analysis in the Wild: CMU-MOSEI Dataset and Interpretable "
        "Dynamic Fusion Graph. ACL 2018"
    )
    source = f"{SDK} ({LABELS_FILE}, {WORDS_FILE}; the raw archive for the WAV files)"
    counts: ClassVar[Mapping[str, int]] = {"train": 16326, "val": 1871, "test": 4659}

    def read(self) -> Reading:
        """Read the labelled intervals, the words in each, and the headers of the WAV files; see `Corpus.read`."""
        paths, problems, notes = find_sounds(
            self.root, self.name, self.source, lambda path: path.suffix.lower() in {*SOUND, ".csd"} or path.name == FOLDS_FILE
        )
        labels = _read_sequence(self._only(paths, LABELS_FILE), len(RANGES))
        _check_order(labels)
        words = _read_sequence(self._only(paths, WORDS_FILE), 1)
        split = self._splits(paths, problems)
        rows: list[dict[str, object]] = []
        for video in labels.videos:
            rows += _rows(video, labels, words, split.get(video), len(rows), problems)
        table = pd.DataFrame(rows, columns=[*COLUMNS, *RANGES, "seconds"])
        notes += _notes(table, labels, words, set(split))
        problems += _sounds(table, [path for path in paths if path.suffix.lower() in SOUND], self.root, notes)
        # The release itself has intervals that begin before the video does.
        table["start"] = table["start"].clip(lower=0.0)
        table.attrs["notes"] = notes
        if split:
            bad = {problem.position for problem in problems}
            counted = table[table["split"].notna() & ~table.index.isin(bad)]
            problems += compare_counts(self.root, counted, {"split": self.counts})
        return Reading(table, problems)

    def official_counts(self) -> dict[tuple[str, ...], dict[tuple[str, ...], int | None]]:
        """The release's utterances by split."""
        return {("split",): {(split,): count for split, count in self.counts.items()}}

    def _only(self, paths: list[Path], name: str) -> Path:
        """The one file of that name."""
        found = [path for path in paths if path.name == name]
        if len(found) == 1:
            return found[0]
        if found:
            what, remedy = f"{name} is there {len(found)} times: {', '.join(map(str, found))}", "keep one"
        else:
            what, remedy = f"{name} is missing", f"put it into this folder; get it from {self.source}"
        raise BadInputError([Problem(self.root, None, what, remedy)])

    def _splits(self, paths: list[Path], problems: list[Problem]) -> dict[str, str]:
        """Video -> split, from the SDK's lists; empty, with a problem, if they aren't there."""
        if not any(path.name == FOLDS_FILE for path in paths):
            what = f"{FOLDS_FILE} is missing, so no utterance has a split"
            remedy = f"put {FOLDS_SOURCE} into this folder; without it no protocol can be applied"
            problems.append(Problem(self.root, None, what, remedy, partial=True))
            return {}
        path = self._only(paths, FOLDS_FILE)
        lists: dict[str, list[str]] = {}
        try:
            for node in ast.parse(path.read_text(encoding="utf-8")).body:
                if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                    lists[node.targets[0].id] = [str(name) for name in ast.literal_eval(node.value)]
        except (OSError, SyntaxError, TypeError, ValueError) as error:
            raise BadInputError([Problem(path, None, f"the lists can't be read ({error})", f"restore {FOLDS_SOURCE}")]) from error
        missing = [name for name in FOLDS if not lists.get(name)]
        count = Counter(video for name in FOLDS for video in set(lists.get(name, [])))
        twice = sorted(video for video, number in count.items() if number > 1)
        if missing or twice:
            what = f"it lacks {', '.join(missing)}" if missing else f"{len(twice)} videos are in two lists, such as {twice[0]}"
            raise BadInputError([Problem(path, None, what, f"restore {FOLDS_SOURCE}")])
        return {video: split for name, split in FOLDS.items() for video in lists[name]}


def _read_sequence(path: Path, width: int) -> _Sequence:
    """Read a computational sequence whose features have ``width`` columns.

    Raises:
        BadInputError: If the file isn't one, is cut short, or a video's arrays don't fit each other; every such video is named.
    """
    found: dict[str, _Part] = {}
    problems = []
    try:
        with h5py.File(path) as file:
            roots = [group for group in file.values() if isinstance(group, h5py.Group) and "data" in group]
            if len(roots) != 1:
                what = f"it is no computational sequence: {len(roots)} of its groups hold data, not one"
                raise BadInputError([Problem(path, None, what, RESTORE)])
            columns = _dimension_names(roots[0])
            for video, group in sorted(roots[0]["data"].items()):
                absent = [name for name in ("features", "intervals") if name not in group]
                if absent:
                    problems.append(Problem(path, None, f"{video} has no {' and no '.join(absent)}", RESTORE))
                    continue
                features, intervals = group["features"][()], group["intervals"][()]
                if features.shape != (len(intervals), width) or intervals.shape != (len(features), 2):
                    what = f"{video} has features {features.shape} and intervals {intervals.shape}, not (n, {width}) and (n, 2)"
                    problems.append(Problem(path, None, what, RESTORE))
                    continue
                found[video] = _Part(features, intervals.astype(float))
    except (OSError, RuntimeError, KeyError) as error:  # h5py's errors for a file that breaks off, here or there
        raise BadInputError([Problem(path, None, f"it can't be read as HDF5 ({error})", RESTORE)]) from error
    if problems:
        raise BadInputError(problems)
    return _Sequence(path, found, columns)


def _dimension_names(sequence: h5py.Group) -> list[str]:
    """What a sequence's metadata call its columns, in small letters; empty where they don't say.

    The SDK writes a list as JSON; older versions of it wrote the list as Python prints it.
    """
    key = "metadata/dimension names"
    written = " ".join(map(str, np.ravel(sequence[key][()]))) if key in sequence else ""
    return re.findall(r"[a-z]{3,}", written.lower())


def _check_order(labels: _Sequence) -> None:
    """Refuse labels whose metadata give their columns other names, or another order, than `RANGES`."""
    # Three letters tell all seven, and "happy" is "happiness" elsewhere.
    if labels.columns and [name[:3] for name in labels.columns] != [name[:3] for name in RANGES]:
        what = f"its metadata call its columns {', '.join(labels.columns)}, not {', '.join(RANGES)}, so labels would be confused"
        raise BadInputError([Problem(labels.path, None, what, f"take {LABELS_FILE} as the SDK distributes it, {SDK}")])


def _rows(
    video: str, labels: _Sequence, words: _Sequence, split: str | None, first: int, problems: list[Problem]
) -> Iterator[dict[str, object]]:
    """The utterances of one video in the order of time, from row ``first``; what is wrong with them is added to ``problems``."""
    features, intervals = labels.videos[video]
    said = words.videos.get(video)
    for turn, number in enumerate(np.argsort(intervals[:, 0], kind="stable")):
        (start, end), values = intervals[number].tolist(), features[number].astype(float).tolist()
        name, position = f"{video}[{number}]", first + turn
        if not max(start, 0.0) < end < np.inf:
            problems.append(Problem(labels.path, None, f"{name} lasts from {start:g} s to {end:g} s", RESTORE, position))
        ranges = zip(RANGES.items(), values, strict=True)
        wrong = [f"{column} {value:g}" for (column, (least, most)), value in ranges if not least <= value <= most]
        if wrong:
            what = f"{name} has {', '.join(wrong)}; sentiment goes from -3 to 3, an intensity from 0 to 3"
            problems.append(Problem(labels.path, None, what, RESTORE, position))
        if said is None:
            remedy = f"{RESTORE}, or pass --skip-bad to leave its utterances out"
            problems.append(Problem(words.path, None, f"it has no words of {video}, of which {name} is a part", remedy, position))
        yield {
            "utterance_id": name,
            "start": start,
            "end": end,
            "text": _text(said, start, end) if said else None,
            "dialogue": video,
            "turn": turn,
            "split": split,
            **dict(zip(RANGES, values, strict=True)),
        }


def _text(words: _Part, start: float, end: float) -> str | None:
    """The words whose middle lies within the interval, without pauses; None if there is none."""
    middle = words.intervals.mean(axis=1)
    inside = words.features[(middle >= start) & (middle < end), 0]
    said = [word.decode("utf-8", "replace") if isinstance(word, bytes) else str(word) for word in inside.tolist()]
    return " ".join(word for word in said if word not in {"", PAUSE}) or None


def _notes(table: pd.DataFrame, labels: _Sequence, words: _Sequence, listed: set[str]) -> list[str]:
    """What a reader of the results should know of the release; ``listed`` are the videos that have a split."""
    notes = []
    silent = table.loc[table["text"].isna() & table["dialogue"].isin(list(words.videos)), "utterance_id"]
    if len(silent):
        notes.append(f"{len(silent)} utterances have no word in their interval, so their text is absent, such as {silent.iloc[0]}")
    if more := sorted(set(words.videos) - set(labels.videos)):
        notes.append(f"{len(more)} videos have words and no labels and were passed over, such as {more[0]}")
    unlisted = table.loc[~table["dialogue"].isin(list(listed)), "dialogue"]
    if listed and len(unlisted):
        notes.append(
            f"{len(unlisted)} utterances of {unlisted.nunique()} videos are in none of the SDK's standard folds, such as "
            f"{unlisted.iloc[0]}: they have no split"
        )
    if gone := sorted(listed - set(labels.videos)):
        notes.append(f"{len(gone)} videos of the SDK's standard folds have no labels, such as {gone[0]}")
    early = int((table["start"] < 0).sum())
    if early:
        notes.append(f"{early} utterances begin before their video in the release; they begin with it here")
    return notes


def _sounds(table: pd.DataFrame, paths: list[Path], root: Path, notes: list[str]) -> Iterator[Problem]:
    """Fill in ``audio`` and ``seconds``; yields what is wrong with the WAV files."""
    if not paths:
        notes.append("there are no WAV files: every utterance's audio is absent, and methods see text only")
        return
    by_video: dict[str, list[Path]] = {}
    for path in paths:
        by_video.setdefault(path.stem, []).append(path)
    unknown = sorted(set(by_video) - set(table["dialogue"]))
    if unknown:
        notes.append(f"{len(unknown)} sound files belong to no labelled video and were passed over, such as {unknown[0]}")
    audio: list[str | None] = [None] * len(table)
    seconds: list[float | None] = [None] * len(table)
    for position, row in enumerate(table[["utterance_id", "dialogue", "start", "end"]].itertuples(index=False)):
        name, video, start, end = row
        held = by_video.get(video, [])
        # Others keep converted copies beside the raw archive's own folder.
        held = [path for path in held if path.parent.name == "WAV_16000"] or held
        if len(held) != 1:
            there = f"{video}.wav is there {len(held)} times ({', '.join(map(str, held))})" if held else f"{video}.wav is missing"
            yield Problem(root, None, f"{name}: {there}", "keep one" if held else "restore it", position)
            continue
        audio[position] = str(held[0])
        if max(start, 0.0) < end < np.inf:
            try:
                seconds[position] = inspect_clip(Clip(held[0], max(start, 0.0), end)).seconds
            except AudioError as error:
                yield Problem(held[0], None, f"{name}: {error.what}", error.remedy, position)
    table["audio"], table["seconds"] = audio, seconds
