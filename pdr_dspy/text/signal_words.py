r"""Words that tell what a remark does to a value: take it back, doubt it, make it inexact, give its reason.

Each list is the inside of a group, without bounds: `rf"\b(?:{DOUBTS})\b"`. A space is `\s`, for verbose patterns too.
"""

from __future__ import annotations

TURNS = r"wait|actually|oops|sorry|correction|scratch\sthat|on\ssecond\sthoughts?|hmm+"
"""They begin a sentence that takes an earlier one back. `corrections.py` has them apart, since there each says whether
the answer before it is wrong or only replaced."""
DOUBTS = r"or|wrong|incorrect|correct(?:ed|ion)|actually|wait|maybe|perhaps|instead|but|should|unless|if"
"""With one of these, a comment beside a number may state another number. `not` is each pattern's own: it may also deny
something else than the number."""
INEXACT = (
    r"about|around|approx\w*|roughly|nearly|almost|close\sto|some|over|under|below|above|up\sto|at\s(?:least|most)"
)
"""Before a number that is not the exact one."""
COMPARED = r"greater|less|more|fewer|larger|smaller|bigger|higher|lower"
"""`more than 5` bounds a value."""
REASONS = r"because|since|as(?!\swell)"
"""What follows them is no part of the value. Behind a number `as` needs more than itself (`numbers.py`): `7 as a
percentage`."""
