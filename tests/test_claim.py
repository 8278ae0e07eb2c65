"""Whose process is whose: `claim` against a simulated kernel that knows who really made each process.

The examples say what each kind of evidence is worth. Then worlds of units, users, helpers, a main command and sessions from
outside go their random ways: processes fork, take sessions, clean their environments, drop privileges, end; numbers are few, and
used again. After each reading of /proc must hold:

- no unit has a process that it did not make; what belongs to nobody by the evidence of before stays nobody's;
- what is certain is claimed: known processes, the unit's session, all that descends from these, what carries the unit's name;
- an orphan in doubt is listed with all units that may have made it, the true one among them.

Two things no evidence tells, and overlord may err there: a process of a unit that is over, which no reading had shown before; and
one from outside with a cleaned environment. Both hurt no living unit.
"""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import overlord
from overlord import MAIN, OK, RUNNING, STARTING, STOPPING, Origin, Process, Status
from world import configure

ROOT, GAMES, BIN = 0, 5, 2
OWN = 1


# --- examples ---------------------------------------------------------------------------------------------------------


def make_units(*names: str, main: bool = False, **options: object) -> list[Any]:
    """Return units that run, with main processes 100, 200 ..., started at those ticks, of root."""
    lines = [f"{key} = {value}" for key, value in options.items()]
    text = "\n".join("\n".join([f"[daemon:{name}]", f"cmd = {name}", *lines]) for name in names)
    units = [overlord.Unit(spec) for spec in configure(text, ["sh"] if main else []).units.values()]
    for number, unit in enumerate(units, 1):
        run(unit, 100 * number, 100 * number)
    return units


def run(unit: Any, pid: int, born: int) -> None:
    """Have a unit be running."""
    unit.status, unit.kin = Status(OK, pid=pid, up=True), {pid: born}
    unit.sessions, unit.born, unit.user = (pid,), born, None


class Reading:
    """One reading of /proc, and what the environments in it show."""

    def __init__(self, *units: Any, adopts: bool = True, own: int = OWN) -> None:
        self.units, self.adopts, self.own = units, adopts, own
        self.found = {own: Process(own, 0, "overlord", 0, own)}
        self.origins: dict[int, Origin] = {}
        self.strangers: Any = {}
        self.helpers: list[int] = []
        self.ending: set[Any] = set()
        for unit in units:
            own_session = unit.name == MAIN
            session, environment = (own, None) if own_session else (unit.status.pid, unit.name)
            self.add(unit.status.pid, unit.born, own, session, unit.name, environment)

    def add(
        self, pid: int, born: int, parent: int, session: int, name: str = "x", unit: str | None = None, user: int | None = ROOT
    ) -> Reading:
        """Add a process. `unit`: as in an Origin."""
        self.found[pid] = Process(pid, born, name, parent, session)
        self.origins[pid] = Origin(unit, True, user)
        return self

    def remove(self, *pids: int) -> Reading:
        for pid in pids:
            del self.found[pid]
        return self

    def look(self, process: Process) -> Origin:
        return self.origins[process.pid]

    def claim(self) -> dict[int, str]:
        """Return the unit of each process, those left out that are main processes; and be ready for the next reading."""
        owner, lone = overlord.claim(
            self.found, self.own, self.adopts, self.units, self.helpers, self.strangers, self.ending, self.look
        )
        self.strangers = lone
        for unit in self.units:
            unit.kin = {pid: self.found[pid].born for pid, whose in owner.items() if whose is unit}
            unit.sessions = tuple({self.found[pid].session for pid in unit.kin}) or unit.sessions
        mains = {unit.status.pid for unit in self.units}
        return {pid: unit.name for pid, unit in owner.items() if pid not in mains}

    def doubts(self) -> dict[int, list[str]]:
        """Return the strangers, with the units that may have made them."""
        return {pid: sorted(unit.name for unit in each.makers) for pid, each in self.strangers.items()}


def test_its_session_is_a_units_whatever_the_parent() -> None:
    a, b = make_units("a", "b")
    assert Reading(a, b).add(110, 300, OWN, 100).add(210, 300, OWN, 200).claim() == {110: "a", 210: "b"}


