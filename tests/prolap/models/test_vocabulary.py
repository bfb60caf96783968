from __future__ import annotations

import pytest
import torch

from prolap.models.tokenizers import WordVocabulary, from_json

END, PAD, UNKNOWN = WordVocabulary.end, WordVocabulary.pad, WordVocabulary.unknown


def test_words_are_lower_case_without_punctuation() -> None:
    assert WordVocabulary.words("A dog's bark, then -- RAIN!") == ["a", "dog's", "bark", "then", "rain"]
    assert WordVocabulary.words("  ...  ") == []


def test_build_orders_by_count_then_letters_whatever_the_order_of_texts() -> None:
    texts = ["rain falls", "rain and wind", "wind falls", "rain"]
    vocabulary = WordVocabulary.build(texts)
    assert vocabulary(["rain falls wind and"]).tolist() == [[3, 4, 5, 6, END]]
    assert len(vocabulary) == 3 + 4
    assert vocabulary.to_json() == WordVocabulary.build(reversed(texts)).to_json()


def test_encode_pads_and_ends() -> None:
    vocabulary = WordVocabulary(["a", "dog", "barks"])
    tokens = vocabulary(["A dog barks.", "", "cat"])
    assert tokens.dtype == torch.int64
    assert tokens.tolist() == [[3, 4, 5, END], [END, PAD, PAD, PAD], [UNKNOWN, END, PAD, PAD]]


def test_long_captions_are_cut_but_keep_their_end() -> None:
    vocabulary = WordVocabulary(["a", "b"], max_tokens=3)
    assert vocabulary(["a b a b"]).tolist() == [[3, 4, END]]


def test_json_round_trip() -> None:
    vocabulary = WordVocabulary.build(["der Bär brüllt", "don't"], max_tokens=8)
    again = from_json(vocabulary.to_json())
    assert again.to_json() == vocabulary.to_json()
    assert again.max_tokens == 8
    assert torch.equal(again(["der Bär don't"]), vocabulary(["der Bär don't"]))


def test_errors_name_the_argument() -> None:
    vocabulary = WordVocabulary(["a"])
    with pytest.raises(TypeError, match="texts: got str"):
        vocabulary("a")
    with pytest.raises(TypeError, match="texts"):
        vocabulary([1])  # type: ignore[list-item]
    with pytest.raises(ValueError, match="empty list"):
        vocabulary([])
    with pytest.raises(ValueError, match="twice"):
        WordVocabulary(["a", "a"])
    with pytest.raises(ValueError, match="max_tokens"):
        WordVocabulary(["a"], max_tokens=1)
    with pytest.raises(ValueError, match="want one of words, gpt2, roberta"):
        from_json('{"kind": "morse"}')
    with pytest.raises(ValueError, match="the vocabulary holds no JSON object"):
        from_json("[]")
