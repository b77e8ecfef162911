"""Program x examples x repeats under a verifier: one row each, appended to a file as it ends, resumable.

No barrier between examples: each runs its rounds as soon as its own inputs are there, so a slow sample holds up nobody
else. A row of a failed run is kept as failed and is tried again when the same evaluation is started again.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from contextvars import copy_context
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any, TypeVar

import dspy
from dspy.utils.usage_tracker import UsageTracker
from pydantic import BaseModel, ConfigDict, ValidationError

from pdr_dspy import calls, operators, portal
from pdr_dspy.budget import Budget, Call, Ledger, Phase, Usage
from pdr_dspy.errors import CallError, ConfigError, DataError, RoundFailed, StoreError
from pdr_dspy.files import write_whole
from pdr_dspy.operators import Operator
from pdr_dspy.rollouts import Rollouts, address
from pdr_dspy.signatures import signature_of
from pdr_dspy.stats import Interval, pass_at_k, score_interval
from pdr_dspy.verifiers._base import Score, Verifier

T = TypeVar("T")
VERSION = 1


class DraftRow(BaseModel):
    """One draft of a row: what it answered and how the verifier judged that."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    answer: str | None = None
    """The output fields as one text; None when they could not be read."""
    score: float | None = None
    """None where judging drafts would cost tokens."""
    truncated: bool = False
    failure: str | None = None


class RoundRow(BaseModel):
    """One round of a row."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    drafts: tuple[DraftRow, ...]
    """Those that the round went on with."""
    workspace_tokens: tuple[int, ...] = ()
    sources: tuple[tuple[int, ...], ...] = ()
    """Positions in `drafts` of those that each workspace was made of."""


class Row(BaseModel):
    """One example, once."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    repeat: int
    seed: int
    score: float
    detail: str = ""
    answer: str | None = None
    gold: str | None = None
    stop: str | None = None
    sequential: int = 0
    """Input and output tokens along the accepted path."""
    total: int = 0
    """Input and output tokens of every call, the judge's included."""
    output: int = 0
    """Generated tokens of every call."""
    paid: int = 0
    """Tokens of the calls that were really sent now."""
    seconds: float = 0.0
    """Wall time of the program, waiting for a place included."""
    calls: tuple[Call, ...] = ()
    rounds: tuple[RoundRow, ...] = ()
    error: str | None = None
    """Why the program gave no answer at all; such a row scores 0 and is tried again on resume."""


