"""Does a suite that is killed at random moments end in the table of one that is left alone?

``python -m benchmarks.kill_check [SUITE.yaml] [--kills 10] [--seed 0] [--jobs 1]`` runs the suite once undisturbed, then again
with SIGKILLs at moments drawn by the seed, then completes it, and compares. Exit status 1: they differ.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Annotated

import typer
import yaml

SUITE = {
    "corpus": "demo",
    "methods": ["text_only", "early_concat"],
    "seeds": 12,
    "training": {"max_epochs": 6, "patience": 6},
}


def main(
    suite: Annotated[Path | None, typer.Argument(help="A suite in YAML; without one, 24 short runs on the demo corpus.")] = None,
    kills: Annotated[int, typer.Option(help="How many SIGKILLs.")] = 10,
    seed: Annotated[int, typer.Option(help="Of their moments.")] = 0,
    jobs: Annotated[int, typer.Option(help="Runs at a time.")] = 1,
) -> None:
    """Compare a suite that is killed at random moments with one that is not."""
    with TemporaryDirectory() as folder:
        if suite is None:
            suite = Path(folder) / "suite.yaml"
            suite.write_text(yaml.safe_dump(SUITE), encoding="utf-8")
        whole, killed = Path(folder) / "whole", Path(folder) / "killed"
        begun = time.monotonic()
        with _started(suite, whole, jobs) as process:
            _wait_for_a_run(process, whole)
            start_up = time.monotonic() - begun
            if process.wait():
                raise typer.Exit(2)
        training = time.monotonic() - begun - start_up
        typer.echo(f"undisturbed: {start_up:.0f} s to the first run, {training:.0f} s for {len(_predictions(whole))} runs")
        random = Random(seed)
        for number in range(1, kills + 1):
            # One in start-up, the others among the runs. A killed run's work is lost, so that on average twice this fraction is
            # still too little to finish early.
            moment = random.uniform(0, start_up if number == 1 else 2 * training / (kills + 1))
            with _started(suite, killed, jobs) as process, suppress(subprocess.TimeoutExpired):
                if number > 1:
                    _wait_for_a_run(process, killed)
                process.wait(moment)
                typer.echo(f"the suite was complete before kill {number}; a longer suite leaves room for more")
                break
            left = len(list(killed.glob(".partial-*")))
            since = "the start" if number == 1 else "its first run began"
            typer.echo(f"kill {number}, {moment:.1f} s after {since}: {len(_predictions(killed))} runs finished, {left} cut off")
        with _started(suite, killed, jobs) as process:
            if process.wait():
                raise typer.Exit(2)
        same = _predictions(killed) == _predictions(whole) and not list(killed.glob(".partial-*"))
    typer.echo("identical, byte for byte" if same else "DIFFERENT")
    raise typer.Exit(0 if same else 1)


@contextmanager
def _started(suite: Path, out: Path, jobs: int) -> Iterator["subprocess.Popen[bytes]"]:
    """A process that runs the suite; it and its children are killed at the end, if they are still there."""
    command = [
        sys.executable,
        "-m",
        "benchmarks.cli",
        "bench",
        str(suite),
        "--out",
        str(out),
        "--jobs",
        str(jobs),
        "--threads",
        "1",
    ]
    # OMP_NUM_THREADS too: features are extracted before --threads is heard.
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(  # noqa: S603
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True, env=environment
    )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _wait_for_a_run(process: "subprocess.Popen[bytes]", out: Path) -> None:
    """Until the process is at a run, or has ended; what a killed one left doesn't count."""
    before = _partial_folders(out)
    while process.poll() is None:
        with suppress(FileNotFoundError):  # a killed run's folder is just being removed
            if _partial_folders(out) - before:
                return
        time.sleep(0.05)


def _partial_folders(out: Path) -> set[tuple[str, int]]:
    """Of runs in progress, with the time of the last change."""
    return {(folder.name, folder.stat().st_ctime_ns) for folder in out.glob(".partial-*")}


def _predictions(out: Path) -> dict[str, bytes]:
    return {file.parent.name: file.read_bytes() for file in out.glob("[!.]*/predictions.parquet")}


if __name__ == "__main__":
    typer.run(main)
