"""Splits share nothing that inflates a score, or say so in their name, or are refused with what would allow them."""

from itertools import combinations

import numpy as np
import pandas as pd
import pytest

from datamodules.problems import UnknownNameError
from datamodules.protocols import Fold, Plan, ProtocolError, apply_protocol


def corpus(speakers: int = 10, each: int = 12, dialogues: int = 2, split: list[str] | None = None) -> pd.DataFrame:
    """A table of ``speakers * each`` utterances with three labels; ``split`` names every speaker's split."""
    rows = [
        {
            "utterance_id": f"u{speaker}-{n}",
            "label": ["calm", "cross", "glad"][(n + speaker) % 3],
            "speaker": f"s{speaker}",
            "dialogue": f"d{speaker}-{n * dialogues // each}",
            "split": split[speaker] if split else None,
        }
        for speaker in range(speakers)
        for n in range(each)
    ]
    return pd.DataFrame(rows)


OWN = ["train"] * 6 + ["val"] * 2 + ["test"] * 2


def members(table: pd.DataFrame, fold: Fold, column: str) -> dict[str, set[str]]:
    indexed = table.set_index("utterance_id")[column]
    return {name: set(indexed[list(getattr(fold, name))].dropna()) for name in ("train", "val", "test")}


def assert_disjoint(table: pd.DataFrame, plan: Plan, column: str) -> None:
    for fold in plan.folds:
        for one, other in combinations(members(table, fold, column).values(), 2):
            assert not one & other


def assert_complete(table: pd.DataFrame, plan: Plan) -> None:
    """Every fold uses every utterance once; over all folds every utterance is tested once."""
    for fold in plan.folds:
        assert sorted(fold.train + fold.val + fold.test) == sorted(table["utterance_id"])
    assert sorted(i for fold in plan.folds for i in fold.test) == sorted(table["utterance_id"])


@pytest.mark.parametrize(
    ("train", "val", "test", "names"),
    [
        ("ab", "bc", "de", "in train and in val"),
        ("ab", "cd", "ea", "in train and in test"),
        ("ab", "cd", "ed", "in val and in test"),
    ],
)
def test_fold_refuses_shared_utterances(train: str, val: str, test: str, names: str) -> None:
    with pytest.raises(ProtocolError, match=names):
        Fold(0, tuple(train), tuple(val), tuple(test))


@pytest.mark.parametrize("empty", ["train", "val", "test"])
def test_fold_refuses_an_empty_split(empty: str) -> None:
    with pytest.raises(ProtocolError, match=f"no {empty} utterances"):
        Fold(3, **({"train": ("a",), "val": ("b",), "test": ("c",)} | {empty: ()}))


@pytest.mark.parametrize("protocol", ["auto", "split", "split@1"])
def test_own_splits_are_taken_as_they_are(protocol: str) -> None:
    table = corpus(split=OWN)
    plan = apply_protocol(table, protocol)
    assert plan.protocol == "split@1"
    assert plan.classes == ("calm", "cross", "glad")
    assert plan.caveats == ()
    (fold,) = plan.folds
    for name in ("train", "val", "test"):
        assert getattr(fold, name) == tuple(table.loc[table["split"] == name, "utterance_id"])


def test_val_is_held_out_of_train_when_absent() -> None:
    table = corpus(split=["train"] * 8 + ["test"] * 2)
    plan = apply_protocol(table)
    (fold,) = plan.folds
    assert sorted(fold.train + fold.val) == sorted(table.loc[table["split"] == "train", "utterance_id"])
    assert fold.test == tuple(table.loc[table["split"] == "test", "utterance_id"])
    assert_disjoint(table, plan, "speaker")
    assert 0.1 < len(fold.val) / 96 < 0.3
    assert plan.protocol == "split@1"
    assert plan.caveats == (f"no val split was given: {len(fold.val)} utterances of train were held out for it",)


@pytest.mark.parametrize("unknown", ["one speaker", "no speaker"])
def test_val_is_not_held_out_of_one_voice_unasked(unknown: str) -> None:
    table = corpus(speakers=2, each=30, dialogues=10, split=["train", "test"])
    if unknown == "no speaker":
        table["speaker"] = None
    with pytest.raises(ProtocolError, match=r"no val split.*--allow-speaker-overlap"):
        apply_protocol(table)
    plan = apply_protocol(table, allow_speaker_overlap=True)
    assert_disjoint(table, plan, "dialogue")
    if unknown == "one speaker":
        assert plan.protocol == "split-overlap@1"
    else:
        assert "speakers are not known: whether the splits share any can't be checked" in plan.caveats


@pytest.mark.parametrize("missing", ["train", "test"])
def test_own_splits_need_train_and_test(missing: str) -> None:
    table = corpus(split=OWN)
    with pytest.raises(ProtocolError, match=f"no utterance has the split '{missing}'"):
        apply_protocol(table[table["split"] != missing].reset_index(drop=True))


