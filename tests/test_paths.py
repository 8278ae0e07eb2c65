"""Log files, `env_file` and `secrets`: whoever can change a name on the way to them gains nothing of root's by it.

The attacker is real: a process of another user exchanges names in a folder of his as fast as the kernel lets him
(tests/programs/swap.py), while root opens what the name stands for.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import subprocess
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Iterator

import pytest

import overlord as program_under_test
from conftest import Start
from harness import PROGRAMS, Overlord, daemon, eventually, system_python

NOBODY = 65534
SLEEP = "exec sleep 12345"
FAILS = {"on_failure": "ignore", "respawns": 1, "backoff": "10ms"}
CALLS = int(os.environ.get("PATH_CALLS", "100000"))  # of the function in all; the figure was 1,000,000
STARTS = 300


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that root alone can change, on the way to which there is nobody else either."""
    if os.geteuid() != 0:
        pytest.skip("only root has something to lose")
    made = Path("/var/lib") / f"overlord-test-{os.getpid()}-{time.monotonic_ns()}"
    made.mkdir()
    yield made
    shutil.rmtree(made)


class Ground:
    """A user's folder with names that stand for this and that, and what is root's beside it."""

    def __init__(self, folder: Path, names: list[str], deep: bool = False) -> None:
        self.roots, self.users = folder / "roots", folder / "users"
        self.roots.mkdir()
        self.users.mkdir()
        (self.roots / "file").write_text("root's\n")
        (self.roots / "hard").write_text("root's\n")
        (self.roots / "folder").mkdir()
        os.mkfifo(self.roots / "fifo")
        for name in names:
            self.furnish(self.users / name, deep)
        for path in [self.users, *self.users.rglob("*")]:
            if not (path.is_file() and path.lstat().st_nlink > 1):
                os.chown(path, NOBODY, NOBODY, follow_symlinks=False)
        self.before = self.look()

    def furnish(self, path: Path, deep: bool) -> None:
        """Make one name, and one of each kind beside it; `deep`: the name is that of a folder on the way."""
        if deep:
            path.mkdir()
            (Path(f"{path}-folder")).mkdir()
            (Path(f"{path}-link")).symlink_to(self.roots / "folder")
            (Path(f"{path}-up")).symlink_to("..")
            (Path(f"{path}-file")).touch()
            return
        path.touch()
        (Path(f"{path}-regular")).touch()
        (Path(f"{path}-link")).symlink_to(self.roots / "file")
        (Path(f"{path}-missing")).symlink_to(self.roots / "made")
        (Path(f"{path}-dir")).symlink_to(self.roots / "folder")
        os.mkfifo(f"{path}-fifo")
        os.link(self.roots / "hard", f"{path}-hard")

    def look(self) -> dict[str, tuple[int, int, bytes]]:
        """Return all of root's: mode, number of entries, content."""
        found = {}
        for path in [self.roots, *self.roots.rglob("*")]:
            status = path.lstat()
            content = path.read_bytes() if stat.S_ISREG(status.st_mode) else b""
            found[str(path)] = (status.st_mode, len(list(path.iterdir())) if path.is_dir() else 0, content)
        found["users' parent"] = (0, len(list(self.users.parent.iterdir())), b"")
        return found

    def unharmed(self) -> None:
        """See that nothing of root's was made, written or changed, and that no FIFO of root's got a byte."""
        assert self.look() == self.before

    @contextlib.contextmanager
    def attack(self, spins: int, seconds: float, *names: str) -> Iterator[None]:
        """Exchange names meanwhile, as the folder's owner."""
        argv = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", system_python(), "-IS"]
        swapper = subprocess.Popen([*argv, str(PROGRAMS / "swap.py"), str(self.users), str(spins), str(seconds), *names])
        try:
            yield
            assert swapper.poll() is None, "the attack went on all the time"
        finally:
            swapper.kill()
            swapper.wait()


def writer() -> program_under_test.Output:
    """Return an Output that writes where its sinks lead."""
    return program_under_test.Output(program_under_test.Watch(), "error", "text", False)


