"""Conformance: the contracts of distillers, verifiers, checks, data sets, axes and servers, as functions for users'
tests.

Each function runs a part through the cases that the built-in parts pass, and raises AssertionError with the violated
contract and the failing case. All but `check_server` need no network and no model.
"""

from __future__ import annotations

from pdr_dspy.testing.conformance.axes import check_axis
from pdr_dspy.testing.conformance.checks import check_check
from pdr_dspy.testing.conformance.datasets import check_dataset
from pdr_dspy.testing.conformance.distillers import check_distiller
from pdr_dspy.testing.conformance.servers import check_server
from pdr_dspy.testing.conformance.verifiers import check_verifier

__all__ = ["check_axis", "check_check", "check_dataset", "check_distiller", "check_server", "check_verifier"]