class Report(BaseModel):
    """The rows of an evaluation and what they say."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rows: tuple[Row, ...]
    name: str = ""
    config: dict[str, Any] = {}
    stopped: str | None = None
    """Why the evaluation ended before all rows were there; None when it did not."""

    @property
    def by_question(self) -> dict[str, list[Row]]:
        """Rows of each question in the order of their repeats, questions in the order of their first row's id."""
        grouped: dict[str, list[Row]] = {}
        for row in sorted(self.rows, key=lambda row: (row.id, row.repeat)):
            grouped.setdefault(row.id, []).append(row)
        return grouped

    @property
    def per_question(self) -> list[float]:
        """Mean score of each question over its repeats (avg@k)."""
        return [fmean(row.score for row in rows) for rows in self.by_question.values()]

    @property
    def score(self) -> float:
        """Mean over questions of their mean score, a fraction; nan without rows. Failed rows count 0."""
        return fmean(self.per_question) if self.rows else math.nan

    @property
    def interval(self) -> Interval:
        """95 % interval of `score`, clustered by question."""
        return score_interval(self.per_question)

    def pass_at(self, k: int) -> float:
        """Mean chance that k of the repeats hold a right one (score of at least 0.5); nan with fewer than k rows."""
        grouped = list(self.by_question.values())
        if not grouped:
            return math.nan
        return fmean(pass_at_k(len(rows), sum(row.score >= 0.5 for row in rows), k) for rows in grouped)

    def majority_at(self, k: int) -> float:
        """Share of questions whose most common answer among the first k repeats is right; ties share the credit.

        nan where a question has fewer than k rows.
        """
        grouped = list(self.by_question.values())
        if not grouped or k < 1 or any(len(rows) < k for rows in grouped):
            return math.nan
        return fmean(_majority(rows[:k]) for rows in grouped)

    @property
    def sequential(self) -> float:
        """Mean B_seq of a row, in tokens."""
        return fmean(row.sequential for row in self.rows) if self.rows else math.nan

    @property
    def total(self) -> float:
        """Mean B_total of a row, in tokens."""
        return fmean(row.total for row in self.rows) if self.rows else math.nan

    @property
    def calls(self) -> float:
        """Mean number of model calls of a row."""
        return fmean(len(row.calls) for row in self.rows) if self.rows else math.nan

    @property
    def paid(self) -> int:
        """Tokens that this evaluation really spent."""
        return sum(row.paid for row in self.rows)

    @property
    def reused(self) -> float:
        """Share of calls that came out of the store, a fraction."""
        count = sum(len(row.calls) for row in self.rows)
        return sum(call.reused for row in self.rows for call in row.calls) / count if count else 0.0

    @property
    def failed(self) -> int:
        """Rows without an answer because the program failed."""
        return sum(row.error is not None for row in self.rows)

    def __str__(self) -> str:
        low, high = self.interval
        return (
            f"{self.name or 'program'}: score {self.score:.3f} [{low:.3f}, {high:.3f}], "
            f"B_seq {self.sequential:.0f}, B_total {self.total:.0f}, {self.calls:.1f} calls, "
            f"{len(self.rows)} rows, {self.failed} failed"
        )


def _majority(rows: Sequence[Row]) -> float:
    answered = [row for row in rows if row.answer is not None]
    if not answered:
        return 0.0
    votes = Counter(row.answer for row in answered)
    most = max(votes.values())
    leaders = [answer for answer, count in votes.items() if count == most]
    return fmean(next(row.score for row in answered if row.answer == leader) for leader in leaders)


Progress = Callable[[Row, int, int], None]
"""Told of each finished row, how many are done, and how many there are."""


def evaluate(
    program: dspy.Module,
    examples: Sequence[dspy.Example],
    verifier: Verifier,
    *,
    repeats: int = 1,
    seed: int = 0,
    budget: Budget | None = None,
    store: Rollouts | None = None,
    run_dir: str | Path | None = None,
    max_in_flight: int = 64,
    max_failures: int = 8,
    name: str = "",
    progress: Progress | None = None,
) -> Report:
    """Run `program` on every example `repeats` times and grade what comes out.

    Args:
        program: an operator, or any DSPy module.
        examples: with the inputs that the program takes and the gold fields that the verifier reads; their `id` field
            names them (else their position).
        verifier: gives a score in [0, 1].
        repeats: k of avg@k; repeat i has its own run seed.
        seed: the evaluation's seed; equal seeds give equal requests.
        budget: limits, in tokens, on each run of an operator.
        store: replays calls that were made before and keeps new ones; with `run_dir` and no store,
            `run_dir/rollouts` is used.
        run_dir: rows are appended to `run_dir/rows.jsonl`; finished ones are not run again. None keeps all in memory.
        max_in_flight: most requests on the wire at one time.
        max_failures: the evaluation stops, keeping what is finished, after this many failed rows in a row; questions
            that do not fit the budget or the context are not counted. Whatever the program or the verifier raises for
            one example fails that row only.
        name: of the report.
        progress: told of every finished row.

    Raises:
        ConfigError, DataError: an argument, an example or a gold answer that cannot work; before a token is spent.
            BudgetTooSmall and a prompt beyond the model's context are raised when they hold for every example, else
            they fail the rows of theirs.
        StoreError: the run folder belongs to another evaluation, or cannot be written.
    """
    return portal.run(
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
            name=name,
            progress=progress,
        )
    )


