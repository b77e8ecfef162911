"""The trainer: TRL's GRPO with CISPO, fed by a rollout of episodes, with the objective of `objective.py`.

Overridden methods of TRL, all in this file, checked on TRL 1.16.0 (a test fails if one of the names is missing):

    _get_train_sampler                    batches with the configured share of operator prompts
    _generate_and_score_completions       groups for the rollout; afterwards the weights of the objective
    _get_per_token_logps_and_entropies    keeps the differentiable log-probabilities of the one forward pass
    _compute_loss                         leaves out rows without a weight, adds the SFT term
    _send_telemetry                       sends nothing

Private state of TRL that is used: `_metrics`, `_step`, `_entropy_bonus_enabled`; in generation.py `_tokenizer` and
`_dist`.

One configuration runs on a CPU, one GPU, or many through accelerate (DDP, FSDP, DeepSpeed), with transformers' generate
or vLLM (colocated or a server). Tested: CPU, one process and two (gloo, DDP), with and without LoRA. Not tested: GPUs,
FSDP, DeepSpeed, vLLM.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import torch
from datasets import Dataset
from torch import Tensor
from transformers import TrainerCallback
from trl.trainer.grpo_trainer import GRPOTrainer

from pdr_dspy.errors import ConfigError
from pdr_dspy.training.dataset import COLUMNS, example_of
from pdr_dspy.training.generation import TrainerPolicy
from pdr_dspy.training.objective import RowFlags, nll, row_flags, row_weights
from pdr_dspy.training.sampler import ModeSampler
from pdr_dspy.training.trl_config import OperatorConfig, TokenNorm, ZeroVariance
from pdr_dspy.training.types import MODES, Group, Mode, Rollout, Row

if TYPE_CHECKING:
    from peft import PeftConfig
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

TRL_CHECKED = "1.16"
"""The release whose private names the overrides rely on."""


class OperatorTrainer(GRPOTrainer):
    """Trains a causal language model on long traces and on PDR rounds.

    `train()`, `save_model()` and `train(resume_from_checkpoint=...)` are those of transformers. A run that is stopped
    and resumed from a checkpoint takes the same steps as an uninterrupted run, if it saves at the steps that
    `OperatorConfig` documents.

    Metrics of each mode, as `trace/...` and `operator/...`: `reward` (mean over scored rows), `correct` (share of rows
    in I+), `length` (mean tokens of a row), `tokens` (trained tokens of a generation batch), `truncated` (share of rows
    that reached their cap), `zero_variance` (share of groups with equal rewards), `unscored` (rows without a reward),
    and, if ratios differ from 1, `clipped` (share of tokens with a gradient whose ratio was above `epsilon_high`).
    Metrics of the whole batch: `sampled/calls`, `sampled/tokens`, `sampled/prompt_tokens`, with untrained calls;
    `sampled/gap`, the mean absolute difference of a token's log-probability between the sampler and the trainer before
    the update (nats; about 0 if both compute the same function, so that a wrong template, dropout or shifted positions
    show here); and `sft`, the negative log-likelihood of J_SFT (nats a token). TRL's own metrics stay. Rows without a
    weight, such as those of a group with equal rewards, are not computed, so that the entropy, `clipped` and
    `sampled/gap` are those of the other rows.

    The trainer pads prompts on the left and passes no positions, as TRL does: models with learned absolute positions
    (GPT-2) see other positions than during sampling; rotary models are not affected.

    Args:
        model: a path, or a loaded causal language model, or a PEFT model.
        rollout: returns the rows of each group; see `types.Rollout`.
        args: the settings.
        train_dataset: rows of `dataset.mode_rows`, as a list or a `datasets.Dataset`.
        processing_class: the tokenizer; None loads the one saved beside the model.
        callbacks: callbacks of transformers.
        optimizers: an optimizer and a scheduler; None for those of the settings.
        peft_config: for example `peft.LoraConfig(...)`, to train and save only the adapter.

    Raises:
        ConfigError: the data set lacks a column or has too few questions of a mode for one batch; or, during training,
            the rollout returned a wrong number of rows or an invalid row.
    """

    args: OperatorConfig

    def __init__(
        self,
        model: str | PreTrainedModel,
        rollout: Rollout,
        args: OperatorConfig,
        train_dataset: Dataset | Sequence[Mapping[str, str]],
        *,
        processing_class: PreTrainedTokenizerBase | None = None,
        callbacks: Sequence[TrainerCallback] = (),
        optimizers: tuple[Any, Any] = (None, None),
        peft_config: PeftConfig | None = None,
    ) -> None:
        if not isinstance(train_dataset, Dataset):
            train_dataset = Dataset.from_list([dict(row) for row in train_dataset])
        missing = set(COLUMNS) - set(train_dataset.column_names)
        if missing:
            raise ConfigError(
                f"`OperatorTrainer(train_dataset=...)` lacks the column `{sorted(missing)[0]}`; make it with "
                "`pdr_dspy.training.dataset.mode_rows(examples)`"
            )
        self._rollout = rollout
        self._logps: Tensor | None = None
        self._inputs: list[dict[str, Any]] = []
        self._returned: list[Row] = []
        super().__init__(
            model=model,
            reward_funcs=[episode_reward],
            args=args,
            train_dataset=train_dataset,
            processing_class=processing_class,
            callbacks=[_Resume(self), *callbacks],
            optimizers=optimizers,
            peft_config=peft_config,
        )
        self.rollout_func = self._roll  # passing it to the constructor makes TRL warn that it is experimental
        self.policy = TrainerPolicy(self, args.generate_rows)

    def _send_telemetry(self) -> None:
        """Send nothing, unlike TRL."""

    def _get_train_sampler(self, dataset: Any = None) -> ModeSampler:  # type: ignore[override]
        args, rows = self.args, _given(self.args.num_generations)
        data = cast(Dataset, self.train_dataset if dataset is None else dataset)
        return ModeSampler(
            list(data["mode"]),
            groups=_given(args.generation_batch_size) // rows,
            rows=rows,
            share=args.share,
            repeats=self.num_iterations * _given(args.steps_per_generation),
            shuffle=bool(self.shuffle_dataset),
            seed=args.seed,
        )

    def _generate_and_score_completions(self, inputs: Any) -> dict[str, Any]:
        self._inputs = list(inputs)
        output: dict[str, Any] = super()._generate_and_score_completions(inputs)
        return output | self._weighed(output, self._returned)

    def _roll(self, prompts: list[str], trainer: Any) -> dict[str, list[Any]]:
        """TRL's rollout function. It receives prompts only, so the examples are read from the rows of the batch."""
        groups = self._groups()
        returned = self._rollout(groups, self.policy)
        self.policy.accompany()
        _check_rows(groups, returned)
        self._returned = [row for rows in returned for row in rows]
        return {
            "prompt_ids": [row.prompt_ids for row in self._returned],
            "completion_ids": [row.completion_ids for row in self._returned],
            "logprobs": [row.logprobs for row in self._returned],
            "reward": [row.reward for row in self._returned],  # TRL passes it to the reward function below
        }

    def _groups(self) -> list[Group]:
        rows, inputs = _given(self.args.num_generations), self._inputs
        first = self.accelerator.process_index * (len(inputs) // rows)
        place = f"{self.args.seed}|{self.state.global_step}|{self._step % self.args.gradient_accumulation_steps}"
        groups: list[Group] = []
        for number, start in enumerate(range(0, len(inputs), rows)):
            row = inputs[start]
            assert all(other["example"] == row["example"] for other in inputs[start : start + rows])
            digest = hashlib.sha256(f"{place}|{first + number}".encode()).digest()
            seed = int.from_bytes(digest[:4]) >> 1
            groups.append(Group(cast(Mode, row["mode"]), example_of(row), rows, seed))
        return groups

    def _weighed(self, output: Mapping[str, Any], rows: Sequence[Row]) -> dict[str, Tensor]:
        """The objective's weights for a scored batch of TRL: as its advantages, and as inputs of `_compute_loss`."""
        advantages: Tensor = output["advantages"]
        device = advantages.device
        operator = torch.tensor([row["mode"] == "operator" for row in self._inputs], device=device)
        values = [math.nan if row.reward is None else row.reward for row in rows]
        rewards = torch.tensor(values, dtype=torch.float64, device=device)
        flags = row_flags(rewards, _given(self.args.num_generations), cast(ZeroVariance, self.args.zero_variance))
        weights = row_weights(
            flags,
            lengths := output["completion_mask"].sum(1),
            torch.tensor([row.correct for row in rows], device=device),
            operator,
            share=self.args.share,
            norm=cast(TokenNorm, self.args.token_norm),
            total=self._total,
        )
        self._note(rows, rewards, flags, lengths, operator)
        tokens = output["num_items_in_batch"].clamp(min=1)  # TRL's divisor
        return {
            "advantages": advantages * (weights.policy * tokens).to(advantages.dtype),
            "sft_weights": weights.sft,
            "operator_rows": operator,
        }

    def _get_per_token_logps_and_entropies(self, model: Any, *args: Any, **kwargs: Any) -> Any:  # type: ignore[override]
        result = super()._get_per_token_logps_and_entropies(model, *args, **kwargs)
        self._logps = result[0] if torch.is_grad_enabled() else None
        return result

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> Tensor:
        if self.beta == 0 and not self._entropy_bonus_enabled:
            inputs = _taught(inputs)
        loss = super()._compute_loss(model, inputs)
        logps, self._logps = self._logps, None
        assert logps is not None
        self._note_ratios(logps.detach(), inputs)
        if self.args.alpha == 0:
            return loss
        # TRL's scaling of its loss: mean over processes, and over the accumulation windows of a generation batch.
        steps = _given(self.args.steps_per_generation)
        term = nll(logps, inputs["completion_mask"], inputs["sft_weights"])
        self._metrics["train"]["sft"].append(self._total(term.detach()).item() * steps)
        scale = self.accelerator.num_processes * steps / self.current_gradient_accumulation_steps
        return loss + self.args.alpha * scale * term

    def _total(self, local: Tensor) -> Tensor:
        return cast(Tensor, self.accelerator.reduce(local, reduction="sum"))

    def _note(self, rows: Sequence[Row], rewards: Tensor, flags: RowFlags, lengths: Tensor, operator: Tensor) -> None:
        """Metrics of a generation batch over all processes."""
        device = rewards.device
        correct = torch.tensor([row.correct for row in rows], device=device)
        truncated = torch.tensor([row.truncated for row in rows], device=device)
        scored_groups = flags.scored.view(len(flags.kept), -1).any(1)
        of_group = operator.view(len(flags.kept), -1)[:, 0]
        sums: list[Tensor] = []
        for mode in MODES:
            mine, groups = operator == (mode == "operator"), of_group == (mode == "operator")
            sums += [
                mine.sum(),
                (mine & flags.scored).sum(),
                rewards[mine & flags.scored].sum(),
                (mine & correct).sum(),
                lengths[mine].sum(),
                (mine & truncated).sum(),
                (groups & scored_groups).sum(),
                (groups & scored_groups & ~flags.varied).sum(),
            ]
        policy = self.policy
        sampled = torch.tensor([policy.calls, policy.tokens, policy.prompt_tokens], device=device)
        policy.calls = policy.tokens = policy.prompt_tokens = 0
        totals = self._total(torch.cat([torch.stack([each.double() for each in sums]), sampled.double()])).tolist()
        for number, mode in enumerate(MODES):
            count, scored, reward, right, tokens, cut, groups, even = totals[8 * number : 8 * number + 8]
            self._log_of(f"{mode}/reward", reward, scored)
            self._log_of(f"{mode}/correct", right, count)
            self._log_of(f"{mode}/length", tokens, count)
            self._log_of(f"{mode}/truncated", cut, count)
            self._log_of(f"{mode}/zero_variance", even, groups)
            if count:
                self._metrics["train"][f"{mode}/tokens"].append(tokens)
                self._metrics["train"][f"{mode}/unscored"].append(count - scored)
        for name, value in zip(("calls", "tokens", "prompt_tokens"), totals[16:], strict=True):
            self._metrics["train"][f"sampled/{name}"].append(value)

    def _note_ratios(self, logps: Tensor, inputs: Mapping[str, Any]) -> None:
        """Record the gap between sampling and training, and the share of tokens with a gradient whose ratio was above
        the bound, for advantages of either sign."""
        old = inputs.get("old_per_token_logps")
        apart = (inputs["sampling_per_token_logps"] - (logps if old is None else old)).abs()
        known = inputs["completion_mask"].bool() & ~apart.isnan()  # vLLM may omit a token's log-probability
        self._log_of("sampled/gap", *self._total(torch.stack([apart[known].sum(), known.sum()])).tolist())
        if old is None:  # sampled with the current weights: every ratio is 1
            return
        moved = inputs["completion_mask"].bool() & (inputs["advantages"] != 0)[:, None]
        above = moved & ((logps - old).exp() > self.epsilon_high)
        operator = inputs["operator_rows"]
        sums = [tokens[rows].sum() for rows in (~operator, operator) for tokens in (above, moved)]
        totals = self._total(torch.stack(sums)).tolist()
        for number, mode in enumerate(MODES):
            self._log_of(f"{mode}/clipped", *totals[2 * number : 2 * number + 2])

    def _log_of(self, name: str, part: float, whole: float) -> None:
        if whole:
            self._metrics["train"][name].append(part / whole)


def _taught(inputs: dict[str, Any]) -> dict[str, Any]:
    """The rows of a pass that have a weight in the objective, without columns of padding alone.

    Rows of groups with equal rewards have none: computing them costs as much as computing the others, and changes
    nothing. One row stays where all have none, since all processes must compute something.
    """
    taught = (inputs["advantages"] != 0) | (inputs["sft_weights"] != 0)
    if not taught.any():
        taught[0] = True
    rows, columns = inputs["completion_ids"].shape
    read = inputs["prompt_mask"][taught].any(0)
    written = inputs["completion_mask"][taught].any(0)
    lean: dict[str, Any] = {}
    for name, value in inputs.items():
        if isinstance(value, Tensor) and value.dim() and len(value) == rows:
            value = value[taught]
            if name.startswith("prompt_"):
                value = value[:, read]
            elif value.dim() > 1 and value.shape[1] == columns:
                value = value[:, written]
        lean[name] = value
    return lean


def episode_reward(reward: list[float | None], **_: Any) -> list[float | None]:
    """TRL's reward function: the rewards that the rollout gave its rows."""
    return reward


def _given(value: int | None) -> int:
    """A setting that TRL has filled in, narrowed for the type checker."""
    assert value is not None
    return value


def _check_rows(groups: Sequence[Group], returned: Sequence[Sequence[Row]]) -> None:
    """Raise ConfigError for a wrong number of rows or an invalid row."""
    if len(returned) != len(groups):
        raise ConfigError(f"`rollout(groups, policy)` returned {len(returned)} lists of rows for {len(groups)} groups")
    for group, rows in zip(groups, returned, strict=True):
        if len(rows) != group.rows:
            raise ConfigError(
                f"`rollout(groups, policy)` returned {len(rows)} rows for a group of {group.rows} ({group.mode}); "
                "every group must be filled exactly"
            )
        for row in rows:
            if not row.prompt_ids or not row.completion_ids or len(row.logprobs) != len(row.completion_ids):
                raise ConfigError(
                    f"`rollout(groups, policy)` returned a {row.phase} row of {len(row.prompt_ids)} prompt tokens, "
                    f"{len(row.completion_ids)} completion tokens and {len(row.logprobs)} log-probabilities; there "
                    "must be at least one token of each, and a log-probability for each completion token"
                )


class _Resume(TrainerCallback):
    """Restores the count of micro-steps at a checkpoint, so that generations begin at the same steps as in an
    uninterrupted run."""

    def __init__(self, trainer: OperatorTrainer) -> None:
        self._trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._trainer._step = state.global_step * args.gradient_accumulation_steps
        self._trainer._buffered_inputs = None
