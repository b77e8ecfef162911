"""Reads an answer as a person would: finds it in a completion, and determines the number that it names.

Everything here takes linear time, evaluates no expression, and returns None rather than guess: a list of guesses, an
unfinished thought and a retracted answer name nothing.
"""

from __future__ import annotations

import re
from fractions import Fraction

from pdr_dspy.text.around_boxes import stands_alone, unboxed
from pdr_dspy.text.numbers import MAX_DIGITS as MAX_DIGITS
from pdr_dspy.text.numbers import PLAIN_INTEGER, read_number, signs
from pdr_dspy.text.precedence import plain_value
from pdr_dspy.text.reasoning import split_thought
from pdr_dspy.text.statements import MAX_ANSWER, Sought, statements
from pdr_dspy.text.template import NEXT_TURN, before_token, without_template
from pdr_dspy.text.wrapping import STRUCK, boxes
from pdr_dspy.text.wrapping import tidy as tidy

MAX_TEXT = 200_000
"""How many characters at the end of a completion are searched for an answer."""


# ------------------------------------------------------------------------------------------------- finding the answer


def final_answer(text: str, *, truncated: bool = False) -> str | None:
    r"""Return the final answer that a reader would find in a free-form completion, or None.

    The last explicit statement of the answer holds, whatever its form: a label (`Answer: 42`, `#### 42`, `Antwort: 42`,
    `| Answer | 42 |`, `<answer>42</answer>`), a complete `\boxed{...}`, or a sentence (`The answer is 42.`); see
    `pdr_dspy.text.precedence` for weaker statements.
    Neighbouring boxes joined by `,`, `or` or `and` are returned together, so that several
    guesses stay several. Thoughts, finished or not, never count. With `truncated=True` the completion was truncated by
    its cap: only certainly complete answers count, that is a closed box, or a label whose line has ended.

    The answer is returned without its wrapping: bold, `$`, `\( \)`, colours, quotes, a final full stop.
    """
    text = without_template(split_thought(text)[1][-MAX_TEXT:])
    found = statements(text, _ANSWER, truncated=truncated)["answer"]
    end = text.find(NEXT_TURN)
    if end >= 0 and any(one.start < end for one in found):  # what follows is beyond the completion
        found = [one for one in found if one.start < end]
    for statement in found:
        answer = tidy(before_token(statement.text)) if len(statement.text) <= MAX_ANSWER else ""
        if (statement.how, statement.rank) == ("sentence", 0) and len(found) > 1 and not _is_value(answer):
            continue  # `Actually, it is easy.` corrects no number
        if answer and (answer != "null" or statement.how == "box"):
            return answer
    return None


_ANSWER = Sought(("answer",), answer="answer")
_A_VALUE = re.compile(r"[0-9\\$]|^\(?[A-Z]\)?$")
_boxes = boxes


def _is_value(answer: str) -> bool:
    return _A_VALUE.search(answer) is not None or plain_value(answer) is not None


def unwrapped(text: str) -> str:
    """A text without wrapping around the whole of it: spaces, bold, quotes, code or math marks, a box, a final full
    stop.

    Underscores and single stars stay: `__init__`, `_id` and `C*` are names.
    """
    text = text.strip()
    for _ in range(8):
        before = text
        for left, right in _TEXT_WRAPS:
            inner = text[len(left) : -len(right)]
            if text.startswith(left) and text.endswith(right) and inner.strip() and right not in inner:
                text = inner.strip()
        if text.endswith((".", "。")) and not text.endswith("..") and len(text) > 1:
            text = text[:-1].rstrip()
        if text == before:
            break
    return text


_TEXT_WRAPS = (
    *(("**", "**"), ("$$", "$$"), ("\\(", "\\)"), ("$", "$"), ("```", "```"), ("`", "`"), ('"', '"')),
    ("'", "'"),
    *(("“", "”"), ("‘", "’"), ("«", "»"), ("\\boxed{", "}"), ("\\text{", "}")),
)


# ------------------------------------------------------------------------------------------------------- the answer as
# a number


def to_number(text: str) -> Fraction | None:
    r"""Return the one number that an answer names, exactly, or None if it names none or several.

    Reads `1,234`, `1{,}000`, `10,\!080`, `1 000`, `042`, `204.`, `x = 204`, `$3.50`, `75\%` (75: a percent sign is a
    unit), `42 apples`, `204\text{ cm}^2`, `90^\circ`, `3/4`, `\frac{3}{4}`, `2\frac12`, `½`, `6.02 \times 10^{23}`,
    `5 million`, `2 crore`, `−7`, `**42**`, `\boxed{42}`, `2+3 = 5` (both sides equal 5), `m+n = 204`. Returns None for
    expressions to be evaluated and for anything but one number: `5^2`, `2\pi`, `3x`, `17 or 204`, `x > 5`,
    `17 \ne 25`, `2x = 4`, `12:30`, `2 gross`, `half of 10`, `5‰`, `101_2`.
    """
    if PLAIN_INTEGER.fullmatch(text):  # the most frequent case
        return Fraction(int(text))
    if len(text) > MAX_ANSWER:
        return None
    text = STRUCK.sub(" ", text)
    boxes = _boxes(text)
    if boxes and not stands_alone(text, *boxes[-1]):
        text = unboxed(text, *boxes[-1]) if len(boxes) == 1 else ""
    elif boxes:
        text = text[boxes[-1][0] : boxes[-1][1]] if len(boxes) == 1 else final_answer(text) or ""
    return read_number(tidy(signs(text)))
