"""Demo: a small corpus that is generated, not downloaded, and in which the right answer is known.

Sixteen eSpeak NG voices speak 640 English sentences in dialogues; four labels (angry, happy, neutral, sad). It is the default
corpus, so that everything runs on a bare machine, and it is a measuring instrument: the column ``interaction`` says where the
label of an utterance can be found, so accuracy by interaction tells which methods really fuse and which only pick a modality.

==========  =====================================  ==================  ======================================================
interaction words                                  voice               label
==========  =====================================  ==================  ======================================================
redundant   emotional (class L)                    emotional (class L) L; either modality alone will do
audio       plain facts                            emotional (class L) L; only the voice tells
text        emotional (class L)                    flat                L; only the words tell
synergy     one of four situations (the cue)       emotional           ``LATIN_SQUARE[cue][voice]``; only the pair tells
==========  =====================================  ==================  ======================================================

Every row and column of the Latin square is a permutation of the labels and each split holds every (cue, voice) pair equally
often. So given the cue alone, or the voice alone, all four labels are exactly equally likely: neither alone, nor a late
fusion of models trained apart, can beat chance, while the pair determines the label. One caveat: speech holds its words, so
a method that hears only the audio may spot some; on ``text`` simple statistics of the audio reach about 40 %.

The readings have a story (sarcastic praise in a happy voice is angry; shouting on a stage is neutral), but the square is a
construction, as is the whole corpus: results on it say what a method can express and learn, not how it does on people. The
transcripts of one cue are much alike, or 96 training examples would be memorised by their words and the pair never learned.

The voice carries emotion as pitch, pitch range, rate, loudness and vocal effort (spectral tilt), all relative to the
speaker's own; clips are not normalised, because loudness is a cue, and have mild background noise. Labels persist from
turn to turn (inertia), as in conversation. Speakers, dialogues and transcripts are disjoint across splits; the sentence
templates are shared, as a language is.

Generation depends on ``seed`` only. eSpeak keeps state between utterances (breath, flutter) and seeds its noise from the
clock, so each utterance is spoken by a fresh private copy of the library with a fixed seed.
"""

import _ctypes
import csv
import ctypes
import itertools
import os
import random
import shutil
import tempfile
from pathlib import Path
from typing import ClassVar, NamedTuple

import espeakng_loader
import numpy as np
import pandas as pd
import soundfile
from filelock import FileLock
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from datamodules import cache_dir
from datamodules.corpora import COLUMNS, Corpus, Reading
from datamodules.problems import BadInputError, Problem

LABELS = ("angry", "happy", "neutral", "sad")
INTERACTIONS = ("redundant", "audio", "text", "synergy")
EXTRA_COLUMNS = ("interaction", "words", "voice")
SAMPLE_RATE = 22050  # Hz, eSpeak's own

PAIR_REPEATS = {"train": 6, "val": 1, "test": 3}  # how often a split holds each of the 16 pairs, in each interaction
SPEAKERS = {
    "train": ("m1", "f1", "m3", "f2", "m4", "f4", "m7", "belinda", "michel", "grandma"),
    "val": ("m2", "f5", "m8"),
    "test": ("m5", "f3", "m6"),
}
INERTIA = 0.45  # probability of keeping the label outright; drawing anew also hits the same label now and then
SWITCH = 0.7  # probability that the other speaker takes the turn
TURNS = range(4, 9)

LATIN_SQUARE = {  # cue -> voice -> label
    # Taken at face value.
    "news": {"angry": "angry", "happy": "happy", "neutral": "neutral", "sad": "sad"},
    # Said of somebody's cooking: sarcasm turns a cheerful voice sour, mock scolding is fun, a sigh is habit.
    "praise": {"angry": "happy", "happy": "angry", "neutral": "sad", "sad": "neutral"},
    # Rehearsing a play: shouting belongs to the part, cheer covers stage fright, a monotone is a row with the director.
    "stage": {"angry": "neutral", "happy": "sad", "neutral": "angry", "sad": "happy"},
    # Parting: harshness hides grief, cheer is mere politeness, calm is relief, a mournful voice reproaches.
    "farewell": {"angry": "sad", "happy": "neutral", "neutral": "happy", "sad": "angry"},
}


