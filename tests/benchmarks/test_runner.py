"""The runner: identical conditions, test once, nothing run twice, nothing lost."""

import errno
import gc
import json
import os
import weakref
from collections.abc import Callable
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score

import zoo
from benchmarks import Suite, bench, read_leaderboard
from benchmarks.results import METRICS, ResultError, is_finished
from benchmarks.runner import Outcome, expand, items_per_batch, resolve_precision, run, scores, slice_scores
from benchmarks.spec import Execution, ExecutionError, MethodSpec, SuiteError, code_version, load_suite
from zoo.base import FusionModule, Published, Training

FAST = Training(max_epochs=2, batch_size=16, lr=1e-2)


def predictions(out: Path) -> dict[str, bytes]:
    return {file.parent.name: file.read_bytes() for file in sorted(out.glob("*/predictions.parquet"))}


def assert_all_finished_in_order(outcomes: list[Outcome]) -> None:
    assert [outcome.status for outcome in outcomes] == ["finished"] * 4
    assert [(o.spec.method, o.spec.seed) for o in outcomes] == [
        ("text_only", 0),
        ("text_only", 1),
        ("audio_only", 0),
        ("audio_only", 1),
    ]


def test_a_run_leaves_the_whole_folder(suite: Suite, tmp_path: Path) -> None:
    outcomes = bench(suite, tmp_path / "runs")
    assert_all_finished_in_order(outcomes)
    for outcome in outcomes:
        names = {path.name for path in outcome.folder.iterdir()}
        assert names == {"spec.yaml", "result.json", "predictions.parquet", "checkpoint.ckpt", "tensorboard"}
        stored = pd.read_parquet(outcome.folder / "predictions.parquet")
        assert sorted(stored["utterance_id"]) == sorted(f"u{n}" for n in range(48, 60))
        assert set(stored["speaker"]) == {"s8", "s9"}
        assert set(stored["dialogue"]) == {"d8", "d9"}
        np.testing.assert_allclose(stored[["p_calm", "p_cross", "p_glad"]].sum(axis=1), 1, atol=1e-6)
        result = json.loads((outcome.folder / "result.json").read_text())
        assert result["utterances"] == {"train": 36, "val": 12, "test": 12, "usable": 60, "named": 60}
        assert result["scores"]["war"] == pytest.approx(accuracy_score(stored["label"], _guesses(stored)))


def test_predictions_name_the_recording(
    suite: Suite, manifest: Path, rows: list[dict[str, object]], write_manifest: Callable[..., Path], tmp_path: Path
) -> None:
    rows[50]["audio"], rows[51]["audio"] = rows[49]["audio"], ""
    write_manifest(manifest.parent, rows)
    outcome = bench(suite.model_copy(update={"seeds": (0,), "methods": suite.methods[:1]}), tmp_path / "runs")[0]
    stored = pd.read_parquet(outcome.folder / "predictions.parquet").set_index("utterance_id")["recording"]
    assert stored["u50"] == stored["u49"]
    assert pd.isna(stored["u51"])
    assert stored.dropna().nunique() == 10


def _guesses(stored: pd.DataFrame) -> pd.Series:
    return stored[[c for c in stored if c.startswith("p_")]].idxmax(axis=1).str.removeprefix("p_")


def test_learns_what_the_data_holds(suite: Suite, tmp_path: Path) -> None:
    longer = suite.model_copy(update={"training": Training(max_epochs=30, batch_size=8, lr=2e-2), "seeds": (0,)})
    for outcome in bench(longer, tmp_path / "runs"):
        result = json.loads((outcome.folder / "result.json").read_text())
        assert result["scores"]["uar"] > 0.8, outcome.spec.method


def test_a_method_gets_the_selected_functionals(suite: Suite, tmp_path: Path) -> None:
    """Selections are runs of their own, over one copy of the features."""
    every, some = (
        bench(suite.model_copy(update={"audio": audio, "seeds": (0,)}), tmp_path / "runs")[1]
        for audio in ("egemaps", "compare2016(select=12)")
    )
    other = expand(suite.model_copy(update={"audio": "compare2016(select=13)"}))[1].spec
    assert [outcome.status for outcome in (every, some)] == ["finished"] * 2
    assert len({every.spec.fingerprint, some.spec.fingerprint, other.fingerprint}) == 3
    assert (some.spec.audio["select"], some.spec.data) == (12, other.data)
    result = json.loads((some.folder / "result.json").read_text())
    assert result["features"]["audio"] == "compare2016(select=12)"
    assert result["scores"]["uar"] > 0.3


