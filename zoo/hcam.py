"""HCAM: hierarchical cross-attention over a dialogue (Dutta & Ganapathy, arXiv 2304.06910).

Stage I embeds each utterance by each modality, stage II puts it into the dialogue's context with a Bi-GRU and self-attention,
stage III lets the modalities attend to each other. Every stage has heads and a loss of its own: cross-entropy and a supervised
contrastive term. The paper's text is not open; widths and wiring follow the authors' other systems. What differs, and why:

* The paper trains a stage after the other and freezes the earlier ones. Default ``schedule="joint", detach=True`` trains all at
  once, but no gradient of a stage reaches an earlier one: each still learns from its own loss only, while one optimiser, one
  budget of epochs and early stopping on the last stage's score work from the first epoch. ``schedule="staged"`` is the paper's;
  it answers with the stage in training, and ``stage_epochs`` must be below the patience. ``detach=False`` is end to end.
* wav2vec 2.0 and the text encoder stay frozen; frames become functionals, standardised over the corpus.
* Self-attention of stages I and II has one head, as in the predecessor; the co-attention is the successor's, without its second
  projection of the inputs. beta, tau, the convex sum and what is averaged in the ensemble are not published: beta 1, tau 0.1.
* The contrastive term is the mean over its views, so that beta means the same for every batch size.
* A modality that an utterance lacks is left out of its unimodal losses, of the averages and of the contrastive views.
"""

from typing import Literal, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from datamodules.batch import AUDIO, IGNORED, TEXT, Batch
from zoo.base import FusionModule, Output, Published, Training, Variant
from zoo.nn import BiGRU, CrossAttention, LocalAttention, MaskedNorm, make_encoder, masked_functionals, masked_mean
from zoo.nn.encoders import EncoderName


class Stage(NamedTuple):
    """What a stage says: an embedding of every turn by each modality, and the logits (B, N, C) of its one or two heads."""

    audio: Tensor  # (B, N, W)
    text: Tensor  # (B, N, W)
    heads: list[Tensor]
    fused: Tensor


class StagedOutput(Output):
    """An output that remembers its stages, for the loss."""

    stages: list[Stage]


