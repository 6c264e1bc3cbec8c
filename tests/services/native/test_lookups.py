"""Ids and adapters are found among the tenant's own alone."""

import pytest

from celora.errors import NotFoundError
from celora.services.native import lookups


def test_the_beginning_of_anothers_id_is_no_beginning(submit):
    submit("mine-1", tenant="team-a")
    submit("mine-2", tenant="team-b")
    assert lookups.whole_id("team-a", "mine") == "mine-1"
    with pytest.raises(NotFoundError, match="there is no job mine-2"):
        lookups.whole_id("team-a", "mine-2")


def test_an_adapter_of_another_is_not_there_by_name_or_id(submit):
    submit("job-1", tenant="team-b").complete()
    for named in ("a", "job-1", "job"):
        with pytest.raises(NotFoundError):
            lookups.published("team-a", named)
    assert lookups.published("team-b", "a")["job_id"] == "job-1"
