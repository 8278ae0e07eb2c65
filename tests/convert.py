#!/usr/bin/env python3
"""Print the configuration for overlord that does what one for supervisord or circus, or a Procfile, does.

    python3 tests/convert.py FILE > overlord.conf

It is for people to read and keep, and `overlord.py check` accepts it. A `# NOTE` says where a meaning shifts, a `# TODO`
where someone has to decide; at the end stand what means nothing here, and a summary. Each option of the original is
carried over, or named in one of these.

Exit code: 0; 1 where there is a TODO; 64 for a usage error; 78 where a file cannot be read, with file and line.

The rooms, from top to bottom: Text (variables, quoting, values), Output (the sections that are printed), Original (those
that were read), what is shared, supervisord, circus, Procfile, command line. An `option` is one of the original, a
`target` the one of overlord that it becomes.
"""

from __future__ import annotations

import fnmatch
import glob
import io
import os
import re
import shlex
import sys
from configparser import MissingSectionHeaderError, ParsingError, RawConfigParser
from functools import partial
from pathlib import Path
from typing import Any, Callable, Dict, Iterable, Iterator, Mapping, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import overlord

EX_TODO, EX_USAGE, EX_CONFIG = 1, 64, 78
RANK = {option.name: number for number, option in enumerate(overlord.OPTIONS)}  # in this order they are printed
OPTIONAL = {option.name for option in overlord.OPTIONS if option.default == "none"}  # to these, `none` is no value
MOST_INSTANCES = 1000  # of a count
MOST_WRITTEN_OUT = 100  # as units of their own, where a count will not do
GIVEN = {"PATH": "/bin", "HOME": "/root", "HOSTNAME": "host"}  # the variables of every container
DEPENDS = "what is written here depends on it, so no variable can give it"

Options = Dict[str, str]
Sections = Dict[str, Options]
Parser = Callable[[str], str]  # of a value; raises Refused


class Unreadable(Exception):
    """A file that cannot be read or parsed: `FILE:LINE: why`."""


class Refused(ValueError):
    """A value that cannot be carried over. The text says why."""


# =============================================================================================================== Text
# A variable in a text is one character that no UTF-8 text holds, a lone surrogate, so that the rules of the original
# for blanks, quotes and commas apply around it.

VARIABLE = re.compile("[\ud800-\udfff]")
IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
SAFE = re.compile(r"[\w@%+=:,./-]*", re.ASCII)  # what a shell leaves alone: shlex.quote
PIECE = re.compile(
    r"""(?s)(?P<blank>[ \t\r\n]+)|'(?P<single>[^']*)'|"(?P<double>(?:\\.|[^"\\])*)"|\\(?P<escaped>.)"""
    r"""|(?P<bare>[^ \t\r\n'"\\]+)|(?P<rest>.)"""
)


