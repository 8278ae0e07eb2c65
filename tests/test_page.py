"""What `serve` shows, without the server: the metrics, and the page for people."""

from __future__ import annotations

import base64
import hashlib
import http.server
import os
import re
import shutil
import subprocess
import threading
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import overlord
from overlord import BACKOFF, FAILED, IDLE, OK, STARTING, STATES, WAITING, Seen
from test_docker import alone

NOW = 1_800_000_000.0
VOID = {"meta", "link", "br", "hr", "img", "input"}
POLICY = "default-src 'none'; style-src 'unsafe-inline'; connect-src 'self'; script-src 'sha256-%s'"

# What a real overlord answered; the fields of a unit are those of RECORD.
ANSWER = """\
2\tunhealthy: mail is in backoff (exited with code 1); late is waiting (for mail)
0.1.0\t3
mkdir\tscript\tok\t\t3.946\t\t0\t\t\t\t\t\t\t\t1\t0\t\t\t3.9512\t0.0000 waiting\t0.0000 running\t0.0048 ok
db\tdaemon\tok\t48\t3.444\t3.946\t0\t\t\t\tmkdir:ok\t1609728\t0.25\t1\t1\t\t\t\t3.9512\t0.0000 waiting\
\t0.0000 waiting for mkdir:ok\t0.0048 starting\t0.5067 ok
mail\tdaemon\tbackoff\t\t3.946\t\t1\t17.964\t\t\t\t\t\t\t2\t143\t\texited with code 1\t3.9512\t0.0000 waiting\
\t0.0000 starting\t0.0040 backoff\t|smtp: <nobody> & co\t|second
late\tdaemon\twaiting\t\t3.951\t\t0\t\t\tmail\tmail:ok db:started\t\t\t\t0\t\t\tfor mail\t3.9512\t0.0000 waiting\
\t0.0000 waiting for mail:ok
off\tdaemon\tidle\t\t3.952\t\t0\t\t\t\t\t\t\t\t0\t\t\t\t3.9512
""".splitlines()


def a_unit(name: str, state: str = OK, deps: str = "", story: Any = (), **more: Any) -> dict[str, Any]:
    """Return the record of a unit, as `read_records` makes it. `story`: when was what, until now, at 100,000 s."""
    unit: dict[str, Any] = dict.fromkeys(overlord.RECORD)
    unit.update(name=name, kind="daemon", state=state, deps=deps.split(), why="", blocked="", restarts=0, starts=1, said=[])
    ends = [*(at for at, _ in story[1:]), 100_000.0]
    unit["story"] = [(at, end, what) for (at, what), end in zip(story, ends)]
    unit.update({"for": 5.0, "cause": "", **more})
    return unit


def see(*units: dict[str, Any], healthy: bool = True, health: str = "healthy") -> Seen:
    return Seen(healthy, health, "0.1.0", 0, {unit["name"]: unit for unit in units})


