//! The wire: HTTP/2 and gRPC, HTTP/1.1.
