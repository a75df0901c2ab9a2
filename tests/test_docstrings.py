"""Docstrings of public functions: numpydoc's form, and in agreement with the signature."""

import inspect
import re

import pytest

import llmviz as lv
from llmviz import decoding, head, processors, settings

PUBLIC = {name: getattr(lv, name) for name in lv.__all__} | {
    f"processors.{name}": getattr(processors, name)
    for name in (*settings.DEFAULTS, "stages", "process")
}
PUBLIC |= {f"head.{name}": getattr(head, name) for name in ("final_norm", "unembed")}
FUNCTIONS = {name: found for name, found in PUBLIC.items() if inspect.isfunction(found)}
ORDER = ["Parameters", "Returns", "Raises", "Notes"]


def sections(docstring: str) -> dict[str, str]:
    """The text of each section by its title; what comes before the first has the title ""."""
    parts = re.split(r"^(\w+)\n(-+)$\n", inspect.cleandoc(docstring), flags=re.MULTILINE)
    titles, lines, texts = parts[1::3], parts[2::3], parts[3::3]
    assert [len(line) for line in lines] == [len(title) for title in titles]
    return {"": parts[0], **dict(zip(titles, texts, strict=True))}


def entries(section: str) -> dict[str, tuple[str, str]]:
    """By name, what stands after the colon, and the text below."""
    found = re.findall(r"^(\S.*)\n((?:(?: {4}.*)?\n?)*)", section, flags=re.MULTILINE)
    return {
        head.partition(" : ")[0]: (head.partition(" : ")[2], text.strip()) for head, text in found
    }


def annotation(text: str) -> str:
    return re.sub(r"^Unpack\[(.*)\]$", r"\1", text)


def faults(function) -> list[str]:
    found = sections(function.__doc__)
    signature, wrong = inspect.signature(function), []
    titles = [title for title in found if title]
    if titles != [title for title in ORDER if title in titles]:
        wrong.append(f"sections {titles}")
    summary = found[""].partition("\n\n")[0]
    if not summary.endswith((".", "?")):
        wrong.append("the summary is no sentence")
    star = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}
    wanted = {
        star.get(p.kind, "") + p.name: annotation(p.annotation)
        for p in signature.parameters.values()
    }
    told = entries(found.get("Parameters", ""))
    if list(told) != list(wanted):
        wrong.append(f"parameters {list(told)}, and the signature has {list(wanted)}")
    for name, (kind, text) in told.items():
        if kind != wanted.get(name):
            wrong.append(f"{name} : {kind}, and the signature says {wanted.get(name)}")
        if not text.endswith((".", ")")):
            wrong.append(f"{name} is not explained in sentences")
    returns = entries(found.get("Returns", ""))
    if list(returns) != [r for r in [signature.return_annotation] if r != "None"]:
        wrong.append(f"returns {list(returns)}, and the signature {signature.return_annotation}")
    if "Raises" in found:
        kinds = {kind for line in entries(found["Raises"]) for kind in line.split(", ")}
        if not kinds <= {"TypeError", "ValueError", "OSError", "KeyboardInterrupt", "ImportError"}:
            wrong.append(f"raises {kinds}")
    return wrong


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_docstring_agrees_with_the_signature(name):
    assert not faults(FUNCTIONS[name])


def test_the_check_finds_what_it_looks_for():
    def good(text: "str", *, most: "int" = 3) -> "str":
        """A sentence.

        Parameters
        ----------
        text : str
            Any text.
        most : int
            So many characters.

        Returns
        -------
        str
            The start of it.
        """

    assert not faults(good)
    for old, new in {
        "most : int": "least : int",
        "text : str": "text : bytes",
        "        most : int\n            So many characters.\n": "",
        "Any text.": "",
        "        str\n            The": "        int\n            The",
        "Parameters\n        ----------": "Args\n        ----",
        "A sentence.": "A sentence",
    }.items():
        assert old in good.__doc__
        bad = type(good)(good.__code__, good.__globals__)
        bad.__annotations__, bad.__kwdefaults__ = good.__annotations__, good.__kwdefaults__
        bad.__doc__ = good.__doc__.replace(old, new)
        assert faults(bad), (old, new)


def test_the_settings_are_the_same_everywhere():
    """Of the processors: their bounds, what editors know of them, and `generate`'s arguments."""
    names = set(settings.DEFAULTS)
    assert set(settings.Settings.__annotations__) == names
    assert names <= set(inspect.signature(decoding.generate).parameters)
    own = {"chat": settings.SettingsOfChat, "contrastive_search": settings.SettingsOfContrast}
    for name, kind in own.items():
        rest = set(inspect.signature(getattr(lv, name)).parameters) & names
        assert set(kind.__annotations__) == names - rest
