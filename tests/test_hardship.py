"""Where the machine gives little: no more processes, no more descriptors, no privilege, nothing to write to."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Sequence

import pytest

from conftest import Start
from harness import Overlord, Process, daemon, eventually, program, script


def become(user: str, group: str) -> list[str]:
    """Return a prefix that gives up root. LINUX: setpriv keeps capabilities until it executes something."""
    return ["setpriv", f"--reuid={user}", f"--regid={group}", "--clear-groups", "--bounding-set=-all", "env"]


def set_limit(o: Overlord, limit: str, prefix: Sequence[str] = ()) -> None:
    """Change a soft limit of the running overlord from outside, as its own user where it has one."""
    subprocess.run([*prefix, "prlimit", "--pid", str(o.pid), f"--{limit}:"], check=True)


def test_no_process_to_be_had(overlord: Start, public: Path) -> None:
    """fork fails with EAGAIN: that is a failed start with its delay, and goes well when there is room again."""
    # LINUX: the limit counts all processes of a user, so the user has to be one that nobody else is.
    user = str(random.randrange(100_000, 1_000_000))
    o = overlord(
        daemon("web", "exec sleep infinity", backoff="20ms..50ms"),
        folder=public,
        prefix=become(user, user),
    )
    o.unit_is("web", "sleep")
    set_limit(o, "nproc=1", become(user, user))
    mark = o.mark
    o.kill_unit("web")
    o.says("web", "cannot start: .*Resource temporarily unavailable", after=mark)
    eventually(lambda: o.count("web: cannot start") > 2, "it is tried again")
    set_limit(o, "nproc=10", become(user, user))
    o.says("web", r"started \(pid", after=mark)
    assert o.stop() == 0
    assert o.count("Traceback") == 0


def test_no_descriptor_to_be_had(overlord: Start) -> None:
    """The same with EMFILE: supervision goes on, and the unit is started when there are descriptors again."""
    o = overlord(daemon("web", "exec sleep infinity", backoff="20ms..50ms"))
    o.unit_is("web", "sleep")
    used = max(Process(o.pid).descriptors) + 1
    set_limit(o, f"nofile={used}")
    mark = o.mark
    o.kill_unit("web")
    o.says("web", "cannot start|started", after=mark)
    set_limit(o, "nofile=1024")
    o.says("web", r"started \(pid", after=mark)
    assert o.stop() == 0
    assert o.count("Traceback") == 0


@pytest.mark.parametrize("user", ("games", "54321"))
def test_any_user(overlord: Start, public: Path, user: str) -> None:
    """PID 1 need not be root, nor be known to the passwd file."""
    group = "60" if user == "games" else user
    o = overlord(
        script("setup") + daemon("db") + daemon("web", deps="setup:always, db:bounce"),
        folder=public,
        prefix=become(user, group),
    )
    o.journal.wait_for("web")
    o.kill_unit("db")
    o.journal.wait_for("web", 2)
    assert o.stop() == 0
    assert o.count("Traceback") == 0


def test_user_cannot_signal_a_daemon_of_root(overlord: Start) -> None:
    """A daemon that has become somebody else's cannot be signalled without the capability: overlord does not hang."""
    if os.geteuid() != 0 or not shutil.which("setpriv"):
        pytest.skip("only root can become another user")
    o = overlord(
        daemon(
            "web",
            "exec setpriv --reuid=games --clear-groups sh -c 'echo up; exec sleep infinity'",
            stop_timeout="300ms",
        ),
        prefix=["setpriv", "--bounding-set=-kill", "--inh-caps=-kill"],
        settings={"shutdown_timeout": "3s"},
    )
    o.wait_for("up", lines=o.out)
    assert o.stop() == 0


