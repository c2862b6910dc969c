"""The baselines are what their names say, and only the validation split chooses."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import typer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score
from sklearn.preprocessing import StandardScaler
from typer.testing import CliRunner

import benchmarks.text_baseline
from benchmarks.text_baseline import PENALTIES, fit_and_test
from datamodules.protocols import Fold, Plan

CLASSES = ("calm", "cross", "glad")


@pytest.fixture
def data() -> tuple[np.ndarray, pd.DataFrame, Plan]:
    """90 utterances of uneven classes in six dimensions: 60 train, 15 val, 15 test."""
    random = np.random.default_rng(0)
    labels = np.array(CLASSES)[np.concatenate([np.arange(3), random.choice(3, 87, p=[0.6, 0.3, 0.1])])]
    means = random.normal(0, 1, (3, 6))
    vectors = (means[[CLASSES.index(label) for label in labels]] + random.normal(0, 1.5, (90, 6))).astype(np.float32)
    table = pd.DataFrame({"utterance_id": [f"u{n}" for n in range(90)], "label": labels})
    names = table["utterance_id"].tolist()
    fold = Fold(0, tuple(names[:60]), tuple(names[60:75]), tuple(names[75:]))
    return vectors, table, Plan("split@1", CLASSES, (fold,), headline="macro_f1")


def test_scores_are_those_of_scikit_learn(data: tuple[np.ndarray, pd.DataFrame, Plan]) -> None:
    vectors, table, plan = data
    found = dict(fit_and_test(vectors, table, plan, plan.folds[0]))
    truth, trained = table["label"][75:], table["label"][:60]
    majority, *regressions = found.items()
    assert majority[0] == "majority"
    assert majority[1]["war"] == pytest.approx(np.mean(truth == trained.mode()[0]))
    scale = StandardScaler().fit(vectors[:60])
    for (name, scores), weights in zip(regressions, (None, "balanced"), strict=True):
        best, chosen = -1.0, None
        for penalty in PENALTIES:
            model = LogisticRegression(C=penalty, class_weight=weights, max_iter=2000).fit(scale.transform(vectors[:60]), trained)
            guesses = model.predict(scale.transform(vectors[60:75]))
            score = f1_score(
                table["label"][60:75], guesses, average="macro", labels=sorted(set(table["label"][60:75]) | set(guesses))
            )
            if score > best:
                best, chosen, tested = score, penalty, model.predict(scale.transform(vectors[75:]))
        assert f"class weights {weights or 'none'}, C = {chosen:g} " in name
        assert scores["war"] == pytest.approx(accuracy_score(truth, tested))
        assert scores["uar"] == pytest.approx(balanced_accuracy_score(truth, tested))
        assert scores["weighted_f1"] == pytest.approx(f1_score(truth, tested, average="weighted"))


def test_test_labels_choose_nothing(data: tuple[np.ndarray, pd.DataFrame, Plan]) -> None:
    vectors, table, plan = data
    before = [name for name, _ in fit_and_test(vectors, table, plan, plan.folds[0])]
    table.loc[75:, "label"] = table["label"].tolist()[:74:-1]
    vectors[75:] = 0
    assert [name for name, _ in fit_and_test(vectors, table, plan, plan.folds[0])] == before


def test_command(manifest: Path, tiny_bert: str) -> None:
    app = typer.Typer()
    app.command()(benchmarks.text_baseline.main)
    arguments = ["--corpus", str(manifest), "--text", f"hidden_states(checkpoint={tiny_bert!r})"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert "split@1" in lines[0]
    assert lines[1] == "fold 0: weighted_f1, macro_f1, war, uar"
    assert lines[2].split() == ["16.7", "16.7", "33.3", "33.3", "majority"]
    assert all(line.split()[:4] == ["100.0"] * 4 for line in lines[3:5])
    refused = CliRunner().invoke(app, [*arguments, "--protocol", "mosei6@1"])
    assert refused.exit_code == 2
    assert "manifest is multi-label; this baseline is for one label per utterance" in refused.stderr
