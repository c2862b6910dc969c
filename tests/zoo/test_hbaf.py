"""HBAF against the paper's equations, written out with loops over utterances, and its options."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from datamodules.batch import AUDIO, TEXT, Batch, Item, collate_dialogues
from zoo import create, get_method
from zoo.hbaf import HBAF
from zoo.nn import MaskedNorm

LENGTHS = (4, 1, 6)
H = 8
ABSENT = {"audio": (0, 1), "text": (2, 2)}


@pytest.fixture
def batch() -> Batch:
    """Dialogues of 4, 1 and 6 turns; turn 1 of the first has no audio, turn 2 of the last no text."""
    random = np.random.default_rng(1)
    dialogues = []
    for count in LENGTHS:
        sizes = [(int(random.integers(1, 7)), int(random.integers(1, 5))) for _ in range(count)]
        dialogues.append(
            [
                Item(random.normal(size=(t, 5)).astype(np.float32), random.normal(size=(n, 6)).astype(np.float32), n % 3, "u")
                for t, n in sizes
            ]
        )
    dialogues[0][1] = dialogues[0][1]._replace(audio=dialogues[0][1].audio[:0])
    dialogues[2][2] = dialogues[2][2]._replace(text=dialogues[2][2].text[:0])
    found = collate_dialogues(dialogues)
    return found._replace(audio=found.audio.double(), text=found.text.double())


def build(**options: object) -> HBAF:
    torch.manual_seed(0)
    small = {"hidden": H, "filters": 3, "heads": 2, "d": 4}
    method = create("hbaf", audio_dim=5, text_dim=6, num_classes=3, **{**small, **options}).double().eval()
    assert isinstance(method, HBAF)
    for module in method.modules():
        if isinstance(module, (MaskedNorm, nn.LayerNorm)):  # as if trained
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
        if isinstance(module, MaskedNorm):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    return method


def dialogue(batch: Batch, b: int) -> Batch:
    """One dialogue alone, without padded turns."""
    fields = {key: value for key, value in batch._asdict().items() if isinstance(value, Tensor)}
    return batch._replace(**{key: value[b : b + 1, : LENGTHS[b]] for key, value in fields.items()})


# The equations, for one dialogue: lists over utterances, no batch, no padding, no masks.


def linear(layer: nn.Linear, x: Tensor) -> Tensor:
    return layer.weight @ x + (0 if layer.bias is None else layer.bias)


def layer_norm(layer: nn.LayerNorm, x: Tensor) -> Tensor:
    return (x - x.mean()) / torch.sqrt(x.var(unbiased=False) + 1e-5) * layer.weight + layer.bias


def batch_norm(layer: MaskedNorm, x: Tensor) -> Tensor:
    return (x - layer.running_mean) / torch.sqrt(layer.running_var + 1e-5) * layer.weight + layer.bias


def feed_forward(block: nn.Module, x: Tensor) -> Tensor:
    return layer_norm(block.norm, x + linear(block.outer, torch.clamp(linear(block.inner, x), min=0)))


def utterances(method: HBAF, batch: Batch, b: int, name: str) -> list[Tensor]:
    """The pooled vectors of one modality, standardised; zeros where it is absent. COMET's are the last columns of the text."""
    columns = 6 - 3 * method.text_context.comet_dim if method.text_context is not None else 6
    values, mask, norm = {
        "audio": lambda: (batch.audio, batch.audio_mask, method.audio_context.norm),
        "text": lambda: (batch.text[..., :columns], batch.text_mask, method.text_context.norm),
        "comet": lambda: (batch.text[..., columns:], batch.text_mask, method.text_context.comet_norm),
    }[name]()
    found = []
    for n in range(LENGTHS[b]):
        rows = values[b, n, mask[b, n]]
        if not len(rows):
            found.append(torch.zeros_like(norm.weight))
        elif name != "audio":
            found.append(batch_norm(norm, rows.mean(0)))
        else:
            steps = rows[1:] - rows[:-1] if len(rows) > 1 else torch.zeros_like(rows)
            deviations = [torch.sqrt(part.var(0, unbiased=False) + 1e-5) for part in (rows, steps)]
            found.append(batch_norm(norm, torch.cat([rows.mean(0), *deviations])))
    return found


