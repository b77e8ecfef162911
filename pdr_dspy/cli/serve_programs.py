"""`pdr serve`: programs behind an OpenAI-compatible API."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from socket import socket
from typing import Any

import dspy

from pdr_dspy.cli.display import Display
from pdr_dspy.cli.heap import settled_heap
from pdr_dspy.cli.model_option import Model, room
from pdr_dspy.cli.program_files import Target, build, find
from pdr_dspy.endpoint import Keys, Limits, app
from pdr_dspy.endpoint.catalogue import ProgramFile
from pdr_dspy.endpoint.metrics import shared_by_workers
from pdr_dspy.endpoint.server import bind, is_loopback
from pdr_dspy.endpoint.server import serve as run
from pdr_dspy.errors import ConfigError
from pdr_dspy.operators.nested import operators_of
from pdr_dspy.operators.schedule import Schedule
from pdr_dspy.runtime.worker_processes import Patience, Pulse, supervise
from pdr_dspy.serving import connect
from pdr_dspy.serving.settings import EndpointSettings

WATCHING = "pdr_dspy.runtime.worker_processes"
LOOPBACK = ("localhost", "127.0.0.1", "[::1]")


@dataclass(frozen=True)
class Serving:
    """The served programs and settings; the same for each worker."""

    targets: Sequence[str]
    task: str | None
    trusted: bool
    limits: Limits
    """Limits of all workers together."""
    keys: Keys | None
    certificate: str | None
    private_key: str | None


def serve(
    targets: Sequence[str],
    *,
    model: Model,
    task: str | None,
    trusted: bool,
    host: str,
    port: int,
    workers: int,
    keys: Path | None,
    without_keys: bool,
    certificate: Path | None,
    private_key: Path | None,
    limits: dict[str, Any],
    display: Display,
) -> None:
    """Serve until interrupted or terminated."""
    if (certificate is None) != (private_key is None):
        raise ConfigError("`--certificate` and `--private-key` belong together")
    known = Keys.read(keys)
    if not known and not is_loopback(host) and not without_keys:
        raise ConfigError(
            f"`--host {host}` accepts other machines, and there are no keys:  give `--keys FILE` or PDR_SERVE_KEYS, or "
            "say `--without-keys`"
        )
    given = {name: value for name, value in limits.items() if value is not None}
    if is_loopback(host) and not known:
        given["hosts"] = (*LOOPBACK, host.lower())
    if not model.api_base:  # a GPU server refuses requests itself when it is full
        given = {"in_flight": max(model.in_flight, workers), **given}
    serving = Serving(
        targets,
        task,
        trusted,
        Limits(**given),
        known or None,
        None if certificate is None else str(certificate),
        None if private_key is None else str(private_key),
    )
    serving.limits.share(0, workers)  # before anything is started
    names, programs, schedule = _programs(serving)
    _log_to_stderr()
    listener = bind(host, port)
    address = f"{'http' if certificate is None else 'https'}://{f'[{host}]' if ':' in host else host}"
    address += f":{listener.getsockname()[1]}/v1"

    def ready() -> None:
        many = f" ({workers} workers)" if workers > 1 else ""
        display.out.print(f"serving {', '.join(names)} at {address}{many}", markup=False, soft_wrap=True)

    try:
        with model.serving(schedule, display) as lm:
            if workers == 1:
                _run(serving, programs, lm, listener, ready=ready)
            else:
                _watch(serving, lm.settings, listener, workers, ready)
        display.say("drained")
    finally:
        listener.close()


def _watch(
    serving: Serving, server: EndpointSettings, listener: socket, workers: int, ready: Callable[[], None]
) -> None:
    """Serve with several processes."""
    patience = Patience(drain=serving.limits.drain_seconds + 10.0)
    with shared_by_workers() as ended:
        supervise(
            serve_as_worker,
            (serving, server, workers),
            listener,
            workers,
            patience=patience,
            ready=ready,
            ended=ended,
        )


def serve_as_worker(
    number: int, listener: socket, pulse: Pulse, serving: Serving, server: EndpointSettings, workers: int
) -> None:
    """The work of one of several processes."""
    _log_to_stderr()
    mine = replace(serving, limits=serving.limits.share(number, workers))
    _, programs, _ = _programs(mine)
    lm = connect(server.model, server.api_base, settings=server)
    try:
        lm.check_sync()
        with settled_heap():
            _run(mine, programs, lm, listener, pulse=pulse)
    finally:
        lm.close()


def _run(
    serving: Serving,
    programs: dict[str, Any],
    lm: dspy.LM,
    listener: socket,
    *,
    ready: Callable[[], None] | None = None,
    pulse: Pulse | None = None,
) -> None:
    """Serve in this process."""
    with suppress(KeyboardInterrupt):  # raised again after draining
        run(
            app(programs, lm=lm, limits=serving.limits, keys=serving.keys),
            listener,
            serving.limits,
            certificate=serving.certificate,
            private_key=serving.private_key,
            ready=ready,
            pulse=pulse,
        )


def _programs(serving: Serving) -> tuple[list[str], dict[str, Any], Schedule]:
    """The programs' names, the arguments for `app`, and the schedule that needs the most context."""
    found = [find(target, task=serving.task, trusted=serving.trusted) for target in serving.targets]
    programs = [_program(target, serving.trusted) for target in found]
    names = [name for name, _, _ in programs]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ConfigError(f"two programs are called {twice!r}; programs are named after their files: rename one")
    schedules = [operator.schedule for name, _, one in programs for operator in operators_of(one, name).values()]
    return names, {name: one for name, one, _ in programs}, max(schedules, key=room)


def _program(target: Target, trusted: bool) -> tuple[str, Any, Any]:
    """A name, the argument for `app`, and the program in its current state."""
    if target.artifact is None:
        return target.name, target.program, target.program
    own = None if target.task is None else build(target.task)
    return target.name, ProgramFile(target.artifact, own, trusted), target.program


def _log_to_stderr() -> None:
    """Log the endpoint and uvicorn's errors to stderr, unless the application has configured logging."""
    levels = {"pdr_dspy.endpoint": logging.INFO, WATCHING: logging.INFO, "uvicorn.error": logging.WARNING}
    for name, level in levels.items():
        logger = logging.getLogger(name)
        if not logger.handlers and not logging.getLogger().handlers:
            handler = logging.StreamHandler(sys.stderr)
            handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
            logger.addHandler(handler)
            logger.setLevel(level)
