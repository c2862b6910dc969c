"""The command ``fusion-zoo``.

Whatever loads torch is imported inside the command that needs it, so that ``--help`` answers at once.
"""

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from functools import wraps
from inspect import Parameter, signature
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.progress import Progress

    from benchmarks.runner import Outcome
    from benchmarks.spec import Execution, Suite

LoadSuite = Callable[..., "Suite"]
"""A suite from a YAML file, or None for the defaults, and keys of `Suite` that replace its own; None values don't count."""

app = typer.Typer(
    name="fusion-zoo",
    help="Compare ways to fuse audio and text for emotion recognition.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

CorpusArgument = Annotated[str, typer.Argument(help="A corpus's name ('fusion-zoo corpora'), or the path of a CSV manifest.")]
RootOption = Annotated[Path | None, typer.Option(help="Folder of a named corpus.")]
EncodingOption = Annotated[str | None, typer.Option(help="Of a manifest that isn't UTF-8, such as cp1252.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
AudioOption = Annotated[str, typer.Option(help="Audio feature, such as 'mfcc(n=40)'.")]
TextOption = Annotated[str, typer.Option(help="Text feature, such as \"hidden_states(checkpoint='minilm')\".")]
SuiteArgument = Annotated[Path | None, typer.Argument(help="A suite in YAML; the options below override it.")]
CorpusOption = Annotated[
    str | None, typer.Option(help="A corpus's name, or the path of a CSV manifest; demo unless the suite says otherwise.")
]
ProtocolOption = Annotated[
    str | None, typer.Option(help="auto, or one of docs/protocols.md, e.g. split@1, speaker-5fold@1, iemocap4-loso@1.")
]
MethodsOption = Annotated[str | None, typer.Option(help="Comma-separated names, or all; all unless the suite says otherwise.")]
TrackOption = Annotated[str | None, typer.Option(help="controlled or published; controlled unless the suite says otherwise.")]
SeedsOption = Annotated[str | None, typer.Option(help="How many, or a list such as 4,7; 3 unless the suite says otherwise.")]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set", help="mer_han.hidden=128, training.lr=0.001, text_encoder.trainable=top:2, absent.audio=0.5; repeatable."
    ),
]
OutOption = Annotated[Path, typer.Option(help="Folder of the results.")]
PrecisionOption = Annotated[str, typer.Option(help="auto, 32-true, bf16-mixed or 16-mixed.")]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Only show what would be run, and how long it would take.")]
OptionalAudio = Annotated[
    str | None, typer.Option("--audio", help="Audio feature, such as 'mfcc(n=40)'; mfcc unless the suite says otherwise.")
]
OptionalText = Annotated[
    str | None,
    typer.Option(
        "--text",
        help="Text feature, such as \"hidden_states(checkpoint='minilm')\"; hidden_states unless the suite says otherwise.",
    ),
]
OverlapOption = Annotated[bool, typer.Option("--allow-speaker-overlap", help="Permit speakers in two splits.")]
SecondsOption = Annotated[float | None, typer.Option(help="Longer clips are cut; 30 unless the suite says otherwise.")]
SkipOption = Annotated[bool, typer.Option("--skip-bad", help="Go on without bad rows; the leaderboard states the coverage.")]


class Format(StrEnum):
    """How to print a table."""

    md = "md"
    csv = "csv"
    tex = "tex"


class PlainFormat(StrEnum):
    """How to print a table that has no LaTeX form."""

    md = "md"
    csv = "csv"


FormatOption = Annotated[Format, typer.Option("--format", help="md, csv or tex: a LaTeX document that compiles as it is.")]
PlainFormatOption = Annotated[PlainFormat, typer.Option("--format", help="md or csv.")]
StatisticsOption = Annotated[
    bool | None,
    typer.Option("--stats/--no-stats", help="Intervals, ties and ranks from stored predictions; by default up to 1,000 runs."),
]


def _execution(
    executor: Annotated[str, typer.Option(help="local, or ray for a cluster.")] = "local",
    address: Annotated[str, typer.Option(help="Of the Ray cluster, host:port.")] = "auto",
    jobs: Annotated[int, typer.Option(help="Runs at a time; they take the visible GPUs in turn.")] = 1,
    per_gpu: Annotated[int, typer.Option(help="Runs at a time on each visible GPU, instead of --jobs.")] = 0,
    devices: Annotated[int, typer.Option(help="GPUs of each run; more than one train it in parallel.")] = 1,
    workers: Annotated[int, typer.Option(help="Processes that read features ahead of each run.")] = 0,
    threads: Annotated[
        int, typer.Option(help="CPU threads of each run; 0 for all cores. 1 is best for small models and on shared machines.")
    ] = 0,
    logger: Annotated[list[str] | None, typer.Option(help="tensorboard (the default), csv, wandb or mlflow; repeatable.")] = None,
) -> "Execution":
    """The options of `Execution`."""
    from benchmarks.spec import Execution

    loggers = tuple(dict.fromkeys(logger or Execution.loggers))
    return Execution(executor, jobs, per_gpu, devices, workers, threads, address, loggers)


def _suite_options(
    corpus: CorpusOption = None,
    root: RootOption = None,
    encoding: EncodingOption = None,
    protocol: ProtocolOption = None,
    seeds: SeedsOption = None,
    audio: OptionalAudio = None,
    text: OptionalText = None,
    settings: SetOption = None,
    skip_bad: SkipOption = False,
    allow_speaker_overlap: OverlapOption = False,
    max_seconds: SecondsOption = None,
) -> "LoadSuite":
    """The options of every command that reads a suite; what it does so with."""
    overrides = {
        "corpus": corpus,
        "root": root,
        "encoding": encoding,
        "protocol": protocol,
        "seeds": seeds,
        "audio": audio,
        "text": text,
        "skip_bad": skip_bad or None,
        "allow_speaker_overlap": allow_speaker_overlap or None,
        "max_seconds": max_seconds,
    }

    def load(file: Path | None, **others: Any) -> "Suite":  # noqa: ANN401
        from benchmarks.spec import load_suite

        return load_suite(file, overrides | others, settings or [])

    return load


def _takes(**groups: Callable[..., Any]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command the options of other functions; it is called with what these make of them, under the names given here."""

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @wraps(command)
        def with_options(**given: Any) -> None:  # noqa: ANN401
            with plain_errors():
                made = {name: make(**{option: given.pop(option) for option in options[name]}) for name, make in groups.items()}
            command(**given, **made)

        own = signature(command)
        options = {name: signature(make).parameters for name, make in groups.items()}
        parameters: list[Parameter] = []
        for name, parameter in own.parameters.items():
            found = options[name].values() if name in groups else [parameter]
            parameters += [each.replace(kind=Parameter.KEYWORD_ONLY) for each in found]
        with_options.__signature__ = own.replace(parameters=parameters)  # type: ignore[attr-defined]
        with_options.__annotations__ = {name: kind for name, kind in command.__annotations__.items() if name not in groups}
        return with_options

    return decorate


@contextmanager
def plain_errors(*kinds: type[Exception]) -> Iterator[None]:
    """Show what a user can mend, Ctrl-C and SIGTERM as a message; anything else is a bug and keeps its traceback.

    Args:
        kinds: Errors that a user can mend; none for all there are, which loads torch.
    """
    expected = kinds or _all_kinds()
    try:
        yield
    except expected as error:
        typer.echo(f"fusion-zoo: {error}", err=True)
        raise typer.Exit(2) from None
    except OSError as error:
        if isinstance(error, BrokenPipeError):  # of a reader that has seen enough
            raise
        remedy = "its permissions" if isinstance(error, PermissionError) else "the path, and the space there"
        file = error.filename or "a file can't be written"  # the system doesn't name the file that finds the disk full
        typer.echo(f"fusion-zoo: {file}: {error.strerror or error}; check {remedy}", err=True)
        raise typer.Exit(2) from None
    except KeyboardInterrupt:
        typer.echo("fusion-zoo: interrupted; what is finished is kept, and the same command goes on from there", err=True)
        raise typer.Exit(130) from None
    except SystemExit:  # at SIGTERM
        typer.echo("fusion-zoo: terminated; what is finished is kept, and the same command goes on from there", err=True)
        raise


def _all_kinds() -> tuple[type[Exception], ...]:
    from benchmarks.results import ResultError
    from benchmarks.spec import ExecutionError, SuiteError
    from datamodules.features import FeatureError
    from datamodules.features.transformer import CheckpointError
    from datamodules.problems import BadInputError, UnknownNameError
    from datamodules.protocols import ProtocolError
    from datamodules.store import StoreError

    return (
        BadInputError,
        UnknownNameError,
        ProtocolError,
        SuiteError,
        ExecutionError,
        ResultError,
        StoreError,
        FeatureError,
        CheckpointError,
    )


@app.command()
def methods(as_json: JsonOption = False) -> None:
    """List the methods of the zoo."""
    from benchmarks.cost import parameter_counts
    from datamodules.features import parse_feature
    from zoo import create, get_method, list_methods

    rows: list[dict[str, Any]] = []
    for name in list_methods():
        method = get_method(name)
        # Counted at the features of most papers: 40 MFCC, BERT-base's 768, four classes.
        model = create(name, audio_dim=parse_feature("mfcc").dim, text_dim=768, num_classes=4)
        rows.append(
            {
                "name": name,
                "family": method.family,
                "unit": method.unit,
                "modalities": list(method.modalities),
                "parameters": parameter_counts(model)[0],
                "paper": method.paper,
                "tracks": ["controlled", "published"] if method.published else ["controlled"],
            }
        )
    _show(rows, as_json)


@app.command()
def corpora(as_json: JsonOption = False) -> None:
    """List the corpora that can be read."""
    from datamodules.corpora import get_corpus, list_corpora

    classes = {name: get_corpus(name) for name in list_corpora()}
    keys = ("version", "licence", "citation", "source")
    _show([{"name": name} | {key: getattr(corpus, key) for key in keys} for name, corpus in classes.items()], as_json)


def _show(rows: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(rows, indent=1))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(*rows[0])
    for row in rows:
        table.add_row(*(", ".join(v) if isinstance(v, list) else f"{v:,}" if isinstance(v, int) else str(v) for v in row.values()))
    Console().print(table)


@app.command()
def prepare(
    corpus: CorpusArgument,
    root: RootOption = None,
    encoding: EncodingOption = None,
    audio: AudioOption = "mfcc",
    text: TextOption = "hidden_states",
    skip_bad: SkipOption = False,
    max_seconds: Annotated[float, typer.Option(help="Longer clips are cut.")] = 30.0,
    processes: Annotated[
        int, typer.Option("--jobs", min=1, help="Processes that compute openSMILE's, librosa's and torchaudio's features.")
    ] = 1,
) -> None:
    """Read a corpus and compute its features, once, for every later run."""
    with plain_errors():
        from datamodules.corpora import open_corpus
        from datamodules.emotion import load_utterances
        from datamodules.features import parse_feature
        from datamodules.store import ArraysSideBySide, FeatureStore

        opened, store = open_corpus(corpus, root, encoding), FeatureStore(processes=processes)
        utterances = load_utterances(opened, parse_feature(audio), parse_feature(text), store, skip_bad, max_seconds)
    found = [part for a in (utterances.audio, utterances.text) for part in (a.parts if isinstance(a, ArraysSideBySide) else (a,))]
    for arrays in found:
        count, dim, folder = len(arrays), arrays.feature.dim, arrays.path.parent
        typer.echo(f"{arrays.feature}: {count} arrays of width {dim}, {arrays.lengths.sum()} rows, in {folder}")
    for note in utterances.notes:
        typer.echo(note)


@app.command()
def doctor(
    corpus: CorpusArgument,
    root: RootOption = None,
    encoding: EncodingOption = None,
    protocol: ProtocolOption = None,
    html: Annotated[Path | None, typer.Option(help="Also write the page, with plots and all rows, to this file.")] = None,
    allow_speaker_overlap: OverlapOption = False,
) -> None:
    """Examine a corpus: counts, labels, speakers, sound, bad files, duplicates, leaks. Exit status 1: mend something."""
    with plain_errors():
        from rich.console import Console

        from datamodules.corpora import open_corpus
        from datamodules.doctor import examine
        from datamodules.doctor_page import html_page, print_page

        report = examine(open_corpus(corpus, root, encoding), protocol or "auto", allow_speaker_overlap)
        print_page(report, Console())
        if html is not None:
            html.write_text(html_page(report), encoding="utf-8")
    raise typer.Exit(0 if report.healthy else 1)


@app.command()
@_takes(load=_suite_options, execution=_execution)
def bench(
    suite: SuiteArgument = None,
    *,
    load: "LoadSuite",
    methods: MethodsOption = None,
    track: TrackOption = None,
    out: OutOption = Path("runs"),
    precision: PrecisionOption = "auto",
    dry_run: DryRunOption = False,
    execution: "Execution",
) -> None:
    """Train methods under identical conditions and print the leaderboard. Finished runs are not run again."""
    with plain_errors():
        from benchmarks.leaderboard import read_leaderboard

        runs, failed = _run(load(suite, methods=methods, track=track), out, precision, execution, dry_run)
        if failed < len(runs):
            typer.echo(read_leaderboard(out, runs).to_markdown())
    raise typer.Exit(1 if failed else 0)


@app.command()
@_takes(load=_suite_options, execution=_execution)
def ablate(
    method: Annotated[str, typer.Argument(help="Whose ablation table.")],
    suite: Annotated[
        Path | None, typer.Argument(help="A suite whose conditions, and options for these methods, hold for every row.")
    ] = None,
    *,
    load: "LoadSuite",
    out: OutOption = Path("runs"),
    precision: PrecisionOption = "auto",
    dry_run: DryRunOption = False,
    output: FormatOption = Format.md,
    execution: "Execution",
) -> None:
    """Run a paper's ablation table and print its rows in its order, beside the paper's figures."""
    with plain_errors():
        from benchmarks.ablation import ablation_methods, ablation_suite, ablation_table

        rows = ablation_suite(method, load(suite, methods=ablation_methods(method) if suite is None else None))
        runs, failed = _run(rows, out, precision, execution, dry_run)
        if failed < len(runs):
            table = ablation_table(method, out, runs)
            typer.echo({"md": table.to_markdown, "csv": table.to_csv, "tex": table.to_latex}[output](), nl=output is Format.md)
    raise typer.Exit(1 if failed else 0)


@app.command()
@_takes(load=_suite_options)
def robustness(
    suite: SuiteArgument = None,
    *,
    load: "LoadSuite",
    methods: MethodsOption = None,
    track: TrackOption = None,
    out: OutOption = Path("runs"),
    corruptions: Annotated[str | None, typer.Option(help="Comma-separated names; all of them if not given.")] = None,
    workers: Annotated[int, typer.Option(help="Processes that read features ahead.")] = 0,
    threads: Annotated[int, typer.Option(help="CPU threads; 0 for all cores.")] = 0,
    output: PlainFormatOption = PlainFormat.md,
) -> None:
    """Score the finished runs of a suite under noise, wrong words and missing modalities.

    What names the runs (suite, corpus, protocol, methods, seeds, --set) is as for bench. Nothing is trained. Prints the tables and
    writes them, with the curves, into the folder robustness of --out.
    """
    with plain_errors():
        from benchmarks.robustness import (
            evaluate,
            figures,
            finished_runs,
            parse_corruptions,
            read_robustness,
            summarise,
            to_markdown,
        )
        from benchmarks.runner import expand
        from datamodules.workers import set_threads

        names = parse_corruptions(corruptions)
        set_threads(threads)
        jobs = expand(load(suite, methods=methods, track=track))
        runs = finished_runs(jobs, out)
        if len(runs) < len(jobs):
            typer.echo(f"{len(jobs) - len(runs)} of the suite's {len(jobs)} runs are not finished and not scored", err=True)
        with _counter("robustness") as report:
            evaluate(runs, names, None, workers, report)
        summary = summarise(read_robustness(out))
        folder = out / "robustness"
        folder.mkdir(exist_ok=True)
        (folder / "robustness.md").write_text(to_markdown(summary), encoding="utf-8")
        (folder / "robustness.csv").write_text(summary.to_csv(index=False, lineterminator="\n"), encoding="utf-8")
        for name, figure in figures(summary).items():
            figure.savefig(folder / f"{name}.svg")
    sys.stdout.write((folder / f"robustness.{output}").read_text(encoding="utf-8"))


@app.command()
def interactions(
    folder: Annotated[Path, typer.Argument(help="Folder of results that holds single-modality rows as well.")],
    output: PlainFormatOption = PlainFormat.md,
) -> None:
    """Print what each fusion gets right of what audio alone, text alone, both or neither get right, and Shapley values."""
    with plain_errors():
        from benchmarks.interactions import read_interactions, summarise, to_markdown

        summary = summarise(read_interactions(folder))
    sys.stdout.write(to_markdown(summary) if output is PlainFormat.md else summary.to_csv(index=False, lineterminator="\n"))


@app.command()
@_takes(load=_suite_options)
def tune(
    suite: SuiteArgument = None,
    *,
    load: "LoadSuite",
    methods: MethodsOption = None,
    trials: Annotated[
        int | None, typer.Option(min=1, help="For every method on every fold; 20 unless the suite says otherwise.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder of the journal and the tuned suite.")] = Path("runs/tuned"),
    precision: PrecisionOption = "auto",
    workers: Annotated[int, typer.Option(help="Processes that read features ahead.")] = 0,
    threads: Annotated[int, typer.Option(help="CPU threads; 0 for all cores.")] = 0,
) -> None:
    """Search hyper-parameters: as many trials for every method, judged on validation.

    What names the runs (suite, corpus, protocol, methods, seeds, --set) is as for bench. Writes suite.yaml, which bench runs, into
    --out. The same command goes on after an interruption; run it in several shells to share the work.
    """
    with plain_errors():
        from benchmarks.spec import Execution
        from benchmarks.tables import pipe_table
        from benchmarks.tuning import tune as search
        from datamodules.workers import set_threads

        set_threads(threads)
        asked = load(suite, methods=methods)
        with _counter("trials") as report:
            found = search(asked, out, trials, precision, Execution(workers=workers), report=report)
    rows = found.findings
    columns = {
        "method": [row.method for row in rows],
        "variant": [row.variant for row in rows],
        "fold": [str(row.fold) for row in rows],
        "trials": [str(found.suite.search.trials)] * len(rows),
        "pruned": [str(row.tuned.pruned) for row in rows],
        "failed": [str(row.tuned.failed) for row in rows],
        "best": [f"{100 * row.tuned.score:.1f}" for row in rows],
        "gain": ["–" if (own := row.tuned.untuned) is None else f"{100 * (row.tuned.score - own):+.1f}" for row in rows],
    }
    typer.echo(pipe_table(columns))
    typer.echo("\nbest: on the validation split, in percent; gain: over the suite's own settings, which are the first trial")
    for row in rows:
        for error in dict.fromkeys(row.errors):
            typer.echo(f"failed: {row.method} ({row.variant}) fold {row.fold}: {error}", err=True)
    typer.echo(f"written to {found.file}; to run it: fusion-zoo bench {found.file}")


def _bar() -> "Progress":
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn()
    # Rich forgets what is older than half a minute, and knows no speed where runs take longer.
    return Progress(*columns, console=Console(stderr=True), speed_estimate_period=7 * 86400)


@contextmanager
def _counter(title: str) -> Iterator[Any]:
    """A bar whose length comes with each report, and what is being done."""
    with _bar() as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total, what: bar.update(task, completed=done, total=total, description=what)


def _run(suite: "Suite", out: Path, precision: str, execution: "Execution", dry_run: bool) -> tuple[dict[str, str], int]:
    """Run a suite behind a progress bar; returns the variant of every run id and how many runs failed, telling their errors.

    A dry run ends the command with the table of what would be run.
    """
    from benchmarks.execute import execute
    from benchmarks.forecast import forecast, forecast_table
    from benchmarks.runner import expand
    from datamodules.store import KeysOnly
    from datamodules.workers import set_threads

    if dry_run:
        store = KeysOnly()
        typer.echo(forecast_table(forecast(expand(suite, precision, store), out)))
        for feature, missing in store.missing.items():
            if missing:
                typer.echo(f"{missing} arrays of {feature} would be extracted first")
        raise typer.Exit
    set_threads(execution.threads)
    jobs = expand(suite, precision)
    with _progress(len(jobs)) as (report, status):
        outcomes = execute(jobs, out, execution, report, status)
    return {outcome.spec.run_id: outcome.spec.variant for outcome in outcomes}, _show_summary(outcomes)


def _show_summary(outcomes: "Sequence[Outcome]") -> int:
    """Tell what became of the runs, a line per method, and every error with its file; returns how many failed."""
    from collections import Counter

    from benchmarks.tables import pipe_table

    methods = list(dict.fromkeys(outcome.spec.method for outcome in outcomes))
    counts = Counter((outcome.spec.method, outcome.status) for outcome in outcomes)
    columns = {status: [str(counts[method, status]) for method in methods] for status in ("finished", "cached", "failed")}
    typer.echo(pipe_table({"method": methods} | columns), err=True)
    failed = [outcome for outcome in outcomes if outcome.status == "failed"]
    for outcome in failed:  # not in the table, whose cells would break paths and messages
        typer.echo(f"failed: {outcome.spec.run_id}: {outcome.error} (traceback in {outcome.folder})", err=True)
    return len(failed)


@contextmanager
def _progress(total: int) -> Iterator[Any]:
    """A bar over the runs still to be done that says what is running, and one line per run as it ends."""
    with _bar() as bar:
        task = bar.add_task("runs", total=total)
        cached = 0

        def report(done: int, outcome: "Outcome") -> None:
            nonlocal cached
            spec = outcome.spec
            # A run that takes no time says nothing about the time that the others take.
            cached += outcome.status == "cached"
            bar.update(task, completed=done - cached, total=total - cached)
            bar.console.print(
                f"{done}/{total} {spec.method} ({spec.variant}) fold {spec.fold} seed {spec.seed}: {outcome.status}",
                markup=False,
                highlight=False,
            )

        yield report, lambda line: bar.update(task, description=line)


@app.command()
def leaderboard(
    folder: Annotated[Path, typer.Argument(help="Folder of results.")],
    output: FormatOption = Format.md,
    pareto: Annotated[Path | None, typer.Option(help="Also draw scores against a cost into this file: .svg, .png or .pdf.")] = None,
    cost: Annotated[
        str | None, typer.Option(help="Of --pareto: parameters, latency_p50_ms, train_seconds …; else flops_per_utterance.")
    ] = None,
    published: Annotated[
        bool, typer.Option("--published", help="Set what papers report under the same protocol beside it.")
    ] = False,
    statistics: StatisticsOption = None,
    diagram: Annotated[
        Path | None, typer.Option(help="Also draw mean ranks with their critical difference: .svg, .pdf, .png.")
    ] = None,
) -> None:
    """Print the leaderboard of a folder of results."""
    from benchmarks.leaderboard import read_leaderboard
    from benchmarks.results import ResultError
    from datamodules.problems import UnknownNameError

    if cost and pareto is None:
        raise typer.BadParameter("it needs --pareto FILE: it names the cost that is drawn", param_hint="--cost")
    _check_picture(pareto, "--pareto")
    _check_picture(diagram, "--diagram")
    with plain_errors(ResultError, UnknownNameError):
        board = read_leaderboard(folder, statistics=statistics)
        if pareto is not None:
            from benchmarks.plots import pareto_figure

            pareto_figure(board.table, board.captions, cost or "flops_per_utterance").savefig(pareto)
        if diagram is not None:
            from benchmarks.plots import critical_difference_figure

            if board.ranking is None:
                raise ResultError("no diagram: ranks need statistics, three rows, and two corpora or two folds that all rows have")
            critical_difference_figure(board.ranking).savefig(diagram)
    sys.stdout.write({"md": board.to_markdown, "csv": board.to_csv, "tex": board.to_latex}[output](published))


def _check_picture(file: Path | None, option: str) -> None:
    """Refuse a file that can't be drawn before anything is read."""
    if file is not None and file.suffix not in {".svg", ".png", ".pdf"}:
        raise typer.BadParameter(f"{file} must end in .svg, .png or .pdf", param_hint=option)
    if file is not None and not file.parent.is_dir():
        raise typer.BadParameter(f"there is no folder {file.parent}", param_hint=option)


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(help="Folder of results.")],
    out: Annotated[Path, typer.Option(help="The page's file.")] = Path("report.html"),
    texts: Annotated[
        bool, typer.Option("--texts", help="Put the test transcripts in; the corpus's licence decides who may have the page.")
    ] = False,
    audio: Annotated[
        int, typer.Option(min=0, help="Put the clips of that many test utterances in, up to 3 MB; the licence holds as well.")
    ] = 0,
    statistics: StatisticsOption = None,
) -> None:
    """Write one HTML page of a folder of results: tables, figures, every test utterance, and where each figure comes from."""
    with plain_errors():
        from benchmarks.report import html_report, read_report

        page = html_report(read_report(folder, texts, audio, statistics))
        out.write_text(page, encoding="utf-8")
    typer.echo(f"{out}: {len(page.encode()) / 1e6:.1f} MB")


