"""Whether a Ray cluster answers at an address. Ray itself tries for some 13 minutes before it says that none does."""

from __future__ import annotations

import os
import socket
import threading
from concurrent.futures import Future
from urllib.parse import urlsplit

CONNECTS = 5.0
"""Seconds within which a head takes a connection: its machine's kernel does so, however busy the head is."""
ANSWERS = 30.0
"""Seconds within which a head answers on it."""
GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
"""How a client of HTTP/2, on which Ray's processes talk, begins: its preface, and settings that are empty."""
FRAME = 9
"""Bytes of a frame's header; the fourth is its kind."""
SETTINGS = 4
"""The kind of frame with which each server of HTTP/2 begins."""


def in_words(address: str) -> str:
    """The address in words: for "auto" with `RAY_ADDRESS`, that too."""
    given = os.environ.get("RAY_ADDRESS") if address == "auto" else None
    return repr(address) if not given else f"{address!r}, with RAY_ADDRESS={given!r}"


def head_of(address: str) -> str | None:
    """HOST:PORT to which `ray.init` would connect; None if it starts a cluster, or if this Ray does not say.

    Raises Ray's ConnectionError or ValueError if there is none.
    """
    given = os.environ.get("RAY_ADDRESS") or address if address == "auto" else address
    if "://" in given:  # of Ray Client; Ray refuses others at once
        return urlsplit(given).netloc if given.startswith("ray://") else None
    try:  # only Ray knows where a cluster left its address, and which address of this machine a head listens on
        from ray._private import services

        services.find_gcs_addresses.cache_clear()  # pyright: ignore[reportFunctionMemberAccess]
        return services.canonicalize_bootstrap_address(given)
    except (ImportError, AttributeError):
        return None if given in ("auto", "local") else given


def check_head(head: str) -> None:
    """Raise ConnectionError, within `CONNECTS` and `ANSWERS`, unless a server of HTTP/2 answers at HOST:PORT.

    Raises ValueError if it is no HOST:PORT.
    """
    try:
        place = urlsplit(f"//{head}")
        host, port = place.hostname, place.port
    except ValueError as error:
        raise ValueError(f"{head!r} is not HOST:PORT: {error}") from error
    if not host or not port:
        raise ValueError(f"{head!r} is not HOST:PORT")
    try:
        link = _connected(host, port)
    except OSError as error:
        why = f"no answer in {CONNECTS:g} s" if isinstance(error, TimeoutError) else error.strerror or str(error)
        raise ConnectionError(f"nothing listens at {head} ({why})") from error
    with link:
        if os.environ.get("RAY_USE_TLS", "0").lower() not in ("1", "true"):  # TLS begins otherwise
            _greet(link, head)


def _connected(host: str, port: int) -> socket.socket:
    """A connection. In a thread, since the search for a host's addresses has no time limit, and it may have several."""
    found: Future[socket.socket] = Future()

    def connect() -> None:
        try:
            link = socket.create_connection((host, port), CONNECTS)
        except (OSError, ValueError) as error:  # ValueError: of a name that can be no host's
            if found.set_running_or_notify_cancel():
                found.set_exception(error)
            return
        if found.set_running_or_notify_cancel():
            found.set_result(link)
        else:
            link.close()

    threading.Thread(target=connect, name="pdr_dspy-address", daemon=True).start()
    try:
        return found.result(CONNECTS)
    finally:
        found.cancel()


def _greet(link: socket.socket, head: str) -> None:
    """Raise ConnectionError if what listens is no server of HTTP/2, such as the dashboard of the cluster."""
    link.settimeout(ANSWERS)
    try:
        link.sendall(GREETING)
        with link.makefile("rb") as answers:
            answer = answers.read(FRAME)
    except TimeoutError as error:
        raise ConnectionError(f"what listens at {head} does not answer within {ANSWERS:g} s") from error
    except OSError:
        answer = b""
    if len(answer) < FRAME or answer[3] != SETTINGS:
        raise ConnectionError(
            f"what listens at {head} is not the head of a cluster: the port is that of `ray start --port`, 6379 if not "
            "told otherwise, not the dashboard's"
        )
