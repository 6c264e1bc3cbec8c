"""Reads and changes the jobs of a server, as the commands do with the record of this machine."""

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any
from urllib.parse import quote

from ...errors import RequestError, SettingsError
from ...models.states import Status
from ...models.views import JobDetail, JobView
from ...services.queue.explanations import Entry, Explanation
from .connection import Answer, Connection
from .views import read

PAGE = 100
"""Jobs that a server lists at once."""
EVENTS = 1000
"""Events that a server lists at once."""
HIDDEN: Answer = {"publication": 0}
"""Values of the fields that a server never sends."""
CONFLICT = 409


class RemoteJobs:
    """The jobs of a server.

    Args:
        connection: The connection to the server.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._whole: set[str] = set()

    def whole_id(self, beginning: str) -> str:
        """Complete the beginning of an id.

        Raises:
            NotFoundError: No job has an id that begins so, or several have.
        """
        if beginning not in self._whole:
            beginning = str(self._connection.get(f"celora/ids/{quote(beginning, safe='')}")["id"])
            self._whole.add(beginning)
        return beginning

    def detail(self, job_id: str) -> JobDetail:
        """Read everything about a job.

        Raises:
            NotFoundError: There is no such job.
        """
        return _detail(self._connection.get(_job(self.whole_id(job_id))))

    def list_jobs(self, *, tenant: str | None, status: Status | None, limit: int) -> list[JobView]:
        """List jobs, the newest first.

        Raises:
            SettingsError: A tenant is given, which the key decides.
        """
        _refuse_tenant(tenant)
        found: list[JobView] = []
        after: str | None = None
        while len(found) < limit:
            page = min(PAGE, limit - len(found))
            answer = self._connection.get("celora/jobs", status=status, after=after, limit=page)
            found += [read(JobView, one, **HIDDEN) for one in answer["data"]]
            if not answer["has_more"] or not answer["data"]:
                break
            after = found[-1].id
        return found

    def events(self, job_id: str, after_id: int) -> list[Answer]:
        """List the events of a job after an event, in order."""
        found: list[Answer] = []
        while True:
            answer = self._connection.get(f"{_job(job_id)}/events", after=after_id, limit=EVENTS)
            found += [{**one, "job_id": job_id, "at": datetime.fromisoformat(one["at"])} for one in answer["data"]]
            if len(answer["data"]) < EVENTS:
                return found
            after_id = found[-1]["id"]

    def log_news(self, job: JobDetail, shown: dict[str, int]) -> Iterator[tuple[str, str]]:
        """Yield the name of each log with its text beyond what was shown, and remember it in ``shown``."""
        for log in self._connection.get(f"{_job(job.id)}/logs")["data"]:
            name = str(log["name"])
            more = True
            while more:
                place = f"{_job(job.id)}/logs/{quote(name, safe='')}"
                piece = self._connection.get(place, after=shown.get(name, 0))
                more = piece["more"] and piece["next"] > shown.get(name, 0)
                shown[name] = piece["next"]
                yield name, piece["text"]

    def cancel(self, job_id: str) -> str:
        """Cancel a job; return ``cancelled``, ``cancelling`` or ``final``."""
        return str(self._changed(job_id, "cancel", otherwise="final"))

    def pause(self, job_id: str) -> str:
        """Pause a job; return ``paused``, ``pausing``, ``cancelling`` or ``final``."""
        answer = str(self._changed(job_id, "pause", otherwise=""))
        return answer or ("final" if self.detail(job_id).ended else "cancelling")

    def resume(self, job_id: str, budget: float | None) -> bool:
        """Resume a job; return True if it was paused."""
        body: Answer = {} if budget is None else {"budget": budget}
        return bool(self._changed(job_id, "resume", body, otherwise=False, field="resumed"))

    def retry(self, job_id: str, changes: Mapping[str, Any], new_id: str | None) -> str:
        """Try a job again with changed fields; return the new job's id.

        Raises:
            SettingsError: An id is given, which the server chooses.
        """
        if new_id is not None:
            raise SettingsError("--id: a server chooses the ids of its jobs.", hint="Leave it out.")
        return str(self._connection.post(f"{_job(job_id)}/retry", {"changes": dict(changes)})["id"])

    def queue(self, *, tenant: str | None, limit: int) -> list[Entry]:
        """List the jobs that wait, the next to start first.

        Raises:
            SettingsError: A tenant is given, which the key decides.
        """
        _refuse_tenant(tenant)
        return [read(Entry, one) for one in self._connection.get("celora/waiting", limit=limit)["data"]]

    def why(self, job_id: str) -> Explanation:
        """Explain why a job waits.

        Raises:
            RequestError: It does not wait.
        """
        return read(Explanation, self._connection.get(f"{_job(job_id)}/why"))

    def _changed(
        self, job_id: str, verb: str, body: Answer | None = None, *, otherwise: str | bool, field: str = "answer"
    ) -> str | bool:
        """Change a job, and return what became of it; ``otherwise`` where its state does not permit the change."""
        try:
            return self._connection.post(f"{_job(job_id)}/{verb}", body)[field]
        except RequestError as error:
            if error.status != CONFLICT or error.reason != "invalid_state":
                raise
            return otherwise


def _job(job_id: str) -> str:
    return f"celora/jobs/{quote(job_id, safe='')}"


def _detail(answer: Answer) -> JobDetail:
    """Read a job; in the place of the folder that holds its adapter stands the id of its model."""
    return read(JobDetail, answer, **HIDDEN, adapter=answer.get("model"))


def _refuse_tenant(tenant: str | None) -> None:
    if tenant is not None:
        raise SettingsError("--tenant: the key of a server decides the tenant.", hint="Leave it out.")
