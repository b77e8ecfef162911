"""The simulated reasoner's three forms are one law; the search benchmark counts and judges as it says; so does the mock
server of the client benchmark."""

from __future__ import annotations

import http.client
import json
import math
import os
import re
import signal
import socket
import sys
import traceback
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from statistics import fmean, variance
from typing import Any

import dspy
import pytest
from rich.console import Console

from benchmarks import (
    anytime,
    client,
    durability,
    grading,
    kills,
    mock_server,
    racing,
    search,
    search_report,
    searchers,
    texts,
    throughput,
)
from benchmarks.client_report import Row, show
from benchmarks.expectation import expected
from benchmarks.law import Traits
from benchmarks.mock_server import Counters
from benchmarks.peers import sampling
from benchmarks.reasoner import TASK, World, effect
from pdr_dspy import PDR
from pdr_dspy.cli import app as cli
from pdr_dspy.operators.schedule import Schedule
from pdr_dspy.search.prior import FIRST, Known, learn, transferable
from pdr_dspy.search.racing.pareto import Limits
from pdr_dspy.search.settings import Instructions
from pdr_dspy.search.space.candidate import Candidate
from pdr_dspy.search.space.space import Space
from pdr_dspy.serving import connect
from pdr_dspy.testing import scripted_lm
from tests.support.mock_server import MockServer

pytestmark = pytest.mark.slow

SCHEDULES = (
    Schedule(widths=(1,), draft_tokens=256),
    Schedule(widths=(1, 1, 1), distiller="last", critique=True, draft_tokens=512, kappa=256),
    Schedule(widths=(4, 1), distiller="random_k", k=2, draft_tokens=512, kappa=512),
    Schedule(widths=(4, 1), distiller="summary", draft_tokens=512, kappa=512),
    Schedule(widths=(4, 2, 1), distiller="topk_per_sample", k=2, draft_tokens=256),
    Schedule(widths=(8, 4, 1), distiller="topk", k=4, draft_tokens=512, kappa=512),
    Schedule(widths=(5,), final="vote", draft_tokens=256),
    Schedule(widths=(4, 2), distiller="random_k", k=2, final="vote", draft_tokens=512, kappa=512),
)
SMALL = Space(rounds=(1, 2), widths=(2, 4), k=(1, 2), draft_tokens=(256, 512), distiller=("topk", "random_k"))
LIMITS = Limits(sequential=3500, total=3000)


@pytest.fixture(scope="module")
def world() -> World:
    return World(5, 12, Traits())


def of(schedule: Schedule, **instructions: str) -> Candidate:
    return Candidate(schedule, instructions)


