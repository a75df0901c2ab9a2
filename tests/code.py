"""Runs the code that an explorer shows, as it stands."""

import ast

import torch

import llmviz as lv


def result_of_code(explorer):
    """The value of the last expression in `explorer.call`, with nothing defined but what a notebook
    of the course has: torch, lv, model, tokenizer."""
    names = {"torch": torch, "lv": lv, "model": explorer.model, "tokenizer": explorer.tokenizer}
    *lines, last = ast.parse(explorer.call).body
    exec(compile(ast.Module(lines, []), "<call>", "exec"), names)
    return eval(compile(ast.Expression(last.value), "<call>", "eval"), names)
