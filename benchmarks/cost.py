"""What a run costs: time, throughput, memory, energy, and what one answer takes, measured where the work happens."""

import math
import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import lightning as L
import numpy as np
import psutil
import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from datamodules.batch import Batch
from zoo.base import FusionModule

_MIB = 2**20


def parameter_counts(module: torch.nn.Module) -> tuple[int, int]:
    """All parameters, and those that are trained."""
    return sum(p.numel() for p in module.parameters()), sum(p.numel() for p in module.parameters() if p.requires_grad)


def flops_per_utterance(model: FusionModule, batch: Batch) -> int:
    """Floating-point operations of predicting ``batch``, divided by its utterances.

    Counted by PyTorch: matrix products, convolutions and attention, a multiplication with its addition as two; not what is done
    element by element. An encoder in `FusionModule.pretrained` is included; features from the store are not.

    Args:
        model: In evaluation mode, on the device of ``batch``.
        batch: Shapes as in `Batch`.
    """
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # a whole encoder layer in one kernel, in which the counter sees nothing
    try:
        with torch.inference_mode(), FlopCounterMode(display=False, custom_mapping=_UNCOUNTED) as counter:
            model(model.encode(batch))
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
    total: int = counter.get_total_flops()
    return round(total / len(batch.utterance_id))


def _recurrent_flops(x: Sequence[int], *weights: Any, **_: object) -> int:  # noqa: ANN401
    """Operations of the kernels that run a recurrent layer at once: each step multiplies input and state by every weight once.

    Args:
        x: Shape of the input, (T, B, D) or (B, T, D).
        weights: Arguments of the kernel, shapes in place of tensors: first the layer's weight matrices and biases, or a list of
            those of all layers, then others.
    """
    found = weights[0] if isinstance(weights[0], list) else weights[:2]
    return 2 * x[0] * x[1] * sum(math.prod(shape) for shape in found if len(shape) == 2)


def _attention_flops(query: Sequence[int], key: Sequence[int], value: Sequence[int], *_: object, **__: object) -> int:
    """PyTorch's own count for attention on cards, given the shapes (B, heads, L, D)."""
    return int(sdpa_flop_count(query, key, value))  # type: ignore[no-untyped-call]


_UNCOUNTED: dict[Any, Callable[..., int]] = {
    torch.ops.aten.mkldnn_rnn_layer: _recurrent_flops,
    torch.ops.aten._cudnn_rnn: _recurrent_flops,
    torch.ops.aten.miopen_rnn: _recurrent_flops,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops,
}
"""Kernels that PyTorch's counter doesn't know: LSTM and GRU on the CPU and on cards, attention on the CPU."""


