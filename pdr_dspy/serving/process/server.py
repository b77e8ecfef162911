"""A server in a child process: start it, wait until it is healthy, stop it; it never outlives this process.

`LocalServer` is the base class of the engines: it starts and stops the server and creates its LMs. `ServerProcess` is
one running server process.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pdr_dspy.errors import ConfigError, ServerStartError
from pdr_dspy.serving.endpoint import EndpointLM, connect

HOST = "127.0.0.1"
_GUARD = Path(__file__).with_name("guard.py")


class LocalServer:
    """A server for one model on the loopback interface; a context manager. Subclasses define how it is launched."""

    grace = 10.0
    """Seconds between SIGTERM and SIGKILL."""

    def __init__(
        self, model: str, *, port: int, log_dir: str | os.PathLike[str] | None, startup_timeout: float
    ) -> None:
        self.model = model
        self._port = port
        self._log_dir = log_dir
        self._startup_timeout = startup_timeout
        self._process: ServerProcess | None = None
        self._lms: list[EndpointLM] = []

    @property
    def api_base(self) -> str:
        """The API base, such as http://127.0.0.1:8080/v1; ConfigError before start()."""
        if self._process is None:
            raise ConfigError(f"`{type(self).__name__}` is not running: use it in a `with` block, or call start()")
        return f"http://{HOST}:{self._process.port}/v1"

    @property
    def pid(self) -> int | None:
        """The id of the server's process group; None if it does not run or was not started here."""
        return self._process.pid if self._process is not None else None

    @property
    def lm(self) -> EndpointLM:
        """An LM of this server with connect()'s default sampling; the same object each time."""
        if not self._lms:
            self.connect()
        return self._lms[0]

    def connect(self, model: str | None = None, **settings: Any) -> EndpointLM:
        """Return an LM of this server; takes the keyword arguments of endpoint.connect(). `model` is another served
        name, such as an adapter's."""
        known = self._connection()
        if model not in (None, self.model):
            known["identity"] = None  # to be read from the server
        lm = connect(model or self.model, self.api_base, **{**known, **settings})
        self._lms.append(lm)
        return lm

    def start(self) -> Self:
        """Start the server and return when it is ready. Does nothing if it is running.

        Raises ServerStartError, with the tail of the server's own log, if it fails or the port is taken; WeightsError
        if an engine cannot fetch its weights.
        """
        if self._process is None:
            process = self._launch()
            process.start(self._startup_timeout)
            self._process = process
        return self

    def stop(self) -> None:
        """Stop the server with all its workers and close the connections of its LMs. Harmless when it does not run."""
        for lm in self._lms:
            lm.close()
        self._lms.clear()
        process, self._process = self._process, None
        if process is not None:
            process.stop(self.grace)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _connection(self) -> dict[str, Any]:
        """Arguments of connect() for this server."""
        raise NotImplementedError

    def _launch(self) -> ServerProcess:
        """Prepare the process, on a free port."""
        raise NotImplementedError


class ServerProcess:
    """One server on the loopback interface, in its own process group, with a guard that ends it with this process.

    Args:
        command: the command line. It must bind HOST and `port` and answer GET /health with 200 when it is ready.
        name: the server's name in messages.
        port: the port that it listens on; choose it with free_port().
        env: the complete environment of the process.
        log_dir: the folder of `<name>.log`; None for a temporary folder that stop() removes.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        name: str,
        port: int,
        env: Mapping[str, str],
        log_dir: str | os.PathLike[str] | None = None,
    ) -> None:
        self.command = tuple(command)
        self.name = name
        self.port = port
        self._env = dict(env)
        self._temporary = tempfile.mkdtemp(prefix="pdr-server-") if log_dir is None else None
        folder = Path(self._temporary or os.fspath(log_dir or "."))
        folder.mkdir(parents=True, exist_ok=True)
        self.log = folder / f"{name}.log"
        self._popen: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """The guard's process id, which is also the process group; None if no process runs."""
        return self._popen.pid if self._popen is not None else None

    def start(self, timeout: float) -> None:
        """Start the process and return when it is healthy.

        Raises ServerStartError, with the tail of the log, if it exits or is not healthy within `timeout` seconds.
        """
        with self.log.open("wb") as log:
            log.write(f"$ {shlex.join(self.command)}\n".encode())
            log.flush()
            # -P: the vllm.py beside this package must not shadow the installed one.
            self._popen = subprocess.Popen(
                [sys.executable, "-P", "-S", str(_GUARD), str(os.getpid()), *self.command],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self._env,
                start_new_session=True,
            )
        deadline = time.monotonic() + timeout
        try:
            while not _healthy(self.port):
                status = self._popen.poll()
                if status is not None:
                    raise self._failure(f"exited with status {status} before it was ready")
                if time.monotonic() > deadline:
                    raise self._failure(f"was not ready within {timeout:g} s")
                time.sleep(0.1)
            if self._popen.poll() is not None:  # another server answers on that port
                raise self._failure("exited while another server answered on its port")
        except BaseException:
            self.stop()
            raise

    def running(self) -> bool:
        """Whether the process is alive."""
        return self._popen is not None and self._popen.poll() is None

    def stop(self, grace: float = 10.0) -> None:
        """End the process group: SIGTERM, then SIGKILL after `grace` seconds. Harmless if no process runs."""
        popen, self._popen = self._popen, None
        if popen is not None:
            _signal_group(popen.pid, signal.SIGTERM)
            try:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    popen.wait(grace)
            finally:
                _signal_group(popen.pid, signal.SIGKILL)  # also child processes that the server left
                popen.wait()
                assert popen.stdin is not None
                popen.stdin.close()
        if self._temporary is not None:
            shutil.rmtree(self._temporary, ignore_errors=True)

    def tail(self, lines: int = 30) -> str:
        """Return the last lines of the log."""
        try:
            text = self.log.read_text(errors="replace")
        except OSError as error:
            return f"(no log: {error})"
        return "\n".join(text.splitlines()[-lines:])

    def _failure(self, what: str) -> ServerStartError:
        kept = "" if self._temporary else f" The whole log is {self.log}."
        return ServerStartError(f"the {self.name} server {what}.{kept} The end of its log:\n{self.tail()}")


def free_port(port: int) -> int:
    """Return `port` if nothing listens on it, or a free one for 0.

    Raises ConfigError for a number that is not a port, ServerStartError if it is in use.
    """
    if not 0 <= port <= 65535:
        raise ConfigError(f"`port={port}` is not a port; 0 takes any free one")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port in TIME_WAIT is free
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise ServerStartError(
                f"`port={port}` cannot be used on {HOST} ({error.strerror}): stop the process that listens on it, "
                "choose another port, or 0 for any free one"
            ) from error
        return probe.getsockname()[1]


def _healthy(port: int) -> bool:
    # http.client instead of urllib, which would send loopback requests to a proxy of the environment.
    connection = http.client.HTTPConnection(HOST, port, timeout=5)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _signal_group(group: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):  # already ended
        os.killpg(group, number)
