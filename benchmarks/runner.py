"""The runner: fit, select on validation, test once, store.

One run is one process-safe, atomic step. A finished run is never run again; a killed one leaves nothing half-done; a failed
one is recorded and the rest go on.
"""

import errno
import gc
import logging
import os
import shutil
import time
import traceback
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

import lightning as L
import pandas as pd
import torch
from filelock import Timeout
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.loggers import Logger
from torchmetrics.functional.classification import multilabel_confusion_matrix

from benchmarks import parallel, results
from benchmarks.cost import CostMeter
from benchmarks.plots import confusion_figure
from benchmarks.provenance import environment, revision
from benchmarks.spec import Execution, ExecutionError, MethodSpec, RunSpec, SearchBudget, Suite, SuiteError, code_version
from benchmarks.tracking import log_figure, open_loggers
from datamodules.batch import Task, encode_labels
from datamodules.corpora import open_corpus
from datamodules.emotion import EmotionDataModule, Utterances, load_utterances
from datamodules.features import Feature, FeatureError, parse_feature
from datamodules.features.transformer import HiddenStates
from datamodules.problems import UnknownNameError
from datamodules.protocols import Plan, apply_protocol, protocol_task
from datamodules.store import FeatureStore
from datamodules.workers import StartError
from zoo import create, get_method, list_methods
from zoo.base import ClassROCAUC, FusionModule, Training, score_metrics, weighted_accuracies, weighted_f1s
from zoo.nn.pretrained import Encoder, PretrainedEncoder, encoder_input

log = logging.getLogger(__name__)

DEATHS = (BrokenProcessPool, torch.OutOfMemoryError, torch.AcceleratorError)
"""Ends of a run that may be no fault of its method: memory that other runs hold, a GPU that an earlier error made unusable."""
_STORAGE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.ESTALE, errno.EIO)
"""What a full or lost file system answers; the next run would fare no better."""
# Lightning sets it as well, but later than the first matrix product of a process that extracts features, which is when it counts.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


class Outcome(NamedTuple):
    """What became of one run: ``finished`` now, ``cached`` from earlier, or ``failed`` with its error."""

    spec: RunSpec
    status: Literal["finished", "cached", "failed"]
    folder: Path
    error: str = ""


class Job(NamedTuple):
    """A run with the data it needs.

    ``audio`` and ``text`` are the features that the method reads. The utterances hold them, or, where their encoder is trained
    with the method, what it reads: samples or token ids. ``suite`` holds this run, and the other folds, alone; it is what makes the
    run again, and no part of the spec because it tells where the data are.
    """

    spec: RunSpec
    utterances: Utterances
    plan: Plan
    audio: Feature
    text: Feature
    suite: dict[str, Any] = {}  # noqa: RUF012 - never changed


def resolve_precision(precision: str) -> str:
    """Lightning's name for ``precision``; ``auto`` is bf16-mixed on cards that have it, 16-mixed on older ones, 32 on the CPU."""
    known = ("auto", "32-true", "bf16-mixed", "16-mixed")
    if precision not in known:
        raise UnknownNameError("precision", precision, known)
    if precision != "auto":
        return precision
    if not torch.cuda.is_available():
        return "32-true"
    return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "16-mixed"


