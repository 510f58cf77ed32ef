"""Checkpoints of transformers' Trainer that hold the adapter: `class MyTrainer(AdapterCheckpoints, Trainer)`.

Trainer alone trains a MemVPModel just as well, but knows only models of transformers and PEFT when it saves: it writes
the state dict of the whole model, the frozen language model included, and stops with an error where its embeddings
are tied. This is no trainer of its own, only what Trainer asks of a model's files.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from memvp_core.model import MemVPModel


class AdapterCheckpoints:
    """Each checkpoint is a folder for `MemVPModel.from_pretrained`, beside Trainer's optimiser and scheduler."""

    # Trainer's own, which come with the other parent.
    accelerator: Any
    args: Any
    model: Any
    processing_class: Any
    state: Any

    def _save(self, output_dir: str | None = None, state_dict: Mapping[str, Tensor] | None = None) -> None:
        """What Trainer calls to write a model; `state_dict` comes under DeepSpeed and FSDP, gathered."""
        if not self.args.should_save:
            return
        folder = output_dir or self.args.output_dir
        self._memvp_model().save_pretrained(folder, state=state_dict)
        if self.processing_class is not None:
            self.processing_class.save_pretrained(folder)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """What Trainer calls to resume; the optimiser it restores itself."""
        self._memvp_model(model).load_adapter(resume_from_checkpoint)

    def _load_best_model(self) -> None:
        """What Trainer calls at the end with `load_best_model_at_end`."""
        self._load_from_checkpoint(self.state.best_model_checkpoint)

    def _memvp_model(self, model: Any = None) -> MemVPModel:
        unwrapped = self.accelerator.unwrap_model(self.model if model is None else model)
        if not isinstance(unwrapped, MemVPModel):
            raise ValueError(f"AdapterCheckpoints saves a MemVPModel, this trainer has a {type(unwrapped).__name__}.")
        return unwrapped
