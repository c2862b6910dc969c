"""Sound out of video files, once: WAV files that later runs find again."""

import hashlib
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from fractions import Fraction
from pathlib import Path

import numpy as np
import soundfile
from filelock import FileLock

from datamodules.audio import AudioError

RATE = 16_000  # Hz
VERSION = 1  # raised when the same video starts to give other samples
CUT_SHORT = 0.5
"""Seconds by which the sound may be shorter than the file says; more is a damaged file."""

THREADS = 8


def extract_audio(video: Path, wav: Path) -> None:
    """Write the first audio track of ``video`` as a WAV file: mono, 16 kHz, 16 bit.

    The file appears whole or not at all.

    Raises:
        AudioError: If ``video`` is missing or empty, can't be decoded, has no audio track, or breaks off.
    """
    import av
    from av.audio.frame import AudioFrame
    from av.error import FFmpegError

    if not video.is_file():
        raise AudioError("the clip is missing", "restore it")
    if video.stat().st_size == 0:
        raise AudioError("the clip is empty (0 bytes)", "copy it again from its source")
    parts = []
    declared: float | None = None
    try:
        with av.open(os.fspath(video)) as container:
            if not container.streams.audio:
                raise AudioError("the clip has no audio track", "copy it again from its source")
            stream = container.streams.audio[0]
            if stream.duration is not None:
                declared = float(stream.duration * Fraction(stream.time_base or 1))
            resampler = av.AudioResampler(format="s16", layout="mono", rate=RATE)
            for frame in container.decode(stream):
                if isinstance(frame, AudioFrame):
                    parts += [piece.to_ndarray() for piece in resampler.resample(frame)]
            parts += [piece.to_ndarray() for piece in resampler.resample(None)]
    except FFmpegError as error:
        raise AudioError(f"the clip can't be decoded ({error.strerror})", "copy it again from its source") from error
    samples = np.concatenate(parts, axis=1)[0] if parts else np.zeros(0, np.int16)  # (T,)
    if len(samples) == 0:
        raise AudioError("the clip's audio track has no samples", "copy it again from its source")
    if declared is not None and len(samples) / RATE < declared - CUT_SHORT:
        what = f"the clip breaks off: {len(samples) / RATE:.2f} s of {declared:.2f} s can be decoded"
        raise AudioError(what, "copy it again from its source")
    partial = wav.with_name(f".{wav.name}.partial")
    soundfile.write(partial, samples, RATE, subtype="PCM_16", format="WAV")
    partial.replace(wav)


def extract_all(videos: Sequence[Path], folder: Path, label: str) -> dict[Path, Path | AudioError]:
    """Extract the sound of every video that ``folder`` doesn't hold yet, in parallel and with a progress bar.

    An interrupted extraction goes on where it was; a second process waits for the first. A video that has changed since,
    by its size or time of change, is extracted anew.

    Args:
        videos: Files that PyAV reads.
        folder: Where the WAV files go.
        label: What the progress bar says.

    Returns:
        For every video its WAV file, or what is wrong with it.
    """
    targets = {video: folder / _name(video) for video in videos}
    missing = [video for video, wav in targets.items() if not wav.is_file()]
    found: dict[Path, Path | AudioError] = dict(targets)
    if missing:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".lock"):
            missing = [video for video in missing if not targets[video].is_file()]
            found |= _extract(missing, lambda video: extract_audio(video, targets[video]), label)
    return found


def _name(video: Path) -> str:
    try:
        stat = video.stat()
        state = f"{VERSION} {video.absolute()} {stat.st_size} {stat.st_mtime_ns}"
    except FileNotFoundError:
        state = f"{VERSION} {video.absolute()}"
    return f"{video.stem}.{hashlib.blake2b(state.encode(errors='surrogateescape'), digest_size=8).hexdigest()}.wav"


def _extract(videos: list[Path], work: Callable[[Path], None], label: str) -> dict[Path, Path | AudioError]:
    from rich.console import Console
    from rich.progress import track

    failures: dict[Path, Path | AudioError] = {}
    with ThreadPoolExecutor(min(THREADS, os.cpu_count() or 1)) as pool:
        futures = {pool.submit(work, video): video for video in videos}
        try:
            done = track(as_completed(futures), label, len(futures), console=Console(stderr=True), transient=True)
            for future in done:
                error = future.exception()
                if isinstance(error, AudioError):
                    failures[futures[future]] = error
                else:
                    future.result()  # anything else isn't the video's fault and stops here
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return failures
