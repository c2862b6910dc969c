"""IEMOCAP as distributed reads to one row per evaluated turn, and whatever is missing is named."""

import itertools
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from iemocap_layout import COUNTS, LABELS, TURNS, sentence, write_iemocap

from benchmarks import Suite, bench
from datamodules.batch import IGNORED
from datamodules.corpora import COLUMNS, open_corpus
from datamodules.corpora.iemocap import Iemocap
from datamodules.emotion import EmotionDataModule, load_utterances
from datamodules.features import parse_feature
from datamodules.problems import BadInputError, Problem
from datamodules.protocols import apply_protocol
from zoo.base import Training


@pytest.fixture(scope="module")
def official(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_iemocap(tmp_path_factory.mktemp("iemocap"))


@pytest.fixture
def root(official: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy to spoil, whose counts are the known ones."""
    monkeypatch.setattr(Iemocap, "counts", COUNTS)
    return Path(shutil.copytree(official, tmp_path / "IEMOCAP_full_release"))


def wav(root: Path, turn: str) -> Path:
    return root / f"Session{turn[4]}" / "sentences" / "wav" / turn.rpartition("_")[0] / f"{turn}.wav"


def evaluation(root: Path, dialogue: str) -> Path:
    return root / f"Session{dialogue[4]}" / "dialog" / "EmoEvaluation" / f"{dialogue}.txt"


def transcript(root: Path, dialogue: str) -> Path:
    return root / f"Session{dialogue[4]}" / "dialog" / "transcriptions" / f"{dialogue}.txt"


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_bytes().decode()
    assert old in text
    path.write_bytes(text.replace(old, new, 1).encode())


def only(root: Path) -> Problem:
    (problem,) = Iemocap(root).read().problems
    return problem


def test_the_release_reads_without_a_problem(root: Path) -> None:
    table, problems = Iemocap(root).read()
    assert problems == []
    assert list(table.columns[: len(COLUMNS)]) == list(COLUMNS)
    assert table["session"].value_counts().to_dict() == COUNTS
    assert table["utterance_id"].is_unique
    assert table["label"].value_counts().to_dict() == dict.fromkeys(LABELS, 31)
    assert all(Path(path).is_file() for path in table["audio"])
    assert table["seconds"].tolist() == pytest.approx([0.1] * len(table))
    assert table[["start", "end", "split"]].isna().all(axis=None)


def test_one_row_says_what_the_files_say(root: Path) -> None:
    table = Iemocap(root).table().set_index("utterance_id")
    row = table.loc["Ses02M_script01_1_F001"]
    assert row["audio"] == str(wav(root, "Ses02M_script01_1_F001"))
    assert (row["text"], row["label"]) == ("Line 2 of script01_1, isn't it?", "exc")
    assert (row["speaker"], row["dialogue"], row["session"]) == ("Ses02F", "Ses02M_script01_1", "Session2")
    assert (row["valence"], row["activation"], row["dominance"]) == (2.5, 3.0, 3.5)
    assert not row["improvised"]
    assert table.loc["Ses01F_impro01_F000", "votes"] == "E2:Anger E4:Anger+Frustration F1:Neutral"
    assert table.loc["Ses01F_impro01_M000", "speaker"] == "Ses01M"
    assert table["speaker"].nunique() == 10


def test_turns_are_in_the_order_of_speaking(root: Path) -> None:
    """The evaluation lists an actor's turns together; the dialogue alternates."""
    table = Iemocap(root).table()
    dialogue = table[table["dialogue"] == "Ses03F_impro01"].sort_values("turn")
    assert dialogue["turn"].tolist() == list(range(TURNS))
    assert dialogue["text"].tolist() == [sentence("Ses03F_impro01", n) for n in range(TURNS)]
    assert dialogue["label"].tolist() == list(LABELS)


def test_a_script_has_one_id_whoever_performs_it(root: Path) -> None:
    table = Iemocap(root).table()
    scripts = table[~table["improvised"]]
    assert set(scripts["script"]) == {"script01_1", "script02_1", "script03_2"}
    assert scripts.groupby("script")["session"].nunique().tolist() == [5, 5, 5]
    assert set(table.loc[table["dialogue"] == "Ses05M_script01_1b", "script"]) == {"script01_1"}
    assert table.loc[table["improvised"], "script"].isna().all()


@pytest.mark.parametrize("named", ["release", "parent"])
def test_the_folder_may_be_named_or_its_parent(root: Path, named: str) -> None:
    table = open_corpus("iemocap", root if named == "release" else root.parent).table()
    assert len(table) == sum(COUNTS.values())


def test_a_missing_session_is_named_and_partial(root: Path) -> None:
    shutil.rmtree(root / "Session3")
    problem = only(root)
    assert (problem.file, problem.what) == (root / "Session3", "the session is missing")
    with pytest.raises(BadInputError, match="Session3: the session is missing; unpack the archive again"):
        Iemocap(root).table()
    table = Iemocap(root).table(skip_bad=True)
    assert sorted(table["session"].unique()) == ["Session1", "Session2", "Session4", "Session5"]
    assert table.attrs["problems"] == [str(problem)]


def test_counts_that_differ_name_the_session(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Iemocap, "counts", COUNTS | {"Session2": 1811})
    problem = only(root)
    assert problem.file == root / "Session2"
    assert problem.what == "it has 48 evaluated turns; the full release has 1,811"
    assert len(Iemocap(root).table(skip_bad=True)) == sum(COUNTS.values())


def test_the_known_counts_are_those_of_the_release() -> None:
    assert sum(Iemocap.counts.values()) == 10_039


def test_a_session_without_audio_loses_its_rows_only(root: Path) -> None:
    shutil.rmtree(root / "Session4" / "sentences")
    problems = Iemocap(root).read().problems
    assert problems[0].file == root / "Session4" / "sentences" / "wav"
    assert problems[0].what == "the folder is missing"
    assert len(problems) == 1 + COUNTS["Session4"]
    assert "Session4" not in set(Iemocap(root).table(skip_bad=True)["session"])


def test_a_session_without_evaluations_names_its_dialogues(root: Path) -> None:
    shutil.rmtree(root / "Session1" / "dialog" / "EmoEvaluation")
    problems = Iemocap(root).read().problems
    assert [p.what for p in problems[:2]] == [
        "the folder is missing",
        "none of the 8 turns of Ses01F_impro01 is evaluated; its file is missing",
    ]
    assert len(problems) == 1 + 6


def test_one_missing_evaluation_is_one_problem_and_a_count(root: Path) -> None:
    evaluation(root, "Ses01F_impro01").unlink()
    problems = Iemocap(root).read().problems
    assert [p.what for p in problems] == [
        "none of the 8 turns of Ses01F_impro01 is evaluated; its file is missing",
        "it has 40 evaluated turns; the full release has 48",
    ]


def test_a_transcript_without_audio(root: Path) -> None:
    wav(root, "Ses02M_impro02_F001").unlink()
    problem = only(root)
    assert problem.what == "Ses02M_impro02_F001: audio file is missing"
    assert problem.file == wav(root, "Ses02M_impro02_F001")
    table = Iemocap(root).table(skip_bad=True)
    assert len(table) == sum(COUNTS.values()) - 1
    assert "Ses02M_impro02_F001" not in set(table["utterance_id"])


def test_an_evaluation_without_transcript(root: Path) -> None:
    path = transcript(root, "Ses02M_impro02")
    lines = path.read_bytes().split(b"\r\n")
    path.write_bytes(b"\r\n".join(line for line in lines if b"_F001 " not in line))
    problem = only(root)
    assert problem.file == path
    assert problem.what.startswith("Ses02M_impro02_F001 is evaluated (Ses02M_impro02.txt:")
    assert "Ses02M_impro02_F001" not in set(Iemocap(root).table(skip_bad=True)["utterance_id"])


@pytest.mark.parametrize(
    ("transcribed", "recorded", "what"),
    [
        (True, False, "has a transcript, but neither audio nor an evaluation"),
        (False, True, "has audio, but neither a transcript nor an evaluation"),
        (True, True, "is transcribed and has audio, but isn't evaluated"),
    ],
)
def test_turns_that_nobody_evaluated(root: Path, transcribed: bool, recorded: bool, what: str) -> None:
    turn = "Ses01F_impro01_M099"
    if transcribed:
        with transcript(root, "Ses01F_impro01").open("ab") as file:
            file.write(f"{turn} [100.0000-101.0000]: Yes.\n".encode())
    if recorded:
        shutil.copy(wav(root, "Ses01F_impro01_M000"), wav(root, turn))
    problem = only(root)
    assert problem.what == f"{turn} {what}"
    assert (problem.row is not None) == transcribed
    assert turn not in set(Iemocap(root).table(skip_bad=True)["utterance_id"])


def test_turns_numbered_xx_and_lines_without_times_are_left_alone(root: Path) -> None:
    with transcript(root, "Ses01F_impro01").open("ab") as file:
        file.write(b"F: Okay.\nsome remark\n\n")
    assert Iemocap(root).read().problems == []


def test_forced_alignment_is_left_alone_wherever_it_lies(root: Path) -> None:
    """The release has it in a folder of its own; tools leave it beside the transcripts, or paste its lines into them."""
    (alignment,) = root.glob("Session1/sentences/ForcedAlignment/Ses01F_impro01/Ses01F_impro01_F000.wdseg")
    lines = alignment.read_text()
    with transcript(root, "Ses01F_impro01").open("a", newline="") as file:
        file.write(lines)
    shutil.copy(alignment, wav(root, "Ses01F_impro01_F000").with_suffix(".wdseg"))
    shutil.copy(alignment, transcript(root, "Ses01F_impro01").with_suffix(".wdseg"))
    table, problems = Iemocap(root).read()
    assert problems == []
    assert not table["text"].str.contains("SegAScr|</?s>").any()


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r", "mixed"])
def test_line_ends_of_rater_files_do_not_matter(root: Path, end: str) -> None:
    before = Iemocap(root).table()
    for path in (evaluation(root, "Ses01F_impro01"), transcript(root, "Ses01F_impro01")):
        lines = path.read_bytes().decode().replace("\r\n", "\n").split("\n")
        ends = itertools.cycle(("\n", "\r\n", "\r")) if end == "mixed" else itertools.repeat(end)
        path.write_bytes("".join(line + mark for line, mark in zip(lines, ends, strict=False)).encode())
    after, problems = Iemocap(root).read()
    assert problems == []
    pd.testing.assert_frame_equal(after, before)


def test_symbolic_links_are_followed_and_broken_ones_named(root: Path, tmp_path: Path) -> None:
    """A session on another disk, a file elsewhere, and one whose target is gone."""
    (root / "Session2").rename(tmp_path / "other disk")
    (root / "Session2").symlink_to(tmp_path / "other disk")
    clip = wav(root, "Ses01F_impro01_F000")
    clip.rename(tmp_path / "elsewhere.wav")
    clip.symlink_to(tmp_path / "elsewhere.wav")
    assert Iemocap(root).read().problems == []
    (tmp_path / "elsewhere.wav").unlink()
    assert only(root).what == "Ses01F_impro01_F000: audio file is missing"


def test_a_wav_that_was_cut_off_is_named(root: Path) -> None:
    clip = wav(root, "Ses01F_impro01_F000")
    clip.write_bytes(clip.read_bytes()[:44])
    assert only(root).what.startswith("Ses01F_impro01_F000: audio breaks off: 0 of the 3,200 bytes")


def test_a_line_with_torn_times_is_named(root: Path) -> None:
    edit(transcript(root, "Ses01F_impro01"), "Ses01F_impro01_F000 [006.2901-", "Ses01F_impro01_F000 [006.29")
    torn, missing = Iemocap(root).read().problems
    assert (torn.row, torn.what.split("'")[1][:27]) == (1, "Ses01F_impro01_F000 [006.29")
    assert "Ses01F_impro01_F000 is evaluated" in missing.what


@pytest.mark.parametrize(
    ("old", "new", "what"),
    [
        ("\tang\t", "\tangry\t", "the label is 'angry'"),
        ("\tSes02F_impro01_F000\t", "\tSes02F_impro02_F000\t", "'Ses02F_impro02_F000' is no turn of Ses02F_impro01"),
        ("[2.5000, 3.0000, 3.5000]", "[2.5000, 3.0000]", "valence, activation and dominance are [2.5000, 3.0000]"),
        ("\tSes02F_impro01_F001\t", "\tSes02F_impro01_F000\t", "Ses02F_impro01_F000 is evaluated in line 3 already"),
        ("C-E2:", "see E2:", "the line 'see E2:\\tAnger;\\t()' is neither a turn nor a rater's"),
        ("[6.2901 - 8.0401]", "[6.2901 8.0401]", "is neither a turn nor a rater's"),
    ],
)
def test_faulty_lines_are_named_by_file_and_row(root: Path, old: str, new: str, what: str) -> None:
    path = evaluation(root, "Ses02F_impro01")
    edit(path, old, new)
    found = [problem for problem in Iemocap(root).read().problems if what in problem.what]
    assert [problem.file for problem in found] == [path]
    line = path.read_bytes().decode().replace("\r\n", "\n").split("\n")[found[0].row - 1]  # type: ignore[operator]
    assert new.strip("\t") in line


def test_votes_below_a_torn_line_are_not_those_of_the_turn_before(root: Path) -> None:
    edit(evaluation(root, "Ses02F_impro01"), "\tSes02F_impro01_F001\t", " ")
    problems = Iemocap(root).read().problems
    assert [problem.what[-34:] for problem in problems[:1]] == ["]' is neither a turn nor a rater's"]
    table = Iemocap(root).table(skip_bad=True).set_index("utterance_id")
    assert table.loc["Ses02F_impro01_F000", "votes"] == "E2:Anger E4:Anger+Frustration F1:Neutral"
    assert "Ses02F_impro01_F001" not in table.index


def test_an_empty_wav_is_named(root: Path) -> None:
    wav(root, "Ses05M_script01_1b_M002").write_bytes(b"")
    assert only(root).what == "Ses05M_script01_1b_M002: audio file is empty (0 bytes)"
    assert len(Iemocap(root).table(skip_bad=True)) == sum(COUNTS.values()) - 1


def test_an_empty_evaluation_file_is_named(root: Path) -> None:
    evaluation(root, "Ses01F_impro01").write_bytes(b"")
    assert "the file is empty" in [problem.what for problem in Iemocap(root).read().problems]


def test_what_cannot_be_read_is_named(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An unreadable folder, and a folder where a file should be; permissions can't be tested as root."""
    iterdir = Path.iterdir

    def refuse(folder: Path) -> object:
        if folder.name == "Ses01F_impro01":
            raise PermissionError(13, "Permission denied", str(folder))
        return iterdir(folder)

    monkeypatch.setattr(Path, "iterdir", refuse)
    path = transcript(root, "Ses02F_impro01")
    path.unlink()
    path.mkdir()
    what = {problem.file: problem.what for problem in Iemocap(root).read().problems}
    assert what[root / "Session1" / "sentences" / "wav" / "Ses01F_impro01"] == "the folder can't be read (Permission denied)"
    named = [problem.what for problem in Iemocap(root).read().problems if problem.file == path]
    assert named[0] == "the file can't be read (Is a directory)"
    assert len(named) == 1 + TURNS


def test_every_problem_at_once(root: Path) -> None:
    wav(root, "Ses01F_impro01_F000").write_bytes(b"")
    wav(root, "Ses02F_impro01_F000").unlink()
    shutil.rmtree(root / "Session5")
    assert len(Iemocap(root).read().problems) == 3


@pytest.mark.parametrize("case", ["nothing", "archive", "archive in the folder", "no turns"])
def test_what_is_no_release(tmp_path: Path, case: str) -> None:
    named = tmp_path
    if case == "archive":
        named = tmp_path / "IEMOCAP_full_release_withoutVideos.tar.gz"
        named.write_bytes(b"\x1f\x8b")
    elif case == "archive in the folder":
        (tmp_path / "IEMOCAP_full_release.tar.gz").write_bytes(b"\x1f\x8b")
    elif case == "no turns":
        (tmp_path / "Session1").mkdir()
    words = {"nothing": "name the folder IEMOCAP_full_release", "no turns": "there is no evaluated turn"}
    with pytest.raises(BadInputError, match=words.get(case, "this is the packed archive; unpack it")):
        Iemocap(named).read()


def test_four_classes_by_session(root: Path) -> None:
    """Excited counts as happy; what counts, and what is context, in the fold that tests Session5."""
    table = Iemocap(root).table()
    plan = apply_protocol(table, "iemocap4-session5", corpus="iemocap")
    labels = plan.relabel(table).set_index("utterance_id")["label"]
    (fold,) = plan.folds
    assert labels[list(fold.test)].value_counts().to_dict() == {"hap": 14, "ang": 7, "neu": 7, "sad": 7}
    sessions = table.set_index("utterance_id")["session"]
    assert set(sessions[list(fold.val)]) == {"Session4"}
    assert set(sessions[list(fold.train)]) == {"Session1", "Session2", "Session3"}
    assert labels[list(fold.context)].isna().all()
    assert len(fold.context) == 31 * 3
    assert pd.isna(labels["Ses01F_impro01_F003"])


def test_turns_of_other_labels_are_context_for_dialogues_only(root: Path, tiny_bert: str) -> None:
    table = Iemocap(root).table()
    utterances = load_utterances(
        Iemocap(root), parse_feature("mfcc"), parse_feature(f"hidden_states(checkpoint={tiny_bert!r})"), None
    )
    plan = apply_protocol(utterances.table, "iemocap4-session5", corpus="iemocap", audio=utterances.audio.keys)
    utterances = replace(utterances, table=plan.relabel(utterances.table))
    dialogues = EmotionDataModule(utterances, plan.folds[0], plan.classes, "dialogue", batch_size=3)
    dialogues.setup()
    label, order = table.set_index("utterance_id")["label"], table.set_index("utterance_id")["turn"]
    seen = []
    for batch in dialogues.test_dataloader():
        assert batch.turn_mask is not None
        labels = batch.label[batch.turn_mask].tolist()
        for name, number in zip(batch.utterance_id, labels, strict=True):
            counts = label[name] in {"ang", "hap", "exc", "neu", "sad"}
            assert number == (plan.classes.index(label[name].replace("exc", "hap")) if counts else IGNORED)
        assert [order[name] for name in batch.utterance_id] == list(range(TURNS)) * len(batch.label)
        seen += batch.utterance_id
    assert sorted(seen) == sorted(table.loc[table["session"] == "Session5", "utterance_id"])
    single = EmotionDataModule(utterances, plan.folds[0], plan.classes, batch_size=32)
    single.setup()
    assert sorted(name for batch in single.test_dataloader() for name in batch.utterance_id) == sorted(plan.folds[0].test)


@pytest.mark.filterwarnings("ignore")
def test_a_bench_on_the_release_ends_with_every_counted_utterance(root: Path, tiny_bert: str, tmp_path: Path) -> None:
    """An utterance method and a dialogue method, from the official files to scores."""
    suite = Suite(
        corpus="iemocap",
        root=root,
        protocol="iemocap6-dialogue",
        audio="mfcc(n=13, hop_ms=20.0)",
        text=f"hidden_states(checkpoint={tiny_bert!r})",
        methods=["text_only", "bc_lstm"],
        seeds=1,
        training=Training(max_epochs=1, batch_size=16, lr=1e-2),
    )
    outcomes = bench(suite, tmp_path / "runs")
    assert [outcome.status for outcome in outcomes] == ["finished", "finished"]
    for outcome in outcomes:
        result = json.loads((outcome.folder / "result.json").read_text())
        assert result["headline"] == "weighted_f1"
        assert result["utterances"]["test"] == 7 * 6
        assert any("counts differ from the published ones" in caveat for caveat in result["caveats"])
        stored = pd.read_parquet(outcome.folder / "predictions.parquet")
        assert set(stored["label"]) == {"ang", "hap", "exc", "neu", "sad", "fru"}
