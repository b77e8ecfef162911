"""The model of a training run: loaded, adapted, logged and saved; the same for every kind of training."""

from __future__ import annotations

import importlib.util
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from pdr_dspy.errors import ConfigError, MissingExtra, PDRError
from pdr_dspy.training.config import Lora
from pdr_dspy.training.run_folder import Log


class Trained(Protocol):
    """The settings that say which weights are trained."""

    @property
    def model(self) -> str: ...
    @property
    def lora(self) -> Lora | None: ...
    @property
    def precision(self) -> str: ...


def known_model(model: str) -> tuple[int | None, Any]:
    """The model's context length in tokens, if its config has one, and its tokenizer."""
    from transformers import AutoConfig, AutoTokenizer

    try:
        context = getattr(AutoConfig.from_pretrained(model), "max_position_embeddings", None)
        tokenizer = AutoTokenizer.from_pretrained(model, padding_side="left")
    except (OSError, ValueError, KeyError) as error:
        sentence = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ConfigError(
            f"the config's `model={model!r}` cannot be loaded: {sentence}; give a model folder of transformers or a "
            "name on the hub"
        ) from error
    return context, tokenizer


def adapter_of(lora: Lora | None) -> Any:
    """peft's settings of an adapter; None without one. Raises MissingExtra if peft is not installed."""
    if lora is None:
        return None
    if importlib.util.find_spec("peft") is None:
        raise MissingExtra("peft", "train", "`lora` in the config")
    from peft import LoraConfig

    return LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=lora.targets if isinstance(lora.targets, str) else list(lora.targets),
        task_type="CAUSAL_LM",
    )


@contextmanager
def refusals(owner: str, lora: Lora | None) -> Iterator[None]:
    """Raise what peft and TRL refuse while a trainer is made inside the block as ConfigError for the settings `owner`:
    layers for the adapter that the model does not have, for example."""
    try:
        yield
    except PDRError:
        raise
    except (ValueError, re.error) as error:
        said = str(error).rstrip(".")
        if lora is not None and (isinstance(error, re.error) or "target" in said.lower()):
            raise ConfigError(
                f"`{owner}(lora=Lora(targets={lora.targets!r}))` is refused: {said}; give names of the model's linear "
                'layers, such as ["q_proj", "v_proj"], or "all-linear"'
            ) from error
        raise ConfigError(f"TRL refuses the settings of `{owner}`: {said}") from error


def logging_callback(log: Log) -> Any:
    """A callback of transformers that writes TRL's metrics to the log, and lets `save_every` change."""
    from transformers import TrainerCallback

    class Logging(TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            state.save_steps = args.save_steps  # that of a resumed checkpoint else, which may be another by now
            if state.is_world_process_zero:
                log.begin(state.global_step)

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            if state.is_world_process_zero and logs:
                log.add(state.global_step, logs)

    return Logging()


def save_model(trainer: Any, config: Trained, folder: Path, first: bool) -> None:
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
        trainer.processing_class.save_pretrained(str(half))
        (half / "training_args.bin").unlink(missing_ok=True)  # a pickle, not needed for serving
        shutil.rmtree(folder / "model", ignore_errors=True)
        half.rename(folder / "model")


def _merge(config: Trained, adapter: Path, target: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(config.model, dtype=config.precision)
    merged: Any = PeftModel.from_pretrained(base, str(adapter)).merge_and_unload()  # type: ignore[operator]
    merged.save_pretrained(str(target))
