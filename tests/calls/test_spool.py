"""The spool: a copy of records on the disk that is this process's own, and loses nothing when the disk is full."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from pdr_dspy.calls.spool import Spool


def record(number: int, text: str = "") -> tuple[str, bytes]:
    key = f"key {number}"
    return key, json.dumps({"key": key, "text": text or f"{number} " * (1 + number % 7)}).encode()


def test_a_spool_keeps_records_in_a_file_that_nobody_else_sees(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    spool = Spool()
    assert list(tmp_path.iterdir()) == []
    for number in range(100):
        assert spool.add(*record(number))
        assert not spool.add(*record(number, "another"))
    assert [spool.find(record(number)[0]) for number in range(101)] == [*(record(n)[1] for n in range(100)), None]
    assert list(spool) == [record(number)[1] for number in range(100)]
    assert (len(spool), "key 5" in spool, "key 100" in spool, spool.renewed()) == (100, True, False, False)
    child = os.fork()
    if not child:
        renewed = spool.renewed()
        spool.add(*record(1, "the child's"))
        os._exit(0 if renewed and len(spool) == 1 else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert spool.find(record(1)[0]) == record(1)[1]


def test_a_full_temporary_folder_loses_nothing_of_a_spool(monkeypatch: pytest.MonkeyPatch) -> None:
    spool = Spool()
    spool.add(*record(1))
    whole: Any = spool._file

    class Full:
        def seek(self, place: int) -> None:
            whole.seek(place)

        def write(self, data: bytes) -> int:
            if whole.tell() > 60:
                raise OSError(28, "No space left on device")
            return whole.write(bytes(data)[:20])

    with monkeypatch.context() as patched:
        patched.setattr(spool, "_file", Full())
        with pytest.raises(OSError, match="No space"):
            spool.add(*record(2, "x" * 200))
    assert not spool.add(*record(1))
    assert spool.add(*record(2, "x" * 200))
    assert spool.find("key 2") == record(2, "x" * 200)[1]
    assert spool.find("key 1") == record(1)[1]