class TestLaw:
    @pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
    def test_library_and_cell_agree(self, world: World, schedule: Schedule) -> None:
        program = PDR(TASK, schedule)
        pairs = []
        with dspy.context(lm=scripted_lm(world.reply)):
            for question in range(8):
                runs = [program(question=world.example(question).question, seed=seed) for seed in range(4)]
                own = [(float(r.answer == "1"), r.ledger.sequential, r.ledger.total) for r in runs]
                cells = [world.cell(of(schedule), question, seed) for seed in range(60)]
                pairs.append((own, [(c.score, c.sequential, c.total) for c in cells]))
        for figure in range(3):
            ours = [[row[figure] for row in own] for own, _ in pairs]
            theirs = [[row[figure] for row in cells] for _, cells in pairs]
            error = math.sqrt(sum(variance(b) * (1 / len(a) + 1 / len(b)) for a, b in zip(ours, theirs, strict=True)))
            difference = sum(fmean(a) - fmean(b) for a, b in zip(ours, theirs, strict=True))
            slack = 0.02 * sum(map(fmean, theirs)) if figure else 0  # where a text is cut is a word or two off
            assert abs(difference) <= 3.5 * error + slack

    @pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
    def test_cell_and_truth_agree(self, world: World, schedule: Schedule) -> None:
        truth = world.truth_on(of(schedule), 200)
        for figure, name in enumerate(("score", "sequential", "total")):
            runs = [[getattr(world.cell(of(schedule), q, seed), name) for seed in range(60)] for q in range(12)]
            error = math.sqrt(sum(variance(values) / len(values) for values in runs)) / len(runs)
            slack = 0.005 * truth[figure] if figure else 0
            assert abs(fmean(map(fmean, runs)) - truth[figure]) <= 4 * error + slack

    def test_truth_is_accurate_to_a_fifth_of_a_point(self, world: World) -> None:
        plan = world.plan(of(SCHEDULES[4]))
        scores = [expected(world.traits, plan, world.population, 8, seed).score for seed in range(8)]
        assert math.sqrt(variance(scores)) < 0.002

    def test_gains_are_of_the_published_size(self, world: World) -> None:
        def score(**fields: Any) -> float:
            return 100 * world.truth(of(Schedule(draft_tokens=1024, **fields)), 2).score

        once = score(widths=(1,))
        refined = score(widths=(1, 1, 1), distiller="last")
        drawn = score(widths=(8, 4, 1), distiller="random_k", k=2)
        written = score(widths=(8, 4, 1), distiller="summary")
        picked = score(widths=(8, 4, 1), distiller="topk_per_sample", k=2)
        assert once + 3 < refined < picked - 3
        assert once + 7 < drawn < written < picked < once + 15
        first = score(widths=(8, 1), distiller="topk", k=2) - once
        second = score(widths=(8, 4, 1), distiller="topk", k=2) - once - first
        assert 0 < second < first / 2

    def test_a_cap_costs_answers_and_saves_tokens(self, world: World) -> None:
        short, long = (world.truth(of(Schedule(widths=(1,), draft_tokens=cap)), 1) for cap in (256, 1024))
        assert short.score < long.score - 0.1
        assert short.total < long.total

    def test_a_small_workspace_hides_what_it_cuts(self, world: World) -> None:
        small, large = (
            world.truth(of(Schedule(widths=(8, 1), distiller="random_k", k=4, kappa=kappa)), 1) for kappa in (256, 2048)
        )
        assert small.score < large.score - 0.01
        assert small.sequential < large.sequential

    def test_an_instruction_has_a_small_effect_of_its_own(self, world: World) -> None:
        assert effect(None) == 0
        texts = [f"Think about it in way {number}." for number in range(20)]
        assert max(texts, key=effect) != min(texts, key=effect)
        assert all(-0.3 <= effect(text) <= 0.3 for text in texts)
        best, worst = (
            world.truth(of(Schedule(widths=(1,)), draft=text), 1).score
            for text in (max(texts, key=effect), min(texts, key=effect))
        )
        assert best > worst

    def test_a_written_instruction_is_worth_most_under_its_own_schedule(self, world: World) -> None:
        own, near, far = (Schedule(widths=(width, 1), distiller="random_k", k=2) for width in (8, 4, 2))
        text = "Text 3 for 8 drafts and k 2, fit 1.5: +0.4000."
        assert effect(text, own) == 0.4 > effect(text, near) > effect(text, far) > 0
        assert effect(text.replace("1.5", "inf"), far) == 0.4
        score, helped, hurt = (
            world.truth(of(own, **texts), 1).score
            for texts in ({}, {"refine": text}, {"refine": text.replace("+", "-")})
        )
        assert hurt < score < helped

    def test_a_search_with_a_writer_tries_its_texts_on_their_schedules(self, world: World) -> None:
        for rounds in (1, 3):
            writer = texts.Writer(1)
            given = {"writer": writer, "instructions": Instructions(count=2, rounds=rounds)}
            steps = list(searchers.ours(**given)(world, SMALL, LIMITS, range(12), 40, 1))
            made = writer.proposals.proposals
            assert {one.round for one in made} == set(range(1, rounds + 1))
            assert len({one.text for one in made}) == len(made)
            assert all(texts.read_text(one.text) is not None for one in made)
            assert [step.paid for step in steps] == sorted(step.paid for step in steps)
        later = [read for one in made if one.round > 1 and (read := texts.read_text(one.text)) is not None]
        assert any(one.width > 1 for one in later)  # written for what led then


