"""TF-IDF and word ids: against scikit-learn fitted on the training texts, and nothing of val or test in what is fitted."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.feature_extraction.text import TfidfVectorizer

from datamodules.corpora.manifest import Manifest
from datamodules.emotion import EmotionDataModule, load_utterances
from datamodules.features import Feature, FeatureError, parse_feature
from datamodules.protocols import apply_protocol
from datamodules.store import FeatureStore

Rows = list[dict[str, object]]
Write = Callable[[Path, Rows], Path]
TRAIN = ["I hate this awful mess", "the bus leaves at noon, the bus!", "hate the bus", "What a lovely, happy day", "lovely bus"]
OTHER = ["a zebra hates the bus", "zebra", "...", "", "lovely lovely day"]


def fitted(feature: Feature, texts: list[str] = TRAIN) -> list[np.ndarray]:
    """What batches hold of all texts, after fitting on ``texts``."""
    transform = feature.fit(feature.extract(texts))
    return [transform.apply(array) for array in feature.extract(TRAIN + OTHER)]


def columns_sorted(vectors: np.ndarray) -> np.ndarray:
    """Columns in an order of their own, since neither library's means anything."""
    return vectors[:, np.lexsort(vectors.round(6))]


@pytest.mark.parametrize(("ngrams", "min_df"), [(1, 1), (2, 1), (2, 2), (3, 2)])
def test_tfidf_is_scikit_learns(ngrams: int, min_df: int) -> None:
    vectoriser = TfidfVectorizer(ngram_range=(1, ngrams), min_df=min_df).fit(TRAIN)
    expected = vectoriser.transform(TRAIN + OTHER).toarray()
    feature = parse_feature(f"tfidf(max_features=60, ngrams={ngrams}, min_df={min_df})")
    found = np.concatenate(fitted(feature))
    assert found.shape == (10, 60)
    terms = expected.shape[1]
    assert not found[:, terms:].any()  # fewer terms than columns
    np.testing.assert_allclose(columns_sorted(found[:, :terms]), columns_sorted(expected), atol=1e-6)


def test_the_most_frequent_terms_are_kept() -> None:
    """bus 4, the 3, hate and lovely 2: how often, not in how many texts."""
    expected = TfidfVectorizer(max_features=2, min_df=2).fit(TRAIN)
    assert sorted(expected.vocabulary_) == ["bus", "the"]
    found = np.concatenate(fitted(parse_feature("tfidf(max_features=2, ngrams=1)")))
    np.testing.assert_allclose(columns_sorted(found), columns_sorted(expected.transform(TRAIN + OTHER).toarray()), atol=1e-6)


def test_word_ids() -> None:
    """bus 4, the 3, hate, lovely and a 2 or less: three ids for the three most frequent, 0 for the others and for no words."""
    first, second, third, fourth, *rest = [array[:, 0].tolist() for array in fitted(parse_feature("word_ids(size=3)"))]
    bus, the = third[2], third[1]
    assert {bus, the} == {1, 2}
    assert (first, second, fourth) == ([0] * 5, [the, bus, 0, 0, 0, the, bus], [0] * 5)
    assert rest[1:] == [[0, 0, 0, the, bus], [0], [0], [0], [0, 0, 0]]
    assert fitted(parse_feature("word_ids"))[0].dtype == np.int64
    words = {array[n, 0] for array in fitted(parse_feature("word_ids(min_df=1)"))[:5] for n in range(len(array))}
    assert words == set(range(1, 16)), "all 15 words of the training texts, and none of them unknown"


def test_absent_text_stays_absent() -> None:
    for name, width in (("tfidf", 5000), ("word_ids", 1)):
        feature = parse_feature(name)
        nothing = np.zeros((0, feature.dim), feature.dtype)
        assert feature.fit([*feature.extract(TRAIN), nothing]).apply(nothing).shape == (0, width)
        assert feature.fit([nothing]).apply(feature.extract(["bus"])[0]).shape == (1, width), "no training text at all"


