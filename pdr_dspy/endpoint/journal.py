"""Log and metrics of requests: one log line each; clients' texts are logged only if enabled."""

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


class ActiveRequest:
    """A request with the facts known so far."""

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
    """The log and metrics of one application."""

    def __init__(self, metrics: Metrics, *, texts: bool) -> None:
        """`texts`: log inputs, answers and errors in full."""
        self.metrics = metrics
        self.texts = texts

    def ran(self, active: ActiveRequest, answer: Answer) -> None:
        """A run has ended."""
        self.metrics.ran(active.model, answer)
        ledger, stop = answer.ledger, str(answer.stop).replace(" ", "_")
        facts = (
            f"stop={stop} rounds={answer.rounds} calls={len(ledger)} B_seq={answer.sequential} B_total={ledger.total}"
        )
        active.note = f"{active.note} {facts}".strip()

    def gone(self, active: ActiveRequest) -> None:
        """The client has closed the connection."""
        self.metrics.gone.labels(active.model).inc()
        active.status = 499

    def refused(self, active: ActiveRequest, refused: Refused) -> Response:
        """The response to a request that is refused or has failed."""
        self.metrics.refusals.labels(refused.code).inc()
        active.note = refused.code
        if self.texts:
            cause = f" ({refused.__cause__})" if refused.__cause__ is not None else ""
            active.note += f": {refused}{cause}"
        return JSONResponse(refused.body, refused.status, refused.headers)

    def done(self, active: ActiveRequest) -> None:
        """A request has ended: write its log line, and count it."""
        self.metrics.requests.labels(active.route, active.model, str(active.status)).inc()
        level = logging.DEBUG if active.request.method == "GET" else logging.INFO
        seconds = time.monotonic() - active.started
        log.log(
            level,
            "%s %s %s model=%s client=%s status=%d seconds=%.3f%s",
            active.id,
            active.request.method,
            active.route,
            active.model or "-",
            active.client,
            active.status,
            seconds,
            f" {active.note}" if active.note else "",
        )

    def fault(self, active: ActiveRequest, error: BaseException) -> Response:
        """The response after an internal error. Its message may contain a client's text, and is not sent."""
        frames = traceback.extract_tb(error.__traceback__)[-4:]
        where = ", ".join(f"{Path(frame.filename).name}:{frame.lineno}" for frame in frames)
        log.error("%s failed: %s at %s", active.id, type(error).__name__, where, exc_info=error if self.texts else None)
        return self.refused(active, Refused(500, "a fault of this server; see its log", code="internal"))
