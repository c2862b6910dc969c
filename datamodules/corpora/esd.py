"""ESD, the Emotional Speech Dataset: ten Chinese and ten English speakers, 350 sentences each, five emotions, 35,000 files.

``0011/Angry/0011_000351.wav``, in some releases with ``train``, ``test`` or ``evaluation`` between the last two. The transcripts
of a speaker are in ``0011/0011.txt``: id, text and emotion between tabs, in whatever encoding its writer used. All speakers of a
language say the same sentences in all emotions, and the release's three parts share every speaker: the columns ``sentence``,
``speaker`` and ``language`` are what an honest split needs.
"""

import codecs
import re
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from datamodules.named_files import Facts, NamedFiles
from datamodules.problems import Problem

LABELS = ("Neutral", "Angry", "Happy", "Sad", "Surprise")
"""In the order in which the numbers of the files run, `SENTENCES` of each."""

SENTENCES = 350
SPLITS = {"train": "train", "evaluation": "val", "test": "test"}
SPEAKERS = tuple(f"{number:04}" for number in range(1, 21))
CHINESE = frozenset(SPEAKERS[:10])
MALE = frozenset(SPEAKERS[number - 1] for number in (4, 5, 6, 8, 10, 11, 12, 13, 14, 20))
BROKEN = frozenset(
    f"{speaker}_{number:06}"
    for speaker, numbers in {
        "0012": (1355,),
        "0013": (431, 914),
        "0014": (1590,),
        "0015": (137, 138, 175, 187, 217, 668, 690, 875, 1015, 1531, 1578),
    }.items()
    for number in numbers
)
"""Utterances whose line in the release's transcripts isn't id, text and emotion between tabs."""

SPOKEN = (*LABELS, "中立", "生气", "快乐", "伤心", "惊喜")
LINE = re.compile(rf"\s*(\d{{4}}_\d{{6}})\s+([^\t]*?[^\s])(?:\t[^\t]*|\s+(?:{'|'.join(SPOKEN)}))?\s*")


class ESD(NamedFiles):
    """The folder that holds ``0001`` to ``0020``."""

    version = "1"
    licence = "research only, by agreement with the authors"
    citation = "Zhou, Sisman, Liu, Li: Emotional voice conversion: Theory, databases and ESD. Speech Communication 137, 2022"
    source = "hltsingapore.github.io/ESD"
    slices = ("language",)
    pattern = re.compile(r"(00(?:0[1-9]|1\d|20))_(\d{6})")
    example = "0011_000351"
    counts = {  # noqa: RUF012
        "speaker": dict.fromkeys(SPEAKERS, 5 * SENTENCES),
        "label": dict.fromkeys(LABELS, len(SPEAKERS) * SENTENCES),
    }

    def describe(self, parts: re.Match[str], path: Path) -> Facts:
        """Read name and folders, which must agree."""
        speaker, number = parts[1], int(parts[2])
        if not 1 <= number <= len(LABELS) * SENTENCES:
            raise ValueError(f"its number isn't within 1 and {len(LABELS) * SENTENCES}")
        block, sentence = divmod(number - 1, SENTENCES)
        folders = path.relative_to(self.root.absolute()).parts[:-1]
        labels = [folder for folder in folders if folder in LABELS]
        speakers = [folder for folder in folders if folder in SPEAKERS]
        if labels != [LABELS[block]]:
            raise ValueError(f"its number is one of {LABELS[block]} and its folder is {'/'.join(folders) or 'the root'}")
        if speakers and speakers != [speaker]:
            raise ValueError(f"it is of speaker {speaker} and lies in {speakers[0]}")
        language = "zh" if speaker in CHINESE else "en"
        return {
            "label": LABELS[block],
            "speaker": speaker,
            "split": SPLITS.get(folders[-1]),
            "sentence": f"{language}{sentence + 1:03}",
            "language": language,
            "gender": "male" if speaker in MALE else "female",
        }

    def refine(self, table: pd.DataFrame, notes: list[str]) -> Iterator[Problem]:
        """Add the transcripts."""
        texts: dict[str, str] = {}
        for speaker, rows in table[table["speaker"].notna()].groupby("speaker"):
            name = f"{speaker}.txt"
            folders = [folder for folder in Path(str(rows["audio"].iloc[0])).parents if folder.is_relative_to(self.root.absolute())]
            path = next((folder / name for folder in folders if (folder / name).is_file()), None)
            if path is None:
                what, remedy = f"the transcripts {name} are missing", f"restore the file from {self.source}"
                yield Problem(self.root / str(speaker), None, what, remedy, partial=True)
                continue
            content = decode(path.read_bytes(), "gb18030" if speaker in CHINESE else "cp1252")
            if content is None:
                what = "its encoding is none of UTF-8, UTF-16, GB 18030 and cp1252"
                yield Problem(path, None, what, "save it as UTF-8", partial=True)
                continue
            yield from _parse(path, content, texts)
            missing = rows.index[~rows["utterance_id"].isin(texts.keys() | BROKEN)]
            for position in missing.tolist():
                yield Problem(
                    path, None, f"{table.loc[position, 'utterance_id']} has no transcript in it", "add its line", position
                )
        table["text"] = table["utterance_id"].map(texts)
        broken = sorted(BROKEN & set(table.loc[table["text"].isna(), "utterance_id"]))
        if broken:
            notes.append(
                f"the release's transcripts are broken for {len(broken)} utterances, whose text is absent: {', '.join(broken)}"
            )


def _parse(path: Path, content: str, texts: dict[str, str]) -> Iterator[Problem]:
    """Put the transcripts of one file into ``texts`` by id; yields the lines that can't be used."""
    for number, line in enumerate(re.split(r"\r\n|\r|\n", content), start=1):
        if not line.strip() or any(name in line for name in BROKEN):
            continue
        parts = LINE.fullmatch(line)
        if parts is None:
            yield Problem(path, number, f"{line[:60]!r} isn't id, text and emotion between tabs", "correct the line", partial=True)
        elif texts.setdefault(parts[1], parts[2]) != parts[2]:
            yield Problem(path, number, f"{parts[1]} has another text already", "keep one of the lines", partial=True)


def decode(data: bytes, fallback: str) -> str | None:
    """Text in UTF-16 with a byte-order mark, in UTF-8, or else in ``fallback``; None if it is none of them."""
    utf16 = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    for encoding in ("utf-16",) if utf16 else ("utf-8-sig", fallback):
        try:
            return data.decode(encoding)
        except UnicodeDecodeError:
            continue
    return None
