"""The dry run: what would be done, without doing any of it."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from benchmarks import Suite, bench
from benchmarks.cli import app
from benchmarks.forecast import Forecast, forecast, forecast_table
from benchmarks.results import record_failure, run_lock
from benchmarks.runner import expand
from datamodules.problems import BadInputError
from datamodules.store import KeysOnly


def test_the_names_of_the_runs_need_no_features(suite: Suite, cache: Path) -> None:
    store = KeysOnly()
    planned = [job.spec.run_id for job in expand(suite, store=store)]
    assert not list(cache.rglob("data.bin"))
    assert {feature.name: missing for feature, missing in store.missing.items()} == {
        "mfcc": 60,
        "fingerprint": 60,
        "hidden_states": 60,
    }
    assert [job.spec.run_id for job in expand(suite)] == planned
    again = KeysOnly()
    assert [job.spec.run_id for job in expand(suite, store=again)] == planned
    assert set(again.missing.values()) == {0}


def test_a_file_that_is_not_there_is_told(suite: Suite, manifest: Path) -> None:
    (manifest.parent / "audio" / "u7.wav").unlink()
    with pytest.raises(BadInputError, match="audio file is missing"):
        expand(suite, store=KeysOnly())


def test_what_is_cached_failed_running_and_to_do(suite: Suite, tmp_path: Path) -> None:
    out = tmp_path / "runs"
    (finished, _) = bench(suite.model_copy(update={"methods": suite.methods[:1]}), out)
    (finished.folder / "result.json").write_text(
        json.dumps(
            (result := json.loads((finished.folder / "result.json").read_text()))
            | {"costs": result["costs"] | {"train_seconds": 250.0}}
        )
    )
    jobs = expand(suite.model_copy(update={"seeds": (0, 1, 2, 3)}))
    text, audio = jobs[:4], jobs[4:]
    second = out / text[1].spec.run_id / "result.json"
    seconds = json.loads(second.read_text())["costs"]["train_seconds"]
    record_failure(out, text[2].spec.run_id, {}, "planted", "")
    before = sorted(out.rglob("*"))
    with run_lock(out, audio[0].spec.run_id, 0):
        rows = forecast(jobs, out)
    estimate = (250.0 + seconds) / 2
    assert rows == [
        Forecast("text_only", "default", 4, cached=2, failed=1, running=0, seconds=[pytest.approx(estimate)] * 2),
        Forecast("audio_only", "hidden=4", 4, cached=0, failed=0, running=1, seconds=[None] * 3),
    ]
    assert {path for path in out.rglob("*") if ".locks" not in str(path)} <= set(before)
    assert forecast(jobs, out)[1].running == 0


def test_the_table() -> None:
    rows = [
        Forecast("a", "default", 4, 1, 0, 1, [3000.0, 4000.0]),
        Forecast("b", "x=1", 2, 0, 1, 0, [20.0, None]),
        Forecast("c", "default", 1, 1),
    ]
    assert forecast_table(rows).splitlines() == [
        "| method | variant | runs | cached | failed before | running elsewhere | to do |        training |",
        "| :----- | :------ | ---: | -----: | ------------: | ----------------: | ----: | --------------: |",
        "| a      | default |    4 |      1 |             0 |                 1 |     2 |      1 h 57 min |",
        "| b      | x=1     |    2 |      0 |             1 |                 0 |     2 | 20 s, 1 unknown |",
        "| c      | default |    1 |      1 |             0 |                 0 |     0 |               – |",
        "",
        "7 runs, 4 to do; training, one run after the other: 1 h 57 min, 1 unknown",
    ]


@pytest.mark.parametrize("command", [["bench", "--methods", "mer_han"], ["ablate", "mer_han"]])
def test_a_dry_run_leaves_nothing(command: list[str], manifest: Path, tmp_path: Path, tiny_bert: str, cache: Path) -> None:
    options = ["--corpus", str(manifest), "--audio", "mfcc(n=13)", "--text", f"hidden_states(checkpoint={tiny_bert!r})"]
    result = CliRunner().invoke(app, [*command, *options, "--out", str(tmp_path / "runs"), "--seeds", "2", "--dry-run"])
    assert result.exit_code == 0, result.output
    assert "to do; training, one run after the other: unknown" in result.stdout
    assert "60 arrays of mfcc(n=13) would be extracted first" in result.stdout
    assert not (tmp_path / "runs").exists()
    assert not list(cache.rglob("data.bin"))
