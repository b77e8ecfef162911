"""The contract of a distiller."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import dspy

from pdr_dspy import calls
from pdr_dspy.calls.ledger import Call, Usage
from pdr_dspy.calls.output_format import OutputFormat
from pdr_dspy.calls.predict import Reply
from pdr_dspy.operators import PDR
from pdr_dspy.operators.distillers import DISTILLERS, Distilled, Distiller, DistillerInput
from pdr_dspy.operators.schedule import MIN_CANDIDATE_TOKENS, Schedule
from pdr_dspy.operators.workspace import Draft
from pdr_dspy.prompts.parse import Reading
from pdr_dspy.prompts.roles import Role
from pdr_dspy.runtime import event_loop
from pdr_dspy.testing.scripted import ScriptedRequest, count_words, scripted_lm
from pdr_dspy.verifiers.base import Score

_SAID = (
    "Notes: the first holds.",
    "Selected: [2, 1]",
    "[1]",
    "[99, 0]",
    "Candidate 2 and candidate 1",
    "",
    "word " * 900,
)
"""Completions that a model may give a distiller."""
_SOLUTIONS = (
    "1 + 1 = 2.\nAnswer: 2",
    "Candidate 7:\nI am another candidate.\nAnswer: 3",
    "Question: What is your name?\nAnswer: [1, 2, 3]",
    "step by step " * 200 + "\nAnswer: 2",
    "x" * 4000,
    "。" * 300,
    " ",
)
_WIDTHS = (1, 2, 3, 8)


class _Case(NamedTuple):
    what: str
    drafts: tuple[Draft, ...]
    next_width: int
    k: int
    kappa: int
    tally: bool
    said: str | None
    """The model's answer; None for a call that fails."""


def check_distiller(part: Distiller | str) -> None:
    """Raise AssertionError if a distiller violates its contract.

    Args:
        part: the result of `@pdr_dspy.distiller`, or the name of a registered distiller.

    The contract: `calls` is a number of calls for every width, and a round makes at most that many; there is a
    workspace for each draft of the next round, made of drafts of this round, of at most kappa tokens, counted
    correctly; the same drafts and seed give the same workspaces, independently of other random draws; a failed call
    raises nothing and is on the ledger; fewer drafts than k are enough; the ledger of a program with it equals the
    server's record, and the program stays within the calls and the bound of its schedule.
    """
    distiller = DISTILLERS.find(part) if isinstance(part, str) else part
    assert isinstance(distiller, Distiller), (
        f"a distiller is a `Distiller`, got {distiller!r}: decorate the function with `@pdr_dspy.distiller(name)`"
    )
    name = distiller.name
    for width in _WIDTHS:
        number = distiller.calls(width)
        assert isinstance(number, int), f"{name}: `calls({width})` is a number of calls, got {number!r}"
        assert number >= 0, f"{name}: `calls({width})` is a number of calls, got {number}"
        assert number == distiller.calls(width), f"{name}: `calls({width})` must not change from call to call"
        assert (number > 0) == (distiller.role is not None), (
            f"{name}: `calls({width})` is {number}, and `role={distiller.role}`: a distiller with a role calls it"
        )
    for case in _cases(distiller):
        _check_case(distiller, case)
    _check_program(distiller)


def _cases(distiller: Distiller) -> Iterator[_Case]:
    sizes = (1,) if distiller.chain else (1, 2, 5)
    for size in sizes:
        for next_width in (1,) if distiller.chain else (1, 3):
            for said in _SAID if distiller.role is not None else _SAID[:1]:
                yield _Case("plain", _drafts(size), next_width, 2, 400, False, said)
    wide = _drafts(1 if distiller.chain else len(_SOLUTIONS))
    next_width = 1 if distiller.chain else 2
    least = MIN_CANDIDATE_TOKENS * (2 if distiller.uses_k else 1)
    for kappa in (least, least + 13, 4 * least):
        yield _Case("small kappa", wide, next_width, 2, kappa, False, "word " * 200)
        yield _Case("small kappa with a tally", wide, next_width, 2, kappa, not distiller.chain, "word " * 200)
    yield _Case("unfinished drafts", tuple(d.model_copy(update={"truncated": True}) for d in wide), next_width, 2, 200,
                False, "[1, 2]")  # fmt: skip
    yield _Case("no readable answers", tuple(d.model_copy(update={"outputs": {}}) for d in wide), next_width, 2, 200,
                False, "[1, 2]")  # fmt: skip
    if not distiller.chain:
        others = tuple(draft for draft in wide if draft.index % 2)
        yield _Case("some drafts failed", others, next_width, 4, 400, True, "[1, 2]")
    if distiller.role is not None:
        yield _Case("the calls fail", wide, next_width, 2, 400, False, None)


def _drafts(size: int) -> tuple[Draft, ...]:
    texts = [_SOLUTIONS[index % len(_SOLUTIONS)] for index in range(size)]
    return tuple(
        Draft(round=1, index=index, solution=text, outputs={"answer": str(2 + index % 2)})
        for index, text in enumerate(texts)
    )


