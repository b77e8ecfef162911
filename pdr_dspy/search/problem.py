"""The search problem as one frozen value: program, verifier, questions and settings, checked without any cost."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import dspy

from pdr_dspy import calls
from pdr_dspy.arguments import shown
from pdr_dspy.calls.pricing import Models, Priced
from pdr_dspy.calls.store import address
from pdr_dspy.errors import ConfigError, DataError
from pdr_dspy.evaluation.evaluator import check_examples, require_examples
from pdr_dspy.evaluation.evaluator import describe as describe_evaluation
from pdr_dspy.evaluation.runner import inputs_of
from pdr_dspy.operators.nested import operators_in, operators_of, replaced, served_in
from pdr_dspy.operators.operator import Operator
from pdr_dspy.operators.schedule import Schedule
from pdr_dspy.prompts.content import prompt_text
from pdr_dspy.prompts.render import render
from pdr_dspy.prompts.roles import Role, signature_of
from pdr_dspy.runtime import event_loop
from pdr_dspy.search.proposing import instructions, written_instructions
from pdr_dspy.search.racing.confirmation import identities, split
from pdr_dspy.search.racing.requests import Stage
from pdr_dspy.search.result import detached
from pdr_dspy.search.settings import SearchSettings
from pdr_dspy.search.space.axes import MODEL_AXES
from pdr_dspy.search.space.candidate import Candidate, joint
from pdr_dspy.search.space.prompt_axes import check_demos
from pdr_dspy.search.space.spaces import AnySpace, Space, Spaces
from pdr_dspy.verifiers.base import Verifier

VERSION = 3
"""Version of the description; a search stored with another version cannot be resumed."""


@dataclass(frozen=True, eq=False)
class Problem:
    """The problem of a search. `prepare` creates it."""

    settings: SearchSettings
    space: AnySpace
    """From the settings, or around the student's schedule; without instructions that a model writes later."""
    verifier: Verifier
    student: dspy.Module
    """A copy of the student, without attributes that an earlier search attached."""
    operator: Operator
    """The student's first operator."""
    operators: Mapping[str, Operator]
    """All operators of the student, by path."""
    mixed: bool
    """Whether the student's operators differ although a candidate is one schedule for all: then no candidate equals the
    student."""
    train: tuple[dspy.Example, ...]
    held_out: tuple[dspy.Example, ...]
    """Questions of the confirmation."""
    sets: Mapping[Stage, Sequence[tuple[str, dspy.Example]]]
    """(id, example) of each question of each stage."""
    confirmed: frozenset[str]
    """The identities of the confirmation's questions."""
    seen: int
    """How many questions of the confirmation are also questions of the trials."""
    confirmed_in: str
    """A name for the confirmation's questions: a later confirmation of the search may use others."""
    description: Mapping[str, Any]
    """The parts that may not change when a search is resumed, as JSON data."""

    def candidate(self, change: Callable[[str, Operator, Space], Schedule]) -> Candidate:
        """The candidate under which each operator runs the result of `change(path, operator, space)`; if they share a
        space, all run that of the first."""
        if isinstance(self.space, Space):
            return Candidate(change("", self.operator, self.space), {})
        own = {place: change(place, self.operators[place], space) for place, space in self.space.spaces.items()}
        return joint({place: Candidate(schedule, {}) for place, schedule in own.items()})

    @property
    def own(self) -> Candidate:
        """The student's own candidate; for a `mixed` student, that of its first operator."""
        return self.candidate(lambda place, operator, space: operator.schedule)

    @property
    def shortest(self) -> dict[str, Any]:
        """The inputs of the shortest training question."""
        return min((inputs_of(self.student, example) for example in self.train), key=lambda inputs: len(str(inputs)))


def prepare(
    settings: SearchSettings,
    verifier: Verifier,
    student: dspy.Module,
    trainset: Sequence[dspy.Example],
    valset: Sequence[dspy.Example] | None = None,
    *,
    models: Mapping[str, dspy.LM | Priced] | None = None,
) -> Problem:
    """Check everything that can be checked without a call, and build the problem.

    Args:
        settings: of the search.
        verifier: returns a score in [0, 1].
        student: the program; a copy of it is kept.
        trainset: questions of the trials.
        valset: questions of the confirmation; None or an empty one holds some of `trainset` out.
        models: LMs by name, given to every operator of the student.

    Raises:
        ConfigError: no operator in the student, or settings that do not fit it.
        DataError: an empty set, or an example that program or verifier cannot use.
    """
    if not isinstance(student, dspy.Module):
        raise ConfigError(
            f"`compile(student={shown(student)})` must be an operator, or a dspy.Module that contains some"
        )
    for name, given_set in (("trainset", trainset), ("valset", valset)):
        if given_set is not None:
            require_examples(f"compile({name}", given_set)
    student = detached(student)
    given = Models(models, called="PDROptimizer(models=...)")
    if given:
        student = replaced(student, lambda _, operator: operator.with_models(given))
    called = f"compile(student={type(student).__name__}())"
    operators = operators_of(student, called, "there is no schedule to tune")
    first = next(iter(operators.values()))
    if not trainset:
        raise DataError("`compile(trainset=[])` is empty; there is nothing to measure")
    space = settings.space or Space.default_for(first.schedule, first.checks, first.models)
    if isinstance(space, Spaces):
        space = space.suited(operators)
    settings = settings.model_copy(update={"space": space})
    for place, operator in operators.items():
        if (own := space.at(place)) is not None:
            check_demos(operator.task, own.demos)
            _check_checks(operator, own)
            _check_models(operator, own)
        if settings.limits.cost is not None:
            _check_prices(operator, own, settings.limits.cost)
    if settings.instructions.count:
        instructions.operator_of(student)  # raises if the operators have different tasks
        if not written_instructions.roles_of(space):
            raise ConfigError("`PDROptimizer(prompts=...)`: the space fixes the instructions of every role")
    train, held_out = split(list(trainset), valset or None, settings.seed)
    train_ids, held_ids = (check_examples(student, examples, verifier) for examples in (train, held_out))
    searched, confirmed = (identities(student, examples) for examples in (train, held_out))
    training = tuple(zip(train_ids, train, strict=True))
    return Problem(
        settings=settings,
        space=space,
        verifier=verifier,
        student=student,
        operator=first,
        operators=operators,
        mixed=isinstance(space, Space)
        and len({Candidate(operator.schedule, {}).key for operator in operators.values()}) > 1,
        train=tuple(train),
        held_out=tuple(held_out),
        sets={
            Stage.RACE: training,
            Stage.FINAL: training,
            Stage.CONFIRM: tuple(zip(held_ids, held_out, strict=True)),
        },
        confirmed=frozenset(confirmed),
        seen=len([question for question in confirmed if question in set(searched)]),
        confirmed_in=f"confirm/{address({'questions': confirmed})[:8]}",
        description=_description(settings, verifier, student, train, train_ids),
    )