class Style(NamedTuple):
    """How a voice sounds, relative to the speaker's own base.

    Attributes:
        pitch: eSpeak's 0 to 99; 50 is the speaker's own.
        spread: Pitch range, eSpeak's 0 to 99; 0 is monotone.
        rate: Words per minute.
        gain: Loudness in dB below full scale, the same for every speaker.
        effort: Spectral tilt, the second tap of a filter ``[1, -effort]``; positive is bright, negative is dull.
    """

    pitch: int
    spread: int
    rate: int
    gain: float
    effort: float


STYLES = {
    "angry": Style(pitch=50, spread=70, rate=220, gain=-23.0, effort=0.8),
    "happy": Style(pitch=95, spread=99, rate=185, gain=-31.0, effort=0.3),
    "neutral": Style(pitch=45, spread=40, rate=160, gain=-39.0, effort=-0.3),
    "sad": Style(pitch=20, spread=10, rate=115, gain=-50.0, effort=-0.9),
    "flat": Style(pitch=45, spread=0, rate=165, gain=-39.0, effort=0.9),
}
REFERENCE = "The road to the library runs past the town hall."  # its level is what a gain is relative to
NOISE_DB = (20.0, 35.0)  # range of the signal-to-noise ratio


class Words(NamedTuple):
    """Sentences of one group: templates with slots ``{a}`` and ``{b}``, and what can fill them."""

    a: tuple[str, ...]
    b: tuple[str, ...]
    templates: tuple[str, ...]


def _words(a: str, b: str, templates: str) -> Words:
    """Read a group: fillers separated by commas, templates by slashes."""
    return Words(tuple(a.split(", ")), tuple(b.split(", ")), tuple(" ".join(templates.split()).split(" / ")))


