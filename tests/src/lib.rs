//! Integration tests of bulkhead and the testbed they run in.
