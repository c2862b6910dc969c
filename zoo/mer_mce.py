"""MER-MCE's recognition stage: attention over modalities in a shared space (Cheng et al., SemEval-2024 Task 3).

Each modality is mapped to the shared space by a network of its own; a second network reads both and says how much each counts.
The authors' repository holds no code of this stage; the fusion follows Demirci's comparative study and the MERTools toolkit that
the authors started from. What differs, and why:

* Vision is left out: the attention is over audio and text.
* The text feature is InstructERC's logits there; here any token vectors, pooled by their mean.
* How HuBERT is pooled is not published. Frames become their functionals (mean, deviation, deviation of the steps), or the mean
  with ``pooling="mean"``; every number is standardised over the corpus.
* The toolkit leaves out the softmax over modalities, so its scores are unbounded; ``att_softmax=False`` does so too.
* An absent modality takes no part: its vector is zero and its weight is zero.
* The width is one of 64, 128 and 256 in the toolkit, the dropout 0.2 to 0.5.
"""

from typing import Literal

import torch
from torch import Tensor, nn

from datamodules.batch import AUDIO, TEXT, Batch
from zoo.base import FusionModule, Output, Published, Training
from zoo.nn import MaskedNorm, masked_functionals, masked_mean, masked_softmax


class MERMCE(FusionModule):
    """Weigh the modalities in a shared space.

    Equations::

        h_m = MLP_m(z_m),  m = audio, text             z as in early_concat
        alpha = softmax(W MLP([h_a; h_t]))
        z = alpha_a h_a + alpha_t h_t
        logits = W z + b
    """

    family = "model-level"
    paper = "Cheng et al. (MIPS, MER-MCE), Proc. SemEval-2024, Task 3, arXiv 2404.00511"
    # InstructERC is a fine-tuned language model and no feature here: RoBERTa stands in for it. HuBERT's size, its layer and the
    # training are not published; the learning rate is the toolkit's.
    published = Published(
        "hidden_states(checkpoint='facebook/hubert-large-ll60k')",
        "hidden_states(checkpoint='roberta-large')",
        Training(40, 8, 32, 1e-3, 0.0, "none", 0.0),
    )

    def __init__(
        self,
        audio_dim: int,
        text_dim: int,
        num_classes: int,
        d: int = 128,
        layers: int = 3,
        pooling: Literal["functionals", "mean"] = "functionals",
        att_softmax: bool = True,
        dropout: float = 0.4,
    ) -> None:
        """Build the networks of both modalities and of the attention.

        Args:
            audio_dim: Width Da of the frames, or of utterance vectors (T = 1).
            text_dim: Width Dt of the token vectors, or of utterance vectors (L = 1).
            num_classes: Number of classes C.
            d: Width of the shared space and of every hidden layer.
            layers: Linear layers with ReLU of each of the three networks.
            pooling: Of the frames: ``functionals`` or ``mean``.
            att_softmax: Softmax over the modalities; without it the raw scores multiply the vectors.
            dropout: On the input of each network.

        Raises:
            ValueError: If ``pooling`` is neither, or there is no layer.
        """
        super().__init__(num_classes)
        if pooling not in {"functionals", "mean"}:
            raise ValueError(f"mer_mce: pooling is {pooling!r}; it must be 'functionals' or 'mean'")
        if layers < 1:
            raise ValueError(f"mer_mce: layers is {layers}; it must be at least 1")
        self.save_hyperparameters()
        self.pool, self.att_softmax = masked_functionals if pooling == "functionals" else masked_mean, att_softmax
        audio_width = 3 * audio_dim if pooling == "functionals" else audio_dim
        self.audio_norm, self.text_norm = MaskedNorm(audio_width), MaskedNorm(text_dim)
        self.audio_mlp, self.text_mlp = _mlp(audio_width, d, layers, dropout), _mlp(text_dim, d, layers, dropout)
        self.attention = nn.Sequential(_mlp(2 * d, d, layers, dropout), nn.Linear(d, 2))
        self.classifier = nn.Linear(d, num_classes)

    def forward(self, batch: Batch, maps: bool = False) -> Output:
        """Classify a batch.

        Maps: ``modality`` (B, 2), the weights of audio and text. Raw scores are no distribution and are not returned.
        """
        vectors = (
            self.audio_mlp(self.audio_norm(self.pool(batch.audio, batch.audio_mask), batch.present[:, AUDIO])),
            self.text_mlp(self.text_norm(masked_mean(batch.text, batch.text_mask), batch.present[:, TEXT])),
        )
        shared = torch.stack(vectors, dim=1) * batch.present.unsqueeze(-1)  # (B, 2, d)
        scores: Tensor = self.attention(shared.flatten(1))  # (B, 2)
        weights = masked_softmax(scores, batch.present) if self.att_softmax else scores * batch.present
        fused = (weights.unsqueeze(1) @ shared).squeeze(1)  # (B, d)
        return Output(self.classifier(fused), fused, {"modality": weights} if maps and self.att_softmax else None)


def _mlp(input_dim: int, d: int, layers: int, dropout: float) -> nn.Sequential:
    """Dropout, then linear layers with ReLU."""
    widths = [input_dim] + [d] * (layers - 1)
    return nn.Sequential(nn.Dropout(dropout), *(part for width in widths for part in (nn.Linear(width, d), nn.ReLU())))
