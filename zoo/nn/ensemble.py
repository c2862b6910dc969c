"""Base classifiers of one modality over the segments of its clips: trained by gradient, or fitted by scikit-learn."""

from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from datamodules.batch import IGNORED
from zoo.nn.classical import Fitted, classical_posterior, fit_classical
from zoo.nn.encoders import Convolution
from zoo.nn.pooling import MaskedNorm, masked_functionals, masked_mean

NEURAL = ("cnn", "mlp")


class Posteriors(NamedTuple):
    """Base classifiers' log-posteriors (B, S, N, C), those trained by gradient first, and which segments are real (B, S)."""

    logs: Tensor
    real: Tensor


class BaseClassifiers(nn.Module):
    """The base classifiers of one modality. Those from scikit-learn are plain tensors once fitted."""

    weight: Tensor

    def __init__(
        self, names: list[str], dim: int, functionals: bool, num_classes: int, hidden: int, layers: int, dropout: float
    ) -> None:
        """Make those trained by gradient.

        Args:
            names: Of the classifiers.
            dim: Width D of the sequence.
            functionals: Pool it by functionals, not the mean.
            num_classes: Number of classes C.
            hidden: Width of the MLP, and channels of the CNN.
            layers: Of the CNN.
            dropout: On the input of the CNN's layers, before and after the MLP's hidden layer.
        """
        super().__init__()
        self.names = sorted(names, key=lambda name: name not in NEURAL)  # (N,)
        self.functionals, self.num_classes = functionals, num_classes
        width = 3 * dim if functionals else dim
        self.neural = nn.ModuleDict()
        if "cnn" in names:
            self.neural["cnn"] = nn.ModuleList([Convolution(dim, hidden, layers, dropout=dropout), nn.Linear(hidden, num_classes)])
        if "mlp" in names:
            head = [nn.Dropout(dropout), nn.Linear(width, hidden), nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden, num_classes)]
            self.neural["mlp"] = nn.ModuleList([MaskedNorm(width), nn.Sequential(*head)])
        self.names[: len(self.neural)] = list(self.neural)
        self.fitted: dict[str, Fitted] = {}
        self.register_buffer("weight", torch.full((len(names),), 1 / max(len(names), 1)))

    @property
    def active(self) -> Tensor:
        """Which classifiers have been trained at all: (N,) bool."""
        found = [name in self.neural or name in self.fitted for name in self.names]
        return torch.tensor(found, dtype=torch.bool, device=self.weight.device)

    def unfitted(self) -> bool:
        """Are there classifiers still to fit?"""
        return not self.fitted and len(self.names) > len(self.neural)

    def vectors(self, x: Tensor, mask: Tensor) -> Tensor:
        """(B, S, T, D), (B, S, T) -> (B, S, V)."""
        return masked_functionals(x, mask) if self.functionals else masked_mean(x, mask)

    def forward(self, x: Tensor, mask: Tensor) -> Posteriors:
        """(B, S, T, D), (B, S, T) -> log-posteriors; those of a classifier that is not fitted are uniform."""
        real, vectors = mask.any(-1), self.vectors(x, mask)
        found = []
        for name, part in self.neural.items():
            encode, classify = cast("nn.ModuleList", part)
            if name == "cnn":
                flat = mask.flatten(0, 1)  # (B S, T)
                pooled = masked_mean(encode(x.flatten(0, 1), flat), flat).reshape(*real.shape, -1)  # (B, S, hidden)
            else:
                pooled = encode(vectors, real)
            logits = classify(pooled)
            # At least float32: half precision loses the small probabilities.
            found.append(logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(-1))
        trained = torch.stack(found, dim=2) if found else vectors.new_zeros(*real.shape, 0, self.num_classes)
        return Posteriors(torch.cat([trained, self.classical(vectors).to(trained)], dim=2), real)

    @torch.no_grad()
    def classical(self, vectors: Tensor) -> Tensor:
        """Log-posteriors of the scikit-learn classifiers: (B, S, V) -> (B, S, N', C)."""
        dtype = torch.promote_types(vectors.dtype, torch.float32)
        names = self.names[len(self.neural) :]
        logs = vectors.new_full((*vectors.shape[:2], len(names), self.num_classes), 1 / self.num_classes, dtype=dtype)
        for number, name in enumerate(names):
            if name in self.fitted:
                self.fitted[name] = {key: value.to(vectors.device) for key, value in self.fitted[name].items()}
                logs[:, :, number] = classical_posterior(name, self.fitted[name], vectors, self.num_classes)
        return logs.clamp(min=1e-8).log()

    def fit(self, vectors: Tensor, real: Tensor, label: Tensor, balanced: bool, trees: int, seed: int) -> None:
        """Fit the scikit-learn classifiers on the real, labelled segments; nothing where those are of fewer than two classes.

        Args:
            vectors: (n, S, V).
            real: (n, S).
            label: (n,).
            balanced: As of `fit_classical`.
            trees: As of `fit_classical`.
            seed: As of `fit_classical`.
        """
        kept = real & (label != IGNORED).unsqueeze(1)
        labels = label.unsqueeze(1).expand_as(kept)[kept]
        clips = torch.arange(len(label), device=label.device).unsqueeze(1).expand_as(kept)[kept]
        if len(torch.unique(labels)) > 1:
            for name in self.names[len(self.neural) :]:
                self.fitted[name] = fit_classical(name, vectors[kept], labels, clips, balanced, trees, seed)

    def get_extra_state(self) -> dict[str, Fitted]:
        """What was fitted, for the checkpoint."""
        return self.fitted

    def set_extra_state(self, state: dict[str, Fitted]) -> None:
        """Take it from a checkpoint."""
        self.fitted = dict(state)


def edges(mask: Tensor, segments: int) -> Tensor:
    """Where the equal segments of sequences begin and end: (B, T) -> (B, S + 1). Some are empty if T < S, never the last."""
    return mask.sum(1, keepdim=True) * torch.arange(segments + 1, device=mask.device) // segments


def cut(x: Tensor, mask: Tensor, segments: int) -> tuple[Tensor, Tensor]:
    """Cut sequences into equal segments.

    Args:
        x: (B, T, D).
        mask: (B, T), real positions first.
        segments: S.

    Returns:
        (B, S, T', D), zero where padded, and its mask (B, S, T').
    """
    bounds, longest = edges(mask, segments), -(-x.shape[1] // segments)
    position = bounds[:, :-1, None] + torch.arange(longest, device=x.device)  # (B, S, T')
    real = position < bounds[:, 1:, None]
    index = position.clamp(max=x.shape[1] - 1).flatten(1).unsqueeze(-1).expand(-1, -1, x.shape[2])
    return x.gather(1, index).reshape(*position.shape, -1) * real.unsqueeze(-1), real
