"""Program x examples x repeats under a verifier: one row each, appended to a file when it is finished, resumable.

There is no barrier between examples: each runs its rounds as soon as its own inputs are ready, so a slow sample delays
no other. A failed run is kept as a failed row and is tried again when the same evaluation is started again.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any

import dspy

from pdr_dspy import calls
from pdr_dspy.arguments import explained, shown
from pdr_dspy.calls.budget import Budget
from pdr_dspy.calls.dspy_bridge import inputs_marked
from pdr_dspy.calls.store import Rollouts, address
from pdr_dspy.errors import ConfigError, DataError
from pdr_dspy.evaluation import run_folder
from pdr_dspy.evaluation.display import OnRow, check_progress, rows_shown
from pdr_dspy.evaluation.executors.base import Executor, Local, Rows, RowSettings
from pdr_dspy.evaluation.failures import FirstFailures
from pdr_dspy.evaluation.fingerprint import fingerprint
from pdr_dspy.evaluation.records import Report, Row, lean
from pdr_dspy.evaluation.run_folder import RunFolder
from pdr_dspy.evaluation.runner import inputs_of
from pdr_dspy.evaluation.texts import MAX_TEXT_BYTES, TEXTS, Room, RowTexts, TextFile
from pdr_dspy.operators.nested import served_in
from pdr_dspy.operators.operator import Operator
from pdr_dspy.prompts.content import distinct_text
from pdr_dspy.prompts.roles import needed_inputs
from pdr_dspy.runtime import event_loop
from pdr_dspy.runtime.atomic_write import local_path
from pdr_dspy.runtime.raised_by import contained
from pdr_dspy.settings import whole_number
from pdr_dspy.verifiers.base import Metric, Verifier, named
from pdr_dspy.verifiers.function import as_verifier, try_on_gold

VERSION = 1


@explained
def evaluate(
    program: dspy.Module,
    examples: Sequence[dspy.Example],
    verifier: Verifier | Metric,
    *,
    repeats: int = 1,
    seed: int = 0,
    budget: Budget | None = None,
    store: Rollouts | None = None,
    run_dir: str | Path | None = None,
    max_in_flight: int = 64,
    max_failures: int = 8,
    max_text_bytes: int = MAX_TEXT_BYTES,
    name: str = "",
    progress: OnRow | bool | None = None,
    executor: Executor | None = None,
) -> Report:
    """Run `program` on every example `repeats` times and grade its answers.

    Args:
        program: an operator, or any DSPy module.
        examples: with the program's inputs and the gold fields that the verifier reads; named by their `id` field, else
            by their position.
        verifier: returns a score in [0, 1]: a verifier, or a metric, see `verifiers.as_verifier`.
        repeats: k of avg@k; repeat i has its own run seed.
        seed: the evaluation's seed; equal seeds give equal requests.
        budget: limits, in tokens, on each run of an operator.
        store: replays earlier calls and keeps new ones; with `run_dir` and no store, `run_dir/rollouts` is used.
        run_dir: rows are appended to `run_dir/rows.jsonl`; finished ones are not run again. If another process is at
            work there, a warning is logged, and the missing rows are run after that process has ended. None keeps all
            in memory.
        max_in_flight: maximum requests in flight, of each process that runs rows.
        max_failures: the evaluation stops, keeping finished rows, after this many consecutive failed rows; questions
            that exceed the budget or the context are not counted. An error of the program or the verifier on one
            example fails only that row.
        max_text_bytes: maximum size of `run_dir/texts.jsonl`, which keeps the questions, drafts, checks' feedback and
            workspaces of the rows for people to read; the texts of further rows are left out. 0 keeps none.
        name: of the report.
        progress: True shows the score so far, tokens and the time left on stderr: bars on a terminal, lines in a
            notebook and elsewhere. None does so on a terminal and in a notebook, and elsewhere only writes a line a
            minute to stderr. False shows nothing. A function is called after every finished row instead.
        executor: where rows are run; None is this process, a `RayExecutor` the machines of a cluster. The rows are the
            same everywhere.

    Raises:
        ConfigError, DataError: an invalid argument, example or gold answer; before a token is spent. BudgetTooSmall and
            a prompt beyond the model's context are raised if they affect every example, otherwise they fail their rows.
        StoreError: the run folder belongs to another evaluation, or cannot be written.
        ExecutorError: the executor's processes are gone; finished rows are kept.
    """
    return event_loop.run(
        lambda: aevaluate(
            program,
            examples,
            verifier,
            repeats=repeats,
            seed=seed,
            budget=budget,
            store=store,
            run_dir=run_dir,
            max_in_flight=max_in_flight,
            max_failures=max_failures,
            max_text_bytes=max_text_bytes,
            name=name,
            progress=progress,
            executor=executor,
        )
    )


@explained
async def aevaluate(
    program: dspy.Module,
    examples: Sequence[dspy.Example],
    verifier: Verifier | Metric,
    *,
    repeats: int = 1,
    seed: int = 0,
    budget: Budget | None = None,
    store: Rollouts | None = None,
    run_dir: str | Path | None = None,
    max_in_flight: int = 64,
    max_failures: int = 8,
    max_text_bytes: int = MAX_TEXT_BYTES,
    name: str = "",
    progress: OnRow | bool | None = None,
    executor: Executor | None = None,
) -> Report:
    """`evaluate` on the caller's event loop."""
    check_progress(progress, "evaluate")
    repeats = whole_number("evaluate(", "repeats", repeats)
    max_in_flight = whole_number("evaluate(", "max_in_flight", max_in_flight)
    max_failures = whole_number("evaluate(", "max_failures", max_failures)
    max_text_bytes = whole_number("evaluate(", "max_text_bytes", max_text_bytes, least=0)
    seed = whole_number("evaluate(", "seed", seed, least=None)
    if not isinstance(program, dspy.Module):
        raise ConfigError(f"`evaluate(program={program!r})` must be an operator or another dspy.Module")
    verifier = as_verifier(verifier, argument="evaluate(verifier=...)")
    if budget is not None and not isinstance(budget, Budget):
        raise ConfigError(f"`evaluate(budget={budget!r})` must be a `Budget(sequential=..., total=...)` in tokens")
    if store is not None and not isinstance(store, Rollouts):
        raise ConfigError(f"`evaluate(store={shown(store)})` must be `Rollouts(folder)`, or None")
    if executor is not None and not callable(getattr(executor, "rows", None)):
        raise ConfigError(
            f"`evaluate(executor={shown(executor)})` must be an executor, such as `RayExecutor(...)`, or None"
        )
    if not isinstance(name, str):
        raise ConfigError(f"`evaluate(name={shown(name)})` must be a text")
    folder_path = None if run_dir is None else local_path(run_dir, "evaluate(run_dir")
    ids = check_examples(program, examples, verifier)
    predictors = program.predictors()
    with calls.session(serves=served_in(program)):
        models = await calls.identities(predictors)  # every server's identity is queried again
        if not models and predictors:
            calls.serving(predictors[0])
    if isinstance(program, Operator):  # if the shortest question does not fit, none does
        shortest = min((inputs_of(program, example) for example in examples), key=lambda inputs: len(str(inputs)))
        await program.preflight(shortest, budget)
    config = describe(program, examples, ids, verifier, repeats=repeats, seed=seed, budget=budget, models=models)
    folder = None if folder_path is None else RunFolder(folder_path, config)
    async with AsyncExitStack() as life:
        before: dict[tuple[str, int], Row] = {}
        if folder is not None:
            before = await life.enter_async_context(folder.opened())
            before = {key: row for key, row in before.items() if row.repeat < repeats}
            if store is None:
                store = life.enter_context(Rollouts(folder.folder / "rollouts"))
            else:
                store.refresh()  # calls of the process that was waited for
        finished = dict(before)
        todo = [
            (place, repeat)
            for repeat in range(repeats)
            for place in range(len(examples))
            if (ids[place], repeat) not in finished
        ]
        count = len(examples) * repeats
        own = run_folder.identity(config)
        on_texts: Callable[[RowTexts], None] | None = None
        if folder is not None and max_text_bytes:
            texts = TextFile(folder.folder / TEXTS, Room(folder.folder, max_text_bytes))
            life.callback(texts.close)
            on_texts = partial(_keep_texts, texts, own)
        where = Local() if executor is None else executor
        with (
            rows_shown(progress if todo else False, name, count) as on_row,
            calls.session(store=store, in_flight=asyncio.Semaphore(max_in_flight)),
        ):
            how = RowSettings(seed=seed, budget=budget, threads=min(64, count), in_flight=max_in_flight)
            runner = where.rows(program, verifier, how, on_texts=on_texts)
            work = _Work(runner, examples, ids, own, folder, finished, count, on_row)
            stopped = await work.run(todo, workers=where.side_by_side(max_in_flight), max_failures=max_failures)
        if store is not None:
            store.sync()
    if runner.misconfigured is not None and all(row.error is not None for row in finished.values()):
        raise runner.misconfigured
    rows = sorted(finished.values(), key=lambda row: (row.repeat, row.id))
    return Report(
        rows=tuple(rows),
        name=name,
        config=config,
        stopped=stopped,
        paid_before=sum(row.paid for row in before.values()),
        damaged=0 if folder is None else folder.damaged,
    )


