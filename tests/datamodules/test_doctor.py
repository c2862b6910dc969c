"""The doctor counts right, names what a table of scores would hide, and calls a corpus healthy only when it is."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from synthetic_speech import speech

from datamodules.corpora import get_corpus
from datamodules.corpora.manifest import Manifest
from datamodules.doctor import Report, Table, examine
from datamodules.emotion import load_utterances
from datamodules.features import parse_feature
from datamodules.fingerprint import Fingerprint
from datamodules.problems import UnknownNameError

RATE = 16_000
Rows = list[dict[str, object]]
Look = Callable[..., Report]
LEAKS = "Leaks between splits"


@pytest.fixture
def look(tmp_path: Path, write_manifest: Callable[[Path, Rows], Path]) -> Look:
    """Examine a manifest of the given rows."""
    return lambda rows, *options: examine(Manifest(write_manifest(tmp_path, rows)), *options)


def table(report: Report, title: str, caption: str) -> Table:
    (found,) = (table for table in report.section(title).tables if table.caption.startswith(caption))
    return found


def facts(report: Report) -> dict:
    return dict(table(report, "Overview", "The corpus").rows)


def leaks(report: Report) -> dict[tuple, tuple]:
    """What is shared: kind and splits -> the other cells."""
    found = [t for t in report.section(LEAKS).tables if t.caption.startswith("Shared")]
    return {row[:2]: row[2:] for shared in found for row in shared.rows}


def noise(path: Path, seconds: float, rate: int = RATE, channels: int = 1, level: float = 0.1) -> None:
    random = np.random.default_rng(len(path.name) + round(seconds * 1000))
    soundfile.write(path, level * random.uniform(-1, 1, (round(seconds * rate), channels)), rate, subtype="FLOAT")


def test_healthy(rows: Rows, look: Look) -> None:
    """Rows of the shared fixture: 60 clips of 0.2 to 0.6 s, 20 per label, 36 / 12 / 12 per split."""
    report = look(rows)
    assert report.healthy
    assert {name: facts(report)[name] for name in ("utterances", "usable", "with audio", "speakers", "dialogues")} == {
        "utterances": "60",
        "usable": "60",
        "with audio": "60",
        "speakers": "10",
        "dialogues": "10",
    }
    assert "sessions" not in facts(report)
    by_label = table(report, "Labels and speakers", "Utterances by label")
    assert by_label.columns == ("label", "train", "val", "test", "all")
    assert by_label.rows == (("calm", 12, 4, 4, 20), ("cross", 12, 4, 4, 20), ("glad", 12, 4, 4, 20), ("all", 36, 12, 12, 60))
    by_speaker = table(report, "Labels and speakers", "Utterances by speaker")
    assert ("s0", 6, 0, 0, 6) in by_speaker.rows
    assert ("s9", 0, 0, 6, 6) in by_speaker.rows
    assert table(report, "Sound", "Durations").rows[0] == ("train", "0.20", "0.20", "0.40", "0.60", "0.60")
    assert table(report, "Sound", "Formats").rows == ((".wav", "16,000 Hz", 1, 60),)
    assert report.section(LEAKS).text == ("Protocol split@1: 3 classes, ranked by uar.", "The splits share nothing.")
    assert table(report, LEAKS, "Folds").rows == ((0, 36, 12, 12),)
    assert report.section("Problems").problems == ()
    assert report.section("Duplicates").text == ("None.",)


def test_loudness(rows: Rows, look: Look, tmp_path: Path) -> None:
    """A full-scale square wave is 0 dBFS, one of a tenth -20 dBFS."""
    square = np.tile([1.0, -1.0], RATE // 2)
    for row, level in zip(rows, (1.0, 0.1, 0.01), strict=False):
        soundfile.write(tmp_path / str(row["audio"]), level * square, RATE, subtype="FLOAT")
    (row,) = table(look(rows[:3]), "Sound", "Loudness").rows
    assert (row[1], row[3], row[5]) == ("-40.0", "-20.0", "0.0")


def test_plots_hold_every_clip_of_each_split(rows: Rows, look: Look) -> None:
    durations, loudness = look(rows).section("Sound").plots
    assert {name: len(values) for name, values in durations.values.items()} == {"train": 36, "val": 12, "test": 12}
    assert sorted(durations.values["val"])[0] == pytest.approx(0.2)
    assert (durations.unit, loudness.unit) == ("s", "dBFS")


def test_problems_of_manifest_and_audio_are_listed_together(rows: Rows, look: Look, tmp_path: Path) -> None:
    rows[3]["label"] = ""
    rows[7]["audio"] = "audio/none.wav"
    soundfile.write(tmp_path / "audio/u10.wav", np.full(8000, np.nan), RATE, subtype="FLOAT")
    report = look(rows)
    assert report.to_mend == ("3 problems in the files; --skip-bad leaves out 3 utterances",)
    assert facts(report)["usable"] == "57"
    first, second, third = map(str, report.section("Problems").problems)
    path = tmp_path / "manifest.csv"
    assert first.startswith(f"{path}:5: label is empty; label the utterance")
    assert second.startswith(f"{path}:9: audio/none.wav: audio file is missing; restore it")
    assert third.startswith(f"{path}:12: ")
    assert "NaN or infinity (8000 samples); export it again" in third


def test_a_row_can_have_two_problems(rows: Rows, look: Look, tmp_path: Path) -> None:
    """A faulty cell doesn't hide that the row's audio is unusable as well, and a missing file is said once."""
    rows[10]["split"] = "trian"
    soundfile.write(tmp_path / "audio/u10.wav", np.full(8000, np.nan), RATE, subtype="FLOAT")
    rows[11]["split"] = "trian"
    rows[11]["audio"] = "audio/none.wav"
    report = look(rows)
    assert facts(report)["usable"] == "58"
    found = [problem.what for problem in report.section("Problems").problems]
    assert sum("split is 'trian'" in what for what in found) == 2
    assert sum("NaN or infinity" in what for what in found) == 1
    assert sum("audio file is missing" in what for what in found) == 1
    assert len(found) == 4


def test_speakers_in_two_splits_are_refused_or_named(rows: Rows, look: Look) -> None:
    """The last utterance is test; its speaker is one of train."""
    rows[-1]["speaker"] = "s0"
    refused = look(rows)
    assert refused.to_mend == ("the splits share speakers, which the protocol (auto) doesn't allow",)
    assert leaks(refused) == {("speakers", "train, test"): (1, "8%", "no", "s0")}
    allowed = look(rows, "auto", True)
    assert allowed.healthy
    assert leaks(allowed) == {("speakers", "train, test"): (1, "8%", "yes", "s0")}
    assert allowed.section(LEAKS).items == (
        "1 speakers are in more than one split: not comparable with speaker-independent results",
    )


def test_dialogues_and_sentences_in_two_splits_are_named(rows: Rows, look: Look) -> None:
    rows[-1]["dialogue"] = "d0"
    rows[-1]["text"] = str(rows[0]["text"]).upper()
    report = look(rows)
    assert report.healthy
    assert set(leaks(report)) == {("dialogues", "train, test"), ("sentences", "train, test")}
    assert leaks(report)["dialogues", "train, test"] == (1, "8%", "yes", "d0")


def test_identical_audio_under_another_name(rows: Rows, look: Look, tmp_path: Path) -> None:
    """Utterance 0 is train; copies of its file are in val and test."""
    for copy in (40, 59):
        shutil.copy(tmp_path / "audio/u0.wav", tmp_path / f"audio/u{copy}.wav")
    report = look(rows)
    assert {key: cells[0] for key, cells in leaks(report).items()} == {
        ("clips", pair): 1 for pair in ("train, test", "train, val", "val, test")
    }
    assert report.section("Duplicates").items[0] == "3 utterances have the same audio as another one: u0, u40, u59"


def test_near_duplicate_audio_is_a_leak_that_a_protocol_can_refuse(rows: Rows, look: Look, tmp_path: Path) -> None:
    """u0 is train; u59, in test, is u0 at a fifth of its level, 8 kHz, 0.09 s shorter."""
    voice = speech(1)
    soundfile.write(tmp_path / "audio/u0.wav", voice, RATE)
    soundfile.write(tmp_path / "audio/u59.wav", 0.2 * voice[1440::2], 8000)
    report = look(rows)
    assert report.healthy
    assert leaks(report) == {("near-duplicate clips", "train, test"): (1, "8%", "yes", "u59")}
    assert report.section(LEAKS).items == (
        "1 recordings are in more than one split in copies that were amplified, recoded or cut: up to 8% of a test split's "
        "utterances are trained on",
    )
    (pair,) = table(report, "Duplicates", "Near-duplicate").rows
    assert pair[:4] == ("u0", "train", "u59", "test")
    refused = look(rows, "loso-speaker")
    assert refused.to_mend == ("the splits share near-duplicate clips, which the protocol (loso-speaker) doesn't allow",)
    assert "1 near-duplicate clips are in more than one split" in refused.section(LEAKS).text[0]


def test_the_check_before_training_finds_the_fingerprints_of_the_doctor(
    rows: Rows, look: Look, tmp_path: Path, tiny_bert: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    soundfile.write(tmp_path / "audio/u0.wav", speech(1), RATE)
    soundfile.write(tmp_path / "audio/u59.wav", 0.2 * speech(1), RATE)
    look(rows)
    monkeypatch.setattr(Fingerprint, "extract", lambda self, inputs: pytest.fail("computed again"))
    text = parse_feature(f"token_ids(checkpoint={tiny_bert!r})")
    utterances = load_utterances(Manifest(tmp_path / "manifest.csv"), parse_feature("mfcc(n=8)"), text)
    copies = utterances.table.set_index("utterance_id")["near_duplicate"].dropna()
    assert copies.to_dict() == {"u0": "u0", "u59": "u0"}


def test_parts_of_one_file_are_no_duplicates(rows: Rows, look: Look) -> None:
    parts = [row | {"audio": "audio/u4.wav", "start": n / 10, "end": (n + 1) / 10} for n, row in enumerate(rows[:3])]
    report = look(parts)
    assert not any("same audio" in item for item in report.section("Duplicates").items)
    assert table(report, "Sound", "Durations").rows[0][3] == "0.10"


def test_duplicates(rows: Rows, look: Look, tmp_path: Path) -> None:
    """u1 and u2 share audio, u2 and u3 text, u4 and u5 both."""
    shutil.copy(tmp_path / "audio/u1.wav", tmp_path / "audio/u2.wav")
    rows[3]["text"] = rows[2]["text"]
    rows[5] = rows[5] | {"audio": rows[4]["audio"], "text": rows[4]["text"]}
    assert look(rows).section("Duplicates").items == (
        "4 utterances have the same audio as another one: u1, u2, u4 …",
        "4 utterances have the same text as another one: u2, u3, u4 …",
        "2 utterances have the same audio and text as another one: u4, u5",
    )


def test_absent_modalities_are_counted_and_are_no_duplicates(rows: Rows, look: Look) -> None:
    for number in (0, 1, 2):
        rows[number]["audio"] = ""
    for number in (10, 20):
        rows[number]["text"] = ""
    report = look(rows)
    assert report.healthy
    assert (facts(report)["with audio"], facts(report)["with text"]) == ("57", "58")
    items = report.section("Worth a look").items
    assert "3 utterances are without audio: u0, u1, u2" in items
    assert "2 utterances are without text: u10, u20" in items
    assert report.section("Duplicates").text == ("None.",)


def test_corpus_without_audio(rows: Rows, look: Look) -> None:
    report = look([row | {"audio": ""} for row in rows])
    assert report.healthy
    assert facts(report)["with audio"] == "0"
    assert report.section("Sound").text == ("No utterance has audio.",)


def test_unusual_clips(rows: Rows, look: Look, tmp_path: Path) -> None:
    """The fixture's shortest clips, of 0.2 s, are every fifth one."""
    noise(tmp_path / "audio/u3.wav", 31.0, 4000)
    noise(tmp_path / "audio/u4.wav", 29.0, 4000)
    soundfile.write(tmp_path / "audio/u6.wav", np.zeros(8000), RATE)
    noise(tmp_path / "audio/u7.wav", 0.5, level=1e-4)
    noise(tmp_path / "audio/u8.wav", 0.5, level=1e-2)
    report = look(rows)
    assert report.healthy
    assert report.section("Worth a look").items == (
        "1 utterance is longer than 30 s: u3",
        "12 utterances are shorter than 0.3 s: u0, u5, u10 …",
        "2 utterances are silent (below -60 dBFS): u6, u7",
    )


