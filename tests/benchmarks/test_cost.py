"""Costs: operations against a count by hand, and a measurement that leaves no trace in the result."""

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from torch import nn

from benchmarks import cost
from benchmarks.cost import CostMeter, flops_per_utterance, latencies
from datamodules.batch import Batch, Item, collate_dialogues, collate_utterances
from zoo.base import FusionModule, Output

T, A, D, H, C = 7, 5, 6, 8, 3  # frames, tokens, width, units, classes


class Probe(FusionModule):
    """One layer over the audio, and nothing else."""

    family = "single"
    paper = "none"

    def __init__(self, layer: nn.Module) -> None:
        super().__init__(C)
        self.layer = layer

    def forward(self, batch: Batch, maps: bool = False) -> Output:
        x = batch.audio.flatten(0, -3)
        out = self.layer(x, x, x)[0] if isinstance(self.layer, nn.MultiheadAttention) else self.layer(x)
        out = out[0] if isinstance(out, tuple) else out
        return Output(out.mean(1)[:, :C].unflatten(0, batch.label.shape))


def item(name: str = "u") -> Item:
    random = np.random.default_rng(0)
    return Item(random.normal(size=(T, D)).astype(np.float32), random.normal(size=(A, D)).astype(np.float32), 0, name)


def attention() -> int:
    projections, products = 4 * 2 * T * D * D, 2 * (2 * T * T * D)  # queries, keys, values, out; Q K^T and weights V
    return projections + products


@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        (nn.Linear(D, H), 2 * T * D * H),
        (nn.Conv1d(T, H, 3), 2 * H * T * 3 * (D - 2)),
        (nn.LSTM(D, H, batch_first=True), 2 * T * 4 * H * (D + H)),  # four gates that read the input and the state
        (nn.GRU(D, H, batch_first=True), 2 * T * 3 * H * (D + H)),
        (
            nn.LSTM(D, H, num_layers=2, bidirectional=True, batch_first=True),
            2 * (2 * T * 4 * H * (D + H)) + 2 * (2 * T * 4 * H * (2 * H + H)),
        ),
        (nn.MultiheadAttention(D, 2, batch_first=True), attention()),
        (
            nn.TransformerEncoderLayer(D, 2, dim_feedforward=H, batch_first=True, norm_first=False),
            attention() + 2 * (2 * T * D * H),
        ),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_operations_are_those_counted_by_hand(layer: nn.Module, expected: int) -> None:
    """Kernels that do a whole layer at once, which a counter sees as nothing, included."""
    assert flops_per_utterance(Probe(layer).eval(), collate_utterances([item()])) == expected


def test_a_cards_kernel_of_all_layers_is_counted_as_the_layers_are() -> None:
    """cuDNN gets the weights of all layers and directions as one list; here it is asked for its count alone."""
    lstm = nn.LSTM(D, H, num_layers=2, bidirectional=True, batch_first=True)
    weights = [list(weight.shape) for layer in lstm.all_weights for weight in layer]
    expected = flops_per_utterance(Probe(lstm).eval(), collate_utterances([item()]))
    assert cost._recurrent_flops([T, 1, D], weights, 4, None, out_val=None) == expected


def test_operations_of_a_dialogue_are_per_turn() -> None:
    probe = Probe(nn.LSTM(D, H, batch_first=True)).eval()
    dialogue = collate_dialogues([[item("u0"), item("u1"), item("u2")]])
    assert flops_per_utterance(probe, dialogue) == 2 * T * 4 * H * (D + H)


def test_an_encoder_trained_with_the_method_is_counted(tiny_bert: str) -> None:
    from datamodules.features import parse_feature
    from datamodules.features.transformer import HiddenStates
    from zoo.nn.pretrained import Encoder, PretrainedEncoder

    feature = parse_feature(f"hidden_states(checkpoint={tiny_bert!r})")
    assert isinstance(feature, HiddenStates)
    probe = Probe(nn.Linear(D, H))
    probe.pretrained["text"] = PretrainedEncoder(feature, Encoder("all"))
    batch = collate_utterances([item()._replace(text=np.ones((A, 1), np.int64))])
    width, inner, layers = 16, 32, 3
    layer = 4 * 2 * A * width * width + 2 * (2 * A * A * width) + 2 * (2 * A * width * inner)
    assert flops_per_utterance(probe.eval(), batch) == 2 * T * D * H + layers * layer


def test_measuring_leaves_kernels_and_random_numbers_as_they_were() -> None:
    probe, batch = Probe(nn.LSTM(D, H, batch_first=True)).eval(), collate_utterances([item()])
    trainer: Any = SimpleNamespace(precision_plugin=L.pytorch.plugins.MixedPrecision("bf16-mixed", "cpu"))
    before, state = probe(batch).logits, torch.get_rng_state()
    fast = torch.backends.mha.get_fastpath_enabled()
    flops_per_utterance(probe, batch)
    latencies(trainer, probe, batch)
    assert torch.backends.mha.get_fastpath_enabled() == fast
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(probe(batch).logits, before)


