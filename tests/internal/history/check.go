package history

import (
	"fmt"
	"math"
	"sort"
)

// most is how many complaints are of use.
const most = 20

// longest is how long one may be: some values are large.
const longest = 600

// Check compares what clients were told with the cluster's history: all its events from the first revision on. Each
// member's own history is that, or a piece of it: what came before a compaction is gone, and what is new may not be there yet.
// It answers what is wrong.
func Check(operations []Operation, events []Event, members map[int][]Event) []string {
	c := &checker{operations: operations, events: events, past: map[string][]Event{}, cause: map[int64]*Operation{}}
	c.history()
	for member, own := range members {
		c.member(member, own)
	}
	c.causes()
	for i := range operations {
		c.answer(&operations[i])
	}
	c.realTime()
	if len(c.complaints) > most {
		more := len(c.complaints) - most
		c.complaints = append(c.complaints[:most], fmt.Sprintf("... and %d more", more))
	}
	return c.complaints
}

type checker struct {
	operations []Operation
	events     []Event
	// past is each key's events, in order.
	past map[string][]Event
	// cause is what made the event of a revision.
	cause      map[int64]*Operation
	complaints []string
}

func (c *checker) complain(format string, arguments ...any) {
	complaint := fmt.Sprintf(format, arguments...)
	if len(complaint) > longest {
		complaint = complaint[:longest] + "..."
	}
	c.complaints = append(c.complaints, complaint)
}

// history has one event a revision, without a hole.
func (c *checker) history() {
	for i, event := range c.events {
		if i > 0 && event.Revision != c.events[i-1].Revision+1 {
			c.complain("the history goes from revision %d to %d", c.events[i-1].Revision, event.Revision)
		}
		c.past[event.Key] = append(c.past[event.Key], event)
	}
}

func (c *checker) member(member int, own []Event) {
	if len(own) == 0 {
		return
	}
	first := c.index(own[0].Revision)
	for i, event := range own {
		if first+i >= len(c.events) {
			c.complain("member %d has events behind the end of the history: %v", member, event)
			return
		}
		if event != c.events[first+i] {
			c.complain("member %d shows %v where the history has %v", member, event, c.events[first+i])
			return
		}
	}
}

// index is that of the first event from a revision on.
func (c *checker) index(revision int64) int {
	return sort.Search(len(c.events), func(i int) bool { return c.events[i].Revision >= revision })
}

// at is a key's last event up to a revision; its value is empty, and so is the revision, where there was none.
func (c *checker) at(key string, revision int64) Event {
	past := c.past[key]
	n := sort.Search(len(past), func(i int) bool { return past[i].Revision > revision })
	if n == 0 {
		return Event{}
	}
	if past[n-1].Value == "" {
		return Event{}
	}
	return past[n-1]
}

// causes finds who made each event: an operation that was answered with its revision, or one whose outcome nobody knows.
func (c *checker) causes() {
	byValue := map[string]*Operation{}
	deletes := map[string][]*Operation{}
	for i := range c.operations {
		o := &c.operations[i]
		switch {
		case o.Value != "":
			byValue[o.Value] = o
		case o.Kind == Delete && o.Outcome == Unknown:
			deletes[o.Key] = append(deletes[o.Key], o)
		}
		if o.wrote() {
			if other := c.cause[o.Revision]; other != nil {
				c.complain("revision %d was given to two writes: %+v and %+v", o.Revision, *other, *o)
			}
			c.cause[o.Revision] = o
		}
	}
	for _, unknown := range deletes {
		sort.Slice(unknown, func(i, j int) bool { return unknown[i].Call < unknown[j].Call })
	}
	for _, event := range c.events {
		cause := c.cause[event.Revision]
		if cause == nil && event.Value != "" {
			cause = byValue[event.Value]
			if cause != nil && cause.Outcome != Unknown {
				c.complain("%v was answered otherwise: %+v", event, *cause)
				continue
			}
		}
		if cause == nil && event.Value == "" {
			// Which of several deletes it was can't be told: the one that was called first is the easiest to believe.
			if unknown := deletes[event.Key]; len(unknown) > 0 {
				cause, deletes[event.Key] = unknown[0], unknown[1:]
			}
		}
		if cause == nil {
			c.complain("nobody asked for %v", event)
			continue
		}
		if cause.Key != event.Key || cause.Value != event.Value {
			c.complain("%v was answered to %+v", event, *cause)
		}
		c.cause[event.Revision] = cause
	}
}

