"""Two-layer Dynamic Bayesian Mixture Model (Faria, Weinberg and Ayrosa, Appl. Sci. 14(15), 2024, 6631).

Layer 1 mixes the posteriors of several base classifiers within each modality, weighted by their entropy, and multiplies the
mixtures of successive time slices; layer 2 mixes both modalities. The paper's text gives no layouts; the equations follow the
DBMM's own papers and its public code. What differs or is decided here, and why:

* Clips are no stream, so time runs over equal segments of one clip and starts anew with each. A prior carried from one test
  clip to the next would hand over the order of the test list. The clip's posterior is that of its last segment and the
  ``slices`` before it; text is one slice, and so is layer 2, where the recursion over one slice is the mixture itself.
* `mixture` weighs the slice k by w^k and gives ``P(c) ~ prod_k (M_k(c) + s) / (1 + C s)``, ``M_k = sum_i w_i^k P_i``, with a
  uniform prior. The window is finite, so the product needs no other guard against locking onto a class.
* Static weights are ``(1 - H_i / sum H) / (N - 1)``, H_i the mean entropy over the training split, measured in evaluation mode
  while each epoch runs: the validation split selects the epoch and stays unseen.
* The dynamic update multiplies the weights by ``1 - H_i / sum H`` of the window, this slice included, and clamps. The public code
  multiplies by the share H_i / sum H itself, of the dominant class alone, which favours the unsure: ``entropy_invert=False``.
* Both layers tell the same classes apart. The paper's second-level states need a sentiment label, which corpora don't have.
* The scikit-learn classifiers are fitted once, at the end of the first epoch, and take no part before. With fewer than two
  classes in a modality's training rows they never do.
* The paper builds a classifier on each of its text features, TF-IDF, BERT and GPT-2. In the published track they stand side by
  side, and every text classifier reads them all.
"""

import math
from typing import Any, Literal, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from datamodules.batch import AUDIO, IGNORED, TEXT, Batch
from zoo.base import FusionModule, Output, Published, Training, Variant
from zoo.nn.classical import CLASSICAL
from zoo.nn.ensemble import NEURAL, BaseClassifiers, Posteriors, cut, edges


