"""Programs to copy, one task in each file. Each has

data(split, *, limit, seed) -> list[dspy.Example]    train, dev and test, without common questions
verifier() -> Verifier                               grades an answer against its gold
build() -> Operator                                  the program, with a schedule to start from

as `pdr eval programs/gsm8k.py` and `pdr optimize gsm8k` require. These files are not in the wheel.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import dspy

from pdr_dspy.errors import ConfigError
from pdr_dspy.operators.schedule import Schedule


def part(parts: Mapping[str, Sequence[dspy.Example]], split: str, limit: int | None) -> list[dspy.Example]:
    """The first `limit` examples of a split. Raises ConfigError for a split that is not in `parts`."""
    if split not in parts:
        raise ConfigError(f"`data(split={split!r})` is unknown; the splits are {', '.join(parts)}")
    return list(parts[split][:limit])


def until_checked(tokens: int, *, kappa: int) -> Schedule:
    """Eight drafts, ended early when the check passes one; else one more draft, which reads the two best and their
    results.

    Args:
        tokens: cap on each draft and refinement.
        kappa: bound on the workspace, in tokens.
    """
    return Schedule(
        widths=(8, 1),
        distiller="checked",
        k=2,
        keep=True,
        stop_at=1.0,
        kappa=kappa,
        draft_tokens=tokens,
        refine_tokens=tokens,
        temperature=0.8,
    )
