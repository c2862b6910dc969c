"""A feature of a few numbers for the tests of the store, and a worker process that fills a store with it.

``python toy_feature.py ROOT FOLDER`` extracts every WAV file of FOLDER into the store at ROOT.
"""

import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from datamodules.audio import Clip
from datamodules.features import Feature
from datamodules.store import FeatureStore


@dataclass(frozen=True)
class Toy(Feature):
    """Frames of a waveform, or code points of a text, times ``factor``, plus a little that depends on the whole chunk.

    That last part stands for an encoder's rounding, which depends on the batch.
    """

    name = "toy"
    dtype = "float32"
    chunk = 4
    extracted: ClassVar[list[int]] = []

    width: int = 5
    factor: float = 1.0
    reads: str = "audio"

    @property
    def modality(self) -> Any:
        return self.reads

    @property
    def dim(self) -> int:
        return self.width

    def extract(self, inputs: Sequence[Any]) -> list[np.ndarray]:
        Toy.extracted.append(len(inputs))
        if len(Toy.extracted) == int(os.environ.get("TOY_DIES_IN_CHUNK", "0")):
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(float(os.environ.get("TOY_SECONDS", "0")))
        arrays = [np.array([ord(c) for c in item], np.float32) if isinstance(item, str) else item for item in inputs]
        trace = np.float32(sum(len(array) for array in arrays) * 1e-7)
        rows = [-(-max(len(array), 1) // self.width) for array in arrays]
        padded = [np.pad(a, (0, n * self.width - len(a))).reshape(n, self.width) for a, n in zip(arrays, rows, strict=True)]
        return [(array * self.factor + trace).astype(np.float32) for array in padded]


@dataclass(frozen=True)
class Deadly(Toy):
    """Kills whatever process computes it."""

    name = "deadly"
    processes = True

    def extract(self, inputs: Sequence[Any]) -> list[np.ndarray]:
        os.kill(os.getpid(), signal.SIGKILL)
        return []


@dataclass(frozen=True)
class Endless(Toy):
    """The first chunk fails, or presses Ctrl-C as a terminal does; all others would take a minute."""

    name = "endless"
    processes = True
    flag: str = ""
    interrupts: bool = False

    def extract(self, inputs: Sequence[Any]) -> list[np.ndarray]:
        try:
            Path(self.flag).touch(exist_ok=False)
        except FileExistsError:
            time.sleep(60)
        if not self.interrupts:
            raise ZeroDivisionError("a defect of the feature")
        for process in (os.getpid(), os.getppid()):
            os.kill(process, signal.SIGINT)
        time.sleep(60)
        return []


def clips(folder: Path) -> list[Clip]:
    """Every WAV file of ``folder`` as a clip, sorted by name."""
    return [Clip(path) for path in sorted(folder.glob("*.wav"))]


def read_in_turn(arrays: Sequence[np.ndarray], positions: Sequence[int], say: Callable[[list[bytes]], None]) -> None:
    """Read arrays one by one and hand over their bytes."""
    say([arrays[position].tobytes() for position in positions])


if __name__ == "__main__":
    if os.environ.get("TOY_FILE_LIMIT"):
        import resource

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # writing then fails with an error, as on a full disk
        limit = int(os.environ["TOY_FILE_LIMIT"])
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    FeatureStore(Path(sys.argv[1])).get(Toy(), clips(Path(sys.argv[2])))
    print("extracted", Toy.extracted)
