"""The feature store: every array computed once, shared by every method, run and process.

An entry is found by the feature's identity and the *content* of its input, so renaming a file or copying a corpus costs
nothing and changing a file is noticed. One folder per feature holds two files that only grow::

    <root>/<feature name>-<feature key>/
        feature.json   the feature's identity, for people
        data.bin       the arrays, one after the other
        index.bin      one 32-byte record per array: key, offset, rows, checksum

An array's bytes are written before its record, so a process killed at any moment leaves only complete entries; a torn or
damaged one fails its checksum and is computed again. One process at a time appends (a lock that dies with its holder); readers
need no lock. Arrays are read by position, not mapped: the resident memory then doesn't grow with the part of the corpus that
was touched, and a file cut short is an error message rather than a bus error.
"""

import hashlib
import io
import json
import logging
import os
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager
from functools import cached_property
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
from filelock import FileLock, Timeout
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from datamodules import cache_dir
from datamodules.audio import AudioError, Clip, load_clip
from datamodules.features import Feature, FeatureError, SideBySide
from datamodules.workers import worker_pools

log = logging.getLogger(__name__)

Input = Clip | str
RECORD = np.dtype([("key", "S16"), ("offset", "<u8"), ("rows", "<u4"), ("checksum", "<u4")])
Keys = npt.NDArray[np.bytes_]

DECODERS = 4
"""Threads that decode the clips of the next chunk while this one is extracted."""


class StoreError(OSError):
    """The store can't be written or read back; the message names the folder and the remedy."""


class UnreadableInputsError(ValueError):
    """Inputs that could not be read. Everything readable has been stored.

    Attributes:
        failures: Position in the list of inputs -> what is wrong with it.
    """

    def __init__(self, failures: Mapping[int, AudioError]) -> None:
        """Keep ``failures``."""
        super().__init__(f"{len(failures)} inputs can't be read")
        self.failures = dict(failures)


class Arrays(Sequence[npt.NDArray[np.generic]]):
    """The arrays of one feature for a list of inputs, read from disk when asked for.

    ``arrays[i]`` has shape (T_i, D); an absent input has T_i = 0. ``lengths`` holds every T_i without reading anything.
    Any number of threads and processes may read at once. Two are equal if they read the same records of one file.
    """

    def __init__(self, feature: Feature, path: Path, records: npt.NDArray[np.void]) -> None:
        """Name the data file and one index record per input (rows = 0 for an absent input)."""
        self.feature = feature
        self.path = path
        self._records = records
        self._file: io.FileIO | None = None

    @cached_property
    def _identity(self) -> tuple[object, ...]:
        return self.feature, self.path, hashlib.blake2b(self._records.tobytes(), digest_size=16).digest()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Arrays) and self._identity == other._identity

    def __hash__(self) -> int:
        return hash(self._identity)

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """T of every array: (len(self),)."""
        return self._records["rows"].astype(np.int64)

    @property
    def keys(self) -> npt.NDArray[np.bytes_]:
        """Content key of every input, empty for an absent one: (len(self),)."""
        return np.ascontiguousarray(self._records["key"])

    def without(self, positions: Sequence[int]) -> "Arrays":
        """The same arrays, with those at ``positions`` absent."""
        records = self._records.copy()
        records[list(positions)] = np.zeros(1, RECORD)
        return Arrays(self.feature, self.path, records)

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> npt.NDArray[np.generic]:  # type: ignore[override]
        record = self._records[index]
        rows, dim = int(record["rows"]), self.feature.dim
        if rows == 0:
            return np.zeros((0, dim), self.feature.dtype)
        file = self._file or self.path.open("rb", buffering=0)
        self._file = file
        return np.frombuffer(_read(file, record, self.feature, self.path), self.feature.dtype).reshape(rows, dim)

    def __getstate__(self) -> dict[str, object]:
        return self.__dict__ | {"_file": None}


