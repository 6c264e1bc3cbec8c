"""The promised public names of ``celora.services``: sorted, complete, documented, loaded when asked for."""

import ast
import importlib
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

from celora import services

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "howto" / "python.md"


def documented():
    """The table of docs/howto/python.md: the functions of each module."""
    rows = re.findall(
        r"^\| `celora\.services\.(\w+)` \| (.*) \|$", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE
    )
    return {module: re.findall(r"`(\w+)`", functions) for module, functions in rows}


def declared():
    """The modules of the room that declare public names."""
    for path in sorted((ROOT / "services").glob("*.py")):
        names = [
            target.id
            for node in ast.parse(path.read_text(encoding="utf-8")).body
            if isinstance(node, ast.Assign)
            for target in node.targets
            if isinstance(target, ast.Name)
        ]
        if "__all__" in names and path.stem != "__init__":
            yield path.stem


def test_the_modules_are_sorted_and_complete():
    assert services.__all__ == sorted(services.__all__)
    assert services.__all__ == list(declared())


def test_the_page_names_every_module():
    assert sorted(documented()) == services.__all__


@pytest.mark.parametrize("name", services.__all__)
def test_each_modules_names_are_sorted_documented_functions_of_its_own(name):
    module = importlib.import_module(f"celora.services.{name}")
    assert module.__all__ == sorted(module.__all__)
    assert sorted(documented()[name]) == module.__all__
    for public in module.__all__:
        function = getattr(module, public)
        assert inspect.isfunction(function)
        assert function.__module__ == module.__name__
        assert inspect.getdoc(function)
        assert inspect.signature(function).return_annotation is not inspect.Signature.empty


def test_a_star_import_gives_the_modules():
    given = {}
    exec("from celora.services import *", given)  # noqa: S102  (inside a function there is no other way)
    assert sorted(name for name in given if not name.startswith("__")) == services.__all__


def test_the_package_itself_loads_none_of_them():
    code = "import sys, celora.services\nprint(*(name for name in sys.modules if name.startswith('celora.services.')))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
