// The page: controls, scores, and the view of what was read.

(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const byId = (id) => document.getElementById(id);
  const main = byId("view"), inspector = byId("inspector"), slider = byId("length");
  const view = (data.kind === "text" ? textView : sequenceView)(data, main, inspector);
  const steps = data.kind !== "text" ? "steps" : data.unit === "words" ? "words" : "symbols";
  const chosen = { reading: data.readings[0].name, length: data.length, hidden: new Set() };

  main.setAttribute("aria-label", `${data.name}, cut in segments. ${view.keys}`);
  byId("about").textContent = view.about;

  // Lengths from 2, or where shorter ones are wanted from 1.1, to 40 symbols or 200 steps, evenly by
  // their logarithm.
  const LOW = Math.log(data.length < 2 ? 1.1 : 2), HIGH = Math.log(data.kind === "text" ? 40 : 200), STEPS = 400;
  const toPlace = (length) => Math.round((STEPS * (Math.log(length) - LOW)) / (HIGH - LOW));
  const toLength = (place) => Number(Math.exp(LOW + (place * (HIGH - LOW)) / STEPS).toFixed(1));
  Object.assign(slider, { min: 0, max: STEPS, step: 1 });
  slider.value = toPlace(chosen.length);

  function toggle(type, name, value, label, checked, changed) {
    const input = make("input", { type, name, value, checked });
    input.addEventListener("change", () => changed(input));
    return make("label", {}, input, make("span", {}, label));
  }

  byId("readings").append(...data.readings.map(({ name }) => {
    const label = toggle("radio", "reading", name, NAMES[name], name === chosen.reading, () => {
      chosen.reading = name;
      layers();
      update();
    });
    label.title = MEANINGS[name];
    return label;
  }));

  byId("options").append(...view.options.map(({ key, label, given }) =>
    toggle("checkbox", key, key, label, given, (input) => { view.state[key] = input.checked; update(); })));
  if (view.curves?.length > 1) {
    const select = make("select", { id: "curve" },
      make("option", { value: "" }, "of the cut"), ...view.curves.map((name) => make("option", { value: name }, NAMES[name])));
    select.addEventListener("change", update);
    byId("options").append(make("label", { for: "curve" }, "Curve ", select));
  }

  function layers() {
    const count = view.layersOf(chosen.reading);
    chosen.hidden.clear();
    byId("layers").hidden = count < 2;
    byId("layers").replaceChildren(make("legend", {}, "Layers"), ...Array.from({ length: count }, (_, k) =>
      toggle("checkbox", `layer${k + 1}`, String(k), `${k + 1}`, true, (input) => {
        chosen.hidden[input.checked ? "delete" : "add"](k);
        update();
      })));
    [...byId("layers").querySelectorAll("label")].forEach((label, k) => label.classList.add("key", `l${1 + (k % 3)}`));
  }

  function table(rows) {
    const scored = rows.length && "f1" in rows[0], extra = Object.keys(rows[0]?.extra ?? {});
    const heads = ["Layer", "Segments", "Mean length"];
    if (scored) heads.push("Precision", "Recall", "F1");
    heads.push(...extra);
    byId("scores").caption.textContent = scored ? `Against ${data.against}, in percent` : "";
    byId("scores").tHead.replaceChildren(make("tr", {}, ...heads.map((head) => make("th", { scope: "col" }, head))));
    byId("scores").tBodies[0].replaceChildren(...rows.map((row, k) => {
      const cells = [counted(row.segments), (view.size / row.segments).toFixed(1)];
      if (scored) cells.push(percent(row.precision), percent(row.recall), percent(row.f1));
      cells.push(...extra.map((name) => percent(row.extra[name])));
      return make("tr", {}, make("th", { scope: "row", class: `key l${1 + (k % 3)}` }, `${k + 1}`), ...cells.map((c, n) => make("td", n > 3 ? { class: "main" } : {}, c)));
    }));
  }

  function update() {
    const detectors = chosen.reading === "detectors";
    slider.disabled = detectors;
    byId("wanted").classList.toggle("off", detectors);
    byId("shown-length").textContent = detectors ? "as the detectors have it" : `${chosen.length.toFixed(1)}`;
    slider.setAttribute("aria-valuetext", detectors ? "as the detectors have it" : `${chosen.length.toFixed(1)} ${steps}`);
    byId("how").textContent = `Cut by ${MEANINGS[chosen.reading]}` + (detectors ? "." :
      `, as many as give segments of ${chosen.length.toFixed(1)} in ${data.calibrated.on}, or all where there are fewer.`);
    const cutting = view.cut(chosen.reading, chosen.length);
    const shown = cutting.z.map((_, k) => k).filter((k) => !chosen.hidden.has(k));
    view.state.curve = byId("curve")?.value || (detectors ? view.curves?.find((n) => n === "entropy") ?? view.curves?.[0] : chosen.reading);
    view.render(chosen.reading, cutting, shown);
    table(view.scores(cutting.z));
  }

  let waiting = 0;
  function soon() {
    cancelAnimationFrame(waiting);
    waiting = requestAnimationFrame(update);
  }
  slider.addEventListener("input", () => {
    chosen.length = toLength(Number(slider.value));
    byId("shown-length").textContent = chosen.length.toFixed(1);
    soon();
  });
  // Of a training: what was read after each of some updates.
  const moments = [...(data.earlier ?? []), data];
  if (moments.length > 1) {
    const moment = byId("update"), last = moments.length - 1;
    const tell = () => {
      byId("shown-update").textContent = counted(moments[moment.value].update);
      moment.setAttribute("aria-valuetext", `update ${moments[moment.value].update}`);
    };
    Object.assign(moment, { min: 0, max: last, step: 1 });
    moment.value = last;
    byId("moment").hidden = false;
    moment.addEventListener("input", () => { view.load(moments[moment.value]); tell(); soon(); });
    tell();
  }
  byId("controls").addEventListener("submit", (event) => event.preventDefault());
  window.addEventListener("resize", () => view.resize());
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => view.resize());
  layers();
  update();
  // For tests, and for whoever opens the console.
  window.explorer = { data, view, chosen, update };
})();
