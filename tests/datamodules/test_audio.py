"""A clip is read as the samples that were recorded, at the asked rate, or refused with what is wrong and what would be right."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from datamodules.audio import AudioError, Clip, inspect_clip, load_clip
from datamodules.corpora.manifest import Manifest
from datamodules.emotion import load_utterances
from datamodules.features import parse_feature
from datamodules.features.spectral import LogMel

TARGET = 16_000


def sine(frequency: float, seconds: float, rate: int) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * frequency * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def loudest(samples: np.ndarray, rate: int) -> float:
    """Frequency of the highest peak of the spectrum in Hz."""
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
    return float(spectrum.argmax() * rate / len(samples))


@pytest.mark.parametrize("frequency", [440.0, 3000.0])
@pytest.mark.parametrize("rate", [8_000, 16_000, 22_050, 44_100, 48_000, 96_000])
def test_resampling_keeps_pitch_length_and_level(tmp_path: Path, rate: int, frequency: float) -> None:
    soundfile.write(tmp_path / "a.wav", sine(frequency, 1.0, rate), rate)
    samples = load_clip(Clip(tmp_path / "a.wav"), TARGET)
    assert samples.dtype == np.float32
    assert samples.shape == (TARGET,)
    assert loudest(samples, TARGET) == pytest.approx(frequency, abs=1.0)
    inner = samples[TARGET // 10 : -TARGET // 10]
    assert np.sqrt(np.mean(inner**2)) == pytest.approx(0.5 / np.sqrt(2), rel=0.02)
    info = inspect_clip(Clip(tmp_path / "a.wav"))
    assert (info.seconds, info.sample_rate, info.channels) == (1.0, rate, 1)


def test_resampling_does_not_fold_high_tones_down(tmp_path: Path) -> None:
    """10 kHz can't be said at 16 kHz; without a filter it would be heard at 6 kHz."""
    soundfile.write(tmp_path / "a.wav", sine(10_000, 1.0, 48_000), 48_000)
    samples = load_clip(Clip(tmp_path / "a.wav"), TARGET)
    assert np.abs(samples[1000:-1000]).max() < 1e-3


@pytest.mark.parametrize("channels", [1, 2, 6])
def test_channels_are_averaged(tmp_path: Path, channels: int) -> None:
    values = np.random.default_rng(0).uniform(-0.5, 0.5, (800, channels)).astype(np.float32)
    soundfile.write(tmp_path / "a.wav", values, TARGET, subtype="FLOAT")
    slow = [sum(float(v) for v in frame) / channels for frame in values]
    np.testing.assert_allclose(load_clip(Clip(tmp_path / "a.wav"), TARGET), slow, atol=1e-6)
    assert inspect_clip(Clip(tmp_path / "a.wav")).channels == channels


@pytest.mark.parametrize(("suffix", "subtype"), [("wav", "PCM_16"), ("wav", "PCM_24"), ("wav", "FLOAT"), ("flac", "PCM_16")])
def test_samples_are_full_scale_one_in_every_encoding(tmp_path: Path, suffix: str, subtype: str) -> None:
    path = tmp_path / f"a.{suffix}"
    soundfile.write(path, sine(440, 0.1, TARGET), TARGET, subtype=subtype)
    np.testing.assert_allclose(load_clip(Clip(path), TARGET), sine(440, 0.1, TARGET), atol=1 / 2**14)


@pytest.mark.parametrize("rate", [8_000, 16_000, 44_100])
def test_very_short_clip(tmp_path: Path, rate: int) -> None:
    """0.05 s is read whole, and both spectral features can make frames of it."""
    soundfile.write(tmp_path / "a.wav", sine(440, 0.05, rate), rate)
    samples = load_clip(Clip(tmp_path / "a.wav"), TARGET)
    assert abs(len(samples) - 800) <= 1
    for name in ("mfcc", "logmel"):
        (frames,) = parse_feature(name).extract([samples])
        assert len(frames) >= 1
        assert np.isfinite(frames).all()


def test_one_sample(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.array([0.25]), 48_000)
    samples = load_clip(Clip(tmp_path / "a.wav"), TARGET)
    assert len(samples) == 1
    for name in ("mfcc", "logmel"):
        assert len(parse_feature(name).extract([samples])[0]) == 1


