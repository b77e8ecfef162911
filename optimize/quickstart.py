"""Tune a program that writes code, on two cores: `make optimize`, or `python -m optimize.quickstart`.

Serves Qwen2.5-Coder-0.5B from an embedded llama.cpp server, on HumanEval's problems whose docstrings have examples. The
examples are the check inside the loop; hidden tests grade. Starts from the paper's PDR, which refines from random
drafts; searches a small space around it, including one pass, SR and best-of-N; confirms the winner on problems that the
search has not seen; and compares it with one pass, a vote, best-of-N, SR and the untuned program at matched tokens.
Cost: about a quarter of an hour on 2 cores, 2 GB of memory. A second run reuses the paid calls in runs/quickstart.
"""

from __future__ import annotations

from pathlib import Path

from optimize.wheel_weights import SOURCES
from pdr_dspy import Schedule
from pdr_dspy.cli.app import resuming
from pdr_dspy.cli.display import Display
from pdr_dspy.cli.model_option import Model
from pdr_dspy.cli.optimize import study
from pdr_dspy.cli.program_files import Task
from pdr_dspy.operators import Operator
from pdr_dspy.search import Space
from programs import humaneval

UNTUNED = Schedule(
    widths=(4, 1),
    distiller="random_k",
    k=2,
    kappa=1024,
    draft_tokens=256,
    refine_tokens=256,
    temperature=0.8,
)
SPACE = (
    Space.default_for(UNTUNED, checks=("check",))
    .fix(kappa=1024, k=2, critique=False, draft_tokens=256)
    .narrow(rounds=(1, 2), widths=(1, 4), distiller=("random_k", "checked"), final=("refine", "best"))
)


def build() -> Operator:
    """The paper's PDR with one round of four drafts. It has the examples as a check, which it does not use yet."""
    return Operator(humaneval.Complete, UNTUNED, {"check": humaneval.check()})


@resuming
def main(*, model: Model | None = None, train: int = 6, dev: int = 20, trials: int = 6) -> None:
    """Search on `train` problems; confirm and compare on `dev` other problems."""
    study(
        Task("humaneval", build, humaneval.data, humaneval.verifier),
        trainset=humaneval.data("train", limit=train),
        valset=humaneval.data("dev", limit=dev),
        model=model or Model(embedded="qwen2.5-coder-0.5b", sources=SOURCES),
        run_dir=Path("runs/quickstart"),
        display=Display(),
        space=SPACE,
        compare=True,
        trials=trials,
        finalists=1,
        finalist_repeats=1,
        confirm_repeats=1,
    )


if __name__ == "__main__":
    main()
