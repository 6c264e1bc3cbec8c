"""What the repository promises about itself: its documents, its room order, its light imports."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from celora.models.spec import JobSpec
from celora.settings.settings import Settings

ROOT = Path(__file__).parent.parent
FLOORS = {
    "settings": 0,
    "storage": 0,
    "tuning": 0,
    "models": 1,
    "scheduling": 2,
    "workers": 3,
    "tasks": 4,
    "cli": 5,
}
GROUND_MAY_IMPORT = {
    "settings": (),
    "storage": ("settings",),
    "tuning": ("settings.errors", "settings.failpoints", "settings.bases", "storage.manifest", "storage.paths"),
}
"""On the ground floor, which modules of its neighbours a room may use."""
LIGHT = ["settings", "storage", "models", "scheduling", "workers", "tasks", "cli.app"]
HEAVY = {"torch", "transformers", "datasets", "tokenizers", "peft", "trl", "bitsandbytes", "accelerate", "numpy"}


def modules():
    for room in FLOORS:
        for path in sorted((ROOT / room).rglob("*.py")):
            if "__pycache__" not in path.parts:
                yield path.relative_to(ROOT)


def tree_of(path):
    return ast.parse((ROOT / path).read_text(encoding="utf-8"), filename=str(path))


def imports_of(path):
    """Every import of a celora module in a file, as ``(line, 'room.module…', relative)``."""
    package = path.parts[:-1]
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            for name in node.names:
                if name.name.split(".")[0] == "celora":
                    yield node.lineno, name.name.partition(".")[2], False
        elif isinstance(node, ast.ImportFrom):
            if node.level == 0 and (node.module or "").split(".")[0] == "celora":
                parts, relative = (node.module or "").split(".")[1:], False
            elif node.level:
                stem = package[: len(package) - node.level + 1]
                parts, relative = [*stem, *(node.module or "").split(".")], True
            else:
                continue
            base = ".".join(filter(None, parts))
            for name in node.names:
                yield node.lineno, ".".join(filter(None, [base, name.name])), relative


def test_every_folder_of_code_has_a_floor():
    rooms = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    assert rooms == set(FLOORS)


def test_imports_point_downwards():
    upward = []
    for path in modules():
        room = path.parts[0]
        for line, target, _ in imports_of(path):
            other = target.split(".")[0]
            if other == room or not other:
                continue
            assert other in FLOORS, f"{path}:{line} imports {target}, which is no room"
            if FLOORS[other] > FLOORS[room]:
                upward.append(f"{path}:{line} imports {target}, which lies above")
            elif FLOORS[other] == FLOORS[room]:
                allowed = GROUND_MAY_IMPORT[room]
                if not any(target == name or target.startswith(f"{name}.") for name in allowed):
                    upward.append(f"{path}:{line} imports {target}; {room} may use {', '.join(allowed) or 'no room'}")
    assert upward == []


def test_rooms_import_each_other_relatively():
    """An absolute import loads a second copy of a module that is run in place. Alembic loads its files by path."""
    absolute = [
        f"{path}:{line} {target}"
        for path in modules()
        if path.parts[:2] != ("models", "migrations")
        for line, target, relative in imports_of(path)
        if not relative
    ]
    assert absolute == []


def test_the_light_rooms_load_no_machine_learning():
    code = "import sys\n" + "".join(f"import celora.{name}\n" for name in LIGHT)
    code += f"print(*sorted({HEAVY!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []


def settings_page():
    """docs/settings.md as the code has it."""
    lines = [
        "# Settings",
        "",
        "Written by `WRITE_DOCS=1 make test ARGS=tests/test_repository.py`; a test compares it with the code.",
        "",
        "## Of an installation",
        "",
        "Each is an environment variable, or a line in `CELORA_HOME/celora.toml` (`lease_s = 120`; tables as",
        "`[gpus.h100]`). The environment wins, then `celora.env`, which `celora up` writes, then `celora.toml`.",
        "",
        "| environment | default | meaning |",
        "|---|---|---|",
    ]
    for name, field in Settings.model_fields.items():
        default = "`~/.celora`" if name == "home" else shown(field)
        lines.append(f"| `CELORA_{name.upper()}` | {default} | {field.description} |")
    lines += [
        "",
        "`CELORA_SECRETS_DIR` names a folder of files, one a setting (`celora_database_url`), such as a container's",
        "mounted secrets; the environment wins over them.",
        "",
        "## Of a job",
        "",
        "The fields of `finetune.apply_async(kwargs={…})`, of a job file, and, as `--name value`, of `celora submit`.",
        "",
        "| field | default | meaning |",
        "|---|---|---|",
    ]
    own = [name for name in JobSpec.model_fields if name not in JobSpec.__mro__[1].model_fields]
    for name in [*own, *(name for name in JobSpec.model_fields if name not in own)]:
        field = JobSpec.model_fields[name]
        lines.append(f"| `{name}` | {shown(field)} | {field.description} |")
    return "\n".join(lines) + "\n"


def shown(field):
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if isinstance(value, list):
        value = ", ".join(map(str, value))
    return f"`{value}`" if value not in (None, "", {}) else "unset"


def test_every_setting_is_documented():
    page = ROOT / "docs" / "settings.md"
    if os.environ.get("WRITE_DOCS"):
        page.write_text(settings_page(), encoding="utf-8")
    assert page.read_text(encoding="utf-8") == settings_page(), "write it anew with WRITE_DOCS=1"


def test_every_setting_and_field_has_a_meaning():
    fields = {**Settings.model_fields, **JobSpec.model_fields}
    assert [name for name, field in fields.items() if not field.description] == []


def documents():
    return [
        path for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("deploy/*.md")] if path.is_file()
    ]


@pytest.mark.parametrize("page", documents(), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_link_in_a_document_leads_somewhere(page):
    links = re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text(encoding="utf-8"))
    assert [link for link in links if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("page", documents(), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_make_target_in_a_document_exists(page):
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE))
    named = re.findall(r"(?:`|^\s{4})make ([a-z]+)", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert [name for name in named if name not in targets] == []


def celora_commands():
    """Every command of the application, ``bases add`` and its like included, with the names of its options."""
    import typer.main

    from celora.cli.app import app

    def walk(command, path):
        yield " ".join(path), {option for parameter in command.params for option in parameter.opts}
        for name, child in getattr(command, "commands", {}).items():
            yield from walk(child, [*path, name])

    return dict(walk(typer.main.get_command(app), []))


@pytest.mark.parametrize("page", documents(), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_celora_command_in_a_document_exists(page):
    known = celora_commands()
    word = "[a-z]+(?:-[a-z]+)*"
    said = re.compile(rf"(?:`|^\s{{4}})celora ({word}(?: {word})*)", flags=re.MULTILINE)
    named = said.findall(page.read_text(encoding="utf-8"))
    for words in named:
        first, *rest = words.split()
        assert first in known, f"celora {first}"
        subcommands = {name.split()[1] for name in known if name.startswith(f"{first} ")}
        if subcommands and rest:
            assert rest[0] in subcommands, f"celora {words}"


def test_the_readme_shows_every_room_and_folder():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert [name for name in [*FLOORS, "flower", "deploy", "tests", "benchmarks", "docs", "examples"]
            if f"{name}/" not in readme] == []  # fmt: skip


def test_the_demo_data_is_what_its_script_writes(tmp_path):
    subprocess.run([sys.executable, ROOT / "examples" / "make_support_messages.py", tmp_path], check=True)
    shipped = ROOT / "cli" / "demo_data"
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(path.name for path in shipped.iterdir())
    for path in tmp_path.iterdir():
        assert path.read_text(encoding="utf-8") == (shipped / path.name).read_text(encoding="utf-8"), path.name


def test_the_example_job_is_a_valid_spec():
    import yaml

    from celora.models.spec import parse_spec

    spec = parse_spec(yaml.safe_load((ROOT / "examples" / "job.yaml").read_text(encoding="utf-8")))
    assert (ROOT / spec.dataset).is_file()
