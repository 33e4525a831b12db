// Data, the rule that cuts, and scores: as hmrnn_jax/analysis/segmenters.py and scores.py have them.

const KINDS = { u1: Uint8Array, u2: Uint16Array, u4: Uint32Array, f4: Float32Array };

/** Rows of a packed array; of one dimension, one row. */
function unpack({ kind, shape, data, scale }) {
  const bytes = Uint8Array.from(atob(data), (c) => c.charCodeAt(0));
  const flat = new KINDS[kind](bytes.buffer);
  const width = shape[shape.length - 1];
  const rows = [];
  for (let start = 0; start < flat.length; start += width) {
    const row = flat.subarray(start, start + width);
    rows.push(scale ? Float32Array.from(row, (v) => v * scale) : row);
  }
  return rows;
}

/** Rows of 0 and 1 of packed bits. */
function unpackBits(packed, length) {
  return unpack(packed).map((row) => Uint8Array.from({ length }, (_, t) => (row[t >> 3] >> (t & 7)) & 1));
}

/** The nearest whole number, of two the even one, as Python rounds. */
function rounded(x) {
  const floor = Math.floor(x), rest = x - floor;
  if (rest !== 0.5) return rest < 0.5 ? floor : floor + 1;
  return floor % 2 ? floor + 1 : floor;
}

/** The level of a curve at which segments have about `length` symbols; heights, the highest first. */
function levelFor(heights, length, calibrated) {
  const wanted = calibrated.symbols / length - calibrated.lines;
  const spacing = wanted > 0 ? Math.max(1, calibrated.inner / wanted) : Infinity;
  const count = rounded(calibrated.inner / spacing);
  if (!heights.length || !count) return Infinity;
  return heights[Math.min(count, heights.length) - 1];
}

/** Whether all of a curve above a level counts: peaks lie two steps apart or more. */
const isLevel = (length) => length < 2;

/** Where a curve is higher than the step before, no lower than the one after, and at the level. */
function peaks(curve, level) {
  const z = new Uint8Array(curve.length);
  for (let t = 0; t < curve.length; t++) {
    const before = t ? curve[t - 1] : -Infinity;
    const after = t + 1 < curve.length ? curve[t + 1] : -Infinity;
    z[t] = curve[t] > before && curve[t] >= after && curve[t] >= level ? 1 : 0;
  }
  return z;
}

/** Steps after which a boundary is looked for: neither ends of lines, nor the last of a line, nor blanks. */
function withinLines(lines, blank) {
  const inner = new Uint8Array(lines.length);
  for (let t = lines.length - 1, last = true; t >= 0; t--) {
    if (blank?.[t]) continue;
    inner[t] = lines[t] || last ? 0 : 1;
    last = lines[t];
  }
  return inner;
}

/** The boundaries of a curve at a level, for segments of `length`; where lines end a segment does. */
function boundaries(curve, level, lines, length) {
  const inner = withinLines(lines), z = isLevel(length) ? curve.map((u) => u >= level) : peaks(curve, level);
  return Uint8Array.from(z, (fired, t) => (lines[t] ? 1 : fired & inner[t]));
}

function f1Of(hits, found, real) {
  const precision = hits / Math.max(found, 1), recall = hits / Math.max(real, 1);
  return { precision, recall, f1: hits ? (2 * precision * recall) / (precision + recall) : 0 };
}

/** Precision, recall and F1 of boundaries, where `mask` is 1; within `tolerance` steps. */
function boundaryScores(found, real, mask, tolerance = 0) {
  const ones = (z) => {
    const places = [];
    for (let t = 0; t < z.length; t++) if (z[t] && mask[t]) places.push(t);
    return places;
  };
  const fired = ones(found), wanted = ones(real);
  let hits = 0, after = 0;
  for (const step of wanted) {
    while (after < fired.length && fired[after] < step - tolerance) after++;
    if (after < fired.length && fired[after] <= step + tolerance) { hits++; after++; }
  }
  return { hits, found: fired.length, real: wanted.length, ...f1Of(hits, fired.length, wanted.length) };
}

/** F1 of words: both ends are right and nothing cuts it. Ends of lines and blanks belong to no word. */
function wordScores(found, real, lines, blank) {
  const inner = withinLines(lines, blank);
  let hits = 0, words = 0, reals = 0, same = true;
  for (let t = 0; t < lines.length; t++) {
    if (lines[t] || blank?.[t]) continue;
    const last = !inner[t], ends = found[t] || last, trulyEnds = real[t] || last;
    // `same`: whether the word that is open began where a true one did, and nothing cut it.
    words += ends;
    reals += trulyEnds;
    if (trulyEnds) {
      hits += same && ends;
      same = !!ends;
    } else if (ends) same = false;
  }
  return f1Of(hits, words, reals);
}

/** [start, end) of the segments between boundaries. */
function segmentsOf(z) {
  const found = [];
  let start = 0;
  for (let t = 0; t < z.length; t++) if (z[t] || t + 1 === z.length) { found.push([start, t + 1]); start = t + 1; }
  return found;
}
