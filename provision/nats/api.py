"""The connection to one NATS target and requests to its JetStream API. The only module that loads nats-py.

nats-py carries bytes; requests and answers are the server's own JSON, so nothing it does not know is lost.
``Session`` is the synchronous door: it runs an event loop in a thread of its own.
"""

from __future__ import annotations

import asyncio
import json
import re
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

from provision.nats.errors import (
    ApiError,
    AuthenticationFailed,
    ConfigurationError,
    PermissionDenied,
    TimedOut,
    Unreachable,
)

if TYPE_CHECKING:
    from nats.aio.client import Client

Json = dict[str, Any]
#: Turns a secret reference into its value.
Resolve = Callable[[Mapping[str, str]], str]
T = TypeVar("T")

_PREFIX = "$JS.API."
#: More requests in flight are slower on a cluster, where each is a consensus of the meta group.
IN_FLIGHT_CLUSTER, IN_FLIGHT_SINGLE = 16, 64
_CONNECT_TRIES = 3
_CLOSE_S = 5.0
_JETSTREAM_OFF = frozenset({10039, 10076})
_SEED = re.compile(rb"BEGIN NATS USER JWT.*BEGIN USER NKEY SEED-+\s*(\S+)\s", re.DOTALL)
_CREDS = "Let creds be the path of a file from `nsc generate creds`, or nkey a seed."


@dataclass(frozen=True)
class Settings:
    """How to connect. Values are resolved; ``repr`` shows none that is secret."""

    urls: tuple[str, ...] = field(repr=False)
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    token: str | None = field(default=None, repr=False)
    creds: str | None = None
    nkey: str | None = field(default=None, repr=False)
    ca: str | None = None
    cert: str | None = None
    key: str | None = None
    domain: str | None = None
    timeout_s: float = 10.0

    @property
    def place(self) -> str:
        """Where the servers are, without users or passwords."""
        return ", ".join(_bare_url(url) for url in self.urls)


def settings(target: Mapping[str, Any], resolve: Resolve | None = None, **overrides: Any) -> Settings:
    """Read the settings of a declared target. ``resolve`` turns a secret reference into its value.

    ``overrides`` win over the target (embedded servers give ``urls`` so). Raises ConfigurationError.
    """

    def value(node: Any) -> Any:
        if isinstance(node, Mapping):
            if resolve is None:
                raise ConfigurationError("the target has secret references and nothing to resolve them")
            return resolve(node)
        return node

    found = {**target, **{key: given for key, given in overrides.items() if given is not None}}
    urls = value(found.get("urls"))
    if not urls:
        raise ConfigurationError("the NATS target has no urls", "Write targets: {nats: {main: {urls: [...]}}}.")
    tls = found.get("tls") or {}
    return Settings(
        urls=tuple(url.strip() for url in (urls.split(",") if isinstance(urls, str) else urls)),
        **{name: value(found.get(name)) for name in ("user", "password", "token", "creds", "nkey", "domain")},
        **{name: value(tls.get(name)) for name in ("ca", "cert", "key")},
        timeout_s=float(found.get("timeout_s") or 10.0),
    )


def _bare_url(url: str) -> str:
    scheme, separator, rest = url.rpartition("://")
    return f"{scheme}{separator}{rest.rpartition('@')[2]}"


class Session:
    """An open connection. Methods are synchronous, safe in any thread, and raise a NatsError."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.link = Link(settings)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="holdfast-nats", daemon=True)

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def open(self) -> None:
        """Connect unless it is done. Raises Unreachable or AuthenticationFailed."""
        if self._thread.is_alive():
            return
        self._thread.start()
        try:
            self.run(self.link.connect())
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Disconnect and end the thread; may be called twice."""
        if self._loop.is_closed():
            return
        if self._thread.is_alive():
            self.run(self.link.close())
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
        self._loop.close()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the session's loop and wait; Ctrl-C cancels it."""
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except KeyboardInterrupt:
            future.cancel()
            raise

    def request(self, subject: str, body: Mapping[str, Any] | None = None, timeout_s: float | None = None) -> Json:
        """Send one API request, give its answer. Raises ApiError, PermissionDenied, TimedOut, Unreachable."""
        return self.run(self.link.request(subject, body, timeout_s))


def connect(settings: Settings) -> Session:
    """Open a session. Raises Unreachable or AuthenticationFailed."""
    session = Session(settings)
    session.open()
    return session


