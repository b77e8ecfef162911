"""The picks of who saw the gold answer, as a chat data set whose prompts are without it (`hindsight`)."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import dspy

from pdr_dspy import calls
from pdr_dspy.calls.ledger import Phase
from pdr_dspy.calls.request import Sampling
from pdr_dspy.errors import ConfigError
from pdr_dspy.evaluation.records import Row
from pdr_dspy.evaluation.runner import inputs_of
from pdr_dspy.operators.operator import Operator
from pdr_dspy.operators.schedule import MAX_WIDTH
from pdr_dspy.prompts.roles import Role
from pdr_dspy.runtime import event_loop
from pdr_dspy.training.export_sft import Exported
from pdr_dspy.training.hindsight import (
    REFERENCE,
    Labels,
    Turn,
    Ungraded,
    exported,
    operator_of,
    prompt_of,
    replays,
    tells,
    with_reference,
    written_as,
)
from pdr_dspy.training.replay import NAMED_MODELS, WHOLE_ROUNDS, Replayed
from pdr_dspy.verifiers import Metric, Verifier, as_verifier
from pdr_dspy.verifiers.checks import CalibratedCheck
from pdr_dspy.verifiers.checks.served import ModelCheck


def export_picks(
    run_dir: str | Path,
    program: dspy.Module,
    examples: Sequence[dspy.Example],
    verifier: Verifier | Metric,
    *,
    teacher: dspy.LM | None = None,
    orders: int | None = None,
    seed: int = 0,
) -> Exported:
    """The select calls of `program` over the first-round drafts of an evaluation, with the picks of who saw the gold.

    A pick names `Schedule.k` candidates, the right ones first; a random choice among them if there are more, and random
    others after them if there are fewer. Questions whose drafts are all right or all wrong leave nothing to pick and
    are left out. The prompts are those of a server whose context holds all candidates.

    Args:
        run_dir: a folder that `evaluate(run_dir=...)` or `pdr eval` wrote, with its rollout store. The evaluated
            program may be another one than `program` if its first-round drafts are the same calls, as those of
            best-of-8 and of PDR with widths (8, 1) are.
        program: an operator whose distiller makes select calls, such as PDR with "topk".
        examples: the evaluated examples, with their ids; others are ignored.
        verifier: decides which drafts are right where the rows have no scores. Scores were given with the gold answers
            of the evaluation: a warning tells how many rows have another than the examples now.
        teacher: a model that reads the reference answer and picks with reasons; None writes the picks alone.
        orders: prompts for each row, with the candidates in that many orders; None is as many as the program asks.
        seed: of the random choices.

    Raises:
        ConfigError: the program makes no select calls, or an argument is invalid.
        StoreError: the folder holds no evaluation, or none of these examples.
        DataError: a teacher needs a gold answer, and an example has none.
    """
    picks = _picks(program, verifier, teacher, orders, seed)
    found = exported(run_dir, examples, picks)
    picks.labels.say_outdated()
    return found


class Asked(NamedTuple):
    """One select call with something to pick: some of its candidates are right and some are not."""

    id: str
    """The id of the question."""
    repeat: int
    messages: list[dict[str, Any]]
    right: frozenset[int]
    """The places of the right candidates, from 1."""
    replies: tuple[str, ...]
    """For each candidate, the turn that picks it alone."""


def asked_picks(
    run_dir: str | Path,
    program: dspy.Module,
    examples: Sequence[dspy.Example],
    verifier: Verifier | Metric,
    *,
    orders: int | None = None,
) -> tuple[Asked, ...]:
    """The select calls of `program` over the first-round drafts of an evaluation, with the right candidates of each, to
    measure a picker. Arguments and errors are those of `export_picks`."""
    picks = _picks(program, verifier, None, orders, 0)
    found: list[Asked] = []
    for row, example, replayed in replays(run_dir, examples, picks):
        try:
            calls_of_row = [] if isinstance(replayed, str) else list(picks.wanted(row, example, replayed))
        except Ungraded as error:
            picks.labels.say(error)
            continue
        for wanted in calls_of_row:
            if isinstance(wanted, _Wanted):
                predictor = picks.asking.predictor(Role.SELECT)
                places = range(1, wanted.candidates + 1)
                replies = tuple(written_as(predictor, wanted.inputs, {"selected": [place]}) for place in places)
                messages = prompt_of(predictor, wanted.inputs)
                found.append(Asked(row.id, row.repeat, messages, frozenset(wanted.good), replies))
    picks.labels.say_outdated()
    return tuple(found)


class _Wanted(NamedTuple):
    """A select call."""

    inputs: dict[str, Any]
    numbers: list[int]
    """The places to pick."""
    good: set[int]
    """The places of the right candidates."""
    candidates: int
    """How many there are."""


def _picks(
    program: dspy.Module, verifier: Verifier | Metric, teacher: dspy.LM | None, orders: int | None, seed: int
) -> _Picks:
    operator = operator_of(program, "export_picks")
    schedule = operator.schedule
    if schedule.distill_role is not Role.SELECT:
        raise ConfigError(
            f"`export_picks(program=...)` needs a program that makes select calls, such as "
            f'`Schedule(distiller="topk")`, got {schedule}'
        )
    if orders is not None and not 1 <= orders <= MAX_WIDTH:
        raise ConfigError(f"`export_picks(orders={orders!r})` must be from 1 to {MAX_WIDTH}, or None")
    check = operator.checks[schedule.check] if schedule.check else None
    if isinstance(check.base if isinstance(check, CalibratedCheck) else check, ModelCheck):
        raise ConfigError(
            f"`export_picks(program=...)` shows candidates with results of the check {schedule.check!r}, which asks a "
            "model; an export asks none: give a program without that check"
        )
    return _Picks(operator, as_verifier(verifier), teacher, orders, seed)


class _Picks:
    """Makes the turns of a picker."""

    kind: Literal["pick"] = "pick"

    def __init__(
        self, program: Operator, verifier: Verifier, teacher: dspy.LM | None, orders: int | None, seed: int
    ) -> None:
        schedule = program.schedule
        self.asking = program
        self.orders = schedule.distill_calls(0) if orders is None else orders
        self.seed = seed
        self.labels = Labels(program, verifier)
        self.teacher = None if teacher is None else with_reference(program.predictor(Role.SELECT), teacher)
        first = schedule.widths[0]
        per_sample = {} if orders is None else {"distiller": "topk_per_sample"}
        plain = {**WHOLE_ROUNDS, "keep": False, "final": "refine"}
        widths = (first, max(first, self.orders), 1)
        self.program = program.with_schedule(
            schedule.replace(widths=widths, k=first, kappa=10**9, **per_sample, **plain, **NAMED_MODELS)
        )

    def begin(self) -> None:
        """Nothing is kept of a replay."""

    def wanted(self, row: Row, example: dspy.Example, replayed: Replayed) -> Iterator[_Wanted | None]:
        """The select calls of a row; None for one that has nothing to pick."""
        right = self.labels.right(row, example, replayed.round.drafts)
        for number, inputs in enumerate(replayed.asked[: self.orders]):
            order = replayed.round.workspaces[number].sources
            good = {place for place, index in enumerate(order, start=1) if index in right}
            k = min(self.asking.schedule.k, len(order))
            if not good or len(good) == len(order) or k == len(order):
                yield None
                continue
            source = random.Random(f"{self.seed}|{row.id}|{row.repeat}|{number}")
            chosen = sorted(source.sample(sorted(good), min(k, len(good))))
            others = [place for place in range(1, len(order) + 1) if place not in good]
            numbers = [*chosen, *sorted(source.sample(others, k - len(chosen)))]
            yield _Wanted(inputs, numbers, good, len(order))

    def turns(self, row: Row, example: dspy.Example, replayed: Replayed) -> Iterator[Turn]:
        """The select calls of a row, as turns to learn."""
        predictor = self.asking.predictor(Role.SELECT)
        try:
            asked = list(self.wanted(row, example, replayed))
        except Ungraded as error:
            self.labels.say(error)
            yield Turn([], None, "ungraded")
            return
        wanted = [each for each in asked if each is not None]
        yield from [Turn([], None, "no_choice")] * (len(asked) - len(wanted))
        if self.teacher is None:
            turns = [Turn([], written_as(predictor, each.inputs, {"selected": each.numbers})) for each in wanted]
        else:
            turns = self._taught(row, example, wanted) if wanted else []
        for each, turn in zip(wanted, turns, strict=True):
            yield turn._replace(messages=prompt_of(predictor, each.inputs))

    def _taught(self, row: Row, example: dspy.Example, wanted: Sequence[_Wanted]) -> list[Turn]:
        """The teacher's turns."""
        predictor, gold, schedule = self.teacher, self.labels.gold(example), self.asking.schedule
        assert predictor is not None
        values = [{**each.inputs, REFERENCE: gold} for each in wanted]
        site = calls.CallSite(Phase.SELECT, 1, calls.identity(inputs_of(self.asking, example)), row.seed)
        temperature = schedule.temperature if schedule.distill_temperature is None else schedule.distill_temperature
        thinking = schedule.thinking_tokens
        sampling = Sampling(schedule.distill_cap + thinking, temperature, schedule.top_p, thinking)
        with dspy.context(trace=None):
            replies = event_loop.run(lambda: calls.ask(predictor, values, site=site, sampling=sampling))
        turns = []
        for reply, (inputs, numbers, good, _) in zip(replies, wanted, strict=True):
            named = list(dict.fromkeys(reply.reading.outputs.get("selected") or ()))
            if reply.call.failure is not None or reply.call.truncated:
                turns.append(Turn([], None, "failed"))
            elif sum(number in good for number in named[: len(numbers)]) < min(len(numbers), len(good)):
                turns.append(Turn([], None, "disagreed"))
            elif tells(reply.text, gold, str(inputs)):
                turns.append(Turn([], None, "leaked"))
            else:
                turns.append(Turn([], reply.text))
        return turns
