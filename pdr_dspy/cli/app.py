"""The command line: `pdr run | eval | compare | optimize | report | view | serve | train | ...`.

Imports are inside each command, so that `pdr --help` is fast. Results go to stdout, progress to stderr. Exit codes: 0
success, 1 a failure during the run, 2 invalid input, 130 interrupted, 141 nobody reads its output any more, 143
terminated (129 when its terminal was closed): a model server that the command started is stopped, and finished results
are kept; commands that are `resuming` say so.
"""

from __future__ import annotations

import functools
import os
import select
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from pdr_dspy.cli.help_texts import about

app = typer.Typer(
    name="pdr",
    help="Parallel-Distill-Refine and Sequential Refinement programs: run, evaluate, tune and serve them.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _home(path: Path | None) -> Path | None:
    """A path with `~` expanded, which a shell leaves unexpanded in `--run-dir=~/runs`."""
    return None if path is None else path.expanduser()


TargetArg = Annotated[
    str,
    typer.Argument(
        help='A saved program (.json), a program file (.py), a signature ("a -> b", or mine.py:Triage), or '
        "the name of a program, such as gsm8k."
    ),
]
ApiBase = Annotated[
    list[str] | None,
    typer.Option(
        "--api-base",
        help="A running OpenAI-compatible server, such as http://127.0.0.1:8000/v1; several times for its replicas.",
    ),
]
ModelName = Annotated[
    str | None, typer.Option("--model", help="The model served there; left out when it has only one.")
]
Embedded = Annotated[
    str | None,
    typer.Option("--embedded", help="The local model to start when there is no --api-base; see `pdr models`."),
]
TaskFile = Annotated[
    str | None, typer.Option("--task", help="The program file with the data, verifier and types of a saved program.")
]
Trusted = Annotated[
    bool,
    typer.Option(
        "--trusted",
        help="Import modules that the saved program names and that are not registered here: this runs their code.",
    ),
]
Data = Annotated[
    str | None,
    typer.Option("--data", help="Another data set: a name from `pdr datasets`, hub:owner/name, or a local file."),
]
Grader = Annotated[
    str | None,
    typer.Option(
        "--verifier", help="With --data: NAME[:KEY=VALUE,...], a name from `pdr verifiers`; by default the set's own."
    ),
]
Metric = Annotated[
    str | None,
    typer.Option(
        "--metric",
        help="FILE.py:NAME, your own function of the example and the prediction, which returns a bool or a fraction.",
    ),
]
Columns = Annotated[
    list[str] | None,
    typer.Option(
        "--field", help="With --data: NAME=COLUMN, the column of a field of the program, such as question=message."
    ),
]
JudgeBase = Annotated[
    str | None, typer.Option("--judge-base", help="The server of the model that --verifier calls, such as a judge.")
]
JudgeModel = Annotated[
    str | None, typer.Option("--judge-model", help="The model served there; left out when it has only one.")
]
Split = Annotated[
    str | None, typer.Option("--split", help="Part of the data: train, dev or test (the program's default).")
]
Limit = Annotated[int | None, typer.Option("--limit", min=1, help="Maximum number of examples.")]
Seed = Annotated[int, typer.Option("--seed", help="Seed of all sampling; equal seeds make equal requests.")]
Repeats = Annotated[int, typer.Option("--repeats", min=1, help="Runs of each example.")]
RunDir = Annotated[
    Path | None,
    typer.Option("--run-dir", callback=_home, help="Keeps finished results for resuming; default: under runs/."),
]
Texts = Annotated[
    int | None,
    typer.Option(
        "--texts", min=0, help="Maximum MB of kept questions, drafts and workspaces; default 64, 0 keeps none."
    ),
]
BudgetSeq = Annotated[
    int | None,
    typer.Option(
        "--budget-seq", min=1, help="Limit on B_seq of one run: the tokens one after the other, which you wait for."
    ),
]
BudgetTotal = Annotated[
    int | None,
    typer.Option("--budget-total", min=1, help="Limit on B_total of one run: the tokens of all calls, which you pay."),
]
Ray = Annotated[
    str | None,
    typer.Option("--ray", help="Run on a Ray cluster: auto (the one that runs here), local (start one), or HOST:PORT."),
]
Study = Annotated[str, typer.Option("--study", help="The name of the trials' study in --storage.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")]

Command = TypeVar("Command", bound=Callable[..., Any])


class Terminated(KeyboardInterrupt):
    """A signal asked the process to end; running work ends as with Ctrl-C."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


SIGNALS = {"SIGINT": "stopped", "SIGTERM": "terminated", "SIGHUP": "its terminal is gone"}
"""Signals that end a command cleanly, and the message for each."""


@contextmanager
def terminated_by_signals() -> Iterator[None]:
    """Inside, SIGTERM and SIGHUP raise `Terminated` in the main thread, once: a second signal does not interrupt the
    clean-up. Signals that another handler takes, or that are ignored as with `nohup`, are left alone."""
    before: dict[int, Any] = {}

    def handler(number: int, _: Any) -> None:
        for known in before:
            signal.signal(known, signal.SIG_IGN)
        raise Terminated(number)

    if threading.current_thread() is threading.main_thread():
        for name in ("SIGTERM", "SIGHUP"):
            number = getattr(signal, name, None)  # Windows has no SIGHUP
            if number is not None and signal.getsignal(number) is signal.SIG_DFL:
                before[number] = signal.signal(number, handler)
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)


def guarded(command: Command, *, after: str = "") -> Command:
    """Turn this library's errors into one sentence and an exit code.

    Args:
        command: the command.
        after: what it says about how to continue when it is interrupted; nothing for commands that keep no results.
    """

    @functools.wraps(command)
    def run(*args: Any, **options: Any) -> Any:
        from pdr_dspy.errors import ArtifactError, ConfigError, DataError, PDRError

        try:
            with terminated_by_signals():
                return command(*args, **options)
        except PDRError as error:
            typer.secho(f"error: {error}", fg=typer.colors.RED, err=True)
            sys.exit(2 if isinstance(error, (ConfigError, DataError, ArtifactError)) else 1)
        except OSError as error:
            if isinstance(error, BrokenPipeError) and any(map(has_no_reader, (sys.stdout, sys.stderr))):
                raise  # `main` ends quietly
            # a full or unwritable disk without a more specific message
            where = f"{error.filename}: " if error.filename else ""
            typer.secho(f"error: {where}{error.strerror or error}", fg=typer.colors.RED, err=True)
            sys.exit(1)
        except KeyboardInterrupt as error:
            number = error.number if isinstance(error, Terminated) else signal.SIGINT
            how = f"; {after}" if after and not options.get("dry_run") else ""
            typer.secho(f"{SIGNALS[signal.Signals(number).name]}{how}", err=True)
            sys.exit(128 + number)

    return run  # type: ignore[return-value]


def resuming(command: Command) -> Command:
    """`guarded`, for a command that resumes in its run folder."""
    return guarded(command, after="the same command resumes")


def has_no_reader(stream: Any) -> bool:
    """Whether a stream is a pipe whose reader has gone, such as `head`."""
    try:
        poll = select.poll()
        poll.register(stream.fileno(), 0)
    except (AttributeError, OSError, ValueError):  # Windows has no `poll`; a replaced stream may have no descriptor
        return False
    return any(event & select.POLLERR for _, event in poll.poll(0))


def _version(asked: bool) -> None:
    if asked:
        from pdr_dspy import __version__

        typer.echo(f"pdr-dspy {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Parallel-Distill-Refine and Sequential Refinement programs: run, evaluate, tune and serve them."""


@app.command("run", **about("run"))
@guarded
def run(
    target: TargetArg,
    inputs: Annotated[
        list[str] | None,
        typer.Option("--input", "-i", help="NAME=TEXT for each input, or TEXT if there is only one."),
    ] = None,
    jsonl: Annotated[
        Path | None,
        typer.Option("--jsonl", callback=_home, help="A JSON object of inputs per line; - is stdin. Answers likewise."),
    ] = None,
    api_base: ApiBase = None,
    model: ModelName = None,
    embedded: Embedded = None,
    task: TaskFile = None,
    trusted: Trusted = False,
    seed: Seed = 0,
    budget_seq: BudgetSeq = None,
    budget_total: BudgetTotal = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Answer one question, or a file of them."""
    from pdr_dspy.cli import run

    run.run(
        target,
        inputs or [],
        jsonl,
        model=_model(api_base, model, embedded),
        task=task,
        seed=seed,
        budget=_budget(budget_seq, budget_total),
        as_json=as_json,
        display=_display(quiet),
        trusted=trusted,
    )


@app.command("new", **about("new"))
@guarded
def new(name: Annotated[str, typer.Argument(help="The name of the program; NAME.py is written here.")]) -> None:
    """Write a program file to start from: build(), data() and verifier()."""
    from pdr_dspy.cli.new import new

    path = new(name)
    typer.echo(str(path))
    typer.echo(f"next: pdr eval {path} --limit 4, then replace its rows, metric and program", err=True)


@app.command("eval", **about("eval"))
@resuming
def evaluate(
    target: TargetArg,
    api_base: ApiBase = None,
    model: ModelName = None,
    embedded: Embedded = None,
    task: TaskFile = None,
    trusted: Trusted = False,
    data: Data = None,
    metric: Metric = None,
    verifier: Grader = None,
    field: Columns = None,
    judge_base: JudgeBase = None,
    judge_model: JudgeModel = None,
    split: Split = None,
    limit: Limit = None,
    repeats: Repeats = 1,
    seed: Seed = 0,
    run_dir: RunDir = None,
    budget_seq: BudgetSeq = None,
    budget_total: BudgetTotal = None,
    texts: Texts = None,
    ray: Ray = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Run a program on a data set and grade it."""
    from pdr_dspy.cli import evaluate

    evaluate.evaluate(
        evaluate.Job.of(
            target, task=task, data=data, verifier=verifier, split=split, limit=limit, repeats=repeats, seed=seed,
            model=_model(api_base, model, embedded), budget=_budget(budget_seq, budget_total), run_dir=run_dir,
            kind="eval", trusted=trusted, judge_base=judge_base, judge_model=judge_model, texts=texts, ray=ray,
            metric=metric, fields=field or (),
        ),
        as_json=as_json,
        display=_display(quiet),
    )  # fmt: skip


@app.command("compare", **about("compare"))
@resuming
def compare(
    target: TargetArg,
    against: Annotated[
        list[str] | None, typer.Option("--with", help="Another program or saved program to include in the table.")
    ] = None,
    api_base: ApiBase = None,
    model: ModelName = None,
    embedded: Embedded = None,
    task: TaskFile = None,
    trusted: Trusted = False,
    data: Data = None,
    metric: Metric = None,
    verifier: Grader = None,
    field: Columns = None,
    judge_base: JudgeBase = None,
    judge_model: JudgeModel = None,
    split: Split = None,
    limit: Limit = None,
    repeats: Repeats = 1,
    seed: Seed = 0,
    run_dir: RunDir = None,
    texts: Texts = None,
    ray: Ray = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Compare a program with one pass, SR and majority voting at its own B_seq and B_total."""
    from pdr_dspy.cli import compare, evaluate

    compare.compare(
        evaluate.Job.of(
            target, task=task, data=data, verifier=verifier, split=split, limit=limit, repeats=repeats, seed=seed,
            model=_model(api_base, model, embedded), budget=None, run_dir=run_dir, kind="compare",
            trusted=trusted, judge_base=judge_base, judge_model=judge_model, texts=texts, ray=ray,
            metric=metric, fields=field or (),
        ),
        against or [],
        trusted=trusted,
        as_json=as_json,
        display=_display(quiet),
    )  # fmt: skip


@app.command("optimize", **about("optimize"))
@resuming
def optimize(
    target: TargetArg,
    api_base: ApiBase = None,
    model: ModelName = None,
    embedded: Embedded = None,
    task: TaskFile = None,
    trusted: Trusted = False,
    data: Data = None,
    metric: Metric = None,
    verifier: Grader = None,
    field: Columns = None,
    dev: Annotated[
        str | None,
        typer.Option("--dev", help="With --data: other data for the confirmation; by default two fifths of its rows."),
    ] = None,
    trials: Annotated[int, typer.Option("--trials", min=1, help="Schedules to try.")] = 30,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Maximum number of training examples.")] = None,
    confirm: Annotated[int | None, typer.Option("--confirm", min=1, help="Maximum number of dev examples.")] = None,
    repeats: Repeats = 1,
    seed: Seed = 0,
    run_dir: RunDir = None,
    budget_seq: Annotated[
        int | None, typer.Option("--budget-seq", min=1, help="Limit on the mean sequential tokens (B_seq).")
    ] = None,
    budget_total: Annotated[
        int | None, typer.Option("--budget-total", min=1, help="Limit on the mean tokens of all calls (B_total).")
    ] = None,
    budget_cost: Annotated[
        float | None,
        typer.Option(
            "--budget-cost", help="Limit on the mean cost, in the unit of the prices of the program's models."
        ),
    ] = None,
    pareto: Annotated[bool, typer.Option("--pareto", help="Search the whole front of score and tokens.")] = False,
    max_tokens: Annotated[
        int | None, typer.Option("--max-tokens", min=1, help="End the search after this many paid tokens.")
    ] = None,
    minutes: Annotated[float | None, typer.Option("--minutes", min=0.1, help="End the search after this time.")] = None,
    stop: Annotated[
        str,
        typer.Option("--stop", help="When the search ends: after `trials`, or also when going on is not `worth` it."),
    ] = "trials",
    price: Annotated[
        float,
        typer.Option("--price", help="With --stop worth: the gain in score that the whole budget must bring."),
    ] = 0.01,
    margin: Annotated[
        float, typer.Option("--margin", help="A difference in score that does not count: the cheaper program wins.")
    ] = 0.0,
    finalists: Annotated[
        int, typer.Option("--finalists", min=1, help="Programs, besides the student, that run again on fresh seeds.")
    ] = 4,
    accept: Annotated[
        str,
        typer.Option("--accept", help="When to keep the winner: `confident` that it is better, or merely `better`."),
    ] = "confident",
    prompts: Annotated[
        int, typer.Option("--prompts", min=0, help="Instructions that the model writes for each role.")
    ] = 0,
    axis: Annotated[
        list[str] | None,
        typer.Option(
            "--axis",
            help="NAME=V1,V2: the candidates of one axis, such as widths=1,4,8; repeatable. Of several operators "
            "each has its own with its path in front, as solve.widths=1,4.",
        ),
    ] = None,
    storage: Annotated[
        str | None,
        typer.Option(
            "--storage",
            help="Keeps calls and trials for several searches or machines: a folder, or postgresql://user@host/database.",
        ),
    ] = None,
    study: Study = "pdr",
    texts: Texts = None,
    ray: Ray = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only print the estimated tokens; no call is made.")
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Tune a program's schedule on its training data; writes best.json and report.html."""
    from pdr_dspy.cli import optimize
    from pdr_dspy.cli.data_option import DataOptions

    optimize.optimize(
        target,
        task=task,
        options=DataOptions(data, metric, verifier, field or (), dev=dev),
        model=_model(api_base, model, embedded),
        limit=limit,
        confirm=confirm,
        run_dir=run_dir,
        pareto=pareto,
        display=_display(quiet),
        trials=trials,
        repeats=repeats,
        seed=seed,
        max_sequential=budget_seq,
        max_total=budget_total,
        **({} if budget_cost is None else {"max_cost": budget_cost}),
        max_tokens=max_tokens,
        time_limit=None if minutes is None else minutes * 60,
        axes=axis or (),
        dry_run=dry_run,
        finalists=finalists,
        stop=stop,
        price=price,
        margin=margin,
        accept=accept,
        prompts=prompts,
        storage=storage,
        study=study,
        trusted=trusted,
        ray=ray,
        **({} if texts is None else {"max_text_bytes": texts * 2**20}),
    )


@app.command("report", **about("report"))
@guarded
def report(
    run_dir: Annotated[
        Path, typer.Argument(callback=_home, help="A folder that `pdr eval`, `compare` or `optimize` wrote.")
    ],
    out: Annotated[
        Path | None, typer.Option("--out", callback=_home, help="The file; by default report.html in the folder.")
    ] = None,
) -> None:
    """Write one self-contained HTML page about a run."""
    from pdr_dspy.cli import report

    typer.echo(str(report.write(run_dir, out)))
    if (line := report.check_line(run_dir)) is not None:
        typer.echo(line, err=True)


Logs = Annotated[
    Path | None,
    typer.Option(
        "--out", callback=_home, help="Where it goes; the folder `inspect` in the run's, or a file beside the program."
    ),
]
Plain = Annotated[
    bool, typer.Option("--plain", help="Show models' texts as plain text, without markdown, links or images.")
]


@app.command("view", **about("view"))
@guarded
def view(
    run_dir: Annotated[
        Path, typer.Argument(callback=_home, help="A folder that `pdr eval`, `compare` or `optimize` wrote.")
    ],
    port: Annotated[int, typer.Option("--port", min=1, max=65535)] = 7575,
    out: Logs = None,
    plain: Plain = False,
    quiet: Quiet = False,
) -> None:
    """View a run in a browser: a lane for each round, its drafts, checks and workspaces (Inspect's viewer)."""
    from pdr_dspy.cli import view

    view.view(run_dir, port, out, plain=plain, display=_display(quiet))


@app.command("export", **about("export"))
@guarded
def export(
    run_dir: Annotated[
        Path, typer.Argument(callback=_home, help="A folder that `pdr eval`, `compare` or `optimize` wrote; a program.")
    ],
    to: Annotated[
        str,
        typer.Option(
            "--to", help="The format: inspect (a run's logs), remom (a program's schedule for vLLM's router)."
        ),
    ],
    out: Logs = None,
    plain: Plain = False,
    quiet: Quiet = False,
) -> None:
    """Write a run as logs of another tool, one for each evaluation in it; or a saved program's schedule."""
    from pdr_dspy.cli import view

    for path in view.export(run_dir, to, out, plain=plain, display=_display(quiet)):
        typer.echo(str(path))


@app.command("train", **about("train"))
@resuming
def train(
    config: Annotated[
        Path, typer.Option("--config", help="A JSON file: model, rows, steps, learning_rate, lora, schedule, ...")
    ],
    output: Annotated[Path, typer.Option("--output", help="The run folder; the same command resumes in it.")],
    target: Annotated[
        str | None, typer.Argument(help="The program to train on: a saved one, a file, or a name in programs/.")
    ] = None,
    sft: Annotated[
        Path | None,
        typer.Option("--sft", callback=_home, help="Imitate these chat samples of `pdr export-sft` instead."),
    ] = None,
    task: TaskFile = None,
    trusted: Trusted = False,
    quiet: Quiet = False,
) -> None:
    """Train a model on a program's calls, or on samples; writes OUTPUT/model, and OUTPUT/adapter with LoRA."""
    from pdr_dspy.cli import train

    train.train(target, config, output, task=task, display=_display(quiet), trusted=trusted, sft=sft)


@app.command("export-sft", **about("export-sft"))
@guarded
def export_sft(
    run_dir: Annotated[Path, typer.Argument(help="A folder that `pdr eval` wrote.")],
    out: Annotated[Path, typer.Option("--out", help="The chat dataset to write, a .jsonl file.")],
    program: Annotated[
        str | None,
        typer.Option("--program", help="The evaluated program, if the folder's name does not tell."),
    ] = None,
    task: TaskFile = None,
    trusted: Trusted = False,
    data: Data = None,
    verifier: Grader = None,
    judge_base: JudgeBase = None,
    judge_model: JudgeModel = None,
    split: Split = None,
    what: Annotated[
        str,
        typer.Option(
            "--what",
            help="right: traces, drafts, workspaces and refinements; or for a distiller alone: summaries whose "
            "refinement was right, picks or verdicts of who saw the gold answer, which the prompts do not have.",
        ),
    ] = "right",
    teacher: Annotated[
        bool,
        typer.Option("--teacher", help="Picks and verdicts by the model below, which reads the gold answer."),
    ] = False,
    api_base: ApiBase = None,
    model: ModelName = None,
    embedded: Embedded = None,
    orders: Annotated[
        int | None, typer.Option("--orders", min=1, help="Picks: prompts for each run, in other orders of candidates.")
    ] = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Write calls of an evaluation as a chat dataset: what it got right, or what a distiller should say."""
    from pdr_dspy.cli import train

    train.export(
        run_dir, out, program=program, task=task, data=data, verifier=verifier, split=split, as_json=as_json,
        display=_display(quiet), trusted=trusted, judge_base=judge_base, judge_model=judge_model, what=what,
        teacher=_model(api_base, model, embedded) if teacher else None, orders=orders,
    )  # fmt: skip


@app.command("serve", **about("serve"))
@guarded
def serve(
    targets: Annotated[
        list[str], typer.Argument(help="Saved programs (.json), each a model named after its file; or program files.")
    ],
    api_base: ApiBase = None,
    model: ModelName = None,
    embedded: Embedded = None,
    task: TaskFile = None,
    trusted: Trusted = False,
    host: Annotated[str, typer.Option("--host", help="Where to listen; 0.0.0.0 accepts other machines.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="0 takes a free port.")] = 8080,
    workers: Annotated[
        int, typer.Option("--workers", min=1, help="Processes behind the port, which share out the limits; 1.")
    ] = 1,
    keys: Annotated[
        Path | None,
        typer.Option("--keys", callback=_home, help="Bearer keys, one per line; or PDR_SERVE_KEYS in the environment."),
    ] = None,
    without_keys: Annotated[
        bool, typer.Option("--without-keys", help="Serve every client that can reach the --host, without keys.")
    ] = False,
    budget_seq: BudgetSeq = None,
    budget_total: BudgetTotal = None,
    deadline: Annotated[
        float | None, typer.Option("--deadline", min=0.1, help="Seconds from a request to its answer; default 600.")
    ] = None,
    running: Annotated[int | None, typer.Option("--running", min=1, help="Concurrent runs; default 64.")] = None,
    queued: Annotated[int | None, typer.Option("--queued", min=0, help="Waiting runs, then 429; default 256.")] = None,
    in_flight: Annotated[
        int | None, typer.Option("--in-flight", min=1, help="Concurrent requests to the model server.")
    ] = None,
    drain: Annotated[
        float | None, typer.Option("--drain", min=1, help="Seconds for active requests after SIGTERM; default 120.")
    ] = None,
    certificate: Annotated[
        Path | None, typer.Option("--certificate", callback=_home, help="PEM file, for TLS.")
    ] = None,
    private_key: Annotated[Path | None, typer.Option("--private-key", callback=_home, help="Its key.")] = None,
    ignore_tools: Annotated[
        bool,
        typer.Option("--ignore-tools", help="Answer requests that offer tools, such as open-webui's, without a call."),
    ] = False,
    log_texts: Annotated[bool, typer.Option("--log-texts", help="Log inputs and answers.")] = False,
    quiet: Quiet = False,
) -> None:
    """Serve programs as models of an OpenAI-compatible API, until Ctrl-C or SIGTERM."""
    try:
        from pdr_dspy.cli import serve_programs
    except ImportError as error:
        from pdr_dspy.errors import MissingExtra

        raise MissingExtra(str(error.name).partition(".")[0], "serve", "`pdr serve`") from None

    serve_programs.serve(
        targets,
        model=_model(api_base, model, embedded),
        task=task,
        trusted=trusted,
        host=host,
        port=port,
        workers=workers,
        keys=keys,
        without_keys=without_keys,
        certificate=certificate,
        private_key=private_key,
        limits={
            "budget_seq": budget_seq, "budget_total": budget_total, "seconds": deadline, "running": running,
            "queued": queued, "in_flight": in_flight, "drain_seconds": drain, "log_texts": log_texts,
            "ignore_tools": ignore_tools,
        },
        display=_display(quiet),
    )  # fmt: skip


@app.command("serve-model", **about("serve-model"))
@guarded
def serve_model(
    name: Annotated[
        str, typer.Argument(help="A name from `pdr models`, a GGUF file, or with --vllm a model of the hub.")
    ],
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="0 takes a free port.")] = 8000,
    slots: Annotated[int, typer.Option("--slots", min=1, help="Concurrent completions (embedded engine).")] = 16,
    context: Annotated[int, typer.Option("--context", min=64, help="Tokens of prompt and completion together.")] = 2048,
    vllm: Annotated[bool, typer.Option("--vllm", help="Serve with vLLM on the local GPUs.")] = False,
    tensor_parallel: Annotated[int, typer.Option("--tensor-parallel", min=1, help="GPUs per replica (vLLM).")] = 1,
    data_parallel: Annotated[int, typer.Option("--data-parallel", min=1, help="Replicas (vLLM).")] = 1,
    adapter: Annotated[
        list[str] | None,
        typer.Option(
            "--adapter", help="NAME=FOLDER of a LoRA adapter (vLLM), or a GGUF file named after it; repeatable."
        ),
    ] = None,
) -> None:
    """Run a model server for other terminals, until Ctrl-C."""
    from pdr_dspy.cli import serve

    serve.serve(
        name,
        port=port,
        slots=slots,
        context=context,
        vllm={"tensor_parallel": tensor_parallel, "data_parallel": data_parallel} if vllm else None,
        adapters=adapter or (),
        display=_display(False),
    )


@app.command("models", **about("models"))
@guarded
def models(api_base: ApiBase = None) -> None:
    """List the models that can be served here, or those of a running server."""
    from pdr_dspy.cli import serve

    serve.models(api_base, _display(False))


@app.command("doctor", **about("doctor"))
@guarded
def doctor(api_base: ApiBase = None) -> None:
    """Show what is installed, what is reachable, and how to fix the rest."""
    from pdr_dspy.cli import doctor

    raise typer.Exit(doctor.doctor(api_base, _display(False)))


@app.command("distillers", **about("distillers"))
@guarded
def distillers() -> None:
    """List the registered distillers, including those of installed packages."""
    from pdr_dspy.cli import list_parts

    list_parts.distillers(_display(False))


@app.command("axes", **about("axes"))
@guarded
def axes() -> None:
    """List the axes for `--axis` of `pdr optimize`, including those of installed packages."""
    from pdr_dspy.cli import list_parts

    list_parts.axes(_display(False))


@app.command("verifiers", **about("verifiers"))
@guarded
def verifiers() -> None:
    """List the registered verifiers with their settings, including those of installed packages."""
    from pdr_dspy.cli import list_parts

    list_parts.verifiers(_display(False))


@app.command("checks", **about("checks"))
@guarded
def checks() -> None:
    """List the registered checks, including those of installed packages; a program takes them as `check="name"`."""
    from pdr_dspy.cli import list_parts

    list_parts.checks(_display(False))


@app.command("datasets", **about("datasets"))
@guarded
def datasets(
    name: Annotated[str | None, typer.Argument(help="Details of one set, or `rg` to list the procedural ones.")] = None,
) -> None:
    """List the registered data sets."""
    from pdr_dspy.cli import list_datasets

    list_datasets.datasets(name, _display(False))


def main() -> None:
    """The `pdr` command. If nobody reads its output any more, as behind `| head`, it ends quietly, with the exit code
    that a shell reports for SIGPIPE."""
    streams = (sys.stdout, sys.stderr)
    try:
        app()
    except SystemExit:
        unread = [stream for stream in streams if _cannot_be_flushed(stream)]
        if unread or (sys.stdout, sys.stderr) != streams:  # typer replaces them after a broken pipe
            sys.exit(128 + getattr(signal, "SIGPIPE", 13))
        raise


def _cannot_be_flushed(stream: Any) -> bool:
    """Whether nobody reads a stream any more; what is still in its buffer is then dropped, also at exit."""
    try:
        stream.flush()
    except BrokenPipeError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
        return True
    return False


def _model(api_base: list[str] | None, name: str | None, embedded: str | None) -> Any:
    from pdr_dspy.cli.model_option import Model

    return Model(api_base, name, embedded)


def _budget(sequential: int | None, total: int | None) -> Any:
    from pdr_dspy.calls.budget import Budget

    return None if sequential is None and total is None else Budget(sequential=sequential, total=total)


def _display(quiet: bool) -> Any:
    from pdr_dspy.cli.display import Display

    return Display(quiet=quiet)
