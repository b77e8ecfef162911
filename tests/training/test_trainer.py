"""The trainer end to end on a tiny model: gradients against the formulas, modes, sampling, adapters, checkpoints."""

from __future__ import annotations

import inspect
import json
import math
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import trl
from peft import LoraConfig, PeftModel
from safetensors.torch import load_file
from trl.trainer.grpo_trainer import GRPOTrainer

from pdr_dspy.errors import ConfigError
from pdr_dspy.training import trainer as module
from pdr_dspy.training.trainer import OperatorTrainer
from pdr_dspy.training.types import Group, Policy, Row
from tests.support.training_policy import (
    END,
    LETTERS,
    PAD,
    Gradients,
    Scripted,
    letters,
    questions,
    settings,
    tiny,
    uneven,
)
from tests.support.training_reference import exact, furthest, reference

pytestmark = pytest.mark.slow

torch.set_num_threads(1)


def trainer_of(
    folder: Path, rollout: Any, *callbacks: Any, model: Any = None, data: Any = None, peft: Any = None, **given: Any
) -> OperatorTrainer:
    return OperatorTrainer(
        tiny() if model is None else model,
        rollout,
        settings(folder, **given),
        questions() if data is None else data,
        processing_class=letters(),
        callbacks=callbacks,
        peft_config=peft,
    )


def rows_of(groups: Sequence[Group], make: Callable[[Group, int], Row] = uneven) -> list[tuple[str, list[Row]]]:
    return [(group.mode, [make(group, place) for place in range(group.rows)]) for group in groups]


def logged(trainer: OperatorTrainer, name: str) -> list[float]:
    return [entry[name] for entry in trainer.state.log_history if name in entry]


@pytest.mark.parametrize("norm", ["prompt", "batch"])
@pytest.mark.parametrize("alpha", [0.0, 0.1])
@pytest.mark.parametrize("accumulation", [1, 2])
def test_a_step_has_the_formulas_loss_and_gradients(tmp_path: Path, norm: str, alpha: float, accumulation: int) -> None:
    rollout, seen = Scripted(uneven), Gradients()
    trainer = trainer_of(
        tmp_path,
        rollout,
        seen,
        per_device_train_batch_size=16 // accumulation,
        gradient_accumulation_steps=accumulation,
        token_norm=norm,
        alpha=alpha,
    )
    trainer.train()
    wanted = reference(rows_of(rollout.groups), norm=norm, alpha=alpha)
    assert [group.mode for group in rollout.groups] == ["trace", "operator"] * 2
    assert furthest(seen.steps[0], wanted.gradients) < 1e-5
    assert logged(trainer, "loss") == pytest.approx([wanted.loss], rel=1e-5)


