"""One vector per utterance, (1, D): statistics of a whole clip, by openSMILE and by librosa.

openSMILE may be used freely for research and in private; commercial products need a licence of its makers, audEERING. So it is an
extra, ``pip install 'fusion-zoo[opensmile]'``.
"""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cache
from importlib.util import find_spec
from multiprocessing import parent_process
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from datamodules.features import Feature, FeatureError, Modality

Vector = npt.NDArray[np.float32]


class _Functionals(Feature):
    processes = True
    dtype = "float32"  # some functionals are of the order of 1e11, where float16 ends at 65,504
    standardise = True

    @property
    def modality(self) -> Modality:
        return "audio"


def _each(function: Callable[[Vector], Vector], waveforms: Sequence[Vector] | Sequence[str]) -> list[npt.NDArray[np.generic]]:
    """Apply ``function``, (samples,) -> (D,), to every waveform, on all cores: (1, D) each, zero where it isn't finite."""
    # Threads, because openSMILE and the Fourier transforms run without Python's lock: as fast as processes, and nothing to start.
    # One in a process that is itself one of several.
    with ThreadPoolExecutor(1 if parent_process() else os.cpu_count()) as pool:
        vectors = list(pool.map(function, (np.asarray(waveform, np.float32) for waveform in waveforms)))
    return [np.nan_to_num(vector, nan=0.0, posinf=0.0, neginf=0.0)[None] for vector in vectors]


class _OpenSmile(_Functionals):
    """Functionals of an openSMILE set, computed by the package ``opensmile``.

    Clips under 60 ms, the longest window of both sets, are padded with zeros at their end. Samples beyond 16-bit full scale are
    clipped: the package would wrap them round, so that a sample of +1.0 becomes -1.0. Values that aren't finite become 0.
    """

    feature_set: ClassVar[str]
    SHORTEST: ClassVar[int] = 960
    """Samples that both sets need for one value of each functional."""

    def __post_init__(self) -> None:
        """Refuse before anything is read if openSMILE isn't installed."""
        if find_spec("opensmile") is None:
            raise FeatureError(
                f"{self.name} needs openSMILE, which is free for research alone and isn't installed; "
                "pip install 'fusion-zoo[opensmile]'"
            )

    def extract(self, inputs: Sequence[npt.NDArray[np.float32]] | Sequence[str]) -> list[npt.NDArray[np.generic]]:
        """Compute the functionals, one waveform at a time: (samples,) at 16 kHz -> (1, D)."""
        return _each(self._one, inputs)

    def _one(self, waveform: Vector) -> Vector:
        padded = np.pad(waveform, (0, max(0, self.SHORTEST - len(waveform))))
        values = _smile(self.feature_set)(np.clip(padded, -1.0, 32767 / 32768), self.sample_rate)  # (1, D, 1)
        return np.asarray(values, np.float32).reshape(self.dim)


@cache
def _smile(feature_set: str) -> Any:  # noqa: ANN401
    import opensmile

    return opensmile.Smile(opensmile.FeatureSet[feature_set], opensmile.FeatureLevel.Functionals)


@dataclass(frozen=True)
class ComParE2016(_OpenSmile):
    """The 6,373 functionals of the ComParE 2016 challenge, (1, 6373), or the ``select`` that tell the training labels best.

    The selection is the data module's, fitted on the training split of each fold; the store holds all 6,373 once.

    Args:
        select: How many functionals a linear SVM keeps: 512 in HBAF, 1,611 in MELD's baseline; 0 for all.
    """

    name = "compare2016"
    feature_set = "ComParE_2016"

    select: int = 0

    def __post_init__(self) -> None:
        """Also refuse to select more than there are."""
        super().__post_init__()
        if not 0 <= self.select < self.dim:
            raise FeatureError(f"compare2016: select is {self.select}; it must be 0 for all {self.dim}, or 1 to {self.dim - 1}")

    @property
    def dim(self) -> int:
        """Number of functionals."""
        return 6373

    @property
    def width(self) -> int:
        """Number of functionals that are kept."""
        return self.select or self.dim

    @property
    def stored(self) -> Feature:
        """With all functionals."""
        return replace(self, select=0)