def expand(suite: Suite, precision: str = "auto", store: FeatureStore | None = None) -> list[Job]:
    """All runs of a suite, with their corpus read and their features in the store.

    Raises:
        BadInputError: If the corpus has bad rows and the suite doesn't skip them.
        ProtocolError: If the corpus can't be split as asked.
        SuiteError: If an encoder is to be trained that a feature doesn't have, or a method can't be trained for the task.
    """
    corpus = open_corpus(suite.corpus, suite.root, suite.encoding)
    _refuse_task(suite, protocol_task(suite.protocol, corpus.name))
    # Now, with the methods just imported: extracting features may take hours, in which the source may change.
    revision()  # remembered
    code = {entry.method: code_version(entry.method) for entry in suite.methods}
    # What isn't used must not tell runs apart.
    audio_encoder, text_encoder = (e if e.trains else Encoder() for e in (suite.audio_encoder, suite.text_encoder))

    @cache
    def load(audio: Feature, text: Feature) -> tuple[Utterances, Plan]:
        utterances = load_utterances(corpus, audio, text, store, suite.skip_bad, suite.max_seconds)
        plan = apply_protocol(utterances.table, suite.protocol, suite.allow_speaker_overlap, corpus.name, utterances.audio.keys)
        return replace(utterances, table=plan.relabel(utterances.table)), plan

    # A result is read in another folder than the one it was made from.
    places = {
        "corpus": str(Path(suite.corpus).resolve()) if Path(suite.corpus).is_file() else suite.corpus,
        "root": suite.root and suite.root.resolve(),
    }
    prepared = []
    for entry in suite.methods:
        audio_name, text_name, training, options = _conditions(suite, entry)
        audio, text = parse_feature(audio_name), parse_feature(text_name)
        inputs = _input("audio", audio, audio_encoder, entry), _input("text", text, text_encoder, entry)
        prepared.append((entry, audio, text, inputs, training, options))
    jobs = []
    for entry, audio, text, inputs, training, options in prepared:
        utterances, plan = load(*inputs)
        for fold in plan.folds:
            for seed in suite.seeds:
                spec = RunSpec(
                    method=entry.method,
                    variant=entry.label,
                    options=options,
                    corpus=utterances.corpus,
                    data=utterances.fingerprint,
                    protocol=plan.protocol,
                    classes=plan.classes,
                    fold=fold.number,
                    track=suite.track,
                    audio=audio.identity(),
                    text=text.identity(),
                    audio_encoder=audio_encoder,
                    text_encoder=text_encoder,
                    training=training,
                    precision=resolve_precision(precision),
                    seed=seed,
                    max_seconds=suite.max_seconds,
                    absent=suite.absent,
                    code=code[entry.method],
                )
                alone = suite.model_copy(update={**places, "methods": (entry,), "seeds": (seed,)})
                jobs.append(Job(_tuned(spec, suite, entry), utterances, plan, audio, text, alone.model_dump(mode="json")))
    return jobs


def _refuse_task(suite: Suite, task: Task) -> None:
    """Refuse, before any feature is extracted, methods that can't be trained for the protocol's task."""
    unfit = dict.fromkeys(entry.method for entry in suite.methods if task not in get_method(entry.method).tasks)
    if unfit:
        able = [name for name in list_methods() if task in get_method(name).tasks]
        raise SuiteError(
            f"the protocol's task is {task}, and {', '.join(unfit)} can't be trained for it; those that can: {', '.join(able)}"
        )


def _input(modality: str, feature: Feature, encoder: Encoder, entry: MethodSpec) -> Feature:
    """What the corpus is loaded with: the feature, or what its encoder reads if that is trained with the method."""
    if feature.modality != modality:
        raise FeatureError(f"{feature} reads {feature.modality}; it can't be the {modality} feature")
    try:
        return encoder_input(feature, encoder)
    except FeatureError as error:
        raise SuiteError(f"{modality}_encoder.trainable is {encoder.trainable!r}, but for {entry.method} {error}") from error


def _conditions(suite: Suite, entry: MethodSpec) -> tuple[str, str, Training, dict[str, Any]]:
    """Audio feature, text feature, training and options of a method in the suite's track."""
    published = get_method(entry.method).published
    if suite.track == "controlled" or published is None:
        return entry.audio or suite.audio, suite.text, suite.training, entry.options
    return published.audio, published.text, published.training, {**published.options, **entry.options}


def _tuned(spec: RunSpec, suite: Suite, entry: MethodSpec) -> RunSpec:
    """The spec with what a search chose for the method on the spec's fold; itself for a method that wasn't searched."""
    if not entry.tuned:
        return spec
    search, chosen = suite.search, entry.tuned.get(spec.fold)
    if chosen is None or chosen.conditions != spec.conditions:
        # Elsewhere it may have been chosen on utterances that are tested now.
        raise SuiteError(
            f"the hyper-parameters of {entry.method} were searched in the controlled track on {search.protocol}; this suite has "
            "another track, protocol, corpus, feature, training or option. Run 'fusion-zoo tune' on it again"
        )
    changes = {
        "options": {**spec.options, **chosen.options},
        "training": replace(spec.training, **cast("dict[str, Any]", chosen.training)),
        "search": SearchBudget(trials=search.trials, space=search.space, options=spec.options),
    }
    return spec.model_copy(update=changes)


