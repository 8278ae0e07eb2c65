"""Fixtures of all tests, and the rule that a skip in CI is a failure. The tools behind them are in harness.py."""

from __future__ import annotations

import atexit
import os
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path
from typing import Any, Callable, Generator, Iterator

import pytest

from harness import (
    CHOSEN,
    INTERPRETERS,
    OVERLORD,
    PATIENCE,
    STRICT,
    Asking,
    Overlord,
    Terminal,
    compiled,
    eventually,
    find_python,
    minimal_python,
    namespace,
    system_python,
)

CI = os.environ.get("CI") == "true"

Start = Callable[..., Overlord]


def fail_where_skipped(report: pytest.TestReport | pytest.CollectReport) -> None:
    """Turn a skip into a failure in CI: there a test that did not run must not look like one that passed."""
    if CI and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped, and CI=true allows no skip: {report.longrepr}"


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport() -> Generator[None, Any, None]:
    """Apply the rule to tests and their fixtures."""
    fail_where_skipped((yield).get_result())


@pytest.hookimpl(hookwrapper=True)
def pytest_make_collect_report() -> Generator[None, Any, None]:
    """Apply the rule to files that are skipped whole."""
    fail_where_skipped((yield).get_result())


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark as `real` what runs overlord.py by the interpreter that $OVERLORD_PYTHON names."""
    for item in items:
        if {"default_python", "python"} & set(getattr(item, "fixturenames", ())):
            item.add_marker("real")


def pytest_runtest_teardown() -> None:
    """Have the tests' own process outlive a broken pipe, also where one called `main`, which has a client die of it."""
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)


@pytest.fixture(scope="session")
def isolation() -> None:
    """Skip where the machine lets nobody make a PID namespace: the tests would have to signal real processes."""
    try:
        subprocess.run(namespace("true"), check=True, capture_output=True, timeout=PATIENCE)
    except (OSError, subprocess.SubprocessError) as error:
        pytest.skip(f"no PID namespace can be made here: {error}")


def resolve(name: str, factory: pytest.TempPathFactory) -> list[str]:
    """Return the command of one of INTERPRETERS, of another version, or of a path; skip where it is missing."""
    if name == "minimal":
        found = minimal_python(factory.mktemp("minimal"))
    elif name == "compiled":
        folder = tempfile.mkdtemp(prefix="o", dir="/tmp")  # short: see test_no_room_for_a_link
        atexit.register(shutil.rmtree, folder)
        found = compiled(Path(folder), resolve(CHOSEN or "system", factory)[0])
    elif name == "system":
        found = system_python()
    else:
        found = find_python(name) if name[0].isdigit() or name == "musl" else shutil.which(name)
    if not found:
        made = {"musl": ": make musl", "3.14": ": make pythons"}.get(name, "")
        pytest.skip(f"no interpreter {name} on this machine{made}")
    return [found]


@pytest.fixture(scope="session")
def default_python(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The interpreter of all tests that do not run on each: the distribution's, or $OVERLORD_PYTHON (3.8, minimal)."""
    return resolve(CHOSEN or "system", tmp_path_factory)


@pytest.fixture(scope="session")
def _found() -> dict[str, list[str]]:
    return {}


@pytest.fixture(params=INTERPRETERS)
def python(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, _found: dict[str, list[str]]
) -> list[str]:
    """Each of INTERPRETERS in turn: for the core of the tests."""
    if request.param not in _found:
        _found[request.param] = resolve(request.param, tmp_path_factory)
    return _found[request.param]


@pytest.fixture
def overlord(isolation: None, tmp_path: Path, default_python: list[str]) -> Iterator[Start]:
    """A function that starts `Overlord(config, *command, ...)` in `tmp_path`; all are ended with the test."""
    started: list[Overlord] = []

    def start(config: str = "", *command: str, **options: Any) -> Overlord:
        options = {"folder": tmp_path, "python": default_python, **options}
        started.append(Overlord(config, *command, **options))
        return started[-1]

    yield start
    for each in started:
        each.close()
    told = [line for each in started for line in (*each.log, *each.out) if STRICT and "Warning: " in line]
    assert not told


@pytest.fixture
def fleet(overlord: Start) -> Start:
    """Start an overlord with a socket, and wait for its first words."""

    def start(config: str = "", *command: str, **options: Any) -> Overlord:
        settings = {"socket": "abstract", **options.pop("settings", {})}
        o = overlord(config, *command, settings=settings, **options)
        eventually(lambda: o.log or o.popen.poll() is not None, "its first words")
        return o

    return start


@pytest.fixture
def asking() -> Iterator[Callable[..., Asking]]:
    """A function that runs a verb in the background; what still runs ends with the test."""
    made: list[Asking] = []

    def make(o: Overlord, *words: str) -> Asking:
        made.append(Asking(o.client(*words)))
        return made[-1]

    yield make
    for each in made:
        each.kill()


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    """A pseudo-terminal."""
    made = Terminal()
    yield made
    made.close()


@pytest.fixture
def public(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that any user can enter and write to, with the program in it; pytest's own are closed to others."""
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    folder = Path(tempfile.mkdtemp(prefix="overlord-test-"))
    folder.chmod(0o777)
    shutil.copy(OVERLORD, folder / "overlord.py")
    monkeypatch.setattr("harness.OVERLORD", folder / "overlord.py")
    yield folder
    shutil.rmtree(folder)
