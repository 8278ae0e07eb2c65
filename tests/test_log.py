"""What overlord says, in text and in JSON, at each level; and where the units' output goes."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest

import overlord
from conftest import Start
from harness import daemon, script

FAILING = (
    script("setup")
    + daemon("web", "exit 3", deps="setup:always", respawns=1, backoff="0", stderr="null")
    + daemon("db")
)


def test_text(overlord: Start) -> None:
    """A line each, with overlord's name and the unit's in front."""
    o = overlord(FAILING)
    assert o.wait_exit() == 3
    assert all(re.match(r"overlord: \S", line) for line in o.log), o.log
    for name in ("setup", "web", "db"):
        o.says(name, r"started \(pid \d+\)")


def test_json(overlord: Start, python: list[str]) -> None:
    """The same messages as objects, with time, level and unit; a final failure tells more."""
    o = overlord(FAILING, settings={"log_format": "json"}, python=python)
    assert o.wait_exit() == 3
    records = [json.loads(line) for line in o.log]
    for record in records:
        final = record.get("unit") == "web" and record["message"].startswith("failed: ")
        more = {"command", "user", "restarted", "lived", "output"} if final else set()
        assert set(record) - {"unit"} == {"time", "level", "message"} | more
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", record["time"])
        assert record["level"] in ("debug", "info", "warning", "error")
    assert {record.get("unit") for record in records} == {"setup", "web", "db", None}
    assert any(re.match(r"started \(pid \d+\)", record["message"]) for record in records)
    assert records[-1]["message"].startswith("exiting with code 3: ")
    assert any(record["level"] == "error" and record.get("unit") == "web" for record in records)


def test_json_of_odd_text(overlord: Start) -> None:
    """Quotes, controls and bytes that are no UTF-8 in what is quoted from the configuration do not break a line."""
    o = overlord(daemon("web", dir='/no/"such"\\\tß\x7f', respawns=0), settings={"log_format": "json"})
    assert o.wait_exit() == 1
    messages = [json.loads(line)["message"] for line in o.log]
    assert any('/no/"such"\\' in message for message in messages), messages


@pytest.mark.parametrize("level", ("debug", "info", "warning", "error"))
def test_log_level(overlord: Start, level: str) -> None:
    """Each level is quieter than the one before it, and the last line is there at any."""
    o = overlord(FAILING, settings={"log_level": level})
    assert o.wait_exit() == 3
    assert o.log[-1].startswith("overlord: exiting with code 3: ")
    assert bool(o.count(r"started \(pid")) == (level in ("debug", "info"))
    assert o.count("web: failed") == o.count("web:   command: exit 3") == 1


# --- check ------------------------------------------------------------------------------------------------------------


def test_check_is_content(overlord: Start) -> None:
    """A configuration without a mistake, for all that the image has: code 0 and no complaint."""
    o = overlord(daemon("web", "sleep 1", uid="root", dir="/", deps="setup") + script("setup"), "check")
    assert o.wait_exit() == 0
    assert not [line for line in o.log if "warning" in line.lower()]


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"cmd": "nosuchcommand -x"}, "nosuchcommand"),
        ({"cmd": "/no/such/command"}, "/no/such/command"),
        ({"uid": "nosuchuser"}, "nosuchuser"),
        ({"gid": "nosuchgroup"}, "nosuchgroup"),
        ({"dir": "/no/such/folder"}, "/no/such/folder"),
    ],
    ids=str,
)
def test_check_warns(overlord: Start, options: dict[str, str], what: str) -> None:
    """What the image lacks is a warning and no mistake: it may be there when it is needed."""
    options = {"cmd": "sleep 1", **options}
    o = overlord(daemon("web", options.pop("cmd"), **options), "check")
    assert o.wait_exit() == 0
    assert any(what in line and "web" in line for line in o.log), o
    assert not o.journal.lines()


@pytest.mark.parametrize("words", (("check",), ()), ids=("check", "run"))
def test_config_that_others_can_write(overlord: Start, tmp_path: Path, words: tuple[str, ...]) -> None:
    """A file that anybody can write is named where overlord is root, and not refused."""
    if os.geteuid() != 0:
        pytest.skip("only root has something to lose")
    (tmp_path / "conf.d").mkdir()
    for name, mode in (("open.conf", 0o666), ("closed.conf", 0o644)):
        (tmp_path / "conf.d" / name).write_text("")
        (tmp_path / "conf.d" / name).chmod(mode)
    o = overlord(daemon("web", "true", restart="never"), *words)
    assert o.wait_exit() == 0
    warnings = [line for line in o.log if "writ" in line]
    assert len(warnings) == 1
    assert "open.conf" in warnings[0]
    assert "closed.conf" not in warnings[0]


# --- where output goes -----------------------------------------------------------------------------------------------

BOTH = "echo out; echo err >&2"


@pytest.mark.parametrize(
    ("options", "out", "err"),
    [
        ({}, ["out"], ["err"]),
        ({"stdout": "null"}, [], ["err"]),
        ({"stderr": "null"}, ["out"], []),
        ({"stdout": "null", "stderr": "stdout"}, [], []),
        ({"stderr": "stdout"}, ["out", "err"], []),
        ({"stdout": "inherit", "stderr": "inherit"}, ["out"], ["err"]),
        ({"stdout": "/dev/null"}, [], ["err"]),
        ({"stdout": "/dev/stderr"}, [], ["out", "err"]),
    ],
    ids=str,
)
@pytest.mark.parametrize("kind", ("daemon", "script"))
def test_streams(overlord: Start, kind: str, options: dict[str, str], out: list[str], err: list[str]) -> None:
    """`inherit`, `null`, and `stdout` for stderr."""
    config = daemon("web", BOTH, restart="never", **options)
    if kind == "script":
        config = script("job", BOTH, **options) + daemon("web", "true", restart="never", deps="job")
    o = overlord(config)
    assert o.wait_exit() == 0
    found = [line for line in o.log if not line.startswith("overlord: ")]
    if options.get("stdout") == "/dev/stderr":  # overlord passes on one of the two, and the unit writes the other itself
        found.sort(reverse=True)
    assert (o.out, found) == (out, err)


def test_output_is_the_default_of_both(overlord: Start) -> None:
    """`output` of [overlord] holds where a unit says nothing."""
    o = overlord(
        daemon("web", BOTH, restart="never") + daemon("api", "echo api", restart="never", stdout="inherit"),
        settings={"output": "null"},
    )
    assert o.wait_exit() == 0
    assert o.out == ["api"]


def test_file(overlord: Start, tmp_path: Path) -> None:
    """A path is appended to, with its folders made, and shared by several units and both streams."""
    path = tmp_path / "log/deep/web.log"
    path.parent.parent.mkdir()
    o = overlord(
        daemon(
            "web",
            f"{BOTH}; echo >> starts; test $(wc -l < starts) = 3 && exit 3; exit 0",
            backoff="0",
            restart="always",
            success="0",
            respawns=2,
            stdout=path,
            stderr="stdout",
        )
        + script("setup", "echo setup", stdout=path)
    )
    assert o.wait_exit() == 3
    assert path.read_text().splitlines() == 3 * ["out", "err"]
    assert o.out == []


def test_file_is_appended_to(overlord: Start, tmp_path: Path) -> None:
    """What was there stays."""
    path = tmp_path / "web.log"
    path.write_text("before\n")
    o = overlord(daemon("web", "echo now", restart="never", stdout=path))
    assert o.wait_exit() == 0
    assert path.read_text() == "before\nnow\n"


def test_special_file_that_cannot_be_opened(overlord: Start) -> None:
    """A failed start with the reason: for a log file, test_output.py has the daemon go on."""
    o = overlord(daemon("web", "true", respawns=0, stdout="/proc"))
    assert o.wait_exit() == 1
    o.says("web", ".*cannot start: stdout /proc: Is a directory")


def test_control_characters_are_spelt_out() -> None:
    """Those of C0 and C1, and bytes of C1 that are no UTF-8: on some terminals 0x9b is as good as ESC [."""
    assert overlord.clean("a\x1b\x7f\x85\udc9bz\né") == r"a\x1b\x7f\x85\x9bz é"
    assert overlord.clean("caf\udce9") == "caf\udce9"
