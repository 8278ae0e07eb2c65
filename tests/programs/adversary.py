"""A daemon that does all that a process can do to get away: `adversary.py NAME JOURNAL`, as a main process; see rounds.py.

All the time its processes fork, once or twice, take sessions of their own, clean their environments, and handle or ignore TERM;
some begin with that when TERM comes. Each but the main process ends by itself after some seconds. A line in the journal for what
happens is WHAT NAME MAIN PID BORN PARENT: `main` or `born` before anything else, `end` before an end of its own, `TERM` when that
came. MAIN tells the runs of a unit from one another: PID.BORN of its main process.
"""

import os
import random
import signal
import sys
import time

NAME, JOURNAL, MAIN, DEPTH, UNTIL = (*sys.argv[1:], "", "0", "0")[:5]
DEPTH, UNTIL = int(DEPTH), float(UNTIL)
LONGEST, DEEPEST = 3.0, 4  # seconds; forks
LOG = os.open(JOURNAL, os.O_WRONLY | os.O_APPEND)
asked = []
quiet = 0.8  # seconds between two deeds


def born():
    with open("/proc/self/stat", "rb") as file:
        return int(file.read().rpartition(b")")[2].split()[19])


def note(what):
    os.write(LOG, f"{what} {NAME} {MAIN} {os.getpid()} {born()} {os.getppid()}\n".encode())


def end():
    note("end")
    os._exit(0)


def heard(number, frame):
    note("TERM")
    asked.append(number)


def begin(session, clean):
    """What a child does: it is noted, and then it hides."""
    global DEPTH, UNTIL
    note("born")
    random.seed()
    DEPTH, UNTIL = DEPTH + 1, time.monotonic() + random.uniform(0.1, LONGEST)
    asked.clear()
    if session:
        os.setsid()
    if clean:
        words = [sys.executable, "-I", "-S", os.path.abspath(__file__), NAME, JOURNAL, MAIN, str(DEPTH), str(UNTIL)]
        os.execve(sys.executable, words, {})
    signal.signal(signal.SIGTERM, random.choice((heard, heard, signal.SIG_IGN, signal.SIG_DFL)))


def breed(hide=False):
    """Fork, once or twice; return whether this is the parent."""
    twice, session, clean = (hide or random.random() < chance for chance in (0.6, 0.6, 0.4))
    if os.fork():
        return True
    if twice:
        note("born")
        if random.random() < 0.2:
            os.setsid()
        if os.fork():
            end()
    begin(session, clean)
    return False


def live():
    """Do this and that, until the time is over."""
    forks, stop = 0, None
    while True:
        if not UNTIL or forks == 0:
            time.sleep(random.uniform(0, quiet))
        else:
            time.sleep(min(quiet, max(0, UNTIL - time.monotonic())))
        if (UNTIL and time.monotonic() > UNTIL) or (stop and time.monotonic() > stop):
            end()
        if asked and stop is None:
            how = random.choice(("end", "hide", "hide", "later", "later", "never"))
            stop = 0
            if how in ("hide", "later") and DEPTH < DEEPEST and not breed(hide=how == "hide"):
                forks, stop = 0, None
                continue
            if how in ("end", "hide"):
                end()
            if how == "later":
                stop = time.monotonic() + random.uniform(0, 0.3)
        if DEPTH < DEEPEST and (not UNTIL or forks < 1) and random.random() < 0.7:
            forks += 1
            if not breed():
                forks, stop = 0, None


try:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, random.choice((heard, heard, heard, signal.SIG_IGN)))
    if not MAIN:
        MAIN = f"{os.getpid()}.{born()}"
        note("main")
        breed()
    live()
except OSError:
    end()
