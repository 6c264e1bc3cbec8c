"""The auditor's judgement, on answers as pip-audit writes them; no network."""

import json
import sys
from datetime import date

import pytest
from audit import audit

DAY = date(2026, 11, 24)
WANTED = {"jinja2": "3.1.6", "celery": "5.7.0"}
HOLE = {
    "id": "PYSEC-2026-1",
    "fix_versions": ["3.1.7"],
    "aliases": ["CVE-2026-1", "GHSA-aaaa-bbbb-cccc"],
    "description": "x",
}
CLEAN = [{"name": "Jinja2", "version": "3.1.6", "vulns": []}, {"name": "celery", "version": "5.7.0", "vulns": []}]
HOLED = [{**CLEAN[0], "vulns": [HOLE]}, CLEAN[1]]
UNKNOWN = [{"name": "celery", "skip_reason": "Dependency not found on PyPI and could not be audited: celery (5.7.0)"}]


def test_a_clean_answer_about_all_that_was_asked_passes():
    assert audit.judge(CLEAN, WANTED, [], DAY) == []


def test_a_known_hole_fails_and_says_where_it_is_mended():
    assert audit.judge(HOLED, WANTED, [], DAY) == ["Jinja2 3.1.6 has PYSEC-2026-1; fixed in 3.1.7"]


@pytest.mark.parametrize("answer", [[], CLEAN[:1], [CLEAN[0], *UNKNOWN], [CLEAN[0], {**CLEAN[1], "version": "5.6.0"}]])
def test_a_package_that_was_not_audited_fails(answer):
    found = audit.judge(answer, WANTED, [], DAY)
    assert any(fault.startswith("celery 5.7.0 was not audited") for fault in found)


def test_a_package_that_nobody_asked_for_fails():
    more = [*CLEAN, {"name": "other", "version": "1", "vulns": []}]
    assert audit.judge(more, WANTED, [], DAY) == ["other was audited and nobody asked for it"]


@pytest.mark.parametrize("name", ["PYSEC-2026-1", "CVE-2026-1", "GHSA-aaaa-bbbb-cccc"])
def test_what_is_ignored_by_any_of_its_names_is_let_be_until_its_day(name):
    entry = audit.Ignored(name, "not reached", date(2026, 12, 1))
    assert audit.judge(HOLED, WANTED, [entry], DAY) == []
    (fault,) = audit.judge(HOLED, WANTED, [entry], date(2026, 12, 2))
    assert "let be until 2026-12-01" in fault


def test_an_entry_of_the_ignore_list_that_matches_nothing_fails():
    entry = audit.Ignored("CVE-2020-1", "gone", date(2027, 1, 1))
    assert audit.judge(CLEAN, WANTED, [entry], DAY) == ["ignored CVE-2020-1 matches nothing any more; take it out"]


def test_an_entry_needs_an_id_a_reason_and_a_day():
    whole = '[[ignored]]\nid = "CVE-1"\nreason = "because"\nuntil = 2027-01-31\n'
    assert audit.ignored(whole) == [audit.Ignored("CVE-1", "because", date(2027, 1, 31))]
    with pytest.raises(audit.NoAnswerError, match="reason"):
        audit.ignored('[[ignored]]\nid = "CVE-1"\nuntil = 2027-01-31\n')
    assert all(entry.reason for entry in audit.ignored(audit.IGNORED.read_text()))


def test_a_feed_that_does_not_know_a_known_hole_is_no_feed():
    audit.require_feed(lambda: HOLED, "pypi")
    for answer in ([], CLEAN, UNKNOWN):
        with pytest.raises(audit.NoAnswerError, match="Nothing was audited"):
            audit.require_feed(lambda answer=answer: answer, "pypi")
    with pytest.raises(audit.NoAnswerError, match=r"cannot be reached .*no name.* Nothing was audited"):
        audit.require_feed(lambda: audit.read("", "ConnectionError: no name"), "osv")


def test_an_answer_that_is_none_is_told_by_the_auditors_last_words():
    assert audit.read(json.dumps({"dependencies": CLEAN, "fixes": []}), "") == CLEAN
    for output in ("", "No known vulnerabilities found", "[]", "{}"):
        with pytest.raises(audit.NoAnswerError, match="could not resolve"):
            audit.read(output, "Traceback\n  ...\nConnectionError: could not resolve the feed\n")


def test_the_lock_is_read_whole_and_every_line_of_it_is_a_pin():
    locked = audit.pinned(audit.LOCK.read_text())
    lines = [line for line in audit.LOCK.read_text().splitlines() if line and not line.startswith("#")]
    assert len(locked) == len(lines) > 100
    assert locked["huggingface-hub"]
    for wrong in ("", "# nothing\n", "celery\n", "celery>=5\n"):
        with pytest.raises(audit.NoAnswerError, match=r"constraints\.txt pins"):
            audit.pinned(wrong)


def test_what_is_installed_in_another_version_than_locked_is_told():
    assert audit.drift({"a": "1", "b": "2"}, {"a": "1"}) == []
    (fault,) = audit.drift({"a": "1"}, {"a": "2"})
    assert fault.startswith("a 2 is installed and 1 is locked")
    assert {"celery", "pytest"} <= set(audit.here())


PROGRAM = """#!{python}
import json, pathlib, sys
asked = pathlib.Path(sys.argv[sys.argv.index("--requirement") + 1]).read_text().split()
known = [line.partition("==")[::2] for line in asked]
holes = {{"jinja2==2.11.2": ["CVE-2020-28493"]}}

def vulns(name, version):
    return [{{"id": one, "aliases": [], "fix_versions": []}} for one in holes.get(name + "==" + version, [])]

told = [{{"name": name, "version": version, "vulns": vulns(name, version)}} for name, version in known{limit}]
print(json.dumps({{"dependencies": told, "fixes": []}}))
"""


@pytest.mark.parametrize(
    ("limit", "code"), [("", 0), ("[:1]", 1)], ids=["a feed that knows all", "one that stops early"]
)
def test_the_whole_program_asks_about_every_locked_and_installed_package(tmp_path, capsys, monkeypatch, limit, code):
    program = tmp_path / "pip-audit"
    program.write_text(PROGRAM.format(python=sys.executable, limit=limit))
    program.chmod(0o755)
    monkeypatch.setattr(audit, "drift", lambda *_: [])  # an environment under work may be ahead of the lock
    assert audit.main([str(program)]) == code
    told = capsys.readouterr().err
    assert ("passed" in told) == (code == 0)
    assert f"{len(audit.pinned(audit.LOCK.read_text()))} locked" in told