def test_a_finished_run_is_never_run_again_and_repeats_bit_for_bit(suite: Suite, tmp_path: Path) -> None:
    bench(suite, tmp_path / "one")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "one").rglob("*")}
    assert {outcome.status for outcome in bench(suite, tmp_path / "one")} == {"cached"}
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "one").rglob("*") if ".locks" not in str(path)} == {
        path: stamp for path, stamp in before.items() if ".locks" not in str(path)
    }
    bench(suite, tmp_path / "two", execution=Execution(workers=2))
    assert predictions(tmp_path / "one") == predictions(tmp_path / "two")


def test_a_failed_run_is_recorded_and_the_rest_go_on(suite: Suite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from zoo.text_only import TextOnly

    def broken(self: FusionModule, *_: object, **__: object) -> None:
        raise RuntimeError("planted")

    with monkeypatch.context() as patch:
        patch.setattr(TextOnly, "forward", broken)
        outcomes = bench(suite, tmp_path / "runs")
    assert [outcome.status for outcome in outcomes] == ["failed", "failed", "finished", "finished"]
    record = json.loads(outcomes[0].folder.read_text())
    assert record["error"] == "RuntimeError: planted"
    assert "in broken" in record["traceback"]
    assert read_leaderboard(tmp_path / "runs").failed == 2
    assert not list((tmp_path / "runs").glob(".partial-*"))

    assert [outcome.status for outcome in bench(suite, tmp_path / "runs")] == ["finished", "finished", "cached", "cached"]
    assert read_leaderboard(tmp_path / "runs").failed == 0


class Raises:
    """A ``forward`` that raises ``error``, at its first ``times`` calls."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, error: Exception, times: int = 1000) -> None:
        from zoo.text_only import TextOnly

        self.error, self.left, self.forward = error, times, TextOnly.forward
        monkeypatch.setattr(TextOnly, "forward", lambda *given, **named: self(*given, **named))

    def __call__(self, model: FusionModule, *given: object, **named: object) -> object:
        self.model = weakref.ref(model)
        self.left -= 1
        if self.left >= 0:
            raise self.error
        return self.forward(model, *given, **named)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
def test_a_full_disk_is_no_fault_of_the_method(suite: Suite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    Raises(monkeypatch, OSError(number, os.strerror(number)))
    with pytest.raises(ResultError, match=rf"runs \(.*{os.strerror(number)}\); finished runs are kept. Free some space"):
        bench(suite, tmp_path / "runs")
    assert [path.name for path in (tmp_path / "runs").iterdir()] == [".locks"], "no failure, and what was written is gone"


def test_a_file_that_a_method_misses_is_its_own_fault(suite: Suite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Raises(monkeypatch, FileNotFoundError(errno.ENOENT, "No such file", "lexicon.txt"))
    outcomes = bench(suite, tmp_path / "runs")
    assert [outcome.status for outcome in outcomes] == ["failed", "failed", "finished", "finished"]


def test_a_folder_of_another_user(suite: Suite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(out: Path, run_id: str) -> Path:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(out / run_id))

    monkeypatch.setattr("benchmarks.results.partial_folder", refuse)
    with pytest.raises(ResultError, match=r"Permission denied: '\S+/runs/text_only__\S+'\).* one group and 'umask 002'"):
        bench(suite, tmp_path / "runs")


def test_memory_is_free_again_when_a_run_has_failed(suite: Suite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing holds its model any more, the error's traceback neither."""
    left: list[bool] = []

    def release(error: Exception | None = None) -> None:
        gc.collect()
        left.append(raises.model() is not None)

    monkeypatch.setattr("benchmarks.runner._release_memory", release)
    one = suite.model_copy(update={"methods": suite.methods[:1]})
    for error in (RuntimeError("planted"), torch.OutOfMemoryError("planted")):
        raises = Raises(monkeypatch, error)
        (outcome, _) = bench(one, tmp_path / type(error).__name__)
        assert "in __call__" in json.loads(outcome.folder.read_text())["traceback"]
        raises.left = 0
        bench(one, tmp_path / type(error).__name__)
    assert left == [False] * (2 + 2 + 4 + 2)


@pytest.mark.parametrize(("error", "released"), [(None, 1), (torch.OutOfMemoryError("x"), 1), (torch.AcceleratorError("x"), 0)])
def test_a_card_gets_its_memory_back(monkeypatch: pytest.MonkeyPatch, error: Exception | None, released: int) -> None:
    from benchmarks.runner import _release_memory

    calls: list[int] = []
    monkeypatch.setattr("torch.cuda.empty_cache", lambda: calls.append(1))
    _release_memory(error)
    assert calls == [], "there is no card"
    monkeypatch.setattr("torch.cuda.is_initialized", lambda: True)
    _release_memory(error)
    assert len(calls) == released


@pytest.mark.parametrize(("times", "status"), [(1, "finished"), (1000, "failed")])
def test_want_of_memory_gets_a_second_try_after_the_others(
    suite: Suite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, times: int, status: str
) -> None:
    Raises(monkeypatch, torch.OutOfMemoryError("planted"), times)
    ended: list[str] = []
    one = suite.model_copy(update={"seeds": (0,)})
    outcomes = bench(one, tmp_path / "runs", report=lambda done, outcome: ended.append(outcome.spec.method))
    assert [outcome.status for outcome in outcomes] == [status, "finished"]
    assert ended == ["audio_only", "text_only"]
    if status == "failed":
        assert outcomes[0].error == "OutOfMemoryError: planted"


def test_a_lost_process_of_several_gets_a_second_try(suite: Suite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tries: list[int] = []

    def launch(*_: object) -> None:
        tries.append(1)
        raise BrokenProcessPool("planted")

    monkeypatch.setattr("benchmarks.parallel.launch", launch)
    one = suite.model_copy(update={"methods": suite.methods[:1], "seeds": (0,)})
    (outcome,) = bench(one, tmp_path / "runs", execution=Execution(devices=2))
    assert (outcome.status, len(tries)) == ("failed", 2)
    assert outcome.error.startswith("the process of this run was killed")


def test_a_cuda_error_ends_the_command_that_it_left_without_a_gpu(
    suite: Suite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Raises(monkeypatch, torch.AcceleratorError("CUDA error: device-side assert triggered\nadvice"))
    with pytest.raises(ExecutionError, match=r"device-side assert triggered \(traceback in (\S+)\).* with --jobs 2") as caught:
        bench(suite, tmp_path / "runs")
    (record,) = (tmp_path / "runs" / "failed").iterdir()
    assert str(record) in str(caught.value)
    assert "in __call__" in json.loads(record.read_text())["traceback"]


def test_code_that_a_run_was_not_planned_with_makes_no_result(suite: Suite, tmp_path: Path) -> None:
    """As of a process started after the source was changed."""
    job = expand(suite)[0]
    other = job._replace(spec=job.spec.model_copy(update={"code": "0123456789abcdef"}))
    with pytest.raises(ExecutionError, match="code of text_only in this process isn't that of the command"):
        run(other, tmp_path / "runs")
    assert [path.name for path in (tmp_path / "runs").iterdir()] == [".locks"]


def test_code_that_changes_while_features_are_extracted(suite: Suite, monkeypatch: pytest.MonkeyPatch) -> None:
    from datamodules.emotion import Utterances, load_utterances

    def slow(*given: object) -> Utterances:
        monkeypatch.setattr("benchmarks.runner.code_version", lambda method: "edited meanwhile")
        return load_utterances(*given)

    monkeypatch.setattr("benchmarks.runner.load_utterances", slow)
    assert {job.spec.code for job in expand(suite)} == {code_version("text_only"), code_version("audio_only")}


def test_a_file_system_that_remembers_that_there_was_no_result(
    suite: Suite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As NFS does, until this machine makes something in the folder: what the other machine has finished isn't done again."""
    job = expand(suite)[0]
    first = run(job, tmp_path)
    assert first is not None
    before = (first.folder / "result.json").stat().st_mtime_ns

    def remembered(folder: Path) -> bool:
        return bool(list(folder.parent.glob(".partial-*"))) and is_finished(folder)

    monkeypatch.setattr("benchmarks.results.is_finished", remembered)
    assert run(job, tmp_path) == first._replace(status="cached")
    assert (first.folder / "result.json").stat().st_mtime_ns == before
    assert not list(tmp_path.glob(".partial-*"))


def test_the_test_split_is_used_once_after_selection(suite: Suite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from datamodules.emotion import EmotionDataModule

    events: list[str] = []
    for name in ("val", "test"):
        original = getattr(EmotionDataModule, f"{name}_dataloader")

        def spy(self: EmotionDataModule, name: str = name, original: Callable = original) -> object:
            events.append(name)
            return original(self)

        monkeypatch.setattr(EmotionDataModule, f"{name}_dataloader", spy)
    bench(suite.model_copy(update={"seeds": (0,), "methods": suite.methods[:1]}), tmp_path / "runs")
    assert events.count("test") == 1
    assert events[-1] == "test"


def test_selection_keeps_the_epoch_that_is_best_on_validation(suite: Suite, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (outcome,) = bench(
        suite.model_copy(update={"seeds": (0,), "methods": suite.methods[1:], "training": Training(max_epochs=6, lr=1e-2)}),
        tmp_path / "runs",
    )
    curves = EventAccumulator(str(outcome.folder / "tensorboard")).Reload()
    curve = [event.value for event in curves.Scalars("val/uar")][:6]
    assert {"train/loss", "train/uar", "val/loss", "test/uar"} <= set(curves.Tags()["scalars"])
    assert {"val/confusion", "test/confusion"} <= set(curves.Tags()["images"])
    result = json.loads((outcome.folder / "result.json").read_text())
    assert result["validation"]["uar"] == pytest.approx(max(curve))


def test_a_diverged_run_is_a_failure(suite: Suite, tmp_path: Path) -> None:
    training = Training(max_epochs=3, lr=1e30, grad_clip=0.0)
    (outcome,) = bench(
        suite.model_copy(update={"methods": suite.methods[:1], "seeds": (0,), "training": training}), tmp_path / "runs"
    )
    assert outcome.status == "failed"
    assert "training diverged" in outcome.error


def test_changed_data_is_another_run(suite: Suite, manifest: Path) -> None:
    before = [job.spec.fingerprint for job in expand(suite)]
    assert [job.spec.fingerprint for job in expand(suite)] == before
    manifest.write_text(manifest.read_text().replace("the bus leaves at noon 0", "the bus leaves at dawn 0"))
    after = [job.spec.fingerprint for job in expand(suite)]
    assert not set(before) & set(after)


def test_published_track_uses_the_papers_settings(suite: Suite, monkeypatch: pytest.MonkeyPatch, tiny_bert: str) -> None:
    from zoo.base import Published
    from zoo.text_only import TextOnly

    published = Published("mfcc(n=20)", f"hidden_states(checkpoint={tiny_bert!r}, layers=(0,))", Training(lr=0.123))
    monkeypatch.setattr(TextOnly, "published", published)
    (job, *_) = expand(suite.model_copy(update={"track": "published", "methods": suite.methods[:1]}))
    assert job.spec.training.lr == 0.123
    assert job.spec.audio["n"] == 20
    assert job.spec.text["layers"] == (0,)
    assert job.spec.track == "published"


def test_published_options_apply_in_their_track_and_under_the_suites_own(
    suite: Suite, monkeypatch: pytest.MonkeyPatch, tiny_bert: str
) -> None:
    from zoo.audio_only import AudioOnly
    from zoo.base import Published

    feature = f"hidden_states(checkpoint={tiny_bert!r})"
    published = Published("mfcc(n=20)", feature, FAST, {"hidden": 64, "layers": 3})
    monkeypatch.setattr(AudioOnly, "published", published)
    one = suite.model_copy(update={"methods": suite.methods[1:], "seeds": (0,)})
    (job,) = expand(one.model_copy(update={"track": "published"}))
    assert job.spec.options == {"hidden": 4, "layers": 3}
    assert job.spec.variant == "hidden=4"
    (job,) = expand(one)
    assert job.spec.options == {"hidden": 4}


def test_scores_agree_with_scikit_learn() -> None:
    random = np.random.default_rng(0)
    classes = ["a", "b", "c"]
    labels = random.choice(classes, 200, p=[0.7, 0.2, 0.1])
    table = pd.DataFrame(random.dirichlet(np.ones(3), 200).astype(np.float32), columns=[f"p_{c}" for c in classes]).assign(
        label=labels
    )
    guesses = _guesses(table)
    found = scores(table, classes)
    assert set(METRICS) < set(found)
    assert found["war"] == pytest.approx(accuracy_score(labels, guesses))
    assert found["uar"] == pytest.approx(balanced_accuracy_score(labels, guesses))
    assert found["macro_f1"] == pytest.approx(f1_score(labels, guesses, average="macro"))
    assert found["weighted_f1"] == pytest.approx(f1_score(labels, guesses, average="weighted"))
    assert np.array_equal(found["confusion"], pd.crosstab(labels, guesses).reindex(index=classes, columns=classes).to_numpy())
    # Expected calibration error, from its definition: 15 bins of confidence, |accuracy - confidence| weighted by size.
    confidence, correct = table[[f"p_{c}" for c in classes]].max(axis=1).to_numpy(), (guesses == labels).to_numpy()
    bins = np.minimum((confidence * 15).astype(int), 14)
    gaps = [
        abs(correct[bins == b].mean() - confidence[bins == b].mean()) * (bins == b).mean() for b in range(15) if (bins == b).any()
    ]
    assert found["ece"] == pytest.approx(sum(gaps), abs=1e-5)


def test_uar_is_over_the_classes_that_occur() -> None:
    table = pd.DataFrame({"label": ["a", "a", "b"], "p_a": [0.9, 0.1, 0.1], "p_b": [0.0, 0.1, 0.9], "p_c": [0.1, 0.8, 0.0]})
    found = scores(table, ["a", "b", "c"])
    assert found["uar"] == pytest.approx((0.5 + 1.0) / 2)
    assert found["recall"] == {"a": 0.5, "b": 1.0, "c": None}


def test_slices() -> None:
    table = pd.DataFrame(
        {"label": ["a", "b", "a", "b"], "p_a": [0.9, 0.8, 0.7, 0.1], "p_b": [0.1, 0.2, 0.3, 0.9], "kind": ["x", "x", "y", "y"]}
    )
    assert slice_scores(table, ("kind",)) == {"kind": {"x": 0.5, "y": 1.0}}


@pytest.mark.parametrize(
    ("cuda", "bf16", "expected"), [(False, False, "32-true"), (True, True, "bf16-mixed"), (True, False, "16-mixed")]
)
def test_precision_auto(monkeypatch: pytest.MonkeyPatch, cuda: bool, bf16: bool, expected: str) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: cuda)
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda including_emulation=True: bf16 or including_emulation)
    assert resolve_precision("auto") == expected
    assert resolve_precision("16-mixed") == "16-mixed"


def test_encoders_are_trained_with_the_method(manifest: Path, tiny_bert: str, tiny_speech: str, tmp_path: Path) -> None:
    """Every method of the suite reads the same inputs; a method gets the encoders of what it reads."""
    methods = ["text_only", {"method": "audio_only", "options": {"hidden": 4}}, {"method": "bc_lstm", "options": {"hidden": 4}}]
    features = {name: f"hidden_states(checkpoint={folder!r})" for name, folder in (("audio", tiny_speech), ("text", tiny_bert))}
    values = {"corpus": str(manifest), "methods": methods, "seeds": 1, **features}
    settings = ["training.max_epochs=1", "text_encoder.trainable=top:1", "text_encoder.lr=1e-3", "audio_encoder.trainable=top:2"]
    frozen, suite = load_suite(None, values, settings[:1]), load_suite(None, values, settings)
    outcomes = bench(suite, tmp_path / "runs")
    assert [outcome.error for outcome in outcomes] == [""] * 3
    counts = {}
    for outcome in outcomes:
        result = json.loads((outcome.folder / "result.json").read_text())
        assert result["spec"]["text_encoder"] == {"trainable": "top:1", "lr": 1e-3}
        assert result["spec"]["audio_encoder"] == {"trainable": "top:2", "lr": 1e-5}
        assert result["spec"]["text"]["name"] == result["spec"]["audio"]["name"] == "hidden_states"
        assert result["features"] == features
        counts[outcome.spec.method] = result["costs"]["trainable_parameters"]
    before = [json.loads((o.folder / "result.json").read_text())["costs"] for o in bench(frozen, tmp_path / "frozen")]
    text = sum(p.numel() for p in _layers(tiny_bert)[-1].parameters())
    audio = sum(p.numel() for layer in _layers(tiny_speech) for p in layer.parameters())
    more = [count - costs["trainable_parameters"] for count, costs in zip(counts.values(), before, strict=True)]
    assert more == [text, audio, text + audio]
    board = read_leaderboard(tmp_path / "runs")
    assert len(board.captions) == 1
    caption = board.to_markdown()
    assert f"{features['audio']} (fine-tuned top:2, lr 1e-05), text {features['text']} (fine-tuned top:1, lr 0.001);" in caption
    assert [outcome.status for outcome in bench(suite, tmp_path / "runs")] == ["cached"] * 3


def _layers(checkpoint: str) -> list:
    from datamodules.features.transformer import load_encoder

    encoder = load_encoder(checkpoint).encoder
    return list(encoder.layer if hasattr(encoder, "layer") else encoder.layers)


def test_an_encoder_that_is_not_there(suite: Suite, tiny_bert: str) -> None:
    for settings, message in (
        ({"audio_encoder": {"trainable": "all"}}, "audio_encoder.trainable is 'all', but for text_only mfcc.* has no encoder"),
        ({"text_encoder": {"trainable": "top:4"}}, "text_encoder.trainable is 'top:4', .* reads 3 layers above the embedding"),
    ):
        with pytest.raises(SuiteError, match=message):
            expand(Suite(**(suite.model_dump() | settings)))


def test_settings_of_a_frozen_encoder_tell_no_runs_apart(suite: Suite) -> None:
    other = Suite(**(suite.model_dump() | {"text_encoder": {"lr": 0.5}}))
    assert [job.spec.fingerprint for job in expand(other)] == [job.spec.fingerprint for job in expand(suite)]


@pytest.mark.parametrize(("track", "expected"), [("controlled", [16, 3]), ("published", [32, 32])])
def test_a_step_of_dialogues_sees_as_many_utterances_as_a_step_of_utterances(
    suite: Suite, monkeypatch: pytest.MonkeyPatch, track: str, expected: list[int]
) -> None:
    # The manifest's dialogues have six turns. Published features are not needed here.
    for name in ("audio_only", "bc_lstm"):
        published = Published(suite.audio, suite.text, Training(batch_size=32))
        monkeypatch.setattr(zoo.get_method(name), "published", published)
    methods = (MethodSpec(method="audio_only"), MethodSpec(method="bc_lstm"))
    jobs = expand(suite.model_copy(update={"methods": methods, "seeds": (0,), "track": track}))
    assert [items_per_batch(job) for job in jobs] == expected


def test_comet_beside_the_text_and_its_absence(suite: Suite, tmp_path: Path, tiny_bert: str, tiny_comet: str) -> None:
    """HBAF reads the relations from the text feature's last columns; without them the result says what stands in their place."""
    small = {"hidden": 8, "filters": 4, "layers": 1, "heads": 2}
    methods = [{"method": "hbaf", "options": {**small, "commonsense": kind, "comet_dim": 16}} for kind in ("comet", "learnt")]
    states = f"hidden_states(checkpoint={tiny_bert!r}, pool='first')"
    changes = {"methods": methods, "seeds": 1, "training": FAST, "audio": "egemaps"}
    suite = Suite(**{**suite.model_dump(), **changes, "text": f"{states} + comet(checkpoint={tiny_comet!r})"})
    outcomes = bench(suite, tmp_path / "runs")
    results = [json.loads((outcome.folder / "result.json").read_text()) for outcome in outcomes]
    flag = "hbaf: learnt vectors, the same for all utterances, stand in place of COMET's relations"
    assert [flag in result["caveats"] for result in results] == [False, True]
    parts = results[0]["spec"]["text"]["parts"]
    assert [part["name"] for part in parts] == ["hidden_states", "comet"]
    assert tiny_comet not in json.dumps(parts), "the checkpoint's content counts, not its path"
