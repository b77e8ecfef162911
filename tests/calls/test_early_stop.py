from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import dspy
import pytest

from pdr_dspy import calls
from pdr_dspy.artifact import load, save
from pdr_dspy.calls.budget import Budget
from pdr_dspy.calls.failures import RoundFailed
from pdr_dspy.calls.ledger import Call, Phase, Usage
from pdr_dspy.calls.store import Rollout, Rollouts
from pdr_dspy.errors import StoreError
from pdr_dspy.evaluation.evaluator import evaluate
from pdr_dspy.evaluation.records import Row
from pdr_dspy.operators.operator import Operator
from pdr_dspy.operators.outcome import Stop
from pdr_dspy.operators.strategies import PDR
from pdr_dspy.search.driver.measurements import cell
from pdr_dspy.search.proposing.failures import failures_of
from pdr_dspy.search.racing.requests import Pair
from pdr_dspy.serving import connect
from pdr_dspy.testing import Completion, ScriptedLM, ScriptedRequest
from pdr_dspy.verifiers import ExactVerifier
from tests.support.mock_server import MockServer
from tests.support.solver import engine, role_of

QA = "question -> answer"
WIDE: dict[str, Any] = {"widths": (6, 2, 1), "distiller": "random_k", "k": 1, "draft_tokens": 200, "kappa": 120}
NEVER = math.inf


def model(answers: str = "", delays: Mapping[int, float] | None = None, *, later: str = "z") -> ScriptedLM:
    """Draft i answers `answers[i]` ("x": an error of the server) and ends after `delays[i]`; later ones say `later`."""

    def reply(request: ScriptedRequest) -> Completion:
        index = request.seed % 256
        if role_of(request) != "draft":
            return Completion(f"Answer: {later}")
        answer = answers[index] if index < len(answers) else "a"
        if answer == "x":
            raise dspy.lm15.ServerError("overloaded")
        text = f"{'word ' * index}\nAnswer: {answer}"
        return Completion(text, delay=(delays or {}).get(index, 0.0))

    return engine(reply, directly=True)


def ask(lm: ScriptedLM, store: Rollouts | None = None, **settings: Any) -> dspy.Prediction:
    seed = settings.pop("seed", None)
    budget = settings.pop("budget", None)
    with dspy.context(lm=lm), calls.session(store=store):
        return PDR(QA, **{**WIDE, **settings})(question="q", seed=seed, budget=budget)


def fates(prediction: dspy.Prediction, number: int = 1) -> list[tuple[str, str]]:
    return [(call.fate, call.finish) for call in prediction.ledger.calls if call.round == number]


TAKEN, LEFT, CUT = ("taken", "stop"), ("left", "stop"), ("left", "cancelled")


# --- a quorum


def test_a_quorum_continues_without_the_slowest_and_the_server_is_reported() -> None:
    lm = model(delays={1: NEVER, 4: NEVER})
    prediction = ask(lm, quorum=0.6)
    assert fates(prediction) == [TAKEN, CUT, TAKEN, TAKEN, CUT, TAKEN]
    assert [draft.index for draft in prediction.rounds[0].drafts] == [0, 2, 3, 5]
    assert {source for w in prediction.rounds[0].workspaces for source in w.sources} <= {0, 2, 3, 5}
    assert lm.served.cancelled == 2
    assert prediction.stop is Stop.DONE


def test_cancelled_calls_are_counted_and_marked_and_have_not_failed() -> None:
    lm = model(delays={1: NEVER, 4: NEVER})
    ledger = ask(lm, quorum=0.6).ledger
    cut = [call for call in ledger.calls if call.cancelled]
    assert (ledger.cancelled, ledger.failed, len(cut)) == (2, 0, 2)
    assert all(call.estimated and call.failure is None and not call.reused for call in cut)
    whole = next(call for call in ledger.calls if not call.cancelled)
    assert all(call.usage.input == whole.usage.input for call in cut)  # as the server counted a sibling's
    assert all(0 <= (call.usage.output or 0) <= 200 for call in cut)
    assert not ledger.exact
    assert ledger.total == lm.served.input + lm.served.output + sum(call.tokens for call in cut)


