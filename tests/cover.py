"""Measure which lines and branches of overlord.py all tests together reach: `make coverage`.

    python3 tests/cover.py [OPTIONS OF PYTEST]

coverage.py's own tracer does not get at most of overlord: it executes itself again with `-I -S`, its children live
between fork and exec, it ends by os._exit or is killed, and it runs as any user, on interpreters that have no coverage.py,
as PID 1. So the tests run a copy of overlord.py that has a mark before each statement and in each arm of each branch. A
mark sets one byte in a file that every process maps: cheap, safe in any number of processes, and no end of a process
loses it. Then the marks become a data file of coverage.py, which knows the possible lines and branches of the source and
writes the report; `coverage html` works on that file too.

Exact are the arms of if, while and for, and which `except` took an exception. Where a `finally` leads to is taken as
reached when both ends are. Not seen is what a process does that cannot open the file.
"""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Iterator, NamedTuple

import coverage
from coverage.python import PythonFileReporter

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "overlord.py"

# Tests about just that in which the copy differs: the number of lines that are run, and what is imported first.
EXCLUDED = (
    "test_fleet.py::test_cost_of_a_script_before_many",
    "test_pid1.py::test_sigterm_is_held_before_anything_else",
)

# Stands after `from __future__`. Neither way keeps a descriptor: tests look at all that overlord has open. python3-minimal
# has no mmap: there, the first time that a process comes by a mark it opens the file for it. A test may have put a mmap.py
# of its own on the path.
PROLOGUE = """
import os as _os
import sys as _sys
class _Writer:
    seen = set()
    def __setitem__(self, place, value):
        if place not in self.seen:
            self.seen.add(place)
            try:
                fd = _os.open({path!r}, _os.O_WRONLY | _os.O_CLOEXEC)
            except OSError:
                return
            _os.pwrite(fd, bytes([value]), place)
            _os.close(fd)
_path = _sys.path[:]
try:
    _sys.path[:] = [folder for folder in _path if folder.endswith("lib-dynload")]
    import mmap as _mmap
    _fd = _os.open({path!r}, _os.O_RDWR | _os.O_CLOEXEC)
    _copy = _os.dup(_fd)
    _os.close(_copy)  # the number that the mapping's own copy of the descriptor gets
    _marks = _mmap.mmap(_fd, {size})
    _os.close(_fd)
    _os.close(_copy)
except (ImportError, OSError):
    _marks = _Writer()
finally:
    _sys.path[:] = _path
"""

# In the place of `docker`: every container gets the copy and the marks.
DOCKER = """#!/bin/sh
case $1 in
run | create)
    verb=$1
    shift
    case $* in
    *:/sbin/overlord.py*) ;; # the test brings it
    *) set -- -v {copy}:/sbin/overlord.py:ro "$@" ;;
    esac
    set -- "$verb" -v {marks}:{marks} "$@"
    ;;
esac
exec {docker} "$@"
"""


class Fact(NamedTuple):
    """That a line was run, or that its condition came out as true or false.

    For `for`, true is one more turn; for `except`, that it took the exception.
    """

    line: int
    outcome: bool | None = None


class Marker(ast.NodeTransformer):
    """Puts the marks into a tree. `facts` are those that each mark stands for, `bodies` where each true branch leads."""

    def __init__(self) -> None:
        self.facts: list[list[Fact]] = []
        self.bodies: dict[int, int] = {}

    def mark(self, *facts: Fact) -> ast.stmt:
        """Return a new mark."""
        self.facts.append(list(facts))
        return ast.parse(f"_marks[{len(self.facts) - 1}] = 1").body[0]

    def generic_visit(self, node: ast.AST) -> ast.AST:
        """Mark the statements in each list that this node has."""
        super().generic_visit(node)
        for field in ("body", "orelse", "finalbody"):
            statements = getattr(node, field, None)
            if isinstance(statements, list):
                setattr(node, field, list(self.with_marks(statements)))
        if isinstance(node, (ast.If, ast.While, ast.For)):
            self.bodies[node.lineno] = start(node.body[1])
            node.body.insert(0, self.mark(Fact(node.lineno, True)))
            node.orelse.insert(0, self.mark(Fact(node.lineno, False)))
        if isinstance(node, ast.Try):
            passed: list[Fact] = []
            for handler in node.handlers:
                self.bodies[handler.lineno] = start(handler.body[1])
                here = Fact(handler.lineno)
                handler.body.insert(0, self.mark(*passed, here, Fact(handler.lineno, True)))
                passed += [here, Fact(handler.lineno, False)]
        return node

    def with_marks(self, statements: list[ast.stmt]) -> Iterator[ast.stmt]:
        """Put a mark before each statement, but for a docstring, which has to be the first."""
        for index, statement in enumerate(statements):
            if not (index == 0 and isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)):
                decorators = getattr(statement, "decorator_list", [])
                yield self.mark(*(Fact(each.lineno) for each in [*decorators, statement]))
            yield statement


