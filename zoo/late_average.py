"""Decision-level fusion: one classifier per modality, whose posteriors are averaged, weighted or multiplied.

The late-fusion baseline that Dehghani Tafti and BabaAli (2024) compare their early fusion with; their classifiers and rule are
not published. Here each modality is pooled as in `early_concat` (functionals of frames, mean of tokens, standardised over the
corpus) and classified by a network of its own. What is decided here, and why:

* Each classifier has its own cross-entropy and the combination passes no gradient back, so nothing is fused before the decision.
* ``rule="weighted"`` learns the two weights: the fused cross-entropy is added to the loss, over posteriors cut off from their
  classifiers. Weights learnt on the training split favour the modality that overfits it, hence the plain mean is the default.
* ``audio_share`` is what audio counts in the combination. With it the product is a logarithmic opinion pool (Genest and Zidek,
  Statistical Science 1, 1986, section 2): a modality whose classifier knows its training clips by heart is surer than it should
  be, and counts for less with a smaller share.
* An absent modality is left out of the combination; with nothing there the posterior is uniform.
* In a multi-label task every class is a question of its own: its two Bernoulli posteriors are combined by the same rules.
"""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from datamodules.batch import AUDIO, IGNORED, TEXT, Batch
from zoo.base import FusionModule, Output, Variant
from zoo.nn import MaskedNorm, make_encoder, masked_functionals, masked_mean, masked_softmax
from zoo.nn.encoders import EncoderName


