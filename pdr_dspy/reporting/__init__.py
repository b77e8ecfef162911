"""Reports for people: tables of evaluations and of searches, figures, and the HTML page."""

from __future__ import annotations

from pdr_dspy.reporting.page import write_report

__all__ = [
    "write_report",
]
