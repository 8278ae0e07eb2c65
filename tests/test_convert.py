"""tests/convert.py: configurations of supervisord and circus, and Procfiles, made into one of overlord.

Each case is a file in tests/convert/, or a folder there with a `main` file: NAME.conf (supervisord), NAME.circus.ini and
NAME.Procfile, beside NAME.expected: exactly what the tool prints, on stdout or, where it refuses a file, on stderr. `HERE`
in it stands for the path of tests/convert. What is printed says what the exit code is: 1 where it has a TODO, 78 where it is
an error.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import convert
import overlord
from harness import PATH, PATIENCE, ROOT

TOOL = ROOT / "tests" / "convert.py"
CASES = ROOT / "tests" / "convert"
FORMS = (".conf", ".circus.ini", ".Procfile")
# Warnings of `check` about what a machine lacks, or who can write to it; and the note that the source is not compiled.
OF_THE_MACHINE = r"is not there, or not executable|no such (?:user|group|folder)|can be written by others|^overlord: note: "
slow = settings(deadline=None, max_examples=120, suppress_health_check=list(HealthCheck))


def find_sources() -> dict[str, str]:
    """Return the path of each case, below CASES, by its name."""
    files = [*CASES.glob("*"), *CASES.glob("*/main.*")]
    found = {}
    for path in sorted(files):
        name = path.parent.name if path.stem.partition(".")[0] == "main" else path.name
        if path.is_file() and (path.name.endswith(FORMS) or path.name == "Procfile"):
            found[re.sub(r"\.(?:conf|circus\.ini|Procfile)$", "", name)] = str(path.relative_to(CASES))
    return found


SOURCES = find_sources()


def run_convert(*words: str, folder: Path = CASES) -> tuple[int, str, str]:
    """Run the tool in a folder; return its exit code, stdout and stderr."""
    done = subprocess.run([sys.executable, str(TOOL), *words], cwd=folder, capture_output=True, timeout=PATIENCE, check=False)
    return done.returncode, done.stdout.decode(), done.stderr.decode()


def check(text: str, folder: Path) -> list[str]:
    """Have `overlord.py check` read a configuration; return its warnings but those about the machine."""
    (folder / "overlord.conf").write_text(text)
    names = {name: f"{name}=/1" if name in given else f"{name}=1" for line in re.findall("RUN (.*) overlord.py check", text)
             for given in [dict(word.split("=") for word in line.split() if word.endswith("=/1"))]
             for name in (word.partition("=")[0] for word in line.split())}  # fmt: skip
    environment = {"PATH": PATH, "HOME": "/", "HOSTNAME": "here", **dict(pair.split("=") for pair in names.values())}
    words = [sys.executable, str(ROOT / "overlord.py"), "-c", "overlord.conf", "check"]
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, timeout=PATIENCE, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return [line for line in done.stderr.decode().splitlines() if not re.search(OF_THE_MACHINE, line)]


# --- the collection --------------------------------------------------------------------------------------------------


def test_collection() -> None:
    """Each case has an expectation, and each expectation a case."""
    assert len(SOURCES) >= 60
    assert set(SOURCES) == {path.stem for path in CASES.glob("*.expected")}


@pytest.mark.parametrize("name", SOURCES)
def test_case(name: str, tmp_path: Path) -> None:
    """A file becomes exactly what is expected; `check` accepts that, and has nothing to say about it."""
    expected = (CASES / f"{name}.expected").read_text().replace("HERE", str(CASES))
    code, out, err = run_convert(SOURCES[name])
    if re.match(r"\S+:\d+: ", expected):
        assert (code, out, err) == (78, "", expected)
    else:
        assert (out, err) == (expected, "")
        assert code == ("# TODO " in expected)
        # What could not be expanded stands as it was, below a TODO.
        assert [line for line in check(out, tmp_path) if "are not expanded here" not in line or code == 0] == []


# --- any file --------------------------------------------------------------------------------------------------------


def accept(text: str) -> Any:
    """Return the configuration that overlord reads from a text, with the variables that its note asks for; it is no
    longer than `shutdown_timeout` in stopping, and nothing in it looks like a mistake."""
    given = dict(re.findall(r"(\w+)=(\S+)", " ".join(re.findall("RUN (.*) overlord.py check", text))))
    draft = overlord.Draft({"PATH": PATH, "HOME": "/", "HOSTNAME": "here", **given})
    draft.read_text("overlord.conf", text.encode())
    config = draft.validate()
    own = "are not expanded here|begins no comment|into the background"  # what is doubtful in the file itself, and stays so
    doubts = [line for line in overlord.warn_of_doubts(draft) if not re.search(own, line)]
    assert [*doubts, *overlord.warn_of_stop_time(config)] == []
    return config


def convert_text(text: str, name: str, folder: Path) -> tuple[str, Any]:
    """Convert a text; return what comes of it, and the configuration that overlord reads from that."""
    path = folder / name
    path.write_bytes(text.encode())
    made, code = convert.convert(str(path))
    assert code == ("# TODO " in made)
    return made, accept(made)


def spell_sections(sections: list[tuple[str, dict[str, str]]]) -> str:
    """Return the text of an INI file."""
    lines = []
    for name, options in sections:
        lines.append(f"[{name}]")
        lines += [f"{option} = {value}".replace("\n", "\n  ") for option, value in options.items()]
    return "\n".join(lines) + "\n"


def is_plain(text: str) -> bool:
    """Tell whether a text has nothing of a template."""
    return not re.search(r"\{\{|\{%|@@|<%", text)


STRANGE = st.text(st.one_of(st.sampled_from("ab1 /.,=;#%$'\"\\{}()[]-~*&|<>`!\n\tß"), st.characters(
    blacklist_categories=("Cs",), blacklist_characters="\0\r")), max_size=24).filter(is_plain)  # fmt: skip
NAMES = st.one_of(st.sampled_from(["a", "b", "c", "w", "w-1"]), st.text("abAB1_.-@ß!", min_size=1, max_size=6))
VARIABLE_TEXTS = ["%(ENV_A)s", "x%(ENV_B)s/y", "%(program_name)s", "%(process_num)02d", "%(process_num)d", "%(here)s/a",
                  "%(host_node_name)s", "%(group_name)s", "%(nothing)s", "%%", "%", "%(ENV_A)10s", "%(ENV_a.b)s"]  # fmt: skip
COMMANDS = ["/srv/a", "nginx -g 'daemon off;'", 'bash -c "echo $HOME && exec a"', "a && b", "A=1 b", "exec a",
            "pidproxy /a.pid b", "python3 /usr/bin/pidproxy /a.pid b 'c'", "'", "", "x \\", "sh -c 'a\nb'", "cron -f",
            "a %(process_num)s"]  # fmt: skip
VALID: dict[str, list[str]] = {
    "command": COMMANDS,
    "process_name": ["%(program_name)s_%(process_num)02d", "%(program_name)s", "x%(process_num)d", "%(group_name)s"],
    "numprocs": ["0", "1", "2", "5", "101", "-1", "%(ENV_N)s"],
    "numprocs_start": ["0", "1", "7"],
    "priority": ["1", "2", "999", "-1", "%(ENV_P)s"],
    "autostart": ["true", "false", "yes", "0", "%(ENV_X)s"],
    "autorestart": ["true", "false", "unexpected", "Unexpected", "no", "%(ENV_X)s"],
    "startsecs": ["0", "1", "10", "%(ENV_S)s"],
    "startretries": ["0", "3", "10", "%(ENV_S)s"],
    "exitcodes": ["0", "0,2", "", "255,1", "300", "%(ENV_C)s"],
    "stopsignal": ["TERM", "SIGINT", "9", "quit", "FOO", "%(ENV_SIG)s"],
    "stopwaitsecs": ["0", "5", "10", "600", "%(ENV_S)s"],
    "stopasgroup": ["true", "false", "on"],
    "killasgroup": ["true", "false"],
    "user": ["root", "www-data", "1000", "none", "%(ENV_U)s"],
    "directory": ["/srv", "/a b", "$x/${y}", "none", "%(ENV_D)s/x"],
    "umask": ["022", "0", "777", "1000", "9"],
    "environment": ['A="1",B="2"', "A=1",
                    'P="/x:%(ENV_P)s"', 'A="%(ENV_B)s",B="%(ENV_A)s"', "A='x\ny'", "A", 'Q="it\'s",R=\'"\''],
    "serverurl": ["AUTO", "unix:///x"],
    "redirect_stderr": ["true", "false"],
    "stdout_logfile": ["/dev/stdout", "/dev/stderr", "NONE", "AUTO", "/var/log/a.log", "a.log", "syslog", "%(ENV_L)s/x", "off"],
    "stdout_logfile_maxbytes": ["0", "1MB", "50MB", "1KB", "10", "1gb", "5TB"],
    "stdout_logfile_backups": ["0", "10", "3", "5000"],
    "stdout_events_enabled": ["true", "false"],
    "stdout_syslog": ["true", "false"],
    "events": ["PROCESS_STATE_EXITED", "PROCESS_STATE_FATAL", "PROCESS_LOG", "TICK_5", "EVENT"],
    "depends_on": ["a", "b:started"],
    "socket": ["unix:///run/a.sock", "tcp://localhost:9000"],
    "loglevel": ["debug", "warn", "trace", "critical", "none", "%(ENV_L)s"],
    "nodaemon": ["true", "false"],
    "logfile": ["/dev/null"],
    "pidfile": ["/run/supervisord.pid"],
    "minfds": ["1024"],
    "programs": ["a,b", "a", "nothing", ""],
    "port": ["*:9001", "127.0.0.1:9001", "9001"],
    "files": ["*.nothing", "%(here)s/x.ini"],
}  # fmt: skip
VALID.update({option.replace("stdout", "stderr"): values for option, values in VALID.items() if option.startswith("stdout")})


def section_of(*names: str) -> st.SearchStrategy[dict[str, str]]:
    """Return a strategy for the options of a section: valid values, odd ones, and ones with variables in them."""
    values = {name: st.one_of(st.sampled_from(VALID[name]), st.sampled_from(VALID[name]), STRANGE, st.builds(
        "{}{}{}".format, STRANGE, st.sampled_from(VARIABLE_TEXTS), STRANGE).filter(is_plain)) for name in names}  # fmt: skip
    return st.fixed_dictionaries({}, optional=values)


OF_PROGRAM = [name for name in VALID if name in convert.PROGRAM_OPTIONS or name == "depends_on"]
PROGRAMS = st.tuples(
    st.builds("{}:{}".format, st.sampled_from(["program", "program", "program", "eventlistener", "fcgi-program"]), NAMES),
    st.builds(lambda command, rest: {"command": command, **rest}, st.sampled_from(COMMANDS), section_of(*OF_PROGRAM)),
)
OTHERS = st.one_of(
    st.tuples(st.just("supervisord"), section_of("loglevel", "nodaemon", "logfile", "pidfile", "minfds", "user", "umask",
                                                 "directory", "environment", "depends_on")),  # fmt: skip
    st.tuples(st.builds("group:{}".format, NAMES), section_of("programs", "priority")),
    st.tuples(st.just("inet_http_server"), section_of("port")),
    st.tuples(st.just("include"), st.sampled_from(VALID["files"]).map(lambda files: {"files": files})),
    st.tuples(st.sampled_from(["program=x", "notes", "unix_http_server", "supervisorctl", "DEFAULT"]),
              section_of("command", "port")),
)
SUPERVISORD = st.lists(st.one_of(PROGRAMS, PROGRAMS, OTHERS), min_size=1, max_size=6)


def count_options(text: str) -> int:
    """Return how many options a file for supervisord has, as configparser reads it; those of [DEFAULT] aside."""
    parser = convert.RawConfigParser(inline_comment_prefixes=(";", "#"), strict=False)
    parser.read_string(text)
    return sum(len(parser._sections[name]) for name in parser.sections())  # type: ignore[attr-defined]


@slow
@given(SUPERVISORD)
def test_any_supervisord_file(tmp_path_factory: pytest.TempPathFactory, sections: list[tuple[str, dict[str, str]]]) -> None:
    """It is converted, overlord accepts it, and each option and program is spoken of."""
    text = "[supervisord]\n" + spell_sections(sections)
    made, _ = convert_text(text, "supervisord.conf", tmp_path_factory.getbasetemp())
    if not any(name == "DEFAULT" for name, _ in sections):
        counts = [int(number) for number in re.findall(r"\d+", made.splitlines()[-1])]
        assert counts[0] == sum(counts[1:]) == count_options(text)
    programs = {name for name, _ in sections if re.match("(?:fcgi-)?program:", name)}
    assert len(re.findall(r"(?m)^(?:# )?\[daemon:(?!http\])", made)) >= len(programs)


# --- what supervisord makes of a file, and overlord of the converted one ----------------------------------------------

KNOWN = {"A": "two words", "B": "b", "PATH": "/usr/bin:/bin", "HOME": "/root", "N": "2", "S": "7"}
TAME = st.one_of(st.text("ab /.-=x$", max_size=8), st.text("ab /.-=x$", max_size=8), st.text("ab \"'=,%#;&\n", max_size=6))
MIXED = st.one_of(TAME, st.builds("{}{}{}".format, TAME, st.sampled_from([
    "%(ENV_A)s", "%(ENV_B)s", "%(program_name)s", "%(process_num)d", "%%", "%(numprocs)d", "%(group_name)s"]), TAME))  # fmt: skip
REAL_VALUES: dict[str, list[str]] = {
    "umask": ["0", "022", "777"],
    "autostart": ["true", "off"],
    "autorestart": ["true", "false", "unexpected"],
    "startsecs": ["0", "1", "5", "%(ENV_S)s"],
    "startretries": ["0", "3", "5"],
    "exitcodes": ["", "0", "0,2"],
    "stopsignal": ["INT", "SIGTERM", "9"],
    "stopwaitsecs": ["0", "10", "3"],
    "stopasgroup": ["true", "false"],
    "redirect_stderr": ["true", "false"],
    "stdout_logfile": ["NONE", "AUTO", "/tmp/x.log", "/tmp/%(program_name)s", "off", "/tmp/%(process_num)02d", "/tmp/a%%%%b"],
    "stderr_logfile": ["NONE", "AUTO", "/tmp/y.log"],
    "stdout_logfile_maxbytes": ["0", "1KB", "50MB", "1GB"],
    "stdout_logfile_backups": ["0", "10", "2"],
    "numprocs": ["1", "2"],
    "numprocs_start": ["0", "1", "3"],
    "process_name": ["%(program_name)s_%(process_num)02d"],
    "user": ["root"],
    "priority": ["1", "5", "999"],
}
REAL_PROGRAM = st.builds(
    lambda texts, values: {**texts, **values},
    st.fixed_dictionaries(
        {"command": st.one_of(st.builds("/bin/a {}".format, MIXED), MIXED)},
        optional={"environment": st.one_of(st.builds("A='{}'".format, MIXED), st.builds('A={},B="{}"'.format, TAME, MIXED)),
                  "directory": st.builds("/tmp/{}".format, MIXED)}),
    st.fixed_dictionaries({}, optional={name: st.sampled_from(values) for name, values in REAL_VALUES.items()}),
)  # fmt: skip


def read_really(path: Path) -> Any:
    """Return the groups of processes that supervisord's own reader finds. Raises ValueError."""
    options = pytest.importorskip("supervisor.options").ServerOptions()
    options.configfile, options.here = str(path), str(path.parent)
    options.environ_expansions = {f"ENV_{name}": value for name, value in KNOWN.items()}
    options.read_config(str(path))
    return options.configroot.supervisord.process_group_configs


