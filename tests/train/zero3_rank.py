"""One of two processes under ZeRO-3 with every tensor cut up; started by test_zero3.py, which imports the cases too.

The engine keeps small tensors whole, and in a tiny model all of them: then nothing is ever gathered or given away.
Here DeepSpeed's threshold is 0, so each use of a parameter outside its module's hooks would show.
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from memvp_core.files import write_tensors
from tests.core.conftest import make_batch, make_model
from tests.core.tiny_models import make_tiny
from tests.train.mixed_batches import MIXED, STEPS, VALIDATED, build_mixed, mixed_batch, mixed_loss

# Architecture, settings of the memory, whether layers are run again in backward.
CASES: dict[str, tuple[str, dict[str, Any], bool]] = {
    "split": ("llama", {"form": "split", "learn_scales": True}, False),
    "direct_checkpointed": ("llama", {"form": "direct"}, True),
    "factored": ("llama", {"form": "factored", "num_images": 2}, False),
    "per_layer": ("bart", {"form": "split", "share_position_embedding": False}, False),
}
# Which rank has no image in each step; 2 is both.
IMAGE_FREE = (0, 1, 2)
LEARNING_RATE = 0.05
ROWS_PER_RANK = 2


def build(name: str) -> Any:
    """The model of a case, in float32."""
    architecture, settings, checkpointed = CASES[name]
    # Ranks would draw masks of their own.
    still = (
        {} if architecture == "llama" else dict.fromkeys(("dropout", "attention_dropout", "activation_dropout"), 0.0)
    )
    model = make_model(make_tiny(architecture, dtype=torch.float32, **still), **settings).train()
    if checkpointed:
        model.gradient_checkpointing_enable()
    return model


def joint_batch(step: int) -> dict[str, Tensor]:
    """Rows of both ranks; those of a rank without images read none."""
    ids, features = make_batch(batch=2 * ROWS_PER_RANK, images=2 * ROWS_PER_RANK, seed=step)
    without = [IMAGE_FREE[step] in (rank, 2) for rank in (0, 1) for _ in range(ROWS_PER_RANK)]
    index = torch.tensor([-1 if none else row for row, none in enumerate(without)])
    return {"input_ids": ids, "labels": ids, "visual_features": features.float(), "image_index": index}


def part(step: int, *, rank: int) -> dict[str, Tensor]:
    """A rank's rows; no features at all where it has no image."""
    rows = slice(ROWS_PER_RANK * rank, ROWS_PER_RANK * (rank + 1))
    batch = joint_batch(step)
    own = {name: batch[name][rows] for name in ("input_ids", "labels", "image_index")}
    return own if own["image_index"].max() < 0 else own | {"visual_features": batch["visual_features"]}


def train(name: str, *, rank: int, folder: Path) -> None:
    """Write losses, and the whole gradients of each step."""
    model = build(name)
    engine = _engine(model)
    losses = []
    for step in range(len(IMAGE_FREE)):
        loss = engine(**part(step, rank=rank)).loss
        engine.backward(loss)
        _write_gradients(model, folder / f"{name}-{step}.safetensors", rank=rank)
        engine.step()
        losses.append(loss.item())
    _write_losses(model, folder / f"{name}-{rank}.json", losses=losses)


def train_mixed(name: str, *, rank: int, folder: Path) -> None:
    """The same on mixed batches, and at the end once more without training, as validation does."""
    case = MIXED[name]
    model = build_mixed(case)
    engine = _engine(model)
    losses = []
    for step in range(len(STEPS)):
        loss = mixed_loss(engine, mixed_batch(case, step, ranks=(rank,)))
        # DeepSpeed averages over ranks, here the loss is each rank's share of a sum.
        engine.backward(loss * 2)
        _write_gradients(model, folder / f"{name}-{step}.safetensors", rank=rank)
        engine.step()
        losses.append(loss.item())
    _write_losses(model, folder / f"{name}-{rank}.json", losses=losses)
    engine.eval()
    with torch.no_grad():
        losses = [mixed_loss(engine, mixed_batch(case, step, ranks=(rank,))).item() for step in VALIDATED]
    (folder / f"{name}-{rank}-validated.json").write_text(json.dumps(losses))


def _engine(model: Any) -> Any:
    from memvp_train.engines.deepspeed import import_deepspeed

    trainable = model.trainable_state()
    engine, _, _, _ = import_deepspeed(use_gpu=False).initialize(
        model=model,
        model_parameters=list(trainable.values()),
        optimizer=torch.optim.SGD(trainable.values(), lr=LEARNING_RATE),
        config={
            "train_micro_batch_size_per_gpu": ROWS_PER_RANK,
            "zero_optimization": {
                "stage": 3,
                "overlap_comm": False,
                "stage3_param_persistence_threshold": 0,
                "stage3_max_live_parameters": 0,
                "stage3_prefetch_bucket_size": 0,
            },
            "gradient_clipping": 0.0,
            "zero_allow_untested_optimizer": True,
            "steps_per_print": 2**31,
        },
    )
    return engine


def _write_gradients(model: Any, path: Path, *, rank: int) -> None:
    import deepspeed

    full: Any = deepspeed.utils.safe_get_full_grad
    gradients: dict[str, Tensor] = {name: full(parameter) for name, parameter in model.trainable_state().items()}
    if rank == 0:
        write_tensors(path, gradients, metadata={})


def _write_losses(model: Any, path: Path, *, losses: list[float]) -> None:
    cut_up = {name: parameter.numel() for name, parameter in model.named_parameters()}
    path.write_text(json.dumps({"losses": losses, "sizes": cut_up}))


def main(folder: Path) -> None:
    import torch.distributed as dist

    dist.init_process_group("gloo")
    for name in CASES:
        train(name, rank=dist.get_rank(), folder=folder)
    for name in MIXED:
        train_mixed(name, rank=dist.get_rank(), folder=folder)
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]))
