"""Decision-level fusion: the rules written out plainly, the separate losses, and what is absent."""

import itertools
import math

import pytest
import torch

from datamodules.batch import IGNORED, Batch
from zoo import create, get_method
from zoo.late_average import LateAverage


@pytest.fixture
def batch() -> Batch:
    """Five utterances: both modalities, audio alone, text alone, neither, and one without a label."""
    random = torch.Generator().manual_seed(1)
    frames, tokens = torch.tensor([5, 3, 0, 0, 2]), torch.tensor([2, 0, 4, 0, 1])
    audio_mask, text_mask = torch.arange(5) < frames[:, None], torch.arange(4) < tokens[:, None]
    return Batch(
        audio=torch.randn(5, 5, 6, generator=random).double() * audio_mask[..., None],
        audio_mask=audio_mask,
        text=torch.randn(5, 4, 7, generator=random).double() * text_mask[..., None],
        text_mask=text_mask,
        label=torch.tensor([0, 1, 2, 1, IGNORED]),
        present=torch.stack([audio_mask.any(1), text_mask.any(1)], dim=1),
        utterance_id=list("abcde"),
    )


def build(**options: object) -> LateAverage:
    torch.manual_seed(0)
    method = create("late_average", audio_dim=6, text_dim=7, num_classes=3, **{"hidden": 4, "d": 5, **options}).double().eval()
    assert isinstance(method, LateAverage)
    return method


def plain_softmax(scores: list[float]) -> list[float]:
    total = sum(math.exp(score) for score in scores)
    return [math.exp(score) / total for score in scores]


def plain_single(method: LateAverage, batch: Batch, index: int) -> list[list[float] | None]:
    """The posterior of each modality of one utterance, None where absent; identity encoder, fresh running statistics."""

    def normed(values: list[float]) -> torch.Tensor:
        return torch.tensor([value / math.sqrt(1 + 1e-5) for value in values], dtype=torch.double)

    def classify(layers: torch.nn.Sequential, x: torch.Tensor) -> list[float]:
        linear = [layer for layer in layers if isinstance(layer, torch.nn.Linear)]
        for layer in linear[:-1]:
            x = (layer.weight @ x + layer.bias).clamp(min=0)
        return plain_softmax((linear[-1].weight @ x + linear[-1].bias).tolist())

    def moments(rows: list[list[float]], column: int) -> tuple[float, float]:
        values = [row[column] for row in rows]
        mean = sum(values) / max(len(values), 1)
        return mean, math.sqrt(sum((value - mean) ** 2 for value in values) / max(len(values), 1) + 1e-5)

    audio = batch.audio[index, batch.audio_mask[index]].tolist()
    steps = [[after - before for before, after in zip(*pair, strict=True)] for pair in itertools.pairwise(audio)]
    text = batch.text[index, batch.text_mask[index]].tolist()
    vector = [moments(audio, i)[0] for i in range(6)] + [moments(audio, i)[1] for i in range(6)]
    vector += [moments(steps, i)[1] for i in range(6)]
    return [
        classify(method.audio_classifier, normed(vector)) if audio else None,
        classify(method.text_classifier, normed([moments(text, i)[0] for i in range(7)])) if text else None,
    ]


@pytest.mark.parametrize("d", [0, 5])
@pytest.mark.parametrize("audio_share", [0.5, 0.2])
@pytest.mark.parametrize("rule", ["mean", "weighted", "product"])
def test_the_rules_are_the_plain_ones(batch: Batch, rule: str, audio_share: float, d: int) -> None:
    method = build(rule=rule, audio_share=audio_share, d=d)
    scores = [math.log(audio_share), math.log(1 - audio_share)]
    if method.score is not None:
        assert method.score.softmax(0).tolist() == pytest.approx([audio_share, 1 - audio_share])
        scores = [0.7, -0.4]
        method.score.data = torch.tensor(scores, dtype=torch.double)
    output = method(batch)
    for index in range(5):
        single = plain_single(method, batch, index)
        there = [m for m in (0, 1) if single[m] is not None]
        share = {m: math.exp(scores[m]) / sum(math.exp(scores[k]) for k in there) for m in there}
        expected = []
        for c in range(3):
            parts = {m: single[m][c] for m in there}
            if rule == "product":
                combined = math.prod(parts[m] ** (len(there) * share[m]) for m in there)
            else:
                combined = sum(share[m] * parts[m] for m in there)
            expected.append(combined if there else 1.0)
        expected = [value / sum(expected) for value in expected]
        # masked_softmax works in float32.
        torch.testing.assert_close(output.logits[index].exp(), torch.tensor(expected, dtype=torch.double), atol=1e-6, rtol=0)


def test_the_loss_is_one_cross_entropy_per_modality_over_what_is_there(batch: Batch) -> None:
    method = build()
    method.class_weight = torch.tensor([0.5, 1.0, 3.0])
    total = 0.0
    for modality in (0, 1):
        summed = weights = 0.0
        for index, label in enumerate([0, 1, 2, 1]):
            posterior = plain_single(method, batch, index)[modality]
            if posterior is not None:
                weight = [0.5, 1.0, 3.0][label]
                summed, weights = summed - weight * math.log(posterior[label]), weights + weight
        total += summed / weights
    assert method.loss(method(batch), batch).item() == pytest.approx(total, rel=1e-6)


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


