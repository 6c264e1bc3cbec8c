"""``make audit``: every package that we pin or that is installed here, against an advisory feed; fails when in doubt.

pip-audit says "No known vulnerabilities found" and exits with 0 where its feed knew none of the packages. So a version
with a known hole is asked about first, the audited set must be the wanted set, and what is ignored must be there still.
The list of floors is judged before the feed is asked, so that a machine without one learns at least that.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
import tomllib
from dataclasses import dataclass
from datetime import UTC, date, datetime
from functools import partial
from importlib import metadata
from pathlib import Path

from audit import floors

ROOT = Path(__file__).parent.parent.parent
LOCK = ROOT / "constraints.txt"
IGNORED = Path(__file__).with_name("ignored.toml")
PROBE = {"jinja2": "2.11.2"}
"""A version that every feed knows to be vulnerable (CVE-2020-28493)."""
OWN = {"celora", "pip"}
"""Not on a feed, and not ours to pin."""


class NoAnswerError(Exception):
    """The auditor or its feed gave no usable answer."""


@dataclass(frozen=True)
class Ignored:
    """A vulnerability that is let be."""

    id: str
    reason: str
    until: date


def main(arguments):
    """Audit and print; returns the exit code."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("pip_audit", help="the program")
    options.add_argument("--service", choices=["pypi", "osv"], default="pypi", help="whose advisories")
    given = options.parse_args(arguments)
    locked, installed = pinned(LOCK.read_text()), here()
    wanted = {**installed, **locked}
    found = floors_of(locked, installed)
    for fault in found:
        print(f"audit: {fault}", file=sys.stderr)
    try:
        more = drift(locked, installed)
        require_feed(partial(ask, given.pip_audit, PROBE, given.service), given.service)
        more += judge(ask(given.pip_audit, wanted, given.service), wanted, ignored(IGNORED.read_text()), today())
    except NoAnswerError as error:
        print(f"audit: FAILED: {error}", file=sys.stderr)
        return 1
    for fault in more:
        print(f"audit: {fault}", file=sys.stderr)
    found += more
    verdict = "FAILED" if found else "passed"
    print(f"audit: {verdict}: {len(wanted)} packages ({len(locked)} locked), {len(found)} fault(s)", file=sys.stderr)
    return 1 if found else 0


def pinned(text):
    """Name and version of every line of a constraints file.

    Raises:
        NoAnswerError: It pins nothing, or a line is no pin.
    """
    lines = [line.partition("#")[0].strip() for line in text.splitlines()]
    pins = dict(line.split("==") if line.count("==") == 1 else (line, "") for line in lines if line)
    loose = [name for name, version in pins.items() if not version]
    if loose or not pins:
        raise NoAnswerError(f"constraints.txt pins {'not ' + ', '.join(loose) if loose else 'nothing'}.")
    return {plain(name): version for name, version in pins.items()}


def here():
    """Name and version of every distribution of this environment, ours aside, without local suffixes such as +cpu."""
    found = {plain(one.name): one.version.partition("+")[0] for one in metadata.distributions() if one.name}
    return {name: version for name, version in found.items() if name not in OWN}


def plain(name):
    """A distribution's name as PEP 503 compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def floors_of(locked, installed):
    """Where the lock, this environment or our requirements lie below the list of floors, or the list is old."""
    listed = floors.floors(floors.FLOORS.read_text(encoding="utf-8"))
    wanted = floors.requirements((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    return floors.judge(listed, locked, installed, wanted, today())


def drift(locked, installed):
    """Where what is installed is not what is locked."""
    return [
        f"{name} {installed[name]} is installed and {version} is locked; run make venv, or make constraints"
        for name, version in locked.items()
        if name in installed and installed[name] != version
    ]


def ignored(text):
    """The entries of the ignore list.

    Raises:
        NoAnswerError: One has no id, reason or day.
    """
    try:
        return [Ignored(**entry) for entry in tomllib.loads(text).get("ignored", [])]
    except TypeError as error:
        raise NoAnswerError(f"ignored.toml: every entry needs id, reason and until ({error}).") from error


def ask(program, packages, service):
    """What pip-audit answers about packages.

    Raises:
        NoAnswerError: It answered nothing that can be read.
    """
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.writelines(f"{name}=={version}\n" for name, version in sorted(packages.items()))
        file.flush()
        words = ["--requirement", file.name, "--no-deps", "--disable-pip", "--format", "json",
                 "--progress-spinner", "off", "--vulnerability-service", service]  # fmt: skip
        done = subprocess.run([program, *words], capture_output=True, text=True, check=False)
    return read(done.stdout, done.stderr)


def read(output, errors):
    """The dependencies of pip-audit's JSON.

    Raises:
        NoAnswerError: It is none; the last line of its errors says why.
    """
    try:
        return json.loads(output)["dependencies"]
    except (ValueError, KeyError, TypeError):
        said = [line.strip() for line in errors.splitlines() if line.strip()]
        raise NoAnswerError(f"pip-audit gave no answer: {said[-1][:500] if said else 'it said nothing'}") from None


def require_feed(probe, service):
    """Refuse a feed that does not know a vulnerability that every feed knows.

    Raises:
        NoAnswerError: Nothing it says about other packages means anything.
    """
    try:
        answer = probe()
        why = "; ".join(one["skip_reason"] for one in answer if "skip_reason" in one) or "it gives no reason"
    except NoAnswerError as error:
        answer, why = [], str(error)
    if not any(one.get("vulns") for one in answer):
        ((name, version),) = PROBE.items()
        raise NoAnswerError(
            f"the advisory feed {service} cannot be reached from here, or is empty: it knows no vulnerability of "
            f"{name} {version}, which has one ({why}). Nothing was audited. Run it where the feed can be reached, or "
            "try ARGS='--service osv'."
        )


def judge(answer, wanted, let_be, day):
    """Every reason why an answer is no clean bill of health, a sentence each.

    Args:
        answer: pip-audit's ``dependencies``.
        wanted: What was to be audited, version by name.
        let_be: The ignore list.
        day: Today.
    """
    audited = {plain(one["name"]): one.get("version", "") for one in answer if "skip_reason" not in one}
    skipped = {plain(one["name"]): one["skip_reason"] for one in answer if "skip_reason" in one}
    found = [f"{name} {version} was not audited: {skipped.get(name, 'no answer')}"
             for name, version in sorted(wanted.items()) if audited.get(name) != version]  # fmt: skip
    found += [f"{name} was audited and nobody asked for it" for name in sorted(set(audited) - set(wanted))]
    known, met = {entry.id: entry for entry in let_be}, set()
    for one in answer:
        for hole in one.get("vulns", []):
            ids = {hole["id"], *hole.get("aliases", [])}
            met |= ids & set(known)
            if not ids & set(known):
                fixed = ", ".join(hole.get("fix_versions", [])) or "no version yet"
                found.append(f"{one['name']} {one['version']} has {hole['id']}; fixed in {fixed}")
    found += [f"ignored {one.id} matches nothing any more; take it out" for one in let_be if one.id not in met]
    found += [f"ignored {one.id} was let be until {one.until}; look at it again" for one in let_be if one.until < day]
    return found


def today():
    """The day by the machine's clock, UTC."""
    return datetime.now(UTC).date()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
