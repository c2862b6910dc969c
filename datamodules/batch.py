"""Batch: what every method receives, and how it is made from arrays of unequal length."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from torch import Tensor

Task = Literal["multiclass", "multilabel"]
"""Whether an utterance has exactly one of the classes, or any number of them."""

IGNORED = -100
"""Label of what the loss and the metrics skip: padding, and turns that are context only."""

NO_LABEL = "none"
"""A multi-label corpus's ``label`` where no class is positive; else it is the positive ones joined by ``+``."""

AUDIO, TEXT = 0, 1
"""Columns of ``Batch.present``."""


class Batch(NamedTuple):
    """Padded tensors with their masks. For a method with ``unit = "dialogue"`` every shape has an axis N of turns after B.

    Attributes:
        audio: (B, T, Da) float32, or int64 for token-like features; zero where padded.
        audio_mask: (B, T) bool, True at real frames.
        text: (B, L, Dt) float32, or int64 for token ids; zero where padded.
        text_mask: (B, L) bool, True at real tokens.
        label: (B,) int64; of a multi-label task (B, C) float32, 1 where a class is positive. `IGNORED` where there is nothing to
            predict.
        present: (B, 2) bool: is there audio, is there text?
        utterance_id: One id per utterance, dialogue after dialogue, padding left out.
        turn_mask: (B, N) bool, True at real turns; None for utterances.
        speaker: (B, N) int64, speakers of a dialogue numbered by first appearance, -1 where padded; None for utterances.
    """

    audio: Tensor
    audio_mask: Tensor
    text: Tensor
    text_mask: Tensor
    label: Tensor
    present: Tensor
    utterance_id: list[str]
    turn_mask: Tensor | None = None
    speaker: Tensor | None = None


class Item(NamedTuple):
    """One utterance: ``audio`` (T, Da), ``text`` (L, Dt), either with no rows when absent; ``label`` as of `encode_labels`."""

    audio: npt.NDArray[np.generic]
    text: npt.NDArray[np.generic]
    label: int | npt.NDArray[np.generic]
    utterance_id: str
    speaker: str = ""


def encode_labels(labels: "pd.Series[str]", classes: Sequence[str], task: Task = "multiclass") -> npt.NDArray[np.generic]:
    """A table's ``label`` as numbers.

    Returns:
        Positions in ``classes``, (n,) int64; of a multi-label task 1 where a class is positive, else 0, (n, C) float32.
    """
    if task == "multilabel":
        return labels.str.get_dummies("+").reindex(columns=list(classes), fill_value=0).to_numpy(np.float32, copy=True)
    return np.array([classes.index(label) for label in labels], np.int64)


def pad(arrays: Sequence[npt.NDArray[np.generic]]) -> tuple[Tensor, Tensor]:
    """Stack arrays of unequal length.

    Args:
        arrays: Each (T_i, D); T_i = 0 stands for an absent modality.

    Returns:
        Values (B, T, D) with T = max(T_i, 1), float32 or int64, zero where padded; and the mask (B, T), True where real.
    """
    lengths = torch.tensor([len(array) for array in arrays])
    longest = max(int(lengths.max()), 1)
    dtype = np.int64 if np.issubdtype(arrays[0].dtype, np.integer) else np.float32
    values = np.zeros((len(arrays), longest, arrays[0].shape[1]), dtype)
    for row, array in zip(values, arrays, strict=True):
        row[: len(array)] = array
    return torch.from_numpy(values), torch.arange(longest) < lengths[:, None]


def collate_utterances(items: Sequence[Item]) -> Batch:
    """Make a batch of single utterances: shapes as in `Batch` without the axis N."""
    audio, audio_mask = pad([item.audio for item in items])
    text, text_mask = pad([item.text for item in items])
    return Batch(
        audio=audio,
        audio_mask=audio_mask,
        text=text,
        text_mask=text_mask,
        label=torch.from_numpy(np.stack([item.label for item in items])),
        present=torch.stack([audio_mask.any(1), text_mask.any(1)], dim=1),
        utterance_id=[item.utterance_id for item in items],
    )


def collate_dialogues(dialogues: Sequence[Sequence[Item]]) -> Batch:
    """Make a batch of dialogues: shapes as in `Batch`, with N = the longest dialogue's number of turns."""
    turns = torch.tensor([len(dialogue) for dialogue in dialogues])
    turn_mask = torch.arange(int(turns.max())) < turns[:, None]  # (B, N)
    flat = collate_utterances([item for dialogue in dialogues for item in dialogue])

    def unflatten(values: Tensor, fill: int = 0) -> Tensor:
        padded = values.new_full((*turn_mask.shape, *values.shape[1:]), fill)
        padded[turn_mask] = values
        return padded

    speakers = [list(dict.fromkeys(item.speaker for item in dialogue)) for dialogue in dialogues]
    numbers = [who.index(item.speaker) for who, dialogue in zip(speakers, dialogues, strict=True) for item in dialogue]
    return Batch(
        audio=unflatten(flat.audio),
        audio_mask=unflatten(flat.audio_mask),
        text=unflatten(flat.text),
        text_mask=unflatten(flat.text_mask),
        label=unflatten(flat.label, IGNORED),
        present=unflatten(flat.present),
        utterance_id=flat.utterance_id,
        turn_mask=turn_mask,
        speaker=unflatten(torch.tensor(numbers), -1),
    )
