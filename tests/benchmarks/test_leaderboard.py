"""The leaderboard: aggregation against pandas by hand, and what a table must say."""

import io
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from benchmarks import read_leaderboard
from benchmarks.leaderboard import Part, p_value
from benchmarks.results import COSTS, METRICS, ResultError, record_failure
from benchmarks.runner import scores
from benchmarks.tables import booktabs, document

KEYS = ["method", "variant", "track", "corpus", "protocol"]


_CHANGES = {"variant", "options", "audio", "fold", "code", "corpus", "data", "protocol", "track", "absent", "search"}


def write_run(out: Path, name: str, seed: int, uar: float, **changes: object) -> None:
    """One finished run on disk, as the runner leaves it."""
    spec = {
        "method": name,
        "variant": "default",
        "options": {},
        "corpus": "toy 1",
        "data": "abc",
        "protocol": "split@1",
        "classes": ["a", "b"],
        "fold": 0,
        "track": "controlled",
        "audio": {"name": "mfcc", "n": 40},
        "text": {"name": "hidden_states"},
        "training": {"max_epochs": 4, "patience": 2, "batch_size": 8, "lr": 0.001, "class_weights": "balanced"},
        "precision": "32-true",
        "seed": seed,
        "max_seconds": 30.0,
        "code": "1",
    } | {key: value for key, value in changes.items() if key in _CHANGES}
    result = {
        "spec": spec,
        "scores": dict.fromkeys(METRICS, 0.5) | {"uar": uar, "recall": {"a": uar, "b": None}, "confusion": [[1, 0], [0, 1]]},
        "slices": {"interaction": {"synergy": uar / 2, "audio": 0.25}},
        "costs": {"parameters": 1000, "train_seconds": 2.0 + seed, "peak_memory_mib": 100.0}
        | dict.fromkeys(("train_utterances_per_second", "test_utterances_per_second"), 10.0),
        "utterances": {"train": 5, "val": 2, "test": 20, "usable": 9, "named": 10},
        "headline": "uar",
        "features": {"audio": "mfcc", "text": "hidden_states"},
        "caveats": ["1 of 10 utterances were left out as bad: row 3"],
        "environment": {"device": "a CPU", "revision": "abc123"},
        "finished": f"2026-01-0{1 + int(str(changes.get('day', 0)))}T00:00:00+00:00",
    }
    folder = out / f"{name}-{seed}-{abs(hash(json.dumps(spec)))}"
    folder.mkdir(parents=True)
    (folder / "result.json").write_text(json.dumps(result))
    stored = predictions(seed, uar)
    if changes.get("named", True):
        stored = stored.assign(speaker=[f"s{n % 10}" for n in range(len(stored))], dialogue=None)
    stored.to_parquet(folder / "predictions.parquet", index=False)


def predictions(seed: int, share: float) -> pd.DataFrame:
    """400 utterances of two classes, of which about that share is right."""
    label = np.array(["a", "b"] * 200)
    right = np.random.default_rng(seed).random(400) < share
    p_a = np.where(right == (label == "a"), 0.75, 0.25)
    return pd.DataFrame({"utterance_id": [f"u{n}" for n in range(400)], "label": label, "p_a": p_a, "p_b": 1 - p_a})


def test_mean_and_sample_deviation_over_folds_and_seeds(tmp_path: Path) -> None:
    values = {(fold, seed): 0.5 + 0.1 * fold + 0.03 * seed for fold in range(2) for seed in range(3)}
    for (fold, seed), uar in values.items():
        write_run(tmp_path, "m", seed, uar, fold=fold)
    table = read_leaderboard(tmp_path).table
    (row,) = table.to_dict("records")
    assert row["runs"] == 6
    assert row["uar_mean"] == pytest.approx(np.mean(list(values.values())))
    assert row["uar_std"] == pytest.approx(np.std(list(values.values()), ddof=1))
    assert row["train_seconds"] == pytest.approx(3.0)
    assert row["war_interaction=synergy"] == pytest.approx(row["uar_mean"] / 2)


