"""Padding, masks and labels of batches, against slow plain versions."""

import itertools

import numpy as np
import pytest
import torch

from datamodules.batch import AUDIO, IGNORED, TEXT, Item, collate_dialogues, collate_utterances, pad


def items(lengths: list[tuple[int, int]], token_ids: bool = False, speakers: str = "") -> list[Item]:
    """Utterances with the given numbers of audio frames (D = 3, float16) and tokens (D = 2; int32 ids with D = 1)."""
    random = np.random.default_rng(len(lengths))
    found = []
    for number, (frames, tokens) in enumerate(lengths):
        audio = random.normal(size=(frames, 3)).astype(np.float16)
        text = random.integers(1, 9, (tokens, 1)).astype(np.int32) if token_ids else random.normal(size=(tokens, 2)).astype("f4")
        found.append(Item(audio, text, number % 4, f"u{number}", speakers[number] if speakers else ""))
    return found


SHAPES = {
    "unequal": [(5, 2), (1, 7), (3, 3)],
    "one": [(4, 2)],
    "one frame": [(1, 1), (1, 1)],
    "no audio in the second": [(5, 2), (0, 4)],
    "no text in the first": [(5, 0), (2, 4)],
    "no audio at all": [(0, 2), (0, 4)],
}


@pytest.mark.parametrize("token_ids", [False, True], ids=["vectors", "token ids"])
@pytest.mark.parametrize("lengths", SHAPES.values(), ids=SHAPES.keys())
def test_utterances(lengths: list[tuple[int, int]], token_ids: bool) -> None:
    given = items(lengths, token_ids)
    batch = collate_utterances(given)
    size, frames, tokens = len(given), max(1, *(a for a, _ in lengths), 0), max(1, *(t for _, t in lengths), 0)
    assert batch.audio.shape == (size, frames, 3)
    assert batch.text.shape == (size, tokens, 1 if token_ids else 2)
    assert batch.audio.dtype == torch.float32
    assert batch.text.dtype == (torch.int64 if token_ids else torch.float32)
    assert batch.label.dtype == torch.int64
    assert {batch.audio_mask.dtype, batch.text_mask.dtype, batch.present.dtype} == {torch.bool}
    for b, item in enumerate(given):
        for values, mask, array in ((batch.audio, batch.audio_mask, item.audio), (batch.text, batch.text_mask, item.text)):
            for t in range(values.shape[1]):
                real = t < len(array)
                assert mask[b, t].item() is real
                assert values[b, t].tolist() == (array[t].tolist() if real else [0] * values.shape[2])
        assert batch.present[b, AUDIO].item() is (len(item.audio) > 0)
        assert batch.present[b, TEXT].item() is (len(item.text) > 0)
        assert batch.label[b].item() == item.label
    assert batch.utterance_id == [item.utterance_id for item in given]
    assert batch.turn_mask is None
    assert batch.speaker is None


@pytest.mark.parametrize("token_ids", [False, True], ids=["vectors", "token ids"])
@pytest.mark.parametrize(
    ("lengths", "cuts", "speakers", "numbers"),
    [
        (
            [(5, 2), (1, 7), (3, 3), (2, 0), (0, 1), (4, 4)],
            [0, 3, 4, 6],
            "BABXAA",
            [[0, 1, 0], [0, -1, -1], [0, 0, -1]],
        ),
        ([(5, 2)], [0, 1], "Z", [[0]]),
        ([(5, 2), (3, 1), (1, 1), (1, 2)], [0, 4], "CABC", [[0, 1, 2, 0]]),
        ([(5, 2), (3, 1)], [0, 1, 2], "AB", [[0], [0]]),
    ],
    ids=["unequal", "B=1 N=1", "B=1", "N=1"],
)
def test_dialogues(
    lengths: list[tuple[int, int]], cuts: list[int], speakers: str, numbers: list[list[int]], token_ids: bool
) -> None:
    given = items(lengths, token_ids, speakers)
    dialogues = [given[a:b] for a, b in itertools.pairwise(cuts)]
    batch = collate_dialogues(dialogues)
    turns = max(len(dialogue) for dialogue in dialogues)
    frames, tokens = max(a for a, _ in lengths), max(t for _, t in lengths)
    assert batch.audio.shape == (len(dialogues), turns, frames, 3)
    assert batch.audio_mask.shape == (len(dialogues), turns, frames)
    assert batch.text.shape == (len(dialogues), turns, tokens, 1 if token_ids else 2)
    assert batch.text_mask.shape == (len(dialogues), turns, tokens)
    assert batch.text.dtype == (torch.int64 if token_ids else torch.float32)
    assert batch.present.shape == (len(dialogues), turns, 2)
    assert batch.turn_mask is not None
    assert batch.speaker is not None
    for b, dialogue in enumerate(dialogues):
        for n in range(turns):
            real = n < len(dialogue)
            assert batch.turn_mask[b, n].item() is real
            assert batch.label[b, n].item() == (dialogue[n].label if real else IGNORED)
            for column, (values, mask) in enumerate(((batch.audio, batch.audio_mask), (batch.text, batch.text_mask))):
                array = dialogue[n][column] if real else np.zeros((0, values.shape[-1]))
                assert mask[b, n].tolist() == [t < len(array) for t in range(values.shape[2])]
                assert values[b, n, : len(array)].tolist() == array.tolist()
                assert not values[b, n, len(array) :].any()
                assert batch.present[b, n, column].item() is (len(array) > 0)
    assert batch.speaker.tolist() == numbers
    assert batch.speaker.dtype == batch.label.dtype == torch.int64
    assert batch.utterance_id == [item.utterance_id for item in given]


def test_ignored_is_what_cross_entropy_skips() -> None:
    batch = collate_dialogues([items([(1, 1), (1, 1)]), items([(1, 1)])])
    logits = torch.randn(2, 2, 4, generator=torch.Generator().manual_seed(0))
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch.label.flatten())
    slow = -torch.stack([logits[b, n].log_softmax(0)[label] for b, n, label in [(0, 0, 0), (0, 1, 1), (1, 0, 0)]]).mean()
    torch.testing.assert_close(loss, slow)


def test_large_token_ids_survive() -> None:
    """float32 couldn't hold them."""
    values, _ = pad([np.array([[2**24 + 1], [2**31 - 1]], np.int32)])
    assert values.flatten().tolist() == [2**24 + 1, 2**31 - 1]


def test_batches_own_their_memory() -> None:
    """Arrays from the store are read-only; what a training step writes into a batch must not reach them."""
    array = np.frombuffer(np.ones((2, 3), np.float32).tobytes(), np.float32).reshape(2, 3)
    values, _ = pad([array])
    values += 1
    assert array.max() == 1
