"""Small tokenizers that the data tests share; built in memory, nothing is downloaded."""

import pytest
from hypothesis import settings
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

# A deadline per example measures how busy the machine is.
settings.register_profile("data", deadline=None, max_examples=60)
settings.load_profile("data")

WORDS = "USER ASSISTANT what colour is it red blue a dog car describe the picture : ?".split()
CHARACTERS = [chr(code) for code in range(32, 127)] + ["\n"]


def _fast(vocabulary: dict[str, int], *, split: pre_tokenizers.PreTokenizer) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = split
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>"
    )


def _vocabulary(entries: list[str]) -> dict[str, int]:
    return {entry: place for place, entry in enumerate(["<pad>", "<s>", "</s>", "<unk>", *entries])}


@pytest.fixture(scope="session")
def word_tokenizer() -> PreTrainedTokenizerFast:
    """One token per word, as the toy world's."""
    return _fast(_vocabulary(WORDS), split=pre_tokenizers.WhitespaceSplit())


@pytest.fixture(scope="session")
def character_tokenizer() -> PreTrainedTokenizerFast:
    """One token per ASCII character: tokens spell out the exact string."""
    return _fast(_vocabulary(CHARACTERS), split=pre_tokenizers.Split(Regex("[\\s\\S]"), behavior="isolated"))


@pytest.fixture(scope="session")
def bart_like_tokenizer() -> PreTrainedTokenizerFast:
    """One token per character, and every text between <s> and </s>."""
    tokenizer = _fast(_vocabulary(CHARACTERS), split=pre_tokenizers.Split(Regex("[\\s\\S]"), behavior="isolated"))
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    return tokenizer


@pytest.fixture(scope="session")
def merging_tokenizer() -> PreTrainedTokenizerFast:
    """Byte pairs that reach over spaces: "T" followed by " r" is one token, so a naive split moves the border."""
    vocabulary = _vocabulary([*CHARACTERS, "T ", "T r", ": "])
    merges = [("T", " "), ("T ", "r"), (":", " ")]
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>"))
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>"
    )


@pytest.fixture(scope="session")
def colon_tokenizer() -> PreTrainedTokenizerFast:
    """Byte pairs in which ":" takes the letter after it along: ":T" is one token."""
    vocabulary = _vocabulary([*CHARACTERS, ":T"])
    tokenizer = Tokenizer(models.BPE(vocabulary, [(":", "T")], unk_token="<unk>"))
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>"
    )


@pytest.fixture(scope="session")
def llama_like_tokenizer() -> PreTrainedTokenizerFast:
    """As LLaMA's: a space is the mark before a word, and a text by itself begins with one."""
    words = ["▁The", "▁Response", "The", "▁answer", "▁is", "▁B"]
    vocabulary = _vocabulary([*CHARACTERS, "▁", *words])
    tokenizer = Tokenizer(
        models.WordPiece(vocabulary, unk_token="<unk>", continuing_subword_prefix="")
    )  # longest first
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>"
    )
