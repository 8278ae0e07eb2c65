"""Go through all small worlds: every reachable state of every configuration of up to three units: `make worlds`.

python tests/worlds.py [--units 3] [--clients 1] [--plain] [--jobs 2] [--seconds N] [--only REGEX]

A configuration is a graph: of each unit its kind, of each pair how one depends on the other, and for daemons without or with
instances (two instances count as two units; of three units none stands apart, since of that two show all). Options are not
gone through one by one: each unit has those that let most happen to it (it may get ready or not, reach its max_age, lose its
health, be restarted once before it has failed for good), so that what it would do with fewer of them is among what is seen.
With one or two units, further configurations have them one by one: `respawns`, `autostart`, `max_age`, `ready`, `pidfile`.

From the state after the start, every event that can come is fed to a copy of the fleet, and so on from each state that comes
of it, until no new one appears: processes start or cannot, end well or badly, leave others behind; deadlines come, in any
order; a person starts, stops and restarts each unit, reloads, and shuts down, at any moment, while up to so many clients wait
for an answer. A state is the records without their instants and counts, what is to be performed, and the clients.

What must hold is looked at in each state, by what can be seen there: states, processes, answers. What must come to an end is
found from the whole graph afterwards: from each state there has to be a way, without any fault and without anybody's doing,
to one where the client has his answer, the reload is done, the waiting unit has started or says for whom it waits in vain.
The shortest way to the first state where something does not hold is printed.
"""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import re
import sys
import time
from array import array
from collections import deque
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Callable, Iterator

sys.path.append(str(Path(__file__).resolve().parent.parent))

import overlord
from overlord import BACKOFF, MAIN, OK, RUNNING, STARTING, STOPPING, WAITING, Event, Fleet, Unit
from world import configure

NOW = 1000.0
MOVING = (WAITING, STARTING, STOPPING, BACKOFF)
SLOTS = [name for name in Unit.__slots__ if name not in ("deps", "dependents", "team", "waits", "stuck", "waiters", "ran")]
DAEMON = {"warmup": "1s", "ready": "tcp:1", "health": "tcp:1", "max_age": "1h", "respawns": 1, "on_failure": "ignore"}
SCRIPT = {"respawns": 1, "on_failure": "ignore", "timeout": "1m"}
VERBS = ("start", "stop", "restart")


class Broken(AssertionError):
    """An invariant does not hold."""


def check(condition: Any, text: str) -> None:
    """Fail unless the condition holds."""
    if not condition:
        raise Broken(text)


# --- configurations --------------------------------------------------------------------------------------------------


def section(kind: str, name: str, options: dict[str, Any]) -> str:
    """Return the text of a unit."""
    lines = "".join(f"{key} = {value}\n" for key, value in options.items())
    return f"[{kind}:{name}]\ncmd = x\n{lines}"


def graphs(count: int) -> Iterator[list[tuple[str, int, dict[str, str]]]]:
    """Yield every graph of so many processes: of each unit its kind, its number of instances, its dependencies."""
    for kinds in itertools.product(("daemon", "script"), repeat=count):
        pairs = [(above, below) for above in range(count) for below in range(above)]
        on_daemon = {"daemon": (None, OK, "bounce", "started"), "script": (None, OK, "started")}
        on_script = (None, OK, "always", "ended")
        states = [on_script if kinds[below] == "script" else on_daemon[kinds[above]] for above, below in pairs]
        for chosen in itertools.product(*states):
            if count == 3 and chosen.count(None) > 1:  # one stands apart, so that nothing is seen that two do not show
                continue
            deps: list[dict[str, str]] = [{} for _ in kinds]
            for (above, below), state in zip(pairs, chosen):
                if state:
                    deps[above]["abc"[below]] = state
            yield [(kind, 0, deps[number]) for number, kind in enumerate(kinds)]


def texts(count: int, options: bool) -> Iterator[tuple[str, str]]:
    """Yield the name and the text of each configuration of so many processes; with `options`, also one by one."""
    for units in graphs(count):
        yield describe(units), spell(units)
    if count > 1:
        for units in graphs(count - 1):
            for number, (kind, _, deps) in enumerate(units):
                if kind == "daemon":
                    twice = [*units[:number], (kind, 2, deps), *units[number + 1 :]]
                    yield describe(twice), spell(twice)
    if options:
        extras = {"respawns": "unlimited", "autostart": "false", "max_age": "none", "ready": "none", "pidfile": "/x"}
        for extra in ({option: value} for option, value in extras.items()):
            for units in graphs(count):
                if units[-1][0] == "daemon":
                    yield f"{describe(units)} {extra}", spell(units, extra)


