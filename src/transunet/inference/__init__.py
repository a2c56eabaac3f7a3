"""From a volume to a label volume on the same grid."""
