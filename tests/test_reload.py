"""`reload`: what a person changes in the files is what runs then, and nothing else notices."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import threading
from pathlib import Path
from typing import Any, Callable, Iterator

import pytest

import overlord
from conftest import Start
from harness import PATH, PATIENCE, Overlord, Process, daemon, eventually, exchange, script
from test_output import Numbers, Reader, seq

ROUNDS = 200  # reloads, in the tests of what is left behind
GROWTH = 4 << 20  # bytes by which overlord may grow in so many

NOTHING = "nothing differs (restart NAME reads env_file and secrets anew; "
NEWS = r"^nothing differs |^(\[overlord\] )?[^ ]+: (new|removed|changed)"
HEADER = "[daemon]\nwarmup = 0\nbackoff = 0\n"
ON_TERM = "trap 'echo bye; exit' TERM; echo hello; while :; do sleep infinity & wait; done"


class Container:
    """One overlord with a control socket, and the files that it reads."""

    def __init__(self, start: Start, python: list[str], folder: Path, config: str, *command: str, **options: Any) -> None:
        self.folder = folder
        self.settings = {"socket": "abstract", **options.pop("settings", {})}
        self.overlord: Overlord = start(config, *command, settings=self.settings, defaults=HEADER, **options)
        eventually(self.answers, f"an answer\n{self.overlord}")

    def answers(self) -> bool:
        """Tell whether overlord listens by now: its socket is there a moment before."""
        try:
            return bool(self.request("version"))
        except (FileNotFoundError, ConnectionRefusedError):
            return False

    def write(self, config: str, **settings: object) -> None:
        """Write the configuration anew."""
        header = {"configdir": f"{self.folder}/conf.d/", **self.settings, **settings}
        lines = ["[overlord]", *(f"{key} = {value}" for key, value in header.items()), HEADER]
        self.overlord.config.write_text("\n".join(lines) + config)

    def add(self, name: str, text: str) -> None:
        """Write a file of the configdir."""
        (self.folder / "conf.d" / name).write_text(text)

    def ask(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run a verb, as a person does."""
        return self.overlord.ask(*words, code=None)

    def reload(self, config: str, **settings: object) -> list[str]:
        """Write another configuration and have it read; return what the caller is told to differ."""
        self.write(config, **settings)
        done = self.ask("reload")
        assert (done.returncode, done.stderr) == (0, ""), (done, str(self.overlord))
        return [line for line in done.stdout.splitlines() if re.search(NEWS, line)]

    def request(self, line: str = "reload") -> str:
        """Ask without the client, which is quicker; return the answer."""
        return exchange(self.overlord, line.encode() + b"\n").decode()

    def pids(self, *names: str) -> list[int]:
        """Return the pids of units that run, as `status` tells."""
        records = self.records()
        return [int(records[name]["pid"] or 0) for name in names]

    def states(self) -> dict[str, str]:
        """Return the state of each unit."""
        return {name: record["state"] for name, record in self.records().items()}

    def records(self) -> dict[str, dict[str, str]]:
        """Return what `status` knows of each unit, in words."""
        lines = [line[1:].split("\t") for line in self.request("status").splitlines() if line[0] == " "]
        return {fields[0]: dict(zip(overlord.RECORD, fields)) for fields in lines}


Contain = Callable[..., Container]


@pytest.fixture
def contain(overlord: Start, default_python: list[str], tmp_path: Path) -> Contain:
    """A function that starts a Container(config, *command, ...)."""

    def start(config: str = "", *command: str, **options: Any) -> Container:
        return Container(overlord, default_python, tmp_path, config, *command, **options)

    return start


@pytest.fixture
def reader() -> Iterator[Reader]:
    """The other end of the container's stdout."""
    made = Reader()
    yield made
    made.close()


SLEEP = "exec sleep infinity"


def sleeper(name: str, **options: object) -> str:
    """A daemon that does nothing."""
    return daemon(name, SLEEP, **options)


# --- units -----------------------------------------------------------------------------------------------------------


