"""Supervised training on chat samples: what `pdr export-sft` wrote is imitated, the assistant's turn alone.

Prompts are tokenized as the model's server does it, with the chat template up to the beginning of the answer; the loss
is that of the answer's tokens and of the token that ends the turn. Folder, resumption and result are those of
`train.py`; with LoRA, the default, `output/adapter` can be served beside the untouched base model.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import logging
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from math import ceil
from os import environ
from pathlib import Path
from typing import Any, NamedTuple

from pdr_dspy.errors import ConfigError, DataError, MissingExtra
from pdr_dspy.runtime import store_whole
from pdr_dspy.runtime.atomic_write import local_path
from pdr_dspy.training.config import ImitationConfig
from pdr_dspy.training.model_folder import adapter_of, known_model, logging_callback, refusals, save_model
from pdr_dspy.training.policy_lm import prompt_ids
from pdr_dspy.training.run_folder import (
    Log,
    Progress,
    alone,
    check_folder,
    check_steps,
    finished,
    last_checkpoint,
)

logger = logging.getLogger("pdr_dspy")
VERSION = 1


class Tokenized(NamedTuple):
    """A sample as the model reads it."""

    ids: list[int]
    """Prompt and answer."""
    prompt: int
    """Tokens of the prompt, which are not learnt."""

    @property
    def labels(self) -> list[int]:
        """The ids, -100 in place of those of the prompt."""
        return [-100] * self.prompt + self.ids[self.prompt :]


def read_samples(path: str | Path) -> list[list[dict[str, str]]]:
    """The messages of each line of a JSONL file, as `export_sft.write` and TRL's chat datasets have them.

    Raises DataError for a file that is missing or empty, or has a line without messages that end with the assistant's.
    """
    file = local_path(path)
    try:
        lines = file.read_text(encoding="utf-8").split("\n")  # a text may hold other ends of lines, such as U+2028
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"`--sft {path}` cannot be read: {error}") from error
    samples = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            messages = json.loads(line)["messages"]
            fine = len(messages) > 1 and messages[-1]["role"] == "assistant" and messages[-1]["content"].strip()
            fine = fine and all(isinstance(message[name], str) for message in messages for name in ("role", "content"))
        except (ValueError, KeyError, TypeError, AttributeError):
            fine, messages = False, []
        if not fine:
            raise DataError(
                f"{path}, line {number}, is no chat sample: it needs `messages`, texts of which the last is the "
                "assistant's, as `pdr export-sft` writes them"
            )
        samples.append(messages)
    if not samples:
        raise DataError(f"`--sft {path}` has no samples; did `pdr export-sft` find any?")
    return samples


def tokenized(tokenizer: Any, messages: Sequence[Mapping[str, str]], **options: Any) -> Tokenized:
    """A sample as token ids: the prompt as it is at inference, the answer, and the token that ends the turn.

    The answer is taken from the whole conversation in the chat template, which knows what ends a turn and how a thought
    is written; for a tokenizer without a template, or one whose template writes the prompt of an answered question
    differently, it is the answer's text and the end-of-sequence token.
    """
    ids = prompt_ids(tokenizer, messages[:-1], **options)
    answer = None
    if getattr(tokenizer, "chat_template", None):
        written = [dict(message) for message in messages]
        ask = {"tokenize": False, **options}
        before = tokenizer.apply_chat_template(written[:-1], add_generation_prompt=True, **ask)
        whole = tokenizer.apply_chat_template(written, **ask)
        if whole.startswith(before):
            answer = tokenizer.encode(whole[len(before) :], add_special_tokens=False)
    if answer is None:
        answer = tokenizer.encode(messages[-1]["content"], add_special_tokens=False)
    ends = [place for place, token in enumerate(answer) if token in set(tokenizer.all_special_ids)]
    # What the template writes after the end of the turn is not the model's to write.
    answer = answer[: ends[-1] + 1] if ends else [*answer, tokenizer.eos_token_id]
    return Tokenized([*ids, *(int(token) for token in answer)], len(ids))


def imitate(
    samples: str | Path, config: ImitationConfig, output: str | Path, *, progress: Progress | None = None
) -> Path:
    """Train `config.model` on a file of chat samples; return the folder of the trained model.

    A stopped run resumes from its last whole checkpoint; a finished run returns at once.

    Args:
        samples: a JSONL file, see `read_samples`.
        config: the settings.
        output: the run's folder: adapter/ with LoRA, model/ with the adapter merged in, log.jsonl, result.json.
        progress: called after each logged step, on the first process.

    Raises:
        ConfigError, DataError: the settings, the model or the samples are not usable, or the folder was trained for
            more steps.
        MissingExtra: the `train` extra is not installed.
        StoreError: the folder holds another run, or cannot be written.
    """
    if importlib.util.find_spec("trl") is None or importlib.util.find_spec("torch") is None:
        raise MissingExtra("trl", "train", "training")
    messages = read_samples(samples)
    folder = local_path(output)
    digest = hashlib.sha256(json.dumps(messages, sort_keys=True).encode()).hexdigest()[:16]
    about = {"kind": "imitation", "version": VERSION, "samples": digest, "config": config.model_dump(mode="json")}
    first = int(environ.get("RANK", "0")) == 0
    if first:
        check_folder(folder, about)
    with alone(folder) if first else nullcontext():
        if first:
            check_folder(folder, about)  # again: another run may have held the lock
        return _imitate(folder, about, config, messages, first=first, progress=progress)


def _imitate(
    folder: Path,
    about: Mapping[str, Any],
    config: ImitationConfig,
    messages: Sequence[Sequence[Mapping[str, str]]],
    *,
    first: bool,
    progress: Progress | None,
) -> Path:
    started = time.monotonic()
    context, tokenizer = known_model(config.model)
    most = min(limit for limit in (config.max_tokens, context, 2**31) if limit is not None)
    read = [tokenized(tokenizer, each, **config.template_options) for each in messages]
    rows = [row for row in read if len(row.ids) <= most]
    if not rows:
        raise DataError(f"all {len(read)} samples have more than {most} tokens; raise `max_tokens` or the context")
    steps = config.steps or ceil(config.epochs * len(rows) / config.batch)
    model = folder / "model"
    if finished(folder) == steps and model.is_dir():
        return model
    check_steps(folder, steps)
    if first:
        store_whole(folder / "config.json", json.dumps(about, indent=1))
    if first and len(rows) < len(read):
        logger.warning(
            "%d of %d samples are longer than %d tokens and are left out; %s",
            *(len(read) - len(rows), len(read), most),
            "raise `max_tokens`" if most == config.max_tokens else "the model's context holds no more",
        )
    trainer = _trainer(config, folder, rows, tokenizer, steps, Log(folder, progress))
    checkpoint = last_checkpoint(folder, tell=first)
    trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    save_model(trainer, config, folder, first)
    if first:
        result = {
            "steps": steps,
            "resumed_from": None if checkpoint is None else checkpoint.name,
            "seconds": round(time.monotonic() - started, 1),
            "samples": len(rows),
            "too_long": len(read) - len(rows),
            "learnt_tokens": sum(len(row.ids) - row.prompt for row in rows),
        }
        store_whole(folder / "result.json", json.dumps(result, indent=1))
    trainer.accelerator.wait_for_everyone()
    return model


def _trainer(
    config: ImitationConfig, folder: Path, rows: Sequence[Tokenized], tokenizer: Any, steps: int, log: Log
) -> Any:
    from datasets import Dataset
    from transformers import PrinterCallback
    from trl.trainer.sft_trainer import SFTTrainer

    class Imitator(SFTTrainer):
        def _send_telemetry(self) -> None:
            """Send nothing, unlike TRL."""

    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    args = _settings(config, folder, steps)
    with refusals("ImitationConfig", config.lora):
        trainer = Imitator(
            model=config.model,
            args=args,
            train_dataset=Dataset.from_list([{"input_ids": row.ids, "labels": row.labels} for row in rows]),
            processing_class=tokenizer,
            callbacks=[logging_callback(log)],
            peft_config=adapter_of(config.lora),
        )
    trainer.remove_callback(PrinterCallback)  # stdout is for results
    return trainer


def _settings(config: ImitationConfig, folder: Path, steps: int) -> Any:
    """TRL's settings for this run."""
    import torch
    from trl.trainer.sft_config import SFTConfig

    from pdr_dspy.training.trl_config import report_to, trl_settings

    world = int(environ.get("WORLD_SIZE", "1"))
    each = config.rows_per_pass or max(config.batch // world, 1)
    if config.batch % (each * world):
        raise ConfigError(
            f"`ImitationConfig(batch={config.batch})`: {world} process{'es' if world > 1 else ''} of {each} samples a "
            "pass do not divide it; change `batch` or `rows_per_pass`"
        )
    gpu = torch.cuda.is_available()
    ours: dict[str, Any] = {
        "output_dir": str(folder / "checkpoints"),
        "max_steps": steps,
        "per_device_train_batch_size": each,
        "gradient_accumulation_steps": config.batch // (each * world),
        "learning_rate": config.learning_rate,
        "warmup_steps": config.warmup,
        "max_length": None,
        "packing": False,
        "seed": config.seed,
        "save_steps": config.save_every,
        "logging_steps": 1,
        "report_to": report_to("ImitationConfig", config.loggers),
    }
    usual: dict[str, Any] = {
        "lr_scheduler_type": "cosine",
        "bf16": gpu and torch.cuda.is_bf16_supported(),
        "use_cpu": not gpu,
        "dataloader_pin_memory": gpu,
        "activation_checkpointing": gpu,
        "save_total_limit": 2,
        "disable_tqdm": True,
        "model_init_kwargs": {"dtype": config.precision},
    }
    return trl_settings(SFTConfig, "ImitationConfig", ours, usual, config.trl)
