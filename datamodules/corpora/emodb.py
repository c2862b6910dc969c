"""EmoDB, the Berlin Database of Emotional Speech: ten actors, ten German sentences, seven emotions, 535 files.

A name such as ``03a01Fa`` is speaker (03), sentence (a01), emotion (F, from the German *Freude*) and version (a). What is said is
independent of the emotion, so text alone can't do better than chance, and a model that has seen the sentences has seen all text.
"""

import re
from pathlib import Path

from datamodules.named_files import Facts, NamedFiles

LABELS = {
    "W": "anger",
    "L": "boredom",
    "E": "disgust",
    "A": "fear",
    "F": "happiness",
    "T": "sadness",
    "N": "neutral",
}
SENTENCES = {
    "a01": "Der Lappen liegt auf dem Eisschrank.",
    "a02": "Das will sie am Mittwoch abgeben.",
    "a04": "Heute abend könnte ich es ihm sagen.",
    "a05": "Das schwarze Stück Papier befindet sich da oben neben dem Holzstück.",
    "a07": "In sieben Stunden wird es soweit sein.",
    "b01": "Was sind denn das für Tüten, die da unter dem Tisch stehen?",
    "b02": "Sie haben es gerade hochgetragen und jetzt gehen sie wieder runter.",
    "b03": "An den Wochenenden bin ich jetzt immer nach Hause gefahren und habe Agnes besucht.",
    "b09": "Ich will das eben wegbringen und dann mit Karl was trinken gehen.",
    "b10": "Die wird auf dem Platz sein, wo wir sie immer hinlegen.",
}
GENDERS = {
    speaker: "male" if speaker in {"03", "10", "11", "12", "15"} else "female"
    for speaker in ("03", "08", "09", "10", "11", "12", "13", "14", "15", "16")
}


class EmoDB(NamedFiles):
    """The folder that the download unpacks to; its sound is in ``wav``."""

    version = "1.0"
    licence = "as stated on its site, which asks to cite the paper"
    citation = "Burkhardt, Paeschke, Rolfes, Sendlmeier, Weiss: A database of German emotional speech. Interspeech 2005"
    source = "emodb.bilderbar.info"
    pattern = re.compile(r"(03|08|09|1[0-6])(a0[12457]|b0[1239]|b10)([WLEAFTN])([a-z])")
    example = "03a01Fa"
    counts = {  # noqa: RUF012
        "speaker": {"03": 49, "08": 58, "09": 43, "10": 38, "11": 55, "12": 35, "13": 61, "14": 69, "15": 56, "16": 71},
        "label": {"anger": 127, "boredom": 81, "disgust": 46, "fear": 69, "happiness": 71, "sadness": 62, "neutral": 79},
    }

    def describe(self, parts: re.Match[str], path: Path) -> Facts:
        """Read the four parts of a name."""
        speaker, sentence, emotion, version = parts.groups()
        return {
            "text": SENTENCES[sentence],
            "label": LABELS[emotion],
            "speaker": speaker,
            "sentence": sentence,
            "take": version,
            "gender": GENDERS[speaker],
        }