async def aevaluate(
    program: dspy.Module,
    examples: Sequence[dspy.Example],
    verifier: Verifier,
    *,
    repeats: int = 1,
    seed: int = 0,
    budget: Budget | None = None,
    store: Rollouts | None = None,
    run_dir: str | Path | None = None,
    max_in_flight: int = 64,
    max_failures: int = 8,
    name: str = "",
    progress: Progress | None = None,
) -> Report:
    """`evaluate` on the caller's event loop."""
    for argument, value in (("repeats", repeats), ("max_in_flight", max_in_flight), ("max_failures", max_failures)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ConfigError(f"`evaluate({argument}={value!r})` must be a whole number of at least 1")
    if not isinstance(program, dspy.Module):
        raise ConfigError(f"`evaluate(program={program!r})` must be an operator or another dspy.Module")
    if not callable(verifier) or isinstance(verifier, type):
        raise ConfigError(f"`evaluate(verifier={verifier!r})` must be a verifier, such as `NumberVerifier()`")
    if budget is not None and not isinstance(budget, Budget):
        raise ConfigError(f"`evaluate(budget={budget!r})` must be a `Budget(sequential=..., total=...)` in tokens")
    ids = check_examples(program, examples, verifier)
    lms = {id(lm): lm for predictor in program.predictors() if (lm := predictor.lm or dspy.settings.lm)}
    if not lms and program.predictors():
        calls.serving(program.predictors()[0])
    for lm in lms.values():
        check = getattr(lm, "check", None)
        if check is not None:
            await check()
    if isinstance(program, Operator):  # what does not hold for the shortest question holds for none
        shortest = min((inputs_of(program, example) for example in examples), key=lambda inputs: len(str(inputs)))
        await operators.check(program, shortest, budget or Budget())
    config = describe(program, examples, ids, verifier, repeats=repeats, seed=seed, budget=budget)
    folder = None if run_dir is None else Path(run_dir)
    finished = {} if folder is None else _open_run(folder, config)
    finished = {key: row for key, row in finished.items() if row.repeat < repeats}
    own = Rollouts(folder / "rollouts") if store is None and folder is not None else None
    todo = [
        (place, repeat)
        for repeat in range(repeats)
        for place in range(len(examples))
        if (ids[place], repeat) not in finished
    ]
    runner = Runner(program, verifier, seed=seed, budget=budget, threads=min(64, len(examples) * repeats))
    work = _Work(runner, examples, ids, folder, finished, len(examples) * repeats, progress)
    try:
        with calls.session(store=store if own is None else own, in_flight=asyncio.Semaphore(max_in_flight)):
            stopped = await work.run(todo, workers=max_in_flight, max_failures=max_failures)
    finally:
        if own is not None:
            own.close()
    if runner.misconfigured is not None and all(row.error is not None for row in finished.values()):
        raise runner.misconfigured
    rows = sorted(finished.values(), key=lambda row: (row.repeat, row.id))
    return Report(rows=tuple(rows), name=name, config=config, stopped=stopped)


def run_seed(seed: int, repeat: int) -> int:
    """The run seed of one repeat of an evaluation."""
    return seed * 1_000_003 + repeat


def check_examples(program: dspy.Module, examples: Sequence[dspy.Example], verifier: Verifier) -> list[str]:
    """The ids of the examples, after everything that can be checked without a model was checked.

    Raises DataError for an empty set, a repeated id, a missing input field or a gold answer that `verifier`
    cannot read.
    """
    if not examples:
        raise DataError("`examples` is empty; there is nothing to evaluate")
    needed = (
        [name for name, info in program.task.input_fields.items() if info.is_required()]
        if isinstance(program, Operator)
        else []
    )
    ids = [str(example.get("id", place)) for place, example in enumerate(examples)]
    repeated = [name for name, count in Counter(ids).items() if count > 1]
    if repeated:
        raise DataError(
            f"`examples` has {Counter(ids)[repeated[0]]} examples with the id {repeated[0]!r}; ids must differ"
        )
    for name, example in zip(ids, examples, strict=True):
        if not _marked(example) and not isinstance(program, Operator):
            raise DataError(f'example {name!r} does not say what its inputs are; use `example.with_inputs("...")`')
        given = example.inputs() if _marked(example) else example
        missing = [field for field in needed if field not in given]
        if missing:
            raise DataError(
                f"example {name!r} has no field {missing[0]!r}, which the program takes; it has "
                f"{', '.join(given.keys())}. Rename it, mark it with `with_inputs`, or load the set "
                f"with `fields={{{missing[0]!r}: ...}}`"
            )
        check = getattr(verifier, "check_gold", None)
        if check is not None:
            check(example)
    return ids


def inputs_of(program: dspy.Module, example: dspy.Example) -> dict[str, Any]:
    """What a program is called with for an example: the fields that an operator takes, else all that are inputs."""
    if not isinstance(program, Operator):
        return dict(example.inputs())
    given = example.inputs() if _marked(example) else example
    return {name: given[name] for name in program.task.input_fields if name in given}


def describe(
    program: dspy.Module,
    examples: Sequence[dspy.Example],
    ids: Sequence[str],
    verifier: Verifier,
    *,
    repeats: int,
    seed: int,
    budget: Budget | None,
) -> dict[str, Any]:
    """What an evaluation is of, as JSON; two that are equal here would make the same calls and give the same rows."""
    lms = sorted(
        {str(getattr(lm, "identity", lm.model)) for p in program.predictors() if (lm := p.lm or dspy.settings.lm)}
    )
    return {
        "version": VERSION,
        "program": fingerprint(program),
        "examples": address(
            {"examples": [[i, sorted((k, str(v)) for k, v in e.items())] for i, e in zip(ids, examples, strict=True)]}
        ),
        "verifier": verifier.describe()
        if hasattr(verifier, "describe")
        else {"kind": getattr(verifier, "__name__", type(verifier).__name__)},
        "models": lms,
        "repeats": repeats,
        "seed": seed,
        "budget": None if budget is None else budget.model_dump(),
    }


def fingerprint(program: dspy.Module) -> str:
    """A hash of everything that decides a program's calls: signatures with their types, demonstrations, schedules."""
    state = {name: _prompt_state(parameter) for name, parameter in program.named_parameters()}
    types = {  # the state that DSPy saves leaves them out
        name: {field: repr(info.annotation) for field, info in signature_of(predictor).fields.items()}
        for name, predictor in program.named_predictors()
    }
    return address({"kind": type(program).__name__, "state": state, "types": types})


def _prompt_state(parameter: Any) -> Any:
    """A parameter's state without its language model, which may not be able to describe itself."""
    if not isinstance(parameter, dspy.Predict):
        return parameter.dump_state()
    demos = [dict(demo) for demo in parameter.demos]
    return {"demos": demos, "signature": signature_of(parameter).dump_state()}


def _open_run(folder: Path, config: Mapping[str, Any]) -> dict[tuple[str, int], Row]:
    """Make or check the run folder; returns the rows that are finished."""
    path = folder / "config.json"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if path.exists():
            before = json.loads(path.read_text())
            if not isinstance(before, dict):
                raise StoreError(f"{path} is not the record of an evaluation; use another folder")
            # More repeats of the same evaluation only add rows.
            changed = [key for key in config if key != "repeats" and before.get(key) != config[key]]
            if changed:
                raise StoreError(
                    f"`run_dir={str(folder)!r}` holds another evaluation: `{changed[0]}` was "
                    f"{before.get(changed[0])!r} and is now {config[changed[0]]!r}; "
                    "use another folder, or the same arguments to go on"
                )
        write_whole(path, json.dumps(config, indent=1))
        _mend(folder / "rows.jsonl")
        return read_rows(folder / "rows.jsonl")
    except OSError as error:
        raise StoreError(f"`run_dir={str(folder)!r}` cannot be used: {error.strerror or error}") from error
    except json.JSONDecodeError as error:
        raise StoreError(f"{path} is not readable JSON ({error}); use another folder") from error


def _mend(path: Path) -> None:
    """Drop the half line that a kill in the middle of a write left."""
    data = path.read_bytes() if path.exists() else b""
    if data and not data.endswith(b"\n"):
        path.write_bytes(data[: data.rfind(b"\n") + 1])


def read_rows(path: Path, *, failed: bool = False) -> dict[tuple[str, int], Row]:
    """The finished rows of a file by (id, repeat), a torn last line left out.

    Failed rows, which are to be run again, are left out too, unless `failed`: then those are there that were not.
    """
    rows: dict[tuple[str, int], Row] = {}
    if not path.exists():
        return rows
    data = path.read_bytes()
    for number, line in enumerate(data[: data.rfind(b"\n") + 1].splitlines(), start=1):
        try:
            row = Row.model_validate_json(line)
        except ValidationError as error:
            raise StoreError(f"{path}, line {number}, is not a row of this version; use another folder") from error
        if row.error is None or (failed and (row.id, row.repeat) not in rows):
            rows[row.id, row.repeat] = row
    return rows


class Runner:
    """Runs a program on single examples: what `evaluate` does for each of its rows.

    Use it inside `calls.session(...)`, which says where calls are kept and how many are in flight, and `close` it.
    """

    def __init__(
        self,
        program: dspy.Module,
        verifier: Verifier,
        *,
        seed: int = 0,
        budget: Budget | None = None,
        threads: int = 64,
    ) -> None:
        """
        Args:
            program: an operator, or any DSPy module.
            verifier: gives a score in [0, 1].
            seed: the evaluation's seed.
            budget: limits, in tokens, on each run of an operator.
            threads: most synchronous programs and verifiers that run side by side.
        """
        self.program = program
        self.verifier = verifier
        self.seed = seed
        self.budget = budget
        self.misconfigured: ConfigError | None = None
        """The first sentence about a program that cannot run on an example, such as one beyond the model's context."""
        self.refused: set[tuple[str, int]] = set()
        """(id, repeat) of such rows."""
        # Synchronous programs and verifiers wait in threads of their own. The event loop's default pool is small, and
        # requests pass through it: programs that filled it would wait for their own calls for ever.
        self.threads = ThreadPoolExecutor(threads, thread_name_prefix="pdr-dspy-row")

    def close(self) -> None:
        """Let go of the threads; those that still run are not waited for."""
        self.threads.shutdown(wait=False, cancel_futures=True)

    async def in_thread(self, function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Call a function that may take its time, in this context, off the event loop."""
        context = copy_context()
        return await asyncio.get_running_loop().run_in_executor(
            self.threads, partial(context.run, function, *args, **kwargs)
        )

    async def row(self, example: dspy.Example, name: str, repeat: int) -> Row:
        """Run one example once. Whatever program or verifier raise fails the row, except a StoreError.

        Args:
            example: with the program's inputs and the verifier's gold fields.
            name: the example's id.
            repeat: from 0; it decides the run seed.
        """
        seed = run_seed(self.seed, repeat)
        gold = example.get(getattr(self.verifier, "gold", "answer"))
        identity: dict[str, Any] = {
            "id": name,
            "repeat": repeat,
            "seed": seed,
            "gold": None if gold is None else calls.clean(str(gold)),
        }
        started = time.perf_counter()
        spent: list[Call] = []
        tracker = UsageTracker()

        def oracle(outputs: Mapping[str, Any]) -> float:
            return float(self.verifier(example, dspy.Prediction(**outputs)))

        try:
            with calls.session(seed=seed, oracle=oracle, on_call=spent.append), dspy.context(usage_tracker=tracker):
                prediction = await self.predict(example)
            seconds = time.perf_counter() - started
            if isinstance(self.program, Operator):
                ledger: Ledger = prediction.ledger
            else:
                ledger = Ledger(calls=tuple(spent)) + _tracked(tracker, spent)
            answer = _answer(self.outputs(prediction))
            if hasattr(self.verifier, "averify"):
                score = await self.grade(example, prediction)
                rounds = self.rounds(example, prediction)
            else:
                score, rounds = await self.in_thread(self.verdicts, example, prediction, answer)
            ledger = ledger + score.calls if score.calls else ledger
            return Row(
                **identity,
                score=float(score),
                detail=calls.clean(score.detail),
                answer=None if answer is None else calls.clean(answer),
                stop=None if prediction.get("stop") is None else str(prediction.stop),
                seconds=round(seconds, 4),
                rounds=rounds,
                **_costs(ledger),
            )
        except StoreError:
            raise
        except Exception as error:  # one poisonous example, or a program or metric of the user's, spoils only its row
            if isinstance(error, ConfigError):
                self.misconfigured = self.misconfigured or error
                self.refused.add((name, repeat))
            ledger = error.ledger if isinstance(error, RoundFailed) else Ledger(calls=tuple(spent))
            if isinstance(error, CallError) and error.call is not None:  # the judge's
                ledger += (error.call,)
            return Row(
                **identity,
                score=0.0,
                error=calls.clean(f"{type(error).__name__}: {error}"),
                seconds=round(time.perf_counter() - started, 4),
                **_costs(ledger),
            )

    async def predict(self, example: dspy.Example) -> dspy.Prediction:
        inputs = inputs_of(self.program, example)
        if isinstance(self.program, Operator) and self.budget is not None:
            inputs["budget"] = self.budget
        if hasattr(self.program, "aforward"):
            return await self.program.acall(**inputs)
        return await self.in_thread(self.program, **inputs)

    async def grade(self, example: dspy.Example, prediction: dspy.Prediction) -> Score:
        judge = getattr(self.verifier, "averify", None)
        return _score(
            await judge(example, prediction) if judge else await self.in_thread(self.verifier, example, prediction)
        )

    def verdicts(
        self, example: dspy.Example, prediction: dspy.Prediction, answer: str | None
    ) -> tuple[Score, tuple[RoundRow, ...]]:
        """The score of a prediction, whose outputs are `answer` as text, and those of its drafts."""
        score = _score(self.verifier(example, prediction))
        # An operator's answer is one of its drafts', and a verdict depends on nothing but the outputs.
        known = {answer: float(score)} if answer is not None and isinstance(self.program, Operator) else {}
        return score, self.rounds(example, prediction, known)

    def rounds(
        self, example: dspy.Example, prediction: dspy.Prediction, known: dict[str, float] | None = None
    ) -> tuple[RoundRow, ...]:
        """The rounds of a prediction. With `known`, the scores of some answers, every draft is graded too, which
        analyses of rounds are made of; without, where that would cost tokens, none is."""
        rows = []
        for round_ in prediction.get("rounds") or ():
            drafts = []
            places = {draft.index: place for place, draft in enumerate(round_.drafts)}
            for draft in round_.drafts:
                answer = _answer(draft.outputs)
                score = None if known is None else 0.0
                if known is not None and answer is not None:
                    if answer not in known:
                        known[answer] = float(self.verifier(example, dspy.Prediction(**draft.outputs)))
                    score = known[answer]
                drafts.append(DraftRow(answer=answer, score=score, truncated=draft.truncated, failure=draft.failure))
            rows.append(
                RoundRow(
                    drafts=tuple(drafts),
                    workspace_tokens=tuple(workspace.tokens for workspace in round_.workspaces),
                    sources=tuple(tuple(places[index] for index in w.sources) for w in round_.workspaces),
                )
            )
        return tuple(rows)

    def outputs(self, prediction: dspy.Prediction) -> dict[str, Any]:
        if isinstance(self.program, Operator):
            return {name: prediction.get(name) for name in self.program.task.output_fields}
        skip = ("ledger", "rounds", "stop", "solution", "reasoning")
        return {name: value for name, value in prediction.items() if name not in skip}


class _Work:
    """Runs rows side by side and keeps each as it ends."""

    def __init__(
        self,
        runner: Runner,
        examples: Sequence[dspy.Example],
        ids: Sequence[str],
        folder: Path | None,
        finished: dict[tuple[str, int], Row],
        count: int,
        progress: Progress | None,
    ) -> None:
        self.runner = runner
        self.examples = examples
        self.ids = ids
        self.folder = folder
        self.finished = finished
        self.count = count
        self.progress = progress
        self.failures = 0
        self.stopped: str | None = None

    async def run(self, todo: Sequence[tuple[int, int]], *, workers: int, max_failures: int) -> str | None:
        queue = iter(todo)

        async def worker() -> None:
            for place, repeat in queue:
                if self.stopped is not None:
                    return
                row = await self.runner.row(self.examples[place], self.ids[place], repeat)
                self.keep(row)
                if (row.id, row.repeat) in self.runner.refused:
                    continue  # a question that does not fit says nothing about the server
                self.failures = self.failures + 1 if row.error is not None else 0
                if self.failures >= max_failures and self.stopped is None:
                    self.stopped = f"{self.failures} rows failed in a row, the last with: {row.error}"

        try:
            await calls.together(worker() for _ in range(min(workers, len(todo))))
        finally:
            self.runner.close()
        return self.stopped

    def keep(self, row: Row) -> None:
        self.finished[row.id, row.repeat] = row
        if self.folder is not None:
            path = self.folder / "rows.jsonl"
            line = row.model_dump_json(exclude_defaults=True).encode("utf-8", "backslashreplace") + b"\n"
            try:
                whole = path.stat().st_size if path.exists() else 0
                try:
                    with path.open("ab") as file:
                        file.write(line)
                except OSError:
                    with suppress(OSError):  # no half a row for others to write on
                        os.truncate(path, whole)
                    raise
            except OSError as error:
                raise StoreError(
                    f"{path} cannot be written: {error.strerror}; finished rows are kept, the same command "
                    "goes on from them"
                ) from error
        if self.progress is not None:
            self.progress(row, len(self.finished), self.count)


def _score(verdict: Any) -> Score:
    """What a verifier, or a DSPy metric, said."""
    return verdict if isinstance(verdict, Score) else Score(float(verdict))


def _marked(example: dspy.Example) -> bool:
    """Whether it was said which fields are inputs."""
    return getattr(example, "_input_keys", None) is not None


def _answer(outputs: Mapping[str, Any]) -> str | None:
    present = {name: value for name, value in outputs.items() if value is not None}
    if not present:
        return None
    if len(outputs) == 1:
        return str(next(iter(present.values())))
    return json.dumps(present, default=str, sort_keys=True)


def _costs(ledger: Ledger) -> dict[str, Any]:
    return {
        "sequential": ledger.sequential,
        "total": ledger.total,
        "output": ledger.output,
        "paid": ledger.paid,
        "calls": ledger.calls,
    }


def _tracked(tracker: UsageTracker, spent: Sequence[Call]) -> Ledger:
    """What DSPy counted beside our own calls `spent`, for a program with predictors of its own: one entry a model, its
    calls not told apart."""
    others = []
    for model, usage in tracker.get_total_tokens().items():
        own = [call for call in spent if call.model == model and not call.reused and not call.estimated]
        inputs = (usage.get("prompt_tokens") or 0) - sum(call.usage.input or 0 for call in own)
        outputs = (usage.get("completion_tokens") or 0) - sum(call.usage.output or 0 for call in own)
        if inputs > 0 or outputs > 0:
            tokens = Usage(input=max(inputs, 0), output=max(outputs, 0))
            others.append(Call(phase=Phase.DRAFT, round=0, model=model, usage=tokens))
    return Ledger(calls=tuple(others))
