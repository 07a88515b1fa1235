// Adds to a page that is complete without it: pointing at a trial shows what it was and lights it up
// everywhere, a click keeps it lit, and tables can be sorted.
(() => {
  const REACH = 24; // pixels from which a mark is pointed at
  const body = document.body, table = document.querySelector("#trials table");
  if (!table) return;
  const tip = body.appendChild(Object.assign(document.createElement("div"), { id: "tip" }));
  const heads = [...table.tHead.rows[0].cells].map((cell) => cell.textContent);
  const rows = new Map([...table.tBodies[0].rows].map((row) => [row.dataset.t, row]));
  const marks = new Map();
  for (const mark of document.querySelectorAll("[data-t]")) {
    if (!marks.has(mark.dataset.t)) marks.set(mark.dataset.t, []);
    marks.get(mark.dataset.t).push(mark);
  }
  let lit = null, kept = null;
  document.addEventListener("redrawn", ({ detail: { svg, added, gone } }) => {
    for (const mark of gone) marks.set(mark.dataset.t, (marks.get(mark.dataset.t) ?? []).filter((m) => m !== mark));
    for (const mark of added) {
      if (!marks.has(mark.dataset.t)) marks.set(mark.dataset.t, []);
      marks.get(mark.dataset.t).push(mark);
      mark.classList.toggle("on", mark.dataset.t === lit);
    }
    places.delete(svg);
  });

  const light = (trial) => {
    if (trial === lit) return;
    for (const mark of marks.get(lit) ?? []) mark.classList.remove("on");
    for (const mark of marks.get(trial) ?? []) mark.classList.add("on");
    body.classList.toggle("lit", trial !== null);
    lit = trial;
  };

  const show = (trial, x, y) => {
    const row = rows.get(trial);
    tip.replaceChildren();
    if (!row) return hide();
    const title = document.createElement("b"), list = document.createElement("dl");
    title.textContent = `${heads[0]} ${row.cells[0].textContent}`;
    [...row.cells].slice(1).forEach((cell, i) => {
      if (!cell.textContent) return;
      list.append(Object.assign(document.createElement("dt"), { textContent: heads[i + 1] }));
      list.append(Object.assign(document.createElement("dd"), { textContent: cell.textContent }));
    });
    tip.append(title, list);
    tip.style.display = "block";
    const box = tip.getBoundingClientRect();
    tip.style.left = `${Math.max(8, x + 16 + box.width > innerWidth ? x - 16 - box.width : x + 16)}px`;
    tip.style.top = `${Math.max(8, Math.min(y + 12, innerHeight - box.height - 8))}px`;
  };
  const hide = () => { tip.style.display = "none"; };

  // The places of a picture's marks in its own coordinates: a dot, a mark's middle, a curve's points.
  const places = new WeakMap();
  const read = (svg) => {
    const found = [];
    for (const mark of svg.querySelectorAll("[data-t]")) {
      if (mark.closest(".away")) continue;
      const trial = mark.dataset.t;
      if (mark.hasAttribute("cx")) found.push([+mark.getAttribute("cx"), +mark.getAttribute("cy"), trial]);
      else if (mark.dataset.x) found.push([+mark.dataset.x, +mark.dataset.y, trial]);
      else if (mark.tagName === "path") {
        const numbers = mark.getAttribute("d").match(/-?[\d.]+/g).map(Number);
        for (let i = 0; i + 1 < numbers.length; i += 2) found.push([numbers[i], numbers[i + 1], trial]);
      }
    }
    places.set(svg, found);
    return found;
  };
  const nearest = (svg, event) => {
    const matrix = svg.getScreenCTM();
    const point = new DOMPoint(event.clientX, event.clientY).matrixTransform(matrix.inverse());
    let best = null, least = (REACH / matrix.a) ** 2;
    for (const [x, y, trial] of places.get(svg) ?? read(svg)) {
      const distance = (x - point.x) ** 2 + (y - point.y) ** 2;
      if (distance < least) [best, least] = [trial, distance];
    }
    return best;
  };

  const pointed = (event) => {
    const svg = event.target.closest("figure svg");
    return svg ? nearest(svg, event) : event.target.closest("[data-t]")?.dataset.t ?? null;
  };
  document.addEventListener("pointermove", (event) => {
    const trial = pointed(event);
    light(trial ?? kept);
    if (trial !== null && !event.target.closest("#trials")) show(trial, event.clientX, event.clientY);
    else hide();
  });
  document.addEventListener("click", (event) => {
    if (event.target.closest("a, button")) return;
    const trial = pointed(event);
    if (trial === null && event.target.closest("figure, table") === null) return;
    kept = trial === kept ? null : trial;
    light(kept);
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") { kept = null; light(null); hide(); }
  });
})();

// Sorting. What has no number goes last, whichever the direction; `data-v` stands for what a cell shows.
(() => {
  const number = (text) => Number.parseFloat(text.replace(/[,\s]/g, ""));
  for (const table of document.querySelectorAll("table.sortable"))
    [...table.tHead.rows[0].cells].forEach((cell, column) => {
      const button = Object.assign(document.createElement("button"), { type: "button" });
      button.append(...cell.childNodes);
      cell.append(button);
      button.addEventListener("click", () => {
        const down = cell.ariaSort === "ascending";
        for (const other of table.tHead.rows[0].cells) other.ariaSort = null;
        cell.ariaSort = down ? "descending" : "ascending";
        const keyed = [...table.tBodies[0].rows].map((row) => {
          const text = row.cells[column].dataset.v ?? row.cells[column].textContent;
          return { row, text, value: number(text) };
        });
        const sign = down ? -1 : 1;
        keyed.sort((a, b) =>
          Number.isNaN(a.value) || Number.isNaN(b.value)
            ? Number.isNaN(a.value) - Number.isNaN(b.value) || (a.text === "") - (b.text === "") ||
              sign * a.text.localeCompare(b.text)
            : sign * (a.value - b.value));
        table.tBodies[0].append(...keyed.map((entry) => entry.row));
      });
    });
})();
