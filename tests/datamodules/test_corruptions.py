"""Corruptions: as strong as they say, the same every time, and blind to everything but their input."""

from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile

from datamodules.audio import AudioError, Clip, load_clip
from datamodules.corpora import open_corpus
from datamodules.corruptions import (
    CORRUPTIONS,
    Babble,
    BandLimit,
    Clipping,
    Corrupter,
    Reverberation,
    WhiteNoise,
    WordErrors,
    babble_track,
)
from datamodules.emotion import Utterances, load_utterances
from datamodules.features import parse_feature
from datamodules.protocols import apply_protocol

RATE = 16_000


def speech(seconds: float = 1.0, seed: int = 0) -> np.ndarray:
    """Noise with an envelope, quiet at the ends: (samples,) float32."""
    random = np.random.default_rng(seed)
    size = round(seconds * RATE)
    return (0.1 * np.hanning(size) * random.standard_normal(size)).astype(np.float32)


def decibels(signal: np.ndarray, noise: np.ndarray) -> float:
    return 10 * np.log10(np.mean(signal.astype(float) ** 2) / np.mean(noise.astype(float) ** 2))


@pytest.fixture(scope="module")
def track(tmp_path_factory: pytest.TempPathFactory) -> np.ndarray:
    folder = tmp_path_factory.mktemp("voices")
    clips = []
    for number in range(5):
        clips.append(Clip(folder / f"{number}.wav"))
        soundfile.write(clips[-1].path, speech(0.7, number) * 10**-number, RATE, subtype="FLOAT")
    return babble_track(clips, RATE, seconds=3.0)


@pytest.mark.parametrize("snr", [20, 10, 5, 0])
@pytest.mark.parametrize("kind", ["white_noise", "babble"])
def test_noise_has_the_asked_ratio(kind: str, snr: float, track: np.ndarray) -> None:
    corruption = WhiteNoise(snr) if kind == "white_noise" else Babble(snr, track)
    for seed in range(5):
        clean = speech(0.5 + seed / 3, seed)
        assert decibels(clean, corruption(clean, RATE) - clean) == pytest.approx(snr, abs=0.1)


def test_white_noise_is_white() -> None:
    clean = speech(4.0)
    noise = WhiteNoise(0)(clean, RATE) - clean
    bands = np.abs(np.fft.rfft(noise))[1:].reshape(8, -1) ** 2
    assert np.allclose(10 * np.log10(bands.mean(1) / bands.mean()), 0, atol=0.5)


def test_a_stronger_degree_draws_the_same_noise_and_each_clip_its_own(track: np.ndarray) -> None:
    one, two = speech(seed=1), speech(seed=2)
    for make in (WhiteNoise, lambda snr, seed=0: Babble(snr, track, seed=seed)):
        noise = [make(snr)(one, RATE) - one for snr in (20, 0)]
        assert np.corrcoef(*noise)[0, 1] > 0.999
        assert np.abs(np.corrcoef(noise[1], make(0)(two, RATE) - two)[0, 1]) < 0.5
        assert np.array_equal(make(0)(one, RATE), make(0)(one.copy(), RATE))
        assert not np.array_equal(make(0)(one, RATE), make(0, seed=1)(one, RATE))


