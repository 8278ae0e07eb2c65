"""README.md is true: its tables come from overlord.py, its configurations and commands do what it says."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import overlord
import readme

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    """Return the code blocks of one language ("" for none)."""
    return [text for label, text in re.findall(r"(?ms)^```(\w*)\n(.*?)^```$", TEXT) if label == language]


def test_made_parts_are_current() -> None:
    assert readme.filled(TEXT) == TEXT, "run python3 tests/readme.py"


def test_every_option_is_in_the_reference() -> None:
    missing = [option.name for option in overlord.OPTIONS if f"| `{option.name}` |" not in TEXT]
    assert not missing


def test_configurations_are_valid() -> None:
    found = blocks("ini")
    assert found
    for text in found:
        draft = overlord.Draft({})
        draft.read_text("overlord.conf", text.encode())
        assert draft.validate().units


def test_mistakes_are_printed_as_shown(tmp_path: Path) -> None:
    """The sample of a broken configuration is what the program says of this one."""
    conf = "[overlord]\nconfigdir = none\n[daemon:web]\nwarmpu = 2s\ndeps = chache\ncmd = x\n[daemon:cache]\n"
    conf = conf.replace("[daemon:cache]\n", "") + "[daemon:cache]\ncmd = x\nstop_signal = TREM\n"
    (tmp_path / "overlord.conf").write_text(conf)
    argv = [sys.executable, str(ROOT / "overlord.py"), "-c", "overlord.conf"]
    done = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == overlord.EX_CONFIG
    sample = next(block for block in blocks("") if "warmpu" in block)

    def wording(text: str) -> list[str]:
        return [re.sub(r"^\S*?:\d+: ", "", line) for line in text.splitlines()]

    assert wording(done.stderr) == wording(sample)


def test_log_lines_are_those_of_the_program() -> None:
    """Each line of the sample log is one that the program's text can make."""
    source = (ROOT / "overlord.py").read_text()
    sample = next(block for block in blocks("") if "redis was restarted" in block)
    for line in sample.splitlines():
        words = re.sub(r"^overlord: (?:\w+: )?", "", line)
        known = r"(waiting for|everything is|started \(pid|ok|pid \d+ exited|stopping \(|stopped in|shutting down: |exiting with)"
        assert re.match(known, words)
        assert re.match(r"[a-z]+", words)[0] in source  # type: ignore[index]


def test_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in set(re.findall(r"`?make ([a-z]+)", TEXT)):
        assert re.search(rf"(?m)^{target}:", makefile), target
