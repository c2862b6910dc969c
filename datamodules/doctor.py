"""The doctor: examines a corpus before anyone trains on it, and says what a table of scores wouldn't.

`examine` gathers, in one pass over the audio, and decides what needs mending; `doctor_page` prints what it found.
"""

import os
import re
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from datamodules.audio import AudioError, AudioInfo, Clip, inspect_clip, load_clip, resample
from datamodules.corpora import Corpus
from datamodules.fingerprint import RATE, Fingerprint, Pair, Words, find_copies, fingerprint, near_duplicates
from datamodules.leaks import COLUMNS, Leak, Splits, find_leaks
from datamodules.problems import Problem
from datamodules.protocols import FOR_ANY, LeakError, Plan, ProtocolError, apply_protocol, list_protocols
from datamodules.store import FeatureStore, FileDigests

MOST_FOLDS = 50
"""With more speakers, leaving each out once is only tried if it is asked for."""

MOST_THREADS = 8

LONG, SHORT = 30.0, 0.3
"""Seconds beyond which a clip is named as unusual."""

QUIET = -60.0
"""Loudness in dBFS (root mean square) below which a clip counts as silent."""

SPLITS = ("train", "val", "test")
NONE = "(none)"
Cell = str | int


@dataclass(frozen=True)
class Table:
    """Rows to print.

    Attributes:
        caption: What the table shows.
        columns: Their heads.
        rows: One cell per column.
        marked: Rows that call for a look.
    """

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    marked: frozenset[int] = frozenset()

    @property
    def numeric(self) -> tuple[bool, ...]:
        """Which columns hold numbers, and are set right."""
        return tuple(
            all(re.fullmatch(r"([-+]?[\d.,]+( ?%| Hz)?)?", str(cell)) for cell in cells) for cells in zip(*self.rows, strict=True)
        )


@dataclass(frozen=True)
class Plot:
    """A histogram by split.

    Attributes:
        caption: What is counted.
        unit: Of the horizontal axis.
        values: Split -> (n,).
        logarithmic: Whether the horizontal axis is.
    """

    caption: str
    unit: str
    values: Mapping[str, npt.NDArray[np.float64]]
    logarithmic: bool = False


@dataclass(frozen=True)
class Section:
    """One part of the page: sentences, then a list, plots, tables, and problems."""

    title: str
    text: tuple[str, ...] = ()
    items: tuple[str, ...] = ()
    plots: tuple[Plot, ...] = ()
    tables: tuple[Table, ...] = ()
    problems: tuple[Problem, ...] = ()


@dataclass(frozen=True)
class Report:
    """What the doctor found.

    Attributes:
        corpus: Name and version.
        source: The file or folder that was read.
        to_mend: What needs mending, in words; empty for a healthy corpus.
        sections: The page.
    """

    corpus: str
    source: Path
    to_mend: tuple[str, ...]
    sections: tuple[Section, ...]

    @property
    def healthy(self) -> bool:
        """Whether nothing needs mending."""
        return not self.to_mend

    def section(self, title: str) -> Section:
        """The section of that title."""
        return next(section for section in self.sections if section.title == title)


class Sound(NamedTuple):
    """What is kept of a decoded clip: header, loudness in dBFS, fingerprint."""

    info: AudioInfo
    loudness: float
    words: Words


