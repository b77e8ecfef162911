"""Rows on a real Ray cluster of two nodes, with actors, a node and drivers killed at seeded moments.

A moment is the nth request that reaches the model's server: no clock is involved. What was asked is counted there.
"""

from __future__ import annotations

import gc
import json
import os
import random
import re
import select
import signal
import subprocess
import sys
import threading
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import dspy
import pytest
from typer.testing import CliRunner

from pdr_dspy import PDR, connect, evaluate
from pdr_dspy.calls.store import Rollouts
from pdr_dspy.cli.app import app
from pdr_dspy.errors import ConfigError, ExecutorError
from pdr_dspy.evaluation.executors import RayExecutor
from pdr_dspy.evaluation.executors.cluster import why_none_runs
from pdr_dspy.evaluation.records import Report, Row, read_rows
from pdr_dspy.operators.operator import Operator
from pdr_dspy.search import PDROptimizer
from pdr_dspy.training.export_sft import export
from tests.cli.test_app import PROGRAM, add_one
from tests.evaluation.test_evaluator import Exact, examples
from tests.search import test_optimizer as searching
from tests.support.mock_server import MockServer

pytestmark = [
    pytest.mark.slow,
    pytest.mark.xdist_group("ray"),
    pytest.mark.timeout(1800),  # each process of a cluster imports the library
    pytest.mark.filterwarnings("default"),  # Ray's own: of its processes, sockets and of what it will change
]
IN_FLIGHT = 4
KEY = "sk-of-the-cluster"
SECONDS = 60_000
"""Milliseconds after which something that must end has not."""


