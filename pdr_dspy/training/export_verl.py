"""Export for clusters: PDR episodes as an agent loop of verl 0.9.1, and the files and settings that run it.

Never run: verl needs Ray, a GPU and another version of `transformers` than the `train` extra. The interface was read in
the 0.9.1 wheel: `AgentLoopOutput`, the arguments with which `AgentLoopWorker` creates a loop and calls `run`,
`LLMServerClient.generate`, and its v1 trainer, which takes a list of outputs from one loop and copies the last one's
reward to the others. So all calls of a PDR episode share the final reward: rewards of drafts by their own answers and
process rewards cannot be exported. Nor can the SFT term (verl has none: the objective is J_CISPO) and the normalisation
per prompt (`token-mean` is over the whole batch).
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol, cast
from uuid import uuid4

import dspy
from dspy.lm15 import FinishReason, Message, Request, Response
from dspy.lm15 import Usage as ServedUsage

from pdr_dspy import calls
from pdr_dspy.errors import ConfigError
from pdr_dspy.operators.operator import Operator
from pdr_dspy.runtime import store_errors
from pdr_dspy.runtime.atomic_write import local_path, write_whole
from pdr_dspy.training.dataset import example_of, mode_rows
from pdr_dspy.training.policy_lm import DEFAULT_CAP, SampledCall, messages_of, prompt_ids
from pdr_dspy.training.rollout import Episodes, operator_rows
from pdr_dspy.training.types import MODES, Group, Mode, Row, Sampled
from pdr_dspy.verifiers import as_verifier

AGENTS: dict[Mode, str] = {"trace": "pdr_trace", "operator": "pdr_operator"}
"""verl's name of the agent loop of each mode."""


class TokenOutput(Protocol):
    """The reply of verl's server to one prompt."""

    token_ids: list[int]
    log_probs: list[float] | None


class Server(Protocol):
    """The used part of verl's `LLMServerClient`."""

    async def generate(self, request_id: Any, *, prompt_ids: list[int], sampling_params: dict[str, Any]) -> Any:
        """A `TokenOutput`."""
        ...


class PDRAgentLoop:
    """One episode of verl: a long trace, or a PDR round with a row for each trained call.

    verl creates it from the file that `export` writes (hydra's `_target_`) and calls `run` for each sample of a prompt.
    """

    def __init__(
        self,
        trainer_config: Any,
        server_manager: Server,
        tokenizer: Any,
        *_: Any,
        data_config: Any = None,
        program: str,
        mode: Mode,
        train_calls: Literal["all", "refine"] = "all",
        threshold: float = 0.5,
        trace_tokens: int | None = None,
        schedule: Mapping[str, Any] | None = None,
        **__: Any,
    ) -> None:
        """
        Args:
            trainer_config, server_manager, tokenizer, data_config: verl's arguments; its others are ignored.
            program: the module of a program file, such as "programs.gsm8k": it has `build()` and `verifier()`.
            mode: the kind of episodes that this loop runs.
            train_calls, threshold, trace_tokens: see `Episodes`.
            schedule: changes to the program's schedule.

        Raises:
            ConfigError: the module has no program, or the settings contradict each other.
        """
        if train_calls not in ("all", "refine"):
            raise ConfigError(
                f'`train_calls={train_calls!r}` must be "all" or "refine": in verl the calls of an episode share one '
                "reward"
            )
        if mode not in MODES:
            raise ConfigError(f"`mode={mode!r}` must be one of {', '.join(MODES)}")
        built, verifier = _program(program)
        if schedule:
            built = built.with_schedule(built.schedule.replace(**dict(schedule)))
        config = getattr(data_config, "config", None)
        options = config.get("apply_chat_template_kwargs", {}) if config is not None else {}
        self.mode: Mode = mode
        self.server = server_manager
        self.tokenizer = tokenizer
        self.options = dict(options or {})
        self.episodes = Episodes(
            built, verifier, train_calls=train_calls, threshold=threshold, trace_tokens=trace_tokens
        )

    async def run(self, sampling_params: Mapping[str, Any], **fields: Any) -> list[Any]:
        """The episode's trained calls as `AgentLoopOutput`s, the one with the final reward last.

        Args:
            sampling_params: verl's sampling parameters; the schedule replaces cap and temperature.
            fields: the columns of the data set's row, of which `example` is used, and `session_id`.
        """
        from verl.experimental.agent_loop.agent_loop import AgentLoopOutput  # pyright: ignore[reportMissingImports]

        rows = await self.rows(sampling_params, **fields)
        return [AgentLoopOutput(**output) for output in outputs_of(rows)]

    async def rows(self, sampling_params: Mapping[str, Any], **fields: Any) -> list[Row]:
        """The episode's rows; needs no verl."""
        number = int(fields.get("session_id", 0))
        seed = int(fields.get("global_steps", 0) or 0) * 1_000_003 + int(fields.get("index", 0) or 0)
        group = Group(self.mode, example_of(str(fields["example"])), self.episodes.rows_per_episode(self.mode), seed)
        lm = ServedLM(self.server, self.tokenizer, sampling_params, self.options)
        return await self.episodes.episode(group, lm, number=number)


