"""Chaos in its short form: chaos.py says what is done, and what has to hold afterwards."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import test_docker

engine = test_docker.engine

CHAOS = Path(__file__).with_name("chaos.py")
LACKING = 75
# The runs end by conditions, so this is only how long a broken program may hold up the tests.
TIMEOUT = 900


def run(*options: str) -> None:
    """Run chaos.py, and show what it says."""
    done = subprocess.run(
        [sys.executable, str(CHAOS), *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        timeout=TIMEOUT,
        check=False,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    print(done.stdout)
    if done.returncode == LACKING:
        pytest.skip(done.stdout.strip().splitlines()[-1])
    assert done.returncode == 0, done.stdout.strip().splitlines()[-1]


@pytest.mark.chaos
@pytest.mark.timeout(TIMEOUT)
def test_chaos_in_a_namespace() -> None:
    """A minute of it, always with the same units, so that a failure here is one of what changed; `make chaos` has others."""
    run("--minutes", "0.9", "--seed", "21")


@pytest.mark.docker
@pytest.mark.timeout(TIMEOUT)
def test_chaos_in_docker(engine: None) -> None:
    """The same in a container, with the limits that an engine sets."""
    run("--minutes", "0.3", "--seed", "2", "--docker")
