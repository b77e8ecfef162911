"""Tune a program that writes code, on two cores: `make optimize`, or `python -m optimize.quickstart`.

Serves Qwen2.5-Coder-0.5B from an embedded llama.cpp server, on HumanEval's problems whose docstrings have examples. The
examples are the check inside the loop; hidden tests grade. Starts from one pass; tries a vote and the best of five
drafts; confirms the winner on problems that the search has not seen; and compares it there with one pass, a vote,
best-of-N, SR, and the paper's PDR, which refines from random drafts.
Cost: about a quarter of an hour on 2 cores, 2 GB of memory. A second run reuses the paid calls in runs/quickstart.

Two cores write 40,000 to 50,000 tokens in that time. Most are drafts, and all programs share them: one pass is the
first of five, and is scored over all five. Refinements are shared by nobody: SR and PDR have a quarter of the problems,
and their lines say so. The numbers of problems and drafts were chosen by the rows of the study
(`studies/rows/humaneval-*.jsonl`, 48 problems with 8 drafts): the best of 5 drafts by the check is 0.19 above their
mean, and the interval of the difference excludes 0 in 99 % of samples of 24 problems; with 4 drafts in 97 %, and with
one pass scored over a single draft in 55 %. In the search, best-of-N is above one pass in 97 % of samples of 8
problems. The problems are the first of the splits of `programs/humaneval.py`, which a fixed seed shuffles.
"""

from __future__ import annotations

from pathlib import Path

from optimize.wheel_weights import SOURCES
from pdr_dspy import Schedule
from pdr_dspy.cli.display import Display
from pdr_dspy.cli.ending import resuming
from pdr_dspy.cli.model_option import Model
from pdr_dspy.cli.optimize import study
from pdr_dspy.cli.program_files import Task
from pdr_dspy.operators import Operator
from pdr_dspy.search import Space
from programs import humaneval

DRAFTS = 5
ONE_PASS = Schedule(widths=(1,), kappa=1024, draft_tokens=256, refine_tokens=256, temperature=0.8)
PDR = ONE_PASS.replace(widths=(2, 1), distiller="random_k", k=2)
"""It reads two drafts. To make more than it reads would cost more and bring nothing, since it reads any two of them."""
SPACE = (
    Space.default_for(ONE_PASS, checks=("check",))
    .extend(widths=(DRAFTS,))
    .fix(kappa=1024, k=2, critique=False, draft_tokens=256)
    .fix(keep=False, stop_at=None)  # an early end would leave drafts out, and one pass is scored over all of them
    .narrow(rounds=(1, 2), widths=(1, DRAFTS), distiller=("checked",), final=("refine", "vote", "best"))
)


def build(schedule: Schedule = ONE_PASS) -> Operator:
    """One pass. It has the examples as a check, which it does not use yet."""
    return Operator(humaneval.Complete, schedule, {"check": humaneval.check()})


@resuming
def main(*, model: Model | None = None, train: int = 8, dev: int = 24, trials: int = 3) -> None:
    """Search on `train` problems; confirm and compare on `dev` other problems."""
    few = max(2, dev // 4)
    study(
        Task("humaneval", build, humaneval.data, humaneval.verifier),
        trainset=humaneval.data("train", limit=train),
        valset=humaneval.data("dev", limit=dev),
        model=model or Model(embedded="qwen2.5-coder-0.5b", sources=SOURCES),
        run_dir=Path("runs/quickstart"),
        display=Display(),
        space=SPACE,
        compare=True,
        against={"untuned PDR 2-1": build(PDR)},
        most_passes=DRAFTS,  # those that are paid for anyway
        most_rounds=2,
        few=few,
        calls_ahead=(train + dev) * DRAFTS + 2 * few,  # drafts, and a refinement each of SR and PDR
        trials=trials,
        finalists=1,
        finalist_repeats=0,  # the confirmation tells the winner from one pass, on new problems
        confirm_repeats=1,
    )


if __name__ == "__main__":
    main()
