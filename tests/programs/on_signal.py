"""on_signal.py NAME MODE SIGNAL...: meet the SIGNALs in the way that MODE says, and note `NAME got SIGNAL` for each.

MODE is `catch` (a handler), `ignore`, `default` (nothing is done about it), `block` (blocked, and looked at now and
then, as users of signalfd do), `sigwait` (blocked but while it is waited for, which is always) or `thread` (sigwait in
a second thread; the first does nothing about it but block it). When all is set up, `NAME ready` is noted. Any
other signal has its default.
"""

import signal
import sys
import threading
import time


def note(line):
    """Append a line to the journal."""
    with open("journal", "a") as journal:
        journal.write(line + "\n")


def got(number, frame=None):
    """Note a signal."""
    known = number in set(signal.Signals)
    note(f"{name} got {signal.Signals(number).name if known else f'SIG{number}'}")


def look():
    """Take what is pending, now and then."""
    while True:
        for number in signal.sigpending() & signals:
            got(signal.sigwait({number}))
        time.sleep(0.005)


def wait():
    """Wait for the signals for ever."""
    while True:
        got(signal.sigwait(signals))


def idle():
    """Let handlers do what there is to do."""
    while True:
        signal.pause()


name, mode = sys.argv[1:3]
signals = {int(word[3:]) if word[3:].isdigit() else signal.Signals[word] for word in sys.argv[3:]}
if mode in ("block", "sigwait", "thread"):
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
for each in signals:
    if mode == "catch":
        signal.signal(each, got)
    elif mode == "ignore":
        signal.signal(each, signal.SIG_IGN)
if mode == "thread":
    threading.Thread(target=wait, daemon=True).start()
note(f"{name} ready")
{"block": look, "sigwait": wait}.get(mode, idle)()
