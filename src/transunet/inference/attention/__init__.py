"""Where a network looks: attention of layers and heads, and roll-out, on the volume's grid."""
