"""The command line as a user meets it."""

import io
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.signal
import soundfile
from typer.main import get_command
from typer.testing import CliRunner, Result

from benchmarks import Suite, cli
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


@pytest.mark.parametrize("command", ["bench", "ablate", "robustness", "tune"])
def test_help_tells_what_a_suite_is_by_default(command: str) -> None:
    suite = Suite()
    expected = {key: getattr(suite, key) for key in ("corpus", "track", "audio", "text")}
    expected |= {"seeds": len(suite.seeds), "max_seconds": f"{suite.max_seconds:g}", "methods": "all"}
    assert [entry.method for entry in suite.methods] == list_methods()
    options = {option.name: option.help for option in get_command(app).commands[command].params if hasattr(option, "help")}
    assert {"corpus", "seeds", "audio", "text", "max_seconds"} <= expected.keys() & options.keys()
    for name in expected.keys() & options.keys():
        assert options[name].endswith(f"; {expected[name]} unless the suite says otherwise.")


def test_the_time_left_is_told_of_runs_longer_than_half_a_minute() -> None:
    bar, now = cli._bar(), 0.0
    bar.get_time = lambda: now
    task = bar.add_task("runs", total=10)
    for done in (1, 2, 3):
        now += 600
        bar.update(task, completed=done)
    assert bar.tasks[0].time_remaining == 7 * 600


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
    for cost, shown in (([], "FLOPs"), (["--cost", "parameters"], "parameters")):
        assert run("leaderboard", out, "--pareto", tmp_path / "x.svg", *cost).exit_code == 0
        assert f"<!-- {shown}" in (tmp_path / "x.svg").read_text(encoding="utf-8")  # a comment per text that is drawn


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


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--pareto", "none/x.svg"], "there is no folder none"),
        (["--pareto", "x.gif"], "x.gif must end in .svg, .png or .pdf"),
        (["--diagram", "x.gif"], "x.gif must end in .svg, .png or .pdf"),
        (["--cost", "parameters"], "it needs --pareto FILE"),
    ],
)
def test_a_picture_that_can_not_be_drawn_is_refused_before_anything_is_read(options: list[str], told: str) -> None:
    result = run("leaderboard", "no_folder", *options)
    assert result.exit_code == 2
    assert told in result.stderr


def test_a_file_that_may_not_be_read_is_a_line(manifest: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the reader; permissions can't be tested as root."""

    read = Path.open

    def refuse(path: Path, *args: object, **options: object) -> object:
        if path == manifest:
            raise PermissionError(13, "Permission denied", str(path))
        return read(path, *args, **options)

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


def test_prepare(manifest: Path, tiny_bert: str) -> None:
    prepared = run("prepare", manifest, "--audio", "logmel(n=8)", "--text", f"token_ids(checkpoint={tiny_bert!r})")
    assert prepared.exit_code == 0, prepared.output
    assert "logmel(n=8): 60 arrays of width 8" in prepared.stdout


def test_doctor_says_by_its_exit_status_whether_to_mend(manifest: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    healthy = run("doctor", manifest, "--html", page)
    assert healthy.exit_code == 0, healthy.output
    assert "Healthy: nothing needs mending." in healthy.stdout
    assert re.search(r"^ calm +12 +4 +4 +20 *$", healthy.stdout, re.MULTILINE)
    assert max(map(len, healthy.stdout.splitlines())) <= 80
    assert re.search(r'<th scope="row" class="short">calm</th>\s*<td class="number">12</td>', page.read_text())
    manifest.write_text(manifest.read_text().replace("audio/u7.wav", "audio/nothing.wav"))
    ill = run("doctor", manifest)
    assert ill.exit_code == 1
    assert f"{manifest}:9\n  audio/nothing.wav: audio file is missing" in ill.stdout


def test_doctor_applies_the_protocol_that_is_asked_for(manifest: Path, tmp_path: Path) -> None:
    manifest.write_text(manifest.read_text().replace(",s9,", ",s0,"))
    refused = run("doctor", manifest)
    assert refused.exit_code == 1
    assert "the splits share speakers" in refused.stdout
    assert run("doctor", manifest, "--allow-speaker-overlap").exit_code == 0
    other = run("doctor", manifest, "--protocol", "speaker-3fold")
    assert other.exit_code == 0, other.output
    assert "Protocol speaker-3fold@1" in other.stdout
    assert "did you mean 'split@1'" in run("doctor", manifest, "--protocol", "splitt").stderr
    unwritable = run("doctor", manifest, "--protocol", "speaker-3fold", "--html", tmp_path / "none" / "page.html")
    assert unwritable.exit_code == 2
    page = tmp_path / "none" / "page.html"
    assert unwritable.stderr.endswith(f"fusion-zoo: {page}: No such file or directory; check the path, and the space there\n")
    full = run("doctor", manifest, "--protocol", "speaker-3fold", "--html", "/dev/full")
    assert full.exit_code == 2
    assert "a file can't be written: No space left on device; check the path, and the space there" in full.stderr


def test_near_duplicate_audio_is_printed_with_the_result_or_stops_it(
    rows: list[dict], write_manifest, tmp_path: Path, fast: list[str]
) -> None:
    """u59, in test, is u5 of train at half its level and 8 kHz; a voice of noise bursts, 0.6 s."""
    random = np.random.default_rng(0)
    burst = scipy.signal.resample(random.normal(size=4800) * np.repeat(random.uniform(0.1, 1, 8), 600), 9600) / 8
    soundfile.write(tmp_path / "audio/u5.wav", burst, 16_000)
    soundfile.write(tmp_path / "audio/u59.wav", scipy.signal.resample(burst, 4800) / 2, 8000)
    command = ["bench", "--corpus", write_manifest(tmp_path, rows), "--methods", "text_only", *fast, "--out", tmp_path / "runs"]
    allowed = run(*command)
    assert allowed.exit_code == 0, allowed.output
    assert "1 recordings are in more than one split in copies that were amplified, recoded or cut" in allowed.stdout
    refused = run(*command, "--protocol", "loso-speaker")
    assert refused.exit_code == 2
    assert "1 near-duplicate clips are in more than one split" in refused.stderr


def test_an_output_folder_that_cannot_be_written_is_explained(manifest: Path, tmp_path: Path, fast: list[str]) -> None:
    (tmp_path / "file").write_text("not a folder")
    result = run("bench", "--corpus", manifest, "--methods", "text_only", *fast, "--out", tmp_path / "file" / "runs")
    assert result.exit_code == 2
    assert "results can't be written to" in result.stderr
    assert "name another folder with --out" in result.stderr
    assert "Traceback" not in result.output
