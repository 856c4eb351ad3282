"""The engine's requests as calls of a ``Behaviour``, and its answers and errors as the engine reads them."""

from __future__ import annotations

import re
import sys
import threading
import traceback
from collections.abc import Callable
from functools import wraps
from typing import Any, NamedTuple

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.empty_pb2 import Empty
from google.protobuf.struct_pb2 import Struct
from pulumi.runtime.proto import plugin_pb2, provider_pb2, provider_pb2_grpc

from provision.pulumi import protocol
from provision.pulumi.codec import decode, decode_config, encode, parse_path, path
from provision.pulumi.logs import Log
from provision.pulumi.protocol import Behaviour, Checked, Difference, Failure, PartialFailure
from provision.spec.errors import HoldfastError, InputError, UnreachableError

_KINDS = {
    ("add", False): provider_pb2.PropertyDiff.ADD,
    ("add", True): provider_pb2.PropertyDiff.ADD_REPLACE,
    ("delete", False): provider_pb2.PropertyDiff.DELETE,
    ("delete", True): provider_pb2.PropertyDiff.DELETE_REPLACE,
    ("update", False): provider_pb2.PropertyDiff.UPDATE,
    ("update", True): provider_pb2.PropertyDiff.UPDATE_REPLACE,
}
#: Of any other code the engine would say that the state of the resource is unknown.
_CODES = ((InputError, grpc.StatusCode.INVALID_ARGUMENT), (UnreachableError, grpc.StatusCode.UNAVAILABLE))
_PRERELEASE = re.compile(r"^(\d+\.\d+\.\d+)\.?(a|b|rc|dev)(\d+)")


def semver(version: str) -> str:
    """Write a version of Python's as the engine reads it: ``1.2.0.dev3`` is ``1.2.0-dev.3``."""
    return _PRERELEASE.sub(r"\1-\2.\3", version)


def one_line(error: Exception) -> str:
    """What an error says on one line, its remedy behind it."""
    if isinstance(error, HoldfastError):
        message = str(error)
        if error.help:
            message += f"{'' if message.endswith(('.', '!', '?')) else '.'} {error.help}"
    else:
        last = traceback.extract_tb(error.__traceback__)[-1:]
        where = f" ({last[0].filename.rpartition('/')[2]}:{last[0].lineno})" if last else ""
        message = f"{type(error).__name__}: {error}{where}; this is a bug in holdfast"
    return " ".join(message.split())


def _handler(method: Callable[[Any, Any], Any]) -> Callable[[Any, Any, grpc.ServicerContext], Any]:
    @wraps(method)
    def handle(self: Servicer, request: Any, context: grpc.ServicerContext) -> Any:
        with self.calls:
            try:
                return method(self, request)
            except PartialFailure as failure:
                self.fail_partly(context, failure, _secret_keys(request))
            except Exception as error:
                self.fail(context, error)

    return handle


