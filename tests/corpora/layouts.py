"""Small trees in the official layouts of corpora, generated; each function's docstring says what it reproduces.

`LAYOUTS` has one entry per reader, big enough for the reader's first protocol. The generators of IEMOCAP and MOSEI
are in `iemocap_layout` and `mosei_layout`.
"""

import csv
import io
import itertools
import json
import zlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import av
import iemocap_layout
import mosei_layout
import numpy as np
import pyarrow as pa
import soundfile

from datamodules.corpora import esd, meld, savee
from datamodules.corpora.emouerj import TRANSCRIPTS

VIDEO_RATE = 44_100
MELD_HEADER = "Sr No.,Utterance,Speaker,Emotion,Sentiment,Dialogue_ID,Utterance_ID,Season,Episode,StartTime,EndTime"
ESD_TEXTS = {"0001": ("gb18030", "打远一看,它们的确很是美丽。", "中立"), "0011": ("utf-8", "The nine, the eggs.", "Neutral")}
ESD_TEXTS |= {"0012": ("utf-16", "Over the “hill”.", "Neutral"), "0016": ("cp1252", "It’s a café.", "Neutral")}
Names = list[str]


def emodb_names(speakers: Sequence[str] = ("03", "08")) -> Names:
    return [f"wav/{s}{t}{e}{v}.wav" for s, t, e, v in itertools.product(speakers, ("a01", "b10"), "WFN", "ab")]


def ravdess_names(actors: Sequence[int] = (1, 12)) -> Names:
    codes = itertools.product(range(1, 4), (1, 2), (1, 2), (1, 2), actors)
    return [f"Actor_{a:02}/03-01-{e:02}-{i:02}-{s:02}-{r:02}-{a:02}.wav" for e, i, s, r, a in codes if e > 1 or i == 1]


def cremad_names(actors: Sequence[int] = (1001, 1091), others: Sequence[str] = ("1001_IEO_HAP_HI", "1040_ITH_SAD_X")) -> Names:
    names = [f"{a}_{s}_{e}_XX" for a, s, e in itertools.product(actors, ("DFA", "IEO"), ("ANG", "NEU", "SAD"))]
    return [f"AudioWAV/{name}.wav" for name in [*names, *others]]


def esd_names(sentences: Sequence[int] = (1, 350)) -> Names:
    numbers = [(label, 350 * block + n) for block, label in enumerate(esd.LABELS) for n in sentences]
    return [f"{s}/{label}/{s}_{n:06}.wav" for s in ESD_TEXTS for label, n in numbers]


def emouerj_names(speakers: Sequence[str] = ("m01", "m04", "w01", "w04"), takes: Sequence[int] = (1, 11)) -> Names:
    return [f"{s}{e}{t:02}.wav" for s, e, t in itertools.product(speakers, "hasn", takes)]


def savee_names() -> Names:
    emotions = ("a", "h", "n", "sa")
    return [f"AudioData/{s}/{e}{n:02}.wav" for s, e, n in itertools.product(("DC", "JE", "JK", "KL"), emotions, (1, 15))]


def write_sound(path: Path, seconds: float = 0.1) -> None:
    """Noise of its own for every name: identical audio in two splits is a leak."""
    path.parent.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(zlib.crc32(f"{path.parent.name}/{path.name}".encode()))
    soundfile.write(path, random.normal(0, 0.1, round(16_000 * seconds)), 16_000)


def write_esd_texts(root: Path, names: Names) -> None:
    for speaker, (encoding, text, emotion) in ESD_TEXTS.items():
        lines = [f"{Path(name).stem}\t{text}\t{emotion}" for name in names if name.startswith(speaker)]
        (root / speaker / f"{speaker}.txt").write_bytes("\r\n".join([*lines, ""]).encode(encoding))


def write_video(path: Path, seconds: float = 0.5, frequency: float = 440.0, sound: bool = True) -> None:
    """An mp4 as the release's: H.264 or the like, and AAC in stereo at 44.1 kHz."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        video = container.add_stream("mpeg4", rate=25)
        video.width, video.height, video.pix_fmt = 32, 32, "yuv420p"
        audio = container.add_stream("aac", rate=VIDEO_RATE, layout="stereo") if sound else None
        for _ in range(max(1, round(25 * seconds))):
            frame = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")
            container.mux(video.encode(frame))
        container.mux(video.encode())
        if audio is not None:
            wave = 0.3 * np.sin(2 * np.pi * frequency * np.arange(round(seconds * VIDEO_RATE)) / VIDEO_RATE)
            for start in range(0, len(wave), 1024):
                block = np.tile(wave[start : start + 1024].astype(np.float32), (2, 1))
                piece = av.AudioFrame.from_ndarray(np.ascontiguousarray(block), format="fltp", layout="stereo")
                piece.sample_rate, piece.pts, piece.time_base = VIDEO_RATE, start, Fraction(1, VIDEO_RATE)
                container.mux(audio.encode(piece))
            container.mux(audio.encode())


def write_meld_csv(path: Path, rows: list[tuple], encoding: str = "utf-8") -> None:
    """With the release's columns, quoting and line ends."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\r\n")
    for number, (dialogue, turn, words, speaker, label, sentiment) in enumerate(rows, start=1):
        times = ("00:16:16,059", "00:16:21,731")
        writer.writerow([number, words, speaker, label, sentiment, dialogue, turn, 8, 21, *times])
    path.write_bytes((MELD_HEADER + "\r\n" + text.getvalue()).encode(encoding))


