"""Instructions that a model proposes: what it is shown, what is kept of its replies, and what that cost."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import dspy
import pytest
from dspy.utils.exceptions import LMServerError

from pdr_dspy import calls
from pdr_dspy.calls.ledger import Phase
from pdr_dspy.calls.store import Rollouts
from pdr_dspy.errors import ConfigError, DataError, EndpointError
from pdr_dspy.operators.operator import Operator
from pdr_dspy.operators.strategies import PDR, SR, LongCoT
from pdr_dspy.prompts.roles import Role, derive, signature_of
from pdr_dspy.search.proposing.failures import Failure
from pdr_dspy.search.proposing.instruction_checks import form_of, overlap, tidied
from pdr_dspy.search.proposing.instructions import Proposals, propose
from pdr_dspy.search.proposing.writer import TIPS
from pdr_dspy.search.space.space import Space
from pdr_dspy.testing import Completion, ScriptedRequest, count_words, scripted_lm
from tests.support.solver import engine, role_of

QA = "question -> answer"
NAMES = ("Ada", "Bo", "Cy", "Di", "Ed", "Flo", "Gus", "Hal")
TRAIN = [
    dspy.Example(
        question=f"{name} keeps {place + 3} red marbles in a box and finds {place + 40} more; how many are there now?",
        answer=str(2 * place + 43) + "00",
    ).with_inputs("question")
    for place, name in enumerate(NAMES[:6])
]
HELD_OUT = [
    dspy.Example(question=f"{name} walks {place} miles.", answer="77").with_inputs("question")
    for place, name in enumerate(NAMES[6:])
]
GOOD = [
    "Read the problem twice and write down each quantity with its unit before you add anything.",
    "Estimate the size of the result first; afterwards compare your computed value with that estimate.",
    "Solve it in two different ways. When they disagree, find the mistake and start over from there.",
    "List what is asked and what is known, then work backwards from the wanted quantity.",
    "Keep every intermediate sum on its own line so that errors are easy to spot later.",
    "Doubt the first idea that comes to mind, and look for a hidden condition in the wording.",
]


def writer(*texts: str) -> Callable[[ScriptedRequest], str]:
    """Gives the texts in turn, by the order of the calls' seeds."""

    def reply(request: ScriptedRequest) -> str:
        return texts[request.seed % len(texts)]

    return reply


def student(widths: tuple[int, ...] = (2, 1), **settings: Any) -> Operator:
    return PDR(QA, widths=widths, distiller="summary", draft_tokens=200, **settings)


def texts_of(proposals: Proposals) -> list[str]:
    return [proposal.text for proposal in proposals.proposals]


def reasons(*replies: str | Completion, program: dspy.Module | None = None, **options: Any) -> list[str]:
    """Why replies to one call each are refused, in the order of the calls."""
    found = []
    for reply in replies:
        lm = engine(lambda _, text=reply: text)
        proposals = propose(program or LongCoT(QA), TRAIN, lm=lm, count=1, **options)
        found += [one.reason for one in proposals.refused] or ["kept"]
    return found


def test_texts_for_every_role_that_the_schedule_calls() -> None:
    lm = engine(writer(*GOOD))
    proposals = propose(student(), TRAIN, lm=lm, count=3)
    assert set(proposals.instructions) == {"draft", "refine", "distill"}
    assert lm.served.calls == 9
    assert {proposal.tip for proposal in proposals.proposals} <= set(TIPS)
    assert all(proposal.tokens == count_words(proposal.text) for proposal in proposals.proposals)
    assert all(len(set(texts)) == len(texts) for texts in proposals.instructions.values())


def test_a_writer_that_is_away_is_named_with_what_to_do() -> None:
    def away(request: ScriptedRequest) -> str:
        raise ConnectionError("refused")

    with pytest.raises(EndpointError, match=r"writes instructions failed at writer/one: .*refused.*`prompt_model`"):
        propose(student(), TRAIN, lm=scripted_lm(away, model="writer/one"), count=1)


def test_named_roles_and_one_line_into_a_space() -> None:
    proposals = propose(student(), TRAIN, lm=engine(writer(*GOOD)), roles=("select", "draft"), count=2)
    space = Space.default_for(student().schedule).extend(instructions=proposals.instructions)
    assert set(space.instructions) == {"draft", "select"}
    assert space.extend(instructions=proposals.instructions) == space


