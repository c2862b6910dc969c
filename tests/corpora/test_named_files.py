"""Corpora whose file names say everything: official layouts, good and bad, of all of them."""

import os
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
from layouts import (
    ESD_TEXTS,
    Names,
    cremad_names,
    emodb_names,
    emouerj_names,
    esd_names,
    ravdess_names,
    savee_names,
    write_esd_texts,
    write_sound,
)

from datamodules.corpora import COLUMNS, emodb, get_corpus
from datamodules.corpora.cremad import CremaD
from datamodules.corpora.emodb import EmoDB
from datamodules.corpora.emouerj import EmoUERJ
from datamodules.corpora.esd import ESD
from datamodules.corpora.ravdess import Ravdess
from datamodules.corpora.savee import Savee
from datamodules.named_files import NamedFiles
from datamodules.problems import BadInputError

OFFICIAL = {kind.__name__: kind.counts for kind in (EmoDB, Ravdess, CremaD, ESD, EmoUERJ, Savee)}
CORPORA: dict[type[NamedFiles], Callable[[], Names]] = {
    EmoDB: emodb_names,
    Ravdess: ravdess_names,
    CremaD: cremad_names,
    ESD: esd_names,
    EmoUERJ: emouerj_names,
    Savee: savee_names,
}


@pytest.fixture(params=CORPORA, ids=lambda kind: kind.__name__)
def corpus(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> NamedFiles:
    """A small release, complete by its counts."""
    return build(request.param, tmp_path, monkeypatch)


def build(kind: type[NamedFiles], folder: Path, monkeypatch: pytest.MonkeyPatch) -> NamedFiles:
    root = folder / "release"
    for name in CORPORA[kind]():
        write_sound(root / name)
    (root / "ReadMe.txt").write_text("About the data.")
    if kind is ESD:
        write_esd_texts(root, esd_names())
    table = get_corpus(kind.__module__.rpartition(".")[2])(root).read().table
    counts = {column: table[column].value_counts().to_dict() for column in ("speaker", "label")}
    monkeypatch.setattr(kind, "counts", counts)
    return kind(root)


def faults(corpus: NamedFiles) -> list[str]:
    return [str(problem) for problem in corpus.read().problems]


def some_file(corpus: NamedFiles) -> Path:
    return sorted(corpus.root.rglob("*.wav"))[3]


def test_official_counts() -> None:
    totals = {"EmoDB": 535, "Ravdess": 1440, "CremaD": 7442, "ESD": 35_000, "EmoUERJ": 377, "Savee": 480}
    for name, total in totals.items():
        assert sum(OFFICIAL[name]["label"].values()) == total
    for name in ("EmoDB", "Ravdess", "ESD", "Savee"):
        assert sum(OFFICIAL[name]["speaker"].values()) == totals[name]
    assert len(OFFICIAL["CremaD"]["speaker"]) == 91


def test_a_sound_release(corpus: NamedFiles) -> None:
    table = corpus.table()
    names = CORPORA[type(corpus)]()
    assert table.columns.tolist()[: len(COLUMNS)] == list(COLUMNS)
    assert sorted(table["utterance_id"]) == sorted(corpus.identify(corpus.root / name) for name in names)
    assert sorted(table["audio"]) == sorted(str(corpus.root / name) for name in names)
    assert table["seconds"].tolist() == pytest.approx([0.1] * len(names))
    assert table["label"].notna().all()
    assert table["speaker"].notna().all()
    assert corpus.licence
    assert corpus.citation
    assert corpus.source
    assert table.attrs["rows"] == len(names)


def test_flac_is_read_too(corpus: NamedFiles) -> None:
    for path in list(corpus.root.rglob("*.wav")):
        samples, rate = soundfile.read(path)
        soundfile.write(path.with_suffix(".flac"), samples, rate)
        path.unlink()
    assert len(corpus.table()) == len(CORPORA[type(corpus)]())


def test_bad_files_are_all_named_and_can_be_left_out(corpus: NamedFiles) -> None:
    paths = sorted(corpus.root.rglob("*.wav"))
    paths[0].write_bytes(b"")
    paths[1].write_bytes(b"RIFF, or so it says" * 20)
    soundfile.write(paths[2], np.zeros(0), 16_000)
    foreign = paths[3].with_name("interview_7.wav")
    write_sound(foreign)
    problems = faults(corpus)
    for path, what in zip(
        [*paths[:3], foreign], ["0 bytes", "can't be decoded", "no samples", "its name is not one of"], strict=True
    ):
        assert len([p for p in problems if p.startswith(f"{path}: ") and what in p]) == 1, what
    left_out = {corpus.identify(path) for path in paths[:3]}
    with pytest.raises(BadInputError):
        corpus.table()
    table = corpus.table(skip_bad=True)
    assert set(table["utterance_id"]) == {corpus.identify(Path(name)) for name in CORPORA[type(corpus)]()} - left_out
    assert table.attrs["rows"] == len(paths) + 1
    # The counts tell which groups the bad files are missing from.
    assert [p for p in problems if f"{len(paths) - 3} of {len(paths)} usable utterances; by speaker, " in p]


def test_a_pointer_of_git_lfs_is_named_as_one(corpus: NamedFiles) -> None:
    path = some_file(corpus)
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 74000\n")
    assert any(p.startswith(f"{path}: it is a pointer of Git LFS") and "git lfs pull" in p for p in faults(corpus))


def test_a_half_copy_says_what_is_missing(corpus: NamedFiles) -> None:
    table = corpus.table()
    speaker = table["speaker"].iloc[0]
    mine = table[table["speaker"] == speaker]
    for audio in mine["audio"]:
        Path(audio).unlink()
    problems = faults(corpus)
    assert any(f"by speaker, {speaker} has none of {len(mine)}" in p for p in problems), problems
    assert all("--skip-bad" in p for p in problems)
    with pytest.raises(BadInputError):
        corpus.table()
    assert len(corpus.table(skip_bad=True)) == len(table) - len(mine)


def test_no_folder_no_sound_or_only_archives(corpus: NamedFiles, tmp_path: Path) -> None:
    kind = type(corpus)
    with pytest.raises(BadInputError, match="there is no such folder"):
        kind(tmp_path / "nowhere").read()
    archive = tmp_path / "download.zip"
    archive.write_bytes(b"PK")
    with pytest.raises(BadInputError, match=r"is not a folder; unpack it"):
        kind(archive).read()
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(BadInputError, match="no sound file is in it; name the folder"):
        kind(empty).read()
    archive.rename(empty / "download.zip")
    with pytest.raises(BadInputError, match=r"only archives \(download.zip\); unpack them"):
        kind(empty).read()
    with pytest.raises(BadInputError, match="pass it with --root"):
        kind(None)


def test_a_copy_within_the_release_is_named(corpus: NamedFiles) -> None:
    path = some_file(corpus)
    copy = corpus.root / "zz copy" / path.relative_to(corpus.root)
    copy.parent.mkdir(parents=True)
    copy.write_bytes(path.read_bytes())
    before = len(CORPORA[type(corpus)]())
    (problem,) = [p for p in faults(corpus) if "same name" in p]
    assert problem.startswith(f"{copy}: it has the same name as {path}")
    assert len(corpus.table(skip_bad=True)) == before


def test_hidden_files_are_passed_over_with_a_note(corpus: NamedFiles) -> None:
    path = some_file(corpus)
    path.with_name(f"._{path.name}").write_bytes(b"\0\5\x16\7")
    (corpus.root / "__MACOSX").mkdir()
    (corpus.root / "__MACOSX" / path.name).write_bytes(b"\0\5\x16\7")
    table = corpus.table()
    assert len(table) == len(CORPORA[type(corpus)]())
    assert "1 hidden files, such as macOS adds, were passed over" in table.attrs["notes"]


def test_symbolic_links_are_followed_and_loops_end(corpus: NamedFiles, tmp_path: Path) -> None:
    linked = tmp_path / "linked"
    linked.symlink_to(corpus.root)
    (corpus.root / "again").symlink_to(corpus.root)
    table = type(corpus)(linked).table()
    assert len(table) == len(CORPORA[type(corpus)]())
    assert all(Path(audio).is_file() for audio in table["audio"])


def test_broken_links_and_unreadable_folders_are_named(corpus: NamedFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Permissions can't be tested as root."""
    broken = some_file(corpus)
    broken.unlink()
    broken.symlink_to(tmp_path / "gone.wav")
    assert any(p.startswith(f"{broken}: audio file is missing") for p in faults(corpus))
    locked = corpus.root / "locked"
    locked.mkdir()
    scandir = os.scandir

    def refuse(folder: object) -> object:
        if str(folder) == str(locked):
            raise PermissionError(13, "Permission denied", str(locked))
        return scandir(folder)  # type: ignore[call-overload]

    monkeypatch.setattr(os, "scandir", refuse)
    assert f"{locked}: the folder can't be read (Permission denied); permit reading it" in faults(corpus)
    with pytest.raises(BadInputError, match="locked"):
        corpus.table(skip_bad=True)


def test_a_wav_that_was_cut_off_is_named(corpus: NamedFiles) -> None:
    path = some_file(corpus)
    path.write_bytes(path.read_bytes()[:1000])
    assert any(p.startswith(f"{path}: audio breaks off: 956 of the 3,200 bytes") for p in faults(corpus))


def test_a_long_list_of_differences_is_cut(corpus: NamedFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(corpus), "counts", {"speaker": {f"nobody{n}": 5 for n in range(20)}})
    (problem,) = faults(corpus)
    assert "nobody0 has none of 5; nobody1 has none of 5;" in problem
    assert " more; " in problem


@pytest.mark.parametrize(("name", "label"), [("03a01Wa", "anger"), ("16b10Fb", "happiness"), ("08b03Tz", "sadness")])
def test_emodb_names(name: str, label: str) -> None:
    parts = EmoDB.pattern.fullmatch(name)
    assert parts is not None
    found = EmoDB(Path("x")).describe(parts, Path(f"x/wav/{name}.wav"))
    assert (found["label"], found["speaker"], found["sentence"], found["take"]) == (label, name[:2], name[2:5], name[6])
    assert found["text"] == emodb.SENTENCES[name[2:5]]


@pytest.mark.parametrize("name", ["04a01Fa", "03a03Fa", "03a01Xa", "03a01F", "3a01Fa", "03a01fa", "03b10Faa"])
def test_names_that_are_not_emodbs(name: str) -> None:
    assert EmoDB.pattern.fullmatch(name) is None


@pytest.mark.parametrize("speaker", ["03", "08"])
def test_emodb_genders(speaker: str) -> None:
    assert emodb.GENDERS[speaker] == {"03": "male", "08": "female"}[speaker]


def test_ravdess_songs_are_passed_over_and_wrong_folders_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    corpus = build(Ravdess, tmp_path, monkeypatch)
    row = corpus.table().set_index("utterance_id").loc["03-01-03-02-02-01-12"]
    assert row[["label", "speaker", "text", "take", "intensity", "gender"]].tolist() == [
        *("happy", "12", "Dogs are sitting by the door.", "01", "strong", "female")
    ]
    write_sound(corpus.root / "Actor_01" / "03-02-01-01-01-01-01.wav")
    assert "1 files of the release that aren't part" in corpus.table().attrs["notes"][0]
    write_sound(corpus.root / "Actor_12" / "03-01-08-01-01-01-01.wav")
    write_sound(corpus.root / "Actor_12" / "03-01-01-02-01-01-12.wav")
    problems = faults(corpus)
    assert any("it is of actor 01 and lies in Actor_12" in p for p in problems)
    assert any("neutral of strong intensity" in p for p in problems)


def test_ravdess_songs_alone(tmp_path: Path) -> None:
    write_sound(tmp_path / "Actor_01" / "03-02-01-01-01-01-01.wav")
    with pytest.raises(BadInputError, match="only files that aren't part of ravdess"):
        Ravdess(tmp_path).read()


def test_cremad_facts_and_its_file_without_sound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    corpus = build(CremaD, tmp_path, monkeypatch)
    table = corpus.table().set_index("utterance_id")
    assert table.loc["1001_IEO_HAP_HI", ["label", "speaker", "text", "intensity"]].tolist() == [
        *("happy", "1001", "It's eleven o'clock.", "high")
    ]
    assert pd.isna(table.loc["1040_ITH_SAD_X", "intensity"])
    (corpus.root / "AudioWAV" / "1076_MTI_SAD_XX.wav").write_bytes(b"")
    problems = faults(corpus)
    assert len(problems) == 2, "the counts of the fixture, by speaker and by label, don't have it"
    assert all("usable utterances" in problem for problem in problems)
    table = corpus.table(skip_bad=True)
    row = table.set_index("utterance_id").loc["1076_MTI_SAD_XX"]
    assert pd.isna(row["audio"])
    assert row["text"] == "Maybe tomorrow it will be cold."
    assert table.attrs["notes"] == ["1076_MTI_SAD_XX: the release has this file without sound, so its audio is absent"]


def test_a_count_of_none_asks_for_one_at_least(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    corpus = build(CremaD, tmp_path, monkeypatch)
    monkeypatch.setattr(CremaD, "counts", {"speaker": dict.fromkeys(["1001", "1040", "1091"])})
    assert faults(corpus) == []
    monkeypatch.setattr(CremaD, "counts", {"speaker": dict.fromkeys(["1001", "1040", "1091", "1002"])})
    assert "1002 has none" in faults(corpus)[0]


def test_esd_reads_every_encoding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = build(ESD, tmp_path, monkeypatch).table()
    for speaker, (_, text, _) in ESD_TEXTS.items():
        assert set(table.loc[table["speaker"] == speaker, "text"]) == {text}
    table = table.set_index("utterance_id")
    assert table.loc["0011_000351", ["label", "sentence", "language"]].tolist() == ["Angry", "en001", "en"]
    assert table.loc["0001_001750", ["label", "sentence", "language"]].tolist() == ["Surprise", "zh350", "zh"]
    assert table["split"].isna().all()
    assert table["sentence"].nunique() == 4


def test_esd_with_its_parts_and_nested(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    corpus = build(ESD, tmp_path, monkeypatch)
    for path in list(corpus.root.rglob("*.wav")):
        part = random.Random(path.name).choice(["train", "evaluation", "test"])
        (path.parent / part).mkdir(exist_ok=True)
        path.rename(path.parent / part / path.name)
    corpus.root.rename(tmp_path / "Emotion Speech Dataset")
    table = ESD(tmp_path).table()
    parts = {"train": "train", "val": "evaluation", "test": "test"}
    assert [parts[split] for split in table["split"]] == [Path(audio).parent.name for audio in table["audio"]]
    assert table["text"].notna().all()


def test_esd_transcripts_that_are_bad(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    corpus = build(ESD, tmp_path, monkeypatch)
    (corpus.root / "0001" / "0001.txt").unlink()
    file = corpus.root / "0011" / "0011.txt"
    lines = file.read_text(encoding="utf-8").splitlines()
    lines[0], lines[1] = "what is this", lines[1].replace("\tThe", "   The").replace("\tNeutral", " Surprise")
    lines[2] = ""
    file.write_text("\n".join(lines), encoding="utf-8")
    problems = faults(corpus)
    assert any("the transcripts 0001.txt are missing" in p for p in problems)
    assert any(p.startswith(f"{file}:1: 'what is this' isn't id, text and emotion") for p in problems)
    names = sorted(Path(name).stem for name in esd_names() if name.startswith("0011"))
    missing = [p for p in problems if "has no transcript in it" in p]
    assert len(missing) == 2
    table = corpus.table(skip_bad=True)
    assert len(table) == len(esd_names()) - 2
    assert len(names) == 10
    assert table.loc[table["speaker"] == "0001", "text"].isna().all()
    assert set(table.loc[table["speaker"] == "0011", "text"]) == {"The nine, the eggs."}


def test_esd_lines_known_to_be_broken_are_a_note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    corpus = build(ESD, tmp_path, monkeypatch)
    write_sound(corpus.root / "0012" / "Sad" / "0012_001355.wav")
    file = corpus.root / "0012" / "0012.txt"
    file.write_text(file.read_text(encoding="utf-16") + "0012_001355 all in one\n", encoding="utf-16")
    assert all("usable utterances" in p for p in faults(corpus)), "the fixture's counts don't have it; nothing else is wrong"
    table = corpus.table(skip_bad=True)
    assert pd.isna(table.set_index("utterance_id").loc["0012_001355", "text"])
    assert "broken for 1 utterances, whose text is absent: 0012_001355" in table.attrs["notes"][0]
    write_sound(corpus.root / "0012" / "Sad" / "0012_001356.wav")
    assert any("0012_001356 has no transcript in it" in p for p in faults(corpus))


def test_esd_folders_must_agree_with_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    corpus = build(ESD, tmp_path, monkeypatch)
    write_sound(corpus.root / "0011" / "Happy" / "0011_000002.wav")
    write_sound(corpus.root / "0011" / "Neutral" / "0012_000002.wav")
    write_sound(corpus.root / "0011" / "Neutral" / "0011_009999.wav")
    write_sound(corpus.root / "0011" / "Fear" / "0011_000003.wav")
    problems = faults(corpus)
    assert any("its number is one of Neutral and its folder is 0011/Happy" in p for p in problems)
    assert any("it is of speaker 0012 and lies in 0011" in p for p in problems)
    assert any("isn't within 1 and 1750" in p for p in problems)
    assert any("its folder is 0011/Fear" in p for p in problems)
    assert len(corpus.table(skip_bad=True)) == len(esd_names())


def test_emouerj_without_and_with_transcripts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    corpus = build(EmoUERJ, tmp_path, monkeypatch)
    table = corpus.table()
    assert table["text"].isna().all()
    assert "the release has no transcripts" in table.attrs["notes"][0]
    row = table.set_index("utterance_id").loc["w04a11"]
    assert row[["label", "speaker", "take", "gender"]].tolist() == ["anger", "w04", "11", "female"]
    names = [Path(name).stem for name in emouerj_names()]
    texts = {name: f"Frase número {index % 10}." for index, name in enumerate(names)}
    file = corpus.root / "transcripts.csv"
    file.write_text("utterance_id,text\n" + "".join(f"{name}.wav,{text}\n" for name, text in texts.items()), encoding="utf-8")
    table = corpus.table()
    assert dict(zip(table["utterance_id"], table["text"], strict=True)) == texts
    assert table["sentence"].nunique() == 10
    assert table.groupby("sentence")["text"].nunique().eq(1).all()


def test_emouerj_transcripts_that_are_bad(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    corpus = build(EmoUERJ, tmp_path, monkeypatch)
    file = corpus.root / "transcripts.csv"
    names = [Path(name).stem for name in emouerj_names()]
    lines = [f"{name},Frase." for name in names[1:]]
    file.write_text("utterance_id,text\n" + "\n".join([*lines, "m09h01,Nada.", f"{names[1]},Outra."]), encoding="utf-8")
    problems = faults(corpus)
    assert any(f"{names[0]} has no text in it" in p for p in problems)
    assert any(f":{len(lines) + 2}: no file is called 'm09h01'" in p for p in problems)
    assert any(f"{names[1]} has another text already" in p for p in problems)
    assert len(corpus.table(skip_bad=True)) == len(names) - 2
    file.write_text("name;text\n", encoding="utf-8")
    assert any("the header has name;text; it needs" in p for p in faults(corpus))
    file.write_bytes("utterance_id,text\nm01h01,Não".encode("latin-1"))
    assert any("can't be read as UTF-8" in p for p in faults(corpus))
