"""How foreign files name the weights."""