def test_babble_gives_every_voice_the_same_power_and_never_pauses(track: np.ndarray, tmp_path: Path) -> None:
    assert len(track) == 3 * RATE
    power = (track.reshape(-1, RATE // 2) ** 2).mean(1)  # half seconds of six voices of power one
    assert power.mean() == pytest.approx(6, rel=0.2)
    assert power.min() > 2
    soundfile.write(tmp_path / "silent.wav", np.zeros(RATE), RATE)
    with pytest.raises(AudioError, match="no audible clip"):
        babble_track([Clip(tmp_path / "silent.wav")], RATE)


@pytest.mark.parametrize("rt60", CORRUPTIONS["reverberation"].degrees)
def test_reverberation_falls_by_60_db_in_its_time(rt60: float) -> None:
    response = Reverberation(rt60).response(RATE, np.random.default_rng(0)).astype(float)
    assert response[0] == 1
    assert np.sum(response[1:] ** 2) == pytest.approx(1, rel=1e-5)
    # Schroeder's backward integral, a line fitted from -5 to -35 dB and extended to -60 dB, as ISO 3382 measures a room.
    decay = 10 * np.log10(np.cumsum(response[:0:-1] ** 2)[::-1])
    part = np.flatnonzero((decay < -5) & (decay > -35))
    slope = np.polyfit(part / RATE, decay[part], 1)[0]
    assert -60 / slope == pytest.approx(rt60, rel=0.1)


def test_reverberation_is_the_convolution_at_the_clips_level() -> None:
    clean, room = speech(0.05), Reverberation(0.3)
    heard = room(clean, RATE)
    response = room.response(RATE, room._random(clean))
    slow = [sum(response[lag] * clean[n - lag] for lag in range(min(n + 1, len(response)))) for n in range(len(clean))]
    assert np.corrcoef(heard, slow)[0, 1] > 0.99999
    assert decibels(clean, heard) == pytest.approx(0, abs=1e-3)


def test_clipping_cuts_at_its_share_of_the_peak() -> None:
    clean = speech()
    clipped = Clipping(0.25)(clean, RATE)
    limit = np.abs(clean).max() / 4
    assert np.abs(clipped).max() == limit
    inside = np.abs(clean) <= limit
    assert np.array_equal(clipped[inside], clean[inside])
    assert np.array_equal(clipped[~inside], np.sign(clean[~inside]) * limit)


def test_the_telephone_passes_its_band_alone() -> None:
    time = np.arange(RATE) / RATE
    gain = {
        f: decibels(
            BandLimit()(np.sin(2 * np.pi * f * time).astype(np.float32), RATE)[RATE // 2 :],
            np.sin(time[RATE // 2 :] * 2 * np.pi * f),
        )
        for f in (100, 300, 1000, 3400, 6800)
    }
    assert gain[1000] == pytest.approx(0, abs=0.1)
    assert gain[300] == pytest.approx(-3, abs=0.2)
    assert gain[3400] == pytest.approx(-3, abs=0.2)
    assert gain[100] < -30
    assert gain[6800] < -30


def test_silence_stays_silence(track: np.ndarray) -> None:
    silence = np.zeros(800, np.float32)
    for corruption in (WhiteNoise(0), Babble(0, track), Reverberation(0.3), Clipping(0.1), BandLimit()):
        assert np.array_equal(corruption(silence, RATE), silence)


def test_a_corrupted_clip_is_read_corrupted(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", speech(), RATE, subtype="FLOAT")
    clip = Clip(tmp_path / "a.wav", 0.1, 0.6)
    expected = Clipping(0.1)(load_clip(clip, RATE), RATE)
    assert np.array_equal(load_clip(clip._replace(corruption=Clipping(0.1)), RATE), expected)


def edit_distance(said: list[str], heard: list[str]) -> int:
    """Levenshtein's, from its recursion."""
    row = list(range(len(heard) + 1))
    for i, word in enumerate(said, 1):
        previous, row = row, [i]
        for j, other in enumerate(heard, 1):
            row.append(min(previous[j] + 1, row[-1] + 1, previous[j - 1] + (word != other)))
    return row[-1]


@pytest.fixture(scope="module")
def sentences() -> list[str]:
    random = np.random.default_rng(0)
    words = [f"w{number}" for number in range(300)]
    return [" ".join(random.choice(words, random.integers(1, 25))) for _ in range(800)]


@pytest.mark.parametrize("rate", [0.1, 0.2, 0.4])
def test_the_word_error_rate_is_as_asked(sentences: list[str], rate: float) -> None:
    errors = WordErrors(Counter(" ".join(sentences).split()))
    wrong = sum(edit_distance(text.split(), (errors(text, rate) or "").split()) for text in sentences)
    assert wrong / sum(len(text.split()) for text in sentences) == pytest.approx(rate, abs=0.01)


def test_word_errors_are_of_the_three_kinds_and_from_the_vocabulary() -> None:
    said = [f"a{number}" for number in range(4000)]
    heard = (WordErrors(Counter({"the": 9, "dog": 1}))(" ".join(said), 0.4) or "").split()
    own = set(said)
    gone = len(own - set(heard))
    new = [word for word in heard if word not in own]
    assert set(new) == {"the", "dog"}
    assert new.count("the") / len(new) == pytest.approx(0.9, abs=0.03)
    # A substitution takes a word and brings one, a deletion takes one, an insertion brings one: 0.9 and 0.7 of the errors.
    assert gone / 1600 == pytest.approx(0.9, abs=0.03)
    assert len(new) / 1600 == pytest.approx(0.7, abs=0.03)


def test_word_errors_repeat_and_grow() -> None:
    errors, again = (WordErrors(Counter({"the": 2, "dog": 1})) for _ in range(2))
    for count in range(1, 30):
        words = [f"a{count}.{number}" for number in range(count)]
        text = " ".join(words)
        assert errors(text, 0.2) == again(text, 0.2)
        assert errors(text, 0.0) == text
        mild, strong = (set((errors(text, rate) or "").split()) & set(words) for rate in (0.2, 0.4))
        assert strong <= mild


def test_a_transcript_that_loses_all_words_is_absent() -> None:
    heard = {WordErrors(Counter({"a": 1, "b": 1}), seed)("hello", 1.0) for seed in range(30)}
    assert None in heard
    assert "" not in heard
    assert "hello" not in heard


@pytest.fixture
def utterances(manifest: Path, tiny_bert: str) -> Utterances:
    return load_utterances(
        open_corpus(str(manifest)), parse_feature("mfcc(n=8)"), parse_feature(f"hidden_states(checkpoint={tiny_bert!r})")
    )


@pytest.fixture
def corrupter(utterances: Utterances) -> Corrupter:
    fold = apply_protocol(utterances.table).folds[0]
    return Corrupter(utterances, fold.train, [fold.test, []], 30.0)


def test_only_the_test_split_and_its_modality_change(utterances: Utterances, corrupter: Corrupter) -> None:
    test = (utterances.table["split"] == "test").to_numpy()
    for name, degree in [(name, degree) for name, kind in CORRUPTIONS.items() for degree in kind.degrees]:
        changed = corrupter(name, degree)
        other, own = ("text", "audio") if CORRUPTIONS[name].modality == "audio" else ("audio", "text")
        assert np.array_equal(getattr(changed, other).keys, getattr(utterances, other).keys)
        before, after = getattr(utterances, own), getattr(changed, own)
        differ = before.keys != after.keys
        if name.startswith("no_"):
            assert not differ[~test].any()
            assert differ.sum() == round(degree * test.sum())
            assert not after.lengths[differ].any()
        elif own == "audio":
            assert differ[test].all()
            assert np.array_equal(after.lengths[test], before.lengths[test])
            assert not after.lengths[~test].any()
        else:  # six words a transcript
            assert 2 * degree * test.sum() < differ[test].sum() <= test.sum()


def test_a_corruption_is_an_entry_of_its_own_and_found_again(utterances: Utterances, corrupter: Corrupter, cache: Path) -> None:
    test = (utterances.table["split"] == "test").to_numpy()
    kinds = [("white_noise", 20), ("white_noise", 0), ("babble", 20), ("reverberation", 0.3), ("clipping", 0.5), ("telephone", 1)]
    keys = np.concatenate([corrupter(*kind).audio.keys[test] for kind in kinds])
    assert len(set(keys.tolist())) == len(kinds) * test.sum()
    stored = {path: path.stat().st_size for path in cache.rglob("data.bin")}
    again = np.concatenate([corrupter(*kind).audio.keys[test] for kind in kinds])
    assert np.array_equal(keys, again)
    assert {path: path.stat().st_size for path in cache.rglob("data.bin")} == stored


def test_the_words_and_voices_are_those_of_the_training_split(utterances: Utterances, corrupter: Corrupter) -> None:
    train = utterances.table[utterances.table["split"] == "train"]
    assert set(corrupter._errors.words) == {word for text in train["text"] for word in text.split()}
    clips = [Clip(Path(path)) for path in train["audio"]]
    assert np.array_equal(corrupter._track, babble_track(clips, RATE))
    assert pd.isna(train["start"]).all()
