"""Acoustic fingerprints: clips that are the same recording although their files differ.

A copy that was amplified, resampled, recoded, trimmed or padded has other bytes and nearly the same fingerprint. The fingerprint
is that of Haitsma and Kalker, "A Highly Robust Audio Fingerprinting System", ISMIR 2002, section 4: 32 bits per frame, each the
sign of the difference of energy between neighbouring bands and neighbouring frames. Two clips are compared by the part of the
bits that differ. Two differences from the paper fit it to utterances: frames of 0.256 s instead of 0.37 s, since clips are
short, and frames without sound are marked, since the bits of silence are those of its noise.

The same sentence said again by the same speaker is not a copy, and its bits differ like those of any other clip: on EmoDB at
least 39 % of them, against at most 11 % for MP3 at 32 kbit/s.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
import scipy.fft
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from datamodules.features import Feature, Modality
from datamodules.store import Arrays

Words = npt.NDArray[np.uint32]
"""A fingerprint: one word of 32 bits per frame, 0 for a frame without sound, (T,)."""

RATE = 5000  # Hz, as in the paper
WINDOW, HOP = 1280, 50  # samples: 0.256 s and 0.01 s
EDGES = np.round(np.geomspace(300, 2000, 34) * WINDOW / RATE).astype(int)
"""First bins of 33 bands from 300 to 2,000 Hz, logarithmically spaced, and the end of the last."""

SILENT = 1e-4
"""A frame whose energy is below this part of the loudest frame's (-40 dB) has no sound."""

MOST_ERRORS = 0.2
"""Part of the bits that may differ between copies. Haitsma and Kalker take 0.35 for 256 frames; short clips have fewer, and a
synthetic voice that says two sentences of the same beginning comes down to 0.26."""

LEAST_FRAMES = 30
"""Frames with sound that two clips must have in common to be compared, 0.3 s."""

LEAST_OVERLAP = 0.75
"""Part of the shorter clip's frames with sound that must lie within the other one."""

NEIGHBOURS = 8
"""With how many of the following clips that hold the same word a clip is compared."""

LEAST_VOTES = 2
"""Equal words at one offset that make two clips worth comparing."""

_BLOCK = 256  # frames transformed at a time: a clip of minutes must not fill the memory


@dataclass(frozen=True)
class Fingerprint(Feature):
    """The fingerprint as the store keeps it; nothing that a method could read, so it isn't among `features`."""

    name: ClassVar[str] = "fingerprint"
    dtype: ClassVar[str] = "uint32"
    sample_rate: ClassVar[int] = RATE

    @property
    def modality(self) -> Modality:
        """Audio."""
        return "audio"

    @property
    def dim(self) -> int:
        """One word per frame."""
        return 1

    def extract(self, inputs: Sequence[npt.NDArray[np.float32]] | Sequence[str]) -> list[npt.NDArray[np.generic]]:
        """The fingerprint of every waveform: (T, 1) each."""
        return [fingerprint(samples)[:, None] for samples in inputs if not isinstance(samples, str)]