class ArraysSideBySide(Arrays):
    """The arrays of every part of a `SideBySide`; ``arrays[i]`` has their columns beside each other, as they are stored.

    ``lengths`` are those of the longest part.
    """

    def __init__(self, feature: SideBySide, parts: Sequence[Arrays]) -> None:
        """Take the parts, all of the same inputs."""
        super().__init__(feature, parts[0].path, parts[0]._records)
        self.feature: SideBySide = feature
        self.parts = tuple(parts)

    @cached_property
    def _identity(self) -> tuple[object, ...]:
        return self.feature, *(part._identity for part in self.parts)

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """T of the longest part of every array: (len(self),)."""
        longest: npt.NDArray[np.int64] = np.max([part.lengths for part in self.parts], axis=0)
        return longest

    def without(self, positions: Sequence[int]) -> "ArraysSideBySide":
        """The same arrays, with those at ``positions`` absent."""
        return ArraysSideBySide(self.feature, [part.without(positions) for part in self.parts])

    def __getitem__(self, index: int) -> npt.NDArray[np.generic]:  # type: ignore[override]
        return self.side_by_side([part[index] for part in self.parts])

    def side_by_side(self, arrays: Sequence[npt.NDArray[np.generic]]) -> npt.NDArray[np.generic]:
        """(T, D_i) each -> (T, sum of D_i); one row is repeated where another part has several.

        Raises:
            FeatureError: If parts have several rows, and not equally many.
        """
        rows = max(map(len, arrays))
        if any(len(array) not in {1, rows} for array in arrays):
            counts = " and ".join(f"{len(array)} rows of {part.feature}" for array, part in zip(arrays, self.parts, strict=True))
            raise FeatureError(f"{self.feature}: {counts} can't stand beside each other; pool them to one, or choose equal strides")
        return np.concatenate([np.broadcast_to(array, (rows, array.shape[1])) for array in arrays], axis=1)


def _read(file: io.FileIO, record: np.void, feature: Feature, path: Path) -> bytes:
    size = int(record["rows"]) * feature.dim * np.dtype(feature.dtype).itemsize
    offset = int(record["offset"])
    # Asked first, because a damaged record may name more bytes than the memory holds. Not seek and read: threads, and forked
    # processes, share the file's position.
    data = os.pread(file.fileno(), size, offset) if offset + size <= os.fstat(file.fileno()).st_size else b""
    if len(data) != size:
        raise StoreError(f"{path} was cut short while it was in use; run the command again and the missing part is recomputed")
    return data


class FeatureStore:
    """Features on disk, computed when first asked for."""

    def __init__(self, root: Path | None = None, processes: int = 1) -> None:
        """Set the store up.

        Args:
            root: Where everything is kept; None means ``features`` in `datamodules.cache_dir`.
            processes: How many compute, for features whose work is the CPU's (`Feature.processes`).
        """
        self.root = root or cache_dir() / "features"
        self.processes = processes

    def get(self, feature: Feature, inputs: Sequence[Input | None]) -> Arrays:
        """The feature of every input, computing those that the store doesn't hold.

        Args:
            feature: What to compute.
            inputs: Clips for an audio feature, transcripts for a text feature; None where the modality is absent.

        Returns:
            One array per input, in the order of ``inputs``.

        Raises:
            UnreadableInputsError: With every input that can't be read, after everything else has been stored.
            StoreError: If the folder can't be written (full disk, no permission), or a process that computes is killed.
        """
        if isinstance(feature, SideBySide):
            return self._get_parts(feature, inputs)
        folder = self.root / f"{feature.name}-{feature.key}"
        keys, failures = self._keys(inputs)
        wanted = np.setdiff1d(keys, [b""])
        present = _verified(folder, feature, wanted)
        missing = np.setdiff1d(wanted, present["key"])
        if len(missing):
            with _writer(folder, feature):
                missing = np.setdiff1d(missing, _verified(folder, feature, missing)["key"])  # another process may have been first
                failures |= _extract(folder, feature, inputs, keys, missing, self.processes)
            feature.release()
            present = _verified(folder, feature, wanted)
        if failures:
            raise UnreadableInputsError(dict(sorted(failures.items())))
        if len(present) < len(wanted):
            raise StoreError(f"{folder} was damaged while it was in use; run the command again and the missing part is recomputed")
        records = np.zeros(len(inputs), RECORD)
        given = keys != b""
        records[given] = present[np.searchsorted(present["key"], keys[given])]
        return Arrays(feature, folder / "data.bin", records)

    def add(self, feature: Feature, inputs: Sequence[Input | None], arrays: Sequence[npt.NDArray[np.generic] | None]) -> Arrays:
        """Keep arrays that were computed elsewhere, while the audio was decoded for another purpose, say.

        Args:
            feature: What was computed.
            inputs: As of `get`.
            arrays: What `Feature.extract` gives for each input; None for an absent one.

        Returns:
            As of `get`.

        Raises:
            StoreError: If the folder can't be written.
        """
        folder = self.root / f"{feature.name}-{feature.key}"
        keys, _ = self._keys(inputs)
        wanted = np.setdiff1d(keys, [b""])
        if len(np.setdiff1d(wanted, _verified(folder, feature, wanted)["key"])):
            with _writer(folder, feature), _files(folder) as (data, index):
                missing = set(np.setdiff1d(wanted, _verified(folder, feature, wanted)["key"]).tolist())
                for key, position in zip(*np.unique(keys, return_index=True), strict=True):
                    array = arrays[position]
                    if bytes(key) in missing and array is not None:
                        _append(data, index, key, array, feature)
        return self.get(feature, inputs)

    def _get_parts(self, feature: SideBySide, inputs: Sequence[Input | None]) -> ArraysSideBySide:
        found: list[Arrays] = []
        failures: dict[int, AudioError] = {}
        for part in feature.parts:
            try:
                found.append(self.get(part, inputs))
            except UnreadableInputsError as error:
                failures |= error.failures
        if failures:
            raise UnreadableInputsError(dict(sorted(failures.items())))
        return ArraysSideBySide(feature, found)

    def _keys(self, inputs: Sequence[Input | None]) -> tuple[Keys, dict[int, AudioError]]:
        """The content key of every input, b"" for an absent or unreadable one, and what is wrong with the latter."""
        digests = FileDigests(self.root / "digests.tsv")
        keys = np.zeros(len(inputs), RECORD["key"])
        failures: dict[int, AudioError] = {}
        for position, item in enumerate(inputs):
            if item is None:
                continue
            try:
                name = item if isinstance(item, str) else f"{digests[item.path]} {item.start} {item.end}"
                if isinstance(item, Clip) and item.corruption is not None:
                    name += f" {item.corruption.identity}"
            except FileNotFoundError:
                failures[position] = AudioError("audio file is missing", "restore it or correct the path")
            except OSError as error:
                failures[position] = AudioError(f"audio file can't be read ({error.strerror})", "check its permissions")
            else:
                key = hashlib.blake2b(name.encode(), digest_size=16).digest()
                # numpy's fixed-width bytes drop trailing zeros, so no key may end in one.
                keys[position] = key[:-1] + b"\x01" if key.endswith(b"\x00") else key
        digests.save()
        return keys, failures


