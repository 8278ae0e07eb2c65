"""Break the Machine, and what decides in the Fleet, one thing at a time, and see whether the tests notice: `make mutants`.

python tests/mutants.py [--jobs 2] [--sample N] [--seed N] [--list]

The mutants are made from the syntax tree of what stands between `TABLE` and the events: each cell of the table is taken
away, and given to another function of the table; and in each function that the table leads to, each statement is left
out, each condition turned round, each part of one dropped, each comparison, constant, state, operator and changed field
altered, each action not done. What a line says is left alone: only whether it is said. So are the methods of `overlord.Unit`
that `find_next` leads to.

pytest collects the tests once. Then each mutant has a process of its own, in which the broken function or table takes the
place of the real one in the imported module; it plays the tests of SUITE and then WORLDS worlds, up to the first that fails.
A mutant that hangs is caught too. `test_every_cell` holds a copy of the table's shape, so it votes last, and what it alone
noticed is told: nearly all of that is an event that cannot come and is not refused any more.

At least LEAST of them must be caught. The others stand in EQUIVALENT with the reason: one that does not is an error, and so
is one that stands there and is caught, or is no mutant any more.
"""

from __future__ import annotations

import argparse
import ast
import copy
import functools
import io
import itertools
import os
import random
import re
import select
import signal
import sys
import time
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, Iterator

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT))

import diagram  # noqa: E402
import overlord  # noqa: E402
from world import World  # noqa: E402

SUITE = ["test_machine.py", "test_cells.py", "test_fleet.py"]
# Of test_fleet.py, what takes long and would tell no more: the Machine has no part in it.
DESELECT = "not (cost or long_chain or pile_up or worlds or wave_of_any_speed or options_is_one or diagram_in)"
COPY = "test_every_cell"
IDLE_TALK = "never -> None"  # what never comes shows in no behaviour: here the copy votes first
WORLDS = 80
PATIENCE = 20.0  # s of processor time, after which a mutant hangs
LEAST = 0.95

# Mutants that no test can notice, by what they do and why that is the same.
KIND = "`stop_process` does not look at the kind of the event that led to it"
NEVER = "with no `respawns` at all nothing is counted"
COST = "what it costs alone, which the tests left out here measure: test_long_chain and its kin"
PIDLESS = "without a process, `stop_process` waits for the start as well"
EQUIVALENT: dict[str, str] = {
    "TABLE backoff/want: start_waiting -> stop_process": PIDLESS,
    "TABLE backoff/deadline: start_waiting -> stop_process": PIDLESS,
    "TABLE idle/want: start_waiting -> stop_process": PIDLESS,
    "Move.note_gone:2: `0.0` out of `status.delay or 0.0`": "what takes its place counts as 0 too",
    "Move.note_gone:2: 1.0 for 0.0": "both are less than what takes part: 10 s",
    "Move.time_out:8: 'x' for 'stop'": KIND,
    "Move.restart_or_end:6: 1.0 for 0.0": NEVER,
    "Move.restart_or_end:6: 1 for 0": NEVER,
    "describe_end:11: `spec.warmup` out of `early and spec.warmup`": "with no warm-up, what is ready is up",
    "Unit.find_unsettled:4: without `seen.add(dep)`": COST,
    "Unit.find_unsettled:5: `dep in seen` out of `how != 'bounce' or dep in seen`": COST,
}

SOURCE = Path(overlord.__file__).read_text()
TREE = ast.parse(SOURCE)
FUNCTIONS = {node.name: node for node in TREE.body if isinstance(node, ast.FunctionDef)}
# Move has the cells of the table, Unit what decides what is next for a unit.
CLASSES = {node.name: node for node in TREE.body if isinstance(node, ast.ClassDef) and node.name in ("Move", "Unit")}
METHODS = {
    f"{name}.{node.name}": node for name, each in CLASSES.items() for node in each.body if isinstance(node, ast.FunctionDef)
}
TABLE = next(node for node in CLASSES["Move"].body if isinstance(node, ast.AnnAssign))
COMPARED = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
}  # fmt: skip
COUNTED = {ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult}
OTHER = {"min": "max", "max": "min"}


def reachable() -> list[str]:
    """Return the functions that the table leads to, by way of other ones of the Machine."""
    last = CLASSES["Unit"].lineno
    machine = {name for name, node in FUNCTIONS.items() if FUNCTIONS["step"].lineno <= node.lineno < last}
    found = ["step", *sorted(f"Move.{name}" for name in cell_names()), "Unit.find_next"]
    for name in found:
        nodes = list(ast.walk(FUNCTIONS.get(name) or METHODS[name]))
        own = {f"{name.partition('.')[0]}.{node.attr}" for node in nodes if isinstance(node, ast.Attribute)}
        calls = own.intersection(METHODS) | machine.intersection(node.id for node in nodes if isinstance(node, ast.Name))
        found += sorted(calls.difference(found))
    return found


