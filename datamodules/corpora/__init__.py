"""Corpora: one file per data set; the file's stem is the corpus's name.

A corpus reads a data set's official files into one table of utterances. It emits facts and decides nothing: label maps
and splits belong to ``protocols``. A new corpus is one new file here with one subclass of `Corpus`; nothing else is edited.
"""

import pkgutil
from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar, NamedTuple

import pandas as pd

from datamodules.problems import BadInputError, Problem
from datamodules.registry import find_class

COLUMNS = (
    "utterance_id",
    "audio",
    "start",
    "end",
    "text",
    "label",
    "speaker",
    "dialogue",
    "turn",
    "session",
    "split",
)


class Reading(NamedTuple):
    """What a corpus's files hold: the table, and what is wrong with it."""

    table: pd.DataFrame
    problems: list[Problem]


class Corpus(ABC):
    """One data set on disk.

    Attributes:
        version: Release of the data set; part of every run's fingerprint.
        licence: Terms under which the data may be used.
        citation: The paper to cite.
        source: Where to get the files.
        slices: Extra columns by which the leaderboard also breaks accuracy down.
    """

    version: ClassVar[str]
    licence: ClassVar[str]
    citation: ClassVar[str]
    source: ClassVar[str]
    slices: ClassVar[tuple[str, ...]] = ()

    def __init__(self, root: Path | None = None) -> None:
        """Name the folder (or file) that holds the data; None means the corpus's own default."""
        if root is None:
            name = type(self).__module__.rpartition(".")[2]
            what = "its folder or file isn't named"
            raise BadInputError([Problem(Path(name), None, what, f"pass it with --root; get it from {self.source}")])
        self.root = Path(root)

    @property
    def name(self) -> str:
        """The name used on the command line and in results: the stem of the corpus's file."""
        return type(self).__module__.rpartition(".")[2]

    @abstractmethod
    def read(self) -> Reading:
        """Read the official files.

        Returns:
            The table, and every problem found in it. The table has one row per utterance with at least `COLUMNS`:
            ``utterance_id`` (unique), ``audio`` (absolute path, or null where the utterance has none), ``start`` and
            ``end`` (seconds within the file, or null for the whole file), ``text`` (or null), ``label`` (the corpus's
            own), ``speaker``, ``dialogue``, ``turn`` (order within the dialogue), ``session`` and ``split`` (``train``,
            ``val``, ``test``), each null where the data set doesn't say. Extra columns are kept. The column ``row``
            (line in `index_file`, or null) lets an error point at the line to mend; ``seconds`` (length of the clip, or
            null) saves opening the file again. ``table.attrs["notes"]`` may list what a reader of the results should know and
            nobody can mend, such as clips known to be damaged in the release.

        Raises:
            BadInputError: If the files can't be read as a table at all.
        """

    def table(self, skip_bad: bool = False) -> pd.DataFrame:
        """The table of `read` without bad rows.

        Args:
            skip_bad: Leave out the rows that have a problem instead of raising; ``table.attrs["rows"]`` keeps how many there were
                and ``table.attrs["problems"]`` what was wrong. ``table.attrs["notes"]`` are those of `read`.

        Raises:
            BadInputError: With every problem found, unless ``skip_bad`` and leaving out rows cures them.
        """
        return self.usable(self.read(), skip_bad)

    @staticmethod
    def usable(reading: Reading, skip_bad: bool = False) -> pd.DataFrame:
        """The table of a reading; see `table`."""
        table, problems = reading
        fatal = [problem for problem in problems if problem.position is None and not problem.partial]
        if problems and (fatal or not skip_bad):
            raise BadInputError(problems)
        rows, notes = len(table), list(table.attrs.get("notes", ()))
        if problems:
            bad = sorted({problem.position for problem in problems if problem.position is not None})
            table = table.drop(index=table.index[bad]).reset_index(drop=True)
        if rows and not len(table):
            raise BadInputError(problems)
        table.attrs = {"rows": rows, "problems": [str(problem) for problem in problems], "notes": notes}
        return table

    def official_counts(self) -> dict[tuple[str, ...], dict[tuple[str, ...], int | None]]:
        """What the complete release holds: columns -> their values -> utterances, None where only some must be."""
        return {}

    @property
    def index_file(self) -> Path:
        """The file that an error about a row should name."""
        return self.root


def list_corpora() -> list[str]:
    """Names of all corpora, sorted."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def get_corpus(name: str) -> type[Corpus]:
    """The class of the corpus called ``name``.

    Raises:
        UnknownNameError: If there is none; the message lists the near names.
    """
    return find_class("corpus", name, list_corpora(), __name__, Corpus)  # type: ignore[type-abstract]


def open_corpus(name_or_path: str, root: Path | None = None, encoding: str | None = None) -> Corpus:
    """A corpus by name, or the manifest at a path.

    Args:
        name_or_path: A name of `list_corpora`, or the path of a CSV manifest.
        root: The folder of a named corpus; None for its default.
        encoding: A manifest's encoding if it isn't UTF-8, such as ``cp1252``.

    Raises:
        UnknownNameError: If it is neither a corpus nor an existing file.
    """
    if name_or_path == "manifest" and root is not None:
        name_or_path = str(root)
    if name_or_path.endswith(".csv") or Path(name_or_path).is_file():
        from datamodules.corpora.manifest import Manifest

        return Manifest(Path(name_or_path), encoding or "utf-8-sig")
    return get_corpus(name_or_path)(root)
