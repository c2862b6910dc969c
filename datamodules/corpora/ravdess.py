"""RAVDESS, the speech files: 24 actors, two English sentences, eight emotions in up to two intensities, 1,440 files.

A name is seven two-digit codes: modality, vocal channel, emotion, intensity, statement, repetition, actor. Songs
(``03-02-…``) and videos (``01-…``, ``02-…``) are other parts of the release and are passed over.
"""

import re
from pathlib import Path

from datamodules.named_files import Facts, NamedFiles

LABELS = {
    "01": "neutral",
    "02": "calm",
    "03": "happy",
    "04": "sad",
    "05": "angry",
    "06": "fearful",
    "07": "disgust",
    "08": "surprised",
}
SENTENCES = {"01": "Kids are talking by the door.", "02": "Dogs are sitting by the door."}


class Ravdess(NamedFiles):
    """The folder that holds ``Actor_01`` to ``Actor_24``."""

    version = "1.0.0"
    licence = "CC BY-NC-SA 4.0"
    citation = (
        "Livingstone, Russo: The Ryerson Audio-Visual Database of Emotional Speech and Song (RAVDESS). "
        "PLoS ONE 13(5), 2018, e0196391"
    )
    source = "zenodo.org/records/1188976 (Audio_Speech_Actors_01-24.zip)"
    pattern = re.compile(r"03-01-(0[1-8])-(0[12])-(0[12])-(0[12])-(0[1-9]|1\d|2[0-4])")
    example = "03-01-06-01-02-01-12"
    foreign = re.compile(r"(?:03-02|0[12]-0[12])(?:-\d\d){5}")
    counts = {  # noqa: RUF012
        "speaker": {f"{actor:02}": 60 for actor in range(1, 25)},
        "label": {label: 96 if label == "neutral" else 192 for label in LABELS.values()},
    }

    def describe(self, parts: re.Match[str], path: Path) -> Facts:
        """Read the codes; the folder's actor must be the name's."""
        emotion, intensity, statement, repetition, actor = parts.groups()
        if emotion == "01" and intensity == "02":
            raise ValueError("it is neutral of strong intensity, which the release doesn't have")
        folder = re.fullmatch(r"Actor_(\d\d)", path.parent.name)
        if folder and folder[1] != actor:
            raise ValueError(f"it is of actor {actor} and lies in {path.parent.name}")
        return {
            "text": SENTENCES[statement],
            "label": LABELS[emotion],
            "speaker": actor,
            "sentence": statement,
            "take": repetition,
            "intensity": {"01": "normal", "02": "strong"}[intensity],
            "gender": "female" if int(actor) % 2 == 0 else "male",
        }
