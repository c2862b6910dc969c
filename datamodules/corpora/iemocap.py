"""IEMOCAP as distributed: the folder ``IEMOCAP_full_release`` with ``Session1`` to ``Session5``.

Of each session are read::

    dialog/EmoEvaluation/<dialogue>.txt    labels, valence, activation, dominance, and what every rater said
    dialog/transcriptions/<dialogue>.txt   what was said
    sentences/wav/<dialogue>/<turn>.wav    one file per turn

One row per evaluated turn. Left alone knowingly: the folders of single raters below ``EmoEvaluation``, video and motion capture,
resource files of macOS (``._name``), lines of a transcript that name no turn with its times in brackets, and turns numbered ``XX``,
which were transcribed and never evaluated.

In ``Ses01F_impro01_M003`` the first letter says which actor wore the markers; who speaks is the last one, so the speaker is
``Ses01M``. A partial copy is refused with what is missing by name; ``--skip-bad`` uses it as it is.
"""

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import ClassVar

import pandas as pd

from datamodules.audio import AudioError, Clip, inspect_clip
from datamodules.corpora import COLUMNS, Corpus, Reading
from datamodules.problems import BadInputError, Problem

LABELS = ("ang", "hap", "exc", "sad", "neu", "fru", "fea", "sur", "dis", "oth", "xxx")
"""The corpus's own; ``xxx``: no majority, ``oth``: another emotion."""

EXTRA_COLUMNS = ("improvised", "script", "valence", "activation", "dominance", "votes", "seconds")

_TURN = re.compile(r"(Ses\d\d)[FM]_(impro|script)\w*_([FM])(\w{3})")
_EVALUATION = re.compile(r"\[(\d+(?:\.\d+)?) - (\d+(?:\.\d+)?)\]\s+(\w+)\s+(\w+)\s+\[([^\]]*)\]")
_RATER = re.compile(r"([CA])-(\w+):\s*(.*)")
_TRANSCRIPT = re.compile(r"(\w+)\s+\[\d+(?:\.\d+)?-\d+(?:\.\d+)?\]:(.*)")
_SCRIPT = re.compile(r"script\d+_\d+")


@dataclass
class _Turn:
    """One evaluated turn: where it stands, and what the line says."""

    file: Path
    line: int
    name: str
    start: float
    label: str
    vad: list[float | None]
    votes: list[str] = field(default_factory=list)


class Iemocap(Corpus):
    """IEMOCAP: ten actors in five dyads, improvised scenes and scripted ones."""

    version = "full release"
    licence = "USC SAIL's release form: research only, no redistribution"
    citation = (
        "Busso et al., IEMOCAP: Interactive emotional dyadic motion capture database, Language Resources and Evaluation 42, 2008"
    )
    source = "https://sail.usc.edu/iemocap/iemocap_release.htm"
    counts: ClassVar[Mapping[str, int]] = MappingProxyType(
        {"Session1": 1819, "Session2": 1811, "Session3": 2136, "Session4": 2103, "Session5": 2170}
    )
    """Evaluated turns per session of the full release, 10,039 in all. Its five sessions have 28, 30, 32, 30 and 31 dialogues."""

    def official_counts(self) -> dict[tuple[str, ...], dict[tuple[str, ...], int | None]]:
        """The release's evaluated turns by session."""
        return {("session",): {(session,): count for session, count in self.counts.items()}}

    def read(self) -> Reading:
        """Read all sessions; see `Corpus.read`.

        Besides `COLUMNS` (``start`` and ``end`` are null: a file is a turn): ``improvised`` (bool), ``script`` (which scene is
        played, such as ``script01_1``, whoever plays it; null where improvised), ``valence``, ``activation``, ``dominance``
        (1 to 5, means over raters), ``votes`` (``E2:Neutral E4:Anger+Frustration F1:Neutral``; E are listeners, F and M the
        actors themselves), ``seconds``.
        """
        root = self._root()
        problems: list[Problem] = []
        rows: list[dict[str, object]] = []
        for session in self.counts:
            if (root / session).is_dir():
                rows += self._session(root / session, len(rows), problems)
            else:
                problems.append(_partial(root / session, "the session is missing", "unpack the archive again, all of it"))
        if not rows:
            what = "there is no evaluated turn"
            raise BadInputError([*problems, Problem(root, None, what, f"unpack all of the archive; get it from {self.source}")])
        return Reading(pd.DataFrame(rows, columns=[*COLUMNS, *EXTRA_COLUMNS]), problems + self._miscounted(root, rows))

    def _root(self) -> Path:
        """The folder that holds the sessions: the one named, or ``IEMOCAP_full_release`` in it."""
        for folder in (self.root, self.root / "IEMOCAP_full_release"):
            if any((folder / session).is_dir() for session in self.counts):
                return folder.absolute()
        archive = self.root.is_file() or (self.root.is_dir() and any(self.root.glob("IEMOCAP*.t*gz")))
        what = "this is the packed archive" if archive else f"there is no {next(iter(self.counts))} or any other session here"
        remedy = "unpack it and name the folder" if archive else f"name the folder IEMOCAP_full_release; get it from {self.source}"
        raise BadInputError([Problem(self.root, None, what, remedy)])

    def _miscounted(self, root: Path, rows: list[dict[str, object]]) -> list[Problem]:
        found = Counter(row["session"] for row in rows)
        return [
            _partial(
                root / session,
                f"it has {found[session]:,} evaluated turns; the full release has {count:,}",
                "unpack the archive again, or go on with a partial copy by --skip-bad",
            )
            for session, count in self.counts.items()
            if found[session] not in (0, count)  # of a session without any, the missing folder or file is named already
        ]

    def _session(self, folder: Path, first: int, problems: list[Problem]) -> list[dict[str, object]]:
        """The rows of one session, of which the first is row ``first`` of the table; appends what is wrong."""
        turns: list[_Turn] = []
        for path in _texts(folder / "dialog" / "EmoEvaluation", problems):
            turns += _evaluations(path, first + len(turns), problems)
        texts: dict[str, str | None] = {}
        lines: dict[str, tuple[Path, int]] = {}
        transcribed = _texts(folder / "dialog" / "transcriptions", problems)
        for path in transcribed:
            _transcript(path, texts, lines, problems)
        clips = _clips(folder / "sentences" / "wav", problems)
        problems += _strays(turns, lines, clips)
        rows = []
        orders = _orders(turns)
        for position, turn in enumerate(turns, start=first):
            dialogue = turn.name.rpartition("_")[0]
            path = clips.get(turn.name, folder / "sentences" / "wav" / dialogue / f"{turn.name}.wav")
            seconds = None
            try:
                seconds = inspect_clip(Clip(path)).seconds
            except AudioError as error:
                problems.append(Problem(path, None, f"{turn.name}: {error.what}", error.remedy, position))
            if turn.name not in texts:
                where = folder / "dialog" / "transcriptions" / f"{dialogue}.txt"
                what = f"{turn.name} is evaluated ({turn.file.name}:{turn.line}) but has no line here"
                problems.append(Problem(where, None, what, "unpack the archive again", position))
            rows.append(_row(turn, folder.name, path, texts.get(turn.name), orders[id(turn)], seconds))
        return rows


