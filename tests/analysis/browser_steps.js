// What a user does with the report of tests/test_analysis_browser.py; what came of it goes into the page.
const result = {};
const step = (name, action) => { try { result[name] = action(); } catch (error) { problems.push(`${name}: ${error}`); } };
const svg = document.querySelector('figure[id="axis-hparams.learning_rate"] svg');
const places = () => [...svg.querySelectorAll("[data-t]:not(text):not(.x)")].filter((m) => !m.closest(".away")).map((m) => {
  const box = m.getBoundingClientRect();
  return [m.dataset.t, box.x + box.width / 2, box.y + box.height / 2, m.classList.contains("star")];
});
const send = (type, target, x, y) => target.dispatchEvent(new PointerEvent(type, { bubbles: true, clientX: x, clientY: y }));
const lit = () => [...document.querySelectorAll(".on")].map((m) => m.dataset.t);
const tip = () => { const t = document.querySelector("#tip"); return t.style.display === "block" ? t.textContent : null; };
const away = () => send("pointermove", document.querySelector("h1"), 5, 5);
const columns = () => [...document.querySelector("#trials thead").rows[0].cells];
const column = (i) => [...document.querySelector("#trials tbody").rows].map((r) => r.cells[i].dataset.v ?? r.cells[i].textContent);
const choose = (label) => {
  const select = document.querySelector("#objective");
  select.value = [...select.options].find((o) => o.textContent === label).value;
  select.dispatchEvent(new Event("change"));
};
const OBJECTIVE = columns().findIndex((c) => c.textContent.includes("error rate"));
const scale = () => [...svg.querySelectorAll(".chosen .grid")].map((line, i) => [
  svg.querySelectorAll(".chosen .tick")[i].textContent, line.getBoundingClientRect().y,
]);
step("places", places);
step("hover", () => { const [t, x, y] = places()[0]; send("pointermove", svg, x, y); return [t, lit(), tip()]; });
step("away", () => { away(); return [lit(), tip(), document.body.className]; });
step("click", () => { const [t, x, y] = places()[0]; send("click", svg, x, y); away(); return [t, lit()]; });
step("again", () => { const [, x, y] = places()[0]; send("click", svg, x, y); away(); return lit(); });
step("escape", () => {
  const [, x, y] = places()[1]; send("click", svg, x, y);
  document.dispatchEvent(new KeyboardEvent("keydown", { key: "Escape" })); return lit();
});
step("row", () => { const row = document.querySelector("#trials tbody tr"); send("pointermove", row, 9, 9); const r = [row.dataset.t, lit()]; away(); return r; });
step("titles", () => columns().map((c) => c.textContent));
step("up", () => { columns()[OBJECTIVE].querySelector("button").click(); return [column(OBJECTIVE), columns()[OBJECTIVE].ariaSort]; });
step("down", () => { columns()[OBJECTIVE].querySelector("button").click(); return [column(OBJECTIVE), columns()[OBJECTIVE].ariaSort]; });
step("options", () => [...document.querySelectorAll("#objective option")].map((o) => o.textContent));
step("shown", () => [document.querySelector(".choose").hidden, document.querySelector("#objective-log").parentElement.hidden]);
step("chosen", () => {
  choose("train error rate, final");
  const box = document.querySelector("#objective-log"), values = JSON.parse(document.querySelector("#objectives").textContent);
  const before = places(), log = box.checked, ticks = scale();
  box.checked = !box.checked; box.dispatchEvent(new Event("change"));
  return { places: before, other: places(), ticks, title: svg.querySelector(".chosen .title").textContent,
    titles: [...svg.querySelectorAll(".title")].filter((t) => !t.closest(".away") && getComputedStyle(t).display !== "none").length,
    ticks2: scale(), log,
    values: values.metrics.find((m) => m.label === "train error rate, final").values };
});
step("hover of chosen", () => { const [t, x, y] = places()[3]; send("pointermove", svg, x, y); const r = [t, lit()]; away(); return r; });
step("restored", () => { choose(document.querySelector("#objective option").textContent); return [places(), svg.querySelectorAll(".chosen").length, lit()]; });
const told = document.createElement("pre");
told.id = "told"; told.textContent = JSON.stringify({ problems, ...result });
document.body.append(told);
