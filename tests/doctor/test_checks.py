"""Groups of checks: at once, each with a deadline, and none hides another."""

import threading

import pytest

from celora.doctor.checks import Group, examine, fails
from celora.doctor.finding import fail, ok, warn


def test_what_was_found_before_a_group_got_stuck_counts():
    stuck, free = threading.Event(), threading.Event()

    def look():
        yield ok("first", "seen")
        stuck.set()
        free.wait()

    group = Group("slow", look, within_s=0.01)
    stuck.wait()
    findings = group.findings()
    free.set()
    assert [(finding.check, finding.level) for finding in findings] == [("first", "ok"), ("slow", "fail")]
    assert "no answer within" in findings[1].found


def test_what_was_found_before_a_group_broke_counts():
    def look():
        yield ok("first", "seen")
        raise KeyError("second")

    findings = Group("frail", look).findings()
    assert [(finding.check, finding.level) for finding in findings] == [("first", "ok"), ("frail", "fail")]
    assert "KeyError" in findings[1].found


@pytest.mark.parametrize(
    ("findings", "failed"),
    [([], False), ([ok("a", "b"), warn("a", "b", "c")], False), ([ok("a", "b"), fail("a", "b", "c")], True)],
)
def test_only_a_failure_fails(findings, failed):
    assert fails(findings) is failed


def test_settings_that_are_wrong_are_the_only_finding(home, monkeypatch):
    monkeypatch.setenv("CELORA_LEASE_S", "soon")
    (finding,) = examine(quick=True)
    assert (finding.check, finding.level, "lease_s" in finding.found) == ("settings", "fail", True)


def test_an_installation_is_looked_at_in_a_stable_order(home):
    found = [finding.check for finding in examine(0, quick=True)]
    assert found[:2] == ["celora", "home"]
    order = [found.index(check) for check in ("limits.files", "disk", "storage", "secrets.files", "record", "gpu")]
    assert order == sorted(order)
    assert not (home / "celora.db").exists()