LABELS = ["calm", "glad"]
AUDIO = {"sampling_rate": 16000, "decode": True, "_type": "Audio"}
FEATURES = {
    "id": {"dtype": "string", "_type": "Value"},
    "audio": AUDIO,
    "text": {"dtype": "string", "_type": "Value"},
    "label": {"names": LABELS, "_type": "ClassLabel"},
}


def sound(seconds: float = 0.1, kind: str = "WAV") -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, np.full(round(16_000 * seconds), 0.1), 16_000, format=kind)
    return buffer.getvalue()


def row(number: int, **changes: Any) -> dict[str, Any]:
    given = {"bytes": sound(0.1 * (number + 1)), "path": f"{number}.wav"}
    return {"id": f"u{number}", "audio": given, "text": f"words {number}", "label": number % 2} | changes


def save(folder: Path, rows: list[dict[str, Any]], features: dict[str, Any] = FEATURES, shards: int = 1) -> Path:
    """Arrow streams with their two JSON files, as the package writes them."""
    folder.mkdir(parents=True)
    names = [f"data-{shard:05}-of-{shards:05}.arrow" for shard in range(shards)]
    for shard, name in enumerate(names):
        table = pa.Table.from_pylist(rows[shard::shards])
        with pa.OSFile(str(folder / name), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
            writer.write_table(table)
    state = {"_data_files": [{"filename": name} for name in names], "_fingerprint": "0123456789abcdef", "_split": None}
    (folder / "state.json").write_text(json.dumps(state, indent=2))
    info = {"citation": "", "description": "", "features": features, "homepage": "", "license": ""}
    (folder / "dataset_info.json").write_text(json.dumps(info, indent=2))
    return folder


def save_dict(folder: Path, parts: dict[str, list[dict[str, Any]]]) -> Path:
    for name, rows in parts.items():
        save(folder / name, rows)
    (folder / "dataset_dict.json").write_text(json.dumps({"splits": list(parts)}))
    return folder


class Layout(NamedTuple):
    """A generated release.

    Attributes:
        write: Writes it below a folder and returns what ``--root`` names.
        protocol: What ``auto`` makes of it, and how many folds.
        caveats: What must stand under its table.
        counts: Attributes of the reader's class that make the tree a complete release; empty for a reader that has none.
    """

    write: Callable[[Path], Path]
    protocol: tuple[str, int]
    caveats: tuple[str, ...] = ()
    counts: Mapping[str, Any] = {}


def named(names: Names, folder: Path) -> Path:
    """A release of files whose names say everything."""
    for name in names:
        write_sound(folder / "release" / name)
    (folder / "release" / "ReadMe.txt").write_text("About the data.")
    return folder / "release"


def write_esd(folder: Path) -> Path:
    """Four sentences a language, all emotions, four speakers, transcripts in four encodings."""
    names = esd_names((1, 2, 3, 350))
    root = named(names, folder)
    write_esd_texts(root, names)
    return root


def write_emouerj(folder: Path) -> Path:
    """Three speakers who say three sentences in each emotion, and the transcripts that somebody made."""
    names = emouerj_names(("m01", "m04", "w01"), (1, 2, 3))
    root = named(names, folder)
    lines = [f"{Path(name).stem},Frase {Path(name).stem[-1]}." for name in names]
    (root / TRANSCRIPTS).write_text("\n".join(["utterance_id,text", *lines]), encoding="utf-8")
    return root


def meld_rows(split: str) -> list[tuple]:
    """Two dialogues of seven turns, one a label; the main characters are in every split. The known bad clips are among them."""
    bad = {"train": (125, 3), "dev": (110, 6)}
    rows = []
    for dialogue in (0, bad.get(split, (1, 0))[0]):
        for turn, label in enumerate(meld.LABELS):
            sentiment = {"neutral": "neutral", "joy": "positive", "surprise": "positive"}.get(label, "negative")
            words = "Okay." if turn == 0 else f"It’s {split} {dialogue}, {turn}."
            # dev_dia110_utt7 is the one that is missing.
            number = 7 if (split, dialogue, turn) == ("dev", *bad["dev"]) else turn
            rows.append((dialogue, number, words, ("Ann", "Bob", "Cy")[turn % 3], label, sentiment))
    return rows


def write_meld(folder: Path) -> Path:
    """The three CSV files, and clips for every row but the two that the release has damaged or not at all."""
    for split, name in meld.FILES.items():
        write_meld_csv(folder / "MELD.Raw" / name, meld_rows(split))
        for number, (dialogue, turn, *_) in enumerate(meld_rows(split)):
            clip = folder / "MELD.Raw" / meld.FOLDERS[split] / f"dia{dialogue}_utt{turn}.mp4"
            if f"{split}_{clip.stem}" == "train_dia125_utt3":
                clip.write_bytes(b"damaged")
            elif f"{split}_{clip.stem}" != "dev_dia110_utt7":
                write_video(clip, 0.2, 200.0 + 10 * number + 3 * list(meld.FILES).index(split))
    return folder


MELD_COUNTS = {
    "counts": {split: dict(Counter(row[4] for row in meld_rows(split))) for split in meld.FILES},
    "dialogues": dict.fromkeys(meld.FILES, 2),
}


def write_huggingface(folder: Path) -> Path:
    """A dictionary of splits, two speakers each, sound inside the Arrow files."""
    parts: dict[str, list[dict[str, Any]]] = {}
    for number in range(16):
        part = "train" if number < 8 else "validation" if number < 12 else "test"
        parts.setdefault(part, []).append(row(number, speaker_id=f"s{number // 2}"))
    return save_dict(folder / "mine", parts)


def tally(names: Names, **facts: Callable[[str], str]) -> dict[str, Any]:
    """What `NamedFiles.counts` says of a release with these names: column -> value of a stem -> number."""
    return {"counts": {column: dict(Counter(value(Path(name).stem) for name in names)) for column, value in facts.items()}}


LAYOUTS = {
    "iemocap": Layout(
        iemocap_layout.write_iemocap,
        ("iemocap4-loso@1", 5),
        ("counts differ from the published ones", "scripts are performed in more than one split"),
        {"counts": iemocap_layout.COUNTS},
    ),
    "meld": Layout(
        write_meld,
        ("meld7@1", 1),
        (
            "counts differ from the published ones",
            "3 speakers are in more than one split",
            "train_dia125_utt3: its clip is damaged",
        ),
        MELD_COUNTS,
    ),
    "mosei": Layout(
        mosei_layout.write_release,
        ("mosei6@1", 1),
        ("counts differ from the published ones", "speakers are not known", "the threshold on its probability is 0.5"),
        {"counts": mosei_layout.COUNTS},
    ),
    "emodb": Layout(
        partial(named, emodb_names(("03", "08", "10"))),
        ("speaker-3fold@1", 3),
        ("2 sentences are said in more than one split",),
        tally(emodb_names(("03", "08", "10")), speaker=lambda stem: stem[:2]),
    ),
    "ravdess": Layout(
        partial(named, ravdess_names((1, 12, 24))),
        ("speaker-3fold@1", 3),
        ("2 sentences are said in more than one split",),
        tally(ravdess_names((1, 12, 24)), speaker=lambda stem: stem[-2:]),
    ),
    "cremad": Layout(
        partial(named, cremad_names((1001, 1040, 1091), ())),
        ("speaker-3fold@1", 3),
        ("2 sentences are said in more than one split",),
        tally(cremad_names((1001, 1040, 1091), ()), speaker=lambda stem: stem[:4]),
    ),
    "savee": Layout(
        partial(named, savee_names()),
        ("speaker-4fold@1", 4),
        ("the release has no transcripts", "8 sentences are said in more than one split"),
        {"counts": {"speaker": dict.fromkeys(savee.SPEAKERS, 8)}},
    ),
    "esd": Layout(
        write_esd,
        ("esd@1", 4),
        ("their speaker or their sentence is in another split",),
        tally(esd_names((1, 2, 3, 350)), speaker=lambda stem: stem[:4]),
    ),
    "emouerj": Layout(
        write_emouerj,
        ("emouerj@1", 9),
        ("counts differ from the published ones", "their speaker or their sentence is in another split"),
        tally(emouerj_names(("m01", "m04", "w01"), (1, 2, 3)), speaker=lambda stem: stem[:3]),
    ),
    "huggingface": Layout(write_huggingface, ("split@1", 1)),
}
"""By reader. A new reader adds its line."""