def start(statement: ast.stmt) -> int:
    """Return the first line of a statement."""
    return min(each.lineno for each in [*getattr(statement, "decorator_list", []), statement])


def instrument(source: str, marks: Path) -> tuple[str, Marker]:
    """Return the program with its marks."""
    tree = ast.parse(source)
    place = 1 + next(number for number, node in enumerate(tree.body) if isinstance(node, ast.ImportFrom))
    rest = ast.Module(body=tree.body[place:], type_ignores=[])
    marker = Marker()
    marker.visit(rest)
    rest.body.insert(0, marker.mark(*(Fact(node.lineno) for node in tree.body[:place])))
    prologue = ast.parse(PROLOGUE.format(path=str(marks), size=len(marker.facts)))
    tree.body[place:] = [*prologue.body, *rest.body]
    return "#!/usr/bin/env python3\n" + ast.unparse(ast.fix_missing_locations(tree)) + "\n", marker


def reached(source: PythonFileReporter, facts: set[Fact], bodies: dict[int, int]) -> set[tuple[int, int]]:
    """Return those of the possible steps from line to line that were taken."""

    def first(line: int) -> int:
        """Return the line that stands for a statement of several."""
        return next(iter(source.translate_lines([line])), line)

    lines = {first(line) for line, _ in facts}
    taken = {(first(line), outcome) for line, outcome in facts}
    leads = {first(line): first(body) for line, body in bodies.items()}

    def was_taken(here: int, there: int) -> bool:
        if here in leads:
            return (here, there == leads[here]) in taken
        return all(line < 0 or line in lines for line in (here, there))

    return {step for step in source.arcs() if was_taken(*step)}


def run_tests(folder: Path, marks: Path, options: list[str]) -> int:
    """Run pytest with the copy of overlord.py in `folder`, and return its exit code."""
    environment = {**os.environ, "OVERLORD_PY": str(folder / "overlord.py")}
    docker = shutil.which("docker")
    if docker:
        wrapper = folder / "bin/docker"
        wrapper.parent.mkdir()
        wrapper.write_text(DOCKER.format(copy=folder / "overlord.py", marks=marks, docker=docker))
        wrapper.chmod(0o755)
        environment["PATH"] = f"{wrapper.parent}:{environment['PATH']}"
    left_out = [word for test in EXCLUDED for word in ("--deselect", test)]
    pytest = [sys.executable, "-m", "pytest", str(ROOT / "tests"), "-o", f"pythonpath={folder}", *left_out, *options]
    return subprocess.run(pytest, env=environment, check=False).returncode


def main(options: list[str]) -> int:
    """Run the tests, print the report, and return the exit code of the tests."""
    # The marks are in shared memory: it stays writable where a test makes the root read-only. One shuts that too: so the
    # copy is elsewhere.
    with (
        tempfile.TemporaryDirectory(prefix="overlord-cover-") as name,
        tempfile.NamedTemporaryFile(prefix="overlord-cover-", dir="/dev/shm") as file,
    ):
        folder, marks = Path(name), Path(file.name)
        folder.chmod(0o755)
        text, marker = instrument(SOURCE.read_text(), marks)
        marks.write_bytes(bytes(len(marker.facts)))
        marks.chmod(0o666)
        copy = folder / "overlord.py"
        copy.write_text(text)
        copy.chmod(0o755)
        code = run_tests(folder, marks, options)
        facts = {fact for facts, byte in zip(marker.facts, marks.read_bytes()) if byte for fact in facts}

    report = coverage.Coverage(data_file=str(ROOT / ".coverage"), config_file=str(ROOT / "tests/coverage.ini"))
    report.erase()
    steps = reached(PythonFileReporter(str(SOURCE), report), facts, marker.bodies)
    report.get_data().add_arcs({str(SOURCE): steps})
    report.save()
    report.report()
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