def fingerprint(samples: npt.NDArray[np.float32]) -> Words:
    """The fingerprint of a waveform, from its first frame with sound to its last.

    Args:
        samples: (samples,) at `RATE`.

    Returns:
        One word per 0.01 s, (T,); a single 0 where there is no sound.
    """
    peak = np.abs(samples).max(initial=0.0)
    if not peak:
        return np.zeros(1, np.uint32)
    padded = np.pad(samples / peak, (WINDOW // 2, WINDOW // 2 + HOP))
    frames = np.lib.stride_tricks.sliding_window_view(padded, WINDOW)[::HOP]  # (T + 1, WINDOW), a view
    hann = np.hanning(WINDOW).astype(np.float32)
    energies = np.empty((len(frames), len(EDGES) - 1), np.float32)
    for start in range(0, len(frames), _BLOCK):
        block = slice(start, start + _BLOCK)
        spectrum = scipy.fft.rfft(frames[block] * hann, axis=1)[:, : EDGES[-1]]
        energies[block] = np.add.reduceat(spectrum.real**2 + spectrum.imag**2, EDGES[:-1], axis=1)
    bits = np.diff(energies[:, :-1] - energies[:, 1:], axis=0) > 0  # (T, 32)
    words = np.packbits(bits, axis=1).view(">u4")[:, 0].astype(np.uint32)  # (T,)
    total = energies[1:].sum(axis=1)
    words[total <= SILENT * total.max()] = 0
    return np.trim_zeros(words) if words.any() else words[:1]


def bit_error_rate(one: Words, other: Words, offset: int) -> float:
    """Part of the bits that differ, 0 to 1, where frame ``i + offset`` of ``one`` lies on frame ``i`` of ``other``.

    Frames without sound in both don't count. 1 if the rest is shorter than `LEAST_FRAMES`, or than `LEAST_OVERLAP` of the
    shorter clip's frames with sound.
    """
    length = min(np.count_nonzero(one), np.count_nonzero(other))
    one, other = one[max(offset, 0) :], other[max(-offset, 0) :]
    frames = min(len(one), len(other))
    one, other = one[:frames], other[:frames]
    counting = np.count_nonzero(one | other)
    if counting < max(LEAST_FRAMES, LEAST_OVERLAP * length):
        return 1.0
    return float(np.bitwise_count(one ^ other).sum(dtype=np.int64) / (32 * counting))


class Pair(NamedTuple):
    """Two clips that are the same recording: their positions, ascending, and the part of the bits that differ."""

    one: int
    other: int
    errors: float


def find_pairs(fingerprints: Sequence[Words]) -> list[Pair]:
    """Pairs of clips that are the same recording, or of which one lies within the other.

    Only clips that share words at one offset are compared, and each with few others that hold the same word, so time grows
    with the number of frames rather than of pairs. Of more than `NEIGHBOURS` copies of one recording not every pair is found,
    but each copy with some others: see `near_duplicates`.

    Args:
        fingerprints: (T_i,) each.

    Returns:
        Each pair once, sorted.
    """
    found: dict[tuple[int, int], float] = {}
    for one, other, offset in _candidates(fingerprints):
        # Copies are seldom shifted by a whole number of frames, so the best offset may be the next one.
        errors = min(bit_error_rate(fingerprints[one], fingerprints[other], offset + step) for step in (-1, 0, 1))
        if errors < min(MOST_ERRORS, found.get((one, other), 1.0)):
            found[one, other] = errors
    return [Pair(*pair, errors) for pair, errors in sorted(found.items())]


def _candidates(fingerprints: Sequence[Words]) -> Iterator[tuple[int, int, int]]:
    """Pairs of clips with the offsets at which they have `LEAST_VOTES` words in common."""
    if len(fingerprints) < 2:
        return
    lengths = np.array([len(words) for words in fingerprints])
    # Three numbers have to fit into one integer: two clips and the offset, which may be negative.
    clip_bits, offset_bits = (len(fingerprints) - 1).bit_length(), int(lengths.max()).bit_length() + 1
    if 2 * clip_bits + offset_bits > 63 or lengths.sum() >= 1 << 32:
        raise ValueError(f"{len(fingerprints)} clips of up to {lengths.max()} frames are too many to be compared")
    half = 1 << offset_bits - 1
    # A corpus may have tens of millions of frames: one array is sorted in place, and what is taken from it is narrow.
    keys = np.concatenate(list(fingerprints), dtype=np.uint64)
    keys <<= 32
    keys |= np.arange(len(keys), dtype=np.uint64)
    keys.sort()  # by word, then clip, then frame
    keys = keys[np.searchsorted(keys, np.uint64(1 << 32)) :]  # silence stands first
    places, words = keys.astype(np.uint32), (keys >> 32).astype(np.uint32)
    del keys
    clips = np.repeat(np.arange(len(fingerprints), dtype=np.int32), lengths)[places]
    first = np.ones(len(words), bool)  # of the same words within a clip the first one stands for all
    first[1:] = (words[1:] != words[:-1]) | (clips[1:] != clips[:-1])
    places, words, clips = places[first], words[first], clips[first]
    frames = places - (np.cumsum(lengths) - lengths).astype(np.uint32)[clips]
    del places, first
    packed = []
    for lag in range(1, NEIGHBOURS + 1):
        same = np.flatnonzero(words[lag:] == words[:-lag])
        one, other = clips[same].astype(np.int64), clips[same + lag]
        offset = frames[same].astype(np.int64) - frames[same + lag] + half
        packed.append((one << clip_bits | other) << offset_bits | offset)
    votes = np.concatenate(packed)
    del packed, words, clips, frames
    votes.sort()
    # Votes for the next offset of the same pair count too.
    enough = votes[LEAST_VOTES - 1 :] - votes[: 1 - LEAST_VOTES] <= 1
    for vote in np.unique(votes[: 1 - LEAST_VOTES][enough]).tolist():
        pair = vote >> offset_bits
        yield pair >> clip_bits, pair & (1 << clip_bits) - 1, (vote & (1 << offset_bits) - 1) - half


@lru_cache(maxsize=4)  # every pair of features that a suite's methods read asks for the copies of the same corpus
def find_copies(fingerprints: Arrays) -> tuple[Pair, ...]:
    """Pairs of utterances whose audio is the same recording with other content; see `find_pairs`.

    Args:
        fingerprints: Of every utterance's audio, (n,).

    Returns:
        Positions among the utterances; of those with identical audio the first stands for all.
    """
    _, first = np.unique(fingerprints.keys, return_index=True)
    first.sort()
    pairs = find_pairs([fingerprints[position][:, 0].astype(np.uint32, copy=False) for position in first.tolist()])
    return tuple(Pair(int(first[one]), int(first[other]), errors) for one, other, errors in pairs)


def near_duplicates(ids: "pd.Series[str]", fingerprints: Arrays, copies: Sequence[Pair]) -> "pd.Series[str]":
    """Which recording every utterance is a copy of.

    Args:
        ids: Utterance ids, (n,).
        fingerprints: Of the utterances' audio, (n,).
        copies: As of `find_copies`.

    Returns:
        The id of the first utterance among the copies; null for an utterance whose audio is like no other's, but for those of
        identical content. Indexed like ``ids``.
    """
    contents, names = pd.factorize(fingerprints.keys)
    one = contents[np.array([pair.one for pair in copies], int)]
    other = contents[np.array([pair.other for pair in copies], int)]
    graph = coo_array((np.ones(len(one)), (one, other)), shape=(len(names), len(names)))
    _, groups = connected_components(graph, directed=False)
    copied = np.isin(groups, groups[one])[contents]
    return ids.groupby(groups[contents]).transform("first").where(copied)
