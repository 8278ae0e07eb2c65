"""`count`, `env_file`, `secrets`, `limits` and `stop_cmd`: what becomes of them in real processes."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Callable

import pytest

from conftest import Start, resolve
from harness import PATH, Asking, Overlord, Process, daemon, eventually, script

NEVER = "1000s"
SLEEP = "exec sleep 12345"
SECRET = "xyzzy-4711"
IGNORE = {"restart": "never", "on_failure": "ignore"}


def pids(o: Overlord, *names: str) -> list[int]:
    """Return the processes of units as they were last started."""
    return [o.unit(name).pid for name in names]


# --- count -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("variables", "number"), [({}, 3), ({"N": "2"}, 2)])
def test_a_number_of_instances(overlord: Start, variables: dict[str, str], number: int) -> None:
    """Each is a unit of its own, knows its number, and whoever depends on the name has all of them up before it."""
    o = overlord(
        daemon("web", SLEEP, count="${N:-3}") + daemon("front", SLEEP, deps="web"), env={"PATH": PATH, **variables}
    )
    o.says("front", "ok")
    names = [f"web-{index + 1}" for index in range(number)]
    assert o.started == [*names, "front"]
    for index, name in enumerate(names):
        environment = o.unit_is(name, "sleep").environ
        assert f"OVERLORD_INSTANCE={index + 1}".encode() in environment
        assert f"OVERLORD_NAME={name}".encode() in environment
    assert not any(line.startswith(b"OVERLORD_INSTANCE") for line in o.unit_is("front", "sleep").environ)
    assert o.position("front: started") > max(o.position(f"{name}: ok") for name in names)
    assert o.stop() == 0


def test_none_at_all(overlord: Start) -> None:
    """Of a count of 0 there is none, and a dependency on it is met."""
    o = overlord(daemon("web", SLEEP, count=0) + daemon("front", SLEEP, deps="web:bounce"))
    o.says("front", "ok")
    assert o.started == ["front"]
    assert o.stop() == 0


def test_each_bounces(overlord: Start) -> None:
    """One instance that is restarted has the dependent restarted, and no other instance."""
    o = overlord(daemon("web", SLEEP, count=3, backoff=0) + daemon("front", SLEEP, deps="web:bounce"))
    o.says("front", "ok")
    before, mark = pids(o, "web-1", "web-3"), o.mark
    o.kill_unit("web-2")
    o.says("front", "ok", after=mark)
    assert o.starts("front") == 2
    assert pids(o, "web-1", "web-3") == before
    assert o.stop() == 0


def test_instances_bounce_with_another(overlord: Start) -> None:
    """All instances of a dependent are restarted, once each."""
    o = overlord(daemon("db", SLEEP, backoff=0) + daemon("web", SLEEP, count=2, deps="db:bounce"))
    o.wait_ok("web-1")
    o.wait_ok("web-2")
    o.kill_unit("db")
    o.wait_ok("web-1", 2)
    o.wait_ok("web-2", 2)
    assert [o.starts(name) for name in ("db", "web-1", "web-2")] == [2, 2, 2]
    assert o.stop() == 0


@pytest.mark.parametrize("first", [True, False])
def test_a_clash_of_names(overlord: Start, first: bool) -> None:
    """A unit that has the name of an instance is a mistake, wherever it stands."""
    both = [daemon("web", SLEEP, count=2), script("web-2")]
    o = overlord("".join(both if first else reversed(both)))
    assert o.wait_exit() == 78
    assert o.count(r"overlord.conf:\d+: \[script:web-2\]: the name is taken by an instance of \[daemon:web\]") == 1


def test_two_clashes_of_instances(overlord: Start) -> None:
    """So is an instance of an instance's name."""
    o = overlord(daemon("a", SLEEP, count=11) + daemon("a-1", SLEEP, count=1))
    assert o.wait_exit() == 78
    assert o.count(r"\[daemon:a-1\]: the name is taken") == 1


