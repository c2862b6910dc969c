"""Equal search budgets: as many trials for every method on every fold, judged on the validation split alone.

Each fold is searched by itself. Hyper-parameters chosen once for all folds of a cross-validation would be chosen on utterances
that other folds test. This way the selection is nested: what a fold's runs are tested on has no part in it.

One search is one method on one fold: an Optuna study in a journal that all searches share. It is done under a lock, one trial
after the other, by one process; other processes take other searches. A trial's draws depend on its place in the search and on
the finished trials before it, so a search that was killed goes on to the result that it would have had.
"""

import hashlib
import json
import os
import shutil
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import fields, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, get_args

import lightning as L
import yaml
from filelock import Timeout

from benchmarks import results
from benchmarks.execute import interruptible
from benchmarks.runner import Job, expand, fit, monitored
from benchmarks.spec import Execution, ExecutionError, MethodSpec, Range, Search, Searched, Space, Suite, SuiteError, Tuned
from datamodules.problems import UnknownNameError
from datamodules.store import FeatureStore
from zoo import method_options

if TYPE_CHECKING:
    from optuna import Study, Trial
    from optuna.storages import JournalStorage
    from optuna.trial import FrozenTrial

WIDTHS = ("hidden", "d", "fused", "channels", "filters")
"""Options that are widths of layers, which ``width`` in a search space multiplies."""
_DEATHS = 3
"""After so many processes died at a trial, it has failed; one or two may have been ended by somebody."""
_ERROR = "error"
"""Under this name a failed trial keeps its error. One without was cut short, and isn't counted."""
_STOPPED = "stopped"
"""Of a trial that its user, a scheduler or a full disk ended, which says nothing about the method."""


class Finding(NamedTuple):
    """The result of one search.

    Attributes:
        method: The method.
        variant: Its name in results.
        fold: Number of the fold.
        tuned: What was chosen.
        errors: Of the trials that failed.
    """

    method: str
    variant: str
    fold: int
    tuned: Tuned
    errors: list[str]


class Tuning(NamedTuple):
    """A tuned suite, the file that holds it, and every search in the suite's order."""

    suite: Suite
    file: Path
    findings: list[Finding]


def tune(
    suite: Suite,
    out: Path | str,
    trials: int | None = None,
    precision: str = "auto",
    execution: Execution | None = None,
    store: FeatureStore | None = None,
    report: Callable[[int, int, str], None] | None = None,
) -> Tuning:
    """Search hyper-parameters for every method of a suite on every fold, with the suite's first seed.

    Args:
        suite: What to search for, and in its ``search`` where; what an earlier search chose doesn't count.
        out: Folder of the journal, where a search that was cut short goes on, and of the tuned suite, ``suite.yaml``.
        trials: Of every search; None for the suite's.
        precision: As of `benchmarks.runner.expand`.
        execution: Its ``workers`` matter here; trials run in this process.
        store: Where features are kept.
        report: Called after every trial, and every search, with the number of trials done, the number in all, and a line.

    Raises:
        ExecutionError: If Optuna isn't installed.
        SuiteError: If the suite's track or space has nothing to search, or every trial of a search failed.
        UnknownNameError: If the space names something that there isn't.
        ResultError: If ``out`` can't be written, or its journal is damaged.
    """
    if find_spec("optuna") is None:
        raise ExecutionError("Optuna is not installed; pip install 'fusion-zoo[tune]'")
    search = Search(trials=suite.search.trials if trials is None else trials, space=suite.search.space)
    untuned = tuple(entry.model_copy(update={"tuned": {}}) for entry in suite.methods)
    suite = suite.model_copy(update={"methods": untuned, "search": search})
    _check_space(suite)
    out = Path(out).absolute()
    jobs = expand(suite.model_copy(update={"seeds": suite.seeds[:1]}), precision, store)
    try:
        out.mkdir(parents=True, exist_ok=True)
        findings = _search_all(jobs, suite, out, execution or Execution(), report or (lambda *_: None))
        file = out / "suite.yaml"
        tuned = _tuned_suite(suite, jobs, findings, _journal(out))
        _write(tuned, file)
    except OSError as error:
        raise results.ResultError(
            f"the search can't go on in {out} ({error}); finished trials are kept. "
            "Free some space or name another folder with --out, then run the same command again"
        ) from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise results.ResultError(_damage(_journal(out))) from error
    return Tuning(tuned, file, findings)


