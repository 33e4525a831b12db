// Small helpers: elements, colours of the style, canvases that are sharp on every screen.

/** An element with attributes and children; text is text, never markup. */
function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name in element && typeof value !== "string") element[name] = value;
    else element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

/** A colour of the style, which differs in the dark and on paper. */
const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();

/** Alternating colours of a layer's segments; layers beyond the third take turns too. */
const layerColours = (layer) => ["a", "b"].map((which) => colour(`layer${1 + (layer % 3)}${which}`));

/** The 2D context of a canvas of this size in CSS pixels. */
function context(canvas, width, height) {
  const sharp = window.devicePixelRatio || 1;
  canvas.width = Math.round(width * sharp);
  canvas.height = Math.round(height * sharp);
  canvas.style.width = `${width}px`;
  canvas.style.height = `${height}px`;
  const pen = canvas.getContext("2d");
  pen.scale(sharp, sharp);
  pen.font = `12px ${getComputedStyle(document.body).fontFamily}`;
  return pen;
}

/** The least and the greatest of the finite values of arrays; of none 0 and 1. */
function range(...arrays) {
  let low = Infinity, high = -Infinity;
  for (const values of arrays) {
    for (const value of values) {
      if (!Number.isFinite(value)) continue;
      if (value < low) low = value;
      if (value > high) high = value;
    }
  }
  if (low > high) return [0, 1];
  return high > low ? [low, high] : [low - 1, low + 1];
}

/** As `range`, without the lowest and the highest hundredth of the values. */
function middling(values) {
  const sorted = Float32Array.from(values).sort(), cut = Math.floor(sorted.length / 100);
  return range(sorted.subarray(cut, sorted.length - cut));
}

const NAMES = {
  detectors: "Detectors", entropy: "Entropy", entropy_within: "Entropy in line",
  surprise: "Surprise", pmi: "PMI", line_end: "Line end", line_break: "Line break", distance: "Distances",
};
const UNITS = {
  entropy: "nats", entropy_within: "nats", surprise: "nats", pmi: "nats", line_end: "log-probability of a line end",
  line_break: "log-odds of a line break", distance: "1 − mean forget gate",
};
const MEANINGS = {
  detectors: "the network's own boundary detectors",
  entropy: "peaks of the entropy of its prediction of the next symbol",
  entropy_within: "peaks of that entropy, given that the line goes on",
  surprise: "peaks of the negative log-probability of what comes next",
  pmi: "peaks of that, less the same of what comes next by itself",
  line_end: "peaks of its probability that the line ends here",
  line_break: "peaks of how much likelier the text would be with a line break here",
  distance: "peaks of the forget gates' distances, a layer each",
};
const percent = (share) => (100 * share).toFixed(1);
const counted = (number) => Math.round(number).toLocaleString("en");
/** Decimals that tell low from high, `least` or more. */
const places = (low, high, least) => Math.max(least, Math.min(6, 1 - Math.floor(Math.log10(high - low || 1))));
const signed = (digits) => digits.replace("-", "\u2212");
const span = (low, high) => [low, high].map((end) => signed(end.toFixed(places(low, high, 1)))).join(" to ");
/** Columns of a word in letters of one width: Chinese and the like take two. */
const columns = (word) => [...word].reduce((sum, c) => sum + (c.codePointAt(0) >= 0x1100 ? 2 : 1), 0);
