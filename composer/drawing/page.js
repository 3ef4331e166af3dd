"use strict";
(() => {
  const lines = new Map(Object.entries(JSON.parse(document.getElementById("lines").textContent)));
  const graph = document.getElementById("graph"), wires = document.getElementById("wires");
  const tree = graph.querySelector("ul"), chosen = document.getElementById("chosen");
  const items = [...tree.querySelectorAll("li")];
  const byAddress = new Map(items.filter(i => i.dataset.address).map(i => [i.dataset.address, i]));
  const texts = new Map([...document.querySelectorAll(".line")].map(l => [l.dataset.at, l]));
  const row = item => item.querySelector(":scope > .row");
  const above = item => item.parentElement.closest("li");
  const isOpen = item => item.getAttribute("aria-expanded") !== "false";
  const isSeen = item => { for (let a = above(item); a; a = above(a)) if (!isOpen(a)) return false; return true; };
  const seen = () => items.filter(isSeen);

  // The box of a value: that of its address, or of the nearest address around it; if that is folded away, what is seen.
  const boxOf = address => {
    let at = address, item = byAddress.get(at);
    while (!item && at.includes(".")) { at = at.slice(0, at.lastIndexOf(".")); item = byAddress.get(at); }
    for (let a = item && above(item); a; a = above(a)) if (!isOpen(a)) item = a;
    return item;
  };

  const fold = (item, open) => {
    if (!item.hasAttribute("aria-expanded")) return;
    item.setAttribute("aria-expanded", String(open));
  };

  // Lines beside the boxes, for what a node reads besides the box above: one lane for each value that is read.
  const make = (name, values) => {
    const made = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(values)) made.setAttribute(key, value);
    return made;
  };
  const draw = () => {
    const readers = new Map();
    for (const item of items) {
      if (!isSeen(item)) continue;
      const folded = item.hasAttribute("aria-expanded") && !isOpen(item);
      for (const address of JSON.parse(folded ? item.dataset.reads : item.dataset.own)) {
        const from = boxOf(address);
        if (!from || from === item || from.contains(item) || item.contains(from)) continue;
        if (!readers.has(from)) readers.set(from, new Set());
        readers.get(from).add(item);
      }
    }
    const base = graph.getBoundingClientRect(), right = tree.getBoundingClientRect().right - base.left - 78;
    const middle = item => { const box = row(item).getBoundingClientRect();
      return box.top + box.height / 2 - base.top + graph.scrollTop; };
    const edge = item => row(item).getBoundingClientRect().right - base.left;
    const spans = [...readers].map(([from, to]) => {
      const ys = [...to].map(middle);
      return { from, to: [...to], top: Math.min(middle(from), ...ys), bottom: Math.max(middle(from), ...ys) };
    }).filter(s => !(s.to.length === 1 && nextSeen(s.from) === s.to[0]));
    spans.sort((a, b) => (a.bottom - a.top) - (b.bottom - b.top));
    const lanes = [], made = [];
    for (const span of spans) {
      let lane = lanes.findIndex(l => l.every(o => o.bottom < span.top - 3 || o.top > span.bottom + 3));
      if (lane < 0) lane = lanes.push([]) - 1;
      lanes[lane].push(span);
      const x = right + 12 + 9 * Math.min(lane, 6), start = middle(span.from) + 5;
      const on = span.from.classList.contains("chosen");
      for (const to of span.to) {
        const y = middle(to) - 4, mark = on || to.classList.contains("chosen") ? "on" : "";
        const turn = y > start ? 5 : -5;
        made.push(make("path", { class: mark, d: `M${edge(span.from)},${start}H${x - 5}q5,0 5,${turn}V${y - turn}q0,${turn} -5,${turn}H${edge(to) + 1}m5,-3l-5,3l5,3` }));
      }
    }
    wires.replaceChildren(...made);
  };
  const nextSeen = item => { const list = seen(); return list[list.indexOf(item) + 1]; };

  const element = (name, text, kind) => {
    const made = document.createElement(name);
    made.textContent = text;
    if (kind) made.className = kind;
    return made;
  };
  const typeOf = item => (item.querySelector(":scope > .edge") || row(item).querySelector(".type") || {}).textContent;
  const told = item => {
    const box = row(item), cost = box.querySelector(".cost"), said = kind => (box.querySelector(kind) || {}).textContent || "";
    chosen.replaceChildren(element("h3", item.dataset.address || said("b")));
    const block = [said(".block"), said(".options")].filter(Boolean).join("  ");
    if (block) chosen.append(element("div", block));
    if (typeOf(item)) chosen.append(element("div", "→ " + typeOf(item)));
    if (cost) {
      const words = [[".p", "parameters"], [".f", "FLOPs"], [".a", "activations"]];
      const facts = words.map(([kind, word]) => [cost.querySelector(kind).textContent, word]).filter(([v]) => v);
      if (facts.length) chosen.append(element("div", facts.map(f => f.join(" ")).join(" · ")));
    }
    const reads = JSON.parse(item.dataset.reads);
    if (reads.length) {
      const from = element("div", "reads ");
      for (const address of reads) {
        const read = byAddress.get(address), type = read && typeOf(read);
        const link = element("button", type ? `${address}  ${type}` : address, "link");
        link.type = "button";
        link.addEventListener("click", () => { const to = boxOf(address); if (to) choose(to, true); });
        from.append(link);
      }
      chosen.append(from);
    }
  };

  const choose = (item, scroll, quiet) => {
    for (let a = above(item); a; a = above(a)) fold(a, true);
    for (const old of document.querySelectorAll(".chosen, .marked")) old.classList.remove("chosen", "marked");
    for (const other of items) { other.removeAttribute("aria-selected"); other.tabIndex = -1; }
    item.classList.add("chosen");
    item.setAttribute("aria-selected", "true");
    item.tabIndex = 0;
    told(item);
    let first = null;
    for (const [file, start, end] of lines.get(item.dataset.address) || [])
      for (let n = start; n <= end; n++) {
        const line = texts.get(`${file}:${n}`);
        if (line) { line.classList.add("marked"); first = first || line; }
      }
    if (first && scroll !== "graph") first.scrollIntoView({ block: "center", inline: "nearest" });
    if (scroll) row(item).scrollIntoView({ block: "center", inline: "nearest" });
    draw();
    if (!quiet && item.dataset.address) {
      try { history.replaceState(null, "", "#node=" + encodeURIComponent(item.dataset.address)); } catch { /* a sandbox */ }
    }
  };

  // The innermost node of a line, and of its copies the first.
  const nodeOf = at => {
    const [file, line] = at.split(":").map(Number);
    let best = null, size = Infinity;
    for (const item of items)
      for (const [f, start, end] of lines.get(item.dataset.address) || [])
        if (f === file && start <= line && line <= end && end - start < size) { best = item; size = end - start; }
    return best;
  };

  tree.addEventListener("click", event => {
    const item = event.target.closest("li");
    if (!item || !event.target.closest(".row")) return;
    if (event.target.closest(".twisty")) { fold(item, !isOpen(item)); draw(); } else choose(item);
    item.focus({ preventScroll: true });
  });
  tree.addEventListener("dblclick", event => {
    const item = event.target.closest("li");
    if (item && event.target.closest(".row")) { fold(item, !isOpen(item)); draw(); }
  });
  tree.addEventListener("keydown", event => {
    const item = event.target.closest("li"), list = seen(), k = list.indexOf(item);
    const moves = { ArrowDown: list[k + 1], ArrowUp: list[k - 1], Home: list[0], End: list[list.length - 1] };
    if (event.key in moves) { if (moves[event.key]) go(moves[event.key]); }
    else if (event.key === "ArrowRight") { if (isOpen(item)) { const c = item.querySelector("li"); if (c) go(c); } else fold(item, true); }
    else if (event.key === "ArrowLeft") {
      if (item.getAttribute("aria-expanded") === "true") fold(item, false); else if (above(item)) go(above(item));
    } else if (event.key === "Enter" || event.key === " ") choose(item);
    else return;
    event.preventDefault();
    draw();
  });
  const go = item => {
    for (const other of items) other.tabIndex = -1;
    item.tabIndex = 0;
    item.focus({ preventScroll: true });
    row(item).scrollIntoView({ block: "nearest" });
  };

  for (const file of document.querySelectorAll(".file")) {
    const own = [...file.querySelectorAll(".line")];
    let at = 0;
    const point = n => {
      own[at].classList.remove("cursor");
      at = Math.max(0, Math.min(own.length - 1, n));
      own[at].classList.add("cursor");
      own[at].scrollIntoView({ block: "nearest" });
    };
    const open = () => { const item = nodeOf(own[at].dataset.at); if (item) { choose(item, "graph"); } };
    file.addEventListener("click", event => {
      const line = event.target.closest(".line");
      if (line && !String(getSelection())) { at = own.indexOf(line); open(); }
    });
    file.addEventListener("keydown", event => {
      if (event.key === "ArrowDown") point(at + 1);
      else if (event.key === "ArrowUp") point(at - 1);
      else if (event.key === "Enter") open();
      else return;
      event.preventDefault();
    });
  }

  const find = document.getElementById("find"), found = document.getElementById("found");
  let matches = [], next = 0;
  find.addEventListener("input", () => {
    const word = find.value.trim().toLowerCase();
    for (const item of items) item.classList.remove("match");
    matches = word ? items.filter(i => `${i.dataset.address} ${row(i).textContent}`.toLowerCase().includes(word)) : [];
    next = 0;
    for (const item of matches) item.classList.add("match");
    found.textContent = word ? `${matches.length} found${matches.length ? ", Enter goes to the next" : ""}` : "";
  });
  find.addEventListener("keydown", event => {
    if (event.key === "Enter" && matches.length) choose(matches[next++ % matches.length], true);
  });
  document.addEventListener("keydown", event => {
    if (event.key === "/" && document.activeElement !== find) { find.focus(); event.preventDefault(); }
  });
  const all = open => { for (const item of items) fold(item, open); draw(); };
  document.getElementById("fold").addEventListener("click", () => all(false));
  document.getElementById("unfold").addEventListener("click", () => all(true));
  document.getElementById("figure").addEventListener("toggle", draw);
  for (const box of document.querySelectorAll("#figure rect.node"))
    box.addEventListener("click", () => { const to = boxOf(box.dataset.address); if (to) choose(to, true); });

  const named = () => {
    const asked = /^#node=(.*)$/.exec(location.hash);
    let address = "";
    try { address = asked ? decodeURIComponent(asked[1]) : ""; } catch { /* no address */ }
    if (byAddress.has(address)) choose(byAddress.get(address), true, true);
  };
  for (const item of items) item.tabIndex = -1;
  if (items.length) items[0].tabIndex = 0;
  addEventListener("hashchange", named);
  addEventListener("resize", draw);
  draw();
  named();
})();
