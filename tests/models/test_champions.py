"""Champions in the record: moved by compare-and-set, told of once, with the whole story kept."""

import threading

import pytest
from sqlalchemy import delete, select

from celora.errors import NotFoundError, SettingsError
from celora.models import champions, queries
from celora.models.jobs import accept, transitions
from celora.models.notifications.deliveries import list_deliveries
from celora.models.notifications.notices import Notice
from celora.models.notifications.receivers import NewReceiver, add_receiver
from celora.models.rows import Claim
from celora.models.scope.scope import Scope
from celora.models.spec import parse_spec
from celora.models.states import Stage, Status
from celora.models.tables import Event
from celora.models.tables.champion import Champion, ChampionEvent
from celora.models.tenants.audit import list_audit

WORKER = "cpu-0@here"
SPEC = {"base_model": "tiny", "dataset": "/data/rows.jsonl", "eval_dataset": "/data/eval.jsonl", "tenant": "acme"}


@pytest.fixture
def published(database):
    """Makes completed jobs with an adapter; ``challenge`` is what their gate said."""

    def make(job_id, challenge=None, **fields):
        spec = parse_spec(SPEC | {"champion": "bot"} | fields)
        with database.transaction(Scope.everything) as session:
            accept.submit(session, job_id=job_id, spec=spec)
            for stage in Stage:
                if stage in (Stage.PREPARE, Stage.TRAIN):
                    assert transitions.send(session, job_id, 1, stage, queue="q", gpu_type="cpu")
                assert transitions.claim(session, job_id, 1, stage, worker_id=WORKER, lease_s=90)
                values = {}
                if stage is Stage.PUBLISH:
                    adapter = {"name": f"tiny-{job_id}", "uri": f"memory://{job_id}", "base_name": "tiny",
                               "base_revision": "r1", "rank": 4, "metrics": {"tuned": {"exact_match": 0.5}},
                               "size_bytes": 1}  # fmt: skip
                    values = {"adapter": adapter, "summary": {"id": job_id}}
                    values |= {"challenge": challenge} if challenge else {}
                assert transitions.advance(session, Claim(job_id, 1, WORKER), stage, values)
        return job_id

    return make


def passed(expected, against=None, *, promote=True):
    reason = "against nobody: exact match +4.0 points"
    return {"name": "bot", "expected": expected, "promote": promote, "reason": reason, "figures": {"rows": 9},
            "against": against, "stale": False}  # fmt: skip


def pointer(database, name="bot", tenant="acme"):
    with database.session(Scope.everything) as session:
        found = champions.find(session, tenant, name)
        return (found.job_id, found.version) if found else None


def kinds(database):
    with database.session(Scope.everything) as session:
        return [(each.kind, each.job_id, each.version) for each in champions.events_of(session, "acme", "bot")][::-1]


def test_a_job_that_passes_becomes_champion_as_it_completes(database, published):
    published("one", passed(0))
    published("two", passed(1, "one"))
    assert pointer(database) == ("two", 2)
    assert kinds(database) == [("promoted", "one", 1), ("promoted", "two", 2)]
    with database.session(Scope.everything) as session:
        events = session.scalars(select(Event.kind).where(Event.job_id == "one").order_by(Event.id)).all()
        assert events[-3:] == ["promoted", "completed", "dethroned"]
        assert queries.find(session, "two").summary["champion"]["promote"] is True
        (first, *_) = session.scalars(select(ChampionEvent).order_by(ChampionEvent.id.desc()))
        assert (first.before, first.figures) == ("one", {"rows": 9})


def test_a_promotion_of_the_gate_stands_in_the_audit(database, published):
    published("one", challenge=passed(0))
    published("two", challenge=passed(1, "one"))
    published("three", challenge=passed(2, "two", promote=False))
    with database.session(Scope.everything) as session:
        lines = list_audit(session, tenant="acme", action="champion")
        found = [(line.actor, line.action, line.object, line.before, line.after["job"]) for line in lines]
    assert found == [
        ("gate", "champion.promoted", "bot", {"job": "one"}, "two"),
        ("gate", "champion.promoted", "bot", None, "one"),
    ]


def test_a_move_is_a_notice_and_a_challenge_that_fails_is_none(database, published):
    with database.transaction(Scope.everything) as session:
        facts = {"kind": "channel", "name": "ops", "url": "u", "sealed": "s"}
        add_receiver(session, "acme", NewReceiver(id="r1", notices=[Notice.CHAMPION], **facts))
    published("one", passed(0))
    published("two", passed(1, "one", promote=False))
    published("three", passed(1, "one"))
    with database.session(Scope.everything) as session:
        told = [(row.subject, row.facts["job_id"], row.facts["before"]) for row, _ in list_deliveries(session)]
    assert told == [("bot", "three", "one"), ("bot", "one", None)]


def test_a_job_that_does_not_pass_is_kept_with_its_reason_and_nobody_is_told(database, published):
    published("one", passed(0))
    published("two", passed(1, "one", promote=False))
    assert pointer(database) == ("one", 1)
    assert kinds(database)[-1] == ("kept", "two", 1)
    with database.session(Scope.everything) as session:
        assert len(champions.pending_notifications(session)) == 1
        job = queries.find(session, "two")
        assert job.status is Status.COMPLETED
        assert job.summary["champion"]["reason"].endswith("+4.0 points")
        assert "kept" in session.scalars(select(Event.kind).where(Event.job_id == "two")).all()


