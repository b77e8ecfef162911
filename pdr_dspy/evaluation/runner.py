"""Runs one example through a program and its verifier: a row."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from contextvars import copy_context
from functools import cached_property, partial
from typing import Any, TypeVar

import dspy

from pdr_dspy import calls
from pdr_dspy.calls.budget import Budget
from pdr_dspy.calls.dspy_bridge import input_names, inputs_marked
from pdr_dspy.calls.failures import CallError, RoundFailed
from pdr_dspy.calls.ledger import Call, Ledger, Phase, Usage
from pdr_dspy.errors import ConfigError, StoreError
from pdr_dspy.evaluation.records import DraftRow, FailedCheck, RoundRow, Row
from pdr_dspy.evaluation.texts import RowTexts, texts_of
from pdr_dspy.operators.nested import operators_in
from pdr_dspy.operators.operator import Operator
from pdr_dspy.operators.outcome import Stop
from pdr_dspy.prompts.form import form_of
from pdr_dspy.runtime.raised_by import contained, in_words, raised_by
from pdr_dspy.text import clean
from pdr_dspy.verifiers.base import Score, Verifier, named, verdict

T = TypeVar("T")
_WHOLE = (Stop.DONE, Stop.CHECKED, Stop.FELL_BACK, Stop.ROUND_FAILED)
"""Ends of a program whose answer is a complete draft."""


class Runner:
    """Runs a program on single examples, as `evaluate` does for each of its rows.

    Use it inside `calls.session(...)`, which holds the store and the bound on requests in flight, and `close` it.
    """

    def __init__(
        self,
        program: dspy.Module,
        verifier: Verifier,
        *,
        seed: int = 0,
        budget: Budget | None = None,
        threads: int = 64,
        on_texts: Callable[[RowTexts], None] | None = None,
    ) -> None:
        """
        Args:
            program: an operator, or any DSPy module.
            verifier: returns a score in [0, 1].
            seed: the evaluation's seed.
            budget: limits, in tokens, on each run of an operator.
            threads: maximum of synchronous programs and verifiers that run concurrently.
            on_texts: called with the texts of each run, before `row` returns its row; None if they are not kept.
        """
        self.program = program
        self.places = {id(operator): place for place, operator in operators_in(program).items()}
        self.verifier = verifier
        self.seed = seed
        self.budget = budget
        self.on_texts = on_texts
        self.misconfigured: ConfigError | None = None
        """The first error of a program that cannot run on an example, such as one beyond the model's context."""
        self.refused: set[tuple[str, int]] = set()
        """(id, repeat) of such rows."""
        # Synchronous programs and verifiers have their own threads. The event loop's default pool is small, and
        # requests pass through it: programs that filled it would wait for their own calls for ever.
        self.threads = ThreadPoolExecutor(threads, thread_name_prefix="pdr-dspy-row")

    async def settle(self) -> None:
        """Nothing to do: the calls are in the session's store, which its owner syncs."""

    def close(self) -> None:
        """Release the threads without waiting for those that still run."""
        self.threads.shutdown(wait=False, cancel_futures=True)

    async def in_thread(self, function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Call a function that may be slow, in this context, off the event loop."""
        context = copy_context()
        return await asyncio.get_running_loop().run_in_executor(
            self.threads, partial(context.run, function, *args, **kwargs)
        )

    async def row(self, example: dspy.Example, name: str, repeat: int) -> Row:
        """Run one example once. An error of the program or verifier fails the row, except a StoreError.

        Args:
            example: with the program's inputs and the verifier's gold fields.
            name: the example's id.
            repeat: from 0; it determines the run seed.
        """
        seed = run_seed(self.seed, repeat)
        gold = self.gold(example)
        identity: dict[str, Any] = {
            "id": name,
            "repeat": repeat,
            "seed": seed,
            "gold": None if gold is None else clean(gold),
        }
        started = time.perf_counter()
        spent: list[Call] = []
        unchecked: Counter[tuple[str, str]] = Counter()
        failed_rounds: list[str] = []

        def on_failed_check(check: str, reason: str) -> None:
            unchecked[check, clean(reason)] += 1

        def oracle(outputs: Mapping[str, Any]) -> float:
            return float(self.verdict(example, dspy.Prediction(**outputs)))

        try:
            told: dict[str, Any] = {"oracle": oracle, "on_call": spent.append, "name_of": self.naming()}
            told |= {"on_failed_check": on_failed_check, "on_failed_round": failed_rounds.append}
            with calls.session(seed=seed, **told), dspy.track_usage() as tracker:
                prediction = await self.predict(example)
            seconds = time.perf_counter() - started
            if isinstance(self.program, Operator):
                ledger: Ledger = prediction.ledger
            else:
                ledger = Ledger(calls=tuple(spent)) + _tracked(tracker, spent)
            whole = prediction.get("stop") in _WHOLE
            answer = _answer(self.outputs(prediction), none=whole)
            if hasattr(self.verifier, "averify"):
                score = await self.grade(example, prediction)
                rounds = self.rounds(example, prediction, await self.scores(example, prediction, answer, score))
            elif vars(type(self.verifier)).get("instant", False):  # a subclass may be slow
                score, rounds = self.verdicts(example, prediction, answer)
            else:
                score, rounds = await self.in_thread(self.verdicts, example, prediction, answer)
            ledger = ledger + score.calls if score.calls else ledger
            self.report_texts(example, name, repeat, prediction)
            return Row(
                **identity,
                score=float(score),
                detail=clean(score.detail if answer is not None else score.detail + _broken(prediction)),
                answer=None if answer is None else clean(answer),
                stop=None if prediction.get("stop") is None else str(prediction.stop),
                seconds=round(seconds, 4),
                rounds=rounds,
                failed_checks=_failed_checks(unchecked),
                failed_rounds=tuple(clean(why) for why in failed_rounds),
                **_costs(ledger),
            )
        except StoreError:
            raise
        except Exception as error:  # an error in an example or in the user's code fails only its row
            if isinstance(error, ConfigError):
                self.misconfigured = self.misconfigured or error
                self.refused.add((name, repeat))
            ledger = Ledger(calls=tuple(spent))
            if isinstance(error, RoundFailed) and isinstance(self.program, Operator):  # ordered by stage
                ledger = error.ledger
            if isinstance(error, CallError) and error.call is not None:  # the judge's call
                ledger += (error.call,)
            self.report_texts(example, name, repeat, None)
            return Row(
                **identity,
                score=0.0,
                error=clean(in_words(error)),
                failed_checks=_failed_checks(unchecked),
                failed_rounds=tuple(clean(why) for why in failed_rounds),
                seconds=round(time.perf_counter() - started, 4),
                **_costs(ledger),
            )

    def naming(self) -> Callable[[Any], str] | None:
        """A function that names the runs of a program's operators for the ledger; None if the program is the
        operator."""
        if isinstance(self.program, Operator):
            return None
        runs: Counter[str] = Counter()

        def name_of(operator: Any) -> str:
            place = self.places.get(id(operator), "")  # a copy, such as those of `dspy.BestOfN`, has no path
            runs[place] += 1
            return place if runs[place] == 1 else f"{place}:{runs[place]}"

        return name_of

    def report_texts(self, example: dspy.Example, name: str, repeat: int, prediction: dspy.Prediction | None) -> None:
        if self.on_texts is not None:
            with suppress(Exception):  # a value that cannot be serialized must not fail the row
                self.on_texts(texts_of(name, repeat, inputs_of(self.program, example), prediction))

    async def predict(self, example: dspy.Example) -> dspy.Prediction:
        inputs = inputs_of(self.program, example)
        if isinstance(self.program, Operator) and self.budget is not None:
            inputs["budget"] = self.budget
        if isinstance(self.program, Operator):
            return await self.program.acall(**inputs)
        part = contained(f"the program {type(self.program).__name__}")
        if hasattr(self.program, "aforward"):
            with part:
                return await self.program.acall(**inputs)

        def forward() -> dspy.Prediction:
            with part:
                return self.program(**inputs)

        return await self.in_thread(forward)

    async def grade(self, example: dspy.Example, prediction: dspy.Prediction) -> Score:
        judge = getattr(self.verifier, "averify", None)
        if judge is None:
            return await self.in_thread(self.verdict, example, prediction)
        with raised_by(self._verifier_named):
            found = await judge(example, prediction)
            return found if isinstance(found, Score) else Score(float(found))

    @cached_property
    def _verifier_named(self) -> str:
        return named(self.verifier)

    def verdict(self, example: dspy.Example, prediction: dspy.Prediction) -> Score:
        """The score of a prediction by a verifier that is not awaited."""
        return verdict(self.verifier, example, prediction, part=self._verifier_named)

    async def scores(
        self, example: dspy.Example, prediction: dspy.Prediction, answer: str | None, score: Score
    ) -> dict[str, float | str] | None:
        """The scores of a prediction, whose outputs are `answer` as text, and of its drafts, by their outputs as text,
        or why the verifier failed on a draft; None if scoring costs tokens."""
        if not getattr(self.verifier, "grades_drafts", False):
            return None
        known = self.known(answer, score)
        fresh: dict[str, dspy.Prediction] = {}
        for round_ in prediction.get("rounds") or ():
            for draft in round_.drafts:
                text = _answer(draft.outputs, none=True)
                if text is not None and text not in known:
                    fresh.setdefault(text, dspy.Prediction(**draft.outputs))
        asked = (self.grade(example, outputs) for outputs in fresh.values())
        found = await asyncio.gather(*asked, return_exceptions=True)
        return known | {
            text: _no_grade(one) if isinstance(one, BaseException) else float(one)
            for text, one in zip(fresh, found, strict=True)
        }

    def known(self, answer: str | None, score: Score) -> dict[str, float | str]:
        """The score of an operator's answer, which is that of one of its drafts: it depends only on the outputs."""
        return {answer: float(score)} if answer is not None and isinstance(self.program, Operator) else {}

    def verdicts(
        self, example: dspy.Example, prediction: dspy.Prediction, answer: str | None
    ) -> tuple[Score, tuple[RoundRow, ...]]:
        """The score of a prediction, whose outputs are `answer` as text, and the rounds with the scores of its
        drafts."""
        score = self.verdict(example, prediction)
        return score, self.rounds(example, prediction, self.known(answer, score))

    def rounds(
        self, example: dspy.Example, prediction: dspy.Prediction, known: dict[str, float | str] | None = None
    ) -> tuple[RoundRow, ...]:
        """The rounds of a prediction. With `known`, the scores of some answers, every draft is scored too, for analyses
        of rounds; without it, no draft is, because that would cost tokens. A verifier that fails on a draft does not
        fail the row, whose answer it could grade."""
        rows = []
        for round_ in prediction.get("rounds") or ():
            drafts = []
            places = {draft.index: place for place, draft in enumerate(round_.drafts)}
            for draft in round_.drafts:
                answer = _answer(draft.outputs, none=True)
                score: float | str | None = None if known is None else 0.0
                if known is not None and answer is not None:
                    if answer not in known:
                        try:
                            known[answer] = float(self.verdict(example, dspy.Prediction(**draft.outputs)))
                        except Exception as error:
                            known[answer] = _no_grade(error)
                    score = known[answer]
                drafts.append(
                    DraftRow(
                        answer=answer,
                        score=None if isinstance(score, str) else score,
                        ungraded=score if isinstance(score, str) else None,
                        check=None if draft.check is None else draft.check.value,
                        how=draft.how,
                        unclear={name: clean(text) for name, text in draft.unclear.items()},
                        truncated=draft.truncated,
                        failure=draft.failure,
                    )
                )
            rows.append(
                RoundRow(
                    drafts=tuple(drafts),
                    workspace_tokens=tuple(workspace.tokens for workspace in round_.workspaces),
                    sources=tuple(tuple(places[index] for index in w.sources) for w in round_.workspaces),
                )
            )
        return tuple(rows)

    def gold(self, example: dspy.Example) -> str | None:
        """The gold answer as one text, see `gold_of`."""
        return gold_of(self.program, self.verifier, example)

    def outputs(self, prediction: dspy.Prediction) -> dict[str, Any]:
        if isinstance(self.program, Operator):
            return {name: prediction.get(name) for name in form_of(self.program.task).outputs}
        skip = ("ledger", "rounds", "stop", "solution", "reasoning")
        return {name: value for name, value in prediction.items() if name not in skip}


def gold_of(program: dspy.Module, verifier: Verifier, example: dspy.Example) -> str | None:
    """The gold answer as one text: the verifier's field; for a user's metric, the fields that the program outputs."""
    name = getattr(verifier, "gold", None)
    if name is not None:
        value = example.get(name)
        return None if value is None else str(value)
    if isinstance(program, Operator):
        outputs = form_of(program.task).outputs
        return _answer({name: example[name] for name in outputs if name in example}, none=True)
    if not inputs_marked(example):
        return None
    return _answer({name: value for name, value in example.labels().items() if name not in ("id", "source")})


def run_seed(seed: int, repeat: int) -> int:
    """The run seed of one repeat of an evaluation."""
    return seed * 1_000_003 + repeat


def inputs_of(program: dspy.Module, example: dspy.Example) -> dict[str, Any]:
    """The inputs of a program from an example: the fields that an operator takes, else all input fields."""
    if not isinstance(program, Operator):
        return dict(example.inputs())
    marked = input_names(example) if inputs_marked(example) else example
    return {name: example[name] for name in form_of(program.task).taken if name in marked and name in example}


def _answer(outputs: Mapping[str, Any], *, none: bool = False) -> str | None:
    """Output fields as one text; None if there is none; with `none`, None is itself a value."""
    present = {name: value for name, value in outputs.items() if none or value is not None}
    if not present:
        return None
    if len(outputs) == 1:
        return str(next(iter(present.values())))
    return json.dumps(present, default=str, sort_keys=True)


def _no_grade(error: BaseException) -> str:
    """Why the verifier failed on a draft. What concerns more than the draft is raised."""
    if isinstance(error, (ConfigError, StoreError)) or not isinstance(error, Exception):
        raise error
    return clean(in_words(error))


def _broken(prediction: dspy.Prediction) -> str:
    """Why there is no answer, if one was read that breaks a limit of its field."""
    drafts = prediction.rounds[-1].drafts if isinstance(prediction.get("stop"), Stop) else ()
    broken = dict.fromkeys(f"{name}: {why}" for draft in drafts for name, why in draft.broken.items())
    return f" ({'; '.join(broken)})" if broken else ""


def _failed_checks(unchecked: Mapping[tuple[str, str], int]) -> tuple[FailedCheck, ...]:
    return tuple(
        FailedCheck(check=check, reason=reason, drafts=drafts) for (check, reason), drafts in unchecked.items()
    )


def _costs(ledger: Ledger) -> dict[str, Any]:
    return {
        "sequential": ledger.sequential,
        "total": ledger.total,
        "output": ledger.output,
        "cost": ledger.cost,
        "paid": ledger.paid,
        "calls": ledger.calls,
    }


def _tracked(tracker: Any, spent: Sequence[Call]) -> Ledger:
    """DSPy's usage besides this library's own calls `spent`, for a program with further predictors: one entry per
    model, without separate calls."""
    others = []
    for model, usage in tracker.get_total_tokens().items():
        own = [call for call in spent if call.model == model and not call.reused and not call.estimated]
        inputs = (usage.get("prompt_tokens") or 0) - sum(call.usage.input or 0 for call in own)
        outputs = (usage.get("completion_tokens") or 0) - sum(call.usage.output or 0 for call in own)
        if inputs > 0 or outputs > 0:
            tokens = Usage(input=max(inputs, 0), output=max(outputs, 0))
            others.append(Call(phase=Phase.DRAFT, round=0, model=model, usage=tokens))
    return Ledger(calls=tuple(others))
