"""Words, Config, Graph, and the part of the CLI that reads a configuration or tells about it.

Every broken configuration is a file, tests/bad/NAME.conf, beside NAME.expected: the exact lines that `check` and `run`
print on stderr, when they are started in that folder. NAME.d/ is its configdir where it has one, and NAME.env holds the
variables, as KEY=value lines, that it finds besides PATH. Where only NAME.expected is there, NAME.conf is missing, which
is the mistake. A unit that must not be started would leave a file named `started`.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import signal
import subprocess
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Iterator, Mapping, Sequence

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

import overlord
from harness import OVERLORD, PATH, PATIENCE

BAD = Path(__file__).resolve().parent / "bad"
CASES = sorted(path.stem for path in BAD.glob("*.expected"))
WEB = "[daemon:web]\ncmd = nginx\n"
Capture = pytest.CaptureFixture[str]

# A test that runs each example in a folder or a process of its own has no use for a limit on one example.
relaxed = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
slow = settings(relaxed, max_examples=60)


# --- tools -----------------------------------------------------------------------------------------------------------


def read(*contents: str | bytes, environment: Mapping[str, str] | None = None) -> Any:
    """Return the configuration that the files 0.conf, 1.conf, ... make together. Raises overlord.Mistakes."""
    draft = overlord.Draft(environment or {})
    for number, content in enumerate(contents):
        draft.read_text(f"{number}.conf", content if isinstance(content, bytes) else content.encode())
    return draft.validate()


def mistakes(*contents: str | bytes, environment: Mapping[str, str] | None = None) -> list[str]:
    """Return the lines about what is wrong with a configuration; none where nothing is."""
    try:
        read(*contents, environment=environment)
    except overlord.Mistakes as found:
        return list(found.args[0])
    return []


def value_of(option: str, text: str, kind: str = "daemon", environment: Mapping[str, str] | None = None) -> Any:
    """Return what an option of a section becomes."""
    if kind == "overlord":
        return getattr(read(f"[overlord]\n{option} = {text}\n", environment=environment).settings, option)
    section = f"[{kind}:web]\n" + ("" if option == "cmd" else "cmd = nginx\n")
    return getattr(read(f"{section}{option} = {text}\n", environment=environment).units["web"], option)


@contextlib.contextmanager
def cpu_limit(seconds: float) -> Iterator[None]:
    """Fail when the block needs more than so much time of the processor, however busy the machine is."""

    def stop(number: int, frame: object) -> None:
        raise AssertionError(f"needs more than {seconds:g} s of processor time")

    former = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, former)


@pytest.fixture
def main(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[SimpleNamespace]:
    """`overlord.main` in this process, with `environment` (bytes), in `tmp_path`, where the default files would be too."""
    environment = {b"PATH": PATH.encode()}
    configdir = overlord.BY_KIND["overlord"]["configdir"]._replace(default=str(tmp_path / "default.d"))
    monkeypatch.setitem(overlord.BY_KIND["overlord"], "configdir", configdir)
    monkeypatch.setattr(overlord, "DEFAULT_CONFIG", str(tmp_path / "default.conf"))
    monkeypatch.setattr(overlord, "found_environment", lambda: environment)
    monkeypatch.setattr(overlord, "COMPILED", True)  # or `check` has a note on that
    monkeypatch.chdir(tmp_path)
    former, mask = signal.getsignal(signal.SIGINT), signal.pthread_sigmask(signal.SIG_BLOCK, ())
    yield SimpleNamespace(run=lambda *words: overlord.main(list(words)), environment=environment)
    signal.signal(signal.SIGINT, former)
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)


# --- bad configurations ----------------------------------------------------------------------------------------------


def environment_of(case: str) -> dict[str, str]:
    """Return the variables that a case finds."""
    file = BAD / f"{case}.env"
    lines = file.read_text().splitlines() if file.exists() else []
    return {"PATH": PATH, **dict(line.split("=", 1) for line in lines)}


@pytest.fixture(scope="module")
def bad(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of tests/bad to run in: what is started by mistake must not leave its traces in the original."""
    return Path(shutil.copytree(BAD, tmp_path_factory.mktemp("bad") / "bad", symlinks=True))


def test_bad_cases_are_complete() -> None:
    """Each file of the folder belongs to a case; there are many."""
    assert len(CASES) >= 60
    assert {path.name.split(".")[0] for path in BAD.iterdir()} == set(CASES)


@pytest.mark.parametrize("case", CASES)
def test_bad(case: str, bad: Path, main: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, capfd: Capture) -> None:
    """`check` prints exactly the expected lines, and exits with 78."""
    main.environment.update({os.fsencode(key): os.fsencode(value) for key, value in environment_of(case).items()})
    monkeypatch.chdir(bad)
    code = main.run("-c", f"{case}.conf", "check")
    out, err = capfd.readouterr()
    assert err == (BAD / f"{case}.expected").read_text()
    assert (code, out) == (78, "")
    number = len(err.splitlines()) - 1
    words = f"{number} mistake{'s' * (number > 1)} in the configuration, nothing started: exiting with code 78"
    assert err.splitlines()[-1] == f"overlord: {words}"


