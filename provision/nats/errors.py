"""What can go wrong with a NATS server: each error is one sentence and its ``help``, free of secrets."""

from __future__ import annotations

from provision.spec.errors import HoldfastError, InputError, OperationError, UnreachableError


class NatsError(HoldfastError):
    """A failed dealing with a NATS server. The shared base besides it decides the exit code."""


class ConfigurationError(NatsError, InputError):
    """The target's settings do not describe a connection."""


class Unreachable(NatsError, UnreachableError):
    """No server answers at the address, the connection was lost, or JetStream is off for the account."""


class AuthenticationFailed(NatsError, UnreachableError):
    """The server refuses the user, the token or the credentials."""


class PermissionDenied(NatsError, OperationError):
    """The account may not publish to a subject. ``subject`` is the one that was refused."""

    def __init__(self, subject: str) -> None:
        super().__init__(
            f"the NATS user may not publish to {subject}",
            f"Allow the user to publish to {_family(subject)} and to subscribe to _INBOX.>.",
        )
        self.subject = subject


class TimedOut(NatsError, OperationError):
    """The server did not answer a request in time; whether it was done is not known."""


class ApiError(NatsError, OperationError):
    """JetStream refused. ``code`` is like an HTTP status, ``err_code`` JetStream's own number."""

    def __init__(self, subject: str, code: int, err_code: int, description: str) -> None:
        super().__init__(f"JetStream refuses {subject}: {description} ({code}/{err_code})", _HELP.get(err_code, ""))
        self.subject = subject
        self.code = code
        self.err_code = err_code
        self.description = description


class NotApplied(NatsError, OperationError):
    """The server said yes but keeps something else. ``field`` is the first option that differs."""

    def __init__(self, name: str, field: str, sent: object, kept: object) -> None:
        super().__init__(
            f"{name}: the server did not keep {field}: {sent!r} was sent, {kept!r} is there",
            "The server's version may lack the option; take it out of the specs or update the server.",
        )
        self.field = field


class NotSettled(NatsError, OperationError):
    """A change was accepted, but its replicas are not current yet. A later apply waits again."""


class Conflict(NatsError, OperationError):
    """A key was written by somebody else since it was read."""


class LockLost(NatsError, OperationError):
    """Another apply took over the lock while this one was too slow to renew it."""


_HELP = {
    10005: "Fewer servers than replicas match the placement; see the server tags and the cluster's name.",
    10023: "The cluster or account has no room left; free some or lower max_bytes.",
    10028: "The account's storage limit is reached; lower max_bytes or raise the limit.",
    10047: "max_bytes is reserved at creation: lower it or raise the servers' max_file_store.",
    10065: "Another stream has these subjects; give each subject to one stream.",
    10074: "A single server keeps one copy; set replicas to 1 or use a cluster.",
    10076: "JetStream is not enabled on the servers.",
    10039: "JetStream is not enabled for this account.",
}


def _family(subject: str) -> str:
    tokens = subject.split(".")
    return ".".join(tokens[:4]) + ".>" if len(tokens) > 4 else subject
