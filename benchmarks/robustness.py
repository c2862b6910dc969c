"""Robustness: finished runs under corrupted input. Nothing is trained and nothing is selected; the test split is only scored again.

Each condition's predictions are a file of their own beside the run's other files, written in one step, so a killed command goes
on where it was, and any other score can be computed later without the model::

    runs/<run id>/robustness@1/
        clean.parquet             the checkpoint on the clean test split; it must give what the run stored, whenever more is scored
        white_noise=10.parquet    <corruption>=<degree>, as in `datamodules.corruptions.CORRUPTIONS`

A modality that is missing in *training* is a condition of training, so such rows are runs of their own: ``bench --set
absent.audio=0.5``. Their clean scores are set beside what the same run without that has stored.
"""

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import lightning as L
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from pydantic import ValidationError

from benchmarks import parallel
from benchmarks.execute import interruptible
from benchmarks.leaderboard import KEYS, TITLES, absent_notes, condition_of, corpus_name, identity_of, percentages, row_options
from benchmarks.plots import degree_figure
from benchmarks.results import (
    METRICS,
    MULTILABEL_METRICS,
    NothingStoredError,
    ResultError,
    decisions,
    made_by_another_version,
    read_newest,
    read_predictions,
    read_results,
    read_stored,
    run_lock,
    task_of,
)
from benchmarks.runner import Job, data_module, predictions_of, quiet_lightning, scores
from benchmarks.spec import RunSpec, SuiteError
from benchmarks.tables import pipe_table
from datamodules.batch import Task
from datamodules.corruptions import CORRUPTIONS, VERSION, Corrupter, Corruption
from datamodules.emotion import Absent, Utterances, context_ids
from datamodules.problems import UnknownNameError
from datamodules.store import FeatureStore
from zoo import get_method
from zoo.base import FusionModule

FOLDER = f"robustness@{VERSION}"
CLEAN = "clean"
SAME = 0.02
"""Share of decisions that may differ from the stored ones where a checkpoint is run again: rounding on another device."""

IN_TRAINING = {
    f"no_{modality}_in_training": Corruption(
        f"No {modality} in training", modality, f"share of training utterances without {modality}", (0.1, 0.5, 1.0), 0.0
    )
    for modality in ("audio", "text")
}
"""Kinds of curves whose degrees are runs of their own."""

Condition = tuple[str, float]
"""Name of a corruption and its degree; `CLEAN` has degree 0."""


class Run(NamedTuple):
    """A finished run and what it takes to load it."""

    job: Job
    folder: Path

    def file(self, condition: Condition) -> Path:
        """Where its predictions under a condition are."""
        name, degree = condition
        return self.folder / FOLDER / (f"{CLEAN}.parquet" if name == CLEAN else f"{name}={degree:g}.parquet")


def finished_runs(jobs: Sequence[Job], out: Path) -> list[Run]:
    """The newest finished run of every job under ``out``; code, precision and the variant's name may have changed since.

    Raises:
        ResultError: If there is none, or one was made by a version with another kind of spec.
    """
    newest: dict[str, tuple[str, str]] = {}
    for name, spec, result in read_results(out):
        try:
            key = _key(RunSpec.model_validate(spec))
        except ValidationError as error:
            raise made_by_another_version(out / name, error) from error
        newest[key] = max(newest.get(key, ("", "")), (result["finished"], name))
    runs = [Run(job, out / newest[key][1]) for job in jobs if (key := _key(job.spec)) in newest]
    if not runs:
        raise ResultError(
            f"{out} holds no finished run of this suite; 'fusion-zoo bench' with the same suite, corpus, protocol, methods, seeds "
            "and --set makes them"
        )
    return runs


def _key(spec: RunSpec) -> str:
    return json.dumps(spec.model_dump(mode="json", exclude={"code", "precision", "variant"}), sort_keys=True)


def parse_corruptions(names: str | None) -> list[str]:
    """Names of `CORRUPTIONS` out of a comma-separated list; None for all.

    Raises:
        UnknownNameError: For any other; the message lists the near names.
    """
    chosen = list(CORRUPTIONS) if names is None else [name.strip() for name in names.split(",") if name.strip()]
    for name in chosen:
        if name not in CORRUPTIONS:
            raise UnknownNameError("corruption", name, list(CORRUPTIONS))
    return chosen


