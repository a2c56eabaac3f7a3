"""The smallest 3D networks, whose first pooling spares the planes: settings of `create_model`."""

TINY_TRUNK = {
    "width": 4,
    "max_width": 8,
    "poolings": ((1, 2, 2), (2, 2, 2), (2, 2, 2)),
    "kernels": ((3, 3, 3),) * 4,
}
TINY_3D = {
    **TINY_TRUNK,
    "vit": {"num_layers": 1, "hidden_size": 12, "mlp_size": 12, "num_heads": 1},
    "queries": {"hidden_size": 96, "mlp_size": 8, "num_queries": 4},
}
