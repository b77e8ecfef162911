"""Refusals and failures, in the error format of OpenAI's API."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class Refused(Exception):
    """A request that is answered with an error."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
        more: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.param = param
        self.headers = dict(headers or {})
        self.more = dict(more or {})
        """Fields besides "error", such as the usage of a failed run."""

    @property
    def body(self) -> dict[str, Any]:
        """The JSON of the response."""
        kinds = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}
        kind = kinds.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        error = {"message": str(self), "type": kind, "param": self.param, "code": self.code}
        return {"error": error, **self.more}


def wrong(message: str, param: str | None, code: str = "invalid_value") -> Refused:
    """An invalid request (400)."""
    return Refused(400, message, code=code, param=param)


class ClientGone(Exception):
    """The client has closed the connection."""
