"""Batches hold the right utterances in an order that the seed decides, normalised by what the training split alone says."""

import json
import pickle
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from sklearn.svm import LinearSVC

from datamodules import emotion
from datamodules.audio import Clip, load_clip
from datamodules.batch import IGNORED, Batch
from datamodules.corpora.manifest import Manifest
from datamodules.emotion import Absent, EmotionDataModule, LengthBatches, Utterances, _fit_scale, load_utterances
from datamodules.features import Feature, FeatureError, parse_feature
from datamodules.features.spectral import MFCC, LogMel
from datamodules.features.transformer import HiddenStates, TokenIds
from datamodules.problems import BadInputError
from datamodules.protocols import apply_protocol
from datamodules.store import FeatureStore

RATE = 16_000
Rows = list[dict[str, object]]
AUDIO = LogMel(n=8)


def load(path: Path, checkpoint: str, **options: object) -> Utterances:
    return load_utterances(Manifest(path), AUDIO, TokenIds(checkpoint), **options)  # type: ignore[arg-type]


def module(utterances: Utterances, **options: object) -> EmotionDataModule:
    plan = apply_protocol(utterances.table)
    data = EmotionDataModule(utterances, plan.folds[0], plan.classes, **options)  # type: ignore[arg-type]
    data.setup()
    return data


def same(one: list[Batch], other: list[Batch]) -> bool:
    if [batch.utterance_id for batch in one] != [batch.utterance_id for batch in other]:
        return False
    return all(
        torch.equal(x, y)
        for a, b in zip(one, other, strict=True)
        for x, y in zip(a, b, strict=True)
        if isinstance(x, torch.Tensor) and isinstance(y, torch.Tensor)
    )


def ids(batches: list[Batch]) -> list[str]:
    return [name for batch in batches for name in batch.utterance_id]


@pytest.fixture
def utterances(manifest: Path, tiny_bert: str) -> Utterances:
    return load(manifest, tiny_bert)


def frames(rows: Rows, folder: Path, split: str | None) -> list[np.ndarray]:
    """The stored feature of the rows of one split (None: of all), computed here: float16 of (T, 8)."""
    waves = [load_clip(Clip(folder / str(row["audio"])), RATE) for row in rows if split in {None, row["split"]}]
    return [array.astype(np.float16).astype(np.float64) for array in AUDIO.extract(waves)]


def test_normalised_by_train_only(utterances: Utterances, rows: Rows, tmp_path: Path) -> None:
    train = np.concatenate(frames(rows, tmp_path, "train"))
    mean, deviation = train.mean(0), train.std(0)
    everything = np.concatenate(frames(rows, tmp_path, None))
    assert np.abs(everything.mean(0) - mean).max() > 0.01  # else the test couldn't tell
    data = module(utterances, batch_size=7)
    by_id = {str(row["utterance_id"]): array for row, array in zip(rows, frames(rows, tmp_path, None), strict=True)}
    for loader in (data.train_dataloader(), data.val_dataloader(), data.test_dataloader()):
        for batch in loader:
            for b, name in enumerate(batch.utterance_id):
                expected = (by_id[name] - mean) / deviation
                np.testing.assert_allclose(batch.audio[b][batch.audio_mask[b]].numpy(), expected, atol=1e-3)
    pooled = torch.cat([batch.audio[batch.audio_mask] for batch in data.train_dataloader()])
    assert pooled.mean(0).abs().max() < 1e-3
    assert (pooled.std(0) - 1).abs().max() < 1e-3


@pytest.mark.parametrize("split", ["val", "test"])
def test_other_audio_outside_train_changes_no_training_batch(
    manifest: Path, rows: Rows, tiny_bert: str, tmp_path: Path, split: str
) -> None:
    before = list(module(load(manifest, tiny_bert)).train_dataloader())
    for row in rows:
        if row["split"] == split:
            soundfile.write(tmp_path / str(row["audio"]), np.random.default_rng(0).uniform(-1, 1, 5000), RATE)
    assert same(list(module(load(manifest, tiny_bert)).train_dataloader()), before)