ToleranceOption = Annotated[float, typer.Option(min=0.0, help="Probabilities that differ by no more are the same.")]


@app.command()
def reproduce(
    folder: Annotated[Path, typer.Argument(help="Folder of a finished run.")],
    corpus: Annotated[str | None, typer.Option(help="Where a manifest is now, if it has moved.")] = None,
    root: Annotated[Path | None, typer.Option(help="Where a named corpus is now, if it has moved.")] = None,
    out: OutOption = Path("reproduced"),
    threads: Annotated[int | None, typer.Option(help="CPU threads; as many as the original had, unless you say otherwise.")] = None,
    tolerance: ToleranceOption = 1e-6,
) -> None:
    """Run a finished run again and tell what differs. Exit status 0: the predictions are identical; 1: they are not."""
    with plain_errors():
        from benchmarks import provenance

        reproduction = provenance.reproduce(folder, out, corpus, root, threads, tolerance)
    typer.echo(str(reproduction))
    raise typer.Exit(0 if reproduction.identical else 1)


@app.command()
def compare(
    one: Annotated[Path, typer.Argument(help="Folder of results.")],
    other: Annotated[Path, typer.Argument(help="Another.")],
    tolerance: ToleranceOption = 1e-6,
) -> None:
    """Compare two folders of results run by run. Exit status 0: the same runs with the same predictions; 1: not."""
    with plain_errors():
        from benchmarks import provenance

        comparison = provenance.compare(one, other, tolerance)
    typer.echo(str(comparison))
    raise typer.Exit(0 if comparison.same else 1)


if __name__ == "__main__":
    app()
