//! The load generator: closed-loop clients straight over h2, HdrHistogram, server CPU and memory.
