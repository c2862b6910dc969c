"""Encoders inside a method: the frozen features to begin with, then trained as far as asked and no further."""

from collections.abc import Callable
from pathlib import Path

import lightning as L
import numpy as np
import pytest
import torch

from datamodules.batch import Batch, Item, collate_dialogues, collate_utterances
from datamodules.corpora.manifest import Manifest
from datamodules.emotion import EmotionDataModule, load_utterances
from datamodules.features import FeatureError, parse_feature
from datamodules.features.transformer import HiddenStates, TokenIds
from datamodules.features.waveform import Waveform
from datamodules.protocols import apply_protocol
from zoo import create, get_method
from zoo.base import FusionModule, Training
from zoo.nn.pretrained import Encoder, PretrainedEncoder, encoder_input

TEXTS = ["i hate this awful mess", "a", "what a lovely happy day the bus leaves at noon", ""]
TOP = Encoder("top:1", 1e-3)


def waves() -> list[np.ndarray]:
    """Of unequal lengths, two of them equal, one too short for a frame, one with an offset."""
    random = np.random.default_rng(0)
    found = [random.normal(0.0, 0.1, n).astype(np.float32) for n in (8_000, 100, 12_345, 8_000)]
    return [found[0], found[1], found[2] + 0.3, found[3]]


def items(bert: str, absent: int | None = None) -> list[Item]:
    ids = TokenIds(bert).extract(TEXTS)
    audio = Waveform().extract(waves())
    return [
        Item(a[: 0 if n == absent else None], t[: 0 if n == absent else None], n % 3, f"u{n}", f"s{n % 2}")
        for n, (a, t) in enumerate(zip(audio, ids, strict=True))
    ]


def trained(model: FusionModule) -> set[str]:
    return {name for name, p in model.pretrained.named_parameters() if p.requires_grad}


def build(method: str, bert: str | None, speech: str | None, encoder: Encoder = TOP, **options: object) -> FusionModule:
    """A method with the encoders named by their checkpoints; the other modality is 16 wide as well."""
    torch.manual_seed(0)
    model = create(method, audio_dim=16, text_dim=16, num_classes=3, **options)
    for modality, checkpoint in (("text", bert), ("audio", speech)):
        if checkpoint:
            model.pretrained[modality] = PretrainedEncoder(HiddenStates(checkpoint), encoder)
    return model


@pytest.mark.parametrize(("layers", "combine"), [((-1,), "mean"), ((0,), "mean"), ((1, 2), "mean"), ((2, -1), "concat")])
@pytest.mark.parametrize("trainable", ["all", "none"])
def test_text_begins_with_the_frozen_features(tiny_bert: str, layers: tuple, combine: str, trainable: str) -> None:
    feature = HiddenStates(tiny_bert, layers, combine)
    batch = collate_utterances(items(tiny_bert))
    states, mask = PretrainedEncoder(feature, Encoder(trainable)).eval()(batch.text, batch.text_mask)
    assert torch.equal(mask, batch.text_mask)
    for found, real, expected in zip(states, mask, feature.extract(TEXTS), strict=True):
        np.testing.assert_allclose(found[real].detach(), expected, atol=1e-5)
        assert not found[~real].any()


@pytest.mark.parametrize(("layers", "combine"), [((-1,), "mean"), ((0, 1), "mean"), ((1, 2), "concat")])
@pytest.mark.parametrize("kind", ["tiny_speech", "tiny_large_speech"])
def test_speech_begins_with_the_frozen_features(
    tiny_bert: str, kind: str, layers: tuple, combine: str, request: pytest.FixtureRequest
) -> None:
    feature = HiddenStates(request.getfixturevalue(kind), layers, combine)
    batch = collate_utterances(items(tiny_bert))
    states, mask = PretrainedEncoder(feature, Encoder("all")).eval()(batch.audio, batch.audio_mask)
    assert mask.sum(1).tolist() == [24, 1, 38, 24]
    for found, real, expected in zip(states, mask, feature.extract(waves()), strict=True):
        np.testing.assert_allclose(found[real].detach(), expected, atol=2e-5)
        assert not found[~real].any()


@pytest.mark.parametrize("pool", ["first", "mean"])
@pytest.mark.parametrize("modality", ["audio", "text"])
def test_pooling_begins_with_the_frozen_features(tiny_bert: str, tiny_speech: str, modality: str, pool: str) -> None:
    feature = HiddenStates(tiny_bert if modality == "text" else tiny_speech, (0, 1), "mean", pool)
    batch = collate_utterances(items(tiny_bert))
    given = {"audio": (batch.audio, batch.audio_mask), "text": (batch.text, batch.text_mask)}[modality]
    states, mask = PretrainedEncoder(feature, Encoder("all")).eval()(*given)
    assert mask.tolist() == [[True]] * 4
    expected = np.stack(feature.extract(TEXTS if modality == "text" else waves()))
    np.testing.assert_allclose(states.detach(), expected, atol=2e-5)
    absent = torch.zeros_like(given[1])
    absent[0] = given[1][0]
    states, mask = PretrainedEncoder(feature, Encoder("all")).eval()(given[0], absent)
    assert mask.tolist() == [[True], [False], [False], [False]]
    np.testing.assert_allclose(states.detach(), np.stack([expected[0], *(np.zeros_like(expected[0]),) * 3]), atol=2e-5)


