"""Reads the settings of an installation into one typed object, which is built at the edge.

Precedence: environment ``CELORA_*``, then the files of ``CELORA_SECRETS_DIR`` (mounted secrets of a container, each
named like its variable), then ``CELORA_HOME/celora.env`` (written by ``celora up``, so that a program on the same
machine finds the running installation) and ``CELORA_HOME/worker.env`` (beside it, the broker's user of celora's own
processes), then ``CELORA_HOME/celora.toml``, then defaults that work on one machine.
"""

import os
import tomllib
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SecretsSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)
from pydantic_settings import (
    SettingsError as SourceError,
)

from ..errors import SettingsError

API_PORT = 8320
"""The usual port of the HTTP API."""


def home_directory() -> Path:
    """Find the folder of all local data: ``CELORA_HOME``, or ``~/.celora``."""
    return Path(os.environ.get("CELORA_HOME") or Path.home() / ".celora").expanduser().absolute()


def secrets_directory() -> Path | None:
    """Find the folder of settings as files, one each, named ``celora_database_url`` and so on; None unless it is set.

    Raises:
        SettingsError: ``CELORA_SECRETS_DIR`` names no folder; a secret would silently get its default.
    """
    named = os.environ.get("CELORA_SECRETS_DIR")
    if not named:
        return None
    if not Path(named).is_dir():
        raise SettingsError(
            f"CELORA_SECRETS_DIR is {named}, which is no folder.", hint="Mount the secrets there, or unset it."
        )
    return Path(named)