@pytest.mark.parametrize("verb", ["check", "run", "touch"])
@pytest.mark.parametrize("case", ["several", "file-missing", "file-latin-1", "later-several", "env-demanded", "cycle-three"])
def test_bad_in_the_real_program(case: str, verb: str, bad: Path, default_python: list[str]) -> None:
    """The real program says the same, starts nothing, and exits with 78; with a main command too."""
    words = [verb, "started"] if verb == "touch" else [verb]
    argv = [*default_python, str(OVERLORD), "-c", f"{case}.conf", *words]
    ended = subprocess.run(argv, cwd=bad, env=environment_of(case), capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert ended.stderr == (BAD / f"{case}.expected").read_text()
    assert (ended.returncode, ended.stdout) == (78, "")
    assert not (bad / "started").exists()


def test_no_other_variable_is_shown() -> None:
    """A mistake about one variable tells nothing of the others."""
    environment = {"TOKEN": "dolphin", "USER": "whale"}
    for text in ("${NAME}", "${TOKEN}${NAME}", "${NAME:?say who}", "${TOKEN:+x}${NAME}"):
        (line,) = mistakes(f"{WEB}dir = {text}\n", environment=environment)
        assert "${NAME}" in line and "dolphin" not in line and "whale" not in line
        (line,) = mistakes(f'{WEB}env = A="{text}"\n', environment=environment)
        assert "${NAME}" in line and "dolphin" not in line and "whale" not in line


# Values out of range, or malformed in a way that int() or float() would let pass.
@pytest.mark.parametrize(
    ("option", "text"),
    [
        ("stop_timeout", "9" * 400),
        ("stop_timeout", "9" * 400 + "d"),
        ("stop_timeout", "1e3"),
        ("stop_timeout", "inf"),
        ("stop_timeout", "nan"),
        ("stop_timeout", "1_0"),
        ("stop_timeout", "٣"),
        ("stop_timeout", "1.s"),
        ("stop_timeout", "1h30m"),
        ("warmup", "9" * 5000),
        ("backoff", "1s..2s..3s"),
        ("backoff", "1s.." + "9" * 400),
        ("max_age", "9" * 400),
        ("max_age", "1h~10m~5m"),
        ("max_age", "1h~1h"),
        ("respawns", "9" * 5000),
        ("respawns", "٣"),
        ("log_max", "9" * 5000),
        ("log_max", "٣"),
        ("log_max", "1.5M"),
        ("log_max", "10MiB"),
        ("log_max", "-1"),
        ("log_max", "K"),
        ("log_keep", "-1"),
        ("log_keep", "1001"),
        ("log_keep", "10M"),
        ("respawns", "5/60s/2"),
        ("respawns", "5.5"),
        ("success", "9" * 5000),
        ("success", "٣٠٠"),
        ("success", "²"),
        ("success", "-1"),
        ("success", "0..3"),
        ("nice", "9" * 5000),
        ("nice", "1_0"),
        ("nice", "٣"),
        ("nice", "- 5"),
        ("umask", "0_22"),
        ("umask", "0x12"),
        ("umask", "u=rwx"),
        ("umask", "-22"),
        ("stop_signal", "SIG"),
        ("stop_signal", "SIGSIGTERM"),
        ("stop_signal", "32"),
        ("stop_signal", "²"),
        ("stop_signal", "RTMAX-31"),
        ("stop_signal", "RTMIN+"),
        ("stop_signal", "TERM HUP"),
        ("forward", "HUP>USR1>USR2"),
        ("forward", ">HUP"),
        ("forward", "HUP>none"),
        ("forward", ""),
        ("autostart", "y"),
    ],
    ids=lambda text: text[:12],
)
def test_refused(option: str, text: str) -> None:
    """What is no value of an option is one mistake, on its line."""
    (line,) = mistakes(f"{WEB}{option} = {text}\n")
    assert line.startswith(f"0.conf:3: [daemon:web] {option}: ")


# --- values ----------------------------------------------------------------------------------------------------------

RTMIN = int(signal.SIGRTMIN)

TCP = ("tcp", "db", 5432, "", "tcp:db:5432")
PROBES = [
    ("tcp:80", ("tcp", "localhost", 80, "", "tcp:80")),
    ("tcp:db:5432", TCP),
    ("tcp:10.0.0.1:65535", ("tcp", "10.0.0.1", 65535, "", "tcp:10.0.0.1:65535")),
    ("tcp:[::1]:80", ("tcp", "::1", 80, "", "tcp:[::1]:80")),
    ("unix:/run/a b.sock", ("unix", "", 0, "/run/a b.sock", "unix:/run/a b.sock")),
    ("http://web", ("http", "web", 80, "/", "http://web")),
    ("http://web:8080/up?x=1:2", ("http", "web", 8080, "/up?x=1:2", "http://web:8080/up?x=1:2")),
    ("http://[fe80::1]:80/a/b", ("http", "fe80::1", 80, "/a/b", "http://[fe80::1]:80/a/b")),
    ("file:/run/ready", ("file", "", 0, "/run/ready", "file:/run/ready")),
    ("cmd:test \"$X\" = ${Y:-$$}", ("cmd", "", 0, 'test "$X" = ${Y:-$$}', 'cmd:test "$X" = ${Y:-$$}')),
]
PROBES = [(text, probe) for text, probe in PROBES if " " not in text or text[:4] == "cmd:"] + [("none", None)]

VALUES = [
    # durations
    ("stop_timeout", "0", 0.0),
    ("stop_timeout", "5", 5.0),
    ("stop_timeout", "1.5", 1.5),
    ("stop_timeout", ".5s", 0.5),
    ("stop_timeout", "500ms", 0.5),
    ("stop_timeout", "2s", 2.0),
    ("stop_timeout", "2 s", 2.0),
    ("stop_timeout", "5m", 300.0),
    ("stop_timeout", "1h", 3600.0),
    ("stop_timeout", "7d", 604800.0),
    ("warmup", "0", 0.0),
    ("warmup", "250ms", 0.25),
    # signals
    ("stop_signal", "TERM", 15),
    ("stop_signal", "SIGTERM", 15),
    ("stop_signal", "sigterm", 15),
    ("stop_signal", "quit", 3),
    ("stop_signal", "9", 9),
    ("stop_signal", "WINCH", int(signal.SIGWINCH)),
    ("stop_signal", "RTMIN", RTMIN),
    ("stop_signal", "RTMIN+3", RTMIN + 3),
    ("stop_signal", "SIGRTMIN+3", RTMIN + 3),
    ("stop_signal", "RTMAX-1", int(signal.SIGRTMAX) - 1),
    ("stop_signal", "64", 64),
    ("forward", "HUP", ((1, 1),)),
    ("forward", "HUP>USR2", ((1, 12),)),
    ("forward", "SIGHUP>SIGUSR2, USR1", ((1, 12), (10, 10))),
    ("forward", "WINCH RTMIN+5", ((28, 28), (RTMIN + 5, RTMIN + 5))),
    ("forward", "none", ()),
    # restarts
    ("respawns", "0", (0, 0.0)),
    ("respawns", "5", (5, 0.0)),
    ("respawns", "5/60s", (5, 60.0)),
    ("respawns", "5 / 1m", (5, 60.0)),
    ("restart", "always", "always"),
    ("restart", "on-failure", "on-failure"),
    ("restart", "never", "never"),
    ("kill_mode", "mixed", "mixed"),
    ("kill_mode", "all", "all"),
    ("kill_mode", "process", "process"),
    ("pidfile", "/run/web.pid", "/run/web.pid"),
    ("success", "0", (0,)),
    ("success", "0 2 255", (0, 2, 255)),
    ("success", "0, TERM, SIGRTMIN+3", (0, -15, -RTMIN - 3)),
    ("backoff", "100ms..30s", (0.1, 30.0)),
    ("backoff", "1s .. 1m", (1.0, 60.0)),
    ("backoff", "0", (0.0, 0.0)),
    ("backoff", "2s", (2.0, 2.0)),
    ("max_age", "1h", (3600.0, 0.0)),
    ("max_age", "1h~10m", (3600.0, 600.0)),
    ("max_age", "90 ~ 30", (90.0, 30.0)),
    ("max_age", "none", None),
    # the process
    ("umask", "022", 0o022),
    ("umask", "0", 0),
    ("umask", "77", 0o077),
    ("umask", "0777", 0o777),
    ("nice", "-20", -20),
    ("nice", "0", 0),
    ("nice", "19", 19),
    ("dir", "/srv/a b", "/srv/a b"),
    ("uid", "www-data", "www-data"),
    ("uid", "1000", "1000"),
    ("gid", "0", "0"),
    ("stdout", "inherit", "inherit"),
    ("stdout", "null", "null"),
    ("stdout", "prefix", "prefix"),
    ("stdout", "/dev/stdout", "/dev/stdout"),
    ("stderr", "stdout", "stdout"),
    ("stderr", "/var/log/web error.log", "/var/log/web error.log"),
    ("stderr", "prefix", "prefix"),
    ("log_max", "0", 0),
    ("log_max", "4096", 4096),
    ("log_max", "64K", 65536),
    ("log_max", "10m", 10 << 20),
    ("log_max", "2 G", 2 << 30),
    ("log_max", "64KB", 65536),
    ("respawns", "3/ok", (3, overlord.IN_A_ROW)),
    ("success", "none", ()),
    ("log_keep", "0", 0),
    ("log_keep", "5", 5),
    ("log_keep", "1000", 1000),
    ("on_failure", "ignore", "ignore"),
    ("on_success", "shutdown", "shutdown"),
    *[(option, "none", ()) for option in ("deps", "env", "env_file", "secrets", "limits", "wait_for", "listen")],
    *[(option, "none", None) for option in ("dir", "umask", "nice", "stop_cmd")],
    # readiness and health
    *[(option, text, probe) for option in ("ready", "health") for text, probe in PROBES],
    ("ready", "notify", ("notify", "", 0, "", "notify")),
    ("ready", "fd:3", ("fd", "", 3, "", "fd:3")),
    ("ready_timeout", "90s", 90.0),
    ("health_interval", "500ms", 0.5),
    ("health_timeout", "1m", 60.0),
    ("health_retries", "1", 1),
    ("health_retries", "1000", 1000),
    ("wait_for", "", ()),
    ("listen", "tcp:80", (("tcp", "", 80, "", "tcp:80"),)),
    ("listen", "tcp:localhost:80", (("tcp", "localhost", 80, "", "tcp:localhost:80"),)),
    ("listen", "\n  tcp:[::1]:80\n\n  unix:/x\n", (("tcp", "::1", 80, "", "tcp:[::1]:80"), ("unix", "", 0, "/x", "unix:/x"))),
    ("watchdog", "30s", 30.0),
    ("watchdog", "none", None),
    *[("wait_for", text, (probe,)) for text, probe in PROBES if text != "none"],
    ("wait_for", "tcp:db:5432 file:/x", (TCP, ("file", "", 0, "/x", "file:/x"))),
    ("wait_for", "tcp:db:5432, unix:/x", (TCP, ("unix", "", 0, "/x", "unix:/x"))),
    ("wait_for", "\n  cmd:test -e /x, y\n\n  tcp:db:5432\n", (("cmd", "", 0, "test -e /x, y", "cmd:test -e /x, y"), TCP)),
    ("stop_cmd", "kill -TERM ${MAINPID} $$", "kill -TERM ${MAINPID} $$"),
    # what the environment and the limits are made of
    ("env_file", "/etc/app.env", ("/etc/app.env",)),
    ("env_file", "/etc/a -/run/b, c\n  -d", ("/etc/a", "-/run/b", "c", "-d")),
    ("secrets", "TOKEN", ("TOKEN",)),
    ("secrets", "TOKEN, db_password _X9", ("TOKEN", "db_password", "_X9")),
    ("limits", "nofile=65536 core=0", (("nofile", 65536, 65536), ("core", 0, 0))),
    ("limits", "nofile=1K:64K", (("nofile", 1024, 65536),)),
    ("limits", "nofile=10:unlimited, core=unlimited", (("nofile", 10, -1), ("core", -1, -1))),
    # env
    ("env", "A=1", (("A", "1"),)),
    ("env", "A=", (("A", ""),)),
    ("env", "A=b=c", (("A", "b=c"),)),
    ("env", "discovery.type=single-node", (("discovery.type", "single-node"),)),
    ("env", "A='x  y'", (("A", "x  y"),)),
    ("env", 'A="x  y"', (("A", "x  y"),)),
    ("env", 'A=x" y "z', (("A", "x y z"),)),
    ("env", 'A="it\'s"', (("A", "it's"),)),
    ("env", "A='it'\\''s'", (("A", "it's"),)),
    ("env", "A=x\\ y", (("A", "x y"),)),
    ("env", 'A="\\"\\\\\\a"', (("A", '"\\\\a'),)),
    ("env", "A='\\n'", (("A", "\\n"),)),
    ("env", "A=#1;2", (("A", "#1;2"),)),
    ("env", "A=100%s", (("A", "100%s"),)),
    ("env", "A=$5", (("A", "$5"),)),
    ("env", "A='${HOME}'", (("A", "${HOME}"),)),
    ("env", "A=\\${HOME}", (("A", "${HOME}"),)),
    ("env", 'A="\\${HOME}"', (("A", "${HOME}"),)),
    ("env", "A=$${HOME}", (("A", "${HOME}"),)),
    ("env", 'A="$$"', (("A", "$"),)),
    ("env", "A=1\n  B=2\n\n  A=3", (("A", "3"), ("B", "2"))),
    ("env", "\n  A='x\n    y\n\n  z'\n  B=2", (("A", "x\n  y\n\nz"), ("B", "2"))),
    ("env", '\n  A="x # y\n  \\"z"\\ $$\n  B=${A}', (("A", 'x # y\n"z $'), ("B", 'x # y\n"z $'))),
    ("env", '\n  A="x\\\n  y\\\\\n  z"\n  B=\'x\\\n  y\'', (("A", "xy\\\nz"), ("B", "x\\\ny"))),
    ("env", "\n  # it's a comment\n  A='\n  # is none\n  '\n  # don't", (("A", "\n# is none\n"),)),
]
VALUES_OF_SCRIPTS = [
    ("timeout", "5m", 300.0),
    ("timeout", "none", None),
    ("schedule", "none", None),
    ("schedule", "every 10m", overlord.Schedule(*[None] * 7, 600.0)),
    ("schedule", "every 1.5 h", overlord.Schedule(*[None] * 7, 5400.0)),
    ("respawns", "3/10s", (3, 10.0)),
    ("respawns", "0", (0, 0.0)),
    ("success", "0 3", (0, 3)),
    ("stop_signal", "INT", 2),
]
VALUES_OF_OVERLORD = [
    *[("forever", word, True) for word in ("1", "yes", "true", "on", "Yes", "TRUE")],
    *[("forever", word, False) for word in ("0", "no", "false", "off", "No", "OFF")],
    ("shutdown_timeout", "25s", 25.0),
    ("shutdown_signals", "TERM", (15,)),
    ("shutdown_signals", "TERM, WINCH SIGRTMIN+3", (15, 28, RTMIN + 3)),
    ("shutdown_signals", "USR1", (10,)),
    ("socket", "none", None),
    ("socket", "/tmp/overlord.sock", "/tmp/overlord.sock"),
    ("socket", "abstract", "abstract"),
    *[("log_level", word, word) for word in ("debug", "info", "warning", "error")],
    ("log_format", "json", "json"),
    ("when_idle", "exit", "exit"),
    ("when_idle", "stay", "stay"),
    ("output", "null", "null"),
    ("output", "prefix", "prefix"),
    ("output", "/var/log/all.log", "/var/log/all.log"),
]


@pytest.mark.parametrize(("option", "text", "value"), VALUES)
def test_value_of_daemons(option: str, text: str, value: object) -> None:
    """Each way to write a value."""
    assert value_of(option, text) == value


@pytest.mark.parametrize(("option", "text", "value"), VALUES_OF_SCRIPTS)
def test_value_of_scripts(option: str, text: str, value: object) -> None:
    """Scripts share most options with daemons."""
    assert value_of(option, text, "script") == value


@pytest.mark.parametrize(("option", "text", "value"), VALUES_OF_OVERLORD)
def test_value_of_overlord(option: str, text: str, value: object) -> None:
    """The program's own options."""
    assert value_of(option, text, "overlord") == value


@pytest.mark.parametrize("text", ["none", "${X:-none}", "${NONE}"])
@pytest.mark.parametrize("option", ["deps", "env_file", "secrets", "limits", "wait_for", "ready", "health", "max_age", "dir"])
def test_none_may_come_from_the_environment(option: str, text: str) -> None:
    """What takes a default back is a value as any other."""
    assert not value_of(option, text, environment={"NONE": "none"})


def test_socket_none_may_come_from_the_environment() -> None:
    """The same for the control socket."""
    assert value_of("socket", "${X:-none}", "overlord") is None


@pytest.mark.parametrize("option", ["ready", "health"])
def test_command_of_several_lines_is_for_the_shell(option: str) -> None:
    """A probe may be a short script."""
    text = "cmd:if test -n \"$TOKEN\"; then\n    echo $$ ${TOKEN:-x}\n  fi"
    assert value_of(option, text).path == 'if test -n "$TOKEN"; then\n  echo $$ ${TOKEN:-x}\nfi'


@pytest.mark.parametrize(
    ("lines", "warned"),
    [
        ("cmd = node server.js\n  uid = www-data", True),
        ("cmd = x\nready = http://127.0.0.1/\n  ready_timeout = 5s", True),
        ("cmd =\n  count=1\n  dir=/srv; ls $dir", False),
        ("cmd =\n  cat > /etc/x.conf <<E\n  uid = www-data\n  E", False),
        ("cmd = x\nenv =\n  uid = a", False),
    ],
)
def test_an_option_that_is_part_of_a_value(lines: str, warned: bool) -> None:
    """An indented option continues the value of the one before it: `check` says so where that is surely not meant."""
    draft = overlord.Draft({})
    draft.read_text("overlord.conf", f"[daemon:web]\n{lines}\n".encode())
    assert any("left margin" in line for line in overlord.warn_of_doubts(draft)) == warned


def test_commands_among_probes_are_for_the_shell() -> None:
    """In `wait_for`, each line for itself is expanded or left to the shell."""
    text = "\n  tcp:${HOST}:1\n  cmd:test $$ -gt ${PID:-1}\n  tcp:${HOST}:2"
    found = value_of("wait_for", text, environment={"HOST": "db"})
    assert [probe.host or probe.path for probe in found] == ["db", "test $$ -gt ${PID:-1}", "db"]
    assert [probe.text for probe in found] == ["tcp:${HOST}:1", "cmd:test $$ -gt ${PID:-1}", "tcp:${HOST}:2"]


def test_probes_are_shown_as_they_are_written() -> None:
    """A variable may hold a secret, or several probes."""
    found = value_of("wait_for", "${ALL} unix:/x", environment={"ALL": "tcp:1 tcp:2"})
    assert [probe.port for probe in found] == [1, 2, 0]
    assert {probe.text for probe in found} == {"${ALL} unix:/x"}


def test_every_option_has_a_table() -> None:
    """An option that comes to overlord.py comes to these tables."""
    known = {"overlord": VALUES_OF_OVERLORD, "daemon": VALUES, "script": VALUES_OF_SCRIPTS + VALUES}
    elsewhere = {"cmd", "configdir", "autostart", "count"}
    for kind, table in known.items():
        assert set(overlord.BY_KIND[kind]) - elsewhere <= {row[0] for row in table}


def test_defaults() -> None:
    """What the specification says of options that are not given."""
    config = read("[daemon:web]\ncmd = nginx\n[script:setup]\ncmd = setup\n")
    web, setup, own = config.units["web"], config.units["setup"], config.settings
    assert (own.forever, own.configdir, own.shutdown_timeout) == (True, "/etc/overlord/", 9.0)
    assert own.shutdown_signals == (15, 2, 3, RTMIN + 3)
    assert (own.socket, own.log_level, own.log_format, own.output) == ("abstract", "info", "text", "inherit")
    for unit in (web, setup):
        assert (unit.dir, unit.uid, unit.gid, unit.umask, unit.nice) == (None,) * 5
        assert (unit.deps, unit.env, unit.stdout, unit.stderr) == ((), (), "inherit", "inherit")
        assert (unit.stop_signal, unit.stop_timeout, unit.success, unit.backoff) == (15, 8.0, (0,), (0.1, 30.0))
        assert (unit.log_max, unit.log_keep) == (10 << 20, 5)
        assert unit.on_success == "ignore" and unit.on_failure in (None, "shutdown")
    assert (web.respawns, web.restart, web.warmup, web.max_age) == (None, "always", 1.0, None)
    assert (web.forward, web.autostart) == (((1, 1),), True)
    assert (web.ready, web.ready_timeout, web.health) == (None, 60.0, None)
    assert (web.health_interval, web.health_timeout, web.health_retries) == (10.0, 3.0, 3)
    assert (web.count, web.instance, web.stop_cmd, setup.schedule) == (None, 0, None, None)
    for unit in (web, setup):
        assert (unit.wait_for, unit.env_file, unit.secrets, unit.limits) == ((),) * 4
    assert (setup.respawns, setup.timeout) == ((0, 0.0), None)
    assert (web.name, web.kind, setup.name, setup.kind) == ("web", "daemon", "setup", "script")


# --- readiness, schedules, instances ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("options", "warmup"), [
    ("", 1.0), ("ready = tcp:80", 0.0), ("ready = none", 1.0), ("ready = tcp:80\nwarmup = 5s", 5.0), ("warmup = 0", 0.0),
])  # fmt: skip
@pytest.mark.parametrize("of_all", [False, True])
def test_warmup_where_ready_is_given(options: str, warmup: float, of_all: bool) -> None:
    """The default is 1 s, and 0 where `ready` says it better, be that in the section of all daemons."""
    text = f"[daemon]\n{options}\n{WEB}" if of_all else f"{WEB}{options}\n"
    assert read(text).units["web"].warmup == warmup


@pytest.mark.parametrize("stdio", ["stdout = prefix", "stderr = prefix", "stdout = /log", "stderr = /log\nstdout = null"])
def test_ready_by_a_line(stdio: str) -> None:
    """A pattern needs captured output, of either kind, and `output` will do."""
    for text in (f"{WEB}{stdio}\nready = log:^up: \\d+$\n", f"[overlord]\noutput = prefix\n{WEB}ready = log:^up: \\d+$\n"):
        assert read(text).units["web"].ready[:4] == ("log", "", 0, "^up: \\d+$")


