"""Every form of the retrieval against the loops, in value and in every gradient, for odd sizes."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import TypeCheckError
from torch import Tensor
from torch.nn import functional

from memvp_core.memory import retrieve
from memvp_core.memory.arrange import arrange
from memvp_core.reference import memory_rows, retrieval

FORMS = ["direct", "split", "factored", "reference"]
WIDTH, CODES = 5, 3
# (image index, tokens, rows per image, slots): one of everything, unequal groups, gaps, a change inside a sequence.
CASES = {
    "one_of_everything": ([0], 1, 1, 1),
    "own_images": ([0, 1, 2], 3, 2, 3),
    "all_slots_filled": ([0, 1], 63, 3, 3),
    "shared_unequally": ([1, 0, 1, 2, 1], 2, 2, 4),
    "some_without_image": ([2, -1, 0, -1, -1, 2], 2, 2, 3),
    "none_with_image": ([-1, -1], 3, 2, 3),
    "per_token": ([[0, 0, -1], [2, 1, 1]], 3, 2, 3),
    "per_token_back_to_the_first": ([[0, 1, 0], [2, -1, 2]], 3, 2, 3),
}


def make_tensors(*, index: Tensor, tokens: int, rows: int, slots: int, basis: bool = False) -> dict[str, Tensor]:
    """With a `basis` the rows are codes in it."""
    torch.manual_seed(0)
    shapes = {
        "x": (index.shape[0], tokens, WIDTH),
        "rows": (3, rows, CODES if basis else WIDTH),
        "key_positions": (slots, WIDTH),
        "value_positions": (slots, WIDTH),
        "visual_scale": (1,),
        "retrieval_scale": (1,),
    } | ({"basis": (WIDTH, CODES)} if basis else {})
    return {name: torch.randn(shape, dtype=torch.float64, requires_grad=True) for name, shape in shapes.items()}


def expected(tensors: dict[str, Tensor], *, index: Tensor, **settings: Any) -> Tensor:
    """One token at a time, from the rows of its own image."""
    x = tensors["x"]
    per_token = index if index.ndim == 2 else index[:, None].expand(x.shape[:2])
    out = [one_token(tensors, x=x[b, t], image=int(per_token[b, t]), **settings) for b, t in index_pairs(x)]
    return torch.stack(out).view_as(x)


def index_pairs(x: Tensor) -> list[tuple[int, int]]:
    return [(b, t) for b in range(x.shape[0]) for t in range(x.shape[1])]


def one_token(
    tensors: dict[str, Tensor],
    *,
    x: Tensor,
    image: int,
    insert_in: str = "both",
    padded_rows: str = "live",
    no_image: str = "positions",
    position_mode: str = "add",
) -> Tensor:
    if image < 0 and no_image == "base":
        return torch.zeros_like(x)
    if position_mode == "concat":
        return side_by_side(tensors, x=x, image=image)
    projected = None if image < 0 else tensors["rows"][image]
    if projected is not None and "basis" in tensors:
        projected = projected @ tensors["basis"].T
    num_live = len(projected) if padded_rows == "masked" and projected is not None else None
    keys, values = (
        memory_rows(
            projected if insert_in in ("both", name) else None,
            positions=tensors[f"{name[:-1]}_positions"],
            visual_scale=tensors["visual_scale"],
        )[:num_live]
        for name in ("keys", "values")
    )
    found = retrieval(x, keys=keys, values=values, activation=functional.silu)
    return tensors["retrieval_scale"] * found


def side_by_side(tensors: dict[str, Tensor], *, x: Tensor, image: int) -> Tensor:
    """Image rows without positions, and all positions without image rows."""
    keys, values = tensors["key_positions"], tensors["value_positions"]
    if image >= 0:
        basis = tensors.get("basis", torch.eye(WIDTH, dtype=torch.float64))
        rows = tensors["visual_scale"] * tensors["rows"][image] @ basis.T
        keys, values = torch.cat([rows, keys]), torch.cat([rows, values])
    return tensors["retrieval_scale"] * retrieval(x, keys=keys, values=values, activation=functional.silu)


def assert_same(out: Tensor, reference: Tensor, tensors: dict[str, Tensor]) -> None:
    torch.testing.assert_close(out, reference, rtol=1e-12, atol=1e-12)
    weights = torch.randn_like(out)
    inputs = list(tensors.values())
    grads = torch.autograd.grad((out * weights).sum(), inputs, allow_unused=True, materialize_grads=True)
    wanted = torch.autograd.grad((reference * weights).sum(), inputs, allow_unused=True, materialize_grads=True)
    for name, left, right in zip(tensors, grads, wanted, strict=True):
        torch.testing.assert_close(left, right, rtol=1e-11, atol=1e-11, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("case", CASES)
def test_form_equals_loops(case: str, form: str) -> None:
    index_list, tokens, rows, slots = CASES[case]
    index = torch.tensor(index_list)
    tensors = make_tensors(index=index, tokens=tokens, rows=rows, slots=slots, basis=form == "factored")
    out = retrieve(**tensors, image_index=index, activation=functional.silu, form=form)
    assert_same(out, expected(tensors, index=index), tensors)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "settings",
    [
        {"insert_in": "keys"},
        {"insert_in": "values"},
        {"padded_rows": "masked"},
        {"no_image": "base"},
        {"insert_in": "none"},
        {"insert_in": "none", "no_image": "base"},
        {"position_mode": "concat"},
        {"position_mode": "concat", "no_image": "base"},
        {"insert_in": "values", "padded_rows": "masked", "no_image": "base"},
    ],
    ids=lambda settings: "_".join(settings.values()),
)
def test_variant_equals_loops(settings: dict[str, str], form: str) -> None:
    index = torch.tensor([2, -1, 0, -1, -1, 2])
    tensors = make_tensors(index=index, tokens=2, rows=2, slots=3, basis=form == "factored")
    out = retrieve(**tensors, image_index=index, activation=functional.silu, form=form, **settings)
    assert_same(out, expected(tensors, index=index, **settings), tensors)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(-1, 3), st.integers(-1, 3)), min_size=1, max_size=8), st.integers(1, 3))
def test_arrangement_sorts_every_unit_to_its_image(index: list[tuple[int, int]], times: int) -> None:
    arrangement = arrange(torch.tensor(index), device=torch.device("cpu"))
    if arrangement.index.ndim == 1:
        # Repeated sequences stand together and count as a longer one.
        assert arrangement.repeat(times) is arrangement
        repeated = [image for image, _ in index]
    else:
        arrangement = arrangement.repeat(times)
        repeated = [image for row in index for _ in range(times) for image in row]
    order = range(len(repeated)) if arrangement.order is None else arrangement.order.tolist()
    assert sorted(order) == list(range(len(repeated)))
    images = [
        arrangement.entries[group.first_entry + number]
        for group in arrangement.groups
        for number in range(group.num_entries)
        for _ in range(group.units_per_entry)
    ]
    assert [repeated[unit] for unit in order] == images
    if arrangement.inverse is not None:
        assert [list(order)[place] for place in arrangement.inverse.tolist()] == list(range(len(repeated)))


@pytest.mark.parametrize("form", FORMS)
def test_order_of_slots_does_not_matter(form: str) -> None:
    index = torch.tensor([0, 2])
    tensors = make_tensors(index=index, tokens=3, rows=3, slots=3, basis=form == "factored")
    order = [2, 0, 1]
    shuffled = tensors | {
        "rows": tensors["rows"][:, order],
        "key_positions": tensors["key_positions"][order],
        "value_positions": tensors["value_positions"][order],
    }
    settings = {"image_index": index, "activation": functional.silu, "form": form}
    torch.testing.assert_close(retrieve(**tensors, **settings), retrieve(**shuffled, **settings), rtol=0, atol=1e-12)


@pytest.mark.parametrize(("padded_rows", "matters"), [("live", True), ("masked", False)])
def test_padded_slot_matters_only_while_live(padded_rows: str, matters: bool) -> None:
    index = torch.tensor([0])
    tensors = make_tensors(index=index, tokens=2, rows=2, slots=3)
    settings = {"image_index": index, "activation": functional.silu, "padded_rows": padded_rows}
    before = retrieve(**tensors, **settings)
    with torch.no_grad():
        tensors["value_positions"][2] += 1.0
    assert torch.equal(before, retrieve(**tensors, **settings)) is not matters


def test_forms_draw_the_same_dropout_mask() -> None:
    index = torch.arange(3)
    tensors = make_tensors(index=index, tokens=4, rows=2, slots=3, basis=True)
    outputs = []
    for form in ("direct", "split", "factored"):
        torch.manual_seed(5)
        outputs.append(retrieve(**tensors, image_index=index, activation=functional.silu, dropout=0.5, form=form))
    for output in outputs[1:]:
        torch.testing.assert_close(output, outputs[0], rtol=0, atol=1e-12)
    undropped = retrieve(**tensors, image_index=index, activation=functional.silu)
    assert not torch.allclose(outputs[0], undropped)


@pytest.mark.parametrize("form", ["direct", "split", "factored", "reference"])
def test_dropout_leaves_out_the_share_that_it_says(form: Any) -> None:
    size, rate = 400, 0.3
    torch.manual_seed(0)
    # Every slot is active with 1 and shows itself in its own coordinate.
    shown = retrieve(
        torch.randn(1, 4, size),
        rows=torch.zeros(1, 2, 3),
        basis=torch.zeros(size, 3),
        key_positions=torch.zeros(size, size),
        value_positions=torch.eye(size),
        image_index=torch.tensor([0]),
        activation=torch.ones_like,
        dropout=rate,
        form=form,
    )
    kept = shown[shown != 0]
    # 1,600 draws: the share's standard deviation is 0.011.
    assert abs(1 - kept.numel() / shown.numel() - rate) < 0.05
    torch.testing.assert_close(kept, torch.full_like(kept, 1 / (1 - rate)))


def paper_sizes() -> dict[str, Tensor]:
    """LLaMA-7B with the paper's projector at its initial scales; all inputs are bfloat16 numbers."""
    torch.manual_seed(0)
    basis = torch.empty(4096, 128)
    torch.nn.init.xavier_uniform_(basis)
    tensors = {
        "x": 0.3 * torch.randn(1, 64, 4096),
        "rows": functional.silu(torch.randn(1, 256, 128)),
        "basis": basis,
        "key_positions": 0.02 * torch.randn(320, 4096),
        "value_positions": torch.zeros(320, 4096),
    }
    return {name: tensor.bfloat16() for name, tensor in tensors.items()}


