"""HCAM against its equations, written out plainly, its losses, its training schedules and its options."""

from pathlib import Path

import lightning as L
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader

from datamodules.batch import IGNORED, Batch, Item, collate_dialogues
from zoo import create, get_method
from zoo.hcam import HCAM, Stage, StagedOutput, supervised_contrastive
from zoo.nn import BiGRU, BiLSTM, LocalAttention, MaskedNorm, MultiHeadAttention
from zoo.nn.attention import CrossAttention

# Frames and tokens of every turn of three dialogues; the last has nothing at all.
SIZES = [[(9, 4), (3, 6), (5, 1)], [(4, 2), (0, 3), (6, 0), (0, 0), (3, 3)], [(0, 0)]]


@pytest.fixture
def batch() -> Batch:
    random = np.random.default_rng(1)
    dialogues = [
        [
            Item(random.normal(size=(t, 8)).astype(np.float32), random.normal(size=(n, 12)).astype(np.float32), i % 3, f"{d}{i}")
            for i, (t, n) in enumerate(sizes)
        ]
        for d, sizes in enumerate(SIZES)
    ]
    found = collate_dialogues(dialogues)
    found.label[1, 0] = IGNORED  # context only
    return found._replace(audio=found.audio.double(), text=found.text.double())


def build(**options: object) -> HCAM:
    torch.manual_seed(0)
    small = {"hidden": 3, "d": 6, "heads": 2}
    method = create("hcam", audio_dim=8, text_dim=12, num_classes=3, **{**small, **options}).double().eval()
    assert isinstance(method, HCAM)
    for norm in method.modules():  # as if trained
        if isinstance(norm, MaskedNorm):
            nn.init.normal_(norm.running_mean)
            nn.init.uniform_(norm.running_var, 0.5, 2.0)
    return method


def staged_output(method: HCAM, batch: Batch) -> StagedOutput:
    output = method(batch)
    assert isinstance(output, StagedOutput)
    return output


def attend(block: LocalAttention | CrossAttention, own: Tensor, other: Tensor) -> Tensor:
    """LN(own + softmax(Q K^T / sqrt(d_k)) V W), a query and a head at a time."""
    inner, rows = block.attention, []
    assert isinstance(inner, MultiHeadAttention)
    width = own.shape[1] // inner.heads
    for query in own:
        heads = []
        for head in range(inner.heads):
            part = slice(head * width, (head + 1) * width)
            scores = [torch.exp(inner.query(query)[part] @ inner.key(key)[part] / width**0.5) for key in other]
            heads.append(sum(s / sum(scores) * inner.value(key)[part] for s, key in zip(scores, other, strict=True)))
        total = query + inner.out(torch.cat(heads))
        centred = total - total.mean()
        rows.append(centred / torch.sqrt((centred**2).mean() + 1e-5) * block.norm.weight + block.norm.bias)
    return torch.stack(rows)


def gru_direction(gru: nn.GRU, x: Tensor) -> Tensor:
    """r, z, n and h of Cho et al. 2014, step by step."""
    h, found = torch.zeros(gru.hidden_size, dtype=x.dtype), []
    for step in x:
        r_x, z_x, n_x = (gru.weight_ih_l0 @ step + gru.bias_ih_l0).chunk(3)
        r_h, z_h, n_h = (gru.weight_hh_l0 @ h + gru.bias_hh_l0).chunk(3)
        r, z = torch.sigmoid(r_x + r_h), torch.sigmoid(z_x + z_h)
        h = (1 - z) * torch.tanh(n_x + r * n_h) + z * h
        found.append(h)
    return torch.stack(found)


def bigru(block: BiGRU, x: Tensor) -> Tensor:
    for ahead, back in zip(block.ahead, block.back, strict=True):
        x = torch.cat([gru_direction(ahead, x), gru_direction(back, x.flip(0)).flip(0)], dim=1)
    return x


