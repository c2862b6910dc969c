"""Corruptions of the input, before any feature is computed: what a trained method meets outside the laboratory.

A corrupted clip is another content for the store, `Clip` with its `AudioCorruption`; a corrupted transcript is another string. Both
hang on the input's own content and a seed and on nothing else, so they are the same for every method, run and process. A
stronger degree of a corruption draws the same noise, room or wrong words as a weaker one, so that a curve over degrees has no
jitter of its own.
"""

import hashlib
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from datamodules.audio import AudioError, Clip, load_clip
from datamodules.emotion import Absent, Utterances, clips_of, without
from datamodules.features import Modality
from datamodules.store import FeatureStore, Input

VERSION = 1
"""Raised when a corruption of the same name and degree starts to give other samples or words."""

Samples = npt.NDArray[np.float32]


@dataclass(frozen=True)
class AudioCorruption(ABC):
    """What is done to a clip's samples once they are mono and at the feature's rate.

    Attributes:
        seed: Of whatever is drawn, together with the samples.
    """

    seed: int = field(default=0, kw_only=True)

    @abstractmethod
    def __call__(self, samples: Samples, sample_rate: int) -> Samples:
        """Corrupt: (samples,) at ``sample_rate`` Hz -> as many."""

    @property
    def identity(self) -> str:
        """Everything that decides the result, for the store's key."""
        return f"corruption@{VERSION} {self!r}"

    def _random(self, samples: Samples) -> np.random.Generator:
        digest = hashlib.blake2b(samples.tobytes(), digest_size=8, salt=str(self.seed).encode()[:16]).digest()
        return np.random.default_rng(int.from_bytes(digest))


@dataclass(frozen=True)
class WhiteNoise(AudioCorruption):
    """Gaussian white noise at a signal-to-noise ratio: mean power of the whole clip over mean power of the noise.

    Attributes:
        snr: In dB.
    """

    snr: float

    def __call__(self, samples: Samples, sample_rate: int) -> Samples:
        """Add noise; a silent clip stays silent."""
        return add_noise(samples, self._random(samples).standard_normal(len(samples), dtype=np.float32), self.snr)


@dataclass(frozen=True)
class Babble(AudioCorruption):
    """Other people talking, at a signal-to-noise ratio as of `WhiteNoise`.

    Attributes:
        snr: In dB.
        track: What is heard, as `babble_track` makes it: (samples,) at the clip's rate. Each clip gets a stretch of its own.
        digest: Of the track.
    """

    snr: float
    track: Samples = field(repr=False, compare=False)
    digest: str = field(init=False)

    def __post_init__(self) -> None:
        """Name the track by its content."""
        object.__setattr__(self, "digest", hashlib.blake2b(self.track.tobytes(), digest_size=8).hexdigest())

    def __call__(self, samples: Samples, sample_rate: int) -> Samples:
        """Add the babble; a silent clip stays silent."""
        start = int(self._random(samples).integers(len(self.track)))
        return add_noise(samples, self.track.take(np.arange(start, start + len(samples)), mode="wrap"), self.snr)


def add_noise(samples: Samples, noise: Samples, snr: float) -> Samples:
    """Add ``noise`` (samples,), scaled so that the ratio of mean powers is ``snr`` dB. The sum may exceed full scale."""
    import torch
    from torchaudio.functional import add_noise

    if not samples.any():  # silence has no signal-to-noise ratio
        return samples
    noisy: Samples = add_noise(torch.from_numpy(samples), torch.from_numpy(noise), torch.tensor(float(snr))).numpy()
    return noisy


def babble_track(clips: Sequence[Clip], sample_rate: int, seed: int = 0, seconds: float = 60.0, voices: int = 6) -> Samples:
    """Several voices that talk at once without a pause.

    Args:
        clips: What they say, such as the training split.
        sample_rate: In Hz.
        seed: Of the order of the clips, which differs from voice to voice; 200 of them at most are used.
        seconds: Length; what is said begins anew when it is over.
        voices: How many; each clip has the same mean power.

    Returns:
        (samples,).

    Raises:
        AudioError: If all clips are silent.
    """
    random = np.random.default_rng(seed)
    loaded = [load_clip(clips[position], sample_rate) for position in random.permutation(len(clips))[:200]]
    spoken = [samples / np.sqrt(np.mean(samples**2)) for samples in loaded if samples.any()]
    if not spoken:
        raise AudioError("the training split has no audible clip to make babble of", "leave babble out")
    size = round(seconds * sample_rate)
    track = np.zeros(size, np.float32)
    for _ in range(voices):
        speech = np.concatenate([spoken[position] for position in random.permutation(len(spoken))])
        track += np.resize(np.roll(speech, random.integers(len(speech))), size)
    return track