def _row(turn: _Turn, session: str, path: Path, text: str | None, order: int, seconds: float | None) -> dict[str, object]:
    dialogue, _, number = turn.name.rpartition("_")
    script = _SCRIPT.search(dialogue)
    return {
        "utterance_id": turn.name,
        "audio": str(path),
        "start": None,
        "end": None,
        "text": text,
        "label": turn.label,
        "speaker": turn.name[:5] + number[:1],
        "dialogue": dialogue,
        "turn": order,
        "session": session,
        "split": None,
        "improvised": "_impro" in dialogue,
        # Ses05M_script01_1b goes on with script01_1.
        "script": script[0] if script else None,
        **dict(zip(("valence", "activation", "dominance"), turn.vad, strict=True)),
        "votes": " ".join(turn.votes) or None,
        "seconds": seconds,
    }


def _orders(turns: list[_Turn]) -> dict[int, int]:
    """Every turn's place in its dialogue by start time, from 0; by the turn's identity, because a name may stand twice."""
    orders: dict[int, int] = {}
    seen: Counter[str] = Counter()
    for turn in sorted(turns, key=lambda turn: (turn.start, turn.name)):
        dialogue = turn.name.rpartition("_")[0]
        orders[id(turn)] = seen[dialogue]
        seen[dialogue] += 1
    return orders


def _partial(path: Path, what: str, remedy: str, line: int | None = None) -> Problem:
    return Problem(path, line, what, remedy, partial=True)


def _names(folder: Path, problems: list[Problem]) -> list[Path]:
    """What a folder holds, sorted, without macOS's resource files; none if it can't be listed."""
    try:
        return sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except FileNotFoundError:
        problems.append(_partial(folder, "the folder is missing", "unpack the archive again, all of it"))
    except OSError as error:
        problems.append(_partial(folder, f"the folder can't be read ({error.strerror})", "check its permissions"))
    return []


def _texts(folder: Path, problems: list[Problem]) -> list[Path]:
    return [path for path in _names(folder, problems) if path.suffix == ".txt"]


def _clips(folder: Path, problems: list[Problem]) -> dict[str, Path]:
    """Turn -> its file."""
    dialogues = [path for path in _names(folder, problems) if path.suffix != ".txt"]
    return {path.stem: path for dialogue in dialogues for path in _names(dialogue, problems) if path.suffix == ".wav"}


