"""EmoTech (Avro, Taher & Mamun, IEEE SPICSCON 2024, arXiv 2501.12674): recurrent and convolutional branches, concatenated.

Audio: two BiLSTMs beside three 2-D convolution blocks. Text: a BiLSTM and a 1-D convolution over word embeddings that are
learnt from scratch, each pooled by its maximum. The 512 numbers go through three dense layers. What differs, and why:

* The paper flattens the image of exactly 740 frames. That fits no other feature, so the default ``cnn_pool="adaptive"`` takes
  the mean over the real frames; ``"flatten"`` is the paper: zeros or a cut make it 740 frames, and the zeros count.
* The default, ``vocabulary=0``, reads vectors through a linear layer of the embedding's width; above 0 the text is ids with an
  embedding of that many rows. The paper's 2657 words (its code: 2843) are those of all its data. ``word_ids`` takes them from
  the training split of each fold; all others are one unknown word.
* The paper has no masks: its LSTMs run through the padding and its maxima see it. Here they don't, nor does the batch
  normalisation of the adaptive form.
* The paper's folds share one model and its augmented twins cross folds; its 83.5 % is not a number to chase.
"""

from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from datamodules.batch import Batch
from zoo.base import FusionModule, Output, Published, Training
from zoo.nn import BiLSTM, MaskedNorm, masked_mean


