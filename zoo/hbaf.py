"""HBAF: heterogeneous bimodal attention fusion (Luo, Phan, Wang, Reiss, 2025, https://arxiv.org/abs/2503.06405).

Over the utterances of a dialogue: a context network per modality, self- and cross-attention, a gate that filters both, a
residual layer, and contrastive terms beside the cross-entropy. What differs from the paper's text, and why:

* Frames and tokens are pooled here (functionals, mean), so that any feature will do; the paper's own are utterance vectors already:
  512 of openSMILE's functionals, and RoBERTa's last four layers (of the first token, as in COSMIC). All are standardised over the
  corpus. COMET's three relations are the last columns of the text feature where it ends in ``comet(...)`` and ``commonsense`` is
  ``"comet"``. Few have such a checkpoint, so by default one learnt vector each, the same for all utterances (a bias, in effect),
  stands in their place, and results say so; or none does.
* The convolution runs over the dialogue; whether it does is not said. No positional encoding (the BiLSTM knows the order).
* Equations (1) to (6) never see the utterance that is to be classified. ``text_context="cosmic"`` is the wiring of COSMIC
  (Ghosal et al. 2020), which they evidently shorten; ``"literal"`` is (1) to (6) with l_i in (3) read as l_i^r.
  Equation (2) needs scalars, so W_s gives one. The three states, 1536 numbers, are brought to 512 by a linear layer.
* Equations (11) and (13) mix audio only with audio, text only with text, as printed: ``cross_stream="paper"``. With ``"mult"``
  each stream gets the other's content, as in MulT and as the prose has it. An absent modality is no key.
* The circled plus of (14) to (17) is said to be concatenation; only addition fits residual, "AddNorm" and 512 numbers.
* Cosines of (18) and (19) compare 512 numbers with 1024: ``projection`` brings them to one width. Their sums contain the
  positive, which so counts twice: left out, unless ``double_positive=True``. The text's 2K negatives are not in the formula.
* Lambdas, tau, dropout, feed-forward width and shared projections of self- and cross-attention are not published.
* Without attention the gate weighs the two modalities' own utterances; without the gate both messages count half; without the
  residual the gated message is the output; without all three nothing crosses. The paper doesn't say what it removed.
* Of its figures, audio alone is printed (Table 2). The others follow from the differences in sections 5.1 and 5.2, if these start
  from openSMILE's row of Table 2, which isn't stated: from wav2vec's, the whole model would have 73.2 on both corpora.
"""

from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from datamodules.batch import AUDIO, TEXT, Batch
from zoo.base import FusionModule, Output, Published, Training, Variant
from zoo.nn import BiLSTM, Convolution, LocalAttention, MaskedNorm, masked_functionals, masked_mean, masked_softmax


def _audio_rows(name: str, feature: str, figures: tuple[float, float], without: tuple[float, float]) -> dict[str, Variant]:
    """Audio alone on a feature, with and without its context network; the paper's weighted F1 on MELD and on IEMOCAP-6."""
    titles = ("MELD weighted F1", "IEMOCAP-6 weighted F1")
    return {
        f"Audio, {name}": Variant("hbaf", {"inputs": "audio"}, dict(zip(titles, figures, strict=True)), feature),
        f"Audio, {name}, w/o audio context network": Variant(
            "hbaf", {"inputs": "audio", "audio_context": False}, dict(zip(titles, without, strict=True)), feature
        ),
    }


_STATES = "hidden_states(checkpoint='{}', pool='mean')"
_NO_FUSION = {"bimodal_attention": False, "filter_gate": False, "residual": False}


