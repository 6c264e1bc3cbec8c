"""Checks of files: good rows, bad lines, and a process that cannot run; each file ends."""

from datetime import timedelta

import pytest

from celora.errors import UnavailableError
from celora.models.scope.scope import Scope
from celora.models.tables import File
from celora.services import datasets
from celora.services.openai import file_checks, files
from celora.settings.settings import get_settings

GOOD = b'{"prompt": "one", "completion": "1"}\n'


@pytest.fixture
def checked(file, installation, index_here):
    """Makes a file, checks it, and returns its view."""

    def make(content, **options):
        made = file(content, **options)
        file_checks.check(installation, get_settings(), made.id)
        return files.find("default", made.id)

    return make


def test_good_rows_are_processed(checked):
    found = checked(GOOD)
    assert (found.status, found.status_details) == ("processed", None)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (GOOD + b'{"prompt": \n', "line 2"),
        (GOOD + b'{"prompt": "one"}\n', "line 2"),
        (b'{"messages": [{"role": "user", "content": "one"}]}\n' + GOOD, "line 1"),
        (b"\n\n", "holds no rows"),
        (b"\xff\xfe\x00", "line 1"),
    ],
)
def test_bad_lines_are_named(checked, content, words):
    found = checked(content)
    assert found.status == "error"
    assert words in found.status_details


def test_a_check_that_cannot_run_is_tried_again_and_ends(file, installation, monkeypatch):
    def away(*_, **__):
        raise UnavailableError("no room")

    monkeypatch.setattr(datasets, "run_once", away)
    made, seen = file(), []
    for _ in range(3):
        file_checks.check(installation, get_settings(), made.id)
        seen.append(files.find("default", made.id).status)
        with installation.transaction(Scope.everything) as session:
            session.get_one(File, made.id).checked_until -= timedelta(days=1)
    assert seen == ["uploaded", "uploaded", "error"]
    assert "could not be checked" in files.find("default", made.id).status_details


def test_a_lost_message_is_sent_again(file, installation, monkeypatch):
    made, sent = file(), []
    monkeypatch.setattr(file_checks, "request_check", lambda file_id: sent.append(file_id) or True)
    file_checks.request_missing(installation)
    assert sent == []
    with installation.transaction(Scope.everything) as session:
        session.get_one(File, made.id).check_sent_at -= timedelta(hours=1)
    file_checks.request_missing(installation)
    assert sent == [made.id]
