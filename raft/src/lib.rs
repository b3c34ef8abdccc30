//! Raft consensus, sans I/O: no clock, no socket, no file, no thread.
