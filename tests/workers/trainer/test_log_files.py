"""Logs that are cut while another process writes to them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from celora.workers.trainer.log_files import cap, log_tail, mask


@pytest.fixture
def log(tmp_path):
    return tmp_path / "job.log"


def test_a_log_within_its_limit_is_left_alone(log):
    log.write_text("short\n")
    assert not cap(log, 100)
    assert not cap(log.with_name("none"), 100)
    assert log.read_text() == "short\n"


def test_a_log_that_grew_too_large_keeps_its_beginning_and_its_end(log):
    log.write_bytes(b"first line\n" + b"flood\n" * 10_000 + b"ValueError: the last line\n")
    before = log.stat().st_size
    assert cap(log, 4000)
    told = log.read_text()
    assert told.startswith("first line\n")
    assert told.endswith("ValueError: the last line\n")
    assert f"--- {before - 2000} bytes are left out here" in told
    assert log.stat().st_size < 4000 // 2 + 200


def test_no_limit_cuts_nothing(log):
    log.write_bytes(b"x" * 1000)
    assert not cap(log, 0)
    assert log.stat().st_size == 1000


def test_a_process_goes_on_writing_to_a_log_that_was_cut_and_is_never_blocked(log):
    program = (
        "import sys\nfor line in sys.stdin:\n    print(line.strip() * 500, flush=True)\n    sys.stderr.write('ok\\n')"
    )
    command, pipe = [sys.executable, "-u", "-c", program], subprocess.PIPE
    with log.open("ab") as output:
        writer = subprocess.Popen(command, stdin=pipe, stdout=output, stderr=pipe, text=True)
    for number in range(40):
        writer.stdin.write(f"{number:02d}\n")
        writer.stdin.flush()
        assert writer.stderr.readline() == "ok\n"
        cap(log, 8000)
        assert log.stat().st_size <= 8000
    writer.communicate()
    lines = log.read_text().splitlines()
    assert lines[0] == "00" * 500
    assert lines[-1] == "39" * 500
    assert b"\0" not in log.read_bytes()


def test_the_tail_of_a_log_is_its_last_lines(log):
    log.write_text("\n".join(map(str, range(100))) + "\n")
    assert log_tail(log, 3) == "97\n98\n99"
    assert log_tail(Path(os.devnull).with_name("no such file")) == ""


def test_of_a_progress_bar_the_tail_holds_the_last_state_alone(log):
    log.write_bytes(b"before\n" + b"".join(b"step %d of 900\r" % step for step in range(900)) + b"\nafter\n")
    assert log_tail(log, 3) == "before\nstep 899 of 900\nafter"


def test_the_line_that_names_the_exception_is_kept_under_a_flood(log):
    log.write_text("Traceback (most recent call last):\nRuntimeError: it broke\n" + "noise\n" * 500)
    assert log_tail(log, 2) == "RuntimeError: it broke\n…\nnoise\nnoise"


def test_an_endless_line_is_cut(log):
    log.write_bytes(b"x" * 10**6)
    assert len(log_tail(log)) == 2000


def test_a_secret_that_a_library_printed_is_masked_once_the_log_is_finished(log, home):
    token = "hf_" + "a1" * 15
    log.write_bytes(f"fetching\rfetching\nAuthorization: {token}\nü\xff\n".encode("latin-1"))
    assert mask(log)
    assert log.read_bytes() == "fetching\rfetching\nAuthorization: [secret masked]\n\ufffd\ufffd\n".encode()
    assert not mask(log)
    assert not mask(log.with_name("none"))
    assert [path.name for path in log.parent.glob("*.masked")] == []


def test_the_tail_of_a_log_that_goes_into_the_record_holds_no_secret(log, home):
    log.write_text("ValueError: redis://:broker-password@host/0\n")
    assert log_tail(log) == "ValueError: redis://:[secret masked]@host/0"
