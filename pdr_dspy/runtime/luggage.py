"""What travels beside an object that is sent to another process of the same run, and is not in its bytes: secrets.

An object with a secret leaves it in the luggage when it is pickled inside `packed`, and finds it there again where it
is unpickled inside `unpacked`. Outside of both it goes without: what is pickled for a file never holds a secret.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4


@dataclass(frozen=True, eq=False)
class Luggage:
    """What was left by the objects that were pickled together."""

    secrets: dict[str, Any] = field(default_factory=dict, repr=False)
    """By the number of each, which is in the bytes."""
    near: frozenset[str] = frozenset()
    """Names and addresses of the machine on which it is unpacked: servers there are preferred."""
    known: dict[str, Any] = field(default_factory=dict, repr=False)
    """What was unpacked before, by a description: equal connections are opened once in a process."""

    def leave(self, secret: Any) -> str:
        """Keep a secret; returns its number."""
        number = uuid4().hex
        self.secrets[number] = secret
        return number


_PACKED: ContextVar[Luggage | None] = ContextVar("pdr_dspy_packed", default=None)
_UNPACKED: ContextVar[Luggage | None] = ContextVar("pdr_dspy_unpacked", default=None)


@contextmanager
def packed() -> Iterator[Luggage]:
    """Objects that are pickled inside leave their secrets in the luggage."""
    luggage = Luggage()
    token = _PACKED.set(luggage)
    try:
        yield luggage
    finally:
        _PACKED.reset(token)


@contextmanager
def unpacked(secrets: Mapping[str, Any], near: frozenset[str], known: dict[str, Any]) -> Iterator[None]:
    """Objects that are unpickled inside find what they left."""
    token = _UNPACKED.set(Luggage(dict(secrets), near, known))
    try:
        yield
    finally:
        _UNPACKED.reset(token)


def packing() -> Luggage | None:
    """Where an object that is being pickled leaves its secrets; None where it goes without them."""
    return _PACKED.get()


def unpacking() -> Luggage | None:
    """Where an object that is being unpickled finds its own; None where there is nothing."""
    return _UNPACKED.get()
