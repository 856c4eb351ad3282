"""What an error of the database means: by SQLSTATE, never by its text, which is translated and may hold data.

https://www.postgresql.org/docs/current/errcodes-appendix.html
"""

from __future__ import annotations

import psycopg

from holdfast.errors import (
    CodecError,
    ConfigurationError,
    ConnectionFailed,
    ConstraintViolation,
    DeadlockDetected,
    HoldfastError,
    OperationTimeout,
    PoolExhausted,
    SerializationFailure,
    TransactionFailed,
    Unsupported,
)

#: A write met a server that takes none: it is, or has become, a standby.
READ_ONLY = "25006"
#: The connection is gone, or must not be used again: the server stops, crashed, starts, dropped us or lost its place.
_LOST = frozenset({"57P01", "57P02", "57P03", "57P04", "57P05", "25P03", "25P04", "40003"})
#: A limit of time was reached: idle in transaction, transaction, statement, lock.
_TIMES = {
    "25P03": "the transaction was idle for too long",
    "25P04": "the transaction took too long",
    "57014": "the statement was cancelled or took too long",
    "57P05": "the session was idle for too long",
    "55P03": "a lock did not become free in time",
}
_LOGIN = "the database refuses the login of this role: check the password that its pool names, PG_USER, PG_PASSWORD"
_DATABASE = "the database does not exist: check PG_DATABASE, and that the plane was applied"
_REFUSED = {
    "28": _LOGIN,
    "3D": _DATABASE,
    "42501": "the role of this pool lacks a privilege: grant it in the specs",
}


def sqlstate_of(error: BaseException) -> str | None:
    """The five characters, or None where the error is not the server's."""
    return error.sqlstate if isinstance(error, psycopg.Error) else None


def is_lost(error: BaseException) -> bool:
    """Whether the connection that raised this is of no further use."""
    state = sqlstate_of(error)
    if state is None:
        return isinstance(error, (psycopg.OperationalError, OSError))
    return state in _LOST or state.startswith("08")


def translate(error: BaseException, *, was_cut: bool = False) -> HoldfastError:
    """Give the error to raise in place of a driver's. One of ours is given back as it is.

    ``was_cut`` says that we closed the connection ourselves because an answer took too long.
    """
    if isinstance(error, HoldfastError):
        return error
    if was_cut:
        return OperationTimeout("the database did not answer in time", driver_error=error)
    if isinstance(error, TimeoutError):
        return OperationTimeout("the time given for this has passed", driver_error=error)
    state = sqlstate_of(error)
    if state is None:
        return _of_client(error)
    return _of_time(state, error) or _of_connection(state, error) or _of_transaction(state, error)


#: libpq gives no SQLSTATE for a refused connection, so its text decides, where the server speaks English.
_REFUSALS = (
    (("authentication failed", "no pg_hba.conf entry", 'role "'), _LOGIN),
    (('database "',), _DATABASE),
    (
        ("certificate", "server does not support SSL"),
        "TLS with the database failed: check PG_SSL_ROOT_CERT and what the server offers",
    ),
)
_FULL = ("too many connections", "too many clients", "remaining connection slots")


def of_connecting(error: BaseException) -> HoldfastError:
    """Give the error to raise when a connection could not be made."""
    if isinstance(error, psycopg.OperationalError) and error.sqlstate is None:
        text = str(error)
        if any(sign in text for sign in _FULL):
            return PoolExhausted("the server takes no more connections", driver_error=error)
        for signs, said in _REFUSALS:
            if any(sign in text for sign in signs):
                return ConfigurationError(said, driver_error=error)
    return translate(error)


def _of_client(error: BaseException) -> HoldfastError:
    """What the driver said without having it from the server."""
    if isinstance(error, (psycopg.OperationalError, OSError)):
        return ConnectionFailed("the connection to the database failed", driver_error=error)
    if isinstance(error, (psycopg.DataError, psycopg.ProgrammingError)):
        return CodecError("the driver refused a parameter or a result", driver_error=error)
    if isinstance(error, psycopg.NotSupportedError):
        return Unsupported("the driver or the server cannot do this", driver_error=error)
    return TransactionFailed("the database driver failed", driver_error=error)


def _of_time(state: str, error: BaseException) -> HoldfastError | None:
    said = _TIMES.get(state)
    return None if said is None else OperationTimeout(f"{said} (SQLSTATE {state})", driver_error=error)


def _of_connection(state: str, error: BaseException) -> HoldfastError | None:
    if state == "53300":
        return PoolExhausted(f"the server takes no more connections (SQLSTATE {state})", driver_error=error)
    if state == READ_ONLY:
        return ConnectionFailed(f"the server takes no writes (SQLSTATE {state})", driver_error=error)
    refused = _REFUSED.get(state) or _REFUSED.get(state[:2])
    if refused:
        return ConfigurationError(f"{refused} (SQLSTATE {state})", driver_error=error)
    if state in _LOST or state.startswith("08"):
        return ConnectionFailed(f"the connection to the database was lost (SQLSTATE {state})", driver_error=error)
    return None


def _of_transaction(state: str, error: BaseException) -> HoldfastError:
    if state == "40P01":
        return DeadlockDetected(f"deadlock with another transaction (SQLSTATE {state})", sqlstate=state,
                                driver_error=error)  # fmt: skip
    if state.startswith("23") or state == "40002":
        name = _constraint(error)
        said = f"the data break the constraint {name}" if name else "the data break a constraint"
        return ConstraintViolation(f"{said} (SQLSTATE {state})", sqlstate=state, driver_error=error)
    if state.startswith("40"):
        return SerializationFailure(f"another transaction was first (SQLSTATE {state})", sqlstate=state,
                                    driver_error=error)  # fmt: skip
    if state.startswith("0A") or state == "55000":
        return Unsupported(f"the server cannot do this as it is set up (SQLSTATE {state})", driver_error=error)
    return TransactionFailed(
        f"the database refused (SQLSTATE {state}): driver_error has its words", sqlstate=state, driver_error=error
    )


def _constraint(error: BaseException) -> str | None:
    """Its name, which stands in the specs; never the values, which the server's message holds."""
    return error.diag.constraint_name if isinstance(error, psycopg.Error) else None
