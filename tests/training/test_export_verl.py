"""The export for verl, against what its 0.9.1 wheel publishes."""

from __future__ import annotations

import asyncio
import json
import re
import sys
import types
from pathlib import Path
from typing import Any

import dspy
import pytest
from pydantic import BaseModel

from pdr_dspy.errors import ConfigError, StoreError
from pdr_dspy.operators.strategies import PDR, LongCoT
from pdr_dspy.training.dataset import example_json
from pdr_dspy.training.export_verl import PDRAgentLoop, ServedLM, export, outputs_of, verl_rows
from pdr_dspy.training.types import Row
from pdr_dspy.verifiers import NumberVerifier
from tests.support.scripted_policy import END, Characters

# --- verl's side, as published in verl/experimental/agent_loop/agent_loop.py and verl/workers/rollout of 0.9.1 ---


class AgentLoopMetrics(BaseModel):
    generate_sequences: float = 0.0
    tool_calls: float = 0.0
    compute_score: float = 0.0
    num_preempted: int = -1


class AgentLoopOutput(BaseModel):
    prompt_ids: list[int]
    response_ids: list[int]
    response_mask: list[int]
    response_logprobs: list[float] | None = None
    routed_experts: Any | None = None
    multi_modal_data: dict[str, Any] | None = None
    reward_score: float | None = None
    num_turns: int = 0
    metrics: AgentLoopMetrics
    extra_fields: dict[str, Any] = {}
    mm_processor_kwargs: dict[str, Any] | None = None
    mm_processor_output: list[dict[str, Any]] | None = None


class TokenOutput(BaseModel):
    token_ids: list[int]
    log_probs: list[float] | None = None
    routed_experts: Any | None = None
    stop_reason: str | None = None
    num_preempted: int | None = None
    extra_fields: dict[str, Any] = {}