def facts_of_process(process: Any) -> dict[str, Any]:
    """Return what a process of supervisord is, in the words of overlord."""
    files = {None: "null", "": "null", pytest.importorskip("supervisor.datatypes").Automatic: "inherit"}
    restart = {"RestartUnconditionally": "always", "RestartWhenExitUnexpected": "on-failure"}
    stdout = files.get(process.stdout_logfile, process.stdout_logfile)
    return {
        "cmd": shlex.split(process.command), "env": process.environment, "dir": process.directory, "umask": process.umask,
        "autostart": process.autostart, "restart": restart.get(getattr(process.autorestart, "__name__", ""), "never"),
        "warmup": process.startsecs, "respawns": (process.startretries, overlord.IN_A_ROW), "success": tuple(process.exitcodes),
        "stop_signal": process.stopsignal, "stop_timeout": process.stopwaitsecs,
        "kill_mode": "all" if process.stopasgroup else "mixed", "stdout": stdout,
        "stderr": "stdout" if process.redirect_stderr else files.get(process.stderr_logfile, process.stderr_logfile),
        "log": (process.stdout_logfile_maxbytes, process.stdout_logfile_backups) if stdout[0] == "/" else None,
    }  # fmt: skip


def facts_of_unit(unit: Any) -> dict[str, Any]:
    """Return the same of a unit of overlord. The shell says what the words of its command are."""
    own = overlord.own_variables(unit.name, unit.instance)
    done = subprocess.run(["/bin/sh", "-c", f"printf '%s\\0' {unit.cmd}"], env={**KNOWN, **dict(unit.env), **own},
                          capture_output=True, check=True, timeout=PATIENCE)  # fmt: skip
    names = "dir umask autostart restart warmup respawns success stop_signal stop_timeout kill_mode stdout stderr".split()
    return {
        "cmd": done.stdout.decode().split("\0")[:-1], "env": dict(unit.env),
        **{name: getattr(unit, name) for name in names},
        "log": (unit.log_max, unit.log_keep) if unit.stdout[0] == "/" else None,
    }  # fmt: skip


