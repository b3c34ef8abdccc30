// Package metrics holds /metrics of a server against etcd's.
package metrics

import (
	"fmt"
	"io"
	"net/http"
	"sort"
	"strconv"
	"strings"
)

// family is one metric with its samples.
type family struct {
	kind, help string
	// values by labels in the order of their names, without le.
	values map[string]float64
	// bounds are the values of le, in order; of histograms only.
	bounds []string
}

// scrape reads and parses the text of a server.
func scrape(endpoint string) (map[string]*family, error) {
	answer, err := http.Get("http://" + endpoint + "/metrics")
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		return nil, err
	}
	if kind := answer.Header.Get("Content-Type"); !strings.HasPrefix(kind, "text/plain; version=0.0.4") {
		return nil, fmt.Errorf("content type %q", kind)
	}
	return parse(string(text))
}

func parse(text string) (map[string]*family, error) {
	families := map[string]*family{}
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(line, "\n")
		if rest, ok := strings.CutPrefix(line, "# HELP "); ok {
			name, help, _ := strings.Cut(rest, " ")
			if families[name] != nil {
				return nil, fmt.Errorf("%s is there twice", name)
			}
			families[name] = &family{help: help, values: map[string]float64{}}
			continue
		}
		if rest, ok := strings.CutPrefix(line, "# TYPE "); ok {
			name, kind, _ := strings.Cut(rest, " ")
			families[name].kind = kind
			continue
		}
		if err := parseSample(families, line); err != nil {
			return nil, fmt.Errorf("%w in %q", err, line)
		}
	}
	return families, nil
}

func parseSample(families map[string]*family, line string) error {
	space := strings.LastIndexByte(line, ' ')
	if space < 0 {
		return fmt.Errorf("no value")
	}
	value, err := strconv.ParseFloat(line[space+1:], 64)
	if err != nil {
		return err
	}
	name, rest, _ := strings.Cut(line[:space], "{")
	var labels []string
	le := ""
	for _, label := range strings.Split(strings.TrimSuffix(rest, "}"), ",") {
		if bound, ok := strings.CutPrefix(label, "le="); ok {
			le = bound
		} else if label != "" {
			labels = append(labels, label)
		}
	}
	sort.Strings(labels)
	key := strings.Join(labels, ",")
	of := families[name]
	if of == nil {
		base, part := "", ""
		for _, suffix := range []string{"_bucket", "_sum", "_count"} {
			if cut, ok := strings.CutSuffix(name, suffix); ok {
				base, part = cut, suffix
			}
		}
		of = families[base]
		if of == nil || of.kind != "histogram" && of.kind != "summary" {
			return fmt.Errorf("a sample without its family")
		}
		if part != "_count" {
			if part == "_bucket" && !contains(of.bounds, le) {
				of.bounds = append(of.bounds, le)
			}
			return nil
		}
	}
	if _, twice := of.values[key]; twice {
		return fmt.Errorf("a sample that is there twice")
	}
	of.values[key] = value
	return nil
}

func contains(all []string, one string) bool {
	for _, each := range all {
		if each == one {
			return true
		}
	}
	return false
}