def test_csv_has_the_promised_columns_first(tmp_path: Path) -> None:
    write_run(tmp_path, "m", 0, 0.6)
    table = pd.read_csv(io.StringIO(read_leaderboard(tmp_path).to_csv()))
    metrics = [f"{metric}_{kind}" for metric in ("war", "uar", "macro_f1", "weighted_f1", "ece") for kind in ("mean", "std")]
    promised = [*KEYS, "runs", "folds", *metrics, *COSTS]
    assert table.columns[: len(promised)].tolist() == promised
    assert table["coverage"].item() == 0.9
    assert table["uar_std"].item() == 0.0
    assert {"headline", "headline_low", "headline_high", "headline_p", "tied"} <= set(table.columns)


def test_the_best_comes_first_and_the_text_says_what_a_reader_must_know(tmp_path: Path) -> None:
    for name, uar in (("worse", 0.55), ("best", 0.7), ("worst", 0.2)):
        write_run(tmp_path, name, 0, uar)
    (finished,) = tmp_path.glob("best*/result.json")
    record_failure(tmp_path, "broken", json.loads(finished.read_text())["spec"] | {"seed": 9}, "RuntimeError: x", "")
    text = read_leaderboard(tmp_path).to_markdown()
    assert text.index("| best") < text.index("| worse") < text.index("| worst")
    for fact in (
        "toy 1, protocol split@1, controlled track",
        "70.0 ± 0.0",
        "coverage: 9 of 10 utterances (90.0 %)",
        "1 of 10 utterances were left out as bad: row 3",
        "at most 4 epochs",
        "revision abc123",
        "1 runs failed",
        "Accuracy (WAR, %) by interaction",
    ):
        assert fact in text, fact


def test_tables_are_aligned_markdown(tmp_path: Path) -> None:
    write_run(tmp_path, "m", 0, 0.6, variant="a|b", options={"x": 1})
    lines = [line for line in read_leaderboard(tmp_path).to_markdown().splitlines() if line.startswith("|")]
    for line in lines:
        assert line.endswith("|")
    assert len({len(line) for line in lines[:3]}) == 1
    assert r"a\|b" in lines[2]


def test_other_conditions_are_other_tables(tmp_path: Path) -> None:
    write_run(tmp_path, "m", 0, 0.6)
    write_run(tmp_path, "m", 0, 0.7, audio={"name": "logmel"})
    write_run(tmp_path, "m", 0, 0.8, corpus="other 1")
    board = read_leaderboard(tmp_path)
    assert len(board.captions) == 3
    assert board.table["runs"].tolist() == [1, 1, 1]
    assert board.to_markdown().count("| runs") == 3


def test_variants_are_rows_of_one_table(tmp_path: Path) -> None:
    write_run(tmp_path, "m", 0, 0.6)
    write_run(tmp_path, "m", 0, 0.7, variant="hidden=8", options={"hidden": 8})
    board = read_leaderboard(tmp_path)
    assert board.table[["variant", "runs"]].to_numpy().tolist() == [["hidden=8", 1], ["default", 1]]


def test_the_newest_of_two_versions_counts_and_the_table_says_so(tmp_path: Path) -> None:
    write_run(tmp_path, "m", 0, 0.9, code="old", day=0)
    write_run(tmp_path, "m", 0, 0.6, code="new", day=1)
    board = read_leaderboard(tmp_path)
    assert board.table["uar_mean"].tolist() == [0.6]
    assert "1 older runs" in board.to_markdown()