def test_partly_assigned_splits_are_refused() -> None:
    table = corpus(split=OWN)
    table.loc[[5, 40], "split"] = None
    with pytest.raises(ProtocolError, match=r"2 of 120 utterances have no split, the first is 'u0-5'; assign them all, or none"):
        apply_protocol(table)


def test_split_protocol_without_a_split_column_is_refused() -> None:
    with pytest.raises(ProtocolError, match="no split"):
        apply_protocol(corpus(), "split")


@pytest.mark.parametrize(("protocol", "count"), [("auto", 5), ("speaker-5fold@1", 5), ("speaker-2fold", 2), ("speaker-10fold", 10)])
@pytest.mark.parametrize("uneven", [False, True])
def test_speaker_cross_validation(protocol: str, count: int, uneven: bool) -> None:
    table = corpus()
    if uneven:
        table = table.sample(frac=0.7, random_state=1).reset_index(drop=True)
    plan = apply_protocol(table, protocol)
    assert plan.protocol == (protocol if protocol.endswith("@1") else f"{protocol}@1").replace("auto", "speaker-5fold")
    assert [fold.number for fold in plan.folds] == list(range(count))
    assert_complete(table, plan)
    assert_disjoint(table, plan, "speaker")
    for fold in plan.folds:
        assert set(members(table, fold, "label")["train"]) == set(plan.classes)


def test_more_folds_than_speakers_leave_one_speaker_out() -> None:
    table = corpus(speakers=4)
    plan = apply_protocol(table)
    assert len(plan.folds) == 4
    assert_complete(table, plan)
    assert_disjoint(table, plan, "speaker")
    assert all(len(members(table, fold, "speaker")["test"]) == 1 for fold in plan.folds)


def test_three_speakers_are_enough() -> None:
    table = corpus(speakers=3)
    plan = apply_protocol(table)
    assert_complete(table, plan)
    assert_disjoint(table, plan, "speaker")


@pytest.mark.parametrize("speakers", [1, 2])
@pytest.mark.parametrize("protocol", ["auto", "speaker-5fold"])
def test_too_few_speakers_are_refused(speakers: int, protocol: str) -> None:
    with pytest.raises(ProtocolError, match=f"{speakers} speakers can't be divided.*--allow-speaker-overlap"):
        apply_protocol(corpus(speakers=speakers), protocol)


@pytest.mark.parametrize("speakers", [1, 2])
def test_too_few_speakers_are_split_if_overlap_is_allowed(speakers: int) -> None:
    """What the refusal advises must work."""
    table = corpus(speakers=speakers, each=60, dialogues=12)
    plan = apply_protocol(table, allow_speaker_overlap=True)
    assert plan.protocol == "overlap-5fold@1"
    assert_complete(table, plan)
    assert_disjoint(table, plan, "dialogue")


def test_unknown_speakers_are_refused() -> None:
    table = corpus()
    table.loc[[7, 8], "speaker"] = None
    with pytest.raises(ProtocolError, match=r"2 utterances have no speaker, the first is 'u0-7'.*--allow-speaker-overlap"):
        apply_protocol(table)


@pytest.mark.parametrize("protocol", ["auto", "overlap-5fold@1"])
def test_overlap_keeps_dialogues_whole_and_says_so(protocol: str) -> None:
    table = corpus(dialogues=4)
    table.loc[:, "speaker"] = table["speaker"].where(table.index > 30)
    plan = apply_protocol(table, protocol, allow_speaker_overlap=True)
    assert plan.protocol == "overlap-5fold@1"
    assert_complete(table, plan)
    assert_disjoint(table, plan, "dialogue")
    assert any("speakers are in more than one split: not comparable" in caveat for caveat in plan.caveats)


def test_overlap_without_dialogues_splits_utterances() -> None:
    table = corpus().assign(dialogue=None, speaker=None)
    plan = apply_protocol(table, allow_speaker_overlap=True)
    assert_complete(table, plan)
    assert all(abs(len(fold.test) - 24) <= 3 for fold in plan.folds)
    assert any("speakers are not known" in caveat for caveat in plan.caveats)


def test_overlap_must_be_asked_for() -> None:
    with pytest.raises(ProtocolError, match="pass --allow-speaker-overlap if you mean it"):
        apply_protocol(corpus(), "overlap-5fold")


def test_speaker_in_two_own_splits() -> None:
    """Refused with the speakers' names; allowed on request, and then the name and a caveat say so."""
    table = corpus(split=OWN)
    table.loc[table["speaker"] == "s9", "speaker"] = "s0"
    with pytest.raises(ProtocolError, match=r"1 speakers are in more than one split \(s0\).*--allow-speaker-overlap"):
        apply_protocol(table)
    plan = apply_protocol(table, allow_speaker_overlap=True)
    assert plan.protocol == "split-overlap@1"
    assert plan.caveats == ("1 speakers are in more than one split: not comparable with speaker-independent results",)
    assert plan.folds[0].test == tuple(table.loc[table["split"] == "test", "utterance_id"])