class GpuOverride(BaseModel):
    """An operator's change to the GPU catalogue, under ``[gpus.NAME]`` in celora.toml.

    A plain model: settings of their own would take ``MATCH`` or ``PRICE_PER_HOUR`` from any environment.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    match: list[Annotated[str, Field(min_length=1)]] = Field(
        default_factory=list, description="parts of the device name that NVML reports, lower case"
    )
    memory_gib: Annotated[float, Field(gt=0)] | None = Field(None, description="device memory, GiB")
    price_per_hour: Annotated[float, Field(ge=0)] | None = Field(
        None, description="US dollars an hour that a job is charged"
    )


class Settings(BaseSettings):
    """The settings of an installation; each is also an environment variable with the prefix ``CELORA_``."""

    model_config = SettingsConfigDict(
        env_prefix="CELORA_", env_nested_delimiter="__", extra="ignore", frozen=True, allow_inf_nan=False
    )

    home: Path = Field(default_factory=home_directory, description="folder of all local data")
    share_files: bool = Field(
        default=False, description="the group of the home may read its files; otherwise only their owner"
    )
    profile: Literal["local", "production"] = Field(
        "local", description="production refuses servers without a password, and weak passwords"
    )
    log_format: Literal["text", "json"] = Field(
        "text", description="form of the logs of workers, beat and the exporter: text, or one JSON object a line"
    )
    broker_url: str = Field("", description="Redis or Valkey URL of the Celery broker; the embedded one unless set")
    worker_broker_url: str = Field(
        "",
        description="URL by which celora's own processes use that broker, where applications have another user there; "
        "CELORA_BROKER_URL unless set",
    )
    result_backend: str = Field("", description="Celery result backend URL; the broker's server unless set")
    database_url: str = Field("", description="SQLAlchemy URL of the record; SQLite below the home unless set")
    artifact_root: str = Field("", description="fsspec URL of the artifacts; a folder below the home unless set")
    allowed_roots: list[Path] = Field(
        default_factory=lambda: [Path("/")], description="folders below which a local dataset or base model must lie"
    )
    allowed_schemes: list[str] = Field(
        default_factory=list,
        description="allowed schemes of remote datasets: https, http, s3, gs, hub; empty allows none",
    )
    allowed_hosts: list[str] = Field(
        default_factory=list,
        description="allowed hosts (host or host:port) and buckets of remote datasets (shell patterns)",
    )
    allowed_bases: list[str] = Field(
        default_factory=list, description="allowed base models (shell patterns); empty allows all"
    )
    model_aliases: dict[str, str] = Field(
        default_factory=dict,
        description="names under which requests over HTTP may ask for a base, such as "
        '`{"gpt-4o-mini": "smollm2-135m-instruct"}`',
    )
    remote_code_bases: list[str] = Field(
        default_factory=list, description="base models whose own code may run; empty allows none"
    )
    shared_secrets: list[str] = Field(
        default_factory=list,
        description="names of the installation's secrets that the jobs of every tenant get, not those of the tenant "
        "default alone",
    )
    lease_s: Annotated[float, Field(gt=0)] = Field(
        90, description="seconds that a worker's claim lasts without a renewal"
    )
    heartbeat_s: Annotated[float, Field(gt=0)] = Field(20, description="seconds between renewals of a lease")
    reaper_s: Annotated[float, Field(gt=0)] = Field(
        15, description="seconds between runs of the reaper, which finds expired leases"
    )
    tick_s: Annotated[float, Field(gt=0)] = Field(
        30, description="seconds between scheduling rounds without another cause"
    )
    deaf_after_s: Annotated[float, Field(gt=0)] = Field(
        60, description="seconds that messages may wait beside an idle worker until it counts itself as deaf and leaves"
    )
    late_s: Annotated[float, Field(gt=0)] = Field(
        300, description="seconds by which a run of a schedule may be late before it counts as missed"
    )
    on_promote: list[str] = Field(
        default_factory=list,
        description="command that celora runs, without a shell, after a champion changed: a list of its words; it gets "
        "the facts as JSON on standard input",
    )
    on_promote_s: Annotated[float, Field(gt=0)] = Field(
        30, description="seconds that the command of on_promote may take"
    )
    claim_s: Annotated[float, Field(gt=0)] = Field(60, description="seconds until an unclaimed message is sent again")
    max_attempts: Annotated[int, Field(gt=0)] = Field(3, description="attempts without progress before a job fails")
    retry_wait_s: Annotated[float, Field(ge=0)] = Field(
        10, description="seconds until a failed stage is tried again; doubled each time, at most 10 minutes"
    )
    stall_minutes: Annotated[float, Field(gt=0)] = Field(
        10, description="minutes without a step (or the time of 20 steps, if longer) after which training is stalled"
    )
    foreign_memory_bytes: Annotated[int, Field(ge=0)] = Field(
        2**30,
        description="memory of a worker's GPU that other programs may hold before the worker takes no work, bytes",
    )
    max_gpus_per_tenant: Annotated[int, Field(gt=0)] | None = Field(
        None, description="slots that one tenant may hold at a time; unlimited unless set"
    )
    share_half_life_hours: Annotated[float, Field(gt=0, le=8760)] = Field(
        24, description="hours after which the GPU time that a tenant used counts half in its share"
    )
    aging_hours: Annotated[float, Field(gt=0, le=8760)] = Field(
        24, description="hours after which a waiting job comes before younger jobs of its tenant, whatever its priority"
    )
    auto_wait_minutes: Annotated[float, Field(ge=0)] = Field(
        0, description="minutes that a job of `gpu: auto` may be made to wait for a cheaper type than one that is free"
    )
    preemption: bool = Field(
        default=False,
        description="an urgent job that finds no free slot makes a training job of a lower class write a checkpoint "
        "and wait; no attempt is counted",
    )
    preempt_again_minutes: Annotated[float, Field(ge=0)] = Field(
        60, description="minutes for which a job that was preempted is not preempted again"
    )
    labels: str = Field(
        "",
        description="names that this machine's GPU workers carry, separated by commas; such a worker takes every job "
        "that it may, a job that asks for labels goes to a worker that carries them all",
    )
    reserved_for: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{0,64}$")] = Field(
        "", description="the tenant for whose jobs alone this machine's GPU workers work; all tenants unless set"
    )
    known_tenants_only: bool = Field(
        default=False,
        description="refuse jobs, schedules, datasets, keys and files of a tenant that does not exist yet",
    )
    share_prepared: bool = Field(
        default=False,
        description="tenants reuse each other's prepared data; a reuse tells that somebody else trained on that file",
    )
    prep_slots: Annotated[int, Field(gt=0)] = Field(1, description="jobs that one prep worker prepares at a time")
    prepare_memory_bytes: Annotated[int, Field(ge=0)] = Field(
        4 * 2**30, description="memory that preparing a dataset may take, bytes; 0: no limit"
    )
    prepare_cpu_s: Annotated[int, Field(ge=0)] = Field(
        3600, description="CPU seconds that preparing a dataset may take, all threads together; 0: no limit"
    )
    prepare_file_bytes: Annotated[int, Field(ge=0)] = Field(
        16 * 2**30, description="size of the largest file that preparing a dataset may write, bytes; 0: no limit"
    )
    prepare_wall_s: Annotated[int, Field(ge=0)] = Field(
        3600, description="seconds that preparing a dataset may take, fetching the base apart; 0: no limit"
    )
    keep_prepared_days: Annotated[float, Field(ge=0)] = Field(
        14, description="days that prepared data is kept for reuse after its last use"
    )
    prepared_bytes: Annotated[int, Field(ge=0)] = Field(
        100 * 2**30,
        description="size of each machine's prepared data for reuse, the least recently used goes; 0: no limit",
    )
    keep_base_days: Annotated[float, Field(ge=0)] = Field(
        90, description="days that a machine keeps a base model after its last use, unless a live job needs it"
    )
    cache_bytes: Annotated[int, Field(ge=0)] = Field(
        0,
        description="size of each machine's base models, the least recently used goes, never a live job's; 0: no limit",
    )
    keep_checkpoint_days: Annotated[float, Field(ge=0)] = Field(
        30,
        description="days that an ended job can be retried or evaluated again; then its checkpoints and data are gone",
    )
    keep_log_days: Annotated[float, Field(ge=0)] = Field(
        90, description="days that an ended job's logs are kept, at least as long as its checkpoints"
    )
    job_log_bytes: Annotated[int, Field(ge=0)] = Field(
        100 * 10**6, description="size above which a job's log loses its middle; 0: no limit"
    )
    service_log_bytes: Annotated[int, Field(ge=0)] = Field(
        50 * 10**6, description="size above which the log of a process of `celora up` or `node` is rotated; 0: never"
    )
    grace_s: Annotated[float, Field(gt=0)] = Field(
        60, description="seconds that a stopped trainer has for its checkpoint"
    )
    visibility_timeout_s: Annotated[int, Field(gt=0)] = Field(
        120, description="seconds until Redis delivers an unacknowledged message again; the same in every process"
    )
    result_expires_s: Annotated[int, Field(gt=0)] = Field(
        7 * 86400, description="seconds that a result stays in the cache"
    )
    keep_checkpoints: Annotated[int, Field(ge=1)] = Field(2, description="checkpoints kept per job")
    trainer_threads: Annotated[int, Field(ge=0)] = Field(
        0,
        description="CPU threads of a trainer; 0: its share of the cores, by the trainers that may run on its machine",
    )
    warm_s: Annotated[float, Field(ge=0)] = Field(
        600,
        description="seconds without work for which a worker keeps its warm process: on a CPU one with the trainer's "
        "libraries, which forks each stage's trainer; on a GPU the trainer host with its base; 0: a new process for "
        "each stage",
    )
    trainer_host: Literal["cuda", "always"] = Field(
        "cuda",
        description="devices whose workers keep a trainer host, one process with a loaded base for the stages of many "
        "jobs: GPUs alone, or CPUs too (for tests; a CPU forks a process for each stage otherwise)",
    )
    runs_per_device: Annotated[int, Field(ge=1, le=16)] = Field(
        1,
        description="stages that a trainer host carries at a time, and slots of its worker; the stages take turns step "
        "by step, and each plans with its part of the device's memory. A worker without a host has one slot",
    )
    serving_url: str = Field(
        "",
        pattern="^$|^https?://[^/?#]+[^?#]*$",
        description="URL of a server (vLLM) that answers `chat.completions` for the bases that it serves; adapters are "
        "loaded into it",
    )
    serving_api_key: str = Field("", description="key that this server asks for")
    answer_bytes: Annotated[int, Field(ge=0)] = Field(
        4 * 2**30,
        description="size of the largest base, at 16 bits a weight, whose chats a process of this machine answers for "
        "trying out; 0: none",
    )
    answer_device: Literal["cpu", "cuda"] = Field("cpu", description="device on which that process answers")
    share: Literal["all", "tenant", "off"] = Field(
        "tenant",
        description="whose adapters the processes that keep a base (the one that answers chats, and a trainer host) "
        "hold at a time: those of one tenant, or of all; off: no trainer host, a process for each stage",
    )
    gpus: dict[str, GpuOverride] = Field(default_factory=dict, description="changes to the GPU catalogue")
    flower_auth: str = Field(
        "",
        pattern="^$|^[^:]+:.+$",
        description="login of Flower, user:password; generated and printed at its start unless set",
    )
    flower_read_only: bool = Field(
        default=False, description="read-only Flower: it revokes no task and stops no worker"
    )
    upload_bytes: Annotated[int, Field(gt=0)] = Field(
        512 * 2**20, description="size of the largest file that may be sent over the HTTP API, bytes"
    )
    requests_per_minute: Annotated[int, Field(ge=0)] = Field(
        0, description="requests that one key may send over the HTTP API in a minute; 0: no limit"
    )
    webhook_hosts: list[str] = Field(
        default_factory=list,
        description="hosts (host or host:port; a bare host means every port) to which webhooks may be sent by plain "
        "http and at private addresses; all others need https and a public address",
    )
    record_secret: str = Field(
        "",
        pattern="^$|^.{32,}$",
        description="secret by which the record's signing secrets and channels are encrypted, at least 32 characters, "
        "the same on every machine; made and kept in the secrets of the home unless set",
    )
    trusted_proxies: list[str] = Field(
        default_factory=list,
        description="addresses of the proxies before the HTTP API, which end TLS; their X-Forwarded headers are read",
    )
    hub_endpoint: str = Field("https://huggingface.co", description="URL of the model hub")
    offline: bool = Field(default=False, description="send no request to the hub; use the cache alone")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003  (the signature is pydantic's)
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Order the sources: environment, files of secrets, celora.env, celora.toml."""
        toml = TomlConfigSettingsSource(settings_cls, toml_file=home_directory() / "celora.toml")
        files = [SecretsSettingsSource(settings_cls, secrets_dir=folder)] if (folder := secrets_directory()) else []
        return init_settings, env_settings, *files, dotenv_settings, toml

    @property
    def broker(self) -> str:
        """The broker's URL for celora's own processes; empty where none is set."""
        return self.worker_broker_url or self.broker_url

    @property
    def results(self) -> str:
        """The result backend's URL for celora's own processes; the broker's own database unless another one is set."""
        return self.result_backend if self.result_backend not in ("", self.broker_url) else self.broker

    @property
    def database(self) -> str:
        """The SQLAlchemy URL in force."""
        return self.database_url or f"sqlite:///{self.home / 'celora.db'}"

    @property
    def artifacts(self) -> str:
        """The fsspec root in force."""
        return self.artifact_root or f"file://{self.home / 'artifacts'}"

    @property
    def cache(self) -> Path:
        """Folder of the converted and quantized base models."""
        return self.home / "cache"

    @property
    def scratch(self) -> Path:
        """Folder in which trainers write their files before the upload."""
        return self.home / "scratch"

    @property
    def logs(self) -> Path:
        """Folder of the logs of celora's processes."""
        return self.home / "logs"

    def hosts_trainers(self, *, cuda: bool) -> bool:
        """Return whether the worker of a device keeps a trainer host."""
        return self.share != "off" and self.warm_s > 0 and (cuda or self.trainer_host == "always")

    def device_slots(self, *, cuda: bool) -> int:
        """Return the stages that the worker of a device runs at a time."""
        return self.runs_per_device if self.hosts_trainers(cuda=cuda) else 1


