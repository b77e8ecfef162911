"""The effect of training on PDR rounds: `python -m benchmarks.training [--quick] [--json FILE] [--cache DIR]`.

A small model that follows a memorised map (`benchmarks.hops` states its built-in properties) is trained with the
library's trainer on long traces alone, and on long traces and PDR rounds at 3:1, 1:1 and 1:3 (trace:operator prompts).
Long traces have 4 to 9 hops and PDR rounds 4 to 6; in the last arm, 1:1, half of the operator prompts have 7 to 9 hops
and start from the workspace of an untrained round. Every arm starts from the same base and takes the same number of
steps of the same number of trained rows (8 prompts of 8), and is measured then and when it has sampled the same number
of tokens. The trained call of an operator episode is its last (`train_calls="refine"`).

Measured on the quarter of the start states that no training question has, at temperature 1, with the library's `PDR`
and `LongCoT`: fractions right, sampled and read tokens of the training (including untrained calls), and CPU-seconds. In
PDR with R refinement rounds every call may write 3 hops and 3 (R + 1) are required, so that no answer is right without
continuing from the workspace; "free" is R = 1 with a refinement that may write all hops.

95 % intervals: Student's t over the runs (bases x seeds); differences are paired by base and seed. Runs on one base are
correlated, so the intervals are slightly too narrow for a statement about bases; `--json` stores every run. One thread
for each process; the same seeds give the same figures on the same machine and library versions.
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import json
import multiprocessing
import os
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import dspy
import torch
from rich.console import Console
from rich.table import Table
from transformers import PrinterCallback, TrainerCallback
from transformers.utils import logging as transformers_logging

from benchmarks import hops
from pdr_dspy import PDR, LongCoT, Schedule
from pdr_dspy.calls.failures import RoundFailed
from pdr_dspy.evaluation.statistics import mean_interval
from pdr_dspy.operators.operator import Operator
from pdr_dspy.training.dataset import mode_rows
from pdr_dspy.training.policy_lm import PolicyLM
from pdr_dspy.training.rollout import Episodes
from pdr_dspy.training.trainer import OperatorTrainer
from pdr_dspy.training.trl_config import OperatorConfig
from pdr_dspy.training.types import Group, Policy, Row, Sampled
from pdr_dspy.verifiers import ExactVerifier

GROUPS, ROWS = 8, 8
"""Prompts of a step, and trained calls of each."""
VERIFIER = ExactVerifier()


class Arm(NamedTuple):
    """The mix of prompts in a step."""

    share: str
    """Ratio of trace to operator prompts."""
    starts: bool = False
    """Whether half of the operator prompts have more hops and start from a workspace."""


ARMS = {
    "trace only": Arm("1:0"),
    "3:1": Arm("3:1"),
    "1:1": Arm("1:1"),
    "1:3": Arm("1:3"),
    "1:1, starts": Arm("1:1", starts=True),
}


class Job(NamedTuple):
    """One run: an arm from one base with one seed; arm "base" trains nothing."""

    arm: str
    base: int
    seed: int


def program(rounds: int, *, free: bool = False) -> Operator:
    """PDR with `rounds` refinement rounds of short calls; `free` lets refinements write every hop."""
    return PDR(
        hops.Follow,
        Schedule(
            widths=(hops.NOTES,) * rounds + (1,),
            distiller="random_k",
            k=hops.NOTES,
            kappa=24 * hops.NOTES,
            draft_tokens=hops.SHORT,
            refine_tokens=hops.LONG if free else None,
            temperature=1.0,
        ),
    )


SCORES: dict[str, tuple[int, Callable[[], Operator]]] = {
    "PDR R=1": (6, lambda: program(1)),
    "PDR R=2": (9, lambda: program(2)),
    "PDR R=3": (12, lambda: program(3)),
    "PDR free": (6, lambda: program(1, free=True)),
    "trace 6": (6, lambda: LongCoT(hops.Follow, draft_tokens=hops.LONG)),
    "trace 9": (9, lambda: LongCoT(hops.Follow, draft_tokens=hops.LONG)),
}
"""The tests: the number of hops, and the program."""


class Plan(NamedTuple):
    """The size of the benchmark."""

    base: hops.Settings = hops.Settings()
    steps: int = 160
    tokens: int | None = 120_000
    """Tokens sampled in training at which arms are compared; None compares them at equal steps only."""
    samples: int = 4
    """Runs of each question of the test."""
    rate: float = 3e-4
    bases: int = 3
    seeds: int = 3
    scores: tuple[str, ...] = tuple(SCORES)


QUICK = Plan(
    hops.Settings(states=24, width=48, layers=2, steps=300, batch=64, rate=5e-3, furthest=9), 8, 6_000, 4, 1e-3, 1, 1
)


class Metered:
    """A policy that counts what it reads and samples."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.sampled = self.read = 0

    @property
    def tokenizer(self) -> Any:
        """The policy's."""
        return self.policy.tokenizer

    def generate(self, prompts: list[list[int]], caps: list[int], temperature: float) -> list[Sampled]:
        """The policy's `generate`, counted."""
        done = self.policy.generate(prompts, caps, temperature)
        self.read += sum(map(len, prompts))
        self.sampled += sum(len(each.ids) for each in done)
        return done


