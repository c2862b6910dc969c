"""Audio alone: BiLSTM over frames, optionally MER-HAN's local attention, mean pooling, linear classifier.

Its two settings are the rows "Audio, no local attention" and "Audio + local attention" of Table 4 of Zhang et al. 2023
(Biomed. Signal Process. Control 85, 105052). How the paper pools there is not published; here it is the mean over frames.
"""

from torch import nn

from datamodules.batch import Batch
from zoo.base import FusionModule, Output, Published, Training
from zoo.nn import BiLSTM, LocalAttention, masked_mean


class AudioOnly(FusionModule):
    """One modality: what a fusion has to beat."""

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
        hidden: int = 256,
        layers: int = 2,
        local_attention: bool = False,
        heads: int = 4,
        dropout: float = 0.3,
    ) -> None:
        """Build the encoder and the classifier.

        Args:
            audio_dim: Width Da of the frames.
            text_dim: Not used.
            num_classes: Number of classes C.
            hidden: LSTM units per direction.
            layers: LSTM layers.
            local_attention: Self-attention over the encoded frames.
            heads: Its heads.
            dropout: On the input of every layer, and after the encoder.
        """
        super().__init__(num_classes)
        self.save_hyperparameters()
        self.encoder = BiLSTM(audio_dim, hidden, layers, dropout)
        self.local = LocalAttention(self.encoder.dim, heads, dropout) if local_attention else None
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(self.encoder.dim, num_classes)

    def forward(self, batch: Batch, maps: bool = False) -> Output:
        """Classify the mean frame; map ``local_audio`` (B, T, T)."""
        x, weights = self.encoder(batch.audio, batch.audio_mask), None  # (B, T, 2 hidden)
        if self.local is not None:
            x, weights = self.local(x, batch.audio_mask, maps)
        pooled = masked_mean(self.dropout(x), batch.audio_mask)  # (B, 2 hidden)
        return Output(self.classifier(pooled), pooled, None if weights is None else {"local_audio": weights})
