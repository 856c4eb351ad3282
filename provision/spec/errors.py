"""The few error types that every stage shares. Each ends as one clear line; the CLI maps types to exit codes."""

from __future__ import annotations


class HoldfastError(Exception):
    """Anything that stops a command with one message. ``help`` says what to do about it. Never holds a secret."""

    def __init__(self, message: str, help: str = "") -> None:
        super().__init__(message)
        self.help = help


class InputError(HoldfastError):
    """What the user gave cannot be used: a missing folder, an unknown environment, a damaged plan file."""


class UnreachableError(HoldfastError):
    """A server does not answer, or refuses who we are."""


class OperationError(HoldfastError):
    """A server answered and refused the work: no permission, a failed statement, a lock that never came."""


class ConsentError(HoldfastError):
    """The plan holds hazards that were not allowed by name."""

    def __init__(self, consents: tuple[str, ...]) -> None:
        listed = " ".join(f"--allow {c}" for c in consents)
        super().__init__(self.told(consents), f"Read the plan, then add: {listed}")
        self.consents = consents

    @staticmethod
    def told(consents: tuple[str, ...]) -> str:
        """What every front end says of it."""
        number = "a consent is" if len(consents) == 1 else f"{len(consents)} consents are"
        return f"{number} missing; nothing was changed"


class StalePlanError(HoldfastError):
    """The live plane is no longer what the plan was made from."""
