"""One of two processes under DistributedDataParallel; started by test_ddp.py, which imports the cases too."""

import json
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from memvp_core.files import write_tensors
from tests.core.conftest import make_batch, make_model
from tests.core.tiny_models import make_tiny

# Architecture, settings of the memory, whether layers are run again in backward.
CASES: dict[str, tuple[str, dict[str, Any], bool]] = {
    "split": ("llama", {"form": "split", "learn_scales": True}, False),
    "factored": ("llama", {"form": "factored", "num_images": 2}, False),
    "checkpointed": ("llama", {"form": "direct"}, True),
    "per_layer_and_norms": ("bart", {"share_position_embedding": False, "train_layer_norms": True}, False),
}
ROWS_PER_RANK = 2


def build(name: str) -> Any:
    """The model of a case, with a LoRA where there are no norms to train."""
    from peft import LoraConfig

    architecture, settings, checkpointed = CASES[name]
    # Ranks would draw masks of their own.
    still = (
        {} if architecture == "llama" else dict.fromkeys(("dropout", "attention_dropout", "activation_dropout"), 0.0)
    )
    model = make_model(make_tiny(architecture, **still), **settings).train()
    if architecture == "llama":
        torch.manual_seed(3)
        model.add_lora(LoraConfig(r=2, target_modules=["q_proj", "down_proj"], init_lora_weights=False))
    if checkpointed:
        model.gradient_checkpointing_enable()
    return model


def joint_batch() -> dict[str, Tensor]:
    """The first half reads images, the second none."""
    ids, features = make_batch(batch=2 * ROWS_PER_RANK, images=2)
    return {
        "input_ids": ids,
        "labels": ids,
        "visual_features": features,
        "image_index": torch.tensor([1, 0, -1, -1]),
    }


def part(rank: int) -> dict[str, Tensor]:
    """A rank's rows; the second rank is given no features at all."""
    rows = slice(ROWS_PER_RANK * rank, ROWS_PER_RANK * (rank + 1))
    batch = joint_batch()
    own = {name: batch[name][rows] for name in ("input_ids", "labels", "image_index")}
    return own | ({"visual_features": batch["visual_features"]} if rank == 0 else {})


def refusals() -> dict[str, str]:
    """What is said about reentrant checkpointing, asked for at the model and at its language model."""
    said = {}
    try:
        build("split").gradient_checkpointing_enable({"use_reentrant": True})
    except ValueError as error:
        said["at_the_model"] = str(error)
    model = build("split")
    model.language_model.gradient_checkpointing_enable({"use_reentrant": True})
    try:
        model(**part(0))
    except ValueError as error:
        said["at_the_language_model"] = str(error)
    return said


def main(folder: Path) -> None:
    import torch.distributed as dist
    from torch.nn.parallel import DistributedDataParallel

    dist.init_process_group("gloo")
    rank = dist.get_rank()
    for name in CASES:
        model = DistributedDataParallel(build(name))
        model(**part(rank)).loss.backward()
        gradients = {key: value.grad for key, value in model.module.trainable_state().items()}
        write_tensors(folder / f"{name}-{rank}.safetensors", gradients, metadata={})
    (folder / f"refusals-{rank}.json").write_text(json.dumps(refusals()))
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]))
