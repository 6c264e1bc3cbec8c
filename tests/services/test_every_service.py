"""Every function that ``celora.services`` promises, called for one tenant with the names and ids of another.

The functions come from ``__all__`` of the modules, so a new one is tested without an entry here; a parameter of a new
name fails until ``values`` gives it a value. Another tenant's name or id does exactly what one does that nobody has,
nothing that is returned or said names the other, and no row of the other changes.
"""

import importlib
import inspect
import pkgutil
from collections.abc import Iterator

import pytest
from sqlalchemy import delete, select
from two_tenants import LIMITED, OURS, THEIRS, owner_of, rows_of

import celora.services.openai
import celora.services.tenants
from celora import services
from celora.errors import CeloraError, DataError, NotFoundError, SettingsError
from celora.models.database import get_database
from celora.models.scope.scope import Scope
from celora.models.tables import Champion, ChampionEvent, Dataset, Job, JobDataset, Schedule
from celora.services import acceptance, data_changes, job_checks, jobs, schedules
from celora.settings.settings import get_settings
from celora.storage.artifacts import Artifacts

NOBODY = "team-c"
OPERATORS = {"workers"}
"""Modules whose functions are the operator's, and take no tenant."""

TAKEN = {"jobs.submit": "an id is unique in the installation: a taken one is refused, whoever has it"}
CONTENT = '{"prompt": "a secret", "completion": "of both"}\n'


@pytest.fixture
def installation(database, home, monkeypatch, index_here):
    """Two tenants with a job, an adapter, a champion, a dataset of the same content, and a schedule each."""
    monkeypatch.setenv("CELORA_DATABASE_URL", database.url.render_as_string(hide_password=False))
    get_settings.cache_clear()
    for module in (jobs, schedules):
        monkeypatch.setattr(module, "request_tick", lambda: None)
    monkeypatch.setattr(jobs.messages, "send_finetune", lambda *_: True)
    monkeypatch.setattr(jobs.messages, "attempt", lambda *_, **__: True)
    (home / "rows.jsonl").write_text(CONTENT, encoding="utf-8")
    digest, uri = Artifacts(get_settings().artifacts).import_dataset(home / "rows.jsonl")
    for tenant in (OURS, THEIRS):
        with database.session(Scope.everything) as session:
            for row in rows_of(tenant):
                if isinstance(row, Champion | ChampionEvent | Dataset | Schedule):
                    row.name = f"{row.name}-{tenant}"
                if isinstance(row, Dataset):  # its id lies above those that the database gives
                    row.sha256, row.uri, row.id = digest, uri, row.id + 10**6
                if isinstance(row, JobDataset):
                    row.dataset_id += 10**6
                if isinstance(row, Schedule | Job):
                    row.spec = spec_of(tenant)
                session.add(row)
                session.flush()
    return get_database()


def spec_of(who):
    return {"base_model": "smollm2-135m-instruct", "dataset": f"rows-{who}", "tenant": who}


def promised():
    """Every promised function, by its name below ``services``."""
    for module in services.__all__:
        loaded = importlib.import_module(f"celora.services.{module}")
        for name in loaded.__all__:
            yield f"{module}.{name}", getattr(loaded, name)


def values(home, who):
    """The value of each parameter, by its name; the caller is always ours."""
    return {
        "by": "ada", "changes": {}, "cron": "0 3 * * 1", "fields": spec_of(who) | {"tenant": OURS},
        "job_id": f"job-{who}", "new_id": "again", "path": home / "rows.jsonl", "reference": f"rows-{who}",
        "scope": Scope.of(OURS), "since": f"rows-{who}@1", "spec": spec_of(who) | {"tenant": OURS}, "tenant": OURS,
    }  # fmt: skip


NEW = ("datasets.add", "schedules.add")
"""Functions whose name is that of a new thing."""
NAMES = {"champions": "bot-{}", "schedules": "weekly-{}", "datasets": "rows-{}"}


