"""MER-HAN: hybrid attention over audio and text (Zhang et al., Biomed. Signal Process. Control 85, 2023, 105052).

Three blocks: ATE encodes each modality with local intra-modal attention, CMA lets each attend to the other, MEC attends
globally over both and classifies. The paper's text is not open; the architecture follows its figure, the ablation table and
Demirci's comparative study. What differs, and why:

* The figure adds the two streams before the global attention although their lengths differ, and says nothing of how. Default
  ``mec_align="union"``: one global attention over all positions of both streams, which needs no alignment and, being a
  weighted sum, still adds them. ``"modality"`` pools each stream and attends over the two; ``"position"`` pads them to one
  length and adds (the figure's word) or concatenates (the study's) frame t and token t, by ``mec_combine``.
* Heads, widths, dropout and the residual of the local attention are not published: four heads and 256 follow the public
  re-implementation; ``local_residual=False`` is the figure to the letter.
* ``gate_with_mean=True`` multiplies the attended vector by the mean, as the re-implementation does.
* Masks are on everywhere; the re-implementation attends to padding.
"""

from typing import Literal

import torch
from torch import Tensor, nn

from datamodules.batch import Batch
from zoo.base import FusionModule, Output, Published, Training, Variant
from zoo.nn import BiLSTM, CrossAttention, LocalAttention, masked_mean, masked_softmax