def test_read_only_root(overlord: Start, tmp_path: Path) -> None:
    """Nothing can be written anywhere: no folder, no file, no socket is needed."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount")
    o = overlord(
        daemon("web", "exec sleep infinity"),
        prefix=["sh", "-c", 'mount -o remount,bind,ro / && exec "$@"', "sh"],
    )
    o.unit_is("web", "sleep")
    assert o.stop() == 0


def test_idle_means_idle(overlord: Start) -> None:
    """With nothing to do there is no timer: overlord is not woken once."""
    o = overlord("".join(daemon(f"web-{n}", "exec sleep 12345") for n in range(10)))
    eventually(lambda: len(o.running("sleep", "12345")) == 10, "all run")
    process = Process(o.pid)
    eventually(lambda: process.state == "S", "it sleeps")
    before = process.status["voluntary_ctxt_switches"]
    time.sleep(1.5)
    assert process.status["voluntary_ctxt_switches"] == before
    assert o.stop() == 0


def test_pause_of_the_container(overlord: Start) -> None:
    """A script whose time was over while everything was paused has the rest of it when that ends."""
    o = overlord(script("setup", "until test -e go; do sleep 0.01; done", timeout="4s") + daemon("web", deps="setup"))
    o.says("setup", "started")
    o.send(signal.SIGSTOP)
    time.sleep(5.5)
    o.send(signal.SIGCONT)
    (o.folder / "go").touch()
    o.says("web", "ok")
    assert o.count("setup: stopping") == 0
    assert o.stop() == 0


def test_many_units(overlord: Start) -> None:
    """A hundred daemons start, are killed in one moment, come back, and stop."""
    o = overlord("".join(daemon(f"web-{n}", "exec sleep 12345") for n in range(100)))
    eventually(lambda: len(o.running("sleep", "12345")) == 100, "all run")
    for process in o.running("sleep", "12345"):
        o.kill(process.pid)
    eventually(lambda: o.count(r"started \(pid") == 200, "all are started again")
    eventually(lambda: len(o.running("sleep", "12345")) == 100, "all run again")
    assert o.stop() == 0
    assert o.count("killed by SIGKILL") == 100


def test_burst_during_supervision(overlord: Start) -> None:
    """A storm of orphans hides no death: a daemon that ends in the middle of it is started again."""
    o = overlord(
        daemon("web")
        + script("burst", program("burst.sh", 3000).replace("exec", ""))
        + daemon("more", "exec sleep infinity", deps="burst")
    )
    o.says("burst", "started")
    for times in range(2, 6):
        o.kill_unit("web")
        o.wait_ok("web", times)
    o.says("more", "ok")
    eventually(lambda: len(o.processes()) == 3, "nothing is left but overlord, web and more")
    assert o.stop() == 0


def test_pause_in_the_middle_of_a_probe(overlord: Start, tmp_path: Path) -> None:
    """What waits for an answer is moved too: a probe that was under way during a pause has not failed for it."""
    # A server that takes the connection, and answers only when it is told to.
    serve = (
        "import os, socket, time; s = socket.create_server(('127.0.0.1', 0)); "
        "print(s.getsockname()[1], file=open('port.new', 'w'), flush=True); os.rename('port.new', 'port'); c = s.accept()[0]; "
        "print('asked', file=open('journal', 'a'), flush=True)\n"
        "while not os.path.exists('go'): time.sleep(0.01)\n"
        "c.sendall(b'HTTP/1.0 200 OK\\r\\n\\r\\n'); print('answered', file=open('journal', 'a'), flush=True); time.sleep(1000)"
    )
    server = subprocess.Popen([shutil.which("python3") or "python3", "-c", serve], cwd=tmp_path)
    try:
        port = eventually(lambda: (tmp_path / "port").exists() and (tmp_path / "port").read_text().strip(), "a port")
        health = {"health": f"http://127.0.0.1:{port}/", "health_interval": "50ms", "health_timeout": "3s", "health_retries": 1}
        o = overlord(daemon("web", "sleep infinity", **health))
        o.journal.wait_for("asked")
        os.kill(o.pid, signal.SIGSTOP)
        time.sleep(6)  # longer than the timeout by more than a second
        os.kill(o.pid, signal.SIGCONT)
        time.sleep(0.5)  # it has looked at its timers
        (o.folder / "go").touch()
        o.journal.wait_for("answered")
        assert o.count("unhealthy") == 0
    finally:
        server.kill()
        server.wait()


def test_modules_of_a_sitecustomize(overlord: Start, tmp_path: Path) -> None:
    """A verb is not served by a module of the application that a site hook has imported already."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text("import re")
    (tmp_path / "site" / "re.py").write_text("hello = 1")
    o = overlord(daemon("web", "sleep infinity"), settings={"socket": "abstract"})
    o.wait_ok("web")
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(tmp_path / "site")}
    for verb in ("check", "health", "status", "version"):
        assert o.ask(verb, env=environment).stderr == o.ask(verb).stderr