def find_earlier(config: Any, name: str) -> set[str]:
    """Return the units that a unit is started after."""
    found: set[str] = set()
    left = [name]
    while left:
        fresh = {dep for dep, _ in config.units[left.pop()].deps} - found
        found |= fresh
        left += fresh
    return found


@slow
@given(st.dictionaries(st.sampled_from("pqr"), REAL_PROGRAM, min_size=1), st.fixed_dictionaries({}, optional={
    "environment": st.sampled_from(['B="x y",C=\'%(ENV_A)s\'', "C='%%%%'"])}), st.sampled_from([(), ("p", "q")]))  # fmt: skip
def test_read_as_supervisord_does(
    tmp_path_factory: pytest.TempPathFactory, programs: dict[str, dict[str, str]], main: dict[str, str], group: tuple[str, ...]
) -> None:
    """What supervisord refuses has a TODO; of the rest, overlord's units are what supervisord's processes are."""
    folder = tmp_path_factory.getbasetemp()
    groups = [("group:g", {"programs": ",".join(group), "priority": "3"})] if set(group) <= set(programs) and group else []
    text = spell_sections([("supervisord", main), *((f"program:{name}", given) for name, given in programs.items()), *groups])
    (folder / "real.conf").write_text(text)
    made, code = convert.convert(str(folder / "real.conf"))
    try:
        found = read_really(folder / "real.conf")
    except ValueError:
        assert code == 1
        return
    processes = [(each, process) for each in found for process in each.process_configs]
    # What stands without quotes where a variable is expanded may be read in another way: quotes and globs in its value.
    if code or any(re.search(r"""["'\\*?~]""", value) for _, process in processes for value in process.environment.values()):
        return
    draft = overlord.Draft(KNOWN)
    draft.read_text("", made.encode())
    config = draft.validate()
    units = [config.units[name] for name in config.units]
    steps = []
    for each, process in processes:
        program = re.sub(r"_\d+$", "", process.name)
        (unit, *_) = [unit for unit in units if re.fullmatch(rf"{program}(?:[-_]\d+)?", unit.name)]
        units.remove(unit)
        facts, own = facts_of_process(process), facts_of_unit(unit)
        assert own.pop("respawns") == facts.pop("respawns") or facts["restart"] == "never"
        assert own == facts
        steps.append((each.priority, each.name if len(each.process_configs) > 1 else "", process.priority, unit.name))
    assert not units
    for earlier, later in zip(steps, steps[1:]):
        inside = earlier[1] == later[1] and earlier[2] < later[2]
        if (earlier[0] < later[0] or inside) and config.units[earlier[3]].autostart:
            assert earlier[3] in find_earlier(config, later[3])


