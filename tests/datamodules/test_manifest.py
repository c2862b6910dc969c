"""A manifest's faults are all named at once, each with file, line and remedy; a sound manifest says what its cells say."""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile

from datamodules.corpora import COLUMNS, open_corpus
from datamodules.corpora.manifest import Manifest
from datamodules.problems import BadInputError

HEADER = "utterance_id,audio,text,label,speaker,dialogue,turn,split,start,end\n"
RATE = 16_000


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with ``good.wav`` (1 s) and ``other.wav`` (0.5 s)."""
    time = np.arange(RATE) / RATE
    soundfile.write(tmp_path / "good.wav", 0.1 * np.sin(2 * np.pi * 200 * time), RATE)
    soundfile.write(tmp_path / "other.wav", 0.1 * np.sin(2 * np.pi * 300 * time[: RATE // 2]), RATE)
    return tmp_path


def write(folder: Path, text: str, encoding: str = "utf-8") -> Manifest:
    path = folder / "manifest.csv"
    path.write_bytes(text.encode(encoding))
    return Manifest(path)


def faults(manifest: Manifest) -> BadInputError:
    with pytest.raises(BadInputError) as caught:
        manifest.table()
    return caught.value


def test_sound_manifest(manifest: Path, rows: list[dict[str, object]]) -> None:
    """Every cell arrives, paths are absolute and the lengths are those of the files."""
    table = Manifest(manifest).table()
    assert table.columns.tolist()[: len(COLUMNS)] == list(COLUMNS)
    for column in ("utterance_id", "text", "label", "speaker", "dialogue", "turn", "split"):
        assert table[column].tolist() == [row[column] for row in rows]
    assert table["audio"].tolist() == [str((manifest.parent / str(row["audio"])).resolve()) for row in rows]
    assert table["seconds"].tolist() == pytest.approx([0.2 + 0.1 * (n % 5) for n in range(60)])
    assert table["row"].tolist() == list(range(2, 62))
    assert table["start"].isna().all()
    assert table["session"].isna().all()


@pytest.mark.parametrize("missing", ["utterance_id", "audio", "text", "label"])
def test_missing_column(folder: Path, missing: str) -> None:
    columns = [c for c in ("utterance_id", "audio", "text", "label") if c != missing]
    error = faults(write(folder, ",".join(columns) + "\n1,2,3\n"))
    (problem,) = error.problems
    assert (problem.file, problem.row) == (folder / "manifest.csv", 1)
    assert f"no column {missing}" in str(error)
    assert f"it has {', '.join(columns)}" in str(error)
    assert "it needs utterance_id, audio, text, label" in str(error)


def test_missing_column_is_not_cured_by_skipping(folder: Path) -> None:
    with pytest.raises(BadInputError, match="no column label"):
        write(folder, "utterance_id,audio,text\na,good.wav,hello\n").table(skip_bad=True)


BAD_ROWS = {
    "empty id": (",good.wav,hi,glad,,,,,,", "utterance_id is empty", "unique id"),
    "empty label": ("b,good.wav,hi,,,,,,,", "label is empty", "label the utterance or remove the row"),
    "blank label": ("b,good.wav,hi,   ,,,,,,", "label is empty", "label the utterance or remove the row"),
    "no modality": ("b,,,glad,,,,,,", "neither audio nor text", "at least one of them"),
    "bad split": ("b,good.wav,hi,glad,,,,trian,,", "split is 'trian'", "one of train, val, dev"),
    "start is a word": ("b,good.wav,hi,glad,,,,,soon,", "start is 'soon'", "must be a number"),
    "end is a clock time": ("b,good.wav,hi,glad,,,,,0,00:01", "end is '00:01'", "must be a number"),
    "decimal comma": ('b,good.wav,hi,glad,,,,,"0,5",', "start is '0,5'", "must be a number"),
    "start is nan": ("b,good.wav,hi,glad,,,,,nan,", "start is 'nan'", "must be a number"),
    "end is infinite": ("b,good.wav,hi,glad,,,,,0,inf", "end is 'inf'", "must be a number"),
    "turn is a word": ("b,good.wav,hi,glad,,,first,,,", "turn is 'first'", "must be a number"),
    "too many cells": ("b,good.wav,hi,glad,,,,,,,extra", "more cells than the header's 10", "quote cells that hold a comma"),
    "too few cells": ("b,good.wav,hi,glad", "fewer cells than the header's 10", "quote cells that hold a comma"),
    "missing audio": ("b,none.wav,hi,glad,,,,,,", "none.wav: audio file is missing", "correct the path"),
    "audio is a folder": ("b,sub,hi,glad,,,,,,", "sub: audio file is missing", "correct the path"),
    "garbage audio": ("b,garbage.wav,hi,glad,,,,,,", "garbage.wav: audio can't be decoded", "convert it to WAV or FLAC"),
    "0-byte audio": ("b,zero.wav,hi,glad,,,,,,", "zero.wav: audio file is empty (0 bytes)", "copy it again"),
    "no samples": ("b,nosamples.wav,hi,glad,,,,,,", "nosamples.wav: audio has no samples", "record or copy it again"),
    "starts after the file's end": ("b,good.wav,hi,glad,,,,,5,6", "the file lasts 1.00 s", "correct start and end"),
    "ends before it starts": ("b,good.wav,hi,glad,,,,,0.5,0.25", "holds no samples", "correct start and end"),
    "starts before 0": ("b,good.wav,hi,glad,,,,,-1,0.5", "clip from -1.0 s to 0.5 s", "correct start and end"),
    "same id": ("a,other.wav,hi,glad,,,,,,", "utterance_id 'a' stands in row 2 already", "an id of its own"),
    "same id in another split": ("a,other.wav,hi,glad,,,,test,,", "in two splits (train, test)", "an id of its own"),
}


def put_bad_files(folder: Path) -> None:
    (folder / "sub").mkdir()
    (folder / "garbage.wav").write_bytes(bytes(np.random.default_rng(0).integers(0, 256, 5000, dtype=np.uint8)))
    (folder / "zero.wav").write_bytes(b"")
    soundfile.write(folder / "nosamples.wav", np.zeros(0), RATE)


@pytest.mark.parametrize("case", BAD_ROWS)
def test_bad_row_is_named_with_line_and_remedy(folder: Path, case: str) -> None:
    put_bad_files(folder)
    line, what, remedy = BAD_ROWS[case]
    manifest = write(folder, f"{HEADER}a,good.wav,hello,calm,,,,train,,\n{line}\nc,other.wav,bye,glad,,,,,,\n")
    error = faults(manifest)
    assert {problem.row for problem in error.problems} == {3}
    assert {problem.file for problem in error.problems} == {folder / "manifest.csv"}
    described = [problem for problem in error.problems if what in problem.what]
    assert len(described) == 1
    assert remedy in described[0].remedy
    assert f"{folder / 'manifest.csv'}:3: " in str(error)
    # Leaving the row out cures it, and only that row goes.
    table = manifest.table(skip_bad=True)
    assert table["utterance_id"].tolist() == ["a", "c"]
    assert table.index.tolist() == [0, 1]
    assert table["text"].tolist() == ["hello", "bye"]
    assert table.attrs["rows"] == 3
    assert table.attrs["problems"] == [str(problem) for problem in error.problems]


def test_all_problems_are_reported_at_once_in_row_order(folder: Path) -> None:
    """All the bad rows of the test above in one file, the last ones first."""
    put_bad_files(folder)
    cases = list(reversed(BAD_ROWS.values()))
    # Ids are made distinct, but for those of the duplicates.
    lines = [re.sub(r"^b,", f"b{number},", line) for number, (line, _, _) in enumerate(cases)]
    good = "a,good.wav,hello,calm,,,,train,,"
    error = faults(write(folder, HEADER + "\n".join([good, *lines, "z,good.wav,hi,calm,,,,test,,"]) + "\n"))
    numbers = [problem.row for problem in error.problems]
    assert numbers == sorted(numbers)
    assert set(numbers) == set(range(3, 3 + len(cases)))
    for row, (_, what, _) in enumerate(cases, start=3):
        if "stands in row" not in what:
            assert [p.row for p in error.problems if what in p.what and p.row == row] == [row]
    assert len([p for p in error.problems if "stands in row 2 already and is in two splits" in p.what]) == 2
    assert str(error).startswith(f"{len(numbers)} problems in the input\n")
    assert len(str(error).splitlines()) == len(numbers) + 1


def test_skip_bad_keeps_the_first_of_two_equal_ids(folder: Path) -> None:
    table = write(folder, f"{HEADER}a,good.wav,1,x,,,,,,\nb,good.wav,2,x,,,,,,\na,good.wav,3,x,,,,,,\n").table(skip_bad=True)
    assert table["text"].tolist() == ["1", "2"]


def test_header_only(folder: Path) -> None:
    error = faults(write(folder, HEADER))
    assert "has a header and no rows; add one row per utterance" in str(error)
    assert str(folder / "manifest.csv") in str(error)


def test_empty_file(folder: Path) -> None:
    assert "it has nothing; it needs utterance_id" in str(faults(write(folder, "")))


def test_missing_file(tmp_path: Path) -> None:
    error = faults(Manifest(tmp_path / "nowhere.csv"))
    assert f"{tmp_path / 'nowhere.csv'}: there is no such file" in str(error)


def test_cp1252_is_named_by_row_and_character_and_can_be_read(folder: Path) -> None:
    text = f"{HEADER}a,good.wav,plain,calm,,,,,,\nb,good.wav,cafés,calm,,,,,,\nc,good.wav,she said “no”,glad,,,,,,\n"
    manifest = write(folder, text, "cp1252")
    error = faults(manifest)
    assert [problem.row for problem in error.problems] == [3, 4]
    assert "byte 0xe9 is not utf-8 (in cp1252 it would be 'é')" in error.problems[0].what
    assert "'“'" in error.problems[1].what
    assert all("--encoding cp1252" in problem.remedy for problem in error.problems)
    table = open_corpus(str(manifest.root), encoding="cp1252").table()
    assert table["text"].tolist() == ["plain", "cafés", "she said “no”"]


def test_unknown_encoding_is_an_error_that_names_it(folder: Path) -> None:
    path = write(folder, f"{HEADER}a,good.wav,hi,calm,,,,,,\n").root
    with pytest.raises(BadInputError, match="cp12521") as caught:
        Manifest(path, "cp12521").table()
    assert str(path) in str(caught.value)


def test_unclosed_quote_in_a_large_file_is_an_error_with_the_file(folder: Path) -> None:
    """The quote swallows the rest of the file, until the csv module gives up."""
    lines = "".join(f"u{n},good.wav,some words and more words,calm,,,,,,\n" for n in range(4000))
    error = faults(write(folder, f'{HEADER}a,good.wav,"oh,calm,,,,,,\n{lines}'))
    assert str(folder / "manifest.csv") in str(error)
    assert "quote" in str(error)


def test_byte_order_mark(folder: Path) -> None:
    table = write(folder, f"{HEADER}a,good.wav,naïve,calm,,,,,,\n", "utf-8-sig").table()
    assert table["utterance_id"].tolist() == ["a"]
    assert table["text"].tolist() == ["naïve"]


def test_windows_paths_and_line_ends(folder: Path) -> None:
    (folder / "deep" / "er").mkdir(parents=True)
    (folder / "good.wav").rename(folder / "deep" / "er" / "good.wav")
    text = f"{HEADER}a,deep\\er\\good.wav,hi,calm,,,,,,\nb,gone\\x.wav,hi,calm,,,,,,\n".replace("\n", "\r\n")
    manifest = write(folder, text)
    error = faults(manifest)
    assert [(problem.row, "missing" in problem.what) for problem in error.problems] == [(3, True)]
    table = manifest.table(skip_bad=True)
    assert table["audio"].tolist() == [str((folder / "deep" / "er" / "good.wav").resolve())]
    assert table["seconds"].tolist() == [1.0]


def test_a_windows_path_with_a_drive_is_named_as_it_stands(folder: Path) -> None:
    (problem,) = faults(write(folder, f"{HEADER}a,C:\\corpus\\good.wav,hi,calm,,,,,,\n")).problems
    assert (problem.row, problem.what) == (2, "C:\\corpus\\good.wav: audio file is missing")


def test_symbolic_links(folder: Path, tmp_path: Path) -> None:
    """To a file, to a folder, to nothing, to itself."""
    (folder / "file.wav").symlink_to(folder / "good.wav")
    (folder / "here").symlink_to(folder)
    (folder / "broken.wav").symlink_to(folder / "gone.wav")
    (folder / "loop.wav").symlink_to(folder / "loop.wav")
    names = ("file.wav", "here/here/good.wav", "broken.wav", "loop.wav")
    manifest = write(folder, HEADER + "".join(f"u{n},{name},hi,calm,,,,,,\n" for n, name in enumerate(names)))
    assert [problem.row for problem in faults(manifest).problems] == [4, 5]
    assert manifest.table(skip_bad=True)["seconds"].tolist() == [1.0, 1.0]


def test_absent_modalities(folder: Path) -> None:
    table = write(folder, f"{HEADER}a,,only text,calm,,,,,,\nb,good.wav,,calm,,,,,,\nc,good.wav,   ,calm,,,,,,\n").table()
    assert pd.isna(table["audio"]).tolist() == [True, False, False]
    assert pd.isna(table["text"]).tolist() == [False, True, True]
    assert pd.isna(table["seconds"]).tolist() == [True, False, False]


@pytest.mark.parametrize("word", ["NA", "null", "None", "nan", "True", "0", "007"])
def test_words_that_look_like_nothing_are_text(folder: Path, word: str) -> None:
    table = write(folder, f"{HEADER}{word},good.wav,{word},{word},{word},,,,,\n").table()
    assert table.loc[0, ["utterance_id", "text", "label", "speaker"]].tolist() == [word] * 4


def test_quoted_commas_and_newlines_keep_row_numbers_right(folder: Path) -> None:
    """The row with the two-line text stands in lines 2 and 3, so the faulty one after it is line 4."""
    manifest = write(folder, f'{HEADER}a,good.wav,"well, ""yes""\nand no",calm,,,,,,\nb,none.wav,hi,calm,,,,,,\n')
    assert [problem.row for problem in faults(manifest).problems] == [4]
    assert manifest.table(skip_bad=True)["text"].tolist() == ['well, "yes"\nand no']


def test_blank_lines_keep_row_numbers_right(folder: Path) -> None:
    manifest = write(folder, f"{HEADER}\na,good.wav,hi,calm,,,,,,\n\n\nb,none.wav,hi,calm,,,,,,\n")
    assert [problem.row for problem in faults(manifest).problems] == [6]


@pytest.mark.parametrize("character", ["\u2028", "\u0085", "\x0b", "\x0c", "\x1c"])
def test_only_line_ends_end_a_line(folder: Path, character: str) -> None:
    """Transcripts scraped from the web hold such characters; editors and csv readers don't break lines there."""
    manifest = write(folder, f"{HEADER}a,good.wav,one{character}two,calm,,,,,,\nb,none.wav,hi,calm,,,,,,\n")
    assert [problem.row for problem in faults(manifest).problems] == [3]
    assert manifest.table(skip_bad=True)["text"].tolist() == [f"one{character}two"]


