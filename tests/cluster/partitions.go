package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"ringstone.test/internal/server"
)

// udpFoundWithin is how long it may take to find out that UDP alone is cut: 15 s of silence, and dials that run out of time.
const udpFoundWithin = 60 * time.Second

// spoilers need namespaces and disks of the members' own. They are done in turn, so that each comes up; what takes long only in
// the long form.
func spoilers(long bool) []fault {
	all := slices.Concat(links(), diskFaults(), pairs())
	all = append(all, fault{"a member is replaced under load", func(t *test, _ *load, s scene) error {
		return t.replaced(s.follower)
	}})
	if long {
		all = append(all, fault{"the disk of the leader is full", func(t *test, load *load, s scene) error {
			return t.isFull(load, s, s.leader)
		}}, fault{"UDP of a follower is cut, TCP works", func(t *test, _ *load, s scene) error {
			return t.noUDP(s.follower)
		}})
	}
	return all
}

// links are what the network does.
func links() []fault {
	cuts := func(name string, cut func(t *test, s scene) map[link]bool) fault {
		return fault{name, func(t *test, _ *load, s scene) error { return t.rains(weather{cut: cut(t, s)}, s.lasts) }}
	}
	return []fault{
		cuts("the leader is cut off", func(t *test, s scene) map[link]bool {
			return between([]int{s.leader}, t.rest(s.leader))
		}),
		cuts("a follower is cut off", func(t *test, s scene) map[link]bool {
			return between([]int{s.follower}, t.rest(s.follower))
		}),
		cuts("the leader is heard, and hears nobody", func(t *test, s scene) map[link]bool {
			return oneWay(t.rest(s.leader), []int{s.leader})
		}),
		cuts("the leader hears, and nobody hears it", func(t *test, s scene) map[link]bool {
			return oneWay([]int{s.leader}, t.rest(s.leader))
		}),
		cuts("a follower does not hear the leader", func(_ *test, s scene) map[link]bool {
			return oneWay([]int{s.leader}, []int{s.follower})
		}),
		cuts("a follower hears, and nobody hears it", func(t *test, s scene) map[link]bool {
			return oneWay([]int{s.follower}, t.rest(s.follower))
		}),
		cuts("a bridge: two halves that only one member can reach", func(t *test, s scene) map[link]bool {
			others := t.rest(s.follower)
			half := len(others) / 2
			return between(others[:half], others[half:])
		}),
		cuts("two halves, the leader in the smaller one", func(t *test, s scene) map[link]bool {
			smaller := t.some(s.leader, t.mayFail())
			return between(smaller, t.without(smaller))
		}),
		cuts("two halves, the leader in the larger one", func(t *test, s scene) map[link]bool {
			smaller := t.followers(s, t.mayFail())
			return between(smaller, t.without(smaller))
		}),
		cuts("nobody reaches anybody", func(t *test, _ scene) map[link]bool {
			return between(t.all(), t.all())
		}),
		{"a tenth of the packets is lost, some are doubled, all late by up to 15 ms", func(t *test, _ *load, s scene) error {
			return t.rains(weather{loss: 0.1, double: 0.05, delayMax: 15 * time.Millisecond}, s.lasts)
		}},
		{"a link comes and goes", func(t *test, _ *load, s scene) error {
			for until := time.Now().Add(s.lasts); time.Now().Before(until); {
				_ = t.rains(weather{cut: between([]int{s.leader}, []int{s.follower})}, 150*time.Millisecond)
				time.Sleep(100 * time.Millisecond)
			}
			return nil
		}},
	}
}

