"""Leases and the fence: whoever was taken over writes nothing any more, on any key."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest

from holdfast.errors import CodecError, ConfigurationError, Fenced, LeaseHeld, Unsupported, VersionConflict
from holdfast.kv.bucket import Bucket
from holdfast.kv.entry import EPOCH, VERSION, Position
from holdfast.kv.lease import Lease, acquire
from holdfast.kv.messages import TTL
from holdfast.kv.subtree import SubtreeWriter

Run = Callable[..., Any]


async def _paused(lease: Lease) -> Lease:
    """As if the owner's process had stopped: nothing is renewed, and it knows nothing."""
    await lease.stop_renewing()
    return lease


def test_a_lease_is_held_by_one_and_tells_who(any_site: Any, run: Run) -> None:
    async def scenario() -> None:
        async with any_site.bucket() as bucket:
            async with await acquire(bucket, "a1", "first", ttl_s=5) as lease:
                held = [lease.held]
                head = await bucket.get("a1.lease")
                assert head is not None
                assert (lease.epoch, head.headers[TTL]) == (head.position, "never")
                said = json.loads(head.value or b"")
                assert (said["holder"], said["lasts_s"], said["epoch"]) == ("first", 5, None)
                with pytest.raises(LeaseHeld) as caught:
                    await acquire(bucket, "a1", "second", ttl_s=5)
                assert (caught.value.holder, caught.value.until, caught.value.retryable) == (
                    "first",
                    head.created_ns / 1e9 + 5,
                    True,
                )
                other = await acquire(bucket, "a2", "second", ttl_s=5)
                await other.release()
                epoch = lease.epoch
                await lease.renew()
                assert lease.epoch == epoch
                renewed = await bucket.get("a1.lease")
                assert renewed is not None
                assert renewed.position > epoch
                assert json.loads(renewed.value or b"")["epoch"] == str(epoch)
            assert [*held, lease.held] == [True, False]
            assert lease.lost.is_set()
            again = await acquire(bucket, "a1", "second", ttl_s=5)
            assert again.epoch > epoch
            with pytest.raises(Fenced):
                await lease.writer.write("a1.k", b"late")
            await again.release()

    run(scenario())


def test_a_waiting_owner_gets_the_lease_when_it_ends(site: Any, run: Run) -> None:
    async def scenario() -> None:
        async with site.bucket() as bucket:
            first = await acquire(bucket, "a", "first", ttl_s=30)
            waiting = asyncio.ensure_future(acquire(bucket, "a", "second", ttl_s=30, wait_s=10))
            await asyncio.sleep(0.3)
            assert not waiting.done()
            await first.release()
            second = await asyncio.wait_for(waiting, 2)
            assert second.epoch > first.epoch
            await second.release()

    run(scenario())


def test_eight_takers_one_owner(any_site: Any, run: Run) -> None:
    async def scenario() -> None:
        async with any_site.bucket() as bucket:
            for number in range(10):
                takers = [acquire(bucket, f"a{number}", f"t{at}", ttl_s=30) for at in range(8)]
                got = await asyncio.gather(*takers, return_exceptions=True)
                leases = [lease for lease in got if isinstance(lease, Lease)]
                assert len(leases) == 1, got
                assert all(isinstance(error, (LeaseHeld, VersionConflict)) for error in got if error is not leases[0])
                await leases[0].release()

    run(scenario())


@pytest.mark.req("D3.6")
def test_the_writer_tells_epoch_incarnation_and_version(any_site: Any, run: Run) -> None:
    async def scenario() -> None:
        async with any_site.bucket() as bucket, await acquire(bucket, "a", "me", ttl_s=30) as lease:
            writer = SubtreeWriter(bucket, "a", lease)
            for expected in (1, 2):
                position = await writer.write("a.state.k", b"v", headers={"Own": "x"})
                entry = await bucket.get("a.state.k")
                assert entry is not None
                assert entry.position == position
                assert (entry.headers[EPOCH], entry.headers["Own"]) == (str(lease.epoch), "x")
                assert Position.parse(entry.headers[EPOCH]).incarnation == bucket.incarnation
                assert entry.headers[VERSION] == str(expected)
            await asyncio.gather(*(writer.write(f"a.state.k{at}", b"v") for at in range(20)), lease.renew())
            await writer.write("a.state.k", None)
            tombstone = await bucket.head("a.state.k")
            assert tombstone is not None
            assert (tombstone.operation, tombstone.headers[VERSION]) == ("delete", "3")
            await writer.write("a.state.k", b"v", headers={VERSION: "41"})
            await writer.write("a.state.k", b"v")
            entry = await bucket.get("a.state.k")
            assert entry is not None
            assert entry.headers[VERSION] == "42"
            for key in ("b.k", "a.lease", "a"):
                with pytest.raises(CodecError):
                    await writer.write(key, b"v")
            with pytest.raises(ConfigurationError):
                SubtreeWriter(bucket, "b", lease)

    run(scenario())


