"""Both distributions as they are shipped: what they hold and need, and that neither leans on the other."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterable
from email.parser import HeaderParser
from pathlib import Path
from xml.etree import ElementTree

import pytest

ROOT = Path(__file__).parents[2]
#: What is built by itself and is no source.
_MADE = shutil.ignore_patterns("__pycache__", "build", "dist", "*.egg-info", ".*")
#: Why a test of the library may be skipped where somebody else runs the plane.
_NOT_OURS = (
    "the servers of HOLDFAST_TEST_ENV are not ours to stop",
    "no plane: ",
    "needs holdfast-provision[embedded]",
)


def run(*command: str | Path, code: int = 0, cwd: str | Path = "/", **more: str) -> subprocess.CompletedProcess[str]:
    """Run a program that finds neither this environment's variables nor our sources."""
    done = subprocess.run(
        command, cwd=cwd, env={"PATH": "/usr/bin:/bin", "HOME": "/nonexistent", **more}, check=False,
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == code, f"{command}\n{done.stdout}{done.stderr}"
    return done


def pip(*arguments: str | Path) -> None:
    """Run this environment's pip with the settings of whoever runs the tests."""
    command = [sys.executable, "-m", "pip", *arguments]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"


def sources(folder: Path, name: str) -> Path:
    """A copy of the files that a distribution is built of: builds leave traces beside them."""
    if name == "holdfast":
        return shutil.copytree(ROOT / "runtime", folder / "runtime", ignore=_MADE)
    shutil.copytree(ROOT / "provision", folder / "root" / "provision", ignore=_MADE)
    for file in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / file, folder / "root")
    return folder / "root"


def built(factory: pytest.TempPathFactory, name: str) -> Path:
    """The wheel of a distribution, built without a download."""
    folder = factory.mktemp(name)
    options = ("--quiet", "--no-deps", "--no-index", "--no-build-isolation")
    pip("wheel", *options, "-w", folder / "made", sources(folder, name))
    [wheel] = (folder / "made").iterdir()
    return wheel


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of ``holdfast``."""
    return built(tmp_path_factory, "holdfast")


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of ``holdfast-provision``."""
    return built(tmp_path_factory, "holdfast-provision")


def files_of(wheel: Path) -> set[str]:
    """The files of a wheel but those that describe it."""
    return {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}


def declared(wheel: Path) -> list[str]:
    """What a wheel says that it needs."""
    with zipfile.ZipFile(wheel) as archive:
        [name] = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        return HeaderParser().parsestr(archive.read(name).decode()).get_all("Requires-Dist") or []


def shipped(package: Path, suffixes: Iterable[str]) -> set[str]:
    """The files of a package that belong into its wheel."""
    found = (path for path in package.rglob("*") if path.suffix in suffixes or path.name == "py.typed")
    return {path.relative_to(package.parent).as_posix() for path in found if "__pycache__" not in path.parts}


@pytest.mark.req("J1.1")
def test_the_wheel_holds_the_library_with_types_and_schema_and_nothing_else(library: Path) -> None:
    found = files_of(library)
    assert found == shipped(ROOT / "runtime" / "holdfast", {".py", ".json"})
    assert found >= {"holdfast/py.typed", "holdfast/contract.schema.json"}


def test_the_library_needs_two_drivers_and_no_more(library: Path) -> None:
    """psycopg brings libpq along where the extra asks for it."""
    needed = [line.replace(" ", "") for line in declared(library)]
    assert {re.split(r"[<>=;~!]", line)[0] for line in needed if "extra==" not in line} == {"nats-py", "psycopg"}
    assert [line for line in needed if "binary" in line] == ['psycopg[binary]>=3.2;extra=="binary"']


@pytest.mark.req("J1.3")
def test_the_import_takes_no_driver_and_less_than_a_tenth_of_a_second(library: Path, tmp_path: Path) -> None:
    """Without site-packages there is no driver to import; the quickest of five is what the library itself takes."""
    zipfile.ZipFile(library).extractall(tmp_path)
    run(sys.executable, "-m", "compileall", "-q", tmp_path)
    program = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import holdfast; print(holdfast.__file__)"
    taken = []
    for _ in range(5):
        done = run(sys.executable, "-S", "-X", "importtime", "-c", program)
        assert done.stdout.startswith(str(tmp_path))
        [line] = re.findall(r"^import time: +\d+ \| +(\d+) \| holdfast$", done.stderr, re.MULTILINE)
        assert not re.search(r"\| +(nats|psycopg)\b", done.stderr)
        taken.append(int(line) / 1000)
    print(f"import holdfast: {min(taken):.1f} ms, at most {max(taken):.1f} ms")
    assert min(taken) < 100


# Installed ---------------------------------------------------------------------------------------------------