def describe(units: list[tuple[str, int, dict[str, str]]]) -> str:
    """Return a configuration in a few words: `daemon a, daemon b x2 (a:bounce)`."""
    words = []
    for name, (kind, count, deps) in zip("abc", units):
        times = f" x{count}" if count else ""
        needs = f" ({', '.join(f'{dep}:{state}' for dep, state in deps.items())})" if deps else ""
        words.append(f"{kind} {name}{times}{needs}")
    return ", ".join(words)


def spell(units: list[tuple[str, int, dict[str, str]]], extra: dict[str, Any] | None = None, cmd: str = "", less: int = 0) -> str:
    """Return the text of a configuration; `extra` for its last unit; another `cmd` for its first; without so many at the end."""
    out = []
    for number, (name, (kind, count, deps)) in enumerate(list(zip("abc", units))[: len(units) - less]):
        own: dict[str, Any] = dict(DAEMON if kind == "daemon" else SCRIPT)
        own.update(extra if extra and number == len(units) - 1 else {})
        if count:
            own["count"] = count
        if deps:
            own["deps"] = ", ".join(f"{dep}:{state}" for dep, state in deps.items())
        text = section(kind, name, {key: value for key, value in own.items() if value != "none"})
        out.append(text.replace("cmd = x", f"cmd = {cmd}") if cmd and not number else text)
    return "".join(out)


# --- a state ---------------------------------------------------------------------------------------------------------


def half() -> float:
    """In place of chance."""
    return 0.5


class Watched(Fleet):
    """A fleet that looks at what it does to a unit at the moment when it does it."""

    def apply(self, unit: Unit, event: Event, now: float) -> None:
        if event.kind == "start":
            check(not self.ending, f"{unit.name} starts although the shutdown has begun")
            check(not unit.status.pid, f"{unit.name} starts while its process before lives")
            for dep, how in unit.deps:
                if dep.spec.kind == "script":
                    there = dep.succeeded or how == "always" or (how == "ended" and dep.ended)
                else:
                    begun = dep.begun or dep.in_vain() or not dep.wanted
                    there = begun if how == "started" else dep.status.state == OK
                check(there, f"{unit.name} starts, and {dep.name}:{how} is not there")
        serves = event.kind == "stop" and unit.status.stale == event.why and unit.status.state == OK and not event.fails
        if serves and unit.spec.instance and not unit.leaving:
            for other in unit.team:
                failing = other.status.delay is not None and event.why not in ("reload", "restart by hand")
                moving = other is not unit and other.status.state in MOVING and not other.in_vain() and not failing
                check(not moving, f"{unit.name} is restarted ({event.why}) while {other.name} is {other.status.state}")
        if event.kind == "stop" and unit.status.pid and self.ending:
            alive = [each.name for each in above(unit) if each.status.pid]
            check(not alive or unit.status.state == STOPPING, f"{unit.name} is stopped before {alive}, which need it")
        super().apply(unit, event, now)


def above(unit: Unit) -> set[Unit]:
    """Return all that depend on a unit, directly or not."""
    found, todo = set(), [unit]
    while todo:
        more = [each for each in todo.pop().dependents if each not in found]
        found.update(more)
        todo += more
    return found


