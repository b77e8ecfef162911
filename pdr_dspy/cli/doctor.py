"""`pdr doctor`: shows what is installed, what is reachable, and how to fix the rest."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Iterator, Sequence
from importlib import metadata
from typing import Literal, NamedTuple

from packaging.requirements import Requirement

from pdr_dspy.cli.display import Display
from pdr_dspy.errors import PDRError
from pdr_dspy.serving import CATALOGUE, discover
from pdr_dspy.serving.weights import cache_folder
from pdr_dspy.verifiers import sandbox

PACKAGE = "pdr-dspy"
PURPOSE = {
    "embedded": "the embedded llama.cpp engine",
    "data": "data sets",
    "code": "programs that a model wrote",
    "serve": "`pdr serve`",
    "vllm": "vLLM on a GPU",
    "postgres": "searches on several machines",
    "ray": "runs on a Ray cluster",
    "train": "training",
    "trace": "OpenTelemetry spans",
    "view": "`pdr view`",
    "dashboard": "optuna-dashboard",
}
"""The purpose of each extra."""


class Finding(NamedTuple):
    """One line of the report."""

    state: Literal["ok", "off", "wrong"]
    """"off" is a missing optional part; "wrong" needs a fix."""
    what: str
    found: str
    remedy: str = ""


def doctor(api_base: Sequence[str] | None, display: Display) -> int:
    """Print the findings; return the exit code: 1 if something needs a fix, else 0."""
    findings = list(examine(api_base))
    marks = {"ok": "ok", "off": "- ", "wrong": "!!"}
    wide = max(len(one.what) for one in findings)
    for one in findings:
        display.show(f"{marks[one.state]}  {one.what:{wide}}  {one.found}{f' -> {one.remedy}' if one.remedy else ''}")
    wrong = [one for one in findings if one.state == "wrong"]
    if wrong:
        display.say(f"{len(wrong)} to fix: {', '.join(one.what for one in wrong)}")
    return 1 if wrong else 0


def examine(api_base: Sequence[str] | None = None) -> Iterator[Finding]:
    """All findings. A server is queried only for its models; nothing is downloaded or started."""
    yield _python()
    yield from _packages()
    yield from _sandboxes()
    yield from _weights()
    gpu = shutil.which("nvidia-smi")
    yield Finding(
        "ok" if gpu else "off", "NVIDIA GPU", gpu or "none", "" if gpu else "vLLM needs one; llama.cpp does not"
    )
    yield from _servers(api_base)


def _python() -> Finding:
    version = platform.python_version()
    found = f"{version} on {platform.system()} {platform.machine()}, {os.cpu_count()} cores"
    if not (3, 11) <= sys.version_info[:2] < (3, 14):
        return Finding("wrong", "Python", found, "use Python 3.11 to 3.13")
    return Finding("ok", "Python", found)


def _packages() -> Iterator[Finding]:
    """The library's own requirements, then each extra."""
    needs: dict[str, list[Requirement]] = {"": []}
    for line in metadata.requires(PACKAGE) or ():
        requirement = Requirement(line)
        extras = [name for name in PURPOSE if requirement.marker and requirement.marker.evaluate({"extra": name})]
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            extras = [""]
        for name in extras:
            needs.setdefault(name, []).append(requirement)
    missing = [text for one in needs.pop("") if (text := _lacks(one))]
    found = ", ".join(f"{name} {_version(name)}" for name in (PACKAGE, "dspy", "litellm", "optuna"))
    remedy = f"pip install --upgrade {PACKAGE}" if missing else ""
    yield Finding("wrong" if missing else "ok", "library", "; ".join(missing) or found, remedy)
    for name, requirements in needs.items():
        missing = [text for one in requirements if (text := _lacks(one))]
        state = "off" if missing else "ok"
        remedy = f'pip install "{PACKAGE}[{name}]"' if missing else ""
        yield Finding(state, f"extra {name}: {PURPOSE[name]}", "; ".join(missing) or "installed", remedy)


def _lacks(requirement: Requirement) -> str | None:
    """The problem with a requirement's package here; None if there is none."""
    version = _version(requirement.name)
    if version is None:
        return f"no {requirement.name}"
    return None if requirement.specifier.contains(version, prereleases=True) else f"{requirement.name} {version}"


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _sandboxes() -> Iterator[Finding]:
    """The available sandboxes for programs."""
    for name, why in sandbox.isolations().items():
        remedy = "" if why is None else "code is run only where one of the two works; see `CodeCheck`"
        yield Finding("ok" if why is None else "off", f"sandbox {name}", why or "works", remedy)


def _weights() -> Iterator[Finding]:
    """The cache of weights and its content."""
    folder = cache_folder()
    there = [name for name in CATALOGUE if (folder / f"{name}.gguf").is_file()]
    parent = next((path for path in (folder, *folder.parents) if path.exists()), folder)
    if not os.access(parent, os.W_OK):
        yield Finding("wrong", "weights", f"{folder} cannot be written", "set PDR_DSPY_CACHE to a writable folder")
        return
    free = shutil.disk_usage(parent).free / 1e9
    found = f"{', '.join(there) or 'none yet'}; {free:.0f} GB free in {folder}"
    yield Finding("ok" if there else "off", "weights", found, "" if there else "fetched at the first use, 0.1 to 2 GB")


def _servers(api_base: Sequence[str] | None) -> Iterator[Finding]:
    """Whether each server answers, and its models."""
    for where in api_base or ():
        try:
            yield Finding("ok", f"server {where}", ", ".join(discover(where)))
        except PDRError as error:
            yield Finding("wrong", f"server {where}", str(error), "start it, or name another: --api-base")
    if not api_base:
        remedy = "pdr doctor --api-base http://127.0.0.1:8000/v1, or pdr serve-model"
        yield Finding("off", "server", "none was named", remedy)
