"""The shared blocks against slow, plain versions written from the equations."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from zoo.nn import (
    BiGRU,
    BiLSTM,
    LocalAttention,
    MaskedNorm,
    MultiHeadAttention,
    masked_functionals,
    masked_mean,
    masked_softmax,
    masked_statistics,
)
from zoo.nn.recurrent import run_recurrent


def mask_of(*lengths: int) -> Tensor:
    return torch.arange(max(*lengths, 1)) < torch.tensor(lengths)[:, None]


def slow_attention(block: MultiHeadAttention, query: Tensor, source: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """One utterance, one head and one query at a time: (T, D), (S, D) -> (T, D), weights (T, S)."""
    width = query.shape[1] // block.heads
    q, k, v = block.query(query), block.key(source), block.value(source)
    out, weights = torch.zeros_like(query), torch.zeros(len(query), len(source), dtype=query.dtype)
    for head in range(block.heads):
        part = slice(head * width, (head + 1) * width)
        for t in range(len(query)):
            scores = [torch.dot(q[t, part], k[s, part]) / math.sqrt(width) for s in range(length)]
            total = sum(torch.exp(score) for score in scores)
            for s, score in enumerate(scores):
                alpha = torch.exp(score) / total
                out[t, part] += alpha * v[s, part]
                weights[t, s] += alpha / block.heads
    return block.out(out), weights


@pytest.mark.parametrize("maps", [False, True])
def test_attention_is_the_equation(maps: bool) -> None:
    torch.manual_seed(0)
    block = MultiHeadAttention(6, 3).double().eval()
    query, source, lengths = torch.randn(3, 4, 6).double(), torch.randn(3, 5, 6).double(), (5, 2, 1)
    out, weights = block(query, source, mask_of(*lengths), maps)
    for b, length in enumerate(lengths):
        expected, expected_weights = slow_attention(block, query[b], source[b], length)
        torch.testing.assert_close(out[b], expected, atol=1e-6 if maps else 1e-12, rtol=0)
        if maps:
            torch.testing.assert_close(weights[b], expected_weights, atol=1e-6, rtol=0)
    assert (weights is None) == (not maps)


@pytest.mark.parametrize("maps", [False, True])
def test_attention_to_nothing_is_zero(maps: bool) -> None:
    block = MultiHeadAttention(6, 3).eval()
    out, weights = block(torch.randn(2, 4, 6), torch.randn(2, 5, 6), mask_of(5, 0), maps)
    torch.testing.assert_close(out[1], block.out.bias.expand(4, 6))
    if maps:
        assert not weights[1].any()


def test_heads_must_divide_the_width() -> None:
    with pytest.raises(ValueError, match="4 heads don't divide a width of 6"):
        MultiHeadAttention(6, 4)


@pytest.mark.parametrize("residual", [True, False])
def test_local_attention_adds_and_normalises(residual: bool) -> None:
    torch.manual_seed(0)
    block = LocalAttention(6, 2, residual=residual).double().eval()
    x = torch.randn(1, 4, 6).double()
    attended, _ = slow_attention(block.attention, x[0], x[0], 4)
    expected = attended
    if residual:
        total = x[0] + attended
        centred = total - total.mean(1, keepdim=True)
        expected = centred / torch.sqrt((centred**2).mean(1, keepdim=True) + 1e-5)
    torch.testing.assert_close(block(x, mask_of(4))[0][0], expected, atol=1e-9, rtol=0)


@pytest.mark.parametrize(("kind_of", "packed_kind"), [(BiLSTM, nn.LSTM), (BiGRU, nn.GRU)])
def test_both_directions_equal_a_packed_network(kind_of: type[BiLSTM | BiGRU], packed_kind: type[nn.LSTM | nn.GRU]) -> None:
    torch.manual_seed(0)
    block = kind_of(5, 7, layers=2).double().eval()
    reference = packed_kind(5, 7, 2, batch_first=True, bidirectional=True).double()
    for layer in range(2):
        for suffix, source in (("", block.ahead[layer]), ("_reverse", block.back[layer])):
            for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
                getattr(reference, f"{kind}_l{layer}{suffix}").data.copy_(getattr(source, f"{kind}_l0"))
    x, lengths = torch.randn(3, 9, 5).double(), (9, 1, 4)
    packed = nn.utils.rnn.pack_padded_sequence(x, torch.tensor(lengths), batch_first=True, enforce_sorted=False)
    expected, _ = nn.utils.rnn.pad_packed_sequence(reference(packed)[0], batch_first=True)
    torch.testing.assert_close(block(x, mask_of(*lengths)), expected, atol=1e-12, rtol=0)


def test_autocast_leaves_recurrent_networks_on_a_card_their_precision() -> None:
    """Not float16, which a card would take under bfloat16 too; shown on tensors without data, so that it needs no card."""
    seen = []

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(1))

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, None]:
            seen.append((torch.is_autocast_enabled(x.device.type), x.dtype))
            return x, None

    network = Network()
    for device in ("cuda", "cpu"):
        before = torch.is_autocast_enabled(device)
        torch.set_autocast_enabled(device, True)
        try:
            with FakeTensorMode():
                run_recurrent(network, torch.empty(2, 3, 4, device=device, dtype=torch.bfloat16))
            assert torch.is_autocast_enabled(device), "it holds for what follows"
        finally:
            torch.set_autocast_enabled(device, before)
    assert seen == [(False, torch.float32), (True, torch.bfloat16)]


@pytest.mark.parametrize("kind_of", [BiLSTM, BiGRU])
def test_gradients_of_both_directions_are_those_of_finite_differences(kind_of: type[BiLSTM | BiGRU]) -> None:
    block, mask = kind_of(2, 3, layers=2).double(), mask_of(4, 0, 3)
    assert torch.autograd.gradcheck(lambda x: block(x, mask), (torch.randn(3, 4, 2).double().requires_grad_(),))


@pytest.mark.parametrize("kind_of", [BiLSTM, BiGRU])
def test_both_directions_of_nothing_are_zero(kind_of: type[BiLSTM | BiGRU]) -> None:
    out = kind_of(5, 7)(torch.randn(2, 3, 5), mask_of(3, 0))
    assert out.isfinite().all()
    assert not out[1].any()


def test_pooling_uses_real_positions_only() -> None:
    x = torch.randn(3, 5, 2)
    mask = mask_of(5, 2, 0)
    for b, length in enumerate((5, 2)):
        torch.testing.assert_close(masked_mean(x, mask)[b], x[b, :length].mean(0))
        expected = torch.cat([x[b, :length].mean(0), (x[b, :length].var(0, correction=0) + 1e-5).sqrt()])
        torch.testing.assert_close(masked_statistics(x, mask)[b], expected)
    assert not masked_mean(x, mask)[2].any()


def test_statistics_of_one_position_have_a_gradient() -> None:
    x = torch.randn(1, 3, 2, requires_grad=True)
    masked_statistics(x, mask_of(1) & torch.tensor([True, False, False])).sum().backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()


def test_masked_softmax() -> None:
    scores = torch.tensor([[1.0, 2.0, 1e9], [3.0, 4.0, 5.0]])
    weights = masked_softmax(scores, torch.tensor([[True, True, False], [False, False, False]]))
    total = math.e + math.e**2
    torch.testing.assert_close(weights, torch.tensor([[math.e / total, math.e**2 / total, 0.0], [0.0, 0.0, 0.0]]))


def test_functionals_are_mean_deviation_and_deviation_of_the_steps() -> None:
    x, mask = torch.randn(3, 5, 2).double(), mask_of(5, 2, 1)
    for b, length in enumerate((5, 2, 1)):
        frames = x[b, :length]
        steps = torch.stack([frames[t + 1] - frames[t] for t in range(length - 1)]) if length > 1 else torch.zeros(1, 2)
        parts = [frames.mean(0)] + [(part.var(0, correction=0) + 1e-5).sqrt() for part in (frames, steps)]
        torch.testing.assert_close(masked_functionals(x, mask)[b], torch.cat(parts), check_dtype=False)


def test_masked_norm_standardises_over_real_items_only() -> None:
    norm, x = MaskedNorm(3), 5 + 2 * torch.randn(4, 6, 3)
    mask = mask_of(6, 3, 1, 0)
    real = torch.cat([x[0], x[1, :3], x[2, :1]])
    expected = (real - real.mean(0)) / (real.var(0, correction=0) + 1e-5).sqrt()
    scaled = norm.train()(torch.where(mask.unsqueeze(-1), x, torch.tensor(1e6)), mask)
    torch.testing.assert_close(scaled[mask], expected, atol=1e-5, rtol=1e-5)
    assert not scaled[~mask].any()
    torch.testing.assert_close(norm.running_mean, 0.1 * real.mean(0))
    before = norm.running_mean.clone()
    one = norm(x[:1, 0], torch.tensor([True]))
    torch.testing.assert_close(one, norm.eval()(x[:1, 0], torch.tensor([True])))
    torch.testing.assert_close(norm.running_mean, before)