def test_another_count_at_reload(fleet: Start) -> None:
    """More instances are added, fewer removed, and the processes of the others stay; down to one and to none too."""
    o = fleet(daemon("web", SLEEP, count=2) + daemon("other", SLEEP))
    o.wait_ok("web-2")
    o.wait_ok("web-1")
    before = pids(o, "web-1", "web-2")
    text = o.config.read_text()
    o.config.write_text(text.replace("count = 2", "count = 4"))
    o.ask("reload")
    o.wait_ok("web-4")
    assert pids(o, "web-1", "web-2") == before
    o.config.write_text(text)
    o.ask("reload")
    o.says("web-3", "stopped")
    o.says("web-4", "stopped")
    assert pids(o, "web-1", "web-2") == before
    assert o.unit("web-1").alive and o.unit("web-2").alive
    o.config.write_text(text.replace("count = 2", "count = 0"))
    o.ask("reload")
    o.says("web-1", "stopped")
    assert o.unit("other").alive
    assert o.stop() == 0


@pytest.mark.parametrize("how", ["restart", "max_age"])
def test_one_at_a_time(fleet: Start, how: str) -> None:
    """Never are two of them down at once: each waits for the one before to be OK."""
    options = {"max_age": "400ms"} if how == "max_age" else {}
    o = fleet(daemon("web", SLEEP, count=3, warmup="100ms", **options))
    for index in (1, 2, 3):
        o.wait_ok(f"web-{index}")
    if how == "restart":
        o.ask("restart", "web-*")
    for index in (1, 2, 3):
        o.wait_ok(f"web-{index}", 2)
    down: set[str] = set()
    for line in o.log:
        found = re.match(r"overlord: (web-\d): (stopping|ok)", line)
        if found and found[2] == "stopping":
            down.add(found[1])
            assert len(down) == 1, (line, str(o))
        elif found:
            down.discard(found[1])
    assert o.stop() == 0


def test_restart_by_its_name(fleet: Start) -> None:
    """The name in the configuration stands for all of its instances."""
    o = fleet(daemon("web", SLEEP, count=2))
    o.wait_ok("web-1")
    o.wait_ok("web-2")
    o.ask("restart", "web")
    eventually(lambda: [o.starts(name) for name in ("web-1", "web-2")] == [2, 2], "each was restarted once")
    assert o.stop() == 0


# --- env_file --------------------------------------------------------------------------------------------------------


def test_env_file(overlord: Start, tmp_path: Path) -> None:
    """Blank lines, comments, quotes and blanks in values; a later file wins, `env` over both, and sees them."""
    (tmp_path / "one").write_text("# no\n\nA=1\nB='two words'\nC=\"a # b\"\n D=x y \nE=\nF=a=b\nG=first\r\nH=$A\n")
    (tmp_path / "two").write_text("G=second\nA.b=dot")
    o = overlord(daemon("web", "sleep 12345", env_file=f"{tmp_path}/one -{tmp_path}/none {tmp_path}/two", env="I=${B}!\nE=own"))
    o.says("web", "ok")
    found = dict(pair.partition(b"=")[::2] for pair in o.unit_is("web", "sleep").environ)
    expected = {"A": "1", "B": "two words", "C": "a # b", "D": "x y", "E": "own", "F": "a=b", "G": "second", "H": "$A"}
    expected.update({"I": "two words!", "A.b": "dot"})
    assert {key: found[key.encode()].decode() for key in expected} == expected
    assert o.stop() == 0


def test_env_file_that_a_script_writes(overlord: Start, tmp_path: Path) -> None:
    """It is read at each start, not before."""
    write = f"echo N=$(cat count 2>/dev/null | wc -l) > {tmp_path}/file; echo >> count"
    o = overlord(script("write", write) + daemon("web", SLEEP, env_file=f"{tmp_path}/file", deps="write:always", backoff=0))
    for number in (0, 1):
        o.wait_ok("web", number + 1)
        assert f"N={number}".encode() in o.unit_is("web", "sleep").environ
        o.kill_unit("web")
    o.wait_ok("web", 3)
    assert o.stop() == 0


