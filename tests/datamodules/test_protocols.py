"""Splits share nothing that inflates a score, or say so in their name, or are refused with what would allow them."""

from collections.abc import Callable
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from datamodules.leaks import ALL_PAIRS, find_leaks, normalise
from datamodules.problems import UnknownNameError
from datamodules.protocols import (
    HEADLINES,
    PROTOCOLS,
    Counts,
    Fold,
    LeakError,
    Plan,
    ProtocolError,
    apply_protocol,
    list_protocols,
    protocol_task,
)


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


def iemocap(each: int = 24) -> pd.DataFrame:
    """Five dyads, in each two improvised dialogues and two performances of five scenes of three plays."""
    labels = ("ang", "hap", "exc", "neu", "sad", "fru", "xxx", "oth")
    scenes = ("impro01", "impro02", "script01_1", "script01_2", "script02_1", "script03_1", "script03_2")
    rows = [
        {
            "utterance_id": f"Ses0{s}{lead}_{scene}_{turn:03}",
            "label": labels[turn % len(labels)],
            "speaker": f"Ses0{s}{'FM'[turn % 2]}",
            "dialogue": f"Ses0{s}{lead}_{scene}",
            "turn": turn,
            "session": f"Session{s}",
            "split": None,
            "improvised": scene.startswith("impro"),
            "script": None if scene.startswith("impro") else scene,
            "text": f"{scene} says {turn}" if scene.startswith("script") else f"{s}{lead}{scene} {turn}",
        }
        for s in range(1, 6)
        for scene in scenes
        for lead in "FM"
        for turn in range(each)
    ]
    return pd.DataFrame(rows)


def meld(each: int = 42) -> pd.DataFrame:
    """Two dialogues per split; the same six speakers everywhere."""
    labels = ("neutral", "surprise", "fear", "sadness", "joy", "disgust", "anger")
    rows = [
        {
            "utterance_id": f"{split}-{n}",
            "label": labels[n % 7],
            "sentiment": ("neutral", "positive", "negative")[n % 3],
            "speaker": f"friend{n % 6}",
            "dialogue": f"{split}-dia{n * 2 // each}",
            "turn": n,
            "split": split,
            "text": "okay" if n == 0 else f"{split} says {n}",
        }
        for split in ("train", "val", "test")
        for n in range(each)
    ]
    return pd.DataFrame(rows)


def parallel(speakers: int, sentences: int) -> pd.DataFrame:
    """Every speaker reads every sentence in four emotions."""
    rows = [
        {
            "utterance_id": f"{speaker}-{sentence}-{label}",
            "label": label,
            "speaker": f"{speaker:04}",
            "dialogue": None,
            "sentence": f"{sentence:03}",
            "split": None,
            "text": f"sentence {sentence}",
        }
        for speaker in range(speakers)
        for sentence in range(sentences)
        for label in ("Angry", "Happy", "Neutral", "Sad")
    ]
    return pd.DataFrame(rows)


def mosei(each: int = 16) -> pd.DataFrame:
    """Two videos per split and one without; intensities of six emotions, all of them together and none at all included."""
    emotions = ("happy", "sad", "anger", "surprise", "disgust", "fear")
    rows = [
        {
            "utterance_id": f"{video}[{n}]",
            "label": None,
            "speaker": None,
            "dialogue": video,
            "turn": n,
            "split": video.rstrip("12") if video != "unlisted" else None,
            "text": "thank you" if n == 0 else f"{video} says {n}",
            **{emotion: (n >> bit & 1) / 3 for bit, emotion in enumerate(emotions[:4])},
            **{emotion: float(n in {9, 15}) for emotion in emotions[4:]},
        }
        for video in ("train1", "train2", "val1", "val2", "test1", "test2", "unlisted")
        for n in range(each)
    ]
    return pd.DataFrame(rows)


TABLES: dict[str, Callable[[], pd.DataFrame]] = {
    "iemocap": iemocap,
    "meld": meld,
    "esd": lambda: parallel(10, 30),
    "emouerj": lambda: parallel(8, 10),
    "mosei": mosei,
    "": corpus,
}
FOUR = ("ang", "hap", "neu", "sad")