def test_costs_that_older_results_lack_are_a_dash(tmp_path: Path) -> None:
    write_run(tmp_path, "old", 0, 0.6)
    alone = read_leaderboard(tmp_path).to_markdown()
    assert "latency ms" not in alone
    write_run(tmp_path, "new", 0, 0.7)
    (file,) = tmp_path.glob("new*/result.json")
    result = json.loads(file.read_text())
    result["costs"] |= {"flops_per_utterance": 1.5e6, "latency_p50_ms": 2.5, "latency_p95_ms": 3.0, "energy_joules": None}
    file.write_text(json.dumps(result))
    board = read_leaderboard(tmp_path)
    table = board.table.set_index("method")
    assert table.loc["new", "flops_per_utterance"] == 1.5e6
    assert table.loc["old", ["flops_per_utterance", "latency_p50_ms", "energy_joules"]].isna().all()
    rows = [[cell.strip() for cell in line.split("|")] for line in board.to_markdown().splitlines() if line.startswith("|")]
    cells = {row[1]: row for row in reversed(rows)}  # the first table's rows come last, and count
    for method, flops, latency, p95 in (("new", "1.5", "2.50", "3.00"), ("old", "–", "–", "–")):
        assert cells[method][cells["method"].index("MFLOPs/utt")] == flops
        assert cells[method][cells["method"].index("latency ms")] == latency
        assert cells[method][cells["method"].index("p95 ms")] == p95
    assert "energy" not in board.to_markdown()


def test_trainable_parameters_are_shown_where_some_are_not_trained(tmp_path: Path) -> None:
    for name in ("whole", "frozen"):
        write_run(tmp_path, name, 0, 0.6)
        edit_result(tmp_path, name, lambda result: result["costs"].update(trainable_parameters=1000))
    board = read_leaderboard(tmp_path)
    assert board.table["trainable_parameters"].tolist() == [1000, 1000]
    assert "trainable" not in board.to_markdown()
    edit_result(tmp_path, "frozen", lambda result: result["costs"].update(trainable_parameters=10))
    (costs,) = (part.columns for part in board_parts(tmp_path) if part.title == "Costs")
    assert dict(zip(costs["method"], costs["trainable"], strict=True)) == {"whole": "1.0 k", "frozen": "0.0 k"}


@pytest.mark.parametrize(
    ("executions", "expected"),
    [
        ([None, {"executor": "local", "jobs": 1, "per_gpu": 0}], None),
        ([{"executor": "local", "jobs": 4, "per_gpu": 0}] * 2, "4 runs"),
        ([None, {"executor": "local", "jobs": 4, "per_gpu": 3}], "3 runs on each GPU or one run"),
        ([{"executor": "ray", "jobs": 1, "per_gpu": 0}] * 2, "as many runs as the Ray cluster took"),
    ],
)
def test_a_table_says_how_many_runs_shared_the_machine(tmp_path: Path, executions: list[dict | None], expected: str | None) -> None:
    for name, execution in zip(("a", "b"), executions, strict=True):
        write_run(tmp_path, name, 0, 0.6)
        if execution is not None:
            edit_result(tmp_path, name, lambda result, e=execution: result["environment"].update(execution=e))
    (caption,) = read_leaderboard(tmp_path).captions.values()
    found = [line for line in caption if line.startswith("costs measured")]
    assert found == ([] if expected is None else [f"costs measured with {expected} at a time"])


def edit_result(out: Path, name: str, change: Callable[[dict], object]) -> None:
    (file,) = out.glob(f"{name}-*/result.json")
    result = json.loads(file.read_text())
    change(result)
    file.write_text(json.dumps(result))


def board_parts(out: Path) -> list[Part]:
    board = read_leaderboard(out)
    return list(board.parts(board.table, published=False))


def test_no_results_and_damaged_results_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ResultError, match="holds no finished run"):
        read_leaderboard(tmp_path)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "result.json").write_text("{")
    with pytest.raises(ResultError, match=r"result.json is damaged .* remove its folder"):
        read_leaderboard(tmp_path)


def test_a_run_in_progress_is_no_result(tmp_path: Path) -> None:
    write_run(tmp_path, "m", 0, 0.6)
    write_run(tmp_path, "m", 1, 0.9)
    started = next(folder for folder in tmp_path.iterdir() if folder.name.startswith("m-1"))
    started.rename(tmp_path / f".partial-{started.name}")
    assert read_leaderboard(tmp_path).table["uar_mean"].tolist() == [0.6]


def test_manifests_of_one_name_are_other_tables(tmp_path: Path) -> None:
    write_run(tmp_path, "m", 0, 0.6, data="one")
    write_run(tmp_path, "m", 0, 0.7, data="two")
    assert sorted(read_leaderboard(tmp_path).table["uar_mean"]) == [0.6, 0.7]


