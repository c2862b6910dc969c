"""MER-MCE's fusion against its equations, written out plainly, and its options."""

import numpy as np
import pytest
import torch

from datamodules.batch import Batch, Item, collate_utterances
from zoo import create
from zoo.mer_mce import MERMCE
from zoo.nn import MaskedNorm


@pytest.fixture
def batch() -> Batch:
    random = np.random.default_rng(1)
    sizes = [(9, 4), (3, 6), (5, 1), (0, 2), (4, 0), (0, 0)]
    items = [
        Item(random.normal(size=(t, 8)).astype(np.float32), random.normal(size=(n, 12)).astype(np.float32), i % 3, str(i))
        for i, (t, n) in enumerate(sizes)
    ]
    found = collate_utterances(items)
    return found._replace(audio=found.audio.double(), text=found.text.double())


def build(**options: object) -> MERMCE:
    torch.manual_seed(0)
    method = create("mer_mce", audio_dim=8, text_dim=12, num_classes=3, **{"d": 6, **options}).double().eval()
    assert isinstance(method, MERMCE)
    for norm in (method.audio_norm, method.text_norm):  # as if trained
        torch.nn.init.normal_(norm.running_mean)
        torch.nn.init.uniform_(norm.running_var, 0.5, 2.0)
    return method


def normed(norm: MaskedNorm, x: torch.Tensor) -> torch.Tensor:
    return (x - norm.running_mean) / (norm.running_var + norm.eps).sqrt() * norm.weight + norm.bias


def mlp(network: torch.nn.Sequential, x: torch.Tensor, layers: int) -> torch.Tensor:
    linear = [part for part in network.modules() if isinstance(part, torch.nn.Linear)][:layers]
    assert len(linear) == layers
    for layer in linear:
        x = torch.clamp(layer.weight @ x + layer.bias, min=0)
    return x


def plain(
    method: MERMCE, batch: Batch, index: int, pooling: str, softmax: bool, layers: int
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """One utterance: h_m = MLP_m(f_m), e = W MLP([h_a; h_t]), alpha = softmax(e) over those present, z = sum alpha_m h_m."""
    frames, tokens = batch.audio[index, batch.audio_mask[index]], batch.text[index, batch.text_mask[index]]
    zero = torch.zeros(6, dtype=torch.float64)
    hidden = {"audio": zero, "text": zero}
    if len(frames):
        pooled = frames.mean(0)
        if pooling == "functionals":
            steps = frames[1:] - frames[:-1]
            deviations = [(x.var(0, correction=0) + 1e-5).sqrt() for x in (frames, steps)]
            pooled = torch.cat([pooled, *deviations])
        hidden["audio"] = mlp(method.audio_mlp, normed(method.audio_norm, pooled), layers)
    if len(tokens):
        hidden["text"] = mlp(method.text_mlp, normed(method.text_norm, tokens.mean(0)), layers)
    last = method.attention[-1]
    e = last.weight @ mlp(method.attention[0], torch.cat([hidden["audio"], hidden["text"]]), layers) + last.bias
    there = {"audio": len(frames) > 0, "text": len(tokens) > 0}
    scores = {name: e[i] for i, name in enumerate(hidden) if there[name]}
    total = sum(torch.exp(score) for score in scores.values())
    alpha = {name: torch.exp(score) / total if softmax else score for name, score in scores.items()}
    z = sum((alpha[name] * hidden[name] for name in alpha), zero)
    return method.classifier.weight @ z + method.classifier.bias, alpha


@pytest.mark.parametrize("pooling", ["functionals", "mean"])
@pytest.mark.parametrize("softmax", [True, False])
@pytest.mark.parametrize("layers", [1, 3])
def test_forward_is_the_equations(batch: Batch, pooling: str, softmax: bool, layers: int) -> None:
    method = build(pooling=pooling, att_softmax=softmax, layers=layers)
    output = method(batch, maps=True)
    for index in range(len(batch.label)):
        logits, alpha = plain(method, batch, index, pooling, softmax, layers)
        torch.testing.assert_close(output.logits[index], logits, atol=1e-6, rtol=0)  # masked_softmax works in float32
        if softmax:
            for column, name in enumerate(("audio", "text")):
                expected = alpha.get(name, torch.zeros((), dtype=torch.float64))
                torch.testing.assert_close(output.attention["modality"][index, column], expected, atol=1e-6, rtol=0)
    assert (output.attention is None) == (not softmax)


def test_an_absent_modality_has_no_weight(batch: Batch) -> None:
    weights = build()(batch, maps=True).attention["modality"]
    assert torch.equal(weights[3:], torch.tensor([[0.0, 1.0], [1.0, 0.0], [0.0, 0.0]], dtype=torch.float64))


def test_parameter_count_is_the_hand_derived_one() -> None:
    """HuBERT large and RoBERTa large, 1024 each, width 128, seven classes; the norms have two vectors."""
    square = 128 * 128 + 128
    audio = 2 * 3072 + (3072 * 128 + 128) + 2 * square
    text = 2 * 1024 + (1024 * 128 + 128) + 2 * square
    attention = (256 * 128 + 128) + 2 * square + (128 * 2 + 2)
    method = create("mer_mce", audio_dim=1024, text_dim=1024, num_classes=7)
    assert sum(p.numel() for p in method.parameters()) == audio + text + attention + (128 * 7 + 7) == 665_865


@pytest.mark.parametrize(
    ("options", "message"),
    [({"pooling": "max"}, "pooling is 'max'; it must be 'functionals' or 'mean'"), ({"layers": 0}, "layers is 0")],
)
def test_options_without_a_meaning_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(**options)
