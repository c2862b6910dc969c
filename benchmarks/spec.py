"""What to run and how: a suite names many runs, a run spec names one, its fingerprint names the result; an execution says where.

The fingerprint covers exactly what can change the result and nothing else: method, options, data, protocol, fold, features,
training, precision, seed and the code of the parts involved; not the device, not the number of workers.
"""

import ast
import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator, model_validator

from datamodules.emotion import Absent
from datamodules.problems import UnknownNameError
from zoo import get_method, list_methods, method_options
from zoo.base import Training
from zoo.nn.pretrained import Encoder

Track = Literal["controlled", "published"]
EXECUTORS = ("local", "ray")
LOGGERS = ("tensorboard", "csv", "wandb", "mlflow")


class SuiteError(ValueError):
    """A suite that can't be read; the message names the file and the key."""


class ExecutionError(ValueError):
    """A suite that can't be executed as asked; the message says what is missing."""


@dataclass(frozen=True)
class Execution:
    """Where and how runs are executed. None of it is part of a run's fingerprint.

    Attributes:
        executor: ``local``: in this process, or in several on this machine; ``ray``: on a Ray cluster.
        jobs: Runs at a time on this machine; more than one get processes of their own, which take the visible GPUs in turn.
        per_gpu: Runs at a time on each GPU, instead of ``jobs``; 0 where ``jobs`` counts. On a cluster 0 is one per GPU.
        devices: GPUs of one run, or processes where there is no GPU; more than one train by distributed data parallel.
        workers: Processes that read features ahead of each run.
        threads: CPU threads of each run; 0 for PyTorch's own choice. A cluster gives each run as many CPUs, at least one.
        address: Of the Ray cluster; ``auto`` for the one of this machine or of ``RAY_ADDRESS``.
        loggers: Of `LOGGERS`.

    Raises:
        UnknownNameError: For an unknown executor or logger.
        ExecutionError: If something contradicts something else, or isn't installed.
    """

    executor: str = "local"
    jobs: int = 1
    per_gpu: int = 0
    devices: int = 1
    workers: int = 0
    threads: int = 0
    address: str = "auto"
    loggers: tuple[str, ...] = ("tensorboard",)

    def __post_init__(self) -> None:
        """Refuse what can't be done before anything is read."""
        for kind, names, known in (("executor", (self.executor,), EXECUTORS), ("logger", self.loggers, LOGGERS)):
            for name in names:
                if name not in known:
                    raise UnknownNameError(kind, name, known)
                # Without an origin it is no package but a folder of that name, such as W&B leaves behind.
                if name in _EXTRAS and ((found := find_spec(name)) is None or found.origin is None):
                    raise ExecutionError(f"{kind} {name} is not installed; pip install 'fusion-zoo[{name}]'")
        if "mlflow" in self.loggers and not os.environ.get("MLFLOW_TRACKING_URI"):
            raise ExecutionError(
                "logger mlflow: set MLFLOW_TRACKING_URI to your server, or to a file: sqlite:////home/me/mlflow.db"
            )
        for option, value, least in (
            ("jobs", self.jobs, 1),
            ("per-gpu", self.per_gpu, 0),
            ("devices", self.devices, 1),
            ("workers", self.workers, 0),
            ("threads", self.threads, 0),
        ):
            if value < least:
                raise ExecutionError(f"--{option} is {value}; it must be at least {least}")
        if self.per_gpu > 1 and self.devices > 1:
            raise ExecutionError("--per-gpu puts several runs on a GPU, --devices puts a run on several; choose one")

    @property
    def shares_gpus(self) -> bool:
        """Whether several runs may be on one GPU at a time; ``jobs`` may be more than there are GPUs."""
        return self.per_gpu > 1 or (self.executor == "local" and not self.per_gpu and self.jobs > 1)

    def conditions(self) -> dict[str, Any]:
        """What the costs of a run depend on, as results hold it."""
        return {name: value for name, value in asdict(self).items() if name not in {"address", "loggers"}}


