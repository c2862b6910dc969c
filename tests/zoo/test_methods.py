"""What every method promises, for every method of the zoo."""

from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from benchmarks.spec import MethodSpec
from datamodules.batch import IGNORED, Batch, Item, collate_dialogues, collate_utterances
from datamodules.features import parse_feature
from datamodules.features.transformer import HiddenStates
from zoo import create, get_method, list_methods, method_options
from zoo.base import FusionModule, Training

AUDIO, TEXT, CLASSES = 8, 12, 3
METHODS = list_methods()
MULTILABEL = [name for name in METHODS if "multilabel" in get_method(name).tasks]
SMALL = {"hidden": 16, "d": 16, "fused": 16, "heads": 2}


def items(count: int, seed: int = 0) -> list[Item]:
    """Utterances of unequal length; the label is in the mean of both modalities."""
    random = np.random.default_rng(seed)
    found = []
    for number in range(count):
        label = number % CLASSES
        audio = random.normal(label, 1, (random.integers(3, 20), AUDIO)).astype(np.float32)
        text = random.normal(-label, 1, (random.integers(1, 6), TEXT)).astype(np.float32)
        found.append(Item(audio, text, label, f"u{number}", f"s{number % 2}"))
    return found


def multilabel_items(count: int) -> list[Item]:
    """Utterances of any number of classes; each class shifts a column of its own in both modalities."""
    found = []
    for number, item in enumerate(items(count)):
        label = np.array([number >> bit & 1 for bit in range(CLASSES)], np.float32)
        audio, text = item.audio.copy(), item.text.copy()
        audio[:, :CLASSES] += 3 * label
        text[:, :CLASSES] -= 3 * label
        found.append(item._replace(audio=audio, text=text, label=label))
    return found


def batch_of(method: str, utterances: list[Item]) -> Batch:
    """A batch in the method's unit; dialogues have up to three turns."""
    if get_method(method).unit == "utterance":
        return collate_utterances(utterances)
    return collate_dialogues([utterances[i : i + 3] for i in range(0, len(utterances), 3)])


def build(name: str, **options: object) -> FusionModule:
    torch.manual_seed(0)
    small = {key: value for key, value in SMALL.items() if key in method_options(name)}
    return create(name, audio_dim=AUDIO, text_dim=TEXT, num_classes=CLASSES, **{**small, **options}).eval()


