"""Measures feature extraction: the store against its own library, called file by file in a plain loop.

``python -m benchmarks.extraction_speed --hours 1`` makes that much audio, repeats of the demo corpus's clips with ever new noise,
and prints for every extractor seconds and times real time of both, the largest difference between their numbers, and the
seconds of a second run, which finds everything in the store. It stops if the two differ by more than 1e-4 beyond the rounding
of the type that the store keeps, or if a second run takes 2 s.

Both have imported and loaded what they need before the clock starts. The speech encoder has wav2vec 2.0 base's configuration and
random weights, since no trained one installs as a package; that changes nothing about its speed.
"""

import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import soundfile
import torch
import typer

from datamodules.audio import Clip, load_clip
from datamodules.corpora import open_corpus
from datamodules.features import Feature, parse_feature
from datamodules.features.transformer import checkpoint_source
from datamodules.store import FeatureStore

RATE = 16_000  # Hz
DIFFERENCE = 1e-4
SECOND_RUN = 2.0  # seconds
EXTRACTORS = ("mfcc", "logmel", "log_spectrogram", "egemaps", "compare2016", "librosa_statistics", "wav2vec2", "minilm")

Array = npt.NDArray[Any]
Plain = Callable[[Path | str], Array]


class Measurement(NamedTuple):
    """One extractor: seconds of the plain loop, of the store, and of the store's second run; and the largest difference."""

    name: str
    plain: float
    store: float
    again: float
    difference: float


def mfcc() -> Plain:
    """Torchaudio's MFCC with MER-HAN's sizes."""
    from torchaudio.transforms import MFCC

    options = {"n_mels": 40, "n_fft": 512, "win_length": 400, "hop_length": 160, "window_fn": torch.hamming_window}
    transform = MFCC(RATE, 40, melkwargs={**options, "pad_mode": "constant"})
    return lambda path: transform(torch.from_numpy(_read(path))).T.numpy()


def logmel() -> Plain:
    """Librosa's mel spectrogram in dB."""
    import librosa

    options = {"sr": RATE, "n_fft": 512, "win_length": 400, "hop_length": 160, "n_mels": 64}
    return lambda path: librosa.power_to_db(librosa.feature.melspectrogram(y=_read(path), **options)).T


def log_spectrogram() -> Plain:
    """Librosa's short-time Fourier transform, 40 ms windows."""
    import librosa

    def one(path: Path | str) -> Array:
        spectrum = librosa.stft(_read(path), n_fft=640, hop_length=320, pad_mode="constant")
        return np.asarray(np.log(np.abs(spectrum) ** 2 + 1e-10).T)

    return one


def egemaps() -> Plain:
    """OpenSMILE's own reading of files."""
    return _opensmile("eGeMAPSv02")


def compare2016() -> Plain:
    """OpenSMILE's own reading of files."""
    return _opensmile("ComParE_2016")


def _opensmile(name: str) -> Plain:
    import opensmile

    smile = opensmile.Smile(opensmile.FeatureSet[name], opensmile.FeatureLevel.Functionals)
    return lambda path: np.asarray(smile.process_file(path).to_numpy())


def librosa_statistics() -> Plain:
    """librosa, each descriptor from the samples: as one would write it by its documentation."""
    import librosa

    sizes = {"n_fft": 1024, "hop_length": 256}
    frame = {"frame_length": 1024, "hop_length": 256}

    def one(path: Path | str) -> Array:
        y = _read(path)
        mel = librosa.power_to_db(librosa.feature.melspectrogram(y=y, sr=RATE, n_mels=128, **sizes))
        rows = [
            librosa.feature.mfcc(S=mel, n_mfcc=40),
            librosa.feature.chroma_stft(y=y, sr=RATE, tuning=0.0, **sizes),
            mel,
            librosa.feature.spectral_contrast(y=y, sr=RATE, n_bands=5, **sizes),
            librosa.feature.zero_crossing_rate(y, **frame),
            librosa.yin(y, fmin=65.0, fmax=500.0, sr=RATE, **frame)[None],
        ]
        frames = np.concatenate(rows)
        return np.concatenate([frames.mean(1), frames.std(1)])[None]

    return one


def wav2vec2(checkpoint: str) -> Plain:
    """transformers, one waveform at a time."""
    from transformers import AutoFeatureExtractor, AutoModel

    extractor, model = AutoFeatureExtractor.from_pretrained(checkpoint), AutoModel.from_pretrained(checkpoint).eval().to(_device())

    def one(path: Path | str) -> Array:
        inputs = extractor(_read(path), sampling_rate=RATE, return_tensors="pt").to(_device())
        with torch.inference_mode():
            return np.asarray(model(**inputs).last_hidden_state[0].cpu())

    return one


def minilm(checkpoint: str) -> Plain:
    """transformers, one transcript at a time."""
    from transformers import AutoModel, AutoTokenizer

    tokens, model = AutoTokenizer.from_pretrained(checkpoint), AutoModel.from_pretrained(checkpoint).eval().to(_device())

    def one(text: Path | str) -> Array:
        inputs = tokens(str(text), return_tensors="pt").to(_device())
        with torch.inference_mode():
            return np.asarray(model(**inputs).last_hidden_state[0].cpu())

    return one


PLAIN: dict[str, Callable[[], Plain]] = {
    function.__name__: function for function in (mfcc, logmel, log_spectrogram, egemaps, compare2016, librosa_statistics)
}


