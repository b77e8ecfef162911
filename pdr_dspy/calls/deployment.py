"""Identifies the deployment that an address, a key and headers select, without revealing a secret."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any
from urllib.parse import urlsplit

_DEFAULT_PORTS = {"http": 80, "https": 443}
_ROUNDS = 50_000
"""Parameters of the key derivation: each guess at a short secret costs as much as one seal, some 20 ms."""


def address(url: str) -> str:
    """A server's address with everything that may select another server: scheme, host, port, path and query.

    The host is lower-cased and the port is always present; user, password and a trailing slash are left out. A text
    that is not a URL is returned unchanged.
    """
    parts = urlsplit(url.strip())
    try:
        host, port = parts.hostname, parts.port or _DEFAULT_PORTS.get(parts.scheme.lower())
    except ValueError:  # the port is not a number
        host = port = None
    if not parts.scheme or host is None:
        return url.strip()
    host = f"[{host}]" if ":" in host else host
    path = parts.path.rstrip("/") + (f"?{parts.query}" if parts.query else "")
    return f"{parts.scheme.lower()}://{host}{'' if port is None else f':{port}'}{path}"


def seal(where: str, secrets: Mapping[str, Any]) -> str:
    """A short digest of the keys, headers and organizations that select a deployment at an address.

    Equal secrets at one address have equal seals. A seal reveals neither a secret nor its use at another address: it is
    keyed by the address, slow to compute and short. The seal of no secrets is "".
    """
    given = {name.lower(): _plain(value) for name, value in secrets.items() if value is not None}
    return _sealed(where, json.dumps(given, sort_keys=True)) if given else ""


@lru_cache(maxsize=256)
def _sealed(where: str, written: str) -> str:
    salt = b"pdr-dspy deployment\0" + where.encode("utf-8", "replace")
    return hashlib.pbkdf2_hmac("sha256", written.encode("utf-8", "replace"), salt, _ROUNDS, 6).hex()


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name).lower(): _plain(item) for name, item in value.items()}
    if callable(value):  # such as a token provider: its qualified name, not its address in memory
        return f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', type(value).__qualname__)}"
    return value if isinstance(value, bool | int | float) else str(value)
