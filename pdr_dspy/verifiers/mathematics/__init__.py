"""Mathematical answers: read into structures of exact values, and compared as such.

    tokens        LaTeX, or what people type, as tokens
    expressions   tokens as one exact sympy expression
    structures    alternatives, relations, tuples, intervals, sets, families, cases around expressions
    equality      whether two expressions are the same, exactly
    regions       subsets of the real line
    comparison    whether two structures say the same

An answer is read by one grammar, and what the grammar does not know names nothing: no part of an answer is ignored, and
nothing is guessed. All of it runs in the killable processes of `grading_pool`, which import nothing else of pdr_dspy.
"""

from __future__ import annotations
