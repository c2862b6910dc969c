"""BERT + ModifiedAlexNet against its layers written out plainly, AlexNet's size, and its options."""

import numpy as np
import pytest
import torch
from torch import nn

from datamodules.batch import Batch, Item, collate_utterances
from zoo import create
from zoo.bert_alexnet import BertAlexNet

SIZES = [(95, 4), (130, 6), (64, 1), (2, 3)]


@pytest.fixture
def batch() -> Batch:
    random = np.random.default_rng(1)
    items = [
        Item(random.normal(size=(t, 70)).astype(np.float32), random.normal(size=(n, 12)).astype(np.float32), i % 3, str(i))
        for i, (t, n) in enumerate(SIZES)
    ]
    batch = collate_utterances(items)
    return batch._replace(audio=batch.audio.double(), text=batch.text.double())


def build(**options: object) -> BertAlexNet:
    torch.manual_seed(0)
    method = create("bert_alexnet", audio_dim=70, text_dim=12, num_classes=3, **{"hidden": 2, **options}).double().eval()
    assert isinstance(method, BertAlexNet)
    for conv in method.convs:
        nn.init.normal_(conv.bias, std=0.3)  # padding that gets through a layer shows only with a bias
    for norm in (method.audio_norm, method.text_norm):
        if norm is not None:
            nn.init.normal_(norm.running_mean)
            nn.init.uniform_(norm.running_var, 0.5, 2.0)
    return method


def slow_conv(conv: nn.Conv2d, image: torch.Tensor) -> torch.Tensor:
    """(C, T, F) -> ReLU of the convolution, position by position."""
    size, stride, border = conv.kernel_size[0], conv.stride[0], int(conv.padding[0])
    bordered = image.new_zeros(len(image), image.shape[1] + 2 * border, image.shape[2] + 2 * border)
    bordered[:, border : border + image.shape[1], border : border + image.shape[2]] = image
    height, width = ((length - size) // stride + 1 for length in bordered.shape[1:])
    found = image.new_zeros(conv.out_channels, height, width)
    for t in range(height):
        for f in range(width):
            window = bordered[:, t * stride : t * stride + size, f * stride : f * stride + size]
            found[:, t, f] = ((conv.weight * window).sum((1, 2, 3)) + conv.bias).clamp(min=0)
    return found


def slow_pool(image: torch.Tensor) -> torch.Tensor:
    height, width = ((length - 3) // 2 + 1 for length in image.shape[1:])
    found = image.new_zeros(len(image), height, width)
    for t in range(height):
        for f in range(width):
            found[:, t, f] = image[:, 2 * t : 2 * t + 3, 2 * f : 2 * f + 3].flatten(1).max(1).values
    return found


def slow_difference(x: torch.Tensor, axis: str) -> torch.Tensor:
    found = torch.zeros_like(x)
    for t in range(x.shape[0]):
        for f in range(x.shape[1]):
            if axis == "time" and t:
                found[t, f] = x[t, f] - x[t - 1, f]
            if axis == "frequency" and f:
                found[t, f] = x[t, f] - x[t, f - 1]
    return found


def slow_norm(norm: nn.BatchNorm1d | None, x: torch.Tensor) -> torch.Tensor:
    if norm is None:
        return x
    return (x - norm.running_mean) / torch.sqrt(norm.running_var + 1e-5) * norm.weight + norm.bias


@pytest.mark.parametrize(
    "options",
    [{}, {"deltas": "time"}, {"pool": "mean"}, {"text_pool": "first", "norm": False}],
    ids=["default", "time", "mean", "literal text"],
)
def test_forward_is_the_lineage(batch: Batch, options: dict[str, object]) -> None:
    method = build(**options)
    logits = method(batch).logits
    for index, (t, n) in enumerate(SIZES):
        static = batch.audio[index, :t]
        delta = slow_difference(static, str(options.get("deltas", "frequency")))
        image = torch.stack([static, delta, slow_difference(delta, str(options.get("deltas", "frequency")))])
        if t < 63:
            image = torch.cat([image, torch.zeros(3, 63 - t, 70).double()], dim=1)
        for number, conv in enumerate(method.convs):
            image = slow_conv(conv, image)
            if number in {0, 1, 4}:
                image = slow_pool(image)
        assert image.shape[1:].numel() > 0
        audio = image.sum((1, 2)) / (image[0].numel() if options.get("pool") == "mean" else 1)
        text = batch.text[index, 0] if options.get("text_pool") == "first" else batch.text[index, :n].mean(0)
        expected = method.classifier(torch.cat([slow_norm(method.audio_norm, audio), slow_norm(method.text_norm, text)]))
        torch.testing.assert_close(logits[index], expected, atol=1e-8, rtol=0)


@pytest.mark.parametrize("width", [3, 63, 70, 321])
def test_no_length_sees_another(width: int) -> None:
    """Every length from 1 to 140, alone and beside a longer one; narrow features too."""
    torch.manual_seed(0)
    method = create("bert_alexnet", audio_dim=width, text_dim=2, num_classes=3, hidden=1, norm=False).double().eval()
    for conv in method.convs:
        nn.init.normal_(conv.bias, std=0.3)
    lengths = torch.arange(1, 141, 1 if width < 100 else 9)
    mask = torch.arange(140) < lengths[:, None]
    audio = torch.randn(len(lengths), 140, width).double()
    together = method._audio(audio * mask.unsqueeze(-1), lengths)
    for index, length in enumerate(lengths.tolist()):
        alone = method._audio(audio[index : index + 1, :length], lengths[index : index + 1])
        torch.testing.assert_close(together[index : index + 1], alone, atol=1e-9, rtol=0)


def test_nothing_heard_is_zero(batch: Batch) -> None:
    method = build()
    assert not method._audio(torch.zeros(1, 5, 70).double(), torch.tensor([0])).any()
    silent = method._audio(torch.zeros(1, 5, 70).double(), torch.tensor([5]))
    assert silent.any(), "zeros that are frames are heard"


def test_parameter_count_is_alexnets() -> None:
    """AlexNet's five convolutions have 2,469,696 weights and biases; then 256 + 768 numbers to four classes, and two norms."""
    convs = (3 * 121 * 64 + 64) + (64 * 25 * 192 + 192) + (192 * 9 * 384 + 384) + (384 * 9 * 256 + 256) + (256 * 9 * 256 + 256)
    assert convs == 2_469_696
    for norm, extra in ((False, 0), (True, 2 * (256 + 768))):
        method = create("bert_alexnet", audio_dim=321, text_dim=768, num_classes=4, norm=norm)
        assert sum(p.numel() for p in method.parameters()) == convs + (1024 * 4 + 4) + extra


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"deltas": "both"}, "deltas is 'both'; it must be 'frequency' or 'time'"),
        ({"pool": "max"}, "pool is 'max'; it must be 'sum' or 'mean'"),
        ({"text_pool": "last"}, "text_pool is 'last'; it must be 'mean' or 'first'"),
    ],
)
def test_options_without_a_meaning_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(**options)