// answer holds one answer to the history.
func (c *checker) answer(o *Operation) {
	if o.Outcome != Answered {
		return
	}
	if last := c.last(); o.Revision > last {
		c.complain("revision %d was answered, the history ends at %d: %+v", o.Revision, last, *o)
		return
	}
	if o.wrote() {
		if event := c.find(o.Revision); event == nil || event.Key != o.Key || event.Value != o.Value {
			c.complain("an acknowledged write is lost: %+v; the history has %v there", *o, event)
			return
		}
	}
	now := c.at(o.Key, o.Revision)
	switch o.Kind {
	case Get, Serializable:
		if o.Found != now.Value || o.FoundAt != now.Revision {
			c.complain("%+v: at that revision the key has %q of %d", *o, now.Value, now.Revision)
		}
	case Swap:
		before := now
		if o.Done {
			before = c.at(o.Key, o.Revision-1)
		}
		if (before.Value == o.Expected) != o.Done {
			c.complain("%+v: it was compared with %q of %d", *o, before.Value, before.Revision)
		}
	case Delete:
		if o.Done && c.at(o.Key, o.Revision-1).Value == "" {
			c.complain("%+v: there was nothing to delete", *o)
		}
		if !o.Done && now.Value != "" {
			c.complain("%+v: the key was there, with %q of %d", *o, now.Value, now.Revision)
		}
	case Put:
	}
}

func (c *checker) last() int64 {
	if len(c.events) == 0 {
		return 1
	}
	return c.events[len(c.events)-1].Revision
}

func (c *checker) find(revision int64) *Event {
	n := c.index(revision)
	if n == len(c.events) || c.events[n].Revision != revision {
		return nil
	}
	return &c.events[n]
}

// realTime: whoever asks after a revision was seen gets that one or a later one, and his write a later one.
func (c *checker) realTime() {
	type moment struct {
		time int64
		call bool
		op   *Operation
	}
	var moments []moment
	happened := map[*Operation]int64{}
	for revision, o := range c.cause {
		happened[o] = revision
	}
	for i := range c.operations {
		o := &c.operations[i]
		end := o.Return
		if o.Outcome == Unknown {
			if happened[o] == 0 {
				continue
			}
			end = math.MaxInt64
		}
		moments = append(moments, moment{o.Call, true, o}, moment{end, false, o})
	}
	// At equal times nothing is known to be before.
	sort.Slice(moments, func(i, j int) bool {
		if moments[i].time != moments[j].time {
			return moments[i].time < moments[j].time
		}
		return moments[i].call && !moments[j].call
	})
	seen, seenBy := int64(0), (*Operation)(nil)
	floor := map[*Operation]int64{}
	for _, m := range moments {
		if m.call {
			floor[m.op] = seen
			revision, wrote := happened[m.op]
			if wrote && revision <= seen {
				c.complain("%+v began after revision %d was seen by %+v, and has %d", *m.op, seen, *seenBy, revision)
			}
			continue
		}
		if m.op.Outcome != Answered {
			continue
		}
		if m.op.Kind != Serializable && m.op.Revision < floor[m.op] {
			c.complain("%+v began after revision %d was seen", *m.op, floor[m.op])
		}
		if m.op.Revision > seen {
			seen, seenBy = m.op.Revision, m.op
		}
	}
}
