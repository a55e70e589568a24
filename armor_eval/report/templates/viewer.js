"use strict";
// The per-item viewer. Every text from a model goes through textContent; nothing is ever parsed as markup, nothing is fetched.
(async () => {
  const PAGE = 50;
  const GALLERY = 24;
  const $ = (id) => document.getElementById(id);
  const el = (tag, text, cls) => {
    const node = document.createElement(tag);
    if (text !== undefined) node.textContent = text;
    if (cls) node.className = cls;
    return node;
  };
  const svg = (tag, attributes) => {
    const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    return node;
  };

  const unpack = async (base64) => {
    const raw = atob(base64);
    const bytes = new Uint8Array(raw.length);
    for (let i = 0; i < raw.length; i++) bytes[i] = raw.charCodeAt(i);
    return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).json();
  };

  let T;
  try {
    T = await unpack($("table-data").textContent);
  } catch (error) {
    $("count").textContent = "This browser cannot unpack the items (it needs DecompressionStream).";
    return;
  }
  const pictures = JSON.parse($("picture-data").textContent);
  const total = T.id.length;
  const flips = T.flip.length > 0;
  const haystack = new Array(total);
  for (let i = 0; i < total; i++) {
    haystack[i] = (T.id[i] + "\n" + T.prompts[T.prompt[i]] + "\n" + T.gold[i] + "\n" + T.output[i] + "\n" + T.parsed[i] + "\n" + T.reason[i]
      + (flips ? "\n" + T.other[i][4] : "")).toLowerCase();
  }

  const fill = (id, labels, column) => {
    const counts = new Map();
    for (const v of column) counts.set(v, (counts.get(v) || 0) + 1);
    labels.forEach((label, i) => {
      if (counts.has(i)) $(id).append(new Option(`${label || "(none)"} (${counts.get(i).toLocaleString("en")})`, i));
    });
  };
  fill("f-run", T.runs.map((r) => `${r.label} · ${r.id}`), T.run);
  fill("f-status", T.statuses, T.status);
  fill("f-outcome", T.outcomes, T.outcome);
  fill("f-group", T.groups, T.group);

  let found = [];
  let at = 0;
  const wanted = (id) => ($(id) && $(id).value !== "" ? Number($(id).value) : -1);

  // Wrong, unread, partly right, lost, right: what needs an eye comes first.
  const rank = (i) => (T.outcome[i] === 2 ? (T.status[i] === 0 ? 0 : 1) : T.outcome[i] === 1 ? 2 : T.outcome[i] === 4 ? 3 : 4);
  const wrong = (i) => T.outcome[i] !== 0 && T.outcome[i] !== 3;

  const filter = () => {
    const start = performance.now();
    const run = wanted("f-run"), status = wanted("f-status"), outcome = wanted("f-outcome"), group = wanted("f-group"), flip = wanted("f-flip");
    const words = $("f-text").value.toLowerCase().split(/\s+/).filter(Boolean);
    found = [];
    for (let i = 0; i < total; i++) {
      if (run >= 0 && T.run[i] !== run) continue;
      if (status >= 0 && T.status[i] !== status) continue;
      if (outcome >= 0 && T.outcome[i] !== outcome) continue;
      if (group >= 0 && T.group[i] !== group) continue;
      if (flip >= 0 && T.flip[i] !== flip) continue;
      if (words.length && !words.every((w) => haystack[i].includes(w))) continue;
      found.push(i);
    }
    if (wanted("f-order") === 1) found.sort((a, b) => rank(a) - rank(b) || a - b);
    show(0);
    document.documentElement.dataset.filterMs = (performance.now() - start).toFixed(1);
    document.documentElement.dataset.found = found.length;
  };

  const show = (position) => {
    at = Math.max(0, Math.min(position, found.length - 1));
    const first = at - (at % PAGE);
    const list = $("list");
    list.replaceChildren(...found.slice(first, first + PAGE).map((i, k) => row(i, first + k)));
    $("count").textContent = `${found.length.toLocaleString("en")} of ${total.toLocaleString("en")} items`;
    $("page").textContent = found.length ? `${first + 1}-${Math.min(first + PAGE, found.length)}` : "none";
    $("prev").disabled = first === 0;
    $("next").disabled = first + PAGE >= found.length;
    mark();
  };

  const row = (i, position) => {
    const node = el("li");
    node.id = `item-${position}`;
    node.setAttribute("role", "option");
    node.dataset.position = position;
    const head = el("span");
    if (flips) head.append(el("span", T.flip[i] === 1 ? "lost" : "gained", "tag " + (T.flip[i] === 1 ? "lost" : "gained")));
    head.append(...tags(T.status[i], T.outcome[i]), T.id[i]);
    node.append(head, el("span", T.prompts[T.prompt[i]].slice(0, 160), "q"));
    return node;
  };

  const tags = (status, outcome) => {
    const made = [el("span", T.outcomes[outcome], "tag " + T.outcomes[outcome])];
    if (status !== 0) made.push(el("span", T.statuses[status], "tag " + T.statuses[status]));
    return made;
  };

  const mark = () => {
    const list = $("list");
    for (const node of list.children) {
      const chosen = Number(node.dataset.position) === at;
      node.setAttribute("aria-selected", chosen);
      if (chosen) {
        list.setAttribute("aria-activedescendant", node.id);
        const top = node.offsetTop - list.offsetTop;
        if (top < list.scrollTop) list.scrollTop = top;
        if (top + node.offsetHeight > list.scrollTop + list.clientHeight) list.scrollTop = top + node.offsetHeight - list.clientHeight;
      }
    }
    detail();
  };

  const move = (step) => {
    const next = Math.max(0, Math.min(at + step, found.length - 1));
    if (next === at) return;
    if (Math.floor(next / PAGE) !== Math.floor(at / PAGE)) { show(next); return; }
    at = next;
    mark();
  };

  const moveToWrong = (step) => {
    for (let next = at + step; next >= 0 && next < found.length; next += step) if (wrong(found[next])) { move(next - at); return; }
  };

  const gallery = () => {
    const drawn = [];
    for (let i = 0; i < total; i++) if (T.drawn[i] && T.drawn[i].some((key) => pictures[key])) drawn.push(i);
    if (!drawn.length) return;
    drawn.sort((a, b) => rank(a) - rank(b) || a - b);
    const half = GALLERY / 2, right = drawn.filter((i) => !wrong(i)), bad = drawn.filter(wrong);
    const chosen = [...bad.slice(0, Math.max(half, GALLERY - right.length)), ...right.slice(0, Math.max(half, GALLERY - bad.length))];
    for (const i of chosen.slice(0, GALLERY)) {
      const button = el("button", undefined, "shown");
      button.type = "button";
      const caption = el("span", T.prompts[T.prompt[i]].slice(0, 90));
      button.append(picture(T.drawn[i].find((key) => pictures[key]), T.outcomes[T.outcome[i]], T.boxes[i]).querySelector(".pic"), ...tags(T.status[i], T.outcome[i]), caption);
      button.addEventListener("click", () => {
        $("filters").reset();
        filter();
        const place = found.indexOf(i);
        if (place >= 0) show(place);
        $("items").scrollIntoView();
      });
      document.querySelector("#gallery .gallery").append(button);
    }
    $("gallery").hidden = false;
  };

  const picture = (key, caption, boxes) => {
    const figure = el("figure");
    const data = pictures[key];
    if (!data) {
      figure.append(el("figcaption", `${caption}: ${key} (not in this page)`));
      return figure;
    }
    const [width, height, mime, base64] = data;
    const frame = el("div", undefined, "pic");
    const image = el("img");
    const dress = (w, h) => {
      if (w <= 96) image.className = "small";
      if (boxes) frame.append(overlay(w, h, boxes));
    };
    image.alt = caption;
    frame.append(image);
    if (mime) {
      image.src = `data:${mime};base64,${base64}`;
      dress(width, height);
    } else { // of a server: the address stands in its place, and the size comes with the image
      image.loading = "lazy";
      image.addEventListener("load", () => dress(image.naturalWidth, image.naturalHeight));
      image.src = base64;
    }
    figure.append(frame, el("figcaption", caption));
    if (boxes) for (const b of boxes) figure.append(el("figcaption", `${b[5]} ${b[4].toFixed(2)}`));
    return figure;
  };

  const COLORS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"];
  const overlay = (width, height, boxes) => {
    const layer = svg("svg", { viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: "none", "aria-hidden": "true" });
    boxes.forEach((b, k) => {
      const color = COLORS[k % COLORS.length];
      layer.append(svg("rect", { x: b[0], y: b[1], width: Math.max(0, b[2] - b[0]), height: Math.max(0, b[3] - b[1]), fill: "none", stroke: color,
        "stroke-width": 2, "stroke-dasharray": k % 2 ? "5 3" : "none", "vector-effect": "non-scaling-stroke" }));
      const label = svg("text", { x: b[0] + width * 0.01, y: Math.max(b[1] + height * 0.06, height * 0.06), fill: color, "font-size": height * 0.06 });
      label.textContent = b[5];
      layer.append(label);
    });
    return layer;
  };

  const field = (list, name, value) => {
    if (value === "" || value === null || value === undefined) return;
    list.append(el("dt", name), el("dd", String(value)));
  };

  const answer = (run, status, outcome, score, output, parsed, reason, drawn, boxes) => {
    const side = el("div");
    const head = el("p");
    head.append(...tags(status, outcome), `${T.runs[run].model} · ${T.runs[run].id}`);
    const list = el("dl");
    field(list, "answer", output);
    field(list, "parsed", parsed);
    field(list, "score", score);
    field(list, "reason", reason);
    side.append(head, list);
    if (drawn) {
      const row = el("div", undefined, "pics");
      drawn.forEach((key, k) => row.append(picture(key, `drawn ${k + 1}`, k === 0 ? boxes : 0)));
      side.append(row);
    }
    return side;
  };

  const detail = () => {
    const box = $("detail");
    if (!found.length) { box.replaceChildren(el("p", "Nothing matches these filters.")); return; }
    const i = found[at];
    const head = el("h3", `${T.runs[T.run[i]].bench} · ${T.id[i]}`);
    const list = el("dl");
    field(list, "group", T.groups[T.group[i]]);
    field(list, "prompt", T.prompts[T.prompt[i]]);
    field(list, "expected", T.gold[i]);
    const parts = [head];
    if (T.seen[i]) {
      const row = el("div", undefined, "pics");
      // Further images of one question stand under its key with a number.
      const seen = T.seen[i].flatMap((key) => { const all = [key]; while (pictures[`${key}~${all.length}`]) all.push(`${key}~${all.length}`); return all; });
      seen.forEach((key, k) => row.append(picture(key, `image ${k + 1}`, 0)));
      parts.push(row);
    }
    parts.push(list);
    const ours = answer(T.run[i], T.status[i], T.outcome[i], T.score[i], T.output[i], T.parsed[i], T.reason[i], T.drawn[i], T.boxes[i]);
    if (flips) {
      const sides = el("div", undefined, "sides");
      const base = answer(...T.other[i]);
      base.prepend(el("strong", "base"));
      ours.prepend(el("strong", "candidate"));
      sides.append(base, ours);
      parts.push(sides);
    } else {
      parts.push(ours);
    }
    box.replaceChildren(...parts);
    box.scrollTop = 0;
  };

  const narrow = window.matchMedia("(max-width: 48rem)");
  $("list").addEventListener("click", (event) => {
    const node = event.target.closest("li");
    if (!node) return;
    at = Number(node.dataset.position);
    mark();
    if (narrow.matches) $("detail").scrollIntoView({ block: "start" });
  });
  $("prev").addEventListener("click", () => show(at - (at % PAGE) - PAGE));
  $("next").addEventListener("click", () => show(at - (at % PAGE) + PAGE));
  $("filters").addEventListener("submit", (event) => event.preventDefault());
  $("filters").addEventListener("input", filter);
  $("filters").addEventListener("reset", () => setTimeout(filter));

  const keys = {
    j: () => move(1), ArrowDown: () => move(1), k: () => move(-1), ArrowUp: () => move(-1),
    n: () => $("next").click(), PageDown: () => $("next").click(), p: () => $("prev").click(), PageUp: () => $("prev").click(),
    Home: () => show(0), End: () => show(found.length - 1),
    w: () => moveToWrong(1), W: () => moveToWrong(-1),
    b: () => document.body.classList.toggle("noboxes"),
    "/": () => { $("f-text").focus(); $("f-text").select(); },
  };
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const typing = /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName);
    if (event.key === "Escape") { $("list").focus(); return; }
    if (typing) {
      if (event.key === "Enter" && event.target.id === "f-text") $("list").focus();
      return;
    }
    const inList = event.target === $("list");
    const named = event.key.length > 1;
    // Arrow and page keys belong to the page unless the list has the focus; letters work everywhere.
    if (named && !inList) return;
    const run = keys[event.key];
    if (!run) return;
    event.preventDefault();
    run();
  });
  filter();
  gallery();
  document.documentElement.dataset.ready = "yes";
})();
