"""The pages about the runtime library: programs run in order on the plane of ``specs/``, and tables are true."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

from tests.docs.pages import ROOT, blocks, files, lines
from tests.docs.test_pages_run import shell

HOW_TO = ROOT / "docs" / "how-to"
#: What the programs of runtime.md must have said.
TOLD = {
    "python agent.py": r"'city': 'Lisbon'",
    "python owner.py & python successor.py": r"owner has it(?s:.*)successor has it, and reads Porto",
    "python service.py > service.log & until grep -qs ready service.log; do sleep 0.1; done; kill -TERM $!; wait $!;"
    " cat service.log": r"^ready\nflushed, and the lease is free\n$",
    "python back.py": r"Porto Faro\nbooked 2",
    "python task.py": r"^$",
    "python consumer.py": r"handled 0c8d0a51\S+\nall handled",
    "python book.py": r"SUCCESS 780\nROLLED_BACK 780 because ",
    "python watch.py": r"^city Evora\ncity Beja\n$",
    "python health.py": r"^(healthy|degraded) (?s:.*)Consistency\(lag_ms=",
    "python blocking.py": r"\['TP 573', 'TP 573', 'CP 182'\]",
    "python shared.py": r"^\[.*'5b9f2a60-.*\]\n$",
    "python rename.py": r"^Faro\n$",
}


@pytest.fixture(scope="module")
def project(server_root: Path) -> Iterator[Path]:
    """The folder of a plane as ``make up`` leaves it."""
    folder = server_root / "runtime-pages"
    folder.mkdir(mode=0o755)
    shutil.copytree(ROOT / "specs", folder / "specs")
    programs = folder / "bin"
    programs.mkdir()
    (programs / "holdfast").write_text(f'#!/bin/sh\nexec {sys.executable} -m provision.cli "$@"\n')
    (programs / "holdfast").chmod(0o755)
    try:
        run(folder, "holdfast dev up && holdfast apply --yes")
        yield folder
    finally:
        run(folder, "holdfast dev reset --yes")


def run(folder: Path, script: str) -> subprocess.CompletedProcess[str]:
    """Run a script as in a shell where the virtual environment is active, and nothing else is set."""
    environment = {
        "PATH": f"{folder / 'bin'}:{Path(sys.executable).parent}:/usr/bin:/bin",
        "HOLDFAST_CACHE": str(folder / "cache"),
        "HOME": str(folder),
    }
    done = shell(script, folder, environment)
    told = f"$ {script}\n{done.stdout}{done.stderr}"
    assert done.returncode == 0, told
    assert "Traceback" not in told, told
    return done


@pytest.mark.req("J2.1", "D1.1")
def test_the_ten_lines_of_the_readme(project: Path) -> None:
    page = (ROOT / "README.md").read_text()
    [(name, program)] = files(page, "python")
    (project / name).write_text(program)
    [script] = [text for text in blocks(page, "sh") if name in text]
    done = run(project, script)
    assert done.stdout == "{'city': 'Lisbon', 'nights': 1, 'paid': True}\n"
    [shown] = blocks((ROOT / "runtime" / "README.md").read_text(), "python")
    assert program == f"# {name}\n{shown}", "PyPI's page shows other lines"


@pytest.mark.req("J2.1", "D1.1", "D6.1", "D7.1", "E1.1", "F2.1")
@pytest.mark.timeout(400)
def test_the_programs_of_the_tutorial_do_what_it_says(project: Path) -> None:
    page = (HOW_TO / "runtime.md").read_text()
    for name, program in files(page, "python"):
        assert name, program
        (project / name).write_text(program)
    told: dict[str, str] = {}
    for line in lines(page):
        if line.skipped is None:
            told[line.text] = run(project, f'eval "$(cat environ)"; {line.text}').stdout
        elif "dev env" in line.text:
            (project / "environ").write_text(run(project, "holdfast dev env").stdout)
    assert told.keys() == TOLD.keys()
    for text, pattern in TOLD.items():
        assert re.search(pattern, told[text]), f"$ {text}\n{told[text]}"


# Tables --------------------------------------------------------------------------------------------------------


@pytest.mark.req("D9.1", "J2.1")
def test_the_table_of_variables_is_what_the_library_reads() -> None:
    settings = import_module("holdfast.settings")
    page = (HOW_TO / "runtime-limits.md").read_text()
    rows = re.findall(r"^\| `([A-Z][A-Z_]+)` \| ([^|]*) \|", page, re.MULTILINE)
    source = (ROOT / "runtime" / "holdfast" / "settings.py").read_text()
    read = re.findall(r'read\("([A-Z_]+)"', source)
    assert sorted(name for name, _ in rows) == sorted(read)
    told = {name: default.strip("` ") for name, default in rows}
    assert told["NATS_SERVERS"] == settings.DEFAULT_NATS
    assert told["PG_HOST"].endswith(f"; {settings.DEFAULT_HOST}")
    assert told["PG_PORT"].endswith(f"; {settings.DEFAULT_PORT}")
    assert told["PG_DATABASE"].endswith(f"; {settings.DEFAULT_DATABASE}")
    assert told["PG_USER"].endswith(f"; {settings.DEFAULT_USER}")
    assert told["PG_SOCKET_PATH"] == settings.DEFAULT_SOCKET
    assert told["PG_CONNECT_TIMEOUT"] == str(settings.DEFAULT_CONNECT_S)
    assert told["HOLDFAST_ENV"] == settings.Settings.from_environment({}).env


@pytest.mark.req("J2.1")
def test_the_figures_of_the_page_about_limits_are_those_of_the_code() -> None:
    bucket, keys, lag = (import_module(f"holdfast.{name}") for name in ("kv.bucket", "state.keys", "state.lag"))
    page = (HOW_TO / "runtime-limits.md").read_text()
    assert f"nats-server {bucket.OLDEST_SERVER[0]}.{bucket.OLDEST_SERVER[1]}" in page
    assert f"1 to {keys.MAX_LENGTH} characters" in page
    assert f"begin with `{keys.RESERVED}`" in page
    assert (lag.SLOW_FROM, lag.REFUSE_FROM) == (0.5, 0.75)
    assert "from half full, and refused from three quarters" in page


@pytest.mark.req("J2.1")
def test_every_test_that_a_page_names_is_there() -> None:
    page = (HOW_TO / "runtime-promises.md").read_text()
    named = set(re.findall(r"`(test_[a-z0-9_]+)`", page))
    source = "".join(path.read_text() for path in (ROOT / "runtime" / "tests").rglob("test_*.py"))
    there = set(re.findall(r"def (test_\w+)\(", source))
    assert len(named) > 40
    assert named <= there, sorted(named - there)
