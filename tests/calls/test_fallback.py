"""Fields of a closed form that cannot be read out of a draft are asked for again, held to the schema of their JSON."""

from __future__ import annotations

import asyncio
import enum
import json
import math
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import dspy
import pydantic
import pytest

from pdr_dspy import PDR, LongCoT, SelfConsistency, calls
from pdr_dspy.calls import Budget, OutputFormat, RoundFailed
from pdr_dspy.errors import BudgetTooSmall
from pdr_dspy.evaluation.evaluator import evaluate
from pdr_dspy.operators.operator import Operator
from pdr_dspy.operators.outcome import Stop
from pdr_dspy.serving import connect
from pdr_dspy.testing import Completion, Reply, ScriptedLM, ScriptedRequest, scripted_lm
from pdr_dspy.testing.scripted import count_words
from pdr_dspy.training.export_sft import export
from pdr_dspy.training.rollout import Episodes
from pdr_dspy.verifiers import ExactVerifier
from tests.support.mock_server import MockServer


class Person(pydantic.BaseModel):
    name: str
    age: int


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


def task(**outputs: Any) -> type[dspy.Signature]:
    fields: dict[str, Any] = {"question": (str, dspy.InputField())}
    for name, kind in outputs.items():
        fields[name] = kind if isinstance(kind, tuple) else (kind, dspy.OutputField())
    return dspy.make_signature(fields, "Say what it is.")  # type: ignore[return-value]


MOOD = task(mood=Literal["glad", "sad"])
UNCLEAR = "The words are mixed; one could say either."


def replying(first: str | Completion, again: str | Completion = '{"mood": "sad"}') -> Reply:
    """Writes `first` freely, and `again` where it is held to a form."""
    return lambda request: first if request.output_format is None else again


def scripted(reply: Reply = replying(UNCLEAR), **options: Any) -> ScriptedLM:  # noqa: B008  (a function)
    return scripted_lm(reply, **{"output_formats": ("schema",), **options})


def ask(program: Operator, lm: dspy.BaseLM, **options: Any) -> dspy.Prediction:
    with dspy.context(lm=lm):
        return program(question="How are they?", **options)


def schemas(lm: ScriptedLM) -> list[dict[str, Any]]:
    return [form.schema for request in lm.served.requests if (form := request.output_format) is not None]


def test_what_cannot_be_read_is_asked_for_behind_the_same_turn_and_held_to_its_form() -> None:
    lm = scripted()
    said = ask(LongCoT(MOOD), lm)
    first, again = lm.served.requests
    assert said.mood == "sad"
    assert said.solution == UNCLEAR
    assert said.rounds[0].drafts[0].how == {"mood": "constrained"}
    assert first.output_format is None
    assert again.output_format is not None
    assert again.output_format.schema["properties"]["mood"]["enum"] == ["glad", "sad"]
    assert again.request.system == first.request.system
    assert again.request.messages[:-2] == first.request.messages
    assert [message.role for message in again.request.messages[-2:]] == ["assistant", "user"]
    assert again.request.messages[-2].parts[0].text == UNCLEAR  # type: ignore[union-attr]
    assert '"mood": "glad" or "sad"' in again.user
    assert (again.seed, again.temperature) == (first.seed, 0)  # a reading, not another draw
    assert again.cap is not None
    assert again.cap < 40  # the JSON of a word is short


def test_it_is_a_call_of_its_own_on_the_path_and_in_the_total() -> None:
    lm = scripted()
    ledger = ask(LongCoT(MOOD), lm).ledger
    first, again = ledger.calls
    assert [(call.phase, call.round, call.index, call.part) for call in (first, again)] == [
        ("draft", 1, 0, 0),
        ("draft", 1, 0, 2),
    ]
    assert (first.format, again.format) == ("", "held")
    assert ledger.total == ledger.sequential == first.tokens + again.tokens == lm.served.input + lm.served.output
    assert ledger.failed == 0
    assert ledger.exact