class TestReuse:
    def test_equal_calls_have_equal_keys_in_every_schedule(self, world: World) -> None:
        narrow = world.cell(of(Schedule(widths=(4, 1), distiller="random_k")), 3, 0)
        wide = world.cell(of(Schedule(widths=(8, 1), distiller="topk", kappa=512)), 3, 0)
        assert narrow.calls[:4] == wide.calls[:4]
        assert not {key for key, _ in narrow.calls[4:]} & {key for key, _ in wide.calls}

    def test_other_settings_are_other_calls(self, world: World) -> None:
        schedule = Schedule(widths=(4, 1), distiller="random_k")
        others = [
            of(schedule.replace(draft_tokens=512)),
            of(schedule.replace(temperature=0.7)),
            of(schedule, draft="Do it."),
        ]
        first = {key for key, _ in world.cell(of(schedule), 3, 0).calls}
        for other in others:
            assert not first & {key for key, _ in world.cell(other, 3, 0).calls}
        assert not first & {key for key, _ in world.cell(of(schedule), 3, 1).calls}
        assert not first & {key for key, _ in world.cell(of(schedule), 4, 0).calls}

    def test_a_cell_is_its_calls(self, world: World) -> None:
        cell = world.cell(of(SCHEDULES[5]), 2, 0)
        assert cell == World(5, 12, Traits()).cell(of(SCHEDULES[5]), 2, 0)
        assert cell.total == sum(tokens for _, tokens in cell.calls)
        assert len(cell.calls) == SCHEDULES[5].calls
        assert cell.sequential < cell.total

    @pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
    def test_further_last_refinements_have_the_same_score_in_the_mean(self, world: World, schedule: Schedule) -> None:
        pairs = [
            (world.cell(of(schedule), question, seed), world.cell(of(schedule), question, seed, last=3))
            for question in range(12)
            for seed in range(60)
        ]
        if schedule.rounds == 1 or schedule.widths[-1] > 1:
            assert all(one == three for one, three in pairs)
            return
        for one, three in pairs:
            assert three[1:3] == one[1:3]  # costs of one run
            assert three.calls[: len(one.calls)] == one.calls
            assert len({key for key, _ in three.calls}) == len(one.calls) + 2
        differences = [three.score - one.score for one, three in pairs]
        assert abs(fmean(differences)) < 4 * math.sqrt(variance(differences) / len(differences))
        assert variance(three.score for _, three in pairs) < variance(one.score for one, _ in pairs)

    def test_the_meter_pays_a_call_once(self, world: World) -> None:
        meter = searchers.Meter(world)
        narrow, wide = (of(Schedule(widths=(width, 1), distiller="random_k")) for width in (4, 8))
        first = meter.run(narrow, [0, 1])
        paid = meter.paid
        assert paid == meter.full == sum(cell.total for cell in first) > 0
        assert meter.run(narrow, [1, 0]) == first[::-1]
        assert (meter.paid, meter.full) == (paid, paid)
        more = meter.run(wide, [0, 1])
        assert meter.full == paid + sum(cell.total for cell in more)
        assert paid < meter.paid < meter.full