class State:
    """A fleet, what it wants performed, who is asking, and how often its configuration has been changed."""

    __slots__ = ("at", "clients", "code", "configs", "dead", "fleet", "spawns")

    def __init__(self, fleet: Any, configs: list[Any]) -> None:
        self.fleet, self.configs = fleet, configs
        self.spawns: tuple[str, ...] = ()
        self.clients: tuple[Any, ...] = ()  # (verb, unit, how many starts it had, pids that lived) of each who waits
        self.code: int | None = None
        self.at = 0  # which of the configurations was asked for last

    def copy(self) -> State:
        """Return a state of its own."""
        new = State(copy_fleet(self.fleet), self.configs)
        new.spawns, new.clients, new.code, new.at = self.spawns, self.clients, self.code, self.at
        return new

    def key(self) -> Any:
        """Return what tells this state from another: instants, pids and counts do not."""
        fleet = self.fleet
        if self.code is not None:
            return "over"
        if fleet.ending:
            return fleet.sweeping, fleet.deadline is None, *map(last_key, fleet.units.values())
        whole = (self.spawns, self.at, fleet.pending is not None, fleet.uncleared)
        return (*whole, *map(unit_key, fleet.units.values()), *map(self.client_key, self.clients))

    def client_key(self, client: Any) -> Any:
        verb, name, starts, pids = client
        status = self.fleet.units[name].status if name in self.fleet.units else overlord.Status()
        return verb, name, status.starts > starts, tuple(self.alive(*pid) for pid in pids)

    def alive(self, name: str, pid: int) -> bool:
        return name in self.fleet.units and self.fleet.units[name].status.pid == pid

    # ------------------------------------------------------------------------------------------------ what may happen
    def moves(self, clients: int) -> Iterator[tuple[str, bool, Callable[[State], None]]]:
        """Yield what can come: in words, whether it comes by itself where nothing goes wrong, and what does it."""
        fleet = self.fleet
        if self.code is not None:
            return
        for name in self.spawns[:1]:
            yield f"{name} starts", True, lambda state: state.spawned(name)
            yield f"{name} cannot fork", False, lambda state: state.spawned(name, fails=True)
        if self.spawns:
            return
        for unit in fleet.units.values():
            yield from self.moves_of(unit)
        if fleet.sweeping and not any(unit.status.pid for unit in fleet.units.values()):
            yield "all is gone", True, lambda state: state.fleet.end_shutdown()
        elif fleet.ending and fleet.deadline is not None:
            yield "the time of the shutdown is up", True, lambda state: state.fleet.take_deadline("", state.fleet.deadline)
        if fleet.ending:
            return
        yield "shutdown", False, lambda state: state.fleet.ask_shutdown("x", NOW, 15)
        if len(self.clients) < clients:
            for name, verb in itertools.product([name for name in fleet.units if name != MAIN], VERBS):
                yield f"{verb} {name}", False, lambda state, verb=verb, name=name: state.ask(verb, name)
        following = (self.at + 1) % len(self.configs)
        yield "reload", False, lambda state: state.reload(following)

    def moves_of(self, unit: Unit) -> Iterator[tuple[str, bool, Callable[[State], None]]]:
        """Yield what can happen to one unit."""
        name, status, spec = unit.name, unit.status, unit.spec

        def feed(event: Event) -> Callable[[State], None]:
            return lambda state: state.fleet.feed(name, event, NOW)

        if status.pid and not status.left:
            stopping = status.state == STOPPING
            yield f"{name} exits with 0", stopping or spec.kind != "daemon", feed(Event("exited", code=0))
            yield f"{name} exits with 1", False, feed(Event("exited", code=1))
            yield f"{name} leaves others behind", False, feed(Event("exited", code=0, left=True))
        if status.left:
            yield f"the rest of {name} ends", True, feed(Event("emptied"))
            if status.state in (STARTING, OK):
                yield f"another process of {name} takes over", False, feed(Event("handed", pid=status.pid + 1000))
        elif spec.pidfile and status.state == STARTING and status.pid and not status.named:
            yield f"the process of {name} is named", True, feed(Event("handed", pid=status.pid))
        if status.state == STARTING and status.pid and not status.ready:
            yield f"{name} is ready", True, feed(Event("ready"))
        if status.state == OK and status.pid and not status.stale:
            yield f"{name} is old", False, feed(Event("stale", "max_age reached"))
        if status.state == OK and status.pid and not self.fleet.ending and not (status.stale and status.then == "fail"):
            yield f"{name} loses its health", False, feed(Event("stale", "unhealthy", fails=True))
        if status.deadline is not None and (status.state != OK or status.left):
            fair = status.state in (BACKOFF, STOPPING) or (status.state == STARTING and status.ready and status.named)
            yield f"the time of {name} is up", fair, lambda state: state.expire(name)

    def expire(self, name: str) -> None:
        deadline = self.fleet.units[name].status.deadline
        self.fleet.take_deadline(name, max(NOW, deadline))

    def spawned(self, name: str, fails: bool = False) -> None:
        self.spawns = self.spawns[1:]
        unit = self.fleet.units.get(name)
        if not unit or unit.status.state not in (STARTING, RUNNING) or unit.status.pid:
            return
        event = Event("unspawned", "fork", passing=True) if fails else Event("spawned", pid=unit.status.starts + 1)
        self.fleet.feed(name, event, NOW)

    def ask(self, verb: str, name: str) -> None:
        unit = self.fleet.units[name]
        pids = ((name, unit.status.pid),) if unit.status.pid and verb == "restart" else ()
        starts = unit.status.starts if verb == "restart" or unit.spec.kind == "script" else -1
        self.clients += ((verb, name, starts, pids),)
        getattr(self.fleet, verb)([unit], NOW)

    def reload(self, following: int) -> None:
        self.at = following
        self.fleet.change_config(self.configs[following], NOW)

    # ------------------------------------------------------------------------------------------------ what must hold
    def settle(self) -> None:
        """Take over what the fleet wants performed, answer the clients, and check what must hold in every state."""
        for action in self.fleet.take_actions():
            if isinstance(action, overlord.Spawn):
                self.spawns += (action.unit,)
            elif isinstance(action, overlord.Test) and action.purpose in ("listen", "wait_for"):
                self.fleet.reach(action.unit, NOW)
            elif isinstance(action, overlord.Exit):
                self.code = action.code
        self.clients = tuple(client for client in self.clients if self.answer(client) is None)
        for unit in self.fleet.units.values():
            status = unit.status
            owning = status.state in (STARTING, RUNNING, OK, STOPPING) and not (status.state == OK and unit.spec.kind == "script")
            check(owning or not status.pid, f"{unit.name} has a pid in {status.state}")
            about = status.state in (STARTING, RUNNING) and unit.name in self.spawns
            check(status.pid or about or not owning, f"{unit.name} has no pid in {status.state}")
            if status.state == WAITING and not self.fleet.ending and not self.fleet.pending:
                check(unit.reason, f"{unit.name} does not say what it waits for")
            if status.state in (BACKOFF, STOPPING):
                killed = status.state == STOPPING and status.deadline is None
                check(status.deadline is not None or killed, f"nothing ends {status.state} of {unit.name}")
            check(not status.stale or status.state in (STARTING, OK, RUNNING), f"{unit.name} is stale in {status.state}")
        if self.fleet.ending or self.code is not None:
            return
        busy = [unit for unit in self.fleet.units.values() if unit.keeps_up() or unit.reach]
        check(busy, "nothing runs and nothing ever can, and it goes on")

    def answer(self, client: Any) -> int | None:
        """Return how a client is answered by now, None where he still waits; the answer must be true."""
        verb, name, starts, pids = client
        if self.fleet.ending:
            return 1
        unit = self.fleet.units.get(name)
        if not unit:
            return 1
        request = SimpleNamespace(add_lines=lambda *words: None, until=None, over=False, code=None, follows=frozenset())

        def end(code: int, lines: Any = ()) -> None:
            check(request.code is None, f"{verb} {name} is answered twice")
            request.code, request.over = code, True

        request.complete, request.fail = end, lambda text, code: end(code)
        control = overlord.Control.__new__(overlord.Control)
        control.fleet, control.requests, control.output = self.fleet, [request], SimpleNamespace(tails={})
        if verb == "stop":
            control.await_down(request, [name], NOW)
        else:
            control.await_up(request, {unit: starts}, NOW)
        if request.code == 0 and verb == "stop":
            check(not unit.status.pid and name not in self.spawns, f"{name} is said to be stopped: {unit.status}")
        elif request.code == 0:
            check(unit.status.state == OK, f"{name} is said to be up: {unit.status}")
            check(not any(self.alive(*pid) for pid in pids), f"{name} is said to be restarted, and its process before lives")
            check(unit.status.starts > starts, f"{name} is said to have run, and has not")
        return request.code