def test_through_log_probabilities_in_float64_only_trls_float32_advantages_differ(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def plain(
        self: Any, model: Any, input_ids: Any, attention_mask: Any, logits_to_keep: int, *_: Any, **__: Any
    ) -> Any:
        logits = model(input_ids=input_ids, attention_mask=attention_mask).logits[:, -logits_to_keep - 1 : -1]
        table = torch.log_softmax(logits, dim=-1)
        chosen = table.gather(2, input_ids[:, -logits_to_keep:, None])[..., 0]
        return chosen, -(table.exp() * table).sum(-1), None

    def level(group: Group, place: int) -> Row:
        """Prompts of one length: rotary positions, which shift with padding, are float32 in transformers."""
        row = uneven(group, place)
        return row._replace(prompt_ids=row.prompt_ids[:2])

    monkeypatch.setattr(GRPOTrainer, "_get_per_token_logps_and_entropies", plain)
    rollout, seen = Scripted(level), Gradients()
    trainer_of(tmp_path, rollout, seen, model=exact(), per_device_train_batch_size=16).train()
    assert seen.steps[0]["lm_head.weight"].dtype == torch.float64
    wanted = reference(rows_of(rollout.groups, level), norm="prompt", alpha=0.1)
    assert furthest(seen.steps[0], wanted.gradients) < 5e-7


@pytest.mark.parametrize("norm", ["prompt", "batch"])
def test_a_second_look_at_a_batch_clips_the_ratios_that_have_grown(tmp_path: Path, norm: str) -> None:
    rollout, seen = Scripted(uneven), Gradients()
    trainer = trainer_of(
        tmp_path,
        rollout,
        seen,
        per_device_train_batch_size=8,
        gradient_accumulation_steps=2,
        num_iterations=2,
        max_steps=2,
        epsilon_high=1.3,
        learning_rate=0.3,
        token_norm=norm,
    )
    trainer.train()
    assert len(rollout.groups) == 4
    first, second = seen.parameters
    wanted = reference(rows_of(rollout.groups), norm=norm, alpha=0.1, bound=1.3, now=second, then=first)
    assert furthest(seen.steps[1], wanted.gradients) < 1e-5
    for mode, share in wanted.clipped.items():
        assert 0.02 < share < 0.98
        # Each micro-step has its own share of the clipped tokens; what is logged is the mean over two of them.
        assert logged(trainer, f"{mode}/clipped")[1] == pytest.approx(share, abs=0.15)
    assert logged(trainer, "cispo_clip_ratio")[1] > 0


def test_steps_on_parts_of_a_generation_batch_average_to_its_gradient(tmp_path: Path) -> None:
    rollout, seen = Scripted(uneven), Gradients()
    trainer_of(
        tmp_path,
        rollout,
        seen,
        per_device_train_batch_size=4,
        steps_per_generation=4,
        gradient_accumulation_steps=2,
        max_steps=2,
        learning_rate=0.0,
    ).train()
    assert len(rollout.groups) == 4
    mean = {name: (each + seen.steps[1][name]) / 2 for name, each in seen.steps[0].items()}
    wanted = reference(rows_of(rollout.groups), norm="prompt", alpha=0.1)
    assert furthest(seen.steps[0], wanted.gradients) > 0.01
    assert furthest(mean, wanted.gradients) < 1e-5


@pytest.mark.timeout(900)  # two interpreters that import torch and meet at every step
def test_two_processes_have_the_gradients_of_one_and_wait_for_each_other(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    common = {
        **os.environ,
        "PYTHONPATH": str(Path.cwd()),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": "2",
        "OMP_NUM_THREADS": "1",
    }
    worker = str(Path(__file__).parent / "gradient_worker.py")
    processes = [
        subprocess.Popen(
            [sys.executable, worker, str(tmp_path)],
            env={**common, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        said = [process.communicate(timeout=840)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], "\n".join(said)
    done = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    for case in ("prompt-1", "prompt-2", "batch-1", "batch-2"):
        groups = [group for each in done for group in each[case]["groups"]]
        assert [mode for mode, _ in groups] == ["trace", "operator"] * 2
        rows = [(mode, [_row(mode, number, place) for place in range(4)]) for mode, number in groups]
        wanted = reference(rows, norm=case.split("-")[0], alpha=0.1)
        for rank in range(2):
            assert furthest(load_file(tmp_path / f"{case}-{rank}.safetensors"), wanted.gradients) < 1e-5
        assert done[0][case]["loss"] == pytest.approx(wanted.loss, rel=1e-5)
        assert done[0][case]["operator/tokens"] == sum(
            len(row.completion_ids) for mode, each in rows if mode == "operator" for row in each
        )
    # Three calls on one process and one on the other: all were made together, and each has its own answers.
    assert [each["calls"] for each in done] == [3, 1]
    assert all(each["together"] for each in done)


def _row(mode: Any, number: int, place: int) -> Row:
    import dspy

    return uneven(Group(mode, dspy.Example(number=number), 4, 0), place)


def test_groups_say_what_to_roll_out_and_metrics_what_came_back(tmp_path: Path) -> None:
    rollout = Scripted(uneven)
    trainer = trainer_of(tmp_path, rollout, per_device_train_batch_size=32, max_steps=2, operator_share="1:3")
    trainer.train()
    first, second = rollout.groups[:8], rollout.groups[8:]
    assert [group.mode for group in first].count("operator") == 6
    assert len({group.seed for group in rollout.groups}) == 16
    assert {group.rows for group in rollout.groups} == {4}
    assert all(group.example.inputs().keys() == ["question"] for group in first)
    for step, groups in enumerate((first, second)):
        for mode in ("trace", "operator"):
            mine = [rows for kind, rows in rows_of(groups) if kind == mode]
            rows = [row for each in mine for row in each]
            rewards = [row.reward for row in rows if row.reward is not None]
            even = [len({row.reward for row in each if row.reward is not None}) == 1 for each in mine]
            wanted = {
                "reward": sum(rewards) / len(rewards),
                "correct": sum(row.correct for row in rows) / len(rows),
                "length": sum(len(row.completion_ids) for row in rows) / len(rows),
                "truncated": sum(row.truncated for row in rows) / len(rows),
                "zero_variance": sum(even) / len(even),
                "tokens": sum(len(row.completion_ids) for row in rows),
                "unscored": len(rows) - len(rewards),
            }
            for name, value in wanted.items():
                assert logged(trainer, f"{mode}/{name}")[step] == pytest.approx(value, rel=1e-6), (mode, name)
    assert logged(trainer, "operator/unscored")[0] > 0
    assert max(logged(trainer, "operator/zero_variance")) > 0


def test_rows_and_groups_that_teach_nothing_have_no_gradient(tmp_path: Path) -> None:
    def even(group: Group, place: int) -> Row:
        return uneven(group, place)._replace(reward=1.0 if group.mode == "trace" else None, correct=True)

    seen = Gradients()
    trainer_of(tmp_path, Scripted(even), seen).train()
    assert all(not each.any() for each in seen.steps[0].values())
    kept = Gradients()
    trainer_of(tmp_path, Scripted(even), kept, zero_variance="keep").train()
    assert kept.steps[0]["lm_head.weight"].any()


class Shapes:
    """The shape of what the model reads in each forward pass, while installed."""

    def __init__(self, model: Any) -> None:
        self.seen: list[tuple[int, ...]] = []
        self._handle = model.get_input_embeddings().register_forward_hook(
            lambda module, inputs, output: self.seen.append(tuple(inputs[0].shape))
        )

    def __enter__(self) -> list[tuple[int, ...]]:
        return self.seen

    def __exit__(self, *_: Any) -> None:
        self._handle.remove()


def test_rows_without_a_weight_and_padding_are_not_computed(tmp_path: Path) -> None:
    def mixed(group: Group, place: int) -> Row:
        """Operator rows are long and equally rewarded; trace rows have 2 prompt tokens and at most 3 others."""
        row = uneven(group, place)
        if group.mode == "operator":
            return row._replace(prompt_ids=[5] * 9, reward=1.0, correct=True)
        ids = [4, 6, END][: 2 + place % 2]
        return row._replace(
            prompt_ids=[7, 8], completion_ids=ids, logprobs=[0.0] * len(ids), reward=(-1.0) ** place, correct=False
        )

    model = tiny()
    seen = Gradients()
    with Shapes(model) as shapes:
        trainer_of(tmp_path, Scripted(mixed), seen, model=model, operator_share=0.5).train()
    assert shapes == [(4, 5)]
    assert seen.steps[0]["lm_head.weight"].any()
    with Shapes(model := tiny()) as shapes:
        whole = Gradients()
        trainer_of(tmp_path, Scripted(mixed), whole, model=model, operator_share=0.5, entropy_coef=1e-12).train()
    assert shapes[0][0] == 8  # the entropy is that of all rows
    assert shapes[0][1] > 9
    for name, gradient in seen.steps[0].items():
        torch.testing.assert_close(gradient, whole.steps[0][name], atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize(
    "given", [{}, {"gradient_checkpointing": True}, {"peft": LoraConfig(target_modules=["q_proj"])}]
)
def test_a_prompt_that_a_batch_repeats_is_read_once(tmp_path: Path, given: dict[str, Any]) -> None:
    trainer = trainer_of(tmp_path, Scripted(uneven), **given)
    with Shapes(trainer.model) as shapes:
        trainer.policy.generate([[3, 4, 5, 6]] * 6 + [[7, 8, 9]] * 2, [1] * 8, 1.0)
        trainer.policy.generate([[3, 4, 5, 6], [7, 8, 9], [7, 8]], [1] * 3, 1.0)
    assert shapes == [(2, 3), (8, 1), (3, 4)]


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda rows: rows[1:], "returned 1 lists of rows for 2 groups"),
        (lambda rows: [rows[0][1:], rows[1]], r"returned 3 rows for a group of 4 \(trace\)"),
        (lambda rows: [[row._replace(completion_ids=[]) for row in rows[0]], rows[1]], "0 completion tokens"),
        (lambda rows: [[row._replace(logprobs=[0.0]) for row in rows[0]], rows[1]], "1 log-probabilities"),
    ],
)
def test_a_rollout_that_returns_something_else_is_refused(tmp_path: Path, spoil: Any, sentence: str) -> None:
    scripted = Scripted(uneven)
    trainer = trainer_of(tmp_path, lambda groups, policy: spoil(scripted(groups, policy)))
    with pytest.raises(ConfigError, match=sentence):
        trainer.train()


def test_a_data_set_without_modes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"lacks the column `example`.*mode_rows"):
        trainer_of(tmp_path, Scripted(uneven), data=[{"prompt": "q", "mode": "trace"}] * 8)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"epsilon_high": None}, "epsilon_high=None.*must be set.*not 1 \\+ epsilon"),
        ({"loss_type": "dapo"}, "loss_type='dapo'.*must stay 'cispo'"),
        ({"mask_truncated_completions": True}, "mask_truncated_completions=True.*cut on purpose"),
        ({"temperature": 0.7}, "temperature=0.7.*must stay 1.0"),
        ({"top_p": 0.9}, "top_p=0.9"),
        ({"token_norm": "row"}, "token_norm='row'.*one of"),
        ({"train_calls": "some"}, "train_calls='some'"),
        ({"alpha": -0.1}, "alpha=-0.1"),
        ({"starts": 2.0}, "starts=2.0"),
        ({"epsilon_high": float("inf")}, "epsilon_high=inf"),
        ({"alpha": float("nan")}, "alpha=nan"),
        ({"operator_share": "1:2"}, "of the 2 groups .*`groups` of TrainingConfig .*or num_generations"),
        ({"generate_rows": 0}, "generate_rows=0"),
        ({"eval_strategy": "steps", "eval_steps": 1}, "pdr eval"),
        ({"per_device_train_batch_size": 4, "gradient_accumulation_steps": 3, "steps_per_generation": 4}, "multiples"),
    ],
)
def test_settings_that_would_train_something_else_are_refused(
    tmp_path: Path, given: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ConfigError, match=sentence):
        settings(tmp_path, **given)


