"""Many runs: in this process, in several on this machine, or on a Ray cluster.

Executors only choose where a run happens. Every run is exclusive by its lock and complete by one rename (`runner.run`,
`results`), so the results are the same whichever executor, in whatever order, and however many people run the same suite.
"""

import os
import signal
import socket
import sys
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from threading import current_thread, main_thread
from typing import Any

import torch

from benchmarks import results
from benchmarks.runner import DEATHS, Job, Outcome, expand, run
from benchmarks.spec import Execution, ExecutionError, RunSpec, Suite
from datamodules.store import FeatureStore
from datamodules.workers import refuse_to_start_again, set_threads, worker_pools

Report = Callable[[int, Outcome], None]
Status = Callable[[str], None]
Submit = Callable[[Job, float], "Future[Outcome | None]"]
"""Starts a job somewhere; the number is the patience of `runner.run`."""


def bench(
    suite: Suite,
    out: Path | str,
    precision: str = "auto",
    execution: Execution | None = None,
    store: FeatureStore | None = None,
    report: Report | None = None,
    status: Status | None = None,
) -> list[Outcome]:
    """Run a suite.

    Args:
        suite: What to run.
        out: Folder of the results; finished runs in it are not run again.
        precision: ``auto`` or Lightning's name.
        execution: Where and how; None for one run after the other in this process.
        store: Where features are kept.
        report: Called after every run with the number done and the outcome.
        status: Called with a line that says what is going on: after every epoch, or when another run starts.

    Returns:
        One outcome per run, in the suite's order.
    """
    return execute(expand(suite, precision, store), Path(out), execution or Execution(), report, status)


def execute(
    jobs: Sequence[Job], out: Path, execution: Execution, report: Report | None = None, status: Status | None = None
) -> list[Outcome]:
    """Run jobs; arguments and result as of `bench`.

    Raises:
        ExecutionError: If the machine or the cluster hasn't what is asked for.
        ResultError: If ``out`` can't be written.
        StartError: If processes are needed and can't be started.
    """
    refuse_to_start_again()  # not only when it comes to processes: it would wait for the run that waits for it
    outcomes: dict[int, Outcome] = {}

    def done(number: int, outcome: Outcome) -> None:
        outcomes[number] = outcome
        if report:
            report(len(outcomes), outcome)

    out = out.absolute()  # a cluster's processes have working folders of their own
    for number, job in enumerate(jobs):
        if results.is_finished(out / job.spec.run_id):
            done(number, Outcome(job.spec, "cached", out / job.spec.run_id))
    left = {number: job for number, job in enumerate(jobs) if number not in outcomes}
    with interruptible():
        if not left:
            pass
        elif execution.executor == "ray":
            _on_ray(left, out, execution, done)
        elif len(slots := local_slots(execution)) > 1:
            _in_pool(left, out, execution, slots, done, status)
        else:
            _in_this_process(left, out, execution, done, status)
    return [outcomes[number] for number in range(len(jobs))]


Done = Callable[[int, Outcome], None]


def _in_this_process(jobs: dict[int, Job], out: Path, execution: Execution, done: Done, status: Status | None) -> None:
    set_threads(execution.threads)

    def submit(job: Job, patience: float) -> "Future[Outcome | None]":
        future: Future[Outcome | None] = Future()
        try:
            future.set_result(run(job, out, execution, patience, status))
        except DEATHS as error:
            if isinstance(error, torch.AcceleratorError) and execution.devices == 1:
                failed = _record_death(job, out, error)
                raise ExecutionError(
                    f"{failed.error.splitlines()[0]} (traceback in {failed.folder}). After it this process can't use its GPU; "
                    "finished runs are kept. Run the same command again; with --jobs 2 such an error ends a run and not the command"
                ) from error
            future.set_exception(error)
        return future

    _schedule(jobs, [submit], _is_death, out, done)


@contextmanager
def interruptible() -> Iterator[None]:
    """Let Ctrl-C and SIGTERM end this process as usual, whatever Lightning makes of them.

    It answers Ctrl-C by exiting with status 1, and hears no other; this makes it a KeyboardInterrupt again. Schedulers and
    containers send SIGTERM: Lightning ends a fit with status 0, and a test not at all; this exits with status 143.
    """
    interrupt, terminate = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    mine = terminate is signal.SIG_DFL and current_thread() is main_thread()  # others can't set it
    if mine:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        yield
    except SystemExit as stop:
        if not isinstance(stop.__context__, KeyboardInterrupt):
            raise
        signal.signal(signal.SIGINT, interrupt)
        raise KeyboardInterrupt from None
    finally:
        if mine:
            signal.signal(signal.SIGTERM, terminate)


