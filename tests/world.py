"""A world for the pure rooms: a clock that moves only when told, and a kernel whose processes do their worst.

- `Stage` turns the crank of a real `overlord.Fleet` exactly as `overlord.Loop` does: what arrives is fed in the same
  order, and actions are performed in order, each answered before the next. A test directs it by hand.
- `World` is a stage that plays by itself: configuration, processes, faults, what people do by hand, reloads and requests
  all come from one seed.
- `Watched` is the fleet of both. Around every single event it checks what must hold always; what it compares the fleet
  with is the stage's own knowledge of the processes, wherever that says as much.
"""

from __future__ import annotations

import configparser
import heapq
import itertools
import random
from collections import Counter, deque, namedtuple
from typing import Any, Callable, Iterable, Iterator, Sequence

import overlord
from diagram import edges
from harness import daemon, script
from overlord import BACKOFF, DONE, FAILED, IDLE, MAIN, OK, RUNNING, STARTING, STOPPED, STOPPING, WAITING, Event

KILL, TERM, CHLD = overlord.SIGNALS["KILL"], overlord.SIGNALS["TERM"], overlord.SIGNALS["CHLD"]
EPSILON = 1e-6
ENDED = (STOPPED, DONE, FAILED)
# Of the fleet, by unit.
TABLES = "blocked ran requests serving held tried by_hand coming leaving stories reaching reached notes".split()
# Ways that only a reload goes: a script that is about to start is changed.
RELOADED = {(RUNNING, "stop", WAITING)}

# How a process behaves. `life`: s until it ends by itself, None for never; `code`: as the Loop reports it; `why`: it never
# became its command; `patience`: s from the stop signal to its end, None to ignore it; `farewell`: its code then (None:
# dies of the signal); `grip`: s that even SIGKILL takes; `workers`: what else is in its group.
Temper = namedtuple("Temper", "life code why patience farewell grip workers", defaults=(None, 0, "", 0.0, None, 0.0, ()))
# A member of the group: `life` is counted from the end of the leader.
Worker = namedtuple("Worker", "life patience grip", defaults=(None, 0.0, 0.0))


def configure(text: str = "", command: Iterable[str] = ()) -> overlord.Config:
    """Return the configuration that an INI text and perhaps a main command make, through the real Config room."""
    draft = overlord.Draft({})
    draft.read("overlord.conf", text.encode())
    config = draft.finish()
    if command:
        daemons = [name for name in config.order if config.units[name].kind == "daemon"]
        config.units[MAIN] = overlord.main_spec(command, daemons)
        config.order.append(MAIN)
    return config


def check(condition: Any, text: str) -> None:
    """Fail with the text unless the condition holds."""
    if not condition:
        raise AssertionError(text)


class Member:
    """A fake process of a unit's group: its leader, or a worker."""

    def __init__(self, temper: Temper | Worker) -> None:
        self.temper, self.alive, self.doomed = temper, True, False


class Process(Member):
    """The leader, with its group."""

    def __init__(self, unit: str, pid: int, now: float, temper: Temper) -> None:
        super().__init__(temper)
        self.unit, self.pid, self.started = unit, pid, now
        self.reaped = False
        self.code: int | None = None
        self.spec: Any = None  # the definition that it was started under
        self.asked = False  # overlord has signalled it
        self.said_ready = False
        self.workers = [Member(worker) for worker in temper.workers]

    def group_lives(self) -> bool:
        return any(worker.alive for worker in self.workers)


class Watched(overlord.Fleet):
    """A fleet that has its stage check each event before and after it is applied."""

    stage: Stage | None = None

    def apply(self, name: str, event: Event, now: float) -> None:
        if not self.stage:
            super().apply(name, event, now)
            return
        old, ending = self.status[name], self.ending
        self.stage.before(name, event, old)
        super().apply(name, event, now)
        self.stage.after(name, event, old, self.status[name], ending)

    def adopt(self, config: overlord.Config) -> None:
        super().adopt(config)
        if self.stage:
            self.stage.catch_up()

    def work(self, now: float) -> None:
        super().work(now)
        if self.stage:
            self.stage.check_tables()


