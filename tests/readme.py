"""Make the parts of README.md that follow from something else: from overlord.py the option tables, the usage and the
diagram of the states; from tests/bench/figures.json, which `make bench` writes, what overlord costs.

    python3 tests/readme.py         write them into README.md
    python3 tests/readme.py --check exit 1 where README.md does not have them as they are now

Each part stands between `<!-- NAME -->` and `<!-- /NAME -->`.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "tests/bench")]

import figures  # noqa: E402

import diagram  # noqa: E402
import overlord  # noqa: E402

README = ROOT / "README.md"
ON_PAGE = {"s": "script", "d": "daemon", "sd": "both"}


def escape(text: str) -> str:
    """Return text for a cell of a Markdown table."""
    return text.replace("|", "\\|")


def options(kinds: tuple[str, ...]) -> str:
    """Return the table of the options of some kinds, from the table in overlord.py."""
    column = len(kinds) > 1
    heads = ["option", *(["kind"] if column else []), "default", "meaning"]
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for option in overlord.OPTIONS:
        if option.kinds in kinds:
            default = option.shown or f"`{option.default}`"
            cells = [f"`{option.name}`", *([ON_PAGE[option.kinds]] if column else []), default, option.help]
            lines.append("| " + " | ".join(escape(cell) for cell in cells) + " |")
    return "\n".join(lines)


def parts() -> dict[str, str]:
    """Return each made part by its name."""
    return {
        "options": options(("o",)),
        "unit-options": options(("sd", "s", "d")),
        "diagram": diagram.block(),
        "usage": f"```\n{overlord.spell_usage().strip()}\n```",
        "cost": figures.peers(),
        "cost-of-output": figures.output(),
        "cost-of-events": figures.events(),
    }


def filled(text: str) -> str:
    """Return the README with its made parts as they are now. Raises KeyError where the markers of one are missing."""
    for name, part in parts().items():
        pattern = re.compile(rf"(?s)(<!-- {name} -->\n).*?(<!-- /{name} -->)")
        if not pattern.search(text):
            raise KeyError(f"README.md has no <!-- {name} --> ... <!-- /{name} -->")
        text = pattern.sub(lambda match: match[1] + part + "\n" + match[2], text)
    return text


if __name__ == "__main__":
    now = README.read_text()
    if sys.argv[1:] == ["--check"]:
        sys.exit(filled(now) != now and "README.md is not what overlord.py says: python3 tests/readme.py")
    README.write_text(filled(now))
