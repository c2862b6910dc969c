"""The generated pages are those of the methods as they are, and every command that a page shows can be given."""

import importlib
import importlib.util
import re
import shlex
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import typer

from benchmarks.cli import app
from datamodules.corpora import list_corpora
from zoo import create, get_method, list_methods

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
COMMAND = typer.main.get_command(app)
USAGE_ERROR = typer.BadParameter.__mro__[1]  # click's, or that of the copy which newer versions of typer bring along


@pytest.fixture(scope="module")
def pages() -> ModuleType:
    spec = importlib.util.spec_from_file_location("method_pages", DOCS / "method_pages.py")
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", list_methods())
def test_a_methods_page_is_up_to_date(pages: ModuleType, name: str) -> None:
    written = (DOCS / "methods" / f"{name}.md").read_text(encoding="utf-8")
    assert written == pages.page(name), "run: python docs/method_pages.py"
    assert all(f"| `{option}` |" in written for option in pages.method_options(name))
    assert "|  |" not in written, "an option without a description"


def test_the_index_is_up_to_date(pages: ModuleType) -> None:
    assert (DOCS / "methods" / "README.md").read_text(encoding="utf-8") == pages.index(), "run: python docs/method_pages.py"


@pytest.mark.parametrize("name", list_methods())
def test_a_diagram_leads_from_every_modality_to_the_logits(pages: ModuleType, name: str, tmp_path: Path) -> None:
    graph = pages.trace(create(name, audio_dim=pages.AUDIO, text_dim=pages.TEXT, num_classes=pages.CLASSES))
    assert {node for node in graph if not list(graph.predecessors(node))} == {
        f"input {name}" for name in get_method(name).modalities
    }
    assert list(graph.successors("logits")) == []
    pages.draw(graph, tmp_path / "diagram.svg")
    drawn = "".join(ET.parse(DOCS / "methods" / f"{name}.svg").getroot().itertext())
    assert all(graph.nodes[node]["part"].title in drawn for node in graph), "run: python docs/method_pages.py"


@pytest.mark.parametrize("name", sorted(set(list_corpora()) - {"demo", "manifest"}))
def test_a_corpus_has_its_page_and_its_line_in_the_index(name: str) -> None:
    page = (DOCS / "corpora" / f"{name}.md").read_text(encoding="utf-8")
    assert f"[`{name}`]({name}.md)" in (DOCS / "corpora" / "README.md").read_text(encoding="utf-8")
    for part in ("**Layout**", "**Protocols**", "**What others get wrong**"):
        assert part in page


def commands_of(page: str) -> Iterator[tuple[list[str], bool]]:
    """The commands that a page shows, as words, and whether all their arguments must be there.

    A fenced line is whole; in a sentence the bare name of a command stands for it, and ``leaderboard --published`` for an option.
    """
    blocks = re.findall(r"^```.*?\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    for line in "".join(blocks).replace("\\\n", " ").splitlines():
        plain = re.sub(r"\[(--[^]]*)\]", r"\1", line)  # a synopsis's options
        if not re.search(r"\b(fusion-zoo|benchmarks\.\w+) ", plain):
            continue
        lexer = shlex.shlex(plain, posix=True, punctuation_chars=";&|")
        lexer.whitespace_split = True
        words: list[str] = []
        for word in [*lexer, ";"]:
            if ends := word in {";", "&", "&&", "|", "||"}:
                yield words, True
            words = [] if ends or word == "do" else [*words, word]
    sentences = re.sub(r"^```.*?^```", "", page, flags=re.DOTALL | re.MULTILINE)
    for code in re.findall(r"`([^`]+)`", sentences):
        words = code.split()
        if words[0] == "fusion-zoo" or words[:2] == ["python", "-m"]:
            yield shlex.split(code), len(words) > 2
        elif words[0] in COMMAND.commands and any(word.startswith("--") for word in words):
            yield ["fusion-zoo", *shlex.split(code)], False


def parse(words: list[str], whole: bool) -> None:
    """Parse a command without running it, as click does."""
    if words[0] == "fusion-zoo" and len(words) > 1:
        assert words[1] in COMMAND.commands, f"there is no command {words[1]}"
        command = COMMAND.commands[words[1]]
    elif words[:2] == ["python", "-m"] and words[2].startswith("benchmarks."):
        module = importlib.import_module(words[2])
        if not hasattr(module, "typer"):
            return
        program = typer.Typer()
        program.command()(module.main)
        command, words = typer.main.get_command(program), words[1:]
    else:
        return
    try:
        command.make_context(words[1], words[2:])
    except USAGE_ERROR as error:
        if whole or type(error).__name__ != "MissingParameter":
            raise


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_of_a_page_can_be_given(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for words, whole in commands_of(text):
        try:
            parse(words, whole)
        except USAGE_ERROR as error:
            pytest.fail(f"{page}: {shlex.join(words)}: {error.format_message()}")
    for file in re.findall(r"\bbenchmarks/[\w/]+\.\w+", text):
        assert (ROOT / file).is_file(), f"{page}: {file}"


def test_a_wrong_command_is_noticed() -> None:
    shown = (
        "```\nfor n in 1 2; do fusion-zoo bench s.yaml \\\n  --seeds $n; done  # twice\n```\nThen `leaderboard --diagramm x.svg`."
    )
    found = list(commands_of(shown))
    assert found == [
        (["for", "n", "in", "1", "2"], True),
        (["fusion-zoo", "bench", "s.yaml", "--seeds", "$n"], True),
        (["done"], True),
        (["fusion-zoo", "leaderboard", "--diagramm", "x.svg"], False),
    ]
    parse(*found[1])
    for words in (found[3][0], ["fusion-zoo", "report"], ["python", "-m", "benchmarks.many_runs", "--sizes", "10"]):
        with pytest.raises(USAGE_ERROR):
            parse(words, True)
    with pytest.raises(AssertionError, match="no command trian"):
        parse(["fusion-zoo", "trian"], True)
