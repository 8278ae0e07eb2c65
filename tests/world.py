"""A world for the pure rooms: a clock that moves only when told, and a kernel whose processes do their worst.

- `Stage` turns the crank of a real `overlord.Fleet` exactly as `overlord.Loop` does: what arrives is fed in the same
  order, and actions are performed in order, each answered before the next. A test directs it by hand.
- `World` is a stage that plays by itself: configuration, processes, faults, reloads, what clients ask and clocks that are
  set or stand still all come from one seed. Requests go through the real `overlord.Control` and schedules through the real
  `overlord.Clock`, with `Client`, `Watch` and `Time` in place of the system.
- `Watched` is the fleet of both. Around every single event it checks what must hold always; what it compares the fleet
  with is the stage's own knowledge of the processes, wherever that says as much.
"""

from __future__ import annotations

import calendar
import functools
import heapq
import itertools
import random
import re
import time
from collections import Counter, deque, namedtuple
from types import SimpleNamespace
from typing import Any, Callable, Iterable, Sequence
from unittest import mock

import overlord
from diagram import edges
from harness import daemon, script
from overlord import BACKOFF, DONE, FAILED, IDLE, MAIN, OK, RUNNING, STARTING, STOPPED, STOPPING, WAITING, Event

KILL, TERM, INT, CHLD = (overlord.SIGNALS[name] for name in ("KILL", "TERM", "INT", "CHLD"))
EPSILON = 1e-6
ENDED = (STOPPED, DONE, FAILED)
RESTING = (IDLE, *ENDED)
BUSY = (STARTING, RUNNING, STOPPING, BACKOFF, STOPPED)  # states that keep overlord up
HANDS = (overlord.BY_HAND, overlord.RESTART)
OUTSIDE = ("listen", "wait_for")  # what a unit waits for that is no other unit

# How a process behaves. `life`: s until it ends by itself, None for never; `code`: as the Loop reports it; `why`: it never
# became its command; `patience`: s from the stop signal to its end, None to ignore it; `farewell`: its code then (None:
# dies of the signal); `grip`: s that even SIGKILL takes; `workers`: what else is of its unit.
Temper = namedtuple("Temper", "life code why patience farewell grip workers", defaults=(None, 0, "", 0.0, None, 0.0, ()))
# One of those: `life` is counted from the end of the main process.
Worker = namedtuple("Worker", "life patience grip", defaults=(None, 0.0, 0.0))


def configure(text: str = "", command: Iterable[str] = ()) -> overlord.Config:
    """Return the configuration that an INI text and perhaps a main command make, through the real Config room."""
    parsed = parse(text)
    config = overlord.Config(parsed.settings, dict(parsed.units), list(parsed.order))
    if command:
        daemons = [name for name in config.order if config.units[name].kind == "daemon"]
        config.units[MAIN] = overlord.main_spec(command, daemons)
        config.order.append(MAIN)
    return config


@functools.lru_cache(maxsize=256)
def parse(text: str) -> overlord.Config:
    """Return the configuration of an INI text. COST: half of a world's time, and many go back to a text of before."""
    draft = overlord.Draft({})
    draft.read_text("overlord.conf", text.encode())
    return draft.validate()


def check(condition: Any, text: str, *values: Any) -> None:
    """Fail with the text unless the condition holds. COST: where it is asked often, what fills the text comes apart from it."""
    if not condition:
        raise AssertionError(text.format(*values) if values else text)


def shaped(old: Any, new: Any) -> bool:
    """Tell whether two definitions make different processes."""
    return any(getattr(old, key) != getattr(new, key) for key in overlord.SHAPING)


class Member:
    """A fake process of a unit: its main process, or a worker."""

    def __init__(self, temper: Temper | Worker) -> None:
        self.temper, self.alive, self.doomed = temper, True, False


class Process(Member):
    """The main process, with all others of its unit."""

    def __init__(self, unit: str, pid: int, now: float, temper: Temper) -> None:
        super().__init__(temper)
        self.unit, self.pid, self.started = unit, pid, now
        self.reaped = self.killed = False
        self.code: int | None = None
        self.spec: Any = None  # the definition that it was started under
        self.asked = False  # overlord has signalled it
        self.said_ready = False
        self.workers = [Member(worker) for worker in temper.workers]

    def leaves(self) -> bool:
        return any(worker.alive for worker in self.workers)


class Time:
    """In place of overlord's `time`: the clock of a stage that only goes on, and one on the wall that may be set."""

    localtime, mktime, strftime = time.gmtime, staticmethod(calendar.timegm), time.strftime

    def __init__(self, stage: Stage) -> None:
        self.stage, self.ahead = stage, 1.7e9

    def monotonic(self) -> float:
        return self.stage.now

    def time(self) -> float:
        return self.stage.now + self.ahead


class Watch:
    """In place of `overlord.Watch`: timers on the clock of a stage."""

    def __init__(self) -> None:
        self.timers: list[list[Any]] = []
        self.serial = itertools.count()

    def on(self, fd: int, events: int, call: Callable[[], Any]) -> None:
        pass

    def off(self, fd: int) -> None:
        pass

    def later(self, instant: float | None, call: Callable[[], Any], old: list[Any] | None = None) -> list[Any] | None:
        self.cancel(old)
        if instant is None:
            return None
        timer = [instant, next(self.serial), call]
        heapq.heappush(self.timers, timer)
        return timer

    def cancel(self, timer: list[Any] | None) -> None:
        if timer:
            timer[2] = None
        while self.timers and not self.timers[0][2]:
            heapq.heappop(self.timers)

    def strike(self, now: float) -> None:
        """Make the calls that are due."""
        while self.timers and (self.timers[0][0] <= now or not self.timers[0][2]):
            timer = heapq.heappop(self.timers)
            call, timer[2] = timer[2], None
            if call:
                call()


class Client:
    """One who asks, in place of a socket: it has sent its words, and takes the answer. `told` knows when that is whole."""

    def __init__(self, words: Sequence[str], since: int, reloads: int, told: Callable[[Client], None]) -> None:
        self.words, self.since, self.reloads, self.told = words, since, reloads, told
        self.before: dict[str, str] = {}  # the states when it asked
        self.answer = ""
        self.code: int | None = None
        self.gone = self.heard = False  # it has hung up; what it said was heard

    def fileno(self) -> int:
        return id(self)

    def recvmsg(self, size: int, room: int, flags: int) -> tuple[bytes, list[Any], int, None]:
        heard, self.heard = (b"" if self.heard else (" ".join(self.words) + "\n").encode()), True
        return heard, [], 0, None

    def send(self, data: bytes, flags: int) -> int:
        check(self.code is None, f"{self.words} is answered twice")
        self.answer += data.decode()
        last = self.answer.splitlines()[-1]
        if last.startswith("="):
            self.code = int(last[1:])
            self.told(self)
        return len(data)

    def shutdown(self, how: int) -> None:
        pass

    def close(self) -> None:
        pass


