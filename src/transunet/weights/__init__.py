"""Other people's weights become our state dict: names and arrays in, state dict out."""