BANK = {
    "angry": _words(
        "that clerk, your brother, the landlord, the manager, this idiot, the mechanic, your friend, that crook",
        "my car, my money, the contract, my phone, the keys, my files, our bikes, the deposit",
        """
        How dare {a} touch {b}! / I am furious about {b}. / I hate the way {a} lies to me! /
        Stop arguing and give back {b} right now! / {a} ruined {b} and nobody even apologised! /
        This is outrageous, {a} stole {b} again! / Shut up about {b}! /
        I have had enough of {a}, this makes me sick with rage! / Who the hell broke {b}? /
        {a} is a liar and a cheat! / It is absolutely unacceptable that {a} keeps damaging {b}! /
        Don't you dare lie to me about {b}! / I swear I will scream if {a} mentions {b} one more time! /
        Damn it, not {b} again! / {a} makes my blood boil. / I demand that {a} pays for {b} this instant!
        """,
    ),
    "happy": _words(
        "my sister, my grandson, the kids, our team, my best friend, the neighbours, my daughter, the whole class",
        "the holiday, my birthday, the festival, the new puppy, the concert, the prize, the picnic, the surprise party",
        """
        I am so happy about {b}! / What a wonderful day, {a} loved {b}! / Hooray, {a} won the gold medal! /
        I can't stop smiling when I think of {b}. / Yes, we did it, {a} and me! /
        This is the best day of my life, thanks to {a}! / {b} was absolutely fantastic and we laughed all night! /
        I'm over the moon about {b}! / {a} gave me a huge hug and I am overjoyed! /
        How lovely to celebrate with {a}! / I love {b}! /
        We danced and sang with {a} until sunrise, it was pure joy! / I am thrilled and so grateful for {b}! /
        Isn't {b} amazing? / Great fun, {a} couldn't stop giggling at {b}! /
        My heart is dancing with delight because of {b}!
        """,
    ),
    "neutral": _words(
        "water the plants, sort the mail, fold the laundry, sweep the porch, feed the fish, charge the phone, mop the floor, "
        "make the bed",
        "the blue shirt, the grey chair, the small table, the usual desk, the other pen, the spare lamp, the plain mug, "
        "the long list",
        """
        I will {a} later, as usual. / It is an ordinary day, so I will {a}. / I have no strong feelings about {b}. /
        {b} is fine, I suppose. / I usually {a} around this time. / Either way is fine, you can use {b}. /
        Nothing special today, I just have to {a}. / I do not mind if you borrow {b}. /
        Let us carry on and {a} as planned. / {b} looks about the same as before. / Okay, I will {a} now. /
        I guess {b} will do. / It does not matter much to me whether we {a} today or tomorrow. /
        I am neither for nor against {b}. / As always, I put {b} in its place. /
        That is all right, we can {a} some other time.
        """,
    ),
    "sad": _words(
        "my grandmother, my old dog, my best friend, my father, our little cat, my brother, my dear aunt, my teacher",
        "the funeral, the empty house, those lost years, the old photographs, that lonely winter, the silent nights, "
        "his empty chair, her last letters",
        """
        I miss {a} so much. / I cried all night after {a} died. / I feel so lonely without {a}. /
        Seeing {b} broke my heart. / I can't stop crying about {b}. / Nothing matters any more since we lost {a}. /
        It hurts to think of {b}. / I am so sorry about {a}, the pain never goes away. /
        Tears ran down my face when I remembered {b}. / {a} is very ill and there is no hope left. /
        I feel hopeless and empty when I think of {b}. / The grief of {b} is too heavy for me. /
        I wish {a} were still alive. / We buried {a} on a grey morning in the rain. /
        Everything reminds me of {a}, and I just want to weep. / I'm heartbroken over {b}.
        """,
    ),
    "plain": _words(
        "the library, the post office, the bank, the town hall, the main office, the pharmacy, the sports hall, "
        "the warehouse, the north gate, the car park",
        "three, four, five, six, seven, nine, ten, twelve",
        """
        {a} opens at {b}. / {a} is closed on Mondays until {b}. / The meeting at {a} starts at {b}. /
        There are {b} numbered doors on the left side of {a}. / Line {b} stops at {a} and ends at the bridge. /
        The road to {a} is {b} kilometres long and has {b} crossings.
        """,
    ),
    "news": _words(
        "Peter, Maria, Thomas, Julia, Daniel, Laura, Simon, Emma, Martin, Helen",
        "in March, in April, in May, in June, in July, in August",
        """
        Guess what, {a} is getting married {b}. / I heard that {a} is getting married {b}.
        """,
    ),
    "praise": _words(
        "soup, cake, lasagna, roast, curry, stew, salad, pie, pizza, pudding",
        "garlic, pepper, cheese, butter, ginger, parsley, honey, mustard",
        """
        What a {a} you cooked with {b}. / So you cooked this {a} with a lot of {b}.
        """,
    ),
    "stage": _words(
        "the king, the queen, the ghost, the captain, the wizard, the prince, the witch, the knight",
        "scene one, scene two, scene three, act four, the prologue, the finale",
        """
        {a} enters the stage in {b}. / The curtain rises in {b} and {a} enters the stage.
        """,
    ),
    "farewell": _words(
        "Lisbon, Boston, Vienna, Oslo, Dublin, Sydney, Berlin, Tokyo",
        "train, ferry, plane, bus, ship, shuttle",
        """
        The {b} to {a} is leaving soon. / My suitcase is packed, the {b} to {a} is leaving soon.
        """,
    ),
}