def check_examples(program: dspy.Module, examples: Sequence[dspy.Example], verifier: Verifier | Metric) -> list[str]:
    """The ids of the examples, after all checks that need no model.

    Raises DataError for an empty set, a repeated id, a missing input field or a gold answer that `verifier` cannot
    read, ConfigError for a metric that returns no score.
    """
    verifier = as_verifier(verifier)
    require_examples("evaluate(examples", examples)
    if not examples:
        raise DataError("`examples` is empty; there is nothing to evaluate")
    needed = needed_inputs(program.task) if isinstance(program, Operator) else ()
    ids = ids_of(examples)
    repeated = [name for name, count in Counter(ids).items() if count > 1]
    if repeated:
        raise DataError(
            f"`examples` has {Counter(ids)[repeated[0]]} examples with the id {repeated[0]!r}; ids must differ"
        )
    for name, example in zip(ids, examples, strict=True):
        if not inputs_marked(example) and not isinstance(program, Operator):
            raise DataError(f'example {name!r} does not declare its inputs; use `example.with_inputs("...")`')
        given = example.inputs() if inputs_marked(example) else example
        missing = [field for field in needed if field not in given]
        if missing:
            raise DataError(
                f"example {name!r} has no field {missing[0]!r}, which the program takes; it has "
                f"{', '.join(given.keys())}. Rename it, mark it with `with_inputs`, or load the set "
                f"with `fields={{{missing[0]!r}: ...}}`"
            )
        with contained(f"`check_gold` of {named(verifier)}"):
            verifier.check_gold(example)
    outputs = tuple(program.task.output_fields if isinstance(program, Operator) else examples[0].labels().keys())
    try_on_gold(verifier, examples[0], outputs)
    return ids


