"""The recipe for a real 7B model has the settings of the paper and of LLaVA-1.5."""

from collections.abc import Callable

from memvp_train.config import GroupSettings
from pipelines.config.instruct import JobConfig


def test_settings_are_the_papers(recipe: Callable[..., JobConfig]) -> None:
    job = recipe("llava15_vicuna7b")
    assert (job.language.path, job.vision.path) == ("lmsys/vicuna-7b-v1.5", "openai/clip-vit-large-patch14-336")
    assert (job.vision.layer, job.vision.tokens, job.vision.post_norm) == (-2, "patches", False)
    assert (job.memvp.num_slots, job.memvp.projector_hidden_sizes) == (576, (4096,))
    assert job.memvp.projector_activation == "gelu"
    assert (job.stage1.global_batch_size, job.stage1.learning_rate) == (256, 1e-3)
    assert (job.stage2.global_batch_size, job.stage2.learning_rate) == (128, 2e-5)
    assert job.stage2.groups.named() == {"lora": GroupSettings(learning_rate=2e-4)}
    assert job.stage2.lora is not None
    assert (job.stage2.lora.rank, job.stage2.lora.alpha, len(job.stage2.lora.target_modules)) == (128, 256, 7)
    for stage in (job.stage1, job.stage2):
        assert (stage.warmup_fraction, stage.weight_decay, stage.max_length) == (0.03, 0.0, 2048)
    assert (job.launch.zero_stage, job.launch.precision) == (3, "bf16")