@pytest.mark.parametrize(
    ("start", "end", "first", "last"),
    [(None, None, 0, 1000), (0.2, 0.5, 200, 500), (0.2, None, 200, 1000), (None, 0.123, 0, 123), (0.999, 1.0, 999, 1000)],
)
def test_start_and_end_cut_exactly_those_samples(
    tmp_path: Path, start: float | None, end: float | None, first: int, last: int
) -> None:
    """A file of 1000 samples at 1 kHz whose values are their own numbers."""
    soundfile.write(tmp_path / "a.wav", np.arange(1000) / 1000, 1000, subtype="FLOAT")
    samples = load_clip(Clip(tmp_path / "a.wav", start, end), 1000)
    np.testing.assert_allclose(samples, np.arange(first, last) / 1000, atol=1e-6)
    assert inspect_clip(Clip(tmp_path / "a.wav", start, end)).seconds == pytest.approx((last - first) / 1000)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_are_refused(tmp_path: Path, value: float) -> None:
    samples = sine(440, 0.5, TARGET)
    samples[[100, 2000, 3000]] = value
    soundfile.write(tmp_path / "a.wav", samples, TARGET, subtype="FLOAT")
    with pytest.raises(AudioError, match=r"NaN or infinity \(3 samples\); export it again"):
        load_clip(Clip(tmp_path / "a.wav"), TARGET)
    # A clip that leaves the bad samples out is sound.
    assert len(load_clip(Clip(tmp_path / "a.wav", 0.2), TARGET)) == round(0.3 * TARGET)


def test_nan_in_one_channel_is_refused(tmp_path: Path) -> None:
    samples = np.stack([sine(440, 0.1, TARGET)] * 2, axis=1)
    samples[7, 1] = np.nan
    soundfile.write(tmp_path / "a.wav", samples, TARGET, subtype="FLOAT")
    with pytest.raises(AudioError, match="NaN"):
        load_clip(Clip(tmp_path / "a.wav"), TARGET)


def refusal(path: Path) -> str:
    """What both readers say; they must not differ."""
    with pytest.raises(AudioError) as header:
        inspect_clip(Clip(path))
    with pytest.raises(AudioError) as decoded:
        load_clip(Clip(path), TARGET)
    assert str(header.value) == str(decoded.value)
    return str(header.value)


def test_unusable_files(tmp_path: Path) -> None:
    assert "missing; restore it or correct the path" in refusal(tmp_path / "none.wav")
    (tmp_path / "zero.wav").write_bytes(b"")
    assert "empty (0 bytes)" in refusal(tmp_path / "zero.wav")
    (tmp_path / "text.wav").write_text("this is no audio at all " * 50)
    assert "can't be decoded" in refusal(tmp_path / "text.wav")
    assert "convert it to WAV or FLAC" in refusal(tmp_path / "text.wav")
    soundfile.write(tmp_path / "silent.wav", np.zeros(0), TARGET)
    assert "no samples" in refusal(tmp_path / "silent.wav")


def test_a_pointer_of_git_lfs_is_named_as_one(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 74000\n")
    assert refusal(tmp_path / "a.wav") == "it is a pointer of Git LFS, not the sound; run 'git lfs pull'"


def test_wav_cut_inside_its_header_is_refused(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", sine(440, 0.5, TARGET), TARGET)
    (tmp_path / "cut.wav").write_bytes((tmp_path / "a.wav").read_bytes()[:20])
    refusal(tmp_path / "cut.wav")


def test_flac_that_breaks_off_is_refused(tmp_path: Path) -> None:
    """Its header promises 2 s; half of them must not pass for the whole."""
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 2 * TARGET)
    soundfile.write(tmp_path / "a.flac", noise, TARGET)
    whole = (tmp_path / "a.flac").read_bytes()
    (tmp_path / "cut.flac").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(AudioError, match="copy it again from its source"):
        load_clip(Clip(tmp_path / "cut.flac"), TARGET)


def test_ten_minutes_are_cut_and_noted(tmp_path: Path) -> None:
    """A mistaken recording of 600 s gives the frames of its first 30 s, and the run's notes say so."""
    rate = 2_000
    soundfile.write(tmp_path / "long.wav", np.random.default_rng(0).uniform(-0.1, 0.1, 600 * rate), rate)
    soundfile.write(tmp_path / "short.wav", sine(440, 1.0, TARGET), TARGET)
    (tmp_path / "m.csv").write_text(
        "utterance_id,audio,text,label,start,end\n"
        "long,long.wav,hi,x,,\nlate,long.wav,hi,x,500,\nshort,short.wav,hi,x,,\ninside,long.wav,hi,x,100,105\n"
    )
    feature = LogMel(hop_ms=100.0)
    utterances = load_utterances(Manifest(tmp_path / "m.csv"), feature, parse_feature("token_ids"))
    assert utterances.audio.lengths.tolist() == [301, 301, 11, 51]
    assert utterances.notes == ("2 clips are longer than 30 s and were cut there",)
    first, late = (load_clip(Clip(tmp_path / "long.wav", start, start + 30), TARGET) for start in (0.0, 500.0))
    for array, samples in zip((utterances.audio[0], utterances.audio[1]), (first, late), strict=True):
        np.testing.assert_array_equal(array, feature.extract([samples])[0].astype(np.float16))
    longer = load_utterances(Manifest(tmp_path / "m.csv"), feature, parse_feature("token_ids"), max_seconds=60)
    assert longer.audio.lengths.tolist() == [601, 601, 11, 51]


def test_an_end_beyond_the_file_is_tolerated_for_half_a_second(tmp_path: Path) -> None:
    path = tmp_path / "tone.wav"
    soundfile.write(path, sine(300.0, 1.0, TARGET), TARGET)
    assert len(load_clip(Clip(path, 0.5, 1.4), TARGET)) == TARGET // 2
    with pytest.raises(AudioError, match=r"ends at 1.6 s but the file lasts 1.00 s; correct end"):
        load_clip(Clip(path, 0.5, 1.6), TARGET)


def wav(path: Path, riff: int | None = None, rate: int | None = None, data: int | None = None, cut: int | None = None) -> Path:
    """A second of PCM, 44 bytes of header and 32,000 of samples, with other fields in its header or cut to ``cut`` bytes."""
    soundfile.write(path, sine(440, 1.0, TARGET), TARGET, subtype="PCM_16")
    content = bytearray(path.read_bytes())
    for place, value in ((4, riff), (24, rate), (40, data)):
        if value is not None:
            content[place : place + 4] = value.to_bytes(4, "little")
    path.write_bytes(content[:cut])
    return path


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": 64_000, "riff": 64_036}, "audio breaks off: 32,000 of the 64,000 bytes that its header promises are there"),
        ({"cut": 16_044}, "audio breaks off: 16,000 of the 32,000 bytes"),
        ({"cut": 46}, "audio breaks off: 2 of the 32,000 bytes"),
        ({"cut": 45}, "audio breaks off: 1 of the 32,000 bytes"),
        ({"cut": 44}, "audio breaks off: 0 of the 32,000 bytes"),
        ({"data": 0, "riff": 0}, "says that there is no audio, but 32,000 bytes follow"),
        ({"rate": 0}, "can't be decoded"),
        ({"rate": 4_000_000_000}, "can't be decoded"),
    ],
)
def test_headers_that_lie(tmp_path: Path, changes: dict[str, int], message: str) -> None:
    assert message in refusal(wav(tmp_path / "a.wav", **changes))


