"""The connection of a plane to NATS: made within its time, told apart from one that is refused, and ended."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING, Final

from holdfast.errors import ConfigurationError, ConnectionFailed, HoldfastError
from holdfast.tasks import end

if TYPE_CHECKING:
    from nats.aio.client import Client

    from holdfast.contract import Contract
    from holdfast.settings import Settings

_log = logging.getLogger("holdfast")
_PING_S: Final = 10
_RECONNECT_S: Final = 0.1


class _Trouble:
    """What a connection to NATS says of itself. ``refused`` is set where waiting does not help."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self.said: Exception | None = None
        self.refused = asyncio.Event()

    async def on_error(self, error: Exception) -> None:
        self.said = error
        if isinstance(_unreachable(error), ConfigurationError):
            self.refused.set()
        _log.info("NATS: %s", type(error).__name__)

    async def on_loss(self) -> None:
        if not (self._client.is_closed or self._client.is_draining):
            _log.warning("the connection to NATS was lost; it is sought again")


async def connect_nats(settings: Settings, contract: Contract | None) -> Client:
    """Connect once, within the time that is given; a connection lost later is sought for ever.

    Raises ConfigurationError where waiting does not help, else ConnectionFailed.
    """
    from nats.aio.client import Client
    from nats.errors import Error

    client = Client()
    options = settings.nats_options(contract)
    trouble = _Trouble(client)
    connecting = asyncio.create_task(
        client.connect(
            **options,
            name=settings.pg_app_name or "holdfast",
            allow_reconnect=True,
            max_reconnect_attempts=-1,
            reconnect_time_wait=_RECONNECT_S,  # type: ignore[arg-type] # it only sleeps for that long
            ping_interval=_PING_S,
            error_cb=trouble.on_error,
            disconnected_cb=trouble.on_loss,
        ),
        name="holdfast connects",
    )
    refusal = asyncio.create_task(trouble.refused.wait(), name="holdfast is refused")
    try:
        # Left alone, the client tries for ever, also where it is refused.
        await asyncio.wait(
            {connecting, refusal}, timeout=options["connect_timeout"], return_when=asyncio.FIRST_COMPLETED
        )
        if not connecting.done():
            raise _unreachable(trouble.said)
        connecting.result()
        return client
    except (Error, OSError, ValueError) as error:
        raise _unreachable(error) from None
    finally:
        await end(refusal)
        if not (connecting.done() and client.is_connected):
            await end(connecting)
            with contextlib.suppress(AssertionError):  # of a client that never had an address to go to
                await client.close()


def _unreachable(error: Exception | None) -> HoldfastError:
    """What keeps us out, with a remedy: ConfigurationError where waiting does not help."""
    import ssl

    said = str(error).lower()
    if isinstance(error, ssl.SSLError):
        text = "the TLS connection to NATS was refused: check NATS_CA_CERT, NATS_TLS_CERT and NATS_TLS_KEY"
    elif isinstance(error, FileNotFoundError):
        text = "NATS_CREDS_FILE names a file that is not there"
    elif "authoriz" in said or "authentic" in said:
        text = "NATS refuses the credentials: check NATS_CREDS_FILE, or those in NATS_SERVERS"
    elif isinstance(error, ValueError) or "invalid connect url" in said:
        text = "NATS_SERVERS: an address has the form nats://host:port"
    else:
        text = "no NATS server can be reached: check NATS_SERVERS, and that the servers run"
        return ConnectionFailed(text, driver_error=error)
    return ConfigurationError(text, driver_error=error)


async def end_nats(client: Client) -> None:
    """Close the connection, also where it is gone already."""
    try:
        await client.close()
    except OSError as error:
        _log.info("the connection to NATS was gone already: %s", type(error).__name__)
    finally:
        # Where writing to a dead connection fails, nats-py 2.16.0 leaves the tasks of its subscriptions behind.
        for subscription in tuple(client._subs.values()):  # noqa: SLF001 - nothing public ends them
            subscription._stop_processing()  # noqa: SLF001
