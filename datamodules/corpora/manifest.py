"""Any corpus as one CSV file: ``utterance_id, audio, text, label`` and what else is known about each utterance.

``audio`` is a path relative to the CSV; ``start`` and ``end`` cut a part out of it, in seconds. An empty ``audio`` or ``text``
says that the utterance doesn't have that modality. ``speaker``, ``dialogue``, ``turn``, ``session`` and ``split`` are
optional; further columns are kept.
"""

import csv
import math
import os
from collections.abc import Callable, Iterator
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from datamodules.audio import AudioError, Clip, inspect_clip
from datamodules.corpora import COLUMNS, Corpus, Reading
from datamodules.problems import BadInputError, Problem

csv.field_size_limit(2**20)  # a transcript may be long; the default stops at 131,072 characters
REQUIRED = ("utterance_id", "audio", "text", "label")
SPLITS = {"train": "train", "val": "val", "dev": "val", "valid": "val", "validation": "val", "test": "test"}
PART = 1000
"""Rows read at a time."""


class Manifest(Corpus):
    """A CSV file in UTF-8."""

    version = "-"
    licence = "as stated by its owner"
    citation = "-"
    source = "a CSV file of your own"

    def __init__(self, root: Path | None = None, encoding: str = "utf-8-sig") -> None:
        """Name the CSV file and, if it isn't UTF-8, its encoding."""
        super().__init__(root)
        self.encoding = encoding

    @property
    def name(self) -> str:
        """The manifest's folder and file, such as ``paired/manifest``."""
        path = self.root.resolve()
        return f"{path.parent.name}/{path.stem}"

    def read(self) -> Reading:
        """Read the CSV; see `Corpus.read`."""
        self._check_encoding()
        problems: list[Problem] = []
        parts: list[pd.DataFrame] = []
        seconds = lru_cache(PART)(_seconds)  # several rows may name one clip
        rows = self._rows(problems)
        # A part at a time, because a row of Python's strings takes ten times the memory of a row of the table.
        while part := list(islice(rows, PART)):
            parts.append(self._table(part, len(parts) * PART, seconds, problems))
        if not parts:
            raise BadInputError([Problem(self.root, None, "the file has a header and no rows", "add one row per utterance")])
        table = pd.concat(parts)
        problems += self._duplicates(table)
        table["split"] = table["split"].map(SPLITS)
        return Reading(table, sorted(problems, key=lambda problem: problem.row or 0))

    def _check_encoding(self) -> None:
        """Read all of the file once, so that every line that doesn't decode is named, and nothing else."""
        if not self.root.is_file():
            raise BadInputError([Problem(self.root, None, "there is no such file", "name a CSV manifest")])
        try:
            with self.root.open(encoding=self.encoding) as file:
                for _ in file:
                    pass
        except UnicodeDecodeError:
            raise BadInputError(self._undecodable(self.root.read_bytes())) from None
        except LookupError as error:
            raise BadInputError([Problem(self.root, None, str(error), "name one that Python knows, such as cp1252")]) from None

    def _table(
        self, rows: list[dict[str, str]], first: int, seconds: Callable[[Clip], float | AudioError], problems: list[Problem]
    ) -> pd.DataFrame:
        """The rows as columns, indexed from ``first`` on; appends what is wrong within single rows to ``problems``."""
        table = pd.DataFrame(rows, pd.RangeIndex(first, first + len(rows)), dtype="str").replace("", None)
        extra = [column for column in table.columns if column not in COLUMNS]
        table = table.reindex(columns=[*COLUMNS, *extra])
        lengths: list[float | None] = []
        problems += self._cells(table, seconds, lengths)
        table["seconds"] = pd.Series(lengths, table.index, dtype="float64")
        table["audio"] = pd.Series([None if pd.isna(a) else str(self._path(a)) for a in table["audio"]], table.index, dtype="str")
        for column in ("start", "end", "turn"):
            table[column] = pd.to_numeric(table[column], errors="coerce")
        table["row"] = table["row"].astype(int)
        return table

    def _path(self, audio: str) -> Path:
        # Manifests written on Windows separate folders by a backslash.
        return Path(os.path.abspath(self.root.parent / audio.replace("\\", "/")))  # noqa: PTH100 - resolve() reads the disk

    def _rows(self, problems: list[Problem]) -> Iterator[dict[str, str]]:
        """The CSV's cells, stripped, with the line number as ``row``; appends the rows whose number of cells is off."""
        with self.root.open(encoding=self.encoding, newline="") as file:
            reader = csv.DictReader(file)
            columns = [name.strip() for name in reader.fieldnames or []]
            missing = [name for name in REQUIRED if name not in columns]
            if missing:
                what = f"the header has no column {', '.join(missing)}; it has {', '.join(columns) or 'nothing'}"
                raise BadInputError([Problem(self.root, 1, what, f"it needs {', '.join(REQUIRED)}")])
            twice = sorted({name for name in columns if columns.count(name) > 1})
            if twice:
                raise BadInputError(
                    [Problem(self.root, 1, f"the header has {', '.join(twice)} twice", "give every column a name of its own")]
                )
            reader.fieldnames = columns
            for position, cells in enumerate(self._parsed(reader)):
                if None in cells or None in cells.values():
                    what = f"the row has {'more' if None in cells else 'fewer'} cells than the header's {len(columns)}"
                    problems.append(Problem(self.root, reader.line_num, what, "quote cells that hold a comma", position))
                known = {name: (cells[name] or "").strip() for name in columns if name != "row"}
                yield known | {"row": str(reader.line_num)}

    def _parsed(self, reader: "csv.DictReader[str]") -> Iterator[dict[str | Any, str | Any]]:
        line = 1
        try:
            for cells in reader:
                yield cells
                line = reader.line_num
        except csv.Error as error:
            what = f"the row that starts here can't be read ({error})"
            raise BadInputError([Problem(self.root, line + 1, what, "close its quotes")]) from error

    def _undecodable(self, data: bytes) -> Iterator[Problem]:
        for number, line in enumerate(data.split(b"\n"), start=1):
            try:
                line.decode(self.encoding)
            except UnicodeDecodeError as error:
                bad = line[error.start : error.start + 1]
                as_cp1252 = bad.decode("cp1252", errors="replace")
                yield Problem(
                    self.root,
                    number,
                    f"byte 0x{bad.hex()} is not {error.encoding} (in cp1252 it would be {as_cp1252!r})",
                    "save the file as UTF-8, or pass --encoding cp1252",
                )

    def _cells(
        self, table: pd.DataFrame, seconds: Callable[[Clip], float | AudioError], lengths: list[float | None]
    ) -> Iterator[Problem]:
        """What is wrong within single rows; appends every clip's length to ``lengths``."""
        for position, row in zip(table.index.tolist(), table.to_dict("records"), strict=True):

            def problem(what: str, remedy: str, line: int = int(row["row"]), position: int = position) -> Problem:
                return Problem(self.root, line, what, remedy, position)

            if pd.isna(row["utterance_id"]):
                yield problem("utterance_id is empty", "give every row a unique id")
            if pd.isna(row["label"]):
                yield problem("label is empty", "label the utterance or remove the row")
            if pd.isna(row["audio"]) and pd.isna(row["text"]):
                yield problem("neither audio nor text is given", "give at least one of them or remove the row")
            if not pd.isna(row["split"]) and row["split"] not in SPLITS:
                yield problem(f"split is {row['split']!r}", f"it must be one of {', '.join(SPLITS)}, or empty")
            times = {name: _number(row[name]) for name in ("start", "end", "turn")}
            for name, value in times.items():
                if value is None and not pd.isna(row[name]):
                    yield problem(f"{name} is {row[name]!r}", "it must be a number")
            if pd.isna(row["audio"]):
                lengths.append(None)
                continue
            found = seconds(Clip(self._path(row["audio"]), times["start"], times["end"]))
            lengths.append(found if isinstance(found, float) else None)
            if isinstance(found, AudioError):
                yield problem(f"{row['audio']}: {found.what}", found.remedy)

    def _duplicates(self, table: pd.DataFrame) -> Iterator[Problem]:
        """Ids that stand in more than one row, and above all in more than one split."""
        hashes = np.fromiter(map(hash, table["utterance_id"]), np.int64, len(table))  # a fraction of the ids' own memory
        alike = table.loc[pd.Series(hashes).duplicated(keep=False).to_numpy(), ["utterance_id", "row", "split"]]
        for name, group in alike.groupby("utterance_id"):
            first, splits = int(group["row"].iloc[0]), group["split"].dropna().unique()
            where = f" and is in two splits ({', '.join(splits)})" if len(splits) > 1 else ""
            for position, row in zip(group.index[1:].tolist(), group["row"].iloc[1:], strict=True):
                what = f"utterance_id {name!r} stands in row {first} already{where}"
                yield Problem(self.root, int(row), what, "give every row an id of its own", position)


def _number(cell: str | float) -> float | None:
    try:
        number = math.nan if pd.isna(cell) else float(cell)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _seconds(clip: Clip) -> float | AudioError:
    try:
        return inspect_clip(clip).seconds
    except AudioError as error:
        return error
