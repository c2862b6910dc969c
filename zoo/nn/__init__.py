"""Blocks that several methods share. All take masks and none lets padding change a result."""

from zoo.nn.attention import CrossAttention, LocalAttention, MultiHeadAttention
from zoo.nn.encoders import Convolution, make_encoder
from zoo.nn.pooling import MaskedNorm, masked_functionals, masked_mean, masked_softmax, masked_statistics
from zoo.nn.recurrent import BiGRU, BiLSTM, run_recurrent

__all__ = [
    "BiGRU",
    "BiLSTM",
    "Convolution",
    "CrossAttention",
    "LocalAttention",
    "MaskedNorm",
    "MultiHeadAttention",
    "make_encoder",
    "masked_functionals",
    "masked_mean",
    "masked_softmax",
    "masked_statistics",
    "run_recurrent",
]
