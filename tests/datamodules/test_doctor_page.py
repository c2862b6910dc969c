"""The page is readable in a narrow terminal and in a browser, and needs nothing but itself."""

import re
from html.parser import HTMLParser
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from datamodules.doctor import Plot, Report, Section, Table
from datamodules.doctor_page import SHOWN, describe, html_page, print_page
from datamodules.problems import Problem

HOSTILE = "[red]x[/red] [/bold] <b>&amp;\"'</b>"


def plot(caption: str = "Durations by split", logarithmic: bool = True) -> Plot:
    values = {"train": np.geomspace(0.5, 8, 40), "val": np.array([1.0, 2.0, 3.0]), "test": np.array([4.0])}
    return Plot(caption, "s", values, logarithmic)


def report(speakers: int = 3) -> Report:
    long = Table("By speaker", ("speaker", "train", "all"), (*((f"s{n:02}", n, n) for n in range(speakers)), ("all", 9, 9)))
    sections = (
        Section("Words", (HOSTILE,), (HOSTILE,), (plot(), plot("Loudness by split", logarithmic=False))),
        Section("Rows", tables=(long, Table(HOSTILE, ("what", "in", "share"), ((HOSTILE, "word " * 30, "3%"),), frozenset({0})))),
        Section("Problems", problems=tuple(Problem(Path(f"/data/{HOSTILE}"), n, HOSTILE, "mend it") for n in range(speakers))),
    )
    return Report(f"corpus {HOSTILE}", Path("/data"), (HOSTILE,), sections)


def printed(found: Report, width: int = 80) -> str:
    file = StringIO()
    print_page(found, Console(file=file, width=width))
    return file.getvalue()


class Page(HTMLParser):
    """Checks that tags nest, and collects what a test asks for."""

    VOID = frozenset({"meta", "br", "path", "use", "line", "rect"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.tables: list[list[list[str]]] = []
        self.captions: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attributes)))
        if tag not in {"meta"}:
            self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in {"td", "th"}:
            self.tables[-1][-1].append("")
        elif tag == "caption":
            self.captions.append("")

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attributes)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in {"td", "th"}:
            self.tables[-1][-1][-1] += data
        elif self.open and self.open[-1] == "caption":
            self.captions[-1] += data


def test_markup_in_data_is_printed_as_it_stands() -> None:
    text = printed(report(), 200)
    assert text.count(HOSTILE) == 2 + 2 + 2 + 2 * 3
    assert "\x1b" not in text


@pytest.mark.parametrize("width", [80, 60])
def test_nothing_is_wider_than_the_terminal_but_paths_to_copy(width: int) -> None:
    found = printed(report(), width)
    wide = [line for line in found.splitlines() if len(line.rstrip()) > width]
    assert [line for line in wide if not line.startswith("/data/")] == []


def test_the_terminal_shows_the_beginning_of_long_tables_and_their_total() -> None:
    text = printed(report(SHOWN + 1234))
    assert "s19" in text
    assert "s20" not in text
    assert "… and 1,234 more rows; --html FILE shows all of them" in text
    assert "… and 1,234 more problems" in text
    assert re.search(r"^ *all +9 +9 *$", text, re.MULTILINE)
    assert "more" not in printed(report(SHOWN))


def test_the_terminal_shows_every_row_that_calls_for_a_look() -> None:
    counts = Table("Counts", ("label", "found"), tuple((f"l{n:02}", n) for n in range(SHOWN + 10)), frozenset({25}))
    text = printed(Report("c", Path("c"), (), (Section("Counts", tables=(counts,)),)))
    assert "l25" in text
    assert "l24" not in text
    assert "… and 9 more rows" in text


def test_html_holds_every_row_and_folds_long_tables() -> None:
    page = Page(html_page(report(40)))
    assert page.captions == ["By speaker", HOSTILE]
    speakers, hostile = page.tables
    assert [row[0] for row in speakers] == ["speaker", *(f"s{n:02}" for n in range(40)), "all"]
    assert hostile == [["what", "in", "share"], [HOSTILE, "word " * 30, "3%"]]
    tags = [tag for tag, _ in page.seen]
    assert tags.count("details") == 1
    assert tags.count("dt") == 40
    assert "details" not in [tag for tag, _ in Page(html_page(report())).seen]


def test_html_is_accessible() -> None:
    page = Page(html_page(report()))
    by_tag: dict[str, list[dict]] = {}
    for tag, attributes in page.seen:
        by_tag.setdefault(tag, []).append(attributes)
    assert by_tag["html"][0]["lang"] == "en"
    assert [svg["role"] for svg in by_tag["svg"]] == ["img", "img"]
    assert by_tag["svg"][0]["aria-label"] == describe(plot())
    assert len(by_tag["caption"]) == len(by_tag["table"])
    assert all(head.get("scope") in {"col", "row"} for head in by_tag["th"])
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in by_tag["meta"]
    ids = [attributes["id"] for _, attributes in page.seen if "id" in attributes]
    assert len(ids) == len(set(ids))


def test_html_asks_nobody_for_anything() -> None:
    text = html_page(report())
    page = Page(text)
    ids = {attributes.get("id") for _, attributes in page.seen}
    tags = {tag for tag, _ in page.seen}
    assert tags & {"script", "link", "img", "iframe", "object", "embed", "image", "base", "metadata"} == set()
    for _, attributes in page.seen:
        assert {"src", "srcset", "data", "action"} & set(attributes) == set()
        for name in ("href", "xlink:href"):
            if name in attributes:
                assert attributes[name].startswith("#")
                assert attributes[name][1:] in ids
    assert "http" not in text
    assert "@import" not in text
    for target in re.findall(r"url\((.*?)\)", text):
        assert target.startswith("#")
        assert target[1:] in ids


def test_html_is_the_same_for_the_same_report() -> None:
    assert html_page(report()) == html_page(report())


def test_plots_take_the_colours_of_the_page() -> None:
    text = html_page(report())
    assert "prefers-color-scheme: dark" in text
    for number in range(3):
        assert f"var(--split{number})" in text.split("<body>")[1]
    assert "#010203" not in text
    assert "#0a0b0" not in text


def test_a_plot_of_equal_or_silent_clips() -> None:
    for values, logarithmic in ((np.full(3, 2.0), True), (np.zeros(2), True), (np.full(3, -120.0), False)):
        shown = Report("c", Path("c"), (), (Section("Sound", plots=(Plot("Durations", "s", {"all": values}, logarithmic),)),))
        assert "100%" in html_page(shown)


def test_describe() -> None:
    assert describe(plot()) == (
        "Durations by split. train: 40 clips, median 2.0 s, from 0.5 to 8.0 s; val: 3 clips, median 2.0 s, from 1.0 to 3.0 s; "
        "test: 1 clips, median 4.0 s, from 4.0 to 4.0 s."
    )
