"""Results on disk: whole or not at all."""

import errno
import json
import os
import stat
from pathlib import Path

import pandas as pd
import pytest

from benchmarks.results import ResultError, commit, failure_file, partial_folder, read_failures, record_failure


def make(out: Path, run_id: str, score: float) -> Path:
    partial = partial_folder(out, run_id)
    (partial / "tensorboard").mkdir()
    (partial / "tensorboard" / "events").write_text("curves")
    return commit(partial, out, {"seed": 0}, {"score": score}, pd.DataFrame({"label": ["calm"]}))


def test_a_folder_gets_its_name_when_all_in_it_is_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: set[int] = set()
    rename, whole = Path.rename, []

    def watched(self: Path, target: Path) -> Path:
        inside = {path.stat().st_ino for path in (self, *self.rglob("*"))}
        whole.append(len(inside) == 6 and inside <= synced)
        return rename(self, target)

    monkeypatch.setattr(os, "fsync", lambda handle: synced.add(os.fstat(handle).st_ino))
    monkeypatch.setattr(Path, "rename", watched)
    make(tmp_path, "run", 0.5)
    assert whole == [True]
    assert tmp_path.stat().st_ino in synced, "the name itself"


def test_a_shared_folder_that_cannot_sync_folders_still_takes_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(handle: int) -> None:
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(os, "fsync", refuse)
    assert (make(tmp_path, "run", 0.5) / "result.json").is_file()
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(errno.EIO, "Input/output error")))
    with pytest.raises(OSError, match="Input/output error"):
        make(tmp_path, "other", 0.5)


def test_a_finished_folder_stays(tmp_path: Path) -> None:
    """Whoever comes second doesn't replace it: there may be more in it by now."""
    folder = make(tmp_path, "run", 0.5)
    (folder / "robustness@1").mkdir()
    assert make(tmp_path, "run", 0.6) == folder
    assert json.loads((folder / "result.json").read_text()) == {"score": 0.5}
    assert (folder / "robustness@1").is_dir()
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_half_a_failure_is_never_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record_failure(tmp_path, "run", {"seed": 0}, "RuntimeError: first", "")
    write = Path.write_text

    def full(self: Path, text: str, **how: str) -> None:
        write(self, text[: len(text) // 2], **how)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", full)
        for run in ("run", "other"):
            with pytest.raises(OSError, match="No space left"):
                record_failure(tmp_path, run, {"seed": 1}, "RuntimeError: second", "")
    assert list(read_failures(tmp_path)) == [("run", {"seed": 0})]


def test_a_damaged_failure_is_named_and_not_its_folder(tmp_path: Path) -> None:
    file = failure_file(tmp_path, "run")
    record_failure(tmp_path, "run", {"seed": 0}, "RuntimeError: x", "")
    file.write_text(file.read_text()[:20])
    with pytest.raises(ResultError, match=r"failed/run.json is damaged .*; remove it and run the suite again"):
        list(read_failures(tmp_path))
