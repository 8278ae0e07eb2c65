"""README.md is true: its tables come from overlord.py, its configurations pass `check`, its examples do what it shows.

An example runs in namespaces of its own, with small stand-ins for the servers that it names. What it shows is compared
word by word; numbers, times and the lengths of bars are those of the run that was shown.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Callable, Iterator

import pytest

import overlord
import readme
from conftest import Start
from harness import PATH, PATIENCE, Overlord, eventually, system_python

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "README.md").read_text()


# --- its text --------------------------------------------------------------------------------------------------------


def section(heading: str) -> str:
    """Return what stands under a heading, up to the next one of its level or above."""
    marks, rest = re.split(rf"(?m)^(#+) {re.escape(heading)}\n", TEXT)[1:]
    return re.split(rf"(?m)^#{{1,{len(marks)}}} ", rest)[0]


def blocks(language: str, text: str = TEXT) -> list[str]:
    """Return the code blocks of one language ("" for none)."""
    return [found for label, found in re.findall(r"(?ms)^```(\w*)\n(.*?)^```$", text) if label == language]


def dialogue(text: str) -> Iterator[tuple[str, str]]:
    """Go through the commands of the console blocks, each with the output that is shown."""
    for block in blocks("console", text):
        for part in re.split(r"(?m)^\$ ", block)[1:]:
            command, _, output = part.partition("\n")
            yield command, output


def wording(text: str) -> list[str]:
    """Return lines without what differs from run to run: numbers, the lengths of bars, and the widths of columns."""
    text = re.sub(r"longest took \w+", "longest took one", re.sub("[·▒█]+", "=", text))
    text = re.sub(r"[0-9]+(\.[0-9]+)?( min| ms| s)?", "#", text)
    return [" ".join(line.split()) for line in text.strip().splitlines()]


def test_made_parts_are_current() -> None:
    assert readme.filled(TEXT) == TEXT, "run python3 tests/readme.py"


def test_every_option_is_in_the_reference() -> None:
    missing = [option.name for option in overlord.OPTIONS if f"| `{option.name}` |" not in TEXT]
    assert not missing


def test_links_lead_somewhere() -> None:
    """Each file is there, and each place in the page is a heading."""
    places = {re.sub(r"[^\w -]", "", line.lower()).replace(" ", "-") for line in re.findall(r"(?m)^#+ (.*)$", TEXT)}
    for target in re.findall(r"\]\(([^)]+)\)", TEXT):
        assert target[1:] in places if target[0] == "#" else (ROOT / target).exists(), target


def test_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    both = TEXT + (ROOT / "tests/README.md").read_text()
    for target in set(re.findall(r"(?:`|^)make ([a-z]+)", both, re.MULTILINE)):
        assert re.search(rf"(?m)^{target}:", makefile), target


def test_names_in_the_guide_to_the_code_exist() -> None:
    """What tests/README.md calls a function, a state or an attribute is one."""
    guide = (ROOT / "tests/README.md").read_text().partition("## Events through the code")[2].partition("\n## ")[0]
    source = (ROOT / "overlord.py").read_text()
    words = {word.rpartition(".")[2] for word in re.findall(r"`([\w.]+)`", guide)}
    assert "find_next" in words
    assert sorted(word for word in words if not re.search(rf"\b{word}\b", source)) == []


@pytest.mark.parametrize("text", blocks("ini"))
def test_configuration_is_valid(text: str) -> None:
    draft = overlord.Draft({"DB_PASSWORD": "x", "APP_ENV": "x"})
    draft.read_text("overlord.conf", text.encode())
    config = draft.validate()
    assert config.units
    assert [*overlord.warn_of_doubts(draft), *overlord.warn_of_stop_time(config)] == []


@pytest.mark.parametrize("text", [*blocks("dockerfile"), (ROOT / "Dockerfile.example").read_text()])
def test_recipe_needs_no_advice(text: str) -> None:
    """`check` of a source says that compiling pays: where both are done, it comes after that."""
    assert not re.search(r"overlord\.py check.*overlord\.py compile", text, re.DOTALL)


def test_mistakes_are_printed_as_shown(tmp_path: Path) -> None:
    """The sample of a broken configuration is what the program says of this one."""
    conf = "[overlord]\nconfigdir = none\n[daemon:web]\nwarmpu = 2s\ndeps = chache\ncmd = x\n"
    (tmp_path / "overlord.conf").write_text(conf + "[daemon:cache]\ncmd = x\nstop_signal = TREM\n")
    argv = [sys.executable, str(ROOT / "overlord.py"), "-c", "overlord.conf"]
    done = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == overlord.EX_CONFIG
    sample = next(block for block in blocks("") if "warmpu" in block)
    assert wording(done.stderr.replace("overlord.conf:", "/etc/overlord.conf:")) == wording(sample)


def test_conversion_is_as_shown(tmp_path: Path) -> None:
    """The tool makes the second file of the first one."""
    text = TEXT.partition("## Coming from another supervisor\n")[2].partition("\n### ")[0]
    (before,), (after,) = blocks("dosini", text), blocks("ini", text)
    (tmp_path / "supervisord.conf").write_text(before)
    argv = ["make", "-s", "convert", f"FROM={tmp_path}/supervisord.conf"]
    assert subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=True).stdout == after


# --- its examples ----------------------------------------------------------------------------------------------------

FRONT = "trap 'kill $!; wait; exit 0' INT TERM; sleep infinity & wait"
HTTP = """import os, socket
with socket.socket(fileno=3) if "LISTEN_FDS" in os.environ else socket.create_server(("127.0.0.1", 8000)) as server:
    while True:
        peer = server.accept()[0]
        peer.recv(4096)
        peer.sendall(b"HTTP/1.0 200 OK\\r\\n\\r\\n")
        peer.close()
