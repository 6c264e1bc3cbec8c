"""``celora submit``: every field of the job spec as an option, a job file, or both.

Unusual: the function's signature is made from the spec's own fields, so that ``--help`` always lists what there is.
An option that is none is passed on to the spec, whose refusal names the nearest field.
"""

import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from ..models.spec import JobSpec, parse_spec
from ..models.states import Status
from ..settings.errors import DataError, SettingsError
from ..settings.settings import get_settings
from ..storage.artifacts import Artifacts
from ..tuning import formats
from ..tuning.recipe import Recipe
from .jobs import told_outcome
from .output import print_json, progress_console
from .record import record
from .watch import follow

REPEATED = ("eval_dataset", "metadata", "metrics", "target_modules", "report_to")
"""Fields that hold several values: their option may be given several times."""

CHECKED_BYTES = 64 * 2**20
"""Up to this size a dataset is read before it is submitted."""

Fields = dict[str, Any]


def submit_job(
    words: list[str] | None, *, wait: bool, as_json: bool, job_id: str | None, **options: str | list[str] | None
) -> None:
    """Submit a fine-tuning job.

    The dataset is copied into the installation, named by its content, before the job is recorded. Fields may come from
    a YAML file; an option overrides it.

    Example: `celora submit --base-model smollm2-135m-instruct --dataset train.jsonl --epochs 1 --wait`

    Example: `celora submit job.yaml --rank 8 --json`
    """
    path, unknown = _sort(words or [])
    given = {name: _value(name, value) for name, value in options.items() if value not in (None, [])}
    fields = {**(_job_file(path) if path else {}), **given, **unknown}
    parse_spec(fields)
    record()
    chosen = _submit(_imported(fields), job_id)
    if not wait:
        _accepted(chosen, as_json=as_json)
        return
    try:
        job = follow(chosen)
    except KeyboardInterrupt:
        progress_console().print(
            f"Job {chosen} goes on; see `celora status {chosen}`, end it with `celora cancel {chosen}`."
        )
        raise
    told_outcome(job, as_json=as_json)
    if job["status"] != Status.COMPLETED:
        raise typer.Exit(1)


def _submit(fields: Fields, job_id: str | None) -> str:
    from ..tasks import submission  # noqa: PLC0415  (Celery takes a third of a second to import)

    return submission.submit(fields, job_id=job_id)


def _accepted(job_id: str, *, as_json: bool) -> None:
    if as_json:
        print_json({"id": job_id})
    else:
        typer.echo(f"{job_id}\nFollow it: celora status {job_id}   celora logs {job_id} -f")


def _sort(words: list[str]) -> tuple[Path | None, Fields]:
    """The job file, and the options that are no field, out of what Typer could not place."""
    files: list[str] = []
    unknown: Fields = {}
    rest = iter(words)
    for word in rest:
        if not word.startswith("--"):
            files.append(word)
            continue
        name, equals, value = word[2:].partition("=")
        unknown[name.replace("-", "_")] = value if equals else next(rest, "true")
    if len(files) > 1:
        raise SettingsError(
            f"{', '.join(files)} are {len(files)} job files.", hint="Give one; every field has a name: --dataset FILE."
        )
    return (Path(files[0]) if files else None), unknown


def _job_file(path: Path) -> Fields:
    try:
        content: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SettingsError(f"the job file {path} does not exist.", hint="See examples/job.yaml.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"the job file {path} can't be read ({error}).") from None
    except yaml.YAMLError as error:
        where = " ".join(str(error).split())
        raise SettingsError(f"the job file {path} is no YAML: {where}.", hint="See examples/job.yaml.") from None
    if not isinstance(content, dict):
        raise SettingsError(
            f"the job file {path} holds no fields.",
            hint="Write lines like `dataset: train.jsonl`; see examples/job.yaml.",
        )
    return {str(name): value for name, value in content.items()}  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]


def _value(name: str, given: str | list[str] | None) -> Any:
    """An option's text as the field's value; pydantic turns numbers and switches from text by itself."""
    if not isinstance(given, list):
        return given
    if name == "metadata":
        return dict(_named(name, word) for word in given)
    if name == "eval_dataset":
        if len(given) == 1 and not _names_a_set(given[0]):
            return given[0]
        return dict(_named(name, word) if _names_a_set(word) else (Path(word).stem, word) for word in given)
    if name == "target_modules" and len(given) == 1 and "," not in given[0]:
        return given[0]
    return [part.strip() for word in given for part in word.split(",") if part.strip()]


