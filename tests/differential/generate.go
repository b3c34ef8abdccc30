package main

import (
	"bytes"
	"math"
	"math/rand"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// generator makes requests from a seed and from what the run knows of the store, so that calls meet each other: few
// keys, few leases, revisions near the interesting ones.
type generator struct {
	*rand.Rand
	model *model
}

// model is what the control's answers told us.
type model struct {
	revision  int64
	compacted int64
	// Leases that are alive, by the control's ids.
	leases []int64
	// Revisions that were compacted at before the last restart: etcd keeps their hashes in memory only.
	forgotten map[int64]bool
	// Revisions compacted at since the last restart.
	compactions []int64
}

// The keys: three families small enough that a sort within one is stable in etcd (12 pairs), and odd ones.
var keys = [][]byte{
	[]byte("a"), []byte("a\x00"), []byte("a0"), []byte("a1"), []byte("a2"), []byte("a3"), []byte("a4"), []byte("a5"), []byte("ab"),
	[]byte("b"), []byte("b0"), []byte("b1"), []byte("b2"), []byte("b3"), []byte("b4"), []byte("b5"), []byte("b6"),
	[]byte("c0"), []byte("c1"), []byte("c2"), []byte("c3"),
	[]byte("\x00"), []byte("\x00\x00"), []byte("z\xff"), []byte("z\xff\xff"), []byte("\xff"), []byte("\xff\xff"),
}

var families = [][2][]byte{
	{[]byte("a"), []byte("b")}, {[]byte("b"), []byte("c")}, {[]byte("c"), []byte("d")},
}

func (g *generator) chance(percent int) bool { return g.Intn(100) < percent }

// key is one of the pool, seldom the empty one.
func (g *generator) key() []byte {
	if g.Intn(80) == 0 {
		return nil
	}
	return g.someKey()
}

func (g *generator) someKey() []byte { return keys[g.Intn(len(keys))] }

// interval is a key and a range end, in every shape that section 2.2 knows.
func (g *generator) interval() (key, end []byte) {
	switch n := g.Intn(100); {
	case n < 34:
		return g.key(), nil
	case n < 56:
		family := families[g.Intn(len(families))]
		return family[0], family[1]
	case n < 74:
		key, end = g.someKey(), g.someKey()
		if bytes.Compare(key, end) > 0 {
			key, end = end, key
		}
		return key, end
	case n < 82:
		return g.someKey(), []byte{0}
	case n < 90:
		return []byte{0}, []byte{0}
	case n < 95:
		return g.key(), g.someKey()
	case n < 97:
		key = g.someKey()
		return key, key
	case n < 98:
		return nil, []byte{0}
	default:
		key = g.someKey()
		return key, append(bytes.Clone(key), 0)
	}
}

func (g *generator) value() []byte {
	switch n := g.Intn(1000); {
	case n < 80:
		return nil
	case n < 600:
		return []byte{'v', byte('0' + g.Intn(10))}
	case n < 970:
		return g.bytes(1 + g.Intn(24))
	case n < 997:
		return g.bytes(200 + g.Intn(4000))
	default:
		return g.bytes(100_000)
	}
}

func (g *generator) bytes(length int) []byte {
	value := make([]byte, length)
	for i := range value {
		value[i] = byte(g.Intn(256))
	}
	return value
}

// readRevision is a revision to read at.
func (g *generator) readRevision() int64 {
	m := g.model
	switch n := g.Intn(100); {
	case n < 60:
		return 0
	case n < 78:
		if window := m.revision - max(m.compacted, 0); window > 0 {
			return m.revision - g.Int63n(min(window, 200)+1)
		}
		return m.revision
	case n < 84:
		return m.compacted + int64(g.Intn(5)) - 2
	case n < 88:
		return m.revision
	case n < 92:
		return m.revision + 1
	case n < 95:
		return g.odd()
	default:
		return g.Int63n(m.revision + 2)
	}
}

// odd is a number at some edge.
func (g *generator) odd() int64 {
	all := []int64{-1, -2, 0, 1, 2, math.MaxInt32, math.MaxInt32 + 1, math.MinInt32, math.MaxInt64, math.MinInt64, math.MaxInt64 - 1, 1 << 53}
	return all[g.Intn(len(all))]
}

func (g *generator) limit() int64 {
	switch n := g.Intn(100); {
	case n < 50:
		return 0
	case n < 92:
		return int64(1 + g.Intn(12))
	default:
		return g.odd()
	}
}

// rangeRequest has every option. Within a transaction, `stable` keeps sorted ranges to what etcd sorts stably.
func (g *generator) rangeRequest(stable bool) *pb.RangeRequest {
	key, end := g.interval()
	r := &pb.RangeRequest{Key: key, RangeEnd: end, Limit: g.limit(), Revision: g.readRevision()}
	r.Serializable = g.chance(15)
	r.KeysOnly = g.chance(15)
	r.CountOnly = g.chance(10)
	if g.chance(30) {
		r.SortOrder = pb.RangeRequest_SortOrder(g.Intn(3))
		r.SortTarget = pb.RangeRequest_SortTarget(g.Intn(5))
		if stable && r.SortTarget != pb.RangeRequest_KEY {
			family := families[g.Intn(len(families))]
			r.Key, r.RangeEnd = family[0], family[1]
		}
	}
	if g.chance(2) {
		r.SortOrder = pb.RangeRequest_SortOrder(g.unknownEnum())
	}
	if g.chance(2) {
		r.SortTarget = pb.RangeRequest_SortTarget(g.unknownEnum())
	}
	if g.chance(15) {
		for _, field := range []*int64{&r.MinModRevision, &r.MaxModRevision, &r.MinCreateRevision, &r.MaxCreateRevision} {
			if g.chance(40) {
				*field = g.filterRevision()
			}
		}
	}
	return r
}

func (g *generator) filterRevision() int64 {
	if g.chance(10) {
		return g.odd()
	}
	return g.Int63n(g.model.revision + 3)
}

func (g *generator) unknownEnum() int32 {
	all := []int32{5, 9, 127, -1, math.MaxInt32, math.MinInt32}
	return all[g.Intn(len(all))]
}

func (g *generator) lease() int64 {
	switch n := g.Intn(100); {
	case n < 80 && len(g.model.leases) > 0:
		return g.model.leases[g.Intn(len(g.model.leases))]
	case n < 90:
		return int64(1 + g.Intn(12))
	default:
		return g.odd()
	}
}

func (g *generator) put() *pb.PutRequest {
	r := &pb.PutRequest{Key: g.key(), Value: g.value()}
	if g.chance(20) {
		r.Lease = g.lease()
	}
	r.PrevKv = g.chance(30)
	if g.chance(8) {
		r.IgnoreValue = true
		if g.chance(80) {
			r.Value = nil
		}
	}
	if g.chance(8) {
		r.IgnoreLease = true
		if g.chance(80) {
			r.Lease = 0
		}
	}
	return r
}

func (g *generator) deleteRange() *pb.DeleteRangeRequest {
	key, end := g.interval()
	// Half of the wide ones become narrow, so that the store does not stay empty.
	if len(end) != 0 && g.chance(60) {
		end = nil
	}
	return &pb.DeleteRangeRequest{Key: key, RangeEnd: end, PrevKv: g.chance(40)}
}

// compactRevision is a revision to compact at.
func (g *generator) compactRevision() int64 {
	m := g.model
	switch n := g.Intn(100); {
	case n < 55:
		if window := m.revision - max(m.compacted, 0); window > 0 {
			return m.revision - g.Int63n(window+1)
		}
		return m.revision
	case n < 65:
		return m.revision
	case n < 75:
		return m.compacted + int64(g.Intn(3)) - 1
	case n < 85:
		return m.revision + 1 + int64(g.Intn(3))
	default:
		return g.odd()
	}
}

func (g *generator) hashRevision() int64 {
	m := g.model
	revision := int64(0)
	switch n := g.Intn(100); {
	case n < 30:
	case n < 60 && m.revision > m.compacted:
		revision = m.revision - g.Int63n(m.revision-max(m.compacted, 0)+1)
	case n < 75:
		revision = max(m.compacted, 0)
	case n < 85 && len(m.compactions) > 0:
		revision = m.compactions[g.Intn(len(m.compactions))]
	case n < 95:
		revision = m.revision + int64(g.Intn(3)) - 1
	default:
		revision = g.odd()
	}
	if m.forgotten[revision] {
		return 0
	}
	return revision
}
