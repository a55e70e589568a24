"use strict";
// What the server of `armor-eval view` adds: the sortable table of all runs, and how far a run is that is still going on.
(() => {
  const SECONDS = 2;
  const $ = (id) => document.getElementById(id);
  const el = (tag, text, cls) => {
    const node = document.createElement(tag);
    if (text !== undefined) node.textContent = text;
    if (cls) node.className = cls;
    return node;
  };
  const count = (n) => n.toLocaleString("en");
  const done = (row) => (row.state.startsWith("complete") || row.of === null ? count(row.items) : `${count(row.items)} of ${count(row.of)}`);

  const poll = (act) => {
    const ask = async () => {
      const start = performance.now();
      try {
        const reply = await fetch("/api/runs");
        if (reply.ok) act(await reply.json());
      } catch (error) {
        act(null);
      }
      setTimeout(ask, Math.max(SECONDS * 1000, 10 * (performance.now() - start))); // a machine that measures has little to spare
    };
    setTimeout(ask, SECONDS * 1000);
  };

  const table = $("all-runs");
  if (table) {
    let rows = JSON.parse($("run-data").textContent);
    let key = "date", sign = -1;
    const chosen = new Set();

    const cells = (row) => {
      const tr = el("tr");
      const box = el("input");
      box.type = "checkbox"; box.name = "run"; box.value = row.key; box.checked = chosen.has(row.key);
      box.setAttribute("aria-label", `choose ${row.folder}`);
      box.addEventListener("change", () => (box.checked ? chosen.add(row.key) : chosen.delete(row.key)));
      const first = el("td");
      if (row.state !== "unreadable") first.append(box);
      const name = el("th");
      name.scope = "row";
      const link = el("a", row.folder);
      link.href = `/runs?run=${row.key}`;
      name.append(row.state === "unreadable" ? row.folder : link);
      const state = el("td", undefined, row.state.startsWith("complete") ? "right" : row.state.startsWith("running") ? "" : "wrong");
      state.append(row.state);
      if (row.why) state.append(el("div", row.why, "hint"));
      tr.append(first, name, el("td", row.date.slice(0, 16).replace("T", " ")), el("td", row.model), el("td", row.benchmark), el("td", row.score, "num"),
        el("td", row.interval, "num"), el("td", done(row), "num"), state);
      return tr;
    };
    const draw = () => {
      const value = (row) => row[key];
      const known = rows.filter((row) => value(row) !== null && value(row) !== "");
      known.sort((a, b) => sign * (typeof value(a) === "number" ? value(a) - value(b) : value(a).localeCompare(value(b))));
      const without = rows.filter((row) => !known.includes(row)); // last in either order
      const focus = document.activeElement && document.activeElement.value;
      table.tBodies[0].replaceChildren(...[...known, ...without].map(cells));
      for (const box of table.querySelectorAll("input")) if (box.value === focus) box.focus();
      for (const button of table.querySelectorAll("thead button")) {
        button.parentNode.setAttribute("aria-sort", button.dataset.key !== key ? "none" : sign > 0 ? "ascending" : "descending");
      }
    };
    for (const button of table.querySelectorAll("thead button")) {
      button.addEventListener("click", () => {
        sign = button.dataset.key === key ? -sign : 1;
        key = button.dataset.key;
        draw();
      });
    }
    draw();
    poll((now) => {
      $("count").textContent = now ? `${now.length} runs` : "the server has ended; this is what it last said";
      if (now && JSON.stringify(now) !== JSON.stringify(rows)) { rows = now; draw(); }
    });
    document.documentElement.dataset.ready = "yes";
  }

  const live = $("live");
  if (live) {
    const keys = live.dataset.runs.split(",");
    const shown = Number(live.dataset.items);
    let before = null;
    poll((all) => {
      if (!all) { live.textContent = "the server has ended"; return; }
      const rows = all.filter((row) => keys.includes(row.key));
      if (rows.some((row) => !row.state.startsWith("running"))) { location.reload(); return; }
      const items = rows.reduce((sum, row) => sum + row.items, 0);
      if (before === null) before = items;
      const line = rows.map((row) => {
        const rest = Object.entries(row.counts).filter(([status]) => status !== "ok").map(([status, n]) => `, ${count(n)} ${status}`).join("");
        return `${row.benchmark}, ${row.model}: still going on, ${done(row)} items${rest}`;
      }).join("; ");
      const again = el("button", "Show the new ones");
      again.type = "button";
      again.addEventListener("click", () => location.reload());
      live.replaceChildren(line + " ", ...(items > before || (rows.length === keys.length && shown < before) ? [again] : []));
    });
  }
})();
