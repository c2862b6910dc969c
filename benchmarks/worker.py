"""How a process of the local pool begins.

Nothing here loads torch: the process must know its GPUs before CUDA looks for them, and unpickling `start` imports this module.
"""

import os
import signal
from multiprocessing.connection import Connection
from threading import Thread


def start(gpus: str | None, threads: int, alive: Connection) -> None:
    """Set a process up that runs jobs.

    Args:
        gpus: The GPUs that it sees, as ``CUDA_VISIBLE_DEVICES`` names them; None for all.
        threads: CPU threads of PyTorch; 0 for its own choice.
        alive: A pipe whose other end only the starting process holds; when that closes it, or is killed, this process ends.
    """
    if gpus is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpus
    # Ctrl-C goes to all processes of a terminal; the starting one decides.
    signal.signal(signal.SIGINT, signal.SIG_IGN)

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
