"""The file of results: numbers in every cell, written once."""

from moved_job import Moved

from celora.models.scope.scope import Scope
from celora.models.tables import File, MetricPoint
from celora.services.openai import files, jobs
from celora.services.openai.result_file import result_id, table, write_result
from celora.settings.settings import get_settings

POINTS = [
    {"step": 1, "train_loss": 2.0},
    {"step": 2, "train_loss": 1.5, "eval_loss": 1.25},
    {"step": 3, "eval_loss": 1},
]


def written(database, job_id):
    file_id = write_result(database, get_settings(), job_id)
    return b"".join(files.content("default", file_id, get_settings())[1]).decode()


def test_a_line_a_step_and_a_number_in_every_cell(create, installation):
    job_id = create()
    Moved(installation, job_id).complete(POINTS)
    assert written(installation, job_id) == "step,train_loss,valid_loss\n1,2.0,1.25\n2,1.5,1.25\n3,1.5,1.0\n"
    assert jobs.find("default", job_id).result_files == [result_id(job_id)]


def test_a_loss_that_was_never_measured_has_no_column():
    points = [MetricPoint(step=step, attempt=attempt, train_loss=loss) for step, attempt, loss in
              [(1, 1, 2.0), (2, 1, 9.0), (2, 2, 1.5)]]  # fmt: skip
    assert list(table(points)) == [("step", "train_loss"), (1, 2.0), (2, 1.5)]
    assert list(table([])) == [("step",)]


def test_it_is_written_once_and_of_a_completed_job_alone(create, installation):
    job_id = create()
    assert write_result(installation, get_settings(), job_id) is None
    Moved(installation, job_id).complete(POINTS)
    assert written(installation, job_id) == written(installation, job_id)
    with installation.session(Scope.everything) as session:
        assert session.get_one(File, result_id(job_id)).tenant == "default"
