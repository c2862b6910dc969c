"""Feature-level fusion by concatenation: the plain baseline that a fusion idea has to beat.

Each modality is described by one vector: the frames by their functionals (mean, deviation, and deviation of the step from frame
to frame), the tokens by their mean. Every number is standardised over the corpus, both vectors are concatenated and classified
by a network with one hidden layer. Without that layer the logits would be a sum of an audio term and a text term, which can't
express an emotion that only the pair carries.

On corpora of a few hundred clips these functionals generalise to new speakers where a recurrent encoder learns its training
speakers (docs/measurements.md); ``encoder`` puts one in front of them.
"""

import torch
from torch import nn

from datamodules.batch import AUDIO, TEXT, Batch
from zoo.base import FusionModule, Output
from zoo.nn import MaskedNorm, make_encoder, masked_functionals, masked_mean
from zoo.nn.encoders import EncoderName


class EarlyConcat(FusionModule):
    """Concatenate what both modalities pool to.

    Equations::

        z_a = BN([mean_t h_t; std_t h_t; std_t (h_t - h_{t-1})]),  h = encoder(audio)
        z_t = BN(mean_s y_s)
        logits = W_2 relu(W_1 [z_a; z_t] + b_1) + b_2
    """

    family = "early"
    paper = "no single source; the concatenation baseline of Poria et al., Information Fusion 37, 2017, 98-125, section 5"

    def __init__(
        self,
        audio_dim: int,
        text_dim: int,
        num_classes: int,
        encoder: EncoderName = "identity",
        hidden: int = 256,
        layers: int = 2,
        fused: int = 256,
        dropout: float = 0.5,
    ) -> None:
        """Build the encoder and the classifier.

        Args:
            audio_dim: Width Da of the frames, or of utterance vectors (T = 1).
            text_dim: Width Dt of the token vectors, or of utterance vectors (L = 1).
            num_classes: Number of classes C.
            encoder: Of the frames, before their functionals: ``identity``, ``bilstm`` or ``cnn``.
            hidden: Half its width.
            layers: Its layers.
            fused: Width of the hidden layer.
            dropout: Before and after the hidden layer, and on the input of every encoder layer.
        """
        super().__init__(num_classes)
        self.save_hyperparameters()
        self.encoder = make_encoder(encoder, audio_dim, hidden, layers, dropout)
        self.audio_norm, self.text_norm = MaskedNorm(3 * self.encoder.dim), MaskedNorm(text_dim)
        width = 3 * self.encoder.dim + text_dim
        self.fuse = nn.Sequential(nn.Dropout(dropout), nn.Linear(width, fused), nn.ReLU(), nn.Dropout(dropout))
        self.classifier = nn.Linear(fused, num_classes)

    def forward(self, batch: Batch, maps: bool = False) -> Output:
        """Classify the concatenated functionals."""
        frames = self.encoder(batch.audio, batch.audio_mask)  # (B, T, D)
        audio = self.audio_norm(masked_functionals(frames, batch.audio_mask), batch.present[:, AUDIO])  # (B, 3D)
        text = self.text_norm(masked_mean(batch.text, batch.text_mask), batch.present[:, TEXT])  # (B, Dt)
        fused = self.fuse(torch.cat([audio, text], dim=-1))  # (B, fused)
        return Output(self.classifier(fused), fused)
