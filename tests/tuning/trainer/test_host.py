"""The order, the waiting and the end of the runs of a host; the carrier of these tests needs no torch."""

import os
import socket
import threading
from contextlib import contextmanager

import pytest
from trainer_host import Hosted
from waiting import until

from celora.storage.unix_socket import listen, short_path
from celora.tuning.protocol import Base, GenerateRequest
from celora.tuning.trainer import host as host_module
from celora.tuning.trainer.host import TrainerHost
from celora.tuning.trainer.host_admission import refusal
from celora.tuning.trainer.host_messages import DropBase, Final, Greeting, Leave, Opening, line_of

BASE = Base(source="b", kind="folder", name="b", revision="1", parameters=1, context_tokens=8, model_type="llama")


class Carrier:
    """Carries a run by waiting until it may go on, or has to stop."""

    def __init__(self):
        self.broken, self.carried, self.dropped = False, [], 0
        self.began, self.go_on = threading.Event(), threading.Event()

    def refusal(self, opening, request):
        return refusal(opening, request, device="cpu", threads=0)

    def carry(self, run):
        self.carried.append(run.name)
        self.began.set()
        os.write(run.log, f"log of {run.name}\n".encode())
        until(lambda: self.go_on.is_set() or run.watch.stop.is_set())
        self.broken = run.request.prompts == ["break"]
        return Final(exit=75 if run.watch.stop.is_set() else 0)

    def greeting(self, runs):
        fields = {"versions": {}, "device": "cpu", "threads": 0, "started_at": 0.0, "memory_bytes": 0}
        return Greeting(generation="g", pid=os.getpid(), runs=runs, **fields)

    def drop_base(self):
        self.dropped += 1


def request_of(job="j", attempt=1, **fields):
    return GenerateRequest(
        **{"job": job, "attempt": attempt, "cache_dir": "/c", "base": BASE, "prompts": ["a"], **fields}
    )


class Served:
    def __init__(self, place, host, carrier, thread, reports):
        self.place, self.host, self.carrier, self.thread, self.reports = place, host, carrier, thread, reports
        self.codes, self.said, self.clients = [], [], []

    def run(self, *parts, opening=None, **fields):
        self.clients.append(Hosted(self.place, request_of(*parts, **fields), opening))
        return self.clients[-1]

    def inside(self):
        """The runs inside and waiting."""
        client = Hosted(self.place)
        client.close()
        return client.greeting.runs

    def say(self, *lines):
        """Send lines as a client; return the rest of the answer after the greeting."""
        with socket.socket(socket.AF_UNIX) as client:
            with short_path(self.place) as place:
                client.connect(place)
            with client.makefile("rb") as answer:
                answer.readline()
                client.sendall(b"".join(lines))
                return answer.read()


@contextmanager
def served(tmp_path, idle_s=200.0, slots=1):
    carrier, reports = Carrier(), []
    with listen(tmp_path / "s") as listener:
        found = Served(tmp_path / "s", None, carrier, None, reports)
        found.host = TrainerHost(listener, carrier, idle_s, slots=slots, report=reports.append, say=found.said.append)
        found.thread = threading.Thread(target=lambda: found.codes.append(found.host.serve()), daemon=True)
        found.thread.start()
        yield found
        for client in found.clients:
            client.close()
        carrier.go_on.set()
        found.host.leave()
        found.thread.join(200)
        assert not found.thread.is_alive()


def test_runs_are_carried_in_the_order_of_their_arrival_and_named_while_they_are_inside(tmp_path):
    with served(tmp_path) as one:
        first = one.run("first")
        assert one.carrier.began.wait(200)
        others = []
        for name in ("second", "third"):
            others.append(one.run(name))
            until(lambda name=name: f"{name}:1" in one.inside())
        assert one.inside() == ["first:1", "second:1", "third:1"]
        one.carrier.go_on.set()
        assert [run.end() for run in (first, *others)] == [0, 0, 0]
    assert one.carrier.carried == ["first:1", "second:1", "third:1"]
    assert one.reports == [["first:1"], [], ["second:1"], [], ["third:1"], []]


def test_a_run_that_waits_says_so_and_can_be_withdrawn(tmp_path, monkeypatch):
    monkeypatch.setattr(host_module, "WAITING_S", 0.02)
    with served(tmp_path) as one:
        one.run("first")
        assert one.carrier.began.wait(200)
        second, third = one.run("second"), one.run("third")
        assert second.until("phase")["phase"] == host_module.WAITING
        third.until("phase")
        second.control("cancel")
        assert second.end() == 75
        assert second.seen[-1] | {"event": "drained", "job": "second", "attempt": 1, "step": 0} == second.seen[-1]
        third.close()  # its supervisor is gone
        until(lambda: one.inside() == ["first:1"])
    assert one.carrier.carried == ["first:1"]


