"""Corpora with one sound file per utterance whose name says who speaks which sentence in which emotion.

A corpus of this kind states the pattern of its names and what the parts mean; walking the folder, finding copies, foreign
names and unreadable files, and comparing with the release's counts is done here.
"""

import os
import re
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import ClassVar

import pandas as pd

from datamodules.audio import AudioError, Clip, inspect_clip
from datamodules.corpora import COLUMNS, Corpus, Reading
from datamodules.problems import BadInputError, Problem

SOUND = (".wav", ".flac")
ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".rar", ".7z")
MOST_NAMED = 6
"""How many differing groups a message about counts names."""

PARTIAL = "copy the rest, or pass --skip-bad to use what is there; such results compare with no others"
Facts = dict[str, object]


class NamedFiles(Corpus):
    """A folder tree of WAV or FLAC files; the stem of a file is its utterance's id, unless `identify` says otherwise.

    Attributes:
        pattern: What a file's id must match in full; its groups go to `describe`.
        example: Such an id, for the message about one that doesn't match.
        foreign: Stems that belong to the release and hold something else, such as songs; they are passed over, with a note.
        counts: Column -> value -> how many utterances of the full release have it; None where only some must.
        silent: Ids of files that the release has without sound -> what is known about them; their audio is absent.
    """

    pattern: ClassVar[re.Pattern[str]]
    example: ClassVar[str]
    foreign: ClassVar[re.Pattern[str] | None] = None
    counts: ClassVar[Mapping[str, Mapping[str, int | None]]] = {}
    silent: ClassVar[Mapping[str, str]] = {}

    def identify(self, path: Path) -> str:
        """A file's id: its stem. Override it where the stem alone isn't unique, as where the folder says who speaks."""
        return path.stem

    @abstractmethod
    def describe(self, parts: re.Match[str], path: Path) -> Facts:
        """The columns of `Corpus.read` that a file's name gives, and extra ones such as ``sentence``.

        Args:
            parts: The match of `pattern`.
            path: The file.

        Raises:
            ValueError: If the name contradicts itself or its folder; the message says how.
        """

    def refine(self, table: pd.DataFrame, notes: list[str]) -> Iterator[Problem]:
        """Fill in what isn't in the names, such as transcripts; yields what is wrong with it."""
        yield from ()

    def official_counts(self) -> dict[tuple[str, ...], dict[tuple[str, ...], int | None]]:
        """The release's utterances by each column of `counts`."""
        return {(column,): {(value,): count for value, count in known.items()} for column, known in self.counts.items()}

    def read(self) -> Reading:
        """Read the names of all files, and their headers; see `Corpus.read`."""
        paths, problems, notes = find_sounds(self.root, self.name, self.source)
        songs = [path for path in paths if self.foreign and self.foreign.fullmatch(path.stem)]
        if songs:
            notes.append(
                f"{len(songs)} files of the release that aren't part of this corpus were passed over, such as {songs[0].name}"
            )
            passed = set(songs)
            paths = [path for path in paths if path not in passed]
            if not paths:
                what = f"it holds only files that aren't part of {self.name}, such as {songs[0].name}"
                raise BadInputError(
                    [Problem(self.root, None, what, f"name files like {self.example}; get them from {self.source}")]
                )
        rows: list[Facts] = []
        seen: dict[str, Path] = {}
        for position, path in enumerate(paths):
            row, faults = self._row(path, seen)
            rows.append(row)
            problems += [Problem(path, None, what, remedy, position) for what, remedy in faults]
        extra = [name for name in dict.fromkeys(name for row in rows for name in row) if name not in COLUMNS]
        table = pd.DataFrame(rows, columns=[*COLUMNS, *extra])
        problems += self.refine(table, notes)
        table["text"] = table["text"].astype("str")  # of that type even where no utterance has any
        known = [f"{stem}: {self.silent[stem]}" for stem in table["utterance_id"] if stem in self.silent]
        table.attrs["notes"] = notes + known
        bad = {problem.position for problem in problems}
        sound = table[[position not in bad for position in range(len(table))]]
        problems += compare_counts(self.root, sound, self.counts)
        return Reading(table, problems)

    def _row(self, path: Path, seen: dict[str, Path]) -> tuple[Facts, list[tuple[str, str]]]:
        """One file's columns, and what is wrong with it: what and remedy."""
        name = self.identify(path)
        row: Facts = {"utterance_id": name, "audio": str(path), "seconds": None}
        faults = []
        first = seen.setdefault(name, path)
        if first is not path:
            faults.append((f"it has the same name as {first}", "keep one of the two"))
        parts = self.pattern.fullmatch(name)
        if parts is None:
            row["utterance_id"] = path.relative_to(self.root).as_posix()
            faults.append((f"its name is not one of {self.name}", f"names look like {self.example}; move other files elsewhere"))
        else:
            try:
                row |= self.describe(parts, path)
            except ValueError as error:
                faults.append((str(error), f"names look like {self.example}; restore the file from {self.source}"))
        if name in self.silent:
            row["audio"] = None
            return row, faults
        try:
            row["seconds"] = inspect_clip(Clip(path)).seconds
        except AudioError as error:
            faults.append((error.what, error.remedy))
        return row, faults


