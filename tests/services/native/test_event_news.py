"""The new events of many jobs by one read, on both databases."""

import pytest
from moved_job import Moved

from celora.errors import UnavailableError
from celora.models.events import record_event
from celora.models.jobs import accept
from celora.models.scope.scope import Scope
from celora.models.spec import parse_spec
from celora.models.states import Stage
from celora.services.native import event_news
from celora.services.native.event_news import read_news
from celora.settings.settings import get_settings


@pytest.fixture
def submit(database, home, monkeypatch):
    """Makes a job of a tenant; returns the id of its first event."""
    monkeypatch.setenv("CELORA_DATABASE_URL", database.url.render_as_string(hide_password=False))
    get_settings.cache_clear()

    def make(job_id, tenant):
        spec = {"base_model": "tiny", "dataset": "/data/rows.jsonl", "tenant": tenant}
        with database.transaction(Scope.everything) as session:
            accept.submit(session, job_id=job_id, spec=parse_spec(spec))
        return read_news({job_id: 0}).lines[job_id][0].id

    return make


def say(database, job_id, *messages, kind="note"):
    with database.transaction(Scope.everything) as session:
        for message in messages:
            record_event(session, job_id, 1, "info", kind, message, {})


def said(news):
    return {job_id: [line.message for line in lines] for job_id, lines in news.lines.items()}


def test_each_job_is_read_from_its_own_event_on(submit, database):
    after = {job_id: submit(job_id, tenant) for job_id, tenant in (("a", "team-a"), ("b", "team-b"), ("c", "team-c"))}
    assert said(read_news(after)) == {}
    say(database, "a", "one")
    say(database, "b", "two")
    say(database, "c", "not watched")
    say(database, "a", "three")
    say(database, "a", "an operator's", kind="a kind that no tenant reads")
    watched = {name: after[name] for name in ("a", "b")}
    news = read_news(watched)
    assert said(news) == {"a": ["one", "three"], "b": ["two"]}
    assert (news.ended, news.more) == (frozenset(), False)
    watched["a"] = news.lines["a"][0].id
    assert said(read_news(watched)) == {"a": ["three"], "b": ["two"]}


def test_a_job_has_ended_once_its_last_event_is_read(submit, database):
    after = {"a": submit("a", "team-a"), "b": submit("b", "team-b"), "gone": 0}
    moved = Moved(database, "a")
    moved.begin(Stage.PREPARE)
    moved.fail("bad_data", "/srv/celora/data.jsonl, line 2: no JSON.")
    first = read_news(after, limit=1)
    assert (first.more, first.ended, len(first.lines["a"])) == (True, frozenset(), 1)
    news = read_news({**after, "a": first.lines["a"][0].id})
    assert (news.more, news.ended) == (False, {"a", "gone"})
    assert (news.lines["a"][-1].kind, news.lines["a"][-1].message) == ("failed", "data.jsonl, line 2: no JSON.")


@pytest.mark.parametrize("broken", [{"data": ["no facts"]}, {"message": None}], ids=["facts", "message"])
def test_a_row_that_cannot_be_worded_is_a_fault_of_its_job_alone(submit, database, monkeypatch, caplog, broken):
    after = {job_id: submit(job_id, "team-a") for job_id in ("a", "b", "c")}
    for job_id in after:
        say(database, job_id, "news")
    read = event_news.event_lines

    def worded(session, rows):
        for row in rows:
            if row.job_id == "b":
                session.expunge(row)
                for name, value in broken.items():
                    setattr(row, name, value)
        return read(session, rows)

    monkeypatch.setattr(event_news, "event_lines", worded)
    news = read_news(after)
    assert (said(news), news.faulty) == ({"a": ["news"], "c": ["news"]}, {"b"})
    assert "events of b cannot be shown" in caplog.text


def test_a_record_that_does_not_answer_is_no_fault_of_a_job(submit, monkeypatch):
    after = {"a": submit("a", "team-a")}

    def away(session, rows):
        raise UnavailableError("the record is away.")

    monkeypatch.setattr(event_news, "event_lines", away)
    with pytest.raises(UnavailableError):
        read_news(after)
