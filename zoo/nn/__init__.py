"""Blocks that several methods share. All take masks and none lets padding change a result."""

from zoo.nn.attention import LocalAttention, MultiHeadAttention
from zoo.nn.pooling import masked_mean, masked_softmax, masked_statistics
from zoo.nn.recurrent import BiLSTM

__all__ = ["BiLSTM", "LocalAttention", "MultiHeadAttention", "masked_mean", "masked_softmax", "masked_statistics"]