class KeysOnly(FeatureStore):
    """A store that computes nothing: enough to name runs, whose names need the inputs' keys.

    Attributes:
        missing: By feature, how many of the distinct inputs asked for the store doesn't hold.
    """

    def __init__(self, root: Path | None = None) -> None:
        """Look at the store under ``root``; None for the default folder."""
        super().__init__(root)
        self.missing: dict[Feature, int] = {}

    def get(self, feature: Feature, inputs: Sequence[Input | None]) -> Arrays:
        """What the store holds of ``inputs``; of the rest only the keys, with no rows.

        Raises:
            UnreadableInputsError: For files that aren't there. Whether audio decodes, only an extraction finds out.
        """
        if isinstance(feature, SideBySide):
            return self._get_parts(feature, inputs)
        folder = self.root / f"{feature.name}-{feature.key}"
        keys, failures = self._keys(inputs)
        if failures:
            raise UnreadableInputsError(failures)
        stored = _records(folder)[::-1]  # the newest of each key counts
        names, newest = np.unique(stored["key"], return_index=True)
        held = np.isin(keys, names)
        self.missing[feature.stored] = len(np.setdiff1d(keys[~held], [b""]))
        records = np.zeros(len(inputs), RECORD)
        records["key"] = keys
        records[held] = stored[newest[np.searchsorted(names, keys[held])]]
        return Arrays(feature, folder / "data.bin", records)


class FileDigests:
    """Content digests of files, remembered by path, size and time of change so that nothing is read twice only to be named."""

    def __init__(self, path: Path | None) -> None:
        """Read what earlier processes remembered at ``path``; None to remember nothing."""
        self._path = path
        self._known: dict[str, str] = {}
        self._new: dict[str, str] = {}
        if path is not None and path.exists():
            for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
                state, _, digest = line.rpartition("\t")
                if len(digest) == 32:
                    self._known[state] = digest

    def __getitem__(self, path: Path) -> str:
        stat = path.stat()
        state = f"{path}\t{stat.st_size}\t{stat.st_mtime_ns}"
        digest = self._known.get(state) or self._new.get(state)
        if digest is None:
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
            self._new[state] = digest
        return digest

    def save(self) -> None:
        """Append what is new, in one write; a folder that can't be written only costs the next process some reading."""
        if self._new and self._path is not None:
            try:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                with self._path.open("a", encoding="utf-8", errors="replace") as file:
                    file.write("".join(f"{state}\t{digest}\n" for state, digest in self._new.items()))
            except OSError as error:
                log.warning("file digests can't be remembered in %s (%s)", self._path, error.strerror)


