from sqlalchemy import make_url

from celora.workers.lifecycle.record_watch import RecordState, RecordWatch


def test_a_file_that_was_removed_and_one_that_was_put_in_its_place_are_noticed(tmp_path):
    path = tmp_path / "celora.db"
    path.touch()
    watch = RecordWatch(make_url(f"sqlite:///{path}"))
    assert watch.state() is RecordState.SAME
    path.write_text("it grows")
    assert watch.state() is RecordState.SAME
    path.rename(tmp_path / "aside")
    assert watch.state() is RecordState.GONE
    path.touch()
    assert watch.state() is RecordState.REPLACED
    (tmp_path / "aside").replace(path)
    assert watch.state() is RecordState.SAME


def test_a_record_on_a_server_is_always_the_same():
    assert RecordWatch(make_url("postgresql://u@db/celora")).state() is RecordState.SAME
