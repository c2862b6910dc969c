"""Interaction diagnostics: what does a fusion know that audio alone and text alone don't?

Everything comes from stored predictions. Each run of a method that reads both modalities is set beside the run of a method that
reads audio alone, and the one that reads text alone, of the same condition, fold and seed.

**Decomposition of correctness.** The two single-modality runs cut the test split into four regions: what both get right, only
audio, only text, neither. In each, the share that the fusion gets right. What neither gets right and the fusion does is "only
the pair". The regions are named after the redundant, unique and synergistic parts of the partial information decomposition
(Williams and Beer 2010), but they count right answers of particular models: they are not that decomposition, and a weak
single-modality method makes synergy look large. Guessing alone fills "only the pair" to some degree. In a multi-label task every
utterance gives an answer per class, and most of these are a right *no*.

**Shapley values** (Shapley 1953) share the fusion's headline metric out between the modalities. With the score v of a set of
modalities, and v of none that of the best constant answer::

    phi_audio = ((v(audio) - v(none)) + (v(both) - v(text))) / 2        phi_text likewise
    phi_audio + phi_text = v(both) - v(none)

v(audio) and v(text) are the scores of the single-modality runs; or, where ``fusion-zoo robustness`` has scored the run
without one modality, those of the fusion itself (``masked``), which say what this very model draws from each.
"""

import json
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks.leaderboard import KEYS, TITLES, absent_notes, condition_of, corpus_name, identity_of, percentages, row_options
from benchmarks.results import (
    MULTILABEL_METRICS,
    NothingStoredError,
    ResultError,
    decisions,
    from_bits,
    read_newest,
    read_predictions,
    read_stored,
    task_of,
    true_labels,
)
from benchmarks.robustness import FOLDER, constant_score
from benchmarks.runner import scores
from benchmarks.tables import pipe_table
from datamodules.batch import Task
from zoo import get_method, list_methods

REGIONS = ("both", "audio", "text", "neither")
_VALUES = [f"{part}_{region}" for region in REGIONS for part in ("share", "right")] + [
    "only_the_pair",
    *(f"{value}{kind}" for kind in ("", "_masked") for value in ("v_audio", "v_text", "phi_audio", "phi_text")),
    "v_none",
    "v_both",
]

_TITLES = {
    "v_none": "none",
    "v_audio": "audio alone",
    "v_text": "text alone",
    "v_both": "both",
    "phi_audio": "φ audio",
    "phi_text": "φ text",
    "v_audio_masked": "without text",
    "v_text_masked": "without audio",
    "phi_audio_masked": "φ audio, masked",
    "phi_text_masked": "φ text, masked",
}


def decompose(audio: pd.DataFrame, text: pd.DataFrame, fusion: pd.DataFrame, task: Task = "multiclass") -> dict[str, float]:
    """Cut the test split by what the single-modality methods get right.

    Args:
        audio: Predictions of a method that reads audio alone, as in ``predictions.parquet``.
        text: Those of one that reads text alone, of the same utterances.
        fusion: Those of the fusion.
        task: Of a multi-label one each class of an utterance counts for itself.

    Returns:
        ``share_<region>`` of the utterances in each of `REGIONS`; ``right_<region>``, the share of these that the fusion gets
        right, NaN where there is none; and ``only_the_pair``, the share of all that it gets right and neither does.
    """
    hits = pd.concat({"audio": _hits(audio, task), "text": _hits(text, task), "fusion": _hits(fusion, task)}, axis=1)
    if hits.isna().to_numpy().any():
        raise ResultError("the runs were tested on different utterances; remove the older ones and run the suite again")
    hits = hits.astype(bool)
    a, t, f = hits["audio"], hits["text"], hits["fusion"]
    regions = {"both": a & t, "audio": a & ~t, "text": t & ~a, "neither": ~a & ~t}
    found = {f"share_{name}": float(region.mean()) for name, region in regions.items()}
    found |= {f"right_{name}": float(f[region].mean()) for name, region in regions.items()}
    return found | {"only_the_pair": float((f & regions["neither"]).mean())}