class Cluster:
    """Two nodes; on the first there is room for both actors, and for one of a driver that is started too."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        self.cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 3, "include_dashboard": False})
        self.address = str(self.cluster.address)
        self.add_node()

    def add_node(self) -> None:
        """Add the node that `lose_node` takes away."""
        self.spare = self.cluster.add_node(num_cpus=1)

    def lose_node(self) -> None:
        """All processes of a node die."""
        self.cluster.remove_node(self.spare, allow_graceful=False)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    try:
        import ray
    except ImportError:
        missing = 'Ray is not installed (79 MB): pip install "pdr-dspy[ray]"'
        if os.environ.get("CI") == "true":
            pytest.fail(missing)
        pytest.skip(missing)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    before = signal.getsignal(signal.SIGTERM)  # Ray takes it, and leaves it so
    made = Cluster()
    ray.init(address=made.address, log_to_driver=False)
    yield made
    ray.shutdown()
    made.cluster.shutdown()
    signal.signal(signal.SIGTERM, before)
    del made
    with warnings.catch_warnings():  # of files that Ray leaves to the garbage collector
        warnings.simplefilter("ignore")
        gc.collect()


@pytest.fixture(scope="module")
def executor(cluster: Cluster) -> Iterator[RayExecutor]:
    with RayExecutor() as made:
        assert len(made.places()) == 2
        yield made


def by_seed(body: dict[str, Any], seed: int) -> str:
    return f"Notes of seed {seed}.\nAnswer: {seed % 3}"


class Server(MockServer):
    """Answers, by the seed if not told otherwise; does something at chosen requests; counts what it was asked."""

    def __init__(self, says: Callable[[dict[str, Any], int], str] = by_seed) -> None:
        super().__init__(self.answer)
        self.says = says
        self.moments: dict[int, Callable[[], None]] = {}

    def answer(self, body: dict[str, Any], seed: int) -> str:
        moment = self.moments.pop(len(self.requests), None)
        if moment is not None:
            moment()
        return self.says(body, seed)

    @property
    def repeated(self) -> int:
        """Requests beyond the first of their kind."""
        kinds = Counter(repr((body["messages"], body["seed"], body["max_tokens"])) for body in self.requests)
        return sum(kinds.values()) - len(kinds)

    def lm(self) -> Any:
        return connect("mock", self.api_base, api_key=KEY, max_tokens=64, identity="mock")


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as made:
        yield made


def program() -> Operator:
    return PDR("question -> answer", widths=(3, 2, 1), draft_tokens=60, kappa=60)


def run(server: Server, folder: Path | None, executor: RayExecutor | None, **more: Any) -> Report:
    with closing(server.lm()) as lm, dspy.context(lm=lm):
        return evaluate(
            program(), examples(24), Exact(), seed=5, run_dir=folder, max_in_flight=IN_FLIGHT, executor=executor, **more
        )


def plain(rows: Any) -> list[dict[str, Any]]:
    """Rows without what depends on the clock, and on which of equal calls was sent and which found in the store."""
    found = []
    for row in rows:
        data = row.model_dump(exclude={"seconds", "paid"})
        for call in data["calls"]:
            for name in ("seconds", "reused", "fate", "tries", "unsettled"):
                call.pop(name)
        found.append(data)
    return sorted(found, key=lambda data: (data["id"], data["repeat"]))


def pids(executor: RayExecutor) -> list[int]:
    return [int(re.findall(r"process (\d+)", place)[0]) for place in executor.places()]


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """The rows of this process alone."""
    with Server() as server:
        return plain(run(server, tmp_path_factory.mktemp("local"), None).rows)


def test_rows_are_those_of_this_process_and_secrets_arrive(
    server: Server, executor: RayExecutor, expected: list[dict[str, Any]], tmp_path: Path
) -> None:
    told: list[Row] = []
    report = run(server, tmp_path, executor, progress=lambda row, done, count: told.append(row))
    assert plain(report.rows) == expected
    assert report.failed == 0
    assert plain(told) == plain(read_rows(tmp_path / "rows.jsonl").values()) == plain(report.rows)
    assert {headers.get("Authorization") for headers in server.headers} == {f"Bearer {KEY}"}
    assert server.repeated == 0
    assert (tmp_path / "texts.jsonl").read_text().count("\n") == 24
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert all(KEY not in path.read_text() for path in written)
    assert not list(tmp_path.rglob(".driver-*"))
    sent = len(server.requests)
    again = run(server, None, None, store=Rollouts(tmp_path / "rollouts"))  # this process finds the cluster's calls
    assert (plain(again.rows), again.paid, len(server.requests)) == (plain(report.rows), 0, sent)


def test_actors_that_are_killed_cost_their_calls_in_flight(
    server: Server, executor: RayExecutor, expected: list[dict[str, Any]], tmp_path: Path
) -> None:
    victims = pids(executor)
    chosen = random.Random(15)
    chosen.shuffle(victims)
    for pid, number in zip(victims, chosen.sample(range(20, 150), 2), strict=True):
        server.moments[number] = lambda pid=pid: kill(pid)
    report = run(server, tmp_path, executor)
    assert plain(report.rows) == expected
    assert not server.moments
    assert server.repeated <= len(victims) * IN_FLIGHT
    assert not set(victims) & set(pids(executor))
    assert executor.actors == 2


def test_a_node_that_is_lost_costs_its_calls_in_flight(
    server: Server, cluster: Cluster, executor: RayExecutor, expected: list[dict[str, Any]], tmp_path: Path
) -> None:
    loses = threading.Thread(target=cluster.lose_node)
    server.moments[random.Random(3).randrange(20, 100)] = loses.start
    report = run(server, tmp_path, executor)
    loses.join()
    assert plain(report.rows) == expected
    assert server.repeated <= IN_FLIGHT
    assert len(executor.places()) == 2  # both on the node that is left


def test_a_search_finds_what_it_finds_in_this_process(executor: RayExecutor, tmp_path: Path) -> None:
    def search(folder: Path, where: RayExecutor | None) -> Any:
        optimizer = PDROptimizer(
            searching.Exact(), space=searching.SMALL, trials=4, cohort=2, finalists=1, run_dir=folder,
            max_in_flight=IN_FLIGHT, executor=where,
        )  # fmt: skip
        with dspy.context(lm=searching.scripted_lm(searching.reasoner)):
            optimizer.compile(searching.student(), trainset=searching.questions(8), valset=searching.questions(4, 100))
        return optimizer.result

    here, there = search(tmp_path / "here", None), search(tmp_path / "there", executor)
    assert there.confirmation.verdict == here.confirmation.verdict
    assert (there.paid, there.saved) == (here.paid, here.saved)
    assert [trial.candidate for trial in there.trials] == [trial.candidate for trial in here.trials]
    assert {n: plain(rows) for n, rows in there.rows.items()} == {n: plain(rows) for n, rows in here.rows.items()}


def test_drivers_that_are_killed_leave_nobody_behind_and_the_next_one_continues(
    cluster: Cluster, tmp_path: Path
) -> None:
    (tmp_path / "programs").mkdir()
    (tmp_path / "programs" / "addition.py").write_text(PROGRAM)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([os.getcwd(), os.environ.get("PYTHONPATH", "")])}
    others = set(actors())
    with Server() as server:
        command = [
            *(sys.executable, "-W", "ignore", "-m", "pdr_dspy", "eval", "addition", "--repeats", "40"),
            *("--api-base", server.api_base, "--run-dir", "run"),
        ]

        def drive(*more: str, ends: signal.Signals | None = None, at: int = 0) -> tuple[int, str]:
            own: set[int] = set()

            def end() -> None:
                own.update(set(actors()) - others)
                assert ends is not None
                driver.send_signal(ends)

            if ends is not None:
                server.moments[at] = end
            driver = subprocess.Popen(
                [*command, *more], cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True
            )
            try:
                _, said = driver.communicate(timeout=600)
            finally:
                driver.kill()
            assert not server.moments, said
            assert bool(own) == (ends is not None)
            assert all(ended(pid) for pid in own)
            return driver.returncode, said

        code, said = drive("--ray", cluster.address, ends=signal.SIGKILL, at=150)
        assert code == -signal.SIGKILL, said
        code, said = drive("--ray", cluster.address, ends=signal.SIGTERM, at=350)
        assert (code, "terminated; the same command resumes" in said, "Traceback" in said) == (143, True, False), said
        code, said = drive()  # also without the cluster
        assert code == 0, said
        rows = read_rows(tmp_path / "run" / "rows.jsonl")
        assert len(rows) == 4 * 40
        assert server.repeated <= 2 * 64  # what the actor of each driver had in flight


def test_the_command_line_optimizes_on_a_cluster_that_loses_a_node(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "programs").mkdir()
    (tmp_path / "programs" / "addition.py").write_text(PROGRAM)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RAY_ADDRESS", cluster.address)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "addition", raising=False)
    line = ["optimize", "addition", "--trials", "4", "--finalists", "1", "--quiet"]

    def pdr(server: Server, folder: str, *more: str) -> Any:
        done = CliRunner().invoke(app, [*line, "--api-base", server.api_base, "--run-dir", folder, *more])
        assert done.exit_code == 0, done.stderr
        return json.loads(Path(folder, "search.json").read_text())

    with Server(add_one) as alone, Server(add_one) as server:
        here = pdr(alone, "here")
        cluster.add_node()
        loses = threading.Thread(target=cluster.lose_node)
        server.moments[random.Random(7).randrange(10, len(alone.requests) - 10)] = loses.start
        there = pdr(server, "there", "--ray", "auto")
        loses.join()
        assert server.repeated <= 64  # what was in flight
        sent = len(server.requests)
        assert pdr(server, "there")["paid"] == there["paid"]  # the journal and the calls are the driver's
        assert len(server.requests) == sent
    keys = ("number", "origin", "schedule", "score", "sequential", "total", "dropped")
    assert [[trial[key] for key in keys] for trial in there["trials"]] == [
        [trial[key] for key in keys] for trial in here["trials"]
    ]
    assert (there["paid"], there["saved"]) == (here["paid"], here["saved"])


def test_data_for_sft_made_on_a_cluster_are_those_of_this_process(
    server: Server, executor: RayExecutor, tmp_path: Path
) -> None:
    victim = pids(executor)[0]
    found = []
    for name, where in (("here", None), ("there", executor)):
        server.requests.clear()
        if where is not None:
            server.moments[random.Random(4).randrange(20, 150)] = lambda: kill(victim)
        run(server, tmp_path / name, where)
        with closing(server.lm()) as lm, dspy.context(lm=lm):
            found.append(export(tmp_path / name, program(), examples(24), Exact()))
    assert not server.moments
    here, there = found
    assert there.counts == here.counts
    assert sorted(map(repr, there.samples)) == sorted(map(repr, here.samples))
    assert {sample.kind for sample in there.samples} == {"draft", "workspace", "refinement"}


def actors() -> list[int]:
    """Processes of actors, whoever started them, that are there now."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with open(entry / "cmdline", "rb") as file:
                if file.read().startswith(b"ray::Actor"):
                    found.append(int(entry.name))
    return found


