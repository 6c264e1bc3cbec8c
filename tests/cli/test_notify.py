"""``celora notify``: the URL of a channel is never shown, and each notice is known by its name."""

import pytest
from hook_server import listening
from records import SPEC, Verbs

from celora.models.database import get_database
from celora.models.spec import parse_spec

pytest.importorskip("apprise")
URL = "ntfys://secret-word@ntfy.example.org/topic\n"


def test_a_channel_is_added_listed_and_removed_without_its_url(celora):
    added = celora("notify", "add", "team", "--on", "failed,waiting", "--waiting", "30m", stdin=URL)
    assert added.exit_code == 0, added.stderr
    listed = celora("notify", "list", "--json")
    (one,) = listed.json()
    assert (one["name"], one["notices"], one["waiting_s"], one["url"]) == (
        "team", ["failed", "waiting"], 1800, "ntfys://…",
    )  # fmt: skip
    shown = celora("notify", "list")
    assert "team" in shown.stdout
    assert "secret-word" not in added.stdout + listed.stdout + shown.stdout
    assert "notified again" in celora("notify", "on", "team").stdout
    assert celora("notify", "remove", "team").exit_code == 0
    assert celora("notify", "list", "--json").json() == []


@pytest.mark.parametrize(
    ("arguments", "stdin", "said"),
    [
        (["add", "team", "--on", "failled"], URL, "did you mean failed"),
        (["add", "team", "--on", ","], URL, "names no notice"),
        (["add", "team"], "syslog://secret-word", "a channel is a URL of one of"),
        (["add", "team"], "", "a channel is a URL of one of"),
        (["add", "team", "--job", "nobody"], URL, "nobody"),
        (["test", "nobody"], "", "no receiver nobody"),
        (["redeliver", "7"], "", "no such delivery"),
    ],
)
def test_a_wrong_word_is_a_sentence(celora, arguments, stdin, said):
    result = celora("notify", *arguments, stdin=stdin)
    assert result.exit_code in (64, 66)
    assert said in result.stderr
    assert "secret-word" not in result.stderr


def test_the_log_shows_a_delivery_and_a_sample_reaches_its_channel(celora):
    with listening() as hooks:
        hooks.status = 200
        url = f"ntfy://{hooks.host}/topic"
        assert celora("notify", "add", "team", "--on", "all", stdin=url).exit_code == 0
        assert celora("notify", "test", "team").stdout == "team took it.\n"
        hooks.status = 500
        failed = celora("notify", "test", "team")
        assert (failed.exit_code, "was not reached" in failed.stderr) == (1, True)
    verbs = Verbs(get_database())
    verbs.submit(job_id="a", spec=parse_spec({**SPEC, "tenant": "default"}))
    verbs.request_cancel("a")
    (line,) = celora("notify", "log", "team", "--json").json()
    assert (line["notice"], line["subject"], line["outcome"]) == ("cancelled", "a", None)
    assert "cancelled" in celora("notify", "log").stdout
    assert "is due now" in celora("notify", "redeliver", str(line["id"])).stdout
