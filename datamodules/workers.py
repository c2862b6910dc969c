"""Processes that work for this one, and never outlive it.

Nothing here loads torch: a process must know its GPUs before CUDA looks for them, and its first act is to import this module.
"""

import os
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import current_process, get_context
from multiprocessing.connection import Connection
from threading import Thread

OpenPool = Callable[..., ProcessPoolExecutor]
"""``open_pool(processes, threads=0, gpus=None)`` as of `worker_pools`."""

_GUARD = (
    "Each process begins by importing the script that starts it: put what the script does under 'if __name__ == \"__main__\":', "
    "and keep it in a file"
)


class StartError(RuntimeError):
    """A process can't be started; the message says what would be right."""


def refuse_to_start_again() -> None:
    """Refuse, in a process that is only being started, what starts processes: its script has no guard and would go on for ever.

    Raises:
        StartError: If this is such a process.
    """
    if getattr(current_process(), "_inheriting", False):
        raise StartError(_GUARD)


@contextmanager
def worker_pools() -> Iterator[OpenPool]:
    """Open pools whose processes end when this one does, however it ends, and at once if the block is left by an exception.

    Yields:
        A function that opens a pool of so many ``processes``, with ``threads`` as of `set_threads`, which see ``gpus``, as
        ``CUDA_VISIBLE_DEVICES`` names them; None for all. It raises StartError if the first process doesn't come up.

    Raises:
        StartError: As of `refuse_to_start_again`.
    """
    refuse_to_start_again()
    # Spawned, not forked: a forked child can't use CUDA, and inherits locks of PyTorch's threads.
    context = get_context("spawn")
    ends, alive = context.Pipe(duplex=False)  # only this process holds the end that keeps the others alive
    pools: list[ProcessPoolExecutor] = []

    def open_pool(processes: int, threads: int = 0, gpus: str | None = None) -> ProcessPoolExecutor:
        pools.append(ProcessPoolExecutor(processes, context, _start, (gpus, threads, ends)))
        if len(pools) == 1:  # if one comes up, all do, and a death is a run's own
            try:
                pools[0].submit(os.getpid).result()
            except BrokenProcessPool as error:
                raise StartError(f"a process didn't come up; its error stands above. {_GUARD}") from error
        return pools[-1]

    try:
        yield open_pool
    except BaseException:
        alive.close()
        raise
    finally:
        for pool in pools:
            pool.shutdown(cancel_futures=True)
        alive.close()
        ends.close()


def _start(gpus: str | None, threads: int, alive: Connection) -> None:
    """Set up a process of a pool; it ends when the other end of ``alive`` is closed, or its holder killed."""
    if gpus is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpus
    # Ctrl-C goes to all processes of a terminal; the starting one decides.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Set, because Lightning takes the default for leave to raise an exit, which would pass for the answer of this process.
    signal.signal(signal.SIGTERM, lambda *_: os._exit(128 + signal.SIGTERM))

    def follow() -> None:
        try:
            alive.recv_bytes()
        except (EOFError, OSError):
            os._exit(1)

    Thread(target=follow, daemon=True).start()
    set_threads(threads)


def set_threads(threads: int) -> None:
    """Limit PyTorch to ``threads`` on the CPU; 0 leaves its own choice."""
    if threads:
        import torch

        torch.set_num_threads(threads)