def test_whatever_descends_from_a_unit_is_the_units() -> None:
    """In whatever session, of whatever user, with whatever environment."""
    a, b = make_units("a", "b")
    reading = Reading(a, b).add(110, 300, 100, 110).add(111, 301, 110, 111, user=GAMES).add(112, 302, 111, 112, unit="b")
    assert reading.claim() == {110: "a", 111: "a", 112: "a"}


def test_who_was_known_stays_known() -> None:
    """Whoever its parent is by then; and so do those in its session."""
    a, b = make_units("a", "b")
    reading = Reading(a, b).add(110, 300, 100, 110)
    reading.claim()
    reading.add(110, 300, OWN, 110).add(111, 301, OWN, 110).add(112, 302, 111, 112)
    assert reading.claim() == {110: "a", 111: "a", 112: "a"}


def test_a_number_that_is_used_again_is_another_process() -> None:
    a, b = make_units("a", "b")
    reading = Reading(a, b).add(110, 300, 100, 110)
    reading.claim()
    assert reading.add(110, 400, OWN, 110).claim() == {}
    assert reading.doubts() == {110: ["a", "b"]}
    assert reading.add(110, 500, 200, 110).claim() == {110: "b"}
    assert reading.doubts() == {}


def test_the_number_of_one_that_was_left_is_used_again() -> None:
    a, b = make_units("a", "b")
    reading = Reading(a, b).add(110, 400, 200, 110)
    reading.strangers = {110: overlord.Stranger(300, ())}
    assert (reading.claim(), reading.doubts()) == ({110: "b"}, {})


def test_a_dead_leaders_number_that_is_used_again() -> None:
    """While the unit has others that are to be stopped."""
    a, b = make_units("a", "b")
    reading = Reading(a, b).add(110, 150, 100, 110)
    reading.claim()
    a.status = a.status._replace(left=True, state=STOPPING)
    reading.remove(100).add(110, 150, OWN, 110).claim()
    reading.add(100, 400, 200, 100).add(101, 401, 100, 100)
    assert reading.claim() == {101: "b", 110: "a"}


def test_a_leaders_number_that_is_used_again() -> None:
    """The main process is another one since, and the leader and its session are gone: that session is somebody else's."""
    a, b = make_units("a", "b")
    reading = Reading(a, b).add(110, 150, 100, 110)
    reading.claim()
    a.status = a.status._replace(pid=110)
    reading.remove(100).add(110, 150, OWN, 110).claim()
    assert reading.add(100, 400, 200, 100).add(101, 401, 100, 100).claim() == {100: "b", 101: "b"}


def test_the_name_in_its_environment_tells_whose_an_orphan_is() -> None:
    """And that of an orphan tells it of those that descend from it."""
    a, b = make_units("a", "b")
    reading = Reading(a, b).add(110, 300, OWN, 110, unit="a").add(111, 301, 110, 111).add(210, 300, OWN, 210, unit="b")
    assert reading.claim() == {110: "a", 111: "a", 210: "b"}
    assert reading.doubts() == {}


@pytest.mark.parametrize("parent", [OWN, 111])
def test_the_name_tells_more_than_the_session_or_the_descent_of_one_in_doubt(parent: int) -> None:
    """Their maker, who led that session, ended; 111 cleaned its environment, 112 did not."""
    a, b = make_units("a", "b")
    reading = Reading(a, b).add(111, 301, OWN, 110)
    assert reading.claim() == {}
    assert reading.add(112, 302, parent, 110, unit="a").add(113, 303, 112, 113).claim().keys() >= {112, 113}


def test_the_name_of_a_unit_that_is_younger_or_gone_gives_an_orphan_to_nobody() -> None:
    a, b = make_units("a", "b")
    reading = Reading(a, b).add(110, 199, OWN, 110, unit="b").add(111, 300, OWN, 111, unit="c")
    assert reading.claim() == {}
    assert reading.doubts() == {110: [], 111: []}


def test_an_orphan_belongs_to_the_only_unit_that_can_have_made_it() -> None:
    (a,) = make_units("a")
    assert Reading(a).add(110, 300, OWN, 110).claim() == {110: "a"}
    assert Reading(a).add(110, 99, OWN, 110).claim() == {}, "it is older than the unit"


