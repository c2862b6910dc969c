"""Cross-modal attention with statistics pooling: the third fusion of Dehghani Tafti & BabaAli (2024).

Frames and tokens are projected to one width, each stream attends to the other, both are pooled to mean and standard deviation,
and a network with one hidden layer classifies the concatenation. The paper's text is not open and says nothing public of pooling,
widths or classifier; pooling and concatenation follow Krishna (2021), the attention block the one of MER-HAN's figure. What
differs, and why:

* Width, heads, dropout and the hidden layer are not published.
* Frames and tokens are standardised before the projection, and so are the pooled numbers before the classifier: hidden states
  hold a few numbers far larger than the rest, which would decide every attention.
* ``skip=True`` also gives the classifier the functionals of the frames and the mean of the tokens as they came. A corpus of a few
  hundred clips is too small to learn them through the attention; ``skip=False`` is the papers' network.
* ``encoder`` puts a recurrent or convolutional network before the audio's projection; the papers' features need none.
"""

import torch
from torch import Tensor, nn

from datamodules.batch import AUDIO, TEXT, Batch
from zoo.base import FusionModule, Output, Published, Training
from zoo.nn import CrossAttention, MaskedNorm, make_encoder, masked_functionals, masked_mean, masked_statistics
from zoo.nn.encoders import EncoderName


class CrossModalAttention(FusionModule):
    """Two-way cross-modal attention, statistics pooling, concatenation.

    Equations::

        A = W_a encoder(audio),  T = W_t y
        A' = LN(A + MHA(Q=A, K=T, V=T)),  T' = LN(T + MHA(Q=T, K=A, V=A))
        z_a = BN([mean A'; std A'; functionals(audio)]),  z_t = BN([mean T'; std T'; mean y])
        logits = W_2 relu(W_1 [z_a; z_t] + b_1) + b_2
    """

    family = "model-level"
    paper = (
        "Dehghani Tafti & BabaAli, 2024 (cross-modal attention over wav2vec 2.0 and BERT); Krishna D N, Using Large Pre-Trained "
        "Models with Cross-Modal Attention for Multi-Modal Emotion Recognition, arXiv, 2021 (statistics pooling)"
    )
    # Model sizes, layers and training are not published: base models, last layer, and a common rate for frozen encoders.
    published = Published(
        "hidden_states(checkpoint='facebook/wav2vec2-base')",
        "hidden_states(checkpoint='bert-base-uncased')",
        Training(40, 8, 32, 5e-4, 0.0, "none", 0.0),
    )

    def __init__(
        self,
        audio_dim: int,
        text_dim: int,
        num_classes: int,
        encoder: EncoderName = "identity",
        hidden: int = 128,
        layers: int = 1,
        d: int = 128,
        heads: int = 4,
        blocks: int = 1,
        skip: bool = True,
        fused: int = 256,
        dropout: float = 0.4,
    ) -> None:
        """Build the projections, the attention and the classifier.

        Args:
            audio_dim: Width Da of the frames.
            text_dim: Width Dt of the token vectors.
            num_classes: Number of classes C.
            encoder: Of the frames: ``identity``, ``bilstm`` or ``cnn``.
            hidden: Half the encoder's width.
            layers: The encoder's layers.
            d: Width of both streams.
            heads: Heads of every attention.
            blocks: Stacked layers of attention in both directions.
            skip: Also classify by the pooled frames and tokens as they came.
            fused: Width of the classifier's hidden layer.
            dropout: On the input of every layer and on the attention.

        Raises:
            ValueError: If there is no block.
        """
        super().__init__(num_classes)
        if blocks < 1:
            raise ValueError(f"cross_attention: blocks is {blocks}; it must be at least 1")
        self.save_hyperparameters()
        self.encoder = make_encoder(encoder, audio_dim, hidden, layers, dropout)
        self.audio_norm, self.text_norm = MaskedNorm(self.encoder.dim), MaskedNorm(text_dim)
        self.audio_proj, self.text_proj = nn.Linear(self.encoder.dim, d), nn.Linear(text_dim, d)
        self.audio_from_text = nn.ModuleList(CrossAttention(d, heads, dropout) for _ in range(blocks))
        self.text_from_audio = nn.ModuleList(CrossAttention(d, heads, dropout) for _ in range(blocks))
        # Mean and deviation of what was attended; functionals of the frames and mean of the tokens.
        self.skip = skip
        audio_width, text_width = 2 * d + 3 * audio_dim * skip, 2 * d + text_dim * skip
        self.audio_pool_norm, self.text_pool_norm = MaskedNorm(audio_width), MaskedNorm(text_width)
        self.dropout = nn.Dropout(dropout)
        self.fuse = nn.Sequential(nn.Dropout(dropout), nn.Linear(audio_width + text_width, fused), nn.ReLU(), nn.Dropout(dropout))
        self.classifier = nn.Linear(fused, num_classes)

    def forward(self, batch: Batch, maps: bool = False) -> Output:
        """Classify a batch.

        Maps, of the last block: ``audio_from_text`` (B, T, L) with audio queries, and ``text_from_audio`` (B, L, T).
        """
        audio_mask, text_mask = batch.audio_mask, batch.text_mask
        frames = self.audio_norm(self.encoder(batch.audio, audio_mask), audio_mask)  # (B, T, D)
        audio = self.audio_proj(self.dropout(frames))  # (B, T, d)
        text = self.text_proj(self.dropout(self.text_norm(batch.text, text_mask)))  # (B, L, d)
        attention: dict[str, Tensor] = {}
        for to_audio, to_text in zip(self.audio_from_text, self.text_from_audio, strict=True):
            (audio, from_text), (text, from_audio) = to_audio(audio, text, text_mask, maps), to_text(text, audio, audio_mask, maps)
            if maps:
                attention["audio_from_text"] = from_text * audio_mask.unsqueeze(-1)
                attention["text_from_audio"] = from_audio * text_mask.unsqueeze(-1)
        pooled_audio, pooled_text = masked_statistics(audio, audio_mask), masked_statistics(text, text_mask)  # (B, 2d)
        if self.skip:
            pooled_audio = torch.cat([pooled_audio, masked_functionals(batch.audio, audio_mask)], dim=-1)  # (B, 2d + 3Da)
            pooled_text = torch.cat([pooled_text, masked_mean(batch.text, text_mask)], dim=-1)  # (B, 2d + Dt)
        pooled_audio = self.audio_pool_norm(pooled_audio, batch.present[:, AUDIO])
        pooled_text = self.text_pool_norm(pooled_text, batch.present[:, TEXT])
        fused = self.fuse(torch.cat([pooled_audio, pooled_text], dim=-1))  # (B, fused)
        return Output(self.classifier(fused), fused, attention if maps else None)