def _check_space(suite: Suite) -> None:
    """Refuse what can't be searched.

    Raises:
        SuiteError: If a name belongs to the budget, a value isn't of its option's kind, or a method has nothing of the space.
        UnknownNameError: For a name that is neither a setting of the training nor an option of any method.
    """
    if suite.track == "published":
        raise SuiteError("in the published track every method has its paper's hyper-parameters; tune the controlled track")
    owners = {entry.method: method_options(entry.method) for entry in suite.methods}
    settings = [f"training.{key}" for key in get_args(Searched)]
    budget = {f"training.{field.name}" for field in fields(suite.training)} - set(settings)
    known = [*settings, "width", *dict.fromkeys(option for options in owners.values() for option in options)]
    for name, values in suite.search.space.items():
        listed = (values.low, values.high) if isinstance(values, Range) else values
        if name in budget:
            raise SuiteError(f"search: {name} belongs to the budget, which is the same for all methods; leave it out")
        if name not in known:
            raise UnknownNameError("searched option", name, known)
        if name in settings or name == "width":
            if any(isinstance(v, (bool, str)) or v < 0 or (v == 0 and name in {"width", "training.lr"}) for v in listed):
                raise SuiteError(f"search: {name} is {values}; it takes positive numbers")
            continue
        for method, options in owners.items():
            whole = isinstance(values, Range) and isinstance(options.get(name), int)
            for value in listed if name in options else ():
                MethodSpec(method=method, options={name: int(value) if whole else value}).checked()
            if whole and any(value != int(value) for value in listed):
                raise SuiteError(f"search: {name} of {method} takes whole numbers, not {values}")
    for entry in suite.methods:
        if not _own_point(entry.method, entry.options, suite, suite.search.space):
            raise SuiteError(
                f"search: {entry.method} has none of {', '.join(suite.search.space)}; leave it out, or add one of its options"
            )


def _own_point(method: str, options: dict[str, Any], suite: Suite, space: Space) -> dict[str, Any]:
    """The suite's own values of what is searched for a method, in an order that doesn't depend on how the suite was written."""
    own = {**method_options(method), **options}
    point: dict[str, Any] = {}
    for name in sorted(space):
        if name.startswith("training."):
            point[name] = getattr(suite.training, name.removeprefix("training."))
        elif name == "width":
            point |= {name: 1} if any(own.get(width) for width in WIDTHS) else {}
        elif name in own:
            point[name] = own[name]
    return point


def _journal(out: Path) -> Path:
    return out / "journal.log"


def _open(journal: Path) -> "JournalStorage":
    """The storage of all searches, which survives processes that die while they write to it."""
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock

    class Lock(JournalFileSymlinkLock):
        """Optuna takes it before it appends; a half line would make what comes after it unreadable."""

        def acquire(self) -> bool:
            acquired: bool = super().acquire()
            try:
                _cut_half_line(journal)
            except OSError:
                self.release()
                raise
            return acquired

    return JournalStorage(JournalFileBackend(str(journal), Lock(str(journal))))


def _cut_half_line(journal: Path) -> None:
    """Cut off what a full disk, or a process that died, has left of a line at the end."""
    with journal.open("rb+") as file:
        file.seek(max(file.seek(0, os.SEEK_END) - 1, 0))
        if file.read() not in {b"", b"\n"}:
            file.seek(0)
            file.truncate(file.read().rfind(b"\n") + 1)


def _damage(journal: Path) -> str:
    """Where a journal is damaged, and what to do."""
    number = 1
    with suppress(json.JSONDecodeError, UnicodeDecodeError):
        for line in journal.read_bytes().splitlines():
            json.loads(line)
            number += 1
    return f"{journal}, line {number}: damaged; cut the file before this line, and the same command goes on from there"