# A `;` at the beginning of a value is a comment to circus where a blank stands at its end: it looks at the letter before it.
DOLLARS = st.one_of(TAME, st.builds("{}{}{}".format, TAME, st.sampled_from([
    "$(circus.env.a)", "$(circus.env.B)", "((circus.env.b))", "$HOME", "$(circus.wid)", "$WID"]), TAME),
).filter(lambda text: not text.strip().startswith(";"))  # fmt: skip
REAL_WATCHER = st.fixed_dictionaries({"cmd": st.builds("/bin/a {}".format, DOLLARS)}, optional={
    "args": DOLLARS, "working_dir": st.builds("/tmp/{}".format, DOLLARS), "numprocesses": st.sampled_from(["1", "2"]),
    "copy_env": st.sampled_from(["True", "False"]), "respawn": st.sampled_from(["true", "off"]),
    "autostart": st.sampled_from(["true", "no"]), "graceful_timeout": st.sampled_from(["30", "2.5", "0"]),
    "stop_signal": st.sampled_from(["INT", "sigterm", "9"]), "stop_children": st.sampled_from(["1", "0"]),
})  # fmt: skip
REAL_VALUE = st.one_of(TAME, st.builds("{}$B{}".format, TAME, TAME)).filter(lambda text: not text.strip().startswith(";"))
REAL_ENV = st.fixed_dictionaries({}, optional={"X": REAL_VALUE})


