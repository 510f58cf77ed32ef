"""Labels lie exactly on the answers, token by token, and a prompt is what training saw before the last answer."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memvp_data.samples import Sample, Turn
from memvp_data.text import Encoded, encode_answers, encode_prompt, encode_sample

WORDS = "USER ASSISTANT what colour is it red blue a dog car".split()
PHRASES = st.lists(st.sampled_from(WORDS), min_size=1, max_size=4).map(" ".join)
PRINTABLE = st.text(alphabet=st.characters(min_codepoint=32, max_codepoint=126), max_size=12)
TOKENIZERS = ["word_tokenizer", "character_tokenizer", "merging_tokenizer"]
LONG = 10_000


def conversation(*texts: str, system: str | None = None, image_ids: tuple[str, ...] = ()) -> Sample:
    turns = [Turn("system", system)] if system is not None else []
    turns += [Turn("assistant" if place % 2 else "user", text) for place, text in enumerate(texts)]
    return Sample("s", image_ids, tuple(turns))


def encoded(sample: Sample, tokenizer, template: str, max_length: int = LONG) -> Encoded:
    result = encode_sample(sample, tokenizer=tokenizer, template=template, max_length=max_length)
    assert result is not None
    return result


def spelled(ids, tokenizer) -> str:
    return "".join(tokenizer.convert_ids_to_tokens(list(ids)))


def learnt(result: Encoded) -> list[list[int]]:
    """Runs of labelled tokens; each ends where the next token is not labelled."""
    runs, inside = [], False
    for label in result.labels:
        if label == -100:
            inside = False
        elif inside:
            runs[-1].append(label)
        else:
            runs.append([label])
            inside = True
    return runs


@given(rounds=st.lists(st.tuples(PHRASES, PHRASES), min_size=1, max_size=4))
def test_word_by_word_as_written_out_by_hand(word_tokenizer, rounds) -> None:
    ids = word_tokenizer.get_vocab()
    input_ids, labels = [ids["<s>"]], [-100]
    for question, answer in rounds:
        prompt = [ids[word] for word in ("USER", *question.split(), "ASSISTANT")]
        reply = [*(ids[word] for word in answer.split()), ids["</s>"]]
        input_ids += prompt + reply
        labels += [-100] * len(prompt) + reply
    sample = conversation(*(text for pair in rounds for text in pair), image_ids=("i",))
    assert encoded(sample, word_tokenizer, "toyworld") == Encoded("s", tuple(input_ids), tuple(labels), ("i",))


@pytest.mark.parametrize("name", TOKENIZERS)
@pytest.mark.parametrize("template", ["toyworld", "vicuna_v1"])
@given(rounds=st.lists(st.tuples(PRINTABLE, PRINTABLE), min_size=1, max_size=3), system=st.none() | PRINTABLE)
def test_a_prompt_is_a_strict_prefix_up_to_the_last_answer(request_tokenizers, name, template, rounds, system) -> None:
    tokenizer = request_tokenizers[name]
    texts = [text for pair in rounds for text in pair]
    whole = encoded(conversation(*texts, system=system), tokenizer, template)
    prompt = encode_prompt(conversation(*texts, system=system), tokenizer=tokenizer, template=template)
    assert len(prompt) < len(whole.input_ids)
    assert whole.input_ids[: len(prompt)] == prompt
    # From there on everything is learnt, the token before it is not.
    assert -100 not in whole.labels[len(prompt) :]
    assert whole.labels[len(prompt) - 1] == -100
    # An open question has the same prompt, and adds nothing to what is learnt from the answered ones.
    open_question = conversation(*texts[:-1], system=system)
    assert encode_prompt(open_question, tokenizer=tokenizer, template=template) == prompt
    if len(rounds) > 1:
        earlier = conversation(*texts[:-2], system=system)
        assert encoded(open_question, tokenizer, template) == encoded(earlier, tokenizer, template)


@pytest.fixture(scope="session")
def request_tokenizers(word_tokenizer, character_tokenizer, merging_tokenizer) -> dict:
    return dict(zip(TOKENIZERS, (word_tokenizer, character_tokenizer, merging_tokenizer), strict=True))


@pytest.mark.parametrize("name", ["character_tokenizer", "merging_tokenizer"])
@given(rounds=st.lists(st.tuples(PRINTABLE, PRINTABLE), min_size=1, max_size=3))
def test_what_is_learnt_spells_the_answers_and_nothing_else(request_tokenizers, name, rounds) -> None:
    tokenizer = request_tokenizers[name]
    result = encoded(conversation(*(text for pair in rounds for text in pair)), tokenizer, "vicuna_v1")
    assert [spelled(run, tokenizer) for run in learnt(result)] == [f" {answer}</s>" for _, answer in rounds]
    assert all(label in (-100, token) for token, label in zip(result.input_ids, result.labels, strict=True))


def test_a_token_over_the_border_does_not_blur_it(merging_tokenizer) -> None:
    together = merging_tokenizer.convert_ids_to_tokens(merging_tokenizer("USER x ASSISTANT red")["input_ids"])
    assert "T r" in together  # tokenised as one string the border lies inside a token
    result = encoded(conversation("x", "red"), merging_tokenizer, "toyworld")
    assert spelled(result.input_ids, merging_tokenizer) == "<s>USER x ASSISTANT red</s>"
    assert [spelled(run, merging_tokenizer) for run in learnt(result)] == [" red</s>"]


def test_a_colon_that_merges_with_the_answer_does_not_blur_the_border(colon_tokenizer) -> None:
    together = colon_tokenizer.convert_ids_to_tokens(colon_tokenizer("Response:The answer")["input_ids"])
    assert ":T" in together
    result = encoded(conversation("Response:", "The answer is B."), colon_tokenizer, "released")
    tokens = colon_tokenizer.convert_ids_to_tokens(list(result.input_ids))
    assert tokens[tokens.index(":") + 1 :][:3] == ["T", "h", "e"]
    assert [spelled(run, colon_tokenizer) for run in learnt(result)] == ["The answer is B.</s>"]


def test_released_labels_are_those_of_the_released_code(llama_like_tokenizer) -> None:
    """There prompt and answer are one string, and as many tokens as the prompt alone has are not learnt."""
    prompt, answer = "Question: x\nResponse:", "The answer is B."
    ids, alone = (
        [1, *llama_like_tokenizer(text, add_special_tokens=False)["input_ids"]] for text in (prompt + answer, prompt)
    )
    ids.append(2)
    result = encoded(conversation(prompt, answer), llama_like_tokenizer, "released")
    assert result.input_ids == tuple(ids)
    assert result.labels == (*[-100] * len(alone), *ids[len(alone) :])
    tokens = llama_like_tokenizer.convert_ids_to_tokens(ids)
    # "The" by itself would be "▁The", another token.
    assert tokens[len(alone) - 1 :] == [":", "The", "▁answer", "▁is", "▁B", ".", "</s>"]


# From the official conversation.py and train.py of LLaVA (haotian-liu/LLaVA, commit c121f04), image token taken out.
SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)


def test_vicuna_v1_is_llavas_string(character_tokenizer) -> None:
    sample = conversation("What is it?", "A dog.", "Color?", "Brown.")
    expected = f"<s>{SYSTEM} USER: What is it? ASSISTANT: A dog.</s>USER: Color? ASSISTANT: Brown.</s>"
    assert spelled(encoded(sample, character_tokenizer, "vicuna_v1").input_ids, character_tokenizer) == expected
    prompt = encode_prompt(conversation("What is it?"), tokenizer=character_tokenizer, template="vicuna_v1")
    assert spelled(prompt, character_tokenizer) == f"<s>{SYSTEM} USER: What is it? ASSISTANT:"


def test_plain_is_llavas_string(character_tokenizer) -> None:
    sample = conversation("Describe the picture briefly.", "a red bus", image_ids=("i",))
    result = encoded(sample, character_tokenizer, "plain")
    assert spelled(result.input_ids, character_tokenizer) == "<s>a red bus\n"
    assert [spelled(run, character_tokenizer) for run in learnt(result)] == ["a red bus\n"]
    assert encode_prompt(sample, tokenizer=character_tokenizer, template="plain") == (character_tokenizer.bos_token_id,)


def test_a_system_turn_takes_the_place_of_the_templates_own(character_tokenizer) -> None:
    sample = conversation("a", "b", system="Be brief.")
    result = encoded(sample, character_tokenizer, "vicuna_v1")
    assert spelled(result.input_ids, character_tokenizer) == "<s>Be brief. USER: a ASSISTANT: b</s>"


def test_braces_and_special_tokens_in_the_text_are_text(character_tokenizer) -> None:
    sample = conversation("{text} {0} </s>", "</s> {text}")
    result = encoded(sample, character_tokenizer, "toyworld")
    assert spelled(result.input_ids, character_tokenizer) == "<s>USER {text} {0} </s> ASSISTANT </s> {text}</s>"
    assert result.input_ids.count(character_tokenizer.eos_token_id) == 1


@given(
    rounds=st.lists(st.tuples(PHRASES, PHRASES), min_size=1, max_size=3),
    max_length=st.integers(1, 30),
    template=st.sampled_from(["toyworld", "vicuna_v1"]),
)
def test_a_cut_takes_the_end_and_never_moves_a_label(character_tokenizer, rounds, max_length, template) -> None:
    sample = conversation(*(text for pair in rounds for text in pair))
    whole = encoded(sample, character_tokenizer, template)
    cut = encode_sample(sample, tokenizer=character_tokenizer, template=template, max_length=max_length)
    if any(label != -100 for label in whole.labels[:max_length]):
        assert cut is not None
        assert cut.num_cut_labels == whole.num_labels - cut.num_labels
        assert cut == Encoded("s", whole.input_ids[:max_length], whole.labels[:max_length], ())
    else:
        assert cut is None


def test_the_first_token_is_never_learnt_without_a_bos(character_tokenizer) -> None:
    class WithoutBos:
        bos_token_id = None
        eos_token_id = character_tokenizer.eos_token_id

        def __call__(self, *args, **kwargs):
            return character_tokenizer(*args, **kwargs)

    result = encoded(conversation("", "ab"), WithoutBos(), "plain")
    assert spelled(result.input_ids, character_tokenizer) == "ab\n"
    assert result.labels[0] == -100
    assert result.num_labels == 2


@pytest.mark.parametrize(
    ("sample", "template", "message"),
    [
        (conversation("a"), "toyworld", "sample 's' has no answer to learn"),
        (conversation(), "toyworld", r"sample 's' must be .*got \[\]"),
        (Sample("s", (), (Turn("assistant", "a"),)), "toyworld", r"must be .*got \['assistant'\]"),
        (Sample("s", (), (Turn("user", "a"), Turn("user", "b"))), "toyworld", r"got \['user', 'user'\]"),
        (conversation("a", "b", "c", "d"), "plain", "4 turns, template 'plain' holds a caption only"),
        (conversation("a", "b"), "vicuna", "unknown template 'vicuna'; known: plain, vicuna_v1, toyworld, released"),
    ],
)
def test_what_a_template_cannot_hold_is_named(word_tokenizer, sample: Sample, template: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        encode_sample(sample, tokenizer=word_tokenizer, template=template, max_length=10)


def test_labels_that_are_cut_off_are_counted(character_tokenizer) -> None:
    sample = conversation("ab", "cde")
    length = len(encoded(sample, character_tokenizer, "toyworld").input_ids)
    counts = [encoded(sample, character_tokenizer, "toyworld", length - cut).num_cut_labels for cut in range(5)]
    assert counts == [0, 1, 2, 3, 4]  # the EOS first, then "e", "d", "c"; " " is all that is left


def test_a_cue_is_what_training_saw_there(character_tokenizer, merging_tokenizer) -> None:
    sample = conversation("Pick one: T", "The answer is B.")
    for tokenizer in (character_tokenizer, merging_tokenizer):
        for template in ("released", "paper_table6", "vicuna_v1"):
            whole = encoded(sample, tokenizer, template).input_ids
            prompt = encode_prompt(sample, tokenizer=tokenizer, template=template, cue="The answer is")
            assert whole[: len(prompt)] == prompt
            assert spelled(whole[len(prompt) :], tokenizer) == " B.</s>"


def test_weighted_answers_are_encoded_one_by_one(character_tokenizer) -> None:
    turns = conversation("What?", "shoes").turns
    sample = Sample("s", ("i",), turns, answers=("shoes", "boots", "hat"), answer_weights=(1.0, 0.3, 0.0))
    settings = {"tokenizer": character_tokenizer, "template": "vicuna_v1", "max_length": LONG}
    found = encode_answers(sample, **settings)
    assert [one.weight for one in found] == [1.0, 0.3]
    for one, answer in zip(found, ("shoes", "boots"), strict=True):
        expected = encoded(conversation("What?", answer, image_ids=("i",)), character_tokenizer, "vicuna_v1")
        assert (one.input_ids, one.labels, one.image_ids) == (expected.input_ids, expected.labels, ("i",))
    # An open question is answered the same way; without weights there is one answer, the conversation's.
    assert encode_answers(Sample("s", ("i",), turns[:1], "", sample.answers, "", (1.0, 0.3, 0.0)), **settings) == found
    assert encode_answers(conversation("What?", "shoes"), **settings) == (
        encode_sample(conversation("What?", "shoes"), **settings),
    )
    assert encode_answers(sample, **{**settings, "max_length": 3}) == ()


def test_answers_without_any_score_are_empty_and_count_nothing(character_tokenizer) -> None:
    sample = Sample("s", (), conversation("What?").turns, answers=("a", "b"), answer_weights=(0.0, 0.0))
    (one,) = encode_answers(sample, tokenizer=character_tokenizer, template="toyworld", max_length=LONG)
    assert one.weight == 0
    assert spelled(learnt(one)[0], character_tokenizer) == " </s>"
