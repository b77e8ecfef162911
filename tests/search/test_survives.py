"""Searches that are killed, starved of disk, or robbed of their files: all end as the one that was let be.

The searches that are to die run in processes of their own. `Reaper` counts what such a process does to the world, and
kills it in the middle of the nth thing of one kind; no clock is involved.
"""

from __future__ import annotations

import builtins
import errno
import fcntl
import hashlib
import io
import json
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import threading
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import dspy
import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from pdr_dspy.calls.store import Rollouts
from pdr_dspy.errors import StoreError
from pdr_dspy.runtime.postgres import is_url
from pdr_dspy.search import PDROptimizer
from pdr_dspy.testing import ScriptedLM, ScriptedRequest, scripted_lm
from tests.search.test_optimizer import SMALL, Exact, chance, questions, student

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent
IN_FLIGHT = 6
SEARCH: dict[str, Any] = {
    "space": SMALL,
    "trials": 5,
    "cohort": 2,
    "repeats": 2,
    "finalists": 2,
    "finalist_repeats": 1,
    "confirm_repeats": 1,
    "max_in_flight": IN_FLIGHT,
    "max_total": 470,  # which one of them goes over
}
COUNT = 5
"""Questions of the race; as many others are held out."""
KINDS = {"call": 4, "rollout": 4, "journal": 4, "fsync": 2, "rename": 1, "result": 1, "study": 1}
"""What a search does, and how often it is to be killed there."""


# --- the search ---


def named(request: ScriptedRequest) -> str:
    """A call's own name, which its answer carries."""
    asked = (request.system, request.user, request.seed, request.cap, request.temperature)
    return "c" + hashlib.sha256(repr(asked).encode()).hexdigest()[:16]


def reply(request: ScriptedRequest) -> str:
    """Drafts are right by difficulty, refinements by what most of their workspace says; each names its call."""
    question = re.search(r"Question: q(\d+)", request.user)
    assert question is not None
    number, read = question[1], re.findall(r"Answer: (\w+)", request.user)
    if "Candidates:" in request.user:
        return f"Call {named(request)}.\n" + "\n".join(f"Answer: {answer}" for answer in read)
    odds = 0.15 + 0.4 * chance("easy", number) if not read else 2 * Counter(read)[f"a{number}"] / len(read)
    right = chance("luck", number, request.seed) < odds
    return f"Call {named(request)}.\nAnswer: {f'a{number}' if right else 'w'}"


def optimizer(**settings: Any) -> PDROptimizer:
    return PDROptimizer(Exact(), **{**SEARCH, **settings})


def search(lm: ScriptedLM, **settings: Any) -> dict[str, Any]:
    """Run the search to its end; what it found."""
    made = optimizer(**settings)
    with dspy.context(lm=lm):
        made.compile(student(), trainset=questions(COUNT), valset=questions(COUNT, 100))
    return found(made)


def found(made: PDROptimizer) -> dict[str, Any]:
    """Everything about a result that must not depend on how it came about."""
    result = made.result
    assert result is not None
    whole = {
        "trials": [trial.model_dump(mode="json", exclude={"seconds"}) for trial in result.trials],
        "best": result.best.number,
        "finalists": [finalist._asdict() for finalist in result.finalists],
        "front": [trial.number for trial in result.front],
        "verdict": result.confirmation.verdict,
        "confirmed": [
            [(row.id, row.repeat, row.score, row.total) for row in report.rows]
            for report in (result.confirmation.student, result.confirmation.winner)
        ],
        "program": str(getattr(result.program, "schedule", None)),
        "stopped": result.stopped,
        "paid": result.paid,
        "saved": result.saved,
    }
    return json.loads(json.dumps(whole))


def stored(folder: str | Path) -> set[str]:
    """The names of the calls that are in a rollout store."""
    if not is_url(str(folder)) and not Path(folder).exists():
        return set()
    with Rollouts(folder) as store:
        return {re.findall(r"c[0-9a-f]{16}", rollout.text)[0] for rollout in store}


# --- in processes of their own ---


