"""The second half of instruction tuning's evaluation: a look into the tuned model, with pictures of where it looked."""

from memvp_train.launch.cores import all_cores
from pipelines.config.instruct import JobConfig
from pipelines.evaluation.questions import QuestionSet
from pipelines.evaluation.retrieval_maps import look_inside
from pipelines.workflow.paths import samples_path
from pipelines.workflow.step import StepContext, StepOutcome


def draw_and_weigh(context: StepContext) -> StepOutcome:
    """Retrieval maps of some image questions, and the bytes of the memory of one image, as stage 2's model has them."""
    config: JobConfig = context.config
    built = context.inputs["build_shards"].folder
    with all_cores():
        inside = look_inside(
            config.language,
            adapter=context.inputs["stage2"].folder / "adapter",
            features=context.inputs["extract_features"].folder / "features",
        )
        table = samples_path(built, "image")
        figures = []
        if config.data.test is not None:
            figures = inside.draw_maps(
                QuestionSet("", "image", table, "accuracy", config.stage2.template),
                count=config.evaluate.num_pictures,
                images=built / "images",
                vision=config.vision,
                predictions=context.folder / "predictions",
                out=context.folder / "figures",
            )
        memory_bytes = inside.image_memory_bytes()
    named = [str(path.relative_to(context.folder)) for path in figures]
    return StepOutcome(tuple(figures), {"image_memory_bytes": memory_bytes, "figures": named})