def test_whisper_is_frozen(tiny_whisper: str) -> None:
    with pytest.raises(FeatureError, match="reads input_features, not the waveform, and can't be trained here; use it frozen"):
        encoder_input(HiddenStates(tiny_whisper), TOP)


@pytest.mark.parametrize("kind", ["tiny_speech", "tiny_large_speech"])
def test_padding_neighbours_and_absence_change_nothing(tiny_bert: str, kind: str, request: pytest.FixtureRequest) -> None:
    model = build("early_concat", tiny_bert, request.getfixturevalue(kind)).eval()
    given = items(tiny_bert, absent=1)
    together = model.encode(collate_utterances(given))
    wider = collate_utterances(given)
    wider = wider._replace(
        **{
            name: torch.nn.functional.pad(getattr(wider, name), (0, 0, 0, 5_000 if name == "audio" else 9), value=7)
            for name in ("audio", "text")
        },
        **{
            f"{name}_mask": torch.nn.functional.pad(getattr(wider, f"{name}_mask"), (0, 5_000 if name == "audio" else 9))
            for name in ("audio", "text")
        },
    )
    wider = model.encode(wider)
    for number, item in enumerate(given):
        alone = model.encode(collate_utterances([item]))
        for values in ("audio", "text"):
            sizes = [int(getattr(b, f"{values}_mask")[n].sum()) for b, n in ((together, number), (wider, number), (alone, 0))]
            assert len(set(sizes)) == 1
            assert (sizes[0] == 0) == (number == 1)
            for other, row in ((wider, number), (alone, 0)):
                torch.testing.assert_close(
                    getattr(together, values)[number, : sizes[0]], getattr(other, values)[row, : sizes[0]], atol=2e-5, rtol=0
                )
    assert model(model.encode(collate_utterances([given[1]]))).logits.isfinite().all()


def test_dialogues_are_their_utterances(tiny_bert: str, tiny_speech: str) -> None:
    model = build("bc_lstm", tiny_bert, tiny_speech, hidden=4).eval()
    given = items(tiny_bert)
    flat, nested = model.encode(collate_utterances(given)), model.encode(collate_dialogues([given[:3], given[3:]]))
    for name in ("audio", "audio_mask", "text", "text_mask"):
        values = getattr(nested, name)
        torch.testing.assert_close(values[nested.turn_mask], getattr(flat, name), atol=2e-5, rtol=0)
        assert not values[~nested.turn_mask].any()


@pytest.mark.parametrize(
    ("layers", "trainable", "expected"),
    [
        ((-1,), "none", []),
        ((-1,), "top:1", ["encoder.layer.2."]),
        ((-1,), "top:2", ["encoder.layer.1.", "encoder.layer.2."]),
        ((1, 2), "top:1", ["encoder.layer.1."]),
        ((1, 2), "all", ["embeddings.", "encoder.layer.0.", "encoder.layer.1."]),
        ((-1,), "all", ["embeddings.", "encoder.layer."]),
    ],
)
def test_what_is_trained_of_bert(tiny_bert: str, layers: tuple, trainable: str, expected: list[str]) -> None:
    """The top layers are those below the states that are read: a layer above them would get no gradient."""
    encoder = PretrainedEncoder(HiddenStates(tiny_bert, layers), Encoder(trainable))
    batch = collate_utterances(items(tiny_bert))
    names = {name for name, p in encoder.model.named_parameters() if p.requires_grad}
    assert names == {name for name, _ in encoder.model.named_parameters() if name.startswith(tuple(expected))}
    for _ in range(2):
        modes = {name for name, module in encoder.model.named_modules() if module.training and isinstance(module, torch.nn.Dropout)}
        if trainable != "all":
            assert all(name.startswith(tuple(expected)) for name in modes)
        assert bool(modes) == (trainable != "none")
        encoder.eval()
        assert not any(module.training for module in encoder.modules())
        encoder.train()
    if names:
        encoder(batch.text, batch.text_mask)[0].square().sum().backward()
    assert {name for name, p in encoder.model.named_parameters() if p.grad is not None} == names


@pytest.mark.parametrize("trainable", ["top:1", "top:2", "all"])
@pytest.mark.parametrize("kind", ["tiny_speech", "tiny_large_speech"])
def test_what_is_trained_of_wav2vec(tiny_bert: str, kind: str, trainable: str, request: pytest.FixtureRequest) -> None:
    encoder = PretrainedEncoder(HiddenStates(request.getfixturevalue(kind)), Encoder(trainable))
    batch = collate_utterances(items(tiny_bert))
    names = {name for name, p in encoder.model.named_parameters() if p.requires_grad}
    every = {name for name, _ in encoder.model.named_parameters()} - {"masked_spec_embed"}
    if kind == "tiny_large_speech":
        every -= {"encoder.layer_norm.weight", "encoder.layer_norm.bias"}  # it comes after the last layer's states
    tops = {"top:1": ("encoder.layers.1.",), "top:2": ("encoder.layers.",), "all": ("",)}[trainable]
    assert names == {name for name in every if name.startswith(tops)}
    encoder(batch.audio, batch.audio_mask)[0].square().sum().backward()
    assert {name for name, p in encoder.model.named_parameters() if p.grad is not None} == names


