"""Webhooks reach no address that an operator did not open, whatever the URL, the name and the receiver do."""

import pytest

from celora.errors import RequestError
from celora.services.notifications import posting
from celora.services.notifications.posting import check_url, post
from celora.tuning import web_connection


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("", "must be https"),
        ("hooks.example.org", "must be https"),
        ("ftp://hooks.example.org/", "must be https"),
        ("https:///path", "must be https"),
        ("https://hooks.example.org:0/", "must be https"),
        ("https://hooks.example.org:99999/", "no URL"),
        ("http://hooks.example.org/", "begin with https"),
        ("https://user@hooks.example.org/", "a user"),
        ("https://hooks.example.org/#part", "a fragment"),
        ("https://hooks.example.org/a b", "no URL"),
        ("https://hooks.example.org/größe", "percent-encoded"),
        ("https://hooks.example.org/\r\nHost: other", "no URL"),
        ("https://hooks.example.org/" + "a" * 2000, "no URL"),
        ("https://169.254.169.254/latest/meta-data", "no public address"),
        ("https://[::ffff:169.254.169.254]/", "no public address"),
        ("https://[::ffff:a9fe:a9fe]/", "no public address"),
        ("https://2852039166/", "no public address"),
        ("https://0xa9fea9fe/", "no public address"),
        ("https://127.0.0.1/", "no public address"),
        ("https://[::1]/", "no public address"),
        ("https://10.1.2.3/", "no public address"),
    ],
)
def test_a_url_to_which_nothing_may_be_sent_is_refused_at_once(url, said):
    with pytest.raises(RequestError, match=said) as caught:
        check_url(url, [])
    assert (caught.value.reason, caught.value.param) == ("invalid_url", "url")
    assert "169.254" not in caught.value.message


@pytest.mark.parametrize(
    ("url", "hosts", "may"),
    [
        ("http://127.0.0.1:9/x", ["127.0.0.1"], True),
        ("http://127.0.0.1:9/x", ["127.0.0.1:9"], True),
        ("http://127.0.0.1:9/x", ["127.0.0.1:8"], False),
        ("http://Intra:9/x", ["intra"], True),
        ("http://intra.example:9/x", ["intra"], False),
        ("http://intra/x", ["intra:80"], True),
        ("https://intra/x", ["intra:443"], True),
        ("http://[::1]:9/x", ["[::1]:9"], True),
        ("http://[::1]:9/x", ["::1"], True),
        ("http://169.254.169.254/x", ["169.254.169.254"], False),
        ("http://[::ffff:169.254.169.254]/x", ["::ffff:169.254.169.254"], False),
    ],
)
def test_an_operator_opens_hosts_by_their_names_and_never_the_metadata(url, hosts, may):
    try:
        check_url(url, hosts)
    except RequestError:
        assert not may
    else:
        assert may


def sent(hooks, path, *, hosts=None):
    return post(f"{hooks.url}{path}", b"{}", {"webhook-id": "evt_1"}, [hooks.host] if hosts is None else hosts)


def test_a_message_arrives_with_its_headers_and_the_status_comes_back(hooks):
    result = sent(hooks, "/204?a=1")
    assert (result.status, result.fault) == (204, "")
    ((path, headers, body),) = hooks.got
    assert (path, body, headers["webhook-id"]) == ("/204?a=1", b"{}", "evt_1")
    assert headers["Content-Type"] == "application/json"


@pytest.mark.parametrize("status", [301, 400, 404, 410, 500, 503])
def test_every_other_answer_is_a_fault_that_names_its_status(hooks, status):
    result = sent(hooks, f"/{status}")
    assert result.status == status
    assert str(status) in result.fault


def test_a_redirect_is_not_followed(hooks):
    assert "not followed" in sent(hooks, "/redirect").fault
    assert [path for path, _, _ in hooks.got] == ["/redirect"]


def test_an_answer_of_two_gigabytes_is_not_read(hooks):
    assert sent(hooks, "/flood").status == 200
    assert hooks.cut.wait(60)


def test_a_receiver_that_never_answers_is_left(hooks, monkeypatch):
    monkeypatch.setattr(posting, "POST_S", 0.2)
    result = sent(hooks, "/silent")
    assert (result.status, result.fault) == (None, "it cannot be reached, or did not answer in time")


def test_a_receiver_whose_answer_drips_without_an_end_has_not_answered(hooks, monkeypatch):
    monkeypatch.setattr(posting, "POST_S", 0.3)
    result = sent(hooks, "/drip")
    assert (result.status, result.fault) == (None, "it cannot be reached, or did not answer in time")


def test_a_host_that_is_not_open_gets_no_byte_and_the_fault_names_no_address(hooks):
    assert "https" in sent(hooks, "/200", hosts=[]).fault
    assert hooks.got == []


def test_a_name_that_comes_to_mean_another_address_is_judged_where_it_is_used(hooks, monkeypatch):
    asked = []
    port = hooks.server_address[1]

    def changing(host, *_args, **options):
        if options.get("flags"):
            raise OSError("no figures")
        asked.append(host)
        return [(2, 1, 6, "", ("169.254.169.254", port))]

    monkeypatch.setattr(web_connection.socket, "getaddrinfo", changing)
    result = post(f"http://hooks.example.org:{port}/200", b"{}", {}, ["hooks.example.org"])
    assert (result.status, result.fault) == (None, "its host has no public address")
    assert asked == ["hooks.example.org"]
    assert hooks.got == []


def test_the_connection_goes_to_the_judged_address_though_the_name_changes(hooks, monkeypatch):
    port, places = hooks.server_address[1], iter(["127.0.0.1", "169.254.169.254"])
    real = web_connection.socket.getaddrinfo

    def changing(host, *args, **options):
        if host[0].isdigit() or options.get("flags"):
            return real(host, *args, **options)
        return [(2, 1, 6, "", (next(places), port))]

    monkeypatch.setattr(web_connection.socket, "getaddrinfo", changing)
    result = post(f"http://hooks.example.org:{port}/200", b"{}", {}, ["hooks.example.org"])
    assert result.status == 200
    assert hooks.got[0][1]["Host"] == f"hooks.example.org:{port}"


def test_plain_text_where_tls_should_be_is_a_fault(hooks):
    result = post(hooks.url.replace("http:", "https:") + "/200", b"{}", {}, [hooks.host])
    assert result.status is None
    assert "TLS" in result.fault or "reached" in result.fault
