"""Processes that work for another one."""

import os
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context, parent_process
from threading import Thread


def worker_pool(processes: int, threads: int) -> ProcessPoolExecutor:
    """A pool whose processes end when the one that started them is killed.

    Args:
        processes: How many.
        threads: PyTorch's threads in each on the CPU; 0 leaves its own choice.
    """
    # Spawned, not forked: a forked child can't use CUDA, and inherits locks of PyTorch's threads.
    return ProcessPoolExecutor(processes, get_context("spawn"), _start, (threads,))


def _start(threads: int) -> None:
    import torch

    if threads:
        torch.set_num_threads(threads)
    parent = parent_process()

    def follow() -> None:
        if parent is not None:
            parent.join()
        os._exit(1)

    Thread(target=follow, daemon=True).start()
