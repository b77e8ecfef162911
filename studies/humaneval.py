"""HumanEval with its docstrings' examples as the check: `python -m studies.humaneval`; see plans/humaneval.md.

On 2 cores the 0.5B model writes about 50 tokens a second: all 121 problems take a few hours, and go on where they
stopped. `--limit 24` is a first look.
"""

from __future__ import annotations

from typing import Annotated

import typer

from pdr_dspy.cli.ending import resuming
from pdr_dspy.cli.model_option import DEFAULT
from pdr_dspy.operators import Operator
from pdr_dspy.operators.schedule import Schedule
from programs import humaneval
from studies.study import ApiBase, Embedded, LinesOnly, RunDir, Slots, Study, go

BASE = Schedule(widths=(1,), kappa=1024, draft_tokens=256, refine_tokens=256, temperature=0.8)
CHECKED = {"check": "check", "distiller": "checked", "k": 2}


def programs(tokens: int = 256) -> dict[str, Operator]:
    """The strategies of the plan, by name, with at most so many tokens a draft.

    Best of 8 is first: its drafts are everybody's.
    """
    base = BASE.replace(draft_tokens=tokens, refine_tokens=tokens)
    made = {
        "best of 8": base.replace(widths=(8,), final="best", check="check"),
        "one pass": base,
        "vote of 8": base.replace(widths=(8,), final="vote"),
        "medoid of 8": base.replace(widths=(8,), final="medoid"),
        "best of 8, stops": base.replace(widths=(8,), final="best", check="check", stop_at=1.0),
        "best of 8, 2 first": base.replace(widths=(8,), final="best", check="check", stop_at=1.0, first_wave=2),
        "PDR 8-1 random": base.replace(widths=(8, 1), distiller="random_k", k=2),
        "PDR 8-1 checked": base.replace(widths=(8, 1), **CHECKED),
        "PDR 8-1 checked, keeps": base.replace(widths=(8, 1), **CHECKED, keep=True),
        "PDR 8-1 checked, keeps, stops": base.replace(widths=(8, 1), **CHECKED, keep=True, stop_at=1.0),
        "PDR 8-1 checked, keeps, stops, 2 first": base.replace(
            widths=(8, 1), **CHECKED, keep=True, stop_at=1.0, first_wave=2
        ),
        "PDR 8-4-1 checked, keeps, stops": base.replace(widths=(8, 4, 1), **CHECKED, keep=True, stop_at=1.0),
        "SR x3 blind": base.replace(widths=(1, 1, 1), distiller="last"),
        "SR x3 checked": base.replace(widths=(1, 1, 1), distiller="last", check="check"),
        "SR x3 checked, keeps, stops": base.replace(
            widths=(1, 1, 1), distiller="last", check="check", keep=True, stop_at=1.0
        ),
    }
    checks = {"check": humaneval.check()}
    return {name: Operator(humaneval.Complete, schedule, checks) for name, schedule in made.items()}


def study(limit: int | None = None, seed: int = 0, tokens: int = 256) -> Study:
    """The study on the first `limit` problems of a seeded order; None takes all."""
    order = [example for split in ("dev", "test", "train") for example in humaneval.data(split, seed=seed)]
    return Study("humaneval", programs(tokens), order[:limit], humaneval.verifier())


@resuming
def main(
    limit: Annotated[int | None, typer.Option(help="Problems; all 121 unless given.")] = None,
    draft_tokens: Annotated[int, typer.Option(help="Cap of a draft; the 1.5B writes more than 256.")] = 256,
    slots: Slots = None,
    embedded: Embedded = DEFAULT,
    api_base: ApiBase = None,
    run_dir: RunDir = None,
    lines_only: LinesOnly = False,
) -> None:
    """Run what is missing of the study, and write its lines to studies/rows."""
    go(study(limit, tokens=draft_tokens), embedded, api_base, run_dir, lines_only=lines_only, slots=slots)


if __name__ == "__main__":
    typer.run(main)