@pytest.mark.parametrize("size", [0x7FFF_F000, 0x7FFF_FFFF, 0xFFFF_FFFF, 0xFFFF_FFFF - 36])
def test_a_writer_that_did_not_know_the_length_is_read_to_the_files_end(tmp_path: Path, size: int) -> None:
    path = wav(tmp_path / "a.wav", data=size, riff=0xFFFF_FFFF)
    assert inspect_clip(Clip(path)).seconds == 1.0
    np.testing.assert_array_equal(load_clip(Clip(path), TARGET), load_clip(Clip(wav(tmp_path / "b.wav")), TARGET))


def test_a_header_that_counts_itself_is_forgiven(tmp_path: Path) -> None:
    assert inspect_clip(Clip(wav(tmp_path / "a.wav", data=32_044))).seconds == 1.0


def test_chunks_before_and_after_the_samples_do_not_mislead(tmp_path: Path) -> None:
    """A list of an odd length, which a byte of padding follows, and a trailing one."""
    plain = wav(tmp_path / "a.wav").read_bytes()
    extra = b"LIST" + (5).to_bytes(4, "little") + b"INFOx\0"
    (tmp_path / "b.wav").write_bytes(plain[:36] + extra + plain[36:] + extra)
    assert inspect_clip(Clip(tmp_path / "b.wav")).seconds == 1.0
    (tmp_path / "c.wav").write_bytes((plain[:36] + extra + plain[36:])[:20_000])
    assert "audio breaks off" in refusal(tmp_path / "c.wav")


def test_a_rate_that_is_wrong_but_possible_is_believed(tmp_path: Path) -> None:
    """Nothing in one file tells; the table of rates that the doctor prints does."""
    assert inspect_clip(Clip(wav(tmp_path / "a.wav", rate=8_000))) == (2.0, 8_000, 1)


def test_what_may_not_be_read_is_told_by_that_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file, and a file in a folder that may not be entered; permissions can't be tested as root."""
    path = wav(tmp_path / "a.wav")

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    for name in ("open", "is_file"):
        with monkeypatch.context() as patch:
            patch.setattr(Path, name, refuse)
            assert refusal(path) == "audio file can't be read (Permission denied); check its permissions"


def test_symbolic_links(tmp_path: Path) -> None:
    target, link = wav(tmp_path / "a.wav"), tmp_path / "link.wav"
    link.symlink_to(target)
    assert inspect_clip(Clip(link)).seconds == 1.0
    target.unlink()
    assert "audio file is missing" in refusal(link)
    loop = tmp_path / "loop.wav"
    loop.symlink_to(loop)
    refusal(loop)
