"""Named locks: two changes of one thing never overlap."""

import threading

import pytest

from celora.errors import UnavailableError
from celora.services import locks


def test_changes_of_one_thing_follow_each_other(record):
    inside, seen = [], []

    def change(session):
        inside.append(1)
        seen.append(len(inside))
        inside.pop()

    threads = [threading.Thread(target=locks.with_lock, args=("a", change)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [1, 1, 1, 1]


def test_a_lock_that_is_never_free_is_an_answer(record, monkeypatch):
    monkeypatch.setattr(locks, "TRIES", 2)
    monkeypatch.setattr(type(record), "advisory_lock", lambda *_: False)
    with pytest.raises(UnavailableError, match="again"):
        locks.with_lock("a", lambda session: 1)
