"""What a child gets: a main command just what tini gives it, a unit just what its section says.

The child is a `sleep`, and `/proc` is looked at from outside: what it inherits is seen as it is, and not as a runtime
of its own has changed it.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, Callable, Sequence

import pytest

from conftest import Start, resolve
from harness import (
    PATH,
    PATIENCE,
    Namespace,
    Overlord,
    Process,
    daemon,
    eventually,
    interpreter,
    script,
)

SLEEP = ("sleep", "12345")
SLEEPING = " ".join(SLEEP)
SECRET = "xyzzy-4711"
FAILS = {"restart": "never", "on_failure": "ignore"}


def sleeper(space: Namespace) -> Process:
    """Return the process of SLEEP when it sleeps: until then the dynamic loader has files open."""

    def found() -> Process | None:
        return next((p for p in space.processes() if p.cmdline == list(SLEEP) and p.state == "S"), None)

    return eventually(found, "the sleeper")


def under_tini(prefix: Sequence[str], **options: Any) -> dict[str, Any]:
    """Return what tini gives its command."""
    if not shutil.which("tini"):
        pytest.skip("there is no tini to compare with: apt-get install tini")
    # tini gives up where stdin is closed; there, the reference is a SLEEP that is executed in its place.
    tini = [] if "<&-" in " ".join(prefix) else ["tini", "--"]
    space = Namespace([*prefix, *tini, *SLEEP], **options)
    try:
        return sleeper(space).inheritance()
    finally:
        space.destroy()


def shell(code: str) -> list[str]:
    """Return a prefix that changes what the command gets by the words of a shell."""
    return ["sh", "-c", f'{code} exec "$@"', "sh"]


# --- the main command ------------------------------------------------------------------------------------------------

ODD = {
    b"PATH": PATH.encode(),
    b"discovery.type": b"single-node",
    b"EMPTY": b"",
    b"NOT_UTF8": b"\xff\xfe",
    b"NEWLINE": b"one\ntwo",
    b"EQUALS": b"a=b=c",
    b"a-b": b"dash",
    b"1": b"digit",
    b"\xc3\xa9": b"accent",
    b"PS1": b"$ ",
    b"IFS": b":",
    b"OVERLORD_NAME": b"of the application",
}
PYTHONS_OWN = {
    b"PATH": PATH.encode(),
    b"PYTHONPATH": b"/app",
    b"PYTHONHASHSEED": b"0",
    b"PYTHONUNBUFFERED": b"1",
    b"PYTHONWARNINGS": b"error",
    b"PYTHONCOERCECLOCALE": b"warn",
    b"LC_ALL": b"",
}

# What the container's own set-up can be: words before the program, and options of its start.
SETTINGS: dict[str, tuple[list[str], dict[str, Any]]] = {
    "as usual": ([], {}),
    "odd variables": ([], {"env": ODD}),
    "variables of Python": ([], {"env": PYTHONS_OWN}),
    "no locale": ([], {"env": {"PATH": PATH, "LANG": "C"}}),
    "no variable but PATH": (["env", "-i", f"PATH={PATH}"], {}),
    "nohup": (["env", "--ignore-signal=HUP"], {}),
    "ignored signals": (["env", "--ignore-signal=HUP,INT,QUIT,TERM,USR1,CHLD,WINCH,ALRM"], {}),
    "blocked signals": (["env", "--block-signal=HUP,USR2,TERM,CHLD,RTMAX"], {}),
    "umask": (shell("umask 0137;"), {}),
    "limits": (shell("ulimit -c 0; ulimit -n 200; ulimit -S -s 4096; ulimit -t 5000;"), {}),
    "nice": (["nice", "-n", "5"], {}),
    "folder": (shell("cd /usr/lib;"), {}),
    "a folder that is gone": (shell("mkdir gone; cd gone; rmdir ../gone;"), {}),
    "more descriptors": (shell("exec 7</etc/passwd 8>>eight 9<>/dev/null;"), {}),
    "descriptors from 3 on": (shell("exec 3</etc/passwd 4</etc/group 5</etc/hosts 6</dev/null;"), {}),
    "no stdin": (shell("exec <&-;"), {}),
    "no stdout": (shell("exec >&-;"), {}),
    "no stderr": (shell("exec 2>&-;"), {}),
    "nothing open": (shell("exec <&- >&- 2>&-;"), {}),
    "no stdin, but another descriptor": (shell("exec 7<&0 <&-;"), {}),
    "no capability": (["setpriv", "--inh-caps=-all", "--bounding-set=-all", "--no-new-privs"], {}),
}


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("config", ("", daemon("db")), ids=("alone", "beside a daemon"))
def test_main_command_like_under_tini(overlord: Start, tmp_path: Path, setting: str, config: str) -> None:
    """It cannot tell that it was not started by tini."""
    prefix, changes = SETTINGS[setting]
    with (tmp_path / "stream").open("ab", buffering=0) as stream:
        options = {"stdin": subprocess.DEVNULL, "stdout": stream, "stderr": stream, "cwd": tmp_path}
        options = {**options, "env": {"PATH": PATH, "LANG": "en_US.UTF-8"}, **changes}
        expected = under_tini(prefix, **options)
        found = sleeper(overlord(config, *SLEEP, prefix=prefix, **options)).inheritance()
    assert found == expected


def test_main_command_on_each_interpreter(overlord: Start, tmp_path: Path, python: list[str]) -> None:
    """All at once, on each interpreter."""
    prefix = [
        "nice",
        "-n",
        "3",
        "env",
        "--ignore-signal=HUP,PROF",
        "--block-signal=USR2",
        *shell("umask 0137; exec 7</etc/passwd 9>>nine;"),
    ]
    with (tmp_path / "stream").open("ab", buffering=0) as stream:
        options = {"stdin": subprocess.DEVNULL, "stdout": stream, "stderr": stream, "cwd": tmp_path, "env": ODD}
        expected = under_tini(prefix, **options)
        found = sleeper(overlord("", *SLEEP, prefix=prefix, python=python, **options)).inheritance()
    assert found == expected


def test_main_command_gets_the_default_of_pipe(overlord: Start) -> None:
    """Python ignores SIGPIPE and SIGXFSZ for itself; a `yes | head` inside the container must end all the same."""
    process = sleeper(overlord("", *SLEEP))
    assert process.signals("SigIgn") == process.signals("SigBlk") == set()


# --- a unit ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("setting", SETTINGS)
def test_unit_starts_clean(overlord: Start, tmp_path: Path, setting: str) -> None:
    """Whatever the container's set-up is, a unit has default dispositions, an empty mask and three descriptors."""
    prefix, changes = SETTINGS[setting]
    with (tmp_path / "stream").open("ab", buffering=0) as stream:
        options = {"stdin": subprocess.DEVNULL, "stdout": stream, "stderr": stream, "cwd": tmp_path, **changes}
        process = sleeper(overlord(daemon("web", SLEEPING), prefix=prefix, **options))
        assert process.signals("SigIgn") == process.signals("SigBlk") == set()
        assert process.sid == process.pgid == process.pid
        descriptors = process.descriptors
    assert set(descriptors) <= {0, 1, 2}
    assert descriptors[0][0] == "/dev/null"
    for number in (1, 2):
        assert descriptors[number][0] in (str(tmp_path / "stream"), "/dev/null")


