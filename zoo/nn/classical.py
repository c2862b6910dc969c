"""Classifiers that scikit-learn fits and PyTorch applies: what was fitted is kept as plain tensors.

Tensors go into a checkpoint that loads without unpickling code, run on the model's device, and don't depend on the version of
scikit-learn that a checkpoint is opened with. Vectors are standardised first, with the fitting rows' mean and deviation.
A class without a fitting row gets the posterior zero; the caller's smoothing spreads some to it.
"""

import warnings
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

CLASSICAL = ("svm", "gnb", "forest", "logistic")

Fitted = dict[str, Tensor]
"""What was fitted. ``classes`` (K,) are the classes that had rows, in the order of all other tensors' class axis."""

_FOLDS = 3


def fit_classical(
    name: str, vectors: Tensor, labels: Tensor, groups: Tensor, balanced: bool = True, trees: int = 100, seed: int = 0
) -> Fitted:
    """Fit one classifier.

    Args:
        name: ``svm`` (linear, one class against the rest, with Platt's sigmoid on scores from held-out folds), ``gnb``
            (Gaussian naive Bayes), ``forest`` or ``logistic``.
        vectors: (n, D).
        labels: (n,), of at least two classes.
        groups: (n,): rows of one group, such as the segments of a clip, are held out together.
        balanced: Weigh rows by inverse class frequency, and give naive Bayes equal priors.
        trees: Of the forest.
        seed: Of the forest and the folds.
    """
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.naive_bayes import GaussianNB

    rows = vectors.float().cpu().numpy()
    mean, deviation = rows.mean(0), rows.std(0)
    deviation = np.where(deviation > 1e-6, deviation, 1).astype(np.float32)
    rows, y = (rows - mean) / deviation, labels.cpu().numpy()
    classes = np.unique(y)
    weight = "balanced" if balanced else None
    fitted: dict[str, Any] = {"mean": mean, "deviation": deviation, "classes": classes}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a posterior that is a little off is one of several
        if name == "gnb":
            priors = np.full(len(classes), 1 / len(classes)) if balanced else None
            # A class of one or two rows has next to no variance of its own.
            model = GaussianNB(priors=priors, var_smoothing=1e-2).fit(rows, y)
            fitted |= {"theta": model.theta_, "var": model.var_, "log_prior": np.log(model.class_prior_)}
        elif name == "logistic":
            model = LogisticRegression(C=0.1, max_iter=300, class_weight=weight).fit(rows, y)
            # For two classes scikit-learn keeps the second's row alone.
            both = [np.concatenate([0 * x, x]) if len(classes) == 2 else x for x in (model.coef_, model.intercept_)]
            fitted |= {"coef": both[0], "intercept": both[1]}
        elif name == "forest":
            model = RandomForestClassifier(trees, min_samples_leaf=2, class_weight=weight, random_state=seed, n_jobs=1)
            fitted |= _forest(model.fit(rows, y))
        elif name == "svm":
            parts = [_svm(rows, y == c, groups.cpu().numpy(), weight, seed) for c in classes]
            fitted |= {key: np.stack([part[key] for part in parts]) for key in parts[0]}
        else:
            raise ValueError(f"{name!r} is no classical classifier; there are {', '.join(CLASSICAL)}")
    return {key: torch.as_tensor(np.asarray(value)) for key, value in fitted.items()}


