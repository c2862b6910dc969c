"""Interaction diagnostics against predictions whose regions are known."""

import json
from itertools import permutations, product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from benchmarks.interactions import decompose, read_interactions, shapley, summarise, to_markdown
from benchmarks.results import ResultError
from benchmarks.robustness import FOLDER, constant_score
from benchmarks.runner import scores

CLASSES = ["a", "b", "c", "d"]


def predictions(right: str) -> pd.DataFrame:
    """``1`` for a right answer, ``0`` for a wrong one; labels go round."""
    labels = [CLASSES[number % 4] for number in range(len(right))]
    answers = [
        label if hit == "1" else CLASSES[(number + 1) % 4] for number, (label, hit) in enumerate(zip(labels, right, strict=True))
    ]
    table = pd.DataFrame({f"p_{c}": np.float32([0.7 if answer == c else 0.1 for answer in answers]) for c in CLASSES})
    return table.assign(utterance_id=[f"u{number}" for number in range(len(right))], label=labels)


#         both      audio     text      neither
AUDIO = "1111111111110000000000000000"
TEXT_ = "1111111100000000110000000000"
BOTH_ = "1111111011100001100000001000"


def test_regions_are_what_the_single_modalities_get_right() -> None:
    found = decompose(predictions(AUDIO), predictions(TEXT_).sample(frac=1, random_state=0), predictions(BOTH_))
    assert {key: found[f"share_{key}"] * 28 for key in ("both", "audio", "text", "neither")} == pytest.approx(
        {"both": 8, "audio": 4, "text": 2, "neither": 14}
    )
    assert found["right_both"] == pytest.approx(7 / 8)
    assert found["right_audio"] == pytest.approx(3 / 4)
    assert found["right_text"] == pytest.approx(1 / 2)
    assert found["right_neither"] == pytest.approx(2 / 14)
    assert found["only_the_pair"] == pytest.approx(2 / 28)
    total = sum(found[f"share_{key}"] * found[f"right_{key}"] for key in ("both", "audio", "text", "neither"))
    assert total == pytest.approx(BOTH_.count("1") / 28)


def test_an_empty_region_says_nothing() -> None:
    found = decompose(predictions("1111"), predictions("1111"), predictions("1011"))
    assert found["share_neither"] == 0
    assert np.isnan(found["right_neither"])
    assert found["only_the_pair"] == 0


def test_different_utterances_are_refused() -> None:
    with pytest.raises(ResultError, match="different utterances"):
        decompose(predictions("1111"), predictions("111"), predictions("1011"))


def test_shapley_is_the_mean_gain_over_the_orders() -> None:
    random = np.random.default_rng(0)
    for _ in range(20):
        none, audio, text, both = random.random(4)
        value = {frozenset(): none, frozenset("a"): audio, frozenset("t"): text, frozenset("at"): both}
        slow = {
            player: np.mean(
                [
                    value[frozenset(order[: order.index(player) + 1])] - value[frozenset(order[: order.index(player)])]
                    for order in permutations("at")
                ]
            )
            for player in "at"
        }
        assert shapley(none, audio, text, both) == pytest.approx((slow["a"], slow["t"]))
        assert sum(shapley(none, audio, text, both)) == pytest.approx(both - none)


def test_the_best_constant_answer() -> None:
    table = predictions("1" * 6)  # labels a b c d a b
    assert constant_score(table, CLASSES, "uar") == pytest.approx(1 / 4)
    assert constant_score(table, CLASSES, "war") == pytest.approx(2 / 6)
    assert constant_score(table[:3], CLASSES, "uar") == pytest.approx(1 / 3)  # d doesn't occur


def several(right: list[str]) -> pd.DataFrame:
    """Two utterances and three classes of a multi-label task, of which the ``1`` are decided rightly."""
    truth = np.array([[True, False, False], [True, True, False]])
    guess = np.where([[hit == "1" for hit in row] for row in right], truth, ~truth)
    table = pd.DataFrame({f"p_{c}": np.float32(np.where(guess[:, n], 0.8, 0.3)) for n, c in enumerate("abc")})
    return table.assign(utterance_id=["u0", "u1"], label=["a", "a+b"])


