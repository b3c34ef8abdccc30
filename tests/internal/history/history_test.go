package history

import (
	"fmt"
	"math/rand"
	"sort"
	"strings"
	"testing"
)

// sample is a history of a sound store: clients whose operations overlap, one order of all.
func sample(seed int64) (operations []Operation, events []Event) {
	random := rand.New(rand.NewSource(seed))
	state, at := map[string]string{}, map[string]int64{}
	revision := int64(1)
	for n := range 400 {
		moment := int64(n * 100)
		o := Operation{Client: n % 8, Key: fmt.Sprint("k", random.Intn(4)), Outcome: Answered}
		o.Call, o.Return = moment-random.Int63n(300), moment+1+random.Int63n(300)
		write := func(value string) {
			revision++
			events = append(events, Event{revision, o.Key, value})
			state[o.Key], at[o.Key] = value, revision
			if value == "" {
				at[o.Key] = 0
			}
		}
		switch random.Intn(5) {
		case 0:
			o.Kind, o.Value = Put, fmt.Sprint("v", n)
			write(o.Value)
		case 1:
			o.Kind, o.Value, o.Expected = Swap, fmt.Sprint("v", n), state[o.Key]
			if random.Intn(2) == 0 {
				o.Expected = "other"
			}
			if o.Done = state[o.Key] == o.Expected; o.Done {
				write(o.Value)
			}
		case 2:
			o.Kind = Delete
			if o.Done = state[o.Key] != ""; o.Done {
				write("")
			}
		default:
			o.Kind, o.Found, o.FoundAt = Get, state[o.Key], at[o.Key]
		}
		o.Revision = revision
		if o.writes() && random.Intn(20) == 0 {
			o.Outcome, o.Return, o.Revision, o.Done = Unknown, 0, 0, false
		}
		operations = append(operations, o)
	}
	// A client's operations do not overlap; here they may, which makes it harder.
	sort.Slice(operations, func(i, j int) bool { return operations[i].Call < operations[j].Call })
	return operations, events
}

func TestSoundHistoriesPass(t *testing.T) {
	for seed := range int64(50) {
		operations, events := sample(seed)
		if complaints := Check(operations, events, map[int][]Event{0: events, 1: events[:10], 2: events[10:], 3: nil}); len(complaints) > 0 {
			t.Fatalf("seed %d: %s", seed, strings.Join(complaints, "\n"))
		}
		if complaints := Linearizable(operations, events); len(complaints) > 0 {
			t.Fatalf("seed %d: %s", seed, strings.Join(complaints, "\n"))
		}
	}
}

// Two deletes whose outcome nobody knows, the later one first in the list: the event is the earlier one's.
func TestDeletesOfUnknownOutcomeAreTakenInTheOrderOfTheirCalls(t *testing.T) {
	operations := []Operation{
		{Kind: Delete, Key: "k", Call: 500, Outcome: Unknown},
		{Kind: Delete, Key: "k", Call: 200, Outcome: Unknown},
		{Kind: Put, Key: "k", Value: "v", Call: 100, Return: 150, Outcome: Answered, Revision: 2},
		{Kind: Put, Key: "other", Value: "w", Call: 300, Return: 400, Outcome: Answered, Revision: 4},
	}
	events := []Event{{2, "k", "v"}, {3, "k", ""}, {4, "other", "w"}}
	if complaints := Check(operations, events, nil); len(complaints) > 0 {
		t.Fatal(strings.Join(complaints, "\n"))
	}
}

// find is the first operation behind the middle that the condition holds for.
func find(operations []Operation, condition func(*Operation) bool) *Operation {
	for i := len(operations) / 2; i < len(operations); i++ {
		if condition(&operations[i]) {
			return &operations[i]
		}
	}
	panic("the sample has no such operation")
}

// Each damage of a history must be seen: by the first judge, and where it shows in values, by the second.
func TestDamagedHistoriesFail(t *testing.T) {
	for name, damage := range map[string]struct {
		inValues bool
		apply    func(operations []Operation, events *[]Event, member *[]Event)
	}{
		"an acknowledged write is lost": {false, func(operations []Operation, events, _ *[]Event) {
			lost := find(operations, func(o *Operation) bool { return o.wrote() && o.Kind == Put })
			for i, event := range *events {
				if event.Revision == lost.Revision {
					(*events)[i].Value = "another"
				}
			}
		}},
		"a stale read": {true, func(operations []Operation, events, _ *[]Event) {
			stale := find(operations, func(o *Operation) bool { return o.Kind == Get && o.Found != "" })
			for _, event := range *events {
				if event.Key == stale.Key && event.Value != "" && event.Value != stale.Found {
					stale.Found, stale.FoundAt, stale.Revision = event.Value, event.Revision, event.Revision
					return
				}
			}
		}},
		"a read of what never was": {true, func(operations []Operation, events, _ *[]Event) {
			find(operations, func(o *Operation) bool { return o.Kind == Get && o.Found != "" }).Found = "invented"
		}},
		"a swap that should have failed": {true, func(operations []Operation, events, _ *[]Event) {
			find(operations, func(o *Operation) bool { return o.Kind == Swap && o.wrote() }).Expected = "not there"
		}},
		"a delete of nothing": {true, func(operations []Operation, events, _ *[]Event) {
			find(operations, func(o *Operation) bool { return o.Kind == Delete && o.Outcome == Answered && !o.Done }).Done = true
		}},
		"two writes with one revision": {false, func(operations []Operation, events, _ *[]Event) {
			first := find(operations, (*Operation).wrote)
			find(operations, func(o *Operation) bool { return o.wrote() && o != first }).Revision = first.Revision
		}},
		"a write before what was seen": {false, func(operations []Operation, events, _ *[]Event) {
			late := find(operations, (*Operation).wrote)
			late.Call, late.Return = operations[len(operations)-1].Call+100_000, operations[len(operations)-1].Call+100_001
		}},
		"a hole": {false, func(operations []Operation, events, _ *[]Event) {
			*events = append((*events)[:20:20], (*events)[21:]...)
		}},
		"an event that nobody asked for": {false, func(operations []Operation, events, _ *[]Event) {
			last := (*events)[len(*events)-1]
			*events = append(*events, Event{last.Revision + 1, "k0", "invented"})
		}},
		"a member that differs": {false, func(operations []Operation, events, member *[]Event) {
			(*member)[5].Value = "another"
		}},
		"a member that differs behind a compaction": {false, func(operations []Operation, events, member *[]Event) {
			(*member)[50].Value = "another"
			*member = (*member)[40:]
		}},
		"a member with a hole": {false, func(operations []Operation, events, member *[]Event) {
			*member = append((*member)[40:50:50], (*member)[51:]...)
		}},
	} {
		t.Run(name, func(t *testing.T) {
			operations, events := sample(1)
			member := append([]Event{}, events...)
			damage.apply(operations, &events, &member)
			if len(Check(operations, events, map[int][]Event{0: member})) == 0 {
				t.Error("the check by revisions has nothing against it")
			}
			if damage.inValues && len(Linearizable(operations, events)) == 0 {
				t.Error("Porcupine has nothing against it")
			}
		})
	}
}
