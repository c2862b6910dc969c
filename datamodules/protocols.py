"""Protocols: which utterances are trained on, selected on and tested on. Two numbers compare only under the same protocol.

A protocol has a name and a version, ``speaker-5fold@1``. Its folds are disjoint by construction and, unless its name contains
``overlap`` or its caveats say so, no speaker is in more than one of train, val and test. The validation split always comes out
of the training part; the test split never takes part in selection.

`PROTOCOLS` declares those that belong to one corpus, and `FOR_ANY` leave-one-speaker-out; the others depend only on what the
table says and are made by `apply_protocol`. `splits` holds the ways to make folds, `leaks` what splits must not share.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import compress

import numpy as np
import numpy.typing as npt
import pandas as pd

from datamodules import splits
from datamodules.batch import NO_LABEL, Task
from datamodules.leaks import ALL_PAIRS, COLUMNS, NO_TEST, Leak, Pair, find_leaks
from datamodules.problems import UnknownNameError
from datamodules.splits import FOLDS, MOST_SPLITS, Fold, ProtocolError, Way

__all__ = [
    "FOR_ANY",
    "PROTOCOLS",
    "Counts",
    "Fold",
    "LeakError",
    "Plan",
    "Protocol",
    "ProtocolError",
    "apply_protocol",
    "list_protocols",
]

HEADLINES: Mapping[Task, tuple[str, ...]] = {
    "multiclass": ("uar", "war", "macro_f1", "weighted_f1"),
    "multilabel": ("mean_weighted_accuracy", "mean_weighted_f1", "mean_roc_auc"),
}
"""Metrics that may rank: the more the better."""

Sharing = Mapping[str, frozenset[Pair]]
"""What splits may have in common: kind of `leaks.COLUMNS` -> pairs of splits."""


class LeakError(ProtocolError):
    """Splits that share what the protocol doesn't allow.

    Attributes:
        leaks: Everything that they share.
        refused: What of it isn't allowed.
    """

    def __init__(self, message: str, leaks: Sequence[Leak], refused: Sequence[Leak]) -> None:
        """Keep the leaks beside the message."""
        super().__init__(message)
        self.leaks, self.refused = tuple(leaks), tuple(refused)


@dataclass(frozen=True)
class Plan:
    """A protocol applied to one corpus.

    Attributes:
        protocol: Name and version, as it stands in results.
        headline: The metric that ranks, and that the epoch is selected on.
        classes: Labels in the order of the model's outputs.
        folds: One or more folds.
        caveats: What a reader of the numbers must know; printed under every table.
        label_column: Where the corpus's labels stand.
        label_map: The corpus's label -> class, as pairs; None where they are the same.
        leaks: What the splits share with the protocol's leave.
        task: Of a multi-label one each class is a column of intensities, positive above zero.
    """

    protocol: str
    classes: tuple[str, ...]
    folds: tuple[Fold, ...]
    caveats: tuple[str, ...] = ()
    headline: str = "uar"
    label_column: str = "label"
    label_map: tuple[tuple[str, str], ...] | None = None
    leaks: tuple[Leak, ...] = ()
    task: Task = "multiclass"

    def relabel(self, table: pd.DataFrame) -> pd.DataFrame:
        """The table with the protocol's classes as ``label``, null where the label isn't one; itself if nothing changes.

        Of a multi-label task the positive classes joined by ``+``, or `NO_LABEL`.
        """
        if self.task == "multilabel":
            return table.assign(label=_positive(table, self.classes))
        if self.label_map is None:
            return table
        return table.assign(label=table[self.label_column].map(dict(self.label_map)))


@dataclass(frozen=True)
class Counts:
    """How many utterances count in the complete corpus, as published.

    Attributes:
        by: The column whose values are counted apart; None for the whole.
        classes: Value of ``by`` (or ``"all"``) -> class -> utterances; a value that isn't named isn't checked.
        total: Utterances in all.
        dialogues: Dialogues in all.
    """

    by: str | None = None
    classes: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    total: int | None = None
    dialogues: int | None = None

    def differences(self, table: pd.DataFrame) -> list[str]:
        """What differs in a table of the utterances that count, in words."""
        parts = table[self.by].astype(str) if self.by else pd.Series("all", table.index)
        found = table.groupby([parts, table["label"]]).size()
        pairs = [
            (f"{part} {label}" if self.by else label, int(found.get((part, label), 0)), known)
            for part, by_class in self.classes.items()
            for label, known in by_class.items()
        ]
        pairs += [
            (name, count, known)
            for name, count, known in (
                ("utterances", len(table), self.total),
                ("dialogues", table["dialogue"].nunique(), self.dialogues),
            )
            if known is not None
        ]
        return [f"{name} {count:,} instead of {known:,}" for name, count, known in pairs if count != known]


@dataclass(frozen=True)
class Protocol:
    """A named protocol.

    Attributes:
        name: Name and version.
        corpus: The corpus it belongs to; empty for any.
        folds: How folds are made.
        classes: Labels in the order of the model's outputs; empty for the corpus's own, sorted.
        labels: The corpus's label -> class, for those that change their name. A label that is then no class doesn't count.
        column: Where the labels stand.
        task: Of a multi-label one each of ``classes`` is a column of intensities, positive above zero; ``labels`` and ``column``
            then say nothing.
        counts_if: Which utterances count, besides those with a class: a function of the table, (len(table),) bool.
        headline: The metric that ranks.
        shares: What the splits may have in common; all else stops the run.
        context: Whether utterances that don't count stay as turns of a dialogue that lies in one split.
        needs: Columns that must be there.
        left_out: Why a fold leaves out utterances that count.
        caveats: What a reader of the numbers must know whatever the data.
        counts: What the complete corpus has.
    """

    name: str
    corpus: str
    folds: Way
    classes: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    column: str = "label"
    task: Task = "multiclass"
    counts_if: Callable[[pd.DataFrame], "pd.Series[bool]"] | None = None
    headline: str = "uar"
    shares: Sharing = field(default_factory=lambda: {"sentences": ALL_PAIRS})
    context: bool = True
    needs: tuple[str, ...] = ()
    left_out: str = "the protocol has no place for them"
    caveats: tuple[str, ...] = ()
    counts: Counts | None = None

    def __post_init__(self) -> None:
        """Check the declaration."""
        if self.headline not in HEADLINES[self.task]:
            known = ", ".join(HEADLINES[self.task])
            raise ValueError(f"{self.name}: the headline is {self.headline!r}; it must be one of {known}")
        unknown = set(self.shares) - set(COLUMNS)
        if unknown:
            raise ValueError(f"{self.name}: splits can't share {', '.join(sorted(unknown))}; known: {', '.join(COLUMNS)}")


_COPIES = {"clips": ALL_PAIRS, "near-duplicate clips": ALL_PAIRS}

# IEMOCAP. Sessions are dyads, so splits by session share no speaker.

_FOUR = ("ang", "hap", "neu", "sad")
_EXCITED_IS_HAPPY = {"exc": "hap"}
_FOUR_COUNTS = Counts(
    by="session",
    classes={
        "Session1": {"neu": 384, "hap": 278, "ang": 229, "sad": 194},
        "Session2": {"neu": 362, "hap": 327, "ang": 137, "sad": 197},
        "Session3": {"neu": 320, "hap": 286, "ang": 240, "sad": 305},
        "Session4": {"neu": 258, "hap": 303, "ang": 327, "sad": 143},
        "Session5": {"neu": 384, "hap": 442, "ang": 170, "sad": 245},
    },
    total=5531,
)

_IEMOCAP4_LOSO = Protocol(
    name="iemocap4-loso@1",
    corpus="iemocap",
    folds=splits.leave_one_session_out,
    classes=_FOUR,
    labels=_EXCITED_IS_HAPPY,
    shares={"sentences": ALL_PAIRS, "scripts": ALL_PAIRS},  # the same scripts are performed in every session
    needs=("session",),
    counts=_FOUR_COUNTS,
)

_IEMOCAP = (
    _IEMOCAP4_LOSO,
    replace(_IEMOCAP4_LOSO, name="iemocap4-session5@1", folds=splits.hold_out_sessions(val="Session4", test="Session5")),
    replace(
        _IEMOCAP4_LOSO,
        name="iemocap4-random90@1",
        folds=splits.random_utterances(test=0.1, val=0.1, per_class=False),
        # A dialogue's turns, which overlap in time, are in all splits.
        shares={"speakers": ALL_PAIRS, "dialogues": ALL_PAIRS, "sentences": ALL_PAIRS, "scripts": ALL_PAIRS, **_COPIES},
        context=False,
        caveats=("utterances are split at random as by Khan et al.: speakers overlap, and so do dialogues and scripts",),
    ),
    replace(
        _IEMOCAP4_LOSO,
        name="iemocap4-improvised@1",
        counts_if=lambda table: table["improvised"].astype(bool),
        needs=("session", "improvised"),
        counts=Counts(classes={"all": {"neu": 1099, "hap": 947, "sad": 608, "ang": 289}}, total=2943),
    ),
    replace(
        _IEMOCAP4_LOSO,
        name="iemocap4-scriptdisjoint@1",
        folds=splits.leave_one_session_and_its_plays_out,
        shares={"sentences": ALL_PAIRS},  # short ones that improvisations happen to have in common
        needs=("session", "script"),
        left_out="their play is in another split",
        caveats=("validation holds improvisations only",),
    ),
    Protocol(
        name="iemocap6-dialogue@1",
        corpus="iemocap",
        folds=splits.hold_out_session_and_dialogues(test="Session5", each=3),
        classes=("hap", "sad", "neu", "ang", "exc", "fru"),
        headline="weighted_f1",
        shares={"speakers": NO_TEST, "sentences": ALL_PAIRS, "scripts": ALL_PAIRS},
        needs=("session",),
        caveats=(
            "the 12 validation dialogues are this protocol's own, three of each of sessions 1 to 4: which 12 others took isn't "
            "published in words",
        ),
        # As the features of conv-emotion have it, which are what most papers test on.
        counts=Counts(
            by="session",
            classes={"Session5": {"hap": 144, "sad": 245, "neu": 384, "ang": 170, "exc": 299, "fru": 381}},
            total=7433,
            dialogues=151,
        ),
    ),
)

# MELD. Six friends speak in all three official splits.

_MELD7 = Protocol(
    name="meld7@1",
    corpus="meld",
    folds=lambda table: splits.own_split(table, allow_speaker_overlap=True),
    classes=("neutral", "surprise", "fear", "sadness", "joy", "disgust", "anger"),
    headline="weighted_f1",
    shares={"speakers": ALL_PAIRS, "sentences": ALL_PAIRS, **_COPIES},
    counts=Counts(
        by="split",
        classes={
            "train": {"neutral": 4710, "joy": 1743, "surprise": 1205, "anger": 1109, "sadness": 683, "disgust": 271, "fear": 268},
            "val": {"neutral": 470, "joy": 163, "surprise": 150, "anger": 153, "sadness": 111, "disgust": 22, "fear": 40},
            "test": {"neutral": 1256, "joy": 402, "surprise": 281, "anger": 345, "sadness": 208, "disgust": 68, "fear": 50},
        },
        total=13708,
    ),
)

_MELD = (
    _MELD7,
    replace(
        _MELD7,
        name="meld3-sentiment@1",
        classes=("neutral", "positive", "negative"),
        column="sentiment",
        counts=Counts(total=13708),
    ),
    replace(
        _MELD7,
        name="meld6-pooled@1",
        folds=splits.random_utterances(test=0.2, val=0.1, per_class=True),
        classes=("neutral", "surprise", "sadness", "joy", "disgust", "anger"),
        shares={"speakers": ALL_PAIRS, "dialogues": ALL_PAIRS, "sentences": ALL_PAIRS, **_COPIES},
        context=False,
        caveats=(
            "not comparable with results on MELD's own test split: fear is dropped and the official splits are pooled and split "
            "80/20 per class at random, as the counts of Makhmudov et al. show; dialogues are cut",
        ),
        counts=Counts(
            classes={"all": {"neutral": 6436, "joy": 2308, "surprise": 1636, "anger": 1607, "sadness": 1002, "disgust": 361}},
            total=13350,
        ),
    ),
)

# Corpora whose speakers read the same sentences in every emotion: a text seen in training tells nothing, or too much.

_PARALLEL = Protocol(
    name="esd@1",
    corpus="esd",
    folds=splits.speakers_and_sentences(speaker_parts=5, sentence_parts=5, crossed=False),
    shares={},
    needs=("sentence",),
    left_out="their speaker or their sentence is in another split",
)
_READ = (
    _PARALLEL,
    replace(
        _PARALLEL,
        name="emouerj@1",
        corpus="emouerj",
        folds=splits.speakers_and_sentences(speaker_parts=4, sentence_parts=4, crossed=True),
        counts=Counts(total=377),
    ),
)

# CMU-MOSEI. An utterance may show several emotions, or none; the SDK's folds are whole videos.

_MOSEI6 = Protocol(
    name="mosei6@1",
    corpus="mosei",
    folds=lambda table: splits.own_split(table, allow_speaker_overlap=True),
    classes=("happy", "sad", "anger", "surprise", "disgust", "fear"),
    task="multilabel",
    counts_if=lambda table: table["split"].notna(),
    headline="mean_weighted_accuracy",
    shares={"sentences": ALL_PAIRS, **_COPIES},
    needs=("split",),
    caveats=(
        "an emotion is positive if its intensity is above zero, the threshold on its probability is 0.5; figures are of six binary "
        "tasks, not comparable with accuracies of one",
    ),
    counts=Counts(total=22856),
)

FOR_ANY = Protocol(
    name="loso-speaker@1",
    corpus="",
    folds=splits.leave_one_speaker_out,
    shares={
        "dialogues": ALL_PAIRS,
        "sentences": ALL_PAIRS,
        "scripts": ALL_PAIRS,
        # Turns of the tested speaker overlap in time with those of its partner, which validates.
        "near-duplicate clips": frozenset({("val", "test")}),
    },
)
"""Leave one speaker out, with all labels of the corpus."""

PROTOCOLS = {protocol.name: protocol for protocol in (*_IEMOCAP, *_MELD, *_READ, _MOSEI6, FOR_ANY)}
"""By name. The first of a corpus is what ``auto`` takes."""


def list_protocols(corpus: str | None = None) -> list[str]:
    """Names of the protocols that can be asked for on a corpus; None for all."""
    named = [name for name, protocol in PROTOCOLS.items() if corpus is None or protocol.corpus in ("", corpus)]
    return ["auto", "split@1", f"speaker-{FOLDS}fold@1", f"overlap-{FOLDS}fold@1", *named]


def apply_protocol(
    table: pd.DataFrame,
    protocol: str = "auto",
    allow_speaker_overlap: bool = False,
    corpus: str | None = None,
    audio: npt.NDArray[np.bytes_] | None = None,
) -> Plan:
    """Split a corpus, and refuse if the splits share what the protocol doesn't allow.

    Args:
        table: As of `Corpus.table`.
        protocol: One of `PROTOCOLS`; ``split@1`` (the corpus's own splits), ``speaker-5fold@1`` (speaker-disjoint
            cross-validation; any number of folds), ``overlap-5fold@1`` (dialogues or utterances at random); or ``auto``: the
            first of the corpus's own in `PROTOCOLS`, else the first of the other three that the table allows. The version may
            be left out.
        allow_speaker_overlap: Permit speakers that are in two splits; the protocol's name then says ``overlap``. It changes
            nothing in `PROTOCOLS`, which say themselves what may be shared.
        corpus: The corpus's name, which a protocol of another one refuses; None: not checked.
        audio: Content key of every row's audio, see `find_leaks`; near-duplicates are those of the table's ``near_duplicate``.

    Raises:
        LeakError: If the splits share what the protocol doesn't allow.
        ProtocolError: If the table can't be split that way, or a class has no training example, or the protocol belongs to
            another corpus.
        UnknownNameError: If there is no such protocol.
    """
    named = _declared(protocol, corpus)
    if named is None:
        return _by_table(table, protocol, allow_speaker_overlap, audio)
    if named.corpus and corpus is not None and named.corpus != corpus:
        raise ProtocolError(
            f"{named.name} is a protocol of the corpus {named.corpus}, not of {corpus}; "
            f"possible: {', '.join(list_protocols(corpus))}"
        )
    return _named(table, named, audio)


def protocol_task(protocol: str, corpus: str) -> Task:
    """The task of a protocol of `apply_protocol`, known before any file is read."""
    named = _declared(protocol, corpus)
    return named.task if named else "multiclass"


def _declared(protocol: str, corpus: str | None) -> Protocol | None:
    """The protocol of that name in `PROTOCOLS`, ``auto`` being the corpus's first; None for those that fit any table."""
    own = [name for name, declared in PROTOCOLS.items() if corpus and declared.corpus == corpus]
    if protocol == "auto" and own:
        protocol = own[0]
    return PROTOCOLS.get(protocol if "@" in protocol else f"{protocol}@1")