@pytest.mark.parametrize(("text", "fields"), [
    ("* * * * *", (range(60), range(24), range(1, 32), range(1, 13), range(7), False, True)),
    ("*/5 0-6/2 * * *", (range(0, 60, 5), range(0, 7, 2), range(1, 32), range(1, 13), range(7), False, False)),
    ("5/20 */12 1,15 jan,JUL-aug mon-FRI", ((5, 25, 45), (0, 12), (1, 15), (1, 7, 8), range(1, 6), True, True)),
    ("0 0 * * 7", ((0,), (0,), range(1, 32), range(1, 13), (0,), False, False)),
    ("0 0 * * 5-7", ((0,), (0,), range(1, 32), range(1, 13), (0, 5, 6), False, False)),
    ("0 0 29 2 *", ((0,), (0,), (29,), (2,), range(7), False, False)),
    ("0 0 30 2 mon", ((0,), (0,), (30,), (2,), (1,), True, False)),
    ("@hourly", ((0,), range(24), range(1, 32), range(1, 13), range(7), False, True)),
    ("@Daily", ((0,), (0,), range(1, 32), range(1, 13), range(7), False, False)),
    ("@midnight", ((0,), (0,), range(1, 32), range(1, 13), range(7), False, False)),
    ("@weekly", ((0,), (0,), range(1, 32), range(1, 13), (0,), False, False)),
    ("@monthly", ((0,), (0,), (1,), range(1, 13), range(7), False, False)),
    ("@yearly", ((0,), (0,), (1,), (1,), range(7), False, False)),
    ("@annually", ((0,), (0,), (1,), (1,), range(7), False, False)),
])  # fmt: skip
def test_schedule(text: str, fields: tuple[Any, ...]) -> None:
    """Each way to write the five fields of crontab(5), and their nicknames."""
    found = value_of("schedule", text, "script")
    assert tuple(found[:5]) == tuple(frozenset(field) for field in fields[:5])
    assert (found.either, found.hourly, found.every) == (*fields[5:], None)


def test_instances() -> None:
    """Each has its number and its place in the order; a dependency on their name means all of them, as it was stated."""
    text = "[daemon:db]\ncmd = x\ncount = 2\n[script:setup]\ncmd = x\ndeps = db\n"
    text += "[daemon:none]\ncmd = x\ncount = 0\n"
    config = read(f"{text}{WEB}count = ${{N:-2}}\ndeps = none, db:bounce, setup:always\n", environment={"N": "3"})
    assert config.order == ["db-1", "db-2", "setup", "web-1", "web-2", "web-3"]
    assert set(config.order) == set(config.units)
    assert config.units["setup"].deps == (("db-1", "ok"), ("db-2", "ok"))
    for number in (1, 2, 3):
        unit = config.units[f"web-{number}"]
        assert (unit.name, unit.instance) == (f"web-{number}", number)
        assert unit.deps == (("db-1", "bounce"), ("db-2", "bounce"), ("setup", "always"))
    assert config.units["setup"].instance == 0


def test_no_instances_are_no_unit() -> None:
    """0 switches a daemon off; what it depends on is looked at all the same."""
    config = read(f"{WEB}count = 0\n[daemon:top]\ncmd = x\ndeps = web\n")
    assert config.order == ["top"] and config.units["top"].deps == ()
    (line,) = mistakes(f"{WEB}count = 0\ndeps = gone\n")
    assert line.startswith("0.conf:4: [daemon:web] deps: there is no unit 'gone'")


def test_one_instance_has_its_number() -> None:
    """`count = 1` makes `NAME-1`, so that 2 adds one; without a count there is no number, and a name may look like one."""
    config = read(f"{WEB}count = 1\n[daemon:top]\ncmd = x\ndeps = web\n")
    assert config.order == ["web-1", "top"]
    assert (config.units["web-1"].instance, config.units["top"].deps) == (1, (("web-1", "ok"),))
    assert read(WEB).units["web"].instance == 0
    assert read(f"{WEB}[daemon:web-1]\ncmd = x\ncount = 2\n").order == ["web", "web-1-1", "web-1-2"]


def test_own_variables() -> None:
    """A unit's values know its name, and an instance's its number, those of [daemon] and [script] too."""
    text = "[daemon]\nstdout = /log/${OVERLORD_NAME}\n[script]\nenv = ME=${OVERLORD_NAME}\n"
    text += "[script:setup]\ncmd = x\n[daemon:db]\ncmd = x\n"
    text += f"{WEB}count = 2\nready = tcp:800${{OVERLORD_INSTANCE}}\nenv =\n  A=${{OVERLORD_NAME}}\n  B=${{A}}!\n"
    units = read(text, environment={"OVERLORD_NAME": "outer", "OVERLORD_INSTANCE": "7"}).units
    assert [units[name].stdout for name in ("db", "web-1", "web-2")] == ["/log/db", "/log/web-1", "/log/web-2"]
    assert [units[name].ready.port for name in ("web-1", "web-2")] == [8001, 8002]
    assert units["web-2"].env == (("A", "web-2"), ("B", "web-2!"))
    assert units["setup"].env == (("ME", "setup"),)


def test_own_variables_where_there_are_none() -> None:
    """Without a count there is no number; nothing in [overlord] is a unit's."""
    (line,) = mistakes(f"{WEB}stdout = /log/${{OVERLORD_INSTANCE}}\n")
    assert line.startswith("0.conf:3: [daemon:web] stdout: ${OVERLORD_INSTANCE}: is not set")
    (line,) = mistakes(f"[daemon]\nstdout = /log/${{OVERLORD_INSTANCE}}\n{WEB}")
    assert line.startswith("0.conf:2: [daemon] stdout: ${OVERLORD_INSTANCE}: is not set")
    assert not mistakes(f"[daemon]\nstdout = /log/${{OVERLORD_INSTANCE}}\n{WEB}count = 1\n")
    assert mistakes(f"[daemon]\ncount = 2\nstdout = /log/${{OVERLORD_INSTANCE}}\n{WEB}count = ${{N:-none}}\n")
    text = f"[daemon]\ncount = 2\nstdout = /log/${{OVERLORD_NAME}}\n{WEB}count = none\n"
    assert read(text).units["web"].stdout == "/log/web"
    (line,) = mistakes(f"[overlord]\noutput = /log/${{OVERLORD_NAME}}\n{WEB}")
    assert "${OVERLORD_NAME}: is not set" in line
    assert len(mistakes(f"{WEB}count = 3\nready = tcp:9999${{OVERLORD_INSTANCE}}\n")) == 3


def test_own_variables_in_dependencies() -> None:
    """Each instance may need another unit; cycles are found all the same."""
    rest = "".join(f"[daemon:db{number}]\ncmd = x\n" for number in (1, 2))
    units = read(f"{WEB}count = 2\ndeps = db${{OVERLORD_INSTANCE}}\n{rest}").units
    assert [units[name].deps for name in ("web-1", "web-2")] == [(("db1", "ok"),), (("db2", "ok"),)]
    (line,) = mistakes(f"{WEB}count = 3\ndeps = db${{OVERLORD_INSTANCE}}\n{rest}")
    assert "there is no unit 'db3'" in line
    (line,) = mistakes(f"{WEB}count = 2\ndeps = db${{OVERLORD_INSTANCE}}\n{rest}deps = web\n")
    assert "deps: a cycle: web -> db2 -> web;" in line


@pytest.mark.parametrize("option", ["env_file = /e", "secrets = TOKEN"])
def test_env_waits_for_what_it_may_see(option: str) -> None:
    """With an env_file or secrets, what `env` says is known at the start only; its form is checked now."""
    env = read(f"{WEB}env = A=${{TOKEN}}\n  B='x'\n{option}\n", environment={"TOKEN": "early"}).units["web"].env
    assert overlord.fill_env(env, {"TOKEN": "late"}) == (("A", "late"), ("B", "x"))
    with pytest.raises(overlord.Mistake, match="TOKEN"):
        overlord.fill_env(env, {})
    assert read(f"{WEB}{option}\n").units["web"].env == ()
    (line,) = mistakes(f"{WEB}env = A='x\n{option}\n")
    assert line.startswith("0.conf:3: [daemon:web] env: the value of A has a blank or a lone quote")


# Forms that a look at the number or the prefix alone would let pass.
@pytest.mark.parametrize(("option", "text"), [
    *[(option, text) for option in ("ready", "health", "wait_for") for text in (
        "tcp:", "tcp:0", "tcp:65536", "tcp:db", "tcp:db:", "tcp:db:x", "tcp::80", "tcp:db:80/x", "tcp:\u0663", "tcp:[::1]",
        "unix:", "unix:run", "file:", "file:x", "http:", "http://", "http:///up", "http://:80/", "http://web:x/",
        "http://web:0/", "http://web:70000/", "https://web/", "cmd:", "cmd", "TCP:80", "80", "/x", "yes")],
    *[("ready", text) for text in ("notify:", "notify:x", "fd", "fd:", "fd:0", "fd:2", "fd:x", "fd:1000", "log:",
        "log:(", "log:[")],
    *[("health", text) for text in ("notify", "fd:3", "log:x")],
    *[("listen", text) for text in ("80", "tcp", "tcp:0", "tcp:65536", "unix:x", "http://a", "file:/x", "tcp:80 tcp:80", "fd:3")],
    *[("watchdog", text) for text in ("0", "x")],
    *[("wait_for", text) for text in ("notify", "fd:3", "log:x", "tcp:80 yes")],
    ("ready_timeout", "0"), ("health_interval", "0"), ("health_timeout", "0"), ("ready_timeout", "none"),
    ("health_retries", "0"), ("health_retries", "1001"), ("health_retries", "1.5"),
    ("count", "-1"), ("count", "1001"), ("count", "\u0663"), ("count", "two"), ("count", ""),
    ("secrets", "A-B"), ("secrets", "9A"), ("secrets", "/run/secrets/a"), ("secrets", "A=1"), ("env_file", "-"),
    ("limits", ""), ("limits", "nofile"), ("limits", "nofile="), ("limits", "nofiles=1"), ("limits", "nofile=x"),
    ("limits", "nofile=-1"), ("limits", "nofile=2:1"), ("limits", "nofile=unlimited:5"), ("limits", "NOFILE=1"),
    ("limits", "nofile = 5"), ("stop_cmd", ""),
])  # fmt: skip
def test_refused_newer(option: str, text: str) -> None:
    """What is no value of an option is one mistake, on its line."""
    (line,) = mistakes(f"{WEB}stdout = prefix\n{option} = {text}\n")
    assert line.startswith(f"0.conf:4: [daemon:web] {option}: ")


@pytest.mark.parametrize("text", [
    "", "*", "* * * *", "* * * * * *", "60 * * * *", "* 24 * * *", "* * 0 * *", "* * 32 * *", "* * * 0 *", "* * * 13 *",
    "* * * * 8", "*/0 * * * *", "*/00 * * * *", "*/x * * * *", "5-1 * * * *", "1,, * * * *", "1- * * * *", "-1 * * * *",
    "* * * * fri-mon", "mon * * * *", "* * * janu *", "\u0663 * * * *", "0 0 30 2 *", "0 0 31 4,6,9,11 *", "@", "@reboot",
    "@dayly", "every", "every 0", "every x", "every 10m 5", "10m", "hourly",
])  # fmt: skip
def test_schedule_refused(text: str) -> None:
    """What is no schedule, or names a day that no year has, is one mistake, in words for a person."""
    (line,) = mistakes(f"[script:setup]\ncmd = x\nschedule = {text}\n")
    assert line.startswith("0.conf:3: [script:setup] schedule: ")
    assert "arg" not in line


@pytest.mark.parametrize(
    ("text", "autostart"), [("true", True), ("no", False), ("${WITH_CRON:-no}", False), ("${CRON:-no}", True)]
)
def test_a_service_switched_by_a_variable(text: str, autostart: bool) -> None:
    """The example of the specification."""
    assert value_of("autostart", text, environment={"CRON": "yes"}) is autostart


@pytest.mark.parametrize(
    ("options", "respawns"),
    [
        ("", (0, 0.0)),
        ("respawns = 3\n", (3, 0.0)),
        ("restart = always\n", None),
        ("restart = on-failure\n", None),
        ("restart = always\nrespawns = 3\n", (3, 0.0)),
    ],
)
@pytest.mark.parametrize("of_all", [False, True])
def test_not_forever(options: str, respawns: object, of_all: bool) -> None:
    """`forever = false` is for daemons that say neither `respawns` nor `restart`, nor their kind's section."""
    text = f"[daemon]\n{options}{WEB}" if of_all else WEB + options
    assert read(f"[overlord]\nforever = false\n{text}").units["web"].respawns == respawns


def test_output_is_the_default_of_units() -> None:
    """`output` is for all units that say nothing else."""
    units = read(f"[overlord]\noutput = /log\n{WEB}stderr = stdout\n[script:setup]\ncmd = x\n").units
    assert (units["web"].stdout, units["web"].stderr) == ("/log", "stdout")
    assert (units["setup"].stdout, units["setup"].stderr) == ("/log", "/log")


def test_deps() -> None:
    """Dependencies keep their order, take several lines, and a bare name is `name:ok`."""
    text = f"{WEB}deps = setup:always, db ,\n    cache : bounce\n" + "".join(
        f"[{kind}:{name}]\ncmd = x\n" for kind, name in [("script", "setup"), ("daemon", "db"), ("daemon", "cache")]
    )
    config = read(text)
    assert config.units["web"].deps == (("setup", "always"), ("db", "ok"), ("cache", "bounce"))
    assert config.order == ["setup", "db", "cache", "web"]


# --- variables -------------------------------------------------------------------------------------------------------

VARIABLES = {"A": "1", "EMPTY": "", "LOOP": "${A} $$", "discovery.type": "one", "QUOTED": "a 'b' \"c\" \\"}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("${A}", "1"),
        ("x${A}y${A}z", "x1y1z"),
        ("x${EMPTY}", "x"),
        ("${A:-2}", "1"),
        ("${EMPTY:-2}", "2"),
        ("${B:-2}", "2"),
        ("x${B:-}", "x"),
        ("${B:-a b:c?d}", "a b:c?d"),
        ("${B:-${A}}", "1"),
        ("${B:-${C:-3}}", "3"),
        ("${B:-${C:-${D:-4}}}", "4"),
        ("${B:-${C:-${D:-${A}}}}x", "1x"),
        ("${A:-${C}}", "1"),
        ("${A:?is needed}", "1"),
        ("${discovery.type}", "one"),
        ("${LOOP}", "${A} $$"),
        ("${B:-$${A}}", "${A}"),
        ("$$", "$"),
        ("$$$$", "$$"),
        ("$${A}", "${A}"),
        ("$$${A}", "$1"),
        ("$A", "$A"),
        ("$", "$"),
        ("$5 $x $(y) $", "$5 $x $(y) $"),
        ("100%", "100%"),
        ("%(A)s %% %s", "%(A)s %% %s"),
        ("a;b #c", "a;b #c"),
        ("{A}", "{A}"),
    ],
)
def test_variables(text: str, value: str) -> None:
    """`${VAR}` and its kin, `$$`, and what is none of them."""
    assert value_of("dir", text, environment=VARIABLES) == value


