"""One training run: from a program, its questions and its verifier to a model folder that can be served.

    output/config.json     identity of the run; the same call resumes it, another call is refused
    output/log.jsonl       the metrics of each step
    output/checkpoints/    checkpoints of transformers; a stopped run resumes from the last whole one
    output/adapter/        with LoRA: the adapter alone
    output/model/          the trained model and its tokenizer, an adapter merged in: for transformers, vLLM and `pdr`
    output/result.json     written last
    output/train.lock      held while a run is active: a second run waits, then resumes from the first one's state

`accelerate launch` runs it on several processes; each of them calls `train` with the same arguments.
"""

from __future__ import annotations

import importlib.util
import json
import os
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dspy

from pdr_dspy.datasets import fingerprint as fingerprint_of_examples
from pdr_dspy.errors import ConfigError, MissingExtra
from pdr_dspy.evaluation.evaluator import check_examples
from pdr_dspy.evaluation.fingerprint import fingerprint as fingerprint_of_program
from pdr_dspy.operators.operator import Operator
from pdr_dspy.runtime import store_whole
from pdr_dspy.runtime.atomic_write import local_path
from pdr_dspy.training.config import TrainingConfig
from pdr_dspy.training.dataset import mode_rows
from pdr_dspy.training.model_folder import adapter_of, known_model, logging_callback, refusals, save_model
from pdr_dspy.training.rollout import Episodes
from pdr_dspy.training.run_folder import (
    Log,
    Progress,
    alone,
    check_folder,
    check_steps,
    finished,
    last_checkpoint,
)
from pdr_dspy.training.types import MODES, Mode
from pdr_dspy.verifiers import Metric, Verifier, as_verifier

if TYPE_CHECKING:
    from pdr_dspy.training.trainer import OperatorTrainer
    from pdr_dspy.training.trl_config import OperatorConfig

VERSION = 1


def train(
    program: Operator,
    examples: Sequence[dspy.Example],
    verifier: Verifier | Metric,
    config: TrainingConfig,
    output: str | Path,
    *,
    progress: Progress | None = None,
) -> Path:
    """Train `config.model` on long traces and on the calls of `program`; return the folder of the trained model.

    A stopped run resumes from its last whole checkpoint; a finished run returns at once.

    Args:
        program: an operator; `config.schedule` changes its schedule for training. Its own language model is not called.
        examples: the questions to train on, with the fields that the verifier reads.
        verifier: a verifier or a metric, see `as_verifier`; the reward is +1 for a score of at least
            `config.threshold`, else -1.
        config: the settings.
        output: the run's folder.
        progress: called after each logged step, on the first process.

    Raises:
        ConfigError, DataError: an argument or an example is not usable, or the folder was trained for more steps;
            raised before the model is loaded if possible.
        MissingExtra: the `train` extra is not installed.
        StoreError: the folder holds another run, or cannot be written.
    """
    if importlib.util.find_spec("trl") is None or importlib.util.find_spec("torch") is None:
        raise MissingExtra("trl", "train", "training")
    verifier = as_verifier(verifier, argument="train(verifier=...)")
    episodes = _episodes(program, verifier, config)
    chosen = list(examples[: config.limit])
    check_examples(program, chosen, verifier)
    folder = local_path(output)
    if _share(config) > 0:
        episodes.check_operator()  # first: the sizes of groups are those of its episodes
    args = _settings(config, episodes, folder)
    shares: dict[Mode, float] = {"trace": 1 - args.share, "operator": args.share}
    modes: list[Mode] = [mode for mode in MODES if shares[mode] > 0]
    for mode in modes:
        episodes.check_rows(config.rows, mode)
    about = _about(program, chosen, verifier, config)
    first = int(os.environ.get("RANK", "0")) == 0
    if first:
        check_folder(folder, about)
    with alone(folder) if first else nullcontext():
        if first:
            check_folder(folder, about)  # again: another run may have held the lock
        return _train(folder, about, config, episodes, args, chosen, modes, first=first, progress=progress)


def _train(
    folder: Path,
    about: Mapping[str, Any],
    config: TrainingConfig,
    episodes: Episodes,
    args: OperatorConfig,
    chosen: Sequence[dspy.Example],
    modes: Sequence[Mode],
    *,
    first: bool,
    progress: Progress | None,
) -> Path:
    model = folder / "model"
    if finished(folder) == config.steps and model.is_dir():
        return model
    check_steps(folder, config.steps)
    if first:
        store_whole(folder / "config.json", json.dumps(about, indent=1))
    started = time.monotonic()
    episodes.context_length, tokenizer = known_model(config.model)
    episodes.check_context(chosen, tokenizer)
    trainer = _trainer(config, episodes, args, mode_rows(chosen, modes), tokenizer, Log(folder, progress))
    checkpoint = last_checkpoint(folder, tell=first)
    trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    save_model(trainer, config, folder, first)
    if first:
        result = {
            "steps": config.steps,
            "resumed_from": None if checkpoint is None else checkpoint.name,
            "seconds": round(time.monotonic() - started, 1),
            "counts": dict(episodes.counts),
        }
        store_whole(folder / "result.json", json.dumps(result, indent=1))
    trainer.accelerator.wait_for_everyone()
    return model


