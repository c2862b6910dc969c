"""SAVEE, Surrey Audio-Visual Expressed Emotion: four men, English, seven emotions, 480 files.

``AudioData/DC/sa03.wav`` is speaker (the folder), emotion (sa) and sentence (03); a well-known copy has it as ``DC_sa03.wav`` in
one folder. The sentences are of TIMIT, 15 of each emotion and 30 neutral; some are said in all emotions, under numbers that
don't tell. The release has no transcripts that its names point to.
"""

import re
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from datamodules.named_files import Facts, NamedFiles
from datamodules.problems import Problem

LABELS = {
    "a": "anger",
    "d": "disgust",
    "f": "fear",
    "h": "happiness",
    "n": "neutral",
    "sa": "sadness",
    "su": "surprise",
}
SPEAKERS = ("DC", "JE", "JK", "KL")


class Savee(NamedFiles):
    """The folder that the download unpacks to; its sound is in ``AudioData``."""

    version = "1.0"
    licence = "research only, on registration"
    citation = "Haq, Jackson: Multimodal Emotion Recognition. In: Machine Audition. IGI Global 2010, 398-423"
    source = "kahlan.eps.surrey.ac.uk/savee"
    pattern = re.compile(r"(DC|JE|JK|KL)_(?:(n)(0[1-9]|[12]\d|30)|(a|d|f|h|sa|su)(0[1-9]|1[0-5]))")
    example = "DC/sa03 or DC_sa03"
    counts = {  # noqa: RUF012
        "speaker": dict.fromkeys(SPEAKERS, 120),
        "label": {label: 120 if label == "neutral" else 60 for label in LABELS.values()},
    }

    def identify(self, path: Path) -> str:
        """Speaker and name, since every speaker has an ``a01``."""
        return path.stem if "_" in path.stem else f"{path.parent.name}_{path.stem}"

    def describe(self, parts: re.Match[str], path: Path) -> Facts:
        """Read speaker, emotion and sentence."""
        speaker, *rest = parts.groups()
        emotion, number = (part for part in rest if part)
        return {"label": LABELS[emotion], "speaker": speaker, "sentence": emotion + number, "gender": "male"}

    def refine(self, table: pd.DataFrame, notes: list[str]) -> Iterator[Problem]:
        """Say that there is no text."""
        notes.append("the release has no transcripts, so text is absent")
        yield from ()
