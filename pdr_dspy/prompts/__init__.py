"""Writing prompts and parsing replies: the signatures of the five roles, derived from the user's task (`roles`), the
form of a prompt and its reply (`form`), messages (`render`), parsing of a completion's fields (`parse`), and field
types as JSON data (`types`).
"""

from __future__ import annotations

from pdr_dspy.prompts.form import label
from pdr_dspy.prompts.parse import Reading, read
from pdr_dspy.prompts.render import render
from pdr_dspy.prompts.roles import FREE, LEFT, RESERVED, Role, check_task, derive, signature_of
from pdr_dspy.prompts.types import describe_type, rebuild_type

__all__ = [
    "FREE",
    "LEFT",
    "RESERVED",
    "Reading",
    "Role",
    "check_task",
    "derive",
    "describe_type",
    "label",
    "read",
    "rebuild_type",
    "render",
    "signature_of",
]
