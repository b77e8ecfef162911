"""Mathematical answers: parsed into structures of exact values, and compared as such.

    cleaning         uniform signs, phrases, separators; further spellings of ambiguous texts
    units            units made of others, quantities in two units
    tokens, lexer    LaTeX, or typed text, as tokens
    arrangement      tokens rearranged before they are read
    beside           the words beside a value
    products         products whose order counts, and words of capitals
    logic            formulas of propositional logic
    events           probabilities of events by their names
    arithmetic, cursor, functions, calculus, atoms, expressions
                     tokens as one exact sympy expression
    scalars          an expression with its base, unit and words
    conditions       `n even`, congruences, remainders
    values           the values that an answer consists of
    structures, approximations
                     alternatives, relations, tuples, intervals, sets, families, cases around expressions
    equality         exact equality of two expressions
    regions, areas   subsets of the real line
    scalar_equality  equality of two expressions with their notation
    assignments, families
                     answers as points, and points with a parameter
    comparison       equality of two structures
    verbatim         gold answers that are compared as text

One grammar parses every answer, and text outside of the grammar has no value: no part of an answer is ignored, and
nothing is guessed. All of it runs in the killable processes of `grading_pool`, which import nothing else of pdr_dspy,
except for `prose` and `remarks`: they decide answers in words, and remove remarks behind a value, in linear time.
"""

from __future__ import annotations
