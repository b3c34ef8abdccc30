//! `support` is a store in memory and a client that decodes frames; `rules` goes through etcd's rules one by one;
//! `random` holds random histories against a model; `damage` is
//! about pages that cannot be read.

mod damage;
mod random;
mod rules;
mod support;