class LateAverage(FusionModule):
    """Combine the posteriors of an audio classifier and a text classifier.

    Equations::

        p_m = softmax(network_m(z_m))                  z as in early_concat, m = audio, text; multi-label: sigmoid
        mean      p = w p_a + (1 - w) p_t              w = audio_share, 1/2
        weighted  p = softmax(v)_a p_a + softmax(v)_t p_t
        product   p ~ p_a^(2 w) p_t^(2 - 2 w)
        loss = CE(p_a) + CE(p_t)                       + CE(p) with gradient to v alone
    """

    family = "late"
    paper = "no single source; the late-fusion baseline of Dehghani Tafti and BabaAli, 2024 (wav2vec 2.0 and BERT, IEMOCAP)"
    ablations = {  # noqa: RUF012 - read-only, declared by the base
        "Late fusion, mean": Variant("late_average", {"rule": "mean"}),
        "Late fusion, weighted": Variant("late_average", {"rule": "weighted"}),
        "Late fusion, product": Variant("late_average", {"rule": "product"}),
    }

    def __init__(
        self,
        audio_dim: int,
        text_dim: int,
        num_classes: int,
        rule: Literal["mean", "weighted", "product"] = "mean",
        audio_share: float = 0.5,
        encoder: EncoderName = "identity",
        hidden: int = 256,
        layers: int = 2,
        d: int = 256,
        dropout: float = 0.5,
    ) -> None:
        """Build both classifiers.

        Args:
            audio_dim: Width Da of the frames, or of utterance vectors (T = 1).
            text_dim: Width Dt of the token vectors, or of utterance vectors (L = 1).
            num_classes: Number of classes C.
            rule: ``mean`` of the posteriors, ``weighted`` mean with learnt weights, or their normalised ``product``.
            audio_share: Weight of audio in the combination, between 0 and 1; at 0.5 both modalities count the same. Where the
                weights are learnt, they start there.
            encoder: Of the frames, before their functionals: ``identity``, ``bilstm`` or ``cnn``.
            hidden: Half its width.
            layers: Its layers.
            d: Width of each classifier's hidden layer; 0 for linear classifiers.
            dropout: Before every linear layer, and on the input of every encoder layer.

        Raises:
            ValueError: If ``rule`` is none of the three, or ``audio_share`` isn't between 0 and 1.
        """
        if rule not in {"mean", "weighted", "product"}:
            raise ValueError(f"late_average: rule is {rule!r}; it must be 'mean', 'weighted' or 'product'")
        if not 0 < audio_share < 1:
            raise ValueError(f"late_average: audio_share is {audio_share:g}; it must be between 0 and 1")
        super().__init__(num_classes)
        self.save_hyperparameters()
        self.rule = rule
        self.encoder = make_encoder(encoder, audio_dim, hidden, layers, dropout)
        self.audio_norm, self.text_norm = MaskedNorm(3 * self.encoder.dim), MaskedNorm(text_dim)
        self.audio_classifier = _classifier(3 * self.encoder.dim, d, num_classes, dropout)
        self.text_classifier = _classifier(text_dim, d, num_classes, dropout)
        self.prior = (math.log(audio_share), math.log(1 - audio_share))
        self.score = nn.Parameter(torch.tensor(self.prior)) if rule == "weighted" else None

    def forward(self, batch: Batch, maps: bool = False) -> Output:
        """Classify each modality and combine.

        ``logits`` are the log of the combined posterior; ``fused`` is what is combined, the log-posteriors of audio, then text
        (B, 2C). In a multi-label task both are log-odds. Map ``modality`` (B, 2): the weights of audio and text.
        """
        frames = self.encoder(batch.audio, batch.audio_mask)  # (B, T, D)
        audio = self.audio_norm(masked_functionals(frames, batch.audio_mask), batch.present[:, AUDIO])  # (B, 3D)
        text = self.text_norm(masked_mean(batch.text, batch.text_mask), batch.present[:, TEXT])  # (B, Dt)
        logits = torch.stack([self.audio_classifier(audio), self.text_classifier(text)], dim=1)  # (B, 2, C)
        # At least float32: half precision loses the small probabilities.
        single = logits.to(torch.promote_types(logits.dtype, torch.float32))
        if self.task == "multilabel":
            answers = torch.stack([F.logsigmoid(single), F.logsigmoid(-single)], dim=-1)  # (B, 2, C, 2): yes and no
            both, weights = self._combine(answers.detach(), batch.present)
            combined = both[..., 0] - both[..., 1]
        else:
            single = single.log_softmax(-1)
            combined, weights = self._combine(single.detach(), batch.present)
        return Output(combined, single.flatten(1), {"modality": weights} if maps else None)

    def _combine(self, single: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
        """Log-posteriors (B, 2, …) over the last axis and presence (B, 2) -> the combined ones (B, …) and the weights (B, 2)."""
        score = single.new_tensor(self.prior) if self.score is None else self.score.to(single.dtype)
        weights = masked_softmax(score.expand(len(single), 2), present)  # (B, 2)
        ones = (1,) * (single.ndim - 2)
        if self.rule == "product":
            # Exponents that add up to the number of factors: one modality alone keeps its posterior as it is.
            exponents = weights * present.sum(1, keepdim=True)
            return (single * exponents.view(-1, 2, *ones)).sum(1).log_softmax(-1), weights
        posterior = (weights.view(-1, 2, *ones) * single.exp()).sum(1)  # (B, …)
        posterior = torch.where(present.any(1).view(-1, *ones), posterior, 1 / single.shape[-1])
        return posterior.clamp(min=1e-12).log(), weights

    def loss(self, output: Output, batch: Batch) -> Tensor:
        """One cross-entropy per modality over the utterances that have it; with learnt weights the fused one too."""
        assert output.fused is not None
        audio, text = output.fused.chunk(2, dim=-1)
        parts = [(audio, batch.present[:, AUDIO]), (text, batch.present[:, TEXT])]
        if self.score is not None:
            parts.append((output.logits, batch.present.any(1)))
        total = output.fused.sum() * 0  # of a batch without anything
        for logits, there in parts:
            label = batch.label.masked_fill(~there.view(-1, *(1,) * (batch.label.ndim - 1)), IGNORED)
            if (label != IGNORED).any():
                total = total + super().loss(Output(logits), batch._replace(label=label))
        return total


def _classifier(width: int, d: int, num_classes: int, dropout: float) -> nn.Sequential:
    """Dropout and a linear layer, after one hidden layer if ``d`` is not 0."""
    hidden = [nn.Dropout(dropout), nn.Linear(width, d), nn.ReLU()] if d else []
    last = nn.Linear(d or width, num_classes)
    if not d:
        # A linear classifier is a convex problem. Whatever random start lies across the training vectors would stay as noise.
        nn.init.zeros_(last.weight)
    return nn.Sequential(*hidden, nn.Dropout(dropout), last)