_EXTRAS = ("ray", "wandb", "mlflow")
"""Names that are also those of an optional package and of the extra that installs it."""


class Range(BaseModel):
    """Numbers from ``low`` to ``high``, drawn evenly, or with ``log`` evenly on the logarithmic scale."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    low: float
    high: float
    log: bool = False

    @model_validator(mode="after")
    def _ordered(self) -> "Range":
        if not self.low < self.high or (self.log and self.low <= 0):
            raise ValueError(f"low must be less than high{', and above 0' if self.log else ''}")
        return self


Space = dict[str, Range | tuple[bool | int | float | str, ...]]
"""What is searched -> its range, or a list of its values."""

SPACE: Space = {
    "training.lr": Range(low=1e-4, high=1e-2, log=True),
    "training.weight_decay": Range(low=1e-4, high=1e-1, log=True),
    "dropout": Range(low=0.0, high=0.7),
    "width": (0.5, 1, 2),
}
"""The same four numbers for every method."""

Searched = Literal["lr", "weight_decay", "grad_clip"]
"""Settings of the training that may be searched; the others are the budget, which all methods share."""


class Search(BaseModel):
    """The search for hyper-parameters, `benchmarks.tuning.tune`.

    Attributes:
        trials: Of every method on every fold; the first has the suite's own settings.
        space: ``training.lr``, ``training.weight_decay`` or ``training.grad_clip``; ``width``, a factor of a method's widths; any
            other name is an option, of every method that has it.
        protocol: Of a finished search: what its folds are of.
        journal: Of a finished search: the file that holds all trials.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    trials: int = Field(default=20, ge=1)
    space: Space = Field(default=SPACE, min_length=1)
    protocol: str = ""
    journal: str = ""


class Tuned(BaseModel):
    """What a search chose for a method on one fold.

    Attributes:
        options: Changes to the method's options in the suite.
        training: Changes to the suite's training.
        score: On the validation split, in the protocol's headline metric.
        untuned: That score with the suite's own settings; None where that trial failed.
        pruned: How many trials were stopped early because they did worse than the median.
        failed: How many raised an error.
        conditions: `RunSpec.conditions`; the choice holds for no others.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    options: dict[str, Any]
    training: dict[Searched, float]
    score: float
    untuned: float | None
    pruned: int = 0
    failed: int = 0
    conditions: str


class SearchBudget(BaseModel):
    """How the hyper-parameters of a run were chosen.

    Attributes:
        trials: As of `Search`.
        space: As of `Search`.
        options: The method's options in the suite, before the search changed them for the fold; they name the row.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    trials: int
    space: Space
    options: dict[str, Any]


class MethodSpec(BaseModel):
    """A method with changes to its defaults.

    Attributes:
        method: One of ``fusion-zoo methods``.
        options: Changes to the constructor's defaults.
        variant: What the leaderboard calls it; made from the options where it isn't given.
        audio: The method's own audio feature instead of the suite's; its rows then stand in a table of their own.
        tuned: By fold, what a search chose; written by ``fusion-zoo tune``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    method: str
    options: dict[str, Any] = Field(default_factory=dict)
    variant: str = ""
    audio: str = ""
    tuned: dict[int, Tuned] = Field(default_factory=dict)

    @property
    def label(self) -> str:
        """The variant's name in results."""
        return self.variant or ", ".join(f"{key}={value}" for key, value in self.options.items()) or "default"

    def checked(self) -> "MethodSpec":
        """Itself, if the method and every option exist.

        Raises:
            UnknownNameError: Otherwise, with the near names.
        """
        known = method_options(self.method)
        given = [*self.options.items(), *(pair for chosen in self.tuned.values() for pair in chosen.options.items())]
        for option, value in given:
            if option not in known:
                raise UnknownNameError(f"option of {self.method}", option, list(known))
            default = known[option]
            fits = isinstance(value, (int, float) if isinstance(default, float) else type(default))
            if not fits or isinstance(value, bool) != isinstance(default, bool):
                raise SuiteError(f"{self.method}.{option} is {value!r}; it must be of the kind of its default, {default!r}")
        return self


