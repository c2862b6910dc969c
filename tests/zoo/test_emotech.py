"""EmoTech against its layers written out plainly, its published size, and its options."""

import numpy as np
import pytest
import torch
from torch import nn

from datamodules.batch import Batch, Item, collate_utterances
from zoo import create
from zoo.emotech import EmoTech

SIZES = [(19, 7), (9, 3), (1, 1), (16, 5)]


def make(ids: bool = False) -> Batch:
    random = np.random.default_rng(1)
    items = []
    for number, (frames, tokens) in enumerate(SIZES):
        text = random.integers(0, 30, (tokens, 1)) if ids else random.normal(size=(tokens, 12)).astype(np.float32)
        items.append(Item(random.normal(size=(frames, 17)).astype(np.float32), text, number % 3, str(number)))
    batch = collate_utterances(items)
    return batch._replace(audio=batch.audio.double(), text=batch.text if ids else batch.text.double())


def build(**options: object) -> EmoTech:
    torch.manual_seed(0)
    small = {"hidden": 3, "channels": 2, "cnn_hidden": 6, "embedding": 5, "fused": 8, "frames": 17}
    text_dim = 1 if options.get("vocabulary") else 12
    method = create("emotech", audio_dim=17, text_dim=text_dim, num_classes=3, **{**small, **options}).double().eval()
    assert isinstance(method, EmoTech)
    for block in method.blocks:
        nn.init.normal_(block.norm.running_mean)
        nn.init.uniform_(block.norm.running_var, 0.5, 2.0)
    return method


def slow_lstm(layer: nn.LSTM, rows: list[torch.Tensor]) -> list[torch.Tensor]:
    """Hochreiter's cell with a forget gate, step by step."""
    size = layer.hidden_size
    h = c = rows[0].new_zeros(size)
    states = []
    for row in rows:
        gates = layer.weight_ih_l0 @ row + layer.bias_ih_l0 + layer.weight_hh_l0 @ h + layer.bias_hh_l0
        i, f, g, o = (gates[n * size : (n + 1) * size] for n in range(4))
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        h = torch.sigmoid(o) * torch.tanh(c)
        states.append(h)
    return states


