"""A new state and what was chosen come in one message, and their events in any order."""

import base64
import itertools

import pytest

import llmviz as lv
from llmviz.explorers.base import MODULE
from tests import tiny

MAKERS = {
    "Inside": ({}, {"text": "hello again"}, "layer 0, head 0: where token 10, n, looks"),
    "SamplerBench": ({"temperature": 0.5}, {"prompt": "good day", "continuation": ""}, "good day"),
    "ProcessorChain": ({"top_k": 3}, {"prompt": "good day", "continuation": ""}, "good day"),
    "BeamExplorer": (
        {"max_new_tokens": 3},
        {"prompt": "good day", "num_beams": 2, "max_new_tokens": 3},
        "good day",
    ),
}
# A model as anywidget hands it over, whose values all change before the first event.
SCRIPT = """async ([code, before, after, order]) => {
  const module = await import(`data:text/javascript;base64,${code}`);
  const heard = [], bytes = (text) =>
    new DataView(Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer);
  const values = ({ bytes: binary, ...plain }) => ({
    ...plain, ...Object.fromEntries(Object.entries(binary).map(([k, v]) => [k, bytes(v)])) });
  let now = values(before);
  const model = {
    get: (name) => now[name], set: (name, value) => { now = { ...now, [name]: value }; },
    save_changes() {}, send() {}, off() {},
    on: (event, listener) => heard.push([event, listener]),
  };
  document.body.replaceChildren();
  module.default.render({ model, el: document.body });
  now = { answer: {}, ...values(after) };
  for (const name of order)
    for (const [event, listener] of heard) if (event === `change:${name}`) listener();
  const fields = [...document.querySelectorAll("input")].map((input) => input.value);
  return document.querySelector(".llmviz").textContent + fields.join(" ");
}"""


def in_json(explorer):
    parts = explorer.parts()
    binary = {k: base64.b64encode(v).decode() for k, v in parts.items() if isinstance(v, bytes)}
    return {k: v for k, v in parts.items() if k not in binary} | {"bytes": binary}


@pytest.mark.parametrize("name", MAKERS)
def test_the_order_of_a_messages_events_does_not_matter(lab, name):
    arguments, asked, wanted = MAKERS[name]
    explorer = getattr(lv, name)(tiny.model("llama"), tiny.tokenizer(), "bye", **arguments)
    before = in_json(explorer)
    explorer._handle_custom_msg({"type": "read", **asked}, [])
    explorer.wait(60)
    after = in_json(explorer)
    page, errors = lab.page(), []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto("about:blank")
    code = base64.b64encode(MODULE.read_bytes()).decode()
    found = {
        page.evaluate(SCRIPT, [code, before, after, list(order)])
        for order in itertools.permutations(["state", "chosen", "answer"])
    }
    page.close()
    assert len(found) == 1 and not errors
    assert wanted in found.pop()