def _search_all(
    jobs: Sequence[Job], suite: Suite, out: Path, execution: Execution, report: Callable[[int, int, str], None]
) -> list[Finding]:
    """Do every search, those that another process is at last; then read all results."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)  # of PartialFixedSampler
    storage = _open(_journal(out))
    trials = suite.search.trials
    left = list(jobs)
    for patience in (0.0, -1.0):
        for job in list(left):
            name, before = _name(job, suite.search.space), trials * (len(jobs) - len(left))
            try:
                with results.run_lock(out, name, patience):
                    study = optuna.create_study(
                        storage=storage,
                        study_name=name,
                        direction="maximize",
                        load_if_exists=True,
                        pruner=optuna.pruners.MedianPruner(n_warmup_steps=job.spec.training.patience),
                    )
                    for number in range(len(_counted(study)), trials):
                        line = _try(study, number, job, suite, out, execution)
                        report(before + number + 1, trials * len(jobs), f"{_title(job)}: {line}")
            except Timeout:
                continue
            left.remove(job)
            report(before + trials, trials * len(jobs), _title(job))
    return [_finding(job, optuna.load_study(study_name=_name(job, suite.search.space), storage=storage), trials) for job in jobs]


def _name(job: Job, space: Space) -> str:
    """Of a search: the run with the suite's own settings, and the space."""
    listed = {name: values.model_dump() if isinstance(values, Range) else values for name, values in space.items()}
    return f"{job.spec.run_id}-{_digest(json.dumps(listed, sort_keys=True))}"


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=4).hexdigest()


def _title(job: Job) -> str:
    return f"{job.spec.method} ({job.spec.variant}) fold {job.spec.fold}"


def _counted(study: "Study") -> "list[FrozenTrial]":
    """The trials of a study that count, in order: not those that were cut short."""
    from optuna.trial import TrialState

    return [t for t in study.trials if t.state in {TrialState.COMPLETE, TrialState.PRUNED} or _ERROR in t.user_attrs]


def _try(study: "Study", number: int, job: Job, suite: Suite, out: Path, execution: Execution) -> str:
    """Do the trial with this number, under the search's lock; returns what became of it."""
    import optuna
    from optuna.trial import TrialState

    died = 0
    for old in reversed(study.trials):
        if old.state == TrialState.RUNNING:  # its process is gone, or it would still have the lock
            study.tell(old.number, state=TrialState.FAIL)
        elif old.state != TrialState.FAIL or _ERROR in old.user_attrs:
            break
        died += _STOPPED not in old.user_attrs
    trial = study.ask()
    point = _draw(study, trial, number, job, suite)
    changed = _changed(job, point)
    trial.set_user_attr("point", point)
    folder = results.partial_folder(out, study.study_name)
    try:
        if died >= _DEATHS:
            raise MemoryError(f"{died} processes died at this trial, perhaps for want of memory")
        with interruptible():
            fitted = fit(changed, folder, execution, callbacks=[_Pruning(trial, monitored(job))])
        assert fitted is not None, "there is one device"
        score = fitted.validation[job.plan.headline]
    except optuna.TrialPruned:
        study.tell(trial, state=TrialState.PRUNED)
        return "pruned"
    except (KeyboardInterrupt, SystemExit, OSError):  # a user's will, a scheduler's or a full disk is no fault of the method's
        with suppress(OSError):
            trial.set_user_attr(_STOPPED, True)
        raise
    except Exception as error:  # noqa: BLE001 - whatever a method raises is recorded and told; the other trials go on
        trial.set_user_attr(_ERROR, f"{type(error).__name__}: {error}")
        study.tell(trial, state=TrialState.FAIL)
        return f"failed, {type(error).__name__}: {error}"
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    study.tell(trial, score)
    return f"validation {job.plan.headline} {score:.3f}"


def _draw(study: "Study", trial: "Trial", number: int, job: Job, suite: Suite) -> dict[str, Any]:
    """The point of the space that a trial tries: the suite's own first, then at random, then by Optuna's TPE."""
    from optuna.samplers import PartialFixedSampler, TPESampler

    own = _own_point(job.spec.method, job.spec.options, suite, suite.search.space)
    # By the trial's number in the search, so that a search that goes on draws what it would have drawn.
    study.sampler = TPESampler(seed=int(_digest(f"seed {job.spec.seed} fold {job.spec.fold} trial {number}"), 16))
    if number == 0:
        study.sampler = PartialFixedSampler(own, study.sampler)
    point: dict[str, Any] = {}
    for name, mine in own.items():
        values = suite.search.space[name]
        if number == 0 and not (values.low <= mine <= values.high if isinstance(values, Range) else mine in values):
            continue  # the suite's own value lies outside: it is tried, but the sampler doesn't learn of it
        if not isinstance(values, Range):
            point[name] = trial.suggest_categorical(name, values)
        elif isinstance(mine, int) and not name.startswith("training."):
            point[name] = trial.suggest_int(name, int(values.low), int(values.high), log=values.log)
        else:
            drawn = trial.suggest_float(name, values.low, values.high, log=values.log)
            point[name] = mine if number == 0 else float(f"{drawn:.4g}")
    return point


