"""Bearer keys: read from a file or the environment, compared in constant time."""

from __future__ import annotations

import hashlib
import hmac
import os
import re
from collections.abc import Iterable
from pathlib import Path

from pdr_dspy.errors import ConfigError

VARIABLE = "PDR_SERVE_KEYS"
"""The environment variable: keys, separated by commas or white space."""
LEAST = 16
"""Minimum characters of a key."""


class Keys:
    """The accepted keys; only their digests are stored, and its repr shows none."""

    def __init__(self, keys: Iterable[str]) -> None:
        """Raises ConfigError for a key that is too short or not valid in a header."""
        self._digests: list[bytes] = []
        for number, key in enumerate(keys, start=1):
            if len(key) < LEAST or not re.fullmatch(r"[\x21-\x7e]+", key):
                raise ConfigError(
                    f"key {number} has {len(key)} characters or unusual ones; a key has at least {LEAST} visible ASCII "
                    "characters, such as those of `openssl rand -hex 24`"
                )
            self._digests.append(_digest(key))

    @classmethod
    def read(cls, path: str | Path | None = None) -> Keys:
        """The keys in a file, one per line (`#` begins a comment), or in the environment variable `PDR_SERVE_KEYS`.

        Raises ConfigError if the file cannot be read or has no key.
        """
        if path is None:
            return cls(filter(None, re.split(r"[,\s]+", os.environ.get(VARIABLE, ""))))
        try:
            lines = Path(path).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"`--keys {path}` cannot be read: {error}") from None
        keys = cls(text for line in lines if (text := line.partition("#")[0].strip()))
        if not keys:
            raise ConfigError(f"`--keys {path}` has no key; write one per line")
        return keys

    def __len__(self) -> int:
        return len(self._digests)

    def __repr__(self) -> str:
        return f"<Keys: {len(self)}>"

    def client(self, authorization: str | None) -> str | None:
        """A name for the client that sent this Authorization header; None if its key is not accepted.

        Every key is compared, whichever matches, so that the time reveals nothing.
        """
        scheme, _, key = (authorization or "").partition(" ")
        given = _digest(key.strip()) if scheme.lower() == "bearer" else b"\0" * 32
        found = None
        for digest in self._digests:
            if hmac.compare_digest(digest, given):
                found = digest
        return None if found is None else f"key-{hashlib.sha256(found).hexdigest()[:8]}"


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
