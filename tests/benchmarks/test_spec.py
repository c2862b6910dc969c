"""Suites and specs: what is read, what is refused, and what a fingerprint covers."""

from pathlib import Path

import pytest
import yaml

import benchmarks
from benchmarks.spec import SPACE, MethodSpec, RunSpec, SearchBudget, Suite, SuiteError, code_version, load_suite
from datamodules.features import parse_feature
from datamodules.problems import UnknownNameError
from zoo import list_methods
from zoo.base import Training
from zoo.nn.pretrained import Encoder

SUITES = sorted((Path(benchmarks.__file__).parent / "suites").glob("*.yaml"))


@pytest.mark.parametrize("path", SUITES, ids=lambda path: path.stem)
def test_every_shipped_suite_is_sound(path: Path) -> None:
    suite = load_suite(path)
    assert parse_feature(suite.audio).modality == "audio"
    assert parse_feature(suite.text).modality == "text"
    assert suite.methods


def test_defaults() -> None:
    suite = load_suite()
    assert [entry.method for entry in suite.methods] == list_methods()
    assert suite.seeds == (0, 1, 2)
    assert suite.corpus == "demo"


def test_options_override_the_file(tmp_path: Path) -> None:
    path = tmp_path / "suite.yaml"
    path.write_text(
        "corpus: my.csv\nseeds: 5\nmethods: [text_only, {method: mer_han, options: {hidden: 8, d: 16}}]\ntraining: {lr: 0.1}\n"
    )
    suite = load_suite(path, {"seeds": "4,7", "track": None}, ["mer_han.hidden=128", "training.max_epochs=3"])
    assert suite.corpus == str(tmp_path / "my.csv")
    assert suite.seeds == (4, 7)
    assert suite.methods == (MethodSpec(method="text_only"), MethodSpec(method="mer_han", options={"hidden": 128, "d": 16}))
    assert suite.methods[1].label == "hidden=128, d=16"
    assert suite.training == Training(lr=0.1, max_epochs=3)


@pytest.mark.parametrize(
    ("values", "settings", "message"),
    [
        ({"methods": "mer_hann"}, [], "no method is called 'mer_hann'; did you mean 'mer_han'"),
        ({"methods": [{"method": "mer_han", "options": {"hiden": 1}}]}, [], "did you mean 'hidden'"),
        ({"seed": 3}, [], "no suite key is called 'seed'; did you mean 'seeds'"),
        ({}, ["mer_han.head=3"], "no option of mer_han is called 'head'; did you mean 'heads'"),
        ({}, ["text_encoder.train=all"], "no text_encoder setting is called 'train'; did you mean 'trainable'"),
        ({}, ["training.epochs=3"], "no training setting is called 'epochs'; did you mean 'max_epochs'"),
    ],
)
def test_unknown_names_list_the_near_ones(tmp_path: Path, values: dict, settings: list[str], message: str) -> None:
    path = tmp_path / "suite.yaml"
    path.write_text(yaml.safe_dump(values))
    with pytest.raises(UnknownNameError, match=message):
        load_suite(path, {}, settings)


@pytest.mark.parametrize(
    ("values", "settings", "message"),
    [
        ("seeds: many", [], "suite.yaml"),
        ("track: fair", [], r"track: Input should be 'controlled' or 'published' \(got 'fair'\)"),
        ("training: {lr: fast}", [], "training.lr"),
        ("- a\n- list", [], "a suite is a mapping"),
        ("methods: [text_only]", ["mer_han.hidden=3"], "mer_han is not among the methods of this suite"),
        ("{}", ["hidden=3"], "METHOD.OPTION=VALUE"),
        ("a: [", [], "can't be read"),
        ("seeds: 0", [], "seeds"),
        ("methods: []", [], "methods"),
        ("training: {batch_size: 0}", [], "training.batch_size"),
        ("text_encoder: {trainable: top:0}", [], "text_encoder.trainable: .*none, top:K with K at least 1, such as top:2, or all"),
        ("{}", ["audio_encoder.trainable=top"], r"audio_encoder.trainable: .*it must be none, top:K .* \(got 'top'\)"),
        ("{}", ["text_encoder.trainable=2"], "text_encoder.trainable"),
        ("{}", ["text_encoder.lr=0"], "text_encoder.lr"),
        ("{}", ["mer_han.hidden=many"], "mer_han.hidden is 'many'; it must be of the kind of its default, 256"),
        ("{}", ["mer_han.cross_attention=1"], "mer_han.cross_attention is 1"),
        ("{}", ["mer_han.hidden=[1"], "the value can't be read"),
    ],
)
def test_wrong_values_name_file_and_key(tmp_path: Path, values: str, settings: list[str], message: str) -> None:
    path = tmp_path / "suite.yaml"
    path.write_text(values)
    with pytest.raises(SuiteError, match=message):
        load_suite(path, {}, settings)


