"""The short form of soak.py: nothing grows, and what grows is seen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from soak import ROOM, Portion, Sample, judge, soak

COSTS = (0.002, 0.00002, 0.003, 0.004, 0.0)
CALM = [Sample(100 * n, 1000 * n, 7 << 20, 7 << 20, 20, 0, *COSTS, 20 << 20, 15, n) for n in range(8)]


def test_soak(isolation: None, tmp_path: Path) -> None:
    """Some thousand restarts, 20,000 orphans. So short a run says little about the processor: the machine may be busy."""
    assert soak(tmp_path, Portion(1600, 20_000, 40, 40, 400), rounds=8, waver=4) == []


@pytest.mark.parametrize(
    ("field", "each", "word"),
    [
        ("memory", ROOM // 3, "memory"),
        ("descriptors", 1, "descriptors"),
        ("zombies", 1, "zombies"),
        ("per_restart", 0.001, "per_restart"),
        ("per_orphan", 0.00001, "per_orphan"),
        ("per_hand_over", 0.001, "per_hand_over"),
        ("per_reload", 0.001, "per_reload"),
        ("served", ROOM // 3, "served"),
        ("served_descriptors", 1, "served_descriptors"),
    ],
)
def test_growth_is_seen(field: str, each: Any, word: str) -> None:
    """What grows a little with each round is named; and where nothing does, nothing is."""
    assert judge(CALM) == []
    grown = [sample._replace(**{field: getattr(sample, field) + each * number}) for number, sample in enumerate(CALM)]
    found = judge(grown)
    assert found and all(word in line for line in found)


def test_memory_may_waver() -> None:
    """The allocator's ups and downs are no growth, nor is what overlord takes in its first rounds."""
    wavering = [sample._replace(memory=sample.memory + (number % 2) * ROOM // 2) for number, sample in enumerate(CALM)]
    assert judge(wavering) == []
    assert judge([sample._replace(memory=sample.memory - (1 << 20) * (number < 2)) for number, sample in enumerate(CALM)]) == []