class TestSearch:
    @pytest.mark.parametrize("method", [name for name in searchers.SEARCHERS if not re.search(r"Wilcoxon|\(", name)])
    def test_a_method_counts_up_and_names_schedules_of_the_space(self, world: World, method: str) -> None:
        steps = list(searchers.SEARCHERS[method](world, SMALL, LIMITS, range(12), 8, 1))
        assert [step.paid for step in steps] == sorted(step.paid for step in steps)
        assert all(0 < step.paid <= step.full for step in steps)
        assert all(step.chosen in SMALL or step.chosen == searchers.STUDENT for step in steps)
        again = list(searchers.SEARCHERS[method](world, SMALL, LIMITS, range(12), 8, 1))
        assert steps == again

    def test_presets_and_a_prior_are_among_the_first(self, world: World) -> None:
        known = [Known(transferable(of(Schedule(widths=(width, 1), k=1))), 0.1 * width, 0.01) for width in (1, 2, 4)]
        own = {"student": searchers.STUDENT, "presets": True, "prior": learn([known])}
        steps = racing.search(world, SMALL.extend(final=("vote",)), LIMITS, range(12), 9, 1, **own)
        found = None
        while found is None:
            try:
                next(steps)
            except StopIteration as end:
                found = end.value
        origins = [arm.origin for arm in found.arms if not arm.free]
        assert origins[0] == "student"
        assert 0 < origins.count("prior") <= FIRST
        assert "vote" in origins
        assert found.prior_weight is not None

    def test_the_yardstick_knows_its_questions_and_pays_nothing(self, world: World) -> None:
        (step,) = searchers.SEARCHERS["(knowing its questions)"](world, SMALL, LIMITS, range(12), 8, 1)
        assert (step.paid, step.full) == (0, 0)
        allowed = [one for one in SMALL.candidates() if LIMITS.allow(world.truth(one, 1))]
        assert step.reported == max(world.truth_on(one).score for one in allowed)

    def test_the_space_has_as_many_schedules_as_the_page_says(self) -> None:
        assert search.__doc__ is not None
        assert f"a space of {search.SPACE.size} schedules" in " ".join(search.__doc__.split())

    def test_the_best_is_the_best_by_brute_force(self, world: World) -> None:
        best = search.best_of(world, SMALL, LIMITS)
        truths = [world.truth(candidate) for candidate in SMALL.candidates()]
        allowed = [truth for truth in truths if LIMITS.allow(truth)]
        assert 0 < best.within < len(truths)
        assert best.truth == max(allowed, key=lambda truth: truth.score)
        assert best.truth == world.truth(best.candidate)

    def test_play_holds_every_choice_against_the_truth(self, world: World) -> None:
        best = search.best_of(world, SMALL, LIMITS)
        weak, dear = of(Schedule(widths=(1,), draft_tokens=256)), of(Schedule(widths=(16, 16, 1), draft_tokens=512))

        def searcher(*_: object) -> list[searchers.Progress]:
            return [
                searchers.Progress(10, 20, best.candidate, 0.5),
                searchers.Progress(20, 40, weak, 0.9, (best.candidate,)),
                searchers.Progress(30, 60, best.candidate, 0.9),
                searchers.Progress(40, 80, best.candidate, 0.8),
            ]

        run = search.play("own", searcher, world, SMALL, LIMITS, best, 4, 0)  # type: ignore[arg-type]
        assert run.regret == 0
        assert run.optimism == pytest.approx(80 - 100 * best.truth.score)
        assert run.reached["1"] == [30, 60]  # it was lost in between
        assert (run.dropped, run.false_drops, run.worst_drops) == (1, 0, 1)
        assert [regret > 3 for _, _, regret in run.curve] == [False, True, False]

        def spender(*_: object) -> list[searchers.Progress]:
            return [searchers.Progress(10, 20, dear, 0.9)]

        run = search.play("own", spender, world, SMALL, LIMITS, best, 1, 0)  # type: ignore[arg-type]
        assert run.over
        assert run.regret >= 0
        assert run.reached["3"] == [math.inf, math.inf]

    def test_figures_over_seeds(self) -> None:
        def run(seed: int, reached: float, curve: list[tuple[int, int, float]]) -> search_report.Run:
            near = {"1": [math.inf, math.inf], "3": [reached, 2 * reached]}
            return search_report.Run(
                "a", seed, 30, 8, curve[-1][2], 2.0, False, 100, 200, "x", near, 10, seed, 0, 0.1, curve=curve
            )

        runs = [
            run(0, 40, [(10, 20, 8.0), (40, 80, 1.0)]),
            run(1, 60, [(10, 20, 6.0), (60, 120, 3.0)]),
            run(2, math.inf, [(10, 20, 5.0)]),
        ]
        row = search_report.summarise(runs)
        assert row["regret"][0] == 3.0
        assert row["paid within 3"][0] == 60
        assert row["share within 3"][0] == pytest.approx(2 / 3)
        assert row["share within 1"][0] == 0
        assert row["false drops"][0] == pytest.approx(3 / 30)
        assert search_report.tokens_to(runs, 4.0) == 40
        assert search_report.tokens_to(runs, 3.9) == 60
        assert search_report.tokens_to(runs, 1.0) == math.inf

    def test_the_file_is_plain_json(self, tmp_path, capsys: pytest.CaptureFixture[str]) -> None:
        world = World(1, 4)
        best = search.best_of(world, SMALL, LIMITS)
        runs = [
            search.play("grid, random order", searchers.grid, world, SMALL, LIMITS, best, 3, seed) for seed in range(2)
        ]
        search_report.show(runs, tmp_path / "out.json")

        def refuse(name: str) -> None:
            raise AssertionError(name)

        data = json.loads((tmp_path / "out.json").read_text(), parse_constant=refuse)
        assert len(data["runs"]) == 2
        assert "regret" in capsys.readouterr().out


BEGIN: dict[str, Any] = {**asdict(mock_server.Settings()), "latency": 0}


@pytest.fixture(scope="module")
def mock() -> Iterator[mock_server.Handle]:
    with mock_server.serve(latency=0) as handle:
        yield handle


def post(handle: mock_server.Handle, text: str, **fields: object) -> dict[str, Any]:
    body = {"model": "mock", "messages": [{"role": "user", "content": text}], **fields}
    request = urllib.request.Request(f"{handle.api_base}/chat/completions", json.dumps(body).encode())
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)