def test_what_was_not_waited_for_is_not_on_the_critical_path() -> None:
    full = ask(model())
    part = ask(model(delays={5: NEVER}), quorum=0.8)  # draft 5 writes most
    first = [call for call in part.ledger.calls if call.round == 1]
    waited = max(call.tokens for call in first if call.fate == "taken")
    later = sum(max(c.tokens for c in part.ledger.calls if c.round == number) for number in (2, 3))
    assert part.ledger.sequential == waited + later < full.ledger.sequential
    assert part.ledger.sequential <= part.ledger.total


@pytest.mark.parametrize(("quorum", "count"), [(0.01, 1), (0.5, 3), (0.51, 4), (5 / 6, 5), (1.0, 6)])
def test_a_quorum_is_rounded_up_to_whole_drafts(quorum: float, count: int) -> None:
    prediction = ask(model(delays={n: float(n) for n in range(6)}), quorum=quorum)
    assert [draft.index for draft in prediction.rounds[0].drafts] == list(range(count))


def test_failed_drafts_do_not_count_towards_a_quorum() -> None:
    prediction = ask(model("xxaaaa", delays={4: 2.0, 5: NEVER}), quorum=0.5)
    assert [(d.index, d.ok) for d in prediction.rounds[0].drafts] == [
        (0, False),
        (1, False),
        (2, True),
        (3, True),
        (4, True),
    ]
    assert (prediction.ledger.failed, prediction.ledger.cancelled) == (2, 1)


def test_when_nothing_runs_any_more_a_quorum_takes_what_there_is() -> None:
    prediction = ask(model("xxxxaa"), quorum=0.9)
    assert (prediction.ledger.failed, prediction.ledger.cancelled) == (4, 0)
    with pytest.raises(RoundFailed, match="all 6 drafts of round 1 failed"):
        ask(model("xxxxxx"), quorum=0.5)


def test_the_single_draft_of_the_last_round_is_always_waited_for() -> None:
    prediction = ask(model(), quorum=0.01, agree=0.6)
    assert [call.fate for call in prediction.ledger.calls if call.round == 3] == [""]


# --- agreement


def test_drafts_that_agree_end_their_round_and_go_to_the_next() -> None:
    lm = model("aaaabb", delays={4: NEVER, 5: NEVER})
    prediction = ask(lm, agree=0.95)
    assert fates(prediction) == [TAKEN] * 4 + [CUT] * 2
    assert len(prediction.rounds[1].drafts) == 2 + 2
    assert len(prediction.rounds[0].workspaces) == 4
    assert len(prediction.rounds[2].drafts) == 1
    assert lm.served.cancelled == 2


def test_what_the_round_before_the_last_saves_is_saved() -> None:
    prediction = ask(model("aaaaaa"), widths=(6, 1), agree=0.95)
    assert [len(round_.drafts) for round_ in prediction.rounds] == [4, 1]
    chain = ask(model("aaaaaa", later="a"), widths=(6, 3, 1), agree=0.95)
    assert [len(round_.drafts) for round_ in chain.rounds] == [4, 4, 1]  # 3 + 2 of which 4 agree


def test_drafts_that_disagree_are_all_waited_for() -> None:
    prediction = ask(model("ababab"), agree=0.95)
    assert fates(prediction) == [TAKEN] * 6
    assert len(prediction.rounds[1].drafts) == 2


@pytest.mark.parametrize("slow", [{}, {0: 3.0}, {2: 5.0, 3: 2.0}, {n: 6.0 - n for n in range(6)}])
def test_the_order_of_finishing_does_not_change_what_agrees(slow: dict[int, float]) -> None:
    prediction = ask(model("aaabaaaa", slow), widths=(8, 2, 1), agree=0.9)
    assert [draft.index for draft in prediction.rounds[0].drafts] == [0, 1, 2]
    assert prediction.rounds == ask(model("aaabaaaa"), widths=(8, 2, 1), agree=0.9).rounds