def test_of_several_drafts_the_dearest_turn_is_on_the_path() -> None:
    def reply(request: ScriptedRequest) -> str:
        if request.output_format is not None:
            return '{"mood": "glad"}'
        return f"{'Long words. ' * (request.seed % 3)}Mood: sad" if request.seed % 2 else UNCLEAR

    lm = scripted(reply)
    said = ask(SelfConsistency(MOOD, n=5), lm)
    turns: dict[int, int] = {}
    for call in said.ledger.calls:
        turns[call.index] = turns.get(call.index, 0) + call.tokens
    asked_again = {call.index for call in said.ledger.calls if call.part == 2}
    assert len(turns) == 5
    assert 2 <= len(asked_again) < 5
    assert said.ledger.sequential == max(turns.values())
    assert said.ledger.total == sum(turns.values()) == lm.served.input + lm.served.output
    hows = {draft.index: draft.how["mood"] for draft in said.rounds[0].drafts}
    assert {index for index, how in hows.items() if how == "constrained"} == asked_again


@pytest.mark.parametrize(
    ("kind", "json_", "value"),
    [
        (Literal["glad", "sad"], '"sad"', "sad"),
        (Literal[1, 2], "2", 2),
        (Literal["a"] | None, "null", None),
        (Colour, '"blue"', Colour.BLUE),
        (bool, "true", True),
        (Person, '{"name": "Ann", "age": 3}', Person(name="Ann", age=3)),
        (Person | None, '{"name": "Ann", "age": 3}', Person(name="Ann", age=3)),
        (list[int], "[1, 2]", [1, 2]),
        (list[Colour], '["red"]', [Colour.RED]),
        (list[Person], '[{"name": "Ann", "age": 3}]', [Person(name="Ann", age=3)]),
        (dict[str, int], '{"a": 1}', {"a": 1}),
        (tuple[int, str], '[1, "a"]', (1, "a")),
    ],
    ids=str,
)
def test_every_closed_form_is_asked_for_and_read_as_its_type(kind: Any, json_: str, value: Any) -> None:
    lm = scripted(replying("I could not say which; it depends.", f'{{"found": {json_}}}'))
    said = ask(LongCoT(task(found=kind)), lm)
    assert lm.served.calls == 2
    assert said.found == value
    assert said.stop is Stop.DONE


@pytest.mark.parametrize(
    "kind", [str, int, float, int | str, dspy.Code, list[dspy.Image], dict[str, Any] | str], ids=str
)
def test_texts_numbers_and_dspys_own_types_are_never_asked_for(kind: Any) -> None:
    lm = scripted(replying("It depends,\nI would say."))
    ask(LongCoT(task(found=kind)), lm)
    assert lm.served.calls == 1


def test_only_what_is_missing_is_asked_for_and_the_rest_stays_as_it_was_read() -> None:
    outputs = task(mood=Literal["glad", "sad"], sure=bool, words=list[str])
    lm = scripted(replying('Mood: glad\nSure: it depends\nWords: ["a", "b"]', '{"sure": false}'))
    said = ask(LongCoT(outputs), lm)
    assert (said.mood, said.sure, said.words) == ("glad", False, ["a", "b"])
    (schema,) = schemas(lm)
    assert (schema["required"], set(schema["properties"])) == (["sure"], {"sure"})
    assert said.rounds[0].drafts[0].how["sure"] == "constrained"
    assert "constrained" not in {said.rounds[0].drafts[0].how[name] for name in ("mood", "words")}


def test_nothing_is_asked_where_something_else_is_missing_too() -> None:
    lm = scripted(replying(UNCLEAR))
    ask(LongCoT(task(mood=Literal["glad", "sad"], count=int)), lm)
    assert lm.served.calls == 1


