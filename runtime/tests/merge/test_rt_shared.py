"""Writers who share keys: every strategy over a real bucket, by compare-and-set."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import pytest

from holdfast.errors import CodecError, ConfigurationError, ConsistencyViolation
from holdfast.kv.entry import Position
from holdfast.merge.clocks import StableCut
from holdfast.merge.crdt import Document
from holdfast.merge.shared import SharedBucket
from holdfast.merge.strategies import Resolver, StateEntry, Strategy

Open = Callable[[], Any]
LWW = Resolver(Strategy.LAST_WRITE_WINS)
VECTOR = Resolver(Strategy.VECTOR_CLOCK)
CRDT = Resolver(Strategy.CRDT_MERGE)
LONGER = Resolver(Strategy.CUSTOM_MERGE, custom=lambda one, other: sorted({*(one.value or []), *(other.value or [])}))


def _key() -> str:
    return f"shared.{uuid4().hex}"


async def _held(shared: SharedBucket, key: str) -> StateEntry:
    entry = await shared.get(key)
    assert entry is not None
    return entry


@pytest.mark.req("D3.1", "D3.3")
@pytest.mark.parametrize("resolver", [LWW, VECTOR, CRDT, LONGER], ids=lambda each: each.strategy.value)
def test_an_absent_key_is_created_a_deleted_one_too(open_bucket: Open, resolver: Resolver) -> None:
    async def main() -> None:
        async with open_bucket() as bucket:
            shared, key = SharedBucket(bucket, resolver, actor="a"), _key()
            value = Document("or-set").add("a", 1).to_json() if resolver is CRDT else [1]
            assert await shared.get(key) is None
            assert await shared.delete(key) is None
            saved = await shared.save(key, value)
            assert saved.winner == "incoming"
            assert await _held(shared, key) == saved.entry
            assert await shared.delete(key) is not None
            assert await shared.get(key) is None
            again = Document("or-set").add("b", 1).to_json() if resolver is CRDT else [1]
            assert (await shared.save(key, again)).winner != "current"
            assert (await _held(shared, key)).version >= 2

    asyncio.run(main())


@pytest.mark.req("D3.2", "D3.3")
def test_the_last_write_wins_and_a_write_that_lost_gets_what_the_key_holds(open_bucket: Open) -> None:
    async def main() -> None:
        async with open_bucket() as bucket:
            slow, fast = (
                SharedBucket(bucket, LWW, actor=name, now_ms=lambda made=made: made)  # type: ignore[misc]
                for name, made in (("slow", 1_000), ("fast", 9_000_000))
            )
            key = _key()
            await fast.save(key, "by a clock that is ahead")
            assert (await slow.save(key, "later")).winner == "incoming", "it came after, whatever the clocks say"
            assert (await _held(fast, key)).value == "later"
            held = await _held(fast, key)
            lost = await slow.save(key, "buffered for long", timestamp_ms=5)
            assert lost == (held, "current")
            assert (await bucket.head(key)).position == held.position, "nothing was written"

    asyncio.run(main())


def test_the_old_owner_loses_to_the_new_one(open_bucket: Open) -> None:
    async def main() -> None:
        async with open_bucket() as bucket:
            old = SharedBucket(bucket, LWW, actor="a", epoch=Position(1, 5))
            new, key = SharedBucket(bucket, LWW, actor="a", epoch=Position(1, 6)), _key()
            await new.save(key, "new")
            assert (await old.save(key, "old")).winner == "current"
            assert (await new.save(key, "newer")).winner == "incoming"

    asyncio.run(main())


@pytest.mark.req("D3.3", "D3.4")
def test_concurrent_values_are_kept_and_merged_until_one_has_seen_them(open_bucket: Open) -> None:
    async def main() -> None:
        async with open_bucket() as bucket:
            one, two = SharedBucket(bucket, VECTOR, actor="one"), SharedBucket(bucket, VECTOR, actor="two")
            key = _key()
            base = (await one.save(key, {"n": 0})).entry
            await one.save(key, {"n": 1}, base=base)
            merged = await two.save(key, {"n": 0, "more": True}, base=base)
            assert merged.winner == "merged"
            held = await _held(one, key)
            assert held.value == {"n": 0, "more": True}
            assert sorted(each.value["n"] for each in held.siblings.values()) == [0, 1]
            settled = await one.save(key, {"n": 2}, base=held)
            assert settled.winner == "incoming"
            assert not (await _held(two, key)).siblings
            assert (await two.save(key, {"x": 1}, base=await _held(two, key))).entry.value == {"x": 1}

    asyncio.run(main())


def test_a_slot_that_saves_blindly_replaces_its_own_value_and_no_other(open_bucket: Open) -> None:
    async def main() -> None:
        async with open_bucket() as bucket:
            one, two = SharedBucket(bucket, VECTOR, actor="one"), SharedBucket(bucket, VECTOR, actor="two")
            key = _key()
            await two.save(key, {"two": 1})
            for number in range(5):
                await one.save(key, {"one": number})
            held = await _held(one, key)
            assert held.value == {"two": 1, "one": 4}
            assert len(held.siblings) == 2

    asyncio.run(main())


def test_a_blind_save_counts_also_where_others_have_overwritten_the_slot_before(open_bucket: Open) -> None:
    async def main() -> None:
        async with open_bucket() as bucket:
            one, two = SharedBucket(bucket, VECTOR, actor="one"), SharedBucket(bucket, VECTOR, actor="two")
            key = _key()
            base = (await one.save(key, 1)).entry
            await two.save(key, 2, base=base)
            assert (await one.save(key, 3)).winner == "merged"
            held = await _held(two, key)
            assert sorted(each.value for each in held.siblings.values()) == [2, 3]

    asyncio.run(main())


def test_a_delete_takes_only_what_it_has_seen(open_bucket: Open) -> None:
    async def main() -> None:
        async with open_bucket() as bucket:
            one, two = SharedBucket(bucket, VECTOR, actor="one"), SharedBucket(bucket, VECTOR, actor="two")
            key = _key()
            base = (await one.save(key, 1)).entry
            await two.save(key, 2, base=base)
            await one.delete(key, base=base)
            assert (await _held(one, key)).value == 2
            await one.delete(key)
            assert await one.get(key) is None
            counters, key = SharedBucket(bucket, CRDT, actor="one"), _key()
            count = Document("pn-counter").increment("one", 3)
            base = (await counters.save(key, count.to_json())).entry
            await counters.save(key, count.increment("two", 4).to_json())
            await counters.delete(key, base=base)
            assert Document.from_json((await _held(counters, key)).value).value() == 4
            await counters.delete(key)
            assert await counters.get(key) is None
            late = await counters.save(key, count.to_json())
            assert late.winner == "current", "what was deleted does not come back"

    asyncio.run(main())


@pytest.mark.req("D3.3", "D3.5", "D13.4")
def test_no_increment_is_lost_among_many_writers(open_bucket: Open) -> None:
    async def main() -> None:
        async with open_bucket() as bucket:
            key, plain = _key(), _key()
            writers = [SharedBucket(bucket, CRDT, actor=f"slot-{number}") for number in range(5)]
            others = [SharedBucket(bucket, VECTOR, actor=f"slot-{number}") for number in range(5)]

            async def count(number: int) -> None:
                for _ in range(6):
                    await writers[number].update_document(
                        key, lambda held: held.increment(f"slot-{number}"), Document("g-counter")
                    )
                    await others[number].update(plain, lambda held: (held or 0) + 1)

            await asyncio.gather(*map(count, range(5)))
            held = Document.from_json((await _held(writers[0], key)).value)
            assert (held.value(), len(held.items)) == (30, 5)
            assert (await _held(others[0], plain)).value == 30
            assert (await _held(others[0], plain)).version == 30

    asyncio.run(main())


@pytest.mark.req("D3.5")
def test_blind_saves_of_documents_meet_in_the_bucket(open_bucket: Open) -> None:
    async def main() -> None:
        async with open_bucket() as bucket:
            key, base = _key(), Document("map")
            copies = [base.add(slot, slot, at=[("tags", "or-set")]) for slot in "abcdef"]
            shared = [SharedBucket(bucket, CRDT, actor=slot) for slot in "abcdef"]
            await asyncio.gather(*(each.save(key, copy.to_json()) for each, copy in zip(shared, copies, strict=True)))
            assert Document.from_json((await _held(shared[0], key)).value).value() == {"tags": list("abcdef")}
            assert (await shared[0].save(key, copies[0].to_json())).winner == "current"

    asyncio.run(main())


@pytest.mark.req("D3.1")
def test_custom_merge_settles_by_its_function(open_bucket: Open) -> None:
    async def main() -> None:
        async with open_bucket() as bucket:
            key = _key()
            writers = [SharedBucket(bucket, LONGER, actor=str(number)) for number in range(6)]
            await asyncio.gather(*(writer.save(key, [number]) for number, writer in enumerate(writers)))
            assert (await _held(writers[0], key)).value == [0, 1, 2, 3, 4, 5]
            assert (await writers[0].save(key, [3])).winner == "current"

    asyncio.run(main())


def test_what_others_wrote_is_a_value_without_a_clock(open_bucket: Open) -> None:
    async def main() -> None:
        async with open_bucket() as bucket:
            key = _key()
            position = await bucket.create(key, b'{"a": 1}')
            shared = SharedBucket(bucket, VECTOR, actor="one")
            held = await _held(shared, key)
            assert (held.value, held.position, held.dot) == ({"a": 1}, position, None)
            assert (await shared.save(key, {"b": 2})).entry.value == {"a": 1, "b": 2}
            assert (await shared.save(key, {"c": 3}, base=await _held(shared, key))).entry.value == {"c": 3}
            await bucket.write(key, b"\xff", expect=(await bucket.head(key)).position.revision)
            with pytest.raises(CodecError):
                await shared.get(key)

    asyncio.run(main())


def test_a_clock_that_was_pruned_is_read_with_its_cut_only(open_bucket: Open) -> None:
    async def main() -> None:
        async with open_bucket() as bucket:
            key, whole = _key(), SharedBucket(bucket, VECTOR, actor="one")
            for number in range(3):
                await whole.update(key, lambda held, number=number: number)  # type: ignore[misc]
            seen = (await _held(whole, key)).clock
            pruning = SharedBucket(bucket, VECTOR, actor="two", cut=StableCut.of(1, [seen]))
            await pruning.update(key, lambda held: "pruned")
            assert (await _held(pruning, key)).clock.includes(seen)
            with pytest.raises(ConsistencyViolation):
                await whole.get(key)

    asyncio.run(main())


def test_entries_lists_what_is_there(open_bucket: Open) -> None:
    async def main() -> None:
        async with open_bucket() as bucket:
            shared, prefix = SharedBucket(bucket, LWW, actor="a"), f"list{uuid4().hex}"
            for number in range(3):
                await shared.save(f"{prefix}.{number}", number)
            await shared.delete(f"{prefix}.1")
            assert {key: entry.value async for key, entry in shared.entries(f"{prefix}.>")} == {
                f"{prefix}.0": 0,
                f"{prefix}.2": 2,
            }
            with pytest.raises(CodecError):
                await shared.save(f"{prefix}.3", {1, 2})
            with pytest.raises(ConfigurationError):
                SharedBucket(bucket, LWW, actor="")

    asyncio.run(main())
