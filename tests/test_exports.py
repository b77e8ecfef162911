"""What the packages export: every public name is there, documented, and the list is sorted."""

from __future__ import annotations

import importlib
import inspect
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

PACKAGES = ["pdr_dspy", "pdr_dspy.serving", "pdr_dspy.verifiers", "pdr_dspy.search"]


@pytest.mark.parametrize("name", PACKAGES)
def test_every_exported_name_exists_and_is_documented(name: str) -> None:
    package = importlib.import_module(name)
    assert len(set(package.__all__)) == len(package.__all__)
    for exported in package.__all__:
        value = getattr(package, exported)
        assert not exported.startswith("_") or exported == "__version__"
        if inspect.isclass(value) or inspect.isfunction(value):
            assert inspect.getdoc(value), f"{name}.{exported} says nothing about itself"
            assert value.__module__.startswith("pdr_dspy"), f"{name}.{exported} is not ours"


@pytest.mark.parametrize("name", PACKAGES)
def test_what_is_listed_is_what_dir_shows(name: str) -> None:
    package = importlib.import_module(name)
    assert set(package.__all__) <= set(dir(package))


def test_an_unknown_name_is_an_attribute_error() -> None:
    package = importlib.import_module("pdr_dspy")
    with pytest.raises(AttributeError, match="nothing_of_ours"):
        package.nothing_of_ours  # noqa: B018


def test_the_version_is_that_of_the_package() -> None:
    stated = tomllib.loads(Path("pyproject.toml").read_text())["project"]["version"]
    assert importlib.import_module("pdr_dspy").__version__ == stated


@pytest.mark.slow
def test_without_the_extra_all_is_imported_and_app_says_what_it_needs() -> None:
    code = """
import sys
sys.modules["starlette"] = None
from pdr_dspy import *
import pdr_dspy
from pdr_dspy.errors import MissingExtra
print(PDR.__name__)
try:
    pdr_dspy.app
except MissingExtra as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    told = 'An endpoint (`pdr serve`, `pdr_dspy.app`) needs the package `starlette`: pip install "pdr-dspy[serve]"'
    assert done.stdout.splitlines() == ["PDR", told]