def slow_audio_context(method: HBAF, x: list[Tensor]) -> list[Tensor]:
    """Convolution of three utterances, BiLSTM, Transformer layers."""
    network = method.audio_context
    (conv,) = network.conv.layers
    nothing = torch.zeros_like(x[0])
    padded = [nothing, *x, nothing]
    convolved = []
    for n in range(len(x)):
        total = conv.bias + sum(conv.weight[:, :, k] @ padded[n + k] for k in range(3))
        convolved.append(torch.clamp(total, min=0))
    # The BiLSTM against its equations: test_bc_lstm.
    states = list(network.lstm(torch.stack(convolved)[None], torch.ones(1, len(x), dtype=torch.bool))[0])
    for block, feed in zip(network.attention, network.feed, strict=True):
        attention = block.attention
        width = H // attention.heads
        attended = []
        for query in states:
            heads = []
            for head in range(attention.heads):
                part = slice(head * width, (head + 1) * width)
                scores = [
                    linear(attention.query, query)[part] @ linear(attention.key, key)[part] / math.sqrt(width) for key in states
                ]
                weights = torch.softmax(torch.stack(scores), dim=0)
                heads.append(sum(w * linear(attention.value, value)[part] for w, value in zip(weights, states, strict=True)))
            attended.append(linear(attention.out, torch.cat(heads)))
        states = [feed_forward(feed, layer_norm(block.norm, x + a)) for x, a in zip(states, attended, strict=True)]
    return states


def gru(layer: nn.GRU, x: list[Tensor]) -> list[Tensor]:
    """r, z = sigmoid(W x + U h); n = tanh(W x + r (U h)); h = (1 - z) n + z h; biases in both products."""
    h = torch.zeros(H, dtype=torch.float64)
    found = []
    for step in x:
        of_x = (layer.weight_ih_l0 @ step + layer.bias_ih_l0).chunk(3)
        of_h = (layer.weight_hh_l0 @ h + layer.bias_hh_l0).chunk(3)
        r, z = (torch.sigmoid(of_x[i] + of_h[i]) for i in (0, 1))
        h = (1 - z) * torch.tanh(of_x[2] + r * of_h[2]) + z * h
        found.append(h)
    return found


def slow_text_context(method: HBAF, x: list[Tensor], present: list[bool], comet: list[Tensor]) -> list[Tensor]:
    """Equations (1) to (6) in the wiring that the method was built with."""
    network = method.text_context
    nothing = torch.zeros(H, dtype=torch.float64)
    r = [linear(network.linear, v) if there else nothing for v, there in zip(x, present, strict=True)]
    contexts = []
    for t in range(len(r)):
        past = [i for i in range(t) if present[i]]
        if not past:
            contexts.append(nothing)
            continue
        u = [torch.tanh(linear(network.score, r[i]))[0] for i in past]  # (1)
        alpha = [torch.exp(one) / sum(torch.exp(other) for other in u) for one in u]  # (2)
        contexts.append(sum(a * r[i] for a, i in zip(alpha, past, strict=True)))  # (3)
    relations = network.relations if network.relations is not None else [torch.zeros(0, dtype=torch.float64)] * 3
    react, effect, intent = ([relation] * len(r) for relation in relations)
    if comet:
        react, effect, intent = (
            [linear(layer, v.chunk(3)[k]) if there else nothing for v, there in zip(comet, present, strict=True)]
            for k, layer in enumerate(network.comet)
        )
    if network.wiring == "cosmic":
        e = gru(network.external, [torch.cat(three) for three in zip(r, react, contexts, strict=True)])
        q = gru(network.internal, [torch.cat(two) for two in zip(effect, contexts, strict=True)])
        p = gru(network.purpose, [torch.cat(two) for two in zip(intent, q, strict=True)])
    else:
        e = gru(network.external, [torch.cat(two) for two in zip(react, contexts, strict=True)])  # (4)
        q = gru(network.internal, [torch.cat(two) for two in zip(effect, contexts, strict=True)])  # (5)
        p = gru(network.purpose, [torch.cat(two) for two in zip(intent, contexts, strict=True)])  # (6)
    found = [linear(network.out, torch.cat(states)) for states in zip(e, q, p, strict=True)]
    return [state + own for state, own in zip(found, r, strict=True)] if network.residual else found


