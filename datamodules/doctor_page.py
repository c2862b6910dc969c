"""The doctor's report as a page: for the terminal by rich, and as one HTML file that needs nothing else."""

import numpy as np
from markupsafe import Markup
from rich import box
from rich.console import Console
from rich.padding import Padding
from rich.table import Table as RichTable
from rich.text import Text

from datamodules.doctor import SPLITS, Plot, Report, Table
from datamodules.page import inline_svg, render

SHOWN = 20
"""Rows and problems of one table that the terminal shows."""

FOLDED = 15
"""Rows beyond which the HTML page folds a table."""

_BINS = 30
_QUIETEST = -90.0
"""Loudness in dBFS at which the plot ends; below it is as good as digital silence."""

_INK = "#010203"
_COLOURS = {name: f"#0a0b0{number}" for number, name in enumerate((*SPLITS, "other"))}
"""Stand for the page's own colours, which differ in dark mode, and are replaced by them."""


def print_page(report: Report, console: Console) -> None:
    """Print a report; of long tables and lists the beginning, and what differs."""

    def say(words: str, style: str = "", indent: int = 0) -> None:
        console.print(Padding(Text(words, style), (0, 0, 0, indent), expand=False) if indent else Text(words, style))

    say(report.corpus, "bold")
    if report.healthy:
        say("Healthy: nothing needs mending.", "green")
    for reason in report.to_mend:
        say(f"To mend: {reason}", "red")
    for section in report.sections:
        console.print()
        say(section.title, "bold underline")
        for line in section.text:
            say(line)
        for item in section.items:
            say(f"- {item}")
        for table in section.tables:
            _print_table(table, console)
        for problem in section.problems[:SHOWN]:
            where = f"{problem.file}:{problem.row}" if problem.row is not None else str(problem.file)
            console.print(Text(where), soft_wrap=True)  # unbroken, so that it can be copied and searched
            say(f"{problem.what}; {problem.remedy}", indent=2)
        _print_rest(len(section.problems) - SHOWN, "problems", console)


def _print_table(table: Table, console: Console) -> None:
    shown = RichTable(title=Text(table.caption), title_justify="left", title_style="italic", box=box.SIMPLE_HEAD, pad_edge=False)
    for head, numeric in zip(table.columns, table.numeric, strict=True):
        shown.add_column(Text(head), justify="right" if numeric else "left", overflow="fold")
    for number, row in enumerate(table.rows):
        # Totals and what calls for a look stay in sight.
        if number < SHOWN or row[0] == "all" or number in table.marked:
            cells = (f"{cell:,}" if isinstance(cell, int) else cell for cell in row)
            shown.add_row(*map(Text, cells), style="yellow" if number in table.marked else None)
    console.print(shown)
    _print_rest(len(table.rows) - shown.row_count, "rows", console)


def _print_rest(count: int, what: str, console: Console) -> None:
    if count > 0:
        console.print(Text(f"… and {count:,} more {what}; --html FILE shows all of them", "italic"))


def html_page(report: Report) -> str:
    """A report as one HTML file: no scripts, no requests, light and dark, the same for the same report."""
    figures = {plot.caption: _svg(plot) for section in report.sections for plot in section.plots}
    return render("datamodules", "doctor.html", report=report, figures=figures, folded=FOLDED)


def describe(plot: Plot) -> str:
    """The plot in words, for those who don't see it."""
    parts = (
        f"{name}: {len(values):,} clips, median {np.median(values):.1f} {plot.unit}, "
        f"from {np.min(values):.1f} to {np.max(values):.1f} {plot.unit}"
        for name, values in plot.values.items()
    )
    return f"{plot.caption}. {'; '.join(parts)}."


def _svg(plot: Plot) -> Markup:
    """A histogram, one line per split, each as part of its split's clips, in colours and fonts of the page."""
    import matplotlib as mpl
    from matplotlib.figure import Figure
    from matplotlib.ticker import PercentFormatter

    edges = _edges(plot)
    with mpl.rc_context({"font.size": 10}):
        figure = Figure(figsize=(5, 2.6), layout="constrained")
        axes = figure.subplots()
        for (name, values), style in zip(plot.values.items(), ("-", "--", ":", "-."), strict=False):
            counts, _ = np.histogram(np.clip(values, edges[0], edges[-1]), edges)
            colour = _COLOURS.get(name, _COLOURS["other"])
            axes.stairs(counts / max(len(values), 1), edges, label=f"{name} ({len(values):,})", color=colour, ls=style, lw=1.6)
        if plot.logarithmic:
            axes.set_xscale("log")
            ticks = [tick for tick in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500) if edges[0] <= tick <= edges[-1]]
            axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
            axes.set_xticks([], minor=True)
        axes.set_xlabel(f"{plot.caption.partition(' ')[0].lower()} ({plot.unit})", color=_INK)
        axes.set_ylabel("clips", color=_INK)
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        axes.set_ylim(bottom=0)
        axes.tick_params(colors=_INK)
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["bottom", "left"]].set_color(_INK)
        axes.legend(frameon=False, labelcolor=_INK)
    # The first word of the caption, because ids must differ within the page.
    colours = {colour: f"var(--split{number})" for number, colour in enumerate(_COLOURS.values())} | {_INK: "currentColor"}
    return inline_svg(figure, plot.caption.partition(" ")[0].lower(), describe(plot), colours)


def _edges(plot: Plot) -> np.ndarray:
    """Edges of the bins over all splits."""
    values = np.concatenate(list(plot.values.values()))
    if plot.logarithmic:
        low, high = max(float(values.min()), 0.05) * 0.95, float(values.max()) * 1.05
        return np.geomspace(low, max(high, 2 * low), _BINS + 1)
    low, high = max(float(values.min()), _QUIETEST) - 1, max(float(values.max()), _QUIETEST) + 1
    return np.linspace(low, high, _BINS + 1)
