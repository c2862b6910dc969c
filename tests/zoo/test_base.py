"""Multi-label losses and scores against slow, plain versions."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score, f1_score, roc_auc_score

from datamodules.batch import IGNORED, Batch, Item, collate_dialogues, collate_utterances
from zoo import create
from zoo.base import ClassROCAUC, Output, score_metrics

CLASSES = 4


def labelled(rows: list[list[float]]) -> list[Item]:
    return [
        Item(np.ones((2, 3), np.float32), np.ones((2, 3), np.float32), np.array(row, np.float32), str(n))
        for n, row in enumerate(rows)
    ]


def test_the_loss_is_binary_cross_entropy_per_class_over_what_is_labelled() -> None:
    rows = [[1.0, 0.0], [0.0, 0.0], [1.0, 1.0]]
    context = [float(IGNORED)] * 2
    items = labelled([rows[0], context, rows[1], rows[2]])
    batch = collate_dialogues([items[:3], items[3:]])  # the second dialogue is padded by two turns
    assert batch.label.shape == (2, 3, 2)
    method = create("text_only", audio_dim=3, text_dim=3, num_classes=2)
    method.use_task("multilabel")
    method.class_weight = torch.tensor([0.5, 3.0])
    logits = torch.randn(2, 3, 2, generator=torch.Generator().manual_seed(0))
    expected = []
    for place, row in zip([(0, 0), (0, 2), (1, 0)], rows, strict=True):
        for number, weight in enumerate([0.5, 3.0]):
            p = 1 / (1 + math.exp(-float(logits[place][number])))
            expected.append(-(weight * math.log(p) if row[number] else math.log(1 - p)))
    assert method.loss(Output(logits), batch).item() == pytest.approx(np.mean(expected), rel=1e-5)


class _Counted:
    """A trainer whose data have 6 and 9 utterances without, and 2 and 0 with each class."""

    class datamodule:  # noqa: N801
        class_counts = torch.tensor([[6, 9], [2, 0]])


def test_positives_are_weighed_by_negatives_over_positives(monkeypatch: pytest.MonkeyPatch) -> None:
    method = create("text_only", audio_dim=3, text_dim=3, num_classes=2)
    method.use_task("multilabel")
    monkeypatch.setattr(type(method), "trainer", _Counted)
    method.on_fit_start()
    assert method.class_weight.tolist() == [3.0, 9.0]


def test_multilabel_scores_are_scikit_learns_over_several_batches() -> None:
    random = np.random.default_rng(0)
    truth = (random.random((90, CLASSES)) < [0.5, 0.2, 0.05, 0.9]).astype(int)
    guesses = np.clip(0.3 * truth + random.random((90, CLASSES)) * 0.7, 0, 1).astype(np.float32)
    guesses[:, 2] = 0.1  # said of nobody: a weighted accuracy of one half, and a high weighted F1
    metrics = score_metrics(CLASSES, "multilabel")
    for part in np.array_split(np.arange(90), 4):
        metrics.update(torch.from_numpy(guesses[part]), torch.from_numpy(truth[part]))
    found = {name: value.item() for name, value in metrics.compute().items()}
    pairs = list(zip(truth.T, guesses.T, strict=True))
    assert found == pytest.approx(
        {
            "mean_weighted_accuracy": np.mean([balanced_accuracy_score(t, g > 0.5) for t, g in pairs]),
            "mean_weighted_f1": np.mean([f1_score(t, g > 0.5, average="weighted") for t, g in pairs]),
            "mean_roc_auc": np.mean([roc_auc_score(t, g) for t, g in pairs]),
        },
        abs=1e-6,
    )


@pytest.mark.filterwarnings("ignore:No positive samples")
def test_a_class_that_never_occurs_has_its_specificity_and_no_area() -> None:
    truth = torch.tensor([[1, 0], [0, 0], [1, 0], [0, 0]])
    guesses = torch.tensor([[0.9, 0.1], [0.2, 0.8], [0.4, 0.1], [0.1, 0.3]])
    found = score_metrics(2, "multilabel")(guesses, truth)
    assert found["mean_weighted_accuracy"].item() == pytest.approx(((0.5 + 1) / 2 + 0.75) / 2)
    assert found["mean_roc_auc"].item() == 1.0
    assert ClassROCAUC(2)(guesses, truth).isnan().tolist() == [False, True]


def test_context_turns_are_not_predicted(tmp_path: Path) -> None:
    """The scores and stored probabilities of a dialogue method leave out turns that don't count."""
    items = labelled([[1.0, 0.0], [float(IGNORED)] * 2, [0.0, 1.0]])
    batch = collate_dialogues([items])
    method = create("bc_lstm", audio_dim=3, text_dim=3, num_classes=2, hidden=4).eval()
    method.use_task("multilabel")
    method.log = method.log_dict = lambda *_, **__: None  # type: ignore[method-assign]
    method.test_step(batch, 0)
    assert set(method.test_probabilities) == {"0", "2"}
    torch.testing.assert_close(method.test_probabilities["2"], method(batch).logits[0, 2].sigmoid())
    assert method.confusion.compute().sum().item() == 2 * 2


def test_a_batch_of_utterances_has_a_row_of_labels_each() -> None:
    batch: Batch = collate_utterances(labelled([[1.0, 0.0, 1.0], [0.0, 0.0, 0.0]]))
    assert batch.label.dtype == torch.float32
    assert batch.label.tolist() == [[1.0, 0.0, 1.0], [0.0, 0.0, 0.0]]