def test_a_renamed_variant_is_one_row_under_its_newest_name(tmp_path: Path) -> None:
    write_run(tmp_path, "m", 0, 0.6, options={"hidden": 8}, variant="hidden=8", day=0)
    write_run(tmp_path, "m", 1, 0.8, options={"hidden": 8}, variant="wide", day=1)
    assert read_leaderboard(tmp_path).table[["variant", "runs"]].to_numpy().tolist() == [["wide", 2]]


def test_a_failure_that_was_mended_counts_no_more(tmp_path: Path) -> None:
    write_run(tmp_path, "m", 0, 0.6, code="mended")
    (finished,) = tmp_path.glob("m-0*/result.json")
    spec = json.loads(finished.read_text())["spec"]
    record_failure(tmp_path, "old", spec | {"code": "broken"}, "RuntimeError: x", "")
    assert read_leaderboard(tmp_path).failed == 0
    record_failure(tmp_path, "other", spec | {"seed": 5}, "RuntimeError: x", "")
    assert read_leaderboard(tmp_path).failed == 1


def test_only_some_runs(tmp_path: Path) -> None:
    write_run(tmp_path, "m", 0, 0.6)
    write_run(tmp_path, "n", 0, 0.8)
    (name,) = [folder.name for folder in tmp_path.iterdir() if folder.name.startswith("n-")]
    assert read_leaderboard(tmp_path, {name: "wide"}).table[["method", "variant"]].to_numpy().tolist() == [["n", "wide"]]


def multilabel_scores(value: float) -> dict:
    binary = {"weighted_accuracy": value, "weighted_f1": 0.5, "roc_auc": None, "positives": 3}
    means = {"mean_weighted_accuracy": value, "mean_weighted_f1": 0.5, "mean_roc_auc": None}
    return means | {"per_class": {"a": binary, "b": binary}, "confusion": []}


def test_a_multilabel_table_stands_beside_the_others_with_its_own_columns(tmp_path: Path) -> None:
    values = {(0, 0): 0.7, (0, 1): 0.8, (1, 0): 0.9}
    for fold, seed in values:
        write_run(tmp_path, "n", seed, 0.0, corpus="mosei 1", fold=fold)
    for file in tmp_path.glob("n-*/result.json"):
        result = json.loads(file.read_text())
        fold, seed = result["spec"]["fold"], result["spec"]["seed"]
        baselines = {"all negative": multilabel_scores(0.5 + fold / 10)}
        changes = {"scores": multilabel_scores(values[fold, seed]), "baselines": baselines, "slices": {}, "task": "multilabel"}
        file.write_text(json.dumps(result | changes | {"headline": "mean_weighted_accuracy"}))
    write_run(tmp_path, "m", 0, 0.6)
    board = read_leaderboard(tmp_path)
    row = board.table.set_index("method").loc["n"]
    assert row["mean_weighted_accuracy_mean"] == pytest.approx(0.825), "folds count the same, whatever their seeds"
    assert row["mean_weighted_accuracy_std"] == pytest.approx(0.1)
    assert row["weighted_accuracy_class=b"] == pytest.approx(0.825)
    assert row[["uar_mean", "uar_std", "recall_a"]].isna().all()
    multilabel, multiclass = board.to_markdown().split("**toy 1")
    negative = next(line.replace(" ", "") for line in multilabel.splitlines() if "all negative" in line)
    assert negative.startswith("|allnegative|–|55.0|–|–|50.0|–|")  # the mean over folds, and no ROC-AUC as none is known
    assert "UAR" not in multilabel
    assert "mean weighted accuracy" not in multiclass
    assert "all negative" not in multiclass