def test_formats(rows: Rows, look: Look, tmp_path: Path) -> None:
    for number in range(10):
        noise(tmp_path / f"audio/u{number}.wav", 0.4, 44_100, 2)
    for number in range(10, 14):
        noise(tmp_path / f"audio/u{number}.wav", 0.4, 8_000)
    assert table(look(rows), "Sound", "Formats").rows == (
        (".wav", "16,000 Hz", 1, 46),
        (".wav", "44,100 Hz", 2, 10),
        (".wav", "8,000 Hz", 1, 4),
    )


def test_corpus_without_splits_and_speakers(rows: Rows, look: Look) -> None:
    """No protocol can be applied without leave to mix the speakers, which nobody knows."""
    bare = [{k: v for k, v in row.items() if k not in {"split", "speaker", "dialogue", "turn"}} for row in rows]
    report = look(bare)
    (reason,) = report.to_mend
    assert reason.startswith("the protocol (auto) can't be applied: ")
    assert table(report, "Labels and speakers", "Utterances by label").rows[0] == ("calm", 20)
    assert len(report.section("Labels and speakers").tables) == 1
    protocols = {row[0]: row[1] for row in table(report, "Protocols", "Which").rows}
    assert set(protocols.values()) == {"no"}
    allowed = look(bare, "auto", True)
    assert allowed.healthy
    assert {row[0]: row[1:] for row in table(allowed, "Protocols", "Which").rows}["overlap-5fold@1"] == ("yes", "5 folds")


