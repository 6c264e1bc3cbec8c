"""What the wheel carries is what the tree holds, and what is pinned is what the project asks for."""

import shutil
import subprocess
import sys
import tomllib
import zipfile
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
SETUPTOOLS = PROJECT["tool"]["setuptools"]
FOLDERS = {name: ROOT / path for name, path in SETUPTOOLS["package-dir"].items()}
LEFT_BEHIND = {"__pycache__"}
NO_ROOM = "celora.flower"
"""Flower's configuration: shipped, and no package, since it would shadow Flower's own."""


def files_of(folder):
    return [path for path in folder.rglob("*") if path.is_file() and not LEFT_BEHIND & set(path.parts)]


def package_of(path):
    """The listed package whose folder holds the file, nearest first, and the file's path inside it."""
    for name, folder in FOLDERS.items():
        if path.is_relative_to(folder):
            inside = path.relative_to(folder)
            for depth in range(len(inside.parts) - 1, -1, -1):
                package = ".".join([name, *inside.parts[:depth]])
                if package in SETUPTOOLS["packages"]:
                    return package, PurePosixPath(*inside.parts[depth:]).as_posix()
    raise AssertionError(f"{path} lies in no listed package")


def in_wheel(path):
    package, inside = package_of(path)
    return "/".join([*package.split("."), inside])


def test_every_package_folder_is_listed():
    found = {
        ".".join([name, *init.parent.relative_to(folder).parts])
        for name, folder in FOLDERS.items()
        for init in folder.rglob("__init__.py")
    }
    assert found == set(SETUPTOOLS["packages"]) - {NO_ROOM}
    assert not (FOLDERS[NO_ROOM] / "__init__.py").exists()


def test_every_python_file_lies_in_a_package():
    orphans = [
        str(path)
        for name, folder in FOLDERS.items()
        for path in files_of(folder)
        if name != NO_ROOM and path.suffix == ".py" and not (path.parent / "__init__.py").is_file()
    ]
    assert orphans == []


def test_every_room_is_typed():
    rooms = [folder for name, folder in FOLDERS.items() if name != NO_ROOM]
    assert [str(folder) for folder in rooms if not (folder / "py.typed").is_file()] == []


def test_every_file_that_is_not_python_matches_a_package_data_pattern():
    patterns = SETUPTOOLS["package-data"]
    unshipped = []
    for folder in FOLDERS.values():
        for path in files_of(folder):
            if path.suffix == ".py":
                continue
            package, inside = package_of(path)
            if not any(fnmatch(inside, pattern) for pattern in [*patterns.get("*", []), *patterns.get(package, [])]):
                unshipped.append(f"{package}: {inside}")
    assert unshipped == []


def test_every_package_data_pattern_matches_something():
    for package, patterns in SETUPTOOLS["package-data"].items():
        if package == "*":
            continue
        shipped = [package_of(path) for folder in FOLDERS.values() for path in files_of(folder)]
        for pattern in patterns:
            assert any(name == package and fnmatch(inside, pattern) for name, inside in shipped), (package, pattern)


def test_every_direct_requirement_is_pinned_to_a_version_that_it_allows():
    pins = {}
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            name, _, version = line.partition("==")
            assert "+" not in version, f"{line}: a local version suffix binds the file to one index"
            assert "@" not in line, line
            pins[canonicalize_name(name)] = version
    wanted = [*PROJECT["project"]["dependencies"]]
    for extra in PROJECT["project"]["optional-dependencies"].values():
        wanted += extra
    for requirement in map(Requirement, wanted):
        if requirement.name == "celora":
            continue
        version = pins.get(canonicalize_name(requirement.name))
        assert version, f"{requirement} is not in constraints.txt; run `make constraints`"
        assert requirement.specifier.contains(version, prereleases=True), f"{requirement} is pinned to {version}"


def test_the_extra_all_names_every_extra_but_the_tools():
    extras = PROJECT["project"]["optional-dependencies"]
    assert Requirement(*extras["all"]).extras == set(extras) - {"all", "dev"}


@pytest.mark.slow
def test_the_wheel_holds_what_the_tree_holds_and_installs_alone(tmp_path):
    source = tmp_path / "source"
    for folder in FOLDERS.values():
        shutil.copytree(
            folder, source / folder.relative_to(ROOT), ignore=shutil.ignore_patterns(*LEFT_BEHIND), dirs_exist_ok=True
        )
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    (source / "tests").mkdir()
    (source / "tests" / "test_nothing.py").write_text("")
    out = tmp_path / "dist"
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", out, source], check=True)
    (wheel,) = out.glob("celora-*.whl")
    shipped = set(zipfile.ZipFile(wheel).namelist())
    expected = {in_wheel(path) for folder in FOLDERS.values() for path in files_of(folder)}
    assert {name for name in shipped if ".dist-info/" not in name} == expected
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in shipped)

    target = tmp_path / "installed"
    subprocess.run([*pip, "install", "--no-deps", "--no-index", "--target", target, wheel], check=True)
    installed = {
        path.relative_to(target).as_posix() for path in files_of(target) if path.parts[len(target.parts)] == "celora"
    }
    assert installed == expected


def test_every_line_of_torch_is_the_pinned_version_from_an_index_of_that_name():
    folder = ROOT / "deploy" / "constraints"
    files = {path.stem: path.read_text(encoding="utf-8").splitlines() for path in folder.iterdir()}
    (pinned,) = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line.startswith("torch==")]
    assert set(files) == {"cpu", "cu126", "cu130", "cu132"}
    for name, lines in files.items():
        assert [line for line in lines if not line.startswith("#")] == [
            f"--extra-index-url https://download.pytorch.org/whl/{name}",
            "--constraint ../../constraints.txt",
            f"{pinned}+{name}",
        ]
