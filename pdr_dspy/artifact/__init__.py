"""A compiled program as one JSON file: its signature, prompts, demonstrations and schedule, and where they came from.

Nothing in the file is ever executed. A module is imported only if the user declares the file trusted, and only to find
a distiller that is not registered here. Types are described, not pickled: builtins, `Literal`, and lists, dicts, tuples
and unions of them are rebuilt from the file alone; a signature with other types (pydantic models, enums) is loaded into
a program that has them: `load(path, program=student)`. Language models and their keys are not stored.

`saving` makes the content, `file` writes and checks it, `loading` makes a program of it.
"""

from pdr_dspy.artifact.file import FORMAT, MAX_BYTES, VERSION, read
from pdr_dspy.artifact.loading import load
from pdr_dspy.artifact.saving import Figures, Point, check_can_be_saved, figure, save

__all__ = [
    "FORMAT",
    "MAX_BYTES",
    "VERSION",
    "Figures",
    "Point",
    "check_can_be_saved",
    "figure",
    "load",
    "read",
    "save",
]
