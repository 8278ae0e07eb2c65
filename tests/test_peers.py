"""PEERS.md, which lists what the peers' own tests show beside the test of ours that shows it, names tests that exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

TESTS = Path(__file__).resolve().parent


def test_the_list_names_tests_that_exist() -> None:
    """Each `file::test` of PEERS.md is a function in that file; each row names one, or says why there is none."""
    text = (TESTS / "PEERS.md").read_text()
    named = re.findall(r"(\w+\.py)::(\w+)", text)
    for file in {file for file, _ in named}:
        tree = ast.parse((TESTS / file).read_text())
        defined = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
        assert {test for of, test in named if of == file} <= defined, file
    rows = [line for line in text.splitlines() if line.startswith("| ") and not line.startswith("| behaviour")]
    assert len(rows) > 200
    assert [row for row in rows if not re.search(r" \| (`test_\w+\.py::test_\w+`|n/a: .+) \|$", row)] == []