class Link:
    """The asynchronous half: one nats-py client on one event loop."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._client: Client | None = None
        self._waiting: dict[str, list[asyncio.Future[Any]]] = {}
        domain = settings.domain
        self._prefix = f"$JS.{domain}.API." if domain else _PREFIX
        self._last_error = ""
        self._denied: set[int] = set()

    @property
    def client(self) -> Client:
        assert self._client is not None, "the session is not open"
        return self._client

    @property
    def info(self) -> Json:
        """What the server said of itself when we connected: version, cluster, max_payload …"""
        return dict(self.client._server_info)  # noqa: SLF001 (nats-py exposes only parts of it)

    @property
    def in_flight(self) -> int:
        """How many requests to keep under way at once."""
        return IN_FLIGHT_CLUSTER if self.info.get("cluster") else IN_FLIGHT_SINGLE

    async def connect(self) -> None:
        """Connect. Raises Unreachable or AuthenticationFailed."""
        from nats.aio.client import Client
        from nats.errors import Error

        _check_seed(self.settings)
        options = self._options()
        for attempt in range(_CONNECT_TRIES):
            client = Client()
            try:
                await asyncio.wait_for(client.connect(**options), self.settings.timeout_s + 1)
            except (Error, OSError, TimeoutError, ValueError) as error:
                text = self._last_error or str(error) or type(error).__name__
                wants_user = bool(client._server_info.get("auth_required"))  # noqa: SLF001
                await client.close()
                # A server that refuses a user closes at once, sometimes before its reason can be read.
                was_reset = isinstance(error, ConnectionResetError) or "reset by peer" in text
                if not was_reset or attempt + 1 == _CONNECT_TRIES:
                    raise self._refused("authorization" if was_reset and wants_user else text) from None
            else:
                self._client = client
                return

    async def close(self) -> None:
        """Disconnect; a server that does not let go is left."""
        if self._client is not None and not self._client.is_closed:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._client.close(), _CLOSE_S)

    async def request(
        self, subject: str, body: Mapping[str, Any] | None = None, timeout_s: float | None = None
    ) -> Json:
        """Send one API request and give the decoded answer; see ``Session.request``."""
        return self.decode(subject, await self.raw(subject, body, timeout_s))

    async def raw(self, subject: str, body: Mapping[str, Any] | None = None, timeout_s: float | None = None) -> bytes:
        """Send one API request and give the answer's bytes, a refusal included."""
        data = b"" if body is None else json.dumps(body, separators=(",", ":"), ensure_ascii=False).encode()
        return await self.send(subject, data, timeout_s=timeout_s)

    async def send(
        self,
        subject: str,
        data: bytes,
        headers: Mapping[str, str] | None = None,
        timeout_s: float | None = None,
    ) -> bytes:
        """Publish and wait for the answer. A refusal by permission comes at once, not as a time-out."""
        from nats.errors import ConnectionClosedError, Error, NoRespondersError
        from nats.errors import TimeoutError as NatsTimeout

        target = self._routed(subject)
        limit = timeout_s or self.settings.timeout_s
        work = asyncio.ensure_future(
            self.client.request(target, data, timeout=limit, headers=dict(headers) if headers else None)
        )
        waiting = self._waiting.setdefault(target.lower(), [])
        waiting.append(work)
        try:
            return (await work).data
        except asyncio.CancelledError:
            if id(work) in self._denied:
                raise PermissionDenied(target) from None
            work.cancel()
            raise
        except NoRespondersError:
            raise Unreachable(
                f"JetStream does not answer at {self.settings.place}",
                "Enable JetStream on the servers and for the account, and check the domain.",
            ) from None
        except (NatsTimeout, TimeoutError):
            if not self.client.is_connected:
                raise Unreachable(f"the connection to {self.settings.place} was lost", "Run it again.") from None
            raise TimedOut(
                f"no answer to {target} within {limit:g} s", "Try again; look at the servers' load."
            ) from None
        except ConnectionClosedError:
            raise Unreachable(f"the connection to {self.settings.place} was lost", "Run it again.") from None
        except Error as error:
            raise Unreachable(f"{target}: {error}") from None
        finally:
            waiting.remove(work)
            self._denied.discard(id(work))

    async def every_answer(self, subject: str, expected: int | None, within_s: float) -> list[Json]:
        """Ask all who listen and give their answers: ``expected`` many, or those that come in time."""
        inbox = self.client.new_inbox()
        found: list[Json] = []
        subscription = await self.client.subscribe(inbox)
        try:
            await self.client.publish(subject, b"{}", reply=inbox)
            async with asyncio.timeout(within_s):
                while expected is None or len(found) < expected:
                    message = await subscription.next_msg(timeout=within_s)
                    if not message.data:  # nobody listens
                        break
                    found.append(json.loads(message.data))
        except TimeoutError:
            pass
        finally:
            await subscription.unsubscribe()
        return found

    def decode(self, subject: str, data: bytes) -> Json:
        """Read an answer. Raises ApiError or Unreachable."""
        answer: Json = json.loads(data)
        refusal = answer.get("error")
        if refusal is None:
            return answer
        err_code = refusal.get("err_code", 0)
        error = ApiError(self._routed(subject), refusal.get("code", 0), err_code, refusal.get("description", ""))
        if err_code in _JETSTREAM_OFF:
            raise Unreachable(f"JetStream is not enabled at {self.settings.place}", error.help) from error
        raise error

    def _routed(self, subject: str) -> str:
        return self._prefix + subject.removeprefix(_PREFIX) if subject.startswith(_PREFIX) else subject

    def _options(self) -> dict[str, Any]:
        wanted = self.settings
        options: dict[str, Any] = {
            "servers": list(wanted.urls),
            "name": "holdfast",
            "allow_reconnect": True,
            "connect_timeout": wanted.timeout_s,
            # A first connection is tried once for each server; a lost one comes back within seconds or not.
            "max_reconnect_attempts": 3,
            "reconnect_time_wait": 0.5,
            "error_cb": self._note,
            "user": wanted.user,
            "password": wanted.password,
            "token": wanted.token,
            "user_credentials": wanted.creds,
            "nkeys_seed_str": wanted.nkey,
        }
        if wanted.ca or wanted.cert:
            options["tls"] = _tls_context(wanted)
        return {name: value for name, value in options.items() if value is not None}

    async def _note(self, error: Exception) -> None:
        """Hear of asynchronous errors: a refused publish ends its requests, other texts explain a failure."""
        text = str(error)
        self._last_error = text or type(error).__name__
        _, found, rest = text.partition('permissions violation for publish to "')
        if not found:
            return
        for work in self._waiting.get(rest.partition('"')[0], ()):
            self._denied.add(id(work))
            work.cancel()

    def _refused(self, text: str) -> AuthenticationFailed | Unreachable:
        lowered = text.lower()
        if "authorization" in lowered or "authentication" in lowered or "nonce" in lowered:
            return AuthenticationFailed(
                f"the NATS servers at {self.settings.place} refuse this user",
                "Check the target's user, token, nkey or creds and the secrets behind them.",
            )
        return Unreachable(f"no NATS server answers at {self.settings.place}: {text}", "Start it, or mend urls.")


