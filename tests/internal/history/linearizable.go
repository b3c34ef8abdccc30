package history

import (
	"fmt"
	"math"
	"time"

	"github.com/anishathalye/porcupine"
)

// patience is how long one history may be searched: one that takes longer counts as a failure.
const patience = 5 * time.Minute

// Linearizable asks Porcupine: a register a key, values and times only. A value that was put with an unknown outcome and
// is in no event was not put: without that, many unknown outcomes make the search endless. It answers what is wrong.
func Linearizable(operations []Operation, events []Event) []string {
	put := map[string]bool{}
	for _, event := range events {
		put[event.Value] = true
	}
	keys := map[string][]porcupine.Operation{}
	for _, o := range operations {
		if o.Kind == Serializable || o.Outcome == Unknown && (!o.writes() || o.Kind != Delete && !put[o.Value]) {
			continue
		}
		end := o.Return
		if o.Outcome == Unknown {
			end = math.MaxInt64
		}
		keys[o.Key] = append(keys[o.Key], porcupine.Operation{ClientId: o.Client, Input: o, Call: o.Call, Output: o, Return: end})
	}
	var complaints []string
	for key, own := range keys {
		switch porcupine.CheckOperationsTimeout(register, own, patience) {
		case porcupine.Illegal:
			complaints = append(complaints, fmt.Sprintf("the %d operations on %s are not linearizable", len(own), key))
		case porcupine.Unknown:
			complaints = append(complaints, fmt.Sprintf("the %d operations on %s were not judged within %v", len(own), key, patience))
		case porcupine.Ok:
		}
	}
	return complaints
}

// register is one key: its value, empty for none.
var register = porcupine.Model{
	Init: func() any { return "" },
	Step: func(state, input, _ any) (bool, any) {
		o := input.(Operation)
		known := o.Outcome == Answered
		switch o.Kind {
		case Put:
			return true, o.Value
		case Swap:
			if state == o.Expected {
				return !known || o.Done, o.Value
			}
			return !known || !o.Done, state
		case Delete:
			return !known || o.Done == (state != ""), ""
		default:
			return o.Found == state, state
		}
	},
}