def test_keeps_adds_removes_restarts(contain: Contain) -> None:
    """Each as it should, told in one line each; and overlord's log says the same."""
    c = contain(sleeper("same") + sleeper("other") + sleeper("gone") + script("job", "true"))
    same, other, gone = c.pids("same", "other", "gone")
    said = c.reload(sleeper("same") + sleeper("other", nice=5) + sleeper("new", deps="job") + script("job", "true"))
    news = ["gone: removed", "new: new", "other: changed: nice"]
    assert sorted(said) == news
    for line in news:
        c.overlord.wait_for(rf"configuration read anew: .*{re.escape(line)}")
    after = c.pids("same", "other", "new")
    assert after[0] == same
    assert after[1] not in (0, other)
    assert after[2] > 0
    assert c.states() == {"same": "ok", "other": "ok", "new": "ok", "job": "ok"}
    assert c.overlord.starts("same") == c.overlord.starts("gone") == 1
    assert c.overlord.unit_is("other", "sleep").nice == 5
    assert not Process(gone, c.overlord.proc).alive
    assert c.overlord.stop() == 0


def test_waits_for_the_outcome(contain: Contain) -> None:
    """When the verb returns, what is removed is gone and what has changed is up: in dependency order."""
    slow = "trap 'echo stopped >> journal; exit' TERM; echo $OVERLORD_NAME >> journal; while :; do sleep infinity & wait; done"
    c = contain(daemon("db", slow) + daemon("web", slow, deps="db", warmup="50ms") + daemon("gone", slow, deps="web"))
    c.overlord.wait_ok("gone")
    c.overlord.journal.wait_for("gone")
    c.reload(daemon("db", slow, nice=1) + daemon("web", slow, deps="db", warmup="50ms", nice=1))
    assert c.overlord.journal.lines()[3:6] == ["stopped"] * 3
    assert c.overlord.started[3:] == ["db", "web"]
    assert c.states() == {"db": "ok", "web": "ok"}


def test_nothing_differs(contain: Contain) -> None:
    """It says so."""
    c = contain(sleeper("web"))
    before = c.pids("web")
    assert c.reload(sleeper("web"))[0].startswith(NOTHING)
    assert c.pids("web") == before


def test_changed_in_place(contain: Contain) -> None:
    """It is told, and nothing is restarted."""
    c = contain(sleeper("web"))
    before = c.pids("web")
    assert c.reload(sleeper("web", stop_timeout="1s", restart="never")) == ["web: changed in place: stop_timeout, restart"]
    assert c.pids("web") == before
    c.overlord.kill_unit("web")
    assert c.overlord.wait_exit() == 137


@pytest.mark.parametrize("options", [{"respawns": 0, "on_failure": "ignore"}, {"backoff": "1h..1h"}], ids=["failed", "backoff"])
def test_changed_one_does_not_come_up(contain: Contain, options: dict[str, object]) -> None:
    """Exit 1, and it says who and why; what is fine is up all the same, and the failed is as any failing unit."""
    c = contain(sleeper("other") + sleeper("web"))
    c.write(sleeper("other") + daemon("web", "exit 3", warmup="1h", **options) + sleeper("new"))
    done = c.ask("reload")
    assert done.returncode == 1
    assert "web did not come up" in done.stderr
    assert "exited with code 3" in done.stderr
    assert "web: changed: cmd" in done.stdout
    c.overlord.says("web", ".*(failed|restarting in 1 h)")  # the first restart has no delay
    states = c.states()
    assert states.pop("web") in ("failed", "backoff")
    assert states == {"other": "ok", "new": "ok"}


def test_changed_one_ends_the_container(contain: Contain) -> None:
    """Where its failure does that, it does it now."""
    c = contain(sleeper("other") + sleeper("web"))
    c.write(sleeper("other") + daemon("web", "exit 3", warmup="1h", respawns=0))
    assert c.ask("reload").returncode != 0
    assert c.overlord.wait_exit() == 3


def test_not_within_the_time_given(contain: Contain) -> None:
    """-t bounds the wait, and the reload goes on."""
    c = contain(sleeper("web"))
    c.write(daemon("web", SLEEP, warmup="1h", nice=1))
    done = c.ask("reload", "-t", "100ms")
    assert done.returncode == 1
    assert "not within 0.1 s" in done.stderr
    c.overlord.wait_count(r"web: started", 2)
    assert c.states() == {"web": "starting"}


