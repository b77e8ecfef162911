"""`pdr serve`: programs behind an OpenAI-compatible API."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pdr_dspy.cli.display import Display
from pdr_dspy.cli.model_option import Model, room
from pdr_dspy.cli.program_files import Target, build, find, operator_of
from pdr_dspy.errors import ConfigError, MissingExtra

LOOPBACK = ("localhost", "127.0.0.1", "[::1]")


def serve(
    targets: Sequence[str],
    *,
    model: Model,
    task: str | None,
    trusted: bool,
    host: str,
    port: int,
    keys: Path | None,
    without_keys: bool,
    certificate: Path | None,
    private_key: Path | None,
    limits: dict[str, Any],
    display: Display,
) -> None:
    """Serve until interrupted or terminated."""
    try:
        from pdr_dspy.endpoint import Keys, Limits, app
        from pdr_dspy.endpoint.server import bind, is_loopback, serve
    except ImportError as error:
        raise MissingExtra(str(error.name).partition(".")[0], "serve", "`pdr serve`") from None
    if (certificate is None) != (private_key is None):
        raise ConfigError("`--certificate` and `--private-key` belong together")
    known = Keys.read(keys)
    if not known and not is_loopback(host) and not without_keys:
        raise ConfigError(
            f"`--host {host}` lets other machines in, and there are no keys: give `--keys FILE` or PDR_SERVE_KEYS, or "
            "say `--without-keys`"
        )
    given = {name: value for name, value in limits.items() if value is not None}
    if is_loopback(host) and not known:
        given["hosts"] = (*LOOPBACK, host.lower())
    if not model.api_base:  # a GPU server says itself when it has enough
        given = {"in_flight": model.in_flight, **given}
    chosen = Limits(**given)
    programs = [_program(find(target, task=task, trusted=trusted), trusted) for target in targets]
    names = [name for name, _, _ in programs]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ConfigError(f"two programs are called {twice!r}; a program has its file's name: rename one")
    schedules = [operator_of(program).schedule for _, _, program in programs]
    _log_to_stderr()
    listener = bind(host, port)
    try:
        with model.serving(max(schedules, key=room), display) as lm:
            application = app({name: one for name, one, _ in programs}, lm=lm, limits=chosen, keys=known or None)
            scheme = "http" if certificate is None else "https"
            name = f"[{host}]" if ":" in host else host

            def ready() -> None:
                display.out.print(f"serving {', '.join(names)} at", end=" ", markup=False)
                display.out.print(f"{scheme}://{name}:{listener.getsockname()[1]}/v1", markup=False)

            try:
                serve(
                    application,
                    listener,
                    chosen,
                    certificate=None if certificate is None else str(certificate),
                    private_key=None if private_key is None else str(private_key),
                    ready=ready,
                )
            except KeyboardInterrupt:  # told again after everything was drained
                display.say("drained")
    finally:
        listener.close()


def _program(target: Target, trusted: bool) -> tuple[str, Any, Any]:
    """A name, what `app` is given for it, and the program as it is now."""
    from pdr_dspy.endpoint import ProgramFile

    if target.artifact is None:
        return target.name, target.program, target.program
    own = None if target.task is None else build(target.task)
    return target.name, ProgramFile(target.artifact, own, trusted), target.program


def _log_to_stderr() -> None:
    """Lines of the endpoint and of uvicorn's faults; whoever has set up logging keeps his own."""
    for name, level in {"pdr_dspy.endpoint": logging.INFO, "uvicorn.error": logging.WARNING}.items():
        logger = logging.getLogger(name)
        if not logger.handlers and not logging.getLogger().handlers:
            handler = logging.StreamHandler(sys.stderr)
            handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
            logger.addHandler(handler)
            logger.setLevel(level)