def examine(
    corpus: Corpus, protocol: str = "auto", allow_speaker_overlap: bool = False, store: FeatureStore | None = None
) -> Report:
    """Read every row of a corpus, decode every clip once, and apply a protocol.

    Args:
        corpus: What to read.
        protocol: Whose splits are searched for leaks, see `apply_protocol`.
        allow_speaker_overlap: As of `apply_protocol`.
        store: Where the fingerprints are left for the check before training; None for the default folder.

    Raises:
        BadInputError: If the corpus can't be read as a table at all.
        UnknownNameError: If there is no such protocol.
        StoreError: If the store can't be written.
    """
    table, problems = corpus.read()
    store = store or FeatureStore()
    _apply(corpus, _without(table, problems), protocol, allow_speaker_overlap)  # an unknown name is told before hours of decoding
    sounds, unreadable = _listen_to_all(corpus, table, problems, store)
    problems = sorted({*problems, *unreadable}, key=lambda p: (str(p.file), p.row or 0, p.what))
    usable = _without(table, problems)
    heard = [sounds.get(position) for position in usable.index]
    usable = usable.reset_index(drop=True)
    clips = [clip if sound else None for clip, sound in zip(_clips(usable), heard, strict=True)]
    prints = store.add(Fingerprint(), clips, [sound.words[:, None] if sound else None for sound in heard])
    copies = find_copies(prints)
    usable = usable.assign(near_duplicate=near_duplicates(usable["utterance_id"], prints, copies))
    applied = _apply(corpus, usable, protocol, allow_speaker_overlap, prints.keys)
    to_mend = tuple(_to_mend(protocol, problems, applied))
    sections = (
        _overview(corpus, table, usable, heard),
        Section("Problems", () if problems else ("None.",), problems=tuple(problems)),
        _official(corpus, usable),
        _counts(usable, applied),
        _sound(usable, heard),
        _worth_a_look(table, usable, heard),
        _duplicates(usable, prints.keys, copies),
        _leaks(usable, protocol, applied, prints.keys),
        _protocols(corpus, usable, protocol, allow_speaker_overlap, prints.keys),
        Section("Licence and citation", (f"Licence: {corpus.licence}.", f"Cite: {corpus.citation}.", f"Source: {corpus.source}.")),
    )
    return Report(f"{corpus.name} {corpus.version}".removesuffix(" -"), corpus.index_file, to_mend, sections)


def _without(table: pd.DataFrame, problems: Iterable[Problem]) -> pd.DataFrame:
    """The rows that have no problem."""
    return table.drop(index=table.index[sorted({p.position for p in problems if p.position is not None})])


def _to_mend(protocol: str, problems: Sequence[Problem], applied: Plan | ProtocolError) -> Iterator[str]:
    if problems:
        rows = len({p.position for p in problems if p.position is not None})
        left = f"; --skip-bad leaves out {rows} utterances" if rows else ""
        yield f"{len(problems)} {'problem' if len(problems) == 1 else 'problems'} in the files{left}"
    if isinstance(applied, LeakError):
        kinds = ", ".join(dict.fromkeys(leak.kind for leak in applied.refused))
        yield f"the splits share {kinds}, which the protocol ({protocol}) doesn't allow"
    elif isinstance(applied, ProtocolError):
        yield f"the protocol ({protocol}) can't be applied: {applied}"


def _apply(
    corpus: Corpus, table: pd.DataFrame, protocol: str, allow: bool, keys: npt.NDArray[np.bytes_] | None = None
) -> Plan | ProtocolError:
    """The protocol's plan, or why there is none."""
    if not len(table):
        return ProtocolError("no utterance is usable")
    try:
        return apply_protocol(table, protocol, allow, corpus.name, keys)
    except ProtocolError as error:
        return error


# The audio.


def _clips(table: pd.DataFrame) -> Iterator[Clip | None]:
    """The clip of every row, None for absent audio."""
    for path, start, end in zip(table["audio"], table["start"], table["end"], strict=True):
        first, last = (None if pd.isna(value) else float(value) for value in (start, end))
        yield None if pd.isna(path) else Clip(Path(path), first, last)


def _listen_to_all(
    corpus: Corpus, table: pd.DataFrame, known: Iterable[Problem], store: FeatureStore
) -> tuple[dict[int, Sound], list[Problem]]:
    """What is kept of every row's audio, and what is wrong with it beyond what is ``known``."""
    from rich.console import Console
    from rich.progress import track

    clips = list(_clips(table))
    distinct = [clip for clip in dict.fromkeys(clips) if clip is not None]
    digests = FileDigests(store.root / "digests.tsv")
    with ThreadPoolExecutor(min(MOST_THREADS, os.cpu_count() or 1)) as pool:  # each holds a whole clip
        try:
            results = pool.map(lambda clip: _listen(clip, digests), distinct)
            shown = track(results, "decoding", len(distinct), console=Console(stderr=True), transient=True)
            found = dict(zip(distinct, shown, strict=True))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    digests.save()
    said = {(problem.position, problem.remedy) for problem in known}
    sounds, problems = {}, []
    for position, clip in enumerate(clips):
        heard = found[clip] if clip else None
        if isinstance(heard, Sound):
            sounds[position] = heard
        elif isinstance(heard, AudioError) and (position, heard.remedy) not in said:
            row = table.iloc[position]
            line = int(row["row"]) if "row" in table.columns and not pd.isna(row["row"]) else None
            problems.append(Problem(corpus.index_file, line, f"{row['audio']}: {heard.what}", heard.remedy, position))
    return sounds, problems


