# pyright: basic, reportMissingImports=false
# (it imports celora as it is installed, which pyright does not follow)
"""Trains SmolLM2 by DPO to prefer short answers to long-winded ones, and measures if it does.

200 pairs are made up here: a question, a short right answer, and the same answer in many words. A fifth is held out.
The figures are the implicit reward accuracy on the held-out pairs, and the mean length of greedy answers to their
prompts, base beside tuned. Prints one JSON object; ``--write`` keeps it.

``--rates`` trains by each method at several shares of the supervised learning rate instead, and measures the held-out
pairs alone: the basis of the rate that ``auto`` chooses. ``--write`` keeps these in ``preference_rates.json``.

    python benchmarks/preferences.py
    python benchmarks/preferences.py --rates --base FOLDER --steps 40
"""

import argparse
import json
import os
import platform
import sys
import tempfile
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results" / "preferences.json"
RATES = RESULTS.with_name("preference_rates.json")
SHARES = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
"""Shares of the supervised learning rate that are tried."""
METHODS = ("dpo", "kto", "orpo")
PAIRS = 200
HELD_OUT = 0.2
COUNTRIES = {
    "France": "Paris",
    "Italy": "Rome",
    "Spain": "Madrid",
    "Peru": "Lima",
    "Japan": "Tokyo",
    "Egypt": "Cairo",
    "Kenya": "Nairobi",
    "Norway": "Oslo",
    "Greece": "Athens",
    "Cuba": "Havana",
}
"""Facts whose answers are short."""


def main() -> None:
    """Make the pairs, train, evaluate."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=40, help="optimizer steps")
    parser.add_argument("--batch", type=int, default=4, help="pairs of a step")
    parser.add_argument("--base", default="smollm2-135m-instruct", help="the base")
    parser.add_argument("--rates", action="store_true", help="try learning rates instead")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS, help="with --rates: these alone")
    parser.add_argument("--shares", nargs="+", type=float, default=SHARES, help="with --rates: these alone")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0: all cores")
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["CELORA_HOME"] = scratch
        if arguments.rates:
            keep_rates(arguments, {name: rates(Path(scratch), name, arguments) for name in arguments.methods})
            return
        found = measure(Path(scratch), arguments)
    report = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {sys.version.split()[0]}",
        "pairs": PAIRS,
        "steps": arguments.steps,
        "pairs_a_step": arguments.batch,
        **found,
    }
    print(json.dumps(report, indent=1))
    if arguments.write:
        RESULTS.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def pairs() -> list[dict[str, str]]:
    """Return 200 pairs; every prompt is another one."""
    made: list[dict[str, str]] = []
    for country, capital in COUNTRIES.items():
        asked = [
            (f"What is the capital of {country}?", f"{capital}.", f"the capital of {country} is the city of {capital}"),
            (f"In which country is {capital}?", f"{country}.", f"the city of {capital} is in {country}"),
        ]
        asked += [
            (
                f"A train to {capital} has {n} cars of 10 seats. How many seats?",
                f"{n}0.",
                f"{n} times 10 seats make {n}0",
            )
            for n in range(2, 20)
        ]
        for prompt, short, said in asked:
            long = (
                f"What a nice question! Let me think about it in peace. As far as I know, {said}, and I hope it helps."
            )
            made.append({"prompt": prompt, "chosen": short, "rejected": long})
    return made


def run(request: Any, scratch: Path) -> dict[str, Any]:
    """Run a request by the trainer program."""
    from celora.workers.trainer.supervisor import run_once  # noqa: PLC0415  (after the home)

    return run_once(request, lambda _: None, log=scratch / "log", environment={})


def prepared(scratch: Path, recipe: Any, arguments: argparse.Namespace) -> dict[str, Any]:
    """Prepare the pairs; return the fields of the requests that follow."""
    from celora.tuning.protocol import PrepareRequest  # noqa: PLC0415  (after the home)

    (scratch / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in pairs()))
    fields = {
        "job": "bench",
        "attempt": 1,
        "cache_dir": str(scratch / "cache"),
        "threads": arguments.threads,
        "seed": 0,
    }
    made = run(
        PrepareRequest(
            **fields,
            base_model=arguments.base,
            dataset=str(scratch / "pairs.jsonl"),
            eval_fraction=HELD_OUT,
            recipe=recipe,
            out_dir=str(scratch / "prepared"),
        ),
        scratch,
    )
    return fields | {"base": made["base"], "prepared_dir": str(scratch / "prepared")}


def measure(scratch: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Prepare, train and evaluate by the trainer program; return the figures."""
    from celora.tuning.protocol import EvaluateRequest, TrainRequest  # noqa: PLC0415  (after the home)
    from celora.tuning.recipe import Recipe  # noqa: PLC0415

    recipe = Recipe(method="dpo", max_steps=arguments.steps, effective_batch=arguments.batch)
    fields = prepared(scratch, recipe, arguments)
    trained = run(TrainRequest(**fields, recipe=recipe, out_dir=str(scratch / "run")), scratch)
    evaluated = run(
        EvaluateRequest(
            **fields,
            adapter_dir=trained["adapter_dir"],
            recipe=trained["resolved"],
            metrics=["exact_match"],
            max_rows=10,
            max_new_tokens=48,
            trainer_eval_loss=trained["eval_loss"],
            out_dir=str(scratch / "evaluation"),
        ),
        scratch,
    )
    return {
        "held_out_pairs": evaluated["metrics"]["sets"]["eval"]["rows"],
        "learning_rate": trained["resolved"]["learning_rate"],
        "train_s": round(trained["train_s"], 1),
        "train_loss": trained["train_loss"],
        "eval_loss": trained["eval_loss"],
        "base": evaluated["metrics"]["base"],
        "tuned": evaluated["metrics"]["tuned"],
        "samples": evaluated["samples"],
    }


