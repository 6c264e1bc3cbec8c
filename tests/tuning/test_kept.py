"""The wait for a checkpoint to be put away: it ends by the supervisor's word, or when the run is to end."""

import threading

from celora.tuning.kept import Kept


def waiting(kept, step):
    thread = threading.Thread(target=kept.wait, args=(step,))
    thread.start()
    return thread


def test_the_run_goes_on_at_the_word_for_its_step_and_not_before():
    kept = Kept(threading.Event())
    thread = waiting(kept, 50)
    kept.tell(25)
    thread.join(0.2)
    assert thread.is_alive()
    kept.tell(50)
    thread.join(5)
    assert not thread.is_alive()
    kept.wait(25)  # long since


def test_a_run_that_is_to_end_waits_for_nobody():
    stop = threading.Event()
    thread = waiting(Kept(stop), 50)
    stop.set()
    thread.join(5)
    assert not thread.is_alive()
