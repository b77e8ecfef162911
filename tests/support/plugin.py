"""Packages outside of the tree: written to a folder with the metadata that an installed package has."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path


def write_package(
    folder: Path,
    name: str,
    modules: Mapping[str, str],
    entry_points: Mapping[str, Mapping[str, str]],
    *,
    version: str = "1.2",
) -> Path:
    """Write what `pip install` would leave in `folder`, which is put on the path to use it.

    Args:
        folder: instead of site-packages; it is made.
        name: of the package, as pip calls it.
        modules: file name to source.
        entry_points: group to name to `module:attribute`.
        version: of the package.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for file, source in modules.items():
        (folder / file).write_text(source)
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    lines = []
    for group, entries in entry_points.items():
        lines += [f"[{group}]", *(f"{entry} = {value}" for entry, value in entries.items()), ""]
    (info / "entry_points.txt").write_text("\n".join(lines))
    return folder