def _svm(
    rows: npt.NDArray[np.float32],
    positive: npt.NDArray[np.bool_],
    groups: npt.NDArray[np.int64],
    weight: str | None,
    seed: int,
) -> dict[str, Any]:
    """One class against the rest: the hyperplane, and the slope and offset of its sigmoid.

    Scores of fitting rows are too far from the boundary, so the sigmoid is fitted on scores of rows held out. A class with a
    single group can't be held out: then it is fitted on the scores of the fitting rows. Where held-out scores tell nothing they
    fall with the class by chance; the slope is then 0, not negative, and the posterior the share of the class.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.svm import LinearSVC

    def fit(kept: npt.NDArray[np.bool_]) -> LinearSVC:
        model = LinearSVC(C=0.01, class_weight=weight, random_state=seed, dual="auto")
        return model.fit(rows[kept], positive[kept])

    model = fit(np.ones(len(rows), bool))
    scores = model.decision_function(rows)
    sides = [np.unique(groups[positive == side]) for side in (True, False)]
    folds = min(_FOLDS, *(len(side) for side in sides))
    if folds > 1:
        random, fold = np.random.default_rng(seed), np.empty(groups.max() + 1, int)
        for side in sides:
            fold[random.permutation(side)] = np.arange(len(side)) % folds
        for number in range(folds):
            held = fold[groups] == number
            scores[held] = fit(~held).decision_function(rows[held])
    sigmoid = LogisticRegression(class_weight=weight).fit(scores[:, None], positive)
    slope, offset = sigmoid.coef_[0, 0], sigmoid.intercept_[0]
    if slope < 0:
        share = 0.5 if weight else positive.mean()
        slope, offset = 0.0, np.log(share / (1 - share))
    return {"coef": model.coef_[0], "intercept": model.intercept_[0], "slope": slope, "offset": offset}


def _forest(model: Any) -> dict[str, Any]:  # noqa: ANN401 - scikit-learn has no types
    """All trees' nodes in one row; a leaf is its own child."""
    trees = [estimator.tree_ for estimator in model.estimators_]
    starts = np.cumsum([0] + [tree.node_count for tree in trees[:-1]])
    children = []
    for side in ("children_left", "children_right"):
        own = [np.arange(tree.node_count) for tree in trees]
        child = [np.where(getattr(tree, side) < 0, node, getattr(tree, side)) for tree, node in zip(trees, own, strict=True)]
        children.append(np.concatenate([c + start for c, start in zip(child, starts, strict=True)]).astype(np.int32))
    values = np.concatenate([tree.value[:, 0] for tree in trees])
    return {
        "root": starts,
        "children": np.stack(children, axis=1),
        "feature": np.concatenate([tree.feature for tree in trees]).clip(0).astype(np.int32),
        "threshold": np.concatenate([tree.threshold for tree in trees]),
        "value": (values / values.sum(1, keepdims=True)).astype(np.float32),
        "depth": max(tree.max_depth for tree in trees),
    }


def classical_posterior(name: str, fitted: Fitted, vectors: Tensor, num_classes: int) -> Tensor:
    """Posteriors of all classes: (..., D) -> (..., C), in at least float32."""
    dtype = torch.promote_types(vectors.dtype, torch.float32)
    with torch.autocast(vectors.device.type, enabled=False):
        x = (vectors.flatten(0, -2).to(dtype) - fitted["mean"]) / fitted["deviation"]  # (n, D)
        found = _posterior(name, fitted, x).to(dtype)  # (n, K)
    full = x.new_zeros(len(x), num_classes).index_copy(1, fitted["classes"], found)
    return full.reshape(*vectors.shape[:-1], num_classes)


def _posterior(name: str, fitted: Fitted, x: Tensor) -> Tensor:
    """(n, D) -> (n, K)."""
    if name == "forest":
        feature, threshold, children = fitted["feature"].long(), fitted["threshold"], fitted["children"].flatten().long()
        trees = len(fitted["root"])
        node = fitted["root"].repeat(len(x))  # (n trees,); flat, because that is the fast way to look things up
        row = torch.arange(len(x), device=x.device).repeat_interleave(trees) * x.shape[1]
        values = x.float().flatten()
        for _ in range(int(fitted["depth"])):
            right = values.index_select(0, row + feature.index_select(0, node)) > threshold.index_select(0, node)
            node = children.index_select(0, 2 * node + right)
        return fitted["value"].index_select(0, node).reshape(len(x), trees, -1).mean(1)
    if name == "gnb":
        # The square is written out so that no (n, K, D) is made; in float64, since its terms cancel.
        x, theta, var = x.double(), fitted["theta"].double(), fitted["var"].double()  # (n, D), (K, D)
        distance = (x**2) @ (1 / var).T - 2 * x @ (theta / var).T + (theta**2 / var).sum(1)
        return (fitted["log_prior"] - 0.5 * (distance + (2 * torch.pi * var).log().sum(1))).softmax(-1)
    scores = x @ fitted["coef"].to(x).T + fitted["intercept"].to(x)
    if name == "logistic":
        return scores.softmax(-1)
    single = (fitted["slope"].to(x) * scores + fitted["offset"].to(x)).sigmoid()
    return single / single.sum(-1, keepdim=True)
