"""Pictures of slices: turned as people look at them, windowed, with labels or heat on them."""
