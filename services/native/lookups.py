"""Finds what a command names: a job by the beginning of its id, an adapter by its name, a file by its content."""

from ...errors import RequestError
from ...models import champions, queries
from ...models.database import get_database
from ...models.openai import files
from ...models.scope.scope import Scope
from ...models.tables.types import JsonObject
from ..openai.files import PURPOSE
from ..tenants import words


def whole_id(tenant: str, beginning: str) -> str:
    """Complete the beginning of a job's id among the tenant's own jobs.

    Raises:
        NotFoundError: No job has an id that begins so, or several have.
    """
    with get_database().session(Scope.of(tenant)) as session:
        return queries.find(session, beginning, tenant).id


def published(tenant: str, named: str) -> JsonObject:
    """Find a published adapter by the name of a champion, by its own name, or by its job's id.

    Returns:
        ``job_id``, ``name``, ``base`` (where the base comes from), and ``found_as`` (in words).

    Raises:
        NotFoundError: There is no such champion, adapter or job.
        RequestError: The job has published no adapter (404).
    """
    with get_database().session(Scope.of(tenant)) as session:
        job, told = champions.resolve(session, named, tenant)
        if not job.adapter_uri:
            sentence = f"job {job.id} is {job.status} and has published no adapter."
            raise RequestError(sentence, reason="not_ready", status=404)
        return {"job_id": job.id, "name": job.name, "base": words.data(job.base), "found_as": told}


def file_of_content(tenant: str, sha256: str, filename: str) -> str:
    """Find the id of the tenant's file that has a content and a name, so that it need not be sent again.

    Raises:
        RequestError: The tenant has no such file (404).
    """
    with get_database().session(Scope.of(tenant)) as session:
        file = files.of_content(session, tenant, sha256, filename)
        if file is None or file.purpose != PURPOSE:
            raise RequestError("there is no file of that content and name.", reason="file_not_found", status=404)
        return file.id
