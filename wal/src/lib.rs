//! The write-ahead log: a state machine, and its io_uring adapter.