@pytest.mark.parametrize("kind", ("daemon", "script"))
def test_unit_environment(overlord: Start, kind: str, python: list[str]) -> None:
    """The container's, byte for byte, and its own name."""
    config = daemon("web", SLEEPING)
    if kind == "script":
        config = script("job", SLEEPING) + daemon("web", deps="job")
    environment = {key: value for key, value in ODD.items() if key != b"OVERLORD_NAME"}
    process = sleeper(overlord(config, env=environment, python=python))
    expected = {b"%s=%s" % pair for pair in environment.items()}
    assert set(process.environ) == expected | {b"OVERLORD_NAME=job" if kind == "script" else b"OVERLORD_NAME=web"}


def test_unit_inherits(overlord: Start) -> None:
    """Folder, umask, niceness and limits are the container's where the section says nothing."""
    prefix = ["nice", "-n", "4", *shell("umask 0137; ulimit -n 321; cd /usr/lib;")]
    process = sleeper(overlord(daemon("web", SLEEPING), prefix=prefix))
    assert process.status["Umask"] == "0137"
    assert process.nice == 4
    assert os.readlink(process.folder / "cwd") == os.path.realpath("/usr/lib")
    assert "Max open files            321" in (process.folder / "limits").read_text()


@pytest.mark.parametrize("kind", ("daemon", "script"))
def test_unit_options(overlord: Start, kind: str) -> None:
    """`dir`, `umask`, `nice` and `env` are as its section says."""
    options = {"dir": "/usr", "umask": "0077", "nice": "7", "env": "ONE=1\nTWO='a b'"}
    config = daemon("web", SLEEPING, **options)
    if kind == "script":
        config = script("job", SLEEPING, **options) + daemon("web", deps="job")
    process = sleeper(overlord(config))
    assert process.status["Umask"] == "0077"
    assert process.nice == 7
    assert os.readlink(process.folder / "cwd") == "/usr"
    assert {b"ONE=1", b"TWO=a b"} < set(process.environ)


