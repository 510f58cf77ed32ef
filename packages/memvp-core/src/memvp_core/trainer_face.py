"""What transformers' Trainer and PEFT ask of a model, answered for the language model inside a MemVPModel."""

from typing import Any

from torch import nn

from memvp_core.injection import refuse_reentrant


class TrainerFace(nn.Module):
    """The part of MemVPModel that makes it one of transformers' models in their eyes."""

    language_model: nn.Module

    def activation_checkpointing_enable(
        self,
        activation_checkpointing_kwargs: dict[str, Any] | None = None,
        every_n_layers: int = 1,
        offload: bool = False,
    ) -> None:
        """Recompute layers in backward; the memory goes along. Non-reentrant unless the settings say otherwise.

        The arguments are those of transformers' models, of which older ones have the first alone.
        """
        settings = activation_checkpointing_kwargs or {"use_reentrant": False}
        refuse_reentrant(settings)
        language_model: Any = self.language_model
        given = {"every_n_layers": every_n_layers, "offload": offload}
        others = {} if given == {"every_n_layers": 1, "offload": False} else given
        if hasattr(language_model, "activation_checkpointing_enable"):
            language_model.activation_checkpointing_enable(settings, **others)
        else:
            language_model.gradient_checkpointing_enable(settings, **others)

    def gradient_checkpointing_enable(
        self,
        gradient_checkpointing_kwargs: dict[str, Any] | None = None,
        every_n_layers: int = 1,
        offload: bool = False,
    ) -> None:
        """The former name of `activation_checkpointing_enable`, which transformers 5.17's Trainer calls."""
        self.activation_checkpointing_enable(gradient_checkpointing_kwargs, every_n_layers, offload)

    def activation_checkpointing_disable(self) -> None:
        """Keep activations again."""
        language_model: Any = self.language_model
        if hasattr(language_model, "activation_checkpointing_disable"):
            language_model.activation_checkpointing_disable()
        else:
            language_model.gradient_checkpointing_disable()

    gradient_checkpointing_disable = activation_checkpointing_disable

    @property
    def peft_config(self) -> Any:
        """Absent, as on any module that PEFT has not wrapped."""
        raise AttributeError("peft_config")

    @peft_config.setter
    def peft_config(self, value: Any) -> None:
        # PEFT leaves its settings on every module it has wrapped: the one sure sign of get_peft_model(self).
        raise ValueError(
            "get_peft_model on a MemVPModel would freeze the visual memory and put LoRA on the projector: build the "
            "model again and use model.add_lora(lora_config), which puts it on the language model."
        )

    @property
    def config(self) -> Any:
        """The language model's, for transformers' Trainer; the memory's settings are `memvp_config`."""
        return self.language_model.config

    @property
    def generation_config(self) -> Any:
        """The language model's, for transformers' Seq2SeqTrainer, which also sets it."""
        return self.language_model.generation_config

    @generation_config.setter
    def generation_config(self, value: Any) -> None:
        language_model: Any = self.language_model
        language_model.generation_config = value

    @property
    def loss_type(self) -> Any:
        """The language model's: by it Trainer knows which labels count."""
        return getattr(self.language_model, "loss_type", None)
