"""The states of a job, each with its meaning; the order of the stages."""

from celora.models.states import FINAL, LIVE, Reason, Ruling, Stage, Status


def test_a_status_is_final_or_live():
    assert {*FINAL, *LIVE} == set(Status)
    assert not {*FINAL} & {*LIVE}
    assert [status for status in Status if status.final] == list(FINAL)


def test_every_status_has_a_sentence_and_is_its_word():
    assert all(status.meaning for status in Status)
    assert Status("running") is Status.RUNNING
    assert f"{Status.RUNNING}" == "running"


def test_the_stages_follow_each_other():
    assert [stage.following for stage in Stage] == [Stage.TRAIN, Stage.EVALUATE, Stage.PUBLISH, None]
    assert [stage for stage in Stage if stage.on_gpu] == [Stage.TRAIN, Stage.EVALUATE]


def test_a_ruling_pays_an_attempt_unless_it_says_otherwise():
    ruling = Ruling(again=True)
    assert (ruling.paid, ruling.reason, ruling.blames_device) == (True, Reason.RETRYING, False)