@dataclass(frozen=True)
class Reverberation(AudioCorruption):
    """A room whose response is Gaussian noise that decays exponentially (Polack, thesis, Université du Maine, 1988).

    Every clip has a room of its own. Direct sound and reverberation carry the same energy; the clip keeps its mean power, as
    loudness is a cue, and its length.

    Attributes:
        rt60: Reverberation time: seconds until the response has fallen by 60 dB.
    """

    rt60: float

    def response(self, sample_rate: int, random: np.random.Generator) -> Samples:
        """A room's impulse response: (rt60 * rate,); the direct sound, 1, comes first."""
        size = max(2, round(self.rt60 * sample_rate))
        tail = random.standard_normal(size) * 10 ** (-3 * np.arange(size) / (self.rt60 * sample_rate))
        tail[0] = 0
        tail /= np.sqrt(np.sum(tail**2))
        tail[0] = 1
        return tail.astype(np.float32)

    def __call__(self, samples: Samples, sample_rate: int) -> Samples:
        """Convolve with the response."""
        from scipy.signal import fftconvolve

        if not samples.any():
            return samples
        heard: Samples = fftconvolve(samples, self.response(sample_rate, self._random(samples)))[: len(samples)]
        louder: Samples = (heard * np.sqrt(np.mean(samples**2) / np.mean(heard**2))).astype(np.float32)
        return louder


@dataclass(frozen=True)
class Clipping(AudioCorruption):
    """An overdriven microphone: samples beyond a share of the clip's peak are cut there.

    Attributes:
        share: Of the peak, 0 to 1.
    """

    share: float

    def __call__(self, samples: Samples, sample_rate: int) -> Samples:
        """Clip."""
        limit = self.share * np.abs(samples).max()
        return np.clip(samples, -limit, limit)


@dataclass(frozen=True)
class BandLimit(AudioCorruption):
    """A telephone line: a Butterworth band-pass filter of order 8, 24 dB per octave on either side.

    Attributes:
        low: Lower -3 dB edge in Hz.
        high: Upper edge, below half the sampling rate.
    """

    low: float = 300.0
    high: float = 3400.0

    def __call__(self, samples: Samples, sample_rate: int) -> Samples:
        """Filter."""
        from scipy.signal import butter, sosfilt

        sections = butter(4, [self.low, self.high], "bandpass", fs=sample_rate, output="sos")
        filtered: Samples = sosfilt(sections, samples).astype(np.float32)
        return filtered


ERRORS = {"substitution": 0.6, "deletion": 0.3, "insertion": 0.1}
"""Shares of the kinds of error: a round figure for conversational speech, where recognisers substitute most and insert least."""


class WordErrors:
    """Recognition errors in a transcript, at a word error rate.

    Words are what whitespace separates. Wrong words come from the training transcripts, as often as they stand there. An
    insertion beside a deletion counts as one error where two were made, so the rate as it is measured is a little lower.
    """

    def __init__(self, vocabulary: Counter[str], seed: int = 0) -> None:
        """Name the words with their counts, and the seed."""
        self.words = sorted(vocabulary)
        counts = np.array([vocabulary[word] for word in self.words], float)
        self.frequencies = counts / counts.sum()
        self.seed = seed

    def __call__(self, text: str, rate: float) -> str | None:
        """Corrupt a transcript; None where no word is left, since a recogniser that hears nothing gives no transcript."""
        words = text.split()
        digest = hashlib.blake2b(f"{self.seed} {text}".encode(), digest_size=8).digest()
        random = np.random.default_rng(int.from_bytes(digest))
        order = random.permutation(len(words))
        kinds = random.choice(list(ERRORS), len(words), p=list(ERRORS.values()))
        drawn = random.choice(len(self.words), len(words), p=self.frequencies)
        wrong = set(order[: int(rate * len(words) + random.random())].tolist())  # rounded up or down, right on average
        heard = []
        for position, word in enumerate(words):
            new = self.words[drawn[position]]
            if position not in wrong:
                heard.append(word)
            elif kinds[position] == "insertion":
                heard += [new, word]
            elif kinds[position] == "substitution":
                heard.append(new if new != word else self.words[(drawn[position] + 1) % len(self.words)])
        return " ".join(heard) or None


