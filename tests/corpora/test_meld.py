"""MELD's files as they are distributed, good and bad, are read row by row."""

import os
import threading
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
from layouts import write_meld_csv, write_video

from datamodules import extract
from datamodules.audio import AudioError, load_clip
from datamodules.audio import Clip as AudioClip
from datamodules.corpora import COLUMNS, open_corpus
from datamodules.corpora.meld import FILES, FOLDERS, LABELS, Meld, repair
from datamodules.extract import extract_all, extract_audio
from datamodules.problems import BadInputError

OFFICIAL = (Meld.counts, Meld.dialogues)
# Split -> (dialogue, utterance, text, speaker, label, sentiment).
ROWS = {
    "train": [
        (0, 0, "We should go, it’s late.", "Ann", "neutral", "neutral"),
        (0, 1, "Already? No, wait \u2014 please!", "Bob", "surprise", "negative"),
        (125, 3, "That is great.", "Ann", "joy", "positive"),
    ],
    "dev": [(0, 0, "Good.", "Cy", "joy", "positive"), (110, 7, "Leave me.", "Ann", "anger", "negative")],
    "test": [(38, 4, "Oh no.", "Bob", "sadness", "negative"), (220, 0, 'Ew, "gross".', "Cy", "disgust", "negative")],
}


@pytest.fixture(autouse=True)
def small_release(monkeypatch: pytest.MonkeyPatch) -> None:
    """The release's counts are those of ROWS."""
    monkeypatch.setattr(
        Meld, "counts", {split: {label: sum(row[4] == label for row in rows) for label in LABELS} for split, rows in ROWS.items()}
    )
    monkeypatch.setattr(Meld, "dialogues", {split: len({row[0] for row in rows}) for split, rows in ROWS.items()})


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    """A root with the CSV files only, as in the repository's data/MELD."""
    for split, rows in ROWS.items():
        write_meld_csv(tmp_path / "MELD" / FILES[split], rows)
    return tmp_path / "MELD"


@pytest.fixture
def root(texts: Path) -> Path:
    """The whole release: CSV files and clips; the clip of dev dia110_utt7 is missing there."""
    for split, rows in ROWS.items():
        for dialogue, turn, *_ in rows:
            if (split, dialogue, turn) != ("dev", 110, 7):
                write_video(texts / FOLDERS[split] / f"dia{dialogue}_utt{turn}.mp4")
    return texts


def faults(root: Path) -> list[str]:
    return [str(problem) for problem in Meld(root).read().problems]


def test_the_real_counts_are_the_official_ones() -> None:
    counts, dialogues = OFFICIAL
    assert {split: sum(labels.values()) for split, labels in counts.items()} == {"train": 9989, "dev": 1109, "test": 2610}
    assert dialogues == {"train": 1038, "dev": 114, "test": 280}
    assert counts["test"]["neutral"] / 2610 == pytest.approx(0.481, abs=5e-4)


def test_text_only_is_declared_and_no_problem(texts: Path) -> None:
    table = Meld(texts).table()
    assert table.columns.tolist()[: len(COLUMNS)] == list(COLUMNS)
    assert table["audio"].isna().all()
    assert table["utterance_id"].tolist() == [
        *("train_dia0_utt0", "train_dia0_utt1", "train_dia125_utt3", "dev_dia0_utt0", "dev_dia110_utt7"),
        *("test_dia38_utt4", "test_dia220_utt0"),
    ]
    assert table["split"].tolist() == ["train"] * 3 + ["val"] * 2 + ["test"] * 2
    assert table["dialogue"].tolist()[:4] == ["train_0", "train_0", "train_125", "dev_0"]
    assert table["turn"].tolist() == [0, 1, 3, 0, 7, 4, 0]
    assert table["text"].tolist() == [row[2] for rows in ROWS.values() for row in rows]
    assert table["label"].tolist() == [row[4] for rows in ROWS.values() for row in rows]
    assert table["sentiment"].tolist() == [row[5] for rows in ROWS.values() for row in rows]
    assert table["speaker"].tolist() == ["Ann", "Bob", "Ann", "Cy", "Ann", "Bob", "Cy"]
    assert (table["season"].tolist(), table["episode"].tolist()) == ([8] * 7, [21] * 7)
    assert table.attrs["notes"] == ["there are no clips: every utterance's audio is absent, and methods see text only"]


