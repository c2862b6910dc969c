"""The doctor: examines a corpus before anyone trains on it, and says what a table of scores wouldn't."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd

from datamodules.audio import AudioError, AudioInfo, Clip, inspect_clip, load_clip
from datamodules.corpora import Corpus
from datamodules.problems import Problem
from datamodules.store import FileDigests

LONG, SHORT = 30.0, 0.3
"""Seconds beyond which a clip is named as unusual."""

SILENT = -60.0
"""Loudness in dBFS (root mean square) below which a clip counts as silent."""


@dataclass(frozen=True)
class Findings:
    """What the doctor found: the page to read, and whether nothing needs mending."""

    text: str
    healthy: bool


def examine(corpus: Corpus) -> Findings:
    """Read every row and decode every clip of a corpus.

    Returns:
        Coverage, durations, sample rates, loudness, duplicates, counts by label, speaker and split, and what the splits share.

    Raises:
        BadInputError: If the corpus can't be read as a table at all.
    """
    table, problems = corpus.read()
    clips, audio_problems, infos, loudness = _decode(corpus, table, problems)
    bad = {p.position for p in [*problems, *audio_problems] if p.position is not None}
    content = _audio_content({position: clips[position] for position in infos}).reindex(table.index)
    leaks = list(_shared(table, content))
    seconds = pd.Series([info.seconds for info in infos.values()], dtype=float)
    sections = [
        f"{corpus.name} {corpus.version} ({corpus.index_file})\nlicence: {corpus.licence}\ncite: {corpus.citation}",
        f"coverage: {len(table) - len(bad)} of {len(table)} utterances are usable",
        f"modalities: {int(table['audio'].notna().sum())} with audio, {int(table['text'].notna().sum())} with text",
    ]
    if len(seconds):
        quantiles = ", ".join(
            f"{name} {seconds.quantile(q):.2f}"
            for name, q in [("min", 0), ("5 %", 0.05), ("median", 0.5), ("95 %", 0.95), ("max", 1)]
        )
        sections.append(f"durations in s: {quantiles}; {seconds.sum() / 3600:.2f} h in all")
        rates = pd.Series([f"{info.sample_rate} Hz, {info.channels} channel(s)" for info in infos.values()]).value_counts()
        sections.append("formats: " + "; ".join(f"{count} at {rate}" for rate, count in rates.items()))
        levels = np.array(list(loudness.values()))
        sections.append(f"loudness in dBFS: median {np.median(levels):.1f}, from {levels.min():.1f} to {levels.max():.1f}")
    sections.append(_counts(table, "label"))
    if table["speaker"].notna().any():
        sections.append(_counts(table, "speaker"))
    notes = [*table.attrs.get("notes", ()), *_unusual(table, infos, loudness), *_duplicates(table, content)]
    if notes:
        sections.append("worth a look:\n" + "\n".join(f"  {note}" for note in notes))
    sections.append(
        "shared between splits:\n" + "\n".join(f"  {leak}" for leak in leaks) if leaks else "shared between splits: nothing"
    )
    every = sorted({*problems, *audio_problems}, key=lambda p: (p.row or 0, p.what))
    if every:
        sections.append(f"{len(every)} problems:\n" + "\n".join(f"  {problem}" for problem in every))
    return Findings("\n\n".join(sections), not every and not any(leak.startswith("LEAK") for leak in leaks))


def _decode(
    corpus: Corpus, table: pd.DataFrame, known: list[Problem]
) -> tuple[dict[int, Clip], list[Problem], dict[int, AudioInfo], dict[int, float]]:
    """Every row's clip, what is wrong with its audio beyond what is ``known``, and for the sound ones header and loudness."""
    from rich.console import Console
    from rich.progress import track

    clips, problems, infos, loudness = {}, [], {}, {}
    columns = zip(table.index, table["audio"], table["start"], table["end"], strict=True)
    decoded: dict[Clip, tuple[AudioInfo, float] | AudioError] = {}
    for position, path, start, end in track(list(columns), "decoding", console=Console(stderr=True), transient=True):
        if pd.isna(path):
            continue
        clip = Clip(Path(path), None if pd.isna(start) else float(start), None if pd.isna(end) else float(end))
        clips[position] = clip
        if clip not in decoded:
            try:
                info = inspect_clip(clip)
                samples = load_clip(clip, info.sample_rate)
                level = 10 * np.log10(np.mean(samples.astype(np.float64) ** 2) + 1e-12)
                decoded[clip] = info, float(level)
            except AudioError as error:
                decoded[clip] = error
        found = decoded[clip]
        if isinstance(found, AudioError):
            if any(p.position == position and p.what.endswith(found.what) for p in known):
                continue
            row = table.loc[position]
            line = int(row["row"]) if "row" in table.columns and not pd.isna(row["row"]) else None
            problems.append(Problem(corpus.index_file, line, f"{row['audio']}: {found.what}", found.remedy, position))
        else:
            infos[position], loudness[position] = found
    return clips, problems, infos, loudness


