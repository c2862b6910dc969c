"""Shared fixtures: everything is generated, offline and small."""

import csv
import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import soundfile

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as a shell sets it that starts the tests in the background
    signal.signal(signal.SIGINT, signal.default_int_handler)

os.environ["HF_HUB_OFFLINE"] = "1"  # before transformers is imported: no test asks the hub, on whatever machine

RATE = 16_000
WORDS = {"calm": "the bus leaves at noon", "cross": "i hate this awful mess", "glad": "what a lovely happy day"}
PITCH = {"calm": 150.0, "cross": 400.0, "glad": 900.0}


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A feature cache of the test's own; nothing is read from or left in the user's."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("FUSION_ZOO_CACHE", str(folder))
    return folder


@pytest.fixture(scope="session")
def tiny_bert(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A BERT of a few thousand random weights, saved to disk as a hub checkpoint would be."""
    import torch
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folder = tmp_path_factory.mktemp("checkpoint") / "tiny-bert"
    words = sorted({word for text in WORDS.values() for word in text.split()})
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]
    folder.mkdir(parents=True)
    (folder / "vocab.txt").write_text("\n".join(vocabulary))
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=16,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=64,
    )
    BertModel(config).save_pretrained(folder)
    BertTokenizerFast(vocab=str(folder / "vocab.txt"), model_max_length=64).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def tiny_speech(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A wav2vec 2.0 of a few thousand random weights with the original's seven convolutions, the base model's group norm too."""
    return save_speech(tmp_path_factory.mktemp("speech") / "tiny-wav2vec2")


@pytest.fixture(scope="session")
def tiny_large_speech(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The same with the large model's norms: a layer norm after each convolution, and one before each transformer layer."""
    folder = tmp_path_factory.mktemp("speech") / "tiny-wav2vec2-large"
    return save_speech(folder, feat_extract_norm="layer", do_stable_layer_norm=True, conv_bias=True)


@pytest.fixture(scope="session")
def tiny_whisper(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A Whisper of a few thousand random weights, decoder included; it hears 1 s instead of 30 s."""
    import torch
    from transformers import WhisperConfig, WhisperFeatureExtractor, WhisperModel

    folder = tmp_path_factory.mktemp("speech") / "tiny-whisper"
    torch.manual_seed(0)
    config = WhisperConfig(
        d_model=16,
        encoder_layers=3,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        num_mel_bins=20,
        max_source_positions=50,
        vocab_size=30,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=1,
    )
    WhisperModel(config).save_pretrained(folder)
    WhisperFeatureExtractor(feature_size=20, chunk_length=1).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def tiny_comet(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A BART of a few thousand random weights whose tokenizer knows some of ATOMIC's relations."""
    import torch
    from transformers import BartConfig, BartForConditionalGeneration, BertTokenizerFast

    folder = tmp_path_factory.mktemp("checkpoint") / "tiny-comet"
    folder.mkdir()
    words = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        "hate",
        "the",
        "bus",
        "lovely",
        "day",
        ".",
        "!",
        "xreact",
        "xintent",
        "gen",
    ]
    (folder / "vocab.txt").write_text("\n".join(words))
    BertTokenizerFast(vocab=str(folder / "vocab.txt"), model_max_length=40).save_pretrained(folder)
    torch.manual_seed(0)
    config = BartConfig(
        vocab_size=len(words),
        d_model=16,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        max_position_embeddings=64,
        pad_token_id=0,
        bos_token_id=2,
        eos_token_id=3,
        decoder_start_token_id=3,
        init_std=0.3,
    )
    BartForConditionalGeneration(config).save_pretrained(folder)
    return str(folder)


def save_speech(folder: Path, **changes: object) -> str:
    import torch
    from transformers import Wav2Vec2Config, Wav2Vec2FeatureExtractor, Wav2Vec2Model

    torch.manual_seed(0)
    config = Wav2Vec2Config(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        conv_dim=(8,) * 7,
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=4,
        **changes,
    )
    Wav2Vec2Model(config).save_pretrained(folder)
    Wav2Vec2FeatureExtractor(do_normalize=True).save_pretrained(folder)
    return str(folder)


def tone(label: str, seconds: float, seed: int, rate: int = RATE) -> np.ndarray:
    """A noisy tone whose pitch tells the label: (samples,) float32."""
    random = np.random.default_rng(seed)
    time = np.arange(round(seconds * rate)) / rate
    return (0.3 * np.sin(2 * np.pi * PITCH[label] * time) + 0.02 * random.normal(size=len(time))).astype(np.float32)


@pytest.fixture
def write_manifest() -> Callable[[Path, Sequence[dict[str, object]]], Path]:
    """Write rows as ``manifest.csv`` into a folder and return its path; columns are those of the first row."""

    def write(folder: Path, rows: Sequence[dict[str, object]]) -> Path:
        path = folder / "manifest.csv"
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
        return path

    return write


@pytest.fixture
def rows(tmp_path: Path) -> list[dict[str, object]]:
    """Rows of a sound manifest with its audio written into ``tmp_path``.

    60 utterances: 10 speakers, 3 labels, 2 takes; dialogues of 6 turns; audio of 0.2 to 0.6 s whose pitch tells the label, and
    text whose words tell it too. Speakers s0-s5 are train, s6 and s7 val, s8 and s9 test.
    """
    found: list[dict[str, object]] = []
    for speaker in range(10):
        for turn in range(6):
            label = list(WORDS)[turn % 3]
            number = len(found)
            name = f"audio/u{number}.wav"
            path = tmp_path / name
            path.parent.mkdir(exist_ok=True)
            soundfile.write(path, tone(label, 0.2 + 0.1 * (number % 5), number), RATE)
            found.append(
                {
                    "utterance_id": f"u{number}",
                    "audio": name,
                    "text": f"{WORDS[label]} {number}",
                    "label": label,
                    "speaker": f"s{speaker}",
                    "dialogue": f"d{speaker}",
                    "turn": turn,
                    "split": "train" if speaker < 6 else "val" if speaker < 8 else "test",
                }
            )
    return found


@pytest.fixture
def manifest(tmp_path: Path, rows: list[dict[str, object]], write_manifest: Callable[..., Path]) -> Path:
    """The manifest of ``rows``."""
    return write_manifest(tmp_path, rows)