class Stage:
    """A fleet, a clock and processes. By default a process lives until told, and dies of the stop signal at once."""

    def __init__(
        self, text: str = "", *command: str, chance: Callable[[], float] = lambda: 0.0, watch: bool = True, boot: bool = True
    ) -> None:
        self.text, self.now = text, 1000.0
        self.config = configure(text, command)
        self.fleet = Watched(self.config, chance)
        self.tempers: dict[str, Temper] = {}
        self.no_fork: set[str] = set()  # units whose fork fails
        self.silent: set[str] = set()  # units whose probes get no answer; those of all others pass at once
        self.tests: list[tuple[str, str]] = []  # unit and purpose
        self.stop_commands: list[str] = []
        self.for_whom: str | None = None  # runs the script that something happens to
        self.processes: dict[int, Process] = {}  # not reaped, or with a living group
        self.orphans: list[Member] = []  # what has left its unit's group
        self.current: dict[str, Process] = {}  # unit -> its last process
        self.dead: list[Process] = []  # not reaped
        self.present: Counter[str] = Counter()  # how many of `processes` a unit has
        self.groups: dict[int, Process] = {}
        self.agenda: list[tuple[float, int, Callable[[], None]]] = []
        self.serial = itertools.count(100)
        self.arrived: deque[int] = deque()
        self.code: int | None = None
        self.why = ""
        self.starts: list[str] = []
        self.kills: list[tuple[float, str, int, bool]] = []
        self.sweeps: list[tuple[float, int]] = []
        self.said: list[tuple[str, str, str]] = []
        self.trace: deque[str] = deque(maxlen=60)
        self.ended_at = self.exited_at = 0.0
        self.requested = 0
        self.by_request = False
        self.again: list[float] = []  # further requests
        # What the checks remember, apart from what the fleet does.
        self.clock = 0  # counts events
        self.waiting_since: dict[str, int] = {}
        self.run_began: dict[str, int] = {}
        self.runs: dict[str, list[int]] = {}  # script -> when its successful runs began that no dependent has used up
        self.succeeded: set[str] = set()
        self.ok_at: dict[str, int] = {}
        self.launched_at: dict[str, int] = {}
        self.respawns: dict[str, list[float]] = {}
        self.seen: Counter[tuple[str, str, str]] = Counter()
        self.failures: list[tuple[int, bool]] = []  # codes of units that failed for good, and whether for one dependent
        self.cause: int | None = None  # the code that the shutdown should lead to, where a unit caused it
        self.levels: dict[str, int] = {}
        self.command = command
        self.specs = dict(self.config.units)  # as the fleet had them when it was last looked at
        self.stopped: set[str] = set()  # for a reload, when it was last looked at: all that comes back begins anew
        self.needs = {name: spec.deps for name, spec in self.config.units.items()}  # what is in force, all of it
        self.closure = self.find_closure() if watch else {}
        self.reloads = 0
        self.meddled = False  # somebody did something by hand, or reloaded
        self.touched: set[str] = set()  # started by hand at some time: its end may be nobody's
        self.held_down: set[str] = set()  # stopped by hand, and not asked for since
        self.bound_late: set[tuple[str, str]] = set()  # dependencies that came while both ran
        if watch:
            self.fleet.stage = self
        if boot:
            self.boot()

    def find_closure(self) -> dict[str, set[str]]:
        """Return for each unit all that depend on it, directly or not; in a reload, by the definition it runs under."""
        above: dict[str, set[str]] = {name: set() for name in self.fleet.order}
        for name in reversed(self.fleet.order):
            for dep, _ in self.needs[name]:
                above[dep] |= {name} | above[name]
        return above

    # ------------------------------------------------------------------------------------------------- directing

    def boot(self) -> None:
        self.fleet.boot(self.now)
        self.perform()
        self.settle()

    def state(self, name: str) -> str:
        return str(self.fleet.status[name].state)

    def states(self, *names: str) -> list[str]:
        return [self.state(name) for name in names or self.config.order]

    def living(self) -> list[str]:
        """Return the units that have a process."""
        return [p.unit for p in self.processes.values() if p.alive]

    def text_of(self, name: str) -> list[str]:
        """Return what was said about a unit."""
        return [text for _, unit, text in self.said if unit == name]

    def die(self, name: str, code: int = 0, why: str = "") -> None:
        """Let a unit's process end; `settle` tells the fleet."""
        self.end(self.current[name], code, why)

    def exit(self, name: str, code: int = 0, why: str = "") -> None:
        """Let a unit's process end, and all follow that does so at once."""
        self.die(name, code, why)
        self.settle()

    def end_workers(self, name: str) -> None:
        """Let what a unit's process has left behind end."""
        for worker in self.current[name].workers:
            worker.alive = False
        self.settle()

    def tell(self, name: str, kind: str = "ready", why: str = "") -> None:
        """A probe has passed, or a daemon has said so (`ready`), or is found to be `unwell`."""
        self.feed(name, Event(kind, why=why))
        self.perform()
        self.settle()

    def reach(self, name: str) -> None:
        """What a unit waits for outside is there."""
        self.fleet.reach(name, self.now)
        self.perform()
        self.settle()

    def strike(self, name: str) -> None:
        """It is time for a scheduled run."""
        self.fleet.run_by_clock(name, self.now)
        self.perform()
        self.settle()

    def request(self, number: int = TERM) -> None:
        """Ask for shutdown by a signal."""
        self.arrived.append(number)
        self.settle()

    def advance(self, seconds: float) -> None:
        """Let time pass, and all happen in it that is due."""
        until = self.now + seconds
        while self.code is None:
            instant = self.next_instant()
            if instant is None or instant > until:
                break
            self.now = max(self.now, instant)
            self.settle()
        self.now = max(self.now, until) if self.code is None else self.now

    def start(self, *names: str) -> list[str]:
        """A person starts units."""
        self.meddled = True
        found = self.fleet.start(names, self.now)
        self.touched |= set(found)
        self.held_down -= set(found)
        self.perform()
        self.settle()
        return found

    def stop(self, *names: str) -> None:
        """A person stops units."""
        self.meddled = True
        for name in names:
            if overlord.lives(self.fleet.status[name]) or self.state(name) in (WAITING, BACKOFF):
                self.held_down.add(name)
        self.fleet.stop(names, self.now)
        self.perform()
        self.settle()

    def restart(self, *names: str) -> None:
        """A person restarts units."""
        self.meddled = True
        found, todo = set(), list(names)
        while todo:
            name = todo.pop()
            todo += [dep for dep, _ in self.fleet.units[name].deps if dep not in found]
            found.add(name)
        self.touched |= found
        self.held_down -= found
        self.fleet.restart(names, self.now)
        self.perform()
        self.settle()

    def reload(self, text: str) -> dict[str, str]:
        """Take over another configuration, as `Control.do_reload` does; return what happens to which unit."""
        before = dict(self.fleet.units)
        self.reloads += 1
        self.meddled = True
        self.text, self.config = text, configure(text, self.command)
        for name, spec in self.config.units.items():
            old = before.get(name)
            if old and old.deps != spec.deps:
                self.bound_late |= {(name, dep) for dep, _ in spec.deps}
            if old and old.respawns != spec.respawns:
                self.respawns.pop(name, None)
        news = self.fleet.reload(self.config, self.now)
        self.catch_up()
        self.perform()
        self.settle()
        return news

    def at(self, delay: float, action: Callable[[], None]) -> None:
        """Have something happen later."""
        heapq.heappush(self.agenda, (self.now + delay, next(self.serial), action))

    def next_instant(self) -> float | None:
        """Return when something is due."""
        instants = [self.agenda[0][0]] if self.agenda else []
        deadline = self.fleet.next_deadline()
        instants += [] if deadline is None else [deadline]
        if self.groups or self.fleet.sweeping:
            instants.append(self.now + overlord.LINGER_LOOK)
        return min(instants) if instants else None

    # -------------------------------------------------------------------------------------------- the Loop's part

    def settle(self) -> None:
        """Turn until nothing more happens at this instant."""
        for _ in range(10 * len(self.config.order) + 100):
            self.turn()
            deadline = self.fleet.next_deadline()
            due = bool(self.agenda) and self.agenda[0][0] <= self.now
            if self.code is not None or not (self.dead or due or (deadline is not None and deadline <= self.now)):
                return
        raise AssertionError("it comes to no rest at one instant")

    def turn(self) -> None:
        """One turn of the Loop: signals, deaths, groups, timers, actions."""
        while self.agenda and self.agenda[0][0] <= self.now:
            heapq.heappop(self.agenda)[2]()
        while self.arrived:
            number = self.arrived.popleft()
            self.requested += 1
            self.note(f"request {self.requested}")
            if not self.fleet.ending:
                self.begin_ending(None)
                self.by_request = True
            else:
                self.again.append(self.now)
            self.fleet.ask_shutdown(f"{overlord.spell_signal(number)} received", self.now, number)
        dead, self.dead = self.dead, []
        for process in dead:
            self.reap(process)
        for pid, process in list(self.groups.items()):
            if not process.group_lives():
                del self.groups[pid]
                self.forget(process)
                self.feed(process.unit, Event("emptied"))
        self.fleet.expire(self.now)
        self.perform()
        if self.fleet.sweeping and self.code is None and self.alone():
            self.fleet.swept()
            self.perform()

    def feed(self, name: str, event: Event) -> None:
        self.fleet.feed(name, event, self.now)

    def reap(self, process: Process) -> None:
        process.reaped = True
        left = process.unit != MAIN and process.group_lives()
        if left:
            self.groups[process.pid] = process
        else:
            self.orphans += process.workers
            self.forget(process)
        why = process.temper.why if not process.asked else ""
        self.feed(process.unit, Event("exited", process.code, why=why, left=left))

    def forget(self, process: Process) -> None:
        """Nothing of it lives any more."""
        del self.processes[process.pid]
        self.present[process.unit] -= 1

    def alone(self) -> bool:
        return not self.processes and not any(orphan.alive for orphan in self.orphans)

    def perform(self) -> None:
        """Perform actions in order, each with what follows from it."""
        if self.fleet.ending and not self.ended_at:  # it ran dry, which is no unit's event
            self.begin_ending(None)
        actions = deque(self.fleet.take())
        while actions:
            action = actions.popleft()
            if isinstance(action, overlord.Say):
                self.said.append((action.level, action.unit, action.text))
                self.note(f"{action.unit}: {action.text}")
            elif isinstance(action, overlord.Spawn):
                self.spawn(action.unit)
            elif isinstance(action, overlord.Kill):
                self.kill(action)
            elif isinstance(action, overlord.Sweep):
                self.sweep(action.signum)
            elif isinstance(action, overlord.Forget):
                check(not self.present[action.unit], f"{action.unit} is forgotten while its process lives")
                self.note(f"{action.unit}: forgotten")
            elif isinstance(action, overlord.Test):
                self.note(f"{action.unit}: test {action.purpose}")
                self.tests.append((action.unit, action.purpose))
                self.test(action.unit, action.purpose)
            elif isinstance(action, overlord.StopCommand):
                self.stop_by_command(action)
            elif isinstance(action, (overlord.Changed, overlord.Replan)):
                pass  # the Loop's affair
            else:
                check(self.code is None, "a second Exit")
                self.code, self.why, self.exited_at = action.code, action.why, self.now
            actions.extend(self.fleet.take())

    def spawn(self, name: str) -> None:
        """As Loop.spawn."""
        status = self.fleet.status.get(name)
        if not status or status.state not in (STARTING, RUNNING) or status.pid:
            return
        check(not self.fleet.ending, f"{name} is started although the shutdown has begun")
        check(not self.present[name], f"{name} is started while its process before lives")
        if self.fork_fails(name):
            self.feed(name, Event("unspawned", True, why="fork: Resource temporarily unavailable"))
            return
        process = Process(name, next(self.serial), self.now, self.temper(name))
        process.spec = self.fleet.units[name]
        self.processes[process.pid] = self.current[name] = process
        self.present[name] += 1
        self.starts.append(name)
        if process.temper.life is not None:
            self.at(process.temper.life, lambda: self.end(process, process.temper.code))
        self.feed(name, Event("spawned", process.pid))

    def fork_fails(self, name: str) -> bool:
        return name in self.no_fork

    def temper(self, name: str) -> Temper:
        return self.tempers.get(name, Temper())

    def kill(self, action: overlord.Kill) -> None:
        """As Loop.kill, and what the processes make of it."""
        process = self.processes.get(action.pid)
        check(not process or process.unit == action.unit, f"{action} is for another unit's process")
        self.note(f"{action.unit}: {overlord.spell_signal(action.signum)} to {'group' if action.group else 'leader'}")
        self.kills.append((self.now, action.unit, action.signum, action.group))
        if process:
            process.asked = True
            targets = [*([] if process.reaped else [process]), *(process.workers if action.group else ())]
            for target in targets:
                self.signal(target, action.signum)

    def test(self, name: str, purpose: str) -> None:
        """Begin to probe, as `overlord.Prober` does."""
        if name not in self.silent and purpose != "health":
            self.probe(name, purpose, 0.0)

    def probe(self, name: str, purpose: str, delay: float) -> None:
        """Have a probe pass (or for `health`, fail once too often) later, unless it is nobody's affair by then."""

        def key() -> Any:
            status = self.fleet.status.get(name, overlord.Status())
            return (status.state, status.pid, status.since if purpose == "wait_for" else 0.0)

        def end() -> None:
            if self.fleet.ending or key() != began or began[0] != state:
                return
            if purpose == "wait_for":
                self.fleet.reach(name, self.now)
            elif purpose == "ready":
                self.feed(name, Event("ready"))
            else:
                self.feed(name, Event("unwell", why="unhealthy: no answer"))

        began, state = key(), {"ready": STARTING, "health": OK, "wait_for": WAITING}[purpose]
        self.at(delay, end)

    def stop_by_command(self, action: overlord.StopCommand) -> None:
        """The command of a unit asks its process to end."""
        process = self.processes.get(action.pid)
        check(not process or process.unit == action.unit, f"{action} is for another unit's process")
        check(self.fleet.units[action.unit].stop_cmd, f"{action.unit} has no stop_cmd")
        self.stop_commands.append(action.unit)
        if process:
            process.asked = True
            self.signal(process, TERM)

    def sweep(self, signum: int) -> None:
        self.note(f"sweep {overlord.spell_signal(signum)}")
        self.sweeps.append((self.now, signum))
        for process in list(self.processes.values()):
            for target in [process, *process.workers]:
                self.signal(target, signum)
        for orphan in self.orphans:
            self.signal(orphan, signum)

    def signal(self, target: Member, signum: int) -> None:
        """Have a signal act on a process."""
        delay = target.temper.grip if signum == KILL else target.temper.patience
        if not target.alive or delay is None or (target.doomed and signum != KILL):
            return
        target.doomed = True
        if isinstance(target, Process):
            farewell = target.temper.farewell
            code = -signum if signum == KILL or farewell is None else farewell
            action: Callable[[], None] = lambda: self.end(target, code)  # noqa: E731
        else:
            action = lambda: setattr(target, "alive", False)  # noqa: E731
        if delay:
            self.at(delay, action)
        else:
            action()

    def end(self, process: Process, code: int, why: str = "") -> None:
        """A leader ends; its workers may go with it, or later, or stay."""
        if not process.alive:
            return
        process.alive, process.code = False, code
        self.dead.append(process)
        if why:
            process.temper = process.temper._replace(why=why)
        for worker in process.workers:
            if worker.temper.life == 0:
                worker.alive = False
            elif worker.temper.life is not None:
                self.at(worker.temper.life, lambda worker=worker: setattr(worker, "alive", False))

    # --------------------------------------------------------------------------------------------- what must hold

    def note(self, text: str) -> None:
        self.trace.append(f"{self.now - 1000:10.3f}  {text}")

    def before(self, name: str, event: Event, old: overlord.Status) -> None:
        """Check what must hold before an event is applied to a unit."""
        fleet = self.fleet
        self.clock += 1
        self.for_whom = fleet.serving.get(name)
        spec = fleet.units[name]
        if event.kind == "ready" and old.state == STARTING and old.pid:
            self.current[name].said_ready = True
        if spec.instance and event.kind == "stop" and (event.why.startswith("max_age") or event.why == "restart by hand"):
            team = [other for other in fleet.teams[name.rpartition("-")[0]] if other != name]
            moving = [other for other in team if fleet.status[other].state in (WAITING, STARTING, STOPPING, BACKOFF)]
            check(not moving, f"{name} is restarted ({event.why}) while {moving} are not up")
        check(event.kind != "deadline" or old.state != OK or not spec.instance, f"{name}: max_age without its turn")
        if event.kind == "deadline":
            check(old.deadline is not None and old.deadline <= self.now, f"{name}: a stale timer fires in {old}")
        elif event.kind == "start":
            check(not fleet.ending, f"{name} starts although the shutdown has begun")
            check(not self.present[name], f"{name} starts while its process before lives")
            check(fleet.units[name] == self.config.units.get(name), f"{name} starts under a definition that is gone")
            for dep, how in self.config.units[name].deps:
                check(self.is_met(name, dep, how), f"{name} starts and {dep}:{how} is not there, {fleet.status[dep]}")
                check(dep not in fleet.leaving, f"{name} starts before {dep}, which it needs, has been changed")
        elif event.kind == "stop" and event.why == "reload":
            above = self.closure[name].intersection(fleet.leaving)
            alive = [p.unit for p in self.processes.values() if p.unit in above]
            check(not alive or not old.pid or old.state == STOPPING, f"{name} is stopped before {alive}, which need it")
        elif event.kind == "stop" and fleet.ending:
            alive = [p.unit for p in self.processes.values() if p.unit in self.closure[name] and (p.alive or not p.reaped)]
            check(not alive or not old.pid or old.state == STOPPING, f"{name} is stopped before {alive}, which need it")

    def is_met(self, name: str, dep: str, how: str) -> bool:
        """Tell from what happened to the processes whether a dependency is there."""
        spec, status = self.fleet.units[dep], self.fleet.status[dep]
        if how == "up":
            return status.state in (OK, IDLE, STOPPED, DONE, FAILED)
        if how == "always":  # a run of its own, begun after this start was
            # Where it was stopped and asked for again meanwhile, the run that its start before had asked for will do.
            since = self.launched_at.get(name, 0) if self.meddled else self.waiting_since[name]
            fresh = [began for began in self.runs.get(dep, ()) if began > since]
            if fresh:
                self.runs[dep].remove(fresh[0])
            return bool(fresh)
        if spec.kind == "script":
            return dep in self.succeeded
        process = self.current.get(dep)
        up = process and not process.reaped and self.is_up(process)
        return bool(up) and status.state == OK

    def is_up(self, process: Process) -> bool:
        """Tell whether a process has lived through its warm-up, and has said that it is ready where it has to."""
        ready = process.said_ready or not process.spec.ready
        return bool(ready) and process.started + process.spec.warmup <= self.now + EPSILON

    def after(self, name: str, event: Event, old: overlord.Status, new: overlord.Status, ending: Any) -> None:
        """Check what must hold after an event was applied, and remember what happened."""
        fleet, spec = self.fleet, self.fleet.units[name]
        self.note(f"{name}: {old.state} --{event.kind}--> {new.state} ({new.why})")
        edge = (old.state, event.kind, new.state)
        self.seen[edge] += 1
        check(old.state == new.state or edge in edges() or edge in RELOADED, f"{name}: no way goes from {edge}")
        check(fleet.busy == sum(map(overlord.busy, fleet.status.values())), "the count of busy units is wrong")
        owning = new.state in (STARTING, RUNNING, OK, STOPPING) and not (new.state == OK and spec.kind == "script")
        check(owning or not new.pid, f"{name}: a pid in {new}")
        check(new.pid or new.state not in (OK, STOPPING) or not owning, f"{name}: no pid in {new}")
        check(new.deadline is None or new.state not in (IDLE, *ENDED), f"{name}: a deadline in {new}")
        check(not new.left or new.state == STOPPING, f"{name}: left in {new}")
        if old.state != new.state:
            self.remember(name, spec, event, old, new)
        if event.kind in ("exited", "emptied") and new.state == BACKOFF:
            self.count_respawn(name, spec)
        if new.state == BACKOFF and old.state != BACKOFF:
            high = max(spec.backoff[1] * 1.1, overlord.FORK_DELAY if event.kind == "unspawned" else 0)
            check(self.now <= new.deadline <= self.now + high + EPSILON, f"{name}: a back-off out of bounds in {new}")
        if event.kind == "unwell" and old.state == OK:
            check(new.state == STOPPING and new.then == "fail", f"{name} is unwell, and {new}")
        if fleet.ending and not ending:
            check(self.for_whom != overlord.BY_CLOCK, f"a scheduled run of {name} ends the container")
            self.begin_ending(self.code_of(name, event, new))
        if event.kind == "stop" and new.state == STOPPING and fleet.ending:
            left = max(0.0, fleet.ending.units_end - self.now)
            share = left / max(1, self.levels[name])
            check(new.deadline is None or new.deadline <= self.now + share + EPSILON, f"{name} has more than its share: {new}")

    def catch_up(self) -> None:
        """Note which units are others by now: a reload removed them, changed their kind, or gave them new dependencies."""
        units, leaving = self.fleet.units, self.fleet.leaving
        for name, old in list(self.specs.items()):
            if name not in units or units[name].kind != old.kind:
                for known in (self.runs, self.respawns, self.ok_at, self.launched_at, self.waiting_since, self.run_began):
                    known.pop(name, None)
                for names in (self.succeeded, self.held_down, self.touched):
                    names.discard(name)
            elif name in self.stopped or any(getattr(old, key) != getattr(units[name], key) for key in overlord.SHAPING):
                self.respawns.pop(name, None)
        self.specs, self.stopped = dict(units), set(leaving)
        self.needs = {name: self.needs[name] if name in leaving and name in self.needs else units[name].deps for name in units}
        self.closure = self.find_closure()

    def check_tables(self) -> None:
        """Check, when all that follows from something has been worked off, that the tables fit one another.

        COST: this is most of a world's time, so no text is made unless something is wrong.
        """
        fleet = self.fleet
        units, status = fleet.units, fleet.status
        check(units.keys() == status.keys() == set(fleet.order), "units, their states and their order differ")
        check(len(fleet.order) == len(units), "a unit stands twice in the order")
        for table in TABLES:
            if getattr(fleet, table) and not units.keys() >= set(getattr(fleet, table)):
                raise AssertionError(f"{table} holds {set(getattr(fleet, table)) - set(units)}, which are no units")
        timers, count, met = set(fleet.timers), 0, set()
        for name in fleet.order:
            spec, each = units[name], status[name]
            met.add(name)
            for dep, _ in spec.deps:
                if dep not in met:
                    raise AssertionError(f"{name} depends on {dep}, which is no more, or stands behind it in the order")
            if each.deadline is not None and (each.deadline, name) not in timers:
                raise AssertionError(f"{name} has no timer for {each}")
            if name in fleet.blocked and (each.state != WAITING or fleet.blocked[name] >= len(spec.deps)):
                raise AssertionError(f"{name} is blocked at {fleet.blocked[name]} in {each}")
            at_work = each.state in (WAITING, RUNNING, BACKOFF) and spec.kind == "script"
            if not fleet.ending and at_work and name not in fleet.serving:
                raise AssertionError(f"{name} runs for nobody: {each}")
            if not fleet.ending and name in fleet.serving and not at_work and (spec.kind, each.state) != ("script", STOPPING):
                raise AssertionError(f"the {spec.kind} {name} is said to run: {each}")
            count += overlord.busy(each)
        check(fleet.busy == count, "the count of busy units is wrong")

    def remember(self, name: str, spec: Any, event: Event, old: overlord.Status, new: overlord.Status) -> None:
        """Note what later checks need."""
        if new.state == WAITING:
            self.waiting_since[name] = self.clock
        elif new.state in (STARTING, RUNNING):
            self.run_began[name] = self.launched_at[name] = self.clock
        elif new.state == OK and spec.kind == "script":
            process = self.current[name]
            check(process.reaped and process.code in spec.success, f"{name} is ok and was not: {new}")
            if self.for_whom == overlord.BY_CLOCK:  # which changes no `ok`, and is for no start
                check(fleet_oks(self.fleet, name) == old.oks, f"a scheduled run of {name} counts as ok")
                return
            self.succeeded.add(name)
            self.runs.setdefault(name, []).append(self.run_began[name])
        elif new.state == OK:
            process = self.current[name]
            check(not process.reaped and self.is_up(process), f"{name} is ok and was not: {new}")
            self.ok_at[name] = self.clock
        elif new.state == FAILED:
            maybe = bool(self.dependents_always(name)) or name in self.touched or self.reloads > 0
            maybe = maybe or self.for_whom == overlord.BY_CLOCK
            self.failures.append((self.code_of(name, event, new), maybe))

    def dependents_always(self, name: str) -> list[str]:
        return [other for other, spec in self.fleet.units.items() if (name, "always") in spec.deps]

    def count_respawn(self, name: str, spec: Any) -> None:
        """Check `respawns` with a count of one's own."""
        instants = self.respawns.setdefault(name, [])
        instants.append(self.now)
        if spec.respawns is not None:
            count, window = spec.respawns
            recent = [instant for instant in instants if not window or instant > self.now - window]
            check(len(recent) <= count, f"{name} is restarted more often than {spec.respawns}")

    def code_of(self, name: str, event: Event, new: overlord.Status) -> int:
        """Return the exit code that a unit's end stands for."""
        if new.state != FAILED:
            return 0
        code = self.current[name].code if name in self.current else None
        return 1 if event.kind == "unspawned" or not code else code if code > 0 else 128 - code

    def begin_ending(self, cause: int | None) -> None:
        """Note how it stood when the shutdown began."""
        self.cause, self.ended_at = cause, self.now
        for name in self.fleet.order:
            below = max((self.levels[dep] for dep, _ in self.fleet.units[name].deps), default=0)
            self.levels[name] = below + overlord.lives(self.fleet.status[name])

    def check_exit(self, slack: float = 0.2) -> None:
        """Check the end: its code by the precedence of the specification, and that it came in time."""
        check(self.code is not None, "there was no exit")
        total = self.config.settings.shutdown_timeout
        kills = [*((kill[0], kill[2]) for kill in self.kills), *self.sweeps]
        last = max((at for at, signum in kills if signum == KILL and at not in self.again), default=0.0)
        check(last <= self.ended_at + total + slack, f"a SIGKILL {last - self.ended_at:.2f} s after the request, not {total}")
        took = self.exited_at - self.ended_at
        reaping = (1 + len(self.again)) * overlord.SWEEP_TIMEOUT / 2
        check(took <= total + reaping + slack, f"the shutdown took {took:.2f} s, not {total}")
        main = self.current.get(MAIN)
        if main and main.reaped:
            wanted = {main.code if main.code >= 0 else 128 - main.code}
        elif self.cause is not None:
            wanted = {self.cause}
        elif self.by_request:
            wanted = {0}
        else:  # that of the first that failed; a run for one dependent only is that one's affair
            first = next((at for at, (_, always) in enumerate(self.failures) if not always), None)
            wanted = {code for code, _ in self.failures[: None if first is None else first + 1]}
            wanted |= {0} if first is None else set()
        check(self.code in wanted, f"exit code {self.code}, not {wanted}")

    def check_rest(self) -> None:
        """Check that nothing was forgotten, once nothing happens any more."""
        fleet, units = self.fleet, self.config.units
        check(not fleet.leaving, f"{list(fleet.leaving)} are still to be changed")
        check(fleet.units == units, "the definitions are not those of the last reload")
        for queue in fleet.turns.values():
            late = [name for name in queue if name in fleet.status and fleet.status[name].state == OK]
            check(not late, f"it is never the turn of {late} to be restarted")
        check(not fleet.reaching, f"{fleet.reaching} have not been told that what they wait for is there")
        for name, status in fleet.status.items():
            spec, state = units[name], status.state
            moving = state in (STARTING, STOPPING, BACKOFF) or (state == RUNNING and name != MAIN)
            check(not moving, f"{name} comes to no rest: {status}")
            if state == IDLE and spec.kind != "script":
                check(not spec.autostart, f"{name} was never started")
            if state == STOPPED and spec.kind != "script":
                check(name in self.held_down, f"{name} is stopped, and nobody asked for that")
            if name in self.held_down and spec.kind != "script":
                check(state in (STOPPED, DONE, FAILED), f"{name} was stopped by hand, and is {state}")
            if state == WAITING:
                hopeless = [dep for dep, how in spec.deps if self.is_hopeless(dep, how)]
                check(hopeless, f"{name} waits for nothing: {status} {fleet.held} {fleet.blocked.get(name)}")
            if state == OK and spec.kind == "daemon":
                check(name not in fleet.held, f"{name} is still to be restarted")
                for dep, how in spec.deps:
                    late = (name, dep) in self.bound_late
                    fresh = how != "bounce" or late or self.ok_at.get(dep, 0) < self.launched_at[name]
                    check(fresh or fleet.status[dep].state != OK, f"{name} was not restarted after {dep} was")

    def is_hopeless(self, dep: str, how: str) -> bool:
        """Tell whether a dependency will never be met."""
        state = self.fleet.status[dep].state
        if self.config.units[dep].kind == "daemon":
            return state == WAITING or (how != "up" and state in ENDED)
        return state == WAITING or (how == OK and state in (FAILED, STOPPED) and dep not in self.succeeded)


