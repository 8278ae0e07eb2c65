"""supervisord and circus, the real ones, beside overlord with what `convert` makes of the same file.

Each file in tests/beside runs under its own supervisor and, converted, under overlord, each as PID 1 of a namespace, with the
same programs (tests/programs/actor.py), which note in a journal what they see and what happens to them. `Case` says what is
waited for; journal, logs, files and exit codes are then reduced to facts that do not depend on time. All facts have to be the
same on both sides, but for those of DIFFERENCES, which have to differ just so.

    python3 tests/test_beside.py        prints that table, as Markdown
"""

from __future__ import annotations

import json
import platform
import pwd
import shutil
import signal
import stat
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Callable, ClassVar, Iterator, NamedTuple

import pytest

from harness import PATH, PATIENCE, PROGRAMS, Journal, Lines, Namespace, Overlord, eventually, kill, system_python

FOLDER = Path(__file__).resolve().parent / "beside"
CONVERT = FOLDER.parent / "convert.py"
PASSWD = {"HOME": pwd.getpwnam("nobody").pw_dir, "SHELL": pwd.getpwnam("nobody").pw_shell}
LIMIT = ["prlimit", "--nofile=1024:4096"]  # what a container engine of today gives


class Case(NamedTuple):
    """What is done with one configuration, and which facts are looked at beside those of the journal.

    All of `runs` have to start, then come the `steps`, then SIGTERM. A step waits for something (`starts NAME N`, `notes NAME
    EVENT`, `state NAME STATE`, `prints NAME`, `holds FILE TEXT`, `exit` of the container by itself) or does it (`send SIGNAL` to
    PID 1, `touch FILE`); after `theirs` or `ours` it is for one side.
    """

    runs: str  # NAME NAME ...
    steps: str = ""  # separated by commas
    starts: str = ""  # in which order these are started
    stops: str = ""  # and stopped: was each asked after the end of the one before?
    status: str = ""  # what is looked at there: `states` or `names`
    files: str = ""  # whose content is looked at
    rotated: str = ""  # FILE:LIMIT
    root: bool = False  # for root alone


CASES = {
    "order": Case(
        "db cache web first second late", starts="db cache web first second late", stops="late second web cache db"
    ),
    "together": Case("web api", starts="web api"),
    "restarts": Case(
        "never expected",
        "starts unset 2, starts unexpected 2, starts killed 2, starts nocodes 2, starts always 3, state unset ended, "
        "state expected ended, state unexpected ended, state killed ended, theirs state never ended, ours state never failed",
        status="states",
    ),
    "fatal": Case(
        "sound",
        "state broken failed, state usual failed, state quick failed, state missing failed, state neverup failed, "
        "state always failed, state flaky ok, touch go, state flaky failed, state once failed",
        status="states",
    ),
    "output": Case(
        "files merged console descriptor proc crossed both silent hidden merges appended quiet",
        files="files.log files.err merged.log given.log quiet.log",
    ),
    "rotation": Case(
        "kept kilobyte unlimited",
        "notes kept filled, notes kilobyte filled, notes unlimited filled",
        rotated="kept.log:1000 kilobyte.log:1024 unlimited.log:1000000",
    ),
    "environment": Case("plain quoted own7 supervised path here spelt", files="own.7.log"),
    "words": Case("words several star quotes shell lines pipes input"),
    "instances": Case(
        "worker0 worker1 worker2 port1 port2 zero0 zero1 alone0",
        status="names",
        files="port.1.log port.2.log zero.0.log zero.1.log",
    ),
    "user": Case("nobody given home folder variables", files="nobody.log", root=True),
    "include": Case("web worker"),
    "stop": Case("plain quit usr1 int deaf patient"),
    "family": Case(
        "anchor group group.child shell.child alone alone.child deaf deaf.child crash crash.child",
        "touch go, starts crash 2, starts crash.child 2",
    ),
    "pidproxy": Case("anchor db"),
    "hup": Case("web", "send HUP, theirs starts web 2, ours notes web gets HUP"),
    "listener": Case("db web", "touch go, exit"),
    "exited": Case("db web", "touch go, exit"),
    "autostart": Case("task", "state task ended", status="states"),
    "watchers.circus": Case(
        "web1 web2 bare file console shell null rotated turned",
        "prints console, holds file.log hello, holds file.err trouble, notes rotated filled, theirs prints turned",
        files="file.log file.err",
        rotated="rotated.log:1000",
    ),
    "stop.circus": Case("web db cache quit deaf family family.child alone alone.child", starts="web db cache quit"),
    "respawn.circus": Case(
        "again once sound",
        "starts again 3, theirs state once stopped, ours state once failed, "
        "theirs state missing stopped, ours state missing failed",
        root=True,
    ),
}


