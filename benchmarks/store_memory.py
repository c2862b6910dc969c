"""Measures the peak memory of the feature store and the data module against the size of the corpus.

``python -m benchmarks.store_memory`` generates corpora of 1,000, 10,000 and 100,000 rows, extracts a feature of 16 kB per row
and reads one epoch, each in a process of its own, and prints the peaks.
"""

import csv
import resource
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import numpy.typing as npt
import soundfile
import typer

from datamodules.corpora import open_corpus
from datamodules.emotion import EmotionDataModule, load_utterances
from datamodules.features import Feature, Modality, parse_feature
from datamodules.protocols import apply_protocol
from datamodules.store import FeatureStore

FILES = 1_000
"""Distinct audio files; rows beyond that cut other parts out of them, so that every row is an entry of its own."""


@dataclass(frozen=True)
class Frames(Feature):
    """200 frames of 40 numbers drawn from the clip's first samples: as large as 2 s of MFCC, and cheap."""

    name = "frames"

    @property
    def modality(self) -> Modality:
        """Reads audio."""
        return "audio"

    @property
    def dim(self) -> int:
        """As wide as MFCC."""
        return 40

    def extract(self, inputs: Sequence[npt.NDArray[np.float32]] | Sequence[str]) -> list[npt.NDArray[np.generic]]:
        """(samples,) -> (200, 40)."""
        return [np.resize(np.asarray(waveform, dtype=np.float32)[:64], (200, 40)) for waveform in inputs]


def _manifest(folder: Path, rows: int) -> Path:
    random = np.random.default_rng(0)
    for number in range(min(rows, FILES)):
        soundfile.write(folder / f"{number}.wav", random.normal(0, 0.1, 16_000), 16_000)
    with (folder / "manifest.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["utterance_id", "audio", "start", "end", "text", "label", "speaker", "split"])
        for number in range(rows):
            start = number // FILES / 200
            speaker = number % 10
            split = "train" if speaker < 8 else "val" if speaker == 8 else "test"
            text = f"this is what speaker {speaker} says in row {number}"
            writer.writerow(
                [number, f"{number % FILES}.wav", start, start + 0.1, text, "ab"[number % 20 // 10], f"s{speaker}", split]
            )
    return folder / "manifest.csv"


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _measure(folder: Path) -> None:
    before = _peak()
    utterances = load_utterances(
        open_corpus(str(folder / "manifest.csv")), Frames(), parse_feature("token_ids"), FeatureStore(folder / "store")
    )
    extracted = _peak()
    plan = apply_protocol(utterances.table)
    data = EmotionDataModule(utterances, plan.folds[0], plan.classes, batch_size=32)
    data.setup()
    seen = sum(len(batch.label) for batch in data.train_dataloader())
    assert seen == len(plan.folds[0].train)
    size = sum(path.stat().st_size for path in (folder / "store").rglob("data.bin")) / 2**20
    table = utterances.table.memory_usage(deep=True).sum() / 2**20
    print(f"{len(utterances.table)},{size:.0f},{table:.0f},{before:.0f},{extracted:.0f},{_peak():.0f}")


def main(rows: Annotated[str, typer.Option(help="Sizes, comma-separated.")] = "1000,10000,100000", measure: str = "") -> None:
    """Print one line per size."""
    if measure:
        _measure(Path(measure))
        return
    typer.echo("rows, features on disk MiB, table MiB, peak MiB: after imports, after extraction, after one epoch")
    for count in rows.split(","):
        with tempfile.TemporaryDirectory() as name:
            _manifest(Path(name), int(count))
            command = [sys.executable, "-m", "benchmarks.store_memory", "--measure", name]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)  # noqa: S603
            typer.echo(done.stdout.strip())


if __name__ == "__main__":
    typer.run(main)
