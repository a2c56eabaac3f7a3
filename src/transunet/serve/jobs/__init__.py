"""Jobs: kept, queued, computed in a process of their own."""
