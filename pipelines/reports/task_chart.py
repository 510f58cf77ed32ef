"""A picture of accuracy by task: for each task the model states side by side, with their intervals."""

from collections.abc import Mapping
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from memvp_data.metrics.bootstrap import Interval

matplotlib.use("agg")


def draw_tasks(scores: Mapping[str, Mapping[str, Interval]], *, title: str, path: Path) -> Path:
    """`scores`: model state -> name of a score -> score in per cent, as on the report page. Writes a PNG."""
    names = list(dict.fromkeys(name for found in scores.values() for name in found))
    height = 0.8 / max(1, len(scores))
    figure = Figure(figsize=(8.5, 0.9 + len(names) * (0.25 + 0.16 * len(scores))), layout="constrained")
    axis = figure.subplots()
    for number, (state, found) in enumerate(scores.items()):
        known = [(place, found[name]) for place, name in enumerate(names) if name in found]
        places = [place + (number - (len(scores) - 1) / 2) * height for place, _ in known]
        values = np.array([score.value for _, score in known])
        below_above = np.array([[score.value - score.low, score.high - score.value] for _, score in known]).T
        axis.barh(
            places, values, height=height, label=state, xerr=below_above, error_kw={"elinewidth": 0.8, "alpha": 0.6}
        )
    axis.set_yticks(range(len(names)), names)
    axis.invert_yaxis()
    axis.set(title=title, xlabel="per cent, with 95 % intervals", xlim=(0, None))
    axis.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=8)
    figure.savefig(path, dpi=120)
    return path
