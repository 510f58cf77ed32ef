"""Encoder-decoder samples: two texts, each ended as the tokenizer ends one, split by the mask of what is learnt."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memvp_data.samples import Sample, Turn
from memvp_data.text import encode_answers, encode_prompt, encode_sample
from memvp_data.text.pairs import cut_tokens

LONG = 10_000
PHRASES = st.text(alphabet="abcdef", min_size=1, max_size=9)


def conversation(*texts: str, fields: dict[str, str] | None = None) -> Sample:
    turns = (Turn("assistant" if place % 2 else "user", text) for place, text in enumerate(texts))
    return Sample("s", ("i", "j"), tuple(turns), fields=fields or {})


def pair(sample: Sample, tokenizer, *, template: str = "paper_table6", max_length: int = LONG) -> tuple[str, str]:
    """What encoder and decoder are given, spelled out."""
    one = encode_sample(sample, tokenizer=tokenizer, template=template, max_length=max_length, encoder_decoder=True)
    assert one is not None
    assert one.image_ids == sample.image_ids
    asked = [token for token, label in zip(one.input_ids, one.labels, strict=True) if label == -100]
    told = [label for label in one.labels if label != -100]
    assert one.input_ids == (*asked, *told)  # the prompt stands first
    return spelled(asked, tokenizer), spelled(told, tokenizer)


def spelled(ids, tokenizer) -> str:
    return "".join(tokenizer.convert_ids_to_tokens(list(ids)))


def test_both_texts_begin_and_end_as_the_tokenizer_has_it(bart_like_tokenizer) -> None:
    sample = conversation("What is it?", "a dog")
    assert pair(sample, bart_like_tokenizer) == ("<s>What is it?</s>", "<s>a dog</s>")
    assert pair(conversation("", "a dog"), bart_like_tokenizer, template="plain") == ("<s></s>", "<s>a dog</s>")


def test_earlier_rounds_are_read_and_the_last_answer_is_said(bart_like_tokenizer) -> None:
    expected = ("<s>What? A dog. Where? Here. Why?</s>", "<s>So.</s>")
    assert pair(conversation("What?", "A dog.", "Where?", "Here.", "Why?", "So."), bart_like_tokenizer) == expected
    open_ended = conversation("What?", "A dog.", "Where?", "Here.", "Why?", "So.", "When?")
    assert pair(open_ended, bart_like_tokenizer) == expected


def test_special_tokens_in_the_words_are_words(bart_like_tokenizer) -> None:
    sample = conversation("</s> a", "b <s>")
    one = encode_sample(
        sample, tokenizer=bart_like_tokenizer, template="paper_table6", max_length=LONG, encoder_decoder=True
    )
    assert one is not None
    assert one.input_ids.count(bart_like_tokenizer.eos_token_id) == 2
    assert one.input_ids.count(bart_like_tokenizer.bos_token_id) == 2


@given(asked=PHRASES, told=PHRASES, max_length=st.integers(3, 12))
def test_both_are_cut_to_the_length_and_what_goes_is_counted(bart_like_tokenizer, asked, told, max_length) -> None:
    settings = {"tokenizer": bart_like_tokenizer, "template": "paper_table6", "encoder_decoder": True}
    one = encode_sample(conversation(asked, told), max_length=max_length, **settings)
    assert one is not None
    room = max_length - 2
    assert pair(conversation(asked, told), bart_like_tokenizer, max_length=max_length) == (
        f"<s>{asked[:room]}</s>",
        f"<s>{told[:room]}</s>",
    )
    assert (one.num_cut_prompt, one.num_cut_labels) == (max(0, len(asked) - room), max(0, len(told) - room))


@given(asked=PHRASES, told=PHRASES, max_length=st.integers(3, 12))
def test_the_prompt_at_inference_is_what_the_encoder_read(bart_like_tokenizer, asked, told, max_length) -> None:
    settings = {"tokenizer": bart_like_tokenizer, "template": "paper_table6", "encoder_decoder": True}
    seen, _ = pair(conversation(asked, told), bart_like_tokenizer, max_length=max_length)
    for sample in (conversation(asked), conversation(asked, told)):
        assert spelled(encode_prompt(sample, max_length=max_length, **settings), bart_like_tokenizer) == seen
    assert spelled(encode_prompt(conversation(asked), **settings), bart_like_tokenizer) == f"<s>{asked}</s>"


def test_each_weighted_answer_is_a_pair(bart_like_tokenizer) -> None:
    sample = Sample("s", (), (Turn("user", "q"),), answers=("a", "b"), answer_weights=(1.0, 0.3))
    settings = {"template": "paper_table6", "max_length": LONG, "encoder_decoder": True}
    found = encode_answers(sample, tokenizer=bart_like_tokenizer, **settings)
    assert [(one.weight, spelled(one.input_ids, bart_like_tokenizer)) for one in found] == [
        (1.0, "<s>q</s><s>a</s>"),
        (0.3, "<s>q</s><s>b</s>"),
    ]


@pytest.mark.parametrize(
    ("texts", "template", "message"),
    [
        (("a",), "paper_table6", "sample 's' has no answer to learn"),
        (("a", "b"), "chat_template", "'chat_template' is for causal models"),
        (("a", "b", "c", "d"), "plain", "holds a caption only"),
    ],
)
def test_what_cannot_be_a_pair_is_named(bart_like_tokenizer, texts, template: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pair(conversation(*texts), bart_like_tokenizer, template=template)


def test_a_tokenizer_of_another_kind_and_a_cue_are_refused(character_tokenizer) -> None:
    with pytest.raises(ValueError, match=r"sample 's' has an empty text, to which the .* adds no special token"):
        pair(conversation("", "b"), character_tokenizer, template="plain")
    settings = {"tokenizer": character_tokenizer, "template": "paper_table6", "encoder_decoder": True}
    with pytest.raises(ValueError, match="cue 'The' cannot stand before"):
        encode_prompt(conversation("a"), cue="The", **settings)


def test_a_cut_keeps_the_closing_tokens_however_short(bart_like_tokenizer) -> None:
    ids = bart_like_tokenizer("abc")["input_ids"]
    cuts = [
        spelled(cut_tokens(ids, tokenizer=bart_like_tokenizer, max_length=n), bart_like_tokenizer) for n in range(6)
    ]
    assert cuts == ["", "</s>", "<s></s>", "<s>a</s>", "<s>ab</s>", "<s>abc</s>"]