def _check_checks(operator: Operator, space: Space) -> None:
    """Raise ConfigError if an operator lacks a check that a space names."""
    missing = [name for name in space.check if name is not None and name not in operator.checks]
    if missing:
        there = ", ".join(map(repr, operator.checks)) or "none"
        raise ConfigError(
            f"`Space(check={space.check})` names {missing[0]!r}, which is not a check of the program; it has: {there}. "
            f"Give it one: `{operator.schedule.strategy}(..., check={{{missing[0]!r}: ...}})`"
        )


def _check_models(operator: Operator, space: Space) -> None:
    """Raise ConfigError if an operator lacks a model that a space names."""
    for axis in MODEL_AXES:
        missing = [name for name in space.on(axis) if name is not None and name not in operator.models]
        if missing:
            there = ", ".join(map(repr, operator.models)) or "none"
            raise ConfigError(
                f"`Space({axis}={space.on(axis)})` names {missing[0]!r}, which is not a model of the program; it has: "
                f"{there}. Give it: `PDROptimizer(..., models={{{missing[0]!r}: lm}})`"
            )


def _check_prices(operator: Operator, space: Space | None, limit: float) -> None:
    """Raise ConfigError if a model of an operator has no price: its cost would be unknown."""
    schedules = [operator.schedule]
    names = {name for one in schedules for role in one.roles for name in (one.model_of(role),)}
    if space is not None:
        names |= {name for axis in MODEL_AXES[:1] for name in space.on(axis)}
        names |= {name for axis in MODEL_AXES[1:] for name in space.on(axis) if name is not None}
    for name in sorted(names, key=str):
        if operator.price_of(name) is None:
            shown = "the program's default LM" if name is None else repr(name)
            key = "own" if name is None else name
            raise ConfigError(
                f"`max_cost={limit}` needs the price of every model, and that of {shown} is unknown; give it: "
                f"`models={{{key!r}: Priced(lm, input=..., output=...)}}`, per token"
            )


def _description(
    settings: SearchSettings,
    verifier: Verifier,
    student: dspy.Module,
    train: Sequence[dspy.Example],
    ids: Sequence[str],
) -> dict[str, Any]:
    with calls.session(serves=served_in(student)):
        models = event_loop.run(lambda: calls.identities(student.predictors()))
    evaluation = describe_evaluation(
        student, train, ids, verifier, repeats=1, seed=settings.seed, budget=None, models=models
    )
    parts = {
        "version": VERSION,
        **{name: evaluation[name] for name in ("program", "examples", "verifier", "models")},
        "settings": settings.model_dump(mode="json"),
        "prompt_model": getattr(settings.instructions.model, "model", None),
    }
    named = {name: operator for operator in operators_in(student).values() for name in operator.models}
    if named:
        parts["named_models"] = {
            name: [
                *event_loop.run(partial(calls.identities, (), [operator.model_named(name)])),
                operator.models.price(name),
            ]
            for name, operator in named.items()
        }
    return json.loads(json.dumps(parts, default=str))


def preflight(problem: Problem) -> None:
    """Refuse a student that does not fit the model's context, and a limit below the prompt of one draft.

    Sends no generation request; may query the model's server for counts. Raises ConfigError for either.
    """
    student, limits = problem.student, problem.settings.limits
    if not isinstance(student, Operator):
        return
    event_loop.run(lambda: student.preflight(problem.shortest))
    least = [limit for limit in (limits.sequential, limits.total) if limit is not None]
    if not least:
        return
    predictor = student.predictor(Role.DRAFT)
    prompts = []
    for example in problem.train:
        messages = render(signature_of(predictor), predictor.demos, inputs_of(student, example))
        prompts.append(prompt_text(messages))
    lm = student.lm_of(Role.DRAFT)
    counts, exact = event_loop.run(lambda: calls.count_tokens(lm, prompts))
    mean = sum(counts) / len(counts)
    if exact and mean + 1 > min(least):
        raise ConfigError(
            f"`max_sequential={limits.sequential}`, `max_total={limits.total}`: the prompt alone of the cheapest "
            f"schedule, LongCoT, has {mean:.0f} tokens on average; the minimum is "
            f"{math.ceil(mean) + 1}"
        )
