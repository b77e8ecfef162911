"""Workers over one board, in processes that die by SIGKILL where they are told to. Run by test_workers.py.

    python tests/board_workers.py PLAN.json

The processes are forked from this one, so that the library is imported once. Each keeps a log of its own.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import traceback
from pathlib import Path
from typing import Any, NoReturn

from pdr_dspy.runtime.postgres import Database, is_url
from pdr_dspy.search.workers.coordination import Board, FolderBoard, PostgresBoard

PHASES = ("claimed", "working", "in put", "after put")


def main(plan: dict[str, Any]) -> None:
    print(json.dumps({"share": share, "acknowledge": acknowledge}[plan.pop("mode")](**plan)))


def connect(place: str) -> Board:
    return PostgresBoard(place, "search") if is_url(place) else FolderBoard(place, "search")


def share(place: str, logs: str, names: list[str], workers: int, deaths: dict[str, list[Any]]) -> dict[str, list[int]]:
    """`workers` processes work out all `names`; `deaths` says which of them die, at which claim, and in what phase."""
    processes = {}
    dead = Path(logs).with_name("dead")
    """There once all have died that are to: the others leave them something to do until then."""
    gate, opener = os.pipe()
    for worker in range(workers):
        pid = os.fork()
        if not pid:
            os.close(opener)
            first = worker * len(names) // workers
            own = names[first:] + names[:first]  # each begins elsewhere, and comes to what the others hold
            in_child(lambda me=str(worker), own=own: work(place, gate, Path(logs) / me, own, deaths.get(me), dead))
        processes[pid] = worker
    os.close(gate)
    os.close(opener)  # now they begin
    ended: dict[str, list[int]] = {"killed": [], "finished": [], "failed": []}
    while processes:
        pid, status = os.wait()
        kind = "killed" if os.WIFSIGNALED(status) else "failed" if status else "finished"
        ended[kind].append(processes.pop(pid))
        if not {str(worker) for worker in processes.values()} & set(deaths):
            dead.touch()
        if kind == "killed" and is_url(place):
            pass_time(place, pid)
    return ended


def pass_time(place: str, pid: int) -> None:
    """What half a minute of silence would do to the leases of a process."""
    query = "UPDATE pdr_claims SET expires = clock_timestamp() - interval '1 s' WHERE split_part(holder, '|', 2) = %s"
    with Database(place) as database:
        database.run(lambda connection: connection.execute(query, (str(pid),)))


LEFT = 8
"""Units that a worker which is not to die takes before all that are have died."""


def work(place: str, gate: int, log: Path, names: list[str], death: list[Any] | None, dead: Path) -> None:
    with connect(place) as board, log.open("a", buffering=1) as said:
        os.read(gate, 1)
        claims = 0
        while left := [name for name in names if name not in board.read("")]:
            idle = True
            for name in left:
                if death is None and claims >= LEFT and not dead.exists():
                    break
                claim = board.claim(name)
                if claim is None:
                    continue
                idle = False
                claims += 1
                phase = death[1] if death is not None and death[0] == claims else ""
                with claim:
                    die(phase == "claimed")
                    said.write(f"start {name}\n")
                    die(phase == "working")
                    text = json.dumps({"by": log.name, "unit": name})
                    if phase == "in put":
                        die_in_put(len(name) % 40)
                    there = board.put(name, text)
                    said.write(f"{'put' if there == text else 'found'} {name}\n")
                    die(phase == "after put")
            if idle:
                board.wait(0.2)


def acknowledge(place: str, points: int, seed: int) -> list[list[str]]:
    """Kill `points` writers, one after the other, in the middle of a put; returns what was lost and what was put."""
    draw = random.Random(seed)
    lost: list[str] = []
    told: list[str] = []
    for point in range(points):
        reader, writer = os.pipe()
        before, bytes_of_it = draw.randrange(6), draw.randrange(120)
        pid = os.fork()
        if not pid:
            os.close(reader)
            in_child(lambda at=point, out=writer, n=before, cut=bytes_of_it: put_until_killed(place, at, out, n, cut))
        os.close(writer)
        with os.fdopen(reader) as pipe:
            for line in pipe:
                told.append(line.strip())
                if is_url(place) and told[-1] == f"{point}/{before}":
                    os.kill(pid, signal.SIGKILL)
        assert os.WTERMSIG(os.waitpid(pid, 0)[1]) == signal.SIGKILL
        with connect(place) as board:
            there = board.read("")
            lost += [name for name in told if there.get(name) != text_of(name)]
            lost += [name for name, text in there.items() if text != text_of(name)]
            board.put(f"after/{point}", text_of(f"after/{point}"))
    return [lost, told]


def put_until_killed(place: str, point: int, out: int, before: int, cut: int) -> None:
    with connect(place) as board:
        for number in range(10_000):
            name = f"{point}/{number}"
            if number == before and not is_url(place):
                die_in_put(cut)
            board.put(name, text_of(name))
            os.write(out, f"{name}\n".encode())


def text_of(name: str) -> str:
    return json.dumps({"unit": name, "text": "é\0\ud800" * 5})


def die(now: bool = True) -> None:
    if now:
        os.kill(os.getpid(), signal.SIGKILL)


def die_in_put(after: int) -> None:
    """From here on a folder's write is cut off after so many bytes, and its process with it."""
    whole = os.write

    def write(file: int, data: Any) -> int:
        whole(file, bytes(data)[:after])
        die()
        return 0

    os.write = write


def in_child(work: Any) -> NoReturn:
    try:
        work()
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()))
