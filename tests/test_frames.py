"""Tables hold numbers, print them short, and escape what tokens hold."""

import copy
import math
import re

import numpy as np
import pandas as pd
import pytest
import torch

import llmviz as lv
from llmviz.tables import Table
from tests import tiny


def test_logits_to_frame_ranks_over_the_whole_vocabulary():
    logits = torch.arange(259.0).flip(0) / 10
    frame = lv.logits_to_frame(logits, tiny.tokenizer(), top_k=3)
    assert frame.token_id.tolist() == [0, 1, 2]
    assert frame["rank"].tolist() == [1, 2, 3]
    assert frame.probability.tolist() == pytest.approx(logits.softmax(-1)[:3].tolist(), rel=1e-5)
    assert frame.log_prob.map(math.exp).tolist() == pytest.approx(frame.probability.tolist())


@pytest.mark.parametrize(
    ("logits", "top_k", "named"),
    [
        (torch.zeros(1, 259), 5, "shape"),
        (torch.zeros(259), 0, "top_k=0"),
        (torch.zeros(259), 260, "top_k=260"),
        (torch.zeros(259), 2.0, "top_k"),
        (torch.full((259,), math.nan), 5, "logits"),
        (torch.full((259,), -math.inf), 5, "logits"),
        (torch.tensor([1.0, math.inf]), 1, "logits"),
    ],
)
def test_logits_to_frame_refuses(logits, top_k, named):
    with pytest.raises(ValueError, match=named):
        lv.logits_to_frame(logits, tiny.tokenizer(), top_k=top_k)


def test_predict_next_tokens_is_the_loop_that_encodes_again_each_step(default_model):
    model, tokenizer = default_model
    frame = lv.predict_next_tokens(model, tokenizer, "hello,how are you", num_steps=10, top_k=5)
    assert list(frame.columns[:4]) == ["step", "current sentence", "Top1_Token", "Top1_Prob"]
    assert list(frame.columns[-2:]) == ["Top5_Token", "Top5_Prob"]
    assert frame.step.tolist() == list(range(1, 11))
    ids = tokenizer("hello,how are you", return_tensors="pt").input_ids
    for _, row in frame.iterrows():
        assert row["current sentence"] == tokenizer.decode(ids[0])
        probabilities = model(ids).logits[0, -1].softmax(-1)
        top = probabilities.topk(5)
        for k in range(5):
            label = lv.token_labels(tokenizer, [top.indices[k]])[0]
            assert row[f"Top{k + 1}_Token"] == label
            assert row[f"Top{k + 1}_Prob"] == pytest.approx(top.values[k].item(), abs=1e-4)
        ids = torch.cat([ids, top.indices[None, :1]], dim=-1)
    assert "36.3%" in str(frame)
    assert frame.Top1_Prob[0] == pytest.approx(0.363, abs=1e-3)


@pytest.mark.parametrize(
    ("bad", "error", "named"),
    [
        ({"sentence": ""}, ValueError, "sentence"),
        ({"sentence": ["a"]}, TypeError, "sentence"),
        ({"num_steps": 0}, ValueError, "num_steps=0"),
        ({"num_steps": "3"}, ValueError, "num_steps"),
        ({"num_steps": 1000}, ValueError, "context"),
        ({"top_k": 0}, ValueError, "top_k=0"),
        ({"top_k": 260}, ValueError, "259"),
    ],
)
def test_predict_next_tokens_refuses(bad, error, named):
    with pytest.raises(error, match=named):
        lv.predict_next_tokens(
            tiny.model("llama"), tiny.tokenizer(), **({"sentence": "hello"} | bad)
        )


def test_a_table_is_a_data_frame_and_prints_short():
    table = Table({"token": ["␣a"], "probability": [0.123456], "log_prob": [-2.09187], "n": [3]})
    assert isinstance(table, pd.DataFrame)
    assert isinstance(table[["token"]], Table)
    assert "12.3%" in repr(table) and "-2.092" in repr(table)
    assert "12.3%" in table._repr_html_()
    assert table.probability[0] == 0.123456


def test_an_index_of_names_is_shown_and_a_numbering_is_not():
    table = Table({"n": [1.0, 2.0]})
    assert (
        "median" in repr(table.agg(["median", "max"]))
        and "median" in table.agg(["median", "max"])._repr_html_()
    )
    assert "5" not in repr(table.set_index(pd.Index([5, 6])))
    assert Table()._repr_html_() == "an empty table"


def test_what_is_missing_stays_blank():
    table = Table({"n": pd.array([1, None], dtype="Int64"), "log_prob": [0.5, None]})
    for text in (repr(table), table._repr_html_()):
        assert not re.search("nan|NA", text)
        assert "0.500" in text and "1" in text


def test_a_long_table_is_printed_in_part():
    html = Table({"n": range(100)})._repr_html_()
    assert html.count("<tr>") == 62 and "100 rows" in html
    assert ">29<" in html and ">30<" not in html and ">99<" in html


