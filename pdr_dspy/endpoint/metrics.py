"""Figures for Prometheus, in a separate registry for each application.

If the environment variable PROMETHEUS_MULTIPROC_DIR names a folder, prometheus-client keeps the figures in its files,
and each of the processes that share it reports those of all.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest, multiprocess

from pdr_dspy.endpoint.admission import Admission
from pdr_dspy.endpoint.work import Answer

FOLDER = "PROMETHEUS_MULTIPROC_DIR"

TOKENS = tuple(float(2**power) for power in range(6, 21, 2))
SECONDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)


class Metrics:
    """The figures of `/metrics`."""

    content_type = "text/plain; version=0.0.4; charset=utf-8"

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        kept: Any = {"registry": self.registry}
        self.requests = Counter("pdr_requests", "Requests by status", ["route", "model", "status"], **kept)
        self.refusals = Counter("pdr_refusals", "Requests answered with an error, by its code", ["code"], **kept)
        self.stops = Counter("pdr_runs", "Runs of programs by how they ended", ["model", "stop"], **kept)
        self.rounds = Counter("pdr_rounds", "Completed rounds", ["model"], **kept)
        self.calls = Counter("pdr_calls", "Model calls by outcome", ["model", "outcome"], **kept)
        self.tokens = Counter("pdr_tokens", "Tokens of all calls", ["model", "kind"], **kept)
        self.sequential = Histogram("pdr_b_seq_tokens", "B_seq of a run", ["model"], buckets=TOKENS, **kept)
        self.total = Histogram("pdr_b_total_tokens", "B_total of a run", ["model"], buckets=TOKENS, **kept)
        self.seconds = Histogram("pdr_run_seconds", "Seconds of a run", ["model"], buckets=SECONDS, **kept)
        self.gone = Counter("pdr_clients_gone", "Requests whose client closed the connection", ["model"], **kept)
        most: Any = {"multiprocess_mode": "livemax", **kept}  # every process reads the files itself
        self.reloads = Gauge("pdr_reloads", "Changed files that were accepted", **most)
        self.broken = Gauge("pdr_files_broken", "Changed files that cannot be served", **most)
        together: Any = {"multiprocess_mode": "livesum", **kept}
        self._running = Gauge("pdr_running", "Runs under way", **together)
        self._queued = Gauge("pdr_queued", "Runs that wait for a place", **together)

    def follow(self, admission: Admission) -> None:
        """Read the figures of the queue from here."""

        def follow(changed: Admission) -> None:
            self._running.set(changed.running)
            self._queued.set(changed.queued)

        admission.changed = follow
        follow(admission)

    def ran(self, model: str, answer: Answer) -> None:
        """Count a run that has ended."""
        ledger = answer.ledger
        self.stops.labels(model, str(answer.stop)).inc()
        self.rounds.labels(model).inc(answer.rounds)
        self.sequential.labels(model).observe(answer.sequential)
        self.total.labels(model).observe(ledger.total)
        self.seconds.labels(model).observe(answer.seconds)
        self.tokens.labels(model, "prompt").inc(answer.cost.prompt)
        self.tokens.labels(model, "completion").inc(answer.cost.completion)
        for outcome, count in {"failed": ledger.failed, "cancelled": ledger.cancelled}.items():
            self.calls.labels(model, outcome).inc(count)
        self.calls.labels(model, "done").inc(len(ledger) - ledger.failed - ledger.cancelled)

    def text(self) -> bytes:
        """The figures in Prometheus' text format, of all processes that share them."""
        if FOLDER not in os.environ:
            return generate_latest(self.registry)
        registry = CollectorRegistry()
        multiprocess.MultiProcessCollector(registry)
        return generate_latest(registry)


@contextmanager
def shared_by_workers() -> Iterator[Callable[[int], None]]:
    """Processes that are started inside share their figures; call the result with the id of each one that ended."""
    with tempfile.TemporaryDirectory(prefix="pdr-serve-") as folder:
        before = os.environ.get(FOLDER)
        os.environ[FOLDER] = folder
        try:
            yield lambda process: multiprocess.mark_process_dead(process, folder)
        finally:
            if before is None:
                del os.environ[FOLDER]
            else:
                os.environ[FOLDER] = before