# --- the supervisors -------------------------------------------------------------------------------------------------


class Peer(Namespace):
    """A real supervisor as PID 1 of a namespace, with its configuration in `folder`."""

    kind = ""

    def __init__(self, folder: Path, original: Path):
        self.folder = folder
        self.journal = Journal(folder / "journal")
        self.config = folder / original.name
        argv = [*LIMIT, *self.prepare(original.read_text())]
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        super().__init__(argv, cwd=folder, env=environment(folder), **pipes)
        changed = threading.Condition()
        self._out, self._err = (Lines(stream, changed) for stream in (self.popen.stdout, self.popen.stderr))

    def prepare(self, text: str) -> list[str]:
        """Write the configuration, and return the command."""
        raise NotImplementedError

    def lines(self) -> tuple[list[str], list[str]]:
        """Return what came out of stdout and of stderr."""
        return self._out(), self._err()

    def signal(self, number: int) -> None:
        """Send PID 1 a signal."""
        kill(self.init, number)

    def status(self) -> dict[str, str]:
        """Return the state of each program."""
        raise NotImplementedError

    def wait_exit(self) -> int:
        """Wait for the end, and return the exit code."""
        try:
            code = self.popen.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            pytest.fail(f"it still runs: {self}")
        for lines in (self._out, self._err):
            lines.wait(PATIENCE)
        return code

    def close(self) -> None:
        """End what still runs, and show what it said."""
        self.destroy()
        for lines, stream in ((self._out, self.popen.stdout), (self._err, self.popen.stderr)):
            lines.wait(PATIENCE)
            lines.close()
            assert stream
            stream.close()
        print(self)

    def __str__(self) -> str:
        return "\n".join([f"--- {self.kind}:", *self._out(), "--- stderr:", *self._err(), "--- journal:", *self.journal.lines()])


class Supervisord(Peer):
    """supervisord."""

    kind = "supervisord"
    words: ClassVar = {"RUNNING": "ok", "FATAL": "failed", "EXITED": "ended", "STOPPED": "idle"}
    control = """
[unix_http_server]
file=%(here)s/socket
[rpcinterface:supervisor]
supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface
[supervisorctl]
serverurl=unix://%(here)s/socket
"""

    def prepare(self, text: str) -> list[str]:
        """Add a socket to ask it by."""
        self.config.write_text(text + self.control)
        return [sys.executable, "-m", "supervisor.supervisord", "-c", str(self.config)]

    def status(self) -> dict[str, str]:
        """Return what supervisorctl says, in overlord's words."""
        argv = [sys.executable, "-m", "supervisor.supervisorctl", "-c", str(self.config), "status"]
        answer = subprocess.run(argv, cwd=self.folder, capture_output=True, text=True, check=False, timeout=PATIENCE)
        found = [line.split()[:2] for line in answer.stdout.splitlines()]
        return {name.rpartition(":")[2]: self.words.get(state, state) for name, state in found}


