"""Questions with answers: data sets by name, files of one's own, and seeded split, wholes."""

from __future__ import annotations

from pdr_dspy.datasets.registry import DatasetInfo, fingerprint, info, load, names, split, whole

__all__ = [
    "DatasetInfo",
    "fingerprint",
    "info",
    "load",
    "names",
    "split",
    "whole",
]