def test_an_orphan_of_another_user_is_in_doubt_even_with_one_unit() -> None:
    (a,) = make_units("a")
    reading = Reading(a).add(110, 300, OWN, 110, user=GAMES)
    assert (reading.claim(), reading.doubts()) == ({}, {110: ["a"]})


def test_only_root_and_its_own_user_can_have_made_an_orphan() -> None:
    a, b = make_units("a", "b")
    for unit, user in ((a, GAMES), (b, BIN)):
        unit.user, unit.spec = user, unit.spec._replace(uid=str(user))
    assert Reading(a, b).add(110, 300, OWN, 110, user=GAMES).claim() == {110: "a"}
    b.user, b.spec = ROOT, b.spec._replace(uid="root")
    reading = Reading(a, b).add(111, 301, OWN, 111, user=GAMES)
    assert (reading.claim(), reading.doubts()) == ({}, {111: ["a", "b"]})


def test_an_orphan_in_doubt_is_nobodys_for_good() -> None:
    """With all that descends from it and its session: also when one unit alone is left."""
    a, b = make_units("a", "b")
    reading = Reading(a, b).add(110, 300, OWN, 110).add(111, 301, 110, 111).add(112, 302, 110, 110)
    assert reading.claim() == {}
    assert reading.doubts()[110] == ["a", "b"]
    reading.units = (b,)
    assert reading.remove(100).claim() == {}
    reading.remove(110).add(111, 301, OWN, 111).add(112, 302, OWN, 110)
    assert reading.claim() == {}, "those orphans were seen before, below one in doubt"


def test_whom_all_that_may_have_made_it_are_about_to_end_for_goes_with_one_of_them() -> None:
    a, b, c = make_units("a", "b", "c")
    reading = Reading(a, b, c).add(110, 250, OWN, 110)
    reading.ending = {a, b}
    assert reading.claim()[110] in "ab", "c is younger"
    reading = Reading(a, b, c).add(110, 350, OWN, 110)
    reading.ending = {a, b}
    assert (reading.claim(), reading.doubts()) == ({}, {110: ["a", "b", "c"]})


def test_who_has_the_containers_own_environment_is_nobodys() -> None:
    """`docker exec` had it started, and left it behind."""
    (a,) = make_units("a")
    reading = Reading(a).add(110, 300, OWN, 110, unit="")
    assert (reading.claim(), reading.doubts()) == ({}, {110: []})


def test_a_session_from_outside_is_nobodys() -> None:
    """Its parent is none that can be seen, nor is the leader of its session: those of all such sessions have the number 0."""
    (a,) = make_units("a")
    reading = Reading(a).add(110, 300, 0, 0).add(111, 301, 110, 0).add(112, 302, 110, 112)
    assert (reading.claim(), reading.doubts()) == ({}, {110: [], 111: [], 112: []})
    assert reading.add(113, 303, OWN, 0).claim() in ({}, {113: "a"})
    assert {*reading.claim()} <= {113}, "the session 0 is no evidence"


def test_no_session_is_shared_by_those_from_outside() -> None:
    """Even where one of them was taken for a unit's."""
    (a,) = make_units("a")
    a.kin[110] = 300
    assert Reading(a).add(110, 300, OWN, 0).add(111, 301, OWN, 0, unit="").claim() == {110: "a"}


def test_an_orphan_of_a_session_from_outside_is_nobodys() -> None:
    """Whatever its environment: others in that session are from outside."""
    (a,) = make_units("a")
    reading = Reading(a).add(110, 300, 0, 110, unit="").add(111, 301, OWN, 110)
    assert reading.claim() == {}
    assert reading.claim() == {}


def test_helpers_are_nobodys() -> None:
    a, b = make_units("a", "b")
    reading = Reading(a, b).add(50, 300, OWN, 50, unit="a").add(51, 301, 50, 50, unit="a")
    reading.helpers = [50]
    assert (reading.claim(), reading.doubts()) == ({}, {})