class Demo(Corpus):
    """The generated corpus; see the top of this file."""

    version: ClassVar[str] = "1"
    licence: ClassVar[str] = "Apache-2.0 (sentences and generated audio)"
    citation: ClassVar[str] = "none; generated by this project with eSpeak NG, https://github.com/espeak-ng/espeak-ng"
    source: ClassVar[str] = "generated on first use"
    slices: ClassVar[tuple[str, ...]] = ("interaction",)

    def __init__(self, root: Path | None = None, seed: int = 0) -> None:
        """Name the folder, generated by `read` if absent; None means one in the cache per version and seed."""
        self.seed = seed
        super().__init__(root or cache_dir() / "corpora" / f"demo-{self.version}-seed{seed}")

    @property
    def index_file(self) -> Path:
        """The manifest."""
        return self.root / "manifest.csv"

    def read(self) -> Reading:
        """Generate the corpus if it is absent, and read it.

        Returns:
            640 rows with `COLUMNS`, ``interaction``, ``words``, ``voice`` and ``row``; and the rows that are not what this seed
            generates, or lack their audio file.

        Raises:
            BadInputError: If the folder holds something else, or another number of rows.
        """
        if not self.index_file.is_file():
            self._generate()
        planned = plan(self.seed)
        table = pd.read_csv(self.index_file, dtype={column: object for column in planned if column != "turn"})
        table = table.reindex(columns=planned.columns)
        remedy = f"delete {self.root} and it is generated again"
        if len(table) != len(planned):
            what = f"holds {len(table)} utterances; the demo corpus has {len(planned)}"
            raise BadInputError([Problem(self.index_file, None, what, remedy)])
        wrong = ~((table == planned) | (table.isna() & planned.isna())).all(axis="columns")
        table["audio"] = [str(self.root.absolute() / name) for name in planned["audio"]]
        table["row"] = range(2, len(table) + 2)
        problems = []
        for position, (row, audio) in enumerate(zip(table["row"], table["audio"], strict=True)):
            if wrong[position]:
                what = f"the row is not what version {self.version} generates from seed {self.seed}"
                problems.append(Problem(self.index_file, row, what, remedy, position))
            elif not Path(audio).is_file():
                problems.append(Problem(self.index_file, row, f"audio file {audio} is missing", remedy, position))
        return Reading(table, problems)

    def _generate(self) -> None:
        """Build the corpus beside its place and move it there whole; a second process waits and finds it done."""
        self.root.parent.mkdir(parents=True, exist_ok=True)
        partial = self.root.with_name(f".{self.root.name}.partial")
        with FileLock(self.root.with_name(f".{self.root.name}.lock")):
            if self.index_file.is_file():
                return
            if self.root.exists() and any(self.root.iterdir()):
                raise BadInputError(
                    [Problem(self.root, None, "is not empty, yet has no manifest.csv", "name a new or empty folder")]
                )
            shutil.rmtree(partial, ignore_errors=True)  # left by a process that was killed
            try:
                (partial / "audio").mkdir(parents=True)
                planned = plan(self.seed)
                render(planned, partial, self.seed)
                planned.to_csv(partial / "manifest.csv", index=False, quoting=csv.QUOTE_MINIMAL, lineterminator="\n")
                partial.replace(self.root)
            finally:
                shutil.rmtree(partial, ignore_errors=True)


