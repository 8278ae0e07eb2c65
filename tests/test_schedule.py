"""`schedule`: the instants that it names, against a cron library and by hand where clocks change, and the runs."""

from __future__ import annotations

import calendar
import contextlib
import json
import os
import random
import re
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Iterator

import pytest
from croniter import CroniterBadDateError, croniter

import overlord as program
from conftest import Start
from harness import PATIENCE, Overlord, daemon, eventually, exchange, script

BEGIN = calendar.timegm((2020, 1, 1, 0, 0, 0))
TEN_YEARS = 3653 * 86400
SEEDS = range(10)
SHARE = 300  # random expressions for each seed
LATER = "0 0 1 1 *"


@pytest.fixture
def zone() -> Iterator[Any]:
    """A function that sets the time zone of this process, as the container's TZ does for overlord."""
    before = os.environ.get("TZ")

    def set_zone(name: str) -> None:
        os.environ["TZ"] = name
        time.tzset()

    yield set_zone
    if before is None:
        os.environ.pop("TZ", None)
    else:
        os.environ["TZ"] = before
    time.tzset()


def utc(text: str) -> float:
    """Return the instant of `2024-03-31 01:00` UTC."""
    return datetime.strptime(text, "%Y-%m-%d %H:%M").replace(tzinfo=timezone.utc).timestamp()


def runs(expression: str, after: str, count: int) -> list[str]:
    """Return the next instants, in UTC, that a schedule names. Never are two equal, and never one goes back."""
    plan, instant, found = program.parse_schedule(expression), utc(after), []
    for _ in range(count):
        following = program.next_run(plan, instant)
        assert following is not None and following > instant, (expression, instant, following)
        instant = following
        found.append(time.strftime("%Y-%m-%d %H:%M", time.gmtime(instant)))
    return found


# --- against a cron library ------------------------------------------------------------------------------------------


def random_field(dice: random.Random, low: int, high: int, names: list[str]) -> str:
    """Return one field of a crontab line. Without N-N, which croniter takes for the whole range."""

    def item() -> str:
        first = dice.randint(low, high - 1)
        last = dice.randint(first + 1, high)
        spell = str
        if names and dice.random() < 0.5:
            last = min(last, low + len(names) - 1)
            first = min(first, last - 1)
            spell = lambda number: dice.choice((str.lower, str.upper, str.title))(names[number - low])  # noqa: E731
        step = dice.randint(1, high - low)
        return dice.choice((spell(first), spell(last), f"{spell(first)}-{spell(last)}", f"{first}-{last}/{step}", f"*/{step}"))

    kind = dice.random()
    return "*" if kind < 0.3 else ",".join(item() for _ in range(1 if kind < 0.75 else dice.randint(2, 4)))


def random_expression(dice: random.Random) -> str:
    """Return a random crontab line."""
    return " ".join(
        (
            random_field(dice, 0, 59, []),
            random_field(dice, 0, 23, []),
            random_field(dice, 1, 31, []),
            random_field(dice, 1, 12, program.MONTHS),
            random_field(dice, 0, 6, program.WEEKDAYS),
        )
    )


@pytest.mark.parametrize("seed", SEEDS)
def test_a_cron_library_agrees(zone: Any, seed: int) -> None:
    """Of thousands of expressions, at instants over ten years, each names what a well-kept library says it does.

    `implement_cron_bug` is crontab(5): a day field that begins with `*` restricts, and does not widen, the other one.
    """
    zone("UTC")
    dice = random.Random(seed)
    for _ in range(SHARE):
        text = random_expression(dice)
        start = instant = BEGIN + dice.random() * TEN_YEARS
        fields = text.split()
        try:
            plan = program.parse_schedule(text)
        except program.Mistake:
            with pytest.raises(CroniterBadDateError):
                croniter(text, start, ret_type=float, implement_cron_bug=True).get_next()
            continue
        whole = (len(plan.days) == 31 and fields[2][0] != "*") or (len(plan.weekdays) == 7 and fields[4][0] != "*")
        if whole:  # croniter takes it for a `*`; crontab(5) goes by how it is written
            continue
        if fields[2] != "*" and fields[4] != "*" and "*" in (fields[2][0], fields[4][0]):  # here the library misses days
            continue
        for _ in range(3):
            following = program.next_run(plan, instant)
            try:
                expected = croniter(text, instant, ret_type=float, implement_cron_bug=True).get_next()
            except CroniterBadDateError:
                expected = None
            assert following == expected, (text, start, instant)
            if following is None:
                break
            instant = following