class Variables:
    """The names of the variables in the texts of one conversion."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.demanded: dict[str, None] = {}  # those without which overlord reports a mistake

    def mark(self, name: str) -> str:
        """Return the character that stands for a variable; for NAME?, one without which a shell ends: ${NAME?}."""
        if not IDENTIFIER.fullmatch(name[:-1] if name.endswith("?") else name):
            raise Refused(f"${{{name}}} is not the name of a variable")
        if name not in self.names:
            self.names.append(name)
        if len(self.names) > 2048:
            raise Refused("more than 2048 variables")
        return chr(0xD800 + self.names.index(name))

    def spell(self, text: str, escape: Callable[[str], str]) -> str:
        """Return a text with `${NAME}` for each variable, and the rest escaped."""
        parts = re.split(f"({VARIABLE.pattern})", text)
        return "".join(f"${{{self.names[ord(part) - 0xD800]}}}" if number % 2 else escape(part)
                       for number, part in enumerate(parts))  # fmt: skip

    def demand(self, text: str) -> None:
        """Note the variables of a value that overlord itself expands."""
        self.demanded.update(dict.fromkeys(self.names[ord(mark) - 0xD800] for mark in VARIABLE.findall(text)))

    def relax(self, text: str) -> str:
        """Return a text of a command for overlord itself, which demands every variable."""
        return VARIABLE.sub(lambda found: self.mark(self.names[ord(found[0]) - 0xD800].rstrip("?")), text)

    def show(self, text: str) -> str:
        """Return a text in one line, for a remark."""
        return one_line(self.spell(text, str))

    def spell_plain(self, text: str) -> str:
        """Return the value of an option that overlord expands: all but `cmd` and `env`."""
        self.demand(text)
        return self.spell(text, lambda part: part.replace("$", "$$"))

    def spell_env(self, key: str, text: str) -> str:
        """Return a line of `env`."""
        self.demand(text)
        if re.fullmatch(r"[^\s'\"\\$,]*", text):
            return f"{key}={self.spell(text, str)}"
        if "'" not in text and not VARIABLE.search(text):
            return f"{key}='{text}'"
        return f"{key}={self.spell_quoted(text)}"

    def spell_word(self, raw: str, pieces: list[tuple[str, str]]) -> str:
        """Return a word of a command for the shell: as it was, where the shell reads it so."""
        if all(is_safe(kind, text) for kind, text in pieces):
            return self.spell(raw, str)
        if not any(VARIABLE.search(text) for _, text in pieces):
            return quote("".join(unescape(kind, text) for kind, text in pieces))
        return "".join(self.spell_piece(kind, unescape(kind, text)) for kind, text in pieces)

    def spell_piece(self, kind: str, text: str) -> str:
        """Return a piece of a word that has variables: a variable in quotes stays in quotes."""
        if kind == "bare":
            return self.spell(text, lambda part: part and quote(part))
        return self.spell_quoted(text)

    def spell_quoted(self, text: str) -> str:
        """Return a text in double quotes."""
        return '"' + self.spell(text, lambda part: re.sub(r'([\\"$`])', r"\\\1", part)) + '"'

    def spell_command(self, text: str) -> str:
        """Return a command that was executed without a shell, for a shell."""
        return " ".join(self.spell_word(raw, pieces) for raw, pieces in split_command(text))


def unescape(kind: str, text: str) -> str:
    """Return what a piece of a word stands for."""
    return re.sub(r'\\(["\\])', r"\1", text) if kind == "double" else text


def is_safe(kind: str, text: str) -> bool:
    """Tell whether a shell reads a piece of a word as it is written: in quotes or bare."""
    if kind == "single":
        return not VARIABLE.search(text)
    if kind == "double":
        return not re.search(r"[$`\\]", text)
    return kind == "bare" and bool(SAFE.fullmatch(VARIABLE.sub("", text)))


def quote(text: str) -> str:
    """Return a text as one word of the shell, in the plainer quotes."""
    plain = "'" in text and not re.search(r'["$`\\!]', text)
    return f'"{text}"' if plain else shlex.quote(text)


def split_command(text: str) -> list[tuple[str, list[tuple[str, str]]]]:
    """Return the words of a command as `shlex.split` finds them: each as written, and its pieces. Raises Refused."""
    words: list[tuple[str, list[tuple[str, str]]]] = []
    inside = False
    for match in PIECE.finditer(text):
        kind = match.lastgroup or ""
        if kind == "rest":
            raise Refused("it ends in a backslash" if match[0] == "\\" else "a quotation is not closed")
        if kind != "blank":
            raw, pieces = words.pop() if inside else ("", [])
            if kind == "escaped" and VARIABLE.match(match[kind]):  # it is for the first letter of the value
                words.append((raw + match[kind], [*pieces, ("bare", match[kind])]))
            else:
                words.append((raw + match[0], [*pieces, (kind, match[kind])]))
        inside = kind != "blank"
    return words


def is_complete(text: str) -> bool:
    """Tell whether all quotations of a command are closed."""
    try:
        split_command(text)
    except Refused:
        return False
    return True


def or_variable(parse: Callable[..., str]) -> Callable[..., str]:
    """Have a parser leave a value as it is that is one variable."""
    def parse_value(text: str, *more: Any) -> str:
        return text if len(text) == 1 and VARIABLE.match(text) else parse(text, *more)

    return parse_value


def parse_integer(text: str) -> int:
    """Return a number of up to nine digits, as `int` reads it."""
    try:
        number = int(text)
    except ValueError:
        raise Refused(f"{text!r} is not a number") from None
    if abs(number) >= 10**9:
        raise Refused(f"{number} is too large")
    return number


@or_variable
def parse_count(text: str, low: int = 0) -> str:
    """Return a number that is not negative."""
    if parse_integer(text) < low:
        raise Refused(f"{text} is below {low}")
    return str(parse_integer(text))


def parse_seconds(text: str) -> str:
    """Return a duration in whole seconds."""
    number = parse_count(text)
    return number if number == "0" or VARIABLE.match(number) else f"{number}s"


@or_variable
def parse_flag(text: str) -> str:
    """Return `true` or `false` for a boolean of supervisord or circus."""
    word = text.strip().lower()
    if word not in ("yes", "true", "on", "1", "no", "false", "off", "0"):
        raise Refused(f"{text!r} is not a boolean")
    return "true" if word in ("yes", "true", "on", "1") else "false"


@or_variable
def parse_octal(text: str) -> str:
    """Return a umask."""
    try:
        number = int(text, 8)
    except ValueError:
        raise Refused(f"{text!r} is not an octal number") from None
    if not 0 <= number <= 0o777:
        raise Refused(f"{text} is no umask")
    return f"{number:03o}"


@or_variable
def parse_stop_signal(text: str) -> str:
    """Return the name of a signal, without SIG."""
    try:
        return overlord.spell_signal(overlord.parse_signal(text.strip()))[3:]
    except overlord.Mistake as mistake:
        raise Refused(str(mistake)) from None


def parse_kill_mode(text: str) -> str:
    """Return the `kill_mode` for `stopasgroup` or `stop_children`."""
    return "all" if require_flag(text) else "mixed"


def require_flag(text: str) -> bool:
    """Return a boolean that decides what is written, and so cannot be a variable."""
    if VARIABLE.search(text):
        raise Refused(DEPENDS)
    return parse_flag(text) == "true"


def spell_bytes(number: int) -> str:
    """Return a size in the largest unit that it is a multiple of."""
    units = [(number >> shift, unit) for shift, unit in ((30, "G"), (20, "M"), (10, "K")) if not number % (1 << shift)]
    return f"{units[0][0]}{units[0][1]}" if number and units else str(number)


def parse_bytes(text: str) -> str:
    """Return a size of supervisord: a number or one variable, alone or with KB, MB or GB."""
    unit = {"kb": 10, "mb": 20, "gb": 30}.get(text[-2:].lower())
    count = parse_count(text[:-2] if unit else text)
    return text if VARIABLE.match(count) else spell_bytes(int(count) << (unit or 0))


# ============================================================================================================= Output


def one_line(text: str) -> str:
    """Return a text for a comment."""
    return " ".join(text.split())


class Part:
    """A section that is printed. `off`: as comments."""

    def __init__(self, header: str = "") -> None:
        self.header = header
        self.name = header.partition(":")[2]  # of the unit
        self.values: dict[str, str] = {}
        self.origins: dict[str, tuple[str, str]] = {}  # target -> the section and option that it was
        self.remarks: list[tuple[str, str]] = []  # the target above which it stands, else at the end; text
        self.off = False

    def spell_part(self) -> Iterator[tuple[str, str]]:
        """Yield each line, and the target that it belongs to."""
        if self.header:
            yield f"[{self.header}]", ""
        for name in sorted(self.values, key=lambda name: RANK.get(name, len(RANK))):
            for at, remark in self.remarks:
                if at == name:
                    yield f"# {one_line(remark)}", name
            first, *rest = self.values[name].split("\n")
            yield f"{name} = {first}".rstrip(), name
            for line in rest:
                yield f"    {line}" if line else "", name
        yield from ((f"# {one_line(remark)}", "") for at, remark in self.remarks if at not in self.values)

    def lines(self) -> list[tuple[str, str]]:
        """Return the lines, as comments where this section is off."""
        made = list(self.spell_part())
        return [(line if line[:1] == "#" else f"# {line}".rstrip(), name) for line, name in made] if self.off else made


# =========================================================================================================== Original


class Original:
    """A section of the original, with what became of each of its options."""

    def __init__(self, conversion: Conversion, name: str, options: Options) -> None:
        self.conversion = conversion
        self.name = name
        self.kind, self.colon, self.subject = name.partition(":")
        self.options = options
        self.part = Part()
        self.known: Mapping[str, Any] = {}  # what is expanded in its values
        self.fates: dict[str, str] = {}  # option -> kept, idle (without meaning here) or open (a TODO)

    def quote_option(self, option: str) -> str:
        """Return an option as it was written, for a remark."""
        return one_line(f"{option} = {self.options.get(option, '')}")

    def take(self, option: str) -> str | None:
        """Return an option as it was written, or None."""
        if option in self.options:
            self.fates.setdefault(option, "kept")
        return self.options.get(option)

    def note(self, option: str, text: str, at: str = "") -> None:
        """Say where the meaning of an option shifts. `at`: the target below it."""
        self.take(option)
        self.part.remarks.append((at, f"NOTE {self.quote_option(option)}: {self.conversion.variables.spell(text, str)}"))

    def ask(self, option: str, text: str, at: str = "") -> None:
        """Say that someone has to decide about an option."""
        self.fates[option] = "open"
        remark = (at, f"TODO {self.quote_option(option)}: {self.conversion.variables.spell(text, str)}")
        if remark not in self.part.remarks:
            self.part.remarks.append(remark)

    def drop(self, *options: str) -> None:
        """Note that options mean nothing here."""
        for option in options:
            if option in self.options and option not in self.fates:
                self.fates[option] = "idle"

    def put(self, target: str, value: str, option: str = "") -> None:
        """Write a target, unless overlord would read another value."""
        wrong = f"overlord takes the word none for no {target}" if value == "none" and target in OPTIONAL else ""
        if wrong or (value != value.strip() and target not in ("cmd", "env")):
            self.ask(option, wrong or "overlord takes no blanks at the end of a value", target)
            return
        self.part.values[target] = value
        if option:
            self.part.origins[target] = self.name, option
        if target != "cmd" and "${" in self.options.get(option, ""):
            text = "here neither; for the container's variable write it with one $ and, in env, in double quotes"
            self.note(option, f"{self.conversion.supervisor} expanded no ${{...}}, and {text}", target)

    def carry(self, option: str, target: str, parse: Parser, default: str | None = None) -> None:
        """Carry over an option whose value needs no more than another form; the default is not written."""
        value = self.parse(option, parse)
        if value is not None and value != default:
            self.put(target, self.conversion.variables.spell_plain(value), option)

    def parse(self, option: str, parse: Callable[[str], Any], default: Any = None) -> Any:
        """Return an option, expanded and parsed; the default where it is not there or, with a TODO, not valid."""
        try:
            text = self.expanded(option)
            return default if text is None else parse(text)
        except Refused as refused:
            # A reason that quotes the value shows a variable in it as an escape.
            self.ask(option, DEPENDS if "\\ud" in str(refused) else str(refused))
            return default

    def expanded(self, option: str) -> str | None:
        """Return an option with what was expanded in it. Raises Refused."""
        text = self.take(option)
        return None if text is None else self.conversion.expand(text, self)

    def ask_about_rest(self, known: Iterable[str]) -> None:
        """Have each option that nobody has looked at decided by someone."""
        for option, value in self.options.items():
            if option in self.fates:
                continue
            meant = MEANT.get(option)
            near = f"; probably meant: {meant} = {one_line(value)}" if meant else overlord.suggest(option, known)
            self.ask(option, f"{self.conversion.supervisor} has no such option here, and passed over it{near}")


# Options that real files hold though nobody reads them, and the target that they are for.
MEANT = {
    **dict.fromkeys(("depend", "depends", "depends_on", "requires", "after"), "deps"),
    **dict.fromkeys(("workdir", "working_dir", "working_directory", "cwd", "chdir", "dir"), "dir"),
    **dict.fromkeys(("logfile", "log_file", "log", "stdout", "stdout_log", "stdout_file"), "stdout"),
    **dict.fromkeys(("stderr", "stderr_log", "stderr_file", "errlog"), "stderr"),
    **dict.fromkeys(("uid", "username"), "uid"),
    **dict.fromkeys(("gid", "group"), "gid"),
    **dict.fromkeys(("env", "environ"), "env"),
    **dict.fromkeys(("restart", "auto_restart"), "restart"),
    "auto_start": "autostart",
    "cmd": "cmd",
}


# ======================================================================================================== What is shared

SHELL_ALONE = overlord.SHELL_WORDS - frozenset("[ echo false kill printf pwd test time true".split())
FOR_A_SHELL = re.compile(r"[&|;<>`]|\$[\w({]")
PREFIX = r"(?:^|-\w*c\s+[\"']?\s*)(?:exec\s+)?(?:\S*/)?"
BACKGROUND = re.compile(
    PREFIX + r"""(?:nginx(?!.*daemon\s+off)|(?:apachectl|apache2ctl|httpd|apache2)(?!.*(?:FOREGROUND|NO_DETACH|-X))
    |php-fpm[\d.]*(?!.*\s(?:-F|--nodaemonize))|sshd(?!.*\s-\w*D)|cron(?!.*\s-\w*f)|crond(?!.*\s-\w*[fn])
    |rsyslogd(?!.*\s-\w*n)|service\s+\S+\s+start|(?:etc/)?init\.d/\S+\s+start)(?![\w./-])""",
    re.VERBOSE | re.DOTALL,
)
ENDLESS = r"\bwhile\s+(?:true|:|(?:test|\[)\s+(?:true|1)(?:\s+\])?)\s*[;\n]"
HINTS = (
    ("NOTE", re.compile(r"(?:^|-\w*c\s+[\"']?)\s*sleep\s+[\d.]+\w?\s*(?:&&|;)"),
     "a sleep only fakes an order: deps waits for another program, and its ready says when that is up"),
    ("NOTE", re.compile(rf"(?s){ENDLESS}(?!.*\bbreak\b).*\bsleep\b"),
     "a loop with a pause: a [script:JOB] with schedule = every 60s does what is in it, never twice at a time"),
    ("NOTE", re.compile(rf"(?s)\buntil(?![\w-])|(?!{ENDLESS})\bwhile\s+(?:!|\[|test)(?![\w-])|{ENDLESS}.*\bbreak\b"),
     "a loop that polls: deps and ready wait for another program, wait_for for what is outside the container"),
    ("NOTE", re.compile(PREFIX + r"(?:busybox\s+)?crond?(?![\w./-])"),
     "a job of cron may be a [script:JOB] with schedule = 30 3 * * *, which has the container's environment"),
    ("NOTE", re.compile(PREFIX + r"sshd(?![\w./-])"),
     "its end and its restart end the sessions too: kill_mode = process spares them"),
    ("NOTE", re.compile(PREFIX + r"tail\s.*-\w*[fF]"),
     "where the program that writes this file can write to its stdout, stdout = prefix of that program does it"),
    ("TODO", BACKGROUND,
     "may go into the background, and would be taken for ended: name its pidfile, or keep it in front"),
    ("TODO", re.compile(r"supervisorctl"),
     "nobody answers supervisorctl here: overlord.py start NAME and so on do, or deps = NAME of what needs it"),
    ("TODO", re.compile(r"supervisord?\.pid"), "there is no such pid file here: overlord.py shutdown ends the container"),
    ("TODO", re.compile(r"\bSUPERVISOR_\w+"), "is not set here: a unit has OVERLORD_NAME"),
)  # fmt: skip
# Of a user who is not root.
OTHER_HOME = "HOME, USER, LOGNAME and SHELL are this user's here, there they stayed as they were"


class Unit(NamedTuple):
    """A unit for the order of starts. group: priority and name of its group; own: the priority within that."""

    part: Part
    section: str
    group: tuple[int, str]
    own: int

    def starts_itself(self) -> bool:
        """Tell whether it is started without being asked for."""
        return self.part.values.get("autostart") != "false"


def split_by(units: Iterable[Unit], key: Callable[[Unit], Any]) -> list[list[Unit]]:
    """Return the units that have a key in common together, in the order in which the keys are met."""
    found: dict[Any, list[Unit]] = {}
    for unit in units:
        found.setdefault(key(unit), []).append(unit)
    return list(found.values())


class Conversion:
    """What is made of one file: the sections of the output, and the remarks above and below them."""

    supervisor = "supervisord"  # for which the file is
    expand: Callable[[str, Original], str]  # returns a value as the original expands it; raises Refused
    stops = "overlord stops these together, supervisord stopped them one after the other, the last first"

    def __init__(self, sections: Sections) -> None:
        self.variables = Variables()
        self.originals = {name: Original(self, name, options) for name, options in sections.items()}
        self.top: list[str] = []
        self.settings, self.defaults = Part("overlord"), Part("daemon")
        self.parts: list[Part] = []
        self.units: list[Unit] = []
        self.names: set[str] = set()
        self.paths: set[str] = set()  # variables that have to be a path for overlord to accept the text
        self.known: dict[str, Any] = {}  # what is expanded in the values of all sections
        self.environment: dict[str, str] = {}  # the variables that all units get
        self.logs = False  # there are files that are rotated

    def open_unit(self, original: Original, wanted: str, kind: str = "daemon", count: str = "") -> Part:
        """Begin the section of a unit, with a free name of the letters that overlord allows."""
        name = plain = re.sub(r"[^A-Za-z0-9_.-]+", "-", wanted) or "unit"
        instances = int(count) if count.isdigit() else 0
        number = 1
        while not self.names.isdisjoint([name, *(f"{name}-{instance + 1}" for instance in range(instances))]):
            number += 1
            name = f"{plain}_{number}"
        self.names.update([name], (f"{name}-{instance + 1}" for instance in range(instances)))
        original.part = Part(f"{kind}:{name}")
        if name != wanted:
            original.part.remarks.append(("cmd", f"NOTE [{original.name}]: {self.variables.show(wanted)} is {name} here"))
        return original.part

    def put_command(self, original: Original, option: str, text: str) -> None:
        """Write a command that was executed without a shell, and what strikes one in it."""
        try:
            words = split_command(text)
            first = words[0][0] if words else ""
            if not first:
                raise Refused("there is nothing to run")
        except Refused as refused:
            original.ask(option, f"{self.supervisor} refuses it: {refused}")
            original.part.off = True
            return
        bare = [part for _, pieces in words for kind, part in pieces if kind == "bare"]
        special = [part for part in bare if FOR_A_SHELL.search(part)]
        shown = self.variables.show(" ".join(special[:1]))
        if first in SHELL_ALONE or re.match(r"\w+=", first):
            original.ask(option, f"{self.supervisor} ran no shell, and found no program {first}; here a shell reads it", "cmd")
        elif special:
            original.note(option, f"{self.supervisor} ran no shell, so {shown} was a plain argument, and still is", "cmd")
        original.put("cmd", " ".join(self.variables.spell_word(raw, pieces) for raw, pieces in words), option)
        self.put_hints(original, option, self.variables.show(text))

    def put_hints(self, original: Original, option: str, text: str) -> None:
        """Say what strikes one in a command."""
        for verdict, pattern, hint in HINTS:
            if pattern.search(text) and not (pattern is BACKGROUND and "pidfile" in original.part.values):
                (original.note if verdict == "NOTE" else original.ask)(option, hint, "cmd")

    def offer_script(self, original: Original, option: str, more: str = "") -> None:
        """Say how a program is written that may be there to run once."""
        name, own = original.part.name, overlord.BY_KIND["daemon"].keys() - overlord.BY_KIND["script"].keys()
        without = ", ".join(target for target in sorted(original.part.values, key=RANK.__getitem__) if target in own)
        text = f"if this runs once, to its end, write [script:{name}] without {without}, and deps = {name} where it is needed"
        by_hand = f" (or start it by hand: overlord.py start {name})" if "autostart" in original.part.values else ""
        original.note(option, text + by_hand + more, "restart")

    def put_env(self, original: Original, option: str, pairs: Mapping[str, str]) -> None:
        """Write variables, those first that use the container's value of one that is set too."""
        left, lines = dict(pairs), []
        users = {key: {self.variables.names[ord(mark) - 0xD800] for mark in VARIABLE.findall(value)} - {key}
                 for key, value in pairs.items()}  # fmt: skip
        while left:
            free = [key for key in left if not any(key in users[other] for other in left)]
            if not free:
                free = list(left)
                original.ask(option, f"{' and '.join(left)} each use what the container has for the other", "env")
            for key in free:
                lines.append(self.variables.spell_env(key, left.pop(key)))
        if lines:
            original.put("env", "\n".join(["", *lines]) if len(lines) > 1 or "\n" in lines[0] else lines[0], option)

    def put_order(self, option: str) -> None:
        """Have each step of the order wait for the start of the step before."""
        units = sorted((unit for unit in self.units if not unit.part.off), key=lambda unit: (unit.group[0], unit.own))
        before: list[Unit] = []
        for step in split_by(units, lambda unit: unit.group[0]):
            last: list[Unit] = []
            for group in split_by(step, lambda unit: unit.group[1]):
                earlier = before
                for level in split_by(group, lambda unit: unit.own):
                    for unit in level if earlier else ():
                        unit.part.values["deps"] = ", ".join(f"{other.part.name}:started" for other in earlier)
                        unit.part.origins["deps"] = unit.section, option
                    earlier = level if any(map(Unit.starts_itself, level)) else [*earlier, *level]
                last += [unit for unit in earlier if unit not in last]
            before = last if any(map(Unit.starts_itself, last)) else [*before, *last]
        if any("deps" in unit.part.values for unit in units):
            self.top.append(f"NOTE {option}: :started is the order alone, as {self.supervisor} kept it, and the reverse one for"
                            " stops; where another has to be up first, write its name without :started")  # fmt: skip
        elif len(units) > 1 and self.stops:
            self.top.append(f"NOTE {self.stops}; deps = NAME:started gives an order")

    def ask_about_section(self, original: Original, text: str) -> None:
        """Have a whole section decided by someone."""
        original.part = Part()
        original.part.remarks.append(("", f"TODO [{original.name}]: {text}"))
        for option in original.options:
            original.fates[option] = "open"
            original.part.remarks.append(("", original.quote_option(option)))
        self.parts.append(original.part)

    def remark_twice(self, twice: Iterable[tuple[str, str, str]], counts: str) -> None:
        """Say which values do not count since an option is given again."""
        for section, option, value in twice:
            text = f"NOTE [{section}] {option} = {one_line(value)}: given twice, the {counts} counts"
            self.originals[section].part.remarks.append(("", text))

    # ---------------------------------------------------------------------------------------------------- the end of it

    def finish(self) -> tuple[str, int]:
        """Return the text that overlord accepts, and the exit code."""
        config = self.make_acceptable()
        for warning in overlord.warn_of_stop_time(config):
            found = re.search("(stopping may take .*), and shutdown.*= (\\d+s), and use (docker stop -t \\d+)", warning)
            if found:
                text = f"NOTE {found[1]}: use {found[3]}, or shorten stop_timeout"
                self.settings.remarks.append(("shutdown_timeout", text))
                self.settings.values["shutdown_timeout"] = found[2]
        for part in self.parts:
            if "$" in part.values.get("stop_timeout", ""):
                text = f"NOTE {part.name} has stop_timeout = {part.values['stop_timeout']}, which is not counted here"
                self.settings.remarks.append(("shutdown_timeout", text))
        demanded = [name for name in self.variables.demanded if name not in GIVEN and not name.startswith("OVERLORD_")]
        if demanded:
            given = " ".join(f"{name}={'/1' if name in self.paths else '1'}" for name in demanded)
            self.top.append(f"NOTE these variables have to be set, in a Dockerfile too: RUN {given} overlord.py check")
        parts = [[line for line, _ in part.lines()] for part in self.all_parts()]
        blocks = [[f"# {one_line(line)}" for line in self.top], *parts]
        text = "\n\n".join("\n".join(block) for block in [*blocks, self.summarize()] if block) + "\n"
        return text, EX_TODO if re.search("^# TODO ", text, re.MULTILINE) else 0

    def all_parts(self) -> list[Part]:
        """Return the sections in the order of the output."""
        return [part for part in (self.settings, self.defaults, *self.parts) if part.values or part.remarks]

    def summarize(self) -> list[str]:
        """Return what is dropped since it means nothing here, and the counts."""
        fates = [(each, option, fate) for each in self.originals.values() for option, fate in each.fates.items()
                 if option in each.options]  # fmt: skip
        idle = [f"#   [{each.name}] {each.quote_option(option)}" for each, option, fate in fates if fate == "idle"]
        counts = {kind: sum(fate == kind for _, _, fate in fates) for kind in ("kept", "idle", "open")}
        numbers = "{kept} as they were, {idle} without meaning, {open} to decide".format(**counts)
        total = f"# {overlord.count_of(len(fates), 'option')}: {numbers}"
        return [*(["# Without meaning here:", *idle, ""] if idle else []), total]

    def make_acceptable(self) -> Any:
        """Make comments of what overlord refuses; return the configuration."""
        while True:
            config, faults = self.read_back()
            if not faults:
                return config
            sections = [each for each in faults if not each[1]]
            for part, name, fault in sections or faults:
                if name:
                    value = part.values.pop(name)
                    text = f"TODO {name} = {one_line(value)}: overlord refuses this: {fault}"
                    part.remarks.append((name, text))
                else:
                    part.off = True
                    part.remarks.append(("", f"TODO overlord refuses this section: {fault}"))
                    self.forget(part.name)
                for option, (section, origin) in part.origins.items():
                    if name in ("", option):
                        self.originals[section].fates[origin] = "open"

    def forget(self, name: str) -> None:
        """Take a unit that is none out of the dependencies of the others."""
        for part in self.parts:
            deps = [dep for dep in part.values.get("deps", "").split(", ") if dep and dep != f"{name}:started"]
            if deps:
                part.values["deps"] = ", ".join(deps)
            else:
                part.values.pop("deps", None)

    def read_back(self) -> tuple[Any, list[tuple[Part, str, str]]]:
        """Return the configuration that overlord reads from the text, and what it refuses: section, target, why. For
        that, each variable is 1, or a path where overlord refuses 1."""
        placed = [(part, line, name) for part in self.all_parts() for line, name in part.lines()]
        for second in (False, True):
            values = {name: "/1" if name in self.paths else "1" for name in self.variables.names}
            values.update(GIVEN)
            draft = overlord.Draft(values)
            draft.read_text("", "\n".join(line for _, line, _ in placed).encode())
            try:
                return draft.validate(), []
            except overlord.Mistakes:
                faults = {place[1]: fault.split(": ", 2)[-1] for place, fault in sorted(draft.mistakes, reverse=True)}
            found = {name for line in faults for name in re.findall(r"\$\{(\w+)", placed[line - 1][1])}
            if second or not found:
                break
            self.paths |= found.difference(GIVEN)
        return None, [(placed[line - 1][0], placed[line - 1][2], fault) for line, fault in faults.items()]


