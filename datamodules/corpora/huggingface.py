"""A Hugging Face data set saved to disk: the folder that ``save_to_disk`` writes, of a ``Dataset`` or a ``DatasetDict``.

The files are read as what they are, Arrow streams and JSON, without the package ``datasets``, whose newer releases need
torchcodec and FFmpeg to hand out sound. Columns are found by their names (`NAMES`); sound is a column of the type Audio, or of
paths. Sound that is embedded in the files is written into the cache, once, by content.
"""

import hashlib
import io
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import soundfile

from datamodules import cache_dir
from datamodules.audio import AudioError, Clip, inspect_clip
from datamodules.corpora import COLUMNS, Corpus, Reading
from datamodules.problems import BadInputError, Problem

NAMES = {
    "utterance_id": ("utterance_id", "id", "utt_id", "segment_id"),
    "audio": ("audio", "speech", "wav", "file", "path"),
    "text": ("text", "transcription", "transcript", "sentence", "utterance", "normalized_text"),
    "label": ("label", "emotion", "labels", "major_emotion"),
    "speaker": ("speaker", "speaker_id", "spk_id", "actor"),
    "dialogue": ("dialogue", "dialogue_id", "dialog_id", "conversation_id"),
    "turn": ("turn", "turn_id"),
    "session": ("session", "session_id"),
}
"""Column of the table -> names under which a data set may have it, in order of preference."""

SPLITS = {"train": "train", "val": "val", "dev": "val", "valid": "val", "validation": "val", "test": "test"}
REMEDY = "rename it with rename_column() and save the data set again"


class HuggingFace(Corpus):
    """The folder with ``dataset_dict.json``, or with ``state.json`` and ``dataset_info.json``."""

    version = "-"
    licence = "as stated by its owner"
    citation = "-"
    source = "a data set of your own, saved with save_to_disk"

    @property
    def name(self) -> str:
        """The folder, such as ``huggingface/my_set``."""
        return f"huggingface/{self.root.resolve().name}"

    def read(self) -> Reading:
        """Read all parts; see `Corpus.read`. Columns of simple types that aren't known by name are kept."""
        problems: list[Problem] = []
        parts = []
        for name, folder in self._parts():
            split = SPLITS.get(name or "")
            if name is not None and split is None:
                what = f"the part {name!r} is not a split"
                problems.append(Problem(folder, None, what, f"rename it to one of {', '.join(SPLITS)}"))
            parts.append(_read_part(folder, name, split))
        table = pd.concat(parts, ignore_index=True)
        if table.empty:
            raise BadInputError([Problem(self.root, None, "the data set has no rows", "save one that has")])
        problems += self._check(table)
        return Reading(table.drop(columns="sound"), sorted(problems, key=lambda problem: problem.position or 0))

    def _parts(self) -> list[tuple[str | None, Path]]:
        """Name of the split, or None, and folder."""
        if (self.root / "dataset_dict.json").is_file():
            names = _json(self.root / "dataset_dict.json").get("splits", [])
            return [(name, self.root / name) for name in names]
        if not (self.root / "state.json").is_file():
            what = "it has neither dataset_dict.json nor state.json" if self.root.is_dir() else "there is no such folder"
            raise BadInputError([Problem(self.root, None, what, "name a folder that save_to_disk wrote")])
        return [(None, self.root)]

    def _check(self, table: pd.DataFrame) -> Iterator[Problem]:
        """Fill in ``audio`` and ``seconds``; yields what is wrong with single rows."""
        audio: list[str | None] = []
        seconds: list[float | None] = []
        twice = table["utterance_id"].duplicated()
        for position, (name, sound, text, label) in enumerate(
            zip(table["utterance_id"], table["sound"], table["text"], table["label"], strict=True)
        ):
            if twice[position]:
                yield Problem(self.root, None, f"{name} is the id of an earlier row", "give every row an id of its own", position)
            if pd.isna(label):
                yield Problem(self.root, None, f"{name} has no label", "label it or filter it out", position)
            if sound is None and pd.isna(text):
                yield Problem(self.root, None, f"{name} has neither audio nor text", "filter it out", position)
            audio.append(None)
            seconds.append(None)
            if isinstance(sound, AudioError):
                yield Problem(self.root, None, f"{name}: {sound.what}", sound.remedy, position)
            elif sound is not None:
                audio[-1], seconds[-1] = str(sound[0]), sound[1]
        table["audio"] = pd.Series(audio, table.index, dtype="str")
        table["seconds"] = pd.Series(seconds, table.index, dtype="float64")


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadInputError([Problem(path, None, f"can't be read ({error})", "save the data set again")]) from error
    if not isinstance(content, dict):
        raise BadInputError([Problem(path, None, "doesn't hold a JSON object", "save the data set again")])
    return content


