"""Measures MER-HAN's training speed at the paper's widths: features from the store against an encoder run in every step.

``python -m benchmarks.step_speed`` prints utterances/s for 5-second clips, 20-token texts and a BERT-base of random weights:

* through the project's own path (store, data module, Trainer), in float32 and in bf16-mixed;
* with the frozen BERT run again in every step on texts padded to 512 tokens and audio padded to 512 frames, as the known
  implementation does;
* and, for a packed LSTM against the padded one of `zoo.nn.BiLSTM`, seconds per forward and backward pass.
"""

import csv
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import lightning as L
import numpy as np
import soundfile
import torch
import typer
from torch import nn

from benchmarks.cost import CostMeter
from benchmarks.runner import quiet_lightning
from datamodules.batch import Batch
from datamodules.corpora import open_corpus
from datamodules.emotion import EmotionDataModule, Utterances, load_utterances
from datamodules.features import parse_feature
from datamodules.protocols import Fold
from datamodules.store import FeatureStore
from zoo import create
from zoo.base import FusionModule

CLASSES = ("angry", "happy", "neutral", "sad")
WORDS = [f"word{number}" for number in range(200)]
SECONDS, TOKENS = 5, 20


def _bert_base(folder: Path) -> str:
    """A checkpoint with BERT-base's configuration, random weights and a vocabulary of made-up words."""
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folder.mkdir()
    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]))
    BertModel(BertConfig()).save_pretrained(folder)
    BertTokenizerFast(vocab=str(folder / "vocab.txt"), model_max_length=512).save_pretrained(folder)
    return str(folder)


def _corpus(folder: Path, count: int) -> Path:
    """A manifest of noise clips of 5 s and texts of 18 words, which with two special tokens are 20 tokens."""
    random = np.random.default_rng(0)
    path = folder / "manifest.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["utterance_id", "audio", "text", "label"])
        for number in range(count):
            soundfile.write(folder / f"{number}.wav", random.normal(0, 0.1, SECONDS * 16_000), 16_000)
            writer.writerow([number, f"{number}.wav", " ".join(random.choice(WORDS, TOKENS - 2)), CLASSES[number % 4]])
    return path


def _throughput(model: FusionModule, data: EmotionDataModule, precision: str, epochs: int) -> float:
    """Training utterances per second, after one epoch of warm-up."""
    for rounds in (1, epochs):
        meter = CostMeter()
        trainer = L.Trainer(
            max_epochs=rounds,
            precision=precision,
            limit_val_batches=0,
            callbacks=[meter],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(model, datamodule=data)
    return len(data.fold.train) * epochs / meter.train_seconds


class _Reencoding(nn.Module):
    """Put in front of a method: runs a frozen BERT on 512 padded tokens for every batch, and pads the audio to 512 frames."""

    def __init__(self, checkpoint: str, method: FusionModule) -> None:
        super().__init__()
        from transformers import AutoModel

        self.bert, self.forward_method = AutoModel.from_pretrained(checkpoint).eval(), method.forward

    def forward(self, batch: Batch, maps: bool = False) -> object:
        ids = torch.randint(5, 5 + len(WORDS), (len(batch.label), 512), device=batch.audio.device)
        with torch.no_grad():
            text = self.bert(ids).last_hidden_state
        audio = nn.functional.pad(batch.audio, (0, 0, 0, 512 - batch.audio.shape[1]))
        everything = torch.ones(len(ids), 512, dtype=torch.bool, device=ids.device)
        return self.forward_method(batch._replace(audio=audio, audio_mask=everything, text=text, text_mask=everything), maps)


def _seconds(step: Callable[[], torch.Tensor], repeats: int = 2) -> float:
    torch.autograd.backward(step())
    started = time.perf_counter()
    for _ in range(repeats):
        torch.autograd.backward(step())
    return (time.perf_counter() - started) / repeats


def _recurrent() -> tuple[float, float]:
    """Seconds per forward and backward pass of the audio encoder's LSTM on 32 clips: packed, and padded as in the zoo."""
    from zoo.nn import BiLSTM

    x, mask = torch.randn(32, 500, 40), torch.ones(32, 500, dtype=torch.bool)
    lstm = nn.LSTM(40, 256, 2, batch_first=True, bidirectional=True)
    padded = BiLSTM(40, 256)

    def packed() -> torch.Tensor:
        sequence = nn.utils.rnn.pack_padded_sequence(x, mask.sum(1), batch_first=True, enforce_sorted=False)
        out: torch.Tensor = lstm(sequence)[0].data
        return out.sum()

    return _seconds(packed, 1), _seconds(lambda: padded(x, mask).sum())


def main(
    batch: Annotated[int, typer.Option(help="Batch size.")] = 32,
    batches: Annotated[int, typer.Option(help="Batches per epoch.")] = 2,
    epochs: Annotated[int, typer.Option(help="Epochs measured.")] = 3,
) -> None:
    """Print the measurements."""
    quiet_lightning()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        checkpoint = _bert_base(folder / "bert-base")
        corpus, count = open_corpus(str(_corpus(folder, batch * batches + 2))), batch * batches
        audio, text = parse_feature("mfcc"), parse_feature(f"hidden_states(checkpoint={checkpoint!r})")
        started = time.perf_counter()
        utterances: Utterances = load_utterances(corpus, audio, text, FeatureStore(folder / "store"))
        typer.echo(f"features of {count + 2} utterances computed once in {time.perf_counter() - started:.1f} s")
        ids = tuple(str(number) for number in range(count + 2))
        data = EmotionDataModule(utterances, Fold(0, ids[:-2], ids[-2:-1], ids[-1:]), CLASSES, batch_size=batch)

        def method() -> FusionModule:
            L.seed_everything(0, verbose=False)
            return create("mer_han", audio_dim=40, text_dim=768, num_classes=len(CLASSES))

        reencoding = method()
        reencoding.forward = _Reencoding(checkpoint, reencoding).forward  # type: ignore[method-assign, assignment]
        slow = _throughput(reencoding, data, "32-true", 1)
        device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {torch.get_num_threads()} threads"
        typer.echo(f"device: {device}; torch {torch.__version__}")
        typer.echo(f"BERT in every step on 512 tokens, float32: {slow:.2f} utterances/s")
        for precision in ("32-true", "bf16-mixed"):
            speed = _throughput(method(), data, precision, epochs)
            typer.echo(f"from the store, {precision}: {speed:.2f} utterances/s, {speed / slow:.1f} times as many")
        packed, padded = _recurrent()
        typer.echo(
            f"BiLSTM, 32 clips of 500 frames: packed {packed:.2f} s, padded {padded:.2f} s, {packed / padded:.1f} times faster"
        )


if __name__ == "__main__":
    typer.run(main)
