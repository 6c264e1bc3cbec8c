"""Holds the promises of the repository about itself: floors, districts, sizes, tests, light imports, documents."""

import ast
import os
import re
import subprocess
import sys
from collections import Counter
from functools import cache
from pathlib import Path

import pytest

from celora.models.spec import JobSpec
from celora.settings.settings import Settings

ROOT = Path(__file__).parent.parent
FLOORS = {
    "errors": 0,
    "settings": 0,
    "storage": 0,
    "tuning": 0,
    "models": 1,
    "scheduling": 2,
    "workers": 3,
    "services": 4,
    "doctor": 4,
    "tasks": 5,
    "api": 6,
    "cli": 6,
}
GROUND_MAY_IMPORT = {
    "errors": (),
    "settings": ("errors", "storage.file_lock"),
    "storage": ("errors", "settings"),
    "tuning": (
        "errors",
        "settings.failpoints",
        "settings.bases",
        "settings.secret_patterns",
        "storage.disk_space",
        "storage.file_lock",
        "storage.json_values",
        "storage.manifest",
        "storage.paths",
        "storage.regular_files",
        "storage.unix_socket",
    ),
    "services": (),
    "doctor": (),
    "api": (),
    "cli": ("api.client", "api.server"),
}
"""Where two rooms stand on one floor, which modules of its neighbours a room may use."""
DISTRICTS = {
    "tuning": "",
    "tuning.files": "tuning",
    "tuning.rows": "tuning files",
    "tuning.templates": "tuning rows",
    "tuning.bases": "tuning",
    "tuning.adapters": "tuning bases",
    "tuning.batches": "tuning",
    "tuning.estimate": "tuning bases batches",
    "tuning.prepare": "tuning files rows templates bases adapters batches estimate",
    "tuning.training": "tuning bases adapters batches estimate",
    "tuning.evaluation": "tuning templates bases adapters batches",
    "tuning.answering": "tuning templates bases adapters evaluation",
    "tuning.trainer": "tuning files rows bases adapters prepare training evaluation",
    "models": "tables scope queue notifications.notices migrations.schema",
    "models.tables": "states",
    "models.migrations": "models tables",
    "models.tenants": "models tables scope",
    "models.notifications": "models tables tenants",
    "models.jobs": "openai.model_ids models tables tenants queue notifications",
    "models.adapters": "models tables",
    "models.openai": "models tables",
    "models.queue": "models tables scope",
    "models.scope": "models tables",
    "services": "tenants",
    "services.tenants": "",
    "services.chat": "openai",
    "services.native": "services tenants openai queue notifications",
    "services.notifications": "tenants",
    "services.openai": "services tenants",
    "services.queue": "services rounds tenants",
    "services.rounds": "services tenants notifications",
    "workers": "",
    "workers.trainer": "workers",
    "workers.stages": "workers trainer",
    "workers.lifecycle": "workers stages trainer",
    "workers.node": "workers trainer",
}
"""The districts of the large rooms, and what each may import: the room's name stands for the modules directly in it."""
LIGHT = [
    "errors",
    "settings",
    "storage",
    "models",
    "scheduling",
    "workers",
    "services",
    "doctor",
    "tasks",
    "api",
    "cli.app",
]
HEAVY = {"torch", "transformers", "datasets", "tokenizers", "peft", "trl", "bitsandbytes", "accelerate", "numpy"}


MOST_MODULES = 15
UNDIVIDED = {"cli", "models/migrations/versions"}
"""Folders that may hold more than ``MOST_MODULES``: a module a command, a module a version."""


def modules():
    for room in FLOORS:
        for path in sorted((ROOT / room).rglob("*.py")):
            if "__pycache__" not in path.parts:
                yield path.relative_to(ROOT)


def name_of(path):
    """``tuning/files/jsonl.py`` as ``tuning.files.jsonl``, a package's ``__init__`` as the package."""
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def tree_of(path):
    return ast.parse((ROOT / path).read_text(encoding="utf-8"), filename=str(path))


@cache
def imports_of(path):
    """Every import of a celora module in a file, as ``(line, 'room.module…', relative)``."""
    return tuple(_imports_of(path))


def _imports_of(path):
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


@pytest.fixture(scope="module")
def imports():
    """Each module with the modules that it imports, lazily and for type checking included."""
    known = {name_of(path): path for path in modules()}

    def module_of(target):
        while target and target not in known:
            target = target.rpartition(".")[0]
        return target

    found = {name: {module_of(target) for _, target, _ in imports_of(path)} for name, path in known.items()}
    return {name: targets - {name, ""} for name, targets in found.items()}


def district_of(module):
    room, _, rest = module.partition(".")
    district = f"{room}.{rest.partition('.')[0]}"
    return district if district in DISTRICTS else room


