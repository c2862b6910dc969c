"""The measurement stops where the store and the plain loop differ; its loops are other code than the features."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from benchmarks.extraction_speed import HEADER, PLAIN, Measurement, difference, measure, to_markdown
from datamodules.features import parse_feature
from datamodules.store import FeatureStore


@pytest.fixture
def clips(tmp_path: Path) -> list[Path]:
    random = np.random.default_rng(0)
    paths = [tmp_path / f"{number}.wav" for number in range(3)]
    for number, path in enumerate(paths):
        soundfile.write(path, random.normal(0, 0.1, 9000 + 1111 * number), 16_000)
    return paths


@pytest.mark.parametrize("name", sorted(PLAIN))
def test_the_store_has_the_librarys_numbers(name: str, clips: list[Path], tmp_path: Path) -> None:
    row = measure(name, parse_feature(name), PLAIN[name](), clips, FeatureStore(tmp_path / "store"))
    assert row.name == name
    assert row.difference <= 1e-4


def test_other_numbers_stop_it(clips: list[Path], tmp_path: Path) -> None:
    plain = PLAIN["logmel"]()
    with pytest.raises(AssertionError, match="logmel: the store and the plain loop differ by"):
        measure("logmel", parse_feature("logmel"), lambda path: plain(path) + 0.5, clips, FeatureStore(tmp_path / "store"))
    with pytest.raises(AssertionError, match=r"the store has \(\d+, 64\), the plain loop \(\d+, 63\)"):
        measure("logmel", parse_feature("logmel"), lambda path: plain(path)[:, 1:], clips, FeatureStore(tmp_path / "other"))


def test_difference_is_beyond_the_stored_types_rounding() -> None:
    exact = np.random.default_rng(0).uniform(-100, 100, (9, 5))
    assert difference(exact.astype(np.float16), exact) == 0
    assert difference(exact.astype(np.float32), exact * (1 + 3e-3)) == pytest.approx(3e-3, rel=0.01)
    assert difference(exact.astype(np.float16), exact * (1 + 3e-3)) > 2e-3
    assert difference(np.zeros((1, 1), np.float32), np.full((1, 1), 1e-5)) == pytest.approx(1e-5, rel=0.01)


def test_a_line_of_the_table() -> None:
    line = to_markdown(Measurement("mfcc", 4.0, 2.0, 0.01, 2e-5), 60)
    assert line == "| `mfcc` | 4.0 | 15 | 2.0 | 30 | 2.00 | 0.01 | 2.0e-05 |"
    assert len({row.count("|") for row in (*HEADER.splitlines(), line)}) == 1
