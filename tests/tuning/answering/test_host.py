import socket
import stat
import threading
from contextlib import closing, contextmanager

import pytest
from waiting import until

from celora.errors import DeviceError, StorageError
from celora.storage.unix_socket import listen, short_path
from celora.tuning.answering.host import AnswerHost
from celora.tuning.answering.messages import (
    AnswerRequest,
    Done,
    Refused,
    Started,
    Turn,
    Words,
    line_of,
    parse_event,
)
from celora.tuning.answering.waiting_line import WAITING, WAITING_OF_TENANT

DONE = Done(text="hello", finish_reason="stop", prompt_tokens=3, completion_tokens=2)


def request_of(content="hi", tenant="a"):
    return AnswerRequest(
        owner=tenant, tenant=tenant, base_name="base", most_base_bytes=0, messages=[Turn(role="user", content=content)],
        max_new_tokens=4,
    )  # fmt: skip


class Model:
    """Stands for the model: answers at once, or holds an answer until the test or the client's end lets it go on."""

    def __init__(self):
        self.began, self.go_on, self.saw_end = threading.Event(), threading.Event(), threading.Event()
        self.asked = []
        self.host = None

    def waiting(self):
        return len(self.host._line._items)

    def __call__(self, request, client):
        content = request.messages[0].content
        self.asked.append(content)
        self.began.set()
        match content:
            case "hold":
                self.go_on.wait(200)
            case "until gone":
                client.send(Started(prompt_tokens=3))
                if client.gone.wait(200):
                    self.saw_end.set()
                return
            case "broken device":
                raise DeviceError("the device failed.")
            case "bad files":
                raise StorageError("another content than its manifest says.")
            case "fault":
                raise ValueError("of our own")
        client.send(Started(prompt_tokens=3))
        client.send(Words(text="hel"))
        client.send(Words(text="lo"))
        client.send(DONE)


@contextmanager
def served(path, idle_s=200.0):
    """A host at a path, on a thread; yields its model and that thread."""
    model = Model()
    with listen(path) as listener:
        model.host = AnswerHost(listener, model, idle_s)
        thread = threading.Thread(target=model.host.serve, daemon=True)
        thread.start()
        yield model, thread
        model.host.close()
        thread.join(200)


@pytest.fixture
def place(tmp_path):
    folder = tmp_path / ("long" * 30)
    folder.mkdir()
    return folder / "answer.sock"


def connect(path):
    client = socket.socket(socket.AF_UNIX)
    client.settimeout(200)
    with short_path(path) as short:
        client.connect(short)
    return client


def ask(path, *parts, **options):
    client = connect(path)
    client.sendall(line_of(request_of(*parts, **options)))
    return client


def events(client):
    with closing(client), client.makefile("rb") as lines:
        return [parse_event(line) for line in lines]


def test_events_come_in_order_over_a_socket_of_ones_own(place):
    with served(place):
        assert stat.S_IMODE(place.stat().st_mode) == 0o600
        assert events(ask(place)) == [Started(prompt_tokens=3), Words(text="hel"), Words(text="lo"), DONE]


def test_requests_are_answered_one_after_another_and_beyond_the_bounds_refused(place):
    with served(place) as (model, _):
        held = ask(place, "hold")
        assert model.began.wait(200)
        waiting = [ask(place, str(number)) for number in range(WAITING_OF_TENANT)]
        until(lambda: model.waiting() == WAITING_OF_TENANT)
        assert [one.code for one in events(ask(place, "one too many"))] == ["busy"]
        others = [ask(place, f"b{number}", tenant="b") for number in range(WAITING - WAITING_OF_TENANT)]
        until(lambda: model.waiting() == WAITING)
        assert [one.code for one in events(ask(place, "one too many", tenant="c"))] == ["busy"]
        assert model.asked == ["hold"]
        model.go_on.set()
        assert all(events(client)[-1] == DONE for client in [held, *waiting, *others])


def test_a_client_that_goes_away_stops_its_answer(place):
    with served(place) as (model, _):
        client = ask(place, "until gone")
        with client.makefile("rb") as lines:
            assert parse_event(lines.readline()) == Started(prompt_tokens=3)
        client.close()
        assert model.saw_end.wait(200)
        assert events(ask(place))[-1] == DONE


def test_a_client_that_goes_away_while_it_waits_is_not_answered(place):
    with served(place) as (model, _):
        held = ask(place, "hold")
        assert model.began.wait(200)
        gone, stays = ask(place, "gone"), ask(place, "stays")
        until(lambda: model.waiting() == 2)
        gone.close()
        until(lambda: sum(not client.gone.is_set() for _, (_, client) in model.host._line._items) == 1)
        model.go_on.set()
        assert events(held)[-1] == events(stays)[-1] == DONE
        assert model.asked == ["hold", "stays"]


@pytest.mark.parametrize(("content", "code"), [("bad files", "storage"), ("fault", "internal")])
def test_an_error_is_the_answer_of_one_request_alone(place, content, code):
    with served(place):
        (refused,) = events(ask(place, content))
        assert isinstance(refused, Refused)
        assert refused.code == code
        assert "of our own" not in refused.message
        assert events(ask(place))[-1] == DONE


def test_a_process_whose_device_failed_answers_nothing_more(place):
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(threading, "excepthook", lambda _: None)  # the process would end with this error
        with served(place) as (_, thread):
            (refused,) = events(ask(place, "broken device"))
            thread.join(200)
            assert (refused.code, thread.is_alive()) == ("device", False)


def test_a_line_that_is_no_request_is_refused(place):
    with served(place):
        client = connect(place)
        client.sendall(b'{"op": "from another version"}\n')
        (refused,) = events(client)
        assert refused.code == "internal"


def test_a_host_without_requests_leaves(place):
    with served(place, idle_s=0.0) as (_, thread):
        thread.join(200)
        assert not thread.is_alive()