@pytest.mark.parametrize(
    ("content", "said"),
    [(None, "No such file"), ("A=1\nno equals sign\n", "file:2: is not of the form KEY=value"), ("=x\n", "file:1: ")],
)
def test_env_file_that_fails(overlord: Start, tmp_path: Path, content: str | None, said: str) -> None:
    """Missing or broken it is a failed start, and what stands in it is not shown."""
    if content is not None:
        (tmp_path / "file").write_text(content)
    o = overlord(daemon("web", SLEEP, env_file=f"{tmp_path}/file", **IGNORE))
    assert o.says("web", "failed: cannot start: env_file .*" + said)
    o.wait_exit()
    assert not o.count("no equals")


# --- secrets ---------------------------------------------------------------------------------------------------------


def test_secrets(fleet: Start, tmp_path: Path, asking_all: Callable[[Overlord], str]) -> None:
    """The file that NAME_FILE names is read, for this unit alone; nothing that overlord says holds what it read."""
    (tmp_path / "token").write_text(SECRET + "\n")
    config = daemon("web", SLEEP, secrets="TOKEN", env="URL=db://${TOKEN}@x") + daemon("other", SLEEP)
    config += daemon("bad", SLEEP, secrets="TOKEN", dir="/no/such/folder", **IGNORE)
    config += daemon("dies", "exit 3", secrets="TOKEN", stdout="prefix", warmup=NEVER, **IGNORE)
    o = fleet(config, env={"PATH": PATH, "TOKEN_FILE": f"{tmp_path}/token"})
    o.says("web", "ok")
    o.says("other", "ok")
    o.says("bad", "failed")
    o.says("dies", "failed")
    environment = o.unit_is("web", "sleep").environ
    assert f"TOKEN={SECRET}".encode() in environment
    assert f"URL=db://{SECRET}@x".encode() in environment
    assert not any(SECRET.encode() in pair for pair in o.unit_is("other", "sleep").environ)
    said = asking_all(o)
    assert o.stop() == 0
    assert SECRET not in said + str(o)


@pytest.fixture
def asking_all() -> Callable[[Overlord], str]:
    """A function that runs all verbs that say something, and returns it."""

    def ask(o: Overlord) -> str:
        verbs = ["check", "status", "status -j", "logs web", "logs dies", "why web", "why bad", "why dies", "timeline -j"]
        done = [o.ask(*verb.split(), code=None) for verb in (*verbs, "reload", "restart web", "start bad")]
        return "".join(each.stdout + each.stderr for each in done)

    return ask


