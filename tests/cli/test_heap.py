"""The heap of a command: what existed before is left out of collections inside, and is back in them afterwards."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator

import pytest

from pdr_dspy.cli.heap import settled_heap


class Knot:
    """Garbage that only a collection finds."""

    def __init__(self) -> None:
        self.me = self


@pytest.fixture
def thawed() -> Iterator[None]:
    """Nothing is frozen, as in a new process; tests/conftest.py freezes the modules and the tests."""
    gc.unfreeze()
    yield
    gc.freeze()


@pytest.mark.slow
@pytest.mark.usefixtures("thawed")
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


@pytest.mark.slow
@pytest.mark.usefixtures("thawed")
def test_an_error_does_not_leave_it_frozen() -> None:
    with pytest.raises(ZeroDivisionError), settled_heap():
        raise ZeroDivisionError
    assert gc.get_freeze_count() < 10_000


def test_a_heap_that_the_process_has_frozen_itself_stays_so() -> None:
    gc.freeze()
    assert gc.get_freeze_count() > 10_000
    with settled_heap():
        pass
    assert gc.get_freeze_count() > 10_000  # fewer by what has died meanwhile
