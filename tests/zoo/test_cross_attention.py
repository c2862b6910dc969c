"""Cross-modal attention with statistics pooling against its equations, written out plainly, and its options."""

import numpy as np
import pytest
import torch

from datamodules.batch import Batch, Item, collate_utterances
from zoo import create
from zoo.cross_attention import CrossModalAttention
from zoo.nn import BiLSTM, Convolution, CrossAttention, MaskedNorm


@pytest.fixture
def batch() -> Batch:
    random = np.random.default_rng(1)
    sizes = [(9, 4), (3, 6), (5, 1), (1, 2), (0, 2), (4, 0), (0, 0)]
    items = [
        Item(random.normal(size=(t, 8)).astype(np.float32), random.normal(size=(n, 12)).astype(np.float32), i % 3, str(i))
        for i, (t, n) in enumerate(sizes)
    ]
    found = collate_utterances(items)
    return found._replace(audio=found.audio.double(), text=found.text.double())


def build(**options: object) -> CrossModalAttention:
    torch.manual_seed(0)
    small = {"d": 6, "heads": 2, "fused": 5, "hidden": 3}
    method = create("cross_attention", audio_dim=8, text_dim=12, num_classes=3, **{**small, **options}).double().eval()
    assert isinstance(method, CrossModalAttention)
    for norm in (method.audio_norm, method.text_norm, method.audio_pool_norm, method.text_pool_norm):  # as if trained
        torch.nn.init.normal_(norm.running_mean)
        torch.nn.init.uniform_(norm.running_var, 0.5, 2.0)
    return method


def normed(norm: MaskedNorm, x: torch.Tensor) -> torch.Tensor:
    return (x - norm.running_mean) / (norm.running_var + norm.eps).sqrt() * norm.weight + norm.bias


