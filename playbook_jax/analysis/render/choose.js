
// Choosing what the hyperparameter axes show: the marks of the study's own objective go away, and points at
// the values of the chosen metric are drawn in their columns, on a scale of their own.
(() => {
  const select = document.querySelector("#objective"), stored = document.querySelector("#objectives");
  if (!select || !stored) return; // nothing but the objective was recorded
  const box = document.querySelector("#objective-log"), data = JSON.parse(stored.textContent);
  const svgs = [...document.querySelectorAll('figure[id^="axis-"] svg')];
  select.closest(".choose").hidden = false;
  box.parentElement.hidden = true;

  const make = (name, attributes, text) => {
    const element = document.createElementNS(svgs[0].namespaceURI, name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    if (text !== undefined) element.textContent = text;
    return element;
  };
  const short = (value) => {
    const size = Math.abs(value);
    if (size && (size < 1e-3 || size >= 1e5)) return value.toExponential(1).replace(".0e", "e");
    return String(+value.toPrecision(4));
  };

  // The range that shows the good trials although some are terrible, as the page's own plots have it.
  const range = (metric, log) => {
    const sign = metric.rising ? -1 : 1;
    const costs = Object.values(metric.values).filter((v) => !log || v > 0)
      .map((v) => sign * (log ? Math.log10(v) : v)).sort((a, b) => a - b);
    const best = costs[0], worst = costs[costs.length - 1];
    const reach = best + 4 * (costs[Math.floor(costs.length / 2)] - best);
    const end = reach > best && worst - best > 1.3 * (reach - best) ? reach : worst;
    let [low, high] = sign > 0 ? [best, end] : [-end, -best];
    if (high - low < 1e-12 * Math.max(1, Math.abs(low))) {
      const apart = 0.1 * (Math.abs(low) || 1);
      [low, high] = [low - apart, high + apart];
    }
    const room = 0.06 * (high - low);
    return [low - room, high + room];
  };
  // Where the ticks are on the scale, and what they say.
  const ticks = (low, high, log) => {
    const found = [];
    if (log && high - low >= 0.8) {
      const digits = high - low > 3 ? [1] : [1, 2, 5];
      for (let e = Math.floor(low); e <= high; e++)
        for (const d of digits) {
          const at = e + Math.log10(d);
          if (at >= low && at <= high) found.push([at, d * 10 ** e]);
        }
      return found;
    }
    const [first, last] = log ? [10 ** low, 10 ** high] : [low, high];
    const rough = (last - first) / 6, unit = 10 ** Math.floor(Math.log10(rough));
    const step = unit * [1, 2, 2.5, 5, 10].find((m) => unit * m >= rough * 0.999);
    for (let i = Math.ceil(first / step); i * step <= last; i++)
      if (!log || i > 0) found.push([log ? Math.log10(i * step) : i * step, i * step]);
    return found;
  };

  // The marks of the study's own objective by trial, and where they are across.
  const columns = (svg) => {
    const found = new Map();
    for (const mark of svg.querySelectorAll("[data-t]:not(.x):not(text)")) {
      const x = mark.getAttribute("cx") ?? mark.dataset.x;
      if (x !== undefined) found.set(mark.dataset.t, [+x, mark]);
    }
    return found;
  };
  const OWN = ".dots, .dot, .star, .far, .baseline, .retrain, text.label, .grid, text.tick.end:not(.bad), text.title";

  const axis = (group, metric, low, high, log, up) => {
    const title = metric.label + (metric.percent ? " (%)" : "");
    group.append(make("text", { class: "name title", x: 0, y: 12 }, title));
    for (const [at, value] of ticks(low, high, log)) {
      const y = up(at).toFixed(1), text = short(metric.percent ? 100 * value : value);
      group.append(make("path", { class: "grid", d: `M${data.left} ${y}L${data.end} ${y}` }));
      group.append(make("text", { class: "tick end", x: data.left - 7, y: +y + 3.7 }, text));
    }
  };
  const point = (mark, trial, x, y) => {
    if (!mark.classList.contains("star"))
      return make("circle", { class: "dot", cx: x, cy: y.toFixed(1), r: 4.2, "data-t": trial });
    const star = mark.cloneNode();
    star.classList.remove("away", "on");
    star.setAttribute("transform", `translate(0 ${(y - mark.dataset.y).toFixed(1)})`);
    star.dataset.y = y.toFixed(1);
    return star;
  };
  const draw = (svg, metric, log) => {
    const old = svg.querySelector(".chosen"), gone = old ? [...old.querySelectorAll("[data-t]")] : [];
    old?.remove();
    const marks = columns(svg), added = [];
    for (const element of svg.querySelectorAll(OWN)) element.classList.toggle("away", metric !== null);
    if (metric) {
      const group = svg.appendChild(make("g", { class: "chosen" })), [low, high] = range(metric, log);
      const up = (v) => data.low + (data.high - data.low) * (v - low) / (high - low);
      const [top, bottom] = [Math.min(data.low, data.high), Math.max(data.low, data.high)];
      axis(group, metric, low, high, log, up);
      for (const [trial, [x, mark]] of marks) {
        const value = metric.values[trial];
        if (value === undefined || (log && value <= 0)) continue;
        const y = Math.min(bottom, Math.max(top, up(log ? Math.log10(value) : value)));
        added.push(group.appendChild(point(mark, trial, x, y)));
      }
    }
    document.dispatchEvent(new CustomEvent("redrawn", { detail: { svg, added, gone } }));
  };

  const chosen = () => (select.value === "own" ? null : data.metrics[+select.value]);
  const show = () => { for (const svg of svgs) draw(svg, chosen(), box.checked && chosen() !== null); };
  select.addEventListener("change", () => {
    const metric = chosen(), values = metric ? Object.values(metric.values) : [];
    const positive = values.filter((v) => v > 0);
    box.parentElement.hidden = positive.length < 2;
    box.checked = positive.length === values.length && positive.length > 1 && !metric.rising &&
      Math.max(...values) > 8 * Math.min(...values);
    show();
  });
  box.addEventListener("change", show);
})();
