"""`pdr datasets`."""

from __future__ import annotations

from pdr_dspy import datasets as sets
from pdr_dspy.cli.display import Display
from pdr_dspy.errors import ConfigError


def datasets(name: str | None, display: Display) -> None:
    """All registered sets, the procedural ones, or the details of one."""
    if name == "rg":
        display.out.print("\n".join(sets.names(procedural=True)), markup=False)
        return
    if name is not None:
        for key, value in sets.info(name).describe().items():
            if value not in ("", None, []):
                display.out.print(f"{key}: {value}", markup=False)
        return
    rows = []
    for known in sets.names():
        try:
            about = sets.info(known)
        except ConfigError as error:  # an error in another package; the list continues
            display.say(str(error))
            continue
        rows.append([known, str(about.size or ""), about.split, about.verifier, about.licence])
    display.table("", ("set", "rows", "split", "verifier", "licence"), rows, text=5)
    files = ".jsonl, .json, .csv and .parquet files"
    display.say(f"also: hub:<owner/name>, rg:<task> (`pdr datasets rg` lists them), and local {files}")
