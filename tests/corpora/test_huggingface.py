"""Folders as ``save_to_disk`` of Hugging Face's ``datasets`` writes them, good and bad."""

from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest
import soundfile
from layouts import row, save, save_dict, sound

from datamodules.corpora import COLUMNS
from datamodules.corpora.huggingface import HuggingFace
from datamodules.problems import BadInputError


def test_a_dataset(tmp_path: Path, cache: Path) -> None:
    corpus = HuggingFace(save(tmp_path / "mine", [row(n, speaker_id=n, room="B") for n in range(4)], shards=2))
    table = corpus.table().sort_values("utterance_id")
    assert corpus.name == "huggingface/mine"
    assert table.columns.tolist()[: len(COLUMNS)] == list(COLUMNS)
    assert table["utterance_id"].tolist() == ["u0", "u1", "u2", "u3"]
    assert table["text"].tolist() == [f"words {n}" for n in range(4)]
    assert table["label"].tolist() == ["calm", "glad", "calm", "glad"]
    assert table["speaker"].tolist() == [0, 1, 2, 3]
    assert table["room"].tolist() == ["B"] * 4
    assert table["seconds"].tolist() == pytest.approx([0.1, 0.2, 0.3, 0.4])
    assert table["split"].isna().all()
    for path, seconds in zip(table["audio"], table["seconds"], strict=True):
        assert Path(path).is_relative_to(cache / "huggingface")
        assert soundfile.info(path).duration == pytest.approx(seconds)
    before = {path: path.stat().st_mtime_ns for path in cache.rglob("*.wav")}
    corpus.table()
    assert {path: path.stat().st_mtime_ns for path in cache.rglob("*.wav")} == before


def test_a_dictionary_of_splits(tmp_path: Path) -> None:
    parts = {"train": [row(0), row(1)], "validation": [row(2)], "test": [row(3)]}
    table = HuggingFace(save_dict(tmp_path / "mine", parts)).table()
    assert table["split"].tolist() == ["train", "train", "val", "test"]


def test_an_unknown_split_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="the part 'unsupervised' is not a split"):
        HuggingFace(save_dict(tmp_path / "mine", {"train": [row(0)], "unsupervised": [row(1)]})).table(skip_bad=True)


def test_other_names_paths_and_flac(tmp_path: Path) -> None:
    (tmp_path / "x.flac").write_bytes(sound(kind="FLAC"))
    rows = [{"file": str(tmp_path / "x.flac"), "transcription": "hi", "emotion": "joy", "split": "dev"}]
    table = HuggingFace(save(tmp_path / "mine", rows, {})).table()
    assert table[["utterance_id", "audio", "text", "label", "split"]].iloc[0].tolist() == [
        *("row_0", str(tmp_path / "x.flac"), "hi", "joy", "val")
    ]
    embedded = [row(0, audio={"bytes": sound(kind="FLAC"), "path": None})]
    assert HuggingFace(save(tmp_path / "other", embedded)).table()["audio"].iloc[0].endswith(".flac")


def test_bad_rows_are_all_named_and_can_be_left_out(tmp_path: Path) -> None:
    rows = [
        row(0),
        row(1, audio={"bytes": b"no sound" * 9, "path": None}),
        row(2, label=-1),
        row(3, audio=None, text=" "),
        row(4, id="u0"),
        row(5, audio={"bytes": None, "path": "gone.wav"}),
        row(6, audio=None),
        row(7, text=None),
    ]
    corpus = HuggingFace(save(tmp_path / "mine", rows))
    problems = [(problem.position, problem.what) for problem in corpus.read().problems]
    assert [position for position, _ in problems] == [1, 2, 3, 4, 5]
    for (_, what), expected in zip(
        problems, ["can't be decoded", "has no label", "neither audio nor text", "earlier row", "is missing"], strict=True
    ):
        assert expected in what
    table = corpus.table(skip_bad=True)
    assert table["utterance_id"].tolist() == ["u0", "u6", "u7"]
    assert pd.isna(table["audio"]).tolist() == [False, True, False]
    assert pd.isna(table["text"]).tolist() == [False, False, True]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"text": "x", "mood": "joy"}], "it has the columns text, mood, and none is called label or emotion"),
        ([{"label": "joy", "image": "x"}], "neither sound nor text"),
        ([], "the data set has no rows"),
    ],
)
def test_columns_that_are_missing(tmp_path: Path, rows: list[dict], message: str) -> None:
    folder = save(tmp_path / "mine", rows or [row(0)])
    if not rows:
        table = pa.Table.from_pylist([row(0)]).slice(0, 0)
        with pa.OSFile(str(folder / "data-00000-of-00001.arrow"), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
            writer.write_table(table)
    with pytest.raises(BadInputError, match=message):
        HuggingFace(folder).read()


def test_folders_that_are_something_else_or_half_copied(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="there is no such folder"):
        HuggingFace(tmp_path / "nowhere").read()
    with pytest.raises(BadInputError, match=r"neither dataset_dict.json nor state.json"):
        HuggingFace(tmp_path).read()
    folder = save(tmp_path / "mine", [row(n) for n in range(40)])
    data = folder / "data-00000-of-00001.arrow"
    data.write_bytes(data.read_bytes()[:2000])
    with pytest.raises(BadInputError, match="its Arrow files can't be read"):
        HuggingFace(folder).read()
    data.unlink()
    with pytest.raises(BadInputError, match="its Arrow files can't be read"):
        HuggingFace(folder).read()
    (folder / "state.json").write_text("{")
    with pytest.raises(BadInputError, match=r"state.json: can't be read"):
        HuggingFace(folder).read()