def test_statistics_agree_with_the_stored_scores_and_mark_ties(tmp_path: Path) -> None:
    for seed in range(3):
        for name, share in (("worst", 0.55), ("good", 0.8), ("as_good", 0.8)):
            offset = {"worst": 0, "good": 10, "as_good": 20}[name]
            uar = scores(predictions(seed + offset, share), ("a", "b"))["uar"]
            write_run(tmp_path, name, seed, uar)
            (folder,) = tmp_path.glob(f"{name}-{seed}-*")
            predictions(seed + offset, share).to_parquet(folder / "predictions.parquet", index=False)
    board = read_leaderboard(tmp_path)
    assert board.comparisons[0].scores["mean"].to_numpy() == pytest.approx(board.table["uar_mean"].to_numpy())
    assert board.table.set_index("method")["tied"].to_dict() == {"good": True, "as_good": True, "worst": False}
    assert (
        (board.table["headline_low"] < board.table["uar_mean"]) & (board.table["uar_mean"] < board.table["headline_high"])
    ).all()
    text = board.to_markdown()
    row = next(line for line in text.splitlines() if line.startswith("| worst"))
    assert "†" not in row
    assert text.count("† |") == 2
    for fact in (
        "2,000 bootstrap draws of 400 test utterances",
        "Holm's correction over 2 tests",
        "of 3 seeds the variance is hardly known",
    ):
        assert fact in text, fact


def test_no_p_value_is_nought() -> None:
    assert [p_value(p) for p in (0.0, 0.00099, 0.001, 0.0204, 1.0)] == ["< 0.001", "< 0.001", "0.001", "0.020", "1.000"]


def test_a_table_without_single_modalities_says_so(tmp_path: Path) -> None:
    write_run(tmp_path, "early_concat", 0, 0.6)
    note = "neither audio_only nor text_only is here: what fusing gains can't be seen"
    assert f"- {note}" in read_leaderboard(tmp_path).to_markdown()
    assert rf"\item {note}".replace("_", r"\_") in read_leaderboard(tmp_path).to_latex()
    write_run(tmp_path, "text_only", 0, 0.6)
    assert note not in read_leaderboard(tmp_path).to_markdown()


def test_a_corpus_without_a_version_is_shown_by_its_name(tmp_path: Path) -> None:
    write_run(tmp_path, "m", 0, 0.6, corpus="mine/manifest -")
    board = read_leaderboard(tmp_path)
    text = board.to_markdown(published=True)
    assert "**mine/manifest, protocol split@1, controlled track**" in text
    assert "Nothing is published under split@1 for mine/manifest." in text
    assert board.table["corpus"].tolist() == ["mine/manifest -"]


def test_a_row_that_lacks_folds_comes_last_is_not_bold_and_not_tested(tmp_path: Path) -> None:
    for fold, share in ((0, 0.9), (1, 0.5)):
        for name in ("spared", "whole")[fold:]:
            write_run(tmp_path, name, fold, share, fold=fold)
    board = read_leaderboard(tmp_path)
    assert board.table["method"].tolist() == ["whole", "spared"]
    assert board.table["folds"].tolist() == [2, 1]
    whole, spared = (
        next(line for line in board.to_markdown().splitlines() if line.startswith(f"| {n}")) for n in board.table["method"]
    )
    assert "† |" in whole
    assert "? |" in spared
    scores = next(board.parts(board.table))
    assert scores.best["UAR"] == [0]


def test_predictions_are_read_only_for_statistics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_run(tmp_path, "m", 0, 0.6)
    write_run(tmp_path, "n", 0, 0.7)
    for file in tmp_path.glob("*/predictions.parquet"):
        file.unlink()
    board = read_leaderboard(tmp_path, statistics=False)
    assert "95 %" not in board.to_markdown()
    assert "tied" not in board.table
    with pytest.raises(ResultError, match=r"predictions.parquet is missing; .*--no-stats"):
        read_leaderboard(tmp_path)
    monkeypatch.setattr("benchmarks.leaderboard.STATISTICS_UP_TO", 1)
    assert "ranks only with --stats" in read_leaderboard(tmp_path).to_markdown()