@pytest.mark.parametrize("nickname", ["@hourly", "@daily", "@midnight", "@weekly", "@monthly", "@yearly", "@annually", "@DAILY"])
def test_nicknames(zone: Any, nickname: str) -> None:
    """Each is what crontab(5) says."""
    zone("UTC")
    start = utc("2024-02-28 23:59")
    found = program.next_run(program.parse_schedule(nickname), start)
    assert found == croniter(nickname.lower(), start, ret_type=float).get_next()


# --- by hand ---------------------------------------------------------------------------------------------------------

# In UTC. Berlin: +1, forward on 2024-03-31 01:00 UTC, back on 2024-10-27 01:00 UTC. New York: -5, forward on 2024-03-10
# 07:00 UTC, back on 2024-11-03 06:00 UTC. Lord Howe: +10:30, forward by half an hour on 2024-10-05 15:30 UTC, back on
# 2024-04-06 15:00 UTC. Sydney: +10, forward on 2024-10-05 16:00 UTC, back on 2024-04-06 16:00 UTC.
CHANGES = {
    "a time in the gap runs at its end": (
        "Europe/Berlin", "30 2 * * *", "2024-03-30 00:00", ["2024-03-30 01:30", "2024-03-31 01:00", "2024-04-01 00:30"],
    ),
    "the whole gap runs once": (
        "Europe/Berlin", "0,20,40 2 * * *", "2024-03-30 02:00", ["2024-03-31 01:00", "2024-04-01 00:00", "2024-04-01 00:20"],
    ),
    "the gap, and a time at its end, run once": (
        "Europe/Berlin", "0 2,3 * * *", "2024-03-30 12:00", ["2024-03-31 01:00", "2024-04-01 00:00", "2024-04-01 01:00"],
    ),
    "a time in the overlap runs the first time": (
        "Europe/Berlin", "30 2 * * *", "2024-10-26 12:00", ["2024-10-27 00:30", "2024-10-28 01:30"],
    ),
    "each hour, forward": (
        "Europe/Berlin", "0 * * * *", "2024-03-30 23:30", ["2024-03-31 00:00", "2024-03-31 01:00", "2024-03-31 02:00"],
    ),
    "each hour, back": (
        "Europe/Berlin", "30 * * * *", "2024-10-26 23:40", ["2024-10-27 00:30", "2024-10-27 01:30", "2024-10-27 02:30"],
    ),
    "each twenty minutes, back": (
        "Europe/Berlin", "*/20 * * * *", "2024-10-27 00:30",
        ["2024-10-27 00:40", "2024-10-27 01:00", "2024-10-27 01:20", "2024-10-27 01:40", "2024-10-27 02:00"],
    ),
    "every other hour, forward: 2 o'clock is not there": (
        "Europe/Berlin", "0 */2 * * *", "2024-03-30 22:30", ["2024-03-30 23:00", "2024-03-31 02:00", "2024-03-31 04:00"],
    ),
    "every other hour, back: 2 o'clock is there twice": (
        "Europe/Berlin", "0 */2 * * *", "2024-10-26 21:30",
        ["2024-10-26 22:00", "2024-10-27 00:00", "2024-10-27 01:00", "2024-10-27 03:00"],
    ),
    "New York, the gap": (
        "America/New_York", "15 2 * * *", "2024-03-09 12:00", ["2024-03-10 07:00", "2024-03-11 06:15"],
    ),
    "New York, the overlap": (
        "America/New_York", "15 1 * * *", "2024-11-02 12:00", ["2024-11-03 05:15", "2024-11-04 06:15"],
    ),
    "New York, from between the two": (
        "America/New_York", "15 1 * * *", "2024-11-03 05:30", ["2024-11-04 06:15"],
    ),
    "Lord Howe, the gap of half an hour": (
        "Australia/Lord_Howe", "15 2 * * *", "2024-10-04 20:00", ["2024-10-05 15:30", "2024-10-06 15:15"],
    ),
    "Lord Howe, after the gap": (
        "Australia/Lord_Howe", "45 2 * * *", "2024-10-04 20:00", ["2024-10-05 15:45", "2024-10-06 15:45"],
    ),
    "Lord Howe, the overlap": (
        "Australia/Lord_Howe", "45 1 * * *", "2024-04-06 00:00", ["2024-04-06 14:45", "2024-04-07 15:15"],
    ),
    "Sydney, the gap": (
        "Australia/Sydney", "30 2 * * *", "2024-10-05 00:00", ["2024-10-05 16:00", "2024-10-06 15:30"],
    ),
    "Sydney, the overlap": (
        "Australia/Sydney", "30 2 * * *", "2024-04-06 00:00", ["2024-04-06 15:30", "2024-04-07 16:30"],
    ),
    "a day and a month": ("UTC", "0 0 29 feb *", "2024-03-01 00:00", ["2028-02-29 00:00"]),
    "a leap day over a century without": ("UTC", "0 0 29 2 *", "2096-03-01 00:00", ["2104-02-29 00:00"]),
    "a range of one": ("UTC", "5-5 4-4 * * mon-mon", "2024-01-01 12:00", ["2024-01-08 04:05"]),
    "7 is Sunday": ("UTC", "0 0 * * 7", "2024-01-01 00:00", ["2024-01-07 00:00", "2024-01-14 00:00"]),
    "a range up to 7": ("UTC", "0 0 * * 5-7", "2024-01-01 00:00", ["2024-01-05 00:00", "2024-01-06 00:00", "2024-01-07 00:00"]),
    "a first number and a step": ("UTC", "50/5 0 * * *", "2024-01-01 00:50", ["2024-01-01 00:55", "2024-01-02 00:50"]),
    "either day": ("UTC", "0 0 13 * fri", "2024-01-06 00:00", ["2024-01-12 00:00", "2024-01-13 00:00", "2024-01-19 00:00"]),
    "all days of the week, spelt out": ("UTC", "0 0 13 * sun-sat", "2024-01-06 00:00", ["2024-01-07 00:00"]),
    "both days, with a star": ("UTC", "0 0 */13 * fri", "2024-01-06 00:00", ["2024-03-01 00:00"]),
}  # fmt: skip


