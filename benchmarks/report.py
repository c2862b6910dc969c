"""The report: a folder of results -> one HTML file that a reviewer opens first, and that needs nothing else.

`read_report` collects what the page shows as a plain dictionary, `html_report` makes the page of it. Tables and figures are in the
page itself, so it can be read and printed without scripts; the script (``report/report.js``) sorts, filters and hides columns, and
shows the test utterances, whose probabilities it finds in the page as JSON.

Corpora come with licences, so transcripts and clips are in the page only on request.
"""

import base64
import json
import re
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.resources import files
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from markupsafe import Markup

from benchmarks import interactions, robustness
from benchmarks.leaderboard import (
    INTERVAL,
    TIED,
    TITLES,
    Leaderboard,
    Part,
    condition_of,
    corpus_name,
    interval,
    p_value,
    published_parts,
    rank_columns,
    read_leaderboard,
    row_names,
)
from benchmarks.plots import COLOURS, critical_difference_figure, pareto_figure, pareto_optimal
from benchmarks.results import COST_NAMES, NothingStoredError, ResultError, read_predictions, read_result, shown_costs
from benchmarks.tables import LEFT, LONG
from datamodules.corruptions import CORRUPTIONS
from datamodules.page import inline_svg, render
from zoo import get_method, list_methods

Json = dict[str, Any]

MOST_UTTERANCES = 20_000
"""Of one table that the page lets look at; of more, the first, and those with clips. Of 15 rows and 4 classes that is 2 MB."""
MOST_CURVES = 10
"""Runs of a row whose learning curves are drawn."""
MOST_SECONDS = 10.0
"""Of a clip in the page; longer ones are cut."""
MOST_CLIP_BYTES = 3_000_000
"""Of all clips in the page together."""

_STEPS = 200
"""A probability is one byte in the page, in steps of half a percent; `_ABSENT` where a method has no answer."""
_ABSENT = 255

_PALETTE = {colour.lower(): f"var(--curve{number})" for number, colour in enumerate(COLOURS)} | {
    "#000000": "currentColor",
    "#595959": "var(--soft)",
    "#ffffff": "var(--paper)",
    "#b0b0b0": "var(--line)",
    "#cccccc": "var(--line)",
}
"""Colours of the project's figures, as the page calls them; they differ in dark mode."""


def read_report(out: Path | str, texts: bool = False, clips: int = 0, statistics: bool | None = None) -> Json:
    """Everything that the page shows.

    Args:
        out: Folder of results.
        texts: Put the transcripts of the test utterances in.
        clips: Put the audio of that many test utterances in: those that fewest rows get right.
        statistics: As of `read_leaderboard`.

    Returns:
        ``title``, ``runs``, ``failed``, ``refused`` (why a part is missing), ``ranks`` and ``conditions``, one for each table of
        the leaderboard; of texts, numbers, lists, dictionaries and, as `Markup`, figures.

    Raises:
        ResultError: If there is no finished run, one is damaged, or the corpus isn't the one that was tested on.
        BadInputError: If transcripts or clips are asked for and the corpus can't be read.
    """
    out = Path(out)
    board = read_leaderboard(out, statistics=statistics)
    results = {run: read_result(out / run) for run in board.runs["run"]}
    refused: list[str] = []
    robust = _optional(lambda: robustness.summarise(robustness.read_robustness(out)), refused)
    shared = _optional(lambda: interactions.summarise(interactions.read_interactions(out)), refused)
    conditions = []
    for number, rows in board.table.groupby("condition", sort=True):
        runs = board.runs[board.runs["condition"] == number]
        key = condition_of(results[runs["run"].iloc[0]]["spec"])
        conditions.append(
            _condition(board, rows, runs, results, out)
            | {"robustness": _robustness(robust, key, rows, f"r{number}"), "interactions": _interactions(shared, key, rows)}
            | {"examples": _examples(rows, runs, results, out, texts, clips)}
        )
    return {
        "title": f"Fusion Zoo: {', '.join(dict.fromkeys(map(corpus_name, board.table['corpus'])))}",
        "runs": len(results),
        "failed": board.failed,
        "refused": refused,
        "ranks": _ranks(board),
        "conditions": conditions,
    }


