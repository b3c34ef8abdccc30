package main

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// visit calls f for the message and every message below it.
func visit(m protoreflect.Message, f func(protoreflect.Message)) {
	f(m)
	m.Range(func(field protoreflect.FieldDescriptor, value protoreflect.Value) bool {
		switch {
		case field.Message() == nil || field.IsMap():
		case field.IsList():
			list := value.List()
			for i := range list.Len() {
				visit(list.Get(i).Message(), f)
			}
		default:
			visit(value.Message(), f)
		}
		return true
	})
}

// isLease answers whether a field holds a lease id: every int64 of that name in etcd's messages does.
func isLease(field protoreflect.FieldDescriptor) bool {
	return field.Kind() == protoreflect.Int64Kind && !field.IsList() && (field.Name() == "lease" || field.Name() == "ID")
}

func isMember(field protoreflect.FieldDescriptor) bool {
	if field.Kind() != protoreflect.Uint64Kind {
		return false
	}
	return field.Name() == "memberID" || field.Name() == "leader" || field.Name() == "ID"
}

// outgoing writes a request in this side's own names: the control's lease ids become ours, ownMember our member id.
func (s *side) outgoing(request proto.Message) proto.Message {
	own := proto.Clone(request)
	visit(own.ProtoReflect(), func(m protoreflect.Message) {
		m.Range(func(field protoreflect.FieldDescriptor, value protoreflect.Value) bool {
			if isLease(field) {
				if id, ok := s.leaseOut[value.Int()]; ok {
					m.Set(field, protoreflect.ValueOfInt64(id))
				}
			}
			if isMember(field) && value.Uint() == ownMember {
				m.Set(field, protoreflect.ValueOfUint64(s.memberID))
			}
			return true
		})
	})
	return own
}

// incoming undoes outgoing in an answer, and replaces what each server names for itself: cluster id, member id and
// raft term, which must be constant (ids) and not zero. It answers what is wrong with them.
func (s *side) incoming(message proto.Message) (complaints []string) {
	visit(message.ProtoReflect(), func(m protoreflect.Message) {
		if header, ok := m.Interface().(*pb.ResponseHeader); ok {
			complaints = append(complaints, s.normaliseHeader(header)...)
			return
		}
		m.Range(func(field protoreflect.FieldDescriptor, value protoreflect.Value) bool {
			if isLease(field) {
				if id, ok := s.leaseBack[value.Int()]; ok {
					m.Set(field, protoreflect.ValueOfInt64(id))
				}
			}
			if isMember(field) && value.Uint() == s.memberID {
				m.Set(field, protoreflect.ValueOfUint64(ownMember))
			}
			return true
		})
	})
	return complaints
}

func (s *side) normaliseHeader(header *pb.ResponseHeader) (complaints []string) {
	if header.ClusterId != 0 {
		if header.ClusterId != s.clusterID {
			complaints = append(complaints, fmt.Sprintf("%s: cluster id %x, earlier %x", s.name, header.ClusterId, s.clusterID))
		}
		header.ClusterId = 1
	}
	if header.MemberId != 0 {
		if header.MemberId != s.memberID {
			complaints = append(complaints, fmt.Sprintf("%s: member id %x, earlier %x", s.name, header.MemberId, s.memberID))
		}
		header.MemberId = 1
	}
	if header.RaftTerm != 0 {
		header.RaftTerm = 1
	}
	return complaints
}

var decimalMember = regexp.MustCompile(`memberID:(\d+)`)

// normaliseStatus leaves of a Status what both must agree on, and checks what only has to make sense.
func (s *side) normaliseStatus(m *pb.StatusResponse) (complaints []string) {
	if m.DbSize <= 0 || m.DbSizeInUse <= 0 || m.DbSizeInUse > m.DbSize {
		complaints = append(complaints, fmt.Sprintf("%s: dbSize %d, dbSizeInUse %d", s.name, m.DbSize, m.DbSizeInUse))
	}
	if m.RaftIndex == 0 || m.RaftAppliedIndex == 0 || m.RaftAppliedIndex > m.RaftIndex || m.RaftTerm == 0 {
		complaints = append(complaints, fmt.Sprintf("%s: raftIndex %d, raftAppliedIndex %d, raftTerm %d", s.name, m.RaftIndex, m.RaftAppliedIndex, m.RaftTerm))
	}
	m.DbSize, m.DbSizeInUse, m.RaftIndex, m.RaftAppliedIndex, m.RaftTerm = 1, 1, 1, 1, 1
	for i, text := range m.Errors {
		text = decimalMember.ReplaceAllStringFunc(text, func(found string) string {
			if found == fmt.Sprintf("memberID:%d", s.memberID) {
				return "memberID:own"
			}
			return found
		})
		// The text form of protobuf has one or two spaces between fields, on purpose.
		m.Errors[i] = strings.Join(strings.Fields(text), " ")
	}
	slices.Sort(m.Errors)
	return complaints
}

// normaliseStream joins the chunks of a RangeStream into one answer; chunk sizes are each server's own affair.
func normaliseStream(messages []proto.Message) (joined proto.Message, complaints []string) {
	whole := new(pb.RangeResponse)
	for i, m := range messages {
		part := m.(*pb.RangeStreamResponse).RangeResponse
		last := i == len(messages)-1
		if part == nil {
			complaints = append(complaints, fmt.Sprintf("chunk %d is empty", i))
			continue
		}
		if !last && (part.Header != nil || part.Count != 0 || part.More || len(part.Kvs) == 0) {
			complaints = append(complaints, fmt.Sprintf("chunk %d of %d carries more than pairs: %v", i, len(messages), part))
		}
		if last {
			whole.Header, whole.Count, whole.More = part.Header, part.Count, part.More
		}
		whole.Kvs = append(whole.Kvs, part.Kvs...)
	}
	return whole, complaints
}

func normaliseMembers(m *pb.MemberListResponse) {
	for _, member := range m.Members {
		for i := range member.PeerURLs {
			member.PeerURLs[i] = "url"
		}
		for i := range member.ClientURLs {
			member.ClientURLs[i] = "url"
		}
	}
}
