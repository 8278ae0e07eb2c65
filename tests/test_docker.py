"""The real image in the real Docker: Dockerfile.example, and overlord.py as the entry point of small containers.

Tests wait for lines of a container's log, never for time. The clock is read only where the time is what is promised.
"""

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
import threading
import time
import urllib.error
import urllib.request

import pytest

from harness import PATIENCE, ROOT, Stopwatch, Terminal
from test_readme import STAND_INS, blocks, dialogue, section, wording

pytestmark = pytest.mark.docker

EXAMPLE = "overlord-test"  # Dockerfile.example as it is
BARE = "overlord-test-bare"  # the same without its configuration: overlord.py in place of tini
FIRST = "overlord-test-first"  # the first container of README.md
NUMBERS = itertools.count(1)


def run(*command, check=True, stdin=None, env=None):
    """Run a command to its end; the result has code, output and errors as text."""
    result = subprocess.run(
        command,
        input=stdin,
        stdin=subprocess.DEVNULL if stdin is None else None,
        capture_output=True,
        env={**os.environ, **(env or {})},
        cwd=ROOT,
        timeout=900,
        check=False,
        encoding="utf-8",
        errors="replace",
    )
    if check and result.returncode:
        pytest.fail(f"{' '.join(command)}: code {result.returncode}\n{result.stdout}{result.stderr}")
    return result


def docker(*args, **options):
    return run("docker", *args, **options)


def build(tag, *args, **options):
    """Build an image as `make run` does."""
    return docker("build", "--network=host", "-t", tag, *args, env={"DOCKER_BUILDKIT": "0"}, **options)