def plan(seed: int) -> pd.DataFrame:
    """Everything but the sound: who says what, how, in which dialogue, with which label.

    Returns:
        The table, ``audio`` relative to the root.
    """
    rng = random.Random(f"demo {seed}")
    sentences = {group: _sentences(words, rng) for group, words in BANK.items()}
    rows: list[dict[str, object]] = []
    dialogue = 0
    for split, repeats in PAIR_REPEATS.items():
        left = {label: [cell for cell in _cells() if cell[3] == label] * repeats for label in LABELS}
        for cells in left.values():
            rng.shuffle(cells)
        for length in _lengths(sum(map(len, left.values())), rng):
            dialogue += 1
            pair = rng.sample(SPEAKERS[split], 2)
            label = ""
            for turn in range(length):
                if not left.get(label) or rng.random() >= INERTIA:
                    (label,) = rng.choices(LABELS, [len(left[label]) for label in LABELS])
                interaction, words, voice, _ = left[label].pop()
                if turn and rng.random() < SWITCH:
                    pair.reverse()
                name = f"demo_{dialogue:04d}_{turn:02d}"
                rows.append(
                    dict.fromkeys(COLUMNS)
                    | {"utterance_id": name, "audio": f"audio/{name}.flac", "text": sentences[words].pop(), "label": label}
                    | {"speaker": pair[0], "dialogue": f"demo_{dialogue:04d}", "turn": turn, "split": split}
                    | {"interaction": interaction, "words": words, "voice": voice}
                )
    return pd.DataFrame(rows, columns=[*COLUMNS, *EXTRA_COLUMNS])


def _cells() -> list[tuple[str, str, str, str]]:
    """One round: 16 tuples (interaction, words, voice, label) of each interaction, balanced over the labels."""
    cells = [("synergy", cue, voice, label) for cue, row in LATIN_SQUARE.items() for voice, label in row.items()]
    for label in LABELS:
        cells += [("redundant", label, label, label), ("audio", "plain", label, label), ("text", label, "flat", label)] * 4
    return cells


def _lengths(total: int, rng: random.Random) -> list[int]:
    """Dialogue lengths within `TURNS` that sum to ``total``."""
    lengths = []
    while total:
        lengths.append(rng.choice([n for n in TURNS if total == n or total - n >= TURNS[0]]))
        total -= lengths[-1]
    return lengths


def _sentences(words: Words, rng: random.Random) -> list[str]:
    """All sentences of a group, each once, in an order in which any run of them is spread over the templates."""
    by_template = []
    for template in words.templates:
        filled = {template.format(a=a, b=b) for a, b in itertools.product(words.a, words.b)}
        by_template.append(rng.sample(sorted(filled), len(filled)))
    rounds = [rng.sample(column, len(column)) for column in itertools.zip_longest(*by_template)]
    return [text[0].upper() + text[1:] for column in reversed(rounds) for text in column if text]


def render(planned: pd.DataFrame, root: Path, seed: int) -> None:
    """Speak the rows of ``planned`` into FLAC files under ``root`` (mono, 16 bit, 22.05 kHz)."""
    with tempfile.TemporaryDirectory(prefix="fusion-zoo-") as scratch:
        synthesiser = _Espeak(Path(scratch))
        levels: dict[tuple[str, str], float] = {}
        console = Console(stderr=True)  # stdout is for results
        rows = planned.to_dict("records")
        for row in track(rows, "Generating the demo corpus", console=console, transient=True):
            speaker, voice = row["speaker"], row["voice"]
            style, rng = STYLES[voice], random.Random(f"{row['utterance_id']} {seed}")
            if (speaker, voice) not in levels:  # measured once, so that loudness still varies with the sentence
                levels[speaker, voice] = _level(_utter(synthesiser, REFERENCE, speaker, style))
            jittered = style._replace(
                pitch=min(99, max(0, style.pitch + rng.randint(-3, 3))),
                rate=round(style.rate * rng.uniform(0.93, 1.07)),
                gain=style.gain + rng.uniform(-1.0, 1.0),
            )
            # eSpeak would sound the punctuation, and so the words' class, even in a flat voice.
            spoken = row["text"].replace("!", ".").replace("?", ".")
            wave = _utter(synthesiser, spoken, speaker, jittered)
            wave = np.pad(wave, [round(SAMPLE_RATE * rng.uniform(0.05, 0.25)) for _ in range(2)])
            hiss = np.random.Generator(np.random.PCG64(rng.getrandbits(64))).standard_normal(len(wave) + 1)
            hiss = hiss[1:] + hiss[:-1]
            noisy = wave + hiss * _level(wave) / _level(hiss) * _from_db(-rng.uniform(*NOISE_DB))
            scaled = noisy / levels[speaker, voice] * _from_db(jittered.gain)
            samples = np.round(np.clip(scaled * 32768, -32768, 32767)).astype(np.int16)
            soundfile.write(root / row["audio"], samples, SAMPLE_RATE, subtype="PCM_16")


