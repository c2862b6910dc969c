"""EmotionDataModule: the one LightningDataModule. Every method gets its batches from here.

Sealed in this place: normalisation, selection of columns and vocabularies are fitted on the training split only, batches are cut
by length, masks come with the tensors, and the order of batches depends on the seed alone.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import lightning as L
import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from pydantic import Field
from torch.utils.data import DataLoader, Dataset, Sampler

from datamodules.audio import AudioError, Clip, inspect_clip, load_clip
from datamodules.batch import IGNORED, Batch, Item, Task, collate_dialogues, collate_utterances, encode_labels
from datamodules.corpora import Corpus, Reading
from datamodules.features import Feature, FeatureError, Transform
from datamodules.fingerprint import Fingerprint, find_copies, near_duplicates
from datamodules.problems import BadInputError, Problem
from datamodules.protocols import Fold
from datamodules.store import Arrays, ArraysSideBySide, FeatureStore, UnreadableInputsError

Unit = Literal["utterance", "dialogue"]


@dataclass(frozen=True)
class Absent:
    """Which share of utterances lacks a modality; none lacks both on that account.

    Attributes:
        audio: Share without audio, 0 to 1.
        text: Share without text.
    """

    audio: Annotated[float, Field(ge=0, le=1)] = 0.0
    text: Annotated[float, Field(ge=0, le=1)] = 0.0

    def __post_init__(self) -> None:
        """Refuse shares that would leave utterances with nothing."""
        if self.audio + self.text > 1:
            raise ValueError(f"audio {self.audio:g} and text {self.text:g} add up to more than 1: some would have neither")

    def choose(self, ids: Sequence[str], seed: int) -> tuple[list[int], list[int]]:
        """Positions in ``ids`` without audio, and those without text.

        The choice hangs on each id and the seed alone, and a larger share takes more away from what a smaller one has left.
        """

        def draw(position: int) -> bytes:
            return hashlib.blake2b(f"{seed} {ids[position]}".encode(), digest_size=8).digest()

        order = sorted(range(len(ids)), key=draw)
        audio, text = round(self.audio * len(ids)), round(self.text * len(ids))
        return order[:audio], order[max(audio, len(ids) - text) :]


@dataclass(frozen=True)
class Utterances:
    """A corpus with its features: what all runs on it share.

    Attributes:
        corpus: Name and version, ``demo 1``.
        table: As of `Corpus.table`, the usable rows only, and a column ``near_duplicate``, as of `near_duplicates`.
        audio: One (T, Da) array per row.
        text: One (L, Dt) array per row.
        rows: How many utterances the corpus names; ``len(table)`` of them are usable.
        notes: What was left out or cut, for a reader of the results.
        slices: Columns by which results are also broken down.
    """

    corpus: str
    table: pd.DataFrame
    audio: Arrays
    text: Arrays
    rows: int
    notes: tuple[str, ...]
    slices: tuple[str, ...]

    @property
    def fingerprint(self) -> str:
        """Digest of everything in the data that can change a result: content, labels, speakers, order and splits; no paths."""
        digest = hashlib.blake2b(digest_size=8)
        facts = self.table[["utterance_id", "label", "speaker", "dialogue", "turn", "session", "split"]]
        digest.update(facts.to_csv(index=False).encode())
        digest.update(self.audio.keys.tobytes() + self.text.keys.tobytes())
        return digest.hexdigest()


def without(utterances: Utterances, positions: Sequence[int], absent: Absent, seed: int) -> Utterances:
    """The utterances, of which a share of those at ``positions`` lacks a modality; see `Absent.choose`."""
    ids = utterances.table["utterance_id"].iloc[list(positions)].tolist()
    audio, text = ([positions[chosen] for chosen in part] for part in absent.choose(ids, seed))
    return replace(utterances, audio=utterances.audio.without(audio), text=utterances.text.without(text))


def load_utterances(
    corpus: Corpus,
    audio: Feature,
    text: Feature,
    store: FeatureStore | None = None,
    skip_bad: bool = False,
    max_seconds: float = 30.0,
) -> Utterances:
    """Read a corpus and make sure that the store holds its features.

    Args:
        corpus: What to read.
        audio: The audio feature.
        text: The text feature.
        store: Where features are kept; None for the default folder.
        skip_bad: Go on without bad rows; `Utterances.notes` says how many.
        max_seconds: Longer clips are cut, so that one mistaken file of several minutes can't exhaust the memory.

    Raises:
        BadInputError: With every bad row, of the table and of audio that doesn't decode.
    """
    for feature, modality in ((audio, "audio"), (text, "text")):
        if feature.modality != modality:
            raise FeatureError(f"{feature} reads {feature.modality}; it can't be the {modality} feature")
    store = store or FeatureStore()
    reading = corpus.read()
    if reading.problems and not skip_bad:
        raise BadInputError([*reading.problems, *_undecodable(corpus, reading, max_seconds)])
    table = corpus.usable(reading, skip_bad)
    total, problems = table.attrs["rows"], list(table.attrs["problems"])
    clips, cut, late = clips_of(table, max_seconds)
    try:
        audio_arrays, fingerprints = store.get(audio, clips), store.get(Fingerprint(), clips)
    except UnreadableInputsError as error:
        late = {**late, **error.failures}
    if late:
        if not skip_bad:
            raise BadInputError(_problem(corpus, table, position, failure) for position, failure in sorted(late.items()))
        problems += [str(_problem(corpus, table, position, failure)) for position, failure in sorted(late.items())]
        good = np.setdiff1d(np.arange(len(table)), list(late))
        table, clips = table.iloc[good].reset_index(drop=True), _Clips(clips.table.iloc[good])
        audio_arrays, fingerprints = store.get(audio, clips), store.get(Fingerprint(), clips)
    notes = list(table.attrs["notes"])
    if problems:
        left = total - len(table)
        lead = f"{left} of {total} utterances were left out as bad" if left else "the corpus isn't as its release"
        notes.append(f"{lead}: " + "; ".join(problems[:3]) + (" …" if problems[3:] else ""))
    if cut:
        notes.append(f"{cut} clips are longer than {max_seconds:g} s and were cut there")
    text_arrays = store.get(text, _Texts(table["text"]))
    table = table.assign(near_duplicate=near_duplicates(table["utterance_id"], fingerprints, find_copies(fingerprints)))
    return Utterances(f"{corpus.name} {corpus.version}", table, audio_arrays, text_arrays, total, tuple(notes), corpus.slices)


class _Texts(Sequence[str | None]):
    """The transcript of every row, None where there is none; made when asked for, because a list of them all is large."""

    def __init__(self, column: pd.Series) -> None:
        self.cells = column.array

    def __len__(self) -> int:
        return len(self.cells)

    def __getitem__(self, position: int) -> str | None:  # type: ignore[override]
        text = self.cells[position]
        return None if pd.isna(text) else str(text)


class _Clips(Sequence[Clip | None]):
    """The clip of every row of a table with ``audio``, ``start`` and ``end``, None where there is no audio."""

    def __init__(self, table: pd.DataFrame) -> None:
        self.table = table
        self.columns = tuple(table[name].array for name in ("audio", "start", "end"))

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, position: int) -> Clip | None:  # type: ignore[override]
        path, start, end = (column[position] for column in self.columns)
        if pd.isna(path):
            return None
        return Clip(Path(path), None if pd.isna(start) else float(start), None if pd.isna(end) else float(end))


def clips_of(table: pd.DataFrame, max_seconds: float) -> tuple[_Clips, int, dict[int, AudioError]]:
    """The clips, cut to ``max_seconds``; how many were cut; and rows whose audio is unreadable."""
    spans = table[["audio"]].assign(start=table["start"].astype(float), end=table["end"].astype(float))
    clips, failures = _Clips(spans), {}
    seconds = table["seconds"].to_numpy(float, copy=True) if "seconds" in table.columns else np.full(len(table), np.nan)
    for position in np.flatnonzero(np.isnan(seconds)).tolist():
        clip = clips[position]
        if clip is not None:
            try:
                seconds[position] = inspect_clip(clip).seconds
            except AudioError as error:
                failures[position] = error
    long = spans["audio"].notna() & (seconds > max_seconds)
    end = spans["end"].mask(long, spans["start"].fillna(0.0) + max_seconds)
    return _Clips(spans.assign(end=end)), int(long.sum()), failures


def _undecodable(corpus: Corpus, reading: Reading, max_seconds: float) -> list[Problem]:
    """What is wrong with the audio of the rows that the reading finds nothing wrong with.

    Extraction would find it too, hours later and after the rest has been mended. Only a corpus that is refused anyway is decoded
    here, so a sound one is never decoded twice.
    """
    from rich.console import Console
    from rich.progress import track

    named = {problem.position for problem in reading.problems}
    clips, _, failures = clips_of(reading.table, max_seconds)
    for position in track(range(len(clips)), "looking for audio that doesn't decode", console=Console(stderr=True), transient=True):
        clip = clips[position]
        if clip is not None and position not in named and position not in failures:
            try:
                load_clip(clip, inspect_clip(clip).sample_rate)
            except AudioError as error:
                failures[position] = error
    return [_problem(corpus, reading.table, *failure) for failure in sorted(failures.items()) if failure[0] not in named]


def _problem(corpus: Corpus, table: pd.DataFrame, position: int, error: AudioError) -> Problem:
    row = table.iloc[position]
    line = int(row["row"]) if "row" in table.columns and not pd.isna(row["row"]) else None
    return Problem(corpus.index_file, line, f"{row['utterance_id']}: {row['audio']}: {error.what}", error.remedy, position)


class EmotionDataModule(L.LightningDataModule):
    """Batches of one fold of one corpus.

    Example::

        utterances = load_utterances(open_corpus("demo"), parse_feature("mfcc"), parse_feature("hidden_states"))
        plan = apply_protocol(utterances.table)
        data = EmotionDataModule(utterances, plan.folds[0], plan.classes)
    """

    def __init__(
        self,
        utterances: Utterances,
        fold: Fold,
        classes: Sequence[str],
        unit: Unit = "utterance",
        batch_size: int = 32,
        seed: int = 0,
        num_workers: int = 0,
        task: Task = "multiclass",
        absent: Absent = Absent(),
        test: Utterances | None = None,
    ) -> None:
        """Configure the batches.

        Args:
            utterances: The corpus and its features.
            fold: Which utterances to train, select and test on.
            classes: Labels in the order of the model's outputs.
            unit: What one item of a batch is; with ``dialogue`` a batch has ``batch_size`` dialogues, and an utterance without a
                dialogue is one of its own.
            batch_size: Items per batch.
            seed: Decides the order of the training batches, whatever ``num_workers`` is, and which utterances ``absent`` hits.
            num_workers: Processes that read features ahead of the training step.
            task: Decides the shape of the labels, see `Batch`.
            absent: Share of the training utterances that lacks a modality. Validation and test keep it, unless the share is 1:
                what was never there in training can be neither normalised nor read, so those splits go without it too.
            test: Where the test split's arrays come from, such as a corrupted copy of ``utterances``; None for ``utterances``.
                Nothing is fitted on it.
        """
        super().__init__()
        self.utterances, self.fold, self.classes = utterances, fold, tuple(classes)
        self.unit, self.batch_size, self.seed, self.num_workers, self.task = unit, batch_size, seed, num_workers, task
        self.absent, self.test = absent, test or utterances
        self._splits: dict[str, _Split] = {}

    @property
    def audio_dim(self) -> int:
        """Width Da of the audio feature in batches."""
        return self.utterances.audio.feature.width

    @property
    def text_dim(self) -> int:
        """Width Dt of the text feature in batches."""
        return self.utterances.text.feature.width

    @property
    def class_counts(self) -> torch.Tensor:
        """Training utterances per class: (C,) int64; of a multi-label task (2, C), those without and those with each class."""
        train = self.utterances.table.set_index("utterance_id").loc[list(self.fold.train), "label"]
        encoded = torch.from_numpy(encode_labels(train, self.classes, self.task))
        if self.task == "multilabel":
            return torch.stack([encoded == 0, encoded == 1]).sum(1)
        return torch.bincount(encoded, minlength=len(self.classes))

    def setup(self, stage: str | None = None) -> None:
        """Index the three splits; fit the normalisation, and where a feature asks for it more, on the training split.

        Raises:
            FeatureError: If columns are to be selected and fewer than two classes of the training split have the modality, or a
                feature finds no vocabulary there.
        """
        if self._splits:
            return
        positions = pd.Series(self.utterances.table.index, index=self.utterances.table["utterance_id"])
        train = positions.loc[list(self.fold.train)].to_numpy()
        labels = tuple(self.utterances.table["label"].iloc[train])
        if self.task == "multilabel":
            labels = tuple(map(tuple, encode_labels(pd.Series(labels), self.classes, self.task)))
        whole = {"train": self.utterances, "val": self.utterances, "test": self.test}
        sources = {name: self._thinned(source, name, positions) for name, source in whole.items()}
        fitted = [_fit(arrays, tuple(train.tolist()), labels) for arrays in (sources["train"].audio, sources["train"].text)]
        for name, source in sources.items():
            indices = positions.loc[list(getattr(self.fold, name))].to_numpy()
            context = context_ids(source.table, self.fold, name) if self.unit == "dialogue" else []
            self._splits[name] = _Split(
                source, indices, positions.loc[context].to_numpy(), self.classes, self.unit, fitted, self.task
            )

    def _thinned(self, source: Utterances, split: str, positions: pd.Series) -> Utterances:
        """The utterances without what `absent` takes from a split."""
        absent = self.absent
        if split != "train":
            absent = Absent(float(absent.audio == 1), float(absent.text == 1))
        if absent == Absent():
            return source
        # What is trained on and what is context apart, so that methods of either unit miss the same utterances.
        for ids in (list(getattr(self.fold, split)), context_ids(source.table, self.fold, split)):
            source = without(source, positions.loc[ids].tolist(), absent, self.seed)
        return source

    def train_dataloader(self) -> DataLoader[Any]:
        """Shuffled batches of similar lengths; where several devices train one model, this one's share of each."""
        share = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        return self._loader("train", shuffle=True, share=share)

    def val_dataloader(self) -> DataLoader[Any]:
        """The validation split, short items first."""
        return self._loader("val", shuffle=False)

    def test_dataloader(self) -> DataLoader[Any]:
        """The test split, short items first."""
        return self._loader("test", shuffle=False)

    def single(self) -> Batch:
        """One item of the validation split, of median size, as a batch of its own: what the costs of an answer are measured on."""
        split = self._splits["val"]
        middle = int(np.argsort(split.sizes, kind="stable")[len(split) // 2])
        return self._collate([split[middle]])

    @property
    def _collate(self) -> Callable[[Any], Batch]:
        return collate_utterances if self.unit == "utterance" else collate_dialogues

    def _loader(self, name: str, shuffle: bool, share: tuple[int, int] = (0, 1)) -> DataLoader[Any]:
        split = self._splits[name]
        return DataLoader(
            split,
            batch_sampler=LengthBatches(split.sizes, self.batch_size, self.seed if shuffle else None, share),
            collate_fn=self._collate,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            pin_memory=torch.cuda.is_available(),
            generator=torch.Generator().manual_seed(self.seed),
        )


def context_ids(table: pd.DataFrame, fold: Fold, split: str) -> list[str]:
    """Utterances of `Fold.context` that are turns of a split's dialogues."""
    dialogues = table.set_index("utterance_id")["dialogue"]
    own = set(dialogues[list(getattr(fold, split))].dropna())
    return [name for name in fold.context if dialogues[name] in own]


class LengthBatches(Sampler[list[int]]):
    """Batches of items of similar length, so that little is padded.

    Items are shuffled, cut into pools of 20 batches, sorted by length within a pool and cut into batches, whose order is then
    shuffled. Without a seed: all items, short ones first.

    Where several devices train one model, each gets its share of every batch, so that a step sees the same items as on one.
    """

    POOL = 20

    def __init__(self, sizes: npt.NDArray[np.integer], batch_size: int, seed: int | None, share: tuple[int, int] = (0, 1)) -> None:
        """Name the items' sizes (n,), the batch size, the seed of the shuffling or None, and which share of how many to give."""
        self.sizes, self.batch_size, self.share = sizes, batch_size, share
        self._random = None if seed is None else np.random.default_rng(seed)

    def __len__(self) -> int:
        return -(-len(self.sizes) // self.batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        order = np.arange(len(self.sizes)) if self._random is None else self._random.permutation(len(self.sizes))
        pool = len(order) if self._random is None else self.POOL * self.batch_size
        batches: list[list[int]] = []
        for start in range(0, len(order), max(pool, 1)):
            part = order[start : start + pool]
            part = part[np.argsort(self.sizes[part], kind="stable")]
            batches += [part[i : i + self.batch_size].tolist() for i in range(0, len(part), self.batch_size)]
        if self._random is not None:
            self._random.shuffle(batches)
        rank, shares = self.share
        for batch in batches:
            yield batch[rank::shares] or batch[:1]  # every device must take every step


class Fitted(NamedTuple):
    """What the training split says about a feature.

    Attributes:
        mean: (D',) over all frames.
        deviation: (D',); infinite where a dimension is constant, which says nothing: it is then zero in every split.
        columns: Which D' of the D columns are kept, ascending; None for all.
    """

    mean: npt.NDArray[np.float32]
    deviation: npt.NDArray[np.float32]
    columns: npt.NDArray[np.intp] | None = None

    def apply(self, frames: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
        """Normalise what is kept: (T, D) -> (T, D')."""
        kept = frames if self.columns is None else frames[:, self.columns]
        normalised: npt.NDArray[np.float32] = (kept.astype(np.float32) - self.mean) / self.deviation
        return normalised


class FittedParts(NamedTuple):
    """What the training split says about each part of features side by side."""

    parts: tuple[Transform | None, ...]


@lru_cache(maxsize=16)  # a process's runs on a fold share it: an SVM over thousands of columns takes longer than many a training
def _fit(arrays: Arrays, train: tuple[int, ...], labels: tuple[Any, ...]) -> Transform | FittedParts | None:
    """What the utterances ``train``, with their labels, say about a feature; None for features used as they are."""
    if isinstance(arrays, ArraysSideBySide):
        return FittedParts(tuple(_fit_one(part, train, labels) for part in arrays.parts))
    return _fit_one(arrays, train, labels)


def _fit_one(arrays: Arrays, train: tuple[int, ...], labels: tuple[Any, ...]) -> Transform | None:
    own = arrays.feature.fit(arrays[index] for index in train)
    if own is not None:
        return own
    fitted = _fit_scale(arrays, train)
    if arrays.feature.width == arrays.feature.dim:
        return fitted
    columns = _best_columns(arrays, fitted, train, labels)
    assert fitted is not None, "_best_columns has refused it"
    return Fitted(fitted.mean[columns], fitted.deviation[columns], columns)


def _vectors(arrays: Arrays, fitted: Transform | FittedParts | None, index: int) -> npt.NDArray[np.generic]:
    """What a batch holds of one utterance: (T, `Feature.width`)."""
    if isinstance(arrays, ArraysSideBySide) and isinstance(fitted, FittedParts):
        parts = zip(arrays.parts, fitted.parts, strict=True)
        return arrays.side_by_side([_vectors(part, own, index) for part, own in parts])
    assert not isinstance(fitted, FittedParts), "_fit gives parts for parts"
    return arrays[index] if fitted is None else fitted.apply(arrays[index])


def _fit_scale(arrays: Arrays, train: Sequence[int]) -> Fitted | None:
    """Mean and standard deviation (D,) over all frames of the given utterances; None for features used as they are."""
    if not arrays.feature.standardise:
        return None
    # Merged from each utterance's own mean and squares about it (Chan et al. 1983): the difference of the mean square and the
    # squared mean loses all digits where a dimension is large and varies little.
    count, mean, squares = 0, np.zeros(arrays.feature.dim), np.zeros(arrays.feature.dim)
    for index in train:
        frames = arrays[index].astype(np.float64)
        if not len(frames):
            continue
        own = frames.mean(0)
        step, before = own - mean, count
        count += len(frames)
        mean += step * len(frames) / count
        squares += ((frames - own) ** 2).sum(0) + step**2 * before * len(frames) / count
    if count == 0:
        return None
    deviation = np.sqrt(squares / count)
    varies = deviation > np.maximum(1e-6 * np.abs(mean), 1e-20)  # less is the rounding of float32
    return Fitted(mean.astype(np.float32), np.where(varies, deviation, np.inf).astype(np.float32))


def _best_columns(arrays: Arrays, fitted: Fitted | None, train: Sequence[int], labels: Sequence[Any]) -> npt.NDArray[np.intp]:
    """The `Feature.width` columns, ascending, that a linear SVM weighs most when it tells the labels apart.

    One against the rest, with an L2 penalty and balanced classes, on one normalised vector per utterance; a column's weight is
    the Euclidean norm of its coefficients over the classes. A label is a class, or of a multi-label task a tuple of 0 and 1.
    """
    from sklearn.svm import LinearSVC

    present = [(index, label) for index, label in zip(train, labels, strict=True) if arrays.lengths[index]]
    if fitted is None or len({label for _, label in present}) < 2:
        raise FeatureError(
            f"{arrays.feature} selects by the training labels, but fewer than two classes of the training split have "
            f"{arrays.feature.modality}; select nothing, or split otherwise"
        )
    vectors = np.concatenate([fitted.apply(arrays[index]) for index, _ in present])  # (n, D)
    # Only the order of the weights counts: on 1,500 clips of 6,373 functionals a tolerance of 0.001 takes ten times as long for
    # the same best 512.
    svm = LinearSVC(C=1e-3, class_weight="balanced", dual=True, tol=0.1, random_state=0)
    columns = np.array([label for _, label in present])  # (n,), or of a multi-label task (n, C)
    columns = columns[:, None] if columns.ndim == 1 else columns[:, columns.min(0) != columns.max(0)]
    weights = np.linalg.norm(np.concatenate([svm.fit(vectors, column).coef_ for column in columns.T]), axis=0)  # (D,)
    best: npt.NDArray[np.intp] = np.sort(np.argsort(-weights, kind="stable")[: arrays.feature.width])
    return best


class _Split(Dataset["Item | list[Item]"]):
    """The items of one split: utterances, or dialogues made of this split's utterances, and of its context, alone."""

    def __init__(
        self,
        utterances: Utterances,
        labelled: npt.NDArray[np.integer],
        context: npt.NDArray[np.integer],
        classes: Sequence[str],
        unit: Unit,
        fitted: Sequence["Transform | FittedParts | None"],
        task: Task,
    ) -> None:
        indices = np.concatenate([labelled, context.astype(labelled.dtype)])
        rows = utterances.table[["utterance_id", "label", "speaker", "dialogue", "turn"]].iloc[indices].reset_index(drop=True)
        self.audio, self.text, self.fitted = utterances.audio, utterances.text, fitted
        self.indices = indices  # into the table, (n,); everything below is by position in this split
        self.ids = rows["utterance_id"].array
        encoded = encode_labels(rows["label"].iloc[: len(labelled)], classes, task)
        self.labels = np.full((len(rows), *encoded.shape[1:]), IGNORED, encoded.dtype)
        self.labels[: len(labelled)] = encoded
        self.speakers = rows["speaker"].fillna("").astype(str).array
        self.unit = unit
        lengths = (utterances.audio.lengths + utterances.text.lengths)[indices]
        self.groups: npt.NDArray[np.integer] | list[npt.NDArray[np.integer]]
        if unit == "utterance":
            self.groups = np.arange(len(rows))[:, None]
            self.sizes = lengths
        else:
            dialogue = rows["dialogue"].fillna(rows["utterance_id"])
            ordered = rows.assign(dialogue=dialogue).sort_values("turn", kind="stable", na_position="last")
            self.groups = [group.index.to_numpy() for _, group in ordered.groupby("dialogue", sort=False)]
            self.sizes = np.array([lengths[group].max() * len(group) for group in self.groups])

    def __len__(self) -> int:
        return len(self.groups)

    def __getitem__(self, number: int) -> Item | list[Item]:
        items = [self._item(position) for position in self.groups[number]]
        return items[0] if self.unit == "utterance" else items

    def _item(self, position: int) -> Item:
        index = self.indices[position]
        audio, text = (_vectors(arrays, fitted, index) for arrays, fitted in zip((self.audio, self.text), self.fitted, strict=True))
        return Item(audio, text, self.labels[position], self.ids[position], self.speakers[position])
