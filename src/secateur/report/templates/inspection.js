(function () {
  "use strict";
  const planned = JSON.parse(document.getElementById("planned").textContent);
  const budget = document.getElementById("budget");
  const tables = document.querySelectorAll("#budgets details table");
  const scopes = planned.map((plan) => plan.scope);

  function chosen() {
    const input = document.querySelector('input[name="scope"]:checked');
    return input ? scopes.indexOf(input.value) : 0;
  }

  // Every figure was worded when the page was made: here it is only put into its place.
  function show() {
    const plan = chosen();
    const points = planned[plan].points;
    budget.max = points.length - 1;
    const at = Number(budget.value);
    const point = points[at];
    document.getElementById("kept").textContent = point.kept;
    budget.setAttribute("aria-valuetext", point.kept + " of the MACs");
    for (const place of document.querySelectorAll("[data-figure-of]")) {
      place.textContent = point.figures[place.dataset.figureOf];
    }
    const command = document.getElementById("command");
    command.hidden = !point.command;
    command.replaceChildren(...point.command.split(" ").flatMap((word) => {
      const span = document.createElement("span");  // a word does not break at its hyphens
      span.textContent = word;
      return [span, " "];
    }));
    tables.forEach((table, number) => table.querySelectorAll("tbody tr").forEach(
      (row, place) => row.classList.toggle("now", number === plan && place === at)));
    for (const row of document.querySelectorAll("#widths tr[data-group]")) {
      const group = Number(row.dataset.group);
      const rects = row.querySelectorAll("rect");
      row.lastElementChild.textContent = point.widths[group];
      rects[1].setAttribute("width", parseFloat(rects[0].getAttribute("width")) * point.bars[group] / 100 + "%");
    }
  }

  document.getElementById("slider").hidden = planned[0].points.length < 2;
  for (const place of document.querySelectorAll(".planned")) place.hidden = false;
  for (const details of document.querySelectorAll("#budgets details")) details.open = false;
  budget.max = planned[0].points.length - 1;
  budget.value = planned[0].start;
  budget.addEventListener("input", show);
  for (const input of document.querySelectorAll('input[name="scope"]')) input.addEventListener("change", show);
  show();

  // Layers of one group are shown together.
  const rows = document.querySelectorAll(".picture li[data-group]");
  for (const row of rows) {
    const toggle = (on) => rows.forEach((other) => other.classList.toggle(
      "same", on && row.dataset.group !== "-1" && other.dataset.group === row.dataset.group));
    row.addEventListener("mouseenter", () => toggle(true));
    row.addEventListener("mouseleave", () => toggle(false));
  }

  function key(row, column) {
    const text = row.children[column].textContent.trim();
    const number = parseFloat(text.replace(/,/g, ""));
    return /^[\d,.]+/.test(text) && !Number.isNaN(number) && column > 0 ? number : text;
  }

  for (const table of document.querySelectorAll("table.sortable")) {
    table.querySelectorAll("thead th").forEach((head, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = head.textContent;
      head.replaceChildren(button);
      button.addEventListener("click", () => {
        const down = head.getAttribute("aria-sort") !== "descending";
        table.querySelectorAll("thead th").forEach((other) => other.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", down ? "descending" : "ascending");
        const body = table.tBodies[0];
        const compare = (a, b) => typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b));
        body.append(...[...body.rows].sort((a, b) => (down ? -1 : 1) * compare(key(a, column), key(b, column))));
      });
    });
  }
})();