class Rollouts:
    """The rollout of an arm: the library's episodes, preceded by an untrained round if they need three stages."""

    def __init__(self) -> None:
        settings: dict[str, Any] = {"train_calls": "refine", "trace_tokens": hops.LONG}
        self.plain = Episodes(program(1), VERIFIER, **settings)
        self.started = Episodes(program(1), VERIFIER, starts=1.0, **settings)
        self.sampled = self.read = 0

    def __call__(self, groups: Sequence[Group], policy: Policy) -> list[list[Row]]:
        """Rows of each group."""
        metered = Metered(policy)
        far = [group.mode == "operator" and group.example.hops > 2 * hops.STEP for group in groups]
        made = {
            long: iter(roll([group for group, own in zip(groups, far, strict=True) if own == long], metered))
            for long, roll in ((False, self.plain), (True, self.started))
            if long in far
        }
        self.sampled += metered.sampled
        self.read += metered.read
        return [next(made[long]) for long in far]


def measure(policy: Policy, world: hops.World, plan: Plan, seed: int) -> dict[str, float]:
    """Fractions right on the held-out starts. The state of random generators is restored."""
    scores = {}
    for name in plan.scores:
        hops_asked, runs = SCORES[name]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            scores[name] = right(policy, runs(), world.examples(world.test, [hops_asked]), plan.samples)
    return scores


def right(policy: Policy, runs: Operator, examples: Sequence[dspy.Example], samples: int) -> float:
    """Fraction right over `samples` runs of each example."""
    lm = PolicyLM(policy)
    asked = [(example, seed) for example in examples for seed in range(samples)]

    async def score(example: dspy.Example, seed: int) -> float:
        try:
            return float(VERIFIER(example, await runs.aforward(seed=seed, **example.inputs())))
        except RoundFailed:  # every draft failed, which counts as wrong
            return 0.0

    async def together() -> list[float]:
        with dspy.context(lm=lm, adapter=hops.HopsAdapter(), trace=None):
            return await lm.together([functools.partial(score, *each) for each in asked])

    return fmean(asyncio.run(together()))


class Measuring(TrainerCallback):
    """Measures a run after its steps and after its sampled tokens, and ends it after both."""

    def __init__(self, plan: Plan, job: Job, world: hops.World, rollouts: Rollouts) -> None:
        self.plan, self.job, self.world, self.rollouts = plan, job, world, rollouts
        self.rows: list[dict[str, Any]] = []
        self.trainer: OperatorTrainer | None = None
        self._paused = 0.0
        self._began = time.process_time()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """After each step."""
        due = {"steps": state.global_step >= self.plan.steps}
        if self.plan.tokens is not None:
            due["tokens"] = self.rollouts.sampled >= self.plan.tokens
        told = {row["at"] for row in self.rows}
        new = [at for at, reached in due.items() if reached and at not in told]
        if new:
            assert self.trainer is not None
            spent = time.process_time() - self._began - self._paused
            scores = measure(self.trainer.policy, self.world, self.plan, self.job.seed)
            self.rows += [
                row(self.job, at, state.global_step, self.rollouts.sampled, self.rollouts.read, spent, scores)
                for at in new
            ]
            self._paused = time.process_time() - self._began - spent
        control.should_training_stop = all(due.values())


