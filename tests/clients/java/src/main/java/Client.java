import static java.nio.charset.StandardCharsets.UTF_8;

import io.etcd.jetcd.ByteSequence;
import io.etcd.jetcd.KeyValue;
import io.etcd.jetcd.Watch;
import io.etcd.jetcd.common.exception.CompactedException;
import io.etcd.jetcd.kv.GetResponse;
import io.etcd.jetcd.kv.TxnResponse;
import io.etcd.jetcd.lease.LeaseKeepAliveResponse;
import io.etcd.jetcd.op.Cmp;
import io.etcd.jetcd.op.CmpTarget;
import io.etcd.jetcd.op.Op;
import io.etcd.jetcd.options.DeleteOption;
import io.etcd.jetcd.options.GetOption;
import io.etcd.jetcd.options.LeaseOption;
import io.etcd.jetcd.options.PutOption;
import io.etcd.jetcd.options.WatchOption;
import io.etcd.jetcd.support.CloseableClient;
import io.etcd.jetcd.watch.WatchEvent;
import io.etcd.jetcd.watch.WatchResponse;
import io.grpc.Status;
import io.grpc.StatusRuntimeException;
import io.grpc.stub.StreamObserver;
import java.io.ByteArrayOutputStream;
import java.net.URI;
import java.time.Duration;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.TimeUnit;

/**
 * Uses a server through jetcd as an application would. The endpoint, host:port, is the only argument.
 *
 * <p>Prints a line a check and ends with {@code client-java: N passed, M failed}. Locks and elections need the
 * services of those names; where the server has none (Unimplemented), their checks are left out, and said so.
 */
public final class Client {
    private interface Check {
        void run(io.etcd.jetcd.Client client) throws Exception;
    }

    private static final long SECONDS = 15;

    private static ByteSequence bytes(String text) {
        return ByteSequence.from(text, UTF_8);
    }

    private static <T> T wait(CompletableFuture<T> future) throws Exception {
        try {
            return future.get(SECONDS, TimeUnit.SECONDS);
        } catch (ExecutionException failed) {
            throw failed.getCause() instanceof Exception cause ? cause : failed;
        }
    }

    private static void expect(boolean good, Object found) {
        if (!good) {
            throw new AssertionError(String.valueOf(found));
        }
    }

    private static void pairs(io.etcd.jetcd.Client client) throws Exception {
        var kv = client.getKVClient();
        long first = wait(kv.put(bytes("java/a"), bytes("1"))).getHeader().getRevision();
        var second = wait(kv.put(bytes("java/a"), bytes("2"), PutOption.builder().withPrevKV().build()));
        expect(second.getPrevKv().getValue().equals(bytes("1")), second);
        expect(second.getHeader().getRevision() == first + 1, second);
        wait(kv.put(bytes("java/b"), bytes("3")));
        var descending = GetOption.builder().isPrefix(true).withSortField(GetOption.SortTarget.KEY)
                .withSortOrder(GetOption.SortOrder.DESCEND).build();
        List<KeyValue> found = wait(kv.get(bytes("java/"), descending)).getKvs();
        expect(found.size() == 2 && found.get(0).getKey().equals(bytes("java/b")), found);
        expect(found.get(1).getVersion() == 2 && found.get(1).getCreateRevision() == first, found);
        GetResponse old = wait(kv.get(bytes("java/a"), GetOption.builder().withRevision(first).build()));
        expect(old.getKvs().get(0).getValue().equals(bytes("1")), old);
        GetResponse count = wait(kv.get(bytes("java/"), GetOption.builder().isPrefix(true).withCountOnly(true).build()));
        expect(count.getCount() == 2 && count.getKvs().isEmpty(), count);
        var deleted = wait(kv.delete(bytes("java/"), DeleteOption.builder().isPrefix(true).withPrevKV(true).build()));
        expect(deleted.getDeleted() == 2 && deleted.getPrevKvs().size() == 2, deleted);
        expect(wait(kv.get(bytes("java/a"))).getKvs().isEmpty(), "deleted");
    }

