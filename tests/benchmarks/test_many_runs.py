"""The generator of many results: what it writes is what the leaderboard reads."""

from pathlib import Path

import pandas as pd

from benchmarks import read_leaderboard
from benchmarks.many_runs import CORPORA, FOLDS, write_runs


def test_the_leaderboard_lists_what_is_written(tmp_path: Path) -> None:
    """The first method on all corpora, and the second on some."""
    write_runs(tmp_path, CORPORA * FOLDS + 2 * FOLDS)
    table = read_leaderboard(tmp_path).table
    assert table.groupby("method")["corpus"].nunique().to_dict() == {"method_0": CORPORA, "method_1": 2}
    assert table["runs"].eq(FOLDS).all()
    some = pd.read_parquet(next(tmp_path.glob("*/predictions.parquet")))
    assert some.filter(like="p_").sum(axis=1).round(6).eq(1).all()