class HBAF(FusionModule):
    """Context networks, bimodal attention, filter gate, contrastive learning.

    Equations::

        H_a = Transformer(BiLSTM(Conv(z_a)));  H_l = W [GRU_e; GRU_i; GRU_p](r, context, relations)
        S_m = softmax(Q_m K_m^T / sqrt d) V_m                                  m = a, l          (7)
        C_a = softmax(Q_l K_a^T / sqrt d) V_a,  C_l = softmax(Q_a K_l^T / sqrt d) V_l            (8, 9)
        G_m = sigmoid(S_m W_s + C_m W_c + b),  H_m* = G_m S_m + (1 - G_m) C_m                    (10-13)
        X_m = LN(H_m + H_m*),  h_m = LN(X_m + FF(X_m))                                           (14-17)
        logits = W [h_a; h_l] + b
        loss = CE + mu (lambda_1 NCE(h_a, h) + lambda_2 NCE(h_l, h) + lambda_3 NCE(h_a, h_l))    (18-22)
    """

    family = "model-level"
    unit = "dialogue"
    paper = "Luo, Phan, Wang, Reiss, Heterogeneous bimodal attention fusion for speech emotion recognition, arXiv 2503.06405, 2025"
    published = Published(
        "compare2016(select=512)",
        "hidden_states(checkpoint='roberta-large', layers=(-4, -3, -2, -1), pool='first')",
        Training(100, 15, 32, 1e-4, 3e-4, "none", 0.0),  # 32 dialogues; the paper names no unit and no number of epochs
    )
    # Weighted F1 on the official splits. Its figure of the single components gives no numbers. Table 2's VGGish and openL3 are no
    # features here, and which wav2vec and data2vec it used isn't said: the base models stand for them.
    ablations = {  # noqa: RUF012 - read-only, declared by the base
        "Audio": Variant("hbaf", {"inputs": "audio"}),
        "Audio, w/o audio context network": Variant("hbaf", {"inputs": "audio", "audio_context": False}),
        **_audio_rows("functionals", "compare2016(select=512)", (41.2, 58.3), (39.8, 56.7)),
        **_audio_rows("MFCC", "mfcc", (34.6, 52.8), (33.5, 51.5)),
        **_audio_rows("wav2vec 2.0", _STATES.format("facebook/wav2vec2-base"), (47.3, 61.9), (47.6, 62.1)),
        **_audio_rows("data2vec", _STATES.format("facebook/data2vec-audio-base"), (37.9, 53.0), (37.8, 52.7)),
        "Text": Variant("hbaf", {"inputs": "text"}, {"MELD weighted F1": 64.8, "IEMOCAP-6 weighted F1": 64.5}, derived=True),
        "w/o audio context network": Variant("hbaf", {"audio_context": False}),
        "w/o text context network": Variant("hbaf", {"text_context": "none"}),
        "w/o fusion module": Variant("hbaf", _NO_FUSION, {"MELD weighted F1": 63.5, "IEMOCAP-6 weighted F1": 63.0}, derived=True),
        "w/o bimodal attention": Variant("hbaf", {"bimodal_attention": False}),
        "w/o filter gate": Variant("hbaf", {"filter_gate": False}),
        "w/o residual": Variant("hbaf", {"residual": False}),
        "w/o contrastive learning": Variant(
            "hbaf", {"mu": 0.0}, {"MELD weighted F1": 64.2, "IEMOCAP-6 weighted F1": 64.2}, derived=True
        ),
        "w/o absolute terms": Variant("hbaf", {"lambda_audio": 0.0, "lambda_text": 0.0}),
        "w/o relative term": Variant("hbaf", {"lambda_relative": 0.0}),
        "HBAF": Variant("hbaf", {}, {"MELD weighted F1": 67.1, "IEMOCAP-6 weighted F1": 69.6}, derived=True),
    }

    def __init__(
        self,
        audio_dim: int,
        text_dim: int,
        num_classes: int,
        inputs: Literal["both", "audio", "text"] = "both",
        hidden: int = 512,
        filters: int = 64,
        lstm_layers: int = 2,
        layers: int = 3,
        heads: int = 8,
        expansion: int = 2,
        dropout: float = 0.3,
        audio_context: bool = True,
        text_context: Literal["cosmic", "literal", "none"] = "cosmic",
        text_residual: bool = False,
        commonsense: Literal["learnt", "comet", "none"] = "learnt",
        comet_dim: int = 1024,
        bimodal_attention: bool = True,
        shared_projections: bool = True,
        cross_stream: Literal["paper", "mult"] = "paper",
        filter_gate: bool = True,
        residual: bool = True,
        mu: float = 0.2,
        lambda_audio: float = 1.0,
        lambda_text: float = 1.0,
        lambda_relative: float = 1.0,
        tau: float = 0.1,
        projection: Literal["fused", "all"] = "fused",
        d: int = 256,
        double_positive: bool = False,
    ) -> None:
        """Build the three modules.

        Args:
            audio_dim: Width Da of the frames, or of utterance vectors (T = 1; the paper: 512).
            text_dim: Width Dt of the token vectors, or of utterance vectors (L = 1; the paper: 1024).
            num_classes: Number of classes C.
            inputs: With one modality its context network, self-attention and residual layer remain.
            hidden: Width of every representation; even.
            filters: Of the audio context network's convolution, three utterances wide.
            lstm_layers: Its BiLSTM layers, ``hidden / 2`` units per direction.
            layers: Its Transformer encoder layers.
            heads: Their heads; the bimodal attention has one.
            expansion: Width of all feed-forward layers over ``hidden``.
            dropout: Before every layer of the context networks, in feed-forward layers, on attention, before the classifier.
            audio_context: The audio context network; without it a linear layer.
            text_context: ``cosmic``, ``literal`` or, for a linear layer, ``none``; see the module's text.
            text_residual: Add the utterance's own vector to what the text context network gives.
            commonsense: ``comet`` for COMET's external, internal and purpose vectors, ``learnt`` ones in their place, or none.
            comet_dim: With ``comet``: width of each of the three, which are the text feature's last columns, as in
                ``hidden_states(...) + comet(...)``.
            bimodal_attention: Self- and cross-attention, equations (7) to (9).
            shared_projections: Both use the same queries, keys and values.
            cross_stream: Which cross-attention each stream is gated with; see the module's text.
            filter_gate: Equations (10) to (13).
            residual: Equations (14) to (17).
            mu: Weight of the contrastive terms.
            lambda_audio: Weight of audio against both, (18).
            lambda_text: Weight of text against both, (19).
            lambda_relative: Weight of audio against text, (20).
            tau: Temperature.
            projection: ``fused`` projects h_m to ``hidden`` for the cosines, ``all`` projects all three to ``d``.
            d: Common width of ``projection="all"``.
            double_positive: (18) and (19) to the letter.

        Raises:
            ValueError: For a value that has no meaning.
        """
        for option, value, allowed in (
            ("inputs", inputs, ("both", "audio", "text")),
            ("text_context", text_context, ("cosmic", "literal", "none")),
            ("commonsense", commonsense, ("learnt", "comet", "none")),
            ("cross_stream", cross_stream, ("paper", "mult")),
            ("projection", projection, ("fused", "all")),
        ):
            if value not in allowed:
                raise ValueError(f"hbaf: {option} is {value!r}; it must be one of {', '.join(map(repr, allowed))}")
        relations = 3 * comet_dim if commonsense == "comet" else 0
        if commonsense == "comet" and not 0 < relations < text_dim:
            raise ValueError(
                f"hbaf: a text feature of width {text_dim} can't end in three relations of width comet_dim={comet_dim}; name one "
                "such as hidden_states(...) + comet(...), and as comet_dim the width of the COMET checkpoint"
            )
        if hidden % 2:
            raise ValueError(f"hbaf: hidden is {hidden}; it must be even, half of it per direction of the BiLSTM")
        if text_residual and text_context == "none":
            raise ValueError("hbaf: text_residual adds the utterance's vector to a text context network; it needs text_context")
        if tau <= 0 or min(mu, lambda_audio, lambda_text, lambda_relative) < 0:
            raise ValueError("hbaf: tau must be above 0, and mu and the lambdas must not be below 0")
        super().__init__(num_classes)
        self.save_hyperparameters()
        both = inputs == "both"
        self.audio_context = self.text_context = None
        if inputs != "text":
            self.audio_context = _AudioContext(
                audio_dim, hidden, filters, lstm_layers, layers, heads, expansion, dropout, audio_context
            )
        if inputs != "audio":
            learnt = commonsense == "learnt"
            self.text_context = _TextContext(
                text_dim - relations, comet_dim if relations else 0, hidden, text_context, text_residual, learnt, dropout
            )
            if learnt and text_context != "none":
                self.caveats = ("hbaf: learnt vectors, the same for all utterances, stand in place of COMET's relations",)
        self.bimodal_attention, self.cross_stream = bimodal_attention, cross_stream
        self.streams = nn.ModuleDict(
            {
                name: _Stream(
                    hidden,
                    expansion,
                    dropout,
                    attention=bimodal_attention,
                    separate=bimodal_attention and both and not shared_projections,
                    gate=filter_gate and both,
                    residual=residual,
                )
                for name in (("audio", "text") if both else (inputs,))
            }
        )
        width = hidden * len(self.streams)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(width, num_classes)
        self.mu, self.tau, self.double_positive = mu if both else 0.0, tau, double_positive
        # Anchor, candidates, weight; a term of weight 0 leaves no head without a gradient.
        terms = (("audio", "fused", lambda_audio), ("text", "fused", lambda_text), ("audio", "text", lambda_relative))
        self.terms = [term for term in terms if self.mu * term[2]]
        projected = {name for term in self.terms for name in term[:2] if projection == "all" or name == "fused"}
        common = d if projection == "all" else hidden
        self.heads = nn.ModuleDict({name: nn.Linear(width if name == "fused" else hidden, common) for name in sorted(projected)})

    def forward(self, batch: Batch, maps: bool = False) -> Output:
        """Classify every utterance.

        Maps, all from utterance to utterance, (B, N, N): ``context`` over the utterances before (no row sums to one where
        there are none), ``self_audio``, ``self_text``, ``audio_from_text`` with audio queries (8), ``text_from_audio`` (9).
        And the gates, no distributions: ``gate_audio`` and ``gate_text`` (B, N, hidden).
        """
        turns = batch.turn_mask
        assert turns is not None, "hbaf reads dialogues"
        real = {"audio": batch.present[..., AUDIO], "text": batch.present[..., TEXT]}  # (B, N) each
        states: dict[str, Tensor] = {}  # H_a, H_l: (B, N, hidden) each
        found: dict[str, Tensor] = {}
        if self.audio_context is not None:
            states["audio"] = self.audio_context(batch.audio, batch.audio_mask, real["audio"], turns)
        if self.text_context is not None:
            states["text"], weights = self.text_context(batch.text, batch.text_mask, real["text"])
            found |= {} if weights is None else {"context": weights}
        own, cross = self._attend(states, real, turns, found)
        outputs = []
        for name, state in states.items():
            output, gate = self._stream(name)(state, own[name], cross.get(name))
            outputs.append(output)
            found |= {} if gate is None else {f"gate_{name}": gate * turns.unsqueeze(-1)}
        fused = torch.cat(outputs, dim=-1)  # h_m: (B, N, 2 hidden)
        return Output(self.classifier(self.dropout(fused)), fused, found if maps else None)

    def loss(self, output: Output, batch: Batch) -> Tensor:
        """Cross-entropy, and ``mu`` times the contrastive terms over all utterances of the batch that have both modalities."""
        loss = super().loss(output, batch)
        assert output.fused is not None
        fused = output.fused[batch.present.all(-1)]  # (K, 2 hidden)
        if not self.terms or not len(fused):
            return loss
        vectors = dict(zip(("audio", "text"), fused.chunk(2, dim=-1), strict=True)) | {"fused": fused}
        vectors |= {name: head(vectors[name]) for name, head in self.heads.items()}
        with torch.autocast(fused.device.type, enabled=False):  # half-precision cosines are too coarse under a small tau
            unit = {name: F.normalize(vector.float(), dim=-1) for name, vector in vectors.items()}
            for anchor, candidates, weight in self.terms:
                scores = unit[anchor] @ unit[candidates].T / self.tau  # (K, K)
                positive = scores.diagonal()
                if self.double_positive and candidates == "fused":
                    scores = torch.cat([scores, positive.unsqueeze(1)], dim=1)
                loss = loss + self.mu * weight * (scores.logsumexp(1) - positive).mean()
        return loss

    def _attend(
        self, states: dict[str, Tensor], real: dict[str, Tensor], turns: Tensor, found: dict[str, Tensor]
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Each stream's message from itself and from across, (7) to (9); maps are put into ``found``."""
        if not self.bimodal_attention:
            other = {"audio": "text", "text": "audio"}
            return states, {name: states[other[name]] for name in states if len(states) == 2}
        masks = {name: real[name].unsqueeze(1) & turns.unsqueeze(2) for name in states}  # (B, N, N)
        own = {}
        for name, state in states.items():
            own[name], found[f"self_{name}"] = self._stream(name).attend(*self._stream(name).project(state), masks[name])
        if len(states) == 1:
            return own, {}
        audio, text = self._stream("audio"), self._stream("text")
        (query_a, key_a, value_a), (query_l, key_l, value_l) = (
            audio.project(states["audio"], across=True),
            text.project(states["text"], across=True),
        )
        of_text, found["audio_from_text"] = audio.attend(query_a, key_l, value_l, masks["text"])
        of_audio, found["text_from_audio"] = text.attend(query_l, key_a, value_a, masks["audio"])
        return own, {"audio": of_audio, "text": of_text} if self.cross_stream == "paper" else {"audio": of_text, "text": of_audio}

    def _stream(self, name: str) -> "_Stream":
        return cast("_Stream", self.streams[name])


class _FeedForward(nn.Module):
    """``LN(x + FF(x))``."""

    def __init__(self, hidden: int, expansion: int, dropout: float) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(hidden, expansion * hidden), nn.Linear(expansion * hidden, hidden)
        self.dropout, self.norm = nn.Dropout(dropout), nn.LayerNorm(hidden)

    def forward(self, x: Tensor) -> Tensor:
        """(..., hidden) -> (..., hidden)."""
        fed: Tensor = self.norm(x + self.dropout(self.outer(self.dropout(self.inner(x).relu()))))
        return fed


class _AudioContext(nn.Module):
    """Audio context network: convolution, BiLSTM and Transformer layers over the dialogue, future utterances included."""

    def __init__(
        self,
        audio_dim: int,
        hidden: int,
        filters: int,
        lstm_layers: int,
        layers: int,
        heads: int,
        expansion: int,
        dropout: float,
        network: bool,
    ) -> None:
        super().__init__()
        self.norm = MaskedNorm(3 * audio_dim)
        self.linear = None if network else nn.Sequential(nn.Dropout(dropout), nn.Linear(3 * audio_dim, hidden))
        self.conv = Convolution(3 * audio_dim, filters, 1, 3, dropout) if network else None
        self.lstm = BiLSTM(filters, hidden // 2, lstm_layers, dropout) if network else None
        count = layers if network else 0
        self.attention = nn.ModuleList(LocalAttention(hidden, heads, dropout) for _ in range(count))
        self.feed = nn.ModuleList(_FeedForward(hidden, expansion, dropout) for _ in range(count))

    def forward(self, audio: Tensor, mask: Tensor, real: Tensor, turns: Tensor) -> Tensor:
        """(B, N, T, Da) and the masks (B, N, T), (B, N), (B, N) -> H_a, (B, N, hidden)."""
        x: Tensor = self.norm(masked_functionals(audio, mask), real)  # (B, N, 3 Da)
        if self.conv is None or self.lstm is None:
            assert self.linear is not None
            x = self.linear(x)
            return x * real.unsqueeze(-1)
        x = self.lstm(self.conv(x, turns), turns)  # (B, N, hidden)
        for attention, feed in zip(self.attention, self.feed, strict=True):
            x = feed(attention(x, turns)[0])
        return x


class _TextContext(nn.Module):
    """Text context network: attention over the utterances before, and three chains of states; never a future utterance."""

    def __init__(
        self, text_dim: int, comet_dim: int, hidden: int, wiring: str, residual: bool, learnt: bool, dropout: float
    ) -> None:
        super().__init__()
        self.norm, self.dropout = MaskedNorm(text_dim), nn.Dropout(dropout)
        self.linear = nn.Linear(text_dim, hidden)
        self.wiring, self.residual, self.comet_dim = wiring, residual, comet_dim
        self.relations = self.score = self.comet_norm = self.comet = None
        if wiring == "none":
            return
        self.score = nn.Linear(hidden, 1)
        width = hidden if learnt or comet_dim else 0
        if comet_dim:
            self.comet_norm = MaskedNorm(3 * comet_dim)
            self.comet = nn.ModuleList(nn.Linear(comet_dim, hidden) for _ in range(3))
        if learnt:  # of the scale that a linear layer's output has
            self.relations = nn.Parameter(torch.randn(3, hidden))
        inputs = (2 * hidden + width if wiring == "cosmic" else hidden + width, hidden + width, hidden + width)
        self.external, self.internal, self.purpose = (nn.GRU(size, hidden, batch_first=True) for size in inputs)
        self.out = nn.Linear(3 * hidden, hidden)

    def forward(self, text: Tensor, mask: Tensor, real: Tensor) -> tuple[Tensor, Tensor | None]:
        """(B, N, L, Dt) and the masks (B, N, L), (B, N) -> H_l (B, N, hidden) and the context's weights (B, N, N) or None."""
        pooled = masked_mean(text, mask)  # (B, N, Dt)
        mean, comet = pooled.tensor_split((pooled.shape[-1] - 3 * self.comet_dim,), dim=-1)
        own: Tensor = self.linear(self.dropout(self.norm(mean, real))) * real.unsqueeze(-1)  # (B, N, hidden)
        if self.score is None:
            return own, None
        turns = own.shape[1]
        before = torch.ones(turns, turns, dtype=torch.bool, device=own.device).tril(-1)
        scores = self.score(own).tanh().transpose(1, 2)  # (1): one scalar per utterance, (B, 1, N)
        weights = masked_softmax(scores.expand(-1, turns, -1), before & real.unsqueeze(1))  # (2): (B, N, N)
        context = weights @ own  # (3): zero for the first utterance
        relations = self._relations(own, comet, real)
        first = [own] if self.wiring == "cosmic" else []
        external, _ = self.external(torch.cat([*first, *relations[0], context], dim=-1))  # (4)
        internal, _ = self.internal(torch.cat([*relations[1], context], dim=-1))  # (5)
        last = internal if self.wiring == "cosmic" else context
        purpose, _ = self.purpose(torch.cat([*relations[2], last], dim=-1))  # (6)
        states: Tensor = self.out(self.dropout(torch.cat([external, internal, purpose], dim=-1)))
        return (states + own if self.residual else states), weights

    def _relations(self, own: Tensor, comet: Tensor, real: Tensor) -> list[list[Tensor]]:
        """External, internal and purpose relation of every utterance: each [(B, N, width)], or [] where there is none."""
        if self.comet is not None and self.comet_norm is not None:
            vectors = self.dropout(self.comet_norm(comet, real)).chunk(3, dim=-1)
            return [[linear(vector) * real.unsqueeze(-1)] for linear, vector in zip(self.comet, vectors, strict=True)]
        if self.relations is None:
            return [[], [], []]
        return [[relation.expand_as(own)] for relation in self.relations]


class _Stream(nn.Module):
    """One modality's part of the fusion: projections without bias, filter gate and residual layer."""

    def __init__(
        self, hidden: int, expansion: int, dropout: float, *, attention: bool, separate: bool, gate: bool, residual: bool
    ) -> None:
        super().__init__()
        self.own = nn.Linear(hidden, 3 * hidden, bias=False) if attention else None
        self.across = nn.Linear(hidden, 3 * hidden, bias=False) if separate else None
        self.gate = nn.Linear(2 * hidden, hidden) if gate else None
        self.norm = nn.LayerNorm(hidden) if residual else None
        self.feed = _FeedForward(hidden, expansion, dropout) if residual else None
        self.dropout = nn.Dropout(dropout)

    def project(self, x: Tensor, across: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of self- or cross-attention, (B, N, hidden) each."""
        layer = self.across if across and self.across is not None else self.own
        assert layer is not None
        query, key, value = layer(x).chunk(3, dim=-1)
        return query, key, value

    def attend(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """``softmax(Q K^T / sqrt(d)) V``, (B, N, hidden), and its weights (B, N, N); zero where no key is real."""
        weights = masked_softmax(query @ key.transpose(1, 2) / query.shape[-1] ** 0.5, mask)
        return self.dropout(weights) @ value, weights

    def forward(self, state: Tensor, own: Tensor, cross: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """H_m and the messages, (B, N, hidden) each -> h_m (B, N, hidden) and the gate or None."""
        gate, filtered = None, own
        if self.gate is not None and cross is not None:
            gate = self.gate(torch.cat([own, cross], dim=-1)).sigmoid()
            filtered = gate * own + (1 - gate) * cross
        elif self.own is not None and cross is not None:
            filtered = (own + cross) / 2
        if self.norm is not None and self.feed is not None:
            filtered = self.feed(self.norm(state + filtered))
        return filtered, gate
