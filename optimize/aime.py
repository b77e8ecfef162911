"""Tune PDR on AIME, on a GPU: `python -m optimize.aime`, which starts vLLM, or with `--api-base http://.../v1`.

Searches on 20 problems of AIME 2024 with the paper's schedules, confirms on the other 10; AIME 2025 stays untouched for
`pdr compare runs/aime/best.json --repeats 8`. Cost: about 40 trials x 20 problems x 2 repeats; at 10 to 30 calls of up
to 16k tokens a run that is a day of one GPU for an 8B thinking model. `--max-tokens` ends it earlier, and the same
command resumes it. Expect small, noisy differences: 10 problems have an interval of 30 points.
"""

from __future__ import annotations

import argparse
from contextlib import ExitStack
from pathlib import Path

from pdr_dspy.cli.display import Display
from pdr_dspy.cli.ending import resuming
from pdr_dspy.cli.model_option import Model
from pdr_dspy.cli.optimize import study
from pdr_dspy.cli.program_files import Task
from pdr_dspy.search import Space
from pdr_dspy.serving import VLLMServer
from programs import aime

SPACE = Space.default_for(aime.build().schedule).extend(rounds=(4,), widths=(16,)).fix(critique=False)


@resuming
def main(arguments: list[str] | None = None) -> None:
    """Search, confirm, write runs/aime."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--api-base", help="a running server; without it vLLM is started")
    parser.add_argument("--model", default="Qwen/Qwen3-8B")
    parser.add_argument("--tensor-parallel", type=int, default=1)
    parser.add_argument("--trials", type=int, default=40)
    parser.add_argument("--max-sequential", type=int, default=None, help="limit on the mean B_seq of a run")
    parser.add_argument("--max-total", type=int, default=None, help="limit on the mean B_total of a run")
    parser.add_argument("--max-tokens", type=int, default=None, help="end the search after this many paid tokens")
    given = parser.parse_args(arguments)
    with ExitStack() as stack:
        if given.api_base is None:
            server = VLLMServer(given.model, tensor_parallel=given.tensor_parallel, max_model_len=40960)
            given.api_base = stack.enter_context(server).api_base
        study(
            Task("aime", aime.build, aime.data, aime.verifier),
            trainset=aime.data("train"),
            valset=aime.data("dev"),
            model=Model(api_base=given.api_base, name=given.model),
            run_dir=Path("runs/aime"),
            display=Display(),
            space=SPACE,
            pareto=given.max_sequential is None and given.max_total is None,
            repeats=2,
            trials=given.trials,
            max_sequential=given.max_sequential,
            max_total=given.max_total,
            max_tokens=given.max_tokens,
        )


if __name__ == "__main__":
    main()
