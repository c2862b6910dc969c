"""The runner: fit, select on validation, test once, store.

One run is one process-safe, atomic step. A finished run is never run again; a killed one leaves nothing half-done; a failed
one is recorded and the rest go on.
"""

import logging
import os
import platform
import subprocess
import time
import traceback
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from multiprocessing import get_context, parent_process
from pathlib import Path
from threading import Thread
from typing import Any, Literal, NamedTuple

import lightning as L
import pandas as pd
import torch
from filelock import FileLock, Timeout
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger

from benchmarks import results
from benchmarks.cost import CostMeter, parameter_counts
from benchmarks.plots import confusion_figure
from benchmarks.spec import MethodSpec, RunSpec, Suite, SuiteError, code_version
from datamodules.corpora import open_corpus
from datamodules.emotion import EmotionDataModule, Utterances, load_utterances
from datamodules.features import Feature, FeatureError, parse_feature
from datamodules.features.transformer import HiddenStates
from datamodules.problems import UnknownNameError
from datamodules.protocols import Plan, apply_protocol
from datamodules.store import FeatureStore
from zoo import create, get_method
from zoo.base import FusionModule, Training, score_metrics
from zoo.nn.pretrained import Encoder, PretrainedEncoder, encoder_input

log = logging.getLogger(__name__)


class Outcome(NamedTuple):
    """What became of one run: ``finished`` now, ``cached`` from earlier, or ``failed`` with its error."""

    spec: RunSpec
    status: Literal["finished", "cached", "failed"]
    folder: Path
    error: str = ""


class Job(NamedTuple):
    """A run with the data it needs.

    ``audio`` and ``text`` are the features that the method reads. The utterances hold them, or, where their encoder is trained
    with the method, what it reads: samples or token ids.
    """

    spec: RunSpec
    utterances: Utterances
    plan: Plan
    audio: Feature
    text: Feature


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
        SuiteError: If an encoder is to be trained that a feature doesn't have.
    """
    corpus = open_corpus(suite.corpus, suite.root, suite.encoding)
    # What isn't used must not tell runs apart.
    audio_encoder, text_encoder = (e if e.trains else Encoder() for e in (suite.audio_encoder, suite.text_encoder))

    @cache
    def load(audio: Feature, text: Feature) -> tuple[Utterances, Plan]:
        utterances = load_utterances(corpus, audio, text, store, suite.skip_bad, suite.max_seconds)
        plan = apply_protocol(utterances.table, suite.protocol, suite.allow_speaker_overlap, corpus.name, utterances.audio.keys)
        return replace(utterances, table=plan.relabel(utterances.table)), plan

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
                    code=code_version(entry.method),
                )
                jobs.append(Job(spec, utterances, plan, audio, text))
    return jobs


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
        return suite.audio, suite.text, suite.training, entry.options
    return published.audio, published.text, published.training, {**published.options, **entry.options}


def bench(
    suite: Suite,
    out: Path | str,
    precision: str = "auto",
    workers: int = 0,
    processes: int = 1,
    threads: int = 0,
    store: FeatureStore | None = None,
    report: Callable[[int, Outcome], None] | None = None,
    epoch: Callable[[str], None] | None = None,
) -> list[Outcome]:
    """Run a suite.

    Args:
        suite: What to run.
        out: Folder of the results; finished runs in it are not run again.
        precision: ``auto`` or Lightning's name.
        workers: Processes that read features ahead of each run.
        processes: Runs at a time, each in a process of its own.
        threads: CPU threads of each run; 0 for PyTorch's own choice.
        store: Where features are kept.
        report: Called after every run with the number done and the outcome.
        epoch: Called after every epoch with a line that says where training is; not with several processes.

    Returns:
        One outcome per run, in the suite's order.
    """
    return run_all(expand(suite, precision, store), Path(out), workers, processes, threads, report or (lambda *_: None), epoch)


def run_all(
    jobs: Sequence[Job],
    out: Path,
    workers: int,
    processes: int,
    threads: int,
    report: Callable[[int, Outcome], None],
    epoch: Callable[[str], None] | None = None,
) -> list[Outcome]:
    """Run jobs; arguments and result as of `bench`."""
    if processes > 1:
        return _run_in_pool(jobs, out, workers, processes, threads, report)
    set_threads(threads)
    outcomes: dict[int, Outcome] = {}
    # Runs that another process holds are left for the end: by then it has usually finished them.
    for patience in (0.0, -1.0):
        for number, job in enumerate(jobs):
            if number not in outcomes and (outcome := run(job, out, workers, patience, epoch)) is not None:
                outcomes[number] = outcome
                report(len(outcomes), outcome)
    return [outcomes[number] for number in range(len(jobs))]


def _run_in_pool(
    jobs: Sequence[Job], out: Path, workers: int, processes: int, threads: int, report: Callable[[int, Outcome], None]
) -> list[Outcome]:
    outcomes: dict[int, Outcome] = {}
    # A process that dies (out of memory, say) breaks its pool. What is left gets a new pool, and after that each job one of its
    # own, so that the job that kills its process is found and recorded.
    for size in (processes, processes, *(1 for _ in jobs)):
        left = [number for number in range(len(jobs)) if number not in outcomes][: None if size > 1 else 1]
        if not left:
            break
        # Spawned, not forked: a forked child can't use CUDA, and inherits locks of PyTorch's threads.
        with ProcessPoolExecutor(size, get_context("spawn"), _start_worker, (threads,)) as pool:
            numbers = {pool.submit(run, jobs[number], out, workers): number for number in left}
            for future in as_completed(numbers):
                number = numbers[future]
                try:
                    outcome = future.result()
                except BrokenProcessPool:
                    if size > 1:
                        continue
                    outcome = _record_death(jobs[number], out)
                assert outcome is not None, "run() waits for other processes unless told otherwise"
                outcomes[number] = outcome
                report(len(outcomes), outcome)
    return [outcomes[number] for number in range(len(jobs))]


def _start_worker(threads: int) -> None:
    """Set a pool's process up: its threads, and an end when the process that started it is killed."""
    set_threads(threads)
    parent = parent_process()

    def follow() -> None:
        if parent is not None:
            parent.join()
        os._exit(1)

    Thread(target=follow, daemon=True).start()


