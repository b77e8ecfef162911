"""Modules that hold operators, served with budgets, usage and streaming."""

from __future__ import annotations

import asyncio
import json
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any

import dspy
import openai
import pytest

from pdr_dspy import LongCoT, calls
from pdr_dspy.calls import Account, Budget
from pdr_dspy.endpoint import Limits
from pdr_dspy.errors import BudgetTooSmall, ConfigError
from pdr_dspy.testing import scripted_lm
from tests.endpoint.conftest import pdr, until
from tests.endpoint.test_clients import raw
from tests.support.endpoint_server import EndpointServer
from tests.support.mock_server import MockServer

Start = Callable[..., EndpointServer]
QUESTION: Any = [{"role": "user", "content": "What is 40 + 1?"}]


class Twice(dspy.Module):
    """Two steps: 40 becomes 41, then 42."""

    signature = "question -> answer: int, first: int"

    def __init__(self, **settings: Any) -> None:
        super().__init__()
        self.solver = pdr(**settings)
        self.again = LongCoT("question -> result: int", draft_tokens=64)

    async def aforward(self, question: str) -> dspy.Prediction:
        first = await self.solver.acall(question=question)
        second = await self.again.acall(question=f"What is {first.answer} + 1?")
        return dspy.Prediction(answer=second.result, first=first.answer)


class SideBySide(dspy.Module):
    signature = "question -> answer: int"

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = pdr(), pdr()

    async def aforward(self, question: str) -> dspy.Prediction:
        both = await asyncio.gather(self.one.acall(question=question), self.other.acall(question=f"{question} "))
        return dspy.Prediction(answer=both[1].answer)


def create(server: EndpointServer, **options: Any) -> dict[str, Any]:
    with openai.OpenAI(base_url=server.api_base, api_key="none", max_retries=0) as client:
        return client.chat.completions.create(model="solver", messages=QUESTION, **options).to_dict()