class Circus(Peer):
    """circus."""

    kind = "circus"
    words: ClassVar = {"active": "ok"}

    def prepare(self, text: str) -> list[str]:
        """Name the sockets to ask it by: of an option that stands twice, it takes the first."""
        places = "".join(f"{name} = ipc://{self.folder}/{name}\n" for name in ("endpoint", "pubsub_endpoint"))
        self.config.write_text(f"[circus]\n{places}{text}")
        return [sys.executable, "-m", "circus.circusd", str(self.config)]

    def status(self) -> dict[str, str]:
        """Return what circusctl says, in overlord's words."""
        argv = [sys.executable, "-m", "circus.circusctl", "--endpoint", f"ipc://{self.folder}/endpoint", "status"]
        answer = subprocess.run(argv, cwd=self.folder, capture_output=True, text=True, check=False, timeout=PATIENCE)
        found = [line.split(": ") for line in answer.stdout.splitlines()]
        return {name: self.words.get(state, state) for name, state in found}


class Ours:
    """overlord with the converted configuration."""

    kind = "overlord"
    words: ClassVar = {"done": "ended"}

    def __init__(self, folder: Path, original: Path, start: Callable[..., Overlord]):
        self.folder = folder
        source = folder / original.name
        source.write_text(original.read_text())
        self.config = folder / "converted.conf"
        self.config.write_text(convert(source))
        self.overlord = start("", "-c", str(self.config), folder=folder, use_config=False, prefix=LIMIT, env=environment(folder))
        self.journal = self.overlord.journal
        self.signal = self.overlord.send
        self.wait_exit = self.overlord.wait_exit

    def lines(self) -> tuple[list[str], list[str]]:
        """Return what came out of stdout and of stderr."""
        return self.overlord.out, self.overlord.log

    def status(self) -> dict[str, str]:
        """Return the state of each unit."""
        answer = self.overlord.ask("-c", str(self.config), "status", "-j", named=False, code=None)
        return {unit["name"]: self.words.get(unit["state"], unit["state"]) for unit in json.loads(answer.stdout)}

    def __str__(self) -> str:
        return f"--- converted:\n{self.config.read_text()}\n{self.overlord}"


def convert(path: Path) -> str:
    """Return the configuration that the tool makes of a file."""
    argv = [sys.executable, str(CONVERT), str(path)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, env=environment(path.parent), timeout=PATIENCE)
    assert done.returncode in (0, 1) and not done.stderr, done.stderr
    return done.stdout


def environment(folder: Path) -> dict[str, str]:
    """Return the variables of the container."""
    own = {"GREETING": "hello", "PHRASE": "two words", "STAR": "*", "QUOTES": "'two words'"}
    values = {"PLACE": str(folder), "ACCOUNT": "nobody", "MASK": "027", "STOP": "QUIT"}
    return {**own, **values, "PATH": f"{folder}/bin:{PATH}", "HOME": "/root", "HOSTNAME": platform.node(), "TMPDIR": str(folder)}


def furnish(folder: Path) -> Path:
    """Put the programs into the folder in which a supervisor runs, and what it finds there."""
    programs = {
        "bin/actor": f"#!{system_python()} -IS\n" + (PROGRAMS / "actor.py").read_text(),
        "opt/other": f"#!{system_python()} -IS\n" + (PROGRAMS / "actor.py").read_text(),
        "bin/pidproxy": f'#!/bin/sh\nexec {sys.executable} -m supervisor.pidproxy "$@"\n',
    }
    for name, text in programs.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    for name, text in (("journal", ""), ("given.log", "before\n")):
        (folder / name).write_text(text)
        (folder / name).chmod(0o666)
    shutil.copytree(FOLDER / "included", folder / "included")
    folder.chmod(0o777)
    return folder


# --- what is done, and what is seen ----------------------------------------------------------------------------------


def do_step(side: Peer | Ours, step: str) -> int | None:
    """Do one step of a case; return the exit code where the container has ended."""
    word, name, rest = (*step.split(maxsplit=2), "", "")[:3]
    if word in ("theirs", "ours"):
        return do_step(side, f"{name} {rest}") if (word == "ours") == isinstance(side, Ours) else None
    if word == "starts":
        eventually(lambda: len(events(side, name, "start")) >= int(rest), f"{step}\n{side}")
    elif word == "notes":
        eventually(lambda: events(side, name, rest), f"{step}\n{side}")
    elif word == "prints":
        eventually(lambda: any(line.startswith(f"{name} ") for line in [*side.lines()[0]]), f"{step}\n{side}")
    elif word == "holds":
        eventually(lambda: rest in (side.folder / name).read_text(), f"{step}\n{side}")
    elif word == "state":
        eventually(lambda: side.status().get(name) == rest, f"{step}\n{side}", pause=0.2)
    elif word == "send":
        side.signal(getattr(signal, "SIG" + name))
    elif word == "touch":
        (side.folder / name).touch()
    elif word == "exit":
        return side.wait_exit()
    else:
        raise ValueError(step)
    return None


