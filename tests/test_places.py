"""Where it runs: interpreters, environments, streams, file systems, and the options of `docker run`.

In each place overlord has to serve: start, see readiness, capture output, answer, restart, reload, and stop with an exit
code; and its children have to get what the container was given, byte for byte. What is particular to one place is
asserted beside that. Places that need no Docker are made with namespaces, as everywhere in these tests.
"""

from __future__ import annotations

import ast
import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path
from typing import Any, Callable, Sequence

import pytest

import test_docker
from conftest import CI, Start, resolve
from harness import OVERLORD, PATH, PROGRAMS, Overlord, Process, daemon, eventually, find_python, kept, program, script, strict
from test_docker import docker, run
from test_readme import blocks, section

engine = test_docker.engine
example = test_docker.example
start = test_docker.start
config = test_docker.config

SLEEP = "sleep 12345"
LIFE = (
    script("setup", "echo prepared")
    + daemon("db", SLEEP)
    + daemon("web", f"echo listening; exec {SLEEP}", ready="log:listening", deps="setup:always, db:bounce")
)
FAULTS_OF_ITS_OWN = ("Traceback", "internal error")


def serves(o: Overlord, **asking: Any) -> None:
    """See a running LIFE through: up, output, answers, a death with its bounce, a reload, and the end."""
    o.says("web", "ok")
    for line in ("setup | prepared", "web | listening"):
        o.wait_for(rf"^{re.escape(line)}$", lines=o.out)
    units = json.loads(o.ask("status", "-j", **asking).stdout)
    assert {unit["name"]: unit["state"] for unit in units} == {"setup": "ok", "db": "ok", "web": "ok"}
    assert o.ask("logs", "web", **asking).stdout == "listening\n"
    o.kill_unit("db")
    o.wait_ok("web", 2)
    o.config.write_text(o.config.read_text().replace("echo listening", "echo listening again"))
    told = o.ask("reload", **asking).stdout
    assert "web: changed: cmd" in told
    assert "web: ok" in told
    o.config.write_text(o.config.read_text().replace("ready =", "raedy ="))
    assert "did you mean" in o.ask("reload", code=78, **asking).stderr
    assert o.stop() == 0
    assert o.log[-1].startswith("overlord: exiting with code 0: SIGTERM")
    assert o.count("|".join(FAULTS_OF_ITS_OWN)) == 0


@pytest.fixture
def live(overlord: Start, tmp_path: Path) -> Start:
    """A function that starts LIFE with captured output and a socket; it takes the options of Overlord."""

    def begin(config: str = LIFE, *command: str, **options: Any) -> Overlord:
        options["settings"] = {"socket": "abstract", "output": "prefix", **options.get("settings", {})}
        return overlord(config, *command, **options)

    return begin


# --- interpreters ----------------------------------------------------------------------------------------------------

# A version that is not there is a skip, which CI counts as a failure. Only some of these are sure to be on CI's machine;
# which those are, INTERPRETERS in harness.py says, and the tests that run on them fail where one is missing.
OLD, NEW = ("3.8", "3.9", "3.10", "3.11", "3.12", "3.13"), ("3.14", "3.15", "musl")
VERSIONS = [version for version in (*OLD, *NEW) if not CI or find_python(version)]


