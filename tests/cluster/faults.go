package main

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"ringstone.test/internal/server"
)

// leftBehindPuts of largeBytes are more than ringstone keeps for followers (16 MiB).
const leftBehindPuts = 24

// fault does something to the members, undoes it, and waits until all of them serve and writes go through.
func (t *test) fault(load *load) (name string, err error) {
	leader, err := t.cluster.leader()
	if err != nil {
		return "the search for a leader", err
	}
	follower := (leader + 1 + t.random.Intn(max(len(t.cluster.members)-1, 1))) % len(t.cluster.members)
	downtime := 200*time.Millisecond + time.Duration(t.random.Int63n(int64(2*time.Second)))
	switch t.random.Intn(8) {
	case 0, 1:
		name, err = fmt.Sprintf("SIGKILL of the leader, member %d, for %v", leader, downtime), t.killed(load, downtime, leader, leader)
	case 2:
		name, err = fmt.Sprintf("SIGKILL of follower %d for %v", follower, downtime), t.killed(load, downtime, leader, follower)
	case 3:
		name, err = fmt.Sprintf("SIGKILL of all for %v", downtime), t.killed(load, downtime, leader, t.all()...)
	case 4:
		downtime += time.Second
		name, err = fmt.Sprintf("SIGSTOP of the leader, member %d, for %v", leader, downtime), t.stopped(downtime, leader)
	case 5:
		name, err = fmt.Sprintf("SIGSTOP of follower %d for %v", follower, downtime), t.stopped(downtime, follower)
	case 6:
		name, err = fmt.Sprintf("SIGKILL of follower %d while much is written", follower), t.leftBehind(load, leader, follower)
	default:
		name, err = fmt.Sprintf("the leader hands over, from member %d to %d", leader, follower), t.handedOver(leader, follower)
	}
	if err == nil {
		err = t.cluster.settle()
	}
	if err == nil {
		err = t.written(load)
	}
	return name, err
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

func (t *test) stopped(downtime time.Duration, who int) error {
	member := t.cluster.members[who]
	if err := member.Signal(syscall.SIGSTOP); err != nil {
		return err
	}
	time.Sleep(downtime)
	return member.Signal(syscall.SIGCONT)
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
