"""Questions with answers: data sets by name (`registry`), from the Hugging Face hub (`hub`), from reasoning-gym
(`procedural`) and from local files (`files`), all as uniform examples (`examples`), with seeded splits.
"""

from __future__ import annotations

from pdr_dspy.datasets.examples import fingerprint, part, split
from pdr_dspy.datasets.files import whole
from pdr_dspy.datasets.record import Dataset, DatasetInfo
from pdr_dspy.datasets.registry import DATASETS, dataset, info, load, names

__all__ = [
    "DATASETS",
    "Dataset",
    "DatasetInfo",
    "dataset",
    "fingerprint",
    "info",
    "load",
    "names",
    "part",
    "split",
    "whole",
]