def require_examples(argument: str, examples: Any) -> None:
    """Raise DataError for anything but a sequence of examples.

    Args:
        argument: the call as messages show it, up to the value, such as "evaluate(examples".
        examples: its value.
    """
    one = isinstance(examples, dspy.Example)
    if one or isinstance(examples, (str, bytes, Mapping)) or not hasattr(examples, "__getitem__"):
        remedy = "put the example into a list" if one else "`pdr_dspy.datasets.load(name)` returns one"
        raise DataError(f"`{argument}={shown(examples)})` must be a list of `dspy.Example`; {remedy}")
    for place, example in enumerate(examples):
        if not isinstance(example, dspy.Example):
            raise DataError(
                f"`{argument}=...)` has {shown(example)} at position {place}, which is no dspy.Example; write "
                '`dspy.Example(question=..., answer=...).with_inputs("question")`'
            )


def ids_of(examples: Sequence[dspy.Example]) -> list[str]:
    """The id of each example: its `id` field, else its position, marked if that is another example's id."""
    given = [None if example.get("id") in (None, "") else str(example["id"]) for example in examples]
    taken = set(given)
    names = []
    for place, name in enumerate(given):
        position = str(place)
        while name is None and position in taken:
            position = f"#{position}"
        names.append(position if name is None else name)
    return names


def describe(
    program: dspy.Module,
    examples: Sequence[dspy.Example],
    ids: Sequence[str],
    verifier: Verifier | Metric,
    *,
    repeats: int,
    seed: int,
    budget: Budget | None,
    models: Sequence[str] = (),
) -> dict[str, Any]:
    """The description of an evaluation as JSON; equal descriptions mean equal calls and equal rows.

    `models` are the identities that `calls.identities` returns.
    """
    return {
        "version": VERSION,
        "program": fingerprint(program),
        "examples": address(
            {
                "examples": [
                    [i, sorted((k, distinct_text(v)) for k, v in e.items())] for i, e in zip(ids, examples, strict=True)
                ]
            }
        ),
        "verifier": as_verifier(verifier).describe(),
        "models": list(models),
        "repeats": repeats,
        "seed": seed,
        "budget": None if budget is None else budget.model_dump(),
    }


def _keep_texts(file: TextFile, evaluation: str, texts: RowTexts) -> None:
    file.keep(texts.model_copy(update={"evaluation": evaluation}))


class _Work:
    """Runs rows concurrently and keeps each when it is finished."""

    def __init__(
        self,
        runner: Rows,
        examples: Sequence[dspy.Example],
        ids: Sequence[str],
        identity: str,
        folder: RunFolder | None,
        finished: dict[tuple[str, int], Row],
        count: int,
        progress: OnRow | None,
    ) -> None:
        self.runner = runner
        self.examples = examples
        self.ids = ids
        self.identity = identity
        self.folder = folder
        self.finished = finished
        self.count = count
        self.progress = progress
        self.failures = 0
        self.first_failures = FirstFailures()
        self.stopped: str | None = None

    async def run(self, todo: Sequence[tuple[int, int]], *, workers: int, max_failures: int) -> str | None:
        queue = iter(todo)

        async def worker() -> None:
            for place, repeat in queue:
                if self.stopped is not None:
                    return
                row = await self.runner.row(self.examples[place], self.ids[place], repeat)
                self.keep(lean(row.model_copy(update={"evaluation": self.identity})))
                if (row.id, row.repeat) in self.runner.refused:
                    continue  # a question that does not fit is not a fault of the server
                self.failures = self.failures + 1 if row.failure is not None else 0
                if self.failures >= max_failures and self.stopped is None:
                    self.stopped = f"{self.failures} rows failed in a row, the last with: {row.failure}"

        try:
            await calls.together(worker() for _ in range(min(workers, len(todo))))
            await self.runner.settle()
        finally:
            self.runner.close()
        return self.stopped

    def keep(self, row: Row) -> None:
        self.finished[row.id, row.repeat] = row
        self.first_failures.see(row)
        if self.folder is not None:
            self.folder.keep(row)
        if self.progress is not None:
            self.progress(row, len(self.finished), self.count)