def test_run_secrets(overlord: Start, tmp_path: Path) -> None:
    """Without NAME_FILE it is /run/secrets/NAME, where an orchestrator puts it."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount")
    (tmp_path / "password").write_text(SECRET)
    mount = f'mount -t tmpfs none /run && mkdir /run/secrets && cp {tmp_path}/password /run/secrets/PASSWORD && exec "$@"'
    prefix = ["unshare", "--mount", "sh", "-c", mount, "sh"]
    o = overlord(daemon("web", SLEEP, secrets="PASSWORD"), prefix=prefix)
    o.says("web", "ok")
    assert f"PASSWORD={SECRET}".encode() in o.unit_is("web", "sleep").environ
    assert o.stop() == 0


def test_a_missing_secret(overlord: Start, tmp_path: Path) -> None:
    """It is a failed start that names the secret and the file."""
    o = overlord(daemon("web", SLEEP, secrets="TOKEN", **IGNORE), env={"PATH": PATH, "TOKEN_FILE": f"{tmp_path}/none"})
    o.says("web", f"failed: cannot start: secret TOKEN: {tmp_path}/none: No such file")
    o.wait_exit()


# --- limits ----------------------------------------------------------------------------------------------------------


def may_raise_limits() -> bool:
    """Tell whether root may raise a hard limit here."""
    return bool(int(Process(os.getpid()).status["CapEff"], 16) >> 24 & 1)


@pytest.mark.parametrize("interpreter", ["system", "minimal"])
def test_limits_are_lowered(
    overlord: Start, tmp_path_factory: pytest.TempPathFactory, public: Path, interpreter: str
) -> None:
    """A number is both limits; SOFT:HARD each. This takes no privilege."""
    config = daemon("web", SLEEP, limits="nofile=300:400 core=0", uid="nobody")
    config += daemon("other", SLEEP, limits="nofile=350, fsize=1M:2M")
    o = overlord(config, python=resolve(interpreter, tmp_path_factory), folder=public)
    o.says("web", "ok")
    o.says("other", "ok")
    text = (o.unit_is("web", "sleep").folder / "limits").read_text()
    assert re.search(r"Max open files +300 +400 ", text)
    assert re.search(r"Max core file size +0 +0 ", text)
    text = (o.unit_is("other", "sleep").folder / "limits").read_text()
    assert re.search(r"Max open files +350 +350 ", text)
    assert re.search(r"Max file size +1048576 +2097152 ", text)
    assert o.stop() == 0


@pytest.mark.parametrize("interpreter", ["system", "minimal"])
def test_limits(overlord: Start, tmp_path_factory: pytest.TempPathFactory, public: Path, interpreter: str) -> None:
    """Root raises them before it becomes another user; one that may not is told, and the unit has not started."""
    web = daemon("web", SLEEP, limits="nofile=300:400 core=0", uid="nobody")
    o = overlord(
        web + daemon("raised", SLEEP, limits="nofile=600", uid="nobody"),
        python=resolve(interpreter, tmp_path_factory),
        prefix=["prlimit", "--nofile=200:200", "--core=5:5"],
        folder=public,
    )
    if not may_raise_limits():
        o.says("web", "cannot start: limits")
        o.says("raised", "cannot start: limits")
        assert o.stop() == 0
        return
    o.says("web", "ok")
    o.says("raised", "ok")
    text = (o.unit_is("web", "sleep").folder / "limits").read_text()
    assert re.search(r"Max open files +300 +400 ", text)
    assert re.search(r"Max core file size +0 +0 ", text)
    assert o.unit("web").status["Uid"].split()[0] != "0"
    text = (o.unit_is("raised", "sleep").folder / "limits").read_text()
    assert re.search(r"Max open files +600 +600 ", text)
    assert o.stop() == 0


@pytest.mark.parametrize("text", ["nofiles=3", "nofile", "nofile=3:2", "nofile=-1", "nofile=unlimited:3"])
def test_mistakes_in_limits(overlord: Start, text: str) -> None:
    """Each is told with its line."""
    o = overlord(daemon("web", SLEEP, limits=text))
    assert o.wait_exit() == 78
    assert o.count(r"\[daemon:web\] limits: ") == 1


# --- stop_cmd --------------------------------------------------------------------------------------------------------


def test_stop_cmd(overlord: Start, public: Path) -> None:
    """It runs as the unit's user, in its folder, with its environment, and knows the process to stop."""
    (public / "sub").mkdir()
    (public / "sub").chmod(0o777)
    stop = 'echo "$MAINPID $(id -un) $(pwd) $WHAT $OVERLORD_NAME" > told; kill -USR1 $MAINPID'
    work = "trap 'exit 0' USR1; trap '' TERM; while :; do sleep .05; done"
    o = overlord(daemon("web", work, stop_cmd=stop, uid="nobody", dir=public / "sub", env="WHAT=that"), folder=public)
    o.says("web", "ok")
    pid = o.unit("web").pid
    assert o.stop() == 0
    assert (public / "sub" / "told").read_text().split() == [str(pid), "nobody", str(public / "sub"), "that", "web"]
    o.says("web", r"stopped in .* \(pid \d+ exited with code 0\)")


