"""The words that reach a tenant: every raised error and every reason of the project, with planted names."""

import ast
import re
from functools import lru_cache
from pathlib import Path

import pytest

from celora import errors
from celora.cli.command_table import TABLE
from celora.errors import CeloraError, DataError
from celora.scheduling.retry import RULES
from celora.services.tenants import words

ROOMS = (
    "errors",
    "settings",
    "storage",
    "tuning",
    "models",
    "scheduling",
    "workers",
    "services",
    "doctor",
    "tasks",
    "api",
)
ROOT = Path(errors.__file__).parent.parent
KINDS = {name: kind for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, CeloraError)}
PLANTED = (
    "/srv/zq-root/rival",
    "/srv/zq-root/rival/part.bin, '/mnt/zq-root/rival' and \"/zq\"",
    "file:///srv/zq-root/rival/attempt-1",
    "s3://zq-bucket/rival",
    "redis://celora:pw@zq-host:6379/0",
    "postgresql+psycopg://zq-host.example.com/zq-record",
    "h100-0@zq-node",
    "prep@zq-node.example.com: lost",
    "10.9.8.7:6379 or 10.9.8.7",
    "zq-host:5432",
    "CELORA_ZQ_ROOTS",
    "CELORA_ZQ='[1]'",
    "`celora tenant set zq --budget 3`",
    "Run: celora secret set ZQ_TOKEN",
)
"""Values of a placeholder; whatever is left of ``zq``, ``rival`` or a form below is a leak."""
LEAK = re.compile(
    r"zq|rival|10\.9\.8|CELORA_|`?celora tenant|celora secret|(?<![\w.<*])/(?:srv|mnt|zq|tmp|home)", re.IGNORECASE
)


def pieces(node):
    """The text of an expression, None for each part that is known only when it runs."""
    if isinstance(node, ast.Constant):
        return [str(node.value)]
    if isinstance(node, ast.JoinedStr):
        return [part for value in node.values for part in pieces(value)]
    if isinstance(node, ast.BinOp):
        return [*pieces(node.left), *pieces(node.right)]
    if isinstance(node, ast.IfExp):
        return pieces(node.body)
    if isinstance(node, ast.FormattedValue) and isinstance(node.value, ast.IfExp):
        return pieces(node.value)
    return [None]


@lru_cache
def raised():
    """Every error that is made in the code: its place, its class, and the pieces of message and hint."""
    found = []
    for room in ROOMS:
        for path in sorted((ROOT / room).rglob("*.py")):
            if path.is_relative_to(ROOT / "api" / "client"):
                continue  # a user's own command, on the user's machine
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if (
                    isinstance(node, ast.Call)
                    and isinstance(node.func, ast.Name)
                    and node.func.id in KINDS
                    and node.args
                ):
                    hint = next((each.value for each in node.keywords if each.arg == "hint"), ast.Constant(""))
                    where = f"{path.relative_to(ROOT)}:{node.lineno}"
                    found.append((where, KINDS[node.func.id], pieces(node.args[0]), pieces(hint)))
    return found


def filled(parts, value):
    """A text whose unknown parts have a value; two that touch are parted, as they are where the code runs."""
    pairs = zip(parts, [*parts[1:], ""], strict=True)
    return "".join((value + " " * (after is None)) if part is None else part for part, after in pairs)


def test_the_errors_of_the_project_are_found():
    found = raised()
    assert len(found) > 300
    assert {kind for _, kind, _, _ in found} > {errors.DataError, errors.SettingsError, errors.UnavailableError}


@pytest.mark.parametrize("value", PLANTED)
def test_no_error_names_what_is_the_operators(value):
    leaks = []
    for where, kind, message, hint in raised():
        said = str(words.failure(kind.code, filled(message, value), filled(hint, value)))
        if LEAK.search(said):
            leaks.append(f"{where}: {said}")
    assert leaks == []


def test_every_code_is_the_tenants_or_the_operators():
    codes = {kind.code for kind in KINDS.values()} | RULES.keys()
    assert words.TENANTS | words.OPERATORS.keys() == codes
    assert not words.TENANTS & words.OPERATORS.keys()
    assert words.failure("of-tomorrow", "/srv/x", "y").message == words.OPERATORS["internal"]


def test_every_command_is_known_by_its_form():
    assert not TABLE.keys() & set(words.PRODUCT)
    assert [name for name in TABLE if words.text(f"see celora {name} --all") != f"see {words.COMMAND}"] == []


@pytest.mark.parametrize(
    "plain",
    [
        "rows.jsonl, line 2: the key 'completion' is missing.",
        "rows.jsonl:12: the row is no object.",
        "dataset faq has no version 3; its newest is faq@2.",
        "The loss is nan at step 3 of 40 (learning rate 0.0002); training stopped.",
        "celora reads no .zip, and celora quantizes it itself; celora first does that.",
        "the base's tokenizer has no <|im_end|> and no </s>, which celora does not know.",
        "the ratio 1/2 is no number: use a/b, and/or 3:4 at 12:30.",
        "the base model org/name at main is not among those that this installation allows: org/*, tiny.",
        "priority: 101 is above 100, the highest of tenant acme.",
    ],
)
def test_what_is_the_tenants_own_stays_as_it_is(plain):
    assert words.text(plain) == plain


@pytest.mark.parametrize(
    "plain",
    ["url: it must begin with https://.", "url: it must be https://HOST/PATH.", "GET /v1/models lists those that do."],
)
def test_a_form_to_fill_in_and_a_path_of_the_api_are_no_place_of_the_operators(plain):
    assert words.text(plain) == plain
    assert words.text(f"{plain} https://zq-host/ and /srv/zq-root") != plain


def test_the_name_of_a_data_file_stays_and_the_names_of_folders_go():
    assert words.text("'/srv/a folder/rows.jsonl': line 3 is bad") == "'rows.jsonl': line 3 is bad"
    assert words.text("/srv/artifacts/3f/rows.jsonl.gz, line 2") == "rows.jsonl.gz, line 2"
    assert words.text("file:///srv/artifacts/3f/data.csv: row 7.") == "data.csv: row 7."
    assert words.text("the base /srv/bases/tiny has no weights.") == f"the base {words.FOLDER} has no weights."
    assert words.text("lost on gpu-7: oom", {"gpu-7"}) == f"lost on {words.MACHINE}: oom"
    assert words.text("gpu-77 and gpu-7.", {"gpu-7"}) == f"gpu-77 and {words.MACHINE}."


def test_a_hint_ends_before_the_step_of_an_operator():
    assert words.hint_of("Split it, or let an operator raise CELORA_PREPARE_FILE_BYTES.") == "Split it."
    assert words.hint_of("See `celora list`.") == ""
    assert words.hint_of("Give a lower one. See `celora list`. Then wait.") == "Give a lower one. Then wait."
    assert words.hint_of("Use normal; an operator grants others with `celora tenant set`.") == "Use normal."
    assert words.hint_of("Set packing to false.") == "Set packing to false."
    assert words.hint_of("") == ""


def test_a_failure_reads_as_one_sentence_and_its_hint():
    error = DataError("/srv/x/rows.jsonl holds no rows.", hint="Write one JSON object a line, and check the path.")
    assert str(words.failure_of(error)) == (
        "rows.jsonl holds no rows. Write one JSON object a line, and check the path."
    )


def test_data_is_worded_to_its_depth_and_keys_stay():
    given = {"a": ["/srv/zq/x", {"/b": "h100-0@zq-node"}], "n": 3, "none": None}
    assert words.data(given) == {"a": [words.FOLDER, {"/b": words.MACHINE}], "n": 3, "none": None}
