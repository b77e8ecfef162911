"""An evaluated run once more, with its stored completions in place of a model: what its calls had read.

A row records the purpose and end of each call, the rollout store its completion, and neither its prompt. So the program
runs again, and renders its prompts as it does at inference.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, cast

import dspy
from dspy.lm15 import FinishReason, Message, Request, Response
from dspy.lm15 import Usage as ServedUsage

from pdr_dspy import calls
from pdr_dspy.calls.failures import RoundFailed
from pdr_dspy.calls.ledger import JSON_PART, Call, Phase
from pdr_dspy.calls.store import Rollout, Rollouts
from pdr_dspy.errors import ConfigError, StoreError
from pdr_dspy.evaluation.records import Row
from pdr_dspy.operators.operator import Operator
from pdr_dspy.operators.outcome import Round
from pdr_dspy.operators.schedule import MAX_WIDTH
from pdr_dspy.prompts.roles import Role
from pdr_dspy.training.policy_lm import messages_of


def evaluation_config(folder: Path) -> dict[str, Any]:
    """The description of a run folder. Raises StoreError if it holds no evaluation."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except OSError as error:
        raise StoreError(f"{folder} holds no evaluation: config.json: {error.strerror or error}") from error
    except ValueError as error:
        raise StoreError(f"{folder / 'config.json'} is not readable JSON: {error}") from error
    if not isinstance(config, dict) or not {"program", "examples", "verifier", "repeats"} <= config.keys():
        raise StoreError(f"{folder} holds no evaluation; give a folder that `pdr eval` wrote")
    return config


class ReplayLM(dspy.LM, calls.ServedModel):
    """An LM that answers with a row's stored completions and keeps the prompts of its requests."""

    def __init__(self, model: str) -> None:
        engine = NoEngine()
        super().__init__(model, engine=engine, async_engine=NoAsyncEngine(), cache=False, num_retries=0)
        self.prompts: dict[int | None, list[dict[str, str]]] = {}
        self._answers: dict[int | None, Rollout] = {}
        self._second: dict[int | None, Rollout] = {}
        """Completions of second requests for JSON, by the draft's seed."""

    async def capabilities(self) -> calls.Capabilities:
        """Claims support for schemas if the row has second requests for JSON, so that the replay makes them, too."""
        return replace(calls.configured(self), output_formats=frozenset(["schema"] if self._second else ()))

    def begin(self, row: Row, store: Rollouts) -> None:
        """Answer from the records of `row` from now on."""
        self.prompts = {}
        found = [(call, store.get(call.key)) for call in row.calls if call.failure is None]
        kept = [(call, rollout) for call, rollout in found if rollout is not None]
        self._answers = {call.seed: rollout for call, rollout in kept if call.part != JSON_PART}
        self._second = {call.seed: rollout for call, rollout in kept if call.part == JSON_PART}

    async def acall(self, prompt: Any = None, **_: Any) -> Any:
        """The recorded completion. Raises OSError, as a lost connection does, for a call without one."""
        assert isinstance(prompt, Request)
        seed = prompt.config.seed
        second = seed in self._second and calls.OUTPUT in (prompt.config.extensions or {})
        if not second:
            self.prompts[seed] = messages_of(prompt)
        rollout = (self._second if second else self._answers).get(seed)
        if rollout is None:
            raise OSError("no completion was recorded")
        thought = f"<think>{rollout.thought}</think>" if rollout.thought else ""
        usage = ServedUsage(input_tokens=rollout.usage.input, output_tokens=rollout.usage.output)
        return self.answer(prompt, thought + rollout.text, rollout.finish, usage)

    @staticmethod
    def answer(request: Request, text: str, finish: str = "stop", usage: ServedUsage | None = None) -> Response:
        """A response of the assistant."""
        return Response(
            id=None,
            model=request.model,
            message=Message.assistant(text or " "),
            finish_reason=cast("FinishReason", finish),
            usage=usage or ServedUsage(),
        )

    def __deepcopy__(self, memo: dict[int, Any]) -> ReplayLM:
        return self


class NoEngine:
    """DSPy's engine of an LM that answers by itself."""

    def complete(self, request: Request) -> Response:
        """Raises ConfigError."""
        raise ConfigError("a replay sends no requests")


class NoAsyncEngine:
    """The same for asynchronous calls."""

    async def complete(self, request: Request) -> Response:
        """Raises ConfigError."""
        raise ConfigError("a replay sends no requests")


_EVERYBODY = f"Selected: {list(range(1, MAX_WIDTH + 1))}"


NAMED_MODELS = dict.fromkeys(("draft_model", "refine_model", "distill_model"))
"""Changes to a schedule after which every role uses the LM that its predictor has."""
WHOLE_ROUNDS = {"quorum": 1.0, "agree": None, "stop_at": None, "first_wave": None, "next_wave": None}
"""Changes to a schedule after which every round makes all its drafts, and all rounds are run."""


class Replayed(NamedTuple):
    """The first round of a row, run again."""

    round: Round
    asked: list[dict[str, Any]]
    """The inputs of each select call."""


class Replay:
    """Runs a program again over the stored first-round drafts of rows; every select call names all candidates."""

    def __init__(self, program: Operator, store: Rollouts, models: Sequence[str], *, begin: Callable[[], None]) -> None:
        """
        Args:
            program: the program.
            store: has the drafts.
            models: identities of which one is that of the model that drafted.
            begin: called before each run of the program.
        """
        self.store = store
        self.begin = begin
        self.lms = [ReplayLM(str(name)) for name in models]
        self.programs = [self._on(program, lm) for lm in self.lms]

    @staticmethod
    def _on(program: Operator, lm: ReplayLM) -> Operator:
        copied = program.deepcopy()
        copied.checks = program.checks  # a copy of a check would keep what it is shown to itself
        for role in copied.schedule.roles:
            copied.predictor(role).lm = lm if role is Role.DRAFT else _Everybody("replay/everybody")
        return copied

    def run(self, row: Row, inputs: Mapping[str, Any]) -> Replayed | str:
        """The replayed round, or the name of the count of why there is none."""
        drafted = [call for call in row.calls if call.round == 1 and call.phase is Phase.DRAFT and call.failure is None]
        if any(self.store.get(call.key) is None for call in drafted):
            return "not_stored"
        known = {call.key for call in row.calls}
        for program, lm in zip(self.programs, self.lms, strict=True):  # the model that drafted is one of them
            self.begin()
            lm.begin(row, self.store)
            made: list[Call] = []
            trace: list[Any] = []
            found: Any = None
            with (
                calls.session(
                    store=None, seed=row.seed, on_call=made.append, on_progress=None, on_failed_round=_unheard
                ),
                dspy.context(trace=trace),
                suppress(RoundFailed),
            ):
                found = program(**inputs)
            if {call.key for call in made if call.phase is Phase.DRAFT and call.part == 0} <= known:
                if found is None:
                    return "no_choice"
                select = vars(program).get(Role.SELECT.value)
                return Replayed(found.rounds[0], [entry[1] for entry in trace if entry[0] is select])
        return "other_prompt"


def _unheard(why: str) -> None:
    """Drop a report that the row has already."""


class _Everybody(ReplayLM):
    """Answers that all candidates are picked, which shows in which order they were."""

    async def acall(self, prompt: Any = None, **options: Any) -> Any:
        return self.answer(prompt, _EVERYBODY)
