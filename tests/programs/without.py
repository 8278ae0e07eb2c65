"""Run overlord where a function of os fails but for its first COUNT calls: without.py FUNCTION ERRNO COUNT PROGRAM ..."""

import os
import sys

name, number, count, program, *arguments = sys.argv[1:]
function, left = getattr(os, name), iter(range(int(count)))


def refuse(*args: object, **options: object) -> object:
    if next(left, None) is None:
        raise OSError(int(number), os.strerror(int(number)))
    return function(*args, **options)


setattr(os, name, refuse)
sys.path.insert(0, os.path.dirname(program))
import overlord  # noqa: E402

os._exit(overlord.main(arguments))