def test_latency_is_that_of_the_model_and_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    class Slow(nn.Module):
        calls = 0

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.calls += 1
            clock[0] += 0.2 if self.calls == 1 else 0.02  # the first is slow, as first calls are
            return x

    clock = [0.0]
    monkeypatch.setattr("benchmarks.cost.time", SimpleNamespace(perf_counter=lambda: clock[0]))
    trainer: Any = SimpleNamespace(precision_plugin=L.pytorch.plugins.Precision())
    times = latencies(trainer, Probe(Slow()), collate_utterances([item()]), seconds=0.5)
    assert times == pytest.approx([0.02] * 25), "0.5 s of 0.02 s each"
    slow = latencies(trainer, Probe(Slow()), collate_utterances([item()]), seconds=0.01)
    assert slow == pytest.approx([0.02] * 3)


def test_energy_is_the_cards_counter_over_the_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    counter = iter([1_000_000, 1_250_500])  # mJ

    class NVMLError(Exception):
        pass

    nvml: Any = ModuleType("pynvml")
    nvml.NVMLError, nvml.nvmlInit = NVMLError, lambda: None
    nvml.nvmlDeviceGetHandleByUUID = lambda uuid: uuid
    nvml.nvmlDeviceGetTotalEnergyConsumption = lambda card: next(counter) if card == "GPU-1-2-3" else 0
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    monkeypatch.setattr("benchmarks.cost.find_spec", lambda name: True)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid="1-2-3"))
    card = torch.device("cuda")
    assert (cost._energy_joules(card), cost._energy_joules(card)) == (1000.0, 1250.5)

    def unsupported(card: str) -> int:
        raise NVMLError

    nvml.nvmlDeviceGetTotalEnergyConsumption = unsupported
    assert cost._energy_joules(card) is None
    assert cost._energy_joules(torch.device("cpu")) is None


def test_costs_of_a_run_without_an_energy_counter() -> None:
    meter = CostMeter()
    meter.train_seconds, meter.test_seconds, meter.latency_ms = 4.0, 2.0, (1.5, 2.5)
    found = meter.costs(Probe(nn.Linear(D, H).requires_grad_(False)), fit_seconds=5.0, trained=100, tested=10)
    assert (found["parameters"], found["trainable_parameters"]) == (D * H + H, 0)
    assert (found["train_utterances_per_second"], found["test_utterances_per_second"]) == (25.0, 5.0)
    assert (found["latency_p50_ms"], found["latency_p95_ms"], found["energy_joules"]) == (1.5, 2.5, None)


@pytest.mark.parametrize(
    ("energy", "counter", "expected"),
    [
        (True, [1000.0, 1250.5], 250.5),
        (True, [1000.0, None], None),  # a counter that fails costs no run
        (True, [None, 5.0], None),
        (False, [1000.0, 1250.5], None),
    ],
)
def test_a_cards_peak_and_energy_are_read_from_the_card(
    monkeypatch: pytest.MonkeyPatch, energy: bool, counter: list[float | None], expected: float | None
) -> None:
    """The trainer knows the card; the model is not asked, since Lightning moves it back to the CPU when the fit is over."""
    card, peaks, counts = torch.device("cuda", 1), {}, iter(counter)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: peaks.update({device: 0}))
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: peaks[device])
    monkeypatch.setattr("benchmarks.cost._energy_joules", lambda device: next(counts) if device == card else None)
    meter, trainer, model = CostMeter(energy), SimpleNamespace(strategy=SimpleNamespace(root_device=card)), Probe(nn.Linear(D, H))
    meter.on_fit_start(trainer, model)  # type: ignore[arg-type]
    peaks[card] = 3 * 2**20
    meter.on_train_end(trainer, model)  # type: ignore[arg-type]
    assert (meter.peak_memory_mib, meter.energy_joules) == (3.0, expected)


def test_the_peak_is_read_before_the_card_is_cleared(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    order: list[str] = []
    monkeypatch.setattr("benchmarks.cost._resident_peak", lambda: order.append("peak") or 0.0)

    class Fit(L.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(1, 1)

        def training_step(self, batch: list[torch.Tensor], _: int) -> torch.Tensor:
            return self.layer(batch[0]).sum()

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters())

        def cpu(self) -> "Fit":
            order.append("moved back")
            return super().cpu()

    quiet: Any = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    trainer = L.Trainer(max_epochs=1, accelerator="cpu", callbacks=[CostMeter()], default_root_dir=tmp_path, **quiet)
    trainer.fit(Fit(), torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.ones(2, 1))))
    assert order[:2] == ["peak", "moved back"]
