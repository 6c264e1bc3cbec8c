"""The settings of an installation: one typed object, built at the edge.

Order: environment ``CELORA_*``, then the files of ``CELORA_SECRETS_DIR`` (a container's mounted secrets, each named as
its variable), then ``CELORA_HOME/celora.env`` (written by ``celora up``, so that a program on the same machine finds
the running installation), then ``CELORA_HOME/celora.toml``, then defaults that work on one machine.
"""

import os
import tomllib
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SecretsSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from .errors import SettingsError


def home_directory() -> Path:
    """Where all local data lies: ``CELORA_HOME``, or ``~/.celora``."""
    return Path(os.environ.get("CELORA_HOME") or Path.home() / ".celora").expanduser().absolute()


def secrets_directory() -> Path | None:
    """Where settings may lie as files, one each, named ``celora_database_url`` and so on; None unless it is set.

    Raises:
        SettingsError: ``CELORA_SECRETS_DIR`` names no folder: what should be secret would silently be a default.
    """
    named = os.environ.get("CELORA_SECRETS_DIR")
    if not named:
        return None
    if not Path(named).is_dir():
        raise SettingsError(
            f"CELORA_SECRETS_DIR is {named}, which is no folder.", hint="Mount the secrets there, or unset it."
        )
    return Path(named)


class GpuOverride(BaseSettings):
    """What an operator adds or changes in the GPU catalogue, under ``[gpus.NAME]`` in celora.toml."""

    model_config = SettingsConfigDict(extra="forbid")

    match: list[str] = Field(default_factory=list, description="parts of the device name that NVML reports, lower case")
    memory_gib: float | None = Field(None, description="device memory, GiB")
    price_per_hour: float | None = Field(None, description="US dollars an hour that a job is charged")


