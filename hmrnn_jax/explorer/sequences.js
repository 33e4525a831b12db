// Sequences of numbers: ink coloured by segment with playback of the pen, or curves with segments below.

const LEFT = 118, INK_ROOM = 110, BAND = 16, PLAY = 16; // pixels left of the drawing, of a line of ink, of a band; ms a step

function sequenceView(data, main) {
  const all = data.sequences.map((one) => {
    const values = unpack(one.values), T = values[0].length;
    const bits = (packed) => packed && unpackBits(packed, T)[0];
    const own = { name: one.name, text: one.text, values, T, events: bits(one.events), gold: bits(one.gold),
      z: one.z && unpackBits(one.z, T), surprise: unpack(one.surprise)[0], norms: unpack(one.norms) };
    own.lines = new Uint8Array(T);
    own.points = data.handwriting && path(values);
    return own;
  });
  const heights = unpack(data.heights[0])[0] || [];
  const state = { z: [], shown: [], levels: [], norms: false };

  function path([dx, dy]) {
    let x = 0, y = 0;
    return Array.from(dx, (_, t) => [(x += dx[t]), (y += dy[t])]);
  }

  function cut(reading, length) {
    const level = reading === "detectors" ? undefined : levelFor(heights, length, data.calibrated);
    const of = (one) => (reading === "detectors" ? one.z : [boundaries(one.surprise, level, one.lines, length)]);
    const each = all.map(of); // [sequence][layer]
    return { z: each[0].map((_, k) => each.map((z) => z[k])), levels: [level] };
  }

  /** The steps that count: the last one ends a segment whatever is found. */
  function inside(T) {
    return new Uint8Array(T).fill(1, 0, T - 1);
  }

  function scores(z) {
    const sum = (rows) => rows.reduce((a, b) => ({ hits: a.hits + b.hits, found: a.found + b.found, real: a.real + b.real }));
    return z.map((own) => {
      const segments = own.reduce((n, one) => n + segmentsOf(one).length, 0);
      const known = all.flatMap((one, s) => (one.gold ? [{ one, z: own[s], inside: inside(one.T) }] : []));
      if (!known.length) return { segments };
      const of = (tolerance) => {
        const { hits, found, real } = sum(known.map((row) => boundaryScores(row.z, row.one.gold, row.inside, tolerance)));
        return f1Of(hits, found, real);
      };
      return { segments, ...of(0), extra: { [`F1 within ${data.tolerance} steps`]: of(data.tolerance).f1 } };
    });
  }

  const cards = all.map((one, s) => {
    const canvas = make("canvas", { role: "img" }), play = make("button", { type: "button" }, "▶ Play");
    const at = make("input", { type: "range", min: "0", max: `${one.T - 1}`, "aria-label": `Step of ${one.name}` });
    at.value = one.T - 1;
    const told = make("span", { class: "told" });
    const head = make("h2", {}, one.text || one.name);
    if (one.text) head.append(make("span", {}, one.name));
    const card = { one, s, canvas, at, told, play, timer: 0, visible: false };
    head.append(...(data.handwriting ? [play] : []), at, told);
    const element = make("section", { class: "sequence" }, head, canvas);
    element.card = card;
    at.addEventListener("input", () => draw(card));
    play.addEventListener("click", () => toggle(card));
    canvas.addEventListener("pointermove", (event) => {
      const { left, width } = canvas.getBoundingClientRect();
      if (card.timer || data.handwriting && event.offsetY < card.strips) return;
      at.value = Math.floor(((event.clientX - left - LEFT) / (width - LEFT - 8)) * one.T);
      draw(card);
    });
    main.append(element);
    return card;
  });
  const watcher = new IntersectionObserver((entries) => {
    for (const { target, isIntersecting } of entries) {
      target.card.visible = isIntersecting;
      if (isIntersecting) draw(target.card);
    }
  }, { rootMargin: "400px" });
  main.querySelectorAll(".sequence").forEach((element) => watcher.observe(element));
  window.addEventListener("beforeprint", () => cards.forEach(draw));

  /** Plays the pen from the beginning, or stops it. */
  function toggle(card) {
    if (card.timer) {
      cancelAnimationFrame(card.timer);
      card.timer = 0;
    } else {
      const begun = performance.now();
      const first = Number(card.at.value) >= card.one.T - 1 ? 0 : Number(card.at.value);
      const frame = (now) => {
        const t = Math.min(card.one.T - 1, first + Math.floor((now - begun) / PLAY));
        card.at.value = t;
        card.timer = t + 1 < card.one.T ? requestAnimationFrame(frame) : 0;
        if (!card.timer) card.play.textContent = "▶ Play";
        draw(card);
      };
      card.timer = requestAnimationFrame(frame);
    }
    card.play.textContent = card.timer ? "■ Stop" : "▶ Play";
  }

  function draw(card) {
    const { one, s, canvas } = card, t = Number(card.at.value), layers = state.shown;
    const width = canvas.parentElement.clientWidth - 30;
    const x = (step) => LEFT + (step * (width - LEFT - 8)) / one.T;
    const inks = data.handwriting ? inkScale(one, width) : null;
    const upper = inks ? layers.length * (inks.high + 14) + 6 : 64 * one.values.length;
    const bands = inks ? 0 : BAND * layers.length, curve = 50;
    const total = upper + bands + 10 + curve + 12 + (state.norms ? BAND * one.norms.length + 6 : 0);
    const pen = context(canvas, width, total);
    card.strips = upper;
    pen.textBaseline = "middle";
    pen.textAlign = "right";
    if (inks) layers.forEach((k, row) => drawInk(pen, one, state.z[k][s], k, row * (inks.high + 14) + 8, inks, t));
    else {
      one.values.forEach((values, d) => drawCurve(pen, values, 64 * d + 4, 54, x, data.columns[d], colour("ink")));
      layers.forEach((k, row) => drawBands(pen, state.z[k][s], k, upper + BAND * row, x));
    }
    const top = upper + bands + 10;
    drawCurve(pen, one.surprise, top, curve, x, "Surprise", colour("line1"), state.levels[0], state.z[layers[0]]?.[s]);
    if (one.gold) {
      pen.fillStyle = colour("soft");
      for (let step = 0; step < one.T; step++) {
        if (!one.gold[step]) continue;
        const middle = x(step + 1);
        pen.beginPath();
        pen.moveTo(middle - 4, top + curve + 8);
        pen.lineTo(middle + 4, top + curve + 8);
        pen.lineTo(middle, top + curve + 1);
        pen.fill();
        if (!inks) {
          pen.globalAlpha = 0.35;
          pen.fillRect(middle - 0.5, 0, 1, upper);
          pen.globalAlpha = 1;
        }
      }
    }
    if (state.norms) one.norms.forEach((row, k) => {
      const [low, high] = middling(row), y = top + curve + 14 + BAND * k;
      pen.fillStyle = colour("soft");
      pen.fillText(`Norm of layer ${k + 1}`, LEFT - 10, y + 6);
      pen.fillStyle = colour("heat");
      for (let step = 0; step < one.T; step++) {
        pen.globalAlpha = 0.05 + 0.95 * Math.max(0, Math.min(1, (row[step] - low) / (high - low)));
        pen.fillRect(x(step), y, x(step + 1) - x(step) + 0.3, BAND - 3);
      }
      pen.globalAlpha = 1;
    });
    pen.fillStyle = colour("glow");
    pen.fillRect(x(t), inks ? upper : 0, Math.max(2, x(1) - x(0)), total);
    const where = layers.map((k) => {
      const at = segmentsOf(state.z[k][s]).findIndex(([, end]) => t < end);
      return `layer ${k + 1}: segment ${at + 1}`;
    });
    // Of the step after, which the last has not.
    if (t + 1 < one.T) where.push(`surprise ${signed(one.surprise[t].toFixed(2))} nats`);
    card.told.textContent = [`step ${t + 1} of ${one.T}`, ...where].join(", ");
    canvas.setAttribute("aria-label", `${one.name}: ${card.told.textContent}`);
  }

  function inkScale(one, width) {
    const [left, right] = range(one.points.map((p) => p[0])), [upper, lower] = range(one.points.map((p) => p[1]));
    const scale = Math.min((width - LEFT - 16) / (right - left), INK_ROOM / (lower - upper));
    return { left, upper, scale, high: (lower - upper) * scale };
  }

  function drawInk(pen, one, z, k, top, { left, upper, scale, high }, until) {
    const tints = [colour("ink1"), colour("ink2"), colour("ink3")];
    const count = segmentsOf(z).length, at = (p) => [LEFT + (p[0] - left) * scale, top + (p[1] - upper) * scale];
    pen.fillStyle = colour("soft");
    pen.fillText(`Layer ${k + 1}`, LEFT - 16, top + high / 2 - 8);
    pen.fillText(`${counted(count)} segments`, LEFT - 16, top + high / 2 + 9);
    Object.assign(pen, { lineWidth: 2.2, lineCap: "round", lineJoin: "round" });
    let number = 0;
    for (let t = 0; t < one.T; t++) {
      // The ink of a step leads to it from the point before, unless the pen was up.
      const lifted = t === 0 || one.events?.[t - 1];
      pen.strokeStyle = t <= until ? tints[number % 3] : colour("rule");
      pen.beginPath();
      pen.moveTo(...at(one.points[lifted ? t : t - 1]));
      pen.lineTo(...at(one.points[t]));
      pen.stroke();
      number += z[t];
    }
    if (until + 1 < one.T) {
      pen.fillStyle = colour("ink");
      pen.beginPath();
      pen.arc(...at(one.points[until]), 5, 0, 7);
      pen.fill();
    }
  }

  function drawBands(pen, z, k, top, x) {
    const tints = layerColours(k);
    pen.fillStyle = colour("soft");
    pen.fillText(`Layer ${k + 1}`, LEFT - 10, top + 6);
    segmentsOf(z).forEach(([start, end], number) => {
      pen.fillStyle = k % 3 ? tints[number % 2] : colour(number % 2 ? "line1" : "layer1b");
      pen.fillRect(x(start), top, Math.max(1, x(end) - x(start) - 1), BAND - 4);
    });
  }

  function drawCurve(pen, values, top, tall, x, name, hue, level, z) {
    const [low, high] = range(values), y = (v) => top + tall - 3 - ((tall - 6) * (v - low)) / (high - low);
    pen.fillStyle = colour("soft");
    pen.fillText(name, LEFT - 10, top + tall / 2 - 8, LEFT - 14);
    pen.fillStyle = colour("faint");
    pen.fillText(span(low, high), LEFT - 10, top + tall / 2 + 8, LEFT - 14);
    Object.assign(pen, { strokeStyle: colour("rule"), lineWidth: 1 });
    pen.strokeRect(LEFT - 0.5, top + 0.5, x(values.length) - LEFT, tall - 1);
    Object.assign(pen, { strokeStyle: hue, lineWidth: 1.3 });
    pen.beginPath();
    values.forEach((v, t) => pen.lineTo(x(t + 0.5), y(v)));
    pen.stroke();
    pen.fillStyle = hue;
    if (level > low && level < high) {
      pen.setLineDash([4, 4]);
      pen.beginPath();
      pen.moveTo(LEFT, y(level));
      pen.lineTo(x(values.length), y(level));
      pen.stroke();
      pen.setLineDash([]);
    }
    if (level !== undefined) values.forEach((v, t) => {
      if (!z?.[t]) return;
      pen.beginPath();
      pen.arc(x(t + 0.5), y(v), 3, 0, 7);
      pen.fill();
    });
  }

  const steps = all.reduce((n, one) => n + one.T, 0), drawVisible = () => cards.filter((card) => card.visible).forEach(draw);
  const what = data.handwriting ? "The ink changes its colour after every boundary" : "Segments lie below the curves";
  return {
    cut, scores, state, size: steps, resize: drawVisible,
    render: (reading, cutting, shown) => { Object.assign(state, cutting, { shown }); drawVisible(); },
    layersOf: (reading) => (reading === "detectors" ? all[0].z.length : 1),
    options: [{ key: "norms", label: "Norms of the layers", given: false }],
    about: `${counted(all.length)} sequences, ${counted(steps)} steps. ${what}; triangles: ${data.against || "none known"}.`,
    keys: "Each sequence has a slider for the step.",
  };
}
