// The explorers: one module, shown through anywidget in a notebook, or on a page without a kernel.
//
//   1 · the processors       4 · SamplerBench     6 · Inside
//   2 · building the page    5 · ProcessorChain   7 · BeamExplorer
//   3 · where it is shown
//
// All text is set as text (`textContent`, never HTML), so no token can be read as anything else.

// ---- 1 · The processors, as llmviz.processors has them ------------------------------------------
//
// A row of scores is kept in order, the highest first. No temperature changes that order, and what
// every cut-off leaves is a stretch of it, `from` to `to`. So a row is sorted once, penalties move
// a handful of tokens, and each cut-off only moves an end. Sums are float64, values float32, as in
// torch on a CPU.

const f32 = Math.fround;

/** Logits in order: `ids` by descending score, and among equals by descending id, which is the
 *  reverse of the order in which torch sorts upwards. */
function sortedRow(logits) {
  const ids = new Uint32Array(logits.length);
  for (let i = 0; i < ids.length; i++) ids[i] = i;
  ids.sort((a, b) => logits[b] - logits[a] || b - a);
  return new Row(ids, Float32Array.from(ids, (i) => logits[i]), (id) => logits[id]);
}

/** Token ids in the order of their scores, the scores in that order, and the score of each id. */
class Row {
  constructor(ids, scores, score) { Object.assign(this, { ids, scores, score }); }
  /** Where a token stands, from 0. */
  find(id) { return this.place(id, this.score(id)); }
  /** Where a token would stand with this score. */
  place(id, score) {
    const { ids, scores } = this;
    let low = 0, high = ids.length;
    while (low < high) {
      const middle = (low + high) >> 1, at = scores[middle];
      if (at > score || (at === score && ids[middle] > id)) low = middle + 1; else high = middle;
    }
    return low;
  }
  /** How many scores are higher than a token's, plus 1. */
  rank(id) {
    const score = this.score(id);
    return 1 + prefix(this.scores, (x) => x > score);
  }
}

/** The same row with the scores of a few tokens changed: `changed` is a Map from id to score. */
function withChanges(row, changed) {
  if (!changed.size) return row;
  const before = row.score, n = row.ids.length, ids = new Uint32Array(n), scores = new Float32Array(n);
  const moved = [...changed].sort(([i, a], [j, b]) => b - a || j - i);
  const gone = [...changed.keys()].map((id) => row.find(id)).sort((a, b) => a - b);
  let at = 0, from = 0, next = 0;
  const copy = (to) => {
    if (to <= from) return;
    ids.set(row.ids.subarray(from, to), at);
    scores.set(row.scores.subarray(from, to), at);
    at += to - from;
    from = to;
  };
  const copyUpTo = (to) => { // without what has moved
    for (; next < gone.length && gone[next] < to; from = gone[next++] + 1) copy(gone[next]);
    copy(to);
  };
  for (const [id, score] of moved) {
    copyUpTo(row.place(id, score));
    ids[at] = id;
    scores[at++] = score;
  }
  copyUpTo(n);
  return new Row(ids, scores, (id) => changed.get(id) ?? before(id));
}

/** The row, the stretch of it that is still possible, and the probabilities on that stretch. */
class Stage {
  constructor(name, row, from = 0, to = possible(row)) {
    Object.assign(this, { name, row, from, to });
  }
  /** What the softmax divides by, relative to the highest score. */
  get sum() {
    if (this._sum === undefined) {
      const { scores } = this.row, { from, to } = this, top = scores[from];
      this._sum = 0;
      for (let r = from; r < to; r++) this._sum += Math.exp(scores[r] - top);
    }
    return this._sum;
  }
  /** softmax over the stretch: float32 in the row's order, indexed from `from`. */
  get p() {
    if (!this._p) {
      const { scores } = this.row, { from, to, sum } = this, p = new Float32Array(to - from);
      for (let r = from; r < to; r++) p[r - from] = Math.exp(scores[r] - scores[from]) / sum;
      this._p = p;
    }
    return this._p;
  }
  /** In nats. */
  get entropy() {
    if (this._entropy === undefined) {
      const { scores } = this.row, { from, p } = this, log = Math.log(this.sum);
      let mean = 0;
      for (let i = 0; i < p.length; i++) mean -= p[i] * (scores[from + i] - scores[from] - log);
      this._entropy = mean;
    }
    return this._entropy;
  }
  /** A token's probability: 0 where it was ruled out. */
  probability(id) {
    const { scores, score } = this.row;
    return this.keeps(id) ? f32(Math.exp(score(id) - scores[this.from]) / this.sum) : 0;
  }
  keeps(id) {
    const at = this.row.find(id);
    return at >= this.from && at < this.to;
  }
  get left() { return this.to - this.from; }
  cut(name, from, to) { return new Stage(name, this.row, from, to); }
}

/** How many scores of a row are above −∞: they stand in front. */
function possible(row) {
  let low = 0, high = row.scores.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (row.scores[middle] > -Infinity) low = middle + 1; else high = middle;
  }
  return low;
}

// Each cut-off: from a stage to the ends of what stays. The most likely token always does, but for
// typical, which keeps the most typical one.
const cutOffs = {
  top_h(stage, share) {
    // Of the 100 highest alone, those in front whose −p log p add up to that share of the entropy.
    const { scores } = stage.row, { from } = stage, most = Math.min(100, stage.left), parts = [];
    let sum = 0, entropy = 0, goes = 0;
    for (let i = 0; i < most; i++) sum += Math.exp(scores[from + i] - scores[from]);
    for (let i = 0; i < most; i++) {
      const p = f32(Math.exp(scores[from + i] - scores[from]) / sum);
      parts[i] = p ? -p * Math.log(p) : NaN;
      entropy += parts[i] || 0;
    }
    const bound = f32(f32(entropy) * f32(share));
    for (let so_far = 0; goes < most; goes++) if (!(f32(so_far += parts[goes]) <= bound)) break;
    return [from, from + Math.max(goes, 1)];
  },
  top_k(stage, k) {
    const { scores } = stage.row, { from, to } = stage;
    if (k >= to - from) return [from, to];
    let end = from + k;
    while (end < to && scores[end] === scores[from + k - 1]) end++; // ties stay
    return [from, end];
  },
  top_p(stage, limit) {
    const { from, p } = stage, goes = f32(1 - limit);
    let end = p.length, sum = 0;
    while (end > 1 && f32(sum + p[end - 1]) <= goes) sum += p[--end];
    return [from, from + end];
  },
  min_p(stage, share) {
    const { from, p } = stage, least = f32(f32(share) * p[0]);
    return [from, from + Math.max(prefix(p, (x) => x >= least), 1)];
  },
  typical_p(stage, limit) {
    const { from, p, entropy, row } = stage, { scores } = row;
    const log = scores[from] - Math.log(p[0]);
    const away = (i) => Math.abs(f32(f32(log - scores[from + i]) - f32(entropy)));
    // Two pointers around the point where surprisal meets entropy; surprisal only grows.
    let right = prefix(p, (_, i) => log - scores[from + i] < entropy), left = right - 1;
    let sum = 0, last = 0;
    while (left >= 0 || right < p.length) {
      const goLeft = right >= p.length || (left >= 0 && away(left) <= away(right));
      const i = goLeft ? left-- : right++;
      sum += p[i];
      last = away(i);
      if (f32(sum) >= f32(limit)) break;
    }
    if (f32(sum) < f32(limit)) return [from, stage.to];
    while (left >= 0 && away(left) <= last) left--; // what is as close stays
    while (right < p.length && away(right) <= last) right++;
    return [from + left + 1, from + right];
  },
  epsilon_cutoff(stage, epsilon) {
    const least = f32(epsilon);
    return [stage.from, stage.from + orTop(stage, prefix(stage.p, (x) => x >= least))];
  },
  eta_cutoff(stage, epsilon) {
    const e = f32(epsilon);
    const eta = Math.min(e, f32(f32(Math.sqrt(e)) * f32(Math.exp(-stage.entropy))));
    return [stage.from, stage.from + orTop(stage, prefix(stage.p, (x) => x >= eta))];
  },
};

/** How many of the first values fit, where those that do all stand in front. */
function prefix(values, fits) {
  let low = 0, high = values.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (fits(values[middle], middle)) low = middle + 1; else high = middle;
  }
  return low;
}

/** At least the most likely token, and whatever ties with it. */
function orTop(stage, count) {
  const { scores } = stage.row, { from, to } = stage;
  let ties = 1;
  while (from + ties < to && scores[from + ties] === scores[from]) ties++;
  return Math.max(count, ties);
}

/** All settings, in the order in which they work: transformers' order. */
const ORDER = [
  "guidance_scale", "sequence_bias", "repetition_penalty", "presence_penalty", "frequency_penalty", "no_repeat_ngram_size",
  "bad_words_ids", "min_new_tokens", "prefix_allowed_tokens_fn", "forced_eos_token_id", "exponential_decay_length_penalty",
  "suppress_tokens", "begin_suppress_tokens", "logits_processor", "temperature", "top_h", "top_k", "top_p", "min_p",
  "typical_p", "epsilon_cutoff", "eta_cutoff",
];