class DBMM(FusionModule):
    """Mix base classifiers within each modality, then the modalities.

    Equations::

        M_k(c) = sum_i w_i^k P_i(c | segment k)                       base classifiers i, classes c
        w_i ~ 1 - H_i / sum_j H_j                                     H_i: mean entropy over the training split
        w_i^k ~ w_i^{k-1} (1 - H_i^k / sum_j H_j^k), clamped          dynamic update; H^k: over the window
        P_m(c) ~ prod_{k = S-T..S} (M_k(c) + s) / (1 + C s)           layer 1: within modality m
        P(c) = w_a P_a(c) + w_t P_t(c), smoothed                      layer 2: across
    """

    weight: Tensor  # of the modalities, (2,)

    family = "late"
    tasks = ("multiclass",)  # both layers tell exclusive classes apart
    paper = "Faria, Weinberg and Ayrosa, Applied Sciences 14(15), 2024, 6631"
    # Its acoustic features are MFCC and chroma among others; sizes and training are not published.
    published = Published(
        "mfcc(n=40)",
        "hidden_states(checkpoint='bert-base-uncased', pool='mean') + hidden_states(checkpoint='gpt2', pool='mean') "
        "+ tfidf(max_features=1000)",
        Training(),
    )
    ablations = {  # noqa: RUF012 - read-only, declared by the base
        **{
            f"SER, {label}": Variant("late_dbmm", {"audio_classifiers": name, "text_classifiers": "", "segments": 1})
            for label, name in (("GNB", "gnb"), ("SVM", "svm"), ("RF", "forest"), ("MLP", "mlp"), ("1D-CNN", "cnn"))
        },
        "SER, DBMM of equal weights": Variant(
            "late_dbmm", {"text_classifiers": "", "weights": "equal", "dynamic_update": False, "segments": 1}
        ),
        "SER, DBMM": Variant("late_dbmm", {"text_classifiers": "", "dynamic_update": False, "segments": 1}),
        **{
            f"SER, extended DBMM, {slices} time slice{'s' * (slices > 1)}": Variant(
                "late_dbmm", {"text_classifiers": "", "slices": slices, "segments": slices + 1}
            )
            for slices in (1, 2, 3)
        },
        "SA, logistic regression": Variant("late_dbmm", {"audio_classifiers": "", "text_classifiers": "logistic"}),
        "SA, extended DBMM": Variant("late_dbmm", {"audio_classifiers": ""}, {"emoUERJ WAR": 85.0, "ESD WAR": 95.0}),
        "2L-DBMM, equal weights": Variant("late_dbmm", {"weights": "equal", "dynamic_update": False}),
        "2L-DBMM, entropy weights": Variant("late_dbmm", {"dynamic_update": False}),
        "2L-DBMM, product of modalities": Variant("late_dbmm", {"layer2": "product"}),
        "2L-DBMM": Variant("late_dbmm", {}, {"emoUERJ WAR": 96.0, "ESD WAR": 98.0}),
    }

    def __init__(
        self,
        audio_dim: int,
        text_dim: int,
        num_classes: int,
        audio_classifiers: str = "gnb,svm,forest,mlp,cnn",
        text_classifiers: str = "mlp,logistic,svm",
        hidden: int = 128,
        layers: int = 2,
        dropout: float = 0.5,
        trees: int = 100,
        seed: int = 0,
        segments: int = 3,
        slices: int = 2,
        smoothing: float = 0.01,
        weights: Literal["entropy", "equal"] = "entropy",
        dynamic_update: bool = True,
        entropy_invert: bool = True,
        layer2: Literal["mixture", "product"] = "mixture",
    ) -> None:
        """Build the base classifiers.

        Args:
            audio_dim: Width Da of the frames.
            text_dim: Width Dt of the token vectors.
            num_classes: Number of classes C.
            audio_classifiers: Names with commas between: ``cnn`` and ``mlp``, trained by gradient; ``svm``, ``gnb``, ``forest``
                and ``logistic`` from scikit-learn. Empty leaves the modality out.
            text_classifiers: The same for text.
            hidden: Width of the MLP, and channels of the CNN.
            layers: Of the CNN.
            dropout: On the input of the CNN's layers, before and after the MLP's hidden layer.
            trees: Of the forest.
            seed: Of the forest and of the SVM's held-out folds.
            segments: Equal parts of a clip; base classifiers are trained on them and classify them.
            slices: How many segments before the last take part in a clip's posterior; ``segments - 1`` or more for all.
            smoothing: Added to every class of a mixture before the product.
            weights: Static weights of both layers, from the ``entropy`` over the training split or ``equal``.
            dynamic_update: Update the weights on the clip that is being classified.
            entropy_invert: The update favours the sure (the intent); False is the public code's.
            layer2: ``mixture`` with weights, or the plain ``product`` of both modalities' posteriors.

        Raises:
            ValueError: For options without a meaning.
        """
        if segments < 1 or slices < 0 or smoothing <= 0:
            raise ValueError(
                f"late_dbmm: segments is {segments}, slices {slices} and smoothing {smoothing}; "
                "they must be at least 1, at least 0, and above 0, since a class may get the posterior 0"
            )
        if weights not in {"entropy", "equal"}:
            raise ValueError(f"late_dbmm: weights is {weights!r}; it must be 'entropy' or 'equal'")
        if layer2 not in {"mixture", "product"}:
            raise ValueError(f"late_dbmm: layer2 is {layer2!r}; it must be 'mixture' or 'product'")
        names = [_names("audio_classifiers", audio_classifiers), _names("text_classifiers", text_classifiers)]
        if not any(names):
            raise ValueError("late_dbmm: audio_classifiers and text_classifiers are both ''; one of them must name a classifier")
        super().__init__(num_classes)
        self.save_hyperparameters()
        self.segments, self.slices, self.smoothing = segments, slices, smoothing
        self.static, self.layer2, self.trees, self.seed = weights, layer2, trees, seed
        self.update: Update = "none" if not dynamic_update else "inverted" if entropy_invert else "replica"
        self.audio = BaseClassifiers(names[AUDIO], audio_dim, True, num_classes, hidden, layers, dropout)
        self.text = BaseClassifiers(names[TEXT], text_dim, False, num_classes, hidden, layers, dropout)
        self.register_buffer("weight", torch.full((2,), 0.5))
        self._seen: list[list[_Seen]] = []

    def forward(self, batch: Batch, maps: bool = False) -> Output:
        """Classify a batch.

        ``logits`` are the log of the last posterior; ``fused`` are the base classifiers' log-posteriors, audio's (S, N, C) and
        then text's (1, N, C) side by side. Maps, the weights that were used: ``audio`` (B, S, N) and ``text`` (B, 1, N) over
        base classifiers, and ``modality`` (B, 2) unless layer 2 is the product.
        """
        bases = [part(*values) for part, values in zip((self.audio, self.text), self._inputs(batch), strict=True)]
        (audio, audio_weights), (text, text_weights) = self._layer1(bases)
        both = torch.stack([audio, text], dim=1)  # (B, 2, C)
        posterior, weights = self._layer2(both, batch.present & self._trained())
        attention = {"audio": audio_weights, "text": text_weights} | ({} if weights is None else {"modality": weights})
        fused = torch.cat([base.logs.flatten(1) for base in bases], dim=1)
        attention = {name: used for name, used in attention.items() if used.shape[-1]}
        return Output(posterior.clamp(min=1e-12).log(), fused, attention if maps else None)

    def _trained(self) -> Tensor:
        """Which modalities have a classifier that has been trained at all: (2,)."""
        return torch.stack([part.active.any() for part in (self.audio, self.text)])

    def _inputs(self, batch: Batch) -> list[tuple[Tensor, Tensor]]:
        """What the base classifiers of each modality read, (B, S, T', D) and its mask; text is one segment."""
        return [cut(batch.audio, batch.audio_mask, self.segments), cut(batch.text, batch.text_mask, 1)]

    def _layer1(self, bases: list[Posteriors]) -> list[tuple[Tensor, Tensor]]:
        """Posterior (B, C) and weights (B, S, N) of each modality."""
        options = self.slices, self.smoothing, self.update
        return [
            mixture(base.logs.detach().exp(), base.real, part.active, part.weight, *options)
            for part, base in zip((self.audio, self.text), bases, strict=True)
        ]

    def _layer2(self, both: Tensor, present: Tensor) -> tuple[Tensor, Tensor | None]:
        """Posteriors (B, 2, C) of the modalities that are present (B, 2) -> (B, C) and the weights (B, 2)."""
        if self.layer2 == "product":
            logs = (both.clamp(min=1e-12).log() * present.unsqueeze(-1)).sum(1)
            return logs.softmax(-1), None
        some = present.any(1, keepdim=True)  # (B, 1)
        posterior, weights = mixture(both.unsqueeze(1), some, present, self.weight, 0, self.smoothing, self.update)
        return posterior, weights.squeeze(1)

    def loss(self, output: Output, batch: Batch) -> Tensor:
        """The sum of the cross-entropies of the classifiers trained by gradient, each over the labelled segments it has."""
        assert output.fused is not None
        total, at = output.fused.sum() * 0, 0
        weight = cast("Tensor | None", self.class_weight)
        masks = (batch.audio_mask, self.segments), (batch.text_mask, 1)
        for part, (mask, segments) in zip((self.audio, self.text), masks, strict=True):
            shape = (segments, len(part.names), self.num_classes)
            logs, at = output.fused[:, at : at + math.prod(shape)].reshape(len(mask), *shape), at + math.prod(shape)  # (B, S, N, C)
            kept = (edges(mask, segments).diff(dim=1) > 0) & (batch.label != IGNORED).unsqueeze(1)  # (B, S)
            label = batch.label.unsqueeze(1).masked_fill(~kept, IGNORED)
            share = (kept if weight is None else kept * weight[label.clamp(min=0)]).sum().clamp(min=1e-8)
            for number in range(len(part.neural)):
                own = logs[:, :, number].flatten(0, 1)  # (B S, C)
                total = total + F.nll_loss(own, label.flatten(), weight, ignore_index=IGNORED, reduction="sum") / share
        return total

    def training_step(self, batch: Batch, _: int) -> Any:  # noqa: ANN401 - Lightning takes None for "no step"
        """Return the loss of one batch, None where no classifier is trained by gradient."""
        loss = super().training_step(batch, _)
        return loss if loss.requires_grad else None

    def configure_optimizers(self) -> Any:  # noqa: ANN401
        """As for every method; None where nothing is trained by gradient."""
        return super().configure_optimizers() if any(True for _ in self.parameters()) else None

    def on_train_epoch_start(self) -> None:
        """Forget what an earlier training fitted."""
        self._seen = []
        if self.current_epoch == 0:
            self.audio.fitted, self.text.fitted = {}, {}

    @torch.no_grad()
    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:  # noqa: ANN401
        """Keep the batch's posteriors; after the last one fit what is not fitted and weigh, before the epoch is validated."""
        modes = self.audio.training, self.text.training
        self.pretrained.eval()
        batch = self.encode(batch)
        self.pretrained.train()
        seen = []
        for part, values in zip((self.audio, self.text), self._inputs(batch), strict=True):
            base = part.eval()(*values)
            vectors = part.vectors(*values).float() if part.unfitted() else None
            seen.append(_Seen(base, vectors, batch.label))
        for part, mode in zip((self.audio, self.text), modes, strict=True):
            part.train(mode)
        self._seen.append(seen)
        if self.trainer.is_last_batch:
            self._end_epoch()

    def _end_epoch(self) -> None:
        """Fit the classical classifiers and measure the weights of both layers on what the epoch has seen."""
        parts, bases = (self.audio, self.text), []
        for number, part in enumerate(parts):
            seen = [batch[number] for batch in self._seen]
            logs, real = (torch.cat([getattr(s.base, name) for s in seen]) for name in Posteriors._fields)
            if part.unfitted():
                vectors = torch.cat([s.vectors for s in seen if s.vectors is not None])  # (n, S, V)
                part.fit(vectors, real, torch.cat([s.label for s in seen]), self.class_weight is not None, self.trees, self.seed)
                logs = torch.cat([logs[:, :, : len(part.neural)], part.classical(vectors)], dim=2)
            bases.append(Posteriors(logs, real))
            if self.static == "entropy":
                part.weight = entropy_weights(logs.exp()[real], part.active)
        if self.static == "entropy":
            both = torch.stack([posterior for posterior, _ in self._layer1(bases)], dim=1)  # (n, 2, C)
            present = torch.stack([base.real.any(1) for base in bases], dim=1)
            self.weight = entropy_weights(both, self._trained(), present)
        self._seen = []


