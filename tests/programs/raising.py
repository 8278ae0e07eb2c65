"""Run overlord where making a process raises what nobody expects, while FILE is there: raising.py FILE overlord.py ARGUMENT..."""

import os
import sys

path, program, *arguments = sys.argv[1:]


def wrap(name: str) -> None:
    """Have a function of os raise while the file is there."""
    real = getattr(os, name)

    def raising(*args: object, **options: object) -> object:
        if os.path.exists(path):
            raise RuntimeError("something that nobody thought of")
        return real(*args, **options)

    setattr(os, name, raising)


for function in ("posix_spawn", "fork"):
    wrap(function)
sys.path.insert(0, os.path.dirname(program))
import overlord  # noqa: E402

os._exit(overlord.main(arguments))
