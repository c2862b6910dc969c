"""Pooling over a masked axis. A sequence with nothing in it pools to zeros, so an absent modality is never NaN."""

import torch
from torch import Tensor


def masked_mean(x: Tensor, mask: Tensor) -> Tensor:
    """Mean over the real positions.

    Args:
        x: (..., T, D).
        mask: (..., T) bool, True where real.

    Returns:
        (..., D); zeros where nothing is real.
    """
    weight = mask.unsqueeze(-1).to(x.dtype)
    return (x * weight).sum(-2) / weight.sum(-2).clamp(min=1)


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
