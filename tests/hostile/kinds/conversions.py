"""Malformed ``.gguf`` files that are converted as a job does, each in a child process: a sentence, or a copy."""

import os
import random
import resource
import shutil
from collections.abc import Generator
from pathlib import Path

from hostile.attack import Attempt, kind

from celora.errors import BaseModelError, CeloraError

MOST_CPU_S = 60
MOST_BYTES = 2**32
"""Address space of a conversion above that of the process with its libraries."""
EDGES = (0, 1, 255, 2**31, 2**62, 2**64 - 1)
TEXTS = [f"{one} {two}" for one in ("the cat", "a dog", "two mice") for two in ("sat.", "ran off.", "are 12!")]


@kind("conversions", "malformed .gguf files through their conversion", minutes=1)
def conversions(dice: random.Random, folder: Path) -> Generator[Attempt, None, None]:
    """Mutations of a byte-level and of a SentencePiece model, most of them in the header that decides."""
    import torch  # noqa: F401  (the children inherit it)
    from gguf_files import greedy_vocabulary, write_gguf, write_sentencepiece
    from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: F401  (as above)

    good = [folder / "bytes.gguf", folder / "pieces.gguf"]
    write_gguf(good[0], greedy_vocabulary(TEXTS, 300), "gpt-2")
    write_sentencepiece(good[1], TEXTS, 320)
    for one in good:
        assert converted(one, folder / "copy") == "", f"{one.name} itself is not converted"
    contents, changed = [one.read_bytes() for one in good], folder / "changed.gguf"
    while True:
        content = mutated_model(dice.choice(contents), dice)

        def make(content: bytes = content) -> None:
            changed.write_bytes(content)
            assert (fault := converted(changed, folder / "copy")) == "", fault

        yield Attempt(f"{len(content)} bytes, head {content[:64].hex()}", make)


def mutated_model(content: bytes, dice: random.Random) -> bytes:
    """The file cut anywhere, or with one to four numbers replaced; half of them lie among the first fields."""
    if dice.random() < 0.1:
        return content[: dice.randrange(len(content))]
    made = bytearray(content)
    for _ in range(dice.choice((1, 1, 2, 4))):
        at = dice.randrange(dice.choice((700, len(made) - 8)))
        width, number = dice.choice((1, 4, 8)), dice.choice((*EDGES, dice.getrandbits(64)))
        made[at : at + width] = number.to_bytes(8, "little")[:width]
    return bytes(made)


def converted(path: Path, copy: Path) -> str:
    """Convert a file in a child process; "" where it was converted or refused in a sentence, else the fault."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        fault = "the child ended without a word"
        try:
            limit()
            fault = fault_of(path, copy)
        except BaseException as error:  # noqa: BLE001  (whatever it is, it is the finding)
            fault = f"{type(error).__name__}: {error}"
        finally:
            os.write(writing, fault.encode(errors="replace")[:1500])
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        fault = pipe.read().decode()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return fault or ("" if status == 0 else f"the child ended with {status}")


def limit() -> None:
    """Limit the CPU time and the memory of this process, hard."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    most = pages * resource.getpagesize() + MOST_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    resource.setrlimit(resource.RLIMIT_CPU, (MOST_CPU_S, MOST_CPU_S))
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # libraries warn of what they read


def fault_of(path: Path, copy: Path) -> str:
    """Convert a file, and say what is wrong with how that ended."""
    import torch

    from celora.tuning.bases import gguf

    torch.set_num_threads(1)
    shutil.rmtree(copy, ignore_errors=True)
    try:
        gguf.converted(path, digest="0" * 64, name="m", kind="gguf", cache=copy, emit=lambda *_, **__: None)
    except BaseModelError as error:
        return "" if "\n" not in str(error) and len(str(error)) < 2000 else f"the refusal is no sentence: {error}"
    except CeloraError as error:
        return f"{error!r} is no base's error"
    except MemoryError:
        return ""  # the limit of memory, which a trainer explains
    return ""
