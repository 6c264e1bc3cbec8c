"""Findings: their levels, and errors that become findings."""

import pytest

from celora.doctor.finding import Finding, Level, broken, fail, guarded, judged, ok, refused, warn
from celora.errors import UnavailableError


def test_a_finding_has_a_level_and_an_unhealthy_one_has_a_fix():
    assert ok("broker", "answers") == Finding(level=Level.OK, check="broker", found="answers", fix="")
    assert warn("broker", "is old", "Update it.").level == "warn"
    assert fail("broker", "is gone", "Start it.") == Finding(
        level=Level.FAIL, check="broker", found="is gone", fix="Start it."
    )


def test_an_error_of_ours_is_told_in_its_own_words():
    error = UnavailableError("the broker is away.", hint="Start it.")
    assert refused("broker", error) == broken("broker", error) == fail("broker", "the broker is away.", "Start it.")


def test_an_error_without_a_hint_still_has_a_fix():
    assert refused("broker", UnavailableError("away.")).fix


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ValueError("first line\nsecond line"), "ValueError: first line"),
        (ValueError("  \n"), "ValueError: no message"),
        (KeyError(), "KeyError: no message"),
    ],
)
def test_an_error_that_no_check_expected_is_one_line(error, words):
    found = broken("broker", error)
    assert (found.level, found.found) == ("fail", f"this could not be looked at: {words}")


def test_a_check_that_breaks_fails_under_its_own_name():
    assert guarded("disk", lambda: ok("disk", "ample")) == ok("disk", "ample")
    found = guarded("disk", lambda: fail("disk", str(1 // 0), ""))
    assert (found.check, found.level, "ZeroDivisionError" in found.found) == ("disk", "fail", True)


def test_a_judge_that_breaks_does_not_stop_the_others():
    def divides(number):
        return ok("divides", str(1 // number))

    def repeats(number):
        return ok("repeats", str(number))

    found = list(judged(0, divides, repeats))
    assert [(finding.check, finding.level) for finding in found] == [("divides", "fail"), ("repeats", "ok")]
