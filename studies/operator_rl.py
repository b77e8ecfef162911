"""What does training on PDR rounds buy a language model? See plans/operator_rl.md.

    python -m studies.operator_rl                           # all arms and seeds: some hours of two cores
    python -m studies.operator_rl --arm traces --seed 0     # one run
    python -m studies.operator_rl --table                   # the page, of studies/trained alone

SmolLM2-135M writes the answer of a sum and nothing else. A supervised warm-up teaches it the form; from that one base
each arm and seed is trained by `pdr_dspy.training.train`, as `pdr train` does it, and measured at its checkpoints on
held-out sums. The warm-up, checkpoints and measurements are kept in the run's folder: the same command goes on.
"""

from __future__ import annotations

import asyncio
import functools
import gc
import json
import random
import re
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import dspy
import torch
import typer
from transformers.utils import logging as transformers_logging

from optimize.wheel_weights import SOURCES
from pdr_dspy.calls.failures import RoundFailed
from pdr_dspy.cli.ending import guarded
from pdr_dspy.errors import ConfigError
from pdr_dspy.operators import PDR, SR, LongCoT, Operator, SelfConsistency
from pdr_dspy.runtime.atomic_write import write_whole
from pdr_dspy.serving.weights import locate
from pdr_dspy.training.config import ImitationConfig, Lora, TrainingConfig
from pdr_dspy.training.dataset import mode_rows
from pdr_dspy.training.model_folder import known_model
from pdr_dspy.training.policy_lm import PolicyLM
from pdr_dspy.training.run_folder import read_log
from pdr_dspy.training.sft import imitate
from pdr_dspy.training.train import train
from pdr_dspy.training.trainer import OperatorTrainer
from pdr_dspy.training.trl_config import OperatorConfig
from pdr_dspy.training.types import Policy
from pdr_dspy.verifiers import NumberVerifier
from studies import trained
from studies.distiller import as_folder
from studies.study import RunDir
from studies.trained import BASE

MODEL = "smollm2-135m"
TEMPLATE = (
    "{% for message in messages %}{{ message['content'] }}"
    "{% if message['role'] == 'assistant' %}<|im_end|>{% endif %}{% endfor %}"
)
"""A line that the model completes, `47 + 38 =`: a third of the tokens of its own template, and what it is best at."""
WARM_CURVE = "warm-curve.json"
"""In the run's folder: what one pass scores after so many steps of the warm-up."""
WIDTH = 4
"""Drafts of a PDR round."""


class Sum(dspy.Signature):
    """Add."""

    question: str = dspy.InputField()
    answer: int = dspy.OutputField()


class Brief(dspy.Adapter):
    """The study's form of a prompt: the sum, and before it the answers that a workspace holds.

    DSPy's usual prompt of 300 tokens would be nine tenths of the cost.
    """

    def format(
        self, signature: type[dspy.Signature], demos: list[dict[str, Any]], inputs: dict[str, Any]
    ) -> list[dict[str, Any]]:
        """A single user message."""
        tried = re.findall(r"^(?:answer: )?(-?\d+)$", str(inputs.get("workspace") or ""), re.MULTILINE)
        notes = f"tried {', '.join(tried)}\n" if tried else ""
        return [{"role": "user", "content": f"{notes}{inputs['question']} ="}]

    def parse(self, signature: type[dspy.Signature], completion: str) -> dict[str, Any]:
        """Return nothing, since the library parses `73` itself."""
        return {}


@dataclass(frozen=True)
class Arm:
    """What a step trains on."""

    share: str
    """Ratio of trace to operator prompts."""
    train_calls: str
    checkpoints: tuple[int, ...]
    """Steps at which it is measured: the first are those of every arm, the last has sampled as many calls."""


