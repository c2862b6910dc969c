"""One run on several devices: a process per device, joined by Lightning's distributed data parallel strategy.

The processes are started here and not by Lightning, whose launchers start the whole command again or lose the callbacks' state.
"""

import os
from collections.abc import Callable
from concurrent.futures import FIRST_EXCEPTION, wait
from typing import Any, TypeVar

import torch
from lightning.fabric.plugins.environments.lightning import LightningEnvironment, find_free_network_port

from datamodules.workers import worker_pools

Result = TypeVar("Result")
_RANK = "LOCAL_RANK"


def launch(work: Callable[..., Result], devices: int, threads: int, *arguments: Any) -> Result:  # noqa: ANN401
    """Call ``work(*arguments)`` in a process per device; returns what it returns on the first one.

    Raises:
        Exception: What the first process to fail raises; the others, which would wait for it in vain, are ended.
    """
    meeting_point = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(find_free_network_port())}
    with worker_pools() as open_pool:
        pool = open_pool(devices, threads)
        futures = [pool.submit(_on_rank, {**meeting_point, _RANK: str(rank)}, work, arguments) for rank in range(devices)]
        for future in wait(futures, return_when=FIRST_EXCEPTION).done:
            future.result()
        return futures[0].result()


def _on_rank(environment: dict[str, str], work: Callable[..., Result], arguments: tuple[Any, ...]) -> Result:
    os.environ |= environment
    return work(*arguments)


def rank() -> int:
    """Number of this process among those of its run."""
    return int(os.environ.get(_RANK, "0"))


def trainer_options(devices: int) -> dict[str, Any]:
    """What `lightning.Trainer` must be told to train on ``devices``: CUDA's, or else the CPU's."""
    # Not "auto": on an Apple laptop that is MPS, which isn't CUDA's arithmetic and lacks float64.
    kind = {"accelerator": "cuda" if torch.cuda.is_available() else "cpu", "devices": devices}
    if devices == 1:
        return kind
    return {
        **kind,
        # Parameters may go unused in a step: those of a modality that no item of it has.
        "strategy": "ddp_find_unused_parameters_true",
        "plugins": [LightningEnvironment()],  # it finds the processes of `launch`, on clusters with a scheduler too
        "use_distributed_sampler": False,  # `LengthBatches` divides the batches
    }


def leave() -> None:
    """End the cooperation of the processes: what follows is on one device."""
    torch.distributed.destroy_process_group()
    del os.environ[_RANK]


def caveats(devices: int) -> list[str]:
    """What a reader of the results must know."""
    return [f"trained on {devices} devices, each batch divided among them"] if devices > 1 else []