@pytest.mark.parametrize("deep", (False, True), ids=("the file", "a folder on the way"))
@pytest.mark.parametrize("spins", (0, 100, 2000))
def test_swapped_while_it_is_opened(folder: Path, spins: int, deep: bool) -> None:
    """What was looked at is what is opened, whatever the name stands for a moment later."""
    ground = Ground(folder, ["log"], deep)
    path = str(ground.users / "log" / "sub" / "x.log") if deep else str(ground.users / "log")
    output, spec = writer(), SimpleNamespace(name="web", log_max=0, log_keep=1)
    opened = refused = 0
    with ground.attack(spins, 0.02, "log"):
        for _ in range(CALLS // 6):
            try:
                sink = output.sink(path, spec)  # type: ignore[arg-type]
                if isinstance(sink, program_under_test.LogFile):
                    sink.open_file()
                os.write(sink.fd, b"evil\n")
                opened += 1
            except OSError:
                refused += 1
            for each in output.sinks.values():
                with contextlib.suppress(OSError):
                    os.close(each.fd)
            output.sinks.clear()
    ground.unharmed()
    assert opened > CALLS // 600 and refused > CALLS // 600, "both were tried"


def test_swapped_while_a_daemon_starts(overlord: Start, folder: Path) -> None:
    """The same with real daemons, which are started again and again: no byte of theirs comes to root's."""
    names = [f"out{number}.log" for number in range(10)]
    ground = Ground(folder, names)
    starts = 0
    while starts < STARTS:
        with ground.attack((0, 100, 2000)[starts // 10 % 3], 0.005, *names):
            flap = {"uid": NOBODY, "backoff": "1ms", "log_max": "1K", "log_keep": 2, "stop_timeout": "1s"}
            line = "echo '* * * * * root id'; exec sleep 0.02"
            o = overlord("".join(daemon(name, line, stdout=ground.users / name, **flap) for name in names))
            eventually(lambda: o.count(r"started \(pid|cannot start") > 40, "some rounds")
            assert o.stop() == 0
            assert o.count("internal error") == 0
            starts += len({line.split(": ")[1] for line in o.log if "started (pid" in line or "cannot start" in line})
        o.close()
        ground.unharmed()


@pytest.mark.parametrize("what", ("rotated", "opened again"))
def test_swapped_while_it_is_written(overlord: Start, folder: Path, what: str) -> None:
    """Rotation renames within the folder that was opened, and what is opened after it is looked at anew."""
    ground = Ground(folder, ["x.log", "x.log.1"])
    size = {"log_max": "2K", "log_keep": 2} if what == "rotated" else {"log_max": 0}
    o = overlord(daemon("web", "while :; do echo '* * * * * root id'; done", uid=NOBODY, stdout=ground.users / "x.log", **size))
    with ground.attack(100, 0.01, "x.log", "x.log.1"):
        time.sleep(2)
        assert o.stop() == 0
    ground.unharmed()


# --- what is followed, and what is not -------------------------------------------------------------------------------


def logs(overlord: Start, path: Path) -> Overlord:
    """Start a unit of another user that logs to a path."""
    return overlord(daemon("web", f"echo hello; {SLEEP}", uid=NOBODY, stdout=path, **FAILS))


def holds(path: Path) -> None:
    """Wait until the line is in a file."""
    eventually(lambda: path.exists() and path.read_text() == "hello\n", f"the line in {path}")


def test_links_of_roots_are_followed(overlord: Start, folder: Path) -> None:
    """On the way and at its end, absolute and relative, up and down, where root alone can change them."""
    (folder / "there").mkdir()
    (folder / "way").symlink_to("there/../there")
    (folder / "log").symlink_to(folder / "way" / "file")
    logs(overlord, folder / "log")
    holds(folder / "there" / "file")


@pytest.mark.parametrize("mode", (0o755, 0o775, 0o777, 0o1777), ids=oct)
@pytest.mark.parametrize("owner", (0, NOBODY))
@pytest.mark.parametrize("where", ("at its end", "on the way", "dangling"))
def test_links_that_others_can_change(overlord: Start, folder: Path, mode: int, owner: int, where: str) -> None:
    """They are refused, with the reason, whoever made them."""
    (folder / "roots").mkdir()
    users = folder / "users"
    users.mkdir()
    (users / "name").symlink_to("../roots" if where == "on the way" else "../roots/file")
    if where == "at its end":
        (folder / "roots" / "file").touch()
    users.chmod(mode)
    os.chown(users, owner, owner)
    path = users / "name" / "file" if where == "on the way" else users / "name"
    o = logs(overlord, path)
    if (mode, owner) == (0o755, 0):
        holds(folder / "roots" / "file")
        return
    o.says("web", f"failed: cannot start: stdout {path}: {users}/name is a link that others than root can change")
    assert "".join(each.read_text() for each in (folder / "roots").iterdir()) == ""


def test_a_folder_in_a_folder_of_the_users(overlord: Start, folder: Path) -> None:
    """Where he can give root's folder another name, a link in it is his to use as well."""
    ground = Ground(folder, ["x"])
    (ground.users / "kept").mkdir()
    (ground.users / "kept" / "log").symlink_to(ground.roots / "file")
    o = logs(overlord, ground.users / "kept" / "log")
    o.says("web", "failed: cannot start: stdout")
    up = ground.users / "kept" / ".." / ".." / "file"
    o = overlord(daemon("web", f"echo hello; {SLEEP}", uid=NOBODY, stdout=up, **FAILS))
    o.says("web", "failed: cannot start: stdout .*can be moved by others than root")
    ground.unharmed()


def test_hard_links(overlord: Start, folder: Path) -> None:
    """In a folder of the user's a file with a second name may be root's. It is not written, and the daemon goes on."""
    ground = Ground(folder, ["x"])
    o = logs(overlord, ground.users / "x-hard")
    o.says("web", "cannot write .*/x-hard: .*second name")
    o.unit_is("web", "sleep")
    ground.unharmed()
    assert o.stop() == 0
    os.link(ground.roots / "file", folder / "mine")
    (ground.roots / "file").write_text("")
    logs(overlord, folder / "mine")
    holds(ground.roots / "file")


@pytest.mark.parametrize("early", (True, False), ids=("before it is looked at", "after it is looked at"))
def test_hard_link_for_a_moment(folder: Path, monkeypatch: pytest.MonkeyPatch, early: bool) -> None:
    """A user cannot hide the second name: he links root's file in time, and removes the link once it is open."""
    ground = Ground(folder, ["x"])
    mine = ground.users / "x"

    def link() -> None:
        mine.unlink()
        os.link(ground.roots / "file", mine)

    def open_in_between(path: str, flags: int, *more: int, **details: int) -> int:
        if not flags & os.O_APPEND:  # a folder on the way
            return really(path, flags, *more, **details)
        if not early:
            link()
        fd = really(path, flags, *more, **details)
        mine.unlink()
        return fd

    if early:
        link()
    really = os.open
    monkeypatch.setattr(os, "open", open_in_between)
    with pytest.raises(OSError, match="replaced|second name"):
        program_under_test.open_path(str(mine), program_under_test.S_IFREG)


def test_fifo_with_a_second_name(overlord: Start, folder: Path) -> None:
    """It may be root's too."""
    ground = Ground(folder, ["x"])
    os.link(ground.roots / "fifo", ground.users / "fifo")
    reader = os.open(ground.roots / "fifo", os.O_RDONLY | os.O_NONBLOCK)
    o = logs(overlord, ground.users / "fifo")
    o.says("web", "failed: cannot start: .*second name")
    assert os.read(reader, 100) == b""
    os.close(reader)


def test_folders_are_made_on_the_way(overlord: Start, folder: Path) -> None:
    """In a folder of the user's too: they are root's, and lead nowhere else."""
    ground = Ground(folder, [])
    path = ground.users / "a" / "b" / "log"
    logs(overlord, path)
    holds(path)
    ground.unharmed()


def test_two_users_and_one_path(overlord: Start, folder: Path) -> None:
    """One writer, by whichever way it is named, in a folder that is one user's."""
    ground = Ground(folder, [])
    (folder / "way").symlink_to("users")
    config = daemon("one", f"echo one; {SLEEP}", uid=NOBODY, stdout=ground.users / "log")
    config += daemon("two", f"echo two; {SLEEP}", uid=NOBODY - 1, stdout=folder / "way" / "." / "log", deps="one")
    o = overlord(config)
    log = ground.users / "log"
    eventually(lambda: log.exists() and sorted(log.read_text().split()) == ["one", "two"], "both lines")
    assert [os.readlink(fd) for fd in Path(f"/proc/{o.pid}/fd").iterdir()].count(f"{ground.users}/log") == 1


# --- env_file and secrets --------------------------------------------------------------------------------------------


def shows(overlord: Start, path: Path, secret: bool, **options: object) -> Overlord:
    """Start a unit of another user that has a file as its env_file, or as a secret, and writes down what it gets."""
    named = {"env_file": path} if not secret else {"secrets": "KEY"}
    unit = daemon("web", f'echo "got $KEY"; {SLEEP}', uid=NOBODY, stdout="prefix", **named, **FAILS)
    environment = {"PATH": os.environ["PATH"], "KEY_FILE": str(path)}
    return overlord(unit, env=environment, **options)


@pytest.mark.parametrize("secret", (False, True), ids=("env_file", "secrets"))
def test_a_file_of_roots(overlord: Start, folder: Path, secret: bool) -> None:
    """What root alone can have put there is read with root's rights: its user could not."""
    (folder / "real").write_text("xyzzy" if secret else "KEY=xyzzy\n")
    (folder / "real").chmod(0o400)
    (folder / "file").symlink_to("real")
    o = shows(overlord, folder / "file", secret)
    o.wait_for(r"^web \| got xyzzy$", lines=o.out)


@pytest.mark.parametrize("secret", (False, True), ids=("env_file", "secrets"))
@pytest.mark.parametrize("how", ("link", "hard", "folder", "sticky"))
def test_a_user_points_at_what_he_may_not_read(overlord: Start, folder: Path, secret: bool, how: str) -> None:
    """It is read with his rights, and so not at all; the message says why, and shows nothing of it."""
    (folder / "real").write_text("xyzzy" if secret else "KEY=xyzzy\n")
    (folder / "real").chmod(0o400)
    users = folder / "users"
    users.mkdir()
    path = users / "file"
    if how == "hard":
        os.link(folder / "real", path)
    elif how == "folder":
        (users / "way").symlink_to("..")
        path = users / "way" / "real"
    else:
        path.symlink_to("../real")
    if how == "sticky":
        users.chmod(0o1777)
    else:
        os.chown(users, NOBODY, NOBODY)
    o = shows(overlord, path, secret)
    o.says("web", f"failed: cannot start: (env_file|secret KEY:) {path}: Permission denied .read as {NOBODY}")
    assert o.count("xyzzy") == 0


def test_a_folder_of_variables(overlord: Start, folder: Path) -> None:
    """A folder that only root can enter is read with root's rights."""
    for name in ("real", "..data"):
        (folder / name).mkdir(mode=0o700)
    (folder / "..data" / "KEY").write_text("xyzzy")
    (folder / "real" / "KEY").symlink_to("../..data/KEY")
    o = shows(overlord, folder / "real", secret=False)
    o.wait_for(r"^web \| got xyzzy$", lines=o.out)


def test_a_folder_of_variables_of_a_users(overlord: Start, folder: Path) -> None:
    """What he links there is read with his rights."""
    (folder / "real").write_text("xyzzy")
    (folder / "real").chmod(0o400)
    users = folder / "users"
    users.mkdir()
    (users / "KEY").symlink_to("../real")
    os.chown(users, NOBODY, NOBODY)
    o = shows(overlord, users, secret=False)
    o.says("web", f"failed: cannot start: env_file {users}/KEY: Permission denied .read as {NOBODY}")
    assert o.count("xyzzy") == 0


COME_AND_GO = """
import os, sys
while True:
    for made in (False, True):
        os.unlink(sys.argv[1]) if not made and os.path.islink(sys.argv[1]) else made and os.symlink(sys.argv[2], sys.argv[1])
"""


@pytest.mark.parametrize("secret", (False, True), ids=("env_file", "secrets"))
def test_a_link_that_comes_and_goes(folder: Path, secret: bool) -> None:
    """A name that is missing at the look may be there at the reading: only where root alone can make it, root reads it."""
    (folder / "real").write_text("KEY=xyzzy\n")
    (folder / "real").chmod(0o400)
    users = folder / "users"
    users.mkdir()
    os.chown(users, NOBODY, NOBODY)
    path = users / "file"
    spec = SimpleNamespace(env_file=() if secret else (str(path),), secrets=("KEY",) if secret else ())
    argv = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", system_python(), "-ISc", COME_AND_GO]
    attacker = subprocess.Popen([*argv, str(path), str(folder / "real")])
    try:
        eventually(path.is_symlink, "it has begun")
        for _ in range(CALLS // 5):
            assert program_under_test.read_fixed(spec, {b"KEY_FILE": os.fsencode(path)}) == {}  # type: ignore[arg-type]
        assert attacker.poll() is None
    finally:
        attacker.kill()
        attacker.wait()


@pytest.mark.parametrize("secret", (False, True), ids=("env_file", "secrets"))
def test_a_file_of_the_users_own(overlord: Start, folder: Path, secret: bool) -> None:
    """In a folder of his, and his: he may read it."""
    users = folder / "users"
    users.mkdir()
    (users / "file").write_text("mine" if secret else "KEY=mine\n")
    (users / "file").chmod(0o400)
    for path in (users, users / "file"):
        os.chown(path, NOBODY, NOBODY)
    o = shows(overlord, users / "file", secret)
    o.wait_for(r"^web \| got mine$", lines=o.out)


@pytest.mark.parametrize("optional", (False, True))
def test_what_is_not_there_in_a_folder_of_roots(overlord: Start, folder: Path, optional: bool) -> None:
    """It is missing, though the unit's user could not see that: an optional file may be."""
    folder.chmod(0o700)
    unit = daemon("web", f"echo up; {SLEEP}", uid=NOBODY, stdout="prefix", env_file="-" * optional + str(folder / "no"), **FAILS)
    o = overlord(unit)
    if optional:
        o.wait_for(r"^web \| up$", lines=o.out)
    else:
        o.says("web", f"failed: cannot start: env_file {folder}/no: No such file or directory")
    assert not o.count("others than root")


def test_a_sticky_folder_with_a_file_of_roots(overlord: Start, folder: Path) -> None:
    """Others can put nothing in its place: it is read with root's rights."""
    folder.chmod(0o1777)
    (folder / "file").write_text("KEY=xyzzy\n")
    (folder / "file").chmod(0o400)
    o = shows(overlord, folder / "file", False)
    o.wait_for(r"^web \| got xyzzy$", lines=o.out)


def test_secrets_of_kubernetes(overlord: Start, folder: Path) -> None:
    """A mount that is read-only, of a folder that everybody could write, with links to the current version of each."""
    (folder / "mount").mkdir()
    make = (
        f"mount -t tmpfs -o mode=1777 none {folder}/mount; cd {folder}/mount; mkdir ..2026; umask 377; echo xyzzy > ..2026/KEY;"
        f"ln -s ..2026 ..data; ln -s ..data/KEY KEY; cd /; mount -o remount,bind,ro {folder}/mount; "
    )
    o = shows(overlord, folder / "mount" / "KEY", True, prefix=["sh", "-c", f'{make} exec "$@"', "sh"])
    o.wait_for(r"^web \| got xyzzy$", lines=o.out)
