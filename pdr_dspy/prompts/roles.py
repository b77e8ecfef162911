"""The five roles, derived from the user's task signature: their instructions and their fields.

Instructions are the prompts: one constant each, here, and DSPy optimizers may replace them.
"""

from __future__ import annotations

import textwrap
from enum import StrEnum
from typing import Any, cast

import dspy

from pdr_dspy.errors import ConfigError
from pdr_dspy.prompts.shapes import allows_none, is_history


class Role(StrEnum):
    """The predictor that a signature belongs to; also its attribute name on an operator."""

    DRAFT = "draft"
    REFINE = "refine"
    DISTILL = "distill"
    SELECT = "select"
    CRITIQUE = "critique"


FREE = ("solution", "summary", "flaws")
"""Output fields that are the completion itself."""
LEFT = ("workspace", "candidates", "flaws_found")
"""Inputs produced by earlier calls; a demonstration may lack them."""
RESERVED = (*FREE, *LEFT, "selected", "ledger", "rounds", "stop")
"""Field names that this library uses; a task signature may not use them."""
CALL_KEYWORDS = ("budget", "seed")
"""Keywords of a program's call; a task may not have inputs with these names."""

DRAFT = "Work through the problem step by step, one short line for each step, and check the result before you state it."
REFINE = """\
The workspace below was distilled from earlier attempts at the same problem. It may be right, wrong, or contradict
itself. Check what it says against the problem, one short line for each step: what holds, and what does not. Reuse or
merge what holds, override what does not, and if nothing holds set all of it aside and solve the problem afresh. Write a
complete solution of your own."""
REVISE = """\
The workspace below is your previous solution of the same problem. It may be wrong.
Check it step by step against the problem. Keep what holds, correct what does not, and start afresh if its approach
fails. Write the complete corrected solution, one short line for each step."""
DISTILL = """\
The candidates below are independent attempts at the same problem. Some or all may be wrong.
Write notes for somebody who will solve the problem with your notes and without the candidates: where they agree, where
they contradict each other and which side holds when you check it, intermediate results that hold, what is still open,
and what to do next. Judge by checking, not by counting votes. Add no solution of your own."""
SELECT = """\
The candidates below are independent attempts at the same problem. Some or all may be wrong.
Check the steps of each against the problem and pick the {k} most likely to be right. Judge by checking, not by
counting votes."""
CRITIQUE = """\
The workspace below is a solution of the problem. It may be wrong.
Check it step by step against the problem and list its flaws: the first wrong step, why it is wrong, and what it
spoils. If you find none, say so. Do not write a new solution."""


def check_task(signature: str | type[dspy.Signature]) -> type[dspy.Signature]:
    """The task as a signature class.

    Raises ConfigError for a signature that cannot be parsed, has no outputs or no inputs, or uses a reserved name.
    """
    try:
        task = cast("type[dspy.Signature]", dspy.ensure_signature(signature))
    except (ValueError, TypeError, SyntaxError) as error:
        raise ConfigError(f"`signature={signature!r}` is not a DSPy signature: {error}") from error
    if not (isinstance(task, type) and issubclass(task, dspy.Signature)):
        raise ConfigError(f'`signature={signature!r}` is not a DSPy signature; write it like "question -> answer"')
    if not task.output_fields:
        raise ConfigError(f'`signature={signature!r}` has no output fields; write it like "question -> answer"')
    if not task.input_fields:
        raise ConfigError(f'`signature={signature!r}` has no input fields; write it like "question -> answer"')
    clash = [name for name in (*task.input_fields, *task.output_fields) if name in RESERVED]
    clash += [name for name in task.input_fields if name in CALL_KEYWORDS]
    if clash:
        raise ConfigError(
            f"`signature={signature!r}` uses the field name {clash[0]!r}, which this library uses itself "
            f"({', '.join((*RESERVED, *CALL_KEYWORDS))}); rename the field"
        )
    return task


def needed_inputs(signature: type[dspy.Signature]) -> tuple[str, ...]:
    """The required inputs: those without a default that may not be None. A first turn has no history."""
    return tuple(
        name
        for name, field in signature.input_fields.items()
        if field.is_required() and not allows_none(field.annotation) and not is_history(field.annotation)
    )


def derive(
    task: type[dspy.Signature], role: Role, *, k: int = 2, last: bool = False, critique: bool = False
) -> type[dspy.Signature]:
    """The signature of one role for a task.

    Args:
        task: the user's signature, already checked.
        k: how many candidates Select picks; part of its instructions.
        last: the workspace is one previous solution (Sequential Refinement), not a distillate of several drafts.
        critique: Refine also reads a list of flaws.
    """
    inputs: dict[str, Any] = dict(task.input_fields)
    outputs: dict[str, Any] = {"solution": (str, dspy.OutputField(desc="the worked solution")), **task.output_fields}

    def reads(name: str, desc: str) -> None:
        inputs[name] = (str, dspy.InputField(desc=desc))

    match role:
        case Role.DRAFT:
            asks = DRAFT
        case Role.REFINE:
            asks = REVISE if last else REFINE
            reads("workspace", "what earlier rounds left")
            if critique:
                reads("flaws_found", "flaws found in the workspace")
        case Role.CRITIQUE:
            asks = CRITIQUE
            reads("workspace", "a solution of the problem")
            outputs = {"flaws": (str, dspy.OutputField(desc="the list of flaws"))}
        case Role.DISTILL:
            asks = DISTILL
            reads("candidates", "numbered attempts")
            outputs = {"summary": (str, dspy.OutputField(desc="the notes"))}
        case Role.SELECT:
            asks = SELECT.format(k=k)
            reads("candidates", "numbered attempts")
            outputs = {"selected": (list[int], dspy.OutputField(desc=f"the numbers of the {k} best candidates"))}
    # All fields at once: each step of `append` and `with_instructions` would make another class, a millisecond each.
    about = textwrap.dedent(task.instructions).strip()
    return dspy.make_signature({**inputs, **outputs}, f"{about}\n\n{asks}")


def signature_of(predictor: dspy.Predict) -> type[dspy.Signature]:
    """The predictor's signature, which DSPy types as optional."""
    return cast("type[dspy.Signature]", predictor.signature)
