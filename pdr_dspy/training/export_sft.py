"""What an evaluation got right, as a chat dataset: traces, drafts, workspaces and refinements to warm-start a model on.

A row says what each call was for and how it ended, the rollout store has what came back, and neither has the prompts.
So the program runs once more over each row with the store's completions in place of a model, and the prompts are those
that it renders. A call whose request is not the recorded one to the letter is left out and counted.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

import dspy
from dspy.lm15 import FinishReason, Message, Request, Response
from dspy.lm15 import Usage as ServedUsage

from pdr_dspy import calls
from pdr_dspy.calls.budget import Budget
from pdr_dspy.calls.failures import RoundFailed
from pdr_dspy.calls.ledger import JSON_PART, Call, Phase
from pdr_dspy.calls.store import Rollout, Rollouts
from pdr_dspy.errors import ConfigError, StoreError
from pdr_dspy.evaluation import ids_of
from pdr_dspy.evaluation.fingerprint import fingerprint
from pdr_dspy.evaluation.records import Row, read_rows
from pdr_dspy.evaluation.runner import inputs_of
from pdr_dspy.operators.operator import Operator
from pdr_dspy.runtime import store_whole
from pdr_dspy.runtime.atomic_write import local_path
from pdr_dspy.training.policy_lm import messages_of
from pdr_dspy.verifiers import RIGHT, Metric, Verifier, as_verifier

Kind = Literal["trace", "draft", "workspace", "refinement"]


class Sample(NamedTuple):
    """One call that is worth learning from."""

    kind: Kind
    messages: tuple[dict[str, str], ...]
    """The prompt, then the assistant's turn; its thought, where there was one apart, under `reasoning_content`."""
    id: str
    """Of the question."""
    repeat: int
    round: int


class Exported(NamedTuple):
    """The samples of a run, and what was left out of it."""

    samples: tuple[Sample, ...]
    counts: dict[str, int]
    """Samples by kind; then `rows` and `right_rows`, and calls that were right but are not there: `duplicates`,
    `truncated`, `constrained` (held to a form, or asked again for JSON), `other_prompt` (the program renders another
    prompt now, or a workspace was cut by the model's own tokenizer), `not_stored` (the store does not have the
    completion)."""


def export(
    run_dir: str | Path, program: dspy.Module, examples: Sequence[dspy.Example], verifier: Verifier | Metric
) -> Exported:
    """The right traces, drafts, workspaces and refinements of an evaluation. No model is called.

    A draft or a refinement counts by its own answer; a distill, select or critique call by that of its row. What a
    server held to a form is no sample of the model's, nor is a draft whose answer had to be asked for again
    (`Schedule.json_fallback`): neither is exported.

    Args:
        run_dir: a folder that `evaluate(run_dir=...)` or `pdr eval` wrote, with its rollout store.
        program: the program that it evaluated.
        examples: at least those that have a row, with their ids.
        verifier: for the oracle distillers of an analysis; nothing is graded again.

    Raises:
        ConfigError: the program is not an operator.
        StoreError: the folder holds no evaluation, one of another program, or one without any of these examples.
    """
    if not isinstance(program, Operator):
        raise ConfigError(f"`export(program=...)` must be an operator, such as PDR, not `{type(program).__name__}`")
    folder = local_path(run_dir)
    config = _config(folder)
    if config["program"] != fingerprint(program):
        raise StoreError(
            f"{folder} holds an evaluation of another program, or of this one with other prompts or another schedule; "
            "give the program as it was"
        )
    known = dict(zip(ids_of(examples), examples, strict=True))
    rows = list(read_rows(folder / "rows.jsonl").values())
    if not any(row.id in known for row in rows):
        raise StoreError(
            f"{folder} has no finished row of these {len(known)} examples; give the data of its evaluation"
        )
    budget = Budget(**config["budget"]) if config.get("budget") else None
    models = config.get("models") or ["replay/model"]
    with Rollouts(folder / "rollouts") as store:
        collected = _Collected(program, as_verifier(verifier), budget, store, str(models[0]))
        for row in sorted(rows, key=lambda row: (row.id, row.repeat)):
            if row.id in known:
                collected.add(row, known[row.id])
    return Exported(tuple(collected.samples), dict(collected.counts))


