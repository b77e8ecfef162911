"""What is told of requests: a line each in the log, and figures; no text of a client's unless that is wanted."""

from __future__ import annotations

import logging
import secrets
import time
import traceback
from pathlib import Path

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from pdr_dspy.endpoint.errors import Refused
from pdr_dspy.endpoint.metrics import Metrics
from pdr_dspy.endpoint.work import Answer

log = logging.getLogger("pdr_dspy.endpoint")


class Asked:
    """A request, and what is known of it so far."""

    def __init__(self, request: Request, route: str) -> None:
        self.request = request
        self.route = route
        self.id = f"req-{secrets.token_hex(8)}"
        self.started = time.monotonic()
        self.client = "-"
        self.model = ""
        self.status = 0
        self.note = ""


class Journal:
    """Of one application."""

    def __init__(self, metrics: Metrics, *, texts: bool) -> None:
        """`texts`: write inputs, answers and errors in full."""
        self.metrics = metrics
        self.texts = texts

    def ran(self, asked: Asked, answer: Answer) -> None:
        """A run has ended."""
        self.metrics.ran(asked.model, answer)
        ledger, stop = answer.ledger, str(answer.stop).replace(" ", "_")
        facts = (
            f"stop={stop} rounds={answer.rounds} calls={len(ledger)} B_seq={answer.sequential} B_total={ledger.total}"
        )
        asked.note = f"{asked.note} {facts}".strip()

    def gone(self, asked: Asked) -> None:
        """The client has closed the connection."""
        self.metrics.gone.labels(asked.model).inc()
        asked.status = 499

    def refused(self, asked: Asked, refused: Refused) -> Response:
        """The answer of a request that is refused or has failed."""
        self.metrics.refusals.labels(refused.code).inc()
        asked.note = refused.code
        if self.texts:
            cause = f" ({refused.__cause__})" if refused.__cause__ is not None else ""
            asked.note += f": {refused}{cause}"
        return JSONResponse(refused.body, refused.status, refused.headers)

    def done(self, asked: Asked) -> None:
        """A request is over: its line in the log, and its count."""
        self.metrics.requests.labels(asked.route, asked.model, str(asked.status)).inc()
        level = logging.DEBUG if asked.request.method == "GET" else logging.INFO
        seconds = time.monotonic() - asked.started
        log.log(
            level,
            "%s %s %s model=%s client=%s status=%d seconds=%.3f%s",
            asked.id,
            asked.request.method,
            asked.route,
            asked.model or "-",
            asked.client,
            asked.status,
            seconds,
            f" {asked.note}" if asked.note else "",
        )

    def fault(self, asked: Asked, error: BaseException) -> Response:
        """The answer after a fault of ours. Its message may hold what a client wrote, and is not told."""
        frames = traceback.extract_tb(error.__traceback__)[-4:]
        where = ", ".join(f"{Path(frame.filename).name}:{frame.lineno}" for frame in frames)
        log.error("%s failed: %s at %s", asked.id, type(error).__name__, where, exc_info=error if self.texts else None)
        return self.refused(asked, Refused(500, "a fault of this server; see its log", code="internal"))
