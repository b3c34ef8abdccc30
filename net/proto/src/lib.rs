//! etcd's API messages and its table of methods, generated from our own .proto files.
