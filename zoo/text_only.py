"""Text alone: token vectors, perhaps an encoder and MER-HAN's local attention, mean pooling, linear classifier.

Without an encoder its two settings are the rows "Text, no local attention" and "Text + local attention" of Table 4 of Zhang et
al. 2023 (Biomed. Signal Process. Control 85, 105052). How the paper pools there is not published; here it is the mean over
tokens.
"""

from torch import nn

from datamodules.batch import Batch
from zoo.base import FusionModule, Output, Published, Training
from zoo.nn import LocalAttention, make_encoder, masked_mean
from zoo.nn.encoders import EncoderName


class TextOnly(FusionModule):
    """One modality: what a fusion has to beat.

    Equations::

        h_s = encoder(y)_s;  with local attention h = LN(h + MHSA(h))
        z = mean_s h_s
        logits = W z + b
    """

    family = "single"
    modalities = ("text",)
    paper = "Zhang et al., Biomed. Signal Process. Control 85, 2023, 105052 (rows of Table 4)"
    published = Published(
        "mfcc(n=40)", "hidden_states(checkpoint='bert-base-uncased')", Training(64, 6, 32, 1e-4, 0.0, "none", 0.0)
    )

    def __init__(
        self,
        audio_dim: int,
        text_dim: int,
        num_classes: int,
        encoder: EncoderName = "identity",
        hidden: int = 256,
        layers: int = 2,
        local_attention: bool = False,
        heads: int = 4,
        dropout: float = 0.3,
    ) -> None:
        """Build the classifier.

        Args:
            audio_dim: Not used.
            text_dim: Width Dt of the token vectors.
            num_classes: Number of classes C.
            encoder: ``identity``, ``bilstm`` or ``cnn``.
            hidden: LSTM units per direction, or half the channels.
            layers: The encoder's layers.
            local_attention: Self-attention over the encoded tokens.
            heads: Its heads.
            dropout: On the input of every encoder layer, in the attention and before pooling.
        """
        super().__init__(num_classes)
        self.save_hyperparameters()
        self.encoder = make_encoder(encoder, text_dim, hidden, layers, dropout)
        self.local = LocalAttention(self.encoder.dim, heads, dropout) if local_attention else None
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(self.encoder.dim, num_classes)

    def forward(self, batch: Batch, maps: bool = False) -> Output:
        """Classify the mean token; map ``local_text`` (B, L, L)."""
        x, weights = self.encoder(batch.text, batch.text_mask), None  # (B, L, D)
        if self.local is not None:
            x, weights = self.local(x, batch.text_mask, maps)
        pooled = masked_mean(self.dropout(x), batch.text_mask)  # (B, D)
        return Output(self.classifier(pooled), pooled, None if weights is None else {"local_text": weights})
