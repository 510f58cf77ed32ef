"""A prompt that is too long loses words of the field that its template shortens, as few as can be, and nothing else."""

from hypothesis import given
from hypothesis import strategies as st

from memvp_data.samples import Sample
from memvp_data.text import Encoded, encode_prompt, encode_sample
from memvp_data.text.truncation import fitted
from tests.data.text.test_pairs import conversation, pair, spelled


def test_long_subtitles_lose_words_before_choices_do(bart_like_tokenizer, character_tokenizer) -> None:
    fields = {"question": "Q?", "choices": '["x", "y"]', "ts": "1-2", "subtitles": "one two three four"}
    sample = conversation("Q?", "a1", fields=fields)
    rest = " [Q] Q? [TS] (1-2) [Choices] a0: x. a1: y."
    for kept in ("one two three four", "one two three", "one two", "one", ""):
        asked = f"[Subs] {kept}{rest}"
        for spare in (0, 2):
            length = len(asked) + 2 + spare
            assert pair(sample, bart_like_tokenizer, template="video_qa", max_length=length)[0] == f"<s>{asked}</s>"
            # A causal model has BOS, the answer and EOS in the same length.
            settings = {"tokenizer": character_tokenizer, "template": "video_qa"}
            one = encode_sample(sample, max_length=length - 1 + len(" a1") + 1, **settings)
            assert isinstance(one, Encoded)
            assert spelled(one.input_ids, character_tokenizer) == f"<s>{asked} a1</s>"
            assert (one.num_cut_labels, one.num_cut_prompt) == (0, len("one two three four") - len(kept))
            prompt = encode_prompt(sample, max_length=length - 1, **settings)
            assert spelled(prompt, character_tokenizer) == f"<s>{asked}"


@given(words=st.lists(st.sampled_from(["a", "bb", "ccc"]), max_size=8), max_length=st.none() | st.integers(0, 30))
def test_as_many_words_stay_as_fit(words: list[str], max_length: int | None) -> None:
    said = " ".join(words)
    sample = conversation("Q?", "a1", fields={"subtitles": said, "other": "x"})

    def encode(one: Sample) -> str:
        return one.fields["subtitles"] + "!"

    found, num_taken = fitted(sample, encode, size=len, template="video_qa", max_length=max_length)
    candidates = [" ".join(words[:count]) + "!" for count in range(len(words) + 1)]
    fitting = [one for one in candidates if max_length is None or len(one) <= max_length]
    assert found == (fitting[-1] if fitting else "!")
    assert num_taken == len(said) + 1 - len(found)
    # A template that shortens nothing leaves all of it.
    assert fitted(sample, encode, size=len, template="released", max_length=max_length) == (f"{said}!", 0)
