"""Any corpus as one CSV file: ``utterance_id, audio, text, label`` and what else is known about each utterance.

``audio`` is a path relative to the CSV; ``start`` and ``end`` cut a part out of it, in seconds. An empty ``audio`` or ``text``
says that the utterance doesn't have that modality. ``speaker``, ``dialogue``, ``turn``, ``session`` and ``split`` are
optional; further columns are kept.
"""

import csv
import io
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from datamodules.audio import AudioError, Clip, inspect_clip
from datamodules.corpora import COLUMNS, Corpus, Reading
from datamodules.problems import BadInputError, Problem

csv.field_size_limit(2**20)  # a transcript may be long; the default stops at 131,072 characters
REQUIRED = ("utterance_id", "audio", "text", "label")
SPLITS = {"train": "train", "val": "val", "dev": "val", "valid": "val", "validation": "val", "test": "test"}


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
        rows, problems = self._rows()
        table = pd.DataFrame(rows, dtype="str").replace("", None)
        extra = [column for column in table.columns if column not in COLUMNS]
        table = table.reindex(columns=[*COLUMNS, *extra])
        seconds: list[float | None] = []
        problems += [*self._cells(table, seconds), *self._duplicates(table)]
        table["seconds"] = pd.Series(seconds, dtype="float64")
        table["audio"] = [None if pd.isna(a) else str(self._path(a)) for a in table["audio"]]
        table["split"] = table["split"].map(SPLITS)
        for column in ("start", "end"):
            table[column] = pd.to_numeric(table[column], errors="coerce")
        table["turn"] = pd.to_numeric(table["turn"], errors="coerce")
        table["row"] = table["row"].astype(int)
        return Reading(table, sorted(problems, key=lambda problem: problem.row or 0))

    def _path(self, audio: str) -> Path:
        # Manifests written on Windows separate folders by a backslash.
        return Path(os.path.abspath(self.root.parent / audio.replace("\\", "/")))  # noqa: PTH100 - resolve() reads the disk

    def _rows(self) -> tuple[list[dict[str, str]], list[Problem]]:
        """The CSV's cells, stripped, with the line number as ``row``; and the rows whose number of cells is off."""
        if not self.root.is_file():
            raise BadInputError([Problem(self.root, None, "there is no such file", "name a CSV manifest")])
        data = self.root.read_bytes()
        try:
            text = data.decode(self.encoding)
        except UnicodeDecodeError:
            raise BadInputError(self._undecodable(data)) from None
        except LookupError as error:
            raise BadInputError([Problem(self.root, None, str(error), "name one that Python knows, such as cp1252")]) from None
        # Not str.splitlines: it also breaks lines at characters such as U+2028, which are part of a transcript.
        reader = csv.DictReader(io.StringIO(text, newline=""))
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
        rows: list[dict[str, str]] = []
        problems: list[Problem] = []
        for cells in self._parsed(reader):
            if None in cells or None in cells.values():
                what = f"the row has {'more' if None in cells else 'fewer'} cells than the header's {len(columns)}"
                problems.append(Problem(self.root, reader.line_num, what, "quote cells that hold a comma", len(rows)))
            known = {name: (cells[name] or "").strip() for name in columns if name != "row"}
            rows.append(known | {"row": str(reader.line_num)})
        if not rows:
            raise BadInputError([Problem(self.root, None, "the file has a header and no rows", "add one row per utterance")])
        return rows, problems

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

    def _cells(self, table: pd.DataFrame, seconds: list[float | None]) -> Iterator[Problem]:
        """What is wrong within single rows; appends every clip's length to ``seconds``."""
        headers: dict[Clip, AudioError | float] = {}
        for position, row in enumerate(table.to_dict("records")):

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
                seconds.append(None)
                continue
            clip = Clip(self._path(row["audio"]), times["start"], times["end"])
            if clip not in headers:
                headers[clip] = _seconds(clip)
            found = headers[clip]
            seconds.append(found if isinstance(found, float) else None)
            if isinstance(found, AudioError):
                yield problem(f"{row['audio']}: {found.what}", found.remedy)

    def _duplicates(self, table: pd.DataFrame) -> Iterator[Problem]:
        """Ids that stand in more than one row, and above all in more than one split."""
        ids = table["utterance_id"]
        for name, group in table[ids.notna() & ids.duplicated(keep=False)].groupby("utterance_id"):
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