# ======================================================================================================== supervisord

FORMAT = re.compile(r"%(?:\(([^()]*)\)([#0\- +]*\d{0,4}(?:\.\d{1,4})?)([a-zA-Z])|(%)|)")
OWN_OUTPUT = {  # what the container's stdout and stderr are called
    **dict.fromkeys(("/dev/stdout", "/dev/fd/1", "/proc/self/fd/1", "/proc/1/fd/1"), 1),
    **dict.fromkeys(("/dev/stderr", "/dev/fd/2", "/proc/self/fd/2", "/proc/1/fd/2"), 2),
}
PROGRAM_OPTIONS = """command process_name numprocs numprocs_start priority autostart autorestart startsecs startretries
    exitcodes stopsignal stopwaitsecs stopasgroup killasgroup user directory umask environment serverurl redirect_stderr
    stdout_logfile stdout_logfile_maxbytes stdout_logfile_backups stdout_capture_maxbytes stdout_events_enabled
    stdout_syslog stderr_logfile stderr_logfile_maxbytes stderr_logfile_backups stderr_capture_maxbytes
    stderr_events_enabled stderr_syslog socket socket_owner socket_mode socket_backlog events buffer_size
    result_handler""".split()
SUPERVISORD_OPTIONS = """logfile logfile_maxbytes logfile_backups loglevel pidfile umask nodaemon silent minfds minprocs
    nocleanup childlogdir user directory strip_ansi environment identifier profile_options""".split()