def cell_names() -> list[str]:
    """Return the methods of Move that stand in the table."""
    return sorted({node.id for node in ast.walk(TABLE) if isinstance(node, ast.Name) and f"Move.{node.id}" in METHODS})


def with_cell(kind: str, state: str, new: str) -> ast.AST:
    """Return the table with another cell, or with none, which is what nothing or `never` means for its event."""
    named = {event: {each: cell.__name__ for each, cell in row.items()} for event, row in overlord.Move.TABLE.items()}
    named[kind].pop(state, None)
    if new != ("None" if kind in overlord.ANY_TIME else "never"):
        named[kind][state] = {"None": "lambda move: None", "never": "lambda move: 1 / 0"}.get(new, new)
    rows = (f"{event!r}: {{{', '.join(f'{each!r}: {cell}' for each, cell in row.items())}}}" for event, row in named.items())
    tree = copy.deepcopy(TABLE)
    tree.value = ast.parse(f"{{{', '.join(rows)}}}", mode="eval").body
    return tree


def cells() -> Iterator[tuple[str, ast.AST]]:
    """Yield the table with one cell changed: taken away, refused, or given to another function."""
    names = cell_names()
    for kind, row in overlord.Move.TABLE.items():
        for state in overlord.STATES:
            old = row[state].__name__ if state in row else "None" if kind in overlord.ANY_TIME else "never"
            # one neighbour of many: which other function it is hardly matters, as long as it does something else
            near = names[(names.index(old) + 1) % len(names)] if old in names else ""
            for new in dict.fromkeys(["None", "never", *([near] if near else [])]):
                if new != old:
                    yield f"TABLE {state}/{kind}: {old} -> {new}", with_cell(kind, state, new)


def changes(node: ast.AST) -> Iterator[tuple[str, str, int | None, Any]]:
    """Yield what can be broken in a node: in words, the field, the index in it if that is a list, and the new value."""
    for field in ("body", "orelse"):
        statements = getattr(node, field, None)
        for index, each in enumerate(statements if isinstance(statements, list) else ()):
            text = isinstance(each, ast.Expr) and isinstance(each.value, ast.Constant)
            if not text and not isinstance(each, (ast.Return, ast.Raise, ast.Pass)):
                yield f"without `{ast.unparse(each).splitlines()[0]}`", field, index, ast.Pass()
    if isinstance(node, (ast.If, ast.IfExp)):
        yield f"not ({ast.unparse(node.test)})", "test", None, ast.UnaryOp(ast.Not(), node.test)
    if isinstance(node, ast.BoolOp):
        for index, each in enumerate(node.values):
            neutral = ast.Constant(isinstance(node.op, ast.And))
            yield f"`{ast.unparse(each)}` out of `{ast.unparse(node)}`", "values", index, neutral
    if isinstance(node, ast.Compare) and type(node.ops[0]) in COMPARED:
        yield f"other way: `{ast.unparse(node)}`", "ops", 0, COMPARED[type(node.ops[0])]()
    if isinstance(node, (ast.BinOp, ast.AugAssign)) and type(node.op) in COUNTED and not isinstance(node.op, ast.Add):
        yield f"other way: `{ast.unparse(node)}`", "op", None, COUNTED[type(node.op)]()
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add) and not isinstance(node.left, (ast.JoinedStr, ast.List)):
        yield f"other way: `{ast.unparse(node)}`", "op", None, ast.Sub()
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        yield f"other way: `{ast.unparse(node)}`", "op", None, ast.UAdd()
    if isinstance(node, ast.Call):
        if isinstance(node.func, ast.Name) and node.func.id in OTHER:
            yield f"other way: `{ast.unparse(node)}`", "func", None, ast.Name(OTHER[node.func.id], ast.Load())
        name = getattr(node.func, "attr", getattr(node.func, "id", ""))
        for index, each in enumerate(node.keywords if name in ("enter", "amend", "_replace", "Event", "Status") else ()):
            yield f"without {ast.unparse(each)} in `{ast.unparse(node)}`", "keywords", index, None
    if isinstance(node, ast.List):
        for index, each in enumerate(node.elts):
            yield f"without `{ast.unparse(each)}`", "elts", index, None
    if isinstance(node, ast.Name) and node.id in ("STARTING", "OK", "RUNNING", "STOPPED", "WAITING", "STOPPING", "DONE",
                                                  "FAILED", "BACKOFF", "IDLE"):  # fmt: skip
        states = [state.upper() for state in overlord.STATES]
        yield f"another state than {node.id}", "id", None, states[(states.index(node.id) + 1) % len(states)]


