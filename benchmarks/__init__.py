"""The benchmark: suites of runs under identical conditions, and the leaderboard made from them.

From Python::

    from benchmarks import Suite, bench, read_leaderboard

    bench(Suite(corpus="demo", methods=["early_concat", "mer_han"], seeds=3), "runs")
    print(read_leaderboard("runs").to_markdown())
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from benchmarks.execute import bench
    from benchmarks.leaderboard import read_leaderboard
    from benchmarks.spec import Execution, Suite

__all__ = ["Execution", "Suite", "bench", "read_leaderboard"]


def __getattr__(name: str) -> Any:  # noqa: ANN401
    # Imported on demand: these load torch, which "fusion-zoo --help" must not wait for.
    if name == "Suite":
        from benchmarks.spec import Suite as found
    elif name == "Execution":
        from benchmarks.spec import Execution as found  # type: ignore[assignment]
    elif name == "bench":
        from benchmarks.execute import bench as found  # type: ignore[assignment]
    elif name == "read_leaderboard":
        from benchmarks.leaderboard import read_leaderboard as found  # type: ignore[assignment]
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return found
