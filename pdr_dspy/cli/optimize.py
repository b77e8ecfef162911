"""`pdr optimize`, and the studies of `optimize/`: search, confirm, compare, write best.json and the report."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dspy

from pdr_dspy import artifact, calls, datasets
from pdr_dspy.calls.store import address
from pdr_dspy.cli import compare
from pdr_dspy.cli.axis_option import space_around
from pdr_dspy.cli.compare import MOST_PASSES, MOST_ROUNDS
from pdr_dspy.cli.data_option import DataOptions, inputs_of, read_both
from pdr_dspy.cli.display import Display, report_columns, report_rows
from pdr_dspy.cli.evaluate import Job, save_json
from pdr_dspy.cli.executor_option import check_reachable, executor_of
from pdr_dspy.cli.model_option import Model
from pdr_dspy.cli.program_files import Target, Task, build, find, schedules_of
from pdr_dspy.cli.report import write_page
from pdr_dspy.cli.run_folders import check_folder
from pdr_dspy.errors import ConfigError
from pdr_dspy.evaluation.failures import failures_in_words
from pdr_dspy.evaluation.fingerprint import fingerprint
from pdr_dspy.operators.nested import operators_in
from pdr_dspy.operators.operator import Operator
from pdr_dspy.runtime import postgres
from pdr_dspy.search import Estimate, PDROptimizer, SearchResult, Space, Spaces
from pdr_dspy.search.dashboard import ARTIFACTS
from pdr_dspy.search.driver.journal import check_not_driven
from pdr_dspy.search.driver.measurements import CONFIRMATION_SEED
from pdr_dspy.search.optuna_mirror import JOURNAL


def optimize(
    target: str,
    *,
    task: str | None,
    model: Model,
    limit: int | None,
    confirm: int | None,
    run_dir: Path | None,
    display: Display,
    axes: Sequence[str] = (),
    dry_run: bool = False,
    trusted: bool = False,
    ray: str | None = None,
    options: DataOptions | None = None,
    writer: Model | None = None,
    **settings: Any,
) -> None:
    """Tune the program that `target` names on its task's data, or on those of `options`; `writer` writes instructions
    in place of the program's own model."""
    check_reachable(model, ray)
    options = options or DataOptions()
    found = find(target, task=task, trusted=trusted)
    graded, valset = read_both(found, options, limit=limit, confirm=confirm)
    trainset, verifier = graded.examples, graded.verifier
    if graded.lm is not None:
        raise ConfigError(
            f"`--verifier {options.verifier}` calls a model, which `pdr optimize` does not serve; give it to "
            "`PDROptimizer` in Python"
        )
    graded_as = Task(
        found.name if found.task is None else found.task.name,
        build=lambda: found.program if found.task is None else build(found.task),
        data=lambda *_, **__: trainset,
        verifier=lambda: verifier,
        file=None if found.task is None else found.task.file,
        part="" if found.task is None else found.task.part,
        graded=str(options),
    )
    space = space_around(found.program, axes)
    if run_dir is None:
        # A longer search resumes the shorter one.
        ends = ("trials", "max_tokens", "time_limit", "stop", "price", "margin", "accept")
        searched = {name: value for name, value in settings.items() if name not in ends}
        about = [
            found.name,
            datasets.fingerprint([*trainset, *valset]),
            model.answering(),
            searched,
            *([list(axes)] if axes else []),
            *([{"writer": writer.answering()}] if writer else []),
            verifier.describe(),
            fingerprint(found.program),
        ]
        run_dir = Path("runs") / f"optimize-{found.name}-{hashlib.sha256(json.dumps(about).encode()).hexdigest()[:8]}"
    with _connected(writer) as more:
        study(
            graded_as,
            student=found.program,
            trainset=trainset,
            valset=valset,
            model=model,
            run_dir=run_dir,
            display=display,
            space=space,
            dry_run=dry_run,
            ray=ray,
            **more,
            **settings,
        )


def writer_of(prompts: int, api_base: str | None, name: str | None) -> Model | None:
    """The model that writes instructions; None for the program's own. Raises ConfigError for options that lack
    another."""
    if name is None and api_base is None:
        return None
    given = "--prompt-model" if name is not None else "--prompt-api-base"
    if api_base is None:
        raise ConfigError(f"`--prompt-model {name}` names a model of a running server: add `--prompt-api-base`")
    if not prompts:
        raise ConfigError(f"`{given}` is the model that writes instructions: add `--prompts`")
    return Model(api_base, name)


