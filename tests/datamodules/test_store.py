"""Every array is computed once and read back as it was computed, whatever happened to the process, the disk or the files."""

import json
import logging
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import soundfile
from toy_feature import Deadly, Endless, Toy, clips, read_in_turn

from datamodules import store
from datamodules.audio import Clip
from datamodules.features import Feature, SideBySide, parse_feature
from datamodules.store import RECORD, Arrays, FeatureStore, StoreError, UnreadableInputsError

HERE = Path(__file__).parent
FILES = 11


@pytest.fixture
def sounds(tmp_path: Path) -> Path:
    """A folder of 11 short noises of different lengths."""
    folder = tmp_path / "sounds"
    folder.mkdir()
    random = np.random.default_rng(0)
    for number in range(FILES):
        soundfile.write(folder / f"{number:02}.wav", random.uniform(-0.5, 0.5, 400 + 37 * number), 16_000)
    return folder


@pytest.fixture
def extracted() -> list[int]:
    """Sizes of the chunks that this process extracted since the test began."""
    Toy.extracted.clear()
    return Toy.extracted


def worker(root: Path, folder: Path, **environment: str) -> "subprocess.Popen[str]":
    variables = os.environ | {"PYTHONPATH": f"{HERE.parents[1]}{os.pathsep}{HERE}"} | environment
    command = [sys.executable, str(HERE / "toy_feature.py"), str(root), str(folder)]
    return subprocess.Popen(command, env=variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def folder_of(root: Path, feature: Toy | None = None) -> Path:
    return root / f"toy-{(feature or Toy()).key}"


def index(root: Path) -> np.ndarray:
    return np.fromfile(folder_of(root) / "index.bin", RECORD)


def everything(root: Path, folder: Path) -> list[bytes]:
    return [array.tobytes() for array in FeatureStore(root).get(Toy(), clips(folder))]


def test_arrays_are_what_the_feature_computes(tmp_path: Path, sounds: Path) -> None:
    """Chunks of 4 are filled with the short ones first; each array comes back at its input's place."""
    order = [7, 0, 10, 3, 5]
    arrays = FeatureStore(tmp_path / "store").get(Toy(), [clips(sounds)[n] for n in order])
    waves = {n: soundfile.read(sounds / f"{n:02}.wav", dtype="float32")[0] for n in order}
    first = Toy().extract([waves[n] for n in (0, 3, 5, 7)])
    expected = dict(zip((0, 3, 5, 7), first, strict=True)) | {10: Toy().extract([waves[10]])[0]}
    for array, length, number in zip(arrays, arrays.lengths, order, strict=True):
        np.testing.assert_array_equal(array, expected[number])
        assert array.dtype == np.float32
        assert length == len(array) == -(-(400 + 37 * number) // 5)


def test_computed_once(tmp_path: Path, sounds: Path, extracted: list[int]) -> None:
    before = everything(tmp_path / "store", sounds)
    assert sum(extracted) == FILES
    extracted.clear()
    assert everything(tmp_path / "store", sounds) == before
    assert extracted == []


def test_what_was_computed_elsewhere_is_kept_and_not_computed_again(tmp_path: Path, sounds: Path, extracted: list[int]) -> None:
    """One input is in the store already, one is absent, two are the same."""
    store = FeatureStore(tmp_path / "store")
    (known,) = store.get(Toy(), clips(sounds)[:1])
    extracted.clear()
    given = [np.full((n + 1, known.shape[1]), n, np.float32) for n in range(4)]
    inputs = [*clips(sounds)[:3], None, clips(sounds)[2]]
    arrays = store.add(Toy(), inputs, [*given[:3], None, given[3]])
    np.testing.assert_array_equal(arrays[0], known)
    np.testing.assert_array_equal(arrays[1], given[1])
    np.testing.assert_array_equal(arrays[4], arrays[2])
    assert arrays.lengths.tolist() == [len(known), 2, 3, 0, 3]
    assert FeatureStore(tmp_path / "store").get(Toy(), inputs).lengths.tolist() == arrays.lengths.tolist()
    assert extracted == []


def test_other_parameters_are_another_feature(tmp_path: Path, sounds: Path, extracted: list[int]) -> None:
    store = FeatureStore(tmp_path / "store")
    one, double = store.get(Toy(), clips(sounds)[:1]), store.get(Toy(factor=2.0), clips(sounds)[:1])
    assert extracted == [1, 1]
    assert np.abs(double[0] - 2 * one[0]).max() < 1e-3
    assert json.loads((folder_of(store.root, Toy(factor=2.0)) / "feature.json").read_text()) == {
        "name": "toy",
        "extractor_version": 1,
        "width": 5,
        "factor": 2.0,
        "reads": "audio",
    }


def test_renamed_and_copied_files_cost_nothing(tmp_path: Path, sounds: Path, extracted: list[int]) -> None:
    before = everything(tmp_path / "store", sounds)
    shutil.copytree(sounds, tmp_path / "copy")
    for path in (tmp_path / "copy").glob("*.wav"):
        path.rename(path.with_name(f"renamed-{path.name}"))
    extracted.clear()
    assert everything(tmp_path / "store", tmp_path / "copy") == before
    assert extracted == []


def test_changed_content_is_computed_again(tmp_path: Path, sounds: Path, extracted: list[int]) -> None:
    """Also when the new recording has the old one's size."""
    root = tmp_path / "store"
    before = everything(root, sounds)
    samples, rate = soundfile.read(sounds / "03.wav")
    size = (sounds / "03.wav").stat().st_size
    soundfile.write(sounds / "03.wav", samples[::-1], rate)
    assert (sounds / "03.wav").stat().st_size == size
    extracted.clear()
    after = everything(root, sounds)
    assert [number for number in range(FILES) if after[number] != before[number]] == [3]
    assert len(index(root)) == FILES + 1
    np.testing.assert_allclose(np.frombuffer(after[3], np.float32)[: len(samples)], samples[::-1].astype(np.float32), atol=1e-3)


def test_bounds_of_a_clip_count(tmp_path: Path, sounds: Path) -> None:
    path = sounds / "10.wav"
    arrays = FeatureStore(tmp_path / "store").get(Toy(), [Clip(path), Clip(path, 0.01), Clip(path, 0.0, 0.01), Clip(path, 0.01)])
    assert arrays.lengths.tolist() == [154, 122, 32, 122]
    assert len(index(tmp_path / "store")) == 3


def test_duplicates_are_computed_once(tmp_path: Path, sounds: Path, extracted: list[int]) -> None:
    a, b, *_ = clips(sounds)
    shutil.copy(a.path, sounds / "same.wav")
    arrays = FeatureStore(tmp_path / "store").get(Toy(), [a, b, a, Clip(sounds / "same.wav"), b])
    assert extracted == [2]
    assert len(index(tmp_path / "store")) == 2
    assert [arrays[i].tobytes() == arrays[j].tobytes() for i, j in [(0, 2), (0, 3), (1, 4), (0, 1)]] == [True, True, True, False]


def test_texts(tmp_path: Path, extracted: list[int]) -> None:
    store, feature = FeatureStore(tmp_path / "store"), Toy(reads="text", width=1)
    arrays = store.get(feature, ["héllo", None, "", "héllo"])
    assert arrays.lengths.tolist() == [5, 0, 1, 5]
    assert arrays[0][:, 0].round().tolist() == [ord(c) for c in "héllo"]
    assert extracted == [2]


def test_absent_inputs_have_no_rows(tmp_path: Path, sounds: Path) -> None:
    arrays = FeatureStore(tmp_path / "store").get(Toy(), [None, clips(sounds)[0], None])
    assert [array.shape for array in arrays] == [(0, 5), (80, 5), (0, 5)]
    assert {array.dtype for array in arrays} == {np.dtype("float32")}
    assert arrays.keys.tolist()[0] == b""
    assert len(arrays.keys[1]) == 16
    nothing = FeatureStore(tmp_path / "untouched").get(Toy(), [None])
    assert nothing[0].shape == (0, 5)
    assert not (tmp_path / "untouched").exists()


@pytest.mark.parametrize("chunk", [1, 2, 3])
def test_killed_and_resumed(tmp_path: Path, sounds: Path, extracted: list[int], chunk: int) -> None:
    """SIGKILL in the middle of a chunk: what was finished is not computed again, and the result has the same bits."""
    uninterrupted = everything(tmp_path / "whole", sounds)
    process = worker(tmp_path / "store", sounds, TOY_DIES_IN_CHUNK=str(chunk))
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    finished = index(tmp_path / "store")
    assert len(finished) == 4 * (chunk - 1)
    extracted.clear()
    assert everything(tmp_path / "store", sounds) == uninterrupted
    assert extracted == [4, 4, 3][chunk - 1 :]
    assert index(tmp_path / "store")[: len(finished)].tobytes() == finished.tobytes()
    assert len(set(index(tmp_path / "store")["key"])) == len(index(tmp_path / "store")) == FILES


@pytest.mark.parametrize("kept", [1, RECORD.itemsize * 5, RECORD.itemsize * 5 + 1, RECORD.itemsize * 6 - 1])
def test_torn_index(tmp_path: Path, sounds: Path, extracted: list[int], kept: int) -> None:
    """Killed between two records, or within one, in the middle of a chunk."""
    before = everything(tmp_path / "store", sounds)
    whole = index(tmp_path / "store")
    os.truncate(folder_of(tmp_path / "store") / "index.bin", kept)
    extracted.clear()
    assert everything(tmp_path / "store", sounds) == before
    after = index(tmp_path / "store")
    intact = kept // RECORD.itemsize
    assert after[:intact].tobytes() == whole[:intact].tobytes()
    assert sorted(after["key"]) == sorted(whole["key"])
    assert extracted == ([4, 4, 3] if intact < 4 else [4, 3])


def test_damaged_bytes_are_computed_again(
    tmp_path: Path, sounds: Path, extracted: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    root = tmp_path / "store"
    before = everything(root, sounds)
    victim = index(root)[6]
    data = folder_of(root) / "data.bin"
    content = bytearray(data.read_bytes())
    content[int(victim["offset"]) + 3] ^= 0x10
    data.write_bytes(content)
    extracted.clear()
    with caplog.at_level(logging.WARNING):
        assert everything(root, sounds) == before
    assert "1 damaged entries" in caplog.text
    assert index(root)["key"].tolist().count(victim["key"]) == 2
    assert len(index(root)) == FILES + 1
    extracted.clear()
    assert everything(root, sounds) == before
    assert extracted == []


@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_data_cut_short_is_computed_again(tmp_path: Path, sounds: Path, share: float) -> None:
    before = everything(tmp_path / "store", sounds)
    data = folder_of(tmp_path / "store") / "data.bin"
    os.truncate(data, int(data.stat().st_size * share))
    assert everything(tmp_path / "store", sounds) == before


def test_deleted_data_are_computed_again(tmp_path: Path, sounds: Path) -> None:
    before = everything(tmp_path / "store", sounds)
    (folder_of(tmp_path / "store") / "data.bin").unlink()
    assert everything(tmp_path / "store", sounds) == before


@pytest.mark.parametrize(
    ("field", "value"),
    [("rows", 0), ("rows", 1), ("rows", 2**32 - 1), ("offset", 2**63 - 1), ("offset", 2**64 - 1), ("offset", 4), ("checksum", 0)],
)
def test_damaged_records_are_computed_again(tmp_path: Path, sounds: Path, field: str, value: int) -> None:
    before = everything(tmp_path / "store", sounds)
    records = index(tmp_path / "store")
    records[2][field] = value
    records.tofile(folder_of(tmp_path / "store") / "index.bin")
    assert everything(tmp_path / "store", sounds) == before


def test_data_cut_short_while_in_use_is_an_error_with_the_remedy(tmp_path: Path, sounds: Path) -> None:
    arrays = FeatureStore(tmp_path / "store").get(Toy(), clips(sounds))
    os.truncate(folder_of(tmp_path / "store") / "data.bin", 10)
    with pytest.raises(StoreError, match=r"data\.bin was cut short .* run the command again"):
        arrays[3]


def test_two_processes_at_once(tmp_path: Path, sounds: Path) -> None:
    """The second waits for the first and computes nothing twice."""
    workers = [worker(tmp_path / "store", sounds, TOY_SECONDS="0.4") for _ in range(2)]
    outputs = [process.communicate(timeout=60) for process in workers]
    assert [process.returncode for process in workers] == [0, 0], outputs
    assert sorted(out.strip() for out, _ in outputs) == ["extracted [4, 4, 3]", "extracted []"]
    keys = index(tmp_path / "store")["key"].tolist()
    assert len(keys) == len(set(keys)) == FILES
    assert everything(tmp_path / "store", sounds) == everything(tmp_path / "whole", sounds)


@pytest.mark.parametrize("limit", [3000, 10_000])
def test_full_disk(tmp_path: Path, sounds: Path, extracted: list[int], limit: int) -> None:
    """The disk fills up within an array: the message says so, what was complete is kept, and it goes on from there."""
    root = tmp_path / "store"
    process = worker(root, sounds, TOY_FILE_LIMIT=str(limit))
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    message = errors.strip().splitlines()[-1]
    assert "StoreError" in message
    assert str(folder_of(root)) in message
    assert "File too large" in message
    assert "Free some space, or name another folder with FUSION_ZOO_CACHE" in message
    kept = index(root)
    assert 0 < len(kept) < FILES
    extracted.clear()
    assert everything(root, sounds) == everything(tmp_path / "whole", sounds)
    assert index(root)[: len(kept)].tobytes() == kept.tobytes()
    assert len(index(root)) == FILES


def test_disk_full_within_the_last_array(tmp_path: Path, sounds: Path) -> None:
    """An operating system writes what fits and only refuses the next call, which here never comes."""
    everything(tmp_path / "whole", sounds)
    size = (folder_of(tmp_path / "whole") / "data.bin").stat().st_size
    process = worker(tmp_path / "store", sounds, TOY_FILE_LIMIT=str(size - 8))
    _, errors = process.communicate(timeout=60)
    assert "StoreError" in errors.strip().splitlines()[-1]
    assert len(index(tmp_path / "store")) == FILES - 1


def test_root_under_a_file(tmp_path: Path, sounds: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StoreError) as caught:
        FeatureStore(tmp_path / "file" / "store").get(Toy(), clips(sounds))
    assert str(tmp_path / "file" / "store") in str(caught.value)
    assert "Not a directory" in str(caught.value)
    assert "FUSION_ZOO_CACHE" in str(caught.value)


def test_nothing_is_written_when_nothing_is_missing(tmp_path: Path, sounds: Path) -> None:
    """So a store that was filled by somebody else can be shared read-only."""
    everything(tmp_path / "store", sounds)

    def state() -> dict[str, tuple[int, int]]:
        found = [tmp_path / "store", *(tmp_path / "store").rglob("*")]
        return {str(path): (path.stat().st_mtime_ns, path.stat().st_size) for path in found}

    before = state()
    everything(tmp_path / "store", sounds)
    assert state() == before


def test_unreadable_inputs_are_all_named_and_the_others_kept(tmp_path: Path, sounds: Path, extracted: list[int]) -> None:
    soundfile.write(sounds / "nan.wav", np.array([0.1, np.nan, 0.2]), 16_000, subtype="FLOAT")
    (sounds / "garbage.wav").write_bytes(b"garbage" * 100)
    items = [clips(sounds)[0], Clip(sounds / "nan.wav"), Clip(sounds / "gone.wav"), None, Clip(sounds / "garbage.wav")]
    items += [Clip(sounds / "nan.wav"), clips(sounds)[1], Clip(sounds)]
    store = FeatureStore(tmp_path / "store")
    with pytest.raises(UnreadableInputsError) as caught:
        store.get(Toy(), items)
    assert {position: error.what.split(" (")[0] for position, error in caught.value.failures.items()} == {
        1: "audio holds NaN or infinity",
        2: "audio file is missing",
        4: "audio can't be decoded",
        5: "audio holds NaN or infinity",
        7: "audio file can't be read",
    }
    assert "5 inputs" in str(caught.value)
    extracted.clear()
    assert store.get(Toy(), [clips(sounds)[0], clips(sounds)[1]]).lengths.tolist() == [80, 88]
    with pytest.raises(UnreadableInputsError):
        store.get(Toy(), items)
    assert extracted == []  # an unreadable neighbour doesn't cost the readable ones another extraction


@pytest.mark.parametrize(
    ("array", "what"),
    [
        (np.zeros((0, 1)), r"shape \(0, 1\)"),
        (np.zeros((3, 2)), r"must be \(T, 1\)"),
        (np.zeros(3), r"shape \(3,\)"),
    ],
)
def test_a_feature_that_gives_nonsense_is_refused(tmp_path: Path, array: np.ndarray, what: str) -> None:
    class Broken(Toy):
        def extract(self, inputs: object) -> list[np.ndarray]:
            return [array]

    with pytest.raises(ValueError, match=what):
        FeatureStore(tmp_path / "store").get(Broken(width=1, reads="text"), ["hello"])


@pytest.mark.parametrize("value", [np.nan, 1e39])
@pytest.mark.filterwarnings("ignore:overflow encountered")
def test_an_input_whose_feature_is_not_finite_is_named(tmp_path: Path, value: float) -> None:
    class Broken(Toy):
        def extract(self, inputs: Sequence[object]) -> list[np.ndarray]:
            return [np.array([[value if item == "bad" else 1.0]]) for item in inputs]

    store = FeatureStore(tmp_path / "store")
    with pytest.raises(UnreadableInputsError) as caught:
        store.get(Broken(width=1, reads="text"), ["good", "bad", "bad"])
    assert list(caught.value.failures) == [1, 2]
    assert "isn't finite in float32" in caught.value.failures[1].what
    assert len(store.get(Broken(width=1, reads="text"), ["good"])) == 1


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_other_processes_read_the_right_data(tmp_path: Path, sounds: Path, method: str) -> None:
    """Readers that share one open file would disturb each other's position."""
    arrays = FeatureStore(tmp_path / "store").get(Toy(), clips(sounds))
    expected = [array.tobytes() for array in arrays]  # the file is open in this process now
    context = get_context(method)
    positions = [n % FILES for n in range(20_000 if method == "fork" else 20)]
    pipes = [context.Pipe(duplex=False) for _ in range(2 if method == "fork" else 1)]
    readers = [context.Process(target=read_in_turn, args=(arrays, positions, to.send), daemon=True) for _, to in pipes]
    for reader in readers:
        reader.start()
    mine = [arrays[p].tobytes() for p in positions]
    for receiver, _ in pipes:
        assert receiver.poll(30), "a reader failed"
        assert receiver.recv() == [expected[p] for p in positions]
    assert mine == [expected[p] for p in positions]
    for reader in readers:
        reader.join(timeout=30)
        assert reader.exitcode == 0


def test_threads_read_the_right_data(tmp_path: Path, sounds: Path) -> None:
    arrays = FeatureStore(tmp_path / "store").get(Toy(), clips(sounds))
    expected = [array.tobytes() for array in arrays]
    positions = [n % FILES for n in range(20_000)]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda p: arrays[p].tobytes(), positions)) == [expected[p] for p in positions]


def test_pickled_after_use(tmp_path: Path, sounds: Path) -> None:
    arrays = FeatureStore(tmp_path / "store").get(Toy(), clips(sounds))
    expected = [array.tobytes() for array in arrays]
    copy = pickle.loads(pickle.dumps(arrays))
    assert [array.tobytes() for array in copy] == expected
    assert copy.lengths.tolist() == arrays.lengths.tolist()
    assert copy.keys.tolist() == arrays.keys.tolist()


def test_equal_if_they_read_the_same_records(tmp_path: Path, sounds: Path) -> None:
    def get(feature: Feature, count: int = 2) -> Arrays:
        return FeatureStore(tmp_path / "store").get(feature, clips(sounds)[:count])

    beside = SideBySide((Toy(), Toy(factor=2.0)))
    one, double, both = get(Toy()), get(Toy(factor=2.0)), get(beside)
    one[0]  # opens the file, which is no part of it
    apart = [one, double, both, get(Toy(), 3), one.without([1]), both.without([1]), get(SideBySide((Toy(), Toy(factor=3.0))))]
    again = [pickle.loads(pickle.dumps(arrays)) for arrays in apart]
    assert again == apart
    assert len({*apart, *again, get(Toy()), get(beside)}) == len(apart)


def test_default_folder_is_the_cache(sounds: Path, cache: Path) -> None:
    FeatureStore().get(Toy(), clips(sounds))
    assert len(index(cache / "features")) == FILES


def test_several_processes_give_the_same_bytes(tmp_path: Path, sounds: Path) -> None:
    """In the same order; what can't be read is named as by one process."""
    for number in range(30):
        soundfile.write(sounds / f"more{number}.wav", np.random.default_rng(number).uniform(-0.5, 0.5, 3000 + number), 16_000)
    broken = sounds / "05.wav"
    soundfile.write(broken, np.full(100, np.nan), 16_000, subtype="FLOAT")
    feature, stores = parse_feature("logmel(n=8)"), [FeatureStore(tmp_path / str(n), processes=n) for n in (1, 2)]
    failures = []
    for one_store in stores:
        with pytest.raises(UnreadableInputsError) as caught:
            one_store.get(feature, clips(sounds))
        failures.append({position: str(error) for position, error in caught.value.failures.items()})
    assert failures[0] == failures[1]
    assert [clips(sounds)[position].path for position in failures[0]] == [broken]
    broken.unlink()
    one, two = ((each.root / f"logmel-{feature.key}" / "data.bin").read_bytes() for each in stores)
    assert one == two
    assert len(one) == 2 * 8 * stores[1].get(feature, clips(sounds)).lengths.sum()


def test_a_killed_process_is_an_error_with_a_remedy(tmp_path: Path, sounds: Path) -> None:
    with pytest.raises(StoreError, match=r"a process that computed features was killed.*fewer processes"):
        FeatureStore(tmp_path, processes=2).get(Deadly(), clips(sounds))


@pytest.mark.parametrize(("interrupts", "error"), [(False, ZeroDivisionError), (True, KeyboardInterrupt)])
def test_whatever_stops_the_command_ends_its_processes_at_once(
    tmp_path: Path, sounds: Path, interrupts: bool, error: type[BaseException]
) -> None:
    before = psutil.Process().children(recursive=True)
    with pytest.raises(error):
        FeatureStore(tmp_path, processes=2).get(Endless(flag=str(tmp_path / "flag"), interrupts=interrupts), clips(sounds))
    assert time.time() - (tmp_path / "flag").stat().st_mtime < 30
    _, alive = psutil.wait_procs(set(psutil.Process().children(recursive=True)) - set(before), timeout=20)
    assert [process for process in alive if "resource_tracker" not in " ".join(process.cmdline())] == []


def test_features_that_keep_something_stay_in_one_process(tmp_path: Path, sounds: Path, extracted: list[int]) -> None:
    FeatureStore(tmp_path, processes=2).get(Toy(), clips(sounds))
    assert sum(extracted) == FILES


def test_one_chunk_is_decoded_ahead_and_no_more(tmp_path: Path, sounds: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that the memory doesn't grow with the corpus."""
    decoded: list[Path] = []
    seen = []
    load, extract = store.load_clip, Toy.extract

    def watched(clip: Clip, rate: int) -> np.ndarray:
        decoded.append(clip.path)
        return load(clip, rate)

    def slow(self: Toy, inputs: Sequence[Any]) -> list[np.ndarray]:
        deadline = time.monotonic() + 5
        expected = min(FILES, 4 * (len(seen) + 2))
        while len(decoded) < expected and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.05)
        seen.append(len(decoded))
        return extract(self, inputs)

    monkeypatch.setattr(store, "load_clip", watched)
    monkeypatch.setattr(Toy, "extract", slow)
    FeatureStore(tmp_path).get(Toy(), clips(sounds))
    assert seen == [8, 11, 11]