def call(name, function, home, who):
    """What a function returns, or its error, as text."""
    known = values(home, who)
    if name == "datasets.new_rows":
        known["since"] = None
    given = {}
    for parameter in inspect.signature(function).parameters.values():
        if parameter.name == "name":
            given["name"] = f"new-{who}" if name in NEW else NAMES[name.split(".")[0]].format(who)
        elif parameter.name in known:
            given[parameter.name] = known[parameter.name]
        elif parameter.default is parameter.empty:
            pytest.fail(f"values() has no value for the parameter {parameter.name} of services.{name}")
    try:
        returned = function(**given)
        return str(list(returned) if isinstance(returned, Iterator) else returned)
    except CeloraError as error:
        return f"{error.code}: {error}"


def columns_of(table):
    return list(table.__mapper__.column_attrs.keys())


def rows_of_them(database):
    """The other tenant's rows of each table."""
    with database.session(Scope.everything) as session:
        return {
            table.__name__: sorted(
                str([getattr(row, column) for column in columns_of(table)])
                for row in session.scalars(select(table))
                if owner_of(row) == THEIRS
            )
            for table in LIMITED
        }


def test_every_function_acts_for_one_tenant():
    for name, function in promised():
        parameters = inspect.signature(function).parameters
        assert name.split(".")[0] in OPERATORS or {"scope", "tenant"} & parameters.keys(), name


def test_no_service_shows_or_changes_what_another_tenant_has(installation, home):
    before, leaks = rows_of_them(installation), []
    for name, function in promised():
        if name.split(".")[0] in OPERATORS:
            continue
        theirs, nobodys = (call(name, function, home, who) for who in (THEIRS, NOBODY))
        if theirs.replace(THEIRS, NOBODY) != nobodys and name not in TAKEN:
            leaks.append(f"{name} tells another's ({theirs}) from nobody's ({nobodys})")
        ours = call(name, function, home, OURS)
        if THEIRS in ours:
            leaks.append(f"{name} names another tenant: {ours}")
        if rows_of_them(installation) != before:
            leaks.append(f"{name} changes rows of another tenant")
    assert leaks == []


def test_a_spec_names_nothing_of_another_tenant_and_no_file_of_the_installation(installation, home):
    root, theirs = get_settings().artifacts, f"job-{THEIRS}"
    with installation.session(Scope.everything) as session:
        shared = session.scalars(select(Dataset.uri).where(Dataset.tenant == THEIRS)).one()
        session.execute(delete(JobDataset).where(JobDataset.job_id == f"job-{OURS}"))
        session.execute(delete(Dataset).where(Dataset.tenant == OURS))
    plain = shared.removeprefix("file://")
    (home / "link.jsonl").symlink_to(plain)
    foreign = [
        {"dataset": f"rows-{THEIRS}"}, {"dataset": f"rows-{THEIRS}@1"}, {"dataset": shared}, {"dataset": plain},
        {"dataset": str(home / "link.jsonl")}, {"dataset": f"{root}/jobs/{theirs}/attempt-1/prepared/train.jsonl"},
        {"dataset": f"{root}/../artifacts/datasets/x.jsonl"}, {"dataset": shared.replace("file://", "FILE://")},
        {"dataset": str(home)}, {"dataset": f"{home}/art*/**/*.jsonl"}, {"dataset": f"{home}/**/*.jsonl"},
        {"dataset": f"{home}/artifacts/datasets"}, {"eval_dataset": shared},
        {"eval_dataset": {"one": shared}}, {"eval_dataset": f"rows-{THEIRS}"},
        {"base_model": f"{home}/artifacts/jobs/{theirs}/merged"}, {"tenant": THEIRS},
        {"champion": "bot", "eval_dataset": str(home / "rows.jsonl"), "gate": {"must_pass": shared}},
    ]  # fmt: skip
    for changed in foreign:
        spec = {"base_model": "smollm2-135m-instruct", "dataset": str(home / "rows.jsonl")} | changed
        with pytest.raises(CeloraError) as refused:
            jobs.submit(spec, scope=Scope.of(OURS))
        said = str(refused.value).replace(f"rows-{THEIRS}", "")
        for value in changed.values():
            said = said.replace(str(value), "")
        assert THEIRS not in said
        assert isinstance(refused.value, CeloraError)
    with installation.session(Scope.everything) as session:
        assert session.scalars(select(Job.id).where(Job.tenant == OURS)).all() == [f"job-{OURS}"]
    (home / "data").mkdir()
    (home / "rows.jsonl").rename(home / "data" / "rows.jsonl")
    for harmless in (home / "data", home / "data" / "*.jsonl", home / "d*" / "rows.jsonl"):
        assert jobs.submit({"base_model": "smollm2-135m-instruct", "dataset": str(harmless)}, scope=Scope.of(OURS))
    assert jobs.submit(spec_of(THEIRS) | {"dataset": shared}, scope=Scope.of(THEIRS), job_id="own")


