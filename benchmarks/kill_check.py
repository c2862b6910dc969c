"""Does a suite that is killed at random moments end in the table of one that is left alone?

``python -m benchmarks.kill_check [SUITE.yaml] [--kills 10] [--seed 0] [--jobs 1]`` runs the suite once undisturbed, then again
with SIGKILLs at moments drawn by the seed, then completes it, and compares. Exit status 1: they differ.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Annotated

import typer
import yaml

SUITE = {
    "corpus": "demo",
    "methods": ["text_only", "early_concat"],
    "seeds": 6,
    "training": {"max_epochs": 6, "patience": 6},
}


def main(
    suite: Annotated[
        Path | None, typer.Argument(help="A suite in YAML; without one, twelve short runs on the demo corpus.")
    ] = None,
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
        process = _start(suite, whole, jobs)
        while process.poll() is None and not list(whole.glob(".partial-*")):
            time.sleep(0.05)
        until_first_run = time.monotonic() - begun
        if process.wait():
            raise typer.Exit(2)
        training = time.monotonic() - begun - until_first_run
        typer.echo(f"undisturbed: {until_first_run:.0f} s to the first run, {training:.0f} s for {len(_predictions(whole))} runs")
        random = Random(seed)
        for number in range(1, kills + 1):
            # A killed run's work is lost, so that on average twice this fraction is still too little to finish early.
            moment = random.uniform(0, until_first_run + 2 * training / (kills + 1))
            process = _start(suite, killed, jobs)
            try:
                process.wait(moment)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                left = len(list(killed.glob(".partial-*")))
                typer.echo(f"kill {number} after {moment:.1f} s: {len(_predictions(killed))} runs finished, {left} cut off")
            else:
                typer.echo(f"the suite was complete before kill {number}; a longer suite leaves room for more")
                break
        if _start(suite, killed, jobs).wait():
            raise typer.Exit(2)
        same = _predictions(killed) == _predictions(whole) and not list(killed.glob(".partial-*"))
    typer.echo("identical, byte for byte" if same else "DIFFERENT")
    raise typer.Exit(0 if same else 1)


def _start(suite: Path, out: Path, jobs: int) -> "subprocess.Popen[bytes]":
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
    return subprocess.Popen(  # noqa: S603
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True, env=environment
    )


def _predictions(out: Path) -> dict[str, bytes]:
    return {file.parent.name: file.read_bytes() for file in out.glob("[!.]*/predictions.parquet")}


if __name__ == "__main__":
    typer.run(main)