def test_both_names_of_checkpointing_are_understood_and_it_is_on_by_default(tmp_path: Path) -> None:
    assert settings(tmp_path, gradient_checkpointing=None).activation_checkpointing is True
    assert settings(tmp_path, gradient_checkpointing=False).activation_checkpointing is False
    assert settings(tmp_path, gradient_checkpointing=False, activation_checkpointing=True).gradient_checkpointing


class Sampling:
    """A rollout that samples every row, rewards those that begin with an even token, and keeps what was drawn."""

    def __init__(self) -> None:
        self.rows: list[list[Row]] = []

    def __call__(self, groups: Sequence[Group], policy: Policy) -> list[list[Row]]:
        prompts = [[3 + group.example.number, 4, 5][: 1 + group.example.number % 3] for group in groups]
        asked = [prompt for prompt, group in zip(prompts, groups, strict=True) for _ in range(group.rows)]
        drawn = policy.generate(asked, [3 + place % 4 for place in range(len(asked))], 1.0)
        rows = [
            Row(prompt, ids, logprobs, (-1.0) ** ids[0], ids[0] % 2 == 0, "draft", finish == "length", place)
            for place, (prompt, (ids, logprobs, finish)) in enumerate(zip(asked, drawn, strict=True))
        ]
        size = groups[0].rows
        self.rows += [rows[i : i + size] for i in range(0, len(rows), size)]
        return self.rows[-len(groups) :]


