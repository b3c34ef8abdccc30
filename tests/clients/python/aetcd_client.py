"""Uses a server through aetcd, the client for asyncio. The endpoint, host:port, is the only argument.

Prints a line a check and ends with `client-aetcd: N passed, M failed`.
"""

import asyncio
import io
import sys
import time

import aetcd


async def pairs(client):
    first = await client.put(b"aetcd/a", b"1")
    second = await client.put(b"aetcd/a", b"2", prev_kv=True)
    assert second.prev_kv.value == b"1" and second.header.revision == first.header.revision + 1
    await client.put(b"aetcd/b", b"3")
    found = await client.get_prefix(b"aetcd/", sort_order="descend", sort_target="key")
    assert [(kv.key, kv.value) for kv in found] == [(b"aetcd/b", b"3"), (b"aetcd/a", b"2")]
    assert await client.get(b"aetcd/none") is None
    assert await client.replace(b"aetcd/a", b"2", b"4") is True
    assert await client.replace(b"aetcd/a", b"2", b"5") is False
    gone = await client.delete(b"aetcd/a", prev_kv=True)
    assert gone.prev_kv.value == b"4"
    assert (await client.delete_prefix(b"aetcd/")).deleted == 1


async def transaction(client):
    await client.put(b"aetcd/txn", b"1")
    transactions = client.transactions
    swap = dict(
        compare=[transactions.value(b"aetcd/txn") == b"1", transactions.version(b"aetcd/txn") > 0],
        success=[transactions.put(b"aetcd/txn", b"2"), transactions.get(b"aetcd/txn")],
        failure=[transactions.get(b"aetcd/txn")],
    )
    done, answers = await client.transaction(**swap)
    assert done and answers[1][0][0] == b"2", answers
    done, answers = await client.transaction(**swap)
    assert not done and answers[0][0][0] == b"2", answers


async def watch(client):
    watched = await client.watch_prefix(b"aetcd/w/", prev_kv=True)
    await client.put(b"aetcd/w/1", b"x")
    await client.put(b"aetcd/w/1", b"y")
    await client.delete(b"aetcd/w/1")
    events = []
    async for event in watched:
        events.append(event)
        if len(events) == 3:
            await watched.cancel()
            break
    assert [event.kind for event in events] == [aetcd.EventKind.PUT, aetcd.EventKind.PUT, aetcd.EventKind.DELETE]
    assert events[1].prev_kv.value == b"x" and events[2].prev_kv.value == b"y"
    assert [event.kv.mod_revision - events[0].kv.mod_revision for event in events] == [0, 1, 2]


async def watch_from_the_past(client):
    first = await client.put(b"aetcd/past", b"1")
    await client.put(b"aetcd/past", b"2")
    event = await asyncio.wait_for(client.watch_once(b"aetcd/past", start_revision=first.header.revision), 10)
    assert event.kv.value == b"1"


async def lease(client):
    granted = await client.lease(60)
    await client.put(b"aetcd/leased", b"x", lease=granted)
    assert await granted.granted_ttl() == 60 and 0 < await granted.remaining_ttl() <= 60
    assert list(await granted.keys()) == [b"aetcd/leased"]
    await granted.refresh()
    await granted.revoke()
    assert await client.get(b"aetcd/leased") is None


async def expiry(client):
    granted = await client.lease(2)
    await client.put(b"aetcd/short", b"x", lease=granted)
    start = time.monotonic()
    while await client.get(b"aetcd/short") is not None:
        assert time.monotonic() - start < 15
        await asyncio.sleep(0.1)
    assert time.monotonic() - start >= 1.9


async def lock(client):
    async with client.lock(b"aetcd/lock", ttl=20) as held:
        assert await held.is_acquired()
        other = client.lock(b"aetcd/lock", ttl=20)
        assert await other.acquire(timeout=1) is False
    assert await other.acquire(timeout=10) is True
    await other.release()


async def compaction(client):
    revision = (await client.put(b"aetcd/old", b"1")).header.revision
    await client.put(b"aetcd/old", b"2")
    await client.compact(revision + 1)
    try:
        await client.compact(revision)
    except Exception as error:
        assert "required revision has been compacted" in str(error), error
    else:
        raise AssertionError("a second compaction below the first passed")


async def maintenance(client):
    status = await client.status()
    assert status.version.startswith("3."), status.version
    assert status.db_size > 0 and status.leader is not None
    assert len([member async for member in client.members()]) == 1
    assert [alarm async for alarm in client.list_alarms()] == []
    assert await client.hash() is not None
    await client.defragment()
    image = io.BytesIO()
    await client.snapshot(image)
    assert len(image.getvalue()) > 1024


async def main():
    host, port = sys.argv[1].split(":")
    passed = failed = 0
    checks = (pairs, transaction, watch, watch_from_the_past, lease, expiry, lock, compaction, maintenance)
    for check in checks:
        try:
            async with aetcd.Client(host=host, port=int(port), timeout=15) as client:
                await asyncio.wait_for(check(client), 60)
        except Exception as error:
            failed += 1
            print(f"FAILED  {check.__name__}: {type(error).__name__}: {error}")
        else:
            passed += 1
            print(f"ok      {check.__name__}")
    print(f"client-aetcd: {passed} passed, {failed} failed")
    sys.exit(1 if failed else 0)


asyncio.run(main())
