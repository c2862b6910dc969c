"""Features: extractors with their parameters; one file per family.

A feature is a frozen dataclass whose fields are its identity: two features with equal fields give equal arrays, so the
store may keep one copy for everybody. It is written as a call, ``mfcc(n=40)``, on the command line and in suites.
A new family is one new file here; every `Feature` subclass in it is found by its ``name``.
"""

import ast
import dataclasses
import hashlib
import importlib
import inspect
import json
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol

import numpy as np
import numpy.typing as npt

from datamodules.problems import UnknownNameError

Modality = Literal["audio", "text"]


class FeatureError(ValueError):
    """A feature that can't be had as it is written; the message says what would be right."""


class Transform(Protocol):
    """What a training split has decided about a feature."""

    def apply(self, frames: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
        """Turn a stored array (T, `Feature.dim`) into that of a batch, (T', `Feature.width`); no rows stay no rows."""


@dataclass(frozen=True)
class Feature(ABC):
    """An extractor with its parameters.

    Attributes:
        name: The name used on the command line and in suites.
        extractor_version: Raised when the same parameters start to give other numbers; old entries are then recomputed.
        dtype: How arrays are stored and read.
        standardise: Whether batches carry it with zero mean and unit variance, fitted on the training split.
        chunk: How many inputs `extract` is given at once.
        sample_rate: What waveforms must come at, in Hz; used by audio features only.
        ids: Whether batches carry it as the rows of an embedding, int64, not as vectors.
        processes: Whether `extract` is work for several processes at a time: it keeps nothing between chunks, and no card does it.
    """

    name: ClassVar[str]
    extractor_version: ClassVar[int] = 1
    dtype: ClassVar[str] = "float16"
    standardise: ClassVar[bool] = False
    chunk: ClassVar[int] = 32
    sample_rate: ClassVar[int] = 16_000
    ids: ClassVar[bool] = False
    processes: ClassVar[bool] = False

    @property
    @abstractmethod
    def modality(self) -> Modality:
        """What `extract` reads."""

    @property
    @abstractmethod
    def dim(self) -> int:
        """Width D of the stored arrays."""

    @property
    def width(self) -> int:
        """Width of the vectors in batches: `dim`, unless the data module keeps only the best columns (see `EmotionDataModule`)."""
        return self.dim

    @property
    def stored(self) -> "Feature":
        """The feature as the store holds it: itself, without what is done to its arrays after they are read."""
        return self

    @abstractmethod
    def extract(self, inputs: Sequence[npt.NDArray[np.float32]] | Sequence[str]) -> list[npt.NDArray[np.generic]]:
        """Compute the feature.

        Args:
            inputs: Waveforms of shape (samples,) at `sample_rate`, or transcripts.

        Returns:
            One array of shape (T, D) per input, T >= 1, of `dtype` or convertible to it.
        """

    def fit(self, train: Iterable[npt.NDArray[np.generic]]) -> Transform | None:
        """Learn what this feature learns, a vocabulary say, from the training split of a fold.

        Args:
            train: The stored arrays of the training utterances, (T, `dim`) each, with no rows where the modality is absent.

        Returns:
            What makes the vectors of all three splits; None for a feature that learns nothing of its own.
        """
        return None

    def release(self) -> None:  # noqa: B027 - most features keep nothing
        """Free what `extract` keeps in memory between chunks, such as an encoder on the card. Called after an extraction."""

    def identity(self) -> dict[str, object]:
        """Everything that decides the numbers of a batch: name, version and fields; JSON-serialisable."""
        return {"name": self.name, "extractor_version": self.extractor_version, **dataclasses.asdict(self)}

    @property
    def key(self) -> str:
        """Hexadecimal digest of the identity of `stored`: the folder of the store that holds this feature."""
        return hashlib.blake2b(json.dumps(self.stored.identity(), sort_keys=True).encode(), digest_size=8).hexdigest()

    def __str__(self) -> str:
        changed = [
            f"{field.name}={getattr(self, field.name)!r}"
            for field in dataclasses.fields(self)
            if getattr(self, field.name) != field.default
        ]
        return f"{self.name}({', '.join(changed)})" if changed else self.name


@dataclass(frozen=True)
class SideBySide(Feature):
    """Features of one modality as columns beside each other, written with a plus: ``mfcc(n=13) + egemaps``.

    Batches hold the first part's columns first. A part of one row per utterance is repeated over the rows of the others; other
    parts must have equally many. The store keeps each part by itself, and what is fitted is fitted for each by itself.

    Args:
        parts: Two features or more, none of them ids.
    """

    name = "side_by_side"

    parts: tuple[Feature, ...] = ()

    def __post_init__(self) -> None:
        """Refuse ids, which can't be columns beside others."""
        for part in self.parts:
            if part.ids:
                raise FeatureError(f"{part} gives ids for an embedding; it can't stand beside other features")

    @property
    def modality(self) -> Modality:
        """The parts' own."""
        found = {part.modality for part in self.parts}
        if len(found) > 1:
            raise FeatureError(f"{self}: its parts read audio and text; features beside each other must read the same")
        return found.pop()

    @property
    def dim(self) -> int:
        """Sum of what the store holds."""
        return sum(part.dim for part in self.parts)

    @property
    def width(self) -> int:
        """Sum of what batches hold."""
        return sum(part.width for part in self.parts)

    def identity(self) -> dict[str, object]:
        """The parts', in their order."""
        return {"name": self.name, "parts": [part.identity() for part in self.parts]}

    def extract(self, inputs: Sequence[npt.NDArray[np.float32]] | Sequence[str]) -> list[npt.NDArray[np.generic]]:
        """Never asked for: the store extracts each part.

        Raises:
            FeatureError: Always.
        """
        raise FeatureError(f"{self} is extracted part by part")

    def __str__(self) -> str:
        return " + ".join(map(str, self.parts))


def list_features() -> dict[str, type[Feature]]:
    """All features by name, sorted."""
    found: dict[str, type[Feature]] = {}
    for info in pkgutil.iter_modules(__path__):
        module = importlib.import_module(f"{__name__}.{info.name}")
        for _, member in inspect.getmembers(module, inspect.isclass):
            if issubclass(member, Feature) and not inspect.isabstract(member) and member.__module__ == module.__name__:
                found[member.name] = member
    return dict(sorted(found.items()))


def parse_feature(text: str) -> Feature:
    """Read a feature written as a call.

    Args:
        text: ``mfcc`` or ``mfcc(n=40, hop_ms=10.0)`` or ``hidden_states(checkpoint='minilm', layers=(-1,))``, or several with
            a plus between them, for `SideBySide`.

    Raises:
        UnknownNameError: For an unknown feature or parameter.
        FeatureError: If the text is no such call, or a value is out of range.
    """
    try:
        terms = _terms(ast.parse(text.strip(), mode="eval").body)
        calls = [_call(term) for term in terms]
    except (SyntaxError, ValueError):
        raise FeatureError(f"{text!r} is not a feature; write it as a call with named values, such as mfcc(n=40)") from None
    parts = tuple(_make(text, *call) for call in calls)
    return parts[0] if len(parts) == 1 else SideBySide(parts)


def _terms(node: ast.expr) -> list[ast.expr]:
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return [*_terms(node.left), *_terms(node.right)]
    return [node]


def _call(node: ast.expr) -> tuple[str, dict[str, Any]]:
    name, keywords = (node.func, node.keywords) if isinstance(node, ast.Call) and not node.args else (node, [])
    if not isinstance(name, ast.Name):
        raise ValueError
    return name.id, {str(k.arg): ast.literal_eval(k.value) for k in keywords}


def _make(text: str, name: str, values: dict[str, Any]) -> Feature:
    features = list_features()
    if name not in features:
        raise UnknownNameError("feature", name, list(features))
    feature = features[name]
    known = [field.name for field in dataclasses.fields(feature)]
    for key in values:
        if key not in known:
            raise UnknownNameError(f"parameter of {name}", key, known)
    defaults = {field.name: field.default for field in dataclasses.fields(feature)}
    for key, value in values.items():
        if isinstance(value, list):
            values[key] = tuple(value)
        elif isinstance(value, int) and isinstance(defaults[key], float):
            values[key] = float(value)
        if type(values[key]) is not type(defaults[key]):
            raise FeatureError(f"{text}: {key} is {value!r}; it must be of the kind of its default, {defaults[key]!r}")
    return feature(**values)