FIGURES = ("reward_accuracy", "reward_margin", "logps_wanted", "logps_unwanted", "eval_loss")
"""The measures of a rate: a rate that is too high lowers the likelihood of the wanted answers too."""


def rates(scratch: Path, method: str, arguments: argparse.Namespace) -> list[dict[str, float]]:
    """Train at each share of the supervised rate; return the held-out figures of each, and the base's."""
    from celora.errors import CeloraError  # noqa: PLC0415  (after the home)
    from celora.tuning.estimate.resolve import SMALL_MODEL  # noqa: PLC0415
    from celora.tuning.protocol import EvaluateRequest, TrainRequest  # noqa: PLC0415
    from celora.tuning.recipe import Recipe  # noqa: PLC0415

    common = {"method": method, "max_steps": arguments.steps, "effective_batch": arguments.batch}
    fields = prepared(scratch, Recipe(**common), arguments)
    supervised = SMALL_MODEL[1]  # the bases that a CPU trains are small
    found: list[dict[str, float]] = []
    for share in arguments.shares:
        recipe = Recipe(**common, learning_rate=supervised * share)
        try:
            trained = run(TrainRequest(**fields, recipe=recipe, out_dir=str(scratch / "run")), scratch)
            evaluated = run(
                EvaluateRequest(
                    **fields,
                    adapter_dir=trained["adapter_dir"],
                    recipe=trained["resolved"],
                    metrics=[],
                    trainer_eval_loss=trained["eval_loss"],
                    out_dir=str(scratch / "evaluation"),
                ),
                scratch,
            )
        except CeloraError as error:
            found.append({"share": share, "failed": error.message})
            continue
        sides = evaluated["metrics"]
        if not found:
            found.append({"share": 0.0, **{name: round(sides["base"][name], 3) for name in FIGURES}})
        found.append({"share": share, **{name: round(sides["tuned"][name], 3) for name in FIGURES}})
    return found


def keep_rates(arguments: argparse.Namespace, found: dict[str, list[dict[str, float]]]) -> None:
    """Print the figures of the rates; keep them by base if asked."""
    report = {"steps": arguments.steps, "pairs_a_step": arguments.batch, **found}
    base = Path(arguments.base).name
    print(json.dumps({base: report}, indent=1))
    if arguments.write:
        known = json.loads(RATES.read_text(encoding="utf-8")) if RATES.exists() else {}
        RATES.write_text(json.dumps({**known, base: report}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
