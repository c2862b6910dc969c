"""Experiment tracking: the loggers that were asked for, and no influence on the result."""

from pathlib import Path

import pandas as pd
import pytest

from benchmarks import Suite, bench
from benchmarks.runner import expand
from benchmarks.spec import Execution, ExecutionError
from zoo.base import FusionModule


@pytest.fixture
def one(suite: Suite) -> Suite:
    return suite.model_copy(update={"seeds": (0,), "methods": suite.methods[:1]})


def test_csv_beside_tensorboard(one: Suite, tmp_path: Path) -> None:
    execution = Execution(loggers=("tensorboard", "csv"))
    (outcome,) = bench(one, tmp_path / "runs", execution=execution)
    metrics = pd.read_csv(outcome.folder / "csv" / "metrics.csv")
    assert metrics["val/uar"].count() == 3  # two epochs, and the selected one again
    assert metrics["test/uar"].count() == 1
    assert list((outcome.folder / "tensorboard").glob("events.*"))
    assert outcome.spec == expand(one)[0].spec, "loggers tell no runs apart"
    assert bench(one, tmp_path / "runs")[0].status == "cached"


def test_csv_alone_keeps_no_pictures(one: Suite, tmp_path: Path) -> None:
    (outcome,) = bench(one, tmp_path / "runs", execution=Execution(loggers=("csv",)))
    assert outcome.status == "finished"
    assert {path.name for path in (outcome.folder / "csv").iterdir()} == {"metrics.csv", "hparams.yaml"}
    assert not (outcome.folder / "tensorboard").exists()


def test_mlflow(suite: Suite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow")
    from zoo.text_only import TextOnly

    def broken(self: FusionModule, *_: object, **__: object) -> None:
        raise RuntimeError("planted")

    monkeypatch.setattr(TextOnly, "forward", broken)
    store = (tmp_path / "mlruns").as_uri()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # its successor needs a database's packages
    suite = suite.model_copy(update={"seeds": (0,)})
    outcomes = bench(suite, tmp_path / "runs", execution=Execution(loggers=("mlflow",)))
    client = mlflow.MlflowClient(store)
    found = {run.info.run_name: run for run in client.search_runs([client.get_experiment_by_name("fusion-zoo").experiment_id])}
    assert {name: run.info.status for name, run in found.items()} == {
        outcomes[0].spec.run_id: "FAILED",
        outcomes[1].spec.run_id: "FINISHED",
    }
    run = found[outcomes[1].spec.run_id]
    assert run.data.params["options/hidden"] == "4"
    assert run.data.params["training/batch_size"] == "16"
    assert {"val/uar", "test/uar", "train/loss"} <= set(run.data.metrics)
    assert {file.path for file in client.list_artifacts(run.info.run_id)} == {"val-confusion.png", "test-confusion.png"}


def test_wandb_offline(suite: Suite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    outcomes = bench(suite.model_copy(update={"seeds": (0,)}), tmp_path / "runs", execution=Execution(loggers=("wandb",)))
    assert [outcome.status for outcome in outcomes] == ["finished"] * 2
    kept = list((tmp_path / "runs" / "wandb").glob("offline-run-*/*.wandb"))
    assert len(kept) == 2, "each run is one of W&B's"


def test_mlflow_without_a_place(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mlflow")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(ExecutionError, match="set MLFLOW_TRACKING_URI to your server"):
        Execution(loggers=("mlflow",))