def test_a_value_that_breaks_a_limit_of_its_field_is_an_answer_and_not_asked_for() -> None:
    few = task(words=(list[int], dspy.OutputField(max_length=2)))
    lm = scripted(replying("Words: [1, 2, 3]", '{"words": [1, 2]}'))
    said = ask(LongCoT(few), lm)
    assert lm.served.calls == 1
    assert said.rounds[0].drafts[0].broken


@pytest.mark.parametrize(
    "first", [Completion("The words", finish="length"), Completion(UNCLEAR, finish="content_filter"), "   "]
)
def test_a_draft_that_did_not_come_to_its_end_is_not_asked(first: str | Completion) -> None:
    lm = scripted(replying(first))
    with dspy.context(lm=lm), suppress(RoundFailed):
        LongCoT(MOOD)(question="How are they?")
    assert lm.served.calls == 1


@pytest.mark.parametrize("off", [{"json_fallback": False}, {}])
def test_it_can_be_turned_off_and_is_off_where_the_server_cannot(off: dict[str, Any]) -> None:
    lm = scripted() if off else scripted(output_formats=("choices", "regex"))
    said = ask(LongCoT(MOOD, **off), lm)
    assert (lm.served.calls, said.mood, said.stop) == (1, None, Stop.NO_ANSWER)


def test_the_first_request_is_the_same_with_and_without() -> None:
    keys = [ask(LongCoT(MOOD, json_fallback=on), scripted()).ledger.calls[0].key for on in (True, False)]
    assert keys[0] == keys[1] == ask(LongCoT(MOOD), scripted(output_formats=())).ledger.calls[0].key


def test_the_setting_is_left_out_of_the_data_of_a_schedule_where_it_is_on() -> None:
    assert "json_fallback" not in LongCoT(MOOD).schedule.model_dump()
    off = LongCoT(MOOD, json_fallback=False).schedule
    assert off.model_dump()["json_fallback"] is False
    assert type(off)(**off.model_dump()) == off


@pytest.mark.parametrize(
    "again",
    ["not JSON", "[1]", '{"mood": "angry"}', '{"other": "sad"}', Completion('{"mood": "sad"}', finish="length")],
)
def test_an_answer_of_another_form_is_a_failed_call_and_the_draft_has_no_answer(again: str | Completion) -> None:
    lm = scripted(replying(UNCLEAR, again))
    said = ask(LongCoT(MOOD), lm)
    if isinstance(again, Completion):
        assert said.mood == "sad"
        return
    assert (said.mood, lm.served.calls, said.ledger.failed) == (None, 2, 1)
    assert said.ledger.calls[1].failure
    assert said.rounds[0].drafts[0].failure is None
    assert said.ledger.calls[1].format == ("held" if again == '{"mood": "angry"}' else "ignored")


def test_a_server_that_fails_costs_the_answer_and_not_the_draft() -> None:
    def reply(request: ScriptedRequest) -> str:
        if request.output_format is not None:
            raise dspy.lm15.ServerError("overloaded")
        return UNCLEAR

    said = ask(LongCoT(MOOD), scripted(reply))
    assert said.solution == UNCLEAR
    assert said.mood is None
    assert [call.finish for call in said.ledger.calls] == ["stop", "error"]


def test_a_server_that_pays_the_form_no_heed_is_read_as_ever_and_said() -> None:
    said = ask(LongCoT(MOOD), scripted(replying(UNCLEAR, "Sorry.\nMood: glad")))
    assert said.mood == "glad"
    assert said.ledger.calls[1].format == "ignored"
    assert said.rounds[0].drafts[0].how == {"mood": "label"}


def test_refinements_are_asked_and_distillers_and_critics_are_not() -> None:
    lm = scripted()
    said = ask(PDR(MOOD, widths=(3, 1), distiller="summary"), lm)
    parts = [(str(call.phase), call.part) for call in said.ledger.calls]
    assert sorted(parts) == sorted([*[("draft", 0), ("draft", 2)] * 3, ("distill", 0), ("refine", 0), ("refine", 2)])
    assert said.ledger.sequential <= said.ledger.total == lm.served.input + lm.served.output
    assert "sad" not in "".join(workspace.text for round_ in said.rounds for workspace in round_.workspaces)


