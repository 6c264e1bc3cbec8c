"""The wait for a checkpoint to be stored: the supervisor's acknowledgement ends it, or the end of the run."""

import threading

from celora.tuning.trainer.checkpoint_ack import CheckpointAcks


def waiting(acks, step):
    thread = threading.Thread(target=acks.wait, args=(step,))
    thread.start()
    return thread


def test_the_run_goes_on_at_the_acknowledgement_of_its_step_and_not_before():
    acks = CheckpointAcks(threading.Event())
    thread = waiting(acks, 50)
    acks.confirm(25)
    thread.join(0.2)
    assert thread.is_alive()
    acks.confirm(50)
    thread.join(5)
    assert not thread.is_alive()
    acks.wait(25)  # long since


def test_a_run_that_is_to_end_waits_for_nobody():
    stop = threading.Event()
    thread = waiting(CheckpointAcks(stop), 50)
    stop.set()
    thread.join(5)
    assert not thread.is_alive()
