"""Scripts that start processes, as users write them."""

import subprocess
import sys
from multiprocessing import current_process
from pathlib import Path

import pytest

from benchmarks.execute import Execution, execute
from datamodules.workers import StartError

POOL = "with worker_pools() as open_pool: print(open_pool(1).submit(abs, -7).result())"


def run(folder: Path, *lines: str) -> "subprocess.CompletedProcess[str]":
    script = folder / "script.py"
    script.write_text("\n".join(["from datamodules.workers import worker_pools", *lines]))
    return subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=120, check=False)


def test_a_script_without_a_guard_is_told_what_is_missing(tmp_path: Path) -> None:
    found = run(tmp_path, POOL)
    assert found.returncode == 1
    assert found.stdout == ""
    assert found.stderr.splitlines()[-1].startswith(
        "datamodules.workers.StartError: a process didn't come up; its error stands above"
    )
    assert found.stderr.count("put what the script does under 'if __name__ == \"__main__\":'") == 2
    assert run(tmp_path, 'if __name__ == "__main__":', f"    {POOL}").stdout == "7\n"


@pytest.mark.parametrize("mistake", ["1 / 0", "import os; os._exit(9)"])
def test_whatever_keeps_processes_from_coming_up_ends_the_script(tmp_path: Path, mistake: str) -> None:
    found = run(tmp_path, f'if __name__ != "__main__": {mistake}', 'if __name__ == "__main__":', f"    {POOL}")
    assert found.returncode == 1
    assert "StartError: a process didn't come up" in found.stderr


def test_runs_are_not_executed_by_a_process_that_is_only_being_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would wait for the lock of a run that waits for it."""
    assert execute([], tmp_path, Execution()) == []
    monkeypatch.setattr(current_process(), "_inheriting", True, raising=False)  # as multiprocessing marks it
    with pytest.raises(StartError):
        execute([], tmp_path, Execution())
