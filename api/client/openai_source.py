"""Reads a user's own fine-tuning jobs and files from OpenAI, or from a server with its API, by the official client.

The job is read into a record of few fields, since servers and versions differ in the others.
"""

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ...errors import AccessError, NotFoundError, StorageError, UnavailableError
from .server import Server
from .views import unreadable

PAGE = 50
"""Jobs that the source lists at once."""
ANSWER_S = 60.0
"""Seconds that the source may be silent."""


class SourceFile(BaseModel):
    """A file of the source."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    id: str
    filename: str
    size_bytes: int = Field(alias="bytes")


class Hyperparameters(BaseModel):
    """The settings of a job of the source that celora has, too."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    n_epochs: int | Literal["auto"] | None = None
    beta: float | Literal["auto"] | None = None


class SourceJob(BaseModel):
    """A job of the source.

    Attributes:
        id: Its id there.
        created_at: The Unix time of its creation.
        status: Its status there.
        model: The model that it was trained on.
        fine_tuned_model: The id of the trained model there.
        training_file: The id of its training file there.
        validation_file: The same of its held-out rows.
        trained_tokens: The tokens that it was charged for.
        method: supervised, dpo or another.
        hyperparameters: The settings that celora has, too.
        seed: Its seed.
        suffix: The suffix that its user gave, where the source tells it.
        metadata: Its labels.
    """

    model_config = ConfigDict(extra="ignore", frozen=True)

    id: str
    created_at: int
    status: str
    model: str
    fine_tuned_model: str | None = None
    training_file: str
    validation_file: str | None = None
    trained_tokens: int | None = None
    method: str = "supervised"
    hyperparameters: Hyperparameters = Hyperparameters()
    seed: int | None = None
    suffix: str | None = None
    metadata: dict[str, str] = Field(default_factory=dict[str, str])


class OpenAISource:
    """The jobs and files of one user; a context manager, which closes the connection.

    Args:
        server: Where they are, and the key for it.

    Raises:
        UnavailableError: The official client is not installed.
    """

    def __init__(self, server: Server) -> None:
        if find_spec("openai") is None:
            raise UnavailableError("OpenAI's client is not installed.", hint='Run `pip install "celora[openai]"`.')
        from openai import OpenAI  # noqa: PLC0415  (an extra)

        self._server = server
        self._client: OpenAI = OpenAI(base_url=f"{server.url}/v1", api_key=server.key or "none", timeout=ANSWER_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def jobs(self, limit: int) -> list[SourceJob]:
        """List the newest jobs.

        Raises:
            CeloraError: The source refuses the request, or does not answer.
        """
        with self._translated():
            return [read_job(one.to_dict()) for one in islice(self._client.fine_tuning.jobs.list(limit=PAGE), limit)]

    def file(self, file_id: str) -> SourceFile:
        """Read a file's facts.

        Raises:
            NotFoundError: The source has no such file any more.
            CeloraError: The source refuses the request, or does not answer.
        """
        with self._translated():
            facts = self._client.files.retrieve(file_id).to_dict()
        try:
            return SourceFile.model_validate(facts)
        except ValidationError as error:
            raise unreadable(error.errors(include_url=False)[0]) from None

    def download(self, file: SourceFile, target: Path) -> None:
        """Write a file's content to a path.

        Raises:
            StorageError: The content has another size than the source says.
            CeloraError: The source refuses the request, or does not answer.
        """
        size_bytes = 0
        content = self._client.files.with_streaming_response.content
        with self._translated(), content(file.id) as answer, target.open("xb") as out:
            for part in _limited(answer.iter_bytes(), file.size_bytes):
                out.write(part)
                size_bytes += len(part)
        if size_bytes != file.size_bytes:
            raise StorageError(f"{file.id} has {size_bytes:,} bytes, and should have {file.size_bytes:,}.")

    @contextmanager
    def _translated(self) -> Generator[None]:
        """Make one of celora's errors of what the client raises."""
        from openai import (  # noqa: PLC0415  (an extra)
            APIConnectionError,
            APIStatusError,
            AuthenticationError,
            OpenAIError,
            PermissionDeniedError,
        )
        from openai import NotFoundError as NotThere  # noqa: PLC0415

        url = self._server.url
        try:
            yield
        except (AuthenticationError, PermissionDeniedError) as error:
            raise AccessError(f"{url} refuses the key: {error.message}", hint="Set OPENAI_API_KEY.") from None
        except NotThere as error:
            raise NotFoundError(f"{url}: {error.message}") from None
        except APIConnectionError as error:
            raise UnavailableError(f"{url} cannot be reached ({error.__cause__ or error}).") from None
        except APIStatusError as error:
            raise UnavailableError(f"{url} refuses the request: {error.message}") from None
        except OpenAIError as error:
            raise UnavailableError(f"{url} can't be read: {error}") from None


def read_job(facts: dict[str, Any]) -> SourceJob:
    """Read a job as the source shows it; its settings stand in the method, or at the old top level.

    Raises:
        UnavailableError: The job has another form.
    """
    method: dict[str, Any] = facts.get("method") or {}
    kind = str(method.get("type") or "supervised")
    own: dict[str, Any] = method.get(kind) or {}
    inner: dict[str, Any] = own.get("hyperparameters") or {}
    outer: dict[str, Any] = facts.get("hyperparameters") or {}
    given = {**facts, "method": kind, "hyperparameters": {**outer, **inner}}
    given |= {"suffix": facts.get("user_provided_suffix"), "metadata": facts.get("metadata") or {}}
    try:
        return SourceJob.model_validate(given)
    except ValidationError as error:
        raise unreadable(error.errors(include_url=False)[0]) from None


def _limited(parts: Iterator[bytes], most_bytes: int) -> Iterator[bytes]:
    """Yield parts until one goes beyond a size, which ends an answer that is larger than it should be."""
    size_bytes = 0
    for part in parts:
        yield part
        size_bytes += len(part)
        if size_bytes > most_bytes:
            return