def fleet_oks(fleet: overlord.Fleet, name: str) -> int:
    """Return how often a unit got OK, as dependents see it."""
    return int(fleet.status[name].oks)


class World(Stage):
    """A stage on which everything happens by chance, out of one seed."""

    def __init__(self, seed: int, text: str | None = None, command: Sequence[str] | None = None) -> None:
        self.seed = seed
        self.random = rng = random.Random(seed)
        main = command if command is not None else ["main"] if rng.random() < 0.3 else []
        self.calm_at = 1000.0 + rng.choice((0, 1, 5, 20, 60))
        self.rest_at = self.calm_at + 600.0
        self.fork_trouble = rng.choice((0.0, 0.0, 0.05, 0.3))
        self.lateness = rng.choice((0.0, 0.1, 0.5))
        self.pausing = rng.choice((0.0, 0.0, 0.01))
        self.nasty = rng.random()
        self.busiest = 0
        super().__init__(text if text is not None else random_text(rng), *main, chance=lambda: self.random.random(), boot=False)
        if rng.random() < 0.5:
            self.at(rng.choice((0.0, rng.uniform(0, 5), rng.uniform(0, 60))), lambda: self.arrived.append(TERM))
            if rng.random() < 0.3:
                self.at(rng.uniform(0, 60), lambda: self.arrived.append(TERM))
        self.texts = [self.text]
        for _ in range(rng.choice((0, 0, 1, 3, 10))):
            deed = rng.choice((self.start, self.stop, self.stop, self.restart))
            self.at(self.moment(), lambda deed=deed: self.by_hand(deed))
        for _ in range(rng.choice((0, 0, 2, 10))):
            self.at(self.moment(), self.strike_one)
        for _ in range(rng.choice((0, 0, 5))):
            self.at(self.moment(), self.chatter)
        self.mutations = rng.choice((0, 0, 1, 2, 6))
        for _ in range(self.mutations):
            self.at(self.moment(), self.mutate)

    def moment(self) -> float:
        """Return when somebody does something: any time, and often soon after something else."""
        return self.random.choice((0.0, self.random.uniform(0, 3), 1.0, self.random.uniform(0, 80)))

    def by_hand(self, deed: Callable[..., Any]) -> None:
        """Somebody starts, stops or restarts some units."""
        names = [name for name in self.fleet.order if name != MAIN]
        if names and not self.fleet.ending:
            chosen = self.random.sample(names, self.random.randint(1, min(3, len(names))))
            self.note(f"by hand: {deed.__name__} {' '.join(chosen)}")
            deed(*chosen)

    def strike_one(self) -> None:
        """It is time for a scheduled run."""
        names = [name for name in self.fleet.order if self.fleet.units[name].schedule]
        if names:
            name = self.random.choice(names)
            self.note(f"by the clock: {name}")
            self.strike(name)

    def chatter(self) -> None:
        """A daemon says that it is ready, whenever it likes: sd_notify(3) may come at any time."""
        names = [name for name in self.fleet.order if self.fleet.units[name].ready]
        if names:
            self.tell(self.random.choice(names))

    def test(self, name: str, purpose: str) -> None:
        """Probe: sooner or later it passes, and before the world is calm perhaps never; health may be lost."""
        rng = self.random
        if purpose == "wait_for":
            self.probe(name, purpose, rng.choice((0.0, rng.uniform(0, 5), rng.uniform(0, 30))))
        elif self.calm:
            if purpose == "ready":
                self.probe(name, purpose, rng.uniform(0, 0.4))
        elif rng.random() < 0.8 - 0.6 * self.nasty * (purpose == "health"):
            if purpose == "ready":
                self.probe(name, purpose, rng.choice((0.0, rng.uniform(0, 1), rng.uniform(0, 6))))
        elif purpose == "health":
            self.probe(name, purpose, rng.expovariate(1 / 5))

    def mutate(self) -> None:
        """Somebody changes the configuration, or goes back to one of before, and reloads."""
        if not self.fleet.ending:
            back = self.random.random() < 0.2
            text = self.random.choice(self.texts) if back else mutate_text(self.random, self.random.choice(self.texts[-2:]))
            self.texts.append(text)
            self.note(f"reload:\n{text}")
            self.note(f"reloaded: {self.reload(text)}")

    def settle(self) -> None:
        """The world turns by itself."""

    def play(self) -> World:
        """Play to the end. Raises AssertionError with the seed, the configuration and the last events."""
        try:
            self.play_on()
        except Exception as error:
            tail = "\n".join(self.trace)
            raise AssertionError(f"{error!r}\nin World({self.seed}) of\n{self.texts[0]}\n{tail}") from error
        return self

    def play_on(self) -> None:
        fed = self.clock
        self.fleet.boot(self.now)
        self.perform()
        asked = False
        for _ in range(200_000):
            self.busiest = max(self.busiest, self.clock - fed)
            check(self.clock - fed < 200 * len(self.config.order) + 200, "too much happens at one instant")
            fed = self.clock
            if self.code is not None:
                break
            if self.now >= self.rest_at and not asked:
                asked = True
                if not self.fleet.ending and not any(spec.max_age for spec in self.config.units.values()):
                    self.check_rest()
                self.arrived.append(TERM)
                if self.random.random() < 0.2:
                    self.at(self.random.uniform(0, 3), lambda: self.arrived.append(TERM))
                self.turn()
                continue
            self.wait()
            self.turn()
        else:
            raise AssertionError("it never ends")
        self.check_exit(0.2 if self.lateness else EPSILON)

    def wait(self) -> None:
        """Let time pass up to what comes next, or a bit longer, or stand still as in `docker pause`."""
        rng, before = self.random, self.now
        if self.arrived or self.dead:
            return
        instant = self.next_instant()
        instant = self.rest_at if instant is None or (before < self.rest_at < instant) else instant
        self.now = max(before, instant)
        if rng.random() < self.lateness:
            self.now += rng.uniform(0, 0.03)
        elif rng.random() < self.pausing and self.fleet.next_deadline() is not None:
            gap = rng.uniform(1.1, 100.0)
            self.agenda = [(at + gap, serial, action) for at, serial, action in self.agenda]
            self.now += gap
            self.rest_at += gap
            self.ended_at += gap if self.fleet.ending else 0.0
            self.fleet.shift(gap)
            self.note(f"paused for {gap:.3f} s")

    @property
    def calm(self) -> bool:
        return self.now >= self.calm_at

    def fork_fails(self, name: str) -> bool:
        return not self.calm and self.random.random() < self.fork_trouble

    def temper(self, name: str) -> Temper:
        """Return how the next process of a unit will behave."""
        rng, spec = self.random, self.fleet.units[name]
        workers = ()
        if rng.random() < 0.3 * self.nasty:
            workers = tuple(self.worker() for _ in range(rng.randint(1, 2)))
        patience = self.patience()
        farewell = rng.choice((None, 0, 0, 3))
        grip = rng.choice((0.0,) * 30 + (rng.uniform(0, 30),))
        base = Temper(patience=patience, farewell=farewell, grip=grip, workers=workers)
        code = rng.choice((0, 0, 1, 2, 7, -9, -15))
        if self.calm:
            done = name == MAIN or spec.kind == "daemon"
            return base if done else base._replace(life=rng.uniform(0.01, 1), code=spec.success[0])
        chance = rng.random()
        if chance < 0.05:
            return base._replace(life=0.001, code=rng.choice((1, 126, 127)), why="cmd: not found", workers=())
        if spec.kind == "script":
            if spec.timeout and chance < 0.2 and not self.mutations:  # which may take the timeout away
                return base
            return base._replace(life=rng.expovariate(1.0) + 0.001, code=spec.success[0] if chance < 0.7 else code)
        if chance < 0.1:
            return base._replace(life=0.001, code=code)
        if chance < 0.1 + 0.5 * self.nasty and name != MAIN:
            return base._replace(life=rng.expovariate(1 / 3), code=code)
        if name == MAIN and chance < 0.6:
            return base
        return base._replace(life=rng.expovariate(1 / 60), code=code)

    def worker(self) -> Worker:
        rng = self.random
        return Worker(life=rng.choice((0, 0.0, rng.expovariate(1.0), None)), patience=self.patience())

    def patience(self) -> float | None:
        rng = self.random
        return rng.choice((0.0, 0.0, rng.expovariate(20), rng.expovariate(20), rng.uniform(0, 12), None))