@dataclass(frozen=True)
class Plan:
    """The size of the study; see plans/operator_rl.md."""

    steps: int = 200
    """Steps at which arms are compared; an arm that samples fewer calls a step goes on to as many calls."""
    groups: int = 4
    """Prompts of a step."""
    rows: int = 10
    """Trained calls of a prompt."""
    rows_per_pass: int = 20
    """Rows of one forward and backward pass, which memory limits."""
    learning_rate: float = 1e-4
    rank: int = 16
    seeds: int = 3
    digits: int = 2
    learnt: int = 3800
    """Sums that the arms train on."""
    held_out: int = 200
    dev: int = 100
    """Sums on which the warm-up is measured."""
    warm_sums: int = 4000
    warm_until: float = 0.35
    """Of one pass on the dev sums: the first stage of the warm-up that reaches it is the base."""
    warm_stage: int = 25
    """Steps between measurements of the warm-up."""
    warm_most: int = 600
    """Steps after which the warm-up has failed."""
    warm_batch: int = 32
    warm_rate: float = 1e-3
    cap: int = 8
    """Output tokens of a call."""
    save_every: int = 5
    """Steps between checkpoints, those of the warm-up too: what an interruption costs at most."""

    @property
    def arms(self) -> dict[str, Arm]:
        """By name. A step of the second samples `longer` times as many calls as one of the others."""
        half = self.groups * self.rows // 2
        longer = self.steps * (half + half * (WIDTH + 1)) // (2 * half)
        return {
            "traces": Arm("1:0", "refine", (self.steps, longer)),
            "1:1, refinements": Arm("1:1", "refine", (self.steps,)),
            "1:1, all calls": Arm("1:1", "all", (self.steps, longer)),
            "3:1, all calls": Arm("3:1", "all", (self.steps,)),
            "1:3, all calls": Arm("1:3", "all", (self.steps,)),
        }

    def checkpoints(self, arm: str) -> tuple[int, ...]:
        """Steps at which an arm, or the base, is measured."""
        return (0,) if arm == BASE else self.arms[arm].checkpoints


# --- the task --------------------------------------------------------------------------------------------------------


def sums(plan: Plan) -> dict[str, list[dspy.Example]]:
    """Sums of two numbers; no two parts share one. Raises ConfigError if there are too few."""
    numbers = range(10 ** (plan.digits - 1), 10**plan.digits)
    every = [(a, b) for a in numbers for b in numbers]
    random.Random(0).shuffle(every)
    parts, start = {}, 0
    sizes = {"held out": plan.held_out, "dev": plan.dev, "learnt": plan.learnt, "warm": plan.warm_sums}
    if sum(sizes.values()) > len(every):
        raise ConfigError(f"{plan} needs {sum(sizes.values())} sums, of which there are {len(every)}")
    for name, size in sizes.items():
        parts[name] = [
            dspy.Example(question=f"{a} + {b}", answer=a + b, id=f"{a}+{b}").with_inputs("question")
            for a, b in every[start : start + size]
        ]
        start += size
    return parts


def settings(plan: Plan) -> dict[str, Any]:
    """Of every program's schedule."""
    return {"draft_tokens": plan.cap, "refine_tokens": plan.cap, "kappa": 32 * WIDTH, "temperature": 1.0}


def pdr(plan: Plan) -> Operator:
    """One round of drafts and a refinement that reads all of their answers: the trained program."""
    return PDR(Sum, widths=(WIDTH, 1), distiller="random_k", k=WIDTH, **settings(plan))


def programs(plan: Plan) -> dict[str, Operator]:
    """What is measured: all but one pass make as many calls as PDR."""
    own = settings(plan)
    return {
        "one pass": LongCoT(Sum, **own),
        "vote of 5": SelfConsistency(Sum, n=WIDTH + 1, **own),
        "PDR 4-1": pdr(plan),
        "SR x5": SR(Sum, rounds=WIDTH + 1, **own),
    }


# --- the base --------------------------------------------------------------------------------------------------------


def base(plan: Plan, folder: Path, weights: Path) -> str:
    """The model after its warm-up, which writes the answers of sums that no arm trains on.

    The warm-up ends at the first stage whose one pass scores `plan.warm_until` on the dev sums; its curve is kept.
    Raises ConfigError if no stage does.
    """
    raw = as_folder(weights, folder)
    file = Path(raw) / "chat_template.jinja"
    if not file.exists() or file.read_text(encoding="utf-8") != TEMPLATE:
        if weights.is_dir():
            raise ConfigError(f"{weights} has another chat template than this study's: {TEMPLATE}")
        write_whole(file, TEMPLATE)
    samples = folder / "warm.jsonl"
    if not samples.exists():
        asked = [(Brief().format(Sum, [], dict(each.inputs())), each.answer) for each in sums(plan)["warm"]]
        lines = [
            {"messages": [*messages, {"role": "assistant", "content": f" {answer}"}]} for messages, answer in asked
        ]
        write_whole(samples, "".join(f"{json.dumps(line)}\n" for line in lines))
    curve = folder / WARM_CURVE
    reached: dict[str, float] = json.loads(curve.read_text()) if curve.exists() else {}
    for steps in range(plan.warm_stage, plan.warm_most + 1, plan.warm_stage):
        model = folder / "warm" / "model"
        if str(steps) not in reached:
            model = imitate(samples, warming(plan, raw, steps), folder / "warm")
            policy = sampler(str(model), None, plan, folder / "sampler")
            torch.manual_seed(steps)
            scores = asyncio.run(scored(policy, programs(plan)["one pass"], sums(plan)["dev"], 0))
            reached[str(steps)] = sum(scores) / len(scores)
            del policy
            gc.collect()
            write_whole(curve, json.dumps(reached))
            print(f"warm-up, step {steps}: one pass {reached[str(steps)]:.3f}", flush=True)
        if reached[str(steps)] >= plan.warm_until:
            return str(model)
    raise ConfigError(f"after {plan.warm_most} steps of warm-up one pass scores {reached}, not {plan.warm_until}")


