"""overlord on other engines than one Docker host: Docker Swarm, podman as root and without, kube play, docker-compose.

`make engines` runs them all. The few that are marked `docker` too belong to `make check`. What is missing is a skip with
the reason; where CI=true or DOCKER_SETUP=1, root on Debian installs it.

Engines ask for `health`, stop what does not answer, and go on: the tests read what happened from the events of Docker and
from the logs, and open a gate (a file) where something has to wait. Each store, network and Swarm is removed at the end.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import json
import os
import re
import shlex
import shutil
import signal
import struct
import subprocess
import tempfile
import termios
import textwrap
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, Callable, Iterator, Sequence

import pytest

import test_docker
from harness import PATIENCE, Stopwatch, Terminal, eventually
from test_docker import COMMANDS, EXAMPLE, PLACES, alone, build, docker, run
from test_readme import blocks, section

pytestmark = pytest.mark.engines

engine = test_docker.engine
example = test_docker.example

NUMBERS = itertools.count(1)
SIGTERM_ALONE = {str(int(signal.SIGTERM))}
CLEAN = "overlord: exiting with code 0"
SERVICE = "com.docker.swarm.service.name"  # the label that Swarm gives to the containers of a service
PROJECT = "com.docker.compose.project"  # and docker-compose to those of a project


# --- what all have in common -----------------------------------------------------------------------------------------


def need(command: str, *packages: str) -> None:
    """Have a command on this machine: installed from Debian's packages where the tests may do that, else skip."""
    may_install = os.environ.get("CI") == "true" or os.environ.get("DOCKER_SETUP") == "1"
    with alone():
        if shutil.which(command):
            return
        line = f"apt-get install --no-install-recommends {' '.join(packages)}"
        if not may_install or os.geteuid() or not os.path.exists("/etc/debian_version"):
            pytest.skip(f"no {command} here (as root on Debian: {line}, or DOCKER_SETUP=1)")
        quiet = {"DEBIAN_FRONTEND": "noninteractive"}
        run("apt-get", "update", "-qq")
        run("apt-get", "install", "-y", "-qq", "--no-install-recommends", *packages, env=quiet)


def name() -> str:
    """Return a name that no other test run has."""
    return f"overlord-test-{os.getpid()}-{next(NUMBERS)}"


class Running(test_docker.Container):
    """A container of any engine that somebody else has started, and every line that it logs."""

    def __init__(self, engine: Callable[..., Any], words: Sequence[str], container: str) -> None:
        self.engine = engine
        self.words = words
        self.id = container
        self.lines: list[str] = []
        self._news = threading.Condition()
        self._reader = threading.Thread(target=self._follow, daemon=True)
        self._reader.start()

    def _follow(self) -> None:
        streams: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        with subprocess.Popen([*self.words, "logs", "-f", self.id], **streams) as follower:
            assert follower.stdout
            for line in follower.stdout:
                with self._news:
                    self.lines.append(line.decode(errors="replace").rstrip("\n"))
                    self._news.notify_all()

    def execute(self, command: str) -> str:
        """Run a shell command in the container, and return what it prints."""
        return self.engine("exec", self.id, "sh", "-c", command).stdout.strip()

    def ask(self, *words: str, user: str = "", check: bool = True) -> Any:
        """`exec CONTAINER overlord.py WORDS`"""
        options = ("--user", user) if user else ()
        return self.engine("exec", *options, self.id, "overlord.py", *words, check=check)

    def stop(self, *options: str) -> float:
        """Have the engine stop it; return the seconds that it took, when the log is complete."""
        with Stopwatch() as watch:
            self.engine("stop", *options, self.id)
        self.logged()
        return watch.seconds

    def logged(self) -> None:
        """Wait for the end of the log."""
        self._reader.join(PATIENCE)
        assert not self._reader.is_alive(), "the log has no end\n" + "\n".join(self.lines)

    def join(self) -> int:
        """Wait for the end of the container and of its log; return its exit code."""
        code = int(self.engine("wait", self.id).stdout)
        self.logged()
        return code


class Events:
    """What Docker tells of the containers that have a label, from now on."""

    def __init__(self, label: str) -> None:
        self.all: list[dict[str, Any]] = []
        command = ["docker", "events", f"--since={time.time():.6f}", "--format={{json .}}", f"--filter=label={label}"]
        self._popen = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._popen.stdout
        for line in self._popen.stdout:
            self.all.append(json.loads(line))

    def of(self, action: str, image: str = "") -> list[dict[str, Any]]:
        """Return the events of one kind so far, of one image or of any, in their order."""
        return [
            event
            for event in self.all
            if event["Action"] == action and image in ("", event["Actor"]["Attributes"]["image"].partition(":")[0])
        ]

    def wait_for(self, action: str, image: str = "", times: int = 1) -> list[dict[str, Any]]:
        """Wait until there are so many, and return them."""
        eventually(lambda: len(self.of(action, image)) >= times, f"{times} x {action} {image}", pause=0.05)
        return self.of(action, image)

    def values(self, action: str, image: str, attribute: str) -> set[str]:
        """Return what such events have said."""
        return {event["Actor"]["Attributes"][attribute] for event in self.of(action, image)}

    def close(self) -> None:
        """End the listening, and show what was heard."""
        self._popen.kill()
        self._popen.wait()
        self._reader.join(PATIENCE)
        kinds = ("start", "kill", "die", "health_status: healthy", "health_status: unhealthy")
        for event in (event for event in self.all if event["Action"] in kinds):
            told = event["Actor"]["Attributes"]
            print(event["timeNano"], event["Action"], told["image"], told.get("signal"), told.get("exitCode"), told["name"])


