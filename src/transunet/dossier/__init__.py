"""The evidence that a reviewer asks for, gathered from a run or a bundle itself."""
