"""The comparison of two sides of one tenant."""

import pytest

from celora.errors import RequestError
from celora.services.native.comparing import compare
from celora.settings.settings import get_settings

ANSWERS = {"base": ["r0", "x", "x"], "tuned": ["r0", "r1", "x"]}


def test_a_job_is_compared_with_its_base(record, contestant):
    contestant("job-1", ANSWERS, tenant="team-a")
    found = compare("team-a", "base", "job-1", get_settings())
    assert (found["one"], found["other"], found["together"]) == ("base", "job-1", True)
    assert set(found["sets"]) == {"eval"}


@pytest.mark.parametrize(("tenant", "one", "status"), [("team-b", "base", 404), ("team-a", "job-1", 400)])
def test_sides_that_are_not_there_or_equal_are_refused(record, contestant, tenant, one, status):
    contestant("job-1", ANSWERS, tenant="team-a")
    with pytest.raises(RequestError) as caught:
        compare(tenant, one, "job-1", get_settings())
    assert caught.value.status == status