def test_a_draft_beyond_the_decision_that_is_done_is_on_the_ledger_alone() -> None:
    prediction = ask(model("aaaabb", delays={0: 3.0, 5: NEVER}), agree=0.95)
    assert fates(prediction) == [TAKEN] * 4 + [LEFT, CUT]
    assert len(prediction.rounds[0].drafts) == 4


@pytest.mark.slow
@pytest.mark.parametrize("limit", ["total", "sequential"])
def test_with_more_budget_a_program_whose_drafts_agree_never_stops_earlier(limit: str) -> None:
    def run(tokens: int) -> dspy.Prediction:  # drafts 4 and 5 are done before the others agree
        return ask(model("aaaaaa", {3: 3.0}), budget=Budget(**{limit: tokens}), agree=0.95)

    reached = 0
    for tokens in range(1800 if limit == "total" else 300, 4000 if limit == "total" else 1500, 50):
        prediction = run(tokens)
        assert getattr(prediction.ledger, limit) <= tokens
        assert len(prediction.rounds) >= reached
        reached = len(prediction.rounds)
        if reached > 1:  # under a limit on total tokens, what was saved is saved
            assert len(prediction.rounds[1].drafts) == (2 if limit == "total" else 4)
    assert reached == 3


def test_a_refund_of_selections_is_paid_for_too() -> None:
    prediction = ask(model("aaaaaa"), distiller="topk_per_sample", agree=0.95)
    selections = [call for call in prediction.ledger.calls if call.phase is Phase.SELECT]
    assert [sum(call.round == number for call in selections) for number in (1, 2)] == [4, 1]


@pytest.mark.parametrize("distiller", ["random_k", "summary", "topk_per_sample"])
def test_output_stays_below_the_bound_of_the_schedule(distiller: str) -> None:
    for agree in (0.6, 0.95):
        prediction = ask(model(later="a"), widths=(6, 4, 2, 1), distiller=distiller, agree=agree, draft_tokens=9)
        bound = PDR(QA, **{**WIDE, "widths": (6, 4, 2, 1), "distiller": distiller, "agree": agree}).schedule
        assert prediction.ledger.output <= bound.replace(draft_tokens=9).output_bound().total


# --- off


def test_off_is_what_it_was() -> None:
    def sent(lm: ScriptedLM) -> list[Any]:
        return sorted((r.seed, r.user, r.cap) for r in lm.served.requests)

    stores = [Rollouts(), Rollouts(), Rollouts()]
    engines = [model(), model(), model("abcdef")]
    plain = ask(engines[0], stores[0])
    off = ask(engines[1], stores[1], quorum=1.0, agree=None)
    on = ask(engines[2], stores[2], quorum=1.0, agree=0.95)
    assert sent(engines[0]) == sent(engines[1])
    assert {r.key for r in stores[0]} == {r.key for r in stores[1]}
    assert len(on.ledger) == len(plain.ledger) == len(off.ledger)
    drafts = [[call.key for call in p.ledger.calls if call.round == 1] for p in (plain, on)]
    assert drafts[0] == drafts[1]  # seeds and addresses do not depend on the rule
    assert {call.fate for call in plain.ledger.calls} == {""}


def test_siblings_go_out_alone_so_that_one_can_be_cancelled() -> None:
    lm = model()
    lm.siblings = True  # type: ignore[attr-defined]
    ask(lm, quorum=0.5)
    marked = [bool((r.request.config.extensions or {}).get("pdr_siblings")) for r in lm.served.requests]
    assert not any(marked[:3])
    ask(lm, seed=1)
    assert any((r.request.config.extensions or {}).get("pdr_siblings") for r in lm.served.requests)


def test_a_saved_program_keeps_its_rules(tmp_path: Path) -> None:
    program = PDR(QA, **WIDE, quorum=0.75, agree=0.9)
    save(program, tmp_path / "program.json")
    loaded = load(tmp_path / "program.json")
    assert isinstance(loaded, Operator)
    assert loaded.schedule == program.schedule
    program.save(str(tmp_path / "state.json"))
    plain = PDR(QA, **WIDE)
    plain.load(str(tmp_path / "state.json"))
    assert plain.schedule == program.schedule


# --- replay