def test_constant_dimensions_stay_finite(rows: Rows, manifest: Path, tiny_bert: str, tmp_path: Path) -> None:
    for row in rows:
        soundfile.write(tmp_path / str(row["audio"]), np.zeros(4000), RATE)
    for batch in module(load(manifest, tiny_bert)).train_dataloader():
        assert not batch.audio.any()


class Vectors(list):
    """Stands for the `Arrays` of a feature with one vector per utterance."""

    feature = parse_feature("compare2016")

    def __init__(self, matrix: np.ndarray) -> None:
        assert matrix.shape[1] == 6373
        super().__init__(matrix.astype(np.float32)[:, None])


def test_fitted_once_for_all_runs_of_a_process(utterances: Utterances, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process of a pool gets the data anew with every run."""
    fitted = []
    monkeypatch.setattr(emotion, "_fit_scale", lambda arrays, train: fitted.append(arrays) or _fit_scale(arrays, train))
    emotion._fit.cache_clear()
    one, other = (module(pickle.loads(pickle.dumps(utterances))) for _ in range(2))
    assert [arrays.feature.modality for arrays in fitted] == ["audio", "text"]
    assert same(list(one.train_dataloader()), list(other.train_dataloader()))
    module(utterances, absent=Absent(audio=0.5))
    assert [arrays.feature.modality for arrays in fitted] == ["audio", "text", "audio"], "its training split is another"


def test_vectors_of_all_scales_are_normalised() -> None:
    """6,373 columns from 1e-7 to 1e11, some far from zero: as numpy's two passes in float64 say, and nothing explodes."""
    random = np.random.default_rng(0)
    matrix = random.normal(size=(50, 6373)) * 10.0 ** random.uniform(-7, 11, 6373)
    matrix[:, :6000] += 1000 * np.abs(matrix[:, :6000]).max(0)  # a mean of a thousand deviations and more
    matrix[:, 6000:] = random.permuted(matrix[:, 6000:], axis=0)
    matrix = matrix.astype(np.float32).astype(np.float64)
    train = list(range(30))
    fitted = _fit_scale(Vectors(matrix), train)
    assert fitted is not None
    np.testing.assert_allclose(fitted.mean, matrix[train].mean(0), rtol=1e-6)
    np.testing.assert_allclose(fitted.deviation, matrix[train].std(0), rtol=1e-5)
    found = np.concatenate([fitted.apply(array) for array in Vectors(matrix)])
    expected = (matrix - matrix[train].mean(0)) / matrix[train].std(0)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=5e-3)


@pytest.mark.parametrize("value", [0.0, 1e-7, 0.1, -3e11])
def test_columns_constant_in_training_are_zero_everywhere(value: float) -> None:
    """Also where they differ outside the training split: nothing could be learnt about them."""
    matrix = np.random.default_rng(0).normal(size=(20, 6373))
    matrix[:, [0, 7]] = value
    matrix[12:, 7] = [1e11, -5, 0, 1, 2, 3, 4, 5]
    fitted = _fit_scale(Vectors(matrix), range(12))
    assert fitted is not None
    with np.errstate(all="raise"):
        found = np.concatenate([fitted.apply(array) for array in Vectors(matrix)])
    assert not found[:, [0, 7]].any()
    assert (np.abs(np.delete(found, [0, 7], axis=1)) < 20).all()
    assert found[:12].std(0)[1] == pytest.approx(1, abs=1e-5)


@dataclass(frozen=True)
class Bands(Feature):
    """The loudness of 200 bands of a clip, 30 of them kept: a small stand-in for ``compare2016(select=30)``."""

    name = "bands"
    dtype = "float32"
    standardise = True

    select: int = 30
    modality = "audio"
    dim = 200

    @property
    def width(self) -> int:
        return self.select or self.dim

    @property
    def stored(self) -> Feature:
        return replace(self, select=0)

    def extract(self, inputs: list[np.ndarray]) -> list[np.ndarray]:
        spectra = [np.abs(np.fft.rfft(np.pad(wave, (0, 16_000)), 20_000))[:10_000] for wave in inputs]
        return [np.log(spectrum.reshape(200, 50).mean(1) + 1e-9)[None] for spectrum in spectra]