def evaluate(
    runs: Sequence[Run],
    names: Iterable[str] = tuple(CORRUPTIONS),
    store: FeatureStore | None = None,
    workers: int = 0,
    report: Callable[[int, int, str], None] = lambda *_: None,
) -> None:
    """Score runs under every degree of the corruptions and keep their predictions; what is there already stays.

    A run that lacks any condition is first run on the clean test split, even if that is stored: code that has changed since would
    otherwise put the answers of two models into one table.

    Args:
        runs: As of `finished_runs`.
        names: Of `CORRUPTIONS`.
        store: Where features are kept.
        workers: Processes that read features ahead.
        report: Called before each pass with the number done, of how many, and what comes.

    Raises:
        SuiteError: If a corruption's modality is missing from the training or the test split.
        ResultError: If a checkpoint no longer gives its stored predictions, or results can't be written.
    """
    conditions = [(CLEAN, 0.0), *((name, degree) for name in names for degree in CORRUPTIONS[name].degrees)]
    groups: dict[tuple[int, int, str], list[Run]] = defaultdict(list)
    for run in runs:
        groups[id(run.job.utterances), run.job.spec.fold, get_method(run.job.spec.method).unit].append(run)
    missing = {run.folder: [condition for condition in conditions if not run.file(condition).is_file()] for run in runs}
    missing = {folder: list(dict.fromkeys([conditions[0], *left])) if left else [] for folder, left in missing.items()}
    done, total = 0, sum(len(left) for left in missing.values())
    for members in groups.values():
        wanted = sorted({condition for run in members for condition in missing[run.folder]}, key=conditions.index)
        # All features first, under the store's own progress bars.
        inputs = _inputs(members[0].job, wanted, store) if wanted else {}
        for run in members:
            for what in _evaluate(run, {condition: inputs[condition] for condition in missing[run.folder]}, workers):
                report(done, total, what)
                done += 1
    report(done, total, "done")


def _inputs(job: Job, conditions: Sequence[Condition], store: FeatureStore | None) -> dict[Condition, Utterances]:
    """The utterances under each condition."""
    fold, table = job.plan.folds[job.spec.fold], job.utterances.table
    context = context_ids(table, fold, "test") if get_method(job.spec.method).unit == "dialogue" else []
    corrupter = Corrupter(job.utterances, fold.train, [fold.test, context], job.spec.max_seconds, store)
    row = pd.Series(range(len(table)), index=table["utterance_id"])
    for name in {name for name, _ in conditions if name != CLEAN}:
        modality = CORRUPTIONS[name].modality
        lengths = (job.utterances.audio if modality == "audio" else job.utterances.text).lengths
        for split in ("train", "test"):
            if not lengths[row[list(getattr(fold, split))]].any():
                raise SuiteError(
                    f"{name}: no {split} utterance of fold {fold.number} has {modality}; leave it out of --corruptions"
                )
    return {(name, degree): job.utterances if name == CLEAN else corrupter(name, degree) for name, degree in conditions}


def _evaluate(run: Run, inputs: dict[Condition, Utterances], workers: int) -> Iterator[str]:
    """Score a run under each condition, saying before each what comes."""
    if not inputs:
        return
    quiet_lightning()
    spec = run.job.spec
    with _writing(run):
        run.file((CLEAN, 0.0)).parent.mkdir(exist_ok=True)
    with run_lock(run.folder.parent, run.folder.name, -1.0):  # nobody else writes into its folder meanwhile
        model = _load(run)
        for condition, utterances in inputs.items():
            file = run.file(condition)
            yield f"{spec.method} fold {spec.fold} seed {spec.seed}: {file.stem}"
            if file.is_file() and condition[0] != CLEAN:
                continue  # another process was first
            found = _predict(model, run, utterances, workers)
            if condition[0] == CLEAN:
                _check(run, found)
                if file.is_file():
                    continue
            with _writing(run):
                partial = file.with_suffix(".partial")
                found.to_parquet(partial, index=False)
                partial.replace(file)


@contextmanager
def _writing(run: Run) -> Iterator[None]:
    """Turn an operating system's refusal into a message with the remedy."""
    try:
        yield
    except OSError as error:
        raise ResultError(
            f"{run.folder / FOLDER} can't be written ({error.strerror or error}); what is finished is kept. Free some space, "
            "then run the same command again"
        ) from error


def _load(run: Run) -> FusionModule:
    """The model of the selected epoch."""
    file = run.folder / "checkpoint.ckpt"
    try:
        model: FusionModule = get_method(run.job.spec.method).load_from_checkpoint(file, map_location="cpu")
    except (FileNotFoundError, RuntimeError, TypeError) as error:  # the last two: other weights, other constructor arguments
        raise ResultError(
            f"{file} can't be loaded, or the code has changed since ({str(error).splitlines()[0]}); remove the run's folder "
            "and run 'fusion-zoo bench' again"
        ) from error
    model.use_task(run.job.plan.task)
    return model


