// Package history judges what clients of a cluster were told: is there one order of all writes that explains it?
//
// Two judges. Check follows the revisions that etcd's API gives away (every write has one, every answer carries one): no
// search, and it says what is wrong where. Linearizable looks at values and times alone, and trusts no revision.
package history

// Kind is what a client asked for.
type Kind string

// The operations; each touches one key.
const (
	Put          Kind = "put"
	Get          Kind = "get"
	Serializable Kind = "serializable get"
	// Swap puts a value where another one stands; an empty one stands for an absent key.
	Swap   Kind = "compare-and-put"
	Delete Kind = "delete"
)

// Outcome is what the client knows of it.
type Outcome string

// The outcomes.
const (
	// Answered: with what the fields say.
	Answered Outcome = "answered"
	// Unknown: it may have happened, or may still happen.
	Unknown Outcome = "unknown"
)

// Operation is one call. Times are nanoseconds of one clock.
type Operation struct {
	Client  int     `json:"client"`
	Member  int     `json:"member"`
	Kind    Kind    `json:"kind"`
	Key     string  `json:"key"`
	Call    int64   `json:"call"`
	Return  int64   `json:"return,omitempty"`
	Outcome Outcome `json:"outcome"`
	// Value that is put: no other operation has it.
	Value string `json:"value,omitempty"`
	// Expected is the value that a swap compares with.
	Expected string `json:"expected,omitempty"`
	// Revision of the answer.
	Revision int64 `json:"revision,omitempty"`
	// Found is the value that a get has found, empty for none.
	Found string `json:"found,omitempty"`
	// FoundAt is its mod revision.
	FoundAt int64 `json:"found_at,omitempty"`
	// Done: the swap has put, the delete has deleted.
	Done bool `json:"done,omitempty"`
}

// writes answers whether the operation may change the store.
func (o *Operation) writes() bool { return o.Kind != Get && o.Kind != Serializable }

// wrote answers whether it is known to have changed the store.
func (o *Operation) wrote() bool {
	return o.Outcome == Answered && (o.Kind == Put || o.writes() && o.Done)
}

// Event is one change, as a watch shows it.
type Event struct {
	Revision int64  `json:"revision"`
	Key      string `json:"key"`
	// Value is empty for a delete.
	Value string `json:"value,omitempty"`
}
