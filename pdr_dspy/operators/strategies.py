"""The strategies by name: constructors of one class, `Operator`.

Every strategy is a schedule, so all are points of one space: the optimizer may start and end at any of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import dspy

from pdr_dspy.arguments import explained_with, shown
from pdr_dspy.calls.pricing import Priced
from pdr_dspy.errors import ConfigError
from pdr_dspy.operators.operator import AnyCheck, Operator
from pdr_dspy.operators.schedule import Schedule, preset

Task = str | type[dspy.Signature]
Checks = AnyCheck | Mapping[str, AnyCheck] | None
Named = Mapping[str, dspy.LM | Priced] | None


@explained_with(lambda: Schedule.model_fields)
def LongCoT(signature: Task, *, models: Named = None, **settings: Any) -> Operator:  # noqa: N802
    """One pass: a single draft is the answer.

    Args:
        signature: the task.
        models: LMs by name, for `draft_model`; see `Operator`.
        settings: fields of `Schedule` other than its widths.

    >>> str(LongCoT("question -> answer", draft_tokens=4096).schedule)
    'LongCoT'
    """
    return Operator(signature, _schedule(settings, widths=(1,)), models=models)


@explained_with(lambda: Schedule.model_fields)
def SelfConsistency(  # noqa: N802
    signature: Task,
    *,
    n: int = 8,
    final: Literal["vote", "medoid"] = "vote",
    models: Named = None,
    **settings: Any,
) -> Operator:
    """`n` concurrent drafts; the most common answer is the answer (arXiv 2203.11171), or the one most like the others.

    Args:
        signature: the task.
        n: drafts, at least 1.
        final: "vote" counts equal answers; "medoid" takes the answer most like the others, for code and prose.
        models: LMs by name, for `draft_model` and the others; see `Operator`.
        settings: other fields of `Schedule`.

    >>> str(SelfConsistency("question -> answer", n=16).schedule)
    'vote of 16'
    >>> str(SelfConsistency("request -> program: dspy.Code", final="medoid").schedule)
    'medoid of 8'
    """
    if final not in ("vote", "medoid"):
        raise ConfigError(f'`SelfConsistency(final={final!r})` must be "vote" or "medoid"; `BestOfN` picks by a check')
    schedule = _schedule(settings, widths=(_count("SelfConsistency(n=...)", n),), final=final)
    return Operator(signature, schedule, models=models)


@explained_with(lambda: Schedule.model_fields)
def BestOfN(  # noqa: N802
    signature: Task, *, n: int = 8, check: Checks, models: Named = None, **settings: Any
) -> Operator:
    """`n` concurrent drafts; the one that its check scores highest is the answer.

    Args:
        signature: the task.
        n: drafts, at least 1.
        check: scores a draft without the gold answer: a check, a registered name, or a DSPy reward function.
        models: LMs by name, for `draft_model` and the others; see `Operator`.
        settings: other fields of `Schedule`; with `stop_at=1.0` the first draft that passes cancels the others.
    """
    schedule = _schedule(settings, widths=(_count("BestOfN(n=...)", n),), final="best")
    return _checked(signature, schedule, check, models)


@explained_with(lambda: Schedule.model_fields)
def SR(  # noqa: N802
    signature: Task,
    *,
    rounds: int = 3,
    critique: bool = False,
    check: Checks = None,
    models: Named = None,
    **settings: Any,
) -> Operator:
    """Sequential Refinement: one solution, improved for `rounds` rounds, each reading only the one before it.

    Args:
        signature: the task.
        rounds: drafts in all, the first included; at least 1.
        critique: list the flaws of the solution in a separate call before each refinement (error analysis).
        check: scores a draft without the gold answer; the next draft reads its result.
        models: LMs by name, for `draft_model` and the others; see `Operator`.
        settings: other fields of `Schedule`, such as `draft_tokens` or `kappa`.

    >>> str(SR("question -> answer", rounds=4, critique=True).schedule)
    'SR x4 +critique'
    """
    widths = (1,) * _count("SR(rounds=...)", rounds)
    if not isinstance(critique, bool):
        raise ConfigError(f"`SR(critique={shown(critique)})` must be True or False")
    schedule = _schedule(settings, widths=widths, distiller="last", critique=critique and rounds > 1)
    return _checked(signature, schedule, check, models)


@explained_with(lambda: Schedule.model_fields)
def PDR(  # noqa: N802
    signature: Task,
    schedule: Schedule | str | None = None,
    *,
    check: Checks = None,
    models: Named = None,
    **settings: Any,
) -> Operator:
    """Parallel-Distill-Refine: rounds of parallel drafts, each round distilled into the workspace of the next.

    Args:
        signature: the task.
        schedule: a Schedule, or the name of a preset (`fast`, `balanced`, `quality`, `paper`).
        check: scores a draft without the gold answer.
        models: LMs by name, for `draft_model` and the others; see `Operator`.
        settings: fields of `Schedule` that replace those of `schedule`.

    >>> str(PDR("question -> answer", Schedule(widths=(8, 4, 1), distiller="topk", k=2)).schedule)
    'PDR 8-4-1 topk k=2 κ=2048'
    >>> PDR("question -> answer", "fast", draft_tokens=512).schedule.draft_tokens
    512
    """
    if isinstance(schedule, str):
        chosen = preset(schedule, **settings)
    elif isinstance(schedule, Schedule):
        chosen = schedule.replace(**settings) if settings else schedule
    elif schedule is None:
        chosen = Schedule(**settings)
    else:
        raise ConfigError(f"`PDR(schedule={schedule!r})` must be a Schedule or the name of a preset")
    return _checked(signature, chosen, check, models)


def _checked(signature: Task, schedule: Schedule, check: Checks, models: Named) -> Operator:
    if isinstance(check, Mapping) and schedule.check is None and len(check) == 1:
        schedule = schedule.replace(check=next(iter(check)))
    return Operator(signature, schedule, check, models)


def _count(argument: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConfigError(f"`{argument.replace('...', repr(value))}` must be a whole number of at least 1")
    return value


def _schedule(settings: Mapping[str, Any], **fixed: Any) -> Schedule:
    if not isinstance(settings.get("check"), (str, type(None))):
        raise ConfigError(
            f"`check={shown(settings['check'])}`: this operator scores no draft, so it takes no check; `BestOfN`, `SR` "
            "and `PDR` do"
        )
    clash = [name for name in fixed if name in settings]
    if clash:
        raise ConfigError(
            f"`{clash[0]}` is fixed by this operator; use `PDR(signature, Schedule(...))` to set it freely"
        )
    return Schedule(**{**settings, **fixed})