@pytest.mark.parametrize("version", [*VERSIONS, "minimal"])
def test_interpreter(
    live: Start, version: str, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each CPython from the oldest to the newest that is promised, and one with the files of python3-minimal alone.

    Each of Python's warnings is an error here, from the compiler's on; overlord says so where it meets one.
    """
    python = resolve(version, tmp_path_factory)
    monkeypatch.setattr("harness.OVERLORD", strict(tmp_path))
    o = live(python=[*python, "-W", "error"])
    o.says("web", "ok")
    assert os.path.samefile(f"/proc/{o.pid}/exe", os.path.realpath(python[0]))
    serves(o)


# --- environments ----------------------------------------------------------------------------------------------------


def imported() -> set[str]:
    """Return every module that overlord.py imports anywhere, and the friendly names of the built-in ones."""
    names = set()
    for node in ast.walk(ast.parse(OVERLORD.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    names = {name.partition(".")[0] for name in names}
    return names | {name.lstrip("_") for name in names}


def shadow(folder: Path, python: Sequence[str]) -> None:
    """Write a module into `folder` for each that overlord imports, which notes that it was imported, and ends the program.

    Left out are those which the interpreter itself imports, with PYTHONPATH, before any program, and the compiler's own
    `__future__`: nothing helps there.
    """
    ask = "import sys; print(*sys.modules)"
    early = subprocess.run([*python, "-c", ask], capture_output=True, text=True, check=True).stdout.split()
    folder.mkdir()
    marker = folder / "marker"
    for name in imported() - {*early, "__future__"}:
        (folder / f"{name}.py").write_text(f"open({str(marker)!r}, 'a').write(__name__)\nraise SystemExit('hostile')\n")


LARGE = {f"LARGE_{n}": "x" * 100_000 for n in range(19)}  # LINUX: a quarter of the stack's limit is there for it, 2 MiB
ENVIRONMENTS: dict[str, dict[Any, Any]] = {
    "empty": {},
    "1.9 MB": {"PATH": PATH, **LARGE},
    "10,000 variables": {"PATH": PATH, **{f"V{n}": str(n) for n in range(10_000)}},
    "no UTF-8": {b"PATH": PATH.encode(), b"VALUE": b"\xff\xfe\x80", b"N\xe4me": b"\xfc", b"LC_ALL": b"de_DE.ISO-8859-1"},
    "all bytes": {b"PATH": PATH.encode(), b"ALL": bytes(range(1, 256))},
    "PYTHONPATH": {"PATH": PATH, "PYTHONPATH": "{modules}"},
    "PYTHONPATH, relative": {"PATH": PATH, "PYTHONPATH": "modules"},
    "PYTHONPATH, empty part": {"PATH": PATH, "PYTHONPATH": ":/no/such"},
    "PYTHONSTARTUP": {"PATH": PATH, "PYTHONSTARTUP": "{modules}/re.py"},
    "PYTHONWARNINGS": {"PATH": PATH, "PYTHONWARNINGS": "error"},
    "PYTHONOPTIMIZE": {"PATH": PATH, "PYTHONOPTIMIZE": "2"},
    "PYTHONMALLOC": {"PATH": PATH, "PYTHONMALLOC": "debug"},
    "PYTHONDONTWRITEBYTECODE": {"PATH": PATH, "PYTHONDONTWRITEBYTECODE": "1"},
    "PYTHONIOENCODING": {"PATH": PATH, "PYTHONIOENCODING": "utf-16"},
    "PYTHONUTF8": {"PATH": PATH, "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "C"},
    "PYTHONINSPECT": {"PATH": PATH, "PYTHONINSPECT": "1"},
    "PYTHONDEVMODE": {"PATH": PATH, "PYTHONDEVMODE": "1"},
    "PYTHONPYCACHEPREFIX": {"PATH": PATH, "PYTHONPYCACHEPREFIX": "{modules}/cache"},
    "PYTHONBREAKPOINT": {"PATH": PATH, "PYTHONBREAKPOINT": "os.abort"},
}


@pytest.mark.parametrize("case", ENVIRONMENTS)
def test_environment(live: Start, tmp_path: Path, default_python: list[str], case: str) -> None:
    """The child gets each byte, and overlord and its verbs are none the wiser."""
    modules = tmp_path / "modules"
    shadow(modules, default_python)
    environment = {
        os.fsencode(key): os.fsencode(value).replace(b"{modules}", os.fsencode(modules))
        for key, value in ENVIRONMENTS[case].items()
    }
    o = live(env=environment)
    o.says("web", "ok")
    web = o.unit_is("web", "sleep")
    assert set(o.unit_is("db", "sleep").environ) == {b"%s=%s" % pair for pair in environment.items()} | {b"OVERLORD_NAME=db"}
    assert web.signals("SigIgn") == web.signals("SigBlk") == set()
    told = o.ask("restart", "db", env=environment, cwd=tmp_path)
    assert "web: ok" in told.stdout
    assert told.stderr == "", "a client says nothing of its own on stderr, which a HEALTHCHECK would show"
    assert json.loads(o.ask("status", "-j", env=environment, cwd=tmp_path).stdout)
    assert o.ask("help", env=environment, cwd=tmp_path).stdout == o.ask("help").stdout
    assert o.stop() == 0
    assert not (modules / "marker").exists()
    # bash as /bin/sh says of its own accord where there is no such locale
    assert all(re.match(r"overlord: |(web|setup) \| /bin/sh: warning: setlocale", line) for line in o.log), o.log


def test_wrong_pythonhome(live: Start, default_python: list[str]) -> None:
    """It keeps Python itself from starting, before the first line of any program; with -I, Python does not look at it."""
    home = {"PATH": PATH, "PYTHONHOME": "/no/such"}
    broken = live(env=home)
    assert broken.wait_exit() == 1
    assert broken.count("No module named 'encodings'") == 1
    o = live(env=home, python=[*default_python, "-I"])
    assert b"PYTHONHOME=/no/such" in o.unit_is("db", "sleep").environ
    serves(o, env=home)


# --- streams ---------------------------------------------------------------------------------------------------------

CLOSED = {"in": "<&-", "out": ">&-", "err": "2>&-"}
CLOSINGS = [[name for bit, name in enumerate(CLOSED) if number >> bit & 1] for number in range(1, 8)]


@pytest.mark.parametrize("closed", CLOSINGS, ids=" ".join)
def test_closed_streams(live: Start, closed: list[str]) -> None:
    """Whichever of the three is closed: captured output reaches those who ask, and what is open gets all it should."""
    shut = " ".join(CLOSED[name] for name in closed)
    o = live(prefix=["sh", "-c", f'exec {shut}; exec "$@"', "sh"])
    eventually(lambda: o.ask("wait", "web", code=None).returncode == 0, "web is OK")
    assert o.ask("logs", "web").stdout == "listening\n"
    assert "web: ok" in o.ask("restart", "db").stdout
    assert o.ask("logs", "web").stdout == "listening\n" * 2
    web = next(process for process in o.running(*SLEEP.split()) if b"OVERLORD_NAME=web" in process.environ)
    assert set(web.descriptors) == {0, 1, 2}
    assert o.stop() == 0
    if "err" not in closed:
        assert o.count("web: ok") == 2
        assert o.log[-1].startswith("overlord: exiting with code 0")
    if "out" not in closed:
        assert o.out.count("web | listening") == 2


# --- file systems ----------------------------------------------------------------------------------------------------

# Words of a shell in the namespace, whose mounts nobody else sees.
HIDDEN = "mount -o remount,hidepid=2 /proc &&"


@pytest.fixture
def as_root() -> None:
    """Skip where nothing can be mounted."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount")


