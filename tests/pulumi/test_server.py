"""A provider over a real channel, and the life of its process."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest
from google.protobuf.empty_pb2 import Empty
from google.protobuf.json_format import MessageToDict, ParseDict
from google.protobuf.struct_pb2 import Struct
from pulumi.runtime.proto import plugin_pb2, provider_pb2, provider_pb2_grpc

from provision.pulumi import protocol
from provision.pulumi.codec import decode
from provision.pulumi.logs import Log
from provision.pulumi.main import main
from provision.pulumi.servicer import one_line, semver
from provision.spec.errors import ConsentError, InputError, OperationError
from tests.pulumi.conftest import Engine, Served

SIGNATURE = "4dabf18193072939515e22adb298388d"
SECRET = {SIGNATURE: "1b47061264138c4ac30d75fd1eb44270", "value": "hunter2"}
UNKNOWN = "04da6b54-80e4-46f7-96ec-b56ff0331ba9"
ROOT = Path(__file__).parents[2]


def struct(**values: Any) -> Struct:
    return ParseDict(values, Struct())


def refusal(call: Callable[[], Any]) -> tuple[grpc.StatusCode, str | None]:
    """The code and the line with which a call ends."""
    with pytest.raises(grpc.RpcError) as caught:
        call()
    return caught.value.code(), caught.value.details()


# The provider itself -----------------------------------------------------------------------------------------


def test_the_engine_learns_what_the_provider_can_do(served: Served) -> None:
    shaken = served.stub.Handshake(provider_pb2.ProviderHandshakeRequest(engine_address="127.0.0.1:1"))
    assert (shaken.accept_secrets, shaken.accept_resources, shaken.accept_outputs) == (True, False, False)
    configured = served.stub.Configure(provider_pb2.ConfigureRequest(args=struct(shelf="top", tokens='{"a": "b"}')))
    assert (configured.acceptSecrets, configured.supportsPreview) == (True, True)
    assert (configured.acceptResources, configured.acceptOutputs) == (False, False)
    assert served.notes.config == {"shelf": "top", "tokens": {"a": "b"}}
    assert served.stub.GetPluginInfo(Empty()).version == "1.2.0-dev.3"
    assert '"notes"' in served.stub.GetSchema(provider_pb2.GetSchemaRequest()).schema


def test_what_the_provider_has_not_is_said_to_be_unimplemented(
    served: Served, capfd: pytest.CaptureFixture[str]
) -> None:
    code, text = refusal(lambda: served.stub.Invoke(provider_pb2.InvokeRequest(tok="notes:index:get")))
    assert (code, text) == (grpc.StatusCode.UNIMPLEMENTED, "holdfast has resources only")
    assert capfd.readouterr() == ("", "")


@pytest.mark.req("B3.3")
def test_configuration_is_checked_and_its_secrets_marked(served: Served) -> None:
    news = struct(topics='["a"]', tokens='{"x": "hunter2"}', version="1.0.0", pluginDownloadURL="u")
    checked = MessageToDict(served.stub.CheckConfig(provider_pb2.CheckRequest(news=news)))
    assert checked["failures"] == [{"reason": "shelf: is missing"}]
    assert checked["inputs"] == {
        "topics": ["a"],
        "tokens": {**SECRET, "value": {"x": "hunter2"}},
        "version": "1.0.0",
        "pluginDownloadURL": "u",
    }


def test_configuration_is_compared_in_whatever_form_it_comes(served: Served) -> None:
    def difference(old: Struct, new: Struct) -> Any:
        return served.stub.DiffConfig(provider_pb2.DiffRequest(old_inputs=old, news=new))

    same = difference(struct(shelf="top", topics=["a"]), struct(shelf="top", topics='["a"]', version="2"))
    assert same.changes == provider_pb2.DiffResponse.DIFF_NONE
    moved = difference(struct(shelf="top"), struct(shelf="low"))
    assert (moved.changes, list(moved.replaces)) == (provider_pb2.DiffResponse.DIFF_SOME, ["shelf"])
    assert not moved.deleteBeforeReplace


# Resources ---------------------------------------------------------------------------------------------------


def test_check_gives_the_inputs_and_every_failure(served: Served) -> None:
    news = struct(title="a b", lines=["x", ""], fail="whole", __defaults=[])
    response = served.stub.Check(provider_pb2.CheckRequest(urn=served.urn, news=news, olds=struct()))
    assert decode(response.inputs).values == {"title": "a b", "lines": ["x", ""], "fail": "whole"}
    assert [(f.property, f.reason) for f in response.failures] == [
        ("title", "has a blank, ***"),
        ("", "lines[1]: is empty"),
        ("", "makes no sense"),
    ]
    request = served.notes.requests[0]
    assert (request.type, request.name, request.olds) == ("notes:index:Note", "first", None)


def test_the_engine_is_not_told_to_print_a_secret_input(served: Served) -> None:
    news = struct(title={**SECRET, "value": "a b"})
    response = served.stub.Check(provider_pb2.CheckRequest(urn=served.urn, news=news))
    assert [(f.property, f.reason) for f in response.failures] == [("", "title: has a blank, ***")]


def test_a_name_may_hold_the_marks_of_a_urn(served: Served) -> None:
    urn = "urn:pulumi:dev::app::notes:index:Note::a::b$c"
    served.stub.Check(provider_pb2.CheckRequest(urn=urn, news=struct(title="t"), olds=struct(title="s")))
    request = served.notes.requests[0]
    assert (request.urn, request.type, request.name) == (urn, "notes:index:Note", "a::b$c")
    assert request.olds == {"title": "s"}


def test_a_difference_names_its_properties_and_its_kinds(served: Served) -> None:
    response = served.stub.Diff(
        provider_pb2.DiffRequest(
            urn=served.urn,
            id="one",
            old_inputs=struct(title="a", lines=[], gone=1),
            olds=struct(title="a", length=0),
            news=struct(title="b", lines=[], new=UNKNOWN),
            ignoreChanges=['lines[0]["a.b"]'],
        )
    )
    kinds = provider_pb2.PropertyDiff
    assert {path: (diff.kind, diff.inputDiff) for path, diff in response.detailedDiff.items()} == {
        "gone": (kinds.DELETE, True),
        "new": (kinds.ADD, True),
        "title": (kinds.UPDATE_REPLACE, True),
    }
    assert response.changes == provider_pb2.DiffResponse.DIFF_SOME
    assert (list(response.diffs), list(response.replaces)) == (["gone", "new", "title"], ["title"])
    assert response.hasDetailedDiff
    assert response.deleteBeforeReplace
    request = served.notes.requests[0]
    assert request.news["new"] is protocol.UNKNOWN
    assert request.ignore_changes == (("lines", 0, "a.b"),)
    assert request.olds == {"title": "a", "length": 0}


def test_a_preview_has_unknowns_in_and_out(served: Served, engine: Engine) -> None:
    properties = struct(title="t", lines=[UNKNOWN])
    response = served.stub.Create(provider_pb2.CreateRequest(urn=served.urn, properties=properties, preview=True))
    assert MessageToDict(response.properties) == {"title": "t", "lines": [UNKNOWN], "length": UNKNOWN}
    assert served.notes.requests[0].inputs == {"title": "t", "lines": [protocol.UNKNOWN]}
    assert [(line.message, line.urn) for line in engine.lines] == [("would write t, ***", served.urn)]


@pytest.mark.req("B3.1", "B3.3")
def test_a_resource_lives_from_create_to_delete_with_its_secrets_marked(served: Served) -> None:
    inputs = struct(title="one", lines=["a"], pin=SECRET)
    created = served.stub.Create(provider_pb2.CreateRequest(urn=served.urn, properties=inputs, timeout=90))
    assert (created.id, served.notes.requests[-1].timeout_s) == ("one", 90)
    assert MessageToDict(created.properties) == {"title": "one", "lines": ["a"], "pin": SECRET, "length": 1}

    known: dict[str, Any] = {"urn": served.urn, "id": "one"}
    read = served.stub.Read(provider_pb2.ReadRequest(**known, inputs=inputs, properties=created.properties))
    assert MessageToDict(read.inputs) == {"title": "one", "lines": ["a"], "pin": SECRET}
    assert MessageToDict(read.properties) == MessageToDict(created.properties)
    imported = served.stub.Read(provider_pb2.ReadRequest(**known))
    assert (imported.id, served.notes.requests[-1].inputs) == ("one", {})

    news = struct(title="one", lines=[], pin=SECRET)
    updated = served.stub.Update(
        provider_pb2.UpdateRequest(**known, olds=created.properties, old_inputs=inputs, news=news)
    )
    assert MessageToDict(updated.properties) == {"title": "one", "lines": [], "pin": SECRET, "length": 0}
    assert served.notes.requests[-1].timeout_s is None

    served.stub.Delete(provider_pb2.DeleteRequest(**known, properties=updated.properties, old_inputs=news))
    assert served.notes.requests[-1].properties["length"] == 0
    gone = served.stub.Read(provider_pb2.ReadRequest(**known))
    assert not gone.id
    assert not gone.HasField("properties")


# Errors ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fail", "code", "text"),
    [
        ("input", grpc.StatusCode.INVALID_ARGUMENT, "the note is odd. Write another."),
        ("server", grpc.StatusCode.UNAVAILABLE, "nobody answers at tcp://notes:***@host"),
        ("operation", grpc.StatusCode.FAILED_PRECONDITION, "refused."),
    ],
)
@pytest.mark.req("B3.3")
def test_an_error_is_one_line_without_a_secret(served: Served, fail: str, code: grpc.StatusCode, text: str) -> None:
    inputs = struct(title="t", lines=[], fail=fail)
    request = provider_pb2.CreateRequest(urn=served.urn, properties=inputs)
    assert refusal(lambda: served.stub.Create(request)) == (code, text)


def test_our_own_bug_is_one_line_that_says_so_and_where(served: Served, capfd: pytest.CaptureFixture[str]) -> None:
    request = provider_pb2.CreateRequest(urn=served.urn, properties=struct(title="t", lines=[], fail="bug"))
    code, text = refusal(lambda: served.stub.Create(request))
    assert code == grpc.StatusCode.INTERNAL
    assert text
    assert re.fullmatch(r"KeyError: '\*\*\*' \(notes\.py:\d+\); this is a bug in holdfast", text)
    assert capfd.readouterr() == ("", "")


def test_a_value_that_cannot_be_read_names_its_property(served: Served) -> None:
    inputs = struct(title="t", lines=[{SIGNATURE: "c44067f5952c0a294b673a41bacd8c17"}])
    code, text = refusal(lambda: served.stub.Check(provider_pb2.CheckRequest(urn=served.urn, news=inputs)))
    assert code == grpc.StatusCode.INVALID_ARGUMENT
    assert text == "lines[0] is an asset: not taken here. Give its text or its path as a string."


@pytest.mark.req("B3.3")
def test_half_made_is_told_with_what_is_there(served: Served) -> None:
    inputs = struct(title="t", lines=["x" * 300], fail="half", pin=SECRET)
    with pytest.raises(grpc.RpcError) as caught:
        served.stub.Create(provider_pb2.CreateRequest(urn=served.urn, properties=inputs))
    (metadata,) = [item for item in caught.value.trailing_metadata() if item.key == "grpc-status-details-bin"]
    # One SDK brings google.rpc, another a copy of its own.
    module = "google.rpc.status_pb2" if find_spec("google.rpc") else "pulumi.runtime.proto.status_pb2"
    status = import_module(module).Status.FromString(metadata.value)
    detail = provider_pb2.ErrorResourceInitFailed()
    assert status.code == caught.value.code().value[0]
    assert status.message == caught.value.details() == "ink ran out, ***; so did paper"
    assert status.details[0].Unpack(detail)
    assert (detail.id, list(detail.reasons)) == ("t", ["ink ran out, ***", "so did paper"])
    assert MessageToDict(detail.inputs) == MessageToDict(inputs)
    assert MessageToDict(detail.properties) == {**MessageToDict(inputs), "length": 0}


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (OperationError("no"), "no"),
        (InputError("a\n  b", "Do c."), "a b. Do c."),
        (InputError("Really?", "Do c."), "Really? Do c."),
        (
            ConsentError(("data_loss:pg:main/a/b",)),
            "a consent is missing; nothing was changed. Read the plan, then add: --allow data_loss:pg:main/a/b",
        ),
    ],
)
def test_an_error_and_its_remedy_share_a_line(error: Exception, line: str) -> None:
    assert one_line(error) == line


@pytest.mark.parametrize(
    ("python", "engine"), [("0.1.0", "0.1.0"), ("0.2.0rc1", "0.2.0-rc.1"), ("1.0.0.dev4+g1", "1.0.0-dev.4+g1")]
)
def test_versions_are_told_as_the_engine_reads_them(python: str, engine: str) -> None:
    assert semver(python) == engine


# Many calls, and the log -------------------------------------------------------------------------------------


def test_cancel_is_heard_while_many_calls_wait(served: Served) -> None:
    request = provider_pb2.CreateRequest(urn=served.urn, properties=struct(title="t", lines=[], fail="slow"))
    with ThreadPoolExecutor(100) as calls:
        waiting = [calls.submit(refusal, lambda: served.stub.Create(request)) for _ in range(100)]
        until(lambda: len(served.notes.requests) == 100)
        served.stub.Cancel(Empty())
        ends = [call.result(10) for call in waiting]
    assert set(ends) == {(grpc.StatusCode.FAILED_PRECONDITION, "cancelled half way")}


def test_the_log_follows_the_engine_that_attaches(served: Served) -> None:
    other = Engine()
    served.stub.Attach(plugin_pb2.PluginAttach(address=other.address))
    served.screen.warn("to the other")
    served.screen.status("working")
    assert [(line.message, line.severity, line.ephemeral) for line in other.lines] == [
        ("to the other", 2, False),
        ("working", 1, True),
    ]
    other.stop()


@pytest.mark.parametrize("address", ["", "127.0.0.1:1", "no address at all"])
def test_a_log_without_an_engine_never_fails(address: str) -> None:
    Log(address).warn("said to nobody")


# The process -------------------------------------------------------------------------------------------------


class Plugin:
    """The provider of notes in a process of its own."""

    def __init__(self, folder: Path, *arguments: str, through: tuple[str, ...] = ()) -> None:
        self.store = folder / "notes.json"
        environment = os.environ | {"NOTES": str(self.store), "PYTHONPATH": str(ROOT)}
        command = [*through, sys.executable, "-m", "tests.pulumi.notes", *arguments]
        before = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # tests that run under nohup would pass it on
        self.process = subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
        )
        signal.signal(signal.SIGHUP, before)
        assert self.process.stdout is not None
        self.first_line = self.process.stdout.readline()
        self.channel = grpc.insecure_channel(f"127.0.0.1:{self.first_line.strip()}")
        self.stub = provider_pb2_grpc.ResourceProviderStub(self.channel)

    def begin(self, fail: str) -> Any:
        """Call Create and return the call under way."""
        urn = "urn:pulumi:dev::app::notes:index:Note::first"
        call = self.stub.Create.future(
            provider_pb2.CreateRequest(urn=urn, properties=struct(title="t", lines=[], fail=fail))
        )
        until(self.store.with_suffix(".slow").exists)
        return call

    @property
    def closed(self) -> bool:
        return self.store.with_suffix(".closed").exists()


def until(true: Callable[[], Any], timeout_s: float = 20) -> None:
    deadline = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.02)


@pytest.fixture
def plugin(tmp_path: Path) -> Iterator[Callable[..., Plugin]]:
    """Start the provider's process; what is left of it ends with the test."""
    started: list[Plugin] = []

    def start(*arguments: str, through: tuple[str, ...] = ()) -> Plugin:
        started.append(Plugin(tmp_path, *arguments, through=through))
        return started[-1]

    yield start
    for one in started:
        one.channel.close()
        one.process.kill()
        one.process.communicate()