    private static void transaction(io.etcd.jetcd.Client client) throws Exception {
        var kv = client.getKVClient();
        ByteSequence key = bytes("java/txn");
        wait(kv.put(key, bytes("1")));
        for (boolean first : new boolean[] {true, false}) {
            TxnResponse answer = wait(kv.txn()
                    .If(new Cmp(key, Cmp.Op.EQUAL, CmpTarget.value(bytes("1"))),
                            new Cmp(key, Cmp.Op.GREATER, CmpTarget.version(0)))
                    .Then(Op.put(key, bytes("2"), PutOption.DEFAULT), Op.get(key, GetOption.DEFAULT))
                    .Else(Op.get(key, GetOption.DEFAULT)).commit());
            expect(answer.isSucceeded() == first, answer);
            expect(answer.getGetResponses().get(0).getKvs().get(0).getValue().equals(bytes("2")), answer);
        }
    }

    private static void watch(io.etcd.jetcd.Client client) throws Exception {
        BlockingQueue<WatchEvent> events = new LinkedBlockingQueue<>();
        var created = new CountDownLatch(1);
        var option = WatchOption.builder().isPrefix(true).withPrevKV(true).withCreateNotify(true).build();
        try (Watch.Watcher watcher = client.getWatchClient().watch(bytes("java/w/"), option, (WatchResponse response) -> {
            if (response.isCreatedNotify()) {
                created.countDown();
            }
            events.addAll(response.getEvents());
        })) {
            expect(created.await(SECONDS, TimeUnit.SECONDS), "created");
            var kv = client.getKVClient();
            wait(kv.put(bytes("java/w/1"), bytes("x")));
            wait(kv.put(bytes("java/w/1"), bytes("y")));
            wait(kv.delete(bytes("java/w/1")));
            WatchEvent put = events.poll(SECONDS, TimeUnit.SECONDS);
            WatchEvent again = events.poll(SECONDS, TimeUnit.SECONDS);
            WatchEvent deleted = events.poll(SECONDS, TimeUnit.SECONDS);
            expect(put.getEventType() == WatchEvent.EventType.PUT && put.getKeyValue().getValue().equals(bytes("x")), put);
            expect(again.getPrevKV().getValue().equals(bytes("x")), again);
            expect(deleted.getEventType() == WatchEvent.EventType.DELETE, deleted);
            expect(deleted.getKeyValue().getModRevision() == put.getKeyValue().getModRevision() + 2, deleted);
        }
    }

    private static void compaction(io.etcd.jetcd.Client client) throws Exception {
        var kv = client.getKVClient();
        long revision = wait(kv.put(bytes("java/old"), bytes("1"))).getHeader().getRevision();
        wait(kv.put(bytes("java/old"), bytes("2")));
        wait(kv.compact(revision + 1));
        try {
            wait(kv.get(bytes("java/old"), GetOption.builder().withRevision(revision).build()));
            throw new AssertionError("a compacted revision was read");
        } catch (RuntimeException refused) {
            expect(refused.getMessage().contains("required revision has been compacted"), refused);
        }
        var failure = new CompletableFuture<Throwable>();
        var option = WatchOption.builder().withRevision(revision).build();
        var listener = Watch.listener(response -> { }, failure::complete);
        try (Watch.Watcher watcher = client.getWatchClient().watch(bytes("java/old"), option, listener)) {
            Throwable seen = wait(failure);
            expect(seen instanceof CompactedException compacted && compacted.getCompactedRevision() == revision + 1, seen);
        }
    }

    private static void lease(io.etcd.jetcd.Client client) throws Exception {
        var leases = client.getLeaseClient();
        var kv = client.getKVClient();
        long id = wait(leases.grant(60)).getID();
        wait(kv.put(bytes("java/leased"), bytes("x"), PutOption.builder().withLeaseId(id).build()));
        var left = wait(leases.timeToLive(id, LeaseOption.builder().withAttachedKeys().build()));
        expect(left.getGrantedTTL() == 60 && left.getTTL() > 0 && left.getTTL() <= 60, left);
        expect(left.getKeys().equals(List.of(bytes("java/leased"))), left.getKeys());
        expect(wait(leases.keepAliveOnce(id)).getTTL() == 60, "renewed");
        wait(leases.revoke(id));
        expect(wait(kv.get(bytes("java/leased"))).getKvs().isEmpty(), "revoked");
    }