def _counts(table: pd.DataFrame, column: str) -> str:
    split = table["split"].fillna("(none)")
    counts = pd.crosstab(table[column].fillna("(none)"), split, margins=True, margins_name="all")
    order = [name for name in ("train", "val", "test", "(none)", "all") if name in counts.columns]
    return f"utterances by {column} and split:\n{counts[order].rename_axis(None).rename_axis(None, axis=1).to_string()}"


def _unusual(table: pd.DataFrame, infos: dict[int, AudioInfo], loudness: dict[int, float]) -> Iterator[str]:
    for what, rows in (
        (f"longer than {LONG:g} s", [p for p, info in infos.items() if info.seconds > LONG]),
        (f"shorter than {SHORT:g} s", [p for p, info in infos.items() if info.seconds < SHORT]),
        (f"silent (below {SILENT:g} dBFS)", [p for p, level in loudness.items() if level < SILENT]),
        ("without text", table.index[table["text"].isna()].tolist()),
        ("without audio", table.index[table["audio"].isna()].tolist()),
    ):
        if rows:
            some = ", ".join(str(name) for name in table.loc[rows[:3], "utterance_id"])
            yield f"{len(rows)} utterances are {what}: {some}{' …' if len(rows) > 3 else ''}"


def _audio_content(clips: dict[int, Clip]) -> pd.Series:
    """A digest of every clip's file and bounds, by row."""
    digests = FileDigests(None)
    return pd.Series({p: f"{digests[clip.path]} {clip.start} {clip.end}" for p, clip in clips.items()}, dtype="str")


def _duplicates(table: pd.DataFrame, content: pd.Series) -> Iterator[str]:
    pairs = (content + table["text"]).dropna()
    for what, values in (
        ("the same audio", content.dropna()),
        ("the same text", table["text"].dropna()),
        ("the same audio and text", pairs),
    ):
        count = int(values.duplicated(keep=False).sum())
        if count:
            yield f"{count} utterances have {what} as another one"


def _shared(table: pd.DataFrame, content: pd.Series) -> Iterator[str]:
    """Speakers, dialogues, transcripts and clips that two splits have in common; LEAK marks what inflates a score."""
    facts = {
        "LEAK: speakers": table["speaker"],
        "LEAK: dialogues": table["dialogue"],
        "LEAK: audio clips": content,
        "transcripts": table["text"],
    }
    for what, values in facts.items():
        by_split = {str(name): set(values[group.index].dropna().astype(str)) for name, group in table.groupby("split")}
        for one, other in combinations(sorted(by_split), 2):
            common = sorted(by_split[one] & by_split[other])
            if common:
                examples = (
                    "" if "audio" in what else ": " + ", ".join(repr(c[:40]) for c in common[:3]) + (" …" if common[3:] else "")
                )
                yield f"{what} in {one} and {other}: {len(common)}{examples}"
