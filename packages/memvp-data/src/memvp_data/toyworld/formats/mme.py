"""The toy world as MME: all fourteen tasks, two yes-or-no questions about every image, the first to be affirmed.

The names of the tasks are MME's, what is asked is the toy world's: see ASKED. A task of one word is asked as a claim,
"what colour is the star ? red ?".
"""

from memvp_data.datasets.mme import TASKS
from memvp_data.toyworld.formats.album import Album
from memvp_data.toyworld.formats.questions import claim

ASKED = {
    "existence": "exist",
    "count": "count",
    "position": "spatial",
    "color": "colour",
    "posters": "shape",
    "celebrity": "colour",
    "scene": "exist",
    "landmark": "spatial",
    "artwork": "compare",
    "OCR": "shape",
    "commonsense_reasoning": "compare",
    "numerical_calculation": "count",
    "text_translation": "colour",
    "code_reasoning": "spatial",
}
"""MME's task: the toy world's."""
IN_TWO_FOLDERS = ("artwork", "celebrity", "landmark", "posters", "scene")
"""The tasks whose images and texts MME keeps apart."""
SUFFIX = " Please answer yes or no."


def write_mme(album: Album) -> None:
    """As many images of each task as any test split has; a blank line ends every second text, as in MME."""
    for task in TASKS:
        images, texts = (f"{task}/images", f"{task}/questions_answers_YN") if task in IN_TWO_FOLDERS else (task, task)
        suffix = ".jpg" if task in IN_TWO_FOLDERS else ".png"
        for i in range(album.config.num_test_images):
            stem = f"{i + 1:06d}"
            scene = album.picture(f"{images}/{stem}{suffix}")
            yes, no = (claim(album.rng, scene, task=ASKED[task], truth=truth) for truth in (True, False))
            lines = f"{yes}{SUFFIX}\tYes\n{no}{SUFFIX}\tNo" + ("\n" if i % 2 else "")
            album.write(f"{texts}/{stem}.txt", lines.encode())
