//! The bulkhead VMM.
