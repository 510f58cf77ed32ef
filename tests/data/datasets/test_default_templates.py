"""Every reader's samples can be encoded with the default template of their dataset, and no choice is lost."""

import json

import pytest

from memvp_data.datasets.table import DATASETS, find_dataset
from memvp_data.samples import Sample, Turn
from memvp_data.text import encode_prompt, encode_sample
from memvp_data.text.templates import DEFAULT_TEMPLATES

# So that a word that is on the page but not in the prompt would show.
MULTIPLE_CHOICE = {"scienceqa", "sqa_i", "tvqa", "how2qa", "mmbench"}


def spelled(ids, tokenizer) -> str:
    return "".join(tokenizer.convert_ids_to_tokens(list(ids)))


def answered(sample: Sample) -> Sample:
    has_answer = sample.turns[-1].role == "assistant"
    answer = Turn("assistant", sample.answers[0] if sample.answers else "A")
    return sample if has_answer else Sample(**{**vars(sample), "turns": (*sample.turns, answer)})


@pytest.mark.parametrize("encoder_decoder", [False, True])
@pytest.mark.parametrize("name", sorted(DATASETS))
def test_every_sample_is_encoded_with_its_choices(
    official, character_tokenizer, bart_like_tokenizer, name: str, encoder_decoder: bool
) -> None:
    root, template = official(name), DEFAULT_TEMPLATES[name]
    tokenizer = bart_like_tokenizer if encoder_decoder else character_tokenizer
    settings = {"tokenizer": tokenizer, "template": template, "encoder_decoder": encoder_decoder}
    num_choices = 0
    splits = find_dataset(name).splits
    for split in (split for split in splits if all((root / file).exists() for file in splits[split].files)):
        for sample in find_dataset(name).read(root, split=split, check_images=False):
            whole = encode_sample(answered(sample), max_length=100_000, **settings)
            assert whole is not None
            assert whole.num_labels
            prompt = spelled(encode_prompt(sample, **settings), tokenizer)
            question = next(turn.text for turn in reversed(sample.turns) if turn.role == "user")
            if template != "plain":
                assert " ".join(question.split()) in " ".join(prompt.split())
            for choice in json.loads(sample.fields.get("choices", "[]")):
                num_choices += 1
                assert " ".join(choice.strip(" .").split()) in " ".join(prompt.split())
    assert (num_choices > 0) == (name in MULTIPLE_CHOICE)
