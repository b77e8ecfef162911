"""What the tests of training share: a tiny model over single letters, scripted rollouts, and gradients as they are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import dspy
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Split
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, TrainerCallback

from pdr_dspy.training.dataset import mode_rows
from pdr_dspy.training.trl_config import OperatorConfig
from pdr_dspy.training.types import Group, Policy, Row

LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"
END, PAD = 1, 0


def letters() -> PreTrainedTokenizerFast:
    """One token for each letter; 0 pads and 1 ends a turn."""
    words = Tokenizer(WordLevel({text: i for i, text in enumerate(["<pad>", "<end>", "<odd>", *LETTERS])}, "<odd>"))
    words.pre_tokenizer = Split("", "isolated")
    return PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", eos_token="<end>", unk_token="<odd>", padding_side="left"
    )


def tiny(seed: int = 0, dtype: torch.dtype = torch.float32) -> LlamaForCausalLM:
    """About 6,000 parameters, the same for the same seed."""
    torch.manual_seed(seed)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(LETTERS) + 3,
            hidden_size=16,
            intermediate_size=24,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=2,
            max_position_embeddings=64,
            initializer_range=0.4,
            bos_token_id=None,
            eos_token_id=END,
            pad_token_id=PAD,
        )
    )
    return cast(Any, model).to(dtype)


def settings(folder: Path, **given: Any) -> OperatorConfig:
    """Two groups of four rows, one of each mode, plain SGD on one CPU thread, nothing written."""
    usual: dict[str, Any] = {
        "output_dir": str(folder),
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "report_to": "none",
        "save_strategy": "no",
        "logging_steps": 1,
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
        "optim": "sgd",
        "learning_rate": 0.1,
        "lr_scheduler_type": "constant",
        "max_grad_norm": 0.0,
        "max_steps": 1,
        "per_device_train_batch_size": 8,
        "num_generations": 4,
        "epsilon_high": 5.0,
    }
    return OperatorConfig(**{**usual, **given})


def questions(count: int = 8) -> list[dict[str, str]]:
    """Each once for every mode."""
    return mode_rows(
        [dspy.Example(question=f"q{i}", answer="a", number=i).with_inputs("question") for i in range(count)]
    )


class Scripted:
    """A rollout that returns the rows that `make` says, and keeps what it was asked for."""

    def __init__(self, make: Callable[[Group, int], Row]) -> None:
        self._make = make
        self.groups: list[Group] = []

    def __call__(self, groups: Sequence[Group], policy: Policy) -> list[list[Row]]:
        self.groups += groups
        return [[self._make(group, place) for place in range(group.rows)] for group in groups]


def uneven(group: Group, place: int) -> Row:
    """Rows of all lengths and rewards, by question, mode and place alone. Operator rows are longer; one in each
    operator group of an odd question has no reward; every fourth question is always missed."""
    number = group.example.number
    rng = torch.Generator().manual_seed(1000 * number + 10 * place + (group.mode == "operator"))

    def some(low: int, high: int) -> list[int]:
        size = int(torch.randint(low, high, (1,), generator=rng))
        return torch.randint(3, 3 + len(LETTERS), (size,), generator=rng).tolist()

    completion = some(2, 6) if group.mode == "trace" else some(4, 12)
    right = (number + place) % 3 == 0 and number % 4 != 3
    reward = None if group.mode == "operator" and place == 3 and number % 2 else (1.0 if right else -1.0)
    cut = bool(place % 2)
    return Row(
        some(2, 7),
        completion if cut else [*completion, END],
        [0.0] * (len(completion) + (not cut)),
        reward,
        right or (group.mode == "operator" and place == 1),
        "draft" if place % 2 else "refine",
        cut,
        place // 2,
    )


class Gradients(TrainerCallback):
    """The gradients and the parameters before each optimizer step, by name."""

    def __init__(self) -> None:
        self.steps: list[dict[str, torch.Tensor]] = []
        self.parameters: list[dict[str, torch.Tensor]] = []

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        named = {name.removeprefix("module."): each for name, each in model.named_parameters()}
        self.steps.append({name: each.grad.detach().clone() for name, each in named.items() if each.grad is not None})
        self.parameters.append({name: each.detach().clone() for name, each in named.items()})
