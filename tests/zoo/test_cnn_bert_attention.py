"""CNN + BERT with attention fusion against the paper's equations, written out plainly, and its options."""

import numpy as np
import pytest
import torch
from torch import nn

from datamodules.batch import Batch, Item, collate_dialogues, collate_utterances
from zoo import create
from zoo.cnn_bert_attention import CnnBertAttention, _Convolution

SIZES = [[(14, 4), (9, 2), (3, 1)], [(6, 3)], [(11, 2), (0, 3), (7, 0), (0, 0)]]


@pytest.fixture
def batch() -> Batch:
    random = np.random.default_rng(1)
    dialogues = [
        [
            Item(
                random.normal(size=(t, 9)).astype(np.float32), random.normal(size=(n, 12)).astype(np.float32), i % 3, f"{d}{i}", "a"
            )
            for i, (t, n) in enumerate(turns)
        ]
        for d, turns in enumerate(SIZES)
    ]
    batch = collate_dialogues(dialogues)
    return batch._replace(audio=batch.audio.double(), text=batch.text.double())


def build(**options: object) -> CnnBertAttention:
    torch.manual_seed(0)
    small = {"n": 7, "channels": 1, "hidden": 4}
    method = create("cnn_bert_attention", audio_dim=9, text_dim=12, num_classes=3, **{**small, **options}).double().eval()
    assert isinstance(method, CnnBertAttention)
    for module in method.modules():
        if isinstance(module, nn.BatchNorm1d):
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
            nn.init.normal_(module.bias)
    return method


def slow_norm(norm: nn.BatchNorm1d, x: torch.Tensor) -> torch.Tensor:
    return (x - norm.running_mean) / torch.sqrt(norm.running_var + 1e-5) * norm.weight + norm.bias


def slow_convolution(block: _Convolution, image: torch.Tensor) -> torch.Tensor:
    """(C, F, T) -> (C', F', T'), position by position."""
    conv = block.conv
    (high, wide), (above, beside) = conv.kernel_size, (int(p) for p in conv.padding)
    bordered = image.new_zeros(len(image), image.shape[1] + 2 * above, image.shape[2] + 2 * beside)
    bordered[:, above : above + image.shape[1], beside : beside + image.shape[2]] = image
    found = image.new_zeros(conv.out_channels, bordered.shape[1] - high + 1, bordered.shape[2] - wide + 1)
    for f in range(found.shape[1]):
        for t in range(found.shape[2]):
            value = (conv.weight * bordered[:, f : f + high, t : t + wide]).sum((1, 2, 3)) + conv.bias
            found[:, f, t] = slow_norm(block.norm, value).clamp(min=0)
    return found