class _Seen(NamedTuple):
    """A training batch of one modality: its posteriors, its pooled vectors (B, S, V) while they are needed, its labels (B,)."""

    base: Posteriors
    vectors: Tensor | None
    label: Tensor


def _names(option: str, text: str) -> list[str]:
    """Read a list of base classifiers."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in NEURAL + CLASSICAL or names.count(name) > 1:
            known = ", ".join(NEURAL + CLASSICAL)
            raise ValueError(f"late_dbmm: {option} is {text!r}; it must list some of {known}, each once, with commas between")
    return names


def entropy_weights(posteriors: Tensor, active: Tensor, present: Tensor | None = None) -> Tensor:
    """Weights (N,) that fall with the mean entropy over rows: ``(1 - H_i / sum H) / (N - 1)`` over the active ones.

    Args:
        posteriors: (n, N, C).
        active: (N,); the others get 0.
        present: (n, N), which rows count for which; None for all. What no row counts for gets 0 too.
    """
    entropy = torch.special.entr(posteriors).sum(-1)  # (n, N)
    present = torch.ones_like(entropy, dtype=torch.bool) if present is None else present
    active = active & present.any(0)
    mean = (entropy * present).sum(0) / present.sum(0).clamp(min=1) * active
    weights = (1 - mean / mean.sum().clamp(min=1e-8)) * active
    return torch.where(active.sum() > 1, weights / weights.sum().clamp(min=1e-8), active.to(weights))


Update = Literal["none", "inverted", "replica"]


def mixture(
    posteriors: Tensor, real: Tensor, active: Tensor, weight: Tensor, slices: int, smoothing: float, update: Update
) -> tuple[Tensor, Tensor]:
    """The dynamic Bayesian mixture of one item over its slices; each item starts anew from the static weights.

    Args:
        posteriors: (B, S, N, C).
        real: (B, S); other slices change nothing. A window without a real slice gives the uniform posterior.
        active: (N,) or (B, N), which classifiers take part.
        weight: (N,), the static weights.
        slices: How many slices before the last are multiplied in, and looked at by the update.
        smoothing: Added to every class of a mixture.
        update: How weights are updated.

    Returns:
        The posterior after the last slice (B, C), and the weights of every slice (B, S, N), zero where not real.
    """
    active = active.expand(len(real), -1)  # (B, N)
    current, used = _normalise(weight.to(posteriors).expand_as(active), active), []
    count, classes = real.shape[1], posteriors.shape[-1]
    for t in range(count):
        if update != "none":
            window = slice(max(0, t - slices), t + 1)
            evidence = _evidence(posteriors[:, window], real[:, window], active, update)
            changed = _normalise(_normalise(current * evidence, active).clamp(0.1, 0.9), active)
            current = torch.where(real[:, t : t + 1], changed, current)
        used.append(current * real[:, t : t + 1])
    weights = torch.stack(used, dim=1)  # (B, S, N)
    mixed = (weights.unsqueeze(-1) * posteriors).sum(2)  # (B, S, C)
    logs = ((mixed + smoothing) / (1 + classes * smoothing)).log() * real.unsqueeze(-1)
    return logs[:, max(0, count - 1 - slices) :].sum(1).softmax(-1), weights


def _normalise(weights: Tensor, active: Tensor) -> Tensor:
    """Weights of the active classifiers, summing to one; equal where all are 0."""
    kept = weights * active
    kept = torch.where(kept.sum(-1, keepdim=True) > 0, kept, active.to(kept))
    return kept / kept.sum(-1, keepdim=True).clamp(min=1e-12)


def _evidence(window: Tensor, real: Tensor, active: Tensor, update: Update) -> Tensor:
    """What the update multiplies the weights by: posteriors (B, W, N, C) of the window -> (B, N)."""
    if update == "inverted":
        entropy = (torch.special.entr(window).sum(-1) * real.unsqueeze(-1)).sum(1) * active
        score = 1 - entropy / entropy.sum(-1, keepdim=True).clamp(min=1e-12)
    else:
        dominant = (window * real[..., None, None]).sum(1).argmax(-1)  # (B, N)
        p = window.gather(-1, dominant[:, None, :, None].expand(-1, window.shape[1], -1, 1)).squeeze(-1)  # (B, W, N)
        p = torch.where(p <= 1e-4, 1e-3, torch.where(p > 0.989, 0.99, p))
        entropy = (-p * p.log10() * real.unsqueeze(-1)).sum(1) * active
        score = entropy / entropy.sum(-1, keepdim=True).clamp(min=1e-12)
    return torch.where(score > 0.998, 0.9, torch.where(score <= 1e-4, 0.1, score))
