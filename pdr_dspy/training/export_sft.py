"""The right calls of an evaluation as a chat dataset: traces, drafts, workspaces and refinements to warm-start a model.

A row records the purpose and end of each call, the rollout store its completion, and neither its prompt. So the program
runs again over each row, with the stored completions in place of a model, to render the prompts. A call whose request
differs from the recorded one is left out and counted.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, NamedTuple

import dspy

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
from pdr_dspy.prompts.roles import Role
from pdr_dspy.runtime import store_whole
from pdr_dspy.runtime.atomic_write import local_path
from pdr_dspy.training.replay import NAMED_MODELS, ReplayLM, evaluation_config
from pdr_dspy.verifiers import RIGHT, Metric, Verifier, as_verifier
from pdr_dspy.verifiers.base import verdict

Kind = Literal["trace", "draft", "workspace", "refinement", "summary", "pick", "verdict"]


class Sample(NamedTuple):
    """One call to train on."""

    kind: Kind
    messages: tuple[dict[str, str], ...]
    """The prompt, then the assistant's turn, with a separate thought under `reasoning_content`."""
    id: str
    """The id of the question."""
    repeat: int
    round: int


class Exported(NamedTuple):
    """The samples of a run, and counts of the calls that were left out."""

    samples: tuple[Sample, ...]
    counts: dict[str, int]
    """Samples by kind; `rows`, `right_rows` and `examples_without_row`; and right calls that were left out:
    `duplicates`, `truncated`, `constrained` (under constrained decoding, or with a second request for JSON),
    `other_prompt` (the program renders another prompt now, or the model's own tokenizer cut a workspace), `not_stored`
    (the store lacks the completion)."""


def export(
    run_dir: str | Path,
    program: dspy.Module,
    examples: Sequence[dspy.Example],
    verifier: Verifier | Metric,
    *,
    what: Literal["right", "summaries"] = "right",
) -> Exported:
    """The right traces, drafts, workspaces and refinements of an evaluation. No model is called.

    A draft or a refinement is right if its own answer is; a distill, select or critique call if its row's answer is.
    Calls under constrained decoding, and drafts whose answer needed a second request (`Schedule.json_fallback`), are
    not samples of the model and are not exported.

    Args:
        run_dir: a folder that `evaluate(run_dir=...)` or `pdr eval` wrote, with its rollout store.
        program: the program that was evaluated.
        examples: the evaluated examples, with their ids; others are ignored.
        verifier: the verifier of oracle distillers; nothing is graded again.
        what: "right" is all of them; "summaries" only the workspaces that the model wrote, each for a distiller to
            learn, and only those whose refinement was right by its own answer.

    Raises:
        ConfigError: the program is not an operator, or writes no summaries.
        StoreError: the folder holds no evaluation, an evaluation of another program, or none of these examples.
    """
    if not isinstance(program, Operator):
        raise ConfigError(f"`export(program=...)` must be an operator, such as PDR, not `{type(program).__name__}`")
    if what == "summaries" and program.schedule.distill_role is not Role.DISTILL:
        raise ConfigError(
            f'`export(what="summaries")` needs a program that makes distill calls, such as '
            f'`Schedule(distiller="summary")`, got {program.schedule}'
        )
    folder = local_path(run_dir)
    config = evaluation_config(folder)
    if config["program"] != fingerprint(program):
        raise StoreError(
            f"{folder} holds an evaluation of another program, or of this one with other prompts or another schedule; "
            "give the program that was evaluated"
        )
    known = dict(zip(ids_of(examples), examples, strict=True))
    rows = list(read_rows(folder / "rows.jsonl").values())
    if not any(row.id in known for row in rows):
        raise StoreError(
            f"{folder} has no finished row for these {len(known)} examples; give the data of its evaluation"
        )
    budget = Budget(**config["budget"]) if config.get("budget") else None
    models = config.get("models") or ["replay/model"]
    with Rollouts(folder / "rollouts") as store:
        collected = _Collected(program, as_verifier(verifier), budget, store, models, what)
        for row in sorted(rows, key=lambda row: (row.id, row.repeat)):
            if row.id in known:
                collected.add(row, known[row.id])
    collected.counts["examples_without_row"] = len(known.keys() - {row.id for row in rows})
    return Exported(tuple(collected.samples), dict(collected.counts))