def _episodes(program: Operator, verifier: Verifier, config: TrainingConfig) -> Episodes:
    if isinstance(program, Operator) and config.schedule:
        try:
            program = program.with_schedule(program.schedule.replace(**config.schedule))
        except ConfigError as error:
            raise ConfigError(f"`TrainingConfig(schedule={config.schedule!r})`: {error}") from error
    return Episodes(
        program,
        verifier,
        train_calls=config.train_calls,
        starts=config.starts,
        process_rewards=config.process_rewards,
        threshold=config.threshold,
        trace_tokens=config.trace_tokens,
        template_options=config.template_options,
    )


def _share(config: TrainingConfig) -> float:
    """The share of operator prompts."""
    from pdr_dspy.training.trl_config import share_of

    return share_of(config.operator_share)


def _settings(config: TrainingConfig, episodes: Episodes, folder: Path) -> OperatorConfig:
    """TRL's settings for this run."""
    import torch

    from pdr_dspy.training.trl_config import OperatorConfig, report_to, trl_settings

    world = int(os.environ.get("WORLD_SIZE", "1"))
    each, batch = config.rows_per_pass or config.rows, config.groups * config.rows
    if batch % (each * world):
        raise ConfigError(
            f"`TrainingConfig(groups={config.groups}, rows={config.rows})` is {batch} rows, which {world} "
            f"process{'es' if world > 1 else ''} of {each} rows a pass do not divide; change `groups` or "
            "`rows_per_pass`"
        )
    gpu = torch.cuda.is_available()
    ours: dict[str, Any] = {
        "output_dir": str(folder / "checkpoints"),
        "max_steps": config.steps,
        "per_device_train_batch_size": each,
        "gradient_accumulation_steps": batch // (each * world),
        "num_generations": config.rows,
        "num_iterations": config.iterations,
        "learning_rate": config.learning_rate,
        "lr_scheduler_type": "constant_with_warmup" if config.warmup else "constant",
        "warmup_steps": config.warmup,
        "max_completion_length": max(_caps(episodes)),
        "epsilon_high": config.epsilon_high,
        "alpha": config.alpha,
        "token_norm": config.token_norm,
        "operator_share": config.operator_share,
        "train_calls": config.train_calls,
        "starts": config.starts,
        "process_rewards": config.process_rewards,
        "use_vllm": config.vllm is not None,
        "seed": config.seed,
        "save_steps": config.save_every,
        "logging_steps": 1,
        "report_to": report_to("TrainingConfig", config.loggers),
    }
    usual: dict[str, Any] = {
        "bf16": gpu and torch.cuda.is_bf16_supported(),
        "use_cpu": not gpu,
        "dataloader_pin_memory": gpu,
        "gradient_checkpointing": gpu,
        "save_total_limit": 2,
        "disable_tqdm": True,
        "model_init_kwargs": {"dtype": config.precision},
    }
    if config.vllm is not None:
        ours["vllm_mode"] = config.vllm
    return trl_settings(OperatorConfig, "TrainingConfig", ours, usual, config.trl)


def _caps(episodes: Episodes) -> list[int]:
    schedule = episodes.schedule
    caps = [schedule.draft_tokens, schedule.refine_cap, schedule.distill_cap, episodes.trace_tokens]
    return [cap + schedule.thinking_tokens for cap in caps]


def _trainer(
    config: TrainingConfig,
    episodes: Episodes,
    args: OperatorConfig,
    rows: Sequence[Mapping[str, str]],
    tokenizer: Any,
    log: Log,
) -> OperatorTrainer:
    from transformers import PrinterCallback

    from pdr_dspy.training.trainer import OperatorTrainer

    with refusals("TrainingConfig", config.lora):
        trainer = OperatorTrainer(
            config.model,
            episodes,
            args,
            rows,
            processing_class=tokenizer,
            callbacks=[logging_callback(log)],
            peft_config=adapter_of(config.lora),
        )
    trainer.remove_callback(PrinterCallback)  # stdout is for results
    return trainer


def _about(
    program: Operator, examples: Sequence[dspy.Example], verifier: Verifier, config: TrainingConfig
) -> dict[str, Any]:
    return {
        "kind": "training",
        "version": VERSION,
        "program": fingerprint_of_program(program),
        "examples": fingerprint_of_examples(examples),
        "verifier": verifier.describe(),
        "config": config.model_dump(mode="json"),
    }