def _hits(predictions: pd.DataFrame, task: Task) -> "pd.Series[bool]":
    """Which utterances are answered rightly, by id; in a multi-label task by id and class."""
    classes = [column.removeprefix("p_") for column in predictions.columns if column.startswith("p_")]
    guess, truth = decisions(predictions, classes, task), true_labels(predictions, classes, task)
    ids = pd.Index(predictions["utterance_id"])
    if task == "multilabel":
        right = from_bits(guess, len(classes)) == from_bits(truth, len(classes))
        return pd.Series(right.ravel(), pd.MultiIndex.from_product([ids, classes]))
    return pd.Series(guess == truth, ids)


def shapley(none: float, audio: float, text: float, both: float) -> tuple[float, float]:
    """Shapley values of audio and of text in a game of two, from the score of each set of modalities."""
    return ((audio - none) + (both - text)) / 2, ((text - none) + (both - audio)) / 2


def read_interactions(out: Path | str) -> pd.DataFrame:
    """The diagnostics of every finished run under ``out`` whose method reads both modalities.

    Where several runs of single-modality methods fit, the one with the best validation score counts; of runs that differ only
    in their code, the newest.

    Returns:
        One row per run: `KEYS`, ``condition``, ``options``, ``fold``, ``seed``, ``headline``, ``audio_method``, ``text_method``,
        what `decompose` returns, ``v_none``, ``v_audio``, ``v_text``, ``v_both``, ``phi_audio``, ``phi_text``, and with
        ``_masked`` the same from the fusion without one modality, NaN where that isn't stored.

    Raises:
        NothingStoredError: If no such run has both single-modality runs beside it.
    """
    out = Path(out)
    runs = []
    for name, spec, result in read_newest(out, identity_of):
        if spec["method"] not in list_methods():
            continue  # of another version: what it reads isn't known
        found = {key: spec[key] for key in (*KEYS, "fold", "seed", "classes")} | {
            "condition": condition_of(spec),
            "options": row_options(spec),
            "headline": result["headline"],
            "task": task_of(result),
            "modalities": get_method(spec["method"]).modalities,
            "validation": result["validation"][result["headline"]],
            "score": result["scores"][result["headline"]],
            "folder": out / name,
        }
        runs.append(found)
    single: dict[tuple[Any, ...], dict[str, Any]] = {}
    for run in runs:
        if len(run["modalities"]) == 1:
            place = (run["condition"], run["fold"], run["seed"], run["modalities"][0])
            if place not in single or run["validation"] > single[place]["validation"]:
                single[place] = run
    rows = []
    for run in runs:
        pair = [single.get((run["condition"], run["fold"], run["seed"], modality)) for modality in ("audio", "text")]
        if len(run["modalities"]) == 2 and pair[0] and pair[1]:
            rows.append(_row(run, pair[0], pair[1]))
    if not rows:
        raise NothingStoredError(
            f"{out} holds no run of a fusion with a run of audio alone and one of text alone beside it, of the same condition, "
            "fold and seed; add audio_only and text_only to the suite's methods"
        )
    return pd.DataFrame(rows)


def _row(run: dict[str, Any], audio: dict[str, Any], text: dict[str, Any]) -> dict[str, Any]:
    of_audio, of_text, of_both = (read_predictions(each["folder"]) for each in (audio, text, run))
    none = constant_score(of_both, run["classes"], run["headline"], run["task"])
    phi = shapley(none, audio["score"], text["score"], run["score"])
    masked = _masked(run, "no_text=1"), _masked(run, "no_audio=1")
    phi_masked = shapley(none, masked[0], masked[1], run["score"])
    return {
        **{key: run[key] for key in (*KEYS, "condition", "options", "fold", "seed", "headline")},
        "audio_method": f"{audio['method']} ({audio['variant']})",
        "text_method": f"{text['method']} ({text['variant']})",
        **decompose(of_audio, of_text, of_both, run["task"]),
        **{"v_none": none, "v_audio": audio["score"], "v_text": text["score"], "v_both": run["score"]},
        **{"phi_audio": phi[0], "phi_text": phi[1], "v_audio_masked": masked[0], "v_text_masked": masked[1]},
        **{"phi_audio_masked": phi_masked[0], "phi_text_masked": phi_masked[1]},
    }


def _masked(run: dict[str, Any], name: str) -> float:
    """The run's own score without a modality, NaN where it isn't stored."""
    file = run["folder"] / FOLDER / f"{name}.parquet"
    if not file.is_file():
        return float("nan")
    return float(scores(read_stored(file, "'fusion-zoo robustness'"), run["classes"], run["task"])[run["headline"]])


