"""A space as a table for people: each axis, its candidates, and when it applies.

It is what `print(space)` shows.
"""

from __future__ import annotations

from pdr_dspy.prompts.roles import Role
from pdr_dspy.search.space.axes import WIDTHS
from pdr_dspy.search.space.choosing import Choices
from pdr_dspy.search.space.prompt_axes import PROMPTS, shown
from pdr_dspy.search.space.registry import AXES


def table_of(space: Choices) -> str:
    """The table, one axis a line."""
    rows = [("axis", "candidates", "applies")]
    for name in space.names:
        axis = AXES.find(name)
        none = axis.none or "as it is"
        values = ", ".join(none if value is None else str(value) for value in space.on(name))
        if axis is WIDTHS:
            values += ", never rising" if space.monotone else ", in any order"
        rows.append((name, values, axis.when))
    for kind in PROMPTS:
        for role, values in getattr(space, kind).items():
            own = [] if f"{role}_{kind}" in space.fixed or not values else ["the student's own"]
            texts = [shown(value) for value in values]
            if values:
                rows.append((f"{role} {kind}", ", ".join(own + texts), _CALLED[Role(role)]))
    widths = [min(max(len(row[column]) for row in rows), 60) for column in (0, 1)]
    return "\n".join(
        f"{axis:<{widths[0]}}  {values:<{widths[1]}}  {applies}".rstrip() for axis, values, applies in rows
    )


_CALLED = {
    Role.DRAFT: "always",
    Role.REFINE: "from 2 rounds on",
    Role.DISTILL: "distillers that write notes, such as summary",
    Role.SELECT: "distillers that select, such as topk",
    Role.CRITIQUE: "critique",
}
