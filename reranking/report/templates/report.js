"use strict";
(() => {
  const value = (unit, name, numeric) => {
    const cell = unit.querySelector(`[data-column="${name}"]`);
    const text = cell.dataset.value ?? cell.textContent.trim();
    return numeric ? Number(text) : text.toLowerCase();
  };

  const sort = (table, button) => {
    const header = button.closest("th");
    const numeric = button.dataset.kind === "number";
    const first = numeric ? "descending" : "ascending";
    const other = numeric ? "ascending" : "descending";
    const order = header.getAttribute("aria-sort") === first ? other : first;
    const factor = order === "ascending" ? 1 : -1;
    const units = [...table.querySelectorAll(":scope > .unit, :scope > tbody > .unit")];
    const keys = new Map(units.map((unit) => [unit, value(unit, button.dataset.sort, numeric)]));
    units.sort((a, b) => {
      const x = keys.get(a);
      const y = keys.get(b);
      return factor * (numeric ? x - y : x.localeCompare(y));
    });
    units.forEach((unit) => unit.parentNode.append(unit));
    table.querySelectorAll("th[aria-sort]").forEach((th) => th.removeAttribute("aria-sort"));
    header.setAttribute("aria-sort", order);
  };

  document.querySelectorAll("table.sortable").forEach((table) => {
    table.querySelectorAll("button[data-sort]").forEach((button) => {
      button.addEventListener("click", () => sort(table, button));
    });
  });

  const search = document.getElementById("search");
  if (search) {
    const status = document.getElementById("found");
    const units = [...document.querySelectorAll("#moved-queries .unit")];
    const texts = new Map(units.map((unit) => [unit, unit.textContent.toLowerCase()]));
    const apply = () => {
      const wanted = search.value.toLowerCase().split(/\s+/).filter(Boolean);
      let shown = 0;
      units.forEach((unit) => {
        unit.hidden = !wanted.every((word) => texts.get(unit).includes(word));
        shown += unit.hidden ? 0 : 1;
      });
      status.textContent = `${shown} of ${units.length} shown`;
    };
    search.addEventListener("input", apply);
    apply();
  }

  const toggle = document.getElementById("toggle-all");
  if (toggle) {
    toggle.addEventListener("click", () => {
      const open = toggle.getAttribute("aria-pressed") !== "true";
      document.querySelectorAll("#moved-queries details").forEach((d) => (d.open = open));
      toggle.setAttribute("aria-pressed", String(open));
    });
  }

  document.querySelectorAll(".rankings").forEach((rankings) => {
    const mark = (event) => {
      const item = event.target.closest("li[data-doc]");
      rankings.querySelectorAll("li.twin").forEach((li) => li.classList.remove("twin"));
      if (item) {
        rankings.querySelectorAll("li[data-doc]").forEach((li) => {
          if (li.dataset.doc === item.dataset.doc) li.classList.add("twin");
        });
      }
    };
    rankings.addEventListener("mouseover", mark);
    rankings.addEventListener("mouseleave", mark);
  });

  const hint = () => {
    document.querySelectorAll(".scroll").forEach((part) => {
      part.classList.toggle("more", part.scrollWidth > part.clientWidth + 1);
    });
  };
  hint();
  window.addEventListener("resize", hint);

  document.documentElement.classList.add("scripted");
})();
