"""Features beside each other: each stored and fitted by itself, their columns in one array."""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from datamodules.corpora.manifest import Manifest
from datamodules.emotion import EmotionDataModule, load_utterances
from datamodules.features import FeatureError, SideBySide, parse_feature
from datamodules.problems import BadInputError, UnknownNameError
from datamodules.protocols import apply_protocol

Rows = list[dict[str, object]]


def module(path: Path, audio: str, text: str = "word_ids") -> EmotionDataModule:
    utterances = load_utterances(Manifest(path), parse_feature(audio), parse_feature(text))
    plan = apply_protocol(utterances.table)
    return EmotionDataModule(utterances, plan.folds[0], plan.classes, batch_size=7)


def vectors(data: EmotionDataModule, modality: str) -> dict[str, np.ndarray]:
    """What batches hold of every utterance, without padding."""
    data.setup()
    found = {}
    for loader in (data.train_dataloader(), data.val_dataloader(), data.test_dataloader()):
        for batch in loader:
            values, mask = getattr(batch, modality), getattr(batch, f"{modality}_mask")
            found |= {name: values[b, mask[b]].numpy() for b, name in enumerate(batch.utterance_id)}
    return found


def test_columns_are_those_of_the_parts(manifest: Path, tiny_bert: str) -> None:
    """Frames beside frames; a vector is repeated over them; normalised and fitted as alone."""
    names = ("logmel(n=4)", "mfcc(n=3)", "egemaps")
    both = module(manifest, " + ".join(names))
    assert both.audio_dim == 4 + 3 + 88
    together, alone = vectors(both, "audio"), [vectors(module(manifest, name), "audio") for name in names]
    for key, array in together.items():
        parts = [own[key] for own in alone]
        expected = np.concatenate([*parts[:2], np.repeat(parts[2], len(parts[0]), axis=0)], axis=1)
        np.testing.assert_array_equal(array, expected)
    states, words = f"hidden_states(checkpoint={tiny_bert!r}, pool='first')", "tfidf(max_features=9)"
    together = vectors(module(manifest, "logmel(n=4)", f"{states} + {words}"), "text")
    alone = [vectors(module(manifest, "logmel(n=4)", name), "text") for name in (states, words)]
    assert all(np.array_equal(array, np.concatenate([own[key] for own in alone], axis=1)) for key, array in together.items())


def test_absent_inputs(rows: Rows, tmp_path: Path, write_manifest: Callable) -> None:
    rows[3]["audio"] = ""
    found = vectors(module(write_manifest(tmp_path, rows), "logmel(n=4) + egemaps"), "audio")
    assert found["u3"].shape == (0, 92)
    assert found["u4"].shape[0] > 1


def test_each_part_is_stored_once(manifest: Path, cache: Path) -> None:
    module(manifest, "logmel(n=4) + mfcc(n=3)")
    module(manifest, "mfcc(n=3)")
    module(manifest, "mfcc(n=3) + logmel(n=4)")
    assert sorted(path.name.split("-")[0] for path in (cache / "features").glob("*-*")) == [
        "fingerprint",
        "logmel",
        "mfcc",
        "word_ids",
    ]


def test_parts_with_other_strides_are_refused(manifest: Path) -> None:
    data = module(manifest, "logmel(n=4) + mfcc(n=3, hop_ms=20.0)")
    data.setup()
    with pytest.raises(FeatureError, match=r"rows of logmel\(n=4\) and \d+ rows of mfcc.*can't stand beside each other"):
        next(iter(data.train_dataloader()))


def test_an_unreadable_clip_is_named_once(rows: Rows, manifest: Path, tmp_path: Path) -> None:
    """In the words of one part, though no part could read it."""
    soundfile.write(tmp_path / str(rows[2]["audio"]), np.full(5000, np.nan), 16_000, subtype="FLOAT")
    with pytest.raises(BadInputError) as caught:
        module(manifest, "logmel(n=4) + mfcc(n=3)")
    assert len(re.findall("u2: .*: audio holds NaN", str(caught.value))) == 1


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("token_ids + hidden_states", FeatureError, "token_ids gives ids for an embedding; it can't stand beside"),
        ("tfidf + word_ids", FeatureError, "word_ids gives ids"),
        ("mfcc + mfc", UnknownNameError, "did you mean 'mfcc'"),
        ("mfcc - egemaps", FeatureError, "is not a feature"),
        ("mfcc + 3", FeatureError, "is not a feature"),
    ],
)
def test_what_cannot_stand_side_by_side(text: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        parse_feature(text)


def test_parts_read_the_same() -> None:
    with pytest.raises(FeatureError, match="its parts read audio and text"):
        _ = parse_feature("mfcc + tfidf").modality


def test_identity_is_the_parts() -> None:
    one, other = parse_feature("mfcc + egemaps + mfcc(n=3)"), parse_feature("egemaps + mfcc + mfcc(n=3)")
    assert str(one) == "mfcc + egemaps + mfcc(n=3)"
    assert parse_feature(str(one)) == one
    assert isinstance(one, SideBySide)
    assert one.identity() == {"name": "side_by_side", "parts": [part.identity() for part in one.parts]}
    assert one.identity() != other.identity()