def _record_death(job: Job, out: Path) -> Outcome:
    message = "the process of this run was killed, perhaps for want of memory; run it with fewer --jobs or a smaller batch"
    results.record_failure(out, job.spec.run_id, job.spec.model_dump(mode="json"), message, "")
    return Outcome(job.spec, "failed", results.failure_file(out, job.spec.run_id), message)


def set_threads(threads: int) -> None:
    """Limit PyTorch to ``threads`` on the CPU; 0 leaves its own choice."""
    if threads:
        torch.set_num_threads(threads)


def run(
    job: Job, out: Path, workers: int = 0, patience: float = -1.0, epoch: Callable[[str], None] | None = None
) -> Outcome | None:
    """Run one job unless it is finished.

    Args:
        job: What to run.
        out: Folder of the results.
        workers: Processes that read features ahead.
        patience: Seconds to wait for another process that runs the same job; negative for as long as it takes.
        epoch: As of `bench`.

    Returns:
        The outcome, or None if another process still holds the job.

    Raises:
        ResultError: If ``out`` can't be written.
    """
    folder = out / job.spec.run_id
    if results.is_finished(folder):
        return Outcome(job.spec, "cached", folder)
    locks = out / ".locks"
    try:
        locks.mkdir(parents=True, exist_ok=True)
        with FileLock(locks / job.spec.run_id, timeout=patience):
            if results.is_finished(folder):
                return Outcome(job.spec, "cached", folder)
            return _run_and_record(job, out, workers, epoch)
    except Timeout:
        return None
    except OSError as error:
        raise results.ResultError(
            f"results can't be written to {out} ({error.strerror or error}); finished runs are kept. "
            "Free some space or name another folder with --out, then run the same command again"
        ) from error


def _run_and_record(job: Job, out: Path, workers: int, epoch: Callable[[str], None] | None) -> Outcome:
    spec = job.spec.model_dump(mode="json")
    partial = results.partial_folder(out, job.spec.run_id)
    try:
        result, predictions = _fit_and_test(job, partial, workers, epoch)
    except Exception as error:  # noqa: BLE001 - whatever a method raises is recorded here and reported; the other runs go on
        message = f"{type(error).__name__}: {error}"
        results.record_failure(out, job.spec.run_id, spec, message, traceback.format_exc())
        results.partial_folder(out, job.spec.run_id).rmdir()
        return Outcome(job.spec, "failed", results.failure_file(out, job.spec.run_id), message)
    return Outcome(job.spec, "finished", results.commit(partial, out, spec, {"spec": spec, **result}, predictions))


