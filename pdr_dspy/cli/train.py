"""`pdr train` and `pdr export-sft`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import typer

from pdr_dspy.cli.display import Display
from pdr_dspy.cli.evaluate import Job
from pdr_dspy.cli.model_option import Model
from pdr_dspy.cli.program_files import find, find_task, operator_of, program_file
from pdr_dspy.cli.run_folders import holds
from pdr_dspy.errors import ConfigError, DataError, StoreError
from pdr_dspy.operators.operator import Operator

SHOWN = ("trace/reward", "operator/reward", "trace/length", "operator/length", "loss")
"""The figures in the progress line of a step, if they were logged."""


WHAT = ("right", "summaries", "picks", "verdicts")
"""What `pdr export-sft` writes."""


def train(
    target: str | None,
    config: Path,
    output: Path,
    *,
    task: str | None,
    display: Display,
    trusted: bool = False,
    sft: Path | None = None,
) -> None:
    """Train a model on long traces and on the calls of a program, or on a file of chat samples; prints the folder of
    the trained model."""
    from pdr_dspy.training import train
    from pdr_dspy.training.config import TrainingConfig, read_config

    if (target is None) == (sft is None):
        raise ConfigError("`pdr train` needs a program, to train on its calls, or `--sft FILE` with chat samples")
    if target is None:
        _imitate(sft, config, output, display)
        return
    found = find(target, task=task, trusted=trusted)
    if found.task is None:
        raise ConfigError(f"{found.name} is a saved program without data: add `--task` with its program file")
    if not isinstance(found.program, Operator):
        raise ConfigError(
            f"`build()` of {found.task.name} gives `{type(found.program).__name__}`, and training takes an operator, "
            "such as `PDR(signature, schedule)`"
        )
    settings = read_config(config, TrainingConfig)
    with program_file(f"`data()` or `verifier()` of {found.task.name}"):
        examples, verifier = found.task.data("train", limit=settings.limit), found.task.verifier()

    def report(step: int, figures: Mapping[str, float]) -> None:
        shown = ", ".join(f"{name} {figures[name]:.3g}" for name in SHOWN if name in figures)
        display.say(f"step {step} of {settings.steps}: {shown}")

    display.say(f"training {settings.model} on {len(examples)} questions of {found.name} ...")
    made = train.train(found.program, examples, verifier, settings, output, progress=report)
    display.say(f"figures of each step: {output / 'log.jsonl'}")
    display.say(f"to evaluate it: pdr serve-model {made} --vllm, then pdr eval {target} --api-base ...")
    display.show(str(made))


def _imitate(sft: Any, config: Path, output: Path, display: Display) -> None:
    """Train on a file of chat samples."""
    from pdr_dspy.training.config import ImitationConfig, read_config
    from pdr_dspy.training.sft import imitate

    settings = read_config(config, ImitationConfig)

    def report(step: int, figures: Mapping[str, float]) -> None:
        shown = ", ".join(f"{name} {figures[name]:.3g}" for name in ("loss", "mean_token_accuracy") if name in figures)
        display.say(f"step {step}: {shown}")

    display.say(f"training {settings.model} on the samples of {sft} ...")
    made = imitate(sft, settings, output, progress=report)
    display.say(f"figures of each step: {output / 'log.jsonl'}")
    adapter = output / "adapter"
    if settings.lora is not None:
        display.say(f"beside the base model: vllm serve {settings.model} --enable-lora --lora-modules NAME={adapter}")
    display.show(str(adapter if settings.lora is not None else made))


def export(
    run_dir: Path,
    out: Path,
    *,
    program: str | None,
    task: str | None,
    data: str | None,
    verifier: str | None,
    split: str | None,
    as_json: bool,
    display: Display,
    trusted: bool = False,
    judge_base: str | None = None,
    judge_model: str | None = None,
    what: str = "right",
    teacher: Model | None = None,
    orders: int | None = None,
) -> None:
    """Write calls of a finished evaluation as a chat dataset: `what` it got right, or what a distiller should say."""
    from pdr_dspy.training import export_picks, export_sft, export_verdicts

    if what not in WHAT:
        raise ConfigError(f"`--what {what}` must be one of {', '.join(WHAT)}")
    seen = what in ("picks", "verdicts")
    if teacher is not None and not seen:
        raise ConfigError(f"a teacher (`--teacher`) makes picks and verdicts, and none of `--what {what}`")
    if orders is not None and what != "picks":
        raise ConfigError(f"`--orders {orders}` is for `--what picks`, got `--what {what}`")

    if not run_dir.is_dir() or holds(run_dir) is None:
        raise StoreError(f"{run_dir} holds no run; give a folder that `pdr eval` wrote")
    if holds(run_dir) != "eval":
        raise StoreError(f"{run_dir} holds a run of `pdr {holds(run_dir)}`; give a folder that `pdr eval` wrote")
    target = program or _named(run_dir)
    if program is None and not target.endswith(".json"):
        try:
            find_task(target)
        except ConfigError as error:
            raise ConfigError(f"{error}; `--program` names what {run_dir} evaluated, such as {target}.py") from error
    job = Job.of(
        target, task=task, data=data, verifier=verifier, split=split, limit=None, repeats=1, seed=0, model=Model(),
        budget=None, run_dir=run_dir, kind="eval", trusted=trusted, judge_base=judge_base, judge_model=judge_model,
    )  # fmt: skip
    asked = (run_dir, job.target.program, job.examples, job.verifier)
    with ExitStack() as stack:
        lm = None
        if teacher is not None:
            lm = stack.enter_context(teacher.serving(operator_of(job.target.program).schedule, display))
        if what == "picks":
            found = export_picks.export_picks(*asked, teacher=lm, orders=orders)
        elif what == "verdicts":
            found = export_verdicts.export_verdicts(*asked, teacher=lm)
        else:
            found = export_sft.export(*asked, what="summaries" if what == "summaries" else "right")
    counts = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in found.counts.items())
    lost = found.counts["not_stored"]
    if lost and not found.samples:
        of = f"{lost} {'row' if seen else 'call'}{'s' * (lost > 1)}"
        raise StoreError(
            f"no stored call was found that makes a sample: {run_dir / 'rollouts'} lacks the completions of {of}; "
            f"{out} is not written. Put the rollout store of the evaluation there, or run `pdr eval` again"
        )
    if not found.samples:
        raise DataError(f"{run_dir} makes no sample with `--what {what}` ({counts}); {out} is not written")
    export_sft.write(out, found.samples)
    if as_json:
        typer.echo(json.dumps(found.counts))
    else:
        display.show(f"{out}: {len(found.samples)} samples ({counts})")


def _named(run_dir: Path) -> str:
    """The program in a folder name that `pdr eval` chose: eval-NAME-DIGEST."""
    name = run_dir.resolve().name.removeprefix("eval-").rpartition("-")[0]
    if not name or not run_dir.resolve().name.startswith("eval-"):
        raise ConfigError(f"`pdr export-sft {run_dir}` does not report the program: add `--program`")
    return name
