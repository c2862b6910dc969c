"""Encoders of one sequence that a method can choose between."""

from typing import Literal

from torch import Tensor, nn

from zoo.nn.recurrent import BiLSTM

EncoderName = Literal["identity", "bilstm", "cnn"]


class Convolution(nn.Module):
    """Stacked 1-D convolutions over time with ReLU that see zeros where padded."""

    def __init__(self, input_dim: int, channels: int, layers: int = 2, kernel: int = 5, dropout: float = 0.0) -> None:
        """Make the layers.

        Args:
            input_dim: Width of the input.
            channels: Of every layer.
            layers: Stacked layers.
            kernel: Width in positions, odd.
            dropout: On the input of every layer.

        Raises:
            ValueError: If ``kernel`` is even, since the length must stay.
        """
        super().__init__()
        if kernel % 2 == 0:
            raise ValueError(f"a convolution of width {kernel} changes the length; it must be odd")
        widths = [input_dim] + [channels] * (layers - 1)
        self.layers = nn.ModuleList(nn.Conv1d(width, channels, kernel, padding="same") for width in widths)
        self.dropout = nn.Dropout(dropout)
        self.dim = channels

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """(B, T, input_dim), (B, T) -> (B, T, channels), zero where padded."""
        real = mask.unsqueeze(-1)
        for layer in self.layers:
            x = layer((self.dropout(x) * real).transpose(1, 2)).relu().transpose(1, 2)
        return x * real


class Identity(nn.Module):
    """The sequence as it is: for features that are an encoder's output already."""

    def __init__(self, dim: int) -> None:
        """Name the width."""
        super().__init__()
        self.dim = dim

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """(B, T, D), (B, T) -> (B, T, D), zero where padded."""
        return x * mask.unsqueeze(-1)


def make_encoder(name: EncoderName, input_dim: int, hidden: int, layers: int, dropout: float) -> BiLSTM | Convolution | Identity:
    """An encoder whose attribute ``dim`` is its output's width and that maps (B, T, input_dim), (B, T) to (B, T, dim).

    Args:
        name: ``bilstm`` (width 2 ``hidden``), ``cnn`` (the same width) or ``identity``.
        input_dim: Width of the input.
        hidden: Units per direction, or half the channels.
        layers: Stacked layers.
        dropout: On the input of every layer.

    Raises:
        ValueError: For another name.
    """
    if name == "identity":
        return Identity(input_dim)
    if name == "bilstm":
        return BiLSTM(input_dim, hidden, layers, dropout)
    if name == "cnn":
        return Convolution(input_dim, 2 * hidden, layers, dropout=dropout)
    raise ValueError(f"encoder is {name!r}; it must be 'identity', 'bilstm' or 'cnn'")
