"""Rounds in their short form: rounds.py says what is done, and what has to hold."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import rounds


@pytest.mark.parametrize("seed", [1, 2])
def test_rounds(isolation: None, request: pytest.FixtureRequest, seed: int) -> None:
    """Always with the same units. Seed 1: some are root's, so that many an orphan is in doubt; 2: none is."""
    folder: Path = request.getfixturevalue("tmp_path" if os.geteuid() else "public")
    counts, faults = rounds.run(folder, 30, seed)
    print(counts)
    assert not faults
    assert counts["rounds"] == 30
    assert counts["killed"] > 100
