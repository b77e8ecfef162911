"""Programs that can be served: an operator, or a user's module that contains operators and declares a signature."""

from __future__ import annotations

from typing import Any

import dspy

from pdr_dspy.errors import ConfigError
from pdr_dspy.operators import Operator, operators_in
from pdr_dspy.prompts.roles import check_task

REMEDY = "so that budgets and cancellation hold for every call"


def task_of(program: dspy.Module) -> type[dspy.Signature]:
    """The inputs and outputs of a program: an operator's task, or the `signature` of a module."""
    return program.task if isinstance(program, Operator) else check_task(_signature(program))


def schedules_of(program: dspy.Module) -> str:
    """Its schedule, or that of each operator in it with the operator's path."""
    return "; ".join(f"{place}: {one.schedule}" if place else str(one.schedule) for place, one in _inside(program))


def calls_of(program: dspy.Module) -> int | None:
    """The model calls of a run; None for a module, which may call an operator more than once, or not at all."""
    return program.schedule.calls if isinstance(program, Operator) else None


def check_served(name: str, program: Any) -> None:
    """Raise ConfigError, with a remedy, for a program whose budgets cannot be enforced."""
    if isinstance(program, Operator):
        return
    called = f"`app({name!r}: {type(program).__name__}())`"
    if not isinstance(program, dspy.Module):
        raise ConfigError(f"{called} is no dspy.Module")
    inside = {id(value) for _, operator in _inside(program) for value in vars(operator).values()}
    if not inside:
        raise ConfigError(f"{called} holds no LongCoT, SR or PDR, so that no budget could hold for it")
    others = [place for place, predictor in program.named_predictors() if id(predictor) not in inside]
    if others:
        raise ConfigError(
            f"{called} calls a model by `{others[0]}`, which no budget holds; make it a `LongCoT(signature)` and await "
            f"`self.{others[0]}.acall(...)`, {REMEDY}"
        )
    if not hasattr(program, "aforward"):
        raise ConfigError(
            f"{called} has no `aforward`: a thread cannot be cancelled when its client goes away. Give it `async def "
            "aforward(self, ...)` that awaits `.acall(...)` of its operators"
        )
    if _signature(program) is None:
        raise ConfigError(
            f'{called} does not say what it takes and returns; give it `signature = "question -> answer"`, or a '
            "dspy.Signature class, of the inputs of `aforward` and the fields of its prediction"
        )
    check_task(_signature(program))


def _signature(program: dspy.Module) -> Any:
    return getattr(program, "signature", None)


def _inside(program: dspy.Module) -> list[tuple[str, Operator]]:
    return list(operators_in(program).items())