def _check_case(distiller: Distiller, case: _Case) -> None:
    where = (
        f"{distiller.name}, {case.what} ({len(case.drafts)} drafts, {case.next_width} next, k={case.k}, "
        f"kappa={case.kappa}, the model answers {None if case.said is None else case.said[:30]!r})"
    )
    first, made = _distil(distiller, case, where)
    assert made <= distiller.calls(case.next_width), (
        f"{where}: it made {made} calls, `calls({case.next_width})` is {distiller.calls(case.next_width)}"
    )
    there = {draft.index for draft in case.drafts}
    for workspace in first.workspaces:
        counted = count_words(workspace.text)
        assert workspace.tokens == counted, f"{where}: a workspace says {workspace.tokens} tokens and has {counted}"
        assert counted <= case.kappa, f"{where}: a workspace has {counted} tokens, above kappa"
        strange = [index for index in workspace.sources if index not in there]
        assert not strange, f"{where}: a workspace names the draft {strange[:1]} as a source, which is not in the round"
    assert len(first.calls or ()) == made, f"{where}: {made} calls were made and {len(first.calls or ())} returned"
    if case.said is None:
        failed = sum(call.failure is not None for call in first.calls or ())
        assert failed == made, f"{where}: {made} calls failed, {failed} are recorded as failed on the ledger"
    state = random.getstate()
    try:
        random.seed(len(where))
        again, _ = _distil(distiller, case, where)
    finally:
        random.setstate(state)
    assert again == first, (
        f"{where}: the same drafts and seed gave other workspaces; draw random numbers only with `given.rng(purpose)`"
    )


def _distil(distiller: Distiller, case: _Case, where: str) -> tuple[Distilled, int]:
    made = 0

    async def ask(values: Sequence[Mapping[str, Any]], forms: Sequence[OutputFormat] = ()) -> list[Reply]:
        nonlocal made
        replies = []
        for index, value in enumerate(values):
            assert all(isinstance(key, str) and isinstance(text, str) for key, text in value.items()), (
                f"{where}: a call takes a mapping from the names of its inputs to texts, got {value!r}"
            )
            assert distiller.phase is not None
            call = Call(phase=distiller.phase, index=index, usage=Usage(input=9, output=9))
            if case.said is None:
                call = call.model_copy(update={"failure": "the server is down", "usage": Usage(input=9, output=0)})
                replies.append(Reply(call, "", Reading({}, ())))
                continue
            selected = case.said.removeprefix("Selected: ")
            outputs: dict[str, Any] = {}
            if distiller.role is Role.SELECT and selected.startswith("["):
                outputs["selected"] = [int(number) for number in selected.strip("[]").split(",")]
            replies.append(Reply(call, case.said.strip(), Reading(outputs, ())))
        made += len(values)
        return replies

    async def count(texts: Sequence[str]) -> list[int]:
        return [count_words(text) for text in texts]

    given = DistillerInput(
        drafts=case.drafts,
        next_width=case.next_width,
        k=case.k,
        kappa=case.kappa,
        tally=case.tally,
        seed=7,
        ask=ask,
        count=count,
        oracle=lambda outputs: float(outputs.get("answer") == "2"),
        headings=("Question",),
    )
    before = [draft.model_dump() for draft in case.drafts]
    try:
        distilled = event_loop.run(lambda: distiller(given))
    except AssertionError:
        raise
    except Exception as error:
        raise AssertionError(f"{where}: it raised {type(error).__name__}: {error}") from error
    assert [draft.model_dump() for draft in case.drafts] == before, f"{where}: it changed the drafts that it was given"
    return distilled, made


def _check_program(distiller: Distiller) -> None:
    """Run a program with the distiller, and compare its ledger with the server's record and the schedule's bounds."""
    name = distiller.name
    assert name in DISTILLERS, f"{name} is not registered: make it with `@pdr_dspy.distiller({name!r})`"
    widths = (1, 1, 1) if distiller.chain else (4, 3, 1)
    schedule = Schedule(widths=widths, distiller=name, k=2 if not distiller.chain else 1, kappa=160, draft_tokens=120)
    assert Schedule(**schedule.model_dump(mode="json")) == schedule, f"{name}: its schedule does not survive as JSON"
    program = PDR("question -> answer", schedule, check=_Check() if distiller.needs_check else None)
    runs = []
    for _ in range(2):
        lm = scripted_lm(_solver)
        with dspy.context(lm=lm), calls.session(oracle=lambda outputs: float(outputs.get("answer") == "2")):
            prediction = program(question="What is 1 + 1?", seed=3)
        ledger = prediction.ledger
        served = lm.served.input + lm.served.output
        assert ledger.total == served, f"{name}: a program's ledger has {ledger.total} tokens, its server {served}"
        most = schedule.output_bound()
        assert len(ledger) <= schedule.calls, f"{name}: {len(ledger)} calls, the schedule has {schedule.calls}"
        assert ledger.output <= most.total, f"{name}: {ledger.output} output tokens, the bound is {most.total}"
        assert ledger.sequential_output <= most.sequential, (
            f"{name}: {ledger.sequential_output} output tokens in a row, the bound is {most.sequential}"
        )
        runs.append((prediction.rounds, sorted(_prompt_and_seed(request) for request in lm.served.requests)))
    assert runs[0] == runs[1], f"{name}: a program with it made other calls in a second run with the same seed"


def _prompt_and_seed(request: ScriptedRequest) -> tuple[str, str, int]:
    return request.system, request.user, request.seed


def _solver(request: ScriptedRequest) -> str:
    if "Selected: <" in request.user:
        return "The second is right.\nSelected: [2, 1]"
    if "Candidates:" in request.user:
        return f"Notes of seed {request.seed}: they disagree. Check the sum."
    steps = "\n".join(f"Step {number}: seed {request.seed}." for number in range(1 + request.seed % 4))
    return f"{steps}\nAnswer: {2 + request.seed % 3}"


class _Check:
    """A check for distillers that need one: a longer answer scores higher."""

    async def acheck(self, inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> Score:
        return Score(min(len(str(outputs)) / 100, 1.0), "its length", feedback="be longer")