def select(path: Path, checkpoint: str, feature: Feature | None = None) -> EmotionDataModule:
    return module(load_utterances(Manifest(path), feature or Bands(), TokenIds(checkpoint)))


def test_the_selection_is_the_svms(manifest: Path, rows: Rows, tiny_bert: str) -> None:
    """Columns come in their order, normalised, in all splits; the three tones' bands are among them."""
    data, every = select(manifest, tiny_bert), select(manifest, tiny_bert, Bands(0))
    assert (data.audio_dim, every.audio_dim) == (30, 200)
    vectors = {}
    for loader in (every.train_dataloader(), every.val_dataloader(), every.test_dataloader()):
        for batch in loader:
            vectors |= {name: batch.audio[b, 0].numpy() for b, name in enumerate(batch.utterance_id)}
    train = [row for row in rows if row["split"] == "train"]
    labels = [row["label"] for row in train]
    svm = LinearSVC(C=1e-3, class_weight="balanced").fit([vectors[str(row["utterance_id"])] for row in train], labels)
    columns = sorted(sorted(range(200), key=lambda column: -sum(svm.coef_[:, column] ** 2))[:30])
    assert {150 // 40, 400 // 40, 900 // 40} <= set(columns)
    for loader in (data.train_dataloader(), data.val_dataloader(), data.test_dataloader()):
        for batch in loader:
            assert batch.audio.shape[1:] == (1, 30)
            for b, name in enumerate(batch.utterance_id):
                np.testing.assert_array_equal(batch.audio[b, 0].numpy(), vectors[name][columns])


def test_a_multilabel_selection_is_that_of_an_svm_per_class(manifest: Path, rows: Rows, tiny_bert: str) -> None:
    """A class that all or none of the training split have has nothing to say."""
    both = {"calm": "calm+glad+all", "cross": "cross+all", "glad": "glad+all"}
    utterances = load_utterances(Manifest(manifest), Bands(), TokenIds(tiny_bert))
    utterances = replace(utterances, table=utterances.table.assign(label=utterances.table["label"].map(both)))
    (fold,) = apply_protocol(utterances.table).folds
    classes = ("calm", "cross", "glad", "all", "nobody")
    data = EmotionDataModule(utterances, fold, classes, task="multilabel")
    data.setup()
    every = select(manifest, tiny_bert, Bands(0))
    vectors = {}
    for batch in every.train_dataloader():
        vectors |= {name: batch.audio[b, 0].numpy() for b, name in enumerate(batch.utterance_id)}
    train = [row for row in rows if row["split"] == "train"]
    x, squares = [vectors[str(row["utterance_id"])] for row in train], np.zeros(200)
    for name in ("calm", "cross", "glad"):
        has = [name in both[str(row["label"])].split("+") for row in train]
        squares += LinearSVC(C=1e-3, class_weight="balanced", tol=0.1, random_state=0).fit(x, has).coef_[0] ** 2
    columns = sorted(sorted(range(200), key=lambda column: -squares[column])[:30])
    for batch in data.train_dataloader():
        assert batch.label.shape == (len(batch.utterance_id), 5)
        for b, name in enumerate(batch.utterance_id):
            np.testing.assert_array_equal(batch.audio[b, 0].numpy(), vectors[name][columns])
            label = both[next(str(row["label"]) for row in rows if row["utterance_id"] == name)]
            assert [c for c, n in zip(classes, batch.label[b].tolist(), strict=True) if n] == label.split("+")
    assert data.class_counts.tolist() == [[24, 24, 12, 0, 36], [12, 12, 24, 36, 0]]


def test_the_selection_repeats_itself(manifest: Path, tiny_bert: str) -> None:
    assert same(list(select(manifest, tiny_bert).test_dataloader()), list(select(manifest, tiny_bert).test_dataloader()))


@pytest.mark.parametrize("split", ["val", "test", "train"])
@pytest.mark.parametrize("change", ["audio", "label"])
def test_the_selection_is_fitted_on_train_only(
    rows: Rows, tmp_path: Path, tiny_bert: str, write_manifest: Callable, split: str, change: str
) -> None:
    before = select(write_manifest(tmp_path, rows), tiny_bert)._splits["train"].fitted[0]
    labels = {"calm": "cross", "cross": "glad", "glad": "calm"}
    for number, row in enumerate(row for row in rows if row["split"] == split):
        if change == "audio":
            noise = np.random.default_rng(number).uniform(-1, 1, 5000)
            soundfile.write(tmp_path / str(row["audio"]), noise, RATE)
        elif number % 2:
            row["label"] = labels[str(row["label"])]
    after = select(write_manifest(tmp_path, rows), tiny_bert)._splits["train"].fitted[0]
    assert before is not None
    assert after is not None
    if split == "train":
        assert not np.array_equal(before.columns, after.columns)
    else:
        assert all(np.array_equal(one, other) for one, other in zip(before, after, strict=True))


def test_functionals_are_stored_once_and_selected_per_fold(manifest: Path, tiny_bert: str, cache: Path) -> None:
    every = load_utterances(Manifest(manifest), parse_feature("compare2016"), TokenIds(tiny_bert))
    some = load_utterances(Manifest(manifest), parse_feature("compare2016(select=8)"), TokenIds(tiny_bert))
    assert (module(every).audio_dim, module(some).audio_dim) == (6373, 8)
    assert next(iter(module(some).val_dataloader())).audio.shape[1:] == (1, 8)
    (folder,) = (cache / "features").glob("compare2016-*")
    assert (folder / "data.bin").stat().st_size == 60 * 6373 * 4
    assert json.loads((folder / "feature.json").read_text())["select"] == 0


def test_nothing_to_select_by(rows: Rows, tmp_path: Path, tiny_bert: str, write_manifest: Callable) -> None:
    """Only one class of the training split has audio."""
    for row in rows:
        if row["split"] == "train" and row["label"] != "glad":
            row["audio"] = ""
    with pytest.raises(FeatureError, match=r"bands selects by the training labels, but fewer than two classes .* have audio"):
        select(write_manifest(tmp_path, rows), tiny_bert)


def test_encoders_and_token_ids_are_left_as_they_are(manifest: Path, tiny_bert: str) -> None:
    feature = HiddenStates(tiny_bert)
    loaded = load_utterances(Manifest(manifest), AUDIO, feature)
    texts = loaded.table.set_index("utterance_id")["text"]
    for batch in module(loaded).val_dataloader():
        for b, name in enumerate(batch.utterance_id):
            (expected,) = feature.extract([texts[name]])
            np.testing.assert_allclose(batch.text[b][batch.text_mask[b]].numpy(), expected, atol=2e-3)
    (batch,) = module(load(manifest, tiny_bert), batch_size=12).val_dataloader()
    assert batch.text.dtype == torch.int64
    for b, name in enumerate(batch.utterance_id):
        assert batch.text[b, :, 0][batch.text_mask[b]].tolist() == TokenIds(tiny_bert).extract([texts[name]])[0][:, 0].tolist()


def test_labels_are_positions_among_the_classes(utterances: Utterances) -> None:
    data = module(utterances)
    truth = utterances.table.set_index("utterance_id")["label"]
    for batch in data.test_dataloader():
        assert [data.classes[n] for n in batch.label.tolist()] == [truth[name] for name in batch.utterance_id]


@pytest.mark.parametrize("unit", ["utterance", "dialogue"])
def test_seed_alone_decides_the_training_batches(utterances: Utterances, unit: str) -> None:
    """Three epochs: alike for one seed whatever the number of workers, unlike for another, and unlike one another."""

    def epochs(seed: int, num_workers: int = 0) -> list[list[Batch]]:
        loader = module(utterances, unit=unit, batch_size=2, seed=seed, num_workers=num_workers).train_dataloader()
        torch.manual_seed(num_workers)
        return [list(loader) for _ in range(3)]

    first, again, workers, other = epochs(1), epochs(1), epochs(1, 2), epochs(2)
    for epoch in range(3):
        assert same(first[epoch], again[epoch])
        assert same(first[epoch], workers[epoch])
        assert ids(first[epoch]) != ids(other[epoch])
    assert ids(first[0]) != ids(first[1]) != ids(first[2])


@pytest.mark.parametrize("unit", ["utterance", "dialogue"])
@pytest.mark.parametrize("batch_size", [1, 7, 32, 1000])
def test_every_utterance_once_per_epoch(utterances: Utterances, unit: str, batch_size: int) -> None:
    data = module(utterances, unit=unit, batch_size=batch_size)
    loaders = {"train": data.train_dataloader(), "val": data.val_dataloader(), "test": data.test_dataloader()}
    for name, loader in loaders.items():
        for _ in range(2):
            batches = list(loader)
            assert sorted(ids(batches)) == sorted(getattr(data.fold, name))
            assert len(batches) == len(loader)
            assert all(len(batch.label) <= batch_size for batch in batches)
    assert ids(list(data.test_dataloader())) == ids(list(data.test_dataloader()))


def padding(sizes: np.ndarray, batches: list[list[int]]) -> int:
    return sum(int(sizes[batch].max()) * len(batch) - int(sizes[batch].sum()) for batch in batches)


@pytest.mark.parametrize("seed", [0, 1, None])
def test_little_is_padded(seed: int | None) -> None:
    """Durations as in speech corpora; a fifth of what random batches pad is the bound."""
    random = np.random.default_rng(5)
    sizes = np.clip(random.lognormal(5.5, 0.7, 3000), 20, 3000).astype(int)
    batches = list(LengthBatches(sizes, 32, seed))
    shuffled = random.permutation(len(sizes))
    plain = [shuffled[i : i + 32].tolist() for i in range(0, len(sizes), 32)]
    assert sorted(i for batch in batches for i in batch) == list(range(len(sizes)))
    assert padding(sizes, batches) < 0.2 * padding(sizes, plain)
    means = [float(sizes[batch].mean()) for batch in batches]
    if seed is None:
        assert means == sorted(means)
    else:  # long and short batches come mixed
        assert abs(np.corrcoef(means, np.arange(len(means)))[0, 1]) < 0.3


def test_dialogues_keep_their_turns_in_order(rows: Rows, tmp_path: Path, tiny_bert: str, write_manifest: Callable) -> None:
    """Rows come shuffled, and turns are numbered 1, 2, 4, 8, 16, 32, which sorted as text would be another order."""
    for row in rows:
        row["turn"] = 2 ** int(str(row["turn"]))
    order = np.random.default_rng(0).permutation(len(rows))
    path = write_manifest(tmp_path, [rows[n] for n in order])
    data = module(load(path, tiny_bert), unit="dialogue", batch_size=2)
    for loader in (data.train_dataloader(), data.val_dataloader(), data.test_dataloader()):
        for batch in loader:
            assert batch.label.shape == (2, 6)
            assert batch.turn_mask is not None
            assert batch.turn_mask.all()
            numbers = [int(name[1:]) for name in batch.utterance_id]
            for start in (0, 6):
                assert numbers[start : start + 6] == list(range(numbers[start], numbers[start] + 6))
                assert numbers[start] % 6 == 0


def test_dialogues_hold_their_own_splits_utterances_only(
    rows: Rows, tmp_path: Path, tiny_bert: str, write_manifest: Callable
) -> None:
    """The first dialogue's last turn is test, an utterance without dialogue is one of its own."""
    rows[5] |= {"split": "test", "speaker": "s8"}
    rows[59] |= {"dialogue": "", "speaker": ""}
    data = module(load(write_manifest(tmp_path, rows), tiny_bert), unit="dialogue", batch_size=100)
    (train,), (test,) = data.train_dataloader(), data.test_dataloader()
    assert train.label.shape == (6, 6)
    assert (train.label == IGNORED).sum() == 1
    assert "u5" not in train.utterance_id
    assert sorted(test.turn_mask.sum(1).tolist()) == [1, 1, 5, 6]
    assert sorted(test.utterance_id) == sorted(["u5", *(f"u{n}" for n in range(48, 60))])


def test_class_counts(utterances: Utterances, rows: Rows, tmp_path: Path, tiny_bert: str, write_manifest: Callable) -> None:
    assert module(utterances).class_counts.tolist() == [12, 12, 12]
    for row in rows[:5]:
        row["label"] = "cross"
    found = module(load(write_manifest(tmp_path, rows), tiny_bert)).class_counts
    assert found.tolist() == [10, 15, 11]
    assert found.dtype == torch.int64


def test_absent_modalities_reach_the_batch_as_masks(rows: Rows, tmp_path: Path, tiny_bert: str, write_manifest: Callable) -> None:
    rows[48]["audio"] = ""
    rows[49]["text"] = ""
    (batch,) = module(load(write_manifest(tmp_path, rows), tiny_bert)).test_dataloader()
    present = dict(zip(batch.utterance_id, batch.present.tolist(), strict=True))
    assert present.pop("u48") == [False, True]
    assert present.pop("u49") == [True, False]
    assert set(map(tuple, present.values())) == {(True, True)}
    assert not batch.audio[batch.utterance_id.index("u48")].any()
    assert not batch.text_mask[batch.utterance_id.index("u49")].any()


def test_nan_is_found_at_extraction(manifest: Path, rows: Rows, tiny_bert: str, tmp_path: Path) -> None:
    """Two clips that only decoding shows to be bad: both are named, with file and row; all else is already stored."""
    for number in (10, 55):
        samples = np.full(8000, 0.1)
        samples[4000] = np.nan
        soundfile.write(tmp_path / str(rows[number]["audio"]), samples, RATE, subtype="FLOAT")
    with pytest.raises(BadInputError) as caught:
        load(manifest, tiny_bert)
    assert [(p.file, p.row) for p in caught.value.problems] == [(manifest, 12), (manifest, 57)]
    for problem, number in zip(caught.value.problems, (10, 55), strict=True):
        assert f"u{number}.wav: audio holds NaN or infinity (1 samples)" in problem.what
        assert problem.remedy == "export it again"
    found = load(manifest, tiny_bert, skip_bad=True)
    assert found.table["utterance_id"].tolist() == [f"u{n}" for n in range(60) if n not in {10, 55}]
    assert (len(found.table), found.rows, len(found.audio), len(found.text)) == (58, 60, 58, 58)
    (note,) = found.notes
    assert note.startswith("2 of 60 utterances were left out as bad: ")
    assert f"{manifest}:12: u10: " in note
    assert f"{manifest}:57: u55: " in note
    # Rows after the dropped ones still have their own audio.
    for position in (9, 10, 53, 57):
        (expected,) = AUDIO.extract([load_clip(Clip(Path(found.table["audio"][position])), RATE)])
        np.testing.assert_array_equal(found.audio[position], expected.astype(np.float16))


def test_bad_rows_of_both_kinds_are_counted_together(rows: Rows, tmp_path: Path, tiny_bert: str, write_manifest: Callable) -> None:
    rows[0]["label"] = ""
    soundfile.write(tmp_path / "audio/u10.wav", np.full(8000, np.inf), RATE, subtype="FLOAT")
    found = load(write_manifest(tmp_path, rows), tiny_bert, skip_bad=True)
    assert found.table["utterance_id"].tolist() == [f"u{n}" for n in range(60) if n not in {0, 10}]
    assert found.notes[0].startswith("2 of 60 utterances were left out as bad: ")
    assert "label is empty" in found.notes[0]
    assert f"{tmp_path / 'manifest.csv'}:12: u10: " in found.notes[0]


def test_bad_rows_of_both_kinds_are_reported_in_one_round(
    rows: Rows, tmp_path: Path, tiny_bert: str, write_manifest: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing has to be mended before the rest is told, and a sound corpus isn't decoded twice for it."""
    decoded: list[Path] = []

    def counted(clip: Clip, sample_rate: int) -> np.ndarray:
        decoded.append(clip.path)
        return load_clip(clip, sample_rate)

    monkeypatch.setattr("datamodules.emotion.load_clip", counted)
    load(write_manifest(tmp_path, rows), tiny_bert)
    assert decoded == []
    rows[0]["label"], rows[5]["audio"] = "", "gone.wav"
    soundfile.write(tmp_path / "audio/u10.wav", np.full(8000, np.inf), RATE, subtype="FLOAT")
    manifest = write_manifest(tmp_path, rows)
    with pytest.raises(BadInputError) as caught:
        load(manifest, tiny_bert)
    assert [(problem.row, problem.what.split(": ")[-1]) for problem in caught.value.problems] == [
        (2, "label is empty"),
        (7, "audio file is missing"),
        (12, "audio holds NaN or infinity (8000 samples)"),
    ]
    assert len(decoded) == 58


def test_no_notes_on_a_sound_corpus(utterances: Utterances) -> None:
    assert utterances.notes == ()
    assert (utterances.rows, utterances.corpus.endswith("/manifest -")) == (60, True)


def test_features_of_the_wrong_kind_are_refused(manifest: Path, tiny_bert: str) -> None:
    with pytest.raises(ValueError, match=r"token_ids.* reads text; it can't be the audio feature"):
        load_utterances(Manifest(manifest), TokenIds(tiny_bert), TokenIds(tiny_bert))
    with pytest.raises(ValueError, match="mfcc reads audio; it can't be the text feature"):
        load_utterances(Manifest(manifest), AUDIO, MFCC())


def test_dims_and_store(utterances: Utterances, manifest: Path, tiny_bert: str, tmp_path: Path) -> None:
    data = module(utterances)
    assert (data.audio_dim, data.text_dim) == (8, 1)
    load(manifest, tiny_bert, store=FeatureStore(tmp_path / "elsewhere"))
    assert len(list((tmp_path / "elsewhere").glob("*/data.bin"))) == 3  # and the fingerprints


@pytest.mark.parametrize(
    "change", ["label", "speaker", "dialogue", "turn", "split", "text", "utterance_id", "audio", "start", "order"]
)
def test_fingerprint_changes_with_the_data(
    utterances: Utterances, rows: Rows, tmp_path: Path, tiny_bert: str, write_manifest: Callable, change: str
) -> None:
    if change == "audio":
        soundfile.write(tmp_path / "audio/u3.wav", np.random.default_rng(0).uniform(-1, 1, 5000), RATE)
    elif change == "start":
        rows = [row | {"start": 0.1 if n == 3 else ""} for n, row in enumerate(rows)]
    elif change == "order":
        rows = [*rows[1:], rows[0]]
    else:
        rows[3][change] = {"label": "glad", "turn": 99, "split": "val"}.get(change, "another")
    assert load(write_manifest(tmp_path, rows), tiny_bert).fingerprint != utterances.fingerprint


def test_fingerprint_is_that_of_a_moved_copy(
    utterances: Utterances, rows: Rows, tmp_path: Path, tiny_bert: str, write_manifest: Callable
) -> None:
    """Other folder, other file names, another cache, an extra column: still the same data."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for number, row in enumerate(rows):
        (elsewhere / f"{number}.wav").write_bytes((tmp_path / str(row["audio"])).read_bytes())
        row |= {"audio": f"{number}.wav", "room": number}
    moved = load(write_manifest(elsewhere, rows), tiny_bert, store=FeatureStore(tmp_path / "cache2"))
    assert moved.fingerprint == utterances.fingerprint


@pytest.mark.parametrize("shares", [2, 3, 40])
def test_shares_of_every_batch_make_up_the_batch(shares: int) -> None:
    sizes = np.arange(50) % 7
    whole = list(LengthBatches(sizes, 16, seed=1))
    parts = [list(LengthBatches(sizes, 16, seed=1, share=(rank, shares))) for rank in range(shares)]
    assert {len(part) for part in parts} == {len(whole)}, "every device takes every step"
    for batch, *shared in zip(whole, *parts, strict=True):
        assert all(shared)
        assert set(batch) == set().union(*shared)
        if shares <= len(batch):
            assert sum(map(len, shared)) == len(batch)
            assert max(map(len, shared)) - min(map(len, shared)) <= 1


def present(loader: object) -> dict[str, tuple[bool, ...]]:
    """Which modalities every labelled or unlabelled utterance has."""
    found = {}
    for batch in loader:
        flat = batch.present if batch.turn_mask is None else batch.present[batch.turn_mask]
        found |= dict(zip(batch.utterance_id, map(tuple, flat.tolist()), strict=True))
    return found


@pytest.mark.parametrize("unit", ["utterance", "dialogue"])
def test_a_share_of_the_training_split_alone_lacks_a_modality(utterances: Utterances, unit: str) -> None:
    data = module(utterances, unit=unit, absent=Absent(audio=0.25, text=0.5))
    train = present(data.train_dataloader())
    assert sorted(train.values()) == [(False, True)] * 9 + [(True, False)] * 18 + [(True, True)] * 9
    for loader in (data.val_dataloader(), data.test_dataloader()):
        assert set(present(loader).values()) == {(True, True)}
    assert train == present(module(utterances, absent=Absent(audio=0.25, text=0.5)).train_dataloader())
    assert train != present(module(utterances, absent=Absent(audio=0.25, text=0.5), seed=1).train_dataloader())
    for batch in data.train_dataloader():
        assert not batch.audio_mask[~batch.present[..., 0]].any()
        assert not batch.audio[~batch.present[..., 0]].any()


def test_a_larger_share_takes_more_from_what_is_left(utterances: Utterances) -> None:
    less, more = (present(module(utterances, absent=Absent(text=share)).train_dataloader()) for share in (0.25, 0.5))
    assert {name for name, there in less.items() if not there[1]} < {name for name, there in more.items() if not there[1]}


def test_normalised_by_what_the_training_split_has_left(utterances: Utterances, rows: Rows, tmp_path: Path) -> None:
    data = module(utterances, absent=Absent(audio=0.5))
    left = [name for name, there in present(data.train_dataloader()).items() if there[0]]
    kept = np.concatenate(frames([row for row in rows if row["utterance_id"] in left], tmp_path, None))
    fitted = data._splits["test"].fitted[0]
    assert fitted is not None
    np.testing.assert_allclose(fitted.mean, kept.mean(0), rtol=1e-5)
    np.testing.assert_allclose(fitted.deviation, kept.std(0), rtol=1e-4)


def test_what_training_never_had_is_absent_everywhere(utterances: Utterances) -> None:
    data = module(utterances, absent=Absent(audio=1.0))
    for loader in (data.train_dataloader(), data.val_dataloader(), data.test_dataloader()):
        assert set(present(loader).values()) == {(False, True)}


def test_the_test_split_may_come_from_elsewhere_and_nothing_is_fitted_on_it(
    utterances: Utterances, rows: Rows, tmp_path: Path, tiny_bert: str, write_manifest: Callable
) -> None:
    for number, row in enumerate(rows):
        soundfile.write(tmp_path / str(row["audio"]), np.random.default_rng(number).uniform(-1, 1, 5000), RATE)
    other = load(write_manifest(tmp_path, rows), tiny_bert)
    plain, mixed, elsewhere = module(utterances), module(utterances, test=other), module(other)
    assert same(list(plain.train_dataloader()), list(mixed.train_dataloader()))
    assert same(list(plain.val_dataloader()), list(mixed.val_dataloader()))
    found, own = (torch.cat([b.audio[b.audio_mask] for b in data.test_dataloader()]) for data in (mixed, elsewhere))
    (fitted, *_), (theirs, *_) = plain._splits["train"].fitted, elsewhere._splits["train"].fitted
    assert fitted is not None
    assert theirs is not None
    raw = own.numpy() * theirs.deviation + theirs.mean
    np.testing.assert_allclose(found.numpy(), (raw - fitted.mean) / fitted.deviation, atol=1e-2)
