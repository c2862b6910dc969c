"""From the official files to a table of scores: `doctor`, then `bench`, on a generated release of every reader.

Every command goes through the command line's code. What is asserted is what its user relies on: exit status, what is named as
missing, one finished run per method and fold, the protocol, the coverage and the caveats.
"""

import io
import json
import re
import shutil
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mosei_layout
import numpy as np
import pandas as pd
import pytest
from layouts import LAYOUTS, row, save
from typer.testing import CliRunner, Result

from benchmarks.cli import app
from datamodules.corpora import get_corpus, list_corpora, meld
from datamodules.corpora.emouerj import TRANSCRIPTS
from datamodules.protocols import PROTOCOLS, Fold, Plan, apply_protocol

NO_FILES = {"demo", "manifest"}
"""Corpora without an official layout, which have tests of their own."""

NO_TEXT = {"savee"}


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def releases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A generated release of every reader, read only."""
    return {name: layout.write(tmp_path_factory.mktemp(name)) for name, layout in LAYOUTS.items()}


def complete(name: str, counts: Mapping[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the reader take the generated tree for the whole release."""
    for attribute, value in counts.items():
        monkeypatch.setattr(get_corpus(name), attribute, value)


def test_every_reader_has_a_layout() -> None:
    assert set(LAYOUTS) == set(list_corpora()) - NO_FILES