# --- models that think ---


@pytest.mark.parametrize(("budget", "ends"), [("continue", True), ("server", False), ("cap", False)])
def test_a_model_that_thinks_does_not_think_again_where_it_can_be_kept_from_it(budget: Any, ends: bool) -> None:
    lm = scripted(replying(Completion(UNCLEAR, thought="Hm.")))
    lm.thinking_budget = budget
    said = ask(LongCoT(MOOD, thinking_tokens=200, draft_tokens=100), lm)
    again = lm.served.requests[-1]
    assert said.mood == "sad"
    last = again.request.messages[-1]
    assert (last.role, "</think>" in last.parts[0].text) == (("assistant", True) if ends else ("user", False))  # type: ignore[union-attr]
    assert "Hm." not in str(again.request.messages)  # its thought is not sent back
    extensions = again.request.config.extensions or {}
    assert extensions.get("thinking_token_budget") == (64 if budget == "server" else None)
    assert extensions.get("continue_final_message") == (True if ends else None)


def test_what_was_cut_in_its_thought_continues_and_is_then_requested_again() -> None:
    def reply(request: ScriptedRequest) -> str | Completion:
        if request.output_format is not None:
            return '{"mood": "glad"}'
        rest = request.request.messages[-1].role == "assistant"
        return UNCLEAR if rest else Completion("", thought="Hm. " * 200)

    lm = scripted(reply)
    lm.thinking_budget = "continue"
    said = ask(LongCoT(MOOD, thinking_tokens=50, draft_tokens=60), lm)
    assert (said.mood, said.solution) == ("glad", UNCLEAR)
    assert [(call.part, call.finish) for call in said.ledger.calls] == [(0, "continued"), (1, "stop"), (2, "stop")]
    assert said.ledger.sequential == said.ledger.total
    again = lm.served.requests[-1]
    assert [message.role for message in again.request.messages] == ["user", "assistant", "user", "assistant"]
    assert again.request.messages[1].parts[0].text == UNCLEAR  # type: ignore[union-attr]


# --- the store ---


def test_a_replay_sends_nothing_and_comes_to_the_same(tmp_path: Path) -> None:
    for program in (SelfConsistency(MOOD, n=4), SelfConsistency(MOOD, n=4, quorum=0.5)):
        said = []
        lms = [scripted(), scripted()]
        for lm in lms:
            with calls.Rollouts(tmp_path) as store, calls.session(store=store):
                said.append(ask(program, lm))
        assert lms[1].served.calls == 0
        assert said[0].mood == said[1].mood == "sad"
        assert [call.key for call in said[0].ledger.calls] == [call.key for call in said[1].ledger.calls]
        assert said[1].ledger.paid == 0
        assert [call.format for call in said[1].ledger.calls] == [call.format for call in said[0].ledger.calls]


def test_a_run_that_was_killed_between_the_two_sends_the_second_alone(tmp_path: Path) -> None:
    with calls.Rollouts(tmp_path) as store, calls.session(store=store):
        ask(LongCoT(MOOD, json_fallback=False), scripted())
        lm = scripted()
        said = ask(LongCoT(MOOD), lm)
    assert (lm.served.calls, said.mood) == (1, "sad")
    assert [call.reused for call in said.ledger.calls] == [True, False]


# --- budgets ---