@pytest.mark.parametrize("together", [None, 3])
def test_the_policy_samples_to_each_call_s_cap_and_knows_its_log_probabilities(
    tmp_path: Path, together: int | None
) -> None:
    trainer = trainer_of(tmp_path, Scripted(uneven), generate_rows=together)
    model: Any = trainer.model
    prompts = [[3, 4, 5, 6], [7], [8, 9], [10, 11, 12, 13, 14]] * 6
    caps = [1, 2, 7, 12] * 6
    drawn = trainer.policy.generate(prompts, caps, 1.0)
    assert {each.finish for each in drawn} == {"stop", "length"}
    for prompt, cap, (ids, logprobs, finish) in zip(prompts, caps, drawn, strict=True):
        assert END not in ids[:-1]
        assert (finish, len(ids) <= cap) == (("stop", True) if ids[-1] == END else ("length", len(ids) == cap))
        table = model(torch.tensor([prompt + ids])).logits.detach()[0, len(prompt) - 1 : -1].log_softmax(-1)
        assert logprobs == pytest.approx(table.gather(1, torch.tensor(ids)[:, None])[:, 0].tolist(), abs=1e-4)
    assert (trainer.policy.calls, trainer.policy.prompt_tokens) == (24, 72)
    assert trainer.policy.tokens == sum(len(each.ids) for each in drawn)


