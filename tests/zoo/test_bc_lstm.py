"""bc-LSTM against LSTMs written out step by step, and its options."""

import numpy as np
import pytest
import torch

from datamodules.batch import AUDIO, TEXT, Batch, Item, collate_dialogues
from zoo import create, get_method
from zoo.bc_lstm import BCLSTM
from zoo.nn import BiLSTM, MaskedNorm

LENGTHS = (4, 1, 6)


@pytest.fixture
def batch() -> Batch:
    """Dialogues of 4, 1 and 6 turns; one turn has no audio, one no text."""
    random = np.random.default_rng(1)
    dialogues = []
    for count in LENGTHS:
        sizes = [(int(random.integers(1, 7)), int(random.integers(1, 5))) for _ in range(count)]
        dialogues.append(
            [
                Item(random.normal(size=(t, 5)).astype(np.float32), random.normal(size=(n, 6)).astype(np.float32), 0, "u")
                for t, n in sizes
            ]
        )
    dialogues[0][1] = dialogues[0][1]._replace(audio=dialogues[0][1].audio[:0])
    dialogues[2][2] = dialogues[2][2]._replace(text=dialogues[2][2].text[:0])
    found = collate_dialogues(dialogues)
    return found._replace(audio=found.audio.double(), text=found.text.double())


def build(**options: object) -> BCLSTM:
    torch.manual_seed(0)
    method = create("bc_lstm", audio_dim=5, text_dim=6, num_classes=3, **{"hidden": 4, **options}).double().eval()
    assert isinstance(method, BCLSTM)
    for module in method.modules():
        if isinstance(module, MaskedNorm):  # as if trained
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
            torch.nn.init.normal_(module.weight)
            torch.nn.init.normal_(module.bias)
    return method


def slow_lstm(layer: torch.nn.LSTM, x: list[torch.Tensor]) -> list[torch.Tensor]:
    """i, f, o = sigmoid(W x + U h + b), g = tanh(...), c = f c + i g, h = o tanh(c)."""
    h = c = torch.zeros(layer.hidden_size, dtype=torch.float64)
    found = []
    for step in x:
        gates = layer.weight_ih_l0 @ step + layer.bias_ih_l0 + layer.weight_hh_l0 @ h + layer.bias_hh_l0
        i, f, g, o = gates.chunk(4)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        h = o.sigmoid() * c.tanh()
        found.append(h)
    return found


def slow_bilstm(block: BiLSTM, x: list[torch.Tensor]) -> list[torch.Tensor]:
    for ahead, back in zip(block.ahead, block.back, strict=True):
        forward, backward = slow_lstm(ahead, x), slow_lstm(back, x[::-1])[::-1]
        x = [torch.cat(pair) for pair in zip(forward, backward, strict=True)]
    return x


def slow_norm(norm: MaskedNorm, x: torch.Tensor) -> torch.Tensor:
    return (x - norm.running_mean) / torch.sqrt(norm.running_var + norm.eps) * norm.weight + norm.bias


def utterance(method: BCLSTM, batch: Batch, b: int, n: int, modality: int) -> torch.Tensor:
    """One turn's vector of one modality; zeros where it is absent."""
    if modality == TEXT:
        norm, tokens = method.text_norm, batch.text[b, n, batch.text_mask[b, n]]
        return slow_norm(norm, tokens.mean(0)) if len(tokens) else torch.zeros(6, dtype=torch.float64)
    norm, frames = method.audio_norm, batch.audio[b, n, batch.audio_mask[b, n]]
    if not len(frames):
        return torch.zeros(15, dtype=torch.float64)
    steps = frames[1:] - frames[:-1] if len(frames) > 1 else torch.zeros(1, 5, dtype=torch.float64)
    deviations = [torch.sqrt(part.var(0, unbiased=False) + 1e-5) for part in (frames, steps)]
    return slow_norm(norm, torch.cat([frames.mean(0), *deviations]))