def _positive(table: pd.DataFrame, classes: Sequence[str]) -> pd.Series:
    """The names of the classes whose intensity is above zero, joined by ``+``; null where an intensity is unknown."""
    intensity = table[list(classes)]
    names = ["+".join(compress(classes, row)) or NO_LABEL for row in (intensity > 0).to_numpy()]
    return pd.Series(names, table.index, dtype=object).where(intensity.notna().all(axis=1), None)


def _named(table: pd.DataFrame, protocol: Protocol, audio: npt.NDArray[np.bytes_] | None) -> Plan:
    columns = protocol.classes if protocol.task == "multilabel" else (protocol.column,)
    missing = [name for name in (*protocol.needs, *columns) if name not in table.columns or table[name].isna().all()]
    if missing:
        raise ProtocolError(f"{protocol.name} needs the column {', '.join(missing)}, which the table doesn't have or doesn't fill")
    classes = protocol.classes or tuple(sorted(table[protocol.column].dropna().unique()))
    # Every label that becomes a class: those renamed, and the classes themselves.
    label_map = {name: name for name in classes} | {old: new for old, new in protocol.labels.items() if new in classes}
    labels = _positive(table, classes) if protocol.task == "multilabel" else table[protocol.column].map(label_map)
    table = table.assign(label=labels)
    counting = table["label"].notna()
    if protocol.counts_if:
        counting &= protocol.counts_if(table)
    used = table[counting].reset_index(drop=True)
    if used.empty:
        raise ProtocolError(f"{protocol.name}: no utterance counts; {', '.join(columns)} has none of {', '.join(classes)}")
    folds, caveats = protocol.folds(used)
    _check_classes(used, classes)
    leaks = find_leaks(table, folds, audio)
    shared = _guard(protocol.name, leaks, protocol.shares)
    if protocol.context:
        folds = [_with_context(fold, table, table[~counting]) for fold in folds]
    return Plan(
        protocol.name,
        classes,
        tuple(folds),
        (*protocol.caveats, *_partial(protocol, used, folds), *caveats, *_audit(used, folds, classes, protocol.task), *shared),
        protocol.headline,
        protocol.column,
        None if protocol.column == "label" and all(old == new for old, new in label_map.items()) else tuple(label_map.items()),
        tuple(leaks),
        protocol.task,
    )


