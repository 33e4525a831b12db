// The tree of a sentence by an ON-LSTM's distances, as hmrnn_jax/analysis/trees.py reads it.

/** The spans [start, end) of the tree over n words, the outer before the inner ones. */
function treeSpans(distances, biased) {
  const n = distances.length, found = new Map(), open = [[0, n]];
  const note = (a, b) => { if (b - a > 1) found.set(`${a} ${b}`, [a, b]); };
  note(0, n);
  while (open.length) {
    const [start, end] = open.pop();
    if (end - start < 2) continue;
    let split = biased ? start : start + 1;
    for (let w = split + 1; w < end; w++) if (distances[w] > distances[split]) split = w;
    note(start, end);
    note(split, end);
    open.push([start, split], [biased ? split + 1 : split, end]);
  }
  return [...found.values()].sort((a, b) => a[0] - b[0] || b[1] - a[1]);
}

/** Nodes with their children, nodes or numbers of words; the root. */
function nested(n, spans) {
  const root = { start: 0, end: n, children: [] }, open = [root];
  let next = spans.length && spans[0][1] - spans[0][0] === n ? 1 : 0;
  for (let word = 0; word < n; word++) {
    while (open[open.length - 1].end <= word) open.pop();
    for (; next < spans.length && spans[next][0] === word; next++) {
      const node = { start: word, end: spans[next][1], children: [] };
      open[open.length - 1].children.push(node);
      open.push(node);
    }
    open[open.length - 1].children.push(word);
  }
  return root;
}

/** A tree as `( a ( b c ) )`. */
function brackets(node, words) {
  if (typeof node === "number") return words[node].replaceAll("(", "-LRB-").replaceAll(")", "-RRB-");
  if (node.children.length === 1) return brackets(node.children[0], words);
  return `( ${node.children.map((child) => brackets(child, words)).join(" ")} )`;
}

function treeView(data, distances, lines) {
  const picture = make("div", { class: "picture" }), text = make("p", { class: "brackets" });
  const layer = make("select", { id: "tree-layer", "aria-label": "Layer" }, ...distances.map((_, k) => make("option", { value: `${k}` }, `layer ${k + 1}`)));
  layer.value = `${Math.min(1, distances.length - 1)}`;
  const rule = make("input", { type: "checkbox", checked: true });
  const before = make("button", { type: "button" }, "← previous"), after = make("button", { type: "button" }, "next →");
  const close = make("button", { type: "button" }, "Close");
  const dialog = make("dialog", { id: "tree", "aria-labelledby": "tree-title" },
    make("div", { class: "head" }, make("h2", { id: "tree-title" }, "Tree by the distances of "), layer,
      make("label", {}, rule, " authors’ rule"), before, after, close), picture, text);
  document.body.append(dialog);
  let at = 0;

  const sentence = (t) => {
    let from = t, to = t;
    while (from > 0 && !lines[from - 1]) from--;
    while (to < lines.length && !lines[to]) to++;
    return [from, to];
  };

  /** Draws the tree of the sentence that holds word t; whether there is one to draw. */
  function draw(t) {
    const [from, to] = sentence(t), own = distances[Number(layer.value)].subarray(from, to);
    if (to <= from) return false;
    at = t;
    if (!own.some((d) => d)) {
      picture.replaceChildren("This sentence is too long to be drawn.");
      text.textContent = "";
      return true;
    }
    const words = data.symbols.slice(from, to).map((word) => word.trim());
    const root = nested(words.length, treeSpans(own, rule.checked));
    text.textContent = brackets(root, words);
    picture.innerHTML = svgOf(root, words, own);
    return true;
  }

  function svgOf(root, words, own) {
    const escaped = (w) => w.replace(/[&<>"]/g, (c) => `&#${c.charCodeAt(0)};`);
    const centres = [];
    let right = 16;
    for (const word of words) {
      const wide = Math.max(34, 8.8 * columns(word) + 14);
      centres.push(right + wide / 2);
      right += wide;
    }
    const parts = [], STEP = 24;
    const height = (node) => (typeof node === "number" ? 0 : 1 + Math.max(...node.children.map(height)));
    const tall = height(root), foot = 22 + tall * STEP, bars = foot + 30, [least, most] = range(own);
    const place = (node) => {
      if (typeof node === "number") return { x: centres[node], y: foot };
      const below = node.children.map(place), x = (below[0].x + below[below.length - 1].x) / 2;
      const y = foot - height(node) * STEP;
      for (const child of below) parts.push(`<path d="M${x.toFixed(1)} ${y}H${child.x.toFixed(1)}V${child.y}"/>`);
      return { x, y };
    };
    place(root);
    const labels = words.map((word, w) =>
      `<text x="${centres[w].toFixed(1)}" y="${foot + 17}">${escaped(word)}</text>`).join("");
    const rods = words.map((_, w) => {
      const long = 4 + 44 * ((own[w] - least) / (most - least));
      return `<rect x="${(centres[w] - 9).toFixed(1)}" y="${bars}" width="18" height="${long.toFixed(1)}"/>` +
        `<text class="small" x="${centres[w].toFixed(1)}" y="${bars + long + 13}">${own[w].toFixed(places(least, most, 2))}</text>`;
    }).join("");
    const wide = right + 16, high = bars + 66;
    return `<svg viewBox="0 0 ${wide} ${high}" width="${wide}" height="${high}" role="img" aria-label="Tree and distances">` +
      `<g class="branches">${parts.join("")}</g><g class="words">${labels}</g><g class="rods">${rods}</g></svg>`;
  }

  const step = (way) => {
    const [from, to] = sentence(at);
    let t = way > 0 ? to + 1 : from - 2;
    while (t > 0 && t < lines.length && lines[t]) t += way;
    if (t >= 0 && t < lines.length) draw(t);
  };
  before.addEventListener("click", () => step(-1));
  after.addEventListener("click", () => step(1));
  close.addEventListener("click", () => dialog.close());
  for (const control of [layer, rule]) control.addEventListener("change", () => draw(at));
  return { show: (t) => { if (draw(t) && !dialog.open) dialog.showModal(); }, draw, dialog, text };
}
