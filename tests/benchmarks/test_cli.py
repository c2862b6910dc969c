"""The command line as a user meets it."""

import io
import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner, Result

from benchmarks.cli import app
from datamodules.corpora import list_corpora
from zoo import list_methods


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def fast(tiny_bert: str) -> list[str]:
    """Options of a bench that ends in seconds."""
    features = ["--audio", "mfcc(n=13, hop_ms=20.0)", "--text", f"hidden_states(checkpoint={tiny_bert!r})"]
    return [*features, "--set", "training.max_epochs=1", "--seeds", "1"]


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys; from typer.testing import CliRunner; from benchmarks.cli import app; "
        "assert CliRunner().invoke(app, ['bench', '--help']).exit_code == 0; "
        "print(sorted({'torch', 'lightning', 'transformers', 'pandas', 'librosa'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_methods_as_json() -> None:
    found = {entry["name"]: entry for entry in json.loads(run("methods", "--json").stdout)}
    assert set(found) == set(list_methods())
    assert {entry["family"] for entry in found.values()} == {"single", "early", "late", "model-level"}
    assert {entry["unit"] for entry in found.values()} == {"utterance", "dialogue"}
    for entry in found.values():
        assert list(entry) == ["name", "family", "unit", "modalities", "parameters", "paper", "tracks"]
    assert found["mer_han"]["parameters"] == 6_459_652
    assert found["mer_han"]["tracks"] == ["controlled", "published"]
    assert found["text_only"]["modalities"] == ["text"]


def test_corpora_as_json() -> None:
    found = json.loads(run("corpora", "--json").stdout)
    names = {entry["name"] for entry in found}
    assert names == set(list_corpora())
    assert names >= {"cremad", "demo", "emodb", "emouerj", "esd", "huggingface", "manifest", "meld", "ravdess"}
    assert all(entry["licence"] and entry["source"] for entry in found)


def test_bench_then_leaderboard(manifest: Path, tmp_path: Path, fast: list[str]) -> None:
    out = tmp_path / "runs"
    result = run(
        "bench", "--corpus", manifest, "--methods", "text_only,early_concat", "--set", "early_concat.hidden=4", *fast, "--out", out
    )
    assert result.exit_code == 0, result.output
    assert "protocol split@1, controlled track" in result.stdout
    assert "coverage: 60 of 60 utterances (100.0 %)" in result.stdout
    table = pd.read_csv(io.StringIO(run("leaderboard", out, "--format", "csv").stdout))
    assert dict(zip(table["method"], table["variant"], strict=True)) == {"text_only": "default", "early_concat": "hidden=4"}
    assert run("leaderboard", out).stdout.startswith("**")


