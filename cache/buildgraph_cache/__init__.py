"""A content-addressed store with records, leases and garbage collection."""