def visible_gpus() -> list[str]:
    """The GPUs, or parts of divided ones (MIG), that this process may use, as ``CUDA_VISIBLE_DEVICES`` names them."""
    names = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    count = torch.cuda.device_count()
    if count and names and _is_part(names[0]):
        return names  # a process sees the first of them only, so PyTorch counts one
    return names[:count] or [str(number) for number in range(count)]


def _is_part(name: str) -> bool:
    return name.startswith("MIG-")


def local_slots(execution: Execution) -> list[str | None]:
    """The GPUs of each run at a time on this machine, as ``CUDA_VISIBLE_DEVICES`` names them; None for all there are.

    Raises:
        ExecutionError: If there are fewer GPUs than the execution asks for.
    """
    gpus, each = visible_gpus(), execution.devices
    if not gpus:
        if execution.per_gpu:
            raise ExecutionError("--per-gpu counts runs on each GPU, but PyTorch finds none here; use --jobs")
        return [None] * execution.jobs
    if each > 1 and _is_part(gpus[0]):
        raise ExecutionError(f"--devices {each}: a process sees only one part of a divided GPU (MIG); leave --devices at 1")
    if each > len(gpus):
        raise ExecutionError(f"--devices {each}: only {len(gpus)} GPUs are visible ({', '.join(gpus)})")
    groups = [",".join(gpus[first : first + each]) for first in range(0, len(gpus) - each + 1, each)]
    return [groups[number % len(groups)] for number in range(execution.per_gpu * len(groups) or execution.jobs)]


def _in_pool(
    jobs: dict[int, Job], out: Path, execution: Execution, slots: Sequence[str | None], done: Done, status: Status | None
) -> None:
    with worker_pools() as open_pool:
        processes = [_OneProcess(partial(open_pool, 1, execution.threads, gpus), execution, out) for gpus in slots]
        _schedule(jobs, [process.submit for process in processes], _is_death, out, done, status)


class _OneProcess:
    """A pool of one process, so that a process that dies (out of memory, say) takes one known run with it and no other."""

    def __init__(self, open_pool: Callable[[], ProcessPoolExecutor], execution: Execution, out: Path) -> None:
        self._open, self._execution, self._out = open_pool, execution, out
        self._pool = open_pool()
        self._last: Future[Outcome | None] | None = None

    def submit(self, job: Job, patience: float) -> "Future[Outcome | None]":
        if self._last is not None and isinstance(self._last.exception(), torch.AcceleratorError):  # it can't use its GPU again
            self._pool.shutdown()
            self._pool = self._open()
        try:
            self._last = self._pool.submit(run, job, self._out, self._execution, patience)
        except BrokenProcessPool:
            self._pool = self._open()
            self._last = self._pool.submit(run, job, self._out, self._execution, patience)
        return self._last


def _is_death(error: BaseException | None) -> bool:
    return isinstance(error, DEATHS)


def _schedule(
    jobs: dict[int, Job],
    slots: Sequence[Submit],
    is_death: Callable[[BaseException | None], bool],
    out: Path,
    done: Done,
    status: Status | None = None,
) -> None:
    """Run jobs on slots, each of which takes one at a time.

    First come those that no other process holds, then those that were held: by then they have usually been finished. A job
    that died is tried once more, alone, because the kernel that runs out of memory may end an innocent one, and a GPU's memory
    may have been full of others; if it dies again, it has failed.
    """
    held, died = [], []
    for number, future in _flow(jobs, list(jobs), slots, 0.0, status):
        if is_death(future.exception()):
            died.append(number)
        elif (outcome := future.result()) is None:
            held.append(number)
        else:
            done(number, outcome)
    for number, future in _flow(jobs, held, slots, -1.0, status):
        if is_death(future.exception()):
            died.append(number)
        else:
            done(number, _certain(future.result()))
    for number, future in _flow(jobs, died, slots[:1], -1.0, status):
        error = future.exception()
        done(number, _record_death(jobs[number], out, error) if is_death(error) else _certain(future.result()))