// What gives some tokens another score: from the setting and the text to a Map of the scores that
// change. `text` has ids, generated, eos_token_ids and max_new_tokens; `score` gives an id's.
const changes = {
  sequence_bias(biases, { ids }) {
    const total = new Map(), lengths = new Set(biases.map(([sequence]) => sequence.length).filter((n) => n > 1));
    for (const n of [1, ...lengths]) // added up in this order, as in torch
      for (const [sequence, bias] of biases)
        if (sequence.length === n && endsIn(ids, sequence.slice(0, -1)))
          total.set(sequence.at(-1), f32((total.get(sequence.at(-1)) ?? 0) + f32(bias ?? -Infinity)));
    return (score) => mapped(total.keys(), (id) => f32(score(id) + total.get(id)));
  },
  repetition_penalty(penalty, { ids }) {
    const by = f32(penalty);
    return (score) => mapped(new Set(ids), (id) => f32(score(id) < 0 ? score(id) * by : score(id) / by));
  },
  presence_penalty(penalty, { generated }) {
    const by = f32(penalty);
    return (score) => mapped(new Set(generated), (id) => f32(score(id) - by));
  },
  frequency_penalty(penalty, { generated }) {
    const by = f32(penalty), counts = new Map();
    for (const id of generated) counts.set(id, (counts.get(id) ?? 0) + 1);
    return (score) => mapped(counts.keys(), (id) => f32(score(id) - f32(by * counts.get(id))));
  },
  no_repeat_ngram_size(n, { ids }) {
    const last = n > 1 ? ids.slice(1 - n) : [], banned = [];
    for (let end = n - 1; end < ids.length; end++)
      if (ids.length >= n && last.every((id, j) => ids[end + 1 - n + j] === id)) banned.push(ids[end]);
    return never(banned);
  },
  bad_words_ids(words, { ids, eos_token_ids: eos }) {
    const counted = words.filter((word) => word.length > 1 || !eos.includes(word[0]));
    return never(counted.filter((word) => endsIn(ids, word.slice(0, -1))).map((word) => word.at(-1)));
  },
  min_new_tokens: (least, { generated, eos_token_ids: eos }) => never(generated.length < least ? eos : []),
  exponential_decay_length_penalty([start, factor], { generated, eos_token_ids: eos }) {
    const past = generated.length - start, growth = f32(factor ** past - 1);
    const raised = (x) => (Number.isFinite(x) ? f32(x + f32(Math.abs(x) * growth)) : x);
    return (score) => mapped(past > 0 ? eos : [], (id) => raised(score(id)));
  },
  suppress_tokens: (ids) => never(ids),
  begin_suppress_tokens: (ids, { generated }) => never(generated.length ? [] : ids),
};

const mapped = (ids, to) => new Map([...ids].map((id) => [id, to(id)]));
const never = (ids) => () => mapped(ids, () => -Infinity);
const endsIn = (ids, end) => end.every((id, j) => ids[ids.length - end.length + j] === id);

/** All is ruled out but these, which are equal. */
function forced(row, ids) {
  const scores = new Float32Array(row.scores.length).fill(-Infinity);
  for (const id of ids) scores[id] = 0;
  return sortedRow(scores);
}

/** The stages of a row's scores, the first the logits, then one for each setting.
 *
 * row: a sortedRow. text: has input_ids, prompt_length, eos_token_ids and max_new_tokens.
 * settings: those that are on. computed: of each processor that only Python can run, the row that
 * it made of the settings `before` it. */
function process(row, text, settings, computed = {}) {
  const ids = text.input_ids, generated = ids.slice(text.prompt_length), size = row.ids.length;
  const eos_token_ids = text.eos_token_ids.filter((id) => id < size);
  const on = ORDER.filter((name) => name in settings), stages = [(row.stage ??= new Stage("logits", row))];
  on.forEach((name, i) => {
    const value = settings[name], stage = stages.at(-1);
    const next = (made) => stages.push(new Stage(name, made));
    if (name in cutOffs) stages.push(stage.cut(name, ...(stage.left ? cutOffs[name](stage, value) : [0, 0])));
    else if (name in changes) next(withChanges(stage.row, changes[name](value, { ids, generated, eos_token_ids })(stage.row.score)));
    else if (name === "temperature") next(cooled(stage.row, f32(value)));
    else if (name === "forced_eos_token_id")
      next(generated.length === text.max_new_tokens - 1 ? forced(stage.row, [value].flat()) : stage.row);
    else {
      next(computed[name]?.row ?? stage.row);
      const before = on.slice(0, i).map((earlier) => [earlier, settings[earlier]]);
      stages.at(-1).stale = JSON.stringify(before) !== JSON.stringify(computed[name]?.before);
    }
  });
  return stages;
}

/** Divided by a temperature: the order stays, but scores that are now equal go by their ids. */
function cooled({ ids, scores, score }, by) {
  scores = scores.map((x) => x / by);
  for (let r = 1, sorted = ids; r < scores.length; r++) {
    if (scores[r] !== scores[r - 1] || ids[r] < ids[r - 1]) continue;
    if (ids === sorted) ids = ids.slice();
    let from = r - 1, to = r + 1;
    while (from > 0 && scores[from - 1] === scores[r]) from--;
    while (to < scores.length && scores[to] === scores[r]) to++;
    ids.subarray(from, to).sort().reverse();
    r = to;
  }
  return new Row(ids, scores, (id) => f32(score(id) / by));
}

// ---- 2 · Building the page: text is set as text, so no token can be read as HTML ------------------

/** An element with properties and children; a string child becomes a text node. */
function h(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name === "class") element.className = value;
    else if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name.includes("-") || name === "for" || name === "role") element.setAttribute(name, value);
    else element[name] = value;
  }
  element.append(...children);
  return element;
}

