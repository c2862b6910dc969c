"""MELD: 13,708 utterances of the series *Friends* in dialogues, seven emotions, text and clips.

The three CSV files and the folders of clips are found as distributed: in the root, in ``MELD.Raw`` or in ``data/MELD``. Without
any clips the corpus is text only and every utterance's audio is absent, which is a fact and not a fault. Sound is taken out
of the mp4 files once, into the cache.

The release's flaws are known and named in ``table.attrs["notes"]``: four clips (`KNOWN`), dialogue 60 missing from train, which
therefore has 1,038 dialogues, and clips that no row names. Its texts hold characters from a wrong encoding, which are repaired;
``text_original`` keeps what the file says.
"""

import csv
import hashlib
import io
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import ClassVar, NamedTuple

import pandas as pd

from datamodules import cache_dir
from datamodules.audio import AudioError, Clip, inspect_clip
from datamodules.corpora import COLUMNS, Corpus, Reading
from datamodules.extract import extract_all
from datamodules.named_files import PARTIAL
from datamodules.problems import BadInputError, Problem

FILES = {"train": "train_sent_emo.csv", "dev": "dev_sent_emo.csv", "test": "test_sent_emo.csv"}
FOLDERS = {"train": "train_splits", "dev": "dev_splits_complete", "test": "output_repeated_splits_test"}
SPLITS = {"train": "train", "dev": "val", "test": "test"}
DEPTH = 2
"""How many folders below the root files may lie; the nearest to the root are taken."""

HEADER = ("Utterance", "Speaker", "Emotion", "Sentiment", "Dialogue_ID", "Utterance_ID", "Season", "Episode")
LABELS = ("neutral", "surprise", "fear", "sadness", "joy", "disgust", "anger")
SENTIMENTS = ("neutral", "positive", "negative")
SUFFIXES = (".wav", ".flac", ".mp4")
"""The first that is there is read."""


class Flaw(NamedTuple):
    """A clip of the release that is known to be unusable or odd."""

    what: str
    absent: bool


KNOWN = {
    "train_dia125_utt3": Flaw("its clip is damaged in the release, so its audio is absent", absent=True),
    "dev_dia110_utt7": Flaw("its clip is missing from the release, so its audio is absent", absent=True),
    "test_dia38_utt4": Flaw("its clip in the release is minutes long, most of it other utterances", absent=False),
    "test_dia220_utt0": Flaw("its clip in the release is minutes long, most of it other utterances", absent=False),
}


