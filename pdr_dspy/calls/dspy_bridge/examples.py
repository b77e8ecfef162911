"""The inputs that a `dspy.Example` declares: DSPy has no public name for them.

`example.inputs()` raises an error where none are declared.
"""

from __future__ import annotations

import dspy


def input_names(example: dspy.Example) -> frozenset[str]:
    """The names declared as an example's inputs, whether or not it has such fields."""
    return frozenset(getattr(example, "_input_keys", None) or ())


def inputs_marked(example: dspy.Example) -> bool:
    """Whether the inputs of an example were declared."""
    return getattr(example, "_input_keys", None) is not None