def _partial(protocol: Protocol, used: pd.DataFrame, folds: Sequence[Fold]) -> list[str]:
    """Caveats about utterances that are missing or left out."""
    caveats = []
    differences = protocol.counts.differences(used) if protocol.counts else []
    if differences:
        some = ", ".join(differences[:8]) + (f" and {len(differences) - 8} more" if differences[8:] else "")
        caveats.append(f"counts differ from the published ones: {some}")
    left = [len(used) - len(fold.train) - len(fold.val) - len(fold.test) for fold in folds]
    if any(left):
        number = f"{min(left)} to {max(left)}" if min(left) != max(left) else str(left[0])
        caveats.append(f"each fold leaves out {number} of {len(used)} utterances: {protocol.left_out}")
    return caveats


def _with_context(fold: Fold, table: pd.DataFrame, others: pd.DataFrame) -> Fold:
    """The fold with those utterances among ``others`` whose dialogue lies in one split alone."""
    dialogue = table.set_index("utterance_id")["dialogue"]
    parts = [set(dialogue[list(ids)].dropna()) for ids in (fold.train, fold.val, fold.test)]
    whole = {name for part in parts for name in part if sum(name in other for other in parts) == 1}
    return replace(fold, context=tuple(others.loc[others["dialogue"].isin(whole), "utterance_id"]))