def _records(folder: Path) -> npt.NDArray[np.void]:
    index = folder / "index.bin"
    data = index.read_bytes() if index.exists() else b""
    return np.frombuffer(data[: len(data) // RECORD.itemsize * RECORD.itemsize], RECORD)


def _checksum(key: bytes, data: bytes) -> int:
    return zlib.crc32(data, zlib.crc32(key))


def _verified(folder: Path, feature: Feature, wanted: Keys) -> npt.NDArray[np.void]:
    """The records of the wanted keys whose arrays are complete and undamaged, sorted by key."""
    records = _records(folder)[::-1]  # the newest of each key counts
    keys, newest = np.unique(records["key"], return_index=True)
    found = records[newest[np.isin(keys, wanted, assume_unique=True)]]
    if not len(found) or not (folder / "data.bin").exists():
        return found[:0]
    intact = np.zeros(len(found), bool)
    with (folder / "data.bin").open("rb", buffering=0) as file:
        for number in np.argsort(found["offset"]):
            record = found[number]
            try:
                data = _read(file, record, feature, folder)
            except StoreError:
                continue
            intact[number] = record["rows"] > 0 and _checksum(bytes(record["key"]), data) == record["checksum"]
    if not intact.all():
        log.warning("%d damaged entries in %s will be computed again", np.count_nonzero(~intact), folder)
    return found[intact]


class _Chunk(NamedTuple):
    """What `Feature.extract` gets at once: inputs by their positions, and which of them the store lacks."""

    positions: list[int]
    items: list[Input]
    missing: list[bool]


def _extract(
    folder: Path, feature: Feature, inputs: Sequence[Input | None], keys: Keys, missing: Keys, processes: int
) -> dict[int, AudioError]:
    """Compute and append the missing entries; returns the inputs that can't be read."""
    failures: dict[int, AudioError] = {}
    chunks = _chunks(feature, inputs, keys, missing)
    with ExitStack() as stack:
        data, index = stack.enter_context(_files(folder))
        step = stack.enter_context(_progress(feature, len(missing)))
        for chunk, arrays in _computed(feature, chunks, processes):
            for position, lacking, array in zip(chunk.positions, chunk.missing, arrays, strict=True):
                if array is None:
                    continue
                if not isinstance(array, AudioError) and not np.isfinite(np.asarray(array, dtype=feature.dtype)).all():
                    array = AudioError(
                        f"{feature} of it isn't finite in {feature.dtype}", "look at its samples, their level is absurd"
                    )
                if isinstance(array, AudioError):
                    failures |= dict.fromkeys(np.flatnonzero(keys == keys[position]).tolist(), array)
                elif lacking:
                    _append(data, index, keys[position], array, feature)
                    step()
    return failures


@contextmanager
def _files(folder: Path) -> Iterator[tuple[io.FileIO, io.FileIO]]:
    """The data and the index, open to append to, after what a killed process may have torn was cut off."""
    with ExitStack() as stack:
        with _writing(folder):
            data = stack.enter_context((folder / "data.bin").open("ab", buffering=0))
            index = stack.enter_context((folder / "index.bin").open("ab", buffering=0))
            index.truncate(index.tell() // RECORD.itemsize * RECORD.itemsize)
        yield data, index


def _chunks(feature: Feature, inputs: Sequence[Input | None], keys: Keys, missing: Keys) -> Iterator[_Chunk]:
    """The chunks in which something is missing.

    Chunks are cut from the whole list, not from what is missing: an encoder's rounding depends on the batch it runs in, and a
    repeated extraction must give the bits that an uninterrupted one gives.
    """
    positions = _by_size(inputs, keys)
    is_missing = np.isin(keys, missing)  # (len(inputs),)
    for start in range(0, len(positions), feature.chunk):
        chunk = positions[start : start + feature.chunk].tolist()
        if is_missing[chunk].any():
            items = [item for position in chunk if (item := inputs[position]) is not None]
            yield _Chunk(chunk, items, is_missing[chunk].tolist())


T = TypeVar("T")
_Loaded = npt.NDArray[np.float32] | str | AudioError
_Result = npt.NDArray[np.generic] | AudioError | None


def _load(item: Input, sample_rate: int) -> _Loaded:
    try:
        return load_clip(item, sample_rate) if isinstance(item, Clip) else item
    except AudioError as error:
        return error


def _compute(feature: Feature, loaded: Sequence[_Loaded], missing: Sequence[bool]) -> list[_Result]:
    """Extract one chunk: for every input its array, or what is wrong with it; all None if what is missing can't be read."""
    readable = {number: item for number, item in enumerate(loaded) if not isinstance(item, AudioError)}
    arrays: dict[int, npt.NDArray[np.generic]] = {}
    if any(missing[number] for number in readable):
        arrays = dict(zip(readable, feature.extract(list(readable.values())), strict=True))  # type: ignore[arg-type]
    return [item if isinstance(item, AudioError) else arrays.get(number) for number, item in enumerate(loaded)]


def _load_and_compute(feature: Feature, items: Sequence[Input], missing: Sequence[bool]) -> list[_Result]:
    return _compute(feature, [_load(item, feature.sample_rate) for item in items], missing)


def _computed(feature: Feature, chunks: Iterable[_Chunk], processes: int) -> Iterator[tuple[_Chunk, list[_Result]]]:
    """Every chunk with what `_compute` gives for it, in their order.

    With several processes each computes whole chunks; else threads decode one chunk while the one before is extracted.
    """
    if processes > 1 and feature.processes:
        with worker_pools() as open_pool:
            pool = open_pool(processes, threads=1)
            jobs = ((chunk, pool.submit(_load_and_compute, feature, chunk.items, chunk.missing)) for chunk in chunks)
            try:
                for chunk, job in _ahead(jobs, 2 * processes):
                    yield chunk, job.result()
            except BrokenProcessPool as error:
                raise StoreError(
                    "a process that computed features was killed, perhaps for want of memory; what was stored so far is kept. "
                    "Run the same command again with fewer processes"
                ) from error
        return
    with ThreadPoolExecutor(DECODERS) as threads:

        def load(chunk: _Chunk) -> "list[Future[_Loaded]]":
            return [threads.submit(_load, item, feature.sample_rate) for item in chunk.items]

        for chunk, decoded in _ahead(((chunk, load(chunk)) for chunk in chunks), 1):
            yield chunk, _compute(feature, [item.result() for item in decoded], chunk.missing)


def _ahead(items: Iterable[T], count: int) -> Iterator[T]:
    """The items in their order, each handed over when ``count`` more have been made."""
    waiting: deque[T] = deque()
    for item in items:
        waiting.append(item)
        if len(waiting) > count:
            yield waiting.popleft()
    yield from waiting


def _by_size(inputs: Sequence[Input | None], keys: Keys) -> npt.NDArray[np.intp]:
    """One position per distinct key, short inputs first so that a padded chunk wastes little."""

    def size(item: Input | None) -> float:
        if isinstance(item, Clip):
            whole = item.path.stat().st_size if item.end is None else 0
            return whole or (item.end or 0.0) - (item.start or 0.0)
        return len(item or "")

    distinct, first = np.unique(keys, return_index=True)
    first = first[distinct != b""]
    by_size: npt.NDArray[np.intp] = first[np.argsort([size(inputs[position]) for position in first], kind="stable")]
    return by_size  # of equal size: by key


def _append(data: io.FileIO, index: io.FileIO, key: bytes, array: npt.NDArray[np.generic], feature: Feature) -> None:
    converted = np.ascontiguousarray(array, dtype=feature.dtype)
    if converted.ndim != 2 or converted.shape[1] != feature.dim or not len(converted):
        raise ValueError(f"{feature} gave an array of shape {converted.shape}; it must be (T, {feature.dim}) with T >= 1")
    payload = converted.tobytes()
    with _writing(Path(data.name).parent):
        offset = data.seek(0, os.SEEK_END)
        _write(data, payload)
        _write(index, np.array([(key, offset, len(converted), _checksum(key, payload))], RECORD).tobytes())


def _write(file: io.FileIO, payload: bytes) -> None:
    # A disk that fills up takes the part that fits and refuses only the next call.
    rest = memoryview(payload)
    while rest:
        rest = rest[file.write(rest) :]


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """Turn an operating system's refusal into a message with the remedy."""
    try:
        yield
    except OSError as error:
        raise StoreError(
            f"the feature store can't write to {folder} ({error.strerror or error}); what was stored so far is kept. "
            "Free some space, or name another folder with FUSION_ZOO_CACHE, then run the same command again"
        ) from error


@contextmanager
def _writer(folder: Path, feature: Feature) -> Iterator[None]:
    """Make the folder and hold its lock: one process at a time appends."""
    with _writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / "lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            log.warning("another process is filling %s; waiting for it", folder)
            lock.acquire()
        description = folder / "feature.json"
        if not description.exists():
            description.write_text(json.dumps(feature.stored.identity(), indent=1, sort_keys=True) + "\n")
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _progress(feature: Feature, total: int) -> Iterator[Callable[[], None]]:
    """A progress bar over the entries still to be computed; the caller calls what it is given once per entry."""
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(f"extracting {feature}", total=total)
        yield lambda: bar.advance(task)
