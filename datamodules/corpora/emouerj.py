"""emoUERJ: eight actors, ten Brazilian Portuguese sentences, four emotions, 377 files.

A name such as ``m01h01`` is gender (m or w), actor (01 to 04 of that gender), emotion (h, a, s, n) and take. The names
don't say which sentence was spoken. Whoever has transcribed the files adds ``transcripts.csv`` in UTF-8 with the columns
``utterance_id`` and ``text``; without it, text is absent.
"""

import csv
import re
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from datamodules.named_files import Facts, NamedFiles
from datamodules.problems import Problem

LABELS = {"h": "happiness", "a": "anger", "s": "sadness", "n": "neutral"}
TRANSCRIPTS = "transcripts.csv"


class EmoUERJ(NamedFiles):
    """The folder that the download unpacks to."""

    version = "1.0"
    licence = "as stated on its Zenodo record"
    citation = "Bastos Germano, Tcheou, da Rocha Henriques, Gomes Junior: emoUERJ: an emotional speech database in Portuguese. 2021"
    source = "zenodo.org/records/5427549"
    pattern = re.compile(r"([mw])(0[1-4])([hasn])(\d\d)")
    example = "m01h01"
    counts = {"label": {"happiness": 91, "anger": 94, "sadness": 100, "neutral": 92}}  # noqa: RUF012

    def describe(self, parts: re.Match[str], path: Path) -> Facts:
        """Read the four parts of a name."""
        gender, actor, emotion, take = parts.groups()
        return {
            "label": LABELS[emotion],
            "speaker": gender + actor,
            "take": take,
            "gender": "male" if gender == "m" else "female",
        }

    def refine(self, table: pd.DataFrame, notes: list[str]) -> Iterator[Problem]:
        """Add the texts of ``transcripts.csv``; the same text is the same ``sentence``."""
        path = self.root / TRANSCRIPTS
        if not path.is_file():
            notes.append(f"the release has no transcripts, so text is absent; add {TRANSCRIPTS} (utterance_id,text) to have it")
            return
        needs = "it needs the columns utterance_id and text, in UTF-8"
        try:
            with path.open(encoding="utf-8-sig", newline="") as file:
                reader = csv.DictReader(file)
                columns = list(reader.fieldnames or [])
                rows = [(reader.line_num, cells) for cells in reader]
        except UnicodeDecodeError as error:
            yield Problem(path, None, f"can't be read as UTF-8 ({error.reason} at byte {error.start})", needs)
            return
        if not {"utterance_id", "text"} <= set(columns):
            yield Problem(path, 1, f"the header has {', '.join(columns) or 'nothing'}", needs)
            return
        positions = {name: position for position, name in reversed(list(enumerate(table["utterance_id"])))}
        texts: dict[str, str] = {}
        for line, cells in rows:
            stem, text = Path((cells["utterance_id"] or "").strip()).stem, (cells["text"] or "").strip()
            if stem not in positions:
                yield Problem(path, line, f"no file is called {stem!r}", "correct the id or remove the row", partial=True)
            elif texts.setdefault(stem, text) != text:
                yield Problem(path, line, f"{stem} has another text already", "keep one of the rows", positions[stem])
        for stem, position in positions.items():
            if not texts.get(stem) and self.pattern.fullmatch(stem):
                yield Problem(path, None, f"{stem} has no text in it", "add it, or remove the file to go without text", position)
        table["text"] = table["utterance_id"].map(texts).replace("", None)
        codes, _ = pd.factorize(table["text"], sort=True)
        table["sentence"] = [str(code) if code >= 0 else None for code in codes]
