"""What each kind of server is sent for the form of a completion, by the calls that have one."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import dspy
import pytest

from pdr_dspy import Distilled, DistillerInput, distiller
from pdr_dspy.calls import (
    Call,
    OutputFormat,
    Phase,
    Prompt,
    Rollouts,
    Sampling,
    ThinkingBudget,
    capabilities,
    session,
)
from pdr_dspy.operators.distillers import DISTILLERS
from pdr_dspy.operators.operator import Operator
from pdr_dspy.operators.strategies import PDR
from pdr_dspy.prompts.roles import Role, signature_of
from pdr_dspy.serving import connect
from pdr_dspy.testing import Completion, ScriptedLM, ScriptedRequest, scripted_lm
from pdr_dspy.verifiers import JudgeVerifier
from pdr_dspy.verifiers.checks import JudgeCheck
from tests.support.mock_server import MockServer

FORMS = {"structured_outputs", "json_schema", "grammar", "response_format"}
SCHEMA = {
    "type": "object",
    "properties": {"selected": {"type": "array", "items": {"enum": [1, 2, 3]}, "minItems": 2, "maxItems": 2}},
    "required": ["selected"],
    "additionalProperties": False,
}
WRAPPED = {"type": "json_schema", "json_schema": {"name": "selection", "schema": SCHEMA, "strict": True}}
SPELLED = [f"Selected: [{one}, {other}]" for one in (1, 2, 3) for other in (1, 2, 3) if one != other]
GRAMMAR = "root ::= " + " | ".join(f'"{text}"' for text in SPELLED)
PICKING: dict[str, Any] = {"widths": (3, 1), "distiller": "topk", "k": 2, "draft_tokens": 64}


def form_of(body: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in body.items() if name in FORMS}


def picking(body: dict[str, Any], seed: int) -> str:
    if "response_format" in body:
        return '{"selected": [3, 1]}'
    return "Selected: [3, 1]" if form_of(body) or "pick" in str(body) else "Answer: 4"


def picker(**settings: Any) -> Operator:
    return PDR("question -> answer: int", **{**PICKING, **settings})


def ask(lm: dspy.BaseLM, program: Operator | None = None, question: str = "2 + 2?") -> dspy.Prediction:
    with dspy.context(lm=lm):
        return (program or picker())(question=question)


def select_call(said: dspy.Prediction) -> Call:
    (call,) = [call for call in said.ledger.calls if call.phase is Phase.SELECT]
    return call


@pytest.mark.parametrize(
    ("kind", "settings", "sent"),
    [
        ("vllm", {}, {"structured_outputs": {"choice": SPELLED}}),
        ("llama.cpp", {}, {"grammar": GRAMMAR}),
        ("other", {"constrained": True}, {"response_format": WRAPPED}),
        ("other", {}, {}),  # some refuse the field
        *((kind, {"constrained": False}, {}) for kind in ("vllm", "llama.cpp", "other")),
    ],
)
def test_a_selection_alone_is_held_to_its_form(kind: str, settings: dict[str, Any], sent: dict[str, Any]) -> None:
    with MockServer(picking, kind=kind) as server:
        said = ask(connect("mock", server.api_base, **settings))
    forms = [form_of(body) for body in server.requests]
    assert [form for form in forms if form] == ([sent] if sent else [])
    assert said.answer == 4
    assert all(call.failure is None for call in said.ledger.calls)
    assert select_call(said).format == ("held" if sent else "")
    assert said.rounds[0].workspaces[0].tokens > 0


@pytest.mark.parametrize(
    ("kind", "sent"),
    [
        ("vllm", {"structured_outputs": {"choice": ["yes", "no"]}}),
        ("llama.cpp", {"grammar": 'root ::= "yes" | "no"'}),
        ("other", {}),
    ],
)
def test_a_judge_is_held_to_its_words(kind: str, sent: dict[str, Any]) -> None:
    example = dspy.Example(question="2 + 2?", answer="4").with_inputs("question")
    with MockServer(lambda body, seed: "yes", kind=kind) as server:
        judge = JudgeVerifier(lm=connect("mock", server.api_base))
        assert judge(example, dspy.Prediction(answer="four")) == 1
        assert asyncio.run(judge.averify(example, dspy.Prediction(answer="four"))) == 1
        assert [form_of(body) for body in server.requests] == [sent, sent]


def test_a_check_is_held_to_its_words() -> None:
    with MockServer(lambda body, seed: "Yes", kind="vllm") as server:
        check = JudgeCheck(lm=connect("mock", server.api_base))
        assert asyncio.run(check.acheck({"question": "2 + 2?"}, {"answer": "4"})) == 1
        assert form_of(server.requests[-1]) == {"structured_outputs": {"choice": ["Yes", "No"]}}


def test_a_form_is_a_part_of_the_key_and_its_absence_is_not() -> None:
    messages = [{"role": "user", "content": "2 + 2?"}]

    async def keys(server: MockServer) -> list[str]:
        lm = connect("mock", server.api_base)
        about = await capabilities(lm)
        forms = [None, None, OutputFormat(choices=["a", "b"]), OutputFormat(choices=["a", "c"])]
        made = [Prompt(lm, messages, Sampling(8, 0.0, output_format=form), capabilities=about) for form in forms]
        plain = Prompt(lm, messages, Sampling(8, 0.0), capabilities=about)
        return [prompt.job(0).key for prompt in (plain, *made)]

    with MockServer(kind="vllm") as server:
        plain, first, again, one, other = asyncio.run(keys(server))
    assert plain == first == again
    assert len({plain, one, other}) == 3


# --- servers that refuse a form -------------------------------------------------------------------------------------

UNKNOWN = "Extra inputs are not permitted: "


@pytest.mark.parametrize(
    ("kind", "field", "message"),
    [
        ("other", "response_format", "This response_format type is unavailable now"),
        ("other", "response_format", "Unrecognized request argument supplied: response_format"),
        ("vllm", "structured_outputs", f"{UNKNOWN}structured_outputs"),
        ("llama.cpp", "grammar", "Failed to initialize samplers: failed to parse grammar"),
    ],
)
def test_a_server_that_refuses_a_form_is_asked_without_from_then_on(
    kind: str, field: str, message: str, caplog: pytest.LogCaptureFixture
) -> None:
    with MockServer(picking, kind=kind) as server:
        server.refuses = {field: message}
        lm = connect("mock", server.api_base, constrained=True)
        first, second = ask(lm), ask(lm.copy(), question="3 + 1?")  # copies share what they have learned
        assert [field in body for body in server.requests].count(True) == 1
        for said, tries in ((first, 2), (second, 1)):
            call = select_call(said)
            assert (call.format, call.failure, call.tries) == ("refused", None, tries)
            assert len(said.rounds[0].workspaces[0].sources) == 2
            assert said.answer == 4
            assert said.ledger.failed == 0
        assert [record.message for record in caplog.records if "refuses" in record.message and field in record.message]
        assert len([record for record in caplog.records if "refuses" in record.message]) == 1
        ask(connect("mock", server.api_base, constrained=True), question="1 + 3?")  # another client has to find out
        assert [field in body for body in server.requests].count(True) == 2


def test_a_form_that_is_refused_for_itself_leaves_the_others() -> None:
    with MockServer(picking, kind="other") as server:
        server.refuses = {"response_format": "The provided JSON schema contains features not supported by xgrammar."}
        lm = connect("mock", server.api_base, constrained=True)
        ask(lm)
        server.refuses = {}
        assert select_call(ask(lm)).format == "refused"
        assert select_call(ask(lm, picker(k=1))).format == "held"


def test_what_is_refused_for_something_else_fails_as_ever() -> None:
    with MockServer(picking, kind="vllm") as server:
        server.refuses = {"structured_outputs": "temperature must be at most 1"}
        lm = connect("mock", server.api_base)
        call = select_call(ask(lm))
        assert call.failure is not None
        assert "temperature" in call.failure
        assert [bool(form_of(body)) for body in server.requests].count(True) == 1
        assert not lm.refused_formats


def test_a_replay_of_a_run_with_refusals_sends_nothing_and_says_the_same(tmp_path: Path) -> None:
    with MockServer(picking, kind="other") as server:
        server.refuses = {"response_format": "response_format is not supported"}
        formats, sent = [], 0
        for _ in range(2):
            lm = connect("mock", server.api_base, constrained=True)
            with Rollouts(tmp_path) as store, session(store=store):
                formats.append([select_call(ask(lm, question=question)).format for question in ("2 + 2?", "1 + 3?")])
            sent = sent or len(server.requests)
        assert len(server.requests) == sent
        assert formats == [["refused", "refused"]] * 2
        assert sent == 11  # 2 x (3 drafts, selection, refinement), and the selection that was refused


def test_a_form_that_is_ignored_is_reported_and_the_reply_read_as_any() -> None:
    with MockServer(
        lambda body, seed: "I pick.\nSelected: [2, 3]" if form_of(body) else "Answer: 4", kind="vllm"
    ) as server:
        said = ask(connect("mock", server.api_base))
    call = select_call(said)
    assert (call.format, call.failure) == ("ignored", None)
    assert len(said.rounds[0].workspaces[0].sources) == 2


@pytest.mark.parametrize("logprobs", [True, False])
def test_a_judge_whose_form_is_refused_still_judges(logprobs: bool) -> None:
    example = dspy.Example(question="2 + 2?", answer="4").with_inputs("question")
    with MockServer(lambda body, seed: "yes", kind="vllm") as server:
        server.refuses = {"structured_outputs": f"{UNKNOWN}structured_outputs"}
        server.refuses |= {} if logprobs else {"logprobs": "logprobs are not enabled"}
        judge = JudgeVerifier(lm=connect("mock", server.api_base))
        first = judge(example, dspy.Prediction(answer="four"))
        second = asyncio.run(judge.averify(example, dspy.Prediction(answer="four")))
    more = 0 if logprobs else 1
    for score, tries in ((first, 2 + more), (second, 1 + more)):
        assert score == 1
        (call,) = score.calls
        assert (call.format, call.tries) == ("refused", tries)


def test_a_check_whose_form_is_refused_still_checks() -> None:
    with MockServer(lambda body, seed: "Yes", kind="vllm") as server:
        server.refuses = {"structured_outputs": f"{UNKNOWN}structured_outputs"}
        score = asyncio.run(JudgeCheck(lm=connect("mock", server.api_base)).acheck({"question": "?"}, {"answer": "4"}))
    assert (float(score), score.calls[0].format, score.calls[0].tries) == (1, "refused", 2)


class _Strict:
    """An engine of a user's own that says it holds to schemas, and does not."""

    supports_response_schema = True

    def __init__(self) -> None:
        self.formats: list[bool] = []

    def complete(self, request: Any) -> Any:
        raise NotImplementedError


