"""How far to trust a prediction: fitted on held-out cases, told with every result."""
