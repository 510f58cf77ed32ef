"""BART and T5 through a whole stage: they learn toy answers from images, say them in `generate`, and resume."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

from memvp_core import MemVPModel
from memvp_data.dataloader.batch import Batch
from memvp_data.dataloader.loader import TrainingBatches
from memvp_data.features import FeatureStore
from memvp_data.samples import Sample, Turn, read_samples, write_samples
from memvp_data.text import encode_prompt, encode_sample
from memvp_train.config import LanguageModelConfig, LaunchConfig, LoraSettings
from memvp_train.methods.memvp import build_memvp_model
from memvp_train.models.language import build_language_model, build_tokenizer, decoder_start_token
from memvp_train.training.loss import micro_batch_loss
from memvp_train.training.stage import run_stage
from tests.train.conftest import COLOURS, MEMVP

HERE = LaunchConfig(num_workers=0)
KINDS = ("bart", "t5")
LORA = {
    "bart": ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"),
    "t5": ("q", "k", "v", "o", "wi", "wo"),
}
STILL = {
    "bart": dict.fromkeys(("dropout", "attention_dropout", "activation_dropout"), 0.0),
    "t5": {"dropout_rate": 0.0},
}


def write_model(folder: Path, kind: str) -> LanguageModelConfig:
    """A tiny model that nobody trained, and a tokenizer of one token per word that ends texts as the real one does."""
    words = ["<s>", "<pad>", "</s>", "what", "colour", "is", "it", "?", "yes", "no", *COLOURS]
    tokenizer = Tokenizer(models.WordLevel({word: place for place, word in enumerate(words)}, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>" if kind == "bart" else "$A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", pad_token="<pad>", eos_token="</s>"
    ).save_pretrained(folder)
    torch.manual_seed(0)
    tokens: dict[str, Any] = {"vocab_size": len(words), "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}
    tokens["decoder_start_token_id"] = 2 if kind == "bart" else 1
    if kind == "bart":
        sizes: dict[str, Any] = {f"{stack}_{name}": size for stack in ("encoder", "decoder")
                 for name, size in (("layers", 2), ("ffn_dim", 24), ("attention_heads", 2))}  # fmt: skip
        config = BartConfig(d_model=16, init_std=0.3, max_position_embeddings=40,
                            **sizes, **tokens)  # fmt: skip
        model: Any = BartForConditionalGeneration(config)
    else:
        config = T5Config(d_model=16, d_kv=8, d_ff=24, num_layers=2, num_heads=2, **tokens)
        model = T5ForConditionalGeneration(config)
    model.save_pretrained(folder)
    return LanguageModelConfig(str(folder), overrides=STILL[kind])


@pytest.fixture(scope="module", params=KINDS)
def world(request: pytest.FixtureRequest, tiny: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The tiny world with another language model, and eight questions that only the image answers."""
    folder = tmp_path_factory.mktemp(request.param)
    turns = [(Turn("user", "what colour is it ?"), Turn("assistant", colour)) for colour in COLOURS]
    samples = [Sample(f"q{n}", (f"image-{n:02d}",), turn, answers=(COLOURS[n],)) for n, turn in enumerate(turns)]
    samples[3] = Sample("q3", (), (Turn("user", "is it ?"), Turn("assistant", "yes no")), answers=("yes no",))
    samples[5] = replace(samples[5], image_ids=("image-05", "image-06"))
    write_samples(folder / "samples.parquet", samples)
    memvp = {**MEMVP, "num_slots": 6, "share_position_embedding": False, "train_layer_norms": True}
    memvp |= {"memory_dropout": 0.0, "visual_scale": 1.0}
    language = write_model(folder / "language", request.param)
    return replace(tiny, folder=folder, language=language, samples=folder / "samples.parquet", memvp=memvp)


def stage_of(world: Any, out: Path, **changes: Any) -> Any:
    settings = {
        "lora": LoraSettings(rank=8, alpha=16, target_modules=LORA[world.folder.name.rstrip("0")]),
        "template": "paper_table6",
        "max_length": 12,
        "num_steps": 80,
        "checkpoint_every": 40,
        "global_batch_size": 8,
        "micro_batch_size": 4,
        "learning_rate": 0.02,
        "mean_over": "samples",
    }
    return world.run(out, **{**settings, **changes})


