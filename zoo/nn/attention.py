"""Scaled dot-product attention with several heads, within a sequence and across two."""

import torch.nn.functional as F
from torch import Tensor, nn

from zoo.nn.pooling import masked_softmax


class MultiHeadAttention(nn.Module):
    """Multi-head attention (Vaswani et al. 2017, section 3.2.2) whose keys may all be masked.

    ``head_i = softmax(Q W_i^Q (K W_i^K)^T / sqrt(D/h)) V W_i^V``; the heads are concatenated and multiplied by ``W^O``.
    PyTorch's own module returns NaN where a query has no real key; here it is zero, which is what an absent modality needs.
    """

    def __init__(self, dim: int, heads: int, dropout: float = 0.0) -> None:
        """Make the projections.

        Args:
            dim: Width D of queries, keys and values.
            heads: Number of heads; must divide ``dim``.
            dropout: On the attention weights.

        Raises:
            ValueError: If ``heads`` doesn't divide ``dim``.
        """
        super().__init__()
        if dim % heads:
            raise ValueError(f"{heads} heads don't divide a width of {dim}")
        self.heads, self.dropout = heads, dropout
        self.query, self.key, self.value, self.out = (nn.Linear(dim, dim) for _ in range(4))

    def forward(self, query: Tensor, source: Tensor, source_mask: Tensor, maps: bool = False) -> tuple[Tensor, Tensor | None]:
        """Attend from ``query`` to ``source``.

        Args:
            query: (B, T, D).
            source: Keys and values, (B, S, D).
            source_mask: (B, S) bool, True where real.
            maps: Also return the weights.

        Returns:
            (B, T, D), zero before the output projection where nothing is real; and the weights (B, T, S), averaged over heads.
        """
        q, k, v = (
            project(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (B, h, T or S, D/h)
            for project, x in ((self.query, query), (self.key, source), (self.value, source))
        )
        mask = source_mask[:, None, None, :]
        dropout = self.dropout if self.training else 0.0
        weights = None
        if maps:
            weights = masked_softmax(q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5, mask)  # (B, h, T, S)
            heads = F.dropout(weights, dropout) @ v
            weights = weights.mean(1)
        else:
            # The fused kernel gives NaN or zero where no key is real, depending on the backend: let it see one, then zero it.
            some = source_mask.any(1)[:, None, None, None]
            heads = F.scaled_dot_product_attention(q, k, v, mask | ~some, dropout) * some
        return self.out(heads.transpose(1, 2).flatten(-2)), weights


class LocalAttention(nn.Module):
    """Local intra-modal attention: self-attention within one modality, ``LN(X + MHSA(X))`` (Zhang et al. 2023, ATE block)."""

    def __init__(self, dim: int, heads: int, dropout: float = 0.0, residual: bool = True) -> None:
        """Make the block.

        Args:
            dim: Width D.
            heads: Number of heads.
            dropout: On the output. Not on the weights: the fused kernel then computes them without storing T x T numbers.
            residual: Add the input and normalise, as the public re-implementation does; the paper's figure draws neither.
        """
        super().__init__()
        self.attention = MultiHeadAttention(dim, heads)
        self.dropout = nn.Dropout(dropout)
        self.norm = nn.LayerNorm(dim) if residual else None

    def forward(self, x: Tensor, mask: Tensor, maps: bool = False) -> tuple[Tensor, Tensor | None]:
        """(B, T, D) and its mask (B, T) -> (B, T, D) and the weights (B, T, T) or None."""
        attended, weights = self.attention(x, x, mask, maps)
        attended = self.dropout(attended)
        return (attended if self.norm is None else self.norm(x + attended)), weights


class CrossAttention(nn.Module):
    """Attention across modalities, ``LN(X + CA(Q=X, K=Y, V=Y))``; the residual is the stream's own (Zhang et al. 2023, CMA)."""

    def __init__(self, d: int, heads: int, dropout: float) -> None:
        """Make the block for width ``d``; the dropout is on the attention's output."""
        super().__init__()
        self.attention = MultiHeadAttention(d, heads)
        self.dropout = nn.Dropout(dropout)
        self.norm = nn.LayerNorm(d)

    def forward(self, own: Tensor, other: Tensor, other_mask: Tensor, maps: bool = False) -> tuple[Tensor, Tensor | None]:
        """(B, T, d), (B, S, d), (B, S) -> (B, T, d) and the weights (B, T, S) or None."""
        attended, weights = self.attention(own, other, other_mask, maps)
        return self.norm(own + self.dropout(attended)), weights
