"""Many cases into one folder: which are left, who has them, what became of them."""