def copy_fleet(fleet: Any) -> Any:
    """Return a fleet with records of its own. COST: by hand, 20 times as fast as `copy.deepcopy`."""
    new = Watched.__new__(Watched)
    new.__dict__.update(fleet.__dict__)
    mine: dict[Unit, Unit] = {}
    for unit in fleet.units.values():
        twin = mine[unit] = Unit.__new__(Unit)
        for slot in SLOTS:
            setattr(twin, slot, getattr(unit, slot))
    for unit, twin in mine.items():
        twin.deps = tuple((mine[dep], how) for dep, how in unit.deps)
        twin.dependents = [mine[each] for each in unit.dependents]
        twin.team = [mine[each] for each in unit.team]
        twin.waits, twin.stuck = unit.waits and mine[unit.waits], unit.stuck and mine.get(unit.stuck)
        twin.waiters = {mine[each]: None for each in unit.waiters}
        twin.ran, twin.story = dict(unit.ran), ()
    new.units = {name: mine[unit] for name, unit in fleet.units.items()}
    new.actions, new.events, new.looks, new.deferred, new.began, new.killed = [], deque(), {}, {}, None, []
    return new


def unit_key(unit: Unit) -> Any:
    """Return what tells one record from another: no instants, pids, words and counts, nor what matters no more, or not here."""
    spec, status = unit.spec, unit.status
    life: tuple[Any, ...] = (status.state, status.pid > 0, status.deadline is not None, status.left)
    if status.pid:
        own = () if status.then == "stop" else (status.up, status.left and status.code == 0)  # it counts how it ends
        life += (status.ready and status.state == STARTING, status.named, status.then, status.stale[:7], *own)
    past = (min(status.respawned, spec.respawns[0]) if spec.respawns else 0, status.delay is not None and spec.instance)
    bounced = any((unit, "bounce") in each.deps for each in unit.dependents)  # by its second OK
    past += (min(status.oks, 2) if bounced else 0,)
    ways = {how for each in unit.dependents for dep, how in each.deps if dep is unit}
    past += ("started" in ways and unit.begun, "ended" in ways and unit.ended)
    by = unit.by if " " not in unit.by or unit.by == overlord.BY_CLOCK else ""  # where no failure ends it all, it is the same
    wish = (unit.wanted, by, unit.queued, unit.tried, unit.succeeded, unit.at, tuple(unit.ran.items()), unit.reach, unit.bound)
    wait = (unit.waits and unit.waits.name, unit.stuck and unit.stuck.name, tuple(each.name for each in unit.waiters))
    down = (unit.leaving, unit.blockers, unit.cleared) if unit.changing or not unit.cleared else ()
    return (spec.cmd, life, past, wish, wait, unit.changing, down)