def test_a_headline_without_statistics_is_said_not_guessed(tmp_path: Path) -> None:
    write_run(tmp_path, "m", 0, 0.6)
    (file,) = tmp_path.glob("*/result.json")
    file.write_text(file.read_text().replace('"headline": "uar"', '"headline": "ece"'))
    text = read_leaderboard(tmp_path).to_markdown()
    assert "no statistics for ece" in text
    assert "95 % interval" not in text


def test_ranks_over_corpora_and_over_folds(tmp_path: Path) -> None:
    shares = {"first": 0.9, "second": 0.7, "third": 0.5}
    for name, share in shares.items():
        for fold in range(4):
            write_run(tmp_path / "folds", name, fold, share + 0.01 * fold, fold=fold)
        for corpus in ("toy 1", "other 1"):
            write_run(tmp_path / "corpora", name, 0, share, corpus=corpus)
    for folder, blocks in (("folds", "4 folds"), ("corpora", "2 corpora")):
        board = read_leaderboard(tmp_path / folder)
        assert board.ranking is not None
        assert board.ranking.ranks.to_dict() == {"first": 1, "second": 2, "third": 3}
        assert f"mean ranks of 3 rows over {blocks}" in board.to_markdown()


def test_of_every_corpus_one_table_is_ranked(tmp_path: Path) -> None:
    for name, share in {"first": 0.9, "second": 0.7, "third": 0.5, "only_here": 0.6}.items():
        for data in ("abc", "def")[: 1 if name == "only_here" else 2]:
            write_run(tmp_path, name, 0, share, data=data)
    assert read_leaderboard(tmp_path).ranking is None
    for name, share in {"first": 0.5, "second": 0.7, "third": 0.9}.items():
        write_run(tmp_path, name, 0, share, corpus="other 1")
    # Neither tables of a few rows nor those with less audio or of another track change the ranks.
    for name in ("first", "second"):
        write_run(tmp_path, name, 0, 0.1, absent={"audio": 0.5})
    for name in ("first", "second", "third", "fourth", "fifth"):
        write_run(tmp_path, name, 0, 0.1, track="published")
    ranking = read_leaderboard(tmp_path).ranking
    assert ranking is not None
    assert ranking.ranks.to_dict() == {"first": 2, "second": 2, "third": 2}
    assert "over 2 corpora" in ranking.note
    assert "one controlled table counts, that with the most rows: 3 more left out" in ranking.note
    assert "not ranked, for want of results in all corpora: only_here" in ranking.note


def test_latex_has_the_best_bold_ties_marked_and_names_escaped(tmp_path: Path) -> None:
    write_run(tmp_path, "new_method", 0, 0.8, variant="50%_&more", options={"x": 1})
    write_run(tmp_path, "old", 0, 0.8)
    text = read_leaderboard(tmp_path).to_latex()
    assert text.count(r"\begin{table}") == text.count(r"\end{table}") == text.count("copy from here") == 4
    row = next(line for line in text.splitlines() if line.startswith("new\\_method"))
    assert row.startswith(r"new\_method & 50\%\_\&more & 1 & \textbf{80.0 $\pm$ 0.0\textsuperscript{\dag}} & ")
    assert r"\item coverage: 9 of 10 utterances (90.0 \%)" in text
    assert r"\usepackage{booktabs}" in text


def compiled(folder: Path, text: str) -> str:
    """What pdfLaTeX says of a document; an error fails the test."""
    (folder / "table.tex").write_text(text, encoding="utf-8")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "table.tex"]
    done = subprocess.run(command, cwd=folder, capture_output=True, check=False)
    said = done.stdout.decode(errors="replace")
    assert done.returncode == 0, said[-1500:]
    return said


WITH_LATEX = pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex isn't installed")


@WITH_LATEX
def test_long_and_many_latex_tables_keep_every_row_on_a_page(tmp_path: Path) -> None:
    columns = {"method": [f"method_{number}" for number in range(15)], "UAR": ["50.0 ± 0.1"] * 15}
    many = compiled(tmp_path, document([booktabs(columns, "a caption", ["中 a note"])] * 60))
    assert int(re.findall(r"Output written on table.pdf \((\d+) pages", many)[0]) >= 15
    rows = {"source": ["some words of a sentence " * 8] * 60, "value": ["1.0"] * 60}
    assert "Float too large" not in compiled(tmp_path, document([booktabs(rows, "a long caption " * 20, ["a note " * 30] * 5)]))


