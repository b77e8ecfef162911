"""Verdicts and picks that were made with the gold answer in view, as a chat dataset whose prompts are without it.

Self-trained verification (arXiv 2605.30290): a model that sees the gold answer tells right drafts from wrong ones, and
then learns to say the same without it. The prompts are those that the program sends at inference, rendered by the
program itself; the gold answer decides what the assistant's turn says, and is nowhere in the example.

The assistant's turn is the label alone, in the form of the program's own reply, or with `teacher` the turn of a model
that reads the reference answer too. A teacher's turn is kept only if the verifier agrees with it and it does not speak
of the reference.
"""

from __future__ import annotations

import json
import logging
import random
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import dspy

from pdr_dspy import calls
from pdr_dspy.calls.failures import CallError
from pdr_dspy.calls.ledger import Phase
from pdr_dspy.calls.request import Sampling
from pdr_dspy.calls.store import Rollouts
from pdr_dspy.errors import ConfigError, DataError, PDRError, StoreError
from pdr_dspy.evaluation import Runner, ids_of
from pdr_dspy.evaluation.records import Row, read_rows
from pdr_dspy.evaluation.runner import inputs_of
from pdr_dspy.operators.operator import Operator
from pdr_dspy.operators.schedule import MAX_WIDTH
from pdr_dspy.operators.workspace import Draft
from pdr_dspy.prompts.form import label
from pdr_dspy.prompts.render import render
from pdr_dspy.prompts.roles import Role, signature_of
from pdr_dspy.runtime import event_loop
from pdr_dspy.runtime.atomic_write import local_path
from pdr_dspy.runtime.raised_by import in_words
from pdr_dspy.training.export_sft import Exported, Sample
from pdr_dspy.training.replay import NAMED_MODELS, Replay, Replayed, evaluation_config
from pdr_dspy.verifiers import RIGHT, Metric, Score, Verifier, as_verifier
from pdr_dspy.verifiers.base import verdict
from pdr_dspy.verifiers.checks import AsyncCheck, CalibratedCheck, JudgeCheck
from pdr_dspy.verifiers.checks.served import ModelCheck
from pdr_dspy.verifiers.words import weights_of

logger = logging.getLogger("pdr_dspy")

_WHOLE_ROUNDS = {"quorum": 1.0, "agree": None, "stop_at": None, "first_wave": None, "next_wave": None, "keep": False}
"""The settings of a schedule under which no round ends early."""


def export_picks(
    run_dir: str | Path,
    program: dspy.Module,
    examples: Sequence[dspy.Example],
    verifier: Verifier | Metric,
    *,
    teacher: dspy.LM | None = None,
    orders: int | None = None,
    seed: int = 0,
) -> Exported:
    """The select calls of `program` over the first-round drafts of an evaluation, with the picks of who saw the gold.

    A pick names `Schedule.k` candidates, the right ones first; a random choice among them if there are more, and random
    others after them if there are fewer. Questions whose drafts are all right or all wrong leave nothing to pick and
    are left out. The prompts are those of a server whose context holds all candidates.

    Args:
        run_dir: a folder that `evaluate(run_dir=...)` or `pdr eval` wrote, with its rollout store. The evaluated
            program may be another one than `program` if its first-round drafts are the same calls, as those of
            best-of-8 and of PDR with widths (8, 1) are.
        program: an operator whose distiller makes select calls, such as PDR with "topk".
        examples: the evaluated examples, with their ids; others are ignored.
        verifier: decides which drafts are right where the rows do not tell.
        teacher: a model that reads the reference answer and picks with reasons; None writes the picks alone.
        orders: prompts for each row, with the candidates in that many orders; None is as many as the program asks.
        seed: of the random choices.

    Raises:
        ConfigError: the program makes no select calls, or an argument is invalid.
        StoreError: the folder holds no evaluation, or none of these examples.
        DataError: a teacher needs a gold answer, and an example has none.
    """
    return _exported(run_dir, examples, _picks(program, verifier, teacher, orders, seed))


class Asked(NamedTuple):
    """One select call with something to pick: some of its candidates are right and some are not."""

    id: str
    """The id of the question."""
    repeat: int
    messages: list[dict[str, Any]]
    right: frozenset[int]
    """The places of the right candidates, from 1."""
    replies: tuple[str, ...]
    """For each candidate, the turn that picks it alone."""