"""
# What stands for the programs of the examples: in /srv what ends in a suffix, the others on PATH.
STAND_INS = {
    "redis-server": FRONT,
    "postgres": f"sleep 0.3; touch /run/postgres; {FRONT}",
    "pg_isready": "exec test -e /run/postgres",
    "gunicorn": f"trap 'kill $!; wait; exit 0' TERM; python3 -ISc '{HTTP}' & wait",
    "nginx": f"case $* in *off*) {FRONT} ;; esac; ({FRONT}) & echo $! >/run/nginx.pid",
    "app.py": "import signal, sys\nsignal.signal(signal.SIGTERM, lambda *_: sys.exit(0))\nwhile True:\n    signal.pause()\n",
    "worker.py": "import signal\nprint('ready for work', flush=True)\nsignal.pause()\n",
    "migrate.sh": "sleep 0.2; echo migrated",
    "backup.sh": "echo saved 3 tables",
}
USERS = "redis:x:4711:4711::/:/bin/sh\npostgres:x:4712:4712::/:/bin/sh\nwww-data:x:4713:4713::/var/www:/bin/sh\n"
WORLD = """ip link set lo up
mount -t tmpfs -o mode=1777 none /run && mkdir /run/secrets && printf s3cret >/run/secrets/DB_PASSWORD
mount -t tmpfs -o mode=755 none /var/log
mount --bind "$0/srv" /srv && mount --bind "$0/passwd" /etc/passwd
exec "$@"
"""

Example = Callable[..., Overlord]


@pytest.fixture
def example(overlord: Start, public: Path) -> Example:
    """A function that starts an example's configuration as it stands, with an empty /run and a network of its own."""

    def start(heading: str, *command: str, user: str = "", without: str = "", **settings: object) -> Overlord:
        for folder in ("bin", "srv"):
            (public / folder).mkdir(exist_ok=True)
        for name, text in STAND_INS.items():
            path = public / ("srv" if "." in name else "bin") / name
            path.write_text(text if name.endswith(".py") else f"#!/bin/sh\n{text}\n")
            path.chmod(0o755)
        (public / "srv" / (without or "nothing")).unlink(missing_ok=True)
        (public / "passwd").write_text(f"root:x:0:0::/root:/bin/sh\n{USERS}")
        found = blocks("ini", section(heading))
        (public / "conf.d").mkdir()
        (public / "conf.d/readme.conf").write_text("".join(found).replace("/usr/lib/postgresql/15/bin/", ""))
        public.chmod(0o755)
        prefix = ["unshare", "--net", "sh", "-ec", WORLD, str(public)]
        if user:
            prefix += ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups"]
        settings = {"socket": "/run/socket", **settings}
        environment = {"PATH": f"{public}/bin:{PATH}"}
        return overlord("", *command, settings=settings, defaults="", prefix=prefix, env=environment, folder=public)

    return start


def answer(o: Overlord, command: str) -> str:
    """Do in a namespace what a docker command does, and return what it says."""
    verb, *words = shlex.split(command)[1:]
    if verb == "exec":
        assert words[1] == "overlord.py", command
        done = o.ask(*words[2:], code=None)
        return done.stdout + done.stderr
    if verb == "stop":
        assert o.stop() == 0
        return words[-1]
    if verb == "logs":
        lines = [line for line in o.log if line.startswith("overlord:")]
        return "\n".join(lines[int(words[-1]) :])
    assert verb in ("build", "run"), command
    return ""


def converse(o: Overlord, heading: str) -> None:
    """Give the commands of an example, and compare what they say with what is shown."""
    for command, sample in dialogue(section(heading)):
        if command.startswith("docker"):
            said = answer(o, command)
            told, shown = wording(said), wording(sample)
            if shown[-1:] == ["..."]:
                del shown[-1], told[len(shown) :]
            assert not sample or told == shown, f"$ {command}\n{said}"


