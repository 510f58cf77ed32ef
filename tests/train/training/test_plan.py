"""What workers are given crosses to them as plain JSON and comes back as it was."""

import json

from memvp_train.config import LanguageModelConfig, LaunchConfig, LoraSettings, StageConfig, StageRun, VisionConfig
from memvp_train.training.plan import WorkerPlan
from memvp_train.training.token_cache import EncodedCounts


def test_plan_survives_json() -> None:
    run = StageRun(
        language=LanguageModelConfig("toyworld/language"),
        memvp={"vision_hidden_size": 8, "projector_hidden_sizes": [4]},
        stage=StageConfig(num_steps=3, lora=LoraSettings(target_modules=("q_proj",)), betas=(0.8, 0.9)),
        samples="/a",
        features=None,
        init_adapter=None,
        out="/b",
        images="/c",
        vision=VisionConfig("toyworld/vision", layer=(1, 2)),
    )
    plan = WorkerPlan(
        run=run,
        launch=LaunchConfig(num_workers=3, precision="bf16"),
        settings={"stage": {"betas": [0.8, 0.9]}, "samples": "abc"},
        counts=EncodedCounts(num_samples=5, num_dropped=1),
        samples_key="key",
        validation_key=None,
        decoder_start_token_id=2,
        num_steps=3,
        num_warmup_steps=1,
    )
    assert WorkerPlan.from_plain(json.loads(json.dumps(plan.to_plain()))) == plan