@pytest.mark.parametrize("name", PROTOCOLS)
def test_named_protocols_keep_what_they_declare(name: str) -> None:
    """On a generated table of the corpus; counted here without the guard's help."""
    declared = PROTOCOLS[name]
    table = TABLES[declared.corpus]()
    plan = apply_protocol(table, name, corpus=declared.corpus or None)
    assert plan == apply_protocol(table, name.removesuffix("@1"))
    assert (plan.protocol, plan.headline, plan.task) == (name, declared.headline, protocol_task(name, declared.corpus))
    relabelled = plan.relabel(table).set_index("utterance_id")["label"]
    if plan.task == "multilabel":
        relabelled = relabelled.str.split("+").explode().replace("none", None)
    assert set(plan.classes) == set(relabelled.dropna()) & set(plan.classes)
    columns = {"speakers": "speaker", "dialogues": "dialogue", "scripts": "script", "sentences": "text"}
    for fold in plan.folds:
        for kind, column in columns.items():
            if column in table.columns:
                parts = members(table, fold, column)
                for pair in ALL_PAIRS - declared.shares.get(kind, frozenset()):
                    assert not parts[pair[0]] & parts[pair[1]], (fold.number, kind, pair)
        assert set(relabelled[list(fold.train)].dropna()) == set(plan.classes)
        assert set(relabelled[[*fold.val, *fold.test]].dropna()) <= set(plan.classes)


def test_mosei_is_multilabel_and_counts_what_has_a_split() -> None:
    table = mosei()
    table.loc[table["utterance_id"] == "val1[3]", "anger"] = np.nan  # nobody rated it: it can be neither positive nor negative
    plan = apply_protocol(table, "auto", corpus="mosei")
    (fold,) = plan.folds
    assert (plan.task, plan.headline) == ("multilabel", "mean_weighted_accuracy")
    assert [len(part) for part in (fold.train, fold.val, fold.test, fold.context)] == [32, 31, 32, 1]
    label = plan.relabel(table).set_index("utterance_id")["label"]
    assert label[["test1[0]", "test1[1]", "test1[6]", "test1[9]"]].tolist() == [
        "none",
        "happy",
        "sad+anger",
        "happy+surprise+disgust+fear",
    ]
    assert label[["val1[3]"]].isna().all()
    assert protocol_task("auto", "mosei") == protocol_task("mosei6", "mosei") == "multilabel"
    assert (
        protocol_task("auto", "demo") == protocol_task("speaker-5fold", "mosei") == protocol_task("meld7", "meld") == "multiclass"
    )


@pytest.mark.parametrize("name", ["iemocap4-loso", "iemocap4-improvised"])
def test_iemocap_leaves_one_session_out(name: str) -> None:
    table = iemocap()
    plan = apply_protocol(table, name)
    assert plan.classes == FOUR
    tested = []
    for fold in plan.folds:
        sessions = members(table, fold, "session")
        test = fold.number + 1
        assert sessions["test"] == {f"Session{test}"}
        assert sessions["val"] == {f"Session{test % 5 + 1}"}
        assert len(sessions["train"]) == 3
        tested += fold.test
    counts = table["label"].isin([*FOUR, "exc"]) & (table["improvised"] | (name == "iemocap4-loso"))
    assert sorted(tested) == sorted(table.loc[counts, "utterance_id"])
    assert plan.relabel(table).loc[table["label"] == "exc", "label"].unique().tolist() == ["hap"]


def test_iemocap_session5() -> None:
    (fold,) = apply_protocol(iemocap(), "iemocap4-session5").folds
    sessions = members(iemocap(), fold, "session")
    assert sessions == {"train": {"Session1", "Session2", "Session3"}, "val": {"Session4"}, "test": {"Session5"}}


def test_iemocap_random90_says_that_speakers_overlap() -> None:
    table = iemocap()
    plan = apply_protocol(table, "iemocap4-random90")
    (fold,) = plan.folds
    count = table["label"].isin([*FOUR, "exc"]).sum()
    assert (len(fold.test), len(fold.val)) == (round(count * 0.1), round(count * 0.1))
    assert len(fold.train) + len(fold.val) + len(fold.test) == count
    assert fold.context == ()
    text = " ".join(plan.caveats)
    assert "speakers overlap" in text
    assert "10 speakers are in more than one split" in text
    # The order of the rows is no part of the protocol.
    again = apply_protocol(table.sample(frac=1, random_state=3).reset_index(drop=True), "iemocap4-random90")
    assert sorted(again.folds[0].test) == sorted(fold.test)


