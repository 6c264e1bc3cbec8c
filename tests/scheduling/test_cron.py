"""Slots: what a second library says, both changes of the clock, intervals, and lines that are refused."""

from collections import Counter
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from croniter import croniter
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from celora.errors import SettingsError
from celora.scheduling import cron
from celora.scheduling.cron import Rhythm, between, check_cron, newest, next_times, parse_every, shown_every, zone

HALF_HOUR = "Australia/Lord_Howe"
"""The one zone that shifts by half an hour."""
ZONES = ("Europe/Berlin", "America/New_York", HALF_HOUR)

LINES = (
    "0 3 * * 1",
    "30 2 * * *",
    "0 */6 * * *",
    "15 1 * * *",
    "5,35 2 * * 0",
    "0 9 * * MON-FRI",
    "0 0 L * *",
    "30 * * * *",
)


def moment(text, name="UTC"):
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(name)).astimezone(UTC)


def second_pass(due, there):
    """Whether a moment's wall clock showed the same an hour, or half of one, before."""
    return due.astimezone(there).fold == 1


def near_a_change(due, there):
    """Whether the zone shifted within the day before."""
    return (due - timedelta(days=1)).astimezone(there).utcoffset() != due.astimezone(there).utcoffset()


@pytest.mark.parametrize("name", ZONES)
@pytest.mark.parametrize("line", LINES)
def test_the_slots_of_years_are_those_of_a_second_library(name, line):
    """Two years of a line that runs daily or less often, one of a line that runs each hour: it meets each change too.

    But for two things: where an hour comes twice, croniter runs a line with a fixed hour twice, and we do once; and
    cronsim may lose an hour of a line with a ``*`` where a zone shifts by half an hour.
    """
    there, start, end = ZoneInfo(name), datetime(2026, 1, 1, tzinfo=UTC), datetime(2028, 1, 1, tzinfo=UTC)
    if follows_elapsed_time(line):
        end = datetime(2027, 1, 1, tzinfo=UTC)
    ours = list(between(Rhythm(cron=line, timezone=name), start, end))
    theirs, other = [], croniter(line, start.astimezone(there))
    while (due := other.get_next(datetime).astimezone(UTC)) <= end:
        theirs.append(due)
    fixed = not follows_elapsed_time(line)
    wanted = [due for due in theirs if not (fixed and second_pass(due, there))]
    if name == HALF_HOUR and not fixed:
        assert set(ours) <= set(wanted)
        kept = set(ours)
        wanted = [due for due in wanted if due in kept or not near_a_change(due, there)]
    assert ours == wanted
    assert len(ours) >= 23


WINTER, SUMMER = ("2026-10-24", "2026-10-27"), ("2026-03-28", "2026-03-31")


def walls(line, days, name="Europe/Berlin"):
    found = between(Rhythm(cron=line, timezone=name), moment(days[0], name), moment(days[1], name))
    return [f"{due.astimezone(ZoneInfo(name)):%d %H:%M %Z}" for due in found]


def test_a_time_that_the_clock_leaves_out_is_made_up_for_at_once_and_once():
    assert walls("30 2 * * *", SUMMER) == ["28 02:30 CET", "29 03:00 CEST", "30 02:30 CEST"]
    assert walls("0,30 2,3 29 3 *", SUMMER) == ["29 03:00 CEST", "29 03:30 CEST"]


def test_a_time_that_comes_twice_is_run_at_its_first_pass():
    assert walls("30 2 * * *", WINTER) == ["24 02:30 CEST", "25 02:30 CEST", "26 02:30 CET"]


def test_what_runs_every_hour_follows_elapsed_time():
    assert walls("30 * 29 3 *", SUMMER)[1:4] == ["29 01:30 CET", "29 03:30 CEST", "29 04:30 CEST"]
    assert walls("30 * 25 10 *", WINTER)[1:5] == ["25 01:30 CEST", "25 02:30 CEST", "25 02:30 CET", "25 03:30 CET"]
    assert walls("*/30 2 25 10 *", WINTER) == ["25 02:00 CEST", "25 02:30 CEST", "25 02:00 CET", "25 02:30 CET"]


CHANGES = {
    "Europe/Berlin": (datetime(2026, 3, 29, 1, tzinfo=UTC), datetime(2026, 10, 25, 1, tzinfo=UTC)),
    "America/New_York": (datetime(2026, 3, 8, 7, tzinfo=UTC), datetime(2026, 11, 1, 6, tzinfo=UTC)),
    "Australia/Lord_Howe": (datetime(2026, 10, 3, 15, 30, tzinfo=UTC), datetime(2026, 4, 4, 15, tzinfo=UTC)),
}


def test_the_clocks_do_change_there():
    for name, changes in CHANGES.items():
        for at in changes:
            before, after = ((at + timedelta(seconds=s)).astimezone(ZoneInfo(name)).utcoffset() for s in (-1, 0))
            assert before != after


