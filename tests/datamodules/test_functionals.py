"""One vector per utterance: against the libraries called directly, and against formulas."""

import numpy as np
import opensmile
import pytest

from datamodules.features import FeatureError, functionals, parse_feature

RATE = 16_000
NAMES = ["compare2016", "egemaps", "librosa_statistics"]
DIMS = dict(zip(NAMES, (6373, 88, 376), strict=True))


def waveform(seconds: float, seed: int = 0) -> np.ndarray:
    """A tone of 220 Hz in noise."""
    time = np.arange(round(seconds * RATE)) / RATE
    noise = np.random.default_rng(seed).normal(size=len(time))
    return (0.02 * noise + 0.3 * np.sin(2 * np.pi * 220 * time)).astype(np.float32)


def smile(name: str, samples: np.ndarray) -> np.ndarray:
    """openSMILE's functionals, asked for as its documentation says: (1, D)."""
    feature_set = {"compare2016": opensmile.FeatureSet.ComParE_2016, "egemaps": opensmile.FeatureSet.eGeMAPSv02}[name]
    return opensmile.Smile(feature_set, opensmile.FeatureLevel.Functionals).process_signal(samples, RATE).to_numpy()


@pytest.mark.parametrize("name", NAMES[:2])
def test_functionals_are_opensmiles(name: str) -> None:
    waves = [waveform(seconds, n) for n, seconds in enumerate((0.5, 0.06, 1.0, 0.3))]
    for array, wave in zip(parse_feature(name).extract(waves), waves, strict=True):
        np.testing.assert_array_equal(array, smile(name, wave))


def test_opensmile_is_an_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(functionals, "find_spec", lambda _: None)
    for name in ("compare2016", "compare2016(select=512)", "egemaps"):
        with pytest.raises(FeatureError, match=r"needs openSMILE, .* pip install 'fusion-zoo\[opensmile\]'"):
            parse_feature(name)
    assert parse_feature("librosa_statistics").dim


@pytest.mark.parametrize("name", NAMES)
def test_shape_and_kind(name: str) -> None:
    feature = parse_feature(name)
    assert (feature.modality, feature.dim, feature.width, feature.standardise) == ("audio", DIMS[name], DIMS[name], True)
    for wave in (waveform(0.4), waveform(0.4)[:1], np.zeros(3_000, np.float32)):
        (array,) = feature.extract([wave])
        assert (array.shape, array.dtype) == ((1, DIMS[name]), np.float32)
        assert np.isfinite(array).all()


@pytest.mark.parametrize("name", NAMES)
def test_neighbours_change_nothing(name: str) -> None:
    feature, waves = parse_feature(name), [waveform(0.1 + 0.05 * n, n) for n in range(9)]
    for together, wave in zip(feature.extract(waves), waves, strict=True):
        np.testing.assert_array_equal(together, feature.extract([wave])[0])


@pytest.mark.parametrize(("name", "shortest"), [("compare2016", 960), ("egemaps", 960), ("librosa_statistics", 1024)])
def test_short_clips_end_in_zeros(name: str, shortest: int) -> None:
    feature, wave = parse_feature(name), waveform(0.01)
    padded = np.concatenate([wave, np.zeros(shortest - len(wave), np.float32)])
    np.testing.assert_array_equal(feature.extract([wave])[0], feature.extract([padded])[0])
    if name != "librosa_statistics":
        with pytest.warns(UserWarning, match="too short"):
            assert np.isnan(smile(name, padded[:-1])).all()  # so no shorter padding would do


@pytest.mark.parametrize("level", [1.0, 3.0])
def test_full_scale_is_not_wrapped_round(level: float) -> None:
    """The package turns +1.0 into -1.0; a clip at full scale must be like one a hair below it."""
    wave = waveform(0.5)
    loud = (wave / wave.max()).astype(np.float32)
    below = np.minimum(loud, 0.9999).astype(np.float32)
    loud[np.argmax(loud)] = level
    (array,) = parse_feature("compare2016").extract([loud])
    near, wrapped = smile("compare2016", below), smile("compare2016", loud)
    scale = np.abs(near) + 1e-3
    assert np.median(np.abs(array - near) / scale) < 1e-3
    assert np.median(np.abs(wrapped - near) / scale) > 1e-2