    private static void keptAlive(io.etcd.jetcd.Client client) throws Exception {
        var leases = client.getLeaseClient();
        var kv = client.getKVClient();
        long id = wait(leases.grant(2)).getID();
        wait(kv.put(bytes("java/alive"), bytes("x"), PutOption.builder().withLeaseId(id).build()));
        var renewals = new CountDownLatch(3);
        var observer = new StreamObserver<LeaseKeepAliveResponse>() {
            @Override
            public void onNext(LeaseKeepAliveResponse response) {
                renewals.countDown();
            }

            @Override
            public void onError(Throwable error) { }

            @Override
            public void onCompleted() { }
        };
        try (CloseableClient keepAlive = leases.keepAlive(id, observer)) {
            expect(renewals.await(SECONDS, TimeUnit.SECONDS), "three renewals");
            Thread.sleep(3_000);
            expect(wait(kv.get(bytes("java/alive"))).getKvs().size() == 1, "alive for longer than its time");
        }
        long end = System.nanoTime() + TimeUnit.SECONDS.toNanos(SECONDS);
        while (!wait(kv.get(bytes("java/alive"))).getKvs().isEmpty()) {
            expect(System.nanoTime() < end, "it ends once nobody renews it");
            Thread.sleep(100);
        }
    }

    private static void lock(io.etcd.jetcd.Client client) throws Exception {
        var leases = client.getLeaseClient();
        long one = wait(leases.grant(30)).getID();
        long two = wait(leases.grant(30)).getID();
        var locks = client.getLockClient();
        ByteSequence held = wait(locks.lock(bytes("java/lock"), one)).getKey();
        var waiting = locks.lock(bytes("java/lock"), two);
        Thread.sleep(500);
        expect(!waiting.isDone(), "held by another");
        wait(locks.unlock(held));
        wait(locks.unlock(wait(waiting).getKey()));
    }

    private static void election(io.etcd.jetcd.Client client) throws Exception {
        var elections = client.getElectionClient();
        long id = wait(client.getLeaseClient().grant(30)).getID();
        var leader = wait(elections.campaign(bytes("java/election"), id, bytes("me"))).getLeader();
        expect(wait(elections.leader(bytes("java/election"))).getKv().getValue().equals(bytes("me")), "leader");
        wait(elections.proclaim(leader, bytes("still me")));
        wait(elections.resign(leader));
    }

    private static void maintenance(io.etcd.jetcd.Client client) throws Exception {
        expect(wait(client.getClusterClient().listMember()).getMembers().size() == 1, "one member");
        var maintenance = client.getMaintenanceClient();
        expect(wait(maintenance.listAlarms()).getAlarms().isEmpty(), "no alarms");
        var image = new ByteArrayOutputStream();
        expect(wait(maintenance.snapshot(image)) > 1024 && image.size() > 1024, image.size());
    }

    private static boolean isUnimplemented(Throwable error) {
        for (Throwable cause = error; cause != null; cause = cause.getCause()) {
            if (cause instanceof StatusRuntimeException status
                    && status.getStatus().getCode() == Status.Code.UNIMPLEMENTED) {
                return true;
            }
            // jetcd's election client keeps the text alone.
            if (String.valueOf(cause.getMessage()).contains("is not built yet")) {
                return true;
            }
        }
        return false;
    }

    public static void main(String[] arguments) {
        Map<String, Check> checks = new LinkedHashMap<>();
        checks.put("pairs", Client::pairs);
        checks.put("transaction", Client::transaction);
        checks.put("watch", Client::watch);
        checks.put("compaction", Client::compaction);
        checks.put("lease", Client::lease);
        checks.put("kept alive", Client::keptAlive);
        checks.put("maintenance", Client::maintenance);
        checks.put("lock", Client::lock);
        checks.put("election", Client::election);
        int passed = 0;
        int failed = 0;
        int absent = 0;
        for (var check : checks.entrySet()) {
            boolean mayBeMissing = check.getKey().equals("lock") || check.getKey().equals("election");
            try (var client = io.etcd.jetcd.Client.builder().endpoints(URI.create("http://" + arguments[0]))
                    .retryMaxDuration(Duration.ofSeconds(SECONDS)).build()) {
                check.getValue().run(client);
                passed++;
                System.out.println("ok      " + check.getKey());
            } catch (Exception | AssertionError error) {
                if (mayBeMissing && isUnimplemented(error)) {
                    absent++;
                    System.out.println("absent  " + check.getKey() + ": the server has no such service");
                } else {
                    failed++;
                    System.out.println("FAILED  " + check.getKey() + ": " + error);
                }
            }
        }
        System.out.println("client-java: " + passed + " passed, " + failed + " failed"
                + (absent == 0 ? "" : " (" + absent + " not served)"));
        System.exit(failed == 0 ? 0 : 1);
    }
}