@slow
@given(st.dictionaries(st.sampled_from("pq"), REAL_WATCHER, min_size=1), REAL_ENV, REAL_ENV)
def test_read_as_circus_does(
    tmp_path_factory: pytest.TempPathFactory, watchers: dict[str, dict[str, str]], shared: dict[str, str], own: dict[str, str]
) -> None:
    """What has no TODO has the processes that circus's own reader finds: command, environment, folder and stop."""
    util = pytest.importorskip("circus.util")
    path = tmp_path_factory.getbasetemp() / "real.circus.ini"
    sections = [("circus", {}), ("env", shared), *((f"watcher:{name}", given) for name, given in watchers.items())]
    path.write_text(spell_sections([*sections, ("env:p*", own)]))
    made, code = convert.convert(str(path))
    if code:
        return
    with mock.patch.dict(os.environ, KNOWN, clear=True):
        found = pytest.importorskip("circus.config").get_config(str(path))["watchers"]
        environments = [util.parse_env_dict({key: value for key, value in watcher["env"].items() if key != "__name__"})
                        for watcher in found]  # fmt: skip
    draft = overlord.Draft(KNOWN)
    draft.read_text("", made.encode())
    config = draft.validate()
    for watcher, environment in zip(found, environments):
        units = [unit for name, unit in config.units.items() if re.fullmatch(rf"{watcher['name']}(?:-\d+)?", name)]
        assert len(units) == watcher["numprocesses"]
        for number, unit in enumerate(units, 1):
            facts = facts_of_unit(unit)
            seen = {**KNOWN, **facts["env"], **overlord.own_variables(unit.name, unit.instance)}
            assert {key: seen[key] for key in environment} == environment
            values = {"wid": number, "env": util.ObjectDict(environment)}
            words = [word for option in ("cmd", "args")
                     for word in shlex.split(util.replace_gnu_args(watcher[option], **values))]  # fmt: skip
            # As above: quotes and globs in the value of a variable that stands without quotes.
            assert facts["cmd"] == words or re.search(r"""["'\\*?~]""", "".join(environment.values()))
            assert (facts["dir"] or None) == (watcher["working_dir"] or None)
            assert (facts["stop_timeout"], facts["stop_signal"]) == (watcher["graceful_timeout"], watcher["stop_signal"])
            assert (facts["kill_mode"] == "all", facts["restart"] != "never", facts["autostart"]) == (
                watcher["stop_children"], watcher["respawn"], watcher["autostart"])  # fmt: skip