def find_sounds(
    root: Path, name: str, source: str, wanted: Callable[[Path], bool] = lambda path: path.suffix.lower() in SOUND
) -> tuple[list[Path], list[Problem], list[str]]:
    """All sound files under a folder.

    Files that macOS adds (``._name``, ``__MACOSX``) and everything that isn't sound are passed over. Symbolic links are followed,
    each folder once.

    Returns:
        Absolute paths in the order of their names, what couldn't be read, and notes on what was passed over.

    Raises:
        BadInputError: If there is no such folder, or no sound in it.
    """
    remedy = f"name the folder of {name} with --root; get it from {source}"
    if not root.is_dir():
        what = "is not a folder" if root.exists() else "there is no such folder"
        unpack = "unpack it and " if root.suffix.lower() in ARCHIVES else ""
        raise BadInputError([Problem(root, None, what, unpack + remedy)])
    found: list[Path] = []
    problems: list[Problem] = []
    archives: list[str] = []
    added = 0
    visited: set[Path] = set()

    def unreadable(error: OSError) -> None:
        problems.append(Problem(Path(error.filename), None, f"the folder can't be read ({error.strerror})", "permit reading it"))

    for folder, folders, files in os.walk(root.absolute(), onerror=unreadable, followlinks=True):
        real = Path(folder).resolve()
        if real in visited:
            folders.clear()
            continue
        visited.add(real)
        folders[:] = sorted(inner for inner in folders if inner != "__MACOSX")
        for file in sorted(files):
            path = Path(folder, file)
            if not wanted(path):
                archives += [file] if path.suffix.lower() in ARCHIVES else []
            elif file.startswith("."):
                added += 1
            else:
                found.append(path)
    if not found:
        what = "no sound file is in it" + (f", only archives ({', '.join(archives[:MOST_NAMED])})" if archives else "")
        raise BadInputError([*problems, Problem(root, None, what, f"{'unpack them, or ' if archives else ''}{remedy}")])
    notes = [f"{added} hidden files, such as macOS adds, were passed over"] if added else []
    return found, problems, notes


def compare_counts(root: Path, table: pd.DataFrame, counts: Mapping[str, Mapping[str, int | None]]) -> Iterator[Problem]:
    """Compare a table with what the full release holds; one problem for each column that differs.

    Args:
        root: The folder to name.
        table: The usable rows.
        counts: As of `NamedFiles.counts`.
    """
    for column, expected in counts.items():
        have = table[column].value_counts().to_dict()
        differing = []
        for value, number in expected.items():
            held = int(have.pop(value, 0))
            if held != number and not (number is None and held):
                differing.append(f"{value} has {held or 'none'}" + (f" of {number}" if number is not None else ""))
        differing += [f"{value} has {held} and isn't in the release" for value, held in have.items()]
        if differing:
            numbers = [number for number in expected.values() if number is not None]
            total = f" of {sum(numbers)}" if len(numbers) == len(expected) else ""
            some = "; ".join(differing[:MOST_NAMED]) + (
                f"; and {len(differing) - MOST_NAMED} more" if differing[MOST_NAMED:] else ""
            )
            what = f"{len(table)}{total} usable utterances; by {column}, {some}"
            yield Problem(root, None, what, PARTIAL, partial=True)
