package main

import (
	"fmt"
	"strings"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// knownDifference is one way in which Ringstone may answer otherwise than etcd 3.7.3. The list is closed: at most ten,
// each with its argument; `-known` prints it. What only depends on a clock, on batch borders or on private names (ids,
// terms) is no difference and is normalised where answers are compared.
type knownDifference struct {
	name     string
	argument string
	// Nil: the comparison of watch streams applies it, by name.
	explains func(c *call, r *runner, control, target *answer, d difference) bool
}

const (
	knownPrevCompacted = "watch-prev-kv-compacted"
	knownHash          = "hashkv-value"
)

var knownDifferences = []knownDifference{
	{
		name: knownHash,
		argument: "The hash of HashKV is etcd's checksum of its own file's bytes; ours is of the logical records. Compared is " +
			"which hashes are equal: one revision and one compaction have one hash, two revisions differ when etcd's do.",
	},
	{
		name: "hashkv-before-a-restart",
		argument: "etcd keeps the hashes of its last ten compactions in memory and forgets them at a restart. Revisions that " +
			"were compacted at before a restart are not asked for after it.",
	},
	{
		name: "status-sizes",
		argument: "dbSize, dbSizeInUse, raftIndex and raftAppliedIndex count other things in another file. They must be above " +
			"zero and in their order.",
	},
	{
		name: knownPrevCompacted,
		argument: "etcd reads prev_kv when it sends, so an event at or below the compact revision has none. The target may " +
			"have kept it; more is promised by it, not less.",
	},
	{
		name: "decode-text",
		argument: "The text for bytes that are not a message is that of Go's protobuf library, which varies it from build " +
			"to build on purpose. The code is compared.",
		explains: func(c *call, _ *runner, control, target *answer, d difference) bool {
			return d.path == "text" && c.raw != nil && !control.ok() && control.code == target.code && strings.Contains(control.text, "unmarshal")
		},
	},
	{
		name: "rangestream-sort-target",
		argument: "etcd's RangeStream sorts each chunk by a sort target that comes without an order and continues after the " +
			"last sorted key: keys repeat or vanish. The target must answer the pairs in key order.",
		explains: func(c *call, _ *runner, control, target *answer, d difference) bool {
			request, ok := c.request.(*pb.RangeRequest)
			if !ok || c.method != pb.KV_RangeStream_FullMethodName || request.SortTarget == pb.RangeRequest_KEY {
				return false
			}
			return strings.HasPrefix(d.path, ".kvs") || d.path == ".count"
		},
	},
}

// withoutKnown removes what the list explains, and counts it.
func (c *coverage) withoutKnown(asked *call, r *runner, control, target *answer, found []difference) (rest []difference) {
	for _, d := range found {
		explained := false
		for _, known := range knownDifferences {
			if known.explains != nil && known.explains(asked, r, control, target, d) {
				c.known[known.name]++
				explained = true
				break
			}
		}
		if !explained {
			rest = append(rest, d)
		}
	}
	return rest
}

func printKnown() {
	for _, known := range knownDifferences {
		fmt.Printf("%s\n    %s\n", known.name, known.argument)
	}
}