def _listen(clip: Clip, digests: FileDigests) -> Sound | AudioError:
    """Everything that needs a clip's bytes or samples, so that it is read once and its samples aren't kept."""
    try:
        info = inspect_clip(clip)
        samples = load_clip(clip, info.sample_rate)
    except AudioError as error:
        return error
    digests[clip.path]  # remembered there
    loudness = 10 * np.log10(np.square(samples, dtype=np.float64).mean() + 1e-12)
    return Sound(info, float(loudness), fingerprint(resample(samples, info.sample_rate, RATE)))


# The page.


def _overview(corpus: Corpus, table: pd.DataFrame, usable: pd.DataFrame, heard: Sequence[Sound | None]) -> Section:
    seconds = sum(sound.info.seconds for sound in heard if sound)
    known = usable[["speaker", "dialogue", "session"]].nunique()
    facts: list[tuple[Cell, ...]] = [
        ("utterances", f"{len(table):,}"),
        ("usable", f"{len(usable):,}"),
        ("with audio", f"{usable['audio'].notna().sum():,}"),
        ("with text", f"{usable['text'].notna().sum():,}"),
        ("hours of audio", f"{seconds / 3600:.2f}"),
        *((f"{column}s", f"{number:,}") for column, number in known.items() if number),
        ("read from", str(corpus.index_file)),
    ]
    return Section("Overview", tables=(Table("The corpus", ("what", "found"), tuple(facts)),))


def _official(corpus: Corpus, usable: pd.DataFrame) -> Section:
    """The usable utterances against those of the complete release."""
    tables = []
    for columns, known in corpus.official_counts().items():
        found = usable.groupby(list(columns)).size()
        have = {key if isinstance(key, tuple) else (key,): int(count) for key, count in found.items()}
        rows: list[tuple[Cell, ...]] = []
        marked = set()
        for values in dict.fromkeys([*known, *have]):
            number, official = have.get(values, 0), known.get(values, 0)
            right = number == official if official is not None else number > 0
            if not right:
                marked.add(len(rows))
            difference = "" if right else f"{number - official:+,}" if official is not None else "missing"
            rows.append((*map(str, values), number, "some" if official is None else official, difference))
        heads = (*columns, "found", "official", "difference")
        tables.append(Table(f"By {' and '.join(columns)}", heads, tuple(rows), frozenset(marked)))
    text = () if tables else ("No published counts to compare with.",)
    return Section("Counts against the release", text, tables=tuple(tables))


def _by_split(usable: pd.DataFrame) -> "pd.Series[str]":
    """Every row's own split; ``all`` where the corpus has none."""
    return usable["split"].fillna(NONE) if usable["split"].notna().any() else pd.Series("all", usable.index)


def _ordered(splits: Iterable[Hashable]) -> list[str]:
    return sorted(map(str, splits), key=lambda name: (SPLITS.index(name) if name in SPLITS else len(SPLITS), name))


def _counts(usable: pd.DataFrame, applied: Plan | ProtocolError) -> Section:
    """Labels and speakers by split; in a multi-label task an utterance counts once for each of its labels."""
    splits = _by_split(usable)
    names = _ordered(splits.unique())
    total = splits.value_counts()[names].tolist()
    labels, more = usable["label"], ""
    if isinstance(applied, Plan) and applied.task == "multilabel":
        labels, more = applied.relabel(usable)["label"].str.split("+"), "; an utterance may have several labels"
    tables = []
    for column, values in (("label", labels), ("speaker", usable["speaker"])):
        if values.notna().any():
            each = values.fillna(NONE).explode()
            found = pd.crosstab(each, splits[each.index].array)[names]
            if len(names) > 1:
                found["all"] = found.sum(axis=1)
            rows: list[tuple[Cell, ...]] = [(str(row[0]), *map(int, row[1:])) for row in found.itertuples(name=None)]
            rows.append(("all", *total, *([len(usable)] if len(names) > 1 else [])))
            caption = f"Utterances by {column} and split{more if column == 'label' else ''}"
            tables.append(Table(caption, (column, *found.columns), tuple(rows)))
    own = () if usable["split"].notna().any() else ("The corpus has no splits of its own.",)
    return Section("Labels and speakers", own, tables=tuple(tables))