def load_settings(*, running: bool = True, **overrides: Any) -> Settings:
    """Read the settings afresh.

    Args:
        running: Read ``celora.env`` too, the file of a running ``celora up``.
        overrides: Values that take precedence over every source.

    Raises:
        SettingsError: A setting has an invalid value, or a file of settings can't be parsed.
    """
    try:
        return Settings(_env_file=_environment_files() if running else None, **overrides)  # pyright: ignore[reportCallIssue]
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(
            f"{home_directory() / 'celora.toml'} is no TOML: {error}.", hint="Mend that line; a value is NAME = VALUE."
        ) from error
    except UnicodeDecodeError as error:
        raise SettingsError(
            f"a file of settings is not UTF-8: {error}.",
            hint="Save celora.toml and celora.env in CELORA_HOME, and the files of CELORA_SECRETS_DIR, as UTF-8.",
        ) from error
    except SourceError as error:  # a list or table in the environment that is no JSON
        raise SettingsError(
            f"a setting is wrong: {error}.", hint="A list is JSON: CELORA_ALLOWED_BASES='[\"smollm2-*\"]'."
        ) from None
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, f['loc']))}: {f['msg']}" for f in error.errors())
        raise SettingsError(
            f"a setting is wrong: {faults}.", hint="Look at the CELORA_ environment and at celora.toml in CELORA_HOME."
        ) from None


def _environment_files() -> list[Path]:
    """List the files of a running installation, without the worker's where this process has another broker."""
    application, worker = home_directory() / "celora.env", home_directory() / "worker.env"
    given = os.environ.get("CELORA_BROKER_URL")
    same = application.is_file() and f"export CELORA_BROKER_URL='{given}'" in application.read_text().splitlines()
    return [application, worker] if same or not given else [application]


@lru_cache(maxsize=1)
def get_settings() -> Settings:
    """Return the settings of this process, which are read once."""
    return load_settings()