@pytest.mark.parametrize("text", ["${A}", "$$", "${B}", "${B:?no}", "%(A)s", "$(pwd)"])
def test_variables_of_cmd_are_the_shells(text: str) -> None:
    """In `cmd` nothing is expanded, so nothing can be missing."""
    assert value_of("cmd", f"echo {text}", environment=VARIABLES) == f"echo {text}"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("X=${A}", "1"),
        ("X=${QUOTED}", "a 'b' \"c\" \\"),
        ('X="${QUOTED}"', "a 'b' \"c\" \\"),
        ('X="<${A}>"', "<1>"),
        ("X='${A}'\"${A}\"", "${A}1"),
        ("X=${B:-x y}", "x y"),
        ("X=${B:-${A}}", "1"),
        ("Y=2\n  X=${Y}${A}", "21"),
        ("A=2\n  X=${A}", "2"),
        ("X=0\n  X=${X}${X}", "00"),
        ("PATH=/opt/bin:${PATH:-/bin}\n  X=${PATH}", "/opt/bin:/bin"),
    ],
)
def test_variables_in_env(text: str, value: str) -> None:
    """Quotes come first, then variables; a line sees those before it."""
    assert dict(value_of("env", f"\n  {text}", environment=VARIABLES))["X"] == value


def test_variables_that_are_not_utf_8() -> None:
    """The environment is bytes, and stays as it is."""
    environment = {"RAW": overlord.decode(b"\xff\xfe")}
    assert os.fsencode(value_of("dir", "/srv/${RAW}", environment=environment)) == b"/srv/\xff\xfe"


QUOTABLE = st.text(st.sampled_from("ab \t#;|&<>()*?[]!{}%=,:/.-é'\"\\`$"), max_size=6)
QUOTED = st.one_of(
    st.text(st.sampled_from("ab=,:/.-#%é"), min_size=1, max_size=5),
    QUOTABLE.map(lambda text: "'" + text.replace("'", "") + "'"),
    QUOTABLE.map(lambda text: '"' + re.sub(r'(["\\`$])', r"\\\1", text) + '"'),
    st.text(st.sampled_from("ab é#;'"), max_size=5).map(lambda text: f'"{text}\\a"'),
    st.sampled_from(" \t#;|&<>()*?!'\"\\`$ab").map(lambda char: "\\" + char),
)


@given(st.lists(QUOTED, min_size=1, max_size=5).map("".join).filter(lambda word: word == word.rstrip()))
@slow
def test_env_is_quoted_as_in_a_shell(word: str) -> None:
    """A value of `env` is what the shell makes of the same assignment."""
    shell = subprocess.run(["/bin/sh", "-c", f"A={word}\nprintf %s \"$A\""], stdout=subprocess.PIPE, check=True)
    assert os.fsencode(dict(value_of("env", f"A={word}"))["A"]) == shell.stdout


# --- the text --------------------------------------------------------------------------------------------------------

SETUP = """\
# what the image runs first
; in either style
[script:setup]
  ; an indented comment where no value is
cmd =
    set -e
    # a comment of the shell's
    ; and none of its
    case $1 in
      start)
        echo "100%" ;;
\t*)   echo other ;;
    esac

    cat <<END
      indented = kept
    [not:a section]
    END
# between two lines of it
    exit 0   ; # the end
dir : /srv

; and at the end
"""
SETUP_CMD = """\
set -e
# a comment of the shell's
; and none of its
case $1 in
  start)
    echo "100%" ;;
{}*)   echo other ;;
esac

cat <<END
  indented = kept
[not:a section]
END
exit 0   ; # the end"""


def test_a_script_as_a_value() -> None:
    """Inside a value nothing begins a comment, and relative indentation is kept."""
    unit = read(SETUP.replace("\t", "    ")).units["setup"]
    assert unit.cmd == SETUP_CMD.format("")
    assert unit.dir == "/srv"


def test_a_value_that_begins_on_its_line() -> None:
    """The further lines share an indentation of their own."""
    text = "[daemon:web]\ncmd = if true; then\n        exec nginx\n      fi\n"
    assert read(text).units["web"].cmd == "if true; then\n  exec nginx\nfi"


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("last", ["", "\n"])
def test_ends_of_lines_and_byte_order_mark(ending: str, mark: str, last: str) -> None:
    """Files of any editor."""
    text = SETUP.replace("\t", "    ").strip() + "\n[daemon:web]\ncmd = nginx"
    config = read((mark + text).replace("\n", ending) + last.replace("\n", ending), mark + WEB + "nice = 5")
    assert config.units["setup"].cmd == SETUP_CMD.format("")
    assert (config.units["web"].cmd, config.units["web"].nice) == ("nginx", 5)


@pytest.mark.parametrize(
    "text",
    [
        "[daemon:web]\ncmd=nginx\nnice=5\n",
        "[daemon:web]\ncmd: nginx\nnice : 5\n",
        "[daemon:web] # the web server\nCMD = nginx\nNice = 5\n",
        "[daemon: web ] ; the web server\n\n\ncmd =   nginx  \n\n\nnice =\n    5\n",
        "  # indented as a whole\n  [daemon:web]\n  cmd = nginx\n  nice = 5\n",
        "[daemon:web]\n    cmd = nginx\n    nice = 5\n",
        "[daemon:web]\n\tcmd = nginx\n\t# comment\n\tnice =\n\t\t5\n",
    ],
)
def test_ways_to_write_the_same(text: str) -> None:
    """configparser's INI: either sign, any case, blanks, and a further line is one indented deeper than its option."""
    unit = read(text).units["web"]
    assert (unit.cmd, unit.nice) == ("nginx", 5)


def test_values_keep_what_is_special_elsewhere() -> None:
    """No interpolation, no comment at the end of a line, no quotes."""
    assert value_of("cmd", "printf '%s' \"a=b\" # c ; d") == "printf '%s' \"a=b\" # c ; d"
    assert value_of("dir", '"/srv" # x') == '"/srv" # x'


def test_kind_sections_are_defaults() -> None:
    """`[daemon]` and `[script]` give what units of that kind do not say; `none` takes it back."""
    config = read(
        "[daemon:web]\ncmd = a\nnice = 1\n[daemon:db]\ncmd = b\nmax_age = none\ndeps = none\n"
        "[daemon]\nnice = 5\nmax_age = 1h\nrespawns = 3\ndeps = setup\nforward = none\n"
        "[script]\nnice = 6\ntimeout = 5s\n[script:setup]\ncmd = c\n[script:other]\ncmd = d\ntimeout = none\n"
    )
    web, db, setup, other = (config.units[name] for name in ("web", "db", "setup", "other"))
    assert (web.nice, db.nice, setup.nice, other.nice) == (1, 5, 6, 6)
    assert (web.max_age, db.max_age) == ((3600.0, 0.0), None)
    assert (web.deps, db.deps) == ((("setup", "ok"),), ())
    assert (web.respawns, setup.respawns, web.forward) == ((3, 0.0), (0, 0.0), ())
    assert (setup.timeout, other.timeout) == (5.0, None)
    assert list(config.units) == ["web", "db", "setup", "other"]


def test_a_kind_section_may_give_cmd() -> None:
    """Units that differ in their environment alone need no command of their own."""
    assert read("[daemon]\ncmd = worker\n[daemon:a]\n[daemon:b]\ncmd = other\n").units["a"].cmd == "worker"


def test_later_files_override() -> None:
    """A later file adds sections, adds options, and replaces values whole; a value replaced is no mistake any more."""
    config = read(
        "[overlord]\nforever = no\nlog_level = debug\n[daemon:web]\ncmd = a\n    b\nnice = bad\ndeps = nothing\n",
        "[daemon:web]\nnice = 5\ndeps = db\n[daemon:db]\ncmd = d\n[overlord]\nforever = yes\n",
        "[daemon:web]\ncmd = c\n[daemon]\numask = 027\n",
    )
    web = config.units["web"]
    assert (web.cmd, web.nice, web.deps, web.umask) == ("c", 5, (("db", "ok"),), 0o027)
    assert (config.settings.forever, config.settings.log_level) == (True, "debug")
    assert config.order == ["db", "web"]


def test_a_shutdown_signal_that_is_forwarded_by_default() -> None:
    """`forward` is `HUP` unless one says otherwise: who asks for shutdown by HUP has said nothing wrong."""
    text = "[overlord]\nshutdown_signals = TERM HUP\n[daemon:web]\ncmd = nginx\n[script:setup]\ncmd = setup\n"
    assert mistakes(text) == []
    assert mistakes(f"{text}[daemon:db]\ncmd = x\nforward = HUP\n")[0].startswith("0.conf:9: [daemon:db] forward: SIGHUP")


# ORIGIN.md's sections, as written there.
ORIGIN = """
[overlord]
forever=true
configdir=/etc/overlord/

[script:setup]
cmd = /path/to/presetup.sh

[daemon:cacheserver]
cmd = /path/to/redis

[daemon:myapp]
cmd = ...
deps = setup:always, cacheserver:bounce
"""


def test_the_original_example() -> None:
    """The configuration that it all began with."""
    config = read(ORIGIN)
    assert config.settings.forever and config.settings.configdir == "/etc/overlord/"
    assert {name: (unit.kind, unit.cmd) for name, unit in config.units.items()} == {
        "setup": ("script", "/path/to/presetup.sh"),
        "cacheserver": ("daemon", "/path/to/redis"),
        "myapp": ("daemon", "..."),
    }
    assert config.units["myapp"].deps == (("setup", "always"), ("cacheserver", "bounce"))
    assert config.order == ["setup", "cacheserver", "myapp"]
    extended = f"{ORIGIN}dir = /srv\nuid = app\ngid = app\nmax_age = 3600\nstop_signal = QUIT\nrespawns = 5\nwarmup = 10\n"
    app = read(extended).units["myapp"]
    assert (app.dir, app.uid, app.gid, app.max_age) == ("/srv", "app", "app", (3600.0, 0.0))
    assert (app.stop_signal, app.respawns, app.warmup) == (3, (5, 0.0), 10.0)


# --- files -----------------------------------------------------------------------------------------------------------


def test_configdir(main: SimpleNamespace, tmp_path: Path) -> None:
    """Every file of the folder, by name; hidden ones, backups and subfolders are passed over."""
    folder = tmp_path / "conf.d"
    (folder / "sub.conf").mkdir(parents=True)
    files = {"10-a.conf": 1, "9-b": 2, "Z": 3, "a.ini": 4, "ä": 5, "bak": 6, "x.bak.conf": 7, "dpkg-old": 8}
    passed = [".x", ".x.swp", "x~", "x.bak", "x.swp", "zz.dpkg-old", "zz.dpkg-dist", "zz.dpkg-new", "zz.conf.dpkg-tmp"]
    for name, number in files.items():
        (folder / name).write_text(f"[daemon:web]\nnice = {number}\n[daemon:{number}]\ncmd = true\n")
    for name in [*passed, "sub.conf/x.conf"]:
        (folder / name).write_text("this is no configuration\n")
    (tmp_path / "main.conf").write_text(f"[overlord]\nconfigdir = {folder}\n{WEB}nice = 0\n")
    config, read_from = overlord.read_config("main.conf", {}, [])
    order = sorted(files)
    assert read_from == ["main.conf", *[str(folder / name) for name in order]]
    assert list(config.units) == ["web", *[str(files[name]) for name in order]]
    assert config.units["web"].nice == files[order[-1]]


@pytest.mark.parametrize("configdir", ["absent.d", "absent.d/", "empty.d"])
def test_configdir_without_files(configdir: str, main: SimpleNamespace, tmp_path: Path) -> None:
    """A folder that is not there, or empty, is fine."""
    (tmp_path / "empty.d").mkdir()
    (tmp_path / "main.conf").write_text(f"[overlord]\nconfigdir = {configdir}\n{WEB}")
    assert overlord.read_config("main.conf", {}, [])[1] == ["main.conf"]


def test_configdir_from_a_variable(main: SimpleNamespace, tmp_path: Path) -> None:
    """`configdir` is expanded as other values are."""
    (tmp_path / "prod.d").mkdir()
    (tmp_path / "prod.d" / "web").write_text(WEB)
    (tmp_path / "main.conf").write_text("[overlord]\nconfigdir = ${STAGE}.d\n")
    assert overlord.read_config("main.conf", {b"STAGE": b"prod"}, [])[1] == ["main.conf", "prod.d/web"]


def test_which_file(main: SimpleNamespace, tmp_path: Path) -> None:
    """`-c`, else $OVERLORD_CONFIG, else the default one."""
    for name in ("named", "variable", "default"):
        (tmp_path / f"{name}.conf").write_text(f"[daemon:{name}]\ncmd = true\n")
    variable = {b"OVERLORD_CONFIG": b"variable.conf"}
    for path, environment, name in [
        ("named.conf", variable, "named"),
        (None, variable, "variable"),
        (None, {b"OVERLORD_CONFIG": b""}, "default"),
        (None, {}, "default"),
    ]:
        assert list(overlord.read_config(path, environment, [])[0].units) == [name]


def test_default_file_absent(main: SimpleNamespace, tmp_path: Path) -> None:
    """Fine with a COMMAND, or with files in the configdir; a mistake with neither, or where the file was asked for."""
    config, files = overlord.read_config(None, {}, ["nginx", "-g", "daemon off;"])
    assert (files, config.order) == ([], [overlord.MAIN])
    assert config.units[overlord.MAIN].cmd == ("nginx", "-g", "daemon off;")
    with pytest.raises(overlord.Mistakes) as found:
        overlord.read_config(None, {}, [])
    (line,) = found.value.args[0]
    assert line.startswith(f"{tmp_path}/default.conf:1: there is no such file")
    for path, environment in (("absent.conf", {}), (None, {b"OVERLORD_CONFIG": b"absent.conf"})):
        with pytest.raises(overlord.Mistakes) as found:
            overlord.read_config(path, environment, ["true"])
        assert found.value.args[0] == ["absent.conf:1: cannot be read: No such file or directory"]
    (tmp_path / "default.d").mkdir()
    (tmp_path / "default.d" / "web.conf").write_text(WEB)
    config, files = overlord.read_config(None, {}, [])
    assert (files, list(config.units)) == ([str(tmp_path / "default.d" / "web.conf")], ["web"])