@dataclass(frozen=True)
class EGeMAPS(_OpenSmile):
    """The 88 functionals of the extended Geneva Minimalistic Acoustic Parameter Set (eGeMAPS v02; Eyben et al. 2016), (1, 88)."""

    name = "egemaps"
    feature_set = "eGeMAPSv02"

    @property
    def dim(self) -> int:
        """Number of functionals."""
        return 88


@dataclass(frozen=True)
class LibrosaStatistics(_Functionals):
    """Mean and standard deviation over time of frames that librosa computes, (1, 2 * (n_mfcc + 12 + n_mels + 6 + 1 + 1)).

    In this order, all means first: MFCC, chroma (power spectrum, A at 440 Hz), mel bands in dB, spectral contrast in dB (five
    octaves from 200 Hz and what lies below), rate of zero crossings, fundamental frequency in Hz. The last comes from YIN, which
    gives a pitch to unvoiced and silent frames too; pYIN, which tells them apart, takes many times as long. Clips under a window
    are padded with zeros at their end.

    Args:
        n_mfcc: Mel-frequency cepstral coefficients.
        n_mels: Mel bands, also those behind the coefficients.
        window_ms: Window length in milliseconds; two periods of ``f0_min`` must fit.
        hop_ms: Stride in milliseconds.
        f0_min: Lowest fundamental frequency in Hz.
        f0_max: Highest fundamental frequency in Hz.
    """

    name = "librosa_statistics"

    n_mfcc: int = 40
    n_mels: int = 128
    window_ms: float = 64.0
    hop_ms: float = 16.0
    f0_min: float = 65.0
    f0_max: float = 500.0

    def __post_init__(self) -> None:
        """Refuse sizes that make no frames, and a pitch that doesn't fit into them."""
        window, hop = self._sizes()
        if not (1 <= self.n_mfcc <= self.n_mels <= 256 and hop > 0):
            raise FeatureError(
                "librosa_statistics: n_mels must be 1 to 256, n_mfcc 1 to n_mels, hop_ms at least one sample; "
                f"they are {self.n_mels}, {self.n_mfcc} and {self.hop_ms:g}"
            )
        lowest = 2000 / self.window_ms if window > 0 else float("inf")
        if not lowest <= self.f0_min < self.f0_max <= self.sample_rate / 2:
            raise FeatureError(
                f"librosa_statistics: {lowest:.1f} <= f0_min < f0_max <= {self.sample_rate // 2} Hz must hold with window_ms="
                f"{self.window_ms:g}; f0_min is {self.f0_min:g}, f0_max {self.f0_max:g}"
            )

    @property
    def dim(self) -> int:
        """A mean and a deviation for each row of a frame."""
        return 2 * (self.n_mfcc + 12 + self.n_mels + 6 + 1 + 1)

    def extract(self, inputs: Sequence[npt.NDArray[np.float32]] | Sequence[str]) -> list[npt.NDArray[np.generic]]:
        """Compute the statistics, one waveform at a time: (samples,) at 16 kHz -> (1, D)."""
        return _each(self._one, inputs)

    def _sizes(self) -> tuple[int, int]:
        return round(self.window_ms * self.sample_rate / 1000), round(self.hop_ms * self.sample_rate / 1000)

    def _one(self, waveform: Vector) -> Vector:
        import librosa

        rate, (window, hop) = self.sample_rate, self._sizes()
        wave = np.pad(waveform, (0, max(0, window - len(waveform))))
        magnitude = np.abs(librosa.stft(wave, n_fft=window, hop_length=hop))  # (1 + window / 2, T)
        power = magnitude**2
        mel = librosa.power_to_db(librosa.feature.melspectrogram(S=power, sr=rate, n_mels=self.n_mels))
        frames = np.concatenate(
            [
                librosa.feature.mfcc(S=mel, n_mfcc=self.n_mfcc),
                librosa.feature.chroma_stft(S=power, sr=rate, tuning=0.0),
                mel,
                librosa.feature.spectral_contrast(S=magnitude, sr=rate, n_bands=5),
                librosa.feature.zero_crossing_rate(wave, frame_length=window, hop_length=hop),
                librosa.yin(wave, fmin=self.f0_min, fmax=self.f0_max, sr=rate, frame_length=window, hop_length=hop)[None],
            ]
        )  # (rows, T)
        return np.concatenate([frames.mean(1), frames.std(1)]).astype(np.float32)
