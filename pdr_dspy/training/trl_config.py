"""The settings of operator-consistent training: TRL's, and those of the objective and the rollout.

All other settings are those of `trl.GRPOConfig` (learning_rate, max_steps, per_device_train_batch_size,
gradient_accumulation_steps, num_generations, vLLM, FSDP, logging, saving), with TRL's meaning. Checked on TRL 1.16.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from math import isfinite
from typing import Any, Literal, TypeVar, get_args

from transformers.integrations.integration_utils import (
    get_available_reporting_integrations,
    get_reporting_integration_callbacks,
)
from trl.trainer.grpo_config import GRPOConfig

from pdr_dspy.errors import ConfigError
from pdr_dspy.training.types import TrainCalls

Config = TypeVar("Config")
TokenNorm = Literal["prompt", "batch"]
ZeroVariance = Literal["filter", "keep"]

_FIXED: dict[str, tuple[Any, str]] = {
    "loss_type": ("cispo", "the objective is J_CISPO + alpha J_SFT"),
    "importance_sampling_level": ("token", "CISPO weighs each token by its own ratio"),
    "mask_truncated_completions": (False, "drafts are cut on purpose and are still trained"),
    "temperature": (1.0, "log-probabilities, also those of the SFT term, assume the sampling temperature"),
    "top_p": (1.0, "the ratios compare whole distributions, not truncated ones"),
    "top_k": (0, "the ratios compare whole distributions, not truncated ones"),
    "min_p": (None, "the ratios compare whole distributions, not truncated ones"),
    "repetition_penalty": (1.0, "the ratios compare the model's own distributions"),
    "generation_kwargs": (None, "the rollout sets the sampling of each call"),
    "use_transformers_continuous_batching": (False, "the calls of a batch have different caps"),
    "multi_objective_aggregation": ("sum_then_normalize", "there is one reward"),
    "remove_unused_columns": (False, "the rollout reads the columns `mode` and `example`"),
    "eval_strategy": ("no", "a checkpoint is evaluated as a program, with `pdr eval` or `pdr_dspy.evaluate`"),
}
"""Settings that would silently change the objective: the value that each must keep, and the reason."""


def trl_settings(
    kind: type[Config], owner: str, own: Mapping[str, Any], usual: Mapping[str, Any], given: Mapping[str, Any]
) -> Config:
    """TRL's settings of a run: `own` are set by the fields of `owner`, `given` (its `trl`) replace what is `usual`.

    Raises ConfigError for one of `given` that `owner` sets itself or that `kind` has no field for, and for values that
    TRL refuses.
    """
    known = {one.name for one in fields(kind)}  # pyright: ignore[reportArgumentType]  # both of TRL's are dataclasses
    for name in given:
        if name in own:
            raise ConfigError(f"`{owner}(trl={{{name!r}: ...}})` is set by a field of {owner} itself")
        if name not in known:
            raise ConfigError(f"`{owner}(trl={{{name!r}: ...}})`: `{kind.__name__}` has no such field")
    try:
        return kind(**{**usual, **given, **own})
    except ConfigError:
        raise
    except (TypeError, ValueError) as error:
        raise ConfigError(f"TRL refuses the settings of `{owner}`: {error}") from error


def report_to(owner: str, loggers: Sequence[str]) -> list[str] | str:
    """TRL's `report_to` for the log targets of `owner`. Raises ConfigError for one that there is not, or whose package
    is not installed."""
    if tuple(loggers) in ((), ("none",), ("all",)):
        return list(loggers) or "none"
    try:
        get_reporting_integration_callbacks(list(loggers))
    except ValueError as error:
        raise ConfigError(f"`{owner}(loggers={list(loggers)!r})`: {error}") from error
    unseen = ("azure_ml", "flyte")  # transformers does not look for the packages of these
    missing = set(loggers) - {*get_available_reporting_integrations(), *unseen}
    if missing:
        name = min(missing)
        raise ConfigError(f"`{owner}(loggers={list(loggers)!r})`: the package of {name!r} is not installed")
    return list(loggers)


@dataclass
class OperatorConfig(GRPOConfig):
    """Settings of `OperatorTrainer`.

    `epsilon_high` has no default: it is the largest weight of a token's ratio (ScaleRL's epsilon_max, for example 5.0),
    not a distance from 1 as in PPO-style clipping and in other trainers. It equals MiniMax-M1's `1 + epsilon_high`.
    TRL's default of 0.2 would scale every token down to a fifth.

    The generation batch has `per_device_train_batch_size * steps_per_generation * processes` rows in groups of
    `num_generations`; no group is split between processes. For a resumed run to repeat an uninterrupted one,
    `save_steps` must be a multiple of the optimizer steps that share one generation batch
    (`num_iterations * steps_per_generation / gradient_accumulation_steps`).

    Raises:
        ConfigError: on construction, for settings that contradict each other or would change the objective.
        ValueError: a check of TRL failed.
    """

    loss_type: str = field(default="cispo", metadata={"help": "Only 'cispo'."})
    gradient_checkpointing: bool | None = field(  # type: ignore[assignment]
        default=None, metadata={"help": "The older name of activation_checkpointing; transformers warns of it."}
    )
    disable_dropout: bool = field(default=True, metadata={"help": "Sample from and train the same function."})
    alpha: float = field(default=0.1, metadata={"help": "Weight of the SFT term over correct rows; 0 leaves it out."})
    token_norm: str = field(
        default="prompt",
        metadata={
            "help": "'prompt': a group's tokens share its part, and a mode's groups share the mode's part, so that "
            "J = (1 - s) J_trace + s J_operator. 'batch': TRL's default, every token of the batch weighs the same."
        },
    )
    zero_variance: str = field(
        default="filter",
        metadata={
            "help": "'filter': groups with equal rewards leave the average, with their SFT term. 'keep': they stay; "
            "their advantages are 0, their correct rows remain in the SFT term."
        },
    )
    operator_share: float | str = field(
        default=0.5,
        metadata={
            "help": "Share s of operator prompts in every generation batch, as a fraction or as trace:operator "
            "('1:1', '1:3', '3:1'). 0 trains long traces alone."
        },
    )
    train_calls: str = field(
        default="all",
        metadata={
            "help": "Trained calls of an operator episode: 'all', 'refine', 'drafts' by their own answers, or only the "
            "'distill' or the 'select' calls."
        },
    )
    starts: float = field(default=0.0, metadata={"help": "Share of operator episodes from a non-empty workspace."})
    process_rewards: bool = field(
        default=False, metadata={"help": "Reward drafts and distill calls by their own results."}
    )
    generate_rows: int | None = field(
        default=None, metadata={"help": "Largest batch of transformers' generate, in prompts; None: all at once."}
    )

    def __post_init__(self) -> None:
        self._check_own()
        if self.activation_checkpointing is None:  # TRL checkpoints by default, under the older name
            self.activation_checkpointing = self.gradient_checkpointing is not False
        super().__post_init__()
        for name, (value, why) in _FIXED.items():
            given = getattr(self, name)
            if getattr(given, "value", given) != value:
                raise ConfigError(f"`OperatorConfig({name}={given!r})` must stay {value!r}: {why}")
        self._check_batch()

    @property
    def share(self) -> float:
        """Operator prompts over all prompts of a generation batch, from 0 to 1."""
        return share_of(self.operator_share)

    def _check_own(self) -> None:
        if self.epsilon_high is None or not isfinite(self.epsilon_high) or self.epsilon_high <= 0:
            raise ConfigError(
                f"`OperatorConfig(epsilon_high={self.epsilon_high!r})` must be set: it is the largest weight of a "
                "token's ratio itself, not 1 + epsilon; 5.0 is a good start. TRL's default of 0.2 would scale every "
                "token down"
            )
        for name, choices in (
            ("token_norm", ("prompt", "batch")),
            ("zero_variance", ("filter", "keep")),
            ("train_calls", get_args(TrainCalls)),
        ):
            if getattr(self, name) not in choices:
                raise ConfigError(f"`OperatorConfig({name}={getattr(self, name)!r})` must be one of {choices}")
        if not isfinite(self.alpha) or self.alpha < 0:
            raise ConfigError(f"`OperatorConfig(alpha={self.alpha})` must be a number of 0 or more")
        if not 0 <= self.starts <= 1:
            raise ConfigError(f"`OperatorConfig(starts={self.starts})` must be a share from 0 to 1")
        if self.generate_rows is not None and self.generate_rows < 1:
            raise ConfigError(f"`OperatorConfig(generate_rows={self.generate_rows})` must be 1 or more, or None")
        share_of(self.operator_share)

    def _check_batch(self) -> None:
        assert self.generation_batch_size is not None
        assert self.num_generations is not None
        assert self.steps_per_generation is not None
        local = self.generation_batch_size // self.world_size
        if local % self.num_generations:
            raise ConfigError(
                f"`OperatorConfig(num_generations={self.num_generations})` does not divide the {local} rows that one "
                "process generates (per_device_train_batch_size * steps_per_generation): a group must not be split "
                "between processes, because its calls come from shared episodes"
            )
        operators_of(self.generation_batch_size // self.num_generations, self.share)
        window, span = self.gradient_accumulation_steps, self.steps_per_generation * self.num_iterations
        if span % window and window % span:
            raise ConfigError(
                f"`OperatorConfig(gradient_accumulation_steps={window})` and steps_per_generation * num_iterations = "
                f"{span} must be multiples of one another, so that a generation batch fills whole optimizer steps"
            )


def share_of(name: str | float) -> float:
    """The share of operator prompts, from a fraction such as 0.25 or a text such as "3:1" (trace:operator).

    Raises ConfigError for any other text.
    """
    try:
        if ":" in str(name):
            trace, operator = (float(part) for part in str(name).split(":"))
            share = operator / (trace + operator) if trace >= 0 and operator >= 0 else -1.0
        else:
            share = float(name)
    except (ValueError, ZeroDivisionError):
        share = -1.0
    if not 0 <= share <= 1:
        raise ConfigError(
            f"`OperatorConfig(operator_share={name!r})` must be a share from 0 to 1 or trace:operator, such as '1:3'"
        )
    return share


def operators_of(groups: int, share: float) -> int:
    """The number of operator prompts among `groups` prompts. Raises ConfigError if it is not a whole number."""
    exact = groups * share
    if abs(exact - round(exact)) > 1e-9 * max(groups, 1):
        raise ConfigError(
            f"`operator_share={share:g}` of the {groups} group{'s' if groups > 1 else ''} of a generation batch is "
            f"{exact:g}, not a whole number: change `operator_share`, or the number of groups, which is `groups` of "
            "TrainingConfig (of OperatorConfig: per_device_train_batch_size, steps_per_generation or num_generations)"
        )
    return round(exact)
