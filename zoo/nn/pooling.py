"""Pooling over a masked axis. A sequence with nothing in it pools to zeros, so an absent modality is never NaN."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def masked_mean(x: Tensor, mask: Tensor) -> Tensor:
    """Mean over the real positions.

    Args:
        x: (..., T, D).
        mask: (..., T) bool, True where real.

    Returns:
        (..., D); zeros where nothing is real.
    """
    count = mask.sum(-1, keepdim=True).clamp(min=1)  # integers: bfloat16 can't count beyond 256
    return (x * mask.unsqueeze(-1)).sum(-2, dtype=torch.float32 if x.dtype != torch.float64 else None).div(count).to(x.dtype)


def masked_statistics(x: Tensor, mask: Tensor) -> Tensor:
    """Mean and standard deviation over the real positions: (..., T, D), (..., T) -> (..., 2D)."""
    mean = masked_mean(x, mask)
    variance = masked_mean((x - mean.unsqueeze(-2)) ** 2, mask)
    # The square root has no gradient at 0, where a sequence of one position always is.
    return torch.cat([mean, (variance + 1e-5).sqrt()], dim=-1)


def masked_softmax(scores: Tensor, mask: Tensor) -> Tensor:
    """Softmax over the last axis in float32; zero where masked, all zero where nothing is real.

    Args:
        scores: (..., T).
        mask: Broadcastable to ``scores``, bool, True where real.

    Returns:
        (..., T), of the dtype of ``scores``.
    """
    filled = scores.float().masked_fill(~mask, torch.finfo(torch.float32).min)
    return (filled.softmax(-1) * mask).to(scores.dtype)


def masked_functionals(x: Tensor, mask: Tensor) -> Tensor:
    """Mean, standard deviation, and standard deviation of the step from one real position to the next.

    The third part says how fast a sequence moves, which mean and deviation don't see.

    Args:
        x: (..., T, D).
        mask: (..., T) bool, True where real; real positions come first.

    Returns:
        (..., 3D).
    """
    steps, both = x[..., 1:, :] - x[..., :-1, :], mask[..., 1:] & mask[..., :-1]
    return torch.cat([masked_statistics(x, mask), masked_statistics(steps, both)[..., x.shape[-1] :]], dim=-1)


class MaskedNorm(nn.BatchNorm1d):
    """Batch normalisation of vectors over the real items only: zero mean and unit variance of each number over the corpus."""

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:  # type: ignore[override]
        """(..., D), (...) bool -> (..., D), zero where masked. A single item in training gets the running statistics."""
        count = mask.sum()
        if self.training and count > 1:
            # Not super().forward(x[mask]): selecting real items takes several times as long as weighting all by 0 or 1.
            real, axes = mask.unsqueeze(-1), tuple(range(x.dim() - 1))
            exact = x if x.dtype == torch.float64 else x.float()
            mean = (exact * real).sum(axes) / count  # (D,)
            centred = (exact - mean) * real
            variance = centred.square().sum(axes) / count
            self._track(mean.detach(), variance.detach() * count / (count - 1))
            return (centred * (variance + self.eps).rsqrt() * self.weight + self.bias * real).to(x.dtype)
        scaled = F.batch_norm(x.flatten(0, -2), self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        return scaled.view_as(x).to(x.dtype) * mask.unsqueeze(-1)

    @torch.no_grad()
    def _track(self, mean: Tensor, variance: Tensor) -> None:
        """Move the running statistics, (D,) each, as batch normalisation does."""
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.momentum is not None
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
        self.running_var.lerp_(variance.to(self.running_var.dtype), self.momentum)
