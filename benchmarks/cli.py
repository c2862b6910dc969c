"""The command ``fusion-zoo``.

Whatever loads torch is imported inside the command that needs it, so that ``--help`` answers at once.
"""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from benchmarks.spec import Suite

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
CorpusOption = Annotated[str | None, typer.Option(help="A corpus's name, or the path of a CSV manifest.")]
ProtocolOption = Annotated[str | None, typer.Option(help="auto, split@1, speaker-5fold@1, overlap-5fold@1.")]
SeedsOption = Annotated[str | None, typer.Option(help="How many, or a list such as 4,7.")]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", help="mer_han.hidden=128, training.lr=0.001, text_encoder.trainable=top:2; repeatable.")
]
OutOption = Annotated[Path, typer.Option(help="Folder of the results.")]
PrecisionOption = Annotated[str, typer.Option(help="auto, 32-true, bf16-mixed or 16-mixed.")]
WorkersOption = Annotated[int, typer.Option(help="Processes that read features ahead of each run.")]
JobsOption = Annotated[int, typer.Option("--jobs", help="Runs at a time.")]
ThreadsOption = Annotated[
    int, typer.Option(help="CPU threads of each run; 0 for all cores. 1 is best for small models and on shared machines.")
]
OptionalAudio = Annotated[str | None, typer.Option("--audio", help="Audio feature, such as 'mfcc(n=40)'.")]
OptionalText = Annotated[str | None, typer.Option("--text", help="Text feature, such as \"hidden_states(checkpoint='minilm')\".")]
OverlapOption = Annotated[bool, typer.Option("--allow-speaker-overlap", help="Permit speakers in two splits.")]
SecondsOption = Annotated[float | None, typer.Option(help="Longer clips are cut.")]
SkipOption = Annotated[bool, typer.Option("--skip-bad", help="Go on without bad rows; the leaderboard states the coverage.")]


class Format(StrEnum):
    """How to print a table."""

    md = "md"
    csv = "csv"
    tex = "tex"


FormatOption = Annotated[Format, typer.Option("--format", help="md, csv or tex: a LaTeX document that compiles as it is.")]


@contextmanager
def _plain_errors(*kinds: type[Exception]) -> Iterator[None]:
    """Show what a user can mend as a message; anything else is a bug and keeps its traceback.

    Args:
        kinds: Errors that a user can mend; none for all there are, which loads torch.
    """
    expected = kinds or _all_kinds()
    try:
        yield
    except expected as error:
        typer.echo(f"fusion-zoo: {error}", err=True)
        raise typer.Exit(2) from None
    except PermissionError as error:
        typer.echo(f"fusion-zoo: {error.filename}: {error.strerror}; check its permissions", err=True)
        raise typer.Exit(2) from None


def _all_kinds() -> tuple[type[Exception], ...]:
    from benchmarks.results import ResultError
    from benchmarks.spec import SuiteError
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
) -> None:
    """Read a corpus and compute its features, once, for every later run."""
    with _plain_errors():
        from datamodules.corpora import open_corpus
        from datamodules.emotion import load_utterances
        from datamodules.features import parse_feature

        opened = open_corpus(corpus, root, encoding)
        utterances = load_utterances(opened, parse_feature(audio), parse_feature(text), None, skip_bad, max_seconds)
    for arrays in (utterances.audio, utterances.text):
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
    with _plain_errors():
        from rich.console import Console

        from datamodules.corpora import open_corpus
        from datamodules.doctor import examine
        from datamodules.doctor_page import html_page, print_page

        report = examine(open_corpus(corpus, root, encoding), protocol or "auto", allow_speaker_overlap)
    print_page(report, Console())
    if html is not None:
        try:
            html.write_text(html_page(report), encoding="utf-8")
        except OSError as error:
            typer.echo(f"fusion-zoo: the page can't be written to {html} ({error.strerror}); name another file", err=True)
            raise typer.Exit(2) from None
    raise typer.Exit(0 if report.healthy else 1)


@app.command()
def bench(
    suite: SuiteArgument = None,
    corpus: CorpusOption = None,
    root: RootOption = None,
    encoding: EncodingOption = None,
    methods: Annotated[str | None, typer.Option(help="Comma-separated names, or 'all'.")] = None,
    protocol: ProtocolOption = None,
    track: Annotated[str | None, typer.Option(help="controlled or published.")] = None,
    seeds: SeedsOption = None,
    audio: OptionalAudio = None,
    text: OptionalText = None,
    settings: SetOption = None,
    out: OutOption = Path("runs"),
    precision: PrecisionOption = "auto",
    workers: WorkersOption = 0,
    processes: JobsOption = 1,
    threads: ThreadsOption = 0,
    skip_bad: SkipOption = False,
    allow_speaker_overlap: OverlapOption = False,
    max_seconds: SecondsOption = None,
) -> None:
    """Train methods under identical conditions and print the leaderboard. Finished runs are not run again."""
    with _plain_errors():
        from benchmarks.leaderboard import read_leaderboard
        from benchmarks.spec import load_suite

        overrides = {
            "corpus": corpus,
            "root": root,
            "encoding": encoding,
            "methods": methods,
            "protocol": protocol,
            "track": track,
            "seeds": seeds,
            "audio": audio,
            "text": text,
            "skip_bad": skip_bad or None,
            "allow_speaker_overlap": allow_speaker_overlap or None,
            "max_seconds": max_seconds,
        }
        runs, failed = _run(load_suite(suite, overrides, settings or []), out, precision, workers, processes, threads)
        if failed < len(runs):
            typer.echo(read_leaderboard(out, runs).to_markdown())
    raise typer.Exit(1 if failed else 0)


