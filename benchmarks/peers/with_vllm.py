"""vLLM's own offline batch of recorded prompts: `python with_vllm.py JOB`, run by the Python that has vLLM.

JOB is a JSON file with `model`, `settings` (of `vllm.LLM`), `requests` (each with `messages`, `max_tokens`,
`temperature`, `top_p`, `seed`), and `out`, the file of the figures. The first request is answered once alone before the
clock starts, with another seed; the prefix cache is cleared after it.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any


def main() -> None:
    """Answer all requests as one batch, and write seconds and tokens to the job's `out`."""
    from vllm import LLM, SamplingParams  # pyright: ignore[reportMissingImports]

    job = json.loads(Path(sys.argv[1]).read_text())
    llm = LLM(job["model"], **job["settings"])
    requests: list[dict[str, Any]] = job["requests"]
    prompts = [request.pop("messages") for request in requests]
    llm.chat(prompts[:1], [SamplingParams(max_tokens=16, seed=1)], use_tqdm=False)
    llm.reset_prefix_cache()
    started = time.perf_counter()
    outputs = llm.chat(prompts, [SamplingParams(**request) for request in requests], use_tqdm=False)
    seconds = time.perf_counter() - started
    figures = {
        "seconds": seconds,
        "input": sum(len(output.prompt_token_ids or ()) for output in outputs),
        "output": sum(len(choice.token_ids) for output in outputs for choice in output.outputs),
    }
    Path(job["out"]).write_text(json.dumps(figures))


if __name__ == "__main__":
    main()
