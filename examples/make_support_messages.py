"""Write the demo's data: support messages, each to be turned into one structured line.

    python examples/make_support_messages.py [FOLDER]

All sentences are our own. One seed decides every row, so that the three files are the same on every machine:

    train.jsonl               240 rows
    eval_combinations.jsonl    48 rows: the sentences of the training rows, but no pair of problem and product of
                               training, and every order number and every name is new
    eval_wordings.jsonl        24 rows: besides that, every sentence has a wording that no training row has

A row is chat messages: a short system text (the default of the base would cost more tokens), the message of the
customer, and the answer ``problem | product | order | urgency | name``.
"""

import json
import random
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

SEED = 20261124
SYSTEM = "problem | product | order | urgency | name"
DEFAULT_FOLDER = Path(__file__).parent.parent / "cli" / "demo_data"

PRODUCTS = [
    "kettle", "toaster", "lamp", "headphones", "keyboard", "office chair", "backpack", "phone case", "blender", "tent",
    "coffee machine", "monitor", "bike helmet", "speaker", "rug", "watch",
]  # fmt: skip
NAMES = [
    "Anna", "Ben", "Carla", "David", "Elena", "Frank", "Grace", "Hugo", "Ines", "Jonas", "Karin", "Liam", "Maria",
    "Noah", "Olga", "Paul", "Rosa", "Simon", "Tara", "Victor", "Wendy", "Yusuf", "Zoe", "Amir", "Bianca", "Colin",
    "Diana", "Emil", "Farah", "Gustav", "Helen", "Ivan", "Julia", "Kevin", "Laura", "Marco",
]  # fmt: skip
NEW_NAMES = [
    "Peter", "Sarah", "Tom", "Linda", "Oscar", "Nina", "Felix", "Clara", "Hassan", "Emma", "Robert", "Alice", "Samuel",
    "Monica", "George", "Irene",
]  # fmt: skip


@dataclass(frozen=True)
class Wordings:
    """One stock of sentences for problems, urgencies and whole messages."""

    problems: dict[str, list[str]]
    urgencies: dict[str, list[str]]
    messages: list[str]


TRAINING = Wordings(
    problems={
        "damaged": ["the {p} arrived broken", "my {p} came with a crack", "the {p} was smashed in the box"],
        "late": ["my {p} has still not arrived", "the {p} is two weeks late", "I am still waiting for the {p}"],
        "wrong item": ["I got the wrong {p}", "this is not the {p} I ordered", "you sent me a different {p}"],
        "defective": ["the {p} does not turn on", "my {p} stopped working", "the {p} keeps switching itself off"],
        "missing part": ["a part of the {p} is missing", "the {p} came without its cable", "my {p} lacks two screws"],
        "double charge": ["I was charged twice for the {p}", "you billed me two times for the {p}"],
        "refund": ["I want my money back for the {p}", "my refund for the {p} never came"],
        "cancel": ["please cancel the {p}", "I do not want the {p} anymore"],
    },
    urgencies={
        "high": ["This is urgent.", "I need help today.", "Please hurry."],
        "normal": ["Thank you.", "Please advise.", "What can we do?"],
        "low": ["No rush.", "Take your time.", "It can wait."],
    },
    messages=[
        "{P}, order {o}. {u} {n}",
        "Order {o}: {p}. {u} {n}",
        "{n} here. {P} ({o}). {u}",
        "{P}. My order is {o}. {u} Best, {n}",
        "Hi, {n} here: {p}. Order {o}. {u}",
        "Hello, {p} ({o}). {u} Regards, {n}",
    ],
)
UNSEEN = Wordings(
    problems={
        "damaged": ["when I unpacked the {p}, it was in pieces", "somebody must have dropped this {p} on its way"],
        "late": ["where is my {p}? It should be here by now", "the courier never brought the {p}"],
        "wrong item": ["I picked another {p} in your shop than this one", "you mixed up my {p} with somebody else's"],
        "defective": ["the {p} is dead after three days", "whatever I press, this {p} does nothing"],
        "missing part": ["the lid of the {p} was not in the parcel", "the {p} is not complete"],
        "double charge": [
            "my card shows two payments for one {p}",
            "I paid for a single {p}, yet you took the sum twice",
        ],
        "refund": ["I sent the {p} back and have not seen a cent", "kindly return what I paid for the {p}"],
        "cancel": ["I changed my mind about the {p}, stop the shipment", "forget about the {p}, I found another shop"],
    },
    urgencies={
        "high": ["I need an answer right now!", "This cannot wait any longer."],
        "normal": ["What happens next?", "I look forward to your answer."],
        "low": ["There is no hurry at all.", "Whenever you have time."],
    },
    messages=[
        "Good morning, my name is {n}. I am writing about {o}: {p}. {u}",
        "{P}. {u} You find it under {o}. Yours, {n}",
        "To whom it may concern: {p}, reference {o}. {u} Signed, {n}",
    ],
)


def rows(
    wordings: Wordings, count: int, names: list[str], *, met: bool, orders: Iterator[str]
) -> list[dict[str, object]]:
    """Draw rows: every problem, urgency and message form about equally often, in a shuffled order.

    Args:
        wordings: The stock of sentences.
        count: Rows to draw.
        names: Names of the customers.
        met: Draw the pairs of problem and product that training uses (True), or the other pairs (False).
        orders: Order numbers, each used once.
    """
    dice = random.Random(f"{SEED} {count} {met}")
    problems, urgencies = list(wordings.problems), list(wordings.urgencies)
    drawn: list[dict[str, object]] = []
    for index in range(count):
        problem = problems[index % len(problems)]
        urgency = urgencies[(index // len(problems)) % len(urgencies)]
        product = dice.choice([p for p in PRODUCTS if in_training(problem, p) is met])
        name, order = dice.choice(names), next(orders)
        clause = dice.choice(wordings.problems[problem]).format(p=product)
        text = dice.choice(wordings.messages).format(
            p=clause, P=clause[0].upper() + clause[1:], o=order, u=dice.choice(wordings.urgencies[urgency]), n=name
        )
        answer = f"{problem} | {product} | {order} | {urgency} | {name}"
        drawn.append({"messages": [_said("system", SYSTEM), _said("user", text), _said("assistant", answer)]})
    dice.shuffle(drawn)
    return drawn


def in_training(problem: str, product: str) -> bool:
    """True if training uses this pair; a quarter of the pairs are reserved for the held-out sets."""
    return (list(TRAINING.problems).index(problem) + PRODUCTS.index(product)) % 4 != 0


def order_numbers() -> Iterator[str]:
    """A letter and three digits, never the same twice."""
    dice = random.Random(SEED)
    given: set[str] = set()
    while True:
        number = f"{dice.choice('ABCDEFGHKLMNPRSTVWXZ')}{dice.randrange(100, 1000)}"
        if number not in given:
            given.add(number)
            yield number


def make() -> dict[str, list[dict[str, object]]]:
    """The rows of every file, by file name."""
    orders = order_numbers()
    return {
        "train.jsonl": rows(TRAINING, 240, NAMES, met=True, orders=orders),
        "eval_combinations.jsonl": rows(TRAINING, 48, NEW_NAMES, met=False, orders=orders),
        "eval_wordings.jsonl": rows(UNSEEN, 24, NEW_NAMES, met=False, orders=orders),
    }


def main() -> None:
    """Write the files."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else DEFAULT_FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    for name, drawn in make().items():
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in drawn)
        (folder / name).write_text(text, encoding="utf-8")
        print(f"{folder / name}: {len(drawn)} rows")


def _said(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


if __name__ == "__main__":
    main()