def test_texts_without_a_common_word() -> None:
    with pytest.raises(FeatureError, match="no term occurs in 2 of the 2 training texts; lower min_df"):
        fitted(parse_feature("tfidf"), ["one thing", "another matter"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tfidf(max_features=0)", "max_features is 0, ngrams 2 and min_df 2; all must be at least 1"),
        ("tfidf(ngrams=0)", "ngrams 0"),
        ("word_ids(size=1)", "size is 1 and min_df 2; they must be at least 2 and 1"),
    ],
)
def test_sizes_out_of_range(text: str, message: str) -> None:
    with pytest.raises(FeatureError, match=message):
        parse_feature(text)


def test_one_set_of_counts_serves_every_vocabulary() -> None:
    store = FeatureStore()
    folders = {store.get(parse_feature(f"tfidf(max_features={n}, min_df={n})"), TRAIN).path for n in (1, 7)}
    assert len(folders) == 1
    assert store.get(parse_feature("tfidf(ngrams=1)"), TRAIN).path not in folders
    assert parse_feature("tfidf(min_df=3)").identity() != parse_feature("tfidf").identity()


def module(path: Path, text: str, unit: str = "utterance") -> EmotionDataModule:
    utterances = load_utterances(Manifest(path), parse_feature("logmel(n=8)"), parse_feature(text))
    plan = apply_protocol(utterances.table)
    data = EmotionDataModule(utterances, plan.folds[0], plan.classes, unit=unit, batch_size=7)
    data.setup()
    return data


@pytest.mark.parametrize("split", ["val", "test", "train"])
@pytest.mark.parametrize("text", ["tfidf(max_features=20, ngrams=1, min_df=1)", "word_ids(size=20, min_df=1)"])
def test_the_vocabulary_is_that_of_train(rows: Rows, tmp_path: Path, write_manifest: Write, split: str, text: str) -> None:
    """New words everywhere in one split, more frequent than all others: what is fitted changes only if the split is train."""
    before = module(write_manifest(tmp_path, rows), text)._splits["train"].fitted[1]
    for row in rows:
        if row["split"] == split:
            row["text"] = f"{row['text']} new words new words new words"
    after = module(write_manifest(tmp_path, rows), text)._splits["train"].fitted[1]
    same = all(np.array_equal(one, other) for one, other in zip(before, after, strict=True))
    assert same == (split != "train")


def test_in_batches(rows: Rows, tmp_path: Path, write_manifest: Write) -> None:
    """Scikit-learn's vectors, fitted on train, in every split; an utterance without text has none."""
    rows[-1]["text"] = ""
    rows[-2]["text"] = "zebra"
    data = module(write_manifest(tmp_path, rows), "tfidf(max_features=50, ngrams=1, min_df=1)")
    assert data.text_dim == 50
    vectoriser = TfidfVectorizer().fit([str(row["text"]) for row in rows if row["split"] == "train"])
    texts = {str(row["utterance_id"]): str(row["text"]) for row in rows}
    for loader in (data.train_dataloader(), data.val_dataloader(), data.test_dataloader()):
        for batch in loader:
            assert batch.text.shape[1:] == (1, 50)
            assert batch.text.dtype == torch.float32
            for b, name in enumerate(batch.utterance_id):
                assert bool(batch.present[b, 1]) == bool(texts[name])
                expected = np.sort(vectoriser.transform([texts[name]]).toarray()[0])
                found = np.sort(batch.text[b, 0].numpy())
                np.testing.assert_allclose(found[-len(expected) :], expected, atol=1e-6)


def test_ids_in_batches_of_dialogues(rows: Rows, tmp_path: Path, write_manifest: Write) -> None:
    batch = next(iter(module(write_manifest(tmp_path, rows), "word_ids(size=9)", "dialogue").train_dataloader()))
    assert batch.text.dtype == torch.int64
    assert 0 < batch.text.max() < 9