@pytest.mark.slow
def test_a_budget_reserves_the_second_request_before_the_first_is_sent() -> None:
    off, on = LongCoT(MOOD, draft_tokens=50, json_fallback=False), LongCoT(MOOD, draft_tokens=50)
    for limit in ("sequential", "total"):
        fits = next(tokens for tokens in range(20, 400) if _affords(off, {limit: tokens}))
        both = next(tokens for tokens in range(20, 900) if _affords(on, {limit: tokens}))
        assert both > 2 * fits - 50
        lm = scripted()
        with pytest.raises(BudgetTooSmall, match="json_fallback=False"):
            ask(on, lm, budget=Budget(**{limit: both - 1}))
        assert lm.served.calls == 0
        ledger = ask(on, scripted(), budget=Budget(**{limit: both})).ledger
        assert len(ledger) == 2
        assert getattr(ledger, limit) <= both
        assert _affords(on, {limit: fits}, scripted(output_formats=()))  # where nobody can be asked, as ever


def _affords(program: Operator, budget: dict[str, int], lm: ScriptedLM | None = None) -> bool:
    try:
        ask(program, lm or scripted(), budget=Budget(**budget))
    except BudgetTooSmall:
        return False
    return True


@pytest.mark.parametrize("tokens", range(150, 1500, 90))
def test_no_budget_is_exceeded_and_a_larger_one_never_ends_earlier(tokens: int) -> None:
    program = PDR(MOOD, widths=(3, 2, 1), distiller="random_k", k=1, kappa=40, draft_tokens=30)
    rounds = []
    for total in (tokens, tokens + 90):
        try:
            said = ask(program, scripted(), budget=Budget(total=total))
        except BudgetTooSmall:
            rounds.append(0)
            continue
        assert said.ledger.total <= total
        rounds.append(len(said.rounds))
    assert rounds[0] <= rounds[1]


# --- rounds that end early ---


@pytest.mark.parametrize("settings", [{"quorum": 0.5}, {"agree": 0.9}])
def test_a_round_that_ends_early_waits_for_the_answer_of_a_draft_that_is_requested_again(
    settings: dict[str, Any],
) -> None:
    lm = scripted(directly=True)
    said = ask(SelfConsistency(MOOD, n=6, **settings), lm)
    assert said.mood == "sad"
    assert all(draft.outputs == {"mood": "sad"} for draft in said.rounds[0].drafts)
    assert said.ledger.sequential <= said.ledger.total
    taken = {call.index for call in said.ledger.calls if call.fate == "taken"}
    assert {call.index for call in said.ledger.calls if call.part == 2 and call.fate == "taken"} == taken


def test_how_a_round_ended_without_does_not_decide_how_it_ends_with(tmp_path: Path) -> None:
    def run(on: bool) -> int:
        lm = scripted(directly=True)
        with calls.Rollouts(tmp_path) as store, calls.session(store=store):
            said = ask(SelfConsistency(MOOD, n=8, agree=0.9, json_fallback=on), lm)
        return len(said.rounds[0].drafts)

    assert [run(False), run(True), run(False), run(True)] == [8, 3, 8, 3]


# --- a turn that is left between its requests ---


@pytest.mark.parametrize("first", ["sent", "stored"])
def test_what_a_turn_had_cost_before_it_was_left_is_on_the_ledger_as_it_was_reported(
    tmp_path: Path, first: str
) -> None:
    """Draft 0 is long, cannot be read, and is asked again for ever; the others answer and end the round."""
    words = f"{UNCLEAR} " * 5

    def reply(request: ScriptedRequest) -> str | Completion:
        if request.output_format is not None:
            return Completion('{"mood": "sad"}', delay=math.inf)
        return words if request.seed % 4 == first_seed % 4 else Completion("Mood: sad", delay=20)

    plain = SelfConsistency(MOOD, n=4, json_fallback=False)
    first_seed = ask(plain, scripted(replying("Mood: sad"))).ledger.calls[0].seed or 0
    program = SelfConsistency(MOOD, n=4, quorum=0.75)
    runs = []
    with calls.Rollouts(tmp_path) as store, calls.session(store=store):
        if first == "stored":
            ask(SelfConsistency(MOOD, n=4, json_fallback=False), scripted(reply, directly=True))
        for _ in range(2):
            lm = scripted(reply, directly=True)
            runs.append((ask(program, lm), lm.served))
    (said, served), (again, resent) = runs
    turn = [call for call in said.ledger.calls if call.index == 0]
    assert [(call.part, call.finish, call.fate) for call in turn] == [(0, "stop", "left"), (2, "cancelled", "left")]
    assert turn[0].usage.output == count_words(words)
    assert not turn[0].estimated
    assert turn[1].estimated
    assert (turn[1].usage.input or 0) >= count_words(words)  # it reads the turn again
    assert said.ledger.total >= served.input + served.output
    assert said.ledger.sequential <= said.ledger.total
    assert resent.calls == 0
    assert [(call.key, call.usage, call.fate) for call in again.ledger.calls] == [
        (call.key, call.usage, call.fate) for call in said.ledger.calls
    ]


