"""A program that notes when it is asked to end."""

import signal
import sys
import time


def note(line):
    with open("journal", "a") as file:
        file.write(line + "\n")


def asked(signum, frame):
    note("asked")
    sys.exit()


signal.signal(signal.SIGTERM, asked)
note("up")
time.sleep(1000)
