"""A daemon that puts itself into the background, as daemon(7) says: `background.py NAME PIDFILE [OPTION ...]`.

It writes "NAME up" and the signals that it gets to the journal. On USR2 it starts another of itself, as nginx and gunicorn do, on
HUP it goes on, on TERM and QUIT it ends: with code 0, or that of `code=N`. Further options: `foreground`; `delay=N` seconds until
it writes its pid; `wait=N` seconds that the first process takes after that; `late=N` seconds until a successor writes the file
anew; `remove`: the file is removed at the end; `fail`: the first process ends with 3; `names=N`: the file names that pid.
"""

import os
import signal
import subprocess
import sys
import time

NAME, FILE, *WORDS = sys.argv[1:]
OPTIONS = dict(word.partition("=")[::2] for word in WORDS)


def number(option):
    return float(OPTIONS.get(option, 0))


def note(text):
    with open("journal", "ab", buffering=0) as file:
        file.write(f"{NAME} {text}\n".encode())


def write_pid():
    with open(FILE + ".new", "w") as file:
        file.write(OPTIONS.get("names") or str(os.getpid()))
    os.rename(FILE + ".new", FILE)


def main():
    if "successor" in OPTIONS:
        parent = os.getppid()
    elif "foreground" not in OPTIONS:
        heard, said = os.pipe()
        if os.fork():
            os.close(said)
            os.read(heard, 1)
            time.sleep(number("wait"))
            os._exit(3 if "fail" in OPTIONS else 0)
        os.setsid()
        if os.fork():
            os._exit(0)
        os.close(heard)
    got = []
    for name in ("HUP", "USR2", "TERM", "QUIT"):
        signal.signal(getattr(signal, "SIG" + name), lambda signum, frame: got.append(signum))
    if "successor" in OPTIONS:
        note("successor up")
        while os.getppid() == parent:
            time.sleep(0.01)
        time.sleep(number("late"))
        write_pid()
    else:
        time.sleep(number("delay"))
        write_pid()
        note("up")
    if "foreground" not in OPTIONS and "successor" not in OPTIONS:
        os.close(said)
    while True:
        while not got:
            time.sleep(0.01)
        signum = got.pop(0)
        note(f"got {signal.Signals(signum).name}")
        if signum == signal.SIGUSR2:
            subprocess.Popen([sys.executable, *sys.argv, "successor"], start_new_session=False)
        elif signum != signal.SIGHUP:
            if "remove" in OPTIONS:
                os.unlink(FILE)
            sys.exit(int(number("code")))


main()