@WITH_LATEX
def test_latex_compiles_as_it_is(tmp_path: Path) -> None:
    nasty = '_ % & # $ { } ~ ^ \\ < > " | é Δ 中 ħ'
    write_run(tmp_path / "runs", "a_method", 0, 0.8, variant=nasty, options={"x": 1}, corpus="meld 1", protocol="meld7@1")
    write_run(tmp_path / "runs", "hcam", 0, 0.7, corpus="meld 1", protocol="meld7@1")
    said = compiled(tmp_path, read_leaderboard(tmp_path / "runs").to_latex(published=True))
    assert (tmp_path / "table.pdf").stat().st_size > 10_000
    assert "Overfull" not in said


def test_published_figures_stand_beside_ours_only_under_the_same_protocol(tmp_path: Path) -> None:
    write_run(tmp_path / "same", "hbaf", 0, 0.6, corpus="meld 1", protocol="meld7@1")
    write_run(tmp_path / "same", "mer_han", 0, 0.6, corpus="meld 1", protocol="meld7@1")
    write_run(tmp_path / "other", "hbaf", 0, 0.6, corpus="meld 1", protocol="meld3-sentiment@1")
    board = read_leaderboard(tmp_path / "same", statistics=False)
    assert "published" not in board.to_markdown().split("Published under")[0] + board.to_csv()
    text = board.to_markdown(published=True)
    head, _, hbaf, mer_han = [line for line in text.splitlines() if line.startswith("|")][:4]
    column = [cell.strip() for cell in head.split("|")].index("published weighted F1")
    assert [line.split("|")[column].strip() for line in (hbaf, mer_han)] == ["≈67.1", ""]
    assert "with the papers' own features and training, not those above; beside a row above if its options" in text
    same, others = text.split("Published under meld7@1")[1].split("Published for this corpus, not comparable:")
    assert "COSMIC" in same
    assert "COSMIC" not in others
    assert "MiSTER-E" in others
    assert "probably test-selected (*)" in same
    assert pd.read_csv(io.StringIO(board.to_csv(published=True)))["published_weighted_f1"].tolist() == [
        "≈67.1",
        pytest.approx(np.nan, nan_ok=True),
    ]
    assert "as_given" not in board.to_csv()
    other = read_leaderboard(tmp_path / "other", statistics=False).to_markdown(published=True)
    assert "Nothing is published under meld3-sentiment@1" in other
    assert "published weighted F1" not in other
    assert "| protocol meld7@1" in other.replace("  ", "")


@pytest.mark.parametrize(
    ("changes", "shown"),
    [
        ({}, True),
        ({"options": {"mu": 0.2}}, True),  # the default, said
        ({"options": {"inputs": "audio"}}, False),
        ({"options": {"hidden": 8}}, False),
        ({"absent": {"audio": 1.0, "text": 0.0}}, False),
        ({"absent": {"audio": 0.0, "text": 0.0}}, True),
        ({"search": {"trials": 4, "space": {"hidden": [8, 512]}, "options": {}}}, False),
        ({"search": {"trials": 4, "space": {"training.lr": [1e-3]}, "options": {}}}, True),
        ({"track": "published"}, True),
        ({"track": "published", "options": {"inputs": "audio"}}, False),
    ],
)
def test_a_papers_figure_stands_beside_the_papers_model_alone(tmp_path: Path, changes: dict, shown: bool) -> None:
    write_run(tmp_path, "hbaf", 0, 0.6, corpus="meld 1", protocol="meld7@1", **changes)
    text = read_leaderboard(tmp_path, statistics=False).to_markdown(published=True)
    scores, listed = text.split("Published under meld7@1")
    assert ("≈67.1" in scores) is shown
    assert ("published weighted F1" in scores) is shown
    assert "≈67.1" in listed
    assert ("not those above" in listed) is (changes.get("track") != "published")
