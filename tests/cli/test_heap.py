"""The heap of a command: what existed before is left out of collections inside, and is back in them afterwards."""

from __future__ import annotations

import gc
import weakref

import pytest

from pdr_dspy.cli.heap import settled_heap


class Knot:
    """Garbage that only a collection finds."""

    def __init__(self) -> None:
        self.me = self


def test_what_is_made_inside_is_collected_and_what_existed_is_again_afterwards() -> None:
    old = Knot()
    before = weakref.ref(old)
    with settled_heap():
        assert gc.get_freeze_count() > 10_000
        del old
        inside = weakref.ref(Knot())
        gc.collect()
        assert inside() is None
        assert before() is not None
    gc.collect()
    assert before() is None


def test_an_error_does_not_leave_it_frozen() -> None:
    with pytest.raises(ZeroDivisionError), settled_heap():
        raise ZeroDivisionError
    assert gc.get_freeze_count() < 10_000