def _changes(method: str, options: dict[str, Any], point: dict[str, Any]) -> tuple[dict[str, Any], dict[Any, Any]]:
    """A point as changes to a method's options and to the training."""
    own = {**method_options(method), **options}
    training = {name.removeprefix("training."): v for name, v in point.items() if name.startswith("training.")}
    found = {name: v for name, v in point.items() if name in own}
    factor = point.get("width", 1)
    if factor != 1:
        # Halves for two directions, equal parts for the heads of an attention.
        step = 2 * own.get("heads", 1)
        for width in WIDTHS:
            if own.get(width) and width not in found:
                found[width] = max(step, round(own[width] * factor / step) * step)
    return found, training


def _changed(job: Job, point: dict[str, Any]) -> Job:
    """The job at a point of the space."""
    options, training = _changes(job.spec.method, job.spec.options, point)
    changes = {"options": {**job.spec.options, **options}, "training": replace(job.spec.training, **training)}
    return job._replace(spec=job.spec.model_copy(update=changes))


class _Pruning(L.Callback):
    """Ends a trial whose best epoch so far is worse than the median of the trials before it at that epoch."""

    def __init__(self, trial: "Trial", monitor: str) -> None:
        self._trial, self._monitor, self._best = trial, monitor, 0.0

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.state.fn != "fit":
            return
        from optuna import TrialPruned

        self._best = max(self._best, float(trainer.callback_metrics[self._monitor]))
        self._trial.report(self._best, trainer.current_epoch)
        if self._trial.should_prune():
            raise TrialPruned


def _finding(job: Job, study: "Study", trials: int) -> Finding:
    """The best of the first ``trials``."""
    from optuna.trial import TrialState

    counted = _counted(study)[:trials]
    errors = [t.user_attrs[_ERROR] for t in counted if _ERROR in t.user_attrs]
    complete = [t for t in counted if t.state == TrialState.COMPLETE]
    if not complete:
        raise SuiteError(f"every trial of {_title(job)} failed, the first with {errors[0]}; leave the method out, or mend it")
    best = max(complete, key=lambda t: t.value)  # of equals the first
    options, training = _changes(job.spec.method, job.spec.options, best.user_attrs["point"])
    tuned = Tuned(
        options=options,
        training=training,
        score=best.value,
        untuned=counted[0].value if counted[0] in complete else None,
        pruned=len(counted) - len(complete) - len(errors),
        failed=len(errors),
        conditions=job.spec.conditions,
    )
    return Finding(job.spec.method, job.spec.variant, job.spec.fold, tuned, errors)


def _tuned_suite(suite: Suite, jobs: Sequence[Job], findings: Sequence[Finding], journal: Path) -> Suite:
    """The suite with what was chosen; jobs and findings are in the order of the methods, then of the folds."""
    first = jobs[0]
    folds = len(first.plan.folds)
    methods = [
        entry.model_copy(update={"tuned": {f.fold: f.tuned for f in findings[n * folds : (n + 1) * folds]}})
        for n, entry in enumerate(suite.methods)
    ]
    search = {"protocol": first.spec.protocol, "journal": str(journal)}
    places = {key: first.suite[key] for key in ("corpus", "root")}  # the file is read in another folder
    return Suite(**{**suite.model_dump(), **places, "methods": methods, "search": {**suite.search.model_dump(), **search}})


def _write(suite: Suite, file: Path) -> None:
    """Write a tuned suite, in one step, since other processes may write the same."""
    head = f"# {suite.search.trials} trials for every method on every fold, judged on validation. Run it with fusion-zoo bench.\n"
    partial = file.with_name(f".{file.name}.{os.getpid()}")
    partial.write_text(head + yaml.safe_dump(suite.model_dump(mode="json"), sort_keys=False, allow_unicode=True), encoding="utf-8")
    partial.replace(file)
