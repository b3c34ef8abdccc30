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

// spoilt is a kind of fault that needs namespaces and disks of the members' own.
type spoilt struct {
	name string
	does func(t *test, load *load, leader, follower int, lasts time.Duration) error
}

// spoilers are done in turn, so that each comes up; longer ones only in the long form.
func spoilers(long bool) []spoilt {
	all := []spoilt{
		{"the leader is cut off", func(t *test, _ *load, leader, _ int, lasts time.Duration) error {
			return t.rains(weather{cut: between([]int{leader}, t.rest(leader))}, lasts)
		}},
		{"a follower is cut off", func(t *test, _ *load, _, follower int, lasts time.Duration) error {
			return t.rains(weather{cut: between([]int{follower}, t.rest(follower))}, lasts)
		}},
		{"the leader is heard, and hears nobody", func(t *test, _ *load, leader, _ int, lasts time.Duration) error {
			return t.rains(weather{cut: oneWay(t.rest(leader), []int{leader})}, lasts)
		}},
		{"the leader hears, and nobody hears it", func(t *test, _ *load, leader, _ int, lasts time.Duration) error {
			return t.rains(weather{cut: oneWay([]int{leader}, t.rest(leader))}, lasts)
		}},
		{"a follower does not hear the leader", func(t *test, _ *load, leader, follower int, lasts time.Duration) error {
			return t.rains(weather{cut: oneWay([]int{leader}, []int{follower})}, lasts)
		}},
		{"a bridge: two halves that only one member can reach", func(t *test, _ *load, leader, follower int, lasts time.Duration) error {
			others := t.rest(follower)
			half := len(others) / 2
			return t.rains(weather{cut: between(others[:half], others[half:])}, lasts)
		}},
		{"two halves, the leader in the smaller one", func(t *test, _ *load, leader, _ int, lasts time.Duration) error {
			smaller := append([]int{leader}, t.rest(leader)[:(len(t.cluster.members)-1)/2-1]...)
			return t.rains(weather{cut: between(smaller, t.without(smaller))}, lasts)
		}},
		{"a tenth of the packets is lost, some are doubled, all late by up to 15 ms", func(t *test, _ *load, _, _ int, lasts time.Duration) error {
			return t.rains(weather{loss: 0.1, double: 0.05, delayMax: 15 * time.Millisecond}, lasts)
		}},
		{"the disk of the leader stands still", func(t *test, _ *load, leader, _ int, lasts time.Duration) error {
			return t.standsStill(leader, lasts)
		}},
		{"the disk of a follower stands still", func(t *test, _ *load, _, follower int, lasts time.Duration) error {
			return t.standsStill(follower, lasts)
		}},
		{"the disk of a follower is full", func(t *test, load *load, leader, follower int, lasts time.Duration) error {
			return t.isFull(load, leader, follower, lasts)
		}},
		{"a member is replaced under load", func(t *test, load *load, _, follower int, _ time.Duration) error {
			return t.replaced(follower)
		}},
	}
	if long {
		all = append(all, spoilt{"the disk of the leader is full", func(t *test, load *load, leader, _ int, lasts time.Duration) error {
			return t.isFull(load, leader, leader, lasts)
		}}, spoilt{"UDP of a follower is cut, TCP works", func(t *test, _ *load, _, follower int, _ time.Duration) error {
			return t.noUDP(follower)
		}})
	}
	return all
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
	kinds := slices.DeleteFunc(spoilers(long || only != ""), func(kind spoilt) bool { return !strings.Contains(kind.name, only) })
	if len(kinds) == 0 {
		t.verdict("-only", []string{"there is no such fault"})
		return
	}
	order := t.random.Perm(len(kinds))
	began := time.Now()
	for n := 0; n < max(faults, len(kinds)) || load.count() < operations; n++ {
		var name string
		if n%3 == 2 && only == "" {
			name, err = t.fault(load)
		} else {
			name, err = t.spoil(load, kinds[order[(n-n/3)%len(kinds)]])
		}
		fmt.Printf("%5.1f s, %d operations: %s\n", time.Since(began).Seconds(), load.count(), name)
		if err != nil {
			t.verdict(name, []string{err.Error()})
			break
		}
		t.passed++
	}
	fmt.Printf("%d packets were lost on purpose\n", network.eaten.Load())
	t.judge(load.finish())
}

// spoil does it, undoes it, and waits until all members serve and writes go through.
func (t *test) spoil(load *load, kind spoilt) (name string, err error) {
	leader, err := t.cluster.leader()
	if err != nil {
		return kind.name, err
	}
	follower := t.rest(leader)[t.random.Intn(len(t.cluster.members)-1)]
	lasts := 500*time.Millisecond + time.Duration(t.random.Int63n(int64(2500*time.Millisecond)))
	name = fmt.Sprintf("%s (leader %d, follower %d, %v)", kind.name, leader, follower, lasts.Round(time.Millisecond))
	if err = kind.does(t, load, leader, follower, lasts); err == nil {
		err = t.cluster.settle()
	}
	if err == nil {
		err = t.written(load)
	}
	return name, err
}

// rest is all members but one.
func (t *test) rest(but int) []int { return t.without([]int{but}) }

func (t *test) without(some []int) (rest []int) {
	for i := range t.cluster.members {
		is := false
		for _, one := range some {
			is = is || one == i
		}
		if !is {
			rest = append(rest, i)
		}
	}
	return rest
}

func (t *test) rains(w weather, lasts time.Duration) error {
	t.network.set(w)
	time.Sleep(lasts)
	t.network.heal()
	return nil
}

func (t *test) standsStill(who int, lasts time.Duration) error {
	thawed, err := t.cluster.disks[who].freeze(lasts)
	if err != nil {
		return err
	}
	return thawed()
}

func (t *test) isFull(load *load, leader, who int, lasts time.Duration) error {
	undo, err := t.cluster.disks[who].fill()
	if err != nil {
		return err
	}
	// The member looks at its disk now and then, and must meet the end of it.
	time.Sleep(lasts)
	if who != leader {
		err = t.written(load)
	}
	return errors.Join(err, undo())
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
	if !strings.HasSuffix(t.program, "etcd") && !strings.Contains(member.LogTail(), "removed from") {
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
