"""What responses say of who made them: a model, and sometimes the build or the deployment that answered.

A server can be exchanged behind a gateway without a connection being lost. Then nothing but its responses tell.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any, NamedTuple

from pdr_dspy.text import clean

MOST_NAMES = 8
"""Names of one replica that are told apart; where there are more, they say nothing of who answers."""
OWN_NAMES = ("vllm", "llama.cpp")
"""Kinds of server that give every response to one request's model the same name: another one means another server.
Hosted services, routers and proxies may name the deployment that happened to answer."""


class News(NamedTuple):
    """A response that was named otherwise than those before it."""

    field: str
    """"model" or "system_fingerprint"."""
    before: str
    now: str


class Reported:
    """The names under which each replica has answered. Safe to use from several threads."""

    def __init__(self) -> None:
        self._names: dict[tuple[str, str, str], list[str]] = {}
        """By replica, the model that was asked for, and field: the accepted names, in the order in which they came."""
        self._lock = threading.Lock()

    def news(self, api_base: str, asked: str, data: Mapping[str, Any]) -> News | None:
        """What a response says that none before it said; None for the first one, and for what is known.

        Args:
            api_base: the replica that answered.
            asked: the model that was asked for.
            data: the response.
        """
        with self._lock:
            for field in ("model", "system_fingerprint"):
                name = data.get(field)
                if not isinstance(name, str) or not name:
                    continue
                names = self._names.setdefault((api_base, asked, field), [name])
                if name not in names and len(names) < MOST_NAMES:
                    return News(field, clean(names[0]), clean(name))
        return None

    def accept(self, api_base: str, asked: str, data: Mapping[str, Any]) -> None:
        """Take the names of a response for those of the same server."""
        with self._lock:
            for field in ("model", "system_fingerprint"):
                name = data.get(field)
                names = self._names.get((api_base, asked, field))
                if isinstance(name, str) and names is not None and name not in names:
                    names.append(name)

    def forget(self) -> None:
        """Whatever answers next is the first."""
        with self._lock:
            self._names.clear()