LEVELS = {"critical": "error", "error": "error", "warn": "warning", "info": "info", **dict.fromkeys(
    ("debug", "trace", "blather"), "debug")}  # fmt: skip
KILLS = re.compile(r"kill|stop|quit|exit|shutdown|terminat|die|fatal|watchdog", re.IGNORECASE)
SERVE = "a [daemon:http] with cmd = overlord.py serve {} shows all by HTTP, and changes nothing"
RESTARTS = {"true": "always", "unexpected": "on-failure", "false": "never"}


class Once(dict):  # type: ignore[type-arg]
    """The options of a section while they are read: those that are given again are noted."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.earlier: list[tuple[str, str]] = []

    def __setitem__(self, key: str, value: Any) -> None:
        if isinstance(value, list) and key in self:
            before = self[key]
            self.earlier.append((key, ("\n".join(before) if isinstance(before, list) else str(before)).strip()))
        super().__setitem__(key, value)


def read_supervisord(path: str, text: str) -> tuple[Sections, list[tuple[str, str, str]], list[str]]:
    """Return the sections as supervisord reads them, with all that it includes; what is given twice, as (section, option,
    earlier value); and the patterns of files that match none."""
    parser = RawConfigParser(dict_type=Once, inline_comment_prefixes=(";", "#"), strict=False)
    parse_ini(parser, path, text)
    folder = os.path.dirname(path)
    here = os.path.abspath(folder)
    replace_here(parser, here)
    missing = []
    host = {"here": here, "host_node_name": os.uname().nodename}
    given = parser.get("include", "files", fallback="")
    for pattern in given.split():
        full = FORMAT.sub(lambda found: str(host.get(found[1] or "", found[4] or found[0])), pattern)
        files = sorted(filter(os.path.isfile, glob.glob(os.path.join(folder, full))))
        missing += [] if files else [pattern]
        for file in files:
            parse_ini(parser, file, read_text(file))
            replace_here(parser, os.path.dirname(os.path.abspath(file)))
    if parser.has_option("include", "files"):
        parser.set("include", "files", given)
    shared = {option: value for option, value in parser.defaults().items() if option in PROGRAM_OPTIONS}
    strange = {option: value for option, value in parser.defaults().items() if option not in shared}
    sections: Sections = {"DEFAULT": strange} if strange else {}
    for name in parser.sections():
        own = {option: value for option, value in parser.items(name) if option in parser._sections[name]}  # type: ignore[attr-defined]
        sections[name] = {**(shared if name.startswith(("program:", "fcgi-program:", "eventlistener:")) else {}), **own}
    twice = [(name, option, value) for name in parser.sections() for option, value in parser._sections[name].earlier]  # type: ignore[attr-defined]
    return sections, [each for each in twice if each[2] != sections[each[0]][each[1]]], missing


def replace_here(parser: RawConfigParser, here: str) -> None:
    """Put the folder of a file in the place of %(here)s."""
    for section in parser.sections():
        for option, value in parser.items(section):
            if "%(here)s" in value:
                parser.set(section, option, value.replace("%(here)s", here))


def parse_ini(parser: RawConfigParser, path: str, text: str) -> None:
    """Have a parser read the text of a file. Raises Unreadable."""
    try:
        parser.read_file(io.StringIO(text), path)
    except MissingSectionHeaderError as error:
        raise Unreadable(f"{path}:{error.lineno}: {error.line.strip()!r} stands before the first [section]") from None
    except ParsingError as error:
        line = error.errors[0][0]
        what = text.split("\n")[line - 1].strip()
        raise Unreadable(f"{path}:{line}: {what!r} is neither a [section] nor an option") from None


def format_text(text: str, known: Mapping[str, Any], variables: Variables, lenient: bool = False) -> str:
    """Return a text with `%(name)s` expanded as supervisord does. Raises Refused, unless lenient: then it stays."""

    def replace(match: re.Match[str]) -> str:
        name, form, letter, percent = match.groups()
        if percent:
            return "%"
        if name is None:
            raise Refused("supervisord wants %% for a %")
        value = known.get(name)
        if value is None and name.startswith("ENV_"):
            value = variables.mark(name[4:])
        if value is None:
            raise Refused(f"supervisord knows no %({name})s")
        if isinstance(value, str) and VARIABLE.search(value):
            if form or letter not in ("sdi" if name in ("process_num", "numprocs") else "s"):
                raise Refused(f"%({name}){form}{letter} cannot be written with a variable")
            return value
        try:
            return str(f"%{form}{letter}" % value)
        except (ValueError, TypeError) as error:
            raise Refused(f"supervisord refuses %({name}){form}{letter}: {error}") from None

    def keep(match: re.Match[str]) -> str:
        try:
            return replace(match)
        except Refused:
            return match[0]

    return FORMAT.sub(keep if lenient else replace, text)


def parse_pairs(text: str) -> tuple[dict[str, str], list[str]]:
    """Return the variables of `environment`, as supervisord finds them, and the words that it passes over."""
    lexer = shlex.shlex(text)
    lexer.wordchars += "/.+-():" + "".join(set(VARIABLE.findall(text)))
    try:
        tokens = list(lexer)
    except ValueError as error:
        raise Refused(f"supervisord refuses it: {error}") from None
    found, passed = {}, []
    for at in range(0, len(tokens), 4):
        key, equals, value, comma = [*tokens[at : at + 4], "", "", ""][:4]
        if equals != "=" or at + 2 >= len(tokens):
            raise Refused("supervisord refuses it: it is not KEY=\"value\", with a comma between two")
        if VARIABLE.search(key):
            raise Refused("a variable gives the name of another")
        found[key] = value.strip("'\"")
        passed += [comma] if re.search(r"[\w\"']", comma) else []
    return found, passed


@or_variable
def parse_exit_codes(text: str) -> str:
    """Return `success` for `exitcodes`."""
    codes = [parse_integer(code) for code in text.split(",")] if text else []
    wrong = [code for code in codes if not 0 <= code <= 255]
    if wrong:
        raise Refused(f"{wrong[0]} is not an exit code")
    return " ".join(map(str, codes)) or "none"


def parse_restart(text: str) -> str:
    """Return `restart` for `autorestart`."""
    if VARIABLE.search(text):
        raise Refused("the words for restart are always, on-failure and never")
    return RESTARTS["unexpected" if text.lower() == "unexpected" else parse_flag(text)]


def parse_level(text: str) -> str:
    """Return `log_level` for `loglevel`."""
    if text.lower() not in LEVELS:
        raise Refused("the levels are debug, info, warning and error" if VARIABLE.search(text) else "there is no such level")
    return LEVELS[text.lower()]


def parse_user(text: str) -> str:
    """Return `uid` for `user`; root's is what there is anyway."""
    if not text:
        raise Refused("is empty")
    return "" if text in ("root", "0") else text


