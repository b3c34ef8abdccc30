//! `support` is a store in memory and a client that decodes frames; `rules` goes through etcd's rules one by one;
//! `random` holds random histories against a model.

mod random;
mod rules;
mod support;