def attend(layers: tuple[nn.Linear, nn.Linear], queries: list[Tensor], sources: list[Tensor], present: list[bool]) -> list[Tensor]:
    """softmax(Q K^T / sqrt(d)) V over the utterances whose source is present; each layer's rows are W^Q, W^K, W^V."""
    w_q, w_k, w_v = layers[0].weight[:H], layers[1].weight[H : 2 * H], layers[1].weight[2 * H :]
    keys = [source for source, there in zip(sources, present, strict=True) if there]
    found = []
    for query in queries:
        if not keys:
            found.append(torch.zeros(H, dtype=torch.float64))
            continue
        scores = [(w_q @ query) @ (w_k @ key) / math.sqrt(H) for key in keys]
        weights = [torch.exp(score) / sum(torch.exp(other) for other in scores) for score in scores]
        found.append(sum(w * (w_v @ key) for w, key in zip(weights, keys, strict=True)))
    return found


def slow_fusion(method: HBAF, states: dict[str, list[Tensor]], present: dict[str, list[bool]]) -> dict[str, list[Tensor]]:
    """Equations (7) to (17)."""
    audio, text = method.streams["audio"], method.streams["text"]
    own = {name: attend((s.own, s.own), states[name], states[name], present[name]) for name, s in method.streams.items()}  # (7)
    across = {name: s.own if s.across is None else s.across for name, s in method.streams.items()}
    of_text = attend((across["audio"], across["text"]), states["audio"], states["text"], present["text"])  # (8)
    of_audio = attend((across["text"], across["audio"]), states["text"], states["audio"], present["audio"])  # (9)
    cross = {"audio": of_audio, "text": of_text} if method.cross_stream == "paper" else {"audio": of_text, "text": of_audio}
    found: dict[str, list[Tensor]] = {"audio": [], "text": []}
    for name, stream in (("audio", audio), ("text", text)):
        w_s, w_c = stream.gate.weight[:, :H], stream.gate.weight[:, H:]
        for state, mine, other in zip(states[name], own[name], cross[name], strict=True):
            gate = 1 / (1 + torch.exp(-(w_s @ mine + w_c @ other + stream.gate.bias)))  # (10), (12)
            filtered = gate * mine + (1 - gate) * other  # (11), (13)
            found[name].append(feed_forward(stream.feed, layer_norm(stream.norm, state + filtered)))  # (14) to (17)
    return found


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"text_context": "literal"},
        {"text_context": "literal", "commonsense": "none"},
        {"commonsense": "none", "text_residual": True},
        {"commonsense": "comet", "comet_dim": 1},
        {"commonsense": "comet", "comet_dim": 1, "text_context": "literal"},
        {"cross_stream": "mult"},
        {"shared_projections": False},
        {"shared_projections": False, "cross_stream": "mult", "layers": 1, "lstm_layers": 1, "expansion": 3},
    ],
)
def test_forward_is_the_paper(batch: Batch, options: dict[str, object]) -> None:
    method = build(**options)
    output = method(batch)
    for b, count in enumerate(LENGTHS):
        present = {"audio": batch.present[b, :count, AUDIO].tolist(), "text": batch.present[b, :count, TEXT].tolist()}
        states = {
            "audio": slow_audio_context(method, utterances(method, batch, b, "audio")),
            "text": slow_text_context(
                method,
                utterances(method, batch, b, "text"),
                present["text"],
                utterances(method, batch, b, "comet") if method.text_context.comet_dim else [],
            ),
        }
        h = slow_fusion(method, states, present)
        fused = torch.stack([torch.cat(pair) for pair in zip(h["audio"], h["text"], strict=True)])
        # masked_softmax works in float32.
        torch.testing.assert_close(output.fused[b, :count], fused, atol=1e-5, rtol=0)
        expected = torch.stack([linear(method.classifier, row) for row in fused])
        torch.testing.assert_close(output.logits[b, :count], expected, atol=1e-5, rtol=0)


