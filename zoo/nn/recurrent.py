"""Bidirectional LSTM and GRU that padding can't reach, and a recurrent network's precision."""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn


def run_recurrent(network: nn.Module, x: Tensor) -> Tensor:
    """States of every step of an LSTM or GRU, on CUDA in the precision of its weights: (B, T, D) -> (B, T, hidden).

    There autocast runs recurrent layers in float16 even when it is asked for bfloat16 (PyTorch 2.11, AutocastRNN.cpp), and bf16
    training scales no loss: gradients of one step among hundreds, a millionth and less, would be cut to a digit or to zero. The CPU
    gets the bfloat16 that was asked for, half as fast again as float32.
    """
    if x.device.type != "cuda":
        free: Tensor = network(x)[0]
        return free
    with torch.autocast("cuda", enabled=False):
        states: Tensor = network(x.to(next(network.parameters()).dtype))[0]
    return states


class _Mirrored(torch.autograd.Function):
    """Sequences read from their own last position. Done twice it changes nothing, so the gradient is mirrored likewise.

    Autograd's own gradient of ``gather`` adds up what was taken from one place; on CUDA that is a sort of all B T D numbers, to be
    deterministic, though here every place is taken from once.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, mirror: Tensor) -> Tensor:  # noqa: ANN401
        """(B, T, D) and the position (B, T, 1) that each one takes the place of."""
        ctx.save_for_backward(mirror)
        return x.gather(1, mirror.expand_as(x))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:  # noqa: ANN401
        (mirror,) = ctx.saved_tensors
        return gradients[0].gather(1, mirror.expand_as(gradients[0])), None


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
            forward, backward = run_recurrent(ahead, x), run_recurrent(back, _mirrored(x, mirror))
            x = torch.cat([forward, _mirrored(backward, mirror)], dim=-1) * mask.unsqueeze(-1)
        return x


def _mirrored(x: Tensor, mirror: Tensor) -> Tensor:
    mirrored: Tensor = _Mirrored.apply(x, mirror)  # type: ignore[no-untyped-call]
    return mirrored


class BiLSTM(_Bidirectional):
    """Bidirectional LSTM."""

    network = nn.LSTM


class BiGRU(_Bidirectional):
    """Bidirectional GRU."""

    network = nn.GRU
