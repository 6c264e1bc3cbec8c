"""Compares everything that a program sees of celora with a recording of 167f17d, the last commit before the districts.

The recordings lie in ``golden/``, one JSON file for each test. Times, ids, hashes, measured numbers and folders are
masked, since they differ in each run; everything else is exact. A wanted difference stands in ``CHANGED`` with its
reason, so that a change of the outside is a decision that somebody can read. Later issues may add to the surface (a
command, an option, a field with a default, a setting, a table) without an entry: what a program relied on is still
there. ``WRITE_GOLDEN=1`` records anew.
"""

import ast
import json
import os
import re
import subprocess
import sys
from fnmatch import fnmatchcase
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from celora.cli.app import app as command_line
from celora.models.database import get_database
from celora.models.spec import JobSpec
from celora.models.tables import Table
from celora.settings.settings import Settings, get_settings
from celora.workers.celery import app as celery_app
from celora.workers.celery import configuration
from celora.workers.messages import close_thread_backend

GOLDEN = Path(__file__).with_name("golden")
CLI = Path(sys.modules["celora.cli.app"].__file__).parent
CHANGED = {
    "the_surface": {
        "printed.4": "the printed next step names the tenant",
        "commands.champion *.1": "without --tenant the one tenant that has the name is meant",
        "commands.schedule *.1": "without --tenant the one tenant that has the name is meant",
        "commands.datasets *.1": "without --tenant the one tenant that has the name is meant",
        "commands.compare.*.1": "without --tenant the one tenant that has the name is meant",
        "commands.rate.*.1": "without --tenant the one tenant that has the name is meant",
        "commands.pull.-*--tenant*default*": "without --tenant the one tenant that has the name is meant",
        "commands.generate.*.1": "without --tenant the one tenant that has the name is meant",
        "commands.check.+*--turns*": "turns: which answers of a conversation are trained",
        "commands.schedule add.+*--turns*": "turns, as for check",
        "commands.submit.+*--turns*": "turns, as for check",
        "commands.*.+*--too-long*": "too_long: cut or drop",
        "commands.*.+*--unknown-keys*": "unknown_keys: refuse, warn or ignore",
        "job_fields.properties.too_long": "the field behind --too-long",
        "job_fields.properties.unknown_keys": "the field behind --unknown-keys",
        "job_fields.properties.turns": "the field behind --turns",
        "commands.*.+*--method*": "method: training from preferences",
        "job_fields.properties.method": "the field behind --method",
        "commands.*.+*--beta*": "beta: training from preferences",
        "job_fields.properties.beta": "the field behind --beta",
        "commands.*.+*--loss-type*": "loss_type: training from preferences",
        "job_fields.properties.loss_type": "the field behind --loss-type",
        "commands.*.+*--loss-weights*": "loss_weights: training from preferences",
        "job_fields.properties.loss_weights": "the field behind --loss-weights",
        "commands.*.+*--label-smoothing*": "label_smoothing: training from preferences",
        "job_fields.properties.label_smoothing": "the field behind --label-smoothing",
        "commands.*.+*--desirable-weight*": "desirable_weight: training from preferences",
        "job_fields.properties.desirable_weight": "the field behind --desirable-weight",
        "commands.*.+*--undesirable-weight*": "undesirable_weight: training from preferences",
        "job_fields.properties.undesirable_weight": "the field behind --undesirable-weight",
        "commands.*.+*--continue-from*": "continue_from: training from preferences",
        "job_fields.properties.continue_from": "the field behind --continue-from",
        "commands.*.+*--reference*": "reference: training from preferences",
        "job_fields.properties.reference": "the field behind --reference",
        "commands.doctor.+*--adapters*": "which published adapters a mended fault may have touched",
        "settings.properties.worker_broker_url": "the broker's user of celora's own processes",
        "places.broker": "the URL of celora's own processes",
        "places.results": "the URL of celora's own processes",
        "settings.properties.known_tenants_only": "tenants are made by an operator alone",
        "settings.properties.share_prepared": "a reuse of prepared data tells of another tenant's file",
        "settings.properties.share_files": "opens the files of an installation to its group",
        "commands.*.+*--exclusive*": "exclusive: a process of the job's own",
        "job_fields.properties.exclusive": "the field behind --exclusive",
        "tables.job.reason": "unhealthy is gone, a reason that no program ever wrote",
        "settings.$defs.GpuOverride.properties.*": "an override of a GPU type must be able to do what it says",
    },
    "the_messages": {
        "celora.*.body.*.exclusive": "the field behind --exclusive",
        "celora.*.body.*.turns": "the field behind --turns",
        "celora.*.body.*.method": "the field behind --method",
        "celora.*.body.*.beta": "the field behind --beta",
        "celora.*.body.*.loss_type": "the field behind --loss-type",
        "celora.*.body.*.loss_weights": "the field behind --loss-weights",
        "celora.*.body.*.label_smoothing": "the field behind --label-smoothing",
        "celora.*.body.*.desirable_weight": "the field behind --desirable-weight",
        "celora.*.body.*.undesirable_weight": "the field behind --undesirable-weight",
        "celora.*.body.*.continue_from": "the field behind --continue-from",
        "celora.*.body.*.reference": "the field behind --reference",
        "celora.*.body.*.too_long": "the field behind --too-long",
        "celora.*.body.*.unknown_keys": "the field behind --unknown-keys",
    },
    "the_json_of_every_command": {
        "*.continue_from": "the adapter that a job trains on",
        "*.wait_reason": "a lane's sentence stands for all of its jobs, and a pause is told before the next round",
        "compare better worse.json.sets.*.exact_match_raw": "the whole answer, scaffold included, beside its words",
        "compare better worse.json.sets.*.exact_raw_s?": "a row's exact_match_raw",
        "compare better worse.json.sets.*.tokens_s?": "each side's loss is weighted by its own tokens",
    },
    "a_whole_job": {
        "*.exact_match_raw": "the whole answer, scaffold included, beside its words",
        "*.evaluation.metrics_version": "numbers of an older version are measured again before they are compared",
        "*.exclusive": "the field behind --exclusive",
        "*.turns": "the field behind --turns",
        "*.method": "the field behind --method",
        "*.beta": "the field behind --beta",
        "*.loss_type": "the field behind --loss-type",
        "*.loss_weights": "the field behind --loss-weights",
        "*.label_smoothing": "the field behind --label-smoothing",
        "*.desirable_weight": "the field behind --desirable-weight",
        "*.undesirable_weight": "the field behind --undesirable-weight",
        "*.continue_from": "the field behind --continue-from",
        "*.reference": "the field behind --reference",
        "*.spec.too_long": "the field behind --too-long",
        "*.unknown_keys": "the field behind --unknown-keys",
        "commands.*.json.semantics*": "a receipt names the versions of rows, templates and tokenizers",
        "commands.*.json.method": "a receipt says which training the rows are for",
        "commands.*.json.sets.*.too_long": "a receipt counts rows that are left out because they are too long",
        "commands.check faulty.json.warnings.0.message": "nothing becomes of the repeated rows of a refused file",
        "commands.*.json.sets.*.turns_left_out": "turns beyond the cap of turns: each",
        "commands.*.json.sets.*.turns_without_loss": "turns whose words the template loses",
        "commands.*.json.samples": "a training row of each kind",
        "commands.receipt *.json.files.0.name": "an imported file has its dataset's name, not data.jsonl",
        "commands.check faulty.json.error.message": "a fault names its JSON path in place of its column",
        "commands.check faulty.json.files.0.bad.lines.*.column": "a fault names its JSON path in place of its column",
        "commands.check faulty.json.files.0.bad.lines.*.path": "a fault names its JSON path in place of its column",
        "commands.check faulty.json.files.0.bad.lines.*.reason": "a fault of the text has its column in the reason",
        "commands.*.json.sets.*.rows_with_another_history": "rows in a training form, whose history is not that in use",
        "commands.*.json.sets.*.boundary.*": "prompt and answer are tokenized apart where they would share a token",
        "commands.logs real.json.10.message": "a sample's words: the prompt in use ends without a space",
        "commands.logs real.json.11.message": "a sample's words: the prompt in use ends without a space",
        "commands.logs real.json.13.message": "a sample's words: the prompt in use ends without a space",
        "commands.logs real.json.14.message": "a sample's words: the prompt in use ends without a space",
        "commands.logs real.json.16.message": "a sample's words: the prompt in use ends without a space",
        "commands.logs real.json.17.message": "a sample's words: the prompt in use ends without a space",
        "commands.logs real.json.19.message": "a sample's words: the prompt in use ends without a space",
        "commands.logs real.json.20.message": "a sample's words: the prompt in use ends without a space",
        "*.-*share a token*": "prompt and answer share no token any more",
        "commands.compare real base.json.sets.eval.worse.*": "the base is asked the tokens that are trained after",
        "*.+*generation_config.json*": "names the end token wherever the adapter is served",
        "home.+*cache/base-results/*": "the base's answers are kept for the next job on the same rows",
        "home.+*datasets/*data.csv*": "the curve of a finished job is a file that the HTTP API lists",
    },
}
"""For each recording: a place in it to the reason why it is different now.

A place is a dotted path, with ``+`` or ``-`` and the item where a list has gained or lost one; ``*`` is any text.
"""