RULES: list[dict[str, Any]] = [{"agree": 0.95}, {"quorum": 0.5}, {"quorum": 0.7, "agree": 0.9}]


def plain(prediction: dspy.Prediction) -> list[Any]:
    return [
        (call.phase, call.round, call.index, call.usage, call.finish, call.fate, call.estimated)
        for call in prediction.ledger.calls
    ]


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("slow", [{}, {1: 4.0, 4: NEVER}, {0: 2.0, 3: 1.0, 4: NEVER, 5: NEVER}])
def test_a_replay_sends_nothing_and_gives_the_same(
    rule: dict[str, Any], slow: dict[int, float], tmp_path: Path
) -> None:
    with Rollouts(tmp_path) as store:
        before = ask(model("aaaaba", slow), store, **rule)
    lm = model("aaaaba")
    with Rollouts(tmp_path) as store:
        after = ask(lm, store, **rule)
    assert (lm.served.calls, lm.served.cancelled) == (0, 0)
    assert after.rounds == before.rounds
    assert (after.answer, after.stop) == (before.answer, before.stop)
    assert plain(after) == plain(before)
    assert (after.ledger.sequential, after.ledger.total) == (before.ledger.sequential, before.ledger.total)
    assert after.ledger.paid == 0


def timed(store: Rollouts, seconds: Callable[[int], float]) -> Rollouts:
    """The same completions, which took other times: of draft i of the first round `seconds(i)`."""
    changed = Rollouts()
    for place, rollout in enumerate(store):
        changed.put(rollout.model_copy(update={"seconds": seconds(place)}))
    return changed


def filled(answers: str, seconds: Callable[[int], float]) -> Rollouts:
    """The drafts of the first round as a wider program had made them."""
    store = Rollouts()
    ask(model(answers), store, widths=(len(answers), 1))
    return timed(store, seconds)


def test_out_of_the_store_a_quorum_takes_those_that_were_the_fastest() -> None:
    lm = model()
    prediction = ask(lm, filled("abcdef", lambda place: [5.0, 1.0, 4.0, 2.0, 8.0, 10.0, 0.0][place]), quorum=0.5)
    assert [draft.index for draft in prediction.rounds[0].drafts] == [1, 2, 3]
    assert not any(role_of(request) == "draft" for request in lm.served.requests)
    first = [call for call in prediction.ledger.calls if call.round == 1]
    assert [call.cancelled for call in first] == [True, False, False, False, True, True]
    whole = [call.usage for call in ask(model("abcdef")).ledger.calls][:6]
    for place, share in ((0, 4 / 5), (4, 4 / 8), (5, 4 / 10)):  # what each had written after 4 seconds
        usage = first[place].usage
        assert (usage.input, usage.output) == (whole[place].input, math.floor((whole[place].output or 0) * share))
        assert first[place].reused
        assert first[place].estimated


def test_out_of_the_store_agreement_sends_nothing_more_and_costs_as_if_asked_now() -> None:
    lm = model("aaaa")
    store = filled("aaaa", lambda place: [1.0, 1.0, 2.0, 4.0, 0.0][place])
    prediction = ask(lm, store, agree=0.95)
    assert not any(role_of(request) == "draft" for request in lm.served.requests)
    first = [call for call in prediction.ledger.calls if call.round == 1]
    assert [call.cancelled for call in first] == [False] * 4 + [True] * 2
    rate = sum(call.usage.output or 0 for call in first[:4]) / 8.0
    assert {call.usage.output for call in first[4:]} == {round(rate * 4.0)}
    assert all(call.reused and call.estimated for call in first[4:])


def test_drafts_that_are_missing_are_asked_for_beside_those_of_the_store() -> None:
    lm = model("aabaaa", {5: NEVER})
    prediction = ask(lm, filled("aab", lambda place: 0.0), quorum=0.8)
    assert fates(prediction) == [TAKEN] * 5 + [CUT]
    assert [call.reused for call in prediction.ledger.calls if call.round == 1] == [True] * 3 + [False] * 3