def _by_table(table: pd.DataFrame, protocol: str, allow_speaker_overlap: bool, audio: npt.NDArray[np.bytes_] | None) -> Plan:
    """The protocols that fit any table: own splits, and cross-validation over speakers, dialogues or utterances."""
    name = protocol.removesuffix("@1")
    if name == "auto":
        name = _first_possible(table, allow_speaker_overlap)
    unlabelled = int(table["label"].isna().sum())
    if unlabelled:
        raise ProtocolError(
            f"{protocol}: {unlabelled} of {len(table)} utterances have no label; label them, or take a protocol of the corpus's own"
        )
    cross_validation = re.fullmatch(r"(speaker|overlap)-(\d+)fold", name)
    if name in {"split", "split-overlap"}:
        folds, caveats = splits.own_split(table, allow_speaker_overlap)
    elif cross_validation and int(cross_validation[2]) < 2:
        raise ProtocolError(f"{protocol}: cross-validation needs at least 2 folds")
    elif cross_validation and cross_validation[1] == "overlap" and not allow_speaker_overlap:
        raise ProtocolError(f"{protocol} lets speakers be in train and test at once; pass --allow-speaker-overlap if you mean it")
    elif cross_validation:
        groups = splits.by_speaker(table) if cross_validation[1] == "speaker" else splits.by_dialogue(table)
        count = min(int(cross_validation[2]), groups.nunique())
        folds, caveats = splits.cross_validation(table, count, groups), []
        name = f"{cross_validation[1]}-{count}fold"  # what was done, where there are too few groups for what was asked
    else:
        raise UnknownNameError("protocol", protocol, list_protocols())
    classes = tuple(sorted(table["label"].unique()))
    _check_classes(table, classes)
    audit = _audit(table, folds, classes)
    leaks = find_leaks(table, folds, audio)
    overlap = [leak for leak in leaks if leak.kind == "speakers"]
    if overlap and not allow_speaker_overlap:
        speakers = _union(overlap)
        raise LeakError(
            f"{len(speakers)} speakers are in more than one split ({_some(speakers)}); scores would measure voices that were "
            "trained on. Correct the splits, or pass --allow-speaker-overlap if the corpus is made that way",
            leaks,
            overlap,
        )
    shared = _guard(protocol, leaks, dict.fromkeys(set(COLUMNS) - {"utterances"}, ALL_PAIRS))
    if name in {"split", "split-overlap"}:
        name = "split-overlap" if overlap else "split"
    return Plan(f"{name}@1", classes, tuple(folds), (*caveats, *audit, *shared), leaks=tuple(leaks))


