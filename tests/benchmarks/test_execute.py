"""Many runs: the same results whichever executor, nothing run twice, nothing lost, no process left behind."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Thread
from typing import NamedTuple

import pandas as pd
import psutil
import pytest
import torch
from typer.testing import CliRunner

import zoo
from benchmarks import Suite, bench, parallel, read_leaderboard
from benchmarks.cli import app
from benchmarks.execute import local_slots, visible_gpus
from benchmarks.results import partial_folder, read_results, run_lock
from benchmarks.runner import expand
from benchmarks.spec import Execution, ExecutionError, MethodSpec
from datamodules.problems import UnknownNameError
from zoo.base import Training

POOL = Execution(jobs=2, threads=1)

WORKER = """
import json, sys
from benchmarks import Suite, bench
from benchmarks.spec import Execution

if __name__ == "__main__":
    suite, execution = Suite.model_validate_json(sys.argv[1]), Execution(jobs=int(sys.argv[3]), threads=1)
    print(json.dumps([outcome.status for outcome in bench(suite, sys.argv[2], execution=execution)]))
"""


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    """Restore what ``Execution.threads`` sets in this process."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def start(suite: Suite, out: Path, jobs: int = 1) -> subprocess.Popen:
    """Run a suite in a process, and a process group, of its own; it prints what became of every run."""
    script = out.parent / "worker.py"
    script.write_text(WORKER)
    command = [sys.executable, str(script), suite.model_dump_json(), str(out), str(jobs)]
    path = os.pathsep.join([str(Path(zoo.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    return subprocess.Popen(command, env=environment, start_new_session=True, stdout=subprocess.PIPE, text=True)


def statuses(process: subprocess.Popen) -> list[str]:
    printed, _ = process.communicate()
    assert process.returncode == 0
    return json.loads(printed)


def wait_until(condition: Callable[[], object], process: subprocess.Popen | None = None) -> None:
    deadline = time.monotonic() + 300
    while not condition():
        assert time.monotonic() < deadline
        assert process is None or process.poll() is None, "it ended too early"
        time.sleep(0.02)


def predictions(out: Path) -> dict[str, bytes]:
    return {file.parent.name: file.read_bytes() for file in sorted(out.glob("*/predictions.parquet"))}


def assert_same_table(one: Path, other: Path, runs: int = 4) -> None:
    """Byte for byte in the predictions, and to the last digit in the scores."""
    assert len(predictions(one)) == runs
    assert predictions(one) == predictions(other)
    tables = [read_leaderboard(folder).table for folder in (one, other)]
    scores = [column for column in tables[0] if column.endswith(("_mean", "_std"))]
    pd.testing.assert_frame_equal(tables[0][scores], tables[1][scores], check_exact=True)


def in_this_process(suite: Suite, out: Path) -> list[str]:
    return [outcome.status for outcome in bench(suite, out, execution=Execution(threads=1))]


class Traced(NamedTuple):
    """A method that writes down where it begins and ends, in whatever process."""

    suite: Suite
    file: Path

    def events(self) -> list[list[str]]:
        """Event, run's folder, process and visible GPUs, in the order in which they happened."""
        return [line.split("\t") for line in self.file.read_text().splitlines()] if self.file.exists() else []

    def count(self, event: str) -> Counter:
        return Counter(run for kind, run, *_ in self.events() if kind == event)


@pytest.fixture
def traced(suite: Suite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Traced:
    """Four runs of a method that pauses in each of its two epochs, and once in its life kills its process if told to."""
    source = (Path(zoo.__file__).parent / "text_only.py").read_text()
    source += """
    def _tell(self, event: str) -> None:
        import os
        from pathlib import Path

        line = [event, Path(self.trainer.checkpoint_callback.dirpath).name, str(os.getpid())]
        with Path(os.environ["TRACE"]).open("a") as file:
            file.write("\\t".join([*line, os.environ.get("CUDA_VISIBLE_DEVICES", "")]) + "\\n")

    def on_train_start(self) -> None:
        import os, signal
        from pathlib import Path

        self._tell("start")
        victim = os.environ.get("KILL_ONCE")
        if victim and not Path(victim + __name__).exists():
            Path(victim + __name__).touch()
            os.kill(os.getpid(), signal.SIGKILL)

    def on_train_epoch_start(self) -> None:
        import os, time

        time.sleep(float(os.environ.get("PAUSE", "0")))

    def on_test_end(self) -> None:
        self._tell("end")
"""
    (tmp_path / "methods").mkdir()
    (tmp_path / "methods" / "traced.py").write_text(source)
    (tmp_path / "methods" / "sitecustomize.py").write_text(f"import zoo; zoo.__path__.append({str(tmp_path / 'methods')!r})\n")
    monkeypatch.setattr(zoo, "__path__", [*zoo.__path__, str(tmp_path / "methods")])
    monkeypatch.setenv("PYTHONPATH", str(Path(zoo.__file__).parents[1]), prepend=os.pathsep)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "methods"), prepend=os.pathsep)
    monkeypatch.setenv("TRACE", str(tmp_path / "trace.tsv"))
    return Traced(
        suite.model_copy(update={"methods": (MethodSpec(method="traced"),), "seeds": (0, 1, 2, 3)}), tmp_path / "trace.tsv"
    )


def test_a_pool_gives_the_same_bits_and_every_process_its_own_gpu(
    traced: Traced, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reports: list[int] = []
    lines: list[str] = []
    with monkeypatch.context() as patch:
        patch.setattr("benchmarks.execute.visible_gpus", lambda: ["4", "GPU-7e"])
        outcomes = bench(
            traced.suite,
            tmp_path / "pool",
            execution=Execution(per_gpu=1, threads=1),
            report=lambda done, outcome: reports.append(done),
            status=lines.append,
        )
    assert [(outcome.status, outcome.spec.seed) for outcome in outcomes] == [("finished", seed) for seed in range(4)]
    assert reports == [1, 2, 3, 4]
    assert lines[0] == "2 running: traced fold 0 seed 0, traced fold 0 seed 1"
    assert lines[-1].startswith("1 running: ")
    seen = {pid: gpus for _, _, pid, gpus in traced.events()}
    assert sorted(seen.values()) == ["4", "GPU-7e"]
    assert "CUDA_VISIBLE_DEVICES" not in os.environ
    in_this_process(traced.suite, tmp_path / "alone")
    assert_same_table(tmp_path / "pool", tmp_path / "alone")


def test_the_order_of_the_runs_changes_nothing(suite: Suite, tmp_path: Path) -> None:
    backwards = suite.model_copy(update={"methods": suite.methods[::-1], "seeds": suite.seeds[::-1]})
    in_this_process(backwards, tmp_path / "backwards")
    in_this_process(suite, tmp_path / "forwards")
    assert_same_table(tmp_path / "backwards", tmp_path / "forwards")


def test_killed_three_times_then_completed_is_the_uninterrupted_table(suite: Suite, tmp_path: Path) -> None:
    """Kills come after the first, second and third run, each in the middle of the next one."""
    slower = suite.model_copy(update={"training": Training(max_epochs=25, patience=25, batch_size=8, lr=1e-2)})
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    for finished in (1, 2, 3):
        process = start(slower, killed)
        wait_until(
            lambda finished=finished: (
                len(list(killed.glob("*/result.json"))) >= finished and list(killed.glob(".partial-*/tensorboard"))
            ),
            process,
        )
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        assert len(list(killed.glob("*/result.json"))) < 4
    assert "finished" in in_this_process(slower, killed)
    assert in_this_process(slower, whole) == ["finished"] * 4
    assert_same_table(killed, whole)
    assert not list(killed.glob(".partial-*"))


def test_two_processes_share_one_suite(traced: Traced, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PAUSE", "1")
    expand(traced.suite)  # so that both find their features and begin together
    processes = [start(traced.suite, tmp_path / "runs") for _ in range(2)]
    found = [statuses(process) for process in processes]
    assert sorted(map(sorted, zip(*found, strict=True))) == [["cached", "finished"]] * 4
    assert len({pid for _, _, pid, _ in traced.events()}) > 1, "both had a part in it"
    assert list(traced.count("end").values()) == [1] * 4
    assert not list((tmp_path / "runs").glob(".partial-*"))
    monkeypatch.setenv("PAUSE", "0")
    in_this_process(traced.suite, tmp_path / "alone")
    assert_same_table(tmp_path / "runs", tmp_path / "alone")


def test_what_a_dead_machine_left_is_in_nobodys_way(suite: Suite, tmp_path: Path) -> None:
    one = suite.model_copy(update={"seeds": (0,), "methods": suite.methods[:1]})
    (job,) = expand(one)
    stale = partial_folder(tmp_path / "runs", job.spec.run_id)
    (stale / "checkpoint.ckpt").write_text("half of one")
    with run_lock(tmp_path / "runs", job.spec.run_id, 0):
        pass  # leaves the lock's file
    (outcome,) = bench(one, tmp_path / "runs")
    assert outcome.status == "finished"
    assert not stale.exists()
    assert (outcome.folder / "checkpoint.ckpt").stat().st_size > 1000


def test_a_run_that_dies_gets_another_chance_and_no_more(traced: Traced, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed twice, terminated once, once without a GPU that works, twice without memory on the GPU."""
    monkeypatch.setenv("KILL_ONCE", str(tmp_path / "killed"))
    source = (tmp_path / "methods" / "traced.py").read_text()
    once, kill = "and not Path(victim + __name__).exists()", "os.kill(os.getpid(), signal.SIGKILL)"
    variants = {
        "killed": {once: ""},
        "terminated": {kill: "os.kill(os.getpid(), signal.SIGTERM)"},
        "cursed": {kill: "raise __import__('torch').AcceleratorError('planted')"},
        "hungry": {kill: "raise __import__('torch').OutOfMemoryError('planted')", once: ""},
    }
    for name, changes in variants.items():
        changed = source
        for old, new in changes.items():
            changed = changed.replace(old, new)
        (tmp_path / "methods" / f"{name}.py").write_text(changed)
    methods = tuple(MethodSpec(method=name) for name in variants)
    outcomes = bench(traced.suite.model_copy(update={"methods": methods, "seeds": (0,)}), tmp_path / "runs", execution=POOL)
    assert [outcome.status for outcome in outcomes] == ["failed", "finished", "finished", "failed"]
    assert "was killed" in json.loads(outcomes[0].folder.read_text())["error"]
    record = json.loads(outcomes[3].folder.read_text())
    assert record["error"] == "OutOfMemoryError: planted"
    assert "in on_train_start" in record["traceback"]
    for name in variants:
        tries = [pid for event, run, pid, _ in traced.events() if event == "start" and f"{name}__" in run]
        assert len(tries) == 2
        assert name == "hungry" or len(set(tries)) == 2, "another process"


def test_a_killed_pool_leaves_no_process_behind(suite: Suite, tmp_path: Path) -> None:
    slow = suite.model_copy(update={"training": Training(max_epochs=10_000, patience=10_000)})
    process = start(slow, tmp_path / "runs", 2)
    wait_until(lambda: len(list(tmp_path.glob("runs/.partial-*/tensorboard"))) == 2, process)
    children = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.communicate()
    _, alive = psutil.wait_procs(children, timeout=30)
    assert alive == []


def interrupt(
    traced: Traced, manifest: Path, out: Path, *options: str, by: signal.Signals = signal.SIGINT, word: str = "interrupted"
) -> None:
    """End the command by a signal, in the middle of a run that isn't its first."""

    def send() -> None:
        wait_until(lambda: list(out.glob("[!.]*/result.json")) and len(traced.count("start")) > len(traced.count("end")))
        os.kill(os.getpid(), by)

    Thread(target=send, daemon=True).start()
    command = ["bench", "--corpus", str(manifest), "--methods", "traced", "--seeds", "8", "--set", "training.max_epochs=2"]
    command += ["--audio", traced.suite.audio, "--text", traced.suite.text, "--out", str(out), "--threads", "1", *options]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 128 + by, result.output
    assert f"fusion-zoo: {word}; what is finished is kept" in result.stderr
    assert "Traceback" not in result.output
    assert result.stdout == ""
    assert 1 <= len(list(read_results(out))) < 8
    with pytest.raises(KeyboardInterrupt):  # it is heard again
        signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_ctrl_c_keeps_what_is_finished(traced: Traced, manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PAUSE", "0.3")
    interrupt(traced, manifest, tmp_path / "runs")


def test_sigterm_is_no_success(traced: Traced, manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is how schedulers and containers end a command, and '&&' must not go on after it."""
    monkeypatch.setenv("PAUSE", "0.3")
    interrupt(traced, manifest, tmp_path / "runs", by=signal.SIGTERM, word="terminated")


def test_ctrl_c_leaves_no_process_of_the_pool_behind(
    traced: Traced, manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PAUSE", "0.7")
    others = psutil.Process().children(recursive=True)
    children: list[psutil.Process] = []

    def press_in_the_children_too() -> None:  # as a terminal does
        wait_until(lambda: len(traced.count("start")) >= 2)
        children.extend(psutil.Process(int(pid)) for _, _, pid, _ in traced.events())
        for child in children:
            child.send_signal(signal.SIGINT)

    Thread(target=press_in_the_children_too, daemon=True).start()
    interrupt(traced, manifest, tmp_path / "runs", "--jobs", "2")
    assert len(traced.count("end")) >= 1, "the children's own Ctrl-C ended nothing"
    assert children
    _, alive = psutil.wait_procs([*children, *(set(psutil.Process().children(recursive=True)) - set(others))], timeout=30)
    assert [process for process in alive if "resource_tracker" not in " ".join(process.cmdline())] == []


def test_a_process_knows_its_gpus_before_torch_is_loaded() -> None:
    code = "import sys, datamodules.workers; print(sorted({'torch', 'lightning'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("gpus", "execution", "expected"),
    [
        (0, Execution(), [None]),
        (0, Execution(jobs=3), [None] * 3),
        (0, Execution(devices=2), [None]),
        (2, Execution(), ["0"]),
        (2, Execution(jobs=5), ["0", "1", "0", "1", "0"]),
        (3, Execution(per_gpu=1), ["0", "1", "2"]),
        (2, Execution(per_gpu=2), ["0", "1", "0", "1"]),
        (4, Execution(jobs=2, devices=2), ["0,1", "2,3"]),
        (5, Execution(per_gpu=1, devices=2), ["0,1", "2,3"]),
    ],
)
def test_runs_take_the_gpus_in_turn(
    gpus: int, execution: Execution, expected: list[str | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr("torch.cuda.device_count", lambda: gpus)
    assert local_slots(execution) == expected


def test_gpus_keep_the_names_that_the_user_gave_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3, GPU-7e")
    assert visible_gpus() == ["3", "GPU-7e"]
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    assert visible_gpus() == []


def test_parts_of_a_divided_gpu_are_one_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)  # what PyTorch says of however many parts
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-a,MIG-b")
    assert local_slots(Execution(per_gpu=2)) == ["MIG-a", "MIG-b", "MIG-a", "MIG-b"]
    with pytest.raises(ExecutionError, match="--devices 2: a process sees only one part of a divided GPU"):
        local_slots(Execution(devices=2))


@pytest.mark.parametrize(
    ("execution", "shared"),
    [
        (Execution(), False),
        (Execution(jobs=2), True),
        (Execution(jobs=2, per_gpu=1), False),
        (Execution(per_gpu=2), True),
        (Execution(devices=2), False),
    ],
)
def test_whether_a_card_is_one_runs_alone(execution: Execution, shared: bool) -> None:
    assert execution.shares_gpus == shared


@pytest.mark.parametrize(("cuda", "expected"), [(True, "cuda"), (False, "cpu")])
def test_runs_are_on_cuda_or_the_cpu_and_nothing_else(monkeypatch: pytest.MonkeyPatch, cuda: bool, expected: str) -> None:
    """Where there is no CUDA, Lightning's own choice may be an Apple laptop's MPS."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: cuda)
    assert [parallel.trainer_options(devices)["accelerator"] for devices in (1, 2)] == [expected] * 2


@pytest.mark.parametrize(
    ("gpus", "execution", "message"),
    [(0, {"per_gpu": 2}, "finds none here; use --jobs"), (1, {"devices": 2}, "--devices 2: only 1 GPUs are visible")],
)
def test_gpus_that_are_not_there(gpus: int, execution: dict, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: gpus)
    with pytest.raises(ExecutionError, match=message):
        local_slots(Execution(**execution))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"executor": "rai"}, "no executor is called 'rai'; did you mean 'ray'"),
        ({"loggers": ("csv", "tensorbord")}, "did you mean 'tensorboard'"),
        ({"jobs": 0}, "--jobs is 0; it must be at least 1"),
        ({"per_gpu": 2, "devices": 2}, "choose one"),
    ],
)
def test_an_execution_that_makes_no_sense(wrong: dict, message: str) -> None:
    with pytest.raises((ExecutionError, UnknownNameError), match=message):
        Execution(**wrong)


@pytest.mark.parametrize("wanted", [{"executor": "ray"}, {"loggers": ("wandb",)}, {"loggers": ("csv", "mlflow")}])
def test_what_is_not_installed(wanted: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.spec.find_spec", lambda name: None)
    with pytest.raises(ExecutionError, match=r"is not installed; pip install 'fusion-zoo\[(ray|wandb|mlflow)\]'"):
        Execution(**wanted)


def test_progress_tells_every_epoch(suite: Suite, tmp_path: Path) -> None:
    lines: list[str] = []
    bench(suite.model_copy(update={"seeds": (3,), "methods": suite.methods[:1]}), tmp_path / "runs", status=lines.append)
    assert [line.split(", val/uar")[0] for line in lines] == [
        "text_only fold 0 seed 3: epoch 1 of at most 2",
        "text_only fold 0 seed 3: epoch 2 of at most 2",
    ]


@pytest.fixture
def cluster(traced: Traced, monkeypatch: pytest.MonkeyPatch) -> "Iterator[tuple[object, object]]":
    """A Ray cluster of two nodes with a CPU each, which listens on this machine alone; and the node that can be lost."""
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("PAUSE", "1.5")  # for the processes that Ray starts
    # As on other systems than Linux; else Ray takes 127.0.0.1 for another name of the machine's address in the network.
    monkeypatch.setattr("ray._private.ray_constants.ENABLE_RAY_CLUSTER", False)

    node = {"num_cpus": 1, "node_ip_address": "127.0.0.1", "object_store_memory": 100 * 2**20}
    made = Cluster(initialize_head=True, head_node_args=node | {"include_dashboard": False})
    yield made, made.add_node(**node)
    made.shutdown()


def test_a_cluster_that_loses_a_node_gives_the_same_table(
    cluster, traced: Traced, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, node = cluster
    out = tmp_path / "runs"

    def lose_a_node() -> None:
        wait_until(lambda: len(traced.count("start") - traced.count("end")) == 2)
        made.remove_node(node, allow_graceful=False)

    killer = Thread(target=lose_a_node)
    killer.start()
    outcomes = bench(traced.suite, out, execution=Execution("ray", threads=1, address=made.address))
    killer.join()
    assert {outcome.status for outcome in outcomes} <= {"finished", "cached"}
    assert list(traced.count("end").values()) == [1] * 4, "nothing lost, nothing run twice to completion"
    assert sorted(traced.count("start").values()) == [1, 1, 1, 2], "the lost run began again"
    monkeypatch.setenv("PAUSE", "0")
    in_this_process(traced.suite, tmp_path / "alone")
    assert_same_table(out, tmp_path / "alone")
    assert {outcome.status for outcome in bench(traced.suite, out, execution=Execution("ray", address=made.address))} == {"cached"}


def test_no_cluster_there(suite: Suite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray")
    for address in ("127.0.0.1:1", "nonsense"):
        with pytest.raises(ExecutionError, match="start one with 'ray start --head'"):
            bench(suite, tmp_path / "runs", execution=Execution("ray", address=address))


def test_two_devices_take_the_steps_of_one(suite: Suite, tmp_path: Path) -> None:
    """Two processes that each see half of every batch follow one that sees it whole, up to rounding."""
    training = Training(max_epochs=3, batch_size=12, lr=1e-2, class_weights="none")  # 36 utterances: no half is larger
    methods = (MethodSpec(method="text_only", options={"dropout": 0.0}),)
    one = suite.model_copy(update={"methods": methods, "seeds": (0,), "training": training})
    (alone,) = bench(one, tmp_path / "alone", execution=Execution(threads=1))
    (together,) = bench(one, tmp_path / "together", execution=Execution(threads=1, devices=2))
    assert (together.status, together.error) == ("finished", "")
    tables = [pd.read_parquet(outcome.folder / "predictions.parquet") for outcome in (alone, together)]
    pd.testing.assert_frame_equal(*tables, check_exact=False, atol=1e-4)
    result = json.loads((together.folder / "result.json").read_text())
    assert result["epochs"] == 3
    assert "trained on 2 devices, each batch divided among them" in result["caveats"]
    assert {path.name for path in together.folder.iterdir()} == {path.name for path in alone.folder.iterdir()}
