"""Spectral frames of a waveform: MFCC, log-mel and the plain log spectrogram, computed by torchaudio and librosa."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from datamodules.features import Feature, FeatureError, Modality


class _Spectral(Feature):
    standardise = True
    processes = True

    @property
    def modality(self) -> Modality:
        return "audio"


def _samples(milliseconds: float) -> int:
    return round(milliseconds * Feature.sample_rate / 1000)


@dataclass(frozen=True)
class MFCC(_Spectral):
    """Mel-frequency cepstral coefficients, (T, n): Hamming windows, 512-point FFT, centred frames.

    The default is MER-HAN's input (40 coefficients, 25 ms Hamming window, 10 ms stride); see Demirci's survey, and
    Zhang et al. 2023. Stored as float16: the rounding is below 0.1 % of a coefficient, the batch is standardised after it.

    Args:
        n: Coefficients, and mel bands.
        window_ms: Window length in milliseconds.
        hop_ms: Stride in milliseconds.
        window: ``hamming`` (the paper's text) or ``hann`` (torchaudio's default, used by the public re-implementation).
        deltas: Orders of differences to append: 1 for velocity, 2 for acceleration too, each a regression over 5 frames.
    """

    name = "mfcc"

    n: int = 40
    window_ms: float = 25.0
    hop_ms: float = 10.0
    window: str = "hamming"
    deltas: int = 0

    def __post_init__(self) -> None:
        """Refuse a window that doesn't fit."""
        if self.window not in {"hamming", "hann"}:
            raise FeatureError(f"mfcc: window is {self.window!r}; it must be 'hamming' or 'hann'")
        if self.deltas not in {0, 1, 2}:
            raise FeatureError(f"mfcc: deltas is {self.deltas}; it must be 0, 1 or 2")
        if not (1 <= self.n <= 128 and _samples(self.hop_ms) > 0 and _samples(self.window_ms) > 0):
            raise FeatureError("mfcc: n must be 1 to 128, window_ms and hop_ms at least one sample")

    @property
    def dim(self) -> int:
        """Number of coefficients, their differences included."""
        return self.n * (1 + self.deltas)

    def extract(self, inputs: Sequence[npt.NDArray[np.float32]] | Sequence[str]) -> list[npt.NDArray[np.generic]]:
        """Compute the coefficients, one waveform at a time: (samples,) at 16 kHz -> (T, n * (1 + deltas))."""
        from torchaudio.functional import compute_deltas

        transform, found = _mfcc(self), []
        for waveform in inputs:
            orders = [transform(torch.as_tensor(waveform))]  # (n, T)
            for _ in range(self.deltas):
                orders.append(compute_deltas(orders[-1]))
            found.append(torch.cat(orders).T.contiguous().numpy())
        return found


@cache
def _mfcc(feature: MFCC) -> Any:  # noqa: ANN401
    from torchaudio.transforms import MFCC as Transform

    window = _samples(feature.window_ms)
    return Transform(
        sample_rate=feature.sample_rate,
        n_mfcc=feature.n,
        melkwargs={
            "n_mels": feature.n,
            "n_fft": _fft_size(window),
            "win_length": window,
            "hop_length": _samples(feature.hop_ms),
            "window_fn": {"hamming": torch.hamming_window, "hann": torch.hann_window}[feature.window],
            "pad_mode": "constant",  # reflection needs more samples than a very short clip has
        },
    )


def _fft_size(window: int) -> int:
    return max(512, 1 << (window - 1).bit_length())


@dataclass(frozen=True)
class LogMel(_Spectral):
    """Log-mel spectrogram in dB, (T, n): Hann windows, 80 dB below the clip's loudest band at the most.

    Computed by librosa, as Makhmudov et al. 2024, section 3.1, name it; their sizes are not published.

    Args:
        n: Mel bands.
        window_ms: Window length in milliseconds.
        hop_ms: Stride in milliseconds.
    """

    name = "logmel"

    n: int = 64
    window_ms: float = 25.0
    hop_ms: float = 10.0

    def __post_init__(self) -> None:
        """Refuse sizes that make no spectrogram."""
        if not (1 <= self.n <= 256 and _samples(self.hop_ms) > 0 and _samples(self.window_ms) > 0):
            raise FeatureError("logmel: n must be 1 to 256, window_ms and hop_ms at least one sample")

    @property
    def dim(self) -> int:
        """Number of mel bands."""
        return self.n

    def extract(self, inputs: Sequence[npt.NDArray[np.float32]] | Sequence[str]) -> list[npt.NDArray[np.generic]]:
        """Compute the spectrogram, one waveform at a time: (samples,) at 16 kHz -> (T, n) in dB."""
        import librosa

        window = _samples(self.window_ms)
        return [
            librosa.power_to_db(
                librosa.feature.melspectrogram(
                    y=np.asarray(waveform),
                    sr=self.sample_rate,
                    n_fft=_fft_size(window),
                    win_length=window,
                    hop_length=_samples(self.hop_ms),
                    n_mels=self.n,
                )
            ).T
            for waveform in inputs
        ]


@dataclass(frozen=True)
class LogSpectrogram(_Spectral):
    """Natural logarithm of the power spectrum, (T, 1 + window / 2): Hann windows, as many FFT points, centred frames.

    The default is the input of the public code that Khan et al.'s ModifiedAlexNet comes from (40 ms, step 20 ms, floor 1e-10).

    Args:
        window_ms: Window length in milliseconds.
        hop_ms: Stride in milliseconds.
    """

    name = "log_spectrogram"

    window_ms: float = 40.0
    hop_ms: float = 20.0

    def __post_init__(self) -> None:
        """Refuse sizes that make no spectrogram."""
        if not (_samples(self.hop_ms) > 0 and _samples(self.window_ms) > 1):
            raise FeatureError("log_spectrogram: hop_ms must be at least one sample, window_ms at least two")

    @property
    def dim(self) -> int:
        """Number of frequencies, 0 Hz and half the sample rate included."""
        return 1 + _samples(self.window_ms) // 2

    def extract(self, inputs: Sequence[npt.NDArray[np.float32]] | Sequence[str]) -> list[npt.NDArray[np.generic]]:
        """Compute the spectrogram, one waveform at a time: (samples,) at 16 kHz -> (T, 1 + window / 2)."""
        import librosa

        window, hop = _samples(self.window_ms), _samples(self.hop_ms)
        spectra = (librosa.stft(np.asarray(w), n_fft=window, hop_length=hop, pad_mode="constant") for w in inputs)
        return [np.log(np.abs(spectrum) ** 2 + 1e-10).T for spectrum in spectra]