def _first_possible(table: pd.DataFrame, allow_speaker_overlap: bool) -> str:
    if table["split"].notna().any():
        return "split"
    speakers_suffice = table["speaker"].notna().all() and table["speaker"].nunique() >= MOST_SPLITS
    return f"overlap-{FOLDS}fold" if allow_speaker_overlap and not speakers_suffice else f"speaker-{FOLDS}fold"


def _check_classes(table: pd.DataFrame, classes: tuple[str, ...]) -> None:
    if len(classes) < 2 or table["label"].nunique() < 2:
        raise ProtocolError(f"all utterances have the label {table['label'].iloc[0]!r}; there is nothing to tell apart")


def _audit(table: pd.DataFrame, folds: Sequence[Fold], classes: tuple[str, ...], task: Task = "multiclass") -> list[str]:
    """Check that every class can be learned; caveats about those that aren't tested and about what isn't known."""
    caveats, unseen = [], []
    label = table.set_index("utterance_id")["label"]
    label = label.str.split("+").explode() if task == "multilabel" else label
    left = "UAR is over the other classes"
    if task == "multilabel":
        left = "the weighted accuracy of such a class is its specificity, and it has no ROC-AUC"
    for fold in folds:
        trained, tested = set(label[list(fold.train)]), set(label[list(fold.test)])
        unseen += [f"fold {fold.number}: {name!r}" for name in classes if name not in trained]
        absent = [name for name in classes if name not in tested]
        if absent:
            caveats.append(f"fold {fold.number}: the test split has no {', '.join(absent)}; {left}")
    if unseen:
        raise ProtocolError(
            f"labels without a single training example ({', '.join(unseen)}); "
            "relabel or remove those utterances, or choose other splits"
        )
    if table["speaker"].isna().all():
        caveats.append("speakers are not known: whether the splits share any can't be checked")
    return caveats