@pytest.mark.parametrize("audio_share", [0.5, 0.2])
@pytest.mark.parametrize("rule", ["mean", "weighted", "product"])
def test_of_several_labels_every_class_is_combined_by_itself(batch: Batch, rule: str, audio_share: float) -> None:
    method = build(rule=rule, audio_share=audio_share)
    method.use_task("multilabel")
    output = method(batch)
    odds = output.fused.view(5, 2, 3).tolist()
    for index, present in enumerate(batch.present.tolist()):
        share = [audio_share * present[0], (1 - audio_share) * present[1]]
        share = [value / (sum(share) or 1) for value in share]
        for c in range(3):
            yes, no = ([sigmoid(sign * odds[index][m][c]) for m in (0, 1)] for sign in (1, -1))
            if rule == "product":
                yes, no = (math.prod(p ** (sum(present) * w) for p, w in zip(side, share, strict=True)) for side in (yes, no))
            else:
                yes, no = (sum(p * w for p, w in zip(side, share, strict=True)) for side in (yes, no))
            expected = yes / (yes + no) if any(present) else 0.5
            assert sigmoid(output.logits[index, c].item()) == pytest.approx(expected, abs=1e-6)


def test_of_several_labels_the_loss_is_one_binary_cross_entropy_per_modality(batch: Batch) -> None:
    method = build()
    method.use_task("multilabel")
    method.class_weight = torch.tensor([0.5, 1.0, 3.0])
    label = torch.tensor([[1, 0, 0], [1, 1, 0], [0, 0, 0], [0, 0, 1], [IGNORED] * 3]).float()
    output = method(batch)
    total = 0.0
    for modality in (0, 1):
        terms = [
            -weight * math.log(sigmoid(x)) if y else -math.log(sigmoid(-x))
            for index in range(4)
            if batch.present[index, modality]
            for x, y, weight in zip(
                output.fused.view(5, 2, 3)[index, modality].tolist(), label[index].tolist(), (0.5, 1.0, 3.0), strict=True
            )
        ]
        total += sum(terms) / len(terms)
    assert method.loss(output, batch._replace(label=label)).item() == pytest.approx(total, rel=1e-6)
    nothing = batch._replace(label=label, present=torch.zeros(5, 2, dtype=torch.bool))
    assert method.loss(method(nothing), nothing).item() == 0


def test_no_gradient_crosses_from_one_modality_to_the_other(batch: Batch) -> None:
    method = build(rule="weighted")
    silent = batch._replace(present=batch.present & torch.tensor([True, False]))
    method.loss(method(silent), silent).backward()
    assert all(p.grad is None or not p.grad.any() for p in method.text_classifier.parameters())
    method.zero_grad()
    # The fused cross-entropy reaches the weights and nothing else.
    fused = torch.nn.functional.cross_entropy(method(batch).logits[:4], batch.label[:4])
    fused.backward()
    assert method.score is not None
    assert method.score.grad is not None
    assert method.score.grad.any()
    assert all(p.grad is None or not p.grad.any() for name, p in method.named_parameters() if name != "score")


@pytest.mark.parametrize("rule", ["mean", "weighted", "product"])
def test_with_nothing_there_the_posterior_is_uniform_and_the_loss_zero(batch: Batch, rule: str) -> None:
    method = build(rule=rule).train()
    masks = {key: torch.zeros_like(getattr(batch, key)) for key in ("audio_mask", "text_mask", "present")}
    empty = batch._replace(**masks)
    output = method(empty)
    torch.testing.assert_close(output.logits.exp(), torch.full((5, 3), 1 / 3, dtype=torch.double))
    loss = method.loss(output, empty)
    loss.backward()
    assert loss.item() == 0
    assert all(p.grad is None or p.grad.isfinite().all() for p in method.parameters())


def test_the_map_holds_the_weights_of_what_is_there(batch: Batch) -> None:
    attention = build()(batch, maps=True).attention
    expected = torch.tensor([[0.5, 0.5], [1, 0], [0, 1], [0, 0], [0.5, 0.5]], dtype=torch.double)
    torch.testing.assert_close(attention["modality"], expected)
    shared = build(rule="product", audio_share=0.2)(batch, maps=True).attention
    torch.testing.assert_close(shared["modality"][:2], torch.tensor([[0.2, 0.8], [1, 0]], dtype=torch.double))


def test_at_an_equal_share_the_product_is_the_plain_one(batch: Batch) -> None:
    method = build(rule="product")
    audio, text = method(batch).fused[0].exp().chunk(2)
    torch.testing.assert_close(method(batch).logits[0].exp(), audio * text / (audio * text).sum(), atol=1e-6, rtol=0)


def test_parameter_count_is_the_hand_derived_one() -> None:
    """40 MFCC and BERT's 768, four classes: functionals of 120, norms' scale and shift, a hidden layer of 256 each."""
    audio = 2 * 120 + (120 * 256 + 256) + (256 * 4 + 4)
    text = 2 * 768 + (768 * 256 + 256) + (256 * 4 + 4)
    method = create("late_average", audio_dim=40, text_dim=768, num_classes=4)
    assert sum(p.numel() for p in method.parameters()) == audio + text == 231_672
    linear = create("late_average", audio_dim=40, text_dim=768, num_classes=4, d=0, rule="weighted")
    assert sum(p.numel() for p in linear.parameters()) == 2 * 120 + (120 * 4 + 4) + 2 * 768 + (768 * 4 + 4) + 2


def test_bad_options_are_refused() -> None:
    with pytest.raises(ValueError, match="late_average: rule is 'vote'; it must be 'mean', 'weighted' or 'product'"):
        build(rule="vote")
    with pytest.raises(ValueError, match="late_average: audio_share is 1; it must be between 0 and 1"):
        build(audio_share=1.0)
    with pytest.raises(ValueError, match="encoder is 'gru'"):
        build(encoder="gru")


def test_the_ablation_rows_are_the_rules() -> None:
    assert [variant.options["rule"] for variant in get_method("late_average").ablations.values()] == ["mean", "weighted", "product"]
