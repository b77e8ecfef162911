"""A picker that is trained, on a small language model: `python -m studies.short_sums`; see plans/distiller.md.

SmolLM2-135M adds two-digit numbers, after the warm-up of `studies.operator_rl`. It drafts four answers of each sum, and
adapters learn to pick one of them from picks that saw the gold answer.

    1) 73
    2) 85
    3) 85
    4) 75
    47 + 38 =          it writes `Selected: [2]`
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import dspy
import torch
import typer

from optimize.wheel_weights import SOURCES
from pdr_dspy.cli.ending import guarded
from pdr_dspy.operators import LongCoT
from pdr_dspy.runtime.atomic_write import write_whole
from pdr_dspy.serving.weights import locate
from pdr_dspy.testing import ScriptedRequest, scripted_lm
from pdr_dspy.training.policy_lm import prompt_ids
from pdr_dspy.verifiers import NumberVerifier
from studies import distiller, operator_rl
from studies.operator_rl import MODEL, WIDTH, Brief, Plan
from studies.study import RunDir

LEARNT, HELD_OUT = 1600, 400
"""Sums, of those that the warm-up has not seen."""
SETTINGS = {"batch": 32, "learning_rate": 5e-4, "lora": {"rank": 16, "alpha": 32}, "save_every": 25}


class Listing(Brief):
    """The study's form of a prompt: the candidates of a pick stand above the sum."""

    def format(
        self, signature: type[dspy.Signature], demos: list[dict[str, Any]], inputs: dict[str, Any]
    ) -> list[dict[str, Any]]:
        """A single user message."""
        (message,) = super().format(signature, demos, inputs)
        lines = distiller.numbered(str(inputs.get("candidates", "")))
        return [{**message, "content": f"{lines}{message['content']}"}]


def task(plan: Plan, learnt: int = LEARNT, held_out: int = HELD_OUT) -> distiller.Task:
    """The sums; the held-out ones are those of `studies.operator_rl`, and more."""
    parts = operator_rl.sums(plan)
    every = [*parts["held out"], *parts["learnt"]]
    schedule = LongCoT(operator_rl.Sum, **operator_rl.settings(plan)).schedule
    return distiller.Task(
        "short-sums",
        operator_rl.Sum,
        schedule,
        every[held_out : held_out + learnt],
        every[:held_out],
        NumberVerifier(),
        WIDTH,
    )


def draw(plan: Plan, folder: Path, weights: str, questions: Sequence[str]) -> dict[str, list[str]]:
    """Drafts of each question, drawn once at temperature 1 and kept in drafts.json."""
    file = folder / "drafts.json"
    if not file.exists():
        policy = operator_rl.sampler(weights, None, plan, folder / "sampler")
        torch.manual_seed(0)
        asked = [Brief().format(operator_rl.Sum, [], {"question": question}) for question in questions]
        prompts = [prompt_ids(policy.tokenizer, messages) for messages in asked for _ in range(WIDTH)]
        drawn = policy.generate(prompts, [plan.cap] * len(prompts), 1.0)
        texts = [policy.tokenizer.decode(each.ids, skip_special_tokens=True) for each in drawn]
        found = {question: texts[n * WIDTH : (n + 1) * WIDTH] for n, question in enumerate(questions)}
        write_whole(file, json.dumps(found))
    return json.loads(file.read_text(encoding="utf-8"))


def study(
    plan: Plan,
    folder: Path,
    weights: Path,
    *,
    seeds: int = distiller.SEEDS,
    settings: dict[str, Any] | None = None,
    place: Path | None = None,
    **sizes: int,
) -> Path:
    """Everything that is missing; returns the file of scores.

    Args:
        plan: of `studies.operator_rl`, whose warm-up makes the base.
        folder: keeps the base, drafts, picks and adapters; the same study goes on from there.
        weights: a GGUF file or a model folder.
        seeds: adapters.
        settings: of the training, in the place of `SETTINGS`.
        place: where the scores are written; None is studies/picks.
        sizes: of the task, `learnt` and `held_out`.
    """
    base = operator_rl.base(plan, folder, weights)
    made = task(plan, **sizes)
    drafts = draw(plan, folder, base, [example.question for example in (*made.learnt, *made.held_out)])

    @contextmanager
    def drafter() -> Iterator[None]:
        given: Counter[str] = Counter()

        def reply(request: ScriptedRequest) -> str:
            question = request.user.removesuffix(" =")
            given[question] += 1
            return drafts[question][given[question] % WIDTH]

        with dspy.context(lm=scripted_lm(reply, model=f"drawn/{MODEL}")):
            yield

    with dspy.context(adapter=Listing()):
        return distiller.run(
            made, folder, base, drafter, model=MODEL, seeds=seeds, settings=settings or SETTINGS, place=place
        )


@guarded
def main(
    seeds: Annotated[int, typer.Option(min=1, help="Adapters.")] = distiller.SEEDS,
    weights: Annotated[Path | None, typer.Option(help="A GGUF file; the embedded model's.")] = None,
    threads: Annotated[int, typer.Option(min=1, help="Of torch.")] = 2,
    run_dir: RunDir = None,
) -> None:
    """Run what is missing, and write the scores to studies/picks and the page to docs/results."""
    folder = run_dir or Path("runs/studies/distiller-short-sums")
    folder.mkdir(parents=True, exist_ok=True)
    with operator_rl.quietly(threads):
        study(Plan(), folder, weights or locate(MODEL, sources=SOURCES), seeds=seeds)
    print(distiller.write_page())


if __name__ == "__main__":
    typer.run(main)
