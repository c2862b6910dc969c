"""Words as such: TF-IDF, and ids for word embeddings that a method learns.

Both need a vocabulary, which is fitted on the training split of each fold. The store holds what no fold decides, hashes of the
words; the data module calls `fit` with those of the training split, and what is not in its vocabulary is unknown everywhere.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from datamodules.features import Feature, FeatureError, Modality, Transform

NOTHING = -1
"""Stands for a word in a text without any, which the store couldn't tell from no text; no hash is negative."""

BUCKETS = 2**31 - 1
"""Of the hash: among 10,000 words two share one with a probability of 2 %; of 100,000 n-grams two or three pairs do."""


class _Words(Feature):
    @property
    def modality(self) -> Modality:
        """Reads transcripts."""
        return "text"


class TfidfWeights(NamedTuple):
    """A vocabulary with its weights.

    Attributes:
        terms: Hashes of the terms, ascending, (V,).
        idf: Their inverse document frequencies, (V,).
        width: Width of the vectors; the columns from V on are zero.
    """

    terms: npt.NDArray[np.integer]
    idf: npt.NDArray[np.float64]
    width: int

    def apply(self, frames: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
        """Hashes with their counts, (n, 2) -> (1, width) of length 1, or 0 without a known term."""
        vector = np.zeros((min(len(frames), 1), self.width), np.float32)
        place, known = _look_up(self.terms, frames[:, 0])
        if known.any():
            values = frames[known, 1].astype(np.float64) * self.idf[place[known]]
            vector[0, place[known]] = values / np.linalg.norm(values)
        return vector


@dataclass(frozen=True)
class Tfidf(_Words):
    """Term frequency times inverse document frequency, (1, max_features), fitted on the training split.

    As of scikit-learn's `TfidfVectorizer` with its defaults: words in lower case of two characters or more, n-grams of them, counts
    times ``ln((1 + n) / (1 + df)) + 1``, vectors of length 1. Columns are in no order, and zero where the training split has
    fewer terms than columns.

    Args:
        max_features: Columns: the terms that are most frequent in the training split.
        ngrams: Longest n-gram; 1 for single words.
        min_df: Training texts that a term must occur in.
    """

    name = "tfidf"
    dtype = "int32"
    chunk = 1024

    max_features: int = 5000
    ngrams: int = 2
    min_df: int = 2

    def __post_init__(self) -> None:
        """Refuse sizes below one."""
        if min(self.max_features, self.ngrams, self.min_df) < 1:
            raise FeatureError(
                f"tfidf: max_features is {self.max_features}, ngrams {self.ngrams} and min_df {self.min_df}; all must be at least 1"
            )

    @property
    def dim(self) -> int:
        """A term's hash and its count."""
        return 2

    @property
    def width(self) -> int:
        """One column per term."""
        return self.max_features

    @property
    def stored(self) -> Feature:
        """The counts, whatever becomes of them."""
        return replace(self, max_features=Tfidf.max_features, min_df=Tfidf.min_df)

    def extract(self, inputs: Sequence[npt.NDArray[np.float32]] | Sequence[str]) -> list[npt.NDArray[np.generic]]:
        """Count: transcripts -> (n, 2), hashes of the terms and how often each occurs."""
        counts = _vectoriser(self.ngrams).transform(list(inputs))
        rows = (counts[number] for number in range(counts.shape[0]))
        return [_or_nothing(np.stack([row.indices, row.data], axis=1).astype(np.int32)) for row in rows]

    def fit(self, train: Iterable[npt.NDArray[np.generic]]) -> Transform:
        """Choose the terms and weigh them.

        Raises:
            FeatureError: If there is text, but no term occurs in ``min_df`` texts of it.
        """
        texts = [array for array in train if len(array)]
        counts = np.concatenate([np.zeros((0, 2), np.int32), *texts])
        terms, inverse, texts_with = np.unique(counts[:, 0], return_inverse=True, return_counts=True)  # a text names a term once
        kept = _most_frequent(terms, texts_with >= self.min_df, np.bincount(inverse, counts[:, 1]), self.max_features)
        if texts and not len(kept):
            raise FeatureError(f"{self}: no term occurs in {self.min_df} of the {len(texts)} training texts; lower min_df")
        return TfidfWeights(terms[kept], np.log((1 + len(texts)) / (1 + texts_with[kept])) + 1, self.max_features)


class Vocabulary(NamedTuple):
    """Known words.

    Attributes:
        words: Their hashes, ascending, (V,).
    """

    words: npt.NDArray[np.integer]

    def apply(self, frames: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
        """Hashes (L, 1) -> ids (L, 1), int64: 1 to V, and 0 for unknown words."""
        place, known = _look_up(self.words, frames[:, 0])
        return np.where(known, place + 1, 0)[:, None].astype(np.int64)


@dataclass(frozen=True)
class WordIds(_Words):
    """Ids of words in lower case, (L, 1), 0 for unknown ones: for word embeddings that a method learns from nothing.

    The vocabulary is that of the training split. Words that occur in only one training text are unknown too, so that the
    embedding of the unknown is trained.

    Args:
        size: Rows of the embedding: the unknown, and the ``size - 1`` most frequent words.
        min_df: Training texts that a word must occur in; with 1 the training split knows all its words, and the unknown's
            embedding stays as it began.
    """

    name = "word_ids"
    dtype = "int64"
    chunk = 1024
    ids = True

    size: int = 3000
    min_df: int = 2

    def __post_init__(self) -> None:
        """Refuse a vocabulary without words."""
        if self.size < 2 or self.min_df < 1:
            raise FeatureError(f"word_ids: size is {self.size} and min_df {self.min_df}; they must be at least 2 and 1")

    @property
    def dim(self) -> int:
        """One id per word."""
        return 1

    @property
    def stored(self) -> Feature:
        """The words, whatever the vocabulary."""
        return replace(self, size=WordIds.size, min_df=WordIds.min_df)

    def extract(self, inputs: Sequence[npt.NDArray[np.float32]] | Sequence[str]) -> list[npt.NDArray[np.generic]]:
        """Hash: transcripts -> (L, 1)."""
        from sklearn.utils import murmurhash3_32

        words = _vectoriser(1, r"(?u)\b\w+\b").build_analyzer()
        hashes = ([murmurhash3_32(word, positive=True) for word in words(text)] for text in inputs)
        return [_or_nothing(np.array(found, np.int64).reshape(-1, 1)) for found in hashes]

    def fit(self, train: Iterable[npt.NDArray[np.generic]]) -> Transform:
        """Choose the words."""
        texts = [array[:, 0] for array in train if len(array)]
        nothing = np.zeros(0, np.int64)
        words, frequency = np.unique(np.concatenate([nothing, *texts]), return_counts=True)
        _, texts_with = np.unique(np.concatenate([nothing, *map(np.unique, texts)]), return_counts=True)
        return Vocabulary(words[_most_frequent(words, texts_with >= self.min_df, frequency, self.size - 1)])


@cache
def _vectoriser(ngrams: int, pattern: str = r"(?u)\b\w\w+\b") -> Any:  # noqa: ANN401
    from sklearn.feature_extraction.text import HashingVectorizer

    return HashingVectorizer(ngram_range=(1, ngrams), token_pattern=pattern, n_features=BUCKETS, alternate_sign=False, norm=None)


def _or_nothing(words: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
    if len(words):
        return words
    return np.array([[NOTHING, 0][: words.shape[1]]], words.dtype)


def _most_frequent(
    hashes: npt.NDArray[np.integer], allowed: npt.NDArray[np.bool_], frequency: npt.NDArray[Any], most: int
) -> npt.NDArray[np.intp]:
    """Positions, ascending, of the ``most`` most frequent of the allowed hashes; of equally frequent ones the smaller hashes."""
    found = np.flatnonzero(allowed & (hashes != NOTHING))
    chosen: npt.NDArray[np.intp] = np.sort(found[np.argsort(-frequency[found], kind="stable")[:most]])
    return chosen


def _look_up(
    hashes: npt.NDArray[np.integer], wanted: npt.NDArray[np.generic]
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.bool_]]:
    """Where each wanted hash stands among ``hashes``, which ascend, and whether it does at all."""
    place = np.searchsorted(hashes, wanted)
    known = place < len(hashes)
    known[known] = hashes[place[known]] == wanted[known]
    return place, known
