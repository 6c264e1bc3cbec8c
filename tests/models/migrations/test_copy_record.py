"""A record copied into another database: everything, counted, all or nothing."""

import pytest
from records import fill
from sqlalchemy import func, select, text, update

from celora.errors import SettingsError, StorageError
from celora.models import datasets, queries
from celora.models.database import Database
from celora.models.jobs import accept, transitions
from celora.models.migrations import copy_record
from celora.models.scope.scope import Scope
from celora.models.spec import parse_spec
from celora.models.tables import Dataset, Event, Job, Table, Worker

pytestmark = pytest.mark.slow  # whole records are copied and migrated


@pytest.fixture
def old(tmp_path):
    """A SQLite record with rows in every table, whose workers have left."""
    made = Database(f"sqlite:///{tmp_path}/old.db")
    made.migrate()
    fill(made)
    _leave(made)
    yield made
    made.dispose()


@pytest.fixture
def new(new_postgres):
    made = Database(new_postgres())
    yield made
    made.dispose()


def _leave(database):
    with database.transaction(Scope.everything) as session:
        session.execute(update(Worker).values(status="offline"))


def rows_of(database):
    found = {}
    with database.session(Scope.everything) as session:
        for table in Table.metadata.sorted_tables:
            read = session.execute(select(table).order_by(*table.primary_key)).mappings()
            found[table.name] = [dict(row) for row in read]
    return found


def test_every_row_of_every_table_arrives_as_it_was(old, new):
    told = {}
    total = copy_record.copy(old, new, told.__setitem__)
    before, after = rows_of(old), rows_of(new)
    assert after == before
    assert told == {name: len(rows) for name, rows in before.items()}
    assert total == sum(told.values())
    assert [name for name, count in told.items() if not count] == [], "the test fills every table"


def test_the_way_back_is_open_too(old, new, tmp_path):
    copy_record.copy(old, new)
    third = Database(f"sqlite:///{tmp_path}/third.db")
    copy_record.copy(new, third)
    assert rows_of(third) == rows_of(old)
    third.dispose()


def test_the_new_record_goes_on_where_the_old_one_stopped(old, new):
    copy_record.copy(old, new)
    with new.transaction(Scope.everything) as session:
        last = session.scalar(select(func.max(Event.id)))
        accept.submit(session, job_id="next", spec=parse_spec({"base_model": "b", "dataset": "/d.jsonl"}))
        assert session.scalar(select(func.max(Event.id))) == last + 1
        data = datasets.register(session, tenant="acme", name="more", sha256="2" * 64, uri="u", size_bytes=1)
        assert data.id == session.scalar(select(func.max(Dataset.id)))
        assert transitions.send(session, "waiting", 1, "prepare", queue="prep")
    with new.session(Scope.everything) as session:
        assert queries.job_detail(session, "done").status == "completed"


def test_a_target_with_rows_is_refused_and_stays_as_it_was(old, new):
    new.migrate()
    fill(new)
    before = rows_of(new)
    with pytest.raises(SettingsError, match=r"is not empty: there are rows in its table \w+\. Name a new database"):
        copy_record.copy(old, new)
    assert rows_of(new) == before


def test_a_record_that_workers_use_is_refused(old, new):
    with old.transaction(Scope.everything) as session:
        session.execute(update(Worker).where(Worker.kind == "gpu").values(status="online"))
    with pytest.raises(SettingsError, match=r"cpu-0@here, l4-0@there still work on .*Stop celora first"):
        copy_record.copy(old, new)


def test_a_record_is_not_copied_into_itself(old):
    with pytest.raises(SettingsError, match="into itself"):
        copy_record.copy(old, Database(str(old.url)))


def test_a_copy_that_breaks_off_leaves_nothing(old, new, monkeypatch):
    whole = copy_record._copy_table

    def broken(reading, writing, table, roots):
        if table.name == "metric_point":
            raise StorageError("the disk is gone")
        return whole(reading, writing, table, roots)

    monkeypatch.setattr(copy_record, "_copy_table", broken)
    with pytest.raises(StorageError, match="disk is gone"):
        copy_record.copy(old, new)
    assert not any(rows_of(new).values())


def test_rows_that_do_not_arrive_are_noticed(old, new):
    """A trigger of the target swallows one row."""
    new.migrate()
    with new.session(Scope.everything) as session:
        session.execute(text("CREATE FUNCTION swallow() RETURNS trigger LANGUAGE plpgsql AS "
                             "$$BEGIN IF NEW.id = 'done' THEN RETURN NULL; END IF; RETURN NEW; END$$"))  # fmt: skip
        session.execute(text("CREATE TRIGGER swallow BEFORE INSERT ON job FOR EACH ROW EXECUTE FUNCTION swallow()"))
    with pytest.raises(StorageError, match=r"table job: 9 rows were to be copied, 9 were read and 8 arrived"):
        copy_record.copy(old, new)
    with new.session(Scope.everything) as session:
        assert session.scalar(select(func.count()).select_from(Job)) == 0


def test_where_the_artifacts_moved_every_url_below_their_root_moves_too(old, new):
    with old.transaction(Scope.everything) as session:
        session.get_one(Job, "done").adapter_uri = "file:///a/jobs/done"
        session.get_one(Job, "done").evaluation = {"uri": "file:///a/e", "sets": [{"uri": "file:///a/s"}], "n": 3}
        session.get_one(Job, "failed").adapter_uri = "file:///ab/jobs/failed"  # of another root
    copy_record.copy(old, new, roots=("file:///a", "s3://celora/x"))
    with new.session(Scope.everything) as session:
        assert session.get_one(Job, "done").adapter_uri == "s3://celora/x/jobs/done"
        sets = [{"uri": "s3://celora/x/s"}]
        assert session.get_one(Job, "done").evaluation == {"uri": "s3://celora/x/e", "sets": sets, "n": 3}
        assert session.get_one(Job, "failed").adapter_uri == "file:///ab/jobs/failed"
    assert [row["id"] for row in rows_of(new)["job"]] == [row["id"] for row in rows_of(old)["job"]]
