"""Run overlord where a function of os fails: without.py FUNCTION ERRNO overlord.py ARGUMENT... (0: it is not implemented)."""

import os
import sys

function, number, program, *arguments = sys.argv[1:]


def refuse(*args: object, **options: object) -> None:
    raise OSError(int(number), os.strerror(int(number))) if int(number) else NotImplementedError


setattr(os, function, refuse)
sys.path.insert(0, os.path.dirname(program))
import overlord  # noqa: E402

os._exit(overlord.main(arguments))
