"""Early fusion of layer-wise features (Dehghani Tafti & BabaAli 2024): wav2vec 2.0 and BERT, every layer weighed, concatenated.

The paper states its encoders, that features of all layers are aggregated, and that early fusion beats late fusion and
cross-modal attention. The rest is not open; here it follows the usual form of the idea (Pepino et al. 2021):

* The aggregation is a weighted sum with one learnt softmax over the layers of each encoder, equal at the start. The encoders are
  frozen: the feature carries their states side by side (``hidden_states(..., layers=(0, 1, ...), combine='concat')``), and
  ``audio_layers`` and ``text_layers`` say how many there are. With one layer, as for MFCC, there is nothing to weigh.
* The published track pools by the mean, the plainest reading. The default is ``pooling="functionals"``, what `early_concat`
  knows of the audio, since a mean says little of spectral frames.
* The pooled vectors are standardised over the corpus, as in `early_concat`: the scales of the two encoders differ.
* The classifier is one hidden layer of 256 with ReLU.
"""

from typing import Literal

import torch
from torch import Tensor, nn

from datamodules.batch import AUDIO, TEXT, Batch
from zoo.base import FusionModule, Output, Published, Training, Variant
from zoo.nn import MaskedNorm, masked_functionals, masked_mean, masked_softmax, masked_statistics

Aggregation = Literal["weighted", "mean", "last", "concat"]
Pooling = Literal["mean", "statistics", "max", "attentive", "functionals"]

_ALL = "layers=(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12), combine='concat'"


class EarlyLayerwise(FusionModule):
    """A weighted sum over layers, pooling, concatenation, one hidden layer.

    Equations::

        x_t = sum_l softmax(gamma)_l x_{l,t}          the layers of an encoder, one gamma per modality
        z_m = BN(pool(x))                              m = audio, text
        logits = W_2 relu(W_1 [z_a; z_t] + b_1) + b_2
    """

    family = "early"
    paper = "Dehghani Tafti & BabaAli, 2024, on early fusion of wav2vec 2.0 and BERT with layer-wise aggregation (IEMOCAP)"
    published = Published(
        f"hidden_states(checkpoint='facebook/wav2vec2-base', {_ALL})",
        f"hidden_states(checkpoint='bert-base-uncased', {_ALL})",
        # Not published.
        Training(40, 8, 32, 1e-4, 1e-2, "none", 1.0),
        {"audio_layers": 13, "text_layers": 13, "pooling": "mean"},
    )
    # Strategies compared with the same encoders; IEMOCAP, four classes. Only the best one's figures are known.
    ablations = {  # noqa: RUF012 - read-only, declared by the base
        "Late fusion": Variant("late_average", {}),
        "Cross-modal attention": Variant("cross_attention", {}),
        "Early fusion": Variant("early_layerwise", {}, {"WAR": 77.75, "UAR": 78.42}),
    }

    def __init__(
        self,
        audio_dim: int,
        text_dim: int,
        num_classes: int,
        audio_layers: int = 1,
        text_layers: int = 1,
        aggregation: Aggregation = "weighted",
        pooling: Pooling = "functionals",
        hidden: int = 256,
        dropout: float = 0.3,
    ) -> None:
        """Build the weights of the layers and the classifier.

        Args:
            audio_dim: Width Da of the frames, all layers together.
            text_dim: Width Dt of the token vectors, all layers together.
            num_classes: Number of classes C.
            audio_layers: Layers that lie side by side in Da.
            text_layers: Layers that lie side by side in Dt.
            aggregation: ``weighted`` learns a weight per layer; ``mean`` and ``last`` are the fixed ones to compare with;
                ``concat`` keeps all layers.
            pooling: Over frames and tokens: ``mean``, ``statistics`` (mean and deviation), ``max``, ``attentive`` (a learnt
                score per position), or ``functionals`` of the frames (mean, deviation, deviation of the steps) and the mean of
                the tokens.
            hidden: Width of the hidden layer.
            dropout: After the hidden layer.

        Raises:
            ValueError: If an option has no such value, or the layers don't divide the width.
        """
        super().__init__(num_classes)
        if aggregation not in {"weighted", "mean", "last", "concat"}:
            raise ValueError(f"early_layerwise: aggregation is {aggregation!r}; it must be 'weighted', 'mean', 'last' or 'concat'")
        if pooling not in {"mean", "statistics", "max", "attentive", "functionals"}:
            raise ValueError(
                f"early_layerwise: pooling is {pooling!r}; it must be 'mean', 'statistics', 'max', 'attentive' or 'functionals'"
            )
        for name, layers, width in (("audio_layers", audio_layers, audio_dim), ("text_layers", text_layers, text_dim)):
            if layers < 1 or width % layers:
                raise ValueError(f"early_layerwise: {name} is {layers}; it must divide the feature's width, {width}")
        self.save_hyperparameters()
        self.audio_layers = _Layers(audio_dim, audio_layers, aggregation)
        self.text_layers = _Layers(text_dim, text_layers, aggregation)
        self.audio_pool = _Pool(self.audio_layers.dim, pooling)
        self.text_pool = _Pool(self.text_layers.dim, "mean" if pooling == "functionals" else pooling)
        self.audio_norm, self.text_norm = MaskedNorm(self.audio_pool.dim), MaskedNorm(self.text_pool.dim)
        self.fuse = nn.Sequential(nn.Linear(self.audio_pool.dim + self.text_pool.dim, hidden), nn.ReLU(), nn.Dropout(dropout))
        self.classifier = nn.Linear(hidden, num_classes)

    def forward(self, batch: Batch, maps: bool = False) -> Output:
        """Classify a batch.

        Maps: ``audio_layers`` (B, audio_layers) and ``text_layers`` (B, text_layers), the weights of the layers, the same for
        every utterance and zero where the modality is absent (not with ``concat``); with attentive pooling also
        ``audio_positions`` (B, T) and ``text_positions`` (B, L).
        """
        vectors, attention = [], {}
        for name, x, mask, column in (
            ("audio", batch.audio, batch.audio_mask, AUDIO),
            ("text", batch.text, batch.text_mask, TEXT),
        ):
            present = batch.present[:, column]
            layers: _Layers = getattr(self, f"{name}_layers")
            pooled, positions = getattr(self, f"{name}_pool")(layers(x), mask)  # (B, P), (B, T)
            vectors.append(getattr(self, f"{name}_norm")(pooled, present))
            weights = layers.weights()
            if weights is not None:
                attention[f"{name}_layers"] = weights * present.unsqueeze(-1)
            if positions is not None:
                attention[f"{name}_positions"] = positions
        fused = self.fuse(torch.cat(vectors, dim=-1))  # (B, hidden)
        return Output(self.classifier(fused), fused, attention if maps else None)