def _check_seed(settings: Settings) -> None:
    """Read the key that signs for us before nats-py does. Raises ConfigurationError, which tells nothing of it."""
    if not (settings.creds or settings.nkey):
        return
    from nkeys import NkeysError, from_seed  # type: ignore[import-untyped]

    seed = (settings.nkey or "").encode()
    if settings.creds:
        try:
            found = _SEED.search(Path(settings.creds).read_bytes())
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or "that is no path"
            raise ConfigurationError(f"the credentials of the NATS target cannot be read: {reason}", _CREDS) from None
        if found is None:
            raise ConfigurationError("the credentials of the NATS target hold no user and no key", _CREDS)
        seed = found[1]
    try:
        from_seed(bytearray(seed)).wipe()
    except (NkeysError, ValueError):
        raise ConfigurationError("the key of the NATS target is not one of a user", _CREDS) from None


def _tls_context(settings: Settings) -> Any:
    import ssl

    try:
        context = ssl.create_default_context(cafile=settings.ca)
        if settings.cert:
            context.load_cert_chain(settings.cert, settings.key)
    except OSError as error:
        raise ConfigurationError(
            f"a certificate of the NATS target cannot be read: {error.strerror or error}"
        ) from None
    return context


async def pipelined(works: Iterable[Callable[[], Awaitable[T]]], limit: int) -> list[T]:
    """Run coroutines with at most ``limit`` under way, results in order; the first error ends all.

    The server drops every pending API request when ten thousand wait, so the number is always bounded.
    """
    gate = asyncio.Semaphore(limit)

    async def one(work: Callable[[], Awaitable[T]]) -> T:
        async with gate:
            return await work()

    tasks = [asyncio.ensure_future(one(work)) for work in works]
    try:
        return list(await asyncio.gather(*tasks))
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise


async def pages(
    link: Link, subject: str, key: str, body: Mapping[str, Any] | None = None
) -> tuple[list[Any], list[bytes]]:
    """Read a paged list whole: its entries and the raw answers. The first page says how many there are."""
    first_raw = await link.raw(subject, {**(body or {}), "offset": 0})
    first = link.decode(subject, first_raw)
    entries: list[Any] = list(first.get(key) or [])
    total, size = first.get("total", 0), first.get("limit") or 256
    bodies = [{**(body or {}), "offset": offset} for offset in range(size, total, size)]
    rest = await pipelined([partial(link.raw, subject, page) for page in bodies], link.in_flight)
    for raw in rest:
        entries.extend(link.decode(subject, raw).get(key) or [])
    return entries, [first_raw, *rest]
