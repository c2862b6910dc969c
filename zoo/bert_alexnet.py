"""BERT and ModifiedAlexNet (Khan, Malik, Arslan & Ullah): a convolutional network on the spectrogram beside a sentence vector.

The paper gives the parts' names and the optimiser; the architecture is that of the public code it descends from (aris-ai, 2020).
AlexNet's convolutions read an image of three channels: the frames, their differences, and the differences of those. All
positions of the last layer are added up, so that any length fits. What differs, and why:

* The lineage trains its encoders separately and then only the classifier on their outputs; here everything but BERT, which is
  frozen, is trained at once.
* It starts from random weights (its ImageNet weights are fetched but not loaded). He's initialisation replaces PyTorch's, which
  makes the signal ever smaller over five layers without normalisation.
* ``norm=True`` standardises both vectors over the corpus before they meet: their scales have nothing to do with each other.
  The lineage doesn't; ``False`` is to the letter.
* The lineage skips utterances of up to 65 frames. Here shorter ones, and features narrower than 63, are filled with zeros to
  the smallest image that leaves one position.
* Where the lineage takes the differences: along frequency, as its code reads; ``deltas="time"`` is what the word usually means.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from datamodules.batch import AUDIO, TEXT, Batch
from zoo.base import FusionModule, Output, Published, Training
from zoo.nn import MaskedNorm, masked_mean

_SMALLEST = 63
"""Frames, and bands, that leave one position after all strides."""


class BertAlexNet(FusionModule):
    """AlexNet's convolutions on a spectrogram, BERT's vector, one linear layer.

    Equations::

        image = [S; dS; ddS]                           S: frames x bands, d: first difference
        z_a = sum over positions of AlexNet(image);  z_t = mean_s y_s
        logits = W [BN(z_a); BN(z_t)] + b
    """

    family = "early"
    paper = "Khan, Malik, Arslan & Ullah, A Hybrid Approach to Emotion Classification Using Multimodal Text and Audio Data"
    published = Published(
        "log_spectrogram(window_ms=40.0, hop_ms=20.0)",
        "hidden_states(checkpoint='bert-base-uncased')",
        # Epochs and batch size are not published, nor is a schedule in steps of 30 epochs at hand.
        Training(40, 8, 32, 1e-4, 0.0, "none", 0.0),
        {"norm": False},
    )

    def __init__(
        self,
        audio_dim: int,
        text_dim: int,
        num_classes: int,
        hidden: int = 64,
        deltas: Literal["frequency", "time"] = "frequency",
        pool: Literal["sum", "mean"] = "sum",
        text_pool: Literal["mean", "first"] = "mean",
        norm: bool = True,
        dropout: float = 0.5,
    ) -> None:
        """Build the network.

        Args:
            audio_dim: Width Da of the frames (the lineage: 321 frequencies).
            text_dim: Width Dt of the token vectors.
            num_classes: Number of classes C.
            hidden: Channels of the first convolution; the others have 3, 6, 4 and 4 times as many, as in AlexNet.
            deltas: Axis of the differences that make the second and third channel.
            pool: Over the positions of the last layer: ``sum`` or ``mean``.
            text_pool: ``mean`` of the token vectors, or the ``first`` ([CLS]).
            norm: Standardise both vectors over the corpus.
            dropout: On the concatenated vectors.

        Raises:
            ValueError: If an option has no such value.
        """
        super().__init__(num_classes)
        if deltas not in {"frequency", "time"}:
            raise ValueError(f"bert_alexnet: deltas is {deltas!r}; it must be 'frequency' or 'time'")
        if pool not in {"sum", "mean"}:
            raise ValueError(f"bert_alexnet: pool is {pool!r}; it must be 'sum' or 'mean'")
        if text_pool not in {"mean", "first"}:
            raise ValueError(f"bert_alexnet: text_pool is {text_pool!r}; it must be 'mean' or 'first'")
        self.save_hyperparameters()
        self.axis, self.pool, self.text_pool = (1 if deltas == "time" else 2), pool, text_pool
        convs = [
            nn.Conv2d(3, hidden, 11, stride=4, padding=2),
            nn.Conv2d(hidden, 3 * hidden, 5, padding=2),
            nn.Conv2d(3 * hidden, 6 * hidden, 3, padding=1),
            nn.Conv2d(6 * hidden, 4 * hidden, 3, padding=1),
            nn.Conv2d(4 * hidden, 4 * hidden, 3, padding=1),
        ]
        for conv in convs:
            nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
        self.convs = nn.ModuleList(convs)
        self.audio_norm = MaskedNorm(4 * hidden) if norm else None
        self.text_norm = MaskedNorm(text_dim) if norm else None
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(4 * hidden + text_dim, num_classes)

    def forward(self, batch: Batch, maps: bool = False) -> Output:
        """Classify the concatenated vectors; there are no maps."""
        audio = self._audio(batch.audio * batch.audio_mask.unsqueeze(-1), batch.audio_mask.sum(1))  # (B, 4 hidden)
        kept = batch.text_mask if self.text_pool == "mean" else batch.text_mask & (batch.text_mask.cumsum(1) == 1)
        text = masked_mean(batch.text, kept)  # (B, Dt)
        if self.audio_norm is not None and self.text_norm is not None:
            audio, text = self.audio_norm(audio, batch.present[:, AUDIO]), self.text_norm(text, batch.present[:, TEXT])
        fused = torch.cat([audio, text], dim=-1)  # (B, 4 hidden + Dt)
        return Output(self.classifier(self.dropout(fused)), fused)

    def _audio(self, frames: Tensor, lengths: Tensor) -> Tensor:
        """(B, T, F), zero where padded, and real frames (B,) -> (B, 4 hidden), zero where there are none.

        Every layer's zeros begin where the utterance would end if it were alone, so that none sees another's length.
        """
        some = lengths > 0
        delta = _difference(frames, self.axis)
        image = torch.stack([frames, delta, _difference(delta, self.axis)], dim=1)  # (B, 3, T, F)
        image = _only(image, lengths)  # the step from the last frame to the padding is none
        image = F.pad(image, (0, max(0, _SMALLEST - image.shape[3]), 0, max(0, _SMALLEST - image.shape[2])))
        lengths = lengths.clamp(min=_SMALLEST)
        for number, conv in enumerate(self.convs):
            lengths = (lengths - 7) // 4 + 1 if number == 0 else lengths
            image = _only(conv(image).relu(), lengths)
            if number in {0, 1, 4}:
                # Windows that would need a frame past the end don't exist, alone or in a batch, so none sees a zero.
                lengths = (lengths - 3) // 2 + 1
                image = _only(F.max_pool2d(image, 3, 2), lengths)
        total = image.sum((2, 3), dtype=torch.float32 if image.dtype != torch.float64 else None)
        if self.pool == "mean":
            total = total / (lengths * image.shape[3]).unsqueeze(-1)
        return total.to(frames.dtype) * some.unsqueeze(-1)


def _difference(x: Tensor, axis: int) -> Tensor:
    """Each value minus the one before it along ``axis``; zero at the first."""
    return torch.diff(x, dim=axis, prepend=x.narrow(axis, 0, 1))


def _only(image: Tensor, lengths: Tensor) -> Tensor:
    """(B, C, T, F) with zeros from the frame ``lengths`` (B,) on."""
    real = torch.arange(image.shape[2], device=image.device) < lengths.unsqueeze(-1)
    return image * real[:, None, :, None]
