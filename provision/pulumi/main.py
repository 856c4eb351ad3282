"""The program ``pulumi-resource-holdfast``, which Pulumi's engine finds by its name on PATH and starts."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from datetime import UTC, datetime

from provision import __version__

_ABOUT = """The resource provider of package holdfast. Pulumi starts it by itself where it finds it on PATH.
Started by hand it prints a port; PULUMI_DEBUG_PROVIDERS=holdfast:PORT makes Pulumi use that."""
_NEEDS = "The provider needs Pulumi's Python SDK. Run: pip install 'holdfast-provision[pulumi]'"


def main(argv: Sequence[str] | None = None) -> int:
    """Serve the engine whose address is the argument."""
    parser = argparse.ArgumentParser("pulumi-resource-holdfast", description=_ABOUT, allow_abbrev=False)
    parser.add_argument("engine", nargs="?", default="", help="where Pulumi's engine listens: HOST:PORT")
    parser.add_argument("--version", action="version", version=f"pulumi-resource-holdfast {__version__}")
    parser.add_argument("-v", "--verbose", type=int, default=0, metavar="LEVEL", help="from 1: tracebacks on stderr")
    parser.add_argument("--logtostderr", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--tracing", default="", help=argparse.SUPPRESS)
    arguments, _ = parser.parse_known_args(argv)
    # We start servers of our own to compile expressions; gRPC's handlers of fork() break what they inherit.
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
    try:
        from provision.pulumi import server
        from provision.pulumi.logs import Log
        from provision.pulumi.servicer import Servicer
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("pulumi", "grpc", "google"):
            raise
        sys.stderr.write(f"{_NEEDS}\n")
        return 1
    announce = server.take_stdout()
    from provision.pulumi.provider import Provider

    log = Log(arguments.engine)
    provider = Provider(log, arguments.engine, as_of=_as_of())
    log.redact = provider.redact
    servicer = Servicer(provider, log, verbose=arguments.verbose > 0)
    if not server.serve(provider, servicer, arguments.engine, announce):
        os._exit(1)
    return 0


def _as_of() -> datetime | None:
    """The time that partitions are planned for, where it is not now: what ``--as-of`` is to the command line."""
    text = os.environ.get("HOLDFAST_AS_OF")
    return datetime.fromisoformat(text).astimezone(UTC) if text else None


if __name__ == "__main__":
    sys.exit(main())