def test_own_splits_are_compared_where_no_protocol_can_be_applied(rows: Rows, look: Look) -> None:
    """Nothing of class cross is in train, so it can't be learned; and a speaker of train is in test."""
    kept = [row for row in rows if row["label"] != "cross" or row["split"] != "train"]
    kept[-1]["speaker"] = "s0"
    report = look(kept, "split", True)
    assert "labels without a single training example" in report.to_mend[0]
    assert leaks(report) == {("speakers", "train, test"): (1, "8%", "s0")}


def test_protocols_say_why_not(rows: Rows, look: Look) -> None:
    for row in rows:
        del row["split"]
    found = {row[0]: row[1:] for row in table(look(rows), "Protocols", "Which").rows}
    assert found["speaker-5fold@1"] == ("yes", "5 folds")
    assert found["loso-speaker@1"] == ("yes", "10 folds")
    assert found["split@1"][0] == "no"
    assert found["split@1"][1]


def test_an_unknown_protocol_is_told_before_anything_is_decoded(rows: Rows, look: Look, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datamodules.doctor.load_clip", lambda *_: pytest.fail("decoded"))
    with pytest.raises(UnknownNameError, match="did you mean 'split@1'"):
        look(rows, "splitt")


def test_no_usable_row(rows: Rows, look: Look) -> None:
    report = look([row | {"label": ""} for row in rows])
    assert facts(report)["usable"] == "0"
    assert any("no utterance is usable" in reason for reason in report.to_mend)


def test_counts_against_the_release(tmp_path: Path) -> None:
    """EmoDB's speaker 03 has 49 utterances and 16 has 71; here one each, both anger of 127."""
    for name in ("03a01Wa", "16a01Wb"):
        soundfile.write(tmp_path / f"{name}.wav", speech(len(name)), RATE)
    report = examine(get_corpus("emodb")(tmp_path))
    by_speaker = table(report, "Counts against the release", "By speaker")
    assert by_speaker.columns == ("speaker", "found", "official", "difference")
    assert by_speaker.rows[0] == ("03", 1, 49, "-48")
    assert by_speaker.rows[1] == ("08", 0, 58, "-58")
    assert by_speaker.marked == frozenset(range(10))
    by_label = table(report, "Counts against the release", "By label")
    assert {row[0]: row[1:] for row in by_label.rows}["anger"] == (2, 127, "-125")
    assert not report.healthy


@pytest.mark.parametrize(
    ("name", "columns", "totals"),
    [("meld", ("split", "label"), {"train": 9989, "val": 1109, "test": 2610}), ("iemocap", ("session",), {"Session3": 2136})],
)
def test_official_counts_in_the_tables_terms(name: str, columns: tuple, totals: dict, tmp_path: Path) -> None:
    (known,) = [counts for key, counts in get_corpus(name)(tmp_path).official_counts().items() if key == columns]
    for value, total in totals.items():
        assert sum(count for key, count in known.items() if key[0] == value) == total
