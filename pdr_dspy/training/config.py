"""The settings of a training run, as a JSON file holds them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, model_validator

from pdr_dspy.errors import ConfigError
from pdr_dspy.runtime.atomic_write import local_path
from pdr_dspy.settings import Settings
from pdr_dspy.training.types import DISTILLER_CALLS, TrainCalls

C = TypeVar("C", "TrainingConfig", "ImitationConfig")
_FIXED = frozenset(
    ("conversation", "tokenize", "add_generation_prompt", "continue_final_message", "return_dict", "return_tensors")
)
"""Arguments of a tokenizer's `apply_chat_template` that are no options: the prompts of calls need them as they are."""


class Lora(BaseModel):
    """Train a low-rank adapter instead of all weights (peft)."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    rank: int = Field(default=16, ge=1)
    alpha: int = Field(default=32, ge=1)
    """Scales the adapter by alpha / rank."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    targets: str | tuple[str, ...] = "all-linear"
    """Names of the adapted layers, in peft's form."""


class TrainingConfig(Settings):
    """All settings of a training run apart from the program, its questions and its verifier; read and saved as JSON."""

    model_config = ConfigDict(allow_inf_nan=False)

    model: str
    """A model folder in the format of transformers, or a name on the hub."""
    steps: int = Field(default=100, ge=1)
    """Optimizer steps. Raising it continues a finished run."""
    groups: int = Field(default=8, ge=1)
    """Prompts of a generation batch, over all processes."""
    rows: int = Field(ge=2)
    """Rows of a group: that many long traces, or rows / (trained calls of an episode) operator episodes."""
    rows_per_pass: int | None = Field(default=None, ge=1)
    """Rows of one forward and backward pass on one device; None means `rows`."""
    iterations: int = Field(default=1, ge=1)
    """Optimizer steps on each generation batch. Above 1 the ratios leave 1 and `epsilon_high` acts."""
    learning_rate: float = Field(default=1e-6, gt=0)
    """Learning rate, constant after `warmup` steps."""
    warmup: int = Field(default=0, ge=0)
    epsilon_high: float = Field(default=5.0, gt=0)
    """The largest weight of a token's ratio: the bound itself, not its distance from 1."""
    alpha: float = Field(default=0.1, ge=0)
    """Weight of the SFT term over correct rows."""
    token_norm: Literal["prompt", "batch"] = "prompt"
    operator_share: float | str = "1:1"
    """Share of operator prompts in every batch: a fraction, or trace:operator such as "1:3"."""
    train_calls: TrainCalls = "all"
    """With "distill" or "select" there are no long traces: `operator_share` is 1."""
    starts: float = Field(default=0.0, ge=0, le=1)
    """Share of the operator groups that start from a non-empty workspace."""
    process_rewards: bool = False
    threshold: float = Field(default=0.5, gt=0, le=1)
    """The lowest score of the verifier that is rewarded with +1."""
    trace_tokens: int | None = Field(default=None, ge=1)
    """Cap of a long trace, in output tokens; None means the schedule's `draft_tokens`."""
    schedule: dict[str, Any] = Field(default_factory=dict)
    """Changes to the program's schedule for training, such as {"widths": [4, 1], "temperature": 1.0}."""
    template_options: dict[str, Any] = Field(default_factory=dict)
    """Arguments of the chat template, such as {"enable_thinking": false}."""
    lora: Lora | None = None
    precision: Literal["float32", "bfloat16"] = "float32"
    """Data type of the weights. With float32 a GPU still computes in bfloat16 if it supports it."""
    vllm: Literal["colocate", "server"] | None = None
    """Sample with vLLM, in this process or from a `trl vllm-serve`; None samples with transformers."""
    limit: int | None = Field(default=None, ge=1)
    """The largest number of questions to train on."""
    save_every: int = Field(default=50, ge=1)
    """Steps between checkpoints; the last two are kept."""
    loggers: tuple[str, ...] = ()
    """TRL's log targets beside log.jsonl: "tensorboard", "wandb", "trackio", ..."""
    seed: int = Field(default=0, ge=0)
    trl: dict[str, Any] = Field(default_factory=dict)
    """Other fields of `OperatorConfig`, passed on unchanged."""

    @model_validator(mode="before")
    @classmethod
    def _without_traces(cls, given: Any) -> Any:
        """Long traces have no call of a distiller to train."""
        if isinstance(given, dict) and given.get("train_calls") in DISTILLER_CALLS:
            return {"operator_share": 1.0, **given}
        return given

    @model_validator(mode="after")
    def _check(self) -> Self:
        _check_template_options(self)
        if self.train_calls in DISTILLER_CALLS:
            if self.operator_share not in (1, "0:1"):
                raise ValueError(
                    f"`TrainingConfig(operator_share={self.operator_share!r})`: a long trace has no {self.train_calls} "
                    f'call to train; leave `operator_share` out with `train_calls="{self.train_calls}"`'
                )
            if self.lora is not None and self.vllm is not None:
                raise ValueError(
                    f'`TrainingConfig(vllm={self.vllm!r}, train_calls="{self.train_calls}")`: drafts are samples of '
                    "the base model, and TRL's vLLM holds its weights with the adapter merged in; leave `vllm` out"
                )
        if self.groups * self.rows % (self.rows_per_pass or self.rows):
            raise ValueError(
                f"`TrainingConfig(rows_per_pass={self.rows_per_pass})` does not divide the {self.groups * self.rows} "
                "rows of a generation batch"
            )
        return self