def asked_picks(
    run_dir: str | Path,
    program: dspy.Module,
    examples: Sequence[dspy.Example],
    verifier: Verifier | Metric,
    *,
    orders: int | None = None,
) -> tuple[Asked, ...]:
    """The select calls of `program` over the first-round drafts of an evaluation, with the right candidates of each, to
    measure a picker. Arguments and errors are those of `export_picks`."""
    picks = _picks(program, verifier, None, orders, 0)
    found: list[Asked] = []
    for row, example, replayed in _replays(run_dir, examples, picks):
        try:
            calls_of_row = [] if isinstance(replayed, str) else list(picks.wanted(row, example, replayed))
        except _Ungraded as error:
            picks.labels.say(error)
            continue
        for wanted in calls_of_row:
            if isinstance(wanted, _Wanted):
                predictor = picks.asking.predictor(Role.SELECT)
                places = range(1, wanted.candidates + 1)
                replies = tuple(_written(predictor, wanted.inputs, {"selected": [place]}) for place in places)
                messages = _prompt(predictor, wanted.inputs)
                found.append(Asked(row.id, row.repeat, messages, frozenset(wanted.good), replies))
    return tuple(found)


def export_verdicts(
    run_dir: str | Path,
    program: dspy.Module,
    examples: Sequence[dspy.Example],
    verifier: Verifier | Metric,
    *,
    teacher: dspy.LM | None = None,
) -> Exported:
    """The calls of the `JudgeCheck` of `program` on the first-round drafts of an evaluation, with the verdicts of who
    saw the gold: Yes for a right draft and No for a wrong one.

    The mix of right and wrong drafts is left as it came, so that the learnt probabilities are those of the task.
    Arguments and errors are those of `export_picks`; the program needs a `JudgeCheck`.
    """
    operator = _operator(program, "export_verdicts")
    return _exported(run_dir, examples, _Verdicts(operator, as_verifier(verifier), teacher))


_COUNTED = (
    "rows",
    "no_choice",
    "duplicates",
    "not_stored",
    "other_prompt",
    "disagreed",
    "leaked",
    "failed",
    "ungraded",
)
"""Beside `picks` or `verdicts`, the samples: rows; rows whose drafts are all right or all wrong (picks), or were not
answered (verdicts); equal samples; rows without a stored draft, or whose drafts are other calls of this program;
turns of the teacher that the verifier disagrees with, that speak of the reference, or that failed; and rows (picks) or
drafts (verdicts) that the verifier failed on."""
_TOLD = re.compile(r"\breference\b|\bgold(?:en)?\b", re.IGNORECASE)
_REFERENCE = "reference_answer"
_BY_REFERENCE = """\
You are also given a reference answer, which is right. Decide by it, but give only reasons that can be seen in the
problem and the candidates themselves, and do not mention the reference."""


class _Turn(NamedTuple):
    """One call as the program sends it, and the assistant's turn to learn; None if there is nothing to learn."""

    messages: list[dict[str, Any]]
    text: str | None
    reason: str = ""
    """Why there is no turn: a name of `_COUNTED`."""


class _Wanted(NamedTuple):
    """A select call."""

    inputs: dict[str, Any]
    numbers: list[int]
    """The places to pick."""
    good: set[int]
    """The places of the right candidates."""
    candidates: int
    """How many there are."""


def _replays(
    run_dir: str | Path, examples: Sequence[dspy.Example], maker: _Picks | _Verdicts
) -> Iterator[tuple[Row, dspy.Example, Replayed | str]]:
    """The rows of these examples, each with its first round run again, or the count of why it was not."""
    folder = local_path(run_dir)
    config = evaluation_config(folder)
    known = dict(zip(ids_of(examples), examples, strict=True))
    rows = list(read_rows(folder / "rows.jsonl").values())
    if not any(row.id in known for row in rows):
        raise StoreError(
            f"{folder} has no finished row for these {len(known)} examples; give the data of its evaluation"
        )
    with Rollouts(folder / "rollouts") as store:
        replay = Replay(maker.program, store, config.get("models") or ["replay/model"], begin=maker.begin)
        for row in sorted(rows, key=lambda row: (row.id, row.repeat)):
            if row.id in known:
                yield row, known[row.id], replay.run(row, inputs_of(maker.program, known[row.id]))


