package main

import (
	"bytes"
	"cmp"
	"fmt"
	"slices"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// How far a remaining time may be from what the clock of this program says: whole seconds, and calls under way.
const clockTolerance = 3 * time.Second

// normaliseTimeToLive checks the remaining time against our own clock and takes it out of the comparison. After a
// restart a lease may have its full time again, so the lower bound is the only one that follows the clock.
func (s *side) normaliseTimeToLive(m *pb.LeaseTimeToLiveResponse) (complaints []string) {
	slices.SortFunc(m.Keys, bytes.Compare)
	if m.TTL <= 0 {
		return nil
	}
	// 9e9 seconds do not fit a Duration together with anything else.
	elapsed := int64((time.Since(s.renewed[m.ID]) + clockTolerance) / time.Second)
	if low, high := m.GrantedTTL-elapsed, m.GrantedTTL+int64(clockTolerance/time.Second); m.TTL < low || m.TTL > high {
		complaints = append(complaints, fmt.Sprintf("%s: lease %d has %d s left, expected within [%d, %d]", s.name, m.ID, m.TTL, low, high))
	}
	m.TTL = 1
	return complaints
}

// normaliseLeases checks that leases come soonest first, by our own clock, and then sorts them by id.
func (s *side) normaliseLeases(m *pb.LeaseLeasesResponse) (complaints []string) {
	end := func(id int64) int64 { return s.renewed[id].Unix() + s.granted[id] }
	for i := 1; i < len(m.Leases); i++ {
		before, after := m.Leases[i-1].ID, m.Leases[i].ID
		if end(before) > end(after)+2*int64(clockTolerance/time.Second) {
			complaints = append(complaints, fmt.Sprintf("%s: lease %d comes before %d but ends %d s later", s.name, before, after, end(before)-end(after)))
		}
	}
	slices.SortFunc(m.Leases, func(a, b *pb.LeaseStatus) int { return cmp.Compare(a.ID, b.ID) })
	return complaints
}

func sortAlarms(m *pb.AlarmResponse) {
	slices.SortFunc(m.Alarms, func(a, b *pb.AlarmMember) int {
		if a.Alarm != b.Alarm {
			return int(a.Alarm - b.Alarm)
		}
		if a.MemberID < b.MemberID {
			return -1
		}
		return 1
	})
}

// checkHash holds a server to its own earlier answers: one revision and one compaction have one hash.
func (s *side) checkHash(m *pb.HashKVResponse) (complaints []string) {
	if m.HashRevision < 1 {
		return nil
	}
	at := [2]int64{m.HashRevision, m.CompactRevision}
	if earlier, ok := s.hashes[at]; ok && earlier != m.Hash {
		complaints = append(complaints, fmt.Sprintf("%s: hash at %v was %d, now %d", s.name, at, earlier, m.Hash))
	}
	s.hashes[at] = m.Hash
	return complaints
}

// compareHashes compares not the hashes but which of them are equal: two revisions with the same compaction hash alike
// on the target exactly when they do on the control. Then the value goes out of the comparison.
func (r *runner) compareHashes(control, target *pb.HashKVResponse) (complaints []string) {
	if last := r.lastHash; last[0] != nil && control.HashRevision >= 1 && last[0].CompactRevision == control.CompactRevision && last[1].CompactRevision == target.CompactRevision {
		sameControl, sameTarget := last[0].Hash == control.Hash, last[1].Hash == target.Hash
		if sameControl != sameTarget {
			complaints = append(complaints, fmt.Sprintf("hashes at %d and %d: equal on control %v, on target %v", last[0].HashRevision, control.HashRevision, sameControl, sameTarget))
		}
	}
	r.lastHash = [2]*pb.HashKVResponse{
		{Hash: control.Hash, CompactRevision: control.CompactRevision, HashRevision: control.HashRevision},
		{Hash: target.Hash, CompactRevision: target.CompactRevision, HashRevision: target.HashRevision},
	}
	if control.HashRevision < 1 {
		r.lastHash = [2]*pb.HashKVResponse{}
	}
	if control.Hash != target.Hash {
		r.coverage.known[knownHash]++
	}
	control.Hash, target.Hash = 0, 0
	return complaints
}