class Watched(overlord.Fleet):
    """A fleet that has its stage check each event before and after it is applied."""

    stage: Stage | None = None

    def start(self, asked: list[Any], now: float, going: Iterable[Any] = ()) -> list[Any]:
        if self.stage:
            self.stage.asked_to_start([unit.name for unit in asked])
        return super().start(asked, now, going)

    def stop(self, asked: list[Any], now: float) -> None:
        if self.stage:
            self.stage.asked_to_stop([unit.name for unit in asked])
        super().stop(asked, now)

    def restart(self, asked: list[Any], now: float) -> None:
        if self.stage:
            self.stage.asked_to_start([unit.name for unit in asked])
        super().restart(asked, now)

    def change_config(self, config: overlord.Config, now: float) -> dict[str, str]:
        if self.stage:
            self.stage.asked_to_reload(config)
        news = super().change_config(config, now)
        if self.stage:
            self.stage.catch_up()
        return news

    def run_by_clock(self, name: str, now: float) -> None:
        if self.stage:
            self.stage.struck(name)
        super().run_by_clock(name, now)

    def ask_shutdown(self, why: str, now: float, signum: int | None = None, code: int | None = None) -> None:
        if self.stage:
            self.stage.asked_to_end(code, signum)
        super().ask_shutdown(why, now, signum, code)

    def apply(self, unit: overlord.Unit, event: Event, now: float) -> None:
        if not self.stage:
            super().apply(unit, event, now)
            return
        old, ending = unit.status, self.ending
        self.stage.before(unit.name, event, old)
        for_whom = self.stage.for_whom
        super().apply(unit, event, now)
        self.stage.for_whom = for_whom  # a shutdown that this began has stopped others
        self.stage.after(unit.name, event, old, unit.status, ending)

    def take_config(self, config: overlord.Config) -> None:
        super().take_config(config)
        if self.stage:
            self.stage.catch_up()

    def work(self, now: float) -> None:
        super().work(now)
        if self.stage:
            self.stage.check_stand()


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
        self.processes: dict[int, Process] = {}  # main processes not reaped, or with others that live
        self.orphans: list[Member] = []  # what is no unit's any more
        self.current: dict[str, Process] = {}  # unit -> its last process
        self.dead: list[Process] = []  # not reaped
        self.present: Counter[str] = Counter()  # how many of `processes` a unit has
        self.lingering: dict[int, Process] = {}  # dead main processes whose others live
        self.agenda: list[tuple[float, int, Callable[[], None]]] = []
        self.serial = itertools.count(100)
        self.arrived: deque[int] = deque()
        self.actions: deque[Any] = deque()  # to be performed
        self.control: Any = None
        self.clockwork: Any = None
        self.watch = Watch()
        self.timers: dict[str, list[Any]] = {}  # of units; "": of the fleet itself
        self.due: list[str] = []  # those whose instant has come
        self.log = SimpleNamespace(message=lambda *words: None)
        self.code: int | None = None
        self.asked_code: int | None = None
        self.checked: Any = None  # how it stood when the tables were checked last
        self.why = ""
        self.starts: list[str] = []
        self.kills: list[tuple[float, str, int, bool]] = []
        self.sweeps: list[tuple[float, int]] = []
        self.said: list[tuple[str, str, str]] = []
        self.trace: deque[str] = deque(maxlen=60)
        self.ended_at = self.exited_at = 0.0
        self.requested = 0
        self.by_request = False
        self.again: list[float] = []  # when a second SIGINT came
        self.interrupts = 0
        self.relayed: list[tuple[float, int]] = []  # to a main command without units
        # What the checks remember, apart from what the fleet does.
        self.clock = 0  # counts events
        self.waiting_since: dict[str, int] = {}
        self.run_began: dict[str, int] = {}
        # Script -> when its successful runs began, and for whom, that no dependent has used up.
        self.runs: dict[str, list[tuple[int, str | None]]] = {}
        self.succeeded: set[str] = set()
        self.ran_out: set[str] = set()  # scripts that have come to their end, whatever it was
        self.tried: set[str] = set()  # daemons that have been started, or have failed to, since they last rested
        self.ok_at: dict[str, int] = {}
        self.launched_at: dict[str, int] = {}
        self.respawns: dict[str, list[float]] = {}
        self.oks_at: dict[str, int] = {}  # how often a unit had been OK at its last restart
        self.seen: Counter[tuple[str, str, str]] = Counter()
        self.failures: list[tuple[int, bool]] = []  # codes of units that failed for good, and whether for one dependent
        self.cause: int | None = None  # the code that the shutdown should lead to, where a unit caused it
        self.levels: dict[str, int] = {}
        self.below: dict[str, float] = {}
        self.command = command
        self.specs = dict(self.config.units)  # as the fleet had them when it was last looked at
        self.in_between: set[str] = set()  # in a reload: what is taken down for it, and comes back with another definition
        self.unwell: set[str] = set()  # whose health was lost
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
        above: dict[str, set[str]] = {name: set() for name in self.fleet.units}
        for name in reversed(list(self.fleet.units)):
            for dep, _ in self.needs[name]:
                above[dep] |= {name} | above[name]
        return above

    # ------------------------------------------------------------------------------------------------- directing

    def boot(self) -> None:
        self.fleet.want_all(self.now)
        self.perform()
        self.settle()

    def state(self, name: str) -> str:
        return str(self.fleet.units[name].status.state)

    def states(self, *names: str) -> list[str]:
        return [self.state(name) for name in names or self.config.order]

    def explain(self, name: str) -> str:
        """Return in words why a unit is in its state."""
        return self.fleet.explain(self.fleet.units[name], self.now)

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
        self.feed(name, Event("stale", why, fails=True) if kind == "unwell" else Event(kind, why))
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
        found = [unit.name for unit in self.fleet.start([self.fleet.units[name] for name in names], self.now)]
        self.perform()
        self.settle()
        return found

    def stop(self, *names: str) -> None:
        """A person stops units."""
        self.fleet.stop([self.fleet.units[name] for name in names], self.now)
        self.perform()
        self.settle()

    def restart(self, *names: str) -> None:
        """A person restarts units."""
        self.fleet.restart([self.fleet.units[name] for name in names], self.now)
        self.perform()
        self.settle()

    def reload(self, text: str) -> dict[str, str]:
        """Take over another configuration, as `Control.do_reload` does; return what happens to which unit."""
        self.text, self.config = text, configure(text, self.command)
        news = self.fleet.change_config(self.config, self.now)
        self.perform()
        self.settle()
        return news

    # What the fleet is asked for, by a test or through `overlord.Control`, is noted on its way in.

    def asked_to_start(self, names: Iterable[str]) -> None:
        """Somebody starts units, and so all that they need."""
        found, todo = set(), list(names)
        while todo:
            name = todo.pop()
            todo += [dep for dep, how in self.fleet.units[name].spec.deps if dep not in found and how != "started"]
            found.add(name)
        self.meddled = True
        for name in found:
            self.count_anew(name)
        self.touched |= found
        self.held_down -= found

    def count_anew(self, name: str) -> None:
        """A person's start, and the clock's, gives a unit all its restarts in a row again."""
        if (respawns := self.fleet.units[name].spec.respawns) and respawns[1] == overlord.IN_A_ROW:
            self.respawns.pop(name, None)

    def asked_to_stop(self, names: Iterable[str]) -> None:
        """Somebody stops units."""
        self.meddled = True
        for name in names:
            late = self.state(name) == STOPPED and name in self.touched and self.fleet.pending  # to be started after a reload
            if self.fleet.units[name].lives() or self.state(name) in (WAITING, BACKOFF) or late:
                self.held_down.add(name)

    def asked_to_reload(self, config: overlord.Config) -> None:
        """Somebody changes the configuration."""
        self.reloads += 1
        self.meddled = True
        for name, spec in config.units.items():
            old = self.fleet.units[name].spec if name in self.fleet.units else None
            if old and old.deps != spec.deps:
                self.bound_late |= {(name, dep) for dep, _ in spec.deps}
            if old and old.respawns != spec.respawns:
                self.respawns.pop(name, None)
        self.config = config
        self.in_between = self.find_in_between()

    def asked_to_end(self, code: int | None, signum: int | None) -> None:
        """Somebody wants it all to end: of a main command without units, which is for that alone to hear."""
        self.requested += 1
        self.note(f"request {self.requested}" + ("" if code is None else f" with code {code}"))
        self.asked_code = code if self.asked_code is None else self.asked_code
        if self.fleet.transparent():
            return
        self.interrupts += signum == INT
        if self.fleet.ending and signum == INT and self.interrupts > 1:
            self.again.append(self.now)
        elif not self.fleet.ending:
            self.begin_ending(None)
            self.by_request = True

    def struck(self, name: str) -> None:
        """The clock says that it is time for a scheduled run."""

    def at(self, delay: float, action: Callable[[], None]) -> None:
        """Have something happen later."""
        heapq.heappush(self.agenda, (self.now + delay, next(self.serial), action))

    def next_instant(self) -> float | None:
        """Return when something is due."""
        instants = [queue[0][0] for queue in (self.agenda, self.watch.timers) if queue]
        if self.lingering or self.fleet.sweeping:
            instants.append(self.now + overlord.LINGER_LOOK)
        return min(instants) if instants else None

    # -------------------------------------------------------------------------------------------- the Loop's part

    def settle(self) -> None:
        """Turn until nothing more happens at this instant."""
        for _ in range(10 * len(self.config.order) + 100):
            self.turn()
            due = any(queue and queue[0][0] <= self.now for queue in (self.agenda, self.watch.timers))
            if self.code is not None or not (self.dead or due):
                return
        raise AssertionError("it comes to no rest at one instant")

    def turn(self) -> None:
        """One turn of the Loop: signals, deaths, what was left behind, timers, actions."""
        while self.agenda and self.agenda[0][0] <= self.now:
            heapq.heappop(self.agenda)[2]()
        self.watch.strike(self.now)
        while self.arrived:
            number = self.arrived.popleft()
            relayed = self.fleet.transparent()
            self.fleet.ask_shutdown(f"{overlord.spell_signal(number)} received", self.now, number)
            if relayed:
                self.relayed.append((self.now, number))
                self.signal(self.current[MAIN], number)
        dead, self.dead = self.dead, []
        for process in dead:
            self.reap(process)
        for pid, process in list(self.lingering.items()):
            if not process.leaves():
                del self.lingering[pid]
                self.forget(process)
                self.feed(process.unit, Event("emptied"))
        self.expire()
        self.perform()
        if self.fleet.sweeping and self.code is None and self.alone():
            self.fleet.end_shutdown()
            self.perform()
        self.check_schedules()

    def expire(self) -> None:
        """Let what is due come, as Loop.turn does."""
        while self.due:
            self.fleet.take_deadline(self.due.pop(0), self.now)

    def set_timer(self, name: str, instant: float | None) -> None:
        """As Loop.set_timer."""
        self.watch.cancel(self.timers.pop(name, None))
        if instant is not None:
            self.timers[name] = self.watch.later(instant, lambda: self.due.append(name))

    def shift(self, gap: float) -> None:
        """As Loop.paused."""
        for timer in self.timers.values():
            timer[0] += gap
        heapq.heapify(self.watch.timers)
        self.fleet.shift_deadlines(gap)

    def next_deadline(self) -> float | None:
        """Return when a unit or the fleet itself is due."""
        return min((timer[0] for timer in self.timers.values() if timer[2]), default=None)

    def feed(self, name: str, event: Event) -> None:
        self.fleet.feed(name, event, self.now)

    def reap(self, process: Process) -> None:
        process.reaped = True
        spec, left = self.fleet.units[process.unit].spec, process.leaves()
        left = left and spec.kill_mode != "process"  # else it stays
        if left:
            self.lingering[process.pid] = process
        else:
            self.orphans += process.workers
            self.forget(process)
        why = process.temper.why if not process.asked else ""
        self.feed(process.unit, Event("exited", why, code=process.code, left=left))

    def hand_over(self, name: str) -> None:
        """As Loop.name_main: another process of a unit is named, and is its main process from now on; what that was before is
        dead, or one of many."""
        old, status = self.current[name], self.fleet.units[name].status
        heirs = [worker for worker in old.workers if worker.alive and not worker.doomed]
        if status.state not in (STARTING, OK) or status.pid != old.pid or not heirs:
            return
        heirs[0].alive = False  # it goes on under another record
        new = self.make(name, old.spec)
        new.workers = [worker for worker in [*old.workers, *new.workers] if worker.alive]
        if old.alive:
            new.workers.append(Member(Worker(patience=old.temper.patience)))
            old.alive = False
        self.dead = [process for process in self.dead if process is not old]
        self.lingering.pop(old.pid, None)
        new.started = self.now if status.state == STARTING else old.started
        new.said_ready = old.said_ready
        self.forget(old)
        self.feed(name, Event("handed", f"its main process is now pid {new.pid}", pid=new.pid))

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
        actions = self.actions = deque()
        self.take()
        while actions:
            action = actions.popleft()
            if isinstance(action, overlord.Spawn):
                self.spawn(action.unit)
            elif isinstance(action, overlord.Kill):
                self.kill(action)
            elif isinstance(action, overlord.Sweep):
                self.sweep(action.signum)
            elif isinstance(action, overlord.Forget):
                check(self.fleet.units.get(action.unit.name) is not action.unit, "it is forgotten and still there")
                check(not action.unit.status.pid, f"{action.unit.name} is forgotten while its process lives")
                self.note(f"{action.unit.name}: forgotten")
            elif isinstance(action, overlord.Test):
                self.note(f"{action.unit}: test {action.purpose}")
                self.tests.append((action.unit, action.purpose))
                self.test(action.unit, action.purpose)
            elif isinstance(action, overlord.StopCommand):
                self.stop_by_command(action)
            else:
                check(self.code is None, "a second Exit")
                self.code, self.why, self.exited_at = action.code, action.why, self.now
                if self.control:
                    self.control.stop_listening()
            self.take()
        if self.control:
            self.control.answer_waiting(self.now)

    def take(self) -> None:
        """As Loop.take: what is to be said is said at once, all else is queued."""
        for action in self.fleet.take_actions():
            if isinstance(action, overlord.Say):
                self.said.append((action.level, action.unit, action.text))
                self.note(f"{action.unit}: {action.text}")
                if self.control:
                    self.control.publish(action)
            elif isinstance(action, overlord.Wake):
                self.set_timer(action.unit, action.instant)
            elif isinstance(action, overlord.Replan):
                if self.clockwork:
                    self.clockwork.plan()
                if self.control:
                    self.control.refollow()
            elif isinstance(action, overlord.Changed):
                if self.control:
                    self.control.publish(action)
            else:
                self.actions.append(action)

    def spawn(self, name: str) -> None:
        """As Loop.spawn."""
        status = self.fleet.units[name].status if name in self.fleet.units else overlord.Status()
        if status.state not in (STARTING, RUNNING) or status.pid:
            return
        check(not self.fleet.ending, f"{name} is started although the shutdown has begun")
        check(not self.present[name], f"{name} is started while its process before lives")
        if self.fork_fails(name):
            self.feed(name, Event("unspawned", "fork: Resource temporarily unavailable", passing=True))
            return
        process = self.make(name, self.fleet.units[name].spec)
        self.starts.append(name)
        self.feed(name, Event("spawned", pid=process.pid))

    def make(self, name: str, spec: Any) -> Process:
        """Make a process that is a unit's main process from now on."""
        process = Process(name, next(self.serial), self.now, self.temper(name))
        process.spec = spec
        self.processes[process.pid] = self.current[name] = process
        self.present[name] += 1
        if process.temper.life is not None:
            self.at(process.temper.life, lambda: self.end(process, process.temper.code))
        return process

    def fork_fails(self, name: str) -> bool:
        return name in self.no_fork

    def temper(self, name: str) -> Temper:
        return self.tempers.get(name, Temper())

    def kill(self, action: overlord.Kill) -> None:
        """As Loop.kill, and what the processes make of it."""
        process = self.processes.get(action.pid)
        check(not process or process.unit == action.unit, f"{action} is for another unit's process")
        self.note(f"{action.unit}: {overlord.spell_signal(action.signum)} to {'all' if action.whole else 'main'}")
        self.kills.append((self.now, action.unit, action.signum, action.whole))
        if process:
            process.asked = True
            process.killed = process.killed or (action.signum == KILL and (action.whole or not process.reaped))
            targets = [*([] if process.reaped else [process]), *(process.workers if action.whole else ())]
            for target in targets:
                self.signal(target, action.signum)

    def test(self, name: str, purpose: str) -> None:
        """Begin to probe, as `overlord.Prober` does."""
        if name not in self.silent and purpose not in ("health", "watchdog"):
            self.probe(name, purpose, 0.0)

    def probe(self, name: str, purpose: str, delay: float) -> None:
        """Have a probe pass (or for `health`, fail once too often) later, unless it is nobody's affair by then."""

        def key() -> Any:
            status = self.fleet.units[name].status if name in self.fleet.units else overlord.Status()
            return (status.state, status.starts, status.since if purpose in OUTSIDE else 0.0)

        def end() -> None:
            if self.fleet.ending or key() != began or began[0] != state:
                return
            if purpose in OUTSIDE:
                self.come_there(name, purpose)
            elif purpose == "ready":
                self.feed(name, Event("ready"))
            elif purpose == "pidfile" and self.current[name].reaped:
                self.hand_over(name)
            elif purpose == "pidfile":
                self.feed(name, Event("handed", "", pid=self.current[name].pid))
            else:
                self.feed(name, Event("stale", "unhealthy: no answer", fails=True))

        began = key()
        state = {"ready": STARTING, "pidfile": STARTING, **dict.fromkeys(OUTSIDE, WAITING)}.get(purpose, OK)
        state = OK if purpose == "pidfile" and began[0] == OK else state
        self.at(delay, end)

    def come_there(self, name: str, purpose: str) -> None:
        """What a unit has waited for is there, if it still does: its sockets are open, or its `wait_for` has passed."""
        if self.fleet.units[name].reach == purpose:
            self.fleet.reach(name, self.now)

    def stop_by_command(self, action: overlord.StopCommand) -> None:
        """The command of a unit asks its process to end."""
        process = self.processes.get(action.pid)
        check(not process or process.unit == action.unit, f"{action} is for another unit's process")
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
        """A main process ends; its workers may go with it, or later, or stay."""
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
        fleet, unit = self.fleet, self.fleet.units[name]
        self.clock += 1
        self.for_whom = unit.by if unit.spec.kind == "script" else ""
        if event.kind == "want" and event.why in (overlord.BY_HAND, overlord.BY_CLOCK):  # also of a script, once it has ended
            self.count_anew(name)
        if event.kind == "ready" and old.state == STARTING and old.pid:
            self.current[name].said_ready = True
        turn = unit.spec.instance and event.kind == "stop" and event.why == old.stale and old.then != "fail"
        if turn and name not in self.in_between:
            self.check_turn(name, old)
        if event.kind == "deadline":
            check(old.deadline is not None and old.deadline <= self.now, "{}: a stale timer fires in {}", name, old)
        elif event.kind == "start":
            check(not fleet.ending, "{} starts although the shutdown has begun", name)
            check(not self.present[name], "{} starts while its process before lives", name)
            check(unit.spec == self.config.units.get(name), "{} starts under a definition that is gone", name)
            for dep, how in self.config.units[name].deps:
                check(self.is_met(name, dep, how), "{} starts and {}:{} is not there", name, dep, how)
                check(dep not in self.in_between, "{} starts before {}, which it needs, has been changed", name, dep)
            late = self.unsettled(name)
            check(not late, "{} starts while {}, with which it bounces, is down or to be restarted", name, late)
        elif event.kind == "stop" and (event.why == "reload" or fleet.ending) and not old.stale:
            above = self.closure[name] if fleet.ending else self.closure[name].intersection(self.in_between)
            alive = [p.unit for p in self.processes.values() if p.unit in above and (p.alive or not p.reaped)]
            check(not alive or not old.pid or old.state == STOPPING, "{} is stopped before {}, which need it", name, alive)
        elif event.kind == "stop" and event.why in HANDS and old.pid and old.state != STOPPING and old.then != "fail":
            first = "" if name in self.in_between else self.goes_before(name)
            check(not first, "{} is stopped before {}, which needs it", name, first)

    def check_turn(self, name: str, old: overlord.Status) -> None:
        """Check that an instance which serves is restarted only while none of its name is on its way up: other than one that
        waits for what never comes, and, for its age alone, one that fails again and again."""
        if old.state != OK:
            return
        for other in self.team(name):
            status = self.fleet.units[other].status
            moving = status.state in (WAITING, STARTING, STOPPING, BACKOFF) and not self.is_in_vain(other)
            failing = status.delay is not None and status.state != STOPPING and old.stale not in ("reload", "restart by hand")
            check(not moving or failing, "{} is restarted ({}) while {} is {}", name, old.stale, other, status.state)

    def team(self, name: str) -> list[str]:
        """Return the other instances of the same daemon."""
        units = self.fleet.units
        first = name.rpartition("-")[0]
        return [each for each in units if units[each].spec.instance and each != name and each.rpartition("-")[0] == first]

    def is_in_vain(self, name: str) -> bool:
        """Tell whether a unit waits for what will not come by itself: it says so."""
        return bool(re.search(r", and [^ ]+ is (idle|stopped|done|failed|ok)", self.explain(name)))

    def unsettled(self, name: str) -> str:
        """Return a bounce ancestor of a unit that is down, or still to be restarted, and on its way."""
        todo, seen = [name], set()
        while todo:
            for dep, how in self.fleet.units[todo.pop()].spec.deps:
                if how != "bounce" or dep in seen:
                    continue
                seen.add(dep)
                status = self.fleet.units[dep].status
                if status.state == OK and not status.stale:
                    todo.append(dep)
                elif status.state not in RESTING and not self.is_in_vain(dep):
                    return dep
        return ""

    def is_met(self, name: str, dep: str, how: str) -> bool:
        """Tell from what happened to the processes whether a dependency is there."""
        spec, status = self.fleet.units[dep].spec, self.fleet.units[dep].status
        if status.stale == overlord.RESTART and spec.kind == "daemon":
            return False
        if name == MAIN:
            return status.state in (OK, IDLE, STOPPED, DONE, FAILED)
        if how == "always":  # a run of its own, begun after this start was
            # Where it was stopped and asked for again meanwhile, the run that its start before had asked for will do.
            since = self.launched_at.get(name, 0) if self.meddled else self.waiting_since[name]
            fresh = [each for each in self.runs.get(dep, ()) if each[0] > since and each[1] == name]
            if fresh:
                self.runs[dep].remove(fresh[0])
            return bool(fresh)
        if spec.kind == "script":
            return dep in (self.ran_out if how == "ended" else self.succeeded)
        if how == "started":
            return dep in self.tried or self.is_in_vain(dep) or not self.fleet.units[dep].wanted
        process = self.current.get(dep)
        up = process and (not process.reaped or status.left) and self.is_up(process)
        return bool(up) and status.state == OK

    def goes_before(self, name: str) -> str:
        """Return a dependent that is to be stopped, or restarted by hand, and so has to end before a unit that is too."""
        for other, unit in self.fleet.units.items():
            status, spec = unit.status, unit.spec
            lives = status.state in (STARTING, RUNNING, STOPPING) or status.pid
            by_hand = not unit.wanted or (status.stale == overlord.RESTART and not spec.instance)
            if lives and (by_hand or status.state == STOPPING) and name in dict(spec.deps):
                return other
        return ""

    def is_up(self, process: Process) -> bool:
        """Tell whether a process has lived through its warm-up, and has said that it is ready where it has to."""
        ready = process.said_ready or not process.spec.ready
        warmup = min(process.spec.warmup, self.fleet.units[process.unit].spec.warmup)  # a reload may have made it shorter
        return bool(ready) and process.started + warmup <= self.now + EPSILON

    def after(self, name: str, event: Event, old: overlord.Status, new: overlord.Status, ending: Any) -> None:
        """Check what must hold after an event was applied, and remember what happened."""
        fleet, spec = self.fleet, self.fleet.units[name].spec
        self.note(f"{name}: {old.state} --{event.kind}--> {new.state} ({new.why})")
        edge = (old.state, event.kind, new.state)
        self.seen[edge] += 1
        check(old.state == new.state or edge in edges(), "{}: no way goes from {}", name, edge)
        owning = new.state in (STARTING, RUNNING, OK, STOPPING) and not (new.state == OK and spec.kind == "script")
        check(owning or not new.pid, "{}: a pid in {}", name, new)
        check(new.pid or new.state not in (OK, STOPPING) or not owning, "{}: no pid in {}", name, new)
        check(new.deadline is None or new.state not in (IDLE, *ENDED), "{}: a deadline in {}", name, new)
        between = spec.pidfile and new.state in (STARTING, OK)  # two main processes
        check(not new.left or new.state == STOPPING or between, "{}: left in {}", name, new)
        if old.state != new.state:
            self.remember(name, spec, event, old, new)
        if event.kind in ("exited", "emptied") and new.state == BACKOFF:
            self.count_respawn(name, spec)
        if new.state == BACKOFF and old.state != BACKOFF:
            high = max(spec.backoff[1] * 1.1, overlord.FORK_DELAY if event.passing else 0)
            check(self.now <= new.deadline <= self.now + high + EPSILON, "{}: a back-off out of bounds in {}", name, new)
        if event.kind == "stale" and event.fails and old.state == OK:
            self.unwell.add(name)
        if fleet.ending and not ending:
            check(self.for_whom != overlord.BY_CLOCK, "a scheduled run of {} ends the container", name)
            self.begin_ending(self.code_of(name, event, new))
        if event.kind == "stop" and new.state == STOPPING and fleet.ending:
            left = max(0.0, fleet.ending.units_end - self.now)
            share = max(left / max(1, self.levels[name]), left - self.below[name])
            share = share if name != MAIN else left * 0.75 if self.levels[name] > 1 else left
            check(new.deadline is None or new.deadline <= self.now + share + EPSILON, "{} has more than its share: {}", name, new)

    def catch_up(self) -> None:
        """Note which units are others by now: a reload removed them, changed their kind, or gave them new dependencies."""
        units = {name: unit.spec for name, unit in self.fleet.units.items()}
        for name, old in list(self.specs.items()):
            if name not in units or units[name].kind != old.kind:
                counts = (self.respawns, self.oks_at, self.ok_at, self.launched_at, self.waiting_since, self.run_began)
                for known in (self.runs, *counts):
                    known.pop(name, None)
                for names in (self.succeeded, self.ran_out, self.tried, self.held_down, self.touched):
                    names.discard(name)
            elif name in self.in_between or shaped(old, units[name]) or old.respawns != units[name].respawns:
                self.respawns.pop(name, None)  # a new limit counts from the moment at which it takes effect
        self.specs = units
        self.in_between = self.find_in_between() if self.fleet.pending else set()
        self.needs = {name: spec.deps for name, spec in units.items()}
        self.closure = self.find_closure()

    def find_in_between(self) -> set[str]:
        """Return what is taken down for a reload, and comes back under another definition if at all."""
        new, old = self.config.units, {name: unit.spec for name, unit in self.fleet.units.items()}
        gone = [name for name, spec in old.items() if name not in new or shaped(spec, new[name])]
        return {name for name in gone if not (name in new and new[name].instance and old[name].instance)}

    def check_stand(self) -> None:
        """Check, when all that follows from something has been worked off, what can be seen of the units.

        COST: this is most of a world's time, so no text is made unless something is wrong.
        """
        fleet, ending = self.fleet, self.fleet.ending
        stand = (self.clock, self.reloads, self.requested, ending)
        if stand == self.checked and not ending:  # nothing has happened since
            return
        self.checked = stand
        asked = self.config.units
        waits = fleet.pending is not None
        right = ending or waits or {name: unit.spec for name, unit in fleet.units.items()} == asked
        check(right, "the units are not those that were asked for")
        busy = False
        armed = {action.unit: action.instant for action in fleet.actions if isinstance(action, overlord.Wake)}
        for name, unit in fleet.units.items():
            spec, each = unit.spec, unit.status
            state, deadline = each.state, each.deadline
            if deadline is not None and not (armed.get(name) == deadline or self.is_armed(name, deadline)):
                raise AssertionError(f"nobody will wake {name}: {each}")
            if each.pid:
                process = self.processes.get(each.pid)
                if not process or process.unit != name or each.left != process.reaped:
                    raise AssertionError(f"{name} has no such process: {each}")
            elif self.present[name]:
                raise AssertionError(f"{name} has forgotten its process: {each}")
            if state == WAITING:
                if not ending and not waits:
                    self.check_way(name)
            elif state not in RESTING:
                self.check_clock(name, spec, each)
            if each.stale and not ending:
                self.check_stale(name)
            if not unit.wanted and each.pid and state in (STARTING, OK, RUNNING) and not ending and name not in self.in_between:
                check(self.goes_before(name), "{} is to be stopped, and nothing is in the way", name)
                check("to be stopped" in self.explain(name), "{} does not say that it is to be stopped", name)
            outside = state == WAITING and bool(spec.wait_for or spec.listen)
            busy = busy or state in BUSY or each.pid > 0 or outside or bool(spec.schedule)
        stays = fleet.settings.when_idle == "stay"
        check(busy or ending or stays, "nothing runs and nothing ever can, and it goes on")
        if ending and self.code is None:
            idle = "" not in armed and fleet.deadline is not None and not self.is_armed("", fleet.deadline)
            idle = idle or (fleet.deadline is None and not self.in_flight(overlord.Exit, ""))
            check(not idle, "a shutdown without a deadline")
        self.unwell.clear()

    def is_armed(self, name: str, deadline: float) -> bool:
        """Tell whether a timer is set for that, or has struck a moment ago."""
        timer = self.timers.get(name)
        return name in self.due or bool(timer and timer[2] and abs(timer[0] - deadline) < EPSILON)

    def check_stale(self, name: str) -> None:
        """Check that a process that is not the one wanted any more is about to go, or waits for what is on its way."""
        status = self.fleet.units[name].status
        check(status.state in (STARTING, OK, RUNNING), "{} is to be restarted in {}", name, status)
        check(name not in self.unwell, "{} is unwell, and stays", name)
        if name in self.in_between:
            return
        moving = [each for each in self.team(name) if self.state(each) in (WAITING, STARTING, STOPPING, BACKOFF)]
        waits = (status.state == OK and moving) or self.unsettled(name) or self.goes_before(name)
        check(waits, "{} is to be restarted ({}), and nothing is in the way", name, status.stale)
        check(status.stale in self.explain(name), "{} does not say that it is to be restarted", name)

    def check_clock(self, name: str, spec: Any, each: overlord.Status) -> None:
        """Check that a unit in a state that is to pass has something that ends it, and one that may stay has no timer."""
        state, timed = each.state, each.deadline is not None
        if state in (STARTING, RUNNING) and not each.pid:
            check(self.in_flight(overlord.Spawn, name), "{} is to start, and nobody does it: {}", name, each)
        elif state == OK:
            check(not timed or spec.max_age or each.left, "{} needs no timer in {}", name, each)
            check(timed or not each.left, "{} may wait for ever for another process: {}", name, each)
        elif state == RUNNING:
            check(timed == bool(spec.timeout), "{} has to end by its timeout, or has none: {}", name, each)
        elif state == STOPPING and not timed:
            process = self.processes[each.pid]
            check(process.killed or self.in_flight(overlord.Kill, name), "{} may never end: {}", name, each)
        else:
            check(timed, "{} may never leave {}", name, each)

    def in_flight(self, kind: Any, name: str) -> bool:
        """Tell whether such an action is still to be performed."""
        actions = itertools.chain(self.fleet.actions, self.actions)
        return any(isinstance(action, kind) and getattr(action, "unit", "") == name for action in actions)

    def check_way(self, name: str) -> None:
        """Check that a waiting unit has a reason to wait, and says for whom; where that is in vain, too."""
        unit = self.fleet.units[name]
        said = self.fleet.explain(unit, self.now)
        check(said, "{} does not say what it waits for", name)
        missing = [(dep, how) for dep, how in unit.spec.deps if how == "always" or not self.is_met(name, dep, how)]
        outside = bool(unit.spec.wait_for or unit.spec.listen)
        check(missing or outside or self.unsettled(name), "{} waits for nothing: {}", name, said)
        named = [dep for dep, _ in missing if f"{dep}:" in said]
        other = re.match(r"for ([^ ]+) to be restarted", said)  # with which it bounces, by way of one that waits in vain by now
        above = other and self.fleet.units[other[1]].status.state not in RESTING and name in self.closure[other[1]]
        check(named or outside or above or self.unsettled(name), "{} waits for {}, and says {}", name, missing, said)
        for dep in named[:1]:
            seen = {name}
            while self.state(dep) == WAITING and dep not in seen:
                seen.add(dep)
                after = re.match(r"for ([^ :,]+):", self.explain(dep))
                if not after or after[1] not in self.fleet.units:
                    return
                dep = after[1]
            check(dep not in seen, "{} waits for itself, by {}", name, dep)
            if self.state(dep) in ENDED:
                check(f"{dep} is {self.state(dep)}" in said, "{} waits for {}, who ended, and says {}", name, dep, said)

    def check_schedules(self) -> None:
        """Check that the clock looks at the wall at least once a minute, and never without need."""
        if self.clockwork and not self.fleet.pending:
            plans = [unit.spec.schedule for unit in self.fleet.units.values() if unit.spec.schedule]
            timer = self.clockwork.timer
            check(bool(plans) == bool(timer and timer[2]), "a schedule without a timer, or a timer without a schedule")
            by_wall = any(not plan.every for plan in plans)
            check(not by_wall or timer[0] <= self.now + 60 + EPSILON, "it does not look at the wall clock for over a minute")

    def remember(self, name: str, spec: Any, event: Event, old: overlord.Status, new: overlord.Status) -> None:
        """Note what later checks need."""
        if new.state in (STARTING, BACKOFF):
            self.tried.add(name)
        elif new.state in (STOPPING, *RESTING):
            self.tried.discard(name)
        if spec.kind == "script" and new.state in (OK, DONE, FAILED) and self.for_whom != overlord.BY_CLOCK:
            self.ran_out.add(name)
        if new.state == WAITING:
            self.waiting_since[name] = self.clock
        elif new.state in (STARTING, RUNNING):
            self.run_began[name] = self.launched_at[name] = self.clock
        elif new.state == OK and spec.kind == "script":
            process = self.current[name]
            check(process.reaped and process.code in spec.success, f"{name} is ok and was not: {new}")
            if self.for_whom == overlord.BY_CLOCK:  # which changes no `ok`, and is for no start
                return
            self.succeeded.add(name)
            self.runs.setdefault(name, []).append((self.run_began[name], self.for_whom))
        elif new.state == OK:
            process = self.current[name]
            check(not process.reaped and self.is_up(process), f"{name} is ok and was not: {new}")
            self.ok_at[name] = self.clock
        elif new.state == FAILED:
            maybe = self.is_lenient(name) or name in self.touched or self.reloads > 0
            maybe = maybe or self.for_whom == overlord.BY_CLOCK
            self.failures.append((self.code_of(name, event, new), maybe))

    def is_lenient(self, name: str) -> bool:
        """Tell whether something needs a script as `always` or `ended`, so that its failure may not count."""
        deps = [dep for unit in self.fleet.units.values() for dep in unit.spec.deps]
        return (name, "always") in deps or (name, "ended") in deps

    def count_respawn(self, name: str, spec: Any) -> None:
        """Check `respawns` with a count of one's own."""
        instants = self.respawns.setdefault(name, [])
        in_a_row = spec.respawns and spec.respawns[1] == overlord.IN_A_ROW
        if in_a_row and self.fleet.units[name].status.oks > self.oks_at.get(name, 0):
            instants.clear()  # the run that has ended was OK, or a script has succeeded since
            self.oks_at[name] = self.fleet.units[name].status.oks
            if spec.kind == "daemon":
                return
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
        return 1 if event.kind in ("unspawned", "barred") or not code else code if code > 0 else 128 - code

    def begin_ending(self, cause: int | None) -> None:
        """Note how it stood when the shutdown began."""
        self.cause, self.ended_at = cause, self.now
        for name in self.fleet.units:
            below = max((self.levels[dep] for dep, _ in self.fleet.units[name].spec.deps), default=0)
            self.levels[name] = below + (self.fleet.units[name].status.pid > 0)
            deps = [self.fleet.units[dep] for dep, _ in self.fleet.units[name].spec.deps]
            times = [self.below[dep.name] + (dep.status.pid > 0) * dep.spec.stop_timeout for dep in deps]
            self.below[name] = max(times, default=0.0)

    def check_exit(self, slack: float = 0.2) -> None:
        """Check the end: its code by the precedence of the specification, and that it came in time."""
        check(self.code is not None, "there was no exit")
        total = self.config.settings.shutdown_timeout
        total = total if list(self.fleet.units) != [MAIN] else max(total, overlord.LEFT_LEAST + overlord.sweep_share(total))
        kills = [*((kill[0], kill[2]) for kill in self.kills), *self.sweeps]
        last = max((at for at, signum in kills if signum == KILL and at not in self.again), default=0.0)
        check(last <= self.ended_at + total + slack, f"a SIGKILL {last - self.ended_at:.2f} s after the request, not {total}")
        took = self.exited_at - self.ended_at
        reaping = (1 + len(self.again)) * overlord.SWEEP_TIMEOUT / 2
        check(took <= total + reaping + slack, f"the shutdown took {took:.2f} s, not {total}")
        main = self.current.get(MAIN)
        if self.asked_code is not None:
            wanted = {self.asked_code}
        elif main and main.reaped:
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
        check(fleet.pending is None, "a reload never comes to its end")
        for name, status in [(name, unit.status) for name, unit in fleet.units.items()]:
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
                check(hopeless, f"{name} waits for nothing: {status}")
            if state == OK and spec.kind == "daemon":
                beside = any(self.is_in_vain(other) for other in self.team(name))  # it would not come back either
                check(not status.stale or beside, f"{name} is still to be restarted")
                for dep, how in spec.deps:
                    late = (name, dep) in self.bound_late
                    fresh = how != "bounce" or late or self.ok_at.get(dep, 0) < self.launched_at[name]
                    check(fresh or fleet.units[dep].status.state != OK, f"{name} was not restarted after {dep} was")

    def is_hopeless(self, dep: str, how: str) -> bool:
        """Tell whether a dependency will never be met."""
        state = self.fleet.units[dep].status.state
        if how == "started":
            return state == WAITING and not self.is_in_vain(dep)
        if how == "ended":
            return state == WAITING or (state in (OK, FAILED, STOPPED) and dep not in self.ran_out)
        if self.config.units[dep].kind == "daemon":
            return state == WAITING or (how != "up" and state in ENDED)
        # OK and not succeeded: its run for those who need it failed, and one by the clock, which does not count, did not
        return state == WAITING or (how == OK and state in (OK, FAILED, STOPPED) and dep not in self.succeeded)


