"""Mathematical answers: parsed into structures of exact values, and compared as such.

    tokens        LaTeX, or typed text, as tokens
    expressions   tokens as one exact sympy expression
    structures    alternatives, relations, tuples, intervals, sets, families, cases around expressions
    equality      exact equality of two expressions
    regions       subsets of the real line
    comparison    equality of two structures

One grammar parses every answer, and text outside of the grammar has no value: no part of an answer is ignored, and
nothing is guessed. All of it runs in the killable processes of `grading_pool`, which import nothing else of pdr_dspy.
"""

from __future__ import annotations