def html_report(report: Json) -> str:
    """The page of a `read_report`: no requests, light and dark, the same for the same report."""

    def ours(name: str) -> Markup:
        return Markup(files("benchmarks").joinpath("report", name).read_text(encoding="utf-8"))  # noqa: S704

    data = json.dumps([c["examples"] for c in report["conditions"]], ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    # Nothing in a script element may look like its end, or like a comment.
    safe = Markup(data.replace("<", "\\u003c").replace(">", "\\u003e"))  # noqa: S704 - no markup is left
    page = render(
        "benchmarks", "report/report.html", report=report, data=safe, own_style=ours("report.css"), script=ours("report.js")
    )
    return page.replace("@SIZE@", f"{len(page.encode()) / 1e6:.1f} MB", 1)


def _optional(read: Callable[[], pd.DataFrame], refused: list[str]) -> pd.DataFrame:
    """A summary that the page can do without; empty where nothing is stored, or where the runs don't fit, as ``refused`` tells."""
    try:
        return read()
    except NothingStoredError:
        pass
    except ResultError as error:
        refused.append(str(error))
    return pd.DataFrame({"condition": []})


def _condition(board: Leaderboard, rows: pd.DataFrame, runs: pd.DataFrame, results: Mapping[str, Json], out: Path) -> Json:
    """What one table of the leaderboard brings along."""
    number = int(rows["condition"].iloc[0])
    headline = rows["headline"].iloc[0]
    caption, *caveats = board.lines(number)
    scores, costs, *others = board.parts(rows, published=True)
    families = [_family(method) for method in rows["method"]]
    keys = [_key(method, variant) for method, variant in zip(rows["method"], rows["variant"], strict=True)]
    baselines = len(next(iter(scores.columns.values()))) - len(rows)
    names = row_names(rows).tolist()
    links = {"method": range(len(rows))}
    of_row = {row: [results[run] for run in of["run"]] for row, of in runs.groupby("row")}
    grouped = [of_row[row] for row in rows.index]
    folders = [[out / run for run in runs.loc[runs["row"] == row, "run"]] for row in rows.index]
    published = list(published_parts(rows))
    return {
        "number": number,
        "caption": caption,
        "caveats": caveats,
        "headline": TITLES.get(headline, headline),
        "rows": [
            {"name": name, "key": key, **_provenance(of, where, headline)}
            for name, key, of, where in zip(names, keys, grouped, folders, strict=True)
        ],
        "scores": _table(scores._replace(columns=scores.columns | {"family": [*families, *[""] * baselines]}), links, keys),
        "costs": _table(costs, links, keys),
        "broken_down": [_table(part, links, keys, bars=True) for part in others],
        "pairs": _pairs(board, number, rows.index, names, keys),
        "confusions": [_confusion(of) for of in grouped],
        "curves": _curves(grouped, folders, headline),
        "pareto": _pareto(rows, number, headline),
        "published": [_table(part) for part in published],
    }


def _family(method: str) -> str:
    return get_method(method).family if method in list_methods() else ""


def _key(method: str, variant: str) -> str:
    """What the filter looks for words in."""
    return f"{method} {variant} {_family(method)}".lower()


def _table(
    part: Part, links: Mapping[str, Sequence[int | None]] | None = None, keys: Sequence[str] = (), bars: bool = False
) -> Json:
    """A table as the template takes it; the variant goes below the method's name, which saves a column on a phone.

    Args:
        part: Its columns.
        links: By title of a column, the rows of the leaderboard that its cells lead to, the first lines first.
        keys: What the filter looks for words in, the first lines first; lines without one, such as baselines, always stay.
        bars: Whether its cells are percentages to be drawn as bars too.
    """
    words, links = LEFT | {"family", "a", "b", TIED}, links or {}
    shown = {title: cells for title, cells in part.columns.items() if title != "variant"}
    variants = part.columns.get("variant", ["default"] * len(next(iter(shown.values()), [])))
    return {
        "title": part.title,
        "columns": [{"title": title, "numeric": title not in words, "wide": title in LONG} for title in shown],
        "lines": [
            {
                "key": keys[number] if number < len(keys) else None,
                "variant": "" if variant in {"default", "–"} else variant,
                "cells": [
                    {
                        "text": text,
                        "best": number in part.best.get(title, ()),
                        "bar": _number(text) if bars else None,
                        "row": links[title][number] if number < len(links.get(title, ())) else None,
                    }
                    for title, text in zip(shown, cells, strict=True)
                ],
            }
            for number, (variant, cells) in enumerate(zip(variants, zip(*shown.values(), strict=True), strict=True))
        ],
    }


def _number(text: str) -> float | None:
    return float(text) if re.fullmatch(r"\d+(\.\d+)?", text) else None


def _pairs(board: Leaderboard, number: int, index: pd.Index, names: Sequence[str], keys: Sequence[str]) -> Json | None:
    """Differences between all rows of a condition with their tests; None without statistics."""
    if number not in board.comparisons or board.comparisons[number].pairs.empty:
        return None
    pairs = board.comparisons[number].pairs
    links = {side: index.get_indexer(pd.Index(pairs[side])).tolist() for side in ("a", "b")}
    columns = {side: [names[row] for row in rows] for side, rows in links.items()} | {
        "a − b, points": [f"{100 * value:+.1f}" for value in pairs["difference"]],
        INTERVAL: [interval(low, high, "+") for low, high in zip(pairs["low"], pairs["high"], strict=True)],
        "p (Holm)": [p_value(p) for p in pairs["p_holm"]],
        "Cohen's g": [f"{g:+.2f}" for g in pairs["cohens_g"]],
    }
    return _table(
        Part("Differences between rows", columns), links, [f"{keys[a]} {keys[b]}" for a, b in zip(*links.values(), strict=True)]
    )


def _of_rows(part: Part, rows: pd.DataFrame, linked: bool = True) -> Json:
    """A table whose lines have a method and a variant, which lead to that row of the leaderboard where there is one.

    Args:
        part: The table.
        rows: Those of the leaderboard.
        linked: Whether the figures come from those rows' runs.
    """
    lines = list(zip(part.columns["method"], part.columns["variant"], strict=True))
    known = {line: number for number, line in enumerate(zip(rows["method"], rows["variant"], strict=True))} if linked else {}
    return _table(part, {"method": [known.get(line) for line in lines]}, [_key(*line) for line in lines])


def _confusion(results: Sequence[Json]) -> Json:
    """The mean over runs of a row's confusion counts; of a multi-label task, one line per class."""
    classes = results[0]["spec"]["classes"]
    counts = np.mean([result["scores"]["confusion"] for result in results], axis=0)
    if counts.ndim == 3:  # (C, 2, 2)
        counts = counts.reshape(len(classes), 4)
        heads = ["right: no", "wrong: yes", "wrong: no", "right: yes"]
    else:
        heads = classes
    totals = counts.sum(axis=1, keepdims=True)
    shares = 100 * counts / np.maximum(totals, 1e-9)
    return {
        "heads": heads,
        "lines": [
            {"label": label, "shares": [round(float(s), 1) for s in line], "total": f"{total:.0f}"}
            for label, line, total in zip(classes, shares, totals[:, 0], strict=True)
        ],
    }


def _pareto(rows: pd.DataFrame, number: int, headline: str) -> list[Json]:
    """Score against every cost that is known and none that repeats another, a figure each."""
    found = []
    for cost in shown_costs(rows):
        values = rows[cost].to_numpy(float)
        if not (np.isfinite(values) & (values > 0)).any():
            continue
        figure = pareto_figure(rows, {number: [""]}, cost, headline)
        optimal = pareto_optimal(rows[f"{headline}_mean"], -values if cost.endswith("per_second") else values)
        label = f"{TITLES[headline]} against {COST_NAMES[cost]}. Pareto-optimal: {', '.join(row_names(rows)[optimal])}."
        found.append({"cost": COST_NAMES[cost], "figure": inline_svg(figure, f"p{number}-{cost}", label, _PALETTE)})
    return found


def _ranks(board: Leaderboard) -> Json | None:
    if board.ranking is None:
        return None
    label = "; ".join(f"{row}: mean rank {rank:.2f}" for row, rank in board.ranking.ranks.items())
    figure = critical_difference_figure(board.ranking)
    # Over corpora a name stands for a row of each.
    places = {name: n for n, name in enumerate(row_names(board.table))} if board.table["condition"].nunique() == 1 else {}
    return {
        "note": board.ranking.note,
        "table": _table(
            Part("Mean ranks", rank_columns(board.ranking)), {"by": [places.get(row) for row in board.ranking.ranks.index]}
        ),
        "figure": inline_svg(figure, "ranks", label, _PALETTE),
    }


def _robustness(summary: pd.DataFrame, key: str, rows: pd.DataFrame, name: str) -> Json | None:
    """Curves and tables of one condition's corruptions."""
    found = summary[summary["condition"] == key]
    if found.empty:
        return None
    figures = robustness.figures(found)
    kinds = CORRUPTIONS | robustness.IN_TRAINING
    parts = []
    for corruption, of_kind in found.groupby("corruption", sort=False):
        kind = kinds[str(corruption)]
        # What was missing in training was missing in runs of their own.
        table = _of_rows(Part(kind.title, robustness.columns(kind, of_kind)), rows, corruption not in robustness.IN_TRAINING)
        label = f"{kind.title}: score by {kind.axis}, a line per method; the table below has the numbers"
        drawn = figures.get(str(corruption))
        parts.append(
            {"table": table, "figure": drawn and inline_svg(drawn, f"{name}-{corruption}".replace("_", "-"), label, _PALETTE)}
        )
    return {"parts": parts, "notes": robustness.captions(found)}


def _interactions(summary: pd.DataFrame, key: str, rows: pd.DataFrame) -> Json | None:
    found = summary[summary["condition"] == key]
    if found.empty:
        return None
    return {
        "tables": [_of_rows(Part(title, columns), rows) for title, columns in interactions.tables(found).items()],
        "notes": interactions.notes(found),
    }


# Learning curves.


def read_curves(folder: Path, epochs: int | None) -> dict[str, list[float]] | None:
    """A run's curves, a value per epoch, by the name under which they were logged, from TensorBoard's or the CSV logger's files.

    Args:
        folder: The run's.
        epochs: That it trained; validation of the chosen epoch, which follows, isn't part of the curve; None if unknown.

    Returns:
        ``train/…`` and ``val/…``; None where the run was logged elsewhere.
    """
    file = folder / "csv" / "metrics.csv"
    if (folder / "tensorboard").is_dir():
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        events = EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0, "images": 1})
        events.Reload()
        found = {tag: [point.value for point in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    elif file.is_file():
        logged = pd.read_csv(file)
        found = {name: values.dropna().tolist() for name, values in logged.items() if "/" in str(name)}
    else:
        return None
    return {name: values[:epochs] for name, values in found.items() if name.startswith(("train/", "val/"))}


def _curves(grouped: Sequence[Sequence[Json]], folders: Sequence[Sequence[Path]], headline: str) -> Json:
    """A row's validation score and losses by epoch, a line per run, on one scale of scores and epochs for all rows."""
    runs = [
        [read_curves(folder, result.get("epochs")) for result, folder in islice(zip(of, where, strict=True), MOST_CURVES)]
        for of, where in zip(grouped, folders, strict=True)
    ]
    known = [[curves for curves in of if curves and curves.get(f"val/{headline}")] for of in runs]
    scores = [value for of in known for curves in of for value in curves[f"val/{headline}"]]
    if not scores:
        return {"rows": [], "shown": MOST_CURVES, "missing": True}
    longest = max(len(curves[f"val/{headline}"]) for of in known for curves in of)
    low, high = 10 * np.floor(10 * min(scores)), 10 * np.ceil(10 * max(scores))
    rows, axis = [], f"validation {TITLES.get(headline, headline)}, %"
    for number, of in enumerate(known):
        if not of:
            continue
        values = [("val", [100 * value for value in curves[f"val/{headline}"]]) for curves in of]
        losses = [(split, curves[f"{split}/loss"]) for curves in of for split in ("train", "val") if f"{split}/loss" in curves]
        rows.append({"row": number, "score": _lines(values, axis, longest, low, high), "loss": _lines(losses, "loss", longest)})
    return {"rows": rows, "shown": MOST_CURVES, "missing": any(len(k) < len(r) for k, r in zip(known, runs, strict=True))}


_WIDTH, _HEIGHT, _LEFT, _TOP, _BOTTOM = 260, 130, 34, 16, 16


def _lines(series: Sequence[tuple[str, list[float]]], title: str, epochs: int, low: float = 0.0, high: float = 0.0) -> Markup:
    """A small plot of values by epoch; matplotlib's would take twenty times the room.

    Args:
        series: CSS class and values of every line.
        title: What is plotted.
        epochs: Length of the axis.
        low: Lower end of the scale; if both are equal, it goes from 0 to the highest value.
        high: Upper end.
    """
    values = [[v for v in line if np.isfinite(v)] for _, line in series]
    ends = [v for line in values for v in line] or [0.0]
    if low >= high:
        low, high = min(0.0, *ends), max(1e-6, *ends)
    across, up = (_WIDTH - _LEFT - 6) / max(epochs - 1, 1), (_HEIGHT - _TOP - _BOTTOM) / (high - low)
    lines = []
    for (kind, _), line in zip(series, values, strict=True):
        points = " ".join(f"{_LEFT + n * across:.1f},{_HEIGHT - _BOTTOM - (v - low) * up:.1f}" for n, v in enumerate(line))
        lines.append(f'<polyline class="{kind}" points="{points}"/>')
    said = f"{title} by epoch: {len(series)} lines, from {min(ends):.3g} to {max(ends):.3g}"
    floor = _HEIGHT - _BOTTOM
    return Markup(  # noqa: S704 - numbers and our own words
        f'<svg class="lines" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{said}">'
        f'<path class="axes" d="M{_LEFT} {_TOP}V{floor}H{_WIDTH - 6}"/>'
        f'<text x="0" y="10">{title}</text>'
        f'<text x="{_LEFT - 4}" y="{_TOP + 8}" text-anchor="end">{high:.3g}</text>'
        f'<text x="{_LEFT - 4}" y="{floor}" text-anchor="end">{low:.3g}</text>'
        f'<text x="{_LEFT}" y="{_HEIGHT - 3}">epoch 1</text>'
        f'<text x="{_WIDTH - 6}" y="{_HEIGHT - 3}" text-anchor="end">{epochs}</text>'
        f"{''.join(lines)}</svg>"
    )


# Where a row comes from.


def _provenance(results: Sequence[Json], folders: Sequence[Path], headline: str) -> Json:
    """What a row's runs share, what they don't, and how to make each again."""
    specs = [{k: v for k, v in r["spec"].items() if k not in {"method", "variant", "fold", "seed"}} for r in results]
    environments = [{k: v for k, v in r["environment"].items() if k != "packages"} for r in results]
    packages = [{"packages": r["environment"]["packages"]} for r in results if "packages" in r["environment"]]
    return {
        "facts": [("spec", _facts(specs)), ("environment", _facts([*environments]) + _facts(packages))],
        "runs": [
            {
                "run": folder.name,
                "fold": result["spec"]["fold"],
                "seed": result["spec"]["seed"],
                "score": f"{100 * result['scores'][headline]:.1f}",
                "epochs": result.get("epochs", "–"),
                "finished": result["finished"].replace("T", " ").partition("+")[0],
                "revision": result["environment"].get("revision") or "installed package",
                "command": f"fusion-zoo reproduce {shlex.quote(folder.as_posix())} --out reproduced",
            }
            for result, folder in zip(results, folders, strict=True)
        ],
    }


def _facts(found: Sequence[Json]) -> list[tuple[str, str]]:
    """Name and value of every fact, with all values where the runs differ."""
    names = dict.fromkeys(name for facts in found for name in facts)
    return [(name.replace("_", " "), " | ".join(dict.fromkeys(_words(facts.get(name)) for facts in found))) for name in names]


def _words(value: Any) -> str:  # noqa: ANN401
    """A value of a spec for reading."""
    if isinstance(value, dict):
        return ", ".join(f"{k}: {_words(v)}" for k, v in value.items()) or "none"
    if isinstance(value, list):
        return ", ".join(map(_words, value))
    return "none" if value is None else str(value)


# Test utterances.


def _examples(rows: pd.DataFrame, runs: pd.DataFrame, results: Mapping[str, Json], out: Path, texts: bool, clips: int) -> Json:
    """The test utterances of a condition and what every row answers, as the script reads it.

    Returns:
        ``ids``; ``labels``, ``speakers`` and other facts as ``names`` with a number per utterance in ``codes``; ``probabilities``,
        of rows x utterances x classes bytes, the mean over a row's runs; ``answers``, of rows x utterances bytes, the class that
        it makes most probable; with texts and clips, ``texts`` and ``clips``, by number of the utterance.
    """
    first = results[runs["run"].iloc[0]]
    classes, multilabel = first["spec"]["classes"], first.get("task") == "multilabel"
    columns = [f"p_{label}" for label in classes]
    items = pd.DataFrame()
    means = []
    for row in rows.index:
        frame = pd.concat([read_predictions(out / run) for run in runs.loc[runs["row"] == row, "run"]], ignore_index=True)
        if missing := [column for column in columns if column not in frame]:
            raise ResultError(f"the predictions of {rows.loc[row, 'method']} under {out} have no column {missing[0]}; run it again")
        facts = frame.drop(columns=list(frame.filter(regex="^p_"))).drop_duplicates("utterance_id").set_index("utterance_id")
        items = facts if items.empty else pd.concat([items, facts[~facts.index.isin(items.index)]])
        means.append(frame.groupby("utterance_id")[columns].mean())
    stacked = np.stack([mean.reindex(items.index).to_numpy(float) for mean in means])  # (rows, N, C)
    absent = np.isnan(stacked).any(axis=2)
    answers = np.where(absent, _ABSENT, np.nan_to_num(stacked).argmax(axis=2))
    right = (answers == pd.Index(classes).get_indexer(pd.Index(items["label"]))).sum(axis=0)
    hardest = np.arange(len(items)) if multilabel else np.argsort(right, kind="stable")
    wanted = hardest[: min(clips, MOST_UTTERANCES)]
    left_out = max(len(items) - MOST_UTTERANCES, 0)
    shown = np.sort(np.concatenate([wanted, np.setdiff1d(np.arange(len(items)), wanted)])[:MOST_UTTERANCES])
    items, stacked, absent, answers = items.iloc[shown], stacked[:, shown], absent[:, shown], answers[:, shown]
    if "recording" in items:  # one that is an utterance's own says nothing
        items = items.assign(recording=items["recording"].where(items["recording"].duplicated(keep=False)))
    coded = {name: _codes(items[name]) for name in items.columns if items[name].notna().any()}
    found: Json = {
        "rows": row_names(rows).tolist(),
        "classes": classes,
        "multilabel": multilabel,
        "ids": items.index.tolist(),
        "facts": coded,
        "probabilities": _bytes(np.where(absent[..., None], _ABSENT, np.rint(_STEPS * np.nan_to_num(stacked)))),
        "answers": _bytes(answers),
        "left_out": left_out,
    }
    if texts or clips > 0:
        found |= _corpus(first, items.index.tolist(), texts, np.searchsorted(shown, wanted).tolist(), out)
    return found


def _codes(values: pd.Series) -> Json:
    """A column of few texts: each once, and its number for every utterance, -1 where there is none."""
    codes, names = pd.factorize(values.astype(object), sort=False)
    return {"names": [str(name) for name in names], "codes": codes.tolist()}


def _bytes(values: npt.NDArray[Any]) -> str:
    return base64.b64encode(values.astype(np.uint8).tobytes()).decode()


def _corpus(result: Json, ids: Sequence[str], texts: bool, wanted: Iterable[int], out: Path) -> Json:
    """Transcripts and clips of the tested utterances, read from the corpus again.

    Args:
        result: Of any run.
        ids: The utterances.
        texts: Whether transcripts are wanted.
        wanted: Whose clips are, by their number, until `MOST_CLIP_BYTES` are full.
        out: For messages.
    """
    from benchmarks.spec import Suite
    from datamodules.corpora import open_corpus

    if not result.get("suite"):
        raise ResultError(
            f"{out} doesn't say where its corpus was: an older version made it; run its suite again, or go without --texts and "
            "--audio"
        )
    suite = Suite(**result["suite"])
    corpus = open_corpus(suite.corpus, suite.root, suite.encoding)
    table = corpus.table(suite.skip_bad).set_index("utterance_id")
    if gone := [name for name in ids if name not in table.index]:
        raise ResultError(f"{corpus.index_file} has no utterance {gone[0]}: it isn't the corpus that {out} was tested on")
    found: Json = {"licence": f"{corpus_name(result['spec']['corpus'])}: {corpus.licence}"}
    if texts:
        found["texts"] = ["" if pd.isna(text) else str(text) for text in table.loc[list(ids), "text"]]
    clips: dict[int, str] = {}
    room = MOST_CLIP_BYTES
    for number in wanted:
        utterance = table.loc[ids[number]]
        if pd.isna(utterance["audio"]):
            continue
        clip = _mp3(utterance)
        if len(clip) > room:
            break
        room -= len(clip)
        clips[number] = clip
    return found | ({"clips": clips, "clip_bytes": MOST_CLIP_BYTES - room} if clips else {})


def _mp3(utterance: pd.Series) -> str:
    """A clip as mono MP3 at 16 kHz, in base 64: every browser plays it, and unlike Ogg it is the same each time."""
    import soundfile

    from datamodules.audio import AudioError, Clip, load_clip

    start, end = (None if pd.isna(utterance[name]) else float(utterance[name]) for name in ("start", "end"))
    try:
        samples = load_clip(Clip(Path(utterance["audio"]), start, end), 16_000)
    except AudioError as error:
        raise ResultError(f"{utterance['audio']}: {error}") from error
    file = BytesIO()
    soundfile.write(file, samples[: int(MOST_SECONDS * 16_000)], 16_000, format="MP3")
    return base64.b64encode(file.getvalue()).decode()
