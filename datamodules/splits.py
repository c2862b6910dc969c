"""Folds, and the ways to make them that protocols choose from.

A way is a function from the utterances that count to folds, and what a reader must know about them. It depends on nothing but
the table: no seed, no global state. Utterances that a way leaves out of a fold are counted by `protocols.apply_protocol`.
"""

import hashlib
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from sklearn.model_selection import StratifiedGroupKFold

FOLDS = 5
MOST_SPLITS = 3  # train, val and test


class ProtocolError(ValueError):
    """A corpus that a protocol can't split honestly; the message says what would allow it."""


@dataclass(frozen=True)
class Fold:
    """Utterance ids of the three splits; disjoint and none empty, or the constructor refuses.

    Attributes:
        number: Position among the protocol's folds, from 0.
        train: What the weights, the normalisation and anything else is fitted on.
        val: What the epoch is selected on.
        test: What is scored, once.
        context: Utterances that nothing is trained or scored on because their label doesn't count, but which belong to a
            dialogue of one split and stay in it as turns; read by methods with ``unit = "dialogue"`` only.
    """

    number: int
    train: tuple[str, ...]
    val: tuple[str, ...]
    test: tuple[str, ...]
    context: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Check what the class promises."""
        for name, other in combinations(("train", "val", "test", "context"), 2):
            shared = set(getattr(self, name)) & set(getattr(self, other))
            if shared:
                raise ProtocolError(
                    f"fold {self.number}: {sorted(shared)[0]!r} and {len(shared) - 1} more are in {name} and in {other}"
                )
        for name in ("train", "val", "test"):
            if not getattr(self, name):
                raise ProtocolError(f"fold {self.number} has no {name} utterances")


Made = tuple[list[Fold], list[str]]
"""Folds and caveats."""

Way = Callable[[pd.DataFrame], Made]
"""What makes folds of the utterances that count."""


def _fold(number: int, table: pd.DataFrame, part: "pd.Series[str]") -> Fold:
    """The fold in which ``part`` (len(table),) names every utterance's split; other words leave it out."""
    ids = {name: tuple(table.loc[part == name, "utterance_id"]) for name in ("train", "val", "test")}
    return Fold(number, ids["train"], ids["val"], ids["test"])


def _cyclic(values: pd.Series, groups: Sequence[set[Hashable]], test: int) -> "pd.Series[str]":
    """``test`` for the values of one group, ``val`` for those of the next one cyclically, ``train`` for the rest."""
    part = pd.Series("train", values.index).mask(values.isna(), "unknown")
    val = (test + 1) % len(groups)
    return part.mask(values.isin(list(groups[test])), "test").mask(values.isin(list(groups[val])), "val")


def _dealt(values: pd.Series, parts: int, what: str) -> list[set[Hashable]]:
    """The distinct values, sorted and dealt round like cards."""
    names = sorted(values.dropna().unique())
    if len(names) < MOST_SPLITS:
        raise ProtocolError(f"{len(names)} {what} can't be divided among train, val and test")
    parts = min(parts, len(names))
    return [set(names[number::parts]) for number in range(parts)]


def leave_one_session_out(table: pd.DataFrame) -> Made:
    """One fold per session, in their order: it is tested, the next one cyclically validates, the others train."""
    sessions = _dealt(table["session"], len(table), "sessions")
    return [_fold(number, table, _cyclic(table["session"], sessions, number)) for number in range(len(sessions))], []


def hold_out_sessions(val: str, test: str) -> Way:
    """One fold: one session is tested, one validates, the others train."""

    def make(table: pd.DataFrame) -> Made:
        part = pd.Series("train", table.index).mask(table["session"] == val, "val").mask(table["session"] == test, "test")
        return [_fold(0, table, part.mask(table["session"].isna(), "unknown"))], []

    return make


def hold_out_session_and_dialogues(test: str, each: int) -> Way:
    """One fold: one session is tested; of every other one ``each`` dialogues validate, those whose names' digests are least."""

    def digest(dialogue: str) -> str:
        return hashlib.blake2b(dialogue.encode()).hexdigest()

    def make(table: pd.DataFrame) -> Made:
        val: set[str] = set()
        for session, group in table.groupby("session"):
            if session != test:
                val |= set(sorted(group["dialogue"].dropna().unique(), key=digest)[:each])
        part = pd.Series("train", table.index).mask(table["dialogue"].isin(val), "val").mask(table["session"] == test, "test")
        return [_fold(0, table, part.mask(table["session"].isna(), "unknown"))], []

    return make