@pytest.mark.parametrize("case", CHANGES.values(), ids=CHANGES)
def test_by_hand(zone: Any, case: tuple[str, str, str, list[str]]) -> None:
    """On the days when clocks change, a fixed time runs once and what goes by the hour goes on; and some corners."""
    name, expression, after, expected = case
    zone(name)
    assert runs(expression, after, len(expected)) == expected


@pytest.mark.parametrize("name", ["Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "America/Santiago"])
def test_time_goes_on(zone: Any, name: str) -> None:
    """No schedule names an instant twice or goes back, whatever the clocks do, and a daily one runs once each day."""
    zone(name)
    dice = random.Random(name)
    for _ in range(15):
        expression = f"{dice.randint(0, 59)},{dice.randint(0, 59)} {dice.choice(('*', '*/3', '0-3', '1,2'))} * * *"
        for start in ("2024-03-09 00:00", "2024-03-30 00:00", "2024-04-06 00:00", "2024-10-05 00:00", "2024-10-26 00:00"):
            runs(expression, start, 40)
    each_day = f"{dice.randint(0, 59)} {dice.randint(0, 3)} * * *"
    daily = [time.localtime(utc(text))[:3] for text in runs(each_day, "2024-01-02 12:00", 366)]
    assert len(set(daily)) == 366


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("* * * *", "is not a schedule"),
        ("*/61 * * * *", "steps out of its field"),
        ("0 1/25 * * *", "steps out of its field"),
        ("* * * * * *", "is not a schedule"),
        ("@dayly", "@daily"),
        ("60 * * * *", "between 0 and 59"),
        ("* 24 * * *", "between 0 and 23"),
        ("* * 0 * *", "between 1 and 31"),
        ("* * * 13 *", "between 1 and 12"),
        ("* * * jam *", "jan"),
        ("* * * * 8", "between 0 and 7"),
        ("* * * * mun", "mon"),
        ("mon * * * *", "between 0 and 59"),
        ("*/0 * * * *", "none of"),
        ("1,,2 * * * *", "none of"),
        ("-1 * * * *", "none of"),
        ("5-1 * * * *", "ends before it begins"),
        ("0 0 31 2,4 *", "names a day that no year has"),
        ("\u0661 * * * *", "none of"),
        ("every", ""),
        ("every 0", ""),
        ("every soon", ""),
        ("", ""),
    ],
)
def test_mistakes(text: str, said: str) -> None:
    """What names no instant, or cannot be read, is told from what does."""
    with pytest.raises(program.Mistake, match=re.escape(said)):
        program.parse_schedule(text)