class _Layers(nn.Module):
    """One sequence out of several layers that lie side by side: ``sum_l softmax(gamma)_l x_l``, gamma zero at the start."""

    fixed: Tensor

    def __init__(self, width: int, layers: int, aggregation: Aggregation) -> None:
        super().__init__()
        self.count, self.concat = layers, aggregation == "concat"
        self.dim = width if self.concat else width // layers
        # A softmax over one layer has no gradient.
        self.gamma = nn.Parameter(torch.zeros(layers)) if aggregation == "weighted" and layers > 1 else None
        fixed = torch.full((layers,), 1 / layers)
        if aggregation == "last":
            fixed = torch.eye(layers)[-1]
        self.register_buffer("fixed", fixed, persistent=False)

    def weights(self) -> Tensor | None:
        """(layers,), summing to one; None where the layers stay side by side."""
        if self.concat:
            return None
        return self.fixed if self.gamma is None else self.gamma.softmax(-1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, layers * D) -> (B, T, D); unchanged where the layers stay side by side."""
        weights = self.weights()
        return x if weights is None else weights @ x.reshape(*x.shape[:-1], self.count, -1)


class _Pool(nn.Module):
    """One vector of a sequence."""

    def __init__(self, dim: int, pooling: Pooling) -> None:
        super().__init__()
        self.pooling = pooling
        self.dim = dim * {"statistics": 2, "functionals": 3}.get(pooling, 1)
        # A bias would move all scores alike, which the softmax doesn't see.
        self.score = nn.Linear(dim, 1, bias=False) if pooling == "attentive" else None

    def forward(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor | None]:
        """(B, T, D), (B, T) -> (B, dim), zero where nothing is real, and the weights (B, T) of attentive pooling."""
        if self.score is not None:
            weights = masked_softmax(self.score(x).squeeze(-1), mask)  # (B, T)
            return (weights.unsqueeze(-2) @ x).squeeze(-2), weights
        if self.pooling == "max":
            largest = x.masked_fill(~mask.unsqueeze(-1), torch.finfo(x.dtype).min).amax(-2)
            return largest * mask.any(-1, keepdim=True), None
        pool = {"statistics": masked_statistics, "functionals": masked_functionals}.get(self.pooling, masked_mean)
        return pool(x, mask), None