def test_a_helper_that_is_dead_by_now_has_the_number_of_a_stranger() -> None:
    """One that was left before, and has gone."""
    (a,) = make_units("a")
    reading = Reading(a)
    reading.strangers, reading.helpers = {50: overlord.Stranger(1, ())}, [50]
    assert (reading.claim(), reading.doubts()) == ({}, {})


def test_the_main_commands_are_those_in_overlords_own_session() -> None:
    """What it has in others may be anybody's."""
    a, main = make_units("a", main=True)
    reading = Reading(a, main).add(210, 300, 200, OWN).add(211, 301, OWN, OWN).add(212, 302, 200, 212).add(213, 303, OWN, 213)
    assert reading.claim() == {210: MAIN, 211: MAIN}
    assert reading.doubts()[213] == ["a", MAIN]


def test_below_another_init_only_descendants_are_the_main_commands() -> None:
    """Without a subreaper; overlord's siblings and the shell that started it have its session too."""
    (main,) = make_units(main=True)
    reading = Reading(main, adopts=False, own=10)
    reading.found[10] = Process(10, 5, "overlord", 9, 9)
    reading.found[main.status.pid] = Process(main.status.pid, 100, "sh", 10, 9)
    reading.add(1, 1, 0, 1, "init").add(9, 2, 1, 9, "sh").add(8, 3, 9, 9).add(110, 300, main.status.pid, 9)
    assert reading.claim() == {110: MAIN}


def test_below_another_init_an_orphan_without_a_name_is_nobodys() -> None:
    (a,) = make_units("a")
    reading = Reading(a, adopts=False, own=10)
    reading.add(10, 5, 1, 9).add(1, 1, 0, 1).add(110, 300, 1, 110).add(111, 300, 1, 111, unit="a").add(112, 300, 1, 100)
    assert reading.claim() == {111: "a", 112: "a"}


def test_a_root_unit_that_became_another_user() -> None:
    """Before that, it may have made an orphan of root's, or of any user."""
    a, b = make_units("a", "b")
    reading = Reading(a, b).add(100, 100, OWN, 100, "a", "a", GAMES).add(110, 300, OWN, 110, user=ROOT)
    assert reading.claim() == {}
    assert reading.doubts() == {110: ["a", "b"]}


# --- random worlds ----------------------------------------------------------------------------------------------------

CLEAN, CONTAINERS = None, ""  # environments, as an Origin has them; else the name of a unit
NUMBERS = range(2, 100)  # pids
CROWD = 26  # processes at once
USERS = {"a": ROOT, "b": GAMES, "c": GAMES, "d": BIN, "e": ROOT, "keep": GAMES, "job": GAMES}


class Body:
    """A process as it is. `maker`: the unit that made it, and in which of its runs; ("", 0): nobody. `token`: tells its session
    from a later one of that number."""

    def __init__(self, pid: int, born: int, parent: int, maker: tuple[str, int], **rest: Any) -> None:
        self.pid, self.born, self.parent, self.maker = pid, born, parent, maker
        self.session, self.token = pid, (pid, born)
        environment: str | None = CLEAN
        self.user, self.environment, self.name = ROOT, environment, "x"
        self.zombie = self.helper = self.aid = False
        self.__dict__.update(rest)

    key = property(lambda self: (self.pid, self.born))


def make_desk(units: Mapping[str, Any], adopts: bool) -> overlord.Census:
    """Return the part of overlord that keeps the records, in a world of ours."""
    fleet: Any = SimpleNamespace(units=units, say=lambda *words: None)
    kernel: Any = SimpleNamespace(environment={b"PATH": b"/bin"}, helpers={})
    return overlord.Census(fleet, kernel, adopts)


