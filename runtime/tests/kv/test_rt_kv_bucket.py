"""Reads and writes of one bucket on real servers."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable
from typing import Any

import pytest

from holdfast.contract import BucketSpec
from holdfast.errors import (
    BackPressure,
    CodecError,
    ConfigurationError,
    ConnectionFailed,
    ConsistencyViolation,
    DuplicateKey,
    OperationTimeout,
    Unsupported,
    VersionConflict,
)
from holdfast.kv.bucket import Bucket
from holdfast.kv.entry import WRITE_ID, Entry, Position
from holdfast.kv.messages import EXPECTED, TTL

Run = Callable[..., Any]


@pytest.mark.req("D3.3", "D3.6")
def test_a_write_needs_the_last_revision(any_site: Any, run: Run) -> None:
    async def scenario() -> None:
        async with any_site.bucket() as bucket:
            assert await bucket.get("a.k") is None
            first = await bucket.write("a.k", b"1", expect=0, headers={"Own": "yes"})
            second = await bucket.write("a.k", b"2", expect=first.revision)
            assert second > first
            with pytest.raises(VersionConflict) as caught:
                await bucket.write("a.k", b"3", expect=first.revision)
            assert caught.value.current is not None
            assert (caught.value.current.value, caught.value.current.position) == (b"2", second)
            with pytest.raises(VersionConflict):
                await bucket.write("a.k", b"3", expect=0)
            entry = await bucket.get("a.k")
            assert entry is not None
            assert (entry.key, entry.value, entry.position) == ("a.k", b"2", second)
            assert entry.created_ns > bucket.incarnation

    run(scenario())


@pytest.mark.req("D2.4")
def test_a_delete_leaves_a_tombstone_and_a_create_goes_over_it(any_site: Any, run: Run) -> None:
    async def scenario() -> None:
        async with any_site.bucket() as bucket:
            put = await bucket.create("a.k", b"1")
            with pytest.raises(DuplicateKey):
                await bucket.create("a.k", b"2")
            gone = await bucket.write("a.k", None, expect=put.revision)
            assert await bucket.get("a.k") is None
            head = await bucket.head("a.k")
            assert head is not None
            assert (head.operation, head.value, head.position) == ("delete", None, gone)
            again = await bucket.create("a.k", b"3")
            assert again > gone
            empty = await bucket.write("a.k", b"", expect=again.revision)
            entry = await bucket.get("a.k")
            assert entry is not None
            assert (entry.value, entry.position) == (b"", empty)

    run(scenario())


@pytest.mark.req("D1.1")
def test_a_time_to_live_goes_with_each_write_and_a_create_goes_over_the_marker(any_site: Any, run: Run) -> None:
    async def scenario() -> None:
        settings = {"subject_delete_marker_ttl": 60 * 10**9, "allow_rollup_hdrs": True, "max_msgs_per_subject": 1}
        async with any_site.bucket(**settings) as bucket:
            first = await bucket.create("a.k", b"1", ttl_s=1)
            second = await bucket.write("a.k", b"2", expect=first.revision, ttl_s=1)
            kept = await bucket.write("a.kept", b"2", expect=0, ttl_s=30)
            head = await bucket.head("a.k")
            assert head is not None
            assert head.headers[TTL] == "1s"
            for _ in range(60):
                head = await bucket.head("a.k")
                if head is None or head.operation != "put":
                    break
                await asyncio.sleep(0.1)
            assert head is not None, "the bucket makes markers"
            assert (head.operation, head.value) == ("expired", None)
            assert await bucket.get("a.k") is None
            third = await bucket.create("a.k", b"3")
            assert third > second
            entry = await bucket.get("a.kept")
            assert entry is not None
            assert entry.position == kept

    run(scenario())


@pytest.mark.req("D1.1", "D2.4")
def test_an_expiry_does_not_bring_an_older_value_back(any_site: Any, run: Run) -> None:
    """With history the server shows the next older message again: what would outlive the new one is not overwritten."""

    async def scenario() -> None:
        async with any_site.bucket(max_msgs_per_subject=5) as bucket:
            long = await bucket.create("a.k", b"long")
            with pytest.raises(Unsupported, match="older values"):
                await bucket.write("a.k", b"short", expect=long, ttl_s=1)
            gone = await bucket.write("a.k", None, expect=long)
            short = await bucket.write("a.k", b"1", expect=gone, ttl_s=1)
            shorter = await bucket.write("a.k", b"2", expect=short, ttl_s=1)
            assert shorter > short
            for _ in range(60):
                if await bucket.get("a.k") is None:
                    break
                await asyncio.sleep(0.1)
            await asyncio.sleep(0.5)
            assert await bucket.get("a.k") is None

    run(scenario())


class _Late(Bucket):
    """Its reads are answered by a member that lags, as often as ``lags`` says."""

    lags = 0
    before: Entry | None = None

    async def _newest(self, subject: str) -> Entry | None:
        if self.lags:
            self.lags -= 1
            return self.before
        return await super()._newest(subject)


def test_a_read_older_than_the_own_write_is_repeated(site: Any, run: Run) -> None:
    async def scenario() -> None:
        async with site.bucket(_Late) as bucket:
            first = await bucket.create("a.k", b"1")
            bucket.before = await bucket.get("a.k")
            second = await bucket.write("a.k", b"2", expect=first)
            for lags in (1, 3):
                bucket.lags = lags
                entry = await bucket.get("a.k")
                assert entry is not None
                assert entry.position == second

    run(scenario())


def test_a_bucket_without_times_to_live_for_writes_refuses_what_it_cannot_keep(site: Any, run: Run) -> None:
    async def scenario() -> None:
        async with site.bucket(allow_msg_ttl=False, max_age=60 * 10**9) as bucket:
            for ttl in (30, "never"):
                with pytest.raises(Unsupported, match="no time to live"):
                    await bucket.write("a", b"1", expect=0, ttl_s=ttl)
            await bucket.write("a", b"1", expect=0, ttl_s=60)

    run(scenario())


@pytest.mark.req("D3.3")
def test_eight_racers_never_have_two_winners(any_site: Any, run: Run) -> None:
    async def race(buckets: list[Bucket], expect: int, number: int, subtree: str | None) -> list[int]:
        async def racer(at: int) -> int:
            # With a subtree each racer writes a key of its own: only the wildcard makes them rivals.
            key = f"r.k{at}" if subtree else "r.k"
            try:
                value = f"{number}-{at}".encode()
                return (await buckets[at].write(key, value, expect=expect, subtree=subtree)).revision
            except VersionConflict:
                return 0

        return [revision for revision in await asyncio.gather(*map(racer, range(len(buckets)))) if revision]

    async def scenario() -> None:
        async with any_site.bucket() as first, any_site.client() as client:
            others = [await Bucket.open(client, first.spec) for _ in range(7)]
            for subtree in (None, "r.>"):
                last = await first.last("r.>")
                expect = last.position.revision if last is not None else 0
                for number in range(60):
                    winners = await race([first, *others], expect, number, subtree)
                    assert len(winners) == 1, (number, subtree, winners)
                    expect = winners[0]

    run(scenario())


@pytest.mark.req("D3.3")
def test_a_lost_acknowledgement_is_recognised_by_the_write_id(any_site: Any, run: Run, proxy_of: Any) -> None:
    async def scenario() -> None:
        async with (
            any_site.bucket() as direct,
            proxy_of(any_site.server.port) as proxy,
            any_site.client(proxy.url) as client,
        ):
            bucket = await Bucket.open(client, direct.spec)
            first = await bucket.write("a.k", b"1", expect=0)
            swallowed: list[bytes] = []

            def once(piece: bytes) -> bool:
                if not swallowed and b'"seq":' in piece:
                    swallowed.append(piece)
                    return False
                return True

            proxy.lets = once
            second = await bucket.write("a.k", b"2", expect=first.revision)
            assert swallowed
            head = await direct.head("a.k")
            assert head is not None
            assert (head.value, head.position) == (b"2", second)

            # Lost again, and somebody else is faster than the second attempt.
            swallowed.clear()
            writing = asyncio.ensure_future(bucket.write("a.k", b"3", expect=second.revision))
            while not swallowed:
                await asyncio.sleep(0.01)
            newer = await direct.head("a.k")
            assert newer is not None
            assert newer.value == b"3"
            await direct.write("a.k", b"4", expect=newer.position.revision)
            assert await writing == newer.position

    run(scenario())


@pytest.mark.req("D3.3")
def test_a_lost_attempt_that_another_beat_is_a_conflict(site: Any, run: Run, proxy_of: Any) -> None:
    """The first attempt never arrives; when it is repeated, another write is there."""

    async def scenario() -> None:
        async with (
            site.bucket(max_msgs_per_subject=1) as direct,
            proxy_of(site.server.port) as proxy,
            site.client(proxy.url) as client,
        ):
            bucket = await Bucket.open(client, direct.spec)
            first = await direct.write("a.k", b"1", expect=0)
            site.server.pause()
            writing = asyncio.ensure_future(bucket.write("a.k", b"mine", expect=first.revision))
            await asyncio.sleep(0.1)
            proxy.cut()
            await asyncio.sleep(0.1)
            site.server.go_on()
            with _Rivals() as seen:
                other = await direct.write("a.k", b"2", expect=first.revision)
                seen.append(other)
            outcome = (await asyncio.gather(writing, return_exceptions=True))[0]
            head = await direct.head("a.k")
            assert head is not None
            # Exactly one of the two was stored, and both know which.
            if seen:
                assert isinstance(outcome, VersionConflict)
                assert head.value == b"2"
            else:
                assert outcome == head.position
                assert head.value == b"mine"

    run(scenario())


class _Rivals:
    """Lets a VersionConflict pass; what the block noted tells whether it got through."""

    def __enter__(self) -> list[Any]:
        return []

    def __exit__(self, kind: Any, error: Any, trace: Any) -> bool:
        return kind is not None and issubclass(kind, VersionConflict)


def test_a_cancelled_write_knows_its_outcome(site: Any, run: Run, proxy_of: Any) -> None:
    async def scenario() -> None:
        async with (
            site.bucket() as direct,
            proxy_of(site.server.port) as proxy,
            site.client(proxy.url) as client,
        ):
            bucket = await Bucket.open(client, direct.spec)
            swallowed: list[bytes] = []

            def once(piece: bytes) -> bool:
                if not swallowed and b'"seq":' in piece:
                    swallowed.append(piece)
                    return False
                return True

            proxy.lets = once
            write = bucket.prepare("a.k", b"1", expect=0)
            task = asyncio.ensure_future(bucket.perform(write))
            while not swallowed:
                await asyncio.sleep(0.01)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            head = await direct.head("a.k")
            assert head is not None
            assert write.position == head.position

    run(scenario())


def test_an_unknown_outcome_is_said_to_be_unknown(site: Any, run: Run, proxy_of: Any) -> None:
    async def scenario() -> None:
        async with (
            site.bucket() as direct,
            proxy_of(site.server.port) as proxy,
            site.client(proxy.url) as client,
        ):
            bucket = await Bucket.open(client, direct.spec, timeout_s=0.5)
            proxy.lets = lambda piece: False
            with pytest.raises(OperationTimeout, match="unknown") as caught:
                await bucket.write("a.k", b"1", expect=0)
            assert caught.value.retryable
            assert "127.0.0.1" not in str(caught.value)
        await client.close()
        with pytest.raises(ConnectionFailed):
            await bucket.write("a.k", b"1", expect=0)

    run(scenario())


def test_a_full_bucket_and_a_large_value(site: Any, run: Run) -> None:
    async def scenario() -> None:
        async with site.bucket(max_bytes=4096, max_msg_size=2048) as bucket:
            with pytest.raises(CodecError, match="larger"):
                await bucket.write("a.k", bytes(4000), expect=0)
            for number in range(3):
                await bucket.write(f"a.k{number}", bytes(1000), expect=0)
            with pytest.raises(BackPressure, match="full"):
                await bucket.write("a.k9", bytes(1000), expect=0)

    run(scenario())


def test_a_bucket_that_is_not_there(site: Any, run: Run) -> None:
    async def scenario() -> None:
        async with site.client() as client:
            with pytest.raises(ConfigurationError, match="holdfast apply"):
                await Bucket.open(client, BucketSpec(name="NOWHERE"))

    run(scenario())


@pytest.mark.req("D3.3", "D3.6")
def test_a_counter_counts_exactly_over_crashes(any_site: Any, run: Run, tell: Run) -> None:
    """Four clients add one under compare-and-set while servers are killed: what was acknowledged was counted once."""

    async def scenario() -> None:
        async with any_site.bucket(max_msgs_per_subject=1) as bucket, any_site.client() as client:
            other = await Bucket.open(client, bucket.spec, timeout_s=bucket.timeout_s)
            counts = {"acknowledged": 0, "unknown": 0, "conflicts": 0}
            done = asyncio.Event()
            await bucket.create("n", b"0")

            async def add(through: Bucket) -> None:
                entry = await through.get("n")
                while not done.is_set():
                    assert entry is not None
                    try:
                        await through.write("n", str(int(entry.value or b"") + 1).encode(), expect=entry.position)
                        counts["acknowledged"] += 1
                    except VersionConflict as error:
                        counts["conflicts"] += 1
                        entry = error.current
                        continue
                    except (OperationTimeout, ConnectionFailed):
                        counts["unknown"] += 1
                    entry = await through.get("n")

            adding = [asyncio.ensure_future(add(through)) for through in (bucket, bucket, other, other)]
            for number in range(4):
                await asyncio.sleep(0.5)
                server = any_site.servers[number % len(any_site.servers)]
                server.kill()
                await asyncio.sleep(0.2)
                await asyncio.to_thread(server.start)
                await asyncio.sleep(0 if len(any_site.servers) == 1 else 3)
            await asyncio.sleep(1)
            done.set()
            await asyncio.gather(*adding)
            entry = await bucket.get("n")
            assert entry is not None
            tell(counts, "counted", int(entry.value or b""))
            excess = int(entry.value or b"") - counts["acknowledged"]
            assert 0 <= excess <= counts["unknown"]
            assert counts["acknowledged"] > 100

    run(scenario())


@pytest.mark.req("D2.2")
def test_all_heads_in_one_pass(any_site: Any, run: Run) -> None:
    async def scenario() -> None:
        async with any_site.bucket() as bucket:
            assert [entry async for entry in bucket.entries()] == []
            positions: dict[str, Position] = {}
            for number in range(700):
                key = f"a{number % 7}.k{number % 350}"
                last = positions.get(key)
                positions[key] = await bucket.write(key, str(number).encode(), expect=last.revision if last else 0)
            gone = await bucket.write("a0.k0", None, expect=positions["a0.k0"].revision)
            positions["a0.k0"] = gone
            seen = {entry.key: entry async for entry in bucket.entries()}
            assert {key: entry.position for key, entry in seen.items()} == positions
            assert seen["a0.k0"].operation == "delete"
            below = {entry.key async for entry in bucket.entries("a3.>")}
            assert below == {key for key in positions if key.startswith("a3.")}
            assert [entry async for entry in bucket.entries("none.>")] == []
            last_entry = await bucket.last("a0.>")
            assert last_entry is not None
            assert last_entry.position == gone

    run(scenario())


@pytest.mark.req("D2.5")
def test_a_rebuilt_bucket_is_noticed_and_old_revisions_are_refused(any_site: Any, run: Run) -> None:
    async def scenario() -> None:
        async with any_site.bucket() as bucket, any_site.client() as other:
            told: list[int] = []
            bucket.on_rebuilt(told.append)
            old = bucket.incarnation
            first = await bucket.write("a.k", b"1", expect=0)
            await any_site.drop(other)
            await any_site.make(other)
            newer = await Bucket.open(other, bucket.spec)
            assert newer.incarnation > old
            # The new bucket happens to hold the key at the very revision that the old one gave.
            same = await newer.write("a.k", b"theirs", expect=0)
            assert same.revision == first.revision
            assert same > first
            with pytest.raises(VersionConflict):
                await bucket.write("a.k", b"2", expect=first)
            assert bucket.incarnation == newer.incarnation
            assert told == [newer.incarnation]
            entry = await bucket.get("a.k")
            assert entry is not None
            assert (entry.value, entry.position) == (b"theirs", same)

    run(scenario())


@pytest.mark.req("D3.3")
@pytest.mark.soak
@pytest.mark.parametrize("line", ["2.12", "latest"])
def test_no_stale_read_after_an_own_write(site_of: Any, run: Run, line: str) -> None:
    """Three replicas with direct reads on: a read through followers is stale here in some three of a hundred."""

    async def scenario() -> None:
        site = site_of(line, 3)
        async with site.bucket(allow_direct=True) as bucket:
            load = asyncio.ensure_future(_load(bucket))
            expect = 0
            for number in range(2500):
                position = await bucket.write("a.k", str(number).encode(), expect=expect)
                entry = await bucket.get("a.k")
                assert entry is not None
                assert (entry.value, entry.position) == (str(number).encode(), position)
                expect = position.revision
            load.cancel()

    async def _load(bucket: Bucket) -> None:
        number = 0
        while True:
            await asyncio.gather(*(bucket.create(f"load.k{number}.{at}", bytes(500)) for at in range(16)))
            number += 1

    run(scenario(), 300)


@pytest.mark.soak
def test_an_old_server_is_refused_by_its_version(site_of: Any, run: Run) -> None:
    async def scenario() -> None:
        async with site_of("2.10").bucket() as bucket:
            first = await bucket.write("a.k", b"1", expect=0)
            assert first.revision == 1
            with pytest.raises(Unsupported, match=r"2\.11"):
                await bucket.write("a.k", b"2", expect=first.revision, subtree="a.>")

    run(scenario())


def test_each_write_has_an_id_of_its_own(site: Any, run: Run) -> None:
    async def scenario() -> None:
        async with site.bucket() as bucket:
            one, two = bucket.prepare("a", b"", expect=0), bucket.prepare("a", b"", expect=0)
            assert one.headers[WRITE_ID] != two.headers[WRITE_ID]
            assert one.headers[EXPECTED] == "0"

    run(scenario())


@pytest.mark.req("D3.3", "F1.1")
def test_a_bucket_that_goes_back_is_used_no_more_until_it_is_rebuilt(site_of: Any, run: Run) -> None:
    """An older store in its place stands for a machine that lost power before it had synced."""

    async def scenario() -> None:
        site = site_of(name="power")
        store, copy = site.server.home / "js", site.server.home / "copy"
        async with site.bucket() as bucket, site.client() as client:
            first = await bucket.write("a.k", b"1", expect=0)
            site.server.kill()
            shutil.copytree(store, copy)
            site.server.start()
            last = first
            for _ in range(5):
                last = await bucket.write("a.k", b"2", expect=last)
            site.server.kill()
            shutil.rmtree(store)
            shutil.copytree(copy, store)
            site.server.start()
            for _ in range(3):
                with pytest.raises(ConsistencyViolation, match="holdfast apply"):
                    await bucket.write("a.other", b"3", expect=0)
            assert bucket.missing == last
            # Who has not seen what was lost, and is told of it by the database.
            other = await Bucket.open(client, bucket.spec)
            await other.require(first)
            with pytest.raises(ConsistencyViolation):
                await other.require(last)
            with pytest.raises(ConsistencyViolation):
                await other.get("a.k")
            await site.drop(client)
            await site.make(client)
            for one in (bucket, other):
                assert (await one.write(f"a.{one is other}", b"4", expect=0)).incarnation > last.incarnation

    run(scenario())


@pytest.mark.req("D3.3")
def test_a_bucket_that_was_made_before_the_one_that_was_known_is_refused_again_and_again(site: Any, run: Run) -> None:
    async def scenario() -> None:
        async with site.bucket() as bucket:
            bucket.incarnation += 10**18  # as if a server's clock had gone back between the two
            with pytest.raises(ConsistencyViolation):
                await bucket.refresh_incarnation()
            for _ in range(2):
                with pytest.raises(ConsistencyViolation):
                    await bucket.write("a.k", b"1", expect=0)

    run(scenario())


def test_a_bucket_in_memory_may_begin_again(site: Any, run: Run) -> None:
    """As in a cluster whose member with the stream was restarted."""

    async def scenario() -> None:
        async with site.bucket(storage="memory") as bucket:
            bucket._highest = 10**6
            write = bucket.prepare("a.k", b"1", expect=0)
            assert (await bucket.perform(write)).revision < write.floor
            assert await bucket.refresh_incarnation() == write.incarnation

    run(scenario())


@pytest.mark.req("D1.5")
def test_the_heads_after_a_position_are_the_newer_ones(site: Any, run: Run) -> None:
    async def scenario() -> None:
        async with site.bucket() as bucket:
            for number in range(20):
                middle = await bucket.write(f"a.k{number}", b"1", expect=0)
            assert [entry async for entry in bucket.entries(after=middle)] == []
            await bucket.write("a.new", b"1", expect=0)
            assert [entry.key async for entry in bucket.entries(after=middle)] == ["a.new"]

    run(scenario())