def attend(block: CrossAttention, own: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """LN(own + softmax(Q K^T / sqrt(d_k)) V W), a query and a head at a time: (T, d), (S, d) -> (T, d)."""
    inner, rows = block.attention, []
    width = own.shape[1] // inner.heads
    for query in own:
        heads = []
        for head in range(inner.heads):
            part = slice(head * width, (head + 1) * width)
            q = inner.query(query)[part]
            scores = [torch.exp(q @ inner.key(key)[part] / width**0.5) for key in other]
            values = [score / sum(scores) * inner.value(key)[part] for score, key in zip(scores, other, strict=True)]
            heads.append(sum(values, torch.zeros(width, dtype=own.dtype)))
        total = query + inner.out(torch.cat(heads))
        centred = total - total.mean()
        rows.append(centred / torch.sqrt((centred**2).mean() + 1e-5) * block.norm.weight + block.norm.bias)
    return torch.stack(rows)


def deviation(x: torch.Tensor) -> torch.Tensor:
    return (x.var(0, correction=0) + 1e-5).sqrt() if len(x) else torch.full_like(x[:0].sum(0), 1e-5**0.5)


def plain_logits(method: CrossModalAttention, batch: Batch, index: int, blocks: int, skip: bool) -> torch.Tensor:
    """The forward pass of one utterance: no batch, no mask, no padding."""
    frames, tokens = batch.audio[index, batch.audio_mask[index]], batch.text[index, batch.text_mask[index]]
    audio, text = (
        torch.stack([project(normed(norm, row)) for row in x]) if len(x) else x.new_zeros(0, 6)
        for x, norm, project in ((frames, method.audio_norm, method.audio_proj), (tokens, method.text_norm, method.text_proj))
    )
    for block in range(blocks):
        audio, text = (
            attend(method.audio_from_text[block], audio, text) if len(audio) else audio,
            attend(method.text_from_audio[block], text, audio) if len(text) else text,
        )
    # Mean and deviation of each; an absent modality is zero.
    pooled = []
    for x, raw, norm in ((audio, frames, method.audio_pool_norm), (text, tokens, method.text_pool_norm)):
        if not len(x):
            pooled.append(torch.zeros(norm.num_features, dtype=torch.float64))
            continue
        parts = [x.mean(0), deviation(x)]
        if skip and raw is frames:
            parts += [raw.mean(0), deviation(raw), deviation(raw[1:] - raw[:-1])]
        elif skip:
            parts += [raw.mean(0)]
        pooled.append(normed(norm, torch.cat(parts)))
    first = method.fuse[1]
    return method.classifier(torch.clamp(first(torch.cat(pooled)), min=0))


@pytest.mark.parametrize("blocks", [1, 2])
@pytest.mark.parametrize("skip", [True, False])
@pytest.mark.parametrize("heads", [1, 3])
def test_forward_is_the_equations(batch: Batch, blocks: int, skip: bool, heads: int) -> None:
    method = build(blocks=blocks, skip=skip, heads=heads)
    logits = method(batch).logits
    for index in range(len(batch.label)):
        expected = plain_logits(method, batch, index, blocks, skip)
        torch.testing.assert_close(logits[index], expected, atol=1e-9, rtol=0)


def test_maps_are_of_the_last_block_and_masked(batch: Batch) -> None:
    method = build(blocks=2)
    maps = method(batch, maps=True).attention
    assert {name: tuple(m.shape) for name, m in maps.items()} == {"audio_from_text": (7, 9, 6), "text_from_audio": (7, 6, 9)}
    both = batch.present.all(1)
    assert torch.equal(maps["audio_from_text"].sum(-1) > 0.5, batch.audio_mask & both[:, None])
    assert torch.equal(maps["text_from_audio"].sum(-1) > 0.5, batch.text_mask & both[:, None])
    assert not maps["audio_from_text"].transpose(1, 2)[~batch.text_mask].any()
    with torch.no_grad():
        method.audio_from_text[1].attention.query.weight.mul_(3)
        method.audio_from_text[1].attention.query.bias.add_(1)
    assert not torch.allclose(method(batch, maps=True).attention["audio_from_text"], maps["audio_from_text"])


@pytest.mark.parametrize(("encoder", "kind"), [("bilstm", BiLSTM), ("cnn", Convolution)])
def test_the_encoder_is_the_one_asked_for_and_sees_no_padding(batch: Batch, encoder: str, kind: type) -> None:
    method = build(encoder=encoder)
    assert isinstance(method.encoder, kind)
    assert method.audio_proj.in_features == 6
    alone = batch._replace(**{key: getattr(batch, key)[1:2] for key in ("audio", "audio_mask", "text", "text_mask", "present")})
    cut = alone._replace(audio=alone.audio[:, :3], audio_mask=alone.audio_mask[:, :3])
    torch.testing.assert_close(method(cut).logits, method(batch).logits[1:2], atol=1e-9, rtol=0)
    assert not torch.allclose(method(batch).logits, build()(batch).logits)


def test_parameter_count_is_the_hand_derived_one() -> None:
    """At wav2vec 2.0 base and BERT base, 768 each, width 128, 256 hidden, four classes; a norm has two vectors."""
    project = 2 * (2 * 768 + 768 * 128 + 128)
    attention = 2 * (4 * (128 * 128 + 128) + 2 * 128)
    pooled = 2 * 256  # mean and deviation of both streams
    raw = 3 * 768 + 768
    head = (256 * 4) + 4
    plain, full = (create("cross_attention", audio_dim=768, text_dim=768, num_classes=4, skip=skip) for skip in (False, True))
    expected = project + attention + 2 * pooled + (pooled * 256 + 256) + head
    assert sum(p.numel() for p in plain.parameters()) == expected == 465_924
    assert sum(p.numel() for p in full.parameters()) == expected + 2 * raw + raw * 256 == 1_258_500


def test_options_without_a_meaning_are_refused() -> None:
    with pytest.raises(ValueError, match="blocks is 0"):
        build(blocks=0)
    with pytest.raises(ValueError, match="encoder is 'gru'"):
        build(encoder="gru")