def test_unit_environment_overrides(overlord: Start) -> None:
    """`env` wins over the container's, sees it, and appears once."""
    config = daemon("web", SLEEPING, env="PATH=/opt/bin:${PATH}\nHOST=${HOST:-nobody}\nRAW='${HOST}'")
    process = sleeper(overlord(config))
    assert sorted(process.environ) == [
        b"HOST=nobody",
        b"OVERLORD_NAME=web",
        b"PATH=/opt/bin:" + PATH.encode(),
        b"RAW=${HOST}",
    ]


# --- env_file --------------------------------------------------------------------------------------------------------


def test_env_file(overlord: Start, tmp_path: Path) -> None:
    """Blank lines, comments, quotes and blanks in values; a later file wins, `env` over both, and sees them."""
    (tmp_path / "one").write_text("# no\n\nA=1\nB='two words'\nC=\"a # b\"\n D=x y \nE=\nF=a=b\nG=first\r\nH=$A\n")
    (tmp_path / "two").write_text("G=second\nA.b=dot")
    o = overlord(daemon("web", SLEEPING, env_file=f"{tmp_path}/one -{tmp_path}/none {tmp_path}/two", env="I=${B}!\nE=own"))
    o.says("web", "ok")
    found = dict(pair.partition(b"=")[::2] for pair in o.unit_is("web", "sleep").environ)
    expected = {"A": "1", "B": "two words", "C": "a # b", "D": "x y", "E": "own", "F": "a=b", "G": "second", "H": "$A"}
    expected.update({"I": "two words!", "A.b": "dot"})
    assert {key: found[key.encode()].decode() for key in expected} == expected
    assert o.stop() == 0


def test_env_file_that_begins_with_a_dash(overlord: Start, tmp_path: Path) -> None:
    """One dash makes it optional, a second one is the file's."""
    (tmp_path / "-x").write_text("A=1\n")
    o = overlord(daemon("web", "exec sleep 12345", env_file="--x"), cwd=tmp_path)
    o.says("web", "ok")
    assert b"A=1" in o.unit_is("web", "sleep").environ
    assert o.stop() == 0


def test_env_file_that_a_script_writes(overlord: Start, tmp_path: Path) -> None:
    """It is read at each start, not before."""
    write = f"echo N=$(cat count 2>/dev/null | wc -l) > {tmp_path}/file; echo >> count"
    o = overlord(script("write", write) + daemon("web", SLEEPING, env_file=f"{tmp_path}/file", deps="write:always", backoff=0))
    for number in (0, 1):
        o.wait_ok("web", number + 1)
        assert f"N={number}".encode() in o.unit_is("web", "sleep").environ
        o.kill_unit("web")
    o.wait_ok("web", 3)
    assert o.stop() == 0


def test_env_folder(overlord: Start, tmp_path: Path) -> None:
    """A folder has a regular file for each variable: all of it is the value, less one newline at the end."""
    folder = tmp_path / "folder"
    (folder / "sub").mkdir(parents=True)
    os.mkfifo(folder / "fifo")
    for name, content in {"A": "1\n", "B": "two\nlines\n\n", "C": "", "D.e": "'x' #\n", ".hidden": "no", "E": "first"}.items():
        (folder / name).write_text(content)
    (folder / "link").symlink_to("A")
    (tmp_path / "file").write_text("E=second\n")
    o = overlord(daemon("web", SLEEPING, env_file=f"{folder} -{tmp_path}/none {tmp_path}/file", env="F=${A}!"))
    o.says("web", "ok")
    found = dict(pair.partition(b"=")[::2] for pair in o.unit_is("web", "sleep").environ)
    expected = {"A": "1", "B": "two\nlines\n", "C": "", "D.e": "'x' #", "E": "second", "F": "1!", "link": "1"}
    assert {key: found[key.encode()].decode() for key in expected} == expected
    assert not {b"sub", b"fifo", b".hidden"} & found.keys()
    assert o.stop() == 0


