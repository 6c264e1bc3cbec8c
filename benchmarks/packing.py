"""How full packed sequences are, and how fast packing is, beside TRL's packer.

Rows of lognormal lengths (median about 270 tokens, sigma 0.8, cut at 2,048), as chat data has them, into sequences of
2,048 and 8,192 tokens; a million short rows (median 40); and lengths as GSM8K's are with a chat template (7,473 rows of
97 to 570 tokens), of which few fit into a sequence. ``at_most_full`` is what no packing is above: all tokens in as few
sequences as could hold them, the last one partly empty. TRL packs the same rows with its strategy ``bfd``, which
moves the tokens too, so its rate is no like for like; ours is by index, and the tokens stay where they are. Interleaved
rounds in one process; medians of CPU time, since other work on the machine disturbs that less than the clock.

    python benchmarks/packing.py [--rounds N] [--write]
"""

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, disable_progress_bars
from trl.data_utils import pack_dataset

from celora.tuning.batches.packing import Bins, pack

LONGEST = 2048


def main() -> None:
    """Print one JSON object; with ``--write`` also write it into ``results/``."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--write", action="store_true", help="write results/packing.json")
    asked = parser.parse_args()
    disable_progress_bars()
    chat, short = lengths(50_000, 5.6, 0.8), lengths(1_000_000, 3.7, 0.5)
    facts = {
        "chat_2048": beside_trl(chat, 2048, asked.rounds),
        "chat_8192": ours(chat, 8192, asked.rounds),
        "short_2048": ours(short, 2048, asked.rounds),
        "gsm8k_like_2048": beside_trl(gsm8k_like(), 2048, asked.rounds),
        "load_average": [round(number, 1) for number in os.getloadavg()],
    }
    text = json.dumps(facts, indent=1)
    print(text)
    if asked.write:
        results = Path(__file__).parent / "results"
        results.mkdir(exist_ok=True)
        (results / "packing.json").write_text(text + "\n")


def lengths(count: int, mean: float, sigma: float) -> Any:
    """Tokens of each row, lognormal."""
    found = np.random.default_rng(7).lognormal(mean, sigma, count)
    return np.minimum(found.astype(np.int64) + 1, LONGEST)


def gsm8k_like() -> Any:
    """Tokens of each row, as GSM8K's are: no shorter than the template's own words with a short question."""
    found = np.random.default_rng(3).gamma(2.9, 41.5, 7473)
    return np.minimum(97 + found.astype(np.int64), 570)


def ours(rows: Any, capacity: int, rounds: int) -> dict[str, Any]:
    """Our packer alone."""
    took = [seconds(lambda: pack(rows, capacity)) for _ in range(rounds)]
    return described(rows, capacity, pack(rows, capacity), statistics.median(took))


def described(rows: Any, capacity: int, packed: Bins, took_s: float) -> dict[str, Any]:
    """A packing in figures."""
    return {
        "rows": len(rows),
        "sequences": len(packed),
        "full": round(float(rows.sum()) / (capacity * len(packed)), 5),
        "at_most_full": round(float(rows.sum()) / (capacity * -(-int(rows.sum()) // capacity)), 5),
        "rows_per_cpu_s": round(len(rows) / took_s),
    }


def beside_trl(rows: Any, capacity: int, rounds: int) -> dict[str, Any]:
    """Our packer and TRL's in turns."""
    data = Dataset.from_dict({"input_ids": [[1] * int(length) for length in rows]})
    took = [
        (seconds(lambda: pack(rows, capacity)), seconds(lambda: pack_dataset(data, capacity, "bfd")))
        for _ in range(rounds)
    ]
    theirs = pack_dataset(data, capacity, "bfd")
    facts = described(rows, capacity, pack(rows, capacity), statistics.median(mine for mine, _ in took))
    return {
        **facts,
        "trl_full": round(float(rows.sum()) / (capacity * len(theirs)), 5),
        "trl_rows_per_cpu_s": round(len(rows) / statistics.median(other for _, other in took)),
        "times_trl": round(statistics.median(other / mine for mine, other in took), 1),
    }


def seconds(work: Callable[[], object]) -> float:
    """The CPU time that it takes."""
    started = time.process_time()
    work()
    return time.process_time() - started


if __name__ == "__main__":
    main()
