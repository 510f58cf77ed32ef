"""In the tokenizer's own chat template the text is the template's and the labels are the answers', token by token."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, models
from transformers import PreTrainedTokenizerFast

from memvp_data.samples import Sample, Turn
from memvp_data.text import encode_prompt, encode_sample

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# As Llama 2: BOS in every round, the system text inside the user's turn, words stripped, no generation prompt.
LLAMA2 = (
    "{% if messages[0].role == 'system' %}{% set sys = '<<SYS>>' + messages[0].content + '<</SYS>>' %}"
    "{% set messages = messages[1:] %}{% endif %}{% for m in messages %}"
    "{% if m.role == 'user' %}{{ bos_token + '[INST] ' + (sys if loop.first and sys else '') + m.content.strip() }}"
    "{{ ' [/INST]' }}{% else %}{{ ' ' + m.content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}"
)
# As Qwen 3: an empty thought stands before the last answer only.
THINKING = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}"
    "{% if m.role == 'assistant' and loop.last %}{{ '<think>\n\n</think>\n\n' }}{% endif %}"
    "{{ m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# The answer follows a colon directly, and ":T" is one token.
COLON = (
    "{% for m in messages %}{{ m.role + ':' + m.content + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)
TEMPLATES = {"chatml": CHATML, "llama2": LLAMA2, "thinking": THINKING, "colon": COLON}
WORDS = st.text(alphabet="ab :T\nThe", min_size=1, max_size=8).filter(str.strip)


def tokenizer_of(template: str | None) -> PreTrainedTokenizerFast:
    """Characters and a few pairs that reach over the borders of turns."""
    entries = [chr(code) for code in range(32, 127)] + ["\n", ":T", "\nT", "\n\n", "T "]
    vocabulary = {entry: place for place, entry in enumerate(["<unk>", *entries])}
    merges = [(":", "T"), ("\n", "T"), ("\n", "\n"), ("T", " ")]
    made = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>")),
        bos_token="<s>",
        eos_token="</s>",
        additional_special_tokens=[AddedToken(name, special=True) for name in ("<|im_start|>", "<|im_end|>")],
        chat_template=template,
    )
    return made


TOKENIZERS = {name: tokenizer_of(template) for name, template in TEMPLATES.items()}


def conversation(*texts: str, system: str | None = None) -> Sample:
    turns = [Turn("system", system)] if system is not None else []
    return Sample(
        "s", (), (*turns, *(Turn("assistant" if place % 2 else "user", text) for place, text in enumerate(texts)))
    )


def encoded(sample: Sample, name: str):
    result = encode_sample(sample, tokenizer=TOKENIZERS[name], template="chat_template", max_length=10_000)
    assert result is not None
    return result


def spelled(ids, name: str) -> str:
    return "".join(TOKENIZERS[name].convert_ids_to_tokens(list(ids)))


def learnt(result, name: str) -> list[str]:
    """What each run of labels spells; a run ends where a token is not learnt."""
    runs, inside = [], False
    for label in result.labels:
        if label != -100 and not inside:
            runs.append([])
        inside = label != -100
        if inside:
            runs[-1].append(label)
    return [spelled(run, name) for run in runs]


@pytest.mark.parametrize(
    ("name", "expected", "answers"),
    [
        (
            "chatml",
            "<|im_start|>user\nq1<|im_end|>\n<|im_start|>assistant\nThe a<|im_end|>\n"
            "<|im_start|>user\nq2<|im_end|>\n<|im_start|>assistant\nb<|im_end|>",
            ["The a<|im_end|>", "b<|im_end|>"],
        ),
        ("llama2", "<s>[INST] q1 [/INST] The a </s><s>[INST] q2 [/INST] b </s>", [" The a </s>", " b </s>"]),
        (
            "thinking",
            "<|im_start|>user\nq1<|im_end|>\n<|im_start|>assistant\nThe a<|im_end|>\n"
            "<|im_start|>user\nq2<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\nb<|im_end|>",
            ["The a<|im_end|>", "<think>\n\n</think>\n\nb<|im_end|>"],
        ),
        ("colon", "user:q1\nassistant:The a\nuser:q2\nassistant:b", ["The a", "b"]),
    ],
)
def test_as_written_out_by_hand(name: str, expected: str, answers: list[str]) -> None:
    result = encoded(conversation("q1", "The a", "q2", "b"), name)
    assert spelled(result.input_ids, name) == expected
    assert learnt(result, name) == answers


@pytest.mark.parametrize("name", TEMPLATES)
@given(rounds=st.lists(st.tuples(WORDS, WORDS), min_size=1, max_size=3), system=st.none() | WORDS)
def test_a_prompt_is_a_strict_prefix_and_answers_are_learnt(name: str, rounds, system) -> None:
    sample = conversation(*(text for pair in rounds for text in pair), system=system)
    whole = encoded(sample, name)
    prompt = encode_prompt(sample, tokenizer=TOKENIZERS[name], template="chat_template")
    assert whole.input_ids[: len(prompt)] == prompt
    assert len(prompt) < len(whole.input_ids)
    assert -100 not in whole.labels[len(prompt) :]
    assert whole.labels[len(prompt) - 1] == -100
    tokenizer = TOKENIZERS[name]
    text = tokenizer.apply_chat_template(
        [{"role": turn.role, "content": turn.text} for turn in sample.turns], tokenize=False
    )
    assert text.startswith(spelled(whole.input_ids, name))
    assert not text[len(spelled(whole.input_ids, name)) :].strip()
    for run, (_, answer) in zip(learnt(whole, name), rounds, strict=True):
        assert answer.strip() in run
    assert encode_prompt(conversation(*texts_of(sample)[:-1], system=system), tokenizer=tokenizer,
                         template="chat_template") == prompt  # fmt: skip


def texts_of(sample: Sample) -> list[str]:
    return [turn.text for turn in sample.turns if turn.role != "system"]


def test_where_no_token_reaches_over_a_border_it_is_the_models_own_tokenising() -> None:
    sample = conversation("a", "b", "c", "d", system="e")
    messages = [{"role": turn.role, "content": turn.text} for turn in sample.turns]
    own = TOKENIZERS["chatml"].apply_chat_template(messages, return_dict=False)
    assert encoded(sample, "chatml").input_ids == tuple(own[:-1])  # but for the line break after the last <|im_end|>
    asked = TOKENIZERS["chatml"].apply_chat_template(messages[:-1], add_generation_prompt=True, return_dict=False)
    assert encode_prompt(sample, tokenizer=TOKENIZERS["chatml"], template="chat_template") == tuple(asked)


def test_a_token_over_the_border_does_not_blur_it() -> None:
    name = "colon"
    assert ":T" in TOKENIZERS[name].convert_ids_to_tokens(TOKENIZERS[name]("assistant:The")["input_ids"])
    result = encoded(conversation("q", "The"), name)
    assert TOKENIZERS[name].convert_ids_to_tokens(list(result.input_ids))[-4:] == [":", "T", "h", "e"]
    assert learnt(result, name) == ["The"]


def test_words_that_look_like_special_tokens_stay_words() -> None:
    result = encoded(conversation("a<|im_end|>b", "c<|im_start|>"), "chatml")
    tokens = TOKENIZERS["chatml"].convert_ids_to_tokens(list(result.input_ids))
    assert tokens.count("<|im_end|>") == 2
    assert tokens.count("<|im_start|>") == 2
    assert learnt(result, "chatml") == ["c<|im_start|><|im_end|>"]


def test_a_cue_begins_the_answer() -> None:
    sample = conversation("q", "The answer is B.")
    whole = encoded(sample, "chatml").input_ids
    prompt = encode_prompt(sample, tokenizer=TOKENIZERS["chatml"], template="chat_template", cue="The answer is")
    assert whole[: len(prompt)] == prompt
    assert spelled(whole[len(prompt) :], "chatml") == " B.<|im_end|>"


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (None, "needs a tokenizer that has one, the .* for sample 's' has none"),
        ("{{ messages[0].content }}", r"shows turns \[0\] of the 4 of sample 's'"),
        (CHATML.replace("m.content", "m.content | upper"), "rewrites the words of turn 0 of sample 's'"),
        (
            CHATML.replace("m.role", "(messages | length | string)"),
            "changes what stands before turn 1 .* once it is ans",
        ),
    ],
)
def test_templates_that_hide_or_rewrite_turns_are_refused(template: str | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        encode_sample(
            conversation("q", "a", "b", "c"),
            tokenizer=tokenizer_of(template),
            template="chat_template",
            max_length=100,
        )


def test_a_question_alone_has_nothing_to_learn() -> None:
    with pytest.raises(ValueError, match="sample 's' has no answer to learn"):
        encoded(conversation("q"), "chatml")
