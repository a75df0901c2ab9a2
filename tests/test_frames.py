"""Tables hold numbers, print them short, and escape what tokens hold."""

import math
import re

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