class Calls:
    """Counts the calls under way."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._count = 0

    def __enter__(self) -> None:
        with self._changed:
            self._count += 1

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._count -= 1
            self._changed.notify_all()

    def wait(self, timeout_s: float) -> bool:
        """Wait until there is none; whether that came true in time."""
        with self._changed:
            return self._changed.wait_for(lambda: self._count == 0, timeout_s)


class Servicer(provider_pb2_grpc.ResourceProviderServicer):
    """What the engine calls, each request in a thread of its own. ``verbose`` shows tracebacks on stderr."""

    def __init__(self, provider: Behaviour, log: Log, *, verbose: bool = False) -> None:
        self.calls = Calls()
        self._provider = provider
        self._log = log
        self._verbose = verbose

    # The provider itself ------------------------------------------------------------------------------------

    @_handler
    def Handshake(self, request: Any) -> Any:  # noqa: N802 - the name in Pulumi's protocol, as all below
        self._log.connect(request.engine_address)
        return provider_pb2.ProviderHandshakeResponse(accept_secrets=True)

    @_handler
    def Attach(self, request: Any) -> Empty:  # noqa: N802
        self._log.connect(request.address)
        return Empty()

    @_handler
    def GetPluginInfo(self, request: Any) -> Any:  # noqa: N802
        return plugin_pb2.PluginInfo(version=semver(self._provider.version))

    @_handler
    def GetSchema(self, request: Any) -> Any:  # noqa: N802
        return provider_pb2.GetSchemaResponse(schema=self._provider.schema())

    @_handler
    def CheckConfig(self, request: Any) -> Any:  # noqa: N802
        news = decode_config(request.news)
        checked = self._provider.check_config(news.values, news.secret_keys)
        response = self._checked(checked, news.values, news.secret_keys)
        for name, value in request.news.fields.items():
            if name not in news.values:  # the engine's own
                response.inputs.fields[name].CopyFrom(value)
        return response

    @_handler
    def DiffConfig(self, request: Any) -> Any:  # noqa: N802
        old_inputs = request.old_inputs if request.HasField("old_inputs") else request.olds
        return _difference(
            self._provider.diff_config(decode_config(old_inputs).values, decode_config(request.news).values)
        )

    @_handler
    def Configure(self, request: Any) -> Any:  # noqa: N802
        self._provider.configure(decode_config(request.args).values)
        return provider_pb2.ConfigureResponse(acceptSecrets=True, supportsPreview=True)

    @_handler
    def Cancel(self, request: Any) -> Empty:  # noqa: N802
        self._provider.cancel()
        return Empty()

    # Resources ----------------------------------------------------------------------------------------------

    @_handler
    def Check(self, request: Any) -> Any:  # noqa: N802
        news = decode(request.news)
        checked = self._provider.check(
            protocol.CheckRequest(
                *_about(request.urn),
                news=news.values,
                olds=decode(request.olds).values or None,
                secret_keys=news.secret_keys,
            )
        )
        return self._checked(checked, news.values, news.secret_keys)

    @_handler
    def Diff(self, request: Any) -> Any:  # noqa: N802
        news = decode(request.news)
        return _difference(
            self._provider.diff(
                protocol.DiffRequest(
                    *_about(request.urn),
                    id=request.id,
                    old_inputs=decode(request.old_inputs).values,
                    olds=decode(request.olds).values,
                    news=news.values,
                    ignore_changes=tuple(map(parse_path, request.ignoreChanges)),
                    secret_keys=news.secret_keys,
                )
            )
        )

    @_handler
    def Create(self, request: Any) -> Any:  # noqa: N802
        inputs = decode(request.properties)
        made = self._provider.create(
            protocol.CreateRequest(
                *_about(request.urn),
                inputs=inputs.values,
                preview=request.preview,
                timeout_s=request.timeout or None,
                secret_keys=inputs.secret_keys,
            )
        )
        properties = encode(made.properties, inputs.secret_keys | made.secret_keys)
        return provider_pb2.CreateResponse(id=made.id, properties=properties)

    @_handler
    def Read(self, request: Any) -> Any:  # noqa: N802
        inputs, properties = decode(request.inputs), decode(request.properties)
        secret_keys = inputs.secret_keys | properties.secret_keys
        found = self._provider.read(
            protocol.ReadRequest(
                *_about(request.urn),
                id=request.id,
                inputs=inputs.values,
                properties=properties.values,
                secret_keys=secret_keys,
            )
        )
        if found is None:
            return provider_pb2.ReadResponse()
        secret_keys |= found.secret_keys
        return provider_pb2.ReadResponse(
            id=found.id, inputs=encode(found.inputs, secret_keys), properties=encode(found.properties, secret_keys)
        )

    @_handler
    def Update(self, request: Any) -> Any:  # noqa: N802
        news = decode(request.news)
        properties = self._provider.update(
            protocol.UpdateRequest(
                *_about(request.urn),
                id=request.id,
                old_inputs=decode(request.old_inputs).values,
                olds=decode(request.olds).values,
                news=news.values,
                preview=request.preview,
                timeout_s=request.timeout or None,
                ignore_changes=tuple(map(parse_path, request.ignoreChanges)),
                secret_keys=news.secret_keys,
            )
        )
        return provider_pb2.UpdateResponse(properties=encode(properties, news.secret_keys))

    @_handler
    def Delete(self, request: Any) -> Empty:  # noqa: N802
        self._provider.delete(
            protocol.DeleteRequest(
                *_about(request.urn),
                id=request.id,
                old_inputs=decode(request.old_inputs).values,
                properties=decode(request.properties).values,
                timeout_s=request.timeout or None,
            )
        )
        return Empty()

    # Answers ------------------------------------------------------------------------------------------------

    def fail(self, context: grpc.ServicerContext, error: Exception) -> None:
        """End a call with one line."""
        if self._verbose:
            sys.stderr.write(self._provider.redact("".join(traceback.format_exception(error))))
        code = next((code for kind, code in _CODES if isinstance(error, kind)), grpc.StatusCode.FAILED_PRECONDITION)
        if not isinstance(error, HoldfastError):
            code = grpc.StatusCode.INTERNAL
        context.abort(code, self._provider.redact(one_line(error)))

    def fail_partly(self, context: grpc.ServicerContext, failure: PartialFailure, keys: frozenset[str]) -> None:
        """End a call so that the engine keeps the resource in its state. ``keys`` are those of secrets."""
        reasons = [self._provider.redact(reason) for reason in failure.reasons]
        detail = provider_pb2.ErrorResourceInitFailed(
            id=failure.id,
            inputs=encode(failure.inputs, keys),
            properties=encode(failure.properties, keys),
            reasons=reasons,
        )
        context.abort_with_status(_Status.of(grpc.StatusCode.FAILED_PRECONDITION, "; ".join(reasons), detail))

    def _checked(self, checked: Checked, news: protocol.Values, secret_keys: frozenset[str]) -> Any:
        secret_keys |= checked.secret_keys
        return provider_pb2.CheckResponse(
            inputs=encode(checked.inputs, secret_keys),
            failures=[self._failure(failure, news, secret_keys) for failure in checked.failures],
        )

    def _failure(self, failure: Failure, news: protocol.Values, secret_keys: frozenset[str]) -> Any:
        """The engine prints the value of a failed property, so it learns of one only where that is short."""
        reason = self._provider.redact(failure.reason)
        if not failure.pointer:
            return provider_pb2.CheckFailure(reason=reason)
        name = str(failure.pointer[0])
        is_short = isinstance(news.get(name), str | int | float) and name not in secret_keys
        if len(failure.pointer) == 1 and is_short:
            return provider_pb2.CheckFailure(property=name, reason=reason)
        return provider_pb2.CheckFailure(reason=f"{path(failure.pointer)}: {reason}")


class _Status(NamedTuple):
    """A grpc.Status with a detail, for which gRPC itself needs a package of its own."""

    code: grpc.StatusCode
    details: str
    trailing_metadata: tuple[tuple[str, bytes], ...]

    @classmethod
    def of(cls, code: grpc.StatusCode, text: str, detail: Any) -> Any:
        """Pack the detail as google.rpc.Status: 1 code, 2 message, 3 details. Two packages that may be loaded define
        that message and exclude each other, hence by hand."""
        packed = AnyMessage()
        packed.Pack(detail)
        number: int = code.value[0]
        status = bytes((0x08, number)) + _field(0x12, text.encode()) + _field(0x1A, packed.SerializeToString())
        return cls(code, text, (("grpc-status-details-bin", status),))


def _field(tag: int, content: bytes) -> bytes:
    """A length-delimited field of a protobuf message."""
    length, rest = bytearray(), len(content)
    while rest > 0x7F:
        length.append(rest & 0x7F | 0x80)
        rest >>= 7
    length.append(rest)
    return bytes((tag,)) + bytes(length) + content


def _about(urn: str) -> tuple[str, str, str]:
    """The urn, the type and the name in it: ``urn:pulumi:stack::project::parent$type::name``."""
    _, _, types, name = urn.split("::", 3)
    return urn, types.rpartition("$")[2], name


def _secret_keys(request: Any) -> frozenset[str]:
    structs = (value for _, value in request.ListFields() if isinstance(value, Struct))
    return frozenset().union(*(decode(struct).secret_keys for struct in structs))


def _difference(difference: Difference) -> Any:
    return provider_pb2.DiffResponse(
        changes=provider_pb2.DiffResponse.DIFF_SOME if difference.changes else provider_pb2.DiffResponse.DIFF_NONE,
        diffs=sorted({str(change.pointer[0]) for change in difference.detailed}),
        detailedDiff={
            path(change.pointer): provider_pb2.PropertyDiff(kind=_KINDS[change.kind, change.replace], inputDiff=True)
            for change in difference.detailed
        },
        hasDetailedDiff=bool(difference.detailed) or not difference.changes,
        replaces=[path(pointer) for pointer in difference.replaces],
        deleteBeforeReplace=difference.delete_before_replace,
    )


def _unsupported(self: Servicer, request: Any, context: grpc.ServicerContext) -> None:
    context.abort(grpc.StatusCode.UNIMPLEMENTED, "holdfast has resources only")


for _name in vars(provider_pb2_grpc.ResourceProviderServicer):
    if not _name.startswith("_") and _name not in vars(Servicer):
        setattr(Servicer, _name, _unsupported)