def test_a_thought_that_was_cut_before_its_turn_was_left_is_on_the_ledger_too() -> None:
    def reply(request: ScriptedRequest) -> str | Completion:
        if request.request.messages[-1].role == "assistant":
            return Completion("Mood: sad", delay=math.inf)
        return Completion("", thought="Hm. " * 200) if request.seed % 2 else Completion("Mood: sad", delay=20)

    lm = scripted(reply, directly=True)
    lm.thinking_budget = "continue"
    ledger = ask(SelfConsistency(MOOD, n=4, quorum=0.5, thinking_tokens=50, draft_tokens=60), lm).ledger
    left = [(call.part, call.finish) for call in ledger.calls if call.fate == "left"]
    assert sorted(left) == [(0, "continued")] * 2 + [(1, "cancelled")] * 2
    assert ledger.failed == 0
    assert ledger.total >= lm.served.input + lm.served.output


# --- training ---

EXAMPLES = [
    dspy.Example(question=f"How are they? {n}", answer="sad", mood="sad", id=f"q{n}").with_inputs("question")
    for n in range(3)
]


def exported(folder: Path, reply: Reply) -> tuple[list[str], dict[str, int]]:
    program = PDR(MOOD, widths=(3, 1), distiller="random_k", k=1)
    verifier = ExactVerifier(field="mood", gold="mood")
    with dspy.context(lm=scripted(reply)):
        report = evaluate(program, EXAMPLES, verifier, run_dir=folder)
    assert report.score == 1
    found = export(folder, program, EXAMPLES, verifier)
    return [sample.messages[-1]["content"] for sample in found.samples], found.counts


def test_no_draft_that_was_requested_again_is_exported_and_what_was_asked_neither(tmp_path: Path) -> None:
    def reply(request: ScriptedRequest) -> str:
        if request.output_format is not None:
            return '{"mood": "sad"}'
        return f"Steps {request.seed}.\nMood: sad" if request.seed % 3 == 0 or "Workspace:" in request.user else UNCLEAR

    texts, counts = exported(tmp_path, reply)
    assert texts
    assert all(text.endswith("Mood: sad") for text in texts)
    assert counts["constrained"] == 6
    assert counts["drafts"] + counts["refinements"] == len(texts) == 6
    assert counts["other_prompt"] == counts["not_stored"] == 0  # the replay came to the same answers


def test_what_was_requested_again_is_in_no_trace() -> None:
    with dspy.context(lm=scripted(), trace=[]):
        assert LongCoT(MOOD)(question="How are they?").mood == "sad"
        assert dspy.settings.trace == []
    with dspy.context(lm=scripted(replying("Mood: sad")), trace=[]):
        LongCoT(MOOD)(question="How are they?")
        assert len(dspy.settings.trace) == 1


def test_rollouts_of_training_ask_nothing_again() -> None:
    program = PDR(MOOD, widths=(3, 1), distiller="random_k", k=1)
    assert program.schedule.json_fallback
    assert not Episodes(program, ExactVerifier(field="mood", gold="mood")).schedule.json_fallback