def last_key(unit: Unit) -> Any:
    """Return what tells one record from another in a shutdown."""
    return unit.status.state, unit.status.pid > 0, unit.status.left, unit.blockers, unit.cleared


# --- the whole graph -------------------------------------------------------------------------------------------------


class Worlds:
    """All states that one configuration can come to."""

    def __init__(self, text: str, others: list[str], clients: int, until: float) -> None:
        self.clients, self.until = clients, until
        configs = [configure(each) for each in (text, *others)]
        fleet = Watched(configs[0], half)
        fleet.want_all(NOW)
        first = State(fleet, configs)
        self.numbers: dict[int, int] = {}
        self.parents = array("l")
        self.moves: list[str] = []
        self.goals: list[frozenset[str]] = []  # of each state, what has still to come to its end
        self.fair: list[tuple[int, ...]] = []  # where one gets from it without any fault
        self.names: dict[str, str] = {}
        self.kinds: dict[frozenset[str], frozenset[str]] = {}
        self.todo: deque[tuple[int, State]] = deque()
        self.broken = ""
        try:
            first.settle()
            self.add(first, -1, "the start")
            self.explore()
            self.check_ends()
        except Broken as error:
            self.broken = str(error)

    def add(self, state: State, parent: int, move: str) -> int:
        """Return the number of a state, a new one if it was not seen before."""
        key = hash(state.key())  # COST: of 64 bits, so that two of a million states share one in 1 of 30 million runs
        number = self.numbers.get(key)
        if number is None:
            number = self.numbers[key] = len(self.parents)
            self.parents.append(parent)
            self.moves.append(self.names.setdefault(move, move))
            left = goals(state)
            self.goals.append(self.kinds.setdefault(left, left))
            self.todo.append((number, state))
        return number

    def explore(self) -> None:
        """Look at each state once. Raises Broken, with the way to what is broken."""
        while self.todo and time.monotonic() < self.until:
            number, state = self.todo.popleft()
            fair = set()
            for move, comes, act in state.moves(self.clients):
                new = state.copy()
                try:
                    act(new)
                    new.settle()
                except (Broken, overlord.Impossible, KeyError, IndexError, AttributeError, TypeError) as error:
                    raise Broken(f"{self.way(number)} {move}: {error!r}") from error
                found = self.add(new, number, move)
                if comes:
                    fair.add(found)
            self.fair.append(tuple(fair))

    def way(self, number: int) -> str:
        """Return the shortest way to a state, in words."""
        words: list[str] = []
        while number >= 0:
            words.insert(0, self.moves[number])
            number = self.parents[number]
        return "; ".join(words) + ";"

    def check_ends(self) -> None:
        """Check that all that has to come to an end can do so without a fault, and without anybody's doing."""
        if self.todo:  # there was no time for all of them
            return
        before: list[list[int]] = [[] for _ in self.fair]
        for number, following in enumerate(self.fair):
            for each in following:
                before[each].append(number)
        for goal in sorted(set().union(*self.goals)):
            good = deque(number for number, left in enumerate(self.goals) if goal not in left)
            seen = set(good)
            while good:
                for number in before[good.popleft()]:
                    if number not in seen:
                        seen.add(number)
                        good.append(number)
            bad = next((number for number in range(len(self.goals)) if number not in seen), None)
            check(bad is None, f"{self.way(bad or 0)} {goal} never comes to an end")


