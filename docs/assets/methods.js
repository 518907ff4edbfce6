// The table of methods: sorted by its headings, filtered by a text and three choices.
// Without this file it is a plain table.

document.addEventListener("DOMContentLoaded", () => {
  const table = document.querySelector("table.methods");
  if (table) {
    addFilters(table);
    addSorting(table);
  }
});

const CHOICES = [
  ["kind", "Kind"],
  ["needs", "Looks at"],
  ["state", "State"],
];

function addFilters(table) {
  const rows = [...table.tBodies[0].rows];
  const text = element("input", { type: "search", placeholder: "Name, paper, …" });
  const choices = CHOICES.map(([fact, label]) => [fact, label, choice(fact, rows)]);
  const count = element("p", { className: "methods-count" });
  count.setAttribute("role", "status");

  const update = () => {
    const words = text.value.toLowerCase().split(/\s+/).filter(Boolean);
    for (const row of rows) {
      const content = row.textContent.toLowerCase();
      const chosen = choices.every(([fact, , select]) => matches(row, fact, select.value));
      row.hidden = !(chosen && words.every((word) => content.includes(word)));
    }
    const shown = rows.filter((row) => !row.hidden).length;
    count.textContent = `${shown} of ${rows.length} methods`;
  };

  const form = element("form", { className: "methods-filters" });
  form.append(labelled("Find", text));
  for (const [, label, select] of choices) form.append(labelled(label, select));
  const reset = element("button", { type: "reset", textContent: "Show all" });
  form.append(reset);
  form.addEventListener("input", update);
  form.addEventListener("reset", () => setTimeout(update));
  form.addEventListener("submit", (event) => event.preventDefault());
  table.parentElement.before(form, count);
  update();
}

function matches(row, fact, wanted) {
  return !wanted || row.dataset[fact].split(" ").includes(wanted);
}

function choice(fact, rows) {
  const select = element("select", {});
  const values = new Set(rows.flatMap((row) => row.dataset[fact].split(" ")));
  select.append(element("option", { value: "", textContent: "any" }));
  for (const value of [...values].sort()) {
    select.append(element("option", { value, textContent: value }));
  }
  return select;
}

function addSorting(table) {
  const body = table.tBodies[0];
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const button = element("button", { type: "button", textContent: head.textContent });
    head.replaceChildren(button);
    button.addEventListener("click", () => {
      const falling = head.getAttribute("aria-sort") === "ascending";
      for (const other of heads) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", falling ? "descending" : "ascending");
      body.append(...sorted([...body.rows], column, falling));
    });
  });
  heads[0].setAttribute("aria-sort", "ascending");
}

// Rows without an entry come last in either order.
function sorted(rows, column, falling) {
  const entry = (row) => row.cells[column].textContent.trim();
  const compare = (a, b) => entry(a).localeCompare(entry(b), "en", { numeric: true });
  const order = (a, b) => (falling ? compare(b, a) : compare(a, b));
  const full = rows.filter((row) => entry(row));
  return [...full.sort(order), ...rows.filter((row) => !entry(row))];
}

function labelled(text, control) {
  const label = element("label", {});
  label.append(element("span", { textContent: text }), control);
  return label;
}

function element(name, properties) {
  return Object.assign(document.createElement(name), properties);
}
