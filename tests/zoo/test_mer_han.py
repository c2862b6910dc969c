"""MER-HAN against the paper's equations, written out plainly, and its options."""

import numpy as np
import pytest
import torch

from datamodules.batch import Batch, Item, collate_utterances
from zoo import create, get_method
from zoo.mer_han import MERHAN
from zoo.nn import MultiHeadAttention


@pytest.fixture
def batch() -> Batch:
    random = np.random.default_rng(1)
    sizes = [(9, 4), (3, 6), (5, 1)]
    items = [
        Item(random.normal(size=(t, 8)).astype(np.float32), random.normal(size=(n, 12)).astype(np.float32), i, str(i))
        for i, (t, n) in enumerate(sizes)
    ]
    return collate_utterances(items)


def slow_attention(block: MultiHeadAttention, query: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
    """softmax(Q K^T / sqrt(d_k)) V for every head, concatenated, times W^O: (T, D), (S, D) -> (T, D)."""
    width = query.shape[1] // block.heads
    heads = []
    for head in range(block.heads):
        part = slice(head * width, (head + 1) * width)
        q, k, v = (project(x)[:, part] for project, x in ((block.query, query), (block.key, source), (block.value, source)))
        heads.append(torch.softmax(q @ k.T / width**0.5, dim=1) @ v)
    return block.out(torch.cat(heads, dim=1))


def build(**options: object) -> MERHAN:
    torch.manual_seed(0)
    method = create("mer_han", audio_dim=8, text_dim=12, num_classes=3, hidden=6, d=8, heads=2, **options).double().eval()
    assert isinstance(method, MERHAN)
    return method


def plain_logits(method: MERHAN, batch: Batch, index: int, align: str, combine: str, gate: bool) -> torch.Tensor:
    """The forward pass of one utterance, from the equations: no batch, no mask, no padding."""

    def norm(layer: torch.nn.LayerNorm, x: torch.Tensor) -> torch.Tensor:
        centred = x - x.mean(-1, keepdim=True)
        return centred / torch.sqrt((centred**2).mean(-1, keepdim=True) + 1e-5) * layer.weight + layer.bias

    def conv(layer: torch.nn.Conv1d, x: torch.Tensor) -> torch.Tensor:
        return x @ layer.weight[:, :, 0].T + layer.bias  # kernel 1

    audio = batch.audio[index, batch.audio_mask[index]].double()
    text = batch.text[index, batch.text_mask[index]].double()
    # ATE: H_m = LN(X_m + MHSA(X_m))
    x_a = method.audio_encoder(audio[None], torch.ones(1, len(audio), dtype=torch.bool))[0]
    h_a = norm(method.audio_local.norm, x_a + slow_attention(method.audio_local.attention, x_a, x_a))
    h_t = norm(method.text_local.norm, text + slow_attention(method.text_local.attention, text, text))
    # CMA: Z_m = LN(own + CA(Q = own, K = V = other))
    a_hat, t_hat = conv(method.audio_conv, h_a), conv(method.text_conv, h_t)
    left, right = method.audio_from_text, method.text_from_audio
    assert left is not None
    assert right is not None
    z_a = norm(left.norm, a_hat + slow_attention(left.attention, a_hat, t_hat))
    z_t = norm(right.norm, t_hat + slow_attention(right.attention, t_hat, a_hat))
    # MEC: s_t = U^T F_t, alpha = softmax(s), v = sum_t alpha_t F_t
    if align == "union":
        f = torch.cat([z_a, z_t])
    elif align == "modality":
        f = torch.stack([z_a.mean(0), z_t.mean(0)])
    else:
        longest = max(len(z_a), len(z_t))
        z_a, z_t = (torch.cat([z, z.new_zeros(longest - len(z), z.shape[1])]) for z in (z_a, z_t))
        f = z_a + z_t if combine == "add" else torch.cat([z_a, z_t], dim=1)
    assert method.score is not None
    alpha = torch.softmax(f @ method.score[-1].weight[0], dim=0)
    v = sum(a * row for a, row in zip(alpha, f, strict=True))
    if gate:
        v = v * f.mean(0)
    return method.classifier(v)


@pytest.mark.parametrize(("align", "combine"), [("union", "add"), ("modality", "add"), ("position", "add"), ("position", "concat")])
@pytest.mark.parametrize("gate", [False, True])
def test_forward_is_the_paper(batch: Batch, align: str, combine: str, gate: bool) -> None:
    method = build(mec_align=align, mec_combine=combine, gate_with_mean=gate)
    logits = method(batch._replace(audio=batch.audio.double(), text=batch.text.double())).logits
    for index in range(3):
        expected = plain_logits(method, batch, index, align, combine, gate)
        # masked_softmax works in float32.
        torch.testing.assert_close(logits[index], expected, atol=1e-5, rtol=0)


def test_parameter_count_is_the_hand_derived_one() -> None:
    """At the paper's widths: MFCC 40, BERT 768, LSTM 256 per direction, d 256, four classes."""
    lstm = 2 * (4 * 256 * (40 + 256 + 2)) + 2 * (4 * 256 * (512 + 256 + 2))  # input, recurrent and two bias vectors per gate
    local = (4 * (512 * 512 + 512) + 2 * 512) + (4 * (768 * 768 + 768) + 2 * 768)
    conv = (512 * 256 + 256) + (768 * 256 + 256)
    cross = 2 * (4 * (256 * 256 + 256) + 2 * 256)
    head = 256 + (256 * 4 + 4)
    method = create("mer_han", audio_dim=40, text_dim=768, num_classes=4)
    assert sum(p.numel() for p in method.parameters()) == lstm + local + conv + cross + head == 6_459_652


def test_maps_are_named_and_masked(batch: Batch) -> None:
    maps = build()(batch._replace(audio=batch.audio.double(), text=batch.text.double()), maps=True).attention
    assert maps is not None
    assert {name: tuple(m.shape) for name, m in maps.items()} == {
        "local_audio": (3, 9, 9),
        "local_text": (3, 6, 6),
        "audio_from_text": (3, 9, 6),
        "text_from_audio": (3, 6, 9),
        "global": (3, 15),
    }
    real = torch.cat([batch.audio_mask, batch.text_mask], dim=1)
    assert not maps["global"][~real].any()
    assert not maps["audio_from_text"].transpose(1, 2)[~batch.text_mask].any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"conv_kernel": 2}, "odd"),
        ({"mec_align": "time"}, "'union', 'modality' or 'position'"),
        ({"mec_combine": "concat"}, "mec_align='position'"),
        ({"mec_score": "cosine"}, "'dot' or 'additive'"),
    ],
)
def test_options_without_a_meaning_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(**options)


@pytest.mark.parametrize(
    "options", [{"local_residual": False}, {"cross_attention": False}, {"mec_score": "additive"}, {"conv_kernel": 3}]
)
def test_every_option_changes_the_prediction_and_none_sees_padding(batch: Batch, options: dict[str, object]) -> None:
    changed, default = build(**options), build()
    doubled = batch._replace(audio=batch.audio.double(), text=batch.text.double())
    assert not torch.allclose(changed(doubled).logits, default(doubled).logits)
    alone = doubled._replace(**{key: getattr(doubled, key)[1:2] for key in ("audio", "audio_mask", "text", "text_mask")})
    cut = alone._replace(audio=alone.audio[:, :3], audio_mask=alone.audio_mask[:, :3])
    torch.testing.assert_close(changed(cut).logits, changed(doubled).logits[1:2], atol=1e-6, rtol=0)


def test_the_ablation_rows_are_the_papers_in_its_order() -> None:
    assert list(get_method("mer_han").ablations) == [
        "Audio, no local attention",
        "Audio + local attention",
        "Text, no local attention",
        "Text + local attention",
        "MER-HAN w/o CMA",
        "MER-HAN w/o global attention",
        "MER-HAN",
    ]
