"""A gate over HTTP requires rows of the tenant's own, and never a file of the server."""

import pytest

from celora.errors import RequestError
from celora.models.scope.scope import Scope
from celora.models.tables import Job
from celora.services.openai.required_rows import placed_changes

ROWS = b'{"prompt": "must", "completion": "pass"}\n'


def gated(rows):
    return {"champion": "bot", "gate": {"must_pass": rows}}


def test_the_file_of_the_tenant_becomes_the_required_rows(create, file, installation):
    held_out, required = file().id, file(ROWS)
    job_id = create(validation_file=held_out, celora=gated(required.id))
    with installation.session(Scope.everything) as session:
        assert session.get_one(Job, job_id).spec["gate"]["must_pass"] == required.uri
    assert placed_changes("default", {"rank": 4, **gated(required.id)})["gate"] == {"must_pass": required.uri}


@pytest.mark.parametrize("rows", ["/etc/hostname", "file:///etc/hostname", "../rows.jsonl", "https://example.com/r.jsonl",
                                  "file-none", "/srv/*.jsonl"])  # fmt: skip
def test_a_path_of_the_server_or_an_unknown_file_is_refused(create, file, rows):
    with pytest.raises(RequestError) as caught:
        create(validation_file=file().id, celora=gated(rows))
    assert (caught.value.status, caught.value.param) == (400, "celora.gate.must_pass")
    with pytest.raises(RequestError) as caught:
        placed_changes("default", gated(rows))
    assert caught.value.param == "changes.gate.must_pass"


def test_anothers_file_is_as_one_that_nobody_has(create, file):
    theirs = file(ROWS, tenant="team-b").id
    with pytest.raises(RequestError) as caught:
        create(validation_file=file().id, celora=gated(theirs))
    assert caught.value.message == f"there is no file {theirs}."


def test_a_gate_without_rows_and_one_of_a_wrong_form_are_left_as_they_are(installation):
    for gate in ({"metric": "bleu"}, {"must_pass": 3}, "x", None):
        assert placed_changes("default", {"gate": gate}) == {"gate": gate}
