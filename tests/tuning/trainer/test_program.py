"""The trainer program as its supervisor sees it: a request line in, event lines out, an exit code."""

import json
import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

from celora.storage.manifest import verify_manifest
from celora.tuning.training import checkpoint

pytestmark = pytest.mark.slow


class Program:
    """The running program; ``events`` yields what it says until it ends."""

    def __init__(self, process, lines):
        self.process, self.lines, self.seen = process, lines, []

    def send(self, line):
        self.process.stdin.write(line.encode() + b"\n")
        self.process.stdin.flush()

    def events(self):
        for line in self.lines:
            event = json.loads(line)
            self.seen.append(event)
            yield event

    def until(self, name, step=None):
        for event in self.events():
            if event["event"] == name and step in {None, event.get("step")}:
                return event
        raise AssertionError(f"the program ended without {name} {step}: {self.process.stderr.read().decode()}")

    def end(self):
        """The exit code, once it is gone."""
        for _ in self.events():
            pass
        return self.process.wait(timeout=240)

    @property
    def names(self):
        return [event["event"] for event in self.seen]


@contextmanager
def running(request=None):
    read_end, write_end = os.pipe()
    command = [sys.executable, "-m", "celora.tuning.trainer", "--events-fd", str(write_end)]
    with (
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, pass_fds=[write_end]
        ) as process,
        os.fdopen(read_end) as lines,
    ):
        os.close(write_end)
        program = Program(process, lines)
        if request is not None:
            program.send(request.model_dump_json())
        try:
            yield program
        finally:
            process.kill()


def error_of(program):
    return next(event["error"] for event in program.seen if event["event"] == "failed")


def test_a_train_request_from_the_shell_ends_in_done_and_an_adapter(make_request):
    request = make_request(max_steps=2, quantization="nf4")
    with running(request) as program:
        assert program.end() == 0
        assert program.process.stdout.read() is not None
    assert program.names[-1] == "done"
    assert {(event["v"], event["job"], event["attempt"]) for event in program.seen} == {(1, "job", 1)}
    result = program.seen[-1]["result"]
    assert verify_manifest(Path(result["adapter_dir"]))["step"] == 2


@pytest.mark.parametrize("how", ["end of file", "SIGTERM", "cancel"])
def test_each_way_to_end_it_drains_at_a_step_boundary_with_exit_code_75(make_request, how):
    request = make_request(epochs=100)
    with running(request) as program:
        program.send('{"op": "cancel", "job": "another"}')
        program.send("not json")
        program.until("progress", step=3)
        match how:
            case "end of file":
                program.process.stdin.close()
            case "SIGTERM":
                program.process.send_signal(signal.SIGTERM)
                program.process.send_signal(signal.SIGTERM)
            case _:
                program.send('{"op": "cancel", "job": "job"}')
        assert program.end() == 75
        assert b"not a JSON line on standard input" in program.process.stderr.read()
    assert program.names[-2:] == ["checkpoint", "drained"]
    step = program.seen[-1]["step"]
    assert step >= 3
    assert step == max(event["step"] for event in program.seen if event["event"] == "progress")
    assert checkpoint.committed(Path(request.out_dir) / "checkpoints")[0][0] == step


def test_when_nobody_reads_its_events_it_drains(make_request):
    request = make_request(epochs=100)
    with running(request) as program:
        program.until("progress", step=2)
        program.lines.close()
        assert program.process.wait(timeout=240) == 75
    assert checkpoint.committed(Path(request.out_dir) / "checkpoints")


def test_before_the_first_step_it_leaves_at_once(make_request):
    with running(make_request(epochs=100)) as program:
        program.until("phase")
        program.process.send_signal(signal.SIGTERM)
        assert program.end() == 75
    assert program.seen[-1]["event"] == "drained"


def test_end_of_file_in_place_of_a_request_is_no_error():
    with running() as program:
        program.process.stdin.close()
        assert program.end() == 75
    assert program.seen == []


@pytest.mark.parametrize("line", ["{", '{"op": "dance", "job": "j", "attempt": 1}', '{"op": "train", "v": 1}'])
def test_a_line_that_is_no_request_is_refused_in_one_sentence(line):
    with running() as program:
        program.send(line)
        assert program.end() == 64
        assert b"Traceback" not in program.process.stderr.read()
    assert error_of(program)["code"] == "bad_settings"
    assert error_of(program)["message"].startswith("The trainer cannot read its request: ")


def test_an_error_that_we_explain_has_its_code_its_hint_and_its_exit_code(make_request):
    with running(make_request(target_modules=["c_attn"])) as program:
        assert program.end() == 64
        assert b"SettingsError" in program.process.stderr.read()
    error = error_of(program)
    assert error["code"] == "bad_settings"
    assert "names c_attn" in error["message"]
    assert "all-linear" in error["hint"]


def test_any_other_error_becomes_one_line_and_the_traceback_goes_to_the_log(make_request, tiny_prepared, tmp_path):
    import shutil

    broken = tmp_path / "prepared"
    shutil.copytree(tiny_prepared, broken)
    (broken / "train.tokens.npy").write_bytes(b"no numbers")
    with running(make_request(prepared=broken)) as program:
        assert program.end() == 70
        assert b"Traceback" in program.process.stderr.read()
    error = error_of(program)
    assert error["code"] == "internal"
    assert error["message"].startswith("ValueError: ")
    assert "\n" not in error["message"]


def test_the_program_starts_without_torch():
    code = "import sys, celora.tuning.trainer; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