def pad_more(batch: Batch, fill: float) -> Batch:
    """The same batch with 7 more padded frames and tokens that hold ``fill``."""

    def longer(x: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        shape = (*mask.shape[:-1], 7)
        return (
            torch.cat([x, x.new_full((*shape, x.shape[-1]), fill)], dim=-2),
            torch.cat([mask, mask.new_zeros(shape)], dim=-1),
        )

    audio, audio_mask = longer(batch.audio, batch.audio_mask)
    text, text_mask = longer(batch.text, batch.text_mask)
    return batch._replace(audio=audio, audio_mask=audio_mask, text=text, text_mask=text_mask)


def real_logits(method: FusionModule, batch: Batch) -> torch.Tensor:
    logits = method(batch).logits.flatten(0, -2)
    return logits[batch.label.flatten() != IGNORED]


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("count", [1, 7])
def test_shapes(name: str, count: int) -> None:
    batch = batch_of(name, items(count))
    output = build(name)(batch)
    assert output.logits.shape == (*batch.label.shape, CLASSES)
    assert output.logits.isfinite().all()
    if output.fused is not None:
        assert output.fused.shape[:-1] == batch.label.shape
    assert output.attention is None


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("fill", [0.0, 100.0])
def test_padding_changes_no_prediction(name: str, fill: float) -> None:
    method, batch = build(name), batch_of(name, items(7))
    torch.testing.assert_close(real_logits(method, pad_more(batch, fill)), real_logits(method, batch), atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", METHODS)
def test_an_utterance_scores_alone_as_it_does_in_a_batch(name: str) -> None:
    method, utterances = build(name), items(7)
    if method.unit == "dialogue":
        pytest.skip("an utterance of a dialogue has context")
    alone = torch.cat([method(batch_of(name, [item])).logits for item in utterances])
    torch.testing.assert_close(method(batch_of(name, utterances)).logits, alone, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("absent", ["audio", "text", "both"])
def test_an_absent_modality_gives_a_valid_distribution(name: str, absent: str) -> None:
    def without(item: Item) -> Item:
        audio = item.audio[:0] if absent in {"audio", "both"} else item.audio
        return item._replace(audio=audio, text=item.text[:0] if absent in {"text", "both"} else item.text)

    utterances = [without(item) if number % 2 else item for number, item in enumerate(items(6))]
    method = build(name).train()
    batch = batch_of(name, utterances)
    output = method(batch)
    probabilities = output.logits.softmax(-1)
    assert probabilities.isfinite().all()
    torch.testing.assert_close(probabilities.sum(-1), torch.ones_like(batch.label, dtype=torch.float))
    method.loss(output, batch).backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in method.parameters())


@pytest.mark.parametrize("name", METHODS)
def test_only_the_declared_modalities_are_read(name: str) -> None:
    method, batch = build(name), batch_of(name, items(6))
    for modality in ("audio", "text"):
        changed = batch._replace(**{modality: getattr(batch, modality) * 3 + 1})
        same = torch.equal(method(changed).logits, method(batch).logits)
        assert same == (modality not in method.modalities)


@pytest.mark.parametrize("name", METHODS)
def test_a_gradient_reaches_every_parameter(name: str) -> None:
    method, batch = build(name).train(), batch_of(name, items(9))
    method.loss(method(batch), batch).backward()
    unreached = [
        p for p, value in method.named_parameters() if value.requires_grad and (value.grad is None or not value.grad.any())
    ]
    # A bias that is added to every key moves all scores of a query alike, and softmax doesn't see that.
    assert [p for p in unreached if not p.endswith("attention.key.bias")] == []


class _Data(L.LightningDataModule):
    """One batch, again and again."""

    def __init__(self, batch: Batch) -> None:
        super().__init__()
        self.batch = batch
        if batch.label.dtype == torch.int64:
            self.class_counts = torch.bincount(batch.label[batch.label != IGNORED].flatten(), minlength=CLASSES)
        else:
            labels = batch.label.flatten(0, -2)
            self.class_counts = torch.stack([(labels == value).sum(0) for value in (0, 1)])

    def train_dataloader(self) -> DataLoader:
        return DataLoader([self.batch], batch_size=None)

    def test_dataloader(self) -> DataLoader:
        return DataLoader([self.batch], batch_size=None)


def trainer(epochs: int, folder: Path, precision: Any = "32-true") -> L.Trainer:
    return L.Trainer(
        max_epochs=epochs,
        precision=precision,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
    )


@pytest.mark.parametrize("name", METHODS)
def test_overfits_one_small_batch_then_saves_and_loads(name: str, tmp_path: Path) -> None:
    data = _Data(batch_of(name, items(16)))
    method = build(name, dropout=0.0)
    method.training_options = Training(lr=1e-2, weight_decay=0.0)
    fitting = trainer(80, tmp_path)
    fitting.fit(method, datamodule=data)
    (scores,) = fitting.test(method, datamodule=data, verbose=False)
    assert scores["test/war"] == 1.0

    fitting.save_checkpoint(tmp_path / "method.ckpt")
    loaded = get_method(name).load_from_checkpoint(tmp_path / "method.ckpt").eval()
    torch.testing.assert_close(loaded(data.batch).logits, method.eval()(data.batch).logits, atol=0, rtol=0)
    assert len(method.test_probabilities) == 16


@pytest.mark.parametrize("name", MULTILABEL)
def test_multilabel_shapes_and_gradients(name: str) -> None:
    method, batch = build(name).train(), batch_of(name, multilabel_items(9))
    method.use_task("multilabel")
    output = method(batch)
    assert output.logits.shape == batch.label.shape
    loss = method.loss(output, batch)
    assert loss.shape == ()
    loss.backward()
    unreached = [
        p for p, value in method.named_parameters() if value.requires_grad and (value.grad is None or not value.grad.any())
    ]
    assert [p for p in unreached if not p.endswith("attention.key.bias")] == []
    # Turning one label of one class over changes the loss; rows that don't count change nothing.
    turned = batch.label.clone()
    turned.view(-1, CLASSES)[0, 1] = 1 - turned.view(-1, CLASSES)[0, 1]
    assert method.loss(output, batch._replace(label=turned)) != loss
    if method.unit == "dialogue":
        cut = batch.label.clone()
        cut[-1] = IGNORED
        torch.testing.assert_close(
            super(type(method), method).loss(output, batch._replace(label=cut)),
            nn.functional.binary_cross_entropy_with_logits(output.logits[:-1], batch.label[:-1]),
        )


@pytest.mark.parametrize("name", MULTILABEL)
def test_multilabel_overfits_one_small_batch_then_saves_and_loads(name: str, tmp_path: Path) -> None:
    data = _Data(batch_of(name, multilabel_items(16)))
    method = build(name, dropout=0.0)
    method.use_task("multilabel")
    method.training_options = Training(lr=1e-2, weight_decay=0.0)
    fitting = trainer(80, tmp_path)
    fitting.fit(method, datamodule=data)
    (scores,) = fitting.test(method, datamodule=data, verbose=False)
    assert scores["test/mean_weighted_accuracy"] == scores["test/mean_roc_auc"] == 1.0
    fitting.save_checkpoint(tmp_path / "method.ckpt")
    loaded = get_method(name).load_from_checkpoint(tmp_path / "method.ckpt").eval()
    assert loaded.task == "multilabel"
    torch.testing.assert_close(loaded(data.batch).logits, method.eval()(data.batch).logits, atol=0, rtol=0)


@pytest.mark.parametrize("name", METHODS)
def test_a_method_refuses_what_its_loss_can_not_do(name: str) -> None:
    method = build(name)
    if name in MULTILABEL:
        method.use_task("multilabel")
        assert {"val/mean_weighted_accuracy", "val/mean_weighted_f1", "val/mean_roc_auc"} == set(method.val_metrics.keys())
    else:
        with pytest.raises(ValueError, match="can't be trained for a multilabel task, only multiclass"):
            method.use_task("multilabel")
    assert {"hbaf", "early_concat", "mer_han"} <= set(MULTILABEL)
    assert not {"hcam", "late_dbmm"} & set(MULTILABEL)


@pytest.mark.parametrize("name", METHODS)
def test_bf16_autocast_is_finite(name: str) -> None:
    method, batch = build(name).train(), batch_of(name, items(7))
    with torch.autocast("cpu", torch.bfloat16):
        loss = method.loss(method(batch), batch)
    loss.backward()
    assert loss.isfinite()
    assert loss.dtype == torch.float32
    assert all(p.grad.isfinite().all() for p in method.parameters() if p.grad is not None)


@pytest.mark.parametrize("name", METHODS)
def test_mixed_precision_trains_and_answers_as_full_precision_does(name: str, tmp_path: Path) -> None:
    """Every step that a card takes in bf16-mixed, with utterances that lack a modality."""
    utterances = items(9)
    utterances[1] = utterances[1]._replace(audio=utterances[1].audio[:0])
    utterances[5] = utterances[5]._replace(text=utterances[5].text[:0])
    data, method = _Data(batch_of(name, utterances)), build(name).train()
    method.training_options = Training(lr=1e-3)
    before = [parameter.detach().clone() for parameter in method.parameters()]
    trainer(2, tmp_path, "bf16-mixed").fit(method, datamodule=data)
    assert all(parameter.isfinite().all() for parameter in method.parameters())
    assert any(not torch.equal(*pair) for pair in zip(before, method.parameters(), strict=True))
    answers = []
    for precision in ("bf16-mixed", "32-true"):
        trainer(1, tmp_path, precision).test(method, datamodule=data, verbose=False)
        answers.append(torch.stack([method.test_probabilities[item.utterance_id] for item in utterances]))
    assert answers[0].dtype == torch.float32
    torch.testing.assert_close(answers[0], answers[1], atol=0.03, rtol=0)


@pytest.mark.parametrize("name", METHODS)
def test_asking_for_maps_changes_nothing_and_distributions_sum_to_one(name: str) -> None:
    method, batch = build(name), batch_of(name, items(7))
    plain, mapped = method(batch), method(batch, maps=True)
    torch.testing.assert_close(mapped.logits, plain.logits, atol=1e-5, rtol=0)
    for map_name, weights in (mapped.attention or {}).items():
        if map_name.startswith("gate"):
            assert ((weights >= 0) & (weights <= 1)).all()
            continue
        total = weights.sum(-1)
        assert ((total - 1).abs().lt(1e-5) | total.eq(0)).all()


@pytest.mark.parametrize("name", METHODS)
def test_every_method_says_what_it_is(name: str) -> None:
    method = get_method(name)
    assert method.family in {"single", "early", "late", "model-level"}
    assert method.paper
    assert (method.family == "single") == (len(method.modalities) == 1)
    assert list(method_options(name)), "options with defaults"
    if method.published is not None:
        audio, _ = parse_feature(method.published.audio), parse_feature(method.published.text)
        assert isinstance(audio, HiddenStates) or audio.modality == "audio"  # what a checkpoint reads is written on the hub
        assert MethodSpec(method=name, options=dict(method.published.options)).checked()
    for variant in method.ablations.values():
        create(variant.method, audio_dim=AUDIO, text_dim=TEXT, num_classes=CLASSES, **variant.options)
        if variant.audio:
            feature = parse_feature(variant.audio)
            assert isinstance(feature, HiddenStates) or feature.modality == "audio"


@pytest.mark.parametrize("name", METHODS)
def test_resumed_training_ends_where_uninterrupted_training_does(name: str, tmp_path: Path) -> None:
    data = _Data(batch_of(name, items(9)))
    whole, half, resumed = (build(name, dropout=0.0) for _ in range(3))
    trainer(4, tmp_path).fit(whole, datamodule=data)
    stopped = trainer(2, tmp_path)
    stopped.fit(half, datamodule=data)
    stopped.save_checkpoint(tmp_path / "half.ckpt")
    trainer(4, tmp_path).fit(resumed, datamodule=data, ckpt_path=tmp_path / "half.ckpt")
    expected = whole.eval()(data.batch).logits
    torch.testing.assert_close(resumed.eval()(data.batch).logits, expected, atol=0, rtol=0)
    assert not torch.equal(half.eval()(data.batch).logits, expected)


class _TensorsOnly(nn.Module):
    """What torch.export can take: a method whose batch comes as tensors."""

    def __init__(self, method: FusionModule, batch: Batch) -> None:
        super().__init__()
        self.method, self.ids = method, batch.utterance_id
        self.names = [name for name, value in batch._asdict().items() if isinstance(value, torch.Tensor)]

    def forward(self, *tensors: torch.Tensor) -> torch.Tensor:
        batch = Batch(**dict(zip(self.names, tensors, strict=True)), utterance_id=self.ids)
        return self.method(batch).logits


@pytest.mark.parametrize("name", METHODS)
def test_a_method_can_be_exported(name: str) -> None:
    if name in {"hcam", "cnn_bert_attention"}:
        pytest.skip("encodes the real turns only, and their number depends on the data")
    method, batch = build(name), batch_of(name, items(6))
    tensors = tuple(value for value in batch if isinstance(value, torch.Tensor))
    exported = torch.export.export(_TensorsOnly(method, batch), tensors).module()
    torch.testing.assert_close(exported(*tensors), method(batch).logits)


def test_unknown_names_list_the_near_ones() -> None:
    with pytest.raises(KeyError, match="did you mean 'mer_han'"):
        get_method("merhan")
    with pytest.raises(KeyError, match="no option of mer_han is called 'hiden'; did you mean 'hidden'"):
        build("mer_han", hiden=3)


def test_a_file_without_a_method_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import zoo

    (tmp_path / "hollow.py").write_text('"""Nothing."""\n')
    monkeypatch.setattr(zoo, "__path__", [*zoo.__path__, str(tmp_path)])
    with pytest.raises(TypeError, match=r"hollow.py defines 0 subclasses of FusionModule"):
        get_method("hollow")