# --- any file of circus, any Procfile --------------------------------------------------------------------------------

CIRCUS_VALUES: dict[str, list[str]] = {
    "cmd": ["/srv/a", "a $(circus.wid)", "a $WID $(circus.env.home)", "a --fd $(circus.sockets.web)", "'", "", "a && b", "(("],
    "args": ["-x 'y z'", "$(circus.env.b)", "\"", "a\nb"],
    "numprocesses": ["1", "0", "3", "20", "$(circus.env.n)", "two"],
    "warmup_delay": ["0", "1.5", "x"],
    "working_dir": ["/srv", "$(circus.env.home)/x", "$x", "none", ""],
    "uid": ["root", "www-data", "1000", ""],
    "gid": ["adm", "0"],
    "graceful_timeout": ["30", "2.5", "0", "-1", "$(circus.env.t)"],
    "stop_signal": ["TERM", "SIGINT", "9", "SIGRTMIN+3", "x"],
    "stop_children": ["True", "False", "1", "maybe"],
    "send_hup": ["true"],
    "max_retry": ["5", "-1", "0", "1", "x"],
    "max_age": ["0", "60", "x"],
    "max_age_variance": ["0", "30", "-5"],
    "respawn": ["True", "False"],
    "autostart": ["True", "False", "$(circus.env.x)"],
    "singleton": ["True"],
    "priority": ["0", "5", "-1", "x"],
    "copy_env": ["True", "False"],
    "copy_path": ["True", "False"],
    "use_sockets": ["True", "False"],
    "shell": ["True"],
    "rlimit_nofile": ["1024", "", "x", "-1"],
    "rlimit_sbsize": ["5"],
    "hooks.before_start": ["a.b", "a.b,True"],
    "virtualenv": ["/srv/venv", ""],
    "close_child_stdout": ["True", "False"],
    "close_child_stdin": ["True", "False"],
    "what": ["this"],
    "host": ["localhost", "0.0.0.0", "::1", "$(circus.env.h)"],
    "port": ["80", "0", "x", "$(circus.env.p)"],
    "path": ["/run/a.sock", "a.sock", ""],
    "family": ["AF_UNIX", "AF_INET6", "x"],
    "type": ["SOCK_STREAM", "SOCK_DGRAM"],
    "include": ["a.ini", "*.nothing"],
    "include_dir": ["nowhere"],
    "loglevel": ["debug", "WARNING", "error", "x"],
    "umask": ["022", "x"],
    "httpd": ["True", "False"],
    "statsd": ["True", "x"],
    "endpoint": ["tcp://127.0.0.1:5555"],
    "use": ["circus.plugins.flapping.Flapping", "x.Y"],
    "attempts": ["3", "x"],
    "A": ["1", "$HOME:/x", "two words", "it's \"so\"", "$(circus.env.a)"],
    "b": ["$B", ""],
}  # fmt: skip
STREAMS = {".class": ["FileStream", "StdoutStream", "FancyStdoutStream", "TimedRotatingFileStream", "a.B"],
           ".filename": ["/var/log/a", "a.log", ""], ".max_bytes": ["0", "1024", "x"], ".backup_count": ["3", "9999"],
           ".color": ["green"], ".time_format": ["%Y"]}  # fmt: skip