MASKS = [
    (re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?(\+00:00|Z)?"), "<time>"),
    (re.compile(r"\d{8}T\d+Z-[0-9a-f]{10}"), "<run>"),
    (re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"), "<uuid>"),
    (re.compile(r"\b[0-9a-f]{64}\b"), "<sha256>"),
    (re.compile(r"\b[0-9a-f]{32}\b"), "<digest>"),
    (re.compile(r"\b\d+\.\d s\b"), "<seconds> s"),
]
CLOCK = re.compile(r"(_s|seconds|^cost|_at|^versions|^price_per_hour)$")
"""Keys whose values differ from run to run."""
MACHINE = re.compile(r"(_s|seconds|_cost|^cost|_at|^versions|bytes|^loss|^samples|^answer|^basis|^python|^pid)$")
"""Keys whose values differ from machine to machine, where a real model was trained."""
MEASURED = [(re.compile(r"\b\d+\.\d+(e-?\d+)?"), "<number>"), (re.compile(r"bfloat16|float32"), "<dtype>")]
"""The same inside a text."""


@pytest.fixture
def celora(home, valkey, monkeypatch, tmp_path):
    """Runs a command in a home with a broker of its own; returns exit code and masked JSON of standard output."""
    monkeypatch.setenv("CELORA_BROKER_URL", valkey)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    monkeypatch.setenv("CELORA_TRAINER_THREADS", "1")
    get_settings.cache_clear()
    celery_app.conf.update(configuration(get_settings()))
    celery_app._after_fork()  # its pool still leads to an earlier test's broker, and so does its result backend
    close_thread_backend(celery_app)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    get_database().migrate()

    def run(*words, stdin=None):
        result = CliRunner().invoke(command_line, [str(word) for word in words], input=stdin, prog_name="celora")
        assert result.exit_code != 70, result.stderr
        if "--json" in words and result.stdout.strip():
            return {"exit_code": result.exit_code, "json": json.loads(result.stdout)}
        return {"exit_code": result.exit_code}

    return run


@pytest.fixture
def golden(request, home, rows):
    """Compares a value with the recording that carries the test's name."""
    name = request.node.name.removeprefix("test_")
    path, changed = GOLDEN / f"{name}.json", CHANGED.get(name, {})
    base = request.getfixturevalue("base") if "base" in request.fixturenames else "no base"
    places = {str(base): "<base>", str(rows): "<rows>", str(home): "<home>", os.uname().nodename: "<host>"}

    def same(value, **measured):
        now = masked(json.loads(json.dumps(value, default=str)), places, **measured)
        if os.environ.get("WRITE_GOLDEN"):
            path.write_text(json.dumps(now, indent=1, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")
        then = json.loads(path.read_text(encoding="utf-8"))
        found = list(differences(then, now))
        wanted = {place: [one for one in changed if fnmatchcase(place, one)] for place, _ in found}
        assert [one for one in found if not wanted[one[0]] and not is_addition(*one)] == []
        assert set(changed) == {one for patterns in wanted.values() for one in patterns}, "an entry is without use"

    return same


def masked(value, places, *, measured=False):
    """The value without what differs from run to run, or from machine to machine where it was measured."""
    if isinstance(value, dict):
        keys = MACHINE if measured else CLOCK
        return {
            hidden(name, places): shape(each) if keys.search(name) else masked(each, places, measured=measured)
            for name, each in value.items()
        }
    if isinstance(value, list):
        return [masked(each, places, measured=measured) for each in value]
    if isinstance(value, str):
        return hidden(value, places, MEASURED if measured else [])
    return "<float>" if measured and isinstance(value, float) else value


def hidden(text, places, more=()):
    """A text without folders, times and ids."""
    for place, name in places.items():
        text = text.replace(place, name)
    for pattern, name in [*MASKS, *more]:
        text = pattern.sub(name, text)
    return text


def shape(value):
    """The keys of a JSON value, and the types below them."""
    if isinstance(value, dict):
        return {key: shape(each) for key, each in value.items()}
    if isinstance(value, list):
        return sorted({json.dumps(shape(each), sort_keys=True) for each in value})
    return type(value).__name__


def differences(then, now, place=""):
    """Every place where two values differ, with both values."""
    if isinstance(then, dict) and isinstance(now, dict):
        for key in sorted({*then, *now}):
            missing = "<absent>"
            yield from differences(then.get(key, missing), now.get(key, missing), f"{place}.{key}".lstrip("."))
    elif isinstance(then, list) and isinstance(now, list) and len(then) == len(now):
        for number, pair in enumerate(zip(then, now, strict=True)):
            yield from differences(*pair, f"{place}.{number}")
    elif isinstance(then, list) and isinstance(now, list):
        was, is_ = ([json.dumps(one, sort_keys=True) for one in side] for side in (then, now))
        yield from ((f"{place}.-{one}", "gone") for one in was if one not in is_)
        yield from ((f"{place}.+{one}", "new") for one in is_ if one not in was)
        if set(was) == set(is_):
            yield place, f"had {len(was)} items, has {len(is_)}"
    elif then != now:
        yield place, f"was {json.dumps(then)[:300]}, is {json.dumps(now)[:300]}"


def is_addition(place, difference):
    """A new part of the surface beside all that was there: a key of an object, an option of a command."""
    added = difference.startswith('was "<absent>", is ') or (
        place.startswith(("commands.", "tasks.")) and difference == "new"
    )
    return added and not place.startswith(("printed.", "places."))


def test_an_addition_is_told_from_a_change():
    then = {"tables": {"job": {"id": "int", "why": "str"}}, "commands": {"list": [["--all", "False"]]}}
    now = {"tables": {"job": {"id": "str", "at": "date"}}, "commands": {"list": [["--every", "False"]], "api": []}}
    found = {place: is_addition(place, difference) for place, difference in differences(then, now)}
    assert found == {
        "commands.api": True, "commands.list.0.0": False, "tables.job.at": True, "tables.job.id": False,
        "tables.job.why": False,
    }  # fmt: skip


def test_the_surface(golden, home):
    """The names that other programs rely on: fields, settings, tables, tasks, queues, commands, printed lines."""
    (home / "celora.env").write_text("export CELORA_TICK_S='9'\n")
    get_settings.cache_clear()
    settings = get_settings()
    celery_app.conf.update(configuration(settings))
    celery_app.loader.import_default_modules()
    golden(
        {
            "job_fields": described(JobSpec.model_json_schema()),
            "settings": described(Settings.model_json_schema()),
            "places": {name: getattr(settings, name) for name in vars(Settings)
                       if isinstance(vars(Settings)[name], property)} | {"tick_s of celora.env": settings.tick_s},
            "tables": {
                name: {column.name: f"{column.type!r} nullable={column.nullable}" for column in table.columns}
                for name, table in Table.metadata.tables.items()
            },
            "tasks": sorted(name for name in celery_app.tasks if name.startswith("celora")),
            "queues": sorted(queue.name for queue in celery_app.conf.task_queues),
            "routes": celery_app.conf.task_routes,
            "beat": {
                name: [entry["task"], entry.get("options")] for name, entry in celery_app.conf.beat_schedule.items()
            },
            "commands": dict(commands(typer.main.get_command(command_line))),
            "printed": printed_lines(("demo: ", "See it: ", "Follow it: ")),
        }
    )  # fmt: skip


def described(schema):
    """A model's fields by name: everything of its JSON schema but the words."""
    if isinstance(schema, dict):
        return {
            key: described(each)
            for key, each in schema.items()
            if key not in ("title", "description") or isinstance(each, dict)
        }
    return [described(each) for each in schema] if isinstance(schema, list) else schema


def commands(command, *path):
    """Every command with its arguments, options and their defaults."""
    if hasattr(command, "commands"):
        for name, each in command.commands.items():
            yield from commands(each, *path, name)
    else:
        yield " ".join(path), [[*one.opts, *one.secondary_opts, str(one.default)] for one in command.params]


def printed_lines(marks):
    """Every text in ``cli/`` that holds one of the marks, with ``{}`` where a value is put in."""
    found = set()
    for path in CLI.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                found.add("".join(str(part.value) if isinstance(part, ast.Constant) else "{}" for part in node.values))
    return sorted(text for text in found if any(mark in text for mark in marks))


COMMANDS = [
    *(("status", job) for job in ("done", "running", "failed", "cancelled", "lost", "retried", "waiting", "paused")),
    ("status", "nobody"),
    ("list",),
    ("list", "--tenant", "acme", "--status", "failed"),
    ("logs", "done"),
    ("logs", "lost", "--events"),
    ("receipt", "done"),
    ("workers",),
    ("queues",),
    ("cordon", "l4-0@there", "--note", "a new card"),
    ("uncordon", "l4-0@there"),
    ("drain", "cpu-0@here"),
    ("pause", "waiting"),
    ("resume", "waiting"),
    ("cancel", "waiting"),
    ("retry", "failed", "--id", "again", "--set", "rank=8"),
    ("evaluate", "done"),
    ("adapters",),
    ("datasets", "list"),
    ("datasets", "show", "rows", "--tenant", "acme"),
    ("datasets", "add", "more.jsonl", "--name", "more"),
    ("schedule", "list"),
    ("schedule", "show", "weekly", "--tenant", "acme"),
    ("schedule", "add", "nightly", "--cron", "0 2 * * *", "--base-model", "tiny", "--dataset", "more"),
    ("schedule", "run-now", "nightly"),
    ("champion", "list"),
    ("champion", "show", "bot", "--tenant", "acme"),
    ("champion", "history", "bot", "--tenant", "acme"),
    ("champion", "promote", "bot", "better", "--if-better"),
    ("champion", "promote", "bot", "better", "--reason", "asked for"),
    ("champion", "promote", "bot", "worse", "--reason", "asked for"),
    ("champion", "rollback", "bot", "--reason", "it was better"),
    ("champion", "show", "bot"),
    ("compare", "better", "worse"),
    ("bases", "list"),
    ("secret", "list"),
    ("guide",),
    ("doctor", "--quick"),
    ("submit", "--base-model", "smollm2-135m-instruct", "--dataset", "more.jsonl", "--id", "sent", "--rank", "4"),
    ("status", "sent"),
    ("status", "again"),
]  # fmt: skip


@pytest.mark.slow
def test_the_json_of_every_command(golden, celora, contestant, monkeypatch):
    """Every command that prints JSON, on a record in which something of every kind has happened."""
    from records import fill

    fill(get_database())
    contestant("better", {"base": ["x", "x", "x", "x"], "tuned": ["r0", "r1", "r2", "x"]})
    contestant("worse", {"base": ["x", "x", "x", "x"], "tuned": ["r0", "x", "x", "x"]})
    Path("more.jsonl").write_text('{"prompt": "one", "completion": "1"}\n{"prompt": "two", "completion": "2"}\n')
    said = {" ".join(words): celora(*words, "--json") for words in COMMANDS}
    machine = said["doctor --quick"]["json"]
    said["doctor --quick"] = shape(machine)
    said["rate better worse"] = celora(
        "rate", "better", "worse", "--rows", "2", "--seed", "1", "--json", stdin="1\n2\n"
    )
    golden(said)


def test_the_messages(golden, celora, rows):
    """What celora sends to Celery's queues, and what a caller's own message holds."""
    job = ("--base-model", "smollm2-135m-instruct", "--dataset", rows, "--id", "one", "--seed", "1")
    for words in (("submit", *job), ("cancel", "one"), ("datasets", "add", rows, "--name", "data")):
        assert celora(*words, "--json")["exit_code"] == 0
    from celora.tasks import finetune

    finetune.apply_async(kwargs={"base_model": "tiny", "dataset": "data"}, task_id="called")
    with celery_app.connection_for_read() as connection:
        client = connection.channel().client
        sent = {
            name: [plain(json.loads(raw)) for raw in reversed(client.lrange(name, 0, -1))]
            for name in sorted(queue.name for queue in celery_app.conf.task_queues)
            if client.llen(name)
        }
    golden(sent)


def plain(message):
    """A kombu message with its body decoded, less what names this process."""
    from base64 import b64decode

    names = ("task", "id", "root_id", "parent_id", "group", "expires", "timelimit", "retries")
    return {
        "headers": {name: message["headers"].get(name) for name in names},
        "body": json.loads(b64decode(message["body"])),
        "content_type": message["content-type"],
        "priority": message["properties"].get("priority"),
    }


@pytest.mark.slow
@pytest.mark.timeout(500)
def test_a_whole_job(golden, celora, home, spec, tmp_path):
    """One tiny job, run to its end: its record, receipt, events, the adapter's folder and celora.json."""
    fields = {**spec, "eval_max_rows": 4, "metrics": ["exact_match", "rouge"]}
    words = [word for name, value in fields.items() for each in (value if isinstance(value, list) else [value])
             for word in (f"--{name.replace('_', '-')}", each)]  # fmt: skip
    faulty = Path("faulty.jsonl")
    faulty.write_text('{"prompt": "one", "completion": 1}\n{"prompt": "two", "completion": "2"}\n{"prompt": "x"\n' * 3)
    faults = [*words, "--dataset", faulty]
    said = {
        "check": celora("check", *words, "--json"),
        "check faulty": celora("check", *faults, "--json"),
        "submit": celora("submit", *words, "--id", "real", "--json"),
    }
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    program = Path(sys.executable).with_name("celora")
    done = subprocess.run([program, "run-job", "real"], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for words in (("status", "real"), ("receipt", "real"), ("logs", "real"), ("adapters",), ("list",), ("workers",),
                  ("pull", "real", "pulled"), ("compare", "real", "base"), ("bases", "list")):  # fmt: skip
        said[" ".join(words)] = celora(*words, "--json")
    events = said["logs real"]["json"]
    assert [event["id"] for event in events] == sorted(event["id"] for event in events)
    for event in events:  # (an event more or less moves the ids of all that follow)
        event["id"] = "in order"
    pulled = Path("pulled")
    golden(
        {
            "commands": said,
            "celora.json": json.loads((pulled / "celora.json").read_text(encoding="utf-8")),
            "adapter_config.json": shape(json.loads((pulled / "adapter_config.json").read_text(encoding="utf-8"))),
            "pulled files": sorted(str(path.relative_to(pulled)) for path in pulled.rglob("*")),
            "home": sorted(
                str(path.relative_to(home))
                for part in ("artifacts", "cache", "logs", "scratch", "celora.db")
                for path in [home / part, *(home / part).rglob("*")]
                if path.is_file()
            ),
        },
        measured=True,
    )
