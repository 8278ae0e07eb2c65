"""Run overlord where making a process raises what nobody expects, while FILE is there: raising.py FILE overlord.py ARGUMENT..."""

import os
import sys

path, program, *arguments = sys.argv[1:]


fork = os.fork


def raising() -> int:
    if os.path.exists(path):
        raise RuntimeError("something that nobody thought of")
    return fork()


os.fork = raising
sys.path.insert(0, os.path.dirname(program))
import overlord  # noqa: E402

os._exit(overlord.main(arguments))