def test_versions_go_on_under_the_next_owner(site: Any, run: Run) -> None:
    async def scenario() -> None:
        async with site.bucket() as bucket:
            for expected in ("1", "2"):
                async with await acquire(bucket, "a", "me", ttl_s=30) as lease:
                    await lease.writer.write("a.k", b"v")
                    entry = await bucket.get("a.k")
                    assert entry is not None
                    assert entry.headers[VERSION] == expected

    run(scenario())


@pytest.mark.req("D3.3")
def test_a_paused_owner_is_refused_on_a_key_its_successor_never_touched(any_site: Any, run: Run) -> None:
    async def scenario() -> None:
        async with any_site.bucket() as bucket, any_site.client() as client:
            old = await _paused(await acquire(bucket, "a", "old", ttl_s=0.3))
            await old.writer.write("a.k", b"old")
            await asyncio.sleep(0.35)
            assert not old.held
            assert not old.lost.is_set()
            elsewhere = await Bucket.open(client, bucket.spec)
            new = await acquire(elsewhere, "a", "new", ttl_s=30)
            assert new.epoch > old.epoch
            for key in ("a.k", "a.never-touched"):
                with pytest.raises(Fenced):
                    await old.writer.write(key, b"late")
            assert old.lost.is_set()
            with pytest.raises(Fenced):
                await old.renew()
            await old.release()
            entry = await bucket.get("a.k")
            assert entry is not None
            assert entry.value == b"old"
            assert await bucket.get("a.never-touched") is None
            assert new.held
            await new.release()

    run(scenario())


@pytest.mark.req("D3.3")
def test_a_lease_that_outlives_the_buckets_time_still_fences(any_site: Any, run: Run) -> None:
    """Twice the bucket's time and twice its own have passed: all but the lease has expired, and the fence stands."""

    async def scenario() -> None:
        async with any_site.bucket(max_age=10**9) as bucket, any_site.client() as client:
            old = await _paused(await acquire(bucket, "a", "old", ttl_s=0.5))
            await old.writer.write("a.k", b"old")
            await asyncio.sleep(0.6)
            elsewhere = await Bucket.open(client, bucket.spec)
            new = await acquire(elsewhere, "a", "new", ttl_s=0.5)
            await new.writer.write("a.k", b"new")
            await _paused(new)
            for _ in range(50):
                await asyncio.sleep(0.1)
                if await bucket.head("a.k") is None:
                    break
            await asyncio.sleep(1)
            last = await bucket.last("a.>")
            assert last is not None
            assert (last.key, last.position) == ("a.lease", new.epoch)
            with pytest.raises(Fenced):
                await old.writer.write("a.k", b"late")
            # The successor's last write has expired: its sequence fell back, and that is no takeover.
            position = await new.writer.write("a.k2", b"still mine")
            assert position > new.epoch

    run(scenario())


@pytest.mark.req("D3.3")
def test_falling_back_by_expiry_is_no_takeover(any_site: Any, run: Run) -> None:
    async def scenario() -> None:
        async with any_site.bucket() as bucket, await acquire(bucket, "a", "me", ttl_s=60) as lease:
            short = await lease.writer.write("a.short", b"1", ttl_s=1)
            for _ in range(60):
                last = await bucket.last("a.>")
                assert last is not None
                if last.position < short:
                    break
                await asyncio.sleep(0.1)
            assert last is not None
            assert last.key == "a.lease"
            assert await lease.writer.write("a.next", b"2") > short
            assert lease.held

    run(scenario())


def test_a_write_of_another_hand_does_not_take_the_lease(site: Any, run: Run) -> None:
    async def scenario() -> None:
        async with site.bucket() as bucket, await acquire(bucket, "a", "me", ttl_s=60) as lease:
            await bucket.write("a.by-hand", b"1", expect=0)
            await lease.writer.write("a.k", b"2")
            assert lease.held

    run(scenario())


def test_a_lease_renews_itself(site: Any, run: Run) -> None:
    async def scenario() -> None:
        async with site.bucket() as bucket, await acquire(bucket, "a", "me", ttl_s=0.6) as lease:
            for _ in range(15):
                await asyncio.sleep(0.1)
                with pytest.raises(LeaseHeld):
                    await acquire(bucket, "a", "other", ttl_s=1)
            assert lease.held

    run(scenario())


@pytest.mark.req("D2.5")
def test_an_owner_takes_its_lease_again_in_a_rebuilt_bucket(any_site: Any, run: Run) -> None:
    async def scenario() -> None:
        async with any_site.bucket() as bucket, any_site.client() as other:
            lease = await acquire(bucket, "a", "me", ttl_s=30)
            for number in range(5):
                before = await lease.writer.write("a.k", str(number).encode())
            epoch = lease.epoch
            await any_site.drop(other)
            await any_site.make(other)
            after = await lease.writer.write("a.k", b"5")
            assert after > before
            assert after.incarnation == bucket.incarnation > before.incarnation
            assert lease.epoch > epoch
            entry = await bucket.get("a.k")
            assert entry is not None
            assert (entry.headers[EPOCH], entry.headers[VERSION]) == (str(lease.epoch), "6")
            head = await bucket.get("a.lease")
            assert head is not None
            assert head.position == lease.epoch
            assert lease.held
            await lease.release()

    run(scenario())