@pytest.fixture
def data(manifest: Path, tiny_bert: str) -> Callable[[str], EmotionDataModule]:
    """The manifest as samples and token ids."""

    def make(unit: str) -> EmotionDataModule:
        utterances = load_utterances(Manifest(manifest), Waveform(), TokenIds(tiny_bert))
        plan = apply_protocol(utterances.table)
        return EmotionDataModule(utterances, plan.folds[0], plan.classes, unit, 16)

    return make


def fit(model: FusionModule, data: EmotionDataModule, folder: Path) -> L.Trainer:
    model.training_options = Training(max_epochs=1, lr=1e-2)
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
    trainer = L.Trainer(max_epochs=1, accelerator="cpu", enable_checkpointing=False, default_root_dir=folder, **quiet)
    trainer.fit(model, data)
    return trainer


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("early_concat", {"hidden": 4}),
        ("bc_lstm", {"hidden": 4}),
        ("late_dbmm", {"hidden": 4}),
        ("late_dbmm", {"audio_classifiers": "gnb", "text_classifiers": "logistic"}),
    ],
)
def test_an_epoch_changes_what_is_trained_and_nothing_else(
    method: str, options: dict, data: Callable, tiny_bert: str, tiny_speech: str, tmp_path: Path
) -> None:
    model = build(method, tiny_bert, tiny_speech, **options)
    before = {name: p.detach().clone() for name, p in model.pretrained.named_parameters()}
    fit(model, data(get_method(method).unit), tmp_path)
    changed = {name for name, p in model.pretrained.named_parameters() if not torch.equal(p, before[name])}
    # Without a classifier trained by gradient there is nothing that an encoder could learn from.
    gradient = any(not name.startswith("pretrained.") for name, _ in model.named_parameters())
    assert changed == (trained(model) if gradient else set())


def test_each_encoder_has_its_learning_rate(tiny_bert: str, tiny_speech: str) -> None:
    model = build("early_concat", tiny_bert, None, Encoder("top:1", 3e-5), hidden=4)
    model.pretrained["audio"] = PretrainedEncoder(HiddenStates(tiny_speech), Encoder("all", 4e-6))
    model.training_options = Training(lr=0.01, weight_decay=0.02)
    optimiser = model.configure_optimizers()
    rates = {id(p): group["lr"] for group in optimiser.param_groups for p in group["params"]}
    assert sum(len(group["params"]) for group in optimiser.param_groups) == len(rates)
    assert all(group["weight_decay"] == 0.02 for group in optimiser.param_groups)
    for name, p in model.named_parameters():
        rate = 3e-5 if name.startswith("pretrained.text") else 4e-6 if name.startswith("pretrained.audio") else 0.01
        assert rates.get(id(p)) == (rate if p.requires_grad else None), name


def test_a_checkpoint_holds_what_was_trained_and_loads_by_itself(
    data: Callable, tiny_bert: str, tiny_speech: str, tmp_path: Path
) -> None:
    model = build("early_concat", tiny_bert, tiny_speech, hidden=4)
    fit(model, data("utterance"), tmp_path).save_checkpoint(tmp_path / "a.ckpt", weights_only=True)
    stored = torch.load(tmp_path / "a.ckpt", weights_only=True)["state_dict"]
    assert {name.removeprefix("pretrained.") for name in stored if name.startswith("pretrained.")} >= trained(model)
    assert not [name for name, p in model.named_parameters() if not p.requires_grad and name in stored]
    loaded = get_method("early_concat").load_from_checkpoint(tmp_path / "a.ckpt", map_location="cpu").eval()
    batch: Batch = collate_utterances(items(tiny_bert))
    torch.testing.assert_close(loaded(loaded.encode(batch)).logits, model.eval()(model.encode(batch)).logits)
    assert trained(loaded) == trained(model)


def test_what_a_batch_must_hold(tiny_bert: str, tiny_speech: str) -> None:
    mfcc, text, speech = parse_feature("mfcc"), HiddenStates(tiny_bert, (0, -2)), HiddenStates(tiny_speech)
    assert encoder_input(mfcc, Encoder()) is mfcc
    assert encoder_input(text, Encoder("top:2")) == TokenIds(tiny_bert)
    assert encoder_input(speech, Encoder("all")) == Waveform()
    with pytest.raises(FeatureError, match=r"mfcc has no encoder to train; name the feature hidden_states\(checkpoint=\.\.\.\)"):
        encoder_input(mfcc, TOP)
    with pytest.raises(FeatureError, match="reads 2 layers above the embedding, so top:3 has too many"):
        PretrainedEncoder(text, Encoder("top:3"))
    with pytest.raises(FeatureError, match=r"has the layers 0 to 2 \(or -3 to -1\)"):
        encoder_input(HiddenStates(tiny_speech, (5,)), Encoder("all"))
