//! The host side of bulkhead.
