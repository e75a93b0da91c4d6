"use strict";
const all = (selector, from = document) => [...from.querySelectorAll(selector)];
const status = document.getElementById("status");

// Sorting. The first press puts the better end first; rows without a value stay last; equal rows keep their order.
for (const table of all("table.sortable")) {
  const heads = all("thead th", table);
  heads.forEach((head, column) => {
    if (!("better" in head.dataset) && column > 0) return;
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const first = head.dataset.better === "higher" ? "descending" : "ascending";
      const other = first === "ascending" ? "descending" : "ascending";
      const order = head.getAttribute("aria-sort") === first ? other : first;
      heads.forEach((one) => one.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", order);
      sort(table, column, order === "ascending" ? 1 : -1);
      status.textContent = `sorted by ${button.textContent.trim()}, ${order}`;
    });
  });
}

function sort(table, column, sign) {
  const body = table.tBodies[0];
  const keyed = [...body.rows].map((row) => {
    const cell = row.cells[column];
    return [column === 0 ? cell.textContent : cell.dataset.v === "" ? null : Number(cell.dataset.v), row];
  });
  keyed.sort(([a], [b]) => {
    if (a === null || b === null) return (a === null) - (b === null);
    return sign * (typeof a === "string" ? a.localeCompare(b, "en") : a - b);
  });
  body.append(...keyed.map(([, row]) => row));
}

// Filters. A row, a point or a picture stays while one of its methods is ticked; a name that is no method stays, too.
const form = document.getElementById("filters");
const boxes = (name) => all(`input[name=${name}]`, form);
form.hidden = false;

function filter() {
  const boards = new Map(boxes("board").map((box) => [box.value, box.checked]));
  const methods = new Map(boxes("method").map((box) => [box.value, box.checked]));
  const kept = (name) => {
    const known = name.split("+").filter((one) => methods.has(one));
    return known.length === 0 || known.some((one) => methods.get(one));
  };
  for (const section of all("section.board")) section.hidden = !boards.get(section.id);
  for (const element of all("[data-method]")) element.toggleAttribute("hidden", !kept(element.dataset.method));
  for (const part of all("[data-part]")) part.hidden = !part.querySelector("[data-method]:not([hidden])");
  const rows = all("section.board:not([hidden]) tbody tr");
  status.textContent = `${rows.filter((row) => !row.hidden).length} of ${all("section.board tbody tr").length} rows shown`;
}
form.addEventListener("change", filter);
form.addEventListener("submit", (event) => event.preventDefault());
form.addEventListener("reset", () => setTimeout(filter));
document.getElementById("none").addEventListener("click", () => {
  for (const box of boxes("method")) box.checked = false;
  filter();
  boxes("method")[0].focus();
});

// Gallery. A picture opens large beside that of plain sampling; arrow keys go on, Escape closes.
const viewer = document.getElementById("viewer");
let shown = [];
let plain = null;
let place = 0;

function show(step) {
  place = (place + step + shown.length) % shown.length;
  const pair = plain === null || shown[place] === plain ? [shown[place]] : [shown[place], plain];
  viewer.querySelector(".pair").replaceChildren(...pair.map((figure) => {
    const copy = document.createElement("figure");
    copy.append(figure.querySelector("img").cloneNode(), figure.querySelector("figcaption").cloneNode(true));
    return copy;
  }));
}

for (const gallery of all("[data-gallery]")) {
  for (const image of all("figure > img", gallery)) {
    const button = document.createElement("button");
    button.type = "button";
    button.setAttribute("aria-haspopup", "dialog");
    image.replaceWith(button);
    button.append(image);
    button.addEventListener("click", () => {
      const items = all("li:not([hidden])", gallery).filter((item) => item.querySelector("img"));
      shown = items.map((item) => item.querySelector("figure"));
      place = shown.indexOf(button.parentElement);
      const first = (from) => all("[data-plain] figure", from).find((figure) => figure.querySelector("img"));
      plain = first(gallery) ?? first(gallery.closest(".board")) ?? null;
      show(0);
      viewer.showModal();
    });
  }
}
viewer.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (event.target === viewer || button?.hasAttribute("data-close")) viewer.close();
  else if (button) show(Number(button.dataset.go));
});
viewer.addEventListener("keydown", (event) => {
  const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  if (step) show(step);
});

// A link shows what it points at: hidden by a filter, all filters go; folded, it unfolds.
function reveal() {
  const target = document.getElementById(location.hash.slice(1));
  if (!target) return;
  if (target.closest("[hidden]")) {
    for (const box of all("input", form)) box.checked = true;
    filter();
  }
  const folded = target.closest("details");
  if (folded) {
    folded.open = true;
    target.focus();
  }
  (folded ?? target).scrollIntoView();
}
addEventListener("hashchange", reveal);
reveal();