def random_text(rng: random.Random) -> str:
    """Return a configuration by chance: any graph, any option that shapes a unit's life."""
    count = rng.choice((1, 2, 3, 4, 5, 6, 8, 12))
    density = rng.choice((0.1, 0.3, 0.6)) if count < 6 else rng.choice((0.1, 0.25))
    bounces, scripts = rng.random(), rng.choice((0.0, 0.2, 0.4))
    fatal = rng.choice((0.0, 0.1, 0.5))
    ages = rng.choice((0.0, 0.0, 0.0, 0.3))
    kinds: dict[str, str] = {}
    sections = []
    for number in range(count):
        kind = "script" if rng.random() < scripts else "daemon"
        name = f"{kind[0]}{number}"
        deps = []
        for other in rng.sample(list(kinds), len(kinds)):
            if rng.random() < density:
                if kinds[other] == "script":
                    state = rng.choice(("ok", "always"))
                else:
                    state = "bounce" if kind == "daemon" and rng.random() < bounces else "ok"
                deps.append(f"{other}:{state}")
        options = random_options(rng, kind, fatal, ages)
        if deps:
            options["deps"] = ", ".join(deps)
        kinds[name] = kind
        sections.append((daemon if kind == "daemon" else script)(name, "cmd", **options))
    rng.shuffle(sections)
    forever = rng.choice(("true", "true", "true", "false"))
    total = rng.choice(("9s", "9s", "2s", "300ms", "30s"))
    return f"[overlord]\nforever = {forever}\nshutdown_timeout = {total}\n" + "".join(sections)