class TestMockServer:
    @pytest.fixture(autouse=True)
    def _reset(self, mock: mock_server.Handle) -> None:
        mock.reset(**BEGIN)

    def test_the_library_reads_it_and_their_counts_agree(self, mock: mock_server.Handle) -> None:
        lm = connect("auto", mock.api_base)
        with dspy.context(lm=lm):
            done = PDR("question -> answer: int", Schedule(widths=(4, 2, 1)))(question="[case 5] 6 times 7?")
        lm.close()
        counters = mock.counters()
        assert done.answer in (41, 42)
        assert counters["requests"] == counters["served"] <= counters["completions"] == 9
        assert done.ledger.total == counters["prompt_tokens"] + counters["completion_tokens"]
        assert counters["peak"] <= 4
        assert {call["case"] for call in mock.calls()} == {5}
        assert sum(call["completion_tokens"] for call in mock.calls()) == counters["completion_tokens"]

    def test_a_reply_depends_on_prompt_and_seed_alone(self, mock: mock_server.Handle) -> None:
        def texts(**fields: object) -> list[str]:
            return [choice["message"]["content"] for choice in post(mock, "six times seven", **fields)["choices"]]

        assert texts(seed=7) == texts(seed=7)
        assert texts(seed=7, n=3) == texts(seed=7) + texts(seed=8) + texts(seed=9)
        assert len(set(texts(seed=0, n=20))) > 5
        assert texts(max_tokens=3)[0] == "Six times se"

    def test_blocks_hit_only_behind_the_same_prefix(self, mock: mock_server.Handle) -> None:
        def hits(text: str) -> tuple[int, int]:
            before = mock.counters()
            post(mock, text)
            after = mock.counters()
            return after["blocks"] - before["blocks"], after["block_hits"] - before["block_hits"]

        role = len("user\n")
        start, other = "a" * (64 - role) + "b" * 64, "c" * (64 - role) + "b" * 64
        assert hits(start) == (2, 0)
        assert hits(other) == (2, 0)  # the second block is the same, what is before it is not
        assert hits(start + "d" * 70) == (3, 2)
        assert hits(start + "d" * 70) == (3, 3)

    def test_faults_come_at_their_rates_and_are_counted(self, mock: mock_server.Handle) -> None:
        mock.reset(faults={"500": 0.2, "429": 0.1, "drop": 0.1, "cut": 0.1, "lost": 0.1, "truncate": 0.1})
        met: Counter[str] = Counter()
        for seed in range(200):
            try:
                answer = post(mock, "six times seven", seed=seed)
                met[answer["choices"][0]["finish_reason"]] += 1
            except urllib.error.HTTPError as error:
                met[f"{error.code}, {error.headers['Retry-After']}"] += 1
                error.close()
            except (OSError, http.client.HTTPException):
                met["gone"] += 1
        counters = mock.counters()
        faults = counters["faults"]
        assert 60 > met["500, None"] == faults["500"] > met["429, 1"] == faults["429"] > 5
        assert met["gone"] == faults["drop"] + faults["cut"] + faults["lost"] > 30
        assert met["length"] == faults["truncate"] > 5
        assert counters["served"] == met["stop"] + met["length"]
        assert counters["lost_completion_tokens"] > 0

    def test_the_same_request_again_meets_a_draw_of_its_own(self, mock: mock_server.Handle) -> None:
        mock.reset(faults={"truncate": 0.5})
        outcomes = {post(mock, "six times seven", seed=1)["choices"][0]["finish_reason"] for _ in range(20)}
        assert outcomes == {"stop", "length"}

    def test_latencies_are_log_normal(self, mock: mock_server.Handle) -> None:
        mock.reset(latency=1e-4, sigma=0.7)
        for seed in range(200):
            post(mock, "six times seven", seed=seed)
        logs = [math.log(call["latency"] / 1e-4) for call in mock.calls()]
        assert fmean(logs) == pytest.approx(0, abs=0.2)
        assert math.sqrt(variance(logs)) == pytest.approx(0.7, abs=0.15)

    def test_a_client_that_leaves_is_an_abort(self, mock: mock_server.Handle) -> None:
        mock.reset(faults={"hang": 1.0})
        with pytest.raises(TimeoutError):
            leave(mock)
        while not mock.counters()["aborts"]:
            pass
        assert mock.counters()["in_flight"] == 0
        assert mock.counters()["served"] == 0

    def test_it_refuses_as_vllm_does(self, mock: mock_server.Handle) -> None:
        mock.reset(context=100)
        with pytest.raises(urllib.error.HTTPError) as caught:
            post(mock, "x" * 400, max_tokens=10)
        assert "maximum context length is 100 tokens" in caught.value.read().decode()
        caught.value.close()
        assert "usage" in post(mock, "x")
        mock.reset(usage=False)
        assert "usage" not in post(mock, "x")
        with pytest.raises(urllib.error.HTTPError) as caught:
            mock.reset(faults={"flood": 0.5})
        assert "shares of 500" in caught.value.read().decode()
        caught.value.close()


