"""Protocols: which utterances are trained on, selected on and tested on. Two numbers compare only under the same protocol.

A protocol has a name and a version, ``speaker-5fold@1``. Its folds are disjoint by construction and, unless its name contains
``overlap``, no speaker is in more than one of train, val and test. The validation split always comes out of the training
part; the test split never takes part in selection.
"""

import re
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from sklearn.model_selection import StratifiedGroupKFold

from datamodules.problems import UnknownNameError

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
    """

    number: int
    train: tuple[str, ...]
    val: tuple[str, ...]
    test: tuple[str, ...]

    def __post_init__(self) -> None:
        """Check what the class promises."""
        for name, other in combinations(("train", "val", "test"), 2):
            shared = set(getattr(self, name)) & set(getattr(self, other))
            if shared:
                raise ProtocolError(
                    f"fold {self.number}: {sorted(shared)[0]!r} and {len(shared) - 1} more are in {name} and in {other}"
                )
        for name in ("train", "val", "test"):
            if not getattr(self, name):
                raise ProtocolError(f"fold {self.number} has no {name} utterances")


@dataclass(frozen=True)
class Plan:
    """A protocol applied to one corpus.

    Attributes:
        protocol: Name and version, as it stands in results.
        headline: The metric that ranks, and that the epoch is selected on.
        classes: Labels in the order of the model's outputs.
        folds: One or more folds.
        caveats: What a reader of the numbers must know; printed under every table.
    """

    protocol: str
    classes: tuple[str, ...]
    folds: tuple[Fold, ...]
    caveats: tuple[str, ...] = ()
    headline: str = "uar"


def apply_protocol(table: pd.DataFrame, protocol: str = "auto", allow_speaker_overlap: bool = False) -> Plan:
    """Split a corpus.

    Args:
        table: As of `Corpus.table`.
        protocol: ``split@1`` (the corpus's own splits), ``speaker-5fold@1`` (speaker-disjoint cross-validation; any number of
            folds), ``overlap-5fold@1`` (dialogues or utterances at random), or ``auto``: the first of these that the table allows.
            The version may be left out.
        allow_speaker_overlap: Permit speakers that are in two splits; the protocol's name then says ``overlap``.

    Raises:
        ProtocolError: If the table can't be split that way without speakers in two splits, or a class has no training example.
        UnknownNameError: If there is no such protocol.
    """
    name = protocol.removesuffix("@1")
    if name == "auto":
        name = _first_possible(table, allow_speaker_overlap)
    cross_validation = re.fullmatch(r"(speaker|overlap)-(\d+)fold", name)
    if name in {"split", "split-overlap"}:
        folds, caveats = _own_split(table, allow_speaker_overlap)
    elif cross_validation and int(cross_validation[2]) < 2:
        raise ProtocolError(f"{protocol}: cross-validation needs at least 2 folds")
    elif cross_validation and cross_validation[1] == "overlap" and not allow_speaker_overlap:
        raise ProtocolError(f"{protocol} lets speakers be in train and test at once; pass --allow-speaker-overlap if you mean it")
    elif cross_validation:
        groups = _by_speaker(table) if cross_validation[1] == "speaker" else _by_dialogue(table)
        count = min(int(cross_validation[2]), groups.nunique())
        folds, caveats = _cross_validation(table, count, groups), []
        name = f"{cross_validation[1]}-{count}fold"  # what was done, where there are too few groups for what was asked
    else:
        raise UnknownNameError("protocol", protocol, ["auto", "split@1", f"speaker-{FOLDS}fold@1", f"overlap-{FOLDS}fold@1"])
    classes = tuple(sorted(table["label"].unique()))
    if len(classes) < 2:
        raise ProtocolError(f"all utterances have the label {classes[0]!r}; there is nothing to tell apart")
    overlap, more = _audit(table, folds, classes, allow_speaker_overlap)
    if name in {"split", "split-overlap"}:
        name = "split-overlap" if overlap else "split"
    return Plan(f"{name}@1", classes, tuple(folds), tuple(caveats + more))


def _first_possible(table: pd.DataFrame, allow_speaker_overlap: bool) -> str:
    if table["split"].notna().any():
        return "split"
    speakers_suffice = table["speaker"].notna().all() and table["speaker"].nunique() >= MOST_SPLITS
    return f"overlap-{FOLDS}fold" if allow_speaker_overlap and not speakers_suffice else f"speaker-{FOLDS}fold"


def _own_split(table: pd.DataFrame, allow_speaker_overlap: bool) -> tuple[list[Fold], list[str]]:
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
        kept, held_out = _hold_out(train["label"], FOLDS, _linked(train, 2) if by_speaker else _by_dialogue(train))
        ids["train"], ids["val"] = ids["train"][kept], ids["train"][held_out]
        caveats.append(f"no val split was given: {len(ids['val'])} utterances of train were held out for it")
    return [Fold(0, tuple(ids["train"]), tuple(ids["val"]), tuple(ids["test"]))], caveats


def _by_speaker(table: pd.DataFrame) -> pd.Series:
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
    return _linked(table, MOST_SPLITS)


def _linked(table: pd.DataFrame, fewest: int) -> pd.Series:
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


def _by_dialogue(table: pd.DataFrame) -> pd.Series:
    """Dialogues (a dialogue is context, so a part of it in training leaks into test), or utterances where there are none."""
    return table["dialogue"].fillna(table["utterance_id"])


def _cross_validation(table: pd.DataFrame, count: int, groups: pd.Series) -> list[Fold]:
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


def _audit(table: pd.DataFrame, folds: list[Fold], classes: tuple[str, ...], allow_speaker_overlap: bool) -> tuple[bool, list[str]]:
    """Check what the plan promises. Returns whether speakers overlap, and caveats."""
    facts = table[["speaker", "dialogue", "label"]]
    caveats, shared, cut, unseen = [], set(), set(), []
    for fold in folds:
        parts = {name: facts[table["utterance_id"].isin(getattr(fold, name))] for name in ("train", "val", "test")}
        for one, other in combinations(parts, 2):
            shared |= set(parts[one]["speaker"].dropna()) & set(parts[other]["speaker"].dropna())
            cut |= set(parts[one]["dialogue"].dropna()) & set(parts[other]["dialogue"].dropna())
        unseen += [f"fold {fold.number}: {label!r}" for label in classes if label not in set(parts["train"]["label"])]
        absent = [label for label in classes if label not in set(parts["test"]["label"])]
        if absent:
            caveats.append(f"fold {fold.number}: the test split has no {', '.join(absent)}; UAR is over the other classes")
    if unseen:
        raise ProtocolError(
            f"labels without a single training example ({', '.join(unseen)}); "
            "relabel or remove those utterances, or choose other splits"
        )
    if shared and not allow_speaker_overlap:
        some = ", ".join(sorted(shared)[:5]) + (" …" if len(shared) > 5 else "")
        raise ProtocolError(
            f"{len(shared)} speakers are in more than one split ({some}); scores would measure voices that were trained on. "
            "Correct the splits, or pass --allow-speaker-overlap if the corpus is made that way"
        )
    if shared:
        caveats.append(f"{len(shared)} speakers are in more than one split: not comparable with speaker-independent results")
    if cut:
        caveats.append(f"{len(cut)} dialogues are cut between splits: their parts share a situation, and context is missing")
    if table["speaker"].isna().all():
        caveats.append("speakers are not known: whether the splits share any can't be checked")
    return bool(shared), caveats