def test_who_was_overtaken_is_completed_and_not_champion(database, published):
    published("one", passed(0))
    published("late", passed(0))
    assert pointer(database) == ("one", 1)
    with database.session(Scope.everything) as session:
        job = queries.find(session, "late")
        assert (job.status, job.summary["champion"]["promote"]) == (Status.COMPLETED, False)
        assert "changed in that moment" in job.summary["champion"]["reason"]


def test_of_many_who_move_the_same_version_one_wins(database, published):
    jobs = [published(f"job{i}") for i in range(6)]
    won, barrier = [], threading.Barrier(len(jobs))

    def move(job_id):
        barrier.wait()
        with database.transaction(Scope.everything) as session:
            moved = champions.move(
                session, tenant="acme", name="bot", job_id=job_id, expected=0, kind="promoted", reason="r"
            )
        if moved is not None:
            won.append(job_id)

    threads = [threading.Thread(target=move, args=(job_id,)) for job_id in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert pointer(database) == (won[0], 1)
    assert len(kinds(database)) == 1


def test_a_roll_back_goes_one_back_and_two_go_two(database, published):
    for i, name in enumerate(("one", "two", "three")):
        published(name, passed(i))

    def back():
        with database.transaction(Scope.everything) as session:
            now = champions.get(session, "acme", "bot")
            earlier = champions.previous(session, now)
            if earlier:
                about = {"tenant": "acme", "name": "bot", "job_id": earlier, "expected": now.version}
                assert champions.move(session, **about, kind="rolled_back", reason="r")
            return earlier

    assert [back(), back(), back()] == ["two", "one", None]
    assert pointer(database) == ("one", 5)


def test_a_change_is_told_by_one_at_a_time_and_once(database, published):
    published("one", passed(0))
    with database.session(Scope.everything) as session:
        (owed,) = champions.pending_notifications(session)
    with database.transaction(Scope.everything) as session:
        assert champions.claim_notification(session, owed, 60).job_id == "one"
    with database.transaction(Scope.everything) as session:
        assert champions.claim_notification(session, owed, 60) is None
        assert champions.pending_notifications(session) == []
        champions.mark_notified(session, owed)
    with database.transaction(Scope.everything) as session:
        assert session.get_one(ChampionEvent, owed).told_at is not None


def test_what_could_not_be_told_is_tried_three_times_and_says_why(database, published):
    published("one", passed(0))
    tried = 0
    for _ in range(5):
        with database.transaction(Scope.everything) as session:
            for event_id in champions.pending_notifications(session):
                champions.claim_notification(session, event_id, -1)
                champions.mark_notified(session, event_id, "no such program")
                tried += 1
    assert tried == 3
    with database.session(Scope.everything) as session:
        (event,) = champions.events_of(session, "acme", "bot")
        assert (event.fault, event.told_at) == ("no such program", None)


def test_names_belong_to_tenants_and_an_unknown_one_names_the_nearest(database, published):
    published("one", passed(0))
    with database.session(Scope.everything) as session:
        assert champions.find(session, "default", "bot") is None
        with pytest.raises(NotFoundError, match="there is no champion bott; did you mean bot"):
            champions.get(session, "acme", "bott")
        assert [row["name"] for row in champions.listed(session, tenant="acme")] == ["bot"]
        assert champions.listed(session, tenant="default") == []


def test_a_name_is_a_champion_before_it_is_an_adapter_or_a_job(database, published):
    published("one", passed(0))
    published("two")
    with database.transaction(Scope.everything) as session:
        assert champions.resolve(session, "tiny-two", "acme")[0].id == "two"
        assert champions.resolve(session, "two", "acme")[0].id == "two"
        about = {"tenant": "acme", "job_id": "one", "expected": 0, "kind": "promoted_by_hand", "reason": "r"}
        champions.move(session, name="two", **about)
        champions.move(session, name="tiny-two", **about)
        job, told = champions.resolve(session, "two", "acme")
        assert (job.id, told) == ("one", "champion two, version 1: job one")
        assert champions.resolve(session, "tiny-two", "acme")[0].id == "one"
        with pytest.raises(NotFoundError, match="no champion of acme, no adapter's name and no job"):
            champions.resolve(session, "nobody", "acme")


def test_an_adapter_that_is_champion_cannot_be_deleted_from_under_its_name(database, published):
    from sqlalchemy.exc import IntegrityError

    from celora.models.tables import Adapter

    published("one", passed(0))
    with database.session(Scope.everything) as session:
        adapter = session.get_one(Adapter, "one")
    with pytest.raises(IntegrityError), database.transaction(Scope.everything) as session:
        session.execute(delete(Adapter).where(Adapter.id == adapter.id))
    with database.session(Scope.everything) as session:
        assert session.get_one(Champion, ("acme", "bot")).job_id == "one"


@pytest.mark.parametrize("name", ["", "../x", "a/b", ".hidden", "a" * 65, "a b"])
def test_a_name_that_could_leave_its_folder_is_refused(name):
    with pytest.raises(SettingsError, match="cannot be a champion's name"):
        champions.check_name(name)