def events(side: Peer | Ours, name: str, event: str) -> list[int]:
    """Return the places of such lines in the journal."""
    found = [line.split(" ", 2) for line in side.journal.lines()]
    return [place for place, (who, _, what) in enumerate(found) if who == name and f"{what} ".startswith(event + " ")]


class Facts:
    """The facts of one run, as text by name. To make them is to do the steps of the case, to the end of the container."""

    def __init__(self, side: Peer | Ours, case: Case):
        self.side = side
        self.found: dict[str, str] = {}
        code = None
        for step in (*(f"starts {name} 1" for name in case.runs.split()), *filter(None, case.steps.split(", "))):
            code = do_step(side, step)
        self.add_status(case)
        if code is None:
            side.signal(signal.SIGTERM)
            code = side.wait_exit()
        self["exit code"] = str(code)
        self.lines = [line.split(" ", 2) for line in side.journal.lines()]
        self.names = sorted({name for name, _, _ in self.lines})
        for name in self.names:
            self.add_life(name)
        self.add_order(case)
        self.add_output(case)

    def __setitem__(self, key: str, value: str) -> None:
        self.found[key] = value.replace(str(self.side.folder), "DIR")

    def add_status(self, case: Case) -> None:
        """What the supervisor says of its programs, while all still run."""
        status = self.side.status() if case.status else {}
        if case.status == "names":
            self["names"] = " ".join(sorted(status))
        for name, state in status.items():
            if case.status == "states":
                self[f"{name}: state"] = state

    def add_life(self, name: str) -> None:
        """What one program has seen and done."""
        mine = [(pid, *event.partition(" ")[::2]) for who, pid, event in self.lines if who == name]
        starts = [pid for pid, event, _ in mine if event == "start"]
        self[f"{name}: words"] = ", ".join(rest for pid, event, rest in mine if event == "words" and pid == starts[0])
        for pid, event, rest in mine:
            if event == "sees":
                key, _, value = rest.partition(" ")
                value = "as in passwd" if value == PASSWD.get(key) else value
                known = self.found.get(f"{name}: {key}")
                self[f"{name}: {key}"] = value if pid == starts[0] or known == value else f"{known}, then {value}"
        # Whether one that is killed had the time to note what it got before is chance.
        ends = {pid for pid, event, _ in mine if event == "ends"}
        lives = [[rest for who, event, rest in mine if who == pid and event in ("gets", "ends")] for pid in starts]
        self[f"{name}: runs"] = ", then ".join(" ".join(life) if pid in ends else "killed" for pid, life in zip(starts, lives))

    def add_order(self, case: Case) -> None:
        """Who came first: a process number is higher than that of one that was started before."""
        starts = [(int(pid), name) for name, pid, event in self.lines if event == "start" and name in case.starts.split()]
        self["start order"] = ", ".join(name for _, name in sorted(starts))
        stops = sorted(case.stops.split(), key=lambda name: events(self.side, name, "gets"))
        for before, name in zip(stops, stops[1:]):
            after = events(self.side, before, "ends")[-1] < events(self.side, name, "gets")[0]
            self[f"{name}: stopped"] = f"{'after the end of' if after else 'beside'} {before}"

    def add_output(self, case: Case) -> None:
        """What came out of the container, and what is in files."""
        for stream, lines in zip(("stdout", "stderr"), self.side.lines()):
            for name in self.names:
                mine = sorted(line for line in lines if line.startswith(f"{name} "))
                self[f"{name}: {stream} of the container"] = " / ".join(mine)
        for file in case.files.split():
            path = self.side.folder / file
            self[file] = path.read_text().replace("\n", " / ") if path.exists() else ""
            self[f"{file}: owner and mode"] = f"{path.owner()} {stat.filemode(path.stat().st_mode)}" if path.exists() else ""
        for file, limit in (word.split(":") for word in case.rotated.split()):
            self.add_rotation(file, int(limit))

    def add_rotation(self, file: str, limit: int) -> None:
        """Which files a log became, whether each keeps the limit, and whether together they are the end of what was written."""
        names = sorted(path.name for path in self.side.folder.glob(file + "*"))
        self[f"{file}: files"] = " ".join(names)
        self[f"{file}: the limit is kept"] = str(all((self.side.folder / name).stat().st_size <= limit for name in names))
        text = "".join((self.side.folder / name).read_text() for name in sorted(names, reverse=True))
        numbers = [int(line.split()[2]) for line in text.splitlines()]
        self[f"{file}: no line is lost"] = str(numbers == list(range(40 - len(numbers), 40)))