def slow_speech(method: CnnBertAttention, frames: torch.Tensor) -> torch.Tensor:
    image = torch.zeros(1, 9, max(len(frames), 5)).double()
    image[0, :, : len(frames)] = frames.T
    image = torch.cat([slow_convolution(method.tall, image), slow_convolution(method.wide, image)])
    for number, block in enumerate(method.stack):
        image = slow_convolution(block, image)
        if number < 2:
            pooled = image.new_zeros(len(image), image.shape[1] // 2, image.shape[2] // 2)
            for f in range(pooled.shape[1]):
                for t in range(pooled.shape[2]):
                    pooled[:, f, t] = image[:, 2 * f : 2 * f + 2, 2 * t : 2 * t + 2].flatten(1).max(1).values
            image = pooled
    return method.audio_lift.weight @ image.mean((1, 2)) + method.audio_lift.bias


def slow_gru(layer: nn.GRU, rows: list[torch.Tensor]) -> list[torch.Tensor]:
    """Cho's cell as PyTorch writes it, step by step."""
    h, states = rows[0].new_zeros(layer.hidden_size), []
    for row in rows:
        of_input, of_state = layer.weight_ih_l0 @ row + layer.bias_ih_l0, layer.weight_hh_l0 @ h + layer.bias_hh_l0
        (ir, iz, i_n), (hr, hz, hn) = of_input.chunk(3), of_state.chunk(3)
        r, z = torch.sigmoid(ir + hr), torch.sigmoid(iz + hz)
        h = (1 - z) * torch.tanh(i_n + r * hn) + z * h
        states.append(h)
    return states


@pytest.mark.parametrize("options", [{}, {"text_scores": True}, {"text_pool": "first"}], ids=["states", "scores", "first"])
def test_forward_is_the_paper(batch: Batch, options: dict[str, object]) -> None:
    method = build(**options)
    output = method(batch, maps=True)
    assert output.attention is not None
    for d, turns in enumerate(SIZES):
        reduced = []
        for i, (_, n) in enumerate(turns):
            pooled = batch.text[d, i, 0] if options.get("text_pool") else batch.text[d, i, :n].mean(0)
            utterance = method.reduce.weight @ slow_norm(method.text_norm, pooled) + method.reduce.bias
            reduced.append(utterance if n else torch.zeros(4).double())
        ahead = slow_gru(method.context.ahead[0], reduced)
        back = slow_gru(method.context.back[0], reduced[::-1])[::-1]
        for i, (t, n) in enumerate(turns):
            text = torch.cat([ahead[i], back[i]])
            for layer in method.text_lift:
                text = layer.weight @ text + layer.bias
            speech = slow_speech(method, batch.audio[d, i, :t])
            f = torch.stack([speech, text], dim=1)  # (n, 2)
            attended = torch.tanh(method.project.weight @ f)  # L = tanh(P F)
            score = (method.weigh.weight[0] @ attended).exp() * torch.tensor([t > 0, n > 0])  # w^T L
            v = score / score.sum() if t or n else torch.zeros(2).double()
            expected = method.classifier.weight @ (f @ v) + method.classifier.bias  # M_f = F v^T
            # masked_softmax works in float32.
            torch.testing.assert_close(output.attention["modality"][d, i], v, atol=1e-6, rtol=0)
            torch.testing.assert_close(output.logits[d, i], expected, atol=1e-5, rtol=0)


def test_the_weights_are_not_all_one(batch: Batch) -> None:
    """What goes wrong if the softmax runs over an axis of one."""
    maps = build()(batch, maps=True).attention
    assert maps is not None
    assert maps["modality"].shape == (3, 4, 2)
    both = maps["modality"][batch.present.all(-1)]
    torch.testing.assert_close(both.sum(-1), torch.ones(len(both)).double())
    assert both.lt(0.99).all()
    assert not maps["modality"][~batch.present].any()


def test_text_reads_the_dialogue_and_speech_does_not(batch: Batch) -> None:
    method, changed = build(), batch.text.clone()
    changed[0, 2] += 1
    logits = method(batch).logits
    moved = (method(batch._replace(text=changed)).logits - logits).abs().sum(-1) > 1e-9  # (B, N)
    assert moved[0, :3].all()
    assert not moved[1:].any()
    louder = batch.audio.clone()
    louder[0, 2] += 1
    moved = (method(batch._replace(audio=louder)).logits - logits).abs().sum(-1) > 1e-9
    assert moved.nonzero().tolist() == [[0, 2]]


def test_no_length_sees_another() -> None:
    """Every length from 1 to 40 alone and beside a longer one."""
    method = build()
    lengths = torch.arange(1, 41)
    mask = torch.arange(40) < lengths[:, None]
    frames = torch.randn(40, 40, 9).double()
    together = method._speech(frames, mask)
    for index in range(40):
        alone = method._speech(frames[index : index + 1, : index + 1], mask[index : index + 1, : index + 1])
        torch.testing.assert_close(together[index : index + 1], alone, atol=1e-9, rtol=0)


def test_parameter_count_is_the_hand_derived_one() -> None:
    """At the paper's widths: BERT 768, 8 + 8 to 80 channels, 100 numbers, Bi-GRU 100 per direction, n 250, seven classes."""
    parallel = (20 * 8 + 8 + 2 * 8) + (16 * 8 + 8 + 2 * 8)
    stack = sum(9 * before * after + after + 2 * after for before, after in ((16, 32), (32, 48), (48, 64), (64, 80)))
    text = 2 * 768 + (768 * 100 + 100) + 2 * 3 * 100 * (100 + 100 + 2)
    fusion = 250 * 250 + 250 + (250 * 7 + 7)
    rest = parallel + stack + (80 * 250 + 250) + text + fusion
    states = create("cnn_bert_attention", audio_dim=64, text_dim=768, num_classes=7)
    assert sum(p.numel() for p in states.parameters()) == rest + (200 * 250 + 250)
    scores = create("cnn_bert_attention", audio_dim=64, text_dim=768, num_classes=7, text_scores=True)
    assert sum(p.numel() for p in scores.parameters()) == rest + (200 * 7 + 7) + (7 * 250 + 250)


def test_options_without_a_meaning_are_refused() -> None:
    with pytest.raises(ValueError, match="text_pool is 'last'; it must be 'mean' or 'first'"):
        build(text_pool="last")


def test_utterances_without_a_dialogue_are_refused() -> None:
    single = collate_utterances([Item(np.zeros((3, 9), np.float32), np.zeros((1, 12), np.float32), 0, "u")])
    with pytest.raises(ValueError, match="no turn_mask"):
        build().float()(single)
