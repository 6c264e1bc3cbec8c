"""Reads and changes the jobs of this machine's record, for the commands."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from ..models import queries
from ..models.scope.scope import Scope
from ..models.states import Stage, Status
from ..models.views import JobDetail, JobView
from ..settings.settings import get_settings
from ..storage.json_values import JsonObject
from .open_record import record
from .tenants import scope_of

if TYPE_CHECKING:
    from ..services.queue.explanations import Entry, Explanation


class LocalJobs:
    """The jobs of this machine's record."""

    def whole_id(self, beginning: str) -> str:
        """Complete the beginning of an id.

        Raises:
            NotFoundError: No job has an id that begins so, or several have.
        """
        return whole_id(beginning)

    def detail(self, job_id: str) -> JobDetail:
        """Read everything about a job; the beginning of its id will do.

        Raises:
            NotFoundError: There is no such job.
        """
        return detail(job_id)

    def list_jobs(self, *, tenant: str | None, status: Status | None, limit: int) -> list[JobView]:
        """List jobs, the newest first."""
        with record().session(scope_of(tenant)) as session:
            return queries.list_jobs(session, status=status, limit=limit)

    def events(self, job_id: str, after_id: int) -> list[JsonObject]:
        """List the events of a job after an event, in order."""
        with record().session(Scope.everything) as session:
            return queries.events(session, job_id, after_id=after_id)

    def log_news(self, job: JobDetail, shown: dict[str, int]) -> Iterator[tuple[str, str]]:
        """Yield each log's name and its text beyond what was shown, which ``shown`` remembers in bytes."""
        for name, content in _log_files(job):
            begin = min(shown.get(name, 0), len(content))  # the middle of a long log is cut out
            shown[name] = len(content)
            yield name, content[begin:].decode("utf-8", errors="replace")

    def cancel(self, job_id: str) -> str:
        """Cancel a job; return ``cancelled``, ``cancelling`` or ``final``."""
        from ..services import jobs  # noqa: PLC0415  (Celery takes a third of a second to import)

        return jobs.cancel(job_id)

    def pause(self, job_id: str) -> str:
        """Pause a job; return ``paused``, ``pausing``, ``cancelling`` or ``final``."""
        from ..services import jobs  # noqa: PLC0415  (as above)

        return jobs.pause(job_id)

    def resume(self, job_id: str, budget: float | None) -> bool:
        """Resume a job; return True if it was paused."""
        from ..services import jobs  # noqa: PLC0415  (as above)

        return jobs.resume(job_id, budget=budget)

    def retry(self, job_id: str, changes: Mapping[str, Any], new_id: str | None) -> str:
        """Try a job again with changed fields; return the new job's id."""
        from ..services import jobs  # noqa: PLC0415  (as above)

        return jobs.retry(job_id, changes, new_id=new_id)

    def queue(self, *, tenant: str | None, limit: int) -> "list[Entry]":
        """List the jobs that wait, the next to start first."""
        from ..services.queue.listing import list_queue  # noqa: PLC0415  (as above)

        record()
        return list_queue(limit=limit, scope=scope_of(tenant))

    def why(self, job_id: str) -> "Explanation":
        """Explain why a job waits."""
        from ..services.queue.why import why  # noqa: PLC0415  (as above)

        return why(job_id)


def detail(job_id: str) -> JobDetail:
    """Read a job from the record.

    Raises:
        NotFoundError: There is no such job.
    """
    with record().session(Scope.everything) as session:
        return queries.job_detail(session, queries.find(session, job_id).id)


def whole_id(words: str) -> str:
    """Complete the beginning of a job's id.

    Raises:
        NotFoundError: No job has an id that begins so, or several have.
    """
    with record().session(Scope.everything) as session:
        return queries.find(session, words).id


def _log_files(job: JobDetail) -> Iterator[tuple[str, bytes]]:
    """Yield the name and the content of each log: one per attempt and stage."""
    from ..storage.artifacts import Artifacts  # noqa: PLC0415  (fsspec takes a fifth of the time of a short command)

    artifacts = Artifacts(get_settings().artifacts)
    for attempt in range(1, int(job.attempt) + 1):
        for stage in Stage:
            name = f"{attempt:03d}-{stage}.log"
            uri = artifacts.uri("jobs", job.id, "logs", name)
            there = artifacts.local_path(uri)
            if there is None and artifacts.exists(uri):
                there = get_settings().scratch / job.id / "pulled" / name
                artifacts.get_file(uri, there)
            if there is not None and there.is_file():
                yield name, there.read_bytes()
