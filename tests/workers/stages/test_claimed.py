"""A claimed stage is frozen data; a drain and a note concern its job alone."""

import os
import threading
from dataclasses import FrozenInstanceError

import pytest

from celora.models.jobs import transitions
from celora.models.states import Reason, Stage
from celora.workers.signal_files import Markers
from celora.workers.stages.claimed import drain_on, is_draining, note


def test_a_claimed_stage_cannot_be_changed_and_reports_ids_alone(installation):
    with installation.claimed(Stage.PREPARE) as stage:
        with pytest.raises(FrozenInstanceError):
            stage.stage = Stage.TRAIN
        assert stage.report == {"job": "j", "stage": "prepare", "attempt": 1}
        assert stage.claim.worker_id == "cpu-0@here"


def test_an_event_drains_the_stages_of_its_own_job(installation):
    leaving = threading.Event()
    with installation.claimed(Stage.PREPARE) as stage:
        with drain_on(leaving, "another"):
            leaving.set()
            assert not is_draining(stage)
        with drain_on(leaving, "j"):
            assert is_draining(stage)
        assert not is_draining(stage)


def test_a_file_of_the_parent_process_drains_every_stage(installation):
    markers = Markers(installation.settings.home / "run")
    with installation.claimed(Stage.PREPARE) as stage:
        assert not is_draining(stage)
        markers.set(markers.drain(os.getppid()))
        assert is_draining(stage)


def test_a_note_is_written_while_the_claim_holds_and_not_after(installation):
    with installation.claimed(Stage.TRAIN) as stage:
        note(stage, "info", "resumed", "while it is ours")
        installation.write(transitions.release, stage.claim, Reason.PREEMPTED)
        note(stage, "info", "resumed", "of a worker that slept through its lease")
    assert installation.kinds().count("resumed") == 1