def random_utterances(test: float, val: float, per_class: bool) -> Way:
    """One fold of utterances at random, whoever speaks them; ``test`` and ``val`` are parts of the whole, or of every class."""

    def make(table: pd.DataFrame) -> Made:
        part = pd.Series("train", table.index)
        random = np.random.default_rng(0)
        ordered = table.sort_values("utterance_id")
        for _, group in ordered.groupby("label") if per_class else [("", ordered)]:
            rows = group.index[random.permutation(len(group))]
            tested, validates = round(len(rows) * test), round(len(rows) * val)
            part[rows[:tested]] = "test"
            part[rows[tested : tested + validates]] = "val"
        return [_fold(0, table, part)], []

    return make


def leave_one_session_and_its_plays_out(table: pd.DataFrame) -> Made:
    """As `leave_one_session_out`, but nobody trains on a play that is tested.

    The scripts are scenes of a few plays (``script01_1`` and ``script01_2`` are of play ``script01``), performed in every session.
    Fold k tests its session's improvisations and its performances of play k (cyclically); it trains on the improvisations and the
    other plays of the training sessions. Validation is improvised only: whatever play it had would be one that is trained on
    or tested.
    """
    folds, _ = leave_one_session_out(table)
    play = table["script"].str.split("_").str[0]
    plays = sorted(play.dropna().unique())
    if len(plays) < 2:
        raise ProtocolError(f"there are scripts of {len(plays)} plays; to train on one and to test another it takes 2")
    made = []
    for fold in folds:
        tested = play == plays[fold.number % len(plays)]
        keep = {"train": ~tested, "val": play.isna(), "test": tested | play.isna()}
        part = pd.Series("left out", table.index)
        for name, kept in keep.items():
            part[table["utterance_id"].isin(getattr(fold, name)) & kept] = name
        made.append(_fold(fold.number, table, part))
    return made, []


def leave_one_speaker_out(table: pd.DataFrame) -> Made:
    """One fold per speaker: it is tested; those it talks to validate, or, where it talks to nobody or to most, the next one."""
    groups = by_speaker(table)
    names = sorted(table["speaker"].unique())
    folds = []
    for number, name in enumerate(names):
        own = table["speaker"] == name
        partners = groups.isin(groups[own].unique()) & ~own
        if not partners.any():
            partners = table["speaker"] == names[(number + 1) % len(names)]
        part = pd.Series("train", table.index).mask(partners, "val").mask(own, "test")
        folds.append(_fold(number, table, part))
    return folds, []


def speakers_and_sentences(speaker_parts: int, sentence_parts: int, crossed: bool) -> Way:
    """Splits that share neither a speaker nor a sentence; utterances of a split's speaker with another's sentence are left out.

    Speakers and sentences are dealt into parts; one part of each is tested and the next one of each validates. Crossed, every
    part of speakers meets every part of sentences, so that all utterances are tested once; else they go round together.
    """

    def make(table: pd.DataFrame) -> Made:
        speakers = _dealt(table["speaker"], speaker_parts, "speakers")
        sentences = _dealt(table["sentence"], sentence_parts, "sentences")
        if crossed:
            tests = [(one, other) for one in range(len(speakers)) for other in range(len(sentences))]
        else:
            tests = [(number, number % len(sentences)) for number in range(len(speakers))]
        folds = []
        for number, (speaker, sentence) in enumerate(tests):
            part = _cyclic(table["speaker"], speakers, speaker)
            agreed = part == _cyclic(table["sentence"], sentences, sentence)
            folds.append(_fold(number, table, part.where(agreed, "left out")))
        return folds, []

    return make