class Reaper:
    """Counts what this process does, by kind, and kills it in the middle of the `at`th thing of one kind."""

    def __init__(self, kind: str = "", at: int = 0, cut: float = 0.0) -> None:
        self.kind, self.at, self.cut = kind, at, cut
        """`cut`: the share of the bytes that a write still brings to the disk."""
        self.seen = Counter[str]()
        self.lock = threading.Lock()
        self.open = builtins.open

    def due(self, kind: str) -> bool:
        with self.lock:
            self.seen[kind] += 1
            return kind == self.kind and self.seen[kind] == self.at

    def step(self, kind: str) -> None:
        if self.due(kind):
            die()

    def watch(self) -> None:
        """From here on every write, sync and rename of this process counts."""
        reaper, sync, rename = self, os.fsync, os.replace

        class File(io.FileIO):
            def write(self, data: Any, /) -> int:
                if reaper.due(kind_of(str(self.name))):
                    super().write(bytes(data)[: int(len(data) * reaper.cut)])
                    die()
                return super().write(data)

        def opened(file: Any, mode: str = "r", *rest: Any, **named: Any) -> Any:
            if mode not in ("wb", "ab"):
                return reaper.open(file, mode, *rest, **named)
            raw = File(file, mode[0])
            return raw if 0 in (*rest[:1], named.get("buffering")) else io.BufferedWriter(raw)

        def before(kind: str, act: Callable[..., Any]) -> Callable[..., Any]:
            def acting(*arguments: Any, **named: Any) -> Any:
                reaper.step(kind)
                return act(*arguments, **named)

            return acting

        os.fsync, os.replace = before("fsync", sync), before("rename", rename)
        builtins.open = io.open = opened  # type: ignore[assignment]


def kind_of(path: str) -> str:
    if path.endswith((".journal", "journal.jsonl")):
        return "study" if path.endswith(".journal") else "journal"
    return "rollout" if path.endswith(".jsonl") and "rollouts" in path else "result"


def die() -> NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def forked(work: Callable[[], None]) -> int:
    """Start `work` in a copy of this process; returns its id."""
    pid = os.fork()
    if pid:
        return pid
    try:
        work()
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def searched(log: str, out: str, death: list[Any] | None = None, **settings: Any) -> None:
    """Search, each call noted in the file `log` as it begins; the result, and what was done, go to the file `out`."""
    reaper = Reaper(*(death or ()))
    notes = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)

    def noted(request: ScriptedRequest) -> str:
        os.write(notes, f"{os.getpid()} {named(request)}\n".encode())
        reaper.step("call")
        return reply(request)

    lm = scripted_lm(noted)
    reaper.watch()
    result = search(lm, **settings)
    with reaper.open(out, "w") as file:
        json.dump({"result": result, "calls": lm.served.calls, "seen": reaper.seen}, file)


def begun(log: str) -> list[str]:
    """The calls in a log, in the order in which they began."""
    return [line.split()[1] for line in Path(log).read_text().splitlines()] if Path(log).exists() else []