def slow_block(block: nn.Module, image: torch.Tensor, keep_odd: bool) -> torch.Tensor:
    """(C, T, F) -> (C', T / 2, F // 2): convolution, ReLU, normalisation, maximum; position by position."""
    conv, norm = block.conv, block.norm
    _, steps, bands = image.shape
    bordered = image.new_zeros(len(image), steps + 2, bands + 2)
    bordered[:, 1:-1, 1:-1] = image
    found = image.new_zeros(conv.out_channels, steps, bands)
    for t in range(steps):
        for f in range(bands):
            value = (conv.weight * bordered[:, t : t + 3, f : f + 3]).sum((1, 2, 3)) + conv.bias
            value = value.clamp(min=0)
            found[:, t, f] = (value - norm.running_mean) / torch.sqrt(norm.running_var + 1e-5) * norm.weight + norm.bias
    half = (steps + keep_odd) // 2
    pooled = image.new_zeros(conv.out_channels, half, bands // 2)
    for t in range(half):
        for f in range(bands // 2):
            pooled[:, t, f] = found[:, 2 * t : 2 * t + 2, 2 * f : 2 * f + 2].flatten(1).max(1).values
    return pooled


def slow_dense(layers: nn.Sequential, x: torch.Tensor) -> torch.Tensor:
    for layer in layers.modules():
        if isinstance(layer, nn.Linear):
            x = (layer.weight @ x + layer.bias).clamp(min=0)
    return x


def both_ways(encoder: nn.Module, layer: int, rows: list[torch.Tensor]) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    return slow_lstm(encoder.ahead[layer], rows), slow_lstm(encoder.back[layer], rows[::-1])[::-1]


def slow_image(method: EmoTech, frames: torch.Tensor, flatten: bool) -> torch.Tensor:
    """The image branch of one utterance: of 17 frames, or of the real ones where a last odd frame is pooled by itself."""
    image = frames[None]
    if flatten:
        image = torch.zeros(1, 17, 17, dtype=torch.float64)
        image[0, : min(len(frames), 17)] = frames[:17]
    for block in method.blocks:
        image = slow_block(block, image, keep_odd=not flatten)
    return image.transpose(0, 1).flatten() if flatten else image.mean(1).flatten()


@pytest.mark.parametrize("cnn_pool", ["adaptive", "flatten"])
@pytest.mark.parametrize("vocabulary", [0, 30])
def test_forward_is_the_paper(cnn_pool: str, vocabulary: int) -> None:
    method, batch = build(cnn_pool=cnn_pool, vocabulary=vocabulary), make(ids=vocabulary > 0)
    logits = method(batch).logits
    for index, (t, n) in enumerate(SIZES):
        frames = batch.audio[index, :t]
        ahead, back = both_ways(method.audio_lstm, 0, list(frames))
        ahead, back = both_ways(method.audio_lstm, 1, [torch.cat(pair) for pair in zip(ahead, back, strict=True)])
        image = slow_dense(method.image, slow_image(method, frames, cnn_pool == "flatten"))
        if vocabulary:
            words = [method.embed.weight[word] for word in batch.text[index, :n, 0].tolist()]
        else:
            words = [method.embed.weight @ word + method.embed.bias for word in batch.text[index, :n]]
        states = [torch.cat(pair) for pair in zip(*both_ways(method.text_lstm, 0, words), strict=True)]
        words += [torch.zeros(5).double()] * (5 - n)
        windows = []
        for start in range(len(words) - 4):
            value = method.text_conv.bias.clone()
            for step in range(5):
                value = value + method.text_conv.weight[:, :, step] @ words[start + step]
            windows.append(value.clamp(min=0))
        parts = [ahead[-1], back[0], image, torch.stack(states).max(0).values, torch.stack(windows).max(0).values]
        expected = method.classifier(slow_dense(method.fuse, torch.cat(parts)))
        torch.testing.assert_close(logits[index], expected, atol=1e-9, rtol=0)


def test_parameter_count_is_the_papers() -> None:
    """The paper prints 7,295,821, of which 448 are moving statistics, for 740 frames of 13 MFCC, 2657 words and 5 classes.

    Keras has one bias vector per LSTM, PyTorch two: 6 times 256 more.
    """
    lstms = 2 * 4 * 64 * ((13 + 64 + 2) + (128 + 64 + 2) + (200 + 64 + 2))
    convs = (9 * 1 * 32 + 32) + (9 * 32 * 64 + 64) + (9 * 64 * 128 + 128) + 2 * (32 + 64 + 128)
    image = (92 * 1 * 128 * 512 + 512) + (512 * 128 + 128)
    text = 2657 * 200 + (5 * 200 * 128 + 128)
    head = (512 * 256 + 256) + (256 * 128 + 128) + (128 * 64 + 64) + (64 * 5 + 5)
    method = create("emotech", audio_dim=13, text_dim=1, num_classes=5, vocabulary=2657, cnn_pool="flatten")
    count = sum(p.numel() for p in method.parameters())
    assert count == lstms + convs + image + text + head == 7_295_821 - 448 + 6 * 256


@pytest.mark.parametrize("cnn_pool", ["adaptive", "flatten"])
@pytest.mark.parametrize("absent", ["audio", "text"])
def test_token_ids_padding_and_absence(cnn_pool: str, absent: str) -> None:
    method, batch = build(cnn_pool=cnn_pool, vocabulary=30), make(ids=True)
    mask = getattr(batch, f"{absent}_mask").clone()
    mask[1] = False
    batch = batch._replace(**{f"{absent}_mask": mask, "present": torch.stack([batch.audio_mask.any(1), batch.text_mask.any(1)], 1)})
    longer = batch._replace(
        audio=nn.functional.pad(batch.audio, (0, 0, 0, 6), value=50.0),
        audio_mask=nn.functional.pad(batch.audio_mask, (0, 6)),
        text=nn.functional.pad(batch.text, (0, 0, 0, 6), value=7),
        text_mask=nn.functional.pad(batch.text_mask, (0, 6)),
    )
    logits = method(batch).logits
    assert logits.isfinite().all()
    torch.testing.assert_close(method(longer).logits, logits, atol=1e-9, rtol=0)


def test_normalisation_in_training_sees_no_padding() -> None:
    """The statistics of the first block are those of the real frames."""
    method, batch = build().train(), make()
    method(batch)
    block = method.blocks[0]
    real = torch.cat(
        [
            block.conv(nn.functional.pad(batch.audio[i, :t], (0, 0, 0, 24 - t))[None, None]).relu()[0, :, :t].flatten(1)
            for i, (t, _) in enumerate(SIZES)
        ],
        dim=1,
    )
    fresh = build().blocks[0].norm
    torch.testing.assert_close(block.norm.running_mean, 0.9 * fresh.running_mean + 0.1 * real.mean(1), atol=1e-9, rtol=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cnn_pool": "max"}, "cnn_pool is 'max'; it must be 'adaptive' or 'flatten'"),
        ({"frames": 7}, "frames is 7; it must be at least 8"),
    ],
)
def test_options_without_a_meaning_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(**options)


def test_an_embedding_needs_ids() -> None:
    with pytest.raises(ValueError, match="vocabulary is 30; it must be 0 for a text feature of width 12"):
        create("emotech", audio_dim=13, text_dim=12, num_classes=3, vocabulary=30)