def many(count: int) -> Seen:
    """Units of which each third needs earlier ones."""
    hows = ("ok", "started", "bounce")
    deps = {at: " ".join(f"unit{other}:{hows[other % 3]}" for other in {at // 2, at // 3, at - 1} if at % 3 and other >= 0)
            for at in range(count)}  # fmt: skip
    stories = [[(0.0, WAITING), (at / 10, STARTING), (at / 10 + 1, OK)] for at in range(count)]
    return see(*(a_unit(f"unit{at}", STATES[at % len(STATES)], deps[at], stories[at]) for at in range(count)))


def metrics(text: str) -> dict[str, dict[str, float]]:
    """Return the value of each sample by name and labels. Every line is what the format knows, types come first."""
    found: dict[str, dict[str, float]] = {}
    for line in text.splitlines():
        comment = re.fullmatch(r"# (HELP|TYPE) (\w+) (.+)", line)
        if comment:
            assert (comment[2] in found) == (comment[1] == "TYPE")
            found.setdefault(comment[2], {})
            assert comment[1] == "HELP" or comment[3] == ("counter" if comment[2].endswith("_total") else "gauge")
            continue
        sample = re.fullmatch(r'(\w+)\{((?:\w+="(?:[^"\\\n]|\\["\\n])*",?)*)\} (\S+)', line)
        assert sample, line
        assert sample[2] not in found[sample[1]]
        found[sample[1]][sample[2]] = float(sample[3])
    return found


class Page(HTMLParser):
    """The page, parsed: every tag is closed, in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []  # the innermost tag, and a text in it
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append((self.open[-1] if self.open else "", data))

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]

    def text(self, tag: str) -> str:
        return "".join(text for name, text in self.texts if name == tag)


def pictures(html: str) -> list[str]:
    """Return the text of both pictures: who needs whom, and how the start went."""
    found = re.findall(r'<pre tabindex="0">(.*?)</pre>', html, re.DOTALL)
    assert len(found) == 2
    return ["".join(text for _, text in Page(each).texts) for each in found]


# --- the answer of overlord ------------------------------------------------------------------------------------------


def test_answer_is_read() -> None:
    """Everything that the answer says is found again; what is not known is None."""
    seen = overlord.read_seen(ANSWER)
    assert (seen.healthy, seen.version, seen.orphans) == (False, "0.1.0", 3)
    assert seen.health.endswith("late is waiting (for mail)")
    assert list(seen.units) == ["mkdir", "db", "mail", "late", "off"]
    assert (seen.units["db"]["memory"], seen.units["off"]["memory"]) == (1609728, None)
    assert seen.units["late"]["deps"] == ["mail:ok", "db:started"]
    assert seen.units["mail"]["story"] == [(0.0, 0.0, "waiting"), (0.0, 0.004, "starting"), (0.004, 3.9512, "backoff")]
    assert seen.units["off"]["story"] == []
    said = {name: unit["said"] for name, unit in seen.units.items() if unit["said"]}
    assert said == {"mail": ["smtp: <nobody> & co", "second"]}


@pytest.mark.parametrize("answer", [[], ["0\tfine"], ["what", "is this"], ["0\tfine", "0.1.0\tx"]])
def test_answer_of_another_version(answer: list[str]) -> None:
    """An answer that is none raises what a client takes for that."""
    with pytest.raises((ValueError, LookupError)):
        overlord.read_seen(answer)


# --- metrics ---------------------------------------------------------------------------------------------------------


def test_metrics() -> None:
    """Each number of a unit is a sample; what a unit does not have, it has no sample of."""
    found = metrics(overlord.draw_metrics(overlord.read_seen(ANSWER), NOW))
    plain = {name: {re.sub(r'unit="(\w+)"', r"\1", label): rows[label] for label in rows} for name, rows in found.items()}
    states = plain.pop("overlord_unit_state")
    assert plain == {
        "overlord_build_info": {'version="0.1.0"': 1},
        "overlord_healthy": {"": 0},
        "overlord_orphans_reaped_total": {"": 3},
        "overlord_unit_starts_total": {"mkdir": 1, "db": 1, "mail": 2, "late": 0, "off": 0},
        "overlord_unit_restarts_total": {"mkdir": 0, "db": 0, "mail": 1, "late": 0, "off": 0},
        "overlord_unit_last_exit_code": {"mkdir": 0, "mail": 143},
        "overlord_unit_start_time_seconds": {"db": NOW - 3.95},
        "overlord_unit_cpu_seconds_total": {"db": 0.25},
        "overlord_unit_memory_bytes": {"db": 1609728},
        "overlord_unit_processes": {"db": 1},
    }
    assert len(states) == 5 * len(STATES)
    assert {label for label, value in states.items() if value} == {
        'mkdir,kind="script",state="ok"', 'db,kind="daemon",state="ok"', 'mail,kind="daemon",state="backoff"',
        'late,kind="daemon",state="waiting"', 'off,kind="daemon",state="idle"',
    }  # fmt: skip


def test_metrics_are_escaped() -> None:
    """A label is text, whatever is in it; a name with a blank is an ordinary one."""
    text = overlord.draw_metrics(see(a_unit('a\\b"c\nd'), a_unit(overlord.MAIN)), NOW)
    assert 'overlord_unit_starts_total{unit="a\\\\b\\"c\\nd"} 1\n' in text
    assert 'overlord_unit_starts_total{unit="main command"} 1\n' in text
    metrics(text)
    assert metrics(overlord.draw_metrics(see(), NOW))["overlord_healthy"] == {"": 1}


def tool(command: str, package: str) -> str:
    """Return the path of a program, which root installs in CI, as docker-base.sh does with Docker."""
    allowed = os.environ.get("CI") == "true" or os.environ.get("DOCKER_SETUP") == "1"
    if not shutil.which(command) and allowed and os.geteuid() == 0 and os.path.exists("/etc/debian_version"):
        with alone():
            environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
            install = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", package]
            for words in (["apt-get", "update", "-qq"], install):
                subprocess.run(words, env=environment, check=True, capture_output=True, timeout=900)
    found = shutil.which(command)
    if not found:
        pytest.skip(f"no {command} here (apt-get install {package}, or as root on Debian: DOCKER_SETUP=1)")
    return found


@pytest.mark.docker
@pytest.mark.timeout(1800)
def test_promtool_agrees() -> None:
    """Prometheus' own tool has nothing to say about them."""
    promtool = tool("promtool", "prometheus")
    for seen in (overlord.read_seen(ANSWER), see(), see(a_unit('a\\b"c\nd'), a_unit(overlord.MAIN)), many(1000)):
        text = overlord.draw_metrics(seen, NOW)
        result = subprocess.run([promtool, "check", "metrics"], input=text.encode(), capture_output=True, timeout=60)
        assert (result.returncode, result.stdout, result.stderr) == (0, b"", b"")


# --- the page --------------------------------------------------------------------------------------------------------


def test_page_says_what_is_wrong() -> None:
    """Health on top and in the title; the sick first, with why, since when, and what they said."""
    html = overlord.draw_page(overlord.read_seen(ANSWER), NOW)
    page = Page(html)
    assert page.text("title").startswith("\u2716 unhealthy")
    assert page.text("h1") == "\u2716 unhealthy: mail is in backoff (exited with code 1); late is waiting (for mail)"
    names = [text for tag, text in page.texts if tag == "th"]
    assert names[:12] == [*"name state uptime restarts memory processor why".split(), *"mail mkdir db late off".split()]
    assert "exited with code 1, again in 18 s (for 3.9 s)" in page.text("td")
    assert "for mail (for 4 s)" in page.text("td")
    rows = [re.findall(r">([^<]*)</t[hd]|</b>", row) for row in html.partition("</table>")[0].split("<tr>")[2:]]
    assert rows[2] == ["db", "", "3.9 s", "0", "1.5 MiB", "0.25 s", ""]
    assert rows[1] == ["mkdir", "", "", "0", "", "", ""]  # what has no process has none of these
    assert page.text("pre").startswith("smtp: <nobody> & co\nsecond")
    assert "overlord 0.1.0,\n3 orphans reaped, 2027-01-15 08:00:00 UTC" in page.text("footer")
    states = [text for tag, text in page.texts if tag == "b"]  # never by colour alone
    assert states == [BACKOFF, OK, OK, WAITING, IDLE, *(WAITING, BACKOFF, OK, OK, IDLE)]
    assert "exited with code 3 (for 5 s)" in overlord.draw_page(see(a_unit("a", FAILED, why="exited with code 3")), NOW)
    healthy = Page(overlord.draw_page(see(a_unit("a")), NOW))
    assert (healthy.text("title"), healthy.text("h1")) == ("\u2714 healthy: overlord", "\u2714 healthy")
    assert "Nothing has failed." in healthy.text("p")


def test_page_is_for_all() -> None:
    """A language, a viewport, headers of columns and rows; nothing from elsewhere, and no script but the one."""
    html = overlord.draw_page(overlord.read_seen(ANSWER), NOW)
    page = Page(html)
    assert page.of("html") == [{"lang": "en"}]
    assert {"name": "viewport", "content": "width=device-width,initial-scale=1"} in page.of("meta")
    scopes = [cell.get("scope") for cell in page.of("th")]
    assert (scopes.count("col") >= 7, scopes.count("row")) == (True, 5)
    assert not re.search(r"https?:|//|@import|url\(|\b(src|href|on\w+|style)=", html.replace(overlord.PAGE_SCRIPT, ""))
    assert page.of("script") == [{}]
    assert page.text("script") == overlord.PAGE_SCRIPT
    assert {"id": "lost", "role": "status"} in page.of("p")


def test_hash_of_the_script() -> None:
    """A browser runs exactly what has this hash."""
    digest = hashlib.sha256(overlord.PAGE_SCRIPT.encode()).digest()
    assert base64.b64encode(digest).decode() == overlord.PAGE_SCRIPT_HASH
    assert "</" not in overlord.PAGE_SCRIPT


def test_escape() -> None:
    """All that has a meaning in HTML, and what XML does not allow."""
    assert overlord.escape("a&<>\"'\t\u00e9\U0001f600") == "a&#38;&#60;&#62;&#34;'\t\u00e9\U0001f600"
    assert overlord.escape("\0\x1f\ud800\udcff\ufffe") == "\ufffd" * 5


EVIL = '<b>&"\'\\ \udcff\x01 </script><script>alert(1)</script><!--'


def test_page_is_escaped() -> None:
    """Names, reasons and output are text, wherever they stand; what is no character is shown as such."""
    story = [(0.0, f"waiting for {EVIL}"), (1.0, STARTING), (2.0, FAILED)]
    evil = a_unit(EVIL, FAILED, story=story, why=EVIL, said=[EVIL, EVIL])
    other = a_unit("other", WAITING, story=[(0.0, f"waiting for {EVIL}:ok")])
    other["deps"] = [f"{EVIL}:bounce"]
    html = overlord.draw_page(see(evil, other, health=EVIL, healthy=False), NOW)
    page, shown = Page(html), EVIL.replace("\udcff", "\ufffd").replace("\x01", "\ufffd")
    html.encode()
    assert page.of("script") == [{}]
    assert len(page.of("b")) == 4
    assert page.text("pre").startswith(f"{shown}\n{shown}")
    for tag in ("h1", "h3", "th", "td"):
        assert shown in page.text(tag)
    assert all(shown in picture for picture in pictures(html))


@pytest.mark.parametrize("count", [0, 1, 2, 50, 1000])
def test_page_of_any_number(count: int) -> None:
    """All units are in the table and in the pictures."""
    html = overlord.draw_page(many(count), NOW)
    assert html.partition("</table>")[0].count("<b ") == count
    assert len(html) < 2_000_000
    tree, bars = pictures(html)
    names = {line.split("  ")[-2].split(" ")[-1].split(":")[0] for line in tree.splitlines()}
    assert names == {f"unit{at}" for at in range(count)}
    assert [line.split()[0] for line in bars.splitlines()[:-1]] == [f"unit{at}" for at in range(count)]


@st.composite
def graphs(draw: Any) -> list[dict[str, Any]]:
    """Units in any order that need others, never in a circle."""
    count = draw(st.integers(1, 14))
    units = []
    for at in range(count):
        needed = draw(st.lists(st.integers(0, at - 1), unique=True, max_size=4)) if at else []
        deps = " ".join(f"u{each}:{draw(st.sampled_from(['ok', 'started', 'bounce', 'always', 'ended']))}" for each in needed)
        units.append(a_unit(f"u{at}", draw(st.sampled_from(STATES)), deps))
    return list(draw(st.permutations(units)))


@given(graphs())
@settings(max_examples=150, deadline=None)
def test_graph(units: list[dict[str, Any]]) -> None:
    """Each unit stands above all that it needs, once, and says how and in which state that is."""
    html = overlord.draw_page(see(*units), NOW)
    states = {unit["name"]: unit["state"] for unit in units}
    found: dict[str, list[str]] = {}
    above: list[str] = []
    arms = "(?:   |\u2502  |\u251c\u2500 |\u2514\u2500 )*"
    for line in pictures(html)[0].splitlines():
        match = re.fullmatch(rf"({arms})(u\d+)(:\w+)?  (\w+)( \(its dependencies are above\))?", line)
        assert match and states[match[2]] == match[4], line
        level = len(match[1]) // 3
        assert bool(level) == bool(match[3])
        del above[level:]
        above.append(match[2])
        if level:
            found[above[-2]].append(match[2] + match[3])
        if match[5]:
            assert found[match[2]], line
        else:
            assert not found.get(match[2])
            found[match[2]] = []
    assert found == {unit["name"]: unit["deps"] for unit in units}
    tree = html.partition("Who needs whom")[2]
    assert all(f'<b class="c{overlord.LOOKS[state][0]}">{state}</b>' in tree for state in states.values())


def test_timeline() -> None:
    """Bars follow one another; what waits for ever, or came days later, does not squeeze the start."""
    stories = {
        "db": [(0.0, WAITING), (0.0, STARTING), (2.0, OK)],
        "web": [(0.0, "waiting for db:ok"), (2.0, STARTING), (4.0, OK)],
        "mail": [(0.0, WAITING), (0.0, STARTING), (1.0, BACKOFF), (90000.0, STARTING), (90001.0, BACKOFF)],
        "later": [(90000.0, STARTING), (90001.0, OK)],
        "off": [],
    }
    rows = pictures(overlord.draw_page(see(*(a_unit(name, story=stories[name]) for name in stories)), NOW))[1].splitlines()
    drawn = {name: re.split("  +(?=ok|backoff|not)", row, maxsplit=1)[0][7:].ljust(60) for name, row in zip(stories, rows)}
    at = [round(59 * second / 4.4 - 0.5) for second in (1, 2, 4)]
    there, coming = "\u2588", "\u2592"
    assert drawn["db"] == coming * at[1] + there * (60 - at[1])
    assert drawn["web"] == "\u00b7" * at[1] + coming * (at[2] - at[1]) + there * (60 - at[2])
    assert drawn["mail"] == coming * at[0] + "~" * (60 - at[0])
    assert drawn["later"].rstrip() == " " * 59 + there
    assert [row.split("  ")[-1].strip() for row in rows] == [
        "ok at 2 s", "ok at 4 s, 2 s for db:ok", "backoff at 1 d 1 h", "ok at 1 d 1 h", "not asked for", "4.4 s",
    ]  # fmt: skip
    assert len({look[2] for look in overlord.LOOKS.values()}) > 4  # told apart without colour
    shown = pictures(overlord.draw_page(see(a_unit("a", story=[(0.0, OK)])), NOW))[1]
    assert shown.splitlines()[0] == f"a  {there * 60}  ok at 0 s"
    late = {"later": stories["later"], "off": []}  # without any that was asked for at once, until now: 100,000 s
    bar, _, scale = pictures(overlord.draw_page(see(*(a_unit(name, story=late[name]) for name in late)), NOW))[1].splitlines()
    assert re.fullmatch(f"later {{40,60}}{coming}?{there}+ +ok at 1 d 1 h", bar) and scale.split()[0] == "0"


@pytest.mark.parametrize("behind", ["#fff", "#121212", "#1c1b22"])  # light; dark in Chromium, and in Firefox
def test_contrast(behind: str) -> None:
    """Text has 4.5 to 1 against what is behind it, and lines and boxes 3 to 1: WCAG 2.1, AA."""
    states = re.findall(r"\.c\d+\{--c:(#\w+)", overlord.PAGE_STYLE)
    assert len(states) == len({look[0] for look in overlord.LOOKS.values()})
    dim = float(overlord.PAGE_STYLE.partition("footer,p,thead th{opacity:")[2].partition("}")[0])
    ink = 255 * dim if behind != "#fff" else 255 * (1 - dim)  # text that lets a part of what is behind it through

    def luminance(colour: str) -> float:
        digits = colour[1:] if len(colour) == 7 else "".join(each * 2 for each in colour[1:])
        parts = [int(digits[at : at + 2], 16) / 255 for at in (0, 2, 4)]
        red, green, blue = (part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    def contrast(one: str, other: str) -> float:
        low, high = sorted(map(luminance, (one, other)))
        return (high + 0.05) / (low + 0.05)

    assert contrast("#" + f"{round(ink):02x}" * 3, behind) >= 4.5
    assert min(contrast(colour, behind) for colour in states) >= 3
    assert contrast("#fff", "#b31d28") >= 4.5


class Server(http.server.BaseHTTPRequestHandler):
    """Serves a page with a number that grows, a few times; then it is ill."""

    asked = 0

    def do_GET(self) -> None:
        ill, Server.asked = Server.asked >= 3, Server.asked + (self.path == "/")
        body = overlord.draw_page(see(a_unit("a", restarts=Server.asked * 111)), NOW).encode()
        self.send_response(500 if ill or self.path != "/" else 200)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Security-Policy", POLICY % overlord.PAGE_SCRIPT_HASH)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.mark.docker
@pytest.mark.timeout(1800)
def test_page_renews_itself(tmp_path: Path) -> None:
    """In a real browser, under the policy of the server: it shows what is new, and says when no answer comes."""
    chromium = tool("chromium", "chromium")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    words = [chromium, "--headless=new", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--v=0", "--dump-dom",
             f"--user-data-dir={tmp_path}", "--virtual-time-budget={}", f"http://127.0.0.1:{server.server_port}/"]  # fmt: skip
    try:
        dumps = []
        for budget in (7000, 20000):
            Server.asked = 0
            result = subprocess.run([word.format(budget) for word in words], capture_output=True, timeout=120)
            dumps.append(result.stdout.decode())
            assert "CONSOLE" not in result.stderr.decode() or budget == 20000
    finally:
        server.shutdown()
        server.server_close()
    assert '<p id="lost" role="status"></p>' in dumps[0]
    assert '<td class="number">333</td>' in dumps[0]
    assert re.search(r'<p id="lost" role="status">no answer since .+: what stands here is old</p>', dumps[1])
    assert '<td class="number">333</td>' in dumps[1]


