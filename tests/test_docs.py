"""The python blocks of the pages run: docs/*.md and the README of memvp-core, page by page, from top to bottom.

The blocks of a page share one namespace, as in a notebook. It begins with the names of `page_names` below, which stand
for what a reader brings along; the working directory is an empty folder with one trained adapter, `adapter/`. A block
that cannot run here (it needs a cluster, a download, another package) opens with ```python no-run and is left out.
A block that shows how something fails should catch it itself. Indented code and other languages are not run.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from types import CodeType
from typing import Any

import pytest
import torch

from memvp_core import MemVPConfig, get_memvp_model

ROOT = Path(__file__).resolve().parents[1]
PAGES = [*sorted((ROOT / "docs").glob("*.md")), ROOT / "packages/memvp-core/README.md"]
_FENCE = re.compile(r"^```(?P<language>\w*)(?P<mark>[^\n]*)\n(?P<code>.*?)^```\s*$", re.MULTILINE | re.DOTALL)
_FEATURE_WIDTH, _VOCABULARY = 6, 40


def blocks(text: str, *, name: str) -> Iterator[CodeType]:
    """The runnable python blocks of a page, compiled so that a traceback shows the lines of the page."""
    for fence in _FENCE.finditer(text):
        if fence["language"] != "python" or fence["mark"].strip() == "no-run":
            continue
        if fence["mark"].strip():
            raise ValueError(f"{name}: a block is marked {fence['mark'].strip()!r}; only no-run has a meaning.")
        above = text.count("\n", 0, fence.start("code"))
        yield compile("\n" * above + fence["code"], name, "exec")


def page_names() -> dict[str, Any]:
    """What a page may use without making it, new for every page.

    language_model  tiny random LLaMA of transformers: 2 layers, width 16, 40 tokens, in evaluation mode
    features        (3, 4, 6): three images of 2 x 2 patches
    image           (32, 32, 3) in [0, 1]: the picture that the first image's features stand for
    ids, mask       (3, 6): token ids and attention mask of three texts, none of them padded
    """
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(3, _VOCABULARY, (3, 6), generator=generator)
    return {
        "language_model": tiny_llama(),
        "features": torch.randn(3, 4, _FEATURE_WIDTH, generator=generator),
        "image": torch.rand(32, 32, 3, generator=generator),
        "ids": ids,
        "mask": torch.ones_like(ids),
    }


def tiny_llama() -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    tokens = {"vocab_size": _VOCABULARY, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    # Weights so large that the FFNs, and with them the memory, matter.
    config = LlamaConfig(**sizes, **tokens, initializer_range=0.3)
    torch.manual_seed(0)
    return LlamaForCausalLM(config).eval()


def save_adapter(path: Path) -> None:
    """Random, but as strong as a trained one."""
    config = MemVPConfig(vision_hidden_size=_FEATURE_WIDTH, num_slots=8, visual_scale=1.0, retrieval_scale=1.0)
    model = get_memvp_model(tiny_llama(), config)
    for parameter in model.prompt.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    model.save_pretrained(path)


PAGES_WITH_CODE = [page for page in PAGES if any(blocks(page.read_text(encoding="utf-8"), name=page.name))]


@pytest.mark.parametrize("page", PAGES_WITH_CODE, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_blocks_of_the_page_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_adapter(tmp_path / "adapter")
    monkeypatch.chdir(tmp_path)
    names = page_names()
    torch.manual_seed(0)
    for block in blocks(page.read_text(encoding="utf-8"), name=str(page)):
        exec(block, names)


def test_pages_hold_code() -> None:
    assert {"looking-and-editing.md", "README.md"} <= {page.name for page in PAGES_WITH_CODE}


def run(text: str) -> dict[str, Any]:
    names: dict[str, Any] = {}
    for block in blocks(text, name="page.md"):
        exec(block, names)
    return names


def test_blocks_share_names_and_skip_what_is_marked() -> None:
    text = "a\n```python\nx = 1\n```\n```python no-run\nx = 1 / 0\n```\n```bash\nx=2\n```\n```python\ny = x + 1\n```\n"
    assert run(text)["y"] == 2


def test_failure_is_shown_at_the_line_of_the_page() -> None:
    with pytest.raises(ZeroDivisionError) as caught:
        run("# title\n\n```python\nx = 1\n\n1 / 0\n```\n")
    assert caught.traceback[-1].lineno + 1 == 6
    with pytest.raises(ValueError, match="only no-run has a meaning"):
        run("```python norun\n```\n")
