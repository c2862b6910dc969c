"""Tables as text: what LaTeX would trip over is escaped, and the parts of a table are where they belong."""

import pytest

from benchmarks.tables import booktabs, document, escape, pipe_table


@pytest.mark.parametrize(
    ("plain", "latex"),
    [
        ("a_b", r"a\_b"),
        ("50 % & more", r"50 \% \& more"),
        ("#1 $2 {3}", r"\#1 \$2 \{3\}"),
        ("~^\\", r"\textasciitilde{}\textasciicircum{}\textbackslash{}"),
        ("1.0 ± 0.1 – Δ†", r"1.0 $\pm$ 0.1 -- $\Delta$\textsuperscript{\dag}"),
        ("Évelyne", "Évelyne"),
        ("Łódź, č", "{[}U+0141]ódz, c"),
        ("中", "{[}U+4E2D]"),
        ("--stats, ---, mer-han", r"-{}-stats, -{}-{}-, mer-han"),
        ("[1] 5 µs · a ‘b’ “c” `d`", r"{[}1] 5 $\mu$s $\cdot$ a `b' ``c'' \textasciigrave{}d\textasciigrave{}"),
        ("a\nb", "a b"),
    ],
)
def test_escaping(plain: str, latex: str) -> None:
    assert escape(plain) == latex


def test_a_table_environment_from_rule_to_rule() -> None:
    table = booktabs({"method": ["a_b", "c"], "UAR": ["1 ± 0", "2 ± 0"]}, "100 %", ["a note"], {"UAR": [1]}).splitlines()
    assert table[0].startswith(r"\begin{table}")
    body = table[table.index(r"\toprule") : table.index(r"\bottomrule") + 1]
    assert body == [
        r"\toprule",
        r"method & UAR \\",
        r"\midrule",
        r"a\_b & 1 $\pm$ 0 \\",
        r"c & \textbf{2 $\pm$ 0} \\",
        r"\bottomrule",
    ]
    assert r"\begin{tabular}{@{}lr@{}}" in table
    assert r"\caption{100 \%}" in table
    assert table.index(r"\item a note") > table.index(r"\end{tabular}")
    assert table[-1] == r"\end{table}"


def test_a_document_marks_every_table() -> None:
    text = document(["one", "two"])
    assert "% ---- table 2: copy from here\ntwo\n% ---- to here" in text
    assert text.rstrip().endswith(r"\end{document}")


def test_words_stand_left_and_numbers_right() -> None:
    assert pipe_table({"method": ["a", "bcde"], "n": ["1", "22"]}).splitlines() == [
        "| method |   n |",
        "| :----- | --: |",
        "| a      |   1 |",
        "| bcde   |  22 |",
    ]
