
"use strict";
{
  const MOST_ROWS = 100; // shown until the button for all is clicked
  const MOST_CHOICES = 40; // of a filter; a column with more values has none
  const table = document.getElementById("trials-table");
  const body = table.tBodies[0];
  const headings = [...table.tHead.rows[0].cells];
  const filters = document.getElementById("filters");
  const shown = document.getElementById("shown");
  const trials = [...body.rows].map((row, rank) => {
    const texts = [...row.cells].map((cell) => cell.textContent);
    return { row, rank, texts, all: texts.join(" ").toLowerCase() };
  });
  let sorted = { column: 0, descending: false };
  let showAll = false;

  const make = (tag, properties, ...children) => {
    const element = Object.assign(document.createElement(tag), properties);
    element.append(...children);
    return element;
  };
  const isNumber = (column) => headings[column].classList.contains("number");

  // Missing values stay last in both directions.
  const compare = (a, b) => {
    const { column, descending } = sorted;
    const [x, y] = [a.texts[column], b.texts[column]];
    if (x === y) return a.rank - b.rank;
    if (x === "" || y === "") return x === "" ? 1 : -1;
    const order = isNumber(column) ? Number(x) - Number(y) : x.localeCompare(y, "en", { numeric: true });
    return (descending ? -order : order) || a.rank - b.rank;
  };

  const search = make("input", { type: "search", id: "search", autocomplete: "off", spellcheck: false });
  const choices = new Map(); // column -> select
  const wanted = (trial) =>
    search.value.toLowerCase().split(/\s+/).every((word) => trial.all.includes(word)) &&
    [...choices].every(([column, select]) => select.value === "" || trial.texts[column] === select.value);

  const more = make("button", { type: "button", className: "more" });
  const show = () => {
    const found = trials.filter(wanted).sort(compare);
    const rows = showAll ? found : found.slice(0, MOST_ROWS);
    body.replaceChildren(...rows.map((trial) => trial.row));
    const total = trials.length.toLocaleString("en");
    const number = rows.length.toLocaleString("en");
    shown.textContent = `${number} of ${total} trials shown`;
    more.hidden = rows.length === found.length;
    more.textContent = `Show all ${found.length.toLocaleString("en")}`;
  };

  const sortBy = (column) => {
    const again = sorted.column === column;
    const first = headings[column].dataset.first === "descending";
    sorted = { column, descending: again ? !sorted.descending : first };
    for (const heading of headings) heading.removeAttribute("aria-sort");
    headings[column].setAttribute("aria-sort", sorted.descending ? "descending" : "ascending");
    show();
  };

  headings.forEach((heading, column) => {
    const button = make("button", { type: "button" }, heading.textContent);
    button.addEventListener("click", () => sortBy(column));
    heading.replaceChildren(button);
    const values = [...new Set(trials.map((trial) => trial.texts[column]))];
    if (!("filter" in heading.dataset) || values.length < 2 || values.length > MOST_CHOICES) return;
    values.sort((a, b) => (isNumber(column) ? a - b : a.localeCompare(b)));
    const options = values.map((value) => make("option", { value }, value));
    const select = make("select", {}, make("option", { value: "" }, "all"), ...options);
    select.addEventListener("change", show);
    choices.set(column, select);
  });
  search.addEventListener("input", show);
  more.addEventListener("click", () => {
    showAll = true;
    show();
  });

  filters.append(make("label", {}, "Search", search));
  for (const [column, select] of choices) {
    filters.append(make("label", {}, headings[column].textContent, select));
  }
  const reset = make("button", { type: "button", id: "reset" }, "Clear filters");
  reset.addEventListener("click", () => {
    search.value = "";
    for (const select of choices.values()) select.value = "";
    show();
    search.focus();
  });
  filters.append(reset);
  filters.hidden = shown.hidden = trials.length < 2;
  table.parentElement.after(more);
  show();

  // Elements that scroll must be reachable by keyboard, and no others.
  const scrollers = [...document.querySelectorAll(".picture, pre")];
  const markScrollers = () => {
    for (const each of scrollers) {
      const scrolls = each.scrollWidth > each.clientWidth || each.scrollHeight > each.clientHeight;
      if (scrolls) each.tabIndex = 0;
      else each.removeAttribute("tabindex");
    }
  };
  for (const picture of document.querySelectorAll(".wide .picture")) {
    const button = make("button", { type: "button", className: "enlarge" }, "Enlarge");
    button.setAttribute("aria-expanded", "false");
    button.addEventListener("click", () => {
      const large = picture.classList.toggle("large");
      button.textContent = large ? "Fit to the window" : "Enlarge";
      button.setAttribute("aria-expanded", String(large));
      markScrollers();
    });
    picture.after(button);
  }
  addEventListener("load", markScrollers);
  addEventListener("resize", markScrollers);

  const copy = async (text) => {
    try {
      await navigator.clipboard.writeText(text);
      return true;
    } catch {
      return false;
    }
  };
  for (const command of document.querySelectorAll(".command")) {
    const code = command.querySelector("code");
    const button = make("button", { type: "button", className: "copy" }, "Copy");
    button.setAttribute("aria-live", "polite");
    button.addEventListener("click", async () => {
      if (await copy(code.textContent)) {
        button.textContent = "Copied";
        return;
      }
      // A browser may deny access to the clipboard; then select the text.
      getSelection().selectAllChildren(code);
      button.textContent = "Selected";
    });
    command.append(button);
  }
}
