"""Edited memories against the base model with fewer or weaker rows in its weights, and against the loops."""

import math
from fractions import Fraction
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from memvp_core import VisualMemory
from memvp_core.locate import mask_rows, rows_in_box, scale_rows
from memvp_core.memory.reading import Images, make_reading
from memvp_core.reference import retrieval

FORMS = ["direct", "split", "factored", "reference"]
# The RMSNorms of transformers round to float32 inside: agreement ends there.
CLOSE = {"rtol": 1e-6, "atol": 1e-6}
# Powers of two: the weights are float32, the tests float64.
WEIGHTS = {0: [-0.25, 1, 1, 1], 1: [0.5, 0.5, 1, 1], 2: [1, 1, 1, 1]}
BLOCKED = {0: [1, 3], 1: [], 2: [2, 3]}


def edited(memory: VisualMemory) -> VisualMemory:
    """Rows blocked twice, scaled twice, and one of them both: what WEIGHTS and BLOCKED say."""
    memory = mask_rows(memory, [1], 0)
    memory = scale_rows(memory, [0, 1], 0.5, entry=1)
    memory = mask_rows(memory, torch.tensor([2, 3]), entry=-1)
    memory = scale_rows(memory, [0], 0.5, entry=0)
    memory = scale_rows(memory, torch.tensor([True, False, False, False]), -0.5, entry=0)
    return mask_rows(memory, [3, 3], entry=0)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("shared", [True, False], ids=["shared", "per_layer"])
