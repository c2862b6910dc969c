"""Copies of a recording are found however they were made, and nothing else is taken for one."""

import io
from collections import Counter
from collections.abc import Callable
from itertools import combinations, pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
from synthetic_speech import speech

from datamodules.audio import Clip, resample
from datamodules.fingerprint import (
    EDGES,
    HOP,
    LEAST_FRAMES,
    LEAST_VOTES,
    NEIGHBOURS,
    RATE,
    WINDOW,
    Fingerprint,
    _candidates,
    bit_error_rate,
    find_copies,
    find_pairs,
    fingerprint,
    near_duplicates,
)
from datamodules.store import FeatureStore


def prints(samples: np.ndarray, rate: int = 16_000) -> np.ndarray:
    return fingerprint(resample(np.ascontiguousarray(samples, np.float32), rate, RATE))


def as_mp3(samples: np.ndarray) -> np.ndarray:
    file = io.BytesIO()
    soundfile.write(file, samples, 16_000, format="MP3")
    file.seek(0)
    return soundfile.read(file, dtype="float32")[0]


def as_16_bit(samples: np.ndarray) -> np.ndarray:
    return np.round(samples * 32767).astype(np.int16).astype(np.float32) / 32768


def silence(seconds: float) -> np.ndarray:
    return np.zeros(round(seconds * 16_000), np.float32)


COPIES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "quieter": lambda x: 0.05 * x,
    "8 kHz and back": lambda x: resample(resample(x, 16_000, 8000), 8000, 16_000),
    "44.1 kHz and back": lambda x: resample(resample(x, 16_000, 44_100), 44_100, 16_000),
    "MP3": as_mp3,
    "16 bit": as_16_bit,
    "trimmed by 37 and 63 ms": lambda x: x[592:-1008],
    "trimmed by 100 ms": lambda x: x[1600:],
    "0.43 s of silence before": lambda x: np.concatenate([silence(0.4321), x]),
    "all of it": lambda x: as_16_bit(as_mp3(np.concatenate([silence(0.11), 0.2 * x[777:-1234]]))),
}


@pytest.fixture(scope="module")
def voices() -> list[np.ndarray]:
    return [speech(seed) for seed in range(25)]


