"""Measures how long the leaderboard of many stored runs takes, and how much memory.

``python -m benchmarks.many_runs`` writes 1,000 and then 10,000 runs as `results.commit` leaves them, of 20 methods on 5 corpora
with 5 folds, and prints what ``fusion-zoo leaderboard`` takes on each, in a process of its own.
"""

import itertools
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import typer

from benchmarks import results

METHODS, CORPORA, FOLDS = 20, 5, 5
CLASSES = ("angry", "happy", "neutral", "sad")


def write_runs(out: Path, runs: int) -> None:
    """Finished runs with scores drawn at random; as many seeds as the number asks for."""
    random = np.random.default_rng(0)
    seeds = -(-runs // (METHODS * CORPORA * FOLDS))
    numbers = itertools.product(range(seeds), range(METHODS), range(CORPORA), range(FOLDS))
    for seed, method, corpus, fold in itertools.islice(numbers, runs):
        spec = _spec(f"method_{method}", f"corpus_{corpus} 1", fold, seed)
        predictions = pd.DataFrame(random.dirichlet(np.ones(len(CLASSES)), 20), columns=[f"p_{label}" for label in CLASSES])
        labels = random.choice(CLASSES, len(predictions))
        predictions.insert(0, "label", labels)
        predictions.insert(0, "utterance_id", [f"u{number}" for number in range(len(predictions))])
        name = f"{spec['method']}__corpus_{corpus}__{spec['protocol']}__fold{fold}__seed{seed}__0123456789abcdef"
        results.commit(results.partial_folder(out, name), out, spec, _result(spec, random), predictions)


def _spec(method: str, corpus: str, fold: int, seed: int) -> dict[str, Any]:
    encoder = {"trainable": "none", "lr": 1e-5}
    return {
        "method": method,
        "variant": "hidden=64, d=128",
        "options": {"hidden": 64, "d": 128},
        "corpus": corpus,
        "data": "0123456789abcdef",
        "protocol": "speaker-5fold@1",
        "classes": list(CLASSES),
        "fold": fold,
        "track": "controlled",
        "audio": {"name": "mfcc", "version": 1, "n": 40, "window_ms": 25.0, "hop_ms": 10.0, "deltas": False},
        "text": {"name": "hidden_states", "version": 1, "checkpoint": "minilm", "layers": [-1], "combine": "mean", "pool": "none"},
        "audio_encoder": encoder,
        "text_encoder": encoder,
        "training": {"max_epochs": 40, "patience": 8, "batch_size": 32, "lr": 5e-4, "weight_decay": 1e-2}
        | {"class_weights": "balanced", "grad_clip": 1.0},
        "precision": "32-true",
        "seed": seed,
        "max_seconds": 30.0,
        "code": "0123456789abcdef",
    }


def _result(spec: dict[str, Any], random: np.random.Generator) -> dict[str, Any]:
    recall = dict(zip(CLASSES, random.uniform(0.3, 0.9, len(CLASSES)).tolist(), strict=True))
    return {
        "spec": spec,
        "scores": {metric: random.uniform(0.3, 0.9) for metric in results.METRICS}
        | {"recall": recall, "confusion": random.integers(0, 50, (len(CLASSES), len(CLASSES))).tolist()},
        "slices": {"interaction": {name: random.uniform(0.3, 0.9) for name in ("audio", "text", "redundant", "synergy")}},
        "validation": {metric: random.uniform(0.3, 0.9) for metric in results.METRICS},
        "epochs": 20,
        "utterances": {"train": 3000, "val": 500, "test": 20, "usable": 4400, "named": 4500},
        "costs": {name: random.uniform(1, 1000) for name in results.COSTS},
        "headline": "uar",
        "features": {"audio": "mfcc", "text": "hidden_states"},
        "caveats": ["100 of 4500 utterances were left out as bad: row 3: the audio file is missing"],
        "suite": {"corpus": spec["corpus"], "root": "/data/corpus", "methods": [{"method": spec["method"], "options": {}}]},
        "environment": {
            "device": "a processor",
            "revision": "0123456789ab",
            "packages": {f"package-{n}": "1.2.3" for n in range(14)},
        },
        "finished": "2026-01-01T00:00:00+00:00",
    }


def measure(out: Path) -> tuple[float, float, float]:
    """Wall seconds, CPU seconds and peak MiB of ``fusion-zoo leaderboard``."""
    started = time.perf_counter()
    command = [sys.executable, "-m", "benchmarks.cli", "leaderboard", str(out)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)  # noqa: S603
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"the leaderboard of {out} failed")
    return time.perf_counter() - started, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def main(runs: Annotated[str, typer.Option(help="Sizes, comma-separated.")] = "1000,10000") -> None:
    """Print one line per size."""
    typer.echo("runs, MiB of results, leaderboard s, of which CPU s, peak MiB")
    for count in runs.split(","):
        with tempfile.TemporaryDirectory() as name:
            out = Path(name)
            write_runs(out, int(count))
            size = sum(file.stat().st_size for file in out.glob("*/*")) / 2**20
            seconds, busy, peak = measure(out)
            typer.echo(f"{count},{size:.0f},{seconds:.2f},{busy:.2f},{peak:.0f}")


if __name__ == "__main__":
    typer.run(main)