def test_of_several_labels_each_decision_counts() -> None:
    audio, text, both = several(["110", "001"]), several(["101", "000"]), several(["011", "100"])
    found = decompose(audio, text.iloc[::-1], both, "multilabel")
    shares = {region: found[f"share_{region}"] * 6 for region in ("both", "audio", "text", "neither")}
    assert shares == pytest.approx({"both": 1, "audio": 2, "text": 1, "neither": 2})
    right = {region: found[f"right_{region}"] for region in ("both", "audio", "text", "neither")}
    assert right == pytest.approx({"both": 0, "audio": 1 / 2, "text": 1, "neither": 1 / 2})
    assert found["only_the_pair"] == pytest.approx(1 / 6)


@pytest.mark.filterwarnings("ignore:No negative samples")
@pytest.mark.parametrize("metric", ["mean_weighted_accuracy", "mean_weighted_f1", "mean_roc_auc"])
def test_the_best_constant_answer_of_several_labels_is_the_best_of_all_sets(metric: str) -> None:
    table = pd.DataFrame({"utterance_id": list("uvwx"), "label": ["a", "a+b", "a", "c+a"]}).assign(p_a=0.0, p_b=0.0, p_c=0.0)
    best = 0.0
    for answer in product([0.0, 1.0], repeat=3):
        constant = table.assign(**{f"p_{c}": np.float32(p) for c, p in zip("abc", answer, strict=True)})
        best = max(best, scores(constant, ["a", "b", "c"], "multilabel")[metric])
    assert constant_score(table, ["a", "b", "c"], metric, "multilabel") == pytest.approx(best)


def store(
    out: Path, method: str, right: str, seed: int = 0, validation: float = 0.5, finished: str = "2026-01-01", **changes: object
) -> Path:
    """A finished run with the files that the diagnostics read."""
    table = predictions(right)
    spec = {
        "method": method,
        "variant": str(changes.get("options") or "default"),
        "options": {},
        "track": "controlled",
        "corpus": "demo 1",
        "protocol": "split@1",
        "precision": "32-true",
        "max_seconds": 30.0,
        "classes": CLASSES,
        "data": "d",
        "audio": {},
        "text": {},
        "training": {},
        "fold": 0,
        "seed": seed,
        **changes,
    }
    folder = out / f"{method}-{seed}-{len(list(out.glob('*')))}"
    folder.mkdir(parents=True)
    table.to_parquet(folder / "predictions.parquet")
    result = {
        "spec": spec,
        "scores": scores(table, CLASSES),
        "headline": "uar",
        "validation": {"uar": validation},
        "finished": finished,
    }
    (folder / "result.json").write_text(json.dumps(result))
    return folder


