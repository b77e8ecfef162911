"""Text that can be stored, sent again and printed."""

from __future__ import annotations

import re

MARK = "\N{REPLACEMENT CHARACTER}"
_UNSAFE = re.compile("[\x00\ud800-\udfff]")


def clean(text: str, *, surrogate: str = MARK) -> str:
    """Text without characters that UTF-8 or a database rejects: NUL becomes U+FFFD, a lone surrogate `surrogate`."""
    if "\x00" not in text:
        try:
            text.encode()
        except UnicodeEncodeError:
            pass
        else:
            return text
    return _UNSAFE.sub(lambda found: MARK if found[0] == "\x00" else surrogate, text)
