"""Log lines as fixed event names with fields, on the standard library's logging."""