def own_split(table: pd.DataFrame, allow_speaker_overlap: bool) -> Made:
    """The corpus's own splits; without ``val`` rows some of train are held out for it."""
    unassigned = int(table["split"].isna().sum())
    if unassigned:
        row = table[table["split"].isna()].iloc[0]
        raise ProtocolError(
            f"{unassigned} of {len(table)} utterances have no split, the first is {row['utterance_id']!r}; assign them all, or none"
        )
    ids = {str(name): group.to_numpy(object) for name, group in table["utterance_id"].groupby(table["split"])}
    for name in ("train", "test"):
        if name not in ids:
            raise ProtocolError(f"no utterance has the split {name!r}; assign train and test (and val), or leave the column empty")
    caveats = []
    if "val" not in ids:
        train = table[table["split"] == "train"]
        by_speaker = train["speaker"].notna().all() and train["speaker"].nunique() > 1
        if not by_speaker and not allow_speaker_overlap:
            raise ProtocolError(
                "there is no val split, and none can be made that shares no speaker with train; "
                "add rows with split 'val', fill in the column speaker, or pass --allow-speaker-overlap"
            )
        kept, held_out = _hold_out(train["label"], FOLDS, linked(train, 2) if by_speaker else by_dialogue(train))
        ids["train"], ids["val"] = ids["train"][kept], ids["train"][held_out]
        caveats.append(f"no val split was given: {len(ids['val'])} utterances of train were held out for it")
    return [Fold(0, tuple(ids["train"]), tuple(ids["val"]), tuple(ids["test"]))], caveats


def by_speaker(table: pd.DataFrame) -> pd.Series:
    """What must stay together in speaker-disjoint folds: (len(table),)."""
    remedy = "add a column split, or use the protocol overlap-5fold with --allow-speaker-overlap"
    if table["speaker"].isna().any():
        row = table[table["speaker"].isna()].iloc[0]
        raise ProtocolError(
            f"{int(table['speaker'].isna().sum())} utterances have no speaker, the first is {row['utterance_id']!r}, so no "
            f"split can be shown to share none; fill in the column speaker, {remedy}"
        )
    if table["speaker"].nunique() < MOST_SPLITS:
        raise ProtocolError(f"{table['speaker'].nunique()} speakers can't be divided among train, val and test; {remedy}")
    return linked(table, MOST_SPLITS)


def linked(table: pd.DataFrame, fewest: int) -> pd.Series:
    """Speakers, joined where they talk to each other, so that no dialogue is cut.

    Single speakers where joining leaves fewer than ``fewest`` groups, or one with most of the utterances, as a common
    interviewer does.
    """
    speakers, _ = pd.factorize(table["speaker"])
    dialogues, names = pd.factorize(table["dialogue"])  # -1 where there is none
    known = dialogues >= 0
    size = speakers.max() + 1 + len(names)
    links = coo_array((np.ones(known.sum()), (speakers[known], speakers.max() + 1 + dialogues[known])), shape=(size, size))
    _, component = connected_components(links, directed=False)
    groups = pd.Series(component[speakers], index=table.index)
    largest = groups.value_counts(normalize=True).max()
    return groups if groups.nunique() >= fewest and largest <= 0.5 else table["speaker"]


def by_dialogue(table: pd.DataFrame) -> pd.Series:
    """Dialogues (a dialogue is context, so a part of it in training leaks into test), or utterances where there are none."""
    return table["dialogue"].fillna(table["utterance_id"])


def cross_validation(table: pd.DataFrame, count: int, groups: pd.Series) -> list[Fold]:
    """Folds stratified by label that keep ``groups`` (len(table),) whole; validation comes out of the training part."""
    ids = table["utterance_id"].to_numpy(object)  # the folds share these strings
    folds = []
    for number, (rest, test) in enumerate(_grouped_folds(table["label"], count, groups)):
        # As many parts as leave validation about the size of test.
        train, val = _hold_out(table["label"].iloc[rest], max(2, count - 1), groups.iloc[rest])
        folds.append(Fold(number, tuple(ids[rest[train]]), tuple(ids[rest[val]]), tuple(ids[test])))
    return folds


def _hold_out(labels: pd.Series, parts: int, groups: pd.Series) -> tuple[np.ndarray, np.ndarray]:
    """Positions of all but the first of ``parts`` folds, and of that first one."""
    return _grouped_folds(labels, min(parts, groups.nunique()), groups)[0]


def _grouped_folds(labels: pd.Series, count: int, groups: pd.Series) -> list[tuple[np.ndarray, np.ndarray]]:
    """Folds stratified by label that keep groups whole: positions of the rest and of the fold."""
    splitter = StratifiedGroupKFold(count, shuffle=True, random_state=0)
    try:
        return list(splitter.split(np.zeros(len(labels)), labels, groups))
    except ValueError as error:
        raise ProtocolError(f"{len(labels)} utterances can't be divided into {count} parts ({error})") from error