@pytest.mark.parametrize(
    ("name", "content", "said"), [("A=B", "1", "A=B: is no name of a variable"), ("A", "x\0y", "A: holds a NUL byte")]
)
def test_env_folder_that_fails(overlord: Start, tmp_path: Path, name: str, content: str, said: str) -> None:
    """What cannot be a variable is a failed start that names the file."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / name).write_text(content)
    o = overlord(daemon("web", SLEEPING, env_file=f"{tmp_path}/folder", **FAILS))
    assert o.says("web", f"failed: cannot start: env_file {tmp_path}/folder/{said}")
    o.wait_exit()


@pytest.mark.parametrize(
    ("content", "said"),
    [(None, "No such file"), ("A=1\nno equals sign\n", "file:2: is not of the form KEY=value"), ("=x\n", "file:1: ")],
)
def test_env_file_that_fails(overlord: Start, tmp_path: Path, content: str | None, said: str) -> None:
    """Missing or broken it is a failed start, and what stands in it is not shown."""
    if content is not None:
        (tmp_path / "file").write_text(content)
    o = overlord(daemon("web", SLEEPING, env_file=f"{tmp_path}/file", **FAILS))
    assert o.says("web", "failed: cannot start: env_file .*" + said)
    o.wait_exit()
    assert not o.count("no equals")


# --- secrets ---------------------------------------------------------------------------------------------------------


def test_secrets(fleet: Start, tmp_path: Path, asking_all: Callable[[Overlord], str]) -> None:
    """The file that NAME_FILE names is read, for this unit alone; nothing that overlord says holds what it read."""
    (tmp_path / "token").write_text(SECRET + "\n")
    config = daemon("web", SLEEPING, secrets="TOKEN", env="URL=db://${TOKEN}@x") + daemon("other", SLEEPING)
    config += daemon("bad", SLEEPING, secrets="TOKEN", dir="/no/such/folder", **FAILS)
    config += daemon("dies", "exit 3", secrets="TOKEN", stdout="prefix", warmup="1000s", **FAILS)
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
    o = overlord(daemon("web", SLEEPING, secrets="PASSWORD"), prefix=prefix)
    o.says("web", "ok")
    assert f"PASSWORD={SECRET}".encode() in o.unit_is("web", "sleep").environ
    assert o.stop() == 0


def test_a_missing_secret(overlord: Start, tmp_path: Path) -> None:
    """It is a failed start that names the secret and the file."""
    o = overlord(daemon("web", SLEEPING, secrets="TOKEN", **FAILS), env={"PATH": PATH, "TOKEN_FILE": f"{tmp_path}/none"})
    o.says("web", f"failed: cannot start: secret TOKEN: {tmp_path}/none: No such file.*TOKEN_FILE")
    o.wait_exit()


def test_a_secret_given_as_a_variable(overlord: Start) -> None:
    """Where there is no file, but the variable itself, the message says that this needs no `secrets`."""
    o = overlord(daemon("web", SLEEPING, secrets="TOKEN", **FAILS), env={"PATH": PATH, "TOKEN": SECRET})
    o.says("web", "failed: cannot start: secret TOKEN: /run/secrets/TOKEN: .*TOKEN itself is set: leave it out")
    assert SECRET not in "\n".join(o.log)
    o.wait_exit()


def test_a_secret_that_is_a_folder(overlord: Start, tmp_path: Path) -> None:
    """Docker makes one where the source of a mount is missing: it is a failed start that says so."""
    (tmp_path / "token").mkdir()
    o = overlord(daemon("web", SLEEPING, secrets="TOKEN", **FAILS), env={"PATH": PATH, "TOKEN_FILE": f"{tmp_path}/token"})
    o.says("web", f"failed: cannot start: secret TOKEN: {tmp_path}/token: is a folder, as docker makes .*")
    o.wait_exit()


def test_variables_from_a_fifo(overlord: Start, tmp_path: Path) -> None:
    """A FIFO that nobody writes to would keep a unit from ever starting, which would be taken for OK meanwhile."""
    os.mkfifo(tmp_path / "fifo")
    config = daemon("web", SLEEPING, secrets="TOKEN", **FAILS) + daemon("db", SLEEPING, env_file=tmp_path / "fifo", **FAILS)
    o = overlord(config, env={"PATH": PATH, "TOKEN_FILE": f"{tmp_path}/fifo"})
    o.says("web", f"failed: cannot start: secret TOKEN: {tmp_path}/fifo: is a FIFO")
    o.says("db", f"failed: cannot start: env_file {tmp_path}/fifo: is a FIFO")
    o.wait_exit()


# --- users -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("names", ("'nobody', None", "'65534', None", "None, 'nobody'"))
def test_without_descriptors_a_user_is_not_taken_for_missing(names: str) -> None:
    """That would end the container: it is a failed start that may succeed later."""
    limit = "_, hard = resource.getrlimit(resource.RLIMIT_NOFILE); resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))"
    text = f"import grp, overlord, pwd, resource; {limit}; overlord.identity({names})"
    options = {"cwd": Path(__file__).parents[1], "capture_output": True, "text": True, "check": False}
    done = subprocess.run([sys.executable, "-c", text], **options)
    assert "OSError: [Errno 24]" in done.stderr


# --- limits ----------------------------------------------------------------------------------------------------------


def may_raise_limits() -> bool:
    """Tell whether root may raise a hard limit here."""
    return bool(int(Process(os.getpid()).status["CapEff"], 16) >> 24 & 1)


@pytest.mark.parametrize("interpreter", ["system", "minimal"])
def test_limits_are_lowered(
    overlord: Start, tmp_path_factory: pytest.TempPathFactory, public: Path, interpreter: str
) -> None:
    """A number is both limits; SOFT:HARD each. This takes no privilege."""
    config = daemon("web", SLEEPING, limits="nofile=300:400 core=0", uid="nobody")
    config += daemon("other", SLEEPING, limits="nofile=350, fsize=1M:2M")
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
    web = daemon("web", SLEEPING, limits="nofile=300:400 core=0", uid="nobody")
    o = overlord(
        web + daemon("raised", SLEEPING, limits="nofile=600", uid="nobody"),
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


# --- users -----------------------------------------------------------------------------------------------------------

# What `uid` and `gid` are, and the ids and variables that come of them. daemon, bin and games are in each Debian.
USERS: dict[str, tuple[dict[str, str], str, str, dict[bytes, bytes]]] = {
    "by name": ({"uid": "games"}, "5", "60", {b"HOME": b"/usr/games", b"USER": b"games", b"LOGNAME": b"games"}),
    "by number": ({"uid": "5"}, "5", "60", {b"HOME": b"/usr/games", b"USER": b"games"}),
    "unknown number": ({"uid": "54321"}, "54321", "54321", {b"HOME": b"/"}),
    "with a group": ({"uid": "games", "gid": "bin"}, "5", "2", {b"HOME": b"/usr/games"}),
    "with a number for a group": ({"uid": "games", "gid": "4321"}, "5", "4321", {}),
    "group alone": ({"gid": "bin"}, "0", "2", {}),
    "own HOME": ({"uid": "games", "env": "HOME=/srv"}, "5", "60", {b"HOME": b"/srv", b"USER": b"games"}),
}


@pytest.mark.parametrize("case", USERS)
def test_user_and_group(overlord: Start, case: str) -> None:
    """Ids, supplementary groups and variables follow `uid` and `gid`; no id of root is left."""
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    options, uid, gid, variables = USERS[case]
    o = overlord(daemon("web", SLEEPING, **options), env={"PATH": PATH, "HOME": "/root", "USER": "root"})
    process = sleeper(o)
    assert process.status["Uid"].split() == [uid] * 4
    assert process.status["Gid"].split() == [gid] * 4
    if "uid" in options:
        assert "0" not in process.status["Groups"].split()
    environment = dict(entry.split(b"=", 1) for entry in process.environ)
    assert {key: environment[key] for key in variables} == variables
    if "uid" not in options:
        assert environment[b"HOME"] == b"/root"


def test_supplementary_groups(overlord: Start, tmp_path: Path) -> None:
    """They are those of the group file."""
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    groups = tmp_path / "group"
    groups.write_text("root:x:0:\ngames:x:60:\nextra:x:777:games,bin\nother:x:778:bin\nmore:x:779:games\n")
    mount = shell(f"mount --bind {groups} /etc/group;")
    process = sleeper(overlord(daemon("web", SLEEPING, uid="games"), prefix=mount))
    assert set(process.status["Groups"].split()) == {"60", "777", "779"}


def test_own_user_needs_no_privilege(overlord: Start, public: Path) -> None:
    """`uid` of the user that overlord runs as is fine, and anybody else's is a failed start with the reason."""
    o = overlord(
        daemon("mine", uid="games", cmd="sleep infinity")
        + daemon("theirs", uid="bin", cmd="sleep infinity", respawns=0, on_failure="ignore"),
        folder=public,
        prefix=["setpriv", "--reuid=games", "--regid=60", "--clear-groups"],
    )
    o.says("mine", "ok")
    o.says("theirs", ".*cannot start: .*[Oo]peration not permitted")
    assert o.stop() == 0