class _AsyncStrict(_Strict):
    async def complete(self, request: Any) -> Any:
        held = request.config.response_format is not None
        self.formats.append(held)
        if held:
            raise dspy.lm15.InvalidRequestError("response_format: json_schema is not supported by this model")
        select = "pick" in str(request.system)
        return dspy.lm15.Response(
            id=None,
            model=request.model,
            message=dspy.lm15.Message.assistant("Selected: [1, 2]" if select else "Answer: 4"),
            finish_reason="stop",
            usage=dspy.lm15.Usage(input_tokens=1, output_tokens=1),
        )


def test_what_any_other_lm_refuses_is_kept_on_the_lm() -> None:
    engine = _AsyncStrict()
    lms = [dspy.LM("own/model", engine=_Strict(), async_engine=engine, cache=False, num_retries=0) for _ in range(2)]
    for lm, questions in zip(lms, (("2 + 2?", "1 + 3?"), ("2 + 2?",)), strict=True):
        for question in questions:
            assert select_call(ask(lm, question=question)).format == "refused"
    assert engine.formats.count(True) == 2  # once for each LM


# --- thoughts ---------------------------------------------------------------------------------------------------------


def thinking(budget: ThinkingBudget, reply: Any) -> ScriptedLM:
    lm = scripted_lm(reply, output_formats=("choices", "schema"))
    lm.thinking_budget = budget
    return lm