def test_two_at_once(contain: Contain) -> None:
    """Who asks while a reload is under way is answered as well, and the last files count."""
    c = contain(daemon("web", ON_TERM.replace("exit", "sleep 0.2; exit"), stdout="null") + sleeper("other"))
    c.overlord.wait_ok("web")
    answers: list[str] = []
    c.write(sleeper("web") + sleeper("other", nice=1))
    threads = [threading.Thread(target=lambda: answers.append(c.request()), daemon=True) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert [answer.splitlines()[-1] for answer in answers] == ["=0"] * 5
    assert c.overlord.starts("web") == c.overlord.starts("other") == 2
    assert c.states() == {"web": "ok", "other": "ok"}


def test_refused_in_a_shutdown(contain: Contain) -> None:
    """It is too late then."""
    c = contain(daemon("web", "trap '' TERM; echo up >> journal; while :; do sleep infinity & wait; done"))
    c.overlord.journal.wait_for("up")
    c.overlord.send(signal.SIGTERM)
    c.overlord.wait_for("shutting down")
    c.write(sleeper("new"))
    done = c.ask("reload")
    assert (done.returncode, c.overlord.starts("new")) == (1, 0)
    assert "shutting down" in done.stderr


def test_main_command(contain: Contain, tmp_path: Path) -> None:
    """It is none of the configuration's: it goes on, and overlord ends with it, and its code, as ever."""
    os.mkfifo(tmp_path / "fifo")
    c = contain(sleeper("web"), "sh", "-c", "echo up >> journal; read line < fifo; exit 7")
    c.overlord.journal.wait_for("up")
    c.reload(sleeper("web", nice=1) + sleeper("new"))
    c.reload("")
    assert c.overlord.journal.lines() == ["up"]
    with (c.folder / "fifo").open("r+b", buffering=0) as fifo:  # for both, lest it waits for a reader who is gone
        fifo.write(b"go\n")
        assert c.overlord.wait_exit() == 7


def test_script_mended(contain: Contain) -> None:
    """A script that failed kept a daemon waiting; with the mistake mended, a reload gets it up."""
    c = contain(sleeper("other") + sleeper("web", deps="job") + script("job", "exit 1", on_failure="ignore"))
    c.overlord.says("job", "failed")
    c.reload(sleeper("other") + sleeper("web", deps="job") + script("job", "true", on_failure="ignore"))
    c.overlord.wait_ok("web")


# --- mistakes --------------------------------------------------------------------------------------------------------


def test_broken_configuration(contain: Contain) -> None:
    """Every mistake of every file, each with its place, to the caller; exit 78; and nothing has changed."""
    c = contain(sleeper("web") + sleeper("gone"))
    for name in ("web", "gone"):
        c.overlord.says(name, "ok")
    c.overlord.wait_for("everything is up")
    before, said = c.pids("web", "gone"), c.overlord.mark
    c.write(sleeper("web", nice=99, umask="abc") + sleeper("new", deps="nobody") + "[demon:x]\n", log_level="loud")
    c.add("more.conf", "[daemon:web]\ncnd = x\n[daemon:y]\n")
    done = c.ask("reload")
    assert done.returncode == 78
    lines = done.stderr.splitlines()
    for path, option in (
        (c.overlord.config, "[overlord] log_level"),
        (c.overlord.config, "[daemon:web] nice"),
        (c.overlord.config, "[daemon:web] umask"),
        (c.overlord.config, "[daemon:new] deps"),
        (c.overlord.config, "[demon:x]"),
        (c.folder / "conf.d" / "more.conf", "[daemon:web] cnd"),
        (c.folder / "conf.d" / "more.conf", "[daemon:y] cmd"),
    ):
        pattern = rf"{re.escape(str(path))}:\d+: {re.escape(option)}: "
        assert any(re.search(pattern, line) for line in lines), (pattern, lines)
    assert "nothing has changed" in lines[-1]
    assert c.pids("web", "gone") == before
    assert c.states() == {"web": "ok", "gone": "ok"}
    assert not any(re.search("started|stopping|internal error", line) for line in c.overlord.log[said:])
    (c.folder / "conf.d" / "more.conf").unlink()
    assert c.reload(sleeper("web") + sleeper("gone"))[0].startswith(NOTHING)


@pytest.mark.parametrize("fault", ["gone", "folder", "cycle", "garbage", "empty"])
def test_file_that_is_none(contain: Contain, fault: str) -> None:
    """A main file that vanished, or holds no configuration, changes nothing. An empty one is a configuration."""
    c = contain(sleeper("a") + sleeper("b"))
    before = c.pids("a", "b")
    if fault in ("gone", "folder"):
        c.overlord.config.unlink()
        if fault == "folder":
            c.overlord.config.mkdir()
    elif fault == "cycle":
        c.write(sleeper("a", deps="b") + sleeper("b", deps="a"))
    else:
        c.overlord.config.write_bytes(b"" if fault == "empty" else b"\xff\0\xfe[[[\n")
    answer = c.request()
    if fault == "empty":
        assert c.overlord.wait_exit() == 0
        return
    assert answer.splitlines()[-1] == "=78", answer
    assert str(c.overlord.config) in answer
    assert c.pids("a", "b") == before


# --- [overlord] ------------------------------------------------------------------------------------------------------


def test_shutdown_signals(contain: Contain) -> None:
    """What asks for shutdown from now on, and what does no more."""
    c = contain(sleeper("web"))
    before = c.pids("web")
    c.reload(sleeper("web"), shutdown_signals="USR1")
    c.overlord.send(signal.SIGTERM)
    assert c.pids("web") == before
    c.overlord.send(signal.SIGUSR1)
    assert c.overlord.wait_exit() == 0
    assert c.overlord.count("SIGUSR1 received") > 0
    assert c.overlord.count("SIGTERM received") == 0


def test_shutdown_timeout(contain: Contain) -> None:
    """The next shutdown has that much time."""
    stubborn = daemon("web", "trap '' TERM; echo up >> journal; while :; do sleep infinity & wait; done", stop_timeout="1h")
    c = contain(stubborn, settings={"shutdown_timeout": "1h"})
    c.overlord.journal.wait_for("up")
    c.reload(stubborn, shutdown_timeout="200ms")
    assert c.overlord.stop() == 0
    assert c.overlord.count("had to be killed: web") == 1


def test_log_level_and_format(contain: Contain) -> None:
    """Overlord's own messages follow at once."""
    c = contain(sleeper("web"))
    c.overlord.wait_ok("web")
    c.reload(sleeper("web"), log_level="error")
    mark = c.overlord.mark
    assert c.ask("restart", "web").returncode == 0
    c.reload(sleeper("web"), log_format="json")
    assert c.ask("restart", "web").returncode == 0
    c.overlord.wait_for(r'^\{.*"started', after=mark)
    lines = c.overlord.log[mark:]
    assert sum("started" in line for line in lines) == 1, lines
    for line in lines[1 if "read anew" in lines[0] and lines[0][0] != "{" else 0 :]:
        assert json.loads(line)["level"], line


def test_output(contain: Contain) -> None:
    """The default of the units' streams: those who have none of their own are restarted with it, and back."""
    c = contain(daemon("web", ON_TERM) + daemon("own", ON_TERM, stdout="null", stderr="null"))
    c.overlord.wait_for("^hello", lines=c.overlord.out)
    own = c.pids("own")
    text = daemon("web", ON_TERM) + daemon("own", ON_TERM, stdout="null", stderr="null")
    assert c.reload(text, output="prefix") == ["web: changed: stdout, stderr", "[overlord] output: changed"]
    c.overlord.wait_for(r"^web \| hello", lines=c.overlord.out)
    assert c.ask("logs", "web").stdout == "hello\n"
    mark = len(c.overlord.out)
    assert c.reload(text, output="inherit") == ["web: changed: stdout, stderr", "[overlord] output: changed"]
    c.overlord.wait_for("^hello", after=mark, lines=c.overlord.out)
    assert c.overlord.out == ["hello", "bye", "web | hello", "web | bye", "hello"]
    assert c.pids("own") == own
    assert c.overlord.starts("web") == 3


def test_output_to_a_file_and_back(contain: Contain) -> None:
    """The same with a log file: old words in the old place, new ones in the new."""
    c = contain(daemon("web", ON_TERM, stdout="prefix", stderr="null"))
    one, two = c.folder / "one.log", c.folder / "sub" / "two.log"
    for target in (one, two):
        c.reload(daemon("web", ON_TERM, stdout=target, stderr="null"))
        eventually(lambda: target.exists() and target.read_text().startswith("hello\n"), f"{target}\n{c.overlord}")
    c.reload(daemon("web", ON_TERM, stdout="null", stderr="null"))
    assert one.read_text() == two.read_text() == "hello\nbye\n"


def test_nobody_waits_for_it(contain: Contain) -> None:
    """What takes effect in place does so when all that changes has stopped, even if the client has gone by then."""
    stubborn = daemon("web", "trap '' TERM; echo up >> journal; while :; do sleep infinity & wait; done", stop_timeout="500ms")
    c = contain(stubborn)
    c.overlord.journal.wait_for("up")
    c.write(sleeper("web") + sleeper("quiet"), log_level="error")
    assert c.ask("reload", "-t", "0.01").returncode == 1
    eventually(lambda: c.states() == {"web": "ok", "quiet": "ok"}, f"it has taken effect\n{c.overlord}")
    mark = c.overlord.mark
    c.ask("restart", "web")
    c.ask("signal", "KILL", "quiet")
    eventually(lambda: c.states() == {"web": "ok", "quiet": "ok"}, f"both are up again\n{c.overlord}")
    assert [line for line in c.overlord.log[mark:] if "started" in line] == []


def test_socket_stays(contain: Contain) -> None:
    """Its path is the one option that needs a new overlord."""
    c = contain(sleeper("web"))
    c.write(sleeper("web", stop_timeout="1s"), socket=c.folder / "other.sock")
    news = c.request()
    assert "web: changed in place: stop_timeout" in news
    assert "[overlord] socket: kept until overlord restarts" in news
    assert not (c.folder / "other.sock").exists()
    assert "web" in c.request("status")


def test_configdir(contain: Contain) -> None:
    """Files come, change and go; so does the folder."""
    c = contain(sleeper("web"))
    c.add("10-a.conf", sleeper("a"))
    assert c.reload(sleeper("web")) == ["a: new"]
    c.add("20-a.conf", "[daemon:a]\nnice = 3\n[daemon:web]\nstop_timeout = 1s\n")
    assert sorted(c.reload(sleeper("web"))) == ["a: changed: nice", "web: changed in place: stop_timeout"]
    c.add("30-a.conf.bak", sleeper("passed-over"))
    (c.folder / "conf.d" / "20-a.conf").unlink()
    assert sorted(c.reload(sleeper("web"))) == ["a: changed: nice", "web: changed in place: stop_timeout"]
    (c.folder / "conf.e").mkdir()
    (c.folder / "conf.e" / "b.conf").write_text(sleeper("b"))
    news = sorted(c.reload(sleeper("web"), configdir=c.folder / "conf.e"))
    assert news == ["[overlord] configdir: changed", "a: removed", "b: new"]
    assert c.states() == {"web": "ok", "b": "ok"}
    assert c.overlord.starts("web") == 1


def test_variables(contain: Contain) -> None:
    """`${...}` is expanded as at the start: from the container's environment, with the same mistakes."""
    environment = {"PATH": PATH, "COLOUR": "red", "WITH": "no"}
    c = contain(sleeper("web", env="A=${COLOUR}"), env=environment)
    web = sleeper("web", env="A=${COLOUR}\nB=${A}-${NONE:-none}", umask="${MASK:-027}")
    c.reload(web + sleeper("cron", autostart="${WITH:-yes}"))
    process = c.overlord.unit_is("web", "sleep")
    assert {b"A=red", b"B=red-none"} <= set(process.environ)
    assert process.status["Umask"] == "0027"
    assert c.states() == {"web": "ok", "cron": "idle"}
    c.write(sleeper("web", dir="${NOWHERE}", uid="${USER_OF_WEB:?say who}"))
    done = c.ask("reload")
    assert done.returncode == 78
    assert re.search(r"\[daemon:web\] dir: .*NOWHERE", done.stderr)
    assert "say who" in done.stderr
    assert "red" not in done.stderr
    assert c.overlord.starts("web") == 2


# --- options in place ------------------------------------------------------------------------------------------------


def test_forward(contain: Contain) -> None:
    """A signal goes where the new definition says, to the process that was there before."""
    traps = "trap 'echo usr2 >> journal' USR2; echo up >> journal; while :; do sleep infinity & wait; done"
    c = contain(daemon("web", traps, forward="none"))
    c.overlord.journal.wait_for("up")
    c.reload(daemon("web", traps, forward="USR1>USR2"))
    c.overlord.send(signal.SIGUSR1)
    c.overlord.journal.wait_for("usr2")
    assert c.overlord.journal.lines() == ["up", "usr2"]


def ends(path: Path, text: str) -> bool:
    """Tell whether a log file, which is not there for a moment while it is rotated, ends so."""
    with contextlib.suppress(FileNotFoundError):
        return path.read_text().endswith(text)
    return False


def test_log_max(contain: Contain) -> None:
    """The log file of a daemon that runs is rotated as the new definition says, and no longer as the old."""
    c = contain(sleeper("other"))
    path, fifo = c.folder / "web.log", c.folder / "fifo"
    os.mkfifo(fifo)

    def text(**options: object) -> str:
        return daemon("web", "exec cat fifo", stdout=path, stderr="null", **options)

    c.reload(sleeper("other") + text(log_max=0))
    with fifo.open("r+b", buffering=0) as writer:
        writer.write(b"x" * 99 + b"\n")
        writer.write(b"x" * 99 + b"\n")
        eventually(lambda: path.exists() and path.stat().st_size == 200, "two lines")
        assert c.reload(sleeper("other") + text(log_max=100, log_keep=2)) == ["web: changed in place: log_max, log_keep"]
        for number in range(1, 5):
            writer.write(b"%099d\n" % number)
            eventually(lambda number=number: ends(path, f"{number}\n"), f"line {number}")
        assert [each.exists() for each in (path, Path(f"{path}.1"), Path(f"{path}.2"), Path(f"{path}.3"))] == [True] * 3 + [False]
        assert path.stat().st_size == 100
        c.reload(sleeper("other") + text(log_max=0))
        writer.write(b"y" * 99 + b"\n")
        eventually(lambda: ends(path, "y\n"), "another line")
        assert path.stat().st_size == 200


def test_log_max_of_those_who_still_write_it(contain: Contain) -> None:
    """Who has gone to another file has no say any more in how the one before is rotated."""
    c = contain(sleeper("other"))
    shared, own, fifo = (c.folder / name for name in ("shared.log", "own.log", "fifo"))
    os.mkfifo(fifo)
    stays = daemon("stays", "exec cat fifo", stdout=shared, stderr="null", log_max=0)
    c.reload(daemon("goes", f"echo x; {SLEEP}", stdout=shared, stderr="null", log_max=0) + stays)
    eventually(lambda: shared.exists() and shared.read_text() == "x\n", "a line")
    c.reload(daemon("goes", f"echo x; {SLEEP}", stdout=own, stderr="null", log_max=50) + stays)
    with fifo.open("r+b", buffering=0) as writer:
        for number in range(3):
            writer.write(b"%099d\n" % number)
            eventually(lambda number=number: shared.read_text().endswith(f"{number}\n"), f"line {number}")
        assert shared.stat().st_size == 302
        assert c.overlord.starts("stays") == 1


# --- what is left behind, and what is lost ---------------------------------------------------------------------------


def resident(process: Process) -> int:
    """Return the bytes of memory that a process has."""
    return int(process.status["VmRSS"].split()[0]) << 10


def sockets_closed(c: Container) -> dict[int, tuple[str, str]]:
    """Return overlord's descriptors once no client is connected any more."""

    def found() -> dict[int, tuple[str, str]] | None:
        with contextlib.suppress(FileNotFoundError):
            open_now = Process(c.overlord.pid).descriptors
            return open_now if sum("socket" in target for target, _ in open_now.values()) == 1 else None
        return None

    return eventually(found, "one socket")


def test_many_reloads_leave_nothing_behind(contain: Contain) -> None:
    """Captured units and log files that come and go, mistakes, and units that change: no descriptor and no memory is kept."""
    c = contain(sleeper("same"))
    pid = c.pids("same")
    process = Process(c.overlord.pid)
    (c.folder / "logs").mkdir()
    (c.folder / "broken").write_text("x")

    def round_trip(number: int) -> None:
        text = sleeper("same") + daemon(f"d{number}", f"echo {number}; {SLEEP}", stdout="prefix", stderr="prefix")
        log, stderr = c.folder / "logs" / str(number), ("prefix", "null")[number % 2]
        text += daemon("turns", f"echo {number}; {SLEEP}", stdout=log, stderr=stderr)
        text += script(f"s{number}", "true") + sleeper(f"e{number}", deps=f"s{number}:always, d{number}:bounce")
        c.write(text if number % 10 else text + "[nonsense]\n")
        assert c.request().splitlines()[-1] == ("=0" if number % 10 else "=78")

    for number in range(1, 30):
        round_trip(number)
    c.reload(sleeper("same"))
    before, size = sockets_closed(c), resident(process)
    for number in range(30, ROUNDS + 30):
        round_trip(number)
        if number % 7 == 0:
            c.write(sleeper("same"))
            c.request()
    c.reload(sleeper("same"))
    after = sockets_closed(c)
    assert len(after) == len(before), sorted(set(after.items()) - set(before.items()))
    assert resident(process) - size < GROWTH
    assert c.pids("same") == pid
    assert c.overlord.count("internal error") == 0
    assert {each.cmdline[0] for each in c.overlord.processes() if each.pid > 1 and each.cmdline} == {"sleep"}


@pytest.mark.parametrize(
    "after", [{"stdout": "inherit", "stderr": "inherit"}, {"stdout": "null", "stderr": "stdout"}], ids=["inherit", "null"]
)
def test_pipes_of_what_is_captured_no_more(contain: Contain, after: dict[str, object]) -> None:
    """They are closed when nobody writes to them any more, and `logs` says how to have it captured."""
    other = sleeper("other", stdout="prefix", stderr="prefix")
    c = contain(other)
    c.reload(other)
    before = sockets_closed(c)
    c.reload(other + daemon("web", f"echo x; {SLEEP}", stdout="prefix", stderr="prefix"))
    assert len(sockets_closed(c)) == len(before) + 4
    c.reload(other + sleeper("web", **after))
    assert len(sockets_closed(c)) == len(before)
    done = c.ask("logs", "web")
    assert (done.returncode, done.stdout) == (1, "")
    assert "web is not captured; set output = prefix" in done.stderr


def test_pipe_of_an_stderr_that_goes_to_stdout(contain: Contain) -> None:
    """Two pipes become one."""
    c = contain(daemon("web", f"echo x; {SLEEP}", stdout="prefix", stderr="prefix"))
    c.request()
    before = sockets_closed(c)
    c.reload(daemon("web", f"echo x; {SLEEP}", stdout="prefix", stderr="stdout"))
    assert len(sockets_closed(c)) == len(before) - 2


def test_many_reloads_of_the_same(contain: Contain) -> None:
    """Nothing differs, again and again: nothing is touched and nothing is kept."""
    c = contain(sleeper("same") + daemon("captured", f"echo x; {SLEEP}", stdout="prefix", stderr="stdout"))
    pids, process = c.pids("same", "captured"), Process(c.overlord.pid)
    for _ in range(20):
        c.request()
    before, size = sockets_closed(c), resident(process)
    answers = {c.request() for _ in range(ROUNDS)}
    assert len(answers) == 1
    assert sockets_closed(c) == before
    assert resident(process) - size < GROWTH
    assert c.pids("same", "captured") == pids


def test_no_line_is_lost(contain: Contain, reader: Reader) -> None:
    """A daemon writes at full speed through `prefix` while others come, change and go: each line arrives, once, in order."""
    count, numbers = 300_000, Numbers(b"web | ")

    def take(data: bytes) -> None:  # what others write is not counted, and never within a line
        lines = (take.rest + data).split(b"\n")  # type: ignore[attr-defined]
        take.rest = lines.pop()  # type: ignore[attr-defined]
        numbers.feed(b"".join(line + b"\n" for line in lines if line.startswith(b"web | ")))

    take.rest = b""  # type: ignore[attr-defined]
    reader.read(take)
    web = daemon("web", f"{seq(count)}; {SLEEP}", stdout="prefix", stderr="null")
    c = contain(web, stdout=reader.end)
    reloads = 0
    while numbers.last < count:
        reloads += 1
        noise = daemon(f"n{reloads % 3}", f"echo {reloads}; {SLEEP}", stdout="prefix", stderr="null")
        c.write(web + noise)
        assert c.request().splitlines()[-1] == "=0"
        assert reader.fault is None
    assert reloads > 5
    assert c.overlord.starts("web") == 1
    assert c.overlord.stop() == 0


def test_last_words(contain: Contain) -> None:
    """What a changed or removed daemon says at its end is passed on, under its name, before its successor speaks."""
    c = contain(
        daemon("web", ON_TERM, stdout="prefix", stderr="null") + daemon("gone", ON_TERM, stdout="prefix", stderr="null")
    )
    for name in ("web", "gone"):
        c.overlord.wait_for(rf"^{name} \| hello", lines=c.overlord.out)
    c.reload(daemon("web", ON_TERM, stdout="prefix", stderr="null", nice=1))
    assert "gone | bye" in c.overlord.out
    eventually(lambda: c.overlord.out.count("web | hello") == 2, f"its successor\n{c.overlord}")
    assert [line for line in c.overlord.out if line.startswith("web")] == ["web | hello", "web | bye", "web | hello"]