def test_extra_columns_are_kept(folder: Path) -> None:
    table = write(folder, "utterance_id,audio,text,label,valence,room\na,good.wav,hi,calm,0.5,B\nb,good.wav,ho,calm,,C\n").table()
    assert table["room"].tolist() == ["B", "C"]
    assert table["valence"].iloc[0] == "0.5"
    assert pd.isna(table["valence"].iloc[1])


@pytest.mark.parametrize("written", ["val", "dev", "valid", "validation"])
def test_names_of_the_validation_split(folder: Path, written: str) -> None:
    assert write(folder, f"{HEADER}a,good.wav,hi,calm,,,,{written},,\n").table()["split"].tolist() == ["val"]


def test_start_and_end_cut_clips(folder: Path) -> None:
    table = write(folder, f"{HEADER}a,good.wav,hi,calm,,,,,0.25,0.75\nb,good.wav,hi,calm,,,,,0.9,\n").table()
    assert table["start"].tolist() == [0.25, 0.9]
    assert table["seconds"].tolist() == pytest.approx([0.5, 0.1])


def test_open_corpus_takes_a_path_or_says_what_is_near(manifest: Path, write_manifest: Callable[..., Path]) -> None:
    assert len(open_corpus(str(manifest)).table()) == 60
    with pytest.raises(KeyError, match="did you mean 'demo'"):
        open_corpus("dmeo")