def _predict(model: FusionModule, run: Run, utterances: Utterances, workers: int) -> pd.DataFrame:
    stored = json.loads((run.folder / "result.json").read_text(encoding="utf-8"))["spec"]
    trainer = L.Trainer(
        precision=stored["precision"],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **parallel.trainer_options(1),
    )
    with interruptible():
        trainer.test(model, data_module(run.job, workers, utterances), verbose=False)
    return predictions_of(model, run.job)


def _check(run: Run, found: pd.DataFrame) -> None:
    """Refuse a checkpoint that isn't what made the stored predictions."""
    stored = read_predictions(run.folder)
    one, other = (decisions(predictions, run.job.plan.classes, run.job.plan.task) for predictions in (stored, found))
    differ = float((one != other).mean())
    if differ > SAME:
        raise ResultError(
            f"{run.folder}: {100 * differ:.0f} % of the decisions of its checkpoint aren't those it stored: the code has changed; "
            "remove the folder and run 'fusion-zoo bench' again"
        )


def constant_score(predictions: pd.DataFrame, classes: list[str], metric: str, task: Task = "multiclass") -> float:
    """The best score that one answer for every utterance can have: chance, for UAR and the mean weighted accuracy."""
    answers = [[answer == label for label in classes] for answer in classes]
    if task == "multilabel":
        answers = [[False] * len(classes), [True] * len(classes)]
    constant = [predictions.assign(**{f"p_{c}": np.float32(p) for c, p in zip(classes, answer, strict=True)}) for answer in answers]
    found = [scores(one, classes, task) for one in constant]
    if task == "multilabel":  # the metric is a mean over classes, each of which has the better answer of its own
        no, yes = ([one["per_class"][label][metric.removeprefix("mean_")] for label in classes] for one in found)
        return float(np.nanmean(np.fmax(np.array(no, float), np.array(yes, float))))
    return max(float(one[metric]) for one in found)


def read_robustness(out: Path | str) -> pd.DataFrame:
    """Scores under every stored condition, one row per run and condition.

    Returns:
        `KEYS`, ``condition`` (what the runs of one table share, as JSON), ``options``, ``fold``, ``seed``, ``corruption``,
        ``degree``, ``headline`` (a name), ``score`` (that metric), `METRICS`, or `MULTILABEL_METRICS` of a multi-label task, and
        in rows of `CLEAN` ``none``, the score of the best constant answer. Missing-in-training rows are those of `IN_TRAINING`;
        the clean score beside them is that of the complete run, as it stored it where it was never run again. Of runs that
        differ only in their code the newest counts.

    Raises:
        NothingStoredError: If nothing is.
    """
    found = []
    beside = {identity_of(spec | {"absent": {}}) for _, spec, _ in read_results(Path(out)) if any(spec.get("absent", {}).values())}
    for name, spec, result in read_newest(Path(out), identity_of):
        absent, task, folder = Absent(**spec.get("absent", {})), task_of(result), Path(out) / name
        metrics = MULTILABEL_METRICS if task == "multilabel" else METRICS
        facts = {key: spec[key] for key in KEYS} | {
            "condition": condition_of(spec),
            "options": row_options(spec),
            "fold": spec["fold"],
            "seed": spec["seed"],
            "headline": result["headline"],
            "finished": result["finished"],
        }
        files = {file.stem: file for file in sorted((folder / FOLDER).glob("*.parquet"))}
        if identity_of(spec) in beside:
            files.setdefault(CLEAN, folder / "predictions.parquet")
        for stem, file in files.items():
            corruption, _, degree = stem.partition("=")
            predictions = read_stored(file, "'fusion-zoo robustness'")
            scored = scores(predictions, spec["classes"], task)
            kind = {"corruption": corruption, "degree": float(degree or 0)}
            if corruption == CLEAN:
                kind["none"] = constant_score(predictions, spec["classes"], result["headline"], task)
            found.append(facts | kind | {m: scored[m] for m in metrics})
        for modality, share in (("audio", absent.audio), ("text", absent.text)):
            if share and share == absent.audio + absent.text:
                complete = condition_of(spec | {"absent": {}})
                kind = {"condition": complete, "corruption": f"no_{modality}_in_training", "degree": share}
                found.append(facts | kind | {m: result["scores"][m] for m in metrics})
    frame = pd.DataFrame(found)
    if frame.empty or not {CLEAN} < set(frame["corruption"]):
        raise NothingStoredError(
            f"{out} holds no robustness results; 'fusion-zoo robustness' with the bench's suite, corpus, protocol, methods, seeds "
            "and --set makes them"
        )
    frame["score"] = [row[row["headline"]] for _, row in frame.iterrows()]
    # A variant's name is a label: rows are told apart by their options, and the newest label counts.
    named = frame.sort_values("finished", kind="stable").groupby(["condition", "method", "options"])["variant"]
    return frame.assign(variant=named.transform("last")).drop(columns="finished")


