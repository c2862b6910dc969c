"""The demo corpus has the properties on which reading a leaderboard by interaction rests."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile

from datamodules.corpora import COLUMNS, demo, open_corpus
from datamodules.corpora.demo import INTERACTIONS, LABELS, SAMPLE_RATE, Demo, plan, render
from datamodules.problems import BadInputError

SIZES = {"train": 384, "val": 64, "test": 192}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus that two processes generated at once."""
    root = tmp_path_factory.mktemp("corpora") / "demo"
    script = "import sys; from pathlib import Path; from datamodules.corpora.demo import Demo; Demo(Path(sys.argv[1])).table()"
    repository = Path(demo.__file__).parents[2]
    environment = os.environ | {"PYTHONPATH": str(repository)}
    both = [subprocess.Popen([sys.executable, "-c", script, str(root)], env=environment) for _ in range(2)]
    assert [process.wait(timeout=300) for process in both] == [0, 0]
    return root


@pytest.fixture(scope="module")
def table(root: Path) -> pd.DataFrame:
    """The corpus's table."""
    return Demo(root).table()


@pytest.fixture(scope="module")
def waves(table: pd.DataFrame) -> dict[str, np.ndarray]:
    """Samples by utterance: (T,)."""
    waves = {}
    for row in table.itertuples():
        waves[row.utterance_id], rate = soundfile.read(row.audio)
        assert rate == SAMPLE_RATE
    return waves


def best_accuracy(table: pd.DataFrame, by: list[str]) -> float:
    """Accuracy of always naming the most frequent label among the rows that agree in ``by``: no predictor from it is better."""
    return table.groupby(by)["label"].agg(lambda labels: labels.value_counts().max()).sum() / len(table)


