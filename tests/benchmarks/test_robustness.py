"""Robustness: the stored model on corrupted input, nothing else changed, nothing done twice."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from typer.testing import CliRunner

from benchmarks import Suite, bench
from benchmarks.cli import app
from benchmarks.results import NothingStoredError, ResultError
from benchmarks.robustness import (
    CLEAN,
    FOLDER,
    evaluate,
    figures,
    finished_runs,
    read_robustness,
    summarise,
    to_markdown,
)
from benchmarks.runner import expand, scores
from benchmarks.spec import SuiteError, load_suite
from datamodules.audio import Clip, load_clip
from datamodules.batch import Batch
from datamodules.corruptions import CORRUPTIONS, Clipping
from datamodules.emotion import Absent
from datamodules.features import parse_feature
from datamodules.problems import UnknownNameError
from zoo.audio_only import AudioOnly
from zoo.base import Output, Training

AUDIO = "mfcc(n=8, hop_ms=20.0)"


@pytest.fixture
def suite(manifest: Path, tiny_bert: str) -> Suite:
    """An utterance method that reads one modality, and a dialogue method that reads both."""
    return Suite(
        corpus=str(manifest),
        audio=AUDIO,
        text=f"hidden_states(checkpoint={tiny_bert!r})",
        methods=[
            {"method": "audio_only", "options": {"encoder": "identity", "pooling": "functionals"}},
            {"method": "bc_lstm", "options": {"hidden": 4}},
        ],
        seeds=1,
        training=Training(max_epochs=3, batch_size=16, lr=1e-2),
    )


def test_the_stored_model_is_scored_on_corrupted_input(suite: Suite, tmp_path: Path) -> None:
    out, names = tmp_path / "runs", ["clipping", "word_errors", "no_audio"]
    bench(suite, out)
    runs = finished_runs(expand(suite), out)
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    reports: list[tuple[int, int, str]] = []
    evaluate(runs, names, report=lambda *state: reports.append(state))
    assert {path: path.read_bytes() for path in before} == before
    assert reports[-1] == (20, 20, "done")
    assert [done for done, *_ in reports] == list(range(21))
    audio, both = (run.folder / FOLDER for run in runs)
    files = {f"{name}={degree:g}.parquet" for name in names for degree in CORRUPTIONS[name].degrees} | {"clean.parquet"}
    assert {path.name for path in audio.iterdir()} == files
    for folder in (audio, both):
        clean, stored = (pd.read_parquet(path) for path in (folder / "clean.parquet", folder.parent / "predictions.parquet"))
        pd.testing.assert_frame_equal(clean, stored)
    # Audio alone is blind to words, and without audio gives everybody the same.
    pd.testing.assert_frame_equal(pd.read_parquet(audio / "word_errors=0.4.parquet"), pd.read_parquet(audio / "clean.parquet"))
    assert len(pd.read_parquet(audio / "no_audio=1.parquet").filter(like="p_").drop_duplicates()) == 1
    for name in ("clipping=0.1", "word_errors=0.4", "no_audio=1"):
        assert not pd.read_parquet(both / f"{name}.parquet").equals(pd.read_parquet(both / "clean.parquet")), name

    stamps = {path: path.stat().st_mtime_ns for path in out.rglob("*.parquet")}
    (both / "clipping=0.5.parquet").unlink()
    evaluate(runs, names)
    again = {path: path.stat().st_mtime_ns for path in out.rglob("*.parquet")}
    assert {path for path in again if again[path] != stamps[path]} == {both / "clipping=0.5.parquet"}

    frame = read_robustness(out)
    assert len(frame) == 20
    found = frame.set_index(["method", "corruption", "degree"])["uar"]
    expected = scores(pd.read_parquet(both / "clipping=0.1.parquet"), ["calm", "cross", "glad"])["uar"]
    assert found["bc_lstm", "clipping", 0.1] == pytest.approx(expected)
    assert found["audio_only", "no_audio", 1.0] == pytest.approx(1 / 3)
    shown = to_markdown(summarise(frame))
    assert "Clipping: UAR (%) by clipping level (share of the peak)" in shown
    assert "loses it answers with one class" in shown
    assert set(figures(summarise(frame))) == set(names)


def test_the_models_input_is_the_corrupted_clip_normalised_as_in_training(suite: Suite, tmp_path: Path) -> None:
    """By hand: the clip, clipped, its MFCC, the clean training split's mean and deviation, the checkpoint."""
    from zoo import get_method

    out = tmp_path / "runs"
    one = suite.model_copy(update={"methods": suite.methods[:1]})
    bench(one, out)
    (run,) = finished_runs(expand(one), out)
    evaluate([run], ["clipping"])
    feature, table = parse_feature(AUDIO), run.job.utterances.table
    train = [load_clip(Clip(Path(path)), 16_000) for path in table.loc[table["split"] == "train", "audio"]]
    frames = np.concatenate([array.astype("float16").astype(float) for array in feature.extract(train)])
    stored = pd.read_parquet(run.folder / FOLDER / "clipping=0.1.parquet").set_index("utterance_id")
    model = get_method("audio_only").load_from_checkpoint(run.folder / "checkpoint.ckpt", map_location="cpu").eval()
    from datamodules.batch import Item, collate_utterances

    for row in table[table["split"] == "test"].itertuples():
        (array,) = feature.extract([Clipping(0.1)(load_clip(Clip(Path(row.audio)), 16_000), 16_000)])
        normal = ((array.astype("float16").astype(float) - frames.mean(0)) / frames.std(0)).astype(np.float32)
        with torch.no_grad():
            logits = model(collate_utterances([Item(normal, np.zeros((1, 16), np.float32), 0, "x")])).logits[0]
        np.testing.assert_allclose(logits.softmax(-1), stored.loc[row.utterance_id].filter(like="p_").to_numpy(float), atol=1e-4)