def test_a_refusal_tells_nothing_of_the_rows_in_another_tenants_file(installation, home):
    """The first row of a file is compared with the method; that of another tenant's file is not read."""
    (home / "pairs.jsonl").write_text('{"prompt": "a", "chosen": "b", "rejected": "c"}\n', encoding="utf-8")
    _, theirs = Artifacts(get_settings().artifacts).import_dataset(home / "pairs.jsonl")
    there = theirs.removeprefix("file://")
    nobodys = there.replace("pairs.jsonl", "no.jsonl")
    said = []
    for path in (there, nobodys):
        with pytest.raises(DataError) as refused:
            jobs.submit({"base_model": "smollm2-135m-instruct", "dataset": path}, scope=Scope.of(OURS))
        said.append(str(refused.value).replace(path, "PATH"))
    assert said[0] == said[1]
    with pytest.raises(DataError, match="begins with a row of the"):
        jobs.submit(spec_of(OURS) | {"dataset": str(home / "pairs.jsonl")}, scope=Scope.of(OURS))


def test_an_id_that_another_tenant_has_is_refused_and_not_taken_over(installation, home):
    spec = {"base_model": "smollm2-135m-instruct", "dataset": str(home / "rows.jsonl")}
    with pytest.raises(SettingsError, match="cannot be used") as refused:
        jobs.submit(spec, job_id=f"job-{THEIRS}", scope=Scope.of(OURS))
    assert THEIRS not in str(refused.value).replace(f"job-{THEIRS}", "")
    assert jobs.submit(spec, job_id="mine", scope=Scope.of(OURS)) == "mine"
    assert jobs.submit(spec, job_id="mine", scope=Scope.of(OURS)) == "mine"


def test_an_operator_can_refuse_tenants_that_do_not_exist(installation, home, monkeypatch):
    spec = {"base_model": "smollm2-135m-instruct", "dataset": str(home / "rows.jsonl"), "tenant": NOBODY}
    monkeypatch.setenv("CELORA_KNOWN_TENANTS_ONLY", "true")
    get_settings.cache_clear()

    class Request:
        id = "by-message"

    for verb in (
        lambda: jobs.submit(spec),
        lambda: schedules.add("nightly", spec, cron="0 3 * * 1"),
        lambda: acceptance.accept(installation, get_settings(), spec, Request()),
    ):
        with pytest.raises(NotFoundError, match=f"there is no tenant {NOBODY}"):
            verb()
    with installation.session(Scope.everything) as session:
        assert session.get_one(Job, "by-message").tenant == "default"
        with pytest.raises(NotFoundError):
            job_checks.check_tenant(session, NOBODY, get_settings())
    assert jobs.submit(spec | {"tenant": OURS})
    assert jobs.submit(spec | {"tenant": "default"})