def _exported(run_dir: str | Path, examples: Sequence[dspy.Example], maker: _Picks | _Verdicts) -> Exported:
    counts: Counter[str] = Counter(dict.fromkeys((f"{maker.kind}s", *_COUNTED), 0))
    samples: list[Sample] = []
    seen: set[str] = set()
    for row, example, replayed in _replays(run_dir, examples, maker):
        counts["rows"] += 1
        if isinstance(replayed, str):
            counts[replayed] += 1
            continue
        for turn in maker.turns(row, example, replayed):
            if turn.text is None:
                counts[turn.reason] += 1
                continue
            messages = (*turn.messages, {"role": "assistant", "content": turn.text})
            content = json.dumps(messages, sort_keys=True)
            counts["duplicates" if content in seen else f"{maker.kind}s"] += 1
            if content not in seen:
                samples.append(Sample(maker.kind, messages, row.id, row.repeat, 1))
            seen.add(content)
    return Exported(tuple(samples), dict(counts))


def _picks(
    program: dspy.Module, verifier: Verifier | Metric, teacher: dspy.LM | None, orders: int | None, seed: int
) -> _Picks:
    operator = _operator(program, "export_picks")
    schedule = operator.schedule
    if schedule.distill_role is not Role.SELECT:
        raise ConfigError(
            f"`export_picks(program=...)` needs a program that makes select calls, such as "
            f'`Schedule(distiller="topk")`, got {schedule}'
        )
    if orders is not None and not 1 <= orders <= MAX_WIDTH:
        raise ConfigError(f"`export_picks(orders={orders!r})` must be from 1 to {MAX_WIDTH}, or None")
    check = operator.checks[schedule.check] if schedule.check else None
    if isinstance(check.base if isinstance(check, CalibratedCheck) else check, ModelCheck):
        raise ConfigError(
            f"`export_picks(program=...)` shows candidates with results of the check {schedule.check!r}, which asks a "
            "model; an export asks none: give a program without that check"
        )
    return _Picks(operator, as_verifier(verifier), teacher, orders, seed)


class _Picks:
    """Makes the turns of a picker."""

    kind: Literal["pick"] = "pick"

    def __init__(
        self, program: Operator, verifier: Verifier, teacher: dspy.LM | None, orders: int | None, seed: int
    ) -> None:
        schedule = program.schedule
        self.asking = program
        self.orders = schedule.distill_calls(0) if orders is None else orders
        self.seed = seed
        self.labels = _Labels(program, verifier)
        self.teacher = None if teacher is None else _with_reference(program.predictor(Role.SELECT), teacher)
        first = schedule.widths[0]
        per_sample = {} if orders is None else {"distiller": "topk_per_sample"}
        plain = {**_WHOLE_ROUNDS, "final": "refine"}
        widths = (first, max(first, self.orders), 1)
        self.program = program.with_schedule(
            schedule.replace(widths=widths, k=first, kappa=10**9, **per_sample, **plain, **NAMED_MODELS)
        )

    def begin(self) -> None:
        """Nothing is kept of a replay."""

    def wanted(self, row: Row, example: dspy.Example, replayed: Replayed) -> Iterator[_Wanted | None]:
        """The select calls of a row; None for one that has nothing to pick."""
        right = self.labels.right(row, example, replayed.round.drafts)
        for number, inputs in enumerate(replayed.asked[: self.orders]):
            order = replayed.round.workspaces[number].sources
            good = {place for place, index in enumerate(order, start=1) if index in right}
            k = min(self.asking.schedule.k, len(order))
            if not good or len(good) == len(order) or k == len(order):
                yield None
                continue
            source = random.Random(f"{self.seed}|{row.id}|{row.repeat}|{number}")
            chosen = sorted(source.sample(sorted(good), min(k, len(good))))
            others = [place for place in range(1, len(order) + 1) if place not in good]
            numbers = [*chosen, *sorted(source.sample(others, k - len(chosen)))]
            yield _Wanted(inputs, numbers, good, len(order))

    def turns(self, row: Row, example: dspy.Example, replayed: Replayed) -> Iterator[_Turn]:
        """The select calls of a row, as turns to learn."""
        predictor = self.asking.predictor(Role.SELECT)
        try:
            asked = list(self.wanted(row, example, replayed))
        except _Ungraded as error:
            self.labels.say(error)
            yield _Turn([], None, "ungraded")
            return
        wanted = [each for each in asked if each is not None]
        yield from [_Turn([], None, "no_choice")] * (len(asked) - len(wanted))
        if self.teacher is None:
            turns = [_Turn([], _written(predictor, each.inputs, {"selected": each.numbers})) for each in wanted]
        else:
            turns = self._taught(row, example, wanted) if wanted else []
        for each, turn in zip(wanted, turns, strict=True):
            yield turn._replace(messages=_prompt(predictor, each.inputs))

    def _taught(self, row: Row, example: dspy.Example, wanted: Sequence[_Wanted]) -> list[_Turn]:
        """The teacher's turns."""
        predictor, gold, schedule = self.teacher, self.labels.gold(example), self.asking.schedule
        assert predictor is not None
        values = [{**each.inputs, _REFERENCE: gold} for each in wanted]
        site = calls.CallSite(Phase.SELECT, 1, calls.identity(inputs_of(self.asking, example)), row.seed)
        temperature = schedule.temperature if schedule.distill_temperature is None else schedule.distill_temperature
        thinking = schedule.thinking_tokens
        sampling = Sampling(schedule.distill_cap + thinking, temperature, schedule.top_p, thinking)
        with dspy.context(trace=None):
            replies = event_loop.run(lambda: calls.ask(predictor, values, site=site, sampling=sampling))
        turns = []
        for reply, (inputs, numbers, good, _) in zip(replies, wanted, strict=True):
            named = list(dict.fromkeys(reply.reading.outputs.get("selected") or ()))
            if reply.call.failure is not None or reply.call.truncated:
                turns.append(_Turn([], None, "failed"))
            elif sum(number in good for number in named[: len(numbers)]) < min(len(numbers), len(good)):
                turns.append(_Turn([], None, "disagreed"))
            elif _tells(reply.text, gold, str(inputs)):
                turns.append(_Turn([], None, "leaked"))
            else:
                turns.append(_Turn([], reply.text))
        return turns


