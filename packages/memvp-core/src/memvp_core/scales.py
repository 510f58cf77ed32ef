"""Which retrieval scale leaves a pretrained model as good as it was, before anything is trained.

A new memory adds noise to every FFN. How much a model bears depends on the width of its states and of the features, so
scales that suit one model can ruin another at the first step: compare the loss of a batch with and without the memory.

    def loss_at(scale: float) -> float:
        with model.injection.scaled(scale), torch.no_grad():
            return float(model(input_ids, labels=labels, visual_features=features).loss)

    model.set_retrieval_scale(harmless_scale(loss_at))  # of a model that was made with retrieval_scale=1.0
"""

from collections.abc import Callable

HARM = 1.05
"""Loss with the memory over loss without it, from which on the memory does harm."""
_STEP = 10**0.5
_NUM_STEPS = 8


def is_harmful(loss: float, *, without: float) -> bool:
    """Whether a loss with the memory is worse than one without it by more than HARM; a NaN is."""
    return not loss <= HARM * without


def harmless_scale(loss_at: Callable[[float], float], *, start: float = 1.0, without: float | None = None) -> float:
    """The largest of start, start / 3.16, start / 10, ... down to start / 3162 at which the memory does no harm.

    `loss_at(scale)` is the loss of one batch with the memory at a scale; at 0 it is the base model's, unless that is
    given as `without`. Raises a `ValueError` if even the smallest scale does harm.
    """
    without = loss_at(0.0) if without is None else without
    scales = _scales(start)
    for scale in scales:
        if not is_harmful(loss_at(scale), without=without):
            return scale
    raise ValueError(
        f"a memory at retrieval_scale {scales[-1]:g} still makes the loss of the first batch worse than {HARM} times "
        f"the {without:.3f} without it: check the features (are they finite, of the tower's usual size?), or lower "
        "visual_scale."
    )


def _scales(start: float) -> list[float]:
    # Two digits: the number will stand in settings files.
    return [float(f"{start / _STEP**number:.2g}") for number in range(_NUM_STEPS)]