def write(path: str | Path, samples: Sequence[Sample]) -> None:
    """Write samples as JSONL: `messages`, as TRL's SFTTrainer and most others take them, and where they come from.

    Raises StoreError when that is not possible.
    """
    lines = [
        json.dumps({**sample._asdict(), "messages": list(sample.messages)}, ensure_ascii=False) for sample in samples
    ]
    store_whole(local_path(path), "".join(f"{line}\n" for line in lines))


def _config(folder: Path) -> dict[str, Any]:
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except OSError as error:
        raise StoreError(f"{folder} holds no evaluation: config.json: {error.strerror or error}") from error
    except ValueError as error:
        raise StoreError(f"{folder / 'config.json'} is not readable JSON: {error}") from error
    if not isinstance(config, dict) or not {"program", "examples", "verifier", "repeats"} <= config.keys():
        raise StoreError(f"{folder} holds no evaluation; give a folder that `pdr eval` wrote")
    return config


_SOLVING = (Phase.DRAFT, Phase.REFINE)
_COUNTED = (
    *("traces", "drafts", "workspaces", "refinements"),
    *("rows", "right_rows", "duplicates", "truncated", "constrained", "other_prompt", "not_stored"),
)


class _Collected:
    def __init__(
        self, program: Operator, verifier: Verifier, budget: Budget | None, store: Rollouts, model: str
    ) -> None:
        self.lm = _ReplayLM(model)
        self.program = program.deepcopy()
        self.program.set_lm(self.lm)
        self.verifier = verifier
        self.budget = budget
        self.store = store
        self.samples: list[Sample] = []
        self.counts: Counter[str] = Counter(dict.fromkeys(_COUNTED, 0))
        self._seen: set[str] = set()

    def add(self, row: Row, example: dspy.Example) -> None:
        self.counts["rows"] += 1
        self.counts["right_rows"] += row.score >= RIGHT
        wanted: list[tuple[Call, Kind]] = []
        for call in row.calls:
            kind = self._kind(row, call)
            if kind is not None:
                wanted.append((call, kind))
        again = {(call.round, call.phase, call.index) for call in row.calls if call.part == JSON_PART}
        replayed = self._replay(row, example) if wanted else {}
        for call, kind in wanted:
            rollout = self.store.get(call.key)
            messages = replayed.get(call.key)
            if call.truncated:
                self.counts["truncated"] += 1
            elif call.format == "held" or (call.round, call.phase, call.index) in again:
                self.counts["constrained"] += 1
            elif rollout is None:
                self.counts["not_stored"] += 1
            elif messages is None:
                self.counts["other_prompt"] += 1
            else:
                self._keep(kind, row, call, messages, rollout)

    def _kind(self, row: Row, call: Call) -> Kind | None:
        """What a call is an example of; None when it was not right."""
        if call.failure is not None or call.phase in (Phase.JUDGE, Phase.PROPOSE) or call.round > len(row.rounds):
            return None
        if call.finish == "continued":  # the turn went on in a second request
            return None
        if call.part == JSON_PART:
            return None
        if call.phase not in _SOLVING:
            return "workspace" if row.score >= RIGHT else None
        drafts = row.rounds[call.round - 1].drafts
        solving = {other.index for other in row.calls if other.round == call.round and other.phase in _SOLVING}
        if len(drafts) != len(solving):  # the round ended early, and a row does not say which draft is which
            return None
        score = drafts[call.index].score
        if score is None and call.round == len(row.rounds):  # a judge scores the final answer alone
            score = row.score if row.stop in (None, "done") else 0.0
        if score is None or score < RIGHT:
            return None
        if call.phase is Phase.REFINE:
            return "refinement"
        return "trace" if self.program.schedule.rounds == 1 else "draft"

    def _replay(self, row: Row, example: dspy.Example) -> dict[str, list[dict[str, str]]]:
        """The prompts of a row's calls as the program renders them, by the address of the whole request."""
        self.lm.begin(row, self.store)
        told: list[Call] = []
        inputs = inputs_of(self.program, example) | ({} if self.budget is None else {"budget": self.budget})

        def oracle(outputs: Mapping[str, Any]) -> float:
            return float(self.verifier(example, dspy.Prediction(**outputs)))

        same = calls.session(store=None, seed=row.seed, on_call=told.append, oracle=oracle)
        with same, dspy.context(trace=None), suppress(RoundFailed):
            self.program(**inputs)
        return {call.key: self.lm.prompts[call.seed] for call in told if call.seed in self.lm.prompts}

    def _keep(self, kind: Kind, row: Row, call: Call, messages: Sequence[dict[str, str]], rollout: Rollout) -> None:
        answer = {"role": "assistant", "content": rollout.text.strip()}
        if rollout.thought.strip():
            answer["reasoning_content"] = rollout.thought.strip()
        sample = Sample(kind, (*messages, answer), row.id, row.repeat, call.round)
        content = json.dumps(sample.messages, sort_keys=True)
        if content in self._seen:
            self.counts["duplicates"] += 1
            return
        self._seen.add(content)
        self.samples.append(sample)
        self.counts[f"{kind}s"] += 1