def test_what_is_not_finite_becomes_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.arange(88, dtype=np.float32)
    values[[3, 5, 7]] = np.nan, np.inf, -np.inf
    monkeypatch.setattr(functionals, "_smile", lambda feature_set: lambda samples, rate: values.reshape(1, 88, 1))
    (array,) = parse_feature("egemaps").extract([waveform(0.1)])
    assert np.flatnonzero(array == 0).tolist() == [0, 3, 5, 7]
    np.testing.assert_array_equal(np.delete(array[0], [3, 5, 7]), np.delete(values, [3, 5, 7]))


def test_librosa_statistics_of_a_tone() -> None:
    """220 Hz: the pitch, the chroma's A, 440 crossings a second; the mean MFCC are the DCT of the mean mel bands."""
    (array,) = parse_feature("librosa_statistics").extract([waveform(1.0)])
    mean, deviation = array[0, :188], array[0, 188:]
    mfcc, chroma, mel, contrast, crossings, pitch = np.split(mean, [40, 52, 180, 186, 187])
    assert abs(pitch[0] - 220) < 2
    assert deviation[-1] < 10
    assert np.argmax(chroma) == 9  # C is 0
    assert abs(crossings[0] - 2 * 220 / RATE) < 0.01
    assert (contrast > 0).all()
    k = np.arange(40)[:, None]
    basis = np.cos(np.pi / 128 * (np.arange(128) + 0.5) * k) * np.sqrt(np.where(k == 0, 1, 2) / 128)
    np.testing.assert_allclose(mfcc, basis @ mel, atol=0.01)
    assert (deviation >= 0).all()


def test_librosa_statistics_deviate_over_time() -> None:
    """Half a clip of each of two pitches: their mean, and half their distance."""
    time = np.arange(RATE) / RATE
    low, high = (np.sin(2 * np.pi * pitch * time).astype(np.float32) for pitch in (150, 350))
    (array,) = parse_feature("librosa_statistics(hop_ms=8.0)").extract([np.concatenate([low, high])])
    assert abs(array[0, 187] - 250) < 5
    assert abs(array[0, 375] - 100) < 5


def test_librosa_statistics_sizes() -> None:
    feature = parse_feature("librosa_statistics(n_mfcc=13, n_mels=40, window_ms=32.0)")
    assert feature.dim == 2 * (13 + 12 + 40 + 6 + 2)
    assert feature.extract([waveform(0.2)])[0].shape == (1, feature.dim)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("compare2016(select=-1)", "select is -1; it must be 0 for all 6373, or 1 to 6372"),
        ("compare2016(select=6373)", "it must be 0 for all 6373, or 1 to 6372"),
        ("librosa_statistics(n_mfcc=129)", "n_mfcc 1 to n_mels"),
        ("librosa_statistics(hop_ms=0)", "hop_ms at least one sample"),
        ("librosa_statistics(window_ms=0)", "f0_min is 65"),
        ("librosa_statistics(window_ms=25.0)", r"80\.0 <= f0_min < f0_max <= 8000 Hz must hold with window_ms=25; f0_min is 65"),
        ("librosa_statistics(f0_max=50)", "f0_max 50"),
    ],
)
def test_values_out_of_range(text: str, message: str) -> None:
    with pytest.raises(FeatureError, match=message):
        parse_feature(text)


def test_a_selection_is_another_feature_over_the_same_store() -> None:
    every, some = parse_feature("compare2016"), parse_feature("compare2016(select=512)")
    assert (some.dim, some.width, str(some)) == (6373, 512, "compare2016(select=512)")
    assert some.identity() != every.identity()
    assert some.key == every.key
    assert some.stored == every
    assert parse_feature("mfcc").stored == parse_feature("mfcc")
