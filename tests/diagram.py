"""Print the diagram of a unit's life for the README, as Mermaid: found by driving `overlord.step`, not drawn by hand.

python tests/diagram.py
"""

from __future__ import annotations

import functools
import itertools
import sys
from collections import deque
from pathlib import Path
from typing import Iterator

sys.path.append(str(Path(__file__).resolve().parent.parent))

import overlord
from overlord import IDLE, OK, RUNNING, STARTING, STATES, Event, Spec, Status

BEGIN, END = "<!-- diagram -->", "<!-- /diagram -->"


@functools.lru_cache(maxsize=None)
def specs() -> tuple[Spec, ...]:
    """Return units that among them take every way that there is."""
    text = """
        [daemon:plain]
        cmd = x
        [daemon:aging]
        cmd = x
        warmup = 0
        max_age = 1h
        [daemon:shy]
        cmd = x
        ready = file:/x
        health = file:/x
        [daemon:shy-and-slow]
        cmd = x
        ready = file:/x
        warmup = 1s
        [daemon:once]
        cmd = x
        restart = never
        [daemon:forking]
        cmd = x
        ready = file:/x
        pidfile = /x
        [daemon:forking-once]
        cmd = x
        restart = never
        pidfile = /x
        [script:plain-script]
        cmd = x
        [script:stubborn-script]
        cmd = x
        timeout = 5s
        respawns = 3
    """
    draft = overlord.Draft({})
    draft.read_text("-", "\n".join(line.strip() for line in text.splitlines()).encode())
    return (*draft.validate().units.values(), overlord.main_spec(["x"], []))


def events(spec: Spec, status: Status) -> Iterator[Event]:
    """Yield every event that can come to a unit with this status, in each of its kinds."""
    yield from (Event("want"), Event("start"))
    yield from (Event("barred", "script x failed", wanted=wanted) for wanted in (False, True))  # a reload removes it
    yield from (Event("stop", "x", wanted=wanted) for wanted in (False, True))
    yield from (Event("deadline"), Event("ready"), Event("stale", "x"))
    if status.state in (STARTING, RUNNING) and not status.pid:
        yield from (Event("spawned", pid=7), Event("unspawned", "x"), Event("unspawned", "x", passing=True))
    if status.pid and not status.left:
        lefts = (False, True)
        ends = itertools.product((0, 1), lefts, lefts)  # in a shutdown, whatever ends is not wanted any more
        yield from (Event("exited", code=code, left=left, wanted=wanted) for code, left, wanted in ends)
    if status.pid and spec.pidfile:
        yield Event("handed", "x", pid=9 if status.left else status.pid)
    if status.left:
        yield from (Event("emptied", wanted=wanted) for wanted in (False, True))


def is_possible(status: Status, event: Event) -> bool:
    """Tell whether the Fleet may feed this event in this state."""
    if event.kind == "deadline":
        return status.deadline is not None
    if event.kind == "stop" and status.state == OK:
        return bool(status.pid)  # a finished script has nothing to stop
    if event.kind == "stop" and event.wanted:
        return bool(status.pid) or status.state in (STARTING, RUNNING)  # else it is not stopped to come again
    return True


@functools.lru_cache(maxsize=None)
def edges() -> frozenset[tuple[str, str, str]]:
    """Return every (state, event, next state) that a unit can go through."""
    found = set()
    for spec in specs():
        todo, seen = deque([Status()]), set()
        while todo:
            status = todo.popleft()
            for event in events(spec, status):
                if status.state not in overlord.Move.TABLE[event.kind] or not is_possible(status, event):
                    continue
                now = status.since if status.deadline is None else status.deadline
                new, _ = overlord.step(spec, status, event, now, 0.0)
                found.add((status.state, event.kind, new.state))
                whole = (new.state, bool(new.pid), new.left, new.up, new.ready, new.named, new.then)
                shape = (*whole, new.deadline is None, min(new.respawned, 4), new.left and new.code)
                if shape not in seen:
                    seen.add(shape)
                    todo.append(new)
    return frozenset(found)


def diagram() -> str:
    """Return the diagram; events that lead from one state to the same other share an arrow."""
    lines = ["stateDiagram-v2", f"    [*] --> {IDLE}"]
    for state in STATES:
        for target in STATES:
            kinds = [kind for kind in overlord.Move.TABLE if (state, kind, target) in edges()]
            if kinds and state != target:
                lines.append(f"    {state} --> {target} : {', '.join(kinds)}")
    return "\n".join(lines)


def block() -> str:
    """Return what stands between the markers in the README."""
    return f"```mermaid\n{diagram()}\n```"


def block_of(text: str) -> str:
    """Return what does stand between the markers of a text. Raises ValueError where they are missing."""
    return text[text.index(BEGIN) + len(BEGIN) : text.index(END)].strip()


if __name__ == "__main__":
    print(block())
