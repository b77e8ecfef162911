"""How a command ends: errors as one sentence, signals, a reader that has gone, and the exit code of each.

0 is success, 1 a failure during the run, 2 invalid input, 130 interrupted, 141 nobody reads the output any more, 143
terminated (129 when its terminal was closed): a model server that the command started is stopped, and finished results
are kept; commands that are `resuming` say so.
"""

from __future__ import annotations

import functools
import os
import select
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import typer

Command = TypeVar("Command", bound=Callable[..., Any])


class Terminated(KeyboardInterrupt):
    """A signal asked the process to end; running work ends as with Ctrl-C."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


SIGNALS = {"SIGINT": "stopped", "SIGTERM": "terminated", "SIGHUP": "its terminal is gone"}
"""Signals that end a command cleanly, and the message for each."""


@contextmanager
def terminated_by_signals() -> Iterator[None]:
    """Inside, SIGTERM and SIGHUP raise `Terminated` in the main thread, once: a second signal does not interrupt the
    clean-up. Signals that another handler takes, or that are ignored as with `nohup`, are left alone."""
    before: dict[int, Any] = {}

    def handler(number: int, _: Any) -> None:
        for known in before:
            signal.signal(known, signal.SIG_IGN)
        raise Terminated(number)

    if threading.current_thread() is threading.main_thread():
        for name in ("SIGTERM", "SIGHUP"):
            number = getattr(signal, name, None)  # Windows has no SIGHUP
            if number is not None and signal.getsignal(number) is signal.SIG_DFL:
                before[number] = signal.signal(number, handler)
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)


def guarded(command: Command, *, after: str = "") -> Command:
    """Turn this library's errors into one sentence and an exit code.

    Args:
        command: the command.
        after: what it says about how to continue when it is interrupted; nothing for commands that keep no results.
    """

    @functools.wraps(command)
    def run(*args: Any, **options: Any) -> Any:
        from pdr_dspy.errors import ArtifactError, ConfigError, DataError, PDRError

        try:
            with terminated_by_signals():
                return command(*args, **options)
        except PDRError as error:
            typer.secho(f"error: {error}", fg=typer.colors.RED, err=True)
            sys.exit(2 if isinstance(error, (ConfigError, DataError, ArtifactError)) else 1)
        except OSError as error:
            if isinstance(error, BrokenPipeError) and any(map(has_no_reader, (sys.stdout, sys.stderr))):
                raise  # `main` ends quietly
            # a full or unwritable disk without a more specific message
            where = f"{error.filename}: " if error.filename else ""
            typer.secho(f"error: {where}{error.strerror or error}", fg=typer.colors.RED, err=True)
            sys.exit(1)
        except KeyboardInterrupt as error:
            number = error.number if isinstance(error, Terminated) else signal.SIGINT
            how = f"; {after}" if after and not options.get("dry_run") else ""
            typer.secho(f"{SIGNALS[signal.Signals(number).name]}{how}", err=True)
            sys.exit(128 + number)

    return run  # type: ignore[return-value]


def resuming(command: Command) -> Command:
    """`guarded`, for a command that resumes in its run folder."""
    return guarded(command, after="the same command resumes")


def has_no_reader(stream: Any) -> bool:
    """Whether a stream is a pipe whose reader has gone, such as `head`."""
    try:
        poll = select.poll()
        poll.register(stream.fileno(), 0)
    except (AttributeError, OSError, ValueError):  # Windows has no `poll`; a replaced stream may have no descriptor
        return False
    return any(event & select.POLLERR for _, event in poll.poll(0))


def quietly(app: Callable[[], None]) -> None:
    """Run the command line. If nobody reads its output any more, as behind `| head`, it ends quietly, with the exit
    code that a shell reports for SIGPIPE."""
    streams = (sys.stdout, sys.stderr)
    try:
        app()
    except SystemExit:
        unread = [stream for stream in streams if _cannot_be_flushed(stream)]
        if unread or (sys.stdout, sys.stderr) != streams:  # typer replaces them after a broken pipe
            sys.exit(128 + getattr(signal, "SIGPIPE", 13))
        raise


def _cannot_be_flushed(stream: Any) -> bool:
    """Whether nobody reads a stream any more; what is still in its buffer is then dropped, also at exit."""
    try:
        stream.flush()
    except BrokenPipeError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
        return True
    return False