def test_stdout_has_the_port_and_nothing_else(plugin: Callable[..., Plugin]) -> None:
    running = plugin("-v=1")
    assert re.fullmatch(r"\d+\n", running.first_line)
    assert running.stub.GetPluginInfo(Empty()).version == "1.2.0-dev.3"
    request = provider_pb2.CreateRequest(urn="a::b::c::d", properties=struct(title="t", fail="bug"))
    assert refusal(lambda: running.stub.Create(request))[0] == grpc.StatusCode.INTERNAL
    running.process.send_signal(signal.SIGTERM)
    out, err = running.process.communicate(timeout=20)
    assert out == ""
    assert "noise of a library" in err
    assert "noise of a child" in err
    assert "Traceback" in err
    assert "hunter2" not in err
    assert running.process.returncode == 0
    assert running.closed


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_it_in_order_with_calls_under_way(plugin: Callable[..., Plugin], number: int) -> None:
    running = plugin()
    call = running.begin("slow")
    running.process.send_signal(number)
    assert refusal(call.result) == (grpc.StatusCode.FAILED_PRECONDITION, "cancelled half way")
    assert running.process.wait(20) == 0
    assert running.closed


def test_a_stuck_call_does_not_outlast_the_engines_patience(plugin: Callable[..., Plugin]) -> None:
    running = plugin()
    call = running.begin("stuck")
    start = time.monotonic()
    running.process.send_signal(signal.SIGINT)
    assert running.process.wait(20) == 1
    assert 2.5 < time.monotonic() - start < 4.5
    assert refusal(call.result)[0] in (grpc.StatusCode.CANCELLED, grpc.StatusCode.UNAVAILABLE)
    assert running.closed


