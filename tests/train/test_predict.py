"""Answers do not depend on the company they are given in, and the image shown is the one that was asked for."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from memvp_core import MemVPConfig, MemVPModel, get_memvp_model
from memvp_data.features import FeatureStore
from memvp_data.samples import Sample, Turn, read_samples
from memvp_data.text import encode_prompt
from memvp_train.models import build_language_model, build_tokenizer
from memvp_train.predict import PredictError, other_images, predict


@pytest.fixture(scope="module")
def model(tiny: Any) -> MemVPModel:
    """A memory with large random positions, so that images change answers without training."""
    torch.manual_seed(3)
    model = get_memvp_model(build_language_model(tiny.language), MemVPConfig.from_dict(tiny.memvp))
    with torch.no_grad():
        for parameter in model.trainable_state().values():
            parameter.normal_(0, 0.7)
    return model


@pytest.fixture(scope="module")
def samples(tiny: Any) -> list[Sample]:
    return list(read_samples(tiny.samples))


def _predict(tiny: Any, model: MemVPModel, samples: list[Sample], out: Path, **settings: Any) -> list[dict[str, Any]]:
    predict(
        model,
        build_tokenizer(tiny.language),
        samples,
        FeatureStore(tiny.features),
        template="toyworld",
        out_path=out,
        max_new_tokens=3,
        **settings,
    )
    return [json.loads(line) for line in out.read_text().splitlines()]


def test_batches_of_any_size_give_the_same_rows(
    tiny: Any, model: MemVPModel, samples: list[Sample], tmp_path: Path
) -> None:
    rows = [_predict(tiny, model, samples, tmp_path / str(size), batch_size=size) for size in (1, 5, 64)]
    assert rows[0] == rows[1] == rows[2]
    assert [row["question_id"] for row in rows[0]] == [sample.id for sample in samples]
    assert [row["image"] for row in rows[0]] == [next(iter(sample.image_ids), None) for sample in samples]


def test_rows_equal_greedy_decoding_one_by_one(
    tiny: Any, model: MemVPModel, samples: list[Sample], tmp_path: Path
) -> None:
    tokenizer, store = build_tokenizer(tiny.language), FeatureStore(tiny.features)
    rows = _predict(tiny, model, samples, tmp_path / "out")
    model.eval()
    for sample, row in zip(samples[:8], rows, strict=False):
        ids = list(encode_prompt(sample, tokenizer=tokenizer, template="toyworld"))
        length = len(ids)
        features = store.load(list(sample.image_ids))
        index = torch.tensor([0 if sample.image_ids else -1])
        for _ in range(3):
            with torch.no_grad():
                logits = model(input_ids=torch.tensor([ids]), visual_features=features, image_index=index).logits
            ids.append(int(logits[0, -1].argmax()))
            if ids[-1] == tokenizer.eos_token_id:
                break
        assert row["text"] == tokenizer.decode(ids[length:], skip_special_tokens=True).strip()


def test_modes_show_own_other_or_no_image(tiny: Any, model: MemVPModel, samples: list[Sample], tmp_path: Path) -> None:
    rows = {mode: _predict(tiny, model, samples, tmp_path / mode, image=mode) for mode in ("own", "none", "other")}
    texts = {mode: [row["text"] for row in found] for mode, found in rows.items()}
    assert texts["own"] != texts["none"]
    assert texts["own"] != texts["other"]
    assert {row["image"] for row in rows["none"]} == {None}
    for own, other in zip(rows["own"], rows["other"], strict=True):
        assert (own["image"] is None) == (other["image"] is None)
        assert own["image"] is None or own["image"] != other["image"]


@pytest.mark.parametrize("count", [2, 3, 4, 7])
def test_other_images_are_a_permutation_without_a_fixed_point(count: int) -> None:
    turns = (Turn("user", "?"),)
    samples = [Sample(f"s{number}", (f"i{number % count}",), turns) for number in range(3 * count)]
    other = other_images(samples)
    assert set(other) == set(other.values()) == {f"i{number}" for number in range(count)}
    assert all(one != two for one, two in other.items())


def test_model_keeps_its_mode(tiny: Any, model: MemVPModel, samples: list[Sample], tmp_path: Path) -> None:
    model.train()
    _predict(tiny, model, samples[:2], tmp_path / "out")
    assert model.training
    model.eval()


def test_progress_reaches_the_number_of_samples(
    tiny: Any, model: MemVPModel, samples: list[Sample], tmp_path: Path
) -> None:
    seen: list[int] = []
    _predict(tiny, model, samples, tmp_path / "out", batch_size=7, progress=seen.append)
    assert seen == [7, 14, 21, 24]


def test_what_cannot_be_answered_is_refused_and_nothing_written(tiny: Any, model: MemVPModel, tmp_path: Path) -> None:
    turns = (Turn("user", "what colour ?"),)
    with pytest.raises(PredictError, match="1 images have no features, first 'elsewhere'"):
        _predict(tiny, model, [Sample("a", ("elsewhere",), turns)], tmp_path / "out")
    with pytest.raises(PredictError, match="only one image, 'image-00'"):
        _predict(tiny, model, [Sample("a", ("image-00",), turns)], tmp_path / "out", image="other")
    with pytest.raises(PredictError, match="own, none or other, got 'another'"):
        _predict(tiny, model, [Sample("a", ("image-00",), turns)], tmp_path / "out", image="another")
    with pytest.raises(PredictError, match="batch_size must be at least 1"):
        _predict(tiny, model, [Sample("a", ("image-00",), turns)], tmp_path / "out", batch_size=0)
    assert not (tmp_path / "out").exists()