_SHARED = {
    "speakers": "{count} speakers are in more than one split: not comparable with speaker-independent results",
    "dialogues": "{count} dialogues are cut between splits: their parts share a situation, and context is missing",
    "scripts": "{count} scripts are performed in more than one split: up to {share:.0%} of a test split's utterances are of one "
    "that is trained on",
    "sentences": "{count} sentences are said in more than one split: up to {share:.0%} of a test split's utterances say one "
    "that is trained on",
    "clips": "{count} clips of identical audio are in more than one split: up to {share:.0%} of a test split's utterances "
    "are trained on",
    "near-duplicate clips": "{count} recordings are in more than one split in copies that were amplified, recoded or cut: up to "
    "{share:.0%} of a test split's utterances are trained on",
}
_ONLY_VALIDATION = {
    "speakers": "{count} speakers are in train and in val: the epoch is selected on voices that were trained on; test has its own",
}


def _guard(protocol: str, leaks: Sequence[Leak], shares: Sharing) -> list[str]:
    """Caveats about what splits share with leave.

    Raises:
        LeakError: With everything that they share without.
    """
    refused = [leak for leak in leaks if leak.pair not in shares.get(leak.kind, frozenset())]
    if refused:
        parts = []
        for kind, found in _by_kind(refused).items():
            first, values = found[0], _union(found)
            shown = f" ({_some(first.examples if COLUMNS[kind] == 'audio' else values)})"
            parts.append(
                f"{len(values)} {kind} are in more than one split, fold {first.fold}'s {' and '.join(first.pair)} first{shown}"
            )
        columns = ", ".join(dict.fromkeys(COLUMNS[kind] for kind in _by_kind(refused)))
        raise LeakError(
            f"{protocol} doesn't allow what its splits share: {'; '.join(parts)}. Correct the corpus (column {columns}) or leave "
            "out the utterances concerned",
            leaks,
            refused,
        )
    caveats = []
    for kind in (kind for kind in _SHARED if kind in _by_kind(leaks)):
        found = _by_kind(leaks)[kind]
        share = max((leak.share for leak in found if leak.pair == ("train", "test")), default=0.0)
        only_validation = all(leak.pair in NO_TEST for leak in found)
        words = _ONLY_VALIDATION.get(kind, _SHARED[kind]) if only_validation and shares[kind] == NO_TEST else _SHARED[kind]
        caveats.append(words.format(count=len(_union(found)), share=share))
    return caveats


def _by_kind(leaks: Sequence[Leak]) -> dict[str, list[Leak]]:
    kinds: dict[str, list[Leak]] = defaultdict(list)
    for leak in leaks:
        kinds[leak.kind].append(leak)
    return kinds


def _union(leaks: Sequence[Leak]) -> list[str]:
    return sorted({value for leak in leaks for value in leak.values})


def _some(values: Sequence[str]) -> str:
    return ", ".join(value[:40] for value in values[:5]) + (" …" if len(values) > 5 else "")
