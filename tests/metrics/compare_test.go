package metrics

import (
	"maps"
	"slices"
	"strings"
	"testing"
	"time"
)

// reason is why etcd's family is not in Ringstone, and the entry that says so.
func reason(name string) (entry string, listed bool) {
	for entry := range absent {
		if prefix, ok := strings.CutSuffix(entry, "*"); ok && strings.HasPrefix(name, prefix) || entry == name {
			return entry, true
		}
	}
	return "", false
}

// snapshot starts a server, makes all calls, and scrapes before and after.
func snapshot(t *testing.T, command string) (fresh, used map[string]*family) {
	t.Helper()
	s := start(t, command, "--metrics=extensive")
	fresh, err := scrape(s.Endpoint)
	must(t, err)
	exercise(t, s)
	// Figures of the wire are published every 100 ms.
	time.Sleep(500 * time.Millisecond)
	used, err = scrape(s.Endpoint)
	must(t, err)
	return fresh, used
}

func labelNames(of *family) string {
	names := map[string]bool{}
	for labels := range of.values {
		for _, label := range strings.Split(labels, ",") {
			name, _, _ := strings.Cut(label, "=")
			names[name] = true
		}
	}
	return strings.Join(slices.Sorted(maps.Keys(names)), ",")
}

func TestMetricsAreThoseOfEtcd(t *testing.T) {
	theirsFresh, theirs := snapshot(t, *etcd)
	oursFresh, ours := snapshot(t, *command)
	isEtcd := ours["etcd_server_go_version"] != nil
	for _, name := range slices.Sorted(maps.Keys(theirs)) {
		entry, listed := reason(name)
		switch {
		case ours[name] == nil && !listed:
			t.Errorf("%s is missing", name)
		case ours[name] != nil && listed && !isEtcd:
			t.Errorf("%s is there now: %q of absent.go goes", name, entry)
		case ours[name] != nil:
			compareFamily(t, name, theirs[name], ours[name])
		}
	}
	for name := range ours {
		if theirs[name] == nil && !strings.HasPrefix(name, "ringstone_") {
			t.Errorf("%s is not one of etcd's", name)
		}
	}
	// What etcd shows before the first call, dashboards compute rates from.
	for name, family := range theirsFresh {
		if strings.HasPrefix(name, "grpc_server_") {
			compareSeries(t, name+" at the start", family, oursFresh[name])
		}
	}
	for _, name := range slices.Concat(equal, counted) {
		compareValues(t, name, theirs[name], ours[name])
	}
}

func compareFamily(t *testing.T, name string, theirs, ours *family) {
	t.Helper()
	if theirs.kind != ours.kind || theirs.help != ours.help {
		t.Errorf("%s is a %s, %q; etcd: %s, %q", name, ours.kind, ours.help, theirs.kind, theirs.help)
	}
	if left, right := labelNames(theirs), labelNames(ours); left != right {
		t.Errorf("%s has the labels %q; etcd: %q", name, right, left)
	}
	if !slices.Equal(theirs.bounds, ours.bounds) {
		t.Errorf("%s has the buckets %v; etcd: %v", name, ours.bounds, theirs.bounds)
	}
}

func compareSeries(t *testing.T, name string, theirs, ours *family) {
	t.Helper()
	if ours == nil {
		t.Errorf("%s is missing", name)
		return
	}
	for labels := range theirs.values {
		if _, ok := ours.values[labels]; !ok {
			t.Errorf("%s{%s} is missing", name, labels)
		}
	}
	for labels := range ours.values {
		if _, ok := theirs.values[labels]; !ok {
			t.Errorf("%s{%s} is not in etcd", name, labels)
		}
	}
}

func compareValues(t *testing.T, name string, theirs, ours *family) {
	t.Helper()
	if theirs == nil || ours == nil {
		t.Errorf("%s is to be compared and is missing: in etcd %v, here %v", name, theirs == nil, ours == nil)
		return
	}
	compareSeries(t, name, theirs, ours)
	for labels, value := range theirs.values {
		if ours.values[labels] != value && !mayDiffer(name, labels) {
			t.Errorf("%s{%s} is %v; etcd: %v", name, labels, ours.values[labels], value)
		}
	}
}

func mayDiffer(name, labels string) bool {
	for entry := range different {
		of, part, _ := strings.Cut(entry, " ")
		if of == name && strings.Contains(labels, part) {
			return true
		}
	}
	return false
}

// The latencies of calls are many series: only who asks gets them.
func TestHandlingTimesAreExtensive(t *testing.T) {
	families, err := scrape(start(t, *command).Endpoint)
	must(t, err)
	if families["grpc_server_handling_seconds"] != nil {
		t.Error("grpc_server_handling_seconds is there without --metrics=extensive")
	}
}