def test_a_stored_draft_that_was_slow_is_not_waited_for_while_others_run() -> None:
    prediction = ask(model("aaaaaa"), filled("aa", lambda place: 3600.0 * (place == 0)), quorum=0.8)
    assert [draft.index for draft in prediction.rounds[0].drafts] == [1, 2, 3, 4, 5]
    assert fates(prediction)[0] == CUT


def test_a_stage_with_a_failed_call_is_run_again() -> None:
    store = Rollouts()
    ask(model("xaaaaa", {5: NEVER}), store, quorum=0.6)
    lm = model("aaaaaa", {5: NEVER})
    again = ask(lm, store, quorum=0.6)
    assert again.ledger.failed == 0
    assert {r.seed % 256 for r in lm.served.requests if role_of(r) == "draft"} <= {0, 5}


def test_a_record_whose_calls_are_gone_is_not_used() -> None:
    store = Rollouts()
    before = ask(model(delays={5: NEVER}), store, quorum=0.8)
    lost = Rollouts()
    for rollout in store:
        if rollout.text.startswith("["):
            assert json.loads(rollout.text)[:5] == ["taken"] * 5
            lost.put(rollout)
    again = ask(model(delays={5: NEVER}), lost, quorum=0.8)
    assert again.rounds == before.rounds
    assert not any(call.reused for call in again.ledger.calls)


# --- ends that are not the rule's


class Full(Rollouts):
    """A store on a disk that is full from the second completion on."""

    def put(self, rollout: Rollout) -> None:
        if len(self) >= 1:
            raise StoreError("the disk is full")
        super().put(rollout)


@pytest.mark.parametrize("rule", [{}, {"quorum": 0.8}])
def test_a_store_that_cannot_be_written_ends_the_other_calls(rule: dict[str, Any]) -> None:
    lm, store = model(delays={3: NEVER, 4: NEVER}), Full()

    async def run() -> None:
        with pytest.raises(StoreError, match="disk is full"):
            await PDR(QA, **{**WIDE, **rule}).acall(question="q")
        assert len(asyncio.all_tasks()) == 1

    with dspy.context(lm=lm), calls.session(store=store):
        asyncio.run(run())
    assert not store.pending


@pytest.mark.slow
@pytest.mark.parametrize("by", ["cancel", "timeout"])
@pytest.mark.parametrize("rule", [{}, *RULES])
def test_giving_up_programs_cancels_their_requests_and_keeps_what_is_finished(rule: dict[str, Any], by: str) -> None:
    lm, store = model("ababab", {1: NEVER, 3: NEVER, 5: NEVER, 4: NEVER}), Rollouts()
    program = PDR(QA, **{**WIDE, **rule})

    async def many() -> None:
        async def one(number: int) -> None:
            async with asyncio.timeout(None) as limit:
                limits.append(limit)
                await program.acall(question=f"q{number}")

        limits: list[asyncio.Timeout] = []
        tasks = [asyncio.ensure_future(one(number)) for number in range(40)]
        while len(store) < 80 or len(store.pending) < 160:  # noqa: ASYNC110  (drafts 0 and 2 of each are done)
            await asyncio.sleep(0)
        for task, limit in zip(tasks, limits, strict=True):
            if by == "cancel":
                task.cancel()
            else:
                limit.reschedule(asyncio.get_running_loop().time())
        ends = await asyncio.gather(*tasks, return_exceptions=True)
        assert {type(end) for end in ends} == {asyncio.CancelledError if by == "cancel" else TimeoutError}
        assert len(asyncio.all_tasks()) == 1

    with dspy.context(lm=lm), calls.session(store=store):
        asyncio.run(many())
    assert not store.pending
    assert len(store) == 80
    assert lm.served.cancelled == 160


def test_calls_that_wait_for_their_place_in_flight_cost_nothing_when_they_are_cancelled() -> None:
    lm = model(delays=dict.fromkeys(range(6), 1.0))

    async def few() -> dspy.Prediction:
        with calls.session(in_flight=asyncio.Semaphore(1)):
            return await PDR(QA, **{**WIDE, "quorum": 0.5}).acall(question="q")

    with dspy.context(lm=lm):
        prediction = asyncio.run(few())
    unsent = [call for call in prediction.ledger.calls if call.cancelled and not call.estimated]
    assert [call.tokens for call in unsent] == [0, 0]
    assert [call.usage.tokens for call in unsent] == [0, 0]