def _methods(value: object) -> object:
    """``all``, a comma-separated string, a list of names and mappings, or one mapping of names to options."""
    if isinstance(value, Mapping):
        return [{"method": name, "options": options or {}} for name, options in value.items()]
    if isinstance(value, str):
        value = list_methods() if value == "all" else [name.strip() for name in value.split(",") if name.strip()]
    if isinstance(value, Iterable):
        return [{"method": entry} if isinstance(entry, str) else entry for entry in value]
    return value


def _seeds(value: object) -> object:
    """``3`` stands for the seeds 0, 1, 2; ``"4,7"`` and lists for themselves."""
    if isinstance(value, str):
        value = int(value) if "," not in value else [int(seed) for seed in value.split(",") if seed.strip()]
    return list(range(value)) if isinstance(value, int) else value


class Suite(BaseModel):
    """Many runs under identical conditions: methods x folds x seeds on one corpus.

    Attributes:
        corpus: A corpus's name, or the path of a CSV manifest.
        root: Folder of a named corpus; None for its default.
        encoding: Of a manifest that isn't UTF-8.
        protocol: See `datamodules.protocols.apply_protocol`.
        allow_speaker_overlap: Permit speakers in two splits; the protocol's name then says so.
        skip_bad: Go on without bad rows; the leaderboard states the coverage.
        track: ``controlled``: the features and the training below for everyone. ``published``: every method gets its
            paper's, or these where it has none.
        audio: Audio feature of the controlled track.
        text: Text feature of the controlled track.
        audio_encoder: Whether the encoder of a ``hidden_states`` audio feature is trained with the method, in either track.
        text_encoder: The same for text.
        methods: What to compare.
        seeds: Each is a run of its own.
        training: Budget of the controlled track.
        max_seconds: Longer clips are cut.
        absent: Share of the training utterances that lacks a modality, ``{audio: 0.5}``.
        search: For ``fusion-zoo tune``, and what it did.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    corpus: str = "demo"
    root: Path | None = None
    encoding: str | None = None
    protocol: str = "auto"
    allow_speaker_overlap: bool = False
    skip_bad: bool = False
    track: Track = "controlled"
    audio: str = "mfcc"
    text: str = "hidden_states"
    audio_encoder: Encoder = Encoder()
    text_encoder: Encoder = Encoder()
    methods: Annotated[tuple[MethodSpec, ...], BeforeValidator(_methods)] = Field(
        default="all", validate_default=True, min_length=1
    )
    seeds: Annotated[tuple[int, ...], BeforeValidator(_seeds)] = Field(default=(0, 1, 2), min_length=1)
    training: Training = Training()
    max_seconds: float = Field(default=30.0, gt=0)
    absent: Absent = Absent()
    search: Search = Search()

    @field_validator("methods")
    @classmethod
    def _known(cls, methods: tuple[MethodSpec, ...]) -> tuple[MethodSpec, ...]:
        return tuple(entry.checked() for entry in methods)


def load_suite(path: Path | None = None, overrides: dict[str, Any] | None = None, settings: Iterable[str] = ()) -> Suite:
    """Read a suite from YAML, then apply the command line's changes.

    Args:
        path: The YAML file; None for the defaults.
        overrides: Keys of `Suite` that replace the file's; None values don't count.
        settings: ``METHOD.OPTION=VALUE`` for a method of the suite, ``training.KEY=VALUE``, ``text_encoder.KEY=VALUE``,
            ``audio_encoder.KEY=VALUE`` or ``absent.MODALITY=SHARE``; values are read as YAML.

    Raises:
        SuiteError: If the file can't be read or a value is wrong.
        UnknownNameError: For an unknown key, method or option.
    """
    values: dict[str, Any] = {}
    if path is not None:
        try:
            values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise SuiteError(f"{path}: the suite can't be read ({error})") from error
        if not isinstance(values, dict):
            raise SuiteError(f"{path}: a suite is a mapping of {', '.join(Suite.model_fields)}")
        corpus = values.get("corpus")
        if isinstance(corpus, str) and corpus.endswith(".csv"):
            values["corpus"] = str((path.parent / corpus).resolve())
    values |= {key: value for key, value in (overrides or {}).items() if value is not None}
    for key in values:
        if key not in Suite.model_fields:
            raise UnknownNameError("suite key", key, list(Suite.model_fields))
    values["methods"] = _methods(values.get("methods", "all"))
    settings = list(settings)
    for setting in settings:
        _apply(setting, values)
    try:
        suite = Suite(**values)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise SuiteError(f"{path or 'command line'}: {where}: {first['msg']} (got {first['input']!r})") from error
    _refuse_searched(suite, settings)
    if suite.track == "published":
        _refuse_unheard(suite, [key for key in ("audio", "text") if (overrides or {}).get(key)], settings)
    return suite


def _refuse_unheard(suite: Suite, features: list[str], settings: list[str]) -> None:
    """Refuse what the command line asks for and the published track would not do."""
    unheard = [f"--{key}" for key in features] + [f"--set {setting}" for setting in settings if setting.startswith("training.")]
    own = [entry.method for entry in suite.methods if get_method(entry.method).published]
    if unheard and own:
        raise SuiteError(
            f"{', '.join(unheard)}: in the published track {', '.join(dict.fromkeys(own))} keep their papers' features and "
            "training; leave it out, or use --track controlled"
        )


def _refuse_searched(suite: Suite, settings: list[str]) -> None:
    """Refuse what the command line asks for and what a search chose would replace."""
    tuned = [(entry.method, chosen) for entry in suite.methods for chosen in entry.tuned.values()]
    if tuned and suite.track == "published":
        raise SuiteError("--track published: this suite has the values that a search chose, not those of papers")
    searched = {f"{method}.{option}" for method, chosen in tuned for option in chosen.options}
    searched |= {f"training.{key}" for _, chosen in tuned for key in chosen.training}
    unheard = [f"--set {setting}" for setting in settings if setting.partition("=")[0] in searched]
    if unheard:
        raise SuiteError(f"{', '.join(unheard)}: this suite has the values that a search chose; change the suite that was tuned")


_SETTINGS = {"training": Training, "audio_encoder": Encoder, "text_encoder": Encoder, "absent": Absent}
"""Keys of a suite with keys of their own, which ``--set`` reaches."""


def _apply(setting: str, values: dict[str, Any]) -> None:
    match = re.fullmatch(r"(\w+)\.(\w+)=(.*)", setting)
    if not match:
        raise SuiteError(f"--set {setting}: write METHOD.OPTION=VALUE, such as mer_han.hidden=128, or training.lr=0.001")
    owner, option = match[1], match[2]
    try:
        value = yaml.safe_load(match[3])
        # YAML 1.1 takes 1e-3 for text.
        value = (
            float(value) if isinstance(value, str) and re.fullmatch(r"[-+]?\d+(\.\d*)?e[-+]?\d+", value, re.IGNORECASE) else value
        )
    except yaml.YAMLError as error:
        raise SuiteError(f"--set {setting}: the value can't be read ({error})") from error
    if owner in _SETTINGS:
        known = [field.name for field in fields(_SETTINGS[owner])]
        if option not in known:
            raise UnknownNameError(f"{owner} setting", option, known)
        values[owner] = {**(values.get(owner) or {}), option: value}
        return
    MethodSpec(method=owner, options={option: value}).checked()
    chosen = [entry["method"] if isinstance(entry, dict) else entry.method for entry in values["methods"]]
    if owner not in chosen:
        raise SuiteError(f"--set {setting}: {owner} is not among the methods of this suite ({', '.join(chosen)})")
    values["methods"] = [
        {**entry, "options": {**entry.get("options", {}), option: value}} if entry["method"] == owner else entry
        for entry in (e if isinstance(e, dict) else e.model_dump() for e in values["methods"])
    ]


class RunSpec(BaseModel):
    """One run. Frozen; two specs with one fingerprint give one result.

    Attributes:
        method: The method.
        variant: Its name in results.
        options: Changes to the constructor's defaults.
        corpus: Name and version.
        data: Digest of the corpus's content and of its features' keys.
        protocol: Name and version.
        classes: Labels in the order of the outputs.
        fold: Number of the protocol's fold.
        track: Which conditions.
        audio: Identity of the audio feature.
        text: Identity of the text feature.
        audio_encoder: What of the audio feature's encoder is trained.
        text_encoder: What of the text feature's encoder is trained.
        training: Hyper-parameters.
        precision: As Lightning names it.
        seed: Of weights, dropout and batch order.
        max_seconds: Where clips were cut.
        absent: Share of the training utterances that lacks a modality; the seed says which.
        search: How the hyper-parameters were chosen; None for a suite's own.
        code: Digest of the code that made the result.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    method: str
    variant: str
    options: dict[str, Any]
    corpus: str
    data: str
    protocol: str
    classes: tuple[str, ...]
    fold: int
    track: Track
    audio: dict[str, Any]
    text: dict[str, Any]
    audio_encoder: Encoder = Encoder()
    text_encoder: Encoder = Encoder()
    training: Training
    precision: str
    seed: int
    max_seconds: float
    absent: Absent = Absent()
    search: SearchBudget | None = None
    code: str

    @property
    def fingerprint(self) -> str:
        """Hexadecimal digest of everything but the variant's name, which is only a label.

        A tuned run is another run than one that has the same values without a search: it stands in another table.
        """
        return _digest(self.model_dump(mode="json", exclude={"variant"} if self.search else {"variant", "search"}))

    @property
    def conditions(self) -> str:
        """Hexadecimal digest of all that a search starts from: data, splits, features, the method's options, the training.

        Seed, precision and code may be others when what it chose is used.
        """
        return _digest(self.model_dump(mode="json", exclude={"variant", "corpus", "fold", "seed", "precision", "search", "code"}))

    @property
    def run_id(self) -> str:
        """Folder name: readable parts, then the fingerprint."""
        corpus = re.sub(r"[^A-Za-z0-9_.]+", "-", self.corpus)[:60]  # folder names are limited to 255 bytes
        return f"{self.method}__{corpus}__{self.protocol}__fold{self.fold}__seed{self.seed}__{self.fingerprint}"


