"""The report: its numbers against the leaderboard and plain counts, and the page in a headless browser."""

import base64
import csv
import json
import re
import shutil
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import soundfile
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from typer.testing import CliRunner

from benchmarks import Suite, read_leaderboard, report
from benchmarks.cli import app
from benchmarks.leaderboard import p_value
from benchmarks.report import html_report, read_curves, read_report
from benchmarks.results import CLASS_METRICS, MULTILABEL_METRICS, ResultError
from benchmarks.runner import scores, slice_scores
from datamodules.page import STYLE

CLASSES = ["angry", "calm", "<b>glad"]
HOSTILE = "</script><script>document.title = 'taken over'</script><!-- & \"quoted\""
IDS = [f"u{number:02d}" for number in range(30)]
METHODS = {"early_concat": (0.9, 1.2e6), "text_only": (0.5, 9e3), "audio_only": (0.6, 12.3e3)}
"""Share of right answers and parameters; as text, the parameters sort otherwise."""


def predictions(seed: int, share: float) -> pd.DataFrame:
    random = np.random.default_rng(seed)
    label = np.arange(len(IDS)) % 3
    chosen = np.where(random.random(len(IDS)) < share, label, (label + 1) % 3)
    p = random.dirichlet(np.ones(3), len(IDS)) / 4
    p[np.arange(len(IDS)), chosen] += 0.75
    facts = {"utterance_id": IDS, "label": [CLASSES[n] for n in label], "speaker": [f"s{n % 3}" for n in range(len(IDS))]}
    facts |= {"dialogue": [f"d{n // 3}" for n in range(len(IDS))], "noise": ["low", "high"] * 15}
    facts |= {"recording": ["u00", "u00", *IDS[2:]]}  # u01 has the clip of u00
    return pd.DataFrame(facts | {f"p_{name}": p[:, n].astype(np.float32) for n, name in enumerate(CLASSES)})


def write_run(out: Path, method: str, seed: int, manifest: Path, **changes: Any) -> Path:
    """One finished run on disk, as the runner leaves it."""
    share, parameters = METHODS[method]
    spec = {
        **{"method": method, "variant": "default", "options": {}, "corpus": "toy 1", "data": "abc", "protocol": "split@1"},
        **{"classes": CLASSES, "fold": 0, "track": "controlled", "audio": {"name": "mfcc"}, "text": {"name": "hidden_states"}},
        **{"training": {"max_epochs": 4, "patience": 2, "batch_size": 8, "lr": 0.001, "class_weights": "balanced"}},
        **{"precision": "32-true", "seed": seed, "max_seconds": 30.0, "code": "1"},
    } | changes.get("spec", {})
    found = predictions(10 * sum(map(ord, method)) + seed, share)
    result = {
        **{"spec": spec, "task": "multiclass", "scores": scores(found, CLASSES), "slices": slice_scores(found, ["noise"])},
        "costs": {"parameters": parameters, "train_seconds": 2.0 + seed, "latency_p50_ms": 3.0},
        "validation": {"uar": share},
        "epochs": 3,
        "utterances": {"train": 5, "val": 2, "test": len(IDS), "usable": 9, "named": 10},
        **{"headline": "uar", "features": {"audio": "mfcc", "text": "hidden_states"}, "caveats": [f"a caveat: {HOSTILE}"]},
        "environment": {"device": "a CPU", "revision": "abc123-dirty", "packages": {"torch": "2.11.0"}},
        "finished": "2026-01-01T00:00:00+00:00",
        "suite": json.loads(Suite(corpus=str(manifest), methods=[method]).model_dump_json()),
    } | {key: value for key, value in changes.items() if key != "spec"}
    folder = out / f"{method}-{spec['corpus'].split()[0]}-{seed}"
    folder.mkdir(parents=True)
    (folder / "result.json").write_text(json.dumps(result))
    found.to_parquet(folder / "predictions.parquet", index=False)
    return folder