def test_every() -> None:
    """`every` takes a duration."""
    assert [program.parse_schedule(f"every {text}").every for text in ("10m", "200ms", "90")] == [600, 0.2, 90]


# --- the real thing --------------------------------------------------------------------------------------------------


def listens(o: Overlord) -> bool:
    """Tell whether overlord answers by now."""
    with contextlib.suppress(OSError):
        return exchange(o, b"version\n") != b""
    return False


def clockwork(start: Start, config: str, **options: Any) -> Overlord:
    """Start an overlord with a socket, and wait until it listens."""
    o = start(config, settings={"socket": "abstract"}, **options)
    eventually(lambda: listens(o), "it listens")
    return o


def record(o: Overlord, name: str) -> dict[str, str]:
    """Return what `status -j` says of a unit."""
    found: list[dict[str, str]] = json.loads(o.ask("status", "-j", name, code=None).stdout)
    return found[0]


def test_it_runs_again_and_again(overlord: Start) -> None:
    """Nothing but a scheduled script keeps overlord up, and a failure of it does not end that."""
    o = overlord(script("tick", "echo tick >> journal; exit 3", schedule="every 200ms"))
    o.journal.wait_for("tick", 4)
    assert o.stop() == 0


def test_a_policy_for_failures_is_not_asked(overlord: Start) -> None:
    """Even `on_failure = shutdown` does not make a scheduled run end the container."""
    o = overlord(script("tick", "echo tick >> journal; exit 3", schedule="every 200ms", on_failure="shutdown"))
    o.journal.wait_for("tick", 3)
    assert o.count("tick: failed: ") >= 2
    assert o.stop() == 0


def test_each_run_has_its_respawns(overlord: Start) -> None:
    """A run that failed for good leaves the next one all its tries in a row."""
    o = overlord(script("tick", "echo tick >> journal; exit 3", schedule="every 500ms", respawns="1/ok"))
    o.wait_count("tick: failed: ", 3)
    assert o.count("tick: pid .* restarting$") >= 3 and not o.count("restarting in")
    assert o.stop() == 0