def warming(plan: Plan, raw: str, steps: int) -> ImitationConfig:
    """The settings of the warm-up: a constant rate, so that a later stage goes on from an earlier one."""
    return ImitationConfig(
        model=raw,
        steps=steps,
        batch=plan.warm_batch,
        learning_rate=plan.warm_rate,
        warmup=10,
        lora=lora(plan),
        save_every=plan.save_every,
        trl={"lr_scheduler_type": "constant_with_warmup"},
    )


def lora(plan: Plan) -> Lora:
    """The adapter of the warm-up, and of each arm on top of it."""
    return Lora(rank=plan.rank, alpha=2 * plan.rank)


# --- training and measuring ------------------------------------------------------------------------------------------


def run(plan: Plan, folder: Path, model: str, arm: str, seed: int, steps: int) -> trained.Line:
    """Train one arm with one seed as far as `steps`, a checkpoint, and measure it; what exists is not done again.

    `arm` "base" trains nothing.
    """
    if arm == BASE:
        return measured(plan, folder / f"base-{seed}.json", model, None, trained.About(BASE, seed, 0, 0, 0, 0, 0.0))
    of = plan.arms[arm]
    place = folder / f"{arm.replace(':', '-').replace(', ', '-').replace(' ', '-')}-{seed}"
    kept = folder / f"{place.name}-{steps}.json"
    if not kept.exists():
        config = TrainingConfig(
            model=model,
            steps=steps,
            groups=plan.groups,
            rows=plan.rows,
            rows_per_pass=plan.rows_per_pass,
            learning_rate=plan.learning_rate,
            warmup=10,
            operator_share=of.share,
            train_calls=of.train_calls,  # type: ignore[arg-type]
            lora=lora(plan),
            save_every=plan.save_every,
            seed=seed,
        )
        began = time.process_time()
        train(pdr(plan), sums(plan)["learnt"], NumberVerifier(), config, place)
        spend(place, time.process_time() - began)
        gc.collect()
    log = [line for line in read_log(place / "log.jsonl") if line["step"] <= steps]
    figures = ("sampled/calls", "sampled/tokens", "sampled/prompt_tokens")
    calls, sampled, read = (int(sum(line[name] for line in log)) for name in figures)
    about = trained.About(arm, seed, steps, calls, sampled, read, spent(place))
    return measured(plan, kept, model, place / "adapter", about)


def spend(place: Path, seconds: float) -> None:
    """Note CPU-seconds of training; those of a stage that was killed are lost."""
    write_whole(place.with_suffix(".spent"), json.dumps(spent(place) + seconds))


def spent(place: Path) -> float:
    """CPU-seconds noted so far."""
    file = place.with_suffix(".spent")
    return json.loads(file.read_text()) if file.exists() else 0.0


def measured(plan: Plan, kept: Path, model: str, adapter: Path | None, about: trained.About) -> trained.Line:
    """The scores of every program on the held-out sums; what was measured is kept."""
    if not kept.exists():
        policy = sampler(model, adapter, plan, kept.parent / "sampler")
        scores = {}
        for name, program in programs(plan).items():
            torch.manual_seed(about.seed)
            scores[name] = asyncio.run(scored(policy, program, sums(plan)["held out"], about.seed))
        del policy
        gc.collect()
        write_whole(kept, json.dumps({"about": about._asdict(), "scores": scores}))
    return trained.line(json.loads(kept.read_text()))