def test_the_writer_is_shown_task_role_questions_and_failures_but_no_held_out_question() -> None:
    lm = engine(writer(*GOOD))
    hidden = calls.identity({"question": HELD_OUT[0].question})
    failures = [
        Failure(question="MISSED", answered="12", gold="13", workspace="MISLED", right=1, drafts=4, id="a"),
        Failure(question=HELD_OUT[0].question, answered="1", gold="77", id=hidden),
    ]
    proposals = propose(student(), TRAIN, failures=failures, lm=lm, count=2, held_out=HELD_OUT)
    for request in lm.served.requests:
        assert all(example.question not in request.user for example in HELD_OUT)
        assert sum(example.question in request.user for example in TRAIN) == 3
        assert not any(example.answer in request.user for example in TRAIN)
        assert all(part in request.user for part in ("MISSED", "Answered: 12", "Right is: 13", "Wanted: Answer."))
    seen = {
        role: [r for r in lm.served.requests if f"Role: {role}." in r.user] for role in ("draft", "refine", "distill")
    }
    assert all(len(requests) == 2 for requests in seen.values())
    assert all("MISLED" not in request.user for request in seen["draft"])
    assert all("MISLED" in r.user and "Of 4 earlier attempts 1 were right" in r.user for r in seen["refine"])
    tips = [tip for request in seen["draft"] for tip in TIPS.values() if tip in request.user]
    assert len(set(tips)) == 2
    identities = {calls.identity({"question": example.question}) for example in TRAIN} | {"a"}
    assert set(proposals.shown) <= identities
    assert "a" in proposals.shown


def test_failures_with_right_drafts_come_first_for_the_later_roles() -> None:
    failures = [Failure(question=f"plain {n}", id=str(n)) for n in range(20)]
    failures.append(Failure(question="LOST", right=2, drafts=4, id="lost"))
    lm = engine(writer(*GOOD))
    propose(student(), TRAIN, failures=failures, lm=lm, roles=("refine",), count=4)
    assert all("LOST" in request.user for request in lm.served.requests)
    assert all(request.user.count("plain ") == 2 for request in lm.served.requests)


def test_equal_arguments_give_equal_proposals_and_a_store_replays_them(tmp_path: Path) -> None:
    lm = engine(writer(*GOOD))
    with Rollouts(tmp_path) as store, calls.session(store=store):
        first = propose(student(), TRAIN, lm=lm, count=2, seed=5)
        sent = lm.served.calls
        again = propose(student(), TRAIN, lm=lm, count=2, seed=5)
        assert lm.served.calls == sent
        assert texts_of(first) == texts_of(again)
        assert (again.ledger.paid, again.ledger.total) == (0, first.ledger.total)
        propose(student(), TRAIN, lm=lm, count=2, seed=6)
        assert lm.served.calls == 2 * sent


def test_every_call_is_on_the_ledger() -> None:
    lm = engine(writer("no", *GOOD))
    proposals = propose(student(), TRAIN, lm=lm, count=4)
    assert len(proposals.ledger) == lm.served.calls == len(proposals.proposals) + len(proposals.refused)
    assert proposals.ledger.total == lm.served.input + lm.served.output
    assert {call.phase for call in proposals.ledger.calls} == {Phase.PROPOSE}
    assert proposals.ledger.sequential == 0


def test_json_both_ways() -> None:
    proposals = propose(student(), TRAIN, lm=engine(writer("no", *GOOD)), count=3)
    assert Proposals(**json.loads(proposals.model_dump_json())) == proposals
    assert str(len(proposals.refused)) in str(proposals)


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        ("", "the call failed: the completion is empty"),
        ("Sure!", "no instruction in words"),
        ("1 2 3 4 5 6 7 8 9 10 = + - * / 17 % 3 (4) {5}", "no instruction in words"),
        ("check the sum " * 30, "over and over"),
        ("Write the steps.\n" + "".join(f"Step {n}: Check the result.\n" for n in (1, 2, 3)), "over and over"),
        (f"{GOOD[0]}\nEnd with one line of exactly this form:\nResult", "form of the reply"),
        (f"{GOOD[0]}\nAnswer: <answer>", "form of the reply"),
        (f"{GOOD[0]}\nLast line: Answer: <the number>", "form of the reply"),
        (f"{GOOD[0]} Start with [[ ## answer ## ]] please.", "field markers"),
        (f"{GOOD[0]} For example, the total may be 4700.", "gives away the answer of a training question: '4700'"),
        (f"{GOOD[0]} For example, the total may be 4,700.", "gives away the answer of a training question: '4700'"),
        (f"{GOOD[0]} As in: Cy keeps 5 red marbles in a box and finds 42 more.", "copies a training question"),
        (f"{GOOD[0]} There may be 14700 or 4700.5 of them, 47001 even.", "kept"),
    ],
)
def test_what_cannot_be_used_is_refused_with_its_reason(reply: str, reason: str) -> None:
    assert reason in reasons(reply)[0]