def post(server: EndpointServer, more: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    """A status and what came with it."""
    body = json.dumps({"model": "solver", "messages": QUESTION, **more}).encode()
    request = urllib.request.Request(f"{server.api_base}/chat/completions", body, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


def test_a_module_of_several_operators_is_served_with_true_usage(start: Start, model: MockServer) -> None:
    server = start({"solver": Twice()})
    done: Any = create(server, seed=3)
    assert json.loads(done["choices"][0]["message"]["content"]) == {"answer": 42, "first": 41}
    assert done["choices"][0]["finish_reason"] == "stop"
    assert model.served == 5
    facts, usage = done["pdr"], done["usage"]
    assert (facts["calls"], facts["rounds"], facts["stop"], facts["exact"]) == (5, 3, "done", True)
    assert usage["total_tokens"] == facts["B_total"] > facts["B_seq"] > 0
    again: Any = create(server, seed=3)
    assert again["usage"] == usage


def test_typed_answers_and_the_listing_of_a_module(start: Start) -> None:
    server = start({"solver": Twice()})
    with openai.OpenAI(base_url=server.api_base, api_key="none") as client:
        listed: Any = client.models.retrieve("solver").to_dict()
        typed: Any = client.post("/programs/solver", body={"inputs": {"question": "What is 1 + 1?"}}, cast_to=object)
    assert listed["pdr"]["outputs"] == ["answer", "first"]
    assert listed["pdr"]["schedule"].startswith("solver: PDR 3-1")
    assert "; again: LongCoT" in listed["pdr"]["schedule"].replace("Long CoT", "LongCoT")
    assert typed["outputs"] == {"answer": 3, "first": 2}


def test_a_stream_says_which_step_it_is_at(start: Start) -> None:
    server = start({"solver": Twice()})
    told, content = "", ""
    with openai.OpenAI(base_url=server.api_base, api_key="none") as client:
        for chunk in client.chat.completions.create(model="solver", messages=QUESTION, stream=True):
            for choice in chunk.to_dict()["choices"]:  # type: ignore[attr-defined]
                told += choice["delta"].get("reasoning") or ""
                content += choice["delta"].get("content") or ""
    lines = told.splitlines()
    assert lines[0] == "answer: Round 1 of 2: 3 drafts running"
    assert lines[-1].startswith("result: Round 1 of 1: 1 draft done, 1 with an answer")
    assert json.loads(content) == {"answer": 42, "first": 41}


@pytest.mark.slow
@pytest.mark.parametrize("which", ["budget_total", "budget_seq"])
def test_a_budget_holds_for_all_steps_together(start: Start, model: MockServer, which: str) -> None:
    server = start({"solver": Twice()})
    whole: Any = create(server, seed=1)
    figure = "B_total" if which == "budget_total" else "B_seq"
    stopped = 0
    for part in (0.5, 0.75, 1.0, 1.5, 2.5):
        limit = int(part * whole["pdr"][figure])
        before = model.served
        status, told = post(server, {"seed": 1, "pdr": {which: limit}})
        facts = told.get("pdr", {})
        assert facts.get("calls", 0) == model.served - before
        assert facts.get(figure, 0) <= limit
        if status == 200:
            assert (told["choices"][0]["finish_reason"] == "stop") is (facts["stop"] == "done")
        else:
            assert (status, told["error"]["code"]) == (400, "budget_too_small")
        stopped += status != 200 or facts["stop"] == "budget"
    assert stopped


def test_steps_side_by_side_share_a_budget(start: Start, model: MockServer) -> None:
    server = start({"solver": SideBySide()})
    whole: Any = create(server)
    assert (whole["pdr"]["calls"], whole["pdr"]["stop"]) == (8, "done")
    for part in (0.6, 0.9, 1.2):
        limit = int(part * whole["pdr"]["B_total"])
        status, told = post(server, {"pdr": {"budget_total": limit}})
        assert status == 200 or told["error"]["code"] == "budget_too_small"
        assert told.get("pdr", {}).get("B_total", 0) <= limit


def test_who_goes_away_cancels_every_step(start: Start, model: MockServer) -> None:
    model.hold_until = 10**6
    server = start({"solver": SideBySide()})
    connection = raw(server, json.dumps({"model": "solver", "messages": QUESTION}).encode())
    until(lambda: model.in_flight == 6)
    connection.close()
    until(lambda: model.in_flight == 0)
    assert (model.aborts, model.served) == (6, 0)
    model.release()


def test_a_model_server_that_fails_at_a_later_step_is_reported_with_what_was_spent(
    start: Start, model: MockServer
) -> None:
    original = model._answer

    async def answer(body: dict[str, Any], request: Any) -> Any:
        if model.served == 3:  # the next request is the second step's
            model.faults.append((400, {}, {"error": {"message": "no"}}))
        return await original(body, request)

    model._answer = answer  # type: ignore[method-assign]
    server = start({"solver": Twice()})
    with pytest.raises(openai.InternalServerError) as raised:
        create(server)
    assert raised.value.status_code == 502
    told: Any = raised.value.response.json()
    assert (told["pdr"]["calls"], told["pdr"]["failed_calls"]) == (5, 1)
    assert told["usage"]["total_tokens"] > 0


def test_what_a_module_has_no_place_for_is_reported(start: Start) -> None:
    server = start({"solver": Twice()})
    done: Any = create(server, max_completion_tokens=50)
    assert done["pdr"]["left_out"] == ["max_completion_tokens"]
    with pytest.raises(openai.BadRequestError, match="its schedules are its own"):
        create(server, extra_body={"pdr": {"schedule": {"widths": [1]}}})


class Inner(dspy.Module):
    signature: Any = "question -> answer"

    def __init__(self, **parts: Any) -> None:
        super().__init__()
        for name, part in parts.items():
            setattr(self, name, part)


class Asynchronous(Inner):
    async def aforward(self, question: str) -> dspy.Prediction:
        return dspy.Prediction(answer=question)


class Nameless(Asynchronous):
    signature = None


@pytest.mark.parametrize(
    ("program", "why"),
    [
        (dspy.Predict("question -> answer"), "holds no LongCoT, SR or PDR"),
        (Inner(), "holds no LongCoT, SR or PDR"),
        (object(), "is no dspy.Module"),
        (Inner(solver=pdr()), "has no `aforward`"),
        (Nameless(solver=pdr()), 'give it `signature = "question -> answer"`'),
        (
            Asynchronous(solver=pdr(), rewrite=dspy.Predict("a -> b")),
            "calls a model by `rewrite`, which no budget holds",
        ),
        (Asynchronous(solver=pdr(), deep=Inner(x=dspy.ChainOfThought("a -> b"))), "calls a model by `deep.x.predict`"),
    ],
)
def test_a_module_that_cannot_be_served_is_refused_with_the_remedy(program: Any, why: str) -> None:
    import pdr_dspy

    with pytest.raises(ConfigError, match=why):
        pdr_dspy.app({"solver": program}, lm=scripted_lm(lambda request: "x"), limits=Limits())


def test_an_account_is_of_all_programs_in_a_session(model: MockServer) -> None:
    """The library's side of it: any code that runs several operators can give them one budget."""
    lm = scripted_lm(lambda request: "So.\nAnswer: 7", directly=True)
    one = LongCoT("question -> answer: int", draft_tokens=64)

    async def run(account: Account) -> int:
        made = 0
        with dspy.context(lm=lm), calls.session(account=account):
            try:
                while made < 20:
                    await one.acall(question="?", seed=made)
                    made += 1
            except BudgetTooSmall:
                pass
        return made

    alone = Account()
    assert asyncio.run(run(alone)) == 20
    each = alone.ledger.total // 20
    bounded = Account(Budget(total=alone.ledger.total // 2))
    made = asyncio.run(run(bounded))
    assert 0 < made <= 10
    assert bounded.ledger.total == made * each <= alone.ledger.total // 2
    assert bounded.sequential == bounded.ledger.total


class Leaves(Twice):
    """It exits on a question about leaving."""

    async def aforward(self, question: str) -> dspy.Prediction:
        if "leave" in question:
            raise SystemExit(3)
        return await super().aforward(question=question)


@pytest.mark.parametrize("stream", [False, True])
def test_a_module_that_exits_fails_its_request_alone(start: Start, stream: bool) -> None:
    server = start({"solver": Leaves()})
    asked: Any = [{"role": "user", "content": "Please leave."}]
    with openai.OpenAI(base_url=server.api_base, api_key="none", max_retries=0) as client:

        def ask() -> None:
            answer = client.chat.completions.create(model="solver", messages=asked, stream=stream)
            for _ in answer:  # an error may come in the middle of a stream
                pass

        with pytest.raises(openai.APIError, match="a fault of this server"):
            ask()
    done: Any = create(server, seed=3)
    assert json.loads(done["choices"][0]["message"]["content"]) == {"answer": 42, "first": 41}