class World:
    """All processes, and overlord's records of them. Each step takes one number, which says what happens."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.story: list[str] = []
        self.counts: Counter[str] = Counter()
        self.pid1 = self.pick((True, True, False))
        self.adopts = self.pid1 or self.pick((True, False))
        self.sees_all = self.pick((True, False))
        names = [name for name in USERS if self.pick((True, True, False))] or ["a"]
        kinds = {"keep": "kill_mode = process\n"}
        text = "".join(
            f"[{'script' if name == 'job' else 'daemon'}:{name}]\ncmd = {name}\n{kinds.get(name, '')}"
            + (f"uid = {USERS[name]}\n" if USERS[name] else "")
            for name in names
        )
        config = configure(text, ["main"] if self.pick((True, False)) else [])
        self.units: dict[str, Any] = {name: overlord.Unit(spec) for name, spec in config.units.items()}
        self.own = 1 if self.pid1 else 7
        self.now, self.last = 10, 10
        self.bodies = {pid: Body(pid, pid, 0, ("", 0)) for pid in {1, self.own}}
        if not self.pid1:  # the shell that started overlord, and something else that it started
            for pid, parent in ((5, 1), (6, 5), (7, 5)):
                self.bodies[pid] = Body(pid, pid, parent, ("", 0), session=5, token=(5, 5))
        self.overlord = self.bodies[self.own]
        self.runs: Counter[str] = Counter()
        self.leaders: dict[str, tuple[int, int]] = {}  # the first main process of its run
        self.leads: dict[str, bool] = {}  # that was alive when it was last looked at
        self.free: set[tuple[int, int]] = set()  # who was nobody's
        self.fresh: set[int] = set()  # numbers that were in use since the last reading: the kernel uses others first
        self.desk = make_desk(self.units, self.adopts)
        self.note(f"{self.pid1=} {self.adopts=} {self.sees_all=} {[*self.units]}")

    def pick(self, choices: Sequence[Any]) -> Any:
        self.number, index = divmod(self.number, len(choices))
        return choices[index]

    def note(self, text: str) -> None:
        self.story.append(f"{getattr(self, 'now', 0)}: {text}")

    # What the kernel does.

    def new(self, parent: int, maker: tuple[str, int], **rest: Any) -> Body:
        taken = {*self.bodies, *(body.session for body in self.bodies.values()), *self.fresh}
        numbers = [*range(self.last + 1, NUMBERS.stop), *NUMBERS]
        self.last = next(number for number in numbers if number not in taken)
        body = Body(self.last, self.now, parent, maker, **rest)
        self.bodies[body.pid] = body
        self.fresh.add(body.pid)
        return body

    def people(self) -> list[Body]:
        """Return all that may act."""
        own = {1, 5, 6, self.own} if not self.pid1 else {1}
        return [body for pid, body in self.bodies.items() if pid not in own and not body.zombie]

    def descends(self, body: Body, top: int) -> bool:
        while body.parent in self.bodies and body.parent != top:
            body = self.bodies[body.parent]
        return body.parent == top

    def fork(self, body: Body, **rest: Any) -> Body:
        own = {key: getattr(body, key) for key in ("aid", "session", "token", "user", "environment", "name")}
        return self.new(body.pid, body.maker, **{**own, **rest})

    def end(self, body: Body) -> None:
        """It ends, and its children are adopted."""
        for child in self.bodies.values():
            if child.parent == body.pid:
                child.parent = self.own if self.adopts and self.descends(body, self.own) else 1
        known = body.pid in self.desk.pids or body.pid in self.desk.helpers
        if known and body.parent == self.own:
            body.zombie = True
        else:
            del self.bodies[body.pid]

    def take_session(self, body: Body) -> None:
        if not any(other.session == body.pid for other in self.bodies.values()):
            body.session, body.token = body.pid, (body.pid, self.now)

    # What overlord sees, and has to make of it.

    def living(self) -> list[Any]:
        return [unit for unit in self.units.values() if unit.status.pid]

    def survey(self) -> None:
        """Look at /proc, and at what is made of it."""
        self.counts["readings"] += 1
        seen = {pid: body for pid, body in self.bodies.items() if not body.zombie}
        found = {pid: Process(pid, each.born, each.name, each.parent, each.session) for pid, each in seen.items()}

        def read_origin(process: Process, environment: object) -> Origin:
            body = seen.get(process.pid) or self.bodies.get(process.pid)
            if not body:
                return Origin(fleeting=True)
            shown = self.sees_all or body.user == ROOT
            return Origin(body.environment if shown else None, shown, body.user)

        due = self.find_certain(seen)
        doubted = {(pid, each.born) for pid, each in self.desk.strangers.items()}
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(overlord, "processes", lambda: found)
            patch.setattr(overlord, "read_origin", read_origin)
            patch.setattr(os, "getpid", lambda: self.own)
            owner = self.desk.survey()
        ending = {unit.name for unit in self.living() if self.desk.is_ending(unit)}
        for pid, unit in owner.items():
            self.judge(seen[pid], unit, ending)
        self.counts["claimed"] += len(owner)
        for pid, unit in due.items():
            assert owner.get(pid) is unit, self.tell(f"{pid} is certainly of {unit.name}, not of {owner.get(pid)}")
        for pid, body in seen.items():
            mine: Any = self.units.get(body.maker[0])
            new = body.parent == self.own and body.key not in doubted and body.key not in self.free and not body.aid
            new = new and pid not in self.desk.pids and body.maker[0] != MAIN
            mine_now = mine and mine.status.pid and body.maker[1] == self.runs[mine.name]
            if new and mine_now and pid not in owner and body.session != self.overlord.session and self.adopts:
                stranger = self.desk.strangers.get(pid, overlord.Stranger(0, ()))
                assert stranger.born == body.born, self.tell(f"{pid} is an orphan in doubt, and not listed")
                if read_origin(found[pid], {}).unit is None:
                    assert mine in stranger.makers, self.tell(f"{pid} may be of {mine.name} too")
                    self.counts["in doubt"] += 1
        self.free = {body.key for pid, body in seen.items() if pid not in owner}
        self.fresh = {*self.bodies, *(body.session for body in self.bodies.values())}
        self.leads = {unit.name: self.is_there(unit.name) for unit in self.living()}

    def judge(self, body: Body, unit: Any, ending: set[str]) -> None:
        """A unit is given a process: that has to be its own, or such as hurts no living unit."""
        maker, number = body.maker
        if unit.name == MAIN:
            assert body.token == self.overlord.token, self.tell(f"{body.pid} of the main command has another session")
        alive = maker in self.units and self.units[maker].status.pid and self.runs[maker] == number
        if maker == unit.name and (alive or body.aid or body.key not in self.free):
            return
        unseen = body.key not in self.free
        shown = body.environment is not CLEAN and (self.sees_all or body.user == ROOT)
        unseen = unseen or body.aid or maker == MAIN  # what is left of that has a shutdown come
        over = maker in self.units and not alive and unseen and not shown  # no evidence tells
        outside = not maker and not body.helper and not shown and body.key not in ((1, 1), (5, 5), (6, 6), (7, 7))
        together = alive and maker in ending and unit.name in ending
        what = "over" if over else "outside" if outside else "together" if together else ""
        assert what, self.tell(f"{body.pid} of {body.maker} is given to {unit.name}")
        self.counts[what] += 1

    def find_certain(self, seen: Mapping[int, Body]) -> dict[int, Any]:
        """Return what the evidence leaves no doubt of."""
        certain: dict[int, Any] = {}
        nobodys = {pid for pid, body in seen.items() if body.helper or body.key in self.free}
        names = {unit.name: unit for unit in self.living() if unit.name != MAIN}
        for unit in names.values():
            certain.update((pid, unit) for pid, born in unit.kin.items() if pid in seen and seen[pid].born == born)
        sessions = {seen[pid].token: unit for pid, unit in certain.items() if seen[pid].maker[0] == unit.name}
        sessions.update((self.leaders[name], unit) for name, unit in names.items() if self.leads[name] or self.is_there(name))
        nobodys -= {*certain}
        free = {seen[pid].token for pid in nobodys}
        count = -1
        while count != len(certain) + len(nobodys):
            count = len(certain) + len(nobodys)
            for pid, body in seen.items():
                if pid in certain or pid in nobodys or pid in (1, 5, 6, self.own):
                    continue
                if body.token in sessions:
                    certain[pid] = sessions[body.token]
                elif body.parent in nobodys or body.token in free:
                    nobodys.add(pid)
                elif body.parent in certain and body.maker[0] == certain[body.parent].name:
                    certain[pid] = certain[body.parent]
                elif body.parent == self.own and body.environment in names and (self.sees_all or body.user == ROOT):
                    unit = names[body.environment]
                    if body.born >= unit.born and body.maker == (unit.name, self.runs[unit.name]):
                        certain[pid] = unit
        return certain

    def is_there(self, name: str) -> bool:
        body = self.bodies.get(self.leaders[name][0])
        return bool(body and body.key == self.leaders[name] and not body.zombie)

    def tell(self, what: str) -> str:
        """Return in words what is wrong, with all that came before."""
        now = [f"{vars(body)}" for body in self.bodies.values()]
        units = [f"{unit.name}: {unit.status.pid=} {unit.sessions=} {unit.born=} {unit.kin=}" for unit in self.living()]
        return "\n".join([what, *self.story[-60:], *now, *units, f"{self.desk.strangers}"])

    # What happens.

    def step(self, number: int) -> None:
        self.number = number
        self.now += 1
        self.pick(EVENTS)(self)

    def anybody(self) -> Body | None:
        people = self.people()
        return self.pick(people) if people else None

    def forks(self) -> None:
        body = self.anybody()
        if body and len(self.bodies) < CROWD:
            self.note(f"{body.pid} forks {self.fork(body).pid}")

    def hides(self) -> None:
        """A double fork, with what is often done then."""
        body = self.anybody()
        if body and len(self.bodies) < CROWD:
            middle = self.fork(body)
            last = self.fork(middle)
            if self.pick((True, True, False)):
                self.take_session(last)
            if self.pick((True, False)):
                last.environment = CLEAN
            if self.pick((True, False)):
                self.fork(last)
            self.note(f"{body.pid} forks {last.pid} by way of {middle.pid}, {last.session=} {last.environment=}")
            self.end(middle)

    def takes_session(self) -> None:
        body = self.anybody()
        if body:
            self.take_session(body)
            self.note(f"{body.pid} has session {body.session}")

    def cleans(self) -> None:
        """It executes something else, with nothing in its environment, as cron and sshd do."""
        body = self.anybody()
        if body:
            body.environment, body.name = CLEAN, self.pick((body.name, "tool"))
            self.note(f"{body.pid} has a clean environment")

    def becomes(self) -> None:
        body = self.anybody()
        if body and body.user == ROOT:
            body.user = self.pick((GAMES, BIN))
            self.note(f"{body.pid} is of user {body.user}")

    def ends(self) -> None:
        body = self.anybody()
        if body:
            self.end(body)
            self.note(f"{body.pid} ends")

    def starts(self) -> None:
        idle = [unit for unit in self.units.values() if not unit.status.pid]
        if idle and len(self.bodies) < CROWD:
            unit = self.pick(idle)
            self.runs[unit.name] += 1
            body = self.new(self.own, (unit.name, self.runs[unit.name]), name=unit.name)
            if unit.name == MAIN:
                body.session, body.token = self.overlord.session, self.overlord.token
            else:
                body.user = USERS[unit.name]
            body.environment = CONTAINERS if unit.name == MAIN else unit.name
            run(unit, body.pid, body.born)
            state = RUNNING if unit.spec.kind != "daemon" else self.pick((OK, STARTING))
            unit.status = unit.status._replace(state=state, up=state == OK)
            unit.told = {}
            self.desk.pids[body.pid] = unit.name
            self.leaders[unit.name], self.leads[unit.name] = body.key, True
            self.note(f"{unit.name} starts as {body.pid}")

    def stops(self) -> None:
        live = [unit for unit in self.living() if unit.status.state != STOPPING]
        if live:
            unit = self.pick(live)
            unit.status = unit.status._replace(state=STOPPING)
            self.note(f"{unit.name} is to stop")
            self.survey()

    def is_handed_over(self) -> None:
        """Another process of it is its main one from now on."""
        live = [unit for unit in self.living() if len(unit.kin) > 1 and not unit.status.left and unit.name != MAIN]
        if live:
            unit = self.pick(live)
            pid = self.pick([pid for pid in unit.kin if pid in self.bodies and self.bodies[pid].born == unit.kin[pid]] or [0])
            if pid and not self.bodies[pid].zombie and not self.bodies.get(unit.status.pid, self.overlord).zombie:
                self.desk.pids.pop(unit.status.pid, None)
                self.desk.pids[pid] = unit.name
                unit.status = unit.status._replace(pid=pid)
                self.note(f"{unit.name} is handed over to {pid}")

    def buries(self) -> None:
        """Main processes are dead: what they leave behind is looked at."""
        dead = []
        for pid, name in [*self.desk.pids.items()]:
            body = self.bodies.get(pid)
            unit = self.units[name]
            if body is None or body.zombie or body.born != unit.kin.get(pid, body.born):
                if body and body.zombie:
                    unit.user = body.user
                    del self.bodies[pid]
                del self.desk.pids[pid]
                dead.append((unit, pid))
        if dead:
            self.note(f"found dead: {[(unit.name, pid) for unit, pid in dead]}")
            self.survey()
        for unit, pid in dead:
            left, _ = self.desk.find_left(unit, 0)
            self.free |= {(pid, each.born) for pid, each in self.desk.strangers.items()}
            unit.status = unit.status._replace(left=True, state=STOPPING) if left else Status()
            for helper in [pid for pid in self.desk.helpers if self.bodies[pid].maker[0] == unit.name]:
                if not self.bodies[helper].zombie:
                    self.end(self.bodies[helper])
            self.note(f"{unit.name} has left: {left}")
            if not left:
                unit.kin = {}

    def is_looked_at(self) -> None:
        """What lingers is looked at, and some of it dies of the stop signal."""
        self.survey()
        for unit in [unit for unit in self.living() if unit.status.left]:
            for pid in [*unit.kin]:
                if self.pick((True, True, False)):
                    self.end(self.bodies[pid])
                    self.note(f"{pid} of {unit.name} dies of a signal")
            if not unit.kin:
                unit.status = Status()
                self.note(f"{unit.name} is over")

    def helper_starts(self) -> None:
        live = [unit for unit in self.living() if unit.name != MAIN and not unit.status.left]
        if live and len(self.bodies) < CROWD:
            unit = self.pick(live)
            body = self.new(self.own, (unit.name, self.runs[unit.name]), user=USERS[unit.name], environment=unit.name)
            body.helper = body.aid = True
            self.desk.helpers[body.pid] = lambda code, why: None
            self.note(f"{body.pid} helps {unit.name}")

    def helpers_are_reaped(self) -> None:
        for pid in [pid for pid in self.desk.helpers if self.bodies[pid].zombie]:
            del self.desk.helpers[pid], self.bodies[pid]
            self.note(f"helper {pid} is reaped")

    def comes_from_outside(self) -> None:
        if len(self.bodies) < CROWD:
            body = self.new(0, ("", 0), environment=CONTAINERS, user=self.pick((ROOT, GAMES)))
            if self.pick((True, False)):
                body.session, body.token = 0, (0, 0)
            self.note(f"{body.pid} comes from outside, {body.session=}")

    def is_read(self) -> None:
        self.survey()


EVENTS = (
    *(World.forks,) * 4,
    *(World.hides,) * 4,
    *(World.ends,) * 5,
    *(World.starts,) * 4,
    *(World.is_read,) * 2,
    *(World.takes_session,) * 2,
    *(World.buries,) * 3,
    *(World.is_looked_at,) * 3,
    World.cleans,
    World.becomes,
    World.stops,
    World.is_handed_over,
    World.helper_starts,
    World.helpers_are_reaped,
    World.comes_from_outside,
)


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**24), st.lists(st.integers(0, 2**24), max_size=120))
def test_any_world(number: int, numbers: list[int]) -> None:
    """What fails here is short."""
    world = World(number)
    for each in numbers:
        world.step(each)


def test_worlds_of_a_seed() -> None:
    """Always the same, and long."""
    chance = random.Random(5)
    counts: Counter[str] = Counter()
    for _ in range(100):
        world = World(chance.getrandbits(64))
        for _ in range(300):
            world.step(chance.getrandbits(64))
        counts += world.counts
    print(counts)
    assert counts["in doubt"] > 100
    assert counts["claimed"] > 10000
