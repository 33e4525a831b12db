// A text: its segments as they are read, and under the cursor what the model makes of it.

const BLOCK = 600; // symbols, about, that are laid out together
const LABELS = 118; // pixels left of the inspector's strips

function textView(data, main, inspector) {
  const symbols = data.symbols, N = symbols.length, words = data.unit === "words";
  const [lines, gold, blank] = [data.lines, data.gold, data.blank].map((one) => one && unpackBits(one, N)[0]);
  const inner = withinLines(lines, blank);
  let readings, likeliest, chances, norms, spread, known, calibrated;
  const trees = data.distances && treeView(data, unpack(data.distances), lines);
  const typical = N / (1 + lines.reduce((a, b) => a + b, 0));
  const state = { z: [], shown: [], levels: [], reading: "", cursor: 0, rows: words || data.against === "spaces" && !!gold || typical >= 45,
    compare: false, curve: "" };

  /** Takes what was read by the model as it is, or as it was after some update. */
  function load(found) {
    ({ known, calibrated } = found);
    [likeliest, chances, norms] = [found.likeliest, found.chances, found.norms].map(unpack);
    spread = norms.map(middling);
    readings = Object.fromEntries(found.readings.map((one) => [one.name, {
      z: one.z && unpackBits(one.z, N),
      curves: one.curves && unpack(one.curves),
      heights: one.heights && one.heights.map((row) => unpack(row)[0] || []),
      all: one.all && one.all.map((row) => unpack(row)[0] || []),
    }]));
  }
  load(data);

  function cut(reading, length) {
    const { z, curves, heights, all } = readings[reading];
    if (z) return { z, levels: [] };
    const levels = (isLevel(length) ? all : heights).map((own) => levelFor(own, length, calibrated));
    return { z: curves.map((curve, k) => boundaries(curve, levels[k], lines, length)), levels };
  }

  function scores(z) {
    return z.map((own) => ({
      segments: segmentsOf(own).length,
      ...(gold ? { ...boundaryScores(own, gold, inner), extra: { "F1 of words": wordScores(own, gold, lines, blank).f1 } } : {}),
    }));
  }

  function escaped(text) {
    return text.replace(/[&<>]/g, (c) => ({ "&": "&amp;", "<": "&lt;", ">": "&gt;" })[c]);
  }

  /** Where the text is cut into blocks: at ends of lines if there are any near. */
  const edges = [0];
  for (let t = 0, since = 0; t < N; t++) {
    since++;
    if (t + 1 === N || (since >= BLOCK && lines[t]) || since >= 2 * BLOCK) { edges.push(t + 1); since = 0; }
  }

  // They stay, whatever is drawn in them: the browser knows the heights of those that it has shown.
  const blocks = edges.slice(1).map((_, b) => make("p", { class: "block", "data-from": counted(edges[b] + 1) }));
  main.replaceChildren(...blocks);

  /** Draws the text: an element for each stretch that no boundary of any shown layer cuts. */
  function render(reading, cutting, shown) {
    Object.assign(state, { reading, ...cutting, shown });
    const { z, rows } = state, marks = state.compare ? gold : null;
    const parity = z.map(() => 0);
    blocks.forEach((block, b) => {
      const parts = [];
      let start = edges[b];
      for (let t = start; t < edges[b + 1]; t++) {
        const last = t + 1 === edges[b + 1];
        const ends = shown.some((k) => z[k][t]) || lines[t] || lines[t + 1] || (marks && marks[t] && inner[t]);
        if (!ends && !last) continue;
        parts.push(atom(start, t, parity, marks));
        if (lines[t]) parts.push(rows ? "\n" : '<wbr>');
        else if (!lines[t + 1]) parts.push("<wbr>");
        shown.forEach((k) => { parity[k] ^= z[k][t]; });
        start = t + 1;
      }
      block.innerHTML = parts.join("");
    });
    main.classList.toggle("rows", rows);
    main.style.setProperty("--bands", Math.max(0, shown.filter((k) => k > 0).length));
    move(state.cursor, { quiet: true, still: true });
  }

  /** The symbols from..to, which no boundary cuts: a tinted word above the bands of higher layers. */
  function atom(from, to, parity, marks) {
    const { z, shown } = state;
    const text = escaped(symbols.slice(from, to + 1).join(""));
    if (lines[to]) return `<b class="line" data-s="${from}">${text}</b>`;
    // Ends of lines are not drawn: a segment of detectors may go on after them.
    const ended = (k) => z[k][to] || (lines[to + 1] && z[k][to + 1]) || to + 1 === N;
    const began = (k) => {
      let before = from - 1;
      while (before >= 0 && lines[before] && !z[k][before]) before--;
      return before < 0 || z[k][before];
    };
    const flag = (k) => `${parity[k] ? " odd" : ""}${began(k) ? " first" : ""}${ended(k) ? " last" : ""}`;
    let mark = "";
    if (marks && inner[to] && shown.includes(0)) mark = !marks[to] ? (z[0][to] ? " wrong" : "") : z[0][to] ? "" : " missed";
    let html = `<b class="${shown.includes(0) ? `word${flag(0)}` : "plain"}${mark}" data-s="${from}">${text}</b>`;
    shown.filter((k) => k > 0).forEach((k, inside) => {
      const below = inside ? ` style="padding-bottom: ${3 + 6 * inside}px"` : ""; // clear of those inside
      html = `<span class="band l${1 + (k % 3)}${flag(k)}"${below}>${html}</span>`;
    });
    return html;
  }

  // The cursor

  const cursorBox = make("span", { id: "cursor", "aria-hidden": "true" });
  const canvas = make("canvas", { role: "img" }), where = make("div", { class: "where" });
  const next = make("ol", { class: "next" });
  inspector.replaceChildren(
    make("div", { class: "strips" }, where, canvas),
    make("div", { class: "expects" }, make("h2", {}, "Expected next"), next),
  );

  function blockOf(t) {
    let b = edges.findIndex((edge) => edge > t) - 1;
    return blocks[b < 0 ? blocks.length - 1 : b];
  }

  /** The DOM range of a symbol. */
  function rangeOf(t) {
    const atoms = blockOf(t).querySelectorAll("[data-s]");
    let low = 0, high = atoms.length - 1;
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (Number(atoms[middle].dataset.s) <= t) low = middle; else high = middle - 1;
    }
    const found = document.createRange(), node = atoms[low].firstChild;
    let offset = 0;
    for (let s = Number(atoms[low].dataset.s); s < t; s++) offset += symbols[s].length;
    found.setStart(node, Math.min(offset, node.length));
    found.setEnd(node, Math.min(offset + symbols[t].length, node.length));
    return found;
  }

  /** The symbol at a point of the window, or -1. */
  function symbolAt(x, y) {
    const element = document.elementFromPoint(x, y)?.closest?.("[data-s]");
    if (!element || !main.contains(element)) return -1;
    const from = Number(element.dataset.s), node = element.firstChild, one = document.createRange();
    for (let s = from, offset = 0; offset < node.length; offset += symbols[s].length, s++) {
      one.setStart(node, offset);
      one.setEnd(node, Math.min(offset + symbols[s].length, node.length));
      for (const box of one.getClientRects()) {
        if (x >= box.left - 1 && x <= box.right + 1 && y >= box.top - 4 && y <= box.bottom + 12) return s;
      }
    }
    return from;
  }

  function move(t, { quiet = false, still = false } = {}) {
    state.cursor = Math.max(0, Math.min(N - 1, t));
    const block = blockOf(state.cursor); // in which the box stays where its symbol is
    cursorBox.parentElement?.classList.remove("here");
    block.classList.add("here"); // laid out even out of sight: where its symbols are is asked
    block.append(cursorBox);
    const box = rangeOf(state.cursor).getBoundingClientRect(), home = block.getBoundingClientRect();
    Object.assign(cursorBox.style, {
      left: `${box.left - home.left}px`, top: `${box.top - home.top}px`,
      width: `${box.width}px`, height: `${box.height}px`,
    });
    if (!still) {
      // In a narrow window neither stays in sight.
      const top = Math.max(0, document.getElementById("bar").getBoundingClientRect().bottom) + 20;
      const bottom = Math.min(window.innerHeight, inspector.getBoundingClientRect().top) - 30;
      if (box.top < top) window.scrollBy(0, box.top - top - 60);
      else if (box.bottom > bottom) window.scrollBy(0, box.bottom - bottom + 60);
    }
    inspect();
    if (!quiet) document.getElementById("spoken").textContent = spoken();
  }

  const readable = (t) => (lines[t] ? "line end" : symbols[t].trim() || "space");
  function segmentAround(k, t) {
    let from = t, to = t;
    while (from > 0 && !state.z[k][from - 1] && t - from < 200) from--;
    while (to + 1 < N && !state.z[k][to] && to - t < 200) to++;
    return symbols.slice(from, to + 1).join("").replaceAll("⏎", " ").trim();
  }
  function expected(t) {
    return [...likeliest[t]].map((id, rank) => ({ text: known[id], chance: chances[t][rank] / 65535 }));
  }
  function spoken() {
    const t = state.cursor, cuts = state.shown.filter((k) => state.z[k][t]).map((k) => k + 1);
    const ends = cuts.length ? `a segment of layer ${cuts.join(" and ")} ends here. ` : "";
    const said = state.shown.map((k) => `layer ${k + 1}: ${segmentAround(k, t)}`).join(", ");
    const guess = expected(t).slice(0, 3).map((one) => `${one.text.trim() || "space"} ${percent(one.chance)} %`);
    return `${readable(t)}, symbol ${t + 1}. ${ends}${said}. Expected next: ${guess.join(", ")}.`;
  }

  function inspect() {
    const t = state.cursor;
    where.replaceChildren(
      make("strong", {}, `${data.unit === "words" ? "word" : "symbol"} ${counted(t + 1)}`), ` of ${counted(N)}`,
      ...state.shown.map((k) => make("span", { class: `key l${1 + (k % 3)}` }, segmentAround(k, t) || "␣")),
    );
    const came = t + 1 < N ? (lines[t + 1] ? "⏎" : symbols[t + 1]) : null;
    next.replaceChildren(...expected(t).map((one) => {
      // Blanks are symbols as others; but words may have others after them than in the vocabulary.
      const hit = came !== null && (words ? one.text.trim() === came.trim() : one.text === came);
      const bar = make("span", { class: "bar" });
      bar.style.width = `${Math.max(1, 100 * one.chance)}%`;
      return make("li", hit ? { class: "hit" } : {}, make("kbd", {}, one.text.trim() || "␣"),
        make("span", { class: "track" }, bar), make("span", { class: "share" }, `${percent(one.chance)} %`));
    }));
    strips();
  }

  /** The neighbourhood of the cursor: letters in segments, bands, the curve, the layers' norms. */
  function strips() {
    const step = words ? 58 : 15, width = canvas.parentElement.clientWidth;
    const room = Math.max(6, Math.floor((width - LABELS - 8) / step));
    const from = Math.max(0, Math.min(N - room, state.cursor - (room >> 1)));
    const to = Math.min(N, from + room), bands = state.shown.filter((k) => k > 0);
    const curved = readings[state.curve]?.curves ?? [];
    const top = 26 + 7 * bands.length, tall = 84, below = top + tall + 8;
    const pen = context(canvas, width, below + 13 * norms.length + 6);
    const x = (t) => LABELS + (t - from) * step, ink = colour("ink"), faint = colour("faint");
    pen.textBaseline = "middle";
    // Letters and bands.
    for (const k of state.shown) {
      const tints = layerColours(k), y = k ? 25 + 7 * bands.indexOf(k) : 3, high = k ? 4 : 19;
      let start = from, odd = 0;
      for (let t = 0; t < from; t++) odd ^= state.z[k][t];
      for (let t = from; t < to; t++) {
        if (!state.z[k][t] && t + 1 < to && !lines[t + 1] && !lines[t]) continue;
        pen.fillStyle = tints[odd];
        if (!lines[t]) {
          pen.beginPath();
          pen.roundRect(x(start) + 0.5, y, (t + 1 - start) * step - 2, high, k ? 1 : 4);
          pen.fill();
        }
        odd ^= state.z[k][t];
        start = t + 1;
      }
    }
    pen.fillStyle = colour("glow");
    pen.fillRect(x(state.cursor), 0, step - 1, below + 13 * norms.length);
    pen.textAlign = "center";
    const plain = pen.font;
    pen.font = `${words ? 11 : 14}px ${colour("mono")}`;
    for (let t = from; t < to; t++) {
      pen.fillStyle = lines[t] ? faint : ink;
      const text = words && [...symbols[t]].length > 9 ? `${[...symbols[t]].slice(0, 7).join("")}…` : symbols[t].trim();
      pen.fillText(text, x(t) + step / 2 - 0.5, 13, step - 1);
    }
    pen.font = plain;
    // The curve, a point after each symbol, and where it cuts.
    pen.textAlign = "right";
    pen.fillStyle = colour("soft");
    const cuts = state.curve === state.reading;
    const layers = cuts ? state.shown.filter((k) => k < curved.length) : curved.length ? [0] : [];
    if (layers.length) {
      const [low, high] = range(...layers.map((k) => curved[k].subarray(from, to)));
      const y = (v) => top + 6 + (tall - 12) * (1 - (v - low) / (high - low));
      pen.fillText(NAMES[state.curve], LABELS - 12, top + 12);
      pen.fillStyle = faint;
      pen.fillText(span(low, high), LABELS - 12, top + 30, LABELS - 14);
      pen.strokeStyle = colour("rule");
      pen.strokeRect(LABELS - 0.5, top + 0.5, (to - from) * step, tall);
      for (const k of layers) {
        pen.strokeStyle = colour(`line${1 + (k % 3)}`);
        pen.fillStyle = pen.strokeStyle;
        pen.lineWidth = 1.6;
        pen.beginPath();
        for (let t = from; t < to; t++) pen.lineTo(x(t) + step / 2, y(curved[k][t]));
        pen.stroke();
        const level = cuts ? state.levels[k] : undefined;
        if (level > low && level < high) {
          pen.setLineDash([4, 4]);
          pen.lineWidth = 1;
          pen.beginPath();
          pen.moveTo(LABELS, y(level));
          pen.lineTo(x(to), y(level));
          pen.stroke();
          pen.setLineDash([]);
        }
        const cut = state.z[cuts ? k : state.shown[0]]; // none if no layer is shown
        for (let t = from; t < to; t++) {
          if (!cut?.[t] || lines[t]) continue;
          pen.beginPath();
          pen.arc(x(t) + step / 2, y(curved[k][t]), 3.4, 0, 7);
          pen.fill();
        }
      }
      if (gold) {
        pen.fillStyle = colour("soft");
        for (let t = from; t < to; t++) {
          if (!gold[t] || !inner[t]) continue;
          pen.beginPath();
          pen.moveTo(x(t) + step - 4, top + tall);
          pen.lineTo(x(t) + step + 3, top + tall);
          pen.lineTo(x(t) + step - 0.5, top + tall - 7);
          pen.fill();
        }
      }
    }
    // Norms: the darker the greater, each layer by itself.
    norms.forEach((row, layer) => {
      const y = below + 13 * layer;
      pen.fillStyle = colour("soft");
      pen.fillText(`Norm of layer ${layer + 1}`, LABELS - 12, y + 6);
      pen.fillStyle = colour("heat");
      for (let t = from; t < to; t++) {
        const [low, high] = spread[layer];
        pen.globalAlpha = 0.05 + 0.95 * Math.max(0, Math.min(1, (row[t] - low) / (high - low)));
        pen.fillRect(x(t), y, step - 1, 11);
      }
      pen.globalAlpha = 1;
    });
    canvas.setAttribute("aria-label", spoken());
  }

  main.addEventListener("pointermove", (event) => {
    if (event.pointerType === "touch") return;
    const t = symbolAt(event.clientX, event.clientY);
    if (t >= 0 && t !== state.cursor) move(t, { quiet: true, still: true });
  });
  main.addEventListener("click", (event) => {
    const t = symbolAt(event.clientX, event.clientY);
    if (t < 0) return;
    move(t, { still: true });
    trees?.show(t);
  });
  main.addEventListener("keydown", (event) => {
    const t = state.cursor, first = state.z[state.shown[0] ?? 0] ?? lines;
    const far = (way) => {
      let s = t + way;
      while (s > 0 && s < N - 1 && !(first[s - 1] || lines[s - 1])) s += way;
      return s;
    };
    if (event.altKey || event.metaKey || event.shiftKey) return; // the browser's
    const leap = event.ctrlKey;
    const targets = {
      ArrowRight: leap ? far(1) : t + 1, ArrowLeft: leap ? far(-1) : t - 1, ArrowDown: far(1), ArrowUp: far(-1),
      Home: 0, End: N - 1, PageDown: t + 300, PageUp: t - 300,
    };
    if (event.key === "Enter") trees?.show(t);
    if (!(event.key in targets)) return;
    event.preventDefault();
    move(targets[event.key]);
  });

  return {
    cut, scores, render, load, state, trees, resize: () => move(state.cursor, { quiet: true, still: true }),
    layersOf: (reading) => (readings[reading].z ?? readings[reading].curves).length,
    curves: data.readings.filter((one) => one.curves).map((one) => one.name),
    options: [
      { key: "rows", label: "A line a row", given: state.rows },
      ...(gold ? [{ key: "compare", label: "Mark missed (dotted) and wrong (solid)", given: false }] : []),
    ],
    gold: !!gold, size: N,
    about: `${counted(N)} ${data.unit}. Tinted: segments of the first layer; bands below: those of higher layers.` +
      (trees ? " Click a sentence, or press Enter, for its tree." : ""),
    keys: `Arrow keys move by a symbol, up and down by a segment.${trees ? " Enter shows the tree of a sentence." : ""}`,
  };
}