@pytest.mark.parametrize("cell", ["word " * 60, "a\x00b"])
def test_a_transcript_in_the_audio_column_is_a_bad_row(cell: str, rows: list[dict], write_manifest, tmp_path: Path) -> None:
    rows[3]["audio"] = cell
    path = write_manifest(tmp_path, rows)
    with pytest.raises(BadInputError, match=r"the audio path can't be one|audio file is missing"):
        Manifest(path).table()
    assert len(Manifest(path).table(skip_bad=True)) == len(rows) - 1


def test_a_column_that_stands_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "twice.csv"
    path.write_text("utterance_id,audio,text,label,label\na,b,c,d,e\n")
    with pytest.raises(BadInputError, match="the header has label twice"):
        Manifest(path).table()


def test_a_manifest_longer_than_a_part(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Positions, line numbers and duplicates count through the whole file; columns that are empty in one part keep their kind."""
    lines = [f"u{n},{'good.wav' if n > 3 else ''},text {n},calm,{'s' if n > 5 else ''},,{n},train,," for n in range(10)]
    lines[7] = "u1,none.wav,text,calm,,,,test,,"
    manifest = write(folder, HEADER + "\n".join(lines) + "\n")
    whole = manifest.read()
    monkeypatch.setattr("datamodules.corpora.manifest.PART", 2)
    in_parts = manifest.read()
    pd.testing.assert_frame_equal(in_parts.table, whole.table)
    assert in_parts.problems == whole.problems
    assert [(p.row, p.position) for p in in_parts.problems] == [(9, 7), (9, 7)]
    assert manifest.table(skip_bad=True)["utterance_id"].tolist() == [f"u{n}" for n in range(10) if n != 7]