def test_clips_give_sound_but_for_the_known_bad_ones(root: Path, cache: Path) -> None:
    table = Meld(root).table().set_index("utterance_id")
    assert table["audio"].isna().tolist() == [False, False, True, False, True, False, False]
    audio = Path(table.loc["train_dia0_utt0", "audio"])
    assert audio.is_relative_to(cache / "meld")
    info = soundfile.info(audio)
    assert (info.samplerate, info.channels, info.format, info.subtype) == (16_000, 1, "WAV", "PCM_16")
    assert table["seconds"].dropna().tolist() == pytest.approx([0.5] * 5, abs=0.1)
    samples = load_clip(AudioClip(audio), 16_000)
    spectrum = np.abs(np.fft.rfft(samples))
    assert np.argmax(spectrum) * 16_000 / len(samples) == pytest.approx(440, abs=5)
    notes = table.attrs["notes"]
    assert [note.split(":")[0] for note in notes] == [
        *("train_dia125_utt3", "dev_dia110_utt7", "test_dia38_utt4", "test_dia220_utt0")
    ]
    assert "damaged" in notes[0]
    assert "minutes long" in notes[2]


@pytest.mark.parametrize("place", ["MELD.Raw", "data/MELD", "MELD.Raw/train"])
def test_files_are_found_below_the_root(root: Path, tmp_path: Path, place: str) -> None:
    (tmp_path / "outer" / place).parent.mkdir(parents=True)
    root.rename(tmp_path / "outer" / place)
    assert Meld(tmp_path / "outer").table()["audio"].notna().sum() == 5


def test_csv_files_and_clips_in_different_folders(root: Path, tmp_path: Path) -> None:
    for split in FOLDERS:
        target = tmp_path / "MELD" / "MELD.Raw" / split / FOLDERS[split]
        target.parent.mkdir(parents=True)
        (root / FOLDERS[split]).rename(target)
    assert Meld(root).table()["audio"].notna().sum() == 5


@pytest.mark.parametrize("suffix", [".wav", ".flac"])
def test_sound_files_are_read_where_they_are(root: Path, suffix: str, cache: Path) -> None:
    clip = root / "train_splits" / f"dia0_utt0{suffix}"
    soundfile.write(clip, np.full(1600, 0.1), 16_000)
    table = Meld(root).table()
    assert table["audio"].iloc[0] == str(clip)
    assert table["seconds"].iloc[0] == pytest.approx(0.1)
    assert table["audio"].iloc[1].startswith(str(cache))