def test_skip_bad_goes_on_and_states_the_coverage(rows: list[dict], write_manifest, tmp_path: Path, fast: list[str]) -> None:
    rows[3]["audio"], rows[20]["label"] = "audio/none.wav", ""
    path = write_manifest(tmp_path, rows)
    command = ["bench", "--corpus", path, "--methods", "text_only", *fast, "--out", tmp_path / "runs"]
    refused = run(*command)
    assert refused.exit_code == 2
    assert f"{path}:5: audio/none.wav: audio file is missing" in refused.stderr
    assert f"{path}:22: label is empty" in refused.stderr
    assert "Traceback" not in refused.output
    accepted = run(*command, "--skip-bad")
    assert accepted.exit_code == 0, accepted.output
    assert "coverage: 58 of 60 utterances (96.7 %)" in accepted.stdout
    assert "2 of 60 utterances were left out as bad" in accepted.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--methods", "mer_hann"], "did you mean 'mer_han'"),
        (["--corpus", "demoo"], "no corpus is called 'demoo'; did you mean 'demo'"),
        (["--set", "mer_han.hiden=3"], "did you mean 'hidden'"),
        (["--audio", "mfc"], "did you mean 'mfcc'"),
        (["--audio", "mfcc(m=3)"], "no parameter of mfcc is called 'm'"),
        (["--audio", "mfcc(n=0)"], "n must be 1 to 128"),
        (["--audio", "mfcc(n='many')"], "n is 'many'"),
        (["--audio", "hidden_states"], "reads text; it can't be the audio feature"),
        (["--audio", "mfcc(40)"], "write it as a call with named values"),
        (["--protocol", "splitt"], "no protocol is called 'splitt'; did you mean 'split@1'"),
        (["--precision", "half"], "no precision is called 'half'"),
        (["--corpus", "none.csv"], "there is no such file"),
        (["--track", "unfair"], "controlled"),
        (["--corpus", "manifest"], "pass it with --root"),
        (["--text", "hidden_states(checkpoint='no/where')"], "run 'hf download no/where"),
    ],
)
def test_mistakes_are_explained_in_a_line(
    arguments: list[str], message: str, manifest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    given = arguments if "--corpus" in arguments else ["--corpus", str(manifest), *arguments]
    result = run("bench", *given)
    assert result.exit_code == 2, result.output
    assert message in result.stderr
    assert "Traceback" not in result.output


def test_a_file_that_may_not_be_read_is_a_line(manifest: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the reader; permissions can't be tested as root."""

    def refuse(path: Path, *_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "open", refuse)
    result = run("doctor", manifest)
    assert result.exit_code == 2
    assert result.stderr == f"fusion-zoo: {manifest}: Permission denied; check its permissions\n"


def test_a_speaker_in_two_splits_needs_the_flag(rows: list[dict], write_manifest, tmp_path: Path, fast: list[str]) -> None:
    rows[-1]["speaker"] = "s0"
    path = write_manifest(tmp_path, rows)
    command = ["bench", "--corpus", path, "--methods", "text_only", *fast, "--out", tmp_path / "runs"]
    assert "pass --allow-speaker-overlap" in run(*command).stderr
    allowed = run(*command, "--allow-speaker-overlap")
    assert allowed.exit_code == 0, allowed.output
    assert "protocol split-overlap@1" in allowed.stdout
    assert "not comparable with speaker-independent results" in allowed.stdout


def test_a_failing_method_sets_the_exit_status(manifest: Path, tmp_path: Path, fast: list[str]) -> None:
    arguments = ["bench", "--corpus", manifest, "--methods", "text_only,mer_han", *fast, "--out", tmp_path / "runs"]
    result = run(*arguments, "--set", "mer_han.hidden=4", "--set", "mer_han.heads=3")  # 3 heads don't divide 8
    assert result.exit_code == 1
    assert "3 heads don't divide a width of 8" in result.stderr
    assert "| text_only" in result.stdout


def test_prepare_then_doctor(manifest: Path, tmp_path: Path, tiny_bert: str) -> None:
    prepared = run("prepare", manifest, "--audio", "logmel(n=8)", "--text", f"token_ids(checkpoint={tiny_bert!r})")
    assert prepared.exit_code == 0, prepared.output
    assert "logmel(n=8): 60 arrays of width 8" in prepared.stdout
    healthy = run("doctor", manifest)
    assert healthy.exit_code == 0, healthy.output
    assert "coverage: 60 of 60 utterances are usable" in healthy.stdout
    manifest.write_text(manifest.read_text().replace("audio/u7.wav", "audio/nothing.wav"))
    ill = run("doctor", manifest)
    assert ill.exit_code == 1
    assert f"{manifest}:9: audio/nothing.wav: audio file is missing" in ill.stdout


def test_an_output_folder_that_cannot_be_written_is_explained(manifest: Path, tmp_path: Path, fast: list[str]) -> None:
    (tmp_path / "file").write_text("not a folder")
    result = run("bench", "--corpus", manifest, "--methods", "text_only", *fast, "--out", tmp_path / "file" / "runs")
    assert result.exit_code == 2
    assert "results can't be written to" in result.stderr
    assert "name another folder with --out" in result.stderr
    assert "Traceback" not in result.output
