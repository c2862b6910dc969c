"""CNN on mel spectrograms and BERT, fused by attention over the modalities (Makhmudov et al., Appl. Sci. 14(10), 2024, 4199).

Speech: two convolutions side by side, long in frequency and long in time, then four more. Text: BERT's vector of every utterance,
reduced to 100 numbers, and a Bi-GRU over the dialogue. Fusion: both lifted to n numbers, one attention weight per modality.
What the paper leaves open, and what is done:

* Layout, padding and the place of the poolings are those of the code that the paper's speech part names (head fusion); how its
  maps become a vector isn't said: here the mean over the real positions, then the layer that lifts 80 to n.
* The text's last layer gives class scores by the paper's words, yet the fusion needs n numbers. Default: the Bi-GRU's state is
  lifted to n. ``text_scores=True`` is the letter: the scores are lifted to n.
* BERT is frozen and pooled by the mean, standardised over the corpus. Everything else is trained at once; the paper gives the
  text part hyper-parameters of its own.
* An absent modality gets no weight. Batch normalisation sees real frames only.
* The paper names n = 250 as the best it tried and not what else it tried: the other rows of the ablation are a choice made here.
"""

from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from datamodules.batch import TEXT, Batch
from zoo.base import FusionModule, Output, Published, Training, Variant
from zoo.nn import MaskedNorm, masked_mean, masked_softmax
from zoo.nn.recurrent import BiGRU

_SMALLEST = 5
"""Frames, and bands, that leave one position after both poolings."""


