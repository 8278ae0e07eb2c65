"""`overlord.py compile FILE`: the same program as compiled code, which needs no parsing at each start.

The core of the black-box tests runs on it too: it is one of harness.INTERPRETERS.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Iterator

import pytest

from conftest import Start
from harness import OVERLORD, PATIENCE, compiled, daemon, system_python


def run(*argv: object, **options: object) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    words = [str(word) for word in argv]
    return subprocess.run(words, capture_output=True, text=True, timeout=PATIENCE, check=False, **options)  # type: ignore


@pytest.fixture
def short() -> Iterator[Path]:
    """A folder with a short path, as /sbin is one."""
    folder = Path(tempfile.mkdtemp(dir="/tmp", prefix="o"))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def source(short: Path) -> Path:
    """A copy of the program, as it lies in an image."""
    copy = short / "overlord.py"
    copy.write_bytes(OVERLORD.read_bytes())
    copy.chmod(0o755)
    return copy


def test_in_place(source: Path) -> None:
    """It may take the place of the file that was copied, which is then as executable as before."""
    done = run(system_python(), source, "compile", source)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"compiled for {os.path.realpath(system_python())}" in done.stdout
    assert source.stat().st_mode & 0o777 == 0o755
    assert os.listdir(source.parent) == ["overlord.py"]
    done = run(source, "version")
    assert (done.returncode, done.stderr) == (0, "")
    assert re.fullmatch(r"overlord [\d.]+\n", done.stdout)


def test_first_line(source: Path) -> None:
    """Its first line names the interpreter itself, no link that may lead to another version, and fits a kernel before 5.1."""
    first = Path(compiled(source.parent, system_python())).read_bytes().split(b"\n")[0]
    assert len(first) < 127
    interpreter = first.split()[0][2:].decode()
    assert os.path.realpath(interpreter) == interpreter
    assert interpreter == os.path.realpath(system_python())


def test_runs_without_the_source(source: Path, default_python: list[str]) -> None:
    """It holds all that it needs."""
    program = compiled(source.parent, default_python[0])
    source.unlink()
    done = run(program, "help")
    assert done.returncode == 0
    assert "overlord.py [-c FILE]" in done.stdout


def test_isolated_from_the_first_line(source: Path, default_python: list[str]) -> None:
    """What the application sets for its Python does not reach it, and it need not execute itself again for that."""
    program = compiled(source.parent, default_python[0])
    (source.parent / "re.py").write_text("raise SystemExit(42)")
    shown = "tr '\\0' '\\n' < /proc/$PPID/cmdline"
    done = run(program, "sh", "-c", shown, env={"PATH": os.environ["PATH"], "PYTHONPATH": str(source.parent)})
    assert done.returncode == 0, done.stderr
    assert str(program) in done.stdout.splitlines()
    assert "/proc/self/fd" not in done.stdout


@pytest.mark.parametrize("words", [(), ("one", "two")], ids=str)
def test_it_wants_one_file(words: tuple[str, ...], default_python: list[str]) -> None:
    """Nothing is overwritten that was not named."""
    done = run(default_python[0], OVERLORD, "compile", *words)
    assert done.returncode == 64
    assert "compile needs FILE" in done.stderr


def test_it_cannot_write(tmp_path: Path) -> None:
    """What keeps it from being written is said, with the path."""
    done = run(system_python(), OVERLORD, "compile", tmp_path / "none" / "overlord")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"overlord: compile: {tmp_path}/none/overlord: No such file or directory\n"


def test_it_cannot_take_the_place_of_a_folder(tmp_path: Path) -> None:
    """Nor is anything left behind then."""
    (tmp_path / "folder").mkdir()
    done = run(system_python(), OVERLORD, "compile", tmp_path / "folder")
    assert done.returncode == 1
    assert "folder: is no regular file" in done.stderr
    assert os.listdir(tmp_path) == ["folder"]


def test_not_in_place_of_another_program(source: Path) -> None:
    """FILE is where overlord itself goes: nothing else is replaced with it."""
    app = source.parent / "app.py"
    app.write_text("print(1)\n")
    done = run(system_python(), source, "compile", app)
    assert done.returncode == 1
    assert "app.py: is another program" in done.stderr
    assert app.read_text() == "print(1)\n"
    app.write_text("")
    assert run(system_python(), source, "compile", app).returncode == 0
    assert run(system_python(), source, "compile", app).returncode == 0, "what is overlord already"


def test_it_cannot_take_the_place_of_a_device(tmp_path: Path, default_python: list[str]) -> None:
    """Not even root can overwrite /dev/null by a slip."""
    os.mkfifo(tmp_path / "fifo")
    done = run(default_python[0], OVERLORD, "compile", tmp_path / "fifo")
    assert done.returncode == 1
    assert (tmp_path / "fifo").is_fifo()


@pytest.mark.parametrize("folder", ("x" * 60, "x" * 250, "p y", "x" * 100 + "/" + "y" * 150), ids=len)
def test_interpreter_of_any_path(source: Path, short: Path, tmp_path: Path, folder: str) -> None:
    """Where the kernel would cut its path off, or at a blank, a link beside the file leads to it, and only then."""
    python = tmp_path / folder / "bin" / "python3"
    python.parent.mkdir(parents=True)
    shutil.copy(os.path.realpath(system_python()), python)
    home = {"PATH": os.environ["PATH"], "PYTHONHOME": "/usr"}
    program = short / "overlord.py"
    done = run(python, source, "compile", program, env=home)
    assert (done.returncode, done.stderr) == (0, "")
    assert sorted(os.listdir(short)) == ["overlord.py", "overlord.py.python"]
    assert os.readlink(f"{program}.python") == str(python)
    first = program.read_bytes().split(b"\n")[0]
    assert len(first) < 127
    shown = "tr '\\0' '\\n' < /proc/$PPID/cmdline; readlink /proc/$PPID/exe"
    done = run(program, "sh", "-c", shown, env=home)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == str(python)
    assert "compiled already" in run(program, "compile", program, env=home).stderr

    source.write_bytes(OVERLORD.read_bytes())
    assert run(system_python(), source, "compile", program).returncode == 0
    assert os.listdir(short) == ["overlord.py"], "another interpreter needs no link"
    assert run(program, "version").returncode == 0


def test_no_room_for_a_link(source: Path, tmp_path: Path) -> None:
    """A file whose own path is as long cannot have one, and is told how long it may be."""
    python = tmp_path / ("x" * 100) / "python3"
    python.parent.mkdir()
    shutil.copy(os.path.realpath(system_python()), python)
    target = tmp_path / ("y" * 100)
    done = run(python, source, "compile", target, env={"PATH": os.environ["PATH"], "PYTHONHOME": "/usr"})
    assert done.returncode == 1
    assert re.search(r"\d\d bytes at most", done.stderr), done.stderr
    assert not target.exists()


def test_it_is_compiled_already(source: Path, default_python: list[str]) -> None:
    """The source is gone from it, so that it cannot do it again; that is said."""
    program = compiled(source.parent, default_python[0])
    before = Path(program).read_bytes()
    done = run(program, "compile", program)
    assert done.returncode == 64
    assert "compiled already" in done.stderr
    assert Path(program).read_bytes() == before


def test_traceback_of_an_internal_error_has_a_place(
    overlord: Start, short: Path, tmp_path: Path, default_python: list[str]
) -> None:
    """It still knows its lines: an internal error is logged with its place."""
    text = re.sub(r"(    def look_at_lingering\(self, now: float\) -> None:\n)", r"\1        1 / 0\n", OVERLORD.read_text())
    assert text != OVERLORD.read_text()
    broken = tmp_path / "broken.py"
    broken.write_text(text)
    program = str(short / "broken.compiled")
    assert run(default_python[0], broken, "compile", program).returncode == 0
    line = text[: text.index("1 / 0")].count("\n") + 1
    o = overlord(daemon("web", "sleep 1000"), python=[program])
    o.kill_unit("web")
    o.wait_for(rf"internal error, going on: ZeroDivisionError: .* \(look_at_lingering, line {line}\)")