def outputs_of(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """The fields of an `AgentLoopOutput` for each row, in order.

    verl has no rows without a reward: such a row gets the reward 0, and its tokens are masked, as are those of rows
    that only fill a group.
    """
    final = rows[-1].reward
    outputs: list[dict[str, Any]] = []
    for row in rows:
        trained = 0 if row.reward is None else 1
        outputs.append(
            {
                "prompt_ids": row.prompt_ids,
                "response_ids": row.completion_ids,
                "response_mask": [trained] * len(row.completion_ids),
                "response_logprobs": row.logprobs,
                "num_turns": 2,
                "metrics": {},
                "extra_fields": {"pdr_phase": row.phase, "turn_scores": [], "tool_rewards": []},
            }
        )
    rewards = [row.reward for row in rows if row.reward is not None]
    outputs[-1]["reward_score"] = final if final is not None else (rewards[0] if rewards else 0.0)
    outputs[-1]["extra_fields"]["reward_extra_info"] = {"correct": float(rows[-1].correct)}
    return outputs


class Export(NamedTuple):
    """The files of an export, and verl's command line."""

    folder: Path
    arguments: tuple[str, ...]
    """Arguments of `python -m verl.trainer.main_ppo`; add those of the machine (nodes, GPUs, parallelism, logging)."""


def export(
    folder: str | Path,
    examples: Sequence[dspy.Example],
    *,
    program: str,
    model: str,
    prompts: int = 32,
    episodes: int = 8,
    train_calls: Literal["all", "refine"] = "all",
    threshold: float = 0.5,
    trace_tokens: int | None = None,
    schedule: Mapping[str, Any] | None = None,
    prompt_tokens: int = 10_240,
    epsilon_high: float = 5.0,
    learning_rate: float = 1e-6,
) -> Export:
    """Write the files that verl needs: `train.jsonl`, `agent_loops.yaml` and `command.txt`.

    The rows alternate between long traces and operator episodes, and verl's shuffling is off, so that every batch of an
    even number of prompts is half of each.

    Args:
        folder: the folder to write to.
        examples: the questions.
        program: the module of a program file; every node must be able to import it.
        model: the model to train, a folder or a name on the hub.
        prompts: prompts of a batch, an even number.
        episodes: episodes of each prompt, at least 2.
        train_calls, threshold, trace_tokens, schedule: see `PDRAgentLoop`.
        prompt_tokens: the longest prompt in tokens, workspace included.
        epsilon_high: the largest weight of a token's ratio. verl's clip_ratio_high is its distance from 1.
        learning_rate: learning rate of verl's optimizer.

    Raises:
        ConfigError, DataError: an argument or an example is not usable.
        StoreError: the folder cannot be written.
    """
    if prompts < 2 or prompts % 2:
        raise ConfigError(f"`export(prompts={prompts})` must be an even number: half of them are operator prompts")
    if episodes < 2:
        raise ConfigError(f"`export(episodes={episodes})` must be at least 2: advantages compare episodes")
    if epsilon_high <= 0:
        raise ConfigError(f"`export(epsilon_high={epsilon_high})` must be above 0")
    target = local_path(folder).resolve()
    settings = {"train_calls": train_calls, "threshold": threshold}
    settings |= {"trace_tokens": trace_tokens, "schedule": dict(schedule or {})}
    loops = [
        {"name": AGENTS[mode], "_target_": f"{__name__}.PDRAgentLoop", "program": program, "mode": mode, **settings}
        for mode in MODES
    ]
    arguments_of = [{key: value for key, value in loop.items() if key not in ("name", "_target_")} for loop in loops]
    made = [PDRAgentLoop(None, _NoServer(), None, **own) for own in arguments_of]
    tuned = made[0].episodes.schedule
    made[1].episodes.check_operator()
    cap = max(tuned.draft_tokens, tuned.refine_cap, tuned.distill_cap, trace_tokens or 0) + tuned.thinking_tokens
    arguments = (
        f"data.train_files={target / 'train.jsonl'}",
        "data.shuffle=False",
        f"data.train_batch_size={prompts}",
        f"data.max_prompt_length={prompt_tokens}",
        f"data.max_response_length={cap}",
        f"actor_rollout_ref.model.path={model}",
        f"actor_rollout_ref.actor.optim.lr={learning_rate:g}",
        "actor_rollout_ref.actor.policy_loss.loss_mode=cispo",
        f"actor_rollout_ref.actor.clip_ratio_high={epsilon_high - 1:g}",
        "actor_rollout_ref.actor.clip_ratio_low=1.0",
        "actor_rollout_ref.actor.loss_agg_mode=token-mean",
        "actor_rollout_ref.actor.use_kl_loss=False",
        "actor_rollout_ref.rollout.name=vllm",
        f"actor_rollout_ref.rollout.n={episodes}",
        "actor_rollout_ref.rollout.temperature=1.0",
        "actor_rollout_ref.rollout.top_p=1.0",
        "actor_rollout_ref.rollout.calculate_log_probs=True",
        f"actor_rollout_ref.rollout.agent.agent_loop_config_path={target / 'agent_loops.yaml'}",
        "algorithm.adv_estimator=grpo",
        "algorithm.use_kl_in_reward=False",
        "trainer.use_v1=True",
        "trainer.v1.trainer_mode=sync",
    )
    each = operator_rows(tuned, train_calls)
    about = (
        f"# rows of a batch: {prompts // 2 * episodes} long traces, {prompts // 2 * episodes * each} operator calls\n"
    )
    command = about + " \\\n    ".join(("python -m verl.trainer.main_ppo", *arguments)) + "\n"
    lines = [json.dumps(row, ensure_ascii=False) for row in verl_rows(examples)]
    with store_errors(target):
        write_whole(target / "train.jsonl", "".join(f"{line}\n" for line in lines))
        write_whole(target / "agent_loops.yaml", json.dumps(loops, indent=1))  # JSON is YAML
        write_whole(target / "command.txt", command)
    return Export(target, arguments)


def verl_rows(examples: Sequence[dspy.Example]) -> list[dict[str, Any]]:
    """Rows of verl's data set: each question first as a long trace, then as an operator episode."""
    by_mode = [mode_rows(examples, [mode]) for mode in MODES]
    return [
        {
            "data_source": "pdr_dspy",
            "agent_name": AGENTS[mode],
            "prompt": [{"role": "user", "content": row["prompt"]}],
            "example": row["example"],
            "reward_model": {"style": "rule", "ground_truth": ""},
            "extra_info": {"index": place},
        }
        for place, pair in enumerate(zip(*by_mode, strict=True))
        for mode, row in zip(MODES, pair, strict=True)
    ]


class ServedLM(dspy.LM, calls.ServedModel):
    """A `dspy.LM` over verl's server, for one episode."""

    def __init__(
        self, server: Server, tokenizer: Any, sampling: Mapping[str, Any], template_options: Mapping[str, Any]
    ) -> None:
        """`sampling`: verl's sampling parameters; each call replaces cap and temperature."""
        super().__init__("verl/policy", engine=_NoEngine(), async_engine=_NoAsyncEngine(), cache=False, num_retries=0)
        self.server = server
        self.tokenizer = tokenizer
        self.sampling = dict(sampling)
        self.template_options = dict(template_options)
        self.record: list[SampledCall] = []
        """The calls of the episode."""

    async def capabilities(self) -> calls.Capabilities:
        """The policy changes from step to step, so only the object identifies it."""
        return calls.Capabilities(identity=self.model, known=False, counts_tokens=True)

    async def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text, without special tokens."""
        return [len(self.tokenizer.encode(text, add_special_tokens=False)) for text in texts]

    async def acall(self, prompt: Any = None, **_: Any) -> Any:
        """Sample one completion."""
        assert isinstance(prompt, Request)
        config = prompt.config
        cap = config.max_tokens or DEFAULT_CAP
        ids = prompt_ids(self.tokenizer, messages_of(prompt), **self.template_options)
        own = {**self.sampling, "max_tokens": cap}
        if config.temperature is not None:
            own["temperature"] = config.temperature
        output: TokenOutput = await self.server.generate(uuid4().hex, prompt_ids=list(ids), sampling_params=own)
        tokens = list(output.token_ids)[:cap]
        if not tokens:
            raise OSError("the server returned no token")  # recorded as a failed call
        ended = tokens[-1] == getattr(self.tokenizer, "eos_token_id", None)
        finish = "length" if len(tokens) == cap and not ended else "stop"
        logprobs = list(output.log_probs or [])[: len(tokens)]
        if len(logprobs) != len(tokens):
            raise ConfigError("verl's server gave no log-probabilities: set `rollout.calculate_log_probs=True`")
        self.record.append(SampledCall(config.seed, ids, Sampled(tokens, logprobs, finish)))
        text = self.tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return Response(
            id=None,
            model=prompt.model,
            message=Message.assistant(text or " "),
            finish_reason=cast("FinishReason", finish),
            usage=ServedUsage(input_tokens=len(ids), output_tokens=len(tokens)),
        )

    def __deepcopy__(self, memo: dict[int, Any]) -> ServedLM:
        return self


def _program(name: str) -> tuple[Operator, Any]:
    try:
        module = importlib.import_module(name)
    except ImportError as error:
        raise ConfigError(
            f"`program={name!r}` cannot be imported: {error}; give a module such as programs.gsm8k"
        ) from error
    parts: list[Callable[[], Any]] = []
    for part in ("build", "verifier"):
        if not callable(getattr(module, part, None)):
            raise ConfigError(f"`program={name!r}` has no function `{part}()`")
        parts.append(getattr(module, part))
    return parts[0](), as_verifier(parts[1](), argument="verifier() -> ...")


class _NoServer:
    async def generate(self, request_id: Any, *, prompt_ids: list[int], sampling_params: dict[str, Any]) -> Any:
        raise ConfigError("no sampling while the settings are checked")


class _NoEngine:
    def complete(self, request: Request) -> Response:
        raise ConfigError("an agent loop of verl answers asynchronous calls only: `await program.acall(...)`")


class _NoAsyncEngine:
    async def complete(self, request: Request) -> Response:
        raise ConfigError("an agent loop of verl answers requests of operators only")