def test_a_run_is_not_doubled(overlord: Start) -> None:
    """What is still at work when its time comes again is left alone, and the log says so; then it goes on."""
    work = "echo begin >> journal; while ! [ -e go ]; do sleep .02; done; echo end >> journal"
    o = overlord(script("slow", work, schedule="every 200ms"))
    o.journal.wait_for("begin")
    o.wait_count("slow: the run before is still going", 3)
    assert o.journal.lines() == ["begin"]
    (o.folder / "go").touch()
    o.journal.wait_for("end", 3)
    lines = o.journal.lines()
    assert lines == ["begin", "end"] * (len(lines) // 2) + ["begin"] * (len(lines) % 2)
    assert o.stop() == 0


def test_a_scheduled_run_changes_no_ok(overlord: Start) -> None:
    """Who depends on `script:ok` has it run, however often the clock did."""
    config = script("tick", "echo tick >> journal", schedule="every 200ms") + daemon("web", deps="tick", autostart="no")
    o = clockwork(overlord, config)
    o.says("tick", "ok")
    mark = o.mark
    o.ask("start", "web")
    assert o.stop() == 0
    news = o.log[mark:]
    at = next(index for index, line in enumerate(news) if "web: waiting for tick:ok" in line)
    assert any("tick: started" in line for line in news[at:])


def test_a_failed_scheduled_run_takes_no_ok(overlord: Start) -> None:
    """Who starts again after the script's clock run failed does not have it run once more: it has succeeded once."""
    work = "echo run >> journal; ! [ -e broken ]"
    o = clockwork(overlord, script("tick", work, schedule="every 300ms") + daemon("web", deps="tick"))
    o.wait_ok("web")
    (o.folder / "broken").touch()
    o.says("tick", "failed")
    mark = o.mark
    o.kill_unit("web")
    o.says("web", "ok", after=mark)
    assert not any("web: waiting" in line for line in o.log[mark:])
    assert o.stop() == 0


def test_status_shows_the_next_run(overlord: Start) -> None:
    """In the container's time zone; a reload with another schedule changes it, one without takes it away."""
    env = {"PATH": os.environ["PATH"], "TZ": "Pacific/Kiritimati"}
    o = clockwork(overlord, script("yearly", schedule=LATER) + script("often", schedule="every 1000s") + daemon("web"), env=env)
    o.wait_ok("web")
    assert re.fullmatch(r"next run \d{4}-01-01 00:00", record(o, "yearly")["why"])
    often = record(o, "often")
    assert re.fullmatch(r"next run in 16 min (\d\d s)?, every 16 min 40 s", often["why"])
    assert 900 < often["next"] <= 1000 and record(o, "yearly")["next"] > 0
    text = o.config.read_text()
    o.config.write_text(text.replace(LATER, "every 200ms").replace("schedule = every 1000s\n", ""))
    assert "yearly: changed in place: schedule" in o.ask("reload").stdout
    o.journal.wait_for("yearly", 2)
    assert "next run" not in record(o, "often")["why"]
    o.config.write_text(text.replace("schedule", "#"))
    o.ask("reload")
    assert "next run" not in record(o, "yearly")["why"]
    assert o.stop() == 0


def test_a_reload_takes_the_last_one_away(overlord: Start) -> None:
    """With no schedule left nothing can ever run again."""
    o = clockwork(overlord, script("yearly", schedule=LATER))
    o.config.write_text(o.config.read_text().replace(f"schedule = {LATER}\n", ""))
    o.ask("reload", code=None)
    assert o.wait_exit() == 0
    assert o.count("nothing is left to run")


def test_a_mistake_is_located(overlord: Start, tmp_path: Path) -> None:
    """A schedule that cannot be is a mistake of its line, and a daemon has none."""
    o = overlord(script("a", schedule="61 * * * *") + daemon("b", schedule="@daily"))
    assert o.wait_exit() == 78
    assert o.count(r"overlord.conf:\d+: \[script:a\] schedule: '61'") == 1
    assert o.count(r"overlord.conf:\d+: \[daemon:b\] ") == 1


def test_by_the_wall_clock(overlord: Start) -> None:
    """A cron line runs when its minute comes: the one test that waits for that."""
    o = overlord(script("minute", "date +%s >> journal", schedule="* * * * *"))
    o.wait_for("minute: started", timeout=PATIENCE + 60)
    o.says("minute", "ok")
    assert int(o.journal.lines()[0]) % 60 < 30
    assert o.stop() == 0


def test_a_run_on_schedule_is_no_restart(overlord: Start) -> None:
    """Nor is one for a dependent, however often: only what comes after a failure or an end unasked for counts."""
    cmd = "echo tick >> journal; test ! -e bad"
    always = daemon("web", "test -e up || { touch up; exit 1; }; exec sleep 12345", deps="each:always")
    o = clockwork(overlord, script("tick", cmd, schedule="every 200ms") + script("each", "true") + always)
    o.journal.wait_for("tick", 4)
    o.wait_ok("web")
    assert [record(o, name)["restarts"] for name in ("tick", "each", "web")] == [0, 0, 1]
    (o.folder / "bad").touch()
    o.says("tick", " *restarted: 0 times")
    assert o.stop() == 0