def test_main_command_needs_all_daemons(main: SimpleNamespace, tmp_path: Path) -> None:
    """The main command comes after the units, and its name can be no other's."""
    (tmp_path / "main.conf").write_text(f"{WEB}[script:setup]\ncmd = true\n")
    config, _ = overlord.read_config("main.conf", {}, ["bash"])
    assert config.order[-1] == overlord.MAIN and set(config.units) == {"web", "setup", overlord.MAIN}
    assert [name for name, _ in config.units[overlord.MAIN].deps] == ["web"]
    assert len(mistakes(f"[daemon:{overlord.MAIN}]\ncmd = true\n")) == 1


# --- any text at all -------------------------------------------------------------------------------------------------

SOUP = st.lists(
    st.one_of(
        st.sampled_from("\n|\n|\n    |\n\t|=| = |:|#|;|\\|'|\"|[|]|,|..|~|/|>|%|%(A)s".split("|")),
        st.sampled_from("$ $$ ${ ${A} ${B} ${B:- ${B:? }".split()),
        st.sampled_from("\0 \1 \r \x0b \x0c \x1c \x85 \xa0 \u2028 \ufeff ² ٣ é İ \u017f \U0001d7db".split(" ")),
        st.sampled_from(["[daemon:a]\n", "[script:b]\n", "[overlord]\n", "[daemon]\n", "[script]\n"]),
        st.sampled_from(["[DEFAULT]\n", "[ ]\n", "[:]\n", "[daemon:]\n", "[", "]"]),
        st.sampled_from([f"\n{option.name} = " for option in overlord.OPTIONS] + ["\ncmd = x\n"] * 5),
        st.sampled_from("5 5s 0 9999999999999999999 yes no none a a:ok b:ok a:bounce b:always HUP HUP>USR2 1..5 A=1".split()),
        st.text(max_size=4),
    ),
    max_size=40,
).map("".join)