@pytest.mark.req("D2.5")
def test_positions_are_true_while_the_bucket_is_rebuilt_under_load(any_site: Any, run: Run) -> None:
    """Whatever was acknowledged for the last bucket is in it, at that revision, under the lease of that bucket."""

    async def scenario() -> None:
        settings = {"max_msgs_per_subject": -1}
        async with any_site.bucket(**settings) as bucket, any_site.client() as other:
            lease = await acquire(bucket, "a", "me", ttl_s=60)
            acknowledged: dict[Position, bytes] = {}
            done = asyncio.Event()

            async def write(worker: int) -> None:
                number = 0
                while not done.is_set():
                    number += 1
                    value = f"{worker}-{number}".encode()
                    acknowledged[await lease.writer.write(f"a.k{worker}", value)] = value

            async def create() -> None:
                number = 0
                while not done.is_set():
                    number += 1
                    acknowledged[await bucket.create(f"c.k{number}", b"c")] = b"c"

            tasks = [asyncio.ensure_future(work) for work in (*(write(worker) for worker in range(4)), create())]
            for _ in range(4):
                await asyncio.sleep(0.4)
                await any_site.drop(other)
                await any_site.make(other, **settings)
            await asyncio.sleep(1)
            done.set()
            await asyncio.gather(*tasks)
            await bucket.refresh_incarnation()
            found = {}
            async with bucket.watch(after=Position(bucket.incarnation, 0)) as watch:
                while (entry := await watch.next(0.5)) is not None:
                    found[entry.position] = entry
            latest = {at: value for at, value in acknowledged.items() if at.incarnation == bucket.incarnation}
            assert len(latest) > 10
            assert {at: found[at].value if at in found else None for at in latest} == latest
            assert lease.epoch.incarnation == bucket.incarnation
            assert found[lease.epoch].key == "a.lease"
            assert all(
                entry.headers[EPOCH] == str(lease.epoch) for entry in found.values() if entry.key.startswith("a.k")
            )
            await lease.release()

    run(scenario())


def test_in_a_rebuilt_bucket_a_lease_that_has_ended_is_not_taken_again(site: Any, run: Run) -> None:
    """Somebody may have been the owner in between, in the bucket that is gone."""

    async def scenario() -> None:
        async with site.bucket() as bucket, site.client() as other:
            lease = await _paused(await acquire(bucket, "a", "me", ttl_s=0.3))
            await asyncio.sleep(0.4)
            await site.drop(other)
            await site.make(other)
            with pytest.raises(Fenced):
                await lease.writer.write("a.k", b"late")
            assert await bucket.get("a.k") is None

    run(scenario())


def test_a_cancelled_write_does_not_confuse_the_writer(site: Any, run: Run, proxy_of: Any) -> None:
    async def scenario() -> None:
        async with (
            site.bucket() as direct,
            proxy_of(site.server.port) as proxy,
            site.client(proxy.url) as client,
        ):
            bucket = await Bucket.open(client, direct.spec)
            lease = await acquire(bucket, "a", "me", ttl_s=60)
            for number in range(5):
                swallowed: list[bytes] = []

                def once(piece: bytes, swallowed: list[bytes] = swallowed) -> bool:
                    if not swallowed and b'"seq":' in piece:
                        swallowed.append(piece)
                        return False
                    return True

                proxy.lets = once
                task = asyncio.ensure_future(lease.writer.write("a.k", str(number).encode()))
                while not swallowed:
                    await asyncio.sleep(0.01)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
            await lease.writer.write("a.k", b"last")
            entry = await direct.get("a.k")
            assert entry is not None
            assert (entry.value, entry.headers[VERSION]) == (b"last", "6")
            await lease.release()

    run(scenario())


@pytest.mark.soak
def test_no_lease_on_an_old_server(site_of: Any, run: Run) -> None:
    async def scenario() -> None:
        async with site_of("2.10").bucket() as bucket:
            with pytest.raises(Unsupported, match=r"2\.11"):
                await acquire(bucket, "a", "me", ttl_s=1)

    run(scenario())


def test_no_lease_where_the_bucket_would_let_it_expire(site: Any, run: Run) -> None:
    async def scenario() -> None:
        async with site.bucket(allow_msg_ttl=False, max_age=60 * 10**9) as bucket:
            with pytest.raises(Unsupported):
                await acquire(bucket, "a", "me", ttl_s=1)

    run(scenario())
