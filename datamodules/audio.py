"""Reading audio: one clip in, mono samples at the asked rate out, or an error that says what is wrong with the file."""

import os
import struct
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt
import soundfile

if TYPE_CHECKING:
    from datamodules.corruptions import AudioCorruption

TOLERANCE = 0.5
"""Seconds by which a clip's end may lie beyond its file's, since annotations are rounded; more is an error."""

MOST_FRAMES = 2**48
"""libsndfile reports an impossible number of frames for a stream of unknown length."""

STREAMED = 0x7FFF_0000
"""From this size on, the data chunk of a WAV file says that its writer didn't know the length; the file's end counts."""

CUT_SHORT = 0.1
"""Seconds, and part of the whole, that a WAV file may lack of what its header promises, since sloppy writers count their header
too; more is a broken copy."""

LFS_POINTER = b"version https://git-lfs"


class AudioError(ValueError):
    """A clip that can't be used; the message doesn't repeat the path."""

    def __init__(self, what: str, remedy: str) -> None:
        """Say what is wrong and what would be right."""
        super().__init__(what, remedy)  # both, or it couldn't be sent from one process to another
        self.what, self.remedy = what, remedy

    def __str__(self) -> str:
        return f"{self.what}; {self.remedy}"


class Clip(NamedTuple):
    """A file, or the part of it from ``start`` to ``end`` (seconds; None for the file's own ends), perhaps corrupted on reading."""

    path: Path
    start: float | None = None
    end: float | None = None
    corruption: "AudioCorruption | None" = None


class AudioInfo(NamedTuple):
    """What a file's header says: ``seconds`` of the clip, the file's ``sample_rate`` in Hz and ``channels``."""

    seconds: float
    sample_rate: int
    channels: int


def _open(path: Path) -> soundfile.SoundFile:
    try:
        exists = path.is_file()
    except PermissionError as error:
        raise AudioError(f"audio file can't be read ({error.strerror})", "check its permissions") from error
    except (OSError, ValueError) as error:  # a name too long, or with a NUL: a transcript in the wrong column, say
        raise AudioError(f"the audio path can't be one ({error})", "correct the path") from error
    if not exists:
        raise AudioError("audio file is missing", "restore it or correct the path")
    if path.stat().st_size == 0:
        raise AudioError("audio file is empty (0 bytes)", "copy it again from its source")
    try:
        chunk = _data_chunk(path)  # first, because libsndfile says of what it may not open that there is a system error
        file = soundfile.SoundFile(path)
    except OSError as error:
        raise AudioError(f"audio file can't be read ({error.strerror})", "check its permissions") from error
    except soundfile.LibsndfileError as error:
        with path.open("rb") as raw:
            if raw.read(len(LFS_POINTER)) == LFS_POINTER:
                raise AudioError("it is a pointer of Git LFS, not the sound", "run 'git lfs pull'") from error
        raise AudioError(f"audio can't be decoded ({error.error_string.rstrip('.')})", "convert it to WAV or FLAC") from error
    if chunk is not None:
        try:
            _check_size(file, *chunk)
        except AudioError:
            file.close()  # an error that is kept would keep the file open, and there are only so many
            raise
    return file


def _data_chunk(path: Path) -> tuple[int, int] | None:
    """Bytes of samples that a WAV file's header promises, and those that the file has from there on; None for other files."""
    with path.open("rb") as file:
        if file.read(4) != b"RIFF":
            return None
        file.seek(12)
        while len(head := file.read(8)) == 8:
            name, size = struct.unpack("<4sI", head)
            if name == b"data":
                return size, os.fstat(file.fileno()).st_size - file.tell()
            file.seek(size + size % 2, os.SEEK_CUR)  # chunks of odd length are padded
    return None


def _check_size(file: soundfile.SoundFile, promised: int, there: int) -> None:
    """Refuse a WAV file that was cut off or whose length was never filled in; libsndfile silently takes what there is."""
    if promised == 0 and there > 0:
        what = f"the header says that there is no audio, but {there:,} bytes follow, as a recorder leaves it that was killed"
        raise AudioError(what, "rewrite the header, such as by 'ffmpeg -i this.wav new.wav'")
    if promised >= STREAMED or promised <= there:
        return
    missing = promised - there
    seconds = missing / there * file.frames / file.samplerate if there else 0.0
    if max(missing / promised, seconds) > CUT_SHORT:
        what = f"audio breaks off: {there:,} of the {promised:,} bytes that its header promises are there"
        raise AudioError(what, "copy it again from its source")


def _span(file: soundfile.SoundFile, clip: Clip) -> tuple[int, int]:
    """First and last-plus-one frame of the clip."""
    first = round((clip.start or 0.0) * file.samplerate)
    last = file.frames if clip.end is None else min(file.frames, round(clip.end * file.samplerate))
    if file.frames > MOST_FRAMES:
        raise AudioError("the header doesn't say how long the audio is", "convert it to WAV or FLAC with a complete header")
    if file.frames == 0:
        raise AudioError("audio has no samples", "record or copy it again")
    if not 0 <= first < last:
        seconds = file.frames / file.samplerate
        raise AudioError(
            f"the clip from {clip.start} s to {clip.end} s holds no samples; the file lasts {seconds:.2f} s",
            "correct start and end",
        )
    if clip.end is not None and clip.end > file.frames / file.samplerate + TOLERANCE:
        raise AudioError(f"the clip ends at {clip.end} s but the file lasts {file.frames / file.samplerate:.2f} s", "correct end")
    return first, last


def inspect_clip(clip: Clip) -> AudioInfo:
    """Read a clip's header only.

    Raises:
        AudioError: If the file is missing, not audio, or has no samples in the clip.
    """
    with _open(clip.path) as file:
        first, last = _span(file, clip)
        return AudioInfo((last - first) / file.samplerate, file.samplerate, file.channels)


def load_clip(clip: Clip, sample_rate: int) -> npt.NDArray[np.float32]:
    """Read a clip as mono samples at ``sample_rate`` Hz.

    Channels are averaged; other rates are converted by soxr (librosa's ``soxr_hq``). Levels are left alone: loudness carries
    emotion. The clip's corruption, if it has one, comes last.

    Returns:
        Samples of shape (samples,), float32, full scale 1.

    Raises:
        AudioError: If the file is missing, not audio, has no samples in the clip, or holds NaN or infinity.
    """
    with _open(clip.path) as file:
        first, last = _span(file, clip)
        try:
            file.seek(first)
            samples = file.read(last - first, dtype="float32", always_2d=True).mean(axis=1)  # (samples,)
        except soundfile.LibsndfileError as error:
            raise AudioError(f"audio breaks off while decoding ({error})", "copy it again from its source") from error
        rate = file.samplerate
    if len(samples) == 0:
        raise AudioError("audio has fewer samples than its header says", "copy it again from its source")
    if not np.isfinite(samples).all():
        raise AudioError(f"audio holds NaN or infinity ({np.count_nonzero(~np.isfinite(samples))} samples)", "export it again")
    samples = resample(samples, rate, sample_rate)
    return samples if clip.corruption is None else clip.corruption(samples, sample_rate)


def resample(samples: npt.NDArray[np.float32], rate: int, sample_rate: int) -> npt.NDArray[np.float32]:
    """Convert mono samples (samples,) from ``rate`` to ``sample_rate`` Hz by soxr (librosa's ``soxr_hq``)."""
    if rate != sample_rate:
        import librosa

        samples = librosa.resample(samples, orig_sr=rate, target_sr=sample_rate, res_type="soxr_hq")
    return np.ascontiguousarray(samples, dtype=np.float32)