def write(path: str | Path, samples: Sequence[Sample]) -> None:
    """Write samples as JSONL: `messages` in the form of TRL's SFTTrainer, and the samples' other fields.

    Raises StoreError when the file cannot be written.
    """
    lines = [
        json.dumps({**sample._asdict(), "messages": list(sample.messages)}, ensure_ascii=False) for sample in samples
    ]
    store_whole(local_path(path), "".join(f"{line}\n" for line in lines))


_SOLVING = (Phase.DRAFT, Phase.REFINE)
_KINDS = ("traces", "drafts", "workspaces", "refinements")
_COUNTED = (
    *("rows", "right_rows", "examples_without_row"),
    *("duplicates", "truncated", "constrained", "other_prompt", "not_stored"),
)


def _refined(row: Row) -> bool:
    """Whether the last refinement of a row was right by its own answer, and not only the answer that the row fell back
    to."""
    score = row.rounds[-1].drafts[0].score
    return row.score >= RIGHT and row.stop == "done" and (score is None or score >= RIGHT)


class _Collected:
    def __init__(
        self,
        program: Operator,
        verifier: Verifier,
        budget: Budget | None,
        store: Rollouts,
        models: Sequence[str],
        what: str,
    ) -> None:
        self.what = what
        self.program = program.with_schedule(program.schedule.replace(**NAMED_MODELS))
        self.lms = [ReplayLM(str(model)) for model in models]
        self.verifier = verifier
        self.budget = budget
        self.store = store
        self.samples: list[Sample] = []
        kinds = ("summaries",) if what == "summaries" else _KINDS
        self.counts: Counter[str] = Counter(dict.fromkeys((*kinds, *_COUNTED), 0))
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
        """The kind of a right call; None for a call that was not right."""
        if call.failure is not None or call.phase in (Phase.JUDGE, Phase.PROPOSE) or call.round > len(row.rounds):
            return None
        if call.finish == "continued":  # a second request continued the turn
            return None
        if call.part == JSON_PART:
            return None
        if self.what == "summaries":
            return "summary" if call.phase is Phase.DISTILL and _refined(row) else None
        if call.phase not in _SOLVING:
            return "workspace" if row.score >= RIGHT else None
        drafts = row.rounds[call.round - 1].drafts
        solving = {other.index for other in row.calls if other.round == call.round and other.phase in _SOLVING}
        if len(drafts) != len(solving):  # the round ended early; the row does not map drafts to calls
            return None
        score = drafts[call.index].score
        if score is None and call.round == len(row.rounds):  # a judge scores the final answer only
            score = row.score if row.stop in (None, "done") else 0.0
        if score is None or score < RIGHT:
            return None
        if call.phase is Phase.REFINE:
            return "refinement"
        return "trace" if self.program.schedule.rounds == 1 else "draft"

    def _replay(self, row: Row, example: dspy.Example) -> dict[str, list[dict[str, str]]]:
        """The prompts of a row's calls as the program renders them, by the address of the request. An address names the
        model; of a program with several each call has one of them."""
        prompts: dict[str, list[dict[str, str]]] = {}
        for lm in self.lms:
            prompts |= self._replay_on(lm, row, example)
        return prompts

    def _replay_on(self, lm: ReplayLM, row: Row, example: dspy.Example) -> dict[str, list[dict[str, str]]]:
        lm.begin(row, self.store)
        self.program.set_lm(lm)
        replayed: list[Call] = []
        inputs = inputs_of(self.program, example) | ({} if self.budget is None else {"budget": self.budget})

        def oracle(outputs: Mapping[str, Any]) -> float:
            return float(verdict(self.verifier, example, dspy.Prediction(**outputs)))

        heard = {"on_call": replayed.append, "on_failed_round": lambda why: None}  # the row has it
        same = calls.session(store=None, seed=row.seed, oracle=oracle, **heard)
        with same, dspy.context(trace=None), suppress(RoundFailed):
            self.program(**inputs)
        return {call.key: lm.prompts[call.seed] for call in replayed if call.seed in lm.prompts}

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
        self.counts["summaries" if kind == "summary" else f"{kind}s"] += 1
