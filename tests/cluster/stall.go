package main

import (
	"fmt"
	"os"
	"strings"
	"time"
)

const (
	// A leader whose disk has stalled for one election timeout must have been replaced by then.
	movedWithin = 3 * time.Second
	stallLasts  = time.Second
)

// stall lets the leader's disk stand still again and again, and takes the time until another member leads.
func (t *test) stall(command string, members, runs int) {
	if !t.begin(command, members, timingFlags()) {
		return
	}
	defer t.cluster.kill()
	load := startLoad(t.cluster, 6, t.random.Int63())
	var took []time.Duration
	for run := range runs {
		after, err := t.stallOnce(load, stallLasts)
		if err != nil {
			t.verdict(fmt.Sprint("run ", run), []string{err.Error()})
			break
		}
		fmt.Printf("run %d: the disk of the leader stood still for %v, another member led after %v\n", run, stallLasts, after.Round(time.Millisecond))
		took = append(took, after)
		t.passed++
	}
	if len(took) == runs {
		t.within("change of leaders", took, movedWithin)
		t.verdict("what the logs say", t.complaintsAboutWords())
	}
	t.judge(load)
}

// stallOnce answers after what time another member leads, counted from before the disk stood still.
func (t *test) stallOnce(load *load, lasts time.Duration) (time.Duration, error) {
	leader, err := t.cluster.leader()
	if err != nil {
		return 0, err
	}
	began := time.Now()
	thawed, err := t.cluster.disks[leader].freeze(lasts)
	if err != nil {
		return 0, err
	}
	after := time.Duration(0)
	for after == 0 && time.Since(began) < movedWithin+lasts {
		if another, err := t.otherLeader(leader); err == nil && another {
			after = time.Since(began)
		}
		time.Sleep(10 * time.Millisecond)
	}
	if err := thawed(); err != nil {
		return 0, err
	}
	if after == 0 {
		return 0, fmt.Errorf("member %d still leads %v after its disk stood still\n%s", leader, time.Since(began), t.cluster.members[leader].LogTail())
	}
	if err := t.cluster.settle(); err != nil {
		return 0, err
	}
	return after, t.written(load)
}

// otherLeader asks the others whom they follow.
func (t *test) otherLeader(than int) (bool, error) {
	for i, member := range t.cluster.members {
		if i == than {
			continue
		}
		status, err := t.cluster.status(member)
		if err != nil {
			return false, err
		}
		if status.Leader == status.Header.MemberId {
			return true, nil
		}
	}
	return false, nil
}

// complaintsAboutWords: an operator must read which disk it was, how long, and what has become of the leadership. Etcd has
// other words, and is not asked.
func (t *test) complaintsAboutWords() []string {
	if t.isEtcd() {
		return nil
	}
	for i, member := range t.cluster.members {
		content, err := os.ReadFile(member.Folder + "/log")
		if err == nil && strings.Contains(string(content), "the disk does not answer a write or sync of the log: this member gives its leadership away") &&
			strings.Contains(string(content), t.cluster.disks[i].Mount) && strings.Contains(string(content), "the disk answers again") {
			return nil
		}
	}
	return []string{"no member's log says that its disk did not answer, where, and that it gave its leadership away:\n" + t.cluster.members[0].LogTail()}
}
