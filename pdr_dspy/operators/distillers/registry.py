"""Distillers by name: those of the library, those registered with `@distiller`, and those of installed packages."""

from __future__ import annotations

from collections.abc import Callable

from pdr_dspy.arguments import explained
from pdr_dspy.errors import ConfigError
from pdr_dspy.operators.distillers.base import Distiller, Run, no_calls, one_call
from pdr_dspy.operators.distillers.checked import CHECKED
from pdr_dspy.operators.distillers.last import LAST
from pdr_dspy.operators.distillers.oracle import ORACLE_CORRECT, ORACLE_INCORRECT, ORACLE_RANDOM
from pdr_dspy.operators.distillers.random_k import RANDOM_ANY, RANDOM_K
from pdr_dspy.operators.distillers.summary import SUMMARY
from pdr_dspy.operators.distillers.topk import TOPK, TOPK_PER_SAMPLE
from pdr_dspy.prompts.roles import Role
from pdr_dspy.runtime.registry import Registry, instance_of, origin_of

BUILT_IN = (
    SUMMARY,
    TOPK,
    TOPK_PER_SAMPLE,
    RANDOM_K,
    RANDOM_ANY,
    CHECKED,
    LAST,
    ORACLE_CORRECT,
    ORACLE_INCORRECT,
    ORACLE_RANDOM,
)


DISTILLERS: Registry[Distiller] = Registry(
    "distiller",
    group="pdr_dspy.distillers",
    built_in={part.name: part for part in BUILT_IN},
    check=instance_of(Distiller, "@pdr_dspy.distiller({})"),
    hint='Register your own with `@pdr_dspy.distiller("name")`, or install the package that has it',
)
"""All distillers."""


@explained
def distiller(
    name: str,
    *,
    role: Role | str | None = None,
    calls: Callable[[int], int] | None = None,
    uses_k: bool = False,
    needs_gold: bool = False,
    needs_check: bool = False,
    chain: bool = False,
) -> Callable[[Run], Distiller]:
    """Register a function as a distiller: `Schedule(distiller=name)` runs it from then on.

    >>> @pdr_dspy.distiller("longest")
    ... async def longest(given):
    ...     '''The longest solution, for all drafts of the next round.'''
    ...     chosen = max(given.drafts, key=lambda draft: len(draft.solution))
    ...     return Distilled((await given.admit([chosen]),) * given.next_width)

    Args:
        name: its name in a schedule.
        role: "distill" or "select" if it calls the model; its predictor then belongs to the program.
        calls: calls of a round given the width of the next one; by default one with a role, otherwise none.
        uses_k: as `Distiller.uses_k`; likewise `needs_gold`, `needs_check` and `chain`.

    Returns:
        A decorator that makes a `Distiller` from an async function that maps `DistillerInput` to `Distilled`.

    Raises ConfigError for a registered name and for settings that cannot work together.
    """
    if role is not None and role not in set(Role):
        raise ConfigError(f'`distiller(role={role!r})` must be "distill" or "select", or None')

    def register(run: Run) -> Distiller:
        part = Distiller(
            name,
            run,
            role=None if role is None else Role(role),
            calls=calls or (no_calls if role is None else one_call),
            uses_k=uses_k,
            needs_gold=needs_gold,
            needs_check=needs_check,
            chain=chain,
        )
        return DISTILLERS.add(name, part, origin=origin_of(run))

    return register
