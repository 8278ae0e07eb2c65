"""Room Output's Watch with a clock of its own: what is a pause of the container, and what is overlord being slow."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Callable

import pytest

import overlord
from overlord import PAUSED, Watch


class Clocked:
    """A Watch that sleeps as long as it is told, or else until its time has come; `log` is what happened."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.log, self.naps = 1000.0, [], []  # type: float, list[object], list[float]
        self.ready: list[int] = []  # descriptors that have something when it wakes up
        monkeypatch.setattr(overlord.time, "monotonic", lambda: self.now)
        self.watch = Watch()
        self.watch.epoll.close()
        self.watch.epoll = SimpleNamespace(poll=self.sleep)  # type: ignore[assignment]
        self.watch.paused = self.paused

    def sleep(self, timeout: float | None) -> list[tuple[int, int]]:
        self.now += self.naps.pop(0) if self.naps else timeout or 0.0
        ready, self.ready = self.ready, []
        return [(fd, 0) for fd in ready]

    def paused(self, gap: float) -> bool:
        self.log.append(("paused", gap))
        for timer in self.watch.timers:
            timer[0] += gap
        return True

    def later(self, delay: float, what: str) -> None:
        self.watch.later(self.now + delay, lambda: self.log.append(what) or True)


@pytest.fixture
def clocked(monkeypatch: pytest.MonkeyPatch) -> Callable[[], Clocked]:
    return lambda: Clocked(monkeypatch)


def test_a_sleep_too_long_is_a_pause(clocked: Callable[[], Clocked]) -> None:
    """The timer moves by as much as the sleep was long, and is due no sooner."""
    c = clocked()
    c.later(5.0, "timer")
    c.naps = [100.0]
    c.watch.wait(None)
    assert c.log == [("paused", 100.0)]
    c.watch.wait(None)
    assert c.log == [("paused", 100.0), "timer"]
    assert c.now == 1105.0


def test_a_deadline_slept_past_is_a_pause(clocked: Callable[[], Clocked]) -> None:
    """The same with the deadline of the fleet, where there is no timer."""
    c = clocked()
    c.naps = [5.0 + PAUSED + 0.5]
    c.watch.wait(c.now + 5.0)
    assert c.log == [("paused", 5.0 + PAUSED + 0.5)]


def test_a_sleep_a_bit_too_long_is_none(clocked: Callable[[], Clocked]) -> None:
    """A machine under load wakes late."""
    c = clocked()
    c.later(5.0, "timer")
    c.naps = [5.0 + PAUSED - 0.1]
    c.watch.wait(None)
    assert c.log == ["timer"]


def test_slowness_between_two_sleeps_is_none(clocked: Callable[[], Clocked]) -> None:
    """A thousand starts may take seconds, in which timers become due: they are late, and nothing moves."""
    c = clocked()
    c.later(0.5, "timer")
    for _ in range(60):
        c.now += 0.5
        c.watch.check_clock()
    c.watch.wait(None)
    assert c.log == ["timer"]


def test_standing_still_between_two_sleeps_is_a_pause(clocked: Callable[[], Clocked]) -> None:
    """A container may be paused while overlord is at work."""
    c = clocked()
    c.later(0.5, "timer")
    c.now += 30.0
    c.watch.check_clock()
    c.watch.wait(None)
    c.watch.wait(None)
    assert (c.log, c.now) == ([("paused", 30.0), "timer"], 1030.5)


def test_a_pause_counts_from_when_it_fell_asleep(clocked: Callable[[], Clocked]) -> None:
    """Not from a sleep without any timer, which may have been an hour before."""
    c = clocked()
    c.watch.calls[7] = lambda: c.later(0.001, "timer")  # as a captured line has it
    c.ready, c.naps = [7], [3600.0, 2.0]
    c.watch.wait(None)
    assert c.log == [("paused", 2.0)]


def test_without_a_wish_nothing_moves(clocked: Callable[[], Clocked]) -> None:
    """In a shutdown time goes on, paused or not: somebody waits for its end."""
    c = clocked()
    c.watch.paused = lambda gap: False
    c.later(5.0, "timer")
    c.naps = [100.0]
    c.watch.wait(None)
    assert c.log == ["timer"]


def test_a_number_that_is_used_again(clocked: Callable[[], Clocked]) -> None:
    """What was ready when a call before closed it has nothing to do with whoever has its number since, even after an error."""
    c = clocked()

    def replace() -> None:
        del c.watch.calls[8]
        c.watch.calls[8] = lambda: c.log.append("another")
        raise RuntimeError

    c.watch.calls.update({7: replace, 8: lambda: c.log.append("it"), 9: lambda: c.log.append("the rest") or True})
    c.ready = [7, 8, 9]
    with pytest.raises(RuntimeError):
        c.watch.wait(None)
    c.watch.wait(None)
    assert c.log == ["the rest"]


def test_cancelled_timers_do_not_pile_up(clocked: Callable[[], Clocked]) -> None:
    """Timers that are set anew again and again, as those of a unit that flaps, are dropped long before their instant."""
    c = clocked()
    c.later(5.0, "timer")
    for _ in range(1000):
        c.watch.cancel(c.watch.later(c.now + 3600.0, lambda: True))
    assert len(c.watch.timers) < 200
    c.watch.wait(None)
    assert c.log == ["timer"]
