"""The checks of a program as plain data, and back.

A check is described with its calibration; one that cannot be rebuilt from that is found in the registry, or in a
program that has it.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from pdr_dspy.errors import ArtifactError, ConfigError
from pdr_dspy.operators.schedule import Schedule
from pdr_dspy.verifiers.checks import (
    CHECKS,
    DESCRIBED,
    AsyncCheck,
    CalibratedCheck,
    Calibration,
    load_check,
)


def check_state(check: AsyncCheck) -> dict[str, Any]:
    """The check's own description; the class name of a check without `describe()`."""
    describe: Any = getattr(check, "describe", None)
    return {"kind": type(check).__name__} if describe is None else describe()


def checks_of(
    path: str | Path, schedule: Schedule, own: Mapping[str, AsyncCheck], saved: Mapping[str, Any]
) -> dict[str, AsyncCheck]:
    """The checks of a saved program, with their saved calibration.

    Each is taken from `own` (the program that is loaded into), else from the registry, else rebuilt from its saved
    settings. Raises ArtifactError if the check that the schedule uses cannot be found.
    """
    found = dict(own)
    for name, state in saved.items():
        if name not in found and name in CHECKS:
            found[name] = CHECKS.find(name)
        if name not in found and isinstance(state, Mapping) and state.get("kind") in DESCRIBED:
            with suppress(ConfigError):  # a missing check is reported below if the schedule uses it
                found[name] = load_check(state)
        calibration = state.get("calibration") if isinstance(state, Mapping) else None
        if name in found and calibration is not None and not isinstance(found[name], CalibratedCheck):
            found[name] = CalibratedCheck(found[name], Calibration(**calibration))
    used = schedule.check
    if used is not None and used not in found and used not in CHECKS:
        kind = saved.get(used, {}).get("kind", "check")
        raise ArtifactError(
            f"{path} uses the check {used!r} ({kind}), which cannot be stored in a file: register one under this name "
            f"first (`pdr_dspy.verifiers.checks.register_check({used!r}, ...)`), or load into a program that has it: "
            "`load(path, program=...)`"
        )
    return found