def chain(base: str, kills: int, seed: int) -> dict[str, Any]:
    """Kill one search after the other at random points, going on in the same folder until it ends.

    Returns what the searches ended with, how often each kind of point was hit, and what was asked in vain.
    """
    draw = random.Random(seed)
    out, log = f"{base}/out", f"{base}/log"
    assert os.waitpid(forked(lambda: searched(log, out, run_dir=f"{base}/whole")), 0)[1] == 0
    whole = json.loads(Path(out).read_text())
    ended, hit, again, lost = [], Counter[str](), [], []
    folder = 0
    while hit.total() < kills:
        (kind,) = draw.choices([*KINDS], [*KINDS.values()])
        # A part of the search at a time, so that one search is killed several times before its end.
        at = 1 + draw.randrange(max(1, whole["seen"][kind] // (1 if kind in ("result", "study", "rename") else 4)))
        run, calls = f"{base}/{folder}", f"{base}/{folder}.log"
        there, before = stored(f"{run}/rollouts"), len(begun(calls))
        pid = forked(lambda: searched(calls, out, [kind, at, draw.random()], run_dir=run))  # noqa: B023
        status = os.waitpid(pid, 0)[1]
        new = begun(calls)[before:]
        again += [name for name in new if name in there]
        if os.WIFSIGNALED(status):
            hit[kind] += 1
            lost.append(len(set(new) - stored(f"{run}/rollouts")))
        if os.WIFSIGNALED(status) and hit.total() < kills:
            continue
        if os.WIFSIGNALED(status):
            assert os.waitpid(forked(lambda: searched(calls, out, run_dir=run)), 0)[1] == 0  # noqa: B023
        else:
            assert status == 0
        names = begun(calls)
        ended.append(
            {
                "result": json.loads(Path(out).read_text())["result"],
                "calls": len(names),
                "different": len(set(names)),
                "lost": list(lost),
            }
        )
        lost.clear()
        folder += 1
    return {"whole": whole, "ended": ended, "hit": hit, "again": again}


def one_by_one(base: str, place: str, deaths: list[list[Any]]) -> dict[str, Any]:
    """Kill one search after the other where `deaths` says, in one run folder and one store, then let it end.

    Returns what it ended with, who was killed, and what was asked in vain.
    """
    out, log, again, killed = f"{base}/out", f"{base}/log", [], []
    for death in [*deaths, None]:
        there, before = stored(place), len(begun(log))
        pid = forked(lambda: searched(log, out, death, run_dir=f"{base}/run", storage=place))  # noqa: B023
        killed.append(os.WIFSIGNALED(os.waitpid(pid, 0)[1]))
        again += [name for name in begun(log)[before:] if name in there]
    names = begun(log)
    result = json.loads(Path(out).read_text())["result"]
    return {"result": result, "killed": killed, "again": again, "calls": len(names), "different": len(set(names))}


def serve() -> None:
    """Do what the lines of the standard input say, one after the other; each is [name of a function, its arguments]."""
    for line in sys.stdin:
        name, arguments = json.loads(line)
        print(json.dumps({"chain": chain, "one_by_one": one_by_one}[name](**arguments)), flush=True)


Apart = Callable[..., Any]


@pytest.fixture(scope="module")
def apart() -> Iterator[Apart]:
    """Calls one of the functions above in another process, which has no threads to fork with."""
    environment = {**os.environ, "PYTHONPATH": str(HERE.parents[1])}
    command = [sys.executable, "-c", "import optuna, tests.search.test_survives as tests; tests.serve()"]
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None

        def call(name: str, **arguments: Any) -> Any:
            assert process.stdin is not None
            assert process.stdout is not None
            print(json.dumps([name, arguments]), file=process.stdin, flush=True)
            answer = process.stdout.readline()
            assert answer, process.communicate()[1]
            return json.loads(answer)

        yield call
        process.stdin.close()


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of a search that was let be; copy it before use."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    lm = scripted_lm(reply)
    result = search(lm, run_dir=folder)
    (folder.parent / "whole").write_text(json.dumps({"result": result, "calls": lm.served.calls}))
    return folder


@pytest.fixture(scope="module")
def whole(finished: Path) -> dict[str, Any]:
    """What that search found, and the calls that it made."""
    return json.loads((finished.parent / "whole").read_text())


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A copy of its run folder."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


# --- kills ---


@pytest.mark.parametrize("seed", [1, 2])
def test_kill_9_at_random_points_changes_nothing_and_costs_the_calls_in_flight(
    tmp_path: Path, seed: int, apart: Apart
) -> None:
    done = apart("chain", base=str(tmp_path), kills=25, seed=seed)
    assert sum(done["hit"].values()) == 25
    assert len(done["hit"]) >= 5  # kinds of points
    assert done["again"] == []  # no finished call was made again
    whole = done["whole"]
    for end in done["ended"]:
        assert end["result"] == whole["result"]
        assert end["different"] == whole["calls"]
        assert whole["calls"] <= end["calls"] <= whole["calls"] + sum(end["lost"])
        assert max(end["lost"], default=0) <= IN_FLIGHT  # at each kill


DEATHS = [["call", 9, 0.0], ["journal", 3, 0.5], ["call", 30, 0.0], ["fsync", 4, 0.0], ["study", 2, 0.7]]


@pytest.mark.xdist_group("postgres")
def test_kill_9_with_the_calls_in_a_database(
    tmp_path: Path, request: pytest.FixtureRequest, apart: Apart, whole: dict[str, Any]
) -> None:
    deaths = [death for death in DEATHS if death[0] != "study"]  # which is in the database
    place = request.getfixturevalue("postgres").database()
    done = apart("one_by_one", base=str(tmp_path), place=place, deaths=deaths)
    assert done["killed"] == [True] * len(deaths) + [False]
    assert done["result"] == whole["result"]
    assert done["again"] == []
    assert done["different"] == whole["calls"]
    assert done["calls"] <= whole["calls"] + IN_FLIGHT * len(deaths)


def test_kill_9_with_the_calls_in_a_folder_that_is_shared(tmp_path: Path, apart: Apart, whole: dict[str, Any]) -> None:
    place = str(tmp_path / "shared")
    done = apart("one_by_one", base=str(tmp_path), place=place, deaths=DEATHS)
    assert done["killed"] == [True] * len(DEATHS) + [False]
    assert done["result"] == whole["result"]
    assert stored(f"{place}/rollouts")
    lm = scripted_lm(reply)
    assert search(lm, run_dir=tmp_path / "other", storage=place, study="other") == whole["result"]
    assert lm.served.calls == 0


# --- files that are gone, torn, foreign, locked ---

REBUILT = ["study.journal", "search.json", "best.json", "trials", "final", "confirm", "journal.jsonl"]


def again(run: Path, whole: dict[str, Any]) -> None:
    """The same command finds the same at no cost, and every file is there again."""
    lm = scripted_lm(reply)
    assert search(lm, run_dir=run) == whole["result"]
    assert lm.served.calls == 0
    assert {path.name for path in run.iterdir()} >= {*REBUILT, "rollouts"}


@pytest.mark.parametrize("gone", [*REBUILT, "everything but the calls"])
def test_what_is_removed_is_made_again_from_journal_and_calls(
    run: Path, finished: Path, whole: dict[str, Any], gone: str
) -> None:
    for name in REBUILT if gone == "everything but the calls" else [gone]:
        path = run / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    again(run, whole)
    if gone not in ("journal.jsonl", "everything but the calls"):  # what is measured again from the store takes no time
        for name in ("search.json", "best.json", "trials/0003/rows.jsonl"):
            assert facts(run / name) == facts(finished / name)


def facts(path: Path) -> Any:
    """What a file says, but for when it was written."""
    text = path.read_text()
    return re.sub(r'"created": *"[^"]*"', "", text)


@pytest.mark.parametrize("name", ["study.journal", "search.json", "best.json", "trials/0002/rows.jsonl"])
def test_what_is_torn_is_made_whole(run: Path, finished: Path, whole: dict[str, Any], name: str) -> None:
    size = (run / name).stat().st_size
    os.truncate(run / name, size * 2 // 3)
    again(run, whole)
    if name == "study.journal":
        assert trials_of(run) == trials_of(finished)
    else:
        assert facts(run / name) == facts(finished / name)


def trials_of(run: Path) -> list[Any]:
    """The finished trials of the study in a folder, as Optuna reads them."""
    storage = JournalStorage(JournalFileBackend(str(run / "study.journal")))
    study = optuna.load_study(study_name="pdr", storage=storage)
    found = [
        (trial.user_attrs["number"], trial.values, trial.state.name, trial.params)
        for trial in study.get_trials()
        if trial.state.is_finished()
    ]
    return sorted(found, key=lambda facts: facts[0])


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
def test_what_a_torn_journal_lacks_is_measured_again_from_the_store(
    run: Path, whole: dict[str, Any], share: float
) -> None:
    os.truncate(run / "journal.jsonl", int(share * (run / "journal.jsonl").stat().st_size))
    again(run, whole)
    again(run, whole)


@pytest.mark.parametrize("name", ["study.journal", "search.json", "best.json"])
def test_what_is_empty_is_filled(run: Path, finished: Path, whole: dict[str, Any], name: str) -> None:
    (run / name).write_bytes(b"")
    again(run, whole)
    assert trials_of(run) == trials_of(finished)


def test_rollout_segments_that_are_torn_empty_or_hold_foreign_lines_lose_only_that(
    run: Path, whole: dict[str, Any]
) -> None:
    (segment,) = (run / "rollouts").iterdir()
    (run / "journal.jsonl").unlink()
    data = segment.read_bytes()
    segment.write_bytes(data[:-20])
    (run / "rollouts" / "empty.jsonl").write_bytes(b"")
    (run / "rollouts" / "foreign.jsonl").write_bytes(b'\xff\xfe\n{"a": 1}\n[]\nid,score\nhalf of a li')
    (run / "rollouts" / "notes.txt").write_bytes(b"\0")
    lm = scripted_lm(reply)
    assert search(lm, run_dir=run) == whole["result"]
    assert lm.served.calls == 1
    assert (run / "rollouts" / "foreign.jsonl").read_bytes().endswith(b"half of a li")


BAD: dict[str, bytes] = {
    "empty": b"",
    "foreign": b"id,score\n1,2\n",
    "foreign without an end": b"hello",
    "binary": b"\xff\xfe\0\n\0",
    "other json": b"[1]\n",
}


@pytest.mark.parametrize(
    ("name", "kind"), [("journal.jsonl", kind) for kind in BAD] + [("study.journal", kind) for kind in [*BAD][1:]]
)
def test_a_journal_that_is_not_ours_is_named_and_left_alone(run: Path, kind: str, name: str) -> None:
    (run / name).write_bytes(BAD[kind])
    lm = scripted_lm(reply)
    with pytest.raises(StoreError) as raised:
        search(lm, run_dir=run)
    assert str(run / name) in str(raised.value)
    assert "\n" not in str(raised.value)
    assert (run / name).read_bytes() == BAD[kind]
    assert lm.served.calls == 0


@pytest.mark.parametrize(
    "name",
    ["rollouts", "rollouts/x.jsonl", "journal.jsonl", "journal.lock", "study.journal", "search.json", "best.json"],
)
def test_a_folder_where_a_file_belongs_or_the_reverse_is_named(run: Path, name: str, whole: dict[str, Any]) -> None:
    path = run / name
    was = path.with_name("was")
    if path.exists():
        path.rename(was)
    if was.is_dir():
        path.write_text("")
    else:
        path.mkdir()
        (path / "inside").write_text("")
    with pytest.raises(StoreError) as raised:
        search(scripted_lm(reply), run_dir=run)
    assert str(path) in str(raised.value)
    assert "\n" not in str(raised.value)
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    if was.exists():
        was.rename(path)
    again(run, whole)


@pytest.mark.parametrize("text", ["[1]", '"x"', "{}"])
@pytest.mark.parametrize("name", ["propose/001", "race/000/00000-000"])
def test_an_entry_of_another_kind_is_refused_by_name(run: Path, name: str, text: str) -> None:
    header = (run / "journal.jsonl").read_text().splitlines()[0]
    (run / "journal.jsonl").write_text(f'{header}\n{{"entry": "{name}", "value": {text}}}\n')
    with pytest.raises(StoreError, match=f"entry '{name}'.* is not of this search") as raised:
        search(scripted_lm(reply), run_dir=run)
    assert "\n" not in str(raised.value)


def test_a_search_that_another_process_drives_is_refused(run: Path, whole: dict[str, Any]) -> None:
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    with (run / "journal.lock").open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(StoreError, match=re.escape(f"the search in {run} is driven by another process")):
            search(scripted_lm(reply), run_dir=run)
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
    again(run, whole)


def test_the_lock_that_a_killed_process_left_on_the_study_is_taken_away(run: Path, whole: dict[str, Any]) -> None:
    (run / "study.journal.lock").symlink_to(run / "study.journal")
    (run / "search.json").unlink()
    again(run, whole)


# --- a full disk ---


@pytest.mark.parametrize(
    ("name", "share"), [("rollouts", 0.02), ("rollouts", 0.5), ("journal.jsonl", 0.7), ("study.journal", 0.9)]
)
def test_a_full_disk_is_one_error_and_nothing_finished_is_lost(
    tmp_path: Path, finished: Path, whole: dict[str, Any], name: str, share: float
) -> None:
    path = finished / name
    size = sum(file.stat().st_size for file in path.iterdir()) if path.is_dir() else path.stat().st_size
    asked: list[str] = []

    def noted(request: ScriptedRequest) -> str:
        asked.append(named(request))
        return reply(request)

    run = tmp_path / "run"
    if name == "study.journal":  # the last of all: the rest is there
        shutil.copytree(finished, run)
        (run / name).unlink()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(share * size), hard))  # of any one file
    try:
        with pytest.raises(StoreError) as raised:
            search(scripted_lm(noted), run_dir=run)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert str(run) in str(raised.value)
    assert os.strerror(errno.EFBIG) in str(raised.value)
    assert "\n" not in str(raised.value)
    there = stored(run / "rollouts")
    assert len(set(asked) - there) <= IN_FLIGHT
    asked.clear()
    assert search(scripted_lm(noted), run_dir=run) == whole["result"]
    assert not set(asked) & there
    assert len(asked) == whole["calls"] - len(there)