// diskFaults are what the members' disks do.
func diskFaults() []fault {
	return []fault{
		{"the disk of the leader stands still", func(t *test, _ *load, s scene) error {
			return t.standsStill(s.leader, s.lasts)
		}},
		{"the disk of a follower stands still", func(t *test, _ *load, s scene) error {
			return t.standsStill(s.follower, s.lasts)
		}},
		{"the disk of the leader is slow", func(t *test, _ *load, s scene) error {
			return t.isSlow(s.leader, s.lasts)
		}},
		{"the disk of a follower is slow", func(t *test, _ *load, s scene) error {
			return t.isSlow(s.follower, s.lasts)
		}},
		{"the disk of a follower is full", func(t *test, load *load, s scene) error {
			return t.isFull(load, s, s.follower)
		}},
		{"the disk of the leader fails", func(t *test, load *load, s scene) error {
			return t.fails(load, s, s.leader)
		}},
		{"the disk of a follower fails", func(t *test, load *load, s scene) error {
			return t.fails(load, s, s.follower)
		}},
		{"a power cut of the leader", func(t *test, _ *load, s scene) error {
			return t.powerCut(s.lasts, s.leader)
		}},
		{"a power cut of a follower", func(t *test, _ *load, s scene) error {
			return t.powerCut(s.lasts, s.follower)
		}},
		{"a power cut of all", func(t *test, _ *load, s scene) error {
			return t.powerCut(s.lasts, t.all()...)
		}},
	}
}

// pairs are two faults at a time, of which the second one begins while the first one lasts.
func pairs() []fault {
	both := func(name string, first, second func(t *test, load *load, s scene) error) fault {
		return fault{name, func(t *test, load *load, s scene) error {
			done := make(chan error, 1)
			go func() { done <- first(t, load, s) }()
			time.Sleep(s.lasts / 4)
			return errors.Join(second(t, load, s), <-done)
		}}
	}
	killFollower := func(t *test, load *load, s scene) error {
		return t.killed(load, s.lasts, s.leader, s.follower)
	}
	return []fault{
		both("the leader is cut off, a follower killed", func(t *test, _ *load, s scene) error {
			return t.rains(weather{cut: between([]int{s.leader}, t.rest(s.leader))}, s.lasts)
		}, killFollower),
		both("packets are lost, the leader is killed", func(t *test, _ *load, s scene) error {
			return t.rains(weather{loss: 0.1, delayMax: 15 * time.Millisecond}, 2*s.lasts)
		}, func(t *test, load *load, s scene) error {
			return t.killed(load, s.lasts, s.leader, s.leader)
		}),
		both("the disk of the leader stands still, a follower is killed", func(t *test, _ *load, s scene) error {
			return t.standsStill(s.leader, s.lasts)
		}, killFollower),
		both("the disk of the leader is slow, the power of a follower is cut", func(t *test, _ *load, s scene) error {
			return t.isSlow(s.leader, 2*s.lasts)
		}, func(t *test, _ *load, s scene) error {
			return t.powerCut(s.lasts, s.follower)
		}),
		both("a follower is stopped, then the others are killed", func(t *test, _ *load, s scene) error {
			return t.stopped(2*s.lasts, s.follower)
		}, func(t *test, load *load, s scene) error {
			return t.killed(load, s.lasts, s.leader, t.rest(s.follower)...)
		}),
	}
}

// partitions is clients of all members at work while the network and the disks of the members are spoilt, and members killed and
// stopped in between.
func (t *test) partitions(command string, members, clients, operations, faults int, long bool, only string) {
	network, err := newNetwork(members, t.random.Int63())
	if err != nil {
		t.verdict("the network", []string{err.Error()})
		return
	}
	t.network = network
	if !t.begin(command, members, timingFlags()) {
		return
	}
	defer t.cluster.kill()
	load := startLoad(t.cluster, clients, t.random.Int63())
	kinds, others := newTurns(t, spoilers(long)), newTurns(t, processFaults())
	if only != "" {
		kinds = newTurns(t, named(append(spoilers(true), processFaults()...), only))
	}
	began := time.Now()
	for n := 0; n < faults || load.count() < operations; n++ {
		turns := kinds
		if n%3 == 2 && only == "" {
			turns = others
		}
		name, err := t.next(load, turns.take())
		fmt.Printf("%5.1f s, %d operations: %s\n", time.Since(began).Seconds(), load.count(), name)
		if err != nil {
			t.verdict(name, []string{err.Error()})
			break
		}
		t.passed++
	}
	fmt.Printf("%d packets were lost on purpose\n", network.eaten.Load())
	t.judge(load)
}