class _Verdicts:
    """Makes the turns of a judge."""

    kind: Literal["verdict"] = "verdict"

    def __init__(self, program: Operator, verifier: Verifier, teacher: dspy.LM | None) -> None:
        self.labels = _Labels(program, verifier)
        self.teacher = teacher
        name, self.judge = _judge_of(program)
        self.shown = _Shown(self.judge.reads_solution)
        first = program.schedule.widths[0]
        one = {**_WHOLE_ROUNDS, "distiller": "summary"}
        final = {"final": "vote" if first > 1 else "refine", "critique": False, "check": name}
        self.program = program.with_schedule(program.schedule.replace(widths=(first,), **one, **final, **NAMED_MODELS))
        self.program.checks = dict[str, AsyncCheck]({name: self.shown})

    def begin(self) -> None:
        """Forget what was shown before."""
        self.shown.seen = []

    def turns(self, row: Row, example: dspy.Example, replayed: Replayed) -> Iterator[_Turn]:
        """The verdicts on the drafts of a row."""
        for inputs, outputs in self.shown.seen:
            messages = self.judge.messages(inputs, outputs)
            answer = {name: value for name, value in outputs.items() if name in self.labels.fields}
            if messages is None:
                yield _Turn([], None, "no_choice")
                continue
            try:
                right = self.labels.is_right(example, answer)
            except _Ungraded as error:
                self.labels.say(error)
                yield _Turn([], None, "ungraded")
                continue
            turn = _Turn([], "Yes" if right else "No")
            if self.teacher is not None:
                turn = self._taught(example, inputs, outputs, right)
            yield turn._replace(messages=messages)

    def _taught(
        self, example: dspy.Example, inputs: Mapping[str, Any], outputs: Mapping[str, Any], right: bool
    ) -> _Turn:
        """The teacher's verdict."""
        gold = self.labels.gold(example)
        messages = self.judge.messages(inputs, outputs, reference=gold)
        assert self.teacher is not None
        assert messages is not None
        lm, cap, words = self.teacher, self.judge.max_tokens, ("Yes", "No")

        def read(logprobs: Any, text: str) -> Any:
            return {"yes": weights_of(logprobs, text, words)["Yes"], "text": text}

        try:
            given = event_loop.run(lambda: calls.weigh(lm, messages, read, cap=cap, words=words))
        except CallError:
            return _Turn([], None, "failed")
        text = str(given.value["text"]).strip() if cap > 1 else ("Yes" if right else "No")
        if (given.value["yes"] >= 0.5) != right:
            return _Turn([], None, "disagreed")
        if _tells(text, gold, str(inputs) + str(outputs)):
            return _Turn([], None, "leaked")
        return _Turn([], text)


