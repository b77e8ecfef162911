"""Mathematical answers: parsed into structures of exact values, and compared as such.

    tokens        LaTeX, or typed text, as tokens
    beside        the words beside a value
    products      products whose order counts, and words of capitals
    logic         formulas of propositional logic
    expressions   tokens as one exact sympy expression
    scalars       an expression with its base, unit and words
    values        the values that an answer consists of
    structures    alternatives, relations, tuples, intervals, sets, families, cases around expressions
    equality      exact equality of two expressions
    regions       subsets of the real line
    scalar_equality  equality of two expressions with their notation
    comparison    equality of two structures

One grammar parses every answer, and text outside of the grammar has no value: no part of an answer is ignored, and
nothing is guessed. All of it runs in the killable processes of `grading_pool`, which import nothing else of pdr_dspy.
"""

from __future__ import annotations