def test_a_control_of_another_job_or_attempt_changes_nothing(tmp_path):
    with served(tmp_path) as one:
        run = one.run("j", 2)
        assert one.carrier.began.wait(200)
        run.socket.sendall(b"no json\n[]\n{}\n")
        for fields in ({"attempt": 1}, {"job": "another"}, {"op": "dance"}):
            run.control(**{"op": "drain", **fields})
        run.control("kept", step=7)
        inside = one.host._inside[0]
        until(lambda: inside.watch.acks._step == 7)
        assert not inside.watch.stop.is_set()
        run.control("drain")
        assert run.end() == 75


@pytest.mark.parametrize("unread", [False, True])
def test_the_end_of_a_supervisor_stops_its_run_alone(tmp_path, unread):
    with served(tmp_path) as one:
        lone = one.run("lone")
        assert one.carrier.began.wait(200)
        if unread:  # the kernel then resets the connection
            one.host._inside[0].events.emit("note", level="info", message="nobody reads this")
        lone.close()
        until(lambda: ["lone:1"] in one.reports and one.reports[-1] == [])
        one.carrier.go_on.set()
        assert one.run("next").end() == 0
        assert any("the supervisor of lone:1 is gone" in line for line in one.said)


def test_leaving_refuses_what_waits_and_lets_the_present_run_end(tmp_path):
    with served(tmp_path) as one:
        first = one.run("first")
        assert one.carrier.began.wait(200)
        second = one.run("second")
        until(lambda: "second:1" in one.inside())
        assert one.say(line_of(Leave())) == b""
        third = one.run("third")
        for run in (third, second):
            if run is second:
                one.carrier.go_on.set()
            assert run.until_refused() == "leaving"
        assert first.end() == 0
        one.thread.join(200)
        assert one.codes == [0]


def test_a_drain_of_the_host_drains_its_run(tmp_path):
    with served(tmp_path) as one:
        run = one.run()
        assert one.carrier.began.wait(200)
        one.host.drain()
        assert run.end() == 75
        one.thread.join(200)
        assert one.codes == [0]


def test_a_broken_process_carries_no_other_run(tmp_path):
    with served(tmp_path) as one:
        first = one.run(prompts=["break"])
        assert one.carrier.began.wait(200)
        second = one.run("second")
        until(lambda: "second:1" in one.inside())
        one.carrier.go_on.set()
        assert first.end() == 0
        assert second.until_refused() == "leaving"
        one.thread.join(200)
        assert one.codes == [71]


def test_a_host_without_work_ends(tmp_path):
    with served(tmp_path, idle_s=0.05) as one:
        one.thread.join(200)
        assert one.codes == [0]


def test_the_idle_time_of_a_host_with_slots_begins_when_its_last_run_has_left(tmp_path, monkeypatch):
    monkeypatch.setattr(host_module, "ASK_AGAIN_S", 0.05)
    with served(tmp_path, slots=2) as one:
        run = one.run("first")
        assert one.carrier.began.wait(200)
        one.carrier.go_on.set()
        assert run.end() == 0
        one.thread.join(0.5)
        assert one.thread.is_alive()
        assert one.run("second").end() == 0


def test_the_base_is_dropped_between_runs_only(tmp_path):
    with served(tmp_path) as one:
        run = one.run()
        assert one.carrier.began.wait(200)
        assert one.say(line_of(DropBase())) == b""
        assert one.carrier.dropped == 0
        one.carrier.go_on.set()
        assert run.end() == 0
        until(lambda: one.reports[-1] == [])
        one.say(line_of(DropBase()))
        assert one.carrier.dropped == 1


def test_a_request_that_may_not_enter_is_refused_with_its_reason(tmp_path):
    with served(tmp_path) as one:
        run = one.run(opening=Opening(variables=["HF_TOKEN"]))
        assert run.until_refused() == "secrets"
        assert one.run(threads=4).until_refused() == "threads"


@pytest.mark.parametrize("lines", [b"", b"\n", b"{\n", b'{"op": "open"}\n{}\n', b"\xff\n"])
def test_a_client_that_does_not_speak_the_protocol_is_dropped_and_the_host_goes_on(tmp_path, lines):
    with served(tmp_path) as one:
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(one.place))
            client.sendall(lines)
            client.shutdown(socket.SHUT_WR)
            with client.makefile("rb") as answer:
                assert len(answer.readlines()) == 1  # the greeting
        one.carrier.go_on.set()
        assert one.run().end() == 0


def test_a_line_that_is_no_request_is_answered_as_by_a_process(tmp_path):
    with served(tmp_path) as one:
        run = Hosted(one.place)
        with open(os.devnull, "wb") as log:  # noqa: PTH123  (a device)
            socket.send_fds(run.socket, [line_of(Opening()) + b'{"op": "dance"}\n'], [log.fileno()])
        assert run.end() == 64
        assert run.seen[0]["error"]["message"].startswith("The trainer cannot read its request: ")