class Supervisord(Conversion):
    """The conversion of a configuration for supervisord."""

    def __init__(self, path: str, text: str) -> None:
        sections, self.twice, self.missing = read_supervisord(path, text)
        super().__init__(sections)
        self.expand = self.expand_format
        self.fragment = "supervisord" not in sections
        self.known["here"] = os.path.dirname(os.path.abspath(path))
        self.here = self.known["here"] if "%(here)s" in text else ""
        self.groups: dict[str, tuple[str, int]] = {}  # program -> its group, and the priority of that
        self.policy = ""  # what a listener does at the end of a program: `exit` or `fatal` end the container
        self.prefixed = False  # supervisor-stdout puts the name before each line
        self.hidden: list[str] = []  # units whose output nobody saw
        self.user = ""  # of supervisord itself, "" for root

    def expand_format(self, text: str, original: Original) -> str:
        """Return a text with %(...)s expanded."""
        return format_text(text, {**self.known, **original.known}, self.variables)

    def convert_supervisord(self) -> tuple[str, int]:
        """Make all sections; return the text and the exit code."""
        self.read_main()
        self.read_groups()
        makers: dict[str, Callable[[Original], None]] = {
            "program": self.make_program, "fcgi-program": self.make_program, "eventlistener": self.make_listener,
            "inet_http_server": self.make_server, "group": lambda original: self.parts.append(original.part),
        }  # fmt: skip
        for original in self.originals.values():
            if original.name.startswith("eventlistener:"):
                self.read_listener(original)
        for original in self.originals.values():
            if original.kind in ("unix_http_server", "rpcinterface", "supervisorctl", "ctlplugin"):
                original.drop(*original.options)
            elif original.kind in makers and (original.colon or original.kind == "inet_http_server"):
                makers[original.kind](original)
            elif original.name not in ("supervisord", "include"):
                self.make_unknown(original)
        for original in self.originals.values():
            if original.name.startswith("group:"):
                self.make_group(original)
        self.remark_twice(self.twice, "last")
        self.put_supervisord_defaults()
        self.put_order("priority")
        return self.finish()

    def read_main(self) -> None:
        """Take what [supervisord] says."""
        main = self.originals.setdefault("supervisord", Original(self, "supervisord", {}))
        main.part = self.settings
        self.known["host_node_name"] = self.variables.mark("HOSTNAME")
        again = partial(self.expand_format, original=main)  # supervisord expands it twice, as it does with names of log files
        self.environment, passed = main.parse("environment", lambda text: parse_pairs(again(text)), ({}, []))
        if passed:
            main.ask("environment", f"supervisord passes over {' '.join(passed)}")
        self.known.update({f"ENV_{key}": value for key, value in self.environment.items()})
        main.carry("loglevel", "log_level", parse_level, "info")
        self.user = main.parse("user", parse_user, "")
        main.part = self.defaults
        if self.user:
            main.put("uid", self.variables.spell_plain(self.user), "user")
            if not {"HOME", "USER"} <= set(self.environment):
                main.note("user", OTHER_HOME, "uid")
        for option, target, parse in (("umask", "umask", parse_octal), ("directory", "dir", str)):
            if main.options.get("nodaemon", "").lower() in ("true", "yes", "on", "1"):
                main.drop(option)
                at, text = "", "supervisord follows this only where it goes into the background itself, so it did not"
            else:
                main.carry(option, target, parse)
                at, text = target, "supervisord followed this only where it ran without -n, in the background"
            if option in main.options:
                main.note(option, text, at)
        if main.options.get("strip_ansi", "false").lower() not in ("false", "no", "off", "0"):
            main.ask("strip_ansi", "overlord passes colours on as they come")
        main.drop(*(option for option in main.options if option in SUPERVISORD_OPTIONS))
        main.ask_about_rest(SUPERVISORD_OPTIONS)
        self.read_include()

    def read_include(self) -> None:
        """Take what [include] says, and say what to know about the file as a whole."""
        include = self.originals.get("include")
        if include:
            include.part = self.settings
            include.take("files")
            for pattern in self.missing:
                include.ask("files", f"no file matches {pattern} here: convert those too, into configdir = /etc/overlord/")
            include.ask_about_rest(["files"])
        if self.fragment:
            self.top.append("NOTE there is no [supervisord], so this is a part of a configuration: [overlord] and [daemon] are"
                            " wanted once")  # fmt: skip
        if self.here:
            self.top.append(f"NOTE %(here)s is the folder of its file, now {self.here}: in the image it may be another")

    def read_groups(self) -> None:
        """Note which programs are in which group."""
        for original in self.originals.values():
            if original.name.startswith("group:"):
                name = original.subject.strip()
                priority = original.parse("priority", parse_integer, 999)
                for program in self.find_members(original):
                    if program in self.groups:
                        text = f"{program} is in {self.groups[program][0]} too, so it ran twice; here it runs once"
                        original.ask("programs", text)
                    self.groups.setdefault(program, (name, priority))

    def find_members(self, original: Original) -> list[str]:
        """Return the programs of a group."""
        return [program.strip() for program in original.parse("programs", str, "").split(",") if program.strip()]

    def make_group(self, original: Original) -> None:
        """Say with which words a group is asked for."""
        name = original.subject.strip()
        members = self.find_members(original)
        sections = {section.partition(":")[2].strip() for section in self.originals
                    if section.startswith(("program:", "fcgi-program:"))}  # fmt: skip
        lost = [member for member in members if member not in sections]
        if lost or not members:
            original.ask("programs", f"supervisord refuses it: there is no program {lost[0] if lost else 'in it'}")
        else:
            units = [unit for unit in self.units if unit.section.partition(":")[2].strip() in members]
            words = " ".join(f"'{unit.part.name}-*'" if "count" in unit.part.values else unit.part.name for unit in units)
            original.note("programs", f"verbs take several names and globs: overlord.py restart {words} is restart {name}:*")
        original.ask_about_rest(["programs", "priority"])

    def make_server(self, original: Original) -> None:
        """Say what shows the units in place of HTTP."""
        host, _, port = original.parse("port", str, "9001").rpartition(":")
        place = f"{host if host not in ('', '*') else '0.0.0.0'}:{port}"
        original.note("port", f"{SERVE.format(place)}; for that, docker exec CONTAINER overlord.py stop ...")
        for option in ("username", "password"):
            if option in original.options:
                original.note(option, "overlord's HTTP knows none: keep it on 127.0.0.1, or leave it out")
        original.ask_about_rest(["port", "username", "password"])
        self.parts.append(original.part)

    def make_unknown(self, original: Original) -> None:
        """Have a section decided that supervisord passes over."""
        kind = re.split(r"[^\w-]", original.name)[0]
        near = overlord.suggest(kind, ["program", "group", "eventlistener", "supervisord", "include"])
        known = kind.lower() in ("program", "group", "eventlistener")
        meant = f"; probably meant: [{kind.lower()}:{re.sub(r'^[^=: ]*[=: ]*', '', original.name) or 'NAME'}]" if known else near
        self.ask_about_section(original, f"supervisord passes over such a section{meant}")

    def put_supervisord_defaults(self) -> None:
        """Write what supervisord does where a program says nothing."""
        self.settings.values["when_idle"] = "stay"
        values = {"restart": "on-failure", "respawns": "3/ok", "backoff": "2s..30s"}
        values.update(stop_timeout="10s", on_failure="ignore")
        if self.policy == "exit":
            values = {"restart": "never", "stop_timeout": "10s", "on_failure": "shutdown", "on_success": "shutdown"}
        elif self.policy:
            values["on_failure"] = "shutdown"
        if self.logs:
            values.update(log_max="50M", log_keep="10")
        if self.prefixed:
            self.settings.values["output"] = "prefix"
        self.defaults.values.update(values)
        if "backoff" in values:
            text = "NOTE startretries: supervisord waited 1, 2, 3 s before them, overlord waits 0, 2, 4 s; and after runs of less"
            self.defaults.remarks.append(("backoff", f"{text} than 10 s, where supervisord did not wait"))
        if self.hidden:
            text = "NOTE stdout_logfile, stderr_logfile: where they were not set, supervisord hid the output in temporary files;"
            self.top.append(f"{text} here it is the container's: {', '.join(self.hidden)}")

    # --------------------------------------------------------------------------------------------------- event listeners

    def read_listener(self, original: Original) -> None:
        """Find out what a listener is for, as far as it changes the others."""
        events = {event.strip().upper() for event in (original.take("events") or "").split(",")}
        command = original.take("command") or ""
        ends = {"exit": events & {"EVENT", "PROCESS_STATE", "PROCESS_STATE_EXITED"}, "fatal": events & {"PROCESS_STATE_FATAL"}}
        policy = next((word for word, found in ends.items() if found), "")
        at, what = "", ""
        if "PROCESS_LOG" in {event[:11] for event in events} and re.search("supervisor.?stdout", command):
            self.prefixed, at, what = True, "output", "put the name before each line, as output = prefix does"
        elif "restart" in command.lower() or not KILLS.search(command):
            return
        elif policy:
            self.policy, at = "exit" if self.policy == "exit" else policy, "on_failure"
            when = "ended" if policy == "exit" else "was FATAL"
            what = f"taken for one that ends the container when a program {when}, as on_failure does"
            more = ", on_success and restart = never too, but one that ends within startsecs is not tried again (startretries)"
            what += f"{more if policy == 'exit' else ''}; read what it really does"
        if what:
            original.part = self.settings if at == "output" else self.defaults
            text = f"NOTE [{original.name}] events = {', '.join(sorted(events))}, command = {one_line(command)}: {what}"
            original.part.remarks.append((at, text))
            original.drop(*original.options)

    def make_listener(self, original: Original) -> None:
        """Have a listener decided that is not carried over."""
        if original.part in (self.settings, self.defaults):
            return
        command = original.options.get("command", "")
        text = "nobody sends events here"
        if "restart" in command.lower():
            text += "; where x is to be restarted with y, deps = y:bounce of x does it"
        elif re.search("httpok|http|health|check", command):
            text += "; health = http://... of a daemon has it restarted"
        self.ask_about_section(original, text)

    # ---------------------------------------------------------------------------------------------------------- programs

    def make_program(self, original: Original) -> None:
        """Make the units of a program."""
        program = original.subject.strip()
        group, priority = self.groups.get(program, (program, None))
        before = original.part
        own = original.parse("priority", parse_integer, 999)
        shared = {"program_name": program, "group_name": group}
        first = None
        for number, (name, known, count) in enumerate(self.plan_instances(original, {**self.known, **shared})):
            part = self.open_unit(original, name, count=count)
            first = first or part
            original.known = known
            self.fill_unit(original)
            part.remarks += [] if number else before.remarks
            if count:
                original.put("count", count, "numprocs")
            self.note_names(original, count, known["numprocs"])
            if number:  # the first one has the notes for all
                part.remarks = [(at, text) for at, text in part.remarks if not text.startswith("NOTE")]
            self.parts.append(part)
            order = (own, program) if priority is None else (priority, f"group:{group}")
            self.units.append(Unit(part, original.name, order, own))
        if original.name.startswith("fcgi-"):
            text = "the program expects this socket as its stdin, where supervisord puts it; here it has to open it itself"
            original.ask("socket", text)
            original.drop("socket_owner", "socket_mode", "socket_backlog")
        original.part = first or original.part
        original.ask_about_rest(PROGRAM_OPTIONS)

    def note_names(self, original: Original, count: str, number: Any) -> None:
        """Say how the names of so many instances differ."""
        form, name = original.options.get("process_name"), original.part.name
        if count not in ("", "0"):
            original.note("numprocs" if form is None else "process_name", f"the names are {name}-1 and so on here", "count")
        elif number == 1 and form not in (None, "%(program_name)s"):
            original.note("process_name", f"the name is {name} here", "cmd")
        elif not count and number > 1:
            original.note("numprocs", "written out, since the numbers of a count begin at 1 and have no leading zeros", "cmd")

    def plan_instances(self, original: Original, known: dict[str, Any]) -> list[tuple[str, dict[str, Any], str]]:
        """Return the name, the expansions and the count of each unit that a program becomes."""
        program = known["program_name"]
        first = original.parse("numprocs_start", parse_integer, 0)
        wanted = original.parse("numprocs", parse_count, "1")
        form = original.take("process_name") or "%(program_name)s"
        texts = [value for option, value in original.options.items() if option not in ("process_name", "numprocs")]
        used = [use for text in texts for use in re.findall(r"%\(process_num\)[^a-zA-Z]*[a-zA-Z]", text)]
        counts = not used or (first == 1 and {use[-2:] for use in used} <= {")s", ")d", ")i"})
        number = -1 if VARIABLE.match(wanted) else int(wanted)  # -1: a variable gives it
        if number > MOST_INSTANCES:
            original.ask("numprocs", f"overlord has at most {MOST_INSTANCES} of a unit", "count")
            number = MOST_INSTANCES
        if number > 1 and "%(process_num)" not in form:
            option = "process_name" if "process_name" in original.options else "numprocs"
            original.ask(option, "supervisord refuses it: process_name needs %(process_num)s where numprocs is above 1")
        many = number < 0 or number > MOST_WRITTEN_OUT
        if many and not counts:
            original.ask("numprocs", f"the numbers in {used[0]} began at {first}, here they begin at 1", "count")
        if many or number == 0 or (number > 1 and counts):
            own = {"process_num": self.variables.mark("OVERLORD_INSTANCE"), "numprocs": wanted if number < 0 else number}
            return [(program, {**known, **own}, self.variables.spell_plain(wanted) if number < 0 else str(number))]
        plans = []
        for process in range(first, first + number):
            own = {**known, "process_num": process, "numprocs": number}
            try:
                name = format_text(form, own, self.variables)
            except Refused as refused:
                original.ask("process_name", str(refused))
                name = f"{program}-{process}"
            plans.append((program if number == 1 else name, own, ""))
        return plans

    def fill_unit(self, original: Original) -> None:
        """Write the options of one unit."""
        pairs, passed = original.parse("environment", parse_pairs, ({}, []))
        if passed:
            original.ask("environment", f"supervisord passes over {' '.join(passed)}", "env")
        self.put_env(original, "environment", {**self.environment, **pairs})
        original.known = {**original.known, **{f"ENV_{key}": value for key, value in pairs.items()}}
        self.put_program(original)
        for row in PROGRAM_ROWS:
            original.carry(*row)
        self.put_user(original, {**self.environment, **pairs})
        self.put_restart(original)
        self.put_outputs(original)
        original.drop("killasgroup", "serverurl")
        for stream in ("stdout", "stderr"):
            original.drop(f"{stream}_capture_maxbytes", f"{stream}_events_enabled")
            if original.parse(f"{stream}_syslog", require_flag, False):
                original.ask(f"{stream}_syslog", "overlord has no syslog", stream)

    def put_program(self, original: Original) -> None:
        """Write the command, without the pidproxy before it. The shell sees the variables of the unit."""
        known = {**self.known, **original.known}
        for name, value in known.items():
            if name.startswith("ENV_") and VARIABLE.search(value) and IDENTIFIER.fullmatch(name[4:]):
                known[name] = self.variables.mark(name[4:])
        text = original.take("command")
        for name in re.findall(rf"%\(ENV_({IDENTIFIER.pattern})\)", text or ""):
            if f"ENV_{name}" not in known:  # it is the container's, and supervisord does not start without it
                known[f"ENV_{name}"] = self.variables.mark(name if name in GIVEN else f"{name}?")
                self.variables.demanded[name] = None
        try:
            text = None if text is None else format_text(text, known, self.variables)
        except Refused as refused:
            original.ask("command", str(refused), "cmd")
            text = format_text(original.options["command"], known, self.variables, lenient=True)
        if text is None:
            original.part.remarks.append(("", "TODO there is no command, so supervisord refuses it"))
            original.part.off = True
            return
        proxy = re.match(r"(?:\S*python[\d.]*\s+)?\S*pidproxy\s+(\S+)\s+(?=\S)", text)
        if proxy:
            self.put_pidfile(original, self.variables.relax(proxy[1]))
            text = text[proxy.end() :]
        self.put_command(original, "command", text)
        pidfile = self.originals["supervisord"].options.get("pidfile", "")
        if len(pidfile) > 1 and pidfile in text and "supervisord.pid" not in text:
            original.ask("command", "there is no such pid file here: overlord.py shutdown ends the container", "cmd")

    def put_pidfile(self, original: Original, path: str) -> None:
        """Write what pidproxy did: the process that the file names gets the stop signal, also where another is in front."""
        original.put("pidfile", self.variables.spell_plain(path), "command")
        if "pidfile" in original.part.values:
            name = self.variables.show(original.parse("stopsignal", parse_stop_signal, "TERM"))
            original.put("stop_cmd", f"kill -{name} $(cat {self.variables.spell_command(path)})", "command")

    def put_user(self, original: Original, environment: Mapping[str, str]) -> None:
        """Write `uid`."""
        user = original.parse("user", parse_user, "")
        if self.user and "user" in original.options and user != self.user:
            original.ask("user", "supervisord, which was no longer root, could not become this user", "uid")
        if not user or user == self.user:
            return
        original.put("uid", self.variables.spell_plain(user), "user")
        if not {"HOME", "USER"} <= set(environment) and "uid" in original.part.values:
            original.note("user", OTHER_HOME, "uid")
        used = re.findall(r"%\(ENV_(HOME|USER|LOGNAME|SHELL)\)", original.options.get("command", ""))
        for name in dict.fromkeys(name for name in used if name not in environment):
            original.ask("command", f"${{{name}}} is that of {self.variables.show(user)} here, it was supervisord's own", "cmd")

    def put_restart(self, original: Original) -> None:
        """Write when it is restarted."""
        restart = original.parse("autorestart", parse_restart, "on-failure")
        retries = original.parse("startretries", parse_count, "3")
        if self.policy == "exit":
            return
        if restart != "on-failure":
            original.put("restart", restart, "autorestart")
        if restart == "never":
            again = retries != "0" and original.options.get("startsecs", "").strip() != "0"
            self.offer_script(original, "autorestart", f"; where it ended within startsecs, supervisord tried it again,"
                              f" startretries = {self.variables.show(retries)}" if again else "")  # fmt: skip
            return
        if original.part.values.get("warmup") == "0":
            self.offer_script(original, "startsecs")
        if retries != "3":
            original.put("respawns", f"{self.variables.spell_plain(retries)}/ok", "startretries")

    # ------------------------------------------------------------------------------------------------------------ output

    def put_outputs(self, original: Original) -> None:
        """Write where the output goes."""
        redirect = original.parse("redirect_stderr", require_flag, False)
        targets = {"stdout": self.find_target(original, "stdout")}
        if redirect:
            targets["stderr"] = "stdout"
            original.drop("stderr_logfile", "stderr_logfile_maxbytes", "stderr_logfile_backups")
        else:
            targets["stderr"] = self.find_target(original, "stderr")
        if targets["stderr"] == "/dev/stdout" and targets["stdout"] in ("", "inherit"):
            targets["stderr"] = "stdout"
        rotated = []
        for stream, target in targets.items():
            if target and (target != "inherit" or self.prefixed):
                given = "redirect_stderr" if target == "stdout" and redirect else f"{stream}_logfile"
                original.put(stream, target, given)
            if is_log(target):
                rotated.append(stream)
            else:
                original.drop(f"{stream}_logfile_maxbytes", f"{stream}_logfile_backups")
        for name, target, parse, default in ROTATION_ROWS if rotated else ():
            self.put_rotation(original, [f"{stream}_logfile_{name}" for stream in rotated], target, parse, default)

    def put_rotation(self, original: Original, options: list[str], target: str, parse: Parser, default: str) -> None:
        """Write how log files are rotated, which is the same for both streams."""
        self.logs = True
        taken, *others = [original.parse(option, parse, default) for option in options]
        for option, other in zip(options[1:], others):
            if other != taken:
                given = option if option in original.options else options[0]
                text = f"stdout and stderr have one {target} here; taken: {self.variables.show(taken)}"
                original.ask(given, text, target)
        if taken != default:
            original.put(target, self.variables.spell_plain(taken), options[0])

    def find_target(self, original: Original, stream: str) -> str:
        """Return the value of `stdout` or `stderr`, "" where it is the default."""
        option = f"{stream}_logfile"
        events = self.prefixed and original.parse(f"{stream}_events_enabled", require_flag, False)
        text = original.parse(option, partial(self.expand_format, original=original))  # expanded twice there too
        word = "auto" if text is None else text.lower()
        own = OWN_OUTPUT.get(word)
        if word == "auto":
            name = original.part.name
            if not events and name not in self.hidden:
                self.hidden.append(name)
            return ""
        if word in ("none", "off", "", "/dev/null"):
            return "" if events else "null"
        if word == "syslog":
            original.ask(option, "overlord has no syslog", stream)
            return ""
        if own:
            return "inherit" if own == ("stdout", "stderr").index(stream) + 1 else f"/dev/std{'out' if own == 1 else 'err'}"
        if events:
            original.ask(option, "it went to the container's output too, which stdout = prefix does without the file", stream)
        return self.variables.spell_plain(text or "")


