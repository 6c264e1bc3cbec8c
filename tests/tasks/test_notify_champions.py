"""``celora.champions``: a change whose notification is pending is told once, at the next round."""

from competition import alias, pointer

from celora.models import champions
from celora.models.database import get_database
from celora.models.scope.scope import Scope
from celora.models.tables.champion import ChampionEvent
from celora.tasks.notify_champions import notify_champions


def test_a_change_whose_mover_died_is_told_at_the_next_round_and_once(competition, contestant):
    contestant("a", {"base": ["x"], "tuned": ["r0"]})
    with get_database().transaction(Scope.everything) as session:
        about = {"kind": champions.BY_HAND, "reason": "", "by": ""}
        champions.move(session, tenant="default", name="bot", job_id="a", expected=0, **about)
    assert (pointer(), alias()) == (("a", 1), None)
    for _ in "12":
        notify_champions()
        with get_database().session(Scope.everything) as session:
            event = session.query(ChampionEvent).one()
        assert (alias()["job"], event.told_at is not None, event.attempts) == ("a", True, 1)
