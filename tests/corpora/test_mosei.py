"""CMU-MOSEI's files as the SDK distributes them, good and bad, and the multi-label task from them to the leaderboard."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
import soundfile
from mosei_layout import (
    COLUMNS,
    EMOTIONS,
    INTERVALS,
    RATE,
    labels,
    shown,
    videos,
    words,
    write_folds,
    write_release,
    write_sequence,
)
from mosei_layout import (
    COUNTS as SPLITS,
)

from benchmarks import Suite, bench, read_leaderboard
from benchmarks.robustness import FOLDER, evaluate, finished_runs, read_robustness, summarise, to_markdown
from benchmarks.runner import expand
from benchmarks.spec import SuiteError
from datamodules.audio import Clip, load_clip
from datamodules.corpora import open_corpus
from datamodules.corpora.mosei import Mosei
from datamodules.doctor import examine
from datamodules.problems import BadInputError
from datamodules.protocols import ProtocolError, apply_protocol
from datamodules.store import FeatureStore
from zoo.base import Training


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(Mosei, "counts", SPLITS)
    return write_release(tmp_path / "mosei")


def read(root: Path, skip_bad: bool = False) -> pd.DataFrame:
    return open_corpus("mosei", root).table(skip_bad)


def labels_file(root: Path) -> Path:
    return root / "labels" / "CMU_MOSEI_Labels.csd"


def words_file(root: Path) -> Path:
    return root / "languages" / "CMU_MOSEI_TimestampedWords.csd"


def wav(root: Path, video: str) -> Path:
    return root / "Raw" / "Audio" / "Full" / "WAV_16000" / f"{video}.wav"


def test_an_utterance_is_a_labelled_interval_with_its_words_and_intensities(root: Path) -> None:
    table = read(root)
    assert table["split"].value_counts().to_dict() == SPLITS
    own = table[table["dialogue"] == "tr3-_Video3"]
    assert own["utterance_id"].tolist() == ["tr3-_Video3[0]", "tr3-_Video3[2]", "tr3-_Video3[1]"]  # numbered as in the file
    assert own["turn"].tolist() == [0, 1, 2]
    assert own[["start", "end"]].to_numpy().tolist() == [[0.0, 1.0], [1.0, 2.0], [2.0, 3.0]]
    assert own["seconds"].tolist() == [1.0] * 3
    assert set(own["audio"]) == {str(wav(root, "tr3-_Video3"))}
    for number, row in zip((0, 2, 1), own.itertuples(), strict=True):
        emotions = shown("tr3-_Video3", number)
        assert row.text == " ".join(["so", *emotions])
        assert [name for name in EMOTIONS if getattr(row, name) > 0] == sorted(emotions, key=EMOTIONS.index)
        assert row.sentiment == -1.0
    assert own[["label", "speaker", "session"]].isna().all(axis=None)
    assert table.attrs["notes"] == ["20 utterances begin before their video in the release; they begin with it here"]


def test_the_clip_is_the_part_of_the_long_wav(root: Path) -> None:
    row = read(root).set_index("utterance_id").loc["tr3-_Video3[1]"]
    whole, _ = soundfile.read(row["audio"], dtype="float32")
    np.testing.assert_array_equal(load_clip(Clip(Path(row["audio"]), row["start"], row["end"]), RATE), whole[2 * RATE : 3 * RATE])


def test_a_flat_folder_reads_the_same(root: Path, tmp_path: Path) -> None:
    flat = tmp_path / "flat"
    flat.mkdir()
    for path in [*root.rglob("*.csd"), *root.rglob("*.py"), *root.rglob("*.wav")]:
        (flat / path.name).write_bytes(path.read_bytes())
    pd.testing.assert_frame_equal(read(flat).drop(columns="audio"), read(root).drop(columns="audio"))


def test_without_any_wav_the_corpus_is_text_only(root: Path) -> None:
    for path in root.rglob("*.wav"):
        path.unlink()
    table = read(root)
    assert table["audio"].isna().all()
    assert "there are no WAV files" in table.attrs["notes"][-1]


def test_counts_of_the_release_are_checked(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    assert sum(Mosei.counts.values()) == 22_856
    with pytest.raises(BadInputError, match="60 of 22856 usable utterances; by split, train has 36 of 16326; val has 12 of 1871"):
        read(root)
    assert len(read(root, skip_bad=True)) == 60


def test_what_the_release_leaves_out_is_a_note(root: Path) -> None:
    """Videos with words alone, videos of no list, lists with videos of no label, sound of no video, intervals without words."""
    every, said = labels(), words()
    every["unlisted"] = every["tr0-_Video0"]
    said |= {"unlisted": said["tr0-_Video0"], "silent": said["tr0-_Video0"]}
    quiet = said["tr1-_Video1"]
    said["tr1-_Video1"] = np.where(quiet[1][:, :1] > 2, b"sp", quiet[0]), quiet[1]
    write_sequence(labels_file(root), "All Labels", every)
    write_sequence(words_file(root), "words", said)
    lists = videos()
    lists["standard_test_fold"].append("gone")
    write_folds(root / "cmu_mosei_std_folds.py", lists)
    soundfile.write(wav(root, "unlisted"), np.zeros(3 * RATE), RATE)
    soundfile.write(wav(root, "stray"), np.zeros(RATE), RATE)
    table = read(root)
    assert table.attrs["notes"] == [
        "1 utterances have no word in their interval, so their text is absent, such as tr1-_Video1[1]",
        "1 videos have words and no labels and were passed over, such as silent",
        "3 utterances of 1 videos are in none of the SDK's standard folds, such as unlisted: they have no split",
        "1 videos of the SDK's standard folds have no labels, such as gone",
        "21 utterances begin before their video in the release; they begin with it here",
        "1 sound files belong to no labelled video and were passed over, such as stray",
    ]
    assert table.loc[table["text"].isna(), "utterance_id"].tolist() == ["tr1-_Video1[1]"]
    plan = apply_protocol(table, corpus="mosei")
    assert {name: len(getattr(plan.folds[0], name)) for name in SPLITS} == SPLITS
    assert plan.folds[0].context == ()


def test_a_video_without_words_is_named_for_each_utterance_and_can_be_left_out(root: Path) -> None:
    said = words()
    del said["tr5-_Video5"]
    write_sequence(words_file(root), "words", said)
    with pytest.raises(BadInputError) as caught:
        read(root)
    assert sum("it has no words of tr5-_Video5" in str(problem) for problem in caught.value.problems) == len(INTERVALS)
    table = read(root, skip_bad=True)
    assert len(table) == 57
    assert "tr5-_Video5" not in set(table["dialogue"])


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def drop(path: Path, name: str) -> None:
    with h5py.File(path, "r+") as file:
        del file[name]


def shorten(root: Path) -> None:
    parts = labels()
    parts["tr2-_Video2"] = parts["tr2-_Video2"][0][:2], parts["tr2-_Video2"][1]
    write_sequence(labels_file(root), "All Labels", parts)


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda root: cut(labels_file(root)), r"Labels.csd: it can't be read as HDF5 \(.*truncated.*; copy the file again"),
        (lambda root: words_file(root).write_bytes(b""), r"TimestampedWords.csd: it can't be read as HDF5"),
        (lambda root: words_file(root).write_text("<html>not found</html>"), r"TimestampedWords.csd: it can't be read as HDF5"),
        (lambda root: words_file(root).unlink(), r"mosei: CMU_MOSEI_TimestampedWords.csd is missing; put it into this folder"),
        (lambda root: drop(labels_file(root), "All Labels/data"), "it is no computational sequence: 0 of its groups hold data"),
        (lambda root: drop(labels_file(root), "All Labels/data/tr0-_Video0/intervals"), "tr0-_Video0 has no intervals"),
        (shorten, r"tr2-_Video2 has features \(2, 7\) and intervals \(3, 2\), not \(n, 7\) and \(n, 2\)"),
        (lambda root: (root / "CMU_MOSEI_Labels.csd").write_bytes(b""), "CMU_MOSEI_Labels.csd is there 2 times"),
        (lambda root: (root / "cmu_mosei_std_folds.py").write_text("standard_train_fold=['a'"), "the lists can't be read"),
        (lambda root: (root / "cmu_mosei_std_folds.py").write_text("standard_train_fold=open('x')"), "the lists can't be read"),
        (lambda root: (root / "cmu_mosei_std_folds.py").write_text("standard_train_fold=['a']"), "it lacks standard_valid_fold"),
        (
            lambda root: write_folds(root / "cmu_mosei_std_folds.py", videos() | {"standard_valid_fold": ["tr0-_Video0"]}),
            "1 videos are in two lists, such as tr0-_Video0",
        ),
    ],
)
def test_files_that_are_not_as_distributed_are_named_and_never_passed_over(
    root: Path, harm: Callable[[Path], object], message: str
) -> None:
    harm(root)
    for skip_bad in (False, True):
        with pytest.raises(BadInputError, match=message):
            read(root, skip_bad)


def test_lists_are_never_executed(root: Path, tmp_path: Path) -> None:
    file = root / "cmu_mosei_std_folds.py"
    file.write_text(file.read_text() + f"\nopen({str(tmp_path / 'executed')!r}, 'w').close()\n")
    assert len(read(root)) == 60
    assert not (tmp_path / "executed").exists()


def test_without_the_lists_there_is_no_split_and_the_message_says_where_they_are(root: Path) -> None:
    (root / "cmu_mosei_std_folds.py").unlink()
    with pytest.raises(
        BadInputError, match=r"cmu_mosei_std_folds.py is missing.*standard_datasets/CMU_MOSEI/cmu_mosei_std_folds.py of"
    ):
        read(root)
    with pytest.raises(ProtocolError, match=r"mosei6@1 needs the column split"):
        apply_protocol(read(root, skip_bad=True), corpus="mosei")


@pytest.mark.parametrize(
    ("harm", "message", "lost"),
    [
        (lambda path: path.unlink(), r"tr7-_Video7\[1\]: tr7-_Video7.wav is missing; restore it", 3),
        (lambda path: path.write_bytes(b""), r"tr7-_Video7\[1\]: audio file is empty", 3),
        (lambda path: soundfile.write(path, np.zeros(int(2.4 * RATE)), RATE), "ends at 3.0 s but the file lasts 2.40 s", 1),
        (lambda path: soundfile.write(path, np.zeros(RATE), RATE), r"\[1\]: the clip from 2.0 s to 3.0 s holds no samples", 2),
    ],
)
def test_bad_sound_is_named_with_its_utterances(root: Path, harm: Callable[[Path], object], message: str, lost: int) -> None:
    harm(wav(root, "tr7-_Video7"))
    with pytest.raises(BadInputError, match=message):
        read(root)
    table = read(root, skip_bad=True)
    assert len(table) == 60 - lost
    assert table.loc[table["dialogue"] == "tr7-_Video7", "seconds"].notna().all()


def test_two_files_of_one_name(root: Path) -> None:
    first = wav(root, "tr7-_Video7")
    for folder in ("one", "two"):
        (root / folder).mkdir()
        (root / folder / first.name).write_bytes(first.read_bytes())
    assert set(read(root).loc[lambda t: t["dialogue"] == "tr7-_Video7", "audio"]) == {str(first)}
    first.unlink()
    with pytest.raises(BadInputError, match=r"tr7-_Video7\[0\]: tr7-_Video7.wav is there 2 times"):
        read(root)


@pytest.mark.parametrize(("column", "value"), [("happy", 3.5), ("sad", -0.1), ("fear", np.nan), ("sentiment", 4.0)])
def test_an_impossible_intensity_is_named(root: Path, column: str, value: float) -> None:
    parts = labels()
    parts["tr4-_Video4"][0][1, COLUMNS.index(column)] = value
    write_sequence(labels_file(root), "All Labels", parts)
    with pytest.raises(BadInputError, match=rf"tr4-_Video4\[1\] has {column} {value:g}; sentiment goes from -3 to 3"):
        read(root)


@pytest.mark.parametrize("interval", [(2.0, 1.0), (-2.0, -1.0), (np.nan, 1.0), (0.0, np.inf)])
def test_an_impossible_interval_is_named_once(root: Path, interval: tuple[float, float]) -> None:
    parts = labels()
    parts["tr4-_Video4"][1][1] = interval
    write_sequence(labels_file(root), "All Labels", parts)
    with pytest.raises(BadInputError) as caught:
        read(root)
    (problem, counts) = caught.value.problems
    assert f"tr4-_Video4[1] lasts from {interval[0]:g} s to {interval[1]:g} s" in problem.what
    assert "train has 35 of 36" in counts.what


def test_the_protocol_says_which_emotions_are_there(root: Path) -> None:
    table = read(root)
    plan = apply_protocol(table, corpus="mosei")
    assert (plan.protocol, plan.task, plan.headline) == ("mosei6@1", "multilabel", "mean_weighted_accuracy")
    label = plan.relabel(table).set_index("utterance_id")["label"]
    assert label["tr2-_Video2[0]"] == "none"
    for name in table["utterance_id"]:
        video, _, number = name.removesuffix("]").rpartition("[")
        assert set(label[name].split("+")) == set(shown(video, int(number)) or ["none"])
    assert any("counts differ from the published ones: utterances 60 instead of 22,856" in caveat for caveat in plan.caveats)
    assert any("speakers are not known" in caveat for caveat in plan.caveats)


def test_a_video_in_two_splits_stops_the_run(root: Path) -> None:
    table = read(root)
    table.loc[table["utterance_id"] == "tr0-_Video0[0]", "split"] = "test"
    with pytest.raises(ProtocolError, match="1 dialogues are in more than one split"):
        apply_protocol(table, corpus="mosei")


def test_an_emotion_that_nobody_trains_on_is_refused_and_one_that_nobody_tests_is_named(root: Path) -> None:
    table = read(root)
    with pytest.raises(ProtocolError, match=r"labels without a single training example .*'fear'"):
        apply_protocol(table.assign(fear=table["fear"].where(table["split"] != "train", 0.0)), corpus="mosei")
    plan = apply_protocol(table.assign(fear=table["fear"].where(table["split"] != "test", 0.0)), corpus="mosei")
    assert any("the test split has no fear; the weighted accuracy of such a class is its specificity" in c for c in plan.caveats)


@pytest.mark.parametrize(
    "columns",
    [COLUMNS, ["Sentiment", "Happiness", "Sadness", "Anger", "Surprise", "Disgust", "Fear"], (), str(list(COLUMNS))],
    ids=["as the SDK writes it", "other words", "not said", "as older versions write it"],
)
def test_the_order_of_the_emotions_is_what_the_file_says(root: Path, columns: Sequence[str]) -> None:
    before = read(root)
    write_sequence(labels_file(root), "All Labels", labels(), columns)
    pd.testing.assert_frame_equal(read(root), before)


@pytest.mark.parametrize(
    ("columns", "named"),
    [(sorted(COLUMNS), "anger, disgust, fear, happy, sad, sentiment, surprise"), (COLUMNS[1:], "happy, sad, anger")],
)
def test_another_order_of_the_emotions_is_refused(root: Path, columns: Sequence[str], named: str) -> None:
    write_sequence(labels_file(root), "All Labels", labels(), columns)
    for skip_bad in (False, True):
        with pytest.raises(BadInputError, match=rf"Labels.csd: its metadata call its columns {named}.*, not sentiment, happy, sad"):
            read(root, skip_bad)


def test_the_doctor_counts_every_emotion_and_compares_with_the_release(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    corpus = open_corpus("mosei", root)
    table = corpus.table()
    report = examine(corpus)
    found, *_ = report.section("Labels and speakers").tables
    assert found.columns == ("label", "train", "val", "test", "all")
    rows = {name: counts for name, *counts in found.rows}
    for name in EMOTIONS:
        by_split = [int((table.loc[table["split"] == split, name] > 0).sum()) for split in SPLITS]
        assert rows[name] == [*by_split, sum(by_split)]
    assert rows["none"][-1] == (table[list(EMOTIONS)] == 0).all(axis=1).sum() > 0
    assert rows["all"] == [*SPLITS.values(), 60]
    assert set(rows) == {*EMOTIONS, "none", "all"}
    monkeypatch.undo()
    (counts,) = examine(corpus).section("Counts against the release").tables
    assert ("train", 36, 16326, "-16,290") in counts.rows


@pytest.fixture
def suite(root: Path, tiny_bert: str) -> Suite:
    return Suite(
        corpus="mosei",
        root=root,
        audio="mfcc(n=13, hop_ms=20.0)",
        text=f"hidden_states(checkpoint={tiny_bert!r})",
        methods=["text_only", "bc_lstm"],
        seeds=1,
        training=Training(max_epochs=2, batch_size=8, lr=1e-2),
    )


def test_a_method_for_one_label_is_refused_before_anything_is_extracted(suite: Suite, monkeypatch: pytest.MonkeyPatch) -> None:
    def extracted(*_: object) -> None:
        raise AssertionError("features were asked for")

    monkeypatch.setattr(FeatureStore, "get", extracted)
    mixed = Suite(**suite.model_dump() | {"methods": "text_only,hcam,late_dbmm"})
    with pytest.raises(
        SuiteError, match=r"task is multilabel, and hcam, late_dbmm can't .* those that can: .*early_concat.*text_only"
    ):
        bench(mixed, suite.root or Path(), store=FeatureStore())


@pytest.mark.filterwarnings("ignore")
def test_a_bench_ends_in_a_table_with_the_trivial_rows(suite: Suite, tmp_path: Path) -> None:
    """An utterance method and a dialogue method, from the official files to the leaderboard; formulas are scikit-learn's."""
    from sklearn.metrics import balanced_accuracy_score, f1_score, roc_auc_score

    outcomes = bench(suite, tmp_path / "runs")
    assert [outcome.error for outcome in outcomes] == ["", ""]
    for outcome in outcomes:
        result = json.loads((outcome.folder / "result.json").read_text())
        stored = pd.read_parquet(outcome.folder / "predictions.parquet")
        assert (result["task"], result["headline"], len(stored)) == ("multilabel", "mean_weighted_accuracy", 12)
        truth = np.array([[name in label.split("+") for name in EMOTIONS] for label in stored["label"]])
        probabilities = stored[[f"p_{name}" for name in EMOTIONS]].to_numpy()
        assert ((probabilities > 0) & (probabilities < 1)).all()
        assert not np.allclose(probabilities.sum(1), 1, atol=1e-2)
        for guesses, found in ((probabilities, result["scores"]), (np.zeros((12, 6)), result["baselines"]["all negative"])):
            expected = {
                "weighted_accuracy": [balanced_accuracy_score(t, g > 0.5) for t, g in zip(truth.T, guesses.T, strict=True)],
                "weighted_f1": [f1_score(t, g > 0.5, average="weighted") for t, g in zip(truth.T, guesses.T, strict=True)],
                "roc_auc": [roc_auc_score(t, g) for t, g in zip(truth.T, guesses.T, strict=True)],
            }
            for metric, values in expected.items():
                assert found[f"mean_{metric}"] == pytest.approx(np.mean(values), abs=1e-6)
                assert [found["per_class"][name][metric] for name in EMOTIONS] == pytest.approx(values, abs=1e-6)
            assert [found["per_class"][name]["positives"] for name in EMOTIONS] == truth.sum(0).tolist()
        assert result["baselines"]["all negative"]["mean_weighted_accuracy"] == 0.5
    evaluate(finished_runs(expand(suite), tmp_path / "runs"), ["no_text"])
    for outcome in outcomes:
        clean, stored = (outcome.folder / name for name in (f"{FOLDER}/clean.parquet", "predictions.parquet"))
        pd.testing.assert_frame_equal(pd.read_parquet(clean), pd.read_parquet(stored))
    robust = read_robustness(tmp_path / "runs").set_index(["method", "corruption", "degree"])["score"]
    assert robust["text_only", "no_text", 1.0] == pytest.approx(0.5), "one answer for all"
    board = read_leaderboard(tmp_path / "runs")
    assert "mean weighted accuracy (%)" in to_markdown(summarise(read_robustness(tmp_path / "runs")))
    assert (board.table["headline_low"] <= board.table["mean_weighted_accuracy_mean"]).all()
    assert board.table["tied"].iloc[0]
    assert set(board.table["method"]) == {"text_only", "bc_lstm"}
    assert {"mean_weighted_accuracy_mean", "weighted_f1_class=fear"} <= set(board.table)
    assert not [column for column in board.table if column.startswith(("uar", "war", "recall"))]
    lines = board.to_markdown().splitlines()
    assert lines[2].split("|")[3:6] == [" mean weighted accuracy ", " 95 % interval ", " tied "]
    negative = [line.replace(" ", "").split("|") for line in lines if line.startswith("| all negative")]
    assert len(negative) == 4  # beside the means and each of the three tables by class
    assert negative[0][2:8] == [
        "–",
        "50.0",
        "–",
        "–",
        f"{100 * result['baselines']['all negative']['mean_weighted_f1']:.1f}",
        "50.0",
    ]
    assert negative[1][2:8] == ["50.0"] * 6
    assert not any("WA " in line or "Recall by class" in line for line in lines)
