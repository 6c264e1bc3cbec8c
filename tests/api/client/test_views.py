"""An answer becomes the record that commands print; one of another form names the place and the remedy."""

from dataclasses import dataclass
from datetime import UTC, datetime

import pytest

from celora.api.client.views import read
from celora.errors import UnavailableError
from celora.models.states import Status


@dataclass(frozen=True, kw_only=True)
class Seen:
    id: str
    at: datetime
    status: Status
    worker: str | None


ANSWER = {"id": "job-1", "at": "2026-11-30T10:00:00.5+00:00", "status": "running", "of a newer server": 1}


def test_times_and_states_are_read_and_a_field_that_is_left_out_is_empty():
    at = datetime(2026, 11, 30, 10, 0, 0, 500_000, tzinfo=UTC)
    assert read(Seen, ANSWER) == Seen(id="job-1", at=at, status=Status.RUNNING, worker=None)
    assert read(Seen, ANSWER, id="other").id == "other"


@pytest.mark.parametrize("changed", [{"status": "asleep"}, {"at": "yesterday"}, {"id": None}])
def test_another_form_is_one_sentence(changed):
    with pytest.raises(UnavailableError, match=next(iter(changed))) as caught:
        read(Seen, {**ANSWER, **changed})
    assert "version" in caught.value.hint
