"""Audio alone: an encoder over frames, optionally MER-HAN's local attention, pooling, linear classifier.

With the default BiLSTM its two settings are the rows "Audio, no local attention" and "Audio + local attention" of Table 4 of
Zhang et al. 2023 (Biomed. Signal Process. Control 85, 105052). How the paper pools there is not published; here it is the mean
over frames. ``encoder="identity", pooling="functionals"`` is what `early_concat` knows of the audio: the fair row beside it.
"""

from typing import Literal

from torch import nn

from datamodules.batch import AUDIO, Batch
from zoo.base import FusionModule, Output, Published, Training
from zoo.nn import LocalAttention, MaskedNorm, make_encoder, masked_functionals, masked_mean
from zoo.nn.encoders import EncoderName


class AudioOnly(FusionModule):
    """One modality: what a fusion has to beat.

    Equations::

        h_t = encoder(x)_t;  with local attention h = LN(h + MHSA(h))
        z = mean_t h_t,  or BN([mean h; std h; std (h_t - h_{t-1})])
        logits = W z + b
    """

    family = "single"
    modalities = ("audio",)
    paper = "Zhang et al., Biomed. Signal Process. Control 85, 2023, 105052 (rows of Table 4)"
    published = Published(
        "mfcc(n=40)", "hidden_states(checkpoint='bert-base-uncased')", Training(64, 6, 32, 1e-4, 0.0, "none", 0.0)
    )

    def __init__(
        self,
        audio_dim: int,
        text_dim: int,
        num_classes: int,
        encoder: EncoderName = "bilstm",
        hidden: int = 256,
        layers: int = 2,
        local_attention: bool = False,
        heads: int = 4,
        pooling: Literal["mean", "functionals"] = "mean",
        dropout: float = 0.3,
    ) -> None:
        """Build the encoder and the classifier.

        Args:
            audio_dim: Width Da of the frames.
            text_dim: Not used.
            num_classes: Number of classes C.
            encoder: ``bilstm``, ``cnn`` or ``identity``, for features that are an encoder's output or utterance vectors.
            hidden: LSTM units per direction, or half the channels.
            layers: The encoder's layers.
            local_attention: Self-attention over the encoded frames.
            heads: Its heads.
            pooling: ``mean``, or ``functionals``: mean, deviation and deviation of the steps, standardised over the corpus.
            dropout: On the input of every layer, and after the encoder.

        Raises:
            ValueError: If ``pooling`` is neither.
        """
        if pooling not in {"mean", "functionals"}:
            raise ValueError(f"audio_only: pooling is {pooling!r}; it must be 'mean' or 'functionals'")
        super().__init__(num_classes)
        self.save_hyperparameters()
        self.encoder = make_encoder(encoder, audio_dim, hidden, layers, dropout)
        self.local = LocalAttention(self.encoder.dim, heads, dropout) if local_attention else None
        self.dropout = nn.Dropout(dropout)
        width = 3 * self.encoder.dim if pooling == "functionals" else self.encoder.dim
        self.norm = MaskedNorm(width) if pooling == "functionals" else None
        self.classifier = nn.Linear(width, num_classes)

    def forward(self, batch: Batch, maps: bool = False) -> Output:
        """Classify the pooled frames; map ``local_audio`` (B, T, T)."""
        x, weights = self.encoder(batch.audio, batch.audio_mask), None  # (B, T, D)
        if self.local is not None:
            x, weights = self.local(x, batch.audio_mask, maps)
        if self.norm is None:
            pooled = masked_mean(self.dropout(x), batch.audio_mask)  # (B, D)
        else:
            pooled = self.dropout(self.norm(masked_functionals(x, batch.audio_mask), batch.present[:, AUDIO]))  # (B, 3D)
        return Output(self.classifier(pooled), pooled, None if weights is None else {"local_audio": weights})