@contextlib.contextmanager
def alone():
    """Let no other process of this test run do the same: what it made is then there, and found."""
    with open(os.path.join(tempfile.gettempdir(), "overlord-test.lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@pytest.fixture(scope="session")
def engine():
    """A Docker engine with the base image, or a skip that says what is missing."""
    with alone():
        result = run("tests/docker-base.sh", check=False)
    if result.returncode == 75:
        pytest.skip(result.stderr.strip().splitlines()[-1])
    assert result.returncode == 0, result.stderr


@pytest.fixture(scope="session")
def example(engine):
    with alone():
        build(EXAMPLE, "-f", "Dockerfile.example", ".")
    return EXAMPLE


@pytest.fixture(scope="session")
def bare(example):
    build(BARE, "-", stdin=f"FROM {example}\nRUN rm /etc/overlord.conf\n")
    return BARE


class Container:
    """A container that runs in the background, and every line that it logs."""

    def __init__(self, *args):
        self.id = docker("run", "-d", *args).stdout.strip()
        self.lines = []
        self._news = threading.Condition()
        self._reader = threading.Thread(target=self._follow, daemon=True)
        self._reader.start()

    def _follow(self):
        with subprocess.Popen(
            ["docker", "logs", "-f", self.id],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
        ) as follower:
            for line in follower.stdout:
                with self._news:
                    self.lines.append(line.rstrip("\n"))
                    self._news.notify_all()

    def found(self, pattern):
        """All matches so far, one a line at most, in order."""
        return [match for match in (re.search(pattern, line) for line in self.lines) if match]

    def wait_for(self, pattern, times=1):
        """Wait until the pattern has been logged so many times; return the last of these matches."""
        with self._news:
            if not self._news.wait_for(lambda: len(self.found(pattern)) >= times, PATIENCE):
                pytest.fail(f"not in the log {times} times: {pattern}\n" + "\n".join(self.lines))
            return self.found(pattern)[times - 1]

    def position(self, pattern):
        """The number of the last line that the pattern is in."""
        places = [n for n, line in enumerate(self.lines) if re.search(pattern, line)]
        assert places, f"not in the log: {pattern}\n" + "\n".join(self.lines)
        return places[-1]

    def execute(self, command):
        return docker("exec", self.id, "sh", "-c", command).stdout.strip()

    def get(self, path="/"):
        """GET from the published port 8080; return the response's server and text."""
        address = docker("port", self.id, "8080/tcp").stdout.split()[0]
        with urllib.request.urlopen(f"http://{address}{path}", timeout=PATIENCE) as response:
            return response.headers["Server"], response.read().decode()

    def stop(self):
        """`docker stop`; return the seconds that it took, when the log is complete."""
        with Stopwatch() as watch:
            docker("stop", self.id)
        self.join()
        return watch.seconds

    def join(self):
        """Wait for the end of the container and of its log; return its exit code."""
        code = int(docker("wait", self.id).stdout)
        self._reader.join(PATIENCE)
        assert not self._reader.is_alive(), "the log has no end"
        return code


@pytest.fixture
def start():
    """A function that starts a Container, which is removed after the test."""
    containers = []

    def start(*args):
        containers.append(Container(*args))
        return containers[-1]

    yield start
    for container in containers:
        docker("rm", "-f", container.id)


@pytest.fixture
def config(tmp_path):
    """A function that writes a configuration and returns the options that mount it."""

    def write(text):
        path = tmp_path / "overlord.conf"
        path.write_text(text)
        path.chmod(0o644)
        return ("-v", f"{path}:/etc/overlord.conf:ro")

    return write


def page_numbers(text):
    """The example page's count of visits and the application's pid."""
    return tuple(int(re.search(rf'id="{name}">(\d+)<', text).group(1)) for name in ("visits", "pid"))


# The page's first container


def test_first_container_of_the_readme(engine, start, tmp_path):
    """Its Dockerfile builds, and each command says what is shown."""
    text = section("A first container")
    (tmp_path / "Dockerfile").write_text(blocks("dockerfile", text)[0])
    (tmp_path / "overlord.conf").write_text(blocks("ini", text)[0])
    (tmp_path / "app.py").write_text(STAND_INS["app.py"])
    shutil.copy(os.path.join(ROOT, "overlord.py"), tmp_path)
    build(FIRST, str(tmp_path))
    container = start(FIRST)
    container.wait_for("everything is up")
    for command, sample in dialogue(text):
        words = [container.id if word == "shop" else word for word in shlex.split(command)[1:]]
        if words[0] == "exec":
            assert wording(docker(*words).stdout) == wording(sample)
    container.stop()
    told = [line for line in container.lines if line.startswith("overlord: ")][-len(sample.splitlines()) :]
    assert wording("\n".join(told)) == wording(sample)


# The image of Dockerfile.example


def test_image_has_of_python_only_the_minimum(example):
    command = r"dpkg-query -W -f '${db:Status-Abbrev} ${Package}\n' 'python*' 'libpython*' | sed -n 's/^ii *//p'"
    packages = docker("run", "--rm", "--entrypoint", "sh", example, "-c", command).stdout.split()
    assert sorted(packages) == ["libpython3.11-minimal", "python3-minimal", "python3.11-minimal"]
    missing = docker("run", "--rm", "--entrypoint", "python3", example, "-c", "import json", check=False)
    assert "No module named 'json'" in missing.stderr


def test_request_through_nginx_reaches_application_and_redis(example, start):
    container = start("-p", "127.0.0.1::8080", example)
    container.wait_for("overlord: nginx: ok")
    pid = int(container.wait_for(r"overlord: app: started \(pid (\d+)\)").group(1))
    seen = []
    for _ in range(3):
        server, text = container.get()
        assert server == "nginx"
        seen.append(page_numbers(text))
    assert seen == [(1, pid), (2, pid), (3, pid)]
    assert container.execute("redis-cli GET visits") == "3"
    with pytest.raises(urllib.error.HTTPError, match="404"):
        container.get("/nowhere")


def test_units_run_as_their_users(example, start):
    container = start(example)
    container.wait_for("overlord: nginx: ok")
    for unit, user in (("redis", "redis"), ("app", "www-data"), ("nginx", "root")):
        pid = container.wait_for(rf"overlord: {unit}: started \(pid (\d+)\)").group(1)
        assert container.execute(f"stat -c %U /proc/{pid}") == user


def test_killing_redis_bounces_the_application_exactly_once(example, start):
    container = start("-p", "127.0.0.1::8080", example)
    container.wait_for("overlord: nginx: ok")
    first = page_numbers(container.get()[1])
    # A second bounce by mistake would follow the first one; the whole second wave gives it time to be seen.
    for wave in (2, 3):
        container.execute("kill -KILL $(pidof redis-server)")
        container.wait_for("overlord: app: ok", times=wave)
    second = page_numbers(container.get()[1])
    assert container.stop() < 9
    assert second[0] == 1, "redis has a new memory, and the application a connection to it"
    assert second[1] != first[1]
    starts = {name: len(container.found(f"overlord: {name}: started")) for name in ("redis", "app", "setup", "nginx")}
    assert starts == {"redis": 3, "app": 3, "setup": 3, "nginx": 1}
    assert len(container.found(r"overlord: redis: pid \d+ killed by SIGKILL")) == 2
    assert len(container.found(r"overlord: app: stopping \(SIGTERM\): .*redis")) == 2


def test_stop_is_quick_clean_and_in_reverse_order(example, start):
    # What stopping costs the engine itself, on this machine and in this moment.
    trivial = start("--entrypoint", "sh", example, "-c", "trap exit TERM; echo up; sleep 1000 & wait")
    trivial.wait_for("up")
    overhead = trivial.stop()
    container = start(example)
    container.wait_for("overlord: nginx: ok")
    took = container.stop()
    print(f"docker stop: {took:.2f} s; of a container with nothing to do: {overhead:.2f} s")
    assert took < 9
    assert took <= 2 + overhead
    assert container.join() == 0
    order = [
        "overlord: shutting down: SIGTERM",
        "overlord: nginx: stopping",
        "overlord: nginx: stopped",
        "overlord: app: stopping",
        "overlord: app: stopped",
        "overlord: redis: stopping",
        "overlord: redis: stopped",
        "overlord: exiting with code 0",
    ]
    places = [container.position(line) for line in order]
    assert places == sorted(places), "\n".join(container.lines)
    assert container.position(r"^app \| app: finished") < container.position("overlord: redis: stopping")
    assert not container.found("not gone after"), "\n".join(container.lines)


def test_a_mistake_in_the_configuration_fails_the_build(example, tmp_path):
    for name in ("overlord.py", "Dockerfile.example"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(ROOT / "tests/example", tmp_path / "tests/example")
    broken = tmp_path / "tests/example/overlord.conf"
    broken.write_text(broken.read_text().replace("warmup =", "warmpu ="))
    dockerfile = str(tmp_path / "Dockerfile.example")
    result = build("overlord-test-broken", "--force-rm", "-f", dockerfile, str(tmp_path), check=False)
    assert result.returncode != 0
    assert re.search(r"/etc/overlord\.conf:\d+: \[daemon\] warmpu: .*warmup", result.stdout + result.stderr)


# Stopping in time


def test_a_daemon_that_ignores_term_is_killed_in_time(example, start, config):
    mount = config("""\
[daemon]
warmup = 0
[daemon:deaf]
cmd = trap '' TERM; echo deaf is up; while :; do sleep 1; done
[daemon:polite]
cmd = sleep 1000
deps = deaf:ok
""")
    container = start(*mount, example)
    container.wait_for("^deaf is up")
    container.wait_for("overlord: polite: ok")
    took = container.stop()
    print(f"docker stop with a daemon that ignores TERM: {took:.2f} s")
    container.wait_for("overlord: deaf: not gone after .* killing it")
    # Docker would have killed overlord.py too after 10 s, which gives 137.
    assert container.join() == 0
    assert container.position("overlord: polite: stopped") < container.position("overlord: deaf: stopping")


# Output


def test_a_user_opens_dev_stdout(example, start, config):
    """nginx' and apache's way of logging, after privileges were dropped: it needs a pipe of the user's own."""
    mount = config("""\
[daemon:web]
cmd = echo to stdout >/dev/stdout && echo to stderr >/dev/stderr && echo opened; exec sleep 1000
uid = www-data
stdout = prefix
stderr = prefix
[daemon:inheriting]
cmd = echo to stdout >/dev/stdout || echo refused; exec sleep 1000
uid = www-data
deps = web:ok
""")
    container = start(*mount, example)
    for line in ("to stdout", "to stderr", "opened"):
        container.wait_for(rf"^web \| {line}$")
    container.wait_for("^(refused|to stdout)$")  # as the engine made the container's streams


def test_prefix_is_coloured_on_a_terminal_alone(example, config):
    mount = config("[daemon:web]\ncmd = echo hello\nstdout = prefix\nrestart = never\nwarmup = 0\n")
    assert "web | hello\n" in docker("run", "--rm", *mount, example).stdout
    coloured = docker("run", "--rm", "-t", *mount, example).stdout
    assert re.search(r"^\x1b\[\d+mweb \|\x1b\[0m hello$", coloured, re.MULTILINE), coloured
    assert "web | hello" in docker("run", "--rm", "-t", "-e", "NO_COLOR=1", *mount, example).stdout


def test_a_stopped_reader_of_the_log_holds_up_nothing(example, config):
    """`docker logs -f` whose client is stopped, while a daemon writes 6 MB: restarts go on, and no line is lost."""
    lines = 100_000
    mount = config(f"""\
[overlord]
output = prefix
[daemon:chatty]
cmd = seq {lines} | sed 's/$/ is a number in a line of about sixty characters in all/'; touch /tmp/done; exec sleep 1000
[daemon:other]
cmd = echo $$ >> /tmp/starts; exec sleep 1000
""")
    name = docker("run", "-d", *mount, example).stdout.strip()
    stopped = subprocess.Popen(["docker", "logs", "-f", name], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    try:
        stopped.stdout.readline()
        stopped.send_signal(signal.SIGSTOP)
        for starts in (1, 2, 3):
            until = f"until [ $(wc -l </tmp/starts) = {starts} ]; do sleep 0.05; done"
            docker("exec", name, "sh", "-c", f"{until}; kill -9 $(tail -n 1 /tmp/starts)")
        docker("exec", name, "sh", "-c", "until [ -e /tmp/done ]; do sleep 0.05; done")
        with Stopwatch() as watch:
            docker("stop", name)
        assert watch.seconds < 9
        written = docker("logs", name).stdout
    finally:
        stopped.kill()
        stopped.communicate()
        docker("rm", "-f", name)
    assert [int(number) for number in re.findall(r"(?m)^chatty \| (\d+) is a number", written)] == list(range(1, lines + 1))


def test_out_of_memory_is_told(example, config):
    mount = config("""\
[daemon:hog]
cmd = python3 -c "x = bytearray(500 << 20)"
respawns = 0
""")
    result = docker("run", "--rm", "--memory", "64m", "--memory-swap", "64m", *mount, example, check=False)
    assert result.returncode == 137, result.stderr
    assert re.search(r"hog: failed: pid \d+ killed by SIGKILL", result.stderr)
    assert "out of memory, the limit is 64 MiB" in result.stderr


def test_a_daemon_in_the_background_is_told_how_to_stay(example, config):
    mount = config("[daemon:web]\ncmd = nginx\nrespawns = 0\n")
    result = docker("run", "--rm", *mount, example, check=False)
    assert result.returncode == 1, result.stderr
    assert re.search(r"put itself into the background, as nginx \(pid \d+\).*daemon off;", result.stderr), result.stderr


# Looking inside and acting


def overlord(container, *words, check=True, user=None):
    """`docker exec CONTAINER overlord.py WORDS`"""
    return docker("exec", *(("--user", user) if user else ()), container.id, "overlord.py", *words, check=check)


def health_becomes(container, state):
    """Wait until Docker calls the container's health so."""
    deadline = time.monotonic() + PATIENCE
    seen = ""
    while time.monotonic() < deadline:
        seen = docker("inspect", "-f", "{{.State.Health.Status}}", container.id).stdout.strip()
        if seen == state:
            return
        time.sleep(0.1)
    pytest.fail(f"{seen}, not {state}\n" + docker("inspect", "-f", "{{json .State.Health}}", container.id).stdout)


def test_healthcheck(example, start):
    """The HEALTHCHECK of the example turns healthy, unhealthy when a daemon is down, and healthy again."""
    container = start("--health-interval", "500ms", "--health-retries", "1", example)
    health_becomes(container, "healthy")
    overlord(container, "stop", "app")
    said = overlord(container, "health").stdout
    assert said == "healthy: 2 daemons ok, 1 stopped\n", "one that was stopped by hand is not wanted"
    container.execute("mv /srv/app.py /srv/away.py")
    assert overlord(container, "start", "app", check=False).returncode == 1
    health_becomes(container, "unhealthy")
    container.execute("mv /srv/away.py /srv/app.py")
    health_becomes(container, "healthy")


def test_exec_in_a_container(example, start):
    """What root asks for runs with the user, the folder and the variables of the unit."""
    container = start("-e", "GREETING=hello", example)
    container.wait_for("^overlord: ")
    told = overlord(container, "exec", "redis", "sh", "-c", 'id -un; id -Gn; pwd; echo "$HOME $USER $GREETING"').stdout
    assert told.splitlines() == ["redis", "redis", "/var/lib/redis", "/var/lib/redis redis hello"]
    assert overlord(container, "exec", "app", "printenv", "REDIS_PORT", "USER").stdout == "6379\nwww-data\n"
    assert overlord(container, "exec", "app", "printenv", "OVERLORD_NAME", check=False).returncode == 1
    assert overlord(container, "exec", "app", "sh", "-c", "exit 7", check=False).returncode == 7
    refused = overlord(container, "exec", "redis", "true", check=False, user="www-data")
    assert refused.returncode == 1
    assert refused.stderr.startswith("overlord: redis: uid redis (only root can take another")
    assert overlord(container, "exec", "app", "id", "-un", user="www-data").stdout == "www-data\n"


def test_exec_and_top_on_a_terminal(example, start):
    """`docker exec -it`: a shell as the unit's user with job control; `top` ends with the container and says so."""
    container = start(example)
    container.wait_for("overlord: nginx: ok")
    terminal = Terminal()
    ends = dict.fromkeys(("stdin", "stdout", "stderr"), terminal.slave)
    fcntl.ioctl(terminal.slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    inside = ["docker", "exec", "-it", container.id, "overlord.py"]
    try:
        with subprocess.Popen([*inside, "exec", "app", "bash", "--norc"], **ends) as shell:
            terminal.type("id -un; sleep 1000\n")
            terminal.expect("www-data\r\n")
            while not container.execute("pidof sleep || :"):
                time.sleep(0.1)
            terminal.type("\x03")
            terminal.type("jobs; exit $((2 + 3))\n")
            assert shell.wait(PATIENCE) == 5
        assert "no job control" not in terminal.text
        with subprocess.Popen([*inside, "top"], **ends) as top:
            terminal.expect(r"\x1b\[\?1049h")
            terminal.expect("4 units: 4 ok")
            terminal.expect("NAME +STATE +PID +CPU%")
            container.stop()
            assert top.wait(PATIENCE) == 69, terminal.text[-500:]
        terminal.expect(r"\x1b\[\?1049l\s*overlord: top was ended by SIGTERM, as a shutdown ends all processes")
    finally:
        terminal.close()


def test_verbs_in_a_container(example, start):
    container = start(example)
    container.wait_for("^overlord: ")  # from then on it answers
    assert overlord(container, "wait", "nginx", "-t", "60").stdout.endswith("nginx: ok\n")
    status = overlord(container, "status").stdout
    assert re.search(r"^redis +daemon +ok +\d+ ", status, re.MULTILINE), status
    told = overlord(container, "restart", "redis").stdout
    for line in ("redis: stopped", "redis: ok", "app: stopping .*redis was restarted", "setup: ok", "app: ok"):
        assert re.search(f"^{line}", told, re.MULTILINE), told
    assert not re.search("^nginx: stopp", told, re.MULTILINE)
    assert overlord(container, "graph").stdout.startswith("nginx  ok\n\u2514\u2500 app:ok  ok\n")
    assert "app" in overlord(container, "timeline").stdout
    assert overlord(container, "why", "app").stdout.startswith("app is ok")
    assert overlord(container, "logs", "-n", "5", "app").returncode == 0
    assert "pid" in overlord(container, "signal", "HUP", "nginx").stdout
    assert overlord(container, "reload").stdout.startswith("nothing differs ")
    container.execute("sed -i 's/^deps = app:ok/deps = app:ok\\nnice = 5/' /etc/overlord.conf")
    assert "nginx: changed: nice" in overlord(container, "reload").stdout
    container.execute("echo '[daemon:x]' >> /etc/overlord.conf")
    broken = overlord(container, "reload", check=False)
    assert broken.returncode == 78
    assert re.search(r"/etc/overlord\.conf:\d+: \[daemon:x\] cmd: is missing", broken.stderr), broken.stderr
    assert overlord(container, "status").returncode == 0
    assert overlord(container, "stauts", check=False).returncode == 64
    assert len(container.found("overlord: redis: started")) == 2, "no second fleet"
    docker("exec", container.id, "overlord.py", "shutdown", "7", check=False)
    assert container.join() == 7


ONE = "[daemon:web]\ncmd = sleep 1000\nwarmup = 0\n"


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("--read-only",),
        ("--read-only", "--user", "12345:12345", "--cap-drop", "ALL"),
        ("--user", "www-data", "--cap-drop", "ALL", "--security-opt", "no-new-privileges"),
        ("--network", "none"),
    ],
    ids=" ".join,
)
def test_it_answers_without_a_file(example, start, config, options):
    """On a read-only root, as any user, without a network, and whatever a script deletes: root may ask, others may not."""
    container = start(*options, *config(ONE), example)
    container.wait_for("overlord: web: ok")
    assert overlord(container, "health").stdout == "healthy: 1 daemon ok\n"
    docker("exec", "--user", "root", container.id, "sh", "-c", "rm -rf /run/* /dev/shm/* 2>/dev/null || :")
    assert overlord(container, "health", user="0").stdout == "healthy: 1 daemon ok\n"
    assert overlord(container, "restart", "web", user="0").returncode == 0
    refused = overlord(container, "status", user="redis", check=False)
    assert refused.returncode == 77, refused.stderr
    assert "only root and overlord's own user may ask" in refused.stderr
    assert not container.found("warning|control socket")
    assert container.stop() < 9


@pytest.mark.parametrize("shared", ("a volume on /run", "a network"))
def test_two_containers_that_share(example, start, config, tmp_path, shared):
    """Each answers for itself alone."""
    one = config(ONE)
    (tmp_path / "run").mkdir()
    other = tmp_path / "other.conf"
    other.write_text("[daemon:db]\ncmd = sleep 1000\nwarmup = 0\n")
    volume = ("-v", f"{tmp_path}/run:/run") if "volume" in shared else ()
    first = start(*one, *volume, example)
    first.wait_for("overlord: web: ok")
    joined = ("--network", f"container:{first.id}") if "network" in shared else volume
    second = start("-v", f"{other}:/etc/overlord.conf:ro", *joined, example)
    second.wait_for("overlord: db: ok")
    assert overlord(second, "stop", "db").returncode == 0
    assert re.search("^db +daemon +stopped", overlord(second, "status").stdout, re.MULTILINE)
    assert re.search("^web +daemon +ok", overlord(first, "status").stdout, re.MULTILINE)
    assert "there is no unit web" in overlord(second, "stop", "web", check=False).stderr
    assert len(first.found("overlord: web: started")) == 1
    assert second.stop() < 9
    assert overlord(first, "health").stdout == "healthy: 1 daemon ok\n"


def test_a_killed_container_is_started_again(example, start, config):
    container = start(*config(ONE), example)
    container.wait_for("overlord: web: ok")
    docker("kill", container.id)
    docker("wait", container.id)
    docker("start", container.id)
    assert overlord(container, "wait", "web").returncode == 0
    assert not container.found("warning")


# Readiness and health, of real servers

SERVERS = "overlord-test-servers"
CHAIN = """\
[overlord]
output = prefix
[daemon:postgres]
cmd = /usr/lib/postgresql/15/bin/postgres -D /var/lib/postgresql/15/main -c config_file=/etc/postgresql/15/main/postgresql.conf
uid = postgres
stop_signal = INT
ready = cmd:pg_isready -q
[daemon:after-postgres]
cmd = sleep 1000
deps = postgres
ready = unix:/var/run/postgresql/.s.PGSQL.5432
[script:migrate]
cmd = psql -qc 'create table visits (n int)'
uid = postgres
deps = after-postgres
[daemon:redis]
cmd = redis-server --save '' --port 6379
uid = redis
ready = tcp:6379
health = cmd:redis-cli ping | grep -q PONG
health_interval = 200ms
health_timeout = 1s
health_retries = 2
[daemon:app]
cmd = gunicorn -b 127.0.0.1:8000 app:app
dir = /srv/wsgi
uid = www-data
deps = migrate, redis:bounce
ready = http://127.0.0.1:8000/
[daemon:nginx]
cmd = nginx -c /srv/wsgi/nginx.conf -g 'daemon off;'
deps = app
ready = http://localhost:8080/
"""


@pytest.fixture(scope="session")
def servers(example):
    packages = "apt-get update && apt-get install -y --no-install-recommends postgresql gunicorn && rm -rf /var/lib/apt/lists/*"
    app = 'def app(environ, start): start("200 OK", []); return [b"hello"]'
    nginx = "events {} http { server { listen 8080; location / { proxy_pass http://127.0.0.1:8000; } } }"
    files = f"mkdir /srv/wsgi && echo '{app}' >/srv/wsgi/app.py && echo '{nginx}' >/srv/wsgi/nginx.conf"
    build(SERVERS, "-", stdin=f"FROM {example}\nRUN {packages}\nRUN {files}\n")
    return SERVERS


def test_chain_of_real_servers(servers, start, config):
    """postgres, a migration, gunicorn, nginx, each probed: up in order, and little is lost between one and the next."""
    container = start(*config(CHAIN), servers)
    container.wait_for("^overlord: ")  # from then on it answers
    assert overlord(container, "wait", "nginx", "-t", "60").returncode == 0
    stories = {unit["name"]: unit["events"] for unit in json.loads(overlord(container, "timeline", "-j").stdout)}
    up = {name: next(event["at"] for event in story if event["what"] == "ok") for name, story in stories.items()}
    begun = {
        name: next(event["at"] for event in story if event["what"] in ("starting", "running")) for name, story in stories.items()
    }
    lost = [begun[name] - up[dep] for name, dep in (("migrate", "after-postgres"), ("app", "migrate"), ("nginx", "app"))]
    print(f"up after {up['nginx']:.2f} s, between a link and the next {', '.join(f'{1000 * each:.1f} ms' for each in lost)}")
    assert min(lost) >= 0
    assert sum(lost) < up["nginx"] / 10
    assert overlord(container, "health").returncode == 0
    assert container.stop() < 9


def test_a_server_that_hangs_is_restarted(servers, start, config):
    """redis lives, and answers no more: `health` finds it, and the application bounces with it."""
    container = start(*config(CHAIN), servers)
    container.wait_for("^overlord: ")  # from then on it answers
    assert overlord(container, "wait", "nginx", "-t", "60").returncode == 0
    container.execute("kill -STOP $(pidof redis-server)")
    container.wait_for("overlord: redis: unhealthy: ")
    container.wait_for("overlord: app: stopping .*redis was restarted")
    container.wait_for("overlord: app: ok", times=2)
    assert not container.found("overlord: nginx: stopping")
    assert container.stop() < 9


# In place of tini

COMMANDS = [
    (["true"], 0),
    (["false"], 1),
    (["sh", "-c", "exit 7"], 7),
    (["sh", "-c", "kill -9 $$"], 128 + 9),
    (["sh", "-c", "kill -TERM $$"], 128 + 15),
    (["nosuchcmd"], 127),
    (["/etc/passwd"], 126),
    (["/etc"], 126),
]


@pytest.mark.parametrize(("command", "code"), COMMANDS, ids=[" ".join(c) for c, _ in COMMANDS])
def test_main_command_gives_its_own_code(bare, command, code):
    ours = docker("run", "--rm", bare, *command, check=False)
    tini = docker("run", "--rm", "--init", "--entrypoint", "", bare, *command, check=False)
    assert (ours.returncode, tini.returncode) == (code, code), ours.stderr + tini.stderr
    if code in (126, 127):
        assert command[0] in ours.stderr, "the message names the command"
    else:
        assert ours.stdout + ours.stderr == "", "silent where the command ends by itself"


@pytest.mark.parametrize(
    "command",
    [
        ["cat", "/proc/self/environ"],
        ["grep", "-E", "^(Sig...:|Shd|Cap|Umask|Groups|Uid|Gid|NoNewPrivs|Seccomp|Cpus)", "/proc/self/status"],
        ["cat", "/proc/self/limits"],
        ["readlink", "/proc/self/cwd"],
        ["ls", "/proc/self/fd"],
    ],
    ids=lambda command: command[-1].rsplit("/", 1)[-1],
)
def test_main_command_gets_what_tini_gives(bare, command):
    variables = ("-e", "discovery.type=single node", "-e", "PYTHONPATH=/tmp", "-e", "EMPTY=", "-e", "LC_ALL=C")
    where = ("--rm", "--hostname", "box", "-w", "/var", *variables)
    ours = docker("run", *where, bare, *command)
    tini = docker("run", *where, "--init", "--entrypoint", "", bare, *command)
    # Docker itself puts the variables of -e in an order of chance.
    assert sorted(re.split("[\0\n]", ours.stdout)) == sorted(re.split("[\0\n]", tini.stdout))
    assert ours.stdout, "there is something to compare"
    assert ours.stderr == ""


def test_main_command_keeps_stdin_and_stdout(bare):
    result = docker("run", "--rm", "-i", bare, "sh", "-c", "tr a-z A-Z; echo done >&2", stdin="one\ntwo\n")
    assert (result.stdout, result.stderr) == ("ONE\nTWO\n", "done\n")


def test_main_command_gets_the_stop_signal_and_gives_the_code(bare, start):
    script = "trap 'echo asked to stop; exit 5' TERM; echo up; while :; do sleep 0.1; done"
    container = start(bare, "sh", "-c", script)
    container.wait_for("^up")
    container.stop()
    assert container.join() == 5
    container.position("^asked to stop")


# 12 s from SIGTERM to the end, longer than `shutdown_timeout` is by default.
BASH = "trap 'echo asked; sleep 12; echo saved; exit 6' TERM; echo up; while :; do sleep 0.1; done"
PYTHON = """
import os, signal, time
signal.signal(signal.SIGTERM, lambda *_: (print("asked", flush=True), time.sleep(12), print("saved", flush=True), os._exit(6)))
print("up", flush=True)
while True:
    signal.pause()
"""


def test_main_command_has_the_time_that_docker_gives_it(bare, start, config):
    """`docker stop -t 20` of one that needs 12 s: alone, on a terminal, and beside daemons with `shutdown_timeout = 20s`."""
    daemons = "[daemon:db]\ncmd = sleep 1000\n[daemon:web]\ncmd = sleep 1000\ndeps = db\n"
    beside = config(f"[overlord]\nshutdown_timeout = 20s\n{daemons}")
    commands = (("bash", "-c", BASH), ("python3", "-c", PYTHON))
    containers = [start(*options, bare, *command) for command in commands for options in ((), ("-it",), beside)]
    for container in containers:
        container.wait_for("^up")
    docker("stop", "-t", "20", *[container.id for container in containers])
    for number, container in enumerate(containers):
        assert container.join() == 6, (number, container.lines)
        container.position("^saved")
        assert bool(container.found("^overlord: ")) == (number % 3 == 2), container.lines


def test_what_npm_leaves_behind_saves_its_data(bare, start):
    """`npm start` waits for a shell that waits for node; a SIGTERM ends npm and the shell at once, and node needs 3 s."""
    node = "trap 'echo saving; sleep 3; echo saved; exit' TERM; echo up; while :; do sleep 0.1; done"
    container = start("-e", f"NODE={node}", bare, "sh", "-c", "sh -c 'eval \"$NODE\"' & wait")
    container.wait_for("^up")
    assert container.stop() < 9
    assert container.join() == 143
    container.position("^saved")


def test_shutdown_by_hand_before_the_signal(bare, start, config):
    """A Kubernetes preStop hook, then the platform's SIGTERM: a daemon that needs 3 s ends by itself."""
    daemon = "trap 'sleep 3; echo saved; exit' TERM; echo up; while :; do sleep 0.1; done"
    container = start(*config(f"[daemon:db]\ncmd = {daemon}\n"), bare)
    container.wait_for("^up")
    assert overlord(container, "shutdown").returncode == 0
    assert container.stop() < 9
    assert container.join() == 0
    container.position("^saved")
    container.position("SIGTERM received: shutting down already, within ")


def test_main_command_of_the_example_runs_when_all_are_up(example):
    result = docker("run", "--rm", example, "sh", "-c", "redis-cli PING; exit 7", check=False)
    assert result.returncode == 7, result.stderr
    assert "PONG" in result.stdout
    lines = [line for line in result.stderr.splitlines() if line.startswith("overlord: ")]
    text = "\n".join(lines)
    assert text.index("nginx: ok") < text.index("main command: started") < text.index("nginx: stopping"), text
    assert lines[-1].startswith("overlord: exiting with code 7"), text


def test_orphans_are_adopted_and_reaped(bare, start):
    # The shell in the middle ends at once, its child a moment later: PID 1 inherits it, and must wait for it.
    container = start(bare, "sh", "-c", "(sh -c 'sleep 0.2; echo orphan gone' &) ; echo up; exec sleep 1000")
    container.wait_for("^orphan gone")
    zombies = "for s in /proc/[0-9]*/status; do grep -H '^State:.Z' $s; done 2>/dev/null || :"
    deadline = time.monotonic() + PATIENCE
    while container.execute(zombies):
        assert time.monotonic() < deadline, container.execute(zombies)


# The terminal


class Session(Terminal):
    """`docker run -it` on a pseudo-terminal, with this test as the person who types."""

    def __init__(self, *args):
        super().__init__()
        self.seen = 0
        self.resize(24, 80)
        self.name = f"overlord-test-{os.getpid()}-{next(NUMBERS)}"
        self.docker = subprocess.Popen(
            ["docker", "run", "--rm", "-it", "--name", self.name, *args],
            stdin=self.slave,
            stdout=self.slave,
            stderr=self.slave,
            start_new_session=True,
            # The terminal becomes that of docker's session, so that docker is told when its size changes.
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )

    def resize(self, rows, columns):
        """What a person does with the mouse."""
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def expect(self, pattern):
        """Wait until the pattern has come out after what was expected before."""
        match = super().expect(pattern, self.seen, PATIENCE)
        self.seen = match.end()
        return match

    def end(self):
        """Wait for the end, and return the exit code."""
        return self.docker.wait(PATIENCE)


@pytest.fixture
def session():
    """A function that starts a Session, which is ended with the test."""
    sessions = []

    def start(*args):
        sessions.append(Session(*args))
        return sessions[-1]

    yield start
    for each in sessions:
        docker("rm", "-f", each.name, check=False)  # mostly gone already
        each.docker.kill()
        each.docker.wait()
        each.close()


PROMPT = r"bash-[\d.]+# "
# In what is typed, '' splits the words that are waited for: the terminal echoes what is typed.
READY = "sh -c 'echo now rea''dy; exec sleep 1000'\n"


def test_ctrl_c_ends_the_foreground_job_only(bare, session):
    terminal = session(bare, "bash", "--norc")
    terminal.expect(PROMPT)
    terminal.type(READY)
    terminal.expect("now ready")
    terminal.type("\x03")
    terminal.expect(PROMPT)
    terminal.type("echo co''de=$?\n")
    terminal.expect(r"code=130\b")
    terminal.type("exit 3\n")
    assert terminal.end() == 3


def test_ctrl_z_stops_a_job_and_fg_takes_it_back(bare, session):
    terminal = session(bare, "bash", "--norc")
    terminal.expect(PROMPT)
    # It says when it goes on: until then a Ctrl-C would be for bash, which gives the terminal away before that.
    # dash would not do: it starts sleep by vfork(2), and is not stopped while its child is, before that has executed.
    terminal.type("bash -c 'trap \"echo goes o''n\" CONT; echo now rea''dy; while :; do sleep 0.1; done'\n")
    terminal.expect("now ready")
    terminal.type("\x1a")
    terminal.expect(r"\[1\]\+ +Stopped")
    terminal.type("echo job''s=$(jobs -s | wc -l); fg\n")
    terminal.expect(r"jobs=1\b")
    terminal.expect("goes on")
    terminal.type("\x03")
    terminal.expect(PROMPT)
    terminal.type("echo co''de=$?; exit 4\n")
    terminal.expect(r"code=130\b")
    assert terminal.end() == 4


def test_shell_is_in_the_foreground_with_job_control(bare, session):
    terminal = session(bare, "bash", "--norc")
    terminal.expect(PROMPT)
    assert "no job control" not in terminal.text
    # The fields of proc(5): 5 is the process group, 8 that in the foreground of the terminal.
    terminal.type("set -- $(cat /proc/$$/stat); echo same=$(( $5 == $8 ))\n")
    terminal.expect(r"same=1\b")
    terminal.type("exit\n")
    assert terminal.end() == 0


def test_resize_reaches_the_command(bare, session):
    terminal = session(bare, "sh", "-c", "trap 'echo resized; stty size' WINCH; echo up; while :; do sleep 0.1; done")
    terminal.expect("up")
    terminal.resize(33, 101)
    terminal.expect(r"resized\s+33 101\b")
    terminal.type("\x03")
    assert terminal.end() == 130


def test_ctrl_c_without_main_command_stops_everything(example, config, session):
    terminal = session(*config("[daemon:web]\ncmd = sleep 1000\nwarmup = 0\n"), example)
    terminal.expect("overlord: web: ok")
    terminal.type("\x03")
    terminal.expect("overlord: shutting down: SIGINT")
    terminal.expect("overlord: exiting with code 0")
    assert terminal.end() == 0


# Bad input, and containers with little in them


def test_broken_configuration_ends_with_78_and_says_where(example, config):
    mount = config("[daemon:web]\ncmd = sleep 1000\nstop_signl = QUIT\n[daemon:app]\n")
    result = docker("run", "--rm", *mount, example, check=False)
    assert result.returncode == 78
    assert re.search(r"(?m)^/etc/overlord\.conf:3: \[daemon:web\] stop_signl: .*stop_signal", result.stderr)
    assert re.search(r"(?m)^/etc/overlord\.conf:4: \[daemon:app\] cmd: ", result.stderr)
    assert "started (pid" not in result.stderr


def test_a_daemon_that_fails_for_good_gives_its_code(example, config):
    mount = config("""\
[daemon:web]
cmd = sleep 0.2; exit 3
warmup = 0
restart = never
[daemon:db]
cmd = sleep 1000
""")
    result = docker("run", "--rm", *mount, example, check=False)
    assert result.returncode == 3, result.stderr
    assert "overlord: web: failed: " in result.stderr
    assert "overlord: exiting with code 3" in result.stderr


PLACES = {
    "read-only": ["--read-only"],
    "no capabilities": ["--cap-drop", "ALL"],
    "any user": ["--user", "12345"],
    "init": ["--init"],
    "few processes": ["--pids-limit", "20", "--memory", "64m"],
    "all of it": ["--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--user", "12345:54321"],
}


@pytest.mark.parametrize("options", PLACES.values(), ids=PLACES.keys())
def test_it_runs_restarts_and_stops(example, start, config, options):
    mount = config("""\
[daemon]
warmup = 0
[daemon:db]
cmd = sleep 1000
[daemon:web]
cmd = sleep 1000
deps = db:bounce
""")
    container = start(*options, *mount, example)
    container.wait_for("overlord: web: ok")
    pid = container.wait_for(r"overlord: db: started \(pid (\d+)\)").group(1)
    container.execute(f"kill -KILL {pid}")
    container.wait_for("overlord: web: ok", times=2)
    container.stop()
    assert container.join() == 0
    container.position("overlord: exiting with code 0")
    assert container.position("overlord: web: stopped") < container.position("overlord: db: stopping")