def spec(**changes: object) -> RunSpec:
    values: dict = {
        "method": "mer_han",
        "variant": "default",
        "options": {},
        "corpus": "demo 1",
        "data": "abc",
        "protocol": "split@1",
        "classes": ("a", "b"),
        "fold": 0,
        "track": "controlled",
        "audio": {"name": "mfcc"},
        "text": {"name": "hidden_states"},
        "training": Training(),
        "precision": "32-true",
        "seed": 0,
        "max_seconds": 30.0,
        "code": "def",
    }
    return RunSpec(**{**values, **changes})


@pytest.mark.parametrize(
    "change",
    [
        {"method": "text_only"},
        {"options": {"hidden": 8}},
        {"data": "abd"},
        {"protocol": "split-overlap@1"},
        {"fold": 1},
        {"audio": {"name": "logmel"}},
        {"audio_encoder": Encoder("all")},
        {"text_encoder": Encoder("top:2")},
        {"training": Training(lr=0.5)},
        {"precision": "bf16-mixed"},
        {"seed": 1},
        {"max_seconds": 10.0},
        {"search": SearchBudget(trials=20, space=SPACE, options={})},
        {"code": "other"},
    ],
    ids=str,
)
def test_whatever_changes_a_result_changes_the_fingerprint(change: dict) -> None:
    assert spec(**change).fingerprint != spec().fingerprint


def test_a_fingerprint_is_stable_and_ignores_the_label() -> None:
    assert spec().fingerprint == spec(variant="another name").fingerprint == spec().fingerprint
    assert spec().run_id.endswith(spec().fingerprint)


def test_code_version_ignores_comments_and_sees_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import zoo

    source = Path(zoo.__file__).parent / "text_only.py"
    monkeypatch.setattr(zoo, "__path__", [*zoo.__path__, str(tmp_path)])
    texts = {
        "copy_same": source.read_text(),
        "copy_comment": "# a comment\n" + source.read_text().replace('"""One modality', '"""Another docstring'),
        "copy_code": source.read_text().replace("dropout: float = 0.3", "dropout: float = 0.4"),
    }
    for name, text in texts.items():
        (tmp_path / f"{name}.py").write_text(text)
    same, comment, code = (code_version(name) for name in texts)
    assert same == comment
    assert same != code


@pytest.mark.parametrize(
    ("overrides", "settings", "named"),
    [({"audio": "logmel"}, [], "--audio"), ({}, ["training.lr=0.1"], "--set training.lr=0.1")],
)
def test_what_the_published_track_would_not_do_is_refused(overrides: dict[str, str], settings: list[str], named: str) -> None:
    with pytest.raises(SuiteError, match=f"{named}: in the published track mer_han keep their papers' features"):
        load_suite(None, {"methods": "mer_han,early_concat", "track": "published", **overrides}, settings)
    load_suite(None, {"methods": "early_concat", "track": "published", **overrides}, settings)
    load_suite(None, {"methods": "mer_han", "track": "controlled", **overrides}, settings)


def test_published_track_and_seeds() -> None:
    suite = Suite(methods="mer_han", seeds=2, track="published")
    assert suite.seeds == (0, 1)


def test_a_mapping_of_methods_keeps_its_options(tmp_path: Path) -> None:
    path = tmp_path / "suite.yaml"
    path.write_text("methods: {mer_han: {hidden: 64}, text_only: }\ntraining:\n")
    suite = load_suite(path, {}, ["training.lr=1e-2", "mer_han.dropout=0"])
    assert suite.methods == (MethodSpec(method="mer_han", options={"hidden": 64, "dropout": 0}), MethodSpec(method="text_only"))
    assert suite.training.lr == 0.01


def test_encoders_are_set_like_training(tmp_path: Path) -> None:
    path = tmp_path / "suite.yaml"
    path.write_text("audio_encoder: {trainable: all, lr: 3e-6}\ntext_encoder:\n  trainable: top:4\n")
    suite = load_suite(path, {}, ["text_encoder.lr=2e-5", "audio_encoder.trainable=top:12"])
    assert suite.audio_encoder == Encoder("top:12", 3e-6)
    assert suite.text_encoder == Encoder("top:4", 2e-5)
    assert Suite().text_encoder == Suite().audio_encoder == Encoder("none")
    assert load_suite(None, {}, ["text_encoder.trainable=none"]).text_encoder == Encoder()


def test_run_ids_fit_a_folder_name() -> None:
    name = spec(corpus="感情認識コーパス" * 20 + "/a b 1").run_id
    assert len(name.encode()) < 200
    assert "/" not in name
    assert " " not in name
