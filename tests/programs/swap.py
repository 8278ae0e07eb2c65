"""swap.py FOLDER SPINS SECONDS NAME...: give FOLDER/NAME another meaning all the time, as fast as one can.

FOLDER holds entries `NAME-KIND`, one for each KIND of thing that a name can stand for (a file, a link, ...). NAME is
exchanged with each of them in turn by renameat2(2), so that it always exists. SPINS loops pass between two exchanges.
With SECONDS each pair of kinds has that long, over and over; `0` is for ever with the first pair.
"""

import ctypes
import errno
import itertools
import os
import sys
import time

EXCHANGE, HERE = 2, -100  # RENAME_EXCHANGE, AT_FDCWD
renameat2 = ctypes.CDLL(None, use_errno=True).renameat2


def swap(one: bytes, two: bytes) -> None:
    """Exchange two names; where one is missing, as in the middle of a rotation, nothing happens."""
    if renameat2(HERE, one, HERE, two, EXCHANGE) and ctypes.get_errno() != errno.ENOENT:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), one, None, two)


os.chdir(sys.argv[1])
spins, seconds, names = int(sys.argv[2]), float(sys.argv[3]), sys.argv[4:]
kinds = sorted({entry.partition("-")[2] for entry in os.listdir(".") if "-" in entry})
while True:
    for (first, second), name in itertools.product(itertools.combinations(kinds, 2), names):
        at, one, two = name.encode(), f"{name}-{first}".encode(), f"{name}-{second}".encode()
        swap(at, one)  # now `first` is at NAME, and what was there at NAME-first
        end = time.monotonic() + seconds
        while not seconds or time.monotonic() < end:
            for _ in range(100):
                swap(at, two)
                for _ in range(spins):
                    pass
        swap(at, one)
