"""The audit that needs no advisory feed: a dated list of the oldest versions without known holes.

Unusual: it judges the requirements of pyproject.toml as well, since an installation without constraints.txt gets what
these allow.
"""

import tomllib
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

FLOORS = Path(__file__).with_name("floors.toml")
READ_AGAIN_AFTER = timedelta(days=183)


@dataclass(frozen=True)
class Floor:
    """The oldest version of a package without the named holes."""

    package: str
    at_least: str
    ids: list[str]
    why: str
    awaited: bool = False


def floors(text):
    """The day of the list, and its entries."""
    found = tomllib.loads(text)
    return found["checked"], [Floor(**entry) for entry in found["floor"]]


def below(known, versions, where):
    """A sentence for each package whose version lies below its floor; ``versions`` by canonical name."""
    return [
        f"{one.package} {versions[one.package]} is {where}, below {one.at_least} ({', '.join(one.ids)}): {one.why}"
        for one in known
        if one.package in versions and Version(versions[one.package]) < Version(one.at_least)
    ]


def loose(known, requirements):
    """A sentence for each requirement that lets a version below the floor in."""
    least = {one.package: one for one in known}
    found = []
    for text in requirements:
        wanted = Requirement(text)
        floor = least.get(canonicalize_name(wanted.name))
        if floor is None:
            continue
        bounds = [Version(each.version) for each in wanted.specifier if each.operator in (">=", "==", "~=", ">")]
        if not bounds or max(bounds) < Version(floor.at_least):
            found.append(f"{text} lets {floor.package} below {floor.at_least} in ({', '.join(floor.ids)})")
    return found


def unmarked(known, locked):
    """A sentence for each entry whose ``awaited`` does not say what the lock says."""
    wrong = [one for one in known if one.awaited == (one.package in locked)]
    return [
        f"{one.package} is locked, so it is not awaited"
        if one.awaited
        else f"{one.package} is not locked; mark it awaited or take it out"
        for one in wrong
    ]


def stale(checked, day):
    """A sentence where the list is too old to be trusted."""
    if day - checked <= READ_AGAIN_AFTER:
        return []
    return [f"floors.toml was checked on {checked:%Y-%m-%d}; read the advisories again and set the day"]


def requirements(text):
    """Every requirement of a pyproject.toml that a user installs by, ours on ourselves aside."""
    project = tomllib.loads(text)["project"]
    extras = [each for name, extra in project["optional-dependencies"].items() if name != "dev" for each in extra]
    return [each for each in project["dependencies"] + extras if Requirement(each).name != project["name"]]


def judge(listed, locked, installed, wanted, day):
    """Every fault of the lock, of this environment, of the requirements and of the list that ``floors`` returned."""
    checked, known = listed
    return [
        *below(known, locked, "locked"),
        *below(known, installed, "installed"),
        *loose(known, wanted),
        *unmarked(known, locked),
        *stale(checked, day),
    ]