def leave(handle: mock_server.Handle) -> None:
    body = json.dumps({"messages": [{"role": "user", "content": "x"}]}).encode()
    with socket.create_connection(("127.0.0.1", handle.port), timeout=0.05) as connection:
        connection.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
        connection.recv(1)


def row(name: str, workload: str, **figures: Any) -> Row:
    counters = dict.fromkeys(Counters.__dataclass_fields__, 0) | {"peak_completions": 2048, "peak": 2048, "blocks": 4}
    tokens = {"prompt_tokens": 60, "completion_tokens": 40}
    given: dict[str, Any] = {"wall": 2.75, "path": 2.5, "cpu_ms": 0.5, "memory": 2**20, "peak_memory": 300 * 2**20}
    given |= {"reported": 100, "done": 64, "startup": 1.0, "startup_cpu": 0.5, "counters": counters | tokens}
    return Row(name, "PDR", workload, 0.1, 64, 960, 512, **{**given, **figures})


class TestClient:
    def test_the_critical_path_is_that_of_the_slowest_question(self) -> None:
        def calls(case: int, *stages: tuple[float, ...]) -> list[dict[str, Any]]:
            return [
                {"case": case, "arrived": place, "latency": latency, "choices": 1}
                for place, stage in enumerate(stages)
                for latency in stage
            ]

        drawn = client.Workload(2, settings={"sigma": 0.7})
        quick, slow = calls(0, (1, 2, 1), (1,), (3, 1), (1,)), calls(1, (9, 2, 2), (1,), (1, 1), (1,))
        assert client.critical_path([*slow[::-1], *quick], (3, 1, 2, 1), drawn) == 12
        assert client.critical_path([], client.PDR, client.Workload(64)) == 2.5
        together = [{**call, "choices": 3} if call["latency"] == 9 else call for call in slow if call["latency"] != 2]
        assert client.critical_path(together, (3, 1, 2, 1), drawn) == 12

    def test_a_mix_of_faults_comes_to_its_rate(self) -> None:
        assert sum(client.mix(0.2).values()) == pytest.approx(0.2)
        mock_server.Settings(faults=client.mix(0.2))

    def test_the_library_and_the_floor_run_in_processes_of_their_own(self, capsys: pytest.CaptureFixture[str]) -> None:
        clients = {name: client.CLIENTS[name] for name in ("aiohttp (floor)", "pdr-dspy, program")}
        clients["nobody"] = client.Client("no_such_script.py", "nothing")
        clients["a peer"] = client.Client("no_such_script.py", "nothing", peer="its-hub")
        floor, program, nobody = client.measure(clients, {"two": client.Workload(2, latency=0.001)}, {}, limit=250)
        for done in (floor, program):
            assert done.stopped == ""
            assert (done.done, done.needed, done.failures) == (2, 30, {})
            assert done.counters["completions"] == 30
            assert done.truth == 1
            assert done.path == pytest.approx(0.005)
            assert 0 < done.counters["peak_completions"] <= done.useful == 16
        assert "no_such_script.py" in nobody.stopped
        show(Console(width=190), [floor, program, nobody])
        assert "2 of 2" in capsys.readouterr().out

    def test_aims_are_held_against_what_was_reached(self, capsys: pytest.CaptureFixture[str]) -> None:
        rows = [row(name, workload) for name in client.CLIENTS for workload in client.WORKLOADS]
        show(Console(width=190), rows, client.AIMS)
        out = capsys.readouterr().out
        shown = [line for line in out[out.index("Aims") :].splitlines() if "met" in line or "missed" in line]
        assert sum("missed" in line for line in shown) == 3  # 1.1 for one question, twice; 0.5 ms in the engine
        assert sum(" met" in line for line in shown) == len(client.AIMS) - 3
        show(Console(width=190), [row("pdr-dspy, program", "64 questions", reported=99)], client.AIMS)
        out = capsys.readouterr().out
        assert "0.990" in out
        assert "not run" in out

    def test_an_environment_is_made_once(self, tmp_path: Path) -> None:
        python = tmp_path / "its-hub-1.2.0" / "bin" / "python"
        python.parent.mkdir(parents=True)
        (tmp_path / "its-hub-1.2.0" / "installed").write_text("its-hub[lm]==1.2.0")
        assert client.environment("its-hub", tmp_path) == str(python)
        assert client.environment("dspy", tmp_path) == sys.executable

    def test_samples_are_told_apart_by_file(self) -> None:
        assert sampling.group_of(dspy.__file__) == "dspy"
        assert sampling.group_of(dspy.lm15.Request.__init__.__code__.co_filename) != "aiohttp"
        assert sampling.group_of(json.__file__) == "json"
        assert sampling.group_of(client.__file__) == "the rest of Python"
        with sampling.sampled() as profile:
            sum(math.sqrt(number) for number in range(2_000_000))
        assert profile["samples"] > 0
        assert sum(profile["groups"].values()) == pytest.approx(1)


