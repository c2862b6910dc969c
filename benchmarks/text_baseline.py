"""Logistic regression on mean token vectors, and always the most frequent class: what `text_only` has to beat.

``python -m benchmarks.text_baseline --corpus meld --root path/to/MELD --protocol meld7@1`` reads corpus, features and folds as
``fusion-zoo bench`` does and prints the same scores. The strength of the penalty is chosen on the validation split, by the
protocol's headline; the test split is scored once.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import typer
from sklearn.base import ClassifierMixin
from sklearn.dummy import DummyClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from benchmarks.cli import plain_errors
from benchmarks.runner import scores
from datamodules.corpora import open_corpus
from datamodules.emotion import load_utterances
from datamodules.features import parse_feature
from datamodules.protocols import Fold, Plan, ProtocolError, apply_protocol, protocol_task

PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""Values of scikit-learn's C to choose from: the smaller, the stronger the penalty."""

SHOWN = ("weighted_f1", "macro_f1", "war", "uar")


def fit_and_test(
    vectors: npt.NDArray[np.float32], table: pd.DataFrame, plan: Plan, fold: Fold
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Score the majority class, and logistic regression with and without class weights.

    Args:
        vectors: One per row of the table, (N, D).
        table: As of `Corpus.table`, with the plan's labels.
        plan: Classes and headline.
        fold: What to train, select and test on.

    Yields:
        Name and `scores` on the test split.
    """
    rows = {name: table["utterance_id"].isin(getattr(fold, name)).to_numpy() for name in ("train", "val", "test")}
    labels = table["label"].to_numpy(object)

    def scored(model: ClassifierMixin, split: str) -> dict[str, Any]:
        known = dict(zip(model.classes_, model.predict_proba(vectors[rows[split]]).T, strict=True))
        columns = {f"p_{label}": known.get(label, np.zeros(rows[split].sum())) for label in plan.classes}
        return scores(pd.DataFrame({"label": labels[rows[split]]} | columns), plan.classes)

    def fitted(model: ClassifierMixin) -> ClassifierMixin:
        return model.fit(vectors[rows["train"]], labels[rows["train"]])

    yield "majority", scored(fitted(DummyClassifier(strategy="most_frequent")), "test")
    for weights in (None, "balanced"):
        models = [
            fitted(make_pipeline(StandardScaler(), LogisticRegression(C=penalty, class_weight=weights, max_iter=2000)))
            for penalty in PENALTIES
        ]
        validation = [scored(model, "val")[plan.headline] for model in models]
        best = int(np.argmax(validation))
        name = f"logistic regression, class weights {weights or 'none'}, C = {PENALTIES[best]:g} (val {validation[best]:.1%})"
        yield name, scored(models[best], "test")


def main(
    corpus: Annotated[str, typer.Option(help="A corpus's name, or the path of a CSV manifest.")],
    root: Annotated[Path | None, typer.Option(help="Folder of a named corpus.")] = None,
    protocol: Annotated[str, typer.Option(help="As of 'fusion-zoo bench'.")] = "auto",
    text: Annotated[str, typer.Option(help="Text feature; its vectors are averaged over an utterance.")] = "hidden_states",
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Go on without bad rows.")] = False,
) -> None:
    """Print one line per baseline and fold."""
    with plain_errors():
        opened = open_corpus(corpus, root)
        if protocol_task(protocol, opened.name) != "multiclass":
            raise ProtocolError(f"{protocol} on {opened.name} is multi-label; this baseline is for one label per utterance")
        utterances = load_utterances(opened, parse_feature("mfcc"), parse_feature(text), None, skip_bad)
        plan = apply_protocol(utterances.table, protocol, corpus=opened.name)
    table = plan.relabel(utterances.table)
    width = utterances.text.feature.dim
    vectors = np.stack([np.asarray(a, np.float32).mean(0) if len(a) else np.zeros(width, np.float32) for a in utterances.text])
    typer.echo(f"{utterances.corpus}, {plan.protocol}, {utterances.text.feature}; test scores in percent")
    for fold in plan.folds:
        typer.echo(f"fold {fold.number}: {', '.join(SHOWN)}")
        for name, found in fit_and_test(vectors, table, plan, fold):
            typer.echo(f"  {'  '.join(f'{100 * found[metric]:5.1f}' for metric in SHOWN)}  {name}")


if __name__ == "__main__":
    typer.run(main)