class CnnBertAttention(FusionModule):
    """A CNN per turn, a Bi-GRU over the turns' texts, attention over the two modalities.

    Equations::

        s = W_s mean(CNN([Conv_{10x2}(mel); Conv_{2x8}(mel)]))
        t = W_t BiGRU over turns(W BN(mean y))
        F = [s, t],  L = tanh(P F),  v = softmax(w^T L),  M = F v^T
        logits = W M + b
    """

    family = "model-level"
    unit = "dialogue"
    paper = "Makhmudov, Kultimuratov & Cho, Applied Sciences 14(10), 2024, 4199"
    published = Published(
        # Sizes of the spectrogram are not published. 300 epochs without a word on stopping.
        "logmel(n=64)",
        "hidden_states(checkpoint='bert-base-uncased')",
        Training(300, 300, 32, 5e-4, 1e-4, "none", 0.0),
    )
    ablations = {  # noqa: RUF012 - read-only, declared by the base
        f"n = {n}": Variant("cnn_bert_attention", {} if n == 250 else {"n": n}) for n in (50, 100, 150, 200, 250, 300)
    }

    def __init__(
        self,
        audio_dim: int,
        text_dim: int,
        num_classes: int,
        n: int = 250,
        channels: int = 8,
        hidden: int = 100,
        layers: int = 1,
        text_pool: Literal["mean", "first"] = "mean",
        text_scores: bool = False,
        dropout: float = 0.3,
    ) -> None:
        """Build both modules and the fusion.

        Args:
            audio_dim: Width Da of the frames (the paper: mel bands).
            text_dim: Width Dt of the token vectors.
            num_classes: Number of classes C.
            n: Common width of both modalities in the fusion.
            channels: Of each of the two parallel convolutions; the others have 4, 6, 8 and 10 times as many.
            hidden: Width of an utterance's text vector, and units of the Bi-GRU per direction.
            layers: Of the Bi-GRU.
            text_pool: ``mean`` of the token vectors, or the ``first`` ([CLS]).
            text_scores: Fuse the text's class scores in place of the Bi-GRU's states.
            dropout: On the text vectors, on the input of every Bi-GRU layer, and before the classifier.

        Raises:
            ValueError: If ``text_pool`` is neither.
        """
        super().__init__(num_classes)
        if text_pool not in {"mean", "first"}:
            raise ValueError(f"cnn_bert_attention: text_pool is {text_pool!r}; it must be 'mean' or 'first'")
        self.save_hyperparameters()
        self.text_pool = text_pool
        # Speech. Images are (bands, frames), the order of a librosa spectrogram, so 10 is along frequency and 8 along time.
        self.tall = _Convolution(1, channels, (10, 2), (4, 0))
        self.wide = _Convolution(1, channels, (2, 8), (0, 3))
        widths = [channels * times for times in (2, 4, 6, 8, 10)]
        self.stack = nn.ModuleList(_Convolution(before, after, (3, 3), (1, 1)) for before, after in pairwise(widths))
        self.audio_lift = nn.Linear(widths[-1], n)
        # Text
        self.text_norm = MaskedNorm(text_dim)
        self.reduce = nn.Linear(text_dim, hidden)
        self.context = BiGRU(hidden, hidden, layers, dropout)
        scores = [nn.Linear(self.context.dim, num_classes)] if text_scores else []
        self.text_lift = nn.Sequential(*scores, nn.Linear(num_classes if text_scores else self.context.dim, n))
        # Fusion: P and w of the paper
        self.project, self.weigh = nn.Linear(n, n, bias=False), nn.Linear(n, 1, bias=False)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(n, num_classes)

    def forward(self, batch: Batch, maps: bool = False) -> Output:
        """Classify every turn; map ``modality`` (B, N, 2), the weights of audio and text."""
        turns = batch.turn_mask
        if turns is None:
            raise ValueError("cnn_bert_attention reads dialogues; this batch has no turn_mask")
        speech = self._speech(batch.audio[turns], batch.audio_mask[turns])  # (R, n): real turns only, to save the convolutions
        audio = speech.new_zeros(*turns.shape, speech.shape[-1])  # (B, N, n)
        audio[turns] = speech
        text = self._text(batch, turns)
        both = torch.stack([audio, text], dim=-2)  # (B, N, 2, n): F of the paper, transposed
        attended = self.project(both).tanh()  # L = tanh(P F)
        weights = masked_softmax(self.weigh(attended).squeeze(-1), batch.present)  # v = softmax(w^T L), (B, N, 2)
        fused = (weights.unsqueeze(-2) @ both).squeeze(-2)  # M_f = F v^T, (B, N, n)
        return Output(self.classifier(self.dropout(fused)), fused, {"modality": weights} if maps else None)

    def _speech(self, frames: Tensor, mask: Tensor) -> Tensor:
        """(R, T, F), (R, T) -> (R, n).

        Every layer's zeros begin where the utterance would end if it were alone, so that none sees another's length.
        """
        image = (frames * mask.unsqueeze(-1)).transpose(1, 2)  # (R, F, T)
        image = F.pad(image, (0, max(0, _SMALLEST - image.shape[2]), 0, max(0, _SMALLEST - image.shape[1]))).unsqueeze(1)
        # Utterances shorter than the smallest image own the zeros up to it; absent ones stay empty.
        lengths = (mask.sum(1).clamp(min=_SMALLEST) - 1) * mask.any(1)
        image = torch.cat([self.tall(image, lengths), self.wide(image, lengths)], dim=1)  # (R, 2 channels, F - 1, T - 1)
        for number, layer in enumerate(self.stack):
            image = layer(image, lengths)
            if number < 2:
                # A last odd frame has no window of its own when the utterance is alone, so it has none in a batch.
                lengths = lengths // 2
                image = F.max_pool2d(image, 2) * _real(image.shape[3] // 2, lengths)[:, None, None]
        lifted: Tensor = self.audio_lift(masked_mean(image.mean(2).transpose(1, 2), _real(image.shape[3], lengths)))
        return lifted

    def _text(self, batch: Batch, turns: Tensor) -> Tensor:
        """(B, N, L, Dt) -> (B, N, n), in the context of the dialogue."""
        present = batch.present[..., TEXT]  # (B, N)
        pooled = batch.text[..., 0, :] if self.text_pool == "first" else masked_mean(batch.text, batch.text_mask)  # (B, N, Dt)
        reduced = self.dropout(self.reduce(self.text_norm(pooled, present))) * present.unsqueeze(-1)  # (B, N, hidden)
        lifted: Tensor = self.text_lift(self.context(reduced, turns))
        return lifted


class _Convolution(nn.Module):
    """2-D convolution, batch normalisation over the real frames, ReLU."""

    def __init__(self, before: int, after: int, kernel: tuple[int, int], padding: tuple[int, int]) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(before, after, kernel, padding=padding), MaskedNorm(after)

    def forward(self, image: Tensor, lengths: Tensor) -> Tensor:
        """(R, C, F, T) and the real frames (R,) of the output -> (R, C', F', T'), zero past them."""
        found = self.conv(image).permute(0, 2, 3, 1)  # (R, F', T', C')
        normal: Tensor = self.norm(found, _real(found.shape[2], lengths).unsqueeze(1).expand(found.shape[:-1]))
        return normal.relu().permute(0, 3, 1, 2)


def _real(frames: int, lengths: Tensor) -> Tensor:
    """(R, frames) bool, True up to ``lengths`` (R,)."""
    return torch.arange(frames, device=lengths.device) < lengths.unsqueeze(-1)
