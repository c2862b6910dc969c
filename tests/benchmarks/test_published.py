"""published.csv: every line can be used, and agrees with what methods say of themselves."""

import numpy as np
import pytest

from benchmarks.published import TRUST, UNCLEAR, comparable, incomparable, read_published, why_not, written
from benchmarks.results import METRICS
from datamodules.corpora import list_corpora
from datamodules.protocols import PROTOCOLS
from zoo import get_method, list_methods

FIGURES = read_published().to_dict("records")


def test_the_columns() -> None:
    assert list(read_published().columns) == [
        "method",
        "paper",
        "corpus",
        "protocol",
        "protocol_text",
        "metric",
        "value",
        "derived",
        "selection",
        "source",
        "trust",
        "note",
    ]


@pytest.mark.parametrize("figure", FIGURES, ids=lambda f: f"{f['method']}-{f['corpus']}-{f['metric']}-{f['value']}")
def test_a_figure_can_be_used(figure: dict) -> None:
    assert figure["method"] in list_methods() or figure["method"].startswith("other: ")
    assert figure["corpus"] in {*list_corpora(), "mosei", "mosi"}
    assert bool(figure["protocol"]) != bool(figure["protocol_text"]), "a protocol of ours, or what was done instead"
    if figure["protocol"]:
        assert PROTOCOLS[figure["protocol"]].corpus == figure["corpus"]
        assert figure["metric"] in METRICS, "an unclear metric can't stand beside ours"
        assert figure["trust"] != "not comparable"
    assert figure["metric"] in {*METRICS, *UNCLEAR}
    assert 20 < figure["value"] <= 100, "in percent"
    assert figure["derived"] in {"", "yes"}
    assert figure["trust"] in TRUST
    assert all(figure[column] for column in ("paper", "selection", "source"))


def test_no_figure_stands_twice() -> None:
    keys = ["method", "paper", "corpus", "protocol", "protocol_text", "metric", "source"]
    assert not read_published().duplicated(keys).any()


@pytest.mark.parametrize(
    ("method", "row", "names"),
    [
        ("mer_han", "MER-HAN", {"WAR": ("iemocap", "war"), "UAR": ("iemocap", "uar"), "F1": ("iemocap", "f1")}),
        ("hbaf", "HBAF", {"MELD weighted F1": ("meld", "weighted_f1"), "IEMOCAP-6 weighted F1": ("iemocap", "weighted_f1")}),
        ("early_layerwise", "Early fusion", {"WAR": ("iemocap", "war"), "UAR": ("iemocap", "uar")}),
        ("late_dbmm", "2L-DBMM", {"emoUERJ WAR": ("emouerj", "war"), "ESD WAR": ("esd", "war")}),
    ],
)
def test_full_models_agree_with_the_papers_ablation_tables(method: str, row: str, names: dict) -> None:
    for title, value in get_method(method).ablations[row].reported.items():
        corpus, metric = names[title]
        found = [f["value"] for f in FIGURES if (f["method"], f["corpus"], f["metric"]) == (method, corpus, metric)]
        assert any(np.isclose(value, figure) for figure in found), (title, value, found)
        derived = {f["derived"] for f in FIGURES if (f["method"], f["corpus"], f["value"]) == (method, corpus, value)}
        assert derived == {"yes" if get_method(method).ablations[row].derived else ""}


def test_khans_figures_follow_from_the_confusion_matrix() -> None:
    rows = {"ang": (65.38, 156), "hap": (75.73, 239), "sad": (55.63, 142), "neu": (65.26, 213)}
    war = sum(recall * count for recall, count in rows.values()) / sum(count for _, count in rows.values())
    figures = {f["metric"]: f["value"] for f in FIGURES if f["method"] == "bert_alexnet"}
    assert figures["war"] == pytest.approx(war, abs=0.05)
    assert figures["uar"] == pytest.approx(np.mean([recall for recall, _ in rows.values()]), abs=0.05)


def test_hbafs_figures_follow_from_the_differences_that_it_states_if_audio_is_opensmiles() -> None:
    def figure(method: str, corpus: str) -> dict:
        (found,) = (f for f in FIGURES if (f["method"], f["corpus"]) == (method, corpus) and f["paper"].startswith("Luo"))
        return found

    # Text less audio, both less text, both less the other system; in points of weighted F1.
    for corpus, gains, other in (("meld", (23.6, 2.3, 2.2), "TelME on audio and text"), ("iemocap", (6.2, 5.1, 6.9), "Mamba")):
        text = figure("other: HBAF, audio alone, openSMILE", corpus)["value"] + gains[0]
        expected = {"hbaf": text + gains[1], f"other: {other}": text + gains[1] - gains[2]}
        for method, value in expected.items():
            found = figure(method, corpus)
            assert found["value"] == pytest.approx(value)
            assert found["derived"], "it is printed nowhere"
            assert "only if the audio row" in found["note"]
    assert not comparable("iemocap 1", "iemocap6-dialogue@1")["paper"].str.contains("Luo").any(), "validation isn't said"
    others = incomparable("iemocap 1", "iemocap6-dialogue@1").set_index("method")
    assert "only if the audio row" in why_not(others.loc["hbaf"])
    assert written(others.loc["hbaf"]) == "≈69.6"


def test_pooled_meld_has_no_figure_beside_it() -> None:
    assert comparable("meld 1", "meld6-pooled@1").empty, "80/20 without a validation split isn't 70/10/20"


def test_a_protocol_divides_the_figures_of_a_corpus() -> None:
    same, others = comparable("meld 1", "meld7@1"), incomparable("meld 1", "meld7@1")
    assert len(same) + len(others) == sum(f["corpus"] == "meld" for f in FIGURES)
    assert set(same["protocol"]) == {"meld7@1"}
    unclear = others[others["metric"] == "wa"].iloc[0]
    assert "what wa is isn't said" in why_not(unclear)
    assert comparable("demo 1", "split@1").empty
