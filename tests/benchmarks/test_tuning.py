"""Search on validation: as many trials for every method, nothing lost or done twice, and the test split left alone."""

import io
import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import optuna
import pandas as pd
import pytest
import yaml
from optuna.trial import TrialState
from typer.testing import CliRunner

import zoo
from benchmarks import Suite, bench, read_leaderboard, tuning
from benchmarks.cli import app
from benchmarks.leaderboard import condition_of, row_options
from benchmarks.provenance import _key
from benchmarks.runner import expand
from benchmarks.spec import SPACE, ExecutionError, MethodSpec, Range, Search, SuiteError, load_suite
from benchmarks.tuning import WIDTHS, Tuning, tune
from datamodules.emotion import EmotionDataModule, _Split
from datamodules.problems import UnknownNameError
from zoo.base import Training


@pytest.fixture
def quick(suite: Suite) -> Suite:
    """Trials of an epoch or two; the suite's own are so slow to learn that others do better."""
    return suite.model_copy(update={"training": Training(max_epochs=2, batch_size=8, lr=1e-4)})


def studies(out: Path) -> dict[str, list[optuna.trial.FrozenTrial]]:
    backend = optuna.storages.journal.JournalFileBackend(str(out / "journal.log"))
    storage = optuna.storages.JournalStorage(backend)
    return {
        name: optuna.load_study(study_name=name, storage=storage).trials for name in optuna.get_all_study_names(storage=storage)
    }


def chosen(found: Tuning) -> list[dict]:
    return [finding.tuned.model_dump(exclude={"conditions"}) for finding in found.findings]


def test_every_method_gets_as_many_trials_on_every_fold_and_stands_in_one_table(quick: Suite, tmp_path: Path) -> None:
    folds = quick.model_copy(update={"protocol": "speaker-3fold@1", "seeds": (0,)})
    found = tune(folds, tmp_path / "tuned", 2)
    counts = {name: [trial.state for trial in trials] for name, trials in studies(tmp_path / "tuned").items()}
    assert len(counts) == 2 * 3
    assert list(counts.values()) == [[TrialState.COMPLETE] * 2] * 6
    assert [(f.method, f.fold) for f in found.findings] == [(m, k) for m in ("text_only", "audio_only") for k in range(3)]
    for finding, trials in zip(found.findings, studies(tmp_path / "tuned").values(), strict=True):
        assert finding.tuned.score == max(trial.value for trial in trials)
        assert finding.tuned.untuned == trials[0].value
        assert trials[0].params["training.lr"] == pytest.approx(1e-4), "the suite's own settings come first"

    read = load_suite(found.file)
    assert read == found.suite
    assert read.search.trials == 2
    assert Path(read.search.journal) == tmp_path / "tuned" / "journal.log"
    outcomes = bench(read, tmp_path / "runs")
    assert {outcome.status for outcome in outcomes} == {"finished"}
    for outcome in outcomes:
        tuned = read.methods[outcome.spec.method == "audio_only"].tuned[outcome.spec.fold]
        assert outcome.spec.training.lr == tuned.training["lr"]
        assert outcome.spec.training.max_epochs == 2
        assert tuned.options.items() <= outcome.spec.options.items()
    assert len({outcome.spec.training for outcome in outcomes}) > 1
    bench(folds.model_copy(update={"methods": folds.methods[:1]}), tmp_path / "runs")
    tables = read_leaderboard(tmp_path / "runs")
    assert sorted(tables.table.groupby("condition")["runs"].apply(list)) == [[3], [3, 3]]
    tuned_table, untuned_table = sorted(tables.captions.values(), key=lambda lines: "trials" not in "".join(lines))
    assert (
        "hyper-parameters (dropout, lr, weight_decay, width): 2 trials per method and fold, chosen on its validation"
        in (tuned_table[1])
    )
    assert "AdamW 0.0001" in untuned_table[1]
    assert "AdamW," in tuned_table[1]
    csv = pd.read_csv(io.StringIO(tables.to_csv()))
    assert {"search" in json.loads(training) for training in csv["training"]} == {True, False}

    # A run can be made again from what it keeps.
    result = json.loads((outcomes[0].folder / "result.json").read_text())
    again = [job.spec.fingerprint for job in expand(Suite(**result["suite"]))]
    assert outcomes[0].spec.fingerprint in again