func (t *test) rains(w weather, lasts time.Duration) error {
	t.network.set(w)
	time.Sleep(lasts)
	t.network.heal()
	return nil
}

// noUDP cuts UDP alone between a member and the others until the others say so in words: in their logs and in Status.
func (t *test) noUDP(who int) error {
	rest := t.rest(who)
	t.network.set(weather{noUDP: between([]int{who}, rest)})
	defer t.network.heal()
	deadline := time.Now().Add(udpFoundWithin)
	const words = "answers over TCP but not over UDP"
	for _, i := range rest {
		member := t.cluster.members[i]
		for {
			status, err := t.cluster.status(member)
			content, _ := os.ReadFile(member.Folder + "/log")
			inStatus := err == nil && strings.Contains(strings.Join(status.Errors, "\n"), address(who+1)+":2380 "+words)
			if inStatus && strings.Contains(string(content), words) {
				break
			}
			if time.Now().After(deadline) {
				return fmt.Errorf("member %d does not say that UDP of member %d is cut: status %v %v\n%s", i, who, status.GetErrors(), err, member.LogTail())
			}
			time.Sleep(100 * time.Millisecond)
		}
	}
	t.network.heal()
	// And no more once it is mended.
	for _, i := range rest {
		for {
			status, err := t.cluster.status(t.cluster.members[i])
			if err == nil && !strings.Contains(strings.Join(status.Errors, "\n"), words) {
				break
			}
			if time.Now().After(deadline.Add(patience)) {
				return fmt.Errorf("member %d still says that UDP of member %d is cut: %v %v", i, who, status.GetErrors(), err)
			}
			time.Sleep(100 * time.Millisecond)
		}
	}
	return nil
}

// replaced removes a member, empties its folder, and brings it back as a learner that is promoted.
func (t *test) replaced(who int) error {
	old, err := t.cluster.status(t.cluster.members[who])
	if err != nil {
		return err
	}
	helper := t.cluster.members[t.rest(who)[0]]
	connection, err := server.Dial(helper.Endpoint)
	if err != nil {
		return err
	}
	defer connection.Close()
	api := pb.NewClusterClient(connection)
	member := t.cluster.members[who]
	if err := retried(func(ctx context.Context) error {
		_, err := api.MemberRemove(ctx, &pb.MemberRemoveRequest{ID: old.Header.MemberId})
		return err
	}, "member not found"); err != nil {
		return fmt.Errorf("remove: %w", err)
	}
	select {
	case <-member.Exited():
	case <-time.After(patience):
		return fmt.Errorf("the removed member does not end\n%s", member.LogTail())
	}
	if !t.isEtcd() && !strings.Contains(member.LogTail(), "removed from") {
		return fmt.Errorf("the removed member does not say why it ends\n%s", member.LogTail())
	}
	if err := os.RemoveAll(member.Data); err != nil {
		return err
	}
	var id uint64
	if err := retried(func(ctx context.Context) error {
		added, err := api.MemberAdd(ctx, &pb.MemberAddRequest{PeerURLs: []string{member.PeerURL}, IsLearner: true})
		if err == nil {
			id = added.Member.ID
		}
		return err
	}, ""); err != nil {
		return fmt.Errorf("add: %w", err)
	}
	member.AddFlags("--initial-cluster-state=existing")
	if err := member.Launch(); err != nil {
		return err
	}
	return retried(func(ctx context.Context) error {
		if !member.Alive() {
			return fmt.Errorf("the new member has ended\n%s", member.LogTail())
		}
		_, err := api.MemberPromote(ctx, &pb.MemberPromoteRequest{ID: id})
		return err
	}, "can only promote a learner member")
}

// retried calls until it works, or fails with words (of which others begin alike) that show that it has worked before its answer
// was lost.
func retried(call func(context.Context) error, worked string) error {
	deadline := time.Now().Add(patience)
	for {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		err := call(ctx)
		cancel()
		if err == nil || worked != "" && strings.HasSuffix(err.Error(), worked) {
			return nil
		}
		if time.Now().After(deadline) {
			return err
		}
		time.Sleep(50 * time.Millisecond)
	}
}
