"""Answers do not depend on the company they are given in, and the images shown are those that were asked for."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from memvp_core import MemVPConfig, MemVPModel, VisualMemory, get_memvp_model
from memvp_data.features import FeatureStore
from memvp_data.samples import Sample, Turn, read_samples
from memvp_data.text import encode_prompt
from memvp_train.config import LanguageModelConfig
from memvp_train.inference.generate import AnswerSettings, answer_samples, padded
from memvp_train.inference.image_memory import ImageMemory, PredictError, Shown, check_images, other_images
from memvp_train.models.language import build_language_model, build_tokenizer

SETTINGS = AnswerSettings(template="toyworld", max_new_tokens=3)


def with_random_memory(tiny: Any, language: LanguageModelConfig, **memvp: Any) -> MemVPModel:
    """A memory with large random positions, so that images change answers without training."""
    torch.manual_seed(3)
    model = get_memvp_model(build_language_model(language), MemVPConfig.from_dict({**tiny.memvp, **memvp}))
    with torch.no_grad():
        for parameter in model.trainable_state().values():
            parameter.normal_(0, 0.7)
    return model.eval()


@pytest.fixture(scope="module")
def model(tiny: Any) -> MemVPModel:
    return with_random_memory(tiny, tiny.language, num_slots=9)


@pytest.fixture(scope="module")
def samples(tiny: Any) -> list[Sample]:
    """Every sixth with two images, every twelfth with three."""
    samples = list(read_samples(tiny.samples))
    for place in range(0, len(samples), 6):
        others = ("image-01", "image-02")[: 1 + (place % 12 == 0)]
        samples[place] = replace(samples[place], image_ids=(f"image-{place:02d}", *others))
    return samples


@pytest.fixture(scope="module")
def store(tiny: Any) -> FeatureStore:
    return FeatureStore(tiny.features)


def _shown(samples: list[Sample]) -> list[Shown]:
    return [sample.image_ids for sample in samples]


def _answers(tiny: Any, model: Any, samples: list[Sample], store: FeatureStore, **settings: Any) -> list[str]:
    chosen = replace(SETTINGS, **settings)
    return answer_samples(
        model, build_tokenizer(tiny.language), samples, _shown(samples), source=store, settings=chosen
    )


@pytest.mark.parametrize("num_beams", [1, 2])
def test_batches_of_any_size_give_the_same_answers(
    tiny: Any, model: MemVPModel, samples: list[Sample], store: FeatureStore, num_beams: int
) -> None:
    answers = [_answers(tiny, model, samples, store, batch_size=size, num_beams=num_beams) for size in (1, 8, 64)]
    assert answers[0] == answers[1] == answers[2]
    assert len(set(answers[0])) > 3


def test_answers_equal_greedy_decoding_one_by_one(
    tiny: Any, model: MemVPModel, samples: list[Sample], store: FeatureStore
) -> None:
    tokenizer = build_tokenizer(tiny.language)
    for sample, text in zip(samples, _answers(tiny, model, samples, store), strict=True):
        ids = list(encode_prompt(sample, tokenizer=tokenizer, template="toyworld"))
        length, images = len(ids), list(sample.image_ids)
        # Several images of a sample are one entry, their rows side by side.
        features = store.load(images).flatten(0, 1)[None] if images else None
        rows = torch.arange(len(images)).repeat_interleave(3)[None] if images else None
        for _ in range(SETTINGS.max_new_tokens):
            with torch.no_grad():
                logits = model(torch.tensor([ids]), visual_features=features, row_images=rows).logits
            ids.append(int(logits[0, -1].argmax()))
            if ids[-1] == tokenizer.eos_token_id:
                break
        assert text == tokenizer.decode(ids[length:], skip_special_tokens=True).strip()


def test_language_model_alone_answers_as_with_the_memory_switched_off(
    tiny: Any, model: MemVPModel, samples: list[Sample], store: FeatureStore
) -> None:
    blind = [replace(sample, image_ids=()) for sample in samples]
    alone = _answers(tiny, build_language_model(tiny.language), blind, store)
    with model.disable_adapter():
        assert _answers(tiny, model, samples, store) == alone


class CountedStore:
    """Notes what is loaded."""

    def __init__(self, store: FeatureStore) -> None:
        self.store, self.loaded = store, []

    def __contains__(self, image_id: object) -> bool:
        return image_id in self.store

    def load(self, image_ids: Any) -> torch.Tensor:
        self.loaded += image_ids
        return self.store.load(image_ids)


def test_each_image_is_encoded_once_in_the_order_of_names(
    tiny: Any, model: MemVPModel, samples: list[Sample], store: FeatureStore
) -> None:
    counted: Any = CountedStore(store)
    asked = [sample for sample in samples for _ in range(3)]
    _answers(tiny, model, asked, counted, batch_size=4)
    assert counted.loaded == sorted({name for sample in samples for name in sample.image_ids})


def test_memory_of_a_batch_is_that_of_its_images(model: MemVPModel, store: FeatureStore) -> None:
    a, b, c = (model.encode(store.load([name])) for name in ("image-00", "image-01", "image-02"))
    shown: list[Shown] = [("image-02",), (), ("image-00", "image-01"), ("image-02",), ("image-02", "image-00")]
    memory = ImageMemory(model, shown, source=store)
    entries, index = memory.read_by(shown[:4])
    wanted = VisualMemory.cat([c, VisualMemory.join([a, b])])
    assert entries is not None
    assert entries.row_images is not None
    assert wanted.row_images is not None
    torch.testing.assert_close(entries.codes, wanted.codes)
    assert entries.row_images.tolist() == wanted.row_images.tolist()
    assert index.tolist() == [0, -1, 1, 0]
    single, index = memory.read_by([(), ("image-02",)])
    assert single is not None
    assert len(single) == 1
    assert index.tolist() == [-1, 0]
    assert memory.read_by([(), ()])[0] is None


@pytest.mark.parametrize("name", ["bart", "t5"])
def test_encoder_decoders_answer_alike_in_any_batch(
    tiny: Any, samples: list[Sample], store: FeatureStore, tmp_path: Path, name: str
) -> None:
    language = tiny_encoder_decoder(tiny, tmp_path, name)
    model, tokenizer = with_random_memory(tiny, language, num_slots=9), build_tokenizer(language)
    answers = [
        answer_samples(
            model, tokenizer, samples, _shown(samples), source=store, settings=replace(SETTINGS, batch_size=size)
        )
        for size in (1, 8, 64)
    ]
    assert answers[0] == answers[1] == answers[2]
    for sample, text in list(zip(samples, answers[0], strict=True))[:8]:
        ids = encode_prompt(sample, tokenizer=tokenizer, template="toyworld", encoder_decoder=True)
        images = list(sample.image_ids)
        features = store.load(images).flatten(0, 1)[None] if images else None
        rows = torch.arange(len(images)).repeat_interleave(3)[None] if images else None
        decoded = [model.config.decoder_start_token_id]
        for _ in range(SETTINGS.max_new_tokens):
            with torch.no_grad():
                given = {"decoder_input_ids": torch.tensor([decoded]), "visual_features": features}
                logits = model(torch.tensor([ids]), row_images=rows, **given).logits
            decoded.append(int(logits[0, -1].argmax()))
            if decoded[-1] == tokenizer.eos_token_id:
                break
        assert text == tokenizer.decode(decoded[1:], skip_special_tokens=True).strip()


def tiny_encoder_decoder(tiny: Any, folder: Path, name: str) -> LanguageModelConfig:
    """BART or T5 with the tokenizer of the tiny world."""
    from transformers import BartConfig, BartForConditionalGeneration, T5Config, T5ForConditionalGeneration

    tokenizer = build_tokenizer(tiny.language)
    tokens = {"vocab_size": len(tokenizer), "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    torch.manual_seed(5)
    if name == "bart":
        sizes: dict[str, Any] = {"d_model": 16, "max_position_embeddings": 128, "init_std": 0.3}
        sizes |= {f"{stack}_{part}": 2 for stack in ("encoder", "decoder") for part in ("layers", "attention_heads")}
        sizes |= {"encoder_ffn_dim": 24, "decoder_ffn_dim": 24, "forced_eos_token_id": None}
        model: Any = BartForConditionalGeneration(BartConfig(**sizes, **tokens, decoder_start_token_id=2))
    else:
        sizes = {"d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 2, "num_heads": 2, "initializer_factor": 8.0}
        model = T5ForConditionalGeneration(T5Config(**sizes, **tokens, decoder_start_token_id=0))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return LanguageModelConfig(str(folder))


def test_model_keeps_its_mode(tiny: Any, model: MemVPModel, samples: list[Sample], store: FeatureStore) -> None:
    model.train()
    _answers(tiny, model, samples[:2], store)
    assert model.training
    model.eval()


def test_progress_reaches_the_number_of_samples(
    tiny: Any, model: MemVPModel, samples: list[Sample], store: FeatureStore
) -> None:
    seen: list[int] = []
    settings = replace(SETTINGS, batch_size=7)
    tokenizer = build_tokenizer(tiny.language)
    answer_samples(model, tokenizer, samples, _shown(samples), source=store, settings=settings, progress=seen.append)
    assert seen == [7, 14, 21, 24]


def test_rows_are_padded_on_the_side_that_is_asked_for() -> None:
    rows = [(1, 2, 3), (4,)]
    ids, mask = padded(rows, padding=9, on_left=True)
    assert (ids.tolist(), mask.tolist()) == ([[1, 2, 3], [9, 9, 4]], [[1, 1, 1], [0, 0, 1]])
    ids, mask = padded(rows, padding=9, on_left=False)
    assert (ids.tolist(), mask.tolist()) == ([[1, 2, 3], [4, 9, 9]], [[1, 1, 1], [1, 0, 0]])


@pytest.mark.parametrize("count", [2, 3, 4, 7])
def test_other_images_are_a_permutation_without_a_fixed_point(count: int) -> None:
    other = other_images([(f"i{number % count}",) for number in range(3 * count)])
    assert set(other) == set(other.values()) == {f"i{number}" for number in range(count)}
    assert all(one != two for one, two in other.items())


def test_what_cannot_be_answered_is_a_sentence(store: FeatureStore) -> None:
    with pytest.raises(PredictError, match="1 images have no features, first 'elsewhere'"):
        check_images([("image-00", "elsewhere"), ()], source=store)
    with pytest.raises(PredictError, match="2 images have no features, first 'a'"):
        check_images([("b",), ("a",)], source=None)
    with pytest.raises(PredictError, match="only one image, 'a'"):
        other_images([("a",), (), ("a",)])
    for name in ("batch_size", "num_beams", "max_new_tokens"):
        with pytest.raises(PredictError, match=f"{name} must be at least 1, got 0"):
            replace(SETTINGS, **{name: 0})


def test_sample_that_the_template_cannot_hold_is_named(tiny: Any, model: MemVPModel, store: FeatureStore) -> None:
    with pytest.raises(ValueError, match="'odd-one'"):
        _answers(tiny, model, [Sample("odd-one", (), (Turn("assistant", "red"),))], store)
