"""How often a call runs each module does not depend on the images of the batch.

ZeRO-3 follows modules through their hooks, and ranks whose counts differ wait for each other for ever.
"""

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch

from tests.core.tiny_models import make_tiny

# None, one and many images, alone, shared and mixed with none: other groups, other forms.
INDEXES = [[-1, -1, -1, -1], [0, 0, 0, 0], [0, 1, 2, 3], [0, -1, 1, -1], [0, 0, 1, 1], [3, -1, -1, 0]]


@pytest.mark.parametrize("name", ["llama", "bart", "t5_gated", "opt", "mixtral"])
@pytest.mark.parametrize("is_training", [False, True])
def test_every_module_runs_equally_often_whatever_the_images(
    name: str, is_training: bool, memvp: Callable[..., Any], batch: Callable[..., tuple[Any, ...]]
) -> None:
    model = memvp(make_tiny(name)).train(is_training)
    counts: Counter[str] = Counter()
    for path, module in model.named_modules():
        module.register_forward_hook(lambda *_, path=path: counts.update([path]))
    ids, features = batch(images=4)
    inputs = {"input_ids": ids, **({"decoder_input_ids": ids[:, :2]} if model.config.is_encoder_decoder else {})}
    found = []
    for index in INDEXES:
        shown = features if max(index) >= 0 else features[:0]
        for tokens in (inputs, {key: value.repeat_interleave(3, dim=1) for key, value in inputs.items()}):
            counts.clear()
            model(**tokens, visual_features=shown, image_index=torch.tensor(index))
            found.append(dict(counts))
    assert all(one == found[0] for one in found)