@contextmanager
def _connected(writer: Model | None) -> Iterator[dict[str, Any]]:
    """The writer's LM as a setting of the search. Raises EndpointError if its server is down."""
    if writer is None:
        yield {}
        return
    from pdr_dspy.serving import connect

    lm = connect(writer.name or "auto", writer.servers[0])
    try:
        lm.check_sync()
        yield {"prompt_model": lm}
    finally:
        lm.close()


def study(
    task: Task,
    *,
    trainset: Sequence[dspy.Example],
    valset: Sequence[dspy.Example],
    model: Model,
    run_dir: Path,
    display: Display,
    student: dspy.Module | None = None,
    space: Space | Spaces | None = None,
    compare: bool = False,
    against: Mapping[str, dspy.Module] | None = None,
    most_passes: int = MOST_PASSES,
    most_rounds: int = MOST_ROUNDS,
    few: int | None = None,
    calls_ahead: int | None = None,
    dry_run: bool = False,
    ray: str | None = None,
    **settings: Any,
) -> dspy.Module | None:
    """Tune a task's program, print the result and how to use it, and return it.

    Args:
        task: the program, its verifier and its name.
        trainset: questions to search on.
        valset: questions for the confirmation and the comparison.
        model: the model to serve or connect to.
        run_dir: keeps everything; the same study resumes from there.
        display: shows progress and results.
        student: the program to tune; None is the task's own program.
        space: the choices; None is a space around the student's schedule.
        compare: also compare the result with one pass, SR, majority voting and the student, at matched tokens.
        against: further programs of that comparison, by name.
        most_passes: limit on the passes of a vote or best-of-N in that comparison; most_rounds: likewise for SR.
        few: questions of that comparison for SR and `against`; None is all.
        calls_ahead: about how many model calls the whole command makes, for a forecast of its end; None shows none.
        dry_run: only print the estimated cost, and return None. A running server is queried for its model, nothing else
            is sent, and an embedded model is not started.
        ray: the Ray cluster that makes the runs; None is this process.
        settings: other arguments of PDROptimizer.
    """
    check_folder(run_dir, "optimize")
    student = student or task.build()
    space = space or space_around(student)
    optimizer = PDROptimizer(task.verifier(), space=space, run_dir=run_dir, max_in_flight=model.in_flight, **settings)
    if dry_run:
        with model.serving(space.widest(), display) if model.api_base else dspy.context(lm=dspy.LM(f"openai/{model}")):
            _show_cost(optimizer.estimate(student, trainset=trainset, valset=valset), display)
        return None
    check_not_driven(run_dir)  # before a model is started
    with executor_of(ray) as executor, model.serving(space.widest(), display):
        optimizer.executor = executor
        if calls_ahead is not None:
            with optimizer.rollouts() as store:  # what an earlier run has paid for is not sent again
                display.expect(calls_ahead - len(store))
        with display.search() as progress, calls.session(on_response=display.counted):
            optimizer.progress = progress
            tuned = optimizer.compile(student, trainset=trainset, valset=valset)
        assert optimizer.result is not None
        if compare:
            limits: dict[str, Any] = {"most_passes": most_passes, "most_rounds": most_rounds, "few": few}
            _compare(task, student, tuned, list(valset), optimizer, run_dir, model, display, against or {}, **limits)
    _finish(task, tuned, optimizer.result, optimizer, run_dir, model, display)
    return tuned


def _show_cost(cost: Estimate, display: Display) -> None:
    if not cost.left and not cost.high:
        display.show(f"all {cost.done} trials are done and confirmed: the search costs nothing more")
        return
    known = "what calls cost so far" if cost.known else "prompts and caps, since no call has been measured yet"
    display.show(
        f"{cost.done} trials are done and cost nothing more; {cost.left} are left\n"
        f"from {cost.low:,} to {cost.high:,} tokens are still to be paid, finalists and confirmation included "
        f"(by {known}; equal calls of different trials are paid once, which the upper figure leaves out)"
    )