@pytest.mark.parametrize(
    ("budget", "thinking_tokens", "held"),
    [("cap", 0, True), ("cap", 50, False), ("server", 50, True), ("continue", 0, True), ("continue", 50, False)],
)
def test_a_form_never_takes_the_place_of_a_thought(budget: ThinkingBudget, thinking_tokens: int, held: bool) -> None:
    lm = thinking(budget, lambda request: "Selected: [2, 1]" if "Candidates:" in request.user else "Answer: 4")
    said = ask(lm, picker(thinking_tokens=thinking_tokens))
    asked = [request.output_format for request in lm.served.requests if "Candidates:" in request.user]
    assert [form is not None for form in asked] == [held]
    assert select_call(said).failure is None


def test_the_request_that_continues_behind_a_thought_has_the_form() -> None:
    def reply(request: ScriptedRequest) -> str | Completion:
        if "Candidates:" not in request.user:
            return "Answer: 4"
        return "Selected: [2, 1]" if request.output_format is not None else Completion("", thought="Hm. " * 60)

    lm = thinking("continue", reply)
    said = ask(lm, picker(thinking_tokens=50))
    first, rest = (call for call in said.ledger.calls if call.phase is Phase.SELECT)
    assert [(first.part, first.format), (rest.part, rest.format)] == [(0, ""), (1, "held")]
    assert rest.failure is None
    (held,) = [request for request in lm.served.requests if request.output_format is not None]
    assert "Hm." in held.request.messages[-1].parts[0].text  # type: ignore[union-attr]
    assert said.rounds[0].workspaces[0].sources