@pytest.mark.parametrize("stop", ["exit 3", "/no/such/program", "kill -9 $$"])
def test_a_stop_cmd_that_fails(overlord: Start, stop: str) -> None:
    """Then it gets its stop signal after all."""
    work = "trap 'echo usr1 >> journal; exit 0' USR1; echo up >> journal; while :; do sleep .05; done"
    o = overlord(daemon("web", work, stop_cmd=stop, stop_signal="USR1"))
    o.journal.wait_for("up")
    assert o.stop() == 0
    assert o.journal.lines() == ["up", "usr1"]
    assert o.count("web: stop_cmd .*, sending SIGUSR1") == 1


def test_a_stop_cmd_that_hangs(fleet: Start) -> None:
    """The daemon is killed after stop_timeout, and nothing of the command stays."""
    o = fleet(daemon("web", SLEEP, stop_cmd="sleep 54321 & sleep 54322", stop_timeout="300ms") + daemon("other", SLEEP))
    o.says("web", "ok")
    o.ask("stop", "web", code=None)
    o.says("web", r"stopped in .*SIGKILL")
    eventually(lambda: not o.running("sleep", "54321") and not o.running("sleep", "54322"), "the command is gone")
    assert o.unit("other").alive
    assert o.stop() == 0


KILL_AND_GO_ON = "kill $MAINPID; until test -e go; do sleep 0.01; done; echo cleaned up >> journal"


@pytest.mark.parametrize("how", ("stop", "restart", "shutdown"))
def test_a_stop_cmd_that_outlives_the_daemon(fleet: Start, how: str) -> None:
    """`pg_ctl stop -w`, "stop, then copy": it is let end, and only then the unit is stopped or started again."""
    o = fleet(daemon("web", SLEEP, stop_cmd=KILL_AND_GO_ON) + daemon("db", SLEEP, deps="web"))
    o.says("db", "ok")
    pid = o.unit("web").pid
    asked = Asking(o.client(how, *(["web"] if how != "shutdown" else [])))
    o.says("web", "stopping .stop_cmd")
    eventually(lambda: not Process(pid, o.proc).alive, "the daemon has ended")
    assert not o.count("web: stopped")
    assert o.starts("web") == 1
    (o.folder / "go").touch()
    assert asked.wait_exit() == 0
    assert o.starts("web") == (2 if how == "restart" else 1)
    if how != "shutdown":
        assert o.journal.lines() == ["cleaned up"]
        o.send(15)
    assert o.wait_exit() == 0
    assert o.journal.lines()[0] == "cleaned up"
    assert not o.count("SIGKILL|stop_cmd.*killed|sending")


def test_a_stop_cmd_that_outlives_its_time(fleet: Start) -> None:
    """SIGKILL follows `stop_timeout` all the same, and what is said of it is true."""
    o = fleet(daemon("web", SLEEP, stop_cmd="kill $MAINPID; exec sleep 54321", stop_timeout="300ms"))
    o.says("web", "ok")
    o.ask("stop", "web")
    o.says("web", r"stop_cmd \(pid \d+\) has not ended, killing it")
    o.says("web", r"stopped in .* \(pid \d+ killed by SIGTERM")
    assert not o.count("web: not gone"), "the daemon was gone by then"
    assert not o.running("sleep", "54321")
    assert not o.count("sending|stop_cmd killed")
    assert o.stop() == 0


def test_a_stop_cmd_that_fails_too_late(fleet: Start) -> None:
    """The daemon has ended by then: its failure is told, and no signal is said to be sent."""
    o = fleet(daemon("web", SLEEP, stop_cmd=f"{KILL_AND_GO_ON}; exit 3"))
    o.says("web", "ok")
    pid = o.unit("web").pid
    asked = Asking(o.client("stop", "web"))
    eventually(lambda: not Process(pid, o.proc).alive, "the daemon has ended")
    (o.folder / "go").touch()
    assert asked.wait_exit() == 0
    assert o.count("web: stop_cmd exited with code 3$") == 1
    assert not o.count("sending")
    assert o.stop() == 0