class Meld(Corpus):
    """The folder that holds the three CSV files and, if at all, the clips.

    Attributes:
        counts: Split as in the names of the files -> label -> rows.
        dialogues: Split -> dialogue ids.
    """

    version = "2018"
    licence = "GPL-3.0 for the repository; the clips are excerpts of a television series, for research only"
    citation = "Poria, Hazarika, Majumder, Naik, Cambria, Mihalcea: MELD: A Multimodal Multi-Party Dataset. ACL 2019"
    source = "github.com/declare-lab/MELD (data/MELD for the CSV files; MELD.Raw.tar.gz for the clips)"
    counts: ClassVar[Mapping[str, Mapping[str, int]]] = {
        "train": dict(zip(LABELS, (4710, 1205, 268, 683, 1743, 271, 1109), strict=True)),
        "dev": dict(zip(LABELS, (470, 150, 40, 111, 163, 22, 153), strict=True)),
        "test": dict(zip(LABELS, (1256, 281, 50, 208, 402, 68, 345), strict=True)),
    }
    dialogues: ClassVar[Mapping[str, int]] = {"train": 1038, "dev": 114, "test": 280}

    def official_counts(self) -> dict[tuple[str, ...], dict[tuple[str, ...], int | None]]:
        """The release's rows by split and label, with the table's names of splits."""
        return {
            ("split", "label"): {
                (SPLITS[split], label): count for split, by_label in self.counts.items() for label, count in by_label.items()
            }
        }

    def read(self) -> Reading:
        """Read the CSV files and find every row's clip; see `Corpus.read`."""
        if not self.root.is_dir():
            what = "is not a folder" if self.root.exists() else "there is no such folder"
            raise BadInputError([Problem(self.root, None, what, f"name MELD's folder with --root; get it from {self.source}")])
        places = self._places()
        files = {split: _first(places, name) for split, name in FILES.items()}
        missing = [f"{FILES[split]} is missing" for split, path in files.items() if path is None]
        if missing:
            remedy = f"put it into this folder, MELD.Raw or data/MELD; get it from {self.source}"
            raise BadInputError([Problem(self.root, None, what, remedy) for what in missing])
        problems: list[Problem] = []
        rows: list[dict[str, object]] = []
        for split, path in files.items():
            assert path is not None
            before = len(rows)
            rows += _read_csv(path, split, before, problems)
            problems += self._differences(path, split, rows[before:])
        columns = [*COLUMNS, "sentiment", "season", "episode", "text_original", "seconds"]
        table = pd.DataFrame(rows, columns=columns)
        folders = {split: _first(places, name) for split, name in FOLDERS.items()}
        archives = {split: _first(places, f"{split}.tar.gz") for split in FOLDERS}
        notes = [
            f"{name}: {flaw.what}" for name, flaw in KNOWN.items() if name in set(table["utterance_id"]) and any(folders.values())
        ]
        problems += self._clips(table, folders, archives, notes)
        table.attrs["notes"] = notes
        return Reading(table, sorted(problems, key=lambda problem: (str(problem.file), problem.row or 0)))

    def _places(self) -> list[Path]:
        """The root and the folders below it, those of clips left out."""
        places = level = [self.root.absolute()]
        for _ in range(DEPTH):
            try:
                inner = [Path(entry.path) for folder in level for entry in os.scandir(folder) if entry.is_dir()]
            except OSError as error:
                what = f"the folder can't be read ({error.strerror})"
                raise BadInputError([Problem(Path(error.filename), None, what, "permit reading it")]) from error
            level = sorted(path for path in inner if path.name not in FOLDERS.values() and not path.name.startswith("."))
            places = places + level
        return places

    def _differences(self, path: Path, split: str, rows: list[dict[str, object]]) -> Iterator[Problem]:
        """Compare one file with the release."""
        have = pd.Series([row["label"] for row in rows], dtype=object).value_counts().to_dict()
        off = [
            f"{have.get(label, 0)} of {count} {label}" for label, count in self.counts[split].items() if have.get(label, 0) != count
        ]
        if off:
            what = f"{len(rows)} rows, and the release has {sum(self.counts[split].values())}: {', '.join(off)}"
            yield Problem(path, None, what, PARTIAL, partial=True)
        dialogues = len({row["dialogue"] for row in rows})
        if dialogues != self.dialogues[split]:
            what = f"{dialogues} dialogues, and the release has {self.dialogues[split]}"
            yield Problem(path, None, what, PARTIAL, partial=True)

    def _clips(
        self, table: pd.DataFrame, folders: dict[str, Path | None], archives: dict[str, Path | None], notes: list[str]
    ) -> Iterator[Problem]:
        """Fill in ``audio`` and ``seconds``; yields what is wrong with the clips."""
        if not any(folders.values()) and not any(archives.values()):
            notes.append("there are no clips: every utterance's audio is absent, and methods see text only")
            return
        sounds: dict[int, Path] = {}
        for split, folder in folders.items():
            positions = [n for n, name in enumerate(table["utterance_id"]) if str(name).startswith(f"{split}_")]
            if folder is None:
                archive = archives[split]
                what = f"the folder {FOLDERS[split]} is missing, so {len(positions)} utterances would have no audio"
                remedy = (
                    f"unpack {archive}" if archive else "restore it, pass --skip-bad to go on, or remove all clips for text only"
                )
                yield Problem(self.root, None, what, remedy, partial=True)
                continue
            try:
                held = {path.name: path for path in folder.iterdir()}
            except OSError as error:
                yield Problem(folder, None, f"the folder can't be read ({error.strerror})", "permit reading it", partial=True)
                continue
            used = set()
            for position in positions:
                name = str(table["utterance_id"].iloc[position])
                stem = name.removeprefix(f"{split}_")
                candidates = [stem + suffix for suffix in SUFFIXES if stem + suffix in held]
                used |= set(candidates)
                if name in KNOWN and KNOWN[name].absent:
                    continue
                if candidates:
                    sounds[position] = held[candidates[0]]
                else:
                    yield Problem(folder, None, f"{stem}.mp4 is missing", "restore it", position)
            orphans = sorted(name for name in held if name not in used and Path(name).suffix.lower() in SUFFIXES)
            if orphans:
                notes.append(f"{len(orphans)} clips in {folder.name} belong to no row and were passed over, such as {orphans[0]}")
        yield from _sounds(table, sounds)


def _first(places: list[Path], name: str) -> Path | None:
    return next((place / name for place in places if (place / name).exists()), None)