def summarise(frame: pd.DataFrame) -> pd.DataFrame:
    """Means over folds and seeds, one row per method, variant, corruption and degree, mild degrees first.

    Args:
        frame: As of `read_robustness`.

    Returns:
        ``condition``, `KEYS`, ``options``, ``corruption``, ``degree``, ``headline``, ``runs``, ``score_mean``, ``score_std``
        (sample deviation), ``clean_mean``, ``clean_std``, ``drop`` (clean less corrupted, over the same runs), and, the same for
        all degrees, ``area_mean``, ``area_std``, ``none_mean`` (the best constant answer) and ``retained``.

        The area under a run's curve is its mean score over the axis of degrees, by the trapezoid rule divided by the axis's
        length; the clean score is one end of it where it has a place on the axis. It is NaN where the curve has fewer than three
        points or lacks a degree. ``retained`` is what the area keeps of that by which the clean score exceeds a constant answer,
        (area - none) / (clean - none) of the means: 1 for a method that loses nothing, 0 for one that is at chance on the whole
        axis. It is NaN where the clean score isn't above a constant answer.

        Of missing-in-training runs those count whose complete run is there; a row for which there is none has no clean score.
    """
    row = ["condition", *KEYS, "options", "headline"]
    run = [*row, "fold", "seed"]
    clean = frame[frame["corruption"] == CLEAN].set_index(run)[["score", "none"]].rename(columns={"score": "clean"})
    rows = frame[frame["corruption"] != CLEAN].drop(columns="none").join(clean, on=run)
    known = rows["clean"].notna()
    rows = rows[known | ~known.groupby([rows[key] for key in [*row, "corruption", "degree"]]).transform("any")]
    kinds = CORRUPTIONS | IN_TRAINING
    areas = rows.groupby([*run, "corruption"])[["degree", "score", "clean"]].apply(
        lambda part: _area(kinds[str(part.name[-1])], part)
    )
    rows = rows.join(areas.rename("area"), on=[*run, "corruption"])
    grouped = rows.groupby([*row, "corruption", "degree"], sort=False)
    table = pd.DataFrame({"runs": grouped.size()})
    for column in ("score", "clean", "area"):
        table[f"{column}_mean"], table[f"{column}_std"] = grouped[column].mean(), grouped[column].std().fillna(0.0)
    table["none_mean"] = grouped["none"].mean()
    table["drop"], above = table["clean_mean"] - table["score_mean"], table["clean_mean"] - table["none_mean"]
    table["retained"] = (table["area_mean"] - table["none_mean"]) / above.where(above > 0)
    table = table.reset_index()
    order = [(name, degree) for name, kind in kinds.items() for degree in (*kind.degrees,)]
    rank = [
        order.index(c) if (c := (name, degree)) in order else len(order)
        for name, degree in zip(table["corruption"], table["degree"], strict=True)
    ]
    return (
        table.assign(_rank=rank)
        .sort_values(["condition", "_rank", "method", "variant"], kind="stable")
        .drop(columns="_rank")
        .reset_index(drop=True)
    )


def _area(kind: Corruption, part: pd.DataFrame) -> float:
    """Area under one run's curve; see `summarise`."""
    points = dict(zip(part["degree"], part["score"], strict=True))
    if not set(kind.degrees) <= set(points):
        return float("nan")
    if kind.clean is not None:
        points[kind.clean] = part["clean"].iloc[0]
    if len(points) < 3:
        return float("nan")
    degrees = sorted(points)
    return float(np.trapezoid([points[degree] for degree in degrees], degrees) / (degrees[-1] - degrees[0]))


