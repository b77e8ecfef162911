"""Executors without a cluster: what they refuse, and what an actor says of what it was sent. See tests/test_ray.py."""

from __future__ import annotations

import asyncio
import builtins
import functools
import logging
import re
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dspy
import pytest

from pdr_dspy import calls, evaluate
from pdr_dspy.calls.store import Rollouts
from pdr_dspy.errors import ConfigError, ExecutorError, MissingExtra, PromptTooLong
from pdr_dspy.evaluation.executors import Local, RayExecutor, RowSettings, cluster, on_ray
from pdr_dspy.evaluation.executors import actor as actors
from pdr_dspy.evaluation.executors import address as addresses
from pdr_dspy.evaluation.executors.actor import Actor, Order, Parcel
from pdr_dspy.operators.strategies import PDR
from tests.evaluation.test_evaluator import Exact, examples
from tests.support.solver import engine


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"address": "ray://head:10001"}, "ray job submit"),
        ({"address": ""}, "HOST:PORT"),
        ({"address": None}, "HOST:PORT"),
        ({"actors_per_node": 0}, "actors_per_node"),
        ({"cpus": -1}, "cpus"),
        ({"cpus": float("nan")}, "cpus"),
        ({"cpus": True}, "cpus"),
    ],
)
def test_arguments_that_cannot_work(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        RayExecutor(**arguments)


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    known = builtins.__import__

    def without(name: str, *rest: Any, **more: Any) -> Any:
        if name == "ray":
            raise ImportError(name)
        return known(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingExtra, match=r"pdr-dspy\[ray\]"):
        RayExecutor()


@pytest.mark.parametrize("head", ["head", "head:", ":6379", "head:port", "head:99999", "[::1]"])
def test_what_is_no_address_is_refused(head: str) -> None:
    with pytest.raises(ValueError, match="is not HOST:PORT"):
        addresses.check_head(head)


@contextmanager
def listening(answer: bytes | None) -> Iterator[str]:
    """A server that sends its answer and closes; with None it does neither."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        links: list[socket.socket] = []

        def serve() -> None:
            link, _ = listener.accept()
            links.append(link)
            if answer is not None:
                with link:
                    link.recv(1024)
                    link.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        yield f"127.0.0.1:{listener.getsockname()[1]}"
        thread.join()
        for link in links:
            link.close()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_a_server_of_http2_is_taken_for_a_head() -> None:
    with listening(bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])) as head:
        addresses.check_head(head)


@pytest.mark.parametrize("answer", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"SSH", b""])
def test_another_server_is_no_head(answer: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    with listening(answer) as head, pytest.raises(ConnectionError, match="not the head of a cluster: the port is"):
        addresses.check_head(head)
    monkeypatch.setenv("RAY_USE_TLS", "1")
    with listening(b"") as head:
        addresses.check_head(head)


def test_a_server_that_says_nothing_is_no_head(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(addresses, "ANSWERS", 0.001)
    with listening(None) as head, pytest.raises(ConnectionError, match="does not answer within"):
        addresses.check_head(head)


def test_a_head_that_cannot_be_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConnectionError, match=r"nothing listens at .*Connection refused"):
        addresses.check_head(f"127.0.0.1:{free_port()}")
    asked: list[tuple[str, int]] = []

    def unknown(place: tuple[str, int], *_: Any) -> Any:
        asked.append(place)
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "create_connection", unknown)
    for head in ("head.example:6379", "[fd00::5]:6379"):
        with pytest.raises(ConnectionError, match="Name or service not known"):
            addresses.check_head(head)
    assert asked == [("head.example", 6379), ("fd00::5", 6379)]


@pytest.mark.parametrize("later", ["a connection", "an error"])
def test_a_name_server_that_does_not_answer_is_not_waited_for(later: str, monkeypatch: pytest.MonkeyPatch) -> None:
    answers, threads = threading.Event(), list(threading.enumerate())
    late, other = socket.socketpair()

    def slow(*_: Any) -> socket.socket:
        answers.wait()
        if later == "an error":
            raise socket.gaierror
        return late

    monkeypatch.setattr(socket, "create_connection", slow)
    monkeypatch.setattr(addresses, "CONNECTS", 0)
    with late, other:
        with pytest.raises(ConnectionError, match="no answer in 0 s"):
            addresses.check_head("head:6379")
        answers.set()
        for thread in set(threading.enumerate()) - set(threads):
            thread.join()
        assert (late.fileno() == -1) == (later == "a connection")


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Ray without a cluster."""
    found = pytest.importorskip("ray")
    monkeypatch.setattr(found, "is_initialized", lambda: False)
    return found


@pytest.mark.slow  # imports Ray
@pytest.mark.parametrize("way", ["argument", "RAY_ADDRESS", "Ray Client", "file"])
def test_a_cluster_that_is_gone_ends_at_once(
    way: str, ray: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from ray._private import services

    monkeypatch.setattr(ray, "init", lambda **_: pytest.fail("Ray tries for minutes"))
    monkeypatch.setattr(services, "find_gcs_addresses", functools.cache(set))  # clusters that run here
    monkeypatch.setattr(services, "resolve_ip_for_localhost", lambda host: host)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    gone = f"127.0.0.1:{free_port()}"
    if way == "file":
        monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
        (tmp_path / "ray").mkdir()
        (tmp_path / "ray" / "ray_current_cluster").write_text(gone)
    elif way != "argument":
        monkeypatch.setenv("RAY_ADDRESS", gone if way == "RAY_ADDRESS" else f"ray://{gone}")
    with pytest.raises(ExecutorError, match="is its head running") as error:
        RayExecutor(gone if way == "argument" else "auto")
    assert f"nothing listens at {gone} (Connection refused)" in str(error.value)
    assert ("unset RAY_ADDRESS" in str(error.value)) == (way in ("RAY_ADDRESS", "Ray Client"))
    with pytest.raises(ExecutorError, match=r"Invalid address format.*such as 10\.0\.0\.5:6379 or \[fd00::5\]:6379"):
        RayExecutor("fd00::5:6379")


@pytest.mark.slow  # imports Ray
def test_a_ray_that_does_not_say_where_it_connects_is_asked_itself(ray: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from ray._private import services

    monkeypatch.delattr(services, "canonicalize_bootstrap_address")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert [addresses.head_of(one) for one in ("auto", "local", "head:6379")] == [None, None, "head:6379"]


@pytest.mark.slow  # imports Ray
@pytest.mark.parametrize(
    ("demands", "cpus", "why"),
    [
        ([], 1, "RAY_worker_niceness=0"),
        ([({"CPU": 4.0}, 2)], 1, "RAY_worker_niceness=0"),  # another's
        ([({"CPU": 1.0}, 2)], 1, "wait for a node with 1 free CPUs; .*add a node"),
        ([({"CPU": 1.0}, 1)], 1, "are starting, or wait"),
        (None, 0.5, "are starting, or wait for a node with 0.5 free CPUs"),
    ],
)
def test_why_no_actor_runs_yet(
    demands: list[tuple[dict[str, float], int]] | None, cpus: float, why: str, ray: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ray.autoscaler.v2 import sdk

    def status(_: str) -> Any:
        if demands is None:
            raise RuntimeError("no such service")
        bundles = [SimpleNamespace(bundle=bundle, count=count) for bundle, count in demands]
        return SimpleNamespace(
            resource_demands=SimpleNamespace(ray_task_actor_demand=[SimpleNamespace(bundles_by_count=bundles)])
        )

    monkeypatch.setattr(sdk, "get_cluster_status", status)
    monkeypatch.setattr(ray, "get_runtime_context", lambda: SimpleNamespace(gcs_address="head:6379"))
    text = cluster.why_none_runs(2, cpus)
    assert re.search(why, text), text


@pytest.mark.slow  # imports Ray
def test_actors_that_do_not_start_are_explained_once(
    ray: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Starting(RayExecutor):
        looks = 0
        hello: Future[str] = Future()

        def _check_nodes(self) -> None:
            self.looks += 1
            if not self._seats:
                handle = SimpleNamespace(hello=SimpleNamespace(options=self.options))
                self._seats = [cluster.Seat(handle, "node", self._wake)]
            if self.looks == 5:
                self.hello.set_result("here")

        def options(self, **_: Any) -> Any:
            return SimpleNamespace(remote=lambda: SimpleNamespace(future=lambda: self.hello))

    asked: list[tuple[int, float]] = []
    monkeypatch.setattr(on_ray, "join", lambda _: False)
    monkeypatch.setattr(on_ray, "LOOK", 0)
    monkeypatch.setattr(on_ray, "STARTING", -1)
    monkeypatch.setattr(on_ray, "why_none_runs", lambda *given: asked.append(given) or "they are starting")
    with Starting(cpus=2) as executor, caplog.at_level(logging.WARNING, "pdr_dspy"):
        asyncio.run(executor.take(("q", 0), 1))
    assert asked == [(1, 2)]
    assert [record.getMessage() for record in caplog.records] == ["no actor runs yet: they are starting"]


class Locked(Exact):
    """Holds a lock that can be sent, and one that cannot."""

    def __init__(self) -> None:
        self.left_out = LeftOut()
        self.lock = threading.Lock()


class LeftOut:
    def __init__(self) -> None:
        self.lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {}


def put(value: Any) -> None:
    """As `ray.put`, whose error quotes the value before its cause."""
    from ray.cloudpickle import cloudpickle

    try:
        cloudpickle.dumps(value)
    except TypeError as error:
        raise TypeError(f"Could not serialize {'many words ' * 100}") from error


@pytest.mark.slow  # imports Ray
@pytest.mark.parametrize("part", ["the program, in its `held`,", "the verifier, in its `lock`,", "`dspy.settings.lm`"])
def test_the_part_that_cannot_be_sent_is_named(
    part: str, ray: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(ray, "put", put)
    program: Any = PDR("question -> answer")
    if "program" in part:
        program.held = threading.Lock()
    verifier = Locked() if "verifier" in part else Exact()
    executor = object.__new__(RayExecutor)
    lm = threading.Lock() if "lm" in part else None
    with calls.session(store=Rollouts(tmp_path)), dspy.context(lm=lm), pytest.raises(ConfigError) as error:
        executor.rows(program, verifier)
    assert str(error.value) == (
        f"`executor=RayExecutor(...)`: {part} cannot be sent to another process: TypeError: cannot pickle "
        "'_thread.lock' object. Make what cannot be sent (a lock, a client, an open file) when it is first used, or "
        "leave it out of what is pickled with `__getstate__`"
    )
    assert cluster.unsendable({"the verifier": LeftOut()}) is None


def test_this_process_is_the_default() -> None:
    def rows(**more: Any) -> list[dict[str, Any]]:
        with dspy.context(lm=engine()):
            report = evaluate(PDR("question -> answer", widths=(3, 1)), examples(3), Exact(), **more)
        return [row.model_dump(exclude={"seconds", "calls"}) for row in report.rows]

    assert rows() == rows(executor=Local())


class Parcels:
    """Stands in for the fetching of a parcel."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(actors, "fetched", self.fetched)
        self.fetches = 0

    def fetched(self, order: Order, known: dict[str, Any]) -> Parcel:
        self.fetches += 1
        found = order.parcel[0]
        if isinstance(found, Exception):
            raise found
        return found


@pytest.fixture
def parcels(monkeypatch: pytest.MonkeyPatch) -> Parcels:
    return Parcels(monkeypatch)


def order(parcel: Any, **more: Any) -> Order:
    given: dict[str, Any] = {
        "key": "k", "parcel": (parcel,), "secrets": {}, "settings": RowSettings(threads=2, in_flight=4),
        "texts": False, "storage": None, "mark": None,
    }  # fmt: skip
    return Order(**{**given, **more})


def parcel(**more: Any) -> Parcel:
    program = PDR("question -> answer", widths=(3, 1), **more)
    return Parcel(program, Exact(), {"lm": engine(context_length=2000)})


def test_a_parcel_is_fetched_once_for_all_rows(parcels: Parcels) -> None:
    async def run() -> list[Any]:
        actor = Actor([])
        asked = [actor.row(order(parcel(), texts=True), one, one.id, 0, False) for one in examples(5)]
        return await asyncio.gather(*asked)

    replies = asyncio.run(run())
    assert [reply.row.id for reply in replies] == [one.id for one in examples(5)]
    assert [reply.texts.id for reply in replies] == [one.id for one in examples(5)]
    assert parcels.fetches == 1


def test_a_program_that_cannot_be_unpacked_is_reported(parcels: Parcels) -> None:
    one = examples(1)[0]
    reply = asyncio.run(Actor([]).row(order(ModuleNotFoundError("no mine")), one, "e", 0, False))
    assert reply.row is None
    assert reply.unusable is not None
    assert "ModuleNotFoundError: no mine" in reply.unusable


def test_another_folder_of_that_name_is_refused(parcels: Parcels, tmp_path: Path) -> None:
    (tmp_path / ".driver-1").touch()
    one = examples(1)[0]
    same = order(parcel(), storage=str(tmp_path), mark=".driver-1")
    other = order(parcel(), storage=str(tmp_path), mark=".driver-2")
    assert asyncio.run(Actor([]).row(same, one, "e", 0, False)).row is not None
    reply = asyncio.run(Actor([]).row(other, one, "e", 0, False))
    assert reply.row is None
    assert "is a different one on" in (reply.store or "")


def test_why_a_question_does_not_fit_comes_back_as_it_was(parcels: Parcels) -> None:
    from pdr_dspy.evaluation.executors.on_ray import _again

    one = examples(1)[0]
    reply = asyncio.run(Actor([]).row(order(parcel()), one, "e", 0, False))
    assert reply.row is not None
    assert reply.row.error is not None
    assert reply.refused is not None
    error = _again(*reply.refused)
    assert isinstance(error, PromptTooLong)
    assert str(error) in reply.row.error
    assert isinstance(_again(MissingExtra, "needs it"), MissingExtra)