class _ReplayLM(dspy.LM, calls.ServedModel):
    """Answers with what was recorded for a row, and notes what it was asked."""

    def __init__(self, model: str) -> None:
        engine = _NoEngine()
        super().__init__(model, engine=engine, async_engine=_NoAsyncEngine(), cache=False, num_retries=0)
        self.prompts: dict[int | None, list[dict[str, str]]] = {}
        self._answers: dict[int | None, Rollout] = {}
        self._again: dict[int | None, Rollout] = {}
        """Where a draft was asked again for its JSON, what it said then."""

    async def capabilities(self) -> calls.Capabilities:
        """A draft is asked again where that was done, so that the replay comes to the same answers."""
        return replace(calls.configured(self), output_formats=frozenset(["schema"] if self._again else ()))

    def begin(self, row: Row, store: Rollouts) -> None:
        """Take up a row."""
        self.prompts = {}
        found = [(call, store.get(call.key)) for call in row.calls if call.failure is None]
        kept = [(call, rollout) for call, rollout in found if rollout is not None]
        self._answers = {call.seed: rollout for call, rollout in kept if call.part != JSON_PART}
        self._again = {call.seed: rollout for call, rollout in kept if call.part == JSON_PART}

    async def acall(self, prompt: Any = None, **_: Any) -> Any:
        """The recorded completion. Raises OSError, as a lost connection does, for a call that has none."""
        assert isinstance(prompt, Request)
        seed = prompt.config.seed
        again = seed in self._again and calls.OUTPUT in (prompt.config.extensions or {})
        if not again:
            self.prompts[seed] = messages_of(prompt)
        rollout = (self._again if again else self._answers).get(seed)
        if rollout is None:
            raise OSError("no completion was recorded")
        thought = f"<think>{rollout.thought}</think>" if rollout.thought else ""
        return Response(
            id=None,
            model=prompt.model,
            message=Message.assistant(thought + rollout.text or " "),
            finish_reason=cast("FinishReason", rollout.finish),
            usage=ServedUsage(input_tokens=rollout.usage.input, output_tokens=rollout.usage.output),
        )

    def __deepcopy__(self, memo: dict[int, Any]) -> _ReplayLM:
        return self


class _NoEngine:
    def complete(self, request: Request) -> Response:
        raise ConfigError("a replay sends nothing")


class _NoAsyncEngine:
    async def complete(self, request: Request) -> Response:
        raise ConfigError("a replay sends nothing")
