"""Outcomes of one try, and what they imply for retries and for tokens that were never reported."""

from __future__ import annotations

import re
import time
from email.utils import parsedate_to_datetime
from enum import Enum

import aiohttp
from dspy import lm15
from yarl import URL

from pdr_dspy.serving.client.encode import error_for_status


class Outcome(Enum):
    """The outcome of one try."""

    SERVED = "an answer, or an error that is the request's own fault"
    REFUSED = "the server is too busy, and did nothing"
    LOADING = "the server is not ready yet: it loads its model"
    LATE = "no answer in time"
    BROKEN = "the server failed, or the connection was lost after the request was sent"
    UNREACHABLE = "no connection, so nothing was sent"
    FOREIGN = "an answer that is no completion; asking again would not change that"
    CANCELLED = "given up by the caller"


AGAIN = frozenset({Outcome.REFUSED, Outcome.LOADING, Outcome.LATE, Outcome.BROKEN, Outcome.UNREACHABLE})
"""Outcomes that another try may avoid."""
UNSETTLED = frozenset({Outcome.LATE, Outcome.BROKEN, Outcome.FOREIGN})
"""Outcomes after which the server may have generated, and charged, tokens that were never reported."""
_BUSY = (429, 503, 529)
_SLOW = (408, 504)
_FOR_GOOD = (501, 505)


_LOADS = re.compile(
    r"\bload(?:s|ing)\b|being loaded|not (?:yet |been )?(?:ready|loaded)|start(?:ing|s) ?up|\bstarting\b|warming|"
    r"initiali[sz]|no (?:available |live |healthy )?(?:server|backend|upstream|endpoint|replica)s?\b",
    re.I,
)
"""Words that servers and gateways send with a 503 while a model is loading."""
_LOADS_ITS_MODEL = re.compile(r"loading (?:the )?model|model (?:\S+ )?is (?:currently |still )?loading", re.I)
"""Words that some send with another 5xx."""


class Unreachable(lm15.TransportError):
    """No connection could be made."""


class Late(lm15.TimeoutError):
    """A try was given up because no reply came."""


class Foreign(lm15.ServerError):
    """The reply is not a completion."""


class Exchanged(lm15.ServerError):
    """The server now serves another model; its response is not used."""


def unreached(where: str, error: Exception) -> lm15.LM15Error:
    """The error for a failed connection: Unreachable if nothing was sent."""
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return Unreachable(
            f"the certificate of {where} is not trusted ({error.certificate_error}): pass `connect(ca_file=...)` with "
            "the certificate that signed it"
        )
    if isinstance(error, aiohttp.ClientSSLError):
        return Unreachable(f"{where} does not speak https ({error.os_error or error}): is it an http:// address?")
    if isinstance(error, aiohttp.ClientProxyConnectionError):
        return Unreachable(f"the proxy for {where} cannot be reached ({error.os_error.strerror or error.os_error})")
    if isinstance(error, aiohttp.ClientHttpProxyError):
        return Unreachable(f"the proxy for {where} refuses (HTTP {error.status}: {error.message})")
    if isinstance(error, (aiohttp.ConnectionTimeoutError, aiohttp.ClientConnectorError)):
        why = error.os_error.strerror if isinstance(error, aiohttp.ClientConnectorError) else None
        return Unreachable(f"no server answers at {where}: {why or error}")
    return lm15.TransportError(f"the connection to {where} was lost: {error or type(error).__name__}")


def refused(where: str, reply: aiohttp.ClientResponse, raw: bytes) -> lm15.LM15Error:
    """The error for a reply with a status other than success, and its body."""
    if reply.status < 400:
        return Foreign(f"{where} {_elsewhere(reply)}", status=reply.status)
    return error_for_status(
        reply.status,
        raw.decode("utf-8", "replace"),
        retry_after=retry_after(reply.headers.get("Retry-After")),
        where=where,
    )


def _elsewhere(reply: aiohttp.ClientResponse) -> str:
    """Explains a redirection: prompts and key are never sent on to another address unasked."""
    given = reply.headers.get("Location", "")
    target = str(reply.url.join(URL(given))) if given else "nowhere"
    for method in ("/chat/completions", "/models"):
        if target.rstrip("/").endswith(method):
            base = target.rstrip("/").removesuffix(method)
            return f"redirects to {target}: use `api_base={base!r}` if that is your server"
    return f"redirects to {target}, which is not an API: use the address of the API itself as `api_base`"


def judge(error: lm15.LM15Error) -> Outcome:
    """The outcome that an error of one try stands for."""
    if isinstance(error, Unreachable):
        return Outcome.UNREACHABLE
    if isinstance(error, Foreign):
        return Outcome.FOREIGN
    if isinstance(error, (Exchanged, lm15.BillingError)):
        return Outcome.SERVED
    if (error.status == 503 and _LOADS.search(str(error))) or (
        error.status in (500, 502) and _LOADS_ITS_MODEL.search(str(error))
    ):
        return Outcome.LOADING
    if error.status in _BUSY or isinstance(error, lm15.RateLimitError):
        return Outcome.REFUSED
    if error.status in _SLOW or isinstance(error, lm15.TimeoutError):
        return Outcome.LATE
    if isinstance(error, lm15.TransportError):
        return Outcome.BROKEN
    if isinstance(error, lm15.ServerError) and error.status not in _FOR_GOOD:
        return Outcome.BROKEN
    return Outcome.SERVED


def retry_after(value: str | None) -> float | None:
    """Seconds in a Retry-After header, given as a number or an HTTP date; None for anything else."""
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(value).timestamp() - time.time()
        except (ValueError, OverflowError, OSError):
            return None
    return max(0.0, seconds) if seconds < float("inf") else None  # "nan" is refused too