def run(
    job: Job,
    out: Path,
    execution: Execution | None = None,
    patience: float = -1.0,
    status: Callable[[str], None] | None = None,
) -> Outcome | None:
    """Run one job unless it is finished.

    Args:
        job: What to run.
        out: Folder of the results.
        execution: How; its ``workers``, ``threads`` on several devices, ``devices`` and ``loggers`` matter here.
        patience: Seconds to wait for another process that runs the same job; negative for as long as it takes.
        status: Called after every epoch with a line that says where training is.

    Returns:
        The outcome, or None if another process still holds the job.

    Raises:
        ResultError: If ``out`` can't be written.
        ExecutionError: If the code isn't that of the job's spec.
        DEATHS: As they come; nothing is recorded, since the run may do better in another process or with more memory.
    """
    folder = out / job.spec.run_id
    if results.is_finished(folder):
        return Outcome(job.spec, "cached", folder)
    try:
        with results.run_lock(out, job.spec.run_id, patience):
            # First the folder, then the look: NFS may remember that there was no result, until something is made in `out`.
            partial = results.partial_folder(out, job.spec.run_id)
            if results.is_finished(folder):
                partial.rmdir()
                return Outcome(job.spec, "cached", folder)
            return _run_and_record(job, out, partial, execution or Execution(), status)
    except Timeout:
        return None
    except OSError as error:
        shared = "Change its permissions (people who share a folder need one group and 'umask 002')"
        remedy = shared if isinstance(error, PermissionError) else "Free some space"
        raise results.ResultError(
            f"results can't be written to {out} ({error}); finished runs are kept. "
            f"{remedy} or name another folder with --out, then run the same command again"
        ) from error


def _run_and_record(job: Job, out: Path, partial: Path, execution: Execution, status: Callable[[str], None] | None) -> Outcome:
    """Run one job in its folder ``partial``; what the method is to blame for is recorded, and anything else raised."""
    spec = job.spec.model_dump(mode="json")
    try:
        if execution.devices == 1:
            found = _fit_and_test(job, partial, execution, status)
        else:
            found = parallel.launch(_fit_and_test, execution.devices, execution.threads, job, partial, execution)
        assert found is not None, "the first process has a result"
    except Exception as error:  # whatever a method raises is recorded here and reported; the other runs go on
        message, told = f"{type(error).__name__}: {error}", traceback.format_exc()
        shutil.rmtree(partial, ignore_errors=True)
        traceback.clear_frames(error.__traceback__)  # they hold the model
        _release_memory(error)
        if isinstance(error, (*DEATHS, ExecutionError, StartError)) or (isinstance(error, OSError) and error.errno in _STORAGE):
            raise
        results.record_failure(out, job.spec.run_id, spec, message, told)
        return Outcome(job.spec, "failed", results.failure_file(out, job.spec.run_id), message)
    _release_memory()
    return Outcome(job.spec, "finished", results.commit(partial, out, spec, {"spec": spec, **found[0]}, found[1]))


def _release_memory(error: Exception | None = None) -> None:
    """Give back what PyTorch keeps of the GPU's memory for later, which other processes may need now; not after a CUDA error."""
    if torch.cuda.is_initialized() and not isinstance(error, torch.AcceleratorError):  # type: ignore[no-untyped-call]
        gc.collect()
        torch.cuda.empty_cache()


def _fit_and_test(
    job: Job, folder: Path, execution: Execution, status: Callable[[str], None] | None = None
) -> tuple[dict[str, Any], pd.DataFrame] | None:
    """The result and the test predictions; None in all but the first process of a run on several devices.

    Raises:
        ExecutionError: If this process has imported other code than the job's spec tells of.
    """
    if code_version(job.spec.method) != job.spec.code:
        raise ExecutionError(
            f"the code of {job.spec.method} in this process isn't that of the command, which began before it was changed, or has "
            "another copy; finished runs are kept. Run the same command again (in a notebook, restart its kernel first), with one "
            "version of the code on all machines"
        )
    first = parallel.rank() == 0
    with open_loggers(execution.loggers if first else (), folder, job.spec) as loggers:
        return _fit_and_test_logged(job, folder, execution, loggers, status)


