"""Uses a server through the etcd3 package as an application would: client.py HOST:PORT [PACKAGE].

PACKAGE is etcd3, or pyetcd: its successor with the same functions, generated for today's protobuf.
Prints a line a check and ends with `client-PACKAGE: N passed, M failed`.
"""

import importlib
import sys
import threading
import time

PACKAGE = sys.argv[2] if len(sys.argv) > 2 else "etcd3"
etcd3 = importlib.import_module(PACKAGE)
events_of = importlib.import_module(PACKAGE + ".events")


def pairs(client):
    client.put("python/a", "1")
    assert client.get("python/a")[0] == b"1"
    client.put("python/b", "2")
    found = [(value, meta.key) for value, meta in client.get_prefix("python/", sort_order="descend", sort_target="key")]
    assert found == [(b"2", b"python/b"), (b"1", b"python/a")], found
    assert client.get("python/none") == (None, None)
    assert client.put_if_not_exists("python/c", "3") is True
    assert client.put_if_not_exists("python/c", "4") is False
    assert client.replace("python/c", "3", "5") is True
    assert client.delete("python/c") is True
    assert client.delete("python/c") is False
    assert client.delete_prefix("python/").deleted == 2


def transaction(client):
    client.put("python/txn", "1")
    swap = dict(
        compare=[client.transactions.value("python/txn") == "1", client.transactions.version("python/txn") > 0],
        success=[client.transactions.put("python/txn", "2"), client.transactions.get("python/txn")],
        failure=[client.transactions.get("python/txn")],
    )
    done, answers = client.transaction(**swap)
    assert done and answers[1][0][0] == b"2", answers
    done, answers = client.transaction(**swap)
    assert not done and answers[0][0][0] == b"2", answers


def watch(client):
    events, cancel = client.watch_prefix("python/w/")
    client.put("python/w/1", "x")
    client.delete("python/w/1")
    first, second = next(events), next(events)
    cancel()
    assert isinstance(first, events_of.PutEvent) and first.value == b"x"
    assert isinstance(second, events_of.DeleteEvent) and second.key == b"python/w/1"
    assert second.mod_revision == first.mod_revision + 1


def watch_callback(client):
    seen = threading.Event()
    identity = client.add_watch_callback("python/callback", lambda response: seen.set())
    client.put("python/callback", "x")
    assert seen.wait(10)
    client.cancel_watch(identity)


def lease(client):
    granted = client.lease(60)
    client.put("python/leased", "x", lease=granted)
    assert granted.granted_ttl == 60 and 0 < granted.remaining_ttl <= 60
    assert granted.keys == [b"python/leased"]
    assert [answer.TTL for answer in granted.refresh()] == [60]
    granted.revoke()
    assert client.get("python/leased")[0] is None


def expiry(client):
    granted = client.lease(2)
    client.put("python/short", "x", lease=granted)
    start = time.monotonic()
    while client.get("python/short")[0] is not None:
        assert time.monotonic() - start < 15
        time.sleep(0.1)
    assert time.monotonic() - start >= 1.9


def lock(client):
    with client.lock("one", ttl=20) as held:
        assert held.is_acquired()
        other = client.lock("one", ttl=20)
        assert other.acquire(timeout=1) is False
    assert other.acquire(timeout=10) is True
    other.release()


def compaction(client):
    client.put("python/old", "1")
    revision = client.get("python/old")[1].mod_revision
    client.put("python/old", "2")
    client.compact(revision)
    try:
        client.compact(revision)
    except Exception as error:
        assert "required revision has been compacted" in str(error), error
    else:
        raise AssertionError("a second compaction at the same revision passed")


def maintenance(client):
    status = client.status()
    assert status.version.startswith("3."), status.version
    assert status.db_size > 0
    assert status.leader is not None
    assert len(list(client.members)) == 1
    assert list(client.list_alarms()) == []
    assert client.hash() is not None


def main():
    host, port = sys.argv[1].split(":")
    client = etcd3.client(host=host, port=int(port), timeout=15)
    passed = failed = 0
    for check in (pairs, transaction, watch, watch_callback, lease, expiry, lock, compaction, maintenance):
        try:
            check(client)
        except Exception as error:
            failed += 1
            print(f"FAILED  {check.__name__}: {type(error).__name__}: {error}")
        else:
            passed += 1
            print(f"ok      {check.__name__}")
    print(f"client-{PACKAGE}: {passed} passed, {failed} failed")
    sys.exit(1 if failed else 0)


main()