def field(low, high):
    """A field's text, and the values that it means."""
    everything = range(low, high + 1)
    steps = st.integers(1, 30).map(lambda step: (f"*/{step}", set(everything[::step])))
    some = st.sets(st.integers(low, high), min_size=1, max_size=3)
    span = st.tuples(st.integers(low, high), st.integers(low, high)).map(sorted)
    return st.one_of(
        st.just(("*", set(everything))),
        steps,
        some.map(lambda many: (",".join(map(str, sorted(many))), many)),
        span.map(lambda ends: (f"{ends[0]}-{ends[1]}", set(range(ends[0], ends[1] + 1)))),
    )


meanings = st.tuples(field(0, 59), field(0, 23), field(0, 6))
cron_lines = meanings.map(lambda many: f"{many[0][0]} {many[1][0]} * * {many[2][0]}")
changes = st.sampled_from([(name, at) for name, pair in CHANGES.items() for at in pair])
half_hour_changes = st.sampled_from(CHANGES[HALF_HOUR])


def follows_elapsed_time(line):
    """Whether the minute or the hour begins with a star, so that the line runs in both passes of an hour."""
    return any(words.startswith("*") for words in line.split()[:2])


meanings_with_a_star = meanings.filter(lambda many: follows_elapsed_time(f"{many[0][0]} {many[1][0]}"))


def expected(meaning, name, start, end):
    """The rule once more, minute by minute and without a library."""
    (minutes, in_minutes), (hours, in_hours), (_, in_days) = meaning
    there, minute = ZoneInfo(name), timedelta(minutes=1)

    def matches(wall):
        return wall.minute in in_minutes and wall.hour in in_hours and wall.isoweekday() % 7 in in_days

    moments = [start + n * minute for n in range(int((end - start) / minute) + 1)]
    shown = {at: at.astimezone(there).replace(tzinfo=None) for at in moments}
    if minutes.startswith("*") or hours.startswith("*"):
        return [at for at, wall in shown.items() if matches(wall)]
    first, last = min(shown.values()), max(shown.values())
    passed = [first + n * minute for n in range(int((last - first) / minute) + 1)]
    first_shown = {wall: at for at, wall in reversed(shown.items())}
    later = {wall: first_shown.get(wall) or next(at for at in moments if shown[at] > wall) for wall in passed}
    return sorted({later[wall] for wall in passed if matches(wall)})


@settings(max_examples=60, deadline=None)
@given(meanings, changes)
@example((("30", {30}), ("2", {2}), ("*", set(range(7)))), ("Europe/Berlin", CHANGES["Europe/Berlin"][0]))
@example((("30", {30}), ("2", {2}), ("*", set(range(7)))), (HALF_HOUR, CHANGES[HALF_HOUR][1]))
def test_around_a_change_of_the_clock_the_rule_holds_for_any_line(meaning, change):
    name, at = change
    start, end = at - timedelta(hours=6), at + timedelta(hours=6)
    line = f"{meaning[0][0]} {meaning[1][0]} * * {meaning[2][0]}"
    assume(name != HALF_HOUR or not follows_elapsed_time(line))
    found = list(between(Rhythm(cron=line, timezone=name), start - timedelta(minutes=1), end))
    assert found == expected(meaning, name, start, end)


@settings(max_examples=30, deadline=None)
@given(meanings_with_a_star, half_hour_changes)
@example((("0", {0}), ("*/6", {0, 6, 12, 18}), ("*", set(range(7)))), CHANGES[HALF_HOUR][0])
@example((("*/15", {0, 15, 30, 45}), ("0", {0}), ("*", set(range(7)))), CHANGES[HALF_HOUR][0])
def test_where_a_zone_shifts_by_half_an_hour_a_line_with_a_star_loses_one_hour_at_most_and_gains_nothing(meaning, at):
    start, end = at - timedelta(hours=6), at + timedelta(hours=30)
    line = f"{meaning[0][0]} {meaning[1][0]} * * {meaning[2][0]}"
    found = list(between(Rhythm(cron=line, timezone=HALF_HOUR), start - timedelta(minutes=1), end))
    wanted = expected(meaning, HALF_HOUR, start, end)
    assert set(found) <= set(wanted)
    lost = sorted(set(wanted) - set(found))
    assert not lost or (at - timedelta(minutes=30) <= lost[0] and lost[-1] - lost[0] < timedelta(hours=1))


def test_every_six_hours_on_lord_howe_island_skips_six_in_the_morning_after_the_change():
    """What docs/schedules.md says of it."""
    assert walls("0 */6 * * *", ("2026-10-03", "2026-10-05"), HALF_HOUR) == [
        "03 06:00 +1030", "03 12:00 +1030", "03 18:00 +1030", "04 00:00 +1030", "04 12:00 +11", "04 18:00 +11",
        "05 00:00 +11",
    ]  # fmt: skip
    assert walls("30 2 * * *", ("2026-10-03", "2026-10-05"), HALF_HOUR) == ["03 02:30 +1030", "04 02:30 +11"]