def _sound(usable: pd.DataFrame, heard: Sequence[Sound | None]) -> Section:
    """Durations, loudness and formats of the usable clips."""
    if not any(heard):
        return Section("Sound", ("No utterance has audio.",))
    rows = [n for n, sound in enumerate(heard) if sound]
    facts = pd.DataFrame(
        [(s.info.seconds, s.loudness, s.info.sample_rate, s.info.channels) for s in heard if s],
        columns=["seconds", "loudness", "rate", "channels"],
    ).assign(split=_by_split(usable).iloc[rows].array, suffix=[Path(p).suffix.lower() for p in usable["audio"].iloc[rows]])
    names = _ordered(facts["split"].unique())
    plots, tables = [], []
    for caption, unit, column in (("Durations", "s", "seconds"), ("Loudness", "dBFS", "loudness")):
        values = {name: facts.loc[facts["split"] == name, column].to_numpy(float) for name in names}
        plots.append(Plot(f"{caption} by split", unit, values, logarithmic=column == "seconds"))
        quantiles = tuple(
            (name, *(f"{value:.2f}" if unit == "s" else f"{value:.1f}" for value in np.quantile(of_split, (0, 0.05, 0.5, 0.95, 1))))
            for name, of_split in values.items()
        )
        tables.append(Table(f"{caption} in {unit}", ("split", "least", "5 %", "median", "95 %", "most"), quantiles))
    formats = (
        facts.groupby(["suffix", "rate", "channels"], as_index=False).size().sort_values("size", ascending=False, kind="stable")
    )
    kinds = tuple((str(row[0]), f"{row[1]:,} Hz", int(row[2]), int(row[3])) for row in formats.itertuples(index=False, name=None))
    tables.append(Table("Formats", ("file", "sample rate", "channels", "clips"), kinds))
    return Section("Sound", plots=tuple(plots), tables=tuple(tables))


def _worth_a_look(table: pd.DataFrame, usable: pd.DataFrame, heard: Sequence[Sound | None]) -> Section:
    """The release's own notes, and unusual utterances: nothing that must be mended."""
    ids = usable["utterance_id"].tolist()
    items = list(table.attrs.get("notes", ()))
    for what, names in (
        (f"longer than {LONG:g} s", [i for i, s in zip(ids, heard, strict=True) if s and s.info.seconds > LONG]),
        (f"shorter than {SHORT:g} s", [i for i, s in zip(ids, heard, strict=True) if s and s.info.seconds < SHORT]),
        (f"silent (below {QUIET:g} dBFS)", [i for i, s in zip(ids, heard, strict=True) if s and s.loudness < QUIET]),
        ("without text", usable.loc[usable["text"].isna(), "utterance_id"].tolist()),
        ("without audio", usable.loc[usable["audio"].isna(), "utterance_id"].tolist()),
    ):
        if names:
            items.append(f"{_number(len(names), 'utterance is', 'utterances are')} {what}: {_some(names)}")
    return Section("Worth a look", () if items else ("Nothing unusual.",), tuple(items))


def _duplicates(usable: pd.DataFrame, keys: npt.NDArray[np.bytes_], copies: Sequence[Pair]) -> Section:
    """Utterances that are the same as others, wherever they are."""
    audio = pd.Series([key.hex() for key in keys.tolist()], usable.index, dtype="str")
    audio = audio.mask(audio == "")
    text = usable["text"].astype("str")  # of another type where no utterance has any
    items = []
    for what, values in (("audio", audio), ("text", text), ("audio and text", audio + text)):
        same = values.notna() & values.duplicated(keep=False)
        if same.any():
            some = _some(usable.loc[same, "utterance_id"].tolist())
            items.append(f"{_number(int(same.sum()), 'utterance has', 'utterances have')} the same {what} as another one: {some}")
    tables: tuple[Table, ...] = ()
    if copies:
        ids, splits = usable["utterance_id"].tolist(), _by_split(usable).tolist()
        rows = tuple((ids[one], splits[one], ids[other], splits[other], f"{errors:.1%}") for one, other, errors in copies)
        caption = "Near-duplicate audio: the same recording amplified, resampled, recoded, trimmed or padded"
        tables = (Table(caption, ("utterance", "split", "and", "split", "bits that differ"), rows),)
        items.append(f"{_number(len(copies), 'pair of clips is', 'pairs of clips are')} the same recording in different files")
    return Section("Duplicates", () if items else ("None.",), tuple(items), tables=tables)


