"""What the benchmarks measured, in figures.json, and the parts of README.md that tests/readme.py makes of it.

A run of `make bench` writes them anew: section -> {"about": machine and date, "rows": {row: {column: median}}}.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Dict

Rows = Dict[str, Dict[str, float]]

FILE = Path(__file__).with_name("figures.json")
PEERS = {  # column in the README: name in peers.py
    "bare Python": "bare",
    "overlord, compiled": "compiled",
    "overlord, as copied": "overlord",
    "tini": "tini",
    "dumb-init": "dumb-init",
    "catatonit": "catatonit",
    "s6": "s6",
    "runit": "runit",
    "circus": "circus",
    "supervisord": "supervisord",
}
LOGGERS = ["overlord", "supervisord", "circus", "s6-log"]


def machine(python: str) -> str:
    """Return where and when a benchmark runs, with the version of its Python."""
    linux = ".".join(os.uname().release.split(".")[:2])
    return f"{python}, {os.cpu_count()} cores, Linux {linux}, {time.strftime('%Y-%m-%d')}"


def save(path: Path | None, section: str, about: str, rows: Rows) -> None:
    """Put the medians of one benchmark into a file beside what is there; None: nowhere."""
    if path:
        found = json.loads(path.read_text()) if path.exists() else {}
        short = {row: {name: float(f"{value:.4g}") for name, value in cells.items()} for row, cells in rows.items()}
        found[section] = {"about": about, "rows": short}
        path.write_text(json.dumps(found, indent=1) + "\n")


def number(value: float | None) -> str:
    """Return a figure for a cell: three digits, or all before the point."""
    if value is None:
        return ""
    whole = f"{value:.0f}"
    return f"{value:,.0f}" if value >= 100 else whole if float(value).is_integer() else f"{value:.1f}"


def peers() -> str:
    """Return the table of costs beside peers, with what was measured on which machine."""
    found = json.loads(FILE.read_text())["peers"]
    rows = [[row, *(number(cells.get(name)) for name in PEERS.values())] for row, cells in found["rows"].items()]
    return f"Medians of one run ({found['about']}):\n\n" + markdown(["", *PEERS], rows)


def output() -> str:
    """Return the table of what captured output costs."""
    found = json.loads(FILE.read_text())["output"]
    rows = []
    for row, cells in sorted(found["rows"].items()):
        pairs = ((cells.get(f"{who} CPU"), cells.get(f"{who} MB/s")) for who in LOGGERS)
        rows.append([row, *("" if cpu is None else f"{cpu:.1f} ({number(rate)})" for cpu, rate in pairs)])
    return f"Medians of one run ({found['about']}):\n\n" + markdown(["", *LOGGERS], rows)


def events() -> str:
    """Return the sentence on what an event costs."""
    rows = json.loads(FILE.read_text())["events"]["rows"]
    ratios = ", and ".join(f"a {what} {cells['ratio']:.2f} times as much" for what, cells in rows.items())
    return f"What an event costs does not depend on how many units there are: among 1,000,\n{ratios} as among 10."


def markdown(heads: list[str], rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(heads) + " |", "|---|" + "--:|" * (len(heads) - 1)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])
