"""Options made from the job spec's own fields, for every command that takes a job: ``submit`` and ``check``.

An option that is none is passed on to the spec, whose refusal names the nearest field.
"""

import inspect
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from ..models.spec import JobSpec
from ..settings.errors import SettingsError
from ..tuning.recipe import Recipe

REPEATED = ("eval_dataset", "columns", "metadata", "metrics", "target_modules", "report_to", "gate")
"""Fields that hold several values: their option may be given several times."""

Fields = dict[str, Any]


def fields_of(words: list[str], options: Mapping[str, str | list[str] | None], *, loose: str) -> Fields:
    """The job's fields from a command line.

    Args:
        words: What Typer could not place: a job file or another lone word, and options that are no field.
        options: The fields' options.
        loose: The field that a lone word is, where it is no job file; none where empty.

    Raises:
        SettingsError: There are two lone words, or a job file or option can't be read.
    """
    word, unknown = _sort(words)
    from_file: Fields = {}
    if word and (not loose or word.endswith((".yaml", ".yml"))):
        from_file = _job_file(Path(word))
    elif word:
        from_file = {loose: word}
    given = {name: value_of(name, value) for name, value in options.items() if value not in (None, [])}
    return {**from_file, **given, **unknown}


def _sort(words: list[str]) -> tuple[str | None, Fields]:
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
    return (files[0] if files else None), unknown


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


def value_of(name: str, given: str | list[str] | None) -> Any:
    """An option's text as the field's value; pydantic turns numbers and switches from text by itself."""
    if not isinstance(given, list):
        return given
    if name in ("metadata", "columns", "gate"):
        pairs = dict(_named(name, word) for word in given)
        return {key: _parts([value]) if key == "must_not_regress" else value for key, value in pairs.items()}
    if name == "eval_dataset":
        if len(given) == 1 and not _names_a_set(given[0]):
            return given[0]
        return dict(_named(name, word) if _names_a_set(word) else (Path(word).stem, word) for word in given)
    if name == "target_modules" and len(given) == 1 and "," not in given[0]:
        return given[0]
    return _parts(given)


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
    """A function with one keyword per field of the spec, which is how Typer learns the options.

    Args:
        run: Gets ``words`` and every option; its docstring is the command's.
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
            "" if name not in ("metadata", "columns", "eval_dataset", "gate") else ", as NAME=VALUE"
        )
    if field.is_required():
        return f"{about} (required)"
    if isinstance(default, list):
        default = ",".join(map(str, default))  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
    if isinstance(default, bool):
        default = str(default).lower()
    return about if default in (None, "", {}) else f"{about} (default: {default})"
