"""The leak guard: what two splits of a fold have in common, counted before anything is trained.

A protocol says what its splits may share; anything else stops the run, and what is shared with leave is counted in the plan's
caveats. Audio counts as shared where its content is identical, and by `fingerprint` where it is the same recording amplified,
resampled, recoded, trimmed or padded.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from datamodules.splits import Fold

Pair = tuple[str, str]
ALL_PAIRS: frozenset[Pair] = frozenset(combinations(("train", "val", "test"), 2))
NO_TEST: frozenset[Pair] = frozenset({("train", "val")})
"""Sharing between training and validation alone, which leaves the test honest."""

COLUMNS = {
    "utterances": "utterance_id",
    "dialogues": "dialogue",
    "speakers": "speaker",
    "sentences": "sentence, or text",
    "scripts": "script",
    "clips": "audio",
    "near-duplicate clips": "audio",
}
"""What is counted, and the column of the table that tells."""


class Splits(NamedTuple):
    """Utterance ids of three splits, any of which may be empty, which a `Fold` may not be."""

    number: int
    train: tuple[str, ...]
    val: tuple[str, ...]
    test: tuple[str, ...]


@dataclass(frozen=True)
class Leak:
    """What two splits of a fold share.

    Attributes:
        fold: Number of the fold.
        kind: A key of `COLUMNS`.
        pair: The two splits.
        values: What is in both, sorted.
        share: Part of the second split's utterances, 0 to 1, that have one of the values.
        examples: Ids of a few of those utterances.
    """

    fold: int
    kind: str
    pair: Pair
    values: tuple[str, ...]
    share: float
    examples: tuple[str, ...]


def normalise(text: str) -> str:
    """A transcript's words alone, so that spelling, case and punctuation don't hide that two are the same."""
    return " ".join(re.findall(r"\w+", text.casefold().replace("'", "").replace("’", "")))


def find_leaks(table: pd.DataFrame, folds: Sequence[Fold | Splits], audio: npt.NDArray[np.bytes_] | None = None) -> list[Leak]:
    """Everything that splits share.

    Args:
        table: As of `Corpus.table`; near-duplicate clips are those of a column ``near_duplicate``, see `near_duplicates`.
        folds: Whose splits to compare.
        audio: Content key of every row's audio, empty for none, (len(table),), as `Arrays.keys`; None: audio isn't compared.

    Returns:
        One entry per fold, kind and pair of splits that share anything.
    """
    codes = {kind: pd.factorize(values) for kind, values in _facts(table, audio).items()}
    rows = pd.Index(table["utterance_id"])
    leaks = []
    for fold in folds:
        places = {name: rows.get_indexer(list(getattr(fold, name))) for name in ("train", "val", "test")}
        for kind, (numbers, names) in codes.items():
            for one, other in sorted(ALL_PAIRS):
                first, second = numbers[places[one]], numbers[places[other]]
                shared = np.intersect1d(first[first >= 0], second)
                if len(shared):
                    values = tuple(sorted(map(str, names[shared])))
                    concerned = np.isin(second, shared)
                    examples = tuple(map(str, rows[places[other][concerned][:5]]))
                    leaks.append(Leak(fold.number, kind, (one, other), values, float(concerned.mean()), examples))
    return leaks


def _facts(table: pd.DataFrame, audio: npt.NDArray[np.bytes_] | None) -> dict[str, pd.Series]:
    """The values to compare, null where unknown, by kind."""
    facts = {kind: table[column] for kind, column in COLUMNS.items() if kind in {"utterances", "dialogues", "speakers"}}
    if "script" in table.columns:
        facts["scripts"] = table["script"]
    sentences = (
        table["text"].map(normalise, na_action="ignore") if "text" in table.columns else pd.Series(None, table.index, object)
    )
    if "sentence" in table.columns:
        sentences = table["sentence"].where(table["sentence"].notna(), sentences)
    facts["sentences"] = sentences.mask(sentences == "")
    if audio is not None:
        keys = pd.Series([key.hex() for key in audio.tolist()], table.index, dtype=object)
        facts["clips"] = keys.mask(keys == "")
    if "near_duplicate" in table.columns:
        facts["near-duplicate clips"] = table["near_duplicate"]
    return facts