def cosine(x: Tensor, y: Tensor) -> Tensor:
    return (x @ y) / (x.norm() * y.norm())


@pytest.mark.parametrize("literal", [False, True])
@pytest.mark.parametrize("projection", ["fused", "all"])
def test_the_loss_is_the_papers(batch: Batch, literal: bool, projection: str) -> None:
    """Equations (18) to (23), over the nine utterances that have both modalities."""
    mu, tau, lambdas = 0.3, 0.5, {"lambda_audio": 0.7, "lambda_text": 1.3, "lambda_relative": 0.4}
    method = build(mu=mu, tau=tau, projection=projection, double_positive=literal, **lambdas)
    output = method(batch)
    rows = [output.fused[b, n] for b in range(3) for n in range(LENGTHS[b]) if (b, n) not in ABSENT.values()]
    assert len(rows) == 9
    vectors = {"audio": [row[:H] for row in rows], "text": [row[H:] for row in rows], "fused": rows}
    assert set(method.heads) == ({"fused"} if projection == "fused" else set(vectors))
    for name, head in method.heads.items():
        vectors[name] = [linear(head, row) for row in vectors[name]]
    inter = 0.0
    for weight, anchor, candidates in ((0.7, "audio", "fused"), (1.3, "text", "fused"), (0.4, "audio", "text")):
        total = 0.0
        for i, x in enumerate(vectors[anchor]):
            positive = torch.exp(cosine(x, vectors[candidates][i]) / tau)
            negatives = sum(
                torch.exp(cosine(x, y) / tau)
                for k, y in enumerate(vectors[candidates])
                if k != i or (literal and candidates == "fused")  # the sum of (18) and (19) runs over all K
            )
            total = total - torch.log(positive / (positive + negatives))
        inter = inter + weight * total / len(rows)
    labelled = batch.label[batch.turn_mask]
    cross_entropy = -output.logits[batch.turn_mask].log_softmax(-1)[torch.arange(len(labelled)), labelled].mean()
    # The loss is computed in float32.
    torch.testing.assert_close(method.loss(output, batch).double(), cross_entropy + mu * inter, atol=1e-5, rtol=0)


def test_the_literal_loss_has_a_floor_of_log_two_and_the_default_none(batch: Batch) -> None:
    """With one utterance there is no negative: what is left is the positive, counted once or twice."""
    alone = dialogue(batch, 1)
    for literal, floor in ((False, 0.0), (True, 2 * math.log(2))):
        method = build(mu=1.0, double_positive=literal)
        output = method(alone)
        plain = F.cross_entropy(output.logits.flatten(0, 1).float(), alone.label.flatten())
        assert (method.loss(output, alone) - plain).item() == pytest.approx(floor, abs=1e-6)


def test_terms_of_no_weight_build_no_head(batch: Batch) -> None:
    heads = {
        name: set(build(projection="all", **get_method("hbaf").ablations[name].options).heads)
        for name in ("HBAF", "w/o contrastive learning", "w/o absolute terms", "w/o relative term", "Audio")
    }
    assert heads == {
        "HBAF": {"audio", "text", "fused"},
        "w/o contrastive learning": set(),
        "w/o absolute terms": {"audio", "text"},
        "w/o relative term": {"audio", "text", "fused"},
        "Audio": set(),
    }
    method = build(mu=0.0)
    output = method(batch)
    plain = F.cross_entropy(output.logits.flatten(0, 1).float(), batch.label.flatten())
    torch.testing.assert_close(method.loss(output, batch), plain)