CIRCUS_VALUES.update({f"stdout_stream{option}": values for option, values in STREAMS.items()})
CIRCUS_VALUES.update({f"stderr_stream{option}": values for option, values in STREAMS.items()})


def circus_section(*names: str) -> st.SearchStrategy[dict[str, str]]:
    """Return a strategy for the options of a section for circus."""
    return st.fixed_dictionaries({}, optional={
        name: st.one_of(st.sampled_from(CIRCUS_VALUES[name]), st.sampled_from(CIRCUS_VALUES[name]), STRANGE) for name in names
    })  # fmt: skip


OF_WATCHER = [name for name in CIRCUS_VALUES
              if re.match("(?:std|rlimit|hooks|what)", name) or name in convert.WATCHER_OPTIONS]  # fmt: skip
WATCHER_NAMES = st.one_of(st.sampled_from(["a", "b", "web", "a-1"]), st.text("ab c_.-ß", min_size=1, max_size=5))
CIRCUS = st.lists(st.one_of(
    st.tuples(st.builds("watcher:{}".format, WATCHER_NAMES), circus_section(*OF_WATCHER)),
    st.tuples(st.just("circus"), circus_section("include", "include_dir", "loglevel", "umask", "httpd", "statsd", "endpoint",
                                                "warmup_delay", "what")),  # fmt: skip
    st.tuples(st.sampled_from(["env", "env:a", "env:*", "env:a, b"]), circus_section("A", "b")),
    st.tuples(st.sampled_from(["socket:web", "socket:x"]), circus_section("host", "port", "path", "family", "type")),
    st.tuples(st.sampled_from(["plugin:flapping", "plugin:x", "notes"]), circus_section("use", "attempts")),
), min_size=1, max_size=6)  # fmt: skip


@slow
@given(CIRCUS)
def test_any_circus_file(tmp_path_factory: pytest.TempPathFactory, sections: list[tuple[str, dict[str, str]]]) -> None:
    """It is converted, overlord accepts it, and each option is spoken of."""
    text = "[circus]\n" + spell_sections(sections)
    made, _ = convert_text(text, "circus.ini", tmp_path_factory.getbasetemp())
    counts = [int(number) for number in re.findall(r"\d+", made.splitlines()[-1])]
    options = {(name, option) for name, values in sections for option in values if not name.startswith("env")}
    assert counts[0] == sum(counts[1:]) >= len(options)