def test_extraction_happens_once_and_resumes(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = Meld(root).table()
    Path(first["audio"].iloc[1]).unlink()
    done: list[str] = []
    original = extract.extract_audio

    def counted(video: Path, wav: Path) -> None:
        done.append(video.name)
        original(video, wav)

    monkeypatch.setattr(extract, "extract_audio", counted)
    assert Meld(root).table()["audio"].tolist() == first["audio"].tolist()
    assert done == ["dia0_utt1.mp4"]
    write_video(root / "train_splits" / "dia0_utt0.mp4", seconds=1.0)
    again = Meld(root).table()
    assert done == ["dia0_utt1.mp4", "dia0_utt0.mp4"]
    assert again["seconds"].iloc[0] == pytest.approx(1.0, abs=0.1)


def test_two_extractions_at_once_do_not_disturb_each_other(root: Path, tmp_path: Path) -> None:
    videos = sorted((root / "train_splits").iterdir())
    found: list[dict] = []
    threads = [threading.Thread(target=lambda: found.append(extract_all(videos, tmp_path / "wav", "x"))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found[0] == found[1] == found[2]
    assert sorted(p.suffix for p in (tmp_path / "wav").iterdir() if not p.name.startswith(".")) == [".wav"] * 3
    assert not list((tmp_path / "wav").glob(".*.partial"))


def test_bad_clips_are_all_named_and_can_be_left_out(root: Path) -> None:
    train = root / "train_splits"
    write_video(train / "dia0_utt0.mp4", sound=False)
    (train / "dia0_utt1.mp4").write_bytes(b"")
    (root / FOLDERS["dev"] / "dia0_utt0.mp4").write_bytes(b"not a video at all" * 50)
    (root / FOLDERS["test"] / "dia38_utt4.mp4").unlink()
    problems = faults(root)
    assert len(problems) == 4
    for file, what in [
        (train / "dia0_utt0.mp4", "no audio track"),
        (train / "dia0_utt1.mp4", "0 bytes"),
        (root / FOLDERS["dev"] / "dia0_utt0.mp4", "can't be decoded"),
        (root / FOLDERS["test"], "dia38_utt4.mp4 is missing"),
    ]:
        assert [p for p in problems if p.startswith(f"{file}: ") and what in p], what
    with pytest.raises(BadInputError):
        Meld(root).table()
    left = Meld(root).table(skip_bad=True)
    assert left["utterance_id"].tolist() == ["train_dia125_utt3", "dev_dia110_utt7", "test_dia220_utt0"]
    assert left.attrs["rows"] == 7


def test_a_clip_that_breaks_off_is_named(tmp_path: Path) -> None:
    video = tmp_path / "long.mp4"
    write_video(video, seconds=4.0)
    # Move the index to the front, as a download that broke off would need in order to be readable at all.
    with av.open(str(video)) as source, av.open(str(tmp_path / "front.mp4"), "w", options={"movflags": "faststart"}) as target:
        streams = {stream.index: target.add_stream_from_template(stream) for stream in source.streams}
        for packet in source.demux():
            if packet.dts is not None:
                packet.stream = streams[packet.stream.index]
                target.mux(packet)
    whole = (tmp_path / "front.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    extract_audio(tmp_path / "front.mp4", tmp_path / "front.wav")
    with pytest.raises(AudioError, match=r"breaks off|can't be decoded"):
        extract_audio(tmp_path / "cut.mp4", tmp_path / "cut.wav")
    assert not (tmp_path / "cut.wav").exists()


def test_clips_of_no_row_are_passed_over_with_a_note(root: Path) -> None:
    folder = root / FOLDERS["test"]
    for name in ("final_videos_testdia5_utt1.mp4", "._dia38_utt4.mp4", "dia999_utt0.mp4"):
        (folder / name).write_bytes(b"anything")
    table = Meld(root).table()
    assert "3 clips in output_repeated_splits_test belong to no row" in table.attrs["notes"][-1]


def test_a_half_unpacked_release(root: Path) -> None:
    """The dev clips are still in their archive."""
    for clip in (root / FOLDERS["dev"]).iterdir():
        clip.unlink()
    (root / FOLDERS["dev"]).rmdir()
    (root / "dev.tar.gz").write_bytes(b"")
    (problem,) = faults(root)
    assert "dev_splits_complete is missing" in problem
    assert f"unpack {root / 'dev.tar.gz'}" in problem
    left = Meld(root).table(skip_bad=True)
    assert len(left) == 7
    assert left.loc[left["split"] == "val", "audio"].isna().all()


def test_archives_alone_are_not_text_only(texts: Path) -> None:
    (texts / "train.tar.gz").write_bytes(b"")
    assert any("unpack" in problem for problem in faults(texts))


def test_missing_files_are_all_named(texts: Path) -> None:
    (texts / FILES["dev"]).unlink()
    (texts / FILES["test"]).unlink()
    with pytest.raises(BadInputError) as caught:
        Meld(texts).read()
    assert [p.what for p in caught.value.problems] == ["dev_sent_emo.csv is missing", "test_sent_emo.csv is missing"]
    with pytest.raises(BadInputError, match="there is no such folder"):
        Meld(texts / "nowhere").read()
    with pytest.raises(BadInputError, match="is not a folder"):
        Meld(texts / FILES["train"]).read()
    with pytest.raises(BadInputError, match="pass it with --root"):
        open_corpus("meld")


def test_a_half_copy_is_named_by_label(texts: Path) -> None:
    write_meld_csv(texts / FILES["train"], ROWS["train"][:2])
    problems = faults(texts)
    assert any(p.startswith(f"{texts / FILES['train']}: 2 rows, and the release has 3: 0 of 1 joy") for p in problems)
    assert any("1 dialogues, and the release has 2" in p for p in problems)
    assert all("--skip-bad" in p for p in problems)
    with pytest.raises(BadInputError):
        Meld(texts).table()
    assert len(Meld(texts).table(skip_bad=True)) == 6


BAD_ROWS = {
    "unknown label": ("1,Hi.,Ann,joyful,positive,0,0,8,21,,", "Emotion is 'joyful'", "one of neutral"),
    "unknown sentiment": ("1,Hi.,Ann,joy,good,0,0,8,21,,", "Sentiment is 'good'", "one of neutral, positive, negative"),
    "no number": ("1,Hi.,Ann,joy,positive,zero,0,8,21,,", "Dialogue_ID is 'zero'", "whole number"),
    "no text": ("1,  ,Ann,joy,positive,0,0,8,21,,", "Utterance is empty", "restore"),
    "too few cells": ("1,Hi.,Ann,joy,positive,0,0,8,21", "another number of cells", "restore"),
    "too many cells": ("1,Hi, there.,Ann,joy,positive,0,0,8,21,,", "another number of cells", "restore"),
}


@pytest.mark.parametrize("case", BAD_ROWS)
def test_a_bad_row_is_named_with_its_line(texts: Path, case: str) -> None:
    line, what, remedy = BAD_ROWS[case]
    path = texts / FILES["dev"]
    path.write_bytes(path.read_bytes() + line.replace(",0,0,", ",7,7,").encode() + b"\r\n")
    named = [problem for problem in Meld(texts).read().problems if what in problem.what]
    assert [(problem.file, problem.row, problem.position) for problem in named] == [(path, 4, 5)]
    assert remedy in named[0].remedy
    assert "dev_dia7_utt7" not in Meld(texts).table(skip_bad=True)["utterance_id"].tolist()
    assert len(Meld(texts).table(skip_bad=True)) == 7


def test_a_row_twice(texts: Path) -> None:
    write_meld_csv(texts / FILES["dev"], [*ROWS["dev"], ROWS["dev"][0]])
    assert any("dialogue 0, utterance 0 stands in row 2 already" in problem for problem in faults(texts))


def test_a_foreign_header(texts: Path) -> None:
    (texts / FILES["dev"]).write_text("a,b\n1,2\n")
    with pytest.raises(BadInputError, match="no column Utterance, Speaker"):
        Meld(texts).read()
    (texts / FILES["dev"]).write_text("")
    with pytest.raises(BadInputError, match="it has nothing"):
        Meld(texts).read()


@pytest.mark.parametrize(
    ("broken", "whole"),
    [
        ("don\x92t", "don’t"),
        ("\x93well\x94 \x85", "“well” …"),
        ("donâ€™t", "don’t"),
        ("â€œhiâ€\x9d", "“hi”"),
        ("wait â€” no", "wait — no"),
        ("cafÃ©", "café"),
    ],
)
def test_wrong_encodings_are_repaired(broken: str, whole: str, texts: Path) -> None:
    assert repair(broken) == whole
    write_meld_csv(texts / FILES["dev"], [(0, 0, broken, "Cy", "joy", "positive"), ROWS["dev"][1]])
    table = Meld(texts).table().set_index("utterance_id")
    assert table.loc["dev_dia0_utt0", ["text", "text_original"]].tolist() == [whole, broken]


@pytest.mark.parametrize("right", ["don’t", "café", "——", "é……", "château “x”", "naïve â", "Plain.", "“Ünï” — …"])
def test_right_text_stays(right: str) -> None:
    assert repair(right) == right


def test_a_file_in_cp1252_is_read(texts: Path) -> None:
    rows = [(0, 0, "It’s a café…", "Cy", "joy", "positive"), ROWS["dev"][1]]
    write_meld_csv(texts / FILES["dev"], rows, encoding="cp1252")
    assert Meld(texts).table()["text"].iloc[3] == "It’s a café…"


def test_a_folder_of_clips_behind_a_symbolic_link(root: Path, tmp_path: Path) -> None:
    (root / FOLDERS["train"]).rename(tmp_path / "elsewhere")
    (root / FOLDERS["train"]).symlink_to(tmp_path / "elsewhere")
    assert Meld(root).table()["audio"].notna().sum() == 5


def test_broken_links_and_unreadable_folders_are_named(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A clip whose target is gone, a folder of clips and a folder beside them; permissions can't be tested as root."""
    clip = root / FOLDERS["train"] / "dia0_utt0.mp4"
    clip.unlink()
    clip.symlink_to(tmp_path / "gone.mp4")
    assert any(f"{clip}: the clip is missing" in problem for problem in faults(root))
    iterdir, scandir = Path.iterdir, os.scandir

    def refused(name: str) -> PermissionError:
        return PermissionError(13, "Permission denied", str(root / name))

    def iterdir_or_refuse(folder: Path) -> object:
        if folder.name == FOLDERS["dev"]:
            raise refused(folder.name)
        return iterdir(folder)

    def scandir_or_refuse(folder: object) -> object:
        if str(folder).endswith("locked"):
            raise refused("locked")
        return scandir(folder)  # type: ignore[call-overload]

    monkeypatch.setattr(Path, "iterdir", iterdir_or_refuse)
    assert any(f"{root / FOLDERS['dev']}: the folder can't be read (Permission denied)" in problem for problem in faults(root))
    (root / "locked").mkdir()
    monkeypatch.setattr(os, "scandir", scandir_or_refuse)
    with pytest.raises(BadInputError, match=r"locked: the folder can't be read \(Permission denied\); permit reading it"):
        Meld(root).read()


def test_a_sound_file_that_was_cut_off_is_named(root: Path) -> None:
    clip = root / FOLDERS["train"] / "dia0_utt0.wav"
    soundfile.write(clip, np.full(16_000, 0.1), 16_000)
    clip.write_bytes(clip.read_bytes()[:16_044])
    assert any(f"{clip}: audio breaks off: 16,000 of the 32,000 bytes" in problem for problem in faults(root))