def test_permission_to_overlap_changes_nothing_where_none_is_needed() -> None:
    assert apply_protocol(corpus(split=OWN), allow_speaker_overlap=True) == apply_protocol(corpus(split=OWN))
    assert apply_protocol(corpus(), allow_speaker_overlap=True) == apply_protocol(corpus())


def test_label_without_training_example() -> None:
    table = corpus(split=OWN)
    table.loc[table.index[-1], "label"] = "awe"
    with pytest.raises(ProtocolError, match=r"without a single training example.*'awe'.*relabel or remove"):
        apply_protocol(table)
    # One speaker alone has the label: the fold that tests this speaker can't have trained on it.
    with pytest.raises(ProtocolError, match=r"without a single training example \(fold \d: 'awe'"):
        apply_protocol(table.assign(split=None))


def test_label_without_test_example_is_a_caveat() -> None:
    table = corpus(split=OWN)
    table.loc[table.index[0], "label"] = "awe"
    plan = apply_protocol(table)
    assert plan.classes == ("awe", "calm", "cross", "glad")
    assert plan.caveats == ("fold 0: the test split has no awe; UAR is over the other classes",)


@pytest.mark.parametrize(
    ("wrong", "near"), [("speaker5fold", "speaker-5fold@1"), ("spilt", "split@1"), ("overlap-5-fold", "overlap-5fold@1")]
)
def test_unknown_protocol_names_the_near_ones(wrong: str, near: str) -> None:
    with pytest.raises(UnknownNameError) as caught:
        apply_protocol(corpus(), wrong)
    assert f"no protocol is called '{wrong}'; did you mean" in str(caught.value)
    assert near in str(caught.value)


def test_another_version_is_unknown() -> None:
    with pytest.raises(UnknownNameError, match="split@1"):
        apply_protocol(corpus(split=OWN), "split@2")


@pytest.mark.parametrize("count", [0, 1])
def test_cross_validation_needs_two_folds(count: int) -> None:
    with pytest.raises(ProtocolError, match="at least 2 folds"):
        apply_protocol(corpus(), f"speaker-{count}fold")


@pytest.mark.parametrize("protocol", ["speaker-5fold", "overlap-5fold"])
def test_splits_are_the_same_every_time(protocol: str) -> None:
    """Whatever other code did to the global random state."""
    np.random.seed(1)
    first = apply_protocol(corpus(), protocol, allow_speaker_overlap=True)
    np.random.seed(2)
    assert apply_protocol(corpus(), protocol, allow_speaker_overlap=True) == first


def test_speakers_who_talk_to_each_other_stay_together() -> None:
    """Five dyads, as in IEMOCAP: ten speakers, and folds that cut no dialogue."""
    rows = [
        {
            "utterance_id": f"{dyad}-{turn}",
            "speaker": f"s{dyad}{turn % 2}",
            "dialogue": f"d{dyad}-{turn // 6}",
            "label": "ab"[turn % 3 % 2],
        }
        for dyad in range(5)
        for turn in range(18)
    ]
    table = pd.DataFrame(rows).assign(split=None)
    plan = apply_protocol(table)
    assert plan.protocol == "speaker-5fold@1"
    assert plan.caveats == ()
    dialogue = table.set_index("utterance_id")["dialogue"]
    for fold in plan.folds:
        parts = [set(dialogue[list(ids)]) for ids in (fold.train, fold.val, fold.test)]
        assert all(one.isdisjoint(other) for one, other in combinations(parts, 2))


def test_dialogues_that_must_be_cut_are_a_caveat() -> None:
    rows = [{"utterance_id": f"{n}", "speaker": f"s{n % 6}", "dialogue": "one", "label": "ab"[n // 6 % 2]} for n in range(36)]
    plan = apply_protocol(pd.DataFrame(rows).assign(split=None))
    assert any("1 dialogues are cut between splits" in caveat for caveat in plan.caveats)


def test_a_common_interviewer_does_not_swallow_the_folds() -> None:
    rows = [
        {"utterance_id": f"{d}-{t}", "speaker": "host" if t % 2 else f"g{d}", "dialogue": f"d{d}", "label": "ab"[t // 2 % 2]}
        for d in range(20)
        for t in range(6)
    ]
    plan = apply_protocol(pd.DataFrame(rows).assign(split=None))
    assert all(len(fold.train) >= 40 for fold in plan.folds)
    assert any("dialogues are cut" in caveat for caveat in plan.caveats)


def test_the_name_tells_the_folds_that_were_made() -> None:
    assert apply_protocol(corpus(speakers=4), "speaker-10fold").protocol == "speaker-4fold@1"


def test_one_class_is_refused() -> None:
    with pytest.raises(ProtocolError, match="all utterances have the label 'calm'"):
        apply_protocol(corpus().assign(label="calm"))