# --- rows, and servers as they are ---


def test_rows_keep_how_an_answer_was_found_and_a_report_counts_it(tmp_path: Path) -> None:
    def reply(request: ScriptedRequest) -> str:
        if request.output_format is not None:
            return '{"mood": "sad"}'
        return UNCLEAR if "? 0" in request.user else "Mood: sad"

    with dspy.context(lm=scripted(reply)):
        report = evaluate(LongCoT(MOOD), EXAMPLES, ExactVerifier(field="mood", gold="mood"), run_dir=tmp_path)
    assert report.how == {"label": 2, "constrained": 1}
    assert report.unlabelled == pytest.approx(1 / 3)
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    kept = {row["id"]: row["rounds"][0]["drafts"][0]["how"] for row in rows}
    assert kept == {"q0": {"mood": "constrained"}, "q1": {"mood": "label"}, "q2": {"mood": "label"}}


@pytest.mark.parametrize(
    ("kind", "settings", "field"),
    [
        ("vllm", {}, "structured_outputs"),
        ("llama.cpp", {}, "json_schema"),
        ("other", {"constrained": True}, "response_format"),
    ],
)
def test_each_server_is_asked_in_its_own_words(kind: str, settings: dict[str, Any], field: str) -> None:
    def reply(body: dict[str, Any], seed: int) -> str:
        return '{"mood": "glad"}' if field in body else UNCLEAR

    with MockServer(reply, kind=kind) as server:
        said = ask(SelfConsistency(MOOD, n=2), connect("mock", server.api_base, **settings))
    again = [body for body in server.requests if field in body]
    assert said.mood == "glad"
    assert len(again) == 2
    written = json.dumps([body[field] for body in again])
    assert written.count('["glad", "sad"]') == 2
    for body in again:
        assert [message["role"] for message in body["messages"]] == ["system", "user", "assistant", "user"]
        assert body["messages"][2]["content"] == UNCLEAR
        assert body["max_tokens"] < 40
    assert all(body["messages"] == again[0]["messages"][:2] for body in server.requests if field not in body)


@pytest.mark.parametrize("kind", ["vllm", "llama.cpp", "other"])
def test_no_server_is_requested_again_that_is_reported_not_to_hold_to_a_form(kind: str) -> None:
    with MockServer(lambda body, seed: UNCLEAR, kind=kind) as server:
        said = ask(LongCoT(MOOD), connect("mock", server.api_base, constrained=False))
    assert (len(server.requests), said.mood) == (1, None)


def test_a_listener_hears_the_draft_and_not_the_question_for_json() -> None:
    program = dspy.streamify(LongCoT(MOOD), stream_listeners=[])  # type: ignore[arg-type]

    async def heard() -> list[Any]:
        with dspy.context(lm=scripted(replying(UNCLEAR, '{"mood": "sad"}'))):
            return [chunk async for chunk in program(question="How are they?")]  # type: ignore[misc]

    chunks = asyncio.run(heard())
    assert chunks[-1].mood == "sad"
    assert '{"mood"' not in "".join(str(chunk) for chunk in chunks[:-1])


def test_a_form_fits_what_has_it() -> None:
    schema = OutputFormat(
        schema={"type": "object", "properties": {"a": {}}, "required": ["a"], "additionalProperties": False}
    )
    assert schema.fits(' {"a": 1}\n')
    assert not any(map(schema.fits, ['{"b": 1}', '{"a": 1, "b": 2}', "[1]", "a", '{"a": ']))
    words, letters = OutputFormat(choices=["yes", "no"]), OutputFormat(regex="[ab]+")
    assert [words.fits(text) for text in (" yes\n", "no", "Yes.", "")] == [True, True, False, False]
    assert [letters.fits(text) for text in ("abba", "abc", "")] == [True, False, False]