def test_hostile_tokens_are_escaped():
    html = Table({"<b>": ["</script><img src=x onerror=alert(1)>", "$_$"]})._repr_html_()
    assert "<img" not in html and "<b>" not in html
    assert "mathjax_ignore" in html


def test_the_command_line_prints_the_table(default_model, capsys, monkeypatch):
    from llmviz.__main__ import main

    monkeypatch.setattr("sys.argv", ["llmviz", "hello,how are you", "--num-steps", "2"])
    main()
    assert "␣doing" in capsys.readouterr().out
    monkeypatch.setattr("sys.argv", ["llmviz", "hello", "--top-k", "0"])
    with pytest.raises(SystemExit):
        main()
    assert "top_k=0" in capsys.readouterr().err


HOSTILE = "a\x1b[31m\x00\x07\u202eb\r\nc\td\u2028\ud83d"


def test_control_characters_reach_no_terminal_and_no_page():
    index = pd.Index([HOSTILE, "k"], name=HOSTILE)
    for table in (
        Table({HOSTILE: [HOSTILE, "b"], "x": [1.0, 2.0]}, index=index),
        Table(
            {"listed": [[HOSTILE], (HOSTILE,)], "token": pd.Series([HOSTILE, "x"], dtype=object)}
        ),
        Table({HOSTILE: []}),
    ):
        for text in (repr(table), table._repr_html_()):
            assert all(c == "\n" or c.isprintable() for c in text)
            text.encode()
        assert len(repr(table).splitlines()) == (1 + len(table) if len(table) else 3)
        assert "\n" not in table._repr_html_()
    assert "⟨U+001B⟩" in repr(Table({"x": [HOSTILE]})) and "↵" in repr(Table({"x": ["a\nb"]}))


def test_the_command_lines_table_shows_no_control_character():
    frame = lv.predict_next_tokens(tiny.model("llama"), tiny.tokenizer(), "a\x1b[31m\nb", 2)
    assert frame["current sentence"][0] == "a\x1b[31m\nb"
    assert "a⟨U+001B⟩[31m↵b" in str(frame) and "\x1b" not in frame._repr_html_()


def test_numbers_that_are_none_are_shown_as_such():
    table = Table({"x": [math.nan, math.inf, -math.inf], "probability": [math.nan, math.inf, 0.5]})
    lines = [line.split() for line in repr(table).splitlines()[1:]]
    assert lines == [["NaN", "NaN"], ["inf", "inf"], ["-inf", "50.0%"]]
    assert ">NaN<" in table._repr_html_()


def test_nan_and_what_is_missing_are_different_things():
    for table in (
        Table({"x": [math.nan, None, 1.5]}),
        Table([{"x": math.nan}, {"y": 1}, {"x": 1.5}])[["x"]],
        Table({"x": x} for x in (math.nan, None, 1.5)),
    ):
        assert [line.strip() for line in repr(table).splitlines()] == ["x", "NaN", "", "1.500"]
        assert table.x.isna().tolist() == [False, True, False]
        assert [line.strip() for line in repr(table[table.x.notna()]).splitlines()][1] == "NaN"


def test_nothing_is_shown_as_minus_nothing():
    table = Table({"x": [-0.0, -0.0004, -0.0005001], "probability": [-0.0, 0.0, -0.0001]})
    assert "-0.000" not in repr(table) and "-0.0%" not in repr(table)
    assert "-0.001" in repr(table)


def test_names_may_be_anything_even_the_same():
    twice = Table([[1, 2.0]], columns=["a", "a"])
    assert repr(twice).split() == ["a", "a", "1", "2.000"]
    assert twice._repr_html_().count("<th") == 3
    index = Table({"a": ["x"]}, index=pd.Index(["<i>"], name="a"))
    assert repr(index).split() == ["a", "a", "<i>", "x"] and "<i>" not in index._repr_html_()
    assert "('a', 'b')" in repr(Table({("a", "b"): [1]}))


@pytest.mark.parametrize("rows", [60, 61, 62, 200])
def test_a_long_table_looks_as_if_all_of_it_were_written(rows):
    table = Table({"n": range(rows), "x": [i / 7 for i in range(rows)]})
    whole = pd.DataFrame({"n": table.n.map(str), "x": table.x.map("{:.3f}".format)})
    assert repr(table) == whole.to_string(index=False, max_rows=60)
    assert table._repr_html_().count("<tr>") == (61 if rows == 60 else 62)


def test_a_long_table_writes_only_what_it_shows():
    class Counted:
        written = 0

        def __str__(self):
            Counted.written += 1
            return "x"

    table = Table({"x": pd.Series([Counted() for _ in range(5000)], dtype=object)})
    repr(table), table._repr_html_()
    assert Counted.written <= 2 * 61


