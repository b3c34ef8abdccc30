package main

import (
	"bytes"
	"fmt"
	"slices"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"go.etcd.io/etcd/api/v3/mvccpb"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// difference is one field in which two answers disagree.
type difference struct {
	path            string
	control, target string
}

func (d difference) String() string {
	return fmt.Sprintf("%s: control %s, target %s", d.path, d.control, d.target)
}

// differences compares two messages of one type field by field; presence counts too.
func differences(path string, control, target protoreflect.Message) (found []difference) {
	fields := control.Descriptor().Fields()
	for i := range fields.Len() {
		field := fields.Get(i)
		name := path + "." + string(field.Name())
		hasControl, hasTarget := control.Has(field), target.Has(field)
		switch {
		case !hasControl && !hasTarget:
		case hasControl != hasTarget:
			found = append(found, difference{name, show(field, control), show(field, target)})
		case field.IsList():
			found = append(found, listDifferences(name, field, control.Get(field).List(), target.Get(field).List())...)
		case field.Message() != nil:
			found = append(found, differences(name, control.Get(field).Message(), target.Get(field).Message())...)
		case !control.Get(field).Equal(target.Get(field)):
			found = append(found, difference{name, show(field, control), show(field, target)})
		}
	}
	if !bytes.Equal(control.GetUnknown(), target.GetUnknown()) {
		found = append(found, difference{path + " unknown fields", fmt.Sprintf("%x", control.GetUnknown()), fmt.Sprintf("%x", target.GetUnknown())})
	}
	return found
}

func listDifferences(path string, field protoreflect.FieldDescriptor, control, target protoreflect.List) (found []difference) {
	if control.Len() != target.Len() {
		return []difference{{path, fmt.Sprintf("%d items", control.Len()), fmt.Sprintf("%d items", target.Len())}}
	}
	for i := range control.Len() {
		name := fmt.Sprintf("%s[%d]", path, i)
		if field.Message() != nil {
			found = append(found, differences(name, control.Get(i).Message(), target.Get(i).Message())...)
		} else if !control.Get(i).Equal(target.Get(i)) {
			found = append(found, difference{name, fmt.Sprint(control.Get(i)), fmt.Sprint(target.Get(i))})
		}
	}
	return found
}

func show(field protoreflect.FieldDescriptor, m protoreflect.Message) string {
	if !m.Has(field) {
		return "absent"
	}
	value := m.Get(field)
	if field.Kind() == protoreflect.BytesKind && !field.IsList() {
		return quote(value.Bytes())
	}
	return brief(value.String())
}

func quote(b []byte) string {
	const most = 60
	if len(b) > most {
		return fmt.Sprintf("%q... (%d bytes)", b[:most], len(b))
	}
	return fmt.Sprintf("%q", b)
}

func brief(text string) string {
	const most = 3000
	if len(text) > most {
		return text[:most] + "..."
	}
	return text
}

// compareAnswers answers the fields in which two normalised answers disagree.
func compareAnswers(control, target *answer) (found []difference) {
	if control.code != target.code {
		found = append(found, difference{"code", control.code.String(), target.code.String()})
	}
	if control.text != target.text {
		found = append(found, difference{"text", control.text, target.text})
	}
	if len(control.messages) != len(target.messages) {
		return append(found, difference{"messages", fmt.Sprint(len(control.messages)), fmt.Sprint(len(target.messages))})
	}
	for i := range control.messages {
		found = append(found, differences("", control.messages[i].ProtoReflect(), target.messages[i].ProtoReflect())...)
	}
	return found
}

// Sorting by anything but the key leaves ties, and etcd's sort is stable only up to this many pairs.
const stableSort = 12

// tiesExplain answers whether the target's answer to a sorted Range is right though its order among ties, or its
// choice among ties at the limit, is not the control's. `all` is the control's answer without order and limit.
func tiesExplain(request *pb.RangeRequest, all, target *pb.RangeResponse) bool {
	if len(all.Kvs) <= stableSort || request.SortTarget == pb.RangeRequest_KEY {
		return false
	}
	expected := slices.Clone(all.Kvs)
	// Only the first limit+1 keys take part when no order is asked for.
	if request.SortOrder == pb.RangeRequest_NONE && !hasFilters(request) && request.Limit > 0 && int(request.Limit)+1 < len(expected) {
		expected = expected[:request.Limit+1]
	}
	slices.SortStableFunc(expected, func(a, b *mvccpb.KeyValue) int {
		order := compareBy(request.SortTarget, a, b)
		if request.SortOrder == pb.RangeRequest_DESCEND {
			return -order
		}
		return order
	})
	if request.Limit > 0 && int(request.Limit) < len(expected) {
		expected = expected[:request.Limit]
	}
	if len(expected) != len(target.Kvs) {
		return false
	}
	whole := map[string]*mvccpb.KeyValue{}
	for _, pair := range all.Kvs {
		whole[string(pair.Key)] = pair
	}
	for i, pair := range target.Kvs {
		full, ok := whole[string(pair.Key)]
		if !ok || compareBy(request.SortTarget, full, expected[i]) != 0 {
			return false
		}
		delete(whole, string(pair.Key))
		full = proto.Clone(full).(*mvccpb.KeyValue)
		if request.KeysOnly {
			full.Value = nil
			if request.SortTarget != pb.RangeRequest_VALUE {
				full.Lease = 0
			}
		}
		if !proto.Equal(full, pair) {
			return false
		}
	}
	return true
}

func hasFilters(r *pb.RangeRequest) bool {
	return r.MinModRevision != 0 || r.MaxModRevision != 0 || r.MinCreateRevision != 0 || r.MaxCreateRevision != 0
}

func compareBy(target pb.RangeRequest_SortTarget, a, b *mvccpb.KeyValue) int {
	switch target {
	case pb.RangeRequest_VERSION:
		return int(a.Version - b.Version)
	case pb.RangeRequest_CREATE:
		return int(a.CreateRevision - b.CreateRevision)
	case pb.RangeRequest_MOD:
		return int(a.ModRevision - b.ModRevision)
	case pb.RangeRequest_VALUE:
		return bytes.Compare(a.Value, b.Value)
	}
	return bytes.Compare(a.Key, b.Key)
}
