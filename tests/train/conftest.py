"""A world of eight colours small enough to train in tests: tokenizer, language model, samples and features on disk."""

import json
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from memvp_data.features import feature_record
from memvp_data.samples import Sample, Turn, write_samples
from memvp_data.shards import write_shards
from memvp_train.config import LanguageModelConfig, LoraSettings, StageConfig, StageRun
from memvp_train.training.plan import WorkerPlan
from tests.ranks import run_ranks

COLOURS = ("red", "green", "blue", "grey", "pink", "teal", "lime", "gold")
NUM_IMAGES, NUM_ROWS, WIDTH = 24, 3, 8
MEMVP = {
    "vision_hidden_size": WIDTH,
    "num_slots": 4,
    "visual_scale": 0.3,
    "retrieval_scale": 1.0,
    "projector_hidden_sizes": (8,),
    "memory_dropout": 0.1,
}


@dataclass(frozen=True)
class TinyWorld:
    """Where things lie."""

    folder: Path
    language: LanguageModelConfig
    samples: Path
    features: Path
    memvp: dict[str, object] = field(default_factory=lambda: dict(MEMVP))

    def run(self, out: Path, *, lora: LoraSettings | None = None, **stage: object) -> StageRun:
        """A short stage into `out`; `stage` overrides its settings."""
        values = {
            "num_steps": 6,
            "global_batch_size": 8,
            "micro_batch_size": 2,
            "learning_rate": 0.02,
            "template": "toyworld",
            "max_length": 64,
            "checkpoint_every": 2,
            "log_every": 3,
            "lora": lora,
            **stage,
        }
        return StageRun(
            language=self.language,
            memvp=self.memvp,
            stage=StageConfig(**values),  # type: ignore[arg-type]
            samples=str(self.samples),
            features=str(self.features),
            init_adapter=None,
            out=str(out),
        )

    @staticmethod
    def train_ranks(*plans: WorkerPlan, num_ranks: int) -> None:
        """Train prepared stages one after the other in a gloo process group, without Ray (zero_rank.py)."""
        paths = [Path(plan.run.out) / "plan.json" for plan in plans]
        for path, plan in zip(paths, plans, strict=True):
            path.write_text(json.dumps(plan.to_plain()))
        run_ranks("tests.train.zero_rank", *map(str, paths), num_ranks=num_ranks)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> TinyWorld:
    folder = tmp_path_factory.mktemp("tiny-world")
    write_language_model(folder / "language")
    write_samples(folder / "samples.parquet", tiny_samples())
    generator = torch.Generator().manual_seed(1)
    features = {name: torch.randn(NUM_ROWS, WIDTH, generator=generator) for name in image_names()}
    records = ((name, {"safetensors": feature_record(value)}) for name, value in features.items())
    write_shards(folder / "features", records, kind="features", max_shard_samples=10)
    return TinyWorld(
        folder, LanguageModelConfig(str(folder / "language")), folder / "samples.parquet", folder / "features"
    )


def image_names() -> list[str]:
    return [f"image-{number:02d}" for number in range(NUM_IMAGES)]


def tiny_samples() -> list[Sample]:
    """One or two questions about each image, and every fourth sample without one."""
    samples = []
    for number, name in enumerate(image_names()):
        turns = [Turn("user", "what colour ?"), Turn("assistant", COLOURS[number % 8])]
        if number % 3 == 0:
            turns += [Turn("user", "is it red ?"), Turn("assistant", "yes" if number % 8 == 0 else "no")]
        images = () if number % 4 == 3 else (name,)
        samples.append(
            Sample(f"sample-{number:02d}", images, tuple(turns), task="colour", answers=(COLOURS[number % 8],))
        )
    return samples


def write_language_model(folder: Path) -> None:
    words = ["<pad>", "<s>", "</s>", "Q", "A", "what", "colour", "is", "it", "?", "yes", "no", *COLOURS]
    tokenizer = Tokenizer(models.WordLevel({word: place for place, word in enumerate(words)}, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>"
    ).save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(words),
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        initializer_range=0.3,  # at the usual 0.02 a frozen head of this width gives no answer a chance
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