@pytest.mark.parametrize("user", ("0", "54321"))
def test_hidepid(live: Start, as_root: None, public: Path, user: str) -> None:
    """With /proc mounted hidepid=2 overlord sees its own; with no capability, not even what became another user's.

    What it cannot look at gets no signal that could kill it, and the log says that it could not look.
    """
    # LINUX: group 0 is that which hidepid hides nothing from, unless the mount names another.
    drop = ["setpriv", f"--reuid={user}", "--regid=54321", "--clear-groups"]
    if user == "0":
        drop += ["--bounding-set=-sys_ptrace", "--inh-caps=-sys_ptrace"]
    guest = daemon("guest", "trap : HUP; while :; do sleep 0.1; done", uid="54322") if user == "0" else ""
    away = script("away", f"setsid sh -c 'echo away; exec {SLEEP}' &")
    catch = daemon("catch", program("on_signal.py", "catch", "catch", "SIGHUP"))
    words = " ".join(drop)
    o = live(
        LIFE + guest + away + catch + daemon("last", SLEEP, deps="away"),
        folder=public,
        prefix=["sh", "-c", f'{HIDDEN} exec {words} "$@"', "sh"],
    )
    o.says("last", "ok")
    o.says("web", "ok")
    o.journal.wait_for("catch ready")
    if guest:
        eventually(lambda: signal.SIGHUP in o.unit("guest").signals("SigCgt"), "it catches HUP")
    o.send(signal.SIGHUP)
    o.journal.wait_for("catch got SIGHUP")
    if guest:
        o.says("guest", "SIGHUP withheld: the kernel does not show")
    o.kill_unit("db")
    o.wait_ok("web", 2)
    assert o.ask("health", prefix=drop[:4]).stdout.startswith("healthy: ")
    assert o.stop() == 0
    assert o.starts("guest") == bool(guest)
    assert not any(fault in str(o) for fault in FAULTS_OF_ITS_OWN)


