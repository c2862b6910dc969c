"""What the README shows works as it stands there."""

import re
import shlex
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

import benchmarks
import zoo
from benchmarks.cli import app
from benchmarks.spec import load_suite
from datamodules.batch import Item, collate_utterances

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
COMMANDS = [line.split("#")[0].strip() for line in README.splitlines() if line.startswith("fusion-zoo ")]
PYTHON = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def test_the_commands_for_ones_own_data(manifest: Path, tmp_path: Path, tiny_bert: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    fast = f'--set training.max_epochs=1 --audio "mfcc(n=8)" --text "hidden_states(checkpoint={tiny_bert!r})"'
    commands = ["doctor", "bench", "bench", "leaderboard", "ablate", "report", "interactions", "robustness"]
    assert [command.split()[1] for command in COMMANDS] == commands
    for command in COMMANDS:
        full = command.replace("my.csv", str(manifest)) + (
            f" {fast}" if command.split()[1] in {"bench", "ablate", "robustness"} else ""
        )
        result = CliRunner().invoke(app, shlex.split(full)[1:])
        assert result.exit_code == 0, f"{full}\n{result.output}"
    assert (tmp_path / "runs").is_dir()


def test_the_python_example(manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.chdir(tmp_path)
    (example,) = [code for code in PYTHON if "bench(" in code]
    example = example.replace("my.csv", str(manifest)).replace("seeds=5", "seeds=1, training={'max_epochs': 1}")
    exec(compile(example, "README.md", "exec"), {})
    assert re.search(r"\| early_concat .*\n", capsys.readouterr().out)


def test_the_example_method_is_found_by_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (example,) = [code for code in PYTHON if "class MyIdea" in code]
    (tmp_path / "my_idea.py").write_text(example)
    monkeypatch.setattr(zoo, "__path__", [*zoo.__path__, str(tmp_path)])
    assert "my_idea" in zoo.list_methods()
    method = zoo.create("my_idea", audio_dim=3, text_dim=4, num_classes=5, hidden=6)
    batch = collate_utterances([Item(torch.rand(7, 3).numpy(), torch.rand(2, 4).numpy(), 0, "a")])
    assert method(batch).logits.shape == (1, 5)


def test_the_leaderboard_shown_is_of_the_demo_suite() -> None:
    shown = README.split("<!-- demo:begin -->")[1].split("<!-- demo:end -->")[0]
    suite = load_suite(Path(benchmarks.__file__).parent / "suites" / "demo.yaml")
    for entry in suite.methods:
        assert re.search(rf"\| {entry.method} +\| {re.escape(entry.label)} +\| +{len(suite.seeds)} \|", shown), entry


def test_every_link_leads_somewhere() -> None:
    root = Path(__file__).parents[1]
    for page in [root / "README.md", *(root / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#]+?)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page}: {target}"