@pytest.mark.parametrize("inputs", ["both", "audio", "text"])
@pytest.mark.parametrize("attention", [False, True])
def test_forward_is_the_paper(batch: Batch, inputs: str, attention: bool) -> None:
    method = build(inputs=inputs, attention=attention)
    logits = method(batch).logits
    for b, count in enumerate(LENGTHS):
        x = {m: [utterance(method, batch, b, n, m) for n in range(count)] for m in (AUDIO, TEXT) if inputs != ("text", "audio")[m]}
        contexts = [slow_bilstm((method.audio_context, method.text_context)[m], turns) for m, turns in x.items()]
        fused = [torch.cat(parts) for parts in zip(*contexts, strict=True)]
        if inputs == "both":
            fused = slow_bilstm(method.fusion, fused)
        if attention:
            weights = []
            for own in fused:  # score of turn i for turn t: tanh((W h_t + b) . h_i)
                query = method.score.weight @ own + method.score.bias
                weights.append(torch.softmax(torch.stack([torch.tanh(query @ other) for other in fused]), dim=0))
            fused = [sum(a * other for a, other in zip(row, fused, strict=True)) for row in weights]
        expected = torch.stack([method.classifier(turn) for turn in fused])
        torch.testing.assert_close(logits[b, :count], expected, atol=1e-6 if attention else 1e-10, rtol=0)


def test_parameter_count_is_the_hand_derived_one() -> None:
    """At the MELD baseline's widths: 1,611 audio numbers (three functionals each here), 300 text numbers, seven classes."""

    def bilstm(width: int) -> int:
        return 2 * 4 * 300 * (width + 300 + 2)

    norms = 2 * 3 * 1611 + 2 * 300
    audio, text, fusion = bilstm(3 * 1611) + bilstm(600), bilstm(300) + bilstm(600), bilstm(1200)
    method = create("bc_lstm", audio_dim=1611, text_dim=300, num_classes=7)
    assert sum(p.numel() for p in method.parameters()) == norms + audio + text + fusion + 600 * 7 + 7 == 21_717_673


def test_the_options_build_what_they_say() -> None:
    names = {inputs: {name.split(".")[0] for name, _ in build(inputs=inputs).named_parameters()} for inputs in ("audio", "text")}
    assert names == {
        "audio": {"audio_norm", "audio_context", "classifier"},
        "text": {"text_norm", "text_context", "classifier"},
    }
    assert len(build(layers=3).audio_context.ahead) == 3
    assert len(build(layers=3).fusion.ahead) == 1


@pytest.mark.parametrize("name", ["audio", "text"])
def test_one_modality_does_not_read_the_other(batch: Batch, name: str) -> None:
    method, other = build(inputs=name), {"audio": "text", "text": "audio"}[name]
    logits = method(batch).logits
    assert torch.equal(method(batch._replace(**{other: getattr(batch, other) * 3 + 1})).logits, logits)
    assert not torch.equal(method(batch._replace(**{name: getattr(batch, name) * 3 + 1})).logits, logits)


def test_the_attention_map_is_returned_and_masked(batch: Batch) -> None:
    assert build()(batch, maps=True).attention == {}
    weights = build(attention=True)(batch, maps=True).attention["turns"]
    assert weights.shape == (3, 6, 6)
    both = batch.turn_mask.unsqueeze(1) & batch.turn_mask.unsqueeze(2)
    assert not weights[~both].any()
    assert (weights[both] > 0).all()
    torch.testing.assert_close(weights.sum(-1), batch.turn_mask.double(), atol=1e-6, rtol=0)


@pytest.mark.parametrize("attention", [False, True])
def test_padded_turns_change_nothing(batch: Batch, attention: bool) -> None:
    """Dialogue 0 alone, without the two padded turns that dialogue 2 gives it, and junk in them."""
    method = build(attention=attention)
    expected = method(batch).logits[0, :4]
    fields = {key: value for key, value in batch._asdict().items() if isinstance(value, torch.Tensor)}
    alone = batch._replace(**{key: value[:1, :4] for key, value in fields.items()})
    torch.testing.assert_close(method(alone).logits[0], expected, atol=1e-6, rtol=0)
    junk = batch._replace(
        audio=batch.audio.masked_fill(~batch.audio_mask[..., None], 9.0),
        text=batch.text.masked_fill(~batch.text_mask[..., None], 9.0),
    )
    torch.testing.assert_close(method(junk).logits[0, :4], expected, atol=1e-10, rtol=0)


@pytest.mark.parametrize("options", [{"inputs": "audio"}, {"inputs": "text"}, {"attention": True}, {"layers": 1}])
def test_a_gradient_reaches_every_parameter_of_every_option(batch: Batch, options: dict[str, object]) -> None:
    method = build(dropout=0.0, **options).train()
    method.loss(method(batch), batch).backward()
    assert [name for name, p in method.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_bad_inputs_are_refused() -> None:
    with pytest.raises(ValueError, match="bc_lstm: inputs is 'video'; it must be 'both', 'audio' or 'text'"):
        build(inputs="video")


def test_the_ablation_rows_are_the_modalities() -> None:
    assert list(get_method("bc_lstm").ablations) == ["Text", "Audio", "Text + audio"]
