"""Submit from a Python program with celora installed, wait, and print the result.

    celora up                                   # in another terminal: the whole system on this machine
    python examples/submit_from_python.py       # the base model of the demo, the demo's own rows

The task id is the job id: `celora status ID`, Flower and `AsyncResult(id)` use the same id.
"""

from importlib.resources import files

from celora.tasks import finetune

ROWS = files("celora.cli") / "demo_data"


def main() -> None:
    """Send one job and wait for its end."""
    result = finetune.apply_async(
        kwargs={
            "base_model": "smollm2-135m-instruct",
            "dataset": str(ROWS / "train.jsonl"),
            "eval_dataset": {"combinations": str(ROWS / "eval_combinations.jsonl")},
            "epochs": 1,
            "effective_batch": 4,
            "tenant": "examples",
            "seed": 1,
        }
    )
    print(f"job {result.id}; watch it with: celora logs {result.id} -f")
    summary = result.get()
    print(f"adapter   {summary['adapter']}")
    print(f"base      {summary['metrics']['base']}")
    print(f"tuned     {summary['metrics']['tuned']}")
    print(f"cost      {summary['cost']}")


if __name__ == "__main__":
    main()