def _lines(path: Path, problems: list[Problem]) -> list[str]:
    """A file's lines without their ends, which the release mixes; none if it can't be read."""
    try:
        data = path.read_bytes()
    except OSError as error:
        problems.append(_partial(path, f"the file can't be read ({error.strerror})", "check its permissions"))
        return []
    if not data.strip():
        problems.append(_partial(path, "the file is empty", "unpack the archive again"))
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = data.decode("cp1252", errors="replace")  # a curly quote of Windows, should someone have edited the file
    return text.replace("\r\n", "\n").replace("\r", "\n").split("\n")


def _evaluations(path: Path, first: int, problems: list[Problem]) -> list[_Turn]:
    """The turns of one evaluation file, of which the first is row ``first`` of the table."""
    turns: list[_Turn] = []
    named: dict[str, int] = {}
    torn = False  # raters below a torn line speak of that line's turn, not of the one before
    for number, line in enumerate(_lines(path, problems), start=1):
        stripped = line.strip()
        if not stripped or stripped.startswith("%"):
            continue
        found, rater = _EVALUATION.fullmatch(stripped), _RATER.fullmatch(stripped)
        if rater and (turns or torn):
            if rater[1] == "C" and not torn:
                said = [word.strip() for word in rater[3].split("\t")[0].split(";")]
                turns[-1].votes.append(f"{rater[2]}:" + "+".join(word.replace(" ", "_") for word in said if word))
            continue
        if not found:
            what, remedy = f"the line {stripped[:60]!r} is neither a turn nor a rater's", "restore the file from the archive"
            problems.append(_partial(path, what, remedy, number))
            torn |= stripped.startswith("[")
            continue
        torn = False
        turn = _Turn(path, number, found[3], float(found[1]), found[4], _three(found[5]))
        position = first + len(turns)
        turns.append(turn)
        if not _TURN.fullmatch(turn.name) or turn.name.rpartition("_")[0] != path.stem:
            problems.append(Problem(path, number, f"{turn.name!r} is no turn of {path.stem}", "restore the file", position))
        elif turn.name in named:
            what = f"{turn.name} is evaluated in line {named[turn.name]} already"
            problems.append(Problem(path, number, what, "restore the file", position))
        named.setdefault(turn.name, number)
        if turn.label not in LABELS:
            problems.append(
                Problem(path, number, f"the label is {turn.label!r}", f"it must be one of {', '.join(LABELS)}", position)
            )
        if None in turn.vad:
            what = f"valence, activation and dominance are [{found[5]}]"
            problems.append(Problem(path, number, what, "it must be three numbers", position))
    return turns


def _three(cell: str) -> list[float | None]:
    parts = [part.strip() for part in cell.split(",")]
    numbers = [float(part) if re.fullmatch(r"\d+(\.\d+)?", part) else None for part in parts]
    return numbers if len(numbers) == 3 else [None] * 3


def _transcript(path: Path, texts: dict[str, str | None], lines: dict[str, tuple[Path, int]], problems: list[Problem]) -> None:
    """Add one file's transcripts by turn to ``texts``, and where they stand to ``lines``."""
    for number, line in enumerate(_lines(path, problems), start=1):
        found = _TRANSCRIPT.fullmatch(line.strip())
        if not found:
            if _TURN.match(line) and "[" in line.split(":")[0]:
                what = f"the line {line.strip()[:60]!r} doesn't read 'turn [start-end]: text'"
                problems.append(_partial(path, what, "restore the file from the archive", number))
            continue
        if found[1] in texts:
            what = f"{found[1]} is transcribed in {lines[found[1]][0].name}:{lines[found[1]][1]} already"
            problems.append(_partial(path, what, "restore the file from the archive", number))
            continue
        texts[found[1]] = found[2].strip() or None
        lines[found[1]] = path, number


def _strays(turns: list[_Turn], lines: dict[str, tuple[Path, int]], clips: dict[str, Path]) -> list[Problem]:
    """Transcripts and audio of turns that aren't evaluated; one problem for a dialogue of which none is."""
    evaluated = {turn.name for turn in turns}
    dialogues = {name.rpartition("_")[0] for name in evaluated}
    remedy = "unpack the archive again, all of it"
    strays = []
    whole: Counter[tuple[str, Path]] = Counter()
    for name in sorted((lines.keys() | clips.keys()) - evaluated):
        turn, dialogue = _TURN.fullmatch(name), name.rpartition("_")[0]
        if turn and turn[4].startswith("XX"):
            continue
        path, number = lines.get(name, (clips.get(name), None))
        assert path is not None, "a stray has a transcript or audio"
        if dialogue not in dialogues:
            whole[dialogue, path if name in lines else path.parent] += 1
            continue
        lacks = "is transcribed and has audio, but isn't evaluated"
        if name not in clips:
            lacks = "has a transcript, but neither audio nor an evaluation"
        elif name not in lines:
            lacks = "has audio, but neither a transcript nor an evaluation"
        strays.append(_partial(path, f"{name} {lacks}", remedy, number))
    for (dialogue, path), count in whole.items():
        strays.append(_partial(path, f"none of the {count} turns of {dialogue} is evaluated; its file is missing", remedy))
    return strays
