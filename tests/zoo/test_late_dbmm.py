"""The dynamic Bayesian mixture against plain loops, and the scikit-learn classifiers' way through a training."""

import math
from pathlib import Path

import lightning as L
import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from datamodules.batch import IGNORED, Batch, Item, collate_utterances
from zoo import create, get_method
from zoo.base import Training
from zoo.late_dbmm import DBMM, entropy_weights, mixture
from zoo.nn.ensemble import cut

CLASSES = 3


def items(count: int, seed: int = 0, classes: int = CLASSES) -> list[Item]:
    """Utterances of unequal length, separable but not perfectly."""
    random = np.random.default_rng(seed)
    found = []
    for number in range(count):
        label = number % classes
        audio = random.normal(0.4 * label, 1, (random.integers(1, 20), 8)).astype(np.float32)
        text = random.normal(-0.4 * label, 1, (random.integers(1, 6), 12)).astype(np.float32)
        found.append(Item(audio, text, label, f"u{number}"))
    return found


def build(**options: object) -> DBMM:
    torch.manual_seed(0)
    small = {"hidden": 6, "trees": 7}
    method = create("late_dbmm", audio_dim=8, text_dim=12, num_classes=CLASSES, **{**small, **options}).eval()
    assert isinstance(method, DBMM)
    return method


class _Data(L.LightningDataModule):
    """Batches of 12 from 36 utterances, and others to validate and test on."""

    def __init__(self, train: list[Item] | None = None) -> None:
        super().__init__()
        self.train = items(36) if train is None else train
        labels = torch.tensor([item.label for item in self.train])
        self.class_counts = torch.bincount(labels[labels != IGNORED], minlength=CLASSES)
        self.held = collate_utterances(items(15, seed=9))

    def train_dataloader(self) -> DataLoader:
        return DataLoader([collate_utterances(self.train[i : i + 12]) for i in range(0, len(self.train), 12)], batch_size=None)

    def val_dataloader(self) -> DataLoader:
        return DataLoader([self.held], batch_size=None)

    test_dataloader = val_dataloader


def fit(method: DBMM, data: _Data, folder: Path, epochs: int = 2, *callbacks: L.Callback, lr: float = 1e-2) -> L.Trainer:
    torch.manual_seed(1)
    trainer = L.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        callbacks=list(callbacks),
        num_sanity_val_steps=1,
    )
    method.training_options = Training(lr=lr)
    trainer.fit(method.train(), datamodule=data)
    method.eval()
    return trainer


# The equations


def plain_entropy(p: list[float]) -> float:
    return -sum(x * math.log(x) for x in p if x > 0)


def plain_static(posteriors: list[list[list[float]]]) -> list[float]:
    """One list of posteriors per classifier -> the weights of section 5.2's static form."""
    entropy = [sum(plain_entropy(p) for p in rows) / len(rows) for rows in posteriors]
    raw = [1 - h / sum(entropy) for h in entropy]
    return [w / sum(raw) for w in raw] if len(raw) > 1 else [1.0]


def plain_mixture(
    slices_of: list[list[list[float]] | None], weight: list[float], slices: int, smoothing: float, update: str
) -> list[float]:
    """One item: per slice None or one posterior per active classifier -> the posterior after the last slice."""
    weight = [w / sum(weight) for w in weight]
    classes = range(CLASSES)
    mixtures: list[list[float] | None] = []
    for t, slice_ in enumerate(slices_of):
        if slice_ is None:
            mixtures.append(None)
            continue
        window = [s for s in slices_of[max(0, t - slices) : t + 1] if s is not None]
        if update != "none":
            h = []
            for i in range(len(weight)):
                if update == "inverted":
                    h.append(sum(plain_entropy(s[i]) for s in window))
                else:
                    sums = [sum(s[i][c] for s in window) for c in classes]
                    column = [s[i][sums.index(max(sums))] for s in window]
                    column = [1e-3 if p <= 1e-4 else 0.99 if p > 0.989 else p for p in column]
                    h.append(sum(-p * math.log10(p) for p in column))
            q = [x / sum(h) for x in h]
            q = [1 - x for x in q] if update == "inverted" else q
            q = [0.9 if x > 0.998 else 0.1 if x <= 1e-4 else x for x in q]
            weight = [w * x for w, x in zip(weight, q, strict=True)]
            weight = [min(max(w / sum(weight), 0.1), 0.9) for w in weight]
            weight = [w / sum(weight) for w in weight]
        mixtures.append([sum(w * p[c] for w, p in zip(weight, slice_, strict=True)) for c in classes])
    posterior = [1 / CLASSES] * CLASSES
    for m in mixtures[max(0, len(mixtures) - 1 - slices) :]:
        if m is not None:
            posterior = [p * (x + smoothing) / (1 + CLASSES * smoothing) for p, x in zip(posterior, m, strict=True)]
    return [p / sum(posterior) for p in posterior]