def _read_part(folder: Path, name: str | None, split: str | None) -> pd.DataFrame:
    """The rows of one part, with the column ``sound``: path and seconds, an error, or None."""
    state, features = _json(folder / "state.json"), _json(folder / "dataset_info.json").get("features") or {}
    files = [folder / entry["filename"] for entry in state.get("_data_files", [])]
    try:
        tables = [pa.ipc.open_stream(pa.memory_map(str(file))).read_all() for file in files]
    except (OSError, pa.ArrowInvalid) as error:
        what = f"its Arrow files can't be read ({error})"
        raise BadInputError([Problem(folder, None, what, "copy the folder again, or save the data set again")]) from error
    if not tables:
        raise BadInputError([Problem(folder / "state.json", None, "it names no files", "save the data set again")])
    table = pa.concat_tables(tables)
    found = {column: next((n for n in names if n in table.column_names), None) for column, names in NAMES.items()}
    typed = [n for n in table.column_names if isinstance(features.get(n), dict) and features[n].get("_type") == "Audio"]
    found["audio"] = typed[0] if typed else found["audio"]
    has = f"it has the columns {', '.join(table.column_names)}"
    problems = []
    if found["label"] is None:
        problems.append(Problem(folder, None, f"{has}, and none is called {' or '.join(NAMES['label'])}", REMEDY))
    if found["audio"] is None and found["text"] is None:
        known = (*NAMES["audio"], *NAMES["text"])
        problems.append(Problem(folder, None, f"{has}, and neither sound nor text ({', '.join(known)})", REMEDY))
    if problems:
        raise BadInputError(problems)
    rows = pd.DataFrame(index=range(len(table)), columns=list(COLUMNS), dtype=object)
    for column, source in found.items():
        if source is not None and column != "audio":
            rows[column] = _cells(table[source], features.get(source) or {})
    if found["utterance_id"] is None:
        rows["utterance_id"] = [f"{name or 'row'}_{number}" for number in range(len(table))]
    else:
        rows["utterance_id"] = rows["utterance_id"].astype(str)
    rows["split"] = split
    if name is None and "split" in table.column_names:
        rows["split"] = [SPLITS.get(str(cell)) for cell in table["split"].to_pylist()]
    for extra in table.column_names:
        simple = not (pa.types.is_nested(table[extra].type) or pa.types.is_binary(table[extra].type))
        if extra not in found.values() and extra not in rows.columns and simple:
            rows[extra] = _cells(table[extra], features.get(extra) or {})
    rows["text"] = rows["text"].astype("str")  # of that type even where no utterance has any
    # One cell at a time, because all the sound may not fit into memory.
    sounds = (_sound(cell.as_py(), folder) for cell in table[found["audio"]]) if found["audio"] else [None] * len(table)
    rows["sound"] = pd.Series(list(sounds), rows.index, dtype=object)
    return rows


def _cells(column: pa.ChunkedArray, feature: object) -> list[Any]:
    """A column's values; a class label's number becomes its name, and empty text becomes null."""
    names = feature.get("names") if isinstance(feature, dict) and feature.get("_type") == "ClassLabel" else None
    cells = column.to_pylist()
    if names:
        return [names[cell] if cell is not None and 0 <= cell < len(names) else None for cell in cells]
    return [None if isinstance(cell, str) and not cell.strip() else cell for cell in cells]


def _sound(cell: object, folder: Path) -> tuple[Path, float] | AudioError | None:
    """Path and length of what a cell holds or names; sound embedded in it is written into the cache."""
    sound = cell.get("bytes") or cell.get("path") if isinstance(cell, dict) else cell
    if not isinstance(sound, (bytes, str)) or not sound:
        return None
    try:
        path = _cached(sound) if isinstance(sound, bytes) else (folder / sound).absolute()
        return path, inspect_clip(Clip(path)).seconds
    except AudioError as error:
        return error


def _cached(sound: bytes) -> Path:
    """A file in the cache with this content.

    Raises:
        AudioError: If it can't be decoded.
    """
    try:
        kind = soundfile.info(io.BytesIO(sound)).format.lower()
    except soundfile.LibsndfileError as error:
        raise AudioError(f"audio can't be decoded ({error.error_string.rstrip('.')})", "convert it to WAV or FLAC") from error
    digest = hashlib.blake2b(sound, digest_size=16).hexdigest()
    path = cache_dir() / "huggingface" / digest[:2] / f"{digest}.{re.sub('[^a-z0-9]', '', kind)}"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
        partial.write_bytes(sound)
        partial.replace(path)
    return path
