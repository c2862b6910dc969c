"""Bidirectional LSTM and GRU that padding can't reach."""

from typing import ClassVar

import torch
from torch import Tensor, nn


class _Bidirectional(nn.Module):
    """A bidirectional recurrent network over padded sequences.

    The backward direction reads every sequence from its own last real position, which is what packing does. Packed sequences
    are not used because PyTorch runs them on the CPU step by step, more than ten times slower than the fused kernel that padded
    ones get (`benchmarks/step_speed.py`).
    """

    network: ClassVar[type[nn.LSTM] | type[nn.GRU]]

    def __init__(self, input_dim: int, hidden: int, layers: int = 2, dropout: float = 0.0) -> None:
        """Make the layers.

        Args:
            input_dim: Width of the input.
            hidden: Units per direction.
            layers: Stacked layers.
            dropout: On the input of every layer.
        """
        super().__init__()
        widths = [input_dim] + [2 * hidden] * (layers - 1)
        self.ahead = nn.ModuleList(self.network(width, hidden, batch_first=True) for width in widths)
        self.back = nn.ModuleList(self.network(width, hidden, batch_first=True) for width in widths)
        self.dropout = nn.Dropout(dropout)
        self.dim = 2 * hidden

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Encode.

        Args:
            x: (B, T, input_dim).
            mask: (B, T) bool, True where real; real positions come first.

        Returns:
            (B, T, 2 * hidden), zero where padded.
        """
        steps = torch.arange(x.shape[1], device=x.device)
        last = mask.sum(1, keepdim=True) - 1
        mirror = torch.where(steps <= last, last - steps, steps).unsqueeze(-1)  # (B, T, 1): each sequence reversed in place
        for ahead, back in zip(self.ahead, self.back, strict=True):
            x = self.dropout(x)
            forward, _ = ahead(x)
            backward, _ = back(x.gather(1, mirror.expand_as(x)))
            backward = backward.gather(1, mirror.expand_as(backward))
            x = torch.cat([forward, backward], dim=-1) * mask.unsqueeze(-1)
        return x


class BiLSTM(_Bidirectional):
    """Bidirectional LSTM."""

    network = nn.LSTM


class BiGRU(_Bidirectional):
    """Bidirectional GRU."""

    network = nn.GRU