def is_log(target: str) -> bool:
    """Tell whether output goes to a file that is rotated."""
    return target[:1] in ("/", "$") and not target.startswith(("/dev/", "/proc/"))


# option, target, parser, and the default, which is not written
ROTATION_ROWS: tuple[tuple[str, str, Parser, str], ...] = (
    ("maxbytes", "log_max", parse_bytes, "50M"),
    ("backups", "log_keep", parse_count, "10"),
)
PROGRAM_ROWS: tuple[tuple[str, str, Parser, str | None], ...] = (
    ("directory", "dir", str, None),
    ("umask", "umask", parse_octal, None),
    ("autostart", "autostart", parse_flag, "true"),
    ("startsecs", "warmup", parse_seconds, "1s"),
    ("exitcodes", "success", parse_exit_codes, "0"),
    ("stopsignal", "stop_signal", parse_stop_signal, "TERM"),
    ("stopwaitsecs", "stop_timeout", parse_seconds, "10s"),
    ("stopasgroup", "kill_mode", parse_kill_mode, "mixed"),
)


# ============================================================================================================= circus

CIRCUS_VARIABLE = re.compile(r"\$\(circus\.([\w.-]+)\)|\(\(circus\.([\w.-]+)\)\)", re.IGNORECASE)
CIRCUS_HEADER = re.compile(r"\[([^]]+)\]")
CIRCUS_OPTION = re.compile(r"(.*?)\s*[=:]\s*(.*)$")
CIRCUS_OPTIONS = """check_delay endpoint endpoint_owner pubsub_endpoint multicast_endpoint stats_endpoint statsd
    statsd_close_outputs umask warmup_delay httpd httpd_host httpd_port httpd_close_outputs debug debug_gc pidfile loglevel
    logoutput loggerconfig fqdn_prefix include include_dir proc_name ssh_server stream_backend""".split()
WATCHER_OPTIONS = """cmd args numprocesses warmup_delay executable working_dir on_demand shell shell_args uid gid send_hup
    stop_signal stop_children max_retry graceful_timeout priority use_sockets singleton copy_env copy_path respawn autostart
    max_age max_age_variance virtualenv virtualenv_py_ver stdin_socket close_child_stdin close_child_stdout
    close_child_stderr check_flapping stdout_stream.class stdout_stream.filename stderr_stream.class
    stderr_stream.filename""".split()
NO_COUNTERPART = {
    "executable": "write the program itself in cmd",
    "on_demand": "a unit is not started by a connection",
    "shell_args": "write them in cmd",
    "virtualenv": "put its bin folder on PATH in env, or name its programs by their full paths",
    "virtualenv_py_ver": "see virtualenv",
    "copy_path": "write PYTHONPATH in env",
    "stdin_socket": "stdin is /dev/null: the program has to open its socket itself",
}


def read_circus(path: str, text: str) -> tuple[Sections, list[tuple[str, str, str]], list[str]]:
    """Return the sections as circus reads them, with all that it includes; what is given twice, as (section, option, later
    value); and the patterns of files that match none."""
    sections: Sections = {}
    twice: list[tuple[str, str, str]] = []
    parse_circus(sections, twice, path, text)
    here, missing = os.path.dirname(path), []
    main = sections.get("circus", {})
    patterns = main.get("include", "").split()
    for pattern in [*patterns, *(os.path.join(name, "*.ini") for name in main.get("include_dir", "").split())]:
        files = list(filter(os.path.isfile, glob.glob(os.path.join(here, pattern))))
        missing += [] if files else [pattern]
        for file in sorted(files):
            parse_circus(sections, twice, file, read_text(file))
    return sections, [each for each in twice if each[2] != sections[each[0]][each[1]]], missing


