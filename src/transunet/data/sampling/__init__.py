"""How a working volume becomes the samples that a network takes: the one seam between the two."""