def test_edited_rows_equal_the_concatenated_model_without_them(memvp, oracle, batch, form: str, shared: bool) -> None:
    model = memvp(form=form, share_position_embedding=shared)
    ids, features = batch()
    index = [1, 0, 2, 0]
    memory = edited(model.encode(features))
    logits = model(ids, memory=memory, image_index=torch.tensor(index)).logits
    for row, image in enumerate(index):
        concatenated = oracle(model, features[image], row_weights=WEIGHTS[image], blocked=BLOCKED[image])
        torch.testing.assert_close(logits[row], concatenated(ids[row][None]).logits[0], **CLOSE)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "variant",
    [
        {},
        {"position_mode": "concat"},
        {"padded_rows": "masked"},
        {"insert_in": "keys"},
        {"insert_in": "values"},
        {"no_image": "base"},
        {"num_images": 2},
    ],
    ids=lambda variant: "_".join(map(str, variant.values())) or "plain",
)
def test_edited_rows_equal_the_loops(memvp, batch, variant: dict[str, Any], form: str) -> None:
    """Entries of different lengths too: entry 3 has two rows, entry 4 two images side by side."""
    model = memvp(form=form, num_slots=7, **variant)
    _, features = batch(images=3)
    memory = VisualMemory.cat([model.encode(features), model.encode(features[:1, :2])])
    if "num_images" in variant:
        pair = VisualMemory.join([model.encode(features[:1, :2]), model.encode(features[1:2])])
        memory = VisualMemory.cat([memory, pair])
    memory = edited_everywhere(memory)
    index = torch.tensor([2, -1, 3, 0, len(memory) - 1])
    images = Images(None, memory.codes, memory.row_images, memory.row_weights, memory.blocked)
    reading = make_reading(
        model.prompt, images, image_index=index, num_tokens=3, dtype=torch.float64, is_training=False
    )
    x = torch.randn(5, 3, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    found = reading.retrieve(x, layer=0, activation=torch.nn.functional.silu)
    for row, image in enumerate(index.tolist()):
        for token in range(3):
            wanted = one_token(model, memory, x[row, token], image=image)
            torch.testing.assert_close(found[row, token], wanted, rtol=1e-12, atol=1e-12)


def edited_everywhere(memory: VisualMemory) -> VisualMemory:
    memory = scale_rows(mask_rows(memory, [0]), [1, 3], 0.5)
    return mask_rows(scale_rows(memory, [1, 2], -0.5), [3], entry=0)


def one_token(model: Any, memory: VisualMemory, x: Tensor, *, image: int) -> Tensor:
    """Row by row, from the codes: what is written to keys and values, and what may be active."""
    config, prompt = model.memvp_config, model.prompt
    keys, values = [], []
    if image < 0 and config.no_image == "base":
        return torch.zeros_like(x)
    for slot in range(config.num_slots):
        pk, pv = prompt.key_positions[slot], prompt.value_positions[slot]
        row = None if image < 0 else visual_row(model, memory, image=image, row=slot)
        is_padding = image >= 0 and not is_row(memory, image=image, row=slot)
        blocked = image >= 0 and not is_padding and bool(memory.blocked[image, slot])
        if config.position_mode == "concat":
            if row is not None and not blocked:
                keys, values = [*keys, row], [*values, row]
            keys, values = [*keys, pk], [*values, pv]
            continue
        if blocked or (is_padding and config.padded_rows == "masked"):
            continue
        in_keys = row is not None and config.insert_in in ("both", "keys")
        in_values = row is not None and config.insert_in in ("both", "values")
        keys, values = [*keys, pk + row if in_keys else pk], [*values, pv + row if in_values else pv]
    if not keys:
        return torch.zeros_like(x)
    found = retrieval(x, keys=torch.stack(keys), values=torch.stack(values), activation=torch.nn.functional.silu)
    return config.retrieval_scale * found


def is_row(memory: VisualMemory, *, image: int, row: int) -> bool:
    return row < memory.num_rows and (memory.row_images is None or int(memory.row_images[image, row]) >= 0)


def visual_row(model: Any, memory: VisualMemory, *, image: int, row: int) -> Tensor | None:
    """weight * lambda * f(z), or None where the slot has no row."""
    if not is_row(memory, image=image, row=row):
        return None
    found = model.prompt.projector[-1](memory.codes[image, row])
    if model.memvp_config.num_images > 1:
        shown = 0 if memory.row_images is None else int(memory.row_images[image, row])
        found = found + model.prompt.image_embedding[shown]
    return float(memory.row_weights[image, row]) * model.memvp_config.visual_scale * found


def test_blocking_is_not_scaling_to_zero(memvp, batch) -> None:
    model = memvp()
    ids, features = batch(images=4)
    memory = model.encode(features)
    blocked = model(ids, memory=mask_rows(memory, [1, 2])).logits
    scaled = model(ids, memory=scale_rows(memory, [1, 2], 0.0)).logits
    # The positions of the scaled rows are still read, until they hold nothing to be read.
    assert (blocked - scaled).abs().max() > 1e-2
    with torch.no_grad():
        model.prompt.value_positions[1:3] = 0.0
    torch.testing.assert_close(
        model(ids, memory=mask_rows(memory, [1, 2])).logits,
        model(ids, memory=scale_rows(memory, [1, 2], 0.0)).logits,
        **CLOSE,
    )


def test_nothing_of_the_image_is_an_image_free_sample(memvp, batch) -> None:
    model = memvp()
    ids, features = batch(images=4)
    memory = scale_rows(model.encode(features), range(4), 0.0)
    torch.testing.assert_close(model(ids, memory=memory).logits, model(ids).logits, **CLOSE)


def test_all_slots_blocked_is_the_base_model(memvp, llama, batch) -> None:
    model = memvp(num_slots=4)
    ids, features = batch(images=4)
    memory = mask_rows(model.encode(features), range(4))
    torch.testing.assert_close(model(ids, memory=memory).logits, llama()(ids).logits, **CLOSE)


@pytest.mark.parametrize("form", ["direct", "split", "factored"])
def test_other_images_answer_as_before(memvp, batch, form: str) -> None:
    model = memvp(form=form)
    ids, features = batch(images=4)
    memory = model.encode(features)
    before = model(ids, memory=memory).logits
    after = model(ids, memory=scale_rows(mask_rows(memory, [0, 2], entry=1), [3], 2.0, entry=2)).logits
    torch.testing.assert_close(after[[0, 3]], before[[0, 3]], **CLOSE)
    assert not torch.allclose(after[1], before[1])
    assert not torch.allclose(after[2], before[2])


def test_edits_leave_the_given_memory_alone(memvp, batch) -> None:
    memory = memvp().encode(batch()[1])
    once = mask_rows(scale_rows(memory, [0], 3.0), [1])
    mask_rows(scale_rows(once, [0], 3.0), [2])
    assert memory.row_weights is None
    assert memory.blocked is None
    assert once.blocked.tolist() == [[False, True, False, False]] * 3
    assert once.row_weights.tolist() == [[3, 1, 1, 1]] * 3


def test_each_entry_can_have_its_own_rows(memvp, batch) -> None:
    memory = memvp().encode(batch()[1])
    rows = torch.tensor([[1, 0, 0, 1], [0, 0, 0, 0], [0, 1, 0, 0]]).bool()
    assert torch.equal(mask_rows(memory, rows).blocked, rows)
    assert torch.equal(mask_rows(memory, rows, entry=None).blocked, rows)
    assert torch.equal(scale_rows(memory, rows, 2.0).row_weights, 1.0 + rows)


def test_edits_are_kept_by_files_and_by_other_company(memvp, batch, tmp_path) -> None:
    model = memvp()
    ids, features = batch(images=4)
    memory = edited(model.encode(features[:3]))
    wanted = model(ids[:3], memory=memory).logits
    memory.save(tmp_path / "memory.safetensors")
    assert torch.equal(model(ids[:3], memory=VisualMemory.load(tmp_path / "memory.safetensors")).logits, wanted)
    together = VisualMemory.cat([model.encode(features[3:, :2]), memory])
    torch.testing.assert_close(model(ids[[3, 0, 1, 2]], memory=together).logits[1:], wanted, **CLOSE)


def test_padding_is_never_edited(memvp, batch) -> None:
    model = memvp()
    _, features = batch()
    memory = VisualMemory.cat([model.encode(features[:1]), model.encode(features[1:2, :2])])
    assert mask_rows(memory, [1, 3]).blocked.tolist() == [[False, True, False, True], [False, True, False, False]]
    assert scale_rows(memory, [3], 0.0).row_weights.tolist() == [[1, 1, 1, 0], [1, 1, 1, 1]]


def test_generated_tokens_miss_the_rows_too(memvp, batch) -> None:
    model = memvp()
    ids, features = batch(images=4)
    memory = edited(model.encode(features))
    new = model.generate(ids, memory=memory, max_new_tokens=4, min_new_tokens=4, do_sample=False)
    for length in range(ids.shape[1], new.shape[1]):
        assert torch.equal(model(new[:, :length], memory=memory).logits[:, -1].argmax(-1), new[:, length])


@pytest.mark.parametrize(
    ("rows", "entry", "message"),
    [
        ([0, 4], None, r"rows holds 4, but an entry of this memory has 4: use 0 to 3\."),
        ([-1], 0, "rows holds -1"),
        ([0], 3, r"entry is 3, but this memory holds 3 images: use 0 to 2, or None for all of them\."),
        (torch.zeros(3, dtype=torch.bool), None, r"must have the shape \(4,\) or \(3, 4\), got \(3,\)"),
        (torch.zeros(3, 4, dtype=torch.bool), 1, r"must have the shape \(4,\), got \(3, 4\)"),
    ],
)
def test_rows_that_are_not_there_are_refused(memvp, batch, rows: Any, entry: int | None, message: str) -> None:
    memory = memvp().encode(batch()[1])
    for edit in (mask_rows, lambda memory, rows, entry: scale_rows(memory, rows, 0.5, entry)):
        with pytest.raises(ValueError, match=message):
            edit(memory, rows, entry)


def test_other_impossible_edits_are_refused(memvp, batch) -> None:
    _, features = batch()
    with pytest.raises(ValueError, match="factor must be a finite number"):
        scale_rows(memvp().encode(features), [0], math.nan)
    with pytest.raises(ValueError, match="holds nothing of its images"):
        mask_rows(memvp(insert_in="none").encode(features), [0])


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_box_touches_the_patches_that_hold_a_pixel_of_it(data: st.DataObject) -> None:
    width, height = (data.draw(st.integers(1, 40)) for _ in range(2))
    grid = tuple(data.draw(st.integers(1, 9)) for _ in range(2))
    left, top = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
    box = (left, top, data.draw(st.integers(left + 1, width)), data.draw(st.integers(top + 1, height)))
    wanted = []
    for row in range(grid[0]):
        for column in range(grid[1]):
            across = overlap(box[0], box[2], part=column, size=Fraction(width, grid[1]))
            if across and overlap(box[1], box[3], part=row, size=Fraction(height, grid[0])):
                wanted.append(row * grid[1] + column)
    assert rows_in_box(box, image_size=(width, height), grid=grid) == wanted
    assert wanted


def overlap(start: int, end: int, *, part: int, size: Fraction) -> bool:
    return max(start, part * size) < min(end, (part + 1) * size)


def test_boxes_of_a_picture_of_four_patches() -> None:
    def rows(*box: float) -> list[int]:
        return rows_in_box(box, image_size=224, grid=(2, 2))

    assert rows(0, 0, 112, 112) == [0]
    assert rows(0, 0, 112.5, 112) == [0, 1]
    assert rows(111.5, 120, 112, 130) == [2]
    assert rows(0, 0, 224, 224) == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("box", "size", "grid", "message"),
    [
        ((5, 0, 5, 4), 8, (2, 2), r"left < right and top < bottom, got \(5, 0, 5, 4\)"),
        ((0, 0, 9, 4), 8, (2, 2), "reaches out of the picture of 8 x 8 pixels: give it in pixels of the picture that"),
        ((-1, 0, 4, 4), (8, 4), (2, 2), "reaches out of the picture of 8 x 4 pixels"),
        ((0, math.nan, 4, 4), 8, (2, 2), "left < right and top < bottom"),
        ((0, 0, 4, 4), 8, (0, 2), "at least one pixel and one patch a side; got 8 x 8 pixels and 0 x 2 patches"),
    ],
)
def test_impossible_boxes_are_refused(box: Any, size: Any, grid: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        rows_in_box(box, image_size=size, grid=grid)
