package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"syscall"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"ringstone.test/internal/server"
)

// leftBehindPuts of largeBytes are more than ringstone keeps for followers (16 MiB).
const leftBehindPuts = 24

// scene is who plays which part in a fault, and for how long it lasts.
type scene struct {
	leader, follower int
	lasts            time.Duration
}

// fault is something that is done to the members, and undone.
type fault struct {
	name string
	does func(t *test, load *load, s scene) error
}

// processFaults need nothing but the members' processes. They are done in turn, so that each comes up.
func processFaults() []fault {
	return []fault{
		{"SIGKILL of the leader", func(t *test, load *load, s scene) error {
			return t.killed(load, s.lasts, s.leader, s.leader)
		}},
		{"SIGKILL of a follower", func(t *test, load *load, s scene) error {
			return t.killed(load, s.lasts, s.leader, s.follower)
		}},
		{"SIGKILL of as many as may fail, the leader among them", func(t *test, load *load, s scene) error {
			return t.killed(load, s.lasts, s.leader, t.some(s.leader, t.mayFail())...)
		}},
		{"SIGKILL of as many followers as may fail", func(t *test, load *load, s scene) error {
			return t.killed(load, s.lasts, s.leader, t.followers(s, t.mayFail())...)
		}},
		{"SIGKILL of a majority", func(t *test, load *load, s scene) error {
			return t.killed(load, s.lasts, s.leader, t.some(s.leader, t.mayFail()+1)...)
		}},
		{"SIGKILL of all", func(t *test, load *load, s scene) error {
			return t.killed(load, s.lasts, s.leader, t.all()...)
		}},
		{"SIGSTOP of the leader", func(t *test, _ *load, s scene) error {
			return t.stopped(s.lasts+time.Second, s.leader)
		}},
		{"SIGSTOP of a follower", func(t *test, _ *load, s scene) error {
			return t.stopped(s.lasts, s.follower)
		}},
		{"SIGSTOP of all", func(t *test, _ *load, s scene) error {
			return t.stopped(s.lasts, t.all()...)
		}},
		{"SIGTERM of the leader", func(t *test, load *load, s scene) error {
			return t.ended(load, s.lasts, s.leader)
		}},
		{"SIGKILL of a follower while much is written", func(t *test, load *load, s scene) error {
			return t.leftBehind(load, s.leader, s.follower)
		}},
		{"the leader hands over", func(t *test, _ *load, s scene) error {
			return t.handedOver(s.leader, s.follower)
		}},
	}
}

// next does the fault, and waits until all members serve and writes go through.
func (t *test) next(load *load, kind fault) (name string, err error) {
	leader, err := t.cluster.leader()
	if err != nil {
		return kind.name, err
	}
	s := scene{leader: leader, follower: leader, lasts: 300*time.Millisecond + time.Duration(t.random.Int63n(int64(2500*time.Millisecond)))}
	if rest := t.rest(leader); len(rest) > 0 {
		s.follower = rest[t.random.Intn(len(rest))]
	}
	name = fmt.Sprintf("%s (leader %d, follower %d, %v)", kind.name, s.leader, s.follower, s.lasts.Round(time.Millisecond))
	if err = kind.does(t, load, s); err == nil {
		err = t.cluster.settle()
	}
	if err == nil {
		err = t.written(load)
	}
	return name, err
}

// mayFail is how many members may fail at once.
func (t *test) mayFail() int { return (len(t.cluster.members) - 1) / 2 }

// some is so many members, this one first.
func (t *test) some(first, count int) []int {
	return append([]int{first}, t.rest(first)...)[:max(count, 1)]
}

// followers is so many members, that of the scene first and the leader not among them.
func (t *test) followers(s scene, count int) []int {
	return append([]int{s.follower}, t.without([]int{s.leader, s.follower})...)[:max(count, 1)]
}

// rest is all members but one.
func (t *test) rest(but int) []int { return t.without([]int{but}) }

func (t *test) without(some []int) (rest []int) {
	for i := range t.cluster.members {
		if !slices.Contains(some, i) {
			rest = append(rest, i)
		}
	}
	return rest
}

func (t *test) all() []int {
	all := make([]int, len(t.cluster.members))
	for i := range all {
		all[i] = i
	}
	return all
}

func (t *test) killed(load *load, downtime time.Duration, leader int, who ...int) error {
	since := load.now()
	began := time.Now()
	for _, i := range who {
		t.cluster.members[i].Kill()
	}
	if len(who) == 1 && who[0] == leader && len(t.cluster.members) > 2 {
		for time.Since(began) < downtime && !writtenSince(load, since) {
			time.Sleep(time.Millisecond)
		}
		if writtenSince(load, since) {
			t.failovers = append(t.failovers, time.Since(began))
		}
	}
	time.Sleep(downtime - time.Since(began))
	for _, i := range who {
		if err := t.cluster.members[i].Launch(); err != nil {
			return err
		}
	}
	return nil
}

// leftBehind kills a follower and writes so much meanwhile that the others need not keep it all for it.
func (t *test) leftBehind(load *load, leader, follower int) error {
	if leader != follower {
		t.cluster.members[follower].Kill()
	}
	if err := load.large(leader, leftBehindPuts); err != nil {
		return err
	}
	if leader != follower {
		return t.cluster.members[follower].Launch()
	}
	return nil
}

// writtenSince answers whether a write was acknowledged that had been under way, or begun, some time after the moment: what
// was on its way then may still come.
func writtenSince(load *load, moment int64) bool {
	return load.written.Load() > moment+int64(20*time.Millisecond)
}

func (t *test) stopped(downtime time.Duration, who ...int) (err error) {
	for _, i := range who {
		err = errors.Join(err, t.cluster.members[i].Signal(syscall.SIGSTOP))
	}
	time.Sleep(downtime)
	for _, i := range who {
		err = errors.Join(err, t.cluster.members[i].Signal(syscall.SIGCONT))
	}
	return err
}

// ended asks a member to end, which it must do in order and soon, and starts it again.
func (t *test) ended(load *load, downtime time.Duration, who int) error {
	began := time.Now()
	if err := t.cluster.members[who].Stop(patience); err != nil {
		return err
	}
	if len(t.cluster.members) > 2 {
		if err := t.written(load); err != nil {
			return err
		}
	}
	time.Sleep(downtime - time.Since(began))
	return t.cluster.members[who].Launch()
}

func (t *test) handedOver(leader, to int) error {
	if leader == to {
		return nil
	}
	target, err := t.cluster.status(t.cluster.members[to])
	if err != nil {
		return err
	}
	connection, err := server.Dial(t.cluster.members[leader].Endpoint)
	if err != nil {
		return err
	}
	defer connection.Close()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	_, err = pb.NewMaintenanceClient(connection).MoveLeader(ctx, &pb.MoveLeaderRequest{TargetID: target.Header.MemberId})
	return err
}

// written waits for a write that is acknowledged from now on.
func (t *test) written(load *load) error {
	since, deadline := load.now(), time.Now().Add(patience)
	for load.written.Load() <= since {
		if time.Now().After(deadline) {
			return errors.New("no write was acknowledged within " + patience.String() + " of the fault's end")
		}
		time.Sleep(5 * time.Millisecond)
	}
	return nil
}
