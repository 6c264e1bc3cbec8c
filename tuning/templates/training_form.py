"""Finds TRL's training form of a base's own chat template.

TRL ships the templates of many families, and for most of them a form for training: each answer of a conversation is
written as the model wrote it, thoughts included, so that a whole conversation can be trained as one row. It is used if
a job asks for it (``template: training``). Prompts, evaluation and the published adapter keep the base's own template.
Unusual: the texts are read from the installed package, which is not imported, as its import takes seconds.
"""

from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

TRAINING = "training"
"""Name by which a job asks for the training form."""
_SUFFIX = "_training.jinja"


@dataclass(frozen=True, slots=True)
class TrainingForm:
    """Holds a training form.

    Attributes:
        name: TRL's name of the family.
        library: The library and its version.
        text: The template.
    """

    name: str
    library: str
    text: str


def training_form(own: str) -> TrainingForm | None:
    """Return TRL's training form of a template; None where TRL has none, or knows another version of the template."""
    for path in sorted(_folder().glob(f"*{_SUFFIX}")):
        original = path.with_name(path.name.removesuffix(_SUFFIX) + ".jinja")
        if original.is_file() and _same(original.read_text(encoding="utf-8"), own):
            name = path.name.removesuffix(_SUFFIX)
            return TrainingForm(name, f"trl {version('trl')}", path.read_text(encoding="utf-8"))
    return None


def _same(one: str, other: str) -> bool:
    """Return whether two templates are equal, but for the line break at the end that jinja removes."""
    return one.removesuffix("\n") == other.removesuffix("\n")


def _folder() -> Path:
    found = find_spec("trl")
    roots = list(found.submodule_search_locations or ()) if found else []
    return Path(roots[0]) / "chat_templates" if roots else Path("no trl")