def test_a_checkpoint_that_gives_other_answers_is_refused(suite: Suite, tmp_path: Path) -> None:
    out = tmp_path / "runs"
    one = suite.model_copy(update={"methods": suite.methods[:1]})
    bench(one, out)
    (run,) = finished_runs(expand(one), out)
    stored = pd.read_parquet(run.folder / "predictions.parquet")
    columns = [c for c in stored if c.startswith("p_")]
    stored[columns] = np.roll(stored[columns].to_numpy(), 1, axis=1)
    stored.to_parquet(run.folder / "predictions.parquet", index=False)
    with pytest.raises(ResultError, match=r"100 % of the decisions .* the code has changed"):
        evaluate([run], ["no_audio"])
    assert not list((run.folder / FOLDER).iterdir())
    (run.folder / "predictions.parquet").write_bytes(b"no parquet")
    with pytest.raises(ResultError, match=r"predictions.parquet can't be read .* run the suite again"):
        evaluate([run], ["no_audio"])
    checkpoint = torch.load(run.folder / "checkpoint.ckpt", weights_only=False)
    del checkpoint["state_dict"]["classifier.bias"]
    torch.save(checkpoint, run.folder / "checkpoint.ckpt")
    with pytest.raises(
        ResultError, match=r"checkpoint.ckpt can't be loaded, or the code has changed since .* remove the run's folder"
    ):
        evaluate([run], ["no_audio"])


def test_a_run_of_another_version_is_named(suite: Suite, tmp_path: Path) -> None:
    folder = tmp_path / "strange"
    folder.mkdir()
    (folder / "result.json").write_text(json.dumps({"spec": {"method": "m"}, "finished": ""}))
    with pytest.raises(ResultError, match=r"strange was made by another version: .*variant \(Field required\).*another folder"):
        finished_runs(expand(suite), tmp_path)


def test_a_fine_tuned_encoder_reads_the_corrupted_samples(manifest: Path, tiny_speech: str, tiny_bert: str, tmp_path: Path) -> None:
    features = {"audio": f"hidden_states(checkpoint={tiny_speech!r})", "text": f"hidden_states(checkpoint={tiny_bert!r})"}
    values = {"corpus": str(manifest), "methods": {"early_concat": {"hidden": 4}}, "seeds": 1, **features}
    suite = load_suite(None, values, ["training.max_epochs=1", "audio_encoder.trainable=top:1", "text_encoder.trainable=top:1"])
    bench(suite, tmp_path / "runs")
    (run,) = finished_runs(expand(suite), tmp_path / "runs")
    evaluate([run], ["telephone", "word_errors"])
    clean = pd.read_parquet(run.file((CLEAN, 0)))
    for condition in (("telephone", 1), ("word_errors", 0.4)):
        assert not pd.read_parquet(run.file(condition)).equals(clean)


