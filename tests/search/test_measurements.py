"""The measurements of a search: what is run, what the journal has, and what happens when the server fails."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dspy
import pytest
from dspy.lm15 import ServerError

from pdr_dspy.calls.store import Rollouts
from pdr_dspy.errors import EndpointError, PDRError, StoreError
from pdr_dspy.operators.schedule import Schedule
from pdr_dspy.search.driver.journal import Journal, open_journal
from pdr_dspy.search.driver.measurements import PROBES, Measurements, cell, transient
from pdr_dspy.search.racing.requests import Cell, Measure, Pair, Stage
from pdr_dspy.search.space.candidate import Candidate
from pdr_dspy.serving import connect
from pdr_dspy.testing import ScriptedLM, ScriptedRequest, scripted_lm
from tests.search.test_optimizer import Exact, questions, reasoner, student
from tests.support.mock_server import MockServer

COUNT = 4
PAIRS = tuple(Pair(question, repeat) for repeat in range(2) for question in range(COUNT))
WIDE = Candidate(Schedule(widths=(3, 1), kappa=200, distiller="random_k", k=2, draft_tokens=60), {})
ARMS = {0: Candidate(student().schedule, {}), 1: WIDE}
REQUEST = Measure(Stage.RACE, 0, ARMS, PAIRS)


def measuring(journal: Journal | None = None, store: Rollouts | None = None, **changes: Any) -> Measurements:
    sets = {
        stage: [(example.id, example) for example in questions(COUNT, 100 * (stage is Stage.CONFIRM))]
        for stage in Stage
    }
    settings: dict[str, Any] = {"seed": 0, "max_in_flight": 4, **changes}
    return Measurements(
        student(),
        Exact(),
        sets,
        journal=Journal({}) if journal is None else journal,
        store=Rollouts() if store is None else store,
        **settings,
    )


def measured(
    one: Measurements, request: Measure = REQUEST, lm: ScriptedLM | None = None
) -> dict[tuple[int, Pair], Cell]:
    with dspy.context(lm=lm or scripted_lm(reasoner)):
        return one.measure(request)


def test_every_cell_of_a_request_is_measured_once() -> None:
    lm = scripted_lm(reasoner)
    one = measuring()
    cells = measured(one, lm=lm)
    assert set(cells) == {(arm, pair) for arm in ARMS for pair in PAIRS}
    assert {found.score for found in cells.values()} == {0.0, 1.0}
    assert all(found.total >= found.sequential > 0 for found in cells.values())
    different = {address: tokens for found in cells.values() for address, tokens in found.calls}
    assert lm.served.calls == len(different)
    assert lm.served.input + lm.served.output == sum(different.values())
    shared = {a for a, _ in cells[0, PAIRS[0]].calls} & {a for a, _ in cells[1, PAIRS[0]].calls}
    assert len(shared) == 1  # the first draft is the student's
    assert [row.id for row in one.rows_of(Stage.RACE, 1)] == sorted(f"q{n}" for n in range(COUNT)) * 2
    assert one.profile()["draft"].calls == COUNT * 2 * 4


def test_what_is_in_the_journal_is_read_and_not_measured() -> None:
    journal = Journal({})
    first = measured(measuring(journal))
    lm = scripted_lm(reasoner)
    second = measuring(journal)
    assert second.known(REQUEST) == first
    assert measured(second, lm=lm) == first
    assert lm.served.calls == 0
    assert measuring().known(REQUEST) is None


def test_half_of_a_request_in_the_journal_leaves_the_other_half() -> None:
    journal = Journal({})
    part = REQUEST._replace(pairs=PAIRS[:3])
    measured(measuring(journal), part)
    ran: list[str] = []
    one = measuring(journal, on_row=lambda stage, row, done, count: ran.append(f"{row.id} {done}/{count}"))
    assert one.missing(REQUEST) == list(PAIRS[3:])
    assert one.known(REQUEST) is None
    assert len(one.rows) == len(ARMS) * 3  # what is there is known
    assert measured(one) == measured(measuring())
    assert one.missing(REQUEST) == []
    assert len(ran) == len(ARMS) * (len(PAIRS) - 3)
    assert ran[0].endswith(f"4/{len(PAIRS)}")
    assert ran[-1].endswith(f"{len(PAIRS)}/{len(PAIRS)}")


def test_stages_have_seeds_of_their_own() -> None:
    one = measuring()
    calls = {
        stage: {a for found in measured(one, REQUEST._replace(stage=stage)).values() for a, _ in found.calls}
        for stage in Stage
    }
    assert not calls[Stage.RACE] & calls[Stage.FINAL]
    assert not calls[Stage.RACE] & calls[Stage.CONFIRM]
    assert measured(measuring(seed=1)) != measured(measuring(seed=0))


def test_the_number_of_requests_in_flight_changes_nothing() -> None:
    assert measured(measuring(max_in_flight=1)) == measured(measuring(max_in_flight=64))


class Flaky:
    """A server that fails the first `times` requests of each question that `of` names."""

    def __init__(self, times: int, of: Callable[[str], bool] = lambda _: True) -> None:
        self.times, self.of = times, of
        self.failed = Counter[tuple[str, int]]()

    def __call__(self, request: ScriptedRequest) -> str:
        key = (request.user, request.seed)
        if self.of(request.user) and self.failed[key] < self.times:
            self.failed[key] += 1
            raise ServerError("the server is tired")
        return reasoner(request)


def test_what_the_server_failed_is_run_again_and_ends_as_if_it_had_not() -> None:
    calm = measured(measuring())
    one, flaky = measuring(), Flaky(1, lambda user: "q2" in user)
    assert measured(one, lm=scripted_lm(flaky)) == calm
    assert not any(transient(row) for row in one.rows.values())
    assert flaky.failed.total() > 0


def test_what_fails_every_time_is_recorded_as_failed_and_counts_0() -> None:
    one = measuring()
    flaky = Flaky(99, lambda user: "q2" in user)
    cells = measured(one, lm=scripted_lm(flaky))
    for (_, pair), found in cells.items():
        assert found.failed == (pair.question == 2)
        assert not (found.failed and found.score)
    failed = [row for row in one.rows.values() if row.error is not None]
    assert all(transient(row) and row.id == "q2" for row in failed)
    assert max(flaky.failed.values()) <= 2 * 3  # each arm three times; they share a draft


@pytest.mark.slow
@pytest.mark.parametrize("arms", [1, 2])
def test_a_server_that_dies_has_no_failures_put_down(arms: int) -> None:
    for after in range(0, 30, 5):
        journal, store = Journal({}), Rollouts()
        request = REQUEST._replace(arms={arm: ARMS[arm] for arm in range(arms)})
        try:
            measured(measuring(journal, store, max_in_flight=1), request, scripted_lm(Dying(after)))
        except EndpointError as error:
            assert "the server answers nothing" in str(error)  # noqa: PT017
            assert not any('"error"' in (journal.get(name) or "") for name in journal.names())
            assert measured(measuring(journal, store), request) == measured(measuring(), request)


def test_a_lone_unit_is_not_put_down_for_a_server_that_is_gone() -> None:
    journal = Journal({})
    alone = REQUEST._replace(pairs=PAIRS[:1], arms={0: ARMS[0]})
    with pytest.raises(EndpointError, match="connection refused"):
        measured(measuring(journal), alone, scripted_lm(Dying(0)))
    assert journal.names() == []


def test_questions_that_the_server_always_fails_do_not_hold_up_the_others() -> None:
    one = measuring()
    cells = measured(one, lm=scripted_lm(Flaky(99, lambda user: "q1" in user or "q3" in user)))
    assert {pair.question for (_, pair), found in cells.items() if found.failed} == {1, 3}


def test_a_server_that_answers_drafts_and_refuses_every_refinement_is_there() -> None:
    one = measuring()
    one.student = student().with_schedule(WIDE.schedule)
    request = REQUEST._replace(arms={1: WIDE})
    cells = measured(one, request, scripted_lm(Flaky(99, lambda user: "Workspace:" in user)))
    assert len(cells) == len(PAIRS)
    assert all(row.error is None and row.failed_rounds for row in one.rows.values())
    assert any(found.score for found in cells.values())  # of the drafts


class Dying:
    """A server that is gone after some answers."""

    def __init__(self, after: int) -> None:
        self.left = after

    def __call__(self, request: ScriptedRequest) -> str:
        self.left -= 1
        if self.left < 0:
            raise ServerError("connection refused")
        return reasoner(request)


def test_a_dead_server_ends_the_search_and_keeps_what_is_finished(tmp_path: Path) -> None:
    with open_journal(tmp_path, {}) as journal, Rollouts(tmp_path / "rollouts") as store:
        with pytest.raises(EndpointError, match=r"answers nothing.*connection refused.*the same command resumes"):
            measured(measuring(journal, store), lm=scripted_lm(Dying(20)))
        kept, done = len(store), [journal.get(name) or "" for name in journal.names()]
        assert kept == 20
        assert done
        assert not any("error" in row for text in done for row in json.loads(text)["rows"].values())
    lm = scripted_lm(reasoner)
    with open_journal(tmp_path, {}) as journal, Rollouts(tmp_path / "rollouts") as store:
        assert measured(measuring(journal, store), lm=lm) == measured(measuring())
        assert lm.served.calls == len(store) - kept


@pytest.mark.slow
@pytest.mark.parametrize("client", ["connect", "dspy.LM"])
def test_a_server_that_is_not_running_is_named_and_the_search_resumes_when_it_is_back(
    tmp_path: Path, client: str
) -> None:
    answered: list[int] = []

    def run(port: int) -> dict[tuple[int, Pair], Cell]:
        base = f"http://127.0.0.1:{port}/v1"
        lm = (
            connect("mock", base)
            if client == "connect"
            else dspy.LM("openai/mock", api_base=base, api_key="k", num_retries=0)
        )
        with open_journal(tmp_path, {}) as journal, Rollouts(tmp_path / "rollouts") as store, dspy.context(lm=lm):
            return measuring(journal, store).measure(REQUEST)

    def reply(body: dict[str, Any], seed: int) -> str:
        answered.append(seed)
        return "Answer: w"

    with MockServer(reply, kind="vllm") as server:
        port = server.port
    with pytest.raises(EndpointError) as stopped:
        run(port)
    assert re.search(rf"127.0.0.1:{port}.*the server is not running at that address: start it", str(stopped.value))
    assert "the same command resumes" in str(stopped.value)
    with open_journal(tmp_path, {}) as journal:
        assert journal.names() == []
    with MockServer(reply, kind="vllm", port=port):
        cells = run(port)
    assert len(cells) == len(ARMS) * len(PAIRS)
    assert not any(found.failed for found in cells.values())
    assert answered


def test_programs_without_any_answer_stop_the_search_and_nothing_is_recorded() -> None:
    journal, store, lm = Journal({}), Rollouts(), scripted_lm(lambda request: "")
    with pytest.raises(PDRError, match=r"every program failed on 8 questions in a row, the last: .*resumes") as stopped:
        measured(measuring(journal, store, max_in_flight=1), lm=lm)
    assert "not running" not in str(stopped.value)  # it answers, though not as asked
    assert journal.names() == []
    probes = PROBES  # the student's, which are not stored
    assert len(store) == lm.served.calls - probes > 0
    paid = lm.served.calls
    with pytest.raises(PDRError, match="every program failed on 8 questions"):
        measured(measuring(journal, store, max_in_flight=1), lm=lm)
    assert lm.served.calls - paid == probes


def test_a_verifier_that_always_fails_is_to_be_mended() -> None:
    class Broken(Exact):
        def __call__(self, example: dspy.Example, prediction: dspy.Prediction, trace: Any = None) -> Any:
            raise ZeroDivisionError("no verdict")

    one = measuring(max_in_flight=1)
    one.verifier = Broken()
    with pytest.raises(PDRError, match=r"8 questions in a row, the last: .*no verdict.*; mend the verifier; "):
        measured(one)


def test_programs_that_fail_where_the_student_answers_are_recorded_as_failed() -> None:
    one, journal = measuring(max_in_flight=1), Journal({})
    one.journal = journal
    request = REQUEST._replace(arms={1: WIDE})
    lm = scripted_lm(lambda request: "" if re.search(r"Answer: \w", request.user) else reasoner(request))
    cells = measured(one, request, lm)
    assert len(journal.names()) == len(cells) == len(PAIRS)
    assert all(found.failed for found in cells.values())


def test_a_verifier_that_fails_is_no_failure_of_the_servers() -> None:
    asked = Counter[str]()

    class Broken(Exact):
        def __call__(self, example: dspy.Example, prediction: dspy.Prediction, trace: Any = None) -> Any:
            asked[example.id] += 1
            if example.id == "q1":
                raise ZeroDivisionError("no verdict")
            return super().__call__(example, prediction, trace)

    one = measuring()
    one.verifier = Broken()
    cells = measured(one)
    assert asked["q1"] == len(cells) // COUNT  # nothing was tried again
    assert {pair.question for (_, pair), found in cells.items() if found.failed} == {1}


@pytest.mark.parametrize(
    "text", ["", "{}", "[]", '{"rows": {"0": {}}}', '{"rows": {"0": null, "1": null}}', '{"rows": 1}']
)
def test_an_entry_that_is_not_of_this_search_is_refused_by_name(text: str) -> None:
    journal = Journal({})
    journal.put("race/000/00001-000", text)
    with pytest.raises(StoreError, match=r"entry 'race/000/00001-000' is not of this search") as raised:
        measured(measuring(journal))
    assert "use another `run_dir`" in str(raised.value)


def test_a_cell_names_calls_without_an_address_by_their_place() -> None:
    one = measuring()
    measured(one)
    row = one.rows[Stage.RACE, 1, PAIRS[0]]
    bare = row.model_copy(update={"calls": tuple(call.model_copy(update={"key": ""}) for call in row.calls)})
    named = cell(bare, 1, PAIRS[0])
    assert len({address for address, _ in named.calls}) == len(row.calls)
    assert not {a for a, _ in named.calls} & {a for a, _ in cell(bare, 2, PAIRS[0]).calls}
    assert sum(tokens for _, tokens in named.calls) == row.total


def test_calls_are_on_the_disk_before_the_journal_says_that_they_are_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: dict[str, int] = {}
    sync = os.fsync

    def noted(file: int) -> None:
        sync(file)
        synced[os.path.realpath(f"/proc/self/fd/{file}")] = os.fstat(file).st_size

    monkeypatch.setattr(os, "fsync", noted)
    with open_journal(tmp_path, {}) as journal, Rollouts(tmp_path / "rollouts") as store:
        put = journal.put

        def checked(name: str, text: str) -> None:
            on_disk = "".join(
                path.read_bytes()[: synced.get(str(path.resolve()), 0)].decode()
                for path in (tmp_path / "rollouts").glob("*.jsonl")
            )
            for row in json.loads(text)["rows"].values():
                assert all(call["key"] in on_disk for call in row["calls"])
            put(name, text)

        monkeypatch.setattr(journal, "put", checked)
        measured(measuring(journal, store))