def test_the_test_split_has_no_part_in_it(
    quick: Suite, rows: list[dict], write_manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: set[int] = set()
    original = _Split.__getitem__

    def spy(self: _Split, item: int) -> object:
        read.update(self.indices[item : item + 1])
        return original(self, item)

    def refuse(self: EmotionDataModule) -> None:
        raise AssertionError("the test split is read")

    monkeypatch.setattr(_Split, "__getitem__", spy)
    monkeypatch.setattr(EmotionDataModule, "test_dataloader", refuse)
    found = tune(quick, tmp_path / "one", 3)
    assert read == set(range(48)), "train and val are u0 to u47"
    assert {path.name for path in (tmp_path / "one").rglob("*") if path.is_file() and path.parent.name != ".locks"} == {
        "journal.log",
        "suite.yaml",
    }
    kept = [t for trials in studies(tmp_path / "one").values() for t in trials]
    assert all(set(t.user_attrs) == {"point"} and len(t.intermediate_values) <= 2 for t in kept)

    labels = ["glad", "calm", "cross"]
    for number, row in enumerate(rows):
        if row["split"] == "test":
            row |= {"text": f"nonsense {number}", "label": labels[labels.index(row["label"]) - 1], "audio": rows[0]["audio"]}
            row["audio"] = f"audio/u{59 + 48 - number}.wav"
    write_manifest(tmp_path, rows)
    other = tune(quick, tmp_path / "other", 3)
    assert other.findings[0].tuned.conditions != found.findings[0].tuned.conditions
    assert chosen(other) == chosen(found)


class Killed(BaseException):
    """What ends a process is no Exception."""


def dying_at(monkeypatch: pytest.MonkeyPatch, *calls: int) -> Callable[[], int]:
    """Make training die at some of its calls; returns how to count the calls."""
    original, count = tuning.fit, 0

    def fit(*arguments: object, **options: object) -> object:
        nonlocal count
        count += 1
        if count - 1 in calls:
            raise Killed
        return original(*arguments, **options)

    monkeypatch.setattr(tuning, "fit", fit)
    return lambda: count


def test_a_search_goes_on_to_the_result_it_would_have_had(quick: Suite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = quick.model_copy(update={"methods": quick.methods[1:]})
    whole = tune(one, tmp_path / "whole", 12)  # past the sampler's ten random ones
    calls = dying_at(monkeypatch, 4, 5, 11)
    for _ in range(3):
        with pytest.raises(Killed):
            tune(one, tmp_path / "cut", 12)
    resumed = tune(one, tmp_path / "cut", 12)
    assert calls() == 12 + 3
    (before,), (after,) = (list(studies(tmp_path / name).values()) for name in ("whole", "cut"))
    assert [(t.params, t.value) for t in before] == [(t.params, t.value) for t in after if t.state != TrialState.FAIL]
    assert chosen(resumed) == chosen(whole)
    # More trials go on from there, and fewer give what they would have given.
    assert len({json.dumps(t.params, sort_keys=True) for t in before}) == 12
    tune(one, tmp_path / "cut", 13)
    assert calls() == 12 + 3 + 1
    (three,) = tune(one, tmp_path / "cut", 3).findings
    assert three.tuned.score == max(t.value for t in before[:3])
    assert calls() == 12 + 3 + 1


def test_a_trial_at_which_processes_keep_dying_has_failed(quick: Suite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = quick.model_copy(update={"methods": quick.methods[:1]})
    dying_at(monkeypatch, 1, 2, 3)
    for _ in range(3):
        with pytest.raises(Killed):
            tune(one, tmp_path / "out", 3)
    (finding,) = tune(one, tmp_path / "out", 3).findings
    assert finding.errors == ["MemoryError: 3 processes died at this trial, perhaps for want of memory"]
    assert finding.tuned.failed == 1


def test_a_trial_that_a_scheduler_ends_has_not_died(quick: Suite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGTERM is an exit, as Lightning makes of it in a fit."""
    one = quick.model_copy(update={"methods": quick.methods[:1]})
    monkeypatch.setattr(sys.modules[__name__], "Killed", SystemExit)
    dying_at(monkeypatch, 1, 2, 3)
    for _ in range(3):
        with pytest.raises(SystemExit):
            tune(one, tmp_path / "out", 2)
    (finding,) = tune(one, tmp_path / "out", 2).findings
    assert finding.errors == []
    assert finding.tuned.failed == 0


@pytest.mark.parametrize("torn", [b'{"op_code":4,"work', b"{", b"\0" * 7, b'{"op_code":4}'])
def test_half_a_line_is_cut_off_before_the_next_one(tmp_path: Path, torn: bytes) -> None:
    """Of another process, that died after this one has opened the journal."""
    journal = tmp_path / "journal.log"
    storage = tuning._open(journal)
    optuna.create_study(storage=storage, study_name="one").ask()
    with journal.open("ab") as file:
        file.write(torn)
    optuna.load_study(storage=storage, study_name="one").ask()
    assert torn not in journal.read_bytes().splitlines()
    assert [len(trials) for trials in studies(tmp_path).values()] == [2]
    journal.write_bytes(torn)
    optuna.create_study(storage=tuning._open(journal), study_name="two")
    assert list(studies(tmp_path)) == ["two"]


def test_a_search_survives_a_disk_that_fills_up(quick: Suite, tmp_path: Path) -> None:
    one = quick.model_copy(update={"methods": quick.methods[:1]})
    whole = tune(one, tmp_path / "whole", 3)
    tune(one, tmp_path / "cut", 2)
    journal = tmp_path / "cut" / "journal.log"
    before = journal.read_bytes()
    journal.write_bytes(before[:-20])  # within the score of the second trial, which is then tried again
    assert chosen(tune(one, tmp_path / "cut", 3)) == chosen(whole)

    lines = before.splitlines(keepends=True)
    journal.write_bytes(b"".join([*lines[:4], lines[4][:9], *lines[5:]]))
    with pytest.raises(tuning.results.ResultError, match=r"journal.log, line 5: damaged; cut the file before this line"):
        tune(one, tmp_path / "cut", 3)
    journal.write_bytes(b"".join(lines[:4]))
    assert chosen(tune(one, tmp_path / "cut", 3)) == chosen(whole)


def test_processes_share_a_search_and_survive_each_other(quick: Suite, tmp_path: Path) -> None:
    """Another process is at the first method when this one begins with the second, is killed, and leaves the rest to this one."""
    asked, out = tmp_path / "asked.yaml", tmp_path / "tuned"
    asked.write_text(yaml.safe_dump(quick.model_dump(mode="json")))
    command = [sys.executable, "-m", "benchmarks.cli", "tune", asked, "--trials", "5", "--out", out, "--threads", "1"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as other:
        deadline = time.monotonic() + 120
        while not ((out / "journal.log").exists() and len(_finished(out)) >= 2):
            assert time.monotonic() < deadline
            assert other.poll() is None
            time.sleep(0.2)
        reports = []
        found = tune(quick, out, 5, report=lambda *what: (reports.append(what), other.kill()))
    assert Counter(name for name, _ in _finished(out)) == dict.fromkeys(studies(out), 5)
    assert len(studies(out)) == 2
    assert len([line for _, _, line in reports if ":" in line]) <= 8, "what the other one finished isn't done again"
    assert reports[-1][:2] == (10, 10)
    assert chosen(found) == chosen(tune(quick, tmp_path / "alone", 5))


def _finished(out: Path) -> list[tuple[str, int]]:
    return [
        (name, trial.number)
        for name, trials in studies(out).items()
        for trial in trials
        if trial.state in {TrialState.COMPLETE, TrialState.PRUNED}
    ]


def test_failed_trials_are_told_and_counted(quick: Suite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = tuning.fit

    def fit(job: tuning.Job, *arguments: object, **options: object) -> object:
        if job.spec.method == "text_only" and job.spec.training.lr > 5e-4:
            raise RuntimeError("out of memory")
        return original(job, *arguments, **options)

    monkeypatch.setattr(tuning, "fit", fit)
    found = tune(quick, tmp_path / "out", 5)
    first, second = found.findings
    assert 0 < first.tuned.failed == len(first.errors) < 5
    assert set(first.errors) == {"RuntimeError: out of memory"}
    assert first.tuned.training["lr"] <= 5e-4
    assert second.tuned.failed == 0
    assert load_suite(found.file).methods[0].tuned[0].failed == first.tuned.failed

    hopeless = quick.model_copy(update={"search": Search(trials=2, space={"training.lr": Range(low=2e-3, high=1e-2)})})
    hopeless = hopeless.model_copy(update={"training": Training(max_epochs=1, lr=5e-3)})
    with pytest.raises(SuiteError, match=r"every trial of text_only \(default\) fold 0 failed, .* out of memory"):
        tune(hopeless, tmp_path / "hopeless")
    assert not (tmp_path / "hopeless" / "suite.yaml").exists()


def test_a_trial_worse_than_the_median_is_stopped(tmp_path: Path) -> None:
    study = optuna.create_study(direction="maximize", pruner=optuna.pruners.MedianPruner(n_warmup_steps=2))
    trainer = SimpleNamespace(state=SimpleNamespace(fn="fit"), callback_metrics={}, current_epoch=0)

    def train(scores: list[float]) -> int:
        trial = study.ask()
        callback = tuning._Pruning(trial, "val/uar")
        for trainer.current_epoch, score in enumerate(scores):
            trainer.callback_metrics["val/uar"] = score
            try:
                callback.on_validation_end(trainer, None)
            except optuna.TrialPruned:
                study.tell(trial, state=TrialState.PRUNED)
                return trainer.current_epoch
        study.tell(trial, max(scores))
        return -1

    for _ in range(5):
        assert train([0.5] * 5) == -1
    assert train([0.1] * 5) == 2, "not in the first two epochs"
    assert train([0.6, 0.1, 0.1, 0.1, 0.1]) == -1, "the best epoch so far counts, as it does in selection"


def test_the_space_is_the_same_four_numbers_for_every_method() -> None:
    for name in zoo.list_methods():
        point = tuning._own_point(name, {}, Suite(), SPACE)
        assert list(point) == ["dropout", "training.lr", "training.weight_decay", "width"], name
        for number in (v for values in SPACE.values() if isinstance(values, Range) for v in (values.low, values.high)):
            assert number >= 0
        for factor in (0.5, 2):
            options, training = tuning._changes(name, {}, {"width": factor, "dropout": 0.1, "training.lr": 0.2})
            assert training == {"lr": 0.2}
            assert options.pop("dropout") == 0.1
            assert options
            assert set(options) <= set(WIDTHS)
            for option, value in options.items():
                assert value == pytest.approx(zoo.method_options(name)[option] * factor, rel=0.1), (name, option)
            MethodSpec(method=name, options=options).checked()
            assert not tuning._changes(name, {}, {"width": 1})[0]


@pytest.mark.parametrize("name", sorted({"mer_han", "cross_attention", "hcam", "hbaf", "bc_lstm", "audio_only"}))
@pytest.mark.parametrize("factor", [0.5, 2])
def test_narrower_and_wider_methods_can_be_built(name: str, factor: float) -> None:
    """Widths stay even and divisible by the heads, whatever the suite makes of them."""
    small = {option: 12 for option in WIDTHS if option in zoo.method_options(name)} | (
        {"heads": 3} if "heads" in zoo.method_options(name) else {}
    )
    options, _ = tuning._changes(name, small, {"width": factor})
    zoo.create(name, audio_dim=6, text_dim=6, num_classes=3, **{**small, **options})


def test_a_space_of_ones_own(quick: Suite, tmp_path: Path) -> None:
    path = tmp_path / "suite.yaml"
    values = quick.model_dump(mode="json", exclude={"search"})
    space = {"training.lr": {"low": 1e-4, "high": 1e-3, "log": True}, "layers": [1, 2], "hidden": {"low": 4, "high": 6}}
    path.write_text(yaml.safe_dump(values | {"training": {"lr": 0.5, "max_epochs": 1}, "search": {"space": space, "trials": 3}}))
    found = tune(load_suite(path), tmp_path / "out")
    trials = [t for of_study in studies(tmp_path / "out").values() for t in of_study]
    assert len(trials) == 6
    assert "training.lr" not in trials[0].params, "the suite's own value lies outside, so the sampler doesn't learn of it"
    assert all(1e-4 <= t.params["training.lr"] <= 1e-3 for t in trials if t.number)
    assert all(t.params["layers"] in {1, 2} and t.params["hidden"] in {4, 5, 6} for t in trials if t.number)
    assert found.suite.search.space["layers"] == (1, 2)


@pytest.mark.parametrize(
    ("changes", "kind", "message"),
    [
        ({"space": {"training.batch_size": [16]}}, SuiteError, "training.batch_size belongs to the budget, .* the same for all"),
        (
            {"space": {"lr": {"low": 0.1, "high": 1}}},
            UnknownNameError,
            "no searched option is called 'lr'",
        ),
        ({"space": {"dropuot": [0.1]}}, UnknownNameError, "did you mean 'dropout'"),
        ({"space": {"dropout": ["much"]}}, SuiteError, "text_only.dropout is 'much'"),
        ({"space": {"hidden": {"low": 1.5, "high": 3}}}, SuiteError, "hidden of text_only takes whole numbers"),
        ({"space": {"width": [0, 1]}}, SuiteError, "width is .* it takes positive numbers"),
        ({"space": {"rule": ["mean"]}}, UnknownNameError, "no searched option is called 'rule'"),
    ],
)
def test_a_space_that_cannot_be_searched(quick: Suite, tmp_path: Path, changes: dict, kind: type, message: str) -> None:
    with pytest.raises(kind, match=message):
        tune(quick.model_copy(update={"search": Search(**changes)}), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_else_is_refused(quick: Suite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    methods = [MethodSpec(method="text_only"), MethodSpec(method="late_average")]
    lonely = quick.model_copy(update={"methods": methods, "search": Search(space={"rule": ("mean", "product")})})
    with pytest.raises(SuiteError, match="text_only has none of rule"):
        tune(lonely, tmp_path)
    with pytest.raises(SuiteError, match="paper's hyper-parameters"):
        tune(quick.model_copy(update={"track": "published"}), tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(tuning.results.ResultError, match=r"the search can't go on in .* name another folder"):
        tune(quick, tmp_path / "file" / "out", 1)
    monkeypatch.setattr(tuning, "find_spec", lambda _: None)
    with pytest.raises(ExecutionError, match=r"pip install 'fusion-zoo\[tune\]'"):
        tune(quick, tmp_path)


def test_a_tuned_suite_is_for_what_it_was_searched_on(quick: Suite, tmp_path: Path, manifest: Path) -> None:
    """Elsewhere it might have been searched on what is tested now."""
    found = tune(quick, tmp_path / "out", 2)
    expand(found.suite)
    longer = {"training": replace(quick.training, max_epochs=3)}
    for changes in ({"protocol": "loso-speaker@1"}, {"audio": "mfcc(n=14, hop_ms=20.0)"}, longer):
        with pytest.raises(
            SuiteError, match=r"hyper-parameters of text_only were searched .* on split@1; .* Run 'fusion-zoo tune'"
        ):
            expand(found.suite.model_copy(update=changes))
    for setting in ("training.lr=0.1", "text_only.dropout=0.1"):
        with pytest.raises(SuiteError, match=f"--set {setting}: this suite has the values that a search chose"):
            load_suite(found.file, {}, [setting])
    with pytest.raises(SuiteError, match="--track published: this suite has the values that a search chose"):
        load_suite(found.file, {"track": "published"})
    assert chosen(tune(load_suite(found.file), tmp_path / "out")) == chosen(found), "a tuned suite can be searched again"


def test_tables_of_tuned_runs() -> None:
    spec = {
        **{"track": "controlled", "corpus": "c", "protocol": "p", "precision": "32-true", "max_seconds": 30.0, "classes": ["a"]},
        **{"data": "d", "audio": {}, "text": {}, "options": {"hidden": 8}, "training": {"lr": 0.1, "max_epochs": 4}},
    }
    search = {"trials": 20, "space": {"training.lr": [0.1, 0.2], "hidden": [8, 4]}, "options": {}}
    tuned = spec | {"search": search}
    other_fold = tuned | {"options": {"hidden": 4}, "training": {"lr": 0.2, "max_epochs": 4}}
    assert condition_of(tuned) == condition_of(other_fold)
    assert row_options(tuned) == row_options(other_fold) == "{}"
    for apart in (
        spec,
        spec | {"search": search | {"trials": 21}},
        spec | {"search": search | {"space": {"training.lr": [0.1]}}},
        tuned | {"training": {"lr": 0.1, "max_epochs": 5}},
    ):
        assert condition_of(apart) != condition_of(tuned)
    assert condition_of(spec) == condition_of(spec | {"search": None}), "older results have no such key"
    assert row_options(spec) == '{"hidden": 8}'
    assert _key(spec) == _key(spec | {"search": None})


def test_the_command(quick: Suite, tmp_path: Path) -> None:
    suite, out = tmp_path / "suite.yaml", tmp_path / "runs" / "tuned"
    suite.write_text(yaml.safe_dump(quick.model_dump(mode="json")))
    command = ["tune", suite, "--trials", "2", "--out", out]
    result = CliRunner().invoke(app, [str(word) for word in command])
    assert result.exit_code == 0, result.output
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in result.stdout.splitlines() if line.startswith("|")]
    assert lines[0] == ["method", "variant", "fold", "trials", "pruned", "failed", "best", "gain"]
    assert [line[:6] for line in lines[2:]] == [
        ["text_only", "default", "0", "2", "0", "0"],
        ["audio_only", "hidden=4", "0", "2", "0", "0"],
    ]
    assert all(float(line[7]) >= 0 for line in lines[2:])
    assert f"fusion-zoo bench {out / 'suite.yaml'}" in result.stdout
    again = CliRunner().invoke(app, ["bench", str(out / "suite.yaml"), "--seeds", "1", "--out", str(tmp_path / "runs")])
    assert again.exit_code == 0, again.output
    assert "2 trials per method and fold" in again.stdout
    refused = CliRunner().invoke(app, ["ablate", "late_average", str(out / "suite.yaml")])
    assert refused.exit_code == 2
    assert "take an untuned suite" in refused.stderr