def test_iemocap_scriptdisjoint_trains_on_no_play_that_is_tested() -> None:
    table = iemocap()
    plan = apply_protocol(table, "iemocap4-scriptdisjoint")
    used: set[str] = set()
    for fold in plan.folds:
        scripts = members(table, fold, "script")
        plays = {name: {script.split("_")[0] for script in found} for name, found in scripts.items()}
        assert len(plays["test"]) == 1
        assert len(plays["train"]) == 2
        assert not plays["test"] & plays["train"]
        assert not plays["val"]
        assert members(table, fold, "session")["test"] == {f"Session{fold.number + 1}"}
        improvised = table.set_index("utterance_id")["improvised"]
        assert all(improvised[list(ids)].any() for ids in (fold.train, fold.val, fold.test))
        used |= plays["test"]
    assert used == {"script01", "script02", "script03"}
    assert any("leaves out" in caveat and "their play is in another split" in caveat for caveat in plan.caveats)
    assert not any("scripts are performed" in caveat for caveat in plan.caveats)
    # The standard folds do share them, and say so.
    shared = [caveat for caveat in apply_protocol(table, "iemocap4-loso").caveats if "scripts are performed" in caveat]
    assert shared == [
        "5 scripts are performed in more than one split: up to 71% of a test split's utterances are of one that is trained on"
    ]


def test_iemocap6_dialogue() -> None:
    table = iemocap()
    plan = apply_protocol(table, "iemocap6-dialogue")
    assert plan.headline == "weighted_f1"
    assert plan.classes == ("hap", "sad", "neu", "ang", "exc", "fru")
    assert plan.relabel(table)["label"].tolist() == table["label"].tolist()
    (fold,) = plan.folds
    dialogues = members(table, fold, "dialogue")
    assert {name[:5] for name in dialogues["test"]} == {"Ses05"}
    assert sorted(name[:5] for name in dialogues["val"]) == sorted(["Ses01", "Ses02", "Ses03", "Ses04"] * 3)
    assert not any(one & other for one, other in combinations(dialogues.values(), 2))
    text = " ".join(plan.caveats)
    assert "8 speakers are in train and in val: the epoch is selected on voices that were trained on" in text
    assert "speaker-independent" not in text


def test_validation_dialogues_dont_depend_on_what_else_is_there() -> None:
    table = iemocap()
    whole = members(table, apply_protocol(table, "iemocap6-dialogue").folds[0], "dialogue")["val"]
    less = table[table["session"] != "Session2"].reset_index(drop=True)
    part = members(less, apply_protocol(less, "iemocap6-dialogue").folds[0], "dialogue")["val"]
    assert part == {name for name in whole if not name.startswith("Ses02")}


def test_context_stays_with_its_dialogue() -> None:
    table = iemocap()
    dialogue = table.set_index("utterance_id")["dialogue"]
    for fold in apply_protocol(table, "iemocap4-loso").folds:
        assert sorted(fold.train + fold.val + fold.test + fold.context) == sorted(table["utterance_id"])
    for fold in apply_protocol(table, "iemocap4-improvised").folds:
        assert all("impro" in dialogue[name] for name in fold.context)
        assert len(fold.context) == 5 * 2 * 2 * 9
    for fold in apply_protocol(table, "iemocap4-scriptdisjoint").folds:
        assert set(dialogue[list(fold.context)]) <= set.union(*members(table, fold, "dialogue").values())