def log_curves(folder: Path, kind: str) -> None:
    """Three epochs, and the validation of the best one after them, as the runner logs them."""
    logger = (TensorBoardLogger if kind == "tensorboard" else CSVLogger)(folder, name=kind, version="")
    for epoch in range(3):
        logger.log_metrics({"val/uar": 0.25 * (epoch + 1), "val/loss": 2.0 - epoch / 2, "epoch": epoch}, step=epoch)
        logger.log_metrics({"train/loss": 1.0 / (epoch + 1), "epoch": epoch}, step=epoch)
    logger.log_metrics({"val/uar": 0.75, "epoch": 3}, step=3)
    logger.finalize("success")


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three methods with two seeds, curves of four runs, and robustness."""
    root = tmp_path_factory.mktemp("report")
    manifest = root / "corpus" / "manifest.csv"
    manifest.parent.mkdir()
    with manifest.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["utterance_id", "audio", "text", "label", "split"])
        for number, name in enumerate(IDS):
            writer.writerow([name, f"{name}.wav", f"{HOSTILE} {name}", CLASSES[number % 3], "test"])
            tone = 0.1 * np.sin(np.arange(4000) * (0.05 + number / 100))
            soundfile.write(manifest.parent / f"{name}.wav", tone.astype(np.float32), 8000)
    out = root / "runs"
    for method in METHODS:
        for seed in range(2):
            folder = write_run(out, method, seed, manifest)
            if method != "audio_only":
                log_curves(folder, "tensorboard" if seed else "csv")
            if method != "text_only":
                (folder / "robustness@1").mkdir()
                for number, name in enumerate(("clean", "word_errors=0.1", "word_errors=0.2", "word_errors=0.4")):
                    stored = predictions(seed + number, METHODS[method][0] - number / 10)
                    stored.to_parquet(folder / "robustness@1" / f"{name}.parquet", index=False)
    return out


@pytest.fixture
def small(out: Path, tmp_path: Path) -> Path:
    """A copy of one row's runs, which is faster to report on."""
    for seed in range(2):
        shutil.copytree(out / f"text_only-toy-{seed}", tmp_path / "runs" / f"text_only-toy-{seed}")
    return tmp_path / "runs"


@pytest.fixture(scope="module")
def found(out: Path) -> report.Json:
    return read_report(out, texts=True, clips=4)


@pytest.fixture(scope="module")
def page(found: report.Json) -> str:
    return html_report(found)


