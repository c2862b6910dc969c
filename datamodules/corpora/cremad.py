"""CREMA-D: 91 actors, twelve English sentences, six emotions in up to three intensities, 7,442 files.

A name such as ``1001_DFA_ANG_XX`` is actor, sentence, intended emotion and intensity. The label is the emotion that was intended,
not what the raters heard; the two differ often.
"""

import re
from pathlib import Path

from datamodules.named_files import Facts, NamedFiles

LABELS = {"ANG": "anger", "DIS": "disgust", "FEA": "fear", "HAP": "happy", "NEU": "neutral", "SAD": "sad"}
SENTENCES = {
    "IEO": "It's eleven o'clock.",
    "TIE": "That is exactly what happened.",
    "IOM": "I'm on my way to the meeting.",
    "IWW": "I wonder what this is about.",
    "TAI": "The airplane is almost full.",
    "MTI": "Maybe tomorrow it will be cold.",
    "IWL": "I would like a new alarm clock.",
    "ITH": "I think I have a doctor's appointment.",
    "DFA": "Don't forget a jacket.",
    "ITS": "I think I've seen this before.",
    "TSI": "The surface is slick.",
    "WSI": "We'll stop in a couple of minutes.",
}
INTENSITIES = {"LO": "low", "MD": "medium", "HI": "high", "XX": None, "X": None}


class CremaD(NamedFiles):
    """The repository's folder; its sound is in ``AudioWAV``."""

    version = "1.0"
    licence = "Open Database License 1.0 (ODbL), contents under DbCL 1.0"
    citation = (
        "Cao, Cooper, Keutmann, Gur, Nenkova, Verma: CREMA-D: Crowd-sourced Emotional Multimodal Actors Dataset. "
        "IEEE Trans. Affective Computing 5(4), 2014"
    )
    source = "github.com/CheyneyComputerScience/CREMA-D (Git LFS)"
    # One name, 1040_ITH_SAD_X, had one X only until it was corrected in 2022.
    pattern = re.compile(rf"(10\d\d)_({'|'.join(SENTENCES)})_({'|'.join(LABELS)})_(LO|MD|HI|XX?)")
    example = "1001_DFA_ANG_XX"
    counts = {  # noqa: RUF012
        "speaker": dict.fromkeys((str(actor) for actor in range(1001, 1092)), None),
        "label": {label: 1087 if label == "neutral" else 1271 for label in LABELS.values()},
    }
    silent = {"1076_MTI_SAD_XX": "the release has this file without sound, so its audio is absent"}  # noqa: RUF012

    def describe(self, parts: re.Match[str], path: Path) -> Facts:
        """Read the four parts of a name."""
        actor, sentence, emotion, intensity = parts.groups()
        return {
            "text": SENTENCES[sentence],
            "label": LABELS[emotion],
            "speaker": actor,
            "sentence": sentence,
            "intensity": INTENSITIES[intensity],
        }