def _fit_and_test(job: Job, folder: Path, workers: int, epoch: Callable[[str], None] | None) -> tuple[dict[str, Any], pd.DataFrame]:
    spec, plan = job.spec, job.plan
    _quiet_lightning()
    L.seed_everything(spec.seed, workers=True, verbose=False)
    data = EmotionDataModule(
        job.utterances,
        plan.folds[spec.fold],
        plan.classes,
        get_method(spec.method).unit,
        items_per_batch(job),
        spec.seed,
        workers,
    )
    model = create(spec.method, audio_dim=job.audio.width, text_dim=job.text.width, num_classes=len(plan.classes), **spec.options)
    model.training_options = spec.training
    for modality, feature, settings in (("audio", job.audio, spec.audio_encoder), ("text", job.text, spec.text_encoder)):
        # A method that doesn't read a modality has no use for its encoder.
        if settings.trains and modality in model.modalities:
            assert isinstance(feature, HiddenStates), "_input has refused any other"
            model.pretrained[modality] = PretrainedEncoder(feature, settings)
    logger = TensorBoardLogger(folder, name="tensorboard", version="", default_hp_metric=False)
    monitor = f"val/{plan.headline}"
    checkpoint = ModelCheckpoint(folder, "checkpoint", monitor, mode="max", save_weights_only=True)
    meter = CostMeter()
    telling = [_EpochReport(spec, monitor, epoch)] if epoch else []
    trainer = L.Trainer(
        max_epochs=spec.training.max_epochs,
        precision=spec.precision,
        accelerator="auto",
        devices=1,
        # On CUDA some kernels have no deterministic form; on the CPU all have, and a repeated run gives the same bits.
        deterministic="warn" if torch.cuda.is_available() else True,
        logger=logger,
        callbacks=[EarlyStopping(monitor, mode="max", patience=spec.training.patience), checkpoint, meter, *telling],
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=10,
        num_sanity_val_steps=0,
    )
    started = time.perf_counter()
    trainer.fit(model, datamodule=data)
    fit_seconds = time.perf_counter() - started
    epochs = trainer.current_epoch
    validation = trainer.validate(model, data, ckpt_path="best", verbose=False)[0]
    _log_confusion(logger, model, "val", plan.classes)
    trainer.test(model, data, ckpt_path="best", verbose=False)
    _log_confusion(logger, model, "test", plan.classes)
    logger.finalize("success")
    predictions = _predictions(model, job)
    total, trainable = parameter_counts(model)
    train, test = len(plan.folds[spec.fold].train), len(predictions)
    return {
        "scores": scores(predictions, plan.classes),
        "slices": slice_scores(predictions, job.utterances.slices),
        "validation": {name.removeprefix("val/"): value for name, value in validation.items()},
        "epochs": epochs,
        "utterances": {
            "train": train,
            "val": len(plan.folds[spec.fold].val),
            "test": test,
            "usable": len(job.utterances.table),
            "named": job.utterances.rows,
        },
        "costs": {
            "parameters": total,
            "trainable_parameters": trainable,
            "train_seconds": round(fit_seconds, 3),
            "train_utterances_per_second": round(train * epochs / meter.train_seconds, 1),
            "test_utterances_per_second": round(test / meter.test_seconds, 1),
            "peak_memory_mib": round(meter.peak_memory_mib, 1),
        },
        "headline": plan.headline,
        "features": {"audio": str(job.audio), "text": str(job.text)},
        "caveats": [*plan.caveats, *job.utterances.notes],
        "environment": environment(model),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
    }, predictions


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

    def __init__(self, spec: RunSpec, monitor: str, tell: Callable[[str], None]) -> None:
        self._name, self._monitor, self._tell = f"{spec.method} fold {spec.fold} seed {spec.seed}", monitor, tell
        self._most = spec.training.max_epochs

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.state.fn != "fit":
            return
        score = float(trainer.callback_metrics[self._monitor])
        self._tell(f"{self._name}: epoch {trainer.current_epoch + 1} of at most {self._most}, {self._monitor} {score:.3f}")