def goals(state: State) -> frozenset[str]:
    """Return what has still to come to its end."""
    fleet, found = state.fleet, []
    if state.code is None and fleet.ending:
        found.append("the shutdown")
    if fleet.pending:
        found.append("the reload")
    found += [f"the answer to {verb} {name}" for verb, name, *_ in state.clients]
    for unit in fleet.units.values() if not fleet.ending else ():
        if unit.status.state == WAITING and not unit.in_vain():
            found.append(f"the waiting of {unit.name}")
        if unit.status.stale:
            found.append(f"the staleness of {unit.name}")
    return frozenset(found)


def others(text: str) -> list[str]:
    """Return the configurations that reloads lead to: the first unit changed; the last removed."""
    sections = text.split("[")[1:]
    changed = "[" + "[".join([sections[0].replace("cmd = x", "cmd = y"), *sections[1:]])
    fewer = "[" + "[".join(sections[:-1]) if len(sections) > 1 else ""
    return [changed, fewer] if fewer else [changed]


def explore(task: tuple[str, str, int, float]) -> tuple[str, int, int, bool, str]:
    """Go through one configuration: its name, how many states and moves, whether that was all of them, and what is broken."""
    name, text, clients, until = task
    worlds = Worlds(text, others(text), clients, time.monotonic() + until)
    return name, len(worlds.parents), sum(map(len, worlds.fair)), not worlds.todo, worlds.broken


def main() -> int:
    """Go through them all, and say how it went."""
    parser = argparse.ArgumentParser(description="Go through every reachable state of small configurations.")
    parser.add_argument("--units", type=int, default=3, choices=(1, 2, 3), help="processes, at most")
    parser.add_argument("--clients", type=int, default=1, help="who wait for an answer at the same time, at most")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=1e9, help="for each configuration, at most")
    parser.add_argument("--plain", action="store_true", help="without the configurations that have options one by one")
    parser.add_argument("--only", default="", help="only configurations whose name this regular expression finds")
    options = parser.parse_args()
    found = [each for count in range(1, options.units + 1) for each in texts(count, count <= 2 and not options.plain)]
    tasks = [(name, text, options.clients, options.seconds) for name, text in found if re.search(options.only, name)]
    began, states, unfinished = time.monotonic(), 0, []
    with multiprocessing.get_context("fork").Pool(options.jobs) as pool:
        for name, count, _, whole, broken in pool.imap(explore, tasks):
            states += count
            unfinished += [] if whole else [name]
            if broken:
                print(f"{name}: {broken}")
                return 1
            print(f"{count:9} states{'' if whole else ' and more'}: {name}", flush=True)
    took = time.monotonic() - began
    more = f"; no time for all of {len(unfinished)} of them" if unfinished else ", all there are"
    print(f"{states} states of {len(tasks)} configurations{more}: all as it must be; {took:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