def test_table_has_the_columns_and_counts(table: pd.DataFrame, root: Path) -> None:
    assert set(COLUMNS) | {"interaction", "words", "voice", "row"} <= set(table.columns)
    assert table["utterance_id"].is_unique
    assert table["split"].value_counts().to_dict() == SIZES
    assert table["interaction"].value_counts().to_dict() == dict.fromkeys(INTERACTIONS, 160)
    for _, cell in table.groupby(["split", "interaction"]):
        assert cell["label"].value_counts().to_dict() == dict.fromkeys(LABELS, len(cell) // 4)
    assert table[["start", "end", "session"]].isna().all(axis=None)
    lines = (root / "manifest.csv").read_text().splitlines()
    assert all(lines[row.row - 1].startswith(row.utterance_id + ",") for row in table.itertuples())


def test_splits_share_no_speaker_dialogue_or_transcript(table: pd.DataFrame) -> None:
    assert (table.groupby("speaker")["split"].nunique() == 1).all()
    assert (table.groupby("dialogue")["split"].nunique() == 1).all()
    assert table.groupby("split")["speaker"].nunique().to_dict() == {"train": 10, "val": 3, "test": 3}
    assert table["text"].str.lower().is_unique
    assert table["text"].str.split().str.len().between(3, 16).all()


@pytest.mark.parametrize("seed", range(5))
def test_dialogues_have_turns_two_speakers_and_inertia(seed: int) -> None:
    table = plan(seed)
    dialogues = table.groupby("dialogue")
    assert dialogues.size().between(4, 8).all()
    assert dialogues["turn"].agg(list).map(lambda turns: turns == list(range(len(turns)))).all()
    assert (dialogues["speaker"].nunique() <= 2).all()
    later = table["turn"] > 0
    kept = (table["label"] == table["label"].shift())[later].mean()
    assert 0.4 < kept < 0.7
    switched = (table["speaker"] != table["speaker"].shift())[later].mean()
    assert 0.5 < switched < 0.9
    assert table["text"].is_unique


def test_where_the_label_is(table: pd.DataFrame) -> None:
    rows = {name: table[table["interaction"] == name] for name in INTERACTIONS}
    assert (rows["redundant"]["words"] == rows["redundant"]["label"]).all()
    assert (rows["redundant"]["voice"] == rows["redundant"]["label"]).all()
    assert (rows["audio"]["words"] == "plain").all()
    assert (rows["audio"]["voice"] == rows["audio"]["label"]).all()
    assert (rows["text"]["voice"] == "flat").all()
    assert (rows["text"]["words"] == rows["text"]["label"]).all()
    others = set(table["words"]) - set(rows["synergy"]["words"])
    assert others == {*LABELS, "plain"}  # cue groups are groups of their own, so no interaction contradicts another


@pytest.mark.parametrize("split", SIZES)
def test_synergy_needs_both_modalities(table: pd.DataFrame, split: str) -> None:
    rows = table[(table["interaction"] == "synergy") & (table["split"] == split)]
    assert best_accuracy(rows, ["words"]) == 0.25
    assert best_accuracy(rows, ["voice"]) == 0.25
    assert best_accuracy(rows, ["words", "voice"]) == 1.0
    assert set(rows.groupby(["words", "voice"]).size()) == {len(rows) // 16}


@pytest.mark.parametrize("rule", ["mean", "product"])
def test_late_fusion_of_the_exact_posteriors_is_at_chance_on_synergy(table: pd.DataFrame, rule: str) -> None:
    # A synergy utterance's words are in no other interaction and equally often in all classes: their posterior is uniform, so
    # whatever is done with both posteriors follows the voice alone.
    train, rows = table[table["split"] == "train"], table[(table["split"] == "test") & (table["interaction"] == "synergy")]
    voice, words = (
        pd.crosstab(train[part], train["label"], normalize="index").loc[rows[part]].to_numpy() for part in ("voice", "words")
    )
    assert (words == 0.25).all()
    posterior = voice + words if rule == "mean" else voice * words
    chosen = np.array(sorted(LABELS))[posterior.argmax(1)]
    assert (chosen == rows["label"]).mean() == 0.25


@pytest.mark.parametrize("split", SIZES)
def test_one_modality_suffices_exactly_where_it_should(table: pd.DataFrame, split: str) -> None:
    rows = table[table["split"] == split].groupby("interaction")
    by_words = {name: best_accuracy(group, ["words"]) for name, group in rows}
    by_voice = {name: best_accuracy(group, ["voice"]) for name, group in rows}
    assert by_words == {"redundant": 1.0, "audio": 0.25, "text": 1.0, "synergy": 0.25}
    assert by_voice == {"redundant": 1.0, "audio": 1.0, "text": 0.25, "synergy": 0.25}


def digests(root: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(root.rglob("*")) if path.is_file()}


def test_same_seed_gives_the_same_bytes(root: Path, tmp_path: Path) -> None:
    # A part in another order: each utterance depends on nothing spoken before it.
    (tmp_path / "audio").mkdir()
    part = plan(0).sample(80, random_state=0)
    render(part, tmp_path, 0)
    again = digests(tmp_path)
    assert len(again) == 80
    assert again.items() <= digests(root).items()
    pd.testing.assert_frame_equal(plan(0), plan(0))


def test_another_seed_gives_another_corpus(root: Path, tmp_path: Path) -> None:
    assert plan(1)["text"].tolist() != plan(0)["text"].tolist()
    (tmp_path / "audio").mkdir()
    part = plan(0).head(3)
    render(part, tmp_path, 1)
    assert not set(digests(tmp_path).values()) & set(digests(root).values())
    with pytest.raises(BadInputError, match="seed 1"):
        Demo(root, seed=1).table()


def test_two_processes_leave_one_whole_corpus(root: Path, table: pd.DataFrame) -> None:
    assert sorted(path.name for path in root.iterdir()) == ["audio", "manifest.csv"]
    assert {str(path) for path in (root / "audio").iterdir()} == set(table["audio"])
    assert not list(root.parent.glob("*.partial"))


def test_audio_is_sound(waves: dict[str, np.ndarray]) -> None:
    seconds = np.array([len(wave) / SAMPLE_RATE for wave in waves.values()])
    assert seconds.min() > 0.5
    assert seconds.max() < 8
    assert seconds.std() > 0.5
    for wave in waves.values():
        assert wave.ndim == 1
        assert np.isfinite(wave).all()
        assert np.sqrt(np.mean(wave**2)) > 1e-3
        assert np.mean(np.abs(wave) > 0.999) < 1e-3  # hardly clipped


def median_pitch(wave: np.ndarray) -> float:
    """Median over voiced frames of the autocorrelation's peak, in Hz."""
    pitches = []
    size, step, loud = 1024, 512, np.sqrt(np.mean(wave**2))
    shortest, longest = SAMPLE_RATE // 500, SAMPLE_RATE // 60
    for start in range(0, len(wave) - size, step):
        frame = wave[start : start + size] - wave[start : start + size].mean()
        if np.sqrt(np.mean(frame**2)) < loud:
            continue
        correlation = np.fft.irfft(np.abs(np.fft.rfft(frame, 2 * size)) ** 2)[:size] / np.arange(size, 0, -1)
        lag = shortest + int(np.argmax(correlation[shortest:longest]))
        if correlation[lag] > 0.5 * correlation[0]:
            pitches.append(SAMPLE_RATE / lag)
    return float(np.median(pitches)) if pitches else float("nan")


def test_voice_styles_can_be_heard_in_every_speaker(table: pd.DataFrame, waves: dict[str, np.ndarray]) -> None:
    some = table.groupby(["speaker", "voice"]).head(3)
    heard = some.assign(
        level=[20 * np.log10(np.sqrt(np.mean(waves[name] ** 2))) for name in some["utterance_id"]],
        pitch=[median_pitch(waves[name]) for name in some["utterance_id"]],
    )
    level = heard.pivot_table(index="speaker", columns="voice", values="level", aggfunc="median")
    pitch = heard.pivot_table(index="speaker", columns="voice", values="pitch", aggfunc="median")
    assert (level["angry"] > level["happy"] + 3).all()
    assert (level["happy"] > level["neutral"] + 3).all()
    assert (level["neutral"] > level["sad"] + 3).all()
    assert (pitch["happy"] > 1.2 * pitch["neutral"]).mean() > 0.8  # this plain estimate errs by an octave now and then
    assert (pitch["neutral"] > 1.1 * pitch["sad"]).mean() > 0.8


def test_a_damaged_corpus_is_reported_by_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "render", lambda planned, root, seed: [(root / name).touch() for name in planned["audio"]])
    corpus = Demo(tmp_path / "demo")
    table = corpus.table()
    Path(table["audio"][4]).unlink()
    with pytest.raises(BadInputError, match="missing") as caught:
        corpus.table()
    (problem,) = caught.value.problems
    assert (problem.file, problem.row, problem.position) == (corpus.index_file, 6, 4)
    assert len(corpus.table(skip_bad=True)) == 639


def test_an_interrupted_generation_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("interrupted")

    monkeypatch.setattr(demo, "render", fail)
    with pytest.raises(RuntimeError, match="interrupted"):
        Demo(tmp_path / "demo").table()
    assert [path.name for path in tmp_path.iterdir() if not path.name.endswith(".lock")] == []


def test_someone_elses_folder_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("important")
    with pytest.raises(BadInputError, match="not empty"):
        Demo(tmp_path).table()
    assert (tmp_path / "thesis.tex").read_text() == "important"


def test_a_long_path_of_espeaks_data_is_no_obstacle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    far = tmp_path / ("x" * 100) / ("y" * 100)
    far.mkdir(parents=True)
    (far / "espeak-ng-data").symlink_to(demo.espeakng_loader.get_data_path())
    usual, scratch = tmp_path / "1", tmp_path / "2"
    usual.mkdir()
    scratch.mkdir()
    want = demo._Espeak(usual).say("Good morning.", "m3", 50, 50, 170)
    monkeypatch.setattr(demo.espeakng_loader, "get_data_path", lambda: str(far / "espeak-ng-data"))
    np.testing.assert_array_equal(demo._Espeak(scratch).say("Good morning.", "m3", 50, 50, 170), want)


def test_espeaks_refusal_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo.espeakng_loader, "get_data_path", lambda: str(tmp_path))
    with pytest.raises(RuntimeError, match="espeak_Initialize"):
        demo._Espeak(tmp_path).say("Good morning.", "m3", 50, 50, 170)


def test_default_root_is_in_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FUSION_ZOO_CACHE", str(tmp_path))
    corpus = open_corpus("demo")
    assert corpus.root == tmp_path / "corpora" / "demo-1-seed0"
    assert corpus.index_file == corpus.root / "manifest.csv"
    assert corpus.slices == ("interaction",)