def _predictions(model: FusionModule, job: Job) -> pd.DataFrame:
    """Every test utterance with its label, speaker, dialogue, slices and probabilities ``p_<class>``, in the order of the fold."""
    fold = job.plan.folds[job.spec.fold]
    known = list(dict.fromkeys(["label", "speaker", "dialogue", *job.utterances.slices]))
    facts = job.utterances.table.set_index("utterance_id").loc[list(fold.test), known].reset_index()
    probabilities = torch.stack([model.test_probabilities[name] for name in facts["utterance_id"]]).numpy()
    columns = [f"p_{label}" for label in job.plan.classes]
    return pd.concat([facts, pd.DataFrame(probabilities, columns=columns)], axis=1)


def scores(predictions: pd.DataFrame, classes: Sequence[str]) -> dict[str, Any]:
    """All scores of stored predictions.

    Args:
        predictions: As in ``predictions.parquet``.
        classes: Labels in the order of the probabilities.

    Returns:
        ``war``, ``uar``, ``macro_f1``, ``weighted_f1``, ``ece``; ``recall`` per class (None where the test split has none) and
        ``confusion``, rows the truth, columns the prediction, in the order of ``classes``.
    """
    probabilities = torch.from_numpy(predictions[[f"p_{label}" for label in classes]].to_numpy(copy=True))
    labels = torch.tensor([list(classes).index(label) for label in predictions["label"]])
    confusion = torch.zeros(len(classes), len(classes), dtype=torch.long)
    confusion.index_put_((labels, probabilities.argmax(1)), torch.tensor(1), accumulate=True)
    support = confusion.sum(1)
    recalls = (confusion.diagonal() / support.clamp(min=1)).tolist()
    return {
        **{name: float(value) for name, value in score_metrics(len(classes))(probabilities, labels).items()},
        "recall": {label: r if n else None for label, r, n in zip(classes, recalls, support.tolist(), strict=True)},
        "confusion": confusion.tolist(),
    }


def slice_scores(predictions: pd.DataFrame, slices: Sequence[str]) -> dict[str, dict[str, float]]:
    """Accuracy (WAR) on the part of the test split that has each value of each slice column."""
    columns = [column for column in predictions.columns if column.startswith("p_")]
    correct = predictions[columns].idxmax(axis=1) == "p_" + predictions["label"]
    return {name: {str(value): float(war) for value, war in correct.groupby(predictions[name]).mean().items()} for name in slices}


def _log_confusion(logger: TensorBoardLogger, model: FusionModule, split: str, classes: Sequence[str]) -> None:
    figure = confusion_figure(model.confusion.compute().cpu().numpy(), classes)
    logger.experiment.add_figure(f"{split}/confusion", figure)


def environment(model: FusionModule) -> dict[str, Any]:
    """What the run ran on."""
    device = model.trainer.strategy.root_device
    packages = ("torch", "lightning", "torchaudio", "transformers", "torchmetrics", "librosa", "pandas", "numpy")
    return {
        "fusion_zoo": version("fusion-zoo"),
        "revision": _revision(),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in packages},
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else f"{platform.machine()} CPU",
        "threads": torch.get_num_threads(),
    }


@cache
def _revision() -> str | None:
    """Commit of the checkout this code runs from, with ``-dirty`` for uncommitted changes; None for an installed package."""
    here = Path(__file__).resolve().parent
    try:
        git = ["git", "-C", str(here)]
        # An installed copy may lie inside a checkout of something else.
        tracked = subprocess.run([*git, "ls-files", "--error-unmatch", Path(__file__).name], capture_output=True, check=False)  # noqa: S603
        describe = [*git, "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
        done = subprocess.run(describe, capture_output=True, text=True, check=False)  # noqa: S603
    except FileNotFoundError:
        return None
    return done.stdout.strip() or None if tracked.returncode == 0 else None


def _quiet_lightning() -> None:
    """Keep Lightning's notices off the screen: one line per run is enough."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message=".*The number of training batches.*")
    warnings.filterwarnings("ignore", message=".*Checkpoint directory .* exists and is not empty.*")
    warnings.filterwarnings("ignore", message=".*LeafSpec.*")
    warnings.filterwarnings("ignore", message=r".*module\(s\) in eval mode.*")  # an encoder's frozen layers
