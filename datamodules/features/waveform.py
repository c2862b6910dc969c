"""The waveform itself, for methods that train their speech encoder."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from datamodules.features import Feature, Modality


@dataclass(frozen=True)
class Waveform(Feature):
    """Samples at 16 kHz as they are, (samples, 1): what a speech encoder inside the model reads.

    Stored as float16: eleven bits of a sample's own size are kept, so quiet clips lose no more than loud ones.
    """

    name = "waveform"

    @property
    def modality(self) -> Modality:
        """Reads audio."""
        return "audio"

    @property
    def dim(self) -> int:
        """One number per sample."""
        return 1

    def extract(self, inputs: Sequence[npt.NDArray[np.float32]] | Sequence[str]) -> list[npt.NDArray[np.generic]]:
        """Add the second axis: (samples,) -> (samples, 1)."""
        return [np.asarray(waveform)[:, None] for waveform in inputs]
