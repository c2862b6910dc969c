"""Classifiers kept as tensors against scikit-learn's own predictions."""

import numpy as np
import pytest
import torch
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.naive_bayes import GaussianNB
from sklearn.svm import LinearSVC

from zoo.nn.classical import CLASSICAL, classical_posterior, fit_classical


def data(classes: list[int], count: int = 60, width: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    labels = torch.tensor(classes).repeat(count)[:count]
    vectors = 3 + torch.randn(count, width, generator=generator) * torch.arange(1.0, width + 1)
    return vectors + labels[:, None], labels


@pytest.mark.parametrize("balanced", [False, True])
@pytest.mark.parametrize("classes", [[0, 2], [0, 1, 3, 0]])
@pytest.mark.parametrize("name", ["gnb", "forest", "logistic"])
def test_the_tensors_predict_what_scikit_learn_does(name: str, classes: list[int], balanced: bool) -> None:
    vectors, labels = data(classes)
    fitted = fit_classical(name, vectors, labels, torch.arange(60), balanced, trees=9, seed=4)
    kinds, counts = np.unique(labels.numpy(), return_counts=True)
    weight = "balanced" if balanced else None
    model = {
        "gnb": GaussianNB(priors=np.full(len(kinds), 1 / len(kinds)) if balanced else counts / 60, var_smoothing=1e-2),
        "forest": RandomForestClassifier(9, min_samples_leaf=2, class_weight=weight, random_state=4),
        "logistic": LogisticRegression(C=0.1, max_iter=300, class_weight=weight),
    }[name]
    rows = vectors.numpy()
    mean, deviation = rows.mean(0), rows.std(0)
    model.fit((rows - mean) / deviation, labels.numpy())
    fresh = 3 + 4 * torch.randn(40, 5, generator=torch.Generator().manual_seed(1))
    expected = np.zeros((40, 4))
    expected[:, kinds] = model.predict_proba((fresh.numpy() - mean) / deviation)
    found = classical_posterior(name, fitted, fresh.reshape(8, 5, 5), 4)
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found.reshape(40, 4).numpy(), expected, atol=1e-5)


def test_the_svm_is_one_hyperplane_per_class_with_a_sigmoid_of_held_out_scores() -> None:
    vectors, labels = data([0, 1, 3])
    vectors[:, :4] += 2 * torch.eye(4)[labels]
    fitted = fit_classical("svm", vectors, labels, torch.arange(60), seed=2)
    rows = ((vectors - vectors.mean(0)) / vectors.std(0, unbiased=False)).numpy()
    for k, c in enumerate([0, 1, 3]):
        model = LinearSVC(C=0.01, class_weight="balanced", random_state=2, dual="auto").fit(rows, labels.numpy() == c)
        np.testing.assert_allclose(fitted["coef"][k].numpy(), model.coef_[0], atol=1e-4)
        own = LogisticRegression(class_weight="balanced").fit(model.decision_function(rows)[:, None], labels.numpy() == c)
        assert fitted["slope"][k] > 0
        assert abs(fitted["slope"][k].item() - own.coef_[0, 0]) > 1e-3, "the sigmoid must not be that of the fitting scores"
    scores = torch.as_tensor(rows).double() @ fitted["coef"].double().T + fitted["intercept"]
    single = 1 / (1 + torch.exp(-(fitted["slope"] * scores + fitted["offset"])))
    found = classical_posterior("svm", fitted, vectors, 4)
    np.testing.assert_allclose(found[:, [0, 1, 3]].numpy(), (single / single.sum(1, keepdim=True)).numpy(), atol=1e-5)
    assert not found[:, 2].any()


@pytest.mark.parametrize("name", CLASSICAL)
def test_a_class_of_one_row_and_a_constant_number_are_survived(name: str) -> None:
    vectors, labels = data([0, 1])
    labels[0], vectors[:, 2] = 2, 7.0
    found = classical_posterior(name, fit_classical(name, vectors, labels, torch.arange(60) // 2), vectors, 4)
    assert found.isfinite().all()
    torch.testing.assert_close(found.sum(-1), torch.ones(60))
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(
            classical_posterior(name, fit_classical(name, vectors, labels, torch.arange(60)), vectors, 4).sum(-1), torch.ones(60)
        )


def test_an_unknown_classifier_is_named() -> None:
    with pytest.raises(ValueError, match="'knn' is no classical classifier; there are svm, gnb, forest, logistic"):
        fit_classical("knn", *data([0, 1]), torch.arange(60))


def test_scores_that_tell_nothing_give_the_share_of_the_class() -> None:
    generator, slopes = torch.Generator().manual_seed(0), []
    for seed in range(10):
        vectors, labels = torch.randn(30, 8, generator=generator), torch.tensor([0, 0, 1]).repeat(10)
        fitted = fit_classical("svm", vectors, labels, torch.arange(30), balanced=False, seed=seed)
        assert (fitted["slope"] >= 0).all()
        slopes += fitted["slope"].tolist()
        if not fitted["slope"].any():
            torch.testing.assert_close(classical_posterior("svm", fitted, vectors, 2), torch.tensor([[2 / 3, 1 / 3]]).expand(30, 2))
    assert 0.0 in slopes
