"""A real PostgreSQL for tests: a cluster of its own in a temporary folder, on a socket in that folder, gone at the end.

    with PostgresServer() as server:
        url = server.database()

Debian's packages put the programs where no PATH looks; the server refuses to run as root, and is started as the user
that the package made then.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Self

USER = "postgres"
SETTINGS = {
    "listen_addresses": "",
    "fsync": "off",
    "shared_buffers": "16MB",
    "max_connections": "60",
    "log_min_messages": "fatal",
}


def programs() -> Path | None:
    """The folder of the newest server's programs; None where there is no server."""
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    if debian:
        return debian[-1].parent
    found = shutil.which("initdb")
    return Path(os.path.realpath(found)).parent if found else None


class PostgresServer:
    """Context manager. Stop and start it in between, to see what a client makes of that."""

    def __init__(self) -> None:
        found = programs()
        assert found is not None, "no PostgreSQL server is installed"
        self.programs = found
        self.folder = Path(tempfile.mkdtemp(prefix="pdr-postgres-"))
        self._user: int | None = None  # the one that runs the tests
        self._group: int | None = None
        if os.getuid() == 0:
            self._user, self._group = pwd.getpwnam(USER)[2:4]
            os.chown(self.folder, self._user, self._group)
        self._server: subprocess.Popen[bytes] | None = None
        self._databases = 0

    def __enter__(self) -> Self:
        data = str(self.folder / "data")
        made = self._run("initdb", "-D", data, "-U", USER, "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync")
        assert made.returncode == 0, made.stderr.decode()
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def start(self) -> None:
        settings = [f"--{name}={value}" for name, value in SETTINGS.items()]
        command = [self.programs / "postgres", "-D", self.folder / "data", "-k", self.folder, *settings]
        with (self.folder / "log").open("ab") as log:
            server = self._server = subprocess.Popen(
                command,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                user=self._user,
                group=self._group,
                extra_groups=None if self._user is None else [],
            )
        while self._run("pg_isready", "-q", "-h", str(self.folder)).returncode:
            with suppress(subprocess.TimeoutExpired):
                server.wait(0.05)
                raise AssertionError((self.folder / "log").read_text())

    def stop(self) -> None:
        """End it at once: its clients lose their connections."""
        if self._server is not None:
            self._server.send_signal(signal.SIGINT)
            self._server.wait(60)
            self._server = None

    def database(self) -> str:
        """Make an empty database; returns its URL."""
        self._databases += 1
        name = f"tests_{self._databases}"
        made = self._run("createdb", "-h", str(self.folder), "-U", USER, name)
        assert made.returncode == 0, made.stderr.decode()
        return f"postgresql://{USER}@/{name}?host={self.folder}"

    def _run(self, program: str, *arguments: str) -> subprocess.CompletedProcess[bytes]:
        command = [self.programs / program, *arguments]
        return subprocess.run(
            command,
            cwd=self.folder,
            capture_output=True,
            stdin=subprocess.DEVNULL,
            user=self._user,
            group=self._group,
            extra_groups=None if self._user is None else [],
        )
