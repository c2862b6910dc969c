"""Ablation tables: the rows in the paper's order, under one set of conditions, beside the paper's figures."""

import io
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

from benchmarks.ablation import _full_row, ablation_methods, ablation_suite, missing_features
from benchmarks.cli import app
from benchmarks.results import read_results
from benchmarks.spec import SuiteError, load_suite
from zoo import get_method, list_methods, method_options
from zoo.base import Variant


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


@pytest.mark.parametrize("method", [name for name in list_methods() if get_method(name).ablations])
def test_a_suite_has_the_rows_in_the_papers_order(method: str) -> None:
    suite = ablation_suite(method, load_suite(None, {"seeds": "2"}))
    assert [entry.variant for entry in suite.methods] == [
        name for name, row in get_method(method).ablations.items() if row.audio not in missing_features(method)
    ]
    runs = {(entry.method, str(entry.options), entry.audio) for entry in suite.methods}
    assert len(runs) == len(suite.methods), "two rows are the same run"
    assert suite.seeds == (0, 1)


@pytest.mark.parametrize("method", [name for name in list_methods() if get_method(name).ablations])
def test_the_reference_is_the_method_as_it_is_by_default(method: str) -> None:
    row = get_method(method).ablations[_full_row(method)]
    assert (row.method, row.audio) == (method, "")
    assert method_options(method) == method_options(method) | dict(row.options)


def test_the_reference_may_stand_anywhere() -> None:
    assert _full_row("late_average") == "Late fusion, mean"
    assert _full_row("cnn_bert_attention") == "n = 250"
    assert _full_row("hbaf") == "HBAF"


def test_options_of_the_suite_hold_for_every_row_and_the_rows_own_come_on_top() -> None:
    base = load_suite(None, {"methods": ["mer_han", "audio_only"]}, ["mer_han.d=64", "audio_only.hidden=8"])
    rows = {entry.variant: entry.options for entry in ablation_suite("mer_han", base).methods}
    assert rows["MER-HAN w/o CMA"] == {"d": 64, "cross_attention": False}
    assert rows["Audio + local attention"] == {"hidden": 8, "local_attention": True}
    assert rows["Text + local attention"] == {"local_attention": True}


def test_rows_with_a_feature_of_their_own(manifest: Path, tmp_path: Path, tiny_bert: str, monkeypatch: pytest.MonkeyPatch) -> None:
    small = {"hidden": 4, "filters": 4, "layers": 1, "heads": 2, "lstm_layers": 1}
    rows = {
        "Audio": Variant("hbaf", {"inputs": "audio"}),
        "Audio, bands": Variant("hbaf", {"inputs": "audio"}, {"UAR": 40.0}, "logmel(n=8)"),
        "Audio, data2vec": Variant("hbaf", {"inputs": "audio"}, {"UAR": 41.0}, "hidden_states(checkpoint='facebook/data2vec')"),
        "HBAF": Variant("hbaf", {}, {"UAR": 60.0}, derived=True),
    }
    monkeypatch.setattr(get_method("hbaf"), "ablations", rows)
    missing_features.cache_clear()
    settings = [part for key, value in small.items() for part in ("--set", f"hbaf.{key}={value}")]
    features = ["--audio", "mfcc(n=13, hop_ms=20.0)", "--text", f"hidden_states(checkpoint={tiny_bert!r})"]
    command = ["ablate", "hbaf", "--corpus", str(manifest), *features, *settings, "--set", "training.max_epochs=1"]
    result = CliRunner().invoke(app, [*command, "--seeds", "1", "--out", str(tmp_path / "runs")])
    missing_features.cache_clear()
    assert result.exit_code == 0, result.output
    table = [cells(line) for line in result.stdout.splitlines() if line.startswith("|")]
    assert [(row[0], row[-1]) for row in table[2:]] == [("Audio", "–"), ("Audio, bands", "40.00"), ("HBAF", "≈60.00")]
    assert "≈: the paper doesn't print it" in result.stdout
    assert "not run: Audio, data2vec (checkpoint 'facebook/data2vec' could not be loaded" in result.stdout
    assert "audio logmel(n=8), text" in result.stdout
    audio = {spec["variant"]: spec["audio"]["name"] for _, spec, _ in read_results(tmp_path / "runs")}
    assert audio == {"Audio": "mfcc", "Audio, bands": "logmel", "HBAF": "mfcc"}


def test_a_method_without_a_table_names_those_that_have_one() -> None:
    with pytest.raises(SuiteError, match=r"text_only names no ablations; these do: .*mer_han"):
        ablation_methods("text_only")


def test_ablate_prints_the_papers_rows_even_where_a_run_was_made_under_another_name(
    manifest: Path, tmp_path: Path, tiny_bert: str
) -> None:
    features = ["--audio", "mfcc(n=13, hop_ms=20.0)", "--text", f"hidden_states(checkpoint={tiny_bert!r})"]
    small = ["--set", "mer_han.hidden=4", "--set", "mer_han.d=8", "--set", "training.max_epochs=1", "--seeds", "1"]
    common = ["--corpus", str(manifest), *features, *small, "--out", str(tmp_path / "runs")]
    run = CliRunner().invoke
    assert run(app, ["bench", "--methods", "mer_han", *common]).exit_code == 0
    result = run(app, ["ablate", "mer_han", *common, "--set", "audio_only.hidden=4"])
    assert result.exit_code == 0, result.output
    assert "(MER-HAN) fold 0 seed 0: cached" in result.output
    table = [cells(line) for line in result.stdout.splitlines() if line.startswith("|")]
    rows = [dict(zip(table[0], row, strict=True)) for row in table[2:]]
    assert [row["variant"] for row in rows] == list(get_method("mer_han").ablations)
    assert [row["paper's UAR"] for row in rows] == ["52.18", "56.98", "67.72", "69.54", "71.87", "71.43", "74.20"]
    assert "compare the order of the rows, not the numbers" in result.stdout
    assert rows[-1]["Δ UAR"] == "+0.0"
    first, full = (float(rows[i]["UAR"].split(" ±")[0]) for i in (0, -1))
    assert float(rows[0]["Δ UAR"]) == pytest.approx(first - full, abs=0.11)
    low, high = (float(bound) for bound in rows[0]["95 % interval"].split(" to "))
    assert low <= float(rows[0]["Δ UAR"]) <= high
    assert rows[-1]["p (Holm)"] == "–"
    assert (
        "the reference is MER-HAN; intervals are of the difference to it, each of its row alone, and p is adjusted" in result.stdout
    )
    assert "Holm's correction over 6 tests" in result.stdout
    again = ["ablate", "mer_han", *common, "--set", "audio_only.hidden=4", "--format"]
    table = pd.read_csv(io.StringIO(run(app, [*again, "csv"]).stdout), index_col="variant")
    assert table["paper_UAR"].tolist() == [52.18, 56.98, 67.72, 69.54, 71.87, 71.43, 74.20]
    assert table["delta"].to_numpy() == pytest.approx((table["uar_mean"] - table["uar_mean"].iloc[-1]).to_numpy())
    assert table["p"].isna().tolist() == [False] * 6 + [True]
    latex = run(app, [*again, "tex"]).stdout
    assert r"$\Delta$ UAR" in latex
    assert latex.rstrip().endswith(r"\end{document}")
