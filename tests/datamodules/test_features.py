"""Features against slow plain versions from their formulas, and against direct calls of the encoders."""

import dataclasses
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

from datamodules.features import FeatureError, list_features, parse_feature, transformer
from datamodules.features.spectral import MFCC, LogMel, LogSpectrogram
from datamodules.features.transformer import CheckpointError, Comet, HiddenStates, TokenIds, checkpoint_identity
from datamodules.problems import UnknownNameError
from datamodules.store import FeatureStore

RATE = 16_000
TEXTS = ["the bus leaves at noon", "i hate this awful mess happy day what a lovely", "hate", "zebra the bus"]


def waveform(seconds: float, seed: int = 0) -> np.ndarray:
    """Noise of changing loudness with a tone in it."""
    time = np.arange(round(seconds * RATE)) / RATE
    noise = np.random.default_rng(seed).normal(size=len(time))
    return (0.1 * noise * (0.2 + time) + 0.2 * np.sin(2 * np.pi * 700 * time)).astype(np.float32)


def power(samples: np.ndarray, window: np.ndarray, hop: int, size: int = 512) -> np.ndarray:
    """Power spectrum (T, size / 2 + 1): frames centred on multiples of ``hop``, zeros beyond the ends, the DFT as a sum."""
    padded = np.concatenate([np.zeros(size // 2), samples.astype(np.float64), np.zeros(size // 2)])
    left = (size - len(window)) // 2
    full = np.zeros(size)
    full[left : left + len(window)] = window
    angles = -2j * np.pi * np.outer(np.arange(size), np.arange(size // 2 + 1)) / size
    frames = np.stack([padded[t * hop : t * hop + size] * full for t in range(len(samples) // hop + 1)])
    return np.abs(frames @ np.exp(angles)) ** 2


def triangles(edges: np.ndarray, size: int = 512) -> np.ndarray:
    """Triangular filters (size / 2 + 1, bands) over the DFT's frequencies, of height 1, between edges in Hz."""
    frequencies = np.arange(size // 2 + 1) * RATE / size
    bank = np.zeros((len(frequencies), len(edges) - 2))
    for band in range(len(edges) - 2):
        low, middle, high = edges[band : band + 3]
        for row, frequency in enumerate(frequencies):
            bank[row, band] = max(0.0, min((frequency - low) / (middle - low), (high - frequency) / (high - middle)))
    return bank


def decibels(values: np.ndarray) -> np.ndarray:
    level = 10 * np.log10(np.maximum(values, 1e-10))
    return np.maximum(level, level.max() - 80)


@pytest.mark.parametrize(("n", "window_ms", "hop_ms", "window"), [(40, 25.0, 10.0, "hamming"), (13, 20.0, 5.0, "hann")])
def test_mfcc(n: int, window_ms: float, hop_ms: float, window: str) -> None:
    """Davis & Mermelstein with the HTK mel scale, decibels and an orthonormal DCT-II."""
    samples = waveform(0.4)
    length = round(window_ms * RATE / 1000)
    shape = {"hamming": (0.54, 0.46), "hann": (0.5, 0.5)}[window]
    periodic = shape[0] - shape[1] * np.cos(2 * np.pi * np.arange(length) / length)
    mels = np.linspace(0, 2595 * np.log10(1 + (RATE / 2) / 700), n + 2)
    edges = 700 * (10 ** (mels / 2595) - 1)
    bands = decibels(power(samples, periodic, round(hop_ms * RATE / 1000)) @ triangles(edges))
    slow = np.zeros_like(bands)
    for k in range(n):
        basis = np.cos(np.pi / n * (np.arange(n) + 0.5) * k) * np.sqrt((1 if k == 0 else 2) / n)
        slow[:, k] = bands @ basis
    (found,) = MFCC(n, window_ms, hop_ms, window).extract([samples])
    assert found.shape == (round(0.4 * 1000 / hop_ms) + 1, n)
    np.testing.assert_allclose(found, slow, atol=0.02)


def test_logmel() -> None:
    """Slaney's mel scale (linear to 1 kHz) with filters of equal area, in decibels."""
    samples = waveform(0.4)
    step, corner, log_step = 200 / 3, 1000.0, np.log(6.4) / 27
    top = corner / step + np.log(RATE / 2 / corner) / log_step
    mels = np.linspace(0, top, 66)
    edges = np.where(mels < corner / step, mels * step, corner * np.exp(log_step * (mels - corner / step)))
    bank = triangles(edges) * 2 / (edges[2:] - edges[:-2])
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 400)
    (found,) = LogMel().extract([samples])
    assert found.shape == (41, 64)
    np.testing.assert_allclose(found, decibels(power(samples, hann, 160) @ bank), atol=0.02)


def test_log_spectrogram() -> None:
    """ln(|DFT|^2 + 1e-10) of Hann windows of 40 ms every 20 ms: 321 frequencies."""
    samples = waveform(0.4)
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(640) / 640)
    feature = LogSpectrogram()
    (found,) = feature.extract([samples])
    assert found.shape == (21, 321)
    assert feature.dim == 321
    np.testing.assert_allclose(found, np.log(power(samples, hann, 320, 640) + 1e-10), atol=0.02)
    (silent,) = feature.extract([np.zeros(3, np.float32)])
    np.testing.assert_allclose(silent, np.full((1, 321), np.log(1e-10)), rtol=1e-5)


@pytest.mark.parametrize("name", ["mfcc", "logmel", "log_spectrogram"])
def test_spectral_features_do_not_depend_on_the_neighbours(name: str) -> None:
    feature, waves = parse_feature(name), [waveform(s, n) for n, s in enumerate((0.1, 0.3, 0.02))]
    for together, wave in zip(feature.extract(waves), waves, strict=True):
        np.testing.assert_array_equal(together, feature.extract([wave])[0])


def test_silence_is_finite() -> None:
    for name in ("mfcc", "logmel", "log_spectrogram"):
        assert np.isfinite(parse_feature(name).extract([np.zeros(1600, np.float32)])[0]).all()


@pytest.mark.parametrize(
    "text",
    [
        "mfcc",
        "mfcc(n=13)",
        "mfcc(n=13, window_ms=32.0, hop_ms=16.0, window='hann')",
        "logmel(hop_ms=12.5)",
        "hidden_states",
        "hidden_states(checkpoint='bert-base-uncased')",
        "hidden_states(checkpoint='/some/where', layers=(-4, -3, -2, -1))",
        "hidden_states(layers=(0, 1), combine='concat')",
        "hidden_states(pool='first')",
        "log_spectrogram(hop_ms=10.0)",
        "compare2016(select=512)",
        "egemaps",
        "librosa_statistics(n_mfcc=13, f0_max=400.0)",
        "token_ids",
        "waveform",
        "tfidf(max_features=100, ngrams=1)",
        "word_ids(size=9)",
        "comet(relations=('xReact', 'oReact'), state='encoder')",
        "hidden_states(pool='mean') + tfidf",
    ],
)
def test_parsing_reads_what_printing_writes(text: str) -> None:
    assert str(parse_feature(text)) == text
    assert parse_feature(str(parse_feature(text))) == parse_feature(text)


@pytest.mark.parametrize(
    ("text", "same"),
    [
        (" mfcc( n = 40 ) ", "mfcc"),
        ("mfcc()", "mfcc"),
        ("hidden_states(layers=[-1])", "hidden_states"),
        ("mfcc(window_ms=20)", "mfcc(window_ms=20.0)"),
    ],
)
def test_other_ways_to_write_a_feature(text: str, same: str) -> None:
    """Equal features have one key, so they are computed once."""
    assert parse_feature(text) == parse_feature(same)
    assert parse_feature(text).key == parse_feature(same).key


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("mfc", "no feature is called 'mfc'; did you mean 'mfcc'"),
        ("hiden_states(layers=(-1,))", "did you mean 'hidden_states'"),
        ("mfcc(hop=10.0)", "no parameter of mfcc is called 'hop'; did you mean 'hop_ms'"),
        ("hidden_states(layer=(1,))", "no parameter of hidden_states is called 'layer'; did you mean 'layers'"),
        ("spectrogram", "no feature is called 'spectrogram'"),
    ],
)
def test_unknown_names(text: str, message: str) -> None:
    with pytest.raises(UnknownNameError) as caught:
        parse_feature(text)
    assert message in str(caught.value)


@pytest.mark.parametrize("text", ["", "mfcc(", "mfcc(40)", "mfcc(n=forty)", "mfcc n=40", "40", "mfcc(n=__import__('os'))"])
def test_what_is_no_feature(text: str) -> None:
    with pytest.raises(ValueError, match="is not a feature; write it as a call"):
        parse_feature(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("mfcc(n=0)", "n must be 1 to 128"),
        ("mfcc(n=129)", "n must be 1 to 128"),
        ("mfcc(hop_ms=0)", "hop_ms at least one sample"),
        ("mfcc(window='blackman')", "'hamming' or 'hann'"),
        ("logmel(n=-1)", "n must be 1 to 256"),
        ("log_spectrogram(window_ms=0)", "window_ms at least two"),
        ("hidden_states(layers=())", "layers is empty"),
        ("hidden_states(combine='sum')", "combine is 'sum'; it must be 'mean' or 'concat'"),
        ("hidden_states(pool='max')", "pool is 'max'; it must be 'none', 'first' or 'mean'"),
        ("hidden_states(precision='fp16')", "precision is 'fp16'; it must be '32-true' or 'bf16-mixed'"),
        ("comet(relations=())", "must name some of xIntent, xNeed"),
        ("comet(relations=('xJoy',))", r"relations is \('xJoy',\); it must name some of"),
        ("comet(state='last')", "state is 'last'; it must be 'decoder' or 'encoder'"),
        ("mfcc(n='40')", "n is '40'; it must be of the kind of its default, 40"),
        ("mfcc(n=40.5)", r"n is 40\.5; it must be of the kind of its default, 40"),
        ("hidden_states(layers=-1)", r"layers is -1; it must be of the kind of its default, \(-1,\)"),
    ],
)
def test_values_out_of_range(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_feature(text)


def test_every_feature_is_found_by_its_name() -> None:
    assert {"mfcc", "logmel", "log_spectrogram", "hidden_states", "token_ids", "waveform"} <= set(list_features())
    assert {"compare2016", "egemaps", "librosa_statistics"} <= set(list_features())
    for name, feature in list_features().items():
        assert parse_feature(name) == feature()


def test_the_page_names_every_feature_with_its_defaults() -> None:
    page = (Path(__file__).parents[2] / "docs" / "features.md").read_text()
    rows = {line.split("`")[1]: line for line in page.splitlines() if line.startswith("| `")}
    assert set(rows) == set(list_features())
    for name, feature in list_features().items():
        defaults = ", ".join(f"{field.name}={field.default!r}" for field in dataclasses.fields(feature))
        assert rows[name].split("|")[3].strip(" `") == defaults


def direct(checkpoint: str, text: str, layers: tuple[int, ...]) -> tuple[np.ndarray, list[int]]:
    """One text through the encoder, by transformers alone: (L, D) and the token ids."""
    model = transformers.AutoModel.from_pretrained(checkpoint).eval()
    ids = transformers.AutoTokenizer.from_pretrained(checkpoint)(text)["input_ids"]
    with torch.no_grad():
        states = model(input_ids=torch.tensor([ids]), output_hidden_states=True).hidden_states
    return sum(states[layer][0] for layer in layers).numpy() / len(layers), ids


@pytest.mark.parametrize("layers", [(-1,), (0,), (1, 2), (-4, -3, -2, -1)])
def test_hidden_states_of_text(tiny_bert: str, layers: tuple[int, ...]) -> None:
    """Through the store: one padded batch, float16."""
    feature = HiddenStates(tiny_bert, layers)
    assert (feature.modality, feature.dim) == ("text", 16)
    arrays = FeatureStore().get(feature, TEXTS)
    for array, text in zip(arrays, TEXTS, strict=True):
        expected, _ = direct(tiny_bert, text, layers)
        assert array.shape == expected.shape
        np.testing.assert_allclose(array, expected, atol=2e-3)


def test_layers_side_by_side(tiny_bert: str) -> None:
    """The first named layer's D numbers first, whatever the order of the layers in the encoder."""
    feature = HiddenStates(tiny_bert, (2, 0, -1), "concat")
    assert feature.dim == 48
    for array, text in zip(feature.extract(TEXTS), TEXTS, strict=True):
        expected = np.concatenate([direct(tiny_bert, text, (layer,))[0] for layer in (2, 0, -1)], axis=1)
        np.testing.assert_allclose(array, expected, atol=1e-4)


def test_the_choice_of_combining_leaves_older_keys_alone(tiny_bert: str) -> None:
    mean, side_by_side = (HiddenStates(tiny_bert, (0, 1), combine) for combine in ("mean", "concat"))
    assert set(mean.identity()) == {"name", "extractor_version", "checkpoint", "layers"}
    assert side_by_side.identity() == {**mean.identity(), "combine": "concat"}
    assert side_by_side.key != mean.key


def test_token_ids(tiny_bert: str) -> None:
    arrays = FeatureStore().get(TokenIds(tiny_bert), TEXTS)
    assert [array[:, 0].tolist() for array in arrays] == [direct(tiny_bert, text, (-1,))[1] for text in TEXTS]
    assert arrays[0].dtype == np.int32


def test_waveform() -> None:
    waves = [waveform(s, n) for n, s in enumerate((0.5, 0.01))]
    for array, wave in zip(parse_feature("waveform").extract(waves), waves, strict=True):
        np.testing.assert_array_equal(array, wave[:, None])


@pytest.mark.parametrize(("kind", "length"), [("long", 64), ("one token", 3), ("nothing", 2)])
def test_length_of_text(tiny_bert: str, kind: str, length: int) -> None:
    """[CLS], the words and [SEP]; longer texts end where the encoder's positions do."""
    text = {"long": "the bus " * 500, "one token": "hate", "nothing": ""}[kind]
    for feature in (HiddenStates(tiny_bert), TokenIds(tiny_bert)):
        (array,) = feature.extract([text])
        assert array.shape == (length, feature.dim)
    np.testing.assert_allclose(
        HiddenStates(tiny_bert).extract(["the bus " * 500])[0], direct(tiny_bert, "the bus " * 31, (-1,))[0], atol=1e-4
    )


@pytest.mark.parametrize("layer", [4, -5])
def test_layer_out_of_range(tiny_bert: str, layer: int) -> None:
    with pytest.raises(ValueError, match=r"has the layers 0 to 3 \(or -4 to -1\)"):
        HiddenStates(tiny_bert, (layer,)).extract(["hate"])


def test_minilm_is_installed() -> None:
    """A trained encoder without a network: like sentences are nearer than unlike ones."""
    feature = HiddenStates()
    assert (feature.checkpoint, feature.modality, feature.dim) == ("minilm", "text", 384)
    happy, glad, bus = (a.mean(0) for a in feature.extract(["I am so happy!", "What a joyful day", "The bus stops at the corner"]))
    near, far = (a @ happy / np.linalg.norm(a) / np.linalg.norm(happy) for a in (glad, bus))
    assert near > far + 0.1


def test_hidden_states_of_speech(tiny_speech: str) -> None:
    """Waveforms one by one, whatever their neighbours; 50 frames a second; 0.01 s is padded to one frame."""
    feature = HiddenStates(tiny_speech)
    assert (feature.modality, feature.dim) == ("audio", 16)
    waves = [waveform(s, n) for n, s in enumerate((0.5, 0.01, 1.0))]
    found = feature.extract(waves)
    assert [len(array) for array in found] == [24, 1, 49]
    model = transformers.Wav2Vec2Model.from_pretrained(tiny_speech).eval()
    for array, wave in zip(found, [waves[0], np.pad(waves[1], (0, 240)), waves[2]], strict=True):
        normal = (wave - wave.mean()) / np.sqrt(wave.var() + 1e-7)
        with torch.no_grad():
            expected = model(torch.as_tensor(normal[None])).last_hidden_state[0].numpy()
        np.testing.assert_allclose(array, expected, atol=1e-4)


@pytest.mark.parametrize("layer", [0, 1, -1])
def test_hidden_states_of_whisper(tiny_whisper: str, layer: int) -> None:
    """Only the encoder's; 50 a second, as many as the clip lasts, and at most those of the span it hears."""
    feature = HiddenStates(tiny_whisper, (layer,))
    assert (feature.modality, feature.dim, feature.highest) == ("audio", 16, layer % 4)
    waves = [waveform(s, n) for n, s in enumerate((0.5, 0.01, 0.501, 1.0, 1.3))]
    found = feature.extract(waves)
    assert [len(array) for array in found] == [25, 1, 26, 50, 50]
    encoder = transformers.WhisperModel.from_pretrained(tiny_whisper).eval().encoder
    extractor = transformers.WhisperFeatureExtractor.from_pretrained(tiny_whisper)
    for array, wave in zip(found, waves, strict=True):
        mels = extractor(wave, sampling_rate=RATE, return_tensors="pt").input_features  # (1, 20, 100)
        with torch.no_grad():
            states = torch.nn.functional.gelu(encoder.conv2(torch.nn.functional.gelu(encoder.conv1(mels))))
            states = states.mT + encoder.embed_positions.weight
            for block in encoder.layers[: layer % 4]:
                states = block(states, None)
            if layer == -1:
                states = encoder.layer_norm(states)
        np.testing.assert_allclose(array, states[0, : len(array)].numpy(), atol=1e-4)


@pytest.mark.parametrize("kind", ["tiny_bert", "tiny_speech", "tiny_whisper"])
def test_pooled_states(kind: str, request: pytest.FixtureRequest) -> None:
    """The first state, or the mean of the real ones: padding and Whisper's silence don't count."""
    checkpoint = request.getfixturevalue(kind)
    inputs = TEXTS if kind == "tiny_bert" else [waveform(s, n) for n, s in enumerate((0.5, 0.01, 0.8))]
    every, first, mean = (HiddenStates(checkpoint, (1, -1), "concat", pool) for pool in ("none", "first", "mean"))
    assert every.dim == first.dim == mean.dim == 32
    for states, one, average in zip(every.extract(inputs), first.extract(inputs), mean.extract(inputs), strict=True):
        np.testing.assert_array_equal(one, states[:1])
        np.testing.assert_allclose(average, states.astype(np.float64).mean(0, keepdims=True), atol=1e-6)
    assert len({every.key, first.key, mean.key}) == 3
    assert "pool" not in every.identity()
    assert first.identity() == {**every.identity(), "pool": "first"}


def test_unreachable_checkpoint_says_what_to_do() -> None:
    """In a process of its own, since the hub's client reads its environment once."""
    script = (
        "from datamodules.features import parse_feature\n"
        "from datamodules.features.transformer import CheckpointError\n"
        "try:\n    parse_feature(\"hidden_states(checkpoint='nobody/nothing-here')\").dim\n"
        "except CheckpointError as error:\n    print(error)\n"
    )
    environment = {"HF_HUB_OFFLINE": "1", "PYTHONPATH": str(Path(__file__).parents[2]), "PATH": ""}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=120)
    assert "checkpoint 'nobody/nothing-here' could not be loaded" in done.stdout, done.stderr
    assert "hf download nobody/nothing-here --local-dir" in done.stdout
    assert "checkpoint='minilm'" in done.stdout


def test_folder_that_is_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="could not be loaded"):
        _ = HiddenStates(str(tmp_path)).dim


def test_identity_is_the_checkpoints_content(tiny_bert: str, tmp_path: Path) -> None:
    """A copy finds the original's features; other weights or another vocabulary don't."""
    copy, weights, words = (tmp_path / name for name in ("copy", "weights", "words"))
    for folder in (copy, weights, words):
        shutil.copytree(tiny_bert, folder)
    content = bytearray((weights / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (weights / "model.safetensors").write_bytes(content)
    tokens = words / "tokenizer.json"
    tokens.write_text(tokens.read_text().replace("hate", "love"))
    for feature in (HiddenStates, TokenIds):
        original = feature(tiny_bert).key
        assert feature(str(copy)).key == original
        assert feature(str(weights)).key != original
        assert feature(str(words)).key != original
    assert checkpoint_identity(str(copy)) == checkpoint_identity(tiny_bert)
    assert HiddenStates(tiny_bert).key != HiddenStates(tiny_bert, (-2,)).key


def test_deltas_are_the_regression_over_five_frames() -> None:
    """``d_t = sum_k k (c_{t+k} - c_{t-k}) / (2 sum_k k^2)`` for k = 1, 2, with the ends repeated (HTK book, equation 5.16)."""
    wave = np.random.default_rng(0).normal(0, 0.1, 4_000).astype(np.float32)
    (plain,), (both,) = parse_feature("mfcc(n=5)").extract([wave]), parse_feature("mfcc(n=5, deltas=2)").extract([wave])
    assert both.shape == (len(plain), 15)
    expected = [plain]
    for _ in range(2):
        padded = np.pad(expected[-1], ((2, 2), (0, 0)), mode="edge")
        expected.append(sum(k * (padded[2 + k : len(padded) - 2 + k] - padded[2 - k : len(padded) - 2 - k]) for k in (1, 2)) / 10)
    np.testing.assert_allclose(both, np.concatenate(expected, axis=1), atol=1e-3)
    with pytest.raises(FeatureError, match="deltas is 3; it must be 0, 1 or 2"):
        parse_feature("mfcc(deltas=3)")


@pytest.fixture(scope="module")
def tiny_gpt2(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A GPT-2 of a few thousand random weights whose tokenizer, as the original's, has neither padding nor special tokens."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    folder = tmp_path_factory.mktemp("checkpoint") / "tiny-gpt2"
    words = Tokenizer(models.WordLevel({"<|endoftext|>": 0, "hate": 1, "bus": 2, "the": 3}, unk_token="<|endoftext|>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tokens = transformers.PreTrainedTokenizerFast(tokenizer_object=words, bos_token="<|endoftext|>", eos_token="<|endoftext|>")
    tokens.save_pretrained(folder)
    torch.manual_seed(0)
    config = transformers.GPT2Config(vocab_size=4, n_embd=16, n_layer=2, n_head=2, n_positions=32)
    transformers.GPT2Model(config).save_pretrained(folder)
    return str(folder)


def test_hidden_states_without_a_padding_token(tiny_gpt2: str) -> None:
    """What fills a batch up changes nothing, and a text without any token is one end of text."""
    feature = HiddenStates(tiny_gpt2)
    texts = ["hate the bus", "bus", "", "the bus the bus the bus"]
    found = feature.extract(texts)
    assert [len(array) for array in found] == [3, 1, 1, 6]
    for array, text in zip(found, ["hate the bus", "bus", "<|endoftext|>", texts[3]], strict=True):
        np.testing.assert_allclose(array, direct(tiny_gpt2, text, (-1,))[0], atol=1e-4)
    assert TokenIds(tiny_gpt2).extract([""])[0].tolist() == [[0]]


@pytest.fixture(scope="module")
def speech(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A speech encoder by name, of a few thousand random weights."""
    if request.param in {"tiny_speech", "tiny_large_speech", "tiny_whisper"}:
        return request.getfixturevalue(request.param)
    folder = tmp_path_factory.mktemp("speech") / request.param
    config, model = {
        "hubert": (transformers.HubertConfig, transformers.HubertModel),
        "wavlm": (transformers.WavLMConfig, transformers.WavLMModel),
    }[request.param]
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32, "conv_dim": (8,) * 7}
    model(config(num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=4, **sizes)).save_pretrained(folder)
    transformers.Wav2Vec2FeatureExtractor(do_normalize=False).save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("speech", ["tiny_speech", "tiny_large_speech", "tiny_whisper", "hubert", "wavlm"], indirect=True)
def test_waveforms_that_share_a_batch(speech: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a card: each waveform's states are those it has by itself, whatever the lengths of its neighbours."""
    waves = [waveform(s, n) for n, s in enumerate((0.01, 0.3, 0.31, 0.9, 0.9, 0.55))]
    feature = HiddenStates(speech, (0, 1, -1), "concat")
    alone = [feature.extract([wave])[0] for wave in waves]
    sizes: list[int] = []
    run = HiddenStates._run
    monkeypatch.setattr(
        HiddenStates, "_run", lambda self, inputs: sizes.append(len(next(iter(inputs.values())))) or run(self, inputs)
    )
    monkeypatch.setattr(HiddenStates, "_together", lambda self: 4 * RATE)
    together = feature.extract(waves)
    assert sizes == [4, 2]
    for array, expected in zip(together, alone, strict=True):
        assert array.shape == expected.shape
        np.testing.assert_allclose(array, expected, atol=1e-4)


@pytest.mark.parametrize(
    ("lengths", "together", "expected"),
    [
        ([], 10, []),
        ([3, 4, 5], 0, [(0, 1), (1, 2), (2, 3)]),
        ([1, 2, 3, 4, 9, 20, 1], 10, [(0, 3), (3, 4), (4, 5), (5, 6), (6, 7)]),
        ([5, 1, 1], 15, [(0, 3)]),
    ],
)
def test_batches_count_their_padding(lengths: list[int], together: int, expected: list[tuple[int, int]]) -> None:
    assert [(part.start, part.stop) for part in transformer._batches(lengths, together)] == expected


def test_bfloat16_is_another_feature(tiny_bert: str) -> None:
    """Near the states in float32, not them: under a key of its own, while the default keeps that of older versions."""
    exact, fast = HiddenStates(tiny_bert), HiddenStates(tiny_bert, precision="bf16-mixed")
    assert "precision" not in exact.identity()
    assert fast.identity() == {**exact.identity(), "precision": "bf16-mixed"}
    for one, other in zip(exact.extract(TEXTS), fast.extract(TEXTS), strict=True):
        assert 0 < np.abs(one - other).max() < 0.05


@pytest.mark.parametrize("state", ["decoder", "encoder"])
def test_comet(tiny_comet: str, state: str) -> None:
    """Each sentence and relation asked by itself: the first relation's numbers first, the mean over an utterance's sentences."""
    feature = Comet(tiny_comet, ("xReact", "xIntent"), state)
    assert (feature.modality, feature.dim) == ("text", 32)
    model = transformers.BartForConditionalGeneration.from_pretrained(tiny_comet).eval()
    tokens = transformers.AutoTokenizer.from_pretrained(tiny_comet)

    def ask(sentence: str, relation: str) -> np.ndarray:
        ids = tokens(f"{sentence} {relation} [GEN]", return_tensors="pt").input_ids
        with torch.no_grad():
            out = model(input_ids=ids, decoder_input_ids=torch.tensor([[3]]), output_hidden_states=True)
        states = out.encoder_last_hidden_state if state == "encoder" else out.decoder_hidden_states[-1]
        return states[0].mean(0).numpy()

    utterances = {"the bus": ["the bus"], "hate the bus. lovely day!  day": ["hate the bus.", "lovely day!", "day"], "": [""]}
    found = FeatureStore().get(feature, list(utterances))
    for array, sentences in zip(found, utterances.values(), strict=True):
        expected = [np.mean([ask(s, relation) for s in sentences], axis=0) for relation in ("xReact", "xIntent")]
        assert array.shape == (1, 32)
        np.testing.assert_allclose(array[0], np.concatenate(expected), atol=2e-3)
    assert np.abs(found[0][0, :16] - found[0][0, 16:]).max() > 0.01, "a relation matters"


def test_comet_needs_a_decoder(tiny_bert: str) -> None:
    with pytest.raises(FeatureError, match="is no encoder with a decoder; name a BART or T5 tuned on ATOMIC"):
        _ = Comet(tiny_bert).dim