# --- the tests -------------------------------------------------------------------------------------------------------


class Difference(NamedTuple):
    """A fact that differs on purpose."""

    case: str
    fact: str
    theirs: str
    ours: str
    why: str


# Why a fact differs. What the original does is kept where it is known to be relied on; these are the rest.
TOGETHER = "supervisord stops one after the other, the last first; overlord together what does not depend on one another"
BY_NAME = "of one priority supervisord starts first what comes first in the alphabet, overlord what comes first in the file"
RETRIED = "supervisord tries to start it again although it is not to be restarted"
FAILURE = "an end with another code than those of success is a failure, also where nothing is restarted"
SHOWN = "supervisord hides output that no option is given for in a temporary file"
FIRST_LINE = "a log file is made with its first line"
ROTATED = "supervisord looks at the limit after it has written"
BY_A_SHELL = "the shell expands a variable in a command: it finds files for `*`, and takes quotes as they are"
OF_THE_USER = "HOME and what belongs to it are those of the user"
LIMITS = "supervisord raises the limit to its minfds, for its programs too"
NAMED = "each says who it is"
STDIN = "nobody can write to it: supervisord holds a pipe open for nothing"
PIPE = "Python ignores SIGPIPE, and supervisord's programs with it; overlord sets it back"
NO_NUMBER = "what is only one needs no number"
RELAYED = "supervisord stops all programs and starts them anew; overlord passes the signal on"
LEFT_BEHIND = "what a program leaves behind is asked to end before it is started again, and at the end"
EXIT_CODE = "the exit code of the container is that of what failed"
INHERITED = "the container's variables are always there"
REVERSED = "circus starts in the order of priorities, and stops all at once; overlord keeps the reverse order"

