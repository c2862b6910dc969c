"""A small IEMOCAP in the layout of the full release: five sessions, invented words, tones for voices.

Reproduced: the header with a percent sign, turn lines with tabs, listeners and actors as raters, blank lines between turns,
line ends that differ within a file, transcripts in another order than the evaluation, lines without times, turns numbered XX
that nobody evaluated, files of forced alignment beside the sound, macOS's resource files, the folders of single raters, a
scripted dialogue in two recordings.
"""

import zlib
from pathlib import Path

import numpy as np
import soundfile

DIALOGUES = ("F_impro01", "M_impro02", "F_script01_1", "M_script01_1", "F_script02_1", "M_script03_2")
LABELS = ("ang", "hap", "exc", "neu", "sad", "fru", "xxx", "oth")
TURNS = len(LABELS)
COUNTS = {f"Session{n}": TURNS * (len(DIALOGUES) + (n == 5)) for n in range(1, 6)}
"""Evaluated turns per session; Session5 has Ses05M_script01_1b besides."""

SAID = {
    "ang": ("Anger", "Anger; Frustration"),
    "hap": ("Happiness", "Happiness"),
    "exc": ("Excited", "Excited"),
    "neu": ("Neutral", "Neutral"),
    "sad": ("Sadness", "Sadness"),
    "fru": ("Frustration", "Frustration; Anger"),
    "xxx": ("Neutral", "Sadness"),
    "oth": ("Other", "Other"),
}
HEADER = "% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]"


def write_iemocap(folder: Path) -> Path:
    """Write the tree below ``folder`` and return ``IEMOCAP_full_release``."""
    root = folder / "IEMOCAP_full_release"
    for session in range(1, 6):
        names = [f"Ses0{session}{rest}" for rest in DIALOGUES] + (["Ses05M_script01_1b"] if session == 5 else [])
        for number, name in enumerate(names):
            _dialogue(root / f"Session{session}", name, number)
        evaluations = root / f"Session{session}" / "dialog" / "EmoEvaluation"
        (evaluations / "Categorical").mkdir()
        (evaluations / "Categorical" / f"{names[0]}_e2_cat.txt").write_text(f"{names[0]}_F000 :Neutral state; ()\n")
        (evaluations / f"._{names[0]}.txt").write_bytes(b"\x00\x05\x16\x07\x00\x02\x00\x00Mac OS X")
        (root / f"Session{session}" / "dialog" / "transcriptions" / f"._{names[0]}.txt").write_bytes(b"\x00\x05\x16\x07")
        (root / f"Session{session}" / "sentences" / "wav" / names[0] / f"._{names[0]}_F000.wav").write_bytes(b"\x00\x05\x16\x07")
    return root


def turns(dialogue: str) -> list[tuple[str, float, str]]:
    """Turn, start in seconds and label of a dialogue, in the order of speaking."""
    return [(f"{dialogue}_{'FM'[n % 2]}{n // 2:03}", 6.2901 + 2.5 * n, label) for n, label in enumerate(LABELS)]


def sentence(dialogue: str, number: int) -> str:
    """Scripted words are the same whoever performs them; improvised ones are the dialogue's own."""
    scene = dialogue.partition("_")[2].removesuffix("b")
    return f"Line {number} of {scene}, isn't it?" if "script" in scene else f"Words {number} of {dialogue}."


def _dialogue(session: Path, name: str, number: int) -> None:
    end = "\r\n" if number % 2 else "\n"
    # The release sorts evaluations by actor, not by time.
    spoken = turns(name)
    blocks = [HEADER + "\r\n" + end]
    for turn, start, label in sorted(spoken):
        said = SAID[label]
        blocks.append(
            f"[{start:.4f} - {start + 1.75:.4f}]\t{turn}\t{label}\t[2.5000, 3.0000, 3.5000]{end}"
            f"C-E2:\t{said[0]};\t(){end}C-E4:\t{said[1]};\t(with a note; in brackets){end}C-{turn[-4]}1:\tNeutral;\t(curious){end}"
            f"A-E3:\tval 3; act 2; dom  2;\t(){end}A-{turn[-4]}1:\tval 2; act 4; dom  ;\t(){end}\n"
        )
    _write(session / "dialog" / "EmoEvaluation" / f"{name}.txt", "".join(blocks))
    lines = [
        f"{turn} [{start:08.4f}-{start + 1.75:08.4f}]: {sentence(name, place)}" for place, (turn, start, _) in enumerate(spoken)
    ]
    lines.insert(2, "M: [LAUGHTER]")
    lines.insert(4, f"{name}_MXX0 [010.0000-010.5000]: Mmhmm.")
    _write(session / "dialog" / "transcriptions" / f"{name}.txt", end.join(lines) + end)
    (session / "sentences" / "wav" / name).mkdir(parents=True)
    for turn, *_ in spoken:
        seed = zlib.crc32(turn.encode())
        wave = 0.3 * np.sin(np.arange(1600) * (0.05 + seed % 997 / 4000)) + 0.01 * np.random.default_rng(seed).normal(size=1600)
        soundfile.write(session / "sentences" / "wav" / name / f"{turn}.wav", wave, 16_000, "PCM_16")

        frames = ("\t SFrm  EFrm    SegAScr Word", "\t    0    17    -111111 <s>", "\t   18    52    -222222 WORDS(2)")
        for suffix in ("wdseg", "phseg", "syseg"):
            _write(session / "sentences" / "ForcedAlignment" / name / f"{turn}.{suffix}", "\n".join(frames) + "\n")


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode())
