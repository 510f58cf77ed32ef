"""What a MemVPModel has learnt: named, counted, saved and loaded (save_pretrained, from_pretrained, push_to_hub).

The model gives out what it holds as data (`SavedAdapter`); how that lies on disk is the concern of
saving/adapter_files.py, and how it is sent to the hub that of saving/hub.py.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self

from torch import Tensor, nn

from memvp_core import lora
from memvp_core.backbones import FFNSite, choose_layers, find_sites
from memvp_core.config import MemVPConfig
from memvp_core.files import is_elsewhere
from memvp_core.injection import Injection
from memvp_core.norms import TrainedNorms
from memvp_core.saving import adapter_files, hub, lora_files
from memvp_core.saving.base_model import base_name, describe_base
from memvp_core.vision.tower import VisionTower

_LANGUAGE_MODEL = "language_model."
_OWN = ("prompt.", "vision_tower.adapters.")


class AdapterFiles(nn.Module):
    """The half of MemVPModel that knows what trains, and its files."""

    memvp_config: MemVPConfig
    language_model: nn.Module
    vision_tower: VisionTower | None
    trained_norms: TrainedNorms | None
    has_merged_lora: bool
    _injection: Injection

    def trainable_state(self) -> dict[str, Tensor]:
        """Names and live tensors of all that trains: the memory's parameters and the LoRA's."""
        return {name: parameter for name, parameter in self.named_parameters() if parameter.requires_grad}

    def num_trainable_parameters(self) -> int:
        """Numbers that train; right under ZeRO-3 too."""
        return sum(map(_numel, self.trainable_state().values()))

    def print_trainable_parameters(self) -> None:
        """One line, as PEFT prints it."""
        trainable, total = self.num_trainable_parameters(), sum(map(_numel, self.parameters()))
        print(f"trainable params: {trainable:,} || all params: {total:,} || trainable%: {100 * trainable / total:.4f}")

    def save_pretrained(
        self,
        path: str | Path,
        *,
        state: Mapping[str, Tensor] | None = None,
        base: Mapping[str, Any] | None = None,
    ) -> None:
        """Write the adapter to a folder, a LoRA beside it in lora/; see saving/adapter_files.py.

        `state` (names as in `trainable_state`) replaces the model's own tensors: give the gathered ones under ZeRO-3.
        `base` is `base_description` as it was where the language model had its weights, if it has none here.
        """
        adapter = self._adapter(state or {}, base=base)
        if lora.has_lora(self.language_model):
            names = {name.removeprefix(_LANGUAGE_MODEL): value for name, value in (state or {}).items()}
            folder = Path(path) / adapter_files.LORA_FOLDER
            lora_files.save_lora(self.language_model, folder, tensors=names or None, base_name=adapter.base_name)
        adapter_files.write_adapter(adapter, Path(path))

    def base_description(self) -> dict[str, Any]:
        """What an adapter notes of its language model (architecture, shape, a hash of weights), as plain values."""
        return describe_base(self.language_model)

    def _adapter(
        self, state: Mapping[str, Tensor], *, base: Mapping[str, Any] | None = None
    ) -> adapter_files.SavedAdapter:
        """What the adapter's files hold, as data; tensors of `state` stand for the model's own."""
        if self.has_merged_lora:
            raise ValueError(
                "this model's LoRA was merged into the language model, so what would be saved does not fit the one it "
                "was loaded from: save the adapter before merge_lora(), which can be called again after "
                "from_pretrained."
            )
        given = {adapter_files.plain_name(name): value for name, value in state.items()}
        tensors = {name: given.get(name, value) for name, value in self._adapter_tensors().items()}
        missing = [name for name, value in tensors.items() if is_elsewhere(value)]
        if missing:
            raise ValueError(
                f"{missing[0]} has no values here (ZeRO-3, or the meta device): give the whole tensors of "
                "trainable_state() as save_pretrained(path, state=...)."
            )
        language_config: Any = self.language_model.config
        return adapter_files.SavedAdapter(
            config=self.memvp_config,
            tensors=tensors,
            base=self.base_description() if base is None else dict(base),
            base_type=language_config.model_type,
            base_name=base_name(self.language_model),
            sites=self._sites_by_hand(),
            tower=None if self.vision_tower is None else self.vision_tower.settings(),
        )

    def _adapter_tensors(self) -> dict[str, Tensor]:
        """The live tensors of the adapter file by their names there: memory, the tower's adapters, trained norms."""
        own: dict[str, Tensor] = {}
        own |= {name: value for name, value in self.state_dict(keep_vars=True).items() if name.startswith(_OWN)}
        norms = {} if self.trained_norms is None else self.trained_norms.parameters
        own |= {adapter_files.plain_name(_LANGUAGE_MODEL + name): value for name, value in norms.items()}
        return own

    def _sites_by_hand(self) -> list[FFNSite] | None:
        """The FFN sites, unless they are those of the table."""
        config, sites = self.memvp_config, self._injection.sites
        try:
            table = find_sites(self.language_model, target=config.target_stack)
            is_table = tuple(choose_layers(table, layers=config.layers_to_transform)) == sites
        except ValueError:
            is_table = False
        return None if is_table else [adapter_files.plain_site(site) for site in sites]

    @classmethod
    def from_pretrained(
        cls,
        language_model: nn.Module,
        path: str | Path,
        vision_tower: nn.Module | None = None,
        *,
        sites: Sequence[FFNSite] | None = None,
        revision: str | None = None,
        token: str | None = None,
    ) -> Self:
        """The model that `save_pretrained` wrote, on a language model (and tower) as it was before.

        `path` is a folder, or where there is none a name on the Hugging Face Hub, with its `revision` and `token`.
        Sites that were given to the saved model are remembered; `sites` replaces them.
        """
        saved = adapter_files.read_adapter(hub.local_folder(path, revision=revision, token=token))
        adapter_files.check_language_model(language_model, saved)
        tower = adapter_files.tower_for(saved, vision_tower)
        model: Any = cls(language_model, saved.config, tower, sites=saved.sites if sites is None else sites)
        try:
            model._take_over(saved)
        except Exception:
            model.unload()
            raise
        return model

    def load_adapter(self, path: str | Path) -> None:
        """Take over the tensors that a model with the same settings, LoRA included, has saved."""
        self._take_over(adapter_files.read_adapter(Path(path)))

    def _take_over(self, saved: adapter_files.SavedAdapter) -> None:
        adapter_files.fill_tensors(self._adapter_tensors(), saved)
        if saved.lora_folder is None:
            return
        if lora.has_lora(self.language_model):
            lora_files.fill_lora(self.language_model, saved.lora_folder)
            return
        with self._injection.taken_out():
            lora_files.load_lora(self.language_model, saved.lora_folder)

    def push_to_hub(self, repo_id: str, **settings: Any) -> str:
        """Send the adapter and a model card to the Hugging Face Hub; settings and result as in saving/hub.py."""
        language_config: Any = self.language_model.config
        card = hub.ModelCard(
            base_name=base_name(self.language_model),
            model_type=language_config.model_type,
            is_encoder_decoder=language_config.is_encoder_decoder,
            num_parameters=self.num_trainable_parameters(),
            settings=self.memvp_config.to_dict() | {"lora": lora.has_lora(self.language_model)},
        )
        with TemporaryDirectory() as folder:
            self.save_pretrained(folder)
            return hub.upload(Path(folder), card, repo_id, **settings)


def _numel(parameter: Tensor) -> int:
    # ZeRO-3 leaves an empty tensor in place and keeps the count beside it.
    return int(getattr(parameter, "ds_numel", parameter.numel()))