class Settings(BaseSettings):
    """Every knob of an installation; each is also an environment variable with the prefix ``CELORA_``."""

    model_config = SettingsConfigDict(env_prefix="CELORA_", env_nested_delimiter="__", extra="ignore", frozen=True)

    home: Path = Field(default_factory=home_directory, description="folder of all local data")
    profile: Literal["local", "production"] = Field(
        "local", description="production refuses servers without a password, and passwords that anybody would try first"
    )
    log_format: Literal["text", "json"] = Field(
        "text", description="how workers, beat and the exporter write their logs: text, or one JSON object a line"
    )
    broker_url: str = Field("", description="Redis or Valkey URL of the Celery broker; the embedded one unless set")
    result_backend: str = Field("", description="Celery result backend URL; the broker's server unless set")
    database_url: str = Field("", description="SQLAlchemy URL of the record; SQLite below the home unless set")
    artifact_root: str = Field("", description="fsspec URL of the artifacts; a folder below the home unless set")
    allowed_roots: list[Path] = Field(
        default_factory=lambda: [Path("/")], description="folders below which a dataset path must lie"
    )
    allowed_schemes: list[str] = Field(
        default_factory=list, description="where datasets may be fetched from: https, http, s3, gs, hub; empty: nowhere"
    )
    allowed_hosts: list[str] = Field(
        default_factory=list,
        description="hosts (host or host:port) and buckets that datasets may be fetched from (shell patterns)",
    )
    allowed_bases: list[str] = Field(
        default_factory=list, description="base models that may be used (shell patterns); empty allows all"
    )
    remote_code_bases: list[str] = Field(
        default_factory=list, description="base models whose own code may run; empty forbids all"
    )
    lease_s: Annotated[float, Field(gt=0)] = Field(90, description="seconds a worker's claim holds without a renewal")
    heartbeat_s: Annotated[float, Field(gt=0)] = Field(20, description="seconds between renewals of a lease")
    reaper_s: Annotated[float, Field(gt=0)] = Field(15, description="seconds between looks for expired leases")
    tick_s: Annotated[float, Field(gt=0)] = Field(30, description="seconds between scheduling rounds nobody asked for")
    deaf_after_s: Annotated[float, Field(gt=0)] = Field(
        60, description="seconds that messages may wait beside an idle worker until it takes itself for deaf and leaves"
    )
    late_s: Annotated[float, Field(gt=0)] = Field(
        300, description="seconds by which a schedule's slot may be late before it counts as missed"
    )
    on_promote: list[str] = Field(
        default_factory=list,
        description="command that is run, without a shell, after a champion changed: a list of its words; it gets the "
        "facts as JSON on standard input",
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
        10, description="minutes without a step (or 20 steps' time, if that is more) after which training is stalled"
    )
    foreign_memory_bytes: Annotated[int, Field(ge=0)] = Field(
        2**30, description="memory of a worker's GPU that other people's processes may hold before it takes no work"
    )
    max_gpus_per_tenant: Annotated[int, Field(gt=0)] | None = Field(
        None, description="slots that one tenant may hold at a time; unlimited unless set"
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
        100 * 2**30, description="size of each machine's prepared data for reuse, the longest unused goes; 0: no limit"
    )
    keep_base_days: Annotated[float, Field(ge=0)] = Field(
        90, description="days that a machine keeps a base model that no job uses after its last use"
    )
    cache_bytes: Annotated[int, Field(ge=0)] = Field(
        0, description="size of each machine's base models, the longest unused goes, never a live job's; 0: no limit"
    )
    keep_checkpoint_days: Annotated[float, Field(ge=0)] = Field(
        30, description="days that an ended job can be retried or evaluated again; then its checkpoints and data go"
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
    grace_s: Annotated[float, Field(gt=0)] = Field(60, description="seconds a trainer has to checkpoint when stopped")
    visibility_timeout_s: Annotated[int, Field(gt=0)] = Field(
        120, description="seconds until Redis gives an unacknowledged message out again; the same in every process"
    )
    result_expires_s: Annotated[int, Field(gt=0)] = Field(7 * 86400, description="seconds a result stays in the cache")
    keep_checkpoints: Annotated[int, Field(ge=1)] = Field(2, description="checkpoints kept per job")
    trainer_threads: Annotated[int, Field(ge=0)] = Field(0, description="CPU threads of a trainer; 0: all cores")
    gpus: dict[str, GpuOverride] = Field(default_factory=dict, description="changes to the GPU catalogue")
    flower_auth: str = Field(
        "",
        pattern="^$|^[^:]+:.+$",
        description="login of Flower, user:password; one is made up and printed at its start unless set",
    )
    flower_read_only: bool = Field(
        default=False, description="Flower only shows: it revokes no task and stops no worker"
    )
    hub_endpoint: str = Field("https://huggingface.co", description="URL of the model hub")
    offline: bool = Field(default=False, description="never ask the hub; use what the cache holds")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003  (the signature is pydantic's)
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Environment first, then the secrets' files, then celora.env, then celora.toml."""
        toml = TomlConfigSettingsSource(settings_cls, toml_file=home_directory() / "celora.toml")
        files = [SecretsSettingsSource(settings_cls, secrets_dir=folder)] if (folder := secrets_directory()) else []
        return init_settings, env_settings, *files, dotenv_settings, toml

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
        """Folder in which trainers write before their work is uploaded."""
        return self.home / "scratch"

    @property
    def logs(self) -> Path:
        """Folder of the services' own logs."""
        return self.home / "logs"


def load_settings(*, running: bool = True, **overrides: Any) -> Settings:
    """Read the settings afresh.

    Args:
        running: Whether ``celora.env``, the trace of a running ``celora up``, counts.
        overrides: Values that beat every source.

    Raises:
        SettingsError: A setting has a value that it can't have.
    """
    try:
        env_file = home_directory() / "celora.env" if running else None
        return Settings(_env_file=env_file, **overrides)  # pyright: ignore[reportCallIssue]
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(
            f"{home_directory() / 'celora.toml'} is no TOML: {error}.", hint="Mend that line; a value is NAME = VALUE."
        ) from error
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, f['loc']))}: {f['msg']}" for f in error.errors())
        raise SettingsError(
            f"a setting is wrong: {faults}.", hint="Look at the CELORA_ environment and at celora.toml in CELORA_HOME."
        ) from None


@lru_cache(maxsize=1)
def get_settings() -> Settings:
    """The settings of this process, read once."""
    return load_settings()
