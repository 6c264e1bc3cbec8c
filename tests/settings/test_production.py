import re
from pathlib import Path

import pytest

from celora.errors import SettingsError
from celora.models.database import get_database
from celora.settings.production import require_broker, require_database, require_login, weakness
from celora.settings.settings import load_settings

ROOT = Path(__file__).parents[2]
GOOD = "k3-Vw9sQp2xLm8Zr"


@pytest.fixture
def production(home, monkeypatch):
    monkeypatch.delenv("PGPASSWORD", raising=False)

    def settings(**changes):
        return load_settings(profile="production", **changes)

    return settings


@pytest.mark.parametrize(
    "password", ["", "PASSWORD", "postgres", "Celora123", "changeme!", "celora", "short1", "Broker_Password"]
)
def test_passwords_that_are_missing_short_or_of_an_example_are_weak(password):
    assert weakness(password)


def test_every_password_in_an_example_of_ours_is_weak():
    """In a URL of the documents and deploy files, what stands between the colon and the @."""
    pages = [path for folder in ("docs", "deploy", "examples") for path in (ROOT / folder).rglob("*") if path.is_file()]
    pages += ROOT.glob("*.md")
    texts = [path.read_text(encoding="utf-8", errors="replace") for path in pages]
    found = {word for text in texts for word in re.findall(r"://[\w.-]*:([\w-]+)@", text)}
    assert {"PASSWORD", "BROKER_PASSWORD"} <= found
    assert [word for word in found if not weakness(word)] == []


def test_a_password_of_its_own_is_good_and_the_users_name_is_not():
    assert weakness(GOOD, "celora") == ""
    assert weakness("Operations-Team", "operations-team")


@pytest.mark.parametrize(
    "url",
    [
        "redis://broker:6379/0",
        "redis://127.0.0.1:6379/0",
        "rediss://:redis@broker/0",
        "amqp://guest:guest@broker//",
        f"sentinel://:{GOOD}@one:26379;sentinel://two:26379",
        "db+postgresql://celora:celora@db/results",
    ],
)
def test_a_broker_without_a_good_password_is_refused_by_name_and_without_showing_it(production, url):
    with pytest.raises(SettingsError, match="CELORA_PROFILE is production and the broker") as refusal:
        require_broker(production(), url)
    assert "guest@" not in str(refusal.value)
    assert GOOD not in str(refusal.value)


@pytest.mark.parametrize(
    "url",
    [
        f"redis://:{GOOD}@broker:6379/0",
        f"rediss://worker:{GOOD}@broker/0",
        "redis+socket:///run/valkey/valkey.sock",
        "unix:///run/valkey/valkey.sock",
        f"db+postgresql://celora:{GOOD}@db/results",
    ],
)
def test_a_broker_with_a_password_or_on_a_socket_is_taken(production, url):
    require_broker(production(), url)


@pytest.mark.parametrize(
    "url", ["", "postgresql://celora@db/celora", "postgresql://celora:PASSWORD@db/celora", "postgresql://u:u@db/x"]
)
def test_a_record_that_is_unnamed_or_open_is_refused(production, url):
    with pytest.raises(SettingsError, match="CELORA_PROFILE is production"):
        require_database(production(database_url=url))


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql://celora:{GOOD}@db/celora",
        "postgresql://celora@/celora?host=/run/postgresql",
        "postgresql://celora@db/celora?passfile=/run/secrets/pgpass",
        "sqlite:////var/lib/celora/celora.db",
    ],
)
def test_a_record_with_a_password_a_socket_a_password_file_or_in_a_named_file_is_taken(production, url):
    require_database(production(database_url=url))


def test_libpqs_own_password_counts_and_is_judged_too(production, monkeypatch):
    settings = production(database_url="postgresql://celora@db/celora")
    monkeypatch.setenv("PGPASSWORD", GOOD)
    require_database(settings)
    monkeypatch.setenv("PGPASSWORD", "DATABASE_PASSWORD")
    with pytest.raises(SettingsError, match="anybody would try first"):
        require_database(settings)


@pytest.mark.parametrize("login", ["", "celora", "celora:", "admin:admin", "celora:flower"])
def test_a_flower_without_a_login_of_its_own_is_refused(production, login):
    with pytest.raises(SettingsError, match="Flower's login"):
        require_login(production(), login)


def test_outside_of_production_nothing_is_refused(home):
    settings = load_settings()
    require_broker(settings, "redis://localhost/0")
    require_database(settings)
    require_login(settings, "")


def test_no_part_of_celora_opens_a_record_that_production_refuses(home, monkeypatch):
    monkeypatch.setenv("CELORA_PROFILE", "production")
    with pytest.raises(SettingsError, match="CELORA_DATABASE_URL is not set"):
        get_database()
