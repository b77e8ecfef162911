"""Conformance: the laws of distillers, verifiers, checks, data sets, axes and servers, as checks for users' tests.

Each runs its part through the cases that the library's own parts pass, and raises AssertionError with the law that was
broken and the case that broke it. All but `check_server` need no network and no model.
"""

from __future__ import annotations

from pdr_dspy.testing.conformance.axes import check_axis
from pdr_dspy.testing.conformance.checks import check_check
from pdr_dspy.testing.conformance.datasets import check_dataset
from pdr_dspy.testing.conformance.distillers import check_distiller
from pdr_dspy.testing.conformance.servers import check_server
from pdr_dspy.testing.conformance.verifiers import check_verifier

__all__ = ["check_axis", "check_check", "check_dataset", "check_distiller", "check_server", "check_verifier"]