def sampler(model: str, adapter: Path | None, plan: Plan, folder: Path) -> Policy:
    """The model, with an adapter if one is given, as training samples it."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, PrinterCallback

    _, tokenizer = known_model(model)
    loaded: Any = AutoModelForCausalLM.from_pretrained(model, dtype="float32")
    if adapter is not None:
        loaded = PeftModel.from_pretrained(loaded, str(adapter), is_trainable=True)
    args = OperatorConfig(
        output_dir=str(folder),
        epsilon_high=5.0,
        operator_share=0,
        per_device_train_batch_size=2,
        num_generations=2,
        generate_rows=250,
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        report_to="none",
    )
    rows = mode_rows(sums(plan)["held out"][:2], ("trace",))
    trainer = OperatorTrainer(loaded, lambda groups, policy: [], args, rows, processing_class=tokenizer)
    trainer.remove_callback(PrinterCallback)
    return trainer.policy


async def scored(policy: Policy, program: Operator, examples: Sequence[dspy.Example], seed: int) -> list[float]:
    """The score of each example: 1 or 0, and 0 where every draft failed. One pass is repeated, as many as WIDTH."""
    verifier = NumberVerifier()
    repeats = WIDTH if program.schedule.calls == 1 else 1

    async def one(example: dspy.Example, number: int) -> float:
        try:
            prediction = await program.aforward(seed=number, **example.inputs())
        except RoundFailed:
            return 0.0
        return float(verifier(example, prediction))

    asked = [
        functools.partial(one, example, seed * repeats + repeat) for example in examples for repeat in range(repeats)
    ]
    lm = PolicyLM(policy)
    with dspy.context(lm=lm, trace=None):
        found = await lm.together(asked)
    return [sum(found[i : i + repeats]) / repeats for i in range(0, len(found), repeats)]


@contextmanager
def quietly(threads: int) -> Iterator[None]:
    """Inside, so many threads, the study's prompts, and no warnings of transformers."""
    transformers_logging.set_verbosity_error()
    torch.set_num_threads(threads)
    with warnings.catch_warnings(), dspy.context(adapter=Brief()):
        warnings.simplefilter("ignore")
        yield


def study(
    plan: Plan, folder: Path, weights: Path, *, arms: Sequence[str], seeds: Sequence[int], name: str, place: Path
) -> Path:
    """Run what is missing, the first checkpoint of all arms and seeds before the next; returns the file of lines.

    What has its lines there is not run again, so that another machine goes on from them. Raises StoreError if they are
    of another plan, or of another base.
    """
    path = place / f"{name}.jsonl"
    held = {each.about[:3] for each in trained.read(path)[1]} if path.exists() else set()
    asked = [
        (number, seed, arm, steps)
        for seed in seeds
        for arm in arms
        for number, steps in enumerate(plan.checkpoints(arm))
    ]
    missing = [
        (arm, seed, steps)
        for _, seed, arm, steps in sorted(asked, key=lambda each: each[0])
        if (arm, seed, steps) not in held
    ]
    if not missing:
        return path
    model = base(plan, folder, weights)
    about = plan_of(plan, folder)
    trained.agree(path, about)
    for arm, seed, steps in missing:
        line = run(plan, folder, model, arm, seed, steps)
        trained.add(path, line, about)
        print(f"{arm}, seed {seed}, step {steps}: {line.means}", flush=True)
    return path


def plan_of(plan: Plan, folder: Path) -> dict[str, Any]:
    """The first line of a file: lines of another plan, and of a base that had another warm-up, are refused there."""
    own = {name: value for name, value in vars(plan).items() if name not in ("seeds", "save_every")}
    return {**own, "warm_curve": json.loads((folder / WARM_CURVE).read_text())}


@guarded
def main(
    arm: Annotated[list[str] | None, typer.Option(help="One of the arms; all.")] = None,
    seed: Annotated[list[int] | None, typer.Option(help="One of the seeds; all.")] = None,
    weights: Annotated[Path | None, typer.Option(help="A GGUF file; the embedded model's.")] = None,
    threads: Annotated[int, typer.Option(min=1, help="Of torch.")] = 2,
    run_dir: RunDir = None,
    only_table: Annotated[bool, typer.Option("--table", help="Run nothing: write the page.")] = False,
) -> None:
    """Run what is missing, and write the lines to studies/trained and the page to docs/results."""
    plan = Plan()
    known = [BASE, *plan.arms]
    if odd := set(arm or ()) - set(known):
        raise ConfigError(f"`--arm {min(odd)}` must be one of {', '.join(known)}")
    if not only_table:
        folder = run_dir or Path("runs/studies/operator-rl")
        folder.mkdir(parents=True, exist_ok=True)
        with quietly(threads):
            study(
                plan,
                folder,
                weights or locate(MODEL, sources=SOURCES),
                arms=arm or known,
                seeds=seed or range(plan.seeds),
                name=MODEL,
                place=trained.TRAINED,
            )
    print(trained.write_page())


if __name__ == "__main__":
    typer.run(main)
