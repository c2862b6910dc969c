"""The layer-wise early fusion against its equations, written out plainly, and its options."""

import numpy as np
import pytest
import torch

from datamodules.batch import Batch, Item, collate_utterances
from zoo import create
from zoo.early_layerwise import EarlyLayerwise

LAYERS = (4, 3)  # of 2 and 4 numbers


@pytest.fixture
def batch() -> Batch:
    random = np.random.default_rng(1)
    sizes = [(9, 4), (3, 6), (5, 1)]
    items = [
        Item(random.normal(size=(t, 8)).astype(np.float32), random.normal(size=(n, 12)).astype(np.float32), i, str(i))
        for i, (t, n) in enumerate(sizes)
    ]
    batch = collate_utterances(items)
    return batch._replace(audio=batch.audio.double(), text=batch.text.double())


def build(**options: object) -> EarlyLayerwise:
    torch.manual_seed(0)
    layers = {"audio_layers": LAYERS[0], "text_layers": LAYERS[1]}
    method = create("early_layerwise", audio_dim=8, text_dim=12, num_classes=3, hidden=6, **{**layers, **options}).double().eval()
    assert isinstance(method, EarlyLayerwise)
    for name, value in method.named_parameters():
        if name.endswith("gamma"):
            torch.nn.init.normal_(value)
    for norm in (method.audio_norm, method.text_norm):
        torch.nn.init.normal_(norm.running_mean)
        torch.nn.init.uniform_(norm.running_var, 0.5, 2.0)
    return method


def plain_vector(method: EarlyLayerwise, x: torch.Tensor, modality: str, aggregation: str, pooling: str) -> torch.Tensor:
    """One utterance's vector: rows (T, layers * D), no batch, no mask."""
    layers, pool, norm = (getattr(method, f"{modality}_{part}") for part in ("layers", "pool", "norm"))
    count = LAYERS[0] if modality == "audio" else LAYERS[1]
    width = x.shape[1] // count
    parts = [x[:, n * width : (n + 1) * width] for n in range(count)]  # a_0, a_1, ...
    if aggregation == "weighted":
        exponents = layers.gamma.exp()
        x = sum(exponents[n] / exponents.sum() * part for n, part in enumerate(parts))
    elif aggregation == "mean":
        x = sum(parts) / count
    elif aggregation == "last":
        x = parts[-1]
    if pooling == "attentive":
        scores = torch.stack([(row * pool.score.weight[0]).sum() for row in x]).exp()
        z = sum(score / scores.sum() * row for score, row in zip(scores, x, strict=True))
    elif pooling == "max":
        z = torch.stack([max(column) for column in x.T])
    else:
        z = x.mean(0)
        if pooling != "mean" and (pooling, modality) != ("functionals", "text"):
            z = torch.cat([z, torch.sqrt(((x - x.mean(0)) ** 2).mean(0) + 1e-5)])
        if pooling == "functionals" and modality == "audio":
            steps = x[1:] - x[:-1]
            z = torch.cat([z, torch.sqrt(((steps - steps.mean(0)) ** 2).mean(0) + 1e-5)])
    return (z - norm.running_mean) / torch.sqrt(norm.running_var + 1e-5) * norm.weight + norm.bias


@pytest.mark.parametrize("aggregation", ["weighted", "mean", "last", "concat"])
@pytest.mark.parametrize("pooling", ["mean", "statistics", "max", "attentive", "functionals"])
def test_forward_is_the_equations(batch: Batch, aggregation: str, pooling: str) -> None:
    method = build(aggregation=aggregation, pooling=pooling)
    logits = method(batch).logits
    for index in range(3):
        z = torch.cat(
            [
                plain_vector(method, batch.audio[index, batch.audio_mask[index]], "audio", aggregation, pooling),
                plain_vector(method, batch.text[index, batch.text_mask[index]], "text", aggregation, pooling),
            ]
        )
        expected = method.classifier((method.fuse[0].weight @ z + method.fuse[0].bias).clamp(min=0))
        # The shared pooling works in float32.
        torch.testing.assert_close(logits[index], expected, atol=1e-5, rtol=0)


def test_parameter_count_is_the_hand_derived_one() -> None:
    """Base encoders, 13 states of 768 each, mean pooling: weights, two norms, 1536 -> 256 -> 4."""
    expected = 13 + 13 + 2 * (2 * 768) + (1536 * 256 + 256) + (256 * 4 + 4)
    method = create(
        "early_layerwise",
        audio_dim=13 * 768,
        text_dim=13 * 768,
        num_classes=4,
        audio_layers=13,
        text_layers=13,
        pooling="mean",
    )
    assert sum(p.numel() for p in method.parameters()) == expected == 397_598


def test_the_layers_start_equal_and_their_weights_are_the_maps(batch: Batch) -> None:
    torch.manual_seed(0)
    method = create("early_layerwise", audio_dim=8, text_dim=12, num_classes=3, audio_layers=4, pooling="attentive").double().eval()
    present = batch.present.clone()
    present[2, 0] = False
    maps = method(batch._replace(present=present), maps=True).attention
    assert maps is not None
    torch.testing.assert_close(maps["audio_layers"], torch.tensor([[0.25] * 4, [0.25] * 4, [0.0] * 4]).double())
    torch.testing.assert_close(maps["text_layers"], torch.ones(3, 1).double())
    assert maps["audio_positions"].shape == (3, 9)
    assert not maps["audio_positions"][~batch.audio_mask].any()
    assert set(build(aggregation="concat", pooling="mean")(batch, maps=True).attention or {}) == set()
    last = build(aggregation="last")(batch, maps=True).attention
    assert last is not None
    assert last["text_layers"].tolist() == [[0.0, 0.0, 1.0]] * 3


def test_every_layer_weight_learns(batch: Batch) -> None:
    method = build().train()
    method.loss(method(batch), batch).backward()
    for layers in (method.audio_layers, method.text_layers):
        assert layers.gamma is not None
        assert layers.gamma.grad is not None
        assert layers.gamma.grad.ne(0).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"aggregation": "sum"}, "aggregation is 'sum'; it must be 'weighted', 'mean', 'last' or 'concat'"),
        ({"pooling": "min"}, "pooling is 'min'"),
        ({"audio_layers": 3}, "audio_layers is 3; it must divide the feature's width, 8"),
        ({"text_layers": 0}, "text_layers is 0; it must divide the feature's width, 12"),
    ],
)
def test_options_without_a_meaning_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(**options)