def _names_a_set(word: str) -> bool:
    return re.match(r"[A-Za-z0-9_-]+=", word) is not None


def _named(field: str, word: str) -> tuple[str, str]:
    name, equals, value = word.partition("=")
    if not equals:
        raise SettingsError(f"{field}: {word!r} has no name.", hint=f"Write --{field.replace('_', '-')} NAME=VALUE.")
    return name, value


def _imported(fields: Fields) -> Fields:
    """The fields with every dataset that is a file here replaced by its URI in the installation."""
    given: str | dict[str, str] = fields.get("eval_dataset") or {}
    held_out = {"": given} if isinstance(given, str) else given
    sources = [str(fields["dataset"]), *map(str, held_out.values())]
    for source in sources:
        if "://" not in source:
            _check(Path(source))
    artifacts = Artifacts(get_settings().artifacts)
    uris = {source: source if "://" in source else artifacts.import_dataset(Path(source))[1] for source in sources}
    placed = {name: uris[str(source)] for name, source in held_out.items()}
    changed = {"dataset": uris[str(fields["dataset"])]}
    return {**fields, **changed, **({"eval_dataset": placed.get("", placed)} if placed else {})}


def _check(path: Path) -> None:
    """Refuse a file with a bad line here, under its own name; a large one is left to ``prepare``, which reads it too.

    Raises:
        DataError: It is missing, has bad lines, or no rows.
    """
    if not path.is_file():
        raise DataError(f"the dataset {path} is no file here.", hint="Give the path of a .jsonl file.")
    if path.stat().st_size <= CHECKED_BYTES:
        formats.require_good(formats.read(path))


def _command() -> Callable[..., None]:
    """``submit_job`` with one keyword per field of the spec, which is how Typer learns the options."""
    panels = {True: "How to train", False: "What to train"}
    kinds: dict[str, Any] = {
        "words": Annotated[list[str] | None, typer.Argument(metavar="[JOB.yaml]", help="A job file.")],
        "wait": Annotated[
            bool, typer.Option("--wait", help="Stay until the job has ended; exit 0 only if it completed.")
        ],
        "as_json": Annotated[bool, typer.Option("--json", help="Print JSON for programs.")],
        "job_id": Annotated[str | None, typer.Option("--id", help="An id of your own; the same id twice is one job.")],
    }
    for name, field in sorted(JobSpec.model_fields.items(), key=lambda item: item[0] in Recipe.model_fields):
        option = typer.Option(
            f"--{name.replace('_', '-')}",
            help=_help(name),
            show_default=False,
            rich_help_panel=panels[name in Recipe.model_fields],
            metavar="VALUE" if field.annotation is not bool else "true|false",
        )
        kinds[name] = Annotated[list[str] | None if name in REPEATED else str | None, option]
    keyword = inspect.Parameter.KEYWORD_ONLY
    defaults: dict[str, Any] = {"wait": False, "as_json": False}
    parameters = [
        inspect.Parameter(
            name,
            inspect.Parameter.POSITIONAL_OR_KEYWORD if name == "words" else keyword,
            default=defaults.get(name),
            annotation=kind,
        )
        for name, kind in kinds.items()
    ]

    def submit(words: list[str] | None = None, **options: Any) -> None:
        submit_job(words, **options)

    submit.__doc__ = submit_job.__doc__
    submit.__signature__ = inspect.Signature(parameters)  # pyright: ignore[reportFunctionMemberAccess]
    submit.__annotations__ = kinds
    return submit


def _help(name: str) -> str:
    field = JobSpec.model_fields[name]
    default = field.get_default(call_default_factory=True)
    about = field.description or ""
    if name in REPEATED:
        about += "; may be given several times" + (
            "" if name not in ("metadata", "eval_dataset") else ", as NAME=VALUE"
        )
    if field.is_required():
        return f"{about} (required)"
    if isinstance(default, list):
        default = ",".join(map(str, default))  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
    if isinstance(default, bool):
        default = str(default).lower()
    return about if default in (None, "", {}) else f"{about} (default: {default})"


submit = _command()