class HCAM(FusionModule):
    """Utterance embeddings, context, co-attention.

    Equations::

        I    u_a = tanh(W functionals(audio)),  u_t = mean_s LN(G + MHSA(G)), G = BiGRU(tokens)
        II   c_m = LN(R + MHSA(R)), R = BiGRU over turns(u_m)
        III  A = W c_a, T = W c_t;  A = LN(A + MHA(A, T, T)), T = LN(T + MHA(T, A, A)), then each LN(x + MHSA(x))
             logits = W relu(W LN([T; A]))
        answer = mean of the posteriors of II audio, II text and III
        loss = sum over stages of CE + beta SupCon([audio; text])
    """

    family = "model-level"
    tasks = ("multiclass",)  # the contrastive term needs one label per utterance
    unit = "dialogue"
    paper = "Dutta & Ganapathy, HCAM: Hierarchical Cross Attention Model for Multi-modal Emotion Recognition, arXiv 2304.06910"
    # Sizes are not published; the training is that of the predecessor's contextual stage (Dutta & Ganapathy, ICASSP 2022).
    published = Published(
        "hidden_states(checkpoint='facebook/wav2vec2-base')",
        "hidden_states(checkpoint='roberta-base', layers=(-4, -3, -2, -1))",
        Training(40, 8, 32, 1e-3, 0.0, "none", 1.0),
    )
    ablations = {  # noqa: RUF012 - read-only, declared by the base
        "Stage I": Variant("hcam", {"stages": 1}),
        "Stage II": Variant("hcam", {"stages": 2}),
        "Stage III": Variant("hcam", {"ensemble": False}),
        "Stages II and III, ensemble": Variant("hcam", {}, {"IEMOCAP-6 weighted F1": 70.5, "MELD weighted F1": 65.8}),
    }
    stage: Tensor

    def __init__(
        self,
        audio_dim: int,
        text_dim: int,
        num_classes: int,
        encoder: EncoderName = "identity",
        text_encoder: Literal["bigru", "mean"] = "bigru",
        hidden: int = 100,
        layers: int = 2,
        d: int = 120,
        heads: int = 3,
        blocks: int = 1,
        stages: int = 3,
        ensemble: bool = True,
        beta: float = 1.0,
        tau: float = 0.1,
        convex: bool = False,
        schedule: Literal["joint", "staged"] = "joint",
        stage_epochs: int = 6,
        detach: bool = True,
        dropout: float = 0.3,
    ) -> None:
        """Build the stages.

        Args:
            audio_dim: Width Da of the frames.
            text_dim: Width Dt of the token vectors.
            num_classes: Number of classes C.
            encoder: Of the frames, before their functionals: ``identity``, ``bilstm`` or ``cnn``.
            text_encoder: ``bigru`` with self-attention, or ``mean`` of the tokens.
            hidden: GRU units per direction; embeddings are twice as wide.
            layers: Layers of every recurrent network.
            d: Width of the co-attention.
            heads: Its heads.
            blocks: Stacked blocks of co-attention and self-attention.
            stages: The last stage: 1, 2 or 3. Stages 1 and 2 average their two heads' logits.
            ensemble: With three stages, average the probabilities of both heads of stage II and of stage III.
            beta: Weight of the contrastive term.
            tau: Its temperature.
            convex: ``(1 - beta) CE + beta SupCon`` in place of ``CE + beta SupCon``.
            schedule: ``joint`` or ``staged``; see the module's text.
            stage_epochs: Epochs of stages I and II each when staged.
            detach: When joint, stop each stage's gradient at its input.
            dropout: On the input of every layer, in every attention, and before the heads.

        Raises:
            ValueError: For an option without a meaning.
        """
        super().__init__(num_classes)
        if text_encoder not in {"bigru", "mean"}:
            raise ValueError(f"hcam: text_encoder is {text_encoder!r}; it must be 'bigru' or 'mean'")
        if schedule not in {"joint", "staged"}:
            raise ValueError(f"hcam: schedule is {schedule!r}; it must be 'joint' or 'staged'")
        for name, value in {"stages": stages, "blocks": blocks, "stage_epochs": stage_epochs}.items():
            if value < 1 or (name == "stages" and value > 3):
                raise ValueError(f"hcam: {name} is {value}; it must be {'1, 2 or 3' if name == 'stages' else 'at least 1'}")
        if tau <= 0:
            raise ValueError(f"hcam: tau is {tau}; it must be above 0")
        if beta < 0 or (convex and beta >= 1):
            raise ValueError(f"hcam: beta is {beta}; it must be at least 0, and below 1 with convex=True")
        self.save_hyperparameters()
        width = 2 * hidden
        utterances = _Utterances(audio_dim, text_dim, encoder, text_encoder, hidden, layers, num_classes, dropout)
        later = [_Context(width, layers, num_classes, dropout), _CoAttention(width, d, heads, blocks, num_classes, dropout)]
        self.stages = nn.ModuleList([utterances, *later][:stages])
        self.ensemble, self.staged, self.stage_epochs = ensemble and stages == 3, schedule == "staged", stage_epochs
        self.beta, self.tau, self.convex, self.detach = beta, tau, convex, detach or self.staged
        # A buffer, so that a checkpoint answers with the stage it was saved in.
        self.register_buffer("stage", torch.tensor(1 if self.staged else stages))

    def on_train_epoch_start(self) -> None:
        """When staged: take the next stage in its turn, and put the earlier ones to rest, with no dropout and fixed norms."""
        if self.staged:
            self.stage.fill_(min(self.current_epoch // self.stage_epochs + 1, len(self.stages)))
            for number, stage in enumerate(self.stages, 1):
                stage.train(number >= int(self.stage))

    def forward(self, batch: Batch, maps: bool = False) -> Output:
        """Classify every turn.

        Maps, all (B, N, N) over turns: ``context_audio`` and ``context_text`` of stage II; of stage III's last block
        ``audio_from_text`` with audio queries, ``text_from_audio``, ``self_audio`` and ``self_text``.
        """
        mask, attention, said = cast("Tensor", batch.turn_mask), cast("dict[str, Tensor]", {}), cast("list[Stage]", [])
        count = int(self.stage) if self.staged else len(self.stages)
        for stage in list(self.stages)[:count]:
            if not said:
                said.append(stage(batch))
                continue
            audio, text = (x.detach() if self.detach else x for x in said[-1][:2])
            said.append(stage(audio, text, mask, attention if maps else None))
        output = StagedOutput(self._answer(said, batch.present), said[-1].fused, attention if maps else None)
        output.stages = said
        return output

    def _answer(self, said: list[Stage], present: Tensor) -> Tensor:
        """Logits (B, N, C) of the last stage or the ensemble; a missing modality's head has no say unless both are missing."""
        weight = (present | ~present.any(-1, keepdim=True)).unsqueeze(-1)  # (B, N, 2, 1)
        if len(said) < 3:
            heads = torch.stack(said[-1].heads, dim=-2)  # (B, N, 2, C)
            return (heads * weight).sum(-2) / weight.sum(-2)
        if not self.ensemble:
            return said[-1].heads[0]
        heads = torch.stack(said[1].heads + said[2].heads, dim=-2).float().log_softmax(-1)  # (B, N, 3, C)
        weight = F.pad(weight, (0, 0, 0, 1), value=True)
        return heads.masked_fill(~weight, float("-inf")).logsumexp(-2) - weight.sum(-2).log()

    def loss(self, output: Output, batch: Batch) -> Tensor:
        """Sum over stages, or that of the stage in training when staged."""
        stages = cast("StagedOutput", output).stages
        return torch.stack([self._stage_loss(stage, batch) for stage in (stages[-1:] if self.staged else stages)]).sum()

    def _stage_loss(self, stage: Stage, batch: Batch) -> Tensor:
        """Cross-entropy of each head and the contrastive term over both modalities' embeddings."""
        own = [batch.label.masked_fill(~batch.present[..., modality], IGNORED) for modality in (AUDIO, TEXT)]
        views = torch.cat([x[label != IGNORED] for x, label in zip(stage[:2], own, strict=True)])
        contrast = supervised_contrastive(views, torch.cat([label[label != IGNORED] for label in own]), self.tau)
        loss = self.beta * contrast.float()
        for head, label in zip(stage.heads, own if len(stage.heads) == 2 else [batch.label], strict=True):
            if label.ne(IGNORED).any():  # a mean over no label is NaN
                loss = loss + (1 - self.beta if self.convex else 1.0) * super().loss(Output(head), batch._replace(label=label))
        return loss


class _Utterances(nn.Module):
    """Stage I: an embedding of every utterance by each modality."""

    def __init__(
        self, audio_dim: int, text_dim: int, encoder: EncoderName, text: str, hidden: int, layers: int, classes: int, dropout: float
    ) -> None:
        super().__init__()
        width = 2 * hidden
        self.encoder = make_encoder(encoder, audio_dim, hidden, layers, dropout)
        self.audio_norm = MaskedNorm(3 * self.encoder.dim)
        # Tanh, the range of GRU states: the contrastive term needs directions on all sides.
        self.audio_proj = nn.Sequential(nn.Dropout(dropout), nn.Linear(3 * self.encoder.dim, width), nn.Tanh())
        self.gru = BiGRU(text_dim, hidden, layers, dropout) if text == "bigru" else None
        self.local = LocalAttention(width, 1, dropout) if text == "bigru" else None
        self.text_norm = MaskedNorm(text_dim) if text == "mean" else None
        self.text_proj = nn.Sequential(nn.Dropout(dropout), nn.Linear(text_dim, width), nn.Tanh()) if text == "mean" else None
        self.dropout = nn.Dropout(dropout)
        self.heads = nn.ModuleList(nn.Linear(width, classes) for _ in range(2))

    def forward(self, batch: Batch) -> Stage:
        turns = cast("Tensor", batch.turn_mask)
        # Padded turns are left out: n real utterances in place of B * N.
        present, audio_mask, text_mask = batch.present[turns], batch.audio_mask[turns], batch.text_mask[turns]  # (n, …)
        frames = self.encoder(batch.audio[turns], audio_mask)
        audio = self.audio_proj(self.audio_norm(masked_functionals(frames, audio_mask), present[:, AUDIO]))  # (n, 2 hidden)
        if self.gru is not None and self.local is not None:
            text = masked_mean(self.local(self.gru(batch.text[turns], text_mask), text_mask)[0], text_mask)  # (n, 2 hidden)
        else:
            assert self.text_norm is not None
            assert self.text_proj is not None
            text = self.text_proj(self.text_norm(masked_mean(batch.text[turns], text_mask), present[:, TEXT]))
        audio, text = (  # (B, N, 2 hidden), zero where there is no such modality
            x.new_zeros(*turns.shape, x.shape[-1]).masked_scatter(turns.unsqueeze(-1), x * present[:, modality, None])
            for modality, x in ((AUDIO, audio), (TEXT, text))
        )
        heads = [head(self.dropout(x)) for head, x in zip(self.heads, (audio, text), strict=True)]
        return Stage(audio, text, heads, torch.cat([audio, text], dim=-1))


class _Context(nn.Module):
    """Stage II: each modality's embeddings in the context of the dialogue."""

    def __init__(self, width: int, layers: int, classes: int, dropout: float) -> None:
        super().__init__()
        self.grus = nn.ModuleList(BiGRU(width, width // 2, layers, dropout) for _ in range(2))
        self.locals = nn.ModuleList(LocalAttention(width, 1, dropout) for _ in range(2))
        self.dropout = nn.Dropout(dropout)
        self.heads = nn.ModuleList(nn.Linear(width, classes) for _ in range(2))

    def forward(self, audio: Tensor, text: Tensor, mask: Tensor, maps: dict[str, Tensor] | None) -> Stage:
        context, heads = [], []
        for name, x, gru, local, head in zip(("audio", "text"), (audio, text), self.grus, self.locals, self.heads, strict=True):
            attended, weights = local(gru(x, mask), mask, maps is not None)  # (B, N, width), (B, N, N)
            context.append(attended)
            heads.append(head(self.dropout(attended)))
            if maps is not None:
                maps[f"context_{name}"] = weights * mask.unsqueeze(-1)
        return Stage(context[0], context[1], heads, torch.cat(context, dim=-1))


class _CoAttention(nn.Module):
    """Stage III: attention between the modalities, then within each, over the turns."""

    def __init__(self, width: int, d: int, heads: int, blocks: int, classes: int, dropout: float) -> None:
        super().__init__()
        self.audio_proj, self.text_proj = nn.Linear(width, d), nn.Linear(width, d)
        self.audio_from_text, self.text_from_audio = (
            nn.ModuleList(CrossAttention(d, heads, dropout) for _ in range(blocks)) for _ in range(2)
        )
        self.self_audio, self.self_text = (
            nn.ModuleList(LocalAttention(d, heads, dropout) for _ in range(blocks)) for _ in range(2)
        )
        self.fuse = nn.Sequential(nn.LayerNorm(2 * d), nn.Dropout(dropout), nn.Linear(2 * d, d), nn.ReLU(), nn.Dropout(dropout))
        self.head = nn.Linear(d, classes)

    def forward(self, audio: Tensor, text: Tensor, mask: Tensor, maps: dict[str, Tensor] | None) -> Stage:
        audio, text, want = self.audio_proj(audio), self.text_proj(text), maps is not None  # (B, N, d) twice
        blocks = zip(self.audio_from_text, self.text_from_audio, self.self_audio, self.self_text, strict=True)
        for to_audio, to_text, self_audio, self_text in blocks:
            (audio, from_text), (text, from_audio) = to_audio(audio, text, mask, want), to_text(text, audio, mask, want)
            (audio, own_audio), (text, own_text) = self_audio(audio, mask, want), self_text(text, mask, want)
            if maps is not None:
                names = ("audio_from_text", "text_from_audio", "self_audio", "self_text")
                found = zip(names, (from_text, from_audio, own_audio, own_text), strict=True)
                maps.update({name: weights * mask.unsqueeze(-1) for name, weights in found})
        fused = self.fuse(torch.cat([text, audio], dim=-1))  # (B, N, d)
        return Stage(audio, text, [self.head(fused)], fused)


def supervised_contrastive(views: Tensor, labels: Tensor, tau: float) -> Tensor:
    """Supervised contrastive loss (Khosla et al. 2020): the mean over the views that have a positive.

    Args:
        views: (M, D); compared by their directions.
        labels: (M,); views of one label are each other's positives.
        tau: Temperature.

    Returns:
        A scalar; zero where no view has a positive.
    """
    with torch.autocast(views.device.type, enabled=False):  # similarities over tau need float32
        directions = F.normalize(views if views.dtype == torch.float64 else views.float(), dim=-1)
        others = ~torch.eye(len(views), dtype=torch.bool, device=views.device)
        scores = (directions @ directions.T / tau).masked_fill(~others, torch.finfo(directions.dtype).min)  # (M, M)
        positive = (labels[:, None] == labels) & others
        log_share = scores.log_softmax(-1).masked_fill(~positive, 0.0).sum(-1) / positive.sum(-1).clamp(min=1)  # (M,)
        return -log_share.sum() / positive.any(-1).sum().clamp(min=1)