def errors_in_bfloat16(form: str) -> tuple[float, float]:
    """Of the scores, relative to their visual part; and of the output, relative to itself."""
    tensors = paper_sizes()
    scores: list[Tensor] = []

    def keep(values: Tensor) -> Tensor:
        scores.append(values)
        return functional.silu(values)

    out = retrieve(**tensors, image_index=torch.tensor([0]), activation=keep, visual_scale=0.01, form=form)
    x, codes, basis, keys, values = (tensor.double() for tensor in tensors.values())
    rows = functional.pad(0.01 * codes @ basis.T, (0, 0, 0, 64))
    exact = x @ (rows + keys).mT
    wanted = functional.silu(exact) @ (rows + values)
    score_error = (scores[0].double() - exact).norm() / (x @ rows.mT).norm()
    return float(score_error), float((out.double() - wanted).norm() / wanted.norm())


def test_split_and_factored_keep_the_image_that_direct_rounds_away_in_bfloat16() -> None:
    errors = {form: errors_in_bfloat16(form) for form in ("direct", "split", "factored")}
    (direct, direct_out), (split, split_out), (factored, factored_out) = errors.values()
    assert direct > 1e-2
    assert split < direct / 5
    assert factored < direct / 100
    assert max(split_out, factored_out) < 1.1 * direct_out