def test_what_can_not_be_corrupted_is_refused(rows: list[dict], write_manifest, tmp_path: Path, suite: Suite) -> None:
    for row in rows:
        if row["split"] == "test":
            row["audio"] = ""
    one = suite.model_copy(update={"corpus": str(write_manifest(tmp_path, rows)), "methods": suite.methods[1:]})
    bench(one, tmp_path / "runs")
    runs = finished_runs(expand(one), tmp_path / "runs")
    with pytest.raises(SuiteError, match="babble: no test utterance of fold 0 has audio; leave it out of --corruptions"):
        evaluate(runs, ["babble"])
    evaluate(runs, ["word_errors"])


def test_code_that_changes_between_two_commands_is_refused(suite: Suite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "runs"
    one = suite.model_copy(update={"methods": suite.methods[:1]})
    bench(one, out)
    (run,) = finished_runs(expand(one), out)
    evaluate([run], ["no_audio"])
    clean = run.file((CLEAN, 0)).stat().st_mtime_ns
    forward = AudioOnly.forward

    def other(model: AudioOnly, batch: Batch, maps: bool = False) -> Output:
        output = forward(model, batch, maps)
        return output._replace(logits=-output.logits)

    with monkeypatch.context() as changed:
        changed.setattr(AudioOnly, "forward", other)
        evaluate([run], ["no_audio"])  # all there: nothing to do, nothing to mix
        with pytest.raises(ResultError, match=r"% of the decisions .* the code has changed"):
            evaluate([run], ["no_audio", "no_text"])
    assert not run.file(("no_text", 0.1)).exists()
    reports: list[str] = []
    evaluate([run], ["no_audio", "no_text"], report=lambda *state: reports.append(state[-1]))
    assert [report.rpartition(" ")[2] for report in reports] == ["clean", "no_text=0.1", "no_text=0.5", "no_text=1", "done"]
    assert run.file((CLEAN, 0)).stat().st_mtime_ns == clean


def frame(scores: dict[tuple[str, float], list[float]], method: str = "m") -> pd.DataFrame:
    """Made-up results of several seeds, of four classes."""
    facts = {
        "method": method,
        "variant": "v",
        "track": "t",
        "corpus": "c",
        "protocol": "p",
        "condition": '{"absent": {}}',
        "options": "{}",
        "fold": 0,
        "headline": "uar",
    }
    return pd.DataFrame(
        [
            facts | {"seed": seed, "corruption": name, "degree": degree, "score": score, "none": 0.25 if name == CLEAN else None}
            for (name, degree), values in scores.items()
            for seed, score in enumerate(values)
        ]
    )


def test_drops_and_areas() -> None:
    table = summarise(
        frame(
            {
                (CLEAN, 0): [0.8, 0.6],
                ("word_errors", 0.1): [0.7, 0.6],
                ("word_errors", 0.2): [0.6, 0.5],
                ("word_errors", 0.4): [0.4, 0.3],
                ("white_noise", 20): [0.8, 0.6],
                ("white_noise", 10): [0.6, 0.4],
                ("white_noise", 5): [0.4, 0.4],
                ("white_noise", 0): [0.2, 0.2],
                ("telephone", 1): [0.5, 0.5],
                ("babble", 20): [0.5, 0.5],
            }
        )
    ).set_index(["corruption", "degree"])
    assert table.loc[("word_errors", 0.4), "score_mean"] == pytest.approx(0.35)
    assert table.loc[("word_errors", 0.4), "score_std"] == pytest.approx(np.std([0.4, 0.3], ddof=1))
    assert table.loc[("word_errors", 0.4), "drop"] == pytest.approx(0.35)
    # By hand: strips of width 0.1, 0.1 and 0.2 with the clean score at 0; of 5, 5 and 10 dB without it.
    words = [(0.1 * 0.75 + 0.1 * 0.65 + 0.2 * 0.5) / 0.4, (0.1 * 0.6 + 0.1 * 0.55 + 0.2 * 0.4) / 0.4]
    noise = [(10 * 0.7 + 5 * 0.5 + 5 * 0.3) / 20, (10 * 0.5 + 5 * 0.4 + 5 * 0.3) / 20]
    for name, degree, areas in (("word_errors", 0.1, words), ("white_noise", 5, noise)):
        assert table.loc[(name, degree), "area_mean"] == pytest.approx(np.mean(areas))
        assert table.loc[(name, degree), "area_std"] == pytest.approx(np.std(areas, ddof=1))
        assert table.loc[(name, degree), "retained"] == pytest.approx((np.mean(areas) - 0.25) / (0.7 - 0.25))
    assert np.isnan(table.loc[("telephone", 1), "area_mean"])  # two points are no curve
    assert np.isnan(table.loc[("babble", 20), "area_mean"])  # degrees are missing
    shown = to_markdown(table.reset_index())
    assert "| m      | v       |    2 | 70.0 ± 14.1 |" in shown
    assert "35.0 ± 7.1 (-35.0)" in shown


def test_chance_retains_nothing() -> None:
    chance = [0.25, 0.25]
    flat = {(CLEAN, 0): chance} | {("word_errors", degree): chance for degree in (0.1, 0.2, 0.4)}
    lost = {(CLEAN, 0): [0.75, 0.65]} | {("white_noise", degree): chance for degree in (20, 10, 5, 0)}
    blind = {(CLEAN, 0): [0.75, 0.65]} | {("word_errors", degree): [0.75, 0.65] for degree in (0.1, 0.2, 0.4)}
    retained = {}
    for name, scores_ in (("flat", flat), ("lost", lost), ("blind", blind)):
        table = summarise(frame(scores_, name))
        assert table["none_mean"].unique() == pytest.approx([0.25])
        retained[name] = table["retained"].iloc[0]
    assert retained == pytest.approx({"flat": np.nan, "lost": 0.0, "blind": 1.0}, nan_ok=True)
    shown = to_markdown(summarise(frame(lost)))
    assert "both less the best constant answer (25.0)" in shown
    assert "there are no intervals or tests here" in shown


def test_missing_in_training_needs_no_robustness_of_the_complete_run(suite: Suite, tmp_path: Path) -> None:
    out = tmp_path / "runs"
    both = suite.model_copy(update={"methods": suite.methods[1:]})
    half = load_suite(None, both.model_dump(), ["absent.audio=0.5"])
    bench(half, out)
    with pytest.raises(NothingStoredError, match="holds no robustness results"):
        read_robustness(out)
    bench(both, out)
    (row,) = summarise(read_robustness(out)).to_dict("records")
    complete, less = (
        json.loads((out / expand(one)[0].spec.run_id / "result.json").read_text())["scores"]["uar"] for one in (both, half)
    )
    assert (row["corruption"], row["degree"]) == ("no_audio_in_training", 0.5)
    assert (row["clean_mean"], row["score_mean"]) == pytest.approx((complete, less))
    assert row["none_mean"] == pytest.approx(1 / 3)


def test_missing_in_training_without_a_complete_run_is_shown_and_said() -> None:
    beside = frame({(CLEAN, 0): [0.8], ("no_audio_in_training", 0.5): [0.6, 0.2]}, "beside")
    alone = frame({("no_audio_in_training", 0.5): [0.6, 0.5]}, "alone")
    table = summarise(pd.concat([beside, alone])).set_index("method")
    assert table.loc["beside", ["runs", "score_mean", "drop"]].tolist() == pytest.approx([1, 0.6, 0.2])
    assert table.loc["alone", ["runs", "score_mean"]].tolist() == pytest.approx([2, 0.55])
    assert np.isnan(table.loc["alone", "clean_mean"])
    shown = to_markdown(table.reset_index())
    assert "no clean score: no complete run of that row is there" in shown
    (line,) = [line for line in shown.splitlines() if line.startswith("| alone")]
    assert [cell.strip() for cell in line.split("|")[4:6]] == ["–", "55.0 ± 7.1"]
    assert set(figures(table.reset_index())) == {"no_audio_in_training"}


def test_missing_in_training_is_a_run_of_its_own_beside_the_complete_one(suite: Suite, tmp_path: Path) -> None:
    out = tmp_path / "runs"
    both = suite.model_copy(update={"methods": suite.methods[1:]})
    half = load_suite(None, both.model_dump(), ["absent.audio=0.5"])
    assert half.absent == Absent(audio=0.5)
    for one in (both, half):
        bench(one, out)
    complete, less = expand(both)[0].spec, expand(half)[0].spec
    assert complete.fingerprint != less.fingerprint
    assert complete.data == less.data
    evaluate(finished_runs(expand(both), out), ["no_text"])
    table = summarise(read_robustness(out)).set_index(["corruption", "degree"])
    assert set(table.index.get_level_values(0)) == {"no_text", "no_audio_in_training"}
    result = json.loads((out / less.run_id / "result.json").read_text())
    row = table.loc[("no_audio_in_training", 0.5)]
    assert row["score_mean"] == pytest.approx(result["scores"]["uar"])
    assert row["clean_mean"] == table.loc[("no_text", 0.5), "clean_mean"]
    board = CliRunner().invoke(app, ["leaderboard", str(out)]).stdout
    assert board.count("controlled track") == 2
    assert "audio absent from 50 % of the training utterances" in board
    # Both at once: trained without, tested without. A table of its own, which says so.
    evaluate(finished_runs(expand(half), out), ["no_audio"])
    shown = to_markdown(summarise(read_robustness(out)))
    assert shown.count("**Robustness") == 2
    assert shown.count("audio absent from 50 % of the training utterances") == 1


def test_shares_that_make_no_sense_are_refused(manifest: Path) -> None:
    for settings, message in (
        (["absent.audio=1.5"], "less than or equal to 1"),
        (["absent.audio=0.6", "absent.text=0.6"], "add up to more than 1"),
    ):
        with pytest.raises(SuiteError, match=message):
            load_suite(None, {"corpus": str(manifest)}, settings)
    with pytest.raises(UnknownNameError, match="no absent setting is called 'video'"):
        load_suite(None, {"corpus": str(manifest)}, ["absent.video=0.1"])


def test_the_command(suite: Suite, tmp_path: Path) -> None:
    out = tmp_path / "runs"
    arguments = ["--corpus", suite.corpus, "--audio", suite.audio, "--text", suite.text, "--methods", "text_only", "--seeds", "1"]
    arguments += ["--set", "training.max_epochs=1", "--out", str(out)]
    none = CliRunner().invoke(app, ["robustness", *arguments])
    assert none.exit_code == 2
    assert "holds no finished run of this suite; 'fusion-zoo bench' with the same suite, corpus, protocol," in none.stderr
    assert CliRunner().invoke(app, ["bench", *arguments]).exit_code == 0
    unknown = CliRunner().invoke(app, ["robustness", *arguments, "--corruptions", "word_error"])
    assert unknown.exit_code == 2
    assert "did you mean 'word_errors'" in unknown.stderr
    done = CliRunner().invoke(app, ["robustness", *arguments, "--seeds", "2", "--corruptions", "word_errors,telephone"])
    assert done.exit_code == 0, done.output
    assert "1 of the suite's 2 runs are not finished and not scored" in done.stderr
    assert "Telephone band: UAR (%)\n" in done.stdout
    assert {path.name for path in (out / "robustness").iterdir()} == {"robustness.md", "robustness.csv", "word_errors.svg"}
    assert (out / "robustness" / "robustness.md").read_text() == done.stdout
    csv = CliRunner().invoke(app, ["robustness", *arguments, "--corruptions", "word_errors", "--format", "csv"])
    assert csv.stdout.startswith(
        "condition,method,variant,track,corpus,protocol,options,headline,corruption,degree,runs,score_mean"
    )
    assert CliRunner().invoke(app, ["interactions", str(out)]).exit_code == 2