@pytest.mark.parametrize("name", LAYOUTS)
def test_doctor_finds_a_whole_release_sound(name: str, releases: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    complete(name, LAYOUTS[name].counts, monkeypatch)
    result = run("doctor", name, "--root", releases[name])
    # MELD's official splits share speakers, which the doctor may call a leak; a part that is missing it must not see.
    assert result.exit_code == 0 or (name == "meld" and "--skip-bad" not in result.stdout), result.output


def test_doctor_examines_what_has_no_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """emoUERJ as it is released, and a Hugging Face folder of sound alone."""
    root = LAYOUTS["emouerj"].write(tmp_path)
    (root / TRANSCRIPTS).unlink()
    complete("emouerj", LAYOUTS["emouerj"].counts, monkeypatch)
    silent = save(tmp_path / "sounds", [row(number, text=None) for number in range(3)])
    # emoUERJ's own protocol needs the sentences, which only transcripts tell.
    for name, folder, protocol, status in (
        ("emouerj", root, "auto", 1),
        ("emouerj", root, "loso-speaker@1", 0),
        ("huggingface", silent, "auto", 1),  # no speakers, so it can't be split
    ):
        result = run("doctor", name, "--root", folder, "--protocol", protocol)
        assert result.exit_code == status, result.output


@pytest.mark.parametrize(("name", "lost"), [("mosei", "text"), ("mosei", "audio"), ("meld", "audio")])
def test_doctor_examines_what_lacks_a_modality(name: str, lost: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """MOSEI whose words are all pauses; MOSEI and MELD without their sound."""
    root = LAYOUTS[name].write(tmp_path / name)
    complete(name, LAYOUTS[name].counts, monkeypatch)
    if lost == "text":
        pauses = {video: (np.full_like(words, b"sp"), spans) for video, (words, spans) in mosei_layout.words().items()}
        mosei_layout.write_sequence(root / "languages" / "CMU_MOSEI_TimestampedWords.csd", "words", pauses)
    else:
        for folder in [path for path in root.rglob("*") if path.name in {"Raw", *meld.FOLDERS.values()}]:
            shutil.rmtree(folder)
    page = tmp_path / "page.html"
    result = run("doctor", name, "--root", root, "--html", page)
    assert result.exit_code == 0, result.output
    assert re.search(rf"with {lost}\W+0\b", result.stdout)
    assert re.search(rf"utterances are without {lost}", result.stdout)
    assert f"without {lost}" in page.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", [name for name, layout in LAYOUTS.items() if layout.counts])
def test_a_part_of_a_release_is_named_and_refused(name: str, releases: dict[str, Path], tmp_path: Path) -> None:
    """By the real counts the generated trees are small parts of the releases."""
    assert run("doctor", name, "--root", releases[name]).exit_code == 1
    refused = run("bench", "--corpus", name, "--root", releases[name], "--methods", "text_only", "--out", tmp_path / "runs")
    assert refused.exit_code == 2, refused.output
    assert "--skip-bad" in refused.stderr
    assert not (tmp_path / "runs").exists()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("name", "partly"), [*((name, False) for name in LAYOUTS), ("emodb", True), ("meld", True)])
def test_bench_ends_with_a_row_per_method_over_all_folds(
    name: str, partly: bool, releases: dict[str, Path], tiny_bert: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmarks.runner._log_confusion", lambda *_: None)  # half of the time, and tested elsewhere
    layout, out = LAYOUTS[name], tmp_path / "runs"
    if not partly:
        complete(name, layout.counts, monkeypatch)
    methods = {"early_concat", "audio_only" if name in NO_TEXT else "text_only"}
    features = ["--audio", "mfcc(n=13, hop_ms=20.0)", "--text", f"hidden_states(checkpoint={tiny_bert!r})"]
    command = ["bench", "--corpus", name, "--root", releases[name], "--methods", ",".join(sorted(methods)), *features]
    quick = ["--seeds", "1", "--set", "training.max_epochs=1", "--out", out, *(["--skip-bad"] if partly else [])]
    result = run(*command, *quick)
    assert result.exit_code == 0, result.output
    protocol, folds = layout.protocol
    table = pd.read_csv(io.StringIO(run("leaderboard", out, "--format", "csv").stdout))
    assert set(table["method"]) == methods
    assert table["runs"].tolist() == [folds] * 2
    done = [json.loads(file.read_text()) for file in out.glob("*/result.json")]
    assert len(done) == 2 * folds
    assert {(run["spec"]["method"], run["spec"]["fold"]) for run in done} == {(m, f) for m in methods for f in range(folds)}
    assert {run["spec"]["protocol"] for run in done} == {protocol}
    named = done[0]["utterances"]["named"]
    assert f"protocol {protocol}, controlled track" in result.stdout
    assert f"coverage: {named} of {named} utterances (100.0 %)" in result.stdout
    assert f"{folds} fold(s) x 1 seed(s)" in result.stdout
    for caveat in layout.caveats:
        assert caveat in result.stdout, caveat
    assert ("the corpus isn't as its release" in result.stdout) == partly


def _columns(table: pd.DataFrame, fold: Fold, column: str) -> list[set[object]]:
    """The values of a column in train, val and test."""
    values = table.set_index("utterance_id")[column]
    return [set(values[list(getattr(fold, part))].dropna()) for part in ("train", "val", "test")]


def _loso(table: pd.DataFrame, plan: Plan) -> None:
    sessions = [f"Session{number}" for number in range(1, 6)]
    for number, fold in enumerate(plan.folds):
        train, val, test = _columns(table, fold, "session")
        assert (test, val) == ({sessions[number]}, {sessions[(number + 1) % 5]})
        assert train == set(sessions) - test - val
    assert len(plan.folds) == 5


def _improvised(table: pd.DataFrame, plan: Plan) -> None:
    _loso(table, plan)
    for fold in plan.folds:
        assert _columns(table, fold, "improvised") == [{True}] * 3
        assert all("impro" in str(name) for part in _columns(table, fold, "dialogue") for name in part)


def _scripts_disjoint(table: pd.DataFrame, plan: Plan) -> None:
    _loso(table, plan)
    scripted = table["text"].where(table["script"].notna())
    for fold in plan.folds:
        train, val, test = _columns(table.assign(scripted=scripted), fold, "scripted")
        assert train
        assert test
        assert not val
        assert not train & test


def _session5(table: pd.DataFrame, plan: Plan) -> None:
    (fold,) = plan.folds
    assert _columns(table, fold, "session") == [{"Session1", "Session2", "Session3"}, {"Session4"}, {"Session5"}]


def _random90(table: pd.DataFrame, plan: Plan) -> None:
    (fold,) = plan.folds
    total = len(fold.train) + len(fold.val) + len(fold.test)
    assert (len(fold.test), len(fold.val)) == (round(0.1 * total), round(0.1 * total))
    train, _, test = _columns(table, fold, "speaker")
    assert train & test
    assert any("speakers overlap" in caveat for caveat in plan.caveats)


def _dialogues(table: pd.DataFrame, plan: Plan) -> None:
    (fold,) = plan.folds
    train, val, test = _columns(table, fold, "dialogue")
    assert len(val) == 12
    assert not train & val | train & test | val & test
    assert _columns(table, fold, "session")[2] == {"Session5"}
    assert sorted(Counter(name[:5] for name in val).items()) == [(f"Ses0{number}", 3) for number in range(1, 5)]
    assert set(plan.classes) == {"hap", "sad", "neu", "ang", "exc", "fru"}


def _official(table: pd.DataFrame, plan: Plan) -> None:
    (fold,) = plan.folds
    assert _columns(table, fold, "split") == [{"train"}, {"val"}, {"test"}]
    assert len(fold.train + fold.val + fold.test) == len(table)
    assert any("3 speakers are in more than one split" in caveat for caveat in plan.caveats)


def _sentiment(table: pd.DataFrame, plan: Plan) -> None:
    _official(table, plan)
    assert plan.relabel(table)["label"].tolist() == table["sentiment"].tolist()


def _pooled(table: pd.DataFrame, plan: Plan) -> None:
    (fold,) = plan.folds
    assert "fear" in set(table["label"]) - set(plan.classes)
    assert _columns(table, fold, "split")[0] == {"train", "val", "test"}
    tested = table[table["utterance_id"].isin(fold.test)]["label"].value_counts().to_dict()
    counts = table["label"].value_counts()
    assert tested == {label: round(0.2 * counts[label]) for label in plan.classes}
    assert any("not comparable" in caveat for caveat in plan.caveats)


def _disjoint(table: pd.DataFrame, plan: Plan) -> None:
    for fold in plan.folds:
        for column in ("speaker", "sentence"):
            train, val, test = _columns(table, fold, column)
            assert not train & val | train & test | val & test


def _emotions(table: pd.DataFrame, plan: Plan) -> None:
    (fold,) = plan.folds
    assert _columns(table, fold, "split") == [{"train"}, {"val"}, {"test"}]
    train, val, test = _columns(table, fold, "dialogue")
    assert not train & val | train & test | val & test
    assert plan.task == "multilabel"
    shown = plan.relabel(table)["label"].str.split("+")
    for name in plan.classes:
        assert shown.map(lambda labels, name=name: name in labels).tolist() == (table[name] > 0).tolist()
    assert len(plan.classes) == 6


PROPERTIES = {
    "iemocap4-loso@1": _loso,
    "iemocap4-session5@1": _session5,
    "iemocap4-random90@1": _random90,
    "iemocap4-improvised@1": _improvised,
    "iemocap4-scriptdisjoint@1": _scripts_disjoint,
    "iemocap6-dialogue@1": _dialogues,
    "meld7@1": _official,
    "meld3-sentiment@1": _sentiment,
    "meld6-pooled@1": _pooled,
    "mosei6@1": _emotions,
    "esd@1": _disjoint,
    "emouerj@1": _disjoint,
}


@pytest.mark.parametrize("protocol", PROPERTIES)
def test_protocols_do_what_they_are_for_on_official_files(
    protocol: str, releases: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Checked from the reader's table, without the guard's help; `tests/datamodules/test_protocols.py` has the harder tables."""
    name = PROTOCOLS[protocol].corpus
    complete(name, LAYOUTS[name].counts, monkeypatch)
    table = get_corpus(name)(releases[name]).table()
    PROPERTIES[protocol](table, apply_protocol(table, protocol, corpus=name))


def test_every_protocol_of_a_corpus_with_a_layout_is_checked() -> None:
    assert set(PROPERTIES) == {name for name, protocol in PROTOCOLS.items() if protocol.corpus in LAYOUTS}
