"""A chat template that never ends, or takes all memory, costs one chat; the limits end with the block."""

import subprocess
import sys

import pytest

BEGIN = """
import resource, signal, sys
from celora.tuning import resource_limits
from celora.tuning.answering.render_limit import limited
from celora.tuning.templates.tokenizer_calls import TemplateRefusalError

class Reader:
    def send(self, event):
        print(event.code, event.message, flush=True)

before = resource.getrlimit(resource.RLIMIT_DATA)
"""
ENDLESS = """
with limited(Reader(), device="cpu", render_s=1), resource_limits.rendering("own"):
    while True:
        pass
"""
HELD = """
with limited(Reader(), device="cpu", render_s=1), resource_limits.rendering("own"):
    sum(range(10**15))  # one call of C that holds the interpreter
"""
GREEDY = """
try:
    with limited(Reader(), device="cpu"), resource_limits.rendering("own"):
        bytearray(8 << 30)
except TemplateRefusalError as error:
    print(error)
print(resource.getrlimit(resource.RLIMIT_DATA) == before, signal.getitimer(signal.ITIMER_REAL)[0])
"""


def run(program):
    done = subprocess.run([sys.executable, "-c", BEGIN + program], capture_output=True, text=True, check=False)
    return done.returncode, done.stdout


def test_a_template_that_does_not_end_is_answered_and_ends_the_process():
    code, said = run(ENDLESS)
    assert (code, said) == (69, "bad_prompt the chat template own did not finish one conversation within 1 s.\n")


@pytest.mark.slow
def test_the_kernel_ends_what_no_thread_can_end():
    assert run(HELD) == (-14, "")


def test_a_template_that_takes_all_memory_is_refused_and_the_limits_end():
    code, said = run(GREEDY)
    assert code == 0, said
    refused, after = said.splitlines()
    assert "needs more memory for one conversation than there is" in refused
    assert after == "True 0.0"
