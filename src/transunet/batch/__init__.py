"""Many cases, many processes."""