def _leaks(usable: pd.DataFrame, asked: str, applied: Plan | ProtocolError, keys: npt.NDArray[np.bytes_]) -> Section:
    """What the protocol's splits share; what the corpus's own splits share where it can't be applied."""
    if isinstance(applied, Plan):
        folds = tuple((fold.number, len(fold.train), len(fold.val), len(fold.test)) for fold in applied.folds)
        tables = [Table(f"Folds of {applied.protocol}", ("fold", *SPLITS), folds), *_shared(applied.leaks, ())]
        words = f"Protocol {applied.protocol}: {len(applied.classes)} classes, ranked by {applied.headline}."
        return Section("Leaks between splits", (words, *_nothing(applied.leaks)), applied.caveats, tables=tuple(tables))
    if isinstance(applied, LeakError):
        return Section("Leaks between splits", (str(applied),), tables=tuple(_shared(applied.leaks, applied.refused)))
    text = f"The protocol ({asked}) can't be applied: {applied}."
    if not usable["split"].notna().any():
        return Section("Leaks between splits", (text,))
    own = Splits(0, *(tuple(usable.loc[usable["split"] == name, "utterance_id"]) for name in SPLITS))
    leaks = find_leaks(usable, [own], keys)
    return Section(
        "Leaks between splits", (text, "What the corpus's own splits share:", *_nothing(leaks)), tables=tuple(_shared(leaks, None))
    )


def _nothing(leaks: Sequence[Leak]) -> tuple[str, ...]:
    return () if leaks else ("The splits share nothing.",)


def _shared(leaks: Sequence[Leak], refused: Sequence[Leak] | None) -> Iterator[Table]:
    """One row per kind and pair of splits, over all folds; ``refused`` None where nobody judges."""
    by_kind: dict[tuple[str, tuple[str, str]], list[Leak]] = {}
    for leak in leaks:
        by_kind.setdefault((leak.kind, leak.pair), []).append(leak)
    rows: list[tuple[Cell, ...]] = []
    marked = set()
    for (kind, (one, other)), found in by_kind.items():
        if refused and any(leak in refused for leak in found):
            marked.add(len(rows))
        allowed = () if refused is None else ("no" if len(rows) in marked else "yes",)
        values = {value for leak in found for value in leak.values}
        share = f"{max(leak.share for leak in found):.0%}"
        examples = _some(found[0].examples if COLUMNS[kind] == "audio" else found[0].values)
        rows.append((kind, f"{one}, {other}", len(values), share, *allowed, examples))
    if rows:
        heads = ("what", "in", "shared", "share", *(() if refused is None else ("allowed",)), "such as")
        caption = "Shared by splits, and the part of the second split's utterances concerned (the largest of all folds)"
        yield Table(caption, heads, tuple(rows), frozenset(marked))


def _protocols(corpus: Corpus, usable: pd.DataFrame, asked: str, allow: bool, keys: npt.NDArray[np.bytes_]) -> Section:
    """Which protocols the corpus allows, and why not the others."""
    rows: list[tuple[Cell, ...]] = []
    for name in list_protocols(corpus.name):
        speakers = usable["speaker"].nunique()
        if name == FOR_ANY.name and name != asked and speakers > MOST_FOLDS:
            rows.append((name, "not tried", f"{speakers:,} folds; ask for it with --protocol"))
        elif name != "auto":
            applied = _apply(corpus, usable, name, allow, keys)
            folds = _number(len(applied.folds), "fold", "folds") if isinstance(applied, Plan) else ""
            rows.append((name, *(("yes", folds) if isinstance(applied, Plan) else ("no", str(applied)))))
    return Section("Protocols", tables=(Table("Which can be applied", ("protocol", "possible", "folds, or why not"), tuple(rows)),))


def _number(count: int, one: str, many: str) -> str:
    return f"{count:,} {one if count == 1 else many}"


def _some(names: Sequence[object]) -> str:
    return ", ".join(str(name)[:40] for name in names[:3]) + (" …" if names[3:] else "")