def _digest(content: dict[str, Any]) -> str:
    return hashlib.blake2b(json.dumps(content, sort_keys=True).encode(), digest_size=8).hexdigest()


@cache
def code_version(method: str) -> str:
    """Digest of the code that decides a result of ``method``: its file, what that imports of the zoo, the data path, the runner.

    Comments, docstrings and formatting don't count.
    """
    own = get_method(method).__module__
    seen: dict[str, str] = {}
    waiting = [own, "zoo.base", "benchmarks.runner"]
    waiting += [f"datamodules.{part}" for part in ("audio", "batch", "emotion", "features.words", "leaks", "protocols", "splits")]
    while waiting:
        name = waiting.pop()
        if name not in seen:
            tree = _parse(name)
            seen[name] = ast.unparse(tree)
            waiting += _zoo_imports(tree) if name.startswith("zoo.") else []
    parts = [seen.pop(own), *(seen[name] for name in sorted(seen))]
    return hashlib.blake2b("\n".join(parts).encode(), digest_size=8).hexdigest()


def _parse(module: str) -> ast.Module:
    """A module's code without docstrings."""
    found = find_spec(module)
    if found is None or found.origin is None:
        raise ImportError(f"the source of {module} can't be found, so results could not be told apart")
    tree = ast.parse(Path(found.origin).read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list) and body and isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant):
            node.body = body[1:] or [ast.Pass()]  # type: ignore[attr-defined]
    return tree


def _zoo_imports(tree: ast.Module) -> list[str]:
    """Modules of the zoo that a module imports from."""
    names = [node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module]
    names += [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    return [name for name in names if name.startswith("zoo.")]
