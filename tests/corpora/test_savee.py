"""SAVEE: who speaks is in the folder; what all corpora of its kind have in common is tested in `test_named_files`."""

from pathlib import Path

import pytest
from layouts import LAYOUTS, savee_names, write_sound

from datamodules.corpora.savee import Savee


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return LAYOUTS["savee"].write(tmp_path)


def test_the_official_layout_and_the_flat_copy_read_alike(root: Path, tmp_path: Path) -> None:
    official = Savee(root).read().table
    row = official.set_index("utterance_id").loc["JK_sa15"]
    assert row[["label", "speaker", "sentence", "gender"]].tolist() == ["sadness", "JK", "sa15", "male"]
    assert official["utterance_id"].is_unique
    assert official["text"].isna().all()
    for name in savee_names():
        path = Path(name)
        write_sound(tmp_path / "ALL" / f"{path.parent.name}_{path.name}")
    flat = Savee(tmp_path / "ALL").read().table
    columns = ["utterance_id", "label", "speaker", "sentence"]
    assert flat[columns].sort_values("utterance_id").to_numpy().tolist() == official[columns].to_numpy().tolist()


@pytest.mark.parametrize("name", ["DC/a16", "DC/n31", "DC/n00", "DC/s01", "XX/a01", "DC/a1", "notes/a01"])
def test_other_names_are_refused(root: Path, name: str) -> None:
    path = root / "AudioData" / f"{name}.wav"
    write_sound(path)
    named = [problem for problem in Savee(root).read().problems if problem.file == path]
    assert [problem.what for problem in named] == ["its name is not one of savee"]
    assert "names look like DC/sa03 or DC_sa03" in named[0].remedy


def test_both_copies_at_once_are_named(root: Path) -> None:
    write_sound(root / "ALL" / "DC_a01.wav")
    assert any(f"it has the same name as {root / 'ALL' / 'DC_a01.wav'}" in str(problem) for problem in Savee(root).read().problems)
