"""Places of records are found by the digests of their keys, as in a dictionary."""

from __future__ import annotations

import hashlib
import random

import pytest

from pdr_dspy.calls.places import Place, Places, digest


def test_places_are_those_of_a_dictionary(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = random.Random(3)
    known: dict[bytes, Place] = {}
    places = Places()
    for step in range(6000):
        name = digest(str(draw.randrange(4000)))
        if draw.random() < 0.1:
            assert places.drop(name) == (known.pop(name, None) is not None)
        else:
            place = Place(step * 10**7, step, step % 2**32, step % 5)
            assert places.add(name, place) == (name not in known)
            known.setdefault(name, place)
        if step % 1000 == 999:
            assert sorted(places.all()) == sorted(known.values())
            assert places.all() == sorted(places.all(), key=lambda place: (place.file, place.offset))
    assert len(places) == len(known)
    for number in range(4000):
        assert places.find(digest(str(number))) == known.get(digest(str(number)))


def test_keys_of_any_text_have_digests_of_their_own() -> None:
    keys = ["", "a", "A", "é", "\ud800", "a\0", hashlib.sha256(b"").hexdigest(), "x" * 10**5]
    assert len({digest(key) for key in keys}) == len(keys)
    assert {len(digest(key)) for key in keys} == {16}