def _flow(
    jobs: dict[int, Job], numbers: Sequence[int], slots: Sequence[Submit], patience: float, status: Status | None
) -> "Iterator[tuple[int, Future[Outcome | None]]]":
    """Every job with its future, as they end; a slot gets its next job when it is through with the last."""
    waiting, idle = deque(numbers), list(slots)
    busy: dict[Future[Outcome | None], tuple[int, Submit]] = {}
    while waiting or busy:
        while waiting and idle:
            number, submit = waiting.popleft(), idle.pop(0)
            busy[submit(jobs[number], patience)] = number, submit
        if status:
            status(_names([jobs[number].spec for number, _ in busy.values()]))
        for future in wait(busy, return_when=FIRST_COMPLETED).done:
            number, submit = busy.pop(future)
            idle.append(submit)
            yield number, future


def _names(specs: Sequence[RunSpec]) -> str:
    shown = [f"{spec.method} fold {spec.fold} seed {spec.seed}" for spec in specs[:3]]
    return f"{len(specs)} running: " + ", ".join(shown) + (" …" if len(specs) > 3 else "")


def _certain(outcome: Outcome | None) -> Outcome:
    assert outcome is not None, "run() waits for other processes if its patience has no end"
    return outcome


def _record_death(job: Job, out: Path, error: BaseException | None) -> Outcome:
    message = "the process of this run was killed, perhaps for want of memory; run it with fewer --jobs or a smaller batch"
    cause = getattr(error, "cause", error)  # on a cluster, what the run raised
    if isinstance(cause, (torch.OutOfMemoryError, torch.AcceleratorError)):
        message = f"{type(cause).__name__}: {cause}"
    told = "".join(traceback.format_exception(error))
    results.record_failure(out, job.spec.run_id, job.spec.model_dump(mode="json"), message, told)
    return Outcome(job.spec, "failed", results.failure_file(out, job.spec.run_id), message)


def _on_ray(jobs: dict[int, Job], out: Path, execution: Execution, done: Done) -> None:
    """Give all jobs to the cluster, which queues them; one whose process or node is lost is started again elsewhere."""
    import ray

    mine = not ray.is_initialized()
    if mine:
        try:
            if execution.address != "auto":  # Ray itself would try for many minutes
                host, _, port = execution.address.rpartition(":")
                socket.create_connection((host, int(port)), timeout=10).close()
            terminate = signal.getsignal(signal.SIGTERM)
            ray.init(execution.address, logging_level="WARNING", log_to_driver=False)
            if current_thread() is main_thread():  # Ray has set its own
                signal.signal(signal.SIGTERM, terminate)
        except (OSError, ValueError) as error:
            raise ExecutionError(
                f"no Ray cluster answers at {execution.address!r} ({error}); start one with 'ray start --head', and name it as "
                "--address HOST:PORT"
            ) from error
    try:
        gpus = 0.0
        if ray.cluster_resources().get("GPU", 0):
            gpus = float(execution.devices) if execution.devices > 1 else 1 / max(execution.per_gpu, 1)
        # max_retries counts lost processes and nodes, not errors of the run, which `run` records.
        remote = ray.remote(num_cpus=max(execution.threads, 1) * execution.devices, num_gpus=gpus, max_retries=3)(_run_on_ray)
        # The data go to the cluster once, not with every run.
        shared = {(id(job.utterances), id(job.plan)): (job.utterances, job.plan) for job in jobs.values()}
        stored = {key: ray.put(data) for key, data in shared.items()}

        def submit(job: Job, patience: float) -> "Future[Outcome | None]":
            data = stored[id(job.utterances), id(job.plan)]
            rest = {name: part for name, part in job._asdict().items() if name not in {"utterances", "plan"}}
            future: Future[Outcome | None] = remote.remote(rest, data, out, execution, patience).future()
            return future

        def is_lost(error: BaseException | None) -> bool:
            if isinstance(error, ray.exceptions.RayTaskError):
                return _is_death(error.cause)
            return isinstance(error, ray.exceptions.RayError)

        try:
            _schedule(jobs, [submit] * len(jobs), is_lost, out, done)
        except ray.exceptions.RayTaskError as error:
            raise error.cause from None
    finally:
        if mine:
            ray.shutdown()


def _run_on_ray(rest: dict[str, Any], data: tuple[Any, Any], out: Path, execution: Execution, patience: float) -> Outcome | None:
    """Run a job that came in two parts: ``data``, its utterances and plan, and the ``rest``."""
    set_threads(execution.threads)
    return run(Job(utterances=data[0], plan=data[1], **rest), out, execution, patience)