def summarise(frame: pd.DataFrame) -> pd.DataFrame:
    """Mean and sample deviation over folds and seeds, ``<value>_mean`` and ``<value>_std``, one row per method and variant.

    The ``_masked`` values of a row are NaN unless all its runs have them: means over fewer runs wouldn't add up with the others.

    Args:
        frame: As of `read_interactions`.
    """
    keys = ["condition", *KEYS, "options", "headline"]
    masked = [value for value in _VALUES if value.endswith("_masked")]
    whole = frame[masked].notna().groupby([frame[key] for key in keys], sort=False).transform("all")
    frame = frame.assign(**frame[masked].where(whole))
    grouped = frame.groupby(keys, sort=False)
    table = pd.DataFrame({"runs": grouped.size()})
    table = table.join(grouped[["audio_method", "text_method"]].agg(_unique))
    mean, deviation = grouped[_VALUES].mean(), grouped[_VALUES].std()
    for value in _VALUES:
        table[f"{value}_mean"], table[f"{value}_std"] = mean[value], deviation[value].fillna(0.0)
    return table.reset_index().sort_values(["condition", "v_both_mean"], ascending=[True, False], kind="stable", ignore_index=True)


def _unique(names: "pd.Series[str]") -> str:
    return ", ".join(sorted(set(names)))


def to_markdown(summary: pd.DataFrame) -> str:
    """Two tables per condition, with what they mean."""
    parts = []
    for (_, corpus, protocol, track), rows in summary.groupby(["condition", "corpus", "protocol", "track"], sort=False):
        parts.append(f"**Interactions: {corpus_name(str(corpus))}, protocol {protocol}, {track} track**")
        for heading, columns in tables(rows).items():
            parts += [f"{heading}:", pipe_table(columns)]
        parts.append("\n".join(f"- {line}" for line in notes(rows)))
    return "\n\n".join(parts) + "\n"


def tables(rows: pd.DataFrame) -> dict[str, dict[str, list[str]]]:
    """The two tables of one condition, by what stands above them.

    Args:
        rows: The condition's, of `summarise`.
    """
    headline, several = TITLES[rows["headline"].iloc[0]], rows["headline"].iloc[0] in MULTILABEL_METRICS
    names = {"method": rows["method"].tolist(), "variant": rows["variant"].tolist(), "runs": [str(n) for n in rows["runs"]]}
    regions = {"both": "both", "audio": "audio only", "text": "text only", "neither": "neither"}
    share = {title: percentages(rows, f"share_{name}") for name, title in regions.items()}
    right = {title: percentages(rows, f"right_{name}") for name, title in regions.items()}
    if all(len(set(cells)) == 1 for cells in share.values()):
        said = ": " + ", ".join(f"{title} {cells[0]}" for title, cells in share.items())
    else:  # the rows have other runs, and so other ones of single modalities beside them
        said = " (shares)"
        right = {f"share, {title}": cells for title, cells in share.items()} | right
    values = {title: percentages(rows, value) for value, title in _TITLES.items() if rows[f"{value}_mean"].notna().any()}
    return {
        f"What the single modalities get right, in % of the {'decisions on the ' if several else ''}test split{said}. "
        "Of each of these, the fusion gets right (%)": names | right | {"only the pair": percentages(rows, "only_the_pair")},
        f"{headline} (%) and Shapley values (points)": names | values,
    }


def notes(rows: pd.DataFrame) -> list[str]:
    """What a reader of the `tables` must know."""
    headline, several = TITLES[rows["headline"].iloc[0]], rows["headline"].iloc[0] in MULTILABEL_METRICS
    singles = ", ".join(sorted({*rows["audio_method"], *rows["text_method"]}))
    lines = [
        *absent_notes(json.loads(rows["condition"].iloc[0])["absent"]),
        f"single modalities: {singles}; mean ± sample standard deviation over runs",
        f"only the pair: share of all {'decisions' if several else 'test utterances'} that the fusion gets right and neither "
        "single modality does; guessing brings some. These count right answers of these models and are no partial information "
        "decomposition",
        f"none: the best constant answer; φ audio + φ text = both - none, in points of {headline}",
    ]
    if several:
        lines.append("a decision is about one class of one utterance; most are a right no, whatever is read")
    if rows["v_audio_masked_mean"].notna().any():
        lines.append(
            "without text, without audio: the fusion itself at test, and its Shapley values, masked; a dash where not all runs "
            "of a row are scored so"
        )
    return lines
