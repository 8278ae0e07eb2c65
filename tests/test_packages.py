"""Debian's own daemons under overlord: what they do to get away from whoever started them, and what has to become of it.

`look` runs before each start of a unit, and says who of its predecessor still lives: nobody, ever.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import subprocess
from typing import Callable, Iterator, Sequence

import pytest

import test_docker
from harness import OVERLORD, PATIENCE, eventually
from test_docker import alone, build, docker
from test_places import ask, ends_well

pytestmark = pytest.mark.docker

engine = test_docker.engine
start = test_docker.start
config = test_docker.config
Container = test_docker.Container
Begin = Callable[..., Container]
Write = Callable[[str], Sequence[str]]

IMAGE = "overlord-test-packages"
DOCKERFILE = r"""
FROM debian:bookworm-slim
RUN printf 'path-exclude=/usr/share/%s/*\n' doc locale man >/etc/dpkg/dpkg.cfg.d/small \
 && mkdir -p /etc/mysql/conf.d && printf '[mysqld]\ninnodb_log_file_size = 4M\n' >/etc/mysql/conf.d/small.cnf \
 && apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
    apache2 cron gunicorn iproute2 mariadb-server nginx-light openssh-client openssh-server postfix procps supervisor \
 && apt-get clean && rm -rf /var/lib/apt/lists/*
RUN mkdir -p /run/sshd /run/mysqld /root/.ssh && chown mysql: /run/mysqld && chmod 700 /root/.ssh \
 && ssh-keygen -q -N '' -t ed25519 -f /root/.ssh/id_ed25519 && cp /root/.ssh/id_ed25519.pub /root/.ssh/authorized_keys \
 && echo '* * * * * root mkdir /run/job 2>/dev/null && exec sleep 54321' >/etc/cron.d/job \
 && echo 'def app(environ, start): start("200 OK", []); return [b"hello"]' >/srv/app.py \
 && printf '[supervisord]\n[program:tail]\ncommand = /srv/napping 54321\n' >/srv/supervisord.conf \
 && cp /bin/sleep /srv/napping
COPY overlord.py /sbin/
RUN overlord.py compile /sbin/overlord.py
ENTRYPOINT ["/sbin/overlord.py"]
"""

LOOK = "[script:look]\ncmd = echo \"look: $(pgrep -x -r D,R,S,T '({})' | xargs).\"\n"
OTHER = "[daemon:other]\ncmd = sleep 12345\nwarmup = 0\n"  # another unit of root's, which might have made any process
GET = """
import http.client, select
count, lost = 0, []
while not select.select([0], [], [], 0)[0]:
    count += 1
    try:
        connection = http.client.HTTPConnection("127.0.0.1", PORT, timeout=30)
        connection.request("GET", "/")
        answer = connection.getresponse()
        answer.read()
        lost += [] if answer.status == 200 else [answer.status]
        connection.close()
    except (OSError, http.client.HTTPException) as error:
        lost.append(repr(error))
    if count == 1:
        print("begun", flush=True)
print(count, lost)
"""


@pytest.fixture(scope="session")
def packages(engine: None, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The image with all of them; its id, since another run of the tests may build one for another overlord.py."""
    folder = tmp_path_factory.mktemp("packages")
    (folder / "Dockerfile").write_text(DOCKERFILE)
    shutil.copy(OVERLORD, folder / "overlord.py")
    with alone():
        return str(build(IMAGE, "-q", str(folder)).stdout.split()[-1])


@pytest.fixture
def begin(packages: str, start: Begin, config: Write) -> Callable[[str], Container]:
    """A function that starts a container with a configuration, and waits until overlord answers in it."""

    def begin(text: str) -> Container:
        container = start(*config(text), packages)
        container.wait_for("^overlord: ")
        return container

    return begin


KILL_MODES = {"process": "kill_mode = process\n", "by default": ""}
SSHD = "[daemon:sshd]\ncmd = /usr/sbin/sshd -D\nready = tcp:22\n"
CRON = "[daemon:cron]\ncmd = cron -f\n"


@pytest.fixture(scope="module", autouse=True)
def crons(packages: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Container]]:
    """A container with cron for each of KILL_MODES. They begin with the first test, since a job begins with a minute."""
    containers = {}
    for mode, option in KILL_MODES.items():
        path = tmp_path_factory.mktemp("cron") / "overlord.conf"
        path.write_text(CRON + option + OTHER)
        containers[mode] = Container("-v", f"{path}:/etc/overlord.conf:ro", packages)
    yield containers
    for container in containers.values():
        docker("rm", "-f", container.id)


def running(container: Container, pattern: str) -> dict[int, str]:
    """Return the processes whose command line the pattern is found in, but for the dead: pid -> command line."""
    listed = [line.split(None, 2) for line in container.execute("ps -ww -eo pid=,stat=,args=").splitlines()]
    return {int(pid): args for pid, state, args in listed if state[0] != "Z" and re.search(pattern, args)}


def main_pid(container: Container, name: str) -> int:
    """Return the pid that `status` shows of a unit, which is OK."""
    units = {unit["name"]: unit for unit in json.loads(ask(container, "status", "-j", code=None))}
    assert units[name]["state"] == "ok", (units, container.lines)
    return int(units[name]["pid"])


def is_held(container: Container, port: int) -> bool:
    """Tell whether anybody listens on a port."""
    return bool(container.execute(f"ss -Hltn 'sport = :{port}'"))


def who_answers(container: Container) -> int:
    """Say hello to postfix; return the parent of the smtpd that answers: its master."""
    command = "exec 3<>/dev/tcp/127.0.0.1/25 && read -r hello <&3 && echo $hello && ps -C smtpd -o ppid="
    hello, *parents = docker("exec", container.id, "bash", "-c", command).stdout.splitlines()
    assert hello.startswith("220 ")
    (parent,) = {int(each) for each in parents}
    return parent


def read_pid(container: Container, path: str) -> int:
    """Return what is in a pid file, 0 where it is not there or empty."""
    return int(container.execute(f"cat {path} 2>/dev/null || :") or 0)


def ups(container: Container, name: str) -> int:
    return len(container.found(f"overlord: {name}: started"))


def kill_main(container: Container, name: str, left: str = "") -> None:
    """SIGKILL to the main process of a unit; return when the unit is OK again. Whom it has left behind is named."""
    times, pid = len(container.found(f"overlord: {name}: ok")), main_pid(container, name)
    container.execute(f"kill -KILL {pid}")
    container.wait_for(f"overlord: {name}: ok", times=times + 1)
    if left:
        container.wait_for(rf"overlord: {name}: pid {pid} killed by SIGKILL, .*left behind.*\b{left} \(pid \d+\)")


def looks(container: Container) -> list[str]:
    return [found.group(1) for found in container.found(r"^look: (.*)\.$")]


def was_well(container: Container, name: str, starts: int, killed: str = "") -> None:
    """It ends well; before none of its starts did anything of the one before live, and none of these starts failed. `killed`: the
    line about those that had to be killed."""
    ends_well(container)
    text = "\n".join(container.lines)
    assert looks(container) == [""] * starts, text
    assert ups(container, name) == starts, text
    assert not container.found(f"overlord: {name}: .*(exited with code [1-9]|failed|refused)"), text
    gone = container.found("(not gone after|had to be killed).*")
    assert [bool(killed and re.search(killed, line.group())) for line in gone] == [True] * bool(killed), text


@contextlib.contextmanager
def requests(container: Container, port: int) -> Iterator[None]:
    """Ask for a page without a pause, on a new connection each time: none is lost."""
    command = ["docker", "exec", "-i", container.id, "python3", "-c", GET.replace("PORT", str(port))]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as client:
        assert client.stdin and client.stdout
        try:
            assert client.stdout.readline() == "begun\n"
            yield
        finally:
            client.stdin.close()
            said = client.stdout.read()
    count, _, lost = said.partition(" ")
    assert lost == "[]\n", (said, container.lines)
    assert int(count) > 20, "that is no test"


def test_postfix(begin: Callable[[str], Container]) -> None:
    """Its `master` leads a session of its own, below a shell that waits for it: F1. `app` is bounced once each time: a second
    bounce would follow the first one, which the whole next wave gives time to be seen."""
    container = begin(f"""\
{LOOK.format("master|qmgr|pickup|smtpd|postfix.*")}
[daemon:postfix]
cmd = postfix start-fg
ready = tcp:25
deps = look:always
[daemon:app]
cmd = sleep 1000
deps = postfix:bounce
""")
    container.wait_for("overlord: app: ok")
    for wave in (1, 2, 3, 4):
        (master,) = running(container, "postfix/sbin/master")
        family = running(container, "postfix|qmgr|pickup|smtpd")
        assert len(family) > 3, family
        assert who_answers(container) == master
        if wave % 2:
            assert "postfix: ok" in ask(container, "restart", "postfix")
        else:
            kill_main(container, "postfix", left="master")
        assert not set(family) & set(running(container, "")), container.lines
        container.wait_for("overlord: app: ok", times=wave + 1)
    (master,) = running(container, "postfix/sbin/master")
    assert who_answers(container) == master
    was_well(container, "postfix", 5)
    assert ups(container, "app") == 5, "\n".join(container.lines)


BACKGROUND = f"""\
{LOOK.format("nginx")}
[daemon:nginx]
cmd = nginx
deps = look:always
respawns = 2
backoff = 0
"""


@pytest.mark.parametrize("alone", (False, True), ids=("beside another unit", "alone"))
def test_nginx_in_the_background(begin: Callable[[str], Container], alone: bool) -> None:
    """It fails in the same way each time, says how to keep it, and leaves nothing."""
    container = begin(BACKGROUND if alone else f"{BACKGROUND}on_failure = ignore\n{OTHER}")
    container.wait_for("overlord: nginx: failed")
    hint = r"put itself into the background, as nginx \(pid \d+\).*daemon off;.*pidfile"
    ends = container.found(r"overlord: nginx: (pid|exited|killed|restarting|failed).* after ")
    assert len(ends) == 3, "\n".join(container.lines)
    for end in ends:
        assert re.search(hint, end.string), end.string
    assert not container.found("overlord: nginx: ok")
    assert not container.found("Address already in use"), "\n".join(container.lines)
    if alone:
        assert container.join() == 1, "\n".join(container.lines)
        assert re.search(hint, container.lines[-1]), container.lines[-1]
    else:
        assert re.search(hint, ask(container, "why", "nginx", code=None))
        assert re.search(hint, ask(container, "status", code=3))
        assert not running(container, "nginx: ")
        assert not is_held(container, 80)
        ends_well(container)
    assert looks(container) == [""] * 3, "\n".join(container.lines)


NGINX = f"""\
{OTHER}
{LOOK.format("nginx")}
[daemon:nginx]
cmd = /usr/sbin/nginx
pidfile = /run/nginx.pid
ready = tcp:80
deps = look:always
"""


def test_nginx_with_a_pidfile(begin: Callable[[str], Container]) -> None:
    container = begin(NGINX.replace("/usr/sbin/nginx", "nginx"))
    container.wait_for("overlord: nginx: ok")
    master = main_pid(container, "nginx")
    assert set(running(container, "nginx: master")) == {master}
    for reload in (
        lambda: docker("kill", "-s", "HUP", container.id),
        lambda: ask(container, "signal", "HUP", "nginx"),
    ):
        before = set(running(container, "nginx: worker"))
        assert before
        reload()
        eventually(lambda: not before & set(running(container, "")) and running(container, "nginx: worker"), "new workers")
        assert set(running(container, "nginx: master")) == {master} == {main_pid(container, "nginx")}
    assert ups(container, "nginx") == 1
    family = running(container, "nginx: ")
    assert "nginx: ok" in ask(container, "restart", "nginx")
    assert not set(family) & set(running(container, ""))
    kill_main(container, "nginx", left="nginx")
    assert set(running(container, "nginx: master")) == {main_pid(container, "nginx")}
    was_well(container, "nginx", 3)


def test_nginx_is_upgraded(begin: Callable[[str], Container]) -> None:
    """As its manual says, twice: USR2 makes a new master, QUIT ends the old one."""
    container = begin(NGINX)
    container.wait_for("overlord: nginx: ok")
    with requests(container, 80):
        for _ in range(2):
            old = main_pid(container, "nginx")
            workers = set(running(container, "nginx: worker"))
            assert "pid" in ask(container, "signal", "USR2", "nginx")
            eventually(lambda: read_pid(container, "/run/nginx.pid") not in (0, old), "the new master")
            new = read_pid(container, "/run/nginx.pid")
            eventually(lambda: set(running(container, "nginx: worker")) > workers, "its workers")
            assert main_pid(container, "nginx") == old
            container.execute("kill -QUIT $(cat /run/nginx.pid.oldbin)")
            eventually(lambda: old not in running(container, ""), "the end of the old one")
            container.wait_for(f"overlord: nginx: .*main process is now pid {new}")
            assert main_pid(container, "nginx") == new
            assert set(running(container, "nginx: master")) == {new}
    assert ups(container, "nginx") == 1, "\n".join(container.lines)
    assert "nginx: ok" in ask(container, "restart", "nginx")
    was_well(container, "nginx", 2)


def test_gunicorn_is_upgraded(begin: Callable[[str], Container]) -> None:
    """The same in the foreground, twice: it removes its pid file as it ends, and the new one makes it anew a moment later."""
    container = begin(f"""\
{OTHER}
{LOOK.format("gunicorn")}
[daemon:gunicorn]
cmd = gunicorn --pid /run/g.pid -b 127.0.0.1:8000 app:app
dir = /srv
pidfile = /run/g.pid
ready = http://127.0.0.1:8000/
deps = look:always
""")
    container.wait_for("overlord: gunicorn: ok")
    with requests(container, 8000):
        for turn in (2, 3):
            old = main_pid(container, "gunicorn")
            assert read_pid(container, "/run/g.pid") == old
            assert "pid" in ask(container, "signal", "USR2", "gunicorn")
            container.wait_for("Booting worker with pid", times=turn)
            new = eventually(lambda: read_pid(container, "/run/g.pid.2"), "the new master")
            assert main_pid(container, "gunicorn") == old
            container.execute(f"kill -TERM {old}")
            container.wait_for(f"overlord: gunicorn: .*main process is now pid {new}")
            assert main_pid(container, "gunicorn") == new == read_pid(container, "/run/g.pid")
            assert old not in running(container, "")
    assert ups(container, "gunicorn") == 1, "\n".join(container.lines)
    assert "gunicorn: ok" in ask(container, "restart", "gunicorn")
    was_well(container, "gunicorn", 2)


def test_mysqld_safe(begin: Callable[[str], Container]) -> None:
    """A shell that ignores SIGTERM, with the server below it, which holds the data's lock, and takes its time to end."""
    container = begin(f"""\
{OTHER}
{LOOK.format("mysqld.*|mariadbd.*")}
[daemon:mysql]
cmd = mysqld_safe
kill_mode = all
ready = cmd:mysqladmin ping
deps = look:always
""")
    container.wait_for("overlord: mysql: ok")
    for end in (lambda: ask(container, "restart", "mysql"), lambda: kill_main(container, "mysql", left="mariadbd")):
        servers = running(container, "^/usr/sbin/mariadbd")
        assert len(servers) == 1
        assert main_pid(container, "mysql") not in servers, "the shell is"
        end()
        assert not set(servers) & set(running(container, ""))
    was_well(container, "mysql", 3)
    assert not container.found("(?i)unable to lock|already running"), "\n".join(container.lines)


def test_apachectl(begin: Callable[[str], Container]) -> None:
    """Its workers ignore SIGTERM once their master is gone."""
    container = begin(f"""\
{OTHER}
{LOOK.format("apache2")}
[daemon:apache]
cmd = apachectl start
pidfile = /run/apache2/apache2.pid
ready = http://127.0.0.1/
stop_timeout = 2s
deps = look:always
""")
    container.wait_for("overlord: apache: ok")
    for end in (lambda: ask(container, "restart", "apache"), lambda: kill_main(container, "apache", left="apache2")):
        family = running(container, "apache2")
        master = main_pid(container, "apache")
        assert master == read_pid(container, "/run/apache2/apache2.pid")
        assert {master} < set(family), family
        end()
        assert not set(family) & set(running(container, ""))
    ask(container, "stop", "apache")
    assert not running(container, "apache2")
    assert not is_held(container, 80)
    left = r"apache2 \(pid \d+\)"
    was_well(container, "apache", 3, rf"not gone after 2 s, killing it \(SIGKILL\): {left}(, {left})*$")


def test_supervisord(begin: Callable[[str], Container]) -> None:
    """Its programs have process groups of their own, and no supervisor once it got SIGKILL."""
    container = begin(f"""\
{OTHER}
{LOOK.format("supervisord|napping")}
[daemon:supervisor]
cmd = supervisord -n -c /srv/supervisord.conf
deps = look:always
ready = cmd:pgrep -x napping
""")
    container.wait_for("overlord: supervisor: ok")
    for end in (lambda: kill_main(container, "supervisor", left="napping"), lambda: ask(container, "restart", "supervisor")):
        family = running(container, "supervisord|napping")
        assert len(family) == 2, family
        end()
        assert not set(family) & set(running(container, ""))
    was_well(container, "supervisor", 3)


def test_service_of_a_script(begin: Callable[[str], Container]) -> None:
    """A daemon that a script has started stays when the script has succeeded, and is named."""
    container = begin("""\
[script:setup]
cmd = service cron start
[daemon:app]
cmd = sleep 1000
warmup = 0
deps = setup:always
""")
    container.wait_for("overlord: app: ok")
    crons = set()
    for _ in range(3):  # it is a matter of chance how far cron has come when the script ends
        (cron,) = running(container, "/usr/sbin/cron") or [0]
        assert cron, "\n".join(container.lines)
        container.wait_for(rf"overlord: setup: left running: cron \(pid {cron}\)$")
        kill_main(container, "app")
        assert cron in running(container, "/usr/sbin/cron"), "neither the end of `app` nor another run of `setup` is its end"
        crons.add(cron)
        container.execute(f"kill {cron}")
        eventually(lambda: not running(container, "/usr/sbin/cron"), "its end")
        assert "app: ok" in ask(container, "restart", "app")
    ends_well(container)
    assert all(len(container.found(rf"pid {pid}\b")) == 1 for pid in crons), "\n".join(container.lines)


def test_start_stop_daemon(begin: Callable[[str], Container]) -> None:
    container = begin(f"""\
{OTHER}
{LOOK.format("tail")}
[daemon:job]
cmd = start-stop-daemon --start --background --make-pidfile --pidfile /run/job.pid --exec /usr/bin/tail -- -f /dev/null
pidfile = /run/job.pid
deps = look:always
""")
    container.wait_for("overlord: job: ok")
    for end in (lambda: kill_main(container, "job"), lambda: ask(container, "restart", "job")):
        pid = main_pid(container, "job")
        assert set(running(container, "^/usr/bin/tail")) == {pid} == {read_pid(container, "/run/job.pid")}
        end()
    assert pid not in running(container, "")
    ask(container, "stop", "job")
    assert not running(container, "^/usr/bin/tail")
    was_well(container, "job", 3)


@pytest.mark.parametrize("mode", KILL_MODES)
def test_session_of_ssh(begin: Callable[[str], Container], mode: str) -> None:
    """It outlives sshd where only the main process is to be stopped."""
    container = begin(OTHER + SSHD + KILL_MODES[mode])
    container.wait_for("overlord: sshd: ok")
    old = main_pid(container, "sshd")
    command = (container.id, "ssh", "-o", "StrictHostKeyChecking=no", "127.0.0.1")
    begun = ["docker", "exec", "-i", *command, "echo in; exec cat"]
    with subprocess.Popen(begun, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as session:
        assert session.stdin and session.stdout
        assert session.stdout.readline() == "in\n"
        (cat,) = running(container, "^cat$")
        ask(container, "restart", "sshd")
        assert main_pid(container, "sshd") != old
        assert docker("exec", *command, "echo in too").stdout == "in too\n"
        lives = mode == "process"
        assert (cat in running(container, "^cat$")) == lives, container.lines
        left = container.found("overlord: sshd: .*left running")
        assert [bool(re.search(rf"left running: .*cat \(pid {cat}\)", line.string)) for line in left] == [True] * lives, left
        if lives:
            session.stdin.write("still here\n")
            session.stdin.flush()
            assert session.stdout.readline() == "still here\n"
            session.stdin.close()
        else:
            assert session.wait(PATIENCE) != 0
    if lives:
        eventually(lambda: not running(container, "^cat$|sshd: root"), "its end")
    ends_well(container)


def jobs(container: Container) -> dict[int, str]:
    return running(container, "^sleep 54321$")


@pytest.mark.parametrize("mode", KILL_MODES)
def test_job_of_cron(crons: dict[str, Container], mode: str) -> None:
    """The same of a job that is at work when cron is restarted."""
    container = crons[mode]
    before = eventually(lambda: jobs(container), "a job", timeout=PATIENCE + 60, pause=0.2)
    old = main_pid(container, "cron")
    assert "cron: ok" in ask(container, "restart", "cron")
    assert main_pid(container, "cron") != old
    after = jobs(container)
    left = container.found("overlord: cron: .*left running")
    if mode == "process":
        assert before.keys() <= after.keys(), container.lines
        assert len(left) == 1, container.lines
        assert all(re.search(rf"left running: .*sleep \(pid {pid}\)", left[0].string) for pid in before), left
    else:
        assert not before.keys() & after.keys(), container.lines
        assert not left, container.lines
    assert len(container.found("overlord: cron: started")) == 2
    ends_well(container)
