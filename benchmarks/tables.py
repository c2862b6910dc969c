"""Tables for people: columns of text as Markdown, or as LaTeX that compiles as it is."""

import unicodedata
from collections.abc import Collection, Mapping, Sequence

LEFT = frozenset({"method", "variant", "by", "source", "trust", "note", "why not comparable", "metric"})
"""Titles of columns of words; the others hold numbers and stand to the right."""
LONG = frozenset({"source", "note", "why not comparable"})
"""Those whose cells are sentences, which LaTeX breaks into lines."""

Columns = Mapping[str, Sequence[str]]
"""Title -> one cell per row; all of one length."""


def pipe_table(columns: Columns) -> str:
    """Columns as an aligned Markdown table; words to the left, numbers to the right."""
    escaped = {title: [cell.replace("|", "\\|") for cell in cells] for title, cells in columns.items()}
    widths = {title: max(len(title), 3, *map(len, cells)) for title, cells in escaped.items()}

    def line(cells: Sequence[str]) -> str:
        padded = [c.ljust(w) if t in LEFT else c.rjust(w) for c, (t, w) in zip(cells, widths.items(), strict=True)]
        return f"| {' | '.join(padded)} |"

    rule = [":" + "-" * (w - 1) if t in LEFT else "-" * (w - 1) + ":" for t, w in widths.items()]
    return "\n".join([line(list(escaped)), line(rule), *(line(row) for row in zip(*escaped.values(), strict=True))])


_SPECIAL = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "†": r"\textsuperscript{\dag}",
    "±": r"$\pm$",
    "×": r"$\times$",
    "≈": r"$\approx$",
    "Δ": r"$\Delta$",
    "–": "--",
    "−": "$-$",
    "…": r"\dots{}",
    "·": r"$\cdot$",
    "µ": r"$\mu$",
    "‘": "`",
    "’": "'",
    "“": "``",
    "”": "''",
    "`": r"\textasciigrave{}",
    "[": "{[}",  # what follows \item or \\ would be its option
} | {character: f"\\{character}" for character in "&%$#_{}"}


def escape(text: str) -> str:
    """Text as LaTeX shows it. What pdfLaTeX's Latin fonts lack becomes its nearest letters, else its code point, ``[U+4E2D]``.

    A pair such as ``--`` is kept from becoming one character; a single hyphen stays as it is.
    """

    def one(character: str) -> str:
        if character in _SPECIAL:
            return _SPECIAL[character]
        if ord(character) < 0x80 or 0xC0 <= ord(character) <= 0xFF:
            return character if character.isprintable() else " "
        nearest = unicodedata.normalize("NFKD", character).encode("ascii", "ignore").decode()
        return "".join(map(one, nearest)) if nearest else f"{{[}}U+{ord(character):04X}]"

    pairs = zip(text, f"{text[1:]} ", strict=True)
    return "".join(one(character) + "{}" * (character == following and character in "-',") for character, following in pairs)


def booktabs(columns: Columns, caption: str, notes: Sequence[str] = (), bold: Mapping[str, Collection[int]] | None = None) -> str:
    """Columns as a LaTeX table environment with rules of booktabs and footnotes of threeparttable, on one page.

    Args:
        columns: Plain text; it is escaped here.
        caption: Plain text.
        notes: Lines below the table, plain text.
        bold: Title -> numbers of the rows whose cell is bold.
    """
    bold = bold or {}
    kinds = "".join("p{0.3\\textwidth}" if t in LONG else "l" if t in LEFT else "r" for t in columns)
    cells = [
        [f"\\textbf{{{escape(cell)}}}" if number in bold.get(title, ()) else escape(cell) for number, cell in enumerate(rows)]
        for title, rows in columns.items()
    ]
    lines = [
        r"\begin{table}[htbp]",
        r"\centering\footnotesize\setlength{\tabcolsep}{4pt}",
        rf"\caption{{{escape(caption)}}}",
        r"\begin{adjustbox}{max width=\textwidth, max totalheight=0.88\textheight}",  # the rest is the caption's
        r"\begin{threeparttable}",
        rf"\begin{{tabular}}{{@{{}}{kinds}@{{}}}}",
        r"\toprule",
        " & ".join(escape(title) for title in columns) + r" \\",
        r"\midrule",
        *(" & ".join(row) + r" \\" for row in zip(*cells, strict=True)),
        r"\bottomrule",
        r"\end{tabular}",
        *([r"\begin{tablenotes}\scriptsize", *(rf"\item {escape(note)}" for note in notes), r"\end{tablenotes}"] if notes else []),
        r"\end{threeparttable}",
        r"\end{adjustbox}",
        r"\end{table}",
    ]
    return "\n".join(lines)


def document(tables: Sequence[str]) -> str:
    """A LaTeX document of tables that compiles as it is; each stands between two comments, to be copied into a paper."""
    packages = [r"\usepackage{booktabs}", r"\usepackage{threeparttable}", r"\usepackage{adjustbox}"]
    marked = []
    for number, table in enumerate(tables, start=1):
        marked.append(f"% ---- table {number}: copy from here\n{table}\n% ---- to here")
        if number % 10 == 0:
            marked.append(r"\clearpage")  # LaTeX holds no more than 18 tables back
    return "\n".join(
        [
            r"\documentclass[a4paper]{article}",
            r"\usepackage[T1]{fontenc}",
            r"\usepackage[utf8]{inputenc}",
            r"\IfFileExists{lmodern.sty}{\usepackage{lmodern}}{}",
            r"\usepackage[margin=2cm]{geometry}",
            "% A paper that takes a table needs these three.",
            *packages,
            r"\begin{document}",
            *marked,
            r"\end{document}",
            "",
        ]
    )
