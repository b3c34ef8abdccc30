"""tests/bench/pace: the two loads, and the verdict."""

import json
import statistics
import subprocess
import sys
import threading
import time
import urllib.request

ringstone, endpoint, keys, rate, seconds = sys.argv[1:4] + [int(a) for a in sys.argv[4:6]]
WITHOUT_SECONDS = 20
TRIES_MAX = 120
METRIC = "etcd_disk_backend_commit_duration_seconds_"
SYNCS = "etcd_disk_wal_fsync_duration_seconds_"
FAULTS = "ringstone_shard_major_faults_total"
WARM_UP_SECONDS = 2


def values(beginning):
    with urllib.request.urlopen(f"http://{endpoint}/metrics", timeout=5) as answer:
        lines = answer.read().decode().splitlines()
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines if line.startswith(beginning))}


def look():
    """How many checkpoints have ended, and how long they took together."""
    found = values(METRIC)
    return int(found[METRIC + "count"]), found[METRIC + "sum"]


def slow_syncs():
    """How many syncs of the log have taken 16 ms or more: a put waited for the disk."""
    found = values(SYNCS)
    return found[SYNCS + "count"] - found[SYNCS + 'bucket{le="0.016"}']


def faults():
    """How many pages the shard has waited for that the kernel had taken: where nothing lacks memory, see docs/operations.md."""
    return sum(values(FAULTS).values())


class Counted(threading.Thread):
    """Notes in which seconds of the load a count has grown."""

    def __init__(self, count):
        super().__init__(daemon=True)
        self.count, self.seen, self.stop = count, [], threading.Event()

    def run(self):
        last = self.count()
        while not self.stop.wait(0.1):
            now = self.count()
            if now != last:
                self.seen.append(time.monotonic())
                last = now


class Watch(threading.Thread):
    """Notes when checkpoints were under way."""

    def __init__(self):
        super().__init__(daemon=True)
        self.spans, self.stop = [], threading.Event()

    def run(self):
        count, total = look()
        while not self.stop.wait(0.05):
            now_count, now_total = look()
            if now_count != count:
                now = time.monotonic()
                self.spans.append((now - 0.1 - (now_total - total), now))
                count, total = now_count, now_total


def put(*flags):
    command = [ringstone, "bench", "put", "--endpoint", endpoint, "--keys", keys, "--rate", str(rate), "--preload", "false"]
    out = subprocess.run(command + ["--format", "json", "--duration", "1s", *flags], check=True, stdout=subprocess.PIPE)
    return [r["p99_us"] for r in json.loads(out.stdout)["rounds"]]


watch = Watch()
watch.start()
time.sleep(1)
tries, without = [], []
while len(without) < WITHOUT_SECONDS and len(tries) < TRIES_MAX:
    began = time.monotonic()
    p99 = put("--rounds", "1", "--warm-up", "300ms")[0]
    tries.append((began, time.monotonic(), p99))
    # The last ones may have a checkpoint in them that has not ended yet.
    settled = [t for t in tries if t[1] < time.monotonic() - 5] or []
    without = [p for begin, end, p in settled if not any(b < end and begin < e for b, e in watch.spans)]
watch.stop.set()
watch.join()
if len(without) < WITHOUT_SECONDS:
    sys.exit(f"only {len(without)} of {len(tries)} seconds had no checkpoint in them: a lower rate?")
before = look()[0]
counted = {"syncs of the log of 16 ms or more": Counted(slow_syncs), "major faults of the shard": Counted(faults)}
for thread in counted.values():
    thread.start()
began = time.monotonic() + WARM_UP_SECONDS
busy = put("--rounds", str(seconds), "--warm-up", f"{WARM_UP_SECONDS}s", "--compact-every", "5s")
for thread in counted.values():
    thread.stop.set()
    thread.join()
base = statistics.median(without)
over = [i for i, p99 in enumerate(busy) if p99 >= 4 * base]
print(f"without: p99 of a second, median {base:.0f} us (least {min(without):.0f}, most {max(without):.0f}), {len(without)} s")
print(
    f"with {look()[0] - before} checkpoints, a compaction each 5 s: median {statistics.median(busy):.0f} us, "
    f"most {max(busy):.0f} us, {len(busy)} s"
)
print(f"seconds at four times or more: {len(over)} of {len(busy)}", [f"{i}: {busy[i]:.0f}" for i in over][:20])
# Rounds begin a moment late and are noticed a tenth of a second late: to the second only.
for what, thread in counted.items():
    print(f"seconds with {what}:", sorted({int(at - began) for at in thread.seen}))
sys.exit(bool(over))