def constants(tree: ast.AST) -> Iterator[tuple[str, ast.Constant, Any]]:
    """Yield the constants that mean something, each with another value; not what is only said, nor the docstring."""
    spoken = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in ast.walk(node)}
    spoken |= {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    said = [node for node in ast.walk(tree) if isinstance(node, (ast.Assign, ast.AugAssign, ast.Return))]
    for node in said:  # `end`, `text`, `why`, `detail`: words
        targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AugAssign) else []
        if any(getattr(target, "id", "") in ("end", "text", "why", "detail", "again") for target in targets):
            spoken |= {id(part) for part in ast.walk(node.value) if isinstance(part, ast.Constant)}  # type: ignore[arg-type]
    for node in ast.walk(tree):
        if not isinstance(node, ast.Constant) or id(node) in spoken:
            continue
        if isinstance(node.value, bool):
            yield f"{not node.value} for {node.value}", node, not node.value
        elif isinstance(node.value, (int, float)):
            yield f"{node.value + 1} for {node.value}", node, node.value + 1
        elif isinstance(node.value, str) and " " not in node.value:
            yield f"'x' for {node.value!r}", node, node.value + "x"


def function_mutants(name: str) -> Iterator[tuple[str, ast.AST]]:
    """Yield a function with one thing in its body broken, in every way."""
    whole = FUNCTIONS.get(name) or METHODS[name]
    meant = set(map(id, itertools.chain([whole], *map(ast.walk, whole.body))))  # not the types of its arguments
    for at, node in enumerate(ast.walk(whole)):
        if id(node) not in meant:
            continue
        for text, field, index, value in changes(node):
            tree = copy.deepcopy(whole)
            target = next(itertools.islice(ast.walk(tree), at, None))
            if index is None:
                setattr(target, field, value)
            elif value is None:
                del getattr(target, field)[index]
            else:
                getattr(target, field)[index] = value
            yield f"{name}:{getattr(node, 'lineno', whole.lineno) - whole.lineno}: {text}", tree
    for text, node, value in constants(whole):
        if id(node) in meant:
            old, node.value = node.value, value
            tree = copy.deepcopy(whole)
            node.value = old
            yield f"{name}:{node.lineno - whole.lineno}: {text}", tree


def mutants() -> dict[str, ast.AST]:
    """Return all of them by name; two of one name are told apart by a number."""
    found: dict[str, ast.AST] = {}
    for name, tree in [*cells(), *(each for function in reachable() for each in function_mutants(function))]:
        if ast.unparse(tree) == ast.unparse({**FUNCTIONS, **METHODS}.get(name.partition(":")[0], TABLE)):
            continue
        number = 1 + sum(other == name or other.startswith(f"{name} #") for other in found)
        found[name if number == 1 else f"{name} #{number}"] = tree
    return found


def put_in(tree: ast.AST, name: str) -> None:
    """Put a mutant in the place of what it was made from."""
    module = ast.fix_missing_locations(ast.Module(body=[tree], type_ignores=[]))  # type: ignore[list-item]
    flags = overlord.annotations.compiler_flag if hasattr(overlord, "annotations") else 0
    table, owner = module, CLASSES.get(name.partition(".")[0])
    if not isinstance(tree, ast.AnnAssign):
        own: dict[str, Any] = {}
        exec(compile(module, "mutant", "exec", flags=flags), vars(overlord), own)
        setattr(getattr(overlord, owner.name) if owner else overlord, *own.popitem())
        table = ast.Module(body=[TABLE], type_ignores=[])  # which holds the methods themselves
    scope = dict(vars(overlord.Move))
    exec(compile(table, "mutant", "exec", flags=flags), vars(overlord), scope)
    overlord.Move.TABLE = scope["TABLE"]
    diagram.edges.cache_clear()


