"""Parts by name: built in, registered, an entry point of a package outside of the tree, or imported on trust."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from pdr_dspy.errors import ConfigError
from pdr_dspy.runtime.registry import Registry, origin_of
from tests.support.plugin import write_package

COLOURS = "raise_on_import = False\nred = 'red'\nblue = 'blue'\nnumber = 7\nclass Box:\n    green = 'green'\n"


def check(name: str, found: Any) -> str:
    if not isinstance(found, str):
        raise ConfigError(f"it is {found!r}")
    return found


def registry() -> Registry[str]:
    return Registry(
        "colour", group="tests.colours", built_in={"black": "black", "white": "white"}, check=check, hint="Mix one"
    )


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Puts a package with entry points of colours on the path."""
    before = set(sys.modules)

    def put(entries: Mapping[str, str], *, name: str = "colour-box", modules: Mapping[str, str] | None = None) -> None:
        folder = write_package(
            tmp_path / name, name, modules or {"colours_of_a_package.py": COLOURS}, {"tests.colours": entries}
        )
        monkeypatch.syspath_prepend(str(folder))

    yield put
    for module in set(sys.modules) - before:
        if module.startswith(("colours_of", "broken_colours")):
            del sys.modules[module]


def test_what_is_built_in_is_found_and_stays() -> None:
    colours = registry()
    assert (colours.find("black"), colours.names(), "white" in colours) == ("black", ("black", "white"), True)
    assert (colours.origin("black"), colours.package("black")) == (None, None)
    with pytest.raises(ConfigError, match="'black' is built in"):
        colours.add("black", "blacker")


@pytest.mark.parametrize("name", ["", "a b", "a,b", "hub:owner", "7up", "a/b", None, 3])
def test_a_name_that_no_command_line_could_take_is_refused(name: Any) -> None:
    with pytest.raises(ConfigError, match="cannot be the name of a colour"):
        registry().add(name, "grey")


def test_a_part_may_be_registered_again_by_its_own_origin_only() -> None:
    colours = registry()
    colours.add("grey", "grey", origin="mine:grey")
    colours.add("grey", "lighter grey", origin="mine:grey")  # a notebook's cell that ran twice
    assert colours.find("grey") == "lighter grey"
    colours.add("grey", colours.find("grey"))
    with pytest.raises(ConfigError, match=r"'grey' is already registered"):
        colours.add("grey", "darker grey", origin="yours:grey")
    colours.remove("grey")
    assert "grey" not in colours


def test_a_name_that_leads_nowhere_says_what_there_is() -> None:
    colours = registry()
    with pytest.raises(
        ConfigError, match=r"no colour 'blck' here; did you mean 'black'\? Known: black, white. Mix one"
    ):
        colours.find("blck")
    missing = colours.unknown("teal", "tints.dark:teal")
    assert missing.endswith("It was defined as `tints.dark:teal`: install `tints`, or import `tints.dark` first")
    assert "install `tint-box`, or import `tints`" in colours.unknown("teal", "tints:teal", "tint-box")
    assert "run its definition first" in colours.unknown("teal", "__main__:teal")


def test_an_entry_point_is_imported_when_its_name_is_used_and_not_before(install: Any) -> None:
    colours = registry()
    install({"red": "colours_of_a_package:red", "green": "colours_of_a_package:Box.green"})
    assert colours.names() == ("black", "white", "green", "red")
    assert "red" in colours
    assert (colours.origin("red"), colours.package("red")) == ("colours_of_a_package:red", "colour-box")
    assert "colours_of_a_package" not in sys.modules
    assert (colours.find("red"), colours.find("green")) == ("red", "green")
    assert (colours.origin("red"), colours.package("red")) == ("colours_of_a_package:red", "colour-box")


def test_an_entry_point_does_not_replace_what_is_built_in(install: Any) -> None:
    install({"black": "colours_of_a_package:red"})
    assert registry().find("black") == "black"
    assert registry().names() == ("black", "white")


def test_a_part_that_a_package_registers_when_it_is_imported_belongs_to_the_package(install: Any) -> None:
    colours = registry()
    install({"red": "colours_of_a_package:red"})
    colours.add("red", "red", origin="colours_of_a_package:red")
    colours.add("blue", "blue", origin="elsewhere:blue")
    assert (colours.package("red"), colours.package("blue"), colours.package("red")) == (
        "colour-box",
        None,
        "colour-box",
    )


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("colours_of_a_package:missing", "AttributeError"),
        ("colours_of_nobody:red", "ModuleNotFoundError"),
        ("colours_of_a_package:number", "is no colour: it is 7"),
        ("broken_colours:red", "ZeroDivisionError"),
        ("colours_of_a_package", "not of the form `module:attribute`"),
    ],
)
def test_an_entry_point_that_cannot_be_used_names_its_package(install: Any, target: str, said: str) -> None:
    install({"red": target}, modules={"colours_of_a_package.py": COLOURS, "broken_colours.py": "1 / 0\n"})
    with pytest.raises(ConfigError, match=f"(?s)the entry point 'red' of colour-box 1.2.*{said}"):
        registry().find("red")


def test_two_packages_with_one_name_are_told_apart(install: Any) -> None:
    install({"red": "colours_of_a_package:red"})
    install({"red": "colours_of_a_package:blue"}, name="tint-box")
    with pytest.raises(ConfigError, match=r"colour-box 1\.2.*uninstall one|tint-box 1\.2.*uninstall one"):
        registry().find("red")


def test_trust_imports_what_a_file_names_and_nothing_else(install: Any) -> None:
    colours = registry()
    install({})
    assert "red" not in colours
    assert colours.trust("red", "colours_of_a_package:red") == "red"
    assert (colours.find("red"), colours.origin("red")) == ("red", "colours_of_a_package:red")
    for origin in ("os.system", "os:system('true')", "colours_of_a_package:red or 1", "", "a:b:c", "../x:y"):
        with pytest.raises(ConfigError, match="not of the form"):
            colours.trust("blue", origin)
    with pytest.raises(ConfigError, match=r"`colours_of_a_package:number`.*is no colour"):
        colours.trust("blue", "colours_of_a_package:number")
    assert "blue" not in colours


def test_origins() -> None:
    class Inner:
        pass

    assert origin_of(check) == "tests.runtime.test_registry:check"
    assert origin_of(Registry) == "pdr_dspy.runtime.registry:Registry"
    assert origin_of(Inner) is None
    assert origin_of(7) is None


@pytest.mark.slow
def test_importing_the_library_looks_up_no_entry_points() -> None:
    code = (
        "import importlib.metadata as m; real = m.entry_points\n"
        "def refuse(**asked):\n"
        "    if str(asked.get('group', '')).startswith('pdr_dspy'): raise SystemExit(f'looked up {asked}')\n"
        "    return real(**asked)\n"
        "m.entry_points = refuse\n"
        "import pdr_dspy; pdr_dspy.PDR('question -> answer', distiller='topk', k=2).schedule.model_dump()\n"
        "import pdr_dspy.cli.app, pdr_dspy.search, pdr_dspy.verifiers, pdr_dspy.datasets; print('none')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "none", done.stderr