@pytest.mark.parametrize(("most", "held"), [(1, True), (16, True), (2000, False)])
def test_a_judge_that_has_room_for_a_thought_is_left_free(most: int, held: bool) -> None:
    example = dspy.Example(question="2 + 2?", answer="4").with_inputs("question")
    with MockServer(lambda body, seed: "Yes", kind="vllm") as server:
        lm = connect("mock", server.api_base)
        JudgeVerifier(lm=lm, max_tokens=most)(example, dspy.Prediction(answer="four"))
        asyncio.run(JudgeCheck(lm=lm, max_tokens=most).acheck({"question": "2 + 2?"}, {"answer": "4"}))
        apart = connect("mock", server.api_base, thinking_budget="server")
        JudgeVerifier(lm=apart, max_tokens=most)(example, dspy.Prediction(answer="four"))
    assert [bool(form_of(body)) for body in server.requests] == [held, held, True]


# --- whose form it is -------------------------------------------------------------------------------------------------


def test_a_select_predictor_of_other_fields_is_left_free() -> None:
    lm = scripted_lm(
        lambda request: "Best: [2, 1]" if "Candidates:" in request.user else "Answer: 4", output_formats=("choices",)
    )
    program = picker()
    select = program.predictor(Role.SELECT)
    select.signature = dspy.ensure_signature("question, candidates -> best: list[int], why: str")
    ask(lm, program)
    assert all(request.output_format is None for request in lm.served.requests)
    changed = picker()
    select = changed.predictor(Role.SELECT)
    select.signature = signature_of(select).with_instructions("Choose with care.")
    ask(lm, changed)
    assert any(request.output_format is not None for request in lm.served.requests)


@pytest.mark.parametrize("asks", [True, False])
def test_a_distiller_of_ones_own_has_the_form_that_it_asks_for_and_no_other(asks: bool) -> None:
    form = OutputFormat(choices=["Selected: [1]", "Selected: [2]"])

    @distiller("ranked", role="select", calls=lambda next_width: 1)
    async def ranked(given: DistillerInput) -> Distilled:
        """The first that a model names."""
        values = [{"candidates": await given.shown(given.drafts)}]
        await (given.ask(values, [form]) if asks else given.ask(values))
        return Distilled((await given.admit(given.drafts[:1]),) * given.next_width)

    try:
        lm = scripted_lm(
            lambda request: "Selected: [1]" if "Candidates:" in request.user else "Answer: 4",
            output_formats=("choices", "schema"),
        )
        ask(lm, picker(distiller="ranked"))
        forms = [request.output_format for request in lm.served.requests if "Candidates:" in request.user]
        assert forms == [form if asks else None]
    finally:
        DISTILLERS.remove("ranked")