# --- images, and the options of docker run ---------------------------------------------------------------------------

IN_DOCKER = """\
[overlord]
output = prefix
[daemon]
warmup = 0
[script:setup]
cmd = echo prepared
[daemon:db]
cmd = sleep 12345
[daemon:web]
cmd = echo listening; exec sleep 12345
ready = log:listening
deps = setup:always, db:bounce
"""

TRIXIE, SID, MUSL = "overlord-test-trixie", "overlord-test-sid", "overlord-test-musl"
NOWHERE = "overlord-test-nowhere"  # no /run, no /tmp, no /var/tmp
BEGINS = ("-v", f"{OVERLORD}:/sbin/overlord.py:ro")  # the file as it is now, or the copy that is under test


def build(tag: str, dockerfile: str) -> str:
    """Build an image in which nothing is copied."""
    docker("build", "--network=host", "-t", tag, "-", stdin=dockerfile, env={"DOCKER_BUILDKIT": "0"})
    return tag


MINIMAL = """FROM debian:{}-slim
RUN apt-get update && apt-get install -y --no-install-recommends python3-minimal && rm -rf /var/lib/apt/lists/*
ENTRYPOINT ["/sbin/overlord.py"]
"""


@pytest.fixture(scope="session")
def trixie(engine: None) -> str:
    """Debian 13 with its python3-minimal, which is 3.13."""
    result = run("tests/docker-base.sh", "trixie", check=False)
    if result.returncode == 75:
        pytest.skip(result.stderr.strip().splitlines()[-1])
    assert result.returncode == 0, result.stderr
    return build(TRIXIE, MINIMAL.format("trixie"))


@pytest.fixture(scope="session")
def sid(engine: None) -> str:
    """The next Debian with its python3-minimal, which is 3.14."""
    if docker("image", "inspect", "debian:sid-slim", check=False).returncode:
        pytest.skip("no image debian:sid-slim: make pythons")
    return build(SID, MINIMAL.format("sid"))


@pytest.fixture(scope="session")
def musl(engine: None) -> str:
    """As Alpine: musl, busybox and Python, and nothing else."""
    root = kept("musl")
    if not root.exists():
        pytest.skip("no Python with musl: make musl")
    tar = ["sh", "-c", 'tar -C "$0" -c . | docker import - "$1" >&2', str(root), f"{MUSL}-base"]
    run(*tar)
    return build(MUSL, f'FROM {MUSL}-base\nENTRYPOINT ["/sbin/overlord.py"]\n')


@pytest.fixture(scope="session")
def nowhere(example: str) -> str:
    """The example's image without a folder that anybody may write to."""
    return build(NOWHERE, f"FROM {example}\nRUN rm -rf /tmp /var/tmp /run/* && rmdir /run || :\n")


Container = test_docker.Container
Begin = Callable[..., Container]
Write = Callable[[str], Sequence[str]]


def ask(container: Container, *words: str, code: int | None = 0, user: str = "") -> str:
    """`docker exec CONTAINER overlord.py WORDS`; return stdout, and stderr where it is to fail."""
    done = docker("exec", *(["--user", user] if user else []), container.id, "overlord.py", *words, check=False)
    assert code in (None, done.returncode), (words, done, container.lines)
    return str(done.stdout if code == 0 else done.stdout + done.stderr)


def ends_well(container: Container, code: int = 0) -> None:
    """Stop it as `docker stop` does: in time, with its code, and with no fault of overlord's in its log."""
    container.stop()
    assert container.join() == code, "\n".join(container.lines)
    container.position(f"overlord: exiting with code {code}")
    assert not container.found("|".join(FAULTS_OF_ITS_OWN)), "\n".join(container.lines)


# The Python of each image. Those of FAR are not made in CI, where the time would not do: see `make pythons`, `make musl`.
FAR = {} if CI else {"sid": "3.14", "musl": "3.11"}
IMAGES = {"example": "3.11", "trixie": "3.13", **FAR}