class Tables(HTMLParser):
    """Texts of the cells of all tables, by caption; and all that an address could stand in."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tables: dict[str, list[list[str]]] = {}
        self.rows: list[list[str]] = []
        self.caption, self.into, self.links, self.ids, self.tags = "", "", [], [], []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value for name, value in attrs if name in {"src", "href", "xlink:href", "action", "data"}]
        self.ids += [value for name, value in attrs if name == "id"]
        if tag == "table":
            self.rows, self.caption = [], ""
        elif tag == "tr":
            self.rows.append([])
        elif tag in {"th", "td"}:
            self.rows[-1].append("")
        self.into = tag if tag in {"caption", "th", "td", "small"} else self.into

    def handle_endtag(self, tag: str) -> None:
        if tag == "table":
            self.tables[self.caption] = self.rows
        if tag in {"caption", "th", "td"}:
            self.into = ""

    def handle_data(self, data: str) -> None:
        if self.into == "caption":
            self.caption += data
        elif self.into in {"th", "td"}:
            self.rows[-1][-1] += data


def test_the_tables_are_those_of_the_leaderboard(out: Path, page: str) -> None:
    board, tables = read_leaderboard(out), Tables(page).tables
    parts = list(board.parts(board.table))
    assert [part.title for part in parts] == ["Scores (%)", "Costs", "Accuracy (WAR, %) by noise", "Recall by class (%)"]
    for part in parts:
        head, *rows = tables[part.title]
        families = ["early", "single", "single"] if part.title == "Scores (%)" else []
        assert head == [*part.columns, *(["family"] if families else [])]
        expected = [list(row) for row in zip(*part.columns.values(), *([families] if families else []), strict=True)]
        assert rows == expected
    assert [row[0] for row in tables["Scores (%)"][1:]] == ["early_concat", "audio_only", "text_only"]
    best = re.findall(r'class="number best">([^<]*)', page)
    assert board.table.loc[0, "uar_mean"] == board.table["uar_mean"].max()
    assert parts[0].columns["UAR"][0] in best


def test_differences_are_those_of_the_statistics(out: Path, page: str) -> None:
    pairs = read_leaderboard(out).comparisons[0].pairs
    rows = Tables(page).tables["Differences between rows"][1:]
    assert [row[2] for row in rows] == [f"{100 * difference:+.1f}" for difference in pairs["difference"]]
    assert [row[4] for row in rows] == [p_value(p) for p in pairs["p_holm"]]
    assert {frozenset(row[:2]) for row in rows} == {frozenset(pair) for pair in [(a, b) for a in METHODS for b in METHODS if a < b]}


def test_confusion_is_the_mean_over_runs(out: Path, page: str) -> None:
    counts = dict.fromkeys([(a, b) for a in CLASSES for b in CLASSES], 0)
    for seed in range(2):
        stored = pd.read_parquet(out / f"text_only-toy-{seed}" / "predictions.parquet")
        for _, row in stored.iterrows():
            counts[row["label"], max(CLASSES, key=lambda name: row[f"p_{name}"])] += 1
    (head, *rows) = Tables(page).tables["text_only"]
    assert head == ["", *CLASSES, "n"]
    for label, row in zip(CLASSES, rows, strict=True):
        total = sum(counts[label, other] for other in CLASSES)
        assert row == [label, *(f"{100 * counts[label, other] / total:.0f}" for other in CLASSES), f"{total / 2:.0f}"]


def test_curves_are_what_was_logged_without_the_last_validation(out: Path, found: report.Json) -> None:
    for seed in range(2):
        curves = read_curves(out / f"text_only-toy-{seed}", 3)
        assert curves is not None
        assert curves["val/uar"] == [0.25, 0.5, 0.75]
        assert curves["train/loss"] == pytest.approx([1, 1 / 2, 1 / 3])
    assert read_curves(out / "audio_only-toy-0", 3) is None
    curves = found["conditions"][0]["curves"]
    assert curves["missing"]
    assert [plot["row"] for plot in curves["rows"]] == [0, 2]
    # From 20 to 80 %, over three epochs, two runs alike.
    points = re.findall(r'points="([^"]*)"', curves["rows"][0]["score"])
    assert len(points) == 2
    assert points[0].split() == ["34.0,105.8", "144.0,65.0", "254.0,24.2"]


def test_probabilities_of_the_utterances_are_means_over_runs(out: Path, found: report.Json) -> None:
    examples = found["conditions"][0]["examples"]
    stored = [pd.read_parquet(out / f"early_concat-toy-{seed}" / "predictions.parquet") for seed in range(2)]
    shown = np.frombuffer(base64.b64decode(examples["probabilities"]), np.uint8).reshape(3, len(IDS), 3) / 200
    answers = np.frombuffer(base64.b64decode(examples["answers"]), np.uint8).reshape(3, len(IDS))
    for item in range(len(IDS)):
        mean = [sum(float(frame.loc[item, f"p_{name}"]) for frame in stored) / 2 for name in CLASSES]
        assert shown[0, item] == pytest.approx(mean, abs=0.0026)
        assert answers[0, item] == mean.index(max(mean))
    label = examples["facts"]["label"]
    assert examples["facts"]["recording"] == {"names": ["u00"], "codes": [0, 0] + [-1] * 28}, (
        "what is an utterance's own says nothing"
    )
    assert [label["names"][code] for code in label["codes"]] == stored[0]["label"].tolist()
    assert examples["texts"][7] == f"{HOSTILE} u07"
    right = [sum(answers[row, item] == item % 3 for row in range(3)) for item in range(len(IDS))]
    assert sorted(right)[:4] == sorted(right[item] for item in examples["clips"])  # the hardest
    samples, rate = soundfile.read(BytesIO(base64.b64decode(next(iter(examples["clips"].values())))))
    assert rate == 16_000
    assert len(samples) / rate == pytest.approx(0.5, abs=0.1)


def test_an_utterance_that_a_row_lacks_has_no_answer(tmp_path: Path, out: Path) -> None:
    shutil.copytree(out, tmp_path / "runs")
    for seed in range(2):
        file = tmp_path / "runs" / f"early_concat-toy-{seed}" / "predictions.parquet"
        pd.read_parquet(file).iloc[1:].to_parquet(file, index=False)
    found = read_report(tmp_path / "runs")
    assert found["refused"] == ["the runs were tested on different utterances; remove the older ones and run the suite again"]
    examples = found["conditions"][0]["examples"]
    answers = np.frombuffer(base64.b64decode(examples["answers"]), np.uint8).reshape(3, len(IDS))
    assert (answers[0] == 255).sum() == 1
    assert examples["ids"][int(answers[0].argmax())] == "u00"


def test_transcripts_and_clips_only_on_request(small: Path) -> None:
    plain = read_report(small)
    assert not {"texts", "clips", "licence"} & set(plain["conditions"][0]["examples"])
    assert "taken over" in html_report(plain)  # of the caveat
    assert " u07" not in html_report(plain)  # of the transcript


def test_of_very_many_utterances_the_first_and_the_hardest_are_in_the_page(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = read_report(small, clips=8, statistics=False)["conditions"][0]["examples"]
    hardest = [whole["ids"][item] for item in whole["clips"]]
    monkeypatch.setattr(report, "MOST_UTTERANCES", 10)
    cut = read_report(small, clips=8, statistics=False)["conditions"][0]["examples"]
    assert max(hardest) > "u10"
    assert [cut["ids"][item] for item in cut["clips"]] == hardest
    assert cut["ids"] == sorted({*hardest, *[name for name in IDS if name not in hardest][:2]})
    assert cut["left_out"] == 20
    places = [whole["ids"].index(name) for name in cut["ids"]]
    for part, size in (("answers", 1), ("probabilities", 3)):
        every, few = (np.frombuffer(base64.b64decode(found[part]), np.uint8).reshape(1, -1, size) for found in (whole, cut))
        assert (few == every[:, places]).all()
    monkeypatch.setattr(report, "MOST_UTTERANCES", 5)
    assert set(read_report(small, clips=8, statistics=False)["conditions"][0]["examples"]["ids"]) == set(hardest[:5])


def test_clips_stop_where_the_room_ends(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = read_report(small, clips=4)["conditions"][0]["examples"]["clips"]
    monkeypatch.setattr(report, "MOST_CLIP_BYTES", sum(map(len, whole.values())) - 1)
    fewer = read_report(small, clips=4)["conditions"][0]["examples"]
    assert len(fewer["clips"]) == 3
    assert fewer["clip_bytes"] == sum(map(len, fewer["clips"].values()))


def test_another_corpus_is_refused(tmp_path: Path, out: Path, small: Path) -> None:
    manifest = tmp_path / "manifest.csv"
    lines = (out.parent / "corpus" / "manifest.csv").read_text(encoding="utf-8").splitlines()
    manifest.write_text("\n".join(line for line in lines if not line.startswith("u03")), encoding="utf-8")
    for audio in (out.parent / "corpus").glob("*.wav"):
        shutil.copy(audio, tmp_path)
    for file in small.glob("*/result.json"):
        result = json.loads(file.read_text())
        result["suite"]["corpus"] = str(manifest)
        file.write_text(json.dumps(result))
    with pytest.raises(ResultError, match=r"manifest.csv has no utterance u03"):
        read_report(small, texts=True)


def test_provenance_of_every_row(out: Path, found: report.Json, page: str) -> None:
    parsed = Tables(page)
    for number, row in enumerate(found["conditions"][0]["rows"]):
        assert f"#from-0-{number}" in parsed.links
        assert f"from-0-{number}" in parsed.ids
        assert [run["seed"] for run in row["runs"]] == [0, 1]
        for run in row["runs"]:
            stored = json.loads((out / run["run"] / "result.json").read_text())
            assert run["score"] == f"{100 * stored['scores']['uar']:.1f}"
            assert run["command"] == f"fusion-zoo reproduce {out / run['run']} --out reproduced"
            assert run["command"] in page
    (_, spec), (_, environment) = found["conditions"][0]["rows"][0]["facts"]
    assert dict(spec)["data"] == "abc"
    assert dict(environment)["packages"] == "torch: 2.11.0"
    assert "abc123-dirty: with uncommitted changes" in page


def test_what_differs_between_the_runs_of_a_row_is_told(tmp_path: Path) -> None:
    write_run(tmp_path, "text_only", 0, tmp_path)
    write_run(tmp_path, "text_only", 1, tmp_path, environment={"device": "another CPU", "revision": None})
    (_, (_, environment)) = read_report(tmp_path)["conditions"][0]["rows"][0]["facts"]
    assert dict(environment)["device"] == "a CPU | another CPU"


def test_robustness_and_interactions(found: report.Json, page: str) -> None:
    tables = Tables(page).tables
    assert [row[0] for row in tables["Word errors"][1:]] == ["early_concat", "audio_only"]
    assert tables["Word errors"][0] == ["method", "runs", "clean", "10 %", "20 %", "40 %", "area", "retained"]
    (part,) = found["conditions"][0]["robustness"]["parts"]
    assert part["figure"].startswith("<svg")
    assert [row[0] for row in tables["UAR (%) and Shapley values (points)"][1:]] == ["early_concat"]


def test_every_cell_of_a_row_leads_to_where_it_comes_from(out: Path, tmp_path: Path, page: str) -> None:
    def linked(name: str, number: int) -> str:
        return f'<a href="#from-0-{number}" title="Where this row comes from">{"_<wbr>".join(name.split("_"))}</a>'

    order = ["early_concat", "audio_only", "text_only"]
    parts = {part: page[page.index(f'id="{part}-0"') :].partition("</section>")[0] for part in ("robustness", "interactions")}
    parts["pairs"] = page[page.index("Differences between rows") :].partition("</details>")[0]
    expected = {"robustness": order[:2], "interactions": order[:1], "pairs": order}
    for part, names in expected.items():
        assert {name for number, name in enumerate(order) if linked(name, number) in parts[part]} == set(names), part
    for method in METHODS:  # what was missing in training comes from runs of their own
        shutil.copytree(out / f"{method}-toy-0", tmp_path / f"{method}-toy-0")
    absent = write_run(tmp_path / "other", "early_concat", 0, tmp_path, spec={"absent": {"audio": 0.5, "text": 0.0}})
    absent.rename(tmp_path / "absent")
    tables = [part["table"] for part in read_report(tmp_path, statistics=False)["conditions"][-1]["robustness"]["parts"]]
    found = {table["title"]: table["lines"][0]["cells"][0]["row"] for table in tables}
    assert found == {"Word errors": 0, "No audio in training": None}


def test_ranks_over_folds_lead_to_the_rows(tmp_path: Path) -> None:
    for method in METHODS:
        for fold in range(2):
            write_run(tmp_path, method, fold, tmp_path, spec={"fold": fold})
    found = read_report(tmp_path)
    names = [line["cells"][0]["text"] for line in found["conditions"][0]["scores"]["lines"]]
    for line in found["ranks"]["table"]["lines"]:
        assert names[line["cells"][0]["row"]] == line["cells"][0]["text"]


def test_one_file_that_asks_nothing_of_the_network(page: str) -> None:
    parsed = Tables(page)
    assert all(link.startswith("#") for link in parsed.links)
    assert {"link", "img", "iframe", "object", "base"} & set(parsed.tags) == set()
    assert "@import" not in page
    assert re.findall(r"url\((?!#)", page) == []
    assert len(parsed.ids) == len(set(parsed.ids))
    assert {link[1:] for link in parsed.links} <= set(parsed.ids)


def test_everything_is_escaped(page: str) -> None:
    assert Tables(page).tags.count("script") == 2
    assert "<b>" not in page
    start = page.index('<script type="application/json"')
    data = page[page.index(">", start) + 1 : page.index("</script>", start)]
    assert "<" not in data
    assert json.loads(data)[0]["texts"][0] == f"{HOSTILE} u00"


def test_the_same_runs_give_the_same_page(out: Path, page: str) -> None:
    assert html_report(read_report(out, texts=True, clips=4)) == page


def test_a_multilabel_table_stands_beside_the_others(tmp_path: Path) -> None:
    def sets(frame: pd.DataFrame) -> pd.DataFrame:
        return frame.assign(label=["a+b", "none", "b"] * 10)[["utterance_id", "label", "p_a", "p_b"]]

    write_run(tmp_path, "text_only", 0, tmp_path)
    for method in ("early_concat", "text_only", "audio_only"):
        for seed in range(2):
            stored = sets(predictions(seed, 0.8).set_axis([*predictions(0, 0.8).columns[:-3], "p_a", "p_b", "p_c"], axis=1))
            found = scores(stored, ["a", "b"], "multilabel")
            changes = {"task": "multilabel", "headline": MULTILABEL_METRICS[0], "scores": found, "slices": {}}
            changes |= {"spec": {"corpus": "mosei 1", "classes": ["a", "b"]}, "baselines": {"all negative": found}}
            folder = write_run(tmp_path, method, seed, tmp_path, **changes, validation={MULTILABEL_METRICS[0]: 0.5})
            stored.to_parquet(folder / "predictions.parquet", index=False)
            expected = found["confusion"]
    whole = read_report(tmp_path)
    multilabel = whole["conditions"][0]
    assert multilabel["headline"] == "mean weighted accuracy"
    assert multilabel["examples"]["multilabel"]
    negatives = expected[0][0][0] + expected[0][0][1]
    # The two seeds differ, so only the totals of the counts are the same for both.
    assert sum(multilabel["confusions"][0]["lines"][0]["shares"][:2]) == pytest.approx(100 * negatives / 30, abs=0.11)
    assert len(multilabel["interactions"]["tables"]) == 2
    assert [line["cells"][0]["text"] for line in multilabel["scores"]["lines"]][-1] == "all negative"
    assert multilabel["scores"]["lines"][-1]["key"] is None
    assert Tables(html_report(whole)).tables["Scores (%)"][0][2] == "UAR"  # the other table, which comes last
    assert {f"{metric}_class=a" for metric in CLASS_METRICS} <= set(read_leaderboard(tmp_path).table)


def test_command(tmp_path: Path, small: Path) -> None:
    file = tmp_path / "report.html"
    done = CliRunner().invoke(app, ["report", str(small), "--out", str(file), "--texts", "--audio", "2"])
    assert done.exit_code == 0, done.output
    assert re.search(r"report\.html: 0\.\d MB", done.output)
    assert file.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    nothing = CliRunner().invoke(app, ["report", str(tmp_path / "none"), "--out", str(file)])
    assert nothing.exit_code == 2
    assert "holds no finished run" in nothing.output
    nowhere = CliRunner().invoke(app, ["report", str(small), "--out", str(tmp_path / "none" / "x.html")])
    assert nowhere.exit_code == 2
    assert "check the path" in nowhere.output


def luminance(colour: str) -> float:
    """Relative luminance as WCAG 2 defines it."""
    parts = [int(colour[n : n + 2], 16) / 255 for n in (1, 3, 5)]
    red, green, blue = (c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    dark, light = sorted(map(luminance, (one, other)))
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_contrast(dark: bool) -> None:
    own = (Path(report.__file__).parent / "report" / "report.css").read_text(encoding="utf-8")
    colours: dict[str, str] = {}
    for style in (str(STYLE), own):
        blocks = re.findall(r":root \{(.*?)\}", style, re.DOTALL)
        colours |= dict(re.findall(r"--([\w]+): (#\w{6})", blocks[0] + (blocks[1] if dark else "")))
    for text in ("ink", "soft", "good", "bad", "split0"):
        assert contrast(colours[text], colours["paper"]) >= 4.5, text
    for ground in ("bar", "heat"):
        assert contrast(colours["ink"], colours[ground]) >= 4.5, ground
    for line in (*(name for name in colours if name.startswith("curve")), "focus"):
        assert contrast(colours[line], colours["paper"]) >= 3, line


# In the browser.


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api")
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    with playwright.sync_playwright() as running:
        if program is None and not Path(running.chromium.executable_path).exists():
            pytest.skip("no Chromium is installed")
        browser = running.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def file(page: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("page") / "report.html"
    file.write_text(page, encoding="utf-8")
    return file


@pytest.fixture
def show(browser: Any, file: Path) -> Iterator[Callable[..., Any]]:
    """Opens the page and, at the end, sees that it said and asked nothing."""
    opened, said, asked = [], [], []

    def opener(**options: Any) -> Any:
        context = browser.new_context(**({"viewport": {"width": 1280, "height": 800}} | options))
        opened.append(context)
        tab = context.new_page()
        tab.on("console", lambda message: said.append(message.text))
        tab.on("pageerror", lambda error: said.append(str(error)))
        tab.on("request", lambda request: asked.append(request.url))
        tab.goto(file.as_uri())
        return tab

    yield opener
    for context in opened:
        context.close()
    assert said == []
    assert {url.partition(",")[0] for url in asked} <= {file.as_uri(), "data:audio/mpeg;base64"}


def test_sorting_by_click(show: Callable[..., Any]) -> None:
    tab = show()
    costs = tab.locator("section[aria-labelledby^=costs] table")
    head = costs.locator("th", has_text="parameters")
    assert head.get_attribute("aria-sort") == "none"
    head.get_by_role("button").click()
    assert head.get_attribute("aria-sort") == "descending"
    assert costs.locator("tbody th").all_inner_texts() == ["early_concat", "audio_only", "text_only"]  # 1.20 M, 12.3 k, 9.0 k
    head.get_by_role("button").click()
    assert head.get_attribute("aria-sort") == "ascending"
    assert costs.locator("tbody th").all_inner_texts() == ["text_only", "audio_only", "early_concat"]
    costs.locator("th", has_text="method").get_by_role("button").click()
    assert costs.locator("tbody th").all_inner_texts() == ["audio_only", "early_concat", "text_only"]
    assert head.get_attribute("aria-sort") == "none"


def test_sorting_by_keyboard(show: Callable[..., Any]) -> None:
    tab = show()
    scores = tab.locator("section[aria-labelledby^=scores] table").first
    tab.locator("section[aria-labelledby^=scores] summary", has_text="Columns").first.focus()
    for _ in range(4):  # the box that scrolls, then method, runs, UAR
        tab.keyboard.press("Tab")
    assert tab.evaluate("document.activeElement.textContent") == "UAR"
    assert tab.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    tab.keyboard.press("Enter")
    tab.keyboard.press("Enter")
    assert scores.locator("th", has_text="UAR").get_attribute("aria-sort") == "ascending"
    assert scores.locator("tbody th").all_inner_texts() == ["text_only", "audio_only", "early_concat"]


def test_filter_by_method_and_family(show: Callable[..., Any]) -> None:
    tab = show()
    scores = tab.locator("section[aria-labelledby^=scores] table").first.locator("tbody tr:visible th")
    box = tab.get_by_label("Filter rows")
    box.fill("single text")
    assert scores.all_inner_texts() == ["text_only"]
    assert tab.locator(".filter output").inner_text() == "1 of 3 rows"
    assert tab.locator("table.confusion:visible").count() == 1
    box.fill("early")
    assert scores.all_inner_texts() == ["early_concat"]
    box.fill("")
    assert scores.count() == 3


def test_the_filter_holds_for_every_table_of_methods(show: Callable[..., Any]) -> None:
    tab = show()
    tab.evaluate("document.querySelectorAll('details').forEach(part => { part.open = true; })")
    pairs = tab.locator("section[aria-labelledby^=scores] details table.data tbody tr:visible")
    noise = tab.locator("section[aria-labelledby^=robustness] tbody tr:visible th")
    shared = tab.locator("section[aria-labelledby^=interactions] tbody tr:visible")
    assert [pairs.count(), noise.count(), shared.count()] == [3, 2, 2]
    tab.get_by_label("Filter rows").fill("audio_only single")
    assert [pairs.count(), shared.count()] == [2, 0]
    assert noise.all_inner_texts() == ["audio_only"]
    tab.get_by_label("Filter rows").fill("audio_only text_only")
    assert pairs.locator("th, td:nth-child(2)").all_inner_texts() == ["audio_only", "text_only"]


def test_ties_and_small_p_values_can_be_sorted(show: Callable[..., Any]) -> None:
    tab = show()
    scores = tab.locator("section[aria-labelledby^=scores] table.data").first
    column = scores.locator("thead th").all_inner_texts().index("tied")
    ties = scores.locator(f"tbody tr > :nth-child({column + 1})")
    before = ties.all_inner_texts()
    assert len(set(before)) == 2
    for order in (sorted(before), sorted(before, reverse=True)):
        scores.locator("th", has_text="tied").get_by_role("button").click()
        assert ties.all_inner_texts() == order
    numbers = tab.evaluate("['< 0.001', '0.020', '1.2 M', '−3', '+4.0', '–', '†'].map(numberOf)")
    assert numbers[:5] == [0.001, 0.02, 1.2e6, -3, 4]
    assert all(np.isnan(number) for number in numbers[5:])


def test_what_is_left_out_of_the_page_is_told(browser: Any, found: report.Json, tmp_path: Path) -> None:
    tab = browser.new_page()
    (condition,) = found["conditions"]
    for left_out, told in (
        ({"clips"}, "Clips aren't in this page; --audio N"),
        ({"clips", "texts"}, "puts them in. Neither are clips; --audio N"),
    ):
        examples = {name: part for name, part in condition["examples"].items() if name not in left_out}
        page = html_report(found | {"conditions": [condition | {"examples": examples}]})
        (tmp_path / "page.html").write_text(page, encoding="utf-8")
        tab.goto((tmp_path / "page.html").as_uri())
        assert told in tab.locator(".utterances .notes").inner_text()
    tab.close()


def test_columns_and_costs_can_be_chosen(show: Callable[..., Any]) -> None:
    tab = show()
    section = tab.locator("section[aria-labelledby^=scores]")
    section.locator("summary", has_text="Columns").first.click()
    section.get_by_label("WAR").first.uncheck()
    assert not section.locator("th", has_text="WAR").first.is_visible()
    assert section.locator("th", has_text="macro F1").first.is_visible()
    figures = tab.locator(".choices > figure:visible")
    assert figures.count() == 1
    tab.locator("select.pareto").select_option("training time, s")
    assert figures.locator("figcaption").inner_text().startswith("UAR against training time, s")


def test_a_row_leads_to_where_it_comes_from(show: Callable[..., Any]) -> None:
    tab = show()
    tab.locator("section[aria-labelledby^=scores] tbody a").nth(1).focus()
    tab.keyboard.press("Enter")
    tab.wait_for_function("document.activeElement.id === 'from-0-1'")
    assert tab.get_by_text("audio_only-toy-0", exact=True).is_visible()


def test_utterances(show: Callable[..., Any], found: report.Json) -> None:
    tab = show()
    section = tab.locator(".utterances")
    entries = section.locator("details.utterance")
    assert entries.count() == 25
    section.get_by_role("button", name="Later").click()
    assert entries.count() == 5
    section.get_by_label("Search").fill("u07")
    assert entries.count() == 1
    assert HOSTILE in entries.first.inner_text()
    entries.first.locator("summary").click()
    examples = found["conditions"][0]["examples"]
    shown = np.frombuffer(base64.b64decode(examples["probabilities"]), np.uint8).reshape(3, len(IDS), 3)
    cells = entries.first.locator("tbody tr").nth(0).locator("td").all_inner_texts()
    assert cells == [f"{value / 2:.1f}" for value in shown[0, 7]]
    section.get_by_label("Search").fill("")
    answers = np.frombuffer(base64.b64decode(examples["answers"]), np.uint8).reshape(3, len(IDS))
    right = answers == np.arange(len(IDS)) % 3
    for choice, expected in (("wrong by all", ~right.any(axis=0)), ("wrong by text_only", ~right[2])):
        section.get_by_label("Answers").select_option(choice)
        assert section.locator(".count").inner_text() == f"{expected.sum()} of 30 utterances."
    section.get_by_label("Answers").select_option("all")
    section.get_by_label("Clip").select_option("with a clip")
    assert entries.count() == 4
    entries.first.locator("summary").click()
    audio = entries.first.locator("audio")
    if audio.evaluate("player => player.canPlayType('audio/mpeg')"):  # some builds of Chromium lack the codec
        load = "player => new Promise(done => { player.onloadedmetadata = () => done(player.duration); player.load(); })"
        assert audio.evaluate(load) == pytest.approx(0.5, abs=0.2)
    assert tab.title() == "Fusion Zoo: toy 1"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_part_of_a_phone_s_screen_is_left(show: Callable[..., Any], scheme: str) -> None:
    tab = show(viewport={"width": 390, "height": 844}, color_scheme=scheme)
    tab.evaluate("document.querySelectorAll('details').forEach(part => { part.open = true; })")
    assert tab.evaluate("document.documentElement.scrollWidth") == 390
    ground = tab.evaluate("getComputedStyle(document.body).backgroundColor")
    assert ground == ("rgb(255, 255, 255)" if scheme == "light" else "rgb(20, 23, 26)")


def test_tables_are_there_without_scripts(browser: Any, file: Path) -> None:
    context = browser.new_context(java_script_enabled=False)
    tab = context.new_page()
    tab.goto(file.as_uri())
    assert tab.locator("section[aria-labelledby^=scores] table tbody tr").first.is_visible()
    assert tab.locator(".choices > figure:visible").count() == 3
    assert not tab.locator(".filter").is_visible()
    assert tab.get_by_text("This part needs JavaScript").is_visible()
    context.close()


def test_keyboard_leaves_every_part(show: Callable[..., Any]) -> None:
    tab = show()
    stops = tab.evaluate("document.querySelectorAll('a, button, input, select, summary, [tabindex=\"0\"]').length")
    seen = set()
    for _ in range(stops + 5):
        tab.keyboard.press("Tab")
        seen.add(tab.evaluate("document.activeElement.closest('section, nav, header')?.getAttribute('aria-labelledby')"))
    assert {"scores-0", "costs-0", "utterances-0", "from-0"} <= seen