def test_a_small_answer_may_be_named_but_not_as_the_answer() -> None:
    train = [dspy.Example(question=f"q{n}", answer=str(n)).with_inputs("question") for n in range(9)]

    def of(text: str) -> bool:
        return bool(propose(LongCoT(QA), train, lm=engine(lambda _: text), count=1).proposals)

    assert of(f"{GOOD[0]} Do it in 3 steps.")
    assert not of(f"{GOOD[0]} Mostly the answer is 3.")


def test_labels_are_no_secret() -> None:
    class Sort(dspy.Signature):
        """Sort the review."""

        review: str = dspy.InputField()
        verdict: Literal["positive", "negative"] = dspy.OutputField()

    text = f"{GOOD[0]} Call it positive when praise outweighs blame."
    few = [
        dspy.Example(review=f"r{n}", verdict="positive" if n else "negative").with_inputs("review") for n in range(2)
    ]
    assert propose(LongCoT(Sort), few, lm=engine(lambda _: text), count=1).proposals
    plain = LongCoT("review -> verdict")
    assert not propose(plain, few, lm=engine(lambda _: text), count=1).proposals
    many = [
        dspy.Example(review=f"r{n}", verdict=("positive", "negative")[n % 2]).with_inputs("review") for n in range(8)
    ]
    assert propose(plain, many, lm=engine(lambda _: text), count=1).proposals


def test_texts_are_bounded_in_tokens() -> None:
    assert reasons(GOOD[0], max_tokens=200) == ["kept"]
    assert reasons(GOOD[0], max_tokens=10) == ["the cap of 10 tokens ended it"]
    long = Completion(GOOD[0], thought="Hm. " * 3)
    assert reasons(long, max_tokens=12, thinking_tokens=30) == [f"it has {count_words(GOOD[0])} tokens, the most is 12"]
    lm = engine(lambda _: GOOD[0])
    propose(LongCoT(QA), TRAIN, lm=lm, count=1, max_tokens=100, thinking_tokens=50)
    assert lm.served.requests[0].cap == 150


def test_copies_and_near_copies_are_refused() -> None:
    own = signature_of(student().draft).instructions  # type: ignore[attr-defined]
    near = GOOD[0].replace("twice", "carefully")
    lm = engine(
        lambda r: [GOOD[0], f"Instruction: {GOOD[0].upper()}", near, own, f"{own} Please.", GOOD[1]][r.seed % 256]
    )
    proposals = propose(student(), TRAIN, lm=lm, roles=("draft",), count=6)
    assert texts_of(proposals) == [GOOD[0], GOOD[1]]
    assert [one.reason for one in proposals.refused] == [
        "it is there already",
        "it is nearly the same as one that is there already",
        "it is there already",
        "it is nearly the same as one that is there already",
    ]
    assert overlap(GOOD[0], GOOD[0]) == 1
    assert overlap("a b", "c d") == 0


@pytest.mark.parametrize(
    "reply",
    [
        f"```\n{GOOD[0]}\n```",
        f"```text\n{GOOD[0]}\n```",
        f'"{GOOD[0]}"',
        f"**Instruction:** {GOOD[0]}",
        f"## New instructions:\n\n{GOOD[0]}",
        f"Sure! Here is a better instruction for the role:\n\n{GOOD[0]}",
        f"Here it is:\n```markdown\n{GOOD[0]}\n```\nTell me what you think.",
        f"<think>What to say?</think>\n{GOOD[0]}",
    ],
)
def test_wrapping_is_taken_off(reply: str) -> None:
    assert texts_of(propose(LongCoT(QA), TRAIN, lm=engine(lambda _: reply), count=1)) == [GOOD[0]]


def test_inner_quotation_marks_stay() -> None:
    assert tidied('"Yes" is no proof, and neither is "no"') == '"Yes" is no proof, and neither is "no"'