def test_a_greedy_call_repeats_and_a_hot_one_has_the_log_probabilities_of_its_temperature(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, Scripted(uneven))
    model: Any = trainer.model
    cold, again = trainer.policy.generate([[3, 4]] * 2, [6, 6], 0.0)
    assert cold.ids == again.ids
    table = model(torch.tensor([[3, 4, *cold.ids]])).logits[0, 1:-1]
    assert table.argmax(-1).tolist() == cold.ids
    (hot,) = trainer.policy.generate([[3, 4]], [6], 2.0)
    table = (model(torch.tensor([[3, 4, *hot.ids]])).logits.detach()[0, 1:-1] / 2).log_softmax(-1)
    assert hot.logprobs == pytest.approx([float(table[t, token]) for t, token in enumerate(hot.ids)], abs=1e-4)


def test_samples_are_drawn_from_the_model_s_distribution(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, Scripted(uneven))
    model: Any = trainer.model
    wanted = model(torch.tensor([[5]])).logits[0, -1].softmax(-1)
    drawn = trainer.policy.generate([[5]] * 4000, [1] * 4000, 1.0)
    counts = torch.bincount(torch.tensor([each.ids[0] for each in drawn]), minlength=len(LETTERS) + 3)
    deviations = (counts - 4000 * wanted) / (4000 * wanted * (1 - wanted)).sqrt()
    assert deviations.abs().max() < 4.5  # of 39 normal deviates


@pytest.mark.parametrize(("prompts", "caps", "temperature"), [([], [], 1.0), ([[]], [1], 1.0), ([[3]], [0], 1.0)])
def test_calls_that_cannot_be_sampled_are_refused(
    tmp_path: Path, prompts: list[list[int]], caps: list[int], temperature: float
) -> None:
    with pytest.raises(ConfigError, match="needs at least one prompt"):
        trainer_of(tmp_path, Scripted(uneven)).policy.generate(prompts, caps, temperature)