def row(job: Job, at: str, step: int, sampled: int, read: int, seconds: float, scores: Any) -> dict[str, Any]:
    """One measurement; `seconds` are CPU-seconds of training, without measuring."""
    return {
        **job._asdict(),
        "at": at,
        "step": step,
        "sampled": sampled,
        "read": read,
        "cpu_seconds": round(seconds, 2),
        **{"scores": {name: round(score, 4) for name, score in scores.items()}},
    }


def run(plan: Plan, job: Job, cache: Path | None = None) -> list[dict[str, Any]]:
    """Run one job from its base to its last measurement."""
    quiet()
    model = hops.base(plan.base, job.base, cache)
    world = hops.World(plan.base, job.base)
    arm = ARMS.get(job.arm, Arm("1:0"))
    rollouts = Rollouts()
    measuring = Measuring(plan, job, world, rollouts)
    near, far = (world.examples(world.train, asked) for asked in ((4, 5, 6), (7, 8, 9)))
    rows = mode_rows([*near, *far], ("trace",)) + mode_rows([*near, *far] if arm.starts else near, ("operator",))
    with tempfile.TemporaryDirectory() as folder, dspy.context(adapter=hops.HopsAdapter()):
        trainer = OperatorTrainer(
            model, rollouts, settings(plan, job.seed, arm, folder), rows,
            processing_class=hops.tokenizer(plan.base.states), callbacks=[measuring],
        )  # fmt: skip
        trainer.remove_callback(PrinterCallback)
        measuring.trainer = trainer
        if job.arm == "base":
            return [row(job, "steps", 0, 0, 0, 0, measure(trainer.policy, world, plan, job.seed))]
        trainer.train()
    return measuring.rows


def settings(plan: Plan, seed: int, arm: Arm, folder: str) -> OperatorConfig:
    """The trainer's settings, with enough steps for long traces to sample their tokens."""
    return OperatorConfig(
        output_dir=folder,
        epsilon_high=5.0,
        operator_share=arm.share,
        train_calls="refine",
        learning_rate=plan.rate,
        lr_scheduler_type="constant",
        max_steps=10 * plan.steps,
        per_device_train_batch_size=GROUPS * ROWS,
        gradient_accumulation_steps=1,
        num_generations=ROWS,
        max_completion_length=hops.LONG,
        seed=seed,
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        disable_tqdm=True,
        report_to="none",
        logging_strategy="no",
        save_strategy="no",
    )


def quiet() -> None:
    """Use one thread, and print nothing but the tables."""
    torch.set_num_threads(1)
    transformers_logging.set_verbosity_error()
    warnings.simplefilter("ignore")


# --- all runs, and the table -----------------------------------------------------------------------------------------


