"""A pretrained encoder inside a method, trained with it, where features would otherwise come from a frozen one.

`FusionModule.encode` runs it before the method's own forward, so a method sees the states it would have got from the store:
until the first training step they are those of ``hidden_states(...)``.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from pydantic import AfterValidator, Field
from torch import Tensor, nn

from datamodules.features import Feature, FeatureError
from datamodules.features.transformer import SHORTEST, HiddenStates, TokenIds, load_encoder, waveform_extractor
from datamodules.features.waveform import Waveform


def _trainable(value: str) -> str:
    kind, _, count = value.partition(":")
    if value not in {"none", "all"} and not (kind == "top" and count.isdecimal() and int(count) > 0):
        raise ValueError("it must be none, top:K with K at least 1, such as top:2, or all")
    return value


@dataclass(frozen=True)
class Encoder:
    """What becomes of a modality's pretrained encoder.

    Attributes:
        trainable: ``none`` computes features once; ``top:K`` trains the upper K of the layers that are read; ``all`` trains
            whatever the states that are read depend on, embeddings and a speech encoder's convolutions included.
        lr: Learning rate of what is trained in it; the method's own is ``training.lr``.
    """

    trainable: Annotated[str, AfterValidator(_trainable)] = "none"
    lr: Annotated[float, Field(gt=0)] = 1e-5

    @property
    def trains(self) -> bool:
        """Whether anything of the encoder is trained."""
        return self.trainable != "none"


def encoder_input(feature: Feature, encoder: Encoder) -> Feature:
    """What a batch must hold for ``encoder`` to compute ``feature`` inside the model: the feature itself if nothing is trained.

    Raises:
        FeatureError: If the feature is of no transformer, or the encoder has too few layers, or reads no waveform.
    """
    if not encoder.trains:
        return feature
    if not isinstance(feature, HiddenStates):
        raise FeatureError(f"{feature} has no encoder to train; name the feature hidden_states(checkpoint=...)")
    highest = feature.highest
    kind, _, count = encoder.trainable.partition(":")
    if kind == "top" and int(count) > highest:
        raise FeatureError(f"{feature} reads {highest} layers above the embedding, so top:{count} has too many")
    if feature.modality == "text":
        return TokenIds(feature.checkpoint)
    reads = waveform_extractor(feature.checkpoint).model_input_names[0]
    if reads != "input_values":
        raise FeatureError(f"{feature} reads {reads}, not the waveform, and can't be trained here; use it frozen")
    return Waveform()


class PretrainedEncoder(nn.Module):
    """The encoder of ``hidden_states(...)``, some or all of it trained.

    Frozen layers stay in evaluation mode: their dropout would only blur what can't adapt to it. LayerDrop and SpecAugment are
    off: the first takes states away that ``layers`` names, the second can't mask utterances shorter than its spans.

    Attributes:
        feature: What is computed.
        settings: What is trained, and its learning rate.
    """

    def __init__(self, feature: HiddenStates, settings: Encoder) -> None:
        """Load the checkpoint and freeze what isn't trained.

        Args:
            feature: Names checkpoint, layers and how they are combined.
            settings: What is trained.

        Raises:
            FeatureError: As `encoder_input`.
        """
        super().__init__()
        encoder_input(feature, settings)
        self.feature, self.settings = feature, settings
        self.model = load_encoder(feature.checkpoint).float()
        self.model.config.layerdrop, self.model.config.apply_spec_augment = 0.0, False
        if getattr(self.model, "pooler", None) is not None:
            self.model.pooler = None  # it comes after the states, so no gradient would reach it
        layers = self._layers()
        below = layers[: feature.highest]
        self.whole = settings.trainable == "all"
        self.trained = [] if self.whole or not settings.trains else below[-int(settings.trainable.partition(":")[2]) :]
        self.model.requires_grad_(self.whole)
        for layer in layers[feature.highest :]:
            layer.requires_grad_(False)
        for layer in self.trained:
            layer.requires_grad_(True)
        # These get no gradient: SpecAugment's vector, and a final norm that comes after the states.
        if hasattr(self.model, "masked_spec_embed"):
            self.model.masked_spec_embed.requires_grad_(False)
        if getattr(self.model.config, "do_stable_layer_norm", False):
            self.model.encoder.layer_norm.requires_grad_(False)
        self.train()

    def _layers(self) -> list[nn.Module]:
        """The transformer's layers, the lowest first."""
        count = self.model.config.num_hidden_layers
        for owner in (getattr(self.model, "encoder", None), getattr(self.model, "transformer", None), self.model):
            for child in owner.children() if isinstance(owner, nn.Module) else ():
                if isinstance(child, nn.ModuleList) and len(child) == count:
                    return list(child)
        if self.settings.trainable != "all":
            raise FeatureError(f"{self.feature}: its layers can't be told apart, so top:K is impossible; train all or none")
        return []

    def train(self, mode: bool = True) -> "PretrainedEncoder":
        """As of any module, for what is trained; the rest stays in evaluation mode."""
        super().train(mode)
        self.model.train(mode and self.whole)
        for layer in self.trained:
            layer.train(mode)
        return self

    def forward(self, values: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Encode what is real.

        Args:
            values: (..., L, 1) token ids, or samples at 16 kHz.
            mask: (..., L), True where real; rows without any are skipped.

        Returns:
            States (..., L', D) in float32, zero where padded; and the mask (..., L'): a token each, about 50 frames a second, or
            one vector where the feature pools.
        """
        leading, kept = values.shape[:-2], mask.flatten(0, -2)
        present = kept.any(1)
        if not present.any():
            return torch.zeros(*leading, 1, self.feature.dim, device=values.device), torch.zeros_like(mask[..., :1])
        rows, kept = values.flatten(0, -3)[present, :, 0], kept[present]  # (R, L)
        states, real = self._text(rows, kept) if self.feature.modality == "text" else self._speech(rows, kept)
        states = states * real.unsqueeze(-1)
        if self.feature.pool != "none":
            states = states[:, :1] if self.feature.pool == "first" else states.sum(1, keepdim=True) / real.sum(1)[:, None, None]
            real = real[:, :1]  # the first is real in every row
        every, shown = states.new_zeros(len(present), *states.shape[1:]), real.new_zeros(len(present), real.shape[1])
        every[present], shown[present] = states, real
        return every.reshape(*leading, *states.shape[1:]), shown.reshape(*leading, real.shape[1])

    def _text(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        # RoBERTa counts positions by what isn't its padding token.
        ids = ids.masked_fill(~mask, self.model.config.pad_token_id or 0)
        return self._run(input_ids=ids, attention_mask=mask.long()), mask

    def _speech(self, waves: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        waves = F.pad(waves, (0, max(0, SHORTEST - waves.shape[1])))
        samples = mask.sum(1).clamp(min=SHORTEST)  # (R,)
        real = torch.arange(waves.shape[1], device=waves.device) < samples.unsqueeze(1)
        if waveform_extractor(self.feature.checkpoint).do_normalize:
            centred = (waves - (waves * real).sum(1, keepdim=True) / samples.unsqueeze(1)) * real
            waves = centred / (centred.square().sum(1, keepdim=True) / samples.unsqueeze(1) + 1e-7).sqrt()
        frames = self._frames(samples)
        kept = torch.arange(int(frames.max()), device=waves.device) < frames.unsqueeze(1)  # (R, T)
        states = torch.zeros(*kept.shape, self.feature.dim, device=waves.device)
        for rows, length in self._alike(samples):
            part = self._run(input_values=waves[rows, :length], attention_mask=real[rows, :length].long())
            states[rows, : part.shape[1]] = part
        return states, kept

    def _alike(self, samples: Tensor) -> Iterator[tuple[Tensor, int]]:
        """Rows that may share a padded batch, and its length.

        Where the first convolution has a group norm (wav2vec 2.0 base, HuBERT base) statistics run over time, padding included,
        so only utterances of one length go together; also where the configuration doesn't say (data2vec).
        """
        if getattr(self.model.config, "feat_extract_norm", "group") == "layer":
            yield torch.ones_like(samples, dtype=torch.bool), int(samples.max())
            return
        for length in sorted(set(samples.tolist())):
            yield samples == length, length

    def _frames(self, samples: Tensor) -> Tensor:
        """Output frames of the convolutions."""
        for kernel, stride in zip(self.model.config.conv_kernel, self.model.config.conv_stride, strict=True):
            samples = (samples - kernel) // stride + 1
        return samples

    def _run(self, **inputs: Any) -> Tensor:  # noqa: ANN401
        return self.feature.combined(self.model(**inputs, output_hidden_states=True).hidden_states).float()