def test_first_container(example: Example) -> None:
    o = example("A first container")
    o.wait_for("everything is up")
    converse(o, "A first container")


def test_web_application_with_its_database(example: Example) -> None:
    """The script runs when the database accepts connections, and the application starts after it."""
    heading = "A web application and its database"
    o = example(heading)
    o.wait_for("everything is up")
    assert o.started == ["db", "migrate", "app"]
    converse(o, heading)
    assert o.stop() == 0
    assert o.count(r"db: stopping \(SIGINT\)") == 1


def test_cron_job(example: Example) -> None:
    o = example("A cron job")
    eventually(lambda: o.ask("status", code=None).returncode == 0, "it answers")
    converse(o, "A cron job")
    assert o.stop() == 0


def test_logs(example: Example) -> None:
    o = example("Logs")
    o.wait_for("ready for work", lines=o.out)
    converse(o, "Logs")
    for line in ("web: ok", "audit: ok"):
        o.wait_for(line)
    path = f"/proc/{o.pid}/root/var/log/audit/worker.log"
    eventually(lambda: os.path.exists(path) and Path(path).read_text() == "ready for work\n", "the log file")


def test_secrets(example: Example) -> None:
    o = example("Secrets")
    o.says("app", "ok")
    found = o.unit("app").environ
    assert b"DATABASE_URL=postgres://app:s3cret@db/app" in found
    assert b"WEB_CONCURRENCY=2" in found


def test_health(example: Example) -> None:
    o = example("A first container")
    o.wait_for("everything is up")
    converse(o, "Health checks")


def test_exec_and_top(example: Example) -> None:
    o = example("A first container")
    o.wait_for("everything is up")
    converse(o, "Command line")


def test_page_by_http(example: Example, public: Path) -> None:
    """The daemon of the page serves all that the page names."""
    heading = "A page, metrics and probes by HTTP"
    (public / "bin").mkdir()
    own = public / "bin/overlord.py"
    own.write_text(f'#!/bin/sh\nexec python3 {public}/overlord.py -c {public}/overlord.conf "$@"\n')
    own.chmod(0o755)
    o = example(heading)
    o.says("http", "ok")
    ask = "import sys, urllib.request as r; print(r.urlopen(sys.argv[1]).read().decode())"
    address = re.search(r"curl -s (\S+)/health", section(heading))[1]  # type: ignore[index]
    for path in re.findall(r"(?m)^- `(/\w*)`", section(heading)):
        words = ["nsenter", f"--target={o.pid}", "--net", system_python(), "-c", ask, address + path]
        said = subprocess.run(words, capture_output=True, text=True, check=True, timeout=PATIENCE).stdout
        assert path != "/health" or said.startswith("healthy: 1 daemon ok")
        assert path != "/metrics" or "overlord_unit_restarts_total{" in said
    assert len(re.findall(r"(?m)^- `(/\w*)`", section(heading))) == 4


def test_restarts_without_a_refused_connection(example: Example) -> None:
    o = example("Restarts without a refused connection")
    o.says("app", "ok")
    assert b"LISTEN_FDS=1" in o.unit("app").environ
    assert o.stop() == 0


def test_without_root(example: Example) -> None:
    o = example("Without root", user="1000")
    o.says("app", "ok")
    converse(o, "Without root")
    assert o.stop() == 0


def test_in_place_of_tini(example: Example) -> None:
    command, sample = next(dialogue(section("In place of tini")))
    words = shlex.split(command[command.index("sh -c") : command.index(";")])
    assert example("In place of tini", *words).wait_exit() == int(sample)


def test_daemon_in_the_background(example: Example) -> None:
    o = example("Daemons in the background")
    o.says("nginx", "ok")
    path = Path(f"/proc/{o.pid}/root/run/nginx.pid")
    assert f" {path.read_text().strip()} " in o.ask("status").stdout
    assert o.stop() == 0


def test_container_that_does_not_start(example: Example) -> None:
    o = example("A first container", without="app.py", output="prefix")
    o.wait_count("app: pid .* exited", 7)  # the next try is seconds away
    converse(o, "When a container does not start")


def test_unit_that_fails_for_good(overlord: Start, public: Path) -> None:
    """The block that tells why is that of the page."""
    sample = next(block for block in blocks("", section("When a container does not start")) if "respawns" in block)
    cmd = re.search(r"command: (.*)", sample)[1]  # type: ignore[index]
    config = f"[daemon:web]\ncmd = {cmd}\nuid = www-data\nrespawns = 1\nwarmup = 1\nstdout = prefix\nstderr = prefix\n"
    o = overlord(config, folder=public)
    assert o.wait_exit() == 3
    block = o.log[o.position("web: failed") :]
    assert wording("\n".join(block))[: len(sample.splitlines())] == wording(sample)
