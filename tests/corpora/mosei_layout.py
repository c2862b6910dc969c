"""Writes the files of CMU-MOSEI as its SDK distributes them, small and with generated contents."""

import json
from collections.abc import Sequence
from pathlib import Path

import h5py
import numpy as np
import soundfile

RATE = 16_000
COLUMNS = ("sentiment", "happy", "sad", "anger", "surprise", "disgust", "fear")
EMOTIONS = COLUMNS[1:]
PITCH = dict(zip(EMOTIONS, (150.0, 250.0, 400.0, 650.0, 1000.0, 1600.0), strict=True))
FOLDS = {"standard_train_fold": 12, "standard_valid_fold": 4, "standard_test_fold": 4}
"""List of the SDK -> videos in it here."""

COUNTS = {"train": 36, "val": 12, "test": 12}
"""Utterances by split, three of every video."""

INTERVALS = ((-0.25, 1.0), (2.0, 3.0), (1.0, 2.0))
"""Of every video, in the order of the file: as in the release, not that of time, and one begins before the video."""


def videos() -> dict[str, list[str]]:
    """List of the SDK -> the names of its videos."""
    return {name: [f"{name[9:11]}{n}-_Video{n}" for n in range(count)] for name, count in FOLDS.items()}


def shown(video: str, number: int) -> list[str]:
    """The emotions of an interval; none now and then, two more often."""
    n = int(video.rpartition("Video")[2]) * len(INTERVALS) + number
    return [] if n % 7 == 6 else sorted({EMOTIONS[n % 6], EMOTIONS[(n * n) % 6]})


def write_sequence(path: Path, name: str, parts: dict[str, tuple[np.ndarray, np.ndarray]], columns: Sequence[str] = ()) -> None:
    """A computational sequence: ``<name>/data/<video>/{features,intervals}`` and ``<name>/metadata/<key>``, values as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        root = file.create_group(name)
        for key, value in {
            "root name": f'"{name}"',
            "computational sequence version": "1.0",
            "alignment compatible": "true",
            **({"dimension names": json.dumps(columns)} if columns else {}),
        }.items():
            root.create_dataset(f"metadata/{key}", (1,), h5py.special_dtype(vlen=str))[0] = value
        for video, (features, intervals) in parts.items():
            root.create_dataset(f"data/{video}/features", data=features)
            root.create_dataset(f"data/{video}/intervals", data=intervals)


def labels() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Video -> intensities (3, 7) float32 and intervals (3, 2) in seconds."""
    found = {}
    for video in (video for names in videos().values() for video in names):
        features = np.zeros((len(INTERVALS), len(COLUMNS)), np.float32)
        for number in range(len(INTERVALS)):
            features[number, 0] = -1.0
            for emotion in shown(video, number):
                features[number, COLUMNS.index(emotion)] = 2 / 3
        found[video] = features, np.array(INTERVALS)
    return found


def words() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Video -> words (n, 1) as fixed-width bytes, pauses among them, and their intervals (n, 2) in seconds."""
    found = {}
    for video in (video for names in videos().values() for video in names):
        said = [b"sp"]
        spans = [(0.0, 0.05)]
        for number in np.argsort([start for start, _ in INTERVALS]):
            begin = max(INTERVALS[number][0], 0.0)
            for place, word in enumerate(["so", *shown(video, int(number)), "sp"]):
                said.append(word.encode())
                spans.append((begin + 0.1 + 0.2 * place, begin + 0.25 + 0.2 * place))
        found[video] = np.array(said, "S32")[:, None], np.array(spans)
    return found


def write_folds(path: Path, lists: dict[str, list[str]] | None = None) -> None:
    """The SDK's module of lists."""
    path.write_text("\n\n".join(f"{name}={names!r}" for name, names in (lists or videos()).items()) + "\n", encoding="utf-8")


def write_release(root: Path) -> Path:
    """Everything: the two sequences, the lists and a WAV of 3 s per video whose pitches tell its emotions."""
    write_sequence(root / "labels" / "CMU_MOSEI_Labels.csd", "All Labels", labels(), COLUMNS)
    write_sequence(root / "languages" / "CMU_MOSEI_TimestampedWords.csd", "words", words())
    write_folds(root / "cmu_mosei_std_folds.py")
    folder = root / "Raw" / "Audio" / "Full" / "WAV_16000"
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    for video in (video for names in videos().values() for video in names):
        wave = 0.01 * random.normal(size=3 * RATE)
        for number, (start, end) in enumerate(INTERVALS):
            part = np.arange(round(max(start, 0.0) * RATE), round(end * RATE))
            for emotion in shown(video, number):
                wave[part] += 0.2 * np.sin(2 * np.pi * PITCH[emotion] * part / RATE)
        soundfile.write(folder / f"{video}.wav", wave, RATE)
    return root
