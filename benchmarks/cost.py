"""What a run costs: time, throughput and peak memory, measured where the work happens."""

import time
from pathlib import Path
from typing import Any

import lightning as L
import psutil
import torch

_MIB = 2**20


def parameter_counts(module: torch.nn.Module) -> tuple[int, int]:
    """All parameters, and those that are trained."""
    return sum(p.numel() for p in module.parameters()), sum(p.numel() for p in module.parameters() if p.requires_grad)


class CostMeter(L.Callback):
    """Measures training and test of one run.

    Attributes:
        train_seconds: Wall time of the training epochs, validation not counted.
        test_seconds: Wall time of the one pass over the test split.
        peak_memory_mib: Highest resident memory of this process while training (on the CPU, the libraries included), or the
            highest memory allocated on the card.
    """

    def __init__(self) -> None:
        """Start at zero."""
        self.train_seconds = self.test_seconds = self.peak_memory_mib = 0.0
        self._since = 0.0

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Forget earlier peaks."""
        if pl_module.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(pl_module.device)
        else:
            _reset_resident_peak()

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock."""
        self._since = _now(pl_module)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Stop it: validation runs inside Lightning's training epoch."""
        if trainer.training or trainer.validating:
            self._stop_training(pl_module)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Stop it, where there was no validation."""
        self._stop_training(pl_module)

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Read the peak."""
        if pl_module.device.type == "cuda":
            self.peak_memory_mib = torch.cuda.max_memory_allocated(pl_module.device) / _MIB
        else:
            self.peak_memory_mib = _resident_peak() / _MIB

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock."""
        self._since = _now(pl_module)

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Stop it."""
        self.test_seconds = _now(pl_module) - self._since

    def _stop_training(self, pl_module: Any) -> None:  # noqa: ANN401
        if self._since:
            self.train_seconds += _now(pl_module) - self._since
        self._since = 0.0


def _now(pl_module: L.LightningModule) -> float:
    if pl_module.device.type == "cuda":
        torch.cuda.synchronize(pl_module.device)
    return time.perf_counter()


_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def _reset_resident_peak() -> None:
    if _CLEAR.exists():
        _CLEAR.write_text("5")


def _resident_peak() -> float:
    """Peak resident bytes since the last reset; where the kernel keeps none, what is resident now."""
    if _STATUS.exists():
        for line in _STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return float(line.split()[1]) * 1024
    return float(psutil.Process().memory_info().rss)
