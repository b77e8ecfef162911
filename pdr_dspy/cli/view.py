"""`pdr export` and `pdr view`: a run as logs of Inspect, and its viewer on this machine."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import TYPE_CHECKING

from pdr_dspy.cli.program_files import find
from pdr_dspy.errors import ConfigError
from pdr_dspy.reporting.inspect_log import FOLDER, write_inspect_logs
from pdr_dspy.reporting.remom import as_remom
from pdr_dspy.runtime import store_whole

if TYPE_CHECKING:
    from pdr_dspy.cli.display import Display

HOST = "127.0.0.1"
FORMATS = ("inspect", "remom")


def export(run_dir: Path, to: str, out: Path | None, *, plain: bool, display: Display) -> list[Path]:
    """Write a run, or for "remom" a saved program, in another tool's format; return the files.

    Raises ConfigError for a format that is unknown or cannot express the program, StoreError for a folder without a
    run.
    """
    if to not in FORMATS:
        raise ConfigError(f"`--to {to}` is not a known format; there is: {', '.join(FORMATS)}")
    if to == "remom":
        return [_remom(run_dir, out)]
    with display.status(f"writing logs of {run_dir}"):
        return write_inspect_logs(run_dir, out, markdown=not plain)


def _remom(saved: Path, out: Path | None) -> Path:
    """Write the schedule of a saved program for vLLM's semantic router."""
    if saved.suffix != ".json":
        raise ConfigError(f"`pdr export {saved} --to remom` takes a saved program, such as best.json")
    program = find(str(saved)).program
    path = out or saved.with_suffix(".remom.yaml")
    store_whole(path, as_remom(program, saved.stem).encode(), called=f"`--out {path}`")
    return path


def view(run_dir: Path, port: int, out: Path | None, *, plain: bool, display: Display) -> None:
    """Write a run's logs and show them on the loopback interface until Ctrl-C.

    Raises ConfigError if the port is taken.
    """
    _check_free(port)
    logs = export(run_dir, "inspect", out, plain=plain, display=display)
    from inspect_ai import view

    count = f"{len(logs)} log{'s' * (len(logs) != 1)}"
    display.say(f"{count} of {run_dir} at http://{HOST}:{port}; Ctrl-C ends the viewer, the logs stay")
    folder = out or run_dir / FOLDER
    try:
        view(str(folder), host=HOST, port=port, trust_content=False if plain else None)
    except BaseExceptionGroup as group:  # of the server's tasks; an end from outside is handled as elsewhere
        raise _end_in(group) or group from None


def _end_in(error: BaseException) -> BaseException | None:
    """The interrupt, signal or broken pipe that ended the viewer."""
    if isinstance(error, KeyboardInterrupt | BrokenPipeError):
        return error
    inner = error.exceptions if isinstance(error, BaseExceptionGroup) else ()
    return next((found for one in inner if (found := _end_in(one)) is not None), None)


def _check_free(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise ConfigError(f"`--port {port}` cannot be used: {error.strerror or error}; choose another") from error