class Served:
    """In the place of TRL's vLLM: answers each prompt with its first token, as often as the cap or three times."""

    temperature, max_completion_length = 1.0, 99

    def __init__(self) -> None:
        self.calls: list[tuple[list[list[int]], int, float]] = []

    def generate(self, prompts: list[list[int]], images: None, num_generations: int) -> Any:
        assert num_generations == 1
        self.calls.append((prompts, self.max_completion_length, self.temperature))
        ids = [(prompt[:1] * 3 + [END])[: self.max_completion_length] for prompt in prompts]
        return prompts, ids, [[[None if token == 4 else -0.5] for token in each] for each in ids], None


def test_vllm_is_asked_once_for_each_cap_and_left_as_it_was(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, Scripted(uneven))
    served = Served()
    trainer.use_vllm, trainer.vllm_mode, trainer.vllm_tensor_parallel_size = True, "colocate", 1
    trainer.vllm_generation = served  # type: ignore[assignment]
    drawn = trainer.policy.generate([[3], [4], [5]], [2, 9, 2], 0.7)
    assert served.calls == [([[3], [5]], 2, 0.7), ([[4]], 9, 0.7)]
    assert [(each.ids, each.finish) for each in drawn] == [
        ([3, 3], "length"),
        ([4, 4, 4, END], "stop"),
        ([5, 5], "length"),
    ]
    assert drawn[0].logprobs == [-0.5, -0.5]
    assert [math.isnan(value) for value in drawn[1].logprobs] == [True, True, True, False]
    assert (served.temperature, served.max_completion_length) == (1.0, 99)


def test_sampled_tokens_are_counted_and_rewards_are_trls_own(tmp_path: Path) -> None:
    rollout, seen = Sampling(), Gradients()
    trainer = trainer_of(tmp_path, rollout, seen, per_device_train_batch_size=16)
    trainer.train()
    rows = [row for group in rollout.rows for row in group]
    assert logged(trainer, "sampled/calls") == [16]
    assert logged(trainer, "sampled/tokens") == [sum(len(row.completion_ids) for row in rows)]
    assert logged(trainer, "sampled/prompt_tokens") == [sum(len(row.prompt_ids) for row in rows)]
    assert logged(trainer, "reward") == pytest.approx([sum(row.reward or 0 for row in rows) / 16])
    assert logged(trainer, "sampled/gap") == pytest.approx([0.0], abs=1e-5)
    modes = ["trace", "operator"] * 2
    wanted = reference(list(zip(modes, rollout.rows, strict=True)), norm="prompt", alpha=0.1)
    assert furthest(seen.steps[0], wanted.gradients) < 1e-5


def test_training_an_adapter_leaves_the_base_alone(tmp_path: Path) -> None:
    peft = LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    trainer = trainer_of(tmp_path, Sampling(), peft=peft, max_steps=3, learning_rate=1.0, activation_checkpointing=True)
    model: Any = trainer.model
    before = {name: each.detach().clone() for name, each in model.named_parameters()}
    trainer.train()
    changed = {name for name, each in model.named_parameters() if not torch.equal(each, before[name])}
    assert changed
    assert all("lora_" in name for name in changed)
    trainer.save_model(str(tmp_path / "adapter"))
    again: Any = PeftModel.from_pretrained(tiny(), str(tmp_path / "adapter"))
    ids = torch.tensor([[3, 4, 5]])
    torch.testing.assert_close(again(ids).logits, model.eval()(ids).logits)