@slow
@given(st.lists(st.tuples(st.sampled_from(["web", "release", "a_b", "x-1"]), st.one_of(
    st.sampled_from(["./web", "a && b", "x $PORT", "'", "cron -f", "  "]), STRANGE)), min_size=1, max_size=5))  # fmt: skip
def test_any_procfile(tmp_path_factory: pytest.TempPathFactory, lines: list[tuple[str, str]]) -> None:
    """It is converted, overlord accepts it, and each line is spoken of."""
    text = "".join(f"{name}: {command}\n" for name, command in lines)
    _, config = convert_text(text, "Procfile", tmp_path_factory.getbasetemp())
    for name in {line.partition(":")[0] for line in text.split("\n") if re.match(r"(?:web|release|a_b|x-1):\s*\S", line)}:
        assert name in config.units


@slow
@given(st.one_of(STRANGE, st.text("ab '\"\\$`*&", max_size=12)))
def test_words_of_a_command(text: str) -> None:
    """The shell finds the words that `shlex.split` finds, and takes nothing in them for its own."""
    try:
        words = shlex.split(text)
    except ValueError:
        with pytest.raises(convert.Refused):
            convert.split_command(text)
        return
    spelled = convert.Variables().spell_command(text)
    done = subprocess.run(["/bin/sh", "-c", f"printf '%s\\0' x {spelled}"], capture_output=True, check=True, timeout=PATIENCE)
    assert done.stdout.decode().split("\0")[1:-1] == words


@slow
@given(st.lists(st.tuples(st.sampled_from("ABC"), STRANGE)))
def test_values_of_variables(pairs: list[tuple[str, str]]) -> None:
    """A line of `env` gives the value that it is made from, variables or not."""
    for key, value in pairs:
        variables = convert.Variables()
        for text in (value, value + variables.mark("X"), variables.mark("X") + value):
            line = variables.spell_env(key, text)
            filled = overlord.fill_env(overlord.parse_env(line), {"X": "a 'b"})
            assert filled == ((key, text.replace(variables.mark("X"), "a 'b")),)


@pytest.mark.parametrize("text", [
    "/srv/a %(ENV_X)s", "/srv/a '%(ENV_X)s'", '/srv/a "%(ENV_X)s"', "/srv/a --x=%(ENV_X)s/y", "/srv/a 'a b%(ENV_X)s c$'",
    "%(ENV_X)s%(ENV_Y)s", r'a "\"%(ENV_X)s\\"', r"a \%(ENV_Y)s",
])  # fmt: skip
def test_variables_of_a_command(text: str) -> None:
    """A variable is split into words where supervisord split it, and only there."""
    variables, known = convert.Variables(), {"ENV_X": "two words", "ENV_Y": "one"}
    spelled = variables.spell_command(convert.format_text(text, {}, variables))
    done = subprocess.run(["/bin/sh", "-c", f"printf '%s\\0' {spelled}"], capture_output=True, check=True, timeout=PATIENCE,
                          env={"X": "two words", "Y": "one"})  # fmt: skip
    assert done.stdout.decode().split("\0")[:-1] == shlex.split(text % known)


# --- the command -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [[], [""], ["a", "b"], ["--help"]], ids=" ".join)
def test_usage(words: list[str]) -> None:
    """Without one file the tool says how it is used."""
    code, out, err = run_convert(*words)
    assert (code, out) == (64, "")
    assert "make convert FROM=supervisord.conf" in err


def test_unreadable(tmp_path: Path) -> None:
    """A file that is missing, or is none, is one line with its name."""
    assert run_convert("none.conf", folder=tmp_path) == (78, "", "none.conf:1: cannot be read: No such file or directory\n")
    assert run_convert(".", folder=tmp_path) == (78, "", ".:1: cannot be read: Is a directory\n")


def test_make(tmp_path: Path) -> None:
    """`make convert` runs the tool, and says what is missing."""
    make = ["make", "--no-print-directory", "-C", str(ROOT), f"PYTHON={sys.executable}", "convert"]
    minimal = f"FROM={CASES / 'minimal.conf'}"
    done = subprocess.run([*make, minimal], capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert (done.returncode, done.stdout) == (0, (CASES / "minimal.expected").read_text())
    done = subprocess.run(make, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 2
    assert "make convert FROM=supervisord.conf" in done.stderr