def test_bits_are_those_of_the_paper() -> None:
    """Equation 2 of section 4.2, one bit at a time."""
    samples = resample(speech(0, 1.0), 16_000, RATE)
    padded = np.concatenate([np.zeros(WINDOW // 2), samples / np.abs(samples).max(), np.zeros(WINDOW // 2 + HOP)])
    energy = []
    for start in range(0, len(padded) - WINDOW + 1, HOP):
        power = np.abs(np.fft.rfft(padded[start : start + WINDOW] * np.hanning(WINDOW))) ** 2
        energy.append([power[low:high].sum() for low, high in pairwise(EDGES)])
    words = []
    for n in range(1, len(energy)):
        bits = [energy[n][m] - energy[n][m + 1] - (energy[n - 1][m] - energy[n - 1][m + 1]) > 0 for m in range(len(energy[0]) - 1)]
        silent = sum(energy[n]) <= 1e-4 * max(sum(e) for e in energy[1:])
        words.append(0 if silent else int("".join(str(int(bit)) for bit in bits), 2))
    expected = np.trim_zeros(np.array(words, np.uint32))
    found = fingerprint(samples)
    assert len(found) == len(expected)
    assert np.bitwise_count(found ^ expected).sum() <= 2  # float32 against float64
    assert EDGES[0] * RATE / WINDOW == pytest.approx(300, abs=RATE / WINDOW)
    assert EDGES[-1] * RATE / WINDOW == pytest.approx(2000, abs=RATE / WINDOW)


@pytest.mark.parametrize("change", COPIES)
def test_copies_are_found_and_nothing_else(voices: list[np.ndarray], change: str) -> None:
    copied = [3, 11, 20]
    clips = [prints(voice) for voice in voices] + [prints(COPIES[change](voices[number])) for number in copied]
    assert [(one, other) for one, other, _ in find_pairs(clips)] == [(3, 25), (11, 26), (20, 27)]


def test_a_part_of_a_clip_is_a_copy(voices: list[np.ndarray]) -> None:
    whole = np.concatenate([voices[0], voices[1], voices[2]])
    assert [pair[:2] for pair in find_pairs([prints(whole), prints(voices[1]), prints(voices[5])])] == [(0, 1)]


def test_the_same_words_said_again_by_the_same_synthetic_voice_are_no_copy(voices: list[np.ndarray]) -> None:
    """The voice of a clip, 8 % slower: what a second take of a sentence is at the least."""
    slower = resample(voices[0], 16_000, 17_280)
    assert find_pairs([prints(voices[0]), prints(slower)]) == []


def test_silence_noise_and_clips_too_short_are_like_nothing() -> None:
    noise = [prints(0.1 * np.random.default_rng(seed).normal(size=16_000)) for seed in (1, 2)]
    hush = prints(silence(1.0))
    assert hush.tolist() == [0]
    short = prints(speech(1, 0.04))
    assert len(short) < LEAST_FRAMES
    assert find_pairs([hush, hush, *noise, short, short, prints(np.zeros(0))]) == []
    assert find_pairs([]) == find_pairs(noise[:1]) == []


def test_clips_are_compared_where_they_have_words_in_common() -> None:
    """Against a plain count, on few different words; a clip of hours among short ones is one more clip."""
    random = np.random.default_rng(0)
    for trial in range(40):
        lengths = random.integers(0, 30, random.integers(2, NEIGHBOURS + 2)).tolist()
        clips = [random.integers(0, random.integers(2, 60), length).astype(np.uint32) for length in lengths]
        if trial == 0:
            clips[1] = np.pad(clips[1], (600_000, 0)).astype(np.uint32)
        votes: Counter[tuple[int, int, int]] = Counter()
        first = [{word: clip.tolist().index(word) for word in set(clip.tolist()) - {0}} for clip in clips]
        for (one, places), (other, others) in combinations(enumerate(first), 2):
            votes.update((one, other, places[word] - others[word]) for word in places.keys() & others.keys())
        expected = {(*pair, offset) for *pair, offset in votes if votes[*pair, offset] + votes[*pair, offset + 1] >= LEAST_VOTES}
        found = list(_candidates(clips))
        assert found == sorted(expected)


def test_a_copy_within_a_clip_of_hours(voices: list[np.ndarray]) -> None:
    hours = np.concatenate([np.zeros(550_000, np.uint32), prints(voices[3]), np.zeros(550_000, np.uint32)])
    assert [pair[:2] for pair in find_pairs([hours, prints(voices[1]), prints(voices[3])])] == [(0, 2)]


def test_absurd_levels(voices: list[np.ndarray]) -> None:
    for level in (1e-30, 1e30):
        assert bit_error_rate(prints(voices[0]), fingerprint(np.float32(level) * resample(voices[0], 16_000, RATE)), 0) < 0.01


def test_bit_error_rate_by_hand() -> None:
    words = np.random.default_rng(0).integers(1, 2**32, 100, np.uint32)
    other = words.copy()
    other[:10] ^= np.uint32(0b111)
    assert bit_error_rate(words, other, 0) == pytest.approx(30 / 3200)
    assert bit_error_rate(words, other[5:], 5) == pytest.approx(15 / (95 * 32))
    assert bit_error_rate(other[5:], words, -5) == pytest.approx(15 / (95 * 32))
    assert bit_error_rate(words, words[40:], 40) == 0  # all of the shorter one
    assert bit_error_rate(words, words, 30) == 1  # 70 frames of 100 lie on each other
    assert bit_error_rate(words[:29], words[:29], 0) == 1
    padded = np.concatenate([words, np.zeros(50, np.uint32)])
    assert bit_error_rate(padded, np.concatenate([other, np.zeros(50, np.uint32)]), 0) == pytest.approx(30 / 3200)


def test_many_copies_are_one_group(voices: list[np.ndarray], tmp_path: Path) -> None:
    """More copies than a clip is compared with, identical files among them, and an utterance without audio."""
    count = 3 * NEIGHBOURS
    clips: list[Clip | None] = []
    for number in range(count):
        path = tmp_path / f"{number}.wav"
        soundfile.write(path, (1 - 0.03 * number) * voices[0][number * 37 :], 16_000, subtype="FLOAT")
        clips.append(Clip(path))
    soundfile.write(tmp_path / "other.wav", voices[1], 16_000)
    soundfile.write(tmp_path / "same.wav", voices[1], 16_000)
    clips += [Clip(tmp_path / "other.wav"), Clip(tmp_path / "same.wav"), None, clips[2]]
    found = FeatureStore(tmp_path / "store").get(Fingerprint(), clips)
    ids = pd.Series([f"u{number}" for number in range(len(clips))])
    copies = find_copies(found)
    assert all(one < other < count for one, other, _ in copies)
    groups = near_duplicates(ids, found, copies)
    assert groups.dropna().to_dict() == dict.fromkeys([*range(count), count + 3], "u0")
    assert near_duplicates(ids, found, []).isna().all()
    assert find_copies(FeatureStore(tmp_path / "store").get(Fingerprint(), clips)) is copies, "looked for once"
    assert find_copies(found.without([0])) is not copies