DIFFERENCES = [
    Difference("together", "web: runs", "killed", "TERM 0", TOGETHER),
    Difference("together", "start order", "api, web", "web, api", BY_NAME),
    Difference("restarts", "never: state", "ended", "failed", FAILURE),
    Difference("fatal", "neverup: runs", "1, then 1", "1", RETRIED),
    Difference("output", "hidden: stdout of the container", "", "hidden hello", SHOWN),
    Difference("output", "hidden: stderr of the container", "", "hidden trouble", SHOWN),
    Difference("output", "quiet.log: owner and mode", "root -rw-r--r--", "", FIRST_LINE),
    Difference("rotation", "kilobyte.log: the limit is kept", "False", "True", ROTATED),
    Difference("environment", "supervised: SUPERVISOR_ENABLED", "1", "(unset)", NAMED),
    Difference("environment", "supervised: SUPERVISOR_PROCESS_NAME", "supervised", "(unset)", NAMED),
    Difference("environment", "supervised: SUPERVISOR_GROUP_NAME", "supervised", "(unset)", NAMED),
    Difference("environment", "supervised: OVERLORD_NAME", "(unset)", "supervised", NAMED),
    Difference("words", "input: stdin", "open", "at its end", STDIN),
    Difference("words", "pipes: words", "trap -- '' SIGPIPE", "", PIPE),
    Difference("words", "star: words", "*, *, x*", "10-worker.conf, 20-other.conf, *, x*", BY_A_SHELL),
    Difference("words", "quotes: words", "two words", "'two, words'", BY_A_SHELL),
    Difference(
        "instances",
        "names",
        "alone_00 port-1 port-2 worker_00 worker_01 worker_02 zero_0 zero_1",
        "alone port-1 port-2 worker_00 worker_01 worker_02 zero_0 zero_1",
        NO_NUMBER,
    ),
    Difference("user", "nobody: HOME", "/root", "as in passwd", OF_THE_USER),
    Difference("user", "nobody: USER", "(unset)", "nobody", OF_THE_USER),
    Difference("user", "nobody: LOGNAME", "(unset)", "nobody", OF_THE_USER),
    Difference("user", "nobody: SHELL", "(unset)", "as in passwd", OF_THE_USER),
    Difference("user", "nobody: files", "2048", "1024", LIMITS),
    Difference("user", "home: words", "/root", PASSWD["HOME"], OF_THE_USER),
    Difference("family", "alone.child: runs", "killed", "TERM 0", LEFT_BEHIND),
    Difference("family", "crash.child: runs", "killed, then killed", "TERM 0, then TERM 0", LEFT_BEHIND),
    Difference("hup", "web: runs", "TERM 0, then TERM 0", "HUP TERM 0", RELAYED),
    Difference("listener", "exit code", "0", "7", EXIT_CODE),
    Difference("watchers.circus", "bare: GREETING", "(unset)", "hello", INHERITED),
    Difference("stop.circus", "web: runs", "TERM 0", "killed", REVERSED),
    Difference("stop.circus", "alone.child: runs", "killed", "TERM 0", LEFT_BEHIND),
]


@pytest.fixture
def peer() -> Iterator[Callable[[Path, Path], Peer]]:
    """A function that starts the supervisor to which a configuration belongs."""
    made: list[Peer] = []

    def start(folder: Path, original: Path) -> Peer:
        made.append((Circus if original.suffix == ".ini" else Supervisord)(folder, original))
        return made[-1]

    yield start
    for each in made:
        each.close()


@pytest.mark.parametrize("name", CASES)
def test_beside(
    name: str, request: pytest.FixtureRequest, peer: Callable[[Path, Path], Peer], overlord: Callable[..., Overlord]
) -> None:
    """What is not the same differs on purpose, and just so."""
    case = CASES[name]
    original = FOLDER / (f"{name}.ini" if name.endswith(".circus") else f"{name}.conf")
    folder = request.getfixturevalue("public" if case.root else "tmp_path")
    theirs = peer(furnish(folder / "theirs"), original)
    ours = Ours(furnish(folder / "ours"), original, overlord)
    with ThreadPoolExecutor(2) as pool:
        before, now = (run.result().found for run in [pool.submit(Facts, side, case) for side in (theirs, ours)])
    pairs = {fact: (before.get(fact, ""), now.get(fact, "")) for fact in {**before, **now}}
    differing = {fact: pair for fact, pair in pairs.items() if pair[0] != pair[1]}
    assert differing == {row.fact: (row.theirs, row.ours) for row in DIFFERENCES if row.case == name}, ours


def test_each_file_is_run() -> None:
    """Each file of the folder belongs to a case."""
    assert {path.name[: -len(path.suffix)] for path in FOLDER.glob("*.*")} == {*CASES}


def spell_table() -> str:
    """Return what differs on purpose, as a table."""
    rows = [" | ".join(text.replace("|", "\\|") or "none" for text in row) for row in DIFFERENCES]
    head = "| configuration | fact | original | overlord | why |\n|---|---|---|---|---|\n"
    return head + "".join(f"| {row} |\n" for row in rows)


def test_the_table_is_current() -> None:
    assert spell_table() in (FOLDER.parent / "BESIDE.md").read_text(), "paste what tests/test_beside.py prints"


if __name__ == "__main__":
    print(spell_table(), end="")