@pytest.fixture
def python(tmp_path: Path) -> Path:
    """The interpreter of an environment with nothing in it."""
    run(sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv")
    return tmp_path / "venv" / "bin" / "python"


LIBRARY = "import holdfast; holdfast.Settings, holdfast.errors.HoldfastError"
COMMAND = "import provision; print(provision.__version__)"


def test_the_library_alone_says_how_to_get_the_command(library: Path, python: Path) -> None:
    pip("--python", python, "install", "--quiet", "--no-deps", "--no-index", library)
    told = run(python, "-m", "holdfast", code=1)
    assert told.stderr == "holdfast is a library. Its command line comes with: pip install 'holdfast[cli]'\n"
    assert not (python.parent / "holdfast").exists()
    pip("--python", python, "uninstall", "--quiet", "--yes", "holdfast")
    assert "No module named" in run(python, "-c", "import holdfast", code=1).stderr


@pytest.mark.soak
@pytest.mark.parametrize("is_first", [True, False], ids=["library-first", "command-first"])
def test_either_comes_and_goes_without_the_other(library: Path, command: Path, python: Path, is_first: bool) -> None:
    """No wheel brings a file of the other's, so what is left goes on working."""
    files = files_of(command)
    assert files == shipped(ROOT / "provision", {".py", ".json", ".sql", ".yaml"})
    assert not files & files_of(library)
    assert not [line for line in declared(command) if re.match(r"holdfast\b(?!-)", line)]
    ways = [(library, "holdfast", LIBRARY), (command, "holdfast-provision", COMMAND)]
    first, second = ways if is_first else reversed(ways)
    for wheel, *_ in (first, second):
        pip("--python", python, "install", "--quiet", "--no-deps", "--no-index", wheel)
    for _, _, program in ways:
        run(python, "-c", program)
    pip("--python", python, "uninstall", "--quiet", "--yes", first[1])
    run(python, "-c", second[2])
    assert "No module named" in run(python, "-c", first[2], code=1).stderr
    pip("--python", python, "uninstall", "--quiet", "--yes", second[1])
    assert not list(python.parents[1].glob("lib/*/site-packages/*"))


@pytest.mark.soak
@pytest.mark.parametrize("name", ["library", "command"])
def test_a_source_distribution_builds_the_same_wheel(request: pytest.FixtureRequest, tmp_path: Path, name: str) -> None:
    """It holds all that the wheel is built of."""
    wheel: Path = request.getfixturevalue(name)
    build = "import sys; from setuptools import build_meta; build_meta.build_sdist(sys.argv[1])"
    source = sources(tmp_path, {"library": "holdfast", "command": "holdfast-provision"}[name])
    run(sys.executable, "-c", build, tmp_path, cwd=source)
    [archive] = tmp_path.glob("*.tar.gz")
    options = ("--quiet", "--no-deps", "--no-index", "--no-build-isolation")
    pip("wheel", *options, "-w", tmp_path / "again", archive)
    [again] = (tmp_path / "again").glob("*.whl")
    assert files_of(again) == files_of(wheel)


def _tools() -> list[str]:
    """What the library's own tests need beside it."""
    project = tomllib.loads((ROOT / "runtime" / "pyproject.toml").read_text())
    found: list[str] = project["dependency-groups"]["dev"]
    return found


@pytest.mark.soak
@pytest.mark.timeout(3000)
def test_the_library_is_installed_from_its_folder_and_its_tests_run_alone(
    server_root: Path, tmp_path: Path, python: Path
) -> None:
    """On a plane that somebody else runs; what would stop its servers is skipped and says so."""
    pip("--python", python, "install", "--quiet", f"{sources(tmp_path, 'holdfast')}[binary]", *_tools())
    assert run(python, "-c", "import holdfast, psycopg, nats; print(psycopg.pq.__impl__)").stdout == "binary\n"
    assert "No module named 'provision'" in run(python, "-c", "import provision", code=1).stderr
    project = server_root / "alone"
    project.mkdir(mode=0o755)
    shutil.copytree(ROOT / "specs", project / "specs")
    holdfast = [sys.executable, "-m", "provision.cli"]
    try:
        for arguments in (["dev", "up"], ["apply", "--yes"]):
            subprocess.run([*holdfast, *arguments], cwd=project, check=True, capture_output=True)
        environment = subprocess.check_output([*holdfast, "dev", "env"], cwd=project, text=True)
        told = tmp_path / "plane.env"
        told.write_text(environment + (project / ".holdfast" / "dev" / "secrets.env").read_text())
        alone = tmp_path / "alone"
        shutil.copytree(ROOT / "runtime" / "tests", alone / "tests", ignore=_MADE)
        shutil.copy(ROOT / "runtime" / "pyproject.toml", alone)
        report = tmp_path / "junit.xml"
        run(python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--junit-xml", report, cwd=alone,
            HOLDFAST_TEST_ENV=str(told), HOME=str(tmp_path))  # fmt: skip
    finally:
        subprocess.run([*holdfast, "dev", "reset", "--yes"], cwd=project, check=False, capture_output=True)
    cases = list(ElementTree.parse(report).iter("testcase"))
    reasons = [str(found.get("message")) for case in cases for found in case.iter("skipped")]
    print(f"{len(cases) - len(reasons)} tests of the library passed alone, {len(reasons)} were skipped")
    assert not [reason for reason in reasons if not any(said in reason for said in _NOT_OURS)]
    assert len(reasons) < len(cases) / 2