class ImitationConfig(Settings):
    """All settings of supervised training apart from its samples (`sft.imitate`); read and saved as JSON."""

    model_config = ConfigDict(allow_inf_nan=False)

    model: str
    """A model folder in the format of transformers, or a name on the hub."""
    epochs: float = Field(default=1.0, gt=0)
    """Passes over the samples; see `steps`."""
    steps: int | None = Field(default=None, ge=1)
    """Optimizer steps; None derives them from `epochs`."""
    batch: int = Field(default=16, ge=1)
    """Samples of an optimizer step, over all processes."""
    rows_per_pass: int | None = Field(default=None, ge=1)
    """Samples of one forward and backward pass on one device; None means `batch`."""
    learning_rate: float = Field(default=2e-4, gt=0)
    """Learning rate, falling to 0 along a cosine after `warmup` steps. Full training needs about a tenth of it."""
    warmup: int = Field(default=0, ge=0)
    lora: Lora | None = Lora()
    """The adapter; None trains all weights."""
    max_tokens: int | None = Field(default=None, ge=2)
    """Samples with more tokens are left out; None means the model's context."""
    template_options: dict[str, Any] = Field(default_factory=dict)
    """Arguments of the chat template, such as {"enable_thinking": false}."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Data type of the weights. With float32 a GPU still computes in bfloat16 if it supports it."""
    save_every: int = Field(default=100, ge=1)
    """Steps between checkpoints; the last two are kept."""
    loggers: tuple[str, ...] = ()
    """TRL's log targets beside log.jsonl."""
    seed: int = Field(default=0, ge=0)
    trl: dict[str, Any] = Field(default_factory=dict)
    """Other fields of TRL's `SFTConfig`, passed on unchanged."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        _check_template_options(self)
        if self.batch % (self.rows_per_pass or self.batch):
            raise ValueError(
                f"`ImitationConfig(rows_per_pass={self.rows_per_pass})` does not divide `batch={self.batch}`"
            )
        return self


def _check_template_options(config: TrainingConfig | ImitationConfig) -> None:
    for name in config.template_options:
        if name in _FIXED:
            given = f"`{type(config).__name__}(template_options={{{name!r}: ...}})`"
            raise ValueError(f"{given}: `{name}` is set by the training itself; leave it out")


def read_config(path: str | Path, kind: type[C]) -> C:
    """Read the config of a JSON file. Raises ConfigError for a file that is missing, not JSON, or not a config."""
    try:
        values = json.loads(local_path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"`--config {path}` cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise ConfigError(f"`--config {path}` is not JSON: {error}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"`--config {path}` must hold one JSON object with at least `model`")
    return kind(**values)