def _fit_and_test_logged(
    job: Job, folder: Path, execution: Execution, loggers: Sequence[Logger], status: Callable[[str], None] | None
) -> tuple[dict[str, Any], pd.DataFrame] | None:
    spec, plan = job.spec, job.plan
    revision()  # remembered: the code that runs is the one that is checked out now, not after hours of training
    fitted = fit(job, folder, execution, loggers, [_EpochReport(job, status)] if status else [])
    if fitted is None:
        return None
    model, data, meter = fitted.model, fitted.data, fitted.meter
    fitted.trainer.test(model, data, ckpt_path=fitted.checkpoint, verbose=False)
    _log_confusion(loggers, model, "test", plan.classes)
    predictions = predictions_of(model, job)
    train, test = len(plan.folds[spec.fold].train), len(predictions)
    return {
        "task": plan.task,
        "scores": scores(predictions, plan.classes, plan.task),
        "baselines": _baselines(predictions, job, data) if plan.task == "multilabel" else {},
        "slices": slice_scores(predictions, job.utterances.slices),
        "validation": fitted.validation,
        "epochs": fitted.epochs,
        "utterances": {
            "train": train,
            "val": len(plan.folds[spec.fold].val),
            "test": test,
            "usable": len(job.utterances.table),
            "named": job.utterances.rows,
        },
        "costs": meter.costs(model, fitted.seconds, train * fitted.epochs, test),
        "headline": plan.headline,
        "features": {"audio": str(job.audio), "text": str(job.text)},
        "caveats": [*plan.caveats, *model.caveats, *job.utterances.notes, *parallel.caveats(execution.devices)],
        "suite": job.suite,
        "environment": {**environment(model.trainer.strategy.root_device), "execution": execution.conditions()},
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
    }, predictions


class Fitted(NamedTuple):
    """A trained method before its test.

    Attributes:
        model: With the weights of the selected epoch.
        data: Its batches.
        trainer: To go on with, on one device.
        checkpoint: File of the selected epoch.
        meter: What training cost.
        seconds: Wall time of the fit, validation included.
        epochs: How many there were.
        validation: Scores of the selected epoch on the validation split.
    """

    model: FusionModule
    data: EmotionDataModule
    trainer: L.Trainer
    checkpoint: str
    meter: CostMeter
    seconds: float
    epochs: int
    validation: dict[str, float]