def test_equal_programs_side_by_side_share_their_requests_and_one_that_stops_takes_nothing_from_the_other() -> None:
    lm, store = model(delays={5: 3.0}), Rollouts()

    async def both() -> list[dspy.Prediction]:
        hasty, patient = PDR(QA, **{**WIDE, "quorum": 0.5}), PDR(QA, **WIDE)
        return list(await asyncio.gather(hasty.acall(question="q"), patient.acall(question="q")))

    with dspy.context(lm=lm), calls.session(store=store):
        hasty, patient = asyncio.run(both())
    assert any(call.cancelled for call in hasty.ledger.calls)  # they waited for the other's requests and sent none
    assert hasty.ledger.cancelled == 0
    assert (patient.ledger.cancelled, patient.ledger.failed) == (0, 0)
    assert len(patient.rounds[0].drafts) == 6
    assert not store.pending


def test_a_server_sees_the_connection_of_a_straggler_close_and_its_book_is_the_ledgers() -> None:
    async def run() -> dspy.Prediction:
        prediction = await PDR(QA, **{**WIDE, "widths": (4, 1), "quorum": 0.75}).acall(question="q")
        async with asyncio.timeout(30):
            while server.aborts < 1:  # noqa: ASYNC110  (the server has a loop of its own)
                await asyncio.sleep(0.001)
        return prediction

    with MockServer(lambda body, seed: f"Seed {seed}.\nAnswer: {seed}") as server:
        server.faults = ["hang"]
        lm = connect("mock", server.api_base)
        with dspy.context(lm=lm):
            prediction = asyncio.run(run())
        assert (server.aborts, server.in_flight, server.served) == (1, 0, 4)
    (cut,) = [call for call in prediction.ledger.calls if call.cancelled]
    assert {cut.usage.input} == {call.usage.input for call in prediction.ledger.calls if call.fate == "taken"}
    assert len(prediction.rounds[0].drafts) == 3
    assert prediction.ledger.failed == 0


def test_rows_name_the_drafts_that_a_workspace_was_made_of_by_their_places() -> None:
    lm = model("abcdef", {0: NEVER, 2: NEVER})
    example = dspy.Example(question="q", answer="f").with_inputs("question")
    with dspy.context(lm=lm):
        report = evaluate(PDR(QA, **WIDE, quorum=0.6), [example], ExactVerifier())
    (row,) = report.rows
    assert [draft.answer for draft in row.rounds[0].drafts] == ["b", "d", "e", "f"]
    assert set().union(*row.rounds[0].sources) <= {0, 1, 2, 3}
    assert sum(call.cancelled for call in row.calls) == 2
    assert row.sequential < row.total


# --- in a search


def test_a_search_pays_for_a_cancelled_call_as_for_a_call_of_its_own() -> None:
    def made(key: str, **facts: Any) -> Call:
        return Call(phase=Phase.DRAFT, key=key, usage=Usage(input=5, output=5), **facts)

    gone = {"finish": "cancelled", "fate": "left"}
    calls_ = (made("a", fate="taken"), made("b", **gone), made("c", reused=True, **gone), made("d", reused=True))
    found = cell(Row(id="q", repeat=0, seed=0, score=1.0, total=40, calls=calls_), 0, Pair(0))
    assert found.calls == (("a", 10), ("b/cancelled", 10), ("d", 10))  # "c" was left again: nobody paid for it
    assert found.total == 40


def test_the_workspace_of_a_failure_is_replayed_though_drafts_were_cancelled() -> None:
    lm, store = model(delays={1: NEVER}), Rollouts()
    example = dspy.Example(question="q", answer="right").with_inputs("question")
    program = PDR(QA, **{**WIDE, "widths": (6, 1)}, quorum=0.8)
    with dspy.context(lm=lm):
        report = evaluate(program, [example], ExactVerifier(), store=store)
        sent = lm.served.calls
        (failure,) = failures_of(program, [example], report, store=store)
    assert "Answer: a" in failure.workspace
    assert lm.served.calls == sent