def test_imports_between_districts_follow_the_table(imports):
    wrong = []
    for module, targets in imports.items():
        district = district_of(module)
        if district not in DISTRICTS:
            continue
        room = district.partition(".")[0]
        named = DISTRICTS[district].split()
        allowed = {district} | {name if name == room else f"{room}.{name}" for name in named}
        inside = [target for target in targets if target.partition(".")[0] == room]
        wrong += [f"{module} -> {target}" for target in inside if not {district_of(target), target} & allowed]
    assert wrong == []


def test_every_district_is_in_the_table():
    folders = {".".join(path.parent.relative_to(ROOT).parts) for room in ("tuning", "models", "services", "workers")
               for path in (ROOT / room).glob("*/__init__.py")}  # fmt: skip
    assert folders | {"tuning", "models", "services", "workers"} == set(DISTRICTS)


def circles(graph):
    """The strongly connected components of more than one module, each sorted (Tarjan, SIAM J. Comput. 1, 1972)."""
    order, low, stack, found = {}, {}, [], []

    def visit(module):
        order[module] = low[module] = len(order)
        stack.append(module)
        for target in graph[module]:
            if target not in order:
                visit(target)
            if target in stack:
                low[module] = min(low[module], low[target])
        if low[module] == order[module]:
            cut = stack.index(module)
            if len(stack) - cut > 1:
                found.append(sorted(stack[cut:]))
            del stack[cut:]

    for module in graph:
        if module not in order:
            visit(module)
    return found


def test_a_circle_would_be_found():
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b", "d"}, "d": set()}) == [["b", "c"]]


def test_no_modules_import_each_other_in_a_circle(imports):
    """Lazy and type-checking imports count: they hide a circle and do not break it."""
    assert circles(imports) == []


def test_no_folder_holds_more_modules_than_a_reader_can_scan():
    shelves = Counter(path.parent.as_posix() for path in modules() if path.name != "__init__.py")
    assert {name: count for name, count in shelves.items() if count > MOST_MODULES and name not in UNDIVIDED} == {}


def test_every_module_has_a_test_file_at_the_mirrored_place():
    """``tuning/files/jsonl.py`` is tested by ``tests/tuning/files/test_jsonl.py``; a package with code by its name."""
    missing = []
    for path in modules():
        if path.parent.as_posix() == "models/migrations/versions" or path.name in ("__main__.py", "env.py"):
            continue  # tests/models/migrations/ runs all versions; __main__ calls its neighbour
        if path.name == "__init__.py" and not defines(path):
            continue
        stem = path.parent.name if path.name == "__init__.py" else path.stem
        if not (ROOT / "tests" / path.parent / f"test_{stem}.py").is_file():
            missing.append(path.as_posix())
    assert missing == []


def defines(path):
    return any(isinstance(node, ast.FunctionDef | ast.ClassDef) for node in tree_of(path).body)


def test_every_module_package_and_public_name_has_a_docstring():
    bare = []
    for path in modules():
        tree = tree_of(path)
        if not ast.get_docstring(tree):
            bare.append(path.as_posix())
        public = [
            node for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name[0] != "_"
        ]
        bare += [f"{path.as_posix()}:{node.name}" for node in public if not ast.get_docstring(node)]
    assert bare == []


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
    rooms = [ROOT / name for name in LIGHT if name not in ("tasks", "cli.app")]
    paths = [path.relative_to(ROOT) for room in rooms for path in sorted(room.rglob("*.py"))]
    inside = [".".join(path.with_suffix("").parts) for path in paths if "migrations" not in path.parts]
    code = "import sys\n" + "".join(f"import celora.{name}\n" for name in [*LIGHT, *inside])
    code += f"print(*sorted({HEAVY!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []


MOST_LOADED = 118
"""Modules of celora behind a submit; a client, the API and each command load them."""


def test_a_submit_loads_no_part_of_a_worker_that_runs_stages():
    code = "import sys, celora.services.jobs\nprint(*(name for name in sys.modules if name.startswith('celora')))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    loaded = set(done.stdout.split())
    assert not [name for name in loaded if name.startswith("celora.workers.stages")]
    assert not loaded & {
        f"celora.workers.{name}"
        for name in ("lease", "trainer.supervisor", "trainer.process", "trainer.watchdog", "lifecycle.registration")
    }
    assert len(loaded) <= MOST_LOADED