def embed(method: HCAM, frames: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Stage I, one utterance."""
    stage = method.stages[0]
    audio = text = torch.zeros(6, dtype=torch.float64)
    if len(frames):
        parts = [(x.var(0, correction=0) + 1e-5).sqrt() for x in (frames, frames[1:] - frames[:-1])]
        norm = stage.audio_norm
        pooled = (torch.cat([frames.mean(0), *parts]) - norm.running_mean) / (norm.running_var + norm.eps).sqrt()
        audio = torch.tanh(stage.audio_proj[1](pooled * norm.weight + norm.bias))
    if len(tokens) and stage.gru is not None:
        encoded = bigru(stage.gru, tokens)
        text = attend(stage.local, encoded, encoded).mean(0)
    elif len(tokens):
        norm = stage.text_norm
        pooled = (tokens.mean(0) - norm.running_mean) / (norm.running_var + norm.eps).sqrt()
        text = torch.tanh(stage.text_proj[1](pooled * norm.weight + norm.bias))
    return audio, text


def plain_stages(method: HCAM, batch: Batch, dialogue: int, blocks: int = 1) -> list[Stage]:
    """The stages of one dialogue: no batch, no mask, no padding."""
    said = []
    for turn in range(len(SIZES[dialogue])):
        frames, tokens = (
            x[dialogue, turn][mask[dialogue, turn]] for x, mask in ((batch.audio, batch.audio_mask), (batch.text, batch.text_mask))
        )
        said.append(embed(method, frames, tokens))
    first, context, co = method.stages
    audio, text = torch.stack([a for a, _ in said]), torch.stack([t for _, t in said])
    found = [Stage(audio, text, [first.heads[0](audio), first.heads[1](text)], torch.cat([audio, text], dim=1))]
    audio, text = bigru(context.grus[0], audio), bigru(context.grus[1], text)
    audio, text = attend(context.locals[0], audio, audio), attend(context.locals[1], text, text)
    found.append(Stage(audio, text, [context.heads[0](audio), context.heads[1](text)], torch.cat([audio, text], dim=1)))
    audio, text = co.audio_proj(audio), co.text_proj(text)
    for block in range(blocks):
        audio, text = attend(co.audio_from_text[block], audio, text), attend(co.text_from_audio[block], text, audio)
        audio, text = attend(co.self_audio[block], audio, audio), attend(co.self_text[block], text, text)
    both = torch.cat([text, audio], dim=1)
    centred = both - both.mean(1, keepdim=True)
    normed = centred / torch.sqrt((centred**2).mean(1, keepdim=True) + 1e-5) * co.fuse[0].weight + co.fuse[0].bias
    fused = co.fuse[2](normed).clamp(min=0)
    found.append(Stage(audio, text, [co.head(fused)], fused))
    return found


@pytest.mark.parametrize("text_encoder", ["bigru", "mean"])
@pytest.mark.parametrize("blocks", [1, 2])
def test_every_stage_is_the_equations(batch: Batch, text_encoder: str, blocks: int) -> None:
    method = build(text_encoder=text_encoder, blocks=blocks, ensemble=False)
    output = staged_output(method, batch)
    assert torch.equal(output.logits, output.stages[2].heads[0])
    for dialogue, sizes in enumerate(SIZES):
        expected = plain_stages(method, batch, dialogue, blocks)
        for stage, plain in zip(output.stages, expected, strict=True):
            assert len(stage.heads) == len(plain.heads)
            for got, slow in zip([*stage[:2], stage.fused, *stage.heads], [*plain[:2], plain.fused, *plain.heads], strict=True):
                torch.testing.assert_close(got[dialogue, : len(sizes)], slow, atol=1e-9, rtol=0)


def answers(batch: Batch, heads: list[Tensor], always: list[Tensor], place: tuple[int, int], probabilities: bool) -> Tensor:
    """Mean over the heads of the modalities that the turn has (both if it has none) and those that always count."""
    there = [head for head, has in zip(heads, batch.present[place], strict=True) if has] or heads
    values = [head[place].softmax(-1) if probabilities else head[place] for head in [*there, *always]]
    return sum(values) / len(values)


@pytest.mark.parametrize("stages", [1, 2])
def test_an_earlier_stage_answers_with_the_mean_of_its_heads(batch: Batch, stages: int) -> None:
    method = build(stages=stages)
    assert len(method.stages) == stages
    output = staged_output(method, batch)
    assert len(output.stages) == stages
    for place in batch.turn_mask.nonzero().tolist():
        expected = answers(batch, output.stages[-1].heads, [], tuple(place), probabilities=False)
        torch.testing.assert_close(output.logits[tuple(place)], expected)


def test_the_ensemble_averages_probabilities(batch: Batch) -> None:
    output = staged_output(build(), batch)
    for place in batch.turn_mask.nonzero().tolist():
        expected = answers(batch, output.stages[1].heads, output.stages[2].heads, tuple(place), probabilities=True)
        torch.testing.assert_close(output.logits[tuple(place)].exp().double(), expected, atol=1e-6, rtol=0)


def slow_contrast(views: Tensor, labels: Tensor, tau: float) -> Tensor:
    """-1/|P(i)| sum_p log(exp(z_i z_p / tau) / sum_{a != i} exp(z_i z_a / tau)), the mean over i that have a positive."""
    z = [view / (view**2).sum().sqrt() for view in views]
    terms = []
    for i in range(len(z)):
        others = [a for a in range(len(z)) if a != i]
        positives = [p for p in others if labels[p] == labels[i]]
        if positives:
            total = sum(torch.exp(z[i] @ z[a] / tau) for a in others)
            terms.append(-sum(torch.log(torch.exp(z[i] @ z[p] / tau) / total) for p in positives) / len(positives))
    return sum(terms) / len(terms)


@pytest.mark.parametrize("tau", [0.1, 1.0])
def test_supervised_contrastive_is_the_equation(tau: float) -> None:
    torch.manual_seed(0)
    views, labels = torch.randn(9, 5).double(), torch.tensor([0, 1, 2, 0, 0, 1, 3, 2, 1])  # 3 has no positive
    expected = slow_contrast(views, labels, tau)
    torch.testing.assert_close(supervised_contrastive(views, labels, tau), expected, atol=1e-12, rtol=0)
    # Of directions only, and lower when a label's views agree.
    torch.testing.assert_close(supervised_contrastive(views * 7, labels, tau), expected, atol=1e-12, rtol=0)
    assert supervised_contrastive(F.one_hot(labels).double(), labels, tau) < expected


@pytest.mark.parametrize("labels", [[], [2], [0, 1, 2]])
def test_supervised_contrastive_without_positives_is_zero(labels: list[int]) -> None:
    views = torch.randn(len(labels), 5, requires_grad=True)
    loss = supervised_contrastive(views, torch.tensor(labels, dtype=torch.long), 0.1)
    loss.backward()
    assert loss == 0
    assert views.grad is not None
    assert not views.grad.any()


@pytest.mark.parametrize(("beta", "convex"), [(1.0, False), (0.3, False), (0.3, True), (0.0, False)])
@pytest.mark.parametrize("stages", [1, 2, 3])
def test_loss_is_the_sum_over_stages(batch: Batch, beta: float, convex: bool, stages: int) -> None:
    method = build(beta=beta, convex=convex, tau=0.5, stages=stages)
    method.class_weight = torch.tensor([1.0, 2.0, 0.5])
    output = staged_output(method, batch)

    def entropy(head: Tensor, places: list[tuple[int, int]]) -> Tensor:
        weights = [float(method.class_weight[batch.label[p]]) for p in places]
        terms = [-w * head[p].log_softmax(-1)[batch.label[p]] for w, p in zip(weights, places, strict=True)]
        return sum(terms) / sum(weights)

    labelled = [tuple(p) for p in batch.turn_mask.nonzero().tolist() if batch.label[tuple(p)] != IGNORED]
    assert len(labelled) == 8
    own = [[p for p in labelled if batch.present[p][m]] for m in (0, 1)]
    assert [len(places) for places in own] == [5, 5]
    total = torch.zeros((), dtype=torch.float64)
    for number, stage in enumerate(output.stages):
        ce = entropy(stage.heads[0], labelled) if number == 2 else sum(map(entropy, stage.heads, own))
        views = torch.stack([stage.audio[p] for p in own[0]] + [stage.text[p] for p in own[1]])
        contrast = slow_contrast(views, torch.stack([batch.label[p] for p in own[0] + own[1]]), 0.5)
        total += ((1 - beta) if convex else 1.0) * ce + beta * contrast
    torch.testing.assert_close(method.loss(output, batch).double(), total, atol=1e-5, rtol=0)


def test_nothing_present_or_labelled_is_a_finite_loss(batch: Batch) -> None:
    alone = Batch(*(x[2:] if isinstance(x, Tensor) else x for x in batch))
    for label in (0, IGNORED):
        method, case = build().train(), alone._replace(label=torch.full_like(alone.label, label))
        loss = method.loss(method(case), case)
        loss.backward()
        assert loss.isfinite()
        assert all(p.grad is None or p.grad.isfinite().all() for p in method.parameters())


@pytest.mark.parametrize("detach", [True, False])
def test_detach_keeps_a_later_stages_gradient_out(batch: Batch, detach: bool) -> None:
    method = build(detach=detach)
    stages = staged_output(method, batch).stages
    for number in (1, 2):
        method.zero_grad()
        method._stage_loss(stages[number], batch).backward(retain_graph=True)
        for other, module in enumerate(method.stages):
            reached = any(p.grad is not None and p.grad.any() for p in module.parameters())
            assert reached == (other == number or (other < number and not detach))


class _Data(L.LightningDataModule):
    def __init__(self, batch: Batch) -> None:
        super().__init__()
        self.batch = batch._replace(audio=batch.audio.float(), text=batch.text.float())
        self.class_counts = torch.tensor([2, 3, 4])

    def train_dataloader(self) -> DataLoader:
        return DataLoader([self.batch, self.batch], batch_size=None)

    def val_dataloader(self) -> DataLoader:
        return DataLoader([self.batch], batch_size=None)


class _Watch(L.Callback):
    """The state of every stage at the end of every epoch of training, and the last stage that answered in validation."""

    def __init__(self) -> None:
        self.states: list[list[dict[str, Tensor]]] = []
        self.answered: list[int] = []

    def keep(self, method: HCAM) -> None:
        self.states.append([{name: x.clone() for name, x in stage.state_dict().items()} for stage in method.stages])

    def on_train_start(self, trainer: L.Trainer, method: HCAM) -> None:
        self.keep(method)

    def on_train_epoch_end(self, trainer: L.Trainer, method: HCAM) -> None:
        self.keep(method)

    def on_validation_epoch_end(self, trainer: L.Trainer, method: HCAM) -> None:
        self.answered.append(len(method(trainer.datamodule.batch).stages))


def test_staged_training_moves_one_stage_at_a_time(batch: Batch, tmp_path: Path) -> None:
    method, watch, data = build(schedule="staged", stage_epochs=2).float().train(), _Watch(), _Data(batch)
    trainer = L.Trainer(
        max_epochs=7,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        callbacks=[watch],
        default_root_dir=tmp_path,
    )
    trainer.fit(method, datamodule=data)
    assert watch.answered == [1, 1, 2, 2, 3, 3, 3]
    for epoch, (before, after) in enumerate(zip(watch.states, watch.states[1:], strict=False)):
        changed = [any(not torch.equal(a[name], b[name]) for name in a) for a, b in zip(before, after, strict=True)]
        assert changed == [stage == min(epoch // 2, 2) for stage in range(3)]
    trainer.save_checkpoint(tmp_path / "method.ckpt")
    loaded = HCAM.load_from_checkpoint(tmp_path / "method.ckpt").eval()
    torch.testing.assert_close(loaded(data.batch).logits, method.eval()(data.batch).logits, atol=0, rtol=0)


def test_joint_training_trains_every_stage_at_once(batch: Batch) -> None:
    method = build().train()
    method.loss(method(batch), batch).backward()
    assert all(any(p.grad is not None and p.grad.any() for p in stage.parameters()) for stage in method.stages)


def test_maps_are_named_and_masked(batch: Batch) -> None:
    maps = build()(batch, maps=True).attention
    names = ["context_audio", "context_text", "audio_from_text", "text_from_audio", "self_audio", "self_text"]
    assert list(maps) == names
    for weights in maps.values():
        assert weights.shape == (3, 5, 5)
        assert torch.equal(weights.sum(-1) > 0.5, batch.turn_mask)
        assert not weights.transpose(1, 2)[~batch.turn_mask].any()
    assert list(build(stages=2)(batch, maps=True).attention) == names[:2]
    assert build(stages=1)(batch, maps=True).attention == {}


def test_padded_turns_change_nothing(batch: Batch) -> None:
    method = build()
    for dialogue, sizes in enumerate(SIZES):
        alone = Batch(*(x[dialogue : dialogue + 1, : len(sizes)] if isinstance(x, Tensor) else x for x in batch))
        torch.testing.assert_close(method(alone).logits[0], method(batch).logits[dialogue, : len(sizes)], atol=1e-5, rtol=0)


def test_the_audio_encoder_is_the_one_asked_for(batch: Batch) -> None:
    method = build(encoder="bilstm")
    assert isinstance(method.stages[0].encoder, BiLSTM)
    assert not torch.allclose(method(batch).logits, build()(batch).logits)


def test_parameter_count_is_the_hand_derived_one() -> None:
    """At wav2vec 2.0 base and RoBERTa base, 768 each, GRU 100 per direction, co-attention 120, four classes."""

    def gru(width: int) -> int:
        """Two layers and directions; three gates with input, recurrent and two bias vectors."""
        return 2 * 3 * 100 * (width + 100 + 2) + 2 * 3 * 100 * (200 + 100 + 2)

    def attention(width: int) -> int:
        return 4 * (width * width + width) + 2 * width

    heads = 2 * (200 * 4 + 4)
    first = (2 * 2304 + 2304 * 200 + 200) + (gru(768) + attention(200)) + heads
    second = 2 * (gru(200) + attention(200)) + heads
    third = 2 * (200 * 120 + 120) + 4 * attention(120) + (2 * 240 + 240 * 120 + 120) + (120 * 4 + 4)
    assert first + second + third == 2_691_828
    for stages, expected in ((1, first), (2, first + second), (3, first + second + third)):
        method = create("hcam", audio_dim=768, text_dim=768, num_classes=4, stages=stages)
        assert sum(p.numel() for p in method.parameters()) == expected


def test_the_ablation_rows_are_the_stages() -> None:
    rows = get_method("hcam").ablations
    assert list(rows) == ["Stage I", "Stage II", "Stage III", "Stages II and III, ensemble"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"text_encoder": "lstm"}, "text_encoder is 'lstm'; it must be 'bigru' or 'mean'"),
        ({"schedule": "frozen"}, "schedule is 'frozen'; it must be 'joint' or 'staged'"),
        ({"stages": 4}, "stages is 4; it must be 1, 2 or 3"),
        ({"stages": 0}, "stages is 0; it must be 1, 2 or 3"),
        ({"blocks": 0}, "blocks is 0; it must be at least 1"),
        ({"stage_epochs": 0}, "stage_epochs is 0; it must be at least 1"),
        ({"tau": 0.0}, "tau is 0.0; it must be above 0"),
        ({"beta": -0.5}, "beta is -0.5; it must be at least 0"),
        ({"convex": True}, "beta is 1.0; it must be at least 0, and below 1 with convex=True"),
        ({"encoder": "gru"}, "encoder is 'gru'"),
    ],
)
def test_options_without_a_meaning_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(**options)
