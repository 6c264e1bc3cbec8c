"""The messages between a worker and a trainer host, as lines and as files."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from celora.tuning.trainer import host_messages
from celora.tuning.trainer.host_messages import (
    Control,
    DropBase,
    ExitReport,
    Final,
    Greeting,
    Leave,
    Opening,
    Resident,
    line_of,
    parse_first,
)


@pytest.mark.parametrize("first", [Opening(tenant="a", variables=["HF_TOKEN"]), Leave(), DropBase()])
def test_the_first_line_of_a_client_is_read_as_it_was_written(first):
    line = line_of(first)
    assert line.count(b"\n") == 1
    assert parse_first(line) == first


@pytest.mark.parametrize("line", [b"", b"{", b'{"op": "dance"}', b'{"op": "open", "exclusive": "perhaps"}'])
def test_any_other_first_line_is_refused(line):
    with pytest.raises(ValidationError):
        parse_first(line)


def test_a_greeting_of_a_newer_version_can_be_read_so_that_its_version_is_seen():
    resident = Resident(
        base="b", revision="r", quantization="nf4", compute_dtype="bfloat16", memory_bytes=1, runs=2, loaded_at=3.0
    )
    greeting = Greeting(
        generation="g", pid=1, versions={}, device="cpu", threads=1, started_at=0.0, memory_bytes=5, resident=resident
    )
    newer = greeting.model_dump(mode="json") | {"host": 99, "colour": "blue"}
    assert Greeting.model_validate(newer) == greeting.model_copy(update={"host": 99})


def test_a_control_names_the_job_and_the_attempt():
    with pytest.raises(ValidationError):
        Control.model_validate({"op": "cancel", "job": "j"})


def test_the_end_of_a_run_and_of_a_host_are_lines_too():
    assert Final.model_validate_json(line_of(Final(exit=75))) == Final(exit=75)
    report = ExitReport(generation="g", code=None, signal=9, runs=["j:1"])
    assert ExitReport.model_validate_json(line_of(report)) == report


def test_the_files_of_a_host_lie_beside_its_socket():
    socket = Path("/run/trainer-0.sock")
    assert host_messages.lock_path(socket) == Path("/run/trainer-0.lock")
    assert host_messages.exit_path(socket, "ab12") == Path("/run/trainer-0.ab12.exit")


def test_an_owner_is_named_with_its_start_so_that_its_process_id_means_no_other_process():
    pid, start = host_messages.owner_argument().split(":")
    assert int(pid) == os.getpid()
    assert int(start) == host_messages.start_of(os.getpid()) > 0
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        assert host_messages.start_of(child.pid) >= int(start)
        assert host_messages.owner_argument(child.pid).startswith(f"{child.pid}:")
        child.communicate(b"\n")
    assert host_messages.start_of(child.pid) == 0
