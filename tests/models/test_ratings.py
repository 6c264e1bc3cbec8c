"""What people preferred: choices as rows, counted from either side."""

import pytest

from celora.models import ratings
from celora.models.ratings import Votes
from celora.models.scope.scope import Scope
from celora.models.tables import Tenant


@pytest.fixture
def rate(database):
    from celora.models.database import now

    with database.transaction(Scope.everything) as session:
        session.add(Tenant(name="acme", created_at=now(session)))

    def write(choice, prompt="p", first=("b", "said b"), second=("a", "said a"), by="ada"):
        with database.transaction(Scope.everything) as session:
            ratings.rate(
                session, tenant="acme", first=first, second=second, choice=choice, held_out="eval", prompt=prompt, by=by
            )

    return write


def test_choices_are_counted_from_either_side_however_they_were_shown(database, rate):
    rate(0, "p1")
    rate(1, "p2", first=("a", "said a"), second=("b", "said b"))
    rate(1, "p3")
    rate(None, "p4")
    with database.session(Scope.everything) as session:
        assert ratings.votes(session, "acme", "b", "a") == Votes(2, 1, 1)
        assert ratings.votes(session, "acme", "a", "b") == Votes(1, 2, 1)
        assert ratings.votes(session, "default", "a", "b") == Votes(0, 0, 0)


def test_a_person_who_changes_her_mind_counts_once(database, rate):
    rate(0)
    rate(1)
    rate(0, by="bob")
    with database.session(Scope.everything) as session:
        assert ratings.votes(session, "acme", "b", "a") == Votes(1, 1, 0)
        assert ratings.rated_prompts(session, "acme", "a", "b", "ada") == {"p"}
        assert ratings.rated_prompts(session, "acme", "a", "b", "eve") == set()


def test_a_job_tells_whom_it_was_rated_against(database, rate):
    rate(0)
    rate(0, first=("a", "x"), second=("base", "y"))
    with database.session(Scope.everything) as session:
        found = ratings.of_job(session, "acme", "a")
    assert found == [
        {"against": "b", "wins": 0, "losses": 1, "neither": 0},
        {"against": "base", "wins": 1, "losses": 0, "neither": 0},
    ]