def answers(world: Any, adapter: str) -> list[str]:
    """What the trained model says of every sample, all in one batch."""
    model = MemVPModel.from_pretrained(build_language_model(world.language), adapter).eval()
    tokenizer, store = build_tokenizer(world.language), FeatureStore(world.features)
    samples = list(read_samples(world.samples))
    settings = {"tokenizer": tokenizer, "template": "paper_table6"}
    encoded = [encode_sample(one, max_length=12, encoder_decoder=True, **settings) for one in samples]
    (batch,) = batches([one for one in encoded if one is not None], world.language, store).at(0)
    for one in samples:
        prompt = encode_prompt(one, max_length=12, encoder_decoder=True, **settings)
        row = batch.sample_ids.index(one.id)
        assert tuple(batch.input_ids[row][batch.attention_mask[row].bool()].tolist()) == prompt
    output = model.generate(
        input_ids=batch.input_ids,
        attention_mask=batch.attention_mask,
        visual_features=batch.visual_features,
        row_images=batch.row_images,
        image_index=batch.image_index,
        max_new_tokens=6,
        do_sample=False,
    )
    said = dict(zip(batch.sample_ids, tokenizer.batch_decode(output, skip_special_tokens=True), strict=True))
    return [said[one.id].strip() for one in samples]


def batches(encoded: list[Any], language: LanguageModelConfig, store: FeatureStore | None) -> TrainingBatches:
    return TrainingBatches(
        encoded, store, seed=0, global_batch_size=len(encoded), micro_batch_size=len(encoded), rank=0, world_size=1,
        pad_token_id=1, feature_shape=(3, 8), decoder_start_token_id=decoder_start_token(language),
    )  # fmt: skip


def test_it_learns_says_what_it_learnt_and_resumes(world: Any, tmp_path: Path) -> None:
    rows: list[dict[str, float]] = []
    result = run_stage(stage_of(world, tmp_path / "out"), HERE, on_step=rows.append)
    assert rows[-1]["loss"] < 0.1 * rows[0]["loss"]
    assert answers(world, result.adapter_path) == [one.answers[0] for one in read_samples(world.samples)]
    # Set back to the checkpoint half-way, and continued from there.
    weights = Path(result.adapter_path) / "adapter_model.safetensors"
    whole = weights.read_bytes()
    shutil.rmtree(tmp_path / "out" / "checkpoints" / "step-000000080")
    shutil.rmtree(result.adapter_path)
    (tmp_path / "out" / "result.json").unlink()
    assert run_stage(stage_of(world, tmp_path / "out"), HERE) == result
    assert weights.read_bytes() == whole


@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_is_the_mean_of_transformers_in_value_and_gradient(kind: str, tmp_path: Path) -> None:
    language = write_model(tmp_path, kind)
    tokenizer = build_tokenizer(language)
    texts = [("what colour is it ?", "red"), ("is it red ?", "no no yes"), ("what ?", "blue blue")]
    encoded = [
        encode_sample(
            Sample(str(number), (), (Turn("user", asked), Turn("assistant", told))),
            tokenizer=tokenizer, template="paper_table6", max_length=12, encoder_decoder=True,
        )
        for number, (asked, told) in enumerate(texts)
    ]  # fmt: skip
    batch: Batch
    (batch,) = batches(encoded, language, None).at(0)
    model = build_memvp_model(
        build_language_model(language), memvp={**MEMVP, "num_slots": 4, "train_layer_norms": True}, lora=None,
        init_adapter=None,
    )  # fmt: skip
    model.eval()
    trained = list(model.trainable_state().values())
    ours = micro_batch_loss(model, batch, device=torch.device("cpu"), dtype=torch.float32)
    theirs = model(
        input_ids=batch.input_ids, attention_mask=batch.attention_mask, labels=batch.labels,
        image_index=batch.image_index,
    ).loss  # fmt: skip
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-7)
    for one, other in zip(
        torch.autograd.grad(ours, trained, allow_unused=True),
        torch.autograd.grad(theirs, trained, allow_unused=True),
        strict=True,
    ):
        assert (one is None) == (other is None)
        if one is not None:
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-7)


def test_long_prompts_and_answers_are_counted(world: Any, tmp_path: Path) -> None:
    result = run_stage(stage_of(world, tmp_path / "out", num_steps=1, max_length=3), HERE)
    assert (result.num_dropped, result.num_samples) == (0, 8)
    # "<s> yes no </s>" is the one answer above three tokens, with BART's opening token.
    is_bart = decoder_start_token(world.language) == 2
    assert (result.num_prompts_cut, result.num_shortened) == (8, int(is_bart))
