"""A stand-in for a daemon, `actor NAME [OPTION=VALUE ...] [WORD ...]`, that notes in the journal what happens to it.

The journal lies beside the folder that this file is in. A line is NAME PID EVENT and more: `start`, `words` (one of WORDS),
`sees KEY VALUE`, `gets SIGNAL`, `ends CODE`; each is written whole, so that they stand in the order in which things happened.

    see=KEY,...     what it notes of itself: cwd, umask, user, group, stdin, leader (is it that of its process group?), files (how
                    many it may have open), or a variable of its environment
    say=TEXT        a line on stdout; complain=TEXT: on stderr
    ends=CODE,...   how its first run ends by itself, and the second, and so on: an exit code, or KILL; with `go:` before it, when
                    there is a file `go` beside the journal; a run that is not listed stays
    stop=SIGNAL,... the signals at which it ends, with 0: TERM, INT and QUIT unless given; `none`
    after=NAME      asked to end, it waits until NAME has ended, or is gone
    child=NAME      it has a child, another actor
    pidfile=PATH    it writes its process number there
    fill=PATH:N     it prints N lines of 100 bytes; each comes when the one before has arrived in PATH
"""

import grp
import os
import pwd
import select
import signal
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.dirname(os.path.abspath(sys.argv[0])))
JOURNAL = os.path.join(HERE, "journal")
NAME, *ARGUMENTS = sys.argv[1:]
OPTIONS = ("see", "say", "complain", "ends", "stop", "after", "child", "pidfile", "fill")
GIVEN = dict(word.split("=", 1) for word in ARGUMENTS if word.split("=")[0] in OPTIONS)
WORDS = [word for word in ARGUMENTS if word.split("=")[0] not in OPTIONS]
HEARD = ["HUP", "INT", "QUIT", "USR1", "USR2", "TERM"]


def note(*events):
    """Write all events at once."""
    file = os.open(JOURNAL, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    os.write(file, "".join(f"{NAME} {os.getpid()} {event}\n" for event in events).encode(errors="surrogateescape"))
    os.close(file)


def read(path):
    """Return the lines of a file; none where there is no such file."""
    try:
        with open(path, errors="surrogateescape") as file:
            return file.read().split("\n")
    except FileNotFoundError:
        return []


def look(key):
    """Return what the program sees of this."""
    if key == "cwd":
        return os.getcwd()
    if key == "umask":
        now = os.umask(0)
        os.umask(now)
        return f"{now:03o}"
    if key == "user":
        return pwd.getpwuid(os.getuid()).pw_name
    if key == "group":
        return " ".join(sorted({grp.getgrgid(number).gr_name for number in (os.getgid(), *os.getgroups())}))
    if key == "stdin":
        return "at its end" if select.select([0], [], [], 0)[0] and not os.read(0, 1) else "open"
    if key == "leader":
        return str(os.getpgrp() == os.getpid())
    if key == "files":
        return next(line.split()[3] for line in read("/proc/self/limits") if line.startswith("Max open files"))
    return os.environ.get(key, "(unset)")


def end(how):
    note(f"ends {how}")
    if how == "KILL":
        os.kill(os.getpid(), signal.SIGKILL)
    os._exit(int(how))


def fill(path, number):
    for count in range(number):
        line = f"{NAME} line {count:04d} ".ljust(99, ".")
        print(line, flush=True)
        while not any(line in read(path + old) for old in ("", ".1")):
            time.sleep(0.005)
    note("filled")


def has_ended(name):
    found = [line.split(" ") for line in read(JOURNAL) if line.startswith(name + " ")]
    return any(words[2] == "ends" or not os.path.exists("/proc/" + words[1]) for words in found)


def live():
    """Wait for signals, and for what was asked for."""
    runs = sum(line.split(" ")[0] == NAME and line.endswith(" start") for line in read(JOURNAL))
    ends = GIVEN.get("ends", "").split(",")
    gate, _, how = ends[runs - 1].rpartition(":") if runs <= len(ends) else ("", "", "")
    if how and not gate:
        end(how)
    stop, asked = GIVEN.get("stop", "TERM,INT,QUIT").split(","), False
    while True:
        info = signal.sigtimedwait(SIGNALS, 0.01 if gate or asked else 1000)
        if info:
            name = signal.Signals(info.si_signo).name[3:]
            note(f"gets {name}")
            asked = asked or name in stop
        if asked and ("after" not in GIVEN or has_ended(GIVEN["after"])):
            end("0")
        if gate and os.path.exists(os.path.join(HERE, gate)):
            end(how)


SIGNALS = {getattr(signal, "SIG" + name) for name in HEARD}
for number in SIGNALS:
    signal.signal(number, lambda *_: None)  # LINUX: while it waits for a signal, /proc does not show that it blocks that
signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
if "pidfile" in GIVEN:
    with open(GIVEN["pidfile"], "w") as where:
        where.write(f"{os.getpid()}\n")
if "child" in GIVEN:
    subprocess.Popen([sys.argv[0], GIVEN["child"], "stop=" + GIVEN.get("stop", "TERM,INT,QUIT")])
for stream, text in ((sys.stdout, GIVEN.get("say")), (sys.stderr, GIVEN.get("complain"))):
    if text is not None:
        print(f"{NAME} {text}", file=stream, flush=True)
seen = [f"sees {key} {look(key)}" for key in GIVEN.get("see", "").split(",") if key]
note("start", *(f"words {word}" for word in WORDS), *seen)
if "fill" in GIVEN:
    where, _, number = GIVEN["fill"].rpartition(":")
    fill(where, int(number))
live()