class TestThroughput:
    def test_it_records_every_request_and_counts_what_was_generated(self, mock: mock_server.Handle) -> None:
        mock.reset(**BEGIN)
        figures, requests = throughput.measure(mock.api_base, 2)
        assert len(requests) == 30  # those of the question before the clock starts are not among them
        assert len({(str(request["messages"]), request["seed"]) for request in requests}) == 30
        assert {request["max_tokens"] for request in requests} == {throughput.CAP}
        counters = mock.counters()
        assert counters["completions"] == 45
        assert 0 < figures["output"] == figures["ledger"] < counters["completion_tokens"]
        rows = {"program": {"output": 90, "seconds": 3.0}, "offline batch": {"output": 100, "seconds": 2.5}}
        assert throughput.ratio(rows) == pytest.approx(0.75)

    def test_sums_are_what_they_say(self) -> None:
        for example in throughput.sums(20, seed=3):
            assert example.answer == sum(int(word.strip("?")) for word in example.question.split()[2::2])
        assert throughput.sums(3, seed=1) == throughput.sums(3, seed=1) != throughput.sums(3, seed=2)


class Counted:
    """A server in this process that counts what it has answered, and kills who asked once that is enough."""

    def __init__(self, server: MockServer) -> None:
        self.server = server
        self.api_base = server.api_base
        self.completions = 0
        self.most = math.inf
        self.process: Forked | None = None
        server.reply = self.reply

    def counters(self) -> dict[str, Any]:
        return {"completions": self.completions}

    def reply(self, body: dict[str, Any], seed: int) -> str:
        self.completions += 1
        if self.completions >= self.most and self.process is not None:
            self.process.kill()
        return f"Six times seven, seed {seed}.\nAnswer: {42 - (seed % 4 == 0)}"

    def kill(self, process: Forked, server: Counted, answers: int, later: float) -> None:
        """The moment comes while an answer is being made: it is counted, and never arrives."""
        del server, later
        self.process, self.most = process, answers
        if self.completions >= answers:
            process.kill()
        process.wait()
        self.process, self.most = None, math.inf


class Forked:
    """A command in a copy of this process."""

    def __init__(self, arguments: list[str], folder: Path) -> None:
        self.code: int | None = None
        self.pid = os.fork()
        if self.pid:
            return
        try:
            os.chdir(folder)
            output = os.open("output.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(output, 1)
            os.dup2(output, 2)
            sys.stdout = sys.stderr = open(output, "w", buffering=1, closefd=False)  # noqa: SIM115
            cli.app(arguments, standalone_mode=False)
            code = 0
        except BaseException:
            traceback.print_exc()
            code = 1
        os._exit(code)

    def poll(self) -> int | None:
        return self.code

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)

    def wait(self) -> int:
        if self.code is None:
            self.code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self.code


