"""A champion points to a published adapter; a person's choice about two answers stands once."""

from datetime import UTC, datetime

import pytest
from sqlalchemy.exc import IntegrityError

from celora.models.scope.scope import Scope
from celora.models.tables import Champion, Rating

AT = datetime(2026, 11, 24, tzinfo=UTC)


def test_a_champion_needs_a_published_adapter(busy_record):
    with pytest.raises(IntegrityError), busy_record.transaction(Scope.everything) as session:
        session.add(Champion(tenant="acme", name="other", job_id="running", version=1, since=AT))


def test_one_person_chooses_once_between_two_answers_to_a_prompt(busy_record):
    same = {"tenant": "acme", "one": "done", "other": "done", "prompt_sha256": "2" * 64, "by": "ada"}
    with pytest.raises(IntegrityError), busy_record.transaction(Scope.everything) as session:
        session.add(Rating(**same, held_out="e", prompt="p", answer_one="", answer_other="", choice="one", at=AT))
