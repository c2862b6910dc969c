"""Feature-level fusion by concatenation: the plain baseline that a fusion idea has to beat.

Audio frames go through a BiLSTM, both modalities are pooled to their mean and standard deviation, the two vectors are
concatenated and classified by a network with one hidden layer. Without that layer the logits would be a sum of an audio term
and a text term, which can't express an emotion that only the pair carries.
"""

import torch
from torch import nn

from datamodules.batch import Batch
from zoo.base import FusionModule, Output
from zoo.nn import BiLSTM, masked_statistics


class EarlyConcat(FusionModule):
    """Concatenate what both modalities pool to."""

    family = "early"
    paper = "no single source; the concatenation baseline of Poria et al., Information Fusion 37, 2017, 98-125, section 5"

    def __init__(
        self,
        audio_dim: int,
        text_dim: int,
        num_classes: int,
        hidden: int = 256,
        layers: int = 2,
        fused: int = 256,
        dropout: float = 0.2,
    ) -> None:
        """Build the encoder and the classifier.

        Args:
            audio_dim: Width Da of the frames.
            text_dim: Width Dt of the token vectors.
            num_classes: Number of classes C.
            hidden: LSTM units per direction.
            layers: LSTM layers.
            fused: Width of the hidden layer.
            dropout: Before and after the hidden layer, and on the input of every LSTM layer.
        """
        super().__init__(num_classes)
        self.save_hyperparameters()
        self.encoder = BiLSTM(audio_dim, hidden, layers, dropout)
        width = 2 * self.encoder.dim + 2 * text_dim
        self.fuse = nn.Sequential(nn.LayerNorm(width), nn.Dropout(dropout), nn.Linear(width, fused), nn.ReLU(), nn.Dropout(dropout))
        self.classifier = nn.Linear(fused, num_classes)

    def forward(self, batch: Batch, maps: bool = False) -> Output:
        """Classify the concatenated statistics."""
        audio = masked_statistics(self.encoder(batch.audio, batch.audio_mask), batch.audio_mask)  # (B, 4 hidden)
        text = masked_statistics(batch.text, batch.text_mask)  # (B, 2 Dt)
        fused = self.fuse(torch.cat([audio, text], dim=-1))  # (B, fused)
        return Output(self.classifier(fused), fused)