def test_the_contrastive_terms_leave_out_what_is_no_pair(batch: Batch) -> None:
    method = build()
    output = method(batch)
    junk = output.fused.clone()
    junk[~batch.present.all(-1)] = 100.0
    assert torch.equal(method.loss(output._replace(fused=junk), batch), method.loss(output, batch))
    none = batch._replace(present=torch.zeros_like(batch.present))
    assert method.loss(output, none).isfinite()


@pytest.mark.parametrize("context", ["cosmic", "literal", "none"])
def test_the_text_branch_reads_what_its_reading_says(batch: Batch, context: str) -> None:
    """COSMIC's wiring reads utterances up to the current one, (1) to (6) only those before, a linear layer only its own."""
    network = build(text_context=context).text_context
    text, changed = batch.text[2:], 3
    other = text.clone()
    other[0, changed] += 1.0
    same = [
        torch.equal(x, y)
        for x, y in zip(
            network(text, batch.text_mask[2:], batch.present[2:, :, TEXT])[0][0],
            network(other, batch.text_mask[2:], batch.present[2:, :, TEXT])[0][0],
            strict=True,
        )
    ]
    reads = {"cosmic": [3, 4, 5], "literal": [4, 5], "none": [3]}[context]
    assert [n for n in range(6) if not same[n]] == reads


def test_the_audio_branch_reads_the_future(batch: Batch) -> None:
    method = build(inputs="audio", filters=32)  # with few filters the ReLU can be closed at both utterances
    audio = batch.audio.clone()
    audio[2, 5] += 1.0
    assert not torch.allclose(method(batch).logits[2, 0], method(batch._replace(audio=audio)).logits[2, 0])


def test_ablated_fusion_is_what_the_text_says(batch: Batch) -> None:
    rows = get_method("hbaf").ablations
    real = {"audio": batch.present[..., AUDIO], "text": batch.present[..., TEXT]}

    def states(method: HBAF) -> dict[str, Tensor]:
        return {
            "audio": method.audio_context(batch.audio, batch.audio_mask, real["audio"], batch.turn_mask),
            "text": method.text_context(batch.text, batch.text_mask, real["text"])[0],
        }

    # Nothing at all: h_m is the two states.
    method = build(**rows["w/o fusion module"].options)
    torch.testing.assert_close(method(batch).fused, torch.cat(list(states(method).values()), dim=-1))
    # No attention: the gate weighs the two modalities' own utterances.
    method = build(residual=False, **rows["w/o bimodal attention"].options)
    h_a, h_l = states(method).values()
    gate = torch.sigmoid(method.streams["audio"].gate(torch.cat([h_a, h_l], dim=-1)))
    torch.testing.assert_close(method(batch).fused[..., :H], gate * h_a + (1 - gate) * h_l)
    # No gate: both messages count half.
    method = build(residual=False, **rows["w/o filter gate"].options)
    own, cross = method._attend(states(method), real, batch.turn_mask, {})
    torch.testing.assert_close(method(batch).fused[..., :H], (own["audio"] + cross["audio"]) / 2)
    # No residual: the gated message is the output.
    method = build(**rows["w/o residual"].options)
    own, cross = method._attend(states(method), real, batch.turn_mask, {})
    gate = torch.sigmoid(method.streams["text"].gate(torch.cat([own["text"], cross["text"]], dim=-1)))
    torch.testing.assert_close(method(batch).fused[..., H:], gate * own["text"] + (1 - gate) * cross["text"])
    # No audio context network: one linear layer, which sees its own utterance only.
    network = build(**rows["w/o audio context network"].options).audio_context
    assert [name.split(".")[0] for name, _ in network.named_parameters()] == ["norm", "norm", "linear", "linear"]


