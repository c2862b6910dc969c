"""The generated pages are those of the methods as they are."""

import importlib.util
import xml.etree.ElementTree as ET
from pathlib import Path
from types import ModuleType

import pytest

from datamodules.corpora import list_corpora
from zoo import create, get_method, list_methods

DOCS = Path(__file__).parents[1] / "docs"


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
