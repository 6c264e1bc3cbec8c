"""One trainer process, driven with the real program and a request that needs no model."""

import os
import signal

import pytest

from celora.tuning.protocol import PrepareRequest
from celora.tuning.recipe import Recipe
from celora.workers.trainer.log_files import log_tail
from celora.workers.trainer.process import TrainerProcess
from celora.workers.trainer.supervisor import TrainerError, run_once

pytestmark = pytest.mark.slow


def request(tmp_path, dataset):
    return PrepareRequest(
        job="j",
        attempt=1,
        cache_dir=str(tmp_path / "cache"),
        base_model="nowhere",
        dataset=str(dataset),
        recipe=Recipe(),
        seed=0,
        out_dir=str(tmp_path / "out"),
        threads=1,
    )


def test_the_trainers_refusal_arrives_with_code_sentence_and_hint(tmp_path):
    with pytest.raises(TrainerError) as caught:
        run_once(request(tmp_path, tmp_path / "none.jsonl"), lambda _: None, log=tmp_path / "log", environment={})
    assert caught.value.error["code"] == "bad_data"
    assert "none.jsonl" in caught.value.error["message"]
    assert caught.value.error["hint"]


def test_a_trainer_whose_supervisor_is_gone_leaves_by_itself(tmp_path):
    fifo = tmp_path / "rows.jsonl"
    os.mkfifo(fifo)  # it would wait here for rows that never come
    trainer = TrainerProcess(request(tmp_path, fifo), tmp_path / "log")
    while not trainer.events(0.1):
        assert trainer.returncode is None
    assert trainer.returncode is None
    trainer.close_requests()
    trainer._process.wait(timeout=240)
    assert trainer.returncode is not None
    trainer.close()
    assert not trainer.group_alive()


def test_killing_takes_the_whole_group(tmp_path):
    fifo = tmp_path / "rows.jsonl"
    os.mkfifo(fifo)
    trainer = TrainerProcess(request(tmp_path, fifo), tmp_path / "log")
    trainer.kill()
    assert trainer.returncode == -signal.SIGKILL
    assert not trainer.group_alive()
    trainer.close()


def test_telling_a_trainer_that_has_left_that_its_checkpoint_is_kept_does_no_harm(tmp_path):
    fifo = tmp_path / "rows.jsonl"
    os.mkfifo(fifo)
    trainer = TrainerProcess(request(tmp_path, fifo), tmp_path / "log")
    trainer.kill()
    trainer.kept({"job": "j", "step": 3})
    trainer.close()
    trainer.kept({"job": "j", "step": 3})


def test_the_tail_of_a_log_is_its_last_lines(tmp_path):
    log = tmp_path / "log"
    log.write_text("\n".join(map(str, range(100))))
    assert log_tail(log, 3) == "97\n98\n99"
    assert log_tail(tmp_path / "none") == ""