def test_runs_meet_their_own_seed_and_the_best_single_rows(tmp_path: Path) -> None:
    for seed, fusion in ((0, BOTH_), (1, "1" * 28)):
        store(tmp_path, "audio_only", AUDIO, seed, 0.6)
        store(tmp_path, "audio_only", "0" * 28, seed, 0.4, options={"hidden": 8})
        store(tmp_path, "text_only", "1" * 28, seed, finished="2025-01-01")
        store(tmp_path, "text_only", TEXT_, seed)
        store(tmp_path, "early_concat", fusion, seed)
    store(tmp_path, "early_concat", "0" * 28, 2)  # nothing beside it
    masked = predictions("1111" * 2 + "0" * 20)
    (next(tmp_path.glob("early_concat-0-*")) / FOLDER).mkdir()
    masked.to_parquet(next(tmp_path.glob("early_concat-0-*")) / FOLDER / "no_text=1.parquet")
    frame = read_interactions(tmp_path)
    assert frame["seed"].tolist() == [0, 1]
    assert set(frame["audio_method"]) == {"audio_only (default)"}
    assert frame["v_text"].tolist() == pytest.approx([10 / 28] * 2)
    assert frame["v_both"].tolist() == pytest.approx([BOTH_.count("1") / 28, 1])
    assert frame["right_neither"].tolist() == pytest.approx([2 / 14, 1])
    assert frame["v_audio_masked"][0] == pytest.approx(8 / 28)
    assert np.isnan(frame["v_text_masked"][0])
    summary = summarise(frame)
    assert summary["only_the_pair_mean"].tolist() == pytest.approx([8 / 28])
    assert summary["only_the_pair_std"].tolist() == pytest.approx([np.std([2 / 28, 14 / 28], ddof=1)])
    shown = to_markdown(summary)
    assert "both 28.6 ± 0.0, audio only 14.3 ± 0.0, text only 7.1 ± 0.0, neither 50.0 ± 0.0" in shown
    assert "| early_concat | default |    2 | 93.8 ± 8.8 |" in shown
    next(tmp_path.glob(f"*/{FOLDER}/*")).write_bytes(b"no parquet")
    with pytest.raises(ResultError, match=r"no_text=1.parquet can't be read .* run 'fusion-zoo robustness' again"):
        read_interactions(tmp_path)


def test_masked_values_stand_where_all_runs_have_them(tmp_path: Path) -> None:
    for seed, fusion in ((0, BOTH_), (1, "1" * 28)):
        store(tmp_path, "audio_only", AUDIO, seed)
        store(tmp_path, "text_only", TEXT_, seed)
        folders = [store(tmp_path, "early_concat", fusion, seed), store(tmp_path, "mer_han", fusion, seed)]
        for folder in folders[: 2 - seed]:  # one run of mer_han isn't scored
            (folder / FOLDER).mkdir()
            for name in ("no_text=1", "no_audio=1"):
                predictions("1111" * 3 + "0" * 16).to_parquet(folder / FOLDER / f"{name}.parquet")
    summary = summarise(read_interactions(tmp_path)).set_index("method")
    masked = [f"{value}_masked_mean" for value in ("v_audio", "v_text", "phi_audio", "phi_text")]
    assert summary.loc["mer_han", masked].isna().all()
    whole = summary.loc["early_concat"]
    total = whole["phi_audio_masked_mean"] + whole["phi_text_masked_mean"]
    assert total == pytest.approx(whole["v_both_mean"] - whole["v_none_mean"])
    shown = to_markdown(summary.reset_index())
    assert "a dash where not all runs of a row are scored so" in shown


def test_rows_with_different_runs_show_the_regions_of_each(tmp_path: Path) -> None:
    store(tmp_path, "audio_only", AUDIO)
    store(tmp_path, "audio_only", "1" * 28, seed=1)
    for seed in (0, 1):
        store(tmp_path, "text_only", TEXT_, seed)
        store(tmp_path, "early_concat", BOTH_, seed)
    store(tmp_path, "mer_han", BOTH_)
    shown = to_markdown(summarise(read_interactions(tmp_path)))
    head, _, one, other = [[cell.strip() for cell in line.split("|")] for line in shown.splitlines() if line.startswith("|")][:4]
    shares = {row[1]: row[head.index("share, audio only")] for row in (one, other)}
    assert shares["mer_han"] == "14.3 ± 0.0"
    assert shares["early_concat"] == f"{100 * (4 + 18) / 2 / 28:.1f} ± {100 * np.std([4 / 28, 18 / 28], ddof=1):.1f}"
    assert "in % of the test split (shares). Of each of these" in shown


def test_without_single_rows_there_is_nothing_to_say(tmp_path: Path) -> None:
    store(tmp_path, "early_concat", BOTH_)
    store(tmp_path, "audio_only", AUDIO)
    with pytest.raises(ResultError, match="add audio_only and text_only"):
        read_interactions(tmp_path)