/** Set text, and touch the page only where it differs. */
function write(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

const count = (n) => n.toLocaleString("en-US");
const percent = (p) => (p > 0 && p < 0.001 ? "<0.1%" : `${(100 * p).toFixed(1)}%`);

/** A setting as Python writes it: 1.0 stays a float. */
const python = (value, whole) =>
  whole || !Number.isInteger(value) ? String(value).replace(/e([+-])(\d)$/, "e$10$2") : `${value}.0`;

let made = 0; // so that labels and fields find each other, however many explorers a page holds

/** A slider with a name, a number beside it that can be typed, and what it does as a hint.
 *
 * places: the values that it may have, in their order, where they are no equal steps. */
class Slider {
  constructor({ name, min, max, step, value, off, does, whole = false, places }, changed) {
    Object.assign(this, { name, off, whole, places });
    const id = `llmviz-${++made}`;
    const hint = off === undefined ? does : `${does}; ${off} is off`;
    this.range = h("input", {
      type: "range", id, min: places ? 0 : min, max: places ? places.length - 1 : max, step: places ? 1 : step, title: hint,
      oninput: () => { this.value = this.places?.[this.range.value] ?? Number(this.range.value); changed(false); },
      onchange: () => changed(true),
    });
    this.number = h("input", {
      type: "number", min: places?.[0] ?? min, max: places?.at(-1) ?? max, step: places ? "any" : step, title: hint, "aria-label": `${name}, as a number`,
      onchange: () => {
        const { min: low, max: high } = this.number, typed = this.number.valueAsNumber;
        const value = Number.isFinite(typed) ? Math.min(Math.max(typed, low), high) : this.value;
        this.value = whole ? Math.round(value) : value;
        changed(true);
      },
    });
    this.element = h("div", { class: "slider" },
      h("label", { for: id }, name), this.range, this.number);
    this.value = value ?? off;
  }
  /** A new upper bound, and the value with it. */
  bound(max, value) {
    this.range.max = this.number.max = max;
    this.value = value;
  }
  /** What a screen reader says of the value. */
  says(text) { this.range.setAttribute("aria-valuetext", text); }
  get value() { return this._value; }
  set value(value) {
    const near = this.places?.reduce((best, place, i) => (Math.abs(place - value) < Math.abs(this.places[best] - value) ? i : best), 0);
    this._value = value = this.places?.[near] ?? value;
    this.range.value = near ?? value;
    this.number.value = value;
    this.says(String(value));
    this.element.classList.toggle("off", value === this.off);
  }
}

/** A line of text that takes effect with Enter, or when it is left: its element, and its value. */
function textField(name, hint, changed, type = "text") {
  const id = `llmviz-${++made}`;
  const field = h("input", { type, id, placeholder: hint, autocomplete: "off", spellcheck: false, onchange: changed });
  return {
    element: h("div", { class: "field" }, h("label", { for: id }, name), field),
    get value() { return field.value; },
    set value(text) { field.value = text; },
  };
}

/** A table of cells that are made once and written again: `fill(cells, row)` writes a row's. */
function grid(element, head, rows, template, fill) {
  element.setAttribute("role", "table");
  element.style.gridTemplateColumns = template;
  const wide = head.length;
  if (element.dataset.wide !== String(wide)) { element.replaceChildren(); element.dataset.wide = wide; }
  while (element.children.length > rows.length + 1) element.lastChild.remove();
  while (element.children.length < rows.length + 1) {
    const first = !element.children.length;
    const line = h("div", { role: "row" });
    line.style.display = "contents";
    for (let i = 0; i < wide; i++)
      line.append(h("span", { role: first ? "columnheader" : "cell", class: `${first ? "head " : ""}${i > 2 ? "n" : ""}` },
                    ...(first ? [head[i]] : [])));
    element.append(line);
  }
  rows.forEach((row, i) => fill([...element.children[i + 1].children], row));
}

/** A region that scrolls by itself where it is too narrow, with the keyboard too. */
function scrolling(name, ...children) {
  return h("div", { class: "scroll", tabIndex: 0, role: "region", "aria-label": name }, ...children);
}

/** Bars of shares from 0 to 1, one above the other. */
function drawBars(cell, bars) {
  if (!cell.firstChild) cell.append(h("div", { class: "bars", "aria-hidden": "true" }));
  const box = cell.firstChild;
  while (box.children.length < bars.length) box.append(h("i"));
  bars.forEach(([name, share], i) => {
    box.children[i].className = name;
    box.children[i].style.transform = `scaleX(${Math.min(Math.max(share, 0), 1)})`;
  });
}

const STYLE = `
.llmviz { --paper: #ffffff; --ink: #1f2328; --muted: #59636e; --faint: #c9d1d9; --line: #e4e8ec;
  --before: #aab4be; --after: #0072b2; --chosen: #c46a00; --good: #00795a; --bad: #b3400a;
  --mark: #fde9c8; --best: #e69f00; color-scheme: light; background: var(--paper); color: var(--ink);
  font: 13px/1.45 system-ui, sans-serif; padding: 12px 16px; border: 1px solid var(--line);
  border-radius: 8px; max-width: 900px; box-sizing: border-box; container-type: inline-size; }
.llmviz.dark { --paper: #14181d; --ink: #e6eaee; --muted: #9aa5b1; --faint: #4b5561; --line: #2c333b;
  --before: #66717d; --after: #56b4e9; --chosen: #f0a830; --good: #35c193; --bad: #f0814a;
  --mark: #4a3a12; --best: #f0a830; color-scheme: dark; }
.llmviz *, .llmviz *::before { box-sizing: border-box; }
.llmviz label { color: var(--muted); font-size: 12px; }
.llmviz .columns { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 340px), 1fr));
  gap: 0 28px; margin: 6px 0; }
.llmviz .slider { display: grid; grid-template-columns: 148px minmax(60px, 1fr) 74px; gap: 8px;
  align-items: center; min-height: 28px; }
.llmviz .slider.off label { opacity: .8; } .llmviz .slider:not(.off) label { color: var(--ink); font-weight: 600; }
.llmviz input[type=range] { width: 100%; margin: 0; accent-color: var(--after); height: 24px; }
.llmviz input[type=number], .llmviz input[type=text] { font: inherit; color: inherit;
  background: transparent; border: 1px solid var(--faint); border-radius: 4px; padding: 2px 6px; width: 100%;
  min-width: 0; }
.llmviz .bar input { width: 9em; }
.llmviz h4 { font: inherit; font-size: 12px; color: var(--muted); margin: 12px 0 4px; }
.llmviz canvas { max-width: 100%; height: auto; image-rendering: pixelated; display: block; cursor: pointer; }
.llmviz .strip { display: flex; flex-wrap: wrap; gap: 2px; }
.llmviz .look { display: grid; justify-items: center; border: 1px solid transparent; border-radius: 3px; padding: 1px 3px; }
.llmviz .look small { font-size: 10px; } .llmviz .look.later { color: var(--muted); opacity: .7; }
.llmviz .look.query { border-color: var(--chosen); outline: 1px solid var(--chosen); }
.llmviz .words { text-align: left; } .llmviz .verdict { font-size: 14px; font-weight: 600; margin: 6px 0; }
.llmviz .chain [role=columnheader]:last-child { text-align: left; }
.llmviz .field { display: grid; grid-template-columns: 148px 1fr; gap: 8px; align-items: center; margin: 4px 0; }
.llmviz button { font: inherit; color: var(--ink); background: transparent; border: 1px solid var(--faint);
  border-radius: 4px; padding: 3px 12px; cursor: pointer; min-height: 26px; }
.llmviz button:hover { border-color: var(--after); }
.llmviz :is(input, select, button, summary, [tabindex]):focus-visible { outline: 2px solid var(--after); outline-offset: 2px; }
.llmviz .bar { display: flex; flex-wrap: wrap; gap: 8px; align-items: center; margin: 6px 0; }
.llmviz .text { white-space: pre-wrap; overflow-wrap: anywhere; color: var(--muted); margin: 4px 0; }
.llmviz .text .new { border-bottom: 2px solid var(--chosen); color: var(--ink); }
.llmviz .figures { display: flex; flex-wrap: wrap; gap: 2px 24px; margin: 8px 0 4px; color: var(--muted); }
.llmviz .figures b { color: var(--ink); font-variant-numeric: tabular-nums; }
.llmviz .rows { display: grid; gap: 1px 10px; align-items: center; font-variant-numeric: tabular-nums; }
.llmviz .scroll { overflow-x: auto; } .llmviz .chain { min-width: 720px; } .llmviz .counted { min-width: 520px; }
.llmviz .rows .head { color: var(--muted); font-size: 12px; }
.llmviz .rows .n { text-align: right; white-space: nowrap; }
.llmviz .token { font-family: ui-monospace, monospace; white-space: pre; overflow: hidden; text-overflow: ellipsis; }
.llmviz .cut { text-decoration: line-through; color: var(--muted); }
.llmviz .picked { font-weight: 700; }
.llmviz .bars { display: grid; gap: 2px; min-width: 60px; }
.llmviz .bars i { display: block; height: 7px; width: 100%; transform-origin: left; background: var(--after); }
.llmviz .bars i.before { background: var(--before); } .llmviz .bars i.chosen { background: var(--chosen); }
.llmviz .bars i.left { background: var(--faint); }
.llmviz .legend, .llmviz .note { color: var(--muted); font-size: 12px; margin-top: 4px; }
.llmviz .note { white-space: pre-line; }
.llmviz .legend i.before { background: var(--before); } .llmviz .legend i.after { background: var(--after); }
.llmviz .legend i.chosen { background: var(--chosen); }
.llmviz .legend i { display: inline-block; width: 14px; height: 8px; margin: 0 4px 0 12px; }
.llmviz pre { font: 12px/1.4 ui-monospace, monospace; white-space: pre-wrap; color: var(--muted);
  background: transparent; margin: 8px 0 0; overflow-wrap: anywhere; }
.llmviz .legend:has(> .swatch) { display: block; }
.llmviz .message { border-left: 4px solid var(--after); padding-left: 10px; margin: 6px 0; }
.llmviz .message:empty { display: none; } .llmviz .message.alert { border-color: var(--bad); }
.llmviz .scroll { overflow-x: auto; margin: 4px 0; } .llmviz svg { display: block; }
.llmviz .legend { display: flex; flex-wrap: wrap; gap: 2px 16px; } .llmviz .legend svg { display: inline; vertical-align: -2px; }
.llmviz svg path { fill: none; stroke: var(--faint); } .llmviz svg path.alive { stroke: var(--after); stroke-width: 1.3; }
.llmviz svg path.best { stroke: var(--best); stroke-width: 3; }
.llmviz svg .node { fill: var(--paper); stroke: var(--muted); } .llmviz svg .node.running { fill: var(--after); }
.llmviz svg .node.finished { fill: var(--good); } .llmviz svg .node.best { stroke: var(--best); stroke-width: 2; }
.llmviz svg text { font-size: 12px; fill: var(--ink); } .llmviz svg text.quiet { fill: var(--muted); } .llmviz svg text.small { font-size: 10px; }
.llmviz svg .label { font-family: ui-monospace, monospace; white-space: pre; }
.llmviz svg .label:is(.pruned, .discarded) { fill: var(--muted); text-decoration: line-through; }
.llmviz .candidates, .llmviz .candidates + .rows { margin-top: 10px; } .llmviz .candidates [role=columnheader]:last-child { text-align: left; }
@container (max-width: 520px) { .llmviz .candidates { grid-template-columns: 1.5em 1fr max-content max-content max-content !important; }
  .llmviz .candidates [role=cell]:last-child { grid-column: 2 / -1; margin-bottom: 6px; }
  .llmviz .candidates [role=columnheader]:last-child { display: none; } .llmviz canvas { image-rendering: auto; } }
.llmviz .rows .head.n { white-space: normal; } .llmviz .hypothesis { white-space: pre-wrap; overflow-wrap: anywhere; } .llmviz .rows .words.quiet { font-size: 12px; }
.llmviz .quiet { color: var(--muted); } .llmviz .rows .words { text-align: left; white-space: normal; }
.llmviz select { font: inherit; color: inherit; background: var(--paper); border: 1px solid var(--faint); border-radius: 4px; padding: 2px 6px;
  justify-self: start; min-height: 26px; }
@container (max-width: 560px) {
  .llmviz .slider { grid-template-columns: 1fr 74px; gap: 0 8px; margin-bottom: 4px; }
  .llmviz .slider label { grid-column: 1 / -1; }
  .llmviz .field { grid-template-columns: 1fr; gap: 2px; }
}
@media (pointer: coarse) { .llmviz :is(input, button, select) { min-height: 40px; } }
@media print { .llmviz .columns, .llmviz .bar, .llmviz .field { display: none; } }
`;

const styled = new WeakSet();

/** A root for an explorer, styled, in the theme of the page around it, and deaf to its shortcuts. */
function frame(el) {
  const root = h("div", { class: "llmviz llmviz-explorer tex2jax_ignore mathjax_ignore", "data-lm-suppress-shortcuts": "true" });
  root.addEventListener("keydown", (event) => event.stopPropagation());
  const page = el.getRootNode();
  const home = page.adoptedStyleSheets ? page : document;
  if (!styled.has(home)) {
    const sheet = new CSSStyleSheet();
    sheet.replaceSync(STYLE);
    home.adoptedStyleSheets = [...home.adoptedStyleSheets, sheet];
    styled.add(home);
  }
  const system = matchMedia("(prefers-color-scheme: dark)");
  const follow = () => root.classList.toggle("dark", isDark(system));
  const watch = new MutationObserver(follow);
  for (const node of [document.documentElement, document.body])
    watch.observe(node, { attributes: true, attributeFilter: ["class", "data-theme", "data-jp-theme-light"] });
  system.addEventListener("change", follow);
  follow();
  el.append(root);
  return [root, () => { watch.disconnect(); system.removeEventListener("change", follow); root.remove(); }];
}

/** JupyterLab, VS Code and Sphinx say which theme they wear; elsewhere the system's counts. */
function isDark(system) {
  const { body, documentElement: top } = document;
  if (body.dataset.jpThemeLight) return body.dataset.jpThemeLight === "false";
  if (body.dataset.vscodeThemeKind) return body.dataset.vscodeThemeKind.includes("dark");
  if (["light", "dark"].includes(top.dataset.theme)) return top.dataset.theme === "dark";
  return system.matches;
}

// ---- 3 · Where it is shown: through anywidget with a kernel, or on a page without ---------------

/** What an explorer sees of its surroundings. */
class Host {
  constructor(model) {
    this.model = model;
    this.live = Boolean(model.send);
    this.heard = [];
    this.decode();
    this.on("change:state", () => this.decode());
  }
  decode() {
    const numbers = (name, kind) => {
      const view = this.model.get(name); // a DataView, which need not begin where a number may
      return view?.byteLength ? new kind(view.buffer.slice(view.byteOffset, view.byteOffset + view.byteLength)) : null;
    };
    this.state = this.model.get("state");
    this.logits = numbers("logits", Float32Array);
    this.weights = numbers("weights", Uint16Array);
    this.computed = numbers("computed", Float32Array);
  }
  /** Whether the state is the one that the listeners have taken over. */
  get current() { return this.model.get("state") === this.state; }
  get labels() { return this.model.get("labels") ?? []; }
  get chosen() { return this.model.get("chosen") ?? {}; }
  get answer() { return this.model.get("answer") ?? {}; }
  /** `listener` hears an event of the model's: "change:state", "change:chosen", "change:answer", "msg:custom". */
  on(event, listener) {
    if (!this.live) return;
    this.model.on(event, listener);
    this.heard.push([event, listener]);
  }
  send(message) { if (this.live) this.model.send(message); }
  /** Tell Python what the reader has moved. */
  tell(chosen) {
    if (!this.live) return;
    this.model.set("chosen", chosen);
    this.model.save_changes();
  }
  close() { for (const [event, listener] of this.heard) this.model.off(event, listener); }
}

/** What all explorers share: a line of messages, a text that is read, and what the reader has moved.
 *
 * A subclass builds its page in its constructor, and has
 *   chosen        what the reader has moved, as Python's trait `chosen` holds it
 *   put(chosen)   moves its inputs there
 *   taken()       takes over a new state, host.state
 *   answered()    takes over host.answer
 *   settle()      puts its text fields back to what is shown
 *   update()      draws
 */
class Explorer {
  constructor(root, host) {
    Object.assign(this, { root, host });
    this.message = h("span", { role: "status" });
    this.stop = h("button", { type: "button", hidden: true, onclick: () => {
      this.settle();
      host.send({ type: "stop" });
    } }, "Stop");
    this.line = h("div", { class: "message" }, this.message, this.stop);
    root.append(this.line);
    host.on("msg:custom", ({ type, text, alert, busy }) => {
      if (type !== "message") return;
      this.say(text, alert, busy); // a text that was refused stays in its field, to be mended
    });
    host.on("change:state", () => {
      this.taken();
      this.put(host.chosen);
      this.answered();
      this.update();
    });
    // Of one message's changes these may come first: what belongs to a new state waits for it.
    host.on("change:answer", () => {
      if (!host.current) return;
      this.answered();
      this.update();
    });
    host.on("change:chosen", () => {
      if (!host.current || JSON.stringify(host.chosen) === JSON.stringify(this.chosen)) return;
      this.put(host.chosen);
      this.update();
    });
  }
  put() {}
  taken() {}
  answered() {}
  settle() {}
  say(text, alert = false, busy = false) {
    this.message.setAttribute("role", alert ? "alert" : "status");
    this.line.classList.toggle("alert", alert);
    this.stop.hidden = !busy;
    write(this.message, alert ? `Not possible: ${text}` : text);
  }
  /** Ask Python for something; what it answers comes as a message, or in a trait. */
  ask(type, content = {}) {
    this.say("");
    this.host.send({ type, chosen: this.chosen, ...content });
  }
  /** An input was moved: `done` when it was let go of. */
  changed(done) {
    if (this.line.classList.contains("alert")) {
      this.say("");
      this.settle();
    }
    this.update();
    if (done) this.host.tell(this.chosen);
  }
}

// ---- 4 · The position that a text has reached, and the sliders for its scores -------------------

/** What SamplerBench and ProcessorChain share: the text, the sliders, and the stages of the scores. */
class PositionExplorer extends Explorer {
  constructor(root, host) {
    super(root, host);
    const { state } = host;
    this.text = h("div", { class: "text" });
    this.sliders = Object.fromEntries(state.columns.flat().map((slider) =>
      [slider.name, new Slider(slider, (done) => this.changed(done))]));
    const columns = state.columns.map((column) =>
      h("div", {}, ...column.map(({ name }) => this.sliders[name].element)));
    columns.at(-1).append(h("button", { type: "button", onclick: () => this.reset() }, "All off"));
    if (host.live) {
      const ask = () => this.ask("read", { prompt: this.prompt.value, continuation: this.continuation.value });
      this.prompt = textField("prompt", "What the model reads; Enter takes it over", ask);
      this.continuation = textField("continuation", "Text after the prompt that counts as generated", ask);
      root.append(this.prompt.element, this.continuation.element);
      this.settle();
    }
    root.append(this.text, h("div", { class: "columns" }, ...columns));
    this.taken();
  }
  taken() {
    const { state, logits } = this.host;
    this.row = sortedRow(logits);
    this.rows = computedRows(this.host);
    this.place = new Uint32Array(logits.length); // of each id in that order
    this.row.ids.forEach((id, r) => { this.place[id] = r; });
    this.base = new Stage("logits", this.row);
    this.settle();
    const end = (text) => (text.length > 300 ? `…${text.slice(-300)}` : text);
    this.text.replaceChildren(h("span", {}, end(state.prompt)), h("span", { class: "new" }, end(state.continuation)), " …");
  }
  settle() {
    if (!this.prompt) return;
    this.prompt.value = this.host.state.prompt;
    this.continuation.value = this.host.state.continuation;
  }
  put({ settings }) {
    for (const [name, slider] of Object.entries(this.sliders)) slider.value = settings[name] ?? slider.off;
  }
  /** The settings of the sliders that are on, in the order in which they work. */
  get moved() {
    return Object.fromEntries(ORDER.filter((name) => name in this.sliders)
      .map((name) => [name, this.sliders[name]]).filter(([, { value, off }]) => value !== off)
      .map(([name, { value }]) => [name, value]));
  }
  /** All settings that are on, in the order in which they work. */
  get settings() {
    const all = { ...this.host.state.fixed, ...this.moved };
    return Object.fromEntries(ORDER.filter((name) => name in all).map((name) => [name, all[name]]));
  }
  reset() {
    for (const slider of Object.values(this.sliders)) slider.value = slider.off;
    this.changed(true);
  }
  /** The stages of the scores; null, and a word about it, where no token is left. */
  process() {
    const stages = process(this.row, this.host.state, this.settings, this.rows);
    const waits = stages.find((stage) => stage.stale), none = !stages.at(-1).left;
    if (waits && !this.host.live)
      this.note(`${waits.name} runs in Python: on this page it stays as it was computed there, with the settings at first`);
    else if (waits) this.note(`${waits.name} runs in Python, when the slider is let go of`);
    else if (none) this.note("These settings leave no token at all");
    else this.note("");
    return none ? null : stages;
  }
  note(text) {
    if (this.noted === text) return;
    this.noted = text;
    this.say(text);
  }
  label(id) { return this.host.labels[id] ?? `⟨${id}⟩`; }
}

/** What Python computed of the processors that run there: of each, a row after it. */
function computedRows({ state, computed }) {
  const size = state.size, found = {};
  (state.computed?.names ?? []).forEach((name, i) => {
    found[name] = { row: sortedRow(computed.subarray(i * size, (i + 1) * size)), before: state.computed.before[i] };
  });
  return found;
}

const FEW = 15; // the most likely tokens before the processors, …
const RISEN = 5; // … and at most so many that the processors lifted to the front
const MANY = 1000;
const OURS = ["presence_penalty", "frequency_penalty"]; // transformers does not have them

class SamplerBench extends PositionExplorer {
  constructor(root, host) {
    super(root, host);
    const id = `llmviz-${++made}`;
    this.seed = h("input", { type: "number", id, min: 0, max: Number.MAX_SAFE_INTEGER, step: 1, onchange: () => this.changed(true) });
    const button = (text, title, onclick) => h("button", { type: "button", title, onclick }, text);
    this.figures = h("div", { class: "figures" });
    this.table = h("div", { class: "rows" });
    this.notes = h("div", { class: "note", role: "status" });
    this.call = h("pre", { tabIndex: 0, role: "region", "aria-label": "the same call" });
    this.scale = h("span");
    const swatch = (name) => h("i", { class: `swatch ${name}` });
    root.append(
      h("div", { class: "bar" }, h("label", { for: id }, "seed"), this.seed,
        button("Draw", "Draw a token; each click draws another one", () => this.draw(1)),
        button(`Draw ${count(MANY)}`, `Draw ${count(MANY)} times, and count`, () => this.draw(MANY))),
      this.figures, scrolling("the tokens", this.table),
      h("div", { class: "legend" }, this.scale, swatch("before"), "before", swatch("after"),
        "after the processors", swatch("chosen"), "▸ drawn · ", h("s", {}, "struck out"), ": cut"),
      this.notes, this.call);
    this.put(host.chosen);
    this.answered();
    this.update();
  }
  get chosen() { return { settings: this.moved, seed: this.drawing }; }
  /** The seed of the draws: a whole number, whatever was typed. */
  get drawing() {
    const typed = this.seed.valueAsNumber;
    return Number.isSafeInteger(typed) && typed >= 0 ? typed : 0;
  }
  put(chosen) {
    super.put(chosen);
    this.seed.value = chosen.seed;
    this.forget();
  }
  forget() { this.draws = []; this.counts = null; this.random = null; }
  taken() { super.taken(); this.forget(); }
  answered() {
    this.draws = this.host.answer.draws ?? [];
    this.counts = this.host.answer.counts ? new Map(this.host.answer.counts) : null;
  }
  changed(done) { this.forget(); super.changed(done); }

  draw(times) {
    if (this.host.live) return this.ask("draw", { times });
    // Without a kernel torch's generator is not to be had: the browser draws, with one of its own.
    const random = times > 1 ? generator(this.drawing) : (this.random ??= generator(this.drawing));
    if (times > 1) {
      this.counts = Object.assign(new Map(), { own: true });
      for (let i = 0; i < times; i++) {
        const id = this.one(random);
        this.counts.set(id, (this.counts.get(id) ?? 0) + 1);
      }
    } else {
      if (!this.draws.own) this.draws = Object.assign([], { own: true });
      this.draws.push(this.one(random));
    }
    return this.update();
  }
  one(random) {
    const { row, from, p } = this.last;
    let left = random();
    for (let i = 0; i < p.length; i++) if ((left -= p[i]) < 0) return row.ids[from + i];
    return row.ids[from];
  }
  /** The tokens to show, in the order of their scores before the processors. */
  shown() {
    const first = [...this.row.ids.subarray(0, FEW)], known = new Set(first), risen = [];
    const { from, to, row } = this.last;
    for (let r = from; r < Math.min(from + FEW, to) && risen.length < RISEN; r++)
      if (!known.has(row.ids[r])) risen.push(row.ids[r]);
    const drawn = this.draws.at(-1);
    if (drawn !== undefined && !known.has(drawn) && !risen.includes(drawn)) risen.push(drawn);
    return [...first, ...risen.sort((a, b) => this.place[a] - this.place[b])];
  }

  update() {
    const stages = this.process();
    if (!stages) return;
    const last = (this.last = stages.at(-1)), { base, place } = this;
    const size = this.row.ids.length, drawn = this.draws.at(-1);
    let mass = 0;
    for (let r = last.from; r < last.to; r++) mass += base.p[place[last.row.ids[r]]];
    const rows = this.shown().map((id) => ({
      name: this.label(id), before: base.probability(id), after: last.probability(id),
      cut: !last.keeps(id), chosen: id === drawn, drawn: this.counts?.get(id) ?? 0,
    }));
    const sum = (key) => rows.reduce((total, row) => total + row[key], 0);
    const others = size - rows.length, kept = last.left - rows.filter((row) => !row.cut).length;
    rows.push({
      name: `all ${count(others)} others, ${count(kept)} kept`, others: true,
      before: Math.max(1 - sum("before"), 0), after: kept ? Math.max(1 - sum("after"), 0) : 0,
      cut: !kept, drawn: MANY - sum("drawn"),
    });
    this.show([
      ["kept", `${count(last.left)} of ${count(size)} tokens`],
      ["mass", `${(100 * mass).toFixed(1)}%`],
      ["entropy", `${bits(base)} → ${bits(last)} bits`],
    ], rows);
    this.explain(rows);
    write(this.call, this.callText());
  }
  show(figures, rows) {
    if (!this.figures.children.length)
      this.figures.append(...figures.map(([name]) => h("span", {}, `${name} `, h("b"))));
    figures.forEach(([, value], i) => write(this.figures.children[i].lastChild, value));
    const counted = this.counts !== null;
    const head = ["", "token", "", "before", "after", ...(counted ? [`expected of ${count(MANY)}`, "drawn"] : [])];
    const highest = Math.max(...rows.map((row) => Math.max(row.before, row.after)));
    const scale = [0.05, 0.1, 0.2, 0.5].find((s) => highest <= s) ?? 1;
    write(this.scale, `the longest bar is ${Math.round(100 * scale)}%`);
    this.table.classList.toggle("counted", counted);
    grid(this.table, head, rows, counted
      ? "1em minmax(60px, max-content) minmax(60px, 1fr) 4em 4em 8em 4em"
      : "1em minmax(60px, max-content) minmax(60px, 1fr) 4em 4em", (cells, row) => {
      const [mark, name, bars, before, after, expected, drawn] = cells;
      write(mark, row.chosen ? "▸" : "");
      write(name, row.name);
      name.className = `${row.others ? "" : "token"} ${row.cut && !row.others ? "cut" : ""} ${row.chosen ? "picked" : ""}`;
      drawBars(bars, [["before", row.before / scale], [row.chosen ? "chosen" : "after", row.after / scale]]);
      write(before, percent(row.before));
      write(after, row.cut ? "cut" : percent(row.after));
      if (!counted) return;
      write(expected, row.cut ? "0" : `${(MANY * row.after).toFixed(1)} ± ${sigma(row).toFixed(1)}`);
      write(drawn, String(row.drawn));
    });
  }

  explain(rows) {
    const notes = [], { settings, host: { state } } = this, who = this.draws.own || this.counts?.own ? ", by the browser's own generator" : "";
    const idle = OURS.filter((name) => name in settings);
    if (idle.length && !state.continuation)
      notes.push(`${idle.join(" and ")} look${idle.length === 1 ? "s" : ""} at generated tokens only, `
        + "and there are none yet: type a continuation.");
    if (this.draws.length) {
      const labels = this.draws.slice(-12).map((id) => this.label(id));
      const more = this.draws.length > 12 ? `${this.draws.length - 12} more, ` : "";
      notes.push(`drawn with seed ${this.drawing}${who}: ${more}${labels.slice(0, -1).map((l) => `${l} `).join("")}▸ ${labels.at(-1)}`);
    }
    if (this.counts) {
      const alive = rows.filter((row) => !row.cut);
      const near = alive.filter((row) => Math.abs(row.drawn - MANY * row.after) <= (2 * sigma(row) || 0.5)).length;
      notes.push(`${count(MANY)} draws with seed ${this.drawing}${who}: ${near} of ${alive.length} counts `
        + "lie within 2 standard deviations of what is expected");
    }
    write(this.notes, notes.join("\n"));
  }

  /** The call that samples with these settings, as Python's `sampling_call` writes it. */
  callText() {
    const { settings, host: { state: { call, prompt_length } } } = this;
    const number = (name) => python(settings[name], this.sliders[name].whole);
    const text = (name) => (name in this.sliders ? number(name) : call.fixed[name]);
    const joined = (pairs) => pairs.filter(([, value]) => value !== undefined).map(([name, value]) => `${name}=${value}`).join(", ");
    const on = Object.keys(settings).map((name) => [name, text(name)]);
    const ours = OURS.filter((name) => name in settings), told = new Map(on);
    if (!ours.length && call.theirs) {
      const off = Object.entries(call.off).filter(([name]) => name !== "top_k" && !told.has(name));
      const all = [["top_k", told.get("top_k") ?? "0"], ...off, ...on.filter(([name]) => name !== "top_k")];
      return `torch.manual_seed(${this.drawing})\n${call.inputs}\n`
        + `model.generate(**inputs, max_new_tokens=${call.most}, do_sample=True,\n               ${joined(all)})`;
    }
    let before = "", last = on;
    const names = `${ours.join(" and ")} ${ours.length === 1 ? "is" : "are"} not in transformers, and count${ours.length === 1 ? "s" : ""}`;
    if (ours.length) before = `# ${names} the tokens that\n# are generated: the first one meets none.\n`;
    if (ours.length && call.generated) {
      const scores = ours.reduce((inner, name) =>
        `lv.processors.${name}(${inner}, ${number(name)}, input_ids[:, ${prompt_length}:])`, "scores");
      before = `# ${names} what follows the prompt.\ndef penalties(input_ids, scores):\n    return ${scores}\n\n\n`;
      const own = `[${["penalties", ...call.own].join(", ")}]`;
      last = on.filter(([name]) => !ours.includes(name)).map(([name, value]) => [name, name === "logits_processor" ? own : value]);
      if (!told.has("logits_processor")) last.push(["logits_processor", own]);
    }
    const all = [["do_sample", "True"], ["seed", this.drawing], ...Object.entries(call.more), ...last];
    return `${before}lv.generate(model, tokenizer, ${call.text},\n            ${joined(all)})`;
  }
}

const bits = (stage) => Math.max(stage.entropy / Math.LN2, 0).toFixed(2);
const sigma = ({ after: p }) => Math.sqrt(MANY * p * (1 - p));

/** Numbers from 0 to below 1, the same ones for the same seed (mulberry32). */
function generator(seed) {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}

// ---- 5 · One token through all processors -------------------------------------------------------

class ProcessorChain extends PositionExplorer {
  constructor(root, host) {
    super(root, host);
    this.choice = new Slider({ name: "token", min: 1, max: Math.min(30, this.row.ids.length), step: 1, whole: true,
      does: "The most likely tokens under the model, by rank" }, (done) => {
      this.token = this.row.ids[this.choice.value - 1];
      this.changed(done);
    });
    this.typed = textField("or type one", "such as ␣dog", () => this.type());
    this.verdict = h("p", { class: "verdict", role: "status" });
    this.table = h("div", { class: "rows chain" });
    root.append(h("div", { class: "columns" }, this.choice.element, this.typed.element), this.verdict,
      scrolling("the processors, one after the other", this.table));
    this.put(host.chosen);
    this.update();
  }
  get chosen() { return { settings: this.moved, token: this.token }; }
  put(chosen) { super.put(chosen); this.token = chosen.token; }
  settle() { super.settle(); if (this.typed) this.typed.value = ""; }
  type() {
    const text = visible(this.typed.value);
    if (!text) return;
    const id = this.host.labels.indexOf(text);
    if (id < 0 && this.host.live) return this.ask("type", { text: this.typed.value }); // Python says why not
    if (id < 0) return this.say(`${text} is not one token: mind a leading space, shown as ␣`, true);
    this.typed.value = "";
    this.token = id;
    return this.changed(true);
  }

  update() {
    const stages = this.process();
    if (!stages) return;
    const { token: id, settings, host: { state } } = this, size = this.row.ids.length, place = this.place[id] + 1;
    this.choice.value = Math.min(place, this.choice.range.max);
    this.choice.says(`${place}. ${this.label(id)} ${percent(this.base.probability(id))}`);
    const times = state.input_ids.filter((other) => other === id).length;
    const generated = state.input_ids.slice(state.prompt_length).filter((other) => other === id).length;
    const written = (name) => (name in this.sliders ? python(settings[name], this.sliders[name].whole) : state.written[name]);
    const rows = stages.map((stage, i) => ({
      name: i ? `${stage.name}=${written(stage.name)}` : "logits",
      score: stage.keeps(id) ? stage.row.score(id) : -Infinity,
      probability: stage.probability(id), rank: stage.keeps(id) ? stage.row.rank(id) : null, left: stage.left,
      words: i ? reason(stage.name, settings[stage.name], stages[i - 1], stage, id, times, generated) : "what the model says",
    }));
    const fell = rows.find((row) => row.rank === null), name = `“${this.label(id)}”`;
    write(this.verdict, fell ? `▸ ${name} falls out at ${fell.name}: ${fell.words}.`
      : `▸ ${name} stays: ${percent(rows[0].probability)} becomes ${percent(rows.at(-1).probability)}.`);
    const scale = Math.max(...rows.map((row) => row.probability)) || 1;
    grid(this.table, ["", "score", "probability", "", "rank", "tokens left", "log scale", "what it did"], rows,
      "max-content 4em 5em minmax(40px, 1fr) 4em 5.5em 5em minmax(120px, 2.4fr)", (cells, row) => {
        const out = row.rank === null;
        write(cells[0], row.name);
        write(cells[1], out ? "−∞" : row.score.toFixed(2));
        write(cells[2], out ? "out" : percent(row.probability));
        drawBars(cells[3], [["after", row.probability / scale]]);
        write(cells[4], out ? "–" : count(row.rank));
        write(cells[5], count(row.left));
        drawBars(cells[6], [["left", Math.log(row.left) / Math.log(size)]]);
        write(cells[7], row === fell ? `✗ out: ${row.words}` : row.words);
        cells[7].className = row === fell ? "words picked" : "words";
      });
  }
}

/** White space as labels show it. */
const visible = (text) => text.replace(/[ \n\t\r]/g, (c) => ({ " ": "␣", "\n": "↵", "\t": "⇥", "\r": "␍" })[c]);

/** What a processor did to a token, in words; as llmviz's `reason`. */
function reason(name, value, before, after, id, times, generated) {
  if (!before.keeps(id)) return "out already";
  const cut = !after.keeps(id), p = before.probability(id), was = before.row.score(id);
  const share = (x, digits = 1) => `${(100 * x).toFixed(digits)}%`;
  switch (name) {
    case "repetition_penalty": return times ? `in the text: ${was.toFixed(2)} ${was < 0 ? "×" : "÷"} ${value}` : "not in the text";
    case "presence_penalty": return generated ? `generated: − ${value}` : "not generated so far";
    case "frequency_penalty": return generated ? `generated ${generated}×: − ${generated} · ${value}` : "not generated so far";
    case "no_repeat_ngram_size": return `${cut ? "would" : "does not"} repeat ${value} tokens of the text`;
    case "temperature": return `${was.toFixed(2)} ÷ ${value}`;
    case "top_k": return `rank ${count(before.row.rank(id))} is ${cut ? "beyond" : "within"} ${value}`;
    case "top_p": {
      let sum = 0;
      for (let i = 0; before.row.scores[before.from + i] > was; i++) sum += before.p[i];
      return `likelier tokens hold ${share(sum)} ${cut ? "≥" : "<"} ${+(100 * value).toPrecision(12)}%`;
    }
    case "min_p": return `${share(p, 2)} ${cut ? "<" : "≥"} ${value} · ${share(before.p[0], 2)}, of the likeliest`;
    case "typical_p": return `surprisal ${(-Math.log2(p)).toFixed(2)}, entropy ${bits(before)} bits: `
      + `${cut ? "not " : ""}among the closest that hold ${+(100 * value).toPrecision(12)}%`;
    case "epsilon_cutoff": return `${share(p, 3)} ${cut ? "<" : "≥"} ${+(100 * value).toPrecision(12)}%`;
    case "eta_cutoff": return `${share(p, 3)} ${cut ? "<" : "≥"} ${share(Math.min(value, Math.sqrt(value) * Math.exp(-before.entropy)), 3)}`;
    default: return cut ? `ruled out by ${name}` : `score ${was.toFixed(2)} → ${after.row.score(id).toFixed(2)}`;
  }
}

// ---- 6 · Inside: attention maps, one token's look back, and the lens --------------------------------

const SHADES = 20; // as many as in the figures, so that the same weights are the same picture
const STEEPEST = 65535; // the square root of a weight of 1, as it travels

class Inside extends Explorer {
  constructor(root, host) {
    super(root, host);
    const slider = (name, does) =>
      new Slider({ name, min: 0, max: 0, step: 1, value: 0, whole: true, does }, (done) => this.changed(done));
    this.sliders = { layer: slider("layer", "From the first to the last"), head: slider("head", "Of the chosen layer"),
                     token: slider("token", "The one that looks back") };
    this.field = textField("text", "What the model reads; Enter takes it over",
                           () => this.ask("read", { text: this.field.value }));
    if (host.live) root.append(this.field.element);
    this.titles = Array.from({ length: 4 }, () => h("h4"));
    this.maps = picture((at) => this.headAt(at), ({ layer, head }) => `layer ${layer}, head ${head}`, (at) => this.move(at));
    this.map = picture(({ x, y }) => ({ token: this.within("token", y), looked: this.within("token", x) }),
      ({ token, looked }) => `${this.name(token)} looks at ${this.name(looked)}: ${this.share(token, looked)}`,
      ({ token }) => this.move({ token }));
    this.strip = h("div", { class: "strip" });
    this.lens = h("div", { class: "rows lens" });
    const [maps, strip, map, lens] = this.titles;
    root.append(h("div", { class: "columns" }, ...Object.values(this.sliders).map(({ element }) => element)),
      maps, this.maps, strip, this.strip,
      h("div", { class: "columns" }, h("div", {}, map, this.map), h("div", {}, lens, this.lens)));
    new MutationObserver(() => { this.drawMaps(); this.update(); }).observe(root, { attributeFilter: ["class"] });
    this.taken();
    this.put(host.chosen);
    this.update();
  }
  get chosen() { return Object.fromEntries(Object.entries(this.sliders).map(([name, { value }]) => [name, value])); }
  put(chosen) { for (const [name, value] of Object.entries(chosen)) this.sliders[name].value = value; }
  settle() { this.field.value = this.host.state.text; }
  taken() {
    const { layers, heads, tokens } = this.host.state;
    Object.entries({ layer: layers, head: heads, token: tokens.length }).forEach(([name, count]) => this.sliders[name].bound(count - 1, 0));
    this.triangle = (tokens.length * (tokens.length + 1)) / 2;
    this.settle();
    this.drawMaps();
  }
  move(chosen) {
    this.put(chosen);
    this.changed(true);
  }
  within(name, place) { return Math.min(Math.max(place, 0), Number(this.sliders[name].range.max)); }
  headAt({ x, y }) {
    const side = this.dots + EDGE;
    return { layer: this.within("layer", Math.floor(x / side)), head: this.within("head", Math.floor(y / side)) };
  }
  name(token) { return `${token} ${this.host.state.tokens[token]}`; }
  /** The root of the weight that token i gives to token j <= i, from 0 to 1. */
  root_of(layer, head, i, j) {
    return this.host.weights[(layer * this.host.state.heads + head) * this.triangle + (i * (i + 1)) / 2 + j] / STEEPEST;
  }
  share(i, j) {
    const { layer, head } = this.chosen;
    return j > i ? "it comes later" : `${(100 * this.root_of(layer, head, i, j) ** 2).toFixed(1)}%`;
  }
  /** All maps in small, once: where a dot holds several weights, the largest. */
  drawMaps() {
    const { state: { layers, heads, tokens }, weights } = this.host, n = tokens.length, { triangle } = this;
    const dots = (this.dots = Math.max(Math.min(Math.floor(866 / layers) - EDGE, 80), 4)), side = dots + EDGE;
    const spans = Array.from({ length: dots }, (_, k) => span(k, dots, n));
    this.still = new ImageData(layers * side + EDGE, heads * side + EDGE);
    this.colours = shades(this.root.classList.contains("dark"));
    const pixels = new Uint32Array(this.still.data.buffer).fill(this.colours.paper), { width } = this.still;
    for (let layer = 0; layer < layers; layer++) for (let head = 0; head < heads; head++) {
      const from = (layer * heads + head) * triangle;
      for (let y = 0; y < dots; y++) for (let x = 0; x < dots; x++) {
        const [i0, i1] = spans[y], [j0, j1] = spans[x];
        let most = -1;
        for (let i = i0; i < i1; i++) for (let j = j0; j < Math.min(j1, i + 1); j++)
          most = Math.max(most, weights[from + (i * (i + 1)) / 2 + j]);
        pixels[(EDGE + head * side + y) * width + EDGE + layer * side + x]
          = most < 0 ? this.colours.later : this.colours.shade[Math.round((most / STEEPEST) * SHADES)];
      }
    }
  }
  update() {
    const { layer, head, token } = this.chosen, { tokens } = this.host.state, side = this.dots + EDGE;
    ["all layers (left to right) and heads (top to bottom)",
     `layer ${layer}, head ${head}: where token ${token}, ${tokens[token]}, looks`,
     "the whole head: a row looks at its columns",
     `the lens: what would follow ${tokens[token]}, layer by layer`].forEach((title, i) => write(this.titles[i], title));
    const maps = paint(this.maps, this.still.width, this.still.height, 1,
      `Attention maps of all layers, from left to right, and heads, from top to bottom; layer ${layer}, head ${head} is framed`);
    maps.putImageData(this.still, 0, 0);
    maps.strokeStyle = this.colours.frame;
    maps.lineWidth = EDGE;
    maps.strokeRect(layer * side + 1, head * side + 1, side, side);
    this.drawHead(layer, head, token);
    this.drawStrip(layer, head, token);
    this.drawLens(layer, token);
  }
  drawHead(layer, head, token) {
    const n = this.host.state.tokens.length, scale = Math.max(Math.floor(380 / n), 1), image = new ImageData(n, n);
    const pixels = new Uint32Array(image.data.buffer), { later, shade, frame } = this.colours;
    for (let i = 0; i < n; i++) for (let j = 0; j < n; j++)
      pixels[i * n + j] = j > i ? later : shade[Math.round(this.root_of(layer, head, i, j) * SHADES)];
    const context = paint(this.map, n * scale, n * scale, scale,
      `Attention of layer ${layer}, head ${head}: a row is the token that looks, a column the token looked at; the row of token ${token} is marked`);
    const small = new OffscreenCanvas(n, n);
    small.getContext("2d").putImageData(image, 0, 0);
    context.imageSmoothingEnabled = false;
    context.drawImage(small, 0, 0, n * scale, n * scale);
    context.strokeStyle = frame;
    context.lineWidth = Math.min(2, scale);
    context.strokeRect(1, token * scale + 1, (token + 1) * scale - 2, Math.max(scale - 2, 1));
  }
  drawStrip(layer, head, token) {
    const { tokens } = this.host.state, { strip, colours } = this;
    while (strip.children.length > tokens.length) strip.lastChild.remove();
    while (strip.children.length < tokens.length) {
      const i = strip.children.length; // no stops of the Tab key: the slider does the same
      strip.append(h("button", { type: "button", class: "look", tabIndex: -1, onclick: () => this.move({ token: i }) },
        h("span", { class: "token" }), h("small")));
    }
    tokens.forEach((label, i) => {
      const box = strip.children[i], later = i > token, root = later ? 0 : this.root_of(layer, head, token, i);
      const step = Math.round(root * SHADES);
      write(box.firstChild, label);
      write(box.lastChild, root < 0.1 ? "\u00a0" : `${(100 * root ** 2).toFixed(0)}%`);
      box.title = `${label}  ${this.share(token, i)}`;
      box.className = `look ${later ? "later" : ""} ${i === token ? "query" : ""}`;
      box.setAttribute("aria-pressed", String(i === token));
      box.style.background = later ? "transparent" : colours.css[step];
      box.style.color = later ? "" : colours.ink[step];
    });
  }
  drawLens(layer, token) {
    const { lens } = this.host.state; // lens[layer][token] = [label, probability], layer 0 the embedding
    let rows = lens.map((at, i) => ({ layer: i, label: at[token][0], p: at[token][1], picked: i === layer + 1 })).reverse();
    if (rows.length > DEEPEST) {
      const first = Math.min(Math.max(rows.length - layer - 1 - DEEPEST / 2, 0), rows.length - DEEPEST);
      rows = rows.slice(first, first + DEEPEST);
    }
    grid(this.lens, ["after layer", "next", "", ""], rows, "5.5em minmax(60px, max-content) minmax(40px, 1fr) 3.5em", (cells, row) => {
      const [number, label, bar, share] = cells;
      write(number, `${row.picked ? "▸ " : ""}${row.layer}`);
      number.className = row.picked ? "n picked" : "n";
      write(label, clipped(row.label, 16));
      label.className = row.picked ? "token picked" : "token";
      drawBars(bar, [[row.picked ? "after" : "left", row.p]]);
      write(share, `${(100 * row.p).toFixed(0)}%`);
    });
  }
}

const EDGE = 2; // pixels between the small maps
const DEEPEST = 40; // of a deeper model, so many layers of the lens, around the chosen one

/** Which of n weights dot number k of `dots` shows; with fewer weights than dots, each is repeated. */
function span(k, dots, n) {
  const from = Math.floor((k * n) / dots);
  return [from, n > dots ? Math.ceil(((k + 1) * n) / dots) : from + 1];
}

/** A canvas that says what is under the pointer, and picks it with a click: `found({x, y})` tells in its own dots. */
function picture(found, told, clicked) {
  const canvas = h("canvas", { role: "img" });
  const at = ({ offsetX, offsetY }) => {
    const dot = (place, shown, size) => Math.floor(((place / shown) * size) / canvas.scale);
    return found({ x: dot(offsetX, canvas.clientWidth, canvas.width), y: dot(offsetY, canvas.clientHeight, canvas.height) });
  };
  canvas.addEventListener("click", (event) => clicked(at(event)));
  canvas.addEventListener("pointermove", (event) => { canvas.title = told(at(event)); });
  return canvas;
}

function paint(canvas, width, height, scale, alt) {
  if (canvas.width !== width) canvas.width = width;
  if (canvas.height !== height) canvas.height = height;
  canvas.scale = scale;
  canvas.setAttribute("aria-label", alt);
  return canvas.getContext("2d");
}

/** The shades of the roots of weights, from 0 to 1: as pixels, for CSS, and the ink that is read on them. */
function shades(dark) {
  const stops = dark ? [[20, 24, 29], [26, 84, 122], [140, 205, 245]] : [[255, 255, 255], [156, 203, 232], [0, 90, 143]];
  const mixed = Array.from({ length: SHADES + 1 }, (_, k) => {
    const share = (2 * k) / SHADES, [low, high] = share <= 1 ? stops : stops.slice(1), part = share <= 1 ? share : share - 1;
    return low.map((c, i) => Math.round(c + (high[i] - c) * part));
  });
  const pixel = ([r, g, b]) => (255 << 24 | b << 16 | g << 8 | r) >>> 0;
  const bright = ([r, g, b]) => 0.3 * r + 0.59 * g + 0.11 * b > 128;
  return {
    shade: mixed.map(pixel), css: mixed.map((c) => `rgb(${c})`), ink: mixed.map((c) => (bright(c) ? "#1f2328" : "#ffffff")),
    later: pixel(dark ? [35, 41, 48] : [240, 242, 244]), paper: pixel(dark ? [20, 24, 29] : [255, 255, 255]),
    frame: dark ? "#f0a830" : "#e69f00",
  };
}

// ---- 7 · Beam search as a tree: Python has replayed it for every place of the two sliders ---------

const FATES = { running: "goes on", finished: "finished", pruned: "pruned", discarded: "discarded" };
const STOPPINGS = { False: false, True: true, "'never'": "never" };
const ROW = 34, START = 64; // pixels of a candidate in the tree, and before its first step

class BeamExplorer extends Explorer {
  constructor(root, host) {
    super(root, host);
    const field = (name, hint, type = "number") => textField(name, `${hint}; Enter searches again`, () => this.search(), type);
    this.fields = { prompt: field("prompt", "What the model reads", "text"), num_beams: field("num_beams", "How many run side by side"),
                    max_new_tokens: field("max_new_tokens", "How long they may get") };
    this.step = new Slider({ name: "step", min: 1, max: 1, step: 1, value: 1, whole: true, does: "How far the tree has grown" },
      (done) => this.changed(done));
    this.penalty = new Slider({ name: "length_penalty", places: host.state.penalties, value: 1,
      does: "A finished hypothesis scores sum / length ** length_penalty; higher favours long ones" }, (done) => this.rescore(done));
    this.stopping = h("select", { onchange: () => this.rescore(true), id: `llmviz-${++made}`, title: "When it is enough" },
      ...Object.keys(STOPPINGS).map((name) => h("option", {}, name)));
    this.compare = h("button", { type: "button", onclick: () => this.ask("compare") }, "Compare with generate");
    this.verdict = h("p", { class: "verdict", role: "status" });
    this.text = h("div", { class: "text" });
    this.tree = h("div", { class: "scroll", tabIndex: 0, role: "region", "aria-label": "the tree", onscroll: () => this.draw() });
    this.candidates = h("div", { class: "rows candidates" });
    this.done = h("div", { class: "rows" });
    this.none = h("div", { class: "note" }, "none has finished yet");
    this.same = h("div", { class: "note", role: "status" });
    this.call = h("pre");
    if (host.live) root.append(...Object.values(this.fields).map(({ element }) => element));
    root.append(h("div", { class: "columns" }, this.step.element, this.penalty.element,
      h("div", { class: "slider" }, h("label", { for: this.stopping.id }, "early_stopping"), this.stopping)),
      this.text, this.verdict, this.tree,
      h("div", { class: "legend" }, ...[["running", "goes on"], ["pruned", "pruned"], ["finished", "finished, and kept so far"], ["discarded", "discarded"]]
        .map(([fate, name]) => h("span", {}, mark(fate), ` ${name}`)), "numbers: sum of log-probabilities; of one that has ended, its score"),
      this.candidates, this.done, this.none, h("div", { class: "bar" }, this.same, ...(host.live ? [this.compare] : [])), this.call);
    this.taken();
    this.put(host.chosen);
    this.update();
  }
  get chosen() {
    return { length_penalty: this.penalty.value, early_stopping: STOPPINGS[this.stopping.value], step: this.step.value };
  }
  put({ length_penalty, early_stopping, step }) {
    this.penalty.value = length_penalty;
    this.stopping.value = Object.keys(STOPPINGS).find((name) => STOPPINGS[name] === early_stopping);
    this.step.bound(this.replay.length, step);
  }
  search() {
    const { prompt, num_beams, max_new_tokens } = this.fields;
    this.ask("read", { prompt: prompt.value, num_beams: Number(num_beams.value), max_new_tokens: Number(max_new_tokens.value) });
  }
  settle() { for (const [name, field] of Object.entries(this.fields)) field.value = this.host.state[name]; }
  taken() {
    this.penalty.places = this.host.state.penalties;
    this.replays = [];
    this.settle();
  }
  /** Where the two sliders stand: [early_stopping, length_penalty]. */
  get place() { return [this.stopping.selectedIndex, this.host.state.penalties.indexOf(this.penalty.value)]; }
  /** What Python found for this place: per step its candidates with their fates, and the finished ones, the best first. */
  get replay() {
    const { steps, reasons, replays, places } = this.host.state, [row, column] = this.place, number = places[row][column];
    const told = (fate, reason, next) => ({ fate: Object.keys(FATES)[fate], reason: reasons[reason], next });
    return (this.replays[number] ??= (() => {
      const { steps: length, changes, finished, over } = replays[number];
      const all = steps.slice(0, length).map((step, t) => step.map(([rank, beam, token, score, sum, ends, fate, reason, next]) =>
        ({ rank, beam, token, score, sum, ends, length: t + 1, ...told(fate, reason, next) })));
      for (const [t, i, ...cell] of changes) Object.assign(all[t][i], told(...cell));
      all.forEach((step, t) => step.forEach((c, place) => Object.assign(c, { place, parent: all[t - 1]?.find(({ next }) => next === c.beam) })));
      let known = [];
      return { length, over, steps: all, finished: finished.map((now) => (known = now?.map(([t, i]) => all[t][i]) ?? known)) };
    })());
  }
  rescore(done) {
    const at_end = this.step.value === Number(this.step.range.max), { length } = this.replay;
    this.step.bound(length, at_end ? length : Math.min(this.step.value, length));
    this.changed(done);
  }
  /** Its score if it has ended: float32, as in Python. */
  final({ sum, length }) { return Math.fround(sum / Math.fround(length ** this.penalty.value)); }
  /** A hypothesis, from its first candidate on, or its last `most`. */
  path(candidate, most = Infinity) {
    const found = [];
    for (let c = candidate; c && found.length < most; c = c.parent) found.push(c);
    return found.reverse();
  }
  update() {
    const { state, answer } = this.host, { replay } = this, now = this.step.value, last = replay.steps[now - 1];
    const finished = (this.finished = replay.finished[now - 1]), power = `score = sum / length ** ${python(this.penalty.value, true)}`;
    this.best = this.path(finished[0] ?? last.find(({ next }) => next === 0) ?? last[0]);
    write(this.text, `${[...state.prompt].slice(-300).join("")} …`);
    write(this.verdict, now === replay.length ? replay.over : `step ${now} of ${replay.length}: the search goes on`);
    this.draw(true);
    this.showCandidates(last, now);
    this.none.hidden = finished.length > 0;
    this.done.hidden = !finished.length;
    grid(this.done, ["", "finished so far", "sum", "length", ""], finished, "1.5em minmax(80px, 1fr) max-content max-content auto",
      ([place, text, sum, length, score], c) => {
        write(place, c === finished[0] ? "▸" : "");
        this.spell(text, c, 20);
        write(sum, fixed(c.sum));
        write(length, String(c.length));
        write(score, fixed(this.final(c), 3));
      });
    write(this.done.firstChild.lastChild, power);
    const compared = answer[this.place];
    write(this.same, state.says[!state.comparable ? "never" : compared ?? "unknown"]);
    this.compare.disabled = !state.comparable;
    const { length_penalty } = this.chosen, [before, between, after] = state.call;
    write(this.call, [before, python(length_penalty), between, this.stopping.value, after].join(""));
  }
  showCandidates(last, now) {
    grid(this.candidates, ["", "", "log-prob.", "sum", "", "why"], last,
      "2em minmax(80px, max-content) max-content max-content max-content minmax(90px, 1fr)", ([rank, text, score, sum, fate, why], c) => {
        const known = this.known(c);
        write(rank, String(c.rank + 1));
        this.spell(text, c, 4);
        write(score, fixed(c.score));
        write(sum, fixed(c.sum));
        write(fate, FATES[known.fate]);
        fate.className = `words ${alive(known.fate) ? "picked" : ""}`;
        write(why, known.reason);
        why.className = "words quiet";
      });
    write(this.candidates.firstChild.children[1], `candidates of step ${now}`);
  }
  /** A candidate's fate and why, as they were known at the present step: a finished one may be lost later. */
  known(c) {
    return c.fate === "finished" && !this.finished.includes(c) ? { fate: "discarded", reason: this.host.state.lost } : c;
  }
  label({ token }) { return this.host.state.labels[token]; }
  /** The last tokens of a hypothesis, the very last one in bold, or struck out. */
  spell(cell, c, most) {
    const labels = this.path(c, most).map((one) => clipped(this.label(one), 16));
    const before = `${c.length > most ? "…" : ""}${labels.slice(0, -1).join("")}`;
    const last = h(alive(this.known(c).fate) ? "b" : "s", {}, labels.at(-1));
    cell.replaceChildren(h("span", { class: "quiet" }, before), last);
    cell.className = "token hypothesis";
  }
  /** The tree, as far as it is in view, from its newest step on once it has grown or shrunk. */
  draw(anew = false) {
    const { replay: { steps }, tree } = this, now = this.step.value, columns = Number(this.step.range.max);
    const column = Math.min(Math.max(750 / columns, 74), 96), width = now * column + START;
    if (tree.firstChild?.getAttribute("width") !== String(width)) {
      tree.replaceChildren(svg("svg", { width, height: 1 }));
      tree.scrollLeft = width;
    }
    const first = Math.max(Math.floor((tree.scrollLeft - START) / column) - 1, 0);
    const until = Math.min(Math.ceil((tree.scrollLeft + (tree.clientWidth || 900)) / column) + 1, now);
    if (!anew && String(this.drawn) === String([first, until])) return;
    this.drawn = [first, until];
    const drawing = svg("svg", { width, height: Math.max(...steps.map((step) => step.length)) * ROW + 24, role: "img",
      "aria-label": `Tree of a beam search over ${now} steps; its best hypothesis is ${this.best.map((c) => this.label(c)).join("")}` });
    const lines = { dead: "", alive: "", best: "" }, nodes = svg("g"), middle = ROW / 2 + 20, onPath = new Set(this.best);
    const at = (c) => [START + (c.length - 1) * column, 20 + c.place * ROW + ROW / 2];
    nodes.append(svg("text", { x: 4, y: middle + 4, class: "quiet" }, "start"));
    for (let t = first; t < until; t++) {
      nodes.append(svg("text", { x: START + t * column - 5, y: 12, class: "quiet small" }, `step ${t + 1}`));
      for (const c of steps[t]) {
        const [left, top] = at(c), { fate } = this.known(c), best = onPath.has(c), [x, y] = c.parent ? at(c.parent) : [40, middle];
        lines[best ? "best" : alive(fate) ? "alive" : "dead"] += `M${x} ${y}H${left - 22}L${left} ${top}`;
        const node = mark(fate, left, top);
        node.classList.toggle("best", best);
        nodes.append(node, svg("text", { x: left + 9, y: top - 6, class: `label ${fate}` }, fitting(this.label(c), column - 18)),
                     svg("text", { x: left + 9, y: top + 13, class: "quiet small" }, fixed(c.ends ? this.final(c) : c.sum)));
      }
    }
    drawing.append(...Object.entries(lines).map(([name, d]) => svg("path", { d, class: name })), nodes);
    tree.replaceChildren(drawing);
  }
}

const alive = (fate) => fate === "running" || fate === "finished";

function svg(tag, attributes = {}, text = "") {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.textContent = text;
  return element;
}

/** The sign of a fate: round goes on, square has ended; filled is kept, hollow is not. In a legend, a picture of its own. */
function mark(fate, x, y) {
  if (x === undefined) {
    const drawing = svg("svg", { width: 12, height: 12, "aria-hidden": "true" });
    drawing.append(mark(fate, 6, 6));
    return drawing;
  }
  return fate === "finished" || fate === "discarded" ? svg("rect", { x: x - 5, y: y - 5, width: 10, height: 10, class: `node ${fate}` })
    : svg("circle", { cx: x, cy: y, r: 5, class: `node ${fate}` });
}

/** A label cut to so many characters. */
const clipped = (label, most) => ([...label].length > most ? `${[...label].slice(0, most - 1).join("")}…` : label);

const ruler = document.createElement("canvas").getContext("2d"), fits = new Map();

/** A label cut to so many pixels, of which Chinese characters and emoji take more. */
function fitting(label, room) {
  const key = `${room} ${label}`;
  if (!fits.has(key)) {
    ruler.font = "12px ui-monospace, monospace";
    let most = [...label].length;
    while (most > 1 && ruler.measureText(clipped(label, most)).width > room) most--;
    fits.set(key, clipped(label, most));
  }
  return fits.get(key);
}

/** A number as Python's formats.fixed writes it: never -0.00, and a tie goes to the even digit. */
function fixed(value, digits = 2) {
  const exact = Math.abs(value).toFixed(60), cut = exact.length - 60 + digits, tie = /^50*$/.test(exact.slice(cut));
  const text = tie && exact[cut - 1] % 2 === 0 ? exact.slice(0, cut) : Math.abs(value).toFixed(digits);
  return value < 0 && Number(text) ? `-${text}` : text;
}

// ---- What is shown ------------------------------------------------------------------------------

const EXPLORERS = { sampler: SamplerBench, chain: ProcessorChain, inside: Inside, beams: BeamExplorer };

export default {
  render({ model, el }) {
    const [root, close] = frame(el), host = new Host(model);
    new EXPLORERS[host.state.kind](root, host);
    return () => { host.close(); close(); };
  },
};
