"""Whether probabilities mean what they say, as a picture."""

from collections.abc import Sequence
from pathlib import Path

from transunet.drawing.figures import new_figure, save_figure

Bins = Sequence[tuple[float, float, float]]
"""Share of the voxels, mean confidence and accuracy of each bin of confidence."""


def draw_reliability(before: Bins, after: Bins, path: Path) -> Path:
    """Draw how often voxels are right against how sure the network was, before and after tempering.

    The larger a dot, the more voxels; on the diagonal, probabilities mean what they say.

    Raises:
        ConfigError: without matplotlib, or for a path that cannot be written.
    """
    figure = new_figure(4.5, 4.5)
    axes = figure.add_subplot()
    axes.plot([0, 1], [0, 1], color="tab:gray", linewidth=0.8, linestyle="--")
    for bins, colour, label in ((before, "tab:orange", "before"), (after, "tab:blue", "after")):
        shares, confidences, accuracies = zip(*bins, strict=True)
        axes.plot(confidences, accuracies, color=colour, linewidth=0.8, label=label)
        axes.scatter(confidences, accuracies, [10 + 300 * s for s in shares], colour, alpha=0.6)
    axes.set(xlabel="confidence", ylabel="share that is right", xlim=(0, 1), ylim=(0, 1.02))
    axes.set_title("Voxels in doubt of the held-out cases", fontsize="medium")
    axes.legend()
    return save_figure(figure, path)