def parse_circus(sections: Sections, twice: list[tuple[str, str, str]], path: str, text: str) -> None:
    """Add the sections of a file, of which the first value of an option counts. Raises Unreadable."""
    options: Options | None = None
    section = name = ""
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip() or line[0] in "#;" or re.match("rem(?:\\s|$)", line, re.IGNORECASE):
            continue
        header, option = CIRCUS_HEADER.match(line), CIRCUS_OPTION.match(line)
        if line[0].isspace() and options is not None and name:
            options[name] += "\n" + line.strip()
        elif header:
            section, name = header[1], ""
            options = sections.setdefault(section, {})
        elif options is None:
            raise Unreadable(f"{path}:{number}: {line.strip()!r} stands before the first [section]")
        elif not option:
            raise Unreadable(f"{path}:{number}: {line.strip()!r} is neither a [section] nor an option")
        elif option[1] in options:
            name = option[1]  # a line that goes on is added to the first value
            twice.append((section, name, option[2]))
        else:
            name = option[1]
            value = re.sub(r"^([^;]*)\s;.*", r"\1", option[2]).strip()
            options[name] = "" if value == '""' else value


@or_variable
def parse_fraction(text: str) -> str:
    """Return a duration from seconds that may be a fraction."""
    if not re.fullmatch(r"\d{1,9}(?:\.\d{0,6})?|\.\d{1,6}", text.strip()):
        raise Refused(f"{text!r} is no duration")
    return f"{float(text):g}s" if float(text) else "0"


class Circus(Conversion):
    """The conversion of a configuration for circus."""

    supervisor = "circus"
    stops = ""

    def __init__(self, path: str, text: str) -> None:
        sections, self.twice, self.missing = read_circus(path, text)
        super().__init__(sections)
        self.expand = self.expand_dollars  # the names in `known` are in small letters, as circus looks them up
        self.bare_environment: list[str] = []  # units without `copy_env`
        self.listeners: dict[str, str] = {}  # socket -> the unit that has it

    def expand_dollars(self, text: str, original: Original) -> str:
        """Return a text with $(circus.NAME) expanded."""
        def look_up(match: re.Match[str]) -> str:
            name = match[1] or match[2]
            value = {**self.known, **original.known}.get(name.lower())
            if value is None and name.lower().startswith("env."):
                name = name[4:]
                value = self.variables.mark(name if name != name.lower() else name.upper())
            if value is None:
                raise Refused(f"overlord has nothing for {match[0]}")
            return str(value)

        return CIRCUS_VARIABLE.sub(look_up, text)

    def convert_circus(self) -> tuple[str, int]:
        """Make all sections; return the text and the exit code."""
        self.settings.values["when_idle"] = "stay"
        self.defaults.values.update(stop_timeout="30s", on_failure="ignore")
        self.read_circus_main()
        self.read_environment("env", self.environment)
        self.known = {f"env.{key.lower()}": value for key, value in self.environment.items()}
        for original in self.originals.values():
            if original.kind == "watcher" and original.colon:
                self.make_watcher(original)
            elif original.kind == "plugin" and original.colon:
                self.make_plugin(original)
            elif original.kind not in ("env", "socket") and original.name != "circus":
                self.ask_about_section(original, "circus passes over such a section")
        for original in self.originals.values():
            if original.kind == "socket" and original.subject.lower() not in self.listeners:
                self.ask_about_section(original, "no watcher takes it")
        if self.logs:
            self.defaults.values.update(log_max="0", log_keep="0")
        if self.bare_environment:
            self.top.append("NOTE copy_env: circus gave these the variables of [env] alone, here they have the container's too: "
                            + ", ".join(self.bare_environment))  # fmt: skip
        self.put_order("priority")
        self.remark_twice(self.twice, "first")
        return self.finish()

    def read_circus_main(self) -> None:
        """Take what [circus] says."""
        main = self.originals.setdefault("circus", Original(self, "circus", {}))
        main.part = self.defaults
        main.carry("umask", "umask", parse_octal)
        main.part = self.settings
        main.carry("loglevel", "log_level", lambda text: parse_level({"warning": "warn"}.get(text.lower(), text)), "info")
        for pattern in self.missing:
            option = "include" if pattern in main.options.get("include", "").split() else "include_dir"
            main.ask(option, f"no file matches {pattern} here: convert those too, into configdir = /etc/overlord/")
        main.take("include")
        main.take("include_dir")
        if main.parse("warmup_delay", parse_fraction, "0") != "0":
            main.ask("warmup_delay", "overlord does not pause between two starts; deps = NAME waits until NAME is up")
        for option in ("httpd", "statsd"):
            if main.parse(option, require_flag, False):
                main.note(option, SERVE.format("0.0.0.0:9001"))
        if "endpoint" in main.options:
            main.note("endpoint", "no port is needed: overlord.py has the verbs of circusctl")
        main.drop(*(option for option in main.options if option in CIRCUS_OPTIONS))
        main.ask_about_rest(CIRCUS_OPTIONS)

    def read_environment(self, section: str, found: dict[str, str]) -> None:
        """Add the variables of a section."""
        original = self.originals.get(section) or Original(self, section, {})
        for key in original.options:
            value = original.parse(key, lambda text: re.sub(r"\$([A-Z]+[A-Z0-9_]*)", self.mark_variable, text), "")
            found[key] = value.strip()

    def mark_variable(self, match: re.Match[str]) -> str:
        """Return the character for a variable written as $NAME."""
        return self.variables.mark(match[1])

    def make_plugin(self, original: Original) -> None:
        """Have a plugin decided by someone."""
        text = "there are no plugins"
        if "flapping" in original.options.get("use", "") + original.name:
            attempts, window = (original.options.get(name, default) for name, default in (("attempts", "2"), ("window", "1")))
            text = f"overlord spaces restarts by itself, see backoff; to give a daemon up: respawns = {attempts}/{window}s"
        self.ask_about_section(original, text)

    def make_watcher(self, original: Original) -> None:
        """Make the unit of a watcher."""
        watcher = original.subject
        wanted = original.parse("numprocesses", parse_count, "1")
        part = self.open_unit(original, watcher, count="" if wanted == "1" else wanted)
        name = part.name
        environment = dict(self.environment)
        for section in self.originals:
            patterns = section[4:].split(",") if section.startswith("env:") else ()
            if any(fnmatch.fnmatch(watcher, pattern.strip()) for pattern in patterns):
                self.read_environment(section, environment)
        known: dict[str, Any] = {f"env.{key.lower()}": value for key, value in environment.items()}
        original.known = known
        self.put_watcher_command(original, {**self.find_instances(original, wanted), **self.find_sockets(original, name)})
        self.put_env(original, "copy_env", environment)
        if not original.parse("copy_env", require_flag, False):
            self.bare_environment.append(name)
        for row in WATCHER_ROWS:
            original.carry(*row)
        if "uid" in part.values and not {"HOME", "USER"} <= set(environment):
            original.note("uid", OTHER_HOME, "uid")
        self.put_lifetime(original)
        self.put_limits(original)
        self.put_streams(original)
        original.drop("singleton", "shell", "check_flapping")
        self.units.append(Unit(part, original.name, (-original.parse("priority", parse_integer, 0), watcher), 0))
        self.ask_about_watcher(original)
        self.parts.append(part)

    def ask_about_watcher(self, original: Original) -> None:
        """Have decided what has no counterpart."""
        for option, text in NO_COUNTERPART.items():
            if option in original.options and original.options[option].strip().lower() not in ("", "false", "no", "off", "0"):
                original.ask(option, text)
            original.drop(option)
        if not original.parse("close_child_stdin", require_flag, True):
            original.ask("close_child_stdin", "stdin is /dev/null here")
        for option in [option for option in original.options if option.startswith("hooks.")]:
            text = "there are no hooks"
            if option == "hooks.before_start":
                text = "what it does can be a [script:x], with deps = x:always here"
            original.ask(option, text, "deps")
        original.ask_about_rest(WATCHER_OPTIONS)

    def find_instances(self, original: Original, wanted: str) -> dict[str, str]:
        """Write `count`; return what $(circus.wid) is."""
        text = "".join(original.options.get(option, "") for option in ("cmd", "args"))
        if wanted == "1":
            return {"wid": "1"}
        original.put("count", self.variables.spell_plain(wanted), "numprocesses")
        name = original.part.name
        if wanted != "0":
            original.note("numprocesses", f"the names are {name}-1 and so on", "count")
        return {"wid": self.variables.mark("OVERLORD_INSTANCE")} if "wid" in text.lower() else {}

    def put_watcher_command(self, original: Original, own: Mapping[str, str]) -> None:
        """Write `cmd`, from `cmd` and `args`. `own`: what is expanded in these alone."""
        known, texts = original.known, []
        original.known = {**known, **own}
        for option in ("cmd", "args"):
            try:
                texts.append(original.expanded(option) or "")
            except Refused as refused:
                original.ask(option, str(refused), "cmd")
                texts.append(original.options[option])
        original.known = known
        broken = [text for text in texts if not is_complete(text)]  # each is split by itself
        self.put_command(original, "cmd", broken[0] if broken else " ".join(filter(None, texts)))

    def put_lifetime(self, original: Original) -> None:
        """Write what is about restarts."""
        if not original.parse("respawn", require_flag, True):
            original.put("restart", "never", "respawn")
            original.put("warmup", "0", "respawn")  # circus asks no program to live for some time
            self.offer_script(original, "respawn")
        tries = original.parse("max_retry", str, "-1")
        if re.fullmatch("[1-9][0-9]{0,8}", tries):
            original.put("respawns", f"{int(tries) - 1}/ok", "max_retry")
            text = "circus counted only starts that the system refused, overlord counts all ends before the daemon was up"
            original.note("max_retry", text, "respawns")
        elif tries != "-1":
            original.ask("max_retry", "it is not -1, nor a number from 1")
        age, spread = original.parse("max_age", parse_integer, 0), original.parse("max_age_variance", parse_integer, 30)
        if age > 0:
            spread = max(spread, 0)
            original.put("max_age", f"{age + spread}s~{spread}s" if spread else f"{age}s", "max_age")
        if original.parse("send_hup", require_flag, False):
            name = original.part.name
            original.note("send_hup", f"the HUP that circusctl reload sent is sent by overlord.py signal HUP {name}")
        if original.parse("warmup_delay", parse_fraction, "0") != "0":
            original.ask("warmup_delay", "instances start together here; where they must not, write them as daemons with deps")

    def put_limits(self, original: Original) -> None:
        """Write `limits`."""
        limits = []
        for option in [option for option in original.options if option.startswith("rlimit_")]:
            value = original.parse(option, lambda text: parse_count(text) if text else "unlimited")
            if option[7:].lower() not in overlord.LIMITS:
                original.ask(option, f"overlord has the limits {' '.join(overlord.LIMITS)}", "limits")
            elif value is not None:
                limits.append(f"{option[7:].lower()}={self.variables.spell_plain(value)}")
        if limits:
            original.put("limits", " ".join(limits), "")

    def put_streams(self, original: Original) -> None:
        """Write where the output goes."""
        sizes: list[tuple[str, str]] = []
        targets = {stream: self.find_stream(original, stream, sizes) for stream in ("stdout", "stderr")}
        if targets["stderr"] == "prefix" and targets["stdout"] == "prefix":
            targets["stderr"] = "stdout"
        elif targets["stderr"] == "inherit":  # what circus passes on is always on its stdout
            targets["stderr"] = "stdout" if targets["stdout"] in ("", "inherit") else "/dev/stdout"
        for stream, target in targets.items():
            if target and (stream, target) != ("stdout", "inherit"):
                given = [f"{stream}_stream.filename", f"{stream}_stream.class", f"close_child_{stream}"]
                original.put(stream, target, next(option for option in given if option in original.options))
        for option in [option for option in original.options if re.match("std(?:out|err)_stream[.]", option)]:
            if option not in original.fates:
                original.ask(option, "has no counterpart", option[:6])
        if len(set(sizes)) > 1:
            original.ask("stderr_stream.filename", "stdout and stderr have one log_max and log_keep here", "log_max")
        for size, keep in sizes[:1]:
            self.logs = True
            if (size, keep) != ("0", "0"):
                original.put("log_max", self.variables.spell_plain(size))
                original.put("log_keep", self.variables.spell_plain(keep))

    def find_stream(self, original: Original, stream: str, sizes: list[tuple[str, str]]) -> str:
        """Return the value of `stdout` or `stderr`, "" where nothing is said; add how a file is rotated to `sizes`."""
        kind = (original.take(f"{stream}_stream.class") or "").rpartition(".")[2]
        path = original.parse(f"{stream}_stream.filename", str, "")
        closed = original.parse(f"close_child_{stream}", require_flag, False)
        if kind == "FancyStdoutStream":
            original.drop(f"{stream}_stream.color", f"{stream}_stream.time_format")
            return "prefix"
        if kind in ("FileStream", "WatchedFileStream", "TimedRotatingFileStream") or (path and not kind):
            sizes.append(self.find_size(original, stream, kind))
            return self.variables.spell_plain(path)
        if kind not in ("", "StdoutStream"):
            original.ask(f"{stream}_stream.class", "overlord has stdout = inherit, prefix, null and /PATH", stream)
        return "inherit" if kind == "StdoutStream" else "null" if closed else ""

    def find_size(self, original: Original, stream: str, kind: str) -> tuple[str, str]:
        """Return `log_max` and `log_keep`."""
        if kind not in ("", "FileStream"):
            original.ask(f"{stream}_stream.class", "a log file is rotated by its size here: log_max, log_keep", "log_max")
        size = original.parse(f"{stream}_stream.max_bytes", parse_bytes, "0")
        return size, original.parse(f"{stream}_stream.backup_count", parse_count, "0")

    # ----------------------------------------------------------------------------------------------------------- sockets

    def find_sockets(self, original: Original, name: str) -> dict[str, str]:
        """Write `listen`; return the descriptors that $(circus.sockets.NAME) are."""
        sockets = {section[7:].lower(): each for section, each in self.originals.items() if section.startswith("socket:")}
        if not original.parse("use_sockets", require_flag, False):
            return {}
        text = " ".join(original.options.get(option, "") for option in ("cmd", "args")).lower()
        named = [socket for socket in sockets if re.search(rf"circus\.sockets\.{re.escape(socket)}(?![\w.-])", text)]
        taken, lines = named or list(sockets), []
        for socket in taken:
            owner = self.listeners.setdefault(socket, name)
            if owner != name:
                original.ask("use_sockets", f"{owner} has the socket {socket} already; no two units can share one", "listen")
            else:
                lines.append(self.spell_socket(sockets[socket]))
        if lines:
            value = "\n".join(["", *lines]) if len(lines) > 1 else lines[0]
            original.part.values["listen"] = value
            original.part.origins["listen"] = original.name, "use_sockets"
        return {f"sockets.{socket}": str(3 + number) for number, socket in enumerate(taken)}

    def spell_socket(self, socket: Original) -> str:
        """Return a line of `listen`."""
        host, port = socket.parse("host", str, "localhost"), socket.parse("port", str, "8080")
        family, path = socket.parse("family", str, "AF_INET"), socket.parse("path", str, "")
        kind = socket.parse("type", str, "SOCK_STREAM")
        socket.part = self.settings
        if kind.upper() != "SOCK_STREAM":
            socket.ask("type", "listen opens stream sockets alone")
        if "proto" in socket.options or "interface" in socket.options:
            socket.ask("proto" if "proto" in socket.options else "interface", "listen has nothing like it")
        socket.drop(*socket.options)
        if path or family.upper() == "AF_UNIX":
            return f"unix:{self.variables.spell_plain(path)}"
        host = f"[{host}]" if ":" in host else host
        return f"tcp:{self.variables.spell_plain(host)}:{self.variables.spell_plain(port)}"