@settings(max_examples=50, deadline=None)
@given(cron_lines, changes, st.integers(-6 * 3600, 6 * 3600), st.integers(0, 999_999))
def test_slots_rise_and_do_not_depend_on_where_one_begins_to_look(line, change, offset_s, microseconds):
    name, at = change
    assume(name != HALF_HOUR or not follows_elapsed_time(line))
    rhythm = Rhythm(cron=line, timezone=name)
    start, end = at - timedelta(hours=6), at + timedelta(hours=12)
    every = list(between(rhythm, start, end))
    assert all(one < other for one, other in pairwise(every))
    assert max(Counter(every).values(), default=1) == 1
    middle = at + timedelta(seconds=offset_s, microseconds=microseconds)
    assert [due for due in every if due > middle] == list(between(rhythm, middle, end))
    assert newest(rhythm, start, end) == (every[-1] if every else None)


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 10**7), st.integers(0, 10**9), st.integers(1, 50))
def test_intervals_are_elapsed_time_from_their_anchor(every_s, after_s, n):
    anchor = datetime(2026, 3, 28, 12, tzinfo=UTC)
    after = anchor + timedelta(seconds=after_s)
    found = next_times(Rhythm(every_s=every_s, anchor=anchor), after, n)
    assert all((due - anchor) % timedelta(seconds=every_s) == timedelta(0) for due in found)
    assert found[0] > after >= found[0] - timedelta(seconds=every_s)
    assert len(found) == n
    assert all(other - one == timedelta(seconds=every_s) for one, other in pairwise(found))
    assert parse_every(shown_every(every_s)) == every_s


def test_the_newest_slot_of_years_is_found_without_a_walk_through_them(monkeypatch):
    looked_at = 0
    real = cron.due_times

    def counted(*args):
        nonlocal looked_at
        for due in real(*args):
            looked_at += 1
            yield due

    monkeypatch.setattr(cron, "due_times", counted)
    rhythm = Rhythm(cron="* * * * *")
    assert newest(rhythm, moment("2016-01-01"), moment("2026-01-01")) == moment("2026-01-01")
    assert looked_at < 100
    yearly = Rhythm(cron="0 0 29 2 *")
    assert newest(yearly, moment("2016-01-01"), moment("2027-01-01")) == moment("2024-02-29")
    assert newest(yearly, moment("2024-02-29"), moment("2027-01-01")) is None


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("0 0 31 2 *", "never fires"),
        ("0 0 30-31 2 *", "never fires"),
        ("0 0 31 4,6,9,11 *", "never fires"),
        ("0 0 32 * *", "bad day-of-month"),
        ("61 * * * *", "bad minute"),
        ("0 0 * 13 *", "bad month"),
        ("* * * *", "has 4 fields"),
        ("0 0 3 * * 1", "has 6 fields"),
        ("", "has 0 fields"),
        ("a b c d e", "bad minute"),
    ],
)
def test_a_line_that_is_none_or_never_fires_is_refused(line, reason):
    with pytest.raises(SettingsError, match=reason):
        check_cron(line)


def test_a_line_that_fires_once_in_decades_is_taken():
    found = next_times(Rhythm(cron=check_cron("0 0 29 2 MON")), moment("2026-01-01"), 2)
    assert [f"{due:%Y-%m-%d}" for due in found] == ["2026-02-02", "2026-02-09"]  # either of the two days will do
    assert next_times(Rhythm(cron=check_cron("0  0 29   2 */7")), moment("2026-01-01"), 1)[0].year == 2032
    assert check_cron(" 0  3 * *   1 ") == "0 3 * * 1"


@pytest.mark.parametrize("name", ["Europe/Berln", "Berlin", "europe/berlin"])
def test_an_unknown_zone_is_refused_with_the_nearest_one(name):
    with pytest.raises(SettingsError, match="did you mean Europe/Berlin"):
        zone(name)


@pytest.mark.parametrize("name", ["", "../../etc/passwd", "/etc/localtime", "Europe", "a\0b"])
def test_what_is_no_zone_at_all_is_refused(name):
    with pytest.raises(SettingsError, match="no time zone"):
        zone(name)


@pytest.mark.parametrize("words", ["", "6", "h", "0s", "-1h", "1.5h", "1h1d", "99999d", "1" * 5000 + "s", "٣h"])
def test_what_is_no_interval_is_refused(words):
    with pytest.raises(SettingsError, match="no interval"):
        parse_every(words)


def test_intervals_are_written_as_people_do():
    assert [parse_every(words) for words in ("90s", "30m", "6H", "1d12h", "2w")] == [90, 1800, 21600, 129600, 1209600]
