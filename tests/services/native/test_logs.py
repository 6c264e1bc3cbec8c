"""A tenant reads the whole logs of its job, piece by piece and in its own words."""

import pytest

from celora.errors import RequestError
from celora.models.states import Stage
from celora.services.native import logs
from celora.settings.settings import get_settings


@pytest.fixture
def write(artifacts, tmp_path):
    """Writes a log of the first attempt."""

    def write(stage, content):
        (tmp_path / "log").write_bytes(content)
        artifacts.put_file(tmp_path / "log", artifacts.uri("jobs", "job-1", "logs", f"001-{stage}.log"))

    return write


def whole(name, tenant="team-a"):
    """The text of a log, read to its end."""
    text, after = "", 0
    while True:
        piece = logs.read_log(tenant, "job-1", name, after=after, settings=get_settings())
        text, after = text + piece.text, piece.next
        if not piece.more:
            return text


def test_logs_are_listed_in_the_order_of_the_work(submit, write):
    submit()
    write(Stage.TRAIN, b"2\n")
    write(Stage.PREPARE, b"one\n")
    found, ended = logs.list_logs("team-a", "job-1", get_settings())
    assert [(one.name, one.size_bytes) for one in found] == [("001-prepare.log", 4), ("001-train.log", 2)]
    assert ended is False


def test_pieces_make_the_whole_and_hold_back_a_line_that_is_still_written(submit, write, monkeypatch):
    monkeypatch.setattr(logs, "PIECE_BYTES", 8)
    moved = submit()
    write(Stage.TRAIN, "one\ntwo\r50%\nthrée\nfou".encode())
    assert whole("001-train.log") == "one\ntwo\r50%\nthrée\n"
    moved.complete()
    assert whole("001-train.log") == "one\ntwo\r50%\nthrée\nfou"


def test_a_line_longer_than_a_piece_does_not_stop_a_reader(submit, write, monkeypatch):
    monkeypatch.setattr(logs, "PIECE_BYTES", 4)
    submit()
    write(Stage.TRAIN, b"0123456789\nend\n")
    assert whole("001-train.log") == "0123456789\nend\n"


def test_an_offset_beyond_the_end_counts_as_the_end(submit, write):
    submit().complete()
    write(Stage.TRAIN, b"short\n")
    piece = logs.read_log("team-a", "job-1", "001-train.log", after=10**12, settings=get_settings())
    assert (piece.text, piece.next, piece.more) == ("", 6, False)


def test_no_machine_and_no_folder_is_named(submit, write):
    submit().complete()
    write(Stage.TRAIN, b"on w@here\nreads /srv/secret/store/x\n")
    text = whole("001-train.log")
    assert "w@here" not in text
    assert "/srv/secret" not in text


def test_anothers_log_is_not_there(submit, write):
    submit()
    write(Stage.TRAIN, b"ours\n")
    for read in (
        lambda: logs.list_logs("team-b", "job-1", get_settings()),
        lambda: whole("001-train.log", tenant="team-b"),
    ):
        with pytest.raises(RequestError) as caught:
            read()
        assert (caught.value.status, caught.value.reason) == (404, "job_not_found")