WATCHER_ROWS: tuple[tuple[str, str, Parser, str | None], ...] = (
    ("working_dir", "dir", str, ""),
    ("uid", "uid", lambda text: "" if text in ("root", "0") else text, ""),
    ("gid", "gid", str, ""),
    ("autostart", "autostart", parse_flag, "true"),
    ("graceful_timeout", "stop_timeout", parse_fraction, "30s"),
    ("stop_signal", "stop_signal", parse_stop_signal, "TERM"),
    ("stop_children", "kill_mode", parse_kill_mode, "mixed"),
)


# =========================================================================================================== Procfile

PROCESS = re.compile(r"([A-Za-z0-9_-]+):\s*(.+)$")


class Procfile(Conversion):
    """The conversion of a Procfile."""

    supervisor = "honcho"  # a Procfile is for foreman too, which honcho follows
    stops = ""

    def __init__(self, text: str) -> None:
        super().__init__({"Procfile": {}})
        self.text = text

    def convert_procfile(self) -> tuple[str, int]:
        """Make a unit of each line; return the text and the exit code."""
        file = self.originals["Procfile"]
        self.settings.values["output"] = "prefix"
        shared = {"stop_timeout": "5s", "env_file": "-.env"}
        self.defaults.values.update(shared, restart="never", on_success="shutdown", warmup="0")
        lines = [line.strip() for line in self.text.split("\n")]
        found = [PROCESS.match(line) for line in lines if line and not line.startswith("#")]
        wrong = [line for line in lines if line and not line.startswith("#") and not PROCESS.match(line)]
        names = [match[1] for match in found if match]
        ports = 0
        for match in filter(None, found):
            name, command = match[1], match[2]
            if name in file.options:
                wrong.append(match[0])
                continue
            file.options[name] = command
            kind = "script" if name == "release" else "daemon"
            part = self.open_unit(file, name, kind)
            self.parts.append(part)
            file.take(name)
            file.put("cmd", command, name)
            if kind == "script":
                part.values.update(shared)
                file.note(name, "runs to its end before the others start", "cmd")
            elif "release" in names:
                part.values["deps"] = "release"
            if re.search(r"\$\{?PORT\b", command):
                part.values["env"] = "PORT=${PORT:-5000}" if not ports else f"PORT={5000 + 100 * ports}"
                text = "honcho and foreman give each process a PORT of its own, from 5000 or that of the environment on"
                file.note(name, text, "env")
            ports += kind == "daemon"
            self.put_hints(file, name, command)
        for line in wrong:
            self.top.append(f"TODO {one_line(line)!r} is not NAME: COMMAND, or its name is taken; it is passed over")
        return self.finish()


# ======================================================================================================== command line

KINDS = (
    ("circus", re.compile(r"^\[(?:circus|watcher:[^]]*)\]", re.MULTILINE)),
    ("supervisord", re.compile(r"^\[(?:(?:program|group|eventlistener|fcgi-program|rpcinterface)\b[^]]*|supervisord|supervisorctl"
                               r"|include|unix_http_server[^]]*|inet_http_server[^]]*)\]", re.MULTILINE | re.IGNORECASE)),
    ("procfile", re.compile(r"\A(?:\s*(?:#.*)?\n)*[A-Za-z0-9_-]+:\s*\S")),
)  # fmt: skip
TEMPLATE = re.compile(r"\{\{.*?\}\}|\{%.*?%\}|@@\w+@@|<%.*?%>")


def read_text(path: str) -> str:
    """Return the text of a file. Raises Unreadable."""
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise Unreadable(f"{path}:1: cannot be read: {error.strerror}") from None
    try:
        text = data.decode().lstrip("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
        at, fault = data.find(b"\0"), "a NUL byte"
    except UnicodeDecodeError as error:
        at, fault = error.start, f"byte 0x{data[error.start]:02x} is not UTF-8"
    if at >= 0:
        raise Unreadable(f"{path}:{data.count(bytes([10]), 0, at) + 1}: {fault}")
    for number, line in enumerate(text.split("\n"), 1):
        found = TEMPLATE.search(line)
        if found and line.strip()[:1] not in ("#", ";"):
            raise Unreadable(f"{path}:{number}: {found[0]} is of a template: convert what is made from it")
    return text


def find_kind(path: str, text: str) -> str:
    """Return what a file is for: circus, supervisord or a procfile. Raises Unreadable."""
    if re.search(r"(?:^|\.)Procfile(?:\.\w+)?$", os.path.basename(path)):
        return "procfile"
    for kind, pattern in KINDS:
        if pattern.search(text):
            return kind
    raise Unreadable(f"{path}:1: is not for supervisord ([program:x]) or circus ([watcher:x]), nor a Procfile (name: command)")


def convert(path: str) -> tuple[str, int]:
    """Return the configuration that a file becomes, and the exit code: 0, or 1 where there is a TODO. Raises Unreadable."""
    text = read_text(path)
    kind = find_kind(path, text)
    if kind == "circus":
        return Circus(path, text).convert_circus()
    if kind == "supervisord":
        return Supervisord(path, text).convert_supervisord()
    return Procfile(text).convert_procfile()


def run_tool(arguments: list[str]) -> int:
    """Convert the file that is named. Return the exit code."""
    if len(arguments) != 1 or not arguments[0] or arguments[0].startswith("-"):
        sys.stderr.write("convert: name one file of supervisord or circus, or a Procfile: make convert FROM=supervisord.conf\n")
        return EX_USAGE
    try:
        text, code = convert(arguments[0])
    except Unreadable as error:
        sys.stderr.write(f"{error}\n")
        return EX_CONFIG
    sys.stdout.buffer.write(text.encode())
    return code


if __name__ == "__main__":
    sys.exit(run_tool(sys.argv[1:]))