@pytest.mark.parametrize(
    ("steps", "given"),
    [
        ((4, 2), {}),
        ((6, 4), {"num_iterations": 2, "gradient_accumulation_steps": 2, "per_device_train_batch_size": 4}),
    ],
)
def test_a_resumed_run_takes_the_steps_of_the_run_in_one_go(
    tmp_path: Path, steps: tuple[int, int], given: dict[str, Any]
) -> None:
    """Three batches an epoch, so that the run crosses one."""
    whole, part = steps
    saving = {"save_strategy": "steps", "save_steps": part, "optim": "adamw_torch", "learning_rate": 0.01, **given}

    def run(folder: str, most: int, resume: str | None = None) -> tuple[OperatorTrainer, Sampling]:
        rollout = Sampling()
        trainer = trainer_of(tmp_path / folder, rollout, data=questions(3), max_steps=most, **saving)
        trainer.train(resume_from_checkpoint=resume)
        return trainer, rollout

    one, straight = run("one", whole)
    run("two", part)
    two, resumed = run("two", whole, str(tmp_path / "two" / f"checkpoint-{part}"))
    assert resumed.rows == straight.rows[-len(resumed.rows) :]
    assert logged(two, "loss") == logged(one, "loss")
    assert logged(two, "operator/reward") == logged(one, "operator/reward")
    states: list[dict[str, torch.Tensor]] = [dict(each.model.named_parameters()) for each in (one, two)]  # type: ignore[union-attr]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_a_checkpoint_amid_a_generation_rolls_it_out_again_and_is_in_step_afterwards(tmp_path: Path) -> None:
    def run(folder: str, most: int, resume: str | None = None) -> list[Group]:
        rollout = Scripted(uneven)
        given = {"max_steps": most, "num_iterations": 2, "save_strategy": "steps", "save_steps": 1}
        trainer_of(tmp_path / folder, rollout, **given).train(resume_from_checkpoint=resume)
        return rollout.groups

    straight = run("one", 4)
    run("two", 1)
    resumed = run("two", 4, str(tmp_path / "two" / "checkpoint-1"))
    assert len(straight) == len(resumed) == 4
    assert [(group.mode, group.example) for group in resumed] == [(group.mode, group.example) for group in straight]
    assert resumed[2:] == straight[2:]


OVERRIDDEN = {
    "_get_train_sampler": ["self", "dataset"],
    "_generate_and_score_completions": ["self", "inputs"],
    "_get_per_token_logps_and_entropies": ["self", "model", "input_ids", "attention_mask", "logits_to_keep"],
    "_compute_loss": ["self", "model", "inputs"],
    "_send_telemetry": ["self"],
}


def test_trl_still_has_what_the_trainer_overrides() -> None:
    """If this fails, TRL has changed: read its release, then `trainer.py` and its table, then the pin in pyproject."""
    assert trl.__version__.startswith(module.TRL_CHECKED), f"TRL {trl.__version__} has not been looked at"
    for name, parameters in OVERRIDDEN.items():
        ours, theirs = getattr(OperatorTrainer, name), getattr(GRPOTrainer, name, None)
        assert theirs is not None, f"TRL no longer has {name}, which OperatorTrainer overrides"
        assert ours is not theirs
        known = list(inspect.signature(inspect.unwrap(theirs)).parameters)
        assert known[: len(parameters)] == parameters, f"TRL's {name} takes {known}"
        assert name in (module.__doc__ or "")
    own = {name for name, each in vars(OperatorTrainer).items() if callable(each) and hasattr(GRPOTrainer, name)}
    assert own - {"__init__"} == set(OVERRIDDEN)


def test_trl_still_has_the_state_that_the_trainer_reads(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, Scripted(uneven))
    for name in ("_metrics", "_step", "_buffered_inputs", "_tokenizer", "_dist", "rollout_func", "eos_token_ids"):
        assert hasattr(trainer, name), f"TRL's trainer no longer has {name}"
    assert trainer._tokenizer.pad_token_id == PAD
    assert trainer.eos_token_ids == [END]
    given = ["self", "prompts", "images", "num_generations"]
    from trl.generation.vllm_generation import VLLMGeneration

    assert list(inspect.signature(VLLMGeneration.generate).parameters)[:4] == given


def test_the_library_does_not_import_torch() -> None:
    code = "import sys, pdr_dspy, pdr_dspy.cli.app; assert not {'torch', 'trl', 'transformers'} & set(sys.modules)"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=240)
    assert shown.returncode == 0, shown.stderr