class Judge:
    """A pytest plugin that runs what was collected once for each mutant, in a process of its own."""

    def __init__(self, chosen: dict[str, ast.AST], options: argparse.Namespace) -> None:
        self.chosen, self.jobs, self.list = chosen, options.jobs, options.list
        self.caught: dict[str, str] = {}  # mutant -> by what; "" for nothing
        self.broken = ""

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """In place of running the tests once."""
        tests, copied = [], []
        for item in session.items:
            assert isinstance(item, pytest.Function)
            values = item.callspec.params if hasattr(item, "callspec") else {}
            assert set(item.fixturenames) == set(values), f"{item.name} wants more than its parameters"
            kind = copied if item.originalname == COPY else tests
            kind.append((item.name if kind is tests else COPY, functools.partial(item.obj, **values)))
        slow = [test for test in tests if hasattr(test[1].func, "hypothesis")]
        worlds = [(f"World({seed})", World(seed).play) for seed in range(WORLDS)]
        self.trials = [*(test for test in tests if test not in slow), *worlds, *slow, *copied]
        self.shortcut = [*copied, *self.trials]
        self.broken = self.wait({self.begin("", None): "nothing"})
        running: dict[int, str] = {}
        todo = [] if self.broken else list(self.chosen)
        while todo or running:
            while todo and len(running) < self.jobs:
                name = todo.pop(0)
                running[self.begin(name, self.chosen[name])] = name
            self.wait(running)
        return True

    def begin(self, name: str, tree: ast.AST | None) -> int:
        """Start a process for a mutant, or for the program as it is; return the descriptor that tells the verdict."""
        reading, writing = os.pipe()
        if os.fork() == 0:
            os.close(reading)
            signal.setitimer(signal.ITIMER_VIRTUAL, PATIENCE)  # SIGVTALRM ends it
            try:
                verdict = self.try_out(tree, name, self.shortcut if IDLE_TALK in name else self.trials)
            except BaseException as error:
                verdict = f"{type(error).__name__}: {error}"
            os.write(writing, (verdict or "-").encode()[:200])
            os._exit(0)
        os.close(writing)
        return reading

    def try_out(self, tree: ast.AST | None, name: str, trials: list[tuple[str, Any]]) -> str:
        """Return which test or world notices a mutant, if any."""
        if tree is not None:
            put_in(tree, name)
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            for name, run in trials:
                try:
                    run()
                except (Exception, pytest.fail.Exception):
                    return name
        return ""

    def wait(self, running: dict[int, str]) -> str:
        """Wait for one verdict; note and return it."""
        reading = select.select(list(running), [], [])[0][0]
        verdict = os.read(reading, 4096).decode("utf-8", "replace") or "it hangs, or dies"
        os.close(reading)
        os.wait()
        name = running.pop(reading)
        self.caught[name] = "" if verdict == "-" else verdict
        if self.list and name != "nothing":
            print(f"{self.caught[name] or 'SURVIVED':60} {name}", file=sys.__stdout__, flush=True)
        return self.caught[name]


def main() -> int:
    """Try them all, and print the score."""
    parser = argparse.ArgumentParser(description="Break the Machine in every way, and see whether the tests notice.")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--sample", type=int, default=0, help="only so many, by chance")
    parser.add_argument("--seed", type=int, default=0, help="of that chance")
    parser.add_argument("--only", default="", help="only those whose name this regular expression finds")
    parser.add_argument("--list", action="store_true", help="say what notices each")
    options = parser.parse_args()
    chosen = {name: tree for name, tree in mutants().items() if re.search(options.only, name)}
    strangers = [name for name in EQUIVALENT if name not in chosen and not options.only]
    if options.sample and options.sample < len(chosen):
        chosen = {name: chosen[name] for name in random.Random(options.seed).sample(list(chosen), options.sample)}
    began, judge = time.monotonic(), Judge(chosen, options)
    here = str(ROOT / "tests")
    files = [f"{here}/{name}" for name in SUITE if os.path.exists(f"{here}/{name}")]
    words = ["-q", "-k", DESELECT, "-c", f"{here}/pytest.ini", "-o", "addopts="]
    with redirect_stdout(io.StringIO()) as said:
        code = pytest.main([*words, *files], plugins=[judge])
    if judge.broken or code not in (0, 5):
        print(f"{said.getvalue()}\nthe program fails as it is: {judge.broken or code}")
        return 1
    caught = {name: by for name, by in judge.caught.items() if name != "nothing"}
    survivors = [name for name, by in caught.items() if not by]
    unknown = [name for name in survivors if name not in EQUIVALENT]
    wrong = [f"{name}, caught by {caught[name]}" for name in EQUIVALENT if caught.get(name)]
    for text, names in (("survived", unknown), ("said to be equivalent, and is not", wrong), ("no such mutant", strangers)):
        for name in names:
            print(f"{text}: {name}")
    score = 1 - len(survivors) / max(1, len(caught))
    copied = sum(by == COPY for by in caught.values())
    print(
        f"{len(caught)} mutants, {len(caught) - len(survivors)} caught ({score:.1%}; {copied} of them by {COPY} alone), "
        f"{len(survivors) - len(unknown)} known to be equivalent, {len(unknown)} missed; {time.monotonic() - began:.0f} s"
    )
    return 0 if score >= LEAST and not unknown and not wrong and not strangers else 1


if __name__ == "__main__":
    sys.exit(main())