OPTIONS: list[dict[str, object]] = [
    *(dict(variant.options) for variant in get_method("hbaf").ablations.values()),
    {"text_context": "literal"},
    {"commonsense": "none", "text_residual": True},
    {"commonsense": "comet", "comet_dim": 1},
    {"commonsense": "comet", "comet_dim": 1, "text_context": "none"},
    {"shared_projections": False, "projection": "all", "cross_stream": "mult"},
    {"inputs": "audio", "bimodal_attention": False, "audio_context": False},
    {"inputs": "text", "residual": False, "text_context": "none"},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_padding_reaches_nothing_and_a_gradient_reaches_everything(batch: Batch, options: dict[str, object]) -> None:
    method = build(dropout=0.0, **options)
    expected = method(batch).logits
    junk = batch._replace(
        audio=batch.audio.masked_fill(~batch.audio_mask[..., None], 9.0),
        text=batch.text.masked_fill(~batch.text_mask[..., None], 9.0),
    )
    torch.testing.assert_close(method(junk).logits[batch.turn_mask], expected[batch.turn_mask], atol=1e-10, rtol=0)
    for b, count in enumerate(LENGTHS):
        torch.testing.assert_close(method(dialogue(batch, b)).logits[0], expected[b, :count], atol=1e-6, rtol=0)
    method.train()
    method.loss(method(batch), batch).backward()
    unreached = [name for name, p in method.named_parameters() if p.grad is None or not p.grad.any()]
    assert [name for name in unreached if not name.endswith("attention.key.bias")] == []
    one = dialogue(batch, 1)
    assert method.loss(method(one), one).isfinite()


@pytest.mark.parametrize("options", [o for o in OPTIONS if "inputs" not in o], ids=str)
@pytest.mark.parametrize("training", [False, True])
def test_nothing_at_all_is_still_a_distribution(batch: Batch, options: dict[str, object], training: bool) -> None:
    method = build(**options).train(training)
    empty = batch._replace(
        audio_mask=torch.zeros_like(batch.audio_mask),
        text_mask=torch.zeros_like(batch.text_mask),
        present=torch.zeros_like(batch.present),
    )
    output = method(empty)
    assert output.logits.isfinite().all()
    assert method.loss(output, empty).isfinite()


@pytest.mark.parametrize("name", ["audio", "text"])
def test_one_modality_does_not_read_the_other(batch: Batch, name: str) -> None:
    method, other = build(inputs=name), {"audio": "text", "text": "audio"}[name]
    logits = method(batch).logits
    assert torch.equal(method(batch._replace(**{other: getattr(batch, other) * 3 + 1})).logits, logits)
    assert not torch.equal(method(batch._replace(**{name: getattr(batch, name) * 3 + 1})).logits, logits)


def test_maps_are_named_and_masked(batch: Batch) -> None:
    maps = build()(batch, maps=True).attention
    square = (3, 6, 6)
    assert {name: tuple(m.shape) for name, m in maps.items()} == {
        "context": square,
        "self_audio": square,
        "self_text": square,
        "audio_from_text": square,
        "text_from_audio": square,
        "gate_audio": (3, 6, H),
        "gate_text": (3, 6, H),
    }
    keys = {"self_audio": AUDIO, "text_from_audio": AUDIO, "self_text": TEXT, "audio_from_text": TEXT}
    for name, modality in keys.items():
        there = batch.present[..., modality].unsqueeze(1) & batch.turn_mask.unsqueeze(2)
        assert not maps[name][~there].any()
        assert (maps[name][there] > 0).all()
        torch.testing.assert_close(maps[name].sum(-1), batch.turn_mask.double(), atol=1e-6, rtol=0)
    assert not maps["context"].triu().any()
    assert not maps["context"][2, :, 2].any()
    torch.testing.assert_close(maps["context"][2].sum(-1), torch.tensor([0.0, 1, 1, 1, 1, 1]).double(), atol=1e-6, rtol=0)
    for name in ("gate_audio", "gate_text"):
        assert not maps[name][~batch.turn_mask].any()
        assert ((maps[name] > 0) & (maps[name] < 1))[batch.turn_mask].all()
    assert list(build(inputs="audio")(batch, maps=True).attention) == ["self_audio"]


def test_parameter_count_is_the_hand_derived_one() -> None:
    """At the paper's widths: 512 audio numbers (three functionals each here), 1024 text numbers, 512, seven classes."""
    h, audio = 512, 3 * 512
    feed = 2 * (h * 1024) + 1024 + h + 2 * h
    conv = 64 * audio * 3 + 64
    lstm = 2 * 4 * 256 * ((64 + 256 + 2) + (512 + 256 + 2))
    transformer = 3 * (4 * (h * h + h) + 2 * h + feed)
    audio_context = 2 * audio + conv + lstm + transformer
    grus = 3 * h * ((3 * h + h + 2) + 2 * (2 * h + h + 2))
    text_context = 2 * 1024 + (1024 * h + h) + (h + 1) + 3 * h + grus + (3 * h * h + h)
    stream = 3 * h * h + (2 * h * h + h) + 2 * h + feed
    heads = 2 * h * 7 + 7 + (2 * h * h + h)
    method = create("hbaf", audio_dim=512, text_dim=1024, num_classes=7)
    assert sum(p.numel() for p in method.parameters()) == audio_context + text_context + 2 * stream + heads == 23_290_952


def test_options_change_the_number_of_parameters_as_they_say() -> None:
    def count(**options: object) -> int:
        return sum(p.numel() for p in build(**options).parameters())

    full = count()
    assert count(shared_projections=False) - full == 2 * 3 * H * H
    assert full - count(commonsense="none") == 3 * H + 3 * (3 * H * H)
    assert full - count(text_context="literal") == 3 * H * H
    assert full - count(filter_gate=False) == 2 * (2 * H * H + H)
    assert full - count(mu=0.0) == 2 * H * H + H
    assert count(cross_stream="mult") == count(double_positive=True) == count(text_residual=True) == full


def test_results_say_where_comet_is_absent() -> None:
    """Not where it is there, was left out by name, or would not be read."""
    assert build().caveats == ("hbaf: learnt vectors, the same for all utterances, stand in place of COMET's relations",)
    for options in (
        {"commonsense": "comet", "comet_dim": 1},
        {"commonsense": "none"},
        {"inputs": "audio"},
        {"text_context": "none"},
    ):
        assert build(**options).caveats == ()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"inputs": "video"}, "hbaf: inputs is 'video'; it must be one of 'both', 'audio', 'text'"),
        ({"text_context": "comet"}, "'cosmic', 'literal', 'none'"),
        ({"commonsense": "atomic"}, "'learnt', 'comet', 'none'"),
        ({"commonsense": "comet"}, r"can't end in three relations of width comet_dim=1024"),
        ({"cross_stream": "both"}, "'paper', 'mult'"),
        ({"projection": "none"}, "'fused', 'all'"),
        ({"hidden": 7}, "even"),
        ({"tau": 0.0}, "tau must be above 0"),
        ({"lambda_text": -1.0}, "must not be below 0"),
        ({"text_residual": True, "text_context": "none"}, "text_residual"),
    ],
)
def test_options_without_a_meaning_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(**options)


def test_the_ablation_rows_change_one_part_each() -> None:
    assert list(get_method("hbaf").ablations) == [
        "Audio",
        "Audio, w/o audio context network",
        *(
            f"Audio, {feature}{without}"
            for feature in ("functionals", "MFCC", "wav2vec 2.0", "data2vec")
            for without in ("", ", w/o audio context network")
        ),
        "Text",
        "w/o audio context network",
        "w/o text context network",
        "w/o fusion module",
        "w/o bimodal attention",
        "w/o filter gate",
        "w/o residual",
        "w/o contrastive learning",
        "w/o absolute terms",
        "w/o relative term",
        "HBAF",
    ]
