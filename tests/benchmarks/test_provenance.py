"""Provenance: a result says what makes it again, a repetition finds what changed, and two folders are told apart run by run."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner, Result

from benchmarks import Suite, bench
from benchmarks.cli import app
from benchmarks.provenance import compare, compare_predictions, reproduce
from benchmarks.results import COSTS, METRICS, ResultError, commit, partial_folder
from zoo.base import Training


def command(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def suite(manifest: Path, tiny_bert: str) -> Suite:
    return Suite(
        corpus=str(manifest),
        audio="mfcc(n=13, hop_ms=20.0)",
        text=f"hidden_states(checkpoint={tiny_bert!r})",
        methods=[{"method": "audio_only", "options": {"hidden": 4}, "variant": "small"}],
        seeds="3,",
        training=Training(max_epochs=2, batch_size=16, lr=1e-2),
    )


@pytest.fixture
def finished(suite: Suite, tmp_path: Path) -> Path:
    """The folder of a finished run."""
    (outcome,) = bench(suite, tmp_path / "runs")
    return outcome.folder


def edit(folder: Path, **changes: Any) -> None:
    file = folder / "result.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def test_a_result_says_what_made_it(finished: Path, suite: Suite, manifest: Path) -> None:
    result = json.loads((finished / "result.json").read_text())
    alone = Suite(**result["suite"])
    assert alone == suite.model_copy(update={"corpus": str(manifest.resolve())})
    environment = result["environment"]
    assert {"revision", "python", "platform", "device", "cpu", "cores", "cuda", "cudnn", "driver", "threads"} <= set(environment)
    assert environment["packages"].keys() >= {"torch", "lightning", "numpy", "scikit-learn", "transformers"}
    assert environment["cores"] >= 1
    assert (result["spec"]["seed"], result["spec"]["code"] != "", result["spec"]["data"] != "") == (3, True, True)
    assert str(manifest.parent) not in json.dumps({key: value for key, value in result["spec"].items() if key != "text"})
    costs = result["costs"]
    assert set(COSTS) == set(costs)
    assert environment["execution"].items() >= {"jobs": 1, "per_gpu": 0, "devices": 1, "workers": 0}.items()
    assert costs["energy_joules"] is None, "no processor reports it"
    assert 0 < costs["latency_p50_ms"] <= costs["latency_p95_ms"]
    assert costs["flops_per_utterance"] > 0


def test_a_repetition_on_one_machine_is_identical(finished: Path, tmp_path: Path) -> None:
    done = command("reproduce", finished, "--out", tmp_path / "again")
    assert done.exit_code == 0, done.output
    assert "largest difference of a probability 0, 0 of 12 predictions changed" in done.stdout
    assert "code and environment are the same" in done.stdout
    refused = command("reproduce", finished, "--out", tmp_path / "again")
    assert refused.exit_code == 2
    assert "exists already; remove it, or name another folder with --out" in refused.stderr
    assert "holds the original" in command("reproduce", finished, "--out", finished.parent).stderr
    assert command("compare", finished.parent, tmp_path / "again").exit_code == 0


def test_what_changed_is_told(finished: Path, tmp_path: Path) -> None:
    result = json.loads((finished / "result.json").read_text())
    packages = result["environment"]["packages"] | {"torch": "1.0"}
    edit(finished, environment=result["environment"] | {"packages": packages}, spec=result["spec"] | {"code": "older"})
    predictions = pd.read_parquet(finished / "predictions.parquet")
    predictions[["p_calm", "p_cross", "p_glad"]] = predictions[["p_cross", "p_glad", "p_calm"]].to_numpy()
    predictions.to_parquet(finished / "predictions.parquet")
    done = command("reproduce", finished, "--out", tmp_path / "again")
    assert done.exit_code == 1, done.output
    assert "12 of 12 predictions changed" in done.stdout
    assert "environment.packages.torch: 1.0 -> " in done.stdout
    assert "code: older -> " in done.stdout
    assert "different (tolerance 1e-06)" in done.stdout
    shutil.rmtree(tmp_path / "again")
    assert command("reproduce", finished, "--out", tmp_path / "again", "--tolerance", "1").exit_code == 0


def test_a_moved_corpus_is_found_where_it_is_now(finished: Path, manifest: Path, tmp_path: Path) -> None:
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    shutil.move(manifest, moved)
    shutil.move(manifest.parent / "audio", moved)
    lost = command("reproduce", finished, "--out", tmp_path / "again")
    assert lost.exit_code == 2
    assert "there is no such file" in lost.stderr
    found = command("reproduce", finished, "--out", tmp_path / "again", "--corpus", moved / manifest.name)
    assert found.exit_code == 0, found.output
    assert "corpus: " in found.stdout, "the manifest's folder is part of its name"


def test_other_data_are_refused(finished: Path, manifest: Path, tmp_path: Path) -> None:
    manifest.write_text(manifest.read_text().replace("the bus leaves at noon 0", "the bus leaves at dawn 0"))
    with pytest.raises(ResultError, match=r"can't be had again: data was \w+, is \w+\. Name the corpus"):
        reproduce(finished, tmp_path / "again")
    assert not (tmp_path / "again").exists()


def test_what_cannot_be_repeated_says_why(finished: Path, tmp_path: Path) -> None:
    none = command("reproduce", tmp_path / "none")
    assert none.exit_code == 2
    assert "is no folder of a finished run" in none.stderr
    result = json.loads((finished / "result.json").read_text())
    del result["suite"]
    (finished / "result.json").write_text(json.dumps(result))
    with pytest.raises(ResultError, match="didn't keep where its data came from"):
        reproduce(finished, tmp_path / "again")


@pytest.mark.parametrize(
    ("key", "value", "named"),
    [
        ("vision", "clip", r"vision \(Extra inputs"),
        ("methods", [{"name": "m"}], r"methods.0.method \(Field required"),
        ("seeds", [], "seeds"),
    ],
)
def test_a_suite_of_another_version_is_an_error_in_a_line(finished: Path, tmp_path: Path, key: str, value: Any, named: str) -> None:
    result = json.loads((finished / "result.json").read_text())
    edit(finished, suite=result["suite"] | {key: value})
    refused = command("reproduce", finished, "--out", tmp_path / "again")
    assert refused.exit_code == 2
    assert re.search(rf"was made by another version: this one can't read {named}", refused.stderr)
    assert refused.stderr.count("\n") == 1


def predictions(shift: float = 0.0) -> pd.DataFrame:
    first = np.array([0.9, 0.2, 0.51])
    return pd.DataFrame(
        {"utterance_id": ["u0", "u1", "u2"], "label": ["a", "b", "a"], "p_a": first - shift, "p_b": 1 - first + shift}
    )


def test_predictions_are_compared_by_utterance() -> None:
    difference = compare_predictions(predictions(), predictions(0.02).iloc[::-1])
    assert difference.largest == pytest.approx(0.02)
    assert (difference.changed, difference.utterances) == (1, 3)
    for other in (predictions().iloc[:2], predictions().assign(label="a"), predictions().rename(columns={"p_b": "p_c"})):
        assert compare_predictions(predictions(), other).largest == np.inf
        assert "not of the same" in str(compare_predictions(predictions(), other))


def test_a_changed_prediction_of_several_labels_is_one_that_crosses_the_threshold() -> None:
    """The most probable class stays the same throughout."""
    one = pd.DataFrame({"utterance_id": ["u0", "u1", "u2"], "label": ["a", "a+b", "none"], "p_a": 0.9, "p_b": [0.2, 0.6, 0.49]})
    other = one.assign(p_b=[0.3, 0.45, 0.51])
    assert compare_predictions(one, other, "multilabel").changed == 2
    assert compare_predictions(one, other).changed == 0


def write(out: Path, seed: int, uar: float, shift: float = 0.0, **changes: str) -> None:
    spec = {"method": "m", "variant": "default", "options": {}, "corpus": "toy 1", "protocol": "split@1", "track": "controlled"}
    spec |= {"fold": 0, "seed": seed, "code": "1"} | {key: value for key, value in changes.items() if key != "finished"}
    result = {"spec": spec, "scores": dict.fromkeys(METRICS, uar), "headline": "uar"}
    result |= {"finished": changes.get("finished", "2026-01-01")}
    name = f"m{seed}{changes.get('code', '')}"
    commit(partial_folder(out, name), out, spec, result, predictions(shift))


def test_two_folders_are_compared_row_by_row(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    for seed, uar in enumerate([0.5, 0.6, 0.7]):
        write(one, seed, uar)
    write(one, 0, 0.1, 0.4, code="old", finished="2025-01-01")  # superseded
    for seed, uar in enumerate([0.52, 0.6]):
        write(other, seed, uar, shift=0.02 * (seed == 0), variant="renamed", code="2")
    write(other, 9, 0.9)
    found = compare(one, other)
    (row,) = found.rows
    assert (row.runs, row.metric) == (2, "uar")
    assert row.one == pytest.approx((0.55, np.std([0.5, 0.6], ddof=1)))
    assert row.change == pytest.approx((0.01, np.std([0.02, 0.0], ddof=1)))
    assert row.predictions.largest == pytest.approx(0.02)
    assert (row.predictions.changed, row.predictions.utterances) == (1, 6)
    assert found.only == (
        ["m (default), toy 1, split@1, controlled, fold 0, seed 2"],
        ["m (default), toy 1, split@1, controlled, fold 0, seed 9"],
    )
    assert not found.same
    done = command("compare", one, other)
    assert done.exit_code == 1
    assert "uar 55.0 ± 7.1 -> 56.0 ± 5.7, difference +1.00 ± 1.41" in done.stdout
    assert f"only in {one}: 1 runs" in done.stdout
    assert command("compare", one, one).exit_code == 0
    empty = command("compare", one, tmp_path / "empty")
    assert (empty.exit_code, "holds no finished run" in empty.stderr) == (2, True)


def test_missing_predictions_are_explained(tmp_path: Path) -> None:
    write(tmp_path / "one", 0, 0.5)
    (tmp_path / "one" / "m0" / "predictions.parquet").write_bytes(b"nothing")
    with pytest.raises(ResultError, match=r"can't be read .* remove its folder"):
        compare(tmp_path / "one", tmp_path / "one")