class TestDurability:
    @pytest.mark.parametrize("command", ["eval", "optimize"])
    def test_kill_9_at_random_moments_loses_nothing_that_was_finished(self, command: str, tmp_path: Path) -> None:
        with MockServer(kind="vllm") as server:
            counted = Counted(server)
            found = kills.chain(
                command,
                tmp_path,
                counted,
                moments=4,
                seed=2,
                start=Forked,
                kill=counted.kill,  # type: ignore[arg-type]
            )
        assert found["kills"] == 4
        assert found["ends"] >= 1
        for nothing in ("lost records", "rows lost", "asked again", "other ends"):
            assert found[nothing] == 0
        assert found["lost, most"] <= 64 * 4  # what is on its way at one time

    @pytest.mark.parametrize("part", durability.MEASURES)
    def test_every_part_measures_what_it_says(self, part: str, tmp_path: Path) -> None:
        size = {"rows": {"rows": 12}, "store": {"completions": 700}, "sync": {"puts": 5}}.get(
            part, {"questions": 6, "trials": 4}
        )
        done = durability.MEASURES[part](tmp_path, **size)
        figures = {name: value for name, value in done.items() if isinstance(value, int | float)}
        assert all(value >= 0 for value in figures.values())
        durability.show(Console(width=200), part, [{**size, **done}])
        if part == "search":
            assert len(done["cohorts"]) == 2
            assert done["calls"] > done["runs"] > 0

    def test_growth_is_the_exponent(self) -> None:
        assert durability.growth([10, 20, 40], [1.0, 3.0, 16.0]) == pytest.approx(2)
        assert durability.growth([10, 1000], [5.0, 500.0]) == pytest.approx(1)
        assert math.isnan(durability.growth([10], [1.0]))
        assert math.isnan(durability.growth([10, 20], [0.0, 1.0]))


class TestGrading:
    def test_every_gold_has_ten_forms_and_ten_near_misses(self) -> None:
        for gold in grading.made(30):
            forms, misses = grading.forms(gold), grading.misses(gold)
            assert len(set(forms)) == len(set(misses)) == 10
            assert not {gold, *forms} & set(misses)

    def test_no_near_miss_counts_as_right_and_no_form_as_wrong(self) -> None:
        rows = grading.run([], [], with_baseline=False, step=8)
        assert [row.verifier for row in rows] == ["MathVerifier", "NumberVerifier", "ChoiceVerifier"]
        for row in rows:
            assert (row.refused, row.false_positives, row.false_negatives) == ([], [], [])
            assert min(row.right, row.wrong) >= 20

    def test_what_is_graded_wrongly_is_counted(self, capsys: pytest.CaptureFixture[str]) -> None:
        pairs = [("1", "1", True), ("1", "2", False), ("2", "2", True)]
        everything = grading.measure("everything", lambda gold, answer: 1.0, pairs)
        assert (everything.false_positives, everything.false_negatives, everything.golds) == ([("1", "2")], [], 2)
        nothing = grading.measure("nothing", lambda gold, answer: 0.0, pairs)
        assert (nothing.false_positives, nothing.false_negatives) == ([], [("1", "1"), ("2", "2")])
        grading.report([everything, nothing], show=True)
        out = capsys.readouterr().out
        assert "everything, false positives: ('1', '2')" in out

    def test_golds_and_cases_are_read_from_files(self, tmp_path: Path) -> None:
        golds, cases = tmp_path / "golds.jsonl", tmp_path / "cases.jsonl"
        golds.write_text('{"answer": "7"}\n{"answer": 12}\n')
        cases.write_text('{"gold": "7", "answer": "7.0", "right": true}\n{"kind": "other"}\n')
        assert grading.run([golds], [], with_baseline=False, step=1)[0].golds == 2
        (row,) = grading.run([], [cases], with_baseline=False, step=1)
        assert (row.right, row.wrong, row.false_negatives) == (1, 0, [])


class TestAnytime:
    def test_an_equal_program_is_hardly_ever_dropped(self) -> None:
        for raced in anytime.race(30, 0.0, 300).values():
            assert raced.dropped <= 25  # binomial at 0.05 of 300: 25 or fewer with probability 0.996

    def test_a_hopeless_one_is_dropped_by_every_test_the_sooner_the_more_looks(self) -> None:
        ends = anytime.race(120, -0.5, 40)
        assert all(raced.dropped >= 38 for raced in ends.values())
        assert ends["betting"].questions < ends["looks x2"].questions

    def test_a_bet_wins_with_the_questions_that_are_lost(self) -> None:
        assert anytime.by_betting([0.0] * 50) is None
        assert anytime.by_betting([1.0] * 50) is None
        first = anytime.by_betting([-1.0] * 50)
        assert first is not None
        wealth = fmean((1 + stake) ** first for stake in anytime.STAKES)
        assert wealth >= 20 > fmean((1 + stake) ** (first - 1) for stake in anytime.STAKES)