def test_factored_values_are_rounded_once() -> None:
    """Sums over codes stay in float32 until they are rows: one rounding of the result, none on the way."""
    tensors = paper_sizes()
    active = torch.randn(1, 64, 320).bfloat16()

    def given(scores: Tensor) -> Tensor:
        return active.to(scores.dtype)

    settings = {"image_index": torch.tensor([0]), "visual_scale": 0.01, "form": "factored"}
    out = retrieve(**tensors, activation=given, **settings)
    exact = 0.01 * active[..., :256].double() @ tensors["rows"].double() @ tensors["basis"].double().mT
    # Half a step of bfloat16; and float32 sums of 256 and 128 products, for results near zero.
    torch.testing.assert_close(out.double(), exact, rtol=2**-8, atol=1e-6 * float(exact.abs().max()))


def test_factored_without_a_basis_is_refused() -> None:
    tensors = make_tensors(index=torch.tensor([0]), tokens=1, rows=1, slots=1)
    with pytest.raises(ValueError, match='form "factored" needs rows given as codes in a basis'):
        retrieve(**tensors, image_index=torch.tensor([0]), activation=functional.silu, form="factored")


def test_sixteen_bit_scores_are_kept_in_float32() -> None:
    from memvp_core.memory.precision import dot

    torch.manual_seed(0)
    x, keys = torch.randn(2, 3, 256, dtype=torch.bfloat16), torch.randn(2, 4, 256, dtype=torch.bfloat16)
    assert dot(x, keys).dtype == torch.float32
    # float32 sums of 256 products; a bfloat16 result would be off by 4e-3.
    torch.testing.assert_close(dot(x, keys).double(), x.double() @ keys.double().mT, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(dot(x, keys[0]).double(), x.double() @ keys[0].double().mT, rtol=1e-5, atol=1e-5)


def test_sixteen_bit_gradients_follow_the_wide_ones() -> None:
    from memvp_core.memory.precision import dot

    torch.manual_seed(0)
    x, keys = torch.randn(2, 3, 8), torch.randn(4, 8)
    short = [tensor.bfloat16().requires_grad_() for tensor in (x, keys)]
    wide = [tensor.detach().double().requires_grad_() for tensor in short]
    for tensors in (short, wide):
        (dot(*tensors) ** 2).sum().backward()
    for left, right in zip(short, wide, strict=True):
        # bfloat16 has 8 bits of mantissa: 2^-8 of the largest gradient.
        torch.testing.assert_close(left.grad.double(), right.grad, rtol=0, atol=2**-7 * float(right.grad.abs().max()))


def test_shapes_are_checked_here() -> None:
    """The tests of core switch the type checker on (conftest.py); moving files once threatened to leave it off."""
    with pytest.raises(TypeCheckError):
        memory_rows(torch.zeros(2, 3), positions=torch.zeros(4), visual_scale=1.0)
    with pytest.raises(TypeCheckError):
        arrange(torch.zeros(2, 3, 4, dtype=torch.long), device=torch.device("cpu"))
