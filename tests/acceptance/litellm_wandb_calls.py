"""Calls of LiteLLM's SDK, and of the integration of Weights & Biases; run by an interpreter that has these alone.

Usage: ``python litellm_wandb_calls.py BASE_URL KEY SEQUENCE [JOB]``. Prints one JSON object.
"""

import json
import os
import sys
import tempfile

ROWS = b'{"prompt": "one", "completion": "1"}\n' * 12


def litellm(url, key, _):
    """The calls of LiteLLM's guide for fine-tuning, by its provider ``openai``."""
    os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # or its import asks another host for prices
    import litellm

    place = {"custom_llm_provider": "openai", "api_base": url, "api_key": key}
    file = litellm.create_file(file=("rows.jsonl", ROWS), purpose="fine-tune", **place)
    made = litellm.create_fine_tuning_job(
        model="gpt-4o-mini", training_file=file.id, hyperparameters={"n_epochs": 2}, suffix="bot", seed=3, **place
    )
    ids = [job.id for job in litellm.list_fine_tuning_jobs(limit=5, **place).data]
    found = litellm.retrieve_fine_tuning_job(fine_tuning_job_id=made.id, **place)
    content = litellm.file_content(file_id=file.id, **place)
    cancelled = litellm.cancel_fine_tuning_job(fine_tuning_job_id=made.id, **place)
    return {
        "first": made.id == ids[0],
        "epochs": found.hyperparameters.n_epochs,
        "seed": found.seed,
        "content": content.content == ROWS,
        "status": cancelled.status,
        "file": litellm.file_retrieve(file_id=file.id, **place).filename,
        "deleted": litellm.file_delete(file_id=file.id, **place).deleted,
    }


def left(url, key, _):
    """A job that is left alone, made by the client that LiteLLM brings."""
    from openai import OpenAI

    client = OpenAI(base_url=url, api_key=key)
    file = client.files.create(file=("rows.jsonl", ROWS), purpose="fine-tune")
    return {"id": client.fine_tuning.jobs.create(model="gpt-4o-mini", training_file=file.id).id}


def wandb(url, key, job_id):
    """``WandbLogger.sync`` of a job that has succeeded, offline; artifacts of datasets need W&B's own server."""
    folder = tempfile.mkdtemp()
    os.environ.update(WANDB_MODE="offline", WANDB_DIR=folder, WANDB_SILENT="true")
    from openai import OpenAI
    from wandb.integration.openai.fine_tuning import WandbLogger

    logged, noted = [], []

    class Seen(WandbLogger):
        """Keeps what is logged; knows of no run of W&B's server, which is not there."""

        _logged_in = True

        @classmethod
        def _get_wandb_run(cls, run_path):
            del run_path

        @classmethod
        def _log_fine_tune(cls, *given, **named):
            log, log_artifact = cls._run.log, cls._run.log_artifact

            def log_row(row, **how):
                logged.append({**row, "step": how.get("step")})
                return log(row, **how)

            def log_and_note(artifact, **how):
                noted.append({**artifact.metadata, "config": dict(cls._run.config)})
                return log_artifact(artifact, **how)

            cls._run.log, cls._run.log_artifact = log_row, log_and_note
            return super()._log_fine_tune(*given, **named)

    said = Seen.sync(job_id, openai_client=OpenAI(base_url=url, api_key=key), log_datasets=False)
    return {
        "said": said.endswith("completed successfully"),
        "rows": logged,
        "model": noted[0]["fine_tuned_model"],
        "epochs": noted[0]["config"]["hyperparameters"]["n_epochs"],
    }


if __name__ == "__main__":
    address, secret, name, *job = sys.argv[1:]
    sys.stdout.write("\n" + json.dumps(globals()[name](address, secret, job[0] if job else "")))
