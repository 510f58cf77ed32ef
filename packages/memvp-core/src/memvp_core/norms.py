"""The language model's norms, trained along (the paper does so for BART and T5) and put back as they were."""

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from torch import nn


class TrainedNorms:
    """Unfreezes every norm of a language model and remembers the weights it came with."""

    def __init__(self, model: nn.Module, *, prefix: str = "") -> None:
        """`prefix` is where the language model lies inside a larger one, whose vision tower stays frozen."""
        self._parameters = norm_parameters(model, prefix=prefix)
        self._originals = {name: parameter.detach().clone() for name, parameter in self._parameters.items()}
        for parameter in self._parameters.values():
            parameter.requires_grad_(True)

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        """The trained parameters, by their names in the model."""
        return self._parameters

    @contextmanager
    def put_back(self) -> Generator[None]:
        """The weights that the model came with, for a block."""
        trained = {name: parameter.data for name, parameter in self._parameters.items()}
        self.restore()
        try:
            yield
        finally:
            for name, parameter in self._parameters.items():
                parameter.data = trained[name]

    def restore(self) -> None:
        """The weights that the model came with, for good.

        Raises:
            ValueError: under ZeRO-3 the weights are in pieces.
        """
        for name, parameter in self._parameters.items():
            if hasattr(parameter, "ds_id"):
                raise ValueError("trained norms cannot be put back under ZeRO-3; load the saved adapter to compare.")
            parameter.data = self._originals[name].to(parameter.device, parameter.dtype)


def norm_parameters(model: nn.Module, *, prefix: str = "") -> dict[str, nn.Parameter]:
    """Parameters of all modules whose class is called a norm: LayerNorm, T5LayerNorm, LlamaRMSNorm, ..."""
    # torch leaves the items partly untyped.
    untyped: Any = model
    modules: dict[str, Any] = dict(untyped.named_modules())
    return {
        f"{path}.{name}": parameter
        for path, module in modules.items()
        if path.startswith(prefix) and type(module).__name__.endswith("Norm")
        for name, parameter in module.named_parameters(recurse=False)
    }