def _sounds(table: pd.DataFrame, sounds: dict[int, Path]) -> Iterator[Problem]:
    """Extract what is video, and put every clip's path and length into the table."""
    extracted: dict[Path, Path | AudioError] = {}
    for folder in sorted({path.parent for path in sounds.values()}):
        videos = [path for path in sounds.values() if path.parent == folder and path.suffix == ".mp4"]
        digest = hashlib.blake2b(str(folder.resolve()).encode(errors="surrogateescape"), digest_size=8).hexdigest()
        extracted |= extract_all(videos, cache_dir() / "meld" / digest, f"taking the sound out of {folder.name}")
    audio: list[str | None] = [None] * len(table)
    seconds: list[float | None] = [None] * len(table)
    for position, path in sounds.items():
        found = extracted.get(path, path)
        try:
            if isinstance(found, AudioError):
                raise found
            seconds[position] = inspect_clip(Clip(found)).seconds
            audio[position] = str(found)
        except AudioError as error:
            yield Problem(path, None, error.what, error.remedy, position)
    table["audio"] = pd.Series(audio, table.index, dtype="str")
    table["seconds"] = pd.Series(seconds, table.index, dtype="float64")


def _read_csv(path: Path, split: str, first: int, problems: list[Problem]) -> list[dict[str, object]]:
    """The rows of one file; ``first`` is the position of its first row in the table."""
    # Bytes that aren't UTF-8 become the control characters that repair() knows.
    content = path.read_bytes().decode("utf-8-sig", errors="surrogateescape")
    content = re.sub("[\udc80-\udcff]", lambda match: chr(ord(match[0]) - 0xDC00), content)
    reader = csv.DictReader(io.StringIO(content, newline=""))
    missing = [name for name in HEADER if name not in (reader.fieldnames or [])]
    if missing:
        what = f"the header has no column {', '.join(missing)}; it has {', '.join(reader.fieldnames or ['nothing'])}"
        raise BadInputError([Problem(path, 1, what, "restore the file of the release")])
    rows: list[dict[str, object]] = []
    lines: dict[str, int] = {}
    for cells in reader:
        position = first + len(rows)

        def problem(what: str, remedy: str, line: int = reader.line_num, position: int = position) -> None:
            problems.append(Problem(path, line, what, remedy, position))

        if None in cells or None in cells.values():
            problem("the row has another number of cells than the header", "restore the file of the release")
        # Repaired first, because strip() takes a misread ellipsis (\x85) for white space.
        given = {name: repair(cells[name] or "").strip() for name in HEADER}
        numbers: dict[str, int | None] = {}
        for name in ("Dialogue_ID", "Utterance_ID", "Season", "Episode"):
            numbers[name] = int(given[name]) if re.fullmatch("[0-9]+", given[name]) else None
            if numbers[name] is None:
                problem(f"{name} is {given[name]!r}", "it must be a whole number")
        for name, known in (("Emotion", LABELS), ("Sentiment", SENTIMENTS)):
            if given[name] not in known:
                problem(f"{name} is {given[name]!r}", f"it must be one of {', '.join(known)}")
        if not given["Utterance"]:
            problem("Utterance is empty", "restore the file of the release")
        dialogue = f"{split}_{given['Dialogue_ID']}"
        name = f"{split}_dia{given['Dialogue_ID']}_utt{given['Utterance_ID']}"
        if lines.setdefault(name, reader.line_num) != reader.line_num:
            problem(
                f"dialogue {given['Dialogue_ID']}, utterance {given['Utterance_ID']} stands in row {lines[name]} already",
                "keep one",
            )
        rows.append(
            {
                "utterance_id": name,
                "text": given["Utterance"] or None,
                "label": given["Emotion"] or None,
                "speaker": given["Speaker"] or None,
                "dialogue": dialogue,
                "turn": numbers["Utterance_ID"],
                "split": SPLITS[split],
                "sentiment": given["Sentiment"] or None,
                "season": numbers["Season"],
                "episode": numbers["Episode"],
                "text_original": cells["Utterance"],
            }
        )
    if not rows:
        raise BadInputError([Problem(path, None, "the file has no rows", "restore the file of the release")])
    return rows


def _cp1252(byte: int) -> str:
    return bytes([byte]).decode("cp1252", errors="ignore") or chr(byte)


CONTROLS = {code: _cp1252(code) for code in range(0x80, 0xA0)}
BYTES = {_cp1252(code): code for code in range(0x80, 0x100)} | {chr(code): code for code in range(0x80, 0xA0)}
"""Characters that text in UTF-8 turns into when it is read as cp1252 -> the byte."""

FOLLOWING = "".join(re.escape(character) for character, byte in BYTES.items() if byte < 0xC0)
MOJIBAKE = re.compile(f"[ÂÃ][{FOLLOWING}]|â[{FOLLOWING}][{FOLLOWING}]")
"""UTF-8 of Latin letters and of punctuation, read as cp1252."""


def repair(text: str) -> str:
    r"""Undo a wrong encoding: ``\x92`` and ``â€™`` become ``’``; what is right already stays."""

    def as_utf8(match: re.Match[str]) -> str:
        return bytes(BYTES[character] for character in match[0]).decode("utf-8", errors="ignore") or match[0]

    return MOJIBAKE.sub(as_utf8, text).translate(CONTROLS)
