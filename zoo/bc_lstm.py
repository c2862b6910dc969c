"""bc-LSTM: contextual BiLSTMs over the turns of a dialogue (Poria et al., ACL 2017, https://aclanthology.org/P17-1081).

Every utterance is one vector per modality. A BiLSTM per modality reads these vectors over the dialogue, its outputs are
concatenated, and a second BiLSTM over the dialogue fuses them; each of its steps is classified. What differs, and why:

* The MELD baseline's GloVe-CNN and selected openSMILE functionals are not features here. Frames pool to mean, deviation and
  deviation of the steps, tokens to their mean; both are standardised over the corpus, so any feature will do.
* The MELD baseline trains the unimodal networks first and freezes what they give; here all is trained at once, with one loss.
* ``hidden=300`` is the MELD baseline's, the version that has both modalities; the later PyTorch version (text only) has 100.
* One dropout, 0.4, for the MELD baseline's 0.3 (text) and 0.4 (audio, fusion); also before the classifier, which we chose.
* Text LSTMs of the MELD baseline have ReLU for tanh; here they are plain LSTMs.
* ``attention=True`` is the PyTorch version's option: a bilinear score under a tanh, so its weights are never far from even.
  It also has a ReLU layer before the classifier, left out here.
* Reads future turns too, as the paper does.
"""

from typing import Literal

import torch
from torch import Tensor, nn

from datamodules.batch import AUDIO, TEXT, Batch
from zoo.base import FusionModule, Output, Published, Training, Variant
from zoo.nn import BiLSTM, MaskedNorm, masked_functionals, masked_mean, masked_softmax


class BCLSTM(FusionModule):
    """Hierarchical contextual BiLSTMs.

    Equations::

        c_m = BiLSTM_m over turns(z_m)                 z as in early_concat, m = audio, text
        f = BiLSTM over turns([c_a; c_t])
        with attention: f_i = sum_j softmax_j(tanh(f_i^T W f_j)) f_j
        logits = W f + b
    """

    family = "model-level"
    unit = "dialogue"
    paper = "Poria et al., Context-dependent sentiment analysis in user-generated videos, ACL 2017, 873-883"
    published = Published(
        "compare2016(select=1611)",
        "hidden_states(checkpoint='bert-base-uncased')",  # for a CNN over GloVe vectors
        Training(100, 10, 10, 1e-3, 0.0, "none", 0.0),
    )
    ablations = {  # noqa: RUF012 - read-only, declared by the base
        "Text": Variant("bc_lstm", {"inputs": "text"}),
        "Audio": Variant("bc_lstm", {"inputs": "audio"}),
        "Text + audio": Variant("bc_lstm", {}),
    }

    def __init__(
        self,
        audio_dim: int,
        text_dim: int,
        num_classes: int,
        inputs: Literal["both", "audio", "text"] = "both",
        hidden: int = 300,
        layers: int = 2,
        attention: bool = False,
        dropout: float = 0.4,
    ) -> None:
        """Build the BiLSTMs.

        Args:
            audio_dim: Width Da of the frames, or of utterance vectors (T = 1).
            text_dim: Width Dt of the token vectors, or of utterance vectors (L = 1).
            num_classes: Number of classes C.
            inputs: With one modality its contextual BiLSTM is classified; there is nothing to fuse.
            hidden: LSTM units per direction.
            layers: Layers of the unimodal BiLSTMs; the fusion BiLSTM has one.
            attention: Replace every turn by the turns it attends to, before the classifier.
            dropout: On the input of every LSTM layer and before the classifier.

        Raises:
            ValueError: If ``inputs`` is none of the three.
        """
        if inputs not in {"both", "audio", "text"}:
            raise ValueError(f"bc_lstm: inputs is {inputs!r}; it must be 'both', 'audio' or 'text'")
        super().__init__(num_classes)
        self.save_hyperparameters()
        audio, text = inputs != "text", inputs != "audio"
        self.audio_norm = MaskedNorm(3 * audio_dim) if audio else None
        self.text_norm = MaskedNorm(text_dim) if text else None
        self.audio_context = BiLSTM(3 * audio_dim, hidden, layers, dropout) if audio else None
        self.text_context = BiLSTM(text_dim, hidden, layers, dropout) if text else None
        self.fusion = BiLSTM(4 * hidden, hidden, 1, dropout) if inputs == "both" else None
        self.score = nn.Linear(2 * hidden, 2 * hidden) if attention else None
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(2 * hidden, num_classes)

    def forward(self, batch: Batch, maps: bool = False) -> Output:
        """Classify every turn; with ``attention``, map ``turns`` (B, N, N) from each turn to all."""
        turns = batch.turn_mask
        assert turns is not None, "bc_lstm reads dialogues"
        contexts = []
        if self.audio_norm is not None and self.audio_context is not None:
            audio = masked_functionals(batch.audio, batch.audio_mask)  # (B, N, 3 Da)
            contexts.append(self.audio_context(self.audio_norm(audio, batch.present[..., AUDIO]), turns))
        if self.text_norm is not None and self.text_context is not None:
            text = masked_mean(batch.text, batch.text_mask)  # (B, N, Dt)
            contexts.append(self.text_context(self.text_norm(text, batch.present[..., TEXT]), turns))
        fused: Tensor = torch.cat(contexts, dim=-1)  # (B, N, 2 hidden per modality)
        if self.fusion is not None:
            fused = self.fusion(fused, turns)  # (B, N, 2 hidden)
        weights = None
        if self.score is not None:
            scores = (self.score(fused) @ fused.transpose(1, 2)).tanh()  # (B, N, N)
            weights = masked_softmax(scores, turns.unsqueeze(1) & turns.unsqueeze(2))
            fused = weights @ fused
        attention = {"turns": weights} if weights is not None else {}
        return Output(self.classifier(self.dropout(fused)), fused, attention if maps else None)