def _compare(
    task: Task,
    student: dspy.Module,
    tuned: dspy.Module,
    valset: list[dspy.Example],
    optimizer: PDROptimizer,
    run_dir: Path,
    model: Model,
    display: Display,
    against: Mapping[str, dspy.Module],
    **limits: Any,
) -> None:
    """The comparison table. Questions and seeds are the confirmation's: its calls are not paid for again."""
    assert optimizer.result is not None
    # A longer search may find another program, a later one may use other questions: each has separate rows.
    compared = address({"program": fingerprint(tuned), "questions": datasets.fingerprint(valset)})[:8]
    job = Job(
        target=Target(f"tuned: {schedules_of(tuned)}", tuned, task),
        examples=valset,
        verifier=optimizer.verifier,
        model=model,
        repeats=optimizer.settings.confirm.repeats,
        seed=optimizer.settings.seed + CONFIRMATION_SEED,
        budget=None,
        run_dir=run_dir / "compare" / compared,
        executor=optimizer.executor,
    )
    single = all(one.schedule.widths == (1,) for one in operators_in(student).values())
    others = (
        [] if optimizer.result.confirmation.kept == "student" or single else [("untuned", student)]
    )  # one pass is compared anyway
    with optimizer.rollouts() as store:
        lines = compare.measure(job, [*others, *against.items()], store, display, **limits)
    lines = [line._replace(folder=f"{job.run_dir.name}/{line.folder}") for line in lines]
    save_json(job.run_dir.parent / "report.json", compare.summary(lines))
    display.table(f"{len(valset)} questions unseen by the search", *compare.table(lines), text=2)


def _finish(
    task: Task,
    tuned: dspy.Module,
    result: SearchResult,
    optimizer: PDROptimizer,
    run_dir: Path,
    model: Model,
    display: Display,
) -> None:
    """Print the confirmed result, its file, and how to use it."""
    confirmation = result.confirmation
    figures = [confirmation.student] if confirmation.kept == "student" else [confirmation.winner, confirmation.student]
    seen = "questions unseen by the search" if confirmation.untouched else "the search's questions, fresh seeds"
    display.table(f"confirmed on {seen}", report_columns(figures), report_rows(figures))
    display.say(f"{result.stopped}; {confirmation.verdict}")
    for place, credit in result.credits.items():
        display.say(f"what its schedule at {place!r} brought trial {result.best.number}: {credit}")
    display.say(f"{result.paid:,} tokens paid for the search, {result.saved:,} replayed from the store")
    display.say(f"{display.sent:,} tokens paid by this command, all steps together")
    for failed in failures_in_words([row for rows in result.rows.values() for row in rows]):
        display.say(f"in the trials, {failed}")
    # As written by the search, with the task's name, so that `pdr eval best.json` finds its data.
    best = artifact.save(
        tuned,
        run_dir / "best.json",
        verifier=optimizer.verifier,
        data={"name": task.name, **({"task": task.name} if task.named else {}), "split": "train"},
        figures=figures,
        notes=confirmation.verdict,
        calibrations=result.calibrations,
    )
    for name, calibration in result.calibrations.items():
        display.say(f"the check {name!r}, on training questions: {calibration}")
    page = write_page(run_dir, None, display)
    inputs = inputs_of(tuned)
    # A module is loaded into one of the same form.
    form, beside = ("", "") if isinstance(tuned, Operator) else (f", program={type(tuned).__name__}()", task.beside)
    given = '--input "..."' if len(inputs) == 1 else " ".join(f'--input {name}="..."' for name in inputs)
    called = ", ".join(f'{name}="..."' for name in inputs)
    where = _trials(optimizer)
    served = f" --api-base {model.servers[0]}" if model.api_base else ""
    display.say(
        f"use it:  pdr run {best}{beside} {given}{served}\n"
        f"         pdr compare {best}{task.option}{served}\n"
        f'         program = pdr_dspy.load("{best}"{form}); program({called})'
        + (f"\nreport:  {page}" if page else "")
        + f"\ntrials:  optuna-dashboard {where}"
    )


def _trials(optimizer: PDROptimizer) -> str:
    """The storage of a search's trials, for `optuna-dashboard`."""
    options = optimizer.options
    if postgres.is_url(options.storage):
        return f'"{postgres.shown(postgres.sqlalchemy_url(str(options.storage)))}"'
    folder = options.run_dir if options.storage is None else Path(options.storage)
    assert folder is not None
    return f"{folder / JOURNAL} --artifact-dir {folder / ARTIFACTS}"