def _utter(synthesiser: "_Espeak", text: str, speaker: str, style: Style) -> NDArray[np.float64]:
    """Speak with the pitch, rate and effort of ``style``, but not yet its gain: (T,)."""
    wave = synthesiser.say(text, speaker, style.pitch, style.spread, style.rate)
    return np.convolve(wave, [1.0, -style.effort])


def _level(wave: NDArray[np.float64]) -> float:
    """Root mean square."""
    return float(np.sqrt(np.mean(wave**2)))


def _from_db(gain: float) -> float:
    return 10 ** (gain / 20)


class _Espeak:
    """eSpeak NG through ctypes, without memory: what is said depends on the arguments alone."""

    SYNCHRONOUS, DONT_EXIT, POSITION_CHARACTER, CHARS_UTF8 = 2, 0x8000, 1, 1
    RATE, VOLUME, PITCH, RANGE = 1, 2, 3, 4
    LONGEST_PATH = 150  # bytes; eSpeak cuts the path of its data at about 160

    def __init__(self, scratch: Path) -> None:
        """Use ``scratch`` for copies of the library."""
        self.copy = scratch / "espeak.so"
        self.data = Path(espeakng_loader.get_data_path())
        if len(os.fsencode(self.data)) > self.LONGEST_PATH:
            link = scratch / "espeak-ng-data"
            link.symlink_to(self.data)
            self.data = link

    def say(self, text: str, speaker: str, pitch: int, spread: int, rate: int) -> NDArray[np.float64]:
        """Speak ``text``.

        Returns:
            Samples, full scale being 1: (T,) at `SAMPLE_RATE`.

        Raises:
            RuntimeError: If eSpeak refuses; the message says which call.
        """
        shutil.copyfile(espeakng_loader.get_library_path(), self.copy)
        library = ctypes.CDLL(str(self.copy))  # a new file has new static variables
        self.copy.unlink()
        chunks: list[NDArray[np.int16]] = []

        @ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)
        def receive(samples, count, _events):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
            if samples and count > 0:
                chunks.append(np.ctypeslib.as_array(samples, (count,)).copy())
            return 0

        def call(function: str, *arguments: object, want: int = 0) -> None:
            status = getattr(library, function)(*arguments)
            if status != want:
                raise RuntimeError(f"{function} returned {status}, not {want}, for speaker {speaker!r}, data in {self.data}")

        call("espeak_Initialize", self.SYNCHRONOUS, 0, os.fsencode(self.data), self.DONT_EXIT, want=SAMPLE_RATE)
        library.espeak_SetSynthCallback(receive)
        call("espeak_ng_SetRandSeed", ctypes.c_long(1))
        call("espeak_SetVoiceByName", f"en-us+{speaker}".encode())
        for parameter, value in ((self.RATE, rate), (self.VOLUME, 100), (self.PITCH, pitch), (self.RANGE, spread)):
            call("espeak_SetParameter", parameter, value, 0)
        spoken = text.encode() + b"\0"
        size = ctypes.c_size_t(len(spoken))
        call("espeak_Synth", spoken, size, 0, self.POSITION_CHARACTER, 0, self.CHARS_UTF8, None, None)
        call("espeak_Synchronize")
        call("espeak_Terminate")
        _ctypes.dlclose(library._handle)
        if not chunks:
            raise RuntimeError(f"eSpeak returned no samples for {text!r}")
        return np.concatenate(chunks) / 32768.0