def test_it_ends_when_its_parent_is_killed(plugin: Callable[..., Plugin]) -> None:
    parent = plugin(through=("sh", "-c", '"$@" & wait', "sh"))
    (child,) = psutil.Process(parent.process.pid).children()
    assert parent.stub.GetPluginInfo(Empty()).version
    parent.process.kill()
    parent.process.wait()
    until(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)
    assert parent.closed


def test_it_ends_when_its_engine_is_gone_but_not_the_parent(plugin: Callable[..., Plugin]) -> None:
    with socket.socket() as engine:
        engine.bind(("127.0.0.1", 0))
        engine.listen()
        running = plugin(f"127.0.0.1:{engine.getsockname()[1]}")
        time.sleep(3)
        assert running.process.poll() is None
    assert running.process.wait(20) == 0
    assert running.closed


# The program -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("option", "says"), [("--version", "pulumi-resource-holdfast 0."), ("-h", "starts it by itself")]
)
def test_people_are_answered(option: str, says: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main([option])
    assert says in " ".join(capsys.readouterr().out.split())


def test_a_missing_sdk_is_one_line() -> None:
    code = "import sys; sys.modules['pulumi'] = None; from provision.pulumi.main import main; sys.exit(main([]))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "The provider needs Pulumi's Python SDK. Run: pip install 'holdfast-provision[pulumi]'\n"
