"""Tune PDR on two cores: `make optimize`, or `python -m optimize.quickstart`.

Serves Qwen2.5-Coder-0.5B from an embedded llama.cpp server, searches a small space of schedules on procedural
arithmetic under a limit on all tokens, confirms the winner on questions that the search has not seen, and holds it
against one pass, SR, majority voting and the untuned program. Cost: about a quarter of an hour on 2 cores, 2 GB of
memory.
A second run takes from runs/quickstart what the first one paid for.
"""

from __future__ import annotations

from pathlib import Path

from optimize.wheel_weights import SOURCES
from pdr_dspy.cli.app import guarded
from pdr_dspy.cli.display import Display
from pdr_dspy.cli.model_option import Model
from pdr_dspy.cli.optimize import study
from pdr_dspy.cli.program_files import Task
from pdr_dspy.search import Space
from programs import arithmetic

SPACE = Space(
    rounds=(1, 2),
    widths=(1, 4, 8),
    distiller=("random_k", "topk", "summary"),
    k=(2, 3),
    tally=(True, False),
    kappa=(320,),
    draft_tokens=(128,),
    refine_tokens=(192,),
    distill_tokens=(96,),
    temperature=(0.8,),  # another temperature means other drafts, and drafts are what the time goes to
)


@guarded
def main(*, model: Model | None = None, train: int = 6, dev: int = 8, trials: int = 7) -> None:
    """Search on `train` questions, confirm and compare on `dev` others."""
    study(
        Task("arithmetic", arithmetic.build, arithmetic.data, arithmetic.verifier),
        trainset=arithmetic.data("train", limit=train),
        valset=arithmetic.data("dev", limit=dev),
        model=model or Model(embedded="qwen2.5-coder-0.5b", sources=SOURCES),
        run_dir=Path("runs/quickstart"),
        display=Display(),
        space=SPACE,
        compare=True,
        max_total=3000,  # mean tokens of all calls of a run
        trials=trials,
        finalists=2,
        finalist_repeats=1,
        confirm_repeats=1,
        accept="better",  # eight questions separate nothing; the table says what is known
        time_limit=4 * 60,
    )


if __name__ == "__main__":
    main()