@pytest.mark.docker
@pytest.mark.parametrize("image", IMAGES)
def test_image(request: pytest.FixtureRequest, start: Begin, config: Write, image: str) -> None:
    """With Debian's python3-minimal, and with musl and busybox: a whole life, by the verbs of `docker exec`."""
    mount = config(IN_DOCKER)
    container = start(*BEGINS, *mount, request.getfixturevalue(image))
    container.wait_for("^overlord: ")  # from then on it answers
    assert "web: ok" in ask(container, "wait", "web")
    assert container.execute("python3 -V").startswith(f"Python {IMAGES[image]}.")
    units = json.loads(ask(container, "status", "-j"))
    assert {unit["name"]: unit["state"] for unit in units} == {"setup": "ok", "db": "ok", "web": "ok"}
    assert ask(container, "logs", "web") == "listening\n"
    assert "web: ok" in ask(container, "restart", "db")
    path = Path(mount[1].partition(":")[0])
    path.write_text(path.read_text() + "[daemon:more]\ncmd = sleep 12345\nlimits = nofile=200\n")
    assert "more: ok" in ask(container, "reload")
    assert "200" in container.execute(f"grep files /proc/{container.wait_for(r'more: started .pid (.*)[)]')[1]}/limits")
    path.write_text(path.read_text() + "limts = nofile=200\n")
    assert "did you mean" in ask(container, "reload", code=78)
    assert ask(container, "health") == "healthy: 3 daemons ok\n"
    docker("exec", container.id, "overlord.py", "shutdown", "7", check=False)
    assert container.join() == 7
    assert not container.found("|".join(FAULTS_OF_ITS_OWN))


ALL = """\
[daemon]
warmup = 0
stdout = prefix
[daemon:http]
cmd = exec overlord.py serve 127.0.0.1:9001
ready = http://127.0.0.1:9001/
[daemon:held]
cmd = echo "held: $LISTEN_FDS $LISTEN_FDNAMES"; exec sleep 12345
listen = tcp:127.0.0.1:9002
[daemon:app]
cmd = trap 'echo bye; exit 0' TERM; while :; do sleep 0.1; done
uid = nobody
env = GREETING=hello
health = tcp:127.0.0.1:9002
"""
GET = """
import _socket, sys
s = _socket.socket()
s.connect(("127.0.0.1", 9001))
s.send(b"GET /" + sys.argv[1].encode() + b" HTTP/1.0" + bytes([13, 10, 13, 10]))
print(b"".join(iter(lambda: s.recv(65536), b"")).decode())
"""
COMPILED = """FROM {}
COPY overlord.py readme.conf /sbin/
COPY overlord.conf /etc/
RUN ["python3", "-W", "error", "/sbin/overlord.py", "-c", "/sbin/readme.conf", "check"]
RUN ["python3", "-W", "error", "/sbin/overlord.py", "compile", "/sbin/overlord.py"]
RUN ["/sbin/overlord.py", "check"]
"""


@pytest.mark.docker
@pytest.mark.parametrize("image", FAR)
def test_image_with_all(request: pytest.FixtureRequest, start: Begin, tmp_path: Path, image: str) -> None:
    """Built as the README says, with each of Python's warnings an error: compiled, and `check`, `serve`, `listen`, `exec`."""
    strict(tmp_path)
    (tmp_path / "overlord.conf").write_text(ALL)
    (tmp_path / "readme.conf").write_text(blocks("ini", section("A first container"))[0])
    (tmp_path / "Dockerfile").write_text(COMPILED.format(request.getfixturevalue(image)))
    test_docker.build(f"overlord-test-{image}-all", str(tmp_path))
    container = start("--stop-signal", "SIGRTMIN+3", f"overlord-test-{image}-all")
    container.wait_for("overlord: everything is up")
    container.wait_for("^held \\| held: 1 held$")
    assert ask(container, "exec", "app", "sh", "-c", 'id -un; echo "$GREETING $HOME"').split("\n")[:2] == [
        "nobody", {"sid": "hello /nonexistent", "musl": "hello /"}[image],
    ]  # fmt: skip
    for path, told in (("health", "healthy: 3 daemons ok"), ("status", '"name": "held"'), ("metrics", "overlord_unit_restarts")):
        def answers(path: str = path, told: str = told) -> bool:
            answer = docker("exec", container.id, "python3", "-c", GET, path).stdout
            return answer.startswith("HTTP/1.1 200 ") and told in answer

        eventually(answers, f"/{path} has {told!r}")  # it may be half a second behind
    assert "held: ok" in ask(container, "restart", "held")
    assert "app: stopped" in ask(container, "stop", "app")
    container.wait_for("^app \\| bye$")
    assert "app: ok" in ask(container, "start", "app")
    assert "Warning" not in "\n".join(container.lines)
    ends_well(container)
    container.position(r"shutting down: SIGRTMIN\+3 received")