@given(st.lists(st.one_of(SOUP, st.text(), st.binary()), min_size=1, max_size=3))
@settings(relaxed, max_examples=250)
def test_any_text_is_a_configuration_or_mistakes(contents: list[str | bytes]) -> None:
    """Whatever the files hold: never anything else, and each mistake is one line with a place that exists."""
    data = [text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass") for text in contents]
    for line in mistakes(*data, environment={"A": "x"}):
        match = re.fullmatch(r"([0-2])\.conf:([1-9][0-9]*): .+", line)
        assert match, f"not of the form FILE:LINE: text: {line!r}"
        assert int(match[2]) <= data[int(match[1])].count(b"\n") + 1


@given(st.sampled_from(overlord.OPTIONS), st.one_of(st.text(), SOUP, st.from_regex(r"[-+0-9.~/a-z ]{1,20}")))
@settings(relaxed, max_examples=250)
def test_any_value_is_a_value_or_a_mistake(option: Any, text: str) -> None:
    """Whatever an option says, its parser raises nothing else, and nobody says it without naming the option."""
    kind = {"o": "overlord", "s": "script", "d": "daemon"}[option.kinds[0]]
    body = text.replace("\0", "").replace("\n", "\n    ")
    section = "[overlord]\n" if kind == "overlord" else f"[{kind}:web]\n" + ("" if option.name == "cmd" else "cmd = x\n")
    content = f"{section}{option.name} = {body}".encode("utf-8", "replace")
    for line in mistakes(content, environment={"A": "x"}):
        assert f": [{kind}{'' if kind == 'overlord' else ':web'}] {option.name}: " in line


LONG = 50_000
PARSERS = {option.parse: option for option in overlord.OPTIONS if option.name != "env"}.values()
ADVERSARIES = [
    *"9 . .. ~ / , : a a, a: a:ok, é ² - + % RTMIN+ HUP> = ' \" \\ \\\" '\" \"\\ A= A=' A=\"\\".split(),
    *"$ $$ { } ${ ${A ${A} ${A:- ${A:-} ${A:-${ ${A:? ${B}".split(),
    *("9 ", "9.", "a ", "HUP ", "\n", "\n ", "\nA=1\n", "\1", "\n\1"),
]


@pytest.mark.parametrize("part", ADVERSARIES)
@pytest.mark.parametrize("head", ["", "A=", "${A:-"])
def test_long_values_take_linear_time(part: str, head: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """No value makes a parser look at the same text again and again (hints have a test of their own)."""
    monkeypatch.setattr(overlord, "suggest", lambda word, known: "")
    text = head + part * (LONG // len(part))
    for option in PARSERS:
        with cpu_limit(1), contextlib.suppress(overlord.Mistake):
            option.parse(text)
    with cpu_limit(1), contextlib.suppress(overlord.Mistake):
        overlord.fill_env(overlord.parse_env(text), {"A": "x"})
    with cpu_limit(1), contextlib.suppress(overlord.Mistake):
        overlord.fill(text, {"A": "x"})


@pytest.mark.parametrize("option", ["stop_signal", "restart", "x" * LONG, "deps"], ids=lambda option: option[:20])
def test_hints_for_long_words_take_no_time(option: str) -> None:
    """A word longer than all known ones resembles none of them."""
    with cpu_limit(1):
        assert "did you mean" not in mistakes(f"{WEB}{option} = {'a' * LONG}\n")[0]


@pytest.mark.parametrize(
    "text",
    [
        "[" * LONG,
        "[daemon:" + "a" * LONG + "]",
        "[daemon:" + " " * LONG + "a",
        "[x]" + " " * LONG + "y",
        "[" + "]" * LONG,
        "[x]\na" + " " * LONG + "b",
        "[x]\na" + " " * LONG + "b = c",
        "[x]\n" + "a " * (LONG // 2),
        "[x]\na = " + " " * LONG + "b",
        "[daemon:web]\ncmd =" + "\n" * LONG + " x",
        "[daemon:web]\ncmd = a" + "\n b" * (LONG // 3),
        "[daemon:web]\ncmd = a" + "\n  #" * (LONG // 4),
        "[daemon:web]\ncmd = a" + "\n" + " " * LONG + "b",
        "a\n" * (LONG // 2),
        "[x]\n" * (LONG // 4),
        "[x]\na=1\n" * (LONG // 8),
        "#" * LONG,
        "[daemon:web]\nenv =" + "\n A=1" * (LONG // 5),
        "\r" * LONG,
    ],
    ids=lambda text: repr(text[:20]),
)
def test_long_texts_take_linear_time(text: str) -> None:
    """No text makes the reader look at the same line again and again."""
    with cpu_limit(1):
        mistakes(text)


def test_many_units_take_linear_time() -> None:
    """A configuration that a program wrote, with thousands of units."""
    text = "".join(f"[daemon:d{number}]\ncmd = x\ndeps = d{number + 1}\n" for number in range(2000)) + "[daemon:d2000]\ncmd = x\n"
    with cpu_limit(5):
        assert read(text).order == [f"d{number}" for number in range(2000, -1, -1)]


# --- there and back --------------------------------------------------------------------------------------------------

# Each strategy makes pairs of what is written and what it means.
NAMES = st.text(st.sampled_from("abcXYZ019_.-"), min_size=1, max_size=8)
PLAIN = st.text(
    st.characters(blacklist_categories=("C", "Z"), blacklist_characters="\u0085"), min_size=1, max_size=12
)  # no blanks, no control characters
SIZES = {"": 1, "s": 1, "ms": Fraction(1, 1000), "m": 60, "h": 3600, "d": 86400}
DURATIONS = st.builds(
    lambda whole, part, blank, unit: (
        f"{whole}{part}{blank if unit else ''}{unit}",
        float((whole + Fraction(f"0{part}")) * SIZES[unit]),
    ),
    st.integers(0, 10**4),
    st.sampled_from(["", ".5", ".25", ".125"]),
    st.sampled_from(["", " "]),
    st.sampled_from(sorted(SIZES)),
)
POSITIVE = DURATIONS.filter(lambda written: written[1] > 0)
SIGNALS = st.sampled_from(
    [(form.format(name), int(getattr(signal, f"SIG{name}"))) for name in "HUP USR1 USR2 WINCH CONT PWR".split()
     for form in ("{}", "SIG{}")] + [("12", 12), ("RTMIN+5", RTMIN + 5), ("SIGRTMAX-2", 62), ("usr1", 10)]
)  # fmt: skip
CODES = st.integers(0, 255).map(lambda code: (str(code), code))
SINKS = st.one_of(
    st.sampled_from([(word, word) for word in ("inherit", "prefix", "null")]), PLAIN.map(lambda text: (f"/{text}x", f"/{text}x"))
)
BYTES = st.builds(
    lambda number, unit: (f"{number}{unit}", number << 10 * " KMG".index(unit or " ")),
    st.integers(0, 999),
    st.sampled_from(["", "K", "M", "G"]),
)
TEXTS = st.lists(PLAIN, min_size=1, max_size=3).map(" ".join).map(lambda text: (text.replace("$", "$$"), text))
BOOLEANS = st.sampled_from([("yes", True), ("On", True), ("1", True), ("false", False), ("no", False), ("0", False)])


def many(one: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Return a list of values as written between blanks or commas, and as a tuple."""
    separators = st.sampled_from([" ", ",", ", "])
    return st.builds(
        lambda values, comma: (comma.join(text for text, _ in values), tuple(value for _, value in values)),
        st.lists(one, min_size=1, max_size=3),
        separators,
    )


def choice(*words: str) -> st.SearchStrategy[Any]:
    """Return one of some words, which mean themselves."""
    return st.sampled_from([(word, word) for word in words])


def pair(low: st.SearchStrategy[Any], sign: str, high: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Return two values with a sign between."""
    return st.builds(lambda one, two: (one[0] + sign + two[0], (one[1], two[1])), low, high)


def quote_env(pairs: dict[str, str]) -> tuple[str, tuple[tuple[str, str], ...]]:
    """Return variables as lines of `env`, and as they are."""
    return "\n".join(["", *(f"{key}={shlex.quote(value)}" for key, value in pairs.items())]), tuple(pairs.items())


@st.composite
def commands(draw: Any) -> tuple[str, str]:
    """Return a command of several lines with indentation, some of them empty or like comments."""
    first, last = draw(PLAIN), draw(PLAIN)
    middle = draw(st.lists(st.one_of(st.just(""), st.builds("{}{}{}".format, st.sampled_from(["", "  ", "\t"]),
                                     st.sampled_from(["", "# ", "; ", "[x:y] "]), PLAIN)), max_size=4))  # fmt: skip
    lines = [first, *middle, last] if middle else [first]
    begin = draw(st.sampled_from(["", "\n"]))
    return begin + "\n".join(lines), "\n".join(lines)


WRITTEN: dict[str, st.SearchStrategy[Any]] = {
    "forever": BOOLEANS, "shutdown_timeout": POSITIVE, "shutdown_signals": st.just(("TERM INT", (15, 2))),
    "log_level": choice("debug", "info", "warning", "error"), "log_format": choice("text", "json"), "output": SINKS,
    "socket": st.sampled_from(["abstract", "/s", "/run/a b.sock"]).map(lambda text: (text, text)),
    "dir": TEXTS, "uid": TEXTS.filter(lambda pair: ":" not in pair[1]), "gid": TEXTS,
    "env": st.dictionaries(st.text(st.sampled_from("ABC_x.1"), min_size=1, max_size=5),
                           st.lists(PLAIN, max_size=3).map("  ".join), min_size=1, max_size=4).map(quote_env),
    "umask": st.integers(0, 0o777).map(lambda mask: (f"{mask:03o}", mask)),
    "nice": st.integers(-20, 19).map(lambda nice: (str(nice), nice)),
    "stdout": SINKS, "stderr": st.one_of(SINKS, choice("stdout")),
    "log_max": BYTES, "log_keep": st.integers(0, 1000).map(lambda number: (str(number), number)),
    "stop_signal": SIGNALS, "stop_timeout": DURATIONS,
    "on_failure": choice("shutdown", "ignore"), "on_success": choice("shutdown", "ignore"),
    "respawns": st.one_of(st.integers(0, 99).map(lambda n: (str(n), (n, 0.0))), pair(CODES, "/", POSITIVE)),
    "restart": choice("always", "on-failure", "never"),
    "success": many(st.one_of(CODES, SIGNALS.filter(lambda s: not s[0].isdigit()).map(lambda s: (s[0], -s[1])))),
    "backoff": pair(POSITIVE, "..", DURATIONS).filter(lambda written: written[1][0] <= written[1][1]),
    "warmup": DURATIONS, "max_age": pair(POSITIVE, "~", DURATIONS).filter(lambda written: written[1][1] < written[1][0]),
    "timeout": POSITIVE, "autostart": BOOLEANS,
    "forward": many(st.one_of(SIGNALS.map(lambda s: (s[0], (s[1], s[1]))), pair(SIGNALS, ">", SIGNALS))),
}  # fmt: skip


@st.composite
def worlds(draw: Any) -> tuple[dict[str, dict[str, str]], dict[str, dict[str, Any]]]:
    """Return sections as written, and what they mean: section -> option -> text or value."""
    written: dict[str, dict[str, str]] = {"overlord": {}}
    meant: dict[str, dict[str, Any]] = {"overlord": {}}
    names = draw(st.lists(NAMES, min_size=1, max_size=4, unique=True))
    kinds = {name: draw(st.sampled_from(["daemon", "script"])) for name in names}
    for place, section in enumerate(["overlord", *(f"{kinds[name]}:{name}" for name in names)]):
        own = section.partition(":")[0]
        options = [name for name in overlord.BY_KIND[own] if name in WRITTEN]
        chosen = {name: draw(WRITTEN[name]) for name in draw(st.lists(st.sampled_from(options), unique=True, max_size=8))}
        if own != "overlord":
            chosen["cmd"] = draw(commands())
            states = {"script": ["ok", "always"], "daemon": ["ok", "bounce"] if own == "daemon" else ["ok"]}
            others = [name for name in names[place:] if draw(st.booleans())]
            deps = {name: draw(st.sampled_from(states[kinds[name]])) for name in others}
            chosen["deps"] = (", ".join(f"{n}:{s}" for n, s in deps.items()) or "none", tuple(deps.items()))
        written[section] = {name: text for name, (text, _) in chosen.items()}
        meant[section] = {name: value for name, (_, value) in chosen.items()}
    return written, meant


def write(draw: Any, sections: dict[str, dict[str, str]]) -> str:
    """Return an INI text for the sections, in one of the many ways to write it."""
    lines = []
    for section, options in sections.items():
        lines.append(draw(st.sampled_from(["[{}]", "[{}] # comment", "\n[{}]", "; comment\n[{}]"])).format(section))
        for name in draw(st.permutations(sorted(options))):
            indent = draw(st.sampled_from([" ", "    ", "\t"]))
            sign = draw(st.sampled_from(["=", " = ", ":", " :  "]))
            key = draw(st.sampled_from([name, name.upper(), name.title()]))
            end = draw(st.sampled_from(["", "  ", "\n", "\n# x"]))
            lines.append(key + sign + options[name].replace("\n", "\n" + indent) + end)
    mark, ending = draw(st.sampled_from(["", "\ufeff"])), draw(st.sampled_from(["\n", "\r\n"]))
    return str(mark + "\n".join(lines).replace("\n", ending))


@given(st.data(), worlds())
@settings(relaxed, max_examples=60, phases=[Phase.explicit, Phase.reuse, Phase.generate])  # shrinking would take minutes
def test_what_is_written_is_what_is_read(data: Any, world: Any) -> None:
    """A random valid configuration, spread over two files, means what it was made from."""
    written, meant = world
    first: dict[str, dict[str, str]] = {section: {} for section in written}
    later: dict[str, dict[str, str]] = {}
    for section, options in written.items():
        for name, text in options.items():
            where = data.draw(st.sampled_from(["first", "later", "overridden"]))
            if where != "later":
                first[section][name] = text if where == "first" else "${overridden}"
            if where != "first":
                later.setdefault(section, {})[name] = text
    config = read(write(data.draw, first), write(data.draw, later))
    assert list(config.units) == [section.partition(":")[2] for section in written if section != "overlord"]
    for section, options in meant.items():
        _, named, name = section.partition(":")
        found = config.units[name] if named else config.settings
        for option, value in options.items():
            numbers = isinstance(value, tuple) and all(isinstance(each, (int, float)) for each in value)
            expected = pytest.approx(value) if numbers or isinstance(value, float) else value
            assert getattr(found, option) == expected, (section, option)


# --- command_line ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with programs to call: `show` prints its words, `pid` its process number."""
    folder = tmp_path_factory.mktemp("bench")
    (folder / "sub").mkdir()
    programs = {"show": "printf '<%s>' \"$@\"", "pid": "echo $$", "sub/show": "echo sub", "file": "echo sourced $A"}
    for name, text in programs.items():
        (folder / name).write_text(f"#!/bin/sh\n{text}\n")
        (folder / name).chmod(0o755)
    (folder / "closed").write_text("#!/bin/sh\n")
    return folder


def result(argv: Sequence[str], folder: Path) -> tuple[bytes, int]:
    """Return what a command prints, and its exit code."""
    environment = {"PATH": f"{folder}:{PATH}", "A": "1 2", "B": "x", "EMPTY": "", "HOME": "/home/nobody"}
    try:
        ended = subprocess.run(
            [os.fsencode(word) for word in argv], cwd=folder, env=environment, timeout=PATIENCE, check=False,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )  # fmt: skip
    except PermissionError:
        return b"", 126
    except FileNotFoundError:
        return b"", 127
    return ended.stdout, ended.returncode


def command_line(cmd: str, environment: Mapping[bytes, bytes] | None = None) -> list[str]:
    """Return overlord's argument vector for a `cmd`, as it comes from a configuration."""
    return list(overlord.command_line(cmd.strip(), environment or {}))


@pytest.mark.parametrize(
    ("cmd", "argv"),
    [
        ("redis-server", ["redis-server"]),
        ("/usr/bin/redis-server --port 6379", ["/usr/bin/redis-server", "--port", "6379"]),
        ("nginx -g 'daemon off;'", ["nginx", "-g", "daemon off;"]),
        ('nginx -g "daemon off;"', ["nginx", "-g", "daemon off;"]),
        ("nginx  \t -t ", ["nginx", "-t"]),
        ("gunicorn \\\n  -b 0.0.0.0:80 \\\n  app:app", ["gunicorn", "-b", "0.0.0.0:80", "app:app"]),
        ("java -Xmx1g -Dfoo=bar -jar /a.jar", ["java", "-Xmx1g", "-Dfoo=bar", "-jar", "/a.jar"]),
        ("x a\\ b '' \"\" 'c'\"d\"e", ["x", "a b", "", "", "cde"]),
        ("x '$A' \\$A 'a\nb'", ["x", "$A", "$A", "a\nb"]),
        ("python3 -c 'print(1); print(\"#\")'", ["python3", "-c", 'print(1); print("#")']),
    ],
)
def test_no_shell_for_plain_words(cmd: str, argv: list[str]) -> None:
    """A command of plain words needs no shell, so its environment stays untouched."""
    assert command_line(cmd) == argv


@pytest.mark.parametrize(
    "cmd",
    [
        "show $A",
        'show "$A" ${B:-x}',
        "show *.txt",
        "show ~",
        "show > out 2>&1",
        "show < /dev/null >> out",
        'show "a;b" \'c|d\' e\\&f "$A"',
        "show a#b",
        "show $(echo 1)",
        'show "$(echo 1)"',
        "show `echo 1`",
        "show $((1 + 1))",
        "show \\\n  $A \\\n  $B",
    ],
)
def test_exec_for_a_lone_simple_command(cmd: str, bench: Path) -> None:
    """A lone simple command leaves no shell behind: the process that was started becomes the program."""
    cmd = cmd.replace("show", "pid")
    argv = command_line(cmd)
    assert argv[:2] == ["/bin/sh", "-c"]
    with subprocess.Popen(argv, cwd=bench, env={"PATH": f"{bench}:{PATH}"}, stdout=subprocess.PIPE, text=True) as process:
        printed = process.communicate(timeout=PATIENCE)[0]
    if "out" in cmd:
        printed = (bench / "out").read_text().splitlines()[-1]
    assert int(printed) == process.pid


@pytest.mark.parametrize(
    "cmd",
    [
        "exit 3", ". ./file", ": x", "A=1 show", "A=1", "cd /", "cd / && show", "true", "false", "[ a = a ]", "test a", "kill -l",
        "echo x", "printf x", "exec show", "eval show", "if true; then show; fi", "for x in a; do show $x; done",
        "while false; do show; done", "until true; do show; done", "case a in a) show ;; esac", "{ show; }", "(show)", "! show",
        "show && show", "show || show", "show; show", "show & wait", "show | cat", "show\nshow", "f() { show; }; f",
        "show <<X\nX", "umask 077", "ulimit -n", "set -e", "export A=1", "unset A", "trap '' TERM", "wait", "read x",
        "command show", "type show", "time show", "source ./file", "local x", "let x", "[[ a ]]", "$SHOW", "'show' a", "\\show a",
        '"show"', "~/show", "*/show", "2>&1 show", ">out show", "# show", "function f", "coproc show",
        "select x in a; do show; done",
    ],
)  # fmt: skip
def test_a_shell_for_the_rest(cmd: str) -> None:
    """Where it is not certain that one program is run, the shell gets the text as it stands."""
    assert command_line(cmd) == ["/bin/sh", "-c", cmd]


def test_a_shell_for_a_function_of_the_environment() -> None:
    """bash takes functions from the environment: such a word is no program's name."""
    environment = {b"BASH_FUNC_show%%": b"() { echo function; }"}
    assert command_line("show a", environment) == ["/bin/sh", "-c", "show a"]
    assert command_line("other a", environment) == ["other", "a"]


TRICKY = [
    "show", "show a b", "show  a\tb ", " show a", "show a\n", "\n\nshow a", "show ''", "show '' \"\" x", "show a''b",
    "show 'a b'", 'show "a b"', "show a\\ b", 'show "a\\"b"', "show 'a'\"'\"'b'", "show \\a \\\\ \\' \\\"", "show '\\'",
    'show "\\\\" "\\a" "\\$A" "\\`"', "show $A", 'show "$A"', "show '$A'", "show \\$A", "show $UNSET x", 'show "$UNSET" x',
    "show ${A:-b c} ${UNSET:-b c}", "show ${A#1}", "show ${#A}", "show $#", "show $0", 'show "$@" x', "show $(echo a b)",
    'show "$(echo "a  b")"', "show `echo a`", "show $((1 + 2))", "show *", "show s*", "show [s]how", "show ?how", "show ~",
    "show ~/x a~ a=~", "show =", "show a=b", "show -x --y=z", "show %s %", "show {a,b}", "show é", 'show "é"', "show a!b !",
    "show ^ a^b", "show a#b", "show a #b", "show a # b\n", "show a \\# b", "show a,b;", "show a;show b", "show a; exit 4",
    "show a&wait", "show a && show b", "false || show b", "show a | cat", "show a | cat; exit 5", "(show a)", "{ show a; }",
    "! show a", "! false", "if show a; then show b; fi", "for x in a b; do show $x; done", "case $B in x) show yes ;; esac",
    "f() { show $1; }; f x", "show() { echo mine; }; show a", "show <<X\nX", "cat <<X\n$A\nX", "cat <<'X'\n$A \\\n b\nX",
    "cat <<-X\n\ta\n\tX", "show a >&2", "show a 2>/dev/null", "show a >out; cat out", "show a>out2; cat out2", "2>&1 show a",
    "show a 2>&1 >/dev/null", "show a >|out", "cat </dev/null", "./show a", "sub/show a", "'show' a", "\\show a",
    "sh''ow a", '"show" a', "nope", "nope a", "./nope", "/nope/nope", "./closed", "./sub", "exit 3",
    "exit", "true", "false", "test a = b", "[ a = a ]", "[ a = b ]", ":", ": a", ". ./file", "A=2 . ./file", "A=3 show $A",
    "A=3; show $A", "A=3", "exec show a", "exec nope", "eval 'show a'", "command show a", "cd /; pwd", "cd sub && show a",
    "kill -l 15", "printf %s a", "echo a", "umask", "set -- a b; show $@", "trap 'show bye' EXIT; show a", "read x </dev/null",
    "show 'a", 'show "a', "show a)", "show a;;", "if", "fi", "then", "show (a)", "show a &&", "| show", "#", "# show a", "",
    "show a \\\nb", "show a\\\nb", "sh\\\now a", "show 'a\\\nb'", 'show "a\\\nb"', "show a\\\\\nshow b",
    "show a # b \\\nshow c", "# a \\\nshow b", "show 'x' \\\n  'y'", "sed 's/^/a\\\n/' file", "show 'a\nb'", 'show "a\nb"',
    "set -e\nfalse\nshow a", "show a\n\n# b\nshow c", "show '#' '\"' \"'\"", "show \\\\", "show \\\\\\\\ \\\\a", "show '' ''",
    "env - /bin/sh -c 'echo $A'", "show \u00a0 a", "show a\u00a0b", "show\x0ba", "show a\x0cb", "show a\rb", "show\u2028a",
    "show -- -a", "exec -a x show", "time -p true", "%1", "show @a +b", "[[ a = a ]]", "1 2",
    "function f { :; }", "3>out",
]  # fmt: skip


@pytest.mark.parametrize("cmd", TRICKY)
def test_same_as_the_shell(cmd: str, bench: Path) -> None:
    """What a command prints, and its exit code, is what `/bin/sh -c` makes of it."""
    assert result(command_line(cmd), bench) == result(["/bin/sh", "-c", cmd], bench)


ANY = st.text(st.sampled_from("ab \t\n#;|&<>()*?[]!{}~%=,:/.-é'\"\\`$"), max_size=6)
WORD_PIECES = st.one_of(
    st.text(st.sampled_from("ab=,:/.-%@+é"), min_size=1, max_size=4),
    ANY.map(lambda text: "'" + text.replace("'", "") + "'"),
    ANY.map(lambda text: '"' + re.sub(r'(["\\`$])', r"\\\1", text) + '"'),
    st.sampled_from(" \t\n#;|&<>()*?!~'\"\\`$ab").map(lambda char: "\\" + char),
    st.sampled_from(["$A", '"$A"', "${B}", "'\\\n'", '"\\\n"', '"\\a"', "\\\\", "#", "=", "^"]),
)
COMMANDS = st.builds(
    lambda words, gaps: "show" + "".join(gap + "".join(word) for gap, word in zip(gaps, words)),
    st.lists(st.lists(WORD_PIECES, min_size=1, max_size=4), max_size=4),
    st.lists(st.sampled_from([" ", "  ", "\t", " \\\n "]), min_size=4, max_size=4),
)


@given(COMMANDS)
@slow
def test_words_are_those_of_the_shell(bench: Path, cmd: str) -> None:
    """The words that a program gets are those that `sh -c` would give it."""
    assert result(command_line(cmd), bench) == result(["/bin/sh", "-c", cmd.strip()], bench)


@pytest.mark.parametrize("part", ["a ", " ", "\t", "\n", "\\\n", *"a \\ ' \" '' a' $ $( ` <& > # \"\\ a= -".split()])
def test_long_commands_take_linear_time(part: str) -> None:
    """A process between fork and exec must not ponder."""
    for head in ("", "x ", "x '", 'x "', "x \\"):
        with cpu_limit(1):
            command_line(head + part * (LONG // len(part)))
            command_line(head + part * (LONG // len(part)) + "\0")


# --- check, help, version, usage -------------------------------------------------------------------------------------


def check(main: SimpleNamespace, capfd: Capture, config: str, *files: str) -> list[str]:
    """Return the warnings of `check` about a valid configuration."""
    Path("main.conf").write_text(config)
    assert main.run("-c", "main.conf", "check") == 0
    out, err = capfd.readouterr()
    assert re.fullmatch(r"overlord: main.conf(, \S+)*: OK, \d+ daemons?, \d+ scripts?\n", out)
    lines = err.splitlines()
    assert all(line.startswith("overlord: warning: ") for line in lines)
    return [line[len("overlord: warning: ") :] for line in lines]


def test_check_has_nothing_to_say(main: SimpleNamespace, tmp_path: Path, capfd: Capture) -> None:
    """A good configuration in a good image."""
    (tmp_path / "tool").write_text("#!/bin/sh\n")
    (tmp_path / "tool").chmod(0o755)
    config = f"""
[overlord]
configdir = none.d
[script:setup]
cmd = exit 0
dir = {tmp_path}
[daemon:a]
cmd = sleep 5
deps = setup:ok
uid = {os.getuid()}
gid = {os.getgid()}
[daemon:b]
cmd = ./tool
dir = {tmp_path}
[daemon:c]
cmd = tool --x
env = PATH={tmp_path}:${{PATH}}
uid = 54321
[daemon:d]
cmd =
    A=1
    if nope; then nope; fi
[daemon:e]
cmd = $NOPE/nope
"""
    assert check(main, capfd, config) == []
    Path("main.conf").write_text(config)
    main.run("-c", "main.conf", "check")
    assert capfd.readouterr().out == "overlord: main.conf: OK, 5 daemons, 1 script\n"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("cmd = nope --fast", ["web", "nope"]),
        ("cmd = nope $A > /dev/null", ["web", "nope"]),
        ("cmd = /opt/nope", ["web", "/opt/nope"]),
        ("cmd = exec nope -x", ["web", "nope"]),
        ("cmd = exec /opt/nope", ["web", "/opt/nope"]),
        ("cmd = ./plain", ["web", "./plain"]),
        ("cmd = plain\nenv = PATH=/nowhere", ["web", "plain"]),
        ("cmd = sleep 5\nenv = PATH=/nowhere", ["web", "sleep"]),
        ("cmd = sleep 5\nuid = nobody-here", ["web", "nobody-here"]),
        ("cmd = sleep 5\ngid = nogroup-here", ["web", "nogroup-here"]),
        ("cmd = sleep 5\ndir = /srv/nope", ["web", "/srv/nope"]),
        ("cmd = sleep 5\ndir = plain", ["web", "plain"]),
        ("cmd = sleep 5\nuid = ²", ["web", "²"]),
        ("cmd = 'sleep 5'", ["web", "sleep 5 is not there", "quotes"]),
        ('cmd = "sleep 5"', ["web", "sleep 5 is not there", "quotes"]),
        ("cmd = sleep 5 ; nope for that", ["web", "nope", "no comment"]),
        ("cmd = sleep 5\nstdout = /usr", ["web", "/usr", "folder"]),
        ("cmd = sleep 5\nstdout = /usr\nstderr = /usr", ["web", "/usr", "folder"]),
        ("cmd = sleep 5\nenv_file = /srv/nope.env", ["web", "/srv/nope.env"]),
    ],
)
def test_check_of_the_image(options: str, words: list[str], main: SimpleNamespace, tmp_path: Path, capfd: Capture) -> None:
    """What the image lacks is one warning, and names the unit and the thing."""
    (tmp_path / "plain").write_text("no program\n")
    (warning,) = check(main, capfd, f"[daemon:web]\n{options}\n")
    assert all(word in warning for word in words)


def test_check_of_serve(main: SimpleNamespace, tmp_path: Path, capfd: Capture) -> None:
    """Only root and overlord's own user may ask: another `uid` can serve nothing."""
    tool = tmp_path / "overlord.py"
    tool.write_text("#!/bin/sh\n")
    tool.chmod(0o755)
    assert check(main, capfd, f"[daemon:web]\ncmd = {tool} serve 9001\n") == []
    assert check(main, capfd, f"[daemon:web]\ncmd = {tool} serve 9001\nuid = {os.getuid()}\n") == []
    (warning,) = check(main, capfd, f"[daemon:web]\ncmd = {tool} serve 9001\nuid = 54321\n")
    assert "leave uid out" in warning
    config = "[daemon:a]\ncmd = {0} serve 0.0.0.0:9001\n[daemon:b]\ncmd = {0} serve {1}\n"
    assert check(main, capfd, config.format(tool, 9002)) == []
    assert check(main, capfd, config.format(tool, 9001)) == ["b: a serves at port 9001 too"]


def test_check_of_probes_that_overlord_answers(main: SimpleNamespace, capfd: Capture) -> None:
    """The socket of `listen` takes connections with nobody behind it, whoever's probe that is; not another host's."""
    text = "[daemon:web]\ncmd = sleep 5\nlisten = tcp:80 unix:/run/x\n[daemon:app]\ncmd = sleep 5\n"
    for option in ("ready = tcp:80", "health = tcp:127.0.0.1:80", "wait_for = tcp:db:81 unix:/run/x"):
        (warning,) = check(main, capfd, text + option + "\n")
        assert "app: " in warning and "always passes, since overlord itself, for [daemon:web], listens there" in warning
    for option in ("ready = tcp:81", "health = tcp:other.host:80", "wait_for = http://localhost/"):
        assert check(main, capfd, text + option + "\n") == []


def test_check_warns_of_all_that_lacks(main: SimpleNamespace, capfd: Capture) -> None:
    """One run of `check` says everything."""
    text = "[daemon:a]\ncmd = nope1\nuid = nope2\ndir = /nope3\n[script:b]\ncmd = nope4\ngid = nope5\n"
    warnings = "\n".join(check(main, capfd, text))
    assert [word for word in ("nope1", "nope2", "/nope3", "nope4", "nope5") if word not in warnings] == []


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ("cmd = sleep 5\n  --workers 3", "\\"),
        ("cmd = sleep \\\n  5\n\n    --workers 3", "\\"),
        ("cmd = sleep 5\nstop_cmd = true\n  -x", "\\"),
        ('cmd = sleep 5\nenv = HOME="/x",USER="y"', "KEY=value"),
        ("cmd = sleep 5\nenv =\n  A=1\n  B=2, C=3".replace(" C", "C"), "KEY=value"),
        ("cmd = sleep %(ENV_TIME)s", "${...}"),
        ("cmd = sleep 5\nstdout = %(here)s.log".replace("%", "/tmp/%"), "${...}"),
        ("cmd = sleep 5\nenv = A='%(process_num)02d'", "${...}"),
        ("cmd = sleep 5\ndir = /\nenv = A=$(circus.env.x)", "${...}"),
        ("cmd = sleep 5\nstdout = /var/log/a.log # all", "no comment"),
        ("cmd = sleep 5 &", "background"),
        ("cmd =\n  A=5\n  sleep $A&", "background"),
    ],
)
def test_check_doubts(options: str, word: str, main: SimpleNamespace, capfd: Capture) -> None:
    """What is valid and surely not meant has a warning, with its line."""
    (warning,) = check(main, capfd, f"[daemon:web]\n{options}\n")
    assert re.match(r"main.conf:[234]: \[daemon:web\] (cmd|stop_cmd|env|stdout): ", warning)
    assert word in warning


@pytest.mark.parametrize(
    "options",
    [
        "cmd = sleep \\\n  5 \\\n  --workers 3",
        "cmd =\n  sleep 5\n  sleep 6",
        "cmd =\n  cat <<E\n  - one\n  E",
        "cmd = sh -c 'sleep\n  - x'",
        "cmd = sleep 5\nenv = OPTS=a=1,b=2",
        'cmd = sleep 5\nenv = OPTS="-DA=1,B=2"',
        "cmd = sleep 5\nenv = FORMAT='%(asctime)s %(levelname)s %(name)s %(message)s'",
        "cmd = sleep $(date +%s)",
        "cmd = sleep 5  # which the shell drops",
        "cmd =\n  sleep 5  # in a script a comment is one\n  sleep 6",
        "cmd = sleep '5 # 6'; exec sleep $#",
        "cmd = sleep 5 ; exec sleep 6",
        "cmd = cd /srv ; ./app",
        "cmd = export PATH=/srv/bin ; app",
        r"cmd = sleep 5 \&",
        "cmd = f() ( sleep 5 ) ; f",
        "cmd = 'sleep' 5",
        'cmd = "/bin/sleep"',
        "cmd = sleep 5 & wait",
        "cmd = sleep 5\nenv_file = -/srv/nope.env",
    ],
)
def test_check_does_not_doubt(options: str, main: SimpleNamespace, capfd: Capture) -> None:
    """What only looks like it has none."""
    assert check(main, capfd, f"[daemon:web]\n{options}\n") == []


# The options of supervisor 4.3.0 (options.py) and circus 0.19.0 (config.py, watcher.py), and what they are here: "" nothing.
FOREIGN = {
    "cmd": "command args executable execstart",
    "uid": "user",
    "dir": "directory working_dir workdir",
    "env": "environment",
    "restart": "autorestart respawn",
    "warmup": "startsecs",
    "respawns": "startretries max_retry",
    "success": "exitcodes",
    "stop_signal": "stopsignal",
    "stop_timeout": "stopwaitsecs graceful_timeout",
    "kill_mode": "stopasgroup stop_children",
    "count": "numprocs numprocesses",
    "deps": "priority depends_on depend hooks.before_start dependencies depends-on requires after",
    "env_file": "environmentfile",
    "stderr": "redirect_stderr stderr_logfile stderr_stream.class stderr_stream.filename",
    "stdout": "stdout_logfile stdout_stream.class stdout_stream.max_bytes logfile",
    "log_max": "stdout_logfile_maxbytes stderr_logfile_maxbytes",
    "log_keep": "stdout_logfile_backups stderr_logfile_backups",
    "limits": "rlimit_nofile rlimit_core minfds",
    "max_age": "max_age_variance",
    "log_level": "loglevel",
    "configdir": "include include_dir files",
    "listen": "use_sockets socket_owner socket_mode socket_backlog",
    "": "process_name numprocs_start killasgroup serverurl nodaemon silent childlogdir identifier nocleanup strip_ansi minprocs"
    " stdout_capture_maxbytes stderr_capture_maxbytes stdout_events_enabled stderr_events_enabled stdout_syslog stderr_syslog"
    " logfile_maxbytes logfile_backups programs events buffer_size result_handler"
    " copy_env copy_path shell shell_args warmup_delay send_hup singleton on_demand close_child_stdin"
    " close_child_stdout close_child_stderr virtualenv virtualenv_py_ver check_delay endpoint endpoint_owner pubsub_endpoint"
    " multicast_endpoint stats_endpoint debug"
    " debug_gc logoutput loggerconfig fqdn_prefix stream_backend",
}


@pytest.mark.parametrize(("option", "word"), [(option, word) for option, words in FOREIGN.items() for word in words.split()])
def test_foreign_options(option: str, word: str) -> None:
    """A word of another supervisor is told its name here; one without a counterpart is told that."""
    (line,) = mistakes(f"{WEB}{word} = x\n")
    assert f"[daemon:web] {word}: " in line
    assert f"`{option}`" in line if option else "leave it out" in line


@pytest.mark.parametrize(
    ("section", "words"),
    [
        *[(f"{kind}:x", ["[daemon:NAME]", "[script:NAME]"]) for kind in ("program", "fcgi-program", "watcher")],
        *[(kind, ["[overlord]"]) for kind in ("supervisord", "circus")],
        ("program=x", ["[daemon:NAME]"]),
        ("include", ["configdir"]),
        ("eventlistener:x", ["on_failure"]),
        ("group:x", ["glob"]),
        *[(kind, ["`env`"]) for kind in ("env", "env:x")],
        *[(kind, ["leave it out"]) for kind in ("unix_http_server", "supervisorctl")],
        *[(kind, ["leave it out"]) for kind in ("rpcinterface:supervisor", "plugin:x", "ctlplugin:x")],
        ("socket:x", ["`listen`", "tcp:", "unix:"]),
        *[(kind, ["[daemon:http]", "serve"]) for kind in ("inet_http_server", "httpd", "statsd")],
    ],
)
def test_foreign_sections(section: str, words: list[str]) -> None:
    """So is a section."""
    (line,) = mistakes(f"{WEB}[{section}]\nx = y\n")
    assert line.startswith(f"0.conf:3: [{section}]: ")
    assert [word for word in words if word not in line] == []


@pytest.mark.parametrize(
    ("option", "text", "right"),
    [
        ("restart", "unexpected", "on-failure"), ("restart", "true", "always"), ("restart", "False", "never"),
        ("stdout", "AUTO", "inherit"), ("stderr", "NONE", "null"),
    ],
)  # fmt: skip
def test_foreign_values(option: str, text: str, right: str) -> None:
    """So is a value."""
    (line,) = mistakes(f"{WEB}{option} = {text}\n")
    assert f'did you mean "{right}"?' in line


@pytest.mark.parametrize(
    ("text", "right"), [("warn", "warning"), ("critical", "error"), ("TRACE", "debug"), ("blather", "debug")]
)
def test_foreign_log_levels(text: str, right: str) -> None:
    """The levels of supervisord that are called otherwise here."""
    (line,) = mistakes(f"[overlord]\nlog_level = {text}\n{WEB}")
    assert f'did you mean "{right}"?' in line


@pytest.mark.parametrize("word", "tail update reread avail pid".split())
def test_foreign_verbs(word: str) -> None:
    """Those of supervisorctl that are called otherwise here."""
    assert overlord.VERBS[overlord.FOREIGN_VALUES[word]].asks


@pytest.mark.parametrize(
    ("word", "right"), [("env_fil", "env_file"), ("comand", ""), ("stop_singal", "stop_signal"), ("cnd", "cmd")]
)
def test_foreign_words_hide_no_near_one(word: str, right: str) -> None:
    """A misspelt word of overlord's own is still told the right one."""
    (line,) = mistakes(f"{WEB}{word} = x\n")
    assert (f'did you mean "{right}"?' in line) == bool(right)


CHAIN = (
    "[daemon:a]\ncmd = sleep 1\n{}[daemon:b]\ncmd = sleep 1\ndeps = a\n{}"
    "[script:s]\ncmd = true\ndeps = b\n[daemon:c]\ncmd = sleep 1\n"
)


@pytest.mark.parametrize(
    ("head", "a", "b", "c", "warned"),
    [
        ("", "", "", "", True),  # 8 s and 8 s, of 9 s
        ("", "", "", "deps = s\n", True),
        ("", "stop_timeout = 1s\n", "stop_timeout = 2s\n", "deps = s\nstop_timeout = 3s\n", False),
        ("", "stop_timeout = 1s\n", "stop_timeout = 2s\n", "stop_timeout = 8s\n", False),  # not one chain
        ("", "stop_timeout = 1s\n", "stop_timeout = 2s\n", "deps = s\nstop_timeout = 8s\n", True),
        ("[overlord]\nshutdown_timeout = 30s\n", "", "", "deps = s\n", False),
        ("[overlord]\nshutdown_timeout = 5s\n", "stop_timeout = 2s\n", "stop_timeout = 4s\n", "stop_timeout = 0\n", True),
    ],
)  # fmt: skip
def test_check_of_the_time_to_stop(
    head: str, a: str, b: str, c: str, warned: bool, main: SimpleNamespace, capfd: Capture
) -> None:
    """Where the longest chain of `stop_timeout`s does not fit, `check` says so and names `docker stop -t`."""
    warnings = of_time(check(main, capfd, head + CHAIN.format(a, b) + c))
    assert len(warnings) == warned
    for warning in warnings:
        form = r"may take (.*) for what is left, .* shutdown_timeout = (\d+)s, and use docker stop -t (\d+)"
        numbers = re.search(form, warning)
        assert numbers and int(numbers[2]) < int(numbers[3])
        assert sum(float(term.split()[-2]) for term in numbers[1].split(" + ")) == int(numbers[2])
        longer = f"[overlord]\nshutdown_timeout = {numbers[2]}s\n"
        assert of_time(check(main, capfd, longer + CHAIN.format(a, b) + c)) == []


def of_time(warnings: list[str]) -> list[str]:
    """Return the warnings less that of a script that nobody needs."""
    return [warning for warning in warnings if "script" not in warning]


def test_check_of_writers(main: SimpleNamespace, tmp_path: Path, capfd: Capture) -> None:
    """root is warned of configuration that others can write; anyone else has nobody to fear."""
    as_root = os.geteuid() == 0
    folder = tmp_path / "conf.d"
    folder.mkdir(mode=0o755)
    file = folder / "web.conf"
    config = f"[overlord]\nconfigdir = {folder}\n[daemon:db]\ncmd = true\n"
    file.write_text("[daemon:web]\ncmd = true\n")
    assert check(main, capfd, config) == []
    for path, modes in ((file, (0o646, 0o666)), (folder, (0o757, 0o777)), (tmp_path / "main.conf", (0o602,))):
        for mode in modes:
            before = path.stat().st_mode
            path.chmod(mode)
            warnings = check(main, capfd, config)
            assert len(warnings) == as_root, (path, oct(mode))
            assert all(str(path) in warning or path.name in warning for warning in warnings)
            path.chmod(before)
    if as_root:
        os.chown(file, 12345, -1)
        (warning,) = check(main, capfd, config)
        assert str(file) in warning
        os.chown(file, 0, 12345)
        assert check(main, capfd, config) == []
        file.chmod(0o664)
        assert len(check(main, capfd, config)) == 1


@pytest.mark.parametrize("mode", [0o777, 0o1777])
@pytest.mark.parametrize("empty", [False, True])
def test_check_of_a_configdir_where_others_can_add(
    mode: int, empty: bool, main: SimpleNamespace, tmp_path: Path, capfd: Capture
) -> None:
    """A configdir that others can write is dangerous while it is empty too, and whatever its sticky bit says."""
    folder = tmp_path / "conf.d"
    folder.mkdir()
    if not empty:
        (folder / "web.conf").write_text("[daemon:web]\ncmd = true\n")
    folder.chmod(mode)
    warnings = check(main, capfd, f"[overlord]\nconfigdir = {folder}\n[daemon:db]\ncmd = true\n")
    assert len(warnings) == (os.geteuid() == 0)
    assert all(str(folder) in warning for warning in warnings)


def test_check_without_any_configuration(main: SimpleNamespace, capfd: Capture) -> None:
    """An image that gives its COMMAND alone is fine."""
    assert main.run("check") == 0
    out, err = capfd.readouterr()
    assert "0 daemons, 0 scripts" in out and "nothing but a COMMAND" in err


@pytest.mark.parametrize("option", sorted({option.name for option in overlord.OPTIONS}))
def test_help_of_an_option(option: str, main: SimpleNamespace, capfd: Capture) -> None:
    """`help OPTION` says where it goes, its default, and what it means."""
    assert main.run("help", option) == 0
    out, err = capfd.readouterr()
    (entry,) = [entry for entry in overlord.OPTIONS if entry.name == option]
    assert err == "" and out.startswith(option) and entry.help in out and (entry.default or entry.shown) in out
    sections = {"o": "[overlord]", "s": "[script:NAME]", "d": "[daemon:NAME]"}
    assert all((section in out) == (kind in entry.kinds) for kind, section in sections.items())


@pytest.mark.parametrize("verb", overlord.VERBS)
def test_help_of_a_verb(verb: str, main: SimpleNamespace, capfd: Capture) -> None:
    """`help VERB` says what it takes and does."""
    assert main.run("help", verb) == 0
    out, err = capfd.readouterr()
    assert err == "" and f"  {verb} {overlord.VERBS[verb].words}" in out and overlord.VERBS[verb].help in out


@pytest.mark.parametrize("words", [["help"], ["--help"], ["-h"], ["-c", "absent.conf", "help"]])
def test_help(words: list[str], main: SimpleNamespace, capfd: Capture) -> None:
    """Help needs no configuration, and goes to stdout."""
    assert main.run(*words) == 0
    out, err = capfd.readouterr()
    assert err == "" and all(verb in out for verb in (*overlord.VERBS, "-c FILE", "COMMAND", "OVERLORD_CONFIG"))


@pytest.mark.parametrize("words", [["version"], ["--version"], ["-V"], ["-c", "absent.conf", "version"]])
def test_version(words: list[str], main: SimpleNamespace, capfd: Capture) -> None:
    """One line with the version."""
    assert main.run(*words) == 0
    assert capfd.readouterr() == (f"overlord {overlord.VERSION}\n", "")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["-c"], "-c"),
        (["-x"], "-x"),
        (["--config", "x.conf"], "--config"),
        (["-c", "x.conf", "-v"], "-v"),
        (["check", "web"], "check"),
        (["version", "2"], "version"),
        (["run", "web"], "run"),
        (["help", "nonsense"], "nonsense"),
        (["help", "stop_timout"], 'did you mean "stop_timeout"?'),
    ],
)
def test_usage(words: list[str], said: str, main: SimpleNamespace, capfd: Capture) -> None:
    """A usage error says what, where to look, and exits with 64."""
    assert main.run(*words) == 64
    out, err = capfd.readouterr()
    assert out == "" and said in err and "help" in err
    assert all(line.startswith("overlord: ") for line in err.splitlines())


@pytest.mark.parametrize(
    ("word", "pattern"),
    [
        ("warmup", "^warmup  in "),
        ("bounce", "(?s)^deps  in .*`bounce`"),  # the value of an option
        ("user", "^user: write `uid`"),  # another supervisor's word
        ("unexpected", "^restart  in "),
        ("tail", "^  logs "),
    ],
)
def test_help_about_a_word(word: str, pattern: str, main: SimpleNamespace, capfd: Capture) -> None:
    """Of a verb, an option, its values, and what other supervisors call so."""
    assert main.run("help", word) == 0
    assert re.search(pattern, capfd.readouterr().out)


@pytest.mark.parametrize(
    ("words", "parsed"),
    [
        ([], (None, "run", [])),
        (["run"], (None, "run", [])),
        (["-c", "x"], ("x", "run", [])),
        (["-c", "x", "run"], ("x", "run", [])),
        (["-c", "x", "check"], ("x", "check", [])),
        (["check", "-c", "x"], ("x", "check", [])),
        (["check", "-c"], (None, "mistake", ["-c needs a FILE"])),
        (["exec", "-c", "x", "web", "sh", "-c", "y"], ("x", "exec", ["web", "sh", "-c", "y"])),
        (["-c", "x", "-c", "y"], ("y", "run", [])),
        (["bash"], (None, "run", ["bash"])),
        (["bash", "-c", "check"], (None, "run", ["bash", "-c", "check"])),
        (["-c", "x", "bash", "-c", "y"], ("x", "run", ["bash", "-c", "y"])),
        (["--", "check"], (None, "command", ["check"])),
        (["--", "run", "--", "-c"], (None, "command", ["run", "--", "-c"])),
        (["-c", "x", "--", "-c"], ("x", "command", ["-c"])),
        (["--"], (None, "command", [])),
        (["status", "--help"], (None, "help", ["status"])),
        (["-c", "x", "run", "-h"], ("x", "help", ["run"])),
        (["exec", "web", "--help"], (None, "exec", ["web", "--help"])),
        (["nginx", "--help"], (None, "run", ["nginx", "--help"])),
        (["help", "env"], (None, "help", ["env"])),
        ([""], (None, "run", [""])),
    ],
)
def test_arguments(words: list[str], parsed: object) -> None:
    """A first word that is a verb is one; anything else is the main command, and `--` forces it."""
    assert overlord.parse_arguments(words) == parsed


# --- sort_units ------------------------------------------------------------------------------------------------------


def graph(edges: Mapping[str, Sequence[str]]) -> tuple[list[str], list[list[str]]]:
    """Return the order and the cycles of units with the given dependencies."""
    return overlord.sort_units({name: [(dep, "ok") for dep in deps] for name, deps in edges.items()})


def tangled(edges: Mapping[str, Sequence[str]]) -> list[set[str]]:
    """Return the sets of units that depend on one another (the slow and obvious way)."""
    reach = {name: set(deps) & set(edges) for name, deps in edges.items()}
    for _ in edges:
        reach = {name: near.union(*(reach[dep] for dep in near)) for name, near in reach.items()}
    sets = {frozenset(other for other in edges if other in reach[name] and name in reach[other]) for name in edges}
    return [set(each) for each in sets if each]


@st.composite
def graphs(draw: Any) -> dict[str, list[str]]:
    """Return a random graph; sometimes with dependencies on units that are not there."""
    names = [f"u{number}" for number in range(draw(st.integers(0, 9)))]
    others = st.sampled_from([*names, "missing"])
    return {name: draw(st.lists(others, max_size=3, unique=True)) for name in names}


@given(graphs())
@settings(relaxed, max_examples=200)
def test_order_and_cycles(edges: dict[str, list[str]]) -> None:
    """The order names each unit once, with dependencies first but for cycles; all cycles that are named are real."""
    order, cycles = graph(edges)
    knots = tangled(edges)
    assert sorted(order) == sorted(edges)
    for cycle in cycles:
        assert cycle[0] == cycle[-1] and len(set(cycle)) == len(cycle) - 1
        assert all(two in edges[one] for one, two in zip(cycle, cycle[1:]))
    assert bool(cycles) == bool(knots)
    for knot in knots:
        assert any(set(cycle) <= knot for cycle in cycles), f"no cycle is named among {sorted(knot)}"
    for name, deps in edges.items():
        for dep in deps:
            if dep in edges and not any({name, dep} <= knot for knot in knots):
                assert order.index(dep) < order.index(name)


@given(st.integers(1, 12), st.randoms(use_true_random=False))
def test_order_without_cycles(count: int, random: Any) -> None:
    """Where nothing is in a cycle, none is named; and units that need nothing keep the order they were given in."""
    names = [f"u{number}" for number in range(count)]
    hidden = random.sample(names, count)
    edges = {name: random.sample(hidden[: hidden.index(name)], random.randint(0, hidden.index(name))) for name in names}
    order, cycles = graph(edges)
    assert cycles == []
    assert all(order.index(dep) < order.index(name) for name, deps in edges.items() for dep in deps)
    assert graph({name: [] for name in hidden}) == (hidden, [])


def test_long_chains() -> None:
    """A chain may be as long as one likes, and so may a cycle."""
    names = [f"u{number}" for number in range(5000)]
    edges = {name: [after] for name, after in zip(names, names[1:])}
    with cpu_limit(5):
        assert graph({**edges, names[-1]: []}) == (names[::-1], [])
        assert graph({**edges, names[-1]: [names[0]]})[1] == [[*names, names[0]]]


# --- words -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("word", "known", "near"),
    [
        ("stop_timout", ["stop_timeout", "stop_signal"], "stop_timeout"),
        ("nginx", ["redis", "web"], None),
        ("Web", ["web"], "web"),
        ("wbe", ["web", "db"], "web"),
        ("a", ["b"], None),
        ("databsae", ["database"], "database"),
        ("", ["a"], None),
        ("x", [], None),
    ],
)
def test_suggest(word: str, known: list[str], near: str | None) -> None:
    """The nearest word, where one is near: a letter too many, too few, another, or two that changed places."""
    assert overlord.suggest(word, known) == (f', did you mean "{near}"?' if near else "")


@given(st.floats(0, 10**9))
def test_durations_are_spelt(seconds: float) -> None:
    """What is spelt for people is about right, and short."""
    words = overlord.spell_duration(seconds).split()
    units = {"s": 1, "min": 60, "h": 3600, "d": 86400}
    total = sum(float(number) * units[unit] for number, unit in zip(words[::2], words[1::2]))
    assert total == pytest.approx(seconds, rel=0.06, abs=0.006)
    assert len(words) in (2, 4) and "60 s" not in " ".join(words)


@pytest.mark.parametrize("number", sorted(int(number) for number in signal.valid_signals()))
def test_signals_are_spelt_and_read(number: int) -> None:
    """Each signal has a name, which is read as the same signal."""
    name = overlord.spell_signal(number)
    assert name.startswith("SIG") and overlord.parse_signal(name) == number == overlord.parse_signal(name[3:])
    assert overlord.parse_signal(str(number)) == number


@pytest.mark.parametrize("verb", [name for name, verb in overlord.VERBS.items() if verb.asks])
def test_verbs_are_no_commands(verb: str) -> None:
    """A verb is a verb, and after `--` a program of that name; each is known to the client."""
    assert overlord.parse_arguments([verb, "x"]) == (None, verb, ["x"])
    assert overlord.parse_arguments(["--", verb]) == (None, "command", [verb])
    assert hasattr(overlord.Control, f"do_{verb}") or verb in overlord.SHOWS


def test_hint_for_a_unit_that_many_miss_takes_no_time() -> None:
    """One renamed unit that hundreds depend on."""
    text = "".join(f"[daemon:web-number-{n}]\ncmd = x\ndeps = database-primary\n" for n in range(300))
    with cpu_limit(3):
        assert len(mistakes(text)) == 300


@pytest.mark.parametrize(("line", "hinted"), [("warmup = 3s  # three", True), ("count = 2 ; two", True), ("warmup = 3#s", False)])
def test_a_comment_in_a_value_that_is_wrong(line: str, hinted: bool, tmp_path: Path) -> None:
    """Who knows comments behind values from other formats reads what is wrong."""
    (tmp_path / "a.conf").write_text(f"[daemon:web]\ncmd = x\n{line}\n")
    with pytest.raises(overlord.Mistakes) as raised:
        overlord.read_config(str(tmp_path / "a.conf"), {}, [])
    assert ("begin no comment inside a value" in str(raised.value.args)) is hinted