COMMANDS_LOAD = {
    "status": ("celora.tuning.protocol", "celora.models.spec", "celora.storage.artifacts", "fsspec", "celery", "yaml"),
    "list": ("celora.tuning.protocol", "celora.models.spec", "celora.storage.artifacts", "fsspec", "celery", "yaml"),
    "queues": ("celora.tuning", "fsspec", "celery", "yaml", "celora.models.spec", "celora.cli.jobs"),
    "workers": ("celora.tuning", "fsspec", "celery", "yaml", "celora.models.spec", "celora.cli.jobs"),
}
"""For each short command, modules that it must not load: it prints nothing that needs them."""


@pytest.mark.parametrize("name", COMMANDS_LOAD)
def test_a_short_command_loads_nothing_that_it_does_not_print(name):
    """The other commands, Celery, the trainer's messages and the object stores stay on the disk."""
    code = f"""import sys
from celora.cli.command_table import TABLE, LazyCommands
LazyCommands(TABLE)[{name!r}]
from celora.models import database, queries
loaded = set(sys.modules)
print(*({set(COMMANDS_LOAD[name])!r} & loaded), len([one for one in loaded if one.startswith("celora.cli.")]))"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    *wrong, modules_of_commands = done.stdout.split()
    assert wrong == []
    assert int(modules_of_commands) <= 8


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
        "`[gpus.h100]`). The environment wins, then `celora.env` and `worker.env` of `celora up`, then `celora.toml`.",
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


@pytest.mark.parametrize("page", ["docs/architecture.md", "CONTRIBUTING.md"])
def test_every_path_that_a_contributor_reads_exists(page):
    """A path is what stands in backticks, has a slash and is no command; a folder ends in one."""
    named = re.findall(r"`([\w.-]+(?:/[\w.-]+)*/?)`", (ROOT / page).read_text(encoding="utf-8"))
    paths = [name for name in named if "/" in name]
    assert len(paths) > 10
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_the_decisions_index_lists_every_decision():
    page = ROOT / "docs" / "decisions.md"
    if os.environ.get("WRITE_DOCS"):
        page.write_text(decisions_index(), encoding="utf-8")
    assert page.read_text(encoding="utf-8") == decisions_index(), "write it anew with WRITE_DOCS=1"


SUBJECTS = ["record", "queue", "trainer", "data", "base-models", "evaluation", "operation", "security", "development"]


DECISIONS = """\
# Decisions

The decisions behind celora by subject: the choice, the reason, and what else was looked at; the negative results too.
A new decision is a section on the page of its subject: a heading that states it, then a dated paragraph. A decision
that no longer holds stays, with a dated note that says what was measured.

Written by `WRITE_DOCS=1 make test ARGS=tests/test_repository.py`; a test compares it with the pages.

<a id="2026-11-24"></a>

"""


def decisions_index():
    """docs/decisions.md: every decision of the pages below docs/decisions/, with its date."""
    lines = DECISIONS.splitlines()
    assert {path.stem for path in (ROOT / "docs" / "decisions").glob("*.md")} == set(SUBJECTS)
    for subject in SUBJECTS:
        text = (ROOT / "docs" / "decisions" / f"{subject}.md").read_text(encoding="utf-8")
        title = text.partition("\n")[0].removeprefix("# Decisions: ")
        lines += [f"## {title[0].upper()}{title[1:]}", ""]
        headings = re.findall(r"^## (.+)$", text, flags=re.MULTILINE)
        dated = dict(re.findall(r"^## (.+)\n\n\*(\d{4}-\d\d-\d\d)[.:]\*", text, flags=re.MULTILINE))
        assert [heading for heading in headings if heading not in dated] == [], "*2026-11-30.* begins each decision"
        lines += [f"- {dated[heading]} [{heading}](decisions/{subject}.md#{anchor(heading)})" for heading in headings]
        lines.append("")
    return "\n".join(lines)


def anchor(heading):
    """The anchor that the site and the forges give a heading."""
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize("page", documents(), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_make_target_in_a_document_exists(page):
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE))
    named = re.findall(r"(?:`|^\s{4})make ([a-z]+)", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert [name for name in named if name not in targets] == []


@pytest.mark.parametrize("pipeline", [".github/workflows/checks.yml", ".gitlab-ci.yml"])
def test_the_pipelines_of_the_forges_call_make_targets_alone(pipeline):
    import yaml

    [job] = (found := yaml.safe_load((ROOT / pipeline).read_text(encoding="utf-8"))).get("jobs", found).values()
    steps = [step.get("run") for step in job["steps"]] if "steps" in job else job["script"]
    called = [step.split()[:2] for step in steps if step]
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE))
    assert {program for program, _ in called} == {"make"}
    assert {"lint", "test"} <= {target for _, target in called} <= targets


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


def test_no_result_names_a_path_of_the_machine_that_measured():
    results = (ROOT / "benchmarks" / "results").glob("*.json")
    assert [path.name for path in results if re.search(r"/(work|home|tmp|root|Users)/", path.read_text())] == []