class EmoTech(FusionModule):
    """BiLSTM and CNN of each modality, concatenated, dense layers.

    Equations::

        a_1 = BiLSTM(BiLSTM(mfcc)), both ends;  a_2 = dense(CNN2D(mfcc))
        t_1 = max_s BiLSTM(E y)_s;  t_2 = max_s relu(Conv1D(E y))_s
        logits = dense_3([a_1; a_2; t_1; t_2])
    """

    family = "early"
    paper = "Avro, Taher & Mamun, EmoTech, IEEE SPICSCON 2024, arXiv 2501.12674"
    published = Published(
        # The paper's 2048-point windows at 16 kHz; its mel bands are 128, here as many as coefficients.
        "mfcc(n=13, window_ms=128.0, hop_ms=32.0, window='hann')",
        "word_ids(size=2657)",
        Training(30, 5, 32, 1e-3, 0.0, "none", 0.0),
        {"vocabulary": 2657, "cnn_pool": "flatten"},
    )

    def __init__(
        self,
        audio_dim: int,
        text_dim: int,
        num_classes: int,
        hidden: int = 64,
        channels: int = 32,
        cnn_hidden: int = 512,
        embedding: int = 200,
        kernel: int = 5,
        fused: int = 256,
        vocabulary: int = 0,
        cnn_pool: Literal["adaptive", "flatten"] = "adaptive",
        frames: int = 740,
        dropout: float = 0.2,
    ) -> None:
        """Build the branches and the dense layers.

        Args:
            audio_dim: Width Da of the frames (the paper: 13 MFCC).
            text_dim: Width Dt of the token vectors; 1 for token ids.
            num_classes: Number of classes C.
            hidden: LSTM units per direction; every branch ends with twice as many numbers.
            channels: Of the first convolution block; the second has twice, the third four times as many.
            cnn_hidden: Width of the dense layer on the image.
            embedding: Width of the word embedding.
            kernel: Width of the text's convolution in tokens.
            fused: Width of the first dense layer after the concatenation; the second has half, the third a quarter.
            vocabulary: Rows of the embedding of ids, the ``size`` of ``word_ids``; 0 for a text feature of vectors.
            cnn_pool: ``adaptive`` averages the image over time; ``flatten`` keeps a fixed number of frames.
            frames: With ``cnn_pool="flatten"``: how many.
            dropout: After all dense layers but the last.

        Raises:
            ValueError: If ``cnn_pool`` is neither, ids come as vectors, or ``frames`` don't survive the pooling.
        """
        super().__init__(num_classes)
        if cnn_pool not in {"adaptive", "flatten"}:
            raise ValueError(f"emotech: cnn_pool is {cnn_pool!r}; it must be 'adaptive' or 'flatten'")
        if frames < 8:
            raise ValueError(f"emotech: frames is {frames}; it must be at least 8, since three poolings halve it")
        if vocabulary and text_dim != 1:
            raise ValueError(f"emotech: vocabulary is {vocabulary}; it must be 0 for a text feature of width {text_dim}")
        self.save_hyperparameters()
        self.vocabulary, self.frames = vocabulary, frames if cnn_pool == "flatten" else 0
        branch = 2 * hidden
        self.audio_lstm = BiLSTM(audio_dim, hidden, 2)
        widths = [1, channels, 2 * channels, 4 * channels]
        self.blocks = nn.ModuleList(_Block(before, after) for before, after in pairwise(widths))
        bands, steps = max(audio_dim, 8) // 8, self.frames // 2 // 2 // 2 or 1
        self.image = _dense((widths[-1] * bands * steps, cnn_hidden, branch), dropout)
        self.embed = nn.Embedding(vocabulary, embedding) if vocabulary else nn.Linear(text_dim, embedding)
        self.text_lstm = BiLSTM(embedding, hidden, 1)
        self.text_conv = nn.Conv1d(embedding, branch, kernel)
        self.fuse = nn.Sequential(*_dense((4 * branch, fused, fused // 2), dropout), nn.Linear(fused // 2, fused // 4), nn.ReLU())
        self.classifier = nn.Linear(fused // 4, num_classes)

    def forward(self, batch: Batch, maps: bool = False) -> Output:
        """Classify the concatenated branches; there are no maps."""
        audio, text = self._audio(batch.audio, batch.audio_mask), self._text(batch.text, batch.text_mask)  # (B, 4 hidden) each
        fused = self.fuse(torch.cat([audio, text], dim=-1))  # (B, fused / 4)
        return Output(self.classifier(fused), fused)

    def _audio(self, x: Tensor, mask: Tensor) -> Tensor:
        x = x * mask.unsqueeze(-1)
        states = self.audio_lstm(x, mask)  # (B, T, 2 hidden)
        ahead, back = states.chunk(2, dim=-1)
        last = (mask.sum(1) - 1).clamp(min=0)
        recurrent = torch.cat([ahead[torch.arange(len(x), device=x.device), last], back[:, 0]], dim=-1)  # both ends of the reading
        if self.frames:
            x = F.pad(x[:, : self.frames], (0, 0, 0, max(0, self.frames - x.shape[1])))
            mask = mask.new_ones(x.shape[:2])  # to the letter: the zeros are part of the image
        else:
            # To a multiple of 8, so that a last odd frame is pooled alike whatever the batch's length.
            more = -x.shape[1] % 8
            x, mask = F.pad(x, (0, 0, 0, more)), F.pad(mask, (0, more))
        image = F.pad(x, (0, max(0, 8 - x.shape[2]))).unsqueeze(1)  # (B, 1, T, F)
        for block in self.blocks:
            image, mask = block(image, mask)
        steps = image.transpose(1, 2).flatten(2)  # (B, T / 8, channels * F / 8)
        return torch.cat([recurrent, self.image(steps.flatten(1) if self.frames else masked_mean(steps, mask))], dim=-1)

    def _text(self, x: Tensor, mask: Tensor) -> Tensor:
        embedded = self.embed(x.squeeze(-1) if self.vocabulary else x) * mask.unsqueeze(-1)
        kernel = self.text_conv.kernel_size[0]
        # Without padding, as in the paper, an utterance of L tokens has L - 4 windows; a shorter one is filled up to one window.
        windows = F.pad(embedded, (0, 0, 0, max(0, kernel - x.shape[1]))).transpose(1, 2)
        found = self.text_conv(windows).relu().transpose(1, 2)  # (B, L', 2 hidden)
        count = (mask.sum(1, keepdim=True) - kernel + 1).clamp(min=1) * mask.any(1, keepdim=True)
        real = torch.arange(found.shape[1], device=x.device) < count  # (B, L')
        return torch.cat([_masked_max(self.text_lstm(embedded, mask), mask), _masked_max(found, real)], dim=-1)


class _Block(nn.Module):
    """3x3 convolution, ReLU, batch normalisation over the real frames, 2x2 maximum."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(before, after, 3, padding=1), MaskedNorm(after)

    def forward(self, image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, T, F), zero where padded, and (B, T) -> (B, C', T / 2, F / 2) and (B, T / 2); an odd last one is dropped."""
        found = self.conv(image).relu().permute(0, 2, 3, 1)  # (B, T, F, C')
        normal = self.norm(found, mask.unsqueeze(-1).expand(found.shape[:-1])).permute(0, 3, 1, 2)
        real = mask[:, None, :, None]
        pooled = F.max_pool2d(normal.masked_fill(~real, torch.finfo(normal.dtype).min), 2)
        half = F.max_pool1d(mask.float(), 2).bool()  # one real frame of two is enough
        return pooled.masked_fill(~half[:, None, :, None], 0), half


def _dense(widths: tuple[int, ...], dropout: float) -> nn.Sequential:
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += [nn.Linear(before, after), nn.ReLU(), nn.Dropout(dropout)]
    return nn.Sequential(*layers)


def _masked_max(x: Tensor, mask: Tensor) -> Tensor:
    """(B, T, D), (B, T) -> (B, D), zero where nothing is real."""
    return x.masked_fill(~mask.unsqueeze(-1), torch.finfo(x.dtype).min).amax(1) * mask.any(1, keepdim=True)
