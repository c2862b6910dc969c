"""The doctor counts right, names what a table of scores would hide, and calls a corpus healthy only when it is."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from datamodules.corpora.manifest import Manifest
from datamodules.doctor import Findings, examine

RATE = 16_000
Rows = list[dict[str, object]]


@pytest.fixture
def look(tmp_path: Path, write_manifest: Callable[[Path, Rows], Path]) -> Callable[[Rows], Findings]:
    """Examine a manifest of the given rows."""
    return lambda rows: examine(Manifest(write_manifest(tmp_path, rows)))


def noise(path: Path, seconds: float, rate: int = RATE, channels: int = 1, level: float = 0.1) -> None:
    random = np.random.default_rng(len(path.name) + round(seconds * 1000))
    soundfile.write(path, level * random.uniform(-1, 1, (round(seconds * rate), channels)), rate, subtype="FLOAT")


def test_healthy(rows: Rows, look: Callable[[Rows], Findings]) -> None:
    """Rows of the shared fixture: 60 clips of 0.2 to 0.6 s, 20 per label, 36 / 12 / 12 per split."""
    found = look(rows)
    assert found.healthy
    assert "coverage: 60 of 60 utterances are usable" in found.text
    assert "modalities: 60 with audio, 60 with text" in found.text
    assert "min 0.20, 5 % 0.20, median 0.40, 95 % 0.60, max 0.60; 0.01 h in all" in found.text
    assert "formats: 60 at 16000 Hz, 1 channel(s)" in found.text
    assert "shared between splits: nothing" in found.text
    assert "problems" not in found.text
    table = found.text.split("utterances by label and split:\n")[1].split("\n\n")[0]
    assert [line.split() for line in table.splitlines()] == [
        ["train", "val", "test", "all"],
        ["calm", "12", "4", "4", "20"],
        ["cross", "12", "4", "4", "20"],
        ["glad", "12", "4", "4", "20"],
        ["all", "36", "12", "12", "60"],
    ]
    assert re.search(r"^s9 +0 +0 +6 +6$", found.text, re.MULTILINE)


def test_loudness(rows: Rows, look: Callable[[Rows], Findings], tmp_path: Path) -> None:
    """A full-scale square wave is 0 dBFS, one of a tenth -20 dBFS."""
    square = np.tile([1.0, -1.0], RATE // 2)
    for row, level in zip(rows, (1.0, 0.1, 0.01), strict=False):
        soundfile.write(tmp_path / str(row["audio"]), level * square, RATE, subtype="FLOAT")
    assert "loudness in dBFS: median -20.0, from -40.0 to 0.0" in look(rows[:3]).text


def test_problems_of_manifest_and_audio_are_listed_together(rows: Rows, look: Callable[[Rows], Findings], tmp_path: Path) -> None:
    rows[3]["label"] = ""
    rows[7]["audio"] = "audio/none.wav"
    soundfile.write(tmp_path / "audio/u10.wav", np.full(8000, np.nan), RATE, subtype="FLOAT")
    found = look(rows)
    assert not found.healthy
    assert "coverage: 57 of 60 utterances are usable" in found.text
    listed = found.text.split("3 problems:\n")[1].splitlines()
    path = tmp_path / "manifest.csv"
    assert listed[0].startswith(f"  {path}:5: label is empty; label the utterance")
    assert listed[1].startswith(f"  {path}:9: audio/none.wav: audio file is missing; restore it")
    assert listed[2].startswith(f"  {path}:12: ")
    assert "NaN or infinity (8000 samples); export it again" in listed[2]


def test_a_row_can_have_two_problems(rows: Rows, look: Callable[[Rows], Findings], tmp_path: Path) -> None:
    """A faulty cell doesn't hide that the row's audio is unusable as well, and a missing file is said once."""
    rows[10]["split"] = "trian"
    soundfile.write(tmp_path / "audio/u10.wav", np.full(8000, np.nan), RATE, subtype="FLOAT")
    rows[11]["split"] = "trian"
    rows[11]["audio"] = "audio/none.wav"
    found = look(rows)
    assert "coverage: 58 of 60" in found.text
    assert found.text.count("split is 'trian'") == 2
    assert found.text.count("NaN or infinity") == 1
    assert found.text.count("audio file is missing") == 1
    assert "4 problems:" in found.text


@pytest.mark.parametrize(("column", "value"), [("speaker", "s0"), ("dialogue", "d0")])
def test_leaks_of_speakers_and_dialogues(rows: Rows, look: Callable[[Rows], Findings], column: str, value: str) -> None:
    """The last utterance is test; its speaker or dialogue is one of train."""
    rows[-1][column] = value
    found = look(rows)
    assert not found.healthy
    assert f"LEAK: {column}s in test and train: 1: {value!r}" in found.text
    assert found.text.count("LEAK") == 1
    assert "0 problems" not in found.text


def test_leak_of_audio_under_another_name(rows: Rows, look: Callable[[Rows], Findings], tmp_path: Path) -> None:
    """Utterance 0 is train; copies of its file are in val and test."""
    for copy in (40, 59):
        shutil.copy(tmp_path / "audio/u0.wav", tmp_path / f"audio/u{copy}.wav")
    found = look(rows)
    assert not found.healthy
    for pair in ("test and train", "train and val", "test and val"):
        assert f"LEAK: audio clips in {pair}: 1" in found.text
    assert "3 utterances have the same audio as another one" in found.text


def test_parts_of_one_file_are_no_duplicates(rows: Rows, look: Callable[[Rows], Findings]) -> None:
    parts = [row | {"audio": "audio/u4.wav", "start": n / 10, "end": (n + 1) / 10} for n, row in enumerate(rows[:3])]
    found = look(parts)
    assert "have the same audio" not in found.text
    assert "median 0.10" in found.text


def test_same_words_in_two_splits_are_named_but_no_leak(rows: Rows, look: Callable[[Rows], Findings]) -> None:
    rows[-1]["text"] = rows[0]["text"]
    found = look(rows)
    assert found.healthy
    assert f"transcripts in test and train: 1: {rows[0]['text']!r}" in found.text
    assert "2 utterances have the same text as another one" in found.text


def test_duplicates(rows: Rows, look: Callable[[Rows], Findings], tmp_path: Path) -> None:
    """u1 and u2 share audio, u2 and u3 text, u4 and u5 both."""
    shutil.copy(tmp_path / "audio/u1.wav", tmp_path / "audio/u2.wav")
    rows[3]["text"] = rows[2]["text"]
    rows[5] = rows[5] | {"audio": rows[4]["audio"], "text": rows[4]["text"]}
    text = look(rows).text
    assert "4 utterances have the same audio as another one" in text
    assert "4 utterances have the same text as another one" in text
    assert "2 utterances have the same audio and text as another one" in text


def test_absent_modalities_are_counted_and_are_no_duplicates(rows: Rows, look: Callable[[Rows], Findings]) -> None:
    for number in (0, 1, 2):
        rows[number]["audio"] = ""
    for number in (10, 20):
        rows[number]["text"] = ""
    found = look(rows)
    assert found.healthy
    assert "modalities: 57 with audio, 58 with text" in found.text
    assert "3 utterances are without audio: u0, u1, u2\n" in found.text
    assert "2 utterances are without text: u10, u20\n" in found.text
    assert "as another one" not in found.text


def test_corpus_without_audio(rows: Rows, look: Callable[[Rows], Findings]) -> None:
    found = look([row | {"audio": ""} for row in rows])
    assert found.healthy
    assert "modalities: 0 with audio, 60 with text" in found.text


def test_unusual_clips(rows: Rows, look: Callable[[Rows], Findings], tmp_path: Path) -> None:
    """The fixture's shortest clips, of 0.2 s, are every fifth one."""
    noise(tmp_path / "audio/u3.wav", 31.0, 4000)
    noise(tmp_path / "audio/u4.wav", 29.0, 4000)
    soundfile.write(tmp_path / "audio/u6.wav", np.zeros(8000), RATE)
    noise(tmp_path / "audio/u7.wav", 0.5, level=1e-4)
    noise(tmp_path / "audio/u8.wav", 0.5, level=1e-2)
    found = look(rows)
    assert found.healthy
    assert "1 utterances are longer than 30 s: u3\n" in found.text
    assert "12 utterances are shorter than 0.3 s: u0, u5, u10 …" in found.text
    assert "2 utterances are silent (below -60 dBFS): u6, u7\n" in found.text


def test_formats(rows: Rows, look: Callable[[Rows], Findings], tmp_path: Path) -> None:
    for number in range(10):
        noise(tmp_path / f"audio/u{number}.wav", 0.4, 44_100, 2)
    for number in range(10, 14):
        noise(tmp_path / f"audio/u{number}.wav", 0.4, 8_000)
    assert "formats: 46 at 16000 Hz, 1 channel(s); 10 at 44100 Hz, 2 channel(s); 4 at 8000 Hz, 1 channel(s)" in look(rows).text


def test_corpus_without_splits_and_speakers(rows: Rows, look: Callable[[Rows], Findings]) -> None:
    found = look([{k: v for k, v in row.items() if k not in {"split", "speaker", "dialogue", "turn"}} for row in rows])
    assert found.healthy
    assert "utterances by speaker" not in found.text
    assert re.search(r"^calm +20 +20$", found.text, re.MULTILINE)
    assert "(none)" in found.text