def results(plan: Plan, jobs: int, cache: Path, done: Sequence[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """Run the missing jobs and yield the rows of each as it ends; one seed of all arms and bases before the next."""
    known = {Job(found["arm"], found["base"], found["seed"]) for found in done}
    wanted = [
        Job(arm, base, seed) for seed in range(plan.seeds) for base in range(plan.bases) for arm in ("base", *ARMS)
    ]
    missing = [job for job in wanted if job not in known]
    if jobs == 1:
        for job in missing:
            yield run(plan, job, cache)
        return
    os.environ["OMP_NUM_THREADS"] = "1"
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        for future in [pool.submit(pretrained, plan, base, cache) for base in sorted({job.base for job in missing})]:
            future.result()  # before the runs, each of which would pretrain it again
        for future in as_completed([pool.submit(run, plan, job, cache) for job in missing]):
            yield future.result()


def pretrained(plan: Plan, seed: int, cache: Path) -> None:
    """Pretrain a base, if it is missing."""
    quiet()
    hops.base(plan.base, seed, cache)


def table(rows: Sequence[dict[str, Any]], at: str) -> Table:
    """Means over the runs with their intervals, at equal steps or at equal tokens."""
    counts = {len([row for row in rows if row["arm"] == arm and row["at"] == at]) for arm in ARMS} - {0}
    made = Table(
        title=f"On held-out starts, at equal {at}: mean of {'-'.join(map(str, sorted(counts)))} runs and 95 % interval"
    )
    made.add_column("trained on")
    for name in (*SCORES, "steps", "sampled", "read", "CPU-s"):
        made.add_column(name.replace("PDR ", "PDR\n").replace("trace ", "trace\nK="), justify="right")
    for arm in ("base", *ARMS):
        own = [row for row in rows if row["arm"] == arm and (row["at"] == at or arm == "base")]
        if own:
            cells = [shown([row["scores"][name] for row in own]) for name in SCORES]
            figures = [f"{fmean(row[name] for row in own):,.0f}" for name in ("step", "sampled", "read", "cpu_seconds")]
            made.add_row(arm, *cells, *figures)
    return made


def gains(rows: Sequence[dict[str, Any]], at: str) -> Table:
    """Differences to long traces alone, paired by base and seed."""
    made = Table(
        title=f"Less long traces alone, at equal {at}: mean difference and 95 % interval, paired by base and seed"
    )
    made.add_column("trained on")
    for name in SCORES:
        made.add_column(name, justify="right")
    alone = {
        (row["base"], row["seed"]): row["scores"] for row in rows if row["arm"] == "trace only" and row["at"] == at
    }
    for arm in list(ARMS)[1:]:
        pairs = [
            (row["scores"], alone[row["base"], row["seed"]])
            for row in rows
            if row["arm"] == arm and row["at"] == at and (row["base"], row["seed"]) in alone
        ]
        if pairs:
            made.add_row(arm, *(shown([own[name] - other[name] for own, other in pairs], sign="+") for name in SCORES))
    return made


def shown(values: Sequence[float], sign: str = "") -> str:
    """A mean, with its interval for two or more values."""
    if len(values) < 2:
        return f"{values[0]:{sign}.3f}"
    low, high = mean_interval(values)
    return f"{fmean(values):{sign}.3f}\n{low:{sign}.2f} {high:{sign}.2f}"


def kept(place: Path | None, plan: Plan) -> list[dict[str, Any]]:
    """The rows of an earlier, unfinished run of the same plan."""
    if place is None or not place.exists():
        return []
    found = json.loads(place.read_text(encoding="utf-8"))
    if found["plan"] != described(plan):
        raise SystemExit(f"{place} holds the rows of another plan ({found['plan']}); give another file")
    return found["rows"]


def described(plan: Plan) -> dict[str, Any]:
    """A plan as JSON, without its number of runs, since more runs can be added to the same file."""
    return {
        name: value._asdict() if name == "base" else list(value) if name == "scores" else value
        for name, value in plan._asdict().items()
        if name not in ("bases", "seeds")
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Run the missing jobs, write each to the JSON file as it ends, and print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument(
        "--quick", action="store_true", help="one base, one seed, few steps: under a minute, no finding"
    )
    parser.add_argument("--bases", type=int)
    parser.add_argument("--seeds", type=int)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--tokens", type=int)
    parser.add_argument("--jobs", type=int, default=1, help="processes of one thread")
    parser.add_argument("--cache", type=Path, default=Path("runs/hops"), help="folder for pretrained bases")
    parser.add_argument("--json", type=Path, help="file of all runs; its runs are not repeated")
    given = parser.parse_args(argv)
    plan = QUICK if given.quick else Plan()
    plan = plan._replace(
        **{name: getattr(given, name) for name in ("bases", "seeds", "steps", "tokens") if getattr(given, name)}
    )
    rows = kept(given.json, plan)
    for new in results(plan, given.jobs, given.cache, rows):
        rows += new
        if given.json:
            partial = given.json.with_suffix(".part")
            partial.write_text(json.dumps({"plan": described(plan), "rows": rows}, indent=1), encoding="utf-8")
            partial.replace(given.json)
    console = Console(width=140)
    for at in ("steps", "tokens"):
        console.print(table(rows, at))
        console.print(gains(rows, at))


if __name__ == "__main__":
    main()