class MERHAN(FusionModule):
    """Local, cross-modal and global attention.

    Equations::

        H_a = LN(X + MHSA(X)), X = BiLSTM(audio);  H_t = LN(Y + MHSA(Y)), Y = text            ATE
        A = Conv1D(H_a),  T = Conv1D(H_t)
        Z_a = LN(A + MHA(Q=A, K=T, V=T)),  Z_t = LN(T + MHA(Q=T, K=A, V=A))                   CMA
        F = [Z_a; Z_t] over positions,  alpha = softmax_p(u^T F_p),  v = sum_p alpha_p F_p    MEC
        logits = W v + b
    """

    family = "model-level"
    paper = "Zhang et al., Biomed. Signal Process. Control 85, 2023, 105052"
    published = Published(
        "mfcc(n=40)", "hidden_states(checkpoint='bert-base-uncased')", Training(64, 6, 32, 1e-4, 0.0, "none", 0.0)
    )
    # Table 4: IEMOCAP, four classes; sessions 1-4 for training, 5 for test.
    ablations = {  # noqa: RUF012 - read-only, declared by the base
        "Audio, no local attention": Variant("audio_only", {"local_attention": False}, {"WAR": 50.60, "UAR": 52.18, "F1": 51.05}),
        "Audio + local attention": Variant("audio_only", {"local_attention": True}, {"WAR": 55.52, "UAR": 56.98, "F1": 56.06}),
        "Text, no local attention": Variant("text_only", {"local_attention": False}, {"WAR": 67.43, "UAR": 67.72, "F1": 66.61}),
        "Text + local attention": Variant("text_only", {"local_attention": True}, {"WAR": 68.57, "UAR": 69.54, "F1": 68.96}),
        "MER-HAN w/o CMA": Variant("mer_han", {"cross_attention": False}, {"WAR": 70.34, "UAR": 71.87, "F1": 70.56}),
        "MER-HAN w/o global attention": Variant("mer_han", {"global_attention": False}, {"WAR": 71.21, "UAR": 71.43, "F1": 71.31}),
        "MER-HAN": Variant("mer_han", {}, {"WAR": 73.33, "UAR": 74.20, "F1": 73.66}),
    }

    def __init__(
        self,
        audio_dim: int,
        text_dim: int,
        num_classes: int,
        hidden: int = 256,
        layers: int = 2,
        d: int = 256,
        heads: int = 4,
        conv_kernel: int = 1,
        dropout: float = 0.3,
        local_residual: bool = True,
        cross_attention: bool = True,
        global_attention: bool = True,
        mec_align: Literal["union", "modality", "position"] = "union",
        mec_combine: Literal["add", "concat"] = "add",
        mec_score: Literal["dot", "additive"] = "dot",
        gate_with_mean: bool = False,
    ) -> None:
        """Build the three blocks.

        Args:
            audio_dim: Width Da of the frames (the paper: 40 MFCC).
            text_dim: Width Dt of the token vectors (the paper: BERT, 768).
            num_classes: Number of classes C.
            hidden: LSTM units per direction.
            layers: LSTM layers.
            d: Common width of both streams after the 1-D convolution.
            heads: Heads of every attention.
            conv_kernel: Width of the 1-D convolution, odd.
            dropout: On the input of every LSTM layer, after every attention and before the classifier.
            local_residual: Residual and layer norm around the local attention.
            cross_attention: The CMA block; without it both streams go straight to MEC.
            global_attention: The global attention of MEC; without it the mean over positions.
            mec_align: How MEC brings the streams together; see the module's text.
            mec_combine: With ``mec_align="position"``: add or concatenate.
            mec_score: ``dot`` is U^T F_t, ``additive`` is U^T tanh(W F_t + b).
            gate_with_mean: Multiply the attended vector by the mean over positions.

        Raises:
            ValueError: For a combination that has no meaning.
        """
        super().__init__(num_classes)
        if conv_kernel % 2 == 0:
            raise ValueError(f"mer_han: conv_kernel is {conv_kernel}; it must be odd, so that the length stays")
        if mec_align not in {"union", "modality", "position"}:
            raise ValueError(f"mer_han: mec_align is {mec_align!r}; it must be 'union', 'modality' or 'position'")
        if mec_score not in {"dot", "additive"}:
            raise ValueError(f"mer_han: mec_score is {mec_score!r}; it must be 'dot' or 'additive'")
        if mec_combine not in {"add", "concat"} or (mec_combine == "concat" and mec_align != "position"):
            raise ValueError(f"mer_han: mec_combine is {mec_combine!r}; it must be 'add', or 'concat' with mec_align='position'")
        if gate_with_mean and not global_attention:
            raise ValueError("mer_han: gate_with_mean multiplies the global attention's vector; it needs global_attention=True")
        self.save_hyperparameters()
        # ATE
        self.audio_encoder = BiLSTM(audio_dim, hidden, layers, dropout)
        self.audio_local = LocalAttention(self.audio_encoder.dim, heads, dropout, local_residual)
        self.text_local = LocalAttention(text_dim, heads, dropout, local_residual)
        # CMA
        self.audio_conv = nn.Conv1d(self.audio_encoder.dim, d, conv_kernel, padding="same")
        self.text_conv = nn.Conv1d(text_dim, d, conv_kernel, padding="same")
        self.audio_from_text = CrossAttention(d, heads, dropout) if cross_attention else None
        self.text_from_audio = CrossAttention(d, heads, dropout) if cross_attention else None
        # MEC
        self.mec_align, self.mec_combine, self.gate_with_mean = mec_align, mec_combine, gate_with_mean
        width = 2 * d if mec_combine == "concat" else d
        score = [nn.Linear(width, width), nn.Tanh()] if mec_score == "additive" else []
        self.score = nn.Sequential(*score, nn.Linear(width, 1, bias=False)) if global_attention else None
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(width, num_classes)

    def forward(self, batch: Batch, maps: bool = False) -> Output:
        """Classify a batch.

        Maps: ``local_audio`` (B, T, T), ``local_text`` (B, L, L), ``audio_from_text`` (B, T, L) with audio queries,
        ``text_from_audio`` (B, L, T), and ``global`` over the positions of MEC: (B, T + L) frames then tokens, (B, 2) or
        (B, max(T, L)) by ``mec_align``.
        """
        masks = batch.audio_mask, batch.text_mask
        audio, local_audio = self.audio_local(self.audio_encoder(batch.audio, masks[0]), masks[0], maps)  # (B, T, 2 hidden)
        text, local_text = self.text_local(batch.text, masks[1], maps)  # (B, L, Dt)
        audio, text = _convolve(self.audio_conv, audio, masks[0]), _convolve(self.text_conv, text, masks[1])  # (B, T | L, d)
        attention = {"local_audio": local_audio, "local_text": local_text}
        if self.audio_from_text is not None and self.text_from_audio is not None:
            (audio, attention["audio_from_text"]), (text, attention["text_from_audio"]) = (
                self.audio_from_text(audio, text, masks[1], maps),
                self.text_from_audio(text, audio, masks[0], maps),
            )
        combined, mask = self._combine(audio, text, *masks)  # (B, P, width), (B, P)
        fused = mean = masked_mean(combined, mask)  # (B, width)
        if self.score is not None:
            weights = masked_softmax(self.score(combined).squeeze(-1), mask)  # (B, P)
            fused = (weights.unsqueeze(-2) @ combined).squeeze(-2)
            attention["global"] = weights
        if self.gate_with_mean:
            fused = fused * mean
        return Output(
            self.classifier(self.dropout(fused)), fused, {k: v for k, v in attention.items() if v is not None} if maps else None
        )

    def _combine(self, audio: Tensor, text: Tensor, audio_mask: Tensor, text_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Bring both streams to one sequence of positions P and its mask."""
        if self.mec_align == "union":
            return torch.cat([audio, text], dim=1), torch.cat([audio_mask, text_mask], dim=1)
        if self.mec_align == "modality":
            pooled = torch.stack([masked_mean(audio, audio_mask), masked_mean(text, text_mask)], dim=1)
            return pooled, torch.stack([audio_mask.any(1), text_mask.any(1)], dim=1)
        positions = max(audio.shape[1], text.shape[1])
        padded = [
            nn.functional.pad(x * mask.unsqueeze(-1), (0, 0, 0, positions - x.shape[1]))
            for x, mask in ((audio, audio_mask), (text, text_mask))
        ]
        masks = [nn.functional.pad(mask, (0, positions - mask.shape[1])) for mask in (audio_mask, text_mask)]
        combined = torch.cat(padded, dim=-1) if self.mec_combine == "concat" else padded[0] + padded[1]
        return combined, masks[0] | masks[1]


def _convolve(conv: nn.Conv1d, x: Tensor, mask: Tensor) -> Tensor:
    """1-D convolution over time that sees zeros where padded: (B, T, Di) -> (B, T, d)."""
    convolved: Tensor = conv((x * mask.unsqueeze(-1)).transpose(1, 2))
    return convolved.transpose(1, 2)