VERBS = "start start stop stop stop restart restart restart wait status health events signal no".split()


class World(Stage):
    """A stage on which everything happens by chance, out of one seed."""

    def __init__(self, seed: int, text: str | None = None, command: Sequence[str] | None = None) -> None:
        self.seed = seed
        self.random = rng = random.Random(seed)
        main = command if command is not None else ["main"] if rng.random() < 0.3 else []
        self.lasting = rng.random() < 0.4  # nothing ends it soon
        self.span = rng.choice((100, 300, 900)) if self.lasting else rng.choice((0, 1, 5, 20, 60))
        self.calm_at = 1000.0 + self.span
        self.rest_at = self.calm_at + 600.0
        self.fork_trouble = rng.choice((0.0, 0.0, 0.05, 0.3))
        self.lateness = rng.choice((0.0, 0.1, 0.5))
        self.pausing = rng.choice((0.0, 0.0, 0.01))
        self.nasty = rng.random()
        self.looked = 1000.0
        self.fed_at, self.fed = 0.0, 0
        self.runs_by_clock: dict[str, float] = {}
        text = random_text(rng, self.lasting) if text is None else text
        super().__init__(text, *main, chance=lambda: self.random.random(), boot=False)
        self.time = Time(self)
        self.texts = [self.text]
        self.read = self.text  # what a reload finds; nothing is for a mistake
        self.clients: list[Client] = []
        many = 1 + self.span // 60
        self.mutations = rng.choice((0, 0, 1, 2, 6)) * (1 + self.span // 200)
        self.plan(self.ask, rng.choice((0, 1, 3, 12)) * many)
        self.plan(self.chatter, rng.choice((0, 0, 5)) * many)
        self.plan(self.set_clock, rng.choice((0, 0, 3)) * many)
        self.plan(self.mutate, self.mutations)
        if rng.random() < 0.5 and not self.lasting:
            self.at(rng.choice((0.0, rng.uniform(0, 5), rng.uniform(0, 60))), self.ask_to_end)
            if rng.random() < 0.3:
                self.at(rng.uniform(0, 60), self.ask_to_end)
        self.at(self.rest_at - 100.0 - self.now, self.stop_clock)

    def plan(self, deed: Callable[[], None], count: int) -> None:
        """Have somebody do something a few times: at any moment, and often soon after something else."""
        for _ in range(count):
            span = self.random.choice((0, 3, 3, self.span + 20, self.span + 20))
            self.at(self.random.uniform(0, span), deed)

    def ask_to_end(self) -> None:
        """Somebody wants it all to end: by a signal, or by hand."""
        if self.random.random() < 0.7:
            self.arrived.append(self.random.choice((TERM, INT)))
        else:
            self.request_by_hand("shutdown", *self.random.choice(([], ["0"], ["7"], ["256"])))

    def ask(self) -> None:
        """A client asks for something, sensible or not."""
        rng = self.random
        names = [name for name in self.fleet.units if name != MAIN]
        chosen = rng.sample(names, min(len(names), rng.randint(1, 3))) or ["*"]
        if rng.random() < 0.05:
            chosen = [rng.choice(("*", "d*", "nobody"))]
        verb = rng.choice(VERBS)
        if verb in ("health", "no"):
            chosen = []
        elif verb == "signal":
            chosen = [rng.choice(("KILL", "TERM", "HUP", "NONE")), *chosen]
        elif verb in ("start", "stop", "restart", "wait") and rng.random() < 0.2:
            chosen += ["-t", str(rng.randint(0, 20))]
        client = self.request_by_hand(verb, *chosen)
        if rng.random() < 0.1:
            self.at(rng.uniform(0, 5), lambda: self.hang_up(client))
        if rng.random() < 0.2 and self.code is None:  # another one asks in the same moment
            self.ask()

    def request_by_hand(self, *words: str) -> Client:
        """Send a request, and have it heard."""
        self.note(f"by hand: {' '.join(words)}")
        client = Client(words, self.clock, self.reloads, self.answered)
        client.before = {name: unit.status.state for name, unit in self.fleet.units.items()}
        self.clients.append(client)
        if self.code is None:
            request = overlord.Request(self.control, client, 0)
            self.control.requests.append(request)
            request.read_request()
        return client

    def hang_up(self, client: Client) -> None:
        """A client goes without having heard the end of its answer."""
        client.gone = True
        for request in self.control.requests:
            if request.sock is client:
                request.hang_up()
                return

    def answered(self, client: Client) -> None:
        """Check that an answer is an honest one."""
        verb, code = client.words[0], client.code
        self.note(f"answer to {' '.join(client.words)}: {client.answer[-200:]!r}")
        known = [name for name in client.words[1:] if name in self.fleet.units]
        check(code in (0, 1, 3, 64, 78), f"{client.words} is answered by {code}")
        if code == 0 and verb == "stop":
            alive = [name for name in known if self.present[name]]
            check(not alive, f"{alive} are said to be stopped")
        if code == 0 and verb in ("start", "restart", "wait"):
            for name in known:
                up = client.before.get(name) == OK and verb != "restart"
                up = up or self.fleet.units[name].spec.kind != "daemon" or self.ok_at.get(name, 0) > client.since
                check(up, f"{name} is said to be up")
        if code == 0 and verb == "reload" and self.reloads == client.reloads + 1:
            check(self.specs == self.config.units or self.fleet.ending, "it is said to be reloaded")

    def check_answers(self) -> None:
        """Check, at rest, that everybody has got an answer who can get one."""
        for client in self.clients:
            verb, *names = client.words
            if client.code is not None or client.gone or verb == "events":
                continue
            states = {self.state(name) if name in self.fleet.units else FAILED for name in names}
            undecided = verb == "wait" and ("*" in "".join(names) or not (states <= {OK} or states.intersection(ENDED)))
            check(undecided, f"{client.words} gets no answer")

    def set_clock(self) -> None:
        """Somebody sets the clock on the wall."""
        self.time.ahead += self.random.choice((30, -30, 59, 300, -300, 3600, -3600, 86400, 3599 - self.time.time() % 3600))
        self.note(f"the clock on the wall is set to {self.time.time():.0f}")

    def stop_clock(self) -> None:
        """No scheduled run comes any more, so that everything comes to a rest."""
        self.watch.cancel(self.clockwork.timer)
        self.clockwork = None

    def struck(self, name: str) -> None:
        """Check that it is time for a scheduled run."""
        plan, wall = self.fleet.units[name].spec.schedule, self.time.time()
        self.note(f"by the clock: {name}")
        if plan.every:
            since = self.now - self.runs_by_clock.get(name, 0.0)
            check(since >= plan.every - EPSILON, f"{name} is run again after {since:.3f} s, and not each {plan.every:g} s")
        else:
            minutes = [wall // 60 * 60 - late for late in (0, 60, 120)]
            found = [self.time.localtime(minute) for minute in minutes if minute >= wall - overlord.MISSED]
            fits = any(each[4] in plan.minutes and each[3] in plan.hours for each in found)
            check(fits, f"{name} is run at {wall}, which is not in its schedule")
        self.runs_by_clock[name] = self.now

    def chatter(self) -> None:
        """A daemon says that it is ready, whenever it likes: sd_notify(3) may come at any time."""
        names = [name for name, unit in self.fleet.units.items() if unit.spec.ready]
        if names:
            self.tell(self.random.choice(names))
        names = [name for name, unit in self.fleet.units.items() if unit.status.pid and unit.spec.ready]
        if names and self.random.random() < 0.3:
            self.hand_over(self.random.choice(names))

    def test(self, name: str, purpose: str) -> None:
        """Probe: sooner or later it passes, and before the world is calm perhaps never; health may be lost."""
        rng = self.random
        if purpose in OUTSIDE:
            self.probe(name, purpose, rng.choice((0.0, rng.uniform(0, 5), rng.uniform(0, 30))))
        elif self.calm:
            if purpose in ("ready", "pidfile"):
                self.probe(name, purpose, rng.uniform(0, 0.4))
        elif rng.random() < 0.8 - 0.6 * self.nasty * (purpose in ("health", "watchdog")):
            if purpose in ("ready", "pidfile"):
                self.probe(name, purpose, rng.choice((0.0, rng.uniform(0, 1), rng.uniform(0, 6))))
        elif purpose in ("health", "watchdog"):
            self.probe(name, purpose, rng.expovariate(1 / 5))

    def come_there(self, name: str, purpose: str) -> None:
        """An address may be in use."""
        waits = self.fleet.units[name].reach == purpose
        if waits and purpose == "listen" and not self.calm and self.random.random() < 0.2 * self.nasty:
            self.feed(name, Event("barred", "listen tcp:80: Address already in use"))
        else:
            super().come_there(name, purpose)

    def mutate(self) -> None:
        """Somebody changes the configuration, or goes back to one of before, or makes a mistake; and reloads."""
        rng = self.random
        back = rng.random() < 0.2
        text = rng.choice(self.texts) if back else mutate_text(rng, rng.choice(self.texts[-2:]))
        self.note(f"reload:\n{text}")
        units, self.read = self.config.units, "" if rng.random() < 0.1 else text
        ending = self.fleet.ending
        client = self.request_by_hand("reload")
        if client.code is not None and (ending or not self.read):
            check(client.code in ((1, 64) if ending else (78,)), f"{self.read!r} is reloaded with {client.answer}")
            check(self.config.units is units, "what cannot be is taken over")
        elif self.read:
            self.texts.append(text)

    def compute(self, call: Callable[[], bytes], done: Callable[[bytes], None]) -> None:
        """As `overlord.Kernel.compute`: what a child finds out comes at once, or later."""
        if self.random.random() < 0.5:
            done(call())
        else:
            self.at(self.random.choice((0.0, self.random.uniform(0, 2))), lambda: done(call()))

    def reread(self) -> overlord.Config:
        """Read the configuration anew."""
        if not self.read:
            raise overlord.Mistakes(["overlord.conf:1: a mistake"])
        return configure(self.read, self.command)

    def send(self, pid: int, signum: int) -> str:
        """Signal a process, as `overlord.Kernel` does for whoever asks by hand."""
        process = self.processes.get(pid)
        if not process or not process.alive:
            return "No such process"
        if signum in (KILL, TERM):
            self.signal(process, signum)
        return ""

    def settle(self) -> None:
        """The world turns by itself."""

    def play(self) -> World:
        """Play to the end. Raises AssertionError with the seed, the configuration and the last events."""
        try:
            with mock.patch.object(overlord, "time", self.time):
                self.play_on()
        except Exception as error:
            tail = "\n".join(self.trace)
            raise AssertionError(f"{error!r}\nin World({self.seed}) of\n{self.texts[0]}\n{tail}") from error
        return self

    def play_on(self) -> None:
        output = SimpleNamespace(watch=self.watch, log=self.log, tails={}, apply_settings=lambda config: None)
        kernel: Any = SimpleNamespace(send_signals=self.send, compute=self.compute)
        self.control = overlord.Control(output, self.fleet, kernel, self.reread)
        self.clockwork = overlord.Clock(self)
        self.clockwork.plan()
        self.fleet.want_all(self.now)
        self.perform()
        asked = False
        for _ in range(200_000):
            if self.now > self.fed_at:
                self.fed_at, self.fed = self.now, self.clock
            check(self.clock - self.fed < 200 * len(self.fleet.units) + 200, "too much happens at one instant")
            if self.code is not None:
                break
            if self.now >= self.rest_at and not asked:
                asked = True
                if not self.fleet.ending:
                    self.check_answers()
                    if not any(spec.max_age for spec in self.config.units.values()):
                        self.check_rest()
                self.arrived.append(TERM)
                if self.fleet.transparent():  # how long it takes is the platform's affair
                    self.at(30.0, lambda: self.signal(self.current[MAIN], KILL))
                if self.random.random() < 0.2:
                    self.at(self.random.uniform(0, 3), self.ask_to_end)
                self.turn()
                continue
            self.wait()
            self.turn()
        else:
            raise AssertionError("it never ends")
        self.check_exit(0.2 if self.lateness else EPSILON)

    def wait(self) -> None:
        """Let time pass up to what comes next, or a bit longer, or stand still (`docker pause`): Watch.wait and Loop.paused."""
        rng, before = self.random, self.now
        if self.arrived or self.dead:
            return
        instant, deadline = self.next_instant(), self.next_deadline()
        instant = self.rest_at if instant is None or (before < self.rest_at < instant) else instant
        self.now = max(before, instant)
        if rng.random() < self.lateness:
            self.now += rng.uniform(0, 0.03)
        elif rng.random() < self.pausing:
            gap = rng.uniform(1.1, 100.0)
            self.agenda = [(at + gap, serial, action) for at, serial, action in self.agenda]
            self.now += gap
            self.rest_at += gap
            self.ended_at += gap if self.fleet.ending else 0.0
            if deadline is not None and self.now - deadline > overlord.PAUSED and not self.fleet.ending:
                self.shift(self.now - self.looked)
            self.note(f"paused for {gap:.3f} s")
        self.looked = self.now

    @property
    def calm(self) -> bool:
        return self.now >= self.calm_at

    def fork_fails(self, name: str) -> bool:
        return not self.calm and self.random.random() < self.fork_trouble

    def temper(self, name: str) -> Temper:
        """Return how the next process of a unit will behave."""
        rng, spec = self.random, self.fleet.units[name].spec
        workers = ()
        if rng.random() < 0.3 * self.nasty or (spec.pidfile and rng.random() < 0.5):
            workers = tuple(self.worker() for _ in range(rng.randint(1, 2)))
        patience = self.patience()
        farewell = rng.choice((None, 0, 0, 3))
        grip = rng.choice((0.0,) * 30 + (rng.uniform(0, 30),))
        base = Temper(patience=patience, farewell=farewell, grip=grip, workers=workers)
        code = rng.choice((0, 0, 1, 2, 7, -9, -15))
        if self.calm:
            done = name == MAIN or spec.kind == "daemon"
            life = rng.uniform(0.01, min(1.0, spec.timeout or 1.0) / 2)
            return base if done else base._replace(life=life, code=spec.success[0])
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


def random_text(rng: random.Random, lasting: bool = False) -> str:
    """Return a configuration by chance: any graph, any option that shapes a unit's life; or one that no failure ends."""
    count = rng.choice((1, 2, 3, 4, 5, 6, 8, 12))
    density = rng.choice((0.1, 0.3, 0.6)) if count < 6 else rng.choice((0.1, 0.25))
    bounces, orders, scripts = rng.random(), rng.choice((0.0, 0.2, 0.5)), rng.choice((0.0, 0.2, 0.4))
    fatal = 0.0 if lasting else rng.choice((0.0, 0.1, 0.5))
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
                    state = rng.choice(("ok", "always", "ended"))
                elif rng.random() < orders:
                    state = "started"
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
    idle = rng.choice(("exit", "exit", "exit", "stay"))
    head = f"[overlord]\nforever = {forever}\nshutdown_timeout = {total}\nwhen_idle = {idle}\n"
    return head + "".join(sections)


def random_options(rng: random.Random, kind: str, fatal: float, ages: float) -> dict[str, str]:
    """Return options of one unit by chance."""
    choices: dict[str, Sequence[str]] = {
        "respawns": ("0", "1", "3", "2/10s", "5/60s", "0/ok", "2/ok", "unlimited", "unlimited"),
        "backoff": ("100ms..30s", "1s..8s", "50ms", "0"),
        "success": ("0", "0 2", "TERM 7"),
        "stop_timeout": ("8s", "1s", "0"),
        "stop_signal": ("TERM", "INT"),
        "kill_mode": ("mixed", "all", "process"),
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
        if rng.random() < 0.3:
            choices["pidfile"] = ("/run/x.pid",)
            choices["ready_timeout"] = ("500ms", "3s", "60s")
        if rng.random() < 0.2:
            ours = f"unix:/run/{rng.getrandbits(60):x}"  # two units with one address are a mistake
            choices["listen"] = (ours, f"{ours} {ours}.two")
            choices["watchdog"] = ("5s", "30s")
    elif rng.random() < 0.3:
        choices["schedule"] = ("every 10m", "every 30s", "@hourly", "* * * * *", "*/5 * * * *")
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
    kinds: dict[str, str] = {}
    options: dict[str, dict[str, str]] = {}
    deps: dict[str, dict[str, str]] = {}
    for section in text[1:].split("\n["):
        kind, _, name = section.partition("]")[0].partition(":")
        own = dict(line.split(" = ", 1) for line in section.splitlines()[1:])
        if name:
            words = own.pop("deps", "").split(", ")
            kinds[name], options[name] = kind, own
            deps[name] = {word.partition(":")[0]: word.partition(":")[2] for word in words if word}
        else:
            general = own

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
            of_daemon = ("ok", "started", "bounce") if kind == "daemon" else ("ok", "started")
            states = ("ok", "always", "ended") if kinds[dep] == "script" else of_daemon
            again = state not in states or rng.random() < 0.1
            deps[name][dep] = rng.choice(states) if again else state
        words = ", ".join(f"{dep}:{state}" for dep, state in deps[name].items())
        own = {key: value for key, value in options[name].items() if key != "cmd"}
        make = daemon if kind == "daemon" else script
        sections.append(make(name, options[name]["cmd"], **own, **({"deps": words} if words else {})))
    rng.shuffle(sections)
    return "[overlord]\n" + "".join(f"{key} = {value}\n" for key, value in general.items()) + "".join(sections)