class _Shown:
    """Stands in for a check and keeps what it is shown."""

    def __init__(self, reads_solution: bool) -> None:
        self.reads_solution = reads_solution
        self.seen: list[tuple[dict[str, Any], dict[str, Any]]] = []

    async def acheck(self, inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> Score:
        self.seen.append((dict(inputs), dict(outputs)))
        return Score(0)

    def __deepcopy__(self, memo: dict[int, Any]) -> _Shown:
        return self


class _Ungraded(Exception):
    """A verifier that failed on a draft."""


class _Labels:
    """Which drafts are right, and the gold answer for a teacher."""

    def __init__(self, program: Operator, verifier: Verifier) -> None:
        self.verifier = verifier
        self.program = program
        self.fields = tuple(program.task.output_fields)
        self._known: dict[str, bool] = {}
        self._said = False

    def say(self, error: _Ungraded) -> None:
        """Log the first failure of the verifier."""
        if not self._said:
            logger.warning("a draft is left out, and counted as `ungraded`, since the verifier failed: %s", error)
        self._said = True

    def right(self, row: Row, example: dspy.Example, drafts: Sequence[Draft]) -> set[int]:
        """The indices of the right drafts: by the row's scores, or graded if the row has none."""
        scored = row.rounds[0].drafts if row.rounds else ()
        if len(scored) == len(drafts) and all(draft.score is not None for draft in scored):
            return {draft.index for draft, known in zip(drafts, scored, strict=True) if (known.score or 0.0) >= RIGHT}
        return {draft.index for draft in drafts if self.is_right(example, draft.outputs)}

    def is_right(self, example: dspy.Example, outputs: Mapping[str, Any]) -> bool:
        """The verifier's verdict on an answer, asked once for each. Raises _Ungraded if it fails."""
        if any(name not in outputs for name in self.fields):
            return False
        key = repr((sorted(example.items(), key=str), sorted(outputs.items(), key=str)))
        if key not in self._known:
            try:
                self._known[key] = float(verdict(self.verifier, example, dspy.Prediction(**outputs))) >= RIGHT
            except PDRError:
                raise
            except Exception as error:  # a user's verifier may raise anything
                raise _Ungraded(in_words(error)) from error
        return self._known[key]

    def gold(self, example: dspy.Example) -> str:
        """The gold answer as text. Raises DataError without one."""
        runner = Runner(self.program, self.verifier, threads=1)
        try:
            found = runner.gold(example)
        finally:
            runner.close()
        if found is None or not found.strip():
            raise DataError(
                f"example {str(example.get('id', example))[:80]!r} has no gold answer that a teacher could read; "
                "export without a teacher"
            )
        return found


def _operator(program: dspy.Module, called: str) -> Operator:
    if not isinstance(program, Operator):
        raise ConfigError(f"`{called}(program=...)` must be an operator, such as PDR, not `{type(program).__name__}`")
    return program


def _judge_of(program: Operator) -> tuple[str, JudgeCheck]:
    """The program's JudgeCheck, that of its schedule first, and its name."""
    names = sorted(program.checks, key=lambda name: name != program.schedule.check)
    for name in names:
        check = program.checks[name]
        check = check.base if isinstance(check, CalibratedCheck) else check
        if isinstance(check, JudgeCheck):
            return name, check
    raise ConfigError(
        f"`export_verdicts(program=...)` needs a program with a JudgeCheck, whose verdicts are learnt; it has the "
        f"checks {', '.join(names) or 'none'}: `PDR(..., check=JudgeCheck())`"
    )


def _with_reference(predictor: dspy.Predict, teacher: dspy.LM) -> dspy.Predict:
    """A predictor for the same turn that reads the reference answer too."""
    signature = signature_of(predictor)
    field = dspy.InputField(desc="the right answer, which only you see")
    told = signature.append(_REFERENCE, field, str).with_instructions(f"{signature.instructions}\n\n{_BY_REFERENCE}")
    made = dspy.Predict(told)
    made.demos, made.lm = predictor.demos, teacher
    return made


def _prompt(predictor: dspy.Predict, inputs: Mapping[str, Any]) -> list[dict[str, Any]]:
    return render(signature_of(predictor), predictor.demos, inputs)


def _written(predictor: dspy.Predict, inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> str:
    """A turn of the assistant as the program's prompts show one; in this library's form if a user's adapter shows
    none."""
    shown = render(signature_of(predictor), [{**inputs, **outputs}], inputs)
    own = "\n".join(f"{label(name)}: {value}" for name, value in outputs.items())
    return str(next((message["content"] for message in reversed(shown) if message["role"] == "assistant"), own))


def _tells(text: str, gold: str, prompt: str) -> bool:
    """Whether a turn speaks of the reference, or says a gold answer that is not in its prompt."""
    return _TOLD.search(text) is not None or (gold in text and gold not in prompt)
