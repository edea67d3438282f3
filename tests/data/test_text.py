"""Tables of texts: what the tokenizer's numbers are, and what is wrong in which line."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors

import pockengine as pe
from pockengine.data.text import INPUTS, read_table
from pockengine.errors import InputError, PackageMissingError

WORDS = ("[UNK]", "[CLS]", "[SEP]", "good", "bad", "film", "[PAD]")
UNK, CLS, SEP, GOOD, BAD, FILM, PAD = range(7)


def tokenizer(special: bool = True) -> Tokenizer:
    """Whole words; with `special`, [CLS] before and [SEP] behind them."""
    words = {word: i for i, word in enumerate(WORDS)}
    made = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if special:
        made.post_processor = processors.BertProcessing(("[SEP]", SEP), ("[CLS]", CLS))
    return made


def table(root: Path, content: str | bytes, name: str = "t.csv") -> Path:
    path = root / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


REVIEWS = "text,label\ngood film,pos\nbad film bad film bad,neg\nodd,pos\n"


def test_texts_are_padded_and_cut_off(tmp_path: Path) -> None:
    data = pe.TextTable(table(tmp_path, REVIEWS), tokenizer(), 5)
    x, y = data.batch([1, 0, 2])
    assert isinstance(x, dict)
    assert set(x) == {"input_ids", "attention_mask"}
    assert x["input_ids"].dtype == x["attention_mask"].dtype == np.int64
    assert x["input_ids"].tolist() == [
        [CLS, BAD, FILM, BAD, SEP],
        [CLS, GOOD, FILM, SEP, PAD],
        [CLS, UNK, SEP, PAD, PAD],
    ]
    assert x["attention_mask"].tolist() == [[1] * 5, [1, 1, 1, 1, 0], [1, 1, 1, 0, 0]]
    assert data.classes == ("neg", "pos")
    assert y is not None and y.tolist() == [0, 1, 1]


def test_a_model_may_take_token_types(tmp_path: Path) -> None:
    x = pe.TextTable(table(tmp_path, REVIEWS), tokenizer(), 5, inputs=INPUTS).batch([0]).x
    assert isinstance(x, dict)
    assert x["token_type_ids"].tolist() == [[0] * 5]


def test_csv_and_jsonl_mean_the_same(tmp_path: Path) -> None:
    rows = [("good, film", "pos"), ('bad "film"\nbad', "neg"), ("ἀγαθός", "pos")]
    lines = [json.dumps({"text": text, "label": label}) for text, label in rows]
    quoted = ['"{}",{}'.format(text.replace('"', '""'), label) for text, label in rows]
    one = table(tmp_path, "\n\n".join(lines), "t.jsonl")
    other = table(tmp_path, "\ufeff" + "\r\n".join(["text,label", *quoted, "", ""]))
    assert [(row.text, row.label) for row in read_table(one)] == rows
    assert [row[1:] for row in read_table(other)] == [row[1:] for row in read_table(one)]
    a, b = (pe.TextTable(path, tokenizer(), 6) for path in (one, other))
    assert a.fingerprint() == b.fingerprint()


def test_columns_of_other_names_and_numbers_as_labels(tmp_path: Path) -> None:
    lines = [{"review": "good", "stars": 10}, {"review": "bad", "stars": 9}]
    path = table(tmp_path, "\n".join(map(json.dumps, lines)), "t.jsonl")
    data = pe.TextTable(path, tokenizer(), 4, text="review", label="stars")
    assert data.classes == ("9", "10")
    assert data.labels is not None
    assert data.labels.tolist() == [1, 0]


def test_another_table_can_have_the_same_classes(tmp_path: Path) -> None:
    path = table(tmp_path, "text,label\ngood,pos\n")
    data = pe.TextTable(path, tokenizer(), 4, classes=["neg", "none", "pos"])
    assert data.labels is not None
    assert data.labels.tolist() == [2]


def test_the_tokenizer_may_be_a_file_and_is_left_as_it_is(tmp_path: Path) -> None:
    mine = tokenizer()
    mine.enable_padding(direction="left", pad_id=UNK, pad_token="[UNK]", length=9)
    mine.save(str(tmp_path / "tokenizer.json"))
    path = table(tmp_path, REVIEWS)
    one, other = (pe.TextTable(path, t, 5) for t in (mine, tmp_path / "tokenizer.json"))
    assert one.fingerprint() == other.fingerprint()
    assert one.batch([2]).x["input_ids"].tolist() == [[UNK, UNK, CLS, UNK, SEP]]  # type: ignore
    assert mine.padding is not None and mine.padding["length"] == 9
    assert mine.truncation is None


def test_names_of_samples_say_what_they_are_to_the_model(tmp_path: Path) -> None:
    rows = "text,label\ngood film,pos\ngood  film,neg\nbad film,neg\n"
    path = table(tmp_path, rows)
    same, spaced, other = pe.TextTable(path, tokenizer(), 5).ids([0, 1, 2])
    assert same == spaced != other
    assert pe.TextTable(path, tokenizer(), 6).ids([0]) != [same]
    longer = pe.TextTable(table(tmp_path, rows + "good,pos\n"), tokenizer(), 5)
    assert longer.ids([0]) == [same]


def test_the_fingerprint_follows_tokens_and_labels(tmp_path: Path) -> None:
    tables = [REVIEWS, REVIEWS.replace("good film,pos", "good film,neg"), REVIEWS + "good,pos\n"]
    found = {pe.TextTable(table(tmp_path, t), tokenizer(), 5).fingerprint() for t in tables}
    found.add(pe.TextTable(table(tmp_path, REVIEWS), tokenizer(), 6).fingerprint())
    found.add(pe.TextTable(table(tmp_path, REVIEWS), tokenizer(False), 5).fingerprint())
    assert len(found) == 5


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "t.csv, line 1: expected one column 'text', the columns are none"),
        ("text,label\n", "t.csv has no rows"),
        ("text,sentiment\na,b\n", "line 1: expected one column 'label', the columns are 'text', "),
        ("text,label,text\na,b,c\n", "line 1: expected one column 'text'"),
        ("text,label\na,b\nc\n", "line 3: expected 2 columns, got 1"),
        ("text,label\na,b\n\nwell, no,c\n", "line 4: expected 2 columns, got 3"),
        ('text,label\n"a\nb",c\nd\n', "line 4: expected 2 columns, got 1"),
        ('text,label\na,b\n"c"d,e\n', "line 3: no CSV: "),
        ('text,label\na,b\n"never closed', "line 3: no CSV: unexpected end of data"),
        (f"text,label\n{'a' * 200_000},b\n", "line 2: no CSV: field larger than field limit"),
        ("text,label\na,b\nc,\n", "line 3: a label is an integer or a class's name, got ''"),
        (b"text,label\na,b\n\xff,c\n", "line 3: not UTF-8 (invalid start byte)"),
        ("text,label\na,b\nc,b\n", "texts of one class only, 'b'; there is nothing to tell apart"),
    ],
)
def test_csv_that_is_wrong(tmp_path: Path, content: str | bytes, words: str) -> None:
    path = table(tmp_path, content)
    with pytest.raises(InputError) as error:
        pe.TextTable(path, tokenizer(), 5)
    assert words in str(error.value)
    assert str(path) in str(error.value)


GOOD_LINE = '{"text": "a", "label": 1}\n'


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{'text': 'a'}", "line 2: no JSON: Expecting property name"),
        ('{"text": "a", "lab', "line 2: no JSON: "),
        ("[" * 100_000, "line 2: no JSON: "),
        ('["a", 1]', "line 2: expected an object {...}, got list"),
        ('{"text": "a"}', "line 2: has no 'label', but 'text'"),
        ("{}", "line 2: has no 'text', but nothing"),
        ('{"text": null, "label": 1}', "line 2: the text must be a text, got NoneType"),
        ('{"text": ["a"], "label": 1}', "line 2: the text must be a text, got list"),
        ('{"text": "a", "label": 0.5}', "line 2: a label is an integer or a class's name, got fl"),
        ('{"text": "a", "label": true}', "a class's name, got bool"),
        ('{"text": "a", "label": null}', "a class's name, got NoneType"),
        ('{"text": "a", "label": ["b"]}', "a class's name, got list"),
        ('{"text": "\\ud83d", "label": 1}', "line 2: half a character: surrogates not allowed"),
    ],
)
def test_jsonl_that_is_wrong(tmp_path: Path, line: str, words: str) -> None:
    path = table(tmp_path, GOOD_LINE + line, "t.jsonl")
    with pytest.raises(InputError) as error:
        pe.TextTable(path, tokenizer(), 5)
    assert words in str(error.value)
    assert str(path) in str(error.value)


def test_a_label_that_is_none_of_the_classes(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"t.csv, line 3: class 'neg' is none of 'pos', 'none'"):
        pe.TextTable(table(tmp_path, REVIEWS), tokenizer(), 5, classes=["pos", "none"])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"length": 2}, "length must be over the 2 special tokens, got 2"),
        ({"length": -1}, "length must be over the 2 special tokens, got -1"),
        ({"inputs": ["ids"]}, "inputs are some of 'input_ids', 'attention_mask', 'token_type"),
        ({"inputs": []}, "got none"),
        ({"tokenizer": "nowhere.json"}, "nowhere.json cannot be read as a tokenizer: "),
        ({"tokenizer": "broken.json"}, "broken.json cannot be read as a tokenizer: "),
        ({"tokenizer": 5}, "5 cannot be read as a tokenizer: "),
        ({"path": "t.txt"}, "t.txt: a table of texts is a .csv or a .jsonl file"),
        ({"path": "missing.csv"}, "missing.csv cannot be read: No such file or directory"),
    ],
)
def test_settings_that_make_no_sense(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken.json").write_text('{"model": 1}')
    given = {"path": table(tmp_path, REVIEWS), "tokenizer": tokenizer(), "length": 5}
    with pytest.raises(InputError) as error:
        pe.TextTable(**(given | options))
    assert words in str(error.value)


def test_without_tokenizers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(PackageMissingError) as error:
        pe.TextTable(table(tmp_path, REVIEWS), "tokenizer.json", 5)
    assert str(error.value) == ("a table of texts needs tokenizers; pip install 'pockengine[data]'")