def random_options(rng: random.Random, kind: str, fatal: float, ages: float) -> dict[str, str]:
    """Return options of one unit by chance."""
    choices: dict[str, Sequence[str]] = {
        "respawns": ("0", "1", "3", "2/10s", "5/60s", "unlimited", "unlimited"),
        "backoff": ("100ms..30s", "1s..8s", "50ms", "0"),
        "success": ("0", "0 2", "TERM 7"),
        "stop_timeout": ("8s", "1s", "0"),
        "stop_signal": ("TERM", "INT"),
    }
    if kind == "daemon":
        choices["restart"] = ("always", "on-failure", "never")
        choices["warmup"] = ("0", "100ms", "1s", "5s")
        choices["autostart"] = ("false", "true")
        if rng.random() < 0.3:
            choices["ready"] = ("tcp:80", "notify", "file:/x")
            choices["ready_timeout"] = ("500ms", "3s", "60s")
            choices["health"] = ("tcp:80",)
            choices["stop_cmd"] = ("x",)
            choices["count"] = ("0", "1", "2", "2", "3")
    elif rng.random() < 0.3:
        choices["schedule"] = ("every 10m", "@hourly")
    if rng.random() < 0.2:
        choices["wait_for"] = ("tcp:db:5432", "file:/x")
    options = {name: rng.choice(values) for name, values in choices.items() if rng.random() < 0.4}
    if rng.random() < ages and kind == "daemon":
        options["max_age"] = rng.choice(("20s", "30s~20s"))
    if kind == "script" and rng.random() < 0.5:
        options["timeout"] = rng.choice(("500ms", "3s"))
    if rng.random() > fatal:
        options["on_failure"] = "ignore"
    elif rng.random() < 0.5:
        options["on_failure"] = "shutdown"
    if rng.random() < fatal / 2 and kind == "daemon":
        options["on_success"] = "shutdown"
    return options