def _read(path: Path | str) -> npt.NDArray[np.float32]:
    samples: npt.NDArray[np.float32] = soundfile.read(path, dtype="float32")[0]
    return samples


def _device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def speech_checkpoint(folder: Path) -> str:
    """wav2vec 2.0 base's configuration, random weights."""
    from transformers import Wav2Vec2Config, Wav2Vec2FeatureExtractor, Wav2Vec2Model

    torch.manual_seed(0)
    Wav2Vec2Model(Wav2Vec2Config()).save_pretrained(folder)
    Wav2Vec2FeatureExtractor(do_normalize=True).save_pretrained(folder)
    return str(folder)


def make_clips(folder: Path, seconds: float) -> tuple[list[Path], list[str], float]:
    """The demo corpus's clips over and over, each time with other noise: WAV files, transcripts and their seconds."""
    table, random = open_corpus("demo").table(False), np.random.default_rng(0)
    paths: list[Path] = []
    texts: list[str] = []
    total = 0.0
    while total < seconds:
        row = table.iloc[len(paths) % len(table)]
        samples = load_clip(Clip(Path(row["audio"])), RATE)
        noisy = samples + random.normal(0, 1e-3, len(samples))
        paths.append(folder / f"{len(paths)}.wav")
        texts.append(f"{row['text']} {len(paths)}")
        soundfile.write(paths[-1], np.clip(noisy, -1, 32767 / 32768), RATE, subtype="PCM_16")
        total += len(samples) / RATE
    return paths, texts, total


def measure(name: str, feature: Feature, plain: Plain, inputs: Sequence[Path | str], store: FeatureStore) -> Measurement:
    """Run the plain loop, the store, and the store again.

    Raises:
        AssertionError: If their numbers differ, or the second run is slow.
    """
    wanted = [Clip(item) if isinstance(item, Path) else item for item in inputs]
    plain(inputs[0])
    first = wanted[0]
    feature.extract([load_clip(first, feature.sample_rate)] if isinstance(first, Clip) else [first])
    started = time.perf_counter()
    expected = [plain(item) for item in inputs]
    looped = time.perf_counter() - started
    started = time.perf_counter()
    arrays = store.get(feature, wanted)
    stored = time.perf_counter() - started
    started = time.perf_counter()
    store.get(feature, wanted)
    again = time.perf_counter() - started
    largest = max(difference(array, other) for array, other in zip(arrays, expected, strict=True))
    assert largest <= DIFFERENCE, f"{name}: the store and the plain loop differ by {largest:.2g}"
    assert again < SECOND_RUN, f"{name}: the second run took {again:.1f} s"
    return Measurement(name, looped, stored, again, largest)


def difference(stored: Array, expected: Array) -> float:
    """The largest difference, relative where numbers are above 1, beyond the rounding of the type that the store keeps."""
    assert stored.shape == expected.shape, f"the store has {stored.shape}, the plain loop {expected.shape}"
    scale = np.maximum(np.abs(expected.astype(np.float64)), 1)
    rounding = np.finfo(stored.dtype).eps / 2
    return float(max((np.abs(stored.astype(np.float64) - expected) / scale).max() - rounding, 0))


HEADER = """| extractor | plain loop, s | × real time | store, s | × real time | times as fast | second run, s | difference |
|---|---:|---:|---:|---:|---:|---:|---:|"""


def to_markdown(row: Measurement, seconds: float) -> str:
    """The line of one extractor, of so many seconds of audio."""
    return (
        f"| `{row.name}` | {row.plain:.1f} | {seconds / row.plain:.0f} | {row.store:.1f} | {seconds / row.store:.0f} "
        f"| {row.plain / row.store:.2f} | {row.again:.2f} | {row.difference:.1e} |"
    )


def main(
    hours: Annotated[float, typer.Option(help="Audio to make.")] = 1 / 60,
    extractors: Annotated[str, typer.Option(help="Comma-separated.")] = ",".join(EXTRACTORS),
    jobs: Annotated[int, typer.Option(help="Processes for openSMILE, librosa and torchaudio; 1 for this one alone.")] = 1,
    threads: Annotated[int, typer.Option(help="PyTorch's threads on the CPU; 0 for its own choice.")] = 0,
) -> None:
    """Print the measurements as a table in Markdown."""
    names = [name.strip() for name in extractors.split(",") if name.strip()]
    if unknown := sorted(set(names) - set(EXTRACTORS)):
        raise typer.BadParameter(f"{', '.join(unknown)}: the extractors are {', '.join(EXTRACTORS)}", param_hint="--extractors")
    if threads:
        torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        paths, texts, seconds = make_clips(folder, 3600 * hours)
        device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {torch.get_num_threads()} PyTorch threads"
        typer.echo(f"{len(paths)} clips, {seconds:.0f} s of audio; {device}; processes: {jobs}\n\n{HEADER}")
        store = FeatureStore(folder / "store", jobs)
        for extractor in names:
            inputs: Sequence[Path | str] = paths
            if extractor == "wav2vec2":
                checkpoint = speech_checkpoint(folder / "wav2vec2")
                feature, plain = parse_feature(f"hidden_states(checkpoint={checkpoint!r})"), wav2vec2(checkpoint)
            elif extractor == "minilm":
                feature, plain, inputs = parse_feature("hidden_states"), minilm(checkpoint_source("minilm")), texts
            else:
                feature, plain = parse_feature(extractor), PLAIN[extractor]()
            typer.echo(to_markdown(measure(extractor, feature, plain, inputs, store), seconds))


if __name__ == "__main__":
    typer.run(main)