@app.command()
def ablate(
    method: Annotated[str, typer.Argument(help="Whose ablation table.")],
    suite: Annotated[
        Path | None, typer.Argument(help="A suite whose conditions, and options for these methods, hold for every row.")
    ] = None,
    corpus: CorpusOption = None,
    root: RootOption = None,
    encoding: EncodingOption = None,
    protocol: ProtocolOption = None,
    seeds: SeedsOption = None,
    audio: OptionalAudio = None,
    text: OptionalText = None,
    settings: SetOption = None,
    out: OutOption = Path("runs"),
    precision: PrecisionOption = "auto",
    workers: WorkersOption = 0,
    processes: JobsOption = 1,
    threads: ThreadsOption = 0,
    skip_bad: SkipOption = False,
    allow_speaker_overlap: OverlapOption = False,
    max_seconds: SecondsOption = None,
    output: FormatOption = Format.md,
) -> None:
    """Run a paper's ablation table and print its rows in its order, beside the paper's figures."""
    with _plain_errors():
        from benchmarks.ablation import ablation_methods, ablation_suite, ablation_table
        from benchmarks.spec import load_suite

        overrides = {
            "corpus": corpus,
            "root": root,
            "encoding": encoding,
            "methods": ablation_methods(method) if suite is None else None,
            "protocol": protocol,
            "seeds": seeds,
            "audio": audio,
            "text": text,
            "skip_bad": skip_bad or None,
            "allow_speaker_overlap": allow_speaker_overlap or None,
            "max_seconds": max_seconds,
        }
        rows = ablation_suite(method, load_suite(suite, overrides, settings or []))
        runs, failed = _run(rows, out, precision, workers, processes, threads)
        if failed < len(runs):
            table = ablation_table(method, out, runs)
            typer.echo({"md": table.to_markdown, "csv": table.to_csv, "tex": table.to_latex}[output](), nl=output is Format.md)
    raise typer.Exit(1 if failed else 0)


def _run(suite: "Suite", out: Path, precision: str, workers: int, processes: int, threads: int) -> tuple[dict[str, str], int]:
    """Run a suite behind a progress bar; returns the variant of every run id and how many runs failed, telling their errors."""
    from benchmarks.runner import expand, run_all, set_threads

    set_threads(threads)
    jobs = expand(suite, precision)
    with _progress(len(jobs)) as (report, epoch):
        outcomes = run_all(jobs, out, workers, processes, threads, report, epoch)
    failed = [outcome for outcome in outcomes if outcome.status == "failed"]
    for outcome in failed:
        typer.echo(f"failed: {outcome.spec.run_id}: {outcome.error} (traceback in {outcome.folder})", err=True)
    return {outcome.spec.run_id: outcome.spec.variant for outcome in outcomes}, len(failed)


@contextmanager
def _progress(total: int) -> Iterator[Any]:
    """A bar over the suite's runs that says where training is, and one line per run as it ends."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    from benchmarks.runner import Outcome

    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn()
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("runs", total=total)

        def report(done: int, outcome: Outcome) -> None:
            spec = outcome.spec
            bar.update(task, completed=done)
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
    published: Annotated[
        bool, typer.Option("--published", help="Set what papers report under the same protocol beside it.")
    ] = False,
    statistics: Annotated[
        bool | None,
        typer.Option("--stats/--no-stats", help="Intervals, ties and ranks from stored predictions; by default up to 1,000 runs."),
    ] = None,
    diagram: Annotated[
        Path | None, typer.Option(help="Also draw mean ranks with their critical difference: .svg, .pdf, .png.")
    ] = None,
) -> None:
    """Print the leaderboard of a folder of results."""
    from benchmarks.leaderboard import read_leaderboard
    from benchmarks.results import ResultError

    with _plain_errors(ResultError):
        board = read_leaderboard(folder, statistics=statistics)
        if diagram is not None:
            from benchmarks.plots import critical_difference_figure

            if board.ranking is None:
                raise ResultError("no diagram: ranks need statistics, three rows, and two tables or two folds that all rows have")
            critical_difference_figure(board.ranking).savefig(diagram)
    sys.stdout.write({"md": board.to_markdown, "csv": board.to_csv, "tex": board.to_latex}[output](published))


if __name__ == "__main__":
    app()