MUTATIONS = "add add remove cmd cmd cmd cmd options options deps deps deps reverse reverse kind all settings".split()


def mutate_text(rng: random.Random, text: str) -> str:
    """Return a configuration that differs from another by chance: any graph, any kind, any option may be another."""
    parser = configparser.RawConfigParser(interpolation=None)
    parser.read_string(text)
    general = dict(parser.items("overlord"))
    kinds: dict[str, str] = {}
    options: dict[str, dict[str, str]] = {}
    deps: dict[str, dict[str, str]] = {}
    for section in parser.sections():
        kind, _, name = section.partition(":")
        if name:
            kinds[name], options[name] = kind, dict(parser.items(section))
            words = options[name].pop("deps", "").split(", ")
            deps[name] = {word.partition(":")[0]: word.partition(":")[2] for word in words if word}

    def reaches(top: str, name: str) -> bool:
        return top == name or any(reaches(dep, name) for dep in deps[top])

    def fresh(name: str) -> None:
        ages, fatal = rng.choice((0.0, 0.0, 0.3)), rng.choice((0.0, 0.1, 0.5))
        options[name] = {"cmd": rng.choice(("cmd", "cmd", "other")), **random_options(rng, kinds[name], fatal, ages)}

    for _ in range(rng.choice((0, 1, 1, 2, 3, 6))):
        name = rng.choice(list(kinds)) if kinds else ""
        other = rng.choice(list(kinds)) if kinds else ""
        how = rng.choice(MUTATIONS)
        if how == "add" or not name:
            kind = rng.choice(("daemon", "daemon", "script"))
            name = f"{kind[0]}{rng.randint(0, 15)}"
            if name not in kinds:
                kinds[name], deps[name] = kind, {dep: OK for dep in kinds if rng.random() < 0.2}
                fresh(name)
        elif how == "remove":
            for table in (kinds, options, deps, *deps.values()):
                table.pop(name, None)
        elif how == "cmd":
            options[name]["cmd"] = rng.choice(("cmd", "other", "third"))
        elif how == "options":
            fresh(name)
            options[name]["cmd"] = "cmd"
        elif how == "deps" and other in deps[name]:
            del deps[name][other]
        elif how == "deps" and not reaches(other, name):
            deps[name][other] = OK
        elif how == "reverse" and deps[name]:
            other = rng.choice(list(deps[name]))
            del deps[name][other]
            if not reaches(name, other):
                deps[other][name] = OK
        elif how == "kind":
            kinds[name] = "daemon" if kinds[name] == "script" else "script"
            fresh(name)
        elif how == "all":
            for each in options.values():
                each["cmd"] = rng.choice(("cmd", "other", "third"))
        elif how == "settings":
            general["shutdown_timeout"] = rng.choice(("9s", "2s", "30s"))
    sections = []
    for name, kind in kinds.items():
        for dep, state in deps[name].items():
            states = ("ok", "always") if kinds[dep] == "script" else ("ok", "bounce") if kind == "daemon" else ("ok",)
            again = state not in states or rng.random() < 0.1
            deps[name][dep] = rng.choice(states) if again else state
        words = ", ".join(f"{dep}:{state}" for dep, state in deps[name].items())
        own = {key: value for key, value in options[name].items() if key != "cmd"}
        make = daemon if kind == "daemon" else script
        sections.append(make(name, options[name]["cmd"], **own, **({"deps": words} if words else {})))
    rng.shuffle(sections)
    return "[overlord]\n" + "".join(f"{key} = {value}\n" for key, value in general.items()) + "".join(sections)


def play_many(seeds: Iterable[int]) -> Iterator[World]:
    """Play a world for each seed."""
    for seed in seeds:
        yield World(seed).play()
