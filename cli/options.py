"""Makes command-line options from the fields of the job spec, for the commands that take a job: ``submit``, ``check``.

An unknown option is passed on to the spec, whose refusal names the nearest field.
"""

import inspect
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import SettingsError
from ..models.spec import JobSpec
from ..settings.bases import absolute_source
from ..tuning.recipe import Recipe
from .job_file import read_job_file

REPEATED = (
    "eval_dataset",
    "columns",
    "metadata",
    "wandb",
    "metrics",
    "target_modules",
    "report_to",
    "gate",
    "loss_type",
    "loss_weights",
    "labels",
)
"""Fields with several values; their option may be given several times."""

Fields = dict[str, Any]


def fields_of(words: list[str], options: Mapping[str, str | list[str] | None], *, loose: str) -> Fields:
    """Collect a job's fields from a command line.

    Args:
        words: Words that Typer could not place: a job file or another lone word, and options that are no field.
        options: Options of the fields.
        loose: Field of a lone word that is no job file; none where empty.

    Raises:
        SettingsError: There are two lone words, or a job file or option can't be read.
    """
    word, unknown = _sort(words)
    from_file: Fields = {}
    if word and (not loose or word.endswith((".yaml", ".yml"))):
        from_file = read_job_file(Path(word))
    elif word:
        from_file = {loose: word}
    given = {name: value_of(name, value) for name, value in options.items() if value not in (None, [])}
    fields = {**from_file, **given, **unknown}
    source = fields.get("base_model")
    return {**fields, "base_model": absolute_source(source)} if isinstance(source, str) else fields


def _sort(words: list[str]) -> tuple[str | None, Fields]:
    """Sort the words that Typer could not place into the job file and the options that are no field."""
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
    return (files[0] if files else None), unknown


def value_of(name: str, given: str | list[str] | None) -> Any:
    """Convert an option's text into the field's value; pydantic converts numbers and switches by itself."""
    if not isinstance(given, list):
        return given
    if name in ("metadata", "wandb", "columns", "gate"):
        pairs = _distinct(name, [_named(name, word) for word in given])
        return {key: _parts([value]) if key == "must_not_regress" else value for key, value in pairs.items()}
    if name == "eval_dataset":
        if len(given) == 1 and not _names_a_set(given[0]):
            return given[0]
        return _distinct(
            name, [_named(name, word) if _names_a_set(word) else (Path(word).stem, word) for word in given]
        )
    if name == "target_modules" and len(given) == 1 and "," not in given[0]:
        return given[0]
    return _parts(given)


def _distinct(field: str, pairs: list[tuple[str, str]]) -> dict[str, str]:
    """Collect named values; refuse a name that comes twice, of which one value would be lost."""
    values: dict[str, str] = {}
    for name, value in pairs:
        if name in values:
            raise SettingsError(
                f"{field}: {name} is given twice.",
                hint=f"Give each a name of its own: --{field.replace('_', '-')} NAME=VALUE.",
            )
        values[name] = value
    return values


def _parts(words: list[str]) -> list[str]:
    return [part.strip() for word in words for part in word.split(",") if part.strip()]


def _names_a_set(word: str) -> bool:
    return re.match(r"[A-Za-z0-9_-]+=", word) is not None


def _named(field: str, word: str) -> tuple[str, str]:
    name, equals, value = word.partition("=")
    if not equals:
        raise SettingsError(f"{field}: {word!r} has no name.", hint=f"Write --{field.replace('_', '-')} NAME=VALUE.")
    return name, value


def command(run: Callable[..., None], own: Mapping[str, tuple[Any, Any]]) -> Callable[..., None]:
    """Make a function with one keyword for each field of the spec; Typer reads the options from its signature.

    Args:
        run: Receives ``words`` and every option; its docstring is the command's.
        own: The command's own parameters beside the fields: annotation and default. ``words`` is the first.
    """
    panels = {True: "How to train", False: "What to train"}
    kinds: dict[str, Any] = {name: annotation for name, (annotation, _) in own.items()}
    for name, field in sorted(JobSpec.model_fields.items(), key=lambda item: item[0] in Recipe.model_fields):
        option = typer.Option(
            f"--{name.replace('_', '-')}",
            help=_help(name),
            show_default=False,
            rich_help_panel=panels[name in Recipe.model_fields],
            metavar="VALUE" if field.annotation is not bool else "true|false",
        )
        kinds[name] = Annotated[list[str] | None if name in REPEATED else str | None, option]
    parameters = [
        inspect.Parameter(
            name,
            inspect.Parameter.POSITIONAL_OR_KEYWORD if name == "words" else inspect.Parameter.KEYWORD_ONLY,
            default=own[name][1] if name in own else None,
            annotation=kind,
        )
        for name, kind in kinds.items()
    ]

    def made(words: list[str] | None = None, **options: Any) -> None:
        run(words, **options)

    made.__doc__ = run.__doc__
    made.__signature__ = inspect.Signature(parameters)  # pyright: ignore[reportFunctionMemberAccess]
    made.__annotations__ = kinds
    return made


def _help(name: str) -> str:
    field = JobSpec.model_fields[name]
    default = field.get_default(call_default_factory=True)
    about = field.description or ""
    if name in REPEATED:
        about += "; may be given several times" + (
            "" if name not in ("metadata", "wandb", "columns", "eval_dataset", "gate") else ", as NAME=VALUE"
        )
    if field.is_required():
        return f"{about} (required)"
    if isinstance(default, list):
        default = ",".join(map(str, default))  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
    if isinstance(default, bool):
        default = str(default).lower()
    return about if default in (None, "", {}) else f"{about} (default: {default})"
