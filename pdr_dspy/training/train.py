"""One training run: from a program, its questions and its verifier to a model folder that can be served.

    output/config.json     identity of the run; the same call resumes it, another call is refused
    output/log.jsonl       the metrics of each step
    output/checkpoints/    checkpoints of transformers; a stopped run resumes from the last
    output/adapter/        with LoRA: the adapter alone
    output/model/          the trained model and its tokenizer, an adapter merged in: for transformers, vLLM and `pdr`
    output/result.json     written last
    output/train.lock      held while a run is active: a second run waits, then resumes from the first one's state

`accelerate launch` runs it on several processes; each of them calls `train` with the same arguments.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dspy

from pdr_dspy.datasets import fingerprint as fingerprint_of_examples
from pdr_dspy.errors import ConfigError, MissingExtra, StoreError
from pdr_dspy.evaluation.evaluator import check_examples
from pdr_dspy.evaluation.fingerprint import fingerprint as fingerprint_of_program
from pdr_dspy.operators.operator import Operator
from pdr_dspy.runtime import store_errors, store_whole
from pdr_dspy.runtime.atomic_write import local_path
from pdr_dspy.runtime.differences import difference
from pdr_dspy.runtime.locks import held
from pdr_dspy.training.config import TrainingConfig
from pdr_dspy.training.dataset import mode_rows
from pdr_dspy.training.rollout import Episodes
from pdr_dspy.training.types import MODES, Mode
from pdr_dspy.verifiers import Metric, Verifier, as_verifier

if TYPE_CHECKING:
    from pdr_dspy.training.trainer import OperatorTrainer
    from pdr_dspy.training.trl_config import OperatorConfig

VERSION = 1
LOCK = "train.lock"
"""Name of the lock file in a run's folder."""
Progress = Callable[[int, Mapping[str, float]], None]
"""Called with each logged step (from 1) and its metrics."""


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

    A stopped run resumes from its last checkpoint; a finished run returns at once.

    Args:
        program: an operator; `config.schedule` changes its schedule for training. Its own language model is not called.
        examples: the questions to train on, with the fields that the verifier reads.
        verifier: a verifier or a metric, see `as_verifier`; the reward is +1 for a score of at least
            `config.threshold`, else -1.
        config: the settings.
        output: the run's folder.
        progress: called after each logged step, on the first process.

    Raises:
        ConfigError, DataError: an argument or an example is not usable; raised before the model is loaded if possible.
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
    args = _settings(config, episodes, folder)
    shares: dict[Mode, float] = {"trace": 1 - args.share, "operator": args.share}
    modes: list[Mode] = [mode for mode in MODES if shares[mode] > 0]
    for mode in modes:
        episodes.check_rows(config.rows, mode)
    if "operator" in modes:
        episodes.check_operator()
    about = _about(program, chosen, verifier, config)
    first = int(os.environ.get("RANK", "0")) == 0
    if first:
        _check(folder, about)
    with _alone(folder) if first else nullcontext():
        if first:
            _check(folder, about)  # again: another run may have held the lock
            store_whole(folder / "config.json", json.dumps(about, indent=1))
        return _train(folder, config, episodes, args, chosen, modes, first=first, progress=progress)


