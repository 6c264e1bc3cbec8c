import contextvars
import os
import signal
import time

import pytest
from waiting import until

from celora.tuning import resource_limits
from celora.tuning.prepare import worker_pool
from celora.tuning.protocol import Limits


def shared(work, pieces, count=2):
    return list(worker_pool.shared_out(work, pieces, count))


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_results_come_in_the_order_of_the_pieces_whoever_is_faster():
    def work(piece):
        time.sleep(0.02 * (piece % 3))
        return piece, os.getpid()

    found = shared(work, range(20), 3)
    assert [piece for piece, _ in found] == list(range(20))
    assert [result[0] for _, result in found] == list(range(20))
    pids = {result[1] for _, result in found}
    assert 1 < len(pids) <= 3
    assert os.getpid() not in pids
    assert not any(map(alive, pids))


def test_a_result_that_no_pipe_holds_comes_whole():
    found = shared(lambda piece: bytes([piece]) * 3_000_000, range(6))
    assert all(result == bytes([piece]) * 3_000_000 for piece, result in found)


def test_pieces_of_a_copy_that_fails_are_given_back(capfd):
    def work(piece):
        if piece == 3:
            raise ValueError("no such row")
        return piece

    found = shared(work, range(12))
    assert (3, None) in found
    assert [piece for piece, _ in found] == list(range(12))
    assert all(result in (piece, None) for piece, result in found)
    assert any(result is not None for piece, result in found if piece > 3), "the other copy goes on"
    assert "no such row" in capfd.readouterr().err


def test_with_every_copy_gone_all_is_given_back():
    def work(_piece):
        os.kill(os.getpid(), signal.SIGKILL)

    assert shared(work, range(9)) == [(piece, None) for piece in range(9)]


def test_where_no_process_can_be_made_all_is_given_back(monkeypatch):
    def refuse():
        raise BlockingIOError

    monkeypatch.setattr(os, "fork", refuse)
    assert shared(str, range(3)) == [(piece, None) for piece in range(3)]


def test_who_asks_for_no_more_leaves_no_copy():
    found = worker_pool.shared_out(lambda _piece: os.getpid(), range(1000), 2)
    pids = {next(found)[1] for _ in range(4)}
    found.close()
    assert not any(map(alive, pids))


def test_pieces_are_asked_for_as_they_are_needed():
    asked = []

    def pieces():
        for piece in range(1000):
            asked.append(piece)
            yield piece

    found = worker_pool.shared_out(str, pieces(), 2)
    next(found)
    found.close()
    assert len(asked) <= 2 * worker_pool.WAITING_PIECES + 1


def test_a_copy_ends_with_its_parent():
    """Of a parent that is killed nobody closes the pipe; the kernel ends the copy."""
    ours, theirs = os.pipe()
    parent = os.fork()
    if not parent:
        for _ in worker_pool.shared_out(lambda _: (os.write(theirs, b"%d\n" % os.getpid()), time.sleep(60)), [1], 1):
            pass
        os._exit(0)
    copy = int(os.read(ours, 100))
    os.kill(parent, signal.SIGKILL)
    os.waitpid(parent, 0)
    until(lambda: not alive(copy) or state(copy) == "Z")
    os.close(ours)
    os.close(theirs)


def state(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:  # noqa: PTH123  (no path, a kernel's table)
            return file.read().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return "gone"


def test_the_time_of_copies_counts_for_the_limit_on_cpu_time():
    ended, context = [], contextvars.copy_context()
    guard = resource_limits.Guard(Limits(), ended.append)
    context.run(resource_limits._guard.set, guard)

    def work(_piece):
        until = time.process_time() + 0.05
        while time.process_time() < until:
            pass

    context.run(shared, work, range(4))
    assert guard._copies_cpu_s >= 0.2


@pytest.mark.parametrize(("asked", "most"), [(0, worker_pool.MOST_PROCESSES), (1, 1), (3, 3)])
def test_there_are_no_more_copies_than_cores_and_than_asked_for(asked, most):
    assert 1 <= worker_pool.processes(asked) <= min(most, os.cpu_count())