def test_the_content_of_a_schedules_data_is_looked_for_among_the_tenants_own(installation):
    with pytest.raises(NotFoundError):
        data_changes.content(f"rows-{THEIRS}", tenant=OURS, settings=get_settings(), looked={})
    fields = {**spec_of(NOBODY), "dataset": f"{get_settings().artifacts}/datasets/0/data.jsonl"}
    spec = job_checks.check_spec(fields, get_settings())
    with (
        installation.session(Scope.of(NOBODY)) as session,
        pytest.raises(DataError, match=f"dataset of tenant {NOBODY}"),
    ):
        job_checks.place_datasets(session, spec, get_settings())


UNHEARD = ("a\0b", "\ud800", "\u202eevil", "../../x", "x" * 300, "")
"""Ends of names and ids that nobody has: NUL and lone surrogates, which PostgreSQL takes in no text, and worse."""


def test_every_function_answers_to_names_that_no_record_can_hold(installation, home):
    before = rows_of_them(installation)
    for who in UNHEARD:
        for name, function in promised():
            if name.split(".")[0] not in OPERATORS:
                call(name, function, home, who)
        for name, function in of_tenants():
            if name not in MAKES | INNER:
                told(name, function, who)
    assert rows_of_them(installation) == before


MAKES = {
    "files.create", "uploads.create", "uploads.add_part", "keys.create_key", "secrets.set_secret", "reruns.keep_file",
    "reruns.submit_rerun",
}  # fmt: skip
"""Functions that take no name or id of a thing that exists, so there is none of another tenant's to give."""
INNER = {"admission.check_class", "reruns.rerun_id"}
"""Functions that read no row."""


def of_tenants():
    """Every function of the rooms of tenants and of OpenAI's form that acts for a tenant, by its dotted name."""
    for package in (celora.services.tenants, celora.services.openai):
        for module in pkgutil.iter_modules(package.__path__):
            loaded = importlib.import_module(f"{package.__name__}.{module.name}")
            for name, function in vars(loaded).items():
                own = inspect.isfunction(function) and function.__module__ == loaded.__name__ and name[0] != "_"
                parameters = inspect.signature(function).parameters if own else {}
                if "tenant" in parameters and "session" not in parameters:
                    yield f"{module.name}.{name}", function


def ids_of(name, who):
    """The value of each parameter, by its name; the caller is always ours."""
    after = {"files.page": f"file-{who}", "jobs.page": f"job-{who}"}.get(name)
    return {
        "after": after, "asked": f"job-{who}", "file_id": f"file-{who}", "job_id": f"job-{who}", "key_id": f"key-{who}",
        "changes": {"gate": {"must_pass": f"file-{who}"}}, "labels": {},
        "limit": 9, "name": "HF_TOKEN", "order": "asc", "part_ids": [f"part_{who}"], "purpose": None,
        "settings": get_settings(), "target": f"job-{who}", "tenant": OURS, "upload_id": f"upload-{who}",
    }  # fmt: skip


def told(name, function, who):
    """What a function of a tenant returns, or its error, as text without times."""
    known, given = ids_of(name, who), {}
    for parameter in inspect.signature(function).parameters.values():
        if parameter.name in known:
            given[parameter.name] = known[parameter.name]
        elif parameter.default is parameter.empty:
            pytest.fail(f"ids_of() has no value for the parameter {parameter.name} of services.{name}")
    try:
        return str(function(**given))
    except CeloraError as error:
        return f"{error.code}: {error}"


def test_no_service_of_a_tenant_shows_or_changes_what_another_tenant_has(installation):
    before, leaks = rows_of_them(installation), []
    for name, function in of_tenants():
        if name in MAKES | INNER:
            continue
        theirs, nobodys = (told(name, function, who) for who in (THEIRS, NOBODY))
        if theirs.replace(THEIRS, NOBODY) != nobodys:
            leaks.append(f"{name} tells another's ({theirs}) from nobody's ({nobodys})")
        if THEIRS in told(name, function, OURS):
            leaks.append(f"{name} names another tenant")
        if rows_of_them(installation) != before:
            leaks.append(f"{name} changes rows of another tenant")
    assert leaks == []
    assert {name for name, _ in of_tenants()} >= MAKES | INNER | {"files.delete", "events.page", "keys.rotate_key"}