def random_posteriors(*shape: int, seed: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (2 * torch.randn(*shape, CLASSES, generator=generator, dtype=torch.double)).softmax(-1)


@pytest.mark.parametrize("update", ["none", "inverted", "replica"])
@pytest.mark.parametrize("slices", [0, 1, 2, 5])
@pytest.mark.parametrize("sure", [False, True])
def test_the_mixture_is_the_plain_loop(update: str, slices: int, sure: bool) -> None:
    posteriors = random_posteriors(5, 4, 3)
    if sure:  # the ends of the update's clips
        posteriors[:2, :, 0] = torch.tensor([1.0, 0.0, 0.0], dtype=torch.double)
        posteriors[2, :, 1] = torch.tensor([0.0, 1.0, 0.0], dtype=torch.double)
    real = torch.tensor([[1, 1, 1, 1], [0, 1, 0, 1], [0, 0, 0, 1], [0, 0, 0, 0], [1, 0, 1, 1]]).bool()
    active = torch.tensor([[1, 1, 1], [1, 1, 1], [1, 0, 1], [1, 1, 1], [0, 1, 0]]).bool()
    weight = torch.tensor([0.6, 0.3, 0.1], dtype=torch.double)
    posterior, weights = mixture(posteriors, real, active, weight, slices, 0.02, update)
    for b in range(5):
        kept = [i for i in range(3) if active[b, i]]
        steps = [[posteriors[b, t, i].tolist() for i in kept] if real[b, t] else None for t in range(4)]
        expected = plain_mixture(steps, [weight[i].item() for i in kept], slices, 0.02, update)
        torch.testing.assert_close(posterior[b], torch.tensor(expected, dtype=torch.double), atol=1e-12, rtol=0)
    torch.testing.assert_close(weights.sum(-1), real.double())
    assert not weights[2, :, 1].any()


def test_static_weights_are_the_plain_ones() -> None:
    posteriors = random_posteriors(6, 4)
    columns = [posteriors[:, i].tolist() for i in range(4)]
    everything = torch.ones(4, dtype=torch.bool)
    torch.testing.assert_close(entropy_weights(posteriors, everything).tolist(), plain_static(columns))
    some = torch.tensor([True, False, True, True])
    expected = plain_static([columns[0], columns[2], columns[3]])
    torch.testing.assert_close(entropy_weights(posteriors, some).tolist(), [expected[0], 0.0, *expected[1:]])
    present = torch.tensor([[1, 1, 1, 1]] * 4 + [[1, 0, 1, 1]] * 2).bool()
    columns[1] = columns[1][:4]
    torch.testing.assert_close(entropy_weights(posteriors, everything, present).tolist(), plain_static(columns))
    unseen = present & torch.tensor([True, False, True, True])
    torch.testing.assert_close(entropy_weights(posteriors, everything, unseen).tolist(), [expected[0], 0.0, *expected[1:]])
    alone = torch.tensor([False, False, True, False])
    assert entropy_weights(posteriors, alone).tolist() == [0, 0, 1, 0]


def test_the_update_favours_the_sure_and_the_public_code_the_unsure() -> None:
    posteriors = torch.tensor([[0.9, 0.05, 0.05], [0.5, 0.25, 0.25]], dtype=torch.double)[None, None]
    real, active, weight = torch.ones(1, 1).bool(), torch.ones(2).bool(), torch.tensor([0.5, 0.5], dtype=torch.double)
    sure = {
        update: mixture(posteriors, real, active, weight, 0, 0.01, update)[1][0, 0, 0].item() for update in ("inverted", "replica")
    }
    assert sure["inverted"] > 0.6
    assert sure["replica"] < 0.4


@pytest.mark.parametrize("layer2", ["mixture", "product"])
@pytest.mark.parametrize("options", [{"dynamic_update": False}, {"entropy_invert": True}, {"entropy_invert": False}])
def test_both_layers_are_the_plain_ones(layer2: str, options: dict[str, bool]) -> None:
    """From the base posteriors that forward returns to its logits; utterance 1 has no text, 2 no audio, 3 neither."""
    method = build(audio_classifiers="cnn,mlp", text_classifiers="mlp", layer2=layer2, segments=3, slices=1, **options).double()
    method.audio.weight = torch.tensor([0.7, 0.3], dtype=torch.double)
    method.weight = torch.tensor([0.8, 0.2], dtype=torch.double)
    update = "none" if options == {"dynamic_update": False} else "inverted" if options["entropy_invert"] else "replica"
    given = items(5)
    given[1] = given[1]._replace(text=given[1].text[:0])
    given[2] = given[2]._replace(audio=given[2].audio[:0])
    given[3] = given[3]._replace(text=given[3].text[:0], audio=given[3].audio[:0])
    given[4] = given[4]._replace(audio=given[4].audio[:2])  # two frames: the first of three segments is empty
    if len(given[4].audio) == 1:
        given[4] = given[4]._replace(audio=np.concatenate([given[4].audio] * 2))
    batch = collate_utterances(given)
    output = method(batch._replace(audio=batch.audio.double(), text=batch.text.double()))
    for b, item in enumerate(given):
        audio = output.fused[b, :18].reshape(3, 2, CLASSES).exp()
        text = output.fused[b, 18:].exp().tolist()
        length = len(item.audio)
        there = [length * s // 3 < length * (s + 1) // 3 for s in range(3)]
        parts, weight = [], []
        if length:
            steps = [audio[s].tolist() if there[s] else None for s in range(3)]
            parts.append(plain_mixture(steps, [0.7, 0.3], 1, 0.01, update))
            weight.append(0.8)
        if len(item.text):
            parts.append(plain_mixture([[text]], [1.0], 1, 0.01, update))
            weight.append(0.2)
        if not parts:
            expected = [1 / CLASSES] * CLASSES
        elif layer2 == "mixture":
            expected = plain_mixture([parts], weight, 0, 0.01, update)
        else:
            products = [math.prod(part[c] for part in parts) for c in range(CLASSES)]
            expected = [x / sum(products) for x in products]
        torch.testing.assert_close(output.logits[b].exp(), torch.tensor(expected, dtype=torch.double), atol=1e-9, rtol=0)


def test_the_loss_is_every_trained_classifiers_own() -> None:
    method = build(audio_classifiers="cnn,svm,mlp", text_classifiers="logistic,mlp", segments=2).double()
    assert method.audio.names == ["cnn", "mlp", "svm"]
    method.class_weight = torch.tensor([0.5, 1.0, 3.0], dtype=torch.double)
    given = items(5)
    given[1] = given[1]._replace(text=given[1].text[:0])
    given[3] = given[3]._replace(label=IGNORED)
    batch = collate_utterances(given)
    batch = batch._replace(audio=batch.audio.double(), text=batch.text.double())
    output, total = method(batch), 0.0
    for offset, segments, names, trained in ((0, 2, 3, 2), (18, 1, 2, 1)):
        for number in range(trained):
            summed = weights = 0.0
            for b, item in enumerate(given):
                length = len(item.audio) if segments == 2 else len(item.text)
                for s in range(segments):
                    if item.label != IGNORED and length * s // segments < length * (s + 1) // segments:
                        weight = [0.5, 1.0, 3.0][item.label]
                        summed -= weight * output.fused[b, offset + (s * names + number) * CLASSES + item.label].item()
                        weights += weight
            total += summed / weights
    assert method.loss(output, batch).item() == pytest.approx(total, abs=1e-9)


@pytest.mark.parametrize("segments", [1, 2, 3, 7])
def test_segments_cut_a_clip_into_all_its_frames_in_order(segments: int) -> None:
    lengths = [11, 3, 1, 0]
    mask = torch.arange(11) < torch.tensor(lengths)[:, None]
    x = (torch.arange(11.0) + 1).expand(4, 11).unsqueeze(-1) * mask.unsqueeze(-1)
    parts, real = cut(x, mask, segments)
    assert real.shape == parts.shape[:-1] == (4, segments, -(-11 // segments))
    assert not parts[~real].any()
    for b, length in enumerate(lengths):
        assert parts[b][real[b]].flatten().tolist() == list(range(1, length + 1))
        sizes = real[b].sum(1).tolist()
        assert max(sizes) - min(sizes) <= 1
        assert sizes[-1] or not length


# Training


class _Watch(L.Callback):
    """What is fitted when each validation begins, and how many rows are kept."""

    def __init__(self) -> None:
        self.seen: list[tuple[bool, list[str], list[str], int]] = []

    def on_validation_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.seen.append((trainer.sanity_checking, list(pl_module.audio.fitted), list(pl_module.text.fitted), len(pl_module._seen)))


def test_the_classifiers_are_fitted_before_the_first_validation_and_once(tmp_path: Path) -> None:
    method, watch = build(), _Watch()
    before = method(collate_utterances(items(15, seed=9)), maps=True)
    assert not before.attention["audio"][..., 2:].any(), "what is not fitted has no weight"
    fitted: list[object] = []

    class _Same(L.Callback):
        def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
            fitted.append(pl_module.audio.fitted["forest"]["threshold"].clone())

    trainer = fit(method, _Data(), tmp_path, 3, watch, _Same())
    names = (["gnb", "svm", "forest"], ["logistic", "svm"])
    assert watch.seen == [(True, [], [], 0)] + [(False, *names, 0)] * 3
    assert all(torch.equal(fitted[0], again) for again in fitted)
    after = method(_Data().held, maps=True)
    real = after.attention["audio"].sum(-1) > 0
    assert (after.attention["audio"][real] > 0).all(), "what is fitted has"
    assert "val/uar" in trainer.callback_metrics
    for part in (method.audio, method.text):
        assert part.weight.sum().item() == pytest.approx(1)
        assert len(set(part.weight.tolist())) == len(part.names)
    assert method.weight.sum().item() == pytest.approx(1)
    assert method.weight[0] != method.weight[1]


def test_the_static_weights_are_those_of_the_training_split(tmp_path: Path) -> None:
    """With nothing that changes over an epoch (no gradient-trained classifier), they can be computed again afterwards."""
    method, data = build(audio_classifiers="svm,gnb", text_classifiers="logistic,gnb,svm", segments=1), _Data()
    fit(method, data, tmp_path, 1)
    output = method(collate_utterances(data.train))
    audio, text = output.fused[:, :6].reshape(-1, 2, 3).exp().double(), output.fused[:, 6:].reshape(-1, 3, 3).exp().double()
    weights = [plain_static([base[:, i].tolist() for i in range(base.shape[1])]) for base in (audio, text)]
    torch.testing.assert_close(method.audio.weight.tolist(), weights[0], atol=1e-5, rtol=0)
    torch.testing.assert_close(method.text.weight.tolist(), weights[1], atol=1e-5, rtol=0)
    layer1 = [
        [plain_mixture([row.tolist()], weight, 2, 0.01, "inverted") for row in base]
        for base, weight in zip((audio, text), weights, strict=True)
    ]
    torch.testing.assert_close(method.weight.tolist(), plain_static(layer1), atol=1e-5, rtol=0)


def test_the_static_weights_are_measured_without_dropout(tmp_path: Path) -> None:
    """At a rate of next to nothing the network is the same afterwards."""
    method, data = build(audio_classifiers="cnn,logistic", text_classifiers="", segments=1, dropout=0.5), _Data()
    fit(method, data, tmp_path, 1, lr=1e-12)
    base = method(collate_utterances(data.train)).fused.reshape(-1, 2, 3).exp().double()
    torch.testing.assert_close(method.audio.weight.tolist(), plain_static([base[:, i].tolist() for i in (0, 1)]), atol=1e-5, rtol=0)


def test_equal_weights_stay_equal(tmp_path: Path) -> None:
    method = build(weights="equal")
    fit(method, _Data(), tmp_path)
    assert method.audio.weight.tolist() == pytest.approx([0.2] * 5)
    assert method.weight.tolist() == [0.5, 0.5]


@pytest.mark.parametrize("dynamic", [False, True])
def test_no_test_item_sees_another(dynamic: bool, tmp_path: Path) -> None:
    method = build(dynamic_update=dynamic)
    trainer = fit(method, _Data(), tmp_path)
    given = items(15, seed=9)
    given[4] = given[4]._replace(text=given[4].text[:0])
    forward = {item.utterance_id: method(collate_utterances([item])).logits[0] for item in given}
    for order in (np.arange(15)[::-1], np.argsort([item.label for item in given], kind="stable")):
        shuffled = [given[i] for i in order]
        again = method(collate_utterances(shuffled)).logits
        for item, logits in zip(shuffled, again, strict=True):
            torch.testing.assert_close(logits, forward[item.utterance_id], atol=1e-5, rtol=0)
    # Whole test runs of a trainer leave nothing behind either.
    before = {
        name: value.clone() for name, value in method.state_dict().items() if isinstance(value, Tensor) and "metrics" not in name
    }
    trainer.test(method, DataLoader([collate_utterances(given[::-1])], batch_size=None), verbose=False)
    first = dict(method.test_probabilities)
    trainer.test(
        method, DataLoader([collate_utterances(given[i : i + 4]) for i in range(0, 15, 4)], batch_size=None), verbose=False
    )
    assert first.keys() == method.test_probabilities.keys()
    for name, probabilities in first.items():
        torch.testing.assert_close(method.test_probabilities[name], probabilities, atol=1e-5, rtol=0)
    assert all(torch.equal(value, before[name]) for name, value in method.state_dict().items() if name in before)


def test_a_checkpoint_holds_what_was_fitted_and_no_pickled_code(tmp_path: Path) -> None:
    method, data = build(), _Data()
    trainer = fit(method, data, tmp_path)
    trainer.save_checkpoint(tmp_path / "method.ckpt", weights_only=True)
    torch.load(tmp_path / "method.ckpt", weights_only=True)
    expected = method(data.held).logits
    loaded = DBMM.load_from_checkpoint(tmp_path / "method.ckpt").eval()
    assert list(loaded.audio.fitted) == ["gnb", "svm", "forest"]
    torch.testing.assert_close(loaded(data.held).logits, expected, atol=0, rtol=0)
    # As the runner does: the best epoch is loaded into the model that went on training.
    trainer.test(method, data, verbose=False)
    probabilities = dict(method.test_probabilities)
    method.audio.fitted, method.text.fitted = {}, {}
    trainer.test(method, data, ckpt_path=tmp_path / "method.ckpt", verbose=False)
    assert all(torch.equal(method.test_probabilities[name], p) for name, p in probabilities.items())


def test_a_second_training_fits_anew_and_the_same_seed_the_same(tmp_path: Path) -> None:
    first, second, data = build(), build(), _Data()
    fit(first, data, tmp_path)
    fit(second, _Data(items(36, seed=5)), tmp_path)
    assert not torch.equal(first.audio.fitted["svm"]["coef"], second.audio.fitted["svm"]["coef"])
    second.load_state_dict(build().state_dict())
    assert second.audio.fitted == {}
    fit(second, data, tmp_path)
    assert torch.equal(first(data.held).logits, second(data.held).logits)
    other = build(seed=1)
    fit(other, data, tmp_path)
    assert not torch.equal(first.audio.fitted["forest"]["threshold"], other.audio.fitted["forest"]["threshold"])


def test_scikit_learn_classifiers_alone_train_without_an_optimiser(tmp_path: Path) -> None:
    method, data = build(audio_classifiers="svm", text_classifiers=""), _Data()
    assert list(method.parameters()) == []
    trainer = fit(method, data, tmp_path)
    trainer.test(method, data, verbose=False)
    assert method(data.held).logits.softmax(-1).amax() > 0.4
    assert trainer.callback_metrics["test/uar"] > 0.4


@pytest.mark.parametrize("labels", [[0, 0, 0, 0, 1, 0], [0, 1, 0, 1, 0, 1], [1, 1, 1, 1, 1, 1], [IGNORED] * 4 + [0, 2]])
def test_rare_and_missing_classes_give_valid_posteriors(labels: list[int], tmp_path: Path) -> None:
    """One utterance of a class, a class without any, only one class, and few labels at all."""
    given = [item._replace(label=label) for item, label in zip(items(6), labels, strict=True)]
    given[1] = given[1]._replace(text=given[1].text[:0])
    method, data = build(), _Data(given)
    fit(method, data, tmp_path)
    assert bool(method.audio.fitted) == (len(set(labels) - {IGNORED}) > 1)
    probabilities = method(data.held).logits.exp()
    torch.testing.assert_close(probabilities.sum(-1), torch.ones(15))
    assert (probabilities > 0).all()


# What surrounds it


def test_an_untrained_modality_is_left_out(tmp_path: Path) -> None:
    """Text with one class only: its classifier is never fitted, so the audio decides alone."""
    given = [item._replace(text=item.text if item.label == 0 else item.text[:0]) for item in items(36)]
    method = build(audio_classifiers="mlp", text_classifiers="svm")
    fit(method, _Data(given), tmp_path)
    output = method(_Data().held, maps=True)
    torch.testing.assert_close(output.attention["modality"], torch.tensor([[1.0, 0.0]]).expand(15, 2))


def test_maps_are_the_weights_that_were_used() -> None:
    maps = build()(collate_utterances(items(4)), maps=True).attention
    assert {name: tuple(m.shape) for name, m in maps.items()} == {"audio": (4, 3, 5), "text": (4, 1, 3), "modality": (4, 2)}
    product = build(layer2="product", text_classifiers="")(collate_utterances(items(4)), maps=True).attention
    assert list(product) == ["audio"]


def test_parameter_count_is_the_hand_derived_one() -> None:
    """40 MFCC and BERT's 768, four classes, width 128: two convolutions of width 5, two MLPs behind their norms."""
    cnn = (40 * 5 * 128 + 128) + (128 * 5 * 128 + 128) + (128 * 4 + 4)
    audio_mlp = 2 * 120 + (120 * 128 + 128) + (128 * 4 + 4)
    text_mlp = 2 * 768 + (768 * 128 + 128) + (128 * 4 + 4)
    method = create("late_dbmm", audio_dim=40, text_dim=768, num_classes=4)
    assert sum(p.numel() for p in method.parameters()) == cnn + audio_mlp + text_mlp == 225_020


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"audio_classifiers": "cnn,knn"},
            "audio_classifiers is 'cnn,knn'; it must list some of cnn, mlp, svm, gnb, forest, logistic",
        ),
        ({"text_classifiers": "svm,svm"}, "text_classifiers is 'svm,svm'; it must list some of .*, each once"),
        ({"audio_classifiers": "", "text_classifiers": ""}, "one of them must name a classifier"),
        ({"segments": 0}, "segments is 0"),
        ({"slices": -1}, "slices -1"),
        ({"smoothing": 0.0}, "smoothing 0.0"),
        ({"weights": "learnt"}, "weights is 'learnt'; it must be 'entropy' or 'equal'"),
        ({"layer2": "sum"}, "layer2 is 'sum'; it must be 'mixture' or 'product'"),
    ],
)
def test_options_without_a_meaning_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(**options)


def test_every_option_of_the_mixture_changes_the_prediction() -> None:
    batch: Batch = collate_utterances([item for item in items(9) if len(item.audio) > 5])
    default = build()(batch).logits
    for options in (
        {"segments": 2},
        {"slices": 1},
        {"smoothing": 0.2},
        {"dynamic_update": False},
        {"entropy_invert": False},
        {"layer2": "product"},
        {"text_classifiers": ""},
    ):
        assert not torch.allclose(build(**options)(batch).logits, default, atol=1e-4), options


def test_the_ablation_rows_are_layers_weights_and_time_slices() -> None:
    rows = get_method("late_dbmm").ablations
    assert [name for name in rows if name.startswith("SER, extended")] == [
        "SER, extended DBMM, 1 time slice",
        "SER, extended DBMM, 2 time slices",
        "SER, extended DBMM, 3 time slices",
    ]
    assert list(rows)[-1] == "2L-DBMM"
    assert rows["2L-DBMM"].options == {}