def test_a_dialogue_that_is_cut_has_no_context(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a turn would be heard in training and in test."""
    declared = PROTOCOLS["iemocap4-random90@1"]
    monkeypatch.setitem(PROTOCOLS, declared.name, replace(declared, context=True))
    table = iemocap(each=8)
    (fold,) = apply_protocol(table, "iemocap4-random90").folds
    parts = list(members(table, fold, "dialogue").values())
    dialogues = set(table.set_index("utterance_id")["dialogue"][list(fold.context)])
    assert dialogues
    assert all(sum(name in part for part in parts) == 1 for name in dialogues)


def test_fold_refuses_context_that_is_trained_on() -> None:
    with pytest.raises(ProtocolError, match="in train and in context"):
        Fold(0, ("a",), ("b",), ("c",), ("a",))


@pytest.mark.parametrize("name", ["meld7", "meld3-sentiment"])
def test_meld_keeps_its_official_splits(name: str) -> None:
    table = meld()
    plan = apply_protocol(table, name, corpus="meld")
    assert plan.headline == "weighted_f1"
    assert (
        plan.classes
        == {
            "meld7": ("neutral", "surprise", "fear", "sadness", "joy", "disgust", "anger"),
            "meld3-sentiment": ("neutral", "positive", "negative"),
        }[name]
    )
    (fold,) = plan.folds
    for split in ("train", "val", "test"):
        assert getattr(fold, split) == tuple(table.loc[table["split"] == split, "utterance_id"])
    text = " ".join(plan.caveats)
    assert "6 speakers are in more than one split" in text
    assert "1 sentences are said in more than one split: up to 2% of a test split's utterances" in text
    assert plan.relabel(table)["label"].tolist() == table["sentiment" if name == "meld3-sentiment" else "label"].tolist()


def test_meld_without_val_split_is_refused_nothing_else_shared() -> None:
    table = meld()
    table.loc[table["split"] == "test", "dialogue"] = "train-dia0"
    with pytest.raises(
        ProtocolError, match=r"meld7@1 doesn't allow.*1 dialogues are in more than one split, fold 0's train and test"
    ):
        apply_protocol(table, "meld7")


def test_meld6_pooled_drops_fear_and_splits_every_class_80_20() -> None:
    table = meld(each=350)
    plan = apply_protocol(table, "meld6-pooled", corpus="meld")
    assert "fear" not in plan.classes
    (fold,) = plan.folds
    labels = table.set_index("utterance_id")["label"]
    assert labels[list(fold.test)].value_counts().to_dict() == dict.fromkeys(plan.classes, 30)
    assert labels[list(fold.val)].value_counts().to_dict() == dict.fromkeys(plan.classes, 15)
    assert len(fold.train) == 6 * 105
    assert members(table, fold, "split")["test"] == {"train", "val", "test"}
    assert plan.caveats[0].startswith("not comparable with results on MELD's own test split: fear is dropped")


@pytest.mark.parametrize(("name", "folds", "tested"), [("esd", 5, 10 * 30 * 4 // 5), ("emouerj", 16, 8 * 10 * 4)])
def test_parallel_corpora_share_neither_speaker_nor_sentence(name: str, folds: int, tested: int) -> None:
    table = TABLES[name]()
    plan = apply_protocol(table, name, corpus=name)
    assert len(plan.folds) == folds
    assert_disjoint(table, plan, "speaker")
    assert_disjoint(table, plan, "sentence")
    test = [i for fold in plan.folds for i in fold.test]
    assert len(test) == len(set(test)) == tested
    sizes = [len(table) - len(fold.train + fold.val + fold.test) for fold in plan.folds]
    number = str(sizes[0]) if len(set(sizes)) == 1 else f"{min(sizes)} to {max(sizes)}"
    leaves_out = f"each fold leaves out {number} of {len(table)} utterances: their speaker or their sentence is in another split"
    assert leaves_out in plan.caveats


def test_leave_one_speaker_out_validates_on_the_partners() -> None:
    """IEMOCAP: the other speaker of the dyad; elsewhere the next speaker."""
    table = iemocap()
    table = table[table["label"].isin(FOUR)].reset_index(drop=True)
    plan = apply_protocol(table, "loso-speaker", corpus="iemocap")
    assert len(plan.folds) == 10
    for fold in plan.folds:
        speakers = members(table, fold, "speaker")
        assert len(speakers["test"]) == 1
        assert {name[:5] for name in speakers["test"]} == {name[:5] for name in speakers["val"]}
        assert len(speakers["train"]) == 8
        assert_disjoint(table, plan, "speaker")
    alone = apply_protocol(corpus(), "loso-speaker@1")
    assert [members(corpus(), fold, "speaker")["val"] for fold in alone.folds] == [{f"s{(n + 1) % 10}"} for n in range(10)]


def test_leave_one_speaker_out_needs_speakers() -> None:
    with pytest.raises(ProtocolError, match="120 utterances have no speaker"):
        apply_protocol(corpus().assign(speaker=None), "loso-speaker")


def test_another_corpus_is_told_what_is_possible() -> None:
    with pytest.raises(ProtocolError) as caught:
        apply_protocol(meld(), "iemocap4-loso", corpus="meld")
    text = str(caught.value)
    assert text.startswith("iemocap4-loso@1 is a protocol of the corpus iemocap, not of meld; possible: auto, split@1,")
    assert "meld7@1, meld3-sentiment@1, meld6-pooled@1, loso-speaker@1" in text
    assert "esd" not in text
    assert list_protocols("demo")[4:] == ["loso-speaker@1"]


@pytest.mark.parametrize(
    ("corpus_name", "first"), [("iemocap", "iemocap4-loso@1"), ("meld", "meld7@1"), ("esd", "esd@1"), ("emouerj", "emouerj@1")]
)
def test_auto_takes_the_first_of_the_corpus(corpus_name: str, first: str) -> None:
    assert apply_protocol(TABLES[corpus_name](), corpus=corpus_name).protocol == first


def test_a_missing_column_is_named() -> None:
    with pytest.raises(ProtocolError, match="meld3-sentiment@1 needs the column sentiment"):
        apply_protocol(meld().drop(columns="sentiment"), "meld3-sentiment")
    with pytest.raises(ProtocolError, match="iemocap4-loso@1 needs the column session"):
        apply_protocol(iemocap().assign(session=None), "iemocap4-loso")
    with pytest.raises(ProtocolError, match="no utterance counts"):
        apply_protocol(iemocap().assign(label="xxx"), "iemocap4-loso")


def test_two_sessions_are_too_few() -> None:
    table = iemocap()
    with pytest.raises(ProtocolError, match="2 sessions can't be divided among train, val and test"):
        apply_protocol(table[table["session"] < "Session3"].reset_index(drop=True), "iemocap4-loso")


def test_counts_that_differ_are_a_caveat(monkeypatch: pytest.MonkeyPatch) -> None:
    declared = PROTOCOLS["iemocap4-loso@1"]
    known = {f"Session{n}": {"ang": 42, "hap": 84, "neu": 42, "sad": 42} for n in range(1, 6)}
    table = iemocap()
    monkeypatch.setitem(PROTOCOLS, declared.name, replace(declared, counts=Counts("session", known, total=1050, dialogues=70)))
    assert not any("counts differ" in caveat for caveat in apply_protocol(table, "iemocap4-loso").caveats)
    table.loc[table.index[:8], "label"] = "xxx"
    found = [caveat for caveat in apply_protocol(table, "iemocap4-loso").caveats if "counts differ" in caveat]
    assert found == [
        "counts differ from the published ones: Session1 ang 41 instead of 42, Session1 hap 82 instead of 84, "
        "Session1 neu 41 instead of 42, Session1 sad 41 instead of 42, utterances 1,045 instead of 1,050"
    ]


def test_every_protocol_is_documented() -> None:
    page = (Path(__file__).parents[2] / "docs" / "protocols.md").read_text()
    assert [name for name in PROTOCOLS if f"`{name}`" not in page] == []


def test_published_counts_add_up() -> None:
    for name, declared in PROTOCOLS.items():
        without = {"iemocap6-dialogue@1", "emouerj@1", "meld3-sentiment@1", "mosei6@1"}
        if declared.counts and declared.counts.total and name not in without:
            assert sum(sum(c.values()) for c in declared.counts.classes.values()) == declared.counts.total, name
    assert sum(PROTOCOLS["iemocap6-dialogue@1"].counts.classes["Session5"].values()) == 1623


def test_headline_must_be_one_that_exists() -> None:
    with pytest.raises(ValueError, match="the headline is 'wa'; it must be one of uar, war, macro_f1, weighted_f1"):
        replace(PROTOCOLS["meld7@1"], headline="wa")
    with pytest.raises(ValueError, match="splits can't share voices"):
        replace(PROTOCOLS["meld7@1"], shares={"voices": ALL_PAIRS})
    assert "weighted_f1" in HEADLINES["multiclass"]


def test_speakers_that_a_named_protocol_doesnt_allow_stop_it() -> None:
    table = iemocap()
    table.loc[table["speaker"] == "Ses03M", "speaker"] = "Ses01M"
    for allow in (False, True):
        with pytest.raises(ProtocolError, match=r"iemocap4-loso@1 doesn't allow.*1 speakers .*\(Ses01M\).*column speaker"):
            apply_protocol(table, "iemocap4-loso", allow)


def test_identical_audio_in_two_splits_stops_a_named_protocol_and_is_a_caveat_elsewhere() -> None:
    table = iemocap()
    keys = np.array([f"{n:04}" for n in range(len(table))], "S16")
    assert apply_protocol(table, "iemocap4-session5", audio=keys) == apply_protocol(table, "iemocap4-session5")
    first, last = table.index[table["session"] == "Session1"][0], table.index[table["session"] == "Session5"][0]
    keys[last] = keys[first]
    with pytest.raises(
        ProtocolError, match=r"1 clips are in more than one split, fold 0's train and test first \(Ses05F_impro01_000\)"
    ):
        apply_protocol(table, "iemocap4-session5", audio=keys)
    generic = corpus(split=OWN)
    keys = np.array([f"{n:04}" for n in range(len(generic))], "S16")
    keys[[0, -1]] = b"same"
    assert apply_protocol(generic, audio=keys).caveats == (
        "1 clips of identical audio are in more than one split: up to 4% of a test split's utterances are trained on",
    )


def test_near_duplicates_in_two_splits_stop_a_named_protocol_and_are_a_caveat_elsewhere() -> None:
    table = iemocap()
    first, last = table.index[table["session"] == "Session1"][0], table.index[table["session"] == "Session5"][0]
    copies = pd.Series(None, table.index, dtype="str")
    assert apply_protocol(table.assign(near_duplicate=copies), "iemocap4-session5") == apply_protocol(table, "iemocap4-session5")
    copies[[first, last]] = table.loc[first, "utterance_id"]
    with pytest.raises(LeakError, match=r"1 near-duplicate clips .*\(Ses05F_impro01_000\).*\(column audio\)") as caught:
        apply_protocol(table.assign(near_duplicate=copies), "iemocap4-session5")
    assert {leak.kind for leak in caught.value.refused} == {"near-duplicate clips"}
    assert {leak.kind for leak in caught.value.leaks} > {"near-duplicate clips"}
    generic = corpus(split=OWN)
    generic["near_duplicate"] = pd.Series(None, generic.index, dtype="str")
    generic.loc[[0, len(generic) - 1], "near_duplicate"] = "x"
    plan = apply_protocol(generic)
    assert plan.caveats == (
        "1 recordings are in more than one split in copies that were amplified, recoded or cut: up to 4% of a test split's "
        "utterances are trained on",
    )
    assert [(leak.kind, leak.pair) for leak in plan.leaks] == [("near-duplicate clips", ("train", "test"))]


def test_absent_audio_is_not_the_same_audio() -> None:
    table = corpus(split=OWN)
    assert apply_protocol(table, audio=np.full(len(table), b"", "S16")).caveats == ()


def test_leaks_are_counted_by_fold_kind_and_pair() -> None:
    table = corpus(speakers=3, each=3, split=["train", "val", "test"]).assign(text=None)
    table["text"] = ["Oh, no!", "a", "b", "oh no", "c", "d", "OH NO", "e", "Oh... no."]
    (fold,) = apply_protocol(table).folds
    leaks = find_leaks(table, [fold])
    assert {(leak.kind, leak.pair): (leak.values, round(leak.share, 2)) for leak in leaks} == {
        ("sentences", ("train", "val")): (("oh no",), 0.33),
        ("sentences", ("train", "test")): (("oh no",), 0.67),
        ("sentences", ("val", "test")): (("oh no",), 0.67),
    }
    assert normalise("Isn’t IT?") == normalise("isn't it")
