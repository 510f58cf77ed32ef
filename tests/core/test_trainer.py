"""transformers' Trainer and accelerate train a MemVPModel as it is; checkpoints hold the adapter."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import GenerationConfig, Seq2SeqTrainer, Seq2SeqTrainingArguments, Trainer, TrainingArguments

from memvp_core import MemVPModel
from memvp_core.trainer import AdapterCheckpoints
from tests.core.tiny_models import VOCABULARY, make_tiny

Sample = dict[str, Any]


class AdapterTrainer(AdapterCheckpoints, Trainer):
    """As a user would write it."""


def make_samples(*, number: int = 8) -> list[Sample]:
    """Two questions about each image, and every fourth sample without one."""
    generator = torch.Generator().manual_seed(5)
    images = torch.randn(number // 2, 4, 6, generator=generator)
    return [
        {
            "ids": torch.randint(3, VOCABULARY - 1, (4 + place % 3,), generator=generator),
            "image": None if place % 4 == 3 else (place // 2, images[place // 2]),
        }
        for place in range(number)
    ]


def collate(samples: list[Sample]) -> dict[str, Tensor]:
    """Each image once, and which of them a sample reads."""
    images = dict(sample["image"] for sample in samples if sample["image"] is not None)
    places = {name: place for place, name in enumerate(images)}
    ids = torch.nn.utils.rnn.pad_sequence([sample["ids"] for sample in samples], batch_first=True, padding_value=0)
    return {
        "input_ids": ids,
        "attention_mask": (ids != 0).long(),
        "labels": ids.masked_fill(ids == 0, -100),
        "visual_features": torch.stack(list(images.values())) if images else torch.empty(0, 4, 6),
        "image_index": torch.tensor([-1 if one["image"] is None else places[one["image"][0]] for one in samples]),
    }


def trainer_settings(folder: Path, *, steps: int = 5) -> dict[str, Any]:
    return {
        "output_dir": str(folder),
        "max_steps": steps,
        "per_device_train_batch_size": 4,
        "learning_rate": 0.05,
        "lr_scheduler_type": "constant",
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
        "use_cpu": True,
        "dataloader_pin_memory": False,
        # The collator makes the model's arguments of columns that the model does not know.
        "remove_unused_columns": False,
    }


def make_trainer(model: MemVPModel, folder: Path, *, kind: Any = Trainer, steps: int = 5, **settings: Any) -> Any:
    arguments = TrainingArguments(**trainer_settings(folder, steps=steps) | settings)
    return kind(
        model=model, args=arguments, train_dataset=make_samples(), eval_dataset=make_samples(), data_collator=collate
    )


@pytest.mark.parametrize("given", ["own_config", "argument"])
@pytest.mark.parametrize("name", ["llama", "bart", "t5"])
def test_seq2seq_trainer_predicts_with_generate(memvp, tmp_path: Path, name: str, given: str) -> None:
    model = memvp(make_tiny(name, dtype=torch.float32))
    settings = {"max_new_tokens": 3, "min_new_tokens": 3, "do_sample": False}
    config = GenerationConfig(**{**model.generation_config.to_diff_dict(), **settings})
    arguments = Seq2SeqTrainingArguments(
        **trainer_settings(tmp_path),
        predict_with_generate=True,
        generation_config=config if given == "argument" else None,
    )
    if given == "own_config":
        model.language_model.generation_config = config
    trainer = Seq2SeqTrainer(
        model=model, args=arguments, eval_dataset=make_samples()[:4], data_collator=collate, processing_class=Padding()
    )
    found = trainer.predict(trainer.eval_dataset)
    batch = collate(make_samples()[:4])
    labels = batch.pop("labels")
    wanted = model.generate(**batch, **settings)
    assert model.generation_config is model.language_model.generation_config
    assert found.predictions[:, : wanted.shape[1]].tolist() == wanted.tolist()
    assert found.metrics["test_loss"] == pytest.approx(model(**batch, labels=labels).loss.item(), rel=1e-5)


class Padding:
    """All that the trainer asks of a tokenizer."""

    pad_token_id = 0


def make_base(**settings: Any) -> Any:
    return make_tiny("llama", dtype=torch.float32, **settings)


def losses(trainer: Any) -> list[float]:
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def test_five_steps_move_the_memory_only(memvp, tmp_path: Path) -> None:
    base = make_base()
    frozen = {name: value.clone() for name, value in base.state_dict().items()}
    model = memvp(base)
    before = {name: value.detach().clone() for name, value in model.trainable_state().items()}
    trainer = make_trainer(model, tmp_path)
    trainer.train()
    found = losses(trainer)
    assert len(found) == 5
    assert found[-1] < found[0]
    assert all(not torch.equal(value, before[name]) for name, value in model.trainable_state().items())
    assert all(torch.equal(value, frozen[name]) for name, value in base.state_dict().items())


def test_steps_are_those_of_a_plain_loop(memvp, tmp_path: Path) -> None:
    """What Trainer adds (which labels count, how micro-batches add up) is what it does for the language model alone."""
    model, plain = memvp(make_base()), memvp(make_base())
    trainer = make_trainer(
        model,
        tmp_path,
        steps=2,
        per_device_train_batch_size=2,
        gradient_accumulation_steps=2,
        train_sampling_strategy="sequential",
        optim="sgd",
        max_grad_norm=0.0,
        weight_decay=0.0,
    )
    trainer.train()
    optimizer = torch.optim.SGD(plain.trainable_state().values(), lr=0.05)
    samples = make_samples()
    for step in range(2):
        batch = collate(samples[4 * step : 4 * step + 4])
        optimizer.zero_grad()
        plain.train()(**batch).loss.backward()
        optimizer.step()
    for name, value in plain.trainable_state().items():
        torch.testing.assert_close(model.trainable_state()[name], value, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("more", [{}, {"gradient_checkpointing_kwargs": {"use_reentrant": False}}], ids=str)
def test_trainers_gradient_checkpointing_changes_no_step(memvp, tmp_path: Path, more: dict[str, Any]) -> None:
    found = []
    for name, settings in (("plain", {}), ("checkpointed", {"gradient_checkpointing": True, **more})):
        model = memvp(make_base())
        trainer = make_trainer(model, tmp_path / name, steps=2, optim="sgd", **settings)
        trainer.train()
        is_on = any(getattr(module, "gradient_checkpointing", False) for module in model.language_model.modules())
        assert is_on == bool(settings)
        found.append({key: value.detach() for key, value in model.trainable_state().items()})
    torch.testing.assert_close(*found, rtol=1e-5, atol=1e-7)


def test_checkpoints_hold_the_adapter_and_resume(memvp, batch, tmp_path: Path) -> None:
    def with_lora(base: Any) -> MemVPModel:
        from peft import LoraConfig

        model = memvp(base, train_layer_norms=True)
        torch.manual_seed(3)
        model.add_lora(LoraConfig(r=2, target_modules=["q_proj"]))
        return model

    whole = make_trainer(with_lora(make_base()), tmp_path, kind=AdapterTrainer, save_strategy="steps", save_steps=3)
    whole.train()
    folder = tmp_path / "checkpoint-3"
    own = {"adapter_config.json", "adapter_model.safetensors"}
    models = {
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.suffix in (".json", ".safetensors")
    }
    assert models == own | {f"lora/{name}" for name in own} | {"trainer_state.json"}
    resumed = make_trainer(with_lora(make_base()), tmp_path, kind=AdapterTrainer)
    resumed.train(resume_from_checkpoint=str(folder))
    assert losses(resumed) == losses(whole)
    for name, value in whole.model.trainable_state().items():
        assert torch.equal(resumed.model.trainable_state()[name], value), name
    ids, features = batch(images=4)
    again = MemVPModel.from_pretrained(make_base(), tmp_path / "checkpoint-5").eval()
    wanted = whole.model.eval()(ids, visual_features=features.float()).logits
    assert torch.equal(again(ids, visual_features=features.float()).logits, wanted)


def test_best_model_is_loaded_at_the_end(memvp, tmp_path: Path) -> None:
    settings = {"save_strategy": "steps", "save_steps": 1, "eval_strategy": "steps", "eval_steps": 1}
    # The best is told to be the largest loss, so that it is not the last one.
    trainer = make_trainer(
        memvp(make_base()),
        tmp_path,
        kind=AdapterTrainer,
        load_best_model_at_end=True,
        metric_for_best_model="eval_loss",
        greater_is_better=True,
        prediction_loss_only=True,
        **settings,
    )
    trainer.train()
    evaluations = [entry["eval_loss"] for entry in trainer.state.log_history if "eval_loss" in entry]
    assert trainer.evaluate()["eval_loss"] == pytest.approx(max(evaluations), rel=1e-5)
    assert evaluations[-1] < max(evaluations)


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
def test_trainer_alone_writes_the_whole_model(memvp, tmp_path: Path, tied: bool) -> None:
    """Not wrong, but the frozen language model with it, and for tied embeddings an error of safetensors."""
    from safetensors.torch import load_file

    trainer = make_trainer(memvp(make_base(tie_word_embeddings=tied)), tmp_path)
    if tied:
        with pytest.raises(RuntimeError, match="Some tensors share memory"):
            trainer.save_model()
        return
    trainer.save_model()
    saved = load_file(tmp_path / "model.safetensors")
    assert saved.keys() == trainer.model.state_dict().keys()


def test_other_models_are_refused(tmp_path: Path) -> None:
    trainer = make_trainer(make_base(), tmp_path, kind=AdapterTrainer)
    with pytest.raises(ValueError, match="saves a MemVPModel, this trainer has a LlamaForCausalLM"):
        trainer.save_model()


def test_step_with_accelerate(memvp) -> None:
    from accelerate import Accelerator

    base = make_base()
    frozen = {name: value.clone() for name, value in base.state_dict().items()}
    model, plain = memvp(base), memvp(make_base())
    accelerator = Accelerator(cpu=True)
    prepared, optimizer = accelerator.prepare(model, torch.optim.SGD(model.trainable_state().values(), lr=0.1))
    reference = torch.optim.SGD(plain.trainable_state().values(), lr=0.1)
    batch = collate(make_samples())
    accelerator.backward(prepared(**batch).loss)
    optimizer.step()
    plain(**batch).loss.backward()
    reference.step()
    for name, value in plain.trainable_state().items():
        assert torch.equal(accelerator.unwrap_model(prepared).trainable_state()[name], value), name
    assert all(torch.equal(value, frozen[name]) for name, value in base.state_dict().items())