def test_own_user_with_another_group(overlord: Start, public: Path) -> None:
    """What overlord may not do is then to take the group, and that is said."""
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    o = overlord(
        daemon("web", uid="games", gid="games", respawns=0),
        folder=public,
        prefix=["setpriv", "--reuid=games", "--regid=bin", "--clear-groups"],
    )
    o.says("web", "failed: cannot start: gid games .only root can take another.*: Operation not permitted")
    assert o.wait_exit() == 1


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"dir": "/no/such"}, "dir /no/such: No such file or directory"),
        ({"dir": "/etc/passwd"}, "dir /etc/passwd: Not a directory"),
        ({"uid": "nobody2"}, "uid nobody2: no such user"),
        ({"gid": "nogroup2"}, "gid nogroup2: no such group"),
        ({"stdout": "/proc"}, "stdout /proc: Is a directory"),
        ({"cmd": "/etc"}, "/etc: is a directory"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_failed_start_says_why(overlord: Start, options: dict[str, str], why: str) -> None:
    """The unit has failed, the others run."""
    failing = {"cmd": "sleep infinity", "respawns": 1, "backoff": "0", "on_failure": "ignore", **options}
    o = overlord(daemon("web", **failing) + daemon("db"))
    o.says("web", f".*cannot start: .*{why}")
    o.says("web", "failed: ")
    o.says("db", "ok")
    assert o.stop() == 0
    assert o.count("web: .*cannot start") == 2


# --- cmd -------------------------------------------------------------------------------------------------------------

# Lone simple commands: no shell is left behind.
SIMPLE = (
    "sleep 12345",
    "  sleep   12345  ",
    "sleep '12345'",
    'sleep "12345"',
    "sleep 1234\\5",
    "sleep ${SECONDS_TO_SLEEP}",
    "sleep $SECONDS_TO_SLEEP",
    "exec sleep 12345",
    "sleep 12345 > /dev/null 2>&1",
    "sleep \\\n12345",
)


@pytest.mark.parametrize("cmd", SIMPLE)
def test_simple_command_leaves_no_shell(overlord: Start, cmd: str) -> None:
    """A daemon costs one process, and its signals reach it."""
    environment = {"PATH": PATH, "SECONDS_TO_SLEEP": "12345", "a.dot": "kept"}
    o = overlord(daemon("web", cmd), env=environment)
    process = sleeper(o)
    assert process.pid == o.unit("web").pid
    assert process.ppid == 1
    assert len(o.processes()) == 2
    if not set("$>") & set(cmd) and "exec" not in cmd:
        # No shell was ever there: dash would have added PWD and dropped the name with a dot.
        assert set(process.environ) == {f"{key}={value}".encode() for key, value in environment.items()} | {
            b"OVERLORD_NAME=web"
        }


def by_shell(cmd: str, folder: Path, environment: dict[str, str]) -> tuple[int, str]:
    """Return what `sh -c` makes of a command: code (or minus a signal) and output, whose last line is complete."""
    with (folder / "out").open("w") as out:
        done = subprocess.run(
            ["/bin/sh", "-c", "--", cmd],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.DEVNULL,
            timeout=PATIENCE,
            check=False,
        )
    text = (folder / "out").read_text().replace(environment["OVERLORD_NAME"], "NAME")
    return done.returncode, text if text.endswith("\n") else text + "\n" * bool(text)


def ending(o: Overlord, name: str) -> int:
    """Return the exit code of a unit, or minus the signal that it died of, from the log."""
    match = o.says(
        name, r".*(?:exited with code (?P<code>\d+)|killed by (?P<signal>SIG\w+)|cannot start: .*: (?P<why>.*) \(pid)"
    )
    if match["why"]:
        return 127 if match["why"] == "not found" else 126
    return int(match["code"]) if match["code"] else -signal.Signals[match["signal"]]


# Whatever a shell makes of these, it must make of them under overlord. Each prints something, or has a code.
SHELL = (
    "exit 3",
    "true",
    "false",
    "echo a  b",
    "printf '%s-' a b",
    ". ./library; hello",
    ". ./library",
    "A=1 env | grep ^A=",
    "A=1 B='2 3' sh -c 'echo $A $B'",
    "A=1; echo $A",
    "cd / && pwd",
    "cd /",
    "test -d / && echo folder",
    "[ -d / ] && echo folder",
    "echo one; echo two",
    "echo one | tr o 0",
    "false || echo other",
    "false && echo none",
    "! true",
    "! false",
    "if true; then echo yes; fi",
    "case x in x) echo matched;; esac",
    "case x in\n  x) echo a;;\n  *) echo b;;\nesac",
    "for i in 1 2; do echo $i; done",
    "while false; do :; done",
    "{ echo group; }",
    "(echo subshell)",
    "f() { echo function; }; f",
    "cat() { echo mine; }\ncat",
    "$COMMAND argument",
    "${COMMAND} argument",
    "`echo echo` argument",
    "$(echo echo) argument",
    "'echo' quoted",
    '"echo" quoted',
    "ec\\ho quoted",
    "> file echo redirected; cat file",
    ">file cat /dev/null",
    "2>&1 ls /no/such",
    "ls /no/such 2>/dev/null",
    "cat <<END\nhere\nEND",
    "cat < library",
    "# nothing but a comment",
    "echo text # comment",
    "cat library # comment",
    "echo '#' no comment",
    "ls *ibrar*",
    "ls ~ >/dev/null",
    "~/../bin/echo home",
    "eval 'echo evaluated'",
    "set -e; false; echo unreached",
    "export A=2; sh -c 'echo $A'",
    "ulimit -n",
    "umask",
    "type cat >/dev/null",
    "command echo commanded",
    "command -v sh >/dev/null",
    "kill -USR1 $$",
    "trap 'echo trapped' EXIT; exit 4",
    'read x < library; echo "$x"',
    "wait",
    "sleep 0.01 & wait",
    "times >/dev/null",
    "unset HOME; echo ${HOME:-none}",
    "/no/such/command",
    "nosuchcommand",
    "/etc/passwd",
    "/",
    "exec nosuchcommand",
    "exec",
    "exec echo replaced",
    "sh -c 'exit 9'",
    "env true",
    "echo \\$HOME $HOME",
    "echo \"$HOME\" '$HOME'",
    "echo ${OVERLORD_NAME}",
    "echo $0",
    "echo 50% 100%%s",
    "expr 6 \\* 7",
    "seq 3",
    "syntax ( error",
    "echo 'unterminated",
    "echo a &&\necho b",
    "echo a \\\n  b",
    "echo tab\tseparated",
    "--option",
    "a=b",
    "local x",
    "return 3",
    "hash",
    "alias ll=ls; alias ll",
    "time true",
    "time",
    "[[ a = a ]]",
    "select",
    "function f",
    "let 1",
    "source ./library",
    "declare -i x",
    "builtin echo x",
    "nosuch=command-that-is-assigned",
    "a+=b",
    "a[1]=b",
    "1=b",
    "sleep 0&",
    "sleep 0;",
    "sleep 0|cat",
    "echo${IFS}hello",
    "{cat,library}",
    "cat{,}",
)


def test_cmd_means_what_the_shell_makes_of_it(overlord: Start, tmp_path: Path) -> None:
    """Output and code are those of `sh -c`, whether overlord thinks that it can do without the shell or not."""
    environment = {"PATH": PATH, "HOME": "/usr", "COMMAND": "echo", "SHELL": "/bin/sh"}
    expected, config = {}, ""
    for number, cmd in enumerate(SHELL):
        for side in ("shell", "unit"):
            folder = tmp_path / f"{side}-{number}"
            folder.mkdir()
            (folder / "library").write_text("hello() { echo from the library; }\nVARIABLE=1\n")
        expected[cmd] = by_shell(cmd, tmp_path / f"shell-{number}", {**environment, "OVERLORD_NAME": f"unit-{number}"})
        config += daemon(
            f"unit-{number}",
            cmd,
            dir=tmp_path / f"unit-{number}",
            restart="never",
            on_failure="ignore",
            stdout=tmp_path / f"unit-{number}" / "out",
            stderr="null",
        )
    o = overlord(config, env=environment)
    o.wait_exit()
    found = {}
    for number, cmd in enumerate(SHELL):
        out = tmp_path / f"unit-{number}" / "out"  # made with the first line
        text = out.read_text() if out.exists() else ""
        found[cmd] = ending(o, f"unit-{number}"), text.replace(f"unit-{number}", "NAME")
    assert found == expected


# --- what the application's Python variables must not do -------------------------------------------------------------

HOSTILE = """
with open({marker!r}, "a") as marker:
    marker.write(__name__)
raise SystemExit("hostile module")
"""
MODULES = (
    "argparse collections configparser contextlib ctypes datetime enum errno fcntl functools grp heapq json logging os "
    "pwd random re select selectors shlex signal socket stat string struct subprocess threading time traceback types"
).split()
HOOK = """
import os, signal, sys
for each in (signal.SIGTERM, signal.SIGCHLD, signal.SIGHUP):
    signal.signal(each, signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
signal.signal = signal.pthread_sigmask = os.fork = None
os.environ.clear()
sys.path.insert(0, {modules!r})
"""
FOR_THE_APPLICATION = {
    "PYTHONSTARTUP": "/no/such.py",
    "PYTHONWARNINGS": "error",
    "PYTHONUNBUFFERED": "1",
    "PYTHONDEVMODE": "1",
    "PYTHONOPTIMIZE": "2",
    "PYTHONINSPECT": "1",
    "PYTHONFAULTHANDLER": "1",
    "PYTHONIOENCODING": "ascii",
    "PYTHONDONTWRITEBYTECODE": "1",
    "PYTHONHASHSEED": "0",
    "PYTHON_VERSION": "3.11.7",
}


def write_modules(folder: Path, python: Sequence[str]) -> None:
    """Write modules with the names of Python's own, but for those which this interpreter imports before any program."""
    ask = "import sys; print(*sys.modules)"
    early = subprocess.run([interpreter(python), "-c", ask], capture_output=True, text=True, check=True).stdout.split()
    folder.mkdir()
    for name in set(MODULES) - set(early):
        (folder / f"{name}.py").write_text(HOSTILE.format(marker=str(folder / "marker")))


@pytest.mark.parametrize("how", ("modules", "sitecustomize"))
def test_settings_of_the_application_do_no_harm(overlord: Start, tmp_path: Path, python: list[str], how: str) -> None:
    """Modules of the application that are called as Python's own are not imported, and its hooks change nothing."""
    modules = tmp_path / "modules"
    write_modules(modules, python)
    on_path = modules
    if how == "sitecustomize":
        on_path = tmp_path / "hook"
        on_path.mkdir()
        (on_path / "sitecustomize.py").write_text(HOOK.format(modules=str(modules)))
    environment = {"PATH": PATH, "PYTHONPATH": str(on_path), **FOR_THE_APPLICATION}
    o = overlord(daemon("web", SLEEPING), env=environment, python=python)
    for times in (1, 2):
        o.wait_ok("web", times)
        o.kill_unit("web")
    o.wait_ok("web", 3)
    process = sleeper(o)
    assert set(process.environ) == {f"{k}={v}".encode() for k, v in environment.items()} | {b"OVERLORD_NAME=web"}
    assert process.signals("SigIgn") == process.signals("SigBlk") == set()
    assert o.stop() == 0
    assert not (modules / "marker").exists()
    assert all(line.startswith("overlord: ") for line in o.log), o.log


# --- the container's streams -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ([], list(SLEEP)), ids=("units", "main command"))
def test_streams_stay_blocking(overlord: Start, command: list[str]) -> None:
    """O_NONBLOCK belongs to the open file, which others share: it is on none of the three, at no time."""
    ends = [os.pipe() for _ in range(3)]
    o = overlord(
        daemon("web", "echo up; echo up >&2; exec sleep infinity") + script("unused"),
        *command,
        stdin=ends[0][0],
        stdout=ends[1][1],
        stderr=ends[2][1],
    )
    theirs = [ends[0][0], ends[1][1], ends[2][1]]

    def flags() -> int:
        return max(fcntl.fcntl(each, fcntl.F_GETFL) & os.O_NONBLOCK for each in theirs)

    text = b""
    while b"web: ok" not in text:
        assert flags() == 0
        text += os.read(ends[2][0], 65536)
    o.send(signal.SIGHUP)
    assert flags() == 0
    o.send(signal.SIGTERM)
    o.wait_exit()
    assert flags() == 0
    for pair in ends:
        for each in pair:
            os.close(each)


def test_closed_streams(overlord: Start, tmp_path: Path) -> None:
    """With nothing open, supervision goes on, and no file of overlord's is taken for a stream."""
    o = overlord(
        daemon("web", "echo text; echo error >&2; echo web >> journal; exec sleep infinity")
        + daemon("worker", "sleep 0.05; echo worker >> journal", backoff="0", deps="web"),
        prefix=shell("exec <&- >&- 2>&-;"),
    )
    o.journal.wait_for("worker", 3)
    assert o.stop() == 0


def test_broken_streams(overlord: Start) -> None:
    """The reader of the log may go away: overlord stays."""
    reader, writer = os.pipe()
    o = overlord(daemon("web", "echo web >> journal; sleep 0.05", backoff="0"), stdout=writer, stderr=writer)
    os.close(writer)
    os.close(reader)
    o.journal.wait_for("web", 3)
    assert o.stop() == 0


def test_main_command_reads_stdin(overlord: Start) -> None:
    """stdin is the main command's, to the last byte."""
    o = overlord(daemon("web", "cat >> journal; exec sleep infinity"), "cat", stdin=subprocess.PIPE)
    assert o.popen.stdin is not None
    o.popen.stdin.write(b"one\ntwo")
    o.popen.stdin.close()
    assert o.wait_exit() == 0
    assert o.out == ["one", "two"]
    assert not o.journal.lines()


def test_words_of_the_main_command(overlord: Start) -> None:
    """No shell looks at them."""
    words = ["a b", "$HOME", "*", "", "'", "\\", "-c", "--"]
    o = overlord("", "printf", "<%s>\n", *words)
    assert o.wait_exit() == 0
    assert o.out == [f"<{word}>" for word in words]