# A daemon that notes that it has saved its work when it is told to stop.
WORK = "echo version {}; trap 'echo saved; exit' TERM; while :; do sleep 0.1; done"
HEALTH = 'HEALTHCHECK --interval=500ms --timeout=30s --start-period={} --retries=3 CMD ["/sbin/overlord.py", "health"]'


@pytest.fixture(scope="module")
def version(example: str, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """A function that builds an image of the example with another configuration, and returns its name."""

    def make(label: str, text: str, start_period: str = "600s") -> str:
        folder = tmp_path_factory.mktemp(label)
        (folder / "overlord.conf").write_text(text)
        lines = [f"FROM {EXAMPLE}", "COPY overlord.conf /etc/", "RUN overlord.py check", HEALTH.format(start_period)]
        (folder / "Dockerfile").write_text("\n".join(lines))
        build(f"overlord-test-{label}", str(folder))
        return f"overlord-test-{label}"

    return make


# --- Docker Swarm ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def swarm(engine: None) -> Iterator[None]:
    """A Swarm of this one node, left at the end unless it was there before."""
    if docker("info", "-f", "{{.Swarm.LocalNodeState}}").stdout.strip() == "active":
        yield
        return
    bridge = docker("network", "ls", "-q", "--filter", "name=docker_gwbridge").stdout
    made = docker("swarm", "init", "--advertise-addr", "127.0.0.1", check=False)
    if made.returncode:
        pytest.skip(f"no Swarm can be made here: {made.stderr.strip()}")
    yield
    docker("swarm", "leave", "--force")
    if not bridge:
        docker("network", "rm", "docker_gwbridge", check=False)


class Service:
    """A service of the Swarm, the events of its containers, and what these log."""

    def __init__(self, image: str, *options: str) -> None:
        self.name = name()
        self.events = Events(f"{SERVICE}={self.name}")
        common = ("--detach", "--no-resolve-image", "--stop-grace-period=10s", "--restart-delay=60s")
        docker("service", "create", *common, "--name", self.name, *options, image)

    def tasks(self, image: str = "") -> list[tuple[str, str, str]]:
        """Return image, wanted state and state of each task that Swarm remembers."""
        lines = docker("service", "ps", "--format", "{{.Image}} {{.DesiredState}} {{.CurrentState}}", self.name).stdout
        found = [tuple(line.split()[:3]) for line in lines.splitlines()]
        return [(task[0].partition(":")[0], task[1], task[2]) for task in found if image in task[0]]

    def count(self, state: str, image: str = "") -> int:
        """Count the tasks in a state."""
        return [task[2] for task in self.tasks(image)].count(state)

    def wait_for(self, state: str, number: int, image: str = "") -> None:
        """Wait until as many tasks are in a state."""
        eventually(lambda: self.count(state, image) == number, f"{number} x {state} in {self.tasks()}", pause=0.1)

    def containers(self) -> list[str]:
        """Return the containers that run."""
        return docker("ps", "-q", "--no-trunc", "--filter", f"label={SERVICE}={self.name}").stdout.split()

    def follow(self) -> list[Running]:
        """Follow the logs of the containers that run: Swarm may remove one as soon as it has ended."""
        return [Running(docker, ["docker"], container) for container in self.containers()]

    def update(self, image: str, *options: str) -> None:
        """Begin a rolling update."""
        docker("service", "update", "--detach", "--no-resolve-image", "--image", image, *options, self.name)

    def outcome(self) -> str:
        """Wait for the end of the update; return how Swarm calls it."""

        def state() -> str:
            told = docker("service", "inspect", "-f", "{{if .UpdateStatus}}{{.UpdateStatus.State}}{{end}}", self.name)
            return told.stdout.strip()

        ends = ("completed", "paused", "rollback_completed", "rollback_paused")
        return eventually(lambda: state() if state() in ends else None, "the end of the update", pause=0.2)

    def remove(self) -> None:
        """Remove it, and wait until its containers are gone."""
        docker("service", "rm", self.name, check=False)
        eventually(lambda: not self.containers(), "its containers are gone", pause=0.1)
        self.events.close()


@pytest.fixture
def service(swarm: None) -> Iterator[Callable[..., Service]]:
    """A function that makes a Service, which is removed after the test."""
    made: list[Service] = []

    def make(*words: str) -> Service:
        made.append(Service(*words))
        return made[-1]

    yield make
    for each in made:
        each.remove()


ROLLING = ("--replicas=2", "--update-monitor=2s", "--rollback-monitor=1s", "--update-failure-action=rollback")


@pytest.mark.parametrize("order", ("start-first", "stop-first"))
def test_a_rolling_update_waits_for_health(
    version: Callable[..., str], service: Callable[..., Service], tmp_path: Path, order: str
) -> None:
    """Swarm goes on when `health` says so, and not before; what it stops ends by itself, with 0."""
    old = version("old", f"[daemon:web]\ncmd = {WORK.format('one')}\n")
    new = version("new", f"[daemon:web]\ncmd = {WORK.format('two')}\nready = file:/gate/open\n")
    shop = service(old, *ROLLING, f"--update-order={order}")
    shop.wait_for("Running", 2)
    before = shop.follow()
    shop.update(new, f"--mount-add=type=bind,src={tmp_path},dst=/gate")
    started = shop.events.wait_for("start", new)[0]["Actor"]["ID"]

    def asked() -> bool:
        told = json.loads(docker("inspect", "-f", "{{json .State.Health}}", started).stdout)
        return told["Status"] == "starting" and [probe["ExitCode"] for probe in told["Log"]][:3] == [1, 1, 1]

    eventually(asked, "Docker asks for health, which says no", pause=0.1)
    assert shop.count("Starting", new) == 1
    assert shop.count("Running", old) == (2 if order == "start-first" else 1)
    (tmp_path / "open").touch()
    assert shop.outcome() == "completed"
    shop.events.wait_for("die", old, times=2)
    assert shop.count("Running", new) == 2

    kinds = {("kill", old): "k", ("die", old): "d", ("start", new): "s", ("health_status: healthy", new): "h"}
    story = [(event["Action"], event["Actor"]["Attributes"]["image"].partition(":")[0]) for event in shop.events.all]
    order_of_events = "".join(kinds.get(event, "") for event in story)
    if order == "start-first":
        # The end of an old one overlaps with the start of the next new one.
        assert re.sub("[kd]", "", order_of_events) == "shsh"
        assert re.fullmatch("h(kh|hk)k", re.sub("[sd]", "", order_of_events))
    else:
        assert order_of_events == "kdshkdsh"
    assert shop.events.values("kill", old, "signal") == SIGTERM_ALONE
    assert shop.events.values("die", old, "exitCode") == {"0"}
    for container in before:
        container.logged()
        for line in ("^saved", CLEAN):  # stdout and stderr: each has a pipe of its own
            container.position(line)


BROKEN = {
    "backs off for ever": "",  # health says so
    "fails for good": "respawns = 0\n",  # the container ends, with the code of the daemon
}


@pytest.mark.parametrize(
    "options",
    [pytest.param(text, id=label, marks=[pytest.mark.docker] * (not text)) for label, text in BROKEN.items()],
)
def test_a_version_that_never_comes_up_is_rolled_back(
    version: Callable[..., str], service: Callable[..., Service], options: str
) -> None:
    """Swarm goes back by itself, and nothing of the old version has noticed."""
    old = version("old", f"[daemon:web]\ncmd = {WORK.format('one')}\n")
    text = f"[daemon:web]\ncmd = echo broken; sleep 0.1; exit 3\n{options}"
    broken = version("broken-for-good" if options else "broken", text, start_period="1s")
    shop = service(old, *ROLLING, "--update-order=start-first")
    shop.wait_for("Running", 2)
    before = set(shop.containers())
    shop.update(broken)
    assert shop.outcome() == "rollback_completed"
    image = docker("service", "inspect", "-f", "{{.Spec.TaskTemplate.ContainerSpec.Image}}", shop.name).stdout
    assert image.strip().partition(":")[0] == old
    assert set(shop.containers()) == before
    assert not shop.events.of("kill", old) + shop.events.of("die", old)
    shop.events.wait_for("start", broken)
    assert shop.events.values("kill", broken, "signal") == (set() if options else SIGTERM_ALONE)
    assert shop.events.values("die", broken, "exitCode") == ({"3"} if options else {"0"})
    assert bool(shop.events.of("health_status: unhealthy", broken)) == (not options)


def test_scaling_up_and_down_with_a_secret(version: Callable[..., str], service: Callable[..., Service], tmp_path: Path) -> None:
    """Swarm's config is the configuration, its secret is read where Swarm mounts it, and each replica stops cleanly."""
    image = version("old", f"[daemon:web]\ncmd = {WORK.format('one')}\n")
    label = name()
    (tmp_path / "conf").write_text(f"[daemon:web]\ncmd = {WORK.format('$URL')}\nsecrets = PASSWORD\nenv = URL=db:${{PASSWORD}}\n")
    (tmp_path / "password").write_text("s3cret\n")
    docker("config", "create", label, str(tmp_path / "conf"))
    docker("secret", "create", label, str(tmp_path / "password"))
    try:
        config = f"--config=source={label},target=/etc/overlord.conf"
        shop = service(image, "--replicas=1", config, f"--secret=source={label},target=PASSWORD")
        shop.wait_for("Running", 1)
        docker("service", "scale", "--detach", f"{shop.name}=4")
        shop.wait_for("Running", 4)
        replicas = shop.follow()
        assert len(replicas) == 4
        docker("service", "scale", "--detach", f"{shop.name}=1")
        shop.events.wait_for("die", times=3)
        shop.wait_for("Running", 1)
        docker("service", "rm", shop.name)
        shop.events.wait_for("die", times=4)
    finally:
        docker("config", "rm", label, check=False)
        docker("secret", "rm", label, check=False)
    assert shop.events.values("kill", "", "signal") == SIGTERM_ALONE
    assert shop.events.values("die", "", "exitCode") == {"0"}
    for replica in replicas:
        replica.logged()
        replica.position("^version db:s3cret$")
        for line in ("^saved", CLEAN):  # stdout and stderr: each has a pipe of its own
            replica.position(line)


@pytest.mark.parametrize("condition", ("any", "on-failure"))
def test_what_becomes_unhealthy_is_replaced_by_any_alone(
    version: Callable[..., str], service: Callable[..., Service], condition: str
) -> None:
    """Swarm stops an unhealthy task. That is a stop as asked, hence code 0, which is no failure for `on-failure`.

    The default, `any`, starts another one.
    """
    sick = version("sick", "[daemon:web]\ncmd = while [ ! -e /run/sick ]; do sleep 0.1; done; exit 3\n")
    shop = service(sick, "--replicas=1", f"--restart-condition={condition}", "--restart-delay=0s")
    shop.wait_for("Running", 1)
    docker("exec", shop.containers()[0], "touch", "/run/sick")
    shop.events.wait_for("health_status: unhealthy")
    shop.events.wait_for("die")
    shop.wait_for("Complete", 1)
    if condition == "any":
        shop.events.wait_for("start", times=2)
        shop.wait_for("Running", 1)
    else:
        # Swarm would add the next task in the moment in which it sees the end of this one.
        assert [task[1:] for task in shop.tasks()] == [("Shutdown", "Complete")]
    assert shop.events.values("kill", "", "signal") == SIGTERM_ALONE
    assert shop.events.values("die", "", "exitCode") == {"0"}


# --- podman ----------------------------------------------------------------------------------------------------------

ROOTLESS = 4711  # a user whom this machine need not have: /etc/passwd is another one where podman runs for that user
PASSWD = "root:x:0:0::/root:/bin/sh\nrootless:x:{0}:{0}::{1}:/bin/sh\nnobody:x:65534:65534::/:/bin/false\n"
WORLD = """
for file in passwd group subuid subgid; do mount --bind "$0/$file" "/etc/$file"; done
echo ready
exec sleep infinity
"""


class Podman:
    """podman with a store, networks and settings of its own; called with words, it runs them to their end."""

    def __init__(self, rootless: bool) -> None:
        self.rootless = rootless
        self.folder = Path(tempfile.mkdtemp(prefix="overlord-podman-"))
        self._speed_up()
        self.folder.chmod(0o755)
        self.home = self.folder / "home"
        for folder in (self.home, self.home / "run", self.folder / "files"):
            folder.mkdir(mode=0o700 if folder.name == "run" else 0o755)
        # Without systemd, with the limits and the network that a container on this machine may have anyway.
        limits = 'default_ulimits = ["nofile=1024:1024", "nproc=4096:4096"]'
        runtime = 'runtime = "runc"' if shutil.which("runc") else ""
        settings = f'[containers]\n{limits}\nnetns = "host"\n[engine]\ncgroup_manager = "cgroupfs"\nevents_logger = "file"\n'
        (self.folder / "containers.conf").write_text(settings + runtime + "\n")
        self.env = {"CONTAINERS_CONF": str(self.folder / "containers.conf"), "TMPDIR": str(self.home)}
        self.keeper: subprocess.Popen[bytes] | None = None
        prefix = self._become() if rootless and os.geteuid() == 0 else []
        here = self.home if rootless else self.folder
        options = [f"--root={here}/store", f"--runroot={here}/run/store", "--storage-driver=overlay"]
        # A network for a pod needs rights; the others have none but the host's.
        networks = [] if rootless else [f"--network-config-dir={here}/networks"]
        self.words = [*prefix, "podman", *options, *networks]

    def _speed_up(self) -> None:
        """Have it all in memory, where that can be: a busy disk takes half a minute for what is thrown away anyway."""
        if os.geteuid() or run("mount", "-t", "tmpfs", "overlord-test", str(self.folder), check=False).returncode:
            return
        try:
            os.setxattr(self.folder, "user.overlord", b"")  # overlay without root needs it; a tmpfs has it since Linux 6.6
        except OSError:
            run("umount", str(self.folder))

    def _become(self) -> list[str]:
        """Make a mount namespace in which there is a user with subordinate ids; return the command that goes there."""
        (self.folder / "passwd").write_text(PASSWD.format(ROOTLESS, self.home))
        (self.folder / "group").write_text(f"root:x:0:\nrootless:x:{ROOTLESS}:\n")
        for file in ("subuid", "subgid"):
            (self.folder / file).write_text("rootless:1000000000:65536\n")
            if not os.path.exists(f"/etc/{file}"):
                pytest.skip(f"no /etc/{file} here (Debian's package uidmap)")
        for path in (self.home, self.home / "run"):
            shutil.chown(path, ROOTLESS, ROOTLESS)
        command = ["unshare", "--mount", "--propagation=private", "sh", "-ec", WORLD, str(self.folder)]
        self.keeper = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
        assert self.keeper.stdout
        assert self.keeper.stdout.readline() == b"ready\n"
        settings = {"HOME": self.home, "XDG_RUNTIME_DIR": self.home / "run", "PATH": os.environ["PATH"], **self.env}
        return [
            *("nsenter", f"--target={self.keeper.pid}", "--mount", f"--wd={self.home}"),
            *("setpriv", f"--reuid={ROOTLESS}", f"--regid={ROOTLESS}", "--clear-groups"),
            *("env", "-i", *(f"{key}={value}" for key, value in settings.items())),
        ]

    def __call__(self, *words: str, **options: Any) -> Any:
        return run(*self.words, *words, env=self.env, **options)

    def load(self, image: str) -> None:
        """Take an image from Docker."""
        command = f"docker save {image} | {shlex.join(self.words)} load --quiet"
        run("bash", "-o", "pipefail", "-c", command, env=self.env)

    def build(self, tag: str, *lines: str, conf: str = "") -> str:
        """Build an image as podman does; HEALTHCHECK is known to Docker's format alone."""
        folder = self.folder / "files" / str(next(NUMBERS))
        folder.mkdir()
        (folder / "Dockerfile").write_text("\n".join(lines))
        (folder / "overlord.conf").write_text(conf)
        self("build", "--quiet", "--format=docker", "--network=host", "-t", tag, str(folder))
        return tag

    def start(self, *words: str) -> Running:
        """Run a container in the background."""
        return self.follow(self("run", "-d", *words).stdout.strip())

    def follow(self, container: str) -> Running:
        """Return a container that runs, and follow its log."""
        return Running(self, self.words, container)

    def config(self, text: str) -> tuple[str, str]:
        """Write a configuration, and return the options that mount it."""
        path = self.folder / "files" / f"{next(NUMBERS)}.conf"
        path.write_text(text)
        path.chmod(0o644)
        return ("-v", f"{path}:/etc/overlord.conf:ro")

    def _processes(self) -> list[str]:
        """Return the commands of the processes that podman has left here."""
        found = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                found.append(path.read_text(errors="replace"))
        return [command for command in found if f"--root\0{self.folder}" in command or f"--root={self.folder}" in command]

    def clear(self) -> None:
        """Remove all containers."""
        self("pod", "rm", "-fa", "-t0", check=False)
        self("rm", "-fa", "-t0", check=False)

    def close(self) -> None:
        """Leave nothing behind."""
        self.clear()
        if self.rootless:
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # the process that keeps the user namespace
                os.kill(int((self.home / "run/libpod/tmp/pause.pid").read_text()), signal.SIGTERM)
        else:
            for path in self.folder.glob("networks/*.conflist"):
                self("network", "rm", path.stem, check=False)
        eventually(lambda: not self._processes(), "podman has cleaned up, which it does in the background")
        for path in (self.home / "store/overlay", self.folder / "store/overlay"):
            run("umount", "-l", str(path), check=False)
        if self.keeper:
            self.keeper.kill()
            self.keeper.communicate()
        run("umount", "-l", str(self.folder), check=False)
        shutil.rmtree(self.folder)


@contextlib.contextmanager
def podmen(rootless: bool) -> Iterator[Podman]:
    """podman with the image of the example in its store, or a skip that says why it does not run here."""
    packages = ("podman", "conmon", "runc", "catatonit")
    need("podman", *packages)
    need("conmon", *packages)
    need("catatonit", *packages)  # the first process of a pod, and podman's --init
    if rootless:
        need("newuidmap", "uidmap")
    elif os.geteuid():
        pytest.skip("podman as root has to be started by root")
    podman = Podman(rootless)
    try:
        told = podman("unshare", "true", check=False) if rootless else podman("info", check=False)
        if told.returncode:
            pytest.skip(f"podman does not run here: {told.stderr.strip().splitlines()[-1]}")
        podman.load(EXAMPLE)
        yield podman
    finally:
        podman.close()


@pytest.fixture(scope="module")
def of_root(example: str) -> Iterator[Podman]:
    """podman, run by root."""
    with podmen(rootless=False) as podman:
        yield podman


@pytest.fixture(scope="module")
def of_a_user(example: str) -> Iterator[Podman]:
    """podman, run by somebody else: root in its containers is that user, and others are that user's subordinates."""
    with podmen(rootless=True) as podman:
        yield podman


@pytest.fixture(params=("root", "rootless"))
def podman(request: pytest.FixtureRequest) -> Iterator[Podman]:
    """podman as root, and without root."""
    each = request.getfixturevalue("of_a_user" if request.param == "rootless" else "of_root")
    yield each
    each.clear()


IMAGE = f"localhost/{EXAMPLE}"


def bare(podman: Podman) -> str:
    """overlord.py in place of tini."""
    return podman.build("overlord-bare", f"FROM {IMAGE}", "RUN rm /etc/overlord.conf")


def test_podman_runs_and_stops_the_example(podman: Podman) -> None:
    """Users, order, restarts, relayed signals, and the end: as in Docker."""
    container = podman.start(IMAGE)
    container.wait_for("overlord: nginx: ok")
    for unit, user in (("redis", "redis"), ("app", "www-data"), ("nginx", "root")):
        pid = container.wait_for(rf"overlord: {unit}: started \(pid (\d+)\)").group(1)
        assert container.execute(f"stat -c %U /proc/{pid}") == user
    root = str(os.geteuid() or ROOTLESS) if podman.rootless else "0"
    assert container.execute("cat /proc/self/uid_map").split()[1] == root, "who is root in there"
    assert container.ask("health").stdout == "healthy: 3 daemons ok\n"
    assert container.execute("redis-cli PING") == "PONG"
    container.execute("kill -KILL $(pidof redis-server)")
    container.wait_for("overlord: app: ok", times=2)
    podman("kill", "--signal=HUP", container.id)
    container.wait_for("overlord: nginx: SIGHUP relayed")
    took = container.stop()
    print(f"podman stop: {took:.2f} s")
    assert took < 9
    assert container.join() == 0
    order = ["shutting down: SIGTERM", "nginx: stopped", "app: stopping", "app: stopped", "redis: stopping", CLEAN[10:]]
    places = [container.position(f"overlord: {line}") for line in order]
    assert places == sorted(places), "\n".join(container.lines)
    assert not container.found("not gone after|warning"), "\n".join(container.lines)


def test_podman_kills_nothing_that_overlord_stops_in_time(podman: Podman) -> None:
    """A daemon that ignores SIGTERM is killed by overlord, before podman kills all."""
    deaf = "[daemon]\nwarmup = 0\n[daemon:deaf]\ncmd = trap '' TERM; echo deaf is up; while :; do sleep 0.1; done\n"
    polite = f"[daemon:polite]\ncmd = {WORK.format('one')}\ndeps = deaf\n"
    container = podman.start(*podman.config(f"[overlord]\nshutdown_timeout = 4s\n{deaf}{polite}"), IMAGE)
    container.wait_for("overlord: polite: ok")
    container.wait_for("^deaf is up")
    container.stop()
    assert container.join() == 0
    container.position("overlord: deaf: not gone after .* killing it")
    assert container.position("overlord: polite: stopped") < container.position("overlord: deaf: stopping")
    assert container.position("^saved") < container.position(CLEAN)


def test_podman_healthcheck(podman: Podman) -> None:
    """`podman healthcheck run` asks HEALTHCHECK's `health`; podman's own timer wants systemd, which is not here."""
    up = "[daemon:web]\ncmd = while [ ! -e /run/sick ]; do sleep 0.1; done; exit 3\nready = file:/run/up\n"
    container = podman.start(*podman.config(up), IMAGE)
    container.wait_for("overlord: web: started")

    def healthy() -> bool:
        return podman("healthcheck", "run", container.id, check=False).returncode == 0

    assert not healthy(), "it is not up yet"
    container.execute("touch /run/up")
    container.wait_for("overlord: web: ok")
    assert healthy()
    container.execute("rm /run/up; touch /run/sick")
    container.wait_for("overlord: web: .*exited with code 3", times=2)
    assert not healthy()
    container.execute("rm /run/sick; touch /run/up")
    eventually(healthy, "it is healthy again")
    log = json.loads(podman("inspect", "--format", "{{json .State.Healthcheck.Log}}", container.id).stdout)
    codes = [code for code, _ in itertools.groupby(probe["ExitCode"] for probe in log)]
    assert codes[-3:] == [0, 1, 0]  # podman keeps the last five probes


def test_a_health_check_is_lost_in_the_other_image_format(of_root: Podman) -> None:
    """`podman build` makes an OCI image, which has no HEALTHCHECK, and says so; `--format docker` keeps it."""
    folder = of_root.folder / "health"
    folder.mkdir()
    (folder / "Dockerfile").write_text(f"FROM {IMAGE}\n{HEALTH.format('1s')}\n")
    said = of_root("build", "--network=host", "-t", "overlord-oci", str(folder)).stderr
    assert "HEALTHCHECK is not supported for OCI image format" in said
    of_root("build", "--network=host", "--format=docker", "-t", "overlord-docker", str(folder))
    for image, kept in (("overlord-oci", False), ("overlord-docker", True)):
        container = of_root("create", *of_root.config("[daemon:web]\ncmd = sleep 1000\n"), f"localhost/{image}").stdout.strip()
        told = of_root("inspect", "--format", "{{json .Config.Healthcheck}}", container).stdout
        assert ("/sbin/overlord.py" in told) == kept, told


IN_PODMAN = {
    **PLACES,
    "read-only, without a tmpfs": ["--read-only", "--read-only-tmpfs=false"],
    "the user's own id": ["--userns=keep-id"],
    "a network of none": ["--network=none"],
}


# Limits by cgroups are for root where there is no systemd, and a user's own id is for those without root.
HERE = [(who, place) for who in ("root", "rootless") for place in IN_PODMAN]
HERE = [each for each in HERE if each not in (("rootless", "few processes"), ("root", "the user's own id"))]


@pytest.mark.parametrize(("podman", "place"), HERE, indirect=["podman"])
def test_podman_and_its_options(podman: Podman, place: str) -> None:
    """It runs, answers, restarts and stops on a read-only root, as another user, beside `--init`, without rights."""
    options = IN_PODMAN[place]
    text = "[daemon]\nwarmup = 0\n[daemon:db]\ncmd = sleep 1000\n[daemon:web]\ncmd = sleep 1000\ndeps = db:bounce\n"
    container = podman.start(*options, *podman.config(text), IMAGE)
    container.wait_for("overlord: web: ok")
    pid = container.wait_for(r"overlord: db: started \(pid (\d+)\)").group(1)
    container.execute(f"kill -KILL {pid}")
    container.wait_for("overlord: web: ok", times=2)
    assert container.ask("health").stdout == "healthy: 2 daemons ok\n"
    refused = container.ask("status", user="redis", check=False)
    assert refused.returncode == 77, refused.stderr
    assert bool(container.found("not PID 1")) == (place == "init")
    assert container.stop() < 9
    assert container.join() == 0
    assert container.position("overlord: web: stopped") < container.position("overlord: db: stopping")


def test_podman_gives_the_code_of_the_main_command(podman: Podman) -> None:
    """As tini gives it, and in silence; podman's own --init gives the same."""
    image = bare(podman)
    for command, code in COMMANDS:
        ours = podman("run", "--rm", "--no-healthcheck", image, *command, check=False)
        assert ours.returncode == code, (command, ours.stderr)
        assert code in (126, 127) or ours.stdout + ours.stderr == ""
    assert podman("run", "--rm", "--no-healthcheck", "--init", image, "sh", "-c", "exit 7", check=False).returncode == 7
    result = podman("run", "--rm", "--no-healthcheck", "-i", image, "sh", "-c", "tr a-z A-Z; echo done >&2", stdin="one\ntwo\n")
    assert (result.stdout, result.stderr) == ("ONE\nTWO\n", "done\n")


def test_podman_stops_a_main_command(podman: Podman) -> None:
    """With the signal that podman sends, and its own exit code."""
    script = "trap 'echo asked to stop; exit 5' USR1; echo up; while :; do sleep 0.1; done"
    container = podman.start("--stop-signal=USR1", bare(podman), "sh", "-c", script)
    container.wait_for("^up")
    container.stop()
    assert container.join() == 5
    container.position("^asked to stop")


def test_a_user_opens_dev_stdout_in_podman(podman: Podman) -> None:
    """nginx' and apache's way of logging: with `prefix` the pipe is the user's own, whatever conmon's is."""
    daemon = "[daemon:web]\ncmd = echo to stdout >/dev/stdout && echo to stderr >/dev/stderr && echo opened; exec sleep 1000\n"
    container = podman.start(*podman.config(f"[overlord]\noutput = prefix\n{daemon}uid = www-data\n"), IMAGE)
    for line in ("to stdout", "to stderr", "opened"):
        container.wait_for(rf"^web \| {line}$")


def test_a_terminal_of_podman(podman: Podman) -> None:
    """`podman run -it`: job control, Ctrl-C for the job alone, and the size of the window."""
    terminal = Terminal()
    fcntl.ioctl(terminal.slave, termios.TIOCSWINSZ, struct.pack("HHHH", 33, 101, 0, 0))
    ends = dict.fromkeys(("stdin", "stdout", "stderr"), terminal.slave)
    command = [*podman.words, "run", "--rm", "-it", bare(podman), "bash", "--norc"]
    try:
        with subprocess.Popen(command, env={**os.environ, **podman.env}, start_new_session=True, **ends) as shell:
            after = terminal.expect(r"bash-[\d.]+# ").end()
            terminal.type("stty size; sh -c 'echo now rea''dy; exec sleep 1000'\n")
            after = terminal.expect(r"33 101\r\n", after).end()
            after = terminal.expect("now ready", after).end()
            terminal.type("\x03")
            terminal.type("echo co''de=$?; exit 3\n")
            terminal.expect(r"code=130\b", after)
            assert shell.wait(PATIENCE) == 3
        assert "no job control" not in terminal.text
    finally:
        terminal.close()


# --- Kubernetes' files, by podman kube play --------------------------------------------------------------------------


def pods(text: str) -> str:
    """Return the README's part of a file for Kubernetes as a whole one."""
    return f"apiVersion: v1\nkind: Pod\nmetadata: {{name: shop}}\n{text}"


def exec_probe() -> str:
    """Return the README's file with probes by exec."""
    return next(block for block in blocks("yaml", section("Health checks")) if "livenessProbe" in block)


def http_probe() -> str:
    """Return the same with the README's probe by httpGet in place of the other."""
    found = next(block for block in blocks("yaml") if "httpGet" in block)
    probe = textwrap.indent(textwrap.dedent(found), "    ")
    text, number = re.subn(r"(?ms)^    livenessProbe:\n(?: {5,}.*?\n)+", lambda _: probe, exec_probe())
    assert number == 1
    return text


@contextlib.contextmanager
def played(podman: Podman, text: str) -> Iterator[Callable[[str], Running]]:
    """`podman kube play`; yields a function that finds a container of the pod by its name."""
    path = podman.folder / "files" / f"{next(NUMBERS)}.yaml"
    path.write_text(text)
    podman("kube", "play", str(path))
    try:
        yield lambda container: podman.follow(f"shop-{container}")
    finally:
        podman("kube", "down", str(path), check=False)
        podman.clear()
        podman("volume", "rm", "-fa", check=False)
        podman("secret", "rm", "-a", check=False)


def ignored(podman: Podman, container: Running, text: str) -> None:
    """Print what podman has made of the file: 4.3 knows livenessProbe alone, and no grace period."""
    told = json.loads(podman("inspect", container.id).stdout)[0]
    test = (told["Config"].get("Healthcheck") or {}).get("Test")
    grace = int(re.search(r"terminationGracePeriodSeconds: (\d+)", text)[1])  # type: ignore[index]
    kept = told["Config"].get("StopTimeout")
    print(podman("--version").stdout.strip(), f"has as health check {test}, and stops after {kept} s, not {grace} s")


def test_the_file_for_kubernetes_with_probes_by_exec(of_root: Podman) -> None:
    """README's file as it is: both probes say no, then yes, and the grace period is enough for a slow daemon.

    The daemon needs longer than the 9 s that overlord has unless told otherwise, and than the 10 s of podman. podman 4.3
    knows neither startupProbe nor terminationGracePeriodSeconds, so the test gives both, as Kubernetes would.
    """
    text = exec_probe()
    limit = re.search(r"shutdown_timeout = (\S+)", text)[1]  # type: ignore[index]
    grace = re.search(r"terminationGracePeriodSeconds: (\d+)", text)[1]  # type: ignore[index]
    slow = "trap 'sleep 11; echo saved; exit' TERM; echo up; while :; do sleep 0.1; done"
    conf = f"[overlord]\nshutdown_timeout = {limit}\n[daemon:web]\ncmd = {slow}\nstop_timeout = 20s\nready = file:/run/up\n"
    of_root.build("shop", f"FROM {IMAGE}", "COPY overlord.conf /etc/", "RUN overlord.py check", conf=conf)
    with played(of_root, pods(text)) as find:
        shop = find("shop")
        ignored(of_root, shop, text)
        shop.wait_for("^up")
        probes = [shlex.split(words.replace(",", " ")) for words in re.findall(r"exec: \{command: \[(.*?)\]", text)]
        assert len(probes) == 2
        for code in (1, 0):
            for probe in probes:
                assert of_root("exec", shop.id, *probe, check=False).returncode == code
            assert of_root("healthcheck", "run", shop.id, check=False).returncode == code, "podman makes one of livenessProbe"
            shop.execute("touch /run/up")
            shop.wait_for("overlord: web: ok")
        of_root("pod", "stop", "-t", grace, "shop")
        assert shop.join() == 0
        assert shop.position("^saved") < shop.position(CLEAN)
        assert not shop.found("not gone after")


PARTS = """apiVersion: v1
kind: Secret
metadata: {name: db}
data: {DB_PASSWORD: czNjcmV0}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: conf}
data:
  shop.conf: |
    [daemon:db]
    cmd = echo "password $DB_PASSWORD"; trap 'echo saved; exit' TERM; while [ ! -e /run/sick ]; do sleep 0.1; done; exit 3
    secrets = DB_PASSWORD
    uid = www-data
---
"""
# podman 4.3 wants each `optional`, and knows no subPath.
VOLUMES = """  volumes:
  - {name: run, emptyDir: {}}
  - {name: secrets, secret: {secretName: db, optional: false}}
  - {name: conf, configMap: {name: conf, optional: false}}
"""
MOUNTS = """    volumeMounts:
    - {name: run, mountPath: /run}
    - {name: secrets, mountPath: /run/secrets, readOnly: true}
    - {name: conf, mountPath: /etc/overlord}
"""
BESIDE = """  - name: beside
    image: overlord-bare
    args: [sh, -c, "echo up; exec sleep 1000"]
"""


def get(address: str) -> tuple[int, str]:
    """Return code and text of the answer to a GET."""
    try:
        with urllib.request.urlopen(address, timeout=PATIENCE) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


@pytest.mark.parametrize(
    "shared",
    [pytest.param(False, id="own processes"), pytest.param(True, id="shared processes", marks=pytest.mark.docker)],
)
def test_a_pod_with_a_probe_by_http(of_root: Podman, shared: bool) -> None:
    """README's probe by httpGet, as a kubelet asks it from outside; a secret and a ConfigMap as files, an emptyDir on /run.

    With shareProcessNamespace the pod's first process is PID 1, and overlord stops nothing of the other container. (There
    `podman pod stop` stops PID 1 at the same time as overlord, and so kills all: the container has to be stopped first.)
    podman 4.3 makes of httpGet a `curl` in the container, which this image has not; and it mounts a secret in base64.
    """
    text = http_probe()
    probe = re.search(r"httpGet: \{path: (\S+), port: (\d+)\}", text)
    assert probe
    serve = next(block for block in blocks("ini") if "overlord.py serve" in block)
    assert probe[2] in serve, "README's probe is for README's daemon"
    bare(of_root)
    of_root.build("shop", "FROM overlord-bare", "COPY overlord.conf /etc/", conf=serve)
    head, tail = ("  shareProcessNamespace: true\n" if shared else "") + VOLUMES, MOUNTS + BESIDE
    whole = PARTS + pods(text.replace("spec:\n", f"spec:\n{head}", 1).rstrip() + "\n" + tail)
    with played(of_root, whole) as find:
        shop, beside = find("shop"), find("beside")
        ignored(of_root, shop, text)
        for line in ("overlord: http: ok", "overlord: db: ok"):
            shop.wait_for(line)
        assert bool(shop.found("not PID 1")) == shared
        told = json.loads(of_root("pod", "inspect", "shop").stdout)
        pod = json.loads(of_root("inspect", told["InfraContainerID"]).stdout)[0]["NetworkSettings"]["Networks"]
        address = f"http://{next(iter(pod.values()))['IPAddress']}:{probe[2]}{probe[1]}"
        assert get(address) == (200, "healthy: 2 daemons ok\n")
        secret = shop.execute("cat /run/secrets/DB_PASSWORD")
        assert secret in ("s3cret", "czNjcmV0")
        shop.position(f"^password {secret}$")
        shop.execute("touch /run/sick")
        shop.wait_for("overlord: db: pid .* exited with code 3", times=3)
        code, said = eventually(lambda: (told := get(address))[0] != 200 and told, "the probe fails")
        assert code == 503
        assert said.startswith("unhealthy: db")
        shop.execute("rm /run/sick")
        shop.wait_for("overlord: db: ok", times=2)
        eventually(lambda: get(address) == (200, "healthy: 2 daemons ok\n"), "the probe passes again")
        shop.stop()
        assert shop.join() == 0
        assert shop.position("^saved") < shop.position(CLEAN)
        assert of_root("inspect", "--format", "{{.State.Running}}", beside.id).stdout.strip() == "true"
        beside.stop()
        assert beside.join() == 128 + signal.SIGTERM


# --- docker-compose --------------------------------------------------------------------------------------------------


@pytest.fixture
def compose(engine: None, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """A function that runs docker-compose on a project of its own: the plugin, or Debian's command of its own."""
    plugin = docker("compose", "version", check=False).returncode == 0
    if not plugin:
        need("docker-compose", "docker-compose")
    project = name()
    words = [*(("docker", "compose") if plugin else ("docker-compose",)), "-p", project, "--project-directory", str(tmp_path)]

    def call(*more: str, **options: Any) -> Any:
        return run(*words, "-f", str(tmp_path / "compose.yaml"), *more, **options)

    call.project = project  # type: ignore[attr-defined]
    yield call
    call("down", "-v", "--timeout=0", check=False)


def test_compose_waits_for_health_scales_and_stops(
    version: Callable[..., str], compose: Callable[..., Any], tmp_path: Path
) -> None:
    """README's file: `service_healthy` is what `health` says. Scaling down and `stop` are SIGTERM alone, and end with 0."""
    db = version("new", f"[daemon:web]\ncmd = {WORK.format('two')}\nready = file:/gate/open\n")
    app = version("old", f"[daemon:web]\ncmd = {WORK.format('one')}\n")
    (tmp_path / "gate").mkdir()
    text = next(block for block in blocks("yaml") if "services:" in block)
    text = text.replace("image: shop\n", f"image: {db}\n    volumes: ['./gate:/gate']\n")
    (tmp_path / "compose.yaml").write_text(text.replace("image: proxy\n", f"image: {app}\n"))
    print(compose("version").stdout)
    events = Events(f"{PROJECT}={compose.project}")  # type: ignore[attr-defined]
    try:
        up = threading.Thread(target=compose, args=("up", "-d"), daemon=True)
        up.start()
        # Each probe of HEALTHCHECK is an exec in the container, with its exit code.
        events.wait_for("exec_die", db, times=3)
        assert events.values("exec_die", db, "exitCode") == {"1"}
        assert not events.of("start", app)
        (tmp_path / "gate/open").touch()
        up.join(PATIENCE)
        assert not up.is_alive()
        events.wait_for("start", app)
        actions = [event["Action"] for event in events.all if event["Action"] in ("start", "health_status: healthy")]
        assert actions[:3] == ["start", "health_status: healthy", "start"]
        compose("up", "-d", "--scale", "proxy=3")
        events.wait_for("health_status: healthy", app, times=3)
        compose("up", "-d", "--scale", "proxy=1")
        events.wait_for("die", app, times=2)
        compose("stop")
        events.wait_for("die", times=4)
        assert events.values("kill", "", "signal") == SIGTERM_ALONE
        assert events.values("die", "", "exitCode") == {"0"}
        said = compose("logs", "--no-color").stdout
        assert said.count(CLEAN) == 2, said
    finally:
        events.close()