def ended(pid: int) -> bool:
    """Whether a process has ended, or does within `SECONDS`."""
    try:
        file = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        poll = select.poll()
        poll.register(file, select.POLLIN)
        return bool(poll.poll(SECONDS))
    finally:
        os.close(file)


def test_the_cluster_says_whether_actors_wait_for_cpus(executor: RayExecutor) -> None:
    import ray

    assert "are starting. That takes long" in why_none_runs(1, 7)
    waits: Any = ray.remote(Server).options(num_cpus=7).remote()
    while "are starting" in (why := why_none_runs(1, 7)):  # each asks the cluster
        pass
    assert "they wait for a node with 7 free CPUs" in why
    ray.kill(waits)


def test_what_cannot_work_is_reported(executor: RayExecutor, tmp_path: Path) -> None:
    lm = searching.scripted_lm(searching.reasoner)
    with dspy.context(lm=lm), pytest.raises(ConfigError, match="calls in memory"):
        evaluate(program(), examples(1), Exact(), store=Rollouts(), executor=executor)

    class Locked(Exact):
        def __init__(self) -> None:
            self.lock = threading.Lock()

    with dspy.context(lm=lm), pytest.raises(ConfigError, match="the verifier, in its `lock`, cannot be"):
        evaluate(program(), examples(1), Locked(), run_dir=tmp_path, executor=executor)
    closed = RayExecutor(cpus=0)
    closed.close()
    with dspy.context(lm=lm), pytest.raises(ExecutorError, match="closed"):
        evaluate(program(), examples(1), Exact(), run_dir=tmp_path, executor=closed)