@pytest.mark.parametrize(
    ("bad", "named"),
    [
        ({"logits": None}, "logits"),
        ({"logits": "abc"}, "logits"),
        ({"logits": torch.zeros(0)}, "logits"),
        ({"logits": torch.zeros(259, dtype=torch.bool)}, "logits"),
        ({"logits": torch.zeros(259, dtype=torch.complex64)}, "logits"),
        ({"logits": torch.zeros(())}, "logits"),
        ({"tokenizer": None}, "tokenizer"),
        ({"tokenizer": "gpt2"}, "tokenizer"),
        ({"top_k": True}, "top_k"),
        ({"top_k": "5"}, "top_k"),
        ({"top_k": math.nan}, "top_k"),
        ({"top_k": None}, "top_k"),
    ],
)
def test_logits_to_frame_refuses_by_name(bad, named):
    arguments = {"logits": torch.zeros(259), "tokenizer": tiny.tokenizer(), "top_k": 5} | bad
    with pytest.raises((TypeError, ValueError), match=named):
        lv.logits_to_frame(**arguments)


def test_logits_to_frame_takes_what_holds_numbers():
    logits = [float(i) for i in range(259)]
    wanted = lv.logits_to_frame(torch.tensor(logits), tiny.tokenizer(), top_k=3)
    for same in (logits, np.array(logits), torch.tensor(logits, dtype=torch.bfloat16).double()):
        frame = lv.logits_to_frame(same, tiny.tokenizer(), top_k=np.int64(3))
        assert frame.token_id[0] == wanted.token_id[0] == 258
    ruled_out = torch.full((259,), -math.inf)
    ruled_out[7] = 0
    assert lv.logits_to_frame(ruled_out, tiny.tokenizer(), top_k=2).probability.tolist() == [1, 0]


def test_logits_beyond_the_tokenizers_vocabulary_are_shown_by_number():
    logits = torch.zeros(300)
    logits[299] = 5.0
    assert lv.logits_to_frame(logits, tiny.tokenizer(), top_k=300).token[0] == "⟨299⟩"


def test_equal_scores_share_a_rank_and_come_by_id():
    frame = lv.logits_to_frame(torch.tensor([1.0, 2.0, 2.0, 1.0, 1.0]), tiny.tokenizer(), top_k=4)
    assert frame["rank"].tolist() == [1, 1, 3, 3]
    assert frame.token_id.tolist() == [1, 2, 0, 3]


@pytest.mark.parametrize(
    ("bad", "named"),
    [
        ({"sentence": None}, "sentence"),
        ({"sentence": b"hello"}, "sentence"),
        ({"sentence": "\ud83d"}, "sentence"),
        ({"num_steps": True}, "num_steps"),
        ({"num_steps": math.inf}, "num_steps"),
        ({"num_steps": None}, "num_steps"),
        ({"num_steps": 1000}, "num_steps=1000"),
        ({"sentence": "x" * 500}, "sentence"),
        ({"top_k": None}, "top_k"),
        ({"top_k": [5]}, "top_k"),
        ({"tokenizer": None}, "tokenizer"),
        ({"model": None}, "model"),
        ({"add_special_tokens": "no"}, "add_special_tokens"),
    ],
)
def test_predict_next_tokens_refuses_by_name_before_any_pass(bad, named):
    model = tiny.model("llama")
    hook = model.register_forward_pre_hook(lambda *_: pytest.fail("the model ran"))
    arguments = {"model": model, "tokenizer": tiny.tokenizer(), "sentence": "hello"} | bad
    try:
        with pytest.raises((TypeError, ValueError), match=named):
            lv.predict_next_tokens(**arguments)
    finally:
        hook.remove()


def test_predict_next_tokens_refuses_ids_beyond_the_embedding():
    tokenizer = copy.deepcopy(tiny.tokenizer())
    tokenizer.add_tokens(["<extra>"])
    with pytest.raises(ValueError, match="sentence holds the token <extra>"):
        lv.predict_next_tokens(tiny.model("llama"), tokenizer, "hello <extra>")


def test_predict_next_tokens_takes_numpy_numbers_and_a_templates_text():
    from tokenizers.processors import TemplateProcessing

    tokenizer = copy.deepcopy(tiny.tokenizer())
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", tiny.BOS)]
    )
    arguments = {"num_steps": np.int64(2), "top_k": torch.tensor(3)}
    predict = lv.predict_next_tokens
    model = tiny.model("llama")
    frame = predict(model, tokenizer, "<bos>hi", **arguments, add_special_tokens=False)
    assert frame["current sentence"][0] == "<bos>hi" and len(frame) == 2
    assert predict(model, tokenizer, "hi", **arguments)["current sentence"][0] == "<bos>hi"
    # An empty sentence has a token where the tokenizer puts one in front.
    assert predict(model, tokenizer, "", **arguments)["current sentence"][0] == "<bos>"