def fit(
    job: Job, folder: Path, execution: Execution, loggers: Sequence[Logger] = (), callbacks: Sequence[L.Callback] = ()
) -> Fitted | None:
    """Train a job and select its epoch on the validation split; the test split isn't read.

    Args:
        job: What to train.
        folder: For the checkpoint.
        execution: Its ``workers`` and ``devices`` matter here.
        loggers: Open.
        callbacks: Besides those that every run has.

    Returns:
        The trained method; None in all but the first process of a run on several devices.
    """
    spec, plan = job.spec, job.plan
    quiet_lightning()
    L.seed_everything(spec.seed, workers=True, verbose=False)
    data = data_module(job, execution.workers)
    model = create(spec.method, audio_dim=job.audio.width, text_dim=job.text.width, num_classes=len(plan.classes), **spec.options)
    model.use_task(plan.task)
    model.training_options = spec.training
    for modality, feature, settings in (("audio", job.audio, spec.audio_encoder), ("text", job.text, spec.text_encoder)):
        # A method that doesn't read a modality has no use for its encoder.
        if settings.trains and modality in model.modalities:
            assert isinstance(feature, HiddenStates), "_input has refused any other"
            model.pretrained[modality] = PretrainedEncoder(feature, settings)
    monitor = monitored(job)
    checkpoint = ModelCheckpoint(folder, "checkpoint", monitor, mode="max", save_weights_only=True)
    meter = CostMeter(energy=execution.devices == 1 and not execution.shares_gpus)
    common: dict[str, Any] = {
        "precision": spec.precision,
        # On CUDA some kernels have no deterministic form; on the CPU all have, and a repeated run gives the same bits.
        "deterministic": "warn" if torch.cuda.is_available() else True,
        "logger": list(loggers),
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    trainer = L.Trainer(
        max_epochs=spec.training.max_epochs,
        callbacks=[EarlyStopping(monitor, mode="max", patience=spec.training.patience), checkpoint, meter, *callbacks],
        log_every_n_steps=10,
        num_sanity_val_steps=0,
        **common,
        **parallel.trainer_options(execution.devices),
    )
    started = time.perf_counter()
    trainer.fit(model, datamodule=data)
    seconds = time.perf_counter() - started
    epochs = trainer.current_epoch
    if execution.devices > 1:  # each would see only a part of the test split, or some items twice
        first = parallel.rank() == 0
        parallel.leave()
        if not first:
            return None
        trainer = L.Trainer(callbacks=[meter], enable_checkpointing=False, **common, **parallel.trainer_options(1))
    best = checkpoint.best_model_path
    validation = trainer.validate(model, data, ckpt_path=best, verbose=False)[0]
    _log_confusion(loggers, model, "val", plan.classes)
    named = {name.removeprefix("val/"): value for name, value in validation.items()}
    return Fitted(model, data, trainer, best, meter, seconds, epochs, named)


def monitored(job: Job) -> str:
    """Lightning's name of the score that the epoch is selected on."""
    return f"val/{job.plan.headline}"


def data_module(job: Job, workers: int = 0, test: Utterances | None = None) -> EmotionDataModule:
    """The batches of a job; ``test`` as of `EmotionDataModule`."""
    spec, plan = job.spec, job.plan
    unit = get_method(spec.method).unit
    fold = plan.folds[spec.fold]
    size = items_per_batch(job)
    return EmotionDataModule(job.utterances, fold, plan.classes, unit, size, spec.seed, workers, plan.task, spec.absent, test)


def items_per_batch(job: Job) -> int:
    """Utterances, or dialogues, per batch.

    In the controlled track a step sees about as many utterances whatever the method's unit is: a batch of dialogues has as many
    of them as hold ``batch_size`` utterances on average. In the published track papers count in the method's own unit.
    """
    size = job.spec.training.batch_size
    if job.spec.track == "published" or get_method(job.spec.method).unit == "utterance":
        return size
    fold, table = job.plan.folds[job.spec.fold], job.utterances.table.set_index("utterance_id")
    train = table.loc[list(fold.train), "dialogue"]
    dialogues = train.nunique() + int(train.isna().sum())  # an utterance without a dialogue is one of its own
    return max(1, round(size * dialogues / len(train)))


class _EpochReport(L.Callback):
    """Tells after every epoch how far a run is."""

    def __init__(self, job: Job, tell: Callable[[str], None]) -> None:
        spec = job.spec
        self._name, self._monitor, self._tell = f"{spec.method} fold {spec.fold} seed {spec.seed}", monitored(job), tell
        self._most = spec.training.max_epochs

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.state.fn != "fit":
            return
        score = float(trainer.callback_metrics[self._monitor])
        self._tell(f"{self._name}: epoch {trainer.current_epoch + 1} of at most {self._most}, {self._monitor} {score:.3f}")


def predictions_of(model: FusionModule, job: Job) -> pd.DataFrame:
    """Every test utterance in the order of the fold: label, speaker, dialogue, recording, slices, probabilities ``p_<class>``.

    Utterances of one ``recording`` have the same audio; its name is the first one's id in the corpus.
    """
    fold, table = job.plan.folds[job.spec.fold], job.utterances.table
    first = table["utterance_id"].groupby(job.utterances.audio.keys).transform("first")
    first = table["near_duplicate"].fillna(first).mask(job.utterances.audio.lengths == 0)  # no audio is no recording
    known = list(dict.fromkeys(["label", "speaker", "dialogue", "recording", *job.utterances.slices]))
    facts = table.assign(recording=first).set_index("utterance_id").loc[list(fold.test), known].reset_index()
    probabilities = torch.stack([model.test_probabilities[name] for name in facts["utterance_id"]]).numpy()
    columns = [f"p_{label}" for label in job.plan.classes]
    return pd.concat([facts, pd.DataFrame(probabilities, columns=columns)], axis=1)


def _baselines(predictions: pd.DataFrame, job: Job, data: EmotionDataModule) -> dict[str, dict[str, Any]]:
    """Scores on the test split of two classifiers that look at nothing; high ones of the others mean little beside them."""
    negatives, positives = data.class_counts.tolist()
    majority = [float(more > less) for less, more in zip(negatives, positives, strict=True)]
    found = {}
    for name, probabilities in (("all negative", [0.0] * len(majority)), ("training majority", majority)):
        constant = {f"p_{label}": p for label, p in zip(job.plan.classes, probabilities, strict=True)}
        found[name] = scores(predictions.assign(**constant), job.plan.classes, "multilabel")
    return found


def scores(predictions: pd.DataFrame, classes: Sequence[str], task: Task = "multiclass") -> dict[str, Any]:
    """All scores of stored predictions.

    Args:
        predictions: As in ``predictions.parquet``.
        classes: Labels in the order of the probabilities.
        task: Whether a label is one class, or the positive ones joined by ``+``.

    Returns:
        ``war``, ``uar``, ``macro_f1``, ``weighted_f1``, ``ece``; ``recall`` per class (None where the test split has none) and
        ``confusion``, rows the truth, columns the prediction, in the order of ``classes``. Of a multi-label task
        ``mean_weighted_accuracy``, ``mean_weighted_f1``, ``mean_roc_auc``; ``per_class`` with ``weighted_accuracy``,
        ``weighted_f1``, ``roc_auc`` (None without positives or without negatives) and ``positives``; and ``confusion`` (C, 2, 2).
    """
    probabilities = torch.from_numpy(predictions[[f"p_{label}" for label in classes]].to_numpy(copy=True))
    labels = torch.from_numpy(encode_labels(predictions["label"], classes, task))
    if task == "multilabel":
        return _multilabel_scores(probabilities, labels.long(), classes)
    confusion = torch.zeros(len(classes), len(classes), dtype=torch.long)
    confusion.index_put_((labels, probabilities.argmax(1)), torch.tensor(1), accumulate=True)
    support = confusion.sum(1)
    recalls = (confusion.diagonal() / support.clamp(min=1)).tolist()
    return {
        **{name: float(value) for name, value in score_metrics(len(classes))(probabilities, labels).items()},
        "recall": {label: r if n else None for label, r, n in zip(classes, recalls, support.tolist(), strict=True)},
        "confusion": confusion.tolist(),
    }


def _multilabel_scores(probabilities: torch.Tensor, labels: torch.Tensor, classes: Sequence[str]) -> dict[str, Any]:
    """`scores` of probabilities (n, C) and labels (n, C)."""
    count = len(classes)
    confusion = multilabel_confusion_matrix(probabilities, labels, count)
    values = {
        "weighted_accuracy": weighted_accuracies(confusion),
        "weighted_f1": weighted_f1s(confusion),
        "roc_auc": ClassROCAUC(count)(probabilities, labels),
        "positives": labels.sum(0),
    }
    means = score_metrics(count, "multilabel")(probabilities, labels)
    return {
        **{name: _number(value) for name, value in means.items()},
        "per_class": {label: {name: _number(of_all[n]) for name, of_all in values.items()} for n, label in enumerate(classes)},
        "confusion": confusion.tolist(),
    }


def _number(value: torch.Tensor) -> float | int | None:
    """A scalar as JSON has it: None for NaN."""
    return None if value.isnan() else value.item()


def slice_scores(predictions: pd.DataFrame, slices: Sequence[str]) -> dict[str, dict[str, float]]:
    """Accuracy (WAR) on the part of the test split that has each value of each slice column."""
    columns = [column for column in predictions.columns if column.startswith("p_")]
    correct = predictions[columns].idxmax(axis=1) == "p_" + predictions["label"]
    return {name: {str(value): float(war) for value, war in correct.groupby(predictions[name]).mean().items()} for name in slices}


def _log_confusion(loggers: Sequence[Logger], model: FusionModule, split: str, classes: Sequence[str]) -> None:
    counts = model.confusion.compute().cpu().numpy()
    if model.task == "multilabel":
        for name, of_class in zip(classes, counts, strict=True):
            log_figure(loggers, f"{split}/confusion/{name}", confusion_figure(of_class, (f"not {name}", name)))
    else:
        log_figure(loggers, f"{split}/confusion", confusion_figure(counts, classes))


def quiet_lightning() -> None:
    """Keep Lightning's notices off the screen: one line per run is enough."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message=".*The number of training batches.*")
    warnings.filterwarnings("ignore", message=".*Checkpoint directory .* exists and is not empty.*")
    warnings.filterwarnings("ignore", message=".*sync_dist=True.*")  # scores are gathered; a loss is only a curve
    warnings.filterwarnings("ignore", message=".*LeafSpec.*")
    warnings.filterwarnings("ignore", message=r".*module\(s\) in eval mode.*")  # an encoder's frozen layers