class Corruption(NamedTuple):
    """A kind of corruption and its degrees.

    Attributes:
        title: For tables and figures.
        modality: What it corrupts.
        axis: What a degree is, with its unit.
        degrees: From mild to severe.
        clean: Where the clean input stands among the degrees; None where it is infinitely far.
    """

    title: str
    modality: Modality
    axis: str
    degrees: tuple[float, ...]
    clean: float | None = None


CORRUPTIONS = {
    "white_noise": Corruption("White noise", "audio", "signal-to-noise ratio (dB)", (20, 10, 5, 0)),
    "babble": Corruption("Babble", "audio", "signal-to-noise ratio (dB)", (20, 10, 5, 0)),
    "reverberation": Corruption("Reverberation", "audio", "reverberation time RT60 (s)", (0.3, 0.6, 1.0), 0.0),
    "clipping": Corruption("Clipping", "audio", "clipping level (share of the peak)", (0.5, 0.25, 0.1), 1.0),
    "telephone": Corruption("Telephone band", "audio", "300 to 3400 Hz", (1,), 0.0),
    "word_errors": Corruption("Word errors", "text", "word error rate", (0.1, 0.2, 0.4), 0.0),
    "no_audio": Corruption("No audio at test", "audio", "share of test utterances without audio", (0.1, 0.5, 1.0), 0.0),
    "no_text": Corruption("No text at test", "text", "share of test utterances without text", (0.1, 0.5, 1.0), 0.0),
}
"""What `fusion-zoo robustness` does to the test split."""


class Corrupter:
    """Corrupted copies of one fold's test split. The training split only lends its words and its voices."""

    def __init__(
        self,
        utterances: Utterances,
        train: Sequence[str],
        test: Sequence[Sequence[str]],
        max_seconds: float,
        store: FeatureStore | None = None,
        seed: int = 0,
    ) -> None:
        """Name the data.

        Args:
            utterances: The corpus with its clean features.
            train: Ids of the training split.
            test: Ids of the test split; and, apart, of its context, if it is read.
            max_seconds: Longer clips are cut, as they were for the clean features.
            store: Where features are kept; None for the default folder.
            seed: Of whatever is drawn.
        """
        positions = pd.Series(utterances.table.index, index=utterances.table["utterance_id"])
        self.utterances, self.store, self.seed = utterances, store or FeatureStore(), seed
        self.train = positions.loc[list(train)].tolist()
        self.test = [positions.loc[list(part)].tolist() for part in test]
        self.clips = clips_of(utterances.table, max_seconds)[0]

    def __call__(self, name: str, degree: float) -> Utterances:
        """The utterances with the test split corrupted.

        Only the test split is there: the arrays of everything else are absent.

        Args:
            name: One of `CORRUPTIONS`.
            degree: One of its degrees.

        Raises:
            AudioError: If babble is asked for and the training split is silent.
        """
        if name in ("no_audio", "no_text"):
            absent, changed = Absent(**{CORRUPTIONS[name].modality: degree}), self.utterances
            for part in self.test:
                changed = without(changed, part, absent, self.seed)
            return changed
        if CORRUPTIONS[name].modality == "text":
            texts = self._transcripts()
            said = {p: self._errors(text, degree) for part in self.test for p in part if (text := texts[p]) is not None}
            return replace(self.utterances, text=self.store.get(self.utterances.text.feature, self._only(said)))
        corruption = self._audio(name, degree)
        heard = {p: clip._replace(corruption=corruption) for part in self.test for p in part if (clip := self.clips[p]) is not None}
        return replace(self.utterances, audio=self.store.get(self.utterances.audio.feature, self._only(heard)))

    def _only(self, inputs: "dict[int, Clip] | dict[int, str | None]") -> list[Input | None]:
        return [inputs.get(position) for position in range(len(self.utterances.table))]

    def _audio(self, name: str, degree: float) -> AudioCorruption:
        if name == "white_noise":
            return WhiteNoise(degree, seed=self.seed)
        if name == "babble":
            return Babble(degree, self._track, seed=self.seed)
        if name == "reverberation":
            return Reverberation(degree, seed=self.seed)
        return Clipping(degree) if name == "clipping" else BandLimit()

    @cached_property
    def _track(self) -> Samples:
        clips = [clip for position in self.train if (clip := self.clips[position]) is not None]
        return babble_track(clips, self.utterances.audio.feature.sample_rate, self.seed)

    def _transcripts(self) -> list[str | None]:
        return [None if pd.isna(text) else str(text) for text in self.utterances.table["text"]]

    @cached_property
    def _errors(self) -> WordErrors:
        texts = self._transcripts()
        return WordErrors(Counter(word for p in self.train for word in (texts[p] or "").split()), self.seed)
