"""HTTP/1 as bytes: heads, bodies and pages, read and written. No I/O, no clock."""