def latencies(trainer: L.Trainer, model: FusionModule, batch: Batch, seconds: float = 0.5, most: int = 100) -> list[float]:
    """Seconds from a batch in the host's memory to its probabilities there, time after time, after a warm-up.

    Args:
        trainer: Says in which precision the model runs.
        model: In evaluation mode, on its device.
        batch: One item, on the CPU.
        seconds: No repetition starts later than this, but there are at least three.
        most: Repetitions at the most.
    """

    def answer() -> float:
        since = _now(model)
        with trainer.precision_plugin.forward_context():
            logits = model(model.encode(model.transfer_batch_to_device(batch, model.device, 0))).logits
        logits.float().softmax(-1).cpu()
        return _now(model) - since

    times: list[float] = []
    with torch.inference_mode():
        for least, limit, count in ((1, seconds / 4, most // 10), (3, seconds, most)):  # the first is the warm-up
            times, started = [], time.perf_counter()
            while len(times) < least or (len(times) < count and time.perf_counter() - started < limit):
                times.append(answer())
    return times


class CostMeter(L.Callback):
    """Measures training and test of one run.

    Attributes:
        train_seconds: Wall time of the training epochs, validation not counted.
        test_seconds: Wall time of the one pass over the test split.
        peak_memory_mib: Highest resident memory of this process while training (on the CPU, the libraries included), or the
            highest memory allocated on the card.
        energy_joules: What the card used during the fit; None where none reports it, or others are on it.
        flops_per_utterance: As of `flops_per_utterance`, for one item of median size.
        latency_ms: Median and 95th percentile of `latencies` for that item.
    """

    def __init__(self, energy: bool = True) -> None:
        """Start at zero; without ``energy`` where the card isn't the run's alone, since its counter is the whole card's."""
        self._counts_energy = energy
        self.train_seconds = self.test_seconds = self.peak_memory_mib = 0.0
        self.energy_joules: float | None = None
        self.flops_per_utterance = 0
        self.latency_ms = 0.0, 0.0
        self._since = 0.0
        self._energy_before: float | None = None

    def costs(self, model: FusionModule, fit_seconds: float, trained: int, tested: int) -> dict[str, Any]:
        """The costs as results hold them.

        Args:
            model: For its parameters.
            fit_seconds: Wall time of the fit, validation included.
            trained: Utterances trained on, over all epochs.
            tested: Utterances tested on.
        """
        total, trainable = parameter_counts(model)
        return {
            "parameters": total,
            "trainable_parameters": trainable,
            "flops_per_utterance": self.flops_per_utterance,
            "train_seconds": round(fit_seconds, 3),
            "train_utterances_per_second": round(trained / self.train_seconds, 1),
            "test_utterances_per_second": round(tested / self.test_seconds, 1),
            "latency_p50_ms": round(self.latency_ms[0], 3),
            "latency_p95_ms": round(self.latency_ms[1], 3),
            "peak_memory_mib": round(self.peak_memory_mib, 1),
            "energy_joules": None if self.energy_joules is None else round(self.energy_joules, 1),
        }

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Forget earlier peaks."""
        device = trainer.strategy.root_device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        else:
            _reset_resident_peak()
        self._energy_before = _energy_joules(device) if self._counts_energy else None

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

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Read the peak and the energy, before Lightning moves the model back to the CPU and clears the card."""
        device = trainer.strategy.root_device
        if device.type == "cuda":
            self.peak_memory_mib = torch.cuda.max_memory_allocated(device) / _MIB
        else:
            self.peak_memory_mib = _resident_peak() / _MIB
        if self._energy_before is not None and (after := _energy_joules(device)) is not None:
            self.energy_joules = after - self._energy_before

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock."""
        self._since = _now(pl_module)

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Stop it, and measure what one answer takes: the scores are made by now, and the model is still on its device."""
        self.test_seconds = _now(pl_module) - self._since
        model = cast("FusionModule", pl_module).eval()
        batch = cast("Any", trainer).datamodule.single()
        self.flops_per_utterance = flops_per_utterance(model, model.transfer_batch_to_device(batch, model.device, 0))
        p50, p95 = np.percentile(latencies(trainer, model, batch), (50, 95)) * 1000
        self.latency_ms = float(p50), float(p95)

    def _stop_training(self, pl_module: Any) -> None:  # noqa: ANN401
        if self._since:
            self.train_seconds += _now(pl_module) - self._since
        self._since = 0.0


def _now(pl_module: L.LightningModule) -> float:
    if pl_module.device.type == "cuda":
        torch.cuda.synchronize(pl_module.device)
    return time.perf_counter()


def _energy_joules(device: torch.device) -> float | None:
    """What the card has used since its driver was loaded; None where none reports it, or pynvml isn't installed."""
    if device.type != "cuda" or find_spec("pynvml") is None:
        return None
    import pynvml

    try:
        pynvml.nvmlInit()
        # By its identifier: NVML numbers the cards without regard to CUDA_VISIBLE_DEVICES.
        card = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties(device).uuid}")
        return float(pynvml.nvmlDeviceGetTotalEnergyConsumption(card)) / 1000
    except pynvml.NVMLError:  # cards before Volta, and parts of a divided card, have no such counter
        return None


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