class LLMServerClient:
    """Answers drafts with `draft`, distillations with a workspace, refinements with `refined`."""

    def __init__(self, draft: str = "Answer: 2", refined: str = "Answer: 2", log_probs: bool = True) -> None:
        self.draft, self.refined, self.log_probs = draft, refined, log_probs
        self.asked: list[tuple[list[int], dict[str, Any]]] = []

    async def generate(
        self,
        request_id: Any,
        *,
        prompt_ids: list[int],
        sampling_params: dict[str, Any],
        image_data: list[Any] | None = None,
        video_data: list[Any] | None = None,
        audio_data: list[Any] | None = None,
        mm_processor_kwargs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> TokenOutput:
        self.asked.append((prompt_ids, sampling_params))
        await asyncio.sleep(0)
        prompt = tokenizer().decode(prompt_ids)
        text = self.refined if "WORKSPACE:" in prompt else "WORKSPACE: 2" if "Candidate 1:" in prompt else self.draft
        ids = ([*map(ord, text), END] if text else [])[: sampling_params["max_tokens"]]
        return TokenOutput(token_ids=ids, log_probs=[-1.0] * len(ids) if self.log_probs else None)


class DictConfigWrap:
    def __init__(self, config: Any) -> None:
        self.config = config


def made(server: LLMServerClient, loop: dict[str, Any]) -> Any:
    """As `AgentLoopWorker._run_agent_loop` makes a loop with hydra: the target, its file's settings, verl's own."""
    settings = {key: value for key, value in loop.items() if key not in ("name", "_target_")}
    module, _, name = loop["_target_"].rpartition(".")
    return getattr(sys.modules[module], name)(
        trainer_config=DictConfigWrap({}),
        server_manager=server,
        tokenizer=tokenizer(),
        processor=None,
        hf_model_type="llama",
        dataset_cls=object,
        data_config=DictConfigWrap({"apply_chat_template_kwargs": {}}),
        tools=object(),
        **settings,
    )


def tokenizer() -> Any:
    plain: Any = Characters()
    plain.eos_token_id = END
    return plain


@pytest.fixture(autouse=True)
def _verl(monkeypatch: pytest.MonkeyPatch) -> None:
    """A `verl` that has the output class, and a program file."""
    module: Any = types.ModuleType("verl.experimental.agent_loop.agent_loop")
    module.AgentLoopOutput = AgentLoopOutput
    for name in ("verl", "verl.experimental", "verl.experimental.agent_loop"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    program: Any = types.ModuleType("adding_for_verl")
    program.build = lambda: PDR("question -> answer", widths=(3, 1), distiller="summary", draft_tokens=64)
    program.verifier = NumberVerifier
    monkeypatch.setitem(sys.modules, "adding_for_verl", program)


EXAMPLE = dspy.Example(question="1 + 1?", answer="2", id="a").with_inputs("question")


def loops(folder: Path, **settings: Any) -> dict[str, dict[str, Any]]:
    export(folder, [EXAMPLE], program="adding_for_verl", model="m", **settings)
    return {loop["name"]: loop for loop in json.loads((folder / "agent_loops.yaml").read_text())}


def run(loop: Any, **fields: Any) -> list[AgentLoopOutput]:
    row = {"example": example_json(EXAMPLE), "raw_prompt": [], "uid": "u", "session_id": 0, "index": 0}
    sampling = {"temperature": 0.3, "top_p": 1.0, "top_k": -1, "repetition_penalty": 1.0, "logprobs": True}
    return asyncio.run(loop.run(sampling, **{**row, "global_steps": 1, **fields}))


def test_an_episode_is_a_list_of_outputs_with_the_final_reward_last(tmp_path: Path) -> None:
    server = LLMServerClient()
    outputs = run(made(server, loops(tmp_path)["pdr_operator"]))
    assert [output.extra_fields["pdr_phase"] for output in outputs] == ["draft"] * 3 + ["distill", "refine"]
    assert [output.reward_score for output in outputs] == [None] * 4 + [1.0]
    assert outputs[-1].extra_fields["reward_extra_info"] == {"correct": 1.0}
    for output, (asked, sampling) in zip(outputs, server.asked, strict=True):
        assert output.prompt_ids == asked
        assert output.response_ids[-1] == END
        assert output.response_mask == [1] * len(output.response_ids)
        assert output.response_logprobs == [-1.0] * len(output.response_ids)
        assert (sampling["temperature"], sampling["max_tokens"], sampling["logprobs"]) == (1.0, 64, True)


def test_a_long_trace_and_a_wrong_one(tmp_path: Path) -> None:
    written = loops(tmp_path, trace_tokens=200)
    server = LLMServerClient(draft="Answer: 3")
    (output,) = run(made(server, written["pdr_trace"]))
    assert (output.reward_score, server.asked[0][1]["max_tokens"]) == (-1.0, 200)


def test_refinements_alone(tmp_path: Path) -> None:
    (output,) = run(made(LLMServerClient(draft="Answer: 3"), loops(tmp_path, train_calls="refine")["pdr_operator"]))
    assert (output.reward_score, output.extra_fields["pdr_phase"]) == (1.0, "refine")


def test_what_was_not_sampled_is_masked(tmp_path: Path) -> None:
    outputs = run(made(LLMServerClient(draft=" "), loops(tmp_path)["pdr_operator"]))
    assert [set(output.response_mask) for output in outputs] == [{1}, {1}, {1}, {0}, {0}]
    assert outputs[-1].reward_score == -1.0
    ungraded = Row([1], [2, 3], [0.0, 0.0], None, False, "refine", False, 0)
    (output,) = outputs_of([ungraded])
    assert (output["response_mask"], output["reward_score"]) == ([0, 0], 0.0)


def test_samples_of_a_prompt_have_seeds_of_their_own(tmp_path: Path) -> None:
    loop = made(LLMServerClient(), loops(tmp_path, schedule={"distiller": "random_k", "k": 1})["pdr_operator"])
    assert [output.extra_fields["pdr_phase"] for output in run(loop, session_id=1)] == ["draft"] * 3 + ["refine"]


def test_a_server_must_give_log_probabilities(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="calculate_log_probs"):
        run(made(LLMServerClient(log_probs=False), loops(tmp_path)["pdr_trace"]))


def test_the_files_and_the_command(tmp_path: Path) -> None:
    made_ = export(
        tmp_path, [EXAMPLE, EXAMPLE], program="adding_for_verl", model="some/model", prompts=4, episodes=3,
        epsilon_high=5.0, schedule={"draft_tokens": 99},
    )  # fmt: skip
    rows = [json.loads(line) for line in (tmp_path / "train.jsonl").read_text().splitlines()]
    assert [row["agent_name"] for row in rows] == ["pdr_trace", "pdr_operator"] * 2
    assert [row["extra_info"]["index"] for row in rows] == [0, 0, 1, 1]
    assert rows == verl_rows([EXAMPLE, EXAMPLE])
    said = dict(argument.split("=", 1) for argument in made_.arguments)
    assert said["actor_rollout_ref.actor.policy_loss.loss_mode"] == "cispo"
    assert said["actor_rollout_ref.actor.clip_ratio_high"] == "4"  # verl adds 1
    assert (said["data.shuffle"], said["data.train_batch_size"]) == ("False", "4")
    assert (said["data.max_response_length"], said["actor_rollout_ref.rollout.n"]) == ("99", "3")
    command = (tmp_path / "command.txt").read_text()
    assert "6 long traces, 30 operator calls" in command
    assert re.findall(r"^    (\S+)", command, re.MULTILINE) == list(made_.arguments)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"prompts": 3}, "an even number"),
        ({"episodes": 1}, "at least 2"),
        ({"epsilon_high": 0}, "above 0"),
        ({"train_calls": "drafts"}, "share one reward"),
        ({"program": "no_such_module"}, "cannot be imported"),
        ({"program": "json"}, r"no function `build\(\)`"),
        ({"schedule": {"widths": [1]}}, "two rounds or more"),
    ],
)
def test_what_cannot_work(tmp_path: Path, settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        export(tmp_path, [EXAMPLE], **{"program": "adding_for_verl", "model": "m", **settings})
    assert not list(tmp_path.iterdir())


def test_other_arguments_that_cannot_work(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="mode"):
        PDRAgentLoop(None, LLMServerClient(), tokenizer(), program="adding_for_verl", mode="both")  # type: ignore[arg-type]
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot be written"):
        export(tmp_path / "file" / "deep", [EXAMPLE], program="adding_for_verl", model="m")


def test_a_request_without_a_token_is_a_failed_call() -> None:
    lm = ServedLM(LLMServerClient(draft=""), tokenizer(), {}, {})
    program = LongCoT("question -> answer")
    program.set_lm(lm)
    with pytest.raises(Exception, match="no token"):
        asyncio.run(program.acall(question="q"))
    assert lm.record == []
