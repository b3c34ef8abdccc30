package main

import (
	"fmt"
	"math/rand"
	"os"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"

	"go.etcd.io/etcd/api/v3/mvccpb"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// runner sends one stream of calls to both sides and judges the answers. An epoch is a run over two fresh servers.
type runner struct {
	generator
	control, target *side
	coverage        *coverage
	seed            int64
	epoch           int
	budget          int // calls left in this epoch
	calls           int // calls sent in this epoch
	passed          int
	failed          int
	mostFailures    int
	stop            bool // the sides have parted, or enough failed

	pairs    []*watchPair
	observer *watchStream // sees every event of the control
	seen     int          // responses of the observer that are in history
	history  []*mvccpb.Event
	unsynced bool // a watch that replays was created since the last barrier
	lastHash [2]*pb.HashKVResponse
}

func newRunner(control, target *side, cover *coverage, seed int64, epoch, budget int) *runner {
	m := &model{revision: 1, compacted: -1, forgotten: map[int64]bool{}}
	return &runner{
		generator: generator{Rand: rand.New(rand.NewSource(seed*1_000_003 + int64(epoch))), model: m},
		control:   control, target: target, coverage: cover, seed: seed, epoch: epoch, budget: budget,
	}
}

// ask sends the call to both sides, compares, and learns from the control's answer. It answers what the control said.
func (r *runner) ask(method string, request proto.Message) *answer {
	return r.judge(&call{method: method, request: request})
}

func (r *runner) judge(c *call) *answer {
	if r.stop {
		return &answer{code: codes.Aborted, text: "the epoch has ended"}
	}
	r.calls++
	r.budget--
	var control, target *answer
	var group sync.WaitGroup
	group.Go(func() { target = r.target.do(c) })
	control = r.control.do(c)
	group.Wait()
	now := time.Now()

	r.learnLeases(c, control, target, now)
	original := cloneAnswer(control)
	complaints := r.normalise(c, control, target)
	found := compareAnswers(control, target)
	if len(found) > 0 && r.explainTies(c, original, target) {
		found = nil
		r.coverage.ties++
	}
	found = r.coverage.withoutKnown(c, r, control, target, found)
	r.coverage.count(c, control)
	for _, d := range found {
		complaints = append(complaints, d.String())
	}
	if len(complaints) > 0 {
		r.fail(c.method+" "+showRequest(c), complaints, show2(control), show2(target))
		r.checkStillTogether()
	} else {
		r.passed++
	}
	r.learn(c, control)
	return control
}

func cloneAnswer(a *answer) *answer {
	c := &answer{code: a.code, text: a.text}
	for _, m := range a.messages {
		c.messages = append(c.messages, proto.Clone(m))
	}
	return c
}

// learnLeases notes the ids that the servers picked by themselves, before anything is normalised.
func (r *runner) learnLeases(c *call, control, target *answer, now time.Time) {
	for _, pair := range []struct {
		s *side
		a *answer
	}{{r.control, control}, {r.target, target}} {
		if !pair.a.ok() {
			continue
		}
		for _, m := range pair.a.messages {
			switch m := m.(type) {
			case *pb.LeaseGrantResponse:
				id := m.ID
				if c.request.(*pb.LeaseGrantRequest).ID == 0 {
					if first, ok := control.messages[0].(*pb.LeaseGrantResponse); ok && control.ok() {
						pair.s.leaseOut[first.ID], pair.s.leaseBack[m.ID] = m.ID, first.ID
						id = first.ID
					}
				}
				pair.s.renewed[id], pair.s.granted[id] = now, m.TTL
			case *pb.LeaseKeepAliveResponse:
				if id := c.request.(*pb.LeaseKeepAliveRequest).ID; m.TTL > 0 {
					pair.s.renewed[id] = now
				}
			}
		}
	}
}

// normalise removes from both answers what may differ, as narrowly as we know how, and answers what is wrong with
// either of them by itself.
func (r *runner) normalise(c *call, control, target *answer) (complaints []string) {
	for _, pair := range []struct {
		s *side
		a *answer
	}{{r.control, control}, {r.target, target}} {
		for _, m := range pair.a.messages {
			complaints = append(complaints, pair.s.incoming(m)...)
			switch m := m.(type) {
			case *pb.StatusResponse:
				complaints = append(complaints, pair.s.normaliseStatus(m)...)
			case *pb.MemberListResponse:
				normaliseMembers(m)
			case *pb.AlarmResponse:
				sortAlarms(m)
			case *pb.LeaseTimeToLiveResponse:
				complaints = append(complaints, pair.s.normaliseTimeToLive(m)...)
			case *pb.LeaseLeasesResponse:
				complaints = append(complaints, pair.s.normaliseLeases(m)...)
			case *pb.HashKVResponse:
				complaints = append(complaints, pair.s.checkHash(m)...)
			}
		}
		if c.method == pb.KV_RangeStream_FullMethodName && pair.a.ok() {
			joined, wrong := normaliseStream(pair.a.messages)
			pair.a.messages = []proto.Message{joined}
			complaints = append(complaints, wrong...)
		}
	}
	if c.method == pb.Maintenance_HashKV_FullMethodName && control.ok() && target.ok() {
		complaints = append(complaints, r.compareHashes(control.messages[0].(*pb.HashKVResponse), target.messages[0].(*pb.HashKVResponse))...)
	}
	return complaints
}

// explainTies asks the control for the whole range when the answers to a sorted one differ.
func (r *runner) explainTies(c *call, control, target *answer) bool {
	request, ok := c.request.(*pb.RangeRequest)
	if !ok || c.method != pb.KV_Range_FullMethodName || !control.ok() || !target.ok() || request.CountOnly {
		return false
	}
	first, second := control.messages[0].(*pb.RangeResponse), target.messages[0].(*pb.RangeResponse)
	if first.Count != second.Count || first.More != second.More || second.Header.GetRevision() != first.Header.GetRevision() {
		return false
	}
	whole := proto.Clone(request).(*pb.RangeRequest)
	whole.Limit, whole.SortOrder, whole.SortTarget, whole.KeysOnly = 0, pb.RangeRequest_NONE, pb.RangeRequest_KEY, false
	all := r.control.do(&call{method: c.method, request: whole})
	return all.ok() && tiesExplain(request, all.messages[0].(*pb.RangeResponse), second)
}

// learn follows the control's state.
func (r *runner) learn(c *call, a *answer) {
	if !a.ok() {
		return
	}
	for _, m := range a.messages {
		if with, ok := m.(interface{ GetHeader() *pb.ResponseHeader }); ok {
			r.model.revision = max(r.model.revision, with.GetHeader().GetRevision())
		}
	}
	switch request := c.request.(type) {
	case *pb.CompactionRequest:
		r.model.compacted = request.Revision
		r.model.compactions = append(r.model.compactions, request.Revision)
	case *pb.LeaseGrantRequest:
		r.model.leases = append(r.model.leases, a.messages[0].(*pb.LeaseGrantResponse).ID)
	case *pb.LeaseRevokeRequest:
		for i, id := range r.model.leases {
			if id == request.ID {
				r.model.leases = append(r.model.leases[:i:i], r.model.leases[i+1:]...)
				break
			}
		}
	}
}

// fail prints one failure so that it can be understood and repeated.
func (r *runner) fail(what string, complaints []string, control, target string) {
	r.failed++
	fmt.Printf("\nFAILED seed %d epoch %d call %d (revision %d, compacted %d)\n  %s\n", r.seed, r.epoch, r.calls, r.model.revision, r.model.compacted, what)
	for i, text := range complaints {
		if i == 12 {
			fmt.Printf("  ... and %d more\n", len(complaints)-i)
			break
		}
		fmt.Printf("  * %s\n", brief(text))
	}
	if control != "" {
		fmt.Printf("  control: %s\n  target:  %s\n", control, target)
	}
	if r.failed >= r.mostFailures {
		fmt.Printf("stopping after %d failures\n", r.failed)
		r.stop = true
	}
}

// checkStillTogether ends the epoch when a difference means that the two stores differ from here on.
func (r *runner) checkStillTogether() {
	dump := &call{method: pb.KV_Range_FullMethodName, request: &pb.RangeRequest{Key: []byte{0}, RangeEnd: []byte{0}}}
	leases := &call{method: pb.Lease_LeaseLeases_FullMethodName, request: &pb.LeaseLeasesRequest{}}
	for _, c := range []*call{dump, leases} {
		control, target := r.control.do(c), r.target.do(c)
		r.normalise(c, control, target)
		if found := compareAnswers(control, target); len(found) > 0 {
			fmt.Printf("  the stores differ from here on (%v): the epoch ends\n", brief(found[0].String()))
			r.stop = true
			return
		}
	}
}

func showRequest(c *call) string {
	if c.raw != nil {
		return fmt.Sprintf("raw %x", c.raw)
	}
	return showMessage(c.request)
}

func showMessage(m proto.Message) string {
	return brief(prototext.MarshalOptions{Multiline: false}.Format(m))
}

func show2(a *answer) string {
	var parts []string
	if !a.ok() {
		parts = append(parts, fmt.Sprintf("%v %q", a.code, a.text))
	}
	for _, m := range a.messages {
		parts = append(parts, showMessage(m))
	}
	return strings.Join(parts, " | ")
}

// died reports a server that ended by itself.
func (r *runner) died() bool {
	for _, s := range []*side{r.control, r.target} {
		if s.server != nil && !s.server.Alive() {
			r.fail("the "+s.name+" server ended by itself", []string{s.server.LogTail()}, "", "")
			r.stop = true
			return true
		}
	}
	return false
}

func logf(format string, arguments ...any) { fmt.Fprintf(os.Stderr, format+"\n", arguments...) }