def to_markdown(summary: pd.DataFrame) -> str:
    """One table per condition and corruption: methods by degrees, the best area, or score, first."""
    parts = []
    for (_, corpus, protocol, track), condition in summary.groupby(["condition", "corpus", "protocol", "track"], sort=False):
        parts.append(f"**Robustness: {corpus_name(str(corpus))}, protocol {protocol}, {track} track**")
        for name, rows in condition.groupby("corruption", sort=False):
            kind, headline = (CORRUPTIONS | IN_TRAINING)[str(name)], TITLES[rows["headline"].iloc[0]]
            parts.append(f"{kind.title}: {headline} (%)" + (f" by {kind.axis}" if len(kind.degrees) > 1 else ""))
            parts.append(pipe_table(columns(kind, rows)))
        notes = absent_notes(json.loads(condition["condition"].iloc[0])["absent"])
        parts.append("\n".join(f"- {line}" for line in [*notes, *captions(condition)]))
    return "\n\n".join(parts) + "\n"


def columns(kind: Corruption, rows: pd.DataFrame) -> dict[str, list[str]]:
    """A table of methods by degrees, the best area, or score, first.

    Args:
        kind: The corruption.
        rows: Of `summarise`, of one condition and corruption.
    """
    ordered = rows.sort_values(["area_mean", "score_mean"], ascending=False, kind="stable")
    names = ordered.drop_duplicates(["method", "options"])
    cells = {"method": names["method"].tolist(), "variant": names["variant"].tolist(), "runs": [str(n) for n in names["runs"]]}
    cells["clean"] = percentages(names, "clean")
    for degree in sorted(set(rows["degree"]), reverse=kind.clean is None or kind.clean > 0):
        at = names[["method", "options"]].merge(rows[rows["degree"] == degree], "left")
        pairs = zip(percentages(at, "score"), at["drop"], strict=True)
        cells[_degree(kind, degree)] = [score if pd.isna(drop) else f"{score} ({0.0 - 100 * drop:+.1f})" for score, drop in pairs]
    if rows["area_mean"].notna().any():
        cells["area"] = percentages(names, "area")
        cells["retained"] = ["–" if np.isnan(r) else f"{100 * r:.1f}" for r in names["retained"]]
    return cells


def _degree(kind: Corruption, degree: float) -> str:
    if "dB" in kind.axis:
        return f"{degree:g} dB"
    if "RT60" in kind.axis:
        return f"{degree:g} s"
    return kind.axis if len(kind.degrees) == 1 else f"{100 * degree:g} %"


def captions(rows: pd.DataFrame) -> list[str]:
    """What a reader of the tables must know."""
    lines = [
        "mean ± sample standard deviation over runs; in brackets the change from the clean test split in points; there are no "
        "intervals or tests here, so differences as large as the deviations say little",
        "nothing was trained or selected on corrupted input; normalisation is that of the clean training split",
        "area: mean score over the axis of degrees, the clean score included where it has a place on the axis; retained: what the "
        "area keeps of the clean score, both less the best constant answer "
        f"({', '.join(sorted({f'{100 * none:.1f}' for none in rows['none_mean'].dropna()}))}), in percent: 100 if nothing is "
        "lost, 0 at chance on the whole axis",
    ]
    if rows["corruption"].isin(["clipping"]).any():
        lines.append("clipping: more than half of the axis lies between clean and 50 %, so its area says little of strong clipping")
    if rows["corruption"].isin(["no_audio", "no_text", *IN_TRAINING]).any():
        lines.append("a method of one modality that loses it answers with one class for every such utterance: chance")
    if rows["corruption"].isin(IN_TRAINING).any():
        lines.append(
            "missing in training: runs of their own, on the complete test split; at 100 % the test split goes without it too; "
            "those count whose complete run is there"
        )
    if rows["clean_mean"].isna().any():
        lines.append("no clean score: no complete run of that row is there; 'fusion-zoo bench' without the setting absent makes it")
    return lines


def figures(summary: pd.DataFrame) -> dict[str, Figure]:
    """A figure per condition and corruption with a curve, by a name for its file."""
    found = {}
    numbers = {condition: number for number, condition in enumerate(dict.fromkeys(summary["condition"]))}
    for (condition, name), rows in summary.groupby(["condition", "corruption"], sort=False):
        kind = (CORRUPTIONS | IN_TRAINING)[str(name)]
        if len(kind.degrees) == 1:
            continue
        prefix = f"{numbers[condition]}_" if len(numbers) > 1 else ""
        several = rows.groupby("method")["options"].nunique().max() > 1
        labels = rows["method"] + (" (" + rows["variant"] + ")" if several else "")
        found[f"{prefix}{name}"] = degree_figure(rows.assign(label=labels), kind, TITLES[rows["headline"].iloc[0]])
    return found
