"""Settings refuse what cannot work, in a sentence that names the setting."""

import json
from dataclasses import asdict

import pytest

from memvp_train.config import (
    ConfigError,
    GroupSettings,
    LanguageModelConfig,
    LaunchConfig,
    LoraSettings,
    ParameterGroups,
    StageConfig,
    StageRun,
    ValidationConfig,
    check_batch_split,
    from_plain,
)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"num_steps": None}, "exactly one of num_steps and num_epochs"),
        ({"num_epochs": 1.0}, "exactly one of num_steps and num_epochs"),
        ({"num_steps": 0}, "num_steps must be above 0, got 0"),
        ({"learning_rate": -1.0}, "learning_rate must be above 0"),
        ({"warmup_fraction": 1.0}, "warmup_fraction must be in"),
        ({"betas": (0.9, 1.0)}, "betas must be two numbers"),
        ({"weight_decay": -0.1}, "weight_decay must not be negative"),
        ({"groups": ParameterGroups(lora=GroupSettings(1e-3))}, "groups.lora is set but lora is not"),
        ({"eps": 0.0}, "eps must be above 0"),
        ({"warmup_steps": -1}, "warmup_steps must not be negative, got -1"),
        ({"warmup_steps": 1, "warmup_epochs": 1}, "only one of warmup_steps and warmup_epochs can be set"),
        ({"token_budget": 0}, "token_budget must be above 0"),
        ({"checkpoint_every": 0}, "checkpoint_every must be above 0"),
    ],
)
def test_impossible_stage_is_refused(settings: dict, named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        StageConfig(**{"num_steps": 10, **settings})


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"num_workers": -1}, "num_workers"),
        ({"max_failures": -1}, "max_failures"),
        ({"dashboard_port": 80}, "dashboard_port must be between 1024 and 65535, got 80"),
        ({"cpus_per_worker": 0}, "cpus_per_worker"),
        ({"loader_processes": -1}, "launch.loader_processes must be 0 or more, got -1"),
        ({"timeout_seconds": 0}, "launch.timeout_seconds must be at least 1, got 0"),
        ({"offload_optimizer": True, "zero_stage": 0}, "offload_optimizer needs launch.zero_stage 1, 2 or 3"),
        ({"offload_optimizer": True, "num_workers": 0}, "offload_optimizer needs .* one worker"),
        ({"offload_parameters": True}, "offload_parameters needs launch.zero_stage 3 .* got stage 2"),
    ],
)
def test_impossible_launch_is_refused(settings: dict, named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        LaunchConfig(**settings)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"every": 0}, "validation.every must be at least 1 step, got 0"),
        ({"patience": 0}, "validation.patience must be at least 1 evaluation, got 0; leave it out for none"),
    ],
)
def test_impossible_validation_is_refused(settings: dict, named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        ValidationConfig(**settings)


@pytest.mark.parametrize("settings", [{"learning_rate": 0.0}, {"weight_decay": -1.0}])
def test_impossible_group_is_refused(settings: dict) -> None:
    with pytest.raises(ConfigError, match="of a group must"):
        GroupSettings(**settings)


def test_batch_that_workers_cannot_share_is_refused_with_one_that_they_can() -> None:
    with pytest.raises(ConfigError, match="multiple of the 3 workers; try 33"):
        check_batch_split(StageConfig(num_steps=1, global_batch_size=32), num_workers=3)


def test_epochs_are_rounded_up_to_whole_steps() -> None:
    stage = StageConfig(num_epochs=1.5, global_batch_size=10, micro_batch_size=5)
    assert stage.steps_for(num_samples=21) == 4  # 31.5 samples in batches of 10
    assert stage.steps_for(num_samples=1) == 1


def test_run_survives_json() -> None:
    run = StageRun(
        language=LanguageModelConfig("toyworld/language", overrides={"num_hidden_layers": 2}),
        memvp={"vision_hidden_size": 8},
        stage=StageConfig(
            num_steps=3,
            lora=LoraSettings(rank=4, target_modules=("q_proj",)),
            betas=(0.8, 0.9),
            groups=ParameterGroups(projector=GroupSettings(1e-3), lora=GroupSettings(weight_decay=0.1)),
            validation=ValidationConfig(every=5, metric="accuracy", patience=2),
        ),
        samples="/a",
        features=None,
        init_adapter=None,
        out="/b",
    )
    assert from_plain(StageRun, json.loads(json.dumps(asdict(run)))) == run