def _train(
    folder: Path,
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
    if _finished(folder) == config.steps and model.is_dir():
        return model
    started = time.monotonic()
    episodes.context_length, tokenizer = _known(config.model)
    episodes.check_context(chosen, tokenizer)
    trainer = _trainer(config, episodes, args, mode_rows(chosen, modes), tokenizer, _Log(folder, progress))
    checkpoint = _last_checkpoint(folder)
    trainer.train(resume_from_checkpoint=checkpoint)
    _save(trainer, config, folder, first)
    if first:
        result = {
            "steps": config.steps,
            "resumed_from": None if checkpoint is None else Path(checkpoint).name,
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


def _settings(config: TrainingConfig, episodes: Episodes, folder: Path) -> OperatorConfig:
    """TRL's settings for this run."""
    from dataclasses import fields

    import torch

    from pdr_dspy.training.trl_config import OperatorConfig

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
        "report_to": list(config.loggers) or "none",
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
    known = {field.name for field in fields(OperatorConfig)}
    for name in config.trl:
        if name in ours:
            raise ConfigError(f"`TrainingConfig(trl={{{name!r}: ...}})` is set by a field of TrainingConfig itself")
        if name not in known:
            raise ConfigError(f"`TrainingConfig(trl={{{name!r}: ...}})`: `OperatorConfig` has no such field")
    try:
        return OperatorConfig(**{**usual, **config.trl, **ours})
    except ConfigError:
        raise
    except (TypeError, ValueError) as error:
        raise ConfigError(f"TRL refuses the settings of `TrainingConfig`: {error}") from error


def _caps(episodes: Episodes) -> list[int]:
    schedule = episodes.schedule
    caps = [schedule.draft_tokens, schedule.refine_cap, schedule.distill_cap, episodes.trace_tokens]
    return [cap + schedule.thinking_tokens for cap in caps]


def _known(model: str) -> tuple[int | None, Any]:
    """The model's context length in tokens, if its config has one, and its tokenizer."""
    from transformers import AutoConfig, AutoTokenizer

    try:
        context = getattr(AutoConfig.from_pretrained(model), "max_position_embeddings", None)
        tokenizer = AutoTokenizer.from_pretrained(model, padding_side="left")
    except (OSError, ValueError, KeyError) as error:
        sentence = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ConfigError(
            f"`TrainingConfig(model={model!r})` cannot be loaded: {sentence}; give a model folder of transformers or a "
            "name on the hub"
        ) from error
    return context, tokenizer


def _trainer(
    config: TrainingConfig,
    episodes: Episodes,
    args: OperatorConfig,
    rows: Sequence[Mapping[str, str]],
    tokenizer: Any,
    log: _Log,
) -> OperatorTrainer:
    from transformers import PrinterCallback, TrainerCallback

    from pdr_dspy.training.trainer import OperatorTrainer

    class Logging(TrainerCallback):
        """Writes TRL's metrics to the log."""

        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.is_world_process_zero:
                log.begin(state.global_step)

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            if state.is_world_process_zero and logs:
                log.add(state.global_step, logs)

    adapter = None
    if config.lora is not None:
        if importlib.util.find_spec("peft") is None:
            raise MissingExtra("peft", "train", "`TrainingConfig(lora=...)`")
        from peft import LoraConfig

        targets = config.lora.targets
        adapter = LoraConfig(
            r=config.lora.rank,
            lora_alpha=config.lora.alpha,
            lora_dropout=config.lora.dropout,
            target_modules=targets if isinstance(targets, str) else list(targets),
            task_type="CAUSAL_LM",
        )
    trainer = OperatorTrainer(
        config.model,
        episodes,
        args,
        rows,
        processing_class=tokenizer,
        callbacks=[Logging()],
        peft_config=adapter,
    )
    trainer.remove_callback(PrinterCallback)  # stdout is for results
    return trainer


def _save(trainer: OperatorTrainer, config: TrainingConfig, folder: Path, first: bool) -> None:
    """Write the model folder atomically: the full weights, or an adapter merged into its base."""
    half = folder / "model.part"
    if config.lora is None:
        trainer.save_model(str(half))
    else:
        trainer.save_model(str(folder / "adapter"))
        if first:
            _merge(config, folder / "adapter", half)
    trainer.accelerator.wait_for_everyone()
    if first:
        trainer.processing_class.save_pretrained(str(half))  # type: ignore[union-attr]
        (half / "training_args.bin").unlink(missing_ok=True)  # a pickle, not needed for serving
        shutil.rmtree(folder / "model", ignore_errors=True)
        half.rename(folder / "model")


def _merge(config: TrainingConfig, adapter: Path, target: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(config.model, dtype=config.precision)
    merged: Any = PeftModel.from_pretrained(base, str(adapter)).merge_and_unload()  # type: ignore[operator]
    merged.save_pretrained(str(target))


# --- the folder ------------------------------------------------------------------------------------------------------

_MAY_CHANGE = ("steps", "save_every", "loggers")


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


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold the folder's lock inside the block, after waiting for another run."""
    with ExitStack() as stack:
        with store_errors(folder, "cannot be used"):
            folder.mkdir(parents=True, exist_ok=True)
            stack.enter_context(held(folder / LOCK, on_wait=logging.getLogger("pdr_dspy").warning))
        yield


def _check(folder: Path, about: Mapping[str, Any]) -> None:
    """Raise StoreError for a folder that holds something else than this run; a missing folder is fine."""
    path = folder / "config.json"
    try:
        if path.exists():
            before = json.loads(path.read_text(encoding="utf-8"))
            if not isinstance(before, dict) or before.get("kind") != "training":
                raise StoreError(f"{folder} holds another kind of run; choose another folder")
            was, now = _flat(before), _flat(json.loads(json.dumps(about)))
            changed = [key for key in now if was.get(key) != now[key] and key not in _MAY_CHANGE]
            if changed:
                differs = difference(changed[0], was.get(changed[0]), now[changed[0]])
                raise StoreError(
                    f"{folder} holds another training run: {differs}; choose another folder, or use the same arguments "
                    "to resume it"
                )
        elif folder.exists() and any(path.name != LOCK for path in folder.iterdir()):
            raise StoreError(f"{folder} is not empty and holds no training run; choose another folder")
    except OSError as error:
        raise StoreError(f"{folder} cannot be used: {error.strerror or error}") from error
    except ValueError as error:
        raise StoreError(f"{path} is not readable JSON ({error}); choose another folder") from error


def _flat(about: Mapping[str, Any]) -> dict[str, Any]:
    config = about.get("config")
    return {key: value for key, value in about.items() if key != "config"} | (
        config if isinstance(config, dict) else {}
    )


def _finished(folder: Path) -> int | None:
    """Steps of the finished model in the folder; None without one."""
    try:
        steps = json.loads((folder / "result.json").read_text(encoding="utf-8"))["steps"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return steps if isinstance(steps, int) else None


def _last_checkpoint(folder: Path) -> str | None:
    from transformers.trainer_utils import get_last_checkpoint

    checkpoints = folder / "checkpoints"
    return get_last_checkpoint(str(checkpoints)) if checkpoints.is_dir() else None


class _Log:
    """log.jsonl: one line a step, without repeated steps."""

    def __init__(self, folder: Path, progress: Progress | None) -> None:
        self.path = folder / "log.jsonl"
        self.progress = progress

    def begin(self, step: int) -> None:
        """Drop the lines after `step`, the checkpoint from which the run resumes."""
        kept = [json.dumps(line) for line in read_log(self.path) if line["step"] <= step]
        store_whole(self.path, "".join(f"{line}\n" for line in kept))

    def add(self, step: int, figures: Mapping[str, Any]) -> None:
        """Append the metrics of a step. TRL's final metrics of the whole run are ignored."""
        numbers = {name: value for name, value in figures.items() if isinstance(value, int | float)}
        if "train_runtime" in numbers:
            return
        with store_errors(self.path), self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **numbers}) + "\n")
        if self.progress is not None:
            self.progress(step, numbers)


def read_log(path: str | Path) -> list[dict[str, Any]]:
    """The lines of a run's log.jsonl, each with its `step`; a torn last line is left out."""
    lines = []
    file = local_path(path)
    for line in file.read_text(encoding="utf-8").splitlines() if file.exists() else []:
        try:
            lines.append(json.loads(line))
        except ValueError:
            logging.getLogger(__name__).warning("%s: a line that is not JSON is ignored", path)
    return [line for line in lines if isinstance(line, dict) and isinstance(line.get("step"), int)]