@pytest.mark.parametrize("role", list(Role))
def test_the_form_of_every_role_is_known_and_not_in_its_own_instructions(role: Role) -> None:
    signature = derive(LongCoT(QA).task, role)
    assert form_of(signature)
    assert not any(line in signature.instructions.casefold() for line in form_of(signature))


def test_one_failed_call_is_a_reason_and_a_dead_server_an_error() -> None:
    def sometimes(request: ScriptedRequest) -> str:
        if request.seed % 2:
            raise LMServerError(model="scripted", provider=None, message="overloaded")
        return GOOD[request.seed % 256 // 2]

    proposals = propose(student(), TRAIN, lm=engine(sometimes), roles=("draft",), count=4)
    assert len(proposals.proposals) == len(proposals.refused) == 2
    assert all("overloaded" in one.reason for one in proposals.refused)

    def dead(_: ScriptedRequest) -> str:
        raise ConnectionRefusedError("nobody listens")

    with pytest.raises(EndpointError, match="nobody listens"):
        propose(student(), TRAIN, lm=engine(dead), count=2)


def test_a_short_context_gets_fewer_questions_and_failures() -> None:
    failures = [Failure(question=f"FAILED {n} " + "word " * 60, id=str(n)) for n in range(3)]

    def shown(context: int | None) -> int:
        lm = engine(writer(*GOOD), context_length=context)
        proposals = propose(student(), TRAIN, failures=failures, lm=lm, roles=("draft",), count=1, max_tokens=64)
        assert len(proposals.shown) == lm.served.requests[0].user.count("marbles") + lm.served.requests[0].user.count(
            "FAILED"
        )
        return len(proposals.shown)

    assert shown(None) == shown(10_000) == 6
    assert 0 < shown(560) < 6
    with pytest.raises(ConfigError, match="too short"):
        shown(200)


def test_the_users_adapter_is_not_used() -> None:
    lm = engine(writer(*GOOD))
    with dspy.context(adapter=dspy.JSONAdapter()):
        assert propose(student(), TRAIN, lm=lm, count=1).proposals
    assert "JSON" not in lm.served.requests[0].system + lm.served.requests[0].user


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"count": 0}, "propose(count=0)"),
        ({"max_tokens": True}, "propose(max_tokens=True)"),
        ({"roles": ("judge",)}, "propose(roles=('judge',))"),
        ({"roles": "draft"}, "propose(roles='draft')"),
        ({"lm": "gpt"}, "propose(lm='gpt')"),
        ({"student": dspy.Predict(QA)}, "holds no LongCoT, SR or PDR"),
    ],
)
def test_bad_arguments_are_named(values: dict[str, Any], message: str) -> None:
    arguments = {"student": student(), "trainset": TRAIN, "lm": engine(), **values}
    with pytest.raises(ConfigError) as caught:
        propose(**arguments)
    assert message in str(caught.value)


def test_questions_must_be_there_and_not_held_out() -> None:
    with pytest.raises(DataError, match="empty"):
        propose(student(), [], lm=engine())
    with pytest.raises(DataError, match="share a question"):
        propose(student(), TRAIN, lm=engine(), held_out=TRAIN[:1])


def test_operators_with_different_tasks_are_told_apart() -> None:
    class Two(dspy.Module):
        def __init__(self, other: str) -> None:
            super().__init__()
            self.first, self.second = LongCoT(QA), SR(other)

    assert set(propose(Two(QA), TRAIN, lm=engine(writer(*GOOD)), count=1).instructions) == {"draft"}
    with pytest.raises(ConfigError, match="different tasks"):
        propose(Two("text -> title"), TRAIN, lm=engine())


def test_a_module_shows_its_own_inputs() -> None:
    class Parent(dspy.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = LongCoT("prepared -> answer")

        def forward(self, question: str) -> dspy.Prediction:
            return self.inner(prepared=question.upper())

    lm = engine(writer(f"{GOOD[0]} For example 4700.", *GOOD[1:]))
    proposals = propose(Parent(), TRAIN, lm=lm, count=6, held_out=HELD_OUT)
    assert all(request.user.count("marbles") == 3 for request in lm.served.requests)
    assert all("4700" in one.reason for one in proposals.refused)
    assert proposals.refused


def test_the_scripted_model_tells_roles_apart() -> None:
    lm = engine(writer(*GOOD))
    propose(student(), TRAIN, lm=lm, count=1)
    assert all(role_of(request) == "draft" for request in lm.served.requests)  # no prompt of the loop is sent