if not FAR:
    del test_image_with_all  # in CI, which takes an empty list of images for a skip


# What a sandbox's filter may forbid. Overlord can do without each.
DENIED = {
    "defaultAction": "SCMP_ACT_ALLOW",
    "syscalls": [{"names": ["memfd_create", "pidfd_open", "prlimit64"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1}],
}
SECCOMP = ("--security-opt", "seccomp=")  # the path of DENIED follows
SHUT = ("--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--user", "12345:0")
# Python compiles overlord.py at each start of it, verbs included, which takes 30 MiB for a moment beside what is there.
SMALL = ("--memory", "48m", "--memory-swap", "48m")
SMALL_WITHOUT_MEMFD = ("--memory", "80m", "--memory-swap", "80m")  # there PID 1 keeps what compiling has left behind
FULL = ("--tmpfs", "/dev/shm:size=4k,nr_inodes=1", "--tmpfs", "/run:size=4k,nr_inodes=1")

OPTIONS: dict[str, Sequence[str]] = {
    "a uid without a passwd entry": ("--user", "12345:0"),
    "no new privileges": ("--security-opt", "no-new-privileges"),
    "terminal": ("-t",),
    "init": ("--init",),
    "little memory": SMALL,
    "system calls denied": SECCOMP,
    "no shared memory": ("--ipc", "none"),
    "no room in any folder": ("--read-only", *FULL),
    "all of it": ("--init", "-t", "--ipc", "none", *SHUT, *SMALL_WITHOUT_MEMFD, "--pids-limit", "20", *SECCOMP),
    "all of it, as PID 1": (*SHUT, *SMALL_WITHOUT_MEMFD, "--pids-limit", "20", *SECCOMP),
}


@pytest.mark.docker
@pytest.mark.parametrize("case", OPTIONS)
def test_option(nowhere: str, start: Begin, config: Write, tmp_path: Path, case: str) -> None:
    """Up, a death and its bounce, the verbs, and the end."""
    (tmp_path / "seccomp").write_text(json.dumps(DENIED))
    words = [word.replace("seccomp=", f"seccomp={tmp_path}/seccomp") for word in OPTIONS[case]]
    container = start(*words, *BEGINS, *config(IN_DOCKER), nowhere)
    container.wait_for("overlord: web: ok")
    pid = container.wait_for(r"overlord: db: started \(pid (\d+)\)")[1]
    assert ask(container, "health") == "healthy: 2 daemons ok\n"
    docker("exec", container.id, "sh", "-c", f"kill -KILL {pid}")
    container.wait_for("overlord: web: ok", times=2)
    container.wait_for(r"web \|.* listening$", times=2)
    assert not container.found("control socket")
    ends_well(container)


@pytest.mark.docker
def test_no_more_processes(example: str, start: Begin, config: Write) -> None:
    """A pids limit below what the configuration asks for: the rest is tried again, and there is room after a stop."""
    mount = config("[daemon]\nwarmup = 0\nbackoff = 50ms..200ms\n[daemon:web]\ncmd = sleep 12345\ncount = 8\n")
    container = start("--pids-limit", "5", *BEGINS, *mount, example)
    container.wait_for("overlord: web-.*: cannot start: .*Resource temporarily unavailable", times=5)
    running = dict(match.groups() for match in container.found(r"overlord: (web-\d): started \(pid (\d+)\)"))
    assert len(running) == 4
    docker("update", "--pids-limit", "50", container.id)
    assert ask(container, "wait", "web", "-t", "60").count(": ok") == 8
    ends_well(container)


@pytest.mark.docker
def test_denied_limits_are_told(example: str, start: Begin, config: Write, tmp_path: Path) -> None:
    """`limits` where the filter of system calls forbids it is a failed start of that unit, with the reason."""
    (tmp_path / "seccomp").write_text(json.dumps(DENIED))
    wants = "[daemon:greedy]\ncmd = sleep 12345\nlimits = nofile=200\nrespawns = 0\non_failure = ignore\n"
    container = start("--security-opt", f"seccomp={tmp_path}/seccomp", *BEGINS, *config(IN_DOCKER + wants), example)
    container.wait_for("overlord: greedy: .*cannot start: limits: .*not permitted")
    container.wait_for("overlord: web: ok")
    ends_well(container)


# --- signals ---------------------------------------------------------------------------------------------------------

COUNTER = "python3 -I -S /programs/place_counter.py"
PROGRAM = ("-v", f"{PROGRAMS}:/programs:ro")
NAMED = [number for number in range(1, 65) if number not in (32, 33)]  # docker refuses the two that glibc keeps for itself
REQUESTS = {signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGRTMIN + 3}
KEPT = {getattr(signal, f"SIG{name}") for name in "CHLD TSTP TTIN TTOU ILL TRAP ABRT BUS FPE SEGV SYS".split()}
KERNELS = {signal.SIGKILL, signal.SIGSTOP}


@pytest.mark.docker
def test_every_signal(example: str, start: Begin, config: Write) -> None:
    """`docker kill -s` of each: the main command gets what is not overlord's own, a daemon what it names and can bear."""
    relayed = [number for number in NAMED if number not in REQUESTS | KEPT | KERNELS]
    forward = f"forward = {' '.join(map(str, relayed))}\n"
    mount = config(
        f"[daemon]\nwarmup = 0\n[daemon:web]\ncmd = {COUNTER} web\n{forward}[daemon:idle]\ncmd = sleep 12345\n{forward}"
    )
    container = start(*PROGRAM, *BEGINS, *mount, example, *COUNTER.split(), "main")
    container.wait_for("^main ready")
    container.wait_for("^web ready")
    for number in [*KEPT, *relayed]:
        docker("kill", "-s", str(int(number)), container.id)
    init = int(docker("inspect", "-f", "{{.State.Pid}}", container.id).stdout)
    for number in (32, 33):
        os.kill(init, number)
    docker("kill", "-s", "STOP", container.id)
    eventually(lambda: Process(init).state == "T", "it is stopped, as nobody but the kernel can help")
    docker("kill", "-s", "CONT", container.id)
    for name in ("main", "web"):
        container.wait_for(f"^{name} got {int(signal.SIGCONT)}$", times=2)
        got = sorted(int(match[1]) for match in container.found(rf"^{name} got (\d+)$"))
        assert got == sorted([*map(int, relayed), signal.SIGCONT]), name
    assert ask(container, "health") == "healthy: 2 daemons ok\n"
    assert len(container.found("overlord: idle: started")) == 1
    ends_well(container)
    container.position(f"^main got {int(signal.SIGTERM)}$")


# What images set as STOPSIGNAL, the configuration for it, the main command, and what shows that it was stopped by that.
SAYS = "trap 'echo got {0}; exit 0' {0}; echo up; while :; do sleep 0.1; done"
NGINX = ["nginx", "-g", "daemon off; error_log /dev/stderr notice;"]
STOPS = {
    "nginx": ("SIGQUIT", "", NGINX, "start worker process", r"signal 3 \(SIGQUIT\) received .*shutting down"),
    "php-fpm": ("SIGQUIT", "", ["sh", "-c", SAYS.format("QUIT")], "^up", "^got QUIT"),
    "php-fpm as a unit": ("SIGQUIT", f"[daemon:php]\ncmd = {SAYS.format('QUIT')}\nstop_signal = QUIT\n", [], "^up", "^got QUIT"),
    "httpd": ("SIGWINCH", "[overlord]\nshutdown_signals = WINCH\n", ["sh", "-c", SAYS.format("WINCH")], "^up", "^got WINCH"),
}


@pytest.mark.docker
@pytest.mark.parametrize("image", STOPS)
def test_stopsignal(example: str, start: Begin, config: Write, image: str) -> None:
    """`docker stop` sends what the image says, which reaches the main command as it is; the units stop after it."""
    name, settings, command, up, told = STOPS[image]
    mount = config(f"{settings}[daemon:db]\ncmd = sleep 12345\nwarmup = 0\n")
    container = start("--stop-signal", name, *BEGINS, *mount, example, *command)
    container.wait_for("overlord: db: ok")
    container.wait_for(up)
    ends_well(container)
    container.position(told)
    container.position(f"overlord: shutting down: {name} received")
    assert not container.found("not gone after")


@pytest.mark.docker
def test_pause(example: str, start: Begin, config: Write) -> None:
    """`docker pause` for longer than any deadline that runs: each has the rest of its time afterwards."""
    mount = config("""\
[script:setup]
cmd = echo at work; until test -e /go; do sleep 0.05; done
timeout = 4s
[daemon:web]
cmd = sleep 12345
deps = setup
ready = file:/go
ready_timeout = 4s
[daemon:slow]
cmd = echo slow; sleep 12345
ready = file:/go
ready_timeout = 4s
""")
    container = start(*BEGINS, *mount, example)
    container.wait_for("^at work")
    container.wait_for("^slow")
    eventually(lambda: docker("pause", container.id, check=False).returncode == 0, "runc, which may have to try, freezes it")
    time.sleep(5)
    docker("unpause", container.id)
    container.execute("touch /go")
    container.wait_for("overlord: web: ok")
    container.wait_for("overlord: slow: ok")
    assert not container.found("not ready|timeout|too long|failed|setup: stopping"), container.lines
    ends_well(container)


@pytest.mark.docker
def test_restart(example: str, start: Begin, config: Write) -> None:
    """`docker restart`: the first life ends in order, and the second finds nothing of it in its way."""
    container = start(*BEGINS, *config(IN_DOCKER), example)
    container.wait_for("overlord: web: ok")
    docker("restart", container.id)
    eventually(lambda: "web: ok" in ask(container, "wait", "web", code=None), "it is up again")
    lines = docker("logs", container.id).stderr.splitlines()
    assert sum("overlord: exiting with code 0: SIGTERM" in line for line in lines) == 1
    assert sum("overlord: web: ok" in line for line in lines) == 2
    assert not any(word in line for line in lines for word in ("warning", "killing", *FAULTS_OF_ITS_OWN))
    assert docker("inspect", "-f", "{{.State.ExitCode}} {{.State.Running}}", container.id).stdout == "0 true\n"
    docker("stop", container.id)
    assert docker("wait", container.id).stdout == "0\n"


@pytest.mark.docker
def test_pid_namespace_of_others(example: str, start: Begin, config: Write, default_python: list[str]) -> None:
    """`--pid=container:OTHER` and `--pid=host`: in its whole life it signals nobody who is not its own.

    The host comes second, and only where the first went well: an overlord that erred would harm a container alone.
    """
    away = "[daemon:deaf]\ncmd = trap '' TERM; echo deaf; while :; do sleep 0.1; done\nstop_timeout = 300ms\n"
    mount = config(f"{IN_DOCKER}{away}[daemon:web-2]\ncmd = {COUNTER} ours\n")

    def life(space: str) -> None:
        container = start("--pid", space, *PROGRAM, *BEGINS, *mount, example)
        for pattern in ("overlord: web: ok", "ours ready$", "deaf$", "no subreaper"):
            container.wait_for(pattern)
        docker("kill", "-s", "HUP", container.id)
        container.wait_for("ours got 1$")
        assert "web: ok" in ask(container, "restart", "db")
        ends_well(container)
        container.position("overlord: deaf: not gone after .* killing it")

    # LINUX: kill(-1) spares PID 1 of a namespace, so the bystander is another.
    other = start(*PROGRAM, "--entrypoint", "sh", example, "-c", f"{COUNTER} other & wait")
    other.wait_for("^other ready$")
    life(f"container:{other.id}")
    other.execute("kill -TERM $(cat /proc/1/task/1/children)")
    other.join()
    assert other.lines == ["other ready", f"other got {int(signal.SIGTERM)}"]

    counter = [*default_python, "-I", "-S", str(PROGRAMS / "place_counter.py"), "host"]
    with subprocess.Popen(counter, stdout=subprocess.PIPE, text=True) as bystander:
        try:
            assert bystander.stdout is not None
            assert bystander.stdout.readline() == "host ready\n"
            life("host")
            assert bystander.poll() is None
        finally:
            bystander.terminate()
        assert bystander.stdout.read() == f"host got {int(signal.SIGTERM)}\n"
